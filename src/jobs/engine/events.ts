/**
 * What ends waits from outside their run: events, first write wins, and deadlines.
 *
 * Invariants. A wait gets exactly one outcome. An event is stored before its waits are resolved, under the lock of its key, so that a
 * wait registered meanwhile finds one or the other. Resolving a wait, queueing its run and the wake-up are one transaction.
 *
 * Lock order: event keys (sorted, advisory) -> runs (by id, `for update`) -> whatever the caller locks.
 */
import type { Json, Queryable, Tx, WorkspaceId } from '../../types.ts';
import type { WakeQueue } from './queue.ts';

/** Due waits resolved in one transaction, so that a backlog does not hold locks for long. */
const DUE_BATCH = 100;

export interface EventAddress {
  readonly workspaceId: WorkspaceId;
  readonly name: string;
  readonly key: string;
}

/**
 * Locks an event's key and the runs that wait for it, in that order, so that the caller may lock its own rows next and
 * `emitEvent` last without breaking the lock order. Joins the caller's transaction.
 */
export async function lockEvent(tx: Tx, address: EventAddress): Promise<void> {
  await lockKeys(tx, [eventLockKey(address.workspaceId, address.name, address.key)]);
  await tx.query({
    name: 'event_lock_runs',
    text: `select 1 from runs where workspace_id = $1 and run_id in (
             select run_id from waits where workspace_id = $1 and event_name = $2 and event_key = $3 and outcome is null)
           order by run_id for update`,
    values: [address.workspaceId, address.name, address.key],
  });
}

/**
 * Stores an event and wakes whoever waits for it, in the caller's transaction. First write wins: returns false, and changes
 * nothing, when the event is there already. An event that nobody waits for yet is kept.
 */
export async function emitEvent(
  tx: Tx,
  queue: WakeQueue,
  address: EventAddress,
  payload: Json,
): Promise<boolean> {
  await lockEvent(tx, address);
  const stored = await tx.query({
    name: 'event_insert',
    text: `insert into events (workspace_id, event_name, event_key, payload) values ($1, $2, $3, $4)
           on conflict (workspace_id, event_name, event_key) do nothing`,
    values: [address.workspaceId, address.name, address.key, JSON.stringify(payload)],
  });
  if (stored.rowCount === 0) return false;
  const { rows } = await tx.query<{ run_id: string }>({
    name: 'event_resolve',
    text: `with resolved as (
             update waits set outcome = 'event', payload = $4, resolved_at = db_now()
             where workspace_id = $1 and event_name = $2 and event_key = $3 and outcome is null
             returning run_id)
           update runs set status = 'queued', queued_at = db_now()
           where workspace_id = $1 and run_id in (select run_id from resolved) and status = 'waiting'
           returning run_id`,
    values: [address.workspaceId, address.name, address.key, JSON.stringify(payload)],
  });
  await queue.send(
    tx,
    rows.map((row) => ({ workspaceId: address.workspaceId, runId: row.run_id })),
  );
  return true;
}

interface DueRow {
  workspace_id: string;
  run_id: string;
  path: string;
  event_name: string | null;
  event_key: string | null;
}

/**
 * Gives waits whose deadline has passed their timeout and wakes their runs. Returns how many were looked at; call again while that is
 * a full batch. Opens nothing: the caller's transaction. An event that commits first wins, because both sides lock its key.
 */
export async function resolveDueWaits(tx: Tx, queue: WakeQueue): Promise<{ more: boolean }> {
  const { rows: due } = await tx.query<DueRow>({
    name: 'waits_due',
    text: `select workspace_id, run_id, path, event_name, event_key from waits
           where outcome is null and deadline_at <= db_now() order by deadline_at limit ${DUE_BATCH}`,
  });
  if (due.length === 0) return { more: false };
  await lockKeys(
    tx,
    due.flatMap((wait) =>
      wait.event_name !== null && wait.event_key !== null
        ? [eventLockKey(wait.workspace_id, wait.event_name, wait.event_key)]
        : [],
    ),
  );
  await tx.query({
    name: 'waits_due_lock',
    text: `select 1 from runs where (workspace_id, run_id) in (select * from unnest($1::text[], $2::uuid[]))
           order by run_id for update`,
    values: [due.map((wait) => wait.workspace_id), due.map((wait) => wait.run_id)],
  });
  const { rows: woken } = await tx.query<{ workspace_id: string; run_id: string }>({
    name: 'waits_due_resolve',
    text: `with resolved as (
             update waits set outcome = 'timeout', resolved_at = db_now()
             where (workspace_id, run_id, path) in (select * from unnest($1::text[], $2::uuid[], $3::text[]))
               and outcome is null
             returning workspace_id, run_id)
           update runs set status = 'queued', queued_at = db_now()
           where (workspace_id, run_id) in (select workspace_id, run_id from resolved) and status = 'waiting'
           returning workspace_id, run_id`,
    values: [
      due.map((wait) => wait.workspace_id),
      due.map((wait) => wait.run_id),
      due.map((wait) => wait.path),
    ],
  });
  await queue.send(
    tx,
    woken.map((row) => ({ workspaceId: row.workspace_id, runId: row.run_id })),
  );
  return { more: due.length === DUE_BATCH };
}

/** Milliseconds until the earliest open deadline; undefined when there is none, negative when it has passed. */
export async function msUntilNextDeadline(db: Queryable): Promise<number | undefined> {
  const { rows } = await db.query<{ ms: number | null }>({
    name: 'waits_next',
    text: `select extract(epoch from min(deadline_at) - db_now())::float8 * 1000 as ms from waits where outcome is null`,
  });
  return rows[0]?.ms ?? undefined;
}

export function eventLockKey(workspaceId: string, name: string, key: string): string {
  return `${workspaceId}\n${name}\n${key}`;
}

/** Takes the advisory locks of event keys, sorted and each once, so that two lockers of the same keys cannot deadlock. */
export async function lockKeys(tx: Tx, keys: readonly string[]): Promise<void> {
  if (keys.length === 0) return;
  const sorted = [...new Set(keys)].sort();
  await tx.query({
    name: 'event_keys_lock',
    text: `select pg_advisory_xact_lock(hashtextextended(key, 0)) from unnest($1::text[]) with ordinality as k (key, place) order by place`,
    values: [sorted],
  });
}
