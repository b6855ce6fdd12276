/**
 * Guarantee: the migrations make exactly the schema of tests/golden/schema.sql: its tables, columns, types, defaults, constraints,
 * indexes, triggers, functions and grants. A change of the schema is read in the diff of that file; UPDATE_GOLDEN=1 rewrites it.
 */
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { expect, inject, it } from 'vitest';
import { migrate } from '../../src/jobs/engine/migrate.ts';
import { dumpSchema, onClient, onEmptyDatabase } from '../support/schema-dump.ts';

const GOLDEN = path.resolve(import.meta.dirname, '../golden/schema.sql');
const server = () => ({ adminUrl: inject('adminUrl'), appUrl: inject('appUrl') });

it('the migrated schema is the golden one, twice', async () => {
  const migratedDump = () =>
    onEmptyDatabase(server(), async ({ adminUrl, appRole }) => {
      await migrate({ adminUrl, appRole });
      return onClient(adminUrl, (client) => dumpSchema(client, appRole));
    });

  const [dump, again] = await Promise.all([migratedDump(), migratedDump()]);
  if (process.env.UPDATE_GOLDEN) await writeFile(GOLDEN, dump);

  expect(again).toBe(dump);
  expect(dump).toBe(await readFile(GOLDEN, 'utf8'));
});

it('a change of any kind shows in the dump', async () => {
  const changes = [
    'create table notes (note text)',
    'alter table runs add column note text',
    'alter table runs alter column claim_count type bigint',
    'alter table tasks alter column objective drop not null',
    'alter table runs alter column fence drop default',
    'alter table actions drop constraint actions_status_check',
    'drop index approval_requests_one_open',
    'drop trigger ledger_entries_append_only on ledger_entries',
    'alter table ledger_entries disable trigger ledger_entries_append_only',
    'grant update on ledger_entries to public',
    'grant update (body) on ledger_entries to public',
    'grant create on schema public to public',
    'revoke execute on function db_now() from public',
    `create or replace function db_now() returns timestamptz language sql volatile as 'select now()'`,
    'alter function refuse_change() security definer',
    'create view everything as select run_id from runs',
    'alter table runs enable row level security',
    `create type mood as enum ('fine')`,
  ];

  await onEmptyDatabase(server(), async ({ adminUrl, appRole }) => {
    await migrate({ adminUrl, appRole });
    await onClient(adminUrl, async (client) => {
      const before = await dumpSchema(client, appRole);
      for (const change of changes) {
        await client.query('begin');
        await client.query(change);
        expect(await dumpSchema(client, appRole), change).not.toBe(before);
        await client.query('rollback');
      }
      expect(await dumpSchema(client, appRole)).toBe(before);
    });
  });
});
