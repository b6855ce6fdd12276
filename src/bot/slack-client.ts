/**
 * Slack's Web API client as we run it, and what its failures mean to us.
 *
 * Invariant: the client never repeats a call by itself: it would post twice when an answer was lost. Whether to try
 * again is decided by whoever owns the delivery, from the code of the error.
 */
import {
  type LogLevel,
  type Logger as SlackLogger,
  WebAPIPlatformError,
  WebAPIRateLimitedError,
  WebClient,
  type WebClientOptions,
} from '@slack/web-api';
import { CountersignError, DeliveryAnswered, DeliveryRefused, type RefusedFor } from '../errors.ts';
import { type Logger, maskSecrets } from '../log.ts';
import type { Fetch } from '../types.ts';
import type { OpenedSocket } from './socket-receiver.ts';

/** Slack answers in well under a second; what takes this long will not answer. */
export const CALL_TIMEOUT_MS = 10_000;

export interface SlackClientOptions {
  readonly botToken: string;
  /** Default Slack's own. */
  readonly slackApiUrl?: string;
  readonly log: Logger;
  readonly fetch?: Fetch;
}

export function clientOptions(options: Omit<SlackClientOptions, 'botToken'>): WebClientOptions {
  return {
    ...(options.slackApiUrl === undefined ? {} : { slackApiUrl: options.slackApiUrl }),
    fetch: withoutRedirects(options.fetch ?? globalThis.fetch),
    retryConfig: { retries: 0 },
    rejectRateLimitedCalls: true,
    // A method name that is an address would carry the token there.
    allowAbsoluteUrls: false,
    timeout: CALL_TIMEOUT_MS,
    logger: slackLogger(options.log),
  };
}

/** Wherever a redirect led, the token or the message would go along. Slack's API sends none. */
function withoutRedirects(fetch: Fetch): typeof globalThis.fetch {
  return ((input, init) => fetch(input, { ...init, redirect: 'error' })) as typeof globalThis.fetch;
}

export function createClient(options: SlackClientOptions): WebClient {
  return new WebClient(options.botToken, clientOptions(options));
}

/**
 * Asks Slack for the address of one Socket Mode connection, with the app-level token. Never rejects: trouble is told as
 * Slack's error name, or what the network said, with the pause Slack asked for.
 */
export function socketOpener(
  options: Omit<SlackClientOptions, 'botToken'> & { readonly appToken: string },
): () => Promise<OpenedSocket> {
  const { appToken, ...rest } = options;
  const client = new WebClient(appToken, clientOptions(rest));
  // Where we ask over TLS we also listen over TLS; only a stand-in on this machine speaks plainly.
  const wanted = (rest.slackApiUrl ?? 'https:').startsWith('https:') ? /^wss:/ : /^wss?:/;
  return async () => {
    try {
      const { url } = await client.apps.connections.open({});
      return url !== undefined && wanted.test(url) ? { ok: true, url } : { ok: false, error: 'no address' };
    } catch (error) {
      const failed = deliveryError('apps.connections.open', error);
      return {
        ok: false,
        error: slackErrorName(error) ?? failed.message,
        ...(failed.retryAfterMs === undefined ? {} : { retryAfterMs: failed.retryAfterMs }),
      };
    }
  };
}

/** Slack's libraries write whole requests at debug level; that level stays off whatever ours is. */
export function slackLogger(log: Logger): SlackLogger {
  const words = (parts: unknown[]): string =>
    parts.map((part) => (part instanceof Error ? part.message : String(part))).join(' ');
  return {
    debug: () => {},
    info: (...parts) => log.debug({ from: 'slack' }, words(parts)),
    warn: (...parts) => log.warn({ from: 'slack' }, words(parts)),
    error: (...parts) => log.error({ from: 'slack' }, words(parts)),
    setLevel: () => {},
    getLevel: () => 'info' as LogLevel,
    setName: () => {},
  };
}

/**
 * Errors that the same call will meet again, by what has to change first. From the error tables of the methods we call,
 * docs.slack.dev/reference/methods, read November 2026. What is not listed here may pass: it is tried a few times.
 */
