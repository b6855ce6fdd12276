/**
 * Guarantee: while the database takes nothing in, be it that the reserved connections are all held up, every request of Slack's is answered 503
 * within a second, and taken when it comes again: each once. Storing has connections of its own: however busy all others are, it does not wait.
 */
import { createHmac } from 'node:crypto';
import pg from 'pg';
import { expect, test } from 'vitest';
import { until } from '../support/database.ts';
import { TEAM, useProduct } from '../support/product.ts';
import { PROMPTNESS } from '../support/promptness.ts';

/** More than there are reserved connections. */
const EVENTS = 7;
/** A second, and what a busy machine adds. */
const BOUND_MS = 1_500;

const product = useProduct();

async function send(eventId: string): Promise<{ status: number; tookMs: number }> {
  const body = JSON.stringify({
    type: 'event_callback',
    team_id: TEAM,
    event_id: eventId,
    event: {
      type: 'app_mention',
      user: 'U0NOBODY',
      channel: 'C0ENG',
      ts: `${eventId.slice(2)}.1`,
      text: 'x',
    },
  });
  const timestamp = String(Math.floor(Date.now() / 1_000));
  const signature = createHmac('sha256', product.world.slack.signingSecret)
    .update(`v0:${timestamp}:${body}`)
    .digest('hex');
  const startedAt = performance.now();
  const answer = await fetch(`http://127.0.0.1:${product.product.address.port}/slack/events`, {
    method: 'POST',
    body,
    headers: {
      'content-type': 'application/json',
      'x-slack-request-timestamp': timestamp,
      'x-slack-signature': `v0=${signature}`,
    },
  });
  return { status: answer.status, tookMs: performance.now() - startedAt };
}

/** Runs `meanwhile` while this statement's transaction is open. */
async function holding<T>(statement: string, meanwhile: () => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: product.adminUrl });
  await client.connect();
  try {
    await client.query('begin');
    await client.query(statement);
    return await meanwhile();
  } finally {
    await client.query('rollback');
    await client.end();
  }
}

async function handled(first: number): Promise<boolean> {
  const { rows } = await product.db.query<{ count: number }>({
    text: `select count(*) as count from inbox where status = 'handled' and dedupe_key = any($1)`,
    values: [Array.from({ length: EVENTS }, (_, index) => `event:Ev${first + index}`)],
  });
  return rows[0]?.count === EVENTS;
}

const all = (first: number) =>
  Promise.all(Array.from({ length: EVENTS }, (_, index) => send(`Ev${first + index}`)));

test(
  'an inbox that is locked answers 503 within a second, and takes each event once afterwards',
  PROMPTNESS,
  async () => {
    const refused = await holding('lock table inbox in access exclusive mode', () => all(100));

    for (const { status, tookMs } of refused) {
      expect(status).toBe(503);
      expect(tookMs).toBeLessThan(BOUND_MS);
    }
    expect((await all(100)).map(({ status }) => status)).toEqual(Array(EVENTS).fill(200));
    await until('each to be handled', () => handled(100));
    const { rows } = await product.db.query<{ count: number }>({
      text: `select count(*) as count from inbox where dedupe_key like 'event:Ev10_'`,
    });
    expect(rows).toEqual([{ count: EVENTS }]);
  },
);

test(
  'storing has connections of its own, which no other work of the process can hold',
  PROMPTNESS,
  async () => {
    const storing = await holding('lock table inbox in access exclusive mode', async () => {
      const sent = all(200);
      const names = await until('events to wait for the lock', async () => {
        const { rows } = await product.db.query<{ name: string }>({
          text: `select distinct application_name as name from pg_stat_activity
               where datname = current_database() and wait_event_type = 'Lock' and query like '%insert into inbox%'`,
        });
        return rows.length > 0 && rows.map(({ name }) => name);
      });
      await sent;
      return names;
    });

    expect(storing).toEqual(['countersign-ack']);
  },
);
