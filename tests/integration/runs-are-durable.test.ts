/**
 * Guarantee: a run survives whatever happens to the process that works it. A finished step never runs again; a wait holds
 * nothing and gets exactly one outcome; an event that comes before its wait is kept; only the newest attempt may write.
 */
import { describe, expect, test } from 'vitest';
import { CountersignError } from '../../src/errors.ts';
import { claimRun, insertStep } from '../../src/jobs/engine/attempt.ts';
import { until, useDatabase, WORKSPACE } from '../support/database.ts';
import { define, useEngines } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun, runRow, ended } = useEngines(base);

describe('steps', () => {
  test('a workflow of steps completes with its output and one row per step', async () => {
    const flow = define(async (step, input) => {
      const a = await step.run('first', async () => input.n + 1);
      const b = await step.transact('second', async () => a * 10);
      return { a, b };
    });
    const engine = await engineWith([flow]);
    await engine.work();

    const run = await startRun(engine, flow);

    expect((await ended(run, 'completed')).output).toEqual({ a: 2, b: 20 });
    const { rows } = await base.db.query<{ path: string }>({
      text: 'select path from steps where run_id = $1 order by finished_at',
      values: [run.runId],
    });
    expect(rows.map((row) => row.path)).toEqual(['first', 'second']);
  });

  test('a finished step does not run again after a wait', async () => {
    let firsts = 0;
    const flow = define(async (step) => {
      const value = await step.run('first', async () => ++firsts);
      const heard = await step.waitForEvent('wait', {
        event: 'go',
        key: step.runRef.runId,
        timeoutMs: 60_000,
      });
      return { value, heard, id: step.id() };
    });
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await ended(run, 'waiting');

    await base.db.transaction((tx) =>
      engine.emit(tx, { workspaceId: WORKSPACE, name: 'go', key: run.runId }, { word: 'yes' }),
    );

    const row = await ended(run, 'completed');
    expect(row.output).toMatchObject({ value: 1, heard: { outcome: 'event', payload: { word: 'yes' } } });
    expect(firsts).toBe(1);
  });

  test('a retryable error is tried again after a durable backoff, a terminal one is not', async () => {
    let retryable = 0;
    let terminal = 0;
    const flow = define(async (step) => {
      await step.run(
        'flaky',
        async ({ tryNumber }) => {
          retryable += 1;
          if (tryNumber < 3) throw new Error('try again');
          return null;
        },
        { backoffMs: 20 },
      );
      await step.run('hopeless', async () => {
        terminal += 1;
        throw new CountersignError('TOOL_REFUSED', 'never');
      });
    });
    const engine = await engineWith([flow]);
    await engine.work();

    const run = await startRun(engine, flow);

    expect((await ended(run, 'failed')).error).toMatchObject({ code: 'TOOL_REFUSED', message: 'never' });
    expect([retryable, terminal]).toEqual([3, 1]);
  });

  test('a step that fails is journaled: catching its error gives the same on replay', async () => {
    let tries = 0;
    const flow = define(async (step) => {
      const caught = await step
        .run('fails', async () => {
          tries += 1;
          throw new CountersignError('TOOL_REFUSED', 'no');
        })
        .catch((error: CountersignError) => error.code);
      await step.sleep('nap', 10);
      return caught;
    });
    const engine = await engineWith([flow]);
    await engine.work();

    const run = await startRun(engine, flow);

    expect((await ended(run, 'completed')).output).toBe('TOOL_REFUSED');
    expect(tries).toBe(1);
  });

  test('clock, ids and randomness are the same on every replay', async () => {
    const seen: string[] = [];
    const flow = define(async (step) => {
      await step.run('one', async () => 1);
      const drawn = `${step.now().toISOString()} ${step.id()} ${step.random()}`;
      seen.push(drawn);
      await step.sleep('nap', 10);
      return drawn;
    });
    const engine = await engineWith([flow]);
    await engine.work();

    const run = await startRun(engine, flow);

    await ended(run, 'completed');
    expect(seen.length).toBeGreaterThanOrEqual(2);
    expect(new Set(seen).size).toBe(1);
  });

  test('two steps of one name in flight park the run as ambiguous; under branches they run side by side', async () => {
    const wrong = define((step) =>
      Promise.all([step.run('same', async () => 1), step.run('same', async () => 2)]),
    );
    const right = define((step) =>
      Promise.all(['a', 'b'].map((key) => step.branch(key, (branch) => branch.run('same', async () => key)))),
    );
    const engine = await engineWith([wrong, right]);
    await engine.work();

    const [bad, good] = [await startRun(engine, wrong), await startRun(engine, right)];

    expect((await ended(bad, 'parked')).error?.code).toBe('STEP_NAME_AMBIGUOUS');
    expect((await ended(good, 'completed')).output).toEqual(['a', 'b']);
  });

  test('a journal that does not fit the code parks the run', async () => {
    const name = 'refitted';
    const before = define(async (step) => {
      await step.run('thing', async () => 1, { input: { a: 1 } });
      await step.waitForEvent('wait', { event: 'go', key: step.runRef.runId, timeoutMs: 60_000 });
    }, name);
    const after = define(async (step) => {
      await step.run('thing', async () => 1, { input: { a: 2 } });
    }, name);
    const first = await engineWith([before]);
    await first.work();
    const run = await startRun(first, before);
    await ended(run, 'waiting');
    await first.stop();
    const second = await engineWith([after]);
    await second.work();

    await base.db.transaction((tx) =>
      second.emit(tx, { workspaceId: WORKSPACE, name: 'go', key: run.runId }, null),
    );

    expect((await ended(run, 'parked')).error?.code).toBe('JOURNAL_MISMATCH');
  });
});

