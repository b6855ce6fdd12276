/** Reads the check runs of a commit. */
import { z } from 'zod';
import type { ReadContext, ReadTool } from '../../types.ts';
import {
  askGitHub,
  type GitHubAccess,
  inputSchemaOf,
  ownerSchema,
  parseAnswer,
  parseInput,
  refSchema,
  repoSchema,
} from './github.ts';

/** One page, GitHub's largest. `total_count` tells when there are more. */
const PAGE_SIZE = 100;
/** Of each text of a check: enough to see what failed, and a hundred of them still fit a prompt. */
const MAX_OUTPUT_LENGTH = 1_000;

const inputSchema = z.strictObject({
  owner: ownerSchema,
  repo: repoSchema,
  ref: refSchema.describe(
    "Commit, branch or tag; for a pull request its head sha, so that it is that commit's.",
  ),
});

const answerSchema = z.looseObject({
  total_count: z.int(),
  check_runs: z.array(
    z.looseObject({
      name: z.string(),
      status: z.string(),
      conclusion: z.string().nullable(),
      output: z
        .looseObject({
          title: z.string().nullable().default(null),
          summary: z.string().nullable().default(null),
        })
        .nullable()
        .default(null),
    }),
  ),
});

export interface CheckRuns {
  readonly total_count: number;
  readonly check_runs: readonly {
    readonly name: string;
    readonly status: string;
    readonly conclusion: string | null;
    /** What the check says about itself, cut. */
    readonly title: string | null;
    readonly summary: string | null;
  }[];
}

/** The check runs of a commit, the first page of them. Throws TOOL_FAILED or TOOL_REFUSED. */
export async function listChecks(
  access: GitHubAccess,
  { owner, repo, ref }: { readonly owner: string; readonly repo: string; readonly ref: string },
  context: ReadContext,
): Promise<CheckRuns> {
  const data = await askGitHub(access, context, (client) =>
    client.rest.checks.listForRef({ owner, repo, ref, per_page: PAGE_SIZE }),
  );
  const { total_count, check_runs } = parseAnswer(answerSchema, data);
  return {
    total_count,
    check_runs: check_runs.map(({ name, status, conclusion, output }) => ({
      name,
      status,
      conclusion,
      title: output?.title?.slice(0, MAX_OUTPUT_LENGTH) ?? null,
      summary: output?.summary?.slice(0, MAX_OUTPUT_LENGTH) ?? null,
    })),
  };
}

export function githubChecksListForRef(access: GitHubAccess): ReadTool {
  return {
    access: 'read',
    kind: 'github.checks.listForRef',
    version: 1,
    description: `Lists the check runs of a commit with status, conclusion and what each says of itself, at most ${PAGE_SIZE}; total_count says how many there are.`,
    inputSchema: inputSchemaOf(inputSchema),
    parse: (input) => parseInput(inputSchema, input),
    async read(input, context) {
      const { total_count, check_runs } = await listChecks(access, parseInput(inputSchema, input), context);
      return { total_count, check_runs: check_runs.map((run) => ({ ...run })) };
    },
  };
}
