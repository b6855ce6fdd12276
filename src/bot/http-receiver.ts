/**
 * The HTTP server in front of `ingest`, in the shape Bolt expects of a receiver. It reads bytes within bounds of size
 * and time, hands them over and sends the answer; Bolt sees an event only later, from its stored row.
 *
 * Invariants: no request, however slow, large or odd, holds more than its bound or ends the process; connections that
 * send nothing of Slack's make room for those that do, however many there are (crowd.ts).
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Receiver } from '@slack/bolt';
import type { Logger } from '../log.ts';
import { maskedJson } from '../secrets.ts';
import { Crowd } from './crowd.ts';
import { carriesSignature, type Ingest } from './ingest.ts';

/** Slack's events stay far below; the limit is for everybody else. */
const MAX_BODY_BYTES = 1_048_576;
const HEADERS_DEADLINE_MS = 5_000;
/** From the first byte of a request to its last. */
const REQUEST_DEADLINE_MS = 10_000;
/** How often Node looks for connections past a deadline; its own default of 30 s would make the bounds above idle. */
const DEADLINE_CHECK_MS = 1_000;
/** Slack opens some dozens. Far below what an operating system lets a process open, and for proven connections alone. */
const MAX_CONNECTIONS = 2_000;
/** The longest-waiting of these makes room: together they hold some 30 MB at most, apart from bodies. */
const MAX_UNPROVEN = 500;
/** Sixty of the longest bodies at once, or thousands of Slack's. */
const MAX_HELD_BYTES = 64 * 1_048_576;
/** Of a body that bears no signature: a certificate check has 100 bytes, and a person who tries the address by hand is told why not. */
const MAX_UNSIGNED_BYTES = 4_096;
/** Most of Slack's bodies fit; doubled as it grows, whatever length was declared: declaring costs nothing. */
const FIRST_HELD_BYTES = 8_192;
/** A flood of connections or requests must not become a flood of log lines. */
const TELL_EVERY_MS = 10_000;
/** A readiness answer that takes longer is a no. */
const READY_DEADLINE_MS = 3_000;
/** Whoever asks, and however often: the database is asked once in so long. */
const READY_FOR_MS = 1_000;
/** After this, `stop` no longer waits for open requests. */
const STOP_GRACE_MS = 5_000;

export interface HttpReceiverOptions {
  /** Null in Socket Mode: only health and readiness are served. */
  readonly ingest: Ingest | null;
  /** For GET /readyz. A rejection counts as not ready. `detail` is shown to whoever asks; what looks like a credential in it is masked. */
  readonly ready: () => Promise<{ readonly ok: boolean; readonly detail: object }>;
  readonly log: Logger;
  /** Default `3000`; `0` takes a free port. */
  readonly port?: number;
  /** Default: every interface. */
  readonly host?: string;
  /** Bounds in milliseconds for tests; defaults above. */
  readonly headersDeadlineMs?: number;
  readonly requestDeadlineMs?: number;
  /** Most connections that have not carried a signed request, for tests; default `500`. */
  readonly maxUnproven?: number;
  /** Most bytes of bodies on their way, for tests; default 64 MiB. */
  readonly maxHeldBytes?: number;
}

interface ReadyAnswer {
  readonly status: number;
  readonly body: object;
}

export class HttpReceiver implements Receiver {
  readonly #options: HttpReceiverOptions;
  readonly #crowd: Crowd;
  readonly #tell: Readonly<Record<'crowded' | 'full' | 'refused', (detail: object) => void>>;
  /** Set between `start` and `stop`. */
  #server: Server | undefined;
  /** The newest answer, or the question under way. */
  #ready: Promise<ReadyAnswer> | undefined;

