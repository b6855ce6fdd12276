/**
 * Guarantee: whoever sends a message holds its row at that moment, so that two workers never post it both; what a worker says after it
 * has lost the row changes nothing, and what it did in Slack is mended. A message is posted anew only when no earlier call can still bring it,
 * and drawn once more when an earlier edit may have come after a newer one. A call that hangs holds up no other message, approvals go before
 * progress, and no change of state makes a message go out before the pause that Slack asked for.
 */
import { randomUUIDv7 } from 'node:crypto';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { CountersignError } from '../../src/errors.ts';
import { owe, PRIORITY, redraw } from '../../src/jobs/deliveries.ts';
import { startDeliveries } from '../../src/jobs/delivering.ts';
import { type Bell, openBell } from '../../src/jobs/engine/bell.ts';
import type { Database } from '../../src/jobs/engine/db.ts';
import type { Loop } from '../../src/jobs/loop.ts';
import type { Statement } from '../../src/types.ts';
import type { DeliveryTarget, FullView, Messenger } from '../../src/views.ts';
import { testLog, until, useDatabase, WORKSPACE } from '../support/database.ts';
import { PROMPTNESS } from '../support/promptness.ts';

const base = useDatabase();
let bell: Bell;
let loops: Loop[] = [];
/** Posts by subject, in the order in which they were begun. */
let posts: { readonly subjectId: string; readonly worker: string }[] = [];
/** The ts of each edit and each look, and of each message that was removed. */
let edits: string[] = [];
let looks = 0;
let removed: string[] = [];

beforeEach(async () => {
  await base.setClock('0');
  await base.db.query({ text: `update deliveries set status = 'refused'` });
  await base.db.query({ text: 'delete from delivery_pauses' });
  [posts, edits, removed, looks] = [[], [], [], 0];
  bell = await openBell(base.db);
});
afterEach(async () => {
  // Emptied first: what a failed test left hanging must not hold up the tests after it.
  const [ending, ringing] = [loops, bell];
  loops = [];
  await Promise.all(ending.map((loop) => loop.stop()));
  await ringing.close();
});

interface Worker {
  readonly name: string;
  readonly view?: (subjectId: string) => Promise<void>;
  readonly post?: (subjectId: string) => Promise<void>;
  readonly update?: () => Promise<void>;
  readonly find?: () => Promise<void>;
  readonly database?: Database;
  readonly whole?: Messenger['whole'];
}

/** A process that sends: it lives until the file ends. Its Slack does what the test says. */
async function work({
  name,
  view,
  post,
  update,
  find,
  database = base.db,
  whole = () => null,
}: Worker): Promise<string> {
  const workerId = randomUUIDv7();
  await base.db.query({
    text: `insert into workers (worker_id, pid, lease_until) values ($1, 1, 'infinity')`,
    values: [workerId],
  });
  const messenger: Pick<Messenger, 'post' | 'find' | 'update' | 'whole' | 'remove'> = {
    async post(_workspaceId, _deliveryId, _target, shown) {
      const subjectId = shown.kind === 'task' ? shown.task.taskId : '';
      const ts = `${posts.push({ subjectId, worker: name })}.0`;
      await post?.(subjectId);
      return ts;
    },
    async find() {
      looks += 1;
      await find?.();
      return null;
    },
    async update(_workspaceId, _deliveryId, _channelId, ts) {
      edits.push(ts);
      await update?.();
    },
    async remove(_workspaceId, _channelId, ts) {
      removed.push(ts);
    },
    whole,
  };
  loops.push(
    startDeliveries({
      database,
      bell,
      workerId,
      log: testLog,
      messenger: messenger as Messenger,
      view: async (_workspaceId, _kind, subjectId) => {
        await view?.(subjectId);
        return { kind: 'task', task: { taskId: subjectId } } as FullView;
      },
    }),
  );
  return workerId;
}

/** A process between whose second claim and its next look at the row something may happen. */
async function holdSecondDrawing(post: NonNullable<Worker['post']> = async () => {}) {
  const held = Promise.withResolvers<void>();
  let draws = 0;
  await work({
    name: 'only',
    view: async () => {
      draws += 1;
      if (draws === 2) await held.promise;
    },
    post,
  });
  return { begun: () => until('the second drawing', async () => draws === 2), go: held.resolve };
}

