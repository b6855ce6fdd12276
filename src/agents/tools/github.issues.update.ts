/**
 * Closes a batch of issues: one action that names every one of them.
 *
 * Invariant: exactly the named issues are closed, each only while nobody has commented since a person read the card; and a batch that
 * came to an end half done says exactly which issues are closed and which are not. Closing is a state and not a step: an issue found
 * closed is left alone.
 */
import { z } from 'zod';
import { CountersignError } from '../../errors.ts';
import type { Json, Precondition, ReadContext, Reconciliation, WriteTool } from '../../types.ts';
import { day, type Issue, isPull, labelNames, newestCommentId, readIssue } from './github.issues.ts';
import {
  askGitHub,
  count,
  type GitHubAccess,
  inputSchemaOf,
  issueNumberSchema,
  ownerSchema,
  parseInput,
  repoSchema,
  writeError,
} from './github.ts';

/** What one reviewer can judge on one card. */
const MAX_ISSUES = 20;
/** The whole batch, one request after the other. */
const BATCH_TIMEOUT_MS = 60_000;
/** Clocks of this machine and of GitHub may differ by this much. */
const CLOCK_SLACK_MS = 10_000;

const inputSchema = z.strictObject({
  owner: ownerSchema,
  repo: repoSchema,
  issue_numbers: z
    .array(issueNumberSchema)
    .min(1)
    .max(MAX_ISSUES)
    .refine((numbers) => new Set(numbers).size === numbers.length, 'names an issue twice'),
  state: z.literal('closed').default('closed'),
  state_reason: z
    .enum(['completed', 'not_planned'])
    .default('not_planned')
    .describe('Why they are closed. Default not_planned.'),
});
type CloseInput = z.infer<typeof inputSchema>;

