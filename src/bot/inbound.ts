/**
 * Reads what Slack sends, after its signature was found good. It hides the encodings (JSON events, form-encoded
 * interactions and commands, Socket Mode envelopes around all three) and which of them the product keeps.
 *
 * Invariant: `parseInbound` is total: any bytes give a result, none a throw. What it keeps is rebuilt field by field,
 * so that no shape Bolt stumbles over, no `response_url` and no token ever reaches the database; and every string of
 * it can be stored (no NUL, no lone surrogate).
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import type { JsonObject, WorkspaceId } from '../types.ts';

export interface InboundRow {
  readonly workspaceId: WorkspaceId;
  /** The same for every delivery of one thing; unique within the workspace. */
  readonly dedupeKey: string;
  readonly source: 'event' | 'interaction' | 'command';
  readonly payload: JsonObject;
}

export type Inbound =
  | { readonly kind: 'row'; readonly row: InboundRow }
  | { readonly kind: 'challenge'; readonly challenge: string }
  /** Slack means well and we have no use for it: an unknown event type, a bot's message, an edit. */
  | { readonly kind: 'ignored' }
  /** Not something Slack sends: what and where, for the operator; no value of it. */
  | { readonly kind: 'malformed'; readonly what: string };

/** Real payloads nest about ten deep (blocks in a message); deeper ones would exhaust recursive readers. */
const MAX_DEPTH = 64;

const IGNORED: Inbound = { kind: 'ignored' };

function malformed(what: string): Inbound {
  return { kind: 'malformed', what };
}

/** The fields at fault, by their names in our schemas: names that the sender made up (of a form's fields) are not repeated. */
function misshapen(what: string, error: z.ZodError): Inbound {
  const fields = error.issues.map(({ path }) => path.filter((part) => isOurName(part)).join('.'));
  return malformed(`${what}: ${[...new Set(fields)].slice(0, 5).join(', ')}`);
}

function isOurName(part: PropertyKey): boolean {
  return typeof part === 'number' || (typeof part === 'string' && /^[a-z_]{1,40}$/.test(part));
}

/**
 * Ids of people, channels, teams and enterprises, in the one form Slack makes them. Strict because Bolt keeps its
 * clients in an object under the team id: `toString` would be found there.
 */
const slackId = z.string().regex(/^[A-Z0-9]{1,64}$/);
const optionalSlackId = slackId.nullish();
/** Other ids (events, triggers, views): short, and nothing in them a log line or a key could trip over. */
const id = z.string().regex(/^[\w.:-]{1,200}$/);
const timestamp = z.string().regex(/^\d{1,16}\.\d{1,9}$/);
const shortText = z.string().max(4_000);

const message = z.object({
  type: z.enum(['app_mention', 'message']),
  user: slackId,
  /** Home team of the author; differs from the workspace for people from elsewhere. */
  user_team: optionalSlackId,
  team: optionalSlackId,
  channel: slackId,
  channel_type: z.string().max(40).nullish(),
  ts: timestamp,
  thread_ts: timestamp.nullish(),
  text: z.string().max(100_000).nullish(),
});
export const messageEnvelope = z.object({
  type: z.literal('event_callback'),
  team_id: optionalSlackId,
  enterprise_id: optionalSlackId,
  event_id: id,
  event_time: z.number().nullish(),
  authorizations: z
    .array(
      z.object({
        team_id: optionalSlackId,
        enterprise_id: optionalSlackId,
        user_id: optionalSlackId,
        is_enterprise_install: z.boolean().nullish(),
      }),
    )
    .max(100)
    .nullish(),
  event: message,
});

/** What Slack says of the installation itself. */
export const installationEnvelope = messageEnvelope.extend({
  event: z.object({
    type: z.enum(['app_uninstalled', 'tokens_revoked']),
    tokens: z.object({ bot: z.array(slackId).max(1_000).nullish() }).nullish(),
  }),
});

