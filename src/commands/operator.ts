/**
 * What every verb for operators begins with: the database of this installation, its one workspace, and who is asking.
 */
import { userInfo } from 'node:os';
import { readVariables } from '../config.ts';
import { CountersignError } from '../errors.ts';
import { onlyWorkspace } from '../jobs/definitions.ts';
import { connectDatabase, type Database, probeDatabase } from '../jobs/engine/db.ts';
import { assertMigrated } from '../jobs/engine/migrate.ts';
import { createLogger } from '../log.ts';
import type { WorkspaceId } from '../types.ts';

/**
 * Runs `work` on the database of `databaseUrlFor` and closes it. Throws CONFIG_INVALID in the name of `command`, DATABASE_UNREACHABLE, and
 * SCHEMA_OLDER or SCHEMA_NEWER before anything is asked of tables that may not be there.
 */
export async function withDatabase(
  command: string,
  work: (database: Database, workspaceId: WorkspaceId) => Promise<void>,
): Promise<void> {
  const url = await databaseUrlFor(command);
  await probeDatabase(url);
  await assertMigrated(url);
  const database = connectDatabase({
    url,
    log: createLogger({ level: 'silent' }),
    // One for the transaction, one for what is asked beside it.
    maxConnections: 2,
    name: 'countersign-cli',
  });
  try {
    const workspaceId = await onlyWorkspace(database);
    if (workspaceId === null)
      throw new CountersignError(
        'CONFIG_INVALID',
        'This database has no workspace yet; start the product once',
      );
    await work(database, workspaceId);
  } finally {
    await database.close();
  }
}

/** DATABASE_URL, else the database of the product that `npm start` runs in this folder. Throws CONFIG_INVALID in the name of `command`. */
export async function databaseUrlFor(command: string): Promise<string> {
  const { DATABASE_URL, COUNTERSIGN_STATE_DIR } = readVariables();
  if (DATABASE_URL !== undefined) return DATABASE_URL;
  const { runningPostgresUrl } = await import('../local/postgres.ts');
  const local = await runningPostgresUrl({ stateDir: COUNTERSIGN_STATE_DIR });
  if (local !== null) return local;
  throw new CountersignError(
    'CONFIG_INVALID',
    `${command} needs DATABASE_URL, or the product running in this folder (npm start)`,
  );
}

/** The account's name; its number where it has none, as in some containers. */
export function operator(): string {
  try {
    return userInfo().username;
  } catch {
    return `uid-${process.getuid?.() ?? 'unknown'}`;
  }
}
