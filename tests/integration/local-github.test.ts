/**
 * Guarantee: the local GitHub behaves to the real Octokit as GitHub does where the product relies on it: one credential,
 * a pull request that follows its branch, a merge that happens once and only for the head it was asked for, and writes
 * that are on disk before they are acknowledged, whatever happens to the reply.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Octokit } from '@octokit/rest';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type LocalGitHub, startLocalGitHub } from '../../src/local/github.ts';

const TOKEN = 'local-token';
const SHOP = { owner: 'acme', repo: 'shop' };
const quiet = { debug() {}, info() {}, warn() {}, error() {} };

let stateDir: string;
let github: LocalGitHub;
let octokit: Octokit;

beforeEach(async () => {
  stateDir = await mkdtemp(path.join(tmpdir(), 'local-github-'));
  await open();
});

afterEach(async () => {
  await github.close();
  await rm(stateDir, { recursive: true, force: true });
});

describe('who is served', () => {
  test.each([[undefined], ['another-token'], [`${TOKEN}x`]])('token %s gets 401', async (auth) => {
    const stranger = new Octokit({ baseUrl: github.apiUrl, log: quiet, ...(auth ? { auth } : {}) });

    await expect(stranger.pulls.get({ ...SHOP, pull_number: 1 })).rejects.toMatchObject({ status: 401 });
    await expect(stranger.request('GET /_control/writes')).rejects.toMatchObject({ status: 401 });
  });
});

describe('the seeded repository', () => {
  test('pull request 1 changes src/price.ts, is mergeable, and its head has a successful check', async () => {
    const pull = await pullOne();
    const { data: compared } = await octokit.repos.compareCommitsWithBasehead({
      ...SHOP,
      basehead: `${pull.base.sha}...${pull.head.sha}`,
    });
    const { data: checks } = await octokit.checks.listForRef({ ...SHOP, ref: pull.head.sha });
    const { data: files } = await octokit.pulls.listFiles({ ...SHOP, pull_number: 1 });
    const { data: commits } = await octokit.pulls.listCommits({ ...SHOP, pull_number: 1 });

    expect(pull).toMatchObject({
      title: 'Fix rounding of half cents',
      state: 'open',
      merged: false,
      mergeable: true,
    });
    expect(pull).toMatchObject({ changed_files: 2, commits: 1, user: { login: 'requester' } });
    expect(compared).toMatchObject({ ahead_by: 1, behind_by: 0, total_commits: 1 });
    expect(compared.files?.map((file) => file.filename)).toEqual(['src/price.ts', 'test/price.test.ts']);
    expect(compared.files?.[0]?.patch).toContain(
      '+  return Math.round((netCents * (100 + taxPercent)) / 100);',
    );
    expect(files.map((file) => file.filename)).toEqual(['src/price.ts', 'test/price.test.ts']);
    expect(commits.map((commit) => commit.sha)).toEqual([pull.head.sha]);
    expect(checks.check_runs).toMatchObject([{ name: 'test', status: 'completed', conclusion: 'success' }]);
  });

  test('main has moved on since the last release, and its newest commit fails the nightly check', async () => {
    const { data: latest } = await octokit.repos.getLatestRelease(SHOP);
    const basehead = `${latest.tag_name}...main`;
    const { data: since } = await octokit.repos.compareCommitsWithBasehead({ ...SHOP, basehead });
    const { data: checks } = await octokit.checks.listForRef({
      ...SHOP,
      ref: since.commits.at(-1)?.sha ?? '',
    });

    expect([latest.tag_name, since.ahead_by]).toEqual(['v0.3.1', 3]);
    expect(checks.check_runs).toMatchObject([{ name: 'nightly', conclusion: 'failure' }]);
    expect(checks.check_runs[0]?.output.summary).toContain('src/receipt.ts');
  });

  test('issues have their ages, labels and a report of the bug', async () => {
    const { data: issues } = await octokit.issues.listForRepo({ ...SHOP, state: 'open' });

    const days = (date: string) => (Date.now() - Date.parse(date)) / 86_400_000;
    expect(issues.filter((issue) => !issue.pull_request).length).toBeGreaterThanOrEqual(6);
    expect(issues.filter((issue) => days(issue.updated_at) > 180).length).toBeGreaterThanOrEqual(3);
    expect(issues.find((issue) => issue.number === 2)).toMatchObject({ labels: [{ name: 'bug' }] });
  });
});

describe('merging', () => {
  test('with the right head moves main once; a second merge is 405', async () => {
    const pull = await pullOne();

    const { data: merged } = await merge(pull.head.sha, 'squash');

    const { data: main } = await octokit.repos.getCommit({ ...SHOP, ref: 'main' });
    expect(main).toMatchObject({ sha: merged.sha, parents: [{ sha: pull.base.sha }] });
    expect(main.commit.message).toBe('Fix rounding of half cents (#1)');
    expect(await fileAt('main', 'src/price.ts')).toContain('Math.round((netCents');
    expect(await pullOne()).toMatchObject({ state: 'closed', merged: true, merge_commit_sha: merged.sha });
    await expect(merge(pull.head.sha, 'squash')).rejects.toMatchObject({ status: 405 });
    expect(await mergesListed()).toMatchObject([
      { status: 200, body: { sha: pull.head.sha, merge_method: 'squash' } },
      { status: 405 },
    ]);
  });

  test('with another head is 409 and changes nothing', async () => {
    const pull = await pullOne();

    await expect(merge(pull.base.sha, 'squash')).rejects.toMatchObject({ status: 409 });

    expect(await pullOne()).toMatchObject({ state: 'open', merged: false });
    expect((await octokit.git.getRef({ ...SHOP, ref: 'heads/main' })).data.object.sha).toBe(pull.base.sha);
  });

  test('after a push to the branch the pull request has the new head, and the old one is 409', async () => {
    const before = await pullOne();
    const pushed = await push('fix-rounding', 'NOTES.md', 'Rounding notes\n');

    const after = await pullOne();

    expect(after.head.sha).toBe(pushed);
    expect(after.changed_files).toBe(3);
    await expect(merge(before.head.sha, 'squash')).rejects.toMatchObject({ status: 409 });
    const { data: checks } = await octokit.checks.listForRef({ ...SHOP, ref: pushed });
    expect(checks.total_count).toBe(0);
  });

  test.each(['merge', 'squash', 'rebase'] as const)('by %s keeps what main got meanwhile', async (method) => {
    const pull = await pullOne();
    const newMain = await push('main', 'src/shipping.ts', 'export const freeFromCents = 5000;\n');
    await push('fix-rounding', 'NOTES.md', 'Rounding notes\n');

    const { data: merged } = await merge((await pullOne()).head.sha, method);

    expect(await fileAt('main', 'src/shipping.ts')).toContain('5000');
    expect(await fileAt('main', 'src/price.ts')).toContain('Math.round((netCents');
    expect(await fileAt('main', 'NOTES.md')).toBe('Rounding notes\n');
    const { data: commit } = await octokit.git.getCommit({ ...SHOP, commit_sha: merged.sha });
    expect(commit.parents.length).toBe(method === 'merge' ? 2 : 1);
    if (method === 'rebase') expect(commit.parents[0]?.sha).not.toBe(newMain);
    else expect(commit.parents[0]?.sha).toBe(newMain);
    expect(pull.base.sha).not.toBe(newMain);
  });

  test('two sides changing one file cannot be merged', async () => {
    await push('main', 'src/price.ts', 'export {};\n');

    const pull = await pullOne();

    expect(pull).toMatchObject({ mergeable: false, mergeable_state: 'dirty' });
    await expect(merge(pull.head.sha, 'squash')).rejects.toMatchObject({ status: 405 });
  });
});

describe('other writes', () => {
  test('issues, comments, labels and contents', async () => {
    const { data: issue } = await octokit.issues.create({ ...SHOP, title: 'New', labels: ['bug'] });
    await octokit.issues.addLabels({ ...SHOP, issue_number: issue.number, labels: ['question'] });
    await octokit.issues.createComment({ ...SHOP, issue_number: issue.number, body: 'Seen.' });
    await octokit.issues.update({ ...SHOP, issue_number: issue.number, state: 'closed' });
    const { data: readme } = await octokit.repos.getContent({ ...SHOP, path: 'README.md' });
    const sha = 'sha' in readme ? readme.sha : '';
    const content = Buffer.from('# changed\n').toString('base64');
    const put = { ...SHOP, path: 'README.md', message: 'Change', content };
    await octokit.repos.createOrUpdateFileContents({ ...put, sha });

    const { data: read } = await octokit.issues.get({ ...SHOP, issue_number: issue.number });
    expect(read).toMatchObject({ state: 'closed', comments: 1, user: { login: 'countersign-bot' } });
    expect(read.labels.map((label) => (typeof label === 'string' ? label : label.name))).toEqual([
      'bug',
      'question',
    ]);
    expect(await fileAt('main', 'README.md')).toBe('# changed\n');
    await expect(octokit.repos.createOrUpdateFileContents({ ...put, sha })).rejects.toMatchObject({
      status: 409,
    });
  });
});

describe('what was acknowledged is kept', () => {
  test('a restart has the merge, its list of writes and the same port', async () => {
    const { data: merged } = await merge((await pullOne()).head.sha, 'squash');
    const { port } = github;
    await github.close();

    await open();

    expect(github.port).toBe(port);
    expect(await pullOne()).toMatchObject({ merged: true, merge_commit_sha: merged.sha });
    expect(await mergesListed()).toHaveLength(1);
    await expect(merge(merged.sha, 'squash')).rejects.toMatchObject({ status: 405 });
  });

  test('the file holds a write before its reply leaves', async () => {
    await order({ kind: 'hold', match: { method: 'PUT', pathPattern: '/merge$' } });
    const { head } = await pullOne();

    const reply = merge(head.sha, 'squash');
    await expect.poll(async () => (await control('GET', 'faults')).held).toBe(1);

    const onDisk = JSON.parse(await readFile(path.join(stateDir, 'github.json'), 'utf8'));
    expect(onDisk.store.collections['github.pull_requests'].items).toMatchObject([
      { number: 1, merged: true },
    ]);
    await control('POST', 'release');
    expect((await reply).data.merged).toBe(true);
  });
});

describe('ordered faults', () => {
  test('drop-after performs and loses the reply', async () => {
    await order({ kind: 'drop-after', match: { pathPattern: '/merge$' } });

    await expect(merge((await pullOne()).head.sha, 'squash')).rejects.toMatchObject({ status: 500 });

    expect(await pullOne()).toMatchObject({ merged: true });
    expect(await mergesListed()).toMatchObject([{ status: 200, performed: true, fault: 'drop-after' }]);
  });

  test('drop-before loses the request, once', async () => {
    await order({ kind: 'drop-before', match: { pathPattern: '/merge$' } });
    const { head } = await pullOne();

    await expect(merge(head.sha, 'squash')).rejects.toMatchObject({ status: 500 });

    expect(await pullOne()).toMatchObject({ merged: false });
    await merge(head.sha, 'squash');
    expect(await mergesListed()).toMatchObject([
      { status: null, performed: false },
      { status: 200, performed: true },
    ]);
  });

  test('status answers without performing, as often as ordered', async () => {
    await order({
      kind: 'status',
      status: 502,
      times: 2,
      match: { method: 'GET', pathPattern: '/pulls/1$' },
    });

    await expect(pullOne()).rejects.toMatchObject({ status: 502 });
    await expect(pullOne()).rejects.toMatchObject({ status: 502 });
    expect((await pullOne()).number).toBe(1);
  });

  test('a held reply ends when its client leaves', async () => {
    await order({ kind: 'hold', match: { pathPattern: '/merge$' } });
    const { head } = await pullOne();
    const client = new AbortController();

    const reply = merge(head.sha, 'squash', client.signal);
    await expect.poll(async () => (await control('GET', 'faults')).held).toBe(1);
    client.abort();

    await expect(reply).rejects.toThrow();
    await expect.poll(async () => (await control('GET', 'faults')).held).toBe(0);
    expect(await pullOne()).toMatchObject({ merged: true });
  });
});

async function open(): Promise<void> {
  github = await startLocalGitHub({ stateDir, token: TOKEN });
  octokit = new Octokit({ baseUrl: github.apiUrl, auth: TOKEN, log: quiet, retry: { enabled: false } });
}

async function pullOne() {
  return (await octokit.pulls.get({ ...SHOP, pull_number: 1 })).data;
}

function merge(sha: string, merge_method: 'merge' | 'squash' | 'rebase', signal?: AbortSignal) {
  return octokit.pulls.merge({
    ...SHOP,
    pull_number: 1,
    sha,
    merge_method,
    ...(signal ? { request: { signal } } : {}),
  });
}

async function fileAt(ref: string, file: string): Promise<string> {
  const { data } = await octokit.repos.getContent({ ...SHOP, path: file, ref });
  if (!('content' in data)) throw new Error(`${file} is no file`);
  return Buffer.from(data.content, 'base64').toString('utf8');
}

/** A commit by the Git Data API, as the product's write tools will make it. */
async function push(branch: string, file: string, content: string): Promise<string> {
  const { data: ref } = await octokit.git.getRef({ ...SHOP, ref: `heads/${branch}` });
  const { data: parent } = await octokit.git.getCommit({ ...SHOP, commit_sha: ref.object.sha });
  const { data: blob } = await octokit.git.createBlob({ ...SHOP, content, encoding: 'utf-8' });
  const entry = { path: file, mode: '100644', type: 'blob', sha: blob.sha } as const;
  const { data: tree } = await octokit.git.createTree({ ...SHOP, base_tree: parent.tree.sha, tree: [entry] });
  const commit = { message: `Change ${file}`, tree: tree.sha, parents: [parent.sha] };
  const { data: made } = await octokit.git.createCommit({ ...SHOP, ...commit });
  await octokit.git.updateRef({ ...SHOP, ref: `heads/${branch}`, sha: made.sha });
  return made.sha;
}

async function control<T = { held: number }>(
  method: 'GET' | 'POST',
  name: string,
  body?: unknown,
): Promise<T> {
  const response = await fetch(`${github.apiUrl}/_control/${name}`, {
    method,
    headers: { authorization: `token ${TOKEN}` },
    ...(body ? { body: JSON.stringify(body) } : {}),
  });
  expect(response.ok).toBe(true);
  return (await response.json()) as T;
}

async function order(fault: Record<string, unknown>): Promise<void> {
  await control('POST', 'faults', fault);
}

async function mergesListed(): Promise<{ status: number }[]> {
  const writes = await control<{ path: string; status: number }[]>('GET', 'writes');
  return writes.filter((write) => write.path.endsWith('/merge'));
}
