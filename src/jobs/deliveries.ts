/**
 * Deliveries: the one way the product's own messages reach Slack. Owns the table `deliveries`.
 *
 * A delivery is owed in the transaction of what it tells; it is sent after the commit, drawn from the newest committed state, and
 * again until what Slack shows is what the database says. Slack is a view: a failed delivery decides nothing.
 *
 * Invariants. A message is posted once: its id travels in the message's metadata, and after any doubt it is looked for before it
 * is posted again. A message that Slack refuses for good is not retried.
 */
import { randomUUIDv7 } from 'node:crypto';
import { CountersignError, hasCode, toStoredError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type {
  DeliveryTarget,
  JsonObject,
  MessageView,
  Messenger,
  NoteReason,
  Queryable,
  Tx,
  WorkspaceId,
} from '../types.ts';
import { type Bell, ring } from './engine/bell.ts';
import type { Database } from './engine/db.ts';
import { backoffMs } from './engine/segment.ts';

/** Lower goes first. */
export const PRIORITY = { decision: 0, progress: 1, digest: 2 } as const;

/** A claim is open again after this even while its worker lives; longer than any one call to Slack. */
const CLAIM_MS = 30_000;
const BATCH = 10;
/** What a lost ring left behind is found at this pace (FAULTS: repaired within 60 s). */
const SWEEP_MS = 10_000;
const FIRST_BACKOFF_MS = 1_000;
/** Longest pause between two tries, whatever the doubling says: people wait for these. */
const MAX_BACKOFF_MS = 60_000;

type ViewKind = 'approval' | 'task' | 'note' | 'receipt' | 'reaction';

export interface Owed {
  readonly workspaceId: WorkspaceId;
  readonly viewKind: ViewKind;
  /** The request or task it shows. */
  readonly subjectId?: string;
  /** What it says, where no subject says it. */
  readonly content?: JsonObject;
  readonly target: DeliveryTarget;
  readonly priority: number;
}

/** Owes Slack a message, in the caller's transaction. */
export async function owe(tx: Tx, owed: Owed): Promise<void> {
  await tx.query({
    name: 'delivery_owe',
    text: `insert into deliveries (workspace_id, delivery_id, view_kind, subject_id, content, target, priority)
           values ($1, $2, $3, $4, $5, $6, $7)`,
    values: [
      owed.workspaceId,
      randomUUIDv7(),
      owed.viewKind,
      owed.subjectId ?? null,
      owed.content === undefined ? null : JSON.stringify(owed.content),
      JSON.stringify(owed.target),
      owed.priority,
    ],
  });
  await ring(tx, 'delivery');
}

/** Owes one person a private explanation. */
export function oweNote(
  tx: Tx,
  workspaceId: WorkspaceId,
  target: DeliveryTarget,
  note: NoteReason,
): Promise<void> {
  return owe(tx, {
    workspaceId,
    viewKind: 'note',
    content: note as unknown as JsonObject,
    target,
    priority: PRIORITY.decision,
  });
}

/** Says that what these messages show has changed: every copy is redrawn after the commit. */
export async function redraw(tx: Tx, workspaceId: WorkspaceId, subjectId: string): Promise<void> {
  await tx.query({
    name: 'delivery_redraw',
    text: `update deliveries set wanted_version = wanted_version + 1, status = 'due', next_try_at = least(next_try_at, db_now())
           where workspace_id = $1 and subject_id = $2 and status <> 'refused'`,
    values: [workspaceId, subjectId],
  });
  await ring(tx, 'delivery');
}

interface DeliveryRow {
  workspace_id: string;
  delivery_id: string;
  view_kind: ViewKind;
  subject_id: string | null;
  content: JsonObject | null;
  target: DeliveryTarget;
  wanted_version: number;
  ts: string | null;
  try_count: number;
}

export interface DeliveryOptions {
  readonly database: Database;
  readonly bell: Bell;
  readonly messenger: Messenger;
  readonly log: Logger;
  /** Whose claims these are: they fall with this worker's lease. */
  readonly workerId: string;
  /** The newest committed state behind a message; null when there is nothing (any more) to show. */
  readonly view: (
    workspaceId: WorkspaceId,
    kind: 'approval' | 'task',
    subjectId: string,
  ) => Promise<MessageView | null>;
}

export interface DeliveryLoop {
  stop(): Promise<void>;
}

/** Sends what is owed, in this process, until stopped. Any number of processes may; each row is sent by one at a time. */
export function startDeliveries(options: DeliveryOptions): DeliveryLoop {
  const { database, bell, log } = options;
  let stopped = false;
  let again = false;
  let running: Promise<void> | undefined;
  let timer: NodeJS.Timeout | undefined;

  const pump = (): void => {
    if (stopped) return;
    again = true;
    running ??= (async () => {
      while (again && !stopped) {
        again = false;
        const rows = await claim(database, options.workerId);
        await Promise.all(rows.map((row) => deliver(options, row)));
        if (rows.length === BATCH) again = true;
      }
      clearTimeout(timer);
      const nextMs = await msUntilNext(database);
      if (nextMs !== undefined && !stopped)
        timer = setTimeout(pump, Math.max(10, Math.min(nextMs, SWEEP_MS)));
    })()
      .catch((error: unknown) =>
        log.warn({ error: toStoredError(error) }, 'delivery loop failed, will be retried'),
      )
      .finally(() => {
        running = undefined;
        if (again) pump();
      });
  };
  bell.on('delivery', pump);
  bell.onGap(pump);
  const sweep = setInterval(pump, SWEEP_MS);
  pump();
  return {
    async stop() {
      stopped = true;
      again = false;
      clearInterval(sweep);
      clearTimeout(timer);
      await running;
    },
  };
}

async function claim(db: Queryable, workerId: string): Promise<DeliveryRow[]> {
  const { rows } = await db.query<DeliveryRow>({
    name: 'delivery_claim',
    text: `update deliveries d set claimed_by = $1, claimed_until = db_now() + ${CLAIM_MS} * interval '1 millisecond',
             try_count = d.try_count + 1
           from (select workspace_id, delivery_id from deliveries
                 where status = 'due' and next_try_at <= db_now() and claim_is_open(claimed_by, claimed_until)
                 order by priority, next_try_at, delivery_id limit ${BATCH} for update skip locked) due
           where d.workspace_id = due.workspace_id and d.delivery_id = due.delivery_id
           returning d.workspace_id, d.delivery_id, d.view_kind, d.subject_id, d.content, d.target, d.wanted_version, d.ts, d.try_count`,
    values: [workerId],
  });
  return rows;
}

async function msUntilNext(db: Queryable): Promise<number | undefined> {
  const { rows } = await db.query<{ ms: number | null }>({
    name: 'delivery_next',
    text: `select extract(epoch from min(greatest(next_try_at, coalesce(claimed_until, next_try_at))) - db_now())::float8 * 1000 as ms
           from deliveries where status = 'due'`,
  });
  return rows[0]?.ms ?? undefined;
}

async function deliver(options: DeliveryOptions, row: DeliveryRow): Promise<void> {
  try {
    const ts = await send(options, row);
    await settle(options.database, row, ts);
  } catch (error) {
    if (hasCode(error, 'DELIVERY_REFUSED')) {
      options.log.error(
        { deliveryId: row.delivery_id, view: row.view_kind, error: error.message },
        'Slack refuses a message',
      );
      await refuse(options.database, row, error.message);
      return;
    }
    const asked = error instanceof CountersignError ? error.retryAfterMs : undefined;
    const waitMs = Math.max(
      asked ?? 0,
      Math.min(MAX_BACKOFF_MS, backoffMs(FIRST_BACKOFF_MS, row.try_count, undefined)),
    );
    options.log.warn(
      { deliveryId: row.delivery_id, error: toStoredError(error), waitMs },
      'delivery failed, will be retried',
    );
    await retryLater(options.database, row, toStoredError(error).message, waitMs);
  }
}

async function send(options: DeliveryOptions, row: DeliveryRow): Promise<string | null> {
  const { messenger } = options;
  if (row.view_kind === 'reaction') {
    const content = row.content as { name: string; ts: string };
    const channelId = row.target.to === 'thread' ? row.target.thread.channelId : row.target.channelId;
    await messenger.react(row.workspace_id, channelId, content.ts, content.name);
    return null;
  }
  const view = await viewOf(options, row);
  if (view === null) return row.ts;
  // Tried before and its fate unknown: it may be standing there already.
  const posted =
    row.ts ??
    (row.try_count > 1 ? await messenger.find(row.workspace_id, row.delivery_id, row.target) : null);
  if (posted === null) return messenger.post(row.workspace_id, row.delivery_id, row.target, view);
  const channelId = row.target.to === 'thread' ? row.target.thread.channelId : row.target.channelId;
  await messenger.update(row.workspace_id, row.delivery_id, channelId, posted, view);
  return posted;
}

async function viewOf(options: DeliveryOptions, row: DeliveryRow): Promise<MessageView | null> {
  switch (row.view_kind) {
    case 'approval':
    case 'task':
      return row.subject_id === null ? null : options.view(row.workspace_id, row.view_kind, row.subject_id);
    case 'note':
      return { kind: 'note', note: row.content as unknown as NoteReason };
    case 'receipt':
      return {
        kind: 'receipt',
        ...(row.content as unknown as Omit<Extract<MessageView, { kind: 'receipt' }>, 'kind'>),
      };
    case 'reaction':
      return null;
  }
}

/** What was asked for since the claim is due again at once. */
async function settle(db: Queryable, row: DeliveryRow, ts: string | null): Promise<void> {
  await db.query({
    name: 'delivery_settle',
    text: `update deliveries set ts = coalesce($3, ts), shown_version = $4, claimed_by = null, claimed_until = null, try_count = 0, last_error = null,
             status = case when wanted_version > $4 then 'due' else 'settled' end, next_try_at = db_now()
           where workspace_id = $1 and delivery_id = $2`,
    values: [row.workspace_id, row.delivery_id, ts, row.wanted_version],
  });
}

async function retryLater(db: Queryable, row: DeliveryRow, message: string, waitMs: number): Promise<void> {
  await db.query({
    text: `update deliveries set claimed_by = null, claimed_until = null, last_error = $3, next_try_at = db_now() + $4 * interval '1 millisecond'
           where workspace_id = $1 and delivery_id = $2`,
    values: [row.workspace_id, row.delivery_id, message, waitMs],
  });
}

async function refuse(db: Queryable, row: DeliveryRow, message: string): Promise<void> {
  await db.query({
    text: `update deliveries set status = 'refused', claimed_by = null, claimed_until = null, last_error = $3
           where workspace_id = $1 and delivery_id = $2`,
    values: [row.workspace_id, row.delivery_id, message],
  });
}
