/**
 * Guarantee: whatever an action, a repository or a model says, the card stays inside Slack's limits, its words about
 * state are ours, and nothing a reviewer decides on is left out in silence: it is on the card, or the card says how
 * much is missing and does not count as fitting, and Details hold it to the last character. A pending card has exactly
 * one Approve and one Reject, a resolved one none. The golden files hold one card per state, with its words beside.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readButton } from '../../src/bot/buttons.ts';
import { approvalCard } from '../../src/bot/cards/approval.ts';
import { approvalDetails } from '../../src/bot/cards/details.ts';
import { draw, noteText, reasonModal } from '../../src/bot/cards/message.ts';
import { settleModal } from '../../src/bot/cards/settling.ts';
import { whole } from '../../src/bot/cards/whole.ts';
import { escapeText, LIMITS, plainJson } from '../../src/bot/text.ts';
import { ACTION_STATUSES, REQUEST_STATUSES, RUN_STATUSES } from '../../src/types.ts';
import type { ApprovalView, NoteReason, Settlement } from '../../src/views.ts';
import { asText, broken, buttonIds, texts } from './bot-measure.ts';
import { approvalView, CARD_STATES, REVIEWER_A, REVIEWER_B, taskView, UNSETTLED } from './bot-views.ts';

/** Without what keeps writing from right to left to its line. */
const bare = (text: string): string => text.replaceAll(/[\u2068\u2069]/g, '');

const GOLDEN = new URL('../golden/blocks/', import.meta.url);

function golden(name: string, content: string): void {
  const file = new URL(name, GOLDEN);
  if (process.env.UPDATE_GOLDEN === '1') {
    mkdirSync(GOLDEN, { recursive: true });
    writeFileSync(file, content);
  }
  expect(content, `${name} (UPDATE_GOLDEN=1 writes it anew)`).toBe(readFileSync(file, 'utf8'));
}

const SETTLED: Settlement = {
  happened: false,
  by: { via: 'slack', person: REVIEWER_A },
  reason: 'pull request 7 is open',
  settledAt: '2026-11-20T10:20:00.000Z',
};

