/**
 * The approval card: what a reviewer decides on, and afterwards what became of it.
 *
 * Invariants: pure; the words about state come from `status`, `actionStatus` and a person's settlement alone. A pending card has exactly
 * one Approve, one Request changes and one Reject, any other none; one whose action's outcome is unknown has the two buttons that settle it.
 * Whatever a reviewer decides on is on the card, or the card says how much is missing and `fits` is false, and then Approve opens Details
 * first. Outside text stands in plain_text or in a fence.
 */
import type { JsonObject, PreconditionChange } from '../../types.ts';
import type { ApprovalView } from '../../views.ts';
import { CLICKS, writeReference } from '../buttons.ts';
import {
  codeSpan,
  cut,
  dateToken,
  escapeText,
  LIMITS,
  mention,
  mentions,
  oneLine,
  plainJson,
  showing,
} from '../text.ts';
import {
  button,
  type CardBlock,
  context,
  type Drawn,
  fenced,
  missing,
  mrkdwn,
  plain,
  plainElement,
  plainSaying,
} from './blocks.ts';
import { settleButtons, settledBy, settledLine } from './settling.ts';
import { shortCard } from './short.ts';
import { agentLabel, decidedBy, short, took } from './words.ts';

export interface ApprovalCard extends Drawn {
  /** True when everything a reviewer decides on is on the card. Always true once resolved: nothing is decided on it. */
  readonly fits: boolean;
}

/**
 * Room for each part, in units after escaping. Together, at JSON's worst (every character a quote, which doubles),
 * they stay inside LIMITS.messageBlocksJson; a property test holds them to it.
 */
const ROOM = {
  facts: 8,
  fact: 97,
  arguments: 800,
  body: 900,
  reasons: 350,
  evidence: 560,
  agentReason: 340,
  outcome: 500,
  changes: 900,
} as const;

/** Of what changed before a request was asked for again; its earlier card has all of it. */
const CHANGES_NAMED = 2;
const CHANGE_ROOM = 40;

export function approvalCard(view: ApprovalView): ApprovalCard {
  if (view.isShort === true || view.isElsewhere === true) {
    const isPending = view.status === 'pending';
    const line = isPending ? needs(view) : outcome(view).line;
    return {
      ...shortCard(view, line, subject(view), buttons(view, isPending ? 'pending' : 'resolved')),
      fits: !isPending,
    };
  }
  return view.status === 'pending' ? pendingCard(view) : resolvedCard(view);
}

function pendingCard(view: ApprovalView): ApprovalCard {
  const seen = new Tally();
  const blocks: CardBlock[] = [
    header('Approve: ', view.title, seen),
    ...(view.askedAgain === undefined ? [] : [askedAgain(view.askedAgain)]),
    subject(view),
    ...factBlocks(view, seen),
    ...exactly(view, seen),
  ];
  const why = plain(`${view.reasons.map(oneLine).join(' · ')}`, {
    max: ROOM.reasons,
    before: `Why ${view.tier}: `,
    after: ` (rule ${short(view.rule, 80)}, policy ${short(view.policyVersion, 40)})`,
  });
  seen.add(why.piece);
  blocks.push(why.block);
  if (view.evidence.length === 0) {
    blocks.push(mrkdwn('Evidence: none was given.'));
  } else {
    const lines = view.evidence.map(
      (item) => `• ${oneLine(item.label)}: ${oneLine(item.value)} — ${oneLine(item.source)}`,
    );
    const evidence = plain(lines.join('\n'), { max: ROOM.evidence, before: 'Evidence\n' });
    seen.add(evidence.piece);
    blocks.push(evidence.block);
  }
  const words = plain(oneLine(view.agentReason), {
    max: ROOM.agentReason,
    // The agent was not asked again: what it said, it said of what stood then.
    before: `${agentLabel(view.agent)} ${view.askedAgain === undefined ? 'says' : 'said before that change'}: “`,
    after: '”',
  });
  seen.add(words.piece);
  blocks.push(words.block, context(needs(view)));
  if (!seen.complete) blocks.push(context(`*${seen.words()}. Approve opens the rest first.*`));
  blocks.push(buttons(view, 'pending'));
  return {
    blocks,
    fits: seen.complete,
    text: `Approval needed (${view.tier} risk): ${codeSpan(view.title)}`,
  };
}

/** Whoever has just approved must not take this card for the one they pressed. */
function askedAgain(changes: readonly PreconditionChange[]): CardBlock {
  const named = changes.slice(0, CHANGES_NAMED).map(({ path }) => codeSpan(path, CHANGE_ROOM));
  const more = changes.length - named.length;
  const what =
    named.length === 0 ? '' : ` Changed: ${named.join(', ')}${more > 0 ? ` and ${more} more` : ''}.`;
  return mrkdwn(
    `⟳ *Asked again*: approved before and not executed, because something had changed.${what} Please read it anew.`,
  );
}

