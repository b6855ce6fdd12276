/**
 * What the GitHub tools share: a client per call, the shapes of arguments and answers, and the meaning of errors.
 *
 * Invariant: every request goes through the `fetch` of the call's context, so the egress decides what may leave; the
 * library retries nothing and logs nothing.
 */
import { Octokit } from '@octokit/rest';
import { z } from 'zod';
import { CountersignError, hasCode } from '../../errors.ts';
import { maskSecrets } from '../../log.ts';
import type { JsonObject, ReadContext } from '../../types.ts';

export interface GitHubAccess {
  /** `https://api.github.com`, without a slash at the end. */
  readonly baseUrl: string;
  readonly token: string;
  /** The token's name as reviewers know it: never the token. */
  readonly credential: string;
}

/** Bound on one request. GitHub itself gives up after ten seconds; a merge may queue behind others. */
export const GITHUB_TIMEOUT_MS = 30_000;

// ASCII only and nothing a URL could take for a path: a look-alike name must not pass for the real one.
export const ownerSchema = z
  .string()
  .regex(/^[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})$/, 'must be a GitHub login')
  .describe('Owner of the repository, a user or an organisation.');
export const repoSchema = z
  .string()
  .regex(/^(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}$/, 'must be a repository name without its owner')
  .describe('Name of the repository, without the owner.');
export const pullNumberSchema = z.int().min(1).max(2_147_483_647).describe('Number of the pull request.');
export const shaSchema = z.string().regex(/^[0-9a-f]{40}$/, 'must be 40 lower-case hex digits');
/**
 * A branch, tag or commit in plain ASCII. As in Git, no two dots or slashes in a row: the three dots of a comparison
 * stay unambiguous, and no segment of a path is left empty.
 */
export const REF_PATTERN = '[A-Za-z0-9](?:[A-Za-z0-9_-]|[./](?![./])){0,200}';
export const refSchema = z
  .string()
  .regex(new RegExp(`^${REF_PATTERN}$`), 'must be a branch, tag or commit in plain ASCII');

/** A branch in plain ASCII that Git takes and that nothing can mistake for a full ref, a commit or another branch's lock. */
export const branchSchema = refSchema
  .regex(/^(?!refs\/)(?![0-9a-fA-F]{40}$)(?!HEAD$)/, 'must be the name of a branch')
  .regex(/[A-Za-z0-9_-]$/, 'must end in a letter or digit')
  .refine((name) => !/\.lock(?:\/|$)/.test(name), 'must hold no part that ends in .lock');
export const issueNumberSchema = z.int().min(1).max(2_147_483_647).describe('Number of the issue.');

/**
 * Text that may go out as it is: at least one visible character, no lone surrogates, and no control characters but tab and line
 * breaks. What a reviewer reads is then what is sent.
 */
export function textSchema(maxLength: number) {
  return z
    .string()
    .max(maxLength)
    .refine((text) => text.trim() !== '', 'must not be empty')
    .refine(isPlainText, 'must be plain text without control characters');
}
/** A single line of such text. */
export function lineSchema(maxLength: number) {
  return textSchema(maxLength).refine((text) => !/[\r\n\t]/.test(text), 'must be one line');
}
export function isPlainText(text: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is refused.
  return text.isWellFormed() && !/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/.test(text);
}

/** The JSON Schema of what a model should send. */
export function inputSchemaOf(schema: z.ZodType): JsonObject {
  const { $schema: _dialect, ...rest } = z.toJSONSchema(schema, { io: 'input' });
  return z.record(z.string(), z.json()).parse(rest);
}

/** Reads arguments; TOOL_INPUT_INVALID names the first field that does not fit. */
export function parseInput<T extends JsonObject>(schema: z.ZodType<T>, input: unknown): T {
  const parsed = schema.safeParse(input);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const field = issue === undefined || issue.path.length === 0 ? 'input' : issue.path.join('.');
  throw new CountersignError('TOOL_INPUT_INVALID', `${field}: ${issue?.message ?? 'malformed'}`);
}

/** Reads an answer; one that lacks what the tool needs counts as a failed call. */
export function parseAnswer<T>(schema: z.ZodType<T>, data: unknown): T {
  const parsed = schema.safeParse(data);
  if (parsed.success) return parsed.data;
  const field = parsed.error.issues[0]?.path.join('.') ?? '';
  throw new CountersignError('TOOL_FAILED', `GitHub's answer lacks a usable ${field || 'body'}.`);
}

/** The parts of a pull request that tools use. */
export const pullSchema = z.looseObject({
  number: z.int(),
  title: z.string(),
  state: z.string(),
  draft: z.boolean().default(false),
  merged: z.boolean().default(false),
  mergeable: z.boolean().nullable().default(null),
  merge_commit_sha: z.string().nullable().default(null),
  head: z.looseObject({ ref: z.string(), sha: shaSchema }),
  base: z.looseObject({ ref: z.string(), sha: shaSchema }),
  user: z.looseObject({ login: z.string() }).nullable().default(null),
  body: z.string().nullable().default(null),
  commits: z.int().default(0),
  changed_files: z.int().default(0),
  additions: z.int().default(0),
  deletions: z.int().default(0),
});
export type Pull = z.infer<typeof pullSchema>;

