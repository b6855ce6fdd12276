/** Lists the issues of a repository, without its pull requests. */
import { z } from 'zod';
import type { ReadTool } from '../../types.ts';
import { isPull, issueSchema, labelNames } from './github.issues.ts';
import {
  askGitHub,
  type GitHubAccess,
  inputSchemaOf,
  ownerSchema,
  parseAnswer,
  parseInput,
  repoSchema,
} from './github.ts';

/** One page, GitHub's largest. */
const PAGE_SIZE = 100;

const inputSchema = z.strictObject({
  owner: ownerSchema,
  repo: repoSchema,
  state: z.enum(['open', 'closed', 'all']).default('open'),
  sort: z
    .enum(['created', 'updated'])
    .default('created')
    .describe('With direction: which end of the list the page is.'),
  direction: z.enum(['asc', 'desc']).default('desc'),
  page: z.int().min(1).max(1000).default(1),
});

export function githubIssuesListForRepo(access: GitHubAccess): ReadTool {
  return {
    access: 'read',
    kind: 'github.issues.listForRepo',
    version: 1,
    description: `Lists issues with number, title, labels, author, days and number of comments, ${PAGE_SIZE} to a page; pull requests are left out. more says whether there is another page.`,
    inputSchema: inputSchemaOf(inputSchema),
    parse: (input) => parseInput(inputSchema, input),
    async read(input, context) {
      const { owner, repo, state, sort, direction, page } = parseInput(inputSchema, input);
      const data = await askGitHub(access, context, (client) =>
        client.rest.issues.listForRepo({ owner, repo, state, sort, direction, page, per_page: PAGE_SIZE }),
      );
      const listed = parseAnswer(z.array(issueSchema), data);
      return {
        more: listed.length === PAGE_SIZE,
        issues: listed
          .filter((issue) => !isPull(issue))
          .map((issue) => ({
            number: issue.number,
            title: issue.title,
            state: issue.state,
            labels: labelNames(issue),
            user: issue.user?.login ?? null,
            comments: issue.comments,
            created_at: issue.created_at,
            updated_at: issue.updated_at,
          })),
      };
    },
  };
}
