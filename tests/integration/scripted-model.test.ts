/**
 * Guarantee: the scripted model speaks Anthropic's wire protocol to the real SDK, keeps nothing between requests, and
 * says only what the tool results in the conversation bear out: it never proposes a merge that it saw cannot be, and
 * never claims one that was not done.
 */
import Anthropic from '@anthropic-ai/sdk';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ScriptedModel, startScriptedModel } from '../../src/local/model.ts';

const READS = ['github_pulls_get', 'github_repos_compareCommitsWithBasehead', 'github_checks_listForRef'];
const MERGE = 'github_pulls_merge';
const TOOLS: Anthropic.Tool[] = [...READS, MERGE].map((name) => ({
  name,
  input_schema: { type: 'object' as const },
}));
const OPEN = {
  number: 1,
  title: 'Fix rounding',
  state: 'open',
  draft: false,
  merged: false,
  mergeable: true,
  head: { ref: 'fix-rounding', sha: 'a'.repeat(40) },
  base: { ref: 'main', sha: 'b'.repeat(40) },
};
const CHANGE = {
  ahead_by: 1,
  behind_by: 0,
  files: [{ filename: 'src/price.ts', status: 'modified', additions: 2, deletions: 2 }],
};
const GREEN = { total_count: 1, check_runs: [{ name: 'test', status: 'completed', conclusion: 'success' }] };
const REQUEST = '<task>Please merge pull request 1 in acme/shop.</task>';

/** What each tool answers, merges in order; an Error becomes an error result. */
interface World {
  get?: unknown;
  compare?: unknown;
  checks?: unknown;
  merges?: unknown[];
}

let model: ScriptedModel;
let anthropic: Anthropic;

beforeAll(async () => {
  model = await startScriptedModel({ apiKey: 'local-key' });
  anthropic = new Anthropic({ apiKey: 'local-key', baseURL: model.baseUrl, maxRetries: 0 });
});

afterAll(async () => {
  await model.close();
});

