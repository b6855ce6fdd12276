/**
 * The agent's loop: model turn, read tools, model turn, until there is a proposal, a summary or a reason to stop.
 * A plain function over `Step`; what a turn or a call returned is journaled, everything between is pure.
 *
 * Invariant: it proposes and never acts. Write tools are only parsed here; a call the model did not finish, did not
 * form well, or may not make is never run. Every bound is checked before the call it bounds.
 */
import { ERROR_TABLE, type ErrorCode } from '../errors.ts';
import { maskedJson, maskSecrets } from '../secrets.ts';
import type { Fetch, Json, JsonObject, ProposedAction, ReadTool, Step, Tool, WriteTool } from '../types.ts';
import {
  answerAll,
  type Conversation,
  isToolUse,
  keptBlock,
  openCalls,
  resultText,
  type ToolResultBlock,
  type ToolUseBlock,
} from './conversation.ts';
import type { AgentDefinition } from './definitions.ts';
import { MODEL_TIMEOUT_MS, type ModelSeam, type ModelTurn, type ModelTurnFacts } from './model.ts';
import { modelToolName } from './tool-names.ts';

/** Turns in a row with unusable calls that are answered with an error; the next one ends the work. */
export const MAX_MALFORMED_TURNS = 3;
/** Calls of one turn that are run; a longer list is a loop in disguise. */
const MAX_CALLS_PER_TURN = 16;
/** What the journal keeps of one result, in bytes. More than a prompt is shown, less than a row should hold. */
const MAX_JOURNALED_BYTES = 500_000;
/** 2 s doubling to 8.5 min: about 17 minutes in all, enough for an overloaded provider to come back. */
const TURN_TRIES = { maxTries: 10, backoffMs: 2_000, timeoutMs: MODEL_TIMEOUT_MS + 10_000 };
const READ_TRIES = { maxTries: 4, backoffMs: 1_000, timeoutMs: 60_000 };

/** Why the loop ended without a proposal or a summary. */
export type StopName =
  | 'refusal'
  | 'max_tokens'
  | 'context_overflow'
  | 'unusable_output'
  | 'turn_budget'
  | 'token_budget'
  | 'money_budget'
  | 'identical_calls'
  | 'model_error';

interface OutcomeBase {
  /** Everything said so far, the last turn included. */
  readonly conversation: Conversation;
  /** The turns taken by this call of `work`, oldest first; on a replay the same ones. */
  readonly turns: readonly ModelTurnFacts[];
}
export type WorkOutcome =
  | (OutcomeBase & {
      readonly kind: 'proposed';
      readonly toolUseId: string;
      readonly action: ProposedAction;
    })
  | (OutcomeBase & { readonly kind: 'finished'; readonly summary: string })
  | (OutcomeBase & {
      readonly kind: 'stopped';
      readonly stop: StopName;
      readonly code: ErrorCode;
      readonly message: string;
    });

export interface WorkDeps {
  readonly model: ModelSeam;
  /** Everything installed; the agent sees those its definition names. */
  readonly tools: readonly Tool[];
  /** `egress.read`. */
  readonly fetch: Fetch;
}

/**
 * Works until there is something to say. After `proposed` the caller answers the call
 * (`answer(outcome.conversation, outcome.toolUseId, …)`) and calls again; bounds count over all calls.
 * Expected trouble comes back as `stopped`; it throws only what ends the attempt (FENCED, RUN_CANCELLED, a journal
 * that does not fit) or is a defect, such as an unanswered proposal.
 */
