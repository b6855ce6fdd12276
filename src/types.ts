/**
 * The nouns and ports every room shares. No behaviour, no imports but types.
 *
 * Words mean what docs/glossary.md says. A port is an interface one room calls and a later room implements:
 * agents call `Step` (implemented by jobs/engine). What people see, and `Messenger`, are in views.ts.
 */

import type { StoredError } from './errors.ts';

/** Anything JSON can hold. What is stored, hashed or sent is always of this type. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
export type JsonObject = { readonly [key: string]: Json };

/** Slack's team id, or the enterprise id for an org-wide installation. First in every key. */
export type WorkspaceId = string;

/** A person is always a pair: user ids are unique only within their team. */
export interface Person {
  readonly teamId: string;
  readonly userId: string;
}

/**
 * What Slack says of a person at the moment of the look-up. Read outside any transaction, right before the decision
 * that depends on it; `known: false` means that Slack could not tell, and then nothing is granted.
 */
export interface PersonFacts extends Person {
  readonly known: boolean;
  readonly isBot: boolean;
  /** Single- or multi-channel guest (`is_restricted`, `is_ultra_restricted`). */
  readonly isGuest: boolean;
  /** From another workspace (`is_stranger`, or another home team). */
  readonly isExternal: boolean;
  readonly isDeactivated: boolean;
}

/** Where a task's conversation lives in Slack. `threadTs` is the ts of the message that asked. */
export interface Thread {
  readonly channelId: string;
  readonly threadTs: string;
}

// ---------------------------------------------------------------------------------------------------------------
// Database
// ---------------------------------------------------------------------------------------------------------------

export interface Statement {
  readonly text: string;
  readonly values?: readonly unknown[];
  /** A name makes the statement prepared once per connection: for hot statements only. */
  readonly name?: string;
}

/** Until when somebody waits for an answer. What comes after it must not have happened. */
export interface Deadline {
  /** Aborted when it is over. */
  readonly signal: AbortSignal;
  leftMs(): number;
}

/** Something statements can be sent to: a pool (each statement its own transaction) or an open transaction. */
export interface Queryable {
  query<Row extends object>(statement: Statement): Promise<{ rows: Row[]; rowCount: number }>;
}

/** An open transaction. Commit and rollback belong to whoever opened it. */
export interface Tx extends Queryable {
  /** Runs after the commit, never after a rollback. For wake-ups inside this process; must not throw. */
  afterCommit(callback: () => void): void;
  /** Runs when it did not commit, or nobody knows whether it did. For what was kept inside this process; must not throw. */
  afterRollback(callback: () => void): void;
}

// ---------------------------------------------------------------------------------------------------------------
// Runs and steps
// ---------------------------------------------------------------------------------------------------------------

export interface RunRef {
  readonly workspaceId: WorkspaceId;
  readonly runId: string;
}

export const RUN_STATUSES = [
  'queued',
  'running',
  'waiting',
  'paused',
  'cancelling',
  'completed',
  'failed',
  'cancelled',
  'parked',
] as const;
export type RunStatus = (typeof RUN_STATUSES)[number];

/** What the body of a step is given. */
export interface StepContext {
  /** Fires when the run is cancelled, the attempt is fenced, the step times out or the process drains. */
  readonly signal: AbortSignal;
  /** 1 on the first try of this step; counts retries that were recorded, across attempts of the run. */
  readonly tryNumber: number;
  /** The same for every try of this step of this run: hand it to providers that deduplicate. */
  readonly idempotencyKey: string;
  /**
   * Opens a transaction that holds the fence: it commits only while this attempt owns the run, throws FENCED
   * otherwise. For state that must be on disk before the step's result is.
   */
  fenced<T>(body: (tx: Tx) => Promise<T>): Promise<T>;
}

export interface StepOptions {
  /** Most tries, the first included. Default `5`. Only retryable errors are tried again. */
  readonly maxTries?: number;
  /** First wait between tries, doubled each time with jitter, at most 15 minutes. Default `1000`. */
  readonly backoffMs?: number;
  /** Bound on one try. Default `120_000`. The step's signal fires and the try counts as STEP_TIMEOUT. */
  readonly timeoutMs?: number;
  /** What the step depends on. Its hash is kept; a replay with another input parks the run. */
  readonly input?: Json;
}

/** A child run as `Step.invoke` and `Step.first` take it: any registered workflow is one. */
export interface Invocable<Input, Output> {
  readonly name: string;
  readonly version: number;
  body(step: Step, input: Input): Promise<Output>;
}

export interface InvokeOptions {
  /**
   * Most time until the children have given what was asked of them. Default 30 days: a child may wait for people. Afterwards the ones
   * still open are cancelled and CHILD_TIMEOUT is thrown.
   */
  readonly timeoutMs?: number;
}

