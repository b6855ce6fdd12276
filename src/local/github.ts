/**
 * The local GitHub: a stand-in that speaks GitHub's REST API to the real Octokit, on loopback.
 *
 * Hides: the `emulate` package, its defects (see github/pulls.ts), persistence, and the faults that tests order.
 * Invariants: only the given token is served; a write is on disk (fsync and rename) before its reply leaves, or it did
 * not happen; requests are performed one after the other, so the saved state is always one that existed.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import path from 'node:path';
import { type Emulated, openEmulator, type Snapshot } from './github/emulator.ts';
import { Faults, type Write } from './github/faults.ts';
import { type Api, Pulls } from './github/pulls.ts';
import { age, PEOPLE, seed } from './github/seed.ts';

export interface LocalGitHub {
  /** For Octokit's `baseUrl`. */
  readonly apiUrl: string;
  readonly port: number;
  /** Ends held replies and open connections. Repeatable. */
  close(): Promise<void>;
}

export interface LocalGitHubOptions {
  /** `github.json` in here holds everything; a missing file means a first start with the seeded `acme/shop`. */
  readonly stateDir: string;
  /** Default: the port of last time when it is free, else any. */
  readonly port?: number;
  /** The one credential that is served. */
  readonly token: string;
  /** Called after each change is on disk; must not throw. */
  readonly onSaved?: () => void;
}

interface Saved {
  readonly version: 1;
  readonly port: number;
  readonly store: Snapshot;
  readonly writes: readonly Write[];
  readonly nextSeq: number;
}

/** GitHub accepts larger files; nothing here needs them. */
const MAX_BODY_BYTES = 10 * 1024 * 1024;
/** The list of writes is saved with every write: bounded, the oldest go first, `seq` shows the gap. */
const MAX_WRITES = 5_000;
const MAX_LISTED_BODY_CHARS = 10_000;
/** emulate counts 5,000 requests per token and hour and then refuses; the inner token changes before that. */
const REQUESTS_PER_INNER_TOKEN = 4_000;
const READS = new Set(['GET', 'HEAD', 'OPTIONS']);

/** Starts the stand-in on 127.0.0.1, restoring what was saved. One process per state folder at a time. */
export async function startLocalGitHub(options: LocalGitHubOptions): Promise<LocalGitHub> {
  if (!options.token) throw new Error('startLocalGitHub needs a token: it serves nobody without one.');
  await mkdir(options.stateDir, { recursive: true });
  const file = path.join(options.stateDir, 'github.json');
  const saved = await load(file);

  let world: World | null = null;
  const server = createServer((request, response) => {
    if (world) void world.handle(request, response);
    else response.writeHead(503).end();
  });
  const port = await listen(server, options.port ?? saved?.port ?? 0, options.port === undefined);
  const apiUrl = `http://127.0.0.1:${port}`;
  try {
    world = await World.open({
      file,
      saved,
      port,
      apiUrl,
      token: options.token,
      onSaved: options.onSaved ?? (() => {}),
    });
  } catch (error) {
    server.close();
    throw error;
  }
  const opened = world;
  return {
    apiUrl,
    port,
    close: async () => {
      opened.faults.clear();
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
      await opened.idle();
    },
  };
}

class World {
  readonly faults = new Faults();
  readonly #file: string;
  readonly #port: number;
  readonly #apiUrl: string;
  readonly #tokenHash: Buffer;
  readonly #emulated: Emulated;
  readonly #onSaved: () => void;
  readonly #pulls: Pulls;
  #writes: Write[];
  #nextSeq: number;
  #requestCount = 0;
  /** The end of the queue of requests; never rejects. */
  #tail: Promise<unknown> = Promise.resolve();

  private constructor(start: Start, emulated: Emulated) {
    this.#file = start.file;
    this.#port = start.port;
    this.#apiUrl = start.apiUrl;
    this.#tokenHash = hash(start.token);
    this.#emulated = emulated;
    this.#onSaved = start.onSaved;
    this.#pulls = new Pulls(emulated.store, this.#as('countersign-bot'));
    this.#writes = [...(start.saved?.writes ?? [])];
    this.#nextSeq = start.saved?.nextSeq ?? 1;
  }

