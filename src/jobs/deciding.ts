/**
 * A person's word on a request: who may give it, whether it counts, and what it leads to.
 *
 * Invariants. Authority is judged at the click by the newest policy. The first commit wins; everybody else is told. The outcome, the
 * action's move, the ledger's entries, the wake-up and every redraw are one transaction. Nothing but `decide`, called for a verified
 * click, makes a decision.
 *
 * Lock order: event key -> request -> action -> ledger subject.
 */
import { randomUUIDv7 } from 'node:crypto';
import { maskSecrets } from '../secrets.ts';
import type { PersonFacts, Queryable, Tx, WorkspaceId } from '../types.ts';
import type { DeliveryTarget, NoteReason } from '../views.ts';
import { lockAction, moveAction } from './actions.ts';
import {
  closeRequest,
  DECISION_OF,
  lockRequest,
  outcomeAddress,
  type StoredRequest,
  UUID,
} from './approvals.ts';
import type { PolicyInForce } from './definitions.ts';
import { oweNote, redraw } from './deliveries.ts';
import type { DecisionAsked } from './desk.ts';
import type { Engine } from './engine/engine.ts';
import { entitlementOf } from './entitlement.ts';
import { appendEntry } from './ledger.ts';
import { readTask } from './tasks.ts';

/**
 * A press of Approve that could not be judged for longer decides nothing: nobody saw it being taken, and they may have agreed otherwise since. A
 * rejection harms nothing by being late.
 */
const APPROVE_COUNTS_MS = 15 * 60_000;

export interface DecideDeps {
  readonly engine: Pick<Engine, 'emit' | 'lockEvent'>;
  readonly policyOf: PolicyInForce;
  readonly deploymentId: string;
}

/**
 * Takes a verified click. Records a decision, or explains privately why not; either way its author sees something.
 * Repeatable: the same click again is answered as already counted or decided.
 */
export async function decide(tx: Tx, deps: DecideDeps, clicked: DecisionAsked): Promise<void> {
  // Masked before it is kept: the reason goes to the card, the thread, the agent and the ledger.
  const asked = { ...clicked, reason: clicked.reason === null ? null : maskSecrets(clicked.reason) };
  const { workspaceId, person } = asked;
  const refuse = async (note: NoteReason, request: StoredRequest | null): Promise<void> => {
    const runId = request?.runId ?? null;
    await oweNote(tx, workspaceId, noteTarget(asked), note);
    // What was clicked may show a state that is over.
    if (request !== null) await redraw(tx, workspaceId, request.requestId);
    await appendEntry(tx, {
      workspaceId,
      subjectKind: runId === null ? 'workspace' : 'run',
      subjectId: runId ?? workspaceId,
      kind: 'approval.click_refused',
      facts: {
        requestId: UUID.test(asked.requestId) ? asked.requestId : null,
        person: `${person.teamId}/${person.userId}`,
        decision: asked.decision,
        why: note.kind === 'ineligible' ? note.reason : note.kind,
      },
    });
  };

  if (asked.deploymentId !== deps.deploymentId) return refuse({ kind: 'other_deployment' }, null);
  if (!UUID.test(asked.requestId)) return refuse({ kind: 'not_found' }, null);
  await deps.engine.lockEvent(tx, outcomeAddress(workspaceId, asked.requestId));
  const request = await lockRequest(tx, workspaceId, asked.requestId);
  if (request === null) return refuse({ kind: 'not_found' }, null);
  const { runId } = request;
  if (asked.actionHash !== request.actionHash) return refuse({ kind: 'replaced' }, request);
  if (!asked.byForm && !(await isOurMessage(tx, asked))) return refuse({ kind: 'not_found' }, request);

  const task = await readTask(tx, workspaceId, request.taskId);
  if (task === null) return refuse({ kind: 'not_found' }, request);
  const action = await lockAction(tx, workspaceId, request.actionId);
  const { policy, rule, reviewers, eligibility } = await entitlementOf(
    tx,
    deps.policyOf,
    task,
    action,
    request.rule,
    person,
  );
  if (!eligibility.eligible)
    return refuse({ kind: 'ineligible', reason: eligibility.reason, reviewers }, request);
  if (request.status !== 'pending') return refuse(await decidedNote(tx, workspaceId, request), request);
  if (request.overdue) return refuse({ kind: 'expired' }, request);
  if (asked.decision === 'approve' && (await isLongAgo(tx, asked.pressedAt)))
    return refuse({ kind: 'pressed_long_ago' }, request);
  // The agent can do nothing with a wish that names nothing; Slack's own check of the field lets spaces through.
  if (asked.decision === 'request_changes' && asked.reason === null)
    return refuse({ kind: 'changes_missing' }, request);

  const inserted = await tx.query({
    name: 'decision_insert',
    text: `insert into decisions (workspace_id, decision_id, request_id, team_id, user_id, decision, reason, surface, policy_version)
           values ($1, $2, $3, $4, $5, $6, $7, 'slack', $8) on conflict do nothing`,
    values: [
      workspaceId,
      randomUUIDv7(),
      request.requestId,
      person.teamId,
      person.userId,
      asked.decision,
      asked.reason,
      policy.version,
    ],
  });
  if (inserted.rowCount === 0)
    return refuse(
      { kind: 'already_counted', at: await decidedAt(tx, workspaceId, request.requestId, person) },
      request,
    );
  const entry = { workspaceId, subjectKind: 'run', subjectId: runId } as const;
  await appendEntry(tx, {
    ...entry,
    kind: 'approval.decided',
    facts: {
      requestId: request.requestId,
      actionHash: request.actionHash,
      decision: asked.decision,
      person: `${person.teamId}/${person.userId}`,
      policyVersion: policy.version,
      ownTask: person.userId === task.requester.userId && person.teamId === task.requester.teamId,
    },
    ...(asked.reason === null ? {} : { words: { reason: asked.reason } }),
  });

  const outcome = await outcomeOf(
    tx,
    workspaceId,
    request.requestId,
    asked,
    Math.max(rule.quorum, request.rule.quorum),
  );
  if (outcome !== null) {
    await closeRequest(tx, task, request, 'pending', outcome);
    await moveAction(
      tx,
      workspaceId,
      request.actionId,
      'awaiting',
      outcome === 'approved' ? 'permitted' : 'closed',
    );
    await deps.engine.emit(tx, outcomeAddress(workspaceId, request.requestId), {
      status: outcome,
      reason: asked.reason,
    });
  }
  await redraw(tx, workspaceId, request.requestId);
}

