/**
 * A segment: one attempt's work on a run between two parks. It replays the journal into the workflow body and implements
 * the primitives.
 *
 * Invariants. A step resolves only after its row is committed. Once the segment has ended (parked, fenced, handed over) no primitive
 * resolves any more: the body's promise is dropped, nothing is thrown into it, so that no `catch` of an author can mistake it for a failure.
 * The segment parks only when every open branch is blocked on a wait and no step is in flight.
 */
import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';
import {
  CountersignError,
  ERROR_TABLE,
  type ErrorCode,
  hasCode,
  type StoredError,
  toStoredError,
} from '../../errors.ts';
import type { Logger } from '../../log.ts';
import type {
  Json,
  Queryable,
  RunRef,
  Step,
  StepContext,
  StepOptions,
  Tx,
  WaitOutcome,
} from '../../types.ts';
import type { Database } from './db.ts';
import type { WakeQueue } from './queue.ts';
import {
  type Attempt,
  endRun,
  handOverRun,
  holdFence,
  insertStep,
  type JournalEntry,
  parkRun,
  readJournal,
  type StepRow,
  type WaitSpec,
} from './runs.ts';
import type { Workflow } from './workflow.ts';

const DEFAULT_MAX_TRIES = 5;
const DEFAULT_BACKOFF_MS = 1_000;
/** FAULTS: durable backoff of at most 15 minutes. */
const MAX_BACKOFF_MS = 15 * 60_000;
const DEFAULT_TIMEOUT_MS = 120_000;
/** Larger results belong beside the journal, not in it: every replay reads them. */
const MAX_RESULT_BYTES = 1024 * 1024;
/** About 3 s in all: longer outages are the sweeper's. */
const JOURNAL_TRIES = 5;
const NAME = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$/;

export type SegmentEnd = 'completed' | 'failed' | 'waiting' | 'parked' | 'fenced' | 'handed_over';

export interface SegmentDeps {
  readonly database: Database;
  readonly queue: WakeQueue;
  readonly log: Logger;
  /** Called after a park that registered deadlines, so that the process's one timer can look again. */
  readonly onDeadline: () => void;
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
      const end = { status: 'parked', output: null, error: toStoredError(error) } as const;
      await this.#deps.database.transaction((tx) => endRun(tx, this.#attempt, end));
      this.#deps.log.error({ ...logRef(this.#attempt), error: end.error }, 'run parked: a person is needed');
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

/** The primitives as one branch sees them: names, occurrences and time are the branch's own. */
class Branch implements Step {
  readonly #segment: Segment;
  readonly #prefix: string;
  readonly #attempt: Attempt;
  readonly #occurrences = new Map<string, number>();
  readonly #active = new Set<string>();
  #lastFinishedAt: Date;
  #derivedCount = 0;

  constructor(segment: Segment, prefix: string, attempt: Attempt, startedAt = attempt.createdAt) {
    this.#segment = segment;
    this.#prefix = prefix;
    this.#attempt = attempt;
    this.#lastFinishedAt = startedAt;
  }

