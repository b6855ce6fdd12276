/**
 * The executor: the one place where an effect leaves the product. Owns the table `executions`.
 *
 * Invariants. No effect without a permit, and a permit exists only for the length of one call: it is minted in the transaction that
 * moves one action `permitted -> executing`, writes the intent with this attempt's fence, and re-reads outcome, fingerprint, verdict
 * and newest policy. What runs is the stored payload. After a crash between effect and record the world is looked at before anything
 * is sent again; where nobody can tell, the outcome is `unknown` and a person decides.
 */
import { randomUUIDv7 } from 'node:crypto';
import { type Egress, mintPermit, type Permit } from '../agents/egress.ts';
import { CountersignError, hasCode, type StoredError, toStoredError } from '../errors.ts';
import { canonicalJson, compareItems } from '../policies/fingerprint.ts';
import type {
  Json,
  Person,
  PersonFacts,
  PreconditionChange,
  Receipt,
  StepContext,
  Tool,
  Tx,
  WorkspaceId,
  WriteTool,
} from '../types.ts';
import {
  factsOf,
  hashOf,
  lockAction,
  moveAction,
  readAction,
  type StoredAction,
  TIER_RANK,
} from './actions.ts';
import { receiptLine } from './approval-view.ts';
import {
  approversOf,
  lapse,
  lockRequestOf,
  readRequestOf,
  type StoredRequest,
  supersede,
} from './approvals.ts';
import type { PolicyInForce } from './definitions.ts';
import { owe, PRIORITY, redraw } from './deliveries.ts';
import type { Database } from './engine/db.ts';
import { LEASE_MS } from './engine/worker.ts';
import { appendEntry, type EntryKind } from './ledger.ts';
import { askToSettle } from './settling.ts';
import type { Task } from './tasks.ts';

/** An approval older than this is asked again: nobody meant it for a world that is a day further. */
const APPROVAL_STANDS_MS = 24 * 3_600_000;

export interface ExecutorDeps {
  readonly database: Database;
  readonly egress: Egress;
  readonly tools: readonly Tool[];
  readonly policyOf: PolicyInForce;
  /** Slack's newest word on a person: approvers are looked up again before what they approved is executed. */
  readonly person: (workspaceId: WorkspaceId, person: Person) => Promise<PersonFacts>;
}

export type Executed =
  | { readonly outcome: 'done'; readonly receipt: Receipt; readonly line: string }
  | { readonly outcome: 'failed'; readonly error: StoredError }
  | { readonly outcome: 'unknown' }
  /** Nothing was executed; what was approved no longer stands and must be asked again. */
  | { readonly outcome: 'changed'; readonly changes: readonly PreconditionChange[] }
  /** Nothing was executed, and asking again is pointless: the policy denies it now. */
  | { readonly outcome: 'denied'; readonly reasons: readonly string[] };

/**
 * Executes one permitted action once, from inside a step. Called again for the same action (a crash, a takeover) it finds what happened
 * and records it, or looks before it sends again. Throws FENCED when the attempt lost its run, TOOL_FAILED (retryable) while it cannot be known yet
 * whether an earlier call will still arrive.
 */
export async function execute(
  context: StepContext,
  deps: ExecutorDeps,
  task: Task,
  actionId: string,
): Promise<Executed> {
  const call = await callOf(context, deps, task, actionId);
  switch (call.action.status) {
    case 'permitted':
      return begin(call);
    case 'executing':
      return resume(call);
    default:
      return readExecuted(call);
  }
}

/**
 * Finds out how an action ended that was being executed when its run was cancelled, and records it; sends nothing, ever. From inside a step
 * of the run's onFailure. Throws TOOL_FAILED (retryable) while the call may still arrive, TOOL_UNKNOWN when this build cannot look: then
 * `giveUp`.
 */
export async function conclude(
  context: StepContext,
  deps: ExecutorDeps,
  task: Task,
  actionId: string,
): Promise<Executed> {
  const call = await callOf(context, deps, task, actionId);
  if (call.action.status !== 'executing') return readExecuted(call);
  const found = await lookBack(call);
  if (found !== 'absent') return found;
  // Absent to a keyed tool only means that repeating would be harmless, and nothing is repeated here.
  if (call.tool.effectClass !== 'checkable') return finish(call, { outcome: 'unknown' });
  const error = new CountersignError('RUN_CANCELLED', 'It did not arrive before the run was cancelled');
  return finish(call, { outcome: 'failed', error: toStoredError(error), drift: null });
}

