/**
 * What people see: the views of requests, tasks, digests and notes, and the port through which they reach Slack. Views are facts from committed
 * state; bot turns them into Block Kit, escaped and measured. No behaviour, no imports but types.
 */

import type {
  ActionStatus,
  Evidence,
  IneligibleReason,
  JsonObject,
  Person,
  PersonFacts,
  Precondition,
  PreconditionChange,
  RequestStatus,
  RiskTier,
  RunStatus,
  Thread,
  WorkspaceId,
} from './types.ts';

/** On whose word an unknown outcome was settled: a reviewer's in Slack, or an operator's at the command line, by their name on that machine. */
export type Settler =
  | { readonly via: 'slack'; readonly person: Person }
  | { readonly via: 'cli'; readonly user: string };

/** A person's word on an action of which nobody could tell whether it happened. Final. */
export interface Settlement {
  readonly happened: boolean;
  readonly by: Settler;
  /** Null once the words were erased. */
  readonly reason: string | null;
  readonly settledAt: string;
}

/** An action whose outcome is unknown and that no person has settled yet: enough to draw the two buttons that do. */
export interface UnsettledAction {
  readonly deploymentId: string;
  readonly actionId: string;
  readonly actionHash: string;
  readonly kind: string;
  readonly title: string;
}

/** The state of one approval request, enough to draw its card or its Details in any state. */
export interface ApprovalView {
  readonly deploymentId: string;
  readonly requestId: string;
  readonly actionId: string;
  readonly status: RequestStatus;
  readonly actionStatus: ActionStatus;
  readonly tier: RiskTier;
  readonly kind: string;
  readonly title: string;
  readonly facts: readonly { readonly label: string; readonly value: string }[];
  readonly body: string | null;
  readonly arguments: JsonObject;
  readonly preconditions: readonly Precondition[];
  readonly preconditionsSeenAt: string;
  readonly actionHash: string;
  readonly evidence: readonly Evidence[];
  readonly rule: string;
  readonly reasons: readonly string[];
  readonly policyVersion: string;
  readonly agent: { readonly name: string; readonly version: string; readonly modelLabel: string };
  readonly agentReason: string;
  readonly requester: Person;
  readonly reviewers: readonly Person[];
  readonly quorum: number;
  readonly deadlineAt: string;
  readonly createdAt: string;
  readonly decisions: readonly {
    readonly person: Person;
    readonly decision: 'approve' | 'reject' | 'request_changes' | 'revoke' | 'withdraw';
    readonly reason: string | null;
    readonly decidedAt: string;
  }[];
  /** Set when superseded: what changed since the reviewer looked. */
  readonly changes: readonly PreconditionChange[];
  /** It was asked for before, approved, and something changed until it could be executed: what, as far as is known. Absent: a first request. */
  readonly askedAgain?: readonly PreconditionChange[];
  readonly receiptLine: string | null;
  readonly failure: string | null;
  readonly finishedAt: string | null;
  /** Set when the outcome was unknown and a person has said how it was. */
  readonly settlement: Settlement | null;
  /** Slack refused the whole card: a copy of a few words stands for it, on which nobody saw everything. Absent means no. */
  readonly isShort?: boolean;
  /** For a copy where not everybody may see the task: title, kind, state and buttons. Absent means no. */
  readonly isElsewhere?: boolean;
}

/** The state of one task, enough to draw its status message. */
export interface TaskView {
  readonly taskId: string;
  readonly objective: string;
  readonly requester: Person;
  readonly runStatus: RunStatus;
  /** Plain words about what happened, oldest first, written by code. */
  readonly progress: readonly string[];
  /** The agent's closing words. Model text: label, escape. */
  readonly agentSummary: string | null;
  readonly agent: { readonly name: string; readonly version: string; readonly modelLabel: string };
  readonly costUsd: number;
  readonly startedAt: string;
  readonly finishedAt: string | null;
  /** Actions that no card stands for and that a person has to settle. Absent means none. */
  readonly unsettled?: readonly UnsettledAction[];
  /** For a copy where not everybody may see the task: only what has to be settled. Absent means no. */
  readonly isElsewhere?: boolean;
}

