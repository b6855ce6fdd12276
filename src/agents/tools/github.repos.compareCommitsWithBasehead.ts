/** Reads what one commit has that another has not: the diff of a pull request. */
import { z } from 'zod';
import type { ReadTool } from '../../types.ts';
import {
  askGitHub,
  comparisonSchema,
  type GitHubAccess,
  inputSchemaOf,
  ownerSchema,
  parseAnswer,
  parseInput,
  REF_PATTERN,
  repoSchema,
} from './github.ts';

const inputSchema = z.strictObject({
  owner: ownerSchema,
  repo: repoSchema,
  basehead: z
    .string()
    .regex(new RegExp(`^${REF_PATTERN}\\.\\.\\.${REF_PATTERN}$`), 'must be base...head in plain ASCII')
    .describe('base...head, each a branch, tag or commit: main...feature.'),
});

export function githubReposCompare(access: GitHubAccess): ReadTool {
  return {
    access: 'read',
    kind: 'github.repos.compareCommitsWithBasehead',
    version: 1,
    description:
      'Compares two commits, branches or tags and returns the changed files with their patches: for a pull request, use its base sha and head sha. At most 300 files are listed; a file without a patch is binary or too large.',
    inputSchema: inputSchemaOf(inputSchema),
    parse: (input) => parseInput(inputSchema, input),
    async read(input, context) {
      const { owner, repo, basehead } = parseInput(inputSchema, input);
      const data = await askGitHub(access, context, (client) =>
        client.rest.repos.compareCommitsWithBasehead({ owner, repo, basehead }),
      );
      const comparison = parseAnswer(comparisonSchema, data);
      return {
        ahead_by: comparison.ahead_by,
        behind_by: comparison.behind_by,
        total_commits: comparison.total_commits,
        files: comparison.files.map(({ filename, status, additions, deletions, patch }) => ({
          filename,
          status,
          additions,
          deletions,
          patch: patch ?? null,
        })),
      };
    },
  };
}
