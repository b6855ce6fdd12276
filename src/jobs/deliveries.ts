/**
 * Deliveries: the one way the product's own messages reach Slack. Owns the table `deliveries`.
 *
 * A delivery is owed in the transaction of what it tells; it is sent after the commit, drawn from the newest committed state, and
 * again until what Slack shows is what the database says. Slack is a view: a failed delivery decides nothing.
 *
 * Invariants. A message is posted once: its id travels in the message's metadata, and after any doubt it is looked for before it
 * is posted again; who posts holds the row's claim at that moment. A message that Slack refuses for good is not retried: one that was
 * deleted is posted anew once, and a request whose place is gone goes to its owner once.
 */
import { randomUUIDv7 } from 'node:crypto';
import { CountersignError, hasCode, toStoredError } from '../errors.ts';
import { type Logger, maskSecrets } from '../log.ts';
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
import { type Loop, pauseMs, startLoop } from './loop.ts';

/** Lower goes first. */
export const PRIORITY = { decision: 0, progress: 1, digest: 2 } as const;

/**
 * A claim is open again after this even while its worker lives. Renewed right before a message is sent, and longer than that one call
 * to Slack can take.
 */
const CLAIM_MS = 30_000;
/** Messages on their way at once: as many calls to Slack may hang before another card waits for them. */
const SLOTS = 10;
/** What a lost ring left behind is found at this pace (FAULTS: repaired within 60 s). */
const SWEEP_MS = 10_000;
const FIRST_BACKOFF_MS = 1_000;

type ViewKind = 'approval' | 'task' | 'note' | 'receipt' | 'reaction' | 'digest';

