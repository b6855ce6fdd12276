/**
 * Guarantee: what holds one message back holds back its like and nothing else. A pause that Slack asks for one call in one channel is kept
 * by every process, and every other call and channel goes on at once; progress goes at one pace per channel and no decision waits for that;
 * a channel in which calls hang, or in which much is owed, leaves the others their turn. While the token is refused one message at a
 * time tries, and all that was owed arrives when it works again. A card that stands is drawn again within a minute.
 */
import { randomUUIDv7 } from 'node:crypto';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CountersignError, DeliveryRefused } from '../../src/errors.ts';
import { owe, PRIORITY, redraw } from '../../src/jobs/deliveries.ts';
import { startDeliveries } from '../../src/jobs/delivering.ts';
import { deliveryHealth } from '../../src/jobs/delivery-queue.ts';
import { type Bell, openBell } from '../../src/jobs/engine/bell.ts';
import type { Loop } from '../../src/jobs/loop.ts';
import type { FullView, Messenger } from '../../src/types.ts';
import { testLog, until, useDatabase, WORKSPACE } from '../support/database.ts';

const base = useDatabase();
let bell: Bell;
let loops: Loop[] = [];

interface Made {
  readonly call: 'post' | 'update';
  readonly channelId: string;
  readonly subjectId: string;
  readonly worker: string;
  readonly atMs: number;
}
/** Calls in the order in which they were begun. */
let calls: Made[] = [];
/** What Slack does with a call; by default it takes it. */
let slack: (made: Made) => Promise<void> | void = () => undefined;

beforeEach(async () => {
  await base.setClock('0');
  await base.db.query({ text: `update deliveries set status = 'refused'` });
  await base.db.query({ text: 'delete from delivery_pauses' });
  [calls, slack] = [[], () => undefined];
  bell = await openBell(base.db);
});
afterEach(async () => {
  await Promise.all(loops.map((loop) => loop.stop()));
  loops = [];
  await bell.close();
});

/** A process that sends, until the test ends. */
async function work(worker = 'only'): Promise<void> {
  const workerId = randomUUIDv7();
  await base.db.query({
    text: `insert into workers (worker_id, pid, lease_until) values ($1, 1, 'infinity')`,
    values: [workerId],
  });
  const made = async (call: Made['call'], channelId: string, subjectId: string) => {
    const one = { call, channelId, subjectId, worker, atMs: performance.now() };
    calls.push(one);
    await slack(one);
  };
  const subjectOf = (shown: { kind: string }) => (shown as { task?: { taskId: string } }).task?.taskId ?? '';
  const messenger: Pick<Messenger, 'post' | 'find' | 'update' | 'whole'> = {
    async post(_workspaceId, _deliveryId, target, shown) {
      await made('post', 'channelId' in target ? target.channelId : '', subjectOf(shown));
      return `${calls.length}.0`;
    },
    find: async () => null,
    update: (_workspaceId, _deliveryId, channelId, _ts, shown) => made('update', channelId, subjectOf(shown)),
    whole: () => null,
  };
  loops.push(
    startDeliveries({
      database: base.db,
      bell,
      workerId,
      log: testLog,
      messenger: messenger as Messenger,
      view: async (_workspaceId, _kind, subjectId) =>
        ({ kind: 'task', task: { taskId: subjectId } }) as FullView,
    }),
  );
}

async function oweOne(
  channelId: string,
  priority: number = PRIORITY.decision,
  viewKind: 'task' | 'approval' = 'task',
): Promise<string> {
  const subjectId = randomUUIDv7();
  await base.db.transaction((tx) =>
    owe(tx, {
      workspaceId: WORKSPACE,
      viewKind,
      subjectId,
      target: { to: 'channel', channelId },
      priority,
    }),
  );
  return subjectId;
}

const statusOf = async (subjectId: string) => {
  const { rows } = await base.db.query<{ status: string; try_count: number; last_error: string | null }>({
    text: 'select status, try_count, last_error from deliveries where subject_id = $1',
    values: [subjectId],
  });
  return rows[0];
};
const settled = (subjectId: string) =>
  until('settled', async () => (await statusOf(subjectId))?.status === 'settled');
