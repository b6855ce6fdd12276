/**
 * Socket Mode in front of `ingest`, in the shape Bolt expects of a receiver: for installations that no request of
 * Slack's can reach. It keeps one connection that takes envelopes, hands each over and acknowledges it afterwards.
 *
 * Invariants: an envelope is acknowledged only after `ingest` said 200, which means stored, and on the connection that
 * carried it; whatever is not acknowledged Slack sends again, and a second delivery collapses on its key. A connection
 * that Slack is about to close keeps taking envelopes until its successor has been greeted. No frame, however odd, ends
 * the process.
 *
 * Why not Slack's own client: @slack/socket-mode 3.1.0, the newest that can be installed everywhere, ends the process on
 * an envelope whose payload has no event (its message handler rejects, and nobody catches), is without a connection for
 * five seconds and more at every refresh, and loses acknowledgements meanwhile (its release notes of 3.1.1 and 3.2.0).
 */
import { channel } from 'node:diagnostics_channel';
import type { Receiver } from '@slack/bolt';
import { CountersignError } from '../errors.ts';
import { type Logger, maskSecrets } from '../log.ts';
import type { IngestEnvelope } from './ingest.ts';

/** As for HTTP: Slack's envelopes stay far below. */
const MAX_FRAME_CHARS = 1_048_576;
/** From the address to `hello`. Slack greets within a second. */
const HELLO_DEADLINE_MS = 10_000;
/** Slack pings every few seconds; a connection this silent is dead, whatever TCP believes (FAULTS: noticed <= 30 s). */
const SILENCE_MS = 30_000;
const SILENCE_CHECK_MS = 5_000;
/** Slack closes a connection some ten seconds after its warning; one that it forgets is closed by us. */
const LEAVING_MS = 30_000;
/** First and longest pause between attempts to connect, each drawn at random up to it. */
const FIRST_RETRY_MS = 250;
const LONGEST_RETRY_MS = 30_000;
/** A connection that ends sooner counts as an attempt that failed: the next one waits. */
const BRIEF_MS = 5_000;
/** After this, `stop` no longer waits for what is being stored. */
const STOP_GRACE_MS = 5_000;
/** Envelopes being stored at a time; more are left to Slack, which sends them again. */
const MAX_IN_FLIGHT = 500;

/** Slack's word that no further attempt will change: the token or the app has to. */
const HOPELESS = new Set([
  'invalid_auth',
  'not_authed',
  'not_allowed_token_type',
  'account_inactive',
  'token_revoked',
  'token_expired',
  'team_disabled',
  'missing_scope',
  'no_permission',
  'access_denied',
]);

/** What opening a connection came to. */
export type OpenedSocket =
  | { readonly ok: true; readonly url: string }
  /** `error` is Slack's name, or what the network said. */
  | { readonly ok: false; readonly error: string; readonly retryAfterMs?: number };

export interface SocketReceiverOptions {
  readonly ingest: IngestEnvelope;
  /** Asks Slack for the address of one connection. Must not reject. */
  readonly open: () => Promise<OpenedSocket>;
  readonly log: Logger;
  /** Bounds in milliseconds for tests; defaults above. */
  readonly helloDeadlineMs?: number;
  readonly silenceMs?: number;
  readonly firstRetryMs?: number;
}

interface Connection {
  readonly socket: WebSocket;
  /** `greeting` until `hello`; `leaving` once Slack said that it will close it. */
  state: 'greeting' | 'open' | 'leaving' | 'closed';
  readonly openedAtMs: number;
  lastHeardAtMs: number;
  /** Ends the attempt that opened it: a peer that is gone never answers our close, and the platform then tells of none. */
  readonly over: () => void;
}

export class SocketReceiver implements Receiver {
  readonly #options: SocketReceiverOptions;
  readonly #connections = new Set<Connection>();
  readonly #inFlight = new Set<Promise<void>>();
  readonly #stopping = new AbortController();
  /** Set while an attempt, or the pause before one, is under way: there is never more than one. */
  #connecting: Promise<void> | undefined;
  #silence: NodeJS.Timeout | undefined;
  #failures = 0;
  #heardPing: ((message: unknown) => void) | undefined;
  /** Resolves at the first greeting; rejects when Slack says that there will never be one. */
  readonly #first = Promise.withResolvers<void>();

  constructor(options: SocketReceiverOptions) {
    this.#options = options;
    // Nobody may be waiting for it when it is settled.
    this.#first.promise.catch(() => {});
  }

  /** Bolt's hook. Nothing to keep: events go to Bolt from the inbox, by `Bot.route`. */
  init(): void {}

