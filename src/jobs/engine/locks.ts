/**
 * The engine's locks, and who is woken by what happens under them.
 *
 * Lock order, everywhere: event keys (sorted, advisory) -> runs by (depth, id), so a parent before its children, `for update` -> whatever
 * the caller locks next. What takes them in another order may be chosen as a deadlock victim; `transaction` then runs it again.
 */
import type { RunRef, Tx, WorkspaceId } from '../../types.ts';
import { ringAll } from './bell.ts';
import type { WakeQueue } from './queue.ts';

export interface EventAddress {
  readonly workspaceId: WorkspaceId;
  readonly name: string;
  readonly key: string;
}

/** Takes the advisory locks of event addresses, sorted and each once, so that two lockers of the same keys cannot deadlock. */
export async function lockKeys(tx: Tx, addresses: readonly EventAddress[]): Promise<void> {
  if (addresses.length === 0) return;
  const keys = addresses.map(({ workspaceId, name, key }) => `${workspaceId}\n${name}\n${key}`);
  await tx.query({
    name: 'event_keys_lock',
    text: `select pg_advisory_xact_lock(hashtextextended(key, 0)) from unnest($1::text[]) with ordinality as k (key, place) order by place`,
    values: [[...new Set(keys)].sort()],
  });
}

/** Locks runs in the order of the house. Ids of runs that do not exist are passed over. */
export async function lockRuns(tx: Tx, runs: readonly RunRef[]): Promise<void> {
  if (runs.length === 0) return;
  await tx.query({
    name: 'runs_lock',
    text: `select 1 from runs where (workspace_id, run_id) in (select * from unnest($1::text[], $2::uuid[]))
           order by depth, run_id for update`,
    values: [runs.map((run) => run.workspaceId), runs.map((run) => run.runId)],
  });
}

/**
 * Tells runs, which the caller has locked, that one of their waits ended: a waiting one is queued, a cancelling one that nobody works
 * gets a wake-up, and the process that works one right now is told, so that the blocked branch goes on there.
 */
export async function wakeRuns(tx: Tx, queue: WakeQueue, runs: readonly RunRef[]): Promise<void> {
  if (runs.length === 0) return;
  const { rows } = await tx.query<Woken>({
    name: 'runs_wake',
    text: `with named as (select * from unnest($1::text[], $2::uuid[]) as n (workspace_id, run_id)),
             woken as (
               update runs set status = 'queued', queued_at = db_now()
               where (workspace_id, run_id) in (select workspace_id, run_id from named) and status = 'waiting'
               returning workspace_id, run_id)
           select workspace_id, run_id, 'wake' as how from woken
           union all
           select workspace_id, run_id, case when worker_id is null then 'wake' else 'nudge' end from runs
           where (workspace_id, run_id) in (select workspace_id, run_id from named) and status in ('running', 'cancelling')`,
    values: [runs.map((run) => run.workspaceId), runs.map((run) => run.runId)],
  });
  await tell(tx, queue, rows);
}

/** A run that has to hear of something: by a wake-up, or through the process that works it. What else a statement tells is not for `tell`. */
export interface Woken {
  workspace_id: string;
  run_id: string;
  how: 'wake' | 'nudge' | 'cancel' | 'stored';
}

/** Sends what `wakeRuns` or a statement of the same shape found. */
export async function tell(tx: Tx, queue: WakeQueue, woken: readonly Woken[]): Promise<void> {
  const of = (how: Woken['how']): RunRef[] =>
    woken
      .filter((row) => row.how === how)
      .map((row) => ({ workspaceId: row.workspace_id, runId: row.run_id }));
  await queue.send(tx, of('wake'));
  await ringAll(
    tx,
    of('nudge').map((run) => `nudge ${run.runId}`),
  );
}
