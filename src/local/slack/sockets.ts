/**
 * Socket Mode as Slack serves it: a ticket from `apps.connections.open`, a WebSocket that opens with `hello`, envelopes
 * that the app acknowledges by id, and a `disconnect` message before Slack closes a connection.
 *
 * Invariants: a ticket opens one connection, once; each envelope goes to one connection, in turn; only an
 * acknowledgement on the connection that carried the envelope counts; a connection that was told to go gets no more.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { type WebSocket, WebSocketServer } from 'ws';
import { APP_ID } from './seed.ts';
import { isRecord, type Json } from './types.ts';

/** Slack takes an unanswered envelope for lost after as long as an unanswered request. */
const ACK_TIMEOUT_MS = 3_000;
const TICKET_LIFE_MS = 30_000;
/** Slack's limit for one app, docs.slack.dev/apis/events-api/using-socket-mode, read November 2026. */
export const CONNECTIONS_MAX = 10;
const PING_EVERY_MS = 5_000;
/** What apps send is an acknowledgement with at most a view in it. */
const FRAME_MAX_BYTES = 1_048_576;

export type DisconnectReason = 'warning' | 'refresh_requested' | 'link_disabled' | 'too_many_websockets';

/** From the `disconnect` message to the end of the connection: a warning is given some ten seconds ahead. */
const CLOSE_AFTER_MS: Record<DisconnectReason, number> = {
  warning: 10_000,
  refresh_requested: 2_000,
  link_disabled: 0,
  too_many_websockets: 0,
};

export interface Envelope {
  readonly type: 'events_api' | 'interactive' | 'slash_commands';
  readonly payload: unknown;
  /** Whether what the app puts into its acknowledgement is looked at. */
  readonly acceptsAnswer: boolean;
  /** For a redelivered event. */
  readonly retry?: { readonly count: number; readonly reason: string };
}

export interface SocketAck {
  /** `no_connection`, `http_timeout`, `connection_failed`; absent when acknowledged. */
  readonly reason?: string;
  readonly ackMs: number;
  /** JSON of the acknowledgement's payload; empty when there is none or none was asked for. */
  readonly body: string;
}

/** One open connection as the control API shows it. */
export interface SeenSocket {
  readonly id: string;
  readonly isLeaving: boolean;
  /** Envelopes sent on it so far. */
  readonly sentCount: number;
  readonly unansweredCount: number;
}

interface Connection {
  readonly id: string;
  readonly socket: WebSocket;
  readonly pending: Map<string, (frame: Json | undefined) => void>;
  sentCount: number;
  isLeaving: boolean;
  /** When it last got an envelope, as a counter: the one that waited longest is next. */
  lastTurn: number;
}

export class Sockets {
  readonly #server = new WebSocketServer({ noServer: true, maxPayload: FRAME_MAX_BYTES });
  readonly #tickets = new Map<string, number>();
  readonly #connections = new Set<Connection>();
  readonly #onReady: () => void;
  readonly #timers = new Set<NodeJS.Timeout>();
  #turn = 0;

  /** `onReady` is called whenever a connection has been greeted: what waited can go out. */
  constructor(onReady: () => void) {
    this.#onReady = onReady;
  }

