/**
 * A segment: one attempt's work on a run between two parks. It replays the journal into the workflow body and implements
 * the primitives.
 *
 * Invariants. A step resolves only after its row is committed. Once the segment has ended (parked, fenced, handed over) no primitive
 * resolves any more: the body's promise is dropped, nothing is thrown into it, so that no `catch` of an author can mistake it for a failure.
 * The segment parks only when every open branch is blocked on a wait and no step is in flight.
 */
import { CountersignError, hasCode, type StoredError, toStoredError } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import type { Json, Queryable, Tx } from '../../types.ts';
import { Branch, toJson } from './branch.ts';
import type { Database } from './db.ts';
import type { WakeQueue } from './queue.ts';
import {
  type Attempt,
  endRun,
  handOverRun,
  holdFence,
  insertStep,
  type JournalEntry,
  type OnParked,
  parkForPerson,
  parkRun,
  readJournal,
  type StepRow,
  type WaitSpec,
} from './runs.ts';
import type { Workflow } from './workflow.ts';

/** About 3 s in all: longer outages are the sweeper's. */
const JOURNAL_TRIES = 5;

export type SegmentEnd = 'completed' | 'failed' | 'waiting' | 'parked' | 'fenced' | 'handed_over';

export interface SegmentDeps {
  readonly database: Database;
  readonly queue: WakeQueue;
  readonly log: Logger;
  /** Called after a park that registered deadlines, so that the process's one timer can look again. */
  readonly onDeadline: () => void;
  readonly onParked?: OnParked;
}

export class Segment {
  readonly #deps: SegmentDeps;
  readonly #attempt: Attempt;
  readonly #workflow: Workflow;
  readonly #journal = new Map<string, JournalEntry>();
  /** Branches blocked on a wait, by path, with what resumes them. */
  readonly #blocked = new Map<string, { spec: WaitSpec; resume: (entry: JournalEntry) => void }>();
  /** Steps whose body or row is under way. */
  #inFlight = 0;
  /** Branches stopped at the next step because the process is going down. */
  #held = 0;
  #draining = false;
  #settling = false;
  readonly #abort = new AbortController();
  readonly #ended = Promise.withResolvers<SegmentEnd>();
  #over = false;

  constructor(deps: SegmentDeps, attempt: Attempt, workflow: Workflow) {
    this.#deps = deps;
    this.#attempt = attempt;
    this.#workflow = workflow;
  }