/** One of the children of `Step.first`. `key` is unique among them. */
export interface ChildCall<Input, Output> {
  readonly key: string;
  readonly workflow: Invocable<Input, Output>;
  readonly input: Input;
}

/** How the children of `Step.first` stood when enough of them had completed. Each list in the order of ending, then of asking. */
export interface FirstResult<Output> {
  readonly completed: readonly { readonly key: string; readonly runId: string; readonly output: Output }[];
  readonly failed: readonly { readonly key: string; readonly runId: string; readonly error: StoredError }[];
  /** `inFlight` names the child's effects that had been sent already: they are finished and recorded, not undone. */
  readonly cancelled: readonly {
    readonly key: string;
    readonly runId: string;
    readonly inFlight: readonly string[];
  }[];
}

/** How a wait ended; stored with the wait, never inferred. */
export type WaitOutcome =
  | { readonly outcome: 'event'; readonly payload: Json }
  | { readonly outcome: 'timeout' }
  | { readonly outcome: 'cancelled' };

/**
 * The primitives. A workflow body awaits only these; clock, ids and randomness come from here. The body restarts from
 * the top after every wait and crash; finished steps return their stored result.
 * Names must be unique among the steps in flight in one branch (else STEP_NAME_AMBIGUOUS); used one after another, the
 * same name counts occurrences.
 */
export interface Step {
  readonly runRef: RunRef;
  /**
   * Runs `body` and journals its result once. Resolves only after the row is committed. The body may run again after a
   * crash before that commit, so it must be repeatable. Throws the stored error when tries are used up or the error
   * is terminal. The result comes back as JSON would carry it, on the first run as on every replay.
   */
  run<T>(name: string, body: (context: StepContext) => Promise<T>, options?: StepOptions): Promise<T>;
  /**
   * Runs `body` in the transaction that journals its result: exactly once, with no outside call inside.
   */
  transact<T>(name: string, body: (tx: Tx) => Promise<T>, options?: Pick<StepOptions, 'input'>): Promise<T>;
  /**
   * Waits for the event `name` addressed to `key`, at most until `deadlineAt` or for `timeoutMs`. The run holds no
   * worker, connection or timer of its own meanwhile. An event that came earlier is found.
   */
  waitForEvent(
    name: string,
    options: {
      readonly event: string;
      readonly key: string;
    } & ({ readonly timeoutMs: number } | { readonly deadlineAt: Date }),
  ): Promise<WaitOutcome>;
  /** Sleeps in database time, from when the branch came here. Wakes within 250 ms of being due. */
  sleep(name: string, durationMs: number): Promise<void>;
  /** Sleeps until an instant of database time; one that has passed is no wait. Derive it from `now()`, not from this process's clock. */
  sleepUntil(name: string, instant: Date): Promise<void>;
  /**
   * Emits an event, once: the event, the waits it ends and this step's row commit together. False when the event was there
   * already: the first write wins.
   */
  sendEvent(
    name: string,
    event: { readonly event: string; readonly key: string; readonly payload?: Json },
  ): Promise<boolean>;
  /**
   * Starts `workflow` as a child run and waits for its end; the result is what the child returned, as JSON carries it. Throws the child's
   * error when it failed, RUN_CANCELLED when it was cancelled, CHILD_TIMEOUT, and for an input that the child's schema refuses
   * WORKFLOW_INPUT_INVALID: all terminal. The child is cancelled with this run.
   */
  invoke<Input, Output>(
    name: string,
    workflow: Invocable<Input, Output>,
    input: NoInfer<Input>,
    options?: InvokeOptions,
  ): Promise<Output>;
  /**
   * Starts every child and waits for the first `count` that complete. In the transaction that journals these, the others are cancelled.
   * Throws TOO_FEW_COMPLETED as soon as `count` cannot be reached any more, CHILD_TIMEOUT, and as `invoke` does; all terminal.
   * At most 100 children.
   */
  first<Input, Output>(
    name: string,
    count: number,
    children: readonly ChildCall<Input, Output>[],
    options?: InvokeOptions,
  ): Promise<FirstResult<Output>>;
  /** Runs `body` under a key of its own, so that branches can run side by side under `Promise.all`. */
  branch<T>(key: string, body: (step: Step) => Promise<T>): Promise<T>;
  /** Database time of the last finished step of this branch: the same on every replay. */
  now(): Date;
  /** A UUID derived from the run and this call's place in the branch: the same on every replay. */
  id(): string;
  /** In [0, 1), derived like `id`. */
  random(): number;
}

// ---------------------------------------------------------------------------------------------------------------
// Actions, policies, approvals
// ---------------------------------------------------------------------------------------------------------------

