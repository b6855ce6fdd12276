/**
 * Workers on this very host: who this process is, so that others can tell it dead, and which of the others are.
 *
 * Invariant: a lease is ended early only for a process that provably does not exist any more: same boot and pid namespace, and no process,
 * or a younger one, under its pid.
 */
import { execFile } from 'node:child_process';
import { readFile, readlink } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { Database } from './db.ts';

export interface ProcessIdentity {
  readonly hostKey: string | null;
  readonly pidStarted: string | null;
}

/**
 * Boot id with pid namespace, and when this pid started: what proves another worker's process dead. Nulls where the system
 * does not tell (Windows): then the lease decides alone.
 */
export async function processIdentity(): Promise<ProcessIdentity> {
  try {
    if (process.platform === 'linux') {
      const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
      const namespace = await readlink('/proc/self/ns/pid');
      return { hostKey: `${boot} ${namespace}`, pidStarted: (await pidStarted(process.pid)) ?? null };
    }
    if (process.platform === 'darwin') {
      const { stdout } = await promisify(execFile)('sysctl', ['-n', 'kern.bootsessionuuid']);
      return { hostKey: stdout.trim() || null, pidStarted: (await pidStarted(process.pid)) ?? null };
    }
  } catch {
    // Unknown is safe: the lease decides.
  }
  return { hostKey: null, pidStarted: null };
}

/** When the process with this pid started, as the system writes it; undefined when there is no such process. */
async function pidStarted(pid: number): Promise<string | undefined> {
  if (process.platform === 'linux') {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
    // Field 22; the command name (field 2) may hold spaces and ends at the last parenthesis. proc(5).
    const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
    // A zombie holds nothing any more.
    return fields?.[0] === 'Z' ? undefined : fields?.[19];
  }
  const { stdout } = await promisify(execFile)('ps', ['-o', 'lstart=', '-p', String(pid)]).catch(() => ({
    stdout: '',
  }));
  return stdout.trim() || undefined;
}

/** Ends the leases of workers whose process on this very host is provably gone, so that a restart does not wait for them. */
export async function releaseDeadNeighbours(database: Database, identity: ProcessIdentity): Promise<void> {
  if (identity.hostKey === null) return;
  const { rows } = await database.query<{ worker_id: string; pid: number; pid_started: string | null }>({
    text: 'select worker_id, pid, pid_started from workers where host_key = $1 and lease_until > db_now()',
    values: [identity.hostKey],
  });
  for (const row of rows) {
    if (row.pid_started === null || (await pidStarted(row.pid)) === row.pid_started) continue;
    await database.query({
      text: 'update workers set lease_until = db_now() where worker_id = $1',
      values: [row.worker_id],
    });
  }
}
