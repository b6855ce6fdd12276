/**
 * The model seam: one turn of a conversation with whatever speaks the Messages API. It hides the provider's library,
 * its message shapes, its errors and its prices; changing the model is one line of configuration.
 *
 * Invariant: one call is one request. Nothing is retried here (the step does that, durably), nothing is trusted: an
 * answer that does not have the promised form is MODEL_FAILED, never half used.
 */
import Anthropic, {
  APIConnectionError,
  APIError,
  APIUserAbortError,
  type ClientOptions,
} from '@anthropic-ai/sdk';
import { z } from 'zod';
import { CountersignError } from '../errors.ts';
import { maskSecrets } from '../log.ts';
import type { Fetch, JsonObject } from '../types.ts';
import type { Message, ModelBlock, ToolResultBlock } from './conversation.ts';
import { costUsd, type ModelPrice, PRICE_TABLE_DATE, type TokenUsage } from './prices.ts';

/** The longest the provider may take over one turn. Below the step's bound, so that the step names the reason. */
export const MODEL_TIMEOUT_MS = 240_000;

/** The longest pause between tries that is honoured; the engine's backoff ends there as well. */
const MAX_RETRY_AFTER_MS = 15 * 60_000;

const DEFAULT_BASE_URL = 'https://api.anthropic.com';

export interface ModelTool {
  readonly name: string;
  readonly description: string;
  /** JSON Schema of an object. */
  readonly inputSchema: JsonObject;
}

export interface TurnRequest {
  readonly system: string;
  readonly messages: readonly Message[];
  readonly tools: readonly ModelTool[];
  /** Most tokens the answer may have, reasoning included. */
  readonly maxTokens: number;
  readonly signal: AbortSignal;
}

/** What is kept of a turn besides its words. Plain JSON. */
export interface ModelTurnFacts {
  /** The model that answered, as the provider names it. */
  readonly model: string;
  /** The seam's own name for who speaks. */
  readonly label: string;
  /** The provider's word (`end_turn`, `tool_use`, `max_tokens`, …); `unknown` when it gave none. */
  readonly stopReason: string;
  readonly usage: TokenUsage;
  readonly costUsd: number;
  readonly currency: 'USD';
  readonly priceTableDate: string;
}

export interface ModelTurn extends ModelTurnFacts {
  readonly content: readonly ModelBlock[];
}

export interface ModelSeam {
  /** The configured model. */
  readonly model: string;
  /** Who speaks, for people: "scripted model", or the model's name. */
  readonly label: string;
  /**
   * Asks for the next message, once. Throws MODEL_FAILED (retryable, `retryAfterMs` when the provider said) or
   * MODEL_REFUSED (terminal: wrong key, unknown model, malformed or oversized request, spend limit reached).
   */
  turn(request: TurnRequest): Promise<ModelTurn>;
}

export interface ModelOptions {
  readonly apiKey: string;
  /** Default Anthropic's own. The environment is not consulted. */
  readonly baseUrl?: string;
  readonly model: string;
  readonly label: string;
  /** Default `globalThis.fetch`. */
  readonly fetch?: Fetch;
  /** For a model the price table lacks. */
  readonly price?: ModelPrice;
}

/** Makes the seam. No request is sent until the first turn. */
export function createModel(options: ModelOptions): ModelSeam {
  const clientOptions: ClientOptions = {
    apiKey: options.apiKey,
    baseURL: options.baseUrl ?? DEFAULT_BASE_URL,
    maxRetries: 0,
    timeout: MODEL_TIMEOUT_MS,
    logLevel: 'off',
    // A redirect would carry the key to another host.
    fetchOptions: { redirect: 'error' },
    ...(options.fetch === undefined ? {} : { fetch: options.fetch }),
  };
  const client = new Anthropic(clientOptions);

  return {
    model: options.model,
    label: options.label,
    async turn(request) {
      let answer: unknown;
      try {
        answer = await client.messages.create(
          {
            model: options.model,
            max_tokens: request.maxTokens,
            system: [{ type: 'text', text: request.system, cache_control: { type: 'ephemeral' } }],
            messages: toProviderMessages(request.messages),
            ...(request.tools.length === 0 ? {} : { tools: request.tools.map(toProviderTool) }),
          },
          { signal: request.signal },
        );
      } catch (error) {
        throw toModelError(error, request.signal);
      }
      return readAnswer(answer, options);
    },
  };
}

function toProviderTool(tool: ModelTool): Anthropic.Tool {
  return {
    name: tool.name,
    description: tool.description,
    input_schema: { ...tool.inputSchema, type: 'object' },
  };
}

/** The one place where our messages become the provider's. The end is marked for its cache, which the next turn reads. */
function toProviderMessages(messages: readonly Message[]): Anthropic.MessageParam[] {
  const converted = messages.map(toProviderMessage);
  const last = converted.at(-1)?.content;
  const lastBlock = Array.isArray(last) ? last.at(-1) : undefined;
  if (lastBlock?.type === 'text' || lastBlock?.type === 'tool_result')
    lastBlock.cache_control = { type: 'ephemeral' };
  return converted;
}

function toProviderMessage(message: Message): Anthropic.MessageParam {
  return message.role === 'assistant'
    ? { role: 'assistant', content: message.content.map(toProviderBlock) }
    : { role: 'user', content: message.content.map(toProviderBlock) };
}