function resolvedCard(view: ApprovalView): ApprovalCard {
  const { line, quoted } = outcome(view);
  const blocks: CardBlock[] = [header('', view.title, new Tally()), mrkdwn(line)];
  if (quoted !== null && quoted.text !== '')
    blocks.push(
      ...plainSaying(oneLine(quoted.text), {
        max: ROOM.outcome,
        before: quoted.before,
        after: quoted.after,
      }),
    );
  if (view.actionStatus === 'unknown')
    blocks.push(
      context(
        `It will not be sent again by itself. Look at the target, then say what you found: ${mentions(view.reviewers)}`,
      ),
    );
  if (view.changes.length > 0) {
    const lines = view.changes.map(
      (change) => `${change.path}: ${plainJson(change.expected)} → ${plainJson(change.actual)}`,
    );
    const changes = fenced(lines.join('\n'), ROOM.changes);
    blocks.push(changes.block, ...missing(changes.piece));
  }
  blocks.push(...factBlocks(view, new Tally()), subject(view), buttons(view, 'resolved'));
  return { blocks, fits: true, text: `${line} ${codeSpan(view.title)}` };
}

/** What became of the request: a line of our own, and outside words (a reason, a receipt) to stand below it. */
function outcome(view: ApprovalView): {
  line: string;
  quoted: { before: string; text: string; after: string } | null;
} {
  const approved = decidedBy(view, 'approve');
  const at = view.finishedAt === null ? '' : ` ${dateToken(view.finishedAt)}`;
  switch (view.status) {
    case 'pending':
      return { line: 'Waiting for a decision.', quoted: null };
    case 'approved':
      return approvedOutcome(view, approved, at);
    case 'rejected':
      return {
        line: `✗ *Rejected* by ${decidedBy(view, 'reject')}. ${effect(view)}`,
        quoted: reason(view, 'reject'),
      };
    case 'changes_requested':
      return {
        line: `⟲ *Changes requested* by ${decidedBy(view, 'request_changes')}. ${effect(view)}`,
        quoted: reason(view, 'request_changes'),
      };
    case 'expired':
      return {
        line: view.decisions.some(({ decision }) => decision === 'approve')
          ? `⌛ *Expired*${at || ` ${dateToken(view.deadlineAt)}`}, approved so far by ${approved}. ${effect(view)}`
          : `⌛ *Expired* ${dateToken(view.deadlineAt)} without a decision. ${effect(view)}`,
        quoted: null,
      };
    case 'withdrawn':
      return {
        line: view.decisions.some(({ decision }) => decision === 'withdraw')
          ? `⊘ *Withdrawn* by ${decidedBy(view, 'withdraw')}. ${effect(view)}`
          : `⊘ *Withdrawn*${at}: the task no longer asks for it. ${effect(view)}`,
        quoted: reason(view, 'withdraw'),
      };
    case 'superseded':
      return {
        line:
          view.changes.length > 0
            ? `⟳ *Changed since review*${at}${approvedBefore(view)}. ${effect(view)} What changed:`
            : `⟳ *Replaced*${at} by a newer request${approvedBefore(view)}. ${effect(view)}`,
        quoted: null,
      };
    case 'revoked':
      return {
        line: `↩ *Revoked* by ${decidedBy(view, 'revoke')}. ${effect(view)}`,
        quoted: reason(view, 'revoke'),
      };
    default:
      return view.status satisfies never;
  }
}

function approvedBefore(view: ApprovalView): string {
  return view.decisions.some(({ decision }) => decision === 'approve')
    ? `, approved before by ${decidedBy(view, 'approve')}`
    : '';
}

function approvedOutcome(view: ApprovalView, approved: string, at: string): ReturnType<typeof outcome> {
  const quotedFailure =
    view.failure === null ? null : { before: 'Reported: “', text: view.failure, after: '”' };
  if (view.settlement !== null)
    return {
      line: `${settledLine(view.settlement)}. The outcome was unknown${at} · approved by ${approved}`,
      quoted: view.settlement.reason === null ? null : quotation(view.settlement.reason),
    };
  switch (view.actionStatus) {
    case 'proposed':
    case 'awaiting':
    case 'permitted':
      return { line: `✓ *Approved* by ${approved} · about to be executed`, quoted: null };
    case 'executing':
      return { line: `⏳ *Executing* · approved by ${approved}`, quoted: null };
    case 'done':
      return {
        line: `✓ *Done*${at} · approved by ${approved}${took(view.createdAt, view.finishedAt, ' after asking')}`,
        quoted: view.receiptLine === null ? null : { before: '', text: view.receiptLine, after: '' },
      };
    case 'failed':
      return { line: `✗ *Failed*${at} · approved by ${approved}`, quoted: quotedFailure };
    case 'unknown':
      return {
        line: `? *Outcome unknown*${at}: it was sent and nobody can tell whether it happened. Approved by ${approved}.`,
        quoted: quotedFailure,
      };
    case 'closed':
    case 'denied':
      return { line: `⊘ *Not executed*${at} · was approved by ${approved}`, quoted: quotedFailure };
    default:
      return view.actionStatus satisfies never;
  }
}

