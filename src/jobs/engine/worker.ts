/**
 * The worker: one per process. It claims runs, works their segments, keeps one lease for all of them, and sweeps up what others lost.
 *
 * Invariants. A wake-up is a hint: nothing is worked without a claim. At most `slots` segments work at once. The process's lease is
 * one row, renewed by one heartbeat; when it ends, all its runs may be taken over, and its late writes are refused by their fences.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { CountersignError, toStoredError } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import { type Attempt, claimRun, handOverRun, type OnParked, parkForPerson } from './attempt.ts';
import { type Bell, ringAll } from './bell.ts';
import type { Wakes } from './cancel.ts';
import type { Database } from './db.ts';
import { msUntilNextDeadline, resolveDueWaits } from './events.ts';
import { type ProcessIdentity, processIdentity, releaseDeadNeighbours } from './neighbours.ts';
import { decodeWake, encodeWake, type Wake } from './queue.ts';
import { type Here, type Reserved, resendLost } from './runs.ts';
import { Segment } from './segment.ts';
import type { Registry } from './workflow.ts';

/** A process unheard of for this long has lost its runs. With the sweep this bounds takeover to about 10 s. */
export const LEASE_MS = 8_000;
/** Three chances to renew before the lease ends. */
const HEARTBEAT_MS = 2_500;
const SWEEP_MS = 2_000;
/** Queued this long with a wake-up sent, and the queue is short: it was lost. Sending again is harmless. */
const STALE_QUEUED_MS = 5_000;
/**
 * The same where work waits here or the queue is long: most likely the wake-up lies in it. Sent again sooner, each would be there many
 * times when the rush is over, and be claimed in vain (2,500 runs behind, under kills: more than ten seconds of nothing else).
 */
const STALE_IN_RUSH_MS = 600_000;
/** A queue longer than this is a rush. */
const LONG_QUEUE = 100;
/** A run that lost its worker this often without journaling a step is parked before it is worked again (FAULTS: 5). */
const MAX_CLAIMS = 5;
/** Wake-ups that were acted upon are deleted together, outside the claim. */
const DISCARD_AFTER_MS = 50;
const DISCARD_BATCH = 200;
/** Wake-ups heard while every slot was taken, kept by name; what comes beyond is found in the queue. */
const MAX_HINTS = 1_000;
/** What an ending process still wants of the database may take this long; an absent one must not keep it from ending. */
const FAREWELL_MS = 3_000;
/** A wake-up that this process sent and has no slot for is told to the others after this long: mostly a slot comes free at once. */
const TELL_AFTER_MS = 5;
/** setTimeout's limit is about 24.8 days; looking earlier is harmless. */
const MAX_TIMER_MS = 3_600_000;

export interface WorkerOptions {
  /** Names this process in every claim. */
  readonly workerId: string;
  readonly database: Database;
  readonly wakes: Wakes;
  readonly bell: Bell;
  readonly registry: Registry;
  readonly log: Logger;
  /** Segments worked at once. Default `10`: a segment mostly waits for the network. */
  readonly slots?: number;
  readonly onParked?: OnParked;
  /** See `SegmentDeps`. */
  readonly suspendAfterEveryStep?: boolean;
}

export interface Worker extends Here {
  /**
   * Stops taking work, lets steps in flight finish for up to `graceMs`, hands the rest over. Resolves when nothing is held; never
   * rejects: what cannot be given back because the database is away is taken over when the lease ends.
   */
  stop(graceMs: number): Promise<void>;
  /** Resolves when this process holds no run and knows of no due one; for tests. */
  idle(): Promise<void>;
}

export async function startWorker(options: WorkerOptions): Promise<Worker> {
  const worker = new RunningWorker(options);
  await worker.start();
  return worker;
}

