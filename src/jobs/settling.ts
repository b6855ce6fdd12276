/**
 * Settling: a person's word on an action of which nobody can tell whether it happened. Owns no table; the settlement is a ledger entry,
 * whose words can be erased.
 *
 * Invariants. Only `unknown` is settled, once: the first commit wins, everybody else is told who and when. Nothing is executed or executed
 * again by it, and no run is told; the record is corrected, `unknown -> done | failed`, while the execution's own outcome stays the fact that
 * it was unknown. In Slack those may settle who may decide, by the newest policy; an operator at the command line may too, by name.
 *
 * Lock order: request -> action -> ledger subject.
 */
import { hasCode } from '../errors.ts';
import type { Json, Person, PersonFacts, Queryable, Tx, WorkspaceId } from '../types.ts';
import type {
  DeliveryTarget,
  NoteReason,
  ReceiptView,
  Settlement,
  Settler,
  UnsettledAction,
} from '../views.ts';
import { findAction, lockAction, moveAction, type StoredAction } from './actions.ts';
import { approversOf, lockRequestOf, type StoredRequest } from './approvals.ts';
import { activePolicyVersion, type PolicyInForce } from './definitions.ts';
import { owe, oweNote, PRIORITY, redraw } from './deliveries.ts';
import { entitlementOf, reviewRuleOf } from './entitlement.ts';
import { appendEntry } from './ledger.ts';
import { readTask, type Task } from './tasks.ts';

/** Longest reason, in UTF-16 units: it has to fit on the card beside everything else. */
export const MAX_REASON_LENGTH = 500;

export interface SettlementAsked {
  readonly workspaceId: WorkspaceId;
  readonly actionId: string;
  readonly by:
    | { readonly via: 'slack'; readonly person: PersonFacts }
    /** The operator's name on their machine. */
    | { readonly via: 'cli'; readonly user: string };
  readonly happened: boolean;
  /** Cut nowhere; blank is refused. */
  readonly reason: string;
}

export interface SettleDeps {
  readonly policyOf: PolicyInForce;
}

export type SettleAnswer =
  | { readonly settled: true; readonly settlement: Settlement }
  /** Nothing was changed. */
  | { readonly settled: false; readonly note: NoteReason };

/**
 * Settles an unknown outcome: moves the action, appends the entry, redraws card and task, owes the thread a line. Joins the caller's
 * transaction. Repeatable: a second word, by whomever, changes nothing and is answered with the first.
 */
export async function settleUnknown(tx: Tx, deps: SettleDeps, asked: SettlementAsked): Promise<SettleAnswer> {
  const { workspaceId, actionId, by } = asked;
  const refuse = (note: NoteReason): SettleAnswer => ({ settled: false, note });
  const found = UUID.test(actionId) ? await findAction(tx, workspaceId, actionId) : null;
  const task = found && (await readTask(tx, workspaceId, found.taskId));
  if (task === null) return refuse({ kind: 'not_found' });
  const request = await lockRequestOf(tx, workspaceId, actionId);
  const action = await lockAction(tx, workspaceId, actionId);

  if (by.via === 'slack') {
    const { reviewers, eligibility } = await entitlementOf(tx, deps.policyOf, task, action, null, by.person);
    if (!eligibility.eligible) return refuse({ kind: 'ineligible', reason: eligibility.reason, reviewers });
  }
  if (action.status !== 'unknown') {
    const settlement = await settlementOf(tx, workspaceId, actionId);
    return refuse(
      settlement === null ? { kind: 'nothing_to_settle' } : { kind: 'already_settled', settlement },
    );
  }
  const reason = asked.reason.trim();
  if (reason === '') return refuse({ kind: 'reason_missing' });

  await moveAction(tx, workspaceId, actionId, 'unknown', asked.happened ? 'done' : 'failed');
  await appendEntry(tx, {
    workspaceId,
    subjectKind: 'run',
    subjectId: action.runId,
    kind: 'action.settled',
    facts: {
      actionId,
      actionHash: action.actionHash,
      kind: action.kind,
      credential: action.credential,
      happened: asked.happened,
      ...(by.via === 'slack'
        ? {
            person: `${by.person.teamId}/${by.person.userId}`,
            ownTask: by.person.userId === task.requester.userId && by.person.teamId === task.requester.teamId,
          }
        : { by: `cli/${by.user}` }),
      policyVersion: await activePolicyVersion(tx, workspaceId),
    },
    words: { reason },
  });
  const settlement = await settlementOf(tx, workspaceId, actionId);
  if (settlement === null) throw new Error('a settlement cannot be read back');
  if (request !== null) await redraw(tx, workspaceId, request.requestId);
  await redraw(tx, workspaceId, task.taskId);
  await oweReceipt(tx, task, action, request, { settlement });
  return { settled: true, settlement };
}

