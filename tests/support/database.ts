/**
 * A database per test file, cloned from the migrated template. `useDatabase` registers its own clean-up and fails the file when
 * a connection leaked.
 */
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, inject } from 'vitest';
import { connectDatabase, type Database } from '../../src/jobs/engine/db.ts';
import { createLogger } from '../../src/log.ts';
import { TEMPLATE, withDatabase } from './global-setup.ts';

export const WORKSPACE = 'T0LOCAL';
/** The whole suite also holds when every run is suspended after every step: COUNTERSIGN_SUSPEND_AFTER_EVERY_STEP=true npm test. */
export const SUSPEND = process.env.COUNTERSIGN_SUSPEND_AFTER_EVERY_STEP === 'true';
export const testLog = createLogger({ level: process.env.TEST_LOG ?? 'silent' });

export interface TestDatabase {
  readonly adminUrl: string;
  readonly appUrl: string;
  /** Connected as the app's role. */
  readonly db: Database;
  /** Moves database time forward (or back) from the real time. */
  setClock(offset: string): Promise<void>;
  /** Moves database time to an instant, from which it goes on. */
  setTime(instant: string): Promise<void>;
}

/** Call at the top of a file; the fields are there from `beforeAll` on. */
export function useDatabase(): TestDatabase {
  const name = `t_${randomBytes(6).toString('hex')}`;
  let db: Database | undefined;
  const test: TestDatabase = {
    get adminUrl() {
      return withDatabase(inject('adminUrl'), name);
    },
    get appUrl() {
      return withDatabase(inject('appUrl'), name);
    },
    get db() {
      if (!db) throw new Error('useDatabase: not before beforeAll');
      return db;
    },
    async setClock(offset) {
      await test.db.query({ text: 'update test_clock set clock_offset = $1::interval', values: [offset] });
    },
    async setTime(instant) {
      await test.db.query({
        text: 'update test_clock set clock_offset = $1::timestamptz - clock_timestamp()',
        values: [instant],
      });
    },
  };
  beforeAll(async () => {
    await asAdmin((client) => client.query(`create database ${name} template ${TEMPLATE}`));
    // As patient as all that waits.
    db = connectDatabase({ url: test.appUrl, log: testLog, acquireTimeoutMs: 60_000 });
    await db.query({ text: `insert into workspaces (workspace_id) values ('${WORKSPACE}')` });
  });
  afterAll(async () => {
    await db?.close();
    const leaked = await asAdmin(async (client) => {
      const open = () =>
        client.query<{ application_name: string }>(
          'select application_name from pg_stat_activity where datname = $1',
          [name],
        );
      // A closed connection's backend takes a moment to go.
      for (let tries = 0; tries < 40 && (await open()).rows.length > 0; tries += 1)
        await new Promise((resolve) => setTimeout(resolve, 25));
      const left = (await open()).rows.map((row) => row.application_name);
      await client.query(`drop database ${name} with (force)`);
      return left;
    });
    if (leaked.length > 0) throw new Error(`connections leaked: ${leaked.join(', ')}`);
  });
  return test;
}

async function asAdmin<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: withDatabase(inject('adminUrl'), 'postgres') });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/**
 * Waits until `probe` gives something other than undefined or false; fails after `timeoutMs` naming `what`. The default is patience only, and
 * outlasts minutes in which a shared machine hardly runs; a test that is about promptness gives its own.
 */
export async function until<T>(
  what: string,
  probe: () => Promise<T | undefined | false>,
  timeoutMs = 60_000,
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  // What takes long is asked for less often: the asking itself takes from who is waited for.
  for (let pauseMs = 10; ; pauseMs = Math.min(100, pauseMs * 1.2)) {
    const value = await probe();
    if (value !== undefined && value !== false) return value;
    if (Date.now() > deadline) throw new Error(`waited ${timeoutMs} ms in vain for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}
