/**
 * Who holds a data folder: reading PostgreSQL's `postmaster.pid` without believing it.
 *
 * Hides: that a pid file outlives `kill -9`, that an unreaped server looks alive to `kill(pid, 0)` (and makes PostgreSQL
 * refuse to start for ever), and that after a reboot the same number is another program. Invariant: a pid file is removed
 * only when no living process works in its data folder, and only if it is still the file that was judged.
 */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { link, readdir, readFile, readlink, realpath, rename, rm } from 'node:fs/promises';
import path from 'node:path';

export interface Postmaster {
  readonly pid: number;
  /** Null while the server is still writing its file. */
  readonly port: number | null;
  /** The file's text, to recognise it again. */
  readonly text: string;
}

/** What the pid file claims, or null when there is none. */
export async function readPostmaster(dataDir: string): Promise<Postmaster | null> {
  const text = await readFile(pidFile(dataDir), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
  if (text === null) return null;
  const lines = text.split('\n');
  return { pid: Number(lines[0]), port: Number(lines[3]) || null, text };
}

/** Whether any living process of this server is left, the postmaster or one of its orphaned backends. */
export async function isAlive(postmaster: Postmaster, dataDir: string): Promise<boolean> {
  if (process.platform === 'linux') return await someoneWorksIn(await realpath(dataDir));
  if (!(postmaster.pid > 0)) return false;
  try {
    process.kill(postmaster.pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
  }
  if (process.platform === 'win32') return true;
  const seen = await new Promise<string>((resolve) => {
    execFile('ps', ['-o', 'stat=,comm=', '-p', String(postmaster.pid)], (_error, stdout) =>
      resolve(stdout.trim()),
    );
  });
  return seen === '' || (!seen.startsWith('Z') && seen.includes('postgres'));
}

/** PostgreSQL's processes have the data folder as their working directory; a zombie has none any more. */
async function someoneWorksIn(folder: string): Promise<boolean> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const folders = await Promise.all(pids.map((pid) => readlink(`/proc/${pid}/cwd`).catch(() => null)));
  return folders.includes(folder);
}

/** Removes the pid file a dead server left. Harmless when another starter did so first or has a new server running. */
export async function clearStale(postmaster: Postmaster, dataDir: string): Promise<void> {
  const file = pidFile(dataDir);
  const aside = `${file}.${randomUUID()}`;
  try {
    await rename(file, aside);
  } catch {
    return;
  }
  const text = await readFile(aside, 'utf8').catch(() => '');
  if (text !== postmaster.text) await link(aside, file).catch(() => {});
  await rm(aside, { force: true });
}

function pidFile(dataDir: string): string {
  return path.join(dataDir, 'postmaster.pid');
}
