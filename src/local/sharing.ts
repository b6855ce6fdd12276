/**
 * Who uses the local parts of a state folder: any number of processes of the product may, and the last one to end in order stops them.
 *
 * Invariant: held by locks of the operating system, so that a process that is killed uses nothing any more. Whoever stops the parts keeps
 * everybody else from beginning to use them until that is done.
 */
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { DatabaseSync } from 'node:sqlite';

/** Stopping a database and a world takes this long at most. */
const WAIT_MS = 15_000;

export interface Share {
  /** Whether another process used the parts already when this one began to. */
  readonly withOthers: boolean;
  /** Ends the use; when it was the last, `stop` is run, and nobody begins before that has ended. Tells whether it was. */
  end(stop: () => Promise<void>): Promise<boolean>;
}

/** Begins to use the local parts of `stateDir`, which is made if missing. Throws when somebody keeps it locked for 15 s. */
export function share(stateDir: string): Share {
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  // SQLite for its locks alone: a reader's is shared, a writer's is not, and both end with their process.
  const lock = new DatabaseSync(path.join(stateDir, 'sharing.lock'), { timeout: WAIT_MS });
  try {
    const withOthers = !isFree(lock);
    lock.exec('begin; select count(*) from sqlite_schema');
    return {
      withOthers,
      async end(stop) {
        lock.exec('rollback');
        try {
          if (!takeWhole(lock)) return false;
          await stop();
          return true;
        } finally {
          lock.close();
        }
      },
    };
  } catch (error) {
    lock.close();
    throw error;
  }
}

function isFree(lock: DatabaseSync): boolean {
  const free = takeWhole(lock);
  if (free) lock.exec('rollback');
  return free;
}

/** Without waiting: whoever holds it uses the parts, or is stopping them. */
function takeWhole(lock: DatabaseSync): boolean {
  try {
    lock.exec('pragma busy_timeout = 0; begin exclusive');
    return true;
  } catch (error) {
    if (error instanceof Error && /locked|busy/i.test(error.message)) return false;
    throw error;
  } finally {
    lock.exec(`pragma busy_timeout = ${WAIT_MS}`);
  }
}
