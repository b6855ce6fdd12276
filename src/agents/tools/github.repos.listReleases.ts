/** Lists the releases of a repository, drafts included where the credential may see them. */
import { z } from 'zod';
import type { ReadContext, ReadTool } from '../../types.ts';
import {
  askGitHub,
  type GitHubAccess,
  inputSchemaOf,
  ownerSchema,
  parseAnswer,
  parseInput,
  repoSchema,
} from './github.ts';

const PAGE_SIZE = 100;

const inputSchema = z.strictObject({ owner: ownerSchema, repo: repoSchema });

export const releaseSchema = z.looseObject({
  id: z.int(),
  tag_name: z.string(),
  name: z.string().nullable().default(null),
  body: z.string().nullable().default(null),
  draft: z.boolean().default(false),
  prerelease: z.boolean().default(false),
  published_at: z.string().nullable().default(null),
  html_url: z.string().default(''),
});
export type Release = z.infer<typeof releaseSchema>;

/** The newest releases, one page of them. */
export async function listReleases(
  access: GitHubAccess,
  { owner, repo }: { readonly owner: string; readonly repo: string },
  context: ReadContext,
): Promise<Release[]> {
  const data = await askGitHub(access, context, (client) =>
    client.rest.repos.listReleases({ owner, repo, per_page: PAGE_SIZE }),
  );
  return parseAnswer(z.array(releaseSchema), data);
}

export function githubReposListReleases(access: GitHubAccess): ReadTool {
  return {
    access: 'read',
    kind: 'github.repos.listReleases',
    version: 1,
    description: `Lists the newest releases, at most ${PAGE_SIZE}, with tag, name, text, and whether each is a draft.`,
    inputSchema: inputSchemaOf(inputSchema),
    parse: (input) => parseInput(inputSchema, input),
    async read(input, context) {
      const releases = await listReleases(access, parseInput(inputSchema, input), context);
      return {
        releases: releases.map(({ tag_name, name, body, draft, prerelease, published_at }) => ({
          tag_name,
          name,
          body,
          draft,
          prerelease,
          published_at,
        })),
      };
    },
  };
}
