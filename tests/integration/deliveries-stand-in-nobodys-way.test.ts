/**
 * Guarantee: what holds one message back holds back its like and nothing else. A pause that Slack asks for one call in one channel is kept
 * by every process, and every other call and channel goes on at once; progress goes at one pace per channel and no decision waits for that;
 * a channel in which calls hang, or in which much is owed, leaves the others their turn, and whatever hangs leaves decisions theirs. A word of
 * Slack's that nobody knows is believed after some tries, trouble never. While the token is refused one message at a
 * time tries, and all that was owed arrives when it works again. A card that stands is drawn again within a minute.
 */
import { expect, test } from 'vitest';
import { CountersignError, DeliveryAnswered, DeliveryRefused } from '../../src/errors.ts';
import { PRIORITY } from '../../src/jobs/deliveries.ts';
import { deliveryHealth, msUntilDue } from '../../src/jobs/delivery-queue.ts';
import { until } from '../support/database.ts';
import { PROMPTNESS } from '../support/promptness.ts';
import { useSending } from '../support/sending.ts';

const sending = useSending();
const callsFor = (channelId: string) => sending.calls.filter((made) => made.channelId === channelId);
const rateLimited = (seconds: number) =>
  new CountersignError('DELIVERY_FAILED', 'chat.postMessage: rate limited', {
    retryAfterMs: seconds * 1_000,
  });

test('a pause in one channel is met once, by one message, and kept by every process', async () => {
  sending.slack = ({ channelId }) => {
    if (channelId === 'CSLOW') throw rateLimited(60);
  };
  await sending.work('one');
  await sending.work('two');
  const first = await sending.owe('CSLOW');
  await until('the pause', async () => (await sending.row(first))?.last_error !== null);

  const waiting = [];
  for (let count = 0; count < 6; count += 1) waiting.push(await sending.owe('CSLOW'));
  const elsewhere = [];
  for (let count = 0; count < 6; count += 1) elsewhere.push(await sending.owe('CFAST'));
  for (const subjectId of elsewhere) await sending.settled(subjectId);

  expect(callsFor('CSLOW')).toHaveLength(1);
  expect(await sending.row(first)).toMatchObject({ status: 'due', try_count: 0 });
  expect(await deliveryHealth(sending.db)).toMatchObject({ due: 7, pauses: 1, tokenRefused: null });

  sending.slack = () => undefined;
  await sending.setClock('61 seconds');
  await sending.owe('CFAST');
  for (const subjectId of [first, ...waiting]) await sending.settled(subjectId);
  expect(callsFor('CSLOW')).toHaveLength(1 + 7);
});

test('a pause of posting leaves edits of the same channel alone', async () => {
  await sending.work();
  const standing = await sending.owe('C1');
  await sending.settled(standing);
  sending.slack = ({ call }) => {
    if (call === 'post') throw rateLimited(60);
  };
  const paused = await sending.owe('C1');
  await until('the pause', async () => (await sending.row(paused))?.last_error !== null);

  await sending.redraw(standing);
  await sending.settled(standing);

  expect(sending.calls.at(-1)).toMatchObject({ call: 'update', subjectId: standing });
});

test('a pause of editing, which Slack counts per workspace, holds progress back in every channel and cards in one', async () => {
  await sending.work('one');
  await sending.work('two');
  const limited = await sending.owe('CSLOW');
  const card = await sending.owe('CCARD');
  const progress = await sending.owe('CTASK', { priority: PRIORITY.progress });
  for (const subjectId of [limited, card, progress]) await sending.settled(subjectId);
  sending.slack = ({ channelId }) => {
    if (channelId === 'CSLOW') throw rateLimited(60);
  };
  await sending.redraw(limited);
  await until('the pause', async () => (await sending.row(limited))?.last_error !== null);

  await sending.redraw(progress);
  await sending.redraw(card);
  await sending.settled(card);
  // Posts are counted otherwise: a new task still gets its message.
  await sending.settled(await sending.owe('CNEW', { priority: PRIORITY.progress }));

  expect(callsFor('CTASK').map(({ call }) => call)).toEqual(['post']);
  expect(await sending.row(progress)).toMatchObject({ status: 'due', try_count: 0 });
  // Nobody takes it up in vain meanwhile.
  expect(await msUntilDue(sending.db, new Map())).toBeGreaterThan(30_000);

  sending.slack = () => undefined;
  await sending.setClock('61 seconds');
  await sending.ring();
  await sending.settled(progress);
  expect(callsFor('CTASK').map(({ call }) => call)).toEqual(['post', 'update']);
});