const interactionBase = {
  team: z.object({ id: slackId }).nullish(),
  enterprise: z.object({ id: slackId }).nullish(),
  is_enterprise_install: z.boolean().nullish(),
  user: z.object({ id: slackId, team_id: optionalSlackId }),
  trigger_id: id.nullish(),
};
const view = z.object({
  id,
  hash: id.nullish(),
  callback_id: z.string().max(255).nullish(),
  private_metadata: shortText.nullish(),
  /** Where the app is installed that opened it. `team` is where the person is from when they came through a shared channel. */
  app_installed_team_id: optionalSlackId,
});
export const blockActions = z.object({
  type: z.literal('block_actions'),
  ...interactionBase,
  trigger_id: id,
  container: z
    .object({ channel_id: optionalSlackId, message_ts: timestamp.nullish(), thread_ts: timestamp.nullish() })
    .nullish(),
  channel: z.object({ id: slackId }).nullish(),
  message: z.object({ ts: timestamp, thread_ts: timestamp.nullish() }).nullish(),
  view: view.nullish(),
  actions: z
    .array(
      z.object({
        type: z.string().max(80).nullish(),
        action_id: z.string().min(1).max(255),
        block_id: z.string().max(255).nullish(),
        action_ts: id,
        value: shortText.nullish(),
      }),
    )
    .min(1)
    .max(25),
});
export const viewSubmission = z.object({
  type: z.literal('view_submission'),
  ...interactionBase,
  view: view.extend({
    state: z
      .object({
        values: z.record(
          z.string().max(255),
          z.record(z.string().max(255), z.object({ type: z.string().max(80), value: shortText.nullish() })),
        ),
      })
      .nullish(),
  }),
});
export const command = z.object({
  command: z.string().regex(/^\/[\w-]{1,40}$/),
  text: shortText,
  team_id: optionalSlackId,
  enterprise_id: optionalSlackId,
  is_enterprise_install: z.enum(['true', 'false']).nullish(),
  user_id: slackId,
  channel_id: slackId,
  trigger_id: id,
});

export type Command = z.infer<typeof command>;
export type InstallationEnvelope = z.infer<typeof installationEnvelope>;
export type MessageEnvelope = z.infer<typeof messageEnvelope>;
export type BlockActions = z.infer<typeof blockActions>;
export type ViewSubmission = z.infer<typeof viewSubmission>;

/**
 * Total. `contentType` decides the encoding: form when it says so, JSON otherwise.
 * Repeat safety: pure; the same bytes give the same key.
 */
export function parseInbound(rawBody: Uint8Array, contentType: string): Inbound {
  const text = decodeUtf8(rawBody);
  if (text === undefined) return malformed('no UTF-8');
  if (!/^application\/x-www-form-urlencoded\b/i.test(contentType.trim())) return parseEvent(parseJson(text));

  const form = parseForm(text);
  if (form === undefined) return malformed('no form');
  const payload = form.get('payload');
  if (payload !== undefined) return parseInteraction(parseJson(payload));
  if (form.get('ssl_check') === '1') return IGNORED;
  if (form.has('command')) return parseCommand(form);
  return malformed('a form of no known kind');
}

/** Total, like `parseInbound`: the same thing gives the same row whichever way it came. */
export function parseEnvelope(envelope: unknown): Inbound {
  // The payload by itself, so that it may be as deep here as in a request.
  if (!isRecord(envelope) || !isStorable(envelope.payload)) return malformed('no envelope');
  const { payload } = envelope;
  switch (envelope.type) {
    case 'events_api':
      return parseEvent(payload);
    case 'interactive':
      return parseInteraction(payload);
    case 'slash_commands':
      return isRecord(payload) && Object.values(payload).every((value) => typeof value === 'string')
        ? parseCommand(new Map(Object.entries(payload as Record<string, string>)))
        : malformed('slash_commands');
    default:
      // A kind that Slack adds tomorrow.
      return typeof envelope.type === 'string' ? IGNORED : malformed('an envelope without a type');
  }
}