export async function work(
  step: Step,
  agent: AgentDefinition,
  conversation: Conversation,
  deps: WorkDeps,
): Promise<WorkOutcome> {
  if (openCalls(conversation).length > 0)
    throw new Error('The last proposal must be answered before the agent goes on.');
  const tools = toolsByName(agent, deps.tools);
  const turns: ModelTurnFacts[] = [];
  let current = conversation;
  const stopped = (stop: StopName, code: ErrorCode, message: string): WorkOutcome => ({
    kind: 'stopped',
    stop,
    code,
    message,
    conversation: current,
    turns,
  });

  for (;;) {
    const over = overBudget(agent, current);
    if (over !== null) return stopped(over.stop, 'AGENT_BUDGET_EXCEEDED', over.message);

    let turn: ModelTurn;
    try {
      turn = await takeTurn(step, agent, current, deps.model, tools);
    } catch (error) {
      const code = codeOf(error);
      if (code !== 'MODEL_FAILED' && code !== 'MODEL_REFUSED' && code !== 'STEP_TIMEOUT') throw error;
      return stopped('model_error', code, messageOf(error));
    }
    turns.push(factsOf(turn));
    current = {
      ...current,
      turns: current.turns + 1,
      tokens: current.tokens + tokensOf(turn),
      costUsd: current.costUsd + turn.costUsd,
    };

    const bad = badEnding(turn);
    if (bad !== null) return stopped(bad.stop, bad.code, bad.message);

    const calls = turn.content.filter(isToolUse);
    const text = textOf(turn);
    if (turn.stopReason !== 'pause_turn' && calls.length === 0) {
      if (turn.stopReason === 'tool_use' || text === '')
        return stopped('unusable_output', 'AGENT_OUTPUT_INVALID', 'The model said nothing that can be used.');
      current = { ...current, messages: [...current.messages, { role: 'assistant', content: turn.content }] };
      return { kind: 'finished', summary: text, conversation: current, turns };
    }
    if (turn.content.length === 0)
      return stopped('unusable_output', 'AGENT_OUTPUT_INVALID', 'The model said nothing that can be used.');

    current = { ...current, messages: [...current.messages, { role: 'assistant', content: turn.content }] };
    const repeated = mostRepeated(current, calls);
    if (repeated > agent.budget.maxIdenticalCalls)
      return stopped(
        'identical_calls',
        'AGENT_BUDGET_EXCEEDED',
        `The agent made the same call more than ${agent.budget.maxIdenticalCalls} times.`,
      );

    const sorted = sortCalls(calls, tools);
    current = { ...current, malformedTurns: sorted.malformed ? current.malformedTurns + 1 : 0 };
    if (current.malformedTurns > MAX_MALFORMED_TURNS)
      return stopped(
        'unusable_output',
        'AGENT_OUTPUT_INVALID',
        `The model made unusable tool calls ${current.malformedTurns} times in a row.`,
      );

    const turnNumber = current.turns;
    const results = await Promise.all(
      sorted.reads.map((call) => runRead(step, `turn-${turnNumber}-call-${call.place}`, call, deps.fetch)),
    );
    current = answerAll(current, [...sorted.refused, ...results]);

    if (sorted.proposal !== null) {
      const { toolUseId, tool, input } = sorted.proposal;
      const action: ProposedAction = { kind: tool.kind, arguments: input, reason: text };
      return { kind: 'proposed', toolUseId, action, conversation: current, turns };
    }
  }
}

function takeTurn(
  step: Step,
  agent: AgentDefinition,
  conversation: Conversation,
  model: ModelSeam,
  tools: ReadonlyMap<string, Tool>,
): Promise<ModelTurn> {
  return step.run(
    'turn',
    async ({ signal }) => {
      const turn = await model.turn({
        system: agent.prompt,
        messages: conversation.messages,
        tools: [...tools].map(([name, { description, inputSchema }]) => ({ name, description, inputSchema })),
        maxTokens: agent.budget.maxTokensPerTurn,
        signal,
      });
      // Before it is journaled: what is in the journal goes back into the next prompt.
      return { ...turn, content: turn.content.map(keptBlock) };
    },
    {
      ...TURN_TRIES,
      // Place and version only. The messages follow from the journal; hashing them would park every waiting run
      // whenever a release words a tool's error differently.
      input: { agent: agent.name, version: agent.version, turn: conversation.turns + 1 },
    },
  );
}

/** Only the tools the definition names, in its order; a kind that is not installed is left out. */
function toolsByName(agent: AgentDefinition, tools: readonly Tool[]): ReadonlyMap<string, Tool> {
  const byKind = new Map(tools.map((tool) => [tool.kind, tool] as const));
  const named = new Map<string, Tool>();
  for (const kind of agent.toolKinds) {
    const tool = byKind.get(kind);
    if (tool !== undefined) named.set(modelToolName(kind), tool);
  }
  return named;
}

function overBudget(
  { budget }: AgentDefinition,
  spent: Conversation,
): { readonly stop: StopName; readonly message: string } | null {
  if (spent.turns >= budget.maxTurns)
    return { stop: 'turn_budget', message: `The agent used all of its ${budget.maxTurns} turns.` };
  if (spent.tokens >= budget.maxTokens)
    return { stop: 'token_budget', message: `The agent used all of its ${budget.maxTokens} tokens.` };
  if (spent.costUsd >= budget.maxCostUsd)
    return { stop: 'money_budget', message: `The agent used all of its ${budget.maxCostUsd} dollars.` };
  return null;
}

/** Endings after which nothing of the turn may be used: a call that was cut off is not the call that was meant. */
function badEnding(
  turn: ModelTurn,
): { readonly stop: StopName; readonly code: ErrorCode; readonly message: string } | null {
  switch (turn.stopReason) {
    case 'end_turn':
    case 'stop_sequence':
    case 'tool_use':
    case 'pause_turn':
      return null;
    case 'refusal':
      return { stop: 'refusal', code: 'MODEL_REFUSED', message: 'The model declined the task.' };
    case 'max_tokens':
      return {
        stop: 'max_tokens',
        code: 'AGENT_OUTPUT_INVALID',
        message: "The model's answer was cut off at its bound; nothing of it was used.",
      };
    case 'model_context_window_exceeded':
      return {
        stop: 'context_overflow',
        code: 'AGENT_BUDGET_EXCEEDED',
        message: 'The conversation no longer fits the model.',
      };
    default:
      return {
        stop: 'unusable_output',
        code: 'AGENT_OUTPUT_INVALID',
        message: 'The model ended its turn in a way this release does not know.',
      };
  }
}

