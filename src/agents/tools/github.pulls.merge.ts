/**
 * Merges one pull request.
 *
 * Invariant: what is merged is the head commit that was approved. GitHub compares it itself (`sha` of the merge
 * call); base branch and state it cannot compare, so the executor looks at them right before.
 */
import { z } from 'zod';
import { CountersignError } from '../../errors.ts';
import type { Json, Precondition, ReadContext, Reconciliation, WriteTool } from '../../types.ts';
import { listChecks } from './github.checks.listForRef.ts';
import {
  askGitHub,
  type Comparison,
  comparisonSchema,
  count,
  failureOf,
  GITHUB_TIMEOUT_MS,
  type GitHubAccess,
  inputSchemaOf,
  ownerSchema,
  type Pull,
  parseAnswer,
  parseInput,
  pullNumberSchema,
  pullSchema,
  repoSchema,
  shaSchema,
  writeError,
} from './github.ts';

const inputSchema = z.strictObject({
  owner: ownerSchema,
  repo: repoSchema,
  pull_number: pullNumberSchema,
  merge_method: z
    .enum(['merge', 'squash', 'rebase'])
    .default('merge')
    .describe('How to merge. Default merge.'),
});
type MergeInput = z.infer<typeof inputSchema>;

const mergedSchema = z.looseObject({ merged: z.literal(true), sha: shaSchema });

/** GitHub lists no more files than this in a comparison. */
const MAX_LISTED_FILES = 300;

export function githubPullsMerge(access: GitHubAccess): WriteTool {
  const readPull = async (input: MergeInput, context: ReadContext): Promise<Pull> => {
    const { owner, repo, pull_number } = input;
    const data = await askGitHub(access, context, (client) =>
      client.rest.pulls.get({ owner, repo, pull_number }),
    );
    return parseAnswer(pullSchema, data);
  };

  return {
    access: 'write',
    kind: 'github.pulls.merge',
    version: 1,
    description:
      'Proposes to merge one pull request into its base branch. A person decides; exactly the head commit they saw is merged. Read the pull request, its diff and its checks first.',
    inputSchema: inputSchemaOf(inputSchema),
    effectClass: 'checkable',
    requestTimeoutMs: GITHUB_TIMEOUT_MS,
    credential: access.credential,
    parse: (input) => parseInput(inputSchema, input),

    async target(raw, context) {
      const input = parseInput(inputSchema, raw);
      const pull = await readPull(input, context);
      const { owner, repo } = input;
      // By commit, not by name: a branch that moves between the two reads must not show another diff.
      const basehead = `${pull.base.sha}...${pull.head.sha}`;
      const [data, checks] = await Promise.all([
        askGitHub(access, context, (client) =>
          client.rest.repos.compareCommitsWithBasehead({ owner, repo, basehead }),
        ),
        checksOf(access, input, pull, context),
      ]);
      const comparison = parseAnswer(comparisonSchema, data);
      return {
        ...(pull.state === 'open'
          ? {}
          : { refusal: `Pull request ${pull.number} is ${pull.merged ? 'merged' : 'closed'}.` }),
        evidence: [checks],
        preconditions: preconditionsOf(pull),
        title: `merge pull request ${pull.number} into ${pull.base.ref}`,
        facts: factsOf(input, pull, comparison),
        body: diffText(comparison, pull),
      };
    },

    async execute(raw, preconditions, context) {
      const input = parseInput(inputSchema, raw);
      const { owner, repo, pull_number, merge_method } = input;
      const sha = approvedHead(preconditions);
      if (sha === null)
        throw new CountersignError('TOOL_REFUSED', 'No head commit was approved; nothing was merged.');

      let data: unknown;
      try {
        data = await askGitHub(access, context, (client) =>
          client.rest.pulls.merge({ owner, repo, pull_number, merge_method, sha }),
        );
      } catch (error) {
        throw await mergeError(error, () => readPull(input, context), preconditions);
      }
      const merged = mergedSchema.safeParse(data);
      if (!merged.success)
        throw new CountersignError('TOOL_FAILED', 'GitHub answered a merge without saying that it merged.');
      return { merged: true, sha: merged.data.sha, head_sha: sha };
    },

    async reconcile(raw, preconditions, context): Promise<Reconciliation> {
      const pull = await readPull(parseInput(inputSchema, raw), context);
      const head = approvedHead(preconditions);
      if (pull.state === 'open' && !pull.merged) return { outcome: 'absent' };
      const asApproved = head !== null && drift(preconditions, pull, ['/state']).length === 0;
      if (!pull.merged || !asApproved || pull.merge_commit_sha === null) return { outcome: 'unknowable' };
      return {
        outcome: 'applied',
        receipt: { merged: true, sha: pull.merge_commit_sha, head_sha: head },
      };
    },

    describeReceipt(raw, receipt) {
      const { pull_number } = parseInput(inputSchema, raw);
      const sha = shaSchema.safeParse(receipt.sha);
      return sha.success
        ? `Merged pull request ${pull_number} as ${sha.data.slice(0, 12)}.`
        : `Merged pull request ${pull_number}.`;
    },
  };
}

