/**
 * How long a run at rest needs until its next step: after an event, after its start. One at a time, on an engine that has nothing else to
 * do: what a person who clicked waits for.
 */
import { openFloor } from '../floor.ts';
import { type Figure, figure, percentile } from '../report.ts';
import type { World } from '../world.ts';
import { type Bed, fresh, onFresh, openBed } from './bed.ts';

const ROUNDS = 5;
const SAMPLES = 80;
const WARM_UP = 80;

/** From before the emitting transaction begins until the body of the parked run's next step. */
export async function eventWake(world: World): Promise<Figure[]> {
  const samples = await sample(
    world,
    async (bed) => {
      const numbers = Array.from({ length: SAMPLES }, fresh);
      await bed.startMany('wakes-after-one', numbers);
      await bed.settled();
      return numbers;
    },
    (bed, n) => bed.wake(n),
    (floor) => floor.wake(),
  );
  return [atShare('event-wake-p50', samples, 0.5, 5), atShare('event-wake-p95', samples, 0.95, 8)];
}

/** From before the starting transaction begins until the body of the run's first step. */
export async function enqueue(world: World): Promise<Figure[]> {
  const samples = await sample(
    world,
    async () => Array.from({ length: SAMPLES }, fresh),
    async (bed, n) => {
      const reached = bed.marks.reached(n);
      const startedAt = performance.now();
      await bed.start('one-step', n);
      return (await reached) - startedAt;
    },
    (floor) => floor.enqueue(),
  );
  return [atShare('enqueue-p50', samples, 0.5, 5)];
}

interface Samples {
  readonly engine: readonly (readonly number[])[];
  readonly floor: readonly (readonly number[])[];
}

function sample(
  world: World,
  prepare: (bed: Bed) => Promise<number[]>,
  one: (bed: Bed, n: number) => Promise<number>,
  oneOfFloor: (floor: Awaited<ReturnType<typeof openFloor>>) => Promise<number>,
): Promise<Samples> {
  return onFresh(world.database(), async (database) => {
    const floor = await openFloor(database.url, 2);
    const bed = await openBed(database.url);
    try {
      await bed.engine.work();
      const engineRound = async (): Promise<number[]> => {
        const taken: number[] = [];
        for (const n of await prepare(bed)) {
          taken.push(await one(bed, n));
          await bed.engine.idle();
        }
        return taken;
      };
      const floorRound = async (count: number): Promise<number[]> => {
        const taken: number[] = [];
        for (let n = 0; n < count; n += 1) taken.push(await oneOfFloor(floor));
        return taken;
      };
      await floorRound(WARM_UP);
      await engineRound();
      await database.analyze();

      const engineRounds: number[][] = [];
      const floorRounds: number[][] = [];
      for (let round = 0; round < ROUNDS; round += 1) {
        floorRounds.push(await floorRound(SAMPLES));
        engineRounds.push(await engineRound());
      }
      return { engine: engineRounds, floor: floorRounds };
    } finally {
      await bed.close();
      await floor.close();
    }
  });
}

function atShare(name: string, samples: Samples, share: number, atMostMs: number): Figure {
  return figure({
    name,
    unit: 'ms',
    rounds: samples.engine.map((round) => percentile(round, share)),
    floorRounds: samples.floor.map((round) => percentile(round, share)),
    target: { words: `<= ${atMostMs} ms`, met: (value) => value <= atMostMs },
  });
}
