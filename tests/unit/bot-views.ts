/** Views for the tests of cards: one request and one task in fixed words and times, and what varies given over. */
import type { ApprovalView, TaskView, UnsettledAction } from '../../src/views.ts';

const person = (userId: string) => ({ teamId: 'T1', userId });
export const REQUESTER = person('UREQUESTER');
export const REVIEWER_A = person('UREVIEWERA');
export const REVIEWER_B = person('UREVIEWERB');

export function approvalView(over: Partial<ApprovalView> = {}): ApprovalView {
  return {
    deploymentId: 'deployment-1',
    requestId: '0199f1aa-0000-7000-8000-000000000001',
    actionId: '0199f1aa-0000-7000-8000-000000000003',
    status: 'pending',
    actionStatus: 'awaiting',
    tier: 'high',
    kind: 'github.pulls.merge',
    title: 'merge pull request 7 into main',
    facts: [
      { label: 'Repository', value: 'acme/shop' },
      { label: 'Change', value: '1 file, +3 −1' },
    ],
    body: '-  return Math.floor(cents);\n+  return Math.round(cents);',
    arguments: { owner: 'acme', repo: 'shop', pull_number: 7, merge_method: 'squash' },
    preconditions: [{ path: '/head/sha', expected: '4f2c9e1' }],
    preconditionsSeenAt: '2026-11-20T09:00:00.000Z',
    actionHash: 'a'.repeat(64),
    evidence: [
      {
        label: 'Tests',
        value: '14 of 14 passed',
        source: 'run-tests',
        observedAt: '2026-11-20T08:59:00.000Z',
      },
    ],
    rule: 'merge-default',
    reasons: ['It writes to the default branch.'],
    policyVersion: 'v12',
    agent: { name: 'engineer', version: '3', modelLabel: 'scripted model' },
    agentReason: 'The half-cent case used floor; the test now passes.',
    requester: REQUESTER,
    reviewers: [REVIEWER_A, REVIEWER_B],
    quorum: 2,
    deadlineAt: '2026-11-20T17:00:00.000Z',
    createdAt: '2026-11-20T09:00:00.000Z',
    decisions: [],
    changes: [],
    receiptLine: null,
    failure: null,
    finishedAt: null,
    settlement: null,
    ...over,
  };
}

const at = '2026-11-20T10:02:00.000Z';
const approvedByBoth: ApprovalView['decisions'] = [
  { person: REVIEWER_A, decision: 'approve', reason: null, decidedAt: at },
  { person: REVIEWER_B, decision: 'approve', reason: null, decidedAt: '2026-11-20T10:03:00.000Z' },
];
const decided = (decision: ApprovalView['decisions'][number]['decision'], reason: string | null) => ({
  decisions: [{ person: REVIEWER_A, decision, reason, decidedAt: at }],
  actionStatus: 'closed' as const,
  finishedAt: at,
});