/** Judged in database time, by which the press was stored. */
async function isLongAgo(db: Queryable, pressedAt: Date): Promise<boolean> {
  const { rows } = await db.query<{ ago_ms: number }>({
    name: 'pressed_ago',
    text: 'select extract(epoch from db_now() - $1::timestamptz)::float8 * 1000 as ago_ms',
    values: [pressedAt],
  });
  return (rows[0]?.ago_ms ?? Number.POSITIVE_INFINITY) > APPROVE_COUNTS_MS;
}

/** One rejection ends it; approvals end it once enough distinct people stand behind it. Null while more are needed. */
async function outcomeOf(
  tx: Tx,
  workspaceId: WorkspaceId,
  requestId: string,
  asked: DecisionAsked,
  quorum: number,
): Promise<'approved' | 'rejected' | 'changes_requested' | null> {
  if (asked.decision === 'reject') return 'rejected';
  if (asked.decision === 'request_changes') return 'changes_requested';
  const { rows } = await tx.query<{ count: number }>({
    name: 'decision_count',
    text: `select count(distinct (team_id, user_id)) as count from decisions
           where workspace_id = $1 and request_id = $2 and decision = 'approve'`,
    values: [workspaceId, requestId],
  });
  return (rows[0]?.count ?? 0) >= quorum ? 'approved' : null;
}

async function decidedAt(
  db: Queryable,
  workspaceId: WorkspaceId,
  requestId: string,
  person: PersonFacts,
): Promise<string> {
  const { rows } = await db.query<{ created_at: Date }>({
    text: `select created_at from decisions where workspace_id = $1 and request_id = $2 and team_id = $3 and user_id = $4 order by created_at limit 1`,
    values: [workspaceId, requestId, person.teamId, person.userId],
  });
  return rows[0]?.created_at.toISOString() ?? '';
}

async function decidedNote(
  db: Queryable,
  workspaceId: WorkspaceId,
  request: StoredRequest,
): Promise<NoteReason> {
  if (request.status === 'expired') return { kind: 'expired' };
  if (request.status === 'superseded') return { kind: 'replaced' };
  // Only who made the decision of that status is named: a request withdrawn with its run was ended by none of its approvers.
  const { rows } = await db.query<{
    team_id: string | null;
    user_id: string | null;
    created_at: Date | null;
    closed_at: Date | null;
  }>({
    text: `select d.team_id, d.user_id, d.created_at, r.closed_at from approval_requests r
           left join decisions d on d.workspace_id = r.workspace_id and d.request_id = r.request_id and d.decision = $3
           where r.workspace_id = $1 and r.request_id = $2 order by d.created_at desc nulls last limit 1`,
    values: [workspaceId, request.requestId, DECISION_OF[request.status] ?? null],
  });
  const last = rows[0];
  return {
    kind: 'already_decided',
    status: request.status,
    by: last?.team_id && last.user_id ? { teamId: last.team_id, userId: last.user_id } : null,
    at: (last?.created_at ?? last?.closed_at)?.toISOString() ?? null,
  };
}

/**
 * A click on a message that is not a card of this request is not counted. While a card is on its way and its ts not recorded
 * yet (the click overtook the answer to our own post) nobody can tell, and the button's fingerprint has to do.
 */
async function isOurMessage(tx: Tx, asked: DecisionAsked): Promise<boolean> {
  if (asked.message === null) return true;
  const { rows } = await tx.query<{ ts: string | null; is_on_its_way: boolean }>({
    name: 'request_cards',
    text: `select ts, try_count > 0 as is_on_its_way from deliveries where workspace_id = $1 and subject_id = $2 and view_kind = 'approval'`,
    values: [asked.workspaceId, asked.requestId],
  });
  return rows.some(({ ts, is_on_its_way }) => (ts === null ? is_on_its_way : ts === asked.message?.ts));
}

function noteTarget(asked: DecisionAsked): DeliveryTarget {
  return asked.message === null
    ? { to: 'person', channelId: asked.person.userId, threadTs: null, userId: asked.person.userId }
    : {
        to: 'person',
        channelId: asked.message.channelId,
        threadTs: asked.message.threadTs,
        userId: asked.person.userId,
      };
}
