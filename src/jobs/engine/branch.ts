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
  type StoredError,
  toStoredError,
} from '../../errors.ts';
import type { Json, RunRef, Step, StepContext, StepOptions, Tx, WaitOutcome } from '../../types.ts';
import { sqlState } from './db.ts';
import type { Attempt, JournalEntry, WaitSpec } from './runs.ts';
import type { Segment } from './segment.ts';

const DEFAULT_MAX_TRIES = 5;
const DEFAULT_BACKOFF_MS = 1_000;
/** FAULTS: durable backoff of at most 15 minutes. */
const MAX_BACKOFF_MS = 15 * 60_000;
const DEFAULT_TIMEOUT_MS = 120_000;
/** Larger results belong beside the journal, not in it: every replay reads them. */
const MAX_RESULT_BYTES = 1024 * 1024;
const NAME = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$/;

/** The primitives as one branch sees them: names, occurrences and time are the branch's own. */
export class Branch implements Step {
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

/** Class 22 (data), 23 (constraints), and CS, the codes of our own triggers: the same statement would be refused again. */
const DATA_REFUSALS = /^(22|23|CS)/;

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
