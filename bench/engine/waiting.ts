/**
 * Ten thousand waiting runs: what they hold in a process that could wake any of them, and whether waking one costs more than waking the
 * only one.
 *
 * Two databases side by side, each with an engine in a process of its own: in one nothing waits but what is about to be woken.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { type Figure, figure, median } from '../report.ts';
import { type BenchDatabase, SetupRefused, type World } from '../world.ts';
import { type Bed, fresh, onFresh, openBed } from './bed.ts';
import { nextMessage } from './child.ts';
import type { Answer, Request } from './waiting-child.ts';

const WAITING = 10_000;
const WARM_UP_WAKES = 300;
/**
 * Runs that come and go before the first weighing: traffic alone makes V8 keep about 70 MB more, whether or not anything waits afterwards,
 * and that is not what waiting costs.
 */
const WARM_UP_RUNS = 3_000;
const BATCH = 250;
const ROUNDS = 5;
const WAKES = 30;
const MOST_GROWTH_MB = 50;
/** A kilobyte a run. */
const MOST_HELD_MB = 10;
/** Timers of connections that happen to be idle, and of a batch about to be discarded, come and go. */
const TIMER_SLACK = 2;
const WORKFLOW = 'wakes-at-once';

export function waiting(world: World): Promise<Figure[]> {
  return onFresh(world.database(), (few) =>
    onFresh(world.database(), async (many) => {
      const fewSide = await openSide(few, 'countersign-bench-few');
      const manySide = await openSide(many, 'countersign-bench-many');
      try {
        for (const side of [fewSide, manySide]) await warmUp(side);
        const before = await weigh(manySide);
        const numbers = await park(manySide, WAITING);
        await many.analyze();
        await few.analyze();
        // Three readings of one state.
        const after = [await weigh(manySide), await weigh(manySide), await weigh(manySide)];

        const fewRounds: number[] = [];
        const manyRounds: number[] = [];
        for (let round = 0; round < ROUNDS; round += 1) {
          const one: number[] = [];
          for (let n = 0; n < WAKES; n += 1) one.push(...(await wake(fewSide, await park(fewSide, 1))));
          fewRounds.push(median(one));
          const spread = WAITING / (ROUNDS * WAKES);
          const chosen = Array.from(
            { length: WAKES },
            (_, n) => numbers[Math.floor((round * WAKES + n) * spread)] ?? 0,
          );
          manyRounds.push(median(await wake(manySide, chosen)));
        }
        const [left] = await many.ask<{ waiting: number }>(
          `select count(*)::int as waiting from runs where status = 'waiting'`,
        );
        if (left?.waiting !== WAITING - ROUNDS * WAKES)
          throw new SetupRefused(`${left?.waiting} runs waited at the end`);

        const grown = (of: (weight: Weight) => number): number[] => after.map((one) => of(one) - of(before));
        const noise = (Math.max(...fewRounds) - Math.min(...fewRounds)) / (2 * median(fewRounds));
        return [
          figure({
            name: 'waiting-memory-growth',
            unit: 'MB',
            rounds: grown(({ residentBytes }) => residentBytes / 1024 / 1024),
            target: { words: `< ${MOST_GROWTH_MB} MB`, met: (value) => value < MOST_GROWTH_MB },
          }),
          figure({
            name: 'waiting-heap-growth',
            unit: 'MB',
            rounds: grown(({ heapBytes }) => heapBytes / 1024 / 1024),
            target: { words: `< ${MOST_HELD_MB} MB`, met: (value) => value < MOST_HELD_MB },
          }),
          figure({
            name: 'waiting-connection-growth',
            unit: 'connections',
            rounds: grown(({ connections }) => connections),
            target: { words: '<= 0', met: (value) => value <= 0 },
          }),
          figure({
            name: 'waiting-timer-growth',
            unit: 'timers',
            rounds: grown(({ timers }) => timers),
            target: { words: `<= ${TIMER_SLACK}`, met: (value) => value <= TIMER_SLACK },
          }),
          figure({
            name: 'waiting-wake-p50',
            unit: 'ms',
            rounds: manyRounds,
            floorRounds: fewRounds,
            target: {
              words: `<= ${(1.25 + noise).toFixed(2)} of waking the only one (1.25 + half its own range)`,
              met: (_, ratio) => ratio <= 1.25 + noise,
            },
          }),
        ];
      } finally {
        await manySide.close();
        await fewSide.close();
      }
    }),
  );
}

/** A database, an engine on it that works in a process of its own, and one here that only starts runs. */
interface Side {
  readonly database: BenchDatabase;
  readonly starter: Bed;
  readonly name: string;
  ask(request: Request): Promise<Answer>;
  close(): Promise<void>;
}

async function openSide(database: BenchDatabase, name: string): Promise<Side> {
  const child = fork(path.join(import.meta.dirname, 'waiting-child.ts'), [database.url, name], {
    execArgv: ['--expose-gc'],
  });
  await nextMessage(child);
  const starter = await openBed(database.url, { name: `${name}-starter` });
  return {
    database,
    starter,
    name,
    async ask(request) {
      child.send(request);
      return (await nextMessage(child)) as Answer;
    },
    async close() {
      await starter.close();
      if (child.exitCode !== null) return;
      const exited = once(child, 'exit');
      child.disconnect();
      await exited;
    },
  };
}

/** Resolves when all of them wait, with what `wake` knows them by. */
async function park(side: Side, count: number): Promise<number[]> {
  const numbers = Array.from({ length: count }, fresh);
  for (let done = 0; done < count; done += BATCH)
    await side.starter.startMany(WORKFLOW, numbers.slice(done, done + BATCH));
  await side.starter.settled();
  return numbers;
}

async function wake(side: Side, numbers: readonly number[]): Promise<readonly number[]> {
  return (await side.ask({ ask: 'wake', numbers })).takenMs;
}

async function warmUp(side: Side): Promise<void> {
  for (let done = 0; done < WARM_UP_RUNS; done += BATCH)
    await side.starter.startMany('one-step', Array.from({ length: BATCH }, fresh));
  await side.starter.settled();
  await wake(side, await park(side, WARM_UP_WAKES));
  await side.starter.settled();
}

interface Weight extends Answer {
  readonly connections: number;
}

async function weigh(side: Side): Promise<Weight> {
  const answer = await side.ask({ ask: 'weigh' });
  const [row] = await side.database.ask<{ connections: number }>(
    'select count(*)::int as connections from pg_stat_activity where application_name = $1',
    [side.name],
  );
  return { ...answer, connections: row?.connections ?? Number.NaN };
}
