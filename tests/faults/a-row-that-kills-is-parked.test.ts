/**
 * Guarantee: a stored request whose handling ends the process each time is given up after five claims, which are counted before the work
 * begins, and its author is told; the requests that were merely in the same processes are handled, none of them given up. And the inbox
 * does not grow for ever: what was handled a day ago goes, what needs a person a month after it came.
 */
import { randomUUIDv7 } from 'node:crypto';
import { afterEach, expect, test } from 'vitest';
import { type Bell, openBell } from '../../src/jobs/engine/bell.ts';
import { pruneInbox, startInbox, storeRequest } from '../../src/jobs/inbox.ts';
import type { Loop } from '../../src/jobs/loop.ts';
import { testLog, until, useDatabase, WORKSPACE } from '../support/database.ts';
import { PROMPTNESS } from '../support/promptness.ts';

const base = useDatabase();
const open: { stop(): Promise<void> }[] = [];
afterEach(async () => {
  for (const one of open.splice(0)) await one.stop();
  await base.db.query({ text: 'delete from inbox' });
});

async function store(user: string): Promise<void> {
  await storeRequest(base.db, {
    workspaceId: WORKSPACE,
    dedupeKey: randomUUIDv7(),
    source: 'event',
    payload: { type: 'event_callback', event: { type: 'app_mention', user, channel: 'C1', ts: '1.1' } },
  });
}

/** A process that works the inbox; `die` leaves it as a kill does: what it holds never comes to an end, and its lease is over. */
async function processOf(fate: (user: string) => 'dies' | 'lives') {
  const workerId = randomUUIDv7();
  await base.db.query({
    text: `insert into workers (worker_id, pid, lease_until) values ($1, 1, 'infinity')`,
    values: [workerId],
  });
  const bell: Bell = await openBell(base.db);
  const died = Promise.withResolvers<void>();
  const hung: (() => void)[] = [];
  let isDead = false;
  const held = () => new Promise<never>((_, reject) => hung.push(() => reject(new Error('never told'))));
  const loop: Loop = startInbox({
    database: base.db,
    bell,
    workerId,
    log: testLog,
    route: async ({ payload }) => {
      const { user } = payload.event as { user: string };
      if (fate(user) === 'dies') {
        isDead = true;
        // In the same turn, so that nothing else of this process comes to its end.
        died.resolve();
      }
      await Promise.resolve();
      return isDead ? held() : async () => undefined;
    },
  });
  open.push({
    stop: async () => {
      for (const end of hung) end();
      await loop.stop();
      await bell.close();
    },
  });
  const die = () =>
    base.db.query({
      text: `update workers set lease_until = db_now() - interval '1 second' where worker_id = $1`,
      values: [workerId],
    });
  return { died: died.promise, die };
}

async function countOf(status: string): Promise<number> {
  const { rows } = await base.db.query<{ count: number }>({
    text: 'select count(*) as count from inbox where status = $1',
    values: [status],
  });
  return rows[0]?.count ?? 0;
}

test('five processes end, the sixth gives the row up and handles the others', async () => {
  await store('UPOISON');
  for (let index = 0; index < 7; index += 1) await store(`U${index}`);
  let deaths = 0;
  for (; deaths < 5; deaths += 1) {
    const process = await processOf((user) => (user === 'UPOISON' ? 'dies' : 'lives'));
    await process.died;
    await process.die();
  }

  await processOf((user) => {
    if (user === 'UPOISON') throw new Error('worked on a sixth time');
    return 'lives';
  });

  await until('the others to be handled', async () => (await countOf('handled')) === 7);
  await until('the row to be parked', async () => (await countOf('parked')) === 1);
  const { rows } = await base.db.query<{ target: { userId: string }; content: object }>({
    text: `select target, content from deliveries`,
  });
  expect(rows).toMatchObject([{ target: { userId: 'UPOISON' }, content: { kind: 'could_not_handle' } }]);
  expect(deaths).toBe(5);
});

/** Of them a seventh is old. `ROWS=100000` measures more. */
const ROWS = Number(process.env.ROWS ?? 8_000);

test('handled rows go in batches once they are a day old, their keys not before', PROMPTNESS, async () => {
  await base.db.query({ text: 'delete from inbox' });
  await base.db.query({
    text: `insert into inbox (workspace_id, inbox_id, dedupe_key, source, payload, status, handled_at)
           select $1, uuidv7(), 'event:' || n, 'event', '{"type":"event_callback"}', 'handled', db_now() - n * interval '100000 seconds' / $2::integer
           from generate_series(1, $2::integer) n`,
    values: [WORKSPACE, ROWS],
  });
  for (const [n, days] of [
    [ROWS, 29],
    [ROWS - 1, 31],
  ])
    await base.db.query({
      text: `update inbox set status = 'parked', received_at = db_now() - $2 * interval '1 day' where dedupe_key = $1`,
      values: [`event:${n}`, days],
    });
  const took: number[] = [];
  for (let count = -1; count !== 0; ) {
    const startedAt = performance.now();
    count = await pruneInbox(base.db);
    expect(count).toBeLessThanOrEqual(1_000);
    took.push(performance.now() - startedAt);
  }

  const { rows } = await base.db.query<{ count: number; oldest: number; parked: number }>({
    text: `select count(*) as count, extract(epoch from db_now() - min(handled_at) filter (where status = 'handled'))::float8 as oldest,
             count(*) filter (where status = 'parked') as parked from inbox`,
  });
  const day = 24 * 60 * 60;
  expect(rows[0]?.oldest).toBeGreaterThan(day - 60);
  expect(rows[0]?.oldest).toBeLessThanOrEqual(day);
  expect(rows[0]?.parked).toBe(1);
  expect(took.length).toBeGreaterThan(2);
  if (process.env.ROWS !== undefined) process.stdout.write(`batches took ${took.map(Math.round)} ms\n`);
  // No batch holds the table for long.
  expect(took.sort((a, b) => a - b)[Math.floor(took.length / 2)]).toBeLessThan(500);
});
