/**
 * What the crash matrix stands on: processes that end at a point, an outside that counts, somebody who emits the events, and the look at a
 * run from outside.
 *
 * Invariant: a run's workflow has a name of its own, so that only the process meant for it works it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll } from 'vitest';
import type { Database } from '../../../src/jobs/engine/db.ts';
import { type Engine, openEngine } from '../../../src/jobs/engine/engine.ts';
import type { Json, RunRef } from '../../../src/types.ts';
import { type TestDatabase, testLog, until, WORKSPACE } from '../../support/database.ts';
import { type Bodies, EVENTS, MATRIX_TABLE, reference } from './reference.ts';
import type { Orders } from './worker.ts';

const EMIT_EVERY_MS = 20;
const ENDED = ['completed', 'failed', 'cancelled', 'parked'];

/** One row of the journal, a step's or a wait's. */
export interface Entry {
  readonly path: string;
  /** Where it stands in the family of runs, with its slash: a child's entries stand in a branch of the step that started it. */
  readonly branch: string;
  readonly kind: string;
}

/** A run and its children as they look from outside. */
export interface Look {
  readonly status: string;
  readonly output: Json;
  /** Of the children, sorted. */
  readonly childStatuses: readonly string[];
  /** Finished entries, oldest first; without those of cancelled children, who may be stopped anywhere. */
  readonly journal: readonly Entry[];
  readonly openWaits: readonly string[];
  /** Rows written under an older fence than one before them. */
  readonly outOfOrder: number;
  readonly counters: Readonly<Record<string, number>>;
  /** Calls that the outside got, and how many different keys they came under, by path. */
  readonly calls: Readonly<Record<string, { readonly calls: number; readonly keys: number }>>;
}

export interface Started {
  readonly pid: number;
  /** How it ended and what it printed. */
  readonly ended: Promise<{ readonly signal: string | null; readonly said: string }>;
  end(): Promise<void>;
}

export interface Matrix {
  /** Starts a process and waits until it works. */
  process(orders: Pick<Orders, 'workflows' | 'death'>): Promise<Started>;
  /** An engine in this process. */
  engine(database: Database, workflow: string, bodies?: Partial<Bodies>): Promise<Engine>;
  /** Before `start`: the workflows it may be called for. */
  prepare(workflows: readonly string[]): Promise<void>;
  start(workflow: string): Promise<RunRef>;
  look(run: RunRef): Promise<Look>;
  /** Waits until the run and its children have ended. */
  ended(run: RunRef): Promise<Look>;
}

