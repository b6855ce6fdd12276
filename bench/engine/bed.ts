/**
 * The test bed of the engine's figures: an engine on a fresh database, workflows that report where they are, and the waits between samples.
 *
 * Invariant: nothing here sits between the engine and its database; what is measured is what the product runs.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import { connectDatabase, type Database } from '../../src/jobs/engine/db.ts';
import { type Engine, openEngine } from '../../src/jobs/engine/engine.ts';
import { type Workflow, workflow } from '../../src/jobs/engine/workflow.ts';
import { createLogger } from '../../src/log.ts';
import type { RunRef, Step } from '../../src/types.ts';
import { type BenchDatabase, WORKSPACE } from '../world.ts';

/** As many as the floor has connections. */
export const SLOTS = 10;
/** More than any figure takes; an event's wait must not time out meanwhile. */
const WAIT_MS = 3_600_000;
/** Ten thousand parks on a busy machine. */
const SETTLE_MS = 600_000;
const EVENT = 'bench.go';

/** Where bodies are: `n` of the run's input is what a mark is known by. */
export class Marks {
  readonly #awaited = new Map<number, (at: number) => void>();
  readonly #ended = new Set<() => void>();
  /** Bodies of `holds` stay where they are while this is set: their process is about to die. */
  holding = false;

  /** Resolves with `performance.now()` at the start of the step's body. Ask before causing it. */
  reached(n: number): Promise<number> {
    return new Promise((resolve) => this.#awaited.set(n, resolve));
  }

  reach(n: number): void {
    const at = performance.now();
    this.#awaited.get(n)?.(at);
    this.#awaited.delete(n);
  }

  onEnd(handler: () => void): () => void {
    this.#ended.add(handler);
    return () => this.#ended.delete(handler);
  }

  end(): void {
    for (const handler of this.#ended) handler();
  }
}

function define(name: string, body: (step: Step, input: { n: number }) => Promise<unknown>): Workflow {
  return workflow({ name, version: 1, input: z.object({ n: z.number() }), body });
}

/** Names are what `Bed.start` takes. */
function workflowsOf(marks: Marks): Workflow[] {
  const steps = async (step: Step, count: number, after: () => void = () => undefined): Promise<void> => {
    for (let n = 0; n < count; n += 1) {
      await step.run(`step-${n}`, async () => ({ n }));
      after();
    }
  };
  const wakes = (journaled: number) => async (step: Step, input: { n: number }) => {
    await steps(step, journaled);
    await step.waitForEvent('go', { event: EVENT, key: String(input.n), timeoutMs: WAIT_MS });
    await step.run('woken', async () => marks.reach(input.n));
  };
  return [
    define('ten-steps', async (step) => {
      await steps(step, 10);
      marks.end();
    }),
    define('thousand-steps', (step) => steps(step, 1_000, () => marks.end())),
    define('holds', (step, input) =>
      step.run('held', async () => {
        marks.reach(input.n);
        if (marks.holding) await new Promise(() => undefined);
      }),
    ),
    define('one-step', (step, input) => step.run('only', async () => marks.reach(input.n))),
    define('wakes-at-once', wakes(0)),
    define('wakes-after-one', wakes(1)),
    define('wakes-after-thousand', wakes(1_000)),
    define('sleeps', async (step, input) => {
      await step.sleep('nap', input.n);
      await step.run('awake', async () => ({ at: Date.now() }));
    }),
  ];
}

export interface Bed {
  readonly engine: Engine;
  readonly database: Database;
  readonly marks: Marks;
  /** Each run in a transaction of its own. */
  start(workflowName: string, n: number): Promise<RunRef>;
  /** All in one transaction. */
  startMany(workflowName: string, inputs: readonly number[]): Promise<void>;
  /** Resolves to ms from before the emitting transaction until the body of the woken run's next step. */
  wake(n: number): Promise<number>;
  /** Waits until nothing is queued or running, whoever works on it. Throws when a run failed or was parked for a person. */
  settled(): Promise<void>;
  close(): Promise<void>;
}

/** A number no other run of this process has. */
export function fresh(): number {
  serial += 1;
  return serial;
}
let serial = 0;

/** Opens an engine that does not work yet: `engine.work()`. */
export async function openBed(
  url: string,
  options: { readonly slots?: number; readonly name?: string } = {},
): Promise<Bed> {
  const log = createLogger({ level: 'error' });
  const database = connectDatabase({
    url,
    log,
    maxConnections: 10,
    name: options.name ?? 'countersign-bench',
  });
  const marks = new Marks();
  const engine = await openEngine({
    database,
    log,
    workflows: workflowsOf(marks),
    slots: options.slots ?? SLOTS,
  });
  const startIn = (workflowName: string, n: number) => ({
    workspaceId: WORKSPACE,
    workflowName,
    input: { n },
    origin: 'signal' as const,
  });
  return {
    engine,
    database,
    marks,
    start: (workflowName, n) => engine.startAlone(startIn(workflowName, n)),
    startMany: (workflowName, inputs) =>
      database.transaction(async (tx) => {
        for (const n of inputs) await engine.start(tx, startIn(workflowName, n));
      }),
    async wake(n) {
      const reached = marks.reached(n);
      const startedAt = performance.now();
      await database.transaction((tx) =>
        engine.emit(tx, { workspaceId: WORKSPACE, name: EVENT, key: String(n) }, { go: true }),
      );
      return (await reached) - startedAt;
    },
    async settled() {
      const deadline = performance.now() + SETTLE_MS;
      for (;;) {
        await engine.idle();
        const { rows } = await database.query<{ open: number; lost: number }>({
          name: 'bench_settled',
          text: `select count(*) filter (where status in ('queued', 'running')) as open,
                   count(*) filter (where status in ('failed', 'parked')) as lost
                 from runs where status in ('queued', 'running', 'failed', 'parked')`,
        });
        if ((rows[0]?.lost ?? 0) > 0) throw new Error(`${rows[0]?.lost} runs failed`);
        if (rows[0]?.open === 0) return;
        if (performance.now() > deadline) throw new Error(`${rows[0]?.open} runs did not end`);
        await pause(10);
      }
    },
    async close() {
      await engine.stop(2_000);
      await database.close();
    },
  };
}

/** Gives `work` a fresh database and drops it. */
export async function onFresh<T>(
  database: Promise<BenchDatabase>,
  work: (database: BenchDatabase) => Promise<T>,
): Promise<T> {
  const given = await database;
  try {
    return await work(given);
  } finally {
    await given.drop();
  }
}
