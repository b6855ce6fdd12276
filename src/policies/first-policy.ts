/**
 * The first policy: who may ask, who may decide, and which actions need a person. Called by jobs before an action may
 * run, at every decision, and again before execution.
 *
 * Invariant: pure and closed. Same input, same answer; every rule that matches is weighed and the strictest one
 * decides, so a further rule can only tighten; what nobody foresaw is high risk; an error while judging is a deny.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { CountersignError } from '../errors.ts';
import type {
  ActionFacts,
  Eligibility,
  Person,
  PersonFacts,
  Policy,
  ReviewRule,
  RiskTier,
  Verdict,
} from '../types.ts';
import { RISK_TIERS } from '../types.ts';
import { canonicalJson } from './fingerprint.ts';

/** What one page of Details holds for certain, in UTF-8 bytes of canonical JSON: Slack's view of 250 kB, every byte escaped. */
export const DETAILS_PAGE_BYTES = 10_000;
/** Nobody reads further than this; what is longer cannot be reviewed and is therefore denied. */
export const MAX_DETAILS_PAGES = 10;
export const MAX_ARGUMENT_BYTES = MAX_DETAILS_PAGES * DETAILS_PAGE_BYTES;

/** A request nobody answers in this time is stale; the longest that may be configured. */
const MAX_DEADLINE_HOURS = 30 * 24;
/** More names than this on one list is a mistake, not a policy. */
const MAX_PEOPLE = 500;
const HOUR_MS = 3_600_000;

const personSchema = z.strictObject({
  teamId: z.string().regex(/^[A-Za-z0-9_-]{1,64}$/),
  userId: z.string().regex(/^[A-Za-z0-9_-]{1,64}$/),
});
const peopleSchema = z
  .strictObject({
    admins: z.array(personSchema).max(MAX_PEOPLE),
    reviewers: z.array(personSchema).max(MAX_PEOPLE),
    requesters: z.union([z.literal('members'), z.array(personSchema).max(MAX_PEOPLE)]),
    quorum: z.int().min(1).max(20).default(1),
    deadlineHours: z.number().positive().max(MAX_DEADLINE_HOURS).default(24),
    requesterMayDecide: z.boolean().default(false),
  })
  .refine((people) => people.reviewers.length === 0 || people.quorum <= distinct(people.reviewers).length, {
    path: ['quorum'],
    message: 'more approvals than there are reviewers',
  });

/** Who stands where. What is optional has the default named beside it. */
export interface PolicyPeople {
  /** May change policy and settings. Gives no right to decide: name an admin among the reviewers for that. */
  readonly admins: readonly Person[];
  /** May decide. Empty means that nobody may. */
  readonly reviewers: readonly Person[];
  /** May give tasks: every full member of the workspace, or only those listed. */
  readonly requesters: 'members' | readonly Person[];
  /** Distinct people who must approve. Default `1`; never more than there are reviewers. */
  readonly quorum?: number | undefined;
  /** From asking to expiry, in hours. Default `24`, at most 720. */
  readonly deadlineHours?: number | undefined;
  /** Whether a reviewer may decide on a task of their own. Default `false`. */
  readonly requesterMayDecide?: boolean | undefined;
}
export type ParsedPolicyPeople = z.infer<typeof peopleSchema>;

/** Reads the people of a policy file. Throws CONFIG_INVALID naming the first field that does not fit. */
export function parsePolicyPeople(value: unknown): ParsedPolicyPeople {
  const parsed = peopleSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const field = issue === undefined || issue.path.length === 0 ? 'policy' : issue.path.join('.');
  throw new CountersignError('CONFIG_INVALID', `The policy's ${field}: ${issue?.message ?? 'is malformed'}.`);
}

/** The namespace whose labels mean nothing to anybody but readers. */
const OWN_LABELS = 'countersign/';
/** Nothing that GitHub could read as another name: no spaces around it, no other case, no look-alike letter. */
const OWN_LABEL = /^countersign\/[a-z0-9](?:[a-z0-9-]{0,36}[a-z0-9])?$/;

/** The arguments that the rules below high were written for. One that a tool gains later is nothing they foresaw. */
const FORESEEN = {
  'github.issues.addLabels': ['owner', 'repo', 'issue_number', 'labels'],
  'github.issues.createComment': ['owner', 'repo', 'issue_number', 'body'],
  'github.issues.update': ['owner', 'repo', 'issue_numbers', 'state', 'state_reason'],
  'github.git.createCommit': ['owner', 'repo', 'branch', 'base_sha', 'message', 'files'],
  'github.pulls.create': ['owner', 'repo', 'head', 'base', 'title', 'body', 'draft'],
  'github.repos.createRelease': ['owner', 'repo', 'tag_name', 'target_commitish', 'name', 'body', 'draft'],
} as const satisfies Record<string, readonly string[]>;
type KnownKind = keyof typeof FORESEEN;

