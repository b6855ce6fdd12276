/**
 * Guarantee: what goes to the policy's admins, because neither the channel of a task nor its owner takes it, tells them what is asked and of
 * whom, and nothing of what the task is about: an admin need be neither a reviewer nor a member of that channel. Details open from there for
 * who may decide, Approve opens them first; anybody else is told so privately. The owner's copy shows all.
 */
import { expect, test } from 'vitest';
import { redraw } from '../../src/jobs/deliveries.ts';
import { until } from '../support/database.ts';
import { ENGINEERING, REVIEWER_A, REVIEWER_B, type SeenMessage } from '../support/people.ts';
import { askForMerge, TEAM, useProduct } from '../support/product.ts';

const person = (userId: string) => ({ teamId: TEAM, userId });
// One admin is a reviewer, the other is not.
const story = useProduct({
  admins: [person(REVIEWER_A), person(REVIEWER_B)],
  reviewers: [person(REVIEWER_A)],
});
const OWNERS = 'D0REQUESTER';
const ARGUMENT = 'pull_number';

const cardIn = async (channel: string): Promise<SeenMessage | undefined> =>
  (await story.people.messages(channel)).find(({ blocks }) =>
    JSON.stringify(blocks ?? []).includes('approval.details'),
  );
const press = async (user: string, channel: string, actionId: string) =>
  story.people.click(user, { channel, ts: (await cardIn(channel))?.ts ?? '', actionId });

/** Redraws the card where it stands, so that what Slack says of that place is heard. */
async function redrawn(): Promise<void> {
  const { rows } = await story.db.query<{ request_id: string }>({
    text: 'select request_id from approval_requests',
  });
  await story.db.transaction((tx) => redraw(tx, TEAM, rows[0]?.request_id ?? ''));
}

test('the owner’s copy shows all; those of the admins do not, and their Details ask who it is', async () => {
  await askForMerge(story);
  await story.people.archive(ENGINEERING);
  await redrawn();
  const owners = await until('the owner to have it', () => cardIn(OWNERS));
  expect(JSON.stringify(owners.blocks)).toContain(ARGUMENT);

  await story.people.archive(OWNERS);
  await redrawn();
  const [reviewers, others] = ['D0REVIEWERA', 'D0REVIEWERB'];
  for (const channel of [reviewers, others]) {
    const card = await until('an admin to have it', () => cardIn(channel));
    expect(JSON.stringify(card.blocks)).toContain('github.pulls.merge');
    expect(JSON.stringify(card.blocks)).not.toContain(ARGUMENT);
  }

  await press(REVIEWER_B, others, 'approval.details');
  await until('a private note', async () =>
    JSON.stringify(await story.people.ephemerals(REVIEWER_B)).includes('for those who may decide'),
  );
  await press(REVIEWER_B, others, 'approval.approve');
  await until('the desk to explain', async () =>
    JSON.stringify(await story.people.ephemerals(REVIEWER_B)).includes('not one of the reviewers'),
  );
  expect(await story.people.views(REVIEWER_B)).toEqual([]);

  await press(REVIEWER_A, reviewers, 'approval.approve');
  const [details] = await until('Details', async () => {
    const views = await story.people.views(REVIEWER_A);
    return views.length > 0 && views;
  });
  expect(JSON.stringify(details?.blocks)).toContain(ARGUMENT);
  await until('the reading to be kept', async () => {
    const { rowCount } = await story.db.query({ text: 'select 1 from detail_views' });
    return rowCount === 1;
  });
  expect(await story.merges()).toEqual([]);
  await press(REVIEWER_A, reviewers, 'approval.approve');
  await until('merged', async () => (await story.merges()).length === 1);
  const done = await until('the copy to say so', async () => {
    const text = JSON.stringify((await cardIn(others))?.blocks);
    return text.includes('*Done*') && text;
  });
  expect(done).not.toContain(ARGUMENT);
});
