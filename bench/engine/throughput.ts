/**
 * Throughput: runs of ten steps, ten at a time, in steps per second. Two variants: started while others are worked (the main one), and a
 * backlog that was started before the engine works.
 *
 * Invariant: a round counts only when every run completed, every step is journaled, and Postgres counted at least as many commits.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { openFloor } from '../floor.ts';
import { type Figure, figure } from '../report.ts';
import { type BenchDatabase, SetupRefused, type World } from '../world.ts';
import { type Bed, fresh, onFresh, openBed, SLOTS } from './bed.ts';

const STEPS = 10;
const RUNS = 250;
const WARM_UP_RUNS = 150;
const ROUNDS = 9;
/** A backend tells its statistics about once a second, and when it has been idle. */
const STATISTICS_MS = 15_000;

export function throughput(world: World): Promise<Figure> {
  return onFresh(world.database(), async (database) => {
    const floor = await openFloor(database.url, SLOTS);
    // A run is started while the end of another is being written: both have a slot.
    const bed = await openBed(database.url, { slots: 2 * SLOTS });
    try {
      await bed.engine.work();
      await floor.throughput(WARM_UP_RUNS, STEPS);
      await closedLoop(bed, WARM_UP_RUNS);
      await bed.settled();
      await database.analyze();

      const rounds: number[] = [];
      const floorRounds: number[] = [];
      for (let round = 0; round < ROUNDS; round += 1) {
        floorRounds.push(await floor.throughput(RUNS, STEPS));
        const before = await counted(database);
        rounds.push(await closedLoop(bed, RUNS));
        await bed.settled();
        await refuseUncounted(database, before, RUNS);
      }
      return figure({
        name: 'throughput',
        unit: 'steps/s',
        rounds,
        floorRounds,
        target: { words: '>= 0.75 of floor', met: (_, ratio) => ratio >= 0.75 },
      });
    } finally {
      await bed.close();
      await floor.close();
    }
  });
}

export function backlog(world: World): Promise<Figure> {
  return onFresh(world.database(), async (database) => {
    const floor = await openFloor(database.url, SLOTS);
    try {
      const rounds: number[] = [];
      const floorRounds: number[] = [];
      for (let round = -1; round < 5; round += 1) {
        const atFloor = await floor.backlog(RUNS, STEPS);
        const bed = await openBed(database.url);
        try {
          for (let started = 0; started < RUNS; started += 50)
            await bed.startMany('ten-steps', Array.from({ length: 50 }, fresh));
          await database.analyze();
          const drained = await drain(bed, RUNS);
          // The first round warms up.
          if (round < 0) continue;
          floorRounds.push(atFloor);
          rounds.push(drained);
        } finally {
          await bed.close();
        }
      }
      return figure({ name: 'backlog', unit: 'steps/s', rounds, floorRounds });
    } finally {
      await floor.close();
    }
  });
}

/** Keeps `SLOTS` runs in flight until `runs` were worked: one is started when the body of another has returned. */
async function closedLoop(bed: Bed, runs: number): Promise<number> {
  const all = Promise.withResolvers<void>();
  let started = 0;
  let ended = 0;
  const startNext = (): void => {
    if (started >= runs) return;
    started += 1;
    bed.start('ten-steps', fresh()).catch(all.reject);
  };
  const forget = bed.marks.onEnd(() => {
    ended += 1;
    if (ended === runs) all.resolve();
    else startNext();
  });
  const startedAt = performance.now();
  for (let n = 0; n < SLOTS; n += 1) startNext();
  await all.promise;
  await bed.engine.idle();
  const elapsedMs = performance.now() - startedAt;
  forget();
  return (runs * STEPS * 1_000) / elapsedMs;
}

async function drain(bed: Bed, runs: number): Promise<number> {
  const all = Promise.withResolvers<void>();
  let ended = 0;
  const forget = bed.marks.onEnd(() => {
    ended += 1;
    if (ended === runs) all.resolve();
  });
  const startedAt = performance.now();
  await bed.engine.work();
  await all.promise;
  await bed.engine.idle();
  const elapsedMs = performance.now() - startedAt;
  forget();
  return (runs * STEPS * 1_000) / elapsedMs;
}

interface Counted {
  commits: number;
  completed: number;
  steps: number;
}

async function counted(database: BenchDatabase): Promise<Counted> {
  const [row] = await database.ask<{ commits: string; completed: string; steps: string }>(
    `select (select xact_commit from pg_stat_database where datname = current_database()) as commits,
       (select count(*) from runs where status = 'completed') as completed,
       (select count(*) from steps) as steps`,
  );
  return {
    commits: Number(row?.commits),
    completed: Number(row?.completed),
    steps: Number(row?.steps),
  };
}

/** One commit per journaled step at least: anything less would mean that steps resolved before they were on disk. */
async function refuseUncounted(database: BenchDatabase, before: Counted, runs: number): Promise<void> {
  const deadline = performance.now() + STATISTICS_MS;
  for (;;) {
    const after = await counted(database);
    const completed = after.completed - before.completed;
    const steps = after.steps - before.steps;
    if (completed !== runs || steps !== runs * STEPS)
      throw new SetupRefused(`a round completed ${completed} of ${runs} runs with ${steps} steps`);
    const commits = after.commits - before.commits;
    if (commits >= steps) return;
    if (performance.now() > deadline)
      throw new SetupRefused(`Postgres counted ${commits} commits for ${steps} steps`);
    await pause(100);
  }
}
