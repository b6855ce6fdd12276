/**
 * One task, from a mention to its last word in the thread.
 *
 * The agent works until it proposes an action or is done. What it proposes is looked at, judged, and, where the policy says so, waits for
 * people; what they approve is executed once, exactly as stored; what became of it goes back to the agent as the answer to its proposal.
 * Every line below survives a crash: the body runs again from the top and finished steps return what they returned.
 */
import { z } from 'zod';
import { answer } from '../../agents/conversation.ts';
import { type AgentDefinition, initialConversation } from '../../agents/definitions.ts';
import { type WorkOutcome, work } from '../../agents/loop.ts';
import type { ModelSeam } from '../../agents/model.ts';
import { CountersignError, toStoredError } from '../../errors.ts';
import { maskedJson } from '../../secrets.ts';
import type { Evidence, Json, ProposedAction, Step, TargetView, Tool, WriteTool } from '../../types.ts';
import { executingActions, propose } from '../actions.ts';
import { expire, OUTCOME_EVENT } from '../approvals.ts';

import { redraw } from '../deliveries.ts';
import { type Workflow, workflow } from '../engine/workflow.ts';
import { conclude, type Executed, type ExecutorDeps, execute, giveUp } from '../executor.ts';
import { appendEntry } from '../ledger.ts';
import { finishTask, readTask, recordTurns, spentOn, type Task } from '../tasks.ts';

/** Times a changed target is put before people again before the agent is told to give up: it moves faster than they read. */
const MAX_ASKS = 10;
/** An executed call may have to wait until an earlier one can no longer arrive, so tries are many and patient. */
const EXECUTE = { maxTries: 12, backoffMs: 1_000, timeoutMs: 120_000 };
const LOOK = { maxTries: 6, backoffMs: 1_000, timeoutMs: 60_000 };

export interface HandleTaskDeps extends ExecutorDeps {
  /** Every version of the agent that a run may still be on, oldest first. A new task gets the last one. */
  readonly agents: readonly AgentDefinition[];
  readonly model: ModelSeam;
}

/** What works one task: the version of the agent that it began with. */
interface WorkerDeps extends HandleTaskDeps {
  readonly agent: AgentDefinition;
}

/** Writes down which version of the agent a task begins with: whatever ships while it waits, that one works it to its end. */
export function handleTask(deps: HandleTaskDeps): Workflow {
  return taskWorkflow(deps, 2, (step) =>
    step.run('choose-agent', async () => {
      const newest = deps.agents.at(-1);
      if (newest === undefined) throw new CountersignError('CONFIG_INVALID', 'There is no agent');
      return { name: newest.name, version: newest.version };
    }),
  );
}

/** Runs from before that: all of them began with the first version of the agent. */
export function handleTaskFirst(deps: HandleTaskDeps): Workflow {
  return taskWorkflow(deps, 1, async () => ({ name: 'engineer', version: '1' }));
}

function taskWorkflow(
  deps: HandleTaskDeps,
  version: number,
  choose: (step: Step) => Promise<{ readonly name: string; readonly version: string }>,
): Workflow {
  return workflow({
    name: 'handle-task',
    version,
    input: z.object({ taskId: z.uuid() }),
    async body(step, { taskId }) {
      const task = await step.run('read-task', () => theTask(deps, step, taskId));
      const chosen = await choose(step);
      const agent = deps.agents.find((one) => one.name === chosen.name && one.version === chosen.version);
      if (agent === undefined)
        throw new CountersignError(
          'WORKFLOW_UNKNOWN',
          `This build has no agent ${chosen.name} v${chosen.version}, with which the task began`,
        );
      return workUntilDone(step, { ...deps, agent }, task);
    },
    // A defect, a refusal nobody foresaw, or a person who cancelled: what was sent is brought to its end, then the thread hears of it.
    async onFailure(step, { taskId }, { code, message }) {
      const task = await step.run('read-task', () => theTask(deps, step, taskId));
      const sent = await step.run('find-sent', () => executingActions(deps.database, step.runRef));
      for (const actionId of sent) await endSent(step, deps, task, actionId);
      await lastWord(step, task, { kind: code === 'RUN_CANCELLED' ? 'cancelled' : 'stopped', code, message });
    },
  });
}

