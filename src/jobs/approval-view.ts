/**
 * One request as people see it, read from committed state in one statement: what card and Details are drawn from.
 */
import type {
  ActionStatus,
  Evidence,
  JsonObject,
  Precondition,
  PreconditionChange,
  Queryable,
  RequestStatus,
  ReviewRule,
  RiskTier,
  TargetView,
  Tool,
  WorkspaceId,
} from '../types.ts';
import type { ApprovalView } from '../views.ts';
import { isShownShort } from './deliveries.ts';
import { SETTLEMENT, type SettlementRow, toSettlement } from './settling.ts';

interface ViewRow {
  action_id: string;
  status: RequestStatus;
  action_status: ActionStatus;
  action_hash: string;
  preconditions: Precondition[];
  review_rule: ReviewRule;
  changes: PreconditionChange[];
  asked_again: PreconditionChange[] | null;
  deadline_at: Date;
  created_at: Date;
  closed_at: Date | null;
  kind: string;
  arguments: JsonObject;
  target: TargetView;
  agent_name: string;
  agent_version: string;
  model_label: string;
  agent_reason: string;
  requester_team_id: string;
  requester_user_id: string;
  tier: RiskTier;
  rule: string;
  reasons: string[];
  policy_version: string;
  receipt: JsonObject | null;
  execution_error: { message: string } | null;
  execution_finished_at: Date | null;
  settlement: SettlementRow | null;
  evidence: { label: string; value: string; source: string; observed_at: string }[] | null;
  decisions:
    | {
        team_id: string;
        user_id: string;
        decision: ApprovalView['decisions'][number]['decision'];
        reason: string | null;
        created_at: string;
      }[]
    | null;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** Null when there is no such request in this workspace. `tools` describe receipts; a kind that is gone is shown without. */
export async function readApproval(
  db: Queryable,
  workspaceId: WorkspaceId,
  requestId: string,
  deploymentId: string,
  tools: readonly Tool[],
): Promise<ApprovalView | null> {
  if (!UUID.test(requestId)) return null;
  const { rows } = await db.query<ViewRow>({
    name: 'approval_view',
    text: `select r.status, r.action_id, a.status as action_status, r.action_hash, r.preconditions, r.review_rule, r.changes, r.deadline_at,
             r.created_at, r.closed_at, a.kind, a.arguments, a.target, a.agent_name, a.agent_version, a.model_label, a.agent_reason,
             t.requester_team_id, t.requester_user_id, v.tier, v.rule, v.reasons, v.policy_version,
             x.receipt, x.error as execution_error, x.finished_at as execution_finished_at, ${SETTLEMENT} as settlement,
             (select e.changes from approval_requests e where e.workspace_id = a.workspace_id and e.action_id = a.replaces_action_id) as asked_again,
             (select json_agg(json_build_object('label', e.label, 'value', e.value, 'source', e.source, 'observed_at', e.observed_at)
                order by e.ordinal) from evidence e where e.workspace_id = a.workspace_id and e.action_id = a.action_id) as evidence,
             (select json_agg(json_build_object('team_id', d.team_id, 'user_id', d.user_id, 'decision', d.decision, 'reason', d.reason,
                'created_at', d.created_at) order by d.created_at) from decisions d
                where d.workspace_id = r.workspace_id and d.request_id = r.request_id) as decisions
           from approval_requests r
           join actions a on a.workspace_id = r.workspace_id and a.action_id = r.action_id
           join tasks t on t.workspace_id = a.workspace_id and t.task_id = a.task_id
           join lateral (select tier, rule, reasons, policy_version from verdicts v
              where v.workspace_id = a.workspace_id and v.action_id = a.action_id order by v.created_at limit 1) v on true
           left join executions x on x.workspace_id = a.workspace_id and x.action_id = a.action_id
           where r.workspace_id = $1 and r.request_id = $2`,
    values: [workspaceId, requestId],
  });
  const row = rows[0];
  if (row === undefined) return null;
  return {
    deploymentId,
    requestId,
    actionId: row.action_id,
    status: row.status,
    actionStatus: row.action_status,
    tier: row.tier,
    kind: row.kind,
    title: row.target.title,
    facts: row.target.facts,
    body: row.target.body ?? null,
    arguments: row.arguments,
    preconditions: row.preconditions,
    preconditionsSeenAt: row.created_at.toISOString(),
    actionHash: row.action_hash,
    evidence: (row.evidence ?? []).map(
      (item): Evidence => ({
        label: item.label,
        value: item.value,
        source: item.source,
        observedAt: new Date(item.observed_at).toISOString(),
      }),
    ),
    rule: row.rule,
    reasons: row.reasons,
    policyVersion: row.policy_version,
    agent: { name: row.agent_name, version: row.agent_version, modelLabel: row.model_label },
    agentReason: row.agent_reason,
    requester: { teamId: row.requester_team_id, userId: row.requester_user_id },
    reviewers: row.review_rule.reviewers,
    quorum: row.review_rule.quorum,
    deadlineAt: row.deadline_at.toISOString(),
    createdAt: row.created_at.toISOString(),
    decisions: (row.decisions ?? []).map((decision) => ({
      person: { teamId: decision.team_id, userId: decision.user_id },
      decision: decision.decision,
      reason: decision.reason,
      decidedAt: new Date(decision.created_at).toISOString(),
    })),
    changes: row.changes,
    ...(row.asked_again === null ? {} : { askedAgain: row.asked_again }),
    receiptLine: row.receipt === null ? null : receiptLine(tools, row.kind, row.arguments, row.receipt),
    failure: row.execution_error?.message ?? null,
    finishedAt: (row.execution_finished_at ?? row.closed_at)?.toISOString() ?? null,
    settlement: row.settlement === null ? null : toSettlement(row.settlement),
    isShort: await isShownShort(db, workspaceId, requestId),
  };
}

/** What the tool says of its receipt. Never throws: what an older release stored may not fit the tool of this one. */
export function receiptLine(
  tools: readonly Tool[],
  kind: string,
  args: JsonObject,
  receipt: JsonObject,
): string {
  const tool = tools.find((candidate) => candidate.kind === kind);
  const known = `${kind} done`;
  if (tool?.access !== 'write') return known;
  try {
    return tool.describeReceipt(args, receipt);
  } catch {
    return known;
  }
}
