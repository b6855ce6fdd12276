/**
 * Guarantee: whatever Slack does while requests are pending, none of them is lost, decided or shown twice, and each can be decided in the end.
 * Answers that never come, a pause asked for in one channel, server errors, an archived channel, a revoked token: messages come late or
 * elsewhere (the owner, then the admins), each once, and `/readyz` says when Slack refuses everything.
 */
import { afterEach, beforeAll, expect, test } from 'vitest';
import { ring } from '../../src/jobs/engine/bell.ts';
import { until } from '../support/database.ts';
import {
  ENGINEERING,
  GENERAL,
  MENTION,
  REQUESTER,
  REVIEWER_A,
  REVIEWER_B,
  type SeenMessage,
} from '../support/people.ts';
import { TEAM, useProduct } from '../support/product.ts';

const REPO = '/repos/acme/shop';
const ADMINS_DIRECT_MESSAGE = 'D0REVIEWERB';
const OWNERS_DIRECT_MESSAGE = 'D0REQUESTER';

const story = useProduct({ admins: [{ teamId: TEAM, userId: REVIEWER_B }] });
interface Asked {
  readonly pull: number;
  readonly channel: string;
  readonly ts: string;
}
/** The three that are pending throughout. */
let pending: Asked[] = [];

afterEach(async () => {
  await story.people.clearFaults();
  await story.setClock('0');
  // What was allowed next at a later time: the clock has gone back.
  await story.db.query({ text: `delete from delivery_pauses where call in ('progress', 'refresh')` });
});

async function openPull(): Promise<number> {
  const branch = `note-${process.hrtime.bigint()}`;
  const main = await story.github('GET', `${REPO}/git/ref/heads/main`);
  await story.github('POST', `${REPO}/git/refs`, { ref: `refs/heads/${branch}`, sha: main.body.object?.sha });
  await story.github('PUT', `${REPO}/contents/notes/${branch}.md`, {
    message: 'Add a note',
    content: Buffer.from(`${branch}\n`).toString('base64'),
    branch,
  });
  const opened = await story.github('POST', `${REPO}/pulls`, {
    title: `Add ${branch}`,
    head: branch,
    base: 'main',
  });
  return (opened.body as { number?: number }).number ?? 0;
}

async function ask(channel: string): Promise<Asked> {
  const pull = await openPull();
  const ts = await story.people.say(REQUESTER, channel, `${MENTION} merge pull request ${pull} in acme/shop`);
  return { pull, channel, ts };
}

const isOpenCard = (message: SeenMessage) =>
  JSON.stringify(message.blocks ?? []).includes('"approval.approve"');
const openCards = async ({ channel, ts }: Asked) =>
  (await story.people.thread(channel, ts)).filter(isOpenCard);
const untilCard = (asked: Asked, timeoutMs?: number) =>
  until('its card', async () => (await openCards(asked))[0], timeoutMs);
/** Nothing is owed that could be sent now. */
const quiet = () =>
  until('Slack to show everything', async () => {
    const { rows } = await story.db.query({ text: `select 1 from deliveries where status = 'due'` });
    return rows.length === 0;
  });
const postsTo = async (channel: string) =>
  (await story.people.calls('chat.postMessage')).filter(({ args }) => args.channel === channel);
const ready = async () => {
  const response = await fetch(`http://127.0.0.1:${story.product.address.port}/readyz`);
  return { status: response.status, text: await response.text() };
};

/** Makes it this card's turn to be looked after. (That its turn comes within a minute is shown in deliveries-stand-in-nobodys-way.) */
async function lookAfter(asked: Asked): Promise<void> {
  await story.db.query({ text: `delete from delivery_pauses where call = 'refresh'` });
  await story.db.query({
    text: `update deliveries d set refresh_at = db_now() from approval_requests r, tasks t
           where r.request_id = d.subject_id and t.run_id = r.run_id and t.message_ts = $1 and d.view_kind = 'approval'`,
    values: [asked.ts],
  });
  await ring(story.db, 'delivery');
}

async function expectUntouched(): Promise<void> {
  for (const asked of pending) expect(await openCards(asked)).toHaveLength(1);
  const { rows } = await story.db.query<{ status: string; decisions: number }>({
    text: `select r.status, (select count(*)::int from decisions d where d.request_id = r.request_id) as decisions
           from approval_requests r join tasks t on t.run_id = r.run_id where t.message_ts = any ($1)`,
    values: [pending.map(({ ts }) => ts)],
  });
  expect(rows).toEqual(pending.map(() => ({ status: 'pending', decisions: 0 })));
  expect(await story.merges()).toEqual([]);
}

beforeAll(async () => {
  pending = [await ask(ENGINEERING), await ask(ENGINEERING), await ask(ENGINEERING)];
  for (const asked of pending) await untilCard(asked);
  await quiet();
});

test('answers lost after posting, and server errors before and after: one message each, late', async () => {
  await story.people.fault({ method: 'chat.postMessage', kind: 'drop_after', times: 2 });
  await story.people.fault({ method: 'chat.postMessage', kind: 'server_error' });
  await story.people.fault({ method: 'conversations.replies', kind: 'server_error' });
  await story.people.fault({ method: 'chat.update', kind: 'server_error' });
  const asked = await ask(GENERAL);

  await untilCard(asked);
  await quiet();

  // The question, the task's message and the card: what was posted without an answer was found again.
  expect(await story.people.thread(GENERAL, asked.ts)).toHaveLength(3);
  await expectUntouched();
});