  constructor(options: HttpReceiverOptions) {
    this.#options = options;
    const { maxUnproven = MAX_UNPROVEN, maxHeldBytes = MAX_HELD_BYTES } = options;
    const { log } = options;
    this.#tell = {
      crowded: sparingly(log, 'crowded: connections that send nothing of Slack make room'),
      full: sparingly(log, 'no room for another connection'),
      refused: sparingly(log, 'request refused'),
    };
    this.#crowd = new Crowd({
      maxUnproven,
      maxHeldBytes,
      onEvicted: (evictedCount) => this.#tell.crowded({ evictedCount }),
    });
  }

  /** Bolt's hook. Nothing to keep: events go to Bolt from the inbox, by `Bot.route`. */
  init(): void {}

  /** Listens and resolves with the address in use. */
  async start(): Promise<AddressInfo> {
    const { headersDeadlineMs = HEADERS_DEADLINE_MS, requestDeadlineMs = REQUEST_DEADLINE_MS } =
      this.#options;
    const server = createServer(
      {
        headersTimeout: headersDeadlineMs,
        requestTimeout: requestDeadlineMs,
        connectionsCheckingInterval: Math.min(DEADLINE_CHECK_MS, headersDeadlineMs),
        keepAliveTimeout: 5_000,
        maxHeaderSize: 16_384,
      },
      (request, response) => {
        this.#handle(request, response).catch((error: unknown) => {
          // A request cut off while it was read ends here: there is nobody left to answer.
          this.#options.log.debug({ err: error }, 'request ended early');
          response.destroy();
        });
      },
    );
    server.maxConnections = MAX_CONNECTIONS;
    server.on('connection', (socket) => this.#crowd.enter(socket));
    server.on('drop', () => this.#tell.full({ most: MAX_CONNECTIONS }));
    this.#server = server;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ port: this.#options.port ?? 3000, host: this.#options.host }, () => {
        server.off('error', reject);
        resolve();
      });
    });
    return server.address() as AddressInfo;
  }

  /** Takes no more connections, lets open requests finish, then closes. Safe to call twice. */
  async stop(): Promise<void> {
    const server = this.#server;
    if (server === undefined) return;
    this.#server = undefined;
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    server.closeIdleConnections();
    const timer = setTimeout(() => server.closeAllConnections(), STOP_GRACE_MS);
    await closed;
    clearTimeout(timer);
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = (request.url ?? '').split('?', 1)[0];
    switch (path) {
      case '/slack/events':
        if (this.#options.ingest === null) return answer(response, 404, '');
        if (request.method !== 'POST') return refuseMethod(response, 'POST');
        return this.#events(this.#options.ingest, request, response);
      case '/healthz':
        if (request.method !== 'GET') return refuseMethod(response, 'GET');
        return answer(response, 200, { ok: true });
      case '/readyz':
        if (request.method !== 'GET') return refuseMethod(response, 'GET');
        return this.#readiness(response);
      default:
        return answer(response, 404, '');
    }
  }

  async #events(ingest: Ingest, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { socket } = request;
    const isSigned = carriesSignature(request.headersDistinct);
    const body = await this.#read(request, isSigned ? MAX_BODY_BYTES : MAX_UNSIGNED_BYTES);
    if (body === undefined) {
      // What says itself that it is too long for anybody is told that; else nobody reads on for what bears no signature.
      const isTooLong = isSigned || declaredLength(request) > MAX_BODY_BYTES;
      this.#tell.refused({ code: isTooLong ? 'BODY_TOO_LARGE' : 'SIGNATURE_INVALID' });
      // The rest of the body is not read: the connection cannot be used again.
      response.setHeader('connection', 'close');
      answer(response, isTooLong ? 413 : 401, '');
      request.resume().once('error', () => {});
      response.once('finish', () => request.destroy());
      return;
    }
    let isProven = false;
    const result = await ingest(body, request.headersDistinct, () => {
      isProven = true;
      this.#crowd.prove(socket);
    });
    // Whoever does not sign is not waited for again.
    if (!isProven) response.setHeader('connection', 'close');
    if (result.outcome === 'refused')
      this.#tell.refused({ code: result.code, why: result.why, bytes: body.length });
    if (result.outcome === 'unavailable')
      this.#options.log.error({ err: result.cause }, 'request not stored, Slack will send it again');
    // While stopping: a connection kept for another request would only be waited for.
    if (this.#server === undefined) response.setHeader('connection', 'close');
    answer(response, result.status, result.body);
  }

  /** The whole body, or `undefined` once it passes `limit`. Rejects when the sender goes away. */
  #read(request: IncomingMessage, limit: number): Promise<Buffer | undefined> {
    if (declaredLength(request) > limit) return Promise.resolve(undefined);
    const { socket } = request;
    return new Promise<Buffer | undefined>((resolve, reject) => {
      // Copied together at once: a body sent byte by byte would leave an object for each of them.
      let held = Buffer.allocUnsafe(0);
      let length = 0;
      const grow = (needed: number): void => {
        const room = Math.min(limit, Math.max(needed, FIRST_HELD_BYTES, held.length * 2));
        this.#crowd.hold(socket, room - held.length);
        const larger = Buffer.allocUnsafeSlow(room);
        held.copy(larger, 0, 0, length);
        held = larger;
      };
      const onData = (part: Buffer): void => {
        if (length + part.length > limit) {
          request.off('data', onData);
          resolve(undefined);
          return;
        }
        if (length + part.length > held.length) grow(length + part.length);
        part.copy(held, length);
        length += part.length;
      };
      request.on('data', onData);
      request.once('end', () => resolve(held.subarray(0, length)));
      request.once('error', reject);
      request.once('close', () => reject(new Error('The sender closed the connection.')));
    }).finally(() => this.#crowd.release(socket));
  }

  async #readiness(response: ServerResponse): Promise<void> {
    if (this.#ready === undefined) {
      this.#ready = this.#askReady();
      await this.#ready;
      setTimeout(() => {
        this.#ready = undefined;
      }, READY_FOR_MS).unref();
    }
    const { status, body } = await this.#ready;
    answer(response, status, body);
  }

  /** Never rejects. */
  async #askReady(): Promise<ReadyAnswer> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<{ ok: boolean; detail: object }>((resolve) => {
      timer = setTimeout(
        () => resolve({ ok: false, detail: { reason: `no answer within ${READY_DEADLINE_MS} ms` } }),
        READY_DEADLINE_MS,
      );
    });
    try {
      const { ok, detail } = await Promise.race([this.#options.ready(), late]);
      return { status: ok ? 200 : 503, body: maskedJson({ ok, ...detail }) };
    } catch (error) {
      this.#options.log.error({ err: error }, 'readiness check failed');
      return { status: 503, body: { ok: false } };
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Logs the first of these at once, then at most one line in `TELL_EVERY_MS`, with how many went unsaid. */
function sparingly(log: Logger, words: string): (detail: object) => void {
  let toldAtMs = Number.NEGATIVE_INFINITY;
  let unsaidCount = 0;
  return (detail) => {
    if (performance.now() - toldAtMs < TELL_EVERY_MS) {
      unsaidCount += 1;
      return;
    }
    log.warn(unsaidCount === 0 ? detail : { ...detail, unsaidCount }, words);
    toldAtMs = performance.now();
    unsaidCount = 0;
  };
}

/** What the request says of its length; 0 when it says nothing (a chunked body). */
function declaredLength(request: IncomingMessage): number {
  return Number(request.headers['content-length'] ?? 0);
}

function answer(response: ServerResponse, status: number, body: string | object): void {
  const isText = typeof body === 'string';
  response.writeHead(status, {
    'content-type': isText ? 'text/plain; charset=utf-8' : 'application/json; charset=utf-8',
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  });
  response.end(isText ? body : JSON.stringify(body));
}

function refuseMethod(response: ServerResponse, allowed: string): void {
  response.setHeader('allow', allowed);
  answer(response, 405, '');
}
