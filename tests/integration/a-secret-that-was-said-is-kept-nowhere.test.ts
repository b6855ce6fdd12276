/**
 * Guarantee, over the whole product: a credential in a person's request, and one in the reason of their decision, is masked before it is
 * kept. Afterwards it stands in no table but the inbox, which holds what Slack sent as it was sent: not in the journal, from which prompts are
 * made; and Slack was told it in no call.
 */
import { expect, test } from 'vitest';
import { until } from '../support/database.ts';
import { ENGINEERING, REQUESTER, REVIEWER_A } from '../support/people.ts';
import { cardIn, MERGE, useProduct } from '../support/product.ts';

const story = useProduct();
const IN_THE_REQUEST = `glpat-${'Zq7'.repeat(8)}`;
const IN_THE_REASON = 'correcthorsebattery9';

test('said in a request and in a reason', async () => {
  const ts = await story.people.say(REQUESTER, ENGINEERING, `${MERGE} with ${IN_THE_REQUEST}`);
  const card = await cardIn(story.people, ENGINEERING, ts);
  await story.people.click(REVIEWER_A, { channel: ENGINEERING, ts: card.ts, actionId: 'approval.reject' });
  await until('the window', async () => (await story.people.views(REVIEWER_A)).length > 0);
  await story.people.submitView(REVIEWER_A, {
    'reason.text': `use postgres://app:${IN_THE_REASON}@db/shop instead`,
  });
  await until('the end of the task', async () => {
    const { rows } = await story.db.query<{ done: boolean }>({
      text: `select finished_at is not null as done from tasks where message_ts = $1`,
      values: [ts],
    });
    return rows[0]?.done === true;
  });
  await until('the last redraw', async () => {
    const { rows } = await story.db.query({ text: `select 1 from deliveries where status = 'due'` });
    return rows.length === 0;
  });

  const { rows: tables } = await story.db.query<{ name: string }>({
    text: `select quote_ident(table_schema) || '.' || quote_ident(table_name) as name from information_schema.tables
           where table_schema not in ('pg_catalog', 'information_schema') and table_type = 'BASE TABLE'`,
  });
  const holding: string[] = [];
  for (const { name } of tables) {
    const { rows } = await story.db.query({
      text: `select 1 from ${name} as row where strpos(row::text, $1) > 0 or strpos(row::text, $2) > 0 limit 1`,
      values: [IN_THE_REQUEST, IN_THE_REASON],
    });
    if (rows.length > 0) holding.push(name);
  }
  expect(tables.length).toBeGreaterThan(15);
  expect(holding).toEqual(['public.inbox']);

  const calls = JSON.stringify(await story.people.calls());
  expect(calls).toContain('[secret]');
  expect(calls).not.toContain(IN_THE_REQUEST);
  expect(calls).not.toContain(IN_THE_REASON);
});
