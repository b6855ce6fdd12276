/**
 * One chaos run from beginning to end: a database, an outside world, worker processes; runs are started and events emitted by plan while
 * faults strike by plan; then everything heals, what is open must end, and the judge looks.
 *
 * Invariant: whatever happens, `runChaos` leaves no process, server or folder behind, unless it was asked to keep the folder.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { CountersignError, toStoredError } from '../../src/errors.ts';
import { connectDatabase, type Database } from '../../src/jobs/engine/db.ts';
import { type Engine, openEngine } from '../../src/jobs/engine/engine.ts';
import { migrate } from '../../src/jobs/engine/migrate.ts';
import { createLogger } from '../../src/log.ts';
import type { Json } from '../../src/types.ts';
import { Fleet } from './fleet.ts';
import { judge, type Verdict } from './judge.ts';
import { type Outside, openOutside } from './outside.ts';
import { makePlan, type Plan, type PlannedFault, type PlannedRun } from './plan.ts';
import { borrowServer, type ChaosServer, openServer } from './server.ts';
import { EVENT, STORY, STORY_TABLES, storyWorkflows } from './story.ts';

export interface ChaosOptions {
  readonly runs: number;
  readonly workers: number;
  readonly seed: string;
  /** Connects as somebody who may create databases. Default: an embedded server. */
  readonly url?: string;
  /** Keeps the folder with the logs of workers and database, and names it. */
  readonly isKept: boolean;
  readonly onProgress: (line: string) => void;
  /** Ends the run early, cleaning up. */
  readonly signal: AbortSignal;
}

export interface ChaosReport {
  readonly seed: string;
  readonly runs: number;
  readonly workers: number;
  readonly kills: number;
  readonly stops: number;
  readonly pgStops: number;
  /** Runs that were parked because they lost their worker too often, and resumed. */
  readonly parks: number;
  readonly seconds: number;
  readonly rows: Verdict['rows'];
  readonly statuses: Verdict['statuses'];
  readonly breachCount: number;
  /** The first 20. */
  readonly breaches: readonly string[];
  readonly ok: boolean;
}

const WORKSPACE = 'T0CHAOS';
const PROGRESS_MS = 2_000;
const POLL_MS = 250;
/** After the healing: longest time in which not one step is journaled and no run ends. Lease, sweep and durable waits stay far below. */
const STUCK_MS = 30_000;
/** The first start of all workers. */
const WORKING_MS = 60_000;
/** FAULTS: a run that lost its worker so often in a row is parked. */
const MAX_LOSSES = 5;
/** A start or an event that cannot be brought into a healthy database for so long is a breach. */
const PERSIST_MS = 60_000;
const MAX_BREACHES = 20;
const log = createLogger({ level: 'silent' });

export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const startedAt = Date.now();
  const plan = makePlan(options);
  const closers: (() => Promise<unknown> | undefined)[] = [];
  const folder = await mkdtemp(path.join(tmpdir(), 'countersign-chaos-'));
  closers.push(() =>
    options.isKept
      ? Promise.resolve(options.onProgress(`kept ${folder}`))
      : rm(folder, { recursive: true, force: true }),
  );
  try {
    const server = options.url === undefined ? await openServer(folder) : await borrowServer(options.url);
    closers.push(() => server.close());
    await prepare(server);
    const outside = await openOutside(options.seed);
    closers.push(() => outside.close());
    const database = connectDatabase({ url: server.appUrl, log, name: 'chaos-supervisor' });
    closers.push(() => database.close());
    const engine = await openEngine({ database, log, workflows: storyWorkflows(outside.url) });
    closers.push(() => engine.stop());
    const fleet = new Fleet({
      workers: options.workers,
      folder,
      maxStopped: Math.max(1, Math.min(2, options.workers - 1)),
      env: { CHAOS_DATABASE_URL: server.appUrl, CHAOS_OUTSIDE_URL: outside.url },
    });
    closers.push(() => Promise.resolve(fleet.abandon()));
    // A slow machine must not spend the plan's time on starting processes.
    await fleet.working(AbortSignal.any([options.signal, AbortSignal.timeout(WORKING_MS)]));
    const world = new Chaos({ options, plan, server, outside, database, engine, fleet });
    const verdict = await world.run();
    return {
      seed: options.seed,
      runs: options.runs,
      workers: options.workers,
      kills: fleet.kills,
      stops: fleet.stops,
      pgStops: world.pgStops,
      parks: world.parks,
      seconds: Math.round((Date.now() - startedAt) / 100) / 10,
      rows: verdict.rows,
      statuses: verdict.statuses,
      breachCount: verdict.breaches.length,
      breaches: verdict.breaches.slice(0, MAX_BREACHES),
      ok: verdict.breaches.length === 0,
    };
  } finally {
    for (const close of closers.reverse())
      await Promise.resolve(close()).catch((error: unknown) =>
        options.onProgress(`clean-up: ${toStoredError(error).message}`),
      );
  }
}

