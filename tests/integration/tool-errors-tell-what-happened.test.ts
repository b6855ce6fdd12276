/**
 * Guarantee: what a tool throws says what is known about the outside world. A read that may work later is retryable; a
 * write that surely did not happen is TOOL_REFUSED, a refused compare is PRECONDITION_CHANGED, and TOOL_FAILED means
 * that nobody can tell. Arguments that are not plain never reach the network.
 */
import { afterEach, describe, expect, test } from 'vitest';
import { createEgress, mintPermit } from '../../src/agents/egress.ts';
import { toolsFor } from '../../src/agents/tools/index.ts';
import { CountersignError } from '../../src/errors.ts';
import type { Precondition, ReadTool, WriteTool } from '../../src/types.ts';
import {
  type AnsweringServer,
  type Received,
  type Reply,
  startAnsweringServer,
} from '../support/answering-server.ts';

const HEAD = 'a'.repeat(40);
const INPUT = { owner: 'acme', repo: 'shop', pull_number: 1, merge_method: 'merge' };
const PULL = {
  number: 1,
  title: 'Fix rounding',
  state: 'open',
  head: { ref: 'fix', sha: HEAD },
  base: { ref: 'main', sha: 'b'.repeat(40) },
};
const APPROVED: readonly Precondition[] = [
  { path: '/state', expected: 'open' },
  { path: '/head/sha', expected: HEAD },
  { path: '/base/ref', expected: 'main' },
];
const servers: AnsweringServer[] = [];

afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

async function world(answer: (received: Received) => Reply) {
  const server = await startAnsweringServer(answer);
  servers.push(server);
  const egress = createEgress({ allowedOrigins: [server.url] });
  const tools = toolsFor({ baseUrl: server.url, token: `ghp_${'t'.repeat(36)}`, credential: 'test' });
  const get = tools.find((tool) => tool.kind === 'github.pulls.get') as ReadTool;
  const merge = tools.find((tool) => tool.kind === 'github.pulls.merge') as WriteTool;
  const abort = new AbortController();
  const { merge_method: _method, ...pullInput } = INPUT;
  return {
    server,
    tools,
    abort,
    merge,
    read: () => get.read(pullInput, { fetch: egress.read, signal: abort.signal }),
    target: () => merge.target(INPUT, { fetch: egress.read, signal: abort.signal }),
    execute: (preconditions = APPROVED) =>
      merge.execute(INPUT, preconditions, {
        fetch: egress.write(
          mintPermit({ actionId: 'a', actionHash: 'b', fence: 1, sendBy: Number.POSITIVE_INFINITY }),
        ),
        signal: abort.signal,
        idempotencyKey: 'key',
      }),
  };
}

describe('a read', () => {
  test.each<[Reply, string]>([
    [{ status: 500 }, 'TOOL_FAILED'],
    [{ status: 502, body: '<html>' }, 'TOOL_FAILED'],
    [{ status: 408 }, 'TOOL_FAILED'],
    [{ status: 429 }, 'TOOL_FAILED'],
    [{ status: 403, headers: { 'x-ratelimit-remaining': '0' } }, 'TOOL_FAILED'],
    [{ status: 200, cut: true }, 'TOOL_FAILED'],
    [{ status: 200, body: 'not JSON' }, 'TOOL_FAILED'],
    [{ status: 200, body: { ...PULL, head: { ref: 'fix', sha: '../../evil' } } }, 'TOOL_FAILED'],
    [{ status: 200, body: { ...PULL, number: '1' } }, 'TOOL_FAILED'],
    [{ status: 400 }, 'TOOL_REFUSED'],
    [{ status: 401 }, 'TOOL_REFUSED'],
    [{ status: 403 }, 'TOOL_REFUSED'],
    [{ status: 404 }, 'TOOL_REFUSED'],
    [{ status: 304 }, 'TOOL_REFUSED'],
  ])('answered %o is %s, after one request', async (reply, code) => {
    const { read, server } = await world(() => reply);

    await expect(read()).rejects.toMatchObject({ name: 'CountersignError', code });
    expect(server.received).toHaveLength(1);
  });

  test('says how long to wait where GitHub said so', async () => {
    const { read } = await world(() => ({ status: 403, headers: { 'retry-after': '30' } }));

    await expect(read()).rejects.toMatchObject({ code: 'TOOL_FAILED', retryAfterMs: 30_000 });
  });

  test('never repeats a credential in its error', async () => {
    const secret = `ghp_${'s'.repeat(36)}`;
    const { read } = await world(({ headers }) => ({
      status: 422,
      body: { message: `bad ${secret}, you sent ${headers.authorization}` },
    }));

    const error = (await read().catch((thrown: unknown) => thrown)) as CountersignError;

    expect(error.message).toContain('[secret]');
    expect(error.message).not.toMatch(/ghp_/);
  });

  test('that is cancelled says who cancelled it', async () => {
    const { read, abort } = await world(() => {
      abort.abort(new CountersignError('RUN_CANCELLED', 'The run was cancelled.'));
      return { status: 200, body: PULL };
    });

    await expect(read()).rejects.toMatchObject({ code: 'RUN_CANCELLED' });
  });

  test('of an address off the egress list is refused as such', async () => {
    const { server } = await world(() => ({ status: 200, body: PULL }));
    const egress = createEgress({ allowedOrigins: [server.url] });
    const [get] = toolsFor({ baseUrl: 'http://127.0.0.1:9', token: 'x', credential: 'test' }) as ReadTool[];

    const reading = get?.read(
      { owner: 'acme', repo: 'shop', pull_number: 1 },
      { fetch: egress.read, signal: new AbortController().signal },
    );

    await expect(reading).rejects.toMatchObject({ code: 'EGRESS_REFUSED' });
  });
});

