/**
 * Where a benchmark happens: a Postgres that keeps its promises, and a fresh migrated database per figure.
 *
 * Invariants: nothing is left behind, whether the benchmark ends, fails or is interrupted; nothing is measured on a server that does not
 * write commits to disk.
 */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import { migrate } from '../src/jobs/engine/migrate.ts';
import { startPostgres } from '../src/local/postgres.ts';
import { FLOOR_TABLES } from './floor.ts';

export const WORKSPACE = 'T0BENCH';

/** One line for the person at the terminal; the setup measures nothing (2) or the command line was wrong (1). */
export class SetupRefused extends Error {
  readonly exitCode: 1 | 2;
  constructor(message: string, exitCode: 1 | 2 = 2) {
    super(message);
    this.exitCode = exitCode;
  }
}

export interface BenchDatabase {
  /** As the app's role; with `--url` as the user given there. */
  readonly url: string;
  /** Refreshes statistics of every table. Bulk inserts leave plans up to six times too dear. */
  analyze(): Promise<void>;
  /** Asks the server as the owner. */
  ask<Row extends pg.QueryResultRow>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  drop(): Promise<void>;
}

export interface World {
  /** A migrated database nobody has used, with the workspace and the floor's tables. */
  database(): Promise<BenchDatabase>;
  /** Repeatable. */
  close(): Promise<void>;
}

/** Throws SetupRefused when the server does not promise durability. */
export async function openWorld(givenUrl: string | undefined): Promise<World> {
  const closers: (() => Promise<void>)[] = [];
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => {
    closing ??= (async () => {
      process.off('SIGINT', interrupted);
      process.off('SIGTERM', interrupted);
      process.off('uncaughtException', failed);
      for (const closer of closers.reverse()) await closer().catch(() => undefined);
    })();
    return closing;
  };
  const leave = (exitCode: number): void => {
    const leaving = close().then(() => process.exit(exitCode));
    // Whatever was being measured now loses its server, in any place; that must not keep the clearing up from ending.
    process.on('uncaughtException', () => undefined);
    void leaving;
  };
  const interrupted = (): void => leave(130);
  const failed = (error: Error): void => {
    process.stderr.write(`${error.stack}\n`);
    leave(1);
  };
  process.on('SIGINT', interrupted);
  process.on('SIGTERM', interrupted);
  process.on('uncaughtException', failed);
  try {
    return { ...(await furnish(givenUrl, closers)), close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function furnish(
  givenUrl: string | undefined,
  closers: (() => Promise<void>)[],
): Promise<Pick<World, 'database'>> {
  const { adminUrl, appUrl } = await server(givenUrl, closers);
  const admin = new pg.Pool({ connectionString: adminUrl, max: 2 });
  admin.on('error', () => undefined);
  closers.push(() => admin.end());

  const made = new Set<string>();
  closers.push(async () => {
    for (const name of made) await admin.query(`drop database if exists ${name} with (force)`);
  });
  const create = async (suffix: string): Promise<string> => {
    const name = `countersign_bench_${randomBytes(5).toString('hex')}`;
    made.add(name);
    await admin.query(`create database ${name} ${suffix}`);
    return name;
  };

  const template = await create('');
  const appRole = decodeURIComponent(new URL(appUrl).username);
  await migrate({ adminUrl: withDatabase(adminUrl, template), appRole });
  const owner = new pg.Client({ connectionString: withDatabase(adminUrl, template) });
  await owner.connect();
  try {
    await owner.query(FLOOR_TABLES.replaceAll('@app_role@', `"${appRole.replaceAll('"', '""')}"`));
    await owner.query('insert into workspaces (workspace_id) values ($1)', [WORKSPACE]);
    await refuseShortcuts(owner);
  } finally {
    await owner.end();
  }

  return {
    async database() {
      const name = await create(`template ${template}`);
      const asOwner = new pg.Pool({ connectionString: withDatabase(adminUrl, name), max: 1 });
      asOwner.on('error', () => undefined);
      return {
        url: withDatabase(appUrl, name),
        analyze: async () => void (await asOwner.query('analyze')),
        ask: async <Row extends pg.QueryResultRow>(text: string, values: readonly unknown[] = []) =>
          (await asOwner.query<Row>(text, [...values])).rows,
        async drop() {
          await asOwner.end();
          await admin.query(`drop database if exists ${name} with (force)`);
          made.delete(name);
        },
      };
    },
  };
}

async function server(
  givenUrl: string | undefined,
  closers: (() => Promise<void>)[],
): Promise<{ adminUrl: string; appUrl: string }> {
  if (givenUrl !== undefined) {
    if (!URL.canParse(givenUrl)) throw new SetupRefused('--url is not a URL', 1);
    return { adminUrl: givenUrl, appUrl: givenUrl };
  }
  const stateDir = await mkdtemp(path.join(tmpdir(), 'countersign-bench-'));
  closers.push(() => rm(stateDir, { recursive: true, force: true }));
  const started = await startPostgres({ stateDir });
  closers.push(() => started.stop());
  return started;
}

/** Figures of a server that may lose commits would compare nothing. */
async function refuseShortcuts(owner: pg.Client): Promise<void> {
  for (const setting of ['fsync', 'synchronous_commit', 'full_page_writes']) {
    const { rows } = await owner.query<{ value: string }>('select current_setting($1) as value', [setting]);
    if (rows[0]?.value !== 'on')
      throw new SetupRefused(`${setting} is ${rows[0]?.value}; figures need it on`);
  }
  const { rows } = await owner.query<{ name: string }>(
    `select oid::regclass::text as name from pg_class
     where relkind in ('r', 'p') and relpersistence <> 'p' and relnamespace::regnamespace::text !~ '^pg_'`,
  );
  if (rows.length > 0)
    throw new SetupRefused(`tables that a crash would empty: ${rows.map((row) => row.name).join(', ')}`);
}

function withDatabase(url: string, database: string): string {
  const changed = new URL(url);
  changed.pathname = `/${database}`;
  return changed.href;
}