test('what waits for a pause goes out when it ends, not at the next sweep', PROMPTNESS, async () => {
  sending.slack = () => {
    if (sending.calls.length === 1) throw rateLimited(1);
  };
  await sending.work();
  const first = await sending.owe('C1');
  await until('the pause', async () => (await sending.row(first))?.last_error !== null);
  const second = await sending.owe('C1');

  await sending.settled(first);
  await sending.settled(second);

  const [refused, next] = sending.calls;
  const waitedMs = (next?.atMs ?? 0) - (refused?.atMs ?? 0);
  expect(waitedMs).toBeGreaterThan(950);
  expect(waitedMs).toBeLessThan(4_000);
});

test(
  'progress keeps below one message a second in a channel, over two processes; decisions and other channels do not wait',
  PROMPTNESS,
  async () => {
    await sending.work('one');
    await sending.work('two');
    const tasks = [];
    const startedAt = performance.now();
    for (let count = 0; count < 3; count += 1)
      tasks.push(await sending.owe('CBUSY', { priority: PRIORITY.progress }));
    await until('the first to go', async () => callsFor('CBUSY').length > 0);
    for (const subjectId of tasks) await sending.redraw(subjectId);
    const decision = await sending.owe('CBUSY', { priority: PRIORITY.decision });
    const quiet = await sending.owe('CQUIET', { priority: PRIORITY.progress });
    await sending.settled(decision);
    await sending.settled(quiet);
    const decidedMs = performance.now() - startedAt;
    for (const subjectId of tasks) await sending.settled(subjectId);

    expect(decidedMs).toBeLessThan(1_000);
    const sent = callsFor('CBUSY').filter(({ subjectId }) => subjectId !== decision);
    expect((sent[0]?.atMs ?? 0) - startedAt).toBeLessThan(500);
    const gaps = sent.slice(1).map(({ atMs }, index) => atMs - (sent[index]?.atMs ?? 0));
    expect(Math.min(...gaps)).toBeGreaterThan(1_000);
    // Ten states were wanted; each message shows the newest one when its turn comes.
    expect(sent.length).toBeLessThanOrEqual(4);
  },
);

test('of fifty messages owed in one channel the decisions go first, then progress, the digest last', async () => {
  const decisions = [];
  const digest = await sending.owe('C1', { priority: PRIORITY.digest });
  const progress = await sending.owe('C1', { priority: PRIORITY.progress });
  for (let count = 0; count < 48; count += 1) decisions.push(await sending.owe('C1'));

  await sending.work();
  for (const subjectId of [...decisions, progress, digest]) await sending.settled(subjectId);

  // Three are on their way at once, so neighbours may overtake each other.
  const order = sending.calls.map(({ subjectId }) => subjectId);
  expect(order).toHaveLength(50);
  expect(new Set([...order.slice(0, 46), ...decisions]).size).toBe(48);
  expect(order.indexOf(progress)).toBeGreaterThan(45);
  expect(order.indexOf(digest)).toBeGreaterThan(45);
});

test('calls that hang in one channel hold three slots and no other channel', async () => {
  const held = Promise.withResolvers<void>();
  sending.slack = ({ channelId }) => (channelId === 'CHUNG' ? held.promise : undefined);
  await sending.work();
  const hung = [];
  for (let count = 0; count < 12; count += 1) hung.push(await sending.owe('CHUNG'));
  await until('the calls that hang', async () => callsFor('CHUNG').length === 3);

  for (let count = 0; count < 5; count += 1) await sending.settled(await sending.owe('COTHER'));

  expect(callsFor('CHUNG')).toHaveLength(3);
  held.resolve();
  for (const subjectId of hung) await sending.settled(subjectId);
});

test('progress that hangs leaves decisions their turn, in its channel and everywhere', async () => {
  const held = Promise.withResolvers<void>();
  const hung: string[] = [];
  sending.slack = ({ subjectId }) => (hung.includes(subjectId) ? held.promise : undefined);
  await sending.work();
  for (let count = 0; count < 4; count += 1)
    hung.push(await sending.owe('CHUNG', { priority: PRIORITY.digest }));
  for (let count = 0; count < 8; count += 1)
    hung.push(await sending.owe(`CHUNG${count}`, { priority: PRIORITY.progress }));
  await until('what may hang', async () => sending.calls.length === 8);

  await sending.settled(await sending.owe('CHUNG'));
  await sending.settled(await sending.owe('COTHER'));

  expect(callsFor('CHUNG').filter(({ subjectId }) => hung.includes(subjectId))).toHaveLength(2);
  expect(sending.calls).toHaveLength(8 + 2);
  held.resolve();
  for (const subjectId of hung) await sending.settled(subjectId);
});

