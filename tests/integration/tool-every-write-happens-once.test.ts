/**
 * Guarantee: each write tool does what its card said, once, and can tell afterwards whether it did. A look before sees nothing; after the
 * effect, also when the answer was lost, it finds the receipt that the answer would have given; when the request was lost, it finds
 * nothing. What a person could not see is bound, and what exists already is refused. Runs the real Octokit against the local GitHub,
 * through the real egress.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Octokit } from '@octokit/rest';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createEgress, type Egress, mintPermit } from '../../src/agents/egress.ts';
import { toolsFor } from '../../src/agents/tools/index.ts';
import { type LocalGitHub, startLocalGitHub } from '../../src/local/github.ts';
import type { JsonObject, Precondition, WriteTool } from '../../src/types.ts';
import { type AnsweringServer, startAnsweringServer } from '../support/answering-server.ts';

const TOKEN = 'local-token';
const SHOP = { owner: 'acme', repo: 'shop' };
const quiet = { debug() {}, info() {}, warn() {}, error() {} };

let stateDir: string;
let github: LocalGitHub;
let octokit: Octokit;
let egress: Egress;
let tip: string;

beforeEach(async () => {
  stateDir = await mkdtemp(path.join(tmpdir(), 'write-tools-'));
  github = await startLocalGitHub({ stateDir, token: TOKEN });
  octokit = new Octokit({ auth: TOKEN, baseUrl: github.apiUrl, log: quiet });
  egress = createEgress({ allowedOrigins: [github.apiUrl] });
  tip = (await octokit.git.getRef({ ...SHOP, ref: 'heads/main' })).data.object.sha;
});

afterEach(async () => {
  await github.close();
  await rm(stateDir, { recursive: true, force: true });
});

const reading = () => ({ fetch: egress.read, signal: new AbortController().signal });

/** One write tool with its arguments, as the executor uses it. */
function act(kind: string, input: JsonObject) {
  const tool = toolsFor({ baseUrl: github.apiUrl, token: TOKEN, credential: 'local bot' }).find(
    (candidate) => candidate.kind === kind,
  ) as WriteTool;
  const args = tool.parse({ ...SHOP, ...input });
  return {
    tool,
    args,
    target: () => tool.target(args, reading()),
    reconcile: (preconditions: readonly Precondition[]) => tool.reconcile(args, preconditions, reading()),
    execute: (preconditions: readonly Precondition[]) => {
      const permit = mintPermit({
        actionId: 'action',
        actionHash: 'f'.repeat(64),
        fence: 1,
        sendBy: Number.POSITIVE_INFINITY,
      });
      return tool
        .execute(args, preconditions, { ...reading(), fetch: egress.write(permit), idempotencyKey: 'key' })
        .finally(() => permit.close());
    },
  };
}

const FILES = [
  { path: 'src/price.ts', content: 'export const nothing = 1;\n' },
  { path: 'docs/new.md', content: 'No line end, and a ”quotation”' },
];
const commitTo = (branch: string, over: JsonObject = {}) =>
  act('github.git.createCommit', {
    branch,
    base_sha: tip,
    message: 'Change two files',
    files: FILES,
    ...over,
  });