class RunningWorker implements Worker {
  readonly #options: WorkerOptions;
  readonly #id: string;
  readonly #slots: number;
  /** Held runs by id. Entered before the claim, so that a doubled hint does not claim twice. */
  readonly #active = new Map<string, Segment | 'claiming'>();
  /** Wake-ups of runs that are held here: the segment may have let go already, so each is looked at again when its run has left. */
  readonly #rung = new Map<string, Wake>();
  /** `name@version` of what this build carries: nothing else is claimed, so that old and new processes may work side by side. */
  readonly #carried: readonly string[];
  #identity: ProcessIdentity = { hostKey: null, pidStarted: null };
  readonly #discards: string[] = [];
  #discardTimer: NodeJS.Timeout | undefined;
  #deadlineTimer: NodeJS.Timeout | undefined;
  readonly #intervals: NodeJS.Timeout[] = [];
  /** Heard while every slot was taken, oldest first, by job. */
  readonly #hints = new Map<string, Wake>();
  /** Sent by this process and not begun: nobody else knows of them yet. By job. */
  readonly #untold = new Map<string, Wake>();
  #tellTimer: NodeJS.Timeout | undefined;
  /** More hints came than are kept, or a fetch came back full: look at the queue again. */
  #again = false;
  #fetching = false;
  /** A sweep wants the queue looked at whatever was heard. */
  #sweepDue = false;
  /** Slots kept free for what a fetch under way may bring. */
  #reserved = 0;
  /** Words about runs whose claim is under way. */
  readonly #heard = new Map<string, (segment: Segment) => void>();
  #stopping = false;
  readonly #watched = new Set<Promise<unknown>>();

  constructor(options: WorkerOptions) {
    this.#options = options;
    this.#id = options.workerId;
    this.#slots = options.slots ?? 10;
    this.#carried = options.registry.versions.map(({ name, version }) => `${name}@${version}`);
  }