/** Why a click or a request was not taken up; the words are bot's. */
export type NoteReason =
  | { readonly kind: 'ineligible'; readonly reason: IneligibleReason; readonly reviewers: readonly Person[] }
  | {
      readonly kind: 'already_decided';
      readonly status: RequestStatus;
      readonly by: Person | null;
      readonly at: string | null;
    }
  | { readonly kind: 'already_counted'; readonly at: string }
  | { readonly kind: 'already_settled'; readonly settlement: Settlement }
  | { readonly kind: 'nothing_to_settle' }
  | { readonly kind: 'reason_missing' }
  | { readonly kind: 'changes_missing' }
  | { readonly kind: 'expired' }
  /** Approve was pressed, and could not be judged for so long that it does not count. */
  | { readonly kind: 'pressed_long_ago' }
  /** To who approved: it was not executed, because it no longer stands as they saw it. */
  | { readonly kind: 'approved_in_vain' }
  | { readonly kind: 'replaced' }
  | { readonly kind: 'not_found' }
  | { readonly kind: 'other_deployment' }
  | { readonly kind: 'read_details_first' }
  | { readonly kind: 'modal_expired' }
  | { readonly kind: 'may_not_request' }
  | { readonly kind: 'empty_request' }
  | { readonly kind: 'could_not_handle' }
  /** What the slash command can do; `unknown` when it was asked for something else. */
  | { readonly kind: 'command_help'; readonly unknown: boolean }
  | { readonly kind: 'may_not_read_digest' }
  /** Details of a copy outside the task's channel, pressed by somebody who is none of those who may decide. */
  | { readonly kind: 'may_not_read_details'; readonly reviewers: readonly Person[] }
  /** A digest that Slack will not take where it was to be posted. */
  | { readonly kind: 'digest_refused'; readonly channelId: string };

/** One message the product owes somebody. Rendered from the newest committed state when it is sent. */
export type FullView =
  | { readonly kind: 'approval'; readonly approval: ApprovalView }
  | { readonly kind: 'task'; readonly task: TaskView }
  | { readonly kind: 'note'; readonly note: NoteReason }
  | { readonly kind: 'digest'; readonly digest: DigestView }
  | ReceiptView;

/** As it is, or in a few words because Slack refused it as it was drawn; a request says so itself (`isShort`). */
export type MessageView = FullView | { readonly kind: 'short'; readonly of: FullView };

/** What a message does not show whole, as the text of a file beside it. */
export interface WholeText {
  /** One line of ours, without outside text. */
  readonly title: string;
  /** Masked, hidden characters visible; otherwise as it is: a file is shown as plain text. */
  readonly content: string;
}

/** A list of which only the beginning is here. */
export interface Shortened<Item> {
  readonly items: readonly Item[];
  /** How many there are. */
  readonly total: number;
}

/** What a digest says of a task in any of its lists. */
export interface DigestTask {
  readonly runId: string;
  /** The requester's words. Null where not all who read the digest may see the task, and when the words were erased. */
  readonly objective: string | null;
  /** Null for a run that is no task. */
  readonly requester: Person | null;
  readonly channelId: string | null;
}

/** What became of one action of a task. */
export interface DigestAction {
  readonly kind: string;
  /** Empty where the policy allowed it without people. */
  readonly approvedBy: readonly Person[];
  /** True when nobody could tell whether it happened, and a person said that it did. */
  readonly settled: boolean;
}

export interface DigestDone extends DigestTask {
  /** Empty: it ended without changing anything outside, because nothing was proposed. */
  readonly actions: readonly DigestAction[];
}

export interface DigestNotDone extends DigestTask {
  /** How its last action ended. */
  readonly because:
    | 'rejected'
    | 'changes_requested'
    | 'expired'
    | 'denied'
    | 'failed'
    | 'unknown'
    | 'withdrawn'
    | 'superseded'
    | 'cancelled';
}

export interface DigestFailed extends DigestTask {
  readonly code: string;
  /** Why, as the product recorded it; may quote outside text. Null like `objective`. */
  readonly why: string | null;
}

export interface DigestWaiting extends DigestTask {
  readonly what: 'decision' | 'settlement' | 'operator';
  /** Of the action, null when a whole run waits. */
  readonly kind: string | null;
  /** Empty: whoever operates the installation. */
  readonly people: readonly Person[];
  readonly approvals: { readonly given: number; readonly needed: number } | null;
  readonly since: string;
  readonly until: string | null;
}

