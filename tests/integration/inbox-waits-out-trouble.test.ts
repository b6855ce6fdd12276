/**
 * Guarantee: what Slack's, the database's or another service's trouble keeps from being handled is tried again for a day, never before the moment the
 * service asked for; what fails by itself is parked after nine tries. Whoever is not served is told: a parked click, mention or command
 * owes its author a private note. What Slack was told is not stored is not stored later.
 */
import { randomUUIDv7 } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CountersignError, DeliveryRefused } from '../../src/errors.ts';
import type { InboxRow } from '../../src/jobs/desk.ts';
import { type Bell, openBell, ring } from '../../src/jobs/engine/bell.ts';
import { connectDatabase } from '../../src/jobs/engine/db.ts';
import { startInbox, storeRequest } from '../../src/jobs/inbox.ts';
import type { Loop } from '../../src/jobs/loop.ts';
import type { JsonObject } from '../../src/types.ts';
import { testLog, until, useDatabase, WORKSPACE } from '../support/database.ts';
import { PROMPTNESS } from '../support/promptness.ts';

const CLICK: JsonObject = {
  type: 'block_actions',
  user: { id: 'U1' },
  channel: { id: 'C1' },
  message: { ts: '2.0', thread_ts: '1.0' },
  actions: [],
};

const base = useDatabase();
let bell: Bell;
let loop: Loop;
let failure: Error | null = null;

beforeEach(async () => {
  await base.setClock('0');
  await base.db.query({ text: `update inbox set status = 'parked' where status = 'stored'` });
  await base.db.query({ text: `update deliveries set status = 'refused'` });
  failure = null;
  bell = await openBell(base.db);
  const workerId = randomUUIDv7();
  await base.db.query({
    text: `insert into workers (worker_id, pid, lease_until) values ($1, 1, 'infinity')`,
    values: [workerId],
  });
  loop = startInbox({
    database: base.db,
    bell,
    workerId,
    log: testLog,
    route: async () => {
      if (failure !== null) throw failure;
      return async () => undefined;
    },
  });
});
afterEach(async () => {
  await loop.stop();
  await bell.close();
});

async function store(source: InboxRow['source'], payload: JsonObject): Promise<string> {
  const dedupeKey = randomUUIDv7();
  await storeRequest(base.db, { workspaceId: WORKSPACE, dedupeKey, source, payload });
  return dedupeKey;
}

interface Row {
  readonly status: string;
  readonly tries: number;
  readonly last_error: string | null;
  readonly wait_ms: number;
}

async function rowOf(dedupeKey: string): Promise<Row> {
  const { rows } = await base.db.query<Row>({
    text: `select status, try_count + trouble_count as tries, last_error, extract(epoch from next_try_at - db_now())::float8 * 1000 as wait_ms
           from inbox where dedupe_key = $1`,
    values: [dedupeKey],
  });
  if (rows[0] === undefined) throw new Error('no such row');
  return rows[0];
}

let offsetMs = 0;
/** Waits for the try with this number to have failed. */
const failed = (dedupeKey: string, tryNumber: number) =>
  until(`try ${tryNumber} to fail`, async () => {
    const { rows } = await base.db.query({
      text: `select 1 from inbox where dedupe_key = $1 and try_count + trouble_count >= $2 and claimed_until is null and last_error is not null`,
      values: [dedupeKey, tryNumber],
    });
    return rows.length === 1 && rowOf(dedupeKey);
  });
/** Lets database time pass, and the inbox look. */
async function pass(ms: number): Promise<void> {
  offsetMs += ms;
  // Not while a try is under way: it would put off the next one by the later clock.
  await until('the try to end', () =>
    base.db.transaction(async (tx) => {
      await tx.query({ text: 'lock table inbox in share mode' });
      const { rows } = await tx.query({
        text: `select 1 from inbox where status = 'stored' and claimed_until is not null`,
      });
      if (rows.length > 0) return false;
      await tx.query({
        text: `update test_clock set clock_offset = $1 * interval '1 millisecond'`,
        values: [offsetMs],
      });
      return true;
    }),
  );
  await ring(base.db, 'inbox_press');
  await ring(base.db, 'inbox_event');
}
beforeEach(() => {
  offsetMs = 0;
});

async function notes(): Promise<unknown[]> {
  const { rows } = await base.db.query<{ target: unknown; content: unknown }>({
    text: `select target, content from deliveries where view_kind = 'note' and status = 'due'`,
  });
  return rows;
}