  async start(): Promise<void> {
    const { bell } = this.#options;
    this.#identity = await processIdentity();
    await this.#heartbeat();
    bell.on('run', (payload) => {
      const wake = decodeWake(payload);
      if (wake) this.#hint(wake);
    });
    this.#options.wakes.queue.takeHere((wake) => this.#take(wake));
    bell.on('nudge', (payload) => this.#steer(payload, (segment) => segment.lookAgain()));
    bell.on('pause', (payload) => this.#steer(payload, (segment) => segment.drain()));
    bell.on('cancel', (payload) => this.#steer(payload, (segment) => segment.abandon()));
    bell.onGap(() => this.#fetch());
    this.#every(HEARTBEAT_MS, () => this.#heartbeat());
    this.#every(SWEEP_MS, () => this.#sweep());
    try {
      await this.#sweep();
    } catch (error) {
      await this.stop(0);
      throw error;
    }
  }

  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    this.#options.wakes.queue.takeHere(undefined);
    clearTimeout(this.#deadlineTimer);
    const deadline = Date.now() + graceMs;
    for (const segment of this.#active.values()) if (segment !== 'claiming') segment.drain();
    while (this.#active.size > 0 && Date.now() < deadline) await pause(10);
    // Out of time: give back what still works; its late writes are refused by the fence.
    const { database, wakes } = this.#options;
    const working = [...this.#active.values()].filter((segment) => segment !== 'claiming');
    for (const segment of working) segment.abandon();
    await Promise.all(
      working.map(({ attempt }) =>
        this.#farewell('run handed over', () =>
          database.transaction((tx) => handOverRun(tx, wakes.queue, attempt)),
        ),
      ),
    );
    for (const interval of this.#intervals) clearInterval(interval);
    clearTimeout(this.#discardTimer);
    clearTimeout(this.#deadlineTimer);
    await this.#farewell('work in flight ended', () => Promise.all(this.#watched));
    await this.#farewell('others told of waiting runs', () => this.#tell());
    await this.#farewell('wake-ups discarded', () => this.#discard());
    await this.#farewell('lease given back', () =>
      database.query({ text: 'delete from workers where worker_id = $1', values: [this.#id] }),
    );
  }

  /** One part of stopping: bounded, and its failure keeps no other part from being done. */
  async #farewell(what: string, work: () => Promise<unknown>): Promise<void> {
    const overdue = new AbortController();
    const inTime = pause(FAREWELL_MS, false, { signal: overdue.signal }).catch(() => true);
    try {
      const done = await Promise.race([work().then(() => true), inTime]);
      if (!done) this.#options.log.warn({ what, withinMs: FAREWELL_MS }, 'not done before the end');
    } catch (error) {
      this.#options.log.warn({ what, error: toStoredError(error) }, 'not done before the end');
    } finally {
      overdue.abort();
    }
  }

  async idle(): Promise<void> {
    while (this.#active.size > 0 || this.#fetching || this.#watched.size > 0) await pause(5);
  }

  get #free(): number {
    return this.#slots - this.#active.size - this.#reserved;
  }

  /** A notification named a run: claim it at once when a slot is free; the queue keeps it otherwise. */
  #hint(wake: Wake): void {
    if (this.#stopping) return;
    if (this.#free > 0 || this.#active.has(wake.runId)) this.#watch(this.#work(wake, 'hinted'));
    else if (this.#hints.size < MAX_HINTS) this.#hints.set(wake.jobId, wake);
    else this.#again = true;
  }

  /** This process sent a wake-up: work it, or tell the others once it is clear that no slot comes free for it in no time. */
  #take(wake: Wake): void {
    this.#untold.set(wake.jobId, wake);
    this.#hint(wake);
    if (this.#untold.size > 0) this.#tellTimer ??= setTimeout(() => this.#watch(this.#tell()), TELL_AFTER_MS);
  }

  /** Notifies every worker of what this process sent and did not begin. */
  async #tell(): Promise<void> {
    clearTimeout(this.#tellTimer);
    this.#tellTimer = undefined;
    const wakes = [...this.#untold.values()];
    this.#untold.clear();
    await ringAll(this.#options.database, wakes.map(encodeWake));
  }

  /**
   * Slots may be free: what was heard longest ago is claimed. The queue holds the same wake-ups, so it is looked at when no hint is left,
   * and at each sweep's turn, for what nobody here heard of.
   */
  #next(): void {
    if (this.#sweepDue && this.#free > 0) this.#fetch();
    while (!this.#stopping && this.#free > 0) {
      const [wake] = this.#hints.values();
      if (!wake) break;
      this.#hints.delete(wake.jobId);
      this.#watch(this.#work(wake, 'hinted'));
    }
    if (this.#again && this.#hints.size === 0) this.#fetch();
  }

  /** A word about a run that may be worked here: `<what> <run id> [<fence>]`. With a fence only attempts before it are meant. */
  #steer(payload: string, act: (segment: Segment) => void): void {
    const [, runId = '', fence] = payload.split(' ');
    const meant = (segment: Segment): boolean =>
      fence === undefined || segment.attempt.fence <= Number(fence);
    const held = this.#active.get(runId);
    if (held instanceof Segment) {
      if (meant(held)) act(held);
    } else if (held === 'claiming') this.#heard.set(runId, (segment) => meant(segment) && act(segment));
  }

  #fetch(): void {
    if (this.#stopping) return;
    if (this.#fetching) {
      this.#again = true;
      return;
    }
    const free = this.#free;
    if (free <= 0) {
      // The run that ends next looks.
      this.#again = true;
      return;
    }
    this.#again = false;
    this.#sweepDue = false;
    this.#fetching = true;
    this.#reserved = free;
    this.#watch(
      (async () => {
        try {
          const wakes = await this.#options.wakes.queue.fetch(free);
          this.#reserved = 0;
          if (wakes.length === free) this.#again = true;
          for (const wake of wakes) {
            // It is no hint any more: claiming it twice would be in vain.
            this.#hints.delete(wake.jobId);
            this.#watch(this.#work(wake, 'fetched'));
          }
        } finally {
          this.#reserved = 0;
          this.#fetching = false;
          // What was heard meanwhile found the slots reserved.
          this.#next();
        }
      })(),
    );
  }

  async #work(wake: Wake, came: 'hinted' | 'fetched'): Promise<void> {
    const own = this.#untold.delete(wake.jobId);
    if (this.#active.has(wake.runId)) {
      const earlier = this.#rung.get(wake.runId);
      if (earlier) this.#acted(earlier.jobId);
      this.#rung.set(wake.runId, wake);
      return;
    }
    this.#active.set(wake.runId, 'claiming');
    try {
      const claimed = await claimRun(this.#options.database, wake, this.#id, this.#carried);
      // A run of another build: its wake-up is left to that build while it still lies in the queue. Once fetched it is of no use to
      // anybody, and the sweep of that build sends another.
      if (claimed !== 'not-carried' || came === 'fetched') this.#acted(wake.jobId);
      else if (own) await ringAll(this.#options.database, [encodeWake(wake)]);
      if (claimed !== undefined && claimed !== 'not-carried') await this.#segment(claimed);
    } finally {
      this.#leave(wake.runId);
    }
  }

  reserve(runId: string): Reserved | undefined {
    // What was heard earlier goes first.
    if (this.#stopping || this.#free <= 0 || this.#hints.size > 0) return undefined;
    this.#active.set(runId, 'claiming');
    return {
      workerId: this.#id,
      begin: (attempt) => this.#watch(this.#segment(attempt).finally(() => this.#leave(runId))),
      release: () => this.#leave(runId),
    };
  }

  #leave(runId: string): void {
    this.#active.delete(runId);
    this.#heard.delete(runId);
    const rung = this.#rung.get(runId);
    this.#rung.delete(runId);
    if (rung && !this.#stopping) this.#watch(this.#work(rung, 'fetched'));
    this.#next();
  }

  async #segment(attempt: Attempt): Promise<void> {
    const { database, wakes, log, registry, onParked, suspendAfterEveryStep = false } = this.#options;
    const workflow = registry.find(attempt.workflowName, attempt.workflowVersion);
    if (!workflow)
      throw new CountersignError(
        'WORKFLOW_UNKNOWN',
        `Claimed ${attempt.workflowName}@${attempt.workflowVersion}, which this build lacks`,
      );
    if (attempt.claimCount > MAX_CLAIMS && attempt.cancelling === null) {
      await this.#parkLost(attempt);
      return;
    }
    const segment = new Segment(
      {
        database,
        wakes,
        registry,
        log,
        suspendAfterEveryStep,
        onDeadline: () => this.#armDeadline(),
        ...(onParked === undefined ? {} : { onParked }),
      },
      attempt,
      workflow,
    );
    this.#active.set(attempt.runId, segment);
    this.#heard.get(attempt.runId)?.(segment);
    if (this.#stopping) segment.drain();
    await segment.run();
  }

  async #parkLost(attempt: Attempt): Promise<void> {
    const error = toStoredError(
      new CountersignError('WORKER_LOST', `Its worker was lost ${MAX_CLAIMS} times in a row`),
    );
    await this.#options.database.transaction((tx) =>
      parkForPerson(tx, attempt, error, this.#options.onParked),
    );
    this.#options.log.error({ runId: attempt.runId, error }, 'run parked: a person is needed');
  }

  /** Renews the lease. Writes the whole row, so that one that was deleted meanwhile comes back. */
  async #heartbeat(): Promise<void> {
    await this.#options.database.query({
      name: 'worker_heartbeat',
      text: `insert into workers (worker_id, host_key, pid, pid_started, lease_until)
             values ($1, $2, $3, $4, db_now() + $5 * interval '1 millisecond')
             on conflict (worker_id) do update set lease_until = excluded.lease_until`,
      values: [this.#id, this.#identity.hostKey, process.pid, this.#identity.pidStarted, LEASE_MS],
    });
  }

  async #sweep(): Promise<void> {
    const { database, wakes } = this.#options;
    await releaseDeadNeighbours(database, this.#identity);
    await this.#compareHeld();
    const isRush =
      this.#again || this.#free <= 0 || this.#hints.size > 0 || (await wakes.queue.isLonger(LONG_QUEUE));
    const staleMs = isRush ? STALE_IN_RUSH_MS : STALE_QUEUED_MS;
    await database.transaction((tx) => resendLost(tx, wakes.queue, { staleMs, carried: this.#carried }));
    await database.query({
      text: `delete from workers w where lease_until < db_now() - interval '1 hour' and worker_id <> $1
             and not exists (select 1 from runs r where r.worker_id = w.worker_id and r.status = 'running')`,
      values: [this.#id],
    });
    await this.#resolveDue();
    this.#sweepDue = true;
    this.#fetch();
  }

  /**
   * What the database says this worker holds, against what it works. A run without a segment here lost the database and goes back to the
   * queue; a segment without its run was fenced and stops; one whose ring was lost is told again.
   */
  async #compareHeld(): Promise<void> {
    const { database, wakes } = this.#options;
    const before = new Map(this.#active);
    const { rows } = await database.query<{
      workspace_id: string;
      run_id: string;
      fence: number;
      pausing: boolean;
    }>({
      name: 'runs_own',
      text: `select workspace_id, run_id, fence, pausing from runs where worker_id = $1 and status in ('running', 'cancelling')`,
      values: [this.#id],
    });
    const held = new Map(rows.map((row) => [row.run_id, row]));
    for (const [runId, segment] of before) {
      if (segment === 'claiming' || this.#active.get(runId) !== segment) continue;
      const row = held.get(runId);
      if (row?.fence !== segment.attempt.fence) segment.abandon();
      else if (row.pausing) segment.drain();
      else segment.lookAgain();
    }
    for (const row of rows) {
      if (before.has(row.run_id) || this.#active.has(row.run_id)) continue;
      const forgotten = { workspaceId: row.workspace_id, runId: row.run_id, fence: row.fence } as Attempt;
      await database.transaction(async (tx) => {
        const { rowCount } = await tx.query({
          text: `update runs set status = case when status = 'cancelling' then status else 'queued' end, queued_at = db_now(), worker_id = null,
                   claim_count = greatest(claim_count - 1, 0)
                 where workspace_id = $1 and run_id = $2 and fence = $3 and status in ('running', 'cancelling')`,
          values: [forgotten.workspaceId, forgotten.runId, forgotten.fence],
        });
        if (rowCount === 1) await wakes.queue.send(tx, [forgotten]);
      });
    }
  }

  async #resolveDue(): Promise<void> {
    const { database, wakes } = this.#options;
    for (;;) {
      const { more } = await database.transaction((tx) => resolveDueWaits(tx, wakes));
      if (!more) break;
    }
    await this.#arm();
  }

  #armDeadline(): void {
    if (!this.#stopping) this.#watch(this.#arm());
  }

  /** One timer for the earliest deadline of all waits, whoever registered them. */
  async #arm(): Promise<void> {
    const ms = await msUntilNextDeadline(this.#options.database);
    clearTimeout(this.#deadlineTimer);
    if (ms === undefined || this.#stopping) return;
    this.#deadlineTimer = setTimeout(
      () => this.#watch(this.#resolveDue()),
      Math.max(0, Math.min(Math.ceil(ms), MAX_TIMER_MS)),
    );
  }

  #acted(jobId: string): void {
    this.#discards.push(jobId);
    if (this.#discards.length >= DISCARD_BATCH) this.#watch(this.#discard());
    else
      this.#discardTimer ??= setTimeout(() => {
        this.#discardTimer = undefined;
        this.#watch(this.#discard());
      }, DISCARD_AFTER_MS);
  }

  async #discard(): Promise<void> {
    const jobIds = this.#discards.splice(0);
    await this.#options.wakes.queue.discard(jobIds);
  }

  #every(intervalMs: number, work: () => Promise<void>): void {
    let busy = false;
    this.#intervals.push(
      setInterval(() => {
        if (busy) return;
        busy = true;
        this.#watch(work().finally(() => (busy = false)));
      }, intervalMs),
    );
  }

  /** Work nobody awaits: trouble is logged, and the sweep comes round again. */
  #watch(work: Promise<unknown>): void {
    const watched = work
      .catch((error: unknown) =>
        this.#options.log.warn({ error: toStoredError(error) }, 'engine work failed, will be retried'),
      )
      .finally(() => this.#watched.delete(watched));
    this.#watched.add(watched);
  }
}
