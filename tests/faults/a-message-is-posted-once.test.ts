/**
 * Guarantee: whatever becomes of Slack's answer to a post, a card is posted once: an answer that was lost, or that came while the process
 * was dead, leads to a look into the thread and not to a second card. The one card works.
 */
import { expect, test } from 'vitest';
import { until } from '../support/database.ts';
import { ENGINEERING } from '../support/people.ts';
import { type ProductProcess, useProcess } from '../support/process.ts';
import {
  approve,
  ask,
  cardPosts,
  expectMergedOnce,
  openCard,
  openPull,
  REPAIRED_MS,
  type Story,
} from './story.ts';

const product = useProcess();

test('the answer to the post was lost: one card, and it works', async () => {
  const story = await untilTheCardIsNext(product);
  await product.people.fault({ method: 'chat.postMessage', kind: 'drop_after', channel: ENGINEERING });
  await product.release();
  const card = await openCard(product, story);
  await untilRecorded(story);

  expect((await cardPosts(product, story)).map((call) => call.fault)).toEqual(['drop_after']);
  await approve(product, card);
  await expectMergedOnce(product, { ...story, card });
});

test('killed between the post and its record: one card, and it works', async () => {
  const story = await untilTheCardIsNext(product);
  await product.people.fault({ method: 'chat.postMessage', kind: 'delay_after', delayMs: 60_000 });
  await product.release();
  const card = await openCard(product, story);
  expect(await recorded(story)).toBe(false);

  await product.kill9();
  await product.start();
  await untilRecorded(story);

  expect((await cardPosts(product, story)).map((call) => call.fault)).toEqual(['delay_after']);
  await approve(product, card);
  await expectMergedOnce(product, { ...story, card });
});

/** A story whose next new message is its card: the last look at the pull request before it is held. */
async function untilTheCardIsNext(of: ProductProcess): Promise<Story> {
  const pull = await openPull(of);
  await of.fault({ match: { method: 'GET', pathPattern: '/compare/' }, kind: 'hold' });
  const story = await ask(of, pull);
  await of.held(1);
  await until('the task message to stand', async () => {
    const thread = await of.people.thread(ENGINEERING, story.ts);
    const { rows } = await of.db.query({ text: `select 1 from deliveries where status = 'due'` });
    return thread.length === 2 && rows.length === 0;
  });
  return story;
}

/** Whether the database knows where the story's card stands. */
async function recorded(story: Story): Promise<boolean> {
  const { rows } = await product.db.query<{ ts: string | null }>({
    text: `select ts from deliveries where view_kind = 'approval' and target->'thread'->>'threadTs' = $1`,
    values: [story.ts],
  });
  return rows[0] !== undefined && rows[0].ts !== null;
}

function untilRecorded(story: Story): Promise<true> {
  return until('the card to be recorded', async () => (await recorded(story)) && true, REPAIRED_MS);
}
