/**
 * The door: from raw bytes, or a Socket Mode envelope, to a stored row. It hides Slack's request signature and decides
 * every answer; the two receivers differ only in how they carry it.
 *
 * Invariants: nothing of a request is parsed before its signature was found good (an envelope comes over a connection
 * that our own token opened); 200 to something we want means that it is on disk (or was already); what cannot be stored
 * is answered 503, so that Slack sends it again. Nothing here throws.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { CountersignError, type ErrorCode } from '../errors.ts';
import type { Deadline } from '../types.ts';
import { type Inbound, type InboundRow, parseEnvelope, parseInbound } from './inbound.ts';

/**
 * Joins no transaction of the caller: it commits before it resolves. Throws when the row cannot be stored. After `deadline` nothing is to be stored
 * any more.
 */
export type StoreInbox = (row: InboundRow, deadline: Deadline) => Promise<'stored' | 'duplicate'>;

export interface IngestResult {
  /** `certificate_check`: the one request of Slack's that bears no signature. */
  readonly outcome:
    | 'stored'
    | 'duplicate'
    | 'ignored'
    | 'mended'
    | 'challenge'
    | 'certificate_check'
    | 'refused'
    | 'unavailable';
  readonly status: number;
  /** Empty for everything but a challenge and a form to be mended; an empty 200 to a modal's submission closes it. */
  readonly body: string | object;
  /** For the log, when refused: what, and why in a few words that hold nothing of the request. */
  readonly code?: ErrorCode;
  readonly why?: string;
  /** What the store threw, when unavailable. */
  readonly cause?: unknown;
}

/** Node's `headers` or `headersDistinct`; only the latter tells one header from two. */
export type InboundHeaders = Readonly<Record<string, string | readonly string[] | undefined>>;

/** Never rejects. Calls `signed` at once when the signature is good, before anything is stored. */
export type Ingest = (
  rawBody: Uint8Array,
  headers: InboundHeaders,
  signed?: () => void,
) => Promise<IngestResult>;

/** Takes one envelope as it was sent, `{ type, payload, envelope_id, … }`. A status of 200 is to be acknowledged. Never rejects. */
export type IngestEnvelope = (envelope: unknown) => Promise<IngestResult>;

export interface StoreOptions {
  readonly store: StoreInbox;
  /**
   * What a submitted form is answered instead of being taken (`response_action: errors`); null takes it. Pure: it sees
   * the row alone and must not throw.
   */
  readonly mend?: (row: InboundRow) => object | null;
  /**
   * Bound on storing, default `900`: whoever cannot store says so within a second (FAULTS), and Slack sends it again.
   * What is being committed at that moment and stands after all is met by that delivery.
   */
  readonly storeTimeoutMs?: number;
}

export interface IngestOptions extends StoreOptions {
  /** The current signing secret, then older ones still valid while rotating. Each at least 16 characters. */
  readonly signingSecrets: readonly [string, ...string[]];
  /** Seconds since the epoch. */
  readonly nowSeconds: () => number;
}

/** Slack's own secrets have 32 characters; anything this short is a slip or a guess. */
const MIN_SECRET_LENGTH = 16;
/** Slack's rule for replays, here in both directions: a clock ahead of ours is as wrong as one behind. */
const MAX_SKEW_SECONDS = 300;

/** See `storeTimeoutMs`; whatever stores gives its statement up soon after. */
export const STORE_TIMEOUT_MS = 900;

/** Throws CONFIG_INVALID for a missing or short secret. */
export function createIngest(options: IngestOptions): Ingest {
  const secrets: readonly string[] = options.signingSecrets;
  if (
    secrets.length === 0 ||
    secrets.some((secret) => typeof secret !== 'string' || secret.trim().length < MIN_SECRET_LENGTH)
  )
    throw new CountersignError(
      'CONFIG_INVALID',
      `SLACK_SIGNING_SECRET must have at least ${MIN_SECRET_LENGTH} characters.`,
    );
  return async (rawBody, headers, signed) => {
    const why = unsignedBecause(rawBody, headers, secrets, options.nowSeconds());
    if (why !== null) {
      if (isSslCheck(rawBody, headers)) return { outcome: 'certificate_check', status: 200, body: '' };
      return { outcome: 'refused', status: 401, body: '', code: 'SIGNATURE_INVALID', why };
    }
    signed?.();
    return settle(parseInbound(rawBody, single(headers['content-type']) ?? ''), options);
  };
}

