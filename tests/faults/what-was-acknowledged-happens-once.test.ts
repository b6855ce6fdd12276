/**
 * Guarantee: what Slack sent and was acknowledged has its consequence exactly once, though the process was killed between storing
 * and consequence, and though Slack sends it again afterwards: one task for a mention, one decision for a click.
 */
import { expect, test } from 'vitest';
import { until } from '../support/database.ts';
import { ENGINEERING, REVIEWER_A } from '../support/people.ts';
import { useProcess } from '../support/process.ts';
import { approve, ask, expectMergedOnce, openCard, openPull, REPAIRED_MS, untilAsked } from './story.ts';

/** Longer than the product lives on. */
const NEVER_MS = 60_000;

const product = useProcess();

test('a mention and a click, stored and acknowledged before the kill, count once after it', async () => {
  const clicked = await untilAsked(product);
  const pull = await openPull(product);
  await product.people.fault({ method: 'users.info', kind: 'delay', delayMs: NEVER_MS, times: 2 });
  const mentioned = await ask(product, pull);
  await approve(product, clicked.card);
  await until('both to be looked into', async () =>
    (await inbox('stored')).every((row) => row.try_count === 1),
  );
  expect(await inbox('stored')).toHaveLength(2);
  const tasks = 'select count(*) as count from tasks where message_ts = $1';
  expect(await product.db.query({ text: tasks, values: [mentioned.ts] })).toMatchObject({
    rows: [{ count: 0 }],
  });

  await product.kill9();
  await product.people.clearFaults();
  await product.start();

  await expectMergedOnce(product, clicked);
  const card = await openCard(product, mentioned, REPAIRED_MS);
  expect(await product.db.query({ text: tasks, values: [mentioned.ts] })).toMatchObject({
    rows: [{ count: 1 }],
  });

  const events = (await product.people.deliveries()).filter(
    (delivery) =>
      delivery.envelope.event.ts === mentioned.ts && delivery.envelope.event.channel === ENGINEERING,
  );
  expect(events.length).toBeGreaterThan(0);
  for (const event of events) expect((await product.people.redeliver(event.eventId)).ackStatus).toBe(200);
  await until('the redeliveries to be handled', async () => (await inbox('stored')).length === 0);
  expect(await product.db.query({ text: tasks, values: [mentioned.ts] })).toMatchObject({
    rows: [{ count: 1 }],
  });
  const { rows } = await product.db.query<{ rows: number; deliveries: number }>({
    text: `select count(*) as rows, min(delivery_count) as deliveries from inbox where dedupe_key like any ($1)`,
    values: [events.map((event) => `%${event.eventId}%`)],
  });
  // A mention's twin, the plain message event, is not stored: the mention says it all.
  expect(rows).toEqual([{ rows: 1, deliveries: 2 }]);

  await approve(product, card);
  await expectMergedOnce(product, { ...mentioned, card });
  const decisions = await product.db.query<{ user_id: string }>({ text: 'select user_id from decisions' });
  expect(decisions.rows).toEqual([{ user_id: REVIEWER_A }, { user_id: REVIEWER_A }]);
});

async function inbox(status: string): Promise<{ try_count: number }[]> {
  const { rows } = await product.db.query<{ try_count: number }>({
    text: 'select try_count from inbox where status = $1',
    values: [status],
  });
  return rows;
}
