/**
 * Guarantee: the first policy answers for every action there can be. Only reads and labels of our own namespace pass unasked; merges
 * and everything unknown, also an unknown argument of a known kind, need a person at high risk; what no person could read is denied, and an error while judging is a deny. No matching rule
 * makes the answer milder than another matching rule would.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { toolsFor } from '../../src/agents/tools/index.ts';
import { firstPolicy, MAX_ARGUMENT_BYTES, type PolicyPeople } from '../../src/policies/first-policy.ts';
import type { ActionFacts, JsonObject } from '../../src/types.ts';

const REVIEWER = { teamId: 'T1', userId: 'U_REVIEWER_A' };
const REQUESTER = { teamId: 'T1', userId: 'U_REQUESTER' };
const PEOPLE: PolicyPeople = { admins: [], reviewers: [REVIEWER], requesters: 'members' };
const policy = firstPolicy(PEOPLE);
const ORDER = ['allow', 'require_approval', 'deny'];

function facts(over: Partial<ActionFacts> = {}): ActionFacts {
  return {
    workspaceId: 'T1',
    kind: 'github.pulls.merge',
    isRead: false,
    arguments: { owner: 'acme', repo: 'shop', pull_number: 1 },
    argumentsBytes: 48,
    requester: REQUESTER,
    ...over,
  };
}

describe('the verdicts', () => {
  test('a read is allowed at low risk', () => {
    expect(policy.evaluate(facts({ kind: 'github.pulls.get', isRead: true }))).toEqual({
      verdict: 'allow',
      tier: 'low',
      rule: 'reads',
      reasons: ['Reading changes nothing.'],
      policyVersion: policy.version,
    });
  });

  test('a merge needs approval at high risk, also where somebody calls it a read', () => {
    for (const isRead of [false, true])
      expect(policy.evaluate(facts({ isRead }))).toMatchObject({
        verdict: 'require_approval',
        tier: 'high',
        rule: 'merge',
      });
  });

  test('an unknown kind needs approval at high risk', () => {
    expect(policy.evaluate(facts({ kind: 'github.repos.delete' }))).toMatchObject({
      verdict: 'require_approval',
      tier: 'high',
      rule: 'default',
    });
  });

  test('arguments up to the bound may be reviewed, one byte more is denied', () => {
    const fits = { text: 'x'.repeat(MAX_ARGUMENT_BYTES - '{"text":""}'.length) };
    const tooLong = { text: `${fits.text}x` };

    expect(policy.evaluate(facts({ arguments: fits })).verdict).toBe('require_approval');
    expect(policy.evaluate(facts({ arguments: tooLong, argumentsBytes: 1 }))).toMatchObject({
      verdict: 'deny',
      rule: 'TOO_LARGE_TO_REVIEW',
    });
    expect(policy.evaluate(facts({ argumentsBytes: MAX_ARGUMENT_BYTES + 1 })).verdict).toBe('deny');
  });
});

const SHOP = { owner: 'acme', repo: 'shop' };
const FILE = { path: 'src/price.ts', content: 'x' };
/** One of each kind that is judged below high, as its tool parses it. */
const MEDIUM: Readonly<Record<string, JsonObject>> = {
  'github.issues.addLabels': { ...SHOP, issue_number: 3, labels: ['bug'] },
  'github.issues.createComment': { ...SHOP, issue_number: 3, body: 'x' },
  'github.issues.update': { ...SHOP, issue_numbers: [4], state: 'closed', state_reason: 'not_planned' },
  'github.git.createCommit': {
    ...SHOP,
    branch: 'x',
    base_sha: 'a'.repeat(40),
    message: 'x',
    files: [FILE],
  },
  'github.pulls.create': { ...SHOP, head: 'x', base: 'main', title: 'x', body: 'x', draft: false },
  'github.repos.createRelease': {
    ...SHOP,
    tag_name: 'v1',
    target_commitish: 'a'.repeat(40),
    name: 'x',
    body: 'x',
    draft: true,
  },
};
const judged = (kind: string, given: JsonObject, isRead = false) =>
  policy.evaluate(facts({ kind, arguments: given, isRead }));
const labelled = (labels: unknown) =>
  judged('github.issues.addLabels', { ...SHOP, issue_number: 3, labels: labels as string[] });