async function control(method: string, route: string, body?: object): Promise<unknown> {
  const response = await fetch(`${github.apiUrl}/_control/${route}`, {
    method,
    headers: { authorization: `Bearer ${TOKEN}` },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return response.json();
}
const performed = async () =>
  ((await control('GET', 'writes')) as { performed: boolean }[]).filter((write) => write.performed).length;

const WRITES: readonly {
  kind: string;
  /** The request that has the effect. */
  effect: { method: string; pathPattern: string };
  make: () => Promise<ReturnType<typeof act>>;
  /** What stands on GitHub because of it. */
  seen: () => Promise<unknown>;
  expected: (receipt: JsonObject) => unknown;
  line: RegExp;
}[] = [
  {
    kind: 'github.issues.addLabels',
    effect: { method: 'POST', pathPattern: '/issues/3/labels$' },
    make: async () => act('github.issues.addLabels', { issue_number: 3, labels: ['countersign/bug', 'bug'] }),
    seen: async () =>
      (await octokit.issues.get({ ...SHOP, issue_number: 3 })).data.labels
        .map((label) => (typeof label === 'string' ? label : label.name))
        .sort(),
    expected: () => ['bug', 'countersign/bug'],
    line: /^Labelled issue 3: countersign\/bug, bug\.$/,
  },
  {
    kind: 'github.issues.createComment',
    effect: { method: 'POST', pathPattern: '/issues/6/comments$' },
    make: async () =>
      act('github.issues.createComment', { issue_number: 6, body: 'Which version?\n\nThanks.' }),
    seen: async () =>
      (await octokit.issues.listComments({ ...SHOP, issue_number: 6 })).data.map(({ id, body }) => ({
        id,
        body,
      })),
    expected: (receipt) => [{ id: receipt.comment_id, body: 'Which version?\n\nThanks.' }],
    line: /^Commented on 6\.$/,
  },
  {
    kind: 'github.issues.update',
    effect: { method: 'PATCH', pathPattern: '/issues/4$' },
    make: async () => act('github.issues.update', { issue_numbers: [4] }),
    seen: async () => (await octokit.issues.get({ ...SHOP, issue_number: 4 })).data.state,
    expected: () => 'closed',
    line: /^Closed 1 issue: 4\.$/,
  },
  {
    kind: 'github.git.createCommit',
    effect: { method: 'POST', pathPattern: '/git/refs$' },
    make: async () => commitTo('countersign/a.b'),
    seen: async () => {
      const { data } = await octokit.git.getRef({ ...SHOP, ref: 'heads/countersign/a.b' });
      const { data: made } = await octokit.git.getCommit({ ...SHOP, commit_sha: data.object.sha });
      const { data: compared } = await octokit.repos.compareCommitsWithBasehead({
        ...SHOP,
        basehead: `${tip}...${made.sha}`,
      });
      return {
        sha: made.sha,
        parents: made.parents.map(({ sha }) => sha),
        files: compared.files?.map((file) => file.filename).sort(),
      };
    },
    expected: (receipt) => ({ sha: receipt.sha, parents: [tip], files: ['docs/new.md', 'src/price.ts'] }),
    line: /^Committed 2 files to the new branch countersign\/a\.b as [0-9a-f]{12}\.$/,
  },
  {
    kind: 'github.pulls.create',
    effect: { method: 'POST', pathPattern: '/pulls$' },
    make: async () => {
      const commit = commitTo('change');
      await commit.execute((await commit.target()).preconditions);
      return act('github.pulls.create', {
        head: 'change',
        base: 'main',
        title: 'Change',
        body: 'It changes.\n',
      });
    },
    seen: async () =>
      (await octokit.pulls.list({ ...SHOP, state: 'all' })).data
        .filter(({ number }) => number !== 1)
        .map(({ number, title, head, base }) => ({ number, title, head: head.ref, base: base.ref })),
    expected: (receipt) => [{ number: receipt.pull_number, title: 'Change', head: 'change', base: 'main' }],
    line: /^Opened pull request \d+ from change into main\.$/,
  },
  {
    kind: 'github.repos.createRelease',
    effect: { method: 'POST', pathPattern: '/releases$' },
    make: async () =>
      act('github.repos.createRelease', {
        tag_name: 'v0.4.0',
        target_commitish: tip,
        name: '0.4.0',
        body: '- It thanks.',
      }),
    seen: async () =>
      (await octokit.repos.listReleases(SHOP)).data
        .filter(({ tag_name }) => tag_name === 'v0.4.0')
        .map(({ id, draft, body }) => ({ id, draft, body })),
    expected: (receipt) => [{ id: receipt.release_id, draft: true, body: '- It thanks.' }],
    line: /^Drafted release v0\.4\.0/,
  },
];

describe.each(WRITES)('$kind', ({ effect, make, seen, expected, line }) => {
  test('happens once, is told by its receipt, and is refused when it stands already', async () => {
    const action = await make();
    const { preconditions, refusal } = await action.target();
    expect(refusal).toBeUndefined();
    expect(await action.reconcile(preconditions)).toEqual({ outcome: 'absent' });

    const receipt = await action.execute(preconditions);

    expect(await seen()).toEqual(expected(receipt));
    expect(action.tool.describeReceipt(action.args, receipt)).toMatch(line);
    expect(await action.reconcile(preconditions)).toEqual({ outcome: 'applied', receipt });
    expect((await action.target()).refusal).toMatch(/\S/);
  });

  test('whose answer was lost is found, with the receipt it would have had', async () => {
    const action = await make();
    const { preconditions } = await action.target();
    await control('POST', 'faults', { match: effect, kind: 'drop-after' });

    await expect(action.execute(preconditions)).rejects.toMatchObject({ code: 'TOOL_FAILED' });

    const found = await action.reconcile(preconditions);
    if (found.outcome !== 'applied') throw new Error(found.outcome);
    expect(await seen()).toEqual(expected(found.receipt));
    expect(action.tool.describeReceipt(action.args, found.receipt)).toMatch(line);
  });

  test.each([
    ['never arrived', { kind: 'drop-before' }, 'TOOL_FAILED'],
    ['met a GitHub in trouble', { kind: 'status', status: 502 }, 'TOOL_FAILED'],
    ['was forbidden', { kind: 'status', status: 403 }, 'TOOL_REFUSED'],
  ])('that %s is not there, and may be sent again', async (_name, fault, code) => {
    const action = await make();
    const { preconditions } = await action.target();
    await control('POST', 'faults', { match: effect, ...fault });

    await expect(action.execute(preconditions)).rejects.toMatchObject({ name: 'CountersignError', code });

    expect(await action.reconcile(preconditions)).toEqual({ outcome: 'absent' });
    const receipt = await action.execute(preconditions);
    expect(await seen()).toEqual(expected(receipt));
  });

  test('without a permit changes nothing', async () => {
    const action = await make();
    const { preconditions } = await action.target();
    const before = await performed();

    const attempt = action.tool.execute(action.args, preconditions, { ...reading(), idempotencyKey: 'key' });

    await expect(attempt).rejects.toMatchObject({ code: 'PERMIT_REQUIRED' });
    expect(await performed()).toBe(before);
  });
});

describe('a commit', () => {
  test('shows the whole difference, and leaves main where it was', async () => {
    const action = commitTo('change');
    const { body, title, facts } = await action.target();
    await action.execute((await action.target()).preconditions);

    expect(title).toBe('commit 2 files to the new branch change');
    expect(body).toContain('modified src/price.ts +1 −');
    expect(body).toContain('-/** Amounts are whole cents; rates are whole percents. */');
    expect(body).toContain('+No line end, and a ”quotation”\n\\ No newline at end of file');
    expect(facts).toContainEqual({ label: 'Onto', value: `${tip.slice(0, 12)}, the tip of main` });
    expect((await octokit.git.getRef({ ...SHOP, ref: 'heads/main' })).data.object.sha).toBe(tip);
  });

  test('onto the default branch, or any that exists, is refused, and by GitHub as well', async () => {
    for (const branch of ['main', 'fix-rounding']) {
      const before = (await octokit.git.getRef({ ...SHOP, ref: `heads/${branch}` })).data.object.sha;
      const action = commitTo(branch);
      expect((await action.target()).refusal).toMatch(/exists already/);

      await expect(action.execute([{ path: '/branch/sha', expected: null }])).rejects.toMatchObject({
        code: 'PRECONDITION_CHANGED',
      });

      expect((await octokit.git.getRef({ ...SHOP, ref: `heads/${branch}` })).data.object.sha).toBe(before);
    }
  });

  test('onto a commit that main does not hold is refused: it would bring in what nobody saw', async () => {
    const stranger = (await octokit.git.getRef({ ...SHOP, ref: 'heads/fix-rounding' })).data.object.sha;

    for (const base_sha of [stranger, 'd'.repeat(40)])
      expect((await commitTo('change', { base_sha }).target()).refusal).toBe(
        `There is no commit ${base_sha} on main.`,
      );
  });

  test('through a link, over a folder, or below a file is refused', async () => {
    const base = (await octokit.git.getCommit({ ...SHOP, commit_sha: tip })).data.tree.sha;
    const tree = (
      await octokit.git.createTree({
        ...SHOP,
        base_tree: base,
        tree: [{ path: 'link', mode: '120000', type: 'blob', content: '/etc/passwd' }],
      })
    ).data.sha;
    const linked = (await octokit.git.createCommit({ ...SHOP, message: 'A link', tree, parents: [tip] })).data
      .sha;
    await octokit.git.updateRef({ ...SHOP, ref: 'heads/main', sha: linked });

    for (const place of ['link', 'link/x', 'src', 'README.md/x']) {
      const action = commitTo('change', { base_sha: linked, files: [{ path: place, content: 'x' }] });
      expect((await action.target()).refusal, place).toMatch(/folder, link or submodule/);
      await expect(action.execute([])).rejects.toMatchObject({ code: 'TOOL_REFUSED' });
    }
  });

  test('on a branch of the same name by another hand is for a person to tell', async () => {
    const action = commitTo('change');
    const { preconditions } = await action.target();
    await octokit.git.createRef({ ...SHOP, ref: 'refs/heads/change', sha: tip });

    expect(await action.reconcile(preconditions)).toEqual({ outcome: 'unknowable' });
    await expect(action.execute(preconditions)).rejects.toMatchObject({ code: 'PRECONDITION_CHANGED' });
  });

  test('of the same files under other words is not ours', async () => {
    const action = commitTo('change');
    const { preconditions } = await action.target();
    const other = commitTo('change', { message: 'Somebody else was faster' });
    await other.execute((await other.target()).preconditions);

    expect(await action.reconcile(preconditions)).toEqual({ outcome: 'unknowable' });
  });
});

describe('what was there before', () => {
  test('an earlier pull request with these very words is not taken for ours', async () => {
    const commit = commitTo('change');
    await commit.execute((await commit.target()).preconditions);
    const words = { head: 'change', base: 'main', title: 'Change', body: 'It changes.' };
    const earlier = (await octokit.pulls.create({ ...SHOP, ...words })).data.number;
    await octokit.pulls.update({ ...SHOP, pull_number: earlier, state: 'closed' });
    const action = act('github.pulls.create', words);
    const { preconditions, refusal } = await action.target();

    expect(refusal).toBeUndefined();
    expect(await action.reconcile(preconditions)).toEqual({ outcome: 'absent' });
    const receipt = await action.execute(preconditions);
    expect(receipt.pull_number).not.toBe(earlier);
    expect(await action.reconcile(preconditions)).toEqual({ outcome: 'applied', receipt });
  });

  test('another draft of the same tag is not taken for ours, and one that comes meanwhile is asked about', async () => {
    const words = { tag_name: 'v0.4.0', target_commitish: tip, name: '0.4.0', body: '- It thanks.' };
    const action = act('github.repos.createRelease', words);
    const { preconditions: without } = await action.target();
    await octokit.repos.createRelease({ ...SHOP, ...words, body: 'by hand', draft: true });

    expect(await action.reconcile(without)).toEqual({ outcome: 'unknowable' });
    const { preconditions, refusal } = await action.target();
    expect([refusal, preconditions]).not.toEqual([undefined, without]);
    expect(await action.reconcile(preconditions)).toEqual({ outcome: 'absent' });
  });
});

describe('a batch of issues', () => {
  const batch = (issue_numbers: number[]) => act('github.issues.update', { issue_numbers });

  test('lists every issue to the reviewer, and closes exactly these', async () => {
    const action = batch([4, 5, 6]);
    const { title, body, preconditions } = await action.target();
    const receipt = await action.execute(preconditions);

    expect(title).toBe('close 3 issues');
    expect(body?.split('\n').map((line) => line.slice(0, 2))).toEqual(['#4', '#5', '#6']);
    expect(receipt).toEqual({ closed: [4, 5, 6], closed_before: [], left: [] });
    const open = (await octokit.issues.listForRepo({ ...SHOP, per_page: 100 })).data.map(
      ({ number }) => number,
    );
    expect(open).toEqual(expect.arrayContaining([2, 3, 7, 8]));
    expect(open).not.toEqual(expect.arrayContaining([4]));
  });

  test('that GitHub refuses in the middle tells exactly what is closed and what is not', async () => {
    const action = batch([4, 5, 6]);
    const { preconditions } = await action.target();
    await control('POST', 'faults', {
      match: { method: 'PATCH', pathPattern: '/issues/5$' },
      kind: 'status',
      status: 403,
    });

    const receipt = await action.execute(preconditions);

    expect(receipt).toMatchObject({ closed: [4, 6], left: [{ issue_number: 5 }] });
    expect(action.tool.describeReceipt(action.args, receipt)).toMatch(
      /^Closed 2 of 3 issues: 4, 6\. Not closed: 5 \(GitHub answered 403/,
    );
    expect((await octokit.issues.get({ ...SHOP, issue_number: 5 })).data.state).toBe('open');
  });

  test('that was cut in the middle waits until nothing can arrive any more, and then tells the same', async () => {
    const action = batch([4, 5, 6]);
    const { preconditions } = await action.target();
    await control('POST', 'faults', {
      match: { method: 'PATCH', pathPattern: '/issues/5$' },
      kind: 'drop-before',
    });

    await expect(action.execute(preconditions)).rejects.toMatchObject({ code: 'TOOL_FAILED' });

    await expect(action.reconcile(preconditions)).rejects.toMatchObject({
      code: 'TOOL_FAILED',
      retryAfterMs: expect.any(Number),
    });
  });

  test('leaves alone an issue on which somebody has spoken, and one that is closed', async () => {
    const action = batch([4, 5, 6]);
    const { preconditions } = await action.target();
    await octokit.issues.createComment({ ...SHOP, issue_number: 5, body: 'We still need this.' });
    await octokit.issues.update({ ...SHOP, issue_number: 6, state: 'closed' });

    expect((await action.target()).preconditions).not.toEqual(preconditions);
    const receipt = await action.execute(preconditions);

    expect(action.tool.describeReceipt(action.args, receipt)).toBe(
      'Closed 1 of 3 issues: 4. Closed already: 6. Not closed: 5 (somebody has commented since it was reviewed).',
    );
    expect((await octokit.issues.get({ ...SHOP, issue_number: 5 })).data.state).toBe('open');
  });
});

describe('an issue as GitHub itself answers for it', () => {
  const servers: AnsweringServer[] = [];
  afterEach(async () => {
    await Promise.all(servers.splice(0).map((server) => server.close()));
  });
  /** Issues by number, as GitHub sends them; anything else is an empty list. */
  async function world(issues: Readonly<Record<number, object>>) {
    const server = await startAnsweringServer(({ url }) => {
      const number = Number(/\/issues\/(\d+)$/.exec(url)?.[1]);
      if (Number.isNaN(number)) return { status: 200, body: [] };
      const dates = { created_at: '2026-01-01T00:00:00Z', updated_at: '2026-01-01T00:00:00Z' };
      return { status: 200, body: { number, title: 'x', state: 'open', ...dates, ...issues[number] } };
    });
    servers.push(server);
    const reads = createEgress({ allowedOrigins: [server.url] }).read;
    const tools = toolsFor({ baseUrl: server.url, token: TOKEN, credential: 'local bot' });
    return (kind: string, input: JsonObject) => {
      const tool = tools.find((candidate) => candidate.kind === kind) as WriteTool;
      const args = tool.parse({ ...SHOP, ...input });
      const context = { fetch: reads, signal: new AbortController().signal };
      return {
        target: () => tool.target(args, context),
        reconcile: () => tool.reconcile(args, [], context),
        describe: (receipt: JsonObject) => tool.describeReceipt(args, receipt),
      };
    };
  }

  test('that is a pull request is neither closed nor labelled', async () => {
    const on = await world({ 1: { pull_request: { url: 'x' } } });

    const close = await on('github.issues.update', { issue_numbers: [4, 1] }).target();
    expect(close.refusal).toBe('1 is a pull request, not an issue.');
    const label = await on('github.issues.addLabels', {
      issue_number: 1,
      labels: ['countersign/x'],
    }).target();
    expect(label.refusal).toBe('1 is a pull request, not an issue.');
  });

  test('that is locked takes no comment', async () => {
    const on = await world({ 3: { locked: true } });

    const { refusal, preconditions } = await on('github.issues.createComment', {
      issue_number: 3,
      body: 'x',
    }).target();

    expect(refusal).toMatch(/locked/);
    expect(preconditions).toContainEqual({ path: '/locked', expected: true });
  });

  test('that was moved elsewhere is not the one that was meant', async () => {
    const on = await world({ 3: { number: 7 } });

    await expect(
      on('github.issues.addLabels', { issue_number: 3, labels: ['countersign/x'] }).target(),
    ).rejects.toMatchObject({ code: 'TOOL_REFUSED' });
  });

  test('of a batch that was cut: half done is told only once nothing can arrive any more', async () => {
    const closed = (agoMs: number) => ({
      state: 'closed',
      closed_at: new Date(Date.now() - agoMs).toISOString(),
    });
    const batch = { issue_numbers: [4, 5, 6] };

    const young = (await world({ 4: closed(5_000) }))('github.issues.update', batch);
    await expect(young.reconcile()).rejects.toMatchObject({ code: 'TOOL_FAILED' });
    const old = (await world({ 4: closed(80_000) }))('github.issues.update', batch);
    const found = await old.reconcile();
    if (found.outcome !== 'applied') throw new Error(found.outcome);
    expect(old.describe(found.receipt)).toBe(
      'Closed 1 of 3 issues: 4. Not closed: 5 (the work was interrupted before it), 6 (the work was interrupted before it).',
    );
  });
});
