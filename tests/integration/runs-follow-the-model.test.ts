/**
 * Guarantee: whatever a workflow is made of, and whatever happens to the processes that work it, a run ends as a reader of its code
 * would say. Random programs over all primitives are read by a small pure model and worked by real engines that are stopped, lose
 * their lease, hand over after every step, pause and cancel at random moments. Some fail at a step that is broken, in a branch or a child
 * of a child, until the world is mended, and are retried: then they go on from there. The output is the model's; a row of the journal is
 * there where the model says so and nowhere else, once; what a transaction wrote is there if and only if its step is journaled; steps
 * of a run that nobody interrupted are entered as often as the model says; when all is over nothing waits, holds or works any more.
 *
 * COUNTERSIGN_PROPERTY_RUNS=2000 looks longer. A failure prints seed and path; COUNTERSIGN_PROPERTY_SEED repeats it.
 */
import { setTimeout as pause } from 'node:timers/promises';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { type Engine, openEngine } from '../../src/jobs/engine/engine.ts';
import { openQueue, type WakeQueue } from '../../src/jobs/engine/queue.ts';
import { type Workflow, workflow } from '../../src/jobs/engine/workflow.ts';
import type { Json, RunRef } from '../../src/types.ts';
import { SUSPEND, testLog, until, useDatabase, WORKSPACE } from '../support/database.ts';
import {
  eventsOf,
  HEARD,
  interpret,
  modelOf,
  type Outside,
  type Program,
  type ProgramInput,
  type RunModel,
} from '../support/run-model.ts';
import { broken, programs } from '../support/run-programs.ts';

const base = useDatabase();
const CASES = Number(process.env.COUNTERSIGN_PROPERTY_RUNS ?? 40);
const SEED = process.env.COUNTERSIGN_PROPERTY_SEED;
/** A program that never ends is given so long to come to a stand. */
const HANG_MS = 60;

let driver: Engine;
let queue: WakeQueue;

beforeAll(async () => {
  const admin = new pg.Client({ connectionString: base.adminUrl });
  await admin.connect();
  await admin.query(
    'create table program_effects (place text not null); grant select, insert on program_effects to public',
  );
  await admin.end();
  driver = await openEngine({ database: base.db, log: testLog, workflows: [theWorkflow({})] });
  queue = await openQueue(base.db, testLog);
});
afterAll(async () => {
  await queue?.close();
  await driver?.stop();
});

// ---------------------------------------------------------------------------------------------------------------
// Programs and what happens to them
// ---------------------------------------------------------------------------------------------------------------

interface Poke {
  readonly atMs: number;
  /** A process is stopped without grace; a process is taken for dead and goes on all the same; a run is paused and resumed. */
  readonly what: 'stop' | 'lose' | 'pause';
}
interface Plan {
  readonly suspend: boolean;
  readonly engines: 1 | 2;
  /** Who starts and retries runs: a process that works them, or one that works nothing. */
  readonly starter: 'worker' | 'driver';
  readonly sayAtMs: number;
  readonly cancelAtMs: number | null;
  /** How often what is broken fails its run before the world is mended. */
  readonly failures: 1 | 2;
  /** Retries at once, of which one counts. */
  readonly retriers: 1 | 2;
  readonly pokes: readonly Poke[];
}
interface Case {
  readonly programs: readonly Program[];
  readonly plan: Plan;
}

const plans: fc.Arbitrary<Plan> = fc.record({
  suspend: SUSPEND ? fc.constant(true) : fc.boolean(),
  engines: fc.constantFrom(1 as const, 2 as const),
  starter: fc.constantFrom('worker' as const, 'driver' as const),
  sayAtMs: fc.nat(40),
  cancelAtMs: fc.oneof({ weight: 6, arbitrary: fc.constant(null) }, fc.nat(80)),
  failures: fc.constantFrom(1 as const, 1 as const, 2 as const),
  retriers: fc.constantFrom(1 as const, 2 as const),
  pokes: fc.array(
    fc.record({
      atMs: fc.nat(80),
      what: fc.constantFrom('stop' as const, 'lose' as const, 'pause' as const),
    }),
    { maxLength: 3 },
  ),
});

