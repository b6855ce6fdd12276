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

  test('names no pull request', async () => {
    expect((await batch([1, 4]).target()).refusal).toMatch(/pull request/);
    expect(
      (await act('github.issues.addLabels', { issue_number: 1, labels: ['countersign/x'] }).target()).refusal,
    ).toMatch(/pull request/);
  });
});

describe('arguments', () => {
  const parses = (kind: string, input: JsonObject) => () => act(kind, input);
  const refused = expect.objectContaining({ code: 'TOOL_INPUT_INVALID' });

  test.each([
    '../x',
    'a/../../x',
    '/etc/passwd',
    './x',
    'a//b',
    'a/',
    '',
    '.git/config',
    'sub/.GIT/hooks/x',
    'git~1/config',
    'a\\b',
    'a\0b',
    'a\nb',
    'a/.. /b',
    'x.',
    'ѕrc/price.ts',
    'a'.repeat(201),
  ])('no file is written at %j', (place) => {
    expect(() => commitTo('change', { files: [{ path: place, content: 'x' }] })).toThrow(refused);
  });

  test('no place is written twice, in no spelling', () => {
    for (const places of [
      ['a', 'a'],
      ['src/A.ts', 'src/a.ts'],
      ['a', 'a/b'],
    ])
      expect(() =>
        commitTo('change', { files: places.map((place) => ({ path: place, content: 'x' })) }),
      ).toThrow(refused);
  });

  test.each([
    'refs/heads/main',
    'HEAD',
    'a..b',
    '-x',
    'a b',
    'x.lock',
    'x.lock/y',
    'x.',
    'x/',
    'd'.repeat(40),
    'mаin',
    '',
  ])('no branch is called %j', (branch) => {
    expect(() => commitTo(branch)).toThrow(refused);
  });

  test.each([
    ['github.issues.addLabels', { issue_number: 3, labels: [' countersign/bug'] }],
    ['github.issues.addLabels', { issue_number: 3, labels: ['countersign/a,bug'] }],
    ['github.issues.addLabels', { issue_number: 3, labels: ['countersign/a\nbug'] }],
    ['github.issues.addLabels', { issue_number: 3, labels: [] }],
    ['github.issues.addLabels', { issue_number: 3, labels: ['Bug', 'bug'] }],
    ['github.issues.createComment', { issue_number: 3, body: 'x'.repeat(10_001) }],
    ['github.issues.createComment', { issue_number: 3, body: ' \n' }],
    ['github.issues.createComment', { issue_number: 3, body: 'a\0b' }],
    ['github.issues.createComment', { issue_number: 3, body: '\ud800' }],
    ['github.issues.update', { issue_numbers: [4], state: 'open' }],
    ['github.issues.update', { issue_numbers: [4, 4] }],
    ['github.issues.update', { issue_numbers: Array.from({ length: 21 }, (_, index) => index + 1) }],
    ['github.pulls.create', { head: 'stranger:main', base: 'main', title: 'x', body: 'x' }],
    ['github.pulls.create', { head: 'a', base: 'main', title: 'x\ny', body: 'x' }],
    [
      'github.repos.createRelease',
      { tag_name: 'v1', target_commitish: 'a'.repeat(40), name: 'x', body: 'x', draft: false },
    ],
    ['github.repos.createRelease', { tag_name: 'v1', target_commitish: 'main', name: 'x', body: 'x' }],
  ] as [string, JsonObject][])('%s takes no %j', (kind, input) => {
    expect(parses(kind, input)).toThrow(refused);
  });
});
