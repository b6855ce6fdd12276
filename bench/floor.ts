/**
 * The floor: what a bare `pg` program needs for the same commits. It holds the same fence under the same lock and leaves rows of the same
 * shape, and has nothing else: no queue, no timers, no recovery, no workflow code.
 *
 * Its tables are copies of the engine's (columns, defaults, checks, indexes) without triggers and foreign keys, so that the guards the
 * product adds count against the engine.
 */
import { randomUUIDv7 } from 'node:crypto';
import pg from 'pg';
import { WORKSPACE } from './world.ts';

/** For the owner. `@app_role@` is replaced as in a migration. */
export const FLOOR_TABLES = `
  create table floor_runs (like runs including all) with (fillfactor = 70);
  create table floor_steps (like steps including all);
  create table floor_waits (like waits including all);
  create table floor_events (like events including all);
  create table floor_inbox (event_id text primary key, payload json not null);
  grant select, insert, update on floor_runs, floor_steps, floor_waits, floor_events, floor_inbox to @app_role@;`;

const CHANNEL = 'bench_floor';
const WORKER = '00000000-0000-7000-8000-000000000001';

/** Connections that stay open between rounds, as an engine's do. */
export interface Floor {
  /** Drains `runs` runs of `steps` steps over all connections, one run after the other on each; steps per second. */
  throughput(runs: number, steps: number): Promise<number>;
  /** The same for runs that were started before the clock was. */
  backlog(runs: number, steps: number): Promise<number>;
  /** Starts and parks one run, then: ms from before the emitting transaction until the listener has claimed and read the journal. */
  wake(): Promise<number>;
  /** Ms from before the starting transaction until the listener has claimed and read the journal. */
  enqueue(): Promise<number>;
  /** One run of `steps` steps on one connection; ms of each. */
  stepTimes(steps: number): Promise<number[]>;
  close(): Promise<void>;
}

export async function openFloor(url: string, connections = 10): Promise<Floor> {
  const clients = await Promise.all(Array.from({ length: connections }, () => connect(url)));
  const [first, second] = clients;
  if (!first || !second) throw new RangeError('the floor needs two connections');
  const listener = await connect(url);
  await listener.query(`listen ${CHANNEL}`);
  let onWake: (runId: string) => void = () => undefined;
  listener.on('notification', (message) => onWake(message.payload ?? ''));

  /** Resolves with the instant at which whoever heard the notification could run the next step. */
  const nextStep = (worker: pg.Client): Promise<number> => {
    const reached = Promise.withResolvers<number>();
    onWake = (runId) => {
      (async () => {
        await claim(worker, runId);
        await readJournal(worker, runId);
        reached.resolve(performance.now());
      })().catch(reached.reject);
    };
    return reached.promise;
  };

  const drain = async (client: pg.Client, runId: string, steps: number): Promise<void> => {
    const fence = await claim(client, runId);
    await readJournal(client, runId);
    for (let n = 0; n < steps; n += 1) await journal(client, runId, fence, n);
    await end(client, runId, fence);
  };

  return {
    async throughput(runs, steps) {
      let left = runs;
      const startedAt = performance.now();
      await Promise.all(
        clients.map(async (client) => {
          while (left > 0) {
            left -= 1;
            const runId = randomUUIDv7();
            await start(client, runId);
            await drain(client, runId, steps);
          }
        }),
      );
      return perSecond(runs * steps, startedAt);
    },

    async backlog(runs, steps) {
      const waiting = Array.from({ length: runs }, () => randomUUIDv7());
      await first.query(
        `insert into floor_runs (workspace_id, run_id, workflow_name, workflow_version, input, origin)
         select $1, id, 'floor', 1, '{"n":1}', 'signal' from unnest($2::uuid[]) as id`,
        [WORKSPACE, waiting],
      );
      const startedAt = performance.now();
      await Promise.all(
        clients.map(async (client) => {
          for (let runId = waiting.pop(); runId !== undefined; runId = waiting.pop())
            await drain(client, runId, steps);
        }),
      );
      return perSecond(runs * steps, startedAt);
    },

    async wake() {
      const runId = randomUUIDv7();
      await start(first, runId);
      const fence = await claim(first, runId);
      await journal(first, runId, fence, 0);
      await park(first, runId, fence);

      const reached = nextStep(second);
      const startedAt = performance.now();
      await emit(first, runId);
      const reachedAt = await reached;
      await end(second, runId, fence + 1);
      return reachedAt - startedAt;
    },

    async enqueue() {
      const runId = randomUUIDv7();
      const reached = nextStep(second);
      const startedAt = performance.now();
      await first.query('begin');
      await start(first, runId);
      await first.query({
        name: 'floor_notify',
        text: `select pg_notify('${CHANNEL}', $1)`,
        values: [runId],
      });
      await first.query('commit');
      const reachedAt = await reached;
      await end(second, runId, 1);
      return reachedAt - startedAt;
    },

    async stepTimes(steps) {
      const runId = randomUUIDv7();
      await start(first, runId);
      const fence = await claim(first, runId);
      const times: number[] = [];
      for (let n = 0; n < steps; n += 1) {
        const startedAt = performance.now();
        await journal(first, runId, fence, n);
        times.push(performance.now() - startedAt);
      }
      await end(first, runId, fence);
      return times;
    },

    async close() {
      await Promise.all([...clients, listener].map((client) => client.end()));
    },
  };
}