  get runRef(): RunRef {
    return { workspaceId: this.#attempt.workspaceId, runId: this.#attempt.runId };
  }

  run<T>(name: string, body: (context: StepContext) => Promise<T>, options: StepOptions = {}): Promise<T> {
    return this.#named(name, async (path) => {
      const inputHash = hashInput(options.input);
      for (;;) {
        const outcome = await this.#segment.unit(async () => {
          const known = this.#segment.recall(path, 'run', inputHash);
          return known ? { entry: known } : this.#try(path, inputHash, body, options);
        });
        if ('entry' in outcome) return this.#deliver<T>(outcome.entry);
        await this.#segment.block(outcome.backoff);
      }
    });
  }

  async #try<T>(
    path: string,
    inputHash: string | null,
    body: (context: StepContext) => Promise<T>,
    options: StepOptions,
  ): Promise<{ entry: JournalEntry } | { backoff: WaitSpec }> {
    const tryNumber = this.#segment.triesBefore(path) + 1;
    const startedAt = new Date();
    const row = { path, kind: 'run', inputHash, startedAt };
    let result: Json;
    try {
      result = toJson(await this.#bounded(path, tryNumber, body, options.timeoutMs ?? DEFAULT_TIMEOUT_MS));
    } catch (error) {
      if (hasCode(error, 'FENCED') || this.#segment.signal.aborted) throw error;
      const stored = toStoredError(error);
      if (stored.errorClass === 'retryable' && tryNumber < (options.maxTries ?? DEFAULT_MAX_TRIES)) {
        const afterMs = backoffMs(options.backoffMs ?? DEFAULT_BACKOFF_MS, tryNumber, retryAfterMs(error));
        return {
          backoff: {
            path: `${path}~${tryNumber}`,
            kind: 'retry',
            inputHash: null,
            event: null,
            due: { afterMs },
          },
        };
      }
      return { entry: await this.#segment.journalAlone({ ...row, error: stored, result: null }) };
    }
    return { entry: await this.#segment.journalAlone({ ...row, error: null, result }) };
  }

  async #bounded<T>(
    path: string,
    tryNumber: number,
    body: (context: StepContext) => Promise<T>,
    timeoutMs: number,
  ): Promise<T> {
    const timeout = new AbortController();
    const signal = AbortSignal.any([this.#segment.signal, timeout.signal]);
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      const error = new CountersignError('STEP_TIMEOUT', `Step ${path} took longer than ${timeoutMs} ms`);
      timeout.abort(error);
      late.reject(error);
    }, timeoutMs);
    try {
      const idempotencyKey = deriveId(this.#attempt, `${path}/idempotency`);
      const context: StepContext = {
        signal,
        tryNumber,
        idempotencyKey,
        fenced: (work) => this.#segment.fenced(work),
      };
      return await Promise.race([body(context), late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  transact<T>(
    name: string,
    body: (tx: Tx) => Promise<T>,
    options: Pick<StepOptions, 'input'> = {},
  ): Promise<T> {
    return this.#named(name, async (path) => {
      const inputHash = hashInput(options.input);
      const entry = await this.#segment.unit(async () => {
        const known = this.#segment.recall(path, 'transact', inputHash);
        if (known) return known;
        const row = { path, kind: 'transact', inputHash, startedAt: new Date() };
        try {
          return await this.#segment.fenced(async (tx) =>
            this.#segment.journal(tx, { ...row, error: null, result: toJson(await body(tx)) }),
          );
        } catch (error) {
          // A refusal of the domain is a result; it was rolled back and is journaled by itself.
          if (!(error instanceof CountersignError) || hasCode(error, 'FENCED')) throw error;
          return this.#segment.journalAlone({ ...row, error: toStoredError(error), result: null });
        }
      });
      return this.#deliver<T>(entry);
    });
  }

  waitForEvent(
    name: string,
    options: { event: string; key: string } & ({ timeoutMs: number } | { deadlineAt: Date }),
  ): Promise<WaitOutcome> {
    return this.#named(name, async (path) => {
      const due = 'deadlineAt' in options ? { at: options.deadlineAt } : { afterMs: options.timeoutMs };
      const inputHash = hashInput([options.event, options.key]);
      const event = { name: options.event, key: options.key };
      const entry = await this.#wait({ path, kind: 'event', inputHash, event, due });
      this.#lastFinishedAt = entry.finishedAt;
      return entry.result as unknown as WaitOutcome;
    });
  }

  sleep(name: string, durationMs: number): Promise<void> {
    return this.#named(name, async (path) => {
      const entry = await this.#wait({
        path,
        kind: 'sleep',
        inputHash: null,
        event: null,
        due: { afterMs: durationMs },
      });
      this.#lastFinishedAt = entry.finishedAt;
    });
  }

  async #wait(spec: WaitSpec): Promise<JournalEntry> {
    const known = await this.#segment.unit(
      async () => this.#segment.recall(spec.path, spec.kind, spec.inputHash) ?? null,
    );
    return known ?? this.#segment.block(spec);
  }

  branch<T>(key: string, body: (step: Step) => Promise<T>): Promise<T> {
    return this.#named(key, async (path) => {
      const branch = new Branch(this.#segment, `${path}/`, this.#attempt, this.#lastFinishedAt);
      const value = await body(branch);
      if (branch.#lastFinishedAt > this.#lastFinishedAt) this.#lastFinishedAt = branch.#lastFinishedAt;
      return value;
    });
  }

  now(): Date {
    return new Date(this.#lastFinishedAt);
  }

  id(): string {
    this.#derivedCount += 1;
    return deriveId(this.#attempt, `${this.#prefix}/id/${this.#derivedCount}`);
  }

  random(): number {
    this.#derivedCount += 1;
    const digest = createHash('sha256').update(
      `${this.#attempt.runId}/${this.#prefix}/random/${this.#derivedCount}`,
    );
    return digest.digest().readUIntBE(0, 6) / 2 ** 48;
  }

  /** Gives this occurrence of `name` its path and keeps a second one from starting beside it. */
  async #named<T>(name: string, work: (path: string) => Promise<T>): Promise<T> {
    if (!NAME.test(name)) throw new TypeError(`Step name ${JSON.stringify(name)} must match ${NAME}`);
    if (this.#active.has(name))
      return this.#segment.unit<T>(() =>
        Promise.reject(
          new CountersignError(
            'STEP_NAME_AMBIGUOUS',
            `Two steps named ${this.#prefix}${name} are in flight; use step.branch`,
          ),
        ),
      );
    const occurrence = (this.#occurrences.get(name) ?? 0) + 1;
    this.#occurrences.set(name, occurrence);
    this.#active.add(name);
    try {
      return await work(`${this.#prefix}${name}${occurrence === 1 ? '' : `#${occurrence}`}`);
    } finally {
      this.#active.delete(name);
    }
  }

  #deliver<T>(entry: JournalEntry): T {
    this.#lastFinishedAt = entry.finishedAt;
    if (entry.error) throw fromStored(entry.error);
    return entry.result as T;
  }
}

/** An error from outside our table as the body sees it, on the first run as on every replay. */
export class StepFailed extends Error {
  readonly code: string;
  readonly errorClass: StoredError['errorClass'];
  constructor(error: StoredError) {
    super(error.message);
    this.name = 'StepFailed';
    this.code = error.code;
    this.errorClass = error.errorClass;
  }
}

function fromStored(error: StoredError): Error {
  return error.code in ERROR_TABLE
    ? new CountersignError(error.code as ErrorCode, error.message, { errorClass: error.errorClass })
    : new StepFailed(error);
}

function never<T>(): Promise<T> {
  return new Promise<T>(() => undefined);
}

/** What JSON carries of a value, so that the first run sees what a replay will see. */
function toJson(value: unknown): Json {
  if (value === undefined) return null;
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch (error) {
    throw new CountersignError('STEP_RESULT_NOT_JSON', 'A step returned something JSON cannot hold', {
      cause: error,
    });
  }
  if (text === undefined)
    throw new CountersignError('STEP_RESULT_NOT_JSON', 'A step returned a function or symbol');
  if (Buffer.byteLength(text) > MAX_RESULT_BYTES)
    throw new CountersignError(
      'STEP_RESULT_TOO_LARGE',
      `A step returned more than ${MAX_RESULT_BYTES} bytes`,
    );
  return JSON.parse(text) as Json;
}

function hashInput(input: Json | undefined): string | null {
  return input === undefined
    ? null
    : createHash('sha256')
        .update(canonicalize(input) ?? '')
        .digest('hex');
}

function retryAfterMs(error: unknown): number | undefined {
  return error instanceof CountersignError ? error.retryAfterMs : undefined;
}

/** Doubles per try, with half of it random so that many runs do not come back together; never before the outside world asked. */
export function backoffMs(firstMs: number, tryNumber: number, askedMs: number | undefined): number {
  const full = Math.min(MAX_BACKOFF_MS, firstMs * 2 ** (tryNumber - 1));
  return Math.min(MAX_BACKOFF_MS, Math.max(askedMs ?? 0, full * (0.5 + Math.random() / 2)));
}

/** A UUIDv7 that follows from run and place alone: its time is the run's. */
function deriveId(attempt: Attempt, place: string): string {
  const bytes = createHash('sha256')
    .update(`${attempt.workspaceId}/${attempt.runId}/${place}`)
    .digest()
    .subarray(0, 16);
  bytes.writeUIntBE(attempt.createdAt.getTime(), 0, 6);
  bytes.writeUInt8(0x70 | ((bytes[6] ?? 0) & 0x0f), 6);
  bytes.writeUInt8(0x80 | ((bytes[8] ?? 0) & 0x3f), 8);
  const hex = bytes.toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

function logRef(attempt: Attempt): { runId: string; workflow: string; fence: number } {
  return {
    runId: attempt.runId,
    workflow: `${attempt.workflowName}@${attempt.workflowVersion}`,
    fence: attempt.fence,
  };
}