interface ReadCall {
  readonly toolUseId: string;
  /** Its place in the turn, from 0: part of the step's key, because a model may reuse its ids. */
  readonly place: number;
  readonly tool: ReadTool;
  readonly input: JsonObject;
}
interface SortedCalls {
  readonly reads: readonly ReadCall[];
  readonly proposal: {
    readonly toolUseId: string;
    readonly tool: WriteTool;
    readonly input: JsonObject;
  } | null;
  readonly refused: readonly ToolResultBlock[];
  readonly malformed: boolean;
}

function sortCalls(calls: readonly ToolUseBlock[], tools: ReadonlyMap<string, Tool>): SortedCalls {
  const reads: ReadCall[] = [];
  const refused: ToolResultBlock[] = [];
  let proposal: SortedCalls['proposal'] = null;
  let malformed = false;

  for (const [place, call] of calls.entries()) {
    const refuse = (why: string) => refused.push(errorResult(call.id, why));
    const tool = tools.get(call.name);
    if (tool === undefined) {
      malformed = true;
      refuse(`There is no tool of this name. The tools are: ${[...tools.keys()].join(', ')}.`);
      continue;
    }
    // Also looked at here: a turn journaled by an earlier release carries no mark.
    if (call.heldSecret === true || maskedJson(call.input) !== call.input) {
      malformed = true;
      refuse('The arguments hold something that looks like a credential. Leave it out.');
      continue;
    }
    let input: JsonObject;
    try {
      input = tool.parse(call.input);
    } catch (error) {
      malformed = true;
      refuse(messageOf(error));
      continue;
    }
    if (place >= MAX_CALLS_PER_TURN) {
      refuse(`Only ${MAX_CALLS_PER_TURN} calls are taken at once. Call again if it is still needed.`);
    } else if (tool.access === 'read') {
      reads.push({ toolUseId: call.id, place, tool, input });
    } else if (proposal === null) {
      proposal = { toolUseId: call.id, tool, input };
    } else {
      refuse('One action at a time: this one was not proposed. Wait for the result of the first.');
    }
  }
  return { reads, proposal, refused, malformed };
}

/** Trouble that ends the attempt, not the call: a result for the model would let a lost worker go on. */
const ENDS_THE_ATTEMPT: ReadonlySet<string> = new Set([
  'FENCED',
  'RUN_CANCELLED',
  'JOURNAL_MISMATCH',
  'STEP_NAME_AMBIGUOUS',
]);

async function runRead(step: Step, key: string, call: ReadCall, fetch: Fetch): Promise<ToolResultBlock> {
  const { tool, input } = call;
  try {
    const text = await step.branch(key, (branch) =>
      branch.run(
        'read',
        async ({ signal }) =>
          resultText(JSON.stringify(await tool.read(input, { fetch, signal })), MAX_JOURNALED_BYTES),
        { ...READ_TRIES, input: { kind: tool.kind, version: tool.version, arguments: input } },
      ),
    );
    return {
      type: 'tool_result',
      toolUseId: call.toolUseId,
      content: resultText(text),
      isError: false,
    };
  } catch (error) {
    const code = codeOf(error);
    if (code === null || ENDS_THE_ATTEMPT.has(code)) throw error;
    return errorResult(call.toolUseId, `${code}: ${messageOf(error)}`);
  }
}

function errorResult(toolUseId: string, why: string): ToolResultBlock {
  return { type: 'tool_result', toolUseId, content: resultText(why), isError: true };
}

/** How often the most repeated of `calls` stands in the conversation, which already holds them. */
function mostRepeated(conversation: Conversation, calls: readonly ToolUseBlock[]): number {
  const counts = new Map<string, number>();
  for (const message of conversation.messages) {
    if (message.role !== 'assistant') continue;
    for (const call of message.content.filter(isToolUse)) {
      const key = `${call.name} ${sortedJson(call.input)}`;
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
  }
  return Math.max(0, ...calls.map((call) => counts.get(`${call.name} ${sortedJson(call.input)}`) ?? 0));
}

/** JSON with sorted keys: key order must not make a repeated call look new. */
function sortedJson(value: Json): string {
  return JSON.stringify(value, (_key, part: unknown) =>
    typeof part === 'object' && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([one], [other]) => (one < other ? -1 : 1)))
      : part,
  );
}

function textOf(turn: ModelTurn): string {
  const texts = turn.content.flatMap((block) => (block.type === 'text' ? [block.text] : []));
  return maskSecrets(texts.join('\n').trim());
}

function tokensOf({ usage }: ModelTurn): number {
  return usage.input + usage.output + usage.cacheCreation + usage.cacheRead;
}

function factsOf(turn: ModelTurn): ModelTurnFacts {
  const { content: _content, ...facts } = turn;
  return facts;
}

/** The code of a known error; null for anything else. By its code alone: a stored error may come back as another class. */
function codeOf(error: unknown): ErrorCode | null {
  if (!(error instanceof Error) || !('code' in error)) return null;
  const { code } = error;
  return typeof code === 'string' && Object.hasOwn(ERROR_TABLE, code) ? (code as ErrorCode) : null;
}

function messageOf(error: unknown): string {
  return maskSecrets(error instanceof Error ? error.message : String(error));
}
