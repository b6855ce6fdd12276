/**
 * Guarantee: a process with a free slot works what it starts and wakes by itself, without the queue and without a notification; what it
 * has no slot for is told to everybody. Whatever becomes of the starting transaction or process, no slot and no run is lost.
 */
import { randomUUIDv7 } from 'node:crypto';
import { expect, test } from 'vitest';
import type { Engine } from '../../src/jobs/engine/engine.ts';
import { type Here, insertRun } from '../../src/jobs/engine/runs.ts';
import type { Workflow } from '../../src/jobs/engine/workflow.ts';
import type { RunRef } from '../../src/types.ts';
import { SUSPEND, useDatabase, WORKSPACE } from '../support/database.ts';
import { PROMPTNESS } from '../support/promptness.ts';
import { define, useEngines } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun, ended, emit, runRow } = useEngines(base);
/** Less than any sweep takes. */
const AT_ONCE_MS = 1_500;

const startOf = (flow: Workflow, runKey?: string) => ({
  workspaceId: WORKSPACE,
  workflowName: flow.name,
  workflowVersion: flow.version,
  input: { n: 1 },
  origin: 'signal' as const,
  ...(runKey === undefined ? {} : { runKey }),
});

/** Its first look at the queue keeps every slot, so that is waited for. */
async function working(...options: Parameters<typeof engineWith>): Promise<Engine> {
  const engine = await engineWith(...options);
  await engine.work();
  await engine.idle();
  return engine;
}

async function jobsOf(run: RunRef): Promise<number> {
  const { rowCount } = await base.db.query({
    text: `select 1 from pgboss.job where data->>'runId' = $1`,
    values: [run.runId],
  });
  return rowCount;
}

/** Every wake-up that is notified to anybody while `work` is under way. */
async function notified(engine: Engine, work: () => Promise<void>): Promise<string[]> {
  const heard: string[] = [];
  engine.bell.on('run', (payload) => heard.push(payload.split(' ')[2] ?? ''));
  await work();
  const probe = Promise.withResolvers<void>();
  engine.bell.on('probe', () => probe.resolve());
  await base.db.query({ text: `select pg_notify('countersign_wake', 'probe')` });
  await probe.promise;
  return heard;
}

test('a start is begun by the process that made it: no job, no notification', PROMPTNESS, async () => {
  const release = Promise.withResolvers<void>();
  const flow = define((step) => step.run('hold', () => release.promise));
  const engine = await working([flow]);
  const runs: RunRef[] = [];

  const heard = await notified(engine, async () => {
    runs.push(await startRun(engine, flow), await engine.startAlone(startOf(flow)));
    for (const run of runs)
      expect(await runRow(run)).toMatchObject({ status: 'running', worker_id: engine.workerId, fence: 1 });
    release.resolve();
    for (const run of runs) await ended(run, 'completed', AT_ONCE_MS);
  });

  expect(heard).toEqual([]);
  // Suspended after its step, a run goes by way of the queue.
  if (!SUSPEND) for (const run of runs) expect(await jobsOf(run)).toBe(0);
});

test('a run that this process woke goes on here without a notification', PROMPTNESS, async () => {
  const flow = define((step) =>
    step.waitForEvent('wait', { event: 'go', key: step.runRef.runId, timeoutMs: 60_000 }),
  );
  const engine = await working([flow]);
  const run = await startRun(engine, flow);
  await ended(run, 'waiting');
  await engine.idle();

  const heard = await notified(engine, async () => {
    await emit(engine, 'go', run.runId);
    await ended(run, 'completed', AT_ONCE_MS);
  });

  expect(heard).toEqual([]);
});

test('what a full process starts and wakes is told to the others at once', PROMPTNESS, async () => {
  const release = Promise.withResolvers<void>();
  const hold = define((step) => step.run('hold', () => release.promise));
  const quick = define((step) => step.run('quick', async () => null));
  const waits = define((step) =>
    step.waitForEvent('wait', { event: 'go', key: step.runRef.runId, timeoutMs: 60_000 }),
  );
  const full = await working([hold, quick, waits], { slots: 1 });
  const waiting = await startRun(full, waits);
  await ended(waiting, 'waiting');
  await startRun(full, hold);
  await working([quick, waits]);

  try {
    const started = [await startRun(full, quick), await full.startAlone(startOf(quick))];
    await emit(full, 'go', waiting.runId);

    for (const run of [...started, waiting]) await ended(run, 'completed', AT_ONCE_MS);
  } finally {
    release.resolve();
  }
});

test('a process that stops tells the others what it sent and will not work', PROMPTNESS, async () => {
  const release = Promise.withResolvers<void>();
  const hold = define((step) => step.run('hold', () => release.promise));
  const quick = define((step) => step.run('quick', async () => null));
  const ending = await working([hold, quick], { slots: 1 });
  await working([quick]);
  await startRun(ending, hold);

  const [run] = await Promise.all([
    base.db.transaction(async (tx) => {
      const inside = await ending.start(tx, startOf(quick));
      void ending.stop(3_000);
      return inside;
    }),
  ]);

  try {
    await ended(run, 'completed', AT_ONCE_MS);
  } finally {
    release.resolve();
  }
});

