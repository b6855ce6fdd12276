/**
 * The inbox: what Slack sent, stored before it is acknowledged, turned into its consequence afterwards. Owns the table `inbox`.
 *
 * Invariants. `store` returning means stored: the ack may go out. A redelivery collapses on its key. A row's consequence and its
 * mark `handled` are one transaction; outside look-ups happen before it, in none. A row that keeps failing, or whose claims keep ending
 * with their process, is parked, loudly, and its author is told; trouble outside is waited out for a day first. The others run on. Handled
 * rows stay for a day, so that a late redelivery finds its key.
 */
import { randomUUIDv7 } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { CountersignError, DeliveryRefused, hasCode, toStoredError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Deadline, JsonObject, Queryable, Tx, WorkspaceId } from '../types.ts';
import type { DeliveryTarget } from '../views.ts';
import { oweNote } from './deliveries.ts';
import type { Consequence, InboxRow } from './desk.ts';
import type { Bell } from './engine/bell.ts';
import { type Database, isDatabaseAway } from './engine/db.ts';
import { WAKE_CHANNEL } from './engine/queue.ts';
import { type Loop, pauseMs, startLoop } from './loop.ts';

/** A claim is open again after this even while its worker lives. Longer than the look-ups of one row. */
const CLAIM_MS = 30_000;
/** Clicks, forms and commands, whose author waits (a form opens for three seconds after its click); and everything else. */
const LANES = [
  { word: 'inbox_press', sources: `source <> 'event'` },
  { word: 'inbox_event', sources: `source = 'event'` },
] as const;
type Lane = (typeof LANES)[number];

/**
 * Rows of a lane turned into consequences at once: each holds at most one connection, and not during look-ups. Twice as many finish a tenth more rows a
 * second and double the time of an ack, which shares the processor with them (`bench edge`, 20 s, two cores: p50 6.9 instead of 12.3 ms).
 */
const SLOTS = 4;
const SWEEP_MS = 5_000;
const FIRST_BACKOFF_MS = 500;
/** Some ten seconds in all: longer than PostgreSQL takes to start again, shorter than a process that is stopped waits. */
const PUT_BACK_TRIES = 10;
const PUT_BACK_PAUSE_MS = 200;
/** Tries of a row that fails by itself, about two minutes: a defect does not pass by waiting. */
const MAX_TRIES = 9;
/** How long outside trouble is waited out: longer than Slack's worst day, and what people pressed yesterday they have pressed again. */
const MAX_TROUBLE_MS = 24 * 60 * 60_000;

/**
 * Claims of a row that came to no end (its process was killed meanwhile, or stood still past the claim) before it is held to be the cause
 * (FAULTS: parks after 5 attempts counted before start).
 */
const MAX_CLAIMS = 5;
/** Slack sends again for an hour; a day is what FAULTS asks for. */
const KEEP_MS = 24 * 60 * 60_000;
/** What was given up, for a person to look at; it holds people's words. */
const KEEP_PARKED_MS = 30 * KEEP_MS;
const PRUNE_EVERY_MS = 10 * 60_000;
/** Rows deleted in one statement: some tens of milliseconds. */
const PRUNE_BATCH = 1_000;
/** Between two batches, so that a day's worth of rows leaves the database to others. */
const PRUNE_PAUSE_MS = 100;

export interface StoredRequest {
  readonly workspaceId: WorkspaceId;
  readonly dedupeKey: string;
  readonly source: InboxRow['source'];
  readonly payload: JsonObject;
}

/**
 * Stores one request and wakes the inbox workers: one statement, its own transaction. `duplicate` when its key is there already, handled or
 * not. Throws when it cannot be stored; then nothing may be acknowledged. What is not stored within `deadline` is undone, however long it
 * waited in the database: what Slack was told is not stored, and Slack told its author, does not happen after all. Only a commit that is
 * already being written when time is up still stands.
 */
