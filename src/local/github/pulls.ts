/**
 * Pull requests as GitHub has them, where the emulator has them wrong (emulate 0.12.2):
 *
 * - it froze `head.sha` when the pull request was opened; a push to the branch moves it;
 * - it counts no changed files, additions, deletions, and calls everything mergeable;
 * - it lists invented files, and the base commit among the pull request's commits;
 * - merging answers 422 for everything, where GitHub says 409 for another head sha and 405 for what cannot be merged;
 * - it merges onto the base of long ago and takes the head's whole tree, undoing what main got since; squash and rebase
 *   are one commit with a merge commit's title.
 *
 * Invariant: after `refresh`, every open pull request agrees with its branches.
 */
import type { Collection, PullRow, Row, Store } from './emulator.ts';

/** Calls the emulator as the token's owner; `status` 200–299 carries the JSON body GitHub documents. */
export type Api = (
  method: string,
  path: string,
  body?: unknown,
) => Promise<{ status: number; json: unknown }>;

interface Comparison {
  readonly status: string;
  readonly merge_base_commit: { readonly sha: string };
  readonly total_commits: number;
  readonly commits: readonly GitCommit[];
  readonly files: readonly ChangedFile[];
}
interface GitCommit {
  readonly sha: string;
  readonly parents: readonly { readonly sha: string }[];
  readonly commit: {
    readonly message: string;
    readonly tree: { readonly sha: string };
    readonly author: unknown;
  };
}
interface ChangedFile {
  readonly sha: string;
  readonly filename: string;
  readonly previous_filename?: string;
  readonly status: string;
  readonly additions: number;
  readonly deletions: number;
}
interface TreeEntry {
  readonly path: string;
  readonly mode: string;
  readonly type: string;
  readonly sha: string;
}

export interface Answer {
  readonly status: number;
  readonly json: unknown;
}

export class Pulls {
  readonly #store: Store;
  readonly #api: Api;

  constructor(store: Store, api: Api) {
    this.#store = store;
    this.#api = api;
  }

  /** Brings every open pull request up to its branches; called after anything that may have moved one. */
  async refresh(): Promise<void> {
    for (const pull of this.#pulls().all()) {
      if (pull.state !== 'open') continue;
      const repo = this.#repoName(pull.repo_id);
      const head = await this.#tip(repo, pull.head_ref);
      const base = await this.#tip(repo, pull.base_ref);
      if (!head || !base) continue;
      const comparison = await this.#compare(repo, base, head);
      if (!comparison) continue;
      const conflict = await this.#conflicts(repo, base, head, comparison.merge_base_commit.sha);
      const facts = {
        head_sha: head,
        // GitHub notes the base when the head moves, not when the base does.
        base_sha: head === pull.head_sha ? pull.base_sha : base,
        commits: comparison.total_commits,
        changed_files: comparison.files.length,
        additions: sum(comparison.files.map((file) => file.additions)),
        deletions: sum(comparison.files.map((file) => file.deletions)),
        mergeable: !conflict,
        mergeable_state: conflict ? 'dirty' : pull.draft ? 'draft' : 'clean',
      };
      const known = pull as unknown as Record<string, unknown>;
      // An update touches `updated_at`; a look must not.
      if (Object.entries(facts).some(([name, value]) => known[name] !== value))
        this.#pulls().update(pull.id, facts);
    }
  }

  /** What the front answers itself, or null where the emulator is right. */
  async answer(method: string, path: string, query: URLSearchParams, body: unknown): Promise<Answer | null> {
    const [, repo, number, part] =
      /^\/repos\/([^/]+\/[^/]+)\/pulls\/(\d+)\/(merge|files|commits)$/.exec(path) ?? [];
    if (!repo || !number || !part) return null;
    const pull = this.#find(repo, Number(number));
    if (!pull) return null;
    if (part === 'merge') {
      if (method === 'GET') return pull.merged ? { status: 204, json: null } : failure(404, 'Not Found');
      return method === 'PUT' ? await this.#merge(repo, pull, record(body)) : null;
    }
    if (method !== 'GET') return null;
    const comparison = await this.#compare(repo, pull.base_sha, pull.head_sha);
    const items: readonly unknown[] = (part === 'files' ? comparison?.files : comparison?.commits) ?? [];
    const perPage = Math.min(Number(query.get('per_page')) || 30, 100);
    const start = ((Number(query.get('page')) || 1) - 1) * perPage;
    return { status: 200, json: items.slice(start, start + perPage) };
  }

