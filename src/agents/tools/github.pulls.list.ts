/** Lists the pull requests of a repository. */
import { z } from 'zod';
import type { ReadTool } from '../../types.ts';
import {
  askGitHub,
  type GitHubAccess,
  inputSchemaOf,
  ownerSchema,
  parseAnswer,
  parseInput,
  pullSchema,
  repoSchema,
} from './github.ts';

const PAGE_SIZE = 100;

const inputSchema = z.strictObject({
  owner: ownerSchema,
  repo: repoSchema,
  state: z.enum(['open', 'closed', 'all']).default('open'),
});

export function githubPullsList(access: GitHubAccess): ReadTool {
  return {
    access: 'read',
    kind: 'github.pulls.list',
    version: 1,
    description: `Lists pull requests, newest first, at most ${PAGE_SIZE}, with number, title, state, author, head and base.`,
    inputSchema: inputSchemaOf(inputSchema),
    parse: (input) => parseInput(inputSchema, input),
    async read(input, context) {
      const { owner, repo, state } = parseInput(inputSchema, input);
      const data = await askGitHub(access, context, (client) =>
        client.rest.pulls.list({ owner, repo, state, per_page: PAGE_SIZE }),
      );
      return {
        pulls: parseAnswer(z.array(pullSchema), data).map((pull) => ({
          number: pull.number,
          title: pull.title,
          state: pull.state,
          draft: pull.draft,
          user: pull.user?.login ?? null,
          head: { ref: pull.head.ref, sha: pull.head.sha },
          base: { ref: pull.base.ref, sha: pull.base.sha },
        })),
      };
    },
  };
}
