/** Reads one file, or the names in one folder, at a commit, branch or tag. */
import { z } from 'zod';
import { CountersignError } from '../../errors.ts';
import type { ReadTool } from '../../types.ts';
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
import { pathSchema } from './paths.ts';

const inputSchema = z.strictObject({
  owner: ownerSchema,
  repo: repoSchema,
  path: z.union([pathSchema, z.literal('')]).describe('Path of a file or folder; empty for the root.'),
  ref: refSchema.exactOptional().describe('Commit, branch or tag. Default: the default branch.'),
});

const entrySchema = z.looseObject({ type: z.string(), name: z.string(), path: z.string(), sha: z.string() });
const fileSchema = entrySchema.extend({
  type: z.literal('file'),
  encoding: z.string().optional(),
  content: z.string().optional(),
});

export function githubReposGetContent(access: GitHubAccess): ReadTool {
  return {
    access: 'read',
    kind: 'github.repos.getContent',
    version: 1,
    description:
      'Reads a text file with its blob sha, or lists a folder. Read at a commit sha when you are going to propose a commit onto it.',
    inputSchema: inputSchemaOf(inputSchema),
    parse: (input) => parseInput(inputSchema, input),
    async read(input, context) {
      const { owner, repo, path, ref } = parseInput(inputSchema, input);
      const data = await askGitHub(access, context, (client) =>
        client.rest.repos.getContent({ owner, repo, path, ...(ref === undefined ? {} : { ref }) }),
      );
      if (Array.isArray(data))
        return {
          path,
          entries: parseAnswer(z.array(entrySchema), data).map(({ type, name, sha }) => ({
            type,
            name,
            sha,
          })),
        };
      const file = fileSchema.safeParse(data);
      if (!file.success)
        throw new CountersignError('TOOL_REFUSED', `${path} is neither a file nor a folder.`);
      if (file.data.encoding !== 'base64' || file.data.content === undefined)
        throw new CountersignError('TOOL_REFUSED', `${path} is too large to be read this way.`);
      const text = decodeUtf8(file.data.content);
      if (text === null) throw new CountersignError('TOOL_REFUSED', `${path} is not a text file.`);
      return { path: file.data.path, sha: file.data.sha, content: text };
    },
  };
}

/** Null for what is not UTF-8 text. */
export function decodeUtf8(base64: string): string | null {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.from(base64, 'base64'));
  } catch {
    return null;
  }
}
