/**
 * One embedded PostgreSQL per test run, with a migrated template that each test file clones. Removed when the run ends.
 * Invariant: the only difference between the template and a migrated production database is `db_now()`, which here adds an
 * offset tests may set.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import type { TestProject } from 'vitest/node';
import { migrate } from '../../src/jobs/engine/migrate.ts';
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

export function withDatabase(url: string, database: string): string {
  const changed = new URL(url);
  changed.pathname = `/${database}`;
  return changed.href;
}
