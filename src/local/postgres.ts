/**
 * The embedded PostgreSQL: a real server from registry binaries, for `countersign dev` and the tests.
 *
 * Hides: first initialisation, ports, passwords, adopting a server that outlived its starter, and two starters at once.
 * Invariant: at most one server per state folder, guarded by PostgreSQL's own pid file; whoever calls gets URLs that were
 * connected to just now. There is no lock of ours to be left behind: `cluster` appears by rename, the pid file is exclusive.
 *
 *   <stateDir>/postgres/cluster/   data folder and passwords.json (0600)   <stateDir>/postgres/port, server.log
 */
import { randomBytes } from 'node:crypto';
import { chmod, chown, mkdir, open, readFile, rename, stat, statfs, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import {
  type Binaries,
  closedFolder,
  findBinaries,
  runProgram,
  type SystemUser,
  serverUser,
} from './postgres/binaries.ts';
import {
  ADMIN_ROLE,
  APP_ROLE,
  type Cluster,
  DATABASE,
  ensureCluster,
  readCluster,
} from './postgres/cluster.ts';
import { clearStale, isAlive, readPostmaster } from './postgres/postmaster.ts';

export interface EmbeddedPostgres {
  /** Connects as the owner of the database: migrates, may create databases, is no superuser. */
  readonly adminUrl: string;
  /** Connects as the product's lesser role: may log in, and nothing that the owner has not granted. */
  readonly appUrl: string;
  readonly port: number;
  /** Stops the server for everybody who shares it, letting transactions roll back. Repeatable. */
  stop(): Promise<void>;
}

/** How long a living server may leave connections unanswered before we report it instead of waiting. */
const UNANSWERED_MS = 5_000;
/** How long a start may take in all; replaying the log after a crash is the slow case. */
const START_MS = 60_000;
const MAX_START_FAILURES = 5;
const RETRY_MS = 25;
/** Below this, parallel queries run out of /dev/shm (containers often get 64 MB); files serve instead. */
const SMALL_SHM_BYTES = 256 * 1024 * 1024;
const LOG_MAX_BYTES = 10 * 1024 * 1024;

/**
 * Makes the server of this state folder answer, starting it only if none does, and returns its URLs. The server
 * outlives the calling process unless `stop` is called. Concurrent calls, in any number of processes, share one server.
 * Throws a plain `Error` whose message says what to do: package not installed, other major version, folder not usable.
 */
export async function startPostgres({ stateDir }: { stateDir: string }): Promise<EmbeddedPostgres> {
  const user = await serverUser();
  const home = await openHome(path.resolve(stateDir), user);
  const binaries = await findBinaries(home, user);
  const cluster = await ensureCluster(home, binaries, user);
  const port = await ensureServer({ home, binaries, cluster, user });
  return {
    adminUrl: urlOf(ADMIN_ROLE, cluster.passwords.admin, port),
    appUrl: urlOf(APP_ROLE, cluster.passwords.app, port),
    port,
    stop: () => stop({ home, binaries, cluster, user }),
  };
}

/** The app's URL of the server of this state folder, when one answers; null otherwise. Starts and makes nothing. */
export async function runningPostgresUrl({ stateDir }: { stateDir: string }): Promise<string | null> {
  const own = path.join(path.resolve(stateDir), 'postgres');
  try {
    const home = await readFile(path.join(own, 'moved-to'), 'utf8').catch(() => own);
    const cluster = await readCluster(home);
    const port = Number(await readFile(path.join(home, 'port'), 'utf8'));
    return (await knock(port, cluster)) === 'ready' ? urlOf(APP_ROLE, cluster.passwords.app, port) : null;
  } catch (error) {
    // Nothing was ever started here, or not by this user.
    if (['ENOENT', 'EACCES'].includes(String((error as NodeJS.ErrnoException).code))) return null;
    throw error;
  }
}

interface Server {
  readonly home: string;
  readonly binaries: Binaries;
  readonly cluster: Cluster;
  readonly user: SystemUser | null;
}

/**
 * The folder all of this lives in. As root the server runs as a lesser user, who cannot enter a checkout below a private
 * home: then a folder below /var/lib takes its place, remembered in the state folder (which, deleted, starts afresh).
 */
async function openHome(stateDir: string, user: SystemUser | null): Promise<string> {
  const mode = user ? 0o711 : 0o700;
  const home = path.join(stateDir, 'postgres');
  await mkdir(home, { recursive: true, mode });
  if (!user) return home;

  await chmod(home, mode);
  if ((await closedFolder(home, user)) === stateDir)
    await chmod(stateDir, (await stat(stateDir)).mode | 0o011);
  if (!(await closedFolder(home, user))) return home;

  const note = path.join(home, 'moved-to');
  const proposed = path.join('/var/lib/countersign', randomBytes(6).toString('hex'));
  // The first starter's proposal stays; written under the lock of exclusive creation.
  await writeFile(note, proposed, { flag: 'wx', flush: true }).catch(() => {});
  const moved = await eventually(async () => (await readFile(note, 'utf8')) || null);
  await mkdir(moved, { recursive: true, mode });
  for (const folder of [path.dirname(moved), moved]) await chmod(folder, mode);
  const closed = await closedFolder(moved, user);
  if (closed) {
    throw new Error(
      `The embedded PostgreSQL runs as "${user.name}", who cannot enter ${closed}: move the state folder (COUNTERSIGN_STATE_DIR) to a place that user can reach, or set DATABASE_URL and DATABASE_ADMIN_URL.`,
    );
  }
  return moved;
}

/** Loops over what the pid file and a connection say until a server of this cluster answers; returns its port. */
async function ensureServer(server: Server): Promise<number> {
  const { dataDir } = server.cluster;
  const startedAt = Date.now();
  let unansweredSince: number | null = null;
  let failures = 0;
  for (;;) {
    const found = await readPostmaster(dataDir);
    if (!found) {
      unansweredSince = null;
      const failure = await tryStart(server, failures);
      if (failure && !(await readPostmaster(dataDir))) {
        failures += 1;
        if (failures >= MAX_START_FAILURES)
          throw new Error(`The embedded PostgreSQL does not start.\n${failure}`);
      }
      continue;
    }
    const answer = found.port === null ? 'silent' : await knock(found.port, server.cluster);
    if (answer === 'ready' && found.port !== null) {
      await writeWhole(path.join(server.home, 'port'), String(found.port));
      return found.port;
    }
    if (answer !== 'starting' && !(await isAlive(found, dataDir))) {
      await clearStale(found, dataDir);
      continue;
    }
    if (answer === 'starting') unansweredSince = null;
    else unansweredSince ??= Date.now();
    const givenUp = unansweredSince !== null && Date.now() - unansweredSince > UNANSWERED_MS;
    if (givenUp || Date.now() - startedAt > START_MS) {
      throw new Error(
        `The embedded PostgreSQL (process ${found.pid}) holds ${dataDir} but does not answer on port ${found.port ?? 'unknown'}: end that process and start again. Its log is ${path.join(server.home, 'server.log')}.`,
      );
    }
    await pause(RETRY_MS);
  }
}

/**
 * One attempt: null when pg_ctl saw the server ready, else the end of its log. The port of last time is kept so that
 * URLs stay valid over restarts; it is given up only when a stranger has it.
 */
async function tryStart(server: Server, failures: number): Promise<string | null> {
  const { home, binaries, cluster, user } = server;
  const kept = Number(await readFile(path.join(home, 'port'), 'utf8').catch(() => ''));
  const port = kept && failures < 2 && (await isFree(kept)) ? kept : await freePort();
  const log = await openLog(home, user);
  const shm = await statfs('/dev/shm').catch(() => null);
  const small = process.platform === 'linux' && (!shm || shm.blocks * shm.bsize < SMALL_SHM_BYTES);
  const flags = `-p ${port}${small ? ' -c dynamic_shared_memory_type=mmap' : ''}`;
  const { code } = await runProgram(
    binaries,
    'pg_ctl',
    ['start', '-w', '-t', '60', '-s', '-D', cluster.dataDir, '-l', log.file, '-o', flags],
    { user, cwd: home, detached: true },
  );
  if (code === 0) return null;
  const text = await readFile(log.file, 'utf8').catch(() => '');
  return text.slice(log.size).trim().slice(-2000) || `pg_ctl ended with ${code}; see ${log.file}`;
}

/** Made by us, because the server's user may not create files in our folder. One older log is kept. */
async function openLog(home: string, user: SystemUser | null): Promise<{ file: string; size: number }> {
  const file = path.join(home, 'server.log');
  const old = await stat(file).catch(() => null);
  if (old && old.size > LOG_MAX_BYTES) await rename(file, `${file}.1`).catch(() => {});
  await (await open(file, 'a', 0o600)).close();
  if (user) await chown(file, user.uid, user.gid);
  return { file, size: old && old.size <= LOG_MAX_BYTES ? old.size : 0 };
}

/** SQLSTATEs of a server that is ours and alive but not to be talked to yet (or so busy that it proves itself alive). */
const CANNOT_CONNECT_NOW = '57P03';
const TOO_MANY_CONNECTIONS = '53300';

/** Connects for real: SCRAM proves that the server knows our password, so a stranger on the port is not mistaken for it. */
async function knock(port: number, cluster: Cluster): Promise<'ready' | 'starting' | 'silent'> {
  const client = new pg.Client({
    connectionString: urlOf(APP_ROLE, cluster.passwords.app, port),
    connectionTimeoutMillis: 2_000,
  });
  client.on('error', () => {});
  try {
    await client.connect();
    return 'ready';
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === TOO_MANY_CONNECTIONS) return 'ready';
    return code === CANNOT_CONNECT_NOW ? 'starting' : 'silent';
  } finally {
    await client.end().catch(() => {});
  }
}