export async function storeRequest(
  db: Database,
  request: StoredRequest,
  deadline?: Deadline,
): Promise<'stored' | 'duplicate'> {
  const statement = {
    name: 'inbox_store',
    text: `with stored as (
             insert into inbox (workspace_id, inbox_id, dedupe_key, source, payload) values ($1, $2, $3, $4, $5)
             on conflict (workspace_id, dedupe_key) do update set delivery_count = inbox.delivery_count + 1
             returning (xmax = 0) as inserted)
           select inserted, case when inserted then pg_notify('${WAKE_CHANNEL}', $6) end,
             -- Divides by zero, and so undoes all of it, when it is too late. now() is when the first message of this statement came.
             1 / (coalesce(clock_timestamp() < now() + $7::float8 * interval '1 millisecond', true))::int
           from stored`,
    values: [
      request.workspaceId,
      randomUUIDv7(),
      request.dedupeKey,
      request.source,
      JSON.stringify(request.payload),
      LANES[request.source === 'event' ? 1 : 0].word,
      // Asked by pg when the statement is sent, which may be long after now: a connection has to be free.
      deadline === undefined ? null : { toPostgres: () => deadline.leftMs() },
    ],
  };
  const { rows } = await db.query<{ inserted: boolean }>(statement, deadline?.signal);
  return rows[0]?.inserted ? 'stored' : 'duplicate';
}

interface InboxRowRow {
  workspace_id: string;
  inbox_id: string;
  source: InboxRow['source'];
  payload: JsonObject;
  received_at: Date;
  try_count: number;
  trouble_count: number;
  /** This one included; more than one means that the one before came to no end. */
  claim_count: number;
  /** What tells this claim from any later one of the same row. */
  claim: string;
}

export interface InboxOptions {
  readonly database: Database;
  readonly bell: Bell;
  readonly log: Logger;
  /** Whose claims these are: they fall with this worker's lease. */
  readonly workerId: string;
  /** What follows from a row; looks things up outside any transaction. */
  readonly route: (row: InboxRow) => Promise<Consequence>;
}

/** Works the inbox in this process until stopped. Any number of processes may. */
export function startInbox(options: InboxOptions): Loop {
  const lanes = LANES.map((lane) => startLane(options, lane));
  return {
    async stop() {
      await Promise.all(lanes.map((lane) => lane.stop()));
    },
  };
}

function startLane(options: InboxOptions, lane: Lane): Loop {
  const { database, bell, log, workerId } = options;
  // At most one row whose last claim came to no end is worked on at a time: those that were merely there when another row ended the
  // process must not be counted down with it again and again.
  let isTrying = false;
  return startLoop({
    name: 'inbox',
    bell,
    word: lane.word,
    sweepMs: SWEEP_MS,
    slots: SLOTS,
    claim: async (free) => {
      const rows = await claim(database, lane, workerId, free, !isTrying);
      isTrying ||= rows.some((row) => row.claim_count > 1);
      return rows;
    },
    work: async (row) => {
      try {
        await handle(options, row);
      } finally {
        if (row.claim_count > 1) isTrying = false;
      }
    },
    nextMs: () => msUntilNext(database, lane, !isTrying),
    log,
  });
}

/**
 * Counts the claim before the work begins. At most one of the rows is one whose last claim came to no end, none without `mayTry`.
 * A worker whose lease has run out claims nothing: its claims would be open at once, to itself too.
 *
 * Of the rows that nobody claims, a count of zero says so by itself: with any other condition on each row, or with db_now() (volatile)
 * compared row by row, the whole backlog was read for each claim (430 ms at 20,000 rows).
 */
async function claim(
  db: Queryable,
  { word, sources }: Lane,
  workerId: string,
  count: number,
  mayTry: boolean,
): Promise<InboxRowRow[]> {
  const { rows } = await db.query<InboxRowRow>({
    name: `claim_${word}`,
    text: `with tried as (
             select workspace_id, inbox_id from inbox where status = 'stored' and claim_count > 0 and ${sources} and next_try_at <= db_now()
               and claim_is_open(claimed_by, claimed_until) and $3 and not claim_is_open($2, 'infinity')
             order by next_try_at limit 1 for update skip locked),
           fresh as (
             select workspace_id, inbox_id from inbox where status = 'stored' and claim_count = 0 and ${sources} and next_try_at <= (select db_now())
               and not claim_is_open($2, 'infinity')
             order by next_try_at limit $1 - (select count(*) from tried) for update skip locked)
           update inbox i set claimed_by = $2, claimed_until = db_now() + ${CLAIM_MS} * interval '1 millisecond', try_count = i.try_count + 1,
             claim_count = i.claim_count + 1
           from (select workspace_id, inbox_id from tried union all select workspace_id, inbox_id from fresh) due
           where i.workspace_id = due.workspace_id and i.inbox_id = due.inbox_id
           returning i.workspace_id, i.inbox_id, i.source, i.payload, i.received_at, i.try_count,
             i.trouble_count, i.claim_count, i.claimed_until::text as claim`,
    values: [count, workerId, mayTry],
  });
  return rows;
}