async function callOf(context: StepContext, deps: ExecutorDeps, task: Task, actionId: string): Promise<Call> {
  const action = await readAction(deps.database, task.workspaceId, actionId);
  const tool = deps.tools.find((candidate) => candidate.kind === action.kind);
  if (tool?.access !== 'write' || tool.version !== action.toolVersion)
    throw new CountersignError('TOOL_UNKNOWN', `No tool ${action.kind} in version ${action.toolVersion}`);
  return { context, deps, task, tool, action };
}

/** What settling an action needs. */
interface Settled {
  readonly task: Task;
  readonly action: StoredAction;
  readonly deps: Pick<ExecutorDeps, 'tools' | 'policyOf'>;
}

interface Call {
  readonly context: StepContext;
  readonly deps: ExecutorDeps;
  readonly task: Task;
  readonly tool: WriteTool;
  readonly action: StoredAction;
}

/** The first attempt: look, compare, mint, send. Looking happens outside the transaction; the provider's compare-and-set closes the gap. */
async function begin(call: Call): Promise<Executed> {
  const { context, deps, task, action, tool } = call;
  const drift = await driftNow(call);
  const approvers = await lookUpApprovers(call);
  const sendBy = Date.now() + tool.requestTimeoutMs;

  const minted = await context.fenced(async (tx): Promise<Permit | Executed | 'moved'> => {
    const request = await lockRequestOf(tx, task.workspaceId, action.actionId);
    const locked = await lockAction(tx, task.workspaceId, action.actionId);
    if (locked.status !== 'permitted') return 'moved';
    const refusal = await refusalOf(tx, call, request, approvers);
    if (refusal !== null || drift.length > 0) {
      await close(tx, call, request, drift, refusal);
      return refusal?.kind === 'denied'
        ? { outcome: 'denied', reasons: refusal.reasons }
        : { outcome: 'changed', changes: drift };
    }
    await moveAction(tx, task.workspaceId, action.actionId, 'permitted', 'executing');
    await record(tx, call, 'action.executing', { effectClass: tool.effectClass });
    const permit = await intend(tx, call, sendBy);
    if (request !== null) await redraw(tx, task.workspaceId, request.requestId);
    return permit;
  });
  // An earlier try of this step got there first: what it left behind decides.
  if (minted === 'moved') return execute(context, deps, task, action.actionId);
  return 'outcome' in minted ? minted : send(call, minted);
}

/** Closes a permitted action unexecuted, and the request behind it. The caller has locked both. */
async function close(
  tx: Tx,
  call: Call,
  request: StoredRequest | null,
  drift: readonly PreconditionChange[],
  refusal: Refusal | null,
): Promise<void> {
  const { action, task } = call;
  await moveAction(tx, task.workspaceId, action.actionId, 'permitted', 'closed');
  await record(tx, call, 'action.closed', { why: refusal?.kind ?? 'drift' });
  if (request?.status !== 'approved') return;
  if (refusal?.kind === 'lapsed') await lapse(tx, task, request);
  else await supersede(tx, task, request, drift);
}

interface Refusal {
  /** `changed` and `lapsed` ask people again, `denied` does not. */
  readonly kind: 'changed' | 'lapsed' | 'denied';
  readonly reasons: readonly string[];
}

/** What of the action's preconditions does not hold any more, item by item. */
async function driftNow({ action, context, deps, tool }: Call): Promise<PreconditionChange[]> {
  const seen = await tool.target(action.arguments, { fetch: deps.egress.read, signal: context.signal });
  return compareItems(action.preconditions, seen.preconditions);
}