  /** The address for one connection; `origin` without a trailing slash. */
  ticketUrl(origin: string): string {
    const now = Date.now();
    for (const [ticket, expiresAtMs] of this.#tickets) if (expiresAtMs < now) this.#tickets.delete(ticket);
    const ticket = randomBytes(16).toString('hex');
    this.#tickets.set(ticket, now + TICKET_LIFE_MS);
    return `${origin.replace(/^http/, 'ws')}/link/?ticket=${ticket}&app_id=${APP_ID}`;
  }

  /** For the HTTP server's `upgrade` event. Anything without a good ticket is refused. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const url = URL.parse(request.url ?? '/', 'http://world.invalid');
    const ticket = url?.searchParams.get('ticket') ?? '';
    const expiresAtMs = url?.pathname === '/link/' ? this.#tickets.get(ticket) : undefined;
    this.#tickets.delete(ticket);
    socket.on('error', () => socket.destroy());
    if (expiresAtMs === undefined || expiresAtMs < Date.now()) {
      socket.end('HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n');
      return;
    }
    this.#server.handleUpgrade(request, socket, head, (opened) => this.#greet(opened));
  }

  list(): SeenSocket[] {
    return [...this.#connections].map(({ id, isLeaving, sentCount, pending }) => ({
      id,
      isLeaving,
      sentCount,
      unansweredCount: pending.size,
    }));
  }

  /** Sends to the connection whose turn it is and reports its acknowledgement; never throws. */
  send(envelope: Envelope): Promise<SocketAck> {
    const [connection] = [...this.#connections]
      .filter(({ isLeaving }) => !isLeaving)
      .sort((one, other) => one.lastTurn - other.lastTurn);
    if (!connection) return Promise.resolve({ reason: 'no_connection', ackMs: 0, body: '' });
    connection.lastTurn = ++this.#turn;
    connection.sentCount += 1;
    const envelopeId = randomUUID();
    const startedAt = performance.now();
    const ackMs = (): number => Math.round(performance.now() - startedAt);
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        connection.pending.delete(envelopeId);
        resolve({ reason: 'http_timeout', ackMs: ackMs(), body: '' });
      }, ACK_TIMEOUT_MS);
      connection.pending.set(envelopeId, (frame) => {
        clearTimeout(timer);
        connection.pending.delete(envelopeId);
        resolve({
          ...(frame === undefined ? { reason: 'connection_failed' } : {}),
          ackMs: ackMs(),
          body: envelope.acceptsAnswer ? answerIn(frame) : '',
        });
      });
      connection.socket.send(
        JSON.stringify({
          envelope_id: envelopeId,
          type: envelope.type,
          payload: envelope.payload,
          accepts_response_payload: envelope.acceptsAnswer,
          ...(envelope.type === 'events_api'
            ? { retry_attempt: envelope.retry?.count ?? 0, retry_reason: envelope.retry?.reason ?? '' }
            : {}),
        }),
      );
    });
  }

  /** Puts any text on one connection, as it is: what no Slack should send, for tests of the app. */
  sendRaw(frame: string, id?: string): number {
    const chosen = this.#chosen(id);
    for (const { socket } of chosen) socket.send(frame);
    return chosen.length;
  }

  /** Tells one connection, or all, to go, and closes it `closeAfterMs` later (default: Slack's own pace). */
  disconnect(reason: DisconnectReason, options: { id?: string; closeAfterMs?: number } = {}): number {
    const chosen = this.#chosen(options.id);
    for (const connection of chosen)
      this.#tell(connection, reason, options.closeAfterMs ?? CLOSE_AFTER_MS[reason]);
    return chosen.length;
  }

  /** Cuts one connection, or all, without a word, as a network does. */
  cut(id?: string): number {
    const chosen = this.#chosen(id);
    for (const { socket } of chosen) socket.terminate();
    return chosen.length;
  }

  close(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    for (const { socket } of this.#connections) socket.terminate();
    this.#server.close();
  }

  #chosen(id: string | undefined): Connection[] {
    return [...this.#connections].filter((connection) => id === undefined || connection.id === id);
  }

  #greet(socket: WebSocket): void {
    const connection: Connection = {
      id: randomUUID(),
      socket,
      pending: new Map(),
      sentCount: 0,
      isLeaving: false,
      lastTurn: 0,
    };
    const pings = setInterval(() => socket.ping(), PING_EVERY_MS);
    this.#timers.add(pings);
    this.#connections.add(connection);
    socket.on('error', () => socket.terminate());
    socket.on('message', (data, isBinary) => {
      const frame = isBinary ? undefined : parse(String(data));
      const envelopeId = frame?.envelope_id;
      if (frame && typeof envelopeId === 'string') connection.pending.get(envelopeId)?.(frame);
    });
    socket.on('close', () => {
      clearInterval(pings);
      this.#timers.delete(pings);
      this.#connections.delete(connection);
      for (const settle of [...connection.pending.values()]) settle(undefined);
    });
    if (this.#connections.size > CONNECTIONS_MAX) {
      this.#tell(connection, 'too_many_websockets', CLOSE_AFTER_MS.too_many_websockets);
      return;
    }
    socket.send(
      JSON.stringify({
        type: 'hello',
        num_connections: this.#connections.size,
        debug_info: { host: 'applink-local', build_number: 1, approximate_connection_time: 18_060 },
        connection_info: { app_id: APP_ID },
      }),
    );
    this.#onReady();
  }

  #tell(connection: Connection, reason: DisconnectReason, closeAfterMs: number): void {
    connection.isLeaving = true;
    connection.socket.send(
      JSON.stringify({ type: 'disconnect', reason, debug_info: { host: 'applink-local' } }),
    );
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      connection.socket.close(1000);
    }, closeAfterMs);
    this.#timers.add(timer);
  }
}

function parse(text: string): Json | undefined {
  try {
    const frame: unknown = JSON.parse(text);
    return isRecord(frame) ? frame : undefined;
  } catch {
    return undefined;
  }
}

/** The SDKs send an empty object where they have nothing to say. */
function answerIn(frame: Json | undefined): string {
  const payload = frame?.payload;
  return isRecord(payload) && Object.keys(payload).length > 0 ? JSON.stringify(payload) : '';
}
