/**
 * What people do to runs of any process: cancel, pause, resume, retry. Each joins the caller's transaction and locks the run.
 *
 * Invariant: nothing here works a run. It changes what the row says and rings; whoever holds the run, or takes it next, does the rest.
 */
import { CountersignError } from '../../errors.ts';
import type { RunRef, RunStatus, Tx } from '../../types.ts';
import { ringAll } from './bell.ts';
import { cancelRuns, type Wakes } from './cancel.ts';
import { lockKeys, lockRuns } from './locks.ts';
import { awaitCancelling } from './runs.ts';

/** What a word of control came to. `changed` is false when the run's state had no use for it; `status` is the run's afterwards. */
export interface Steered {
  readonly changed: boolean;
  readonly status: RunStatus;
}

/**
 * Cancels a run and everything below it. Its holder's steps are aborted, its onFailure runs, then it is `cancelled`. Twice is once; a run
 * that has ended stays as it is. Throws RUN_NOT_FOUND.
 */
export async function cancelRun(tx: Tx, wakes: Wakes, run: RunRef, reason: string): Promise<Steered> {
  await lockedStatus(tx, run);
  const marked = await cancelRuns(tx, wakes, [run], reason);
  return { changed: marked.has(run.runId), status: await lockedStatus(tx, run) };
}

/**
 * Pauses a run, not its children: a waiting or queued one at once, a running one after the steps in flight (its status says `running`
 * until then). Waits go on and get their outcomes; the run takes them up when it is resumed. Throws RUN_NOT_FOUND.
 */
export async function pauseRun(tx: Tx, run: RunRef): Promise<Steered> {
  await lockedStatus(tx, run);
  const { rows } = await tx.query<{ fence: number }>({
    text: `update runs set pausing = (status = 'running'), status = case when status = 'running' then status else 'paused' end
           where workspace_id = $1 and run_id = $2 and (status in ('queued', 'waiting') or (status = 'running' and not pausing))
           returning fence`,
    values: [run.workspaceId, run.runId],
  });
  await ringAll(
    tx,
    rows.map(({ fence }) => `pause ${run.runId} ${fence}`),
  );
  return { changed: rows.length > 0, status: await lockedStatus(tx, run) };
}

/** Lets a paused run go on; twice is once. Throws RUN_NOT_FOUND. */
export async function resumeRun(tx: Tx, wakes: Wakes, run: RunRef): Promise<Steered> {
  await lockedStatus(tx, run);
  const { rows } = await tx.query<{ status: RunStatus }>({
    text: `update runs set pausing = false, status = case when status = 'paused' then 'queued' else status end,
             queued_at = case when status = 'paused' then db_now() else queued_at end
           where workspace_id = $1 and run_id = $2 and (status = 'paused' or pausing) returning status`,
    values: [run.workspaceId, run.runId],
  });
  if (rows[0]?.status === 'queued') await wakes.queue.send(tx, [run]);
  return { changed: rows.length > 0, status: await lockedStatus(tx, run) };
}

interface FailedRow {
  status: RunStatus;
  failed_path: string | null;
  retry_count: number;
  children_path: string | null;
}

/**
 * Works a failed run again from the step that failed it: what finished is kept, that step is tried anew, with its children when it had any.
 * A parked run is worked again as it is: for when its cause, often the build, was mended. A second retry finds nothing failed. Throws
 * RUN_NOT_FOUND.
 */
export async function retryRun(tx: Tx, wakes: Wakes, run: RunRef): Promise<Steered> {
  // Event keys come before runs; what a run was registered for does not change.
  const { rows: cancelOn } = await tx.query<{ event: string; key: string }>({
    text: `select distinct event_name as event, event_key as key from waits where workspace_id = $1 and run_id = $2 and kind = 'cancel'`,
    values: [run.workspaceId, run.runId],
  });
  await lockKeys(
    tx,
    cancelOn.map(({ event, key }) => ({ workspaceId: run.workspaceId, name: event, key })),
  );
  const status = await lockedStatus(tx, run);
  if (status !== 'failed' && status !== 'parked') return { changed: false, status };
  const { rows } = await tx.query<FailedRow>({
    // Waits that the failure closed are passed over too, unless they had already been passed over.
    text: `with failed as (
             select r.status, r.failed_path, r.retry_count, w.children_path from runs r
             left join waits w on w.workspace_id = r.workspace_id and w.run_id = r.run_id and w.path = r.failed_path and w.kind = 'children'
             where r.workspace_id = $1 and r.run_id = $2),
           retried as (
             update runs set status = 'queued', queued_at = db_now(), claim_count = 0, error = null, failed_path = null, finished_at = null,
               retry_count = retry_count + (status = 'failed')::int,
               retried = case when status = 'parked' then retried else array(
                 select path from unnest(retried || failed_path) as path where path is not null
                 union
                 select path from waits
                 where workspace_id = $1 and run_id = $2 and outcome = 'cancelled' and kind in ('event', 'sleep', 'children')) end
             where workspace_id = $1 and run_id = $2)
           select status, failed_path, retry_count, children_path from failed`,
    values: [run.workspaceId, run.runId],
  });
  const failed = rows[0];
  await wakes.queue.send(tx, [run]);
  if (failed?.status === 'failed') {
    await awaitCancelling(tx, wakes, run, cancelOn, `@${failed.retry_count + 2}`);
    if (failed.children_path !== null) await retryChildren(tx, wakes, run, failed.children_path);
  }
  return { changed: true, status: await lockedStatus(tx, run) };
}

async function retryChildren(tx: Tx, wakes: Wakes, parent: RunRef, childrenPath: string): Promise<void> {
  const { rows } = await tx.query<{ run_id: string }>({
    text: `select run_id from runs
           where workspace_id = $1 and parent_run_id = $2 and parent_path = $3 and status = 'failed' order by run_id`,
    values: [parent.workspaceId, parent.runId, childrenPath],
  });
  for (const row of rows) await retryRun(tx, wakes, { workspaceId: parent.workspaceId, runId: row.run_id });
}

async function lockedStatus(tx: Tx, run: RunRef): Promise<RunStatus> {
  await lockRuns(tx, [run]);
  const { rows } = await tx.query<{ status: RunStatus }>({
    text: 'select status from runs where workspace_id = $1 and run_id = $2',
    values: [run.workspaceId, run.runId],
  });
  if (!rows[0]) throw new CountersignError('RUN_NOT_FOUND', `There is no run ${run.runId}`);
  return rows[0].status;
}