test('a word of Slack’s that nobody knows is believed after eight tries; trouble is tried for ever', async () => {
  sending.slack = ({ channelId }) => {
    if (channelId === 'CODD') throw new DeliveryAnswered('chat.postMessage: brand_new');
    throw new CountersignError('DELIVERY_FAILED', 'chat.postMessage: internal_error');
  };
  await sending.work();
  const odd = await sending.owe('CODD');
  const trouble = await sending.owe('CTROUBLE');
  for (let minutes = 0; (await sending.row(odd))?.status === 'due'; minutes += 2) {
    expect(minutes).toBeLessThan(40);
    await sending.setClock(`${minutes} minutes`);
    const made = sending.calls.length;
    await sending.ring();
    await until('both to have been tried', async () => {
      const { rows } = await sending.db.query({
        text: `select 1 from deliveries where status = 'due' and (claimed_until is not null or next_try_at <= db_now())`,
      });
      return sending.calls.length >= made && rows.length === 0;
    });
  }

  expect(callsFor('CODD')).toHaveLength(8);
  expect(await sending.row(odd)).toMatchObject({
    status: 'refused',
    last_error: 'chat.postMessage: brand_new',
  });
  expect(callsFor('CTROUBLE').length).toBeGreaterThanOrEqual(8);
  expect(await sending.row(trouble)).toMatchObject({ status: 'due' });
});

test('while the token is refused one message at a time tries; when it works again all arrive', async () => {
  let refusing = true;
  sending.slack = () => {
    if (refusing) throw new DeliveryRefused('chat.postMessage: token_revoked', 'credential');
  };
  await sending.work();
  const first = await sending.owe('C1');
  await until('the rest', async () => (await deliveryHealth(sending.db)).tokenRefused !== null);
  const owed = [first];
  for (let count = 0; count < 8; count += 1) owed.push(await sending.owe(`C${count}`));
  // Long enough for every look that these rang for.
  await until('all to be owed', async () => (await deliveryHealth(sending.db)).due === 9);
  expect(sending.calls).toHaveLength(1);

  await sending.setClock('121 seconds');
  owed.push(await sending.owe('C9'));
  await until('a second try', async () => sending.calls.length === 2);
  await until('it to be refused', async () => {
    const { rows } = await sending.db.query({
      text: 'select 1 from deliveries where claimed_until is not null',
    });
    return rows.length === 0;
  });
  expect(sending.calls).toHaveLength(2);
  expect((await deliveryHealth(sending.db)).tokenRefused).toBe('chat.postMessage: token_revoked');

  refusing = false;
  await sending.setClock('250 seconds');
  owed.push(await sending.owe('C9'));
  for (const subjectId of owed) await sending.settled(subjectId);
  expect(await deliveryHealth(sending.db)).toMatchObject({ due: 0, tokenRefused: null });
  const { rows: entries } = await sending.db.query<{ entry_kind: string }>({
    text: `select entry_kind from ledger_entries where subject_kind = 'workspace' order by subject_seq`,
  });
  expect(entries.map((entry) => entry.entry_kind)).toEqual([
    'workspace.slack_lost',
    'workspace.slack_regained',
  ]);
  // Nothing was counted against a row, or ended.
  const { rows } = await sending.db.query({
    text: `select 1 from deliveries where status = 'refused' and created_at > now() - interval '1 minute' and subject_id = any ($1)`,
    values: [owed],
  });
  expect(rows).toEqual([]);
});