describe('a merge', () => {
  const onMerge =
    (reply: Reply, pull: object = PULL) =>
    ({ method }: Received): Reply =>
      method === 'PUT' ? reply : { status: 200, body: pull as Reply['body'] & object };

  test('sends the approved head and the method to the compare-and-set', async () => {
    const { execute, server } = await world(
      onMerge({ status: 200, body: { merged: true, sha: 'c'.repeat(40), message: 'ok' } }),
    );

    await execute();

    expect(server.received).toHaveLength(1);
    expect(server.received[0]).toMatchObject({ method: 'PUT', url: '/repos/acme/shop/pulls/1/merge' });
    expect(JSON.parse(server.received[0]?.body ?? '')).toEqual({ merge_method: 'merge', sha: HEAD });
  });

  test.each<[string, Reply, object, string]>([
    ['409', { status: 409, body: { message: 'Head branch was modified.' } }, PULL, 'PRECONDITION_CHANGED'],
    ['405, nothing changed', { status: 405 }, PULL, 'TOOL_REFUSED'],
    ['405, closed meanwhile', { status: 405 }, { ...PULL, state: 'closed' }, 'PRECONDITION_CHANGED'],
    [
      '422, head moved',
      { status: 422 },
      { ...PULL, head: { ref: 'fix', sha: 'd'.repeat(40) } },
      'PRECONDITION_CHANGED',
    ],
    [
      '422, base changed',
      { status: 422 },
      { ...PULL, base: { ref: 'dev', sha: HEAD } },
      'PRECONDITION_CHANGED',
    ],
    ['405, and a second look fails', { status: 405 }, { nonsense: true }, 'TOOL_REFUSED'],
    ['401', { status: 401 }, PULL, 'TOOL_REFUSED'],
    ['403', { status: 403 }, PULL, 'TOOL_REFUSED'],
    ['404', { status: 404 }, PULL, 'TOOL_REFUSED'],
    ['307', { status: 307, headers: { location: '/elsewhere' } }, PULL, 'TOOL_REFUSED'],
    ['408', { status: 408 }, PULL, 'TOOL_FAILED'],
    ['500', { status: 500 }, PULL, 'TOOL_FAILED'],
    ['504', { status: 504 }, PULL, 'TOOL_FAILED'],
    ['a cut connection', { status: 200, cut: true }, PULL, 'TOOL_FAILED'],
    ['200 without a merge', { status: 200, body: { merged: false } }, PULL, 'TOOL_FAILED'],
    ['200 with nonsense', { status: 200, body: 'ok' }, PULL, 'TOOL_FAILED'],
  ])('answered %s: the error says what is known', async (_name, reply, pull, code) => {
    const { execute, server } = await world(onMerge(reply, pull));

    await expect(execute()).rejects.toMatchObject({ name: 'CountersignError', code });
    expect(server.received.filter(({ method }) => method === 'PUT')).toHaveLength(1);
  });

  test('that came too fast did not happen, and may be tried again', async () => {
    const { execute } = await world(onMerge({ status: 429, headers: { 'retry-after': '5' } }));

    await expect(execute()).rejects.toMatchObject({
      code: 'TOOL_REFUSED',
      errorClass: 'retryable',
      retryAfterMs: 5_000,
    });
  });

  test('whose diff GitHub does not show in full says so to the reviewer', async () => {
    const files = [
      { filename: 'logo.png', status: 'modified', additions: 0, deletions: 0 },
      {
        filename: 'a.ts',
        status: 'renamed',
        previous_filename: 'b.ts',
        additions: 1,
        deletions: 1,
        patch: '@@',
      },
    ];
    const { target } = await world(({ url }) =>
      url.includes('/compare/')
        ? { status: 200, body: { ahead_by: 1, behind_by: 0, total_commits: 1, files } }
        : { status: 200, body: { ...PULL, changed_files: 500 } },
    );

    const { body, facts } = await target();

    expect(body).toMatch(/^\[GitHub lists 2 of 500 changed files; the rest is not shown here\]/);
    expect(body).toMatch(/modified logo\.png \+0 −0\n\[no diff shown/);
    expect(body).toContain('renamed a.ts (was b.ts) +1 −1\n@@');
    expect(facts.find(({ label }) => label === 'Changes')?.value).toMatch(/^500 files/);
  });
});

describe('arguments', () => {
  test.each([
    ['a path in a name', { ...INPUT, repo: '../other' }, 'repo'],
    ['a dot as a name', { ...INPUT, repo: '..' }, 'repo'],
    ['a slash', { ...INPUT, owner: 'acme/shop' }, 'owner'],
    ['a look-alike letter', { ...INPUT, owner: 'аcme' }, 'owner'],
    ['a line break', { ...INPUT, owner: 'acme\n' }, 'owner'],
    ['a number as text', { ...INPUT, pull_number: '1' }, 'pull_number'],
    ['a fraction', { ...INPUT, pull_number: 1.5 }, 'pull_number'],
    ['an unknown method', { ...INPUT, merge_method: 'force' }, 'merge_method'],
    ['a field too many', { ...INPUT, admin: true }, 'input'],
    ['nothing', null, 'input'],
  ])('with %s are refused, naming the field', async (_name, input, field) => {
    const { merge } = await world(() => ({ status: 200 }));

    expect(() => merge.parse(input)).toThrow(
      expect.objectContaining({ code: 'TOOL_INPUT_INVALID', message: expect.stringMatching(`^${field}: `) }),
    );
  });

  test('of a comparison and a ref are plain too', async () => {
    const { tools } = await world(() => ({ status: 200 }));
    const shop = { owner: 'acme', repo: 'shop' };
    const parses = (kind: string, input: object) => () =>
      tools.find((tool) => tool.kind === kind)?.parse(input);
    const compare = (basehead: string) =>
      parses('github.repos.compareCommitsWithBasehead', { ...shop, basehead });
    const checks = (ref: string) => parses('github.checks.listForRef', { ...shop, ref });

    for (const good of ['main...fix', 'v1.0...release/2.0_x-y', `${HEAD}...${HEAD}`])
      expect(compare(good)).not.toThrow();
    for (const bad of [
      'main',
      'main..fix',
      'main....fix',
      '...fix',
      'main...',
      'a...b...c',
      'main...../x',
      'a b...c',
    ])
      expect(compare(bad), bad).toThrow(expect.objectContaining({ code: 'TOOL_INPUT_INVALID' }));
    for (const bad of ['', '../x', 'a//b', 'a/../b', '-x', 'x?y', 'x%2e'])
      expect(checks(bad), bad).toThrow(expect.objectContaining({ code: 'TOOL_INPUT_INVALID' }));
  });

  test('have a schema that a provider takes, and defaults the reviewer sees', async () => {
    const { tools, merge } = await world(() => ({ status: 200 }));
    const { merge_method: _method, ...withoutMethod } = INPUT;

    expect(merge.parse(withoutMethod)).toEqual(INPUT);
    for (const tool of tools)
      expect(tool.inputSchema).toMatchObject({ type: 'object', additionalProperties: false });
    expect(merge.inputSchema.required).toEqual(['owner', 'repo', 'pull_number']);
  });
});