/** The same door for Socket Mode: everything but the signature. */
export function createEnvelopeIngest(options: StoreOptions): IngestEnvelope {
  return async (envelope) => settle(parseEnvelope(envelope), options);
}

async function settle(inbound: Inbound, options: StoreOptions): Promise<IngestResult> {
  switch (inbound.kind) {
    case 'malformed':
      return { outcome: 'refused', status: 400, body: '', code: 'BODY_MALFORMED', why: inbound.what };
    case 'ignored':
      return { outcome: 'ignored', status: 200, body: '' };
    case 'challenge':
      return { outcome: 'challenge', status: 200, body: { challenge: inbound.challenge } };
    case 'row': {
      const mended = options.mend?.(inbound.row) ?? null;
      if (mended !== null) return { outcome: 'mended', status: 200, body: mended };
      try {
        const outcome = await within(
          (deadline) => options.store(inbound.row, deadline),
          options.storeTimeoutMs ?? STORE_TIMEOUT_MS,
        );
        return { outcome, status: 200, body: '' };
      } catch (cause) {
        return { outcome: 'unavailable', status: 503, body: '', cause };
      }
    }
    default:
      return inbound satisfies never;
  }
}

function single(header: string | readonly string[] | undefined): string | undefined {
  if (typeof header === 'string') return header;
  return header?.length === 1 ? header[0] : undefined;
}

/** Slack's two headers in their exact form, each there once; `undefined` otherwise. Says nothing about whether they are true. */
function signatureHeaders(
  headers: InboundHeaders,
): { readonly timestamp: string; readonly signature: string } | undefined {
  const timestamp = single(headers['x-slack-request-timestamp']);
  const signature = single(headers['x-slack-signature']);
  if (timestamp === undefined || !/^[1-9]\d{0,15}$/.test(timestamp)) return undefined;
  if (signature === undefined || !/^v0=[0-9a-f]{64}$/.test(signature)) return undefined;
  return { timestamp, signature };
}

/** True when a body could turn out to be signed: without these headers nobody needs to read it. Pure. */
export function carriesSignature(headers: InboundHeaders): boolean {
  return signatureHeaders(headers) !== undefined;
}

/** Why a request does not count as Slack's, for the log; null when it does. */
function unsignedBecause(
  rawBody: Uint8Array,
  headers: InboundHeaders,
  secrets: readonly string[],
  nowSeconds: number,
): string | null {
  const given = signatureHeaders(headers);
  if (given === undefined) return "Slack's two headers are missing or malformed";
  const { timestamp } = given;
  const skewSeconds = nowSeconds - Number(timestamp);
  // Negated so that a clock that gives NaN refuses.
  if (!(Math.abs(skewSeconds) <= MAX_SKEW_SECONDS))
    return `its timestamp is ${Math.round(skewSeconds)} s behind this clock, which may be wrong`;

  const signature = Buffer.from(given.signature.slice('v0='.length), 'hex');
  let good = false;
  // Every secret is tried, whichever matches: the time tells nothing about which one did.
  for (const secret of secrets) {
    const expected = createHmac('sha256', secret).update(`v0:${timestamp}:`).update(rawBody).digest();
    if (timingSafeEqual(expected, signature)) good = true;
  }
  return good ? null : 'no signing secret of ours fits: not from Slack, or the secret of another app';
}

/**
 * Slack checks certificates with an unsigned form that carries nothing else. Compared as bytes, answered, no effect.
 */
function isSslCheck(rawBody: Uint8Array, headers: InboundHeaders): boolean {
  if (headers['x-slack-signature'] !== undefined || rawBody.length > 200) return false;
  return /^(?:token=\w{0,100}&)?ssl_check=1(?:&token=\w{0,100})?$/.test(
    Buffer.from(rawBody).toString('latin1'),
  );
}

async function within<T>(work: (deadline: Deadline) => Promise<T>, timeoutMs: number): Promise<T> {
  const given = new AbortController();
  const endsAt = performance.now() + timeoutMs;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const error = new Error(`The inbox row was not stored within ${timeoutMs} ms.`);
      given.abort(error);
      // In a process that was held up the answer may have come in time and lie unread: it is read between timers and this.
      setImmediate(reject, error);
    }, timeoutMs);
  });
  try {
    return await Promise.race([
      work({ signal: given.signal, leftMs: () => endsAt - performance.now() }),
      late,
    ]);
  } finally {
    clearTimeout(timer);
  }
}
