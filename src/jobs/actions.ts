/**
 * Actions: what agents proposed, how it was judged, and the request that asks people. Owns `actions`, `verdicts` and `evidence`.
 *
 * Invariants. An action is never rewritten after it was proposed; a changed one is a new action. Its judgement, its request, what
 * Slack is owed and the ledger's entries are one transaction. An error while judging is a deny.
 */
import { randomUUIDv7 } from 'node:crypto';
import { CountersignError } from '../errors.ts';
import { actionHash, canonicalJson } from '../policies/fingerprint.ts';
import type {
  ActionFacts,
  ActionStatus,
  Evidence,
  JsonObject,
  Precondition,
  Queryable,
  RiskTier,
  RunRef,
  TargetView,
  Tx,
  Verdict,
  WorkspaceId,
  WriteTool,
} from '../types.ts';
import { openRequest } from './approvals.ts';
import type { PolicyInForce } from './definitions.ts';
import { redraw } from './deliveries.ts';
import { appendEntry, storable } from './ledger.ts';
import type { AgentLabel, Task } from './tasks.ts';

export interface Proposal {
  readonly task: Task;
  readonly agent: AgentLabel & { readonly riskCeiling: RiskTier };
  readonly tool: WriteTool;
  /** As the tool parsed them. */
  readonly arguments: JsonObject;
  readonly agentReason: string;
  /** The target as it was just seen, and when. */
  readonly target: TargetView;
  readonly evidence: readonly Evidence[];
  /** The action this one takes the place of, because its target changed. */
  readonly replaces: string | null;
}

export interface Judged {
  readonly actionId: string;
  readonly verdict: Verdict['verdict'];
  readonly reasons: readonly string[];
  /** Set when people are asked. */
  readonly request: { readonly requestId: string; readonly deadlineAt: string } | null;
}

/** For comparing tiers. */
export const TIER_RANK: Readonly<Record<RiskTier, number>> = { low: 0, medium: 1, high: 2 };

/** Stores a proposed action, judges it by the newest policy and, where people must decide, asks them. All in the caller's transaction. */
export async function propose(tx: Tx, policyOf: PolicyInForce, proposal: Proposal): Promise<Judged> {
  const { task, tool, agent } = proposal;
  const actionId = randomUUIDv7();
  const hash = hashOf(task.workspaceId, tool, proposal.arguments);
  await tx.query({
    name: 'action_insert',
    text: `insert into actions (workspace_id, action_id, run_id, task_id, replaces_action_id, kind, arguments, tool_version, credential,
             action_hash, preconditions, target, agent_name, agent_version, model_label, agent_reason)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
    values: [
      task.workspaceId,
      actionId,
      task.runId,
      task.taskId,
      proposal.replaces,
      tool.kind,
      JSON.stringify(proposal.arguments),
      tool.version,
      tool.credential,
      hash,
      JSON.stringify(proposal.target.preconditions),
      JSON.stringify(proposal.target),
      agent.name,
      agent.version,
      agent.modelLabel,
      storable(proposal.agentReason),
    ],
  });
  for (const [ordinal, item] of proposal.evidence.entries())
    await tx.query({
      name: 'evidence_insert',
      text: `insert into evidence (workspace_id, evidence_id, action_id, ordinal, label, value, source, observed_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8)`,
      values: [
        task.workspaceId,
        randomUUIDv7(),
        actionId,
        ordinal,
        storable(item.label),
        storable(item.value),
        item.source,
        item.observedAt,
      ],
    });

  const policy = await policyOf(tx, task.workspaceId);
  const facts = factsOf(task, tool.kind, proposal.arguments);
  const verdict = await judge(tx, proposal, facts, hash, policy.evaluate(facts));
  await tx.query({
    name: 'verdict_insert',
    text: `insert into verdicts (workspace_id, verdict_id, action_id, verdict, tier, rule, reasons, policy_version, agent_name,
             agent_version, tool_version, credential)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
    values: [
      task.workspaceId,
      randomUUIDv7(),
      actionId,
      verdict.verdict,
      verdict.tier,
      verdict.rule,
      JSON.stringify(verdict.reasons),
      verdict.policyVersion,
      agent.name,
      agent.version,
      tool.version,
      tool.credential,
    ],
  });
  const entry = { workspaceId: task.workspaceId, subjectKind: 'run', subjectId: task.runId } as const;
  const common = {
    actionId,
    actionHash: hash,
    kind: tool.kind,
    rule: verdict.rule,
    policyVersion: verdict.policyVersion,
  };
  await appendEntry(tx, {
    ...entry,
    kind: 'action.proposed',
    facts: {
      ...common,
      toolVersion: tool.version,
      credential: tool.credential,
      agent: agent.name,
      agentVersion: agent.version,
      replaces: proposal.replaces,
      tier: verdict.tier,
      verdict: verdict.verdict,
    },
    words: {
      arguments: canonicalJson(proposal.arguments),
      reason: proposal.agentReason,
      model: agent.modelLabel,
    },
  });

  let request: Judged['request'] = null;
  switch (verdict.verdict) {
    case 'deny':
      await moveAction(tx, task.workspaceId, actionId, 'proposed', 'denied');
      await appendEntry(tx, { ...entry, kind: 'action.denied', facts: common });
      break;
    case 'allow':
      await moveAction(tx, task.workspaceId, actionId, 'proposed', 'permitted');
      await appendEntry(tx, { ...entry, kind: 'action.permitted', facts: common });
      break;
    case 'require_approval':
      await moveAction(tx, task.workspaceId, actionId, 'proposed', 'awaiting');
      request = await openRequest(tx, {
        task,
        actionId,
        actionHash: hash,
        preconditions: proposal.target.preconditions,
        rule: policy.reviewRule(facts, verdict),
        policyVersion: verdict.policyVersion,
      });
      break;
  }
  await redraw(tx, task.workspaceId, task.taskId);
  return { actionId, verdict: verdict.verdict, reasons: verdict.reasons, request };
}