/** Call at the top of a file, below `useDatabase`. */
export function useMatrix(base: TestDatabase): Matrix {
  const seen = new Map<string, { calls: number; keys: Set<string> }>();
  const outside = createServer(async (request, response) => {
    let text = '';
    for await (const chunk of request) text += chunk;
    const call = JSON.parse(text) as { runId: string; path: string; idempotencyKey: string };
    const id = `${call.runId} ${call.path}`;
    const known = seen.get(id) ?? { calls: 0, keys: new Set<string>() };
    seen.set(id, known);
    known.calls += 1;
    known.keys.add(call.idempotencyKey);
    response.end('{}');
  });
  const outsideUrl = () => `http://127.0.0.1:${(outside.address() as AddressInfo).port}`;
  const children = new Set<ChildProcess>();
  const engines: Engine[] = [];
  let cacheDir = '';
  let starter: Engine | undefined;
  let emitting = true;
  let emitter: Promise<void> | undefined;

  beforeAll(async () => {
    cacheDir = await mkdtemp(path.join(tmpdir(), 'countersign-matrix-'));
    await once(outside.listen(0, '127.0.0.1'), 'listening');
    const admin = new pg.Client({ connectionString: base.adminUrl });
    await admin.connect();
    await admin.query(MATRIX_TABLE);
    const appRole = pg.escapeIdentifier(new URL(base.appUrl).username);
    await admin.query(`grant select, insert, update on matrix_counters to ${appRole}`);
    await admin.end();
    emitter = emitLate();
  });
  afterAll(async () => {
    emitting = false;
    await emitter;
    for (const child of children) child.kill('SIGKILL');
    for (const engine of engines) await engine.stop(500);
    outside.closeAllConnections();
    outside.close();
    await rm(cacheDir, { recursive: true, force: true });
  });

  async function emitLate(): Promise<void> {
    const engine = await openEngine({ database: base.db, log: testLog, workflows: [] });
    while (emitting) {
      const { rows } = await base.db.query<{ event_key: string }>({
        text: `select distinct event_key from waits w where outcome is null and event_name = $1
               and not exists (select 1 from events e where e.event_name = w.event_name and e.event_key = w.event_key)`,
        values: [EVENTS.late],
      });
      for (const { event_key: key } of rows) await emit(engine, 'late', key);
      await pause(EMIT_EVERY_MS);
    }
    await engine.stop();
  }

  const emit = (engine: Engine, name: keyof typeof EVENTS, key: string) =>
    base.db.transaction((tx) =>
      engine.emit(tx, { workspaceId: WORKSPACE, name: EVENTS[name], key }, `word of ${name}`),
    );

  const matrix: Matrix = {
    async process(orders) {
      const child = spawn(process.execPath, [path.join(import.meta.dirname, 'worker.ts')], {
        stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
        env: {
          PATH: process.env.PATH,
          HOME: process.env.HOME,
          NODE_COMPILE_CACHE: cacheDir,
          MATRIX: JSON.stringify({
            ...orders,
            databaseUrl: base.appUrl,
            outsideUrl: outsideUrl(),
          } satisfies Orders),
        },
      });
      children.add(child);
      let said = '';
      child.stdout?.setEncoding('utf8').on('data', (text: string) => {
        said += text;
      });
      const ended = once(child, 'close').then(([, signal]) => {
        children.delete(child);
        return { signal: signal as string | null, said };
      });
      const working = once(child, 'message').then(() => true);
      if (!(await Promise.race([working, ended.then(() => false)])))
        throw new Error('The process ended before it worked.');
      return {
        pid: child.pid ?? 0,
        ended,
        async end() {
          child.kill('SIGTERM');
          await ended;
        },
      };
    },
    async engine(database, workflow, bodies = {}) {
      const workflows = reference(workflow, {
        meet: () => Promise.resolve(),
        outsideUrl: outsideUrl(),
        ...bodies,
      });
      const engine = await openEngine({ database, log: testLog, workflows });
      engines.push(engine);
      return engine;
    },
    async prepare(names) {
      const workflows = names.flatMap((name) =>
        reference(name, { meet: () => Promise.resolve(), outsideUrl: outsideUrl() }),
      );
      starter = await openEngine({ database: base.db, log: testLog, workflows });
      engines.push(starter);
    },
    async start(workflow) {
      const engine = starter;
      if (!engine) throw new Error('prepare comes first');
      await emit(engine, 'early', workflow);
      return base.db.transaction((tx) =>
        engine.start(tx, {
          workspaceId: WORKSPACE,
          workflowName: workflow,
          input: { key: workflow },
          origin: 'signal',
        }),
      );
    },
    look: (run) => lookAt(base.db, run, seen),
    ended: (run) =>
      until(`run ${run.runId} to end`, async () => {
        const look = await matrix.look(run);
        return [look.status, ...look.childStatuses].every((status) => ENDED.includes(status)) && look;
      }),
  };
  return matrix;
}

async function lookAt(
  db: Database,
  run: RunRef,
  seen: ReadonlyMap<string, { readonly calls: number; readonly keys: ReadonlySet<string> }>,
): Promise<Look> {
  // One statement: one snapshot.
  const { rows } = await db.query<{
    runs: { run_id: string; is_root: boolean; status: string; output: Json }[];
    journal: Entry[];
    out_of_order: number;
    open_waits: string[];
    counters: Record<string, number>;
  }>({
    text: `with recursive family as (
             select run_id, '' as prefix, status, output from runs where run_id = $1
             union all
             select r.run_id, f.prefix || r.parent_path || '/' || r.child_key || '/', r.status, r.output
             from runs r join family f on r.parent_run_id = f.run_id),
           written as (
             select run_id, prefix, path, kind, finished_at as at,
               (fence < max(fence) over (partition by run_id order by finished_at))::int as is_out_of_order
             from steps join family using (run_id) where status <> 'cancelled'
             union all
             select run_id, prefix, path, kind, resolved_at, 0
             from waits join family using (run_id) where outcome is not null and status <> 'cancelled')
           select (select json_agg(json_build_object('run_id', run_id, 'is_root', prefix = '', 'status', status, 'output', output)) from family) as runs,
             (select coalesce(json_agg(json_build_object(
                'path', path, 'branch', prefix || substring(path from '^(?:.*/)?'), 'kind', kind) order by at), '[]') from written) as journal,
             (select coalesce(sum(is_out_of_order), 0)::int from written) as out_of_order,
             array(select path from waits join family using (run_id) where outcome is null order by path) as open_waits,
             (select coalesce(json_object_agg(path, added_count), '{}') from matrix_counters join family using (run_id)) as counters`,
    values: [run.runId],
  });
  const [row] = rows;
  const root = row?.runs?.find((one) => one.is_root);
  if (!row || !root) throw new Error(`no run ${run.runId}`);
  const calls: Record<string, { calls: number; keys: number }> = {};
  for (const [id, known] of seen) {
    const [runId, place] = id.split(' ');
    if (place && row.runs.some((one) => one.run_id === runId))
      calls[place] = { calls: known.calls, keys: known.keys.size };
  }
  return {
    status: root.status,
    output: root.output,
    childStatuses: row.runs.flatMap((one) => (one.is_root ? [] : [one.status])).sort(),
    journal: row.journal,
    openWaits: row.open_waits,
    outOfOrder: row.out_of_order,
    counters: row.counters,
    calls,
  };
}
