/**
 * Guarantee: the first policy answers for every action there can be. Only reads pass unasked, merges and everything
 * unknown need a person, what no person could read is denied, and an error while judging is a deny. No matching rule
 * makes the answer milder than another matching rule would.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
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
          if (verdict.verdict === 'allow') expect([rest.isRead, verdict.tier]).toEqual([true, 'low']);
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
