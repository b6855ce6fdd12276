/**
 * Long runs: whether the thousandth step costs what the first did, and what a thousand journaled steps add to a wake-up.
 */
import { openFloor } from '../floor.ts';
import { type Figure, figure, mean, median } from '../report.ts';
import type { World } from '../world.ts';
import { type Bed, fresh, onFresh, openBed } from './bed.ts';

const ROUNDS = 5;
const STEPS = 1_000;
const PER_ROUND = 3;

/** Mean of the last hundred steps over that of the first hundred, of one run that has the engine for itself. */
export function flatCost(world: World): Promise<Figure> {
  return onFresh(world.database(), async (database) => {
    const floor = await openFloor(database.url, 2);
    const bed = await openBed(database.url);
    try {
      await bed.engine.work();
      await floor.stepTimes(STEPS);
      await stepTimes(bed);
      await database.analyze();
      const rounds: number[] = [];
      const floorRounds: number[] = [];
      for (let round = 0; round < ROUNDS; round += 1) {
        floorRounds.push(lastOverFirst(await floor.stepTimes(STEPS)));
        rounds.push(lastOverFirst(await stepTimes(bed)));
      }
      return figure({
        name: 'flat-step-cost',
        unit: 'x',
        rounds,
        floorRounds,
        target: { words: '<= 1.25 (steps 901-1000 over 1-100)', met: (value) => value <= 1.25 },
      });
    } finally {
      await bed.close();
      await floor.close();
    }
  });
}

async function stepTimes(bed: Bed): Promise<number[]> {
  const all = Promise.withResolvers<void>();
  const at: number[] = [];
  const forget = bed.marks.onEnd(() => {
    at.push(performance.now());
    if (at.length === STEPS) all.resolve();
  });
  await bed.start('thousand-steps', fresh());
  await all.promise;
  forget();
  await bed.settled();
  return at.slice(1).map((time, n) => time - (at[n] ?? time));
}

function lastOverFirst(times: readonly number[]): number {
  return mean(times.slice(-100)) / mean(times.slice(0, 100));
}

/** From the emit to the next step's body with a thousand journaled steps, less the same with one. */
export function resume(world: World): Promise<Figure> {
  return onFresh(world.database(), async (database) => {
    const bed = await openBed(database.url);
    try {
      await bed.engine.work();
      const runs = (ROUNDS + 1) * PER_ROUND;
      const long = Array.from({ length: runs }, fresh);
      const short = Array.from({ length: runs }, fresh);
      await bed.startMany('wakes-after-thousand', long);
      await bed.startMany('wakes-after-one', short);
      await bed.settled();
      await database.analyze();
      const wakeAll = async (numbers: readonly number[]): Promise<number> => {
        const taken: number[] = [];
        for (const n of numbers) {
          taken.push(await bed.wake(n));
          await bed.engine.idle();
        }
        return median(taken);
      };
      const rounds: number[] = [];
      for (let round = 0; round <= ROUNDS; round += 1) {
        const shortMs = await wakeAll(short.splice(0, PER_ROUND));
        const extraMs = (await wakeAll(long.splice(0, PER_ROUND))) - shortMs;
        // The first round warms up.
        if (round > 0) rounds.push(extraMs);
      }
      return figure({
        name: 'resume-1000',
        unit: 'ms',
        rounds,
        target: { words: '<= 50 ms', met: (value) => value <= 50 },
      });
    } finally {
      await bed.close();
    }
  });
}
