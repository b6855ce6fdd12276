/**
 * The other messages (task, private note, receipt, the modal that asks for a reason) and `draw`, which picks the
 * builder for a view. Pure; outside text stands in plain_text, quoted and named. The fallback text is mrkdwn: there outside words are inline
 * code, where they neither format nor link nor draw an emoji.
 */
import type { ModalView } from '@slack/types';
import type { IneligibleReason, Person, RequestStatus } from '../../types.ts';
import type { MessageView, NoteReason, ReceiptView, Settlement, TaskView } from '../../views.ts';
import { type ModalReference, REASON_INPUT, VIEWS, writeReference } from '../buttons.ts';
import { channel, codeSpan, dateToken, LIMITS, mention, mentions, oneLine } from '../text.ts';
import { approvalCard } from './approval.ts';
import {
  type CardBlock,
  context,
  type Drawn,
  mrkdwn,
  mrkdwnElement,
  plain,
  plainElement,
  plainSaying,
} from './blocks.ts';
import { digestCard } from './digest.ts';
import { settledBy, settledLine, unsettledBlocks } from './settling.ts';
import { shortMessage } from './short.ts';
import { LINE_ROOM, SUMMARY_ROOM, whole } from './whole.ts';
import { agentLabel, took } from './words.ts';

/** The blocks and the fallback text of any message. */
export function draw(view: MessageView): Drawn {
  switch (view.kind) {
    case 'approval':
      return approvalCard(view.approval);
    case 'task':
      return taskCard(view.task);
    case 'note': {
      const text = noteText(view.note);
      return { blocks: [mrkdwn(text)], text };
    }
    case 'digest':
      return digestCard(view.digest);
    case 'receipt':
      return receipt(view);
    case 'short':
      return shortMessage(view.of, draw(view.of).text, whole(view));
    default:
      return view satisfies never;
  }
}

const RUN_WORDS: Readonly<Record<TaskView['runStatus'], string>> = {
  queued: '… Queued',
  running: '▸ Working',
  waiting: '⏸ Waiting',
  paused: '⏸ Paused',
  cancelling: '⊘ Stopping',
  completed: '✓ *Done*',
  failed: '✗ *Failed*',
  cancelled: '⊘ *Cancelled*',
  parked: '? *Stopped*: a person has to look at this',
};

/** Lines of progress on the message; the newest say most, the older ones are counted. */
const PROGRESS_LINES = 12;
/**
 * Room for each part of a task's message, in units after escaping. Together with SUMMARY_ROOM and five unknown outcomes, at JSON's worst
 * (every character a quote, which doubles), they stay inside LIMITS.messageBlocksJson; a test fills them.
 */
const TASK_ROOM = { objective: 400, progress: 900 } as const;
/** Where the rest of a text is that was cut: `whole` puts it there. */
const IN_FILE = '; all of it is in the file beside this';

export function taskCard(task: TaskView): Drawn {
  if (task.isElsewhere === true) return taskElsewhere(task);
  const objective = plainSaying(oneLine(task.objective), {
    max: TASK_ROOM.objective,
    before: 'Task: “',
    after: '”',
  });
  const status = RUN_WORDS[task.runStatus];
  const blocks: CardBlock[] = [
    ...objective,
    context(`${status} · asked for by ${mention(task.requester)} ${dateToken(task.startedAt)}`),
  ];
  if (task.progress.length > 0) {
    const newest = task.progress.slice(-PROGRESS_LINES);
    const isOpen = task.runStatus === 'running' || task.runStatus === 'waiting';
    const lines = newest.map(
      (line, index) => `${isOpen && index === newest.length - 1 ? '▸' : '✓'} ${oneLine(line)}`,
    );
    if (newest.length < task.progress.length)
      lines.unshift(`Showing the last ${newest.length} of ${task.progress.length} steps`);
    blocks.push(...plainSaying(lines.join('\n'), { max: TASK_ROOM.progress }));
  }
  blocks.push(...unsettledBlocks(task.unsettled ?? []));
  const agent = agentLabel(task.agent);
  if (task.agentSummary !== null && task.agentSummary !== '')
    blocks.push(
      ...plainSaying(oneLine(task.agentSummary), {
        max: SUMMARY_ROOM,
        before: `${agent} says: “`,
        after: '”',
        rest: IN_FILE,
      }),
    );
  blocks.push({
    type: 'context',
    elements: [
      plainElement(agent),
      mrkdwnElement(`$${task.costUsd.toFixed(2)}${took(task.startedAt, task.finishedAt)}`),
    ],
  });
  return { blocks, text: `${status.replaceAll('*', '')}: ${codeSpan(task.objective)}` };
}