describe('what the shipped tools do', () => {
  test.each(Object.entries(MEDIUM))('%s needs approval at medium risk', (kind, given) => {
    for (const isRead of [false, true])
      expect(judged(kind, given, isRead)).toMatchObject({ verdict: 'require_approval', tier: 'medium' });
  });

  test.each(Object.entries(MEDIUM))('%s with an argument nobody foresaw is high', (kind, given) => {
    for (const isRead of [false, true])
      expect(judged(kind, { ...given, force: true }, isRead)).toMatchObject({
        verdict: 'require_approval',
        tier: 'high',
        rule: 'unforeseen-arguments',
      });
  });

  test('every write that ships is judged by a rule of its own', () => {
    const writes = toolsFor({ baseUrl: 'http://127.0.0.1:9', token: 'x', credential: 'x' }).flatMap((tool) =>
      tool.access === 'write' ? [tool.kind] : [],
    );
    expect(writes.sort()).toEqual([...Object.keys(MEDIUM), 'github.pulls.merge'].sort());
  });

  test('labels of our own namespace pass at low risk, alone or together', () => {
    for (const labels of [['countersign/bug'], ['countersign/needs-info', 'countersign/x1']])
      expect(labelled(labels)).toMatchObject({ verdict: 'allow', tier: 'low', rule: 'own-labels' });
  });

  test.each([
    ['bug'],
    ['countersign'],
    ['countersign/'],
    ['Countersign/bug'],
    [' countersign/bug'],
    ['countersign/bug '],
    ['countersign/bug\nbug'],
    ['countersign/bug,bug'],
    ['countersign/../bug'],
    ['countersign/a/b'],
    ['сountersign/bug'],
    ['xcountersign/bug'],
    ['countersign/-'],
    ['countersign/bug\u200b'],
  ])('the label %j does not slip through as ours, alone or beside one that is', (label) => {
    for (const labels of [[label], ['countersign/bug', label]])
      expect(labelled(labels)).toMatchObject({ verdict: 'require_approval', tier: 'medium' });
  });

  test('only a list of texts that are all ours passes', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.jsonValue(),
          fc.array(fc.oneof(fc.constant('countersign/bug'), fc.string(), fc.jsonValue())),
        ),
        (labels) => {
          const ours =
            Array.isArray(labels) &&
            labels.length > 0 &&
            labels.every((label) => typeof label === 'string' && /^countersign\/[a-z0-9-]+$/.test(label));
          expect(labelled(labels).verdict === 'allow' && !ours).toBe(false);
        },
      ),
    );
  });

  test.each([
    '.github/workflows/ci.yml',
    '.GitHub/x',
    '.github',
    'CODEOWNERS',
    'docs/codeowners',
    'a/.github/x',
  ])('a commit that touches %s is high, also among others', (path) => {
    const given = { ...MEDIUM['github.git.createCommit'], files: [FILE, { path, content: 'x' }] };
    expect(judged('github.git.createCommit', given)).toMatchObject({
      verdict: 'require_approval',
      tier: 'high',
      rule: 'workflow-files',
    });
  });

  test('a commit whose files cannot be told is denied', () => {
    for (const files of [undefined, [], 'x', [{ content: 'x' }], [{ path: 1 }]])
      expect(
        judged('github.git.createCommit', { ...MEDIUM['github.git.createCommit'], files: files as string })
          .verdict,
      ).toBe('deny');
  });

  test('anything but a draft, and any state but closed, is high', () => {
    for (const draft of [false, 'true', null])
      expect(
        judged('github.repos.createRelease', { ...MEDIUM['github.repos.createRelease'], draft }).tier,
      ).toBe('high');
    for (const state of ['open', null])
      expect(judged('github.issues.update', { ...MEDIUM['github.issues.update'], state }).tier).toBe('high');
  });
});

describe('judging is total', () => {
  test('any action gets a verdict, and only a read is ever allowed', () => {
    fc.assert(
      fc.property(
        fc.record({
          kind: fc.oneof(fc.string(), fc.constantFrom('github.pulls.merge', '__proto__', 'constructor')),
          isRead: fc.boolean(),
          arguments: fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue()),
          argumentsBytes: fc.integer(),
        }),
        ({ arguments: given, ...rest }) => {
          const verdict = policy.evaluate(facts({ ...rest, arguments: given as JsonObject }));

          expect(ORDER).toContain(verdict.verdict);
          expect(verdict.policyVersion).toBe(policy.version);
          expect(verdict.reasons.length).toBeGreaterThan(0);
          if (verdict.verdict === 'allow' && verdict.rule !== 'own-labels')
            expect([rest.isRead, verdict.tier]).toEqual([true, 'low']);
        },
      ),
    );
  });

  test.each([
    ['null', null],
    ['no arguments', { kind: 'github.pulls.get', isRead: true, argumentsBytes: 0 }],
    ['a size that is no number', facts({ argumentsBytes: Number.NaN, isRead: true })],
    ['a size below zero', facts({ argumentsBytes: -1 })],
    ['a lone surrogate', facts({ arguments: { text: '\ud800' } })],
    [
      'facts that throw when they are read',
      {
        get kind(): string {
          throw new Error('no');
        },
      },
    ],
  ])('%s is a deny', (_name, given) => {
    expect(policy.evaluate(given as unknown as ActionFacts)).toMatchObject({
      verdict: 'deny',
      rule: 'error',
    });
  });

  test('a stricter rule that also matches is never relaxed', () => {
    fc.assert(
      fc.property(fc.constantFrom('github.pulls.merge', 'github.pulls.get'), fc.boolean(), (kind, isRead) => {
        const one = policy.evaluate(facts({ kind, isRead }));
        const withMore = policy.evaluate(facts({ kind, isRead, argumentsBytes: MAX_ARGUMENT_BYTES + 1 }));

        expect(ORDER.indexOf(withMore.verdict)).toBeGreaterThanOrEqual(ORDER.indexOf(one.verdict));
        expect(withMore.verdict).toBe('deny');
      }),
    );
  });
});

describe('the version', () => {
  test('names the content: any person or number changes it, order and repetition do not', () => {
    const other = { teamId: 'T1', userId: 'U_REVIEWER_B' };
    const both = firstPolicy({ ...PEOPLE, reviewers: [REVIEWER, other] });

    expect(policy.version).toMatch(/^first-[0-9a-f]{12}$/);
    expect(firstPolicy(PEOPLE).version).toBe(policy.version);
    expect(firstPolicy({ ...PEOPLE, reviewers: [other, REVIEWER, other] }).version).toBe(both.version);
    const changed = [
      both,
      firstPolicy({ ...PEOPLE, admins: [other] }),
      firstPolicy({ ...PEOPLE, requesters: [REQUESTER] }),
      firstPolicy({ ...PEOPLE, deadlineHours: 1 }),
      firstPolicy({ ...PEOPLE, requesterMayDecide: true }),
    ];
    expect(new Set([policy, ...changed].map(({ version }) => version)).size).toBe(changed.length + 1);
  });
});
