/**
 * Guarantee: the wake-up queue needs nothing but the app's role. Its upkeep runs on our connections, wake-ups come with their
 * transaction or not at all, and one that was acted upon is gone.
 */
import { expect, test } from 'vitest';
import { openQueue } from '../../src/jobs/engine/queue.ts';
import { testLog, useDatabase, WORKSPACE } from '../support/database.ts';

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
