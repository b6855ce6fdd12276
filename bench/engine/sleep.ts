/**
 * Sleeps: how late after its deadline a sleeping run's next step begins.
 */
import { type Figure, figure, percentile } from '../report.ts';
import { type BenchDatabase, SetupRefused, type World } from '../world.ts';
import { onFresh, openBed } from './bed.ts';

const ROUNDS = 3;
const SLEEPS = 40;
const SHORTEST_MS = 200;
const LONGEST_MS = 3_000;
/** Deadlines are database time, bodies read the process's clock; their distance is known to about this. */
const CLOCKS_MS = 10;

export function sleeps(world: World): Promise<Figure> {
  return onFresh(world.database(), async (database) => {
    const bed = await openBed(database.url);
    try {
      await bed.engine.work();
      const rounds: number[] = [];
      const seen = new Set<string>();
      for (let round = 0; round < ROUNDS; round += 1) {
        const stepMs = (LONGEST_MS - SHORTEST_MS) / (SLEEPS - 1);
        await bed.startMany(
          'sleeps',
          Array.from({ length: SLEEPS }, (_, n) => Math.round(SHORTEST_MS + n * stepMs)),
        );
        await settledAwake(bed, database, (round + 1) * SLEEPS);
        const late = (await lateness(database, await databaseAheadMs(database))).filter(
          ({ runId }) => !seen.has(runId),
        );
        for (const { runId } of late) seen.add(runId);
        const early = late.filter(({ lateMs }) => lateMs < -CLOCKS_MS);
        if (early.length > 0) throw new SetupRefused(`${early.length} sleeps ended before they were due`);
        rounds.push(
          percentile(
            late.map(({ lateMs }) => lateMs),
            0.95,
          ),
        );
      }
      return figure({
        name: 'sleep-wake-p95',
        unit: 'ms',
        rounds,
        target: { words: '<= 250 ms', met: (value) => value <= 250 },
      });
    } finally {
      await bed.close();
    }
  });
}

/** Sleeping runs are neither queued nor running, so `settled` alone would be content at once. */
async function settledAwake(
  bed: Awaited<ReturnType<typeof openBed>>,
  database: BenchDatabase,
  awake: number,
): Promise<void> {
  const deadline = performance.now() + LONGEST_MS * 10;
  for (;;) {
    await bed.settled();
    const [row] = await database.ask<{ awake: number }>(
      `select count(*)::int as awake from runs where status = 'completed'`,
    );
    if (row?.awake === awake) return;
    if (performance.now() > deadline) throw new SetupRefused(`${row?.awake} of ${awake} sleeps ended`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function lateness(
  database: BenchDatabase,
  aheadMs: number,
): Promise<{ runId: string; lateMs: number }[]> {
  const rows = await database.ask<{ run_id: string; at: number; due: number }>(
    `select s.run_id, (s.result ->> 'at')::float8 as at, extract(epoch from w.deadline_at)::float8 * 1000 as due
     from steps s join waits w on w.workspace_id = s.workspace_id and w.run_id = s.run_id
     where s.path = 'awake' and w.path = 'nap'`,
  );
  return rows.map((row) => ({ runId: row.run_id, lateMs: row.at + aheadMs - row.due }));
}

/** By how much the database's clock is ahead of this process's, from the quickest of some questions. */
async function databaseAheadMs(database: BenchDatabase): Promise<number> {
  let best = { tookMs: Number.POSITIVE_INFINITY, aheadMs: 0 };
  for (let n = 0; n < 10; n += 1) {
    const askedAt = Date.now();
    const [row] = await database.ask<{ now: number }>(
      'select extract(epoch from db_now())::float8 * 1000 as now',
    );
    const answeredAt = Date.now();
    const tookMs = answeredAt - askedAt;
    if (tookMs < best.tookMs)
      best = { tookMs, aheadMs: (row?.now ?? answeredAt) - (askedAt + answeredAt) / 2 };
  }
  return best.aheadMs;
}
