/**
 * What a message does not show whole, as the text of a file that stands beside it. Pure.
 *
 * Invariant: a file holds nothing that its message, or the Details of its request, would not show to the same people. Outside text is masked
 * and its hidden characters are made visible; everything else may stand as it is, for Slack shows a text file as text. The text depends on
 * nothing that changes while the message stays cut, so that one cut message has one file.
 */
import type { ApprovalView, FullView, MessageView, TaskView, WholeText } from '../../views.ts';
import { cut, oneLine, visible } from '../text.ts';
import { argumentsText } from './approval.ts';
import { agentLabel } from './words.ts';

/** Room on a message for the agent's closing words, and for one line of a receipt; what is longer stands in a file beside it. */
export const SUMMARY_ROOM = 1_500;
export const LINE_ROOM = 1_500;

/** Null when the message shows all of it, or its Details do. */
export function whole(view: MessageView): WholeText | null {
  if (view.kind === 'short') return wholeOf(view.of, true);
  return wholeOf(view, view.kind === 'approval' && view.approval.isShort === true);
}

function wholeOf(view: FullView, isShort: boolean): WholeText | null {
  switch (view.kind) {
    case 'approval':
      // A card that does not fit says so and has Details; only what Slack refused needs more.
      return isShort && view.approval.status === 'pending' && view.approval.isElsewhere !== true
        ? requestText(view.approval)
        : null;
    case 'task':
      return view.task.isElsewhere === true ? null : taskText(view.task, isShort);
    case 'receipt':
      return isShort || !cut(oneLine(view.line), LINE_ROOM).complete
        ? { title: 'What was done', content: `${visible(view.line)}\n` }
        : null;
    case 'note':
    case 'digest':
      return null;
  }
}

function taskText(task: TaskView, isShort: boolean): WholeText | null {
  const summary = task.agentSummary ?? '';
  if (summary === '' || (!isShort && cut(oneLine(summary), SUMMARY_ROOM).complete)) return null;
  return {
    title: 'What the agent says, in full',
    content: `${agentLabel(task.agent)} says:\n\n${visible(summary)}\n`,
  };
}

function requestText(view: ApprovalView): WholeText {
  const parts: readonly (readonly [string, string])[] = [
    ['Approve', view.title],
    ['Exactly this will be executed', `${view.kind} ${argumentsText(view.arguments)}`],
    [
      'Only while',
      view.preconditions.map(({ path, expected }) => `${path} = ${JSON.stringify(expected)}`).join('\n'),
    ],
    ['About', view.facts.map(({ label, value }) => `${label}: ${value}`).join('\n')],
    ['What it is about, in the words of its source', view.body ?? ''],
    [`Why ${view.tier}`, `${view.reasons.join('\n')}\n(rule ${view.rule}, policy ${view.policyVersion})`],
    [
      'Evidence',
      view.evidence.map(({ label, value, source }) => `${label}: ${value} (${source})`).join('\n') ||
        'none was given',
    ],
    [`${agentLabel(view.agent)} says`, view.agentReason],
    ['Action hash', view.actionHash],
  ];
  return {
    title: 'The whole request',
    content: parts
      .filter(([, text]) => text !== '')
      // Outside text may not begin a part of its own.
      .map(([heading, text]) => `== ${heading}\n${visible(text).replaceAll(/^(?===)/gm, ' ')}\n`)
      .join('\n'),
  };
}