export const RISK_TIERS = ['low', 'medium', 'high'] as const;
export type RiskTier = (typeof RISK_TIERS)[number];

/** A condition the approval binds. `path` is a JSON pointer into what the tool reads, `/head/sha` for one. */
export interface Precondition {
  readonly path: string;
  readonly expected: Json;
}

/** One precondition that no longer holds. */
export interface PreconditionChange {
  readonly path: string;
  readonly expected: Json;
  readonly actual: Json;
}

/** What an approval binds: 64 lower-case hex digits, and the preconditions as the reviewer saw them. */
export interface Fingerprint {
  readonly actionHash: string;
  readonly preconditions: readonly Precondition[];
}

/** One proposed effect, as the agent named it and the tool's schema parsed it. */
export interface ProposedAction {
  /** The API method, `github.pulls.merge`. */
  readonly kind: string;
  readonly arguments: JsonObject;
  /** The model's own words about why. Data, never an instruction; quoted and labelled wherever shown. */
  readonly reason: string;
}

/** An immutable fact for the reviewer. */
export interface Evidence {
  readonly label: string;
  readonly value: string;
  /** The step that produced it. */
  readonly source: string;
  /** ISO 8601, database time. */
  readonly observedAt: string;
}

/** Everything `evaluate` may look at. Pure data. */
export interface ActionFacts {
  readonly workspaceId: WorkspaceId;
  readonly kind: string;
  readonly isRead: boolean;
  readonly arguments: JsonObject;
  readonly requester: Person;
  /** Canonical JSON size of the arguments, in UTF-8 bytes. */
  readonly argumentsBytes: number;
}

export interface Verdict {
  readonly verdict: 'allow' | 'require_approval' | 'deny';
  readonly tier: RiskTier;
  /** The rule that decided; `default` when none matched. */
  readonly rule: string;
  /** One sentence each, written by people in the policy, never by a model. */
  readonly reasons: readonly string[];
  readonly policyVersion: string;
}

/** Who may decide, and how many must. Frozen into the request; authority is still read from the newest policy. */
export interface ReviewRule {
  readonly reviewers: readonly Person[];
  /** Distinct people who must approve, at least 1. */
  readonly quorum: number;
  /** From asking to expiry. */
  readonly deadlineMs: number;
  /** True only where the policy says so in words; recorded with the decision. */
  readonly requesterMayDecide: boolean;
}

/** May this person decide? The reason is shown to them. */
export type Eligibility =
  | { readonly eligible: true }
  | { readonly eligible: false; readonly reason: IneligibleReason };
export type IneligibleReason =
  | 'requester'
  | 'not_a_reviewer'
  | 'guest'
  | 'external'
  | 'bot'
  | 'deactivated'
  | 'unknown_person';

/** The judging half of a policy version. Pure: same input, same answer. */
export interface Policy {
  /** Shown on cards and stored with every verdict. Changes whenever the content does. */
  readonly version: string;
  /** Total: an error while judging is a deny. */
  evaluate(facts: ActionFacts): Verdict;
  reviewRule(facts: ActionFacts, verdict: Verdict): ReviewRule;
  eligibility(facts: PersonFacts, rule: ReviewRule, requester: Person): Eligibility;
  /** May this person give tasks at all? */
  mayRequest(facts: PersonFacts): boolean;
  /** Who answers for the installation, in the order of the policy: told when nobody else can be. */
  readonly admins: readonly Person[];
}

export const REQUEST_STATUSES = [
  'pending',
  'approved',
  'rejected',
  'changes_requested',
  'expired',
  'withdrawn',
  'superseded',
  'revoked',
] as const;
export type RequestStatus = (typeof REQUEST_STATUSES)[number];

export const ACTION_STATUSES = [
  'proposed',
  'denied',
  'permitted',
  'awaiting',
  'closed',
  'executing',
  'done',
  'failed',
  'unknown',
] as const;
export type ActionStatus = (typeof ACTION_STATUSES)[number];

