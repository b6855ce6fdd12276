/**
 * An engine in a process of its own, so that its memory, timers and connections can be looked at. Run by waiting.ts with the database's
 * URL and the name of its connections; answers each message with one.
 */
import { openBed } from './bed.ts';

export type Request =
  | { readonly ask: 'wake'; readonly numbers: readonly number[] }
  | { readonly ask: 'weigh' };

/** `takenMs` answers `wake`, the rest `weigh`. */
export interface Answer {
  readonly takenMs: readonly number[];
  /** After a garbage collection. */
  readonly residentBytes: number;
  /** What is reachable: the part of the memory that would grow with every waiting run if something held it. */
  readonly heapBytes: number;
  readonly timers: number;
}

const [url, name] = process.argv.slice(2);
if (url === undefined || name === undefined) throw new Error('a URL and a name are needed');
const bed = await openBed(url, { name });
await bed.engine.work();
process.on('message', (request: Request) => {
  answer(request).then(
    (given) => process.send?.(given),
    (error: unknown) => {
      process.stderr.write(`${String(error)}\n`);
      process.exit(1);
    },
  );
});
// The parent is gone or has had enough.
process.on('disconnect', () => void bed.close().finally(() => process.exit(0)));
process.send?.('ready');

async function answer(request: Request): Promise<Answer> {
  const takenMs: number[] = [];
  if (request.ask === 'wake')
    for (const n of request.numbers) {
      takenMs.push(await bed.wake(n));
      await bed.engine.idle();
    }
  else {
    await bed.engine.idle();
    for (let times = 0; times < 3; times += 1) globalThis.gc?.();
  }
  return {
    takenMs,
    residentBytes: process.memoryUsage.rss(),
    heapBytes: process.memoryUsage().heapUsed,
    timers: process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length,
  };
}