  static async open(start: Start): Promise<World> {
    const logins = PEOPLE.github.users.map((user) => user.login);
    const tokens = Object.fromEntries(logins.map((login) => [`as-${login}`, { login }]));
    const world = new World(start, await openEmulator(start.apiUrl, { tokens, ...PEOPLE }));
    const { store } = world.#emulated;
    if (start.saved) {
      store.restore(start.saved.store);
    } else {
      await seed((login) => world.#as(login));
      await world.#pulls.refresh();
      const snapshot = structuredClone(store.snapshot());
      age(snapshot, Date.now());
      store.restore(snapshot);
    }
    await world.#save();
    return world;
  }

  /** Resolves when nothing is being performed any more. */
  async idle(): Promise<void> {
    await this.#tail;
  }

  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const left = new AbortController();
    response.once('close', () => left.abort());
    try {
      const url = new URL(request.url ?? '/', this.#apiUrl);
      const method = request.method ?? 'GET';
      const body = await readBody(request);
      if (body === null) return send(response, json(413, { message: 'Payload too large' }));
      if (!this.#authorised(request)) {
        const message = request.headers.authorization ? 'Bad credentials' : 'Requires authentication';
        return send(
          response,
          json(401, { message, documentation_url: 'https://docs.github.com/rest', status: '401' }),
        );
      }
      if (url.pathname.startsWith('/_control/'))
        return send(response, this.#control(method, url.pathname, body));
      if (url.pathname.startsWith('/_emulate/')) return send(response, json(404, { message: 'Not Found' }));

      const fault = await this.faults.take(method, url.pathname);
      const performs = fault?.kind !== 'drop-before' && fault?.kind !== 'status';
      const reply = await this.#inTurn(async () => {
        if (performs) return await this.#perform(method, url, body, request.headers, fault?.kind ?? null);
        const status = fault.kind === 'status' ? (fault.status ?? 503) : null;
        if (!READS.has(method)) {
          this.#list({ method, path: url.pathname, body, status, performed: false, fault: fault.kind });
          await this.#save();
        }
        return json(status ?? 503, { message: 'Ordered by a test' });
      });
      if (fault?.kind === 'drop-before' || fault?.kind === 'drop-after') {
        request.socket.destroy();
        return;
      }
      if (fault?.kind === 'hold') await this.faults.hold(left.signal);
      send(response, reply);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      if (response.headersSent) response.destroy();
      else send(response, json(500, { message: `Local GitHub failed: ${message}` }));
    }
  }