async function workUntilDone(step: Step, deps: WorkerDeps, task: Task): Promise<Json> {
  let conversation = initialConversation({ objective: task.objective });
  for (;;) {
    const outcome = await work(step, deps.agent, conversation, {
      model: deps.model,
      tools: deps.tools,
      fetch: deps.egress.read,
    });
    await step.transact('record-turns', (tx) => recordTurns(tx, task, agentLabel(deps), turnsOf(outcome)));
    if (outcome.kind !== 'proposed') return lastWord(step, task, outcome);

    const result = await carryOut(step, deps, task, outcome.action);
    // A person's no is an answer, not an error of the tool.
    conversation = answer(outcome.conversation, outcome.toolUseId, result, result.status === 'failed');
  }
}

/** What the agent is told about its proposal. */
type ActionResult = { readonly status: string; readonly [detail: string]: Json };

/** Looks, judges, asks and executes; asks again while the target changes under the reviewers. */
async function carryOut(
  step: Step,
  deps: WorkerDeps,
  task: Task,
  action: ProposedAction,
): Promise<ActionResult> {
  const tool = writeTool(deps.tools, action.kind);
  let replaces: string | null = null;
  for (let asked = 1; asked <= MAX_ASKS; asked += 1) {
    const seen = await look(step, deps, tool, action);
    if ('refused' in seen) return { status: 'failed', reason: seen.refused };

    const judged = await step.transact('judge', (tx) =>
      propose(tx, deps.policyOf, {
        task,
        agent: { ...agentLabel(deps), riskCeiling: deps.agent.riskCeiling },
        tool,
        arguments: action.arguments,
        agentReason: action.reason,
        target: seen.target,
        evidence: seen.evidence,
        replaces,
      }),
    );
    if (judged.verdict === 'deny') return { status: 'denied', reasons: judged.reasons };
    if (judged.request !== null) {
      const decided = await decision(step, task, judged.actionId, judged.request);
      if (decided.status !== 'approved') return decided;
    }

    const executed = await executeOrGiveUp(step, deps, task, judged.actionId);
    switch (executed.outcome) {
      case 'done':
        return { status: 'done', receipt: executed.receipt };
      case 'failed':
        return { status: 'failed', reason: executed.error.message };
      case 'denied':
        return { status: 'denied', reasons: executed.reasons };
      case 'unknown':
        return { status: 'unknown', reason: 'Nobody can tell whether it happened; a person has to look.' };
      case 'changed':
        replaces = judged.actionId;
    }
  }
  return { status: 'superseded', reason: 'The target kept changing while people reviewed it.' };
}

/** Executes once; when that cannot be brought to an end, leaves nothing standing as if it were still under way. */
async function executeOrGiveUp(
  step: Step,
  deps: HandleTaskDeps,
  task: Task,
  actionId: string,
): Promise<Executed> {
  try {
    return await step.run('execute', (context) => execute(context, deps, task, actionId), EXECUTE);
  } catch (error) {
    const outcome = await step.transact('give-up', (tx) => giveUp(tx, deps, task, actionId));
    return outcome === 'unknown' ? { outcome } : { outcome, error: toStoredError(error) };
  }
}

/** An action that was being executed when the run was cancelled: found out how it ended, never sent again. */
async function endSent(step: Step, deps: HandleTaskDeps, task: Task, actionId: string): Promise<void> {
  try {
    await step.run('end-sent', (context) => conclude(context, deps, task, actionId), EXECUTE);
  } catch {
    await step.transact('give-up', (tx) => giveUp(tx, deps, task, actionId));
  }
}

