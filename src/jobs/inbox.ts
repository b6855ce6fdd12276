/**
 * The inbox: what Slack sent, stored before it is acknowledged, turned into its consequence afterwards. Owns the table `inbox`.
 *
 * Invariants. `store` returning means stored: the ack may go out. A redelivery collapses on its key. A row's consequence and its
 * mark `handled` are one transaction; outside look-ups happen before it, in none. A row that keeps failing is parked, loudly, and its
 * author is told; trouble outside is waited out for a day first.
 */
import { randomUUIDv7 } from 'node:crypto';
import { z } from 'zod';
import { CountersignError, toStoredError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { DeliveryTarget, JsonObject, Queryable, WorkspaceId } from '../types.ts';
import { oweNote } from './deliveries.ts';
import type { Consequence, InboxRow } from './desk.ts';
import type { Bell } from './engine/bell.ts';
import type { Database } from './engine/db.ts';
import { WAKE_CHANNEL } from './engine/queue.ts';
import { type Loop, pauseMs, startLoop } from './loop.ts';

/** A claim is open again after this even while its worker lives. Longer than the look-ups of one row. */
const CLAIM_MS = 30_000;
/** Rows turned into consequences at once: each holds at most one connection, and not during look-ups. */
const SLOTS = 8;
const SWEEP_MS = 5_000;
const FIRST_BACKOFF_MS = 500;
/** Tries of a row that fails by itself, about two minutes: a defect does not pass by waiting. */
const MAX_TRIES = 9;
/** How long outside trouble is waited out: longer than Slack's worst day, and what people pressed yesterday they have pressed again. */
const MAX_TROUBLE_MS = 24 * 60 * 60_000;

export interface StoredRequest {
  readonly workspaceId: WorkspaceId;
  readonly dedupeKey: string;
  readonly source: InboxRow['source'];
  readonly payload: JsonObject;
}

/**
 * Stores one request and wakes the inbox workers: one statement, its own transaction. `duplicate` when its key is there already, handled or
 * not. Throws when it cannot be stored; then nothing may be acknowledged.
 */
export async function storeRequest(db: Queryable, request: StoredRequest): Promise<'stored' | 'duplicate'> {
  const { rows } = await db.query<{ inserted: boolean }>({
    name: 'inbox_store',
    text: `with stored as (
             insert into inbox (workspace_id, inbox_id, dedupe_key, source, payload) values ($1, $2, $3, $4, $5)
             on conflict (workspace_id, dedupe_key) do update set delivery_count = inbox.delivery_count + 1
             returning (xmax = 0) as inserted)
           select inserted, case when inserted then pg_notify('${WAKE_CHANNEL}', 'inbox') end from stored`,
    values: [
      request.workspaceId,
      randomUUIDv7(),
      request.dedupeKey,
      request.source,
      JSON.stringify(request.payload),
    ],
  });
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
  const { database, bell, log, workerId } = options;
  return startLoop({
    name: 'inbox',
    bell,
    word: 'inbox',
    sweepMs: SWEEP_MS,
    slots: SLOTS,
    claim: (free) => claim(database, workerId, free),
    work: (row) => handle(options, row),
    nextMs: () => msUntilNext(database),
    log,
  });
}

/** A worker whose lease has run out claims nothing: its claims would be open at once, to itself too. */
async function claim(db: Queryable, workerId: string, count: number): Promise<InboxRowRow[]> {
  const { rows } = await db.query<InboxRowRow>({
    name: 'inbox_claim',
    text: `update inbox i set claimed_by = $2, claimed_until = db_now() + ${CLAIM_MS} * interval '1 millisecond', try_count = i.try_count + 1
           from (select workspace_id, inbox_id from inbox where status = 'stored' and next_try_at <= db_now() and claim_is_open(claimed_by, claimed_until)
                   and not claim_is_open($2, 'infinity')
                 order by next_try_at limit $1 for update skip locked) due
           where i.workspace_id = due.workspace_id and i.inbox_id = due.inbox_id
           returning i.workspace_id, i.inbox_id, i.source, i.payload, i.received_at, i.try_count,
             i.trouble_count, i.claimed_until::text as claim`,
    values: [count, workerId],
  });
  return rows;
}

async function msUntilNext(db: Queryable): Promise<number | undefined> {
  const { rows } = await db.query<{ ms: number | null }>({
    name: 'inbox_next',
    text: `select extract(epoch from min(greatest(next_try_at, coalesce(claimed_until, next_try_at))) - db_now())::float8 * 1000 as ms
           from inbox where status = 'stored'`,
  });
  return rows[0]?.ms ?? undefined;
}

async function handle(options: InboxOptions, row: InboxRowRow): Promise<void> {
  const { database } = options;
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
    await failed(options, row, error);
  }
}

/** Puts the row back for another try, or parks it and owes its author the word that nothing will come of it. */
async function failed(options: InboxOptions, row: InboxRowRow, error: unknown): Promise<void> {
  const stored = toStoredError(error);
  const trouble = error instanceof CountersignError && error.errorClass === 'retryable' ? error : null;
  const waitMs =
    trouble === null
      ? pauseMs(FIRST_BACKOFF_MS, row.try_count, undefined)
      : pauseMs(FIRST_BACKOFF_MS, row.trouble_count + 1, trouble.retryAfterMs);
  const status = await options.database.transaction(async (tx) => {
    const { rows } = await tx.query<{ status: string }>({
      text: `update inbox set claimed_by = null, claimed_until = null, last_error = $4, next_try_at = db_now() + $5 * interval '1 millisecond',
               try_count = try_count - $6::integer, trouble_count = trouble_count + $6::integer,
               status = case when $6::integer = 1 and received_at + ${MAX_TROUBLE_MS} * interval '1 millisecond' > db_now() then 'stored'
                             when $6::integer = 0 and try_count < ${MAX_TRIES} then 'stored'
                             else 'parked' end
             where workspace_id = $1 and inbox_id = $2 and status = 'stored' and claimed_until = $3::timestamptz
             returning status`,
      values: [row.workspace_id, row.inbox_id, row.claim, stored.message, waitMs, trouble === null ? 0 : 1],
    });
    const author = rows[0]?.status === 'parked' ? authorOf(row) : null;
    if (author !== null) await oweNote(tx, row.workspace_id, author, { kind: 'could_not_handle' });
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
