/**
 * One Messages API request as a script sees it: what the person asked, which tools there are, and every call made so far
 * with its real result. Hides Anthropic's block structure; keeps `is_error`, which the wire library drops.
 */

export interface ToolResult {
  readonly isError: boolean;
  readonly text: string;
  /** The text as a JSON object; empty when it is none. */
  readonly json: Readonly<Record<string, unknown>>;
}

export interface ToolCall {
  readonly id: string;
  readonly name: string;
  readonly input: Readonly<Record<string, unknown>>;
  readonly result: ToolResult | null;
}

export interface Conversation {
  /** The first user message; the part inside `<task>` when it has one. */
  readonly request: string;
  readonly tools: ReadonlySet<string>;
  /** In the order they were made. */
  readonly calls: readonly ToolCall[];
  /** A plain text message that came after the request and is now to be answered. */
  readonly followUp: string | null;
}

export interface Reply {
  readonly text: string;
  readonly calls: readonly { readonly name: string; readonly input: Record<string, unknown> }[];
}

/** Looks at a conversation and says what comes next, or null when it is not for this script. Pure. */
export type Script = (conversation: Conversation) => Reply | null;

export function say(text: string): Reply {
  return { text, calls: [] };
}

/** What Anthropic answers 400 `invalid_request_error` for, as far as the product could get it wrong; null when fine. */
export function invalid(body: unknown): string | null {
  const request = record(body);
  if (typeof request.model !== 'string' || !request.model) return 'model: Field required';
  if (typeof request.max_tokens !== 'number' || request.max_tokens < 1) return 'max_tokens: Field required';
  const messages = Array.isArray(request.messages) ? request.messages.map(record) : [];
  if (messages.length === 0) return 'messages: at least one message is required';
  if (messages[0]?.role !== 'user') return 'messages: first message must use the "user" role';
  let open: string[] = [];
  for (const [index, message] of messages.entries()) {
    const blocks = blocksOf(message);
    const answered = blocks
      .filter((block) => block.type === 'tool_result')
      .map((block) => String(block.tool_use_id));
    const unanswered = open.filter((id) => !answered.includes(id));
    if (unanswered.length > 0) {
      return `messages.${index}: \`tool_use\` ids were found without \`tool_result\` blocks immediately after: ${unanswered.join(', ')}`;
    }
    const stray = answered.find((id) => !open.includes(id));
    if (stray)
      return `messages.${index}: unexpected \`tool_use_id\` found in \`tool_result\` blocks: ${stray}`;
    open = blocks.filter((block) => block.type === 'tool_use').map((block) => String(block.id));
  }
  return open.length > 0 ? 'messages: the last `tool_use` blocks have no `tool_result`' : null;
}

/** Reads a valid request. */
export function readConversation(body: unknown): Conversation {
  const request = record(body);
  const messages = (Array.isArray(request.messages) ? request.messages : []).map(record);
  const results = new Map<string, ToolResult>();
  for (const block of messages.flatMap(blocksOf)) {
    if (block.type === 'tool_result') results.set(String(block.tool_use_id), resultOf(block));
  }
  const calls = messages
    .flatMap((message) => (message.role === 'assistant' ? blocksOf(message) : []))
    .filter((block) => block.type === 'tool_use')
    .map((block) => {
      const id = String(block.id);
      return { id, name: String(block.name), input: record(block.input), result: results.get(id) ?? null };
    });
  const first = messages[0] ? textOf(messages[0]) : '';
  const last = messages.at(-1);
  const lastIsText = last?.role === 'user' && !blocksOf(last).some((block) => block.type === 'tool_result');
  return {
    request: /<task\b[^>]*>([\s\S]*?)<\/task>/i.exec(first)?.[1]?.trim() ?? first,
    tools: new Set(
      (Array.isArray(request.tools) ? request.tools : []).map((tool) => String(record(tool).name)),
    ),
    calls,
    followUp: last && lastIsText && messages.length > 1 ? textOf(last) : null,
  };
}

export function record(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : {};
}

function resultOf(block: Readonly<Record<string, unknown>>): ToolResult {
  const text = textOf(block);
  let json: unknown = null;
  try {
    json = JSON.parse(text);
  } catch {
    // Prose is a legitimate result; scripts fall back to `text`.
  }
  return { isError: block.is_error === true, text, json: record(json) };
}

function blocksOf(message: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>>[] {
  return Array.isArray(message.content) ? message.content.map(record) : [];
}

function textOf(message: Readonly<Record<string, unknown>>): string {
  if (typeof message.content === 'string') return message.content;
  return blocksOf(message)
    .filter((block) => block.type === 'text')
    .map((block) => String(block.text))
    .join('\n');
}