const cases: fc.Arbitrary<Case> = fc.record({
  programs: fc.array(fc.oneof({ weight: 2, arbitrary: programs(2) }, broken(2)), {
    minLength: 1,
    maxLength: 3,
  }),
  plan: plans,
});

// ---------------------------------------------------------------------------------------------------------------
// The real thing
// ---------------------------------------------------------------------------------------------------------------

const WRITE = 'insert into program_effects (place) values ($1)';

/** The same for every engine; `entered` counts how often the bodies of steps were entered, by place; `mended` holds the places of runs. */
function theWorkflow(
  entered: Record<string, number>,
  mended: ReadonlySet<string> = new Set(),
): Workflow<ProgramInput, Json> {
  const outside: Outside = {
    entered: (place) => {
      entered[place] = (entered[place] ?? 0) + 1;
    },
    // The place of the run that is nobody's child comes first.
    isBroken: (place) => !mended.has(/^[^./]*/.exec(place)?.[0] ?? ''),
    write: async (tx, place) => {
      await tx.query({ text: WRITE, values: [place] });
    },
  };
  const self: Workflow<ProgramInput, Json> = workflow({
    name: 'program',
    version: 1,
    input: z.object({ place: z.string(), program: z.custom<Program>() }),
    body: (step, input) => interpret(step, input, self, outside),
    async onFailure(step, { place }) {
      await step.transact('word', (tx) => outside.write(tx, `${place}!`));
    },
  });
  return self;
}

let serial = 0;