/** For a process that takes one row and then no other, not even its own again when its claim has run out. */
function takesOne(): Database {
  let taken = 0;
  return {
    ...base.db,
    async query<Row extends object>(statement: Statement) {
      if (statement.name !== 'delivery_claim') return base.db.query<Row>(statement);
      if (taken > 0) return { rows: [], rowCount: 0 };
      const found = await base.db.query<Row>(statement);
      taken += found.rowCount;
      return found;
    },
  };
}

/** In a channel of its own, unless it is named: in one channel progress keeps its pace. */
async function oweOne(
  priority: number = PRIORITY.progress,
  channelId = `C${randomUUIDv7()}`,
): Promise<string> {
  return oweTo({ to: 'channel', channelId }, priority);
}

/** Shown to one person alone: in the channel, or in their direct message when that is their own id. */
async function oweNote(channelId: string): Promise<string> {
  return oweTo({ to: 'person', channelId, threadTs: null, userId: 'U1' }, PRIORITY.decision);
}

async function oweTo(target: DeliveryTarget, priority: number): Promise<string> {
  const subjectId = randomUUIDv7();
  await base.db.transaction((tx) =>
    owe(tx, { workspaceId: WORKSPACE, viewKind: 'task', subjectId, target, priority }),
  );
  return subjectId;
}

interface Row {
  readonly status: string;
  readonly ts: string | null;
  readonly last_error: string | null;
  readonly wait_ms: number;
  readonly try_count: number;
}

async function rowOf(subjectId: string): Promise<Row> {
  const { rows } = await base.db.query<Row>({
    text: `select status, ts, last_error, try_count, extract(epoch from next_try_at - db_now())::float8 * 1000 as wait_ms
           from deliveries where subject_id = $1`,
    values: [subjectId],
  });
  if (rows[0] === undefined) throw new Error('no such delivery');
  return rows[0];
}

const settled = (subjectId: string) =>
  until('settled', async () => {
    const row = await rowOf(subjectId);
    return row.status === 'settled' && row;
  });

test('a worker whose claim ran out before the post leaves the post to the one that has it now', async () => {
  const held = Promise.withResolvers<void>();
  const reached = Promise.withResolvers<void>();
  await work({
    name: 'late',
    database: takesOne(),
    view: () => {
      reached.resolve();
      return held.promise;
    },
  });
  const subjectId = await oweOne();
  await reached.promise;
  await base.setClock('31 seconds');

  await work({ name: 'next' });
  await settled(subjectId);
  held.resolve();
  await loops[0]?.stop();

  expect(posts).toEqual([{ subjectId, worker: 'next' }]);
});

test('a worker whose lease ran out posts nothing, because anybody may take its rows', async () => {
  const held = Promise.withResolvers<void>();
  const reached = Promise.withResolvers<void>();
  const workerId = await work({
    name: 'leaseless',
    view: () => {
      reached.resolve();
      return held.promise;
    },
  });
  await oweOne();
  await reached.promise;

  await base.db.query({
    text: 'update workers set lease_until = db_now() where worker_id = $1',
    values: [workerId],
  });
  held.resolve();
  await loops[0]?.stop();

  expect(posts).toEqual([]);
});

test('what a worker says after it has lost the row changes nothing', async () => {
  const held = Promise.withResolvers<void>();
  await work({ name: 'late', database: takesOne(), post: () => held.promise });
  const subjectId = await oweOne();
  await until('the first post', async () => posts.length === 1);
  await base.setClock('31 seconds');
  await work({ name: 'next' });
  const before = await settled(subjectId);

  held.reject(new CountersignError('DELIVERY_REFUSED', 'chat.postMessage: is_archived'));
  await loops[0]?.stop();

  expect(await rowOf(subjectId)).toMatchObject({ status: 'settled', ts: before.ts, last_error: null });
});

