/**
 * The desk: everything a person in Slack can ask of the product, as bot's listeners call it. It hides tables and
 * states behind verbs of the domain, so that a listener only parses, looks people up and hands over.
 *
 * Invariant: each verb that takes a `tx` does all its work in it (state, ledger entry, wake-up, what Slack is owed),
 * so that the inbox row can be marked handled in the same transaction.
 */
import { randomUUIDv7 } from 'node:crypto';
import { maskSecrets } from '../secrets.ts';
import type { JsonObject, PersonFacts, Thread, Tool, Tx, WorkspaceId } from '../types.ts';
import type { ApprovalView, DeliveryTarget, NoteReason, UnsettledAction } from '../views.ts';
import { readApproval } from './approval-view.ts';
import { detailsOpened, hadReadDetails } from './approvals.ts';
import { decide } from './deciding.ts';
import type { PolicyInForce } from './definitions.ts';
import { owe, oweNote, PRIORITY } from './deliveries.ts';
import { oweDigest } from './digest.ts';
import type { Database } from './engine/db.ts';
import type { Engine } from './engine/engine.ts';
import { mayDecide } from './entitlement.ts';
import { slackLost } from './installation.ts';
import { appendEntry } from './ledger.ts';
import { type SettlementClicked, settleByClick, unsettledAction } from './settling.ts';
import { insertTask } from './tasks.ts';

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
  /** Null when none was given; a request for changes without one is refused. */
  readonly reason: string | null;
  /** When it was stored, in database time: it may have waited for Slack's trouble to end. */
  readonly pressedAt: Date;
  /**
   * The words came by a form. Only a button of ours opens one and Slack brings its reference back as we wrote it, so `message` is not asked
   * for again: its card may have been deleted and posted anew meanwhile.
   */
  readonly byForm: boolean;
  /** The message that carried the button; null when it came from a modal opened from elsewhere. */
  readonly message: {
    readonly channelId: string;
    readonly ts: string;
    readonly threadTs: string | null;
  } | null;
}

export interface DigestAsked {
  readonly workspaceId: WorkspaceId;
  readonly person: PersonFacts;
  /** Where it was asked for. */
  readonly channelId: string;
  /** False: only the asker sees it. */
  readonly forAll: boolean;
}

export interface Desk {
  /** Makes task, run, ledger entry and wake-up; a twin of an earlier message changes nothing. Guests get a note. */
  requestTask(tx: Tx, asked: TaskAsked): Promise<void>;
  /** Records a decision or explains privately why not; never silent. */
  decide(tx: Tx, asked: DecisionAsked): Promise<void>;
  /** The newest committed state of a request, or null when there is none in this workspace. */
  approval(workspaceId: WorkspaceId, requestId: string): Promise<ApprovalView | null>;
  /** True when this person had been shown all of this request before `at`, in database time. */
  hadReadDetails(
    workspaceId: WorkspaceId,
    requestId: string,
    person: PersonFacts,
    at: Date,
  ): Promise<boolean>;
  /** Remembers who has opened Details. */
  detailsOpened(tx: Tx, workspaceId: WorkspaceId, requestId: string, person: PersonFacts): Promise<void>;
  /** An action whose outcome is unknown and that waits for a person's word; null when there is none such in this workspace. */
  unsettled(workspaceId: WorkspaceId, actionId: string): Promise<UnsettledAction | null>;
  /** True when this person may decide on this action by the newest policy, or say what became of it: both verbs judge again. */
  mayDecide(workspaceId: WorkspaceId, actionId: string, person: PersonFacts): Promise<boolean>;
  /** Records a person's word on an unknown outcome or explains privately why not; never silent. */
  settle(tx: Tx, clicked: SettlementClicked): Promise<void>;
  /** Owes a person the digest, to them alone or to the channel; who may give no tasks gets a note. */
  digest(tx: Tx, asked: DigestAsked): Promise<void>;
  /** Remembers that Slack took our access: whatever is owed rests until it is given back. */
  slackLost(tx: Tx, workspaceId: WorkspaceId, by: 'app_uninstalled' | 'tokens_revoked'): Promise<void>;
  /** Owes one person a private explanation. */
  note(tx: Tx, workspaceId: WorkspaceId, target: DeliveryTarget, note: NoteReason): Promise<void>;
}