/** A verified click on one of the two buttons, with the reason given. */
export interface SettlementClicked {
  readonly workspaceId: WorkspaceId;
  readonly actionId: string;
  /** From the clicked button; another deployment's button is answered with a note and nothing else. */
  readonly deploymentId: string;
  /** From the clicked button: what the person saw. */
  readonly actionHash: string;
  readonly person: PersonFacts;
  readonly happened: boolean;
  readonly reason: string;
  /** As for decisions: the message that opened the form may be gone. */
  readonly byForm: boolean;
  /** The message that carried the button; null when it came from a modal opened from elsewhere. */
  readonly message: {
    readonly channelId: string;
    readonly ts: string;
    readonly threadTs: string | null;
  } | null;
}

/** Takes a verified click: settles, or explains privately why not and records that. Never silent; repeatable as `settleUnknown` is. */
export async function settleByClick(
  tx: Tx,
  deps: SettleDeps & { readonly deploymentId: string },
  clicked: SettlementClicked,
): Promise<void> {
  const { workspaceId, person } = clicked;
  const action = UUID.test(clicked.actionId) ? await findAction(tx, workspaceId, clicked.actionId) : null;
  const note = await answer();
  if (note === null) return;
  await oweNote(tx, workspaceId, noteTarget(clicked), note);
  await appendEntry(tx, {
    workspaceId,
    subjectKind: action === null ? 'workspace' : 'run',
    subjectId: action?.runId ?? workspaceId,
    kind: 'approval.click_refused',
    facts: {
      actionId: action?.actionId ?? null,
      person: `${person.teamId}/${person.userId}`,
      decision: clicked.happened ? 'happened' : 'did_not_happen',
      why: note.kind === 'ineligible' ? note.reason : note.kind,
    },
  });

  async function answer(): Promise<NoteReason | null> {
    if (clicked.deploymentId !== deps.deploymentId) return { kind: 'other_deployment' };
    if (action === null) return { kind: 'not_found' };
    if (clicked.actionHash !== action.actionHash) return { kind: 'replaced' };
    if (!clicked.byForm && !(await isOurMessage(tx, action, clicked))) return { kind: 'not_found' };
    const { happened, reason } = clicked;
    const answered = await settleUnknown(tx, deps, {
      workspaceId,
      actionId: action.actionId,
      by: { via: 'slack', person },
      happened,
      reason,
    });
    if (answered.settled) return null;
    const { note } = answered;
    // What was clicked shows a state that is over: every copy is drawn again.
    if (note.kind === 'already_settled' || note.kind === 'nothing_to_settle')
      await redrawAll(tx, action, workspaceId);
    return note;
  }
}

/**
 * Tells the thread that nobody knows, naming who is asked: a message of its own, because an edited card notifies nobody. Called in the
 * transaction that found the outcome unknown.
 */
export async function askToSettle(
  tx: Tx,
  policyOf: PolicyInForce,
  task: Task,
  action: StoredAction,
  request: StoredRequest | null,
): Promise<void> {
  const asks = await policyOf(tx, task.workspaceId).then(
    (policy) => reviewRuleOf(policy, task, action).reviewers,
    (error: unknown) => {
      // No policy to read must not keep the outcome from being recorded.
      if (!hasCode(error, 'CONFIG_INVALID')) throw error;
      return request?.rule.reviewers ?? [];
    },
  );
  await oweReceipt(tx, task, action, request, { asks });
}

/** An action that waits for a person's word; null when there is none such, or none any more. */
export async function unsettledAction(
  db: Queryable,
  workspaceId: WorkspaceId,
  actionId: string,
  deploymentId: string,
): Promise<UnsettledAction | null> {
  const action = UUID.test(actionId) ? await findAction(db, workspaceId, actionId) : null;
  if (action?.status !== 'unknown') return null;
  const { actionHash, kind, title } = action;
  return { deploymentId, actionId, actionHash, kind, title };
}

/** In a query over `actions a`: waits for a person's word, and no card stands for it, because the policy allowed it without asking. */
const UNSETTLED = `(a.status = 'unknown' and not exists (select 1 from approval_requests r
  where r.workspace_id = a.workspace_id and r.run_id = a.run_id and r.action_id = a.action_id))`;

/** In a query over `tasks t`: its message carries buttons that settle. */
export const HAS_UNSETTLED = `exists (select 1 from actions a where a.workspace_id = t.workspace_id and a.run_id = t.run_id and ${UNSETTLED})`;

