/**
 * The primitives of a workflow, as one branch of its body sees them: names, occurrences, time and derived ids are the branch's own.
 *
 * Invariants. The same code on the same journal asks for the same paths and gets the same values, so everything that is not journaled
 * follows from the run and the place. What a step's body throws is a result, journaled like any other; only trouble with the database is not.
 */
import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';
import {
  CountersignError,
  ERROR_TABLE,
  type ErrorCode,
  hasCode,
  StepFailed,
  type StoredError,
  toStoredError,
} from '../../errors.ts';
import type {
  ChildCall,
  FirstResult,
  Invocable,
  InvokeOptions,
  Json,
  RunRef,
  Step,
  StepContext,
  StepOptions,
  Tx,
  WaitOutcome,
} from '../../types.ts';
import type { Attempt, JournalEntry, WaitSpec } from './attempt.ts';
import { MAX_DEPTH } from './cancel.ts';
import type { ChildrenEnded } from './children-ended.ts';
import { type PlannedChild, startChildren } from './children-start.ts';
import { sqlState } from './db.ts';
import { derivedId } from './derived-id.ts';
import { emitEvent } from './events.ts';
import type { Scope, Segment } from './segment.ts';
import { checkStart } from './workflow.ts';

const DEFAULT_MAX_TRIES = 5;
const DEFAULT_BACKOFF_MS = 1_000;
/** FAULTS: durable backoff of at most 15 minutes. */
const MAX_BACKOFF_MS = 15 * 60_000;
const DEFAULT_TIMEOUT_MS = 120_000;
/** Larger results belong beside the journal, not in it: every replay reads them. */
const MAX_RESULT_BYTES = 1024 * 1024;
const NAME = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$/;
/** A child may wait for people, who may be away for weeks. */
const CHILD_TIMEOUT_MS = 30 * 24 * 3_600_000;
/** Children of one step: their results are read with every replay. */
const MAX_CHILDREN = 100;

/** The primitives as one branch sees them: names, occurrences and time are the branch's own. */
export class Branch implements Step {
  readonly #segment: Segment;
  readonly #scope: Scope;
  readonly #prefix: string;
  readonly #attempt: Attempt;
  readonly #occurrences = new Map<string, number>();
  readonly #active = new Set<string>();
  #lastFinishedAt: Date;
  #derivedCount = 0;

  constructor(segment: Segment, scope: Scope, prefix: string, startedAt = segment.attempt.createdAt) {
    this.#segment = segment;
    this.#scope = scope;
    this.#prefix = prefix;
    this.#attempt = segment.attempt;
    this.#lastFinishedAt = startedAt;
  }

