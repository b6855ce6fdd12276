/**
 * The HTTP server in front of `ingest`, in the shape Bolt expects of a receiver. It reads bytes within bounds of size
 * and time, hands them over and sends the answer; Bolt sees an event only later, from its stored row.
 *
 * Invariant: no request, however slow, large or odd, holds more than its bound or ends the process.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Receiver } from '@slack/bolt';
import type { Logger } from '../log.ts';
import { maskedJson } from '../secrets.ts';
import type { Ingest } from './ingest.ts';

/** Slack's events stay far below; the limit is for everybody else. */
const MAX_BODY_BYTES = 1_048_576;
const HEADERS_DEADLINE_MS = 5_000;
/** From the first byte of a request to its last. */
const REQUEST_DEADLINE_MS = 10_000;
/** How often Node looks for connections past a deadline; its own default of 30 s would make the bounds above idle. */
const DEADLINE_CHECK_MS = 1_000;
const MAX_CONNECTIONS = 500;
/** A readiness answer that takes longer is a no. */
const READY_DEADLINE_MS = 3_000;
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
}

export class HttpReceiver implements Receiver {
  readonly #options: HttpReceiverOptions;
  /** Set between `start` and `stop`. */
  #server: Server | undefined;

  constructor(options: HttpReceiverOptions) {
    this.#options = options;
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
    const body = await readBody(request);
    if (body === undefined) {
      this.#options.log.warn({ code: 'BODY_TOO_LARGE' }, 'request refused');
      // The rest of the body is not read: the connection cannot be used again.
      response.setHeader('connection', 'close');
      answer(response, 413, '');
      request.resume().once('error', () => {});
      response.once('finish', () => request.destroy());
      return;
    }
    const result = await ingest(body, request.headersDistinct);
    if (result.outcome === 'refused')
      this.#options.log.warn({ code: result.code, bytes: body.length }, 'request refused');
    if (result.outcome === 'unavailable')
      this.#options.log.error({ err: result.cause }, 'request not stored, Slack will send it again');
    // While stopping: a connection kept for another request would only be waited for.
    if (this.#server === undefined) response.setHeader('connection', 'close');
    answer(response, result.status, result.body);
  }

  async #readiness(response: ServerResponse): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<{ ok: boolean; detail: object }>((resolve) => {
      timer = setTimeout(
        () => resolve({ ok: false, detail: { reason: `no answer within ${READY_DEADLINE_MS} ms` } }),
        READY_DEADLINE_MS,
      );
    });
    try {
      const { ok, detail } = await Promise.race([this.#options.ready(), late]);
      answer(response, ok ? 200 : 503, maskedJson({ ok, ...detail }));
    } catch (error) {
      this.#options.log.error({ err: error }, 'readiness check failed');
      answer(response, 503, { ok: false });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** The whole body, or `undefined` once it passes the limit. Rejects when the sender goes away. */
function readBody(request: IncomingMessage): Promise<Buffer | undefined> {
  if (Number(request.headers['content-length'] ?? 0) > MAX_BODY_BYTES) return Promise.resolve(undefined);
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = [];
    let length = 0;
    const onData = (part: Buffer): void => {
      length += part.length;
      if (length > MAX_BODY_BYTES) {
        request.off('data', onData);
        resolve(undefined);
        return;
      }
      parts.push(part);
    };
    request.on('data', onData);
    request.once('end', () => resolve(Buffer.concat(parts)));
    request.once('error', reject);
    request.once('close', () => reject(new Error('The sender closed the connection.')));
  });
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
