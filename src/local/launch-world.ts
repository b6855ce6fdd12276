/**
 * Finding or starting the local world's process. Two launchers at once end with one world: the process itself holds
 * the lock, the loser exits, and both launchers adopt the winner.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, statSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { lockWorld, type World, WorldHeld } from './world.ts';

const READY_TIMEOUT_MS = 15_000;
const POLL_MS = 30;
const STOP_TIMEOUT_MS = 10_000;
const HEALTH_TIMEOUT_MS = 1_000;
const HELD_EXIT_CODE = 75;
/** A world that is closing holds its folder for less than this. */
const HELD_RETRY_MS = 500;
const LOG_MAX_BYTES = 1_000_000;

/** What `world.json` holds: the world's fields and who serves them. */
interface WorldFile extends Omit<World, 'connect' | 'close'> {
  readonly pid: number;
  readonly nonce: string;
}

export interface LaunchWorldOptions {
  readonly stateDir: string;
  /** Where the app takes events; without it an adopted world keeps the one it has. */
  readonly eventsUrl?: string;
  /** Only for a world that this call starts. Default `1`. */
  readonly redeliveryScale?: number;
}

/**
 * Returns the living world of `stateDir`, starting one if there is none, connected to `eventsUrl`. Its `close()` lets
 * go without stopping it. Throws within 15 s, naming the log, when no world becomes ready.
 */
export async function launchWorld(options: LaunchWorldOptions): Promise<World> {
  const { stateDir } = options;
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  const found = (await livingWorld(stateDir)) ?? (await startProcess(options));
  const world: World = {
    ...found,
    connect: (eventsUrl) => connect(found, eventsUrl),
    close: async () => {},
  };
  if (options.eventsUrl !== undefined) await world.connect(options.eventsUrl);
  return world;
}

/** Ends the world's process, if one lives, and waits until the folder is free. State stays. */
export async function stopWorld(stateDir: string): Promise<void> {
  const world = await livingWorld(stateDir);
  if (world) process.kill(world.pid, 'SIGTERM');
  const deadline = Date.now() + STOP_TIMEOUT_MS;
  for (;;) {
    try {
      lockWorld(stateDir)();
      return;
    } catch (error) {
      if (!(error instanceof WorldHeld) || Date.now() > deadline) throw error;
    }
    await sleep(POLL_MS);
  }
}

/** The pid of the living world, verified by its nonce: what a test needs to kill it. */
export async function worldPid(stateDir: string): Promise<number | undefined> {
  return (await livingWorld(stateDir))?.pid;
}

async function startProcess(options: LaunchWorldOptions): Promise<WorldFile> {
  const { stateDir } = options;
  const logPath = join(stateDir, 'world.log');
  const deadline = Date.now() + READY_TIMEOUT_MS;
  let starter: Starter | undefined;
  let startAt = 0;
  while (Date.now() < deadline) {
    const world = await livingWorld(stateDir);
    if (world) {
      if (starter && starter.child.pid !== world.pid) await dismiss(starter);
      return world;
    }
    if (!starter && Date.now() >= startAt) starter = spawnWorld(options, logPath);
    if (starter?.exitCode === HELD_EXIT_CODE) {
      // Another world holds the folder: it becomes ready soon, or it is going away and we try once more.
      starter = undefined;
      startAt = Date.now() + HELD_RETRY_MS;
    } else if (starter && starter.exitCode !== null) {
      throw new Error(
        `The local world ended before it was ready (exit code ${starter.exitCode}). Its log: ${logPath}`,
      );
    }
    await sleep(POLL_MS);
  }
  if (starter) await dismiss(starter);
  throw new Error(`The local world was not ready within ${READY_TIMEOUT_MS / 1000} s. Its log: ${logPath}`);
}

/** A process we started that may become the world. */
interface Starter {
  readonly child: ChildProcess;
  /** `null` while it runs; `-1` when it could not start or was killed. */
  exitCode: number | null;
}

function spawnWorld(options: LaunchWorldOptions, logPath: string): Starter {
  const args = [join(import.meta.dirname, 'world-process.ts'), '--state-dir', options.stateDir];
  if (options.eventsUrl !== undefined) args.push('--events-url', options.eventsUrl);
  if (options.redeliveryScale !== undefined) args.push('--redelivery-scale', String(options.redeliveryScale));
  const log = openSync(logPath, logIsLong(logPath) ? 'w' : 'a', 0o600);
  try {
    const child = spawn(process.execPath, args, {
      detached: true,
      stdio: ['ignore', log, log],
      // The world gets none of the product's secrets.
      env: pick(['PATH', 'HOME', 'TMPDIR', 'TEMP', 'SystemRoot', 'TZ', 'LANG']),
    });
    child.unref();
    const starter: Starter = { child, exitCode: null };
    child.once('error', () => {
      starter.exitCode = -1;
    });
    child.once('exit', (code) => {
      starter.exitCode = code ?? -1;
    });
    return starter;
  } finally {
    closeSync(log);
  }
}

/** Ends a starter that lost: left alone, it would become a world once the winner is stopped. */
async function dismiss({ child, exitCode }: Starter): Promise<void> {
  if (exitCode !== null) return;
  const ended = once(child, 'exit');
  if (child.kill('SIGTERM')) await ended;
}

async function livingWorld(stateDir: string): Promise<WorldFile | undefined> {
  try {
    const file = JSON.parse(await readFile(join(stateDir, 'world.json'), 'utf8')) as WorldFile;
    const answer = await fetch(new URL('/healthz', file.controlUrl), {
      signal: AbortSignal.timeout(HEALTH_TIMEOUT_MS),
    });
    const health = (await answer.json()) as { nonce?: unknown };
    return health.nonce === file.nonce ? file : undefined;
  } catch {
    // No file, half a world, or somebody else on its port: not a living world.
    return undefined;
  }
}

async function connect(world: WorldFile, eventsUrl: string): Promise<string | null> {
  const answer = await fetch(`${world.controlUrl}/connect`, {
    method: 'POST',
    headers: { authorization: `Bearer ${world.controlToken}`, 'content-type': 'application/json' },
    body: JSON.stringify({ eventsUrl }),
  });
  if (!answer.ok) throw new Error(`The local Slack refused ${eventsUrl}: ${await answer.text()}`);
  const { before } = (await answer.json()) as { before?: string | null };
  return before ?? null;
}

function logIsLong(path: string): boolean {
  return (statSync(path, { throwIfNoEntry: false })?.size ?? 0) > LOG_MAX_BYTES;
}

function pick(names: readonly string[]): NodeJS.ProcessEnv {
  return Object.fromEntries(
    names.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
  );
}