async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, application_name: 'countersign-bench-floor' });
  // A lost connection fails the query under way, or the next one; between two it must not end the process.
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

async function start(client: pg.Client, runId: string): Promise<void> {
  await client.query({
    name: 'floor_start',
    text: `insert into floor_runs (workspace_id, run_id, workflow_name, workflow_version, input, origin)
           values ($1, $2, 'floor', 1, $3, 'signal')`,
    values: [WORKSPACE, runId, '{"n":1}'],
  });
}

async function claim(client: pg.Client, runId: string): Promise<number> {
  const { rows } = await client.query<{ fence: string }>({
    name: 'floor_claim',
    text: `update floor_runs set status = 'running', fence = fence + 1, worker_id = $3
           where workspace_id = $1 and run_id = $2 and status = 'queued'
           returning fence, input, workflow_name, workflow_version`,
    values: [WORKSPACE, runId, WORKER],
  });
  if (!rows[0]) throw new Error('the floor claimed nothing');
  return Number(rows[0].fence);
}

async function readJournal(client: pg.Client, runId: string): Promise<number> {
  const { rows } = await client.query({
    name: 'floor_journal',
    text: `select path, kind, input_hash, error, result, null as outcome, finished_at
             from floor_steps where workspace_id = $1 and run_id = $2
           union all
           select path, kind, input_hash, null, payload, outcome, resolved_at
             from floor_waits where workspace_id = $1 and run_id = $2 and outcome is not null`,
    values: [WORKSPACE, runId],
  });
  return rows.length;
}

async function journal(client: pg.Client, runId: string, fence: number, n: number): Promise<void> {
  const { rowCount } = await client.query({
    name: 'floor_step',
    text: `with held as (
             select 1 from floor_runs where workspace_id = $1 and run_id = $2 and fence = $3 and status = 'running' for share)
           insert into floor_steps (workspace_id, run_id, path, kind, fence, result, started_at)
           select $1, $2, $4, 'run', $3, $5, $6 from held
           returning finished_at`,
    values: [WORKSPACE, runId, fence, `step-${n}`, JSON.stringify({ n }), new Date()],
  });
  if (rowCount !== 1) throw new Error('the floor lost its fence');
}

async function park(client: pg.Client, runId: string, fence: number): Promise<void> {
  await client.query(
    `insert into floor_waits (workspace_id, run_id, path, kind, event_name, event_key, deadline_at)
     values ($1, $2, 'go', 'event', 'bench.go', $3, db_now() + interval '1 hour')`,
    [WORKSPACE, runId, runId],
  );
  await client.query(
    `update floor_runs set status = 'waiting', worker_id = null where workspace_id = $1 and run_id = $2 and fence = $3`,
    [WORKSPACE, runId, fence],
  );
}

/** The key's lock comes in a statement of its own: a snapshot taken while waiting for it would be too old. */
async function emit(client: pg.Client, runId: string): Promise<void> {
  await client.query('begin');
  await client.query({
    name: 'floor_lock',
    text: 'select pg_advisory_xact_lock(hashtextextended($1, 0))',
    values: [`${WORKSPACE}\nbench.go\n${runId}`],
  });
  await client.query({
    name: 'floor_emit',
    text: `with stored as (
             insert into floor_events (workspace_id, event_name, event_key, payload) values ($1, 'bench.go', $2, $3)
             on conflict do nothing returning 1),
           resolved as (
             update floor_waits set outcome = 'event', payload = $3, resolved_at = db_now()
             where workspace_id = $1 and event_name = 'bench.go' and event_key = $2 and outcome is null
               and exists (select 1 from stored)
             returning run_id),
           woken as (
             update floor_runs set status = 'queued', queued_at = db_now()
             where workspace_id = $1 and run_id in (select run_id from resolved) and status = 'waiting'
             returning run_id)
           select pg_notify('${CHANNEL}', run_id::text) from woken`,
    values: [WORKSPACE, runId, '{"go":true}'],
  });
  await client.query('commit');
}

async function end(client: pg.Client, runId: string, fence: number): Promise<void> {
  const { rowCount } = await client.query({
    name: 'floor_end',
    text: `update floor_runs set status = 'completed', output = $4, worker_id = null, finished_at = db_now()
           where workspace_id = $1 and run_id = $2 and fence = $3 and status = 'running'`,
    values: [WORKSPACE, runId, fence, 'null'],
  });
  if (rowCount !== 1) throw new Error('the floor lost its run');
}

function perSecond(count: number, startedAt: number): number {
  return (count * 1_000) / (performance.now() - startedAt);
}
