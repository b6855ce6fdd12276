/**
 * Comments on one issue or pull request.
 *
 * Invariant: the same words never stand twice among the newest comments because of us. The tool refuses what stands there already,
 * so after a lost answer finding the words means that they arrived. Whose they are need not be asked: nobody else knew them.
 */
import { z } from 'zod';
import { CountersignError } from '../../errors.ts';
import type { Reconciliation, WriteTool } from '../../types.ts';
import {
  commentSchema,
  type IssueComment,
  isPull,
  labelNames,
  newestComments,
  readIssue,
} from './github.issues.ts';
import {
  askGitHub,
  GITHUB_TIMEOUT_MS,
  type GitHubAccess,
  inputSchemaOf,
  issueNumberSchema,
  ownerSchema,
  parseInput,
  repoSchema,
  textSchema,
  writeError,
} from './github.ts';

/** GitHub takes 65,536 characters; a reviewer should not have to. */
const MAX_BODY_LENGTH = 10_000;

const inputSchema = z.strictObject({
  owner: ownerSchema,
  repo: repoSchema,
  issue_number: issueNumberSchema.describe('Number of the issue or pull request.'),
  body: textSchema(MAX_BODY_LENGTH).describe('The comment, in Markdown.'),
});

export function githubIssuesCreateComment(access: GitHubAccess): WriteTool {
  return {
    access: 'write',
    kind: 'github.issues.createComment',
    version: 1,
    description: 'Proposes one comment on an issue or pull request. A person decides on exactly these words.',
    inputSchema: inputSchemaOf(inputSchema),
    effectClass: 'checkable',
    requestTimeoutMs: GITHUB_TIMEOUT_MS,
    credential: access.credential,
    parse: (input) => parseInput(inputSchema, input),

    async target(raw, context) {
      const { issue_number, body, ...repo } = parseInput(inputSchema, raw);
      const issue = await readIssue(access, repo, issue_number, context);
      const comments = await newestComments(access, repo, issue, context);
      const noun = isPull(issue) ? 'pull request' : 'issue';
      const refusal = issue.locked
        ? `The ${noun} is locked; nobody can comment on it.`
        : same(comments, body) !== undefined
          ? `Exactly this comment stands on the ${noun} already.`
          : null;
      const newest = comments[0];
      return {
        ...(refusal === null ? {} : { refusal }),
        preconditions: [
          { path: '/number', expected: issue.number },
          { path: '/locked', expected: issue.locked },
        ],
        title: `comment on ${noun} ${issue_number}`,
        facts: [
          { label: isPull(issue) ? 'Pull request' : 'Issue', value: issue.title },
          { label: 'Repository', value: `${repo.owner}/${repo.repo}` },
          { label: 'State', value: issue.state },
          { label: 'Opened by', value: issue.user?.login ?? 'unknown' },
          { label: 'Labels', value: labelNames(issue).join(' · ') || 'none' },
          {
            label: 'Last comment',
            value: newest ? `${newest.user?.login ?? 'unknown'}, ${newest.created_at}` : 'none',
          },
        ],
        body: issue.body ?? '',
      };
    },

    async execute(raw, _preconditions, context) {
      const { owner, repo, issue_number, body } = parseInput(inputSchema, raw);
      let data: unknown;
      try {
        data = await askGitHub(access, context, (client) =>
          client.rest.issues.createComment({ owner, repo, issue_number, body }),
        );
      } catch (error) {
        throw writeError(error);
      }
      const made = commentSchema.safeParse(data);
      if (!made.success)
        throw new CountersignError('TOOL_FAILED', 'GitHub took a comment without saying which it became.');
      return receiptOf(made.data);
    },

    async reconcile(raw, _preconditions, context): Promise<Reconciliation> {
      const { issue_number, body, ...repo } = parseInput(inputSchema, raw);
      const issue = await readIssue(access, repo, issue_number, context);
      const found = same(await newestComments(access, repo, issue, context), body);
      return found === undefined ? { outcome: 'absent' } : { outcome: 'applied', receipt: receiptOf(found) };
    },

    describeReceipt(raw) {
      return `Commented on ${parseInput(inputSchema, raw).issue_number}.`;
    },
  };
}

function receiptOf({ id, html_url }: IssueComment) {
  return { comment_id: id, url: html_url };
}

/** GitHub keeps the words but for how lines end and what is blank around them. */
function same(comments: readonly IssueComment[], body: string): IssueComment | undefined {
  const plain = (text: string) => text.replaceAll('\r\n', '\n').trim();
  return comments.find((comment) => comment.body !== null && plain(comment.body) === plain(body));
}