export interface Owed {
  readonly workspaceId: WorkspaceId;
  readonly viewKind: ViewKind;
  /** The request, task or digest it shows. */
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

/** Says that what these messages show has changed: every copy is redrawn after the commit, none before the pause that Slack asked for. */
export async function redraw(tx: Tx, workspaceId: WorkspaceId, subjectId: string): Promise<void> {
  await tx.query({
    name: 'delivery_redraw',
    text: `update deliveries set wanted_version = wanted_version + 1, status = 'due',
             next_try_at = case when status = 'settled' then db_now() else next_try_at end
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
  /** What tells this claim from any later one of the same row; changes when it is renewed. */
  claim: string;
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
    kind: 'approval' | 'task' | 'digest',
    subjectId: string,
  ) => Promise<MessageView | null>;
}

/** Sends what is owed, in this process, until stopped. Any number of processes may; each row is sent by one at a time. */
export function startDeliveries(options: DeliveryOptions): Loop {
  const { database, bell, log, workerId } = options;
  return startLoop({
    name: 'deliveries',
    bell,
    word: 'delivery',
    sweepMs: SWEEP_MS,
    slots: SLOTS,
    claim: (free) => claim(database, workerId, free),
    work: (row) => deliver(options, row),
    nextMs: () => msUntilNext(database),
    log,
  });
}

/** A worker whose lease has run out claims nothing: its claims would be open to everybody at once. */
async function claim(db: Queryable, workerId: string, count: number): Promise<DeliveryRow[]> {
  const { rows } = await db.query<DeliveryRow>({
    name: 'delivery_claim',
    text: `with claimed as (
             update deliveries d set claimed_by = $1, claimed_until = db_now() + ${CLAIM_MS} * interval '1 millisecond',
               try_count = d.try_count + 1
             from (select workspace_id, delivery_id from deliveries
                   where status = 'due' and next_try_at <= db_now() and claim_is_open(claimed_by, claimed_until)
                     and not claim_is_open($1, 'infinity')
                   order by priority, next_try_at, delivery_id limit $2 for update skip locked) due
             where d.workspace_id = due.workspace_id and d.delivery_id = due.delivery_id
             returning d.workspace_id, d.delivery_id, d.view_kind, d.subject_id, d.content, d.target, d.wanted_version, d.ts, d.try_count,
               d.claimed_until::text as claim, d.priority, d.next_try_at)
           select workspace_id, delivery_id, view_kind, subject_id, content, target, wanted_version, ts, try_count, claim
           from claimed order by priority, next_try_at, delivery_id`,
    values: [workerId, count],
  });
  return rows;
}

/**
 * Holds the row for the one call that comes now. False when somebody else has it meanwhile, or may have it any moment because this
 * worker's lease has run out: then nothing may be sent.
 */
async function renew(db: Queryable, row: DeliveryRow): Promise<boolean> {
  const { rows } = await db.query<{ claim: string }>({
    name: 'delivery_renew',
    text: `update deliveries set claimed_until = db_now() + ${CLAIM_MS} * interval '1 millisecond'
           where workspace_id = $1 and delivery_id = $2 and claimed_until = $3::timestamptz and not claim_is_open(claimed_by, 'infinity')
           returning claimed_until::text as claim`,
    values: [row.workspace_id, row.delivery_id, row.claim],
  });
  row.claim = rows[0]?.claim ?? row.claim;
  return rows.length === 1;
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
  const { database, log } = options;
  const about = { deliveryId: row.delivery_id, view: row.view_kind };
  try {
    const sent = await send(options, row);
    const mine = sent !== 'not_mine' && (await settle(database, row, sent.ts));
    if (!mine) log.info(about, 'a delivery went to another worker');
  } catch (error) {
    if (hasCode(error, 'DELIVERY_REFUSED')) {
      const next = await refused(database, row, error.message);
      log.error({ ...about, error: maskSecrets(error.message), next }, 'Slack refuses a message');
      return;
    }
    const stored = toStoredError(error);
    const asked = error instanceof CountersignError ? error.retryAfterMs : undefined;
    const waitMs = pauseMs(FIRST_BACKOFF_MS, row.try_count, asked);
    log.warn({ ...about, error: stored, waitMs }, 'delivery failed, will be retried');
    await retryLater(database, row, stored.message, waitMs);
  }
}

/** The ts of the message that stands now, null where there is none to name. */
async function send(
  options: DeliveryOptions,
  row: DeliveryRow,
): Promise<{ readonly ts: string | null } | 'not_mine'> {
  const { messenger, database } = options;
  const channelId = row.target.to === 'thread' ? row.target.thread.channelId : row.target.channelId;
  if (row.view_kind === 'reaction') {
    const content = row.content as { name: string; ts: string };
    await messenger.react(row.workspace_id, channelId, content.ts, content.name);
    return { ts: null };
  }
  const view = await viewOf(options, row);
  if (view === null) return { ts: row.ts };
  // Tried before and its fate unknown: it may be standing there already.
  const ts =
    row.ts ??
    (row.try_count > 1 ? await messenger.find(row.workspace_id, row.delivery_id, row.target) : null);
  if (!(await renew(database, row))) return 'not_mine';
  if (ts === null) return { ts: await messenger.post(row.workspace_id, row.delivery_id, row.target, view) };
  await messenger.update(row.workspace_id, row.delivery_id, channelId, ts, view);
  return { ts };
}

async function viewOf(options: DeliveryOptions, row: DeliveryRow): Promise<MessageView | null> {
  switch (row.view_kind) {
    case 'approval':
    case 'task':
    case 'digest':
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

/** What was asked for since the claim is due again at once. False when the claim was somebody else's. */
async function settle(db: Queryable, row: DeliveryRow, ts: string | null): Promise<boolean> {
  const { rowCount } = await db.query({
    name: 'delivery_settle',
    text: `update deliveries set ts = coalesce($4, ts), shown_version = $5, claimed_by = null, claimed_until = null, try_count = 0, last_error = null,
             status = case when wanted_version > $5 then 'due' else 'settled' end, next_try_at = db_now()
           where workspace_id = $1 and delivery_id = $2 and claimed_until = $3::timestamptz`,
    values: [row.workspace_id, row.delivery_id, row.claim, ts, row.wanted_version],
  });
  return rowCount === 1;
}

async function retryLater(db: Queryable, row: DeliveryRow, message: string, waitMs: number): Promise<void> {
  await db.query({
    text: `update deliveries set claimed_by = null, claimed_until = null, last_error = $4, next_try_at = db_now() + $5 * interval '1 millisecond'
           where workspace_id = $1 and delivery_id = $2 and claimed_until = $3::timestamptz`,
    values: [row.workspace_id, row.delivery_id, row.claim, message, waitMs],
  });
}

/** How Slack says that the message to be redrawn was deleted. */
const DELETED = 'chat.update: message_not_found';

/** What follows from a refusal: a deleted message is owed anew, once; else it is over, and a request finds its owner. */
function refused(
  database: Database,
  row: DeliveryRow,
  message: string,
): Promise<'posted anew' | 'owner is told' | 'reader is told' | 'none' | 'not mine'> {
  return database.transaction(async (tx) => {
    // Every copy, in one order: two of them refused at once must not both turn to the owner.
    await tx.query({
      text: `select 1 from deliveries where workspace_id = $1 and (delivery_id = $2 or subject_id = $3) order by delivery_id for update`,
      values: [row.workspace_id, row.delivery_id, row.subject_id],
    });
    const { rows } = await tx.query<{ status: string }>({
      text: `update deliveries set claimed_by = null, claimed_until = null, last_error = $4, next_try_at = db_now(),
               status = case when $5 and reposted_at is null then 'due' else 'refused' end,
               ts = case when $5 and reposted_at is null then null else ts end,
               try_count = case when $5 and reposted_at is null then 0 else try_count end,
               reposted_at = case when $5 then coalesce(reposted_at, db_now()) else reposted_at end
             where workspace_id = $1 and delivery_id = $2 and claimed_until = $3::timestamptz
             returning status`,
      values: [row.workspace_id, row.delivery_id, row.claim, maskSecrets(message), message === DELETED],
    });
    const status = rows[0]?.status;
    if (status === undefined) return 'not mine';
    if (status === 'due') return 'posted anew';
    const reader = await oweInstead(tx, row);
    if (reader !== null) return reader;
    if (row.view_kind !== 'approval' || row.subject_id === null) return 'none';
    return (await oweOwner(tx, row.workspace_id, row.subject_id)) ? 'owner is told' : 'none';
  });
}

/**
 * Of a message that no card stands behind: its reader gets a private note in their direct message, and whoever asked for a digest, or owns
 * it, hears there that it could not be posted. Once: what is refused there too ends. Null when nobody is to be told.
 */
async function oweInstead(tx: Tx, row: DeliveryRow): Promise<'reader is told' | 'none' | null> {
  const { target } = row;
  if (row.view_kind === 'note' && target.to === 'person' && target.channelId !== target.userId) {
    await owe(tx, {
      workspaceId: row.workspace_id,
      viewKind: 'note',
      ...(row.content === null ? {} : { content: row.content }),
      target: { to: 'channel', channelId: target.userId },
      priority: PRIORITY.decision,
    });
    return 'reader is told';
  }
  if (row.view_kind !== 'digest' || target.to === 'thread') return null;
  const tell = (row.content as { tell?: string } | null)?.tell;
  if (tell === undefined) return 'none';
  await oweNote(
    tx,
    row.workspace_id,
    { to: 'channel', channelId: tell },
    { kind: 'digest_refused', channelId: target.channelId },
  );
  return 'reader is told';
}

/** Owes a request to the owner of its task, in their direct message. False when that was done before. */
async function oweOwner(tx: Tx, workspaceId: WorkspaceId, requestId: string): Promise<boolean> {
  const { rows } = await tx.query<{ owner_user_id: string }>({
    text: `select t.owner_user_id from approval_requests r
           join tasks t on t.workspace_id = r.workspace_id and t.run_id = r.run_id
           where r.workspace_id = $1 and r.request_id = $2
             and not exists (select 1 from deliveries d where d.workspace_id = r.workspace_id and d.subject_id = r.request_id
                               and d.target->>'channelId' = t.owner_user_id)`,
    values: [workspaceId, requestId],
  });
  const owner = rows[0]?.owner_user_id;
  if (owner === undefined) return false;
  await owe(tx, {
    workspaceId,
    viewKind: 'approval',
    subjectId: requestId,
    target: { to: 'channel', channelId: owner },
    priority: PRIORITY.decision,
  });
  return true;
}
