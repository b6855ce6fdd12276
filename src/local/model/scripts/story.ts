/**
 * What the stories share: what a request names, how results are read, and what became of a proposal in words. Every sentence rests on
 * a result in the conversation; text of issues, files and checks is looked at and never followed.
 */
import { type Conversation, type Reply, record, say, type ToolCall } from '../conversation.ts';

/** The local GitHub's only repository, meant by a request that names none. */
const DEFAULT_REPO = 'acme/shop';

export const MAX_PROPOSALS = 3;

export interface Repo {
  readonly owner: string;
  readonly repo: string;
}
export type Fields = Readonly<Record<string, unknown>>;

export function repoOf(request: string): Repo {
  const named = /\b(?:in|of|on|from|at|for|to)\s+[`"'<]?([A-Za-z0-9][\w-]*)\/([\w-][\w.-]*[\w-]|[\w-])/i.exec(
    request,
  );
  const [owner = '', repo = ''] = named ? [named[1], named[2]] : DEFAULT_REPO.split('/');
  return { owner, repo };
}

/** The sentence for the first tool of these that was not given; null when all were. */
export function lacking(conversation: Conversation, tools: readonly string[]): Reply | null {
  const missing = tools.find((tool) => !conversation.tools.has(tool));
  return missing === undefined ? null : say(`I cannot do that: I was not given the tool ${missing}.`);
}

export function last(conversation: Conversation, name: string): ToolCall | undefined {
  return conversation.calls.findLast((call) => call.name === name);
}

export function all(conversation: Conversation, name: string): readonly ToolCall[] {
  return conversation.calls.filter((call) => call.name === name);
}

/** The list under a name of a result; empty for anything else. */
export function listed(call: ToolCall | undefined, name: string): readonly Fields[] {
  const list = call?.result?.isError ? undefined : call?.result?.json[name];
  return (Array.isArray(list) ? list : []).map(record);
}

/** Why a read gave nothing; null when it gave something. */
export function unread(call: ToolCall | undefined, what: string): Reply | null {
  if (call?.result == null || !call.result.isError) return null;
  return say(`I could not read ${what}, so nothing was done. GitHub said: ${short(call.result.text)}`);
}

export type End =
  | { readonly kind: 'done'; readonly receipt: Fields }
  /** A person said no, or asked for changes. */
  | { readonly kind: 'refused'; readonly reason: string | undefined }
  | { readonly kind: 'ended'; readonly text: string };

/** What became of a proposal; `what` is what was proposed, as in "label issue 3". */
export function endOf(call: ToolCall, what: string): End {
  const ended = (words: string): End => ({ kind: 'ended', text: words });
  if (!call.result) return ended(`I do not know what became of the proposal to ${what}.`);
  const { json } = call.result;
  const reasons = Array.isArray(json.reasons) ? json.reasons.map(String).join(' ') : undefined;
  const reason = text(json.reason) ?? reasons;
  const because = reason ? ` The reason given: ${short(reason)}` : '';
  switch (json.status) {
    case 'done':
      return { kind: 'done', receipt: record(json.receipt) };
    case 'rejected':
    case 'changes_requested':
      return { kind: 'refused', reason };
    case 'denied':
      return ended(`Policy denies to ${what}, so it did not happen.${because}`);
    case 'expired':
      return ended(`Nobody decided in time whether to ${what}, so it did not happen.`);
    case 'superseded':
      return ended(
        `What I proposed (to ${what}) kept changing while it was reviewed; it did not happen.${because}`,
      );
    case 'withdrawn':
      return ended(`The request to ${what} was withdrawn; it did not happen.`);
    case 'revoked':
      return ended(`The approval to ${what} was taken back; it did not happen.${because}`);
    case 'failed':
      return ended(`I could not ${what}.${because}`);
    case 'unknown':
      return ended(
        `Whether it happened (to ${what}) is not known; a person has to look. I will not try again.`,
      );
    default:
      return ended(`The proposal to ${what} did not go through: ${short(call.result.text)}`);
  }
}

/** For every reason that no line of a script foresees. */
export function cannotActOn(what: string, reason: string | undefined): Reply {
  if (reason === undefined)
    return say(`The proposal to ${what} was rejected without a reason. I left it at that.`);
  if (/\b(wait|not (now|yet|today)|later|hold( off)?|tomorrow|never ?mind|leave it)\b/i.test(reason))
    return say(`Understood: I do not ${what}. Ask me again when it is time.`);
  return say(
    `The proposal to ${what} was rejected: ${short(reason)} I am a scripted model and cannot act on that reason; I left everything as it is.`,
  );
}

export function text(value: unknown): string | undefined {
  return typeof value === 'string' && value ? value : undefined;
}

export function short(words: string): string {
  return words.length > 300 ? `${words.slice(0, 300)}…` : words;
}

/** `3, 5 and 8`. */
export function list(items: readonly (string | number)[]): string {
  return items.length < 2 ? items.join('') : `${items.slice(0, -1).join(', ')} and ${items.at(-1)}`;
}

export function propose(words: string, name: string, input: Record<string, unknown>): Reply {
  return { text: words, calls: [{ name, input }] };
}
