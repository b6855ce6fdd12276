/** Reads one issue. */
import { z } from 'zod';
import type { ReadTool } from '../../types.ts';
import { isPull, labelNames, readIssue } from './github.issues.ts';
import {
  type GitHubAccess,
  inputSchemaOf,
  issueNumberSchema,
  ownerSchema,
  parseInput,
  repoSchema,
} from './github.ts';

const inputSchema = z.strictObject({ owner: ownerSchema, repo: repoSchema, issue_number: issueNumberSchema });

export function githubIssuesGet(access: GitHubAccess): ReadTool {
  return {
    access: 'read',
    kind: 'github.issues.get',
    version: 1,
    description: 'Reads one issue: title, description, state, labels, author, days, number of comments.',
    inputSchema: inputSchemaOf(inputSchema),
    parse: (input) => parseInput(inputSchema, input),
    async read(input, context) {
      const { issue_number, ...repo } = parseInput(inputSchema, input);
      const issue = await readIssue(access, repo, issue_number, context);
      return {
        number: issue.number,
        title: issue.title,
        state: issue.state,
        locked: issue.locked,
        is_pull_request: isPull(issue),
        labels: labelNames(issue),
        user: issue.user?.login ?? null,
        body: issue.body,
        comments: issue.comments,
        created_at: issue.created_at,
        updated_at: issue.updated_at,
      };
    },
  };
}