test('a click outlives Slack trouble of any length below a day, and is then handled', async () => {
  failure = new CountersignError('DELIVERY_FAILED', 'users.info: internal_error');
  const key = await store('interaction', CLICK);
  for (let tryNumber = 1; tryNumber <= 14; tryNumber += 1) {
    const row = await failed(key, tryNumber);
    expect(row.status).toBe('stored');
    expect(row.wait_ms).toBeLessThanOrEqual(60_000);
    await pass(60_000);
  }
  await pass(20 * 60 * 60_000);
  await failed(key, 15);

  failure = null;
  await pass(60_000);

  await until('handled', async () => (await rowOf(key)).status === 'handled');
  expect(await notes()).toEqual([]);
});

test('a database that cannot be spoken to is trouble, not a defect of what came in', async () => {
  const log = testLog;
  const pool = connectDatabase({ url: base.appUrl, log, maxConnections: 1, acquireTimeoutMs: 1_000 });
  const free = new URL(base.appUrl);
  free.port = '1';
  const nobody = connectDatabase({ url: free.href, log });
  const thrown = (work: Promise<unknown>) => work.then(String, (error: unknown) => error as Error);
  // A second is enough to make the one connection, and too short to get it from who holds it.
  const starved = await pool.transaction(() => thrown(pool.query({ text: 'select 1' })));
  const cut = await thrown(pool.query({ text: 'select pg_terminate_backend(pg_backend_pid())' }));
  const refused = await thrown(nobody.query({ text: 'select 1' }));
  const crowded = Object.assign(new Error('sorry, too many clients already'), { code: '53300' });
  await Promise.all([pool.close(), nobody.close()]);
  const key = await store('interaction', CLICK);

  let tryNumber = 0;
  for (const trouble of Array.from({ length: 3 }, () => [starved, cut, refused, crowded]).flat()) {
    failure = trouble as Error;
    await pass(60_000);
    tryNumber += 1;
    expect((await failed(key, tryNumber)).status).toBe('stored');
  }

  failure = null;
  await pass(60_000);
  await until('handled', async () => (await rowOf(key)).status === 'handled');
});

test('what was given up while it waited for a connection is not stored later', async () => {
  const pool = connectDatabase({ url: base.appUrl, log: testLog, maxConnections: 1 });
  const given = new AbortController();
  const request = { workspaceId: WORKSPACE, source: 'interaction', payload: CLICK } as const;
  const stored = await pool.transaction(async () => {
    const waiting = [
      storeRequest(pool, { ...request, dedupeKey: 'in time' }),
      storeRequest(
        pool,
        { ...request, dedupeKey: 'too late' },
        { signal: given.signal, leftMs: () => 1_000 },
      ),
    ];
    given.abort(new Error('too late'));
    return { settled: Promise.allSettled(waiting) };
  });

  expect(await stored.settled).toMatchObject([{ value: 'stored' }, { reason: { message: 'too late' } }]);
  await pool.close();
  const { rows } = await base.db.query<{ dedupe_key: string }>({
    text: `select dedupe_key from inbox where dedupe_key in ('in time', 'too late')`,
  });
  expect(rows).toEqual([{ dedupe_key: 'in time' }]);
});

test('what waited in the database for longer than Slack does is not stored either', async () => {
  const request = { workspaceId: WORKSPACE, source: 'interaction', payload: CLICK } as const;
  const { signal } = new AbortController();
  const stored = await base.db.transaction(async (tx) => {
    await tx.query({ text: 'lock table inbox in share mode' });
    const waiting = [
      storeRequest(base.db, { ...request, dedupeKey: 'for long' }, { signal, leftMs: () => 20_000 }),
      storeRequest(base.db, { ...request, dedupeKey: 'for too long' }, { signal, leftMs: () => 200 }),
    ];
    await until('both to wait', async () => {
      const { rows } = await base.db.query({
        text: `select 1 from pg_stat_activity
               where datname = current_database() and wait_event_type = 'Lock' and query like '%insert into inbox%'`,
      });
      return rows.length === 2;
    });
    await pause(250);
    return { settled: Promise.allSettled(waiting) };
  });

  expect(await stored.settled).toMatchObject([
    { value: 'stored' },
    { reason: { message: 'division by zero' } },
  ]);
  const { rows } = await base.db.query<{ dedupe_key: string }>({
    text: `select dedupe_key from inbox where dedupe_key like 'for %'`,
  });
  expect(rows).toEqual([{ dedupe_key: 'for long' }]);
});

