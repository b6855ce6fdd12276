/**
 * Guarantee: a process that is killed while it posts the morning digest leaves one digest: the process that comes after it finds the message
 * that stands already, starts the date's run no second time, and moves the schedule on once.
 */
import { expect, test } from 'vitest';
import { until } from '../support/database.ts';
import { GENERAL } from '../support/people.ts';
import { useProcess } from '../support/process.ts';
import { expectLedgerVerifies, REPAIRED_MS } from './story.ts';

const product = useProcess(async () => ({
  COUNTERSIGN_DIGEST_CHANNEL: GENERAL,
  COUNTERSIGN_TIMEZONE: 'Asia/Kathmandu',
}));

const posts = async () =>
  (await product.people.calls('chat.postMessage')).filter(
    (call) => call.args.channel === GENERAL && call.args.thread_ts === undefined,
  );

test('killed between the post and its record, and killed again at the start', async () => {
  await product.people.fault({ method: 'chat.postMessage', kind: 'delay_after', delayMs: 60_000 });
  // It is nine o'clock.
  await product.db.query({
    text: `with due as (update schedules set next_at = date_trunc('second', db_now()) returning schedule_id)
           select pg_notify(channel, 'schedule') from due, unnest($1::text[]) as channel`,
    values: [['countersign_wake']],
  });
  await until('the digest to be posted', async () => (await posts()).length > 0, REPAIRED_MS);
  await product.kill9();
  await product.start();
  await product.kill9();
  await product.start();
  await until(
    'it to be recorded',
    async () => {
      const { rows } = await product.db.query<{ ts: string | null }>({
        text: `select ts from deliveries where view_kind = 'digest' and status = 'settled'`,
      });
      return rows[0] !== undefined && rows[0].ts !== null;
    },
    REPAIRED_MS,
  );

  expect((await posts()).filter((call) => call.performed)).toHaveLength(1);
  const messages = await product.people.messages(GENERAL);
  expect(messages.filter((message) => message.bot_id !== undefined)).toMatchObject([
    { text: expect.stringMatching(/^Nothing to report since /) },
  ]);
  const { rows } = await product.db.query<{ runs: number; digests: number; started: number }>({
    text: `select (select count(*)::int from runs where workflow_name = 'morning-digest' and status = 'completed') as runs,
             (select count(*)::int from digests) as digests,
             (select count(*)::int from ledger_entries where entry_kind = 'schedule.started') as started`,
  });
  expect(rows).toEqual([{ runs: 1, digests: 1, started: 1 }]);
  await expectLedgerVerifies(product);
});
