/** Lists commits of a branch, newest first. */
import { z } from 'zod';
import type { ReadTool } from '../../types.ts';
import {
  askGitHub,
  type GitHubAccess,
  inputSchemaOf,
  ownerSchema,
  parseAnswer,
  parseInput,
  refSchema,
  repoSchema,
  shaSchema,
} from './github.ts';

const inputSchema = z.strictObject({
  owner: ownerSchema,
  repo: repoSchema,
  sha: refSchema.exactOptional().describe('Branch, tag or commit to begin at. Default: the default branch.'),
  per_page: z.int().min(1).max(100).default(30),
  page: z.int().min(1).max(1000).default(1),
});

const answerSchema = z.array(
  z.looseObject({
    sha: shaSchema,
    commit: z.looseObject({
      message: z.string(),
      author: z
        .looseObject({ name: z.string().optional(), date: z.string().optional() })
        .nullable()
        .default(null),
    }),
    author: z.looseObject({ login: z.string().optional() }).nullable().optional(),
  }),
);

export function githubReposListCommits(access: GitHubAccess): ReadTool {
  return {
    access: 'read',
    kind: 'github.repos.listCommits',
    version: 1,
    description:
      'Lists commits, newest first, with sha, message, author and date. The first one is the tip of the branch: read files and checks at its sha.',
    inputSchema: inputSchemaOf(inputSchema),
    parse: (input) => parseInput(inputSchema, input),
    async read(input, context) {
      const { owner, repo, sha, per_page, page } = parseInput(inputSchema, input);
      const data = await askGitHub(access, context, (client) =>
        client.rest.repos.listCommits({ owner, repo, per_page, page, ...(sha === undefined ? {} : { sha }) }),
      );
      return {
        commits: parseAnswer(answerSchema, data).map(({ sha: id, commit, author }) => ({
          sha: id,
          message: commit.message,
          author: author?.login ?? commit.author?.name ?? null,
          date: commit.author?.date ?? null,
        })),
      };
    },
  };
}