async function msUntilNext(
  db: Queryable,
  { word, sources }: Lane,
  mayTry: boolean,
): Promise<number | undefined> {
  const { rows } = await db.query<{ ms: number | null }>({
    name: `next_${word}`,
    text: `select extract(epoch from least(
             (select min(next_try_at) from inbox where status = 'stored' and claim_count = 0 and ${sources}),
             (select min(greatest(next_try_at, claimed_until)) from inbox where status = 'stored' and claim_count > 0 and ${sources} and $1))
             - db_now())::float8 * 1000 as ms`,
    values: [mayTry],
  });
  return rows[0]?.ms ?? undefined;
}

async function handle(options: InboxOptions, row: InboxRowRow): Promise<void> {
  const { database } = options;
  if (row.claim_count > MAX_CLAIMS) {
    const why = `${MAX_CLAIMS} times the process that worked on this ended meanwhile`;
    await parked(options, row, new CountersignError('WORKER_LOST', why));
    return;
  }
  try {
    const consequence = await options.route({
      workspaceId: row.workspace_id,
      inboxId: row.inbox_id,
      source: row.source,
      payload: row.payload,
      receivedAt: row.received_at,
    });
    await database.transaction(async (tx) => {
      const { rowCount } = await tx.query({
        name: 'inbox_lock',
        text: `select 1 from inbox where workspace_id = $1 and inbox_id = $2 and status = 'stored' for update`,
        values: [row.workspace_id, row.inbox_id],
      });
      // Handled meanwhile by another worker that took this one for dead.
      if (rowCount === 0) return;
      await consequence(tx);
      await tx.query({
        name: 'inbox_handled',
        text: `update inbox set status = 'handled', handled_at = db_now(), last_error = null where workspace_id = $1 and inbox_id = $2`,
        values: [row.workspace_id, row.inbox_id],
      });
    });
  } catch (error) {
    await failedSurely(options, row, error);
  }
}

/** While the database is away a row can be neither handled nor put back; left alone it would wait until its claim runs out. */
async function failedSurely(options: InboxOptions, row: InboxRowRow, error: unknown): Promise<void> {
  for (let attempt = 1; ; attempt += 1)
    try {
      return await failed(options, row, error);
    } catch (trouble) {
      if (attempt === PUT_BACK_TRIES) throw trouble;
      await sleep(PUT_BACK_PAUSE_MS * attempt);
    }
}

/** Gives the row up without another try. */
async function parked(options: InboxOptions, row: InboxRowRow, error: CountersignError): Promise<void> {
  const stored = toStoredError(error);
  await options.database.transaction(async (tx) => {
    const { rowCount } = await tx.query({
      text: `update inbox set claimed_by = null, claimed_until = null, last_error = $4, status = 'parked'
             where workspace_id = $1 and inbox_id = $2 and status = 'stored' and claimed_until = $3::timestamptz`,
      values: [row.workspace_id, row.inbox_id, row.claim, stored.message],
    });
    if (rowCount === 1) await tellAuthor(tx, row);
  });
  options.log.error({ inboxId: row.inbox_id, error: stored }, 'inbox row parked: a person is needed');
}

async function tellAuthor(tx: Tx, row: InboxRowRow): Promise<void> {
  const author = authorOf(row);
  if (author !== null) await oweNote(tx, row.workspace_id, author, { kind: 'could_not_handle' });
}