const redrawn = (subjectId: string) => base.db.transaction((tx) => redraw(tx, WORKSPACE, subjectId));
const callsFor = (channelId: string) => calls.filter((made) => made.channelId === channelId);
const rateLimited = (seconds: number) =>
  new CountersignError('DELIVERY_FAILED', 'chat.postMessage: rate limited', {
    retryAfterMs: seconds * 1_000,
  });

test('a pause in one channel is met once, by one message, and kept by every process', async () => {
  slack = ({ channelId }) => {
    if (channelId === 'CSLOW') throw rateLimited(60);
  };
  await work('one');
  await work('two');
  const first = await oweOne('CSLOW');
  await until('the pause', async () => (await statusOf(first))?.last_error !== null);

  const waiting = [];
  for (let count = 0; count < 6; count += 1) waiting.push(await oweOne('CSLOW'));
  const elsewhere = [];
  for (let count = 0; count < 6; count += 1) elsewhere.push(await oweOne('CFAST'));
  for (const subjectId of elsewhere) await settled(subjectId);

  expect(callsFor('CSLOW')).toHaveLength(1);
  expect(await statusOf(first)).toMatchObject({ status: 'due', try_count: 0 });
  expect(await deliveryHealth(base.db)).toMatchObject({ due: 7, pauses: 1, tokenRefused: null });

  slack = () => undefined;
  await base.setClock('61 seconds');
  await oweOne('CFAST');
  for (const subjectId of [first, ...waiting]) await settled(subjectId);
  expect(callsFor('CSLOW')).toHaveLength(1 + 7);
});

test('a pause of posting leaves edits of the same channel alone', async () => {
  await work();
  const standing = await oweOne('C1');
  await settled(standing);
  slack = ({ call }) => {
    if (call === 'post') throw rateLimited(60);
  };
  const paused = await oweOne('C1');
  await until('the pause', async () => (await statusOf(paused))?.last_error !== null);

  await redrawn(standing);
  await settled(standing);

  expect(calls.at(-1)).toMatchObject({ call: 'update', subjectId: standing });
});

test('what waits for a pause goes out when it ends, not at the next sweep', async () => {
  slack = () => {
    if (calls.length === 1) throw rateLimited(1);
  };
  await work();
  const first = await oweOne('C1');
  await until('the pause', async () => (await statusOf(first))?.last_error !== null);
  const second = await oweOne('C1');

  await settled(first);
  await settled(second);

  const [refused, next] = calls;
  const waitedMs = (next?.atMs ?? 0) - (refused?.atMs ?? 0);
  expect(waitedMs).toBeGreaterThan(950);
  expect(waitedMs).toBeLessThan(4_000);
});

test('progress keeps below one message a second in a channel, over two processes; decisions and other channels do not wait', async () => {
  await work('one');
  await work('two');
  const tasks = [];
  const startedAt = performance.now();
  for (let count = 0; count < 3; count += 1) tasks.push(await oweOne('CBUSY', PRIORITY.progress));
  await until('the first to go', async () => callsFor('CBUSY').length > 0);
  for (const subjectId of tasks) await redrawn(subjectId);
  const decision = await oweOne('CBUSY', PRIORITY.decision);
  const quiet = await oweOne('CQUIET', PRIORITY.progress);
  await settled(decision);
  await settled(quiet);
  const decidedMs = performance.now() - startedAt;
  for (const subjectId of tasks) await settled(subjectId);

  expect(decidedMs).toBeLessThan(1_000);
  const sent = callsFor('CBUSY').filter(({ subjectId }) => subjectId !== decision);
  expect((sent[0]?.atMs ?? 0) - startedAt).toBeLessThan(500);
  const gaps = sent.slice(1).map(({ atMs }, index) => atMs - (sent[index]?.atMs ?? 0));
  expect(Math.min(...gaps)).toBeGreaterThan(1_000);
  // Ten states were wanted; each message shows the newest one when its turn comes.
  expect(sent.length).toBeLessThanOrEqual(4);
});