/** Why an action that was permitted may not run now; null when it may. Read under the locks, by the newest policy. */
async function refusalOf(
  tx: Tx,
  call: Call,
  request: StoredRequest | null,
  approvers: readonly PersonFacts[],
): Promise<Refusal | null> {
  const { action, deps, task, tool } = call;
  // The stored payload must still be what was hashed, judged and approved.
  const hash = hashOf(task.workspaceId, tool, action.arguments);
  if (hash !== action.actionHash || (request !== null && request.actionHash !== hash))
    return { kind: 'denied', reasons: ['The stored action does not match its fingerprint.'] };
  const policy = await deps.policyOf(tx, task.workspaceId);
  const facts = factsOf(task, action.kind, action.arguments);
  const verdict = policy.evaluate(facts);
  if (verdict.verdict === 'deny') return { kind: 'denied', reasons: [...verdict.reasons] };
  if (verdict.verdict === 'allow') return null;
  if (request?.status !== 'approved')
    return { kind: 'changed', reasons: ['No approval stands behind this action.'] };
  if (request.closedForMs > APPROVAL_STANDS_MS)
    return { kind: 'lapsed', reasons: ['It was not executed in time after the approval.'] };
  if (TIER_RANK[verdict.tier] > TIER_RANK[request.tier])
    return { kind: 'changed', reasons: ['The policy now sees a higher risk than what was approved.'] };
  if (compareItems(request.preconditions, action.preconditions).length > 0)
    return { kind: 'denied', reasons: ['The approval binds other preconditions than the action.'] };
  const rule = policy.reviewRule(facts, verdict);
  const standing = approvers.filter(
    (person) => policy.eligibility(person, request.rule, task.requester).eligible,
  );
  if (standing.length < Math.max(rule.quorum, request.rule.quorum))
    return { kind: 'changed', reasons: ['Who approved it may not decide on it any more.'] };
  return null;
}

async function lookUpApprovers(call: Call): Promise<PersonFacts[]> {
  const { deps, task, action } = call;
  const request = await readRequestOf(deps.database, task.workspaceId, action.actionId);
  if (request === null) return [];
  const people = await approversOf(deps.database, task.workspaceId, request.requestId);
  return Promise.all(people.map((person) => deps.person(task.workspaceId, person)));
}

/**
 * Writes the intent, with this attempt's fence, and mints its permit: on disk before anything is sent. Again for an action whose earlier call
 * surely did not arrive.
 */
async function intend(tx: Tx, call: Call, sendBy: number): Promise<Permit> {
  const { action, context, deps, task, tool } = call;
  const policy = await deps.policyOf(tx, task.workspaceId);
  const { rows } = await tx.query<{ fence: number }>({
    name: 'execution_intend',
    text: `insert into executions (workspace_id, execution_id, action_id, run_id, fence, action_hash, tool_version, credential, policy_version,
             idempotency_key, effect_class, settles_at)
           select $1, $2, $3, $4, r.fence, $5, $6, $7, $8, $9, $10, db_now() + $11 * interval '1 millisecond'
           from runs r where r.workspace_id = $1 and r.run_id = $4
           on conflict (workspace_id, action_id) do update
             set fence = excluded.fence, policy_version = excluded.policy_version, settles_at = excluded.settles_at
           returning fence`,
    values: [
      task.workspaceId,
      randomUUIDv7(),
      action.actionId,
      task.runId,
      action.actionHash,
      tool.version,
      tool.credential,
      policy.version,
      context.idempotencyKey,
      tool.effectClass,
      tool.requestTimeoutMs + LEASE_MS,
    ],
  });
  if (!rows[0]) throw new Error('an intent needs its run');
  return mintPermit({
    actionId: action.actionId,
    actionHash: action.actionHash,
    fence: rows[0].fence,
    sendBy,
  });
}

async function send(call: Call, permit: Permit): Promise<Executed> {
  const { action, context, deps, tool } = call;
  // Cancelled or taken over once it was sent, the call is still waited for: breaking it off would undo nothing, only leave nobody to know.
  const signal = AbortSignal.timeout(tool.requestTimeoutMs);
  let receipt: Receipt;
  try {
    context.signal.throwIfAborted();
    receipt = await tool.execute(action.arguments, action.preconditions, {
      fetch: deps.egress.write(permit),
      signal,
      idempotencyKey: context.idempotencyKey,
    });
  } catch (error) {
    if (hasCode(error, 'PRECONDITION_CHANGED'))
      return finish(call, { outcome: 'failed', error: toStoredError(error), drift: await driftNow(call) });
    if (error instanceof CountersignError && error.errorClass === 'terminal')
      return finish(call, { outcome: 'failed', error: toStoredError(error), drift: null });
    // Nobody knows yet whether it happened: the next try looks first.
    throw error;
  } finally {
    permit.close();
  }
  return finish(call, { outcome: 'done', receipt });
}

