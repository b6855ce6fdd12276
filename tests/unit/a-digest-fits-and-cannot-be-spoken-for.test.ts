/**
 * Guarantee: whatever stands in a digest, and however much, its message is within Slack's limits, every list says how much of it is shown,
 * and outside words can neither ping, link, format nor pass for ours. A quiet day is one line. A late digest says so. The golden files hold
 * one digest with everything in it, with its words beside.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { digestCard } from '../../src/bot/cards/digest.ts';
import { draw } from '../../src/bot/cards/message.ts';
import type { DigestView, DigestWaiting, Shortened } from '../../src/views.ts';
import { asText, broken, buttonIds, texts } from './bot-measure.ts';
import { REVIEWER_A, REVIEWER_B } from './bot-views.ts';

const GOLDEN = new URL('../golden/blocks/', import.meta.url);
const REQUESTER = { teamId: 'T0LOCAL', userId: 'U0REQUESTER' };
const MERGE = 'github.pulls.merge';

function golden(name: string, content: string): void {
  const file = new URL(name, GOLDEN);
  if (process.env.UPDATE_GOLDEN === '1') {
    mkdirSync(GOLDEN, { recursive: true });
    writeFileSync(file, content);
  }
  expect(content, `${name} (UPDATE_GOLDEN=1 writes it anew)`).toBe(readFileSync(file, 'utf8'));
}

const some = <Item>(...items: Item[]): Shortened<Item> => ({ items, total: items.length });
const task = (objective: string | null) => ({
  runId: '01999999-0000-7000-8000-000000000001',
  objective,
  requester: REQUESTER,
  channelId: 'C0ENG',
});
const digest = (changes: Partial<DigestView> = {}): DigestView => ({
  localDate: '2026-11-20',
  timeZone: 'Europe/Berlin',
  plannedAt: '2026-11-20T08:00:00.000Z',
  late: false,
  sinceAt: '2026-11-19T08:00:00.000Z',
  done: some(),
  notDone: some(),
  failed: some(),
  waiting: some(),
  changed: some(),
  spentUsd: null,
  medianDecisionMs: null,
  seal: null,
  more: false,
  ...changes,
});
const WAITING: DigestWaiting = {
  ...task('delete branch old-api'),
  what: 'decision',
  kind: 'github.git.deleteRef',
  people: [REVIEWER_A, REVIEWER_B],
  approvals: { given: 1, needed: 2 },
  since: '2026-11-19T15:20:00.000Z',
  until: '2026-11-20T16:00:00.000Z',
};
const FULL = digest({
  late: true,
  done: some(
    {
      ...task('fix the rounding of half cents'),
      actions: [{ kind: MERGE, approvedBy: [REVIEWER_A, REVIEWER_B], settled: false }],
    },
    { ...task('what can you do?'), actions: [] },
    {
      ...task(null),
      actions: [{ kind: MERGE, approvedBy: [REVIEWER_A], settled: true }],
    },
  ),
  waiting: some(
    WAITING,
    { ...WAITING, what: 'settlement', approvals: null, until: null },
    { ...WAITING, what: 'operator', kind: null, people: [], approvals: null, until: null },
  ),
  failed: some({ ...task('bump lodash'), code: 'MODEL_REFUSED', why: 'Stopped: no credit' }),
  notDone: some({ ...task('merge pull request 3'), because: 'rejected' }),
  changed: some({
    ...task('merge pull request 3'),
    what: 'rejected',
    kind: MERGE,
    by: REVIEWER_A,
    reason: 'wait for the release',
  }),
  spentUsd: 3.41,
  medianDecisionMs: 38 * 60_000,
  seal: { no: 8_412, hash: 'c07e0123456789abcdef' },
});

const allText = (view: DigestView): string =>
  texts(digestCard(view).blocks)
    .map(({ text }) => text)
    .join('\n');

describe('a digest', () => {
  it('with everything in it is the golden one', () => {
    const { blocks, text } = draw({ kind: 'digest', digest: FULL });

    expect(broken(blocks, 'message')).toEqual([]);
    expect(buttonIds(blocks)).toEqual([]);
    golden('digest.json', `${JSON.stringify({ text, blocks }, null, 2)}\n`);
    golden('digest.txt', asText(blocks));
  });

  it.each([
    ['2026-11-19T08:00:00.000Z', 'Nothing to report since Thursday.'],
    ['2026-11-16T08:00:00.000Z', 'Nothing to report since Monday.'],
    ['2026-11-13T08:00:00.000Z', 'Nothing to report since Friday 13 November.'],
    ['2026-11-20T08:00:00.000Z', 'Nothing to report since 09:00.'],
    [null, 'Nothing to report so far.'],
  ])('of a quiet day, the last one at %s, is one line', (sinceAt, line) => {
    const { blocks, text } = digestCard(digest({ sinceAt, seal: { no: 1, hash: 'ab' }, late: true }));

    expect(text).toBe(line);
    expect(asText(blocks)).toBe(`${line}\n`);
  });

  it('is late or not, in words, and names when it was due in its own zone', () => {
    expect(allText({ ...FULL, late: true })).toContain('Late: nothing ran at 09:00 Friday 20 November');
    expect(allText({ ...FULL, late: false })).not.toContain('Late');
  });

  it('names a task whose words may not be told by who asked and where', () => {
    const view = digest({ done: some({ ...task(null), actions: [] }) });
    const direct = digest({ done: some({ ...task(null), channelId: 'D0REQUESTER', actions: [] }) });

    expect(allText(view)).toContain('A task of <@U0REQUESTER> in <#C0ENG>');
    expect(allText(direct)).toContain('A task of <@U0REQUESTER> in a direct message');
  });

  it('with more than fits shows what fits and says how much that is', () => {
    const many = Array.from({ length: 25 }, (_, n) => ({
      ...task(`${n} ${'long words '.repeat(30)}`),
      actions: [],
    }));
    const text = allText(digest({ done: { items: many, total: 431 } }));
    const shown = (text.match(/^• /gm) ?? []).length;

    expect(shown).toBeGreaterThan(3);
    expect(text).toContain(`Showing ${shown} of 431`);
    expect(text).toContain('431 tasks done');
  });

  it('gives outside words no power', () => {
    const evil = '<!channel> <@U0REVIEWERA> <https://a.example|b> `*bold*` \u202e @here\n*Done* · 99 ✓';
    const view = digest({
      done: some({ ...task(evil), actions: [{ kind: evil, approvedBy: [], settled: false }] }),
      failed: some({ ...task(evil), code: evil, why: evil }),
      changed: some({ ...task(evil), what: 'rejected', kind: evil, by: REVIEWER_B, reason: evil }),
    });
    const text = allText(view);

    expect(text).not.toMatch(/<!channel|<@U0REVIEWERA|<https|\u202e/);
    expect(text).toContain('&lt;!channel&gt;');
    // Each piece is one span: no backtick of its own closes it, no line of its own begins.
    for (const line of text.split('\n').filter((one) => one.startsWith('•')))
      expect(line.replaceAll(/`[^`]*`/g, '')).not.toMatch(/bold|99|`/);
    expect(text.match(/^\*Done\*$/gm)).toHaveLength(1);
  });

  it('fits whatever stands in it', () => {
    const words = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 400 }),
      fc.constantFrom(
        '"'.repeat(400),
        '\\'.repeat(400),
        '&'.repeat(400),
        '👩‍👩‍👧‍👧'.repeat(80),
        '\n'.repeat(200),
        '',
      ),
    );
    const person = fc.record({ teamId: words, userId: fc.oneof(words, fc.constant('U0REVIEWERA')) });
    const people = fc.array(person, { maxLength: 12 });
    const iso = fc.constantFrom('2026-11-19T15:20:00.000Z', 'never', '');
    const base = {
      runId: words,
      objective: fc.option(words),
      requester: fc.option(person),
      channelId: fc.option(words),
    };
    const listOf = <Item>(item: fc.Arbitrary<Item>): fc.Arbitrary<Shortened<Item>> =>
      fc
        .tuple(fc.array(item, { maxLength: 25 }), fc.nat(10_000))
        .map(([items, more]) => ({ items, total: items.length + more }));
    const view: fc.Arbitrary<DigestView> = fc.record({
      localDate: fc.constantFrom('2026-11-20', '2028-02-29'),
      timeZone: fc.constantFrom('Europe/Berlin', 'Australia/Lord_Howe', 'Etc/UTC'),
      plannedAt: fc.constantFrom('2026-11-20T08:00:00.000Z', null),
      late: fc.boolean(),
      sinceAt: fc.constantFrom('2026-11-19T08:00:00.000Z', '2020-01-01T00:00:00.000Z', null),
      done: listOf(
        fc.record({
          ...base,
          actions: fc.array(fc.record({ kind: words, approvedBy: people, settled: fc.boolean() }), {
            maxLength: 6,
          }),
        }),
      ),
      notDone: listOf(
        fc.record({ ...base, because: fc.constantFrom('rejected' as const, 'expired' as const) }),
      ),
      failed: listOf(fc.record({ ...base, code: words, why: fc.option(words) })),
      waiting: listOf(
        fc.record({
          ...base,
          what: fc.constantFrom('decision' as const, 'settlement' as const, 'operator' as const),
          kind: fc.option(words),
          people,
          approvals: fc.option(fc.record({ given: fc.nat(), needed: fc.nat() })),
          since: iso,
          until: fc.option(iso),
        }),
      ),
      changed: listOf(
        fc.record({
          ...base,
          what: fc.constantFrom('rejected' as const, 'changes_requested' as const, 'revoked' as const),
          kind: fc.option(words),
          by: fc.option(person),
          reason: fc.option(words),
        }),
      ),
      spentUsd: fc.option(fc.double({ min: 0, max: 1e9, noNaN: true })),
      medianDecisionMs: fc.option(fc.nat()),
      seal: fc.option(fc.record({ no: fc.nat(), hash: fc.constant('c07e0123456789abcdef') })),
      more: fc.boolean(),
    });
    fc.assert(
      fc.property(view, (one) => {
        const { blocks, text } = digestCard(one);

        expect(broken(blocks, 'message')).toEqual([]);
        expect(text.length).toBeLessThan(200);
      }),
      { numRuns: 150 },
    );
  });
});