test('after a day of trouble the click is parked and its author is told where they clicked', async () => {
  failure = new CountersignError('DELIVERY_FAILED', 'users.info: internal_error');
  const key = await store('interaction', CLICK);
  await failed(key, 1);

  await pass(24 * 60 * 60_000 + 1);

  await until('parked', async () => (await rowOf(key)).status === 'parked');
  expect(await notes()).toEqual([
    {
      target: { to: 'person', channelId: 'C1', threadTs: '1.0', userId: 'U1' },
      content: { kind: 'could_not_handle' },
    },
  ]);
});

test.each([
  {
    what: 'a token that Slack refuses',
    because: 'the installation may come back',
    thrown: new DeliveryRefused('users.info: token_revoked', 'credential'),
  },
  {
    what: 'a policy that this release cannot read',
    because: 'an operator applies one that it can',
    thrown: new CountersignError('CONFIG_INVALID', 'The active policy was written for another release'),
  },
])('$what is waited out as well: $because', async ({ thrown }) => {
  failure = thrown;
  const key = await store('interaction', CLICK);
  for (let tryNumber = 1; tryNumber <= 12; tryNumber += 1) {
    expect((await failed(key, tryNumber)).status).toBe('stored');
    await pass(60_000);
  }

  failure = null;
  await pass(60_000);
  await until('handled', async () => (await rowOf(key)).status === 'handled');
});

test('no try comes before the moment that was asked for, however far that is', async () => {
  failure = new CountersignError('DELIVERY_FAILED', 'users.info: rate limited', {
    retryAfterMs: 20 * 60_000,
  });
  const key = await store('interaction', CLICK);

  const row = await failed(key, 1);

  expect(row.wait_ms).toBeGreaterThan(19 * 60_000);
});

test('a short pause that was asked for ends a try later, not at the next sweep', PROMPTNESS, async () => {
  failure = new CountersignError('DELIVERY_FAILED', 'users.info: rate limited', { retryAfterMs: 1_000 });
  const startedAt = performance.now();
  const key = await store('interaction', CLICK);
  await failed(key, 1);
  failure = null;

  await until('handled', async () => (await rowOf(key)).status === 'handled');

  expect(performance.now() - startedAt).toBeGreaterThan(900);
  expect(performance.now() - startedAt).toBeLessThan(4_000);
});

test.each<{ what: string; source: InboxRow['source']; payload: JsonObject; target: JsonObject }>([
  {
    what: 'a click',
    source: 'interaction',
    payload: CLICK,
    target: { to: 'person', channelId: 'C1', threadTs: '1.0', userId: 'U1' },
  },
  {
    what: 'a modal, which stands in no channel',
    source: 'interaction',
    payload: { type: 'view_submission', user: { id: 'U2' }, view: { id: 'V1' } },
    target: { to: 'channel', channelId: 'U2' },
  },
  {
    what: 'a mention',
    source: 'event',
    payload: { type: 'event_callback', event: { type: 'app_mention', user: 'U3', channel: 'C3', ts: '3.0' } },
    target: { to: 'person', channelId: 'C3', threadTs: null, userId: 'U3' },
  },
])('$what that fails by itself is parked at the ninth try, and its author is told', async (given) => {
  failure = new TypeError('a defect');
  const key = await store(given.source, given.payload);
  for (let tryNumber = 1; tryNumber < 9; tryNumber += 1) {
    expect((await failed(key, tryNumber)).status).toBe('stored');
    await pass(60_000);
  }

  expect((await failed(key, 9)).status).toBe('parked');
  expect(await notes()).toEqual([{ target: given.target, content: { kind: 'could_not_handle' } }]);
});

test('a day of trouble does not use up the tries of a defect', async () => {
  failure = new CountersignError('DELIVERY_FAILED', 'users.info: internal_error');
  const key = await store('interaction', CLICK);
  for (let tryNumber = 1; tryNumber <= 10; tryNumber += 1) {
    await failed(key, tryNumber);
    await pass(60_000);
  }

  failure = new TypeError('a defect');
  await pass(60_000);

  expect((await failed(key, 12)).status).toBe('stored');
});

test('the error that is kept holds no credential', async () => {
  failure = new Error(`sent with ${['xoxb', '1234567890', 'abcdefghij'].join('-')}`);
  const key = await store('interaction', CLICK);

  expect((await failed(key, 1)).last_error).toBe('sent with [secret]');
});
