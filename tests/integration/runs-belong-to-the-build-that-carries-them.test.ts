/**
 * Guarantee: old and new processes work side by side. A process claims only runs of workflow versions it carries; the others stay
 * as they are, wake-up included, until a process that carries them is there.
 */
import { expect, test } from 'vitest';
import { claimRun } from '../../src/jobs/engine/attempt.ts';
import { until, useDatabase } from '../support/database.ts';
import { define, useEngines, watched } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun, runRow, ended } = useEngines(base);
const wakeUps = async (runId: string) =>
  (
    await base.db.query<{ count: number }>({
      text: `select count(*) as count from pgboss.job where data ->> 'runId' = $1`,
      values: [runId],
    })
  ).rows[0]?.count;

test('a process that lacks the version leaves the run to the one that carries it', async () => {
  const v1 = define(async () => 1, 'roll', 1);
  const v2 = define(async () => 2, 'roll', 2);
  const newer = await engineWith([v1, v2]);
  const older = await engineWith([v1]);
  await older.work();
  const [ofNew, ofOld] = [await startRun(newer, v2), await startRun(newer, v1)];

  await ended(ofOld, 'completed');
  await until('the older process to have met the wake-up', async () => (await wakeUps(ofOld.runId)) === 0);
  await older.idle();
  expect(await runRow(ofNew)).toMatchObject({ status: 'queued', fence: 0 });

  await newer.work();
  expect((await ended(ofNew, 'completed')).output).toBe(2);
});

test('a notified wake-up of another version stays in the queue', async () => {
  const v1 = define(async () => 1, 'notified', 1);
  const v2 = define(async () => 2, 'notified', 2);
  const newer = await engineWith([v2]);
  let swept = false;
  // One sweep, the one of the start: a fetch would take the wake-up out of the queue.
  const database = watched(base.db, async ({ name }) => {
    if (name === 'runs_own' && swept) throw new Error('no sweep now');
    if (name === 'runs_own') swept = true;
  });
  const older = await engineWith([v1], { database });
  await older.work();
  await older.idle();

  const foreign = await startRun(newer, v2);
  // Notified after it, so handled after it; its wake-up is deleted in the batch that would hold the other one too.
  const own = await startRun(older, v1);
  await ended(own, 'completed');
  await until('the batch to be deleted', async () => (await wakeUps(own.runId)) === 0);

  expect(await wakeUps(foreign.runId)).toBe(1);
});

test('a claim says that the run is of another build, and takes nothing', async () => {
  const flow = define(async () => 1);
  const engine = await engineWith([flow]);
  const run = await startRun(engine, flow);

  const claimed = await claimRun(base.db, run, crypto.randomUUID(), [`${flow.name}@2`]);

  expect(claimed).toBe('not-carried');
  expect(await runRow(run)).toMatchObject({ status: 'queued', fence: 0 });
});
