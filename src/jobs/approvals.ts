/**
 * Approval requests: asked, closed, looked at. Owns `approval_requests` and `detail_views`; people's words on them are in deciding.ts.
 *
 * Invariant: a request's end, the ledger's entry, and what follows for its card are one transaction; a request ends once.
 *
 * Lock order: event key -> runs -> request -> action -> ledger subject.
 */
import { randomUUIDv7 } from 'node:crypto';
import { canonicalJson } from '../policies/fingerprint.ts';
import type {
  Json,
  PersonFacts,
  Precondition,
  PreconditionChange,
  Queryable,
  RequestStatus,
  ReviewRule,
  RiskTier,
  RunRef,
  Tx,
  WorkspaceId,
} from '../types.ts';
import { lockAction, moveAction } from './actions.ts';
import { owe, oweNote, PRIORITY, redraw } from './deliveries.ts';
import type { EventAddress } from './engine/events.ts';
import { appendEntry, type EntryKind } from './ledger.ts';
import type { Task } from './tasks.ts';

/** The event a run waits for: `{status, reason}` of its request, keyed by request id. */
export const OUTCOME_EVENT = 'approval.outcome';

export function outcomeAddress(workspaceId: WorkspaceId, requestId: string): EventAddress {
  return { workspaceId, name: OUTCOME_EVENT, key: requestId };
}

export interface OpenRequest {
  readonly task: Task;
  readonly actionId: string;
  readonly actionHash: string;
  readonly preconditions: readonly Precondition[];
  readonly rule: ReviewRule;
  readonly policyVersion: string;
}

/** Freezes what is asked and of whom, and owes its card to the task's thread. */
export async function openRequest(
  tx: Tx,
  open: OpenRequest,
): Promise<{ requestId: string; deadlineAt: string }> {
  const { task } = open;
  const requestId = randomUUIDv7();
  const { rows } = await tx.query<{ deadline_at: Date }>({
    name: 'request_insert',
    text: `insert into approval_requests (workspace_id, request_id, action_id, run_id, action_hash, preconditions, review_rule, deadline_at)
           values ($1, $2, $3, $4, $5, $6, $7, db_now() + $8 * interval '1 millisecond') returning deadline_at`,
    values: [
      task.workspaceId,
      requestId,
      open.actionId,
      task.runId,
      open.actionHash,
      JSON.stringify(open.preconditions),
      JSON.stringify(open.rule),
      open.rule.deadlineMs,
    ],
  });
  const deadlineAt = rows[0]?.deadline_at.toISOString() ?? '';
  await owe(tx, {
    workspaceId: task.workspaceId,
    viewKind: 'approval',
    subjectId: requestId,
    target: { to: 'thread', thread: task.thread },
    priority: PRIORITY.decision,
  });
  await appendEntry(tx, {
    workspaceId: task.workspaceId,
    subjectKind: 'run',
    subjectId: task.runId,
    kind: 'approval.requested',
    facts: {
      requestId,
      actionId: open.actionId,
      actionHash: open.actionHash,
      quorum: open.rule.quorum,
      reviewers: open.rule.reviewers.map((person) => `${person.teamId}/${person.userId}`),
      deadlineAt,
      policyVersion: open.policyVersion,
    },
    words: { preconditions: canonicalJson(open.preconditions as unknown as Json) },
  });
  return { requestId, deadlineAt };
}

/** Ids as we make them; anything else never names a request. */
export const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export interface StoredRequest {
  readonly requestId: string;
  readonly actionId: string;
  readonly runId: string;
  readonly taskId: string;
  readonly status: RequestStatus;
  readonly actionHash: string;
  readonly preconditions: readonly Precondition[];
  readonly rule: ReviewRule;
  /** Its deadline has passed, in database time, whether or not it was expired yet. */
  readonly overdue: boolean;
  /** Since it was closed, in database time; 0 while it is pending. */
  readonly closedForMs: number;
  /** What it was judged when people were asked. */
  readonly tier: RiskTier;
}

interface RequestRow {
  request_id: string;
  action_id: string;
  run_id: string;
  task_id: string;
  status: RequestStatus;
  action_hash: string;
  preconditions: Precondition[];
  review_rule: ReviewRule;
  overdue: boolean;
  closed_for_ms: number | null;
  tier: RiskTier;
}