interface Rule {
  readonly name: string;
  readonly verdict: Verdict['verdict'];
  readonly tier: RiskTier;
  readonly reason: string;
  readonly matches: (facts: ActionFacts) => boolean;
}

const RULES: readonly Rule[] = [
  {
    name: 'TOO_LARGE_TO_REVIEW',
    verdict: 'deny',
    tier: 'high',
    reason: `The arguments are longer than ${MAX_DETAILS_PAGES} pages of Details; nobody could review them.`,
    matches: (facts) => argumentBytes(facts) > MAX_ARGUMENT_BYTES,
  },
  {
    name: 'merge',
    verdict: 'require_approval',
    tier: 'high',
    reason: 'A merge changes a branch that others build on.',
    matches: (facts) => facts.kind === 'github.pulls.merge',
  },
  {
    name: 'unforeseen-arguments',
    verdict: 'require_approval',
    tier: 'high',
    reason: 'The action asks for something that no rule foresaw.',
    matches: (facts) => isKnownKind(facts.kind) && !isForeseen(facts, facts.kind),
  },
  {
    name: 'workflow-files',
    verdict: 'require_approval',
    tier: 'high',
    reason: 'Files below .github decide what runs with the secrets of the repository, and who must review.',
    matches: (facts) => facts.kind === 'github.git.createCommit' && committedPaths(facts).some(isSteering),
  },
  {
    name: 'own-labels',
    verdict: 'allow',
    tier: 'low',
    reason: `Labels of the form ${OWN_LABELS}… are notes of ours and change nothing else.`,
    matches: (facts) => isForeseen(facts, 'github.issues.addLabels') && labelsAreOurs(facts),
  },
  {
    name: 'labels',
    verdict: 'require_approval',
    tier: 'medium',
    reason: 'Labels steer people and automation.',
    matches: (facts) => isForeseen(facts, 'github.issues.addLabels') && !labelsAreOurs(facts),
  },
  {
    name: 'comment',
    verdict: 'require_approval',
    tier: 'medium',
    reason: 'A comment speaks to people in our name.',
    matches: (facts) => isForeseen(facts, 'github.issues.createComment'),
  },
  {
    name: 'close-issues',
    verdict: 'require_approval',
    tier: 'medium',
    reason: 'Closing an issue tells its author that nobody will work on it; it can be opened again.',
    matches: (facts) => isForeseen(facts, 'github.issues.update'),
  },
  {
    name: 'new-branch',
    verdict: 'require_approval',
    tier: 'medium',
    reason:
      'A commit on a new branch changes nothing that others build on, but starts what listens to branches.',
    matches: (facts) => isForeseen(facts, 'github.git.createCommit'),
  },
  {
    name: 'open-pull-request',
    verdict: 'require_approval',
    tier: 'medium',
    reason: 'A pull request asks for the time of people; it merges nothing.',
    matches: (facts) => isForeseen(facts, 'github.pulls.create'),
  },
  {
    name: 'draft-release',
    verdict: 'require_approval',
    tier: 'medium',
    reason: 'A draft is seen by those who may write to the repository; a person publishes it.',
    matches: (facts) => isForeseen(facts, 'github.repos.createRelease'),
  },
  {
    name: 'reads',
    verdict: 'allow',
    tier: 'low',
    reason: 'Reading changes nothing.',
    matches: (facts) => facts.isRead === true,
  },
];

/** The answer when no rule speaks: unknown is high. */
const DEFAULT_RULE: Omit<Rule, 'matches'> = {
  name: 'default',
  verdict: 'require_approval',
  tier: 'high',
  reason: 'No rule knows this kind of action.',
};
const ERROR_RULE: Omit<Rule, 'matches'> = {
  name: 'error',
  verdict: 'deny',
  tier: 'high',
  reason: 'The action could not be judged.',
};

/** Raised by hand when a `matches` above changes its meaning, because code is not part of the hashed content. */
const RULES_EDITION = 2;

/**
 * Builds the policy for these people. Throws CONFIG_INVALID when they do not fit; the policy itself never throws.
 * The version changes with any rule or person, and with nothing else (the order of a list does not matter).
 */