/** An intent stands and no record: find out what became of it, by the tool's effect class. */
async function resume(call: Call): Promise<Executed> {
  const found = await lookBack(call);
  if (found !== 'absent') return found;

  const { action, context, task, tool } = call;
  const drift = await driftNow(call);
  if (drift.length > 0) {
    const error = new CountersignError(
      'PRECONDITION_CHANGED',
      'The target changed before it could be executed',
    );
    return finish(call, { outcome: 'failed', error: toStoredError(error), drift });
  }
  const approvers = await lookUpApprovers(call);
  const sendBy = Date.now() + tool.requestTimeoutMs;
  const minted = await context.fenced(async (tx): Promise<Permit | Refusal | 'moved'> => {
    const request = await lockRequestOf(tx, task.workspaceId, action.actionId);
    const locked = await lockAction(tx, task.workspaceId, action.actionId);
    if (locked.status !== 'executing') return 'moved';
    return (await refusalOf(tx, call, request, approvers)) ?? intend(tx, call, sendBy);
  });
  if (minted === 'moved') return readExecuted(call);
  if ('reasons' in minted) {
    const error = new CountersignError('DENIED_BY_POLICY', minted.reasons.join(' '));
    return finish(call, { outcome: 'failed', error: toStoredError(error), drift: null });
  }
  return send(call, minted);
}

/** What became of an earlier call, recorded; `absent` when it surely did not arrive and no longer can. */
async function lookBack(call: Call): Promise<Executed | 'absent'> {
  const { action, context, deps, tool } = call;
  const reading = { fetch: deps.egress.read, signal: context.signal };
  const found =
    tool.effectClass === 'checkable'
      ? await tool.reconcile(action.arguments, action.preconditions, reading)
      : ({ outcome: tool.effectClass === 'keyed' ? 'absent' : 'unknowable' } as const);
  if (found.outcome === 'applied') return finish(call, { outcome: 'done', receipt: found.receipt });
  const waitMs = await msUntilSettled(call);
  // Absent now is not absent for good, and an honest receipt may still come, while the earlier call may be on its way.
  if (waitMs > 0)
    throw new CountersignError('TOOL_FAILED', 'An earlier call may still arrive; looking again later', {
      retryAfterMs: waitMs,
    });
  return found.outcome === 'unknowable' ? finish(call, { outcome: 'unknown' }) : 'absent';
}

/**
 * Settles an action whose step was given up, in the caller's transaction, so that nothing stands as permitted or executing for ever: what was
 * never sent is closed, what may have been sent is unknown and a person has to look.
 */
export async function giveUp(
  tx: Tx,
  deps: Pick<ExecutorDeps, 'tools' | 'policyOf'>,
  task: Task,
  actionId: string,
): Promise<'failed' | 'unknown'> {
  const request = await lockRequestOf(tx, task.workspaceId, actionId);
  const action = await lockAction(tx, task.workspaceId, actionId);
  const call = { task, action, deps };
  if (action.status === 'executing') {
    await settle(tx, call, request, { outcome: 'unknown' });
    return 'unknown';
  }
  if (action.status === 'permitted') {
    await moveAction(tx, task.workspaceId, actionId, 'permitted', 'closed');
    await record(tx, call, 'action.closed', { why: 'given-up' });
    if (request?.status === 'approved') await supersede(tx, task, request, []);
  }
  // A person may have settled it meanwhile; what the run found out is still that it could not tell.
  const { rowCount } = await tx.query({
    text: `select 1 from executions where workspace_id = $1 and action_id = $2 and outcome = 'unknown'`,
    values: [task.workspaceId, actionId],
  });
  return rowCount === 1 ? 'unknown' : 'failed';
}

async function msUntilSettled(call: Call): Promise<number> {
  const { rows } = await call.deps.database.query<{ ms: number }>({
    text: `select extract(epoch from settles_at - db_now())::float8 * 1000 as ms from executions where workspace_id = $1 and action_id = $2`,
    values: [call.task.workspaceId, call.action.actionId],
  });
  return rows[0]?.ms ?? 0;
}

type Ending =
  | { readonly outcome: 'done'; readonly receipt: Receipt }
  | {
      readonly outcome: 'failed';
      readonly error: StoredError;
      readonly drift: readonly PreconditionChange[] | null;
    }
  | { readonly outcome: 'unknown' };

