/** Views of every kind with something else in every place where outside words may stand. For tests that attack what people see. */
import { approvalDetails } from '../../src/bot/cards/details.ts';
import { draw, reasonModal } from '../../src/bot/cards/message.ts';
import { settleModal } from '../../src/bot/cards/settling.ts';
import type { DigestView, MessageView, NoteReason } from '../../src/views.ts';
import { CARD_STATES, REQUESTER, REVIEWER_A, taskView, UNSETTLED } from '../unit/bot-views.ts';

/** Members that code writes and compares: never outside words. */
const OURS = new Set([
  ...[
    'kind',
    'status',
    'actionStatus',
    'tier',
    'runStatus',
    'decision',
    'via',
    'what',
    'because',
    'localDate',
    'timeZone',
    'plannedAt',
  ],
  ...['sinceAt', 'deploymentId', 'requestId', 'actionId', 'actionHash', 'taskId', 'to'],
]);

/** A copy in which every string that may be outside words is `words`; `kind` is one too where it names a tool. */
export function spoken<T>(view: T, words: string): T {
  return walk(view, words) as T;
}

function walk(value: unknown, words: string, name?: string): unknown {
  if (typeof value === 'string') {
    const isTool = name === 'kind' && value.includes('.');
    return name !== undefined && OURS.has(name) && !isTool ? value : words;
  }
  if (Array.isArray(value))
    return value.map((member) => walk(member, words, name === undefined ? 'item' : `${name}[]`));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, walk(member, words, key)]));
}

const task = { runId: 'run', objective: 'o', requester: REQUESTER, channelId: 'C0ENG' };
const one = <Item>(...items: Item[]) => ({ items, total: items.length + 3 });
const TOOL = 'github.pulls.merge';

export const DIGEST: DigestView = {
  localDate: '2026-11-20',
  timeZone: 'Etc/UTC',
  plannedAt: '2026-11-20T08:00:00.000Z',
  late: true,
  sinceAt: '2026-11-19T08:00:00.000Z',
  done: one(
    { ...task, actions: [{ kind: TOOL, approvedBy: [REVIEWER_A], settled: true }] },
    { ...task, objective: null, actions: [] },
  ),
  notDone: one({ ...task, because: 'rejected' }),
  failed: one({ ...task, code: 'CODE', why: 'why' }),
  waiting: one({
    ...task,
    what: 'decision',
    kind: TOOL,
    people: [REVIEWER_A],
    approvals: { given: 0, needed: 2 },
    since: '2026-11-19T15:20:00.000Z',
    until: '2026-11-20T16:00:00.000Z',
  }),
  changed: one({ ...task, what: 'rejected', kind: TOOL, by: REVIEWER_A, reason: 'why' }),
  spentUsd: 1,
  medianDecisionMs: 60_000,
  seal: { no: 1, hash: 'a'.repeat(64) },
  more: true,
};

const settlement = (via: 'slack' | 'cli') => ({
  happened: true,
  by: via === 'slack' ? { via, person: REVIEWER_A } : { via, user: 'somebody' },
  reason: 'seen',
  settledAt: '2026-11-20T10:20:00.000Z',
});

const NOTES: readonly NoteReason[] = [
  { kind: 'ineligible', reason: 'not_a_reviewer', reviewers: [REVIEWER_A] },
  { kind: 'already_decided', status: 'approved', by: REVIEWER_A, at: '2026-11-20T10:20:00.000Z' },
  { kind: 'already_settled', settlement: settlement('cli') },
  { kind: 'may_not_read_details', reviewers: [REVIEWER_A] },
  { kind: 'digest_refused', channelId: 'C0ENG' },
];

/** Every message, in every state, with the same `words` wherever outside words may stand. */
export function messages(words: string): MessageView[] {
  const approvals = Object.values(CARD_STATES).map(
    (approval): MessageView => ({ kind: 'approval', approval: spoken(approval, words) }),
  );
  const receipt = { line: words, approvedBy: [spoken(REVIEWER_A, words)] };
  const all: MessageView[] = [
    ...approvals,
    { kind: 'task', task: spoken(taskView({ runStatus: 'waiting', unsettled: [UNSETTLED] }), words) },
    {
      kind: 'task',
      task: spoken(taskView({ runStatus: 'completed', agentSummary: 'done', progress: [] }), words),
    },
    { kind: 'task', task: spoken(taskView({ runStatus: 'failed', agentSummary: 'done' }), words) },
    { kind: 'digest', digest: spoken(DIGEST, words) },
    { kind: 'receipt', ...receipt },
    { kind: 'receipt', ...receipt, asks: [spoken(REVIEWER_A, words)] },
    { kind: 'receipt', ...receipt, settlement: spoken(settlement('slack'), words) },
    ...NOTES.map(
      (note): MessageView => ({
        kind: 'note',
        note: spoken({ ...note, reason: undefined }, words) as NoteReason,
      }),
    ),
  ];
  const given = all.map(asGiven);
  // What Slack refused is said in few words; a request says so itself.
  const short = given.flatMap((of): MessageView[] =>
    of.kind === 'short' || of.kind === 'approval' ? [] : [{ kind: 'short', of }],
  );
  return [...given, ...short];
}

/** A reason that is an enumeration stays one. */
function asGiven(view: MessageView): MessageView {
  return view.kind === 'note' && view.note.kind === 'ineligible'
    ? { ...view, note: { ...view.note, reason: 'not_a_reviewer' } }
    : view;
}

/** What a person is sent: blocks, and the text that notifications and screen readers get. */
export interface Shown {
  readonly what: string;
  readonly blocks: readonly object[];
  readonly text: string;
}

/** Everything people see: messages, windows, all pages of Details. */
export function everythingShown(words: string): Shown[] {
  const drawn = messages(words).map((view) => {
    const what = view.kind === 'approval' ? `approval ${view.approval.status}` : view.kind;
    return { what, ...draw(view) };
  });
  const reference = { d: 'deployment-1', r: 'request', h: 'hash', c: 'C0ENG', t: null, th: null };
  const windows = [
    ...Object.values(CARD_STATES).flatMap((view) => approvalDetails(spoken(view, words))),
    reasonModal('reject', words, reference),
    reasonModal('request_changes', words, reference),
    settleModal(spoken(UNSETTLED, words), 'happened', reference),
  ].map(({ title, blocks }) => ({ what: 'window', blocks: [...blocks, title], text: '' }));
  return [...drawn, ...windows];
}