export interface DigestChanged extends DigestTask {
  readonly what: 'rejected' | 'changes_requested' | 'revoked';
  readonly kind: string | null;
  readonly by: Person | null;
  /** A person's words. Null where none were given, and like `objective`. */
  readonly reason: string | null;
}

/** What happened between two digests, and what waits at the end of it; from the ledger alone. */
export interface DigestView {
  /** `2026-11-20`, in `timeZone`. */
  readonly localDate: string;
  readonly timeZone: string;
  /** Null when a person asked for it. */
  readonly plannedAt: string | null;
  /** Posted after its time, because nothing ran then. */
  readonly late: boolean;
  /** Where the digest before it ended; null for a first one. */
  readonly sinceAt: string | null;
  readonly done: Shortened<DigestDone>;
  readonly notDone: Shortened<DigestNotDone>;
  readonly failed: Shortened<DigestFailed>;
  readonly waiting: Shortened<DigestWaiting>;
  readonly changed: Shortened<DigestChanged>;
  /** Null when no entry says what its task spent. */
  readonly spentUsd: number | null;
  /** Null when nobody decided anything. */
  readonly medianDecisionMs: number | null;
  /** The newest seal it covers. */
  readonly seal: { readonly no: number; readonly hash: string } | null;
  /** True when more happened than a digest reads. */
  readonly more: boolean;
}

/** What became of one action, as a message of its own in the task's thread. */
export interface ReceiptView {
  readonly kind: 'receipt';
  /** What the tool says of the receipt; of an outcome that is or was unknown, the action's title. */
  readonly line: string;
  /** Empty where the policy allowed it without people. */
  readonly approvedBy: readonly Person[];
  /** Set when nobody can tell whether it happened: these people are asked. */
  readonly asks?: readonly Person[];
  /** Set when a person has said whether it happened. */
  readonly settlement?: Settlement;
}

export type DeliveryTarget =
  | { readonly to: 'thread'; readonly thread: Thread }
  | { readonly to: 'channel'; readonly channelId: string }
  /** Only this person sees it, in this channel (and thread, when given). */
  | {
      readonly to: 'person';
      readonly channelId: string;
      readonly threadTs: string | null;
      readonly userId: string;
    };

/**
 * Slack as jobs see it. Implemented by bot. Every method that calls Slack throws DELIVERY_FAILED (retryable, with `retryAfterMs`
 * when Slack asks for a pause, a `DeliveryAnswered` when it answers what nobody knows) or DELIVERY_REFUSED (terminal, a `DeliveryRefused` that says why); none retries by itself. Each ends
 * within 20 s, whatever it consists of, and leaves nothing under way that it would begin later.
 */
export interface Messenger {
  /** Posts once and returns the ts (null for a private note). `deliveryId` goes into the message metadata. A view that cannot be drawn is refused (`message`). */
  post(
    workspaceId: WorkspaceId,
    deliveryId: string,
    target: DeliveryTarget,
    view: MessageView,
  ): Promise<string | null>;
  /**
   * Finds an earlier post or file of this delivery by its id: its ts, or null when there is none of `since` or later. Throws DELIVERY_FAILED
   * when it could not see all of that in its time.
   */
  find(
    workspaceId: WorkspaceId,
    deliveryId: string,
    target: DeliveryTarget,
    since: Date,
  ): Promise<string | null>;
  /** Redraws a posted message. Repeatable. */
  update(
    workspaceId: WorkspaceId,
    deliveryId: string,
    channelId: string,
    ts: string,
    view: MessageView,
  ): Promise<void>;
  /** Removes a posted message; already gone is success. */
  remove(workspaceId: WorkspaceId, channelId: string, ts: string): Promise<void>;
  /** The text that `view` cuts, or null when the message shows all of it, or its Details do. Pure. */
  whole(view: MessageView): WholeText | null;
  /** Puts a file into the place of `target`, its name made from `deliveryId`, by which `find` finds it. */
  attach(
    workspaceId: WorkspaceId,
    deliveryId: string,
    target: DeliveryTarget,
    file: WholeText,
  ): Promise<void>;
  /** Adds a reaction; already there is success. */
  react(workspaceId: WorkspaceId, channelId: string, ts: string, name: string): Promise<void>;
  /** Looks a person up; never throws for an unknown person (`known: false`). */
  person(workspaceId: WorkspaceId, person: Person): Promise<PersonFacts>;
}