/** The checks of the head commit as GitHub has them now. A reviewer should read this from us, not from the agent. */
async function checksOf(
  access: GitHubAccess,
  { owner, repo }: MergeInput,
  pull: Pull,
  context: ReadContext,
): Promise<{ label: string; value: string; source: string }> {
  const found = { label: `checks at ${pull.head.sha.slice(0, 7)}`, source: 'github.checks.listForRef' };
  try {
    const { total_count, check_runs } = await listChecks(
      access,
      { owner, repo, ref: pull.head.sha },
      context,
    );
    if (total_count === 0) return { ...found, value: 'none ran' };
    const rest = check_runs.filter(({ conclusion }) => conclusion === null || !PASSING.has(conclusion));
    const named = rest.map(({ name, status, conclusion }) => `${name}: ${conclusion ?? status}`);
    return {
      ...found,
      value: [`${check_runs.length - rest.length} of ${total_count} passed`, ...named].join(', '),
    };
  } catch (error) {
    if (context.signal.aborted) throw error;
    // The right to read checks may be missing, or GitHub is slow: the reviewer is told, and decides.
    return { ...found, value: 'could not be read' };
  }
}

/** Conclusions GitHub itself lets a required check pass with: docs.github.com "About protected branches". */
const PASSING: ReadonlySet<string> = new Set(['success', 'neutral', 'skipped']);

/** Only what changes the meaning of "merge this": the commit, where it goes, and that it is still to be merged. */
function preconditionsOf(pull: Pull): Precondition[] {
  return [
    { path: '/state', expected: pull.state },
    { path: '/head/sha', expected: pull.head.sha },
    { path: '/base/ref', expected: pull.base.ref },
  ];
}

function approvedHead(preconditions: readonly Precondition[]): string | null {
  const sha = shaSchema.safeParse(preconditions.find(({ path }) => path === '/head/sha')?.expected);
  return sha.success ? sha.data : null;
}

/** The paths that no longer hold, leaving out `except`. */
function drift(
  preconditions: readonly Precondition[],
  pull: Pull,
  except: readonly string[] = [],
): readonly string[] {
  const now = new Map<string, Json>(preconditionsOf(pull).map(({ path, expected }) => [path, expected]));
  return preconditions
    .filter(({ path, expected }) => !except.includes(path) && now.get(path) !== expected)
    .map(({ path }) => path);
}

/**
 * 409 is GitHub's refused compare. 405 and 422 say only "not mergeable", so one more look tells whether that is
 * because what was approved no longer stands. Everything else means what it means for any write.
 */
async function mergeError(
  error: unknown,
  lookAgain: () => Promise<Pull>,
  preconditions: readonly Precondition[],
): Promise<unknown> {
  const failure = failureOf(error);
  const words = `GitHub answered ${failure?.status}: ${failure?.message}`;
  if (failure?.status === 409) return new CountersignError('PRECONDITION_CHANGED', words, { cause: error });
  if (failure?.status === 405 || failure?.status === 422) {
    const changed = await lookAgain().then(
      (pull) => drift(preconditions, pull),
      () => [],
    );
    if (changed.length > 0)
      return new CountersignError('PRECONDITION_CHANGED', `${words} (${changed.join(', ')} changed)`, {
        cause: error,
      });
  }
  return writeError(error);
}

function factsOf(input: MergeInput, pull: Pull, comparison: Comparison) {
  const files = Math.max(pull.changed_files, comparison.files.length);
  const facts = [
    { label: 'Pull request', value: pull.title },
    { label: 'Repository', value: `${input.owner}/${input.repo}` },
    { label: 'Head', value: `${pull.head.ref} at ${pull.head.sha.slice(0, 12)}` },
    { label: 'Base', value: pull.base.ref },
    {
      label: 'Changes',
      value: `${count(files, 'file')} (+${pull.additions} −${pull.deletions}), ${count(comparison.total_commits, 'commit')}`,
    },
    { label: 'Method', value: input.merge_method },
    { label: 'Author', value: pull.user?.login ?? 'unknown' },
  ];
  if (pull.state !== 'open')
    facts.push({ label: 'State', value: pull.merged ? 'already merged' : pull.state });
  if (pull.draft) facts.push({ label: 'State', value: 'draft' });
  if (pull.mergeable === false) facts.push({ label: 'Mergeable', value: 'no' });
  return facts;
}

/** The whole diff as GitHub gives it; what it leaves out is said, because a reviewer must know what they did not see. */
function diffText(comparison: Comparison, pull: Pull): string {
  const parts = comparison.files.map((file) => {
    const from = file.previous_filename === undefined ? '' : ` (was ${file.previous_filename})`;
    const head = `${file.status} ${file.filename}${from} +${file.additions} −${file.deletions}`;
    return `${head}\n${file.patch ?? '[no diff shown: a binary file, a mere rename, or a change too large for GitHub to show]'}`;
  });
  const listed = comparison.files.length;
  if (listed < pull.changed_files || listed >= MAX_LISTED_FILES)
    parts.unshift(
      `[GitHub lists ${listed} of ${pull.changed_files} changed files; the rest is not shown here]`,
    );
  return parts.length === 0 ? '[no changed files]' : parts.join('\n\n');
}
