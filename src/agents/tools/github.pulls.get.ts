/** Reads one pull request. */
import { z } from 'zod';
import type { ReadTool } from '../../types.ts';
import {
  askGitHub,
  type GitHubAccess,
  inputSchemaOf,
  ownerSchema,
  parseAnswer,
  parseInput,
  pullNumberSchema,
  pullSchema,
  repoSchema,
} from './github.ts';

const inputSchema = z.strictObject({ owner: ownerSchema, repo: repoSchema, pull_number: pullNumberSchema });

export function githubPullsGet(access: GitHubAccess): ReadTool {
  return {
    access: 'read',
    kind: 'github.pulls.get',
    version: 1,
    description:
      'Reads one pull request: title, description, state, draft and merged flags, whether it can be merged, head and base with their commits, and the size of the change.',
    inputSchema: inputSchemaOf(inputSchema),
    parse: (input) => parseInput(inputSchema, input),
    async read(input, context) {
      const { owner, repo, pull_number } = parseInput(inputSchema, input);
      const data = await askGitHub(access, context, (client) =>
        client.rest.pulls.get({ owner, repo, pull_number }),
      );
      const pull = parseAnswer(pullSchema, data);
      return {
        number: pull.number,
        title: pull.title,
        state: pull.state,
        draft: pull.draft,
        merged: pull.merged,
        mergeable: pull.mergeable,
        head: { ref: pull.head.ref, sha: pull.head.sha },
        base: { ref: pull.base.ref, sha: pull.base.sha },
        user: pull.user?.login ?? null,
        body: pull.body,
        changed_files: pull.changed_files,
        additions: pull.additions,
        deletions: pull.deletions,
      };
    },
  };
}