  async #merge(repo: string, pull: PullRow, body: Record<string, unknown>): Promise<Answer> {
    if (pull.merged || pull.state !== 'open') return failure(405, 'Pull Request is not mergeable');
    if (pull.draft) return failure(405, 'Pull Request is still a draft');
    if (typeof body.sha === 'string' && body.sha !== pull.head_sha) {
      return failure(409, 'Head branch was modified. Review and try the merge again.');
    }
    const method = body.merge_method ?? 'merge';
    if (method !== 'merge' && method !== 'squash' && method !== 'rebase')
      return failure(422, 'Invalid request.');
    const base = await this.#tip(repo, pull.base_ref);
    const comparison = base && (await this.#compare(repo, base, pull.head_sha));
    if (!base || !comparison) return failure(405, 'Pull Request is not mergeable');
    const mergeBase = comparison.merge_base_commit.sha;
    if (await this.#conflicts(repo, base, pull.head_sha, mergeBase))
      return failure(405, 'Pull Request is not mergeable');

    const sha =
      method === 'rebase'
        ? await this.#replay(repo, base, comparison.commits)
        : await this.#commit(repo, {
            tree: await this.#apply(repo, base, mergeBase, pull.head_sha),
            parents: method === 'merge' ? [base, pull.head_sha] : [base],
            message: messageOf(pull, repo, method, comparison.commits, body),
          });
    await this.#must('PATCH', `/repos/${repo}/git/refs/heads/${pull.base_ref}`, { sha });
    const now = new Date().toISOString();
    // Closing goes through the emulator, which closes the twin issue and counts; the rest is ours to note.
    await this.#must('PATCH', `/repos/${repo}/pulls/${pull.number}`, { state: 'closed' });
    const actor = record(await this.#must('GET', '/user')).id;
    this.#pulls().update(pull.id, {
      base_sha: base,
      merged: true,
      merged_at: now,
      closed_at: now,
      merged_by_id: actor,
      merge_commit_sha: sha,
      mergeable: null,
      mergeable_state: 'unknown',
    });
    return { status: 200, json: { sha, merged: true, message: 'Pull Request successfully merged' } };
  }

  /** Rebase: each commit's own change on top of the new base. */
  async #replay(repo: string, base: string, commits: readonly GitCommit[]): Promise<string> {
    let tip = base;
    for (const each of commits) {
      const parent = each.parents[0]?.sha ?? base;
      const tree = await this.#apply(repo, tip, parent, each.sha);
      tip = await this.#commit(repo, {
        tree,
        parents: [tip],
        message: each.commit.message,
        author: each.commit.author,
      });
    }
    return tip;
  }

  /** The tree of `onto` with what changed between `from` and `to`: every path that differs, taken whole. */
  async #apply(repo: string, onto: string, from: string, to: string): Promise<string> {
    const [before, after, target] = await Promise.all([from, to, onto].map((sha) => this.#files(repo, sha)));
    const tree: { path: string; mode: string; type: string; sha: string | null }[] = [];
    for (const [path, entry] of after ?? [])
      if (!same(entry, before?.get(path))) tree.push({ ...entry, path });
    for (const [path, entry] of before ?? []) {
      if (!after?.has(path) && target?.has(path)) tree.push({ ...entry, path, sha: null });
    }
    const base_tree = await this.#treeOf(repo, onto);
    if (tree.length === 0) return base_tree;
    return String(record(await this.#must('POST', `/repos/${repo}/git/trees`, { base_tree, tree })).sha);
  }

  /** A file changed on both sides, differently, is a conflict: coarser than git, which also merges within a file. */
  async #conflicts(repo: string, base: string, head: string, mergeBase: string): Promise<boolean> {
    if (base === mergeBase) return false;
    const [ours, theirs, old] = await Promise.all(
      [base, head, mergeBase].map((sha) => this.#files(repo, sha)),
    );
    const paths = new Set([...(ours?.keys() ?? []), ...(theirs?.keys() ?? []), ...(old?.keys() ?? [])]);
    return [...paths].some((path) => {
      const [a, b, o] = [ours?.get(path), theirs?.get(path), old?.get(path)];
      return !same(a, o) && !same(b, o) && !same(a, b);
    });
  }

  async #files(repo: string, sha: string): Promise<Map<string, TreeEntry>> {
    const tree = await this.#treeOf(repo, sha);
    const listed = record(await this.#must('GET', `/repos/${repo}/git/trees/${tree}?recursive=1`))
      .tree as TreeEntry[];
    return new Map(
      listed
        .filter((entry) => entry.type !== 'tree')
        .map((entry) => [
          entry.path,
          { path: entry.path, mode: entry.mode, type: entry.type, sha: entry.sha },
        ]),
    );
  }

  async #treeOf(repo: string, sha: string): Promise<string> {
    const commit = record(await this.#must('GET', `/repos/${repo}/git/commits/${sha}`));
    return String(record(commit.tree).sha);
  }

  async #commit(repo: string, commit: Record<string, unknown>): Promise<string> {
    return String(record(await this.#must('POST', `/repos/${repo}/git/commits`, commit)).sha);
  }

  async #compare(repo: string, base: string, head: string): Promise<Comparison | null> {
    const { status, json } = await this.#api('GET', `/repos/${repo}/compare/${base}...${head}`);
    return status === 200 ? (json as Comparison) : null;
  }

  async #tip(repo: string, branch: string): Promise<string | null> {
    const { status, json } = await this.#api('GET', `/repos/${repo}/git/ref/heads/${branch}`);
    return status === 200 ? String(record(record(json).object).sha) : null;
  }

  async #must(method: string, path: string, body?: unknown): Promise<unknown> {
    const { status, json } = await this.#api(method, path, body);
    if (status >= 300)
      throw new Error(`Local GitHub: ${method} ${path} answered ${status} ${JSON.stringify(json)}`);
    return json;
  }

  #pulls(): Collection<PullRow> {
    return this.#store.collection<PullRow>('github.pull_requests', ['repo_id', 'number']);
  }

  #find(repo: string, number: number): PullRow | undefined {
    const row = this.#repos().findOneBy('full_name', repo);
    return (
      row &&
      this.#pulls()
        .findBy('repo_id', row.id)
        .find((pull) => pull.number === number)
    );
  }

  #repos(): Collection<Row & { full_name: string }> {
    return this.#store.collection<Row & { full_name: string }>('github.repos', ['owner_id', 'full_name']);
  }

  #repoName(id: number): string {
    return this.#repos().findBy('id', id)[0]?.full_name ?? '';
  }
}

