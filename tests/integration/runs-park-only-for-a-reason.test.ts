/**
 * Guarantee: a run is parked for a person when nothing else helps, and what follows from it commits with the park. A run that
 * gets on is not parked for the workers it lost on the way; data that the database refuses fails one step, not the process.
 */
import { describe, expect, test } from 'vitest';
import { type Attempt, claimRun, insertStep, type OnParked } from '../../src/jobs/engine/attempt.ts';
import type { Workflow } from '../../src/jobs/engine/workflow.ts';
import type { RunRef, Statement } from '../../src/types.ts';
import { useDatabase, WORKSPACE } from '../support/database.ts';
import { define, useEngines } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun, runRow, ended } = useEngines(base);

/** Claims as a process that is never heard of again. */
async function claimAndDie(run: RunRef, flow: Workflow): Promise<Attempt> {
  const attempt = await claimRun(base.db, run, crypto.randomUUID(), [`${flow.name}@${flow.version}`]);
  if (attempt === undefined || attempt === 'not-carried') throw new Error('not claimed');
  return attempt;
}
const journal = (attempt: Attempt, path: string) =>
  insertStep(base.db, attempt, {
    path,
    kind: 'run',
    inputHash: null,
    error: null,
    result: null,
    startedAt: new Date(),
  });

describe('lost workers', () => {
  test('a run that journals a step under every worker it loses is never given up', async () => {
    const flow = define(async (step) => {
      for (let n = 1; n <= 8; n += 1) await step.run('part', async () => null);
      return 'all parts';
    });
    const engine = await engineWith([flow]);
    const run = await startRun(engine, flow);
    for (let n = 1; n <= 7; n += 1)
      await journal(await claimAndDie(run, flow), n === 1 ? 'part' : `part#${n}`);

    await engine.work();

    expect((await ended(run, 'completed')).output).toBe('all parts');
  });

  test('a run that gets nowhere is parked as WORKER_LOST before it is worked again', async () => {
    let bodies = 0;
    const flow = define(async () => ++bodies);
    const engine = await engineWith([flow]);
    const run = await startRun(engine, flow);
    await journal(await claimAndDie(run, flow), 'part');
    for (let n = 1; n <= 5; n += 1) await claimAndDie(run, flow);

    await engine.work();

    expect((await ended(run, 'parked')).error?.code).toBe('WORKER_LOST');
    expect(bodies).toBe(0);
  });
});

describe('what the database refuses', () => {
  const refusals: readonly (readonly [string, string, Statement])[] = [
    ['data', '22021', { text: 'select $1::text', values: ['a secret \0 word'] }],
    ['a constraint', '23505', { text: `insert into workspaces (workspace_id) values ('${WORKSPACE}')` }],
    [
      'a rule of ours',
      'CS002',
      {
        text: `with other as (select run_id from runs where workflow_name = 'refused-other')
               update runs set status = 'completed' where run_id in (select run_id from other)`,
      },
    ],
  ];
  test.each(refusals)('%s (%s) is a terminal failure of the step, told once', async (_what, state, bad) => {
    let tries = 0;
    const flow = define(async (step) => {
      const caught = await step
        .transact('write', async (tx) => {
          tries += 1;
          await tx.query(bad);
          return null;
        })
        .catch((error: unknown) => error);
      await step.sleep('nap', 10);
      return caught instanceof Error && { ...caught, message: caught.message };
    });
    const other = define(async () => null, 'refused-other');
    const engine = await engineWith([flow, other]);
    // Queued for as long as no process works: what the third refusal reaches for.
    const parked = await startRun(engine, other);
    await base.db.query({
      text: `update runs set status = 'paused' where run_id = $1`,
      values: [parked.runId],
    });
    await engine.work();

    const row = await ended(await startRun(engine, flow), 'completed');

    expect(row.output).toMatchObject({
      code: 'DATABASE_REFUSED',
      errorClass: 'terminal',
      message: `The database refused what step write wrote (SQLSTATE ${state})`,
    });
    expect(tries).toBe(1);
  });
});

describe('what follows from a park', () => {
  const told = async (run: RunRef) =>
    (
      await base.db.query<{ payload: unknown }>({
        text: `select payload from events where event_name = 'told' and event_key = $1`,
        values: [run.runId],
      })
    ).rows.map((row) => row.payload);
  /** Writes a row in the park's transaction; the first time it fails after that. */
  function failingOnce(): { onParked: OnParked; calls: () => number } {
    let calls = 0;
    return {
      calls: () => calls,
      async onParked(tx, run, error) {
        calls += 1;
        await tx.query({
          text: `insert into events (workspace_id, event_name, event_key, payload) values ($1, 'told', $2, $3)`,
          values: [run.workspaceId, run.runId, JSON.stringify(error.code)],
        });
        if (calls === 1) throw new Error('not this time');
      },
    };
  }

  test('commits with it, or neither does: a body that cannot be replayed', async () => {
    const flow = define((step) =>
      Promise.all([step.run('same', async () => 1), step.run('same', async () => 2)]),
    );
    const { onParked, calls } = failingOnce();
    const engine = await engineWith([flow], { onParked });
    await engine.work();

    const run = await startRun(engine, flow);

    await ended(run, 'parked');
    expect(calls()).toBe(2);
    expect(await told(run)).toEqual(['STEP_NAME_AMBIGUOUS']);
    expect((await runRow(run)).fence).toBe(2);
  });

  test('commits with it, or neither does: a run that lost its workers', async () => {
    const flow = define(async () => null);
    const { onParked, calls } = failingOnce();
    const engine = await engineWith([flow], { onParked });
    const run = await startRun(engine, flow);
    for (let n = 1; n <= 5; n += 1) await claimAndDie(run, flow);
    await engine.work();

    await ended(run, 'parked');

    expect(calls()).toBe(2);
    expect(await told(run)).toEqual(['WORKER_LOST']);
  });
});
