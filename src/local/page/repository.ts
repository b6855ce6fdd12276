/**
 * The local repository as the page shows it beside the conversation, read over GitHub's own REST API, so that an effect is seen where
 * it happened: a summary of everything, and one pull request or issue in depth.
 *
 * Invariant: reads only. What GitHub holds is passed on as data; the browser makes text nodes of it.
 */
import type { Json } from '../slack/types.ts';

export const SHOWN_REPOSITORY = 'acme/shop';
const TIMEOUT_MS = 3_000;
/** A diff of this many characters per file is shown; the rest is counted. */
const PATCH_CHARS_SHOWN = 20_000;

export interface GitHubPlace {
  readonly apiUrl: string;
  readonly token: string;
}

interface Labelled {
  readonly name?: string;
  readonly color?: string;
}
interface IssueRow {
  readonly number: number;
  readonly title: string;
  readonly state: string;
  readonly body?: string | null;
  readonly user?: { readonly login?: string } | null;
  readonly labels?: readonly (Labelled | string)[];
  readonly comments?: number;
  readonly created_at?: string;
  readonly closed_at?: string | null;
  readonly pull_request?: unknown;
}
interface PullRow extends IssueRow {
  readonly draft?: boolean;
  readonly merged_at?: string | null;
  readonly merge_commit_sha?: string | null;
  readonly head?: { readonly ref?: string; readonly sha?: string };
  readonly base?: { readonly ref?: string };
}
interface BranchRow {
  readonly name: string;
  readonly commit?: { readonly sha?: string };
}
interface CommitRow {
  readonly sha: string;
  readonly commit?: {
    readonly message?: string;
    readonly author?: { readonly date?: string; readonly name?: string };
  };
}
interface ReleaseRow {
  readonly id: number;
  readonly name?: string | null;
  readonly tag_name?: string;
  readonly draft?: boolean;
  readonly body?: string | null;
}
interface FileRow {
  readonly filename: string;
  readonly status: string;
  readonly additions: number;
  readonly deletions: number;
  readonly patch?: string;
}
interface CheckRow {
  readonly name: string;
  readonly status: string;
  readonly conclusion?: string | null;
  readonly output?: { readonly title?: string | null };
}
interface CommentRow {
  readonly body?: string;
  readonly created_at?: string;
  readonly user?: { readonly login?: string } | null;
}

/** Pull requests, issues, branches with their tips, releases and the newest commits. Throws when GitHub does not answer. */
export async function summary(github: GitHubPlace): Promise<Json> {
  const [pulls, issues, branches, releases, commits] = await Promise.all([
    read<PullRow[]>(github, '/pulls?state=all&per_page=50'),
    read<IssueRow[]>(github, '/issues?state=all&per_page=100'),
    read<BranchRow[]>(github, '/branches?per_page=50'),
    read<ReleaseRow[]>(github, '/releases?per_page=20'),
    read<CommitRow[]>(github, '/commits?per_page=15'),
  ]);
  return {
    repository: SHOWN_REPOSITORY,
    pulls: pulls.map(pullJson),
    issues: issues.filter((issue) => !issue.pull_request).map(issueJson),
    branches: branches.map(({ name, commit }) => ({ name, sha: commit?.sha ?? '', base: name === 'main' })),
    releases: releases.map(({ id, name, tag_name, draft, body }) => ({
      id,
      name: name ?? tag_name ?? '',
      tag: tag_name ?? '',
      draft: draft === true,
      body: body ?? '',
    })),
    commits: commits.map(commitJson),
  };
}

/** One pull request: its words, checks, commits and diff. */
export async function pullInDepth(github: GitHubPlace, number: number): Promise<Json> {
  const pull = await read<PullRow>(github, `/pulls/${number}`);
  const sha = pull.head?.sha ?? '';
  const [files, commits, checks, comments] = await Promise.all([
    read<FileRow[]>(github, `/pulls/${number}/files?per_page=100`),
    read<CommitRow[]>(github, `/pulls/${number}/commits?per_page=50`),
    read<{ check_runs?: CheckRow[] }>(github, `/commits/${sha}/check-runs`),
    read<CommentRow[]>(github, `/issues/${number}/comments?per_page=50`),
  ]);
  return {
    ...pullJson(pull),
    body: pull.body ?? '',
    author: pull.user?.login ?? '',
    checks: (checks.check_runs ?? []).map(({ name, status, conclusion, output }) => ({
      name,
      state: conclusion ?? status,
      title: output?.title ?? '',
    })),
    commits: commits.map(commitJson),
    comments: comments.map(commentJson),
    files: files.map(({ filename, status, additions, deletions, patch = '' }) => ({
      filename,
      status,
      additions,
      deletions,
      patch: patch.slice(0, PATCH_CHARS_SHOWN),
      left: Math.max(0, patch.length - PATCH_CHARS_SHOWN),
    })),
  };
}

/** One issue with its comments. */
export async function issueInDepth(github: GitHubPlace, number: number): Promise<Json> {
  const [issue, comments] = await Promise.all([
    read<IssueRow>(github, `/issues/${number}`),
    read<CommentRow[]>(github, `/issues/${number}/comments?per_page=50`),
  ]);
  return {
    ...issueJson(issue),
    body: issue.body ?? '',
    author: issue.user?.login ?? '',
    comments: comments.map(commentJson),
  };
}

function pullJson(pull: PullRow): Json {
  const { number, title, merged_at = null } = pull;
  return {
    number,
    title,
    state: merged_at ? 'merged' : pull.draft ? 'draft' : pull.state,
    merged_at,
    merge_commit_sha: merged_at ? (pull.merge_commit_sha ?? null) : null,
    head: pull.head?.ref ?? '',
    sha: pull.head?.sha ?? '',
    base: pull.base?.ref ?? '',
    labels: labelsOf(pull),
  };
}

function issueJson(issue: IssueRow): Json {
  const { number, title, state, comments = 0, created_at = '' } = issue;
  return { number, title, state, comments, created_at, labels: labelsOf(issue) };
}

function labelsOf(issue: IssueRow): Json[] {
  return (issue.labels ?? []).map((label) =>
    typeof label === 'string'
      ? { name: label, color: '888888' }
      : { name: label.name ?? '', color: /^[0-9a-f]{6}$/i.test(label.color ?? '') ? label.color : '888888' },
  );
}

function commitJson({ sha, commit }: CommitRow): Json {
  return {
    sha,
    message: (commit?.message ?? '').split('\n')[0] ?? '',
    author: commit?.author?.name ?? '',
    date: commit?.author?.date ?? '',
  };
}

function commentJson({ body = '', created_at = '', user }: CommentRow): Json {
  return { body, created_at, author: user?.login ?? '' };
}

async function read<T>({ apiUrl, token }: GitHubPlace, path: string): Promise<T> {
  const answer = await fetch(`${apiUrl}/repos/${SHOWN_REPOSITORY}${path}`, {
    headers: { authorization: `Bearer ${token}`, accept: 'application/vnd.github+json' },
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  if (!answer.ok) throw new Error(`GitHub answered ${answer.status}`);
  return (await answer.json()) as T;
}