/** Puts the row back for another try, or parks it and owes its author the word that nothing will come of it. */
async function failed(options: InboxOptions, row: InboxRowRow, error: unknown): Promise<void> {
  const stored = toStoredError(error);
  const isTrouble =
    isDatabaseAway(error) ||
    (error instanceof CountersignError && error.errorClass === 'retryable') ||
    // An installation that is lost comes back with another token, and this row is then as good as before.
    (error instanceof DeliveryRefused && error.refusedFor === 'credential') ||
    // No row is the cause: the policy in force cannot be read. Once an operator applies one that this release can read, the row is as good as
    // before; an Approve still counts for 15 minutes only.
    hasCode(error, 'CONFIG_INVALID');
  const askedMs = error instanceof CountersignError ? error.retryAfterMs : undefined;
  const waitMs = pauseMs(FIRST_BACKOFF_MS, isTrouble ? row.trouble_count + 1 : row.try_count, askedMs);
  const status = await options.database.transaction(async (tx) => {
    const { rows } = await tx.query<{ status: string }>({
      text: `update inbox set claimed_by = null, claimed_until = null, last_error = $4, next_try_at = db_now() + $5 * interval '1 millisecond', claim_count = 0,
               try_count = try_count - $6::integer, trouble_count = trouble_count + $6::integer,
               status = case when $6::integer = 1 and received_at + ${MAX_TROUBLE_MS} * interval '1 millisecond' > db_now() then 'stored'
                             when $6::integer = 0 and try_count < ${MAX_TRIES} then 'stored'
                             else 'parked' end
             where workspace_id = $1 and inbox_id = $2 and status = 'stored' and claimed_until = $3::timestamptz
             returning status`,
      values: [row.workspace_id, row.inbox_id, row.claim, stored.message, waitMs, isTrouble ? 1 : 0],
    });
    if (rows[0]?.status === 'parked') await tellAuthor(tx, row);
    return rows[0]?.status;
  });
  if (status === 'parked')
    options.log.error({ inboxId: row.inbox_id, error: stored }, 'inbox row parked: a person is needed');
  else
    options.log.warn({ inboxId: row.inbox_id, error: stored, waitMs }, 'inbox row failed, will be retried');
}

const id = z.string().nullish();
/** Of a click, a submitted modal, a message and a command: who, and where. Read loosely, because it is read when all else failed. */
const authored = z.object({
  user: z.object({ id: z.string() }).nullish(),
  user_id: id,
  channel: z.object({ id: z.string() }).nullish(),
  channel_id: id,
  container: z.object({ channel_id: id, thread_ts: id }).nullish(),
  message: z.object({ thread_ts: id }).nullish(),
  event: z.object({ user: id, channel: id, thread_ts: id }).nullish(),
});

/** Where the author of a row reads what became of it: beside what they did, else in their direct message. Null when nobody is named. */
function authorOf(row: InboxRowRow): DeliveryTarget | null {
  const { data } = authored.safeParse(row.payload);
  const userId = data?.user?.id ?? data?.user_id ?? data?.event?.user;
  if (data === undefined || userId == null) return null;
  const channelId =
    data.channel?.id ?? data.container?.channel_id ?? data.channel_id ?? data.event?.channel ?? null;
  if (channelId === null) return { to: 'channel', channelId: userId };
  const threadTs = data.message?.thread_ts ?? data.container?.thread_ts ?? data.event?.thread_ts ?? null;
  return { to: 'person', channelId, threadTs, userId };
}

/**
 * Deletes one batch of rows that were handled more than a day ago, or given up more than a month ago; how many. Its own transaction; rows that
 * another process is just deleting are left to it.
 */
export async function pruneInbox(db: Queryable): Promise<number> {
  const { rowCount } = await db.query({
    name: 'inbox_prune',
    // The instants are read once: db_now() is volatile, and compared row by row it would keep the indexes from being used.
    text: `delete from inbox where ctid = any((array(
             select ctid from inbox where status = 'handled' and handled_at < (select db_now() - ${KEEP_MS} * interval '1 millisecond')
             order by handled_at limit ${PRUNE_BATCH} for update skip locked)
           || array(
             select ctid from inbox where status = 'parked' and received_at < (select db_now() - ${KEEP_PARKED_MS} * interval '1 millisecond')
             order by received_at limit ${PRUNE_BATCH} for update skip locked))[1:${PRUNE_BATCH}])`,
  });
  return rowCount;
}

/** Prunes the inbox every ten minutes, in batches, until stopped. Any number of processes may. */
export function startPruning(options: { readonly database: Database; readonly log: Logger }): Loop {
  const { database, log } = options;
  const stopping = new AbortController();
  const { signal } = stopping;
  const pause = (ms: number) => sleep(ms, undefined, { signal, ref: false }).catch(() => undefined);
  const prune = async (): Promise<void> => {
    // Processes that were started together do not come together.
    await pause(Math.random() * PRUNE_EVERY_MS);
    while (!signal.aborted) {
      const count = await pruneInbox(database).catch((error: unknown) => {
        log.warn({ error: toStoredError(error) }, 'the inbox was not pruned, will be retried');
        return 0;
      });
      await pause(count === PRUNE_BATCH ? PRUNE_PAUSE_MS : PRUNE_EVERY_MS);
    }
  };
  const pruning = prune();
  return {
    async stop() {
      stopping.abort();
      await pruning;
    },
  };
}