  /** Performs one request, and for a write saves before returning. A failure to save undoes the write. */
  async #perform(
    method: string,
    url: URL,
    body: Buffer,
    headers: IncomingMessage['headers'],
    fault: Write['fault'],
  ): Promise<Reply> {
    const write = !READS.has(method);
    const before = write ? structuredClone(this.#emulated.store.snapshot()) : null;
    const listedBefore = { writes: [...this.#writes], nextSeq: this.#nextSeq };
    try {
      const own = await this.#pulls.answer(method, url.pathname, url.searchParams, parsed(body));
      const reply = own ? json(own.status, own.json) : await this.#forward(method, url, body, headers);
      if (write) {
        await this.#pulls.refresh();
        this.#list({ method, path: url.pathname, body, status: reply.status, performed: true, fault });
        await this.#save();
      }
      return reply;
    } catch (error) {
      if (before) {
        this.#emulated.store.restore(before);
        this.#writes = listedBefore.writes;
        this.#nextSeq = listedBefore.nextSeq;
      }
      throw error;
    }
  }

  async #forward(
    method: string,
    url: URL,
    body: Buffer,
    headers: IncomingMessage['headers'],
  ): Promise<Reply> {
    this.#requestCount += 1;
    // Unknown to the emulator, which then acts as its first user: the bot.
    const inner = `inner-${Math.floor(this.#requestCount / REQUESTS_PER_INNER_TOKEN)}`;
    const passed = new Headers({ authorization: `token ${inner}` });
    for (const name of ['accept', 'content-type'] as const)
      if (headers[name]) passed.set(name, headers[name]);
    const init: RequestInit = { method, headers: passed };
    if (!READS.has(method)) init.body = new Uint8Array(body);
    const response = await this.#emulated.fetch(
      new Request(`${this.#apiUrl}${url.pathname}${url.search}`, init),
    );
    return {
      status: response.status,
      headers: Object.fromEntries(response.headers),
      body: Buffer.from(await response.arrayBuffer()),
    };
  }

  #as(login: string): Api {
    return async (method, target, body) => {
      const init: RequestInit = {
        method,
        headers: { authorization: `token as-${login}`, 'content-type': 'application/json' },
      };
      if (body !== undefined) init.body = JSON.stringify(body);
      const response = await this.#emulated.fetch(new Request(`${this.#apiUrl}${target}`, init));
      const text = await response.text();
      return { status: response.status, json: text ? JSON.parse(text) : null };
    };
  }

  #control(method: string, pathname: string, body: Buffer): Reply {
    switch (`${method} ${pathname}`) {
      case 'GET /_control/writes':
        return json(200, this.#writes);
      case 'GET /_control/faults':
        return json(200, { faults: this.faults.pending, held: this.faults.heldCount });
      case 'POST /_control/faults':
        try {
          this.faults.add(parsed(body));
          return json(201, { faults: this.faults.pending });
        } catch (error) {
          return json(422, { message: error instanceof Error ? error.message : String(error) });
        }
      case 'DELETE /_control/faults':
        this.faults.clear();
        return json(200, { faults: [] });
      case 'POST /_control/release':
        this.faults.release();
        return json(200, {});
      default:
        return json(404, { message: 'Not Found' });
    }
  }

  #list(write: Omit<Write, 'seq' | 'at' | 'body'> & { body: Buffer }): void {
    const text = write.body.toString('utf8');
    const body =
      text.length > MAX_LISTED_BODY_CHARS ? `${text.slice(0, MAX_LISTED_BODY_CHARS)}…` : parsed(write.body);
    this.#writes.push({ ...write, body, seq: this.#nextSeq, at: new Date().toISOString() });
    this.#nextSeq += 1;
    if (this.#writes.length > MAX_WRITES) this.#writes.splice(0, this.#writes.length - MAX_WRITES);
  }

  async #save(): Promise<void> {
    const state: Saved = {
      version: 1,
      port: this.#port,
      store: this.#emulated.store.snapshot(),
      writes: this.#writes,
      nextSeq: this.#nextSeq,
    };
    const unfinished = `${this.#file}.${randomBytes(6).toString('hex')}`;
    const handle = await open(unfinished, 'wx', 0o600);
    try {
      await handle.writeFile(JSON.stringify(state));
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(unfinished, this.#file);
    this.#onSaved();
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#tail.then(work);
    this.#tail = done.catch(() => {});
    return done;
  }

  #authorised(request: IncomingMessage): boolean {
    const given = /^(?:token|bearer)\s+(\S+)$/i.exec(request.headers.authorization ?? '')?.[1];
    return given !== undefined && timingSafeEqual(hash(given), this.#tokenHash);
  }
}

interface Start {
  readonly file: string;
  readonly saved: Saved | null;
  readonly port: number;
  readonly apiUrl: string;
  readonly token: string;
  readonly onSaved: () => void;
}

interface Reply {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly body: Buffer;
}

async function load(file: string): Promise<Saved | null> {
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
  if (text === null) return null;
  const saved = JSON.parse(text) as Saved;
  if (saved.version !== 1)
    throw new Error(`${file} was written by another version: move it away to start afresh.`);
  return saved;
}

/** Takes `port`; if it is taken and only a wish (the port of last time), any free one. */
async function listen(server: Server, port: number, otherwiseAny: boolean): Promise<number> {
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, '127.0.0.1', () => {
        server.off('error', reject);
        resolve();
      });
    });
  } catch (error) {
    if (port === 0 || !otherwiseAny || (error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
    return await listen(server, 0, false);
  }
  const address = server.address();
  if (!address || typeof address === 'string') throw new Error('The local GitHub has no port.');
  return address.port;
}

/** Null when it is too large. */
async function readBody(request: IncomingMessage): Promise<Buffer | null> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) return null;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function parsed(body: Buffer): unknown {
  const text = body.toString('utf8');
  if (!text) return null;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function json(status: number, value: unknown): Reply {
  if (status === 204) return { status, headers: {}, body: Buffer.alloc(0) };
  return {
    status,
    headers: { 'content-type': 'application/json; charset=utf-8' },
    body: Buffer.from(JSON.stringify(value)),
  };
}

function send(response: ServerResponse, reply: Reply): void {
  if (response.destroyed) return;
  const { 'content-length': _, ...headers } = reply.headers;
  response.writeHead(reply.status, headers);
  response.end(reply.body);
}

function hash(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
