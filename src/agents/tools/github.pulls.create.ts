/**
 * Opens one pull request between two branches of one repository.
 *
 * Invariant: what is proposed to be merged is the head commit that was approved; and a pull request is opened once. Those that were there
 * before are part of what was approved, so after a lost answer a newer one with these words is ours.
 */
import { z } from 'zod';
import { CountersignError } from '../../errors.ts';
import type { Precondition, ReadContext, Reconciliation, WriteTool } from '../../types.ts';
import {
  askGitHub,
  branchSchema,
  comparisonSchema,
  count,
  failureOf,
  findOnGitHub,
  GITHUB_TIMEOUT_MS,
  type GitHubAccess,
  inputSchemaOf,
  lineSchema,
  ownerSchema,
  type Pull,
  parseAnswer,
  parseInput,
  pullSchema,
  repoSchema,
  shaSchema,
  textSchema,
  writeError,
} from './github.ts';

const inputSchema = z.strictObject({
  owner: ownerSchema,
  repo: repoSchema,
  head: branchSchema.describe('The branch with the change, in the same repository.'),
  base: branchSchema.describe('The branch it should go into.'),
  title: lineSchema(200),
  body: textSchema(10_000).describe('What it changes and why, in Markdown.'),
  draft: z.boolean().default(false),
});
type PullInput = z.infer<typeof inputSchema>;

const refAnswer = z.looseObject({ object: z.looseObject({ sha: shaSchema }) });

export function githubPullsCreate(access: GitHubAccess): WriteTool {
  const tipOf = async ({ owner, repo }: PullInput, branch: string, context: ReadContext) => {
    const data = await findOnGitHub(access, context, (client) =>
      client.rest.git.getRef({ owner, repo, ref: `heads/${branch}` }),
    );
    return data === null ? null : parseAnswer(refAnswer, data).object.sha;
  };
  /** Pull requests from this head into this base, in any state, newest first. */
  const between = async (input: PullInput, context: ReadContext): Promise<Pull[]> => {
    const { owner, repo, head, base } = input;
    const data = await askGitHub(access, context, (client) =>
      client.rest.pulls.list({ owner, repo, head: `${owner}:${head}`, base, state: 'all', per_page: 100 }),
    );
    return (
      parseAnswer(z.array(pullSchema), data)
        // A filter that a server does not know returns everything.
        .filter((pull) => pull.head.ref === head && pull.base.ref === base)
        .sort((one, other) => other.number - one.number)
    );
  };
  const look = async (input: PullInput, context: ReadContext) => {
    const [headSha, baseSha, pulls] = await Promise.all([
      tipOf(input, input.head, context),
      tipOf(input, input.base, context),
      between(input, context),
    ]);
    const preconditions: Precondition[] = [
      { path: '/head/sha', expected: headSha },
      { path: '/base/exists', expected: baseSha !== null },
      { path: NEWEST, expected: pulls[0]?.number ?? null },
    ];
    return { headSha, baseSha, pulls, preconditions };
  };

  return {
    access: 'write',
    kind: 'github.pulls.create',
    version: 1,
    description:
      'Proposes to open one pull request from a branch into another of the same repository. A person decides. It merges nothing.',
    inputSchema: inputSchemaOf(inputSchema),
    effectClass: 'checkable',
    requestTimeoutMs: GITHUB_TIMEOUT_MS,
    credential: access.credential,
    parse: (input) => parseInput(inputSchema, input),

    async target(raw, context) {
      const input = parseInput(inputSchema, raw);
      const { owner, repo, head, base } = input;
      const { headSha, baseSha, pulls, preconditions } = await look(input, context);
      const open = pulls.find(({ state }) => state === 'open');
      const title = `open a pull request from ${head} into ${base}`;
      if (headSha === null || baseSha === null)
        return {
          refusal: `There is no branch ${headSha === null ? head : base} in ${owner}/${repo}.`,
          preconditions,
          title,
          facts: [],
        };
      // By commit, not by name: what is shown is what is bound.
      const compared = parseAnswer(
        comparisonSchema,
        await askGitHub(access, context, (client) =>
          client.rest.repos.compareCommitsWithBasehead({ owner, repo, basehead: `${baseSha}...${headSha}` }),
        ),
      );
      const refusal =
        open !== undefined
          ? `Pull request ${open.number} from ${head} into ${base} is open already.`
          : compared.ahead_by === 0
            ? `${head} holds nothing that ${base} does not.`
            : null;
      return {
        ...(refusal === null ? {} : { refusal }),
        preconditions,
        title,
        facts: [
          { label: 'Title', value: input.title },
          { label: 'Repository', value: `${owner}/${repo}` },
          { label: 'Head', value: `${head} at ${headSha}` },
          {
            label: 'Changes',
            value: `${count(compared.files.length, 'file')}, ${count(compared.total_commits, 'commit')}`,
          },
          ...(compared.behind_by === 0
            ? []
            : [{ label: 'Behind', value: count(compared.behind_by, 'commit') }]),
        ],
        body: compared.files
          .map(
            (file) =>
              `${file.status} ${file.filename} +${file.additions} −${file.deletions}\n${file.patch ?? '[no diff shown]'}`,
          )
          .join('\n\n'),
      };
    },

    async execute(raw, preconditions, context) {
      const input = parseInput(inputSchema, raw);
      const { owner, repo, head, base, title, body, draft } = input;
      let data: unknown;
      try {
        data = await askGitHub(access, context, (client) =>
          client.rest.pulls.create({ owner, repo, head, base, title, body, draft }),
        );
      } catch (error) {
        // 422 stands for everything that does not fit; one more look tells whether that is because something changed.
        if (failureOf(error)?.status === 422) {
          const now = await look(input, context).catch(() => null);
          if (now !== null && JSON.stringify(now.preconditions) !== JSON.stringify(preconditions))
            throw new CountersignError(
              'PRECONDITION_CHANGED',
              'The branches or their pull requests changed.',
              {
                cause: error,
              },
            );
        }
        throw writeError(error);
      }
      const opened = pullSchema.safeParse(data);
      if (!opened.success)
        throw new CountersignError('TOOL_FAILED', 'GitHub opened a pull request without saying which.');
      return receiptOf(opened.data);
    },

    async reconcile(raw, preconditions, context): Promise<Reconciliation> {
      const input = parseInput(inputSchema, raw);
      const before = preconditions.find(({ path }) => path === NEWEST)?.expected ?? null;
      const newer = (await between(input, context)).filter(
        ({ number }) => typeof before !== 'number' || number > before,
      );
      if (newer.length === 0) return { outcome: 'absent' };
      const ours = newer.find((pull) => pull.title === input.title && plain(pull.body) === plain(input.body));
      return ours === undefined
        ? { outcome: 'unknowable' }
        : { outcome: 'applied', receipt: receiptOf(ours) };
    },

    describeReceipt(raw, receipt) {
      const { head, base } = parseInput(inputSchema, raw);
      const number = z.int().safeParse(receipt.pull_number);
      return `Opened pull request ${number.success ? `${number.data} ` : ''}from ${head} into ${base}.`;
    },
  };
}

const NEWEST = '/newest_pull';

function receiptOf(pull: Pull) {
  return { pull_number: pull.number, head_sha: pull.head.sha };
}

function plain(text: string | null): string {
  return (text ?? '').replaceAll('\r\n', '\n').trim();
}