function toProviderBlock(block: ModelBlock | ToolResultBlock): Anthropic.ContentBlockParam {
  switch (block.type) {
    case 'text':
      return { type: 'text', text: block.text };
    case 'tool_use':
      return { type: 'tool_use', id: block.id, name: block.name, input: block.input };
    case 'tool_result':
      return {
        type: 'tool_result',
        tool_use_id: block.toolUseId,
        content: block.content,
        is_error: block.isError,
      };
    case 'opaque':
      // The provider's own block, handed back as it came; its form was the provider's to choose.
      return block.block as unknown as Anthropic.ContentBlockParam;
  }
}

const tokenCount = z
  .int()
  .min(0)
  .nullish()
  .transform((count) => count ?? 0);
const answerSchema = z.looseObject({
  model: z.string().optional(),
  stop_reason: z.string().nullish(),
  content: z.array(z.looseObject({ type: z.string() })),
  usage: z
    .looseObject({
      input_tokens: tokenCount,
      output_tokens: tokenCount,
      cache_creation_input_tokens: tokenCount,
      cache_read_input_tokens: tokenCount,
    })
    .nullish(),
});
const textSchema = z.looseObject({ text: z.string() });
const toolUseSchema = z.looseObject({
  id: z.string().min(1).max(200),
  name: z.string().max(200),
  input: z.json(),
});

function readAnswer(answer: unknown, options: ModelOptions): ModelTurn {
  const parsed = answerSchema.safeParse(answer);
  if (!parsed.success) throw unusable();
  // A blank text says nothing, and the provider refuses it when it is sent back.
  const content = parsed.data.content
    .map(readBlock)
    .filter((block) => block.type !== 'text' || block.text.trim() !== '');
  const ids = content.filter((block) => block.type === 'tool_use').map((block) => block.id);
  // Results are matched to calls by id: two calls under one id could swap their results.
  if (new Set(ids).size !== ids.length) throw unusable();

  const usage: TokenUsage = {
    input: parsed.data.usage?.input_tokens ?? 0,
    output: parsed.data.usage?.output_tokens ?? 0,
    cacheCreation: parsed.data.usage?.cache_creation_input_tokens ?? 0,
    cacheRead: parsed.data.usage?.cache_read_input_tokens ?? 0,
  };
  return {
    content,
    stopReason: parsed.data.stop_reason ?? 'unknown',
    usage,
    model: parsed.data.model ?? options.model,
    label: options.label,
    // By the configured name: what answers decides its own name, not its price.
    costUsd: costUsd(options.model, usage, options.price),
    currency: 'USD',
    priceTableDate: PRICE_TABLE_DATE,
  };
}

function readBlock(block: { readonly type: string; readonly [key: string]: unknown }): ModelBlock {
  if (block.type === 'text') {
    const text = textSchema.safeParse(block);
    if (text.success) return { type: 'text', text: text.data.text };
    throw unusable();
  }
  if (block.type === 'tool_use') {
    const call = toolUseSchema.safeParse(block);
    if (call.success)
      return { type: 'tool_use', id: call.data.id, name: call.data.name, input: call.data.input };
    throw unusable();
  }
  const json = z.record(z.string(), z.json()).safeParse(block);
  if (json.success) return { type: 'opaque', block: json.data };
  throw unusable();
}

function unusable(): CountersignError {
  return new CountersignError('MODEL_FAILED', 'The model service answered in an unknown form.');
}

/** Money limits, not rates: waiting does not help, whatever the status says. */
const SPEND_LIMIT_CODES: ReadonlySet<string> = new Set([
  'enforced_spend_limit_reached',
  'contract_spend_limit_reached',
  'linked_organization_spend_limit_reached',
]);

function toModelError(error: unknown, signal: AbortSignal): unknown {
  // Whoever stopped the call said why; that is the truth about it.
  if (signal.aborted && signal.reason instanceof CountersignError) return signal.reason;
  if (error instanceof CountersignError) return error;
  if (error instanceof APIUserAbortError || signal.aborted)
    return new CountersignError('MODEL_FAILED', 'The call to the model service was stopped.', {
      cause: error,
    });
  if (error instanceof APIConnectionError || !(error instanceof APIError))
    return new CountersignError('MODEL_FAILED', 'The model service could not be reached.', { cause: error });

  const status = Number(error.status ?? 0);
  const words = maskSecrets(error.apiMessage ?? '').slice(0, 300);
  const message = `The model service answered ${status}${words === '' ? '' : `: ${words}`}`;
  const spent = error.errorCode !== null && SPEND_LIMIT_CODES.has(error.errorCode);
  const worthRetrying = status === 408 || status === 409 || status === 429 || status >= 500;
  if (spent || !worthRetrying) return new CountersignError('MODEL_REFUSED', message, { cause: error });
  const retryAfterMs = readRetryAfterMs(error.headers);
  return new CountersignError('MODEL_FAILED', message, {
    cause: error,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });
}

/** `retry-after-ms`, or `retry-after` in seconds; a date is ignored, because it would mean trusting two clocks. */
function readRetryAfterMs(headers: Headers | undefined): number | undefined {
  const ms = Number(headers?.get('retry-after-ms') ?? Number.NaN);
  const seconds = Number(headers?.get('retry-after') ?? Number.NaN);
  const wanted = Number.isFinite(ms) ? ms : seconds * 1000;
  if (!Number.isFinite(wanted) || wanted < 0) return undefined;
  return Math.min(Math.ceil(wanted), MAX_RETRY_AFTER_MS);
}