/** Works the case and says everything in which it was not as the model says. */
async function complaints({ programs: bodies, plan }: Case): Promise<string[]> {
  serial += 1;
  const entered: Record<string, number> = {};
  const mended = new Set<string>();
  const flow = theWorkflow(entered, mended);
  const engines: Engine[] = [];
  const open = async () => {
    const engine = await openEngine({
      database: base.db,
      log: testLog,
      workflows: [flow],
      suspendAfterEveryStep: plan.suspend,
    });
    engines.push(engine);
    await engine.work();
  };
  const stopped: Promise<void>[] = [];
  const roots = bodies.map((program, index) => ({ program, place: `case-${serial}-${index}` }));
  const events = roots.flatMap(({ place, program }) => eventsOf(place, program));
  const say = async (early: boolean) => {
    for (const event of events.filter((one) => one.early === early))
      await base.db.transaction((tx) =>
        driver.emit(tx, { workspaceId: WORKSPACE, name: HEARD, key: event.key }, event.key),
      );
  };
  try {
    await say(true);
    for (let count = 0; count < plan.engines; count += 1) await open();
    const speaker = () => (plan.starter === 'worker' ? engines[0] : undefined) ?? driver;
    const runs: RunRef[] = [];
    for (const { place, program } of roots)
      runs.push(
        await base.db.transaction((tx) =>
          speaker().start(tx, {
            workspaceId: WORKSPACE,
            workflowName: flow.name,
            workflowVersion: 1,
            input: { place, program } as unknown as Json,
            origin: 'test',
          }),
        ),
      );
    const models = roots.map(({ place, program }) => modelOf(place, program, plan.failures));
    const cancelled = new Set<string>();
    const cancel = async (run: RunRef) => {
      const { changed } = await base.db.transaction((tx) => driver.control.cancel(tx, run, 'by the plan'));
      if (changed) cancelled.add(run.runId);
    };
    const found: string[] = [];
    /** Mends the world before the last retry; what then hangs is cancelled. */
    const mend = async (run: RunRef, { failures, outcome, place }: RunModel) => {
      for (let failure = 1; failure <= failures; failure += 1) {
        const status = await endOf(run);
        if (status !== 'failed') return;
        if (failure === failures) mended.add(place);
        const retries = await Promise.all(
          Array.from({ length: plan.retriers }, () =>
            base.db.transaction((tx) => speaker().control.retry(tx, run)),
          ),
        );
        const times = retries.filter(({ changed }) => changed).length;
        if (times !== 1) found.push(`${place}: ${times} of ${retries.length} retries at once retried it`);
      }
      if (failures === 0 || outcome.kind !== 'hang') return;
      await pause(HANG_MS);
      await cancel(run);
    };
    const poke = async ({ atMs, what }: Poke) => {
      await pause(atMs);
      if (what === 'pause')
        for (const run of runs) {
          await base.db.transaction((tx) => driver.control.pause(tx, run));
          await pause(5);
          await base.db.transaction((tx) => driver.control.resume(tx, run));
        }
      else {
        const engine = engines.shift();
        await open();
        if (!engine) return;
        if (what === 'lose') await loseLease(engine);
        stopped.push(what === 'stop' ? engine.stop(0) : pause(200).then(() => engine.stop(0)));
      }
    };
    await Promise.all([
      pause(plan.sayAtMs).then(() => say(false)),
      ...plan.pokes.map(poke),
      ...runs.map(async (run, index) => {
        if (plan.cancelAtMs !== null) await pause(plan.cancelAtMs);
        else if (models[index]?.outcome.kind === 'hang' && models[index].failures === 0) await pause(HANG_MS);
        else return;
        await cancel(run);
      }),
      ...models.map(async (model, index) => {
        const run = runs[index];
        if (run) await mend(run, model);
      }),
    ]);
    const tree = await treeOf(runs);
    const interrupted = plan.pokes.some(({ what }) => what !== 'pause');
    for (const [index, run] of runs.entries()) {
      const model = models[index];
      if (model)
        judge(model, run.runId, {
          tree,
          entered,
          exact: !interrupted,
          cancelled: cancelled.has(run.runId),
          certain: true,
          say: (what) => found.push(`program ${index}: ${what}`),
        });
    }
    return found;
  } finally {
    await Promise.all([...stopped, ...engines.map((engine) => engine.stop(0))]);
  }
}

async function endOf(run: RunRef): Promise<string | undefined> {
  let status: string | undefined;
  await until('an end', async () => {
    const { rows } = await base.db.query<{ status: string }>({
      text: 'select status from runs where run_id = $1',
      values: [run.runId],
    });
    status = rows[0]?.status;
    return ENDED.includes(status ?? '');
  }).catch(() => undefined);
  return status;
}

/** What a takeover needs: the lease has ended, somebody is told. The process itself notices nothing and goes on. */
async function loseLease(engine: Engine): Promise<void> {
  await base.db.transaction(async (tx) => {
    await tx.query({ text: 'delete from workers where worker_id = $1', values: [engine.workerId] });
    const { rows } = await tx.query<{ run_id: string }>({
      text: 'select run_id from runs where worker_id = $1',
      values: [engine.workerId],
    });
    await queue.send(
      tx,
      rows.map((row) => ({ workspaceId: WORKSPACE, runId: row.run_id })),
    );
  });
}

interface TreeRun {
  readonly run_id: string;
  readonly parent_run_id: string | null;
  readonly parent_path: string | null;
  readonly child_key: string | null;
  readonly status: string;
  readonly output: Json;
  readonly error: { readonly code: string; readonly message: string } | null;
  readonly worker_id: string | null;
  readonly retry_count: number;
  readonly place: string;
  readonly rows: readonly { path: string; kind: string; outcome: string | null; failed: boolean }[];
}
interface Tree {
  readonly runs: readonly TreeRun[];
  /** How often each place was written. */
  readonly written: ReadonlyMap<string, number>;
}