describe('a card', () => {
  it.each(Object.entries(CARD_STATES))('in state %s is the golden one', (name, view) => {
    const { blocks, text } = approvalCard(view);

    expect(broken(blocks, 'message')).toEqual([]);
    golden(`card-${name}.json`, `${JSON.stringify({ text, blocks }, null, 2)}\n`);
    golden(`card-${name}.txt`, asText(blocks));
  });

  it('that tells the thread of an unknown outcome, and of the word that settled it, is the golden one', () => {
    const line = 'merge pull request 7 into main';
    const asks = draw({ kind: 'receipt', line, approvedBy: [REVIEWER_B], asks: [REVIEWER_A, REVIEWER_B] });
    const settled = draw({ kind: 'receipt', line, approvedBy: [REVIEWER_B], settlement: SETTLED });

    for (const [name, { blocks, text }] of Object.entries({ asks, settled })) {
      expect(broken(blocks, 'message')).toEqual([]);
      golden(`receipt-${name}.json`, `${JSON.stringify({ text, blocks }, null, 2)}\n`);
      golden(`receipt-${name}.txt`, asText(blocks));
    }
  });

  it('of a task is the golden one, working, done, and with an outcome that is unknown', () => {
    const working = draw({ kind: 'task', task: taskView() });
    const done = draw({
      kind: 'task',
      task: taskView({
        runStatus: 'completed',
        agentSummary: 'The test passes.\nNothing else changed.',
        finishedAt: '2026-11-20T09:02:10.000Z',
      }),
    });

    const unknown = draw({
      kind: 'task',
      task: taskView({
        progress: ['Executing', 'The outcome of the action is unknown'],
        unsettled: [UNSETTLED],
      }),
    });
    const elsewhere = draw({ kind: 'task', task: taskView({ unsettled: [UNSETTLED], isElsewhere: true }) });
    for (const [name, { blocks, text }] of Object.entries({ working, done, unknown, elsewhere })) {
      expect(broken(blocks, 'message')).toEqual([]);
      golden(`task-${name}.json`, `${JSON.stringify({ text, blocks }, null, 2)}\n`);
      golden(`task-${name}.txt`, asText(blocks));
    }
  });

  it('that fits says nothing is missing; one that does not says how much and what Approve does', () => {
    const fitting = approvalCard(approvalView());
    const longer = approvalCard(approvalView({ body: 'x'.repeat(9_000) }));

    expect(fitting.fits).toBe(true);
    expect(asText(fitting.blocks)).not.toContain('Showing');
    expect(longer.fits).toBe(false);
    expect(asText(longer.blocks)).toMatch(
      /Showing [\d,]+ of [\d,]+ characters\. Approve opens the rest first\./,
    );
  });

  it.each<[string, Partial<ApprovalView>]>([
    ['the title', { title: 'x'.repeat(200) }],
    ['an argument', { arguments: { body: 'x'.repeat(5_000) } }],
    ['a condition', { preconditions: [{ path: '/a', expected: 'x'.repeat(5_000) }] }],
    ['the body', { body: 'x'.repeat(5_000) }],
    ['a fact', { facts: [{ label: 'Change', value: 'x'.repeat(500) }] }],
    ['a ninth fact', { facts: Array.from({ length: 9 }, (_, n) => ({ label: `f${n}`, value: 'v' })) }],
    ['a reason', { reasons: ['x'.repeat(900)] }],
    ['the evidence', { evidence: [{ label: 'l', value: 'x'.repeat(2_000), source: 's', observedAt: '' }] }],
    ['the agent’s words', { agentReason: 'x'.repeat(2_000) }],
  ])('on which %s is cut does not fit', (_, over) => {
    expect(approvalCard(approvalView(over)).fits).toBe(false);
  });

  it('claims nothing about state that the state does not say', () => {
    const hostile = CARD_STATES['pending-hostile'];
    const { blocks } = approvalCard(hostile ?? approvalView());
    const composed = texts(blocks)
      .filter(({ type, text }) => type === 'mrkdwn' && !text.startsWith('```'))
      .map(({ text }) => text)
      .join('\n');

    expect(composed).not.toMatch(/Approved|Done|Executing/);
    for (const { type, text } of texts(blocks)) if (type === 'plain_text') expect(text).not.toMatch(/^✓/m);
  });

  it('names the reference it stands for in each button', () => {
    const view = approvalView();
    const [, approve] = (approvalCard(view).blocks.at(-1) as { elements: { value: string }[] }).elements;

    expect(readButton(approve?.value)).toEqual({
      d: view.deploymentId,
      r: view.requestId,
      h: view.actionHash,
    });
  });
});

const nasty = fc.constantFrom(
  '<!here>',
  '```',
  '"',
  '\\',
  '&',
  '\n',
  '\u202e',
  '\0',
  '\ud800',
  '👩‍👩‍👧',
  'e\u0301\u0301',
  'xoxb-1234567890-abcdefgh',
);
const outside = fc
  .tuple(
    fc.array(fc.oneof(nasty, fc.string({ unit: 'binary', maxLength: 10 })), { maxLength: 12 }),
    fc.constantFrom(1, 1, 1, 1, 1, 8, 40),
  )
  .map(([parts, times]) => parts.join('').repeat(times));