describe('waits', () => {
  test('a waiting run holds no worker', async () => {
    const flow = define((step) =>
      step.waitForEvent('wait', { event: 'go', key: step.runRef.runId, timeoutMs: 60_000 }),
    );
    const engine = await engineWith([flow]);
    await engine.work();

    const row = await ended(await startRun(engine, flow), 'waiting');

    expect(row.worker_id).toBeNull();
  });

  test('an event that comes before its wait is kept, and the first write wins', async () => {
    const flow = define((step) =>
      step.waitForEvent('wait', { event: 'early', key: step.runRef.runId, timeoutMs: 60_000 }),
    );
    const engine = await engineWith([flow]);
    const run = await startRun(engine, flow);
    const address = { workspaceId: WORKSPACE, name: 'early', key: run.runId };
    const first = await base.db.transaction((tx) => engine.emit(tx, address, 1));
    const second = await base.db.transaction((tx) => engine.emit(tx, address, 2));

    await engine.work();

    expect((await ended(run, 'completed')).output).toEqual({ outcome: 'event', payload: 1 });
    expect([first, second]).toEqual([true, false]);
  });

  test('a deadline ends a wait with a stored timeout; a later event changes nothing', async () => {
    const flow = define(async (step) => {
      const outcome = await step.waitForEvent('wait', {
        event: 'late',
        key: step.runRef.runId,
        timeoutMs: 50,
      });
      await step.waitForEvent('hold', { event: 'hold', key: step.runRef.runId, timeoutMs: 60_000 });
      return outcome;
    });
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await until('hold', async () => {
      const { rowCount } = await base.db.query({
        text: `select 1 from waits where run_id = $1 and path = 'hold'`,
        values: [run.runId],
      });
      return rowCount === 1;
    });
    for (const name of ['late', 'hold'])
      await base.db.transaction((tx) =>
        engine.emit(tx, { workspaceId: WORKSPACE, name, key: run.runId }, null),
      );

    expect((await ended(run, 'completed')).output).toEqual({ outcome: 'timeout' });
  });

  test('two hundred runs parking while their events are emitted lose no wake-up', async () => {
    const flow = define((step) =>
      step.waitForEvent('wait', { event: 'race', key: step.runRef.runId, timeoutMs: 60_000 }),
    );
    const engine = await engineWith([flow]);
    await engine.work();

    const runs = await Promise.all(
      Array.from({ length: 200 }, async () => {
        const run = await startRun(engine, flow);
        await base.db.transaction((tx) =>
          engine.emit(tx, { workspaceId: WORKSPACE, name: 'race', key: run.runId }, null),
        );
        return run;
      }),
    );

    for (const run of runs) await ended(run, 'completed');
  });
});