  get runRef(): RunRef {
    return { workspaceId: this.#attempt.workspaceId, runId: this.#attempt.runId };
  }

  run<T>(name: string, body: (context: StepContext) => Promise<T>, options: StepOptions = {}): Promise<T> {
    return this.#named(name, async (path) => {
      const inputHash = hashInput(options.input);
      for (;;) {
        const backoff = this.#segment.journaled.openBackoff(path);
        if (backoff !== undefined) await this.#segment.blockOn(this.#scope, backoff);
        const outcome = await this.#unit(async () => {
          const known = this.#segment.journaled.recall(path, 'run', inputHash);
          return known ? { entry: known } : this.#try(path, inputHash, body, options);
        });
        if ('entry' in outcome) return this.#deliver<T>(outcome.entry);
        await this.#segment.block(this.#scope, outcome.backoff);
      }
    });
  }

  async #try<T>(
    path: string,
    inputHash: string | null,
    body: (context: StepContext) => Promise<T>,
    options: StepOptions,
  ): Promise<{ entry: JournalEntry } | { backoff: WaitSpec }> {
    const tryNumber = this.#segment.journaled.triesBefore(path) + 1;
    const startedAt = new Date();
    const row = { path, kind: 'run', inputHash, startedAt };
    let result: Json;
    try {
      result = toJson(await this.#bounded(path, tryNumber, body, options.timeoutMs ?? DEFAULT_TIMEOUT_MS));
    } catch (error) {
      if (hasCode(error, 'FENCED') || this.#segment.over) throw error;
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
    const segment = this.#segment;
    const attempt = this.#attempt;
    const late = Promise.withResolvers<never>();
    const timeout = lazy(() => new AbortController());
    const timer = setTimeout(() => {
      const error = new CountersignError('STEP_TIMEOUT', `Step ${path} took longer than ${timeoutMs} ms`);
      timeout().abort(error);
      late.reject(error);
    }, timeoutMs);
    try {
      // What most bodies never ask for is made when it is: together these cost more than the rest of a step.
      const signal = lazy(() => AbortSignal.any([segment.signal, timeout().signal]));
      const context: StepContext = {
        get signal() {
          return signal();
        },
        tryNumber,
        get idempotencyKey() {
          // A retry of the failed step is the same call to the outside world.
          return derivedId(attempt, `${basePath(path)}/idempotency`);
        },
        fenced: (work) => segment.fenced(work).catch((error: unknown) => refuseData(path, error)),
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
      const entry = await this.#unit(async () => {
        const known = this.#segment.journaled.recall(path, 'transact', inputHash);
        if (known) return known;
        const row = { path, kind: 'transact', inputHash, startedAt: new Date() };
        try {
          return await this.#segment.fenced(async (tx) =>
            this.#segment.journal(tx, { ...row, error: null, result: toJson(await body(tx)) }),
          );
        } catch (caught) {
          const error = isDataRefusal(caught) ? databaseRefused(path, caught) : caught;
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
      this.#passed(entry);
      return entry.result as unknown as WaitOutcome;
    });
  }

  sleep(name: string, durationMs: number): Promise<void> {
    return this.#named(name, async (path) => {
      const due = { afterMs: durationMs };
      const entry = await this.#wait({ path, kind: 'sleep', inputHash: null, event: null, due });
      this.#passed(entry);
    });
  }

  sleepUntil(name: string, instant: Date): Promise<void> {
    return this.#named(name, async (path) => {
      const due = { at: instant };
      const entry = await this.#wait({ path, kind: 'sleep', inputHash: null, event: null, due });
      this.#passed(entry);
    });
  }

  sendEvent(name: string, sent: { event: string; key: string; payload?: Json }): Promise<boolean> {
    return this.#named(name, async (path) => {
      const { wakes, database } = this.#segment.deps;
      const inputHash = hashInput([sent.event, sent.key, sent.payload ?? null]);
      const entry = await this.#unit(async () => {
        const known = this.#segment.journaled.recall(path, 'send-event', inputHash);
        if (known) return known;
        const row = { path, kind: 'send-event', inputHash, startedAt: new Date() };
        const address = { workspaceId: this.#attempt.workspaceId, name: sent.event, key: sent.key };
        // A primitive of its own, because the event's key is locked before any run is.
        return database.transaction(async (tx) => {
          const stored = await emitEvent(tx, wakes, address, toJson(sent.payload), this.#attempt);
          return this.#segment.journal(tx, { ...row, error: null, result: stored });
        });
      });
      return this.#deliver<boolean>(entry);
    });
  }

  async invoke<Input, Output>(
    name: string,
    workflow: Invocable<Input, Output>,
    input: Input,
    options: InvokeOptions = {},
  ): Promise<Output> {
    const { path, ended } = await this.#children(name, 1, [{ key: name, workflow, input }], options);
    const [child] = ended.completed;
    if (child) return child.output as Output;
    const error = ended.failed[0]?.error ?? CHILD_LOST;
    throw this.#segment.blame(fromStored({ ...error, errorClass: 'terminal' }), path);
  }

  async first<Input, Output>(
    name: string,
    count: number,
    children: readonly ChildCall<Input, Output>[],
    options: InvokeOptions = {},
  ): Promise<FirstResult<Output>> {
    const { path, ended } = await this.#children(name, count, children, options);
    if (ended.completed.length >= count)
      return { ...ended, completed: ended.completed.slice(0, count) } as unknown as FirstResult<Output>;
    const failed = ended.failed.map(({ key, error }) => `${key} (${error.code})`).join(', ');
    throw this.#segment.blame(
      new CountersignError(
        'TOO_FEW_COMPLETED',
        `${ended.completed.length} of ${count} needed children completed; failed: ${failed || 'none'}`,
      ),
      path,
    );
  }

  /** Starts the children of one step, once, and waits for `count` of them. */
  #children<Input, Output>(
    name: string,
    count: number,
    calls: readonly ChildCall<Input, Output>[],
    options: InvokeOptions,
  ): Promise<{ path: string; ended: ChildrenEnded }> {
    return this.#named(name, async (path) => {
      const { deps } = this.#segment;
      const children = this.#planned(count, calls);
      const inputHash = hashInput([
        count,
        children.map(({ key, workflowName, workflowVersion, input }) => [
          key,
          workflowName,
          workflowVersion,
          input,
        ]),
      ]);
      const known = await this.#unit(async () => {
        const entry = this.#segment.journaled.recall(path, 'children', inputHash);
        if (entry) return entry;
        const started = await this.#segment.withChildren((tx) =>
          startChildren(tx, deps.wakes, this.#attempt, {
            path,
            childrenPath: basePath(path),
            inputHash,
            count,
            timeoutMs: options.timeoutMs ?? CHILD_TIMEOUT_MS,
            children,
          }),
        );
        deps.onDeadline();
        return started ?? null;
      });
      const entry = known ?? (await this.#segment.blockOn(this.#scope, path));
      this.#passed(entry);
      const { outcome, payload } = entry.result as unknown as { outcome: string; payload: ChildrenEnded };
      if (outcome !== 'timeout') return { path, ended: payload };
      const open = payload.cancelled.map(
        ({ key, inFlight }) => key + (inFlight.length > 0 ? ` (in flight: ${inFlight.join(', ')})` : ''),
      );
      throw this.#segment.blame(
        new CountersignError('CHILD_TIMEOUT', `Not in time, and cancelled: ${open.join(', ')}`),
        path,
      );
    });
  }

  #planned<Input, Output>(count: number, calls: readonly ChildCall<Input, Output>[]): PlannedChild[] {
    if (!Number.isInteger(count) || count < 1 || count > calls.length || calls.length > MAX_CHILDREN)
      throw new TypeError(
        `Asked for ${count} of ${calls.length} children: 1 to all of at most ${MAX_CHILDREN} are possible`,
      );
    if (new Set(calls.map((call) => call.key)).size < calls.length)
      throw new TypeError('Two children have the same key');
    if (this.#attempt.depth >= MAX_DEPTH)
      throw new CountersignError('RUN_TOO_DEEP', `Children may be ${MAX_DEPTH} levels deep at most`);
    return calls.map(({ key, workflow, input }) => {
      checkName(key);
      const { cancelOn } = checkStart(this.#segment.deps.registry, workflow.name, workflow.version, input);
      return {
        key,
        workflowName: workflow.name,
        workflowVersion: workflow.version,
        input: toJson(input),
        cancelOn,
      };
    });
  }

  async #wait(spec: WaitSpec): Promise<JournalEntry> {
    const known = await this.#unit(
      async () => this.#segment.journaled.recall(spec.path, spec.kind, spec.inputHash) ?? null,
    );
    return known ?? this.#segment.block(this.#scope, spec);
  }

  branch<T>(key: string, body: (step: Step) => Promise<T>): Promise<T> {
    return this.#named(key, async (path) => {
      // Its time stays its own: whether it ends before or after a sibling is another thing on a replay.
      return body(new Branch(this.#segment, this.#scope, `${path}/`, this.#lastFinishedAt));
    });
  }

  now(): Date {
    return new Date(this.#lastFinishedAt);
  }

  id(): string {
    this.#derivedCount += 1;
    return derivedId(this.#attempt, `${this.#prefix}/id/${this.#derivedCount}`);
  }

  random(): number {
    this.#derivedCount += 1;
    const digest = createHash('sha256').update(
      `${this.#attempt.runId}/${this.#prefix}/random/${this.#derivedCount}`,
    );
    return digest.digest().readUIntBE(0, 6) / 2 ** 48;
  }

  #unit<T>(work: () => Promise<T>): Promise<T> {
    return this.#segment.unit(this.#scope, work);
  }

  /** Gives this occurrence of `name` its path and keeps a second one from starting beside it. */
  async #named<T>(name: string, work: (path: string) => Promise<T>): Promise<T> {
    checkName(name);
    if (this.#active.has(name))
      return this.#unit<T>(() =>
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
      const path = `${this.#prefix}${name}${occurrence === 1 ? '' : `#${occurrence}`}`;
      return await work(this.#segment.journaled.placeOf(path));
    } finally {
      this.#active.delete(name);
    }
  }

  /** Time never goes back: steps side by side are delivered in another order on a replay than they ended in. */
  #passed(entry: JournalEntry): void {
    if (entry.finishedAt > this.#lastFinishedAt) this.#lastFinishedAt = entry.finishedAt;
  }

  #deliver<T>(entry: JournalEntry): T {
    this.#passed(entry);
    if (entry.error) throw this.#segment.blame(fromStored(entry.error), entry.path);
    return entry.result as T;
  }
}

