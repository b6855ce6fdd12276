/**
 * The closed table of errors. Every failure the product raises on purpose is a `CountersignError` with a code
 * from this table; anything else that is thrown is a defect or an outside library's error.
 *
 * Invariant: whether a failure may be tried again is decided here, once per code, never at the place that catches.
 */

import { maskSecrets } from './log.ts';

/** `retryable`: the same call may succeed later. `terminal`: trying again without a change is pointless. */
export type ErrorClass = 'retryable' | 'terminal';

/** Code → [class, what an operator reads in docs/failures.md]. */
export const ERROR_TABLE = {
  // Configuration and start
  CONFIG_INVALID: ['terminal', 'A setting is missing or malformed; the message names it.'],
  NODE_TOO_OLD: ['terminal', 'The running Node.js is older than 26.'],
  DATABASE_UNREACHABLE: ['terminal', 'The database did not answer while starting.'],
  SCHEMA_NEWER: ['terminal', 'The database was migrated by a newer release than this one.'],
  SCHEMA_OLDER: ['terminal', 'Migrations are due and no admin connection was given.'],
  MIGRATION_CHANGED: ['terminal', 'A migration file differs from the one that was applied.'],
  MIGRATION_FAILED: ['terminal', 'A migration failed and was rolled back whole.'],
  SLACK_AUTH_FAILED: ['terminal', 'Slack refused the bot token.'],
  LOCAL_WORLD_FAILED: ['terminal', 'A local part did not start.'],
  // Engine
  FENCED: ['terminal', 'Another attempt holds this run; this one must stop writing.'],
  RUN_CANCELLED: ['terminal', 'The run was cancelled.'],
  RUN_NOT_FOUND: ['terminal', 'No run has this id.'],
  WORKFLOW_UNKNOWN: ['terminal', 'No live workflow has this name and version.'],
  WORKFLOW_INPUT_INVALID: ['terminal', 'The input does not fit the workflow.'],
  RUN_TOO_DEEP: ['terminal', 'Runs started runs in more levels than is allowed.'],
  CHILD_TIMEOUT: ['terminal', 'A child run did not end in time and was cancelled.'],
  TOO_FEW_COMPLETED: ['terminal', 'Fewer child runs completed than were needed.'],
  STEP_NAME_AMBIGUOUS: ['terminal', 'Two steps of one branch were in flight under the same name.'],
  JOURNAL_MISMATCH: ['terminal', 'The journal does not fit the code that replays it.'],
  STEP_TIMEOUT: ['retryable', 'A step took longer than its bound.'],
  WORKER_LOST: ['terminal', 'The processes that worked the run were lost several times without progress.'],
  DATABASE_REFUSED: ['terminal', 'The database refused what a step wrote: bad data, a constraint or a rule.'],
  STEP_RESULT_TOO_LARGE: ['terminal', 'A step returned more than the journal stores.'],
  STEP_RESULT_NOT_JSON: ['terminal', 'A step returned something that JSON cannot hold.'],
  // Edge
  SIGNATURE_INVALID: ['terminal', 'The request was not signed by Slack.'],
  BODY_TOO_LARGE: ['terminal', 'The request body exceeds the limit.'],
  BODY_MALFORMED: ['terminal', 'The signed body is not something Slack sends.'],
  // Judgement and execution
  DENIED_BY_POLICY: ['terminal', 'The policy denies this action.'],
  TOO_LARGE_TO_REVIEW: ['terminal', 'The arguments exceed what a person can be shown.'],
  TOOL_UNKNOWN: ['terminal', 'No tool has this name.'],
  TOOL_INPUT_INVALID: ['terminal', 'The arguments do not fit the tool.'],
  TOOL_FAILED: ['retryable', 'An outside service did not carry out the call.'],
  TOOL_REFUSED: ['terminal', 'An outside service refused the call for good.'],
  PERMIT_REQUIRED: ['terminal', 'A write was attempted without a live permit.'],
  EGRESS_REFUSED: ['terminal', 'The address is not on the egress list.'],
  ACTION_NOT_PERMITTED: ['terminal', 'The action is not in a state in which it may be executed.'],
  PRECONDITION_CHANGED: ['terminal', 'What was approved no longer stands.'],
  // Agents and model
  MODEL_FAILED: ['retryable', 'The model service did not answer.'],
  MODEL_REFUSED: ['terminal', 'The model service refused the request for good.'],
  AGENT_BUDGET_EXCEEDED: ['terminal', 'A bound of the task was reached.'],
  AGENT_OUTPUT_INVALID: ['terminal', 'The model kept answering in a form that cannot be used.'],
  // Delivery
  DELIVERY_FAILED: ['retryable', 'Slack did not take a message.'],
  DELIVERY_REFUSED: ['terminal', 'Slack refused a message for good.'],
  // Ledger
  LEDGER_BROKEN: ['terminal', 'The ledger chain does not verify.'],
} as const satisfies Record<string, readonly [ErrorClass, string]>;

