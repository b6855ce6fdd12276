/**
 * Commits files to a new branch through the Git Data API: tree, commit, and last of all the branch, which alone is seen.
 *
 * Invariants. An existing branch, the default one first of all, is never written: a branch is made or nothing is. The parent is a commit
 * that the default branch already holds, so the new branch brings in nothing but the files on the card. Files are whole texts; links
 * and submodules are left alone.
 */
import { z } from 'zod';
import { CountersignError } from '../../errors.ts';
import type { Precondition, ReadContext, Reconciliation, WriteTool } from '../../types.ts';
import { lineDiff } from './diff.ts';
import { decodeUtf8 } from './github.repos.getContent.ts';
import {
  askGitHub,
  branchSchema,
  comparisonSchema,
  count,
  failureOf,
  findOnGitHub,
  type GitHubAccess,
  inputSchemaOf,
  isPlainText,
  ownerSchema,
  parseAnswer,
  parseInput,
  repoSchema,
  shaSchema,
  textSchema,
  writeError,
} from './github.ts';
import { blobSha, pathSchema } from './paths.ts';

const MAX_FILES = 20;
/** Longer files cannot be reviewed with their arguments (TOO_LARGE_TO_REVIEW); this bound only comes sooner and says which. */
const MAX_CONTENT_LENGTH = 60_000;
/** Four requests, one after the other. */
const COMMIT_TIMEOUT_MS = 60_000;
const MODES = { file: '100644', executable: '100755' } as const;

const inputSchema = z.strictObject({
  owner: ownerSchema,
  repo: repoSchema,
  branch: branchSchema.describe('Name of the new branch. It must not exist yet.'),
  base_sha: shaSchema.describe(
    'The commit to build on: one that the default branch holds, at which you read the files.',
  ),
  message: textSchema(2_000).describe('Commit message.'),
  files: z
    .array(
      z.strictObject({
        path: pathSchema,
        content: z
          .string()
          .max(MAX_CONTENT_LENGTH)
          .refine(isPlainText, 'must be plain text without control characters')
          .describe('The whole new text of the file.'),
      }),
    )
    .min(1)
    .max(MAX_FILES)
    .refine((files) => !collide(files.map(({ path }) => path)), 'names a place twice'),
});
type CommitInput = z.infer<typeof inputSchema>;

const repoAnswer = z.looseObject({ default_branch: z.string() });
const refAnswer = z.looseObject({ object: z.looseObject({ sha: shaSchema }) });
const shaAnswer = z.looseObject({ sha: shaSchema });
const commitAnswer = z.looseObject({
  sha: shaSchema,
  message: z.string(),
  tree: z.looseObject({ sha: shaSchema }),
  parents: z.array(z.looseObject({ sha: shaSchema })),
});
const treeAnswer = z.looseObject({
  truncated: z.boolean().default(false),
  tree: z.array(z.looseObject({ path: z.string(), mode: z.string(), type: z.string(), sha: z.string() })),
});
const blobAnswer = z.looseObject({ content: z.string(), encoding: z.literal('base64') });

/** A file as the base holds it; null where there is none. */
interface Held {
  readonly mode: string;
  readonly sha: string;
}

