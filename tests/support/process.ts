/**
 * The product as `npm start` runs it: an operating-system process of its own over a state folder of its own, with its embedded
 * PostgreSQL and its local world, so that it can be killed as machines kill. Judged from outside: the local GitHub's list of writes,
 * the local Slack's messages and calls, the database.
 *
 * Invariants: only processes started here are signalled, by pid; a killed product leaves its world and its database running, an
 * ended file leaves nothing.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { connectDatabase, type Database } from '../../src/jobs/engine/db.ts';
import { launchWorld, stopWorld } from '../../src/local/launch-world.ts';
import { type EmbeddedPostgres, startPostgres } from '../../src/local/postgres.ts';
import type { World } from '../../src/local/world.ts';
import { testLog, until } from './database.ts';
import { People } from './people.ts';

/** FAULTS: an orderly end takes at most this long. */
export const STOP_MS = 25_000;
const READY_MS = 30_000;

/** One process of the product. */
export interface Spawned {
  readonly pid: number;
  readonly url: string;
  /** From its standard output. */
  readonly pageUrl: string;
  /** From the start of the process until it was ready. */
  readonly startedInMs: number;
  readonly readyAtMs: number;
  /** Everything it printed so far. */
  output(): string;
  signal(name: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT' | 'SIGTERM'): void;
  /** Its exit status, null when a signal ended it. */
  readonly exited: Promise<number | null>;
}

/** Starts one and waits until /readyz says yes and the page's address is printed. Throws with its output when it ends before. */
export async function spawnProduct(options: {
  readonly stateDir: string;
  readonly port: number;
  readonly env?: NodeJS.ProcessEnv;
}): Promise<Spawned> {
  const startedAtMs = Date.now();
  const url = `http://127.0.0.1:${options.port}`;
  const child: ChildProcess = spawn(process.execPath, ['src/cli.mjs', 'dev'], {
    cwd: path.resolve(import.meta.dirname, '../..'),
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...pick([
        'PATH',
        'HOME',
        'TMPDIR',
        'TEMP',
        'SystemRoot',
        'TZ',
        'LANG',
        'COUNTERSIGN_SUSPEND_AFTER_EVERY_STEP',
      ]),
      COUNTERSIGN_STATE_DIR: options.stateDir,
      COUNTERSIGN_LOG_LEVEL: 'warn',
      // A morning that comes during a test is nobody's message.
      COUNTERSIGN_DIGEST_CHANNEL: 'none',
      PORT: String(options.port),
      ...options.env,
    },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  const exited = once(child, 'exit').then(([code]) => code as number | null);
  let ended = false;
  void exited.then(() => {
    ended = true;
  });
  const pageUrl = await until(
    'the product to be ready',
    async () => {
      if (ended) throw new Error(`The product ended before it was ready:\n${output}`);
      const printed = /^\s*(http:\S+)$/m.exec(output)?.[1];
      const answer = await fetch(`${url}/readyz`).catch(() => null);
      return answer?.ok === true && printed;
    },
    READY_MS,
  ).catch((error: unknown) => {
    child.kill('SIGKILL');
    throw error;
  });
  const { pid } = child;
  if (pid === undefined) throw new Error('The product has no pid.');
  return {
    pid,
    url,
    pageUrl,
    startedInMs: Date.now() - startedAtMs,
    readyAtMs: Date.now(),
    output: () => output,
    signal: (name) => void child.kill(name),
    exited,
  };
}

export interface GitHubWrite {
  readonly method: string;
  readonly path: string;
  readonly status: number | null;
  readonly performed: boolean;
  readonly at: string;
}

export interface GitHubFault {
  readonly match: { readonly method: string; readonly pathPattern: string };
  readonly kind: 'drop-before' | 'drop-after' | 'status' | 'hold';
  readonly times?: number;
  readonly delayMs?: number;
}

export interface ProductProcess {
  readonly stateDir: string;
  readonly now: Spawned;
  readonly world: World;
  readonly people: People;
  /** As the app's role, while the database runs. */
  readonly db: Database;
  /** Ends the process as the kernel does when memory is out, and waits until it is gone. */
  kill9(): Promise<void>;
  /** Starts it again, with what it left. */
  start(): Promise<Spawned>;
  /** Another process of the product over the same state, at a port of its own. The local Slack then speaks to that one. */
  startAnother(): Promise<Spawned>;
  /** Asks it to end and waits; the world and the database end with it. */
  stop(): Promise<{ readonly code: number | null; readonly tookMs: number }>;
  /** As the holder of the product's token. Throws on an answer of 400 and above. */
  github<T>(method: string, route: string, body?: unknown): Promise<T>;
  /** Every write that arrived at GitHub, oldest first. */
  writes(): Promise<readonly GitHubWrite[]>;
  fault(order: GitHubFault): Promise<void>;
  /** Waits until GitHub holds this many replies. */
  held(count: number): Promise<void>;
  release(): Promise<void>;
}

/**
 * Call at the top of a file. `prepare` sees the world before the product starts and says what else stands in its environment.
 */
export function useProcess(prepare?: (world: World) => Promise<NodeJS.ProcessEnv>): ProductProcess {
  let stateDir = '';
  let port = 0;
  let env: NodeJS.ProcessEnv = {};
  let postgres: EmbeddedPostgres | undefined;
  let database: Database | undefined;
  let world: World | undefined;
  let current: Spawned | undefined;
  const alive = new Set<Spawned>();
  const up = <T>(value: T | undefined): T => {
    if (value === undefined) throw new Error('useProcess: not before beforeAll');
    return value;
  };
  const worldDir = () => path.join(stateDir, 'world');

  const spawnOne = async (at: number): Promise<Spawned> => {
    const spawned = await spawnProduct({ stateDir, port: at, env });
    alive.add(spawned);
    void spawned.exited.then(() => alive.delete(spawned));
    return spawned;
  };
  const adopt = async (): Promise<void> => {
    postgres = await startPostgres({ stateDir });
    database ??= connectDatabase({ url: postgres.appUrl, log: testLog, maxConnections: 2, name: 'judge' });
    world = await launchWorld({ stateDir: worldDir() });
  };
  const letGo = async (): Promise<void> => {
    await database?.close();
    database = undefined;
  };

  const product: ProductProcess = {
    get stateDir() {
      return stateDir;
    },
    get now() {
      return up(current);
    },
    get world() {
      return up(world);
    },
    get people() {
      return new People(up(world));
    },
    get db() {
      return up(database);
    },
    async kill9() {
      const spawned = up(current);
      spawned.signal('SIGKILL');
      await spawned.exited;
    },
    async start() {
      current = await spawnOne(port);
      await adopt();
      return current;
    },
    async startAnother() {
      return spawnOne(await freePort());
    },
    async stop() {
      const spawned = up(current);
      // The database goes down with the product: its connections must not be found open.
      await letGo();
      const askedAtMs = Date.now();
      spawned.signal('SIGTERM');
      const code = await spawned.exited;
      return { code, tookMs: Date.now() - askedAtMs };
    },
    async github<T>(method: string, route: string, body?: unknown): Promise<T> {
      const { apiUrl, token } = up(world).github;
      const response = await fetch(`${apiUrl.replace(/\/$/, '')}${route}`, {
        method,
        headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      const text = await response.text();
      if (!response.ok) throw new Error(`${method} ${route}: ${response.status} ${text}`);
      return JSON.parse(text) as T;
    },
    writes: () => product.github('GET', '/_control/writes'),
    async fault(order) {
      await product.github('POST', '/_control/faults', order);
    },
    async held(count) {
      await until(`GitHub to hold ${count} replies`, async () => {
        const { held } = await product.github<{ held: number }>('GET', '/_control/faults');
        return held === count;
      });
    },
    async release() {
      await product.github('POST', '/_control/release');
    },
  };

  beforeAll(async () => {
    stateDir = await mkdtemp(path.join(tmpdir(), 'countersign-process-'));
    port = await freePort();
    if (prepare) env = await prepare(await launchWorld({ stateDir: worldDir() }));
    await product.start();
  });
  afterAll(async () => {
    for (const spawned of alive) if (spawned !== current) spawned.signal('SIGKILL');
    let end: { readonly code: number | null } | undefined;
    if (current && alive.has(current)) {
      // What a failed test left held would only make the end slow.
      await product.release().catch(() => undefined);
      const overdue = setTimeout(() => current?.signal('SIGKILL'), STOP_MS);
      end = await product.stop();
      clearTimeout(overdue);
    }
    await Promise.all([...alive].map((spawned) => spawned.exited));
    await letGo();
    if (stateDir === '') return;
    await stopWorld(worldDir());
    await postgres?.stop();
    await rm(stateDir, { recursive: true, force: true });
    if (end && end.code !== 0)
      throw new Error(`The product ended with ${end.code} when asked to stop:\n${current?.output()}`);
  });
  return product;
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const address = probe.address();
  probe.close();
  await once(probe, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

function pick(names: readonly string[]): NodeJS.ProcessEnv {
  return Object.fromEntries(
    names.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
  );
}