test('a pause in one channel: nothing is sent there before it ends, another channel works at once', async () => {
  const before = (await postsTo(ENGINEERING)).length;
  await story.people.fault({
    method: 'chat.postMessage',
    kind: 'rate_limited',
    channel: ENGINEERING,
    // Longer than the other channel's card takes on a busy machine.
    retryAfterSec: 5,
  });
  const paused = [await ask(ENGINEERING), await ask(ENGINEERING)];
  const refused = await until('the pause to be asked for', async () =>
    (await postsTo(ENGINEERING)).find(({ status }) => status === 429),
  );
  const elsewhere = await ask(GENERAL);

  await untilCard(elsewhere);
  expect(await openCards(paused[0] as Asked)).toEqual([]);
  for (const asked of paused) await untilCard(asked);
  await quiet();

  const after = (await postsTo(ENGINEERING)).slice(before);
  expect(after.filter(({ status }) => status === 429)).toHaveLength(1);
  const next = after.find(({ ok }) => ok);
  expect((next?.atMs ?? 0) - refused.atMs).toBeGreaterThanOrEqual(4_950);
  // Two task messages and two cards, each once.
  expect(after.filter(({ ok }) => ok)).toHaveLength(4);
  await expectUntouched();
});

test('a deleted card is noticed though nothing changes, and stands again', async () => {
  const [asked] = pending as [Asked];
  const card = await untilCard(asked);
  await story.people.removeMessage(ENGINEERING, card.ts);

  const again = await until('the card to stand again', async () => {
    await lookAfter(asked);
    return (await openCards(asked))[0];
  });
  expect(again.ts).not.toBe(card.ts);
  await quiet();
  await expectUntouched();
});

test('a revoked token: everything rests and readiness says so; all arrives when it works again', async () => {
  for (const method of ['chat.postMessage', 'chat.update', 'reactions.add'])
    await story.people.fault({ method, kind: 'error', error: 'token_revoked', times: 1_000 });
  const asked = await ask(ENGINEERING);
  await until('readiness to say so', async () => (await ready()).text.includes('token_revoked'));
  await until('its card to be owed', async () => {
    const { rows } = await story.db.query({
      text: `select 1 from deliveries d join approval_requests r on r.request_id = d.subject_id
             join tasks t on t.run_id = r.run_id where t.message_ts = $1`,
      values: [asked.ts],
    });
    return rows.length > 0;
  });

  expect((await ready()).status).toBe(503);
  const calls = await story.people.calls();
  expect(calls.filter(({ error }) => error === 'token_revoked').length).toBeLessThan(5);

  await story.people.clearFaults();
  await story.setClock('121 seconds');
  await ring(story.db, 'delivery');
  await untilCard(asked);
  await quiet();
  await until('readiness to say so', async () => (await ready()).status === 200);
  await expectUntouched();
});

test('an archived channel and an owner who is gone: the admins have the request, once, and it works', async () => {
  const asked = await ask(GENERAL);
  await untilCard(asked);
  await quiet();
  await story.people.deactivate(REQUESTER);
  await story.people.archive(GENERAL);
  const card = await until('the admin to have it', async () => {
    // Nothing changes but that it is looked after.
    await lookAfter(asked);
    const messages = await story.people.messages(ADMINS_DIRECT_MESSAGE);
    return messages.find(
      (message) => isOpenCard(message) && JSON.stringify(message).includes(`pull request ${asked.pull}`),
    );
  });
  await quiet();

  expect((await story.people.messages(OWNERS_DIRECT_MESSAGE)).filter(isOpenCard)).toEqual([]);
  const { rows: ends } = await story.db.query<{ place: string; status: string; last_error: string | null }>({
    text: `select d.place, d.status, d.last_error from deliveries d join approval_requests r on r.request_id = d.subject_id
           join tasks t on t.run_id = r.run_id where t.message_ts = $1 order by d.delivery_id`,
    values: [asked.ts],
  });
  expect(ends).toEqual([
    { place: GENERAL, status: 'refused', last_error: 'chat.update: is_archived' },
    { place: REQUESTER, status: 'refused', last_error: 'the account is deactivated or unknown' },
    { place: REVIEWER_B, status: 'settled', last_error: null },
  ]);
  await expectUntouched();
  const approve = () =>
    story.people.click(REVIEWER_B, {
      channel: ADMINS_DIRECT_MESSAGE,
      ts: card.ts,
      actionId: 'approval.approve',
    });
  // A copy outside the task's channel does not show all: Details come first.
  await approve();
  await until('the reading to be kept', async () => {
    const { rowCount } = await story.db.query({ text: 'select 1 from detail_views' });
    return rowCount === 1;
  });
  await approve();
  await until('merged', async () => (await story.merges()).length === 1);
});

test('and in the end each of the three is decided and merged once', async () => {
  for (const asked of pending) {
    const card = await untilCard(asked);
    await story.people.click(REVIEWER_A, {
      channel: ENGINEERING,
      ts: card.ts,
      actionId: 'approval.approve',
    });
  }

  await until('all to be merged', async () => (await story.merges()).length === 4);
  await until('the cards to say so', async () => (await openCards(pending[2] as Asked)).length === 0);
  const merged = (await story.merges()).map(({ path }) => path);
  for (const { pull } of pending) expect(merged).toContain(`${REPO}/pulls/${pull}/merge`);
  expect(new Set(merged).size).toBe(4);
});
