/**
 * Drafts one release. A draft makes no tag and is seen only by those who may write to the repository; a person publishes it on GitHub.
 *
 * Invariant: never anything but a draft, and one. The releases of this tag that were there before are part of what was approved, so after a
 * lost answer another one with these words is ours.
 */
import { z } from 'zod';
import { CountersignError } from '../../errors.ts';
import type { Reconciliation, WriteTool } from '../../types.ts';
import { listReleases, type Release, releaseSchema } from './github.repos.listReleases.ts';
import {
  askGitHub,
  branchSchema,
  GITHUB_TIMEOUT_MS,
  type GitHubAccess,
  inputSchemaOf,
  lineSchema,
  ownerSchema,
  parseInput,
  repoSchema,
  shaSchema,
  textSchema,
  writeError,
} from './github.ts';

const inputSchema = z.strictObject({
  owner: ownerSchema,
  repo: repoSchema,
  tag_name: branchSchema.describe('The tag that publishing the draft will make, v1.2.3 for one.'),
  target_commitish: shaSchema.describe('The commit that the tag will stand on.'),
  name: lineSchema(200).describe('Title of the release.'),
  body: textSchema(20_000).describe('The release note, in Markdown.'),
  draft: z.literal(true).default(true).describe('Always a draft: a person publishes it.'),
});

export function githubReposCreateRelease(access: GitHubAccess): WriteTool {
  return {
    access: 'write',
    kind: 'github.repos.createRelease',
    version: 1,
    description:
      'Proposes to draft a release with its note. A person decides, and a person publishes it; a draft makes no tag.',
    inputSchema: inputSchemaOf(inputSchema),
    effectClass: 'checkable',
    requestTimeoutMs: GITHUB_TIMEOUT_MS,
    credential: access.credential,
    parse: (input) => parseInput(inputSchema, input),

    async target(raw, context) {
      const { tag_name, target_commitish, name, body, ...repo } = parseInput(inputSchema, raw);
      const releases = await listReleases(access, repo, context);
      const same = releases.filter((release) => release.tag_name === tag_name);
      const published = same.find(({ draft }) => !draft);
      const twin = same.find((release) => release.name === name && plain(release.body) === plain(body));
      const refusal =
        published !== undefined
          ? `${tag_name} is released already.`
          : twin !== undefined
            ? `Exactly this draft of ${tag_name} is there already.`
            : null;
      const latest = releases.find(({ draft }) => !draft);
      return {
        ...(refusal === null ? {} : { refusal }),
        preconditions: [{ path: SAME_TAG, expected: idsOf(same) }],
        title: `draft release ${tag_name}`,
        facts: [
          { label: 'Name', value: name },
          { label: 'Repository', value: `${repo.owner}/${repo.repo}` },
          { label: 'At commit', value: target_commitish },
          { label: 'Latest release', value: latest?.tag_name ?? 'none' },
          { label: 'Drafts of this tag', value: String(same.length) },
        ],
      };
    },

    async execute(raw, _preconditions, context) {
      const input = parseInput(inputSchema, raw);
      let data: unknown;
      try {
        data = await askGitHub(access, context, (client) =>
          client.rest.repos.createRelease({ ...input, draft: true, prerelease: false }),
        );
      } catch (error) {
        throw writeError(error);
      }
      const made = releaseSchema.safeParse(data);
      if (!made.success)
        throw new CountersignError('TOOL_FAILED', 'GitHub made a draft without saying which.');
      return receiptOf(made.data);
    },

    async reconcile(raw, preconditions, context): Promise<Reconciliation> {
      const { tag_name, name, body, ...repo } = parseInput(inputSchema, raw);
      const before = z
        .array(z.int())
        .safeParse(preconditions.find(({ path }) => path === SAME_TAG)?.expected);
      const newer = (await listReleases(access, repo, context)).filter(
        (release) => release.tag_name === tag_name && !(before.success && before.data.includes(release.id)),
      );
      if (newer.length === 0) return { outcome: 'absent' };
      const ours = newer.find((release) => release.name === name && plain(release.body) === plain(body));
      return ours === undefined
        ? { outcome: 'unknowable' }
        : { outcome: 'applied', receipt: receiptOf(ours) };
    },

    describeReceipt(raw) {
      return `Drafted release ${parseInput(inputSchema, raw).tag_name}; a person publishes it on GitHub.`;
    },
  };
}

const SAME_TAG = '/releases_of_tag';

function idsOf(releases: readonly Release[]): number[] {
  return releases.map(({ id }) => id).sort((one, other) => one - other);
}

function receiptOf({ id, html_url }: Release) {
  return { release_id: id, url: html_url };
}

function plain(text: string | null): string {
  return (text ?? '').replaceAll('\r\n', '\n').trim();
}