export function githubGitCreateCommit(access: GitHubAccess): WriteTool {
  const tipOf = async (input: CommitInput, context: ReadContext): Promise<string | null> => {
    const { owner, repo, branch } = input;
    const data = await findOnGitHub(access, context, (client) =>
      client.rest.git.getRef({ owner, repo, ref: `heads/${branch}` }),
    );
    return data === null ? null : parseAnswer(refAnswer, data).object.sha;
  };
  const commitOf = async (input: CommitInput, commit_sha: string, context: ReadContext) => {
    const { owner, repo } = input;
    const data = await findOnGitHub(access, context, (client) =>
      client.rest.git.getCommit({ owner, repo, commit_sha }),
    );
    return data === null ? null : parseAnswer(commitAnswer, data);
  };
  /** What the tree holds at each path: along the path, so that a large repository costs no more than a small one. */
  const heldBy = async (
    { owner, repo }: CommitInput,
    rootTree: string,
    paths: readonly string[],
    context: ReadContext,
  ): Promise<Map<string, Held>> => {
    const trees = new Map<string, Promise<z.infer<typeof treeAnswer>>>();
    const treeOf = (tree_sha: string) => {
      const known = trees.get(tree_sha);
      if (known !== undefined) return known;
      const asked = askGitHub(access, context, (client) =>
        client.rest.git.getTree({ owner, repo, tree_sha }),
      ).then((data) => parseAnswer(treeAnswer, data));
      trees.set(tree_sha, asked);
      return asked;
    };
    const held = new Map<string, Held>();
    for (const path of paths) {
      let tree = rootTree;
      const segments = path.split('/');
      for (const [index, segment] of segments.entries()) {
        const entry = (await treeOf(tree)).tree.find((one) => one.path === segment);
        if (entry === undefined) break;
        const isLast = index === segments.length - 1;
        if (isLast || entry.type !== 'tree') {
          // A file, link or submodule where a folder is needed: said below as something that is no file of its own.
          held.set(path, isLast ? { mode: entry.mode, sha: entry.sha } : { mode: 'blocked', sha: entry.sha });
          break;
        }
        tree = entry.sha;
      }
    }
    return held;
  };

  return {
    access: 'write',
    kind: 'github.git.createCommit',
    version: 1,
    description: `Proposes one commit of up to ${MAX_FILES} text files onto a new branch. A person decides on exactly these files. Read each file at base_sha first and give its whole new text. Afterwards propose a pull request.`,
    inputSchema: inputSchemaOf(inputSchema),
    effectClass: 'checkable',
    requestTimeoutMs: COMMIT_TIMEOUT_MS,
    credential: access.credential,
    parse: (input) => parseInput(inputSchema, input),

    async target(raw, context) {
      const input = parseInput(inputSchema, raw);
      const { owner, repo, branch, base_sha } = input;
      const paths = input.files.map(({ path }) => path);
      const { default_branch } = parseAnswer(
        repoAnswer,
        await askGitHub(access, context, (client) => client.rest.repos.get({ owner, repo })),
      );
      const [tip, base, standing] = await Promise.all([
        tipOf(input, context),
        commitOf(input, base_sha, context),
        standingOf(access, input, default_branch, context),
      ]);
      const preconditions: Precondition[] = [{ path: '/branch/sha', expected: tip }];
      const held =
        base === null ? new Map<string, Held>() : await heldBy(input, base.tree.sha, paths, context);
      const diffs = await Promise.all(
        input.files.map(async ({ path, content }) => {
          const before = held.get(path);
          const old = before === undefined ? null : await readBlob(access, input, before, context);
          const { text, added, removed } = lineDiff(old, content);
          return { path, isNew: before === undefined, isSame: old === content, text, added, removed };
        }),
      );
      const refusal =
        branch === default_branch || tip !== null
          ? `The branch ${branch} exists already; only a new one is made.`
          : base === null || standing === null
            ? `There is no commit ${base_sha} on ${default_branch}.`
            : paths.some((path) => isForeign(held.get(path)))
              ? `${paths.find((path) => isForeign(held.get(path)))} is a folder, link or submodule, or lies below a file.`
              : diffs.every(({ isSame }) => isSame)
                ? 'The files are like this already.'
                : null;
      const added = diffs.reduce((sum, one) => sum + one.added, 0);
      const removed = diffs.reduce((sum, one) => sum + one.removed, 0);
      return {
        ...(refusal === null ? {} : { refusal }),
        preconditions,
        title: `commit ${count(paths.length, 'file')} to the new branch ${branch}`,
        facts: [
          { label: 'Repository', value: `${owner}/${repo}` },
          { label: 'Message', value: input.message.split('\n')[0] ?? '' },
          { label: 'Onto', value: `${base_sha.slice(0, 12)}, ${standing ?? 'unknown'}` },
          { label: 'Changes', value: `${count(paths.length, 'file')} (+${added} −${removed})` },
          { label: 'Files', value: paths.join(' · ') },
        ],
        body: diffs
          .map(
            (diff) =>
              `${diff.isNew ? 'added' : 'modified'} ${diff.path} +${diff.added} −${diff.removed}\n${diff.isSame ? '[nothing changes]' : diff.text}`,
          )
          .join('\n\n'),
      };
    },

    async execute(raw, _preconditions, context) {
      const input = parseInput(inputSchema, raw);
      const { owner, repo, branch, base_sha, message } = input;
      const send = async (ask: Parameters<typeof askGitHub>[2]): Promise<unknown> => {
        try {
          return await askGitHub(access, context, ask);
        } catch (error) {
          throw writeError(error);
        }
      };
      const base = await commitOf(input, base_sha, context);
      if (base === null) throw new CountersignError('TOOL_REFUSED', `There is no commit ${base_sha}.`);
      const held = await heldBy(
        input,
        base.tree.sha,
        input.files.map(({ path }) => path),
        context,
      );
      const foreign = input.files.find(({ path }) => isForeign(held.get(path)));
      if (foreign) throw new CountersignError('TOOL_REFUSED', `${foreign.path} is no file of its own.`);

      const tree = parseAnswer(
        shaAnswer,
        await send((client) =>
          client.rest.git.createTree({
            owner,
            repo,
            base_tree: base.tree.sha,
            tree: input.files.map(({ path, content }) => ({
              path,
              content,
              mode: held.get(path)?.mode === MODES.executable ? MODES.executable : MODES.file,
              type: 'blob',
            })),
          }),
        ),
      );
      const commit = parseAnswer(
        shaAnswer,
        await send((client) =>
          client.rest.git.createCommit({ owner, repo, message, tree: tree.sha, parents: [base_sha] }),
        ),
      );
      try {
        await askGitHub(access, context, (client) =>
          client.rest.git.createRef({ owner, repo, ref: `refs/heads/${branch}`, sha: commit.sha }),
        );
      } catch (error) {
        // GitHub's compare-and-set: a branch of this name has come meanwhile. 422 says other things as well, so one more look.
        if (failureOf(error)?.status === 422 && (await tipOf(input, context).catch(() => null)) !== null)
          throw new CountersignError('PRECONDITION_CHANGED', `The branch ${branch} exists already.`, {
            cause: error,
          });
        throw writeError(error);
      }
      return { branch, sha: commit.sha };
    },

    /** The branch may be ours, or of the same name by another hand: only the commit itself tells. */
    async reconcile(raw, _preconditions, context): Promise<Reconciliation> {
      const input = parseInput(inputSchema, raw);
      const tip = await tipOf(input, context);
      if (tip === null) return { outcome: 'absent' };
      const commit = await commitOf(input, tip, context);
      const isOurs =
        commit !== null &&
        commit.parents.length === 1 &&
        commit.parents[0]?.sha === input.base_sha &&
        commit.message.trimEnd() === input.message.trimEnd();
      if (!isOurs) return { outcome: 'unknowable' };
      const { owner, repo } = input;
      const changed = parseAnswer(
        comparisonSchema,
        await askGitHub(access, context, (client) =>
          client.rest.repos.compareCommitsWithBasehead({
            owner,
            repo,
            basehead: `${input.base_sha}...${tip}`,
          }),
        ),
      );
      const wanted = new Map(input.files.map(({ path, content }) => [path, blobSha(content)] as const));
      const held = await heldBy(input, commit.tree.sha, [...wanted.keys()], context);
      const isSame =
        [...wanted].every(([path, sha]) => held.get(path)?.sha === sha) &&
        changed.files.every(({ filename }) => wanted.has(filename));
      return isSame
        ? { outcome: 'applied', receipt: { branch: input.branch, sha: tip } }
        : { outcome: 'unknowable' };
    },

    describeReceipt(raw, receipt) {
      const { branch, files } = parseInput(inputSchema, raw);
      const sha = shaSchema.safeParse(receipt.sha);
      return `Committed ${count(files.length, 'file')} to the new branch ${branch}${sha.success ? ` as ${sha.data.slice(0, 12)}` : ''}.`;
    },
  };
}

