/**
 * The engine: durable runs over Postgres. It knows workflows, runs, steps, waits and events; nothing of approvals,
 * agents, policies or Slack.
 */
import { randomUUIDv7 } from 'node:crypto';
import { toStoredError } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import type { Json, Person, RunRef, Tx, WorkspaceId } from '../../types.ts';
import type { OnParked } from './attempt.ts';
import { type Bell, openBell } from './bell.ts';
import type { OnCancel, Wakes } from './cancel.ts';
import { cancelRun, pauseRun, resumeRun, retryRun, type Steered } from './control.ts';
import type { Database } from './db.ts';
import { emitEvent, lockEvent } from './events.ts';
import type { EventAddress } from './locks.ts';
import { openQueue } from './queue.ts';
import { insertRun, insertRunAlone } from './runs.ts';
import { startWorker, type Worker } from './worker.ts';
import { checkStart, createRegistry, type Workflow } from './workflow.ts';

export interface EngineOptions {
  readonly database: Database;
  readonly log: Logger;
  readonly workflows: readonly Workflow[];
  readonly slots?: number;
  /** See `OnParked`: writes what follows from a park in the transaction that parks. Default: nothing follows. */
  readonly onParked?: OnParked;
  /** See `OnCancel`: writes what follows from cancelling a run in the transaction that cancels it. Default: nothing follows. */
  readonly onCancel?: OnCancel;
  /** See `SegmentDeps`: shows whether workflows survive being suspended anywhere. Default `false`. */
  readonly suspendAfterEveryStep?: boolean;
}

export interface StartOptions {
  readonly workspaceId: WorkspaceId;
  readonly workflowName: string;
  /** Default: the newest version this build carries. */
  readonly workflowVersion?: number;
  readonly input: Json;
  /** What started it, in one word. */
  readonly origin: string;
  readonly runKey?: string;
  readonly owner?: Person;
  readonly audience?: string;
}

export interface Engine {
  /**
   * Starts a run in the caller's transaction: it exists and is woken with the commit, or not at all. Throws WORKFLOW_UNKNOWN or
   * WORKFLOW_INPUT_INVALID. The same `runKey` again returns the first run.
   */
  start(tx: Tx, options: StartOptions): Promise<RunRef>;
  /** `start` in a transaction of its own, which for a run without key and cancelling events is one statement. */
  startAlone(options: StartOptions): Promise<RunRef>;
  /** See `emitEvent`: first write wins, waiters wake with the commit. Not inside `step.transact`: it locks the key first. */
  emit(tx: Tx, address: EventAddress, payload: Json): Promise<boolean>;
  /** See `lockEvent`: before locking rows of one's own, when an emit may follow. */
  lockEvent(tx: Tx, address: EventAddress): Promise<void>;
  /** See `cancelRun`, `pauseRun`, `resumeRun`, `retryRun` in control.ts: each joins the caller's transaction, on runs of any process. */
  readonly control: Control;
  readonly bell: Bell;
  readonly versions: readonly { readonly name: string; readonly version: number }[];
  /** Names this process; alive in the table `workers` from `work` to `stop`. */
  readonly workerId: string;
  /** Starts working on runs; once. */
  work(): Promise<void>;
  /** See `Worker.idle`. */
  idle(): Promise<void>;
  /**
   * Drains within `graceMs` (default `20_000`) and closes what the engine opened; the database stays open. Never rejects, also
   * when the database is away: each part is ended, and what failed is logged.
   */
  stop(graceMs?: number): Promise<void>;
}

export interface Control {
  cancel(tx: Tx, run: RunRef, reason: string): Promise<Steered>;
  pause(tx: Tx, run: RunRef): Promise<Steered>;
  resume(tx: Tx, run: RunRef): Promise<Steered>;
  retry(tx: Tx, run: RunRef): Promise<Steered>;
}

/** Control without an engine, for a process that works no runs. */
export function controlOver(wakes: Wakes): Control {
  return {
    cancel: (tx, run, reason) => cancelRun(tx, wakes, run, reason),
    pause: pauseRun,
    resume: (tx, run) => resumeRun(tx, wakes, run),
    retry: (tx, run) => retryRun(tx, wakes, run),
  };
}

export async function openEngine(options: EngineOptions): Promise<Engine> {
  const registry = createRegistry(options.workflows);
  const queue = await openQueue(options.database, options.log);
  const wakes: Wakes = { queue, ...(options.onCancel === undefined ? {} : { onCancel: options.onCancel }) };
  const bell = await openBell(options.database);
  const { database } = options;
  const workerId = randomUUIDv7();
  let worker: Worker | undefined;
  const checked = (start: StartOptions) => {
    const versions = registry.versions.filter(({ name }) => name === start.workflowName);
    const workflowVersion = start.workflowVersion ?? Math.max(0, ...versions.map(({ version }) => version));
    const { cancelOn } = checkStart(registry, start.workflowName, workflowVersion, start.input);
    return { ...start, workflowVersion, cancelOn };
  };
  return {
    start: (tx, options) => insertRun(tx, wakes, checked(options), worker),
    async startAlone(options) {
      const start = checked(options);
      return start.runKey === undefined && start.cancelOn.length === 0
        ? insertRunAlone(database, wakes, start, worker)
        : database.transaction((tx) => insertRun(tx, wakes, start, worker));
    },
    emit: (tx, address, payload) => emitEvent(tx, wakes, address, payload),
    lockEvent,
    control: controlOver(wakes),
    bell,
    versions: registry.versions,
    workerId,
    async work() {
      const { log, slots, onParked, suspendAfterEveryStep = false } = options;
      worker = await startWorker({
        workerId,
        database,
        wakes,
        suspendAfterEveryStep,
        bell,
        registry,
        log,
        ...(slots === undefined ? {} : { slots }),
        ...(onParked === undefined ? {} : { onParked }),
      });
    },
    idle: async () => worker?.idle(),
    async stop(graceMs = 20_000) {
      const parts = [() => worker?.stop(graceMs), () => bell.close(), () => queue.close()];
      for (const part of parts)
        try {
          await part();
        } catch (error) {
          options.log.warn({ error: toStoredError(error) }, 'part of the engine did not end cleanly');
        }
    },
  };
}