async function requestRow(
  db: Queryable,
  workspaceId: WorkspaceId,
  where: { readonly column: 'request_id' | 'action_id'; readonly id: string },
  lock: '' | 'for update of r',
): Promise<StoredRequest | null> {
  const { rows } = await db.query<RequestRow>({
    name: `request_by_${where.column}${lock === '' ? '' : '_locked'}`,
    text: `select r.request_id, r.action_id, r.run_id, a.task_id, r.status, r.action_hash, r.preconditions, r.review_rule,
             r.deadline_at <= db_now() as overdue,
             extract(epoch from db_now() - r.closed_at)::float8 * 1000 as closed_for_ms,
             (select v.tier from verdicts v where v.workspace_id = a.workspace_id and v.action_id = a.action_id order by v.created_at limit 1) as tier
           from approval_requests r join actions a on a.workspace_id = r.workspace_id and a.action_id = r.action_id
           where r.workspace_id = $1 and r.${where.column} = $2 order by r.created_at desc limit 1 ${lock}`,
    values: [workspaceId, where.id],
  });
  const row = rows[0];
  return row === undefined
    ? null
    : {
        requestId: row.request_id,
        actionId: row.action_id,
        runId: row.run_id,
        taskId: row.task_id,
        status: row.status,
        actionHash: row.action_hash,
        preconditions: row.preconditions,
        rule: row.review_rule,
        overdue: row.overdue,
        closedForMs: row.closed_for_ms ?? 0,
        tier: row.tier,
      };
}

/** The request of an action, locked; null for an action that the policy allowed by itself. */
export function lockRequestOf(
  tx: Tx,
  workspaceId: WorkspaceId,
  actionId: string,
): Promise<StoredRequest | null> {
  return requestRow(tx, workspaceId, { column: 'action_id', id: actionId }, 'for update of r');
}

export function lockRequest(
  tx: Tx,
  workspaceId: WorkspaceId,
  requestId: string,
): Promise<StoredRequest | null> {
  return requestRow(tx, workspaceId, { column: 'request_id', id: requestId }, 'for update of r');
}

export function readRequestOf(
  db: Queryable,
  workspaceId: WorkspaceId,
  actionId: string,
): Promise<StoredRequest | null> {
  return requestRow(db, workspaceId, { column: 'action_id', id: actionId }, '');
}

const ENTRY_OF: Partial<Readonly<Record<RequestStatus, EntryKind>>> = {
  approved: 'approval.approved',
  rejected: 'approval.rejected',
  changes_requested: 'approval.changes_requested',
  expired: 'approval.expired',
  superseded: 'approval.superseded',
  withdrawn: 'approval.withdrawn',
};

/** The decision that leads to a status; the others come about without one. */
export const DECISION_OF: Partial<Readonly<Record<RequestStatus, string>>> = {
  approved: 'approve',
  rejected: 'reject',
  changes_requested: 'request_changes',
  revoked: 'revoke',
  withdrawn: 'withdraw',
};

/** Writes how a request ended, unless it is not in `from` any more. */
export async function closeRequest(
  tx: Tx,
  task: Task,
  request: StoredRequest,
  from: RequestStatus,
  to: RequestStatus,
  changes: readonly PreconditionChange[] = [],
): Promise<boolean> {
  const { rowCount } = await tx.query({
    name: 'request_close',
    text: `update approval_requests set status = $4, changes = $5, closed_at = db_now()
           where workspace_id = $1 and request_id = $2 and status = $3`,
    values: [task.workspaceId, request.requestId, from, to, JSON.stringify(changes)],
  });
  if (rowCount !== 1) return false;
  const kind = ENTRY_OF[to];
  if (kind)
    await appendEntry(tx, {
      workspaceId: task.workspaceId,
      subjectKind: 'run',
      subjectId: task.runId,
      kind,
      facts: {
        requestId: request.requestId,
        actionId: request.actionId,
        actionHash: request.actionHash,
      },
      ...(changes.length === 0 ? {} : { words: { changes: canonicalJson(changes as unknown as Json) } }),
    });
  await redraw(tx, task.workspaceId, request.requestId);
  await redraw(tx, task.workspaceId, task.taskId);
  return true;
}

/**
 * Closes a request whose deadline passed. A decision that committed first stands: its status is returned instead. In the caller's
 * transaction (a step's, which holds its run).
 */
export async function expire(
  tx: Tx,
  task: Task,
  actionId: string,
): Promise<{ status: RequestStatus; reason: string | null }> {
  const request = await lockRequestOf(tx, task.workspaceId, actionId);
  if (request === null) return { status: 'expired', reason: null };
  if (request.status !== 'pending')
    return { status: request.status, reason: await reasonOf(tx, task.workspaceId, request.requestId) };
  await lockAction(tx, task.workspaceId, actionId);
  await moveAction(tx, task.workspaceId, actionId, 'awaiting', 'closed');
  await closeRequest(tx, task, request, 'pending', 'expired');
  return { status: 'expired', reason: null };
}