export type ErrorCode = keyof typeof ERROR_TABLE;

/** What an error becomes when it is stored in a journal or a row. */
export interface StoredError {
  readonly code: string;
  readonly message: string;
  readonly errorClass: ErrorClass;
}

/**
 * A failure the product knows by name. `message` is one line for a person and holds no secret.
 * `retryAfterMs` is set only where the outside world said how long to wait. `errorClass` may be narrowed per
 * instance where only the outside answer tells (a 404 and a 503 are both TOOL_FAILED's neighbours).
 */
export class CountersignError extends Error {
  readonly code: ErrorCode;
  readonly errorClass: ErrorClass;
  readonly retryAfterMs: number | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; retryAfterMs?: number; errorClass?: ErrorClass } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'CountersignError';
    this.code = code;
    this.errorClass = options.errorClass ?? ERROR_TABLE[code][0];
    this.retryAfterMs = options.retryAfterMs;
  }
}

/**
 * Why Slack refuses a message for good: its place (channel, thread, person, right) · the message as it was drawn · the message to be
 * edited is gone · it is there and takes no edit any more (`fixed`) · the credential, which refuses every other message too.
 */
export type RefusedFor = 'place' | 'message' | 'gone' | 'fixed' | 'credential';

/** DELIVERY_REFUSED, and why: what follows from it depends on that. */
export class DeliveryRefused extends CountersignError {
  readonly refusedFor: RefusedFor;
  constructor(message: string, refusedFor: RefusedFor, cause?: unknown) {
    super('DELIVERY_REFUSED', message, { cause });
    this.refusedFor = refusedFor;
  }
}

/** DELIVERY_FAILED because Slack answered with a word that nobody knows: nothing of that call can come any more, and another may or may not pass. */
export class DeliveryAnswered extends CountersignError {
  constructor(message: string, cause?: unknown) {
    super('DELIVERY_FAILED', message, { cause });
  }
}

/** True for a `CountersignError` with exactly this code. */
export function hasCode(error: unknown, code: ErrorCode): error is CountersignError {
  return error instanceof CountersignError && error.code === code;
}

/** A stored error from outside our table as whoever reads a journal meets it: the same on the first run as on every replay. */
export class StepFailed extends Error {
  readonly code: string;
  readonly errorClass: ErrorClass;
  constructor(error: StoredError) {
    super(error.message);
    this.name = 'StepFailed';
    this.code = error.code;
    this.errorClass = error.errorClass;
  }
}

/** Long enough for any sentence of ours; what libraries quote beyond it helps nobody. */
const MAX_MESSAGE_LENGTH = 2_000;

/**
 * Turns anything thrown into its stored form, with credentials masked. An unknown error is retryable: most are outside
 * trouble.
 */
export function toStoredError(error: unknown): StoredError {
  const message = maskSecrets(error instanceof Error ? error.message : String(error))
    .replaceAll('\0', '\uFFFD')
    .slice(0, MAX_MESSAGE_LENGTH);
  if (error instanceof CountersignError || error instanceof StepFailed)
    return { code: error.code, message, errorClass: error.errorClass };
  return { code: error instanceof Error ? error.name : 'Error', message, errorClass: 'retryable' };
}