  /** True while a connection takes envelopes. For readiness. */
  get isConnected(): boolean {
    return [...this.#connections].some(({ state }) => state === 'open' || state === 'leaving');
  }

  /**
   * Connects and resolves once Slack has greeted us; keeps trying through trouble that may pass, for ever. Rejects with
   * SLACK_AUTH_FAILED when Slack refuses the token.
   */
  async start(): Promise<void> {
    // The platform's WebSocket answers pings by itself and tells of them only here.
    this.#heardPing = (message) => {
      const socket = (message as { websocket?: unknown } | null)?.websocket;
      for (const connection of this.#connections)
        if (connection.socket === socket) connection.lastHeardAtMs = Date.now();
    };
    channel(PINGS).subscribe(this.#heardPing);
    this.#silence = setInterval(
      () => this.#dropSilent(),
      Math.min(SILENCE_CHECK_MS, this.#options.silenceMs ?? SILENCE_MS),
    );
    this.#want();
    await this.#first.promise;
  }

  /** Takes no more, lets what is being stored be stored and acknowledged, then closes. Safe to call twice. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#first.reject(new Error('The receiver was stopped before Slack greeted it.'));
    clearInterval(this.#silence);
    if (this.#heardPing) channel(PINGS).unsubscribe(this.#heardPing);
    this.#heardPing = undefined;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, STOP_GRACE_MS);
    });
    await Promise.race([Promise.all([...this.#inFlight, this.#connecting]), late]);
    clearTimeout(timer);
    for (const connection of [...this.#connections]) this.#let(connection, 'stopped');
  }

  /** Makes sure that a connection is open or on its way. */
  #want(): void {
    if (this.#stopping.signal.aborted || this.#connecting !== undefined) return;
    if ([...this.#connections].some(({ state }) => state === 'open')) return;
    this.#connecting = this.#connect().finally(() => {
      this.#connecting = undefined;
      this.#want();
    });
  }

  /** One attempt, after the pause that earlier failures ask for. Never rejects. */
  async #connect(): Promise<void> {
    const { open, log, firstRetryMs = FIRST_RETRY_MS } = this.#options;
    if (this.#failures > 0)
      await this.#pause(
        Math.random() * Math.min(LONGEST_RETRY_MS, firstRetryMs * 2 ** Math.min(this.#failures, 20)),
      );
    if (this.#stopping.signal.aborted) return;
    const opened = await open();
    if (this.#stopping.signal.aborted) return;
    if (!opened.ok) {
      this.#failures += 1;
      const isHopeless = HOPELESS.has(opened.error);
      log[isHopeless ? 'error' : 'warn'](
        { reason: maskSecrets(opened.error).slice(0, 300), attempt: this.#failures },
        'no Socket Mode connection',
      );
      if (isHopeless)
        this.#first.reject(
          new CountersignError('SLACK_AUTH_FAILED', `Slack refused SLACK_APP_TOKEN: ${opened.error}`),
        );
      if (opened.retryAfterMs !== undefined) await this.#pause(opened.retryAfterMs);
      return;
    }
    if (await this.#greeted(opened.url)) this.#first.resolve();
    else this.#failures += 1;
  }

  /** How long it held says whether the next attempt may be made at once. */
  #judge(connection: Connection): void {
    if (connection.state !== 'open') return;
    this.#failures = Date.now() - connection.openedAtMs < BRIEF_MS ? this.#failures + 1 : 0;
  }

  /** Opens the address; true once Slack has said hello on it. */
  #greeted(url: string): Promise<boolean> {
    return new Promise((resolve) => {
      let socket: WebSocket;
      try {
        socket = new WebSocket(url);
      } catch (error) {
        // Slack sent something that is no address; it stays out of the log, it may hold a ticket.
        this.#options.log.warn({ err: nameOf(error) }, 'Slack gave no usable Socket Mode address');
        resolve(false);
        return;
      }
      const openedAtMs = Date.now();
      const over = (): void => settle(false);
      const connection: Connection = {
        socket,
        state: 'greeting',
        openedAtMs,
        lastHeardAtMs: openedAtMs,
        over,
      };
      this.#connections.add(connection);
      const deadline = setTimeout(
        () => this.#let(connection, 'no greeting'),
        this.#options.helloDeadlineMs ?? HELLO_DEADLINE_MS,
      );
      const settle = (isGreeted: boolean): void => {
        clearTimeout(deadline);
        this.#stopping.signal.removeEventListener('abort', over);
        resolve(isGreeted);
      };
      socket.addEventListener('message', ({ data }) => {
        connection.lastHeardAtMs = Date.now();
        if (this.#read(connection, data) === 'hello') settle(true);
      });
      // An error is always followed by a close.
      socket.addEventListener('error', () => {});
      socket.addEventListener('close', () => {
        this.#let(connection, 'closed');
      });
      // A stop while we wait must not wait for the deadline.
      this.#stopping.signal.addEventListener('abort', over);
    });
  }

  #read(connection: Connection, data: unknown): 'hello' | 'other' {
    const { log } = this.#options;
    if (typeof data !== 'string' || data.length > MAX_FRAME_CHARS) {
      log.warn({ code: 'BODY_TOO_LARGE' }, 'a Socket Mode frame was left alone');
      return 'other';
    }
    const frame = parse(data);
    if (frame?.type === 'hello') {
      if (connection.state === 'greeting') connection.state = 'open';
      return 'hello';
    }
    if (frame?.type === 'disconnect') {
      this.#leave(connection, frame.reason);
      return 'other';
    }
    const envelopeId = frame?.envelope_id;
    if (frame === undefined || typeof envelopeId !== 'string' || envelopeId.length > 200) {
      log.warn({ code: 'BODY_MALFORMED' }, 'a Socket Mode frame was left alone');
      return 'other';
    }
    if (this.#stopping.signal.aborted || this.#inFlight.size >= MAX_IN_FLIGHT) return 'other';
    const work = this.#take(connection, envelopeId, frame).finally(() => this.#inFlight.delete(work));
    this.#inFlight.add(work);
    return 'other';
  }

  /** Never rejects: `ingest` does not, and an acknowledgement that cannot be sent is one that Slack does not get. */
  async #take(
    connection: Connection,
    envelopeId: string,
    frame: Readonly<Record<string, unknown>>,
  ): Promise<void> {
    const { ingest, log } = this.#options;
    const result = await ingest(frame);
    if (result.outcome === 'refused') log.warn({ code: result.code }, 'envelope refused');
    if (result.outcome === 'unavailable')
      log.error({ err: result.cause }, 'envelope not stored, Slack will send it again');
    if (result.status !== 200 || connection.socket.readyState !== WebSocket.OPEN) return;
    const payload = typeof result.body === 'object' ? { payload: result.body } : {};
    connection.socket.send(JSON.stringify({ envelope_id: envelopeId, ...payload }));
  }

  /** Slack will close this one: a successor is opened first, and this one is read until its end. */
  #leave(connection: Connection, reason: unknown): void {
    if (connection.state === 'closed') return;
    const { log } = this.#options;
    const word = typeof reason === 'string' && /^\w{1,60}$/.test(reason) ? reason : 'unknown';
    // Switched off in the app's settings, or too many processes: people have to know. The rest is routine.
    const isRoutine = word === 'warning' || word === 'refresh_requested';
    log[isRoutine ? 'info' : 'error']({ reason: word }, 'Slack is closing a Socket Mode connection');
    if (connection.state === 'greeting') {
      this.#let(connection, word);
      return;
    }
    this.#judge(connection);
    connection.state = 'leaving';
    setTimeout(() => this.#let(connection, word), LEAVING_MS).unref();
    this.#want();
  }

  #dropSilent(): void {
    const silentSinceMs = Date.now() - (this.#options.silenceMs ?? SILENCE_MS);
    for (const connection of [...this.#connections])
      if (connection.state !== 'greeting' && connection.lastHeardAtMs < silentSinceMs) {
        this.#options.log.warn('a Socket Mode connection fell silent');
        this.#let(connection, 'silent');
      }
  }

  /** Lets go of a connection, whoever ended it; opens another where it was the last. */
  #let(connection: Connection, why: string): void {
    if (connection.state === 'closed') return;
    this.#judge(connection);
    connection.state = 'closed';
    this.#connections.delete(connection);
    this.#options.log.debug({ why }, 'Socket Mode connection over');
    connection.socket.close();
    connection.over();
    this.#want();
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      if (this.#stopping.signal.aborted) return resolve();
      const done = (): void => {
        clearTimeout(timer);
        this.#stopping.signal.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      this.#stopping.signal.addEventListener('abort', done);
    });
  }
}

/** Where the platform's WebSocket reports a ping: `{ websocket, payload }`. */
const PINGS = 'undici:websocket:ping';

function parse(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const frame: unknown = JSON.parse(text);
    return typeof frame === 'object' && frame !== null && !Array.isArray(frame)
      ? (frame as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}

function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : 'unknown';
}