async function loseLease(workerId: string): Promise<void> {
  await base.db.query({
    text: 'update workers set lease_until = db_now() where worker_id = $1',
    values: [workerId],
  });
}

const redrawIt = (subjectId: string) => base.db.transaction((tx) => redraw(tx, WORKSPACE, subjectId));

test('while a post is under way nobody posts again, whatever has become of its worker; a copy that comes too late is removed', async () => {
  const held = Promise.withResolvers<void>();
  const workerId = await work({ name: 'dead', post: () => held.promise });
  const subjectId = await oweOne(PRIORITY.decision);
  await until('the first post', async () => posts.length === 1);
  await loseLease(workerId);

  await work({ name: 'next' });
  // Would be taken after it.
  await settled(await oweOne(PRIORITY.digest));
  await until('a look for it', async () => looks === 1);
  expect(posts.filter((post) => post.subjectId === subjectId)).toHaveLength(1);

  await base.setClock('31 seconds');
  await settled(await oweOne());
  const { ts } = await settled(subjectId);
  held.resolve();
  await loops[0]?.stop();

  expect(removed).toEqual(['1.0']);
  expect(ts).not.toBe('1.0');
  expect(await rowOf(subjectId)).toMatchObject({ ts });
});

test('a message that came late is the row’s own when nothing else has been posted yet', async () => {
  const [posted, drawn, reached] = [0, 1, 2].map(() => Promise.withResolvers<void>());
  await work({ name: 'late', post: () => posted?.promise ?? Promise.resolve() });
  const subjectId = await oweOne();
  await until('the first post', async () => posts.length === 1);
  await base.setClock('31 seconds');
  await work({
    name: 'next',
    view: async () => {
      reached?.resolve();
      await drawn?.promise;
    },
  });
  await reached?.promise;
  posted?.resolve();
  await loops[0]?.stop();
  drawn?.resolve();

  expect(await settled(subjectId)).toMatchObject({ ts: '1.0' });
  expect(posts).toHaveLength(1);
  expect(removed).toEqual([]);
  // The copy may be older than what is wanted: it was drawn once more.
  expect(edits).toEqual(['1.0']);
});

test('a post whose answer was lost is looked for at once, and made anew only when it can come no more', async () => {
  await work({
    name: 'only',
    post: () => (posts.length === 1 ? Promise.reject(new Error('no answer within 10 s')) : Promise.resolve()),
  });
  const subjectId = await oweOne();
  const { wait_ms } = await until('it to be called absent', async () => {
    const row = await rowOf(subjectId);
    return looks === 1 && row.wait_ms > 10_000 && row;
  });
  expect(wait_ms).toBeLessThan(25_000);
  expect(posts).toHaveLength(1);

  await base.setClock('26 seconds');
  await oweOne();
  await settled(subjectId);

  expect(looks).toBe(2);
  expect(posts.filter((post) => post.subjectId === subjectId)).toHaveLength(2);
});

test('progress in doubt is looked for only when its channel lets it be sent', async () => {
  const second = await holdSecondDrawing(() =>
    posts.length === 1 ? Promise.reject(new Error('no answer within 10 s')) : Promise.resolve(),
  );
  const channel = 'CBUSY';
  const subjectId = await oweOne(PRIORITY.progress, channel);
  await second.begun();
  // Another process was faster.
  await base.db.query({
    text: `update delivery_pauses set until = db_now() + interval '20 seconds' where place = $1 and call = 'progress'`,
    values: [channel],
  });
  second.go();
  await until('it to be let go', async () => (await rowOf(subjectId)).try_count === 1);
  expect(looks).toBe(0);

  await base.setClock('26 seconds');
  await oweOne();
  await settled(subjectId);
  expect(looks).toBe(1);
});

test('an edit of progress that was begun before Slack limited edits elsewhere is not sent', async () => {
  const second = await holdSecondDrawing();
  const subjectId = await oweOne();
  await settled(subjectId);
  await base.setClock('2 seconds');
  await redrawIt(subjectId);
  await second.begun();
  await base.db.query({
    text: `insert into delivery_pauses (workspace_id, place, call, until)
           values ($1, 'CLIMITED', 'update', db_now() + interval '20 seconds')`,
    values: [WORKSPACE],
  });

  second.go();
  await until('it to be let go', async () => (await rowOf(subjectId)).try_count === 0);

  expect(edits).toEqual([]);
  await base.setClock('23 seconds');
  await oweOne();
  await settled(subjectId);
  expect(edits).toHaveLength(1);
});