function decodeUtf8(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

/** `undefined` for anything that is not JSON of storable strings and bounded depth. */
function parseJson(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text);
    return isStorable(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Iterative on purpose: the depth it guards against would overflow a recursive walk. */
function isStorable(root: unknown): boolean {
  const open: { value: unknown; depth: number }[] = [{ value: root, depth: 0 }];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { value, depth } = next;
    if (typeof value === 'string') {
      if (!isStorableText(value)) return false;
    } else if (typeof value === 'object' && value !== null) {
      if (depth >= MAX_DEPTH) return false;
      for (const [key, member] of Object.entries(value)) {
        if (key === '__proto__' || !isStorableText(key)) return false;
        open.push({ value: member, depth: depth + 1 });
      }
    }
  }
  return true;
}

function isStorableText(text: string): boolean {
  return !text.includes('\0') && text.isWellFormed();
}

/** Strict where URLSearchParams is not: bad percent sequences, bad UTF-8, repeated names and `__proto__` are refused. */
function parseForm(text: string): ReadonlyMap<string, string> | undefined {
  const form = new Map<string, string>();
  for (const pair of text.split('&')) {
    if (pair === '') continue;
    const equals = pair.indexOf('=');
    try {
      const name = decodeURIComponent((equals < 0 ? pair : pair.slice(0, equals)).replaceAll('+', ' '));
      const value = equals < 0 ? '' : decodeURIComponent(pair.slice(equals + 1).replaceAll('+', ' '));
      if (form.has(name) || name === '__proto__' || !isStorableText(name) || !isStorableText(value))
        return undefined;
      form.set(name, value);
    } catch {
      return undefined;
    }
  }
  return form;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function parseEvent(body: unknown): Inbound {
  if (!isRecord(body)) return malformed('no JSON object');
  if (body.type === 'url_verification') {
    const challenge = body.challenge;
    return typeof challenge === 'string' && challenge.length <= 1_000
      ? { kind: 'challenge', challenge }
      : malformed('url_verification: challenge');
  }
  if (body.type === 'app_rate_limited') return IGNORED;
  if (body.type !== 'event_callback')
    return typeof body.type === 'string' ? IGNORED : malformed('a body without a type');

  const event = body.event;
  if (!isRecord(event) || typeof event.type !== 'string') return malformed('event_callback: event.type');
  const isOfInstallation = event.type === 'app_uninstalled' || event.type === 'tokens_revoked';
  if (!isOfInstallation && !isWanted(event)) return IGNORED;
  const parsed = (isOfInstallation ? installationEnvelope : messageEnvelope).safeParse(body);
  // One of ours: every other type was ignored above.
  if (!parsed.success) return misshapen(event.type, parsed.error);
  const { authorizations, team_id, enterprise_id } = parsed.data;
  // The installation the event was sent to; `team_id` alone may be another workspace in a shared channel.
  const installed = authorizations?.[0];
  const workspaceId = installed
    ? installation(installed.is_enterprise_install, installed.team_id, installed.enterprise_id)
    : (team_id ?? enterprise_id);
  return row(workspaceId, `event:${parsed.data.event_id}`, 'event', parsed.data);
}

/**
 * Subtypes that are new words all the same (docs.slack.dev/reference/events/message): with a file, as `/me`, and a reply that is shown in the
 * channel, too.
 */
const WORDS_OF_PEOPLE: ReadonlySet<unknown> = new Set(['file_share', 'me_message', 'thread_broadcast']);

/**
 * People's new messages only: a mention in a channel, or anything in a direct message. A mention also arrives as a
 * message (in a channel) or not at all (in a direct message), so that each kind is taken from one place. Bots, our own
 * messages among them, and every subtype that is not somebody's new words (edits, deletions, joins) are left out.
 *
 * Not asked for on purpose: `channel_archive`, `channel_deleted` and `channel_left` of a place where requests wait. They would
 * need the scopes channels:read and groups:read, which show every channel's name and purpose, and tell nothing that the next
 * post to that place does not: Slack refuses it for good, and the request goes to its owner. People who are deactivated
 * likewise: authority is read at each click.
 */
function isWanted(event: Record<string, unknown>): boolean {
  if (event.bot_id != null || event.bot_profile != null) return false;
  if (event.subtype != null && !WORDS_OF_PEOPLE.has(event.subtype)) return false;
  if (event.edited != null || event.hidden === true) return false;
  const inDirectMessage =
    event.channel_type === 'im' || (typeof event.channel === 'string' && event.channel.startsWith('D'));
  if (event.type === 'app_mention') return !inDirectMessage;
  return event.type === 'message' && inDirectMessage;
}

function parseInteraction(body: unknown): Inbound {
  if (!isRecord(body) || typeof body.type !== 'string') return malformed('an interaction without a type');
  if (body.type === 'block_actions') {
    const parsed = blockActions.safeParse(body);
    if (!parsed.success) return misshapen(body.type, parsed.error);
    const [action] = parsed.data.actions;
    if (action === undefined) return malformed('block_actions: actions');
    const key = `interaction:${parsed.data.trigger_id}:${action.action_ts}:${action.action_id}`;
    return row(workspaceOf(parsed.data), key, 'interaction', parsed.data);
  }
  if (body.type === 'view_submission') {
    const parsed = viewSubmission.safeParse(body);
    if (!parsed.success) return misshapen(body.type, parsed.error);
    const { view: sent, user } = parsed.data;
    // What was typed is part of it: a form that was not taken is still open, and comes again with better words under the same hash.
    const words = createHash('sha256')
      .update(JSON.stringify(sent.state ?? null))
      .digest('base64url');
    const key = `interaction:${sent.id}:${sent.hash ?? ''}:${user.id}:${words}`;
    return row(workspaceOf(parsed.data), key, 'interaction', parsed.data);
  }
  return IGNORED;
}

function parseCommand(form: ReadonlyMap<string, string>): Inbound {
  const parsed = command.safeParse({ text: '', ...Object.fromEntries(form) });
  if (!parsed.success) return misshapen('a slash command', parsed.error);
  const { is_enterprise_install, team_id, enterprise_id, trigger_id } = parsed.data;
  const workspaceId = installation(is_enterprise_install === 'true', team_id, enterprise_id);
  return row(workspaceId, `command:${trigger_id}`, 'command', parsed.data);
}

function workspaceOf(body: BlockActions | ViewSubmission): string | null | undefined {
  const teamId = body.view?.app_installed_team_id ?? body.team?.id ?? body.user.team_id;
  return installation(body.is_enterprise_install, teamId, body.enterprise?.id);
}

/** An org-wide installation is one workspace of ours, whichever of its teams the request came from. */
function installation(
  isEnterpriseInstall: boolean | null | undefined,
  teamId: string | null | undefined,
  enterpriseId: string | null | undefined,
): string | null | undefined {
  return isEnterpriseInstall === true ? (enterpriseId ?? teamId) : (teamId ?? enterpriseId);
}

function row(
  workspaceId: string | null | undefined,
  dedupeKey: string,
  source: InboundRow['source'],
  payload: object,
): Inbound {
  if (workspaceId == null || workspaceId === '') return malformed(`${source}: no workspace`);
  if (dedupeKey.length > 1_000) return malformed(`${source}: an id that is too long`);
  // Absent and null become the same, absent: Bolt reads `channel: null` as a channel and throws.
  const kept = JSON.stringify(payload, (_, value: unknown) => (value === null ? undefined : value));
  return {
    kind: 'row',
    row: { workspaceId, dedupeKey, source, payload: JSON.parse(kept) as JsonObject },
  };
}
