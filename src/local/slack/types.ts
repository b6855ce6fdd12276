/**
 * The nouns of the local Slack: what its one state object holds.
 *
 * Everything here is plain JSON, because the whole of it is written to disk before any answer leaves. Field names
 * are Slack's own wherever the value also travels over the wire, ours (camelCase) where it does not.
 */

export type Json = Record<string, unknown>;

export interface SlackUser {
  readonly id: string;
  readonly team_id: string;
  readonly name: string;
  deleted: boolean;
  is_bot: boolean;
  is_restricted: boolean;
  is_ultra_restricted: boolean;
  is_stranger: boolean;
  is_admin: boolean;
  tz: string;
  tz_offset: number;
}

export interface SlackChannel {
  readonly id: string;
  name: string;
  readonly is_im: boolean;
  is_archived: boolean;
  readonly created: number;
  /** User ids. A direct message has exactly two. */
  members: string[];
}

export interface Reaction {
  name: string;
  users: string[];
}

export interface SlackMessage {
  readonly channel: string;
  readonly ts: string;
  readonly user: string;
  readonly bot_id?: string;
  text: string;
  blocks?: Json[];
  attachments?: Json[];
  files?: Json[];
  metadata?: Json;
  thread_ts?: string;
  /** Set when a threaded reply is also shown in the channel. */
  broadcast?: boolean;
  edited?: { user: string; ts: string };
  reactions: Reaction[];
  /** Present on an ephemeral message: the only person who sees it. */
  audience?: string;
  /** A deleted message that still has replies stays as a tombstone; without replies it is removed. */
  tombstone?: boolean;
  /** Present while the app streams into it. */
  streaming?: StreamState;
  /** Earlier block sets, newest first: a person may still press a button that an edit has just taken away. */
  wasBlocks?: Json[][];
}

export interface StreamState {
  readonly startedAtMs: number;
  /** Everything streamed so far, in order, as the blocks it is shown as. */
  blocks: Json[];
  /** Set when a person pressed Stop. */
  isStopped?: boolean;
}

export interface OpenView {
  readonly id: string;
  readonly user: string;
  /** What the app sent, with block ids filled in. */
  view: Json;
  hash: string;
  readonly rootId: string;
  readonly previousId: string | null;
  /** `home` views belong to the person's App Home and are never in the modal stack. */
  readonly type: 'modal' | 'home';
  /** What the person has entered: block id → action id → Slack's state value. */
  values: Record<string, Record<string, Json>>;
}

export interface Trigger {
  readonly id: string;
  readonly user: string;
  readonly expiresAtMs: number;
  used: boolean;
  /** The view the interaction came from: `views.push` goes on top of it. */
  readonly viewId?: string;
}

export interface ResponseUrl {
  readonly id: string;
  readonly channel: string;
  readonly user: string;
  /** The message the interaction came from; none for a slash command. */
  readonly messageTs?: string;
  readonly threadTs?: string;
  readonly expiresAtMs: number;
  usesLeft: number;
}

export interface DeliveryAttempt {
  readonly atMs: number;
  /** HTTP status, or 0 when no answer came. */
  readonly status: number;
  readonly durationMs: number;
  readonly reason?: string;
}

export interface EventDelivery {
  readonly eventId: string;
  readonly eventType: string;
  /** The exact bytes signed and posted; every redelivery sends the same. */
  readonly body: string;
  status: 'pending' | 'delivered' | 'given_up';
  /** Attempts counted towards Slack's schedule; a delivery with no app connected counts none. */
  attempts: DeliveryAttempt[];
  dueAtMs: number;
}

export type FaultKind =
  /** 429 with `Retry-After: retryAfterSec`, nothing performed. */
  | 'rate_limited'
  /** HTTP `status` (default 503), nothing performed. */
  | 'server_error'
  /** `{ok: false, error}`, nothing performed. */
  | 'error'
  /** The connection is cut, nothing performed. */
  | 'drop_before'
  /** Performed and stored, then the connection is cut: the caller cannot know. */
  | 'drop_after'
  /** Waits `delayMs`, then performs. */
  | 'delay'
  /** Performs, then waits `delayMs` before the answer. */
  | 'delay_after';

export interface Fault {
  /** A Web API method name, or `*`. */
  readonly method: string;
  readonly kind: FaultKind;
  /** How many more calls it hits. */
  times: number;
  /** Only calls whose `channel` argument is this one. */
  readonly channel?: string;
  readonly retryAfterSec?: number;
  readonly status?: number;
  readonly error?: string;
  readonly delayMs?: number;
}

export interface StoredFile {
  readonly id: string;
  readonly name: string;
  readonly length: number;
  title?: string;
  uploaded: boolean;
  completed: boolean;
}

export interface OAuthCode {
  readonly code: string;
  /** Who pressed Allow. */
  readonly user: string;
  readonly scope: string;
  /** As asked for; null when the request named none. */
  readonly redirectUri: string | null;
  readonly expiresAtMs: number;
}

export interface SlackData {
  readonly format: 1;
  /** The last timestamp given out, in microseconds since the epoch: the next one is always greater. */
  lastTsMicros: number;
  lastId: number;
  eventsUrl: string | null;
  subscriptions: string[];
  /** Events and interactions go over the app's WebSockets, whatever `eventsUrl` says. Absent in older files: no. */
  socketMode?: boolean;
  /** Events are kept back until `/control/release`. Absent: no. */
  isHolding?: boolean;
  /** Codes given out by the authorize page. Absent in older files: none. */
  oauthCodes?: OAuthCode[];
  users: SlackUser[];
  channels: SlackChannel[];
  messages: SlackMessage[];
  ephemerals: SlackMessage[];
  views: OpenView[];
  triggers: Trigger[];
  responseUrls: ResponseUrl[];
  deliveries: EventDelivery[];
  faults: Fault[];
  files: StoredFile[];
  /** State of select menus and checkboxes inside messages, per `user:channel:ts`. */
  inputs: Record<string, Record<string, Record<string, Json>>>;
  /** How far people have read, per `user:channel` and `user:channel:thread`; absent in a state from before. */
  reads?: Record<string, string>;
}

/** One Web API call as it was received; `calls.jsonl` holds one per line. */
export interface ApiCall {
  readonly atMs: number;
  readonly method: string;
  readonly args: Json;
  /** Whether the method was carried out, even if its answer never reached the caller. */
  readonly performed: boolean;
  /** HTTP status sent, or 0 when the connection was cut. */
  readonly status: number;
  readonly ok: boolean;
  readonly error?: string;
  /** The message timestamp in the answer, where there is one. */
  readonly ts?: string;
  readonly fault?: FaultKind;
}

export function isRecord(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function records(value: unknown): Json[] {
  return Array.isArray(value) ? value.filter(isRecord) : [];
}

export function text(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}