/** Of a child that left no error behind. */
const CHILD_LOST: StoredError = {
  code: 'RUN_CANCELLED',
  message: 'The child run did not complete',
  errorClass: 'terminal',
};

function fromStored(error: StoredError): Error {
  return error.code in ERROR_TABLE
    ? new CountersignError(error.code as ErrorCode, error.message, { errorClass: error.errorClass })
    : new StepFailed(error);
}

/** Class 22 (data), 23 (constraints), and CS, the codes of our own triggers: the same statement would be refused again. */
const DATA_REFUSALS = /^(22|23|CS)/;

function refuseData(path: string, error: unknown): never {
  throw isDataRefusal(error) ? databaseRefused(path, error) : error;
}

function isDataRefusal(error: unknown): boolean {
  return DATA_REFUSALS.test(sqlState(error) ?? '');
}

/** Says which step and which SQLSTATE; the database's own words may quote row values and stay in the cause. */
function databaseRefused(path: string, cause: unknown): CountersignError {
  return new CountersignError(
    'DATABASE_REFUSED',
    `The database refused what step ${path} wrote (SQLSTATE ${sqlState(cause)})`,
    { cause },
  );
}

/** What JSON carries of a value, so that the first run sees what a replay will see. */
export function toJson(value: unknown): Json {
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

function lazy<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
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

/** Where the body asked for it, without the generation of a retry. Step names hold no `@`. */
function basePath(path: string): string {
  return path.replace(/@\d+$/, '');
}

function checkName(name: string): void {
  if (!NAME.test(name)) throw new TypeError(`Name ${JSON.stringify(name)} must match ${NAME}`);
}
