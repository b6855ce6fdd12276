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
import type { RunRef } from '../../src/types.ts';
import { type Answer, type Ask, perform, WORKSPACE } from './ask.ts';
import { Fleet } from './fleet.ts';
import { judge, type Verdict } from './judge.ts';
import { type Outside, openOutside } from './outside.ts';
import {
  type By,
  makePlan,
  type Plan,
  type PlannedFault,
  type PlannedRun,
  type PlannedStart,
} from './plan.ts';
import { borrowServer, type ChaosServer, openServer } from './server.ts';
import { STORY_TABLES, storyWorkflows } from './story.ts';

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
  /** Runs that failed, were mended and retried. */
  readonly mended: number;
  /** What worker processes were asked for and answered in time. */
  readonly answered: Readonly<Record<Ask['kind'], number>>;
  /** Runs that a worker process began to work by starting them. */
  readonly begunByStarter: number;
  readonly seconds: number;
  readonly rows: Verdict['rows'];
  readonly statuses: Verdict['statuses'];
  readonly breachCount: number;
  /** The first 20. */
  readonly breaches: readonly string[];
  readonly ok: boolean;
}

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
/** A worker that has not answered by then may be stopped or gone. */
const ANSWER_MS = 2_000;
/** When every run has ended, a process with nothing to do has let go of its slots after this long. */
const IDLE_MS = 10_000;
/** From so many planned starts by workers on, some are answered and some begun by the starter, whatever the faults. */
const MANY_STARTS = 10;
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
      mended: world.mended.size,
      answered: world.answered,
      begunByStarter: verdict.begunByStarter,
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
  /** How many retries said that they changed the run, by its label. */
  readonly mended = new Map<string, number>();
  readonly #retries: Promise<unknown>[] = [];
  readonly answered: Record<Ask['kind'], number> = {
    start: 0,
    emit: 0,
    cancel: 0,
    retry: 0,
    idle: 0,
    'throw-away': 0,
  };

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async run(): Promise<Verdict> {
    const progress = setInterval(() => void this.#progress(), PROGRESS_MS);
    const mender = setInterval(() => void this.#mend().catch(() => undefined), POLL_MS);
    try {
      return await Promise.race([this.#interrupted(), this.#judged()]);
    } finally {
      clearInterval(progress);
      clearInterval(mender);
      // Whoever stops the server for good must not meet one that is being started again.
      await this.#outage;
    }
  }

  async #judged(): Promise<Verdict> {
    const { plan, fleet, database, outside } = this.#parts;
    await Promise.all([
      ...plan.runs.flatMap((run) => this.#tell(run)),
      this.#strike(plan.faults),
      this.#until(plan.durationMs),
    ]);
    fleet.heal();
    await this.#drain();
    await Promise.all(this.#retries);
    await this.#idle();
    this.#breaches.push(...fleet.gone, ...(await fleet.end()));
    const verdict = await judge(database, plan, outside, {
      startedAs: this.#startedAs,
      cancelledAs: this.#cancelledAs,
    });
    return { ...verdict, breaches: [...this.#breaches, ...this.#unmet(verdict), ...verdict.breaches] };
  }

  /** Everything that happens to one run from outside, each at its time; mending comes when it has failed. */
  #tell({ story, starts, cancel, pause: paused, events }: PlannedRun): Promise<void>[] {
    const { engine, database } = this.#parts;
    const { label } = story;
    const startedAs = new Set<string>();
    this.#startedAs.set(label, startedAs);
    const start = ({ atMs, by, isThrownAway }: PlannedStart) =>
      this.#ask(atMs, by, `start of ${label}`, { kind: 'start', story, isThrownAway }, ({ runId }) =>
        startedAs.add(String(runId)),
      );
    const [earliest, ...others] = starts;
    const first = start(earliest).then((answer) => answer?.runId);
    const steer = async (atMs: number, what: 'pause' | 'resume') => {
      const runId = await first;
      if (runId === undefined) return;
      const run: RunRef = { workspaceId: WORKSPACE, runId };
      await this.#persist(atMs, `${what} of ${label}`, () =>
        database.transaction((tx) => engine.control[what](tx, run)),
      );
    };
    const cancelled = async ({ atMs, by }: NonNullable<PlannedRun['cancel']>) => {
      const runId = await first;
      if (runId === undefined) return;
      const answer = await this.#ask(atMs, by, `cancel of ${label}`, { kind: 'cancel', runId });
      if (answer?.status !== undefined) this.#cancelledAs.set(label, answer.status);
    };
    return [
      first.then(() => undefined),
      ...others.map(async (other) => void (await start(other))),
      ...events.map(
        async ({ key, atMs, payload, by }) =>
          void (await this.#ask(atMs, by, `event ${key}`, { kind: 'emit', key, payload })),
      ),
      ...(cancel === null ? [] : [cancelled(cancel)]),
      ...(paused === null
        ? []
        : [steer(paused.atMs, 'pause').then(() => steer(paused.atMs + paused.forMs, 'resume'))]),
    ];
  }

  /**
   * Asks a worker, and does it itself when that has not answered in time, failed or is gone, as it may or may not have done it. `note` hears
   * of every answer, late ones too.
   */
  async #ask(
    atMs: number,
    by: By,
    what: string,
    ask: Ask,
    note: (answer: Answer) => void = () => undefined,
  ): Promise<Answer | undefined> {
    const { database, engine } = this.#parts;
    if (by !== null) {
      await this.#until(atMs);
      const answer = await this.#answer(by, ask, ANSWER_MS, note);
      if (answer) return answer;
    }
    const plain = ask.kind === 'start' ? { ...ask, isThrownAway: false } : ask;
    const answer = await this.#persist(atMs, what, () => perform(database, engine, plain));
    if (answer) note(answer);
    return answer;
  }

  /** Undefined: nobody knows. */
  async #answer(
    slot: number,
    ask: Ask,
    boundMs: number,
    note: (answer: Answer) => void,
  ): Promise<Answer | undefined> {
    const overdue = new AbortController();
    const answered = this.#parts.fleet.ask(slot, ask).then(
      (answer) => {
        note(answer);
        return answer;
      },
      () => undefined,
    );
    const late = pause(boundMs, undefined, { signal: overdue.signal }).catch(() => undefined);
    const answer = await Promise.race([answered, late]);
    overdue.abort();
    if (answer) this.answered[ask.kind] += 1;
    return answer;
  }

  /** What an operator does about a run that failed for a cause that can be mended: mends it, then retries the run, once or twice at once. */
  async #mend(): Promise<void> {
    const { database, plan, outside } = this.#parts;
    const broken = plan.runs.filter(({ mending, story }) => mending && !this.mended.has(story.label));
    if (broken.length === 0) return;
    const { rows } = await database.query<{ run_id: string; run_key: string }>({
      text: `select run_id, run_key from runs where status = 'failed' and parent_run_id is null and run_key = any ($1)`,
      values: [broken.map(({ story }) => story.label)],
    });
    for (const { story, mending } of broken) {
      const { label } = story;
      const runId = rows.find((row) => row.run_key === label)?.run_id;
      if (!mending || runId === undefined || this.mended.has(label)) continue;
      this.mended.set(label, 0);
      outside.mend(label);
      const atMs = Date.now() - this.#beganAt + mending.afterMs;
      for (const by of mending.by)
        this.#retries.push(
          this.#ask(atMs, by, `retry of ${label}`, { kind: 'retry', runId }, ({ changed }) => {
            const times = (this.mended.get(label) ?? 0) + (changed === true ? 1 : 0);
            this.mended.set(label, times);
            if (times > 1) this.#breaches.push(`${label}: ${times} retries each say that they retried it`);
          }),
        );
    }
  }

  /** A slot that a process keeps for no run is lost to it for ever; one last start, rolled back, is to leave neither slot nor run. */
  async #idle(): Promise<void> {
    const { fleet } = this.#parts;
    await fleet.working(AbortSignal.timeout(WORKING_MS)).catch(() => undefined);
    await Promise.all(
      fleet.states.map(async (_, slot) => {
        const story = { label: `thrown-away-${slot}`, parts: [] };
        const isAnswered = await this.#answer(
          slot,
          { kind: 'throw-away', story },
          ANSWER_MS,
          () => undefined,
        );
        if (!isAnswered) this.#breaches.push(`worker ${slot} does not answer, though all is well`);
        if (!(await this.#answer(slot, { kind: 'idle' }, IDLE_MS, () => undefined)))
          this.#breaches.push(`worker ${slot} keeps a slot or works, though every run has ended`);
      }),
    );
  }

  /** Whether what the plan is for came to pass at all. */
  #unmet({ begunByStarter }: Verdict): string[] {
    const { plan } = this.#parts;
    const planned = plan.runs.flatMap(({ starts }) => starts).filter(({ by }) => by !== null).length;
    if (planned < MANY_STARTS) return [];
    return [
      ...(this.answered.start === 0 ? [`${planned} starts were asked of workers, none was answered`] : []),
      ...(begunByStarter === 0 ? ['no worker began what it started by itself'] : []),
    ];
  }

  /** The supervisor is a client like any: what it does not know to be committed it does again. */
  async #persist<T>(atMs: number, what: string, work: () => Promise<T>): Promise<T | undefined> {
    await this.#until(atMs);
    const deadline = Date.now() + PERSIST_MS;
    for (;;) {
      await this.#goingOn();
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
          this.#outage = this.#outage
            .then(async () => {
              this.pgStops += 1;
              await server.interrupt(fault.mode, fault.downMs);
            })
            // No breach of the engine's, and yet nothing that may pass: the next outage is tried all the same.
            .catch((error: unknown) => {
              this.#breaches.push(
                `the database was not stopped and started: ${toStoredError(error).message}`,
              );
            });
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
      await this.#goingOn();
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
    const { plan, database } = this.#parts;
    try {
      const { rows } = await database.query<{ done: number; open: number; rows: number }>({
        text: `select count(*) filter (where is_done and parent_run_id is null) as done, count(*) filter (where not is_done) as open,
                 (select count(*) from steps) + (select count(*) from waits) as rows
               from (
                 select parent_run_id, status in ('completed', 'cancelled') or (status = 'failed' and not coalesce(run_key = any ($1), false)) as is_done
                 from runs) as r`,
        // What is to be mended has not ended by failing.
        values: [plan.runs.flatMap(({ mending, story }) => (mending ? [story.label] : []))],
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

  #interrupted(): Promise<never> {
    const { signal } = this.#parts.options;
    return new Promise((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason), { once: true });
    });
  }

  /** Never resolves once the whole is being cleaned up: what is told to ten thousand runs then just stops. */
  async #goingOn(): Promise<void> {
    if (this.#parts.options.signal.aborted) await new Promise(() => undefined);
  }

  async #until(atMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      setTimeout(resolve, Math.max(0, this.#beganAt + atMs - Date.now())).unref();
    });
    await this.#goingOn();
  }
}