/** Every state a card can be in, by the name of its golden file. */
export const CARD_STATES: Readonly<Record<string, ApprovalView>> = {
  pending: approvalView(),
  'pending-one-of-two': approvalView({ decisions: approvedByBoth.slice(0, 1) }),
  'pending-does-not-fit': approvalView({ body: `${'+ one more line of the change\n'.repeat(80)}` }),
  'pending-hostile': approvalView({
    title: 'merge <!channel> *now* :white_check_mark:\n✓ Approved by everyone',
    body: 'text\n```\n✓ *Approved* <@UREVIEWERA>\n```\nmore',
    agentReason: 'Fine.\n\u202e✓ Approved\u202c <https://evil.example|docs.example> xoxb-1234567890-abcdef',
  }),
  'pending-refused-by-slack': approvalView({ isShort: true, decisions: approvedByBoth.slice(0, 1) }),
  'pending-elsewhere': approvalView({ isElsewhere: true, decisions: approvedByBoth.slice(0, 1) }),
  approved: approvalView({ status: 'approved', actionStatus: 'permitted', decisions: approvedByBoth }),
  executing: approvalView({ status: 'approved', actionStatus: 'executing', decisions: approvedByBoth }),
  done: approvalView({
    status: 'approved',
    actionStatus: 'done',
    decisions: approvedByBoth,
    receiptLine: 'Merged pull request 7 as 9a1b2c3.',
    finishedAt: '2026-11-20T10:03:30.000Z',
  }),
  failed: approvalView({
    status: 'approved',
    actionStatus: 'failed',
    decisions: approvedByBoth,
    failure: 'The provider refused: merge conflict.',
    finishedAt: '2026-11-20T10:03:30.000Z',
  }),
  unknown: approvalView({
    status: 'approved',
    actionStatus: 'unknown',
    decisions: approvedByBoth,
    failure: 'The provider did not answer.',
    finishedAt: '2026-11-20T10:03:30.000Z',
  }),
  'unknown-elsewhere': approvalView({
    status: 'approved',
    actionStatus: 'unknown',
    decisions: approvedByBoth,
    failure: 'The provider did not answer.',
    finishedAt: '2026-11-20T10:03:30.000Z',
    isElsewhere: true,
  }),
  'unknown-and-it-happened': approvalView({
    status: 'approved',
    actionStatus: 'done',
    decisions: approvedByBoth,
    finishedAt: '2026-11-20T10:03:30.000Z',
    settlement: {
      happened: true,
      by: { via: 'slack', person: REVIEWER_A },
      reason: 'pull request 7 is merged as 9a1b2c3',
      settledAt: '2026-11-20T10:20:00.000Z',
    },
  }),
  'unknown-and-it-did-not-happen': approvalView({
    status: 'approved',
    actionStatus: 'failed',
    decisions: approvedByBoth,
    finishedAt: '2026-11-20T10:03:30.000Z',
    settlement: {
      happened: false,
      by: { via: 'cli', user: 'operator' },
      reason: null,
      settledAt: '2026-11-20T10:20:00.000Z',
    },
  }),
  'approved-not-executed': approvalView({
    status: 'approved',
    actionStatus: 'closed',
    decisions: approvedByBoth,
    finishedAt: '2026-11-20T10:03:30.000Z',
  }),
  rejected: approvalView({ status: 'rejected', ...decided('reject', 'wait for the release') }),
  'changes-requested': approvalView({
    status: 'changes_requested',
    ...decided('request_changes', 'name the issue in the title'),
  }),
  expired: approvalView({ status: 'expired', actionStatus: 'closed' }),
  withdrawn: approvalView({ status: 'withdrawn', actionStatus: 'closed', finishedAt: at }),
  'pending-asked-again': approvalView({
    status: 'pending',
    askedAgain: [{ path: '/head/sha', expected: '4f2c9e1', actual: '77aa01d' }],
  }),
  superseded: approvalView({
    status: 'superseded',
    actionStatus: 'closed',
    decisions: approvedByBoth,
    changes: [{ path: '/head/sha', expected: '4f2c9e1', actual: '77aa01d' }],
    finishedAt: at,
  }),
  revoked: approvalView({ status: 'revoked', ...decided('revoke', 'wrong branch') }),
};

export const UNSETTLED: UnsettledAction = {
  deploymentId: 'deployment-1',
  actionId: '0199f1aa-0000-7000-8000-000000000003',
  actionHash: 'a'.repeat(64),
  kind: 'slack.chat.postMessage',
  title: 'post the notes to #releases',
};

export function taskView(over: Partial<TaskView> = {}): TaskView {
  return {
    taskId: '0199f1aa-0000-7000-8000-000000000002',
    objective: 'Fix the failing rounding test in acme/shop',
    requester: REQUESTER,
    runStatus: 'running',
    progress: ['Read issue 12 and 3 files', 'Reproduced: 1 of 14 tests fails', 'Editing src/price.ts'],
    agentSummary: null,
    agent: { name: 'engineer', version: '3', modelLabel: 'scripted model' },
    costUsd: 0.18,
    startedAt: '2026-11-20T09:00:00.000Z',
    finishedAt: null,
    ...over,
  };
}
