/**
 * A segment: one attempt's work on a run between two parks. It replays the journal into the workflow body, decides when to park, and ends
 * the attempt; what the body may ask for is in branch.ts.
 *
 * Invariants. A step resolves only after its row is committed. Once the segment has ended (parked, fenced, handed over) no primitive
 * resolves any more: the body's promise is dropped, nothing is thrown into it, so that no `catch` of an author can mistake it for a failure.
 * A wait is registered as soon as its branch is blocked on it; the segment parks only when every open branch is blocked and no step is in
 * flight.
 */
import { CountersignError, hasCode, type StoredError, toStoredError } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import type { Json, Queryable, Tx } from '../../types.ts';
import {
  type Attempt,
  endAlone,
  endRun,
  handOverRun,
  holdFence,
  insertStep,
  type JournalEntry,
  type OnParked,
  parkForPerson,
  parkRun,
  type RunEnd,
  readJournal,
  readOutcomes,
  registerWaits,
  type StepRow,
  type WaitSpec,
} from './attempt.ts';
import { Branch, toJson } from './branch.ts';
import type { Wakes } from './cancel.ts';
import type { Database } from './db.ts';
import { Journaled } from './journaled.ts';
import type { Registry, Workflow } from './workflow.ts';

/** About 3 s in all: longer outages are the sweeper's. */
const JOURNAL_TRIES = 5;
/** Between two looks at waits while the database is away. */
const LOOK_AGAIN_MS = 500;

export type SegmentEnd =
  | 'completed'
  | 'failed'
  | 'cancelled'
  | 'waiting'
  | 'parked'
  | 'fenced'
  | 'handed_over';

export interface SegmentDeps {
  readonly database: Database;
  readonly wakes: Wakes;
  readonly registry: Registry;
  readonly log: Logger;
  /** Called after deadlines were registered, so that the process's one timer can look again. */
  readonly onDeadline: () => void;
  readonly onParked?: OnParked;
  /** Gives the run back to the queue after every journaled step: what a body keeps in memory is then of no use to it. For tests. */
  readonly suspendAfterEveryStep?: boolean;
}

/**
 * Whose branches may go on: the body's, and once it is over those of onFailure. What the body left behind in other branches then gets
 * no answer any more.
 */
export interface Scope {
  readonly body: boolean;
}

/** One for all, because making one is dearer than a step. */
const SEGMENT_OVER = new DOMException('This attempt of the run is over', 'AbortError');

interface Blocked {
  /** Null for a wait that was registered by whoever blocked the branch. */
  readonly spec: WaitSpec | null;
  registered: boolean;
  readonly resume: (entry: JournalEntry) => void;
}

export class Segment {
  readonly deps: SegmentDeps;
  readonly attempt: Attempt;
  readonly #workflow: Workflow;
  readonly journaled: Journaled;
  /** Branches blocked on a wait, by path. */
  readonly #blocked = new Map<string, Blocked>();
  /** Which step an error that the body saw came from. */
  readonly #blame = new WeakMap<Error, string>();
  /** Steps whose body or row is under way. */
  #inFlight = 0;
  /** Branches stopped at the next step because the run is to be let go. */
  #held = 0;
  /** This attempt registered waits. */
  #registered = false;
  /** Children were waited for when this attempt began, or it started some. */
  #hasChildren = false;
  #draining = false;
  #settling = false;
  /** Nothing is left to do but the end. */
  #finishing = false;
  #scope: Scope = { body: true };
  /** Made when a body asks for its signal: most never do. */
  #abort: AbortController | undefined;
  readonly #ended = Promise.withResolvers<SegmentEnd>();
  #over = false;
  /** A park is under way: whether the run is still held is not known. */
  #parking = false;

  constructor(deps: SegmentDeps, attempt: Attempt, workflow: Workflow) {
    this.deps = deps;
    this.attempt = attempt;
    this.#workflow = workflow;
    this.journaled = new Journaled(attempt.retried);
    this.#draining = attempt.pausing;
  }

  /** Works until the run finishes or the segment ends otherwise. Rejects only when the database cannot be reached. */
  async run(): Promise<SegmentEnd> {
    // A first attempt has nothing behind it.
    if (this.attempt.fence > 1) await this.#replay();
    const input = this.#workflow.input.safeParse(this.attempt.input);
    if (!input.success) {
      void this.#park(
        new CountersignError('WORKFLOW_INPUT_INVALID', 'The stored input does not fit this workflow'),
      );
      return this.#ended.promise;
    }
    // In a promise of its own, so that a body that throws before its first await fails the run too.
    void Promise.resolve().then(() => this.#work(input.data));
    return this.#ended.promise;
  }