/** GitHub's default messages: the merge commit's, and the squash's title with its number and the commits' subjects. */
function messageOf(
  pull: PullRow,
  repo: string,
  method: 'merge' | 'squash',
  commits: readonly GitCommit[],
  body: Record<string, unknown>,
): string {
  const single = commits.length === 1 ? commits[0]?.commit.message.split('\n')[0] : undefined;
  const title =
    text(body.commit_title) ??
    (method === 'merge'
      ? `Merge pull request #${pull.number} from ${repo.split('/')[0]}/${pull.head_ref}`
      : `${single ?? pull.title} (#${pull.number})`);
  const rest =
    text(body.commit_message) ??
    (method === 'merge'
      ? pull.title
      : commits.length > 1
        ? commits.map((each) => `* ${each.commit.message.split('\n')[0]}`).join('\n\n')
        : '');
  return rest ? `${title}\n\n${rest}` : title;
}

function failure(status: number, message: string): Answer {
  return {
    status,
    json: { message, documentation_url: 'https://docs.github.com/rest', status: String(status) },
  };
}

function same(a: TreeEntry | undefined, b: TreeEntry | undefined): boolean {
  return a?.sha === b?.sha && a?.mode === b?.mode;
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' && value.trim() ? value.trim() : undefined;
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, each) => total + each, 0);
}