test('a wake-up for another build is told to it by the process that sent it', PROMPTNESS, async () => {
  const name = `two-builds-${randomUUIDv7()}`;
  const body = (n: number) =>
    define(
      async (step) => {
        await step.waitForEvent('wait', { event: 'go', key: step.runRef.runId, timeoutMs: 60_000 });
        return n;
      },
      name,
      n,
    );
  const [older, newer] = [body(1), body(2)];
  const old = await working([older]);
  const run = await startRun(old, older);
  await ended(run, 'waiting');
  const current = await working([newer]);

  await emit(current, 'go', run.runId);

  expect((await ended(run, 'completed', AT_ONCE_MS)).output).toBe(1);
});

test(
  'a start that is rolled back gives its slot back, and its body is never entered',
  PROMPTNESS,
  async () => {
    let entered = 0;
    const flow = define(async () => {
      entered += 1;
    });
    const engine = await working([flow], { slots: 1 });

    await expect(
      base.db.transaction(async (tx) => {
        await engine.start(tx, startOf(flow));
        throw new Error('changed its mind');
      }),
    ).rejects.toThrow('changed its mind');
    const run = await startRun(engine, flow);

    await ended(run, 'completed', AT_ONCE_MS);
    await engine.idle();
    expect(entered).toBe(1);
  },
);

test('a start that the database refuses gives its slot back', PROMPTNESS, async () => {
  const flow = define(async () => 'done');
  const engine = await working([flow], { slots: 1 });

  await expect(engine.startAlone({ ...startOf(flow), workspaceId: 'T0NOSUCH' })).rejects.toMatchObject({
    code: '23503',
  });

  await ended(await startRun(engine, flow), 'completed', AT_ONCE_MS);
});

test('starts under one key are one run, begun once, and cost one slot', PROMPTNESS, async () => {
  let entered = 0;
  const release = Promise.withResolvers<void>();
  const flow = define((step) =>
    step.run('hold', () => {
      entered += 1;
      return release.promise;
    }),
  );
  const engine = await working([flow], { slots: 2 });
  const key = randomUUIDv7();

  const runs = [];
  for (let n = 0; n < 4; n += 1) runs.push(await engine.startAlone(startOf(flow, key)));
  release.resolve();

  expect(new Set(runs.map((run) => run.runId)).size).toBe(1);
  for (const run of runs) await ended(run, 'completed', AT_ONCE_MS);
  await engine.idle();
  expect(entered).toBe(1);
});

test('a run whose cancelling event came before its start is never entered', PROMPTNESS, async () => {
  let entered = 0;
  const flow = define(
    async () => {
      entered += 1;
    },
    undefined,
    1,
    { cancelOn: () => [{ event: 'stop', key: 'early' }] },
  );
  const engine = await working([flow]);
  await emit(engine, 'stop', 'early');

  const run = await startRun(engine, flow);

  await ended(run, 'cancelled', AT_ONCE_MS);
  await engine.idle();
  expect(entered).toBe(0);
});

/** A worker that keeps a slot and is not heard of again. */
const lostAs = (workerId: string): Here => ({
  reserve: () => ({ workerId, begin: () => undefined, release: () => undefined }),
});

test('a run whose starter died before it could begin is worked by another process', PROMPTNESS, async () => {
  const flow = define(async () => 'worked');
  const engine = await engineWith([flow]);
  const wakes = { queue: { send: () => Promise.reject(new Error('not by the queue')) } } as never;
  const run = await base.db.transaction((tx) => insertRun(tx, wakes, startOf(flow), lostAs(randomUUIDv7())));
  expect((await runRow(run)).status).toBe('running');

  await engine.work();

  expect((await ended(run, 'completed', 10_000)).fence).toBeGreaterThan(1);
});

test(
  'a run whose starting process lost the answer to its commit is found by that process',
  PROMPTNESS,
  async () => {
    const flow = define(async () => 'worked');
    const engine = await working([flow]);
    const wakes = { queue: { send: () => Promise.reject(new Error('not by the queue')) } } as never;

    const run = await base.db.transaction((tx) =>
      insertRun(tx, wakes, startOf(flow), lostAs(engine.workerId)),
    );

    await ended(run, 'completed', 10_000);
  },
);

test('a slot that was kept when the connection broke is free for the next run', PROMPTNESS, async () => {
  const flow = define(async () => 'worked');
  const engine = await working([flow], { slots: 1 });

  await expect(
    base.db.transaction(async (tx) => {
      await engine.start(tx, startOf(flow));
      await tx.query({ text: 'select pg_terminate_backend(pg_backend_pid())' });
    }),
  ).rejects.toThrow();

  await ended(await startRun(engine, flow), 'completed', AT_ONCE_MS);
});