  async #replay(): Promise<void> {
    const { entries, open } = await readJournal(this.deps.database, this.attempt);
    this.journaled.read(entries, open);
    this.#hasChildren = open.some(({ kind }) => kind === 'children');
  }

  async #work(input: unknown): Promise<void> {
    const { cancelling } = this.attempt;
    const failed = this.journaled.entry(this.#failurePath)?.error;
    if (cancelling)
      return this.#unwind(input, failed ?? cancelling, { status: 'cancelled', error: cancelling });
    if (failed) return this.#unwind(input, failed, { status: 'failed', error: failed });
    let output: Json;
    try {
      output = toJson(await this.#workflow.body(new Branch(this, this.#scope, ''), input));
    } catch (error) {
      const failedPath = this.#blamed(error);
      const stored = toStoredError(error);
      if (this.#workflow.onFailure)
        // Journaled, so that whatever happens to this process, the body is over and its onFailure is the one thing left.
        await this.unit(this.#scope, () =>
          this.journalAlone({
            path: this.#failurePath,
            kind: 'failure',
            inputHash: null,
            error: stored,
            result: failedPath,
            startedAt: new Date(),
          }),
        );
      return this.#unwind(input, stored, { status: 'failed', error: stored, failedPath });
    }
    return this.#finish({ status: 'completed', output, error: null });
  }

  /** The workflow's last word on a run that failed or is cancelled, then the end. */
  async #unwind(
    input: unknown,
    error: StoredError,
    end: Pick<RunEnd, 'status' | 'failedPath'> & { error: StoredError },
  ): Promise<void> {
    const failedPath =
      end.failedPath ?? (this.journaled.entry(this.#failurePath)?.result as string | null) ?? null;
    this.#scope = { body: false };
    this.#blocked.clear();
    try {
      await this.#workflow.onFailure?.(new Branch(this, this.#scope, `${this.#failurePath}/`), input, error);
    } catch (caught) {
      this.deps.log.error({ ...this.#logRef, error: toStoredError(caught) }, 'onFailure failed');
    }
    return this.#finish({ ...end, output: null, failedPath });
  }

  /** Where this failure of the run is journaled; one place per retry of it. */
  get #failurePath(): string {
    return this.attempt.retryCount === 0 ? 'on-failure' : `on-failure@${this.attempt.retryCount + 1}`;
  }

  /** Lets steps in flight finish, starts no other, and lets the run go: back to the queue, or paused. */
  drain(): void {
    this.#draining = true;
    this.#settle();
  }

  /** Stops at once without writing anything more. Steps in flight see their signal fire. */
  abandon(): void {
    this.#end('fenced');
  }

  /** Somebody ended a wait of this run: the branches that were blocked on it go on. */
  lookAgain(): void {
    const paths = [...this.#blocked].filter(([, branch]) => branch.registered).map(([path]) => path);
    if (paths.length === 0 || this.#over || this.#parking) return;
    void this.#look(async () => this.#resume(await readOutcomes(this.deps.database, this.attempt, paths)));
  }

  /** Remembers that `error`, which the body is about to see, came from the step at `path`. */
  blame<E extends Error>(error: E, path: string): E {
    this.#blame.set(error, path);
    return error;
  }

  #blamed(error: unknown): string | null {
    for (let cause = error; cause instanceof Error; cause = cause.cause) {
      const path = this.#blame.get(cause);
      if (path !== undefined) return path;
    }
    return null;
  }

  /**
   * Runs one unit that may write. While it is under way the segment does not park. Resolves to its value, or never: when
   * the segment ended meanwhile, the unit found itself fenced, or its scope is over.
   */
  async unit<T>(scope: Scope, work: () => Promise<T>): Promise<T> {
    if (this.#draining) {
      this.#held += 1;
      this.#settle();
      return never();
    }
    const value = await this.#counted(work);
    return scope === this.#scope ? value : never();
  }

  async #counted<T>(work: () => Promise<T>): Promise<T> {
    this.#inFlight += 1;
    try {
      const value = await work();
      if (this.#over) return await never();
      return value;
    } catch (error) {
      if (this.#over) return await never();
      if (hasCode(error, 'FENCED')) {
        this.#end('fenced');
        return await never();
      }
      if (hasCode(error, 'JOURNAL_MISMATCH') || hasCode(error, 'STEP_NAME_AMBIGUOUS')) {
        await this.#park(error);
        return await never();
      }
      // Failures of a step's body are results and were journaled; what arrives here is trouble with the database.
      this.#crash(error);
      return await never();
    } finally {
      this.#inFlight -= 1;
      this.#settle();
    }
  }

  /** Blocks the branch until the wait has an outcome; never resolves in this segment if the run parks first. */
  block(scope: Scope, spec: WaitSpec): Promise<JournalEntry> {
    return this.#block(scope, spec.path, spec);
  }

  /** As `block`, on a wait that is registered already. */
  blockOn(scope: Scope, path: string): Promise<JournalEntry> {
    return this.#block(scope, path, null);
  }

  #block(scope: Scope, path: string, spec: WaitSpec | null): Promise<JournalEntry> {
    if (scope !== this.#scope) return never();
    return new Promise((resume) => {
      this.#blocked.set(path, { spec, registered: spec === null, resume });
      this.#settle();
    });
  }

  /** Journals a finished step in the caller's transaction. */
  async journal(tx: Queryable, row: StepRow): Promise<JournalEntry> {
    const entry = { ...row, finishedAt: await insertStep(tx, this.attempt, row) };
    if (this.deps.suspendAfterEveryStep) this.#draining = true;
    return entry;
  }

  /**
   * Journals a finished step by itself. What the step did may have cost money, so a lost connection is survived here:
   * the insert repeats, and finds its own row when only the answer was lost.
   */
  async journalAlone(row: StepRow): Promise<JournalEntry> {
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.journal(this.deps.database, row);
      } catch (error) {
        if (error instanceof CountersignError || tries >= JOURNAL_TRIES || this.#over) throw error;
        await new Promise((resolve) => setTimeout(resolve, 100 * 2 ** tries * (0.5 + Math.random() / 2)));
      }
    }
  }

  /** In a transaction that may start children. */
  withChildren<T>(body: (tx: Tx) => Promise<T>): Promise<T> {
    this.#hasChildren = true;
    return this.deps.database.transaction(body);
  }

  fenced<T>(body: (tx: Tx) => Promise<T>): Promise<T> {
    return this.deps.database.transaction(async (tx) => {
      await holdFence(tx, this.attempt);
      return body(tx);
    });
  }

  /** Fires when the segment is over, however it ended. */
  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    if (this.#over) this.#abort.abort(SEGMENT_OVER);
    return this.#abort.signal;
  }

  get over(): boolean {
    return this.#over;
  }

  /** Looks, once the body had its say, whether branches are newly blocked, and whether that is all that is left; then parks or hands over. */
  #settle(): void {
    if (this.#settling || this.#over || this.#finishing) return;
    this.#settling = true;
    // Continuations of what just resolved run as microtasks before this; they may start further steps.
    setImmediate(() => {
      this.#settling = false;
      if (this.#over || this.#finishing) return;
      if (this.#inFlight > 0) this.#registerEarly();
      else if (this.#held > 0) void this.#guard(() => this.#handOver());
      else if (this.#blocked.size > 0) void this.#guard(() => this.#wait());
    });
  }

  /** Other branches work on: what these ones wait for must find them all the same. */
  #registerEarly(): void {
    const fresh = this.#unregistered();
    if (fresh.length === 0) return;
    for (const [, branch] of fresh) branch.registered = true;
    this.#registered = true;
    const specs = fresh.flatMap(([, { spec }]) => (spec ? [spec] : []));
    const paths = fresh.map(([path]) => path);
    void this.#look(
      async () => {
        await this.deps.database.transaction((tx) => registerWaits(tx, this.attempt, specs));
        this.deps.onDeadline();
        this.#resume(await readOutcomes(this.deps.database, this.attempt, paths));
      },
      () => {
        for (const [, branch] of fresh) branch.registered = false;
      },
    );
  }

  /** Work beside the steps, which may be costly: trouble with the database is waited out here and ends no segment. */
  async #look(work: () => Promise<void>, undo?: () => void): Promise<void> {
    await this.#counted(async () => {
      try {
        await work();
      } catch (error) {
        if (error instanceof CountersignError) throw error;
        this.deps.log.warn({ ...this.#logRef, error: toStoredError(error) }, 'waits not looked at, will be');
        await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
        undo?.();
      }
    });
  }

  #unregistered(): [string, Blocked][] {
    return [...this.#blocked].filter(([, branch]) => !branch.registered);
  }

  #resume(ended: readonly JournalEntry[]): void {
    for (const entry of ended) {
      this.journaled.add(entry);
      const branch = this.#blocked.get(entry.path);
      this.#blocked.delete(entry.path);
      branch?.resume(entry);
    }
  }

  async #wait(): Promise<void> {
    const specs = this.#unregistered().flatMap(([, { spec }]) => (spec ? [spec] : []));
    const paths = [...this.#blocked.keys()];
    this.#registered = true;
    this.#inFlight += 1;
    this.#parking = true;
    try {
      const parked = await this.deps.database.transaction((tx) => parkRun(tx, this.attempt, specs, paths));
      if (parked) {
        this.#end('waiting');
        if (specs.length > 0) this.deps.onDeadline();
        return;
      }
      this.#parking = false;
      for (const path of paths) {
        const branch = this.#blocked.get(path);
        if (branch) branch.registered = true;
      }
      this.#resume(await readOutcomes(this.deps.database, this.attempt, paths));
    } finally {
      this.#inFlight -= 1;
      this.#settle();
    }
  }

  /** Whether open waits may stand in the database: from this attempt, an earlier one, or the start. */
  get #mayWait(): boolean {
    return (
      this.#registered || this.#hasChildren || this.attempt.fence > 1 || this.#workflow.cancelOn !== undefined
    );
  }

  async #handOver(): Promise<void> {
    // What a branch has begun to wait for stands, whoever goes on.
    const specs = this.#unregistered().flatMap(([, { spec }]) => (spec ? [spec] : []));
    await this.deps.database.transaction(async (tx) => {
      if (specs.length > 0) await registerWaits(tx, this.attempt, specs);
      await handOverRun(tx, this.deps.wakes.queue, this.attempt);
    });
    this.#end('handed_over');
    if (specs.length > 0) this.deps.onDeadline();
  }

  async #finish(end: RunEnd): Promise<void> {
    if (this.#over) return;
    this.#finishing = true;
    await this.#guard(async () => {
      const { attempt } = this;
      if (attempt.parent === null && !this.#mayWait) await endAlone(this.deps.database, attempt, end);
      else await this.deps.database.transaction((tx) => endRun(tx, this.deps.wakes, attempt, end));
      if (end.error) this.deps.log.warn({ ...this.#logRef, error: end.error }, `run ${end.status}`);
      this.#end(end.status);
    });
  }

  /** Parks the run for a person: its journal and this code disagree, or it cannot be worked safely. */
  #park(error: CountersignError): Promise<void> {
    return this.#guard(async () => {
      const stored = toStoredError(error);
      if (this.attempt.cancelling) {
        // Nobody can retry what was cancelled; what could not be worked is its last word.
        this.deps.log.error({ ...this.#logRef, error: stored }, 'onFailure could not be worked');
        await this.deps.database.transaction((tx) =>
          endRun(tx, this.deps.wakes, this.attempt, { status: 'cancelled', output: null, error: stored }),
        );
        this.#end('cancelled');
        return;
      }
      await this.deps.database.transaction((tx) =>
        parkForPerson(tx, this.attempt, stored, this.deps.onParked),
      );
      this.deps.log.error({ ...this.#logRef, error: stored }, 'run parked: a person is needed');
      this.#end('parked');
    });
  }

  /** Being fenced ends the segment quietly; anything else leaves the run to the sweeper, loudly. */
  async #guard(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (hasCode(error, 'FENCED')) this.#end('fenced');
      else this.#crash(error);
    }
  }

  /** Leaves the run as it is; its worker gives it back to the queue once it notices. */
  #crash(error: unknown): void {
    if (this.#over) return;
    this.#over = true;
    this.#abort?.abort(SEGMENT_OVER);
    this.#ended.reject(error);
  }

  #end(end: SegmentEnd): void {
    if (this.#over) return;
    this.#over = true;
    this.#abort?.abort(SEGMENT_OVER);
    this.#ended.resolve(end);
  }

  get #logRef(): { runId: string; workflow: string; fence: number } {
    const { runId, workflowName, workflowVersion, fence } = this.attempt;
    return { runId, workflow: `${workflowName}@${workflowVersion}`, fence };
  }
}

function never<T>(): Promise<T> {
  return new Promise<T>(() => undefined);
}
