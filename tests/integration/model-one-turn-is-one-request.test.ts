/**
 * Guarantee: a turn is one request to the Messages API, priced by a dated table, and whatever comes back is either a
 * well-formed turn or one error that says whether trying again can help. The library retries nothing on its own.
 */
import { afterEach, describe, expect, test } from 'vitest';
import type { Message } from '../../src/agents/conversation.ts';
import { createModel, type ModelSeam, type TurnRequest } from '../../src/agents/model.ts';
import { costUsd } from '../../src/agents/prices.ts';
import { CountersignError } from '../../src/errors.ts';
import { type AnsweringServer, type Reply, startAnsweringServer } from '../support/answering-server.ts';

const KEY = 'test-key-of-the-model';
const servers: AnsweringServer[] = [];

afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

async function answering(reply: Reply, model = 'claude-sonnet-5-5') {
  const server = await startAnsweringServer(() => reply);
  servers.push(server);
  const seam = createModel({ apiKey: KEY, baseUrl: server.url, model, label: 'a label' });
  return { server, seam };
}

function ask(seam: ModelSeam, over: Partial<TurnRequest> = {}) {
  return seam.turn({
    system: 'Be brief.',
    messages: [{ role: 'user', content: [{ type: 'text', text: 'Hello.' }] }],
    tools: [{ name: 'test_read', description: 'Reads.', inputSchema: { type: 'object' } }],
    maxTokens: 100,
    signal: new AbortController().signal,
    ...over,
  });
}

const THINKING = { type: 'thinking', thinking: 'hm', signature: 'sig' };
const ANSWER = {
  id: 'msg_1',
  type: 'message',
  role: 'assistant',
  model: 'claude-sonnet-5-5',
  stop_reason: 'tool_use',
  content: [
    THINKING,
    { type: 'text', text: 'Looking.', citations: null },
    { type: 'text', text: ' \n' },
    { type: 'tool_use', id: 'toolu_1', name: 'test_read', input: { n: 1 } },
  ],
  usage: {
    input_tokens: 1_000,
    output_tokens: 2_000,
    cache_creation_input_tokens: 3_000,
    cache_read_input_tokens: null,
  },
};

describe('a turn', () => {
  test('comes back as blocks (blank text left out), usage and cost, under the label of the configuration', async () => {
    const { seam } = await answering({ status: 200, body: ANSWER });

    expect(await ask(seam)).toEqual({
      content: [
        { type: 'opaque', block: THINKING },
        { type: 'text', text: 'Looking.' },
        { type: 'tool_use', id: 'toolu_1', name: 'test_read', input: { n: 1 } },
      ],
      stopReason: 'tool_use',
      usage: { input: 1_000, output: 2_000, cacheCreation: 3_000, cacheRead: 0 },
      model: 'claude-sonnet-5-5',
      label: 'a label',
      costUsd: (1_000 * 2 + 2_000 * 10 + 3_000 * 2.5) / 1_000_000,
      currency: 'USD',
      priceTableDate: expect.stringMatching(/^\d{4}-\d{2}-\d{2}$/),
    });
  });

  test('sends our messages as the provider wants them, its own blocks unchanged', async () => {
    const { seam, server } = await answering({ status: 200, body: ANSWER });
    const messages: Message[] = [
      { role: 'user', content: [{ type: 'text', text: 'Hello.' }] },
      {
        role: 'assistant',
        content: [
          { type: 'opaque', block: THINKING },
          { type: 'tool_use', id: 'toolu_0', name: 'test_read', input: {} },
        ],
      },
      {
        role: 'user',
        content: [{ type: 'tool_result', toolUseId: 'toolu_0', content: 'no', isError: true }],
      },
    ];

    await ask(seam, { messages });

    expect(server.received).toHaveLength(1);
    const sent = JSON.parse(server.received[0]?.body ?? '');
    const cached = { cache_control: { type: 'ephemeral' } };
    expect(sent).toEqual({
      model: 'claude-sonnet-5-5',
      max_tokens: 100,
      system: [{ type: 'text', text: 'Be brief.', ...cached }],
      tools: [{ name: 'test_read', description: 'Reads.', input_schema: { type: 'object' } }],
      messages: [
        { role: 'user', content: [{ type: 'text', text: 'Hello.' }] },
        {
          role: 'assistant',
          content: [THINKING, { type: 'tool_use', id: 'toolu_0', name: 'test_read', input: {} }],
        },
        {
          role: 'user',
          content: [
            { type: 'tool_result', tool_use_id: 'toolu_0', content: 'no', is_error: true, ...cached },
          ],
        },
      ],
    });
  });
});