export interface DeskOptions {
  readonly database: Database;
  readonly engine: Engine;
  readonly policyOf: PolicyInForce;
  readonly deploymentId: string;
  readonly tools: readonly Tool[];
  /** Of the digest, where its schedule names none. */
  readonly timeZone: string;
}

/** The workflow a mention starts. */
const TASK_WORKFLOW = 'handle-task';
/** Longer requests are cut by nobody silently: what Slack takes in one message fits (40,000 characters). */
const MAX_OBJECTIVE = 40_000;

export function createDesk(options: DeskOptions): Desk {
  const { database, engine, policyOf, deploymentId, tools, timeZone } = options;
  return {
    async requestTask(tx, asked) {
      const { workspaceId, requester, thread } = asked;
      const policy = await policyOf(tx, workspaceId);
      if (!policy.mayRequest(requester))
        return oweNote(
          tx,
          workspaceId,
          { to: 'person', channelId: thread.channelId, threadTs: null, userId: requester.userId },
          { kind: 'may_not_request' },
        );
      const person = { teamId: requester.teamId, userId: requester.userId };
      const taskId = randomUUIDv7();
      // The message is the key: its twin, and a redelivery under another event id, find the run there.
      const run = await engine.start(tx, {
        workspaceId,
        workflowName: TASK_WORKFLOW,
        input: { taskId },
        origin: 'slack',
        runKey: `message:${thread.channelId}:${asked.messageTs}`,
        owner: person,
        audience: thread.channelId,
      });
      // Masked before it is kept: from here it goes to prompts, journals, cards and the ledger.
      const objective = maskSecrets(asked.text).slice(0, MAX_OBJECTIVE);
      const task = { ...run, taskId, objective, requester: person, thread, messageTs: asked.messageTs };
      if (!(await insertTask(tx, task))) return;
      await owe(tx, {
        workspaceId,
        viewKind: 'reaction',
        content: { name: 'eyes', ts: asked.messageTs },
        target: { to: 'channel', channelId: thread.channelId },
        priority: PRIORITY.decision,
      });
      await owe(tx, {
        workspaceId,
        viewKind: 'task',
        subjectId: taskId,
        target: { to: 'thread', thread },
        priority: PRIORITY.progress,
      });
      await appendEntry(tx, {
        workspaceId,
        subjectKind: 'run',
        subjectId: run.runId,
        kind: 'task.accepted',
        facts: {
          taskId,
          requester: `${person.teamId}/${person.userId}`,
          owner: `${person.teamId}/${person.userId}`,
          channel: thread.channelId,
          message: asked.messageTs,
          origin: 'slack',
        },
        words: { objective },
      });
    },

    decide: (tx, asked) => decide(tx, { engine, policyOf, deploymentId }, asked),
    approval: (workspaceId, requestId) => readApproval(database, workspaceId, requestId, deploymentId, tools),
    hadReadDetails: (workspaceId, requestId, person, at) =>
      hadReadDetails(database, workspaceId, requestId, person, at),
    detailsOpened,
    unsettled: (workspaceId, actionId) => unsettledAction(database, workspaceId, actionId, deploymentId),
    mayDecide: (workspaceId, actionId, person) =>
      mayDecide(database, policyOf, workspaceId, actionId, person),
    settle: (tx, clicked) => settleByClick(tx, { policyOf, deploymentId }, clicked),
    async digest(tx, asked) {
      const { workspaceId, person, channelId } = asked;
      const policy = await policyOf(tx, workspaceId);
      if (policy.mayRequest(person)) return oweDigest(tx, { ...asked, timeZone });
      return oweNote(
        tx,
        workspaceId,
        { to: 'person', channelId, threadTs: null, userId: person.userId },
        { kind: 'may_not_read_digest' },
      );
    },
    async slackLost(tx, workspaceId, by) {
      await slackLost(tx, workspaceId, by);
    },
    note: oweNote,
  };
}
