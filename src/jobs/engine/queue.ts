/**
 * The wake-up queue: the only file that knows pg-boss.
 *
 * A job is a wake-up `{workspaceId, runId}`, never the truth: it may come twice, late or not at all, and the sweeper sends
 * again what was lost. Each send tells workers the name of run and job, so that one with a free slot claims at once: this process's own
 * worker after the commit, without the database; where there is none, all of them by a notification. `fetch` is the net and the
 * backlog path.
 *
 * Measured traps this file keeps away (pg-boss 12.38): `work()` polls; one job id per run loses wake-ups, so each send has a fresh id;
 * policies per key lose wake-ups, so the queue is `standard`; a never-analysed job table gets bad plans, so jobs are deleted in batches.
 */
import { createHash, randomUUIDv7 } from 'node:crypto';
import { type Db, PgBoss } from 'pg-boss';
import type { Logger } from '../../log.ts';
import type { Queryable, RunRef, Statement } from '../../types.ts';
import { whenCommitted } from './db.ts';

const SCHEMA = 'pgboss';
const QUEUE = 'run-wakeups';
/** A fetched wake-up that nobody deleted: its process died. The sweeper has long since sent another. */
const EXPIRE_SECONDS = 60;
/** A completed wake-up is of no use; most are deleted at once. */
const DELETE_AFTER_SECONDS = 3_600;
/** Statement texts of pg-boss that are prepared by name; it builds a handful, bounded here against surprises. */
const MAX_PREPARED = 64;

/** NOTIFY channel of wake-ups and of everything else that should reach running workers. */
export const WAKE_CHANNEL = 'countersign_wake';

export interface Wake extends RunRef {
  readonly jobId: string;
}

export interface WakeQueue {
  /**
   * Adds wake-ups to the caller's transaction: they come with the commit, or not at all. `along` is a statement whose rows nobody wants to
   * see, in one statement with the rest: given a pool, all of it commits by itself.
   */
  send(tx: Queryable, runs: readonly RunRef[], along?: Statement): Promise<void>;
  /**
   * From now on what is sent here is given to `take` after its commit, and nobody else is notified: `take` tells the others of what it will
   * not work at once. Undefined ends that.
   */
  takeHere(take: ((wake: Wake) => void) | undefined): void;
  /** Takes up to `count` waiting wake-ups; another process does not get them. */
  fetch(count: number): Promise<Wake[]>;
  /** Whether more than `count` wake-ups wait to be taken. Costs as much as reading that many. */
  isLonger(count: number): Promise<boolean>;
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

  let take: ((wake: Wake) => void) | undefined;
  return {
    async send(tx, runs, along) {
      if (runs.length === 0) return;
      const sent = runs.map(({ workspaceId, runId }) => ({ workspaceId, runId, jobId: randomUUIDv7() }));
      // Notifications make commits wait for one another: who works by itself needs none.
      const taker = take;
      await tx.query(insertJobs(sent, taker === undefined, along));
      if (!taker) return;
      whenCommitted(tx, () => {
        for (const wake of sent) taker(wake);
      });
    },

    takeHere(taker) {
      take = taker;
    },

    async fetch(count) {
      const jobs = await boss.fetch<RunRef>(QUEUE, { batchSize: count });
      return jobs.map((job) => ({ workspaceId: job.data.workspaceId, runId: job.data.runId, jobId: job.id }));
    },

    async isLonger(count) {
      const { rowCount } = await database.query({
        name: 'queue_longer',
        text: `select 1 from ${SCHEMA}.job where name = '${QUEUE}' and state < 'active' offset $1 limit 1`,
        values: [count],
      });
      return rowCount === 1;
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
      deleteAfterSeconds: DELETE_AFTER_SECONDS,
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
 * The jobs of some wake-ups, their notifications and `along` as one statement: each insert is a part of a `with`, which runs whole whether
 * or not its rows are read. Parameters of `along` come last, renumbered.
 *
 * The insert is ours: pg-boss documents its job table for that (docs/sql/job-table.md), and its own, made for every option of every
 * queue, took a third of what starting a run costs.
 */
function insertJobs(sent: readonly Wake[], notify: boolean, along: Statement | undefined): Statement {
  const jobs = `insert into ${SCHEMA}.job (id, name, data, retry_limit, expire_seconds, deletion_seconds)
    select job_id, '${QUEUE}', jsonb_build_object('workspaceId', workspace_id, 'runId', run_id), 0, ${EXPIRE_SECONDS}, ${DELETE_AFTER_SECONDS}
    from unnest($1::uuid[], $2::text[], $3::uuid[]) as sent (job_id, workspace_id, run_id)`;
  const values: unknown[] = [
    sent.map((wake) => wake.jobId),
    sent.map((wake) => wake.workspaceId),
    sent.map((wake) => wake.runId),
  ];
  if (notify) values.push(sent.map(encodeWake));
  const parts = [`jobs as (${jobs})`];
  if (along) {
    const taken = values.length;
    parts.push(`along as (${along.text.replaceAll(/\$(\d+)/g, (_, place) => `$${taken + Number(place)}`)})`);
    values.push(...(along.values ?? []));
  }
  const rest = notify
    ? `select pg_notify('${WAKE_CHANNEL}', payload) from unnest($4::text[]) as payload`
    : 'select';
  return {
    name: `wakes_send${notify ? '_notify' : ''}${along ? `_${along.name}` : ''}`,
    text: `with ${parts.join(', ')} ${rest}`,
    values,
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
