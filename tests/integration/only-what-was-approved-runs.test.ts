/**
 * Guarantee: what was approved is what runs. When the head moves while the card is open, an approval executes nothing, the card shows what
 * changed, and people are asked again about what is there now. A stored action that no longer matches its fingerprint never runs.
 */
import pg from 'pg';
import { expect, test } from 'vitest';
import { until } from '../support/database.ts';
import { ENGINEERING, REVIEWER_A, REVIEWER_B } from '../support/people.ts';
import { askForMerge, ledgerKinds, moveHead, useProduct } from '../support/product.ts';

const story = useProduct();
const approve = (user: string, ts: string) =>
  story.people.click(user, { channel: ENGINEERING, ts, actionId: 'approval.approve' });

test('a stored action that was tampered with is denied, approval or not', async () => {
  const { ts, card } = await askForMerge(story);
  const owner = new pg.Client({ connectionString: story.adminUrl });
  await owner.connect();
  await owner.query('alter table actions disable trigger user');
  await owner.query(
    `update actions set arguments = '{"owner":"acme","repo":"shop","pull_number":1,"merge_method":"merge"}'
     where run_id = (select run_id from tasks where message_ts = $1)`,
    [ts],
  );
  await owner.query('alter table actions enable trigger user');
  await owner.end();

  await approve(REVIEWER_A, card.ts);

  await until('finished', async () => (await ledgerKinds(story, ts)).includes('task.finished'));
  expect(await ledgerKinds(story, ts)).toContain('action.closed');
  expect(await ledgerKinds(story, ts)).not.toContain('action.executing');
  expect(await story.merges()).toEqual([]);
});

test('the head moves while the card is open: approve merges nothing, shows the delta, asks again; the second approval merges the new head', async () => {
  const { ts, card } = await askForMerge(story);
  const oldHead = (await story.github('GET', '/repos/acme/shop/pulls/1')).body.head?.sha ?? '';
  const newHead = await moveHead(story);
  expect(newHead).not.toBe(oldHead);

  await approve(REVIEWER_A, card.ts);

  const second = await until('a second card', async () =>
    (await story.people.thread(ENGINEERING, ts)).find(
      (message) =>
        message.ts !== card.ts && JSON.stringify(message.blocks ?? []).includes('approval.approve'),
    ),
  );
  expect(await story.merges()).toEqual([]);
  const old = await until('the old card shows the delta', async () => {
    const text = JSON.stringify(
      (await story.people.thread(ENGINEERING, ts)).find((message) => message.ts === card.ts),
    );
    return text.includes(newHead) && text;
  });
  expect(old).toContain(oldHead);
  expect(old).not.toContain('approval.approve');
  expect(old).toContain(`approved before by <@${REVIEWER_A}>`);
  expect(JSON.stringify(second)).toContain(newHead);
  // The new card stands where the old one stood: it must not be taken for it, nor the agent's words for words on what is there now.
  expect(JSON.stringify(second)).toMatch(/Asked again.*Changed: `\/head\/sha`/);
  expect(JSON.stringify(second)).toContain('said before that change');
  await until('who approved to be told', async () =>
    JSON.stringify(await story.people.ephemerals(REVIEWER_A)).includes('What you approved was not executed'),
  );

  // A late click on the old card is explained and decides nothing.
  const late = await story.people
    .click(REVIEWER_B, { channel: ENGINEERING, ts: card.ts, actionId: 'approval.approve', stale: true })
    .catch((error: unknown) => error);
  if (!(late instanceof Error))
    await until('told', async () => JSON.stringify(await story.people.ephemerals(REVIEWER_B)).length > 4);
  expect(await story.merges()).toEqual([]);

  await approve(REVIEWER_B, second.ts);

  await until(
    'merged',
    async () => (await story.github('GET', '/repos/acme/shop/pulls/1')).body.merged === true,
  );
  await until('finished', async () => (await ledgerKinds(story, ts)).includes('task.finished'));
  expect(await story.merges()).toHaveLength(1);
  const kinds = await ledgerKinds(story, ts);
  expect(kinds.filter((kind) => kind === 'approval.superseded')).toHaveLength(1);
  const { rows } = await story.db.query<{ preconditions: unknown }>({
    text: `select a.preconditions from actions a where a.status = 'done'`,
  });
  expect(JSON.stringify(rows)).toContain(newHead);
});