/** Whether anything happened outside, from the action's state: a request can end after its action has run. */
function effect(view: ApprovalView): string {
  if (view.settlement !== null)
    return `Whether it was executed was unknown; ${settledBy(view.settlement)} says that it was${view.settlement.happened ? '' : ' not'}.`;
  switch (view.actionStatus) {
    case 'proposed':
    case 'denied':
    case 'permitted':
    case 'awaiting':
    case 'closed':
      return 'Nothing was executed.';
    case 'executing':
      return 'It is being executed.';
    case 'done':
      return 'It had been executed.';
    case 'failed':
      return 'Executing it had failed.';
    case 'unknown':
      return 'Whether it was executed is unknown.';
    default:
      return view.actionStatus satisfies never;
  }
}

function reason(
  view: ApprovalView,
  decision: ApprovalView['decisions'][number]['decision'],
): { before: string; text: string; after: string } | null {
  const given = view.decisions.findLast((made) => made.decision === decision)?.reason;
  return given == null || given === '' ? null : quotation(given);
}

function quotation(text: string): { before: string; text: string; after: string } {
  return { before: 'Reason: “', text, after: '”' };
}

function header(before: string, title: string, seen: Tally): CardBlock {
  const piece = cut(oneLine(title), LIMITS.headerText - before.length - 1);
  seen.add(piece);
  return { type: 'header', text: plainElement(`${before}${piece.text}${piece.complete ? '' : '…'}`) };
}

function subject(view: ApprovalView): CardBlock {
  return context(
    `*${view.tier.toUpperCase()}* risk · ${codeSpan(view.kind, 100)} · asked for by ${mention(view.requester)}, proposed ${dateToken(view.createdAt)}`,
  );
}

function factBlocks(view: ApprovalView, seen: Tally): CardBlock[] {
  if (view.facts.length === 0) return [];
  const fields = view.facts.slice(0, ROOM.facts).map(({ label, value }) => {
    const piece = cut(`${oneLine(label)}: ${oneLine(value)}`, ROOM.fact);
    seen.add(piece);
    return plainElement(`${piece.text}${piece.complete ? '' : '…'}`);
  });
  for (const { label, value } of view.facts.slice(ROOM.facts)) seen.miss(`${label}: ${value}`);
  return [{ type: 'section', fields }];
}

/** Exactly what will run, under which conditions, and the longer text of the target. */
function exactly(view: ApprovalView, seen: Tally): CardBlock[] {
  const conditions = view.preconditions.map(({ path, expected }) => `${path} = ${plainJson(expected)}`);
  const will = fenced(
    [
      `${oneLine(view.kind)} ${argumentsText(view.arguments)}`,
      ...(conditions.length === 0 ? [] : ['only while', ...conditions]),
    ].join('\n'),
    ROOM.arguments,
  );
  seen.add(will.piece);
  const blocks: CardBlock[] = [context('Exactly this will be executed:'), will.block];
  if (view.body !== null && view.body !== '') {
    const body = fenced(view.body, ROOM.body);
    seen.add(body.piece);
    blocks.push(context('What it is about, in the words of its source:'), body.block);
  }
  return blocks;
}

/** JSON on purpose: in it no value can imitate the line of another argument. */
export function argumentsText(value: JsonObject): string {
  return JSON.stringify(value, null, 2);
}

function needs(view: ApprovalView): string {
  const approvals = view.decisions.filter(({ decision }) => decision === 'approve');
  const soFar =
    approvals.length === 0
      ? '0 so far'
      : `${approvals.length} so far: ${mentions(approvals.map(({ person }) => person))}`;
  return `Needs ${view.quorum} of: ${mentions(view.reviewers)} · ${soFar} · until ${dateToken(view.deadlineAt)}`;
}

function buttons(view: ApprovalView, state: 'pending' | 'resolved'): CardBlock {
  const value = writeReference({
    d: view.deploymentId,
    r: view.requestId,
    h: view.actionHash,
    ...(view.isElsewhere === true ? { e: true } : {}),
  });
  const details = button('Details', CLICKS.details, value);
  return {
    type: 'actions',
    elements:
      state === 'pending'
        ? [
            details,
            button('Approve', CLICKS.approve, value, 'primary'),
            button('Request changes', CLICKS.requestChanges, value),
            button('Reject', CLICKS.reject, value, 'danger'),
          ]
        : [details, ...(view.actionStatus === 'unknown' ? settleButtons(view) : [])],
  };
}

/** Counts what is shown of what there is. */
class Tally {
  #shown = 0;
  #total = 0;
  complete = true;

  add(piece: { readonly shown: number; readonly total: number; readonly complete: boolean }): void {
    this.#shown += piece.shown;
    this.#total += piece.total;
    if (!piece.complete) this.complete = false;
  }

  miss(text: string): void {
    this.add({ shown: 0, total: escapeText(text).length, complete: false });
  }

  words(): string {
    return showing(this.#shown, this.#total);
  }
}
