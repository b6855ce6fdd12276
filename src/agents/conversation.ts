/**
 * The conversation of one task, as the product keeps it: JSON, provider-neutral, grown only by appending. It carries
 * what has been spent so far, so that the bounds hold over the whole task and not per call of the loop.
 *
 * Invariant: nothing enters it that looks like a credential or exceeds the bound on a tool result; every tool call
 * of an assistant message is answered in the user message right after it before a model sees either.
 */
import { maskedJson, maskSecrets } from '../secrets.ts';
import type { Json, JsonObject } from '../types.ts';

export interface TextBlock {
  readonly type: 'text';
  readonly text: string;
}
export interface ToolUseBlock {
  readonly type: 'tool_use';
  readonly id: string;
  readonly name: string;
  readonly input: Json;
  /** Set when `input` came with something that looks like a credential, which is masked in it: the call is refused. */
  readonly heldSecret?: true;
}
/** A block of the provider's own (reasoning, for one) that it wants back unchanged. Never read, never shown. */
export interface OpaqueBlock {
  readonly type: 'opaque';
  readonly block: JsonObject;
}
export type ModelBlock = TextBlock | ToolUseBlock | OpaqueBlock;

export interface ToolResultBlock {
  readonly type: 'tool_result';
  readonly toolUseId: string;
  readonly content: string;
  readonly isError: boolean;
}

export type Message =
  | { readonly role: 'user'; readonly content: readonly (TextBlock | ToolResultBlock)[] }
  | { readonly role: 'assistant'; readonly content: readonly ModelBlock[] };

export interface Conversation {
  readonly messages: readonly Message[];
  /** Model turns taken so far. */
  readonly turns: number;
  /** Turns in a row, up to now, whose calls could not be used. */
  readonly malformedTurns: number;
  /** Tokens of all kinds, in and out, over all turns. */
  readonly tokens: number;
  readonly costUsd: number;
}

/** What one tool result may take of a prompt, in UTF-8 bytes: about 25,000 tokens, a tenth of a large context. */
export const MAX_TOOL_RESULT_BYTES = 100_000;

/** A conversation that begins with these words. */
export function conversationOf(text: string): Conversation {
  return {
    messages: [{ role: 'user', content: [{ type: 'text', text: maskSecrets(text) }] }],
    turns: 0,
    malformedTurns: 0,
    tokens: 0,
    costUsd: 0,
  };
}

/**
 * Answers one open tool call, a proposal for one, and returns the longer conversation. The result is masked and cut
 * like any tool result. Throws when no call with this id is open: that is a defect of the caller.
 */
export function answer(
  conversation: Conversation,
  toolUseId: string,
  result: Json,
  isError: boolean,
): Conversation {
  const content = resultText(typeof result === 'string' ? result : JSON.stringify(result));
  return answerAll(conversation, [{ type: 'tool_result', toolUseId, content, isError }]);
}

/** Answers several open calls at once; results stand in the order of the calls, whatever order they came in. */
export function answerAll(conversation: Conversation, results: readonly ToolResultBlock[]): Conversation {
  const open = new Set(openCalls(conversation).map((call) => call.id));
  for (const { toolUseId } of results) {
    if (!open.delete(toolUseId)) throw new Error(`No tool call ${toolUseId} is open in this conversation.`);
  }
  if (results.length === 0) return conversation;

  const { calls, answers } = lastExchange(conversation);
  const order = new Map(calls.map((call, index) => [call.id, index] as const));
  const content = [...answers, ...results].sort(
    (one, other) => (order.get(one.toolUseId) ?? 0) - (order.get(other.toolUseId) ?? 0),
  );
  const kept = answers.length === 0 ? conversation.messages : conversation.messages.slice(0, -1);
  return { ...conversation, messages: [...kept, { role: 'user', content }] };
}

/** The calls of the last assistant message that have no result yet. */
export function openCalls(conversation: Conversation): readonly ToolUseBlock[] {
  const { calls, answers } = lastExchange(conversation);
  const answered = new Set(answers.map((result) => result.toolUseId));
  return calls.filter((call) => !answered.has(call.id));
}

/** Masks credentials, then cuts to the bound with a marker that says how much is missing. */
export function resultText(text: string, maxBytes: number = MAX_TOOL_RESULT_BYTES): string {
  const masked = maskSecrets(text);
  const bytes = Buffer.from(masked, 'utf8');
  if (bytes.length <= maxBytes) return masked;
  // A cut inside a character would decode to a replacement mark: step back to where one begins.
  let end = maxBytes;
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1;
  return `${bytes.subarray(0, end).toString('utf8')}\n[cut: the first ${end} of ${bytes.length} bytes]`;
}

function lastExchange(conversation: Conversation): {
  readonly calls: readonly ToolUseBlock[];
  readonly answers: readonly ToolResultBlock[];
} {
  const last = conversation.messages.at(-1);
  if (last?.role === 'assistant') return { calls: last.content.filter(isToolUse), answers: [] };
  const before = conversation.messages.at(-2);
  if (last === undefined || before?.role !== 'assistant') return { calls: [], answers: [] };
  return { calls: before.content.filter(isToolUse), answers: last.content.filter(isToolResult) };
}

/** What a model said, as it may be kept: masked, calls that held a credential marked. The provider's own blocks are left as they are. */
export function keptBlock(block: ModelBlock): ModelBlock {
  switch (block.type) {
    case 'text':
      return { ...block, text: maskSecrets(block.text) };
    case 'tool_use': {
      const input = maskedJson(block.input);
      return input === block.input ? block : { ...block, input, heldSecret: true };
    }
    case 'opaque':
      return block;
    default:
      return block satisfies never;
  }
}

export function isToolUse(block: ModelBlock): block is ToolUseBlock {
  return block.type === 'tool_use';
}

function isToolResult(block: TextBlock | ToolResultBlock): block is ToolResultBlock {
  return block.type === 'tool_result';
}
