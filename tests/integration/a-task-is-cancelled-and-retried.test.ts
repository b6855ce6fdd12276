/**
 * Guarantee: a task whose run is cancelled ends so, in its thread and in the ledger; what had been sent is brought to its end and told, not
 * sent again. A failed task that is retried is open again, and its last word is its newest.
 */
import { afterEach, expect, test } from 'vitest';
import { withdrawForCancel } from '../../src/jobs/cancelling.ts';
import { controlOver } from '../../src/jobs/engine/engine.ts';
import { openQueue } from '../../src/jobs/engine/queue.ts';
import { steer } from '../../src/jobs/steering.ts';
import type { RunRef } from '../../src/types.ts';
import { testLog, until } from '../support/database.ts';
import { ENGINEERING, REVIEWER_A } from '../support/people.ts';
import { askForMerge, ledgerKinds, TEAM, useProduct } from '../support/product.ts';

const story = useProduct();
const approve = (ts: string) =>
  story.people.click(REVIEWER_A, { channel: ENGINEERING, ts, actionId: 'approval.approve' });
const fault = (order: object) => story.github('POST', '/_control/faults', order);
const taskText = async (threadTs: string) => JSON.stringify(await story.people.thread(ENGINEERING, threadTs));

afterEach(async () => {
  await story.github('DELETE', '/_control/faults');
});

async function runOf(threadTs: string): Promise<RunRef> {
  const { rows } = await story.db.query<{ run_id: string }>({
    text: 'select run_id from tasks where message_ts = $1',
    values: [threadTs],
  });
  return { workspaceId: TEAM, runId: rows[0]?.run_id ?? '' };
}

/** As another process does it. */
async function order(run: RunRef, word: 'cancel' | 'retry') {
  const queue = await openQueue(story.db, testLog);
  try {
    const control = controlOver({ queue, onCancel: withdrawForCancel });
    return await story.db.transaction((tx) =>
      steer(tx, control, run, word, { by: 'cli/operator', reason: 'changed plans' }),
    );
  } finally {
    await queue.close();
  }
}

const statusOf = async (run: RunRef) => {
  const { rows } = await story.db.query<{ status: string }>({
    text: 'select status from runs where run_id = $1',
    values: [run.runId],
  });
  return rows[0]?.status;
};

test('a task that waits for a countersign is cancelled: request withdrawn, thread told, ledger complete', async () => {
  const { ts } = await askForMerge(story);
  const run = await runOf(ts);

  expect(await order(run, 'cancel')).toMatchObject({ changed: true, status: 'cancelling' });

  await until('the run to end', async () => (await statusOf(run)) === 'cancelled');
  await until('the thread to say so', async () => (await taskText(ts)).includes('Cancelled: changed plans'));
  const kinds = await ledgerKinds(story, ts);
  expect(kinds).toEqual(expect.arrayContaining(['run.cancelled', 'approval.withdrawn', 'task.cancelled']));
  expect(kinds.filter((kind) => kind === 'task.cancelled')).toHaveLength(1);
  expect(await story.merges()).toEqual([]);
});

test('a merge under way while the run is cancelled is recorded as it ended, and sent once', async () => {
  const { ts, card } = await askForMerge(story);
  const run = await runOf(ts);
  await fault({ match: { method: 'PUT', pathPattern: '/merge$' }, kind: 'hold', times: 1 });
  await approve(card.ts);
  await until('the merge to be under way', async () => {
    const { body } = await story.github('GET', '/_control/faults');
    return ((body as { held?: number }).held ?? 0) > 0;
  });

  await order(run, 'cancel');
  await story.github('POST', '/_control/release');

  await until('the run to end', async () => (await statusOf(run)) === 'cancelled');
  expect(await story.merges()).toHaveLength(1);
  const kinds = await ledgerKinds(story, ts);
  expect(kinds.filter((kind) => kind === 'action.done')).toHaveLength(1);
  expect(kinds.at(-1)).toBe('task.cancelled');
});