test('a message for which alone Slack refuses the token keeps no other from being tried, of whatever kind', async () => {
  sending.slack = ({ channelId }) => {
    if (channelId === 'CBAD')
      throw new DeliveryRefused('chat.postMessage: team_access_not_granted', 'credential');
  };
  await sending.work();
  const bad = await sending.owe('CBAD');
  await until('the rest', async () => (await deliveryHealth(sending.db)).tokenRefused !== null);
  const good = await sending.owe('CGOOD', { priority: PRIORITY.progress });

  await sending.setClock('121 seconds');
  await sending.ring();
  await until('the older one to be refused again', async () => {
    const { rows } = await sending.db.query({
      text: 'select 1 from deliveries where claimed_until is not null',
    });
    return sending.calls.length === 2 && rows.length === 0;
  });
  await sending.setClock('250 seconds');
  await sending.ring();
  await sending.settled(good);

  expect(sending.calls.slice(0, 3).map(({ channelId }) => channelId)).toEqual(['CBAD', 'CBAD', 'CGOOD']);
  expect(await sending.row(bad)).toMatchObject({ status: 'due' });
});

test('a try that fails, or finds nothing to send, does not end the rest; the next comes two minutes later', async () => {
  const rests = async () => (await deliveryHealth(sending.db)).tokenRefused !== null;
  sending.slack = () => {
    if (sending.calls.length === 1)
      throw new DeliveryRefused('chat.postMessage: token_revoked', 'credential');
    if (sending.calls.length === 2) throw new CountersignError('DELIVERY_FAILED', 'no answer within 10 s');
  };
  await sending.work();
  const first = await sending.owe('C1');
  await until('the rest', rests);
  await sending.setClock('121 seconds');
  await sending.ring();
  await until(
    'a try that fails',
    async () => (await sending.row(first))?.last_error === 'no answer within 10 s',
  );
  const { rows } = await sending.db.query<{ wait_ms: number }>({
    text: `select extract(epoch from until - db_now())::float8 * 1000 as wait_ms from delivery_pauses where call = '*'`,
  });
  expect(rows[0]?.wait_ms).toBeGreaterThan(100_000);
  const blank = await sending.owe('C2');
  sending.blank.add(blank);
  await sending.db.query({
    text: `update deliveries set next_try_at = db_now() + interval '1 minute' where subject_id = $1`,
    values: [first],
  });
  await sending.setClock('242 seconds');
  await sending.ring();
  await sending.settled(blank);
  expect(await rests()).toBe(true);
  expect(sending.calls).toHaveLength(2);

  await sending.setClock('363 seconds');
  await sending.ring();
  await sending.settled(first);
  expect(await rests()).toBe(false);
});

test('a place that is refused is an answer to our token: the rest is over', async () => {
  sending.slack = ({ channelId }) => {
    if (sending.calls.length === 1)
      throw new DeliveryRefused('chat.postMessage: token_revoked', 'credential');
    if (channelId === 'CGONE') throw new DeliveryRefused('chat.postMessage: is_archived', 'place');
  };
  await sending.work();
  const gone = await sending.owe('CGONE');
  await until('the rest', async () => (await deliveryHealth(sending.db)).tokenRefused !== null);
  const other = await sending.owe('COTHER');

  await sending.setClock('121 seconds');
  await sending.ring();
  await sending.settled(other);

  await until('the place to be given up', async () => (await sending.row(gone))?.status === 'refused');
  expect((await deliveryHealth(sending.db)).tokenRefused).toBeNull();
});

test('a card that stands is drawn again after a while, a few at a time, and a task’s message is not', async () => {
  const first = await sending.work();
  const cards = [];
  for (let count = 0; count < 7; count += 1)
    cards.push(await sending.owe(`C${count}`, { viewKind: 'approval' }));
  const task = await sending.owe('C1', { priority: PRIORITY.progress });
  for (const subjectId of [...cards, task]) await sending.settled(subjectId);
  await first.stop();
  sending.calls.length = 0;

  await sending.setClock('41 seconds');
  await sending.work('two');
  await until('the first few', async () => sending.calls.length === 5);
  await sending.work('three');
  await sending.settled(await sending.owe('C1'));
  expect(sending.calls.filter(({ call }) => call === 'update')).toHaveLength(5);

  await sending.setClock('51 seconds');
  await sending.work('four');
  await until('the others', async () => sending.calls.filter(({ call }) => call === 'update').length === 7);
  expect(
    new Set(sending.calls.filter(({ call }) => call === 'update').map(({ channelId }) => channelId)).size,
  ).toBe(7);

  // Nothing is open behind them, so once is enough.
  await sending.setClock('200 seconds');
  await sending.work('five');
  await sending.settled(await sending.owe('C1'));
  expect(sending.calls.filter(({ call }) => call === 'update')).toHaveLength(7);
});