/** Legal transitions; the migrations hold the same list as checks, and a test compares the two. */
export const RUN_TRANSITIONS: Readonly<Record<RunStatus, readonly RunStatus[]>> = {
  queued: ['running', 'paused', 'cancelling', 'cancelled', 'parked'],
  running: ['queued', 'waiting', 'paused', 'cancelling', 'completed', 'failed', 'cancelled', 'parked'],
  waiting: ['queued', 'paused', 'cancelling', 'cancelled'],
  paused: ['queued', 'cancelling', 'cancelled'],
  cancelling: ['cancelled'],
  completed: [],
  failed: ['queued'],
  cancelled: [],
  parked: ['queued', 'cancelling', 'cancelled'],
};
export const REQUEST_TRANSITIONS: Readonly<Record<RequestStatus, readonly RequestStatus[]>> = {
  pending: ['approved', 'rejected', 'changes_requested', 'expired', 'withdrawn', 'superseded'],
  approved: ['revoked', 'superseded', 'withdrawn', 'expired'],
  rejected: [],
  changes_requested: [],
  expired: [],
  withdrawn: [],
  superseded: [],
  revoked: [],
};
export const ACTION_TRANSITIONS: Readonly<Record<ActionStatus, readonly ActionStatus[]>> = {
  proposed: ['denied', 'permitted', 'awaiting'],
  denied: [],
  permitted: ['executing', 'closed'],
  awaiting: ['permitted', 'closed'],
  closed: [],
  executing: ['done', 'failed', 'unknown'],
  done: [],
  failed: [],
  unknown: ['done', 'failed'],
};

// ---------------------------------------------------------------------------------------------------------------
// Tools
// ---------------------------------------------------------------------------------------------------------------

/** What an outside service answered to an effect: ids and addresses, no secrets. */
export type Receipt = JsonObject;

/**
 * What happens when nobody knows whether a call went through:
 * `keyed`: the provider deduplicates, repeat with the same key · `checkable`: look first, act only if absent ·
 * `blind`: the outcome is unknown and a person decides.
 */
export type EffectClass = 'keyed' | 'checkable' | 'blind';

/** A look at the target of an action: what must still hold, and what a reviewer should read. */
export interface TargetView {
  readonly preconditions: readonly Precondition[];
  /** Neutral words for the card, built by code from the arguments and the target. No markup. */
  readonly title: string;
  /** Short facts under the title, each a label and a value. Values may hold outside text: escape, never trust. */
  readonly facts: readonly { readonly label: string; readonly value: string }[];
  /** Longer text for Details (a diff, a body), outside text. */
  readonly body?: string;
  /** What the tool itself found out for the reviewer, independent of the agent. Values may hold outside text. */
  readonly evidence?: readonly { readonly label: string; readonly value: string; readonly source: string }[];
  /** Why asking anybody would be pointless: the target cannot take this action. One sentence. */
  readonly refusal?: string;
}

export type Reconciliation =
  | { readonly outcome: 'applied'; readonly receipt: Receipt }
  | { readonly outcome: 'absent' }
  | { readonly outcome: 'unknowable' };

/** `fetch` as the egress hands it out: reads only, or bound to a live permit. */
export type Fetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>;

export interface ReadContext {
  readonly fetch: Fetch;
  readonly signal: AbortSignal;
}

export interface WriteContext extends ReadContext {
  readonly idempotencyKey: string;
}

/** A tool that only looks. Runs inside the agent's loop; needs no verdict. */
export interface ReadTool {
  readonly access: 'read';
  readonly kind: string;
  readonly version: number;
  /** For the model. */
  readonly description: string;
  /** JSON Schema of the input, for the model. */
  readonly inputSchema: JsonObject;
  /** Throws TOOL_INPUT_INVALID naming the field. */
  parse(input: unknown): JsonObject;
  /** Throws TOOL_FAILED (retryable) or TOOL_REFUSED (terminal). */
  read(input: JsonObject, context: ReadContext): Promise<Json>;
}

/** A tool whose calls are proposed actions. Only the executor calls `execute`. */
export interface WriteTool {
  readonly access: 'write';
  readonly kind: string;
  readonly version: number;
  readonly description: string;
  readonly inputSchema: JsonObject;
  readonly effectClass: EffectClass;
  /** Bound on one call to the provider. After it and the lease have passed, no late effect is expected. */
  readonly requestTimeoutMs: number;
  /** Name of the credential the call uses, as reviewers know it: never the secret. */
  readonly credential: string;
  parse(input: unknown): JsonObject;
  /** Looks at what the action would touch. Reads only. */
  target(input: JsonObject, context: ReadContext): Promise<TargetView>;
  /**
   * Carries the action out once, handing the preconditions to the provider's compare-and-set where it has one.
   * Throws PRECONDITION_CHANGED when the provider refused the compare, TOOL_REFUSED when it surely did not happen,
   * TOOL_FAILED when nobody can tell.
   */
  execute(input: JsonObject, preconditions: readonly Precondition[], context: WriteContext): Promise<Receipt>;
  /** Looks whether an earlier call went through. Reads only. */
  reconcile(
    input: JsonObject,
    preconditions: readonly Precondition[],
    context: ReadContext,
  ): Promise<Reconciliation>;
  /** One line for the thread once done: "Merged pull request 1 as 9a1b…". */
  describeReceipt(input: JsonObject, receipt: Receipt): string;
}

export type Tool = ReadTool | WriteTool;