const ENDED = ['completed', 'failed', 'cancelled', 'parked'];

/** Everything under these runs, once it has ended. */
async function treeOf(roots: readonly RunRef[]): Promise<Tree> {
  const read = async () => {
    const { rows } = await base.db.query<TreeRun>({
      name: 'test_tree',
      text: `with recursive tree as (
               select * from runs where run_id = any ($1)
               union all
               select r.* from runs r join tree t on r.workspace_id = t.workspace_id and r.parent_run_id = t.run_id)
             select run_id, parent_run_id, parent_path, child_key, status, output, error, worker_id, retry_count, input->>'place' as place,
               (select coalesce(json_agg(j), '[]') from (
                  select path, kind, null as outcome, error is not null as failed from steps s
                    where s.workspace_id = tree.workspace_id and s.run_id = tree.run_id
                  union all
                  select path, kind, coalesce(outcome, 'open'), false from waits w
                    where w.workspace_id = tree.workspace_id and w.run_id = tree.run_id) j) as rows
             from tree order by created_at`,
      values: [roots.map((run) => run.runId)],
    });
    return rows;
  };
  let runs: TreeRun[] = [];
  await until('everything to end', async () => {
    runs = await read();
    return runs.every((run) => ENDED.includes(run.status));
  }).catch(() => undefined);
  const { rows } = await base.db.query<{ place: string; count: number }>({
    text: `select place, count(*)::int as count from program_effects where place like $1 group by place`,
    values: [`case-${serial}-%`],
  });
  return { runs, written: new Map(rows.map((row) => [row.place, row.count])) };
}

interface Judging {
  readonly tree: Tree;
  readonly entered: Readonly<Record<string, number>>;
  /** Nobody interrupted a step, so each was entered exactly as often as it says. */
  readonly exact: boolean;
  /** Somebody cancelled it, and was told so. */
  readonly cancelled: boolean;
  /** It was not cancelled by anything above it. */
  readonly certain: boolean;
  readonly say: (what: string) => void;
}

