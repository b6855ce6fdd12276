/**
 * Starting the product as `npm start` does: an operating-system process of its own. Knows no test runner, so that benchmarks use it too.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

const READY_MS = 120_000;

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
  const ready = async (): Promise<string> => {
    for (;;) {
      if (ended) throw new Error(`The product ended before it was ready:\n${output}`);
      const printed = /^\s*(http:\S+)$/m.exec(output)?.[1];
      const answer = await fetch(`${url}/readyz`).catch(() => null);
      if (answer?.ok === true && printed) return printed;
      if (Date.now() - startedAtMs > READY_MS)
        throw new Error(`The product was not ready in time:\n${output}`);
      await pause(20);
    }
  };
  const pageUrl = await ready().catch((error: unknown) => {
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

/** A port that nobody listens on now. */
export async function freePort(): Promise<number> {
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
