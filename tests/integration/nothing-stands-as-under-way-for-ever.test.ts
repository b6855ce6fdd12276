/**
 * Guarantee: an action that cannot be brought to an end says so. What was never sent is closed and its approval void; an approval that is
 * not executed in time lapses and is asked again; odd characters in outside text stop nothing; a task that stopped never looks done.
 */
import { afterEach, expect, test } from 'vitest';
import { appendEntry } from '../../src/jobs/ledger.ts';
import { finishTask, readTask, type Task, taskView } from '../../src/jobs/tasks.ts';
import { until } from '../support/database.ts';
import { ENGINEERING, REVIEWER_A } from '../support/people.ts';
import { askForMerge, ledgerKinds, useProduct } from '../support/product.ts';

const story = useProduct();
const approve = (ts: string) =>
  story.people.click(REVIEWER_A, { channel: ENGINEERING, ts, actionId: 'approval.approve' });
const fault = (order: object) => story.github('POST', '/_control/faults', order);
const PULL = '^/repos/acme/shop/pulls/1$';

afterEach(async () => {
  await story.github('DELETE', '/_control/faults');
  await story.setClock('0');
});

const statesOf = async (threadTs: string) => {
  const { rows } = await story.db.query<{ action: string; request: string; run: string }>({
    text: `select a.status as action, r.status as request, n.status as run from actions a
           join approval_requests r on r.action_id = a.action_id join runs n on n.run_id = a.run_id
           where a.run_id = (select run_id from tasks where message_ts = $1) order by a.created_at`,
    values: [threadTs],
  });
  return rows;
};
const messageText = async (threadTs: string, ts: string) =>
  JSON.stringify((await story.people.thread(ENGINEERING, threadTs)).find((message) => message.ts === ts));

test('a target that is refused for good after the approval closes the action and voids the approval', async () => {
  const { ts, card } = await askForMerge(story);
  await fault({ match: { method: 'GET', pathPattern: PULL }, kind: 'status', status: 404, times: 50 });

  await approve(card.ts);

  await until('task ended', async () =>
    (await ledgerKinds(story, ts)).some((kind) => kind.startsWith('task.f')),
  );
  expect(await statesOf(ts)).toMatchObject([{ action: 'closed', request: 'superseded' }]);
  await until('the card says so', async () => !(await messageText(ts, card.ts)).includes('executing'));
  expect(await story.merges()).toEqual([]);
});

test('an approval that is not executed within a day lapses, and people are asked again', async () => {
  const { ts, card } = await askForMerge(story);
  await fault({ match: { method: 'GET', pathPattern: PULL }, kind: 'hold', times: 1 });
  await approve(card.ts);
  await until('the look before the execution', async () => {
    const { body } = await story.github('GET', '/_control/faults');
    return ((body as { held?: number }).held ?? 0) > 0;
  });

  await story.setClock('25 hours');
  await story.github('POST', '/_control/release');

  await until('asked again', async () => (await statesOf(ts)).length === 2);
  expect((await statesOf(ts))[0]).toMatchObject({ action: 'closed', request: 'expired' });
  expect(await story.merges()).toEqual([]);
});

test('a NUL and half a surrogate pair in a title reach the card as visible marks and stop nothing', async () => {
  await story.github('PATCH', '/repos/acme/shop/pulls/1', { title: 'Fix \u0000 rounding \ud800 now' });

  const { ts, card } = await askForMerge(story);

  expect(await messageText(ts, card.ts)).toContain('rounding');
  const { rows } = await story.db.query<{ agent_reason: string }>({
    text: 'select agent_reason from actions order by created_at desc limit 1',
  });
  expect(rows[0]?.agent_reason).not.toContain('\u0000');
});

test('a task that stopped is shown as failed, with the reason as the product’s word', async () => {
  const { ts } = await askForMerge(story);
  const task = await readTaskOf(ts);
  await story.db.transaction(async (tx) => {
    await finishTask(tx, task, 'Stopped: the model refused');
    await appendEntry(tx, {
      workspaceId: task.workspaceId,
      subjectKind: 'run',
      subjectId: task.runId,
      kind: 'task.failed',
      facts: { taskId: task.taskId, code: 'MODEL_REFUSED' },
    });
  });

  const view = await taskView(story.db, task.workspaceId, task.taskId, {
    name: 'a',
    version: '1',
    modelLabel: 'm',
  });

  expect(view).toMatchObject({ runStatus: 'failed', agentSummary: null });
  expect(view?.progress.at(-1)).toBe('Stopped: the model refused');
});

async function readTaskOf(threadTs: string): Promise<Task> {
  const { rows } = await story.db.query<{ workspace_id: string; task_id: string }>({
    text: 'select workspace_id, task_id from tasks where message_ts = $1',
    values: [threadTs],
  });
  const task = rows[0] && (await readTask(story.db, rows[0].workspace_id, rows[0].task_id));
  if (!task) throw new Error('no task');
  return task;
}