export function githubIssuesUpdate(access: GitHubAccess): WriteTool {
  const readAll = (input: CloseInput, context: ReadContext): Promise<Issue[]> =>
    Promise.all(input.issue_numbers.map((number) => readIssue(access, input, number, context)));

  const closeOne = async (
    { owner, repo, state, state_reason }: CloseInput,
    issue_number: number,
    context: ReadContext,
  ): Promise<void> => {
    try {
      await askGitHub(access, context, (client) =>
        client.rest.issues.update({ owner, repo, issue_number, state, state_reason }),
      );
    } catch (error) {
      throw writeError(error);
    }
  };

  return {
    access: 'write',
    kind: 'github.issues.update',
    version: 1,
    description: `Proposes to close up to ${MAX_ISSUES} issues of one repository as one action that a person decides on. Name every issue; look at each first.`,
    inputSchema: inputSchemaOf(inputSchema),
    effectClass: 'checkable',
    requestTimeoutMs: BATCH_TIMEOUT_MS,
    credential: access.credential,
    parse: (input) => parseInput(inputSchema, input),

    async target(raw, context) {
      const input = parseInput(inputSchema, raw);
      const issues = await readAll(input, context);
      const open = issues.filter(({ state }) => state === 'open');
      const pull = issues.find(isPull);
      const refusal =
        pull !== undefined
          ? `${pull.number} is a pull request, not an issue.`
          : open.length === 0
            ? `${issues.length === 1 ? 'The issue is' : 'All of these issues are'} closed already.`
            : null;
      const newest = await Promise.all(issues.map((issue) => newestCommentId(access, input, issue, context)));
      return {
        ...(refusal === null ? {} : { refusal }),
        preconditions: issues.map(({ number }, index) => ({
          path: newestCommentPath(number),
          expected: newest[index] ?? null,
        })),
        title: `close ${issues.length === 1 ? `issue ${issues[0]?.number}` : `${issues.length} issues`}`,
        facts: [
          { label: 'Repository', value: `${input.owner}/${input.repo}` },
          { label: 'Issues', value: input.issue_numbers.join(', ') },
          { label: 'As', value: input.state_reason === 'not_planned' ? 'not planned' : 'completed' },
          ...(open.length === issues.length
            ? []
            : [{ label: 'Closed already', value: numbers(issues.filter(({ state }) => state !== 'open')) }]),
        ],
        body: issues.map(describe).join('\n'),
      };
    },

    async execute(raw, preconditions, context) {
      const input = parseInput(inputSchema, raw);
      const ended = { closed: [] as number[], closed_before: [] as number[], left: [] as Left[] };
      for (const number of input.issue_numbers) {
        // Right before each: GitHub has no compare-and-set here, and the first may be minutes older than the last.
        const issue = await readIssue(access, input, number, context);
        if (issue.state !== 'open') {
          ended.closed_before.push(number);
          continue;
        }
        const spoken = await newestCommentId(access, input, issue, context);
        if (spoken !== expectedComment(preconditions, number)) {
          ended.left.push({ issue_number: number, why: 'somebody has commented since it was reviewed' });
          continue;
        }
        try {
          await closeOne(input, number, context);
          ended.closed.push(number);
        } catch (error) {
          if (!(error instanceof CountersignError) || error.code !== 'TOOL_REFUSED') throw error;
          // A refusal is sure. As long as nothing was done it is the whole action's; afterwards it is part of what is told.
          if (ended.closed.length === 0 && ended.left.length === 0 && ended.closed_before.length === 0)
            throw error;
          ended.left.push({ issue_number: number, why: error.message });
        }
      }
      if (ended.closed.length === 0 && ended.closed_before.length === 0)
        throw new CountersignError(
          'TOOL_REFUSED',
          `No issue was closed: ${ended.left.map(({ issue_number, why }) => `${issue_number}: ${why}`).join('; ')}.`,
        );
      return ended;
    },

    async reconcile(raw, _preconditions, context): Promise<Reconciliation> {
      const input = parseInput(inputSchema, raw);
      const issues = await readAll(input, context);
      const closed = issues.filter(({ state }) => state !== 'open');
      if (closed.length === 0) return { outcome: 'absent' };
      const left = issues
        .filter(({ state }) => state === 'open')
        .map(({ number }) => ({ issue_number: number, why: 'the work was interrupted before it' }));
      // Half done: the next request may still be on its way, and what is told must stay true.
      const waitMs = left.length === 0 ? 0 : msUntilQuiet(closed);
      if (waitMs > 0)
        throw new CountersignError(
          'TOOL_FAILED',
          'A part of the batch may still arrive; looking again later',
          {
            retryAfterMs: waitMs,
          },
        );
      return {
        outcome: 'applied',
        receipt: { closed: closed.map(({ number }) => number), closed_before: [], left },
      };
    },

    describeReceipt(raw, receipt) {
      const told = receiptSchema.safeParse(receipt);
      const { issue_numbers } = parseInput(inputSchema, raw);
      if (!told.success) return `Closed issues ${issue_numbers.join(', ')}.`;
      const { closed, closed_before, left } = told.data;
      const all = issue_numbers.length;
      return [
        closed.length === all
          ? `Closed ${count(all, 'issue')}: ${closed.join(', ')}.`
          : `Closed ${closed.length} of ${count(all, 'issue')}${closed.length === 0 ? '' : `: ${closed.join(', ')}`}.`,
        closed_before.length === 0 ? '' : `Closed already: ${closed_before.join(', ')}.`,
        left.length === 0
          ? ''
          : `Not closed: ${left.map(({ issue_number, why }) => `${issue_number} (${why})`).join(', ')}.`,
      ]
        .filter((part) => part !== '')
        .join(' ');
    },
  };
}

interface Left {
  readonly [name: string]: Json;
  readonly issue_number: number;
  readonly why: string;
}

const receiptSchema = z.looseObject({
  closed: z.array(z.int()),
  closed_before: z.array(z.int()),
  left: z.array(z.looseObject({ issue_number: z.int(), why: z.string() })),
});

/** That somebody has spoken changes what closing means; that somebody has closed it meanwhile does not. */
function newestCommentPath(number: number): string {
  return `/issues/${number}/newest_comment`;
}

function expectedComment(preconditions: readonly Precondition[], number: number): Json {
  const bound = preconditions.find(({ path }) => path === newestCommentPath(number));
  // Not bound is nothing that could be compared: no comment has this id.
  return bound === undefined ? -1 : bound.expected;
}

/** How long until no request of an interrupted batch can arrive any more: it ran at most this long after the last one that did. */
function msUntilQuiet(closed: readonly Issue[]): number {
  const newest = Math.max(...closed.map(({ closed_at }) => Date.parse(closed_at ?? '') || 0));
  return newest + BATCH_TIMEOUT_MS + CLOCK_SLACK_MS - Date.now();
}

function describe(issue: Issue): string {
  const labels = labelNames(issue);
  return [
    `#${issue.number} ${issue.title.replaceAll(/\s+/g, ' ')}`,
    issue.state,
    `opened ${day(issue.created_at)} by ${issue.user?.login ?? 'unknown'}`,
    `last change ${day(issue.updated_at)}`,
    count(issue.comments, 'comment'),
    ...(labels.length === 0 ? [] : [labels.join(' · ')]),
  ].join(' | ');
}

function numbers(issues: readonly Issue[]): string {
  return issues.map(({ number }) => number).join(', ');
}
