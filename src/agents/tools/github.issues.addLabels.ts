/**
 * Adds labels to one issue; takes none away.
 *
 * Invariant: the names that were judged are the names that are sent. The policy lets labels of the product's own namespace pass
 * unasked, so a name is refused here unless it is spelled in a way that GitHub, too, keeps as it is.
 */
import { z } from 'zod';
import type { Reconciliation, WriteTool } from '../../types.ts';
import { isPull, labelNames, readIssue } from './github.issues.ts';
import {
  askGitHub,
  count,
  GITHUB_TIMEOUT_MS,
  type GitHubAccess,
  inputSchemaOf,
  issueNumberSchema,
  lineSchema,
  ownerSchema,
  parseInput,
  repoSchema,
  writeError,
} from './github.ts';

/** GitHub's own bound on a name, and more at once than anybody means. */
const MAX_LABEL_LENGTH = 50;
const MAX_LABELS = 10;

const inputSchema = z.strictObject({
  owner: ownerSchema,
  repo: repoSchema,
  issue_number: issueNumberSchema,
  labels: z
    .array(
      // GitHub drops spaces around a name and takes a comma for two names in some places.
      lineSchema(MAX_LABEL_LENGTH).refine(
        (name) => name === name.trim() && !name.includes(','),
        'must have no spaces around it and no comma',
      ),
    )
    .min(1)
    .max(MAX_LABELS)
    .refine(
      (names) => new Set(names.map((name) => name.toLowerCase())).size === names.length,
      'names a label twice',
    )
    .describe(
      'Names of labels to add. Names of the form countersign/… need no approval; use them to note what you found.',
    ),
});

export function githubIssuesAddLabels(access: GitHubAccess): WriteTool {
  return {
    access: 'write',
    kind: 'github.issues.addLabels',
    version: 1,
    description:
      'Proposes to add labels to one issue. Labels of the form countersign/… are added at once; any other needs a person. Use one call per issue.',
    inputSchema: inputSchemaOf(inputSchema),
    effectClass: 'checkable',
    requestTimeoutMs: GITHUB_TIMEOUT_MS,
    credential: access.credential,
    parse: (input) => parseInput(inputSchema, input),

    async target(raw, context) {
      const { issue_number, labels, ...repo } = parseInput(inputSchema, raw);
      const issue = await readIssue(access, repo, issue_number, context);
      const refusal = isPull(issue)
        ? `${issue_number} is a pull request, not an issue.`
        : lacking(labels, labelNames(issue)).length === 0
          ? `Issue ${issue_number} has ${labels.length === 1 ? 'this label' : 'these labels'} already.`
          : null;
      return {
        ...(refusal === null ? {} : { refusal }),
        // Adding a label means the same whatever else happens to the issue.
        preconditions: [{ path: '/number', expected: issue.number }],
        title: `add ${count(labels.length, 'label')} to issue ${issue_number}`,
        facts: [
          { label: 'Issue', value: issue.title },
          { label: 'Repository', value: `${repo.owner}/${repo.repo}` },
          { label: 'Labels to add', value: labels.join(' · ') },
          { label: 'Labels now', value: labelNames(issue).join(' · ') || 'none' },
          { label: 'State', value: issue.state },
        ],
      };
    },

    async execute(raw, _preconditions, context) {
      const { owner, repo, issue_number, labels } = parseInput(inputSchema, raw);
      try {
        await askGitHub(access, context, (client) =>
          client.rest.issues.addLabels({ owner, repo, issue_number, labels: [...labels] }),
        );
      } catch (error) {
        throw writeError(error);
      }
      return { issue_number, labels };
    },

    async reconcile(raw, _preconditions, context): Promise<Reconciliation> {
      const { issue_number, labels, ...repo } = parseInput(inputSchema, raw);
      const issue = await readIssue(access, repo, issue_number, context);
      if (lacking(labels, labelNames(issue)).length > 0) return { outcome: 'absent' };
      return { outcome: 'applied', receipt: { issue_number, labels } };
    },

    describeReceipt(raw) {
      const { issue_number, labels } = parseInput(inputSchema, raw);
      return `Labelled issue ${issue_number}: ${labels.join(', ')}.`;
    },
  };
}

/** Case makes no label another one, for GitHub. */
function lacking(wanted: readonly string[], present: readonly string[]): readonly string[] {
  const have = new Set(present.map((name) => name.toLowerCase()));
  return wanted.filter((name) => !have.has(name.toLowerCase()));
}
