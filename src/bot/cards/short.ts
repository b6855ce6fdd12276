/**
 * Messages in a few words: what stands where Slack refused a message as it was drawn, and a request where not everybody may see it. They hold the least that can be refused: a line
 * or two far below every limit, and the buttons.
 *
 * Invariant: each says that it is not the whole; a request shown like this does not fit, so that Approve opens Details first.
 */
import type { ApprovalView, FullView, WholeText } from '../../views.ts';
import { codeSpan, oneLine } from '../text.ts';
import { type CardBlock, context, type Drawn, mrkdwn, plain } from './blocks.ts';
import { unsettledBlocks } from './settling.ts';

/** Far below every limit, also when every character is an escape. */
const SHORT_LENGTH = 300;

const REFUSED = {
  pending: '*Slack did not take the whole card; a file beside this holds it. Approve opens the rest first.*',
  resolved: 'Slack did not take the whole card; Details shows it.',
} as const;
const ELSEWHERE = {
  pending:
    '*Not all of it is shown outside the channel of its task. Approve opens the rest first, for whoever may decide.*',
  resolved: 'Not all of it is shown outside the channel of its task; Details shows it to whoever may decide.',
} as const;

/** A request as title and state, in words of ours that are short by themselves; `subject` and `buttons` are the card's. */
export function shortCard(view: ApprovalView, line: string, subject: CardBlock, buttons: CardBlock): Drawn {
  const isPending = view.status === 'pending';
  const state = isPending ? 'pending' : 'resolved';
  const blocks: CardBlock[] = [
    plain(oneLine(view.title), { max: SHORT_LENGTH, before: isPending ? 'Approve: ' : '' }).block,
    mrkdwn(line),
    subject,
    context(view.isElsewhere === true ? ELSEWHERE[state] : REFUSED[state]),
    buttons,
  ];
  return { blocks, text: `${isPending ? 'Approval needed: ' : ''}${codeSpan(view.title)}` };
}

/**
 * Any other message: the words that notifications show of it, `text`, escaped as they are, and the buttons that nothing else has. `file` is
 * what stands beside it.
 */
export function shortMessage(view: FullView, text: string, file: WholeText | null): Drawn {
  const shown = text.length > SHORT_LENGTH ? `${beginning(text)}…` : text;
  const beside = file === null ? '' : ` In a file beside it: ${file.title}.`;
  return {
    blocks: [
      mrkdwn(shown),
      ...(view.kind === 'task' ? unsettledBlocks(view.task.unsettled ?? []) : []),
      context(`Slack did not take the whole message.${beside}`),
    ],
    text: shown,
  };
}

/** Cut so that no entity, no mention or date of ours and no pair of surrogates is halved, and no inline code stays open. */
function beginning(escaped: string): string {
  const kept = escaped
    .slice(0, SHORT_LENGTH)
    .replace(/&[a-z]{0,3}$/, '')
    .replace(/<[^>]*$/, '')
    .replace(/[\ud800-\udbff]$/, '');
  return kept.split('`').length % 2 === 0 ? `${kept}\`` : kept;
}
