/** What the tools around issues share: how an issue and its comments are read, and what of them counts. */
import { z } from 'zod';
import { CountersignError } from '../../errors.ts';
import type { ReadContext } from '../../types.ts';
import { askGitHub, findOnGitHub, type GitHubAccess, parseAnswer } from './github.ts';

export const issueSchema = z.looseObject({
  number: z.int(),
  title: z.string(),
  state: z.string(),
  locked: z.boolean().default(false),
  body: z.string().nullable().default(null),
  comments: z.int().min(0).default(0),
  created_at: z.string(),
  updated_at: z.string(),
  closed_at: z.string().nullable().default(null),
  html_url: z.string().default(''),
  user: z.looseObject({ login: z.string() }).nullable().default(null),
  // GitHub also knows labels that are mere names.
  labels: z
    .array(z.union([z.string(), z.looseObject({ name: z.string().nullable().optional() })]))
    .default([]),
  pull_request: z.unknown().optional(),
});
export type Issue = z.infer<typeof issueSchema>;

export const commentSchema = z.looseObject({
  id: z.int(),
  body: z.string().nullable().default(null),
  created_at: z.string(),
  html_url: z.string().default(''),
  user: z.looseObject({ login: z.string() }).nullable().default(null),
});
export type IssueComment = z.infer<typeof commentSchema>;

export interface RepoRef {
  readonly owner: string;
  readonly repo: string;
}

/** Pages of comments looked through for one, newest first: 300 comments. */
const COMMENT_PAGES = 3;
export const COMMENTS_PER_PAGE = 100;

/** One issue, or a pull request seen as one. Throws TOOL_REFUSED when there is none. */
export async function readIssue(
  access: GitHubAccess,
  { owner, repo }: RepoRef,
  issue_number: number,
  context: ReadContext,
): Promise<Issue> {
  const data = await findOnGitHub(access, context, (client) =>
    client.rest.issues.get({ owner, repo, issue_number }),
  );
  if (data === null)
    throw new CountersignError('TOOL_REFUSED', `There is no issue ${issue_number} in ${owner}/${repo}.`);
  const issue = parseAnswer(issueSchema, data);
  // GitHub sends a moved issue's new self: another number, maybe another repository.
  if (issue.number !== issue_number)
    throw new CountersignError('TOOL_REFUSED', `Issue ${issue_number} in ${owner}/${repo} was moved.`);
  return issue;
}

/** The newest comments of an issue, newest first, at most 300. */
export async function newestComments(
  access: GitHubAccess,
  repo: RepoRef,
  issue: Issue,
  context: ReadContext,
): Promise<readonly IssueComment[]> {
  const last = Math.max(1, Math.ceil(issue.comments / COMMENTS_PER_PAGE));
  const pages = [];
  // One page further than the count says: it may have been taken before the newest comment came.
  for (let page = last + 1; page >= Math.max(1, last - COMMENT_PAGES + 1); page -= 1)
    pages.push(commentPage(access, repo, issue.number, page, COMMENTS_PER_PAGE, context));
  return (await Promise.all(pages)).flat().sort((one, other) => other.id - one.id);
}

/** The id of the newest comment; null when nobody has commented. */
export async function newestCommentId(
  access: GitHubAccess,
  repo: RepoRef,
  issue: Issue,
  context: ReadContext,
): Promise<number | null> {
  if (issue.comments === 0) return null;
  const [comment] = await commentPage(access, repo, issue.number, issue.comments, 1, context);
  return comment?.id ?? null;
}

export async function commentPage(
  access: GitHubAccess,
  { owner, repo }: RepoRef,
  issue_number: number,
  page: number,
  per_page: number,
  context: ReadContext,
): Promise<IssueComment[]> {
  const data = await askGitHub(access, context, (client) =>
    client.rest.issues.listComments({ owner, repo, issue_number, page, per_page }),
  );
  return parseAnswer(z.array(commentSchema), data);
}

export function labelNames(issue: Issue): string[] {
  return issue.labels.flatMap((label) => (typeof label === 'string' ? [label] : [label.name ?? []])).flat();
}

export function isPull(issue: Issue): boolean {
  return issue.pull_request !== undefined && issue.pull_request !== null;
}

/** `2026-03-01`: a day says enough, and nothing of the reader's zone. */
export function day(instant: string): string {
  return instant.slice(0, 10);
}
