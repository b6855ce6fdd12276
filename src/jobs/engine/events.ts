/**
 * What ends waits from outside their run: events, first write wins, and deadlines.
 *
 * Invariants. A wait gets exactly one outcome. An event is stored and its waits are ended under the lock of its key, so that a wait
 * registered meanwhile finds one or the other. Ending a wait, queueing its run and the wake-up are one transaction.
 */
import type { Json, Queryable, RunRef, Tx } from '../../types.ts';
import { cancelRuns, type Wakes } from './cancel.ts';
import { timeOutChildren } from './children-ended.ts';
import { type EventAddress, lockKeys, lockRuns, tell, type Woken, wakeRuns } from './locks.ts';
import { cancelledBy } from './runs.ts';

export type { EventAddress };

/** Due waits resolved in one transaction, so that a backlog does not hold locks for long. */
const DUE_BATCH = 100;

/**
 * Locks an event's key and the runs that wait for it, in that order, so that the caller may lock its own rows next and
 * `emitEvent` last without breaking the lock order. `sender` is locked along with them. Joins the caller's transaction.
 */
export async function lockEvent(tx: Tx, address: EventAddress, sender?: RunRef): Promise<void> {
  await lockKeys(tx, [address]);
  await tx.query({
    name: 'event_lock_runs',
    text: `select 1 from runs where workspace_id = $1 and run_id in (
             select run_id from waits where workspace_id = $1 and event_name = $2 and event_key = $3 and outcome is null
             union all select $4::uuid)
           order by depth, run_id for update`,
    values: [address.workspaceId, address.name, address.key, sender?.runId ?? null],
  });
}

/**
 * Stores an event and wakes, or cancels, whoever waits for it, in the caller's transaction. First write wins: returns false, and changes
 * nothing, when the event is there already. An event that nobody waits for yet is kept.
 */
export async function emitEvent(
  tx: Tx,
  wakes: Wakes,
  address: EventAddress,
  payload: Json,
  sender?: RunRef,
): Promise<boolean> {
  await lockEvent(tx, address, sender);
  // The waits are looked for in the statement that stores: their runs are locked, and the key keeps others from registering.
  const { rows } = await tx.query<Woken>({
    name: 'event_emit',
    text: `with stored as (
             insert into events (workspace_id, event_name, event_key, payload) values ($1, $2, $3, $4)
             on conflict (workspace_id, event_name, event_key) do nothing returning 1),
           resolved as (
             update waits set outcome = 'event', payload = $4, resolved_at = db_now()
             where workspace_id = $1 and event_name = $2 and event_key = $3 and outcome is null and exists (select 1 from stored)
             returning run_id, kind),
           woken as (
             update runs set status = 'queued', queued_at = db_now()
             where workspace_id = $1 and run_id in (select run_id from resolved where kind = 'event') and status = 'waiting'
             returning run_id)
           select $1 as workspace_id, run_id, 'wake' as how from woken
           union all
           select $1, run_id, 'cancel' from resolved where kind = 'cancel'
           union all
           select $1, r.run_id, case when r.worker_id is null then 'wake' else 'nudge' end from runs r
           where r.workspace_id = $1 and r.run_id in (select run_id from resolved where kind = 'event')
             and r.status in ('running', 'cancelling')
           union all
           select $1, null, 'stored' from stored`,
    values: [address.workspaceId, address.name, address.key, JSON.stringify(payload)],
  });
  if (rows.length === 0) return false;
  const cancelled = rows
    .filter((row) => row.how === 'cancel')
    .map((row) => ({ workspaceId: row.workspace_id, runId: row.run_id }));
  if (cancelled.length > 0) await cancelRuns(tx, wakes, cancelled, cancelledBy(address.name));
  await tell(tx, wakes.queue, rows);
  return true;
}

interface DueRow {
  workspace_id: string;
  run_id: string;
  path: string;
  event_name: string | null;
  event_key: string | null;
  children_path: string | null;
}

/**
 * Gives waits whose deadline has passed their timeout and wakes their runs. Returns how many were looked at; call again while that is
 * a full batch. Opens nothing: the caller's transaction. An event that commits first wins, because both sides lock its key.
 */
export async function resolveDueWaits(tx: Tx, wakes: Wakes): Promise<{ more: boolean }> {
  const { rows: due } = await tx.query<DueRow>({
    name: 'waits_due',
    text: `select workspace_id, run_id, path, event_name, event_key, children_path from waits
           where outcome is null and deadline_at <= db_now() order by deadline_at limit ${DUE_BATCH}`,
  });
  if (due.length === 0) return { more: false };
  await lockKeys(
    tx,
    due.flatMap((wait) =>
      wait.event_name !== null && wait.event_key !== null
        ? [{ workspaceId: wait.workspace_id, name: wait.event_name, key: wait.event_key }]
        : [],
    ),
  );
  await lockRuns(tx, due.map(runOf));
  const { rows: ended } = await tx.query<{ workspace_id: string; run_id: string }>({
    name: 'waits_due_resolve',
    text: `update waits set outcome = 'timeout', resolved_at = db_now()
           where (workspace_id, run_id, path) in (select * from unnest($1::text[], $2::uuid[], $3::text[]))
             and outcome is null and kind <> 'children'
           returning workspace_id, run_id`,
    values: [
      due.map((wait) => wait.workspace_id),
      due.map((wait) => wait.run_id),
      due.map((wait) => wait.path),
    ],
  });
  await wakeRuns(tx, wakes.queue, ended.map(runOf));
  for (const wait of due)
    if (wait.children_path !== null)
      await timeOutChildren(tx, wakes, runOf(wait), { path: wait.path, childrenPath: wait.children_path });
  return { more: due.length === DUE_BATCH };
}

function runOf(row: { readonly workspace_id: string; readonly run_id: string }): RunRef {
  return { workspaceId: row.workspace_id, runId: row.run_id };
}

/** Milliseconds until the earliest open deadline; undefined when there is none, negative when it has passed. */
export async function msUntilNextDeadline(db: Queryable): Promise<number | undefined> {
  const { rows } = await db.query<{ ms: number | null }>({
    name: 'waits_next',
    text: `select extract(epoch from min(deadline_at) - db_now())::float8 * 1000 as ms from waits
           where outcome is null and deadline_at < 'infinity'`,
  });
  return rows[0]?.ms ?? undefined;
}