/** What stands above every rule of a policy: the agent's own ceiling, and a person's earlier no to the same action in this run. */
async function judge(
  tx: Tx,
  proposal: Proposal,
  facts: ActionFacts,
  hash: string,
  verdict: Verdict,
): Promise<Verdict> {
  if (verdict.verdict === 'deny') return verdict;
  if (TIER_RANK[verdict.tier] > TIER_RANK[proposal.agent.riskCeiling])
    return {
      ...verdict,
      verdict: 'deny',
      rule: 'agent-ceiling',
      reasons: [`Agent ${proposal.agent.name} may propose ${proposal.agent.riskCeiling} risk at most.`],
    };
  const { rowCount } = await tx.query({
    name: 'action_rejected_before',
    text: `select 1 from actions a join approval_requests r on r.workspace_id = a.workspace_id and r.action_id = a.action_id
           where a.workspace_id = $1 and a.run_id = $2 and a.action_hash = $3 and r.status in ('rejected', 'changes_requested') limit 1`,
    values: [facts.workspaceId, proposal.task.runId, hash],
  });
  if (rowCount > 0)
    return {
      ...verdict,
      verdict: 'deny',
      rule: 'rejected-before',
      reasons: ['A reviewer rejected exactly this action in this task.'],
    };
  return verdict;
}

export function hashOf(workspaceId: WorkspaceId, tool: WriteTool, args: JsonObject): string {
  return actionHash({
    workspaceId,
    kind: tool.kind,
    arguments: args,
    toolVersion: tool.version,
    credential: tool.credential,
  });
}

export function factsOf(task: Task, kind: string, args: JsonObject): ActionFacts {
  return {
    workspaceId: task.workspaceId,
    kind,
    isRead: false,
    arguments: args,
    requester: task.requester,
    argumentsBytes: Buffer.byteLength(canonicalJson(args)),
  };
}

/** Compare-and-set of an action's status. Throws ACTION_NOT_PERMITTED when it was not where the caller believed it. */
export async function moveAction(
  tx: Tx,
  workspaceId: WorkspaceId,
  actionId: string,
  from: ActionStatus,
  to: ActionStatus,
): Promise<void> {
  const { rowCount } = await tx.query({
    name: 'action_move',
    text: `update actions set status = $4, updated_at = db_now() where workspace_id = $1 and action_id = $2 and status = $3`,
    values: [workspaceId, actionId, from, to],
  });
  if (rowCount !== 1)
    throw new CountersignError('ACTION_NOT_PERMITTED', `Action ${actionId} is not ${from} any more`);
}

/** An action as it was stored. */
export interface StoredAction {
  readonly actionId: string;
  readonly runId: string;
  readonly taskId: string;
  readonly kind: string;
  readonly arguments: JsonObject;
  readonly toolVersion: number;
  readonly credential: string;
  readonly actionHash: string;
  readonly preconditions: readonly Precondition[];
  /** What the target was called when the action was proposed. May hold outside text. */
  readonly title: string;
  readonly status: ActionStatus;
}

interface ActionRow {
  action_id: string;
  run_id: string;
  task_id: string;
  kind: string;
  arguments: JsonObject;
  tool_version: number;
  credential: string;
  action_hash: string;
  preconditions: Precondition[];
  title: string;
  status: ActionStatus;
}

const ACTION_COLUMNS = `action_id, run_id, task_id, kind, arguments, tool_version, credential, action_hash, preconditions, target->>'title' as title, status`;

