/**
 * What the tests of the engine share: workflows of their own, engines that end with their test, and a run's row as the judge.
 */
import { afterEach } from 'vitest';
import { z } from 'zod';
import type { Database } from '../../src/jobs/engine/db.ts';
import { type Engine, type EngineOptions, openEngine } from '../../src/jobs/engine/engine.ts';
import { type Workflow, workflow } from '../../src/jobs/engine/workflow.ts';
import type { Json, RunRef, Statement, Step } from '../../src/types.ts';
import { SUSPEND, type TestDatabase, testLog, until, WORKSPACE } from '../support/database.ts';

export interface RunRow {
  readonly status: string;
  readonly output: Json;
  readonly error: { readonly code: string; readonly message: string } | null;
  readonly worker_id: string | null;
  readonly fence: number;
}

let serial = 0;
type Input = { n: number };

/** A workflow of its own per test, so that no two tests' runs meet. */
export function define<Output>(
  body: (step: Step, input: Input) => Promise<Output>,
  name = `w-${++serial}`,
  version = 1,
  rest: Pick<Workflow<Input, Output>, 'onFailure' | 'cancelOn'> = {},
): Workflow<Input, Output> {
  return workflow({ name, version, input: z.object({ n: z.number() }), body, ...rest });
}

/** Call at the top of a file. */
export function useEngines(base: TestDatabase) {
  const engines: Engine[] = [];
  afterEach(async () => {
    for (const engine of engines.splice(0)) await engine.stop(500);
    await base.setClock('0');
  });
  const runRow = async (run: RunRef): Promise<RunRow> => {
    const { rows } = await base.db.query<RunRow>({
      text: 'select status, output, error, worker_id, fence from runs where run_id = $1',
      values: [run.runId],
    });
    if (!rows[0]) throw new Error('no run');
    return rows[0];
  };
  return {
    runRow,
    async engineWith(workflows: readonly Workflow[], options: Partial<EngineOptions> = {}): Promise<Engine> {
      const engine = await openEngine({
        database: base.db,
        log: testLog,
        suspendAfterEveryStep: SUSPEND,
        ...options,
        workflows,
      });
      engines.push(engine);
      return engine;
    },
    startRun: (engine: Engine, flow: Workflow, n = 1): Promise<RunRef> =>
      base.db.transaction((tx) =>
        engine.start(tx, {
          workspaceId: WORKSPACE,
          workflowName: flow.name,
          workflowVersion: flow.version,
          input: { n },
          origin: 'signal',
        }),
      ),
    emit: (engine: Engine, name: string, key: string, payload: Json = null): Promise<boolean> =>
      base.db.transaction((tx) => engine.emit(tx, { workspaceId: WORKSPACE, name, key }, payload)),
    /** Children of a run, by key. */
    async childrenOf(run: RunRef): Promise<(RunRow & { child_key: string; run_id: string })[]> {
      const { rows } = await base.db.query<RunRow & { child_key: string; run_id: string }>({
        text: `select run_id, child_key, status, output, error, worker_id, fence from runs
               where parent_run_id = $1 order by child_key, created_at`,
        values: [run.runId],
      });
      return rows;
    },
    /** Paths of the journal in the order of finishing, and of open waits. */
    async journalOf(run: RunRef): Promise<{ path: string; kind: string; outcome: string | null }[]> {
      const { rows } = await base.db.query<{ path: string; kind: string; outcome: string | null }>({
        text: `select path, kind, null as outcome, finished_at as at from steps where run_id = $1
               union all select path, kind, outcome, coalesce(resolved_at, 'infinity') from waits where run_id = $1
               order by at, path`,
        values: [run.runId],
      });
      return rows.map(({ path, kind, outcome }) => ({ path, kind, outcome }));
    },
    ended: (run: RunRef, status: string, timeoutMs?: number): Promise<RunRow> =>
      until(
        `run ${status}`,
        async () => {
          const row = await runRow(run);
          return row.status === status && row;
        },
        timeoutMs,
      ),
  };
}

/** The database with every statement outside a transaction shown to `meet` first, which may delay it or make it fail. */
export function watched(db: Database, meet: (statement: Statement) => Promise<void>): Database {
  return {
    ...db,
    async query(statement) {
      await meet(statement);
      return db.query(statement);
    },
  };
}