/** Ends an approval that was not executed in time. The caller has locked request and action. */
export async function lapse(tx: Tx, task: Task, request: StoredRequest): Promise<void> {
  await closeRequest(tx, task, request, 'approved', 'expired');
}

/** Voids an approval because what was approved no longer stands, and tells those who gave it. The caller has locked request and action. */
export async function supersede(
  tx: Tx,
  task: Task,
  request: StoredRequest,
  changes: readonly PreconditionChange[],
): Promise<void> {
  await closeRequest(tx, task, request, 'approved', 'superseded', changes);
  const { channelId, threadTs } = task.thread;
  for (const { userId } of await approversOf(tx, task.workspaceId, request.requestId))
    await oweNote(
      tx,
      task.workspaceId,
      { to: 'person', channelId, threadTs, userId },
      { kind: 'approved_in_vain' },
    );
}

/** Ends a request because its run is cancelled. False when it had ended before. The caller has locked request and action. */
export function withdraw(tx: Tx, task: Task, request: StoredRequest): Promise<boolean> {
  return closeRequest(tx, task, request, request.status, 'withdrawn');
}

/** Locks what a run still asks, or holds an approval of, in the order of ids. */
export async function lockOpenRequests(tx: Tx, run: RunRef): Promise<readonly StoredRequest[]> {
  const { rows } = await tx.query<{ action_id: string }>({
    name: 'requests_open_lock',
    text: `select action_id from approval_requests
           where workspace_id = $1 and run_id = $2 and status in ('pending', 'approved') order by request_id for update`,
    values: [run.workspaceId, run.runId],
  });
  const requests: StoredRequest[] = [];
  for (const row of rows) {
    const request = await lockRequestOf(tx, run.workspaceId, row.action_id);
    if (request !== null) requests.push(request);
  }
  return requests;
}

/** Remembers that somebody opened Details; the first time is also a ledger entry. */
export async function detailsOpened(
  tx: Tx,
  workspaceId: WorkspaceId,
  requestId: string,
  person: PersonFacts,
): Promise<void> {
  const request = UUID.test(requestId)
    ? await requestRow(tx, workspaceId, { column: 'request_id', id: requestId }, '')
    : null;
  if (request === null) return;
  const { rowCount } = await tx.query({
    text: `insert into detail_views (workspace_id, request_id, team_id, user_id) values ($1, $2, $3, $4) on conflict do nothing`,
    values: [workspaceId, requestId, person.teamId, person.userId],
  });
  if (rowCount === 1)
    await appendEntry(tx, {
      workspaceId,
      subjectKind: 'run',
      subjectId: request.runId,
      kind: 'approval.details_opened',
      facts: { requestId, person: `${person.teamId}/${person.userId}` },
    });
}

/** True when this person had been shown all of the request before `at`, in database time. */
export async function hadReadDetails(
  db: Queryable,
  workspaceId: WorkspaceId,
  requestId: string,
  person: PersonFacts,
  at: Date,
): Promise<boolean> {
  if (!UUID.test(requestId)) return false;
  const { rowCount } = await db.query({
    text: `select 1 from detail_views
           where workspace_id = $1 and request_id = $2 and team_id = $3 and user_id = $4 and opened_at < $5`,
    values: [workspaceId, requestId, person.teamId, person.userId, at],
  });
  return rowCount === 1;
}

/** Distinct people who approved, oldest first. */
export async function approversOf(
  db: Queryable,
  workspaceId: WorkspaceId,
  requestId: string,
): Promise<{ teamId: string; userId: string }[]> {
  const { rows } = await db.query<{ team_id: string; user_id: string }>({
    name: 'approvers',
    text: `select team_id, user_id from decisions where workspace_id = $1 and request_id = $2 and decision = 'approve' order by created_at`,
    values: [workspaceId, requestId],
  });
  return rows.map((row) => ({ teamId: row.team_id, userId: row.user_id }));
}

async function reasonOf(db: Queryable, workspaceId: WorkspaceId, requestId: string): Promise<string | null> {
  const { rows } = await db.query<{ reason: string | null }>({
    text: `select reason from decisions where workspace_id = $1 and request_id = $2 and decision <> 'approve' order by created_at desc limit 1`,
    values: [workspaceId, requestId],
  });
  return rows[0]?.reason ?? null;
}
