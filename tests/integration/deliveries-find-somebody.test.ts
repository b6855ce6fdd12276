/**
 * Guarantee: a request that cannot stand where it was asked still finds somebody. A card that was deleted is posted anew once and works;
 * a request whose channel is gone goes to the task's owner, once, as a direct message. Neither decides anything.
 */
import { beforeAll, expect, test } from 'vitest';
import { owe, PRIORITY, redraw } from '../../src/jobs/deliveries.ts';
import { until } from '../support/database.ts';
import { ENGINEERING, GENERAL, REVIEWER_A } from '../support/people.ts';
import { askForMerge, useProduct } from '../support/product.ts';

const story = useProduct();
const OWNERS_DIRECT_MESSAGE = 'D0REQUESTER';
let thread = '';
let firstTs = '';
let requestId = '';
let workspaceId = '';

beforeAll(async () => {
  const { ts, card } = await askForMerge(story);
  [thread, firstTs] = [ts, card.ts];
  const row = await until('the card to be recorded', async () => {
    const { rows } = await story.db.query<{ subject_id: string; workspace_id: string }>({
      text: `select subject_id, workspace_id from deliveries where view_kind = 'approval' and ts = $1 and status = 'settled'`,
      values: [firstTs],
    });
    return rows[0];
  });
  [requestId, workspaceId] = [row.subject_id, row.workspace_id];
});

async function cards(channel: string) {
  const messages = await story.people.messages(channel);
  return messages.filter((message) => JSON.stringify(message.blocks ?? []).includes('"approval.approve"'));
}

/** What became of the deliveries of the request, oldest first. */
async function statuses(): Promise<string[]> {
  const { rows } = await story.db.query<{ status: string }>({
    text: 'select status from deliveries where subject_id = $1 order by delivery_id',
    values: [requestId],
  });
  return rows.map((row) => row.status);
}

const redrawIt = () => story.db.transaction((tx) => redraw(tx, workspaceId, requestId));

test('a deleted card is posted anew', async () => {
  await story.people.removeMessage(ENGINEERING, firstTs);

  await redrawIt();

  const [card] = await until('the card to stand again', async () => {
    const found = await cards(ENGINEERING);
    return found.length === 1 && (await statuses()).join() === 'settled' && found;
  });
  expect(card?.ts).not.toBe(firstTs);
  expect(card?.thread_ts).toBe(thread);
});

test('a request in a channel that is gone goes to the owner as a direct message, once', async () => {
  await story.people.archive(GENERAL);
  const oweThere = () =>
    story.db.transaction((tx) =>
      owe(tx, {
        workspaceId,
        viewKind: 'approval',
        subjectId: requestId,
        target: { to: 'channel', channelId: GENERAL },
        priority: PRIORITY.decision,
      }),
    );

  await oweThere();
  await until('the owner to have it', async () => (await statuses()).join() === 'settled,refused,settled');
  await oweThere();
  await until(
    'the second to be refused',
    async () => (await statuses()).join() === 'settled,refused,settled,refused',
  );

  expect(await cards(OWNERS_DIRECT_MESSAGE)).toHaveLength(1);
  const { rows } = await story.db.query<{ last_error: string | null }>({
    text: `select last_error from deliveries where subject_id = $1 and status = 'refused' limit 1`,
    values: [requestId],
  });
  expect(rows[0]?.last_error).toBe('chat.postMessage: is_archived');
});

test('a card deleted twice is not posted a third time, and the request still waits', async () => {
  const [card] = await cards(ENGINEERING);
  await story.people.removeMessage(ENGINEERING, card?.ts ?? '');

  await redrawIt();
  await until('the card to be given up', async () => (await statuses())[0] === 'refused');

  expect(await cards(ENGINEERING)).toEqual([]);
  const { rows } = await story.db.query<{ status: string }>({
    text: 'select status from approval_requests where request_id = $1',
    values: [requestId],
  });
  expect(rows).toEqual([{ status: 'pending' }]);
});

test('the copy in the direct message decides like any other', async () => {
  const [card] = await cards(OWNERS_DIRECT_MESSAGE);

  // The owner shows it to a reviewer: Slack hands their click over with the same button.
  await story.people.join(OWNERS_DIRECT_MESSAGE, REVIEWER_A);
  await story.people.click(REVIEWER_A, {
    channel: OWNERS_DIRECT_MESSAGE,
    ts: card?.ts ?? '',
    actionId: 'approval.approve',
  });

  await until('merged', async () => (await story.merges()).length === 1);
  await until('the copy to show the outcome', async () => (await cards(OWNERS_DIRECT_MESSAGE)).length === 0);
});
