/**
 * The inbox: what Slack sent, stored before it is acknowledged, turned into its consequence afterwards. Owns the table `inbox`.
 *
 * Invariants. `store` returning means stored: the ack may go out. A redelivery collapses on its key. A row's consequence and its
 * mark `handled` are one transaction; outside look-ups happen before it, in none. A row that keeps failing is parked, loudly.
 */
import { randomUUIDv7 } from 'node:crypto';
import { toStoredError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { JsonObject, Queryable, WorkspaceId } from '../types.ts';
import type { Consequence, InboxRow } from './desk.ts';
import type { Bell } from './engine/bell.ts';
import type { Database } from './engine/db.ts';
import { WAKE_CHANNEL } from './engine/queue.ts';
import { backoffMs } from './engine/segment.ts';

/** A claim is open again after this even while its worker lives. Longer than the look-ups of one row. */
const CLAIM_MS = 30_000;
/** Rows turned into consequences at once: each holds at most one connection, and not during look-ups. */
const BATCH = 8;
const SWEEP_MS = 5_000;
/** About four minutes of tries: longer than Slack's own hiccups, short enough for a person to notice. */
const MAX_TRIES = 9;

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

export interface InboxLoop {
  stop(): Promise<void>;
}

/** Works the inbox in this process until stopped. Any number of processes may. */
export function startInbox(options: InboxOptions): InboxLoop {
  const { database, bell, log } = options;
  let stopped = false;
  const running = new Set<Promise<void>>();
  let claiming = false;
  let again = false;

  const pump = async (): Promise<void> => {
    if (stopped) return;
    again = true;
    if (claiming) return;
    claiming = true;
    try {
      while (again && !stopped && running.size < BATCH) {
        again = false;
        const free = BATCH - running.size;
        const rows = await claim(database, options.workerId, free);
        if (rows.length === free) again = true;
        for (const row of rows) {
          const work = handle(options, row).finally(() => {
            running.delete(work);
            if (again) void pump();
          });
          running.add(work);
        }
      }
    } catch (error) {
      log.warn({ error: toStoredError(error) }, 'inbox cannot be read, will be retried');
    } finally {
      claiming = false;
    }
  };
  bell.on('inbox', () => void pump());
  bell.onGap(() => void pump());
  const sweep = setInterval(() => void pump(), SWEEP_MS);
  void pump();
  return {
    async stop() {
      stopped = true;
      clearInterval(sweep);
      await Promise.allSettled(running);
    },
  };
}

async function claim(db: Queryable, workerId: string, count: number): Promise<InboxRowRow[]> {
  const { rows } = await db.query<InboxRowRow>({
    name: 'inbox_claim',
    text: `update inbox i set claimed_by = $2, claimed_until = db_now() + ${CLAIM_MS} * interval '1 millisecond', try_count = i.try_count + 1
           from (select workspace_id, inbox_id from inbox where status = 'stored' and next_try_at <= db_now() and claim_is_open(claimed_by, claimed_until)
                 order by next_try_at limit $1 for update skip locked) due
           where i.workspace_id = due.workspace_id and i.inbox_id = due.inbox_id
           returning i.workspace_id, i.inbox_id, i.source, i.payload, i.received_at, i.try_count`,
    values: [count, workerId],
  });
  return rows;
}

async function handle(options: InboxOptions, row: InboxRowRow): Promise<void> {
  const { database, log } = options;
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
    const stored = toStoredError(error);
    const parked = row.try_count >= MAX_TRIES;
    log[parked ? 'error' : 'warn'](
      { inboxId: row.inbox_id, error: stored },
      parked ? 'inbox row parked: a person is needed' : 'inbox row failed, will be retried',
    );
    await database
      .query({
        text: `update inbox set status = $3, last_error = $4, claimed_by = null, claimed_until = null, next_try_at = db_now() + $5 * interval '1 millisecond'
               where workspace_id = $1 and inbox_id = $2 and status = 'stored'`,
        values: [
          row.workspace_id,
          row.inbox_id,
          parked ? 'parked' : 'stored',
          stored.message,
          backoffMs(500, row.try_count, undefined),
        ],
      })
      .catch(() => undefined);
  }
}