export const comparisonSchema = z.looseObject({
  ahead_by: z.int(),
  behind_by: z.int(),
  total_commits: z.int(),
  files: z
    .array(
      z.looseObject({
        filename: z.string(),
        previous_filename: z.string().optional(),
        status: z.string(),
        additions: z.int(),
        deletions: z.int(),
        // Absent for binary files and for diffs that GitHub finds too large.
        patch: z.string().optional(),
      }),
    )
    .default([]),
});
export type Comparison = z.infer<typeof comparisonSchema>;

const quiet = { debug() {}, info() {}, warn() {}, error() {} };

interface Answer {
  readonly status: number;
  readonly data: unknown;
}

/**
 * Makes a client for one call, lets `ask` use it, and returns the data of a 2xx. Errors come out as ours, by
 * `toToolError`.
 */
export async function askGitHub(
  access: GitHubAccess,
  context: ReadContext,
  ask: (client: Octokit) => Promise<Answer>,
): Promise<unknown> {
  const signal = AbortSignal.any([context.signal, AbortSignal.timeout(GITHUB_TIMEOUT_MS)]);
  const client = new Octokit({
    auth: access.token,
    baseUrl: access.baseUrl,
    userAgent: 'countersign',
    log: quiet,
    request: { fetch: context.fetch, signal },
  });
  let answer: Answer;
  try {
    answer = await ask(client);
  } catch (error) {
    throw toToolError(error, context.signal);
  }
  // The egress returns redirects as they are, and the library takes anything below 400 for success.
  if (answer.status < 200 || answer.status > 299)
    throw new CountersignError('TOOL_REFUSED', `GitHub answered ${answer.status}: moved or redirected.`);
  return answer.data;
}

/** The same, with null for a 404: "is there such a thing" is a question, not a failure. */
export async function findOnGitHub(
  access: GitHubAccess,
  context: ReadContext,
  ask: (client: Octokit) => Promise<Answer>,
): Promise<unknown> {
  try {
    return await askGitHub(access, context, ask);
  } catch (error) {
    if (failureOf(error)?.status === 404) return null;
    throw error;
  }
}

/** The HTTP answer behind an error that `askGitHub` threw; null when there was none. */
export function failureOf(error: unknown): HttpFailure | null {
  return error instanceof CountersignError ? httpFailure(error.cause) : null;
}

/**
 * What an error of a write means. Any 4xx but 408 surely changed nothing: TOOL_REFUSED, for a rate limit one that may be tried
 * again. Everything else leaves it open and stays as it is.
 */
export function writeError(error: unknown): unknown {
  const failure = failureOf(error);
  if (failure === null || failure.status >= 500 || failure.status === 408) return error;
  const words = `GitHub answered ${failure.status}: ${failure.message}`;
  if (!isRateLimited(failure))
    return hasCode(error, 'TOOL_REFUSED')
      ? error
      : new CountersignError('TOOL_REFUSED', words, { cause: error });
  const retryAfterMs = readRetryAfterMs(failure);
  return new CountersignError('TOOL_REFUSED', words, {
    cause: error,
    errorClass: 'retryable',
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });
}

/** `1 issue`, `2 issues`. */
export function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

interface HttpFailure {
  readonly status: number;
  readonly message: string;
  readonly headers: Readonly<Record<string, unknown>>;
}

/** The HTTP answer inside an error of the library; null when there was none (network, timeout, our own refusal). */
export function httpFailure(error: unknown): HttpFailure | null {
  if (!(error instanceof Error) || !('response' in error) || !('status' in error)) return null;
  const response = error.response;
  if (typeof response !== 'object' || response === null || typeof error.status !== 'number') return null;
  const headers =
    'headers' in response && typeof response.headers === 'object' && response.headers !== null
      ? { ...response.headers }
      : {};
  return { status: error.status, message: maskSecrets(error.message).slice(0, 300), headers };
}

/**
 * What an error means for a tool. TOOL_FAILED (retryable): no answer, 408, 5xx, or a rate limit on a read;
 * TOOL_REFUSED: any other 4xx. Errors of ours pass through, also where the library wrapped them.
 */
function toToolError(error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted && signal.reason instanceof CountersignError) return signal.reason;
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause)
    if (cause instanceof CountersignError) return cause;

  const failure = httpFailure(error);
  if (failure === null)
    return new CountersignError('TOOL_FAILED', 'GitHub did not answer.', { cause: error });
  const message = `GitHub answered ${failure.status}: ${failure.message}`;
  if (isRateLimited(failure)) {
    const retryAfterMs = readRetryAfterMs(failure);
    return new CountersignError('TOOL_FAILED', message, {
      cause: error,
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    });
  }
  const code = failure.status === 408 || failure.status >= 500 ? 'TOOL_FAILED' : 'TOOL_REFUSED';
  return new CountersignError(code, message, { cause: error });
}

/** GitHub says "too fast" with 429 or 403, docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api. */
export function isRateLimited(failure: HttpFailure): boolean {
  if (failure.status === 429) return true;
  if (failure.status !== 403) return false;
  return failure.headers['retry-after'] !== undefined || failure.headers['x-ratelimit-remaining'] === '0';
}

export function readRetryAfterMs(failure: HttpFailure): number | undefined {
  const seconds = Number(failure.headers['retry-after'] ?? Number.NaN);
  return Number.isFinite(seconds) && seconds >= 0 ? Math.min(seconds * 1000, 15 * 60_000) : undefined;
}