export function firstPolicy(people: PolicyPeople): Policy {
  const parsed = parsePolicyPeople(people);
  const reviewers = distinct(parsed.reviewers);
  const requesters = parsed.requesters === 'members' ? 'members' : distinct(parsed.requesters);
  const version = `first-${contentHash({
    edition: RULES_EDITION,
    rules: [...RULES, DEFAULT_RULE, ERROR_RULE].map(({ name, verdict, tier, reason }) => ({
      name,
      verdict,
      tier,
      reason,
    })),
    people: { ...parsed, admins: distinct(parsed.admins), reviewers, requesters },
  })}`;

  const say = (rule: Omit<Rule, 'matches'>): Verdict => ({
    verdict: rule.verdict,
    tier: rule.tier,
    rule: rule.name,
    reasons: [rule.reason],
    policyVersion: version,
  });

  return Object.freeze({
    version,
    admins: parsed.admins,
    evaluate(facts: ActionFacts): Verdict {
      try {
        const matching = RULES.filter((rule) => rule.matches(facts));
        return say(matching.reduce<Rule | null>(stricter, null) ?? DEFAULT_RULE);
      } catch {
        return say(ERROR_RULE);
      }
    },
    reviewRule(): ReviewRule {
      return {
        reviewers,
        quorum: parsed.quorum,
        deadlineMs: Math.round(parsed.deadlineHours * HOUR_MS),
        requesterMayDecide: parsed.requesterMayDecide,
      };
    },
    eligibility(facts: PersonFacts, rule: ReviewRule, requester: Person): Eligibility {
      if (facts.known !== true) return { eligible: false, reason: 'unknown_person' };
      if (facts.isBot) return { eligible: false, reason: 'bot' };
      if (facts.isDeactivated) return { eligible: false, reason: 'deactivated' };
      if (facts.isExternal) return { eligible: false, reason: 'external' };
      if (facts.isGuest) return { eligible: false, reason: 'guest' };
      // Both the frozen rule and this policy must say so: a newer policy may take the right away, never hand it out.
      const requesterMayDecide = rule.requesterMayDecide && parsed.requesterMayDecide;
      // By the id alone, which is one person's in a whole organization: a task of an earlier release may name another team of theirs than Slack does.
      if (facts.userId === requester.userId && !requesterMayDecide)
        return { eligible: false, reason: 'requester' };
      if (!listed(rule.reviewers, facts) || !listed(reviewers, facts))
        return { eligible: false, reason: 'not_a_reviewer' };
      return { eligible: true };
    },
    mayRequest(facts: PersonFacts): boolean {
      if (facts.known !== true || facts.isBot || facts.isDeactivated || facts.isExternal || facts.isGuest)
        return false;
      return requesters === 'members' || listed(requesters, facts);
    },
  });
}

function isKnownKind(kind: string): kind is KnownKind {
  return Object.hasOwn(FORESEEN, kind);
}

/** True for an action of this kind that asks for nothing but what the rules were written for. */
function isForeseen(facts: ActionFacts, kind: KnownKind): boolean {
  const known: readonly string[] = FORESEEN[kind];
  const given = facts.arguments;
  if (facts.kind !== kind || !Object.keys(given).every((name) => known.includes(name))) return false;
  if (kind === 'github.issues.update') return given.state === 'closed';
  return kind !== 'github.repos.createRelease' || given.draft === true;
}

function labelsAreOurs({ arguments: { labels } }: ActionFacts): boolean {
  return (
    Array.isArray(labels) &&
    labels.length > 0 &&
    labels.every((label) => typeof label === 'string' && OWN_LABEL.test(label))
  );
}

/** The paths of a commit. Throws for what is not a list of files with paths: what cannot be judged is denied. */
function committedPaths({ arguments: { files } }: ActionFacts): readonly string[] {
  return filesSchema.parse(files).map(({ path }) => path);
}
const filesSchema = z.array(z.looseObject({ path: z.string() })).min(1);

/** What GitHub itself acts on. In any case of letters: some systems know no difference. */
function isSteering(path: string): boolean {
  return /(?:^|\/)(?:\.github(?:\/|$)|CODEOWNERS$)/i.test(path);
}

const VERDICTS: readonly Verdict['verdict'][] = ['allow', 'require_approval', 'deny'];

function strictness(rule: Rule): number {
  return VERDICTS.indexOf(rule.verdict) * RISK_TIERS.length + RISK_TIERS.indexOf(rule.tier);
}

/** Of two rules that match, the one that decides; the earlier one where they are equally strict. */
function stricter(first: Rule | null, second: Rule): Rule {
  return first !== null && strictness(first) >= strictness(second) ? first : second;
}

/** Measured here as well: a caller's smaller number must not carry large arguments past a reviewer. */
function argumentBytes(facts: ActionFacts): number {
  if (!Number.isSafeInteger(facts.argumentsBytes) || facts.argumentsBytes < 0)
    throw new CountersignError('TOOL_INPUT_INVALID', 'The size of the arguments is not a byte count.');
  return Math.max(facts.argumentsBytes, Buffer.byteLength(canonicalJson(facts.arguments), 'utf8'));
}

function same(one: Person, other: Person): boolean {
  return one.teamId === other.teamId && one.userId === other.userId;
}

function listed(people: readonly Person[], person: Person): boolean {
  return people.some((candidate) => same(candidate, person));
}

/** Each person once, in a fixed order. */
function distinct(people: readonly Person[]): { teamId: string; userId: string }[] {
  const byKey = new Map(
    people.map(({ teamId, userId }) => [`${teamId}/${userId}`, { teamId, userId }] as const),
  );
  return [...byKey].sort(([one], [other]) => (one < other ? -1 : 1)).map(([, person]) => person);
}

function contentHash(content: Parameters<typeof canonicalJson>[0]): string {
  return createHash('sha256').update(canonicalJson(content), 'utf8').digest('hex').slice(0, 12);
}
