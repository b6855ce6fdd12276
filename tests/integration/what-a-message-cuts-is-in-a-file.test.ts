/**
 * Guarantee: nothing that people are to read is lost to Slack's limits. A request whose card Slack refuses is shown in a few words with the
 * same buttons, Approve opens Details first, and a file beside it holds the same; words that a message cuts say so and stand whole in a
 * file. One text has one file, whatever becomes of Slack's answer, and no file holds a secret.
 */
import { beforeAll, expect, test } from 'vitest';
import { owe, PRIORITY, redraw } from '../../src/jobs/deliveries.ts';
import { until } from '../support/database.ts';
import { ENGINEERING, GENERAL, REVIEWER_A, type SeenMessage } from '../support/people.ts';
import { askForMerge, useProduct } from '../support/product.ts';

const story = useProduct();
let thread = '';
let cardTs = '';
let requestId = '';
let taskId = '';
let workspaceId = '';

type WithFiles = SeenMessage & {
  readonly files?: readonly { readonly name: string; readonly title: string; readonly url_private: string }[];
};

beforeAll(async () => {
  const { ts, card } = await askForMerge(story);
  [thread, cardTs] = [ts, card.ts];
  await quiet();
  const { rows } = await story.db.query<{ request_id: string; task_id: string; workspace_id: string }>({
    text: 'select r.request_id, t.task_id, t.workspace_id from approval_requests r join tasks t on t.run_id = r.run_id',
  });
  if (rows[0] === undefined) throw new Error('no request');
  ({ request_id: requestId, task_id: taskId, workspace_id: workspaceId } = rows[0]);
});

const quiet = () =>
  until('Slack to show everything', async () => {
    const { rows } = await story.db.query({ text: `select 1 from deliveries where status = 'due'` });
    return rows.length === 0;
  });
const redrawn = (subjectId: string) => story.db.transaction((tx) => redraw(tx, workspaceId, subjectId));
const messageAt = async (channel: string, ts: string) =>
  (await story.people.messages(channel)).find((message) => message.ts === ts);
async function filesIn(channel: string, threadTs?: string) {
  const messages: readonly WithFiles[] = await story.people.messages(channel);
  return messages
    .filter((message) => threadTs === undefined || message.thread_ts === threadTs)
    .flatMap((message) => message.files ?? []);
}
async function contentOf(file: { readonly url_private: string } | undefined): Promise<string> {
  const response = await fetch(file?.url_private ?? '', {
    headers: { authorization: `Bearer ${story.world.slack.botToken}` },
  });
  return response.text();
}

test('a card that Slack refuses is said shortly, with its buttons and the whole request as a file', async () => {
  await story.people.fault({ method: 'chat.update', kind: 'error', error: 'invalid_blocks' });
  // Its answer lost: there is one file all the same.
  await story.people.fault({ method: 'files.completeUploadExternal', kind: 'drop_after' });

  await redrawn(requestId);
  await quiet();

  const card = JSON.stringify((await messageAt(ENGINEERING, cardTs))?.blocks);
  expect(card).toContain('Slack did not take the whole card');
  for (const button of ['details', 'approve', 'reject']) expect(card).toContain(`"approval.${button}"`);
  const files = await filesIn(ENGINEERING, thread);
  expect(files).toMatchObject([{ title: 'The whole request' }]);
  expect(files[0]?.name).toMatch(/^countersign-[0-9a-f-]{36}\.txt$/);
  const content = await contentOf(files[0]);
  expect(content).toContain('github.pulls.merge {');
  expect(content).toContain('/head/sha = ');
});

test('drawing it again says the same and brings no second file', async () => {
  await redrawn(requestId);
  await quiet();

  expect(JSON.stringify((await messageAt(ENGINEERING, cardTs))?.blocks)).toContain('Slack did not take');
  expect(await filesIn(ENGINEERING, thread)).toHaveLength(1);
});

test('a post that is too long is posted shortly; without the right to bring files only the file is missing', async () => {
  await story.people.fault({
    method: 'chat.postMessage',
    kind: 'error',
    error: 'msg_blocks_too_long',
    channel: GENERAL,
  });
  await story.people.fault({
    method: 'files.getUploadURLExternal',
    kind: 'error',
    error: 'missing_scope',
    times: 9,
  });

  await story.db.transaction((tx) =>
    owe(tx, {
      workspaceId,
      viewKind: 'approval',
      subjectId: requestId,
      target: { to: 'channel', channelId: GENERAL },
      priority: PRIORITY.decision,
    }),
  );
  await quiet();
  await story.people.clearFaults();

  const posted = (await story.people.messages(GENERAL)).filter((message) =>
    JSON.stringify(message.blocks ?? []).includes('"approval.approve"'),
  );
  expect(posted).toHaveLength(1);
  expect(await filesIn(GENERAL)).toEqual([]);
});

test('Approve on the short card opens Details first, and then decides', async () => {
  const click = () =>
    story.people.click(REVIEWER_A, { channel: ENGINEERING, ts: cardTs, actionId: 'approval.approve' });
  await click();
  await until('Details to be open', async () => (await story.people.views(REVIEWER_A)).length > 0);
  expect(await story.merges()).toEqual([]);
  await until('the reading to be kept', async () => {
    const { rows } = await story.db.query({ text: 'select 1 from detail_views' });
    return rows.length > 0;
  });

  await click();

  await until('merged', async () => (await story.merges()).length === 1);
  await until('the card to say so', async () =>
    JSON.stringify((await messageAt(ENGINEERING, cardTs))?.blocks).includes('*Done*'),
  );
});

test('what the agent says at length is cut with a count, and stands whole beside it, masked', async () => {
  const token = ['xoxb', '1234567890', 'abcdefghij'].join('-');
  await until('the task to be over', async () => {
    const { rows } = await story.db.query({ text: `select 1 from runs where status = 'completed'` });
    return rows.length > 0;
  });
  await quiet();
  const said = `${'What was seen, at length. '.repeat(100)}${token} end`;
  await story.db.query({
    text: 'update tasks set summary = $2 where task_id = $1',
    values: [taskId, said],
  });
  const before = (await filesIn(ENGINEERING, thread)).length;

  await redrawn(taskId);
  await quiet();
  await redrawn(taskId);
  await quiet();

  const messages = await story.people.thread(ENGINEERING, thread);
  const shown = messages.map((message) => JSON.stringify(message.blocks ?? [])).join();
  expect(shown).toMatch(/Showing 1,\d{3} of 2,6\d\d characters; all of it is in the file beside this/);
  const files = await filesIn(ENGINEERING, thread);
  expect(files).toHaveLength(before + 1);
  const content = await contentOf(files.at(-1));
  expect(content).toContain('What was seen, at length. '.repeat(100));
  expect(content).toContain('[secret] end');
  expect(content).not.toContain(token);
});