const ENDING_ENTRY: Readonly<Record<Ending['outcome'], EntryKind>> = {
  done: 'action.done',
  failed: 'action.failed',
  unknown: 'action.unknown',
};

/**
 * Records how it ended, with the receipt for the thread, in one transaction. The one write the fence lets through late: an attempt that lost
 * its run meanwhile still knows what came back. Whoever records first wins; the other reads it.
 */
async function finish(call: Call, ending: Ending): Promise<Executed> {
  const { action, deps, task } = call;
  await deps.database.transaction(async (tx) => {
    const request = await lockRequestOf(tx, task.workspaceId, action.actionId);
    await lockAction(tx, task.workspaceId, action.actionId);
    await settle(tx, { task, action, deps }, request, ending);
  });
  return readExecuted(call);
}

async function settle(
  tx: Tx,
  settled: Settled,
  request: StoredRequest | null,
  ending: Ending,
): Promise<void> {
  const { action, deps, task } = settled;
  const { rowCount } = await tx.query({
    name: 'execution_finish',
    text: `update executions set outcome = $3, receipt = $4, error = $5, finished_at = db_now()
           where workspace_id = $1 and action_id = $2 and outcome is null`,
    values: [
      task.workspaceId,
      action.actionId,
      ending.outcome,
      ending.outcome === 'done' ? JSON.stringify(ending.receipt) : null,
      ending.outcome === 'failed' ? JSON.stringify(ending.error) : null,
    ],
  });
  if (rowCount === 0) return;
  await moveAction(tx, task.workspaceId, action.actionId, 'executing', ending.outcome);
  await record(
    tx,
    settled,
    ENDING_ENTRY[ending.outcome],
    ending.outcome === 'failed' ? { code: ending.error.code } : {},
    ending.outcome === 'done' ? { receipt: canonicalJson(ending.receipt) } : {},
  );
  if (ending.outcome === 'failed' && ending.drift !== null && request?.status === 'approved')
    await supersede(tx, task, request, ending.drift);
  if (request !== null) await redraw(tx, task.workspaceId, request.requestId);
  await redraw(tx, task.workspaceId, task.taskId);
  if (ending.outcome === 'unknown') await askToSettle(tx, deps.policyOf, task, action, request);
  if (ending.outcome !== 'done') return;
  const approvedBy = request === null ? [] : await approversOf(tx, task.workspaceId, request.requestId);
  await owe(tx, {
    workspaceId: task.workspaceId,
    viewKind: 'receipt',
    content: {
      line: receiptLine(deps.tools, action.kind, action.arguments, ending.receipt),
      approvedBy: approvedBy as unknown as Json,
    },
    target: { to: 'thread', thread: task.thread },
    priority: PRIORITY.decision,
  });
}

async function readExecuted(call: Call): Promise<Executed> {
  const { action, deps, task } = call;
  const { rows } = await deps.database.query<{
    outcome: Ending['outcome'] | null;
    receipt: Receipt | null;
    error: StoredError | null;
  }>({
    text: 'select outcome, receipt, error from executions where workspace_id = $1 and action_id = $2',
    values: [task.workspaceId, action.actionId],
  });
  const row = rows[0];
  if (row?.outcome === 'done' && row.receipt)
    return {
      outcome: 'done',
      receipt: row.receipt,
      line: receiptLine(deps.tools, action.kind, action.arguments, row.receipt),
    };
  if (row?.outcome === 'failed' && row.error)
    return row.error.code === 'PRECONDITION_CHANGED'
      ? { outcome: 'changed', changes: [] }
      : { outcome: 'failed', error: row.error };
  if (row?.outcome === 'unknown') return { outcome: 'unknown' };
  // Closed without an execution: an earlier attempt found it superseded or denied and died before its step was journaled.
  return { outcome: 'changed', changes: [] };
}

async function record(
  tx: Tx,
  { action, task }: Pick<Settled, 'action' | 'task'>,
  kind: EntryKind,
  facts: Readonly<Record<string, Json>>,
  words: Readonly<Record<string, string>> = {},
): Promise<void> {
  await appendEntry(tx, {
    workspaceId: task.workspaceId,
    subjectKind: 'run',
    subjectId: task.runId,
    kind,
    facts: {
      actionId: action.actionId,
      actionHash: action.actionHash,
      kind: action.kind,
      credential: action.credential,
      ...facts,
    },
    words,
  });
}