describe('an error', () => {
  const failure = (error_code: string | null) => ({
    type: 'error',
    error: { type: 'some_error', message: `not now, ${KEY}`, details: { error_code } },
  });

  test.each([
    [408, 'MODEL_FAILED', 'retryable'],
    [429, 'MODEL_FAILED', 'retryable'],
    [500, 'MODEL_FAILED', 'retryable'],
    [503, 'MODEL_FAILED', 'retryable'],
    [529, 'MODEL_FAILED', 'retryable'],
    [400, 'MODEL_REFUSED', 'terminal'],
    [401, 'MODEL_REFUSED', 'terminal'],
    [403, 'MODEL_REFUSED', 'terminal'],
    [404, 'MODEL_REFUSED', 'terminal'],
    [413, 'MODEL_REFUSED', 'terminal'],
  ])('%d is %s (%s), after one request', async (status, code, errorClass) => {
    const { seam, server } = await answering({ status, body: failure(null) });

    await expect(ask(seam)).rejects.toMatchObject({
      code,
      errorClass,
      message: expect.stringContaining(`${status}`),
    });
    expect(server.received).toHaveLength(1);
  });

  test.each([
    ['enforced_spend_limit_reached', 'MODEL_REFUSED'],
    ['contract_spend_limit_reached', 'MODEL_REFUSED'],
    ['ramp_limit_exceeded', 'MODEL_FAILED'],
  ])('429 with %s is %s', async (error_code, code) => {
    const { seam } = await answering({ status: 429, body: failure(error_code) });

    await expect(ask(seam)).rejects.toMatchObject({ code });
  });

  test.each([
    [{ 'retry-after': '7' }, 7_000],
    [{ 'retry-after-ms': '1500', 'retry-after': '7' }, 1_500],
    [{ 'retry-after': '86400' }, 900_000],
    [{ 'retry-after': 'Wed, 21 Oct 2026 07:28:00 GMT' }, undefined],
    [{}, undefined],
  ])('with %o says to wait %s ms', async (headers, retryAfterMs) => {
    const { seam } = await answering({ status: 429, headers, body: failure(null) });

    const error = await ask(seam).catch((thrown: unknown) => thrown);

    expect(error).toMatchObject({ code: 'MODEL_FAILED' });
    expect((error as CountersignError).retryAfterMs).toBe(retryAfterMs);
  });

  test('of the network is worth another try, and a redirect is not followed', async () => {
    const { seam: cut } = await answering({ status: 200, cut: true });
    const other = await startAnsweringServer(() => ({ status: 200, body: ANSWER }));
    servers.push(other);
    const { seam: moved } = await answering({ status: 307, headers: { location: other.url } });

    await expect(ask(cut)).rejects.toMatchObject({ code: 'MODEL_FAILED', errorClass: 'retryable' });
    await expect(ask(moved)).rejects.toMatchObject({ code: 'MODEL_FAILED' });
    expect(other.received).toEqual([]);
  });

  test('of ours, given as the reason of the signal, comes through', async () => {
    const abort = new AbortController();
    const server = await startAnsweringServer(() => {
      abort.abort(new CountersignError('RUN_CANCELLED', 'The run was cancelled.'));
      return { status: 200, body: ANSWER };
    });
    servers.push(server);
    const seam = createModel({ apiKey: KEY, baseUrl: server.url, model: 'scripted', label: 'x' });

    await expect(ask(seam, { signal: abort.signal })).rejects.toMatchObject({ code: 'RUN_CANCELLED' });
  });

  test.each([
    ['no content', { ...ANSWER, content: undefined }],
    ['null', null],
    ['text instead of JSON', 'hello'],
    ['a call without an id', { ...ANSWER, content: [{ type: 'tool_use', name: 'x', input: {} }] }],
    [
      'two calls under one id',
      {
        ...ANSWER,
        content: [ANSWER.content.at(-1), { type: 'tool_use', id: 'toolu_1', name: 'x', input: {} }],
      },
    ],
    ['usage below zero', { ...ANSWER, usage: { input_tokens: -5, output_tokens: 1 } }],
  ])('an answer with %s is not half used', async (_name, body) => {
    const { seam } = await answering({ status: 200, body: body as Reply['body'] & object });

    await expect(ask(seam)).rejects.toMatchObject({ code: 'MODEL_FAILED', errorClass: 'retryable' });
  });
});

describe('prices', () => {
  const million = { input: 1_000_000, output: 1_000_000, cacheCreation: 0, cacheRead: 0 };
  const small = { input: 50_000, output: 0, cacheCreation: 0, cacheRead: 0 };

  test('are those of the table, also under a dated name', () => {
    expect(costUsd('claude-opus-5-5', million)).toBe(24);
    expect(costUsd('claude-sonnet-5-5', million)).toBe(12);
    expect(costUsd('claude-sonnet-5-5-20260901', million)).toBe(12);
    expect(costUsd('claude-haiku-5-5', small)).toBeCloseTo(0.005);
    expect(costUsd('claude-haiku-5-5', { ...small, cacheRead: 60_000 })).toBeCloseTo(0.028);
  });

  test('are nothing for the scripted model, the dearest for an unknown one, and what was named for a named one', () => {
    expect(costUsd('scripted', million)).toBe(0);
    expect(costUsd('unheard-of', million)).toBe(60);
    expect(costUsd('unheard-of', million, { input: 0, output: 1, cacheWrite: 0, cacheRead: 0 })).toBe(1);
  });
});
