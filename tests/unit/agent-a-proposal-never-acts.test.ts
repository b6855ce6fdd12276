/**
 * Guarantee: the loop reads and proposes, and that is all. A write tool is parsed and never run; a call the model did
 * not finish, formed badly, may not make, or made beside another action is not run either; every call is answered
 * before the model speaks again, and what the caller answers is what the model reads next.
 */
import { describe, expect, test } from 'vitest';
import { answer, type Conversation, type ModelBlock, openCalls } from '../../src/agents/conversation.ts';
import { ENGINEER, initialConversation } from '../../src/agents/definitions.ts';
import { work } from '../../src/agents/loop.ts';
import { CountersignError } from '../../src/errors.ts';
import type { Json, ReadTool, WriteTool } from '../../src/types.ts';
import { MemoryJournal, memoryStep } from '../support/memory-step.ts';
import { call, says, scriptedModel, type Turn } from '../support/scripted-turns.ts';

const agent = { ...ENGINEER, toolKinds: ['test.read', 'test.write'] };
const start = initialConversation({ objective: 'Do it.' });

function world(turns: readonly Turn[], over: { read?: ReadTool['read'] } = {}) {
  const log: string[] = [];
  const model = scriptedModel(turns, () => log.push('turn'));
  const parse = (input: unknown) => {
    if (typeof input !== 'object' || input === null || !('n' in input))
      throw new CountersignError('TOOL_INPUT_INVALID', 'n: is missing');
    return input as { n: Json };
  };
  const shared = { version: 1, description: 'For tests.', inputSchema: { type: 'object' }, parse };
  const read: ReadTool = {
    ...shared,
    access: 'read',
    kind: 'test.read',
    read: async (input, context) => {
      log.push(`read ${JSON.stringify(input)}`);
      return (await over.read?.(input, context)) ?? { got: input.n ?? null };
    },
  };
  const never = (): never => {
    log.push('ACTED');
    throw new Error('The loop acted.');
  };
  const write: WriteTool = {
    ...shared,
    access: 'write',
    kind: 'test.write',
    effectClass: 'checkable',
    requestTimeoutMs: 1,
    credential: 'none',
    target: never,
    execute: never,
    reconcile: never,
    describeReceipt: never,
  };
  const deps = { model, tools: [read, write], fetch: never };
  const go = (conversation: Conversation = start, who = agent) =>
    work(memoryStep(new MemoryJournal()), who, conversation, deps);
  return { go, log, model, deps };
}

/** The results the model saw before its n-th turn, by call id. */
function resultsBefore(model: ReturnType<typeof scriptedModel>, turn: number) {
  const last = model.seen[turn]?.messages.at(-1);
  return (last?.content ?? []).flatMap((block) =>
    block.type === 'tool_result'
      ? [[block.toolUseId, block.content, block.isError] as const]
      : [['text', '', false] as const],
  );
}

describe('the course of the work', () => {
  test('reads are run and answered, in the order of the calls, and the last words are the summary', async () => {
    const { go, log, model } = world([
      says('Looking.', call('a', 'test_read', { n: 1 }), call('b', 'test_read', { n: 2 })),
      says('All is well.'),
    ]);

    const outcome = await go();

    expect(outcome).toMatchObject({ kind: 'finished', summary: 'All is well.' });
    expect(log).toEqual(['turn', 'read {"n":1}', 'read {"n":2}', 'turn']);
    expect(resultsBefore(model, 1)).toEqual([
      ['a', '{"got":1}', false],
      ['b', '{"got":2}', false],
    ]);
    expect(outcome.turns).toHaveLength(2);
    expect(outcome.conversation).toMatchObject({ turns: 2, tokens: 30 });
  });

  test('the model sees the tools its definition names, by names a provider accepts, and no other', async () => {
    const { go, model, deps } = world([says('Done.')]);
    const [read] = deps.tools;
    if (read === undefined) throw new Error('No tool.');
    deps.tools.push({ ...read, kind: 'test.forbidden' });

    await go();

    expect(model.seen[0]?.tools.map(({ name }) => name)).toEqual(['test_read', 'test_write']);
    expect(model.seen[0]?.system).toBe(agent.prompt);
  });

  test('a write becomes a proposal with parsed arguments and the words of that turn; nothing acts', async () => {
    const { go, log } = world([says('It is right.', call('w', 'test_write', { n: 9 }))]);

    const outcome = await go();

    expect(outcome).toMatchObject({
      kind: 'proposed',
      toolUseId: 'w',
      action: { kind: 'test.write', arguments: { n: 9 }, reason: 'It is right.' },
    });
    expect(openCalls(outcome.conversation).map(({ id }) => id)).toEqual(['w']);
    expect(log).toEqual(['turn']);
  });

  test('beside a write the reads run first, and further writes hear: one action at a time', async () => {
    const { go, log, model } = world([
      says(
        'Two things.',
        call('w1', 'test_write', { n: 1 }),
        call('r', 'test_read', { n: 2 }),
        call('w2', 'test_write', { n: 3 }),
      ),
      says('Done.'),
    ]);

    const proposed = await go();
    if (proposed.kind !== 'proposed') throw new Error(proposed.kind);
    const finished = await go(answer(proposed.conversation, 'w1', { status: 'done' }, false));

    expect(proposed).toMatchObject({ toolUseId: 'w1', action: { arguments: { n: 1 } } });
    expect(finished.kind).toBe('finished');
    expect(log).toEqual(['turn', 'read {"n":2}', 'turn']);
    expect(resultsBefore(model, 1)).toMatchObject([
      ['w1', '{"status":"done"}', false],
      ['r', '{"got":2}', false],
      ['w2', expect.stringContaining('One action at a time'), true],
    ]);
  });

  test("the provider's own blocks come back to it unchanged", async () => {
    const thinking: ModelBlock = { type: 'opaque', block: { type: 'thinking', signature: 'abc' } };
    const { go, model } = world([
      {
        ...says('', call('a', 'test_read', { n: 1 })),
        content: [thinking, call('a', 'test_read', { n: 1 })],
      },
      says('Done.'),
    ]);

    await go();

    expect(model.seen[1]?.messages.at(-2)).toEqual({
      role: 'assistant',
      content: [thinking, call('a', 'test_read', { n: 1 })],
    });
  });

  test('a paused turn is continued', async () => {
    const { go, model } = world([{ ...says('Half.'), stopReason: 'pause_turn' }, says('Whole.')]);

    expect(await go()).toMatchObject({ kind: 'finished', summary: 'Whole.' });
    expect(model.seen[1]?.messages.at(-1)).toMatchObject({ role: 'assistant' });
  });

  test('an unanswered or wrongly answered proposal is a defect of the caller', async () => {
    const { go } = world([says('', call('w', 'test_write', { n: 1 }))]);

    const { conversation } = await go();

    await expect(go(conversation)).rejects.toThrow('must be answered');
    expect(() => answer(conversation, 'another', {}, false)).toThrow('No tool call another is open');
    const answered = answer(conversation, 'w', {}, false);
    expect(() => answer(answered, 'w', {}, false)).toThrow('No tool call w is open');
  });
});