test('of fifty messages owed in one channel the decisions go first, then progress, the digest last', async () => {
  const decisions = [];
  const digest = await oweOne('C1', PRIORITY.digest);
  const progress = await oweOne('C1', PRIORITY.progress);
  for (let count = 0; count < 48; count += 1) decisions.push(await oweOne('C1'));

  await work();
  for (const subjectId of [...decisions, progress, digest]) await settled(subjectId);

  // Three are on their way at once, so neighbours may overtake each other.
  const order = calls.map(({ subjectId }) => subjectId);
  expect(order).toHaveLength(50);
  expect(new Set([...order.slice(0, 46), ...decisions]).size).toBe(48);
  expect(order.indexOf(progress)).toBeGreaterThan(45);
  expect(order.indexOf(digest)).toBeGreaterThan(45);
});

test('calls that hang in one channel hold three slots and no other channel', async () => {
  const held = Promise.withResolvers<void>();
  slack = ({ channelId }) => (channelId === 'CHUNG' ? held.promise : undefined);
  await work();
  const hung = [];
  for (let count = 0; count < 12; count += 1) hung.push(await oweOne('CHUNG'));
  await until('the calls that hang', async () => callsFor('CHUNG').length === 3);

  for (let count = 0; count < 5; count += 1) await settled(await oweOne('COTHER'));

  expect(callsFor('CHUNG')).toHaveLength(3);
  held.resolve();
  for (const subjectId of hung) await settled(subjectId);
});

test('while the token is refused one message at a time tries; when it works again all arrive', async () => {
  let refusing = true;
  slack = () => {
    if (refusing) throw new DeliveryRefused('chat.postMessage: token_revoked', 'credential');
  };
  await work();
  const first = await oweOne('C1');
  await until('the rest', async () => (await deliveryHealth(base.db)).tokenRefused !== null);
  const owed = [first];
  for (let count = 0; count < 8; count += 1) owed.push(await oweOne(`C${count}`));
  // Long enough for every look that these rang for.
  await until('all to be owed', async () => (await deliveryHealth(base.db)).due === 9);
  expect(calls).toHaveLength(1);

  await base.setClock('121 seconds');
  await oweOne('C9');
  await until('a second try', async () => calls.length === 2);
  await until('it to be refused', async () => {
    const { rows } = await base.db.query({
      text: 'select 1 from deliveries where claimed_until is not null',
    });
    return rows.length === 0;
  });
  expect(calls).toHaveLength(2);
  expect((await deliveryHealth(base.db)).tokenRefused).toBe('chat.postMessage: token_revoked');

  refusing = false;
  await base.setClock('250 seconds');
  await oweOne('C9');
  for (const subjectId of owed) await settled(subjectId);
  expect(await deliveryHealth(base.db)).toMatchObject({ due: 0, tokenRefused: null });
  // Nothing was counted against a row, or ended.
  const { rows } = await base.db.query({
    text: `select 1 from deliveries where status = 'refused' and created_at > now() - interval '1 minute' and subject_id = any ($1)`,
    values: [owed],
  });
  expect(rows).toEqual([]);
});

test('a card that stands is drawn again after a while, a few at a time, and a task’s message is not', async () => {
  await work();
  const cards = [];
  for (let count = 0; count < 7; count += 1)
    cards.push(await oweOne(`C${count}`, PRIORITY.decision, 'approval'));
  const task = await oweOne('C1', PRIORITY.progress);
  for (const subjectId of [...cards, task]) await settled(subjectId);
  await loops[0]?.stop();
  calls = [];

  await base.setClock('41 seconds');
  await work('two');
  await until('the first few', async () => calls.length === 5);
  await work('three');
  await settled(await oweOne('C1'));
  expect(calls.filter(({ call }) => call === 'update')).toHaveLength(5);

  await base.setClock('51 seconds');
  await work('four');
  await until('the others', async () => calls.filter(({ call }) => call === 'update').length === 7);
  expect(new Set(calls.filter(({ call }) => call === 'update').map(({ channelId }) => channelId)).size).toBe(
    7,
  );

  // Nothing is open behind them, so once is enough.
  await base.setClock('200 seconds');
  await work('five');
  await settled(await oweOne('C1'));
  expect(calls.filter(({ call }) => call === 'update')).toHaveLength(7);
});
