/**
 * Processes that send what is owed, over a database of the file and a Slack that does with each call what the test says. For tests of whose
 * turn it is and what follows from an answer; what real calls look like is shown over the local Slack.
 */
import { randomUUIDv7 } from 'node:crypto';
import { afterEach, beforeEach } from 'vitest';
import { owe, PRIORITY, redraw } from '../../src/jobs/deliveries.ts';
import { startDeliveries } from '../../src/jobs/delivering.ts';
import { type Bell, openBell, ring } from '../../src/jobs/engine/bell.ts';
import type { Loop } from '../../src/jobs/loop.ts';
import { createLogger } from '../../src/log.ts';
import type { Person } from '../../src/types.ts';
import type { FullView, Messenger } from '../../src/views.ts';
import { type TestDatabase, until, useDatabase, WORKSPACE } from './database.ts';

export interface Made {
  readonly call: 'post' | 'update';
  readonly channelId: string;
  readonly subjectId: string;
  readonly worker: string;
  readonly atMs: number;
}

export interface Row {
  readonly status: string;
  readonly try_count: number;
  readonly last_error: string | null;
}

export interface Sending extends TestDatabase {
  /** Calls in the order in which they were begun. */
  readonly calls: Made[];
  /** What Slack does with a call; by default it takes it. Set anew before each test. */
  slack: (made: Made) => Promise<void> | void;
  /** People whose accounts are deactivated. */
  readonly gone: Set<string>;
  /** Subjects behind which there is nothing to show. */
  readonly blank: Set<string>;
  /** What was logged as an error: the words. */
  readonly errors: string[];
  /** Starts a process that sends, until the test ends. */
  work(worker?: string, admins?: readonly Person[]): Promise<Loop>;
  /** Owes a message and gives its subject. */
  owe(
    channelId: string,
    options?: { priority?: number; viewKind?: 'task' | 'approval'; subjectId?: string },
  ): Promise<string>;
  redraw(subjectId: string): Promise<void>;
  /** The newest delivery of this subject. */
  row(subjectId: string): Promise<Row | undefined>;
  settled(subjectId: string): Promise<unknown>;
  /** Makes every process look. */
  ring(): Promise<void>;
}

/** Call at the top of a file. */
export function useSending(): Sending {
  const base = useDatabase();
  let bell: Bell;
  let loops: Loop[] = [];
  const calls: Made[] = [];
  const errors: string[] = [];
  const gone = new Set<string>();
  const blank = new Set<string>();
  const log = createLogger({
    level: 'error',
    destination: { write: (line: string) => void errors.push((JSON.parse(line) as { msg: string }).msg) },
  });
  const made = async (call: Made['call'], worker: string, channelId: string, shown: { kind: string }) => {
    const subjectId = (shown as { task?: { taskId: string } }).task?.taskId ?? '';
    const one = { call, channelId, subjectId, worker, atMs: performance.now() };
    calls.push(one);
    await sending.slack(one);
  };
  const messengerOf = (worker: string): Partial<Messenger> => ({
    async post(_workspaceId, _deliveryId, target, shown) {
      await made('post', worker, 'channelId' in target ? target.channelId : '', shown);
      return `${calls.length}.0`;
    },
    find: async () => null,
    update: (_workspaceId, _deliveryId, channelId, _ts, shown) => made('update', worker, channelId, shown),
    whole: () => null,
    person: async (_workspaceId, person) => ({
      ...person,
      known: true,
      isBot: false,
      isGuest: false,
      isExternal: false,
      isDeactivated: gone.has(person.userId),
    }),
  });
  const sending = Object.assign(Object.create(base) as TestDatabase, {
    calls,
    errors,
    gone,
    blank,
    slack: () => undefined,
    async work(worker = 'only', admins: readonly Person[] = []) {
      const workerId = randomUUIDv7();
      await base.db.query({
        text: `insert into workers (worker_id, pid, lease_until) values ($1, 1, 'infinity')`,
        values: [workerId],
      });
      const loop = startDeliveries({
        database: base.db,
        bell,
        workerId,
        log,
        messenger: messengerOf(worker) as Messenger,
        view: async (_workspaceId, _kind, subjectId) =>
          blank.has(subjectId) ? null : ({ kind: 'task', task: { taskId: subjectId } } as FullView),
        adminsOf: async () => admins,
      });
      loops.push(loop);
      return loop;
    },
    async owe(
      channelId,
      { priority = PRIORITY.decision, viewKind = 'task', subjectId = randomUUIDv7() } = {},
    ) {
      const target = { to: 'channel', channelId } as const;
      await base.db.transaction((tx) =>
        owe(tx, { workspaceId: WORKSPACE, viewKind, subjectId, target, priority }),
      );
      return subjectId;
    },
    redraw: (subjectId) => base.db.transaction((tx) => redraw(tx, WORKSPACE, subjectId)),
    async row(subjectId) {
      const { rows } = await base.db.query<Row>({
        text: `select status, try_count, last_error from deliveries where subject_id = $1 order by delivery_id desc limit 1`,
        values: [subjectId],
      });
      return rows[0];
    },
    settled: (subjectId) =>
      until('settled', async () => (await sending.row(subjectId))?.status === 'settled'),
    ring: () => ring(base.db, 'delivery'),
  } satisfies Omit<Sending, keyof TestDatabase>) as Sending;

  beforeEach(async () => {
    await base.setClock('0');
    await base.db.query({ text: `update deliveries set status = 'refused'` });
    await base.db.query({ text: 'delete from delivery_pauses' });
    for (const list of [calls, errors]) list.length = 0;
    gone.clear();
    blank.clear();
    sending.slack = () => undefined;
    bell = await openBell(base.db);
  });
  afterEach(async () => {
    await Promise.all(loops.map((loop) => loop.stop()));
    loops = [];
    await bell.close();
  });
  return sending;
}