async function stop({ home, binaries, cluster, user }: Server): Promise<void> {
  const found = await readPostmaster(cluster.dataDir);
  if (!found) return;
  if (!(await isAlive(found, cluster.dataDir))) return await clearStale(found, cluster.dataDir);
  const { code, output } = await runProgram(
    binaries,
    'pg_ctl',
    ['stop', '-m', 'fast', '-w', '-t', '60', '-s', '-D', cluster.dataDir],
    { user, cwd: home },
  );
  if (code !== 0 && (await readPostmaster(cluster.dataDir))) {
    throw new Error(`The embedded PostgreSQL did not stop: ${output.trim()}`);
  }
}

function urlOf(role: string, password: string, port: number): string {
  return `postgres://${role}:${password}@127.0.0.1:${port}/${DATABASE}`;
}

async function freePort(): Promise<number> {
  return await new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() =>
        address && typeof address === 'object' ? resolve(address.port) : reject(new Error('no port')),
      );
    });
  });
}

async function isFree(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const probe = createServer().once('error', () => resolve(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });
}

async function writeWhole(file: string, text: string): Promise<void> {
  const unfinished = `${file}.${randomBytes(6).toString('hex')}`;
  await writeFile(unfinished, text);
  await rename(unfinished, file);
}

/** Waits for a value that another starter is writing this instant. */
async function eventually<T>(read: () => Promise<T | null>): Promise<T> {
  for (let tries = 0; tries < 200; tries += 1) {
    const value = await read();
    if (value !== null) return value;
    await pause(RETRY_MS);
  }
  throw new Error(
    'The state folder of the embedded PostgreSQL is half made: remove its postgres folder and start again.',
  );
}