const anySettlement = fc.record({
  happened: fc.boolean(),
  by: fc.oneof(
    fc.record({
      via: fc.constant('slack' as const),
      person: fc.record({ teamId: fc.constant('T1'), userId: outside }),
    }),
    fc.record({ via: fc.constant('cli' as const), user: outside }),
  ),
  reason: fc.option(outside),
  settledAt: fc.constant('2026-11-20T10:20:00.000Z'),
});
const anyView = fc
  .record({
    status: fc.constantFrom(...REQUEST_STATUSES),
    actionStatus: fc.constantFrom(...ACTION_STATUSES),
    title: outside,
    kind: outside,
    facts: fc.array(fc.record({ label: outside, value: outside }), { maxLength: 9 }),
    body: fc.option(outside),
    arguments: fc.dictionary(outside, fc.oneof(outside, fc.integer(), fc.constant(null))) as fc.Arbitrary<
      ApprovalView['arguments']
    >,
    preconditions: fc.array(fc.record({ path: outside, expected: outside }), { maxLength: 3 }),
    evidence: fc.array(fc.record({ label: outside, value: outside, source: outside, observedAt: outside }), {
      maxLength: 3,
    }),
    rule: outside,
    reasons: fc.array(outside, { maxLength: 3 }),
    policyVersion: outside,
    agent: fc.record({ name: outside, version: outside, modelLabel: outside }),
    agentReason: outside,
    reviewers: fc.array(fc.record({ teamId: fc.constant('T1'), userId: outside }), { maxLength: 15 }),
    decisions: fc.array(
      fc.record({
        person: fc.record({ teamId: fc.constant('T1'), userId: outside }),
        decision: fc.constantFrom('approve', 'reject', 'request_changes', 'revoke', 'withdraw'),
        reason: fc.option(outside),
        decidedAt: fc.constant('2026-11-20T10:02:00.000Z'),
      }),
      { maxLength: 4 },
    ),
    changes: fc.array(fc.record({ path: outside, expected: outside, actual: outside }), { maxLength: 3 }),
    askedAgain: fc.option(
      fc.array(fc.record({ path: outside, expected: outside, actual: outside }), { maxLength: 5 }),
      { nil: undefined },
    ),
    receiptLine: fc.option(outside),
    failure: fc.option(outside),
    finishedAt: fc.option(fc.constant('2026-11-20T10:02:00.000Z')),
    settlement: fc.option(anySettlement),
    isShort: fc.constantFrom(false, false, true),
    isElsewhere: fc.constantFrom(false, false, true),
  })
  .map((over) => approvalView(over as Partial<ApprovalView>));

/** Our own syntax in mrkdwn: mentions and dates. What is left must hold no live character. */
const withoutOurs = (text: string): string =>
  text
    .replaceAll(/<@[UW][A-Z0-9]{1,30}>/g, '')
    .replaceAll(/<!date\^\d+\^\{date_short_pretty\} \{time\}\|[\d :-]+ UTC>/g, '')
    .replaceAll(/&(?:lt|gt|amp);/g, '');

function expectInert(blocks: unknown): void {
  for (const { type, text } of texts(blocks)) {
    expect(type === 'mrkdwn' ? withoutOurs(text) : text.replaceAll(/&(?:lt|gt|amp);/g, '')).not.toMatch(
      /[<>&]/,
    );
    // But for what keeps writing from right to left to its line.
    expect(text.replaceAll(/[\u2068\u2069]/g, '')).not.toMatch(/(?![\n\t])\p{Cc}|\p{Cf}/u);
    expect(text).not.toContain('xoxb-1234567890');
    if (type === 'mrkdwn' && text.startsWith('```')) expect(text.slice(3, -3)).not.toContain('```');
  }
}

