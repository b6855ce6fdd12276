/**
 * Guarantee, the first story whole: a mention becomes a task, the agent proposes a merge, nothing is merged before an entitled
 * second person's click, exactly the approved head is merged after it, and everybody sees what happened.
 */
import { expect, test } from 'vitest';
import { verifyLedger } from '../../src/jobs/ledger-verify.ts';
import { until } from '../support/database.ts';
import { ENGINEERING, REVIEWER_A } from '../support/people.ts';
import { askForMerge, useProduct } from '../support/product.ts';

const story = useProduct();

test('a mention ends with the pull request merged after a second person approved', async () => {
  const { ts, card } = await askForMerge(story);
  const before = await story.github('GET', '/repos/acme/shop/pulls/1');
  expect(before.body.merged).toBe(false);

  const click = await story.people.click(REVIEWER_A, {
    channel: ENGINEERING,
    ts: card.ts,
    actionId: 'approval.approve',
  });

  expect(click.ackStatus).toBe(200);
  await until(
    'merged',
    async () => (await story.github('GET', '/repos/acme/shop/pulls/1')).body.merged === true,
  );
  const merges = await story.merges();
  expect(merges).toHaveLength(1);
  const thread = await until('final card, receipt and summary', async () => {
    const messages = await story.people.thread(ENGINEERING, ts);
    const text = JSON.stringify(messages);
    return (
      text.includes('Merged') &&
      !text.includes('"approval.approve"') &&
      /Merged pull request 1/.test(text) &&
      messages
    );
  });
  const finalCard = thread.find((message) => message.ts === card.ts);
  expect(JSON.stringify(finalCard)).toContain(`<@${REVIEWER_A}>`);
  expect(JSON.stringify(finalCard)).not.toContain('approval.reject');
  await until('run completed', async () => {
    const { rows } = await story.db.query<{ status: string }>({ text: 'select status from runs' });
    return rows.every((row) => row.status === 'completed');
  });
  const kinds = await story.db.query<{ entry_kind: string }>({
    text: `select entry_kind from ledger_entries where subject_kind = 'run' order by subject_seq`,
  });
  expect(kinds.rows.map((row) => row.entry_kind)).toEqual([
    'task.accepted',
    'action.proposed',
    'approval.requested',
    'approval.decided',
    'approval.approved',
    'action.executing',
    'action.done',
    'task.finished',
  ]);
  await until('sealed', async () => (await verifyLedger(story.db)).unsealed === 0);
  expect(await verifyLedger(story.db)).toMatchObject({ firstBad: null, unsealed: 0 });
  const asked = await story.people.calls('reactions.add');
  expect(asked.length).toBe(1);
});