describe('one live attempt', () => {
  test('a worker whose lease ended is taken over, and its late journal write is refused', async () => {
    const flow = define(async () => 'done by the second');
    const engine = await engineWith([flow]);
    const run = await startRun(engine, flow);
    const dead = '00000000-0000-7000-8000-000000000001';
    await base.db.query({
      text: `insert into workers (worker_id, pid, lease_until) values ($1, 1, db_now() - interval '1 second')`,
      values: [dead],
    });
    const stale = await claimRun(base.db, run, dead, [`${flow.name}@1`]);
    if (stale === undefined || stale === 'not-carried') throw new Error('not claimed');

    await engine.work();
    await ended(run, 'completed');

    const late = insertStep(base.db, stale, {
      path: 'late',
      kind: 'run',
      inputHash: null,
      error: null,
      result: 1,
      startedAt: new Date(),
    });
    await expect(late).rejects.toMatchObject({ code: 'FENCED' });
    const { rowCount } = await base.db.query({
      text: 'select 1 from steps where run_id = $1',
      values: [run.runId],
    });
    expect(rowCount).toBe(0);
  });

  test('a fenced step body never sees its result, and the workflow of the newer attempt alone goes on', async () => {
    const entered = Promise.withResolvers<void>();
    const release = Promise.withResolvers<void>();
    const after: string[] = [];
    let bodies = 0;
    const flow = define(async (step) => {
      const who = await step.run('slow', async () => {
        bodies += 1;
        if (bodies === 1) {
          entered.resolve();
          await release.promise;
          return 'stale';
        }
        return 'fresh';
      });
      after.push(who);
      return who;
    });
    const first = await engineWith([flow]);
    await first.work();
    const run = await startRun(first, flow);
    await entered.promise;
    // What a takeover does: another holder, a higher fence.
    await base.db.query({
      text: `update runs set status = 'queued', worker_id = null where run_id = $1`,
      values: [run.runId],
    });
    const second = await engineWith([flow]);
    await second.work();
    await ended(run, 'completed');

    release.resolve();
    await first.idle();

    expect((await runRow(run)).output).toBe('fresh');
    expect(after).toEqual(['fresh']);
  });

  test('a run that lost its worker five times is parked before it is worked again', async () => {
    let bodies = 0;
    const flow = define(async () => ++bodies);
    const engine = await engineWith([flow]);
    const run = await startRun(engine, flow);
    await base.db.query({ text: 'update runs set claim_count = 5 where run_id = $1', values: [run.runId] });

    await engine.work();

    expect((await ended(run, 'parked')).error?.code).toBe('WORKER_LOST');
    expect(bodies).toBe(0);
  });

  test('stopping lets the step in flight finish and hands the run over uncounted', async () => {
    const entered = Promise.withResolvers<void>();
    const release = Promise.withResolvers<void>();
    const ran: string[] = [];
    const flow = define(async (step) => {
      await step.run('one', async () => {
        ran.push('one');
        entered.resolve();
        await release.promise;
      });
      await step.run('two', async () => ran.push('two'));
    });
    const first = await engineWith([flow]);
    await first.work();
    const run = await startRun(first, flow);
    await entered.promise;

    const stopping = first.stop(5_000);
    release.resolve();
    await stopping;

    expect(ran).toEqual(['one']);
    expect((await runRow(run)).status).toBe('queued');
    const second = await engineWith([flow]);
    await second.work();
    await ended(run, 'completed');
    expect(ran).toEqual(['one', 'two']);
  });
});
