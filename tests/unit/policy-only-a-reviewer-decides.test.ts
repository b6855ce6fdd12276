/**
 * Guarantee: a decision is open to people whom the policy names as reviewers, who are full members of the workspace
 * now, and who did not ask for the action themselves unless the policy says so. Everybody else hears one reason, the
 * first that applies. Tasks come from full members, or from a list of them.
 */
import { describe, expect, test } from 'vitest';
import { CountersignError } from '../../src/errors.ts';
import { firstPolicy, type PolicyPeople, parsePolicyPeople } from '../../src/policies/first-policy.ts';
import type { ActionFacts, PersonFacts, Policy, ReviewRule } from '../../src/types.ts';

const REVIEWER_A = { teamId: 'T1', userId: 'U_REVIEWER_A' };
const REVIEWER_B = { teamId: 'T1', userId: 'U_REVIEWER_B' };
const REQUESTER = { teamId: 'T1', userId: 'U_REQUESTER' };
const PEOPLE: PolicyPeople = {
  admins: [REVIEWER_B],
  reviewers: [REVIEWER_A, REQUESTER],
  requesters: 'members',
};

function factsOf(person: { teamId: string; userId: string }, over: Partial<PersonFacts> = {}): PersonFacts {
  return {
    ...person,
    known: true,
    isBot: false,
    isGuest: false,
    isExternal: false,
    isDeactivated: false,
    ...over,
  };
}

function ruleOf(policy: Policy): ReviewRule {
  const facts: ActionFacts = {
    workspaceId: 'T1',
    kind: 'github.pulls.merge',
    isRead: false,
    arguments: {},
    argumentsBytes: 2,
    requester: REQUESTER,
  };
  return policy.reviewRule(facts, policy.evaluate(facts));
}

const policy = firstPolicy(PEOPLE);
const rule = ruleOf(policy);

describe('who may decide', () => {
  test('a reviewer may', () => {
    expect(policy.eligibility(factsOf(REVIEWER_A), rule, REQUESTER)).toEqual({ eligible: true });
  });

  test('being an admin gives no right to decide', () => {
    expect(policy.eligibility(factsOf(REVIEWER_B), rule, REQUESTER)).toEqual({
      eligible: false,
      reason: 'not_a_reviewer',
    });
  });

  test('the reason is the first that applies, from unknown down to not a reviewer', () => {
    const stranger = { teamId: 'T1', userId: 'U_GUEST' };
    const everything = { known: false, isBot: true, isDeactivated: true, isExternal: true, isGuest: true };
    const peeled: [Partial<PersonFacts>, string][] = [
      [everything, 'unknown_person'],
      [{ ...everything, known: true }, 'bot'],
      [{ ...everything, known: true, isBot: false }, 'deactivated'],
      [{ isExternal: true, isGuest: true }, 'external'],
      [{ isGuest: true }, 'guest'],
      [{}, 'requester'],
    ];

    for (const [over, reason] of peeled)
      expect(policy.eligibility(factsOf(stranger, over), rule, stranger)).toEqual({
        eligible: false,
        reason,
      });
  });

  test('a reviewer who is a guest, a bot or gone may not', () => {
    for (const over of [{ isGuest: true }, { isBot: true }, { isDeactivated: true }, { isExternal: true }])
      expect(policy.eligibility(factsOf(REVIEWER_A, over), rule, REQUESTER).eligible).toBe(false);
  });

  test('the same user id in another team is another person', () => {
    const elsewhere = factsOf({ teamId: 'T2', userId: REVIEWER_A.userId });

    expect(policy.eligibility(elsewhere, rule, REQUESTER)).toMatchObject({ reason: 'not_a_reviewer' });
  });

  test('the requester may only where the frozen rule and the newest policy both say so', () => {
    const open = firstPolicy({ ...PEOPLE, requesterMayDecide: true });

    expect(policy.eligibility(factsOf(REQUESTER), rule, REQUESTER)).toMatchObject({ reason: 'requester' });
    expect(open.eligibility(factsOf(REQUESTER), rule, REQUESTER)).toMatchObject({ reason: 'requester' });
    expect(policy.eligibility(factsOf(REQUESTER), ruleOf(open), REQUESTER)).toMatchObject({
      reason: 'requester',
    });
    expect(open.eligibility(factsOf(REQUESTER), ruleOf(open), REQUESTER)).toEqual({ eligible: true });
  });

  test('the requester may not, whatever team their task was stored with', () => {
    const stored = { ...REQUESTER, teamId: 'T2' };

    expect(policy.eligibility(factsOf(REQUESTER), rule, stored)).toMatchObject({ reason: 'requester' });
  });

  test('a newer policy takes the right away, and does not hand out what was frozen without it', () => {
    const newer = firstPolicy({ ...PEOPLE, reviewers: [REVIEWER_B] });

    expect(newer.eligibility(factsOf(REVIEWER_A), rule, REQUESTER)).toMatchObject({
      reason: 'not_a_reviewer',
    });
    expect(newer.eligibility(factsOf(REVIEWER_B), rule, REQUESTER)).toMatchObject({
      reason: 'not_a_reviewer',
    });
  });

  test('no reviewers configured means nobody', () => {
    const nobody = firstPolicy({ ...PEOPLE, reviewers: [] });

    expect(nobody.eligibility(factsOf(REVIEWER_A), ruleOf(nobody), REQUESTER).eligible).toBe(false);
  });
});

describe('who may give tasks', () => {
  test('full members, and nobody Slack cannot vouch for', () => {
    expect(policy.mayRequest(factsOf(REVIEWER_B))).toBe(true);
    for (const over of [
      { known: false },
      { isBot: true },
      { isGuest: true },
      { isExternal: true },
      { isDeactivated: true },
    ])
      expect(policy.mayRequest(factsOf(REQUESTER, over))).toBe(false);
  });

  test('with a list, only those on it', () => {
    const listed = firstPolicy({ ...PEOPLE, requesters: [REQUESTER] });

    expect(listed.mayRequest(factsOf(REQUESTER))).toBe(true);
    expect(listed.mayRequest(factsOf(REVIEWER_A))).toBe(false);
    expect(listed.mayRequest(factsOf(REQUESTER, { isGuest: true }))).toBe(false);
  });
});

describe('the people of a policy file', () => {
  test('have defaults: one approval, a day, never the requester', () => {
    expect(ruleOf(policy)).toMatchObject({ quorum: 1, deadlineMs: 86_400_000, requesterMayDecide: false });
  });

  test.each([
    ['an unknown field', { ...PEOPLE, reviewer: [] }, 'policy'],
    ['a quorum of none', { ...PEOPLE, quorum: 0 }, 'quorum'],
    ['a quorum nobody can reach', { ...PEOPLE, reviewers: [REVIEWER_A, REVIEWER_A], quorum: 2 }, 'quorum'],
    ['a deadline in the past', { ...PEOPLE, deadlineHours: 0 }, 'deadlineHours'],
    ['a person without a team', { ...PEOPLE, reviewers: [{ userId: 'U1' }] }, 'reviewers.0.teamId'],
    ['nothing', undefined, 'policy'],
  ])('%s is refused by name', (_name, value, field) => {
    const refused = () => parsePolicyPeople(value);

    expect(refused).toThrow(CountersignError);
    expect(refused).toThrow(`The policy's ${field}:`);
  });
});