function judge(model: RunModel, runId: string, judging: Judging): void {
  const { tree, entered, exact, cancelled, certain } = judging;
  const run = tree.runs.find((one) => one.run_id === runId);
  const say = (what: string) => judging.say(`${model.place}: ${what} (${JSON.stringify(run)})`);
  if (!run) {
    say('there is no such run');
    return;
  }

  const { outcome, place } = model;
  const expected = { ok: 'completed', error: 'failed', hang: 'cancelled' }[outcome.kind];
  const retries = run.retry_count;
  // What it worked for was cancelled before anybody retried it.
  const stayed = !certain && run.status === 'failed' && retries < model.failures;
  const allowed = cancelled ? ['cancelled'] : certain ? [expected] : [expected, 'cancelled'];
  if (!allowed.includes(run.status) && !stayed) say(`ended as ${run.status}, not ${allowed.join(' or ')}`);
  const whole = run.status !== 'cancelled' && !stayed;
  // A child that was started anew has its place.
  const kin = tree.runs.filter((other) => other.place === place);
  if (run.status === 'completed' && outcome.kind === 'ok')
    if (JSON.stringify(sorted(run.output)) !== JSON.stringify(sorted(outcome.value)))
      say(`gave another output than ${JSON.stringify(outcome.value)}`);
  if (
    whole &&
    run.status === 'failed' &&
    outcome.kind === 'error' &&
    !outcome.codes.has(run.error?.code ?? '')
  )
    say(`failed with another code than ${[...outcome.codes]}`);
  if (run.status !== 'completed' && run.output !== null) say('has an output, though it did not complete');
  if (run.worker_id !== null) say('is held by a worker');

  const paths = run.rows.map((row) => row.path);
  if (new Set(paths).size < paths.length) say('has two rows of one path');
  if (whole ? retries !== model.failures : retries > model.failures) say(`was retried ${retries} times`);
  const open = run.rows.filter((row) => row.outcome === 'open');
  if (open.length > 0) say(`waits for ${open.map((row) => row.path)}`);
  if (run.status === 'completed')
    for (const row of run.rows)
      if (
        model.must.has(row.path) &&
        row.outcome === 'cancelled' &&
        !(retries > 0 && (row.path.includes('~') || paths.includes(nextOf(row.path))))
      )
        say(`completed, though its wait ${row.path} was withdrawn`);
  const missing = whole ? [...model.must].filter((path) => !paths.includes(path)) : [];
  if (missing.length > 0) say(`lacks ${missing}`);
  // What a failure withdrew is waited for again after the retry.
  const withdrawn = run.rows.filter((row) => row.outcome === 'cancelled').map((row) => nextOf(row.path));
  const surplus = paths.filter(
    (path) =>
      !model.must.has(path) &&
      !model.may.has(path) &&
      !path.startsWith('on-failure') &&
      !(retries > 0 && withdrawn.includes(path)),
  );
  if (surplus.length > 0) say(`has besides ${surplus}`);

  for (const [at, path] of model.transacts) {
    const journaled = kin.filter((one) => one.rows.some((row) => row.path === path)).length;
    if ((tree.written.get(at) ?? 0) !== journaled) say(`wrote ${path} ${tree.written.get(at) ?? 0} times`);
  }
  for (const [at, step] of model.runs) {
    const times = entered[at] ?? 0;
    const rows = paths.filter((path) => path.replace(/@\d+$/, '') === step.path).length;
    if (rows > 0 && times < (step.breaks ? rows : step.tries)) say(`entered ${step.path} ${times} times`);
    if (
      exact &&
      whole &&
      kin.length === 1 &&
      !step.besides &&
      model.must.has(step.path) &&
      times !== step.tries
    )
      say(`entered ${step.path} ${times} times, not ${step.tries}`);
  }
  const words = tree.written.get(`${place}!`) ?? 0;
  const unhappy = kin.map((one) => one.retry_count + (one.status === 'completed' ? 0 : 1));
  if (words !== unhappy.reduce((sum, count) => sum + count, 0)) say(`ran onFailure ${words} times`);

  const children = tree.runs.filter((one) => one.parent_run_id === runId);
  for (const child of model.children) {
    const found = children.filter((one) => one.parent_path === child.path && one.child_key === child.key);
    // A failure of this run cancelled the earlier ones.
    const one = found.pop();
    if (found.length > retries) say(`started ${child.path} ${child.key} ${found.length + 1} times`);
    for (const earlier of found)
      judge(child.model, earlier.run_id, { ...judging, cancelled: true, certain: false });
    const needed = whole && child.required;
    if (!one && needed) say(`did not start ${child.path} ${child.key}`);
    if (one)
      judge(child.model, one.run_id, {
        ...judging,
        cancelled: false,
        certain: needed,
      });
  }
  if (children.some((one) => !model.children.some((child) => child.path === one.parent_path)))
    say('started a child that nobody asked for');
}

/** Where the journal keeps what is done at `path` once more. */
function nextOf(path: string): string {
  const [base = path, generation = '1'] = path.split('@');
  return `${base}@${Number(generation) + 1}`;
}

/** Keys in order: the database gives them back as it stored them. */
function sorted(value: Json): Json {
  if (Array.isArray(value)) return (value as readonly Json[]).map(sorted);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner as Json)]),
  );
}

test(
  `${CASES} random cases end as the model says`,
  async () => {
    await fc.assert(
      fc.asyncProperty(cases, async (one) => {
        expect(await complaints(one)).toEqual([]);
      }),
      {
        numRuns: CASES,
        ...(SEED === undefined ? {} : { seed: Number(SEED) }),
        endOnFailure: process.env.COUNTERSIGN_PROPERTY_SHRINK !== 'true',
      },
    );
  },
  CASES * 10_000,
);