/** Throws ACTION_NOT_PERMITTED when there is none. */
export async function readAction(
  db: Queryable,
  workspaceId: WorkspaceId,
  actionId: string,
): Promise<StoredAction> {
  return toAction(actionId, await actionRow(db, workspaceId, actionId, ''));
}

/** Null when there is none in this workspace. `actionId` must be a UUID. */
export async function findAction(
  db: Queryable,
  workspaceId: WorkspaceId,
  actionId: string,
): Promise<StoredAction | null> {
  const row = await actionRow(db, workspaceId, actionId, '');
  return row === undefined ? null : toAction(actionId, row);
}

/** Reads and locks; after the request, before the ledger. */
export async function lockAction(tx: Tx, workspaceId: WorkspaceId, actionId: string): Promise<StoredAction> {
  return toAction(actionId, await actionRow(tx, workspaceId, actionId, 'for update'));
}

async function actionRow(
  db: Queryable,
  workspaceId: WorkspaceId,
  actionId: string,
  lock: '' | 'for update',
): Promise<ActionRow | undefined> {
  const { rows } = await db.query<ActionRow>({
    name: lock === '' ? 'action_read' : 'action_lock',
    text: `select ${ACTION_COLUMNS} from actions where workspace_id = $1 and action_id = $2 ${lock}`,
    values: [workspaceId, actionId],
  });
  return rows[0];
}

function toAction(actionId: string, row: ActionRow | undefined): StoredAction {
  if (!row) throw new CountersignError('ACTION_NOT_PERMITTED', `There is no action ${actionId}`);
  return {
    actionId: row.action_id,
    runId: row.run_id,
    taskId: row.task_id,
    kind: row.kind,
    arguments: row.arguments,
    toolVersion: row.tool_version,
    credential: row.credential,
    actionHash: row.action_hash,
    preconditions: row.preconditions,
    title: row.title,
    status: row.status,
  };
}

/** Locks, in the order of ids, a run's actions that are not over: awaiting, permitted, executing. After the requests, before the ledger. */
export async function lockOpenActions(tx: Tx, run: RunRef): Promise<readonly StoredAction[]> {
  const { rows } = await tx.query<ActionRow>({
    name: 'actions_open_lock',
    text: `select ${ACTION_COLUMNS} from actions
           where workspace_id = $1 and run_id = $2 and status in ('awaiting', 'permitted', 'executing') order by action_id for update`,
    values: [run.workspaceId, run.runId],
  });
  return rows.map((row) => toAction(row.action_id, row));
}

/** Ids of a run's actions that are being executed: sent, or about to be, and not recorded yet. */
export async function executingActions(db: Queryable, run: RunRef): Promise<readonly string[]> {
  const { rows } = await db.query<{ action_id: string }>({
    name: 'actions_executing',
    text: `select action_id from actions where workspace_id = $1 and run_id = $2 and status = 'executing' order by action_id`,
    values: [run.workspaceId, run.runId],
  });
  return rows.map((row) => row.action_id);
}

/** One line of a list of actions. */
export interface ListedAction {
  readonly actionId: string;
  readonly runId: string;
  readonly status: ActionStatus;
  readonly kind: string;
  readonly title: string;
  /** Of its last change of status. */
  readonly updatedAt: string;
}

/** The newest actions first, at most `limit`; those of one status, or of every one when it is null. */
export async function listActions(
  db: Queryable,
  workspaceId: WorkspaceId,
  asked: { readonly status: ActionStatus | null; readonly limit: number },
): Promise<readonly ListedAction[]> {
  const { rows } = await db.query<ListedRow>({
    text: `select action_id, run_id, status, kind, target->>'title' as title, updated_at from actions
           where workspace_id = $1 and ($2::text is null or status = $2) order by created_at desc, action_id desc limit $3`,
    values: [workspaceId, asked.status, asked.limit],
  });
  return rows.map((row) => ({
    actionId: row.action_id,
    runId: row.run_id,
    status: row.status,
    kind: row.kind,
    title: row.title,
    updatedAt: row.updated_at.toISOString(),
  }));
}

interface ListedRow extends Pick<ActionRow, 'action_id' | 'run_id' | 'status' | 'kind' | 'title'> {
  updated_at: Date;
}

/** Ids that begin with `prefix` (hex digits and dashes), at most `limit`. */
export async function actionIdsLike(
  db: Queryable,
  workspaceId: WorkspaceId,
  prefix: string,
  limit: number,
): Promise<readonly string[]> {
  const { rows } = await db.query<{ action_id: string }>({
    text: `select action_id from actions where workspace_id = $1 and starts_with(action_id::text, $2) order by action_id limit $3`,
    values: [workspaceId, prefix.toLowerCase(), limit],
  });
  return rows.map((row) => row.action_id);
}
