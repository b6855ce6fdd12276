/**
 * Starting child runs: the children, their wake-ups and the parent's wait for them are one transaction.
 *
 * Invariant: the children of a step are the same on every replay, because their ids follow from the parent and the place. A retried step
 * finds the ones of its earlier try; only where one was cancelled does a new one take its place.
 */
import type { RunStatus, Tx } from '../../types.ts';
import { type Attempt, holdForUpdate, type JournalEntry, readOutcomes } from './attempt.ts';
import type { Wakes } from './cancel.ts';
import { settleChildren } from './children-ended.ts';
import { derivedId } from './derived-id.ts';
import { type EventAddress, lockKeys } from './locks.ts';
import { insertChildren, type StartChild } from './runs.ts';

/** One child, checked against its workflow's schema. */
export type PlannedChild = Omit<StartChild, 'runId'>;

export interface ChildrenStart {
  /** Of the wait; differs from `childrenPath` when the step is retried. */
  readonly path: string;
  readonly childrenPath: string;
  readonly inputHash: string | null;
  readonly count: number;
  readonly timeoutMs: number;
  readonly children: readonly PlannedChild[];
}

/**
 * Starts what is missing of the children and registers the wait for them. Twice is once. Returns the wait's entry when it has ended
 * already. FENCED when another attempt holds the run.
 */
export async function startChildren(
  tx: Tx,
  wakes: Wakes,
  attempt: Attempt,
  start: ChildrenStart,
): Promise<JournalEntry | undefined> {
  const { workspaceId } = attempt;
  // Event keys come before runs.
  await lockKeys(
    tx,
    start.children.flatMap((child) =>
      child.cancelOn.map(({ event, key }): EventAddress => ({ workspaceId, name: event, key })),
    ),
  );
  await holdForUpdate(tx, attempt);
  const { rows: earlier } = await tx.query<{ child_key: string; status: RunStatus }>({
    name: 'children_earlier',
    text: 'select child_key, status from runs where workspace_id = $1 and parent_run_id = $2 and parent_path = $3',
    values: [workspaceId, attempt.runId, start.childrenPath],
  });
  const standing = new Set(
    earlier
      .filter((child) => child.status !== 'cancelled' && child.status !== 'cancelling')
      .map((child) => child.child_key),
  );
  const missing = start.children.filter((child) => !standing.has(child.key));
  await tx.query({
    name: 'children_wait_register',
    text: `insert into waits (workspace_id, run_id, path, kind, input_hash, deadline_at, needed_count, children_path)
           values ($1, $2, $3, 'children', $4, db_now() + $5 * interval '1 millisecond', $6, $7)
           on conflict do nothing`,
    values: [
      workspaceId,
      attempt.runId,
      start.path,
      start.inputHash,
      start.timeoutMs,
      start.count,
      start.childrenPath,
    ],
  });
  if (missing.length > 0)
    await insertChildren(
      tx,
      wakes,
      { workspaceId, runId: attempt.runId, path: start.childrenPath },
      missing.map((child) => ({ ...child, runId: derivedId(attempt, `${start.path}/child/${child.key}`) })),
    );
  // On a first start nothing can have ended: the children commit with this transaction.
  if (earlier.length === 0) return undefined;
  await settleChildren(tx, wakes, attempt, start.childrenPath);
  const [ended] = await readOutcomes(tx, attempt, [start.path]);
  return ended;
}
