/**
 * Guarantee: the wake-up queue needs nothing but the app's role. Its upkeep runs on our connections, wake-ups come with their
 * transaction or not at all, one that was acted upon is gone, and in a rush nobody adds a second one for a run that has one.
 */
import { expect, test } from 'vitest';
import { z } from 'zod';
import { openEngine } from '../../src/jobs/engine/engine.ts';
import { openQueue } from '../../src/jobs/engine/queue.ts';
import { workflow } from '../../src/jobs/engine/workflow.ts';
import { testLog, until, useDatabase, WORKSPACE } from '../support/database.ts';

const base = useDatabase();
const run = () => ({ workspaceId: WORKSPACE, runId: crypto.randomUUID() });

test('upkeep runs as the app role', async () => {
  const queue = await openQueue(base.db, testLog);

  await queue.maintain();

  await queue.close();
});

test('a wake-up of a transaction that rolled back was never sent', async () => {
  const queue = await openQueue(base.db, testLog);
  const [kept, lost] = [run(), run()];
  await base.db.transaction((tx) => queue.send(tx, [kept]));
  const failed = base.db.transaction(async (tx) => {
    await queue.send(tx, [lost]);
    throw new Error('changed my mind');
  });
  await expect(failed).rejects.toThrow('changed my mind');

  const fetched = await queue.fetch(10);
  await queue.discard(fetched.map((wake) => wake.jobId));

  expect(fetched.map((wake) => wake.runId)).toEqual([kept.runId]);
  const { rows } = await base.db.query<{ count: number }>({
    text: 'select count(*) as count from pgboss.job',
  });
  expect(rows[0]?.count).toBe(0);
  await queue.close();
});

test('a rush is not made worse by waking again what is in the queue already', async () => {
  const RUNS = 300;
  const log = testLog;
  let isOpen = false;
  const slow = workflow({
    name: 'slow',
    version: 1,
    input: z.null(),
    body: async (step) => {
      await step.run('wait', () => until('the gate to open', async () => isOpen));
    },
  });
  const starter = await openEngine({ database: base.db, log, workflows: [slow] });
  await base.db.transaction(async (tx) => {
    for (let n = 0; n < RUNS; n += 1)
      await starter.start(tx, {
        workspaceId: WORKSPACE,
        workflowName: 'slow',
        input: null,
        origin: 'signal',
      });
  });
  await base.db.query({ text: `update runs set queued_at = queued_at - interval '10 seconds'` });
  const waiting = async () => {
    const { rows } = await base.db.query<{ run_id: string }>({
      text: `select data->>'runId' as run_id from pgboss.job where state = 'created'`,
    });
    return rows.map((row) => row.run_id);
  };

  // Its first look comes before it has taken anything from the queue, as after every start.
  const worker = await openEngine({ database: base.db, log, workflows: [slow], slots: 4 });
  await worker.work();
  await until('every slot to be taken', async () => {
    const { rowCount } = await base.db.query({ text: `select 1 from runs where status = 'running'` });
    return rowCount === 4;
  });

  const found = await waiting();
  expect(found.length).toBeGreaterThan(RUNS - 20);
  expect(new Set(found).size).toBe(found.length);
  isOpen = true;
  await worker.stop(5_000);
  await starter.stop(0);
});
