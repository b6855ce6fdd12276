/**
 * What the end of a child means to its parent: enough have completed, or enough cannot any more, or time is up.
 *
 * Invariants. The parent's run is locked before its children, so that two children ending at once are judged one after the other. The
 * outcome of the wait, the cancelling of the others and the parent's wake-up are one transaction.
 */
import type { StoredError } from '../../errors.ts';
import type { Json, RunRef, RunStatus, Tx } from '../../types.ts';
import { cancelRuns, type Wakes } from './cancel.ts';
import { wakeRuns } from './locks.ts';

/** Payload of a finished `children` wait. */
export interface ChildrenEnded {
  readonly completed: readonly { readonly key: string; readonly runId: string; readonly output: Json }[];
  readonly failed: readonly { readonly key: string; readonly runId: string; readonly error: StoredError }[];
  readonly cancelled: readonly {
    readonly key: string;
    readonly runId: string;
    readonly inFlight: readonly string[];
  }[];
}

interface ChildRow {
  run_id: string;
  child_key: string;
  status: RunStatus;
  output: Json;
  error: StoredError | null;
}

/**
 * Looks whether the wait of `parent` for the children of step `path` is over, and if so stores its outcome, cancels the children that are
 * still open and wakes the parent. Nothing when it is not, or was already. The caller has locked the parent.
 */
export async function settleChildren(tx: Tx, wakes: Wakes, parent: RunRef, path: string): Promise<void> {
  const { rows } = await tx.query<{ path: string; needed_count: number }>({
    name: 'children_wait',
    text: `select path, needed_count from waits
           where workspace_id = $1 and run_id = $2 and children_path = $3 and kind = 'children' and outcome is null`,
    values: [parent.workspaceId, parent.runId, path],
  });
  const wait = rows[0];
  if (!wait) return;
  const children = await readChildren(tx, parent, path);
  const completed = children.filter((child) => child.status === 'completed').length;
  const open = children.filter(isOpen).length;
  if (completed < wait.needed_count && completed + open >= wait.needed_count) return;
  await end(tx, wakes, parent, wait.path, children, 'event', 'No longer needed by the run that started it');
}

/** Ends the wait at `path` because its deadline has passed. The caller has locked the parent; nothing when the wait has ended. */
export async function timeOutChildren(
  tx: Tx,
  wakes: Wakes,
  parent: RunRef,
  wait: { readonly path: string; readonly childrenPath: string },
): Promise<void> {
  const { rowCount } = await tx.query({
    text: 'select 1 from waits where workspace_id = $1 and run_id = $2 and path = $3 and outcome is null',
    values: [parent.workspaceId, parent.runId, wait.path],
  });
  if (rowCount === 0) return;
  const children = await readChildren(tx, parent, wait.childrenPath);
  await end(tx, wakes, parent, wait.path, children, 'timeout', 'It did not end in time');
}

async function end(
  tx: Tx,
  wakes: Wakes,
  parent: RunRef,
  waitPath: string,
  children: readonly ChildRow[],
  outcome: 'event' | 'timeout',
  reason: string,
): Promise<void> {
  const open = children.filter(isOpen);
  const inFlight = await cancelRuns(
    tx,
    wakes,
    open.map((child) => ({ workspaceId: parent.workspaceId, runId: child.run_id })),
    reason,
  );
  const ended: ChildrenEnded = {
    completed: children
      .filter((child) => child.status === 'completed')
      .map((child) => ({ key: child.child_key, runId: child.run_id, output: child.output })),
    failed: children
      .filter((child) => child.status !== 'completed' && !isOpen(child) && child.error !== null)
      .map((child) => ({ key: child.child_key, runId: child.run_id, error: child.error as StoredError })),
    cancelled: open.map((child) => ({
      key: child.child_key,
      runId: child.run_id,
      inFlight: inFlight.get(child.run_id) ?? [],
    })),
  };
  const { rowCount } = await tx.query({
    name: 'children_wait_end',
    text: `update waits set outcome = $4, payload = $5, resolved_at = db_now()
           where workspace_id = $1 and run_id = $2 and path = $3 and outcome is null`,
    values: [parent.workspaceId, parent.runId, waitPath, outcome, JSON.stringify(ended)],
  });
  if (rowCount === 1) await wakeRuns(tx, wakes.queue, [parent]);
}

/** The newest child of each key, those that ended first, in that order. A cancelled one may have been replaced on a retry. */
async function readChildren(tx: Tx, parent: RunRef, path: string): Promise<ChildRow[]> {
  const { rows } = await tx.query<ChildRow>({
    name: 'children_read',
    text: `with newest as (
             select distinct on (child_key) run_id, child_key, status, output, error, finished_at, created_at from runs
             where workspace_id = $1 and parent_run_id = $2 and parent_path = $3
             order by child_key, created_at desc)
           select run_id, child_key, status, output, error from newest order by finished_at, child_key`,
    values: [parent.workspaceId, parent.runId, path],
  });
  return rows;
}

function isOpen(child: ChildRow): boolean {
  return !['completed', 'failed', 'cancelling', 'cancelled'].includes(child.status);
}