/** Of a task that not everybody there may see, no words but what they are asked about. */
function taskElsewhere(task: TaskView): Drawn {
  const unsettled = task.unsettled ?? [];
  const [first] = unsettled;
  const status = RUN_WORDS[task.runStatus];
  return {
    blocks: [
      context(
        `A task in another channel · ${status} · asked for by ${mention(task.requester)} ${dateToken(task.startedAt)}`,
      ),
      ...unsettledBlocks(unsettled),
      ...(first === undefined ? [context('Nothing is left to be said about it here.')] : []),
    ],
    text: first === undefined ? status.replaceAll('*', '') : `? Outcome unknown: ${codeSpan(first.title)}`,
  };
}

export function receipt(view: Omit<ReceiptView, 'kind'>): Drawn {
  const approved =
    view.approvedBy.length === 0 ? 'Allowed by policy' : `Approved by ${mentions(view.approvedBy)}`;
  if (view.settlement !== undefined) return settledReceipt(view.line, view.settlement, approved);
  if (view.asks !== undefined) {
    const who = view.asks.length === 0 ? 'Somebody' : mentions(view.asks);
    const line = plainSaying(oneLine(view.line), { max: LINE_ROOM, before: '? ', rest: IN_FILE });
    const asked = `*Outcome unknown*: it was sent, and nobody can tell whether it happened. ${who}: look at the target, then press *It happened* or *It did not happen* on its card or its task’s message.`;
    return {
      blocks: [...line, mrkdwn(asked), context(approved)],
      text: `? Outcome unknown: ${codeSpan(view.line)}`,
    };
  }
  const line = plainSaying(oneLine(view.line), { max: LINE_ROOM, before: '✓ ', rest: IN_FILE });
  return { blocks: [...line, context(approved)], text: `✓ ${codeSpan(view.line)}` };
}

function settledReceipt(title: string, settlement: Settlement, approved: string): Drawn {
  const line = plainSaying(oneLine(title), { max: LINE_ROOM, rest: IN_FILE });
  const { reason } = settlement;
  const said =
    reason === null || reason === ''
      ? []
      : plainSaying(oneLine(reason), { max: 1_000, before: 'Reason: “', after: '”' });
  return {
    blocks: [...line, mrkdwn(`${settledLine(settlement)}.`), ...said, context(approved)],
    text: `${settlement.happened ? '✓ It happened' : '✗ It did not happen'}: ${codeSpan(title)}`,
  };
}

const STATUS_WORDS: Readonly<Record<RequestStatus, string>> = {
  pending: 'still waiting',
  approved: 'approved',
  rejected: 'rejected',
  changes_requested: 'sent back with a request for changes',
  expired: 'expired',
  withdrawn: 'withdrawn',
  superseded: 'replaced by a newer request',
  revoked: 'revoked',
};

