/**
 * Guarantee: a migration is applied once however many processes start together; one that fails, or whose process dies, leaves nothing
 * behind; a database that does not fit this release (newer, older, or made from other files) is refused in words, unchanged.
 */
import { appendFile, cp, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, inject, it } from 'vitest';
import { assertMigrated, MIGRATIONS_DIR, migrate } from '../../src/jobs/engine/migrate.ts';
import { until } from '../support/database.ts';
import { onClient, onEmptyDatabase } from '../support/schema-dump.ts';

const server = () => ({ adminUrl: inject('adminUrl'), appUrl: inject('appUrl') });
/** The server's connections are shared with the test file beside this one. */
const STARTERS = 20;

async function releaseFiles(): Promise<string[]> {
  return (await readdir(MIGRATIONS_DIR)).filter((name) => name.endsWith('.sql')).sort();
}

function applied(adminUrl: string): Promise<string[]> {
  return onClient(adminUrl, async (client) => {
    const { rows } = await client.query<{ name: string }>('select name from schema_migrations order by name');
    return rows.map((row) => row.name);
  });
}

function exists(adminUrl: string, relation: string): Promise<boolean> {
  return onClient(adminUrl, async (client) => {
    const { rows } = await client.query<{ found: boolean }>('select to_regclass($1) is not null as found', [
      relation,
    ]);
    return rows[0]?.found ?? false;
  });
}

