/**
 * A worker in a process of its own, which its parent kills. Run by takeover.ts with the database's URL and the numbers of the runs: it starts
 * them and holds each in its step, or, with `continue` after them, works what another left and tells when it is there.
 */
import { openBed } from './bed.ts';

const [url, list, role] = process.argv.slice(2);
if (url === undefined || list === undefined) throw new Error('a URL and numbers are needed');
const numbers = list.split(',').map(Number);
const bed = await openBed(url, { slots: numbers.length });
bed.marks.holding = role !== 'continue';
const reached = Promise.all(numbers.map((n) => bed.marks.reached(n)));
// The parent is gone or has had enough. What was continued is brought to its end, or the next one would find it.
process.on(
  'disconnect',
  () => void (bed.marks.holding ? Promise.resolve() : bed.settled()).finally(() => process.exit(0)),
);
await bed.engine.work();
if (bed.marks.holding) for (const n of numbers) await bed.start('holds', n);
await reached;
process.send?.(bed.engine.workerId);