describe('any card', () => {
  it('stays inside the limits, cannot act, and has the buttons of its state', () => {
    fc.assert(
      fc.property(anyView, (view) => {
        const card = approvalCard(view);
        expect(broken(card.blocks, 'message')).toEqual([]);
        expect(card.text.length).toBeLessThanOrEqual(4_000);
        expect(withoutOurs(card.text)).not.toMatch(/[<>&]/);
        expectInert(card.blocks);
        expect(buttonIds(card.blocks)).toEqual(
          view.status === 'pending'
            ? ['approval.details', 'approval.approve', 'approval.request_changes', 'approval.reject']
            : view.actionStatus === 'unknown'
              ? ['approval.details', 'action.happened', 'action.did_not_happen']
              : ['approval.details'],
        );
        expect(card.fits || JSON.stringify(card.blocks).includes('Approve opens the rest first')).toBe(true);
      }),
      { numRuns: 150 },
    );
  });

  it('that Slack refused never fits while it is pending, and its file holds what it leaves out, inert', () => {
    fc.assert(
      fc.property(anyView, (view) => {
        const approval = { ...view, status: 'pending' as const, isShort: true, isElsewhere: false };
        expect(approvalCard(approval).fits).toBe(false);
        const file = whole({ kind: 'approval', approval });
        expect(file?.content).toContain(approval.actionHash);
        // Isolates are ours: an isolate of outside text is an escape.
        expect(file?.content).not.toMatch(/(?![\n\t])\p{Cc}|(?![\u2068\u2069])\p{Cf}/u);
        expect(file?.content).not.toContain('xoxb-1234567890');
      }),
      { numRuns: 50 },
    );
  });

  it('outside the audience of its task shows none of what only that may see, in any state, nor does a file', () => {
    const said = 'only-for-the-task';
    const hidden = {
      facts: [{ label: said, value: said }],
      body: said,
      arguments: { [said]: said },
      preconditions: [{ path: said, expected: said }],
      evidence: [{ label: said, value: said, source: said, observedAt: said }],
      reasons: [said],
      agentReason: said,
      changes: [{ path: said, expected: said, actual: said }],
      askedAgain: [{ path: said, expected: said, actual: said }],
      receiptLine: said,
      failure: said,
      settlement: { ...SETTLED, reason: said },
    };
    for (const status of REQUEST_STATUSES)
      for (const actionStatus of ACTION_STATUSES)
        for (const isShort of [false, true]) {
          const made = { person: REVIEWER_A, reason: said, decidedAt: '2026-11-20T10:02:00.000Z' };
          const decisions = (['approve', 'reject', 'request_changes', 'revoke', 'withdraw'] as const).map(
            (decision) => ({ ...made, decision }),
          );
          const approval = approvalView({
            ...hidden,
            status,
            actionStatus,
            decisions,
            isShort,
            isElsewhere: true,
          });
          const card = approvalCard(approval);
          expect(JSON.stringify(card)).not.toContain(said);
          expect(card.fits).toBe(status !== 'pending');
          expect(asText(card.blocks)).toContain('`github.pulls.merge`');
          expect(whole({ kind: 'approval', approval })).toBeNull();
          expect(readButton(JSON.parse(JSON.stringify(card.blocks.at(-1))).elements[0].value)?.e).toBe(true);
        }
    const task = taskView({
      objective: said,
      progress: [said],
      agentSummary: said.repeat(200),
      unsettled: [UNSETTLED],
      isElsewhere: true,
    });
    for (const view of [
      { kind: 'task', task },
      { kind: 'short', of: { kind: 'task', task } },
      { kind: 'task', task: { ...task, unsettled: [] } },
    ] as const) {
      expect(JSON.stringify(draw(view))).not.toContain(said);
      expect(whole(view)).toBeNull();
    }
  });

  it('that fits shows every argument, condition and the body whole', () => {
    fc.assert(
      fc.property(anyView, (view) => {
        const pending = { ...view, status: 'pending' as const };
        const card = approvalCard(pending);
        if (!card.fits) return;
        const shown = bare(
          texts(card.blocks)
            .map(({ text }) => text)
            .join('\n'),
        );
        const inFence = (text: string) =>
          bare(escapeText(text)).replace(/`{3,}/g, (run) => '\\u{60}'.repeat(run.length));
        for (const { path, expected } of pending.preconditions)
          expect(shown).toContain(inFence(`${path} = ${plainJson(expected)}`));
        expect(shown).toContain(inFence(JSON.stringify(pending.arguments, null, 2)));
        expect(shown).toContain(inFence(pending.body ?? ''));
      }),
      { numRuns: 150 },
    );
  });

  it('fills the room of every part with the dearest characters and still fits into a message', () => {
    for (const dear of ['"', '\\', '&', '<', '\n"', '\u202e', '`', 'א\n', '\u0301']) {
      const long = dear.repeat(1_200);
      const view = approvalView({
        title: long,
        kind: long,
        facts: Array.from({ length: 9 }, () => ({ label: long, value: long })),
        body: long,
        arguments: { [long]: long },
        evidence: [{ label: long, value: long, source: long, observedAt: long }],
        rule: long,
        reasons: [long, long],
        policyVersion: long,
        agent: { name: long, version: long, modelLabel: long },
        agentReason: long,
        requester: { teamId: 'T1', userId: long },
        reviewers: Array.from({ length: 20 }, () => ({ teamId: 'T1', userId: long })),
        decisions: Array.from({ length: 20 }, () => ({
          person: { teamId: 'T1', userId: long },
          decision: 'approve' as const,
          reason: long,
          decidedAt: long,
        })),
        changes: [{ path: long, expected: long, actual: long }],
        askedAgain: Array.from({ length: 5 }, () => ({ path: long, expected: long, actual: long })),
        receiptLine: long,
        failure: long,
        deadlineAt: long,
        createdAt: long,
      });
      // Only the words of an approved card depend on what became of its action.
      // Every state with what costs most in JSON and what costs most when it is shown; of the others the card that shows most.
      const statuses = dear === '"' || dear === '\u202e' ? REQUEST_STATUSES : (['pending'] as const);
      for (const status of statuses)
        for (const actionStatus of status === 'approved' ? ACTION_STATUSES : (['awaiting'] as const))
          for (const settlement of [
            null,
            { ...SETTLED, by: { via: 'cli', user: long }, reason: long },
          ] as const)
            expect([
              dear,
              status,
              ...broken(approvalCard({ ...view, status, actionStatus, settlement }).blocks, 'message'),
            ]).toEqual([dear, status]);
    }
  });
});

describe('Details', () => {
  it('hold everything to the last character, on pages inside the limits', () => {
    fc.assert(
      fc.property(anyView, (view) => {
        const pages = approvalDetails(view);
        const inFence = (text: string) =>
          bare(escapeText(text)).replace(/`{3,}/g, (run) => '\\u{60}'.repeat(run.length));
        const joined = bare(
          pages
            .flatMap((page) =>
              texts(page.blocks).filter(({ type, text }) => type === 'mrkdwn' && text.startsWith('```')),
            )
            .map(({ text }) => text.slice(4, -4))
            .join(''),
        );
        for (const page of pages) {
          expect(broken(page.blocks, 'modal')).toEqual([]);
          expect(page.title.text.length).toBeLessThanOrEqual(LIMITS.modalTitle);
          expectInert(page.blocks);
        }
        for (const value of Object.values(view.arguments))
          expect(joined).toContain(
            inFence(
              typeof value === 'string' && value.includes('\n') ? value : JSON.stringify(value, null, 2),
            ),
          );
        expect(joined).toContain(inFence(view.body ?? ''));
        expect(joined).toContain(inFence(view.agentReason));
      }),
      { numRuns: 60 },
    );
  });

  it('of one page have no page buttons; of several, a way forward and back', () => {
    expect(approvalDetails(approvalView()).map((page) => buttonIds(page.blocks))).toEqual([[]]);

    const pages = approvalDetails(approvalView({ body: 'a line of a long change\n'.repeat(15_000) }));

    expect(pages.length).toBeGreaterThan(2);
    expect(buttonIds(pages[0]?.blocks)).toEqual(['approval.page.next']);
    expect(buttonIds(pages[1]?.blocks)).toEqual(['approval.page.previous', 'approval.page.next']);
    expect(buttonIds(pages.at(-1)?.blocks)).toEqual(['approval.page.previous']);
  });
});

describe('other messages', () => {
  it('of a task fill the room of every part with the dearest characters and still fit, with every button, also in few words', () => {
    const id = '0199f1aa-0000-7000-8000-000000000003';
    for (const dear of ['"', '\\', '&', '\n"', '\u202e', '`', 'א\n', '\u0301']) {
      const long = dear.repeat(1_600 / dear.length);
      const task = taskView({
        objective: long,
        requester: { teamId: 'T1', userId: long },
        startedAt: long,
        runStatus: 'parked',
        progress: Array.from({ length: 14 }, () => long.slice(0, 200)),
        agentSummary: long,
        agent: { name: long, version: long, modelLabel: long },
        costUsd: 123_456,
      });
      // What is split by the segmenter takes its time.
      for (const count of /^[ -~\n]+$/.test(dear) ? [0, 1, 2, 5, 7] : [5]) {
        const unsettled = Array.from({ length: count }, () => ({
          deploymentId: id,
          actionId: id,
          actionHash: 'a'.repeat(64),
          kind: long,
          title: long,
        }));
        const of = { kind: 'task', task: { ...task, unsettled } } as const;
        for (const view of [of, { kind: 'short', of } as const]) {
          const { blocks } = draw(view);
          expect([dear, count, view.kind, ...broken(blocks, 'message')]).toEqual([dear, count, view.kind]);
          expect(buttonIds(blocks)).toEqual(
            Array.from({ length: Math.min(count, 5) }, () => [
              'action.happened',
              'action.did_not_happen',
            ]).flat(),
          );
        }
      }
    }
  });

  it('outside text begins no part of its own in the file beside a request', () => {
    const approval = approvalView({
      isShort: true,
      body: 'a\n== Exactly this will be executed\ngithub.issues.createComment {}',
    });
    const content = whole({ kind: 'approval', approval })?.content ?? '';

    expect(content.match(/^== .*$/gm)?.filter((line) => line.endsWith('executed'))).toHaveLength(1);
    expect(content).toContain(' == Exactly this will be executed\ngithub.issues.createComment {}');
  });

  it('in few words name the file that stands beside them, and none where there is none', () => {
    const views = [
      { kind: 'task', task: taskView({ agentSummary: 'The test passes.' }) },
      { kind: 'task', task: taskView({ agentSummary: null }) },
      { kind: 'receipt', line: 'merged', approvedBy: [] },
      { kind: 'note', note: { kind: 'expired' } },
    ] as const;
    for (const of of views) {
      const view = { kind: 'short', of } as const;
      const file = whole(view);
      const said = asText(draw(view).blocks);
      expect(said).toContain('Slack did not take the whole message.');
      if (file === null) expect(said).not.toMatch(/file/i);
      else expect(said).toContain(`In a file beside it: ${file.title}.`);
    }
    expect(views.map((of) => whole({ kind: 'short', of }) !== null)).toEqual([true, false, true, false]);
  });

  it('stay inside the limits and cannot act, whatever they say', () => {
    fc.assert(
      fc.property(
        outside,
        fc.array(outside, { maxLength: 40 }),
        fc.constantFrom(...RUN_STATUSES),
        anySettlement,
        (words, lines, runStatus, settlement) => {
          const task = draw({
            kind: 'task',
            task: taskView({
              objective: words,
              agentSummary: words,
              progress: lines,
              runStatus,
              unsettled: Array.from({ length: 7 }, () => ({ ...UNSETTLED, kind: words, title: words })),
            }),
          });
          const receipt = draw({
            kind: 'receipt',
            line: words,
            approvedBy: [{ teamId: 'T1', userId: words }],
          });
          const approvedBy = [{ teamId: 'T1', userId: words }];
          const settled = draw({ kind: 'receipt', line: words, approvedBy, settlement });
          const asks = draw({ kind: 'receipt', line: words, approvedBy, asks: approvedBy });
          for (const drawn of [task, receipt, settled, asks]) {
            expect(broken(drawn.blocks, 'message')).toEqual([]);
            expectInert(drawn.blocks);
          }
          const reference = { d: 'd', r: 'r', h: 'h', c: 'C1', t: null, th: null };
          for (const decision of ['reject', 'request_changes'] as const)
            expect(broken(reasonModal(decision, words, reference).blocks, 'modal')).toEqual([]);
          const settling = settleModal({ ...UNSETTLED, title: words }, 'happened', reference);
          expect(broken(settling.blocks, 'modal')).toEqual([]);
          expectInert(settling.blocks);
        },
      ),
      { numRuns: 150 },
    );
  });

  it.each<NoteReason>([
    { kind: 'ineligible', reason: 'requester', reviewers: [REVIEWER_A] },
    { kind: 'ineligible', reason: 'guest', reviewers: [] },
    { kind: 'already_decided', status: 'approved', by: REVIEWER_A, at: '2026-11-20T10:02:00.000Z' },
    { kind: 'already_counted', at: '2026-11-20T10:02:00.000Z' },
    { kind: 'already_settled', settlement: { ...SETTLED, happened: true } },
    { kind: 'already_settled', settlement: { ...SETTLED, by: { via: 'cli', user: 'operator' } } },
    { kind: 'nothing_to_settle' },
    { kind: 'reason_missing' },
    { kind: 'changes_missing' },
    { kind: 'approved_in_vain' },
    { kind: 'expired' },
    { kind: 'pressed_long_ago' },
    { kind: 'replaced' },
    { kind: 'not_found' },
    { kind: 'other_deployment' },
    { kind: 'read_details_first' },
    { kind: 'may_not_read_details', reviewers: [REVIEWER_A] },
    { kind: 'modal_expired' },
    { kind: 'may_not_request' },
    { kind: 'empty_request' },
    { kind: 'could_not_handle' },
  ])('the note $kind says a whole sentence', (note) => {
    expect(noteText(note)).toMatch(/\w.*[.]$/);
    expect(broken(draw({ kind: 'note', note }).blocks, 'message')).toEqual([]);
  });
});