/**
 * Where a commit stands on the default branch; null when that does not hold it. GitHub also finds commits of forks by their id: built on
 * one of those, a branch would bring in everything below it, shown to nobody.
 */
async function standingOf(
  access: GitHubAccess,
  { owner, repo, base_sha }: CommitInput,
  defaultBranch: string,
  context: ReadContext,
): Promise<string | null> {
  const data = await findOnGitHub(access, context, (client) =>
    client.rest.repos.compareCommitsWithBasehead({
      owner,
      repo,
      basehead: `${defaultBranch}...${base_sha}`,
    }),
  );
  if (data === null) return null;
  const { ahead_by, behind_by } = parseAnswer(comparisonSchema, data);
  if (ahead_by > 0) return null;
  return behind_by === 0
    ? `the tip of ${defaultBranch}`
    : `${count(behind_by, 'commit')} behind ${defaultBranch}`;
}

async function readBlob(
  access: GitHubAccess,
  { owner, repo }: CommitInput,
  { mode, sha }: Held,
  context: ReadContext,
): Promise<string | null> {
  if (mode !== MODES.file && mode !== MODES.executable) return null;
  const data = await askGitHub(access, context, (client) =>
    client.rest.git.getBlob({ owner, repo, file_sha: sha }),
  );
  return decodeUtf8(parseAnswer(blobAnswer, data).content) ?? '[not a text]\n';
}

function isForeign(held: Held | undefined): boolean {
  return held !== undefined && held.mode !== MODES.file && held.mode !== MODES.executable;
}

/** Two paths for one place, or one inside the other, also on a file system that knows no case. */
function collide(paths: readonly string[]): boolean {
  const plain = paths.map((path) => `${path.toLowerCase()}/`);
  return plain.some((one, index) => plain.some((other, at) => at !== index && other.startsWith(one)));
}
