/**
 * Guarantee: a process that works is known to the others for as long as it lives, whatever happens to its row; and it ends in all
 * its parts, also when the database is away or it never got to start.
 */
import { expect, test, vi } from 'vitest';
import type { Database } from '../../src/jobs/engine/db.ts';
import { until, useDatabase } from '../support/database.ts';
import { define, useEngines, watched } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun } = useEngines(base);
const flow = define(async () => 1);
const workerRows = async (workerId: string) =>
  (
    await base.db.query<{ pid: number; live: boolean; host_key: string | null }>({
      text: 'select pid, host_key, lease_until > db_now() as live from workers where worker_id = $1',
      values: [workerId],
    })
  ).rows;

test('a heartbeat restores a row that was deleted', async () => {
  const engine = await engineWith([flow]);
  await engine.work();
  const before = await workerRows(engine.workerId);
  await base.db.query({ text: 'delete from workers where worker_id = $1', values: [engine.workerId] });

  await until('the row to be back', async () => (await workerRows(engine.workerId)).length > 0);

  expect(await workerRows(engine.workerId)).toEqual(before);
  expect(before).toMatchObject([{ pid: process.pid, live: true }]);
});

test('a sweep does not delete the row of its own process, however late the heartbeat', async () => {
  let late = false;
  let sweep: 'due' | 'deleted' | 'over' | undefined;
  const database = watched(base.db, async ({ name, text }) => {
    if (late && name === 'worker_heartbeat') throw new Error('too late');
    if (sweep === 'due' && text.startsWith('delete from workers w ')) sweep = 'deleted';
    // The statement after the deletion in the same sweep.
    if (sweep === 'deleted' && name === 'waits_next') sweep = 'over';
  });
  const engine = await engineWith([flow], { database });
  await engine.work();
  late = true;
  await base.db.query({
    text: `update workers set lease_until = db_now() - interval '2 hours' where worker_id = $1`,
    values: [engine.workerId],
  });
  sweep = 'due';

  await until('a sweep after that', async () => sweep === 'over');

  expect(await workerRows(engine.workerId)).toHaveLength(1);
});

test('stopping while the database is away ends every part and does not fail', async () => {
  let away = false;
  const refuse = () => Promise.reject(new Error('the database is away'));
  const database: Database = {
    ...base.db,
    query: (statement) => (away ? refuse() : base.db.query(statement)),
    transaction: (body) => (away ? refuse() : base.db.transaction(body)),
  };
  const entered = Promise.withResolvers<void>();
  const held = define((step) =>
    step.run('hold', () => {
      entered.resolve();
      return new Promise(() => undefined);
    }),
  );
  const engine = await engineWith([held], { database });
  await engine.work();
  await startRun(engine, held);
  await entered.promise;
  away = true;

  // At once: the run is still held, its wake-up not yet discarded.
  await engine.stop(0);

  await until('the listening connection to be gone', async () => {
    const { rows } = await base.db.query({
      text: `select 1 from pg_stat_activity where datname = current_database() and query like 'listen %'`,
    });
    return rows.length === 0;
  });
});

test('a start that fails leaves no timer and no row behind', async () => {
  const database = watched(base.db, async ({ name }) => {
    if (name === 'runs_own') throw new Error('not now');
  });
  const engine = await engineWith([flow], { database });
  const set = vi.spyOn(globalThis, 'setInterval');
  const cleared = vi.spyOn(globalThis, 'clearInterval');

  try {
    await expect(engine.work()).rejects.toThrow('not now');

    const started = set.mock.results.map((result) => result.value);
    expect(started.length).toBeGreaterThan(0);
    for (const interval of started) expect(cleared).toHaveBeenCalledWith(interval);
    expect(await workerRows(engine.workerId)).toEqual([]);
  } finally {
    set.mockRestore();
    cleared.mockRestore();
  }
});
