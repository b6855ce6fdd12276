/**
 * Migrations: numbered files, forward only, each in one transaction with the row that records it.
 *
 * Invariants: applied once however many processes start together (an advisory lock; the rest wait and find them
 * applied); a failing file leaves nothing behind; a database migrated by a newer release is refused; a file that changed after it was
 * applied is refused.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import { CountersignError } from '../../errors.ts';
import { installQueue } from './queue.ts';

/** Any constant: shared by all releases, used for nothing else. */
const MIGRATION_LOCK = 7_281_940_113;
const FILE_NAME = /^(\d{4})_[a-z0-9_]+\.sql$/;
export const MIGRATIONS_DIR = path.resolve(import.meta.dirname, '../../../migrations');

interface Migration {
  readonly name: string;
  readonly sql: string;
  readonly sha256: string;
}

export interface MigrateOptions {
  /** Connects as the owner of the schema. */
  readonly adminUrl: string;
  /** The role the product works under: what migrations grant to. */
  readonly appRole: string;
  /** Default: the migrations of this release. */
  readonly directory?: string;
}

/**
 * Brings the database to this release's schema. Returns the names applied by this call, oldest first; empty when there was nothing
 * to do. Opens its own connection and transactions. Safe to call from any number of processes at once, and again.
 * Throws SCHEMA_NEWER, MIGRATION_CHANGED or MIGRATION_FAILED (terminal).
 */
export async function migrate(options: MigrateOptions): Promise<string[]> {
  const files = await readMigrations(options.directory ?? MIGRATIONS_DIR);
  const client = new pg.Client({
    connectionString: options.adminUrl,
    application_name: 'countersign-migrate',
  });
  client.on('error', () => undefined);
  await client.connect();
  try {
    // Held by the session, not a transaction, because each file commits by itself. It goes with the connection.
    await client.query('select pg_advisory_lock($1)', [MIGRATION_LOCK]);
    await client.query(`create table if not exists schema_migrations (
      name text primary key, sha256 text not null, applied_at timestamptz not null default clock_timestamp())`);
    await client.query(`grant select on schema_migrations to ${quoteIdentifier(options.appRole)}`);
    const due = await dueMigrations(client, files);
    for (const file of due) await apply(client, file, options.appRole);
    // After ours and under the same lock: pg-boss keeps its own version in its own schema.
    await installQueue(
      options.adminUrl,
      (statement) => client.query(statement),
      quoteIdentifier(options.appRole),
    );
    return due.map((file) => file.name);
  } finally {
    await client.end();
  }
}

/**
 * Checks, without changing anything, that the database is exactly at this release's schema. Throws SCHEMA_NEWER, SCHEMA_OLDER or
 * MIGRATION_CHANGED. For processes that have no admin connection.
 */
export async function assertMigrated(url: string, directory = MIGRATIONS_DIR): Promise<void> {
  const files = await readMigrations(directory);
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    const exists = await client.query<{ found: boolean }>(
      `select to_regclass('schema_migrations') is not null as found`,
    );
    const due = exists.rows[0]?.found ? await dueMigrations(client, files) : files;
    if (due.length > 0)
      throw new CountersignError(
        'SCHEMA_OLDER',
        `The database lacks ${due.length} migration(s), first ${due[0]?.name}; set DATABASE_ADMIN_URL so that they can be applied`,
      );
  } finally {
    await client.end();
  }
}

async function readMigrations(directory: string): Promise<Migration[]> {
  const names = (await readdir(directory)).filter((name) => FILE_NAME.test(name)).sort();
  return Promise.all(
    names.map(async (name) => {
      const sql = await readFile(path.join(directory, name), 'utf8');
      return { name, sql, sha256: createHash('sha256').update(sql).digest('hex') };
    }),
  );
}

async function dueMigrations(client: pg.Client, files: Migration[]): Promise<Migration[]> {
  const { rows } = await client.query<{ name: string; sha256: string }>(
    'select name, sha256 from schema_migrations order by name',
  );
  const applied = new Map(rows.map((row) => [row.name, row.sha256]));
  for (const [name] of applied)
    if (!files.some((file) => file.name === name))
      throw new CountersignError(
        'SCHEMA_NEWER',
        `The database holds migration ${name}, which this release does not know: start the newer release`,
      );
  for (const file of files)
    if (applied.has(file.name) && applied.get(file.name) !== file.sha256)
      throw new CountersignError(
        'MIGRATION_CHANGED',
        `Migration ${file.name} differs from the one that was applied; add a new file instead of editing it`,
      );
  return files.filter((file) => !applied.has(file.name));
}

async function apply(client: pg.Client, file: Migration, appRole: string): Promise<void> {
  try {
    await client.query('begin');
    await client.query(file.sql.replaceAll('@app_role@', quoteIdentifier(appRole)));
    await client.query('insert into schema_migrations (name, sha256) values ($1, $2)', [
      file.name,
      file.sha256,
    ]);
    const commit = await client.query('commit');
    if (commit.command !== 'COMMIT') throw new Error('rolled back');
  } catch (error) {
    await client.query('rollback').catch(() => undefined);
    const why = error instanceof Error ? error.message : String(error);
    throw new CountersignError(
      'MIGRATION_FAILED',
      `Migration ${file.name} failed and was rolled back: ${why}`,
      {
        cause: error,
      },
    );
  }
}

function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
