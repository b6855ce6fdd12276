/**
 * The engine: durable runs over Postgres. It knows workflows, runs, steps, waits and events; nothing of approvals,
 * agents, policies or Slack.
 */
import { randomUUIDv7 } from 'node:crypto';
import { CountersignError, toStoredError } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import type { Json, Person, RunRef, Tx, WorkspaceId } from '../../types.ts';
import { type Bell, openBell } from './bell.ts';
import type { Database } from './db.ts';
import { type EventAddress, emitEvent, lockEvent } from './events.ts';
import { openQueue } from './queue.ts';
import { insertRun, type OnParked } from './runs.ts';
import { startWorker, type Worker } from './worker.ts';
import { createRegistry, type Workflow } from './workflow.ts';

export interface EngineOptions {
  readonly database: Database;
  readonly log: Logger;
  readonly workflows: readonly Workflow[];
  readonly slots?: number;
  /** See `OnParked`: writes what follows from a park in the transaction that parks. Default: nothing follows. */
  readonly onParked?: OnParked;
}

export interface StartOptions {
  readonly workspaceId: WorkspaceId;
  readonly workflowName: string;
  /** Default: the newest version this build carries. */
  readonly workflowVersion?: number;
  readonly input: Json;
  readonly origin: 'slack' | 'schedule' | 'signal' | 'run';
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
  /** See `emitEvent`: first write wins, waiters wake with the commit. Not inside `step.transact`: it locks the key first. */
  emit(tx: Tx, address: EventAddress, payload: Json): Promise<boolean>;
  /** See `lockEvent`: before locking rows of one's own, when an emit may follow. */
  lockEvent(tx: Tx, address: EventAddress): Promise<void>;
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

export async function openEngine(options: EngineOptions): Promise<Engine> {
  const registry = createRegistry(options.workflows);
  const queue = await openQueue(options.database, options.log);
  const bell = await openBell(options.database);
  const workerId = randomUUIDv7();
  let worker: Worker | undefined;
  return {
    async start(tx, start) {
      const version =
        start.workflowVersion ??
        Math.max(
          0,
          ...registry.versions
            .filter((entry) => entry.name === start.workflowName)
            .map((entry) => entry.version),
        );
      const found = registry.find(start.workflowName, version);
      if (!found)
        throw new CountersignError('WORKFLOW_UNKNOWN', `No workflow ${start.workflowName}@${version}`);
      const input = found.input.safeParse(start.input);
      if (!input.success)
        throw new CountersignError(
          'WORKFLOW_INPUT_INVALID',
          `${start.workflowName}: ${input.error.issues[0]?.message}`,
        );
      return insertRun(tx, queue, { ...start, workflowVersion: version });
    },
    emit: (tx, address, payload) => emitEvent(tx, queue, address, payload),
    lockEvent,
    bell,
    versions: registry.versions,
    workerId,
    async work() {
      const { database, log, slots, onParked } = options;
      worker = await startWorker({
        workerId,
        database,
        queue,
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