describe('merging a pull request', () => {
  test('looks, reads change and checks together, proposes a squash, and reports the receipt', async () => {
    const { calls, final, turns } = await converse(REQUEST, {
      merges: [{ status: 'done', receipt: { sha: 'c0ffee00'.repeat(5) } }],
    });

    const here = { owner: 'acme', repo: 'shop' };
    expect(calls).toEqual([
      [{ name: 'github_pulls_get', input: { ...here, pull_number: 1 } }],
      [
        { name: READS[1], input: { ...here, basehead: `main...${'a'.repeat(40)}` } },
        { name: READS[2], input: { ...here, ref: 'a'.repeat(40) } },
      ],
      [{ name: MERGE, input: { ...here, pull_number: 1, merge_method: 'squash' } }],
    ]);
    expect(turns[2]).toMatch(/src\/price\.ts \(\+2 −2\).*checks succeeded \(test\)/);
    expect(final).toMatch(/merged by squash as c0ffee00/);
  });

  test.each([
    ['merge PR 7', 'acme', 'shop', 7],
    ['Could you merge #12 of octo/hello.world please?', 'octo', 'hello.world', 12],
    ['merge octo/cat#3', 'octo', 'cat', 3],
    ['<@U1> please merge https://github.com/octo/cat/pull/9', 'octo', 'cat', 9],
    ['Merge the pull request #4 in `octo/cat`.', 'octo', 'cat', 4],
  ])('understands “%s”', async (request, owner, repo, pull_number) => {
    const reply = await ask([{ role: 'user', content: request }]);

    expect(toolUses(reply)).toMatchObject([
      { name: 'github_pulls_get', input: { owner, repo, pull_number } },
    ]);
  });

  test.each([
    ['merged', { ...OPEN, state: 'closed', merged: true }, /already merged/],
    ['closed', { ...OPEN, state: 'closed' }, /is closed and was not merged/],
    ['a draft', { ...OPEN, draft: true }, /still a draft/],
    ['in conflict', { ...OPEN, mergeable: false }, /conflicts/],
    ['missing', new Error('GitHub answered 404 Not Found'), /could not find/],
    ['unreadable', new Error('GitHub answered 502'), /could not read.*502/],
  ])('a pull request that is %s is not proposed', async (_name, get, says) => {
    const { calls, final } = await converse(REQUEST, { get });

    expect(calls).toHaveLength(1);
    expect(final).toMatch(says);
  });

  test.each([
    [
      'failed',
      { check_runs: [{ name: 'test', status: 'completed', conclusion: 'failure' }] },
      /checks failed \(test\)/,
    ],
    [
      'unfinished',
      { check_runs: [{ name: 'test', status: 'in_progress', conclusion: null }] },
      /still running \(test\)/,
    ],
    ['unreadable', new Error('403'), /could not be read/],
  ])('with %s checks it does not propose', async (_name, checks, says) => {
    const { calls, final } = await converse(REQUEST, { checks });

    expect(calls.flat().map((call) => call.name)).not.toContain(MERGE);
    expect(final).toMatch(says);
  });

  test('results with nothing in them are survived', async () => {
    const { calls } = await converse(REQUEST, {
      get: { head: { sha: 'a' }, base: {} },
      compare: {},
      checks: 'no json',
      merges: [{}],
    });

    expect(calls.flat().map((call) => call.name)).toContain(MERGE);
  });

  test.each([
    ['please use a merge commit', 'merge'],
    ['rebase it', 'rebase'],
  ])('a rejection “%s” brings the other proposal', async (reason, merge_method) => {
    const { calls, final } = await converse(REQUEST, {
      merges: [
        { status: 'rejected', reason },
        { status: 'done', receipt: { sha: 'd'.repeat(40) } },
      ],
    });

    expect(calls.slice(2)).toMatchObject([
      [{ name: MERGE, input: { merge_method: 'squash' } }],
      [{ name: MERGE, input: { merge_method } }],
    ]);
    expect(final).toContain(`merged by ${merge_method}`);
  });

  test.each([
    [{ status: 'rejected', reason: 'not now' }, /leave acme\/shop#1 open/],
    [
      { status: 'rejected', reason: 'the copyright header is wrong' },
      /scripted model and cannot act on that reason/,
    ],
    [{ status: 'changes_requested', reason: 'add a test' }, /cannot act on that reason/],
    [{ status: 'rejected', reason: 'squash' }, /cannot act on that reason/],
    [{ status: 'denied', reason: 'frozen' }, /Policy denies.*frozen/],
    [{ status: 'expired' }, /Nobody decided in time/],
    [{ status: 'superseded' }, /no longer counts/],
    [{ status: 'withdrawn' }, /withdrawn/],
    [{ status: 'revoked' }, /taken back/],
    [{ status: 'unknown' }, /not known/],
    [{ status: 'something-new' }, /do not know/],
    [new Error('boom'), /did not go through: boom/],
  ])('after %j it stops and says so', async (result, says) => {
    const { calls, final } = await converse(REQUEST, { merges: [result] });

    expect(calls.flat().filter((call) => call.name === MERGE)).toHaveLength(1);
    expect(final).toMatch(says);
    expect(final).not.toContain('Done');
  });
});

describe('beyond the script', () => {
  test.each(['Write me a poem', 'What is the state of pull request 1?', ''])('“%s”', async (request) => {
    const { calls, final } = await converse(request || ' ', {});

    expect(calls).toEqual([]);
    expect(final).toMatch(/scripted model.*merge pull request 1.*ANTHROPIC_API_KEY/);
  });

  test('without the tools it says which one it lacks', async () => {
    const reply = await anthropic.messages.create({
      model: 'claude-opus-5-5',
      max_tokens: 1000,
      messages: [{ role: 'user', content: REQUEST }],
    });

    expect(textOf(reply)).toContain('github_pulls_get');
  });
});

describe('the wire', () => {
  test('a stream carries what the plain reply carries, with usage', async () => {
    const plain = await ask([{ role: 'user', content: REQUEST }]);
    const streamed = await anthropic.messages
      .stream({
        model: 'claude-opus-5-5',
        max_tokens: 1000,
        tools: TOOLS,
        messages: [{ role: 'user', content: REQUEST }],
      })
      .finalMessage();

    expect(toolUses(streamed)).toMatchObject(toolUses(plain).map(({ name, input }) => ({ name, input })));
    expect(textOf(streamed)).toBe(textOf(plain));
    expect(streamed).toMatchObject({ stop_reason: 'tool_use', model: 'claude-opus-5-5' });
    expect(streamed.usage.input_tokens).toBeGreaterThan(50);
    expect(plain.usage.input_tokens).toBeGreaterThan(50);
    expect(plain.usage.output_tokens).toBeGreaterThan(10);
  });

  test('the same request gets the same reply, ids included, also from another instance', async () => {
    const other = await startScriptedModel({ apiKey: 'local-key' });
    const elsewhere = new Anthropic({ apiKey: 'local-key', baseURL: other.baseUrl, maxRetries: 0 });

    const replies = [
      await ask([{ role: 'user', content: REQUEST }]),
      await ask([{ role: 'user', content: REQUEST }]),
    ];
    replies.push(await ask([{ role: 'user', content: REQUEST }], elsewhere));
    await other.close();

    expect(replies[1]).toEqual(replies[0]);
    expect(replies[2]).toEqual(replies[0]);
  });

  test('another key gets 401', async () => {
    const stranger = new Anthropic({ apiKey: 'wrong', baseURL: model.baseUrl, maxRetries: 0 });

    await expect(ask([{ role: 'user', content: REQUEST }], stranger)).rejects.toMatchObject({
      status: 401,
      error: { type: 'error', error: { type: 'authentication_error' } },
    });
  });

  test('a tool call left unanswered is refused, as Anthropic does', async () => {
    const first = await ask([{ role: 'user', content: REQUEST }]);
    const messages: Anthropic.MessageParam[] = [
      { role: 'user', content: REQUEST },
      { role: 'assistant', content: first.content },
      { role: 'user', content: 'and?' },
    ];

    await expect(ask(messages)).rejects.toMatchObject({ status: 400 });
  });
});

/** Runs the agent's side of the loop: every call answered from `world`, until a turn without calls. */
async function converse(request: string, world: World) {
  const messages: Anthropic.MessageParam[] = [{ role: 'user', content: request }];
  const calls: { name: string; input: unknown }[][] = [];
  const turns: string[] = [];
  const merges = [...(world.merges ?? [])];
  for (let turn = 0; turn < 10; turn += 1) {
    const reply = await ask(messages);
    turns.push(textOf(reply));
    const uses = toolUses(reply);
    expect(reply.stop_reason).toBe(uses.length > 0 ? 'tool_use' : 'end_turn');
    if (uses.length === 0) return { calls, turns, final: textOf(reply) };
    calls.push(uses.map(({ name, input }) => ({ name, input })));
    const results = uses.map((use): Anthropic.ToolResultBlockParam => {
      const value = answerOf(use.name, world, merges);
      const is_error = value instanceof Error;
      const content = is_error ? value.message : typeof value === 'string' ? value : JSON.stringify(value);
      return { type: 'tool_result', tool_use_id: use.id, content, is_error };
    });
    messages.push({ role: 'assistant', content: reply.content }, { role: 'user', content: results });
  }
  throw new Error('the script does not end');
}

function answerOf(name: string, world: World, merges: unknown[]): unknown {
  if (name === READS[0]) return world.get ?? OPEN;
  if (name === READS[1]) return world.compare ?? CHANGE;
  if (name === READS[2]) return world.checks ?? GREEN;
  return merges.shift() ?? new Error('no more merges expected');
}

async function ask(messages: Anthropic.MessageParam[], client = anthropic): Promise<Anthropic.Message> {
  return await client.messages.create({ model: 'claude-opus-5-5', max_tokens: 1000, tools: TOOLS, messages });
}

function toolUses(message: Anthropic.Message): Anthropic.ToolUseBlock[] {
  return message.content.filter((block) => block.type === 'tool_use');
}

function textOf(message: Anthropic.Message): string {
  return message.content.map((block) => (block.type === 'text' ? block.text : '')).join('');
}