/** The migrations of another release: a copy of this one's, changed. */
async function withCopy<T>(
  change: (directory: string) => Promise<void>,
  work: (directory: string) => Promise<T>,
): Promise<T> {
  const directory = await mkdtemp(path.join(tmpdir(), 'countersign-migrations-'));
  try {
    await cp(MIGRATIONS_DIR, directory, { recursive: true });
    await change(directory);
    return await work(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

describe('many starters', () => {
  it('apply each migration once, and all of them find a whole schema', () =>
    onEmptyDatabase(server(), async ({ adminUrl, appUrl, appRole }) => {
      const files = await releaseFiles();

      const results = await Promise.all(
        Array.from({ length: STARTERS }, async () => {
          const names = await migrate({ adminUrl, appRole });
          await assertMigrated(appUrl);
          return names;
        }),
      );

      expect(results.filter((names) => names.length > 0)).toEqual([files]);
      expect(await applied(adminUrl)).toEqual(files);
      expect(await exists(adminUrl, 'pgboss.job')).toBe(true);
    }));

  it('and a later start finds nothing to do', () =>
    onEmptyDatabase(server(), async ({ adminUrl, appRole }) => {
      await migrate({ adminUrl, appRole });

      expect(await migrate({ adminUrl, appRole })).toEqual([]);
    }));

  it('a newer release adds only what is new', () =>
    withCopy(
      (directory) => writeFile(path.join(directory, '9998_more.sql'), 'create table more (id integer);'),
      (directory) =>
        onEmptyDatabase(server(), async ({ adminUrl, appRole }) => {
          await migrate({ adminUrl, appRole });

          expect(await migrate({ adminUrl, appRole, directory })).toEqual(['9998_more.sql']);
        }),
    ));
});

describe('a migration that does not succeed', () => {
  it('leaves nothing of itself, keeps what came before, and can be repaired and run again', () =>
    withCopy(
      (directory) =>
        writeFile(
          path.join(directory, '9998_broken.sql'),
          `create table half_done (id integer);
           insert into half_done values (1);
           alter table runs add column half_done integer;
           select 1 / 0;`,
        ),
      (directory) =>
        onEmptyDatabase(server(), async ({ adminUrl, appUrl, appRole }) => {
          const attempt = migrate({ adminUrl, appRole, directory });

          await expect(attempt).rejects.toMatchObject({
            code: 'MIGRATION_FAILED',
            message: expect.stringMatching(/9998_broken\.sql.*division by zero/),
          });
          expect(await exists(adminUrl, 'half_done')).toBe(false);
          expect(await applied(adminUrl)).toEqual(await releaseFiles());
          const { rowCount } = await onClient(adminUrl, (client) =>
            client.query(
              `select 1 from pg_attribute where attrelid = 'runs'::regclass and attname = 'half_done'`,
            ),
          );
          expect(rowCount).toBe(0);

          await writeFile(path.join(directory, '9998_broken.sql'), 'create table half_done (id integer);');
          expect(await migrate({ adminUrl, appRole, directory })).toEqual(['9998_broken.sql']);
          await assertMigrated(appUrl, directory);
        }),
    ));

  it('leaves nothing when it cannot be recorded: a file and its record are one transaction', () =>
    withCopy(
      (directory) =>
        writeFile(
          path.join(directory, '9998_recorded.sql'),
          `create table half_done (id integer);
           insert into schema_migrations (name, sha256) values ('9998_recorded.sql', 'somebody else''s');`,
        ),
      (directory) =>
        onEmptyDatabase(server(), async ({ adminUrl, appRole }) => {
          await expect(migrate({ adminUrl, appRole, directory })).rejects.toMatchObject({
            code: 'MIGRATION_FAILED',
          });

          expect(await exists(adminUrl, 'half_done')).toBe(false);
          expect(await applied(adminUrl)).toEqual(await releaseFiles());
        }),
    ));

  it('leaves nothing and holds nobody up when its process dies in the middle', () =>
    withCopy(
      (directory) =>
        writeFile(
          path.join(directory, '9998_slow.sql'),
          'create table half_done (id integer); select pg_sleep(60);',
        ),
      (directory) =>
        onEmptyDatabase(server(), async ({ adminUrl, appRole }) => {
          const attempt = migrate({ adminUrl, appRole, directory }).then(
            () => 'applied',
            () => 'failed',
          );
          await until('the migration to sleep and be cut off', () =>
            onClient(adminUrl, async (client) => {
              const { rows } = await client.query(
                `select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and application_name = 'countersign-migrate' and wait_event = 'PgSleep'`,
              );
              return rows.length === 1;
            }),
          );

          expect(await attempt).toBe('failed');
          expect(await exists(adminUrl, 'half_done')).toBe(false);
          await writeFile(path.join(directory, '9998_slow.sql'), 'create table half_done (id integer);');
          expect(await migrate({ adminUrl, appRole, directory })).toEqual(['9998_slow.sql']);
        }),
    ));
});

describe('a schema that does not fit is refused, unchanged', () => {
  it('a newer one: SCHEMA_NEWER', () =>
    withCopy(
      (directory) => writeFile(path.join(directory, '9998_newer.sql'), 'create table newer (id integer);'),
      (directory) =>
        onEmptyDatabase(server(), async ({ adminUrl, appUrl, appRole }) => {
          await migrate({ adminUrl, appRole, directory });

          const refusal = { code: 'SCHEMA_NEWER', message: expect.stringContaining('9998_newer.sql') };
          await expect(migrate({ adminUrl, appRole })).rejects.toMatchObject(refusal);
          await expect(assertMigrated(appUrl)).rejects.toMatchObject(refusal);
          expect(await applied(adminUrl)).toEqual([...(await releaseFiles()), '9998_newer.sql']);
        }),
    ));

  it('one made from a file that was edited since: MIGRATION_CHANGED', () =>
    withCopy(
      (directory) => appendFile(path.join(directory, '0001_foundation.sql'), '\n-- a later thought\n'),
      (directory) =>
        onEmptyDatabase(server(), async ({ adminUrl, appUrl, appRole }) => {
          await migrate({ adminUrl, appRole });

          const refusal = {
            code: 'MIGRATION_CHANGED',
            message: expect.stringContaining('0001_foundation.sql'),
          };
          await expect(migrate({ adminUrl, appRole, directory })).rejects.toMatchObject(refusal);
          await expect(assertMigrated(appUrl, directory)).rejects.toMatchObject(refusal);
        }),
    ));

  it('an older one, where nothing may be applied: SCHEMA_OLDER', () =>
    withCopy(
      async (directory) => {
        for (const name of (await releaseFiles()).slice(2)) await rm(path.join(directory, name));
      },
      (directory) =>
        onEmptyDatabase(server(), async ({ adminUrl, appUrl, appRole }) => {
          const files = await releaseFiles();
          await migrate({ adminUrl, appRole, directory });

          await expect(assertMigrated(appUrl)).rejects.toMatchObject({
            code: 'SCHEMA_OLDER',
            message: expect.stringContaining(`${files[2]}`),
          });
          expect(await applied(adminUrl)).toEqual(files.slice(0, 2));
        }),
    ));

  it('an empty one, where nothing may be applied: SCHEMA_OLDER', () =>
    onEmptyDatabase(server(), async ({ adminUrl, appUrl }) => {
      await expect(assertMigrated(appUrl)).rejects.toMatchObject({ code: 'SCHEMA_OLDER' });
      expect(await exists(adminUrl, 'schema_migrations')).toBe(false);
    }));
});
