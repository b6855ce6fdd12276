/**
 * Tasks: what was asked for, by whom, where it is talked about, and what its agent spent. Owns `tasks` and `model_turns`.
 *
 * Invariant: one Slack message is one task, however often and in whatever form it arrives.
 */
import { randomUUIDv7 } from 'node:crypto';
import type { StoredError } from '../errors.ts';
import type { Person, Queryable, RunRef, RunStatus, Thread, Tx, WorkspaceId } from '../types.ts';
import type { TaskView } from '../views.ts';
import { redraw } from './deliveries.ts';
import { appendEntry, storable } from './ledger.ts';
import { unsettledOf } from './settling.ts';

export interface Task extends RunRef {
  readonly taskId: string;
  readonly objective: string;
  readonly requester: Person;
  readonly thread: Thread;
  readonly messageTs: string;
}

/** An agent as it is named on cards and kept with what it proposed. */
export interface AgentLabel {
  readonly name: string;
  readonly version: string;
  readonly modelLabel: string;
}

/** The run is named before it exists; it must be started in the same transaction. False when this message is a task already. */
export async function insertTask(
  tx: Tx,
  task: Omit<Task, 'taskId'> & { readonly taskId: string },
): Promise<boolean> {
  const { rowCount } = await tx.query({
    name: 'task_insert',
    text: `insert into tasks (workspace_id, task_id, run_id, requester_team_id, requester_user_id, owner_team_id, owner_user_id,
             channel_id, thread_ts, message_ts, objective, contract)
           values ($1, $2, $3, $4, $5, $4, $5, $6, $7, $8, $9, $10)
           on conflict (workspace_id, channel_id, message_ts) do nothing`,
    values: [
      task.workspaceId,
      task.taskId,
      task.runId,
      task.requester.teamId,
      task.requester.userId,
      task.thread.channelId,
      task.thread.threadTs,
      task.messageTs,
      task.objective,
      JSON.stringify({ objective: task.objective }),
    ],
  });
  return rowCount === 1;
}

interface TaskRow {
  workspace_id: string;
  task_id: string;
  run_id: string;
  requester_team_id: string;
  requester_user_id: string;
  channel_id: string;
  thread_ts: string;
  message_ts: string;
  objective: string;
}

/** Null when there is no such task in this workspace. */
export async function readTask(
  db: Queryable,
  workspaceId: WorkspaceId,
  taskId: string,
): Promise<Task | null> {
  const { rows } = await db.query<TaskRow>({
    name: 'task_read',
    text: `select workspace_id, task_id, run_id, requester_team_id, requester_user_id, channel_id, thread_ts, message_ts, objective
           from tasks where workspace_id = $1 and task_id = $2`,
    values: [workspaceId, taskId],
  });
  const row = rows[0];
  return row === undefined
    ? null
    : {
        workspaceId: row.workspace_id,
        runId: row.run_id,
        taskId: row.task_id,
        objective: row.objective,
        requester: { teamId: row.requester_team_id, userId: row.requester_user_id },
        thread: { channelId: row.channel_id, threadTs: row.thread_ts },
        messageTs: row.message_ts,
      };
}

/** Notes the end of a task. False when it had ended before. */
export async function finishTask(tx: Tx, task: Task, summary: string): Promise<boolean> {
  const { rowCount } = await tx.query({
    text: `update tasks set summary = $3, finished_at = db_now() where workspace_id = $1 and task_id = $2 and finished_at is null`,
    values: [task.workspaceId, task.taskId, storable(summary)],
  });
  return rowCount === 1;
}

/** Makes a parked run visible: a ledger entry, and its task's message says that a person is needed. Joins the transaction that parks. */
export async function noteParked(tx: Tx, run: RunRef, error: StoredError): Promise<void> {
  await appendEntry(tx, {
    workspaceId: run.workspaceId,
    subjectKind: 'run',
    subjectId: run.runId,
    kind: 'run.parked',
    facts: { code: error.code },
    words: { reason: error.message },
  });
  const { rows } = await tx.query<{ task_id: string }>({
    text: 'select task_id from tasks where workspace_id = $1 and run_id = $2',
    values: [run.workspaceId, run.runId],
  });
  for (const row of rows) await redraw(tx, run.workspaceId, row.task_id);
}

/** A word of control reached the task's run: its message is redrawn, and a retried task is open again. Joins the caller's transaction. */
export async function noteSteered(
  tx: Tx,
  run: RunRef,
  word: 'cancel' | 'pause' | 'resume' | 'retry',
): Promise<void> {
  const { rows } = await tx.query<{ task_id: string }>({
    text: `update tasks set
             summary = case when $3 then null else summary end, finished_at = case when $3 then null else finished_at end
           where workspace_id = $1 and run_id = $2 returning task_id`,
    values: [run.workspaceId, run.runId, word === 'retry'],
  });
  for (const row of rows) await redraw(tx, run.workspaceId, row.task_id);
}

/** What one model turn cost. `path` makes it unique within its run. */
export interface TurnSpent {
  readonly path: string;
  readonly model: string;
  readonly label: string;
  readonly stopReason: string;
  readonly usage: {
    readonly input: number;
    readonly output: number;
    readonly cacheCreation: number;
    readonly cacheRead: number;
  };
  readonly costUsd: number;
  readonly currency: string;
  readonly priceTableDate: string;
}