describe('what is not run', () => {
  test.each([
    ['max_tokens', 'max_tokens', 'AGENT_OUTPUT_INVALID'],
    ['refusal', 'refusal', 'MODEL_REFUSED'],
    ['model_context_window_exceeded', 'context_overflow', 'AGENT_BUDGET_EXCEEDED'],
    ['something_new', 'unusable_output', 'AGENT_OUTPUT_INVALID'],
  ])(
    'a turn that ended with %s: its calls are dropped and the outcome says so',
    async (stopReason, stop, code) => {
      const calls = [call('r', 'test_read', { n: 1 }), call('w', 'test_write', { n: 1 })];
      const { go, log } = world([{ ...says('Half a', ...calls), stopReason }]);

      const outcome = await go();

      expect(outcome).toMatchObject({ kind: 'stopped', stop, code });
      expect(openCalls(outcome.conversation)).toEqual([]);
      expect(outcome.turns).toHaveLength(1);
      expect(log).toEqual(['turn']);
    },
  );

  test.each([
    ['an unknown tool', call('x', 'test_delete', { n: 1 }), /no tool of this name.*test_read, test_write/i],
    ['an input that does not fit', call('x', 'test_write', { m: 1 }), /n: is missing/],
    ['an input that is no object', call('x', 'test_read', 'n'), /n: is missing/],
    ['a credential in the arguments', call('x', 'test_write', { n: `ghp_${'a'.repeat(30)}` }), /credential/],
  ])('%s is answered with an error, three times in a row, then the work stops', async (_name, bad, why) => {
    const again = (n: number) => says('', { ...bad, id: `x${n}` }, call(`r${n}`, 'test_read', { n }));
    const { go, model, log } = world([again(1), again(2), again(3), again(4)]);
    const patient = { ...agent, budget: { ...agent.budget, maxIdenticalCalls: 99 } };

    const outcome = await go(start, patient);

    expect(outcome).toMatchObject({ kind: 'stopped', stop: 'unusable_output', code: 'AGENT_OUTPUT_INVALID' });
    expect(model.seen).toHaveLength(4);
    for (const turn of [1, 2, 3])
      expect(resultsBefore(model, turn)[0]).toEqual([`x${turn}`, expect.stringMatching(why), true]);
    expect(log).not.toContain('ACTED');
  });

  test('a usable turn in between starts the count anew', async () => {
    const bad = (n: number) => says('', call(`x${n}`, 'test_read', { wrong: n }));
    const good = (n: number) => says('', call(`g${n}`, 'test_read', { n }));
    const { go } = world([bad(1), bad(2), bad(3), good(1), bad(4), bad(5), bad(6), says('Done.')]);

    expect(await go()).toMatchObject({ kind: 'finished' });
  });

  test('saying nothing is not a summary', async () => {
    for (const turn of [says(''), { ...says('Calling…'), stopReason: 'tool_use' }])
      expect(await world([turn]).go()).toMatchObject({ kind: 'stopped', stop: 'unusable_output' });
  });
});

describe('a read that fails', () => {
  test.each(['TOOL_REFUSED', 'TOOL_FAILED', 'EGRESS_REFUSED', 'PERMIT_REQUIRED'] as const)(
    'with %s tells the model why, and the work goes on',
    async (code) => {
      const { go, model } = world([says('', call('a', 'test_read', { n: 1 })), says('Could not read.')], {
        read: () => Promise.reject(new CountersignError(code, `no, and ghp_${'b'.repeat(30)}`)),
      });

      expect(await go()).toMatchObject({ kind: 'finished' });
      expect(resultsBefore(model, 1)).toEqual([['a', `${code}: no, and [secret]`, true]]);
    },
  );

  test.each(['FENCED', 'RUN_CANCELLED'] as const)('with %s ends the attempt', async (code) => {
    const { go } = world([says('', call('a', 'test_read', { n: 1 })), says('Never said.')], {
      read: () => Promise.reject(new CountersignError(code, 'stop')),
    });

    await expect(go()).rejects.toMatchObject({ code });
  });
});
