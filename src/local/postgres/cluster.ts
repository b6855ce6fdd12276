/**
 * The data folder of the embedded PostgreSQL: made once, whole or not at all.
 *
 * Hides: initdb, the two roles, the database and their passwords. Invariant: `<home>/cluster` appears by one rename
 * with data folder and passwords complete, so a starter killed half-way leaves only a folder nobody uses, and of two
 * starters one wins and both use the winner's. The superuser has no password and can therefore never log in.
 */
import { randomBytes } from 'node:crypto';
import {
  chmod,
  chown,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import { type Binaries, exists, runProgram, type SystemUser } from './binaries.ts';

export const ADMIN_ROLE = 'countersign_admin';
export const APP_ROLE = 'countersign_app';
export const DATABASE = 'countersign';

export interface Cluster {
  readonly dataDir: string;
  readonly passwords: { readonly admin: string; readonly app: string };
}

/** An unfinished folder this old has no maker any more: making one takes about a second. */
const ABANDONED_AFTER_MS = 10 * 60_000;

/** Returns the cluster below `home`, making it on the first call. Safe to call from several processes at once. */
export async function ensureCluster(
  home: string,
  binaries: Binaries,
  user: SystemUser | null,
): Promise<Cluster> {
  const cluster = path.join(home, 'cluster');
  if (!(await exists(cluster))) {
    await removeAbandoned(home);
    await makeCluster(home, cluster, binaries, user);
  }
  const dataDir = path.join(cluster, 'data');
  const major = (await readFile(path.join(dataDir, 'PG_VERSION'), 'utf8')).trim();
  if (major !== binaries.major) {
    throw new Error(
      `${dataDir} was written by PostgreSQL ${major}, the installed embedded PostgreSQL is ${binaries.major}: dump it with the old version and restore it with the new one (pg_dump, psql), or move the folder away to start empty.`,
    );
  }
  return readCluster(home);
}

/** The cluster below `home`, which must have been made. */
export async function readCluster(home: string): Promise<Cluster> {
  const cluster = path.join(home, 'cluster');
  const passwords = JSON.parse(
    await readFile(path.join(cluster, 'passwords.json'), 'utf8'),
  ) as Cluster['passwords'];
  return { dataDir: path.join(cluster, 'data'), passwords };
}

async function makeCluster(
  home: string,
  target: string,
  binaries: Binaries,
  user: SystemUser | null,
): Promise<void> {
  const unfinished = await mkdtemp(path.join(home, 'unfinished-'));
  try {
    const dataDir = path.join(unfinished, 'data');
    await mkdir(dataDir, { mode: 0o700 });
    if (user) {
      await chmod(unfinished, 0o711);
      await chown(dataDir, user.uid, user.gid);
    }
    const passwords = { admin: newPassword(), app: newPassword() };
    await writeFile(path.join(unfinished, 'passwords.json'), JSON.stringify(passwords), {
      mode: 0o600,
      flush: true,
    });

    await must(
      runProgram(
        binaries,
        'initdb',
        [
          `--pgdata=${dataDir}`,
          '--username=postgres',
          '--locale=C',
          '--encoding=UTF8',
          '--auth=reject',
          ...settings(),
        ],
        { user, cwd: unfinished },
      ),
      'initdb',
    );
    // TCP with a password is the only door: no socket, no trust, nobody from another address.
    const rules = `host all ${ADMIN_ROLE},${APP_ROLE} 127.0.0.1/32 scram-sha-256\n`;
    await writeFile(path.join(dataDir, 'pg_hba.conf'), rules);

    // Without a running server: nothing can connect before the roles and rules are in place.
    await must(
      runProgram(binaries, 'postgres', ['--single', '-c', 'exit_on_error=on', '-D', dataDir, 'postgres'], {
        user,
        cwd: unfinished,
        input: rolesAndDatabase(passwords),
      }),
      'making the roles',
    );
    await rename(unfinished, target);
    const folder = await open(home, 'r').catch(() => null);
    await folder?.sync().catch(() => {});
    await folder?.close();
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true });
    if (!(await exists(target))) throw error;
  }
}

/** `max_connections`: several processes and a test run share the server. Logs hold no statement and no row value. */
function settings(): string[] {
  const values = {
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    max_connections: '200',
    fsync: 'on',
    password_encryption: 'scram-sha-256',
    timezone: 'UTC',
    log_timezone: 'UTC',
    log_min_error_statement: 'panic',
    log_error_verbosity: 'terse',
  };
  return Object.entries(values).map(([name, value]) => `--set=${name}=${value}`);
}

/** One statement per line, as single-user mode wants it. pg_signal_backend: fault tests cut the app's sessions. */
function rolesAndDatabase(passwords: Cluster['passwords']): string {
  return [
    `create role ${ADMIN_ROLE} login createdb password '${passwords.admin}';`,
    `create role ${APP_ROLE} login password '${passwords.app}';`,
    `grant pg_signal_backend to ${ADMIN_ROLE};`,
    `create database ${DATABASE} owner ${ADMIN_ROLE};`,
    `revoke temporary on database ${DATABASE} from public;`,
    '',
  ].join('\n');
}

/** URL-safe, so that it needs no escaping in a connection string, nor in SQL. */
function newPassword(): string {
  return randomBytes(24).toString('base64url');
}

async function must(run: Promise<{ code: number; output: string }>, what: string): Promise<void> {
  const { code, output } = await run;
  if (code !== 0)
    throw new Error(`Embedded PostgreSQL: ${what} failed (exit ${code}).\n${output.trim().slice(-2000)}`);
}

async function removeAbandoned(home: string): Promise<void> {
  for (const name of await readdir(home)) {
    if (!name.startsWith('unfinished-')) continue;
    const made = await stat(path.join(home, name)).catch(() => null);
    if (made && Date.now() - made.mtimeMs > ABANDONED_AFTER_MS) {
      await rm(path.join(home, name), { recursive: true, force: true });
    }
  }
}
