/**
 * What follows from a cancelled run for what it asked and was about to do: joins the transaction that cancels it.
 *
 * Invariant. Afterwards nothing of the run waits for a person or may still be executed; what is being executed is left to be finished
 * honestly, by whoever sent it or by the run's onFailure. Emits no event.
 *
 * Lock order: the run (by the caller) -> requests by id -> actions by id -> ledger subject.
 */
import { CountersignError } from '../errors.ts';
import type { RunRef, Tx } from '../types.ts';
import { lockOpenActions, moveAction, type StoredAction } from './actions.ts';
import { lockOpenRequests, withdraw } from './approvals.ts';
import { redraw } from './deliveries.ts';
import { appendEntry } from './ledger.ts';
import { readTask } from './tasks.ts';

/**
 * Withdraws every pending request of the run and every approval that was not executed, closes the actions behind them and those that needed
 * none. Returns what is being executed at this moment, as people know it (kind and title). Joins the caller's transaction, which holds the
 * run's row `for update`. Repeatable: what is closed is passed over.
 */
export async function withdrawForCancel(tx: Tx, run: RunRef): Promise<readonly string[]> {
  const requests = await lockOpenRequests(tx, run);
  // Read after the requests are locked: whoever executes holds the request first, so this is how the actions stand.
  const actions = await lockOpenActions(tx, run);
  const tasks = new Set<string>();
  for (const action of actions) {
    if (action.status === 'executing') continue;
    tasks.add(action.taskId);
    await closeAction(tx, run, action);
    const request = requests.find(({ actionId }) => actionId === action.actionId);
    if (request === undefined) continue;
    const task = await readTask(tx, run.workspaceId, action.taskId);
    if (task === null) throw new CountersignError('RUN_NOT_FOUND', `There is no task ${action.taskId}`);
    await withdraw(tx, task, request);
  }
  for (const taskId of tasks) await redraw(tx, run.workspaceId, taskId);
  return actions.flatMap(({ status, kind, title }) => (status === 'executing' ? [`${kind}: ${title}`] : []));
}

async function closeAction(tx: Tx, run: RunRef, action: StoredAction): Promise<void> {
  await moveAction(tx, run.workspaceId, action.actionId, action.status, 'closed');
  // One that was only asked about never was permitted: its request's entry says all.
  if (action.status !== 'permitted') return;
  await appendEntry(tx, {
    workspaceId: run.workspaceId,
    subjectKind: 'run',
    subjectId: run.runId,
    kind: 'action.closed',
    facts: {
      actionId: action.actionId,
      actionHash: action.actionHash,
      kind: action.kind,
      credential: action.credential,
      why: 'cancelled',
    },
  });
}
