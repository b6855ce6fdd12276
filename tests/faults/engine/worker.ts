/**
 * A process of the crash matrix: an engine that carries the reference workflow under the names it is told, and that ends itself by
 * SIGKILL at the point it is told, after saying so.
 */
import { writeSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import { connectDatabase } from '../../../src/jobs/engine/db.ts';
import { openEngine } from '../../../src/jobs/engine/engine.ts';
import { createLogger } from '../../../src/log.ts';
import { watchRecords } from './records.ts';
import { type MeetingPoint, reference } from './reference.ts';

/** In the environment variable MATRIX, as JSON. */
export interface Orders {
  readonly databaseUrl: string;
  readonly outsideUrl: string;
  readonly workflows: readonly string[];
  /** Where it ends itself. Without, it lives. */
  readonly death?: Death;
}

export interface Death {
  /** In the journal. */
  readonly path: string;
  /**
   * In the body, `before` its effect or after it (`after-effect`); or at the statement that puts the path into the journal: `sending`, `sent`
   * but not committed, or `committed`.
   */
  readonly at: MeetingPoint | 'sending' | 'sent' | 'committed';
}

const orders = JSON.parse(process.env.MATRIX ?? '') as Orders;
const { death } = orders;

function dieIf(at: Death['at'], path: string): Promise<void> {
  if (death?.at !== at || death.path !== path) return Promise.resolve();
  writeSync(1, `died at ${at} ${path}\n`);
  process.kill(process.pid, 'SIGKILL');
  return new Promise(() => undefined);
}

const database = connectDatabase({
  url: orders.databaseUrl,
  log: createLogger({ level: 'silent' }),
  maxConnections: 4,
  name: 'matrix-worker',
});
const engine = await openEngine({
  database:
    death === undefined
      ? database
      : watchRecords(database, {
          path: death.path,
          onSending: () => dieIf('sending', death.path),
          onSent: () => dieIf('sent', death.path),
          onCommitted: () => dieIf('committed', death.path),
        }),
  log: createLogger({ level: process.env.TEST_LOG ?? 'silent' }),
  workflows: orders.workflows.flatMap((name) =>
    reference(name, { outsideUrl: orders.outsideUrl, meet: dieIf }),
  ),
});
// The next process starts in half the time, however this one ends.
flushCompileCache();
await engine.work();
process.send?.('working');

async function end(): Promise<void> {
  await engine.stop(1_000);
  await database.close();
  process.disconnect?.();
}
process.on('SIGTERM', () => void end());
// The channel closes with the test's process, however that ended.
process.on('disconnect', () => process.exit());