/** What the task's own message has to carry buttons for. */
export async function unsettledOf(
  db: Queryable,
  workspaceId: WorkspaceId,
  taskId: string,
): Promise<readonly UnsettledAction[]> {
  const { rows } = await db.query<{
    deployment_id: string;
    action_id: string;
    action_hash: string;
    kind: string;
    title: string;
  }>({
    name: 'actions_unsettled',
    text: `select d.deployment_id, a.action_id, a.action_hash, a.kind, a.target->>'title' as title
           from actions a join tasks t on t.workspace_id = a.workspace_id and t.run_id = a.run_id, deployments d
           where t.workspace_id = $1 and t.task_id = $2 and ${UNSETTLED} order by a.action_id`,
    values: [workspaceId, taskId],
  });
  return rows.map((row) => ({
    deploymentId: row.deployment_id,
    actionId: row.action_id,
    actionHash: row.action_hash,
    kind: row.kind,
    title: row.title,
  }));
}

/** One settlement as SQL gives it. */
export interface SettlementRow {
  happened: boolean;
  by: string;
  reason: string | null;
  settled_at: string;
}

/** The settlement of the action `a` as one JSON column of a query over `actions a`; null when no person has settled it. */
export const SETTLEMENT = `(
  select json_build_object('happened', entry.facts->'happened', 'by', coalesce(entry.facts->>'person', entry.facts->>'by'),
    'reason', w.words, 'settled_at', entry.created_at)
  from (select e.workspace_id, e.entry_id, e.created_at, e.body::json->'facts' as facts from ledger_entries e
        where e.workspace_id = a.workspace_id and e.subject_kind = 'run' and e.subject_id = a.run_id::text
          and e.entry_kind = 'action.settled') as entry
  left join ledger_words w on w.workspace_id = entry.workspace_id and w.entry_id = entry.entry_id and w.field = 'reason'
  where entry.facts->>'actionId' = a.action_id::text)`;

export function toSettlement(row: SettlementRow): Settlement {
  return {
    happened: row.happened,
    by: settler(row.by),
    reason: row.reason,
    settledAt: new Date(row.settled_at).toISOString(),
  };
}

async function settlementOf(
  db: Queryable,
  workspaceId: WorkspaceId,
  actionId: string,
): Promise<Settlement | null> {
  const { rows } = await db.query<{ settlement: SettlementRow | null }>({
    name: 'action_settlement',
    text: `select ${SETTLEMENT} as settlement from actions a where a.workspace_id = $1 and a.action_id = $2`,
    values: [workspaceId, actionId],
  });
  const row = rows[0]?.settlement;
  return row ? toSettlement(row) : null;
}

/** `cli/<name>`, or `<team>/<user>`: ids of teams are upper case, so the two cannot be mixed up. */
function settler(by: string): Settler {
  const slash = by.indexOf('/');
  const [before, after] = [by.slice(0, slash), by.slice(slash + 1)];
  return before === 'cli'
    ? { via: 'cli', user: after }
    : { via: 'slack', person: { teamId: before, userId: after } };
}

async function oweReceipt(
  tx: Tx,
  task: Task,
  action: StoredAction,
  request: StoredRequest | null,
  about: { readonly asks: readonly Person[] } | { readonly settlement: Settlement },
): Promise<void> {
  const content: Omit<ReceiptView, 'kind'> & { readonly actionId: string } = {
    // By it a question that is refused finds whom to ask instead (refusals.ts).
    actionId: action.actionId,
    line: action.title,
    approvedBy: request === null ? [] : await approversOf(tx, task.workspaceId, request.requestId),
    ...about,
  };
  await owe(tx, {
    workspaceId: task.workspaceId,
    viewKind: 'receipt',
    content: content as unknown as { readonly [key: string]: Json },
    target: { to: 'thread', thread: task.thread },
    priority: PRIORITY.decision,
  });
}

/** A click on a message that shows neither this action's request nor its task is not counted; as for decisions, one on its way is. */
async function isOurMessage(tx: Tx, action: StoredAction, clicked: SettlementClicked): Promise<boolean> {
  if (clicked.message === null) return true;
  const { rows } = await tx.query<{ ts: string | null; is_on_its_way: boolean }>({
    name: 'action_messages',
    text: `select d.ts, d.try_count > 0 as is_on_its_way from deliveries d where d.workspace_id = $1 and (d.subject_id = $3 or d.subject_id in
             (select r.request_id from approval_requests r where r.workspace_id = $1 and r.action_id = $2))`,
    values: [clicked.workspaceId, action.actionId, action.taskId],
  });
  return rows.some(({ ts, is_on_its_way }) => (ts === null ? is_on_its_way : ts === clicked.message?.ts));
}

async function redrawAll(tx: Tx, action: StoredAction, workspaceId: WorkspaceId): Promise<void> {
  const request = await lockRequestOf(tx, workspaceId, action.actionId);
  if (request !== null) await redraw(tx, workspaceId, request.requestId);
  await redraw(tx, workspaceId, action.taskId);
}

function noteTarget({ message, person }: SettlementClicked): DeliveryTarget {
  return message === null
    ? { to: 'person', channelId: person.userId, threadTs: null, userId: person.userId }
    : { to: 'person', channelId: message.channelId, threadTs: message.threadTs, userId: person.userId };
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