  /** Works until the run finishes or the segment ends otherwise. Rejects only when the database cannot be reached. */
  async run(): Promise<SegmentEnd> {
    for (const entry of await readJournal(this.#deps.database, this.#attempt))
      this.#journal.set(entry.path, entry);
    const input = this.#workflow.input.safeParse(this.#attempt.input);
    if (!input.success) {
      this.#park(
        new CountersignError('WORKFLOW_INPUT_INVALID', 'The stored input does not fit this workflow'),
      );
      return this.#ended.promise;
    }
    const branch = new Branch(this, '', this.#attempt);
    // In a promise of its own, so that a body that throws before its first await fails the run too.
    Promise.resolve()
      .then(() => this.#workflow.body(branch, input.data))
      .then(
        (output) => this.#finish(() => ({ status: 'completed', output: toJson(output), error: null })),
        (error: unknown) =>
          this.#finish(() => ({ status: 'failed', output: null, error: toStoredError(error) })),
      );
    return this.#ended.promise;
  }

  /** Lets steps in flight finish, starts no other, and gives the run back to the queue. */
  drain(): void {
    this.#draining = true;
    this.#settle();
  }

  /** Stops at once without writing anything more. Steps in flight see their signal fire. */
  abandon(): void {
    this.#end('fenced');
  }

  get attempt(): Attempt {
    return this.#attempt;
  }

  /** A finished entry, after checking that the code asks for what was journaled. */
  recall(path: string, kind: string, inputHash: string | null): JournalEntry | undefined {
    const entry = this.#journal.get(path);
    if (entry && (entry.kind !== kind || entry.inputHash !== inputHash))
      throw new CountersignError(
        'JOURNAL_MISMATCH',
        `Step ${path} was journaled as another ${entry.kind === kind ? 'input' : 'kind'}`,
      );
    return entry;
  }

  /** How often a step was tried and backed off already. */
  triesBefore(path: string): number {
    let tries = 0;
    while (this.#journal.has(`${path}~${tries + 1}`)) tries += 1;
    return tries;
  }

  /**
   * Runs one unit that may write. While it is under way the segment does not park. Resolves to its value, or never: when
   * the segment ended meanwhile or the unit found itself fenced.
   */
  async unit<T>(work: () => Promise<T>): Promise<T> {
    if (this.#draining) {
      this.#held += 1;
      this.#settle();
      return never();
    }
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
  block(spec: WaitSpec): Promise<JournalEntry> {
    return new Promise((resume) => {
      this.#blocked.set(spec.path, { spec, resume });
      this.#settle();
    });
  }

  /** Journals a finished step in the caller's transaction. */
  async journal(tx: Queryable, row: StepRow): Promise<JournalEntry> {
    return { ...row, finishedAt: await insertStep(tx, this.#attempt, row) };
  }

  /**
   * Journals a finished step by itself. What the step did may have cost money, so a lost connection is survived here:
   * the insert repeats, and finds its own row when only the answer was lost.
   */
  async journalAlone(row: StepRow): Promise<JournalEntry> {
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.journal(this.#deps.database, row);
      } catch (error) {
        if (error instanceof CountersignError || tries >= JOURNAL_TRIES || this.#over) throw error;
        await new Promise((resolve) => setTimeout(resolve, 100 * 2 ** tries * (0.5 + Math.random() / 2)));
      }
    }
  }

  fenced<T>(body: (tx: Tx) => Promise<T>): Promise<T> {
    return this.#deps.database.transaction(async (tx) => {
      await holdFence(tx, this.#attempt);
      return body(tx);
    });
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Looks, once the body had its say, whether all that is left are blocked branches; then parks or hands over. */
  #settle(): void {
    if (this.#settling || this.#over) return;
    this.#settling = true;
    // Continuations of what just resolved run as microtasks before this; they may start further steps.
    setImmediate(() => {
      this.#settling = false;
      if (this.#over || this.#inFlight > 0) return;
      if (this.#held > 0) void this.#guard(() => this.#handOver());
      else if (this.#blocked.size > 0) void this.#guard(() => this.#wait());
    });
  }

  async #wait(): Promise<void> {
    const specs = [...this.#blocked.values()].map((branch) => branch.spec);
    this.#inFlight += 1;
    try {
      const result = await this.#deps.database.transaction((tx) => parkRun(tx, this.#attempt, specs));
      if (result.parked) {
        this.#end('waiting');
        this.#deps.onDeadline();
        return;
      }
      for (const entry of result.resolved) {
        this.#journal.set(entry.path, entry);
        const branch = this.#blocked.get(entry.path);
        this.#blocked.delete(entry.path);
        branch?.resume(entry);
      }
    } finally {
      this.#inFlight -= 1;
      this.#settle();
    }
  }

  async #handOver(): Promise<void> {
    await this.#deps.database.transaction((tx) => handOverRun(tx, this.#deps.queue, this.#attempt));
    this.#end('handed_over');
  }

  async #finish(
    decide: () => { status: 'completed' | 'failed'; output: Json; error: StoredError | null },
  ): Promise<void> {
    if (this.#over) return;
    await this.#guard(async () => {
      let end: ReturnType<typeof decide>;
      try {
        end = decide();
      } catch (error) {
        end = { status: 'failed', output: null, error: toStoredError(error) };
      }
      await this.#deps.database.transaction((tx) => endRun(tx, this.#attempt, end));
      if (end.error) this.#deps.log.warn({ ...logRef(this.#attempt), error: end.error }, 'run failed');
      this.#end(end.status);
    });
  }

  /** Parks the run for a person: its journal and this code disagree, or it cannot be worked safely. */
  #park(error: CountersignError): Promise<void> {
    return this.#guard(async () => {
      const stored = toStoredError(error);
      await this.#deps.database.transaction((tx) =>
        parkForPerson(tx, this.#attempt, stored, this.#deps.onParked),
      );
      this.#deps.log.error({ ...logRef(this.#attempt), error: stored }, 'run parked: a person is needed');
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
    this.#abort.abort();
    this.#ended.reject(error);
  }

  #end(end: SegmentEnd): void {
    if (this.#over) return;
    this.#over = true;
    this.#abort.abort();
    this.#ended.resolve(end);
  }
}

function logRef(attempt: Attempt): { runId: string; workflow: string; fence: number } {
  return {
    runId: attempt.runId,
    workflow: `${attempt.workflowName}@${attempt.workflowVersion}`,
    fence: attempt.fence,
  };
}

function never<T>(): Promise<T> {
  return new Promise<T>(() => undefined);
}