/** The target as it stands now, and what the reviewer should know of it. A target that is not there is an answer, not a failure. */
async function look(
  step: Step,
  deps: HandleTaskDeps,
  tool: WriteTool,
  action: ProposedAction,
): Promise<{ target: TargetView; evidence: Evidence[] } | { refused: string }> {
  try {
    const target = await step.run(
      'look',
      async ({ signal }) =>
        withoutSecrets(await tool.target(action.arguments, { fetch: deps.egress.read, signal })),
      LOOK,
    );
    if (target.refusal !== undefined) return { refused: target.refusal };
    const observedAt = step.now().toISOString();
    const evidence = (target.evidence ?? []).map((item) => ({ ...item, observedAt }));
    return { target, evidence };
  } catch (error) {
    if (error instanceof CountersignError && error.code.startsWith('TOOL_'))
      return { refused: error.message };
    throw error;
  }
}

/** The words of a target, masked before they are kept. Its preconditions stay as they are: they are compared, and shown masked. */
function withoutSecrets(target: TargetView): TargetView {
  const { preconditions, ...words } = target;
  return { ...maskedJson(words), preconditions };
}

/** Waits for people, holding nothing. A decision that committed at the deadline stands. */
async function decision(
  step: Step,
  task: Task,
  actionId: string,
  request: { readonly requestId: string; readonly deadlineAt: string },
): Promise<ActionResult> {
  const waited = await step.waitForEvent('decision', {
    event: OUTCOME_EVENT,
    key: request.requestId,
    deadlineAt: new Date(request.deadlineAt),
  });
  if (waited.outcome === 'event') return waited.payload as ActionResult;
  return step.transact('expire', (tx) => expire(tx, task, actionId));
}

type LastWord =
  | { readonly kind: 'finished'; readonly summary: string }
  | { readonly kind: 'stopped' | 'cancelled'; readonly code: string; readonly message: string };

const LAST_ENTRY = {
  finished: 'task.finished',
  stopped: 'task.failed',
  cancelled: 'task.cancelled',
} as const;

/** The task's last word: the agent's summary, or why it stopped. */
async function lastWord(step: Step, task: Task, word: LastWord): Promise<Json> {
  const summary =
    word.kind === 'finished'
      ? word.summary
      : `${word.kind === 'cancelled' ? 'Cancelled' : 'Stopped'}: ${word.message}`;
  await step.transact('conclude', async (tx) => {
    if (!(await finishTask(tx, task, summary))) return;
    const costUsd = await spentOn(tx, task);
    await appendEntry(tx, {
      workspaceId: task.workspaceId,
      subjectKind: 'run',
      subjectId: task.runId,
      kind: LAST_ENTRY[word.kind],
      facts: {
        taskId: task.taskId,
        ...(word.kind === 'finished' ? {} : { code: word.code }),
        costUsd,
      },
      words: { summary },
    });
    await redraw(tx, task.workspaceId, task.taskId);
  });
  return { kind: word.kind };
}

async function theTask(deps: HandleTaskDeps, step: Step, taskId: string): Promise<Task> {
  const task = await readTask(deps.database, step.runRef.workspaceId, taskId);
  if (task === null) throw new CountersignError('RUN_NOT_FOUND', `There is no task ${taskId}`);
  return task;
}

function writeTool(tools: readonly Tool[], kind: string): WriteTool {
  const tool = tools.find((candidate) => candidate.kind === kind);
  if (tool?.access !== 'write') throw new CountersignError('TOOL_UNKNOWN', `No write tool ${kind}`);
  return tool;
}

function agentLabel(deps: WorkerDeps): { name: string; version: string; modelLabel: string } {
  return { name: deps.agent.name, version: deps.agent.version, modelLabel: deps.model.label };
}

/** Turns are numbered over the whole task, so that each is recorded under a path of its own. */
function turnsOf(outcome: WorkOutcome) {
  const first = outcome.conversation.turns - outcome.turns.length + 1;
  return outcome.turns.map((turn, index) => ({ ...turn, path: `turn-${first + index}` }));
}