/** Records turns once each; recording them again changes nothing. */
export async function recordTurns(
  tx: Tx,
  task: Task,
  agent: AgentLabel,
  turns: readonly TurnSpent[],
): Promise<void> {
  for (const turn of turns)
    await tx.query({
      name: 'turn_insert',
      text: `insert into model_turns (workspace_id, turn_id, run_id, path, agent_name, agent_version, model, model_label, stop_reason,
               input_token_count, output_token_count, cache_creation_token_count, cache_read_token_count, cost, currency, price_table_date)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
             on conflict (workspace_id, run_id, path) do nothing`,
      values: [
        task.workspaceId,
        randomUUIDv7(),
        task.runId,
        turn.path,
        agent.name,
        agent.version,
        turn.model,
        turn.label,
        turn.stopReason,
        turn.usage.input,
        turn.usage.output,
        turn.usage.cacheCreation,
        turn.usage.cacheRead,
        turn.costUsd,
        turn.currency,
        turn.priceTableDate,
      ],
    });
}

/** What the recorded turns of a task cost, in US dollars as a decimal string. */
export async function spentOn(db: Queryable, task: Task): Promise<string> {
  const { rows } = await db.query<{ spent: string }>({
    name: 'task_spent',
    text: `select coalesce(sum(cost), 0)::text as spent from model_turns where workspace_id = $1 and run_id = $2`,
    values: [task.workspaceId, task.runId],
  });
  return rows[0]?.spent ?? '0';
}

/** Words for the ledger's kinds that a person following the thread wants to see; the others are left out. */
const PROGRESS: Readonly<Record<string, string>> = {
  'task.accepted': 'Accepted',
  'action.proposed': 'Proposed an action',
  'action.denied': 'The policy denied the action',
  'approval.requested': 'Asked for a countersign',
  'approval.approved': 'Approved',
  'approval.rejected': 'Rejected',
  'approval.changes_requested': 'Changes requested',
  'approval.expired': 'Expired without a decision',
  'approval.superseded': 'The target changed since it was reviewed',
  'action.executing': 'Executing',
  'action.done': 'Done',
  'action.failed': 'The action failed',
  'action.unknown': 'The outcome of the action is unknown',
  'action.settled': 'A person said how it ended',
  'approval.withdrawn': 'Withdrawn',
  'run.paused': 'Paused by an operator',
  'run.resumed': 'Resumed',
  'run.retried': 'Tried again',
  'run.cancelled': 'Cancelled by an operator',
  'run.parked': 'Parked: the operator has to look',
};

/** How a task ended, by the ledger's word for it. */
const TASK_ENDS: Readonly<Record<string, RunStatus>> = {
  'task.finished': 'completed',
  'task.failed': 'failed',
  'task.cancelled': 'cancelled',
};

interface TaskViewRow extends TaskRow {
  status: RunStatus;
  summary: string | null;
  created_at: Date;
  finished_at: Date | null;
  cost: string | null;
  kinds: string[] | null;
  agent_name: string | null;
  agent_version: string | null;
  model_label: string | null;
}

/** The newest committed state of a task, enough to draw it. `newest` is named while no turn says which agent works on it. */
export async function taskView(
  db: Queryable,
  workspaceId: WorkspaceId,
  taskId: string,
  newest: AgentLabel,
): Promise<TaskView | null> {
  const { rows } = await db.query<TaskViewRow>({
    name: 'task_view',
    text: `select t.workspace_id, t.task_id, t.run_id, t.requester_team_id, t.requester_user_id, t.channel_id, t.thread_ts, t.message_ts,
             t.objective, t.summary, t.created_at, t.finished_at, r.status,
             (select sum(cost) from model_turns m where m.workspace_id = t.workspace_id and m.run_id = t.run_id) as cost,
             (select array_agg(entry_kind order by subject_seq) from ledger_entries e
               where e.workspace_id = t.workspace_id and e.subject_kind = 'run' and e.subject_id = t.run_id::text) as kinds,
             turn.agent_name, turn.agent_version, turn.model_label
           from tasks t join runs r on r.workspace_id = t.workspace_id and r.run_id = t.run_id
           left join lateral (select m.agent_name, m.agent_version, m.model_label from model_turns m
             where m.workspace_id = t.workspace_id and m.run_id = t.run_id order by m.turn_id desc limit 1) turn on true
           where t.workspace_id = $1 and t.task_id = $2`,
    values: [workspaceId, taskId],
  });
  const row = rows[0];
  if (row === undefined) return null;
  const kinds = row.kinds ?? [];
  // A retried task may have ended more than once: the last word counts.
  const last = kinds.findLast((kind) => kind in TASK_ENDS);
  const ended = last === undefined || row.finished_at === null ? undefined : TASK_ENDS[last];
  const broken = ended !== undefined && ended !== 'completed';
  const progress = kinds.flatMap((kind) => PROGRESS[kind] ?? []);
  return {
    taskId: row.task_id,
    objective: row.objective,
    requester: { teamId: row.requester_team_id, userId: row.requester_user_id },
    // A task is over when its last word is recorded; its run's own end follows within milliseconds and redraws nothing.
    runStatus: ended ?? row.status,
    // Why it stopped is the product's word, not the agent's.
    progress: broken && row.summary !== null ? [...progress, row.summary] : progress,
    agentSummary: broken ? null : row.summary,
    agent:
      row.agent_name === null || row.agent_version === null || row.model_label === null
        ? newest
        : { name: row.agent_name, version: row.agent_version, modelLabel: row.model_label },
    costUsd: Number(row.cost ?? 0),
    unsettled: await unsettledOf(db, workspaceId, taskId),
    startedAt: row.created_at.toISOString(),
    finishedAt: row.finished_at?.toISOString() ?? null,
  };
}
