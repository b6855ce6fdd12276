/**
 * One worker process of a chaos run: an engine with the story's workflows, which may be killed, stopped and continued at any time. What
 * it is asked over its channel it does beside its work.
 *
 * Invariant: it ends only when it is asked to (SIGTERM), when its supervisor is gone, or when a signal kills it; a database that is away
 * is waited for. Anything else that ends it is a defect.
 */
import { flushCompileCache } from 'node:module';
import { setTimeout as pause } from 'node:timers/promises';
import { connectDatabase } from '../../src/jobs/engine/db.ts';
import { type Engine, openEngine } from '../../src/jobs/engine/engine.ts';
import { createLogger } from '../../src/log.ts';
import { type Asked, answerOf } from './ask.ts';
import { storyWorkflows } from './story.ts';

const RETRY_MS = 100;

const { CHAOS_DATABASE_URL: url, CHAOS_OUTSIDE_URL: outsideUrl } = process.env;
if (!url || !outsideUrl || !process.send)
  throw new Error('started by the supervisor only, see tests/chaos/main.ts');

const log = createLogger({ level: 'warn' });
const database = connectDatabase({ url, log, name: 'chaos-worker' });
let engine: Engine | undefined;
let ending = false;

async function end(): Promise<void> {
  if (ending) return;
  ending = true;
  await engine?.stop(5_000);
  await database.close();
  process.disconnect?.();
}
process.on('SIGTERM', () => void end());
process.on('message', (asked: Asked) => {
  void answerOf(database, ending ? undefined : engine, asked).then((answered) => {
    // Whoever asked may be gone, and does it again if not.
    if (process.connected) process.send?.(answered, () => undefined);
  });
});
// The channel closes with the supervisor, however that ended.
process.on('disconnect', () => process.exit(ending ? 0 : 1));

while (!ending && !engine) {
  let opened: Engine | undefined;
  try {
    opened = await openEngine({ database, log, workflows: storyWorkflows(outsideUrl) });
    await opened.work();
    engine = opened;
  } catch (error) {
    log.warn({ err: error instanceof Error ? error.message : String(error) }, 'engine not opened');
    await opened?.stop(0);
    await pause(RETRY_MS);
  }
}
process.send('working');
// A killed process leaves no cache behind; with one the next starts in half the time.
flushCompileCache();
