/**
 * The wake-up queue: the only file that knows pg-boss.
 *
 * A job is a wake-up `{workspaceId, runId}`, never the truth: it may come twice, late or not at all, and the sweeper sends
 * again what was lost. Each send notifies workers by name of run and job, so that a worker with a free slot claims at
 * once; `fetch` is the net and the backlog path.
 *
 * Measured traps this file keeps away (pg-boss 12.38): `work()` polls; one job id per run loses wake-ups, so each send has a fresh id;
 * policies per key lose wake-ups, so the queue is `standard`; a never-analysed job table gets bad plans, so jobs are deleted in batches.
 */
import { createHash, randomUUIDv7 } from 'node:crypto';
import { type Db, PgBoss } from 'pg-boss';
import type { Logger } from '../../log.ts';
import type { Queryable, RunRef, Statement } from '../../types.ts';

const SCHEMA = 'pgboss';
const QUEUE = 'run-wakeups';
/** A fetched wake-up that nobody deleted: its process died. The sweeper has long since sent another. */
const EXPIRE_SECONDS = 60;
/** Statement texts of pg-boss that are prepared by name; it builds a handful, bounded here against surprises. */
const MAX_PREPARED = 64;

/** NOTIFY channel of wake-ups and of everything else that should reach running workers. */
export const WAKE_CHANNEL = 'countersign_wake';

export interface Wake extends RunRef {
  readonly jobId: string;
}

export interface WakeQueue {
  /**
   * Adds a wake-up and its notification to the caller's transaction: both come with the commit, or not at all. `along` is a statement whose
   * rows nobody wants to see, in one statement with the rest: given a pool, all of it commits by itself.
   */
  send(tx: Queryable, runs: readonly RunRef[], along?: Statement): Promise<void>;
  /** Takes up to `count` waiting wake-ups; another process does not get them. */
  fetch(count: number): Promise<Wake[]>;
  /** Deletes wake-ups that were acted upon. Repeatable. */
  discard(jobIds: readonly string[]): Promise<void>;
  /** Runs pg-boss's own upkeep once: expires what dead processes fetched, drops what is old. Also runs by itself every minute. */
  maintain(): Promise<void>;
  close(): Promise<void>;
}

/**
 * Opens the queue on an installed schema. `database` carries every statement that is not in a caller's transaction. `upkeep` (default `true`):
 * this process keeps the queue by itself; one that only sends, and ends soon, leaves that to the others.
 */
export async function openQueue(
  database: Queryable,
  log: Logger,
  { upkeep = true }: { readonly upkeep?: boolean } = {},
): Promise<WakeQueue> {
  const boss = new PgBoss({
    db: adapt(database),
    schema: SCHEMA,
    // Installed by the migrator; the app's role may not.
    migrate: false,
    createSchema: false,
    schedule: false,
    // Expires what dead processes fetched and drops what is old; these two would need ownership of the tables.
    supervise: upkeep,
    reindex: false,
    monitorVacuum: false,
  });
  boss.on('error', (error) => log.warn({ err: error.message }, 'queue maintenance failed'));
  await boss.start();

  return {
    async send(tx, runs, along) {
      if (runs.length === 0) return;
      const jobs = runs.map((run) => ({
        id: randomUUIDv7(),
        data: { workspaceId: run.workspaceId, runId: run.runId },
      }));
      const payloads = jobs.map((job) => encodeWake({ ...job.data, jobId: job.id }));
      await boss.insert(QUEUE, jobs, { db: insertAndRing(tx, payloads, along) });
    },

    async fetch(count) {
      const jobs = await boss.fetch<RunRef>(QUEUE, { batchSize: count });
      return jobs.map((job) => ({ workspaceId: job.data.workspaceId, runId: job.data.runId, jobId: job.id }));
    },

    async discard(jobIds) {
      if (jobIds.length > 0) await boss.deleteJob(QUEUE, [...jobIds]);
    },

    maintain: () => boss.supervise(QUEUE),
    async close() {
      await boss.stop({ graceful: false, close: false });
    },
  };
}

/** The text of a notification: three words, no quoting needed since ids hold no spaces. */
export function encodeWake(wake: Wake): string {
  return `run ${wake.workspaceId} ${wake.runId} ${wake.jobId}`;
}

/** Undefined for anything that is not a wake-up. */
export function decodeWake(payload: string): Wake | undefined {
  const [word, workspaceId, runId, jobId] = payload.split(' ');
  return word === 'run' && workspaceId && runId && jobId ? { workspaceId, runId, jobId } : undefined;
}

/**
 * Installs or upgrades pg-boss's schema and our queue, and lets the app's role use them. For the migrator, under its lock.
 * `execute` runs as the owner.
 */
export async function installQueue(
  adminUrl: string,
  execute: (sql: string) => Promise<unknown>,
  quotedAppRole: string,
): Promise<void> {
  const boss = new PgBoss({
    connectionString: adminUrl,
    schema: SCHEMA,
    schedule: false,
    supervise: false,
    max: 2,
  });
  boss.on('error', () => undefined);
  await boss.start();
  try {
    await boss.createQueue(QUEUE, {
      policy: 'standard',
      retryLimit: 0,
      expireInSeconds: EXPIRE_SECONDS,
      deleteAfterSeconds: 3_600,
      notify: false,
    });
  } finally {
    await boss.stop({ graceful: false });
  }
  await execute(`grant usage on schema ${SCHEMA} to ${quotedAppRole}`);
  await execute(`grant select, insert, update, delete on all tables in schema ${SCHEMA} to ${quotedAppRole}`);
  await execute(`grant usage on all sequences in schema ${SCHEMA} to ${quotedAppRole}`);
  await execute(`grant execute on all functions in schema ${SCHEMA} to ${quotedAppRole}`);
}

/** pg-boss's one-method database, over ours; its few statement texts become prepared statements. */
function adapt(target: Queryable): Db {
  return {
    async executeSql(text: string, values?: unknown[]) {
      // Upkeep sends several statements in one text, which cannot be prepared; those carry no values.
      const name = values === undefined || values.length === 0 ? undefined : preparedName(text);
      const { rows } = await target.query({
        text,
        values: values ?? [],
        ...(name === undefined ? {} : { name }),
      });
      return { rows };
    },
  };
}

/**
 * pg-boss's one insert, the notifications and `along` as one statement: each insert is a part of a `with`, which runs whole whether or not
 * its rows are read. Parameters of `along` come last, renumbered.
 */
function insertAndRing(tx: Queryable, payloads: readonly string[], along: Statement | undefined): Db {
  return {
    async executeSql(insertJobs: string, values: unknown[] = []) {
      const ring = values.length + 1;
      const alongText = along?.text.replaceAll(/\$(\d+)/g, (_, place: string) => `$${ring + Number(place)}`);
      const text = `with ${alongText === undefined ? '' : `along as (${alongText}), `}jobs as (${insertJobs})
        select pg_notify('${WAKE_CHANNEL}', payload) from unnest($${ring}::text[]) as payload`;
      const name = preparedName(text);
      await tx.query({
        text,
        values: [...values, payloads, ...(along?.values ?? [])],
        ...(name === undefined ? {} : { name }),
      });
      return { rows: [] };
    },
  };
}

const prepared = new Map<string, string>();
function preparedName(text: string): string | undefined {
  const known = prepared.get(text);
  if (known !== undefined) return known;
  if (prepared.size >= MAX_PREPARED) return undefined;
  const name = `boss_${createHash('sha256').update(text).digest('hex').slice(0, 24)}`;
  prepared.set(text, name);
  return name;
}
