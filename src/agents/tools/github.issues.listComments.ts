/** Reads the comments of one issue. */
import { z } from 'zod';
import type { ReadTool } from '../../types.ts';
import { COMMENTS_PER_PAGE, commentPage } from './github.issues.ts';
import {
  type GitHubAccess,
  inputSchemaOf,
  issueNumberSchema,
  ownerSchema,
  parseInput,
  repoSchema,
} from './github.ts';

const inputSchema = z.strictObject({
  owner: ownerSchema,
  repo: repoSchema,
  issue_number: issueNumberSchema,
  page: z.int().min(1).max(1000).default(1),
});

export function githubIssuesListComments(access: GitHubAccess): ReadTool {
  return {
    access: 'read',
    kind: 'github.issues.listComments',
    version: 1,
    description: `Lists the comments of an issue or pull request, oldest first, ${COMMENTS_PER_PAGE} to a page; more says whether there is another page.`,
    inputSchema: inputSchemaOf(inputSchema),
    parse: (input) => parseInput(inputSchema, input),
    async read(input, context) {
      const { issue_number, page, ...repo } = parseInput(inputSchema, input);
      const comments = await commentPage(access, repo, issue_number, page, COMMENTS_PER_PAGE, context);
      return {
        more: comments.length === COMMENTS_PER_PAGE,
        comments: comments.map(({ id, body, created_at, user }) => ({
          id,
          body,
          created_at,
          user: user?.login ?? null,
        })),
      };
    },
  };
}