/** What the author of a click or a request reads, alone: mrkdwn composed by code. */
export function noteText(note: NoteReason): string {
  switch (note.kind) {
    case 'ineligible':
      return ineligibleText(note.reason, note.reviewers);
    case 'already_decided': {
      const by = note.by === null ? '' : ` by ${mention(note.by)}`;
      const at = note.at === null ? '' : ` ${dateToken(note.at)}`;
      return `This was already ${STATUS_WORDS[note.status]}${by}${at}. Your click changed nothing.`;
    }
    case 'already_counted':
      return `Your decision was already counted ${dateToken(note.at)}. One person counts once.`;
    case 'already_settled': {
      const { happened, settledAt } = note.settlement;
      return `${settledBy(note.settlement)} has said ${dateToken(settledAt)} that it ${happened ? 'happened' : 'did not happen'}. Your click changed nothing.`;
    }
    case 'nothing_to_settle':
      return 'The outcome of this action is not unknown, so there is nothing to say about it. Your click changed nothing.';
    case 'reason_missing':
      return 'Please say what you saw at the target; without it nothing was recorded.';
    case 'changes_missing':
      return 'Please say what should change; without it nothing was decided.';
    case 'expired':
      return 'The deadline of this request has passed. Nothing was decided by your click.';
    case 'pressed_long_ago':
      return 'You pressed *Approve* more than 15 minutes ago, and I could not judge it until now, so it does not count. Please press it again if it still stands for you.';
    case 'approved_in_vain':
      return 'What you approved was not executed: it no longer stood as you saw it. Its card says what changed; if the agent still wants it, a new card asks again.';
    case 'replaced':
      return 'What this card shows was replaced by a newer request. Please decide on the newer card.';
    case 'not_found':
      return 'This button does not lead to a request that I know. Nothing was changed.';
    case 'other_deployment':
      return 'This card belongs to another installation of Countersign; I cannot decide on it here.';
    case 'read_details_first':
      return 'Not everything is on this card. Please open *Details* and read the rest first, then approve.';
    case 'modal_expired':
      return 'The window could not be opened in time, and nothing was decided. Please click again.';
    case 'may_not_request':
      return 'You may not give me tasks in this workspace; its policy names who may.';
    case 'empty_request':
      return 'Tell me what to do in the same message, naming the repository and what must be true when it is done.';
    case 'could_not_handle':
      return 'I tried again and again and could not handle this. Nothing was changed by it; please try once more.';
    case 'command_help':
      return commandHelp(note.unknown);
    case 'may_not_read_digest':
      return 'The digest is for those who may give me tasks in this workspace; its policy names who may.';
    case 'may_not_read_details':
      return `Details of this are for whoever asked for it, and for those who may decide: ${whoMay(note.reviewers)}. Your click changed nothing.`;
    case 'digest_refused':
      return `Slack does not let me post the digest in ${channel(note.channelId)}: is that channel still there, and am I in it? \`/countersign digest\` shows it to you alone, in any channel I am in.`;
    default:
      return note satisfies never;
  }
}

function commandHelp(unknown: boolean): string {
  return [
    unknown ? 'I do not know that one. What there is:' : 'What there is:',
    '• `/countersign digest` — what was done, what failed, what waits for whom, since the last morning digest; only you see it',
    '• `/countersign digest here` — the same for everybody in this channel',
    '• `/countersign help` — this',
    'To give me a task, mention me in a channel or write to me directly.',
  ].join('\n');
}

function whoMay(reviewers: readonly Person[]): string {
  return reviewers.length === 0 ? 'nobody at the moment' : mentions(reviewers);
}

function ineligibleText(reason: IneligibleReason, reviewers: readonly Person[]): string {
  const tail = `May decide here: ${whoMay(reviewers)}. Your click changed nothing.`;
  switch (reason) {
    case 'requester':
      return `You asked for this, so someone else decides. ${tail}`;
    case 'not_a_reviewer':
      return `You are not one of the reviewers of this. ${tail}`;
    case 'guest':
      return `Guests cannot decide. ${tail}`;
    case 'external':
      return `People from other workspaces cannot decide. ${tail}`;
    case 'bot':
      return `Bots cannot decide. ${tail}`;
    case 'deactivated':
      return `A deactivated account cannot decide. ${tail}`;
    case 'unknown_person':
      return `Slack could not tell me who you are, so nothing was granted. ${tail}`;
    default:
      return reason satisfies never;
  }
}

/** Longest reason a person can give; it has to fit on the card. */
const REASON_LENGTH = 500;

const REASON_MODAL = {
  reject: { view: VIEWS.reject, title: 'Reject', label: 'Reason, shown on the card', optional: true },
  request_changes: {
    view: VIEWS.requestChanges,
    title: 'Request changes',
    label: 'What should change? The agent reads this and may propose again',
    optional: false,
  },
} as const;

/** Asks for the reason of a no, which a request for changes cannot do without; its submission is the decision. */
export function reasonModal(
  decision: 'reject' | 'request_changes',
  title: string,
  reference: ModalReference,
): ModalView {
  const asked = REASON_MODAL[decision];
  return {
    type: 'modal',
    callback_id: asked.view,
    private_metadata: writeReference(reference),
    title: plainElement(asked.title),
    submit: plainElement(asked.title),
    close: plainElement('Back'),
    blocks: [
      plain(oneLine(title), { max: 300 }).block,
      {
        type: 'input',
        block_id: REASON_INPUT.block,
        optional: asked.optional,
        label: plainElement(asked.label),
        element: {
          type: 'plain_text_input',
          action_id: REASON_INPUT.action,
          multiline: true,
          max_length: Math.min(REASON_LENGTH, LIMITS.sectionText),
        },
      },
    ],
  };
}