test('a message is recorded though the file beside it cannot be written down', async () => {
  await work({
    name: 'only',
    whole: () => {
      throw new Error('of another shape');
    },
  });

  await settled(await oweOne(PRIORITY.decision));

  expect(posts).toHaveLength(1);
});

test('a private note waits for no look, which nobody can make', async () => {
  await base.db.query({
    text: `insert into delivery_pauses (workspace_id, place, call, until) values ($1, 'CNOTE', 'find', 'infinity')`,
    values: [WORKSPACE],
  });
  await work({
    name: 'only',
    post: () => (posts.length === 1 ? Promise.reject(new Error('no answer within 10 s')) : Promise.resolve()),
  });
  const subjectId = await oweNote('CNOTE');

  await settled(subjectId);

  expect(posts).toHaveLength(2);
  expect(looks).toBe(0);
});

test('a note in a direct message is looked for like any other message', async () => {
  await work({ name: 'only', post: () => Promise.reject(new Error('no answer within 10 s')) });
  const subjectId = await oweNote('U1');

  await until('the look', async () => looks === 1);
  await until('it to wait', async () => (await rowOf(subjectId)).wait_ms > 10_000);
  expect(posts).toHaveLength(1);
});

test('and Slack is not asked again before the pause that it wants between looks', async () => {
  await work({
    name: 'only',
    post: () => (posts.length === 1 ? Promise.reject(new Error('no answer within 10 s')) : Promise.resolve()),
    find: () =>
      Promise.reject(new CountersignError('DELIVERY_FAILED', 'rate limited', { retryAfterMs: 40_000 })),
  });
  const subjectId = await oweNote('U1');

  await until('it to wait', async () => (await rowOf(subjectId)).wait_ms > 30_000);
  await settled(await oweOne());
  expect(looks).toBe(1);
});

test('an edit that comes after a newer one, from a worker that had lost the row, is drawn over', async () => {
  const held = Promise.withResolvers<void>();
  let hanging = false;
  await work({ name: 'late', update: () => (hanging ? held.promise : Promise.resolve()) });
  const subjectId = await oweOne();
  await settled(subjectId);
  hanging = true;
  await redrawIt(subjectId);
  await until('the edit', async () => edits.length === 1);
  await base.setClock('31 seconds');
  await work({ name: 'next' });
  await settled(subjectId);
  expect(edits).toHaveLength(2);

  hanging = false;
  held.resolve();
  await until('one more', async () => edits.length === 3);
  await settled(subjectId);
});

test('a message whose edit may still come after a newer one is drawn once more when it cannot', async () => {
  await work({
    name: 'only',
    update: () =>
      edits.length === 1 ? Promise.reject(new Error('no answer within 10 s')) : Promise.resolve(),
  });
  const subjectId = await oweOne();
  await settled(subjectId);
  await redrawIt(subjectId);
  await until('the second edit', async () => edits.length === 2);
  await settled(subjectId);
  // A newer state meanwhile: the first edit may come after that as well.
  await redrawIt(subjectId);
  await until('the third edit', async () => edits.length === 3);
  await settled(subjectId);

  await base.setClock('26 seconds');
  await until('one more', async () => {
    await settled(await oweOne());
    return edits.length === 4;
  });
  await settled(subjectId);
  const { rows } = await base.db.query({
    text: 'select 1 from deliveries where subject_id = $1 and (refresh_at is not null or call_until is not null)',
    values: [subjectId],
  });
  expect(rows).toEqual([]);
});

