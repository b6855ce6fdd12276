/**
 * Takeover: how long after its process was killed (SIGKILL) a run's step begins in another one. `takeover`: the dead process was on another
 * host, so that only its lease tells. `restart`: a new process starts on the same host, and proves the old one dead.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { type Figure, figure, percentile } from '../report.ts';
import type { BenchDatabase, World } from '../world.ts';
import { fresh, onFresh, openBed } from './bed.ts';
import { nextMessage } from './child.ts';

const ROUNDS = 3;
const VICTIMS = 6;
const RUNS_EACH = 10;
/** Deaths at every distance from the last heartbeat and to the next sweep. */
const BETWEEN_DEATHS_MS = 430;
const RESTARTS = 5;

export function takeover(world: World): Promise<Figure[]> {
  return onFresh(world.database(), async (database) => {
    const bed = await openBed(database.url, { slots: VICTIMS * RUNS_EACH });
    const children: ChildProcess[] = [];
    try {
      await bed.engine.work();
      const rounds: number[][] = [];
      for (let round = 0; round < ROUNDS; round += 1) {
        const held: number[][] = [];
        for (let victim = 0; victim < VICTIMS; victim += 1) {
          const numbers = Array.from({ length: RUNS_EACH }, fresh);
          held.push(numbers);
          children.push(await holding(database, numbers, 'elsewhere'));
        }
        const taken: Promise<number>[] = [];
        for (const numbers of held) {
          const reached = numbers.map((n) => bed.marks.reached(n));
          await killed(children.shift());
          const killedAt = performance.now();
          taken.push(...reached.map(async (at) => (await at) - killedAt));
          await pause(BETWEEN_DEATHS_MS);
        }
        rounds.push(await Promise.all(taken));
        await bed.settled();
      }
      const of = (share: number): number[] => rounds.map((taken) => percentile(taken, share));
      const within = (shares: readonly number[], mostMs: number) => ({
        words: `<= ${mostMs / 1_000} s in every round`,
        met: () => shares.every((ms) => ms <= mostMs),
      });
      return [
        figure({ name: 'takeover-p50', unit: 'ms', rounds: of(0.5), target: within(of(0.5), 10_000) }),
        figure({ name: 'takeover-p99', unit: 'ms', rounds: of(0.99), target: within(of(0.99), 20_000) }),
      ];
    } finally {
      for (const child of children) await killed(child);
      await bed.close();
    }
  });
}

export function restart(world: World): Promise<Figure> {
  return onFresh(world.database(), async (database) => {
    const rounds: number[] = [];
    for (let round = 0; round < RESTARTS; round += 1) {
      const numbers = Array.from({ length: RUNS_EACH }, fresh);
      const held = await holding(database, numbers);
      await killed(held);
      const killedAt = performance.now();
      const next = start(database, numbers, 'continue');
      try {
        await nextMessage(next);
        rounds.push(performance.now() - killedAt);
        const exited = once(next, 'exit');
        next.disconnect();
        await exited;
      } finally {
        await killed(next);
      }
    }
    return figure({
      name: 'restart',
      unit: 'ms',
      rounds,
      target: { words: '<= 3 s every time', met: () => rounds.every((ms) => ms <= 3_000) },
    });
  });
}

/** A process in the step of each of these runs; with `host`, one that nobody here can look at. */
async function holding(
  database: BenchDatabase,
  numbers: readonly number[],
  host?: string,
): Promise<ChildProcess> {
  const child = start(database, numbers, 'hold');
  const workerId = await nextMessage(child);
  if (host !== undefined)
    await database.ask('update workers set host_key = $1 where worker_id = $2', [host, workerId]);
  return child;
}

function start(database: BenchDatabase, numbers: readonly number[], role: 'hold' | 'continue'): ChildProcess {
  return fork(path.join(import.meta.dirname, 'takeover-child.ts'), [database.url, numbers.join(','), role]);
}

async function killed(child: ChildProcess | undefined): Promise<void> {
  if (!child || child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
}
