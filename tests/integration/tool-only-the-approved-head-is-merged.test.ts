/**
 * Guarantee: the merge tool merges the head commit that was approved or nothing, once. A head that moved, a pull
 * request that was closed or merged meanwhile, and a base that changed come out as a changed precondition or as a
 * question for a person; after a crash a look tells whether the merge went through. Runs the real Octokit against the
 * local GitHub, through the real egress.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Octokit } from '@octokit/rest';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createEgress, type Egress, mintPermit } from '../../src/agents/egress.ts';
import { toolsFor } from '../../src/agents/tools/index.ts';
import { receiptLine } from '../../src/jobs/approval-view.ts';
import { type LocalGitHub, startLocalGitHub } from '../../src/local/github.ts';
import type { JsonObject, Precondition, ReadContext, ReadTool, WriteTool } from '../../src/types.ts';

const TOKEN = 'local-token';
const SHOP = { owner: 'acme', repo: 'shop' };
const PULL = { ...SHOP, pull_number: 1 };
const quiet = { debug() {}, info() {}, warn() {}, error() {} };

let stateDir: string;
let github: LocalGitHub;
let octokit: Octokit;
let egress: Egress;
let merge: WriteTool;
let input: JsonObject;

beforeEach(async () => {
  stateDir = await mkdtemp(path.join(tmpdir(), 'merge-tool-'));
  github = await startLocalGitHub({ stateDir, token: TOKEN });
  octokit = new Octokit({ auth: TOKEN, baseUrl: github.apiUrl, log: quiet });
  egress = createEgress({ allowedOrigins: [github.apiUrl] });
  merge = tool('github.pulls.merge') as WriteTool;
  input = merge.parse({ ...PULL, merge_method: 'squash' });
});

afterEach(async () => {
  await github.close();
  await rm(stateDir, { recursive: true, force: true });
});

function tool(kind: string, token = TOKEN) {
  const found = toolsFor({ baseUrl: github.apiUrl, token, credential: 'local bot' }).find(
    (candidate) => candidate.kind === kind,
  );
  if (found === undefined) throw new Error(`No tool ${kind}.`);
  return found;
}

const reading = (): ReadContext => ({ fetch: egress.read, signal: new AbortController().signal });

function execute(preconditions: readonly Precondition[]) {
  const permit = mintPermit({
    actionId: 'action-1',
    actionHash: 'f'.repeat(64),
    fence: 1,
    sendBy: Number.POSITIVE_INFINITY,
  });
  const signal = new AbortController().signal;
  return merge
    .execute(input, preconditions, { fetch: egress.write(permit), signal, idempotencyKey: 'key' })
    .finally(() => permit.close());
}

async function approved(): Promise<readonly Precondition[]> {
  return (await merge.target(input, reading())).preconditions;
}

async function pull() {
  return (await octokit.pulls.get(PULL)).data;
}

async function moveHead(): Promise<void> {
  const { head } = await pull();
  await octokit.repos.createOrUpdateFileContents({
    ...SHOP,
    path: 'another.txt',
    branch: head.ref,
    message: 'One more thing',
    content: Buffer.from('more').toString('base64'),
  });
}

describe('what a reviewer is shown', () => {
  test('names the merge, binds state, head and base, and carries the whole diff', async () => {
    const { head } = await pull();

    const view = await merge.target(input, reading());

    expect(view.title).toBe('merge pull request 1 into main');
    expect(view.preconditions).toEqual([
      { path: '/state', expected: 'open' },
      { path: '/head/sha', expected: head.sha },
      { path: '/base/ref', expected: 'main' },
    ]);
    const facts = Object.fromEntries(view.facts.map(({ label, value }) => [label, value]));
    expect(facts).toMatchObject({
      'Pull request': 'Fix rounding of half cents',
      Repository: 'acme/shop',
      Head: `${head.ref} at ${head.sha.slice(0, 12)}`,
      Method: 'squash',
      Author: 'requester',
    });
    expect(facts.Changes).toMatch(/^2 files \(\+\d+ −\d+\), 1 commit$/);
    expect(view.body).toMatch(/^modified src\/price\.ts \+\d+ −\d+\n@@/);
    expect(view.body).toContain('test/price.test.ts');
  });
});

describe('merging', () => {
  test('merges the approved head with the approved method, and says so', async () => {
    const preconditions = await approved();

    const receipt = await execute(preconditions);

    const after = await pull();
    expect(after.merged).toBe(true);
    expect(receipt).toEqual({ merged: true, sha: after.merge_commit_sha, head_sha: after.head.sha });
    expect(merge.describeReceipt(input, receipt)).toBe(
      `Merged pull request 1 as ${after.merge_commit_sha?.slice(0, 12)}.`,
    );
  });

  test('of a receipt that fits no tool of this release as much is said as is known', () => {
    const unfit = { owner: 'acme' };

    expect(() => merge.describeReceipt(unfit, {})).toThrow();
    expect(receiptLine([merge], merge.kind, unfit, {})).toBe('github.pulls.merge done');
  });

  test('merges nothing when the head moved', async () => {
    const preconditions = await approved();
    await moveHead();

    await expect(execute(preconditions)).rejects.toMatchObject({ code: 'PRECONDITION_CHANGED' });
    expect((await pull()).merged).toBe(false);
  });

  test('a second execution changes nothing and reports that what was approved no longer stands', async () => {
    const preconditions = await approved();
    const receipt = await execute(preconditions);

    await expect(execute(preconditions)).rejects.toMatchObject({ code: 'PRECONDITION_CHANGED' });
    expect((await pull()).merge_commit_sha).toBe(receipt.sha);
  });

  test('without an approved head nothing is sent', async () => {
    for (const expected of [null, 'main', 'A'.repeat(40)])
      await expect(execute([{ path: '/head/sha', expected }])).rejects.toMatchObject({
        code: 'TOOL_REFUSED',
      });
    expect((await pull()).merged).toBe(false);
  });

  test('without a permit nothing is merged', async () => {
    const preconditions = await approved();

    const attempt = merge.execute(input, preconditions, { ...reading(), idempotencyKey: 'key' });

    await expect(attempt).rejects.toMatchObject({ code: 'PERMIT_REQUIRED' });
    expect((await pull()).merged).toBe(false);
  });
});

describe('after a crash', () => {
  test('an open pull request was not merged', async () => {
    expect(await merge.reconcile(input, await approved(), reading())).toEqual({ outcome: 'absent' });
  });

  test('a merged one with the approved head was: the receipt is the one execute gave', async () => {
    const preconditions = await approved();
    const receipt = await execute(preconditions);

    expect(await merge.reconcile(input, preconditions, reading())).toEqual({ outcome: 'applied', receipt });
  });

  test('merged with another head, or closed, is for a person to tell', async () => {
    const preconditions = await approved();
    await moveHead();
    await execute(await approved());

    expect(await merge.reconcile(input, preconditions, reading())).toEqual({ outcome: 'unknowable' });
  });

  test('closed without a merge is for a person to tell', async () => {
    const preconditions = await approved();
    await octokit.pulls.update({ ...PULL, state: 'closed' });

    expect(await merge.reconcile(input, preconditions, reading())).toEqual({ outcome: 'unknowable' });
    await expect(execute(preconditions)).rejects.toMatchObject({ code: 'PRECONDITION_CHANGED' });
  });
});

describe('the read tools', () => {
  const read = (kind: string, given: JsonObject, token?: string) => {
    const found = tool(kind, token) as ReadTool;
    return found.read(found.parse(given), reading());
  };

  test('return what an agent needs and nothing else', async () => {
    const { head, base } = await pull();
    const basehead = `${base.sha}...${head.sha}`;

    expect(await read('github.pulls.get', PULL)).toEqual({
      number: 1,
      title: 'Fix rounding of half cents',
      state: 'open',
      draft: false,
      merged: false,
      mergeable: true,
      head: { ref: head.ref, sha: head.sha },
      base: { ref: 'main', sha: base.sha },
      user: 'requester',
      body: expect.any(String),
      changed_files: 2,
      additions: expect.any(Number),
      deletions: expect.any(Number),
    });
    expect(await read('github.repos.compareCommitsWithBasehead', { ...SHOP, basehead })).toMatchObject({
      ahead_by: 1,
      behind_by: 0,
      total_commits: 1,
      files: [{ filename: 'src/price.ts', status: 'modified', patch: expect.stringContaining('@@') }, {}],
    });
    expect(await read('github.checks.listForRef', { ...SHOP, ref: head.sha })).toMatchObject({
      total_count: 1,
      check_runs: [{ status: 'completed', conclusion: 'success' }],
    });
  });

  test('take branch names with slashes', async () => {
    const { head } = await pull();
    await octokit.git.createRef({ ...SHOP, ref: 'refs/heads/fix/a.b', sha: head.sha });

    expect(
      await read('github.repos.compareCommitsWithBasehead', { ...SHOP, basehead: 'main...fix/a.b' }),
    ).toMatchObject({ ahead_by: 1 });
  });

  test('say that something is missing, or that the token is wrong, for good', async () => {
    await expect(read('github.pulls.get', { ...SHOP, pull_number: 99 })).rejects.toMatchObject({
      code: 'TOOL_REFUSED',
      message: expect.stringContaining('404'),
    });
    await expect(read('github.pulls.get', PULL, 'wrong')).rejects.toMatchObject({
      code: 'TOOL_REFUSED',
      message: expect.stringContaining('401'),
    });
  });
});