const PERMANENT: Readonly<Record<Exclude<RefusedFor, 'gone'>, readonly string[]>> = {
  place: [
    'channel_not_found',
    'not_in_channel',
    'is_archived',
    'channel_is_archived',
    'channel_type_not_supported',
    'method_not_supported_for_channel_type',
    'user_not_in_channel',
    'user_not_found',
    'users_not_found',
    'user_not_visible',
    'user_disabled',
    'cannot_dm_bot',
    'thread_not_found',
    'message_not_found',
    'cannot_reply_to_message',
    'restricted_action',
    'restricted_action_read_only_channel',
    'restricted_action_thread_only_channel',
    'restricted_action_non_threadable_channel',
    'restricted_action_thread_locked',
    'messages_tab_disabled',
    'file_uploads_disabled',
    'file_uploads_except_images_disabled',
    'bad_timestamp',
    'no_item_specified',
    'too_many_emoji',
    'too_many_reactions',
    'invalid_name',
    // Of the app rather than of the place: another call may still be allowed.
    'missing_scope',
    'no_permission',
    'not_allowed_token_type',
    'access_denied',
    'enterprise_is_restricted',
    'unknown_method',
    'deprecated_endpoint',
    'method_deprecated',
  ],
  fixed: ['cant_update_message', 'edit_window_closed'],
  message: [
    'msg_too_long',
    'msg_blocks_too_long',
    'no_text',
    'invalid_blocks',
    'invalid_blocks_format',
    'invalid_arguments',
    'invalid_arg_name',
    'invalid_array_arg',
    'invalid_charset',
    'invalid_form_data',
    'invalid_post_type',
    'missing_post_type',
    'invalid_metadata_format',
    'invalid_metadata_schema',
    'metadata_too_large',
    'metadata_must_be_sent_from_app',
    'file_upload_size_restricted',
  ],
  credential: [
    'invalid_auth',
    'not_authed',
    'accesslimited',
    'account_inactive',
    'token_revoked',
    'token_expired',
    'ekm_access_denied',
    'team_access_not_granted',
    'team_not_found',
    'org_login_required',
    'two_factor_setup_required',
  ],
};
const REFUSED_FOR: ReadonlyMap<string, RefusedFor> = new Map(
  (['place', 'fixed', 'message', 'credential'] as const).flatMap((why) =>
    PERMANENT[why].map((name) => [name, why] as const),
  ),
);

/** Slack's own trouble, in which the call may have done what it was for. From the same tables. */
const TROUBLE: ReadonlySet<string> = new Set([
  'internal_error',
  'fatal_error',
  'service_unavailable',
  'request_timeout',
  'unknown_error',
]);
/** A pause that Slack asks for in an answer instead of by 429. */
const LIMITED: ReadonlySet<string> = new Set(['ratelimited', 'rate_limited']);
/** Whatever Slack says: a pause of nothing would be no pause. */
const MIN_PAUSE_SECONDS = 1;

/** Slack's own name of a failure, or undefined when Slack gave none. */
export function slackErrorName(error: unknown): string | undefined {
  return error instanceof WebAPIPlatformError ? String(error.data.error) : undefined;
}

/**
 * Says what a failed call to `method` means: DELIVERY_REFUSED for good, else DELIVERY_FAILED; with `retryAfterMs` only where Slack took
 * nothing, as `DeliveryAnswered` for a word that is not listed.
 */
export function deliveryError(method: string, error: unknown): CountersignError {
  if (error instanceof CountersignError) return error;
  if (error instanceof WebAPIRateLimitedError)
    return new CountersignError('DELIVERY_FAILED', `${method}: rate limited`, {
      cause: error,
      retryAfterMs: Math.max(MIN_PAUSE_SECONDS, error.retryAfter) * 1_000,
    });
  const name = slackErrorName(error);
  if (name !== undefined) {
    // The message to be edited is not there any more; to a reaction or a reply that only means that its place is gone.
    const refusedFor =
      method === 'chat.update' && name === 'message_not_found' ? 'gone' : REFUSED_FOR.get(name);
    if (refusedFor !== undefined) return new DeliveryRefused(`${method}: ${name}`, refusedFor, error);
    if (LIMITED.has(name))
      return new CountersignError('DELIVERY_FAILED', `${method}: ${name}`, {
        cause: error,
        retryAfterMs: retryAfterOf(error) * 1_000,
      });
    // The client puts a whole answer here when it was not JSON.
    if (!/^[\w.-]{1,80}$/.test(name))
      return new CountersignError('DELIVERY_FAILED', `${method}: an answer that is not JSON`, {
        cause: error,
      });
    return TROUBLE.has(name)
      ? new CountersignError('DELIVERY_FAILED', `${method}: ${name}`, { cause: error })
      : new DeliveryAnswered(`${method}: ${name}`, error);
  }
  const message = error instanceof Error ? error.message : String(error);
  return new CountersignError('DELIVERY_FAILED', `${method}: ${maskSecrets(message).slice(0, 300)}`, {
    cause: error,
  });
}

function retryAfterOf(error: unknown): number {
  const seconds: unknown =
    error instanceof WebAPIPlatformError ? error.data.response_metadata?.retryAfter : undefined;
  return Math.max(MIN_PAUSE_SECONDS, typeof seconds === 'number' ? seconds : 0);
}
