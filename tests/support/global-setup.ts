/**
 * One embedded PostgreSQL per test run, with a migrated template that each test file clones. Removed when the run ends.
 * Invariant: the only difference between the template and a migrated production database is `db_now()`, which here adds an
 * offset tests may set.
 */
import { appendFile, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import type { TestProject } from 'vitest/node';
import { migrate } from '../../src/jobs/engine/migrate.ts';
import { readPostmaster } from '../../src/local/postgres/postmaster.ts';
import { startPostgres } from '../../src/local/postgres.ts';

declare module 'vitest' {
  interface ProvidedContext {
    adminUrl: string;
    appUrl: string;
  }
}

export const TEMPLATE = 'countersign_template';

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const stateDir = await mkdtemp(path.join(tmpdir(), 'countersign-test-'));
  const server = await startPostgres({ stateDir });
  await forgoDurability(path.join(stateDir, 'postgres/cluster/data'));
  const admin = new pg.Client({ connectionString: server.adminUrl });
  await admin.connect();
  await admin.query(`create database ${TEMPLATE}`);
  await admin.end();

  const templateUrl = withDatabase(server.adminUrl, TEMPLATE);
  await migrate({ adminUrl: templateUrl, appRole: new URL(server.appUrl).username });
  const template = new pg.Client({ connectionString: templateUrl });
  await template.connect();
  await template.query(`
    create table test_clock (clock_offset interval not null);
    insert into test_clock values ('0');
    grant select, update on test_clock to public;
    create or replace function db_now() returns timestamptz language sql volatile
      as 'select clock_timestamp() + (select clock_offset from test_clock)';`);
  await template.end();

  project.provide('adminUrl', server.adminUrl);
  project.provide('appUrl', server.appUrl);
  return async () => {
    await server.stop();
    await rm(stateDir, { recursive: true, force: true });
  };
}

/**
 * The server's data outlives neither this run nor the machine's power, so no commit has to reach the disk, which a shared machine may let wait
 * for seconds. What processes see of each other's commits, also after a kill, is the same.
 */
async function forgoDurability(dataDir: string): Promise<void> {
  await appendFile(path.join(dataDir, 'postgresql.auto.conf'), 'fsync = off\nfull_page_writes = off\n');
  const postmaster = await readPostmaster(dataDir);
  if (postmaster === null) throw new Error('The server of this test run has ended.');
  process.kill(postmaster.pid, 'SIGHUP');
}

export function withDatabase(url: string, database: string): string {
  const changed = new URL(url);
  changed.pathname = `/${database}`;
  return changed.href;
}