test('whoever was held up between asking and calling does not call', async () => {
  let asked = 0;
  let behindMs = 0;
  const real = Date.now;
  const clock = vi.spyOn(Date, 'now').mockImplementation(() => real() + behindMs);
  // Frozen for a moment while it waits for the answer, twice.
  const database: Database = {
    ...base.db,
    async query(statement) {
      const answer = await base.db.query<never>(statement);
      asked += statement.name === 'delivery_renew' ? 1 : 0;
      // Frozen for a moment while the answer was on its way, twice.
      if (statement.name === 'delivery_renew' && asked <= 2) behindMs += 3_000;
      return answer;
    },
  };
  let askedBeforePost = 0;
  await work({
    name: 'frozen',
    database,
    post: async () => {
      askedBeforePost = asked;
    },
  });
  await settled(await oweOne(PRIORITY.decision));
  clock.mockRestore();

  expect(posts).toHaveLength(1);
  expect(askedBeforePost).toBe(3);
});

test('a call that hangs holds up no other message', async () => {
  const held = Promise.withResolvers<void>();
  let hanging: string | undefined;
  await work({
    name: 'only',
    post: (subjectId) => (subjectId === hanging ? held.promise : Promise.resolve()),
  });
  hanging = await oweOne();
  await until('the call that hangs', async () => posts.length === 1);

  await settled(await oweOne());

  held.resolve();
  await settled(hanging);
});

test('approvals are begun before older progress, however much of it there is', async () => {
  const progress: string[] = [];
  for (let count = 0; count < 12; count += 1) progress.push(await oweOne(PRIORITY.progress));
  const approval = await oweOne(PRIORITY.decision);
  const begun: string[] = [];

  await work({
    name: 'only',
    view: async (subjectId) => {
      begun.push(subjectId);
    },
  });
  for (const subjectId of [...progress, approval]) await settled(subjectId);

  expect(begun).toEqual([approval, ...progress]);
});

test('a redraw does not shorten the pause that Slack asked for, and a settled message is redrawn at once', async () => {
  let refusing = true;
  await work({
    name: 'only',
    post: async () => {
      if (refusing)
        throw new CountersignError('DELIVERY_FAILED', 'chat.postMessage: rate limited', {
          retryAfterMs: 90_000,
        });
    },
  });
  const subjectId = await oweOne();
  await until('the refusal to be kept', async () => (await rowOf(subjectId)).last_error !== null);

  await base.db.transaction((tx) => redraw(tx, WORKSPACE, subjectId));
  refusing = false;
  // Sent by a look that came after the redraw.
  await settled(await oweOne());

  expect(await rowOf(subjectId)).toMatchObject({ status: 'due', try_count: 0 });
  expect(posts.filter((post) => post.subjectId === subjectId)).toHaveLength(1);

  await base.setClock('91 seconds');
  await base.db.transaction((tx) => redraw(tx, WORKSPACE, subjectId));
  await settled(subjectId);
  // Sent once in the meantime: clock and row say so before the loop can look again.
  await loops[0]?.stop();
  await base.db.transaction((tx) => redraw(tx, WORKSPACE, subjectId));
  const again = await rowOf(subjectId);
  expect(again.status).toBe('due');
  expect(again.wait_ms).toBeLessThanOrEqual(0);
});

test('a failed try is made again when its pause is over, not at the next sweep', PROMPTNESS, async () => {
  let tries = 0;
  await work({
    name: 'only',
    post: async () => {
      tries += 1;
      if (tries === 1)
        throw new CountersignError('DELIVERY_FAILED', 'chat.postMessage: reset', { retryAfterMs: 1_500 });
    },
  });

  const startedAt = performance.now();
  await settled(await oweOne());

  expect(performance.now() - startedAt).toBeGreaterThan(1_400);
  expect(performance.now() - startedAt).toBeLessThan(6_000);
});

test('the error that is kept holds no credential', async () => {
  const token = ['xoxb', '1234567890', 'abcdefghij'].join('-');
  await work({ name: 'only', post: () => Promise.reject(new Error(`sent with ${token}`)) });
  const subjectId = await oweOne();

  const { last_error } = await until('the failure to be kept', async () => {
    const row = await rowOf(subjectId);
    return row.last_error !== null && row;
  });

  expect(last_error).toBe('sent with [secret]');
});