async function prepare(server: ChaosServer): Promise<void> {
  const appRole = new URL(server.appUrl).username;
  await migrate({ adminUrl: server.adminUrl, appRole });
  const admin = new pg.Client({ connectionString: server.adminUrl });
  await admin.connect();
  try {
    await admin.query(STORY_TABLES);
    await admin.query(
      `grant select, insert, update on chaos_counters, chaos_intents to ${pg.escapeIdentifier(appRole)}`,
    );
    await admin.query(`grant select on chaos_claims to ${pg.escapeIdentifier(appRole)}`);
    await admin.query('insert into workspaces (workspace_id) values ($1)', [WORKSPACE]);
  } finally {
    await admin.end();
  }
}

interface Parts {
  readonly options: ChaosOptions;
  readonly plan: Plan;
  readonly server: ChaosServer;
  readonly outside: Outside;
  readonly database: Database;
  readonly engine: Engine;
  readonly fleet: Fleet;
}

class Chaos {
  readonly #parts: Parts;
  readonly #beganAt = Date.now();
  readonly #breaches: string[] = [];
  readonly #startedAs = new Map<string, Set<string>>();
  readonly #cancelledAs = new Map<string, string>();
  #done = 0;
  /** The outages so far, one after another. */
  #outage = Promise.resolve();
  pgStops = 0;
  parks = 0;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async run(): Promise<Verdict> {
    const { plan, fleet, database, outside } = this.#parts;
    const progress = setInterval(() => void this.#progress(), PROGRESS_MS);
    try {
      await Promise.all([
        ...plan.runs.flatMap((run) => this.#tell(run)),
        this.#strike(plan.faults),
        this.#until(plan.durationMs),
      ]);
      fleet.heal();
      await this.#drain();
      this.#breaches.push(...fleet.gone, ...(await fleet.end()));
      const verdict = await judge(database, plan, outside, {
        startedAs: this.#startedAs,
        cancelledAs: this.#cancelledAs,
      });
      return { ...verdict, breaches: [...this.#breaches, ...verdict.breaches] };
    } finally {
      clearInterval(progress);
      // Whoever stops the server for good must not meet one that is being started again.
      await this.#outage.catch(() => undefined);
    }
  }

  /** Everything that happens to one run from outside, each at its time. */
  #tell({
    story,
    startAtMs,
    duplicatesAtMs,
    cancelAtMs,
    pause: paused,
    events,
  }: PlannedRun): Promise<void>[] {
    const { engine, database } = this.#parts;
    const { label } = story;
    const startedAs = new Set<string>();
    this.#startedAs.set(label, startedAs);
    const start = (atMs: number) =>
      this.#persist(atMs, `start of ${label}`, async () => {
        const run = await database.transaction((tx) =>
          engine.start(tx, {
            workspaceId: WORKSPACE,
            workflowName: STORY,
            input: story as unknown as Json,
            origin: 'signal',
            runKey: label,
          }),
        );
        startedAs.add(run.runId);
        return run;
      });
    const first = start(startAtMs);
    const steer = async (atMs: number, what: keyof Engine['control']) => {
      const run = await first;
      if (!run) return;
      await this.#persist(atMs, `${what} of ${label}`, async () => {
        const steered = await database.transaction((tx) => engine.control[what](tx, run, 'chaos'));
        if (what === 'cancel') this.#cancelledAs.set(label, steered.status);
      });
    };
    return [
      first.then(() => undefined),
      ...duplicatesAtMs.map(async (atMs) => void (await start(atMs))),
      ...events.map(({ key, atMs, payload }) =>
        this.#persist(atMs, `event ${key}`, async () => {
          await database.transaction((tx) =>
            engine.emit(tx, { workspaceId: WORKSPACE, name: EVENT, key }, payload),
          );
        }),
      ),
      ...(cancelAtMs === null ? [] : [steer(cancelAtMs, 'cancel')]),
      ...(paused === null
        ? []
        : [steer(paused.atMs, 'pause').then(() => steer(paused.atMs + paused.forMs, 'resume'))]),
    ];
  }

  /** The supervisor is a client like any: what it does not know to be committed it does again. */
  async #persist<T>(atMs: number, what: string, work: () => Promise<T>): Promise<T | undefined> {
    await this.#until(atMs);
    const deadline = Date.now() + PERSIST_MS;
    for (;;) {
      this.#parts.options.signal.throwIfAborted();
      try {
        return await work();
      } catch (error) {
        if (error instanceof CountersignError || Date.now() > deadline) {
          this.#breaches.push(`${what} was not taken: ${toStoredError(error).message}`);
          return undefined;
        }
        await pause(100);
      }
    }
  }

  async #strike(faults: readonly PlannedFault[]): Promise<void> {
    const { fleet, server } = this.#parts;
    for (const fault of faults) {
      await this.#until(fault.atMs);
      switch (fault.kind) {
        case 'kill':
          fleet.kill(fault.slot, fault.downMs);
          break;
        case 'stop':
          fleet.stop(fault.slot, fault.forMs);
          break;
        case 'postgres':
          this.#outage = this.#outage.then(async () => {
            this.pgStops += 1;
            await server.interrupt(fault.mode, fault.downMs);
          });
          this.#outage.catch(() => undefined);
          break;
        default:
          fault satisfies never;
      }
    }
    await this.#outage;
  }

  /** Waits until every run has ended, or until nothing moves any more: then the judge will say which. */
  async #drain(): Promise<void> {
    let moved = '';
    let movedAt = Date.now();
    for (;;) {
      this.#parts.options.signal.throwIfAborted();
      const now = await this.#count();
      if (now?.open === 0) return;
      await this.#unpark().catch(() => undefined);
      if (now && now.mark !== moved) {
        moved = now.mark;
        movedAt = Date.now();
      }
      if (Date.now() - movedAt > STUCK_MS) {
        this.#breaches.push(`${now?.open ?? 'unknown'} runs did not end, children included`);
        return;
      }
      await pause(POLL_MS);
    }
  }

  /**
   * What the operator does: a run that lost its worker five times in a row without a step in between is parked by design, and is worked
   * again once the trouble is over. No other park is expected.
   */
  async #unpark(): Promise<void> {
    const { database, engine } = this.#parts;
    await database.transaction(async (tx) => {
      const { rows } = await tx.query<{ run_id: string }>({
        text: `select run_id from runs where status = 'parked' and error->>'code' = 'WORKER_LOST' and fence > $1`,
        values: [MAX_LOSSES],
      });
      for (const row of rows) {
        const run = { workspaceId: WORKSPACE, runId: row.run_id };
        const { changed } = await engine.control.retry(tx, run);
        if (changed) tx.afterCommit(() => (this.parks += 1));
      }
    });
  }

  async #count(): Promise<{ open: number; mark: string } | undefined> {
    try {
      const { rows } = await this.#parts.database.query<{ done: number; open: number; rows: number }>({
        text: `select count(*) filter (where is_done and parent_run_id is null) as done, count(*) filter (where not is_done) as open,
                 (select count(*) from steps) + (select count(*) from waits) as rows
               from (select parent_run_id, status in ('completed', 'failed', 'cancelled') as is_done from runs) as r`,
      });
      const row = rows[0];
      if (!row) return undefined;
      this.#done = row.done;
      return { open: row.open, mark: `${row.open} ${row.done} ${row.rows}` };
    } catch {
      return undefined;
    }
  }

  async #progress(): Promise<void> {
    const { options, fleet, plan } = this.#parts;
    await this.#count();
    const seconds = Math.round((Date.now() - this.#beganAt) / 1_000);
    options.onProgress(
      `${seconds} s  ${this.#done}/${plan.runs.length} runs  ${fleet.kills} kills  ${fleet.stops} stops  ` +
        `${this.pgStops} database stops  [${fleet.states.join(' ')}]`,
    );
  }

  #until(atMs: number): Promise<void> {
    return pause(Math.max(0, this.#beganAt + atMs - Date.now()), undefined, {
      signal: this.#parts.options.signal,
    });
  }
}
