/**
 * Cancelling: a run and all below it, in one transaction. By a person, by an event the workflow named (`cancelOn`), or because a
 * sibling won.
 *
 * Invariants. A cancelled run's fence is raised in the transaction that marks it, so that no write of its attempt commits later; its
 * open waits are closed there too. Levels are locked parent first, so that no child is started below a run that is being cancelled.
 */
import { CountersignError, toStoredError } from '../../errors.ts';
import type { RunRef, Tx } from '../../types.ts';
import { ringAll } from './bell.ts';
import { lockRuns } from './locks.ts';
import type { WakeQueue } from './queue.ts';

/** Levels of runs below a first one. Matches the check in migration 0007. */
export const MAX_DEPTH = 8;

/**
 * Called inside the cancelling transaction for each run that it marks, after the run's row is written: what it writes commits with it. Returns
 * names of effects that are under way and will be finished, for people and for the parent. May run more than once, as any transaction's
 * body. Must not emit events: their keys are locked before runs.
 */
export type OnCancel = (tx: Tx, run: RunRef) => Promise<readonly string[]>;

/** What reaches runs from a transaction: wake-ups, and what follows from cancelling them. */
export interface Wakes {
  readonly queue: WakeQueue;
  readonly onCancel?: OnCancel;
}

/**
 * Marks `runs` and everything below them as cancelling, unless they have ended or are cancelling already. Locks them. Returns the marked
 * ones by id, each with the names of its effects under way.
 */
export async function cancelRuns(
  tx: Tx,
  wakes: Wakes,
  runs: readonly RunRef[],
  reason: string,
): Promise<ReadonlyMap<string, readonly string[]>> {
  const error = JSON.stringify(toStoredError(new CountersignError('RUN_CANCELLED', reason)));
  const marked = new Map<string, readonly string[]>();
  let level = runs;
  for (let depth = 0; depth <= MAX_DEPTH && level.length > 0; depth += 1) {
    await lockRuns(tx, level);
    const now = await markLevel(tx, level, error);
    await wakes.queue.send(tx, now);
    await ringAll(
      tx,
      now.map((run) => `cancel ${run.runId} ${run.fence}`),
    );
    for (const run of now) marked.set(run.runId, (await wakes.onCancel?.(tx, run)) ?? []);
    level = await openChildren(tx, level);
  }
  return marked;
}

async function markLevel(
  tx: Tx,
  level: readonly RunRef[],
  error: string,
): Promise<(RunRef & { fence: number })[]> {
  const { rows } = await tx.query<{ workspace_id: string; run_id: string; fence: number }>({
    name: 'runs_cancel',
    text: `with marked as (
             update runs set status = 'cancelling', error = $3, fence = fence + 1, worker_id = null, claim_count = 0, pausing = false,
               queued_at = db_now()
             where (workspace_id, run_id) in (select * from unnest($1::text[], $2::uuid[]))
               and status in ('queued', 'running', 'waiting', 'paused', 'parked')
             returning workspace_id, run_id, fence),
           closed as (
             update waits set outcome = 'cancelled', resolved_at = db_now()
             where (workspace_id, run_id) in (select workspace_id, run_id from marked) and outcome is null)
           select workspace_id, run_id, fence from marked order by run_id`,
    values: [level.map((run) => run.workspaceId), level.map((run) => run.runId), error],
  });
  return rows.map((row) => ({ workspaceId: row.workspace_id, runId: row.run_id, fence: row.fence }));
}

async function openChildren(tx: Tx, parents: readonly RunRef[]): Promise<RunRef[]> {
  const { rows } = await tx.query<{ workspace_id: string; run_id: string }>({
    name: 'runs_open_children',
    text: `select workspace_id, run_id from runs
           where (workspace_id, parent_run_id) in (select * from unnest($1::text[], $2::uuid[]))
             and status not in ('completed', 'failed', 'cancelled')`,
    values: [parents.map((run) => run.workspaceId), parents.map((run) => run.runId)],
  });
  return rows.map((row) => ({ workspaceId: row.workspace_id, runId: row.run_id }));
}
