/**
 * The desk: everything a person in Slack can ask of the product, as bot's listeners call it. It hides tables and
 * states behind verbs of the domain, so that a listener only parses, looks people up and hands over.
 *
 * Invariant: each verb that takes a `tx` does all its work in it (state, ledger entry, wake-up, what Slack is owed),
 * so that the inbox row can be marked handled in the same transaction.
 */
import type {
  ApprovalView,
  DeliveryTarget,
  JsonObject,
  NoteReason,
  PersonFacts,
  Thread,
  Tx,
  WorkspaceId,
} from '../types.ts';

/** A stored inbound request, as the inbox worker hands it to the bot. */
export interface InboxRow {
  readonly workspaceId: WorkspaceId;
  readonly inboxId: string;
  readonly source: 'event' | 'interaction' | 'command';
  readonly payload: JsonObject;
  readonly receivedAt: Date;
}

/** What follows from an inbox row, run in the transaction that marks the row handled. Throws to have it retried. */
export type Consequence = (tx: Tx) => Promise<void>;

export interface TaskAsked {
  readonly workspaceId: WorkspaceId;
  readonly requester: PersonFacts;
  readonly thread: Thread;
  /** The message that asked, for the reaction and as the twin key (team, channel, ts). */
  readonly messageTs: string;
  /** What was asked, with the mention of the bot taken out; not empty. */
  readonly text: string;
}

export interface DecisionAsked {
  readonly workspaceId: WorkspaceId;
  readonly requestId: string;
  /** From the clicked button; another deployment's button is answered with a note and nothing else. */
  readonly deploymentId: string;
  /** From the clicked button: what the person saw. */
  readonly actionHash: string;
  readonly person: PersonFacts;
  readonly decision: 'approve' | 'reject' | 'request_changes';
  readonly reason: string | null;
  /** The message that carried the button; null when it came from a modal opened from elsewhere. */
  readonly message: {
    readonly channelId: string;
    readonly ts: string;
    readonly threadTs: string | null;
  } | null;
}

export interface Desk {
  /** Makes task, run, ledger entry and wake-up; a twin of an earlier message changes nothing. Guests get a note. */
  requestTask(tx: Tx, asked: TaskAsked): Promise<void>;
  /** Records a decision or explains privately why not; never silent. */
  decide(tx: Tx, asked: DecisionAsked): Promise<void>;
  /** The newest committed state of a request, or null when there is none in this workspace. */
  approval(workspaceId: WorkspaceId, requestId: string): Promise<ApprovalView | null>;
  /** True when this person has opened Details of this request. */
  hasOpenedDetails(workspaceId: WorkspaceId, requestId: string, person: PersonFacts): Promise<boolean>;
  /** Remembers who has opened Details. */
  detailsOpened(tx: Tx, workspaceId: WorkspaceId, requestId: string, person: PersonFacts): Promise<void>;
  /** Owes one person a private explanation. */
  note(tx: Tx, workspaceId: WorkspaceId, target: DeliveryTarget, note: NoteReason): Promise<void>;
}
