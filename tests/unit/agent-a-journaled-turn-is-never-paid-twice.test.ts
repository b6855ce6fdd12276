/**
 * Guarantee: wherever the process dies, what the model said and what a tool returned is not asked for again once it is
 * journaled, and the resumed work ends exactly like the work that was never interrupted. That holds even where a model
 * gives the same id to calls of different turns.
 */
import { describe, expect, test } from 'vitest';
import { answer } from '../../src/agents/conversation.ts';
import { ENGINEER, initialConversation } from '../../src/agents/definitions.ts';
import { type WorkOutcome, work } from '../../src/agents/loop.ts';
import { CountersignError } from '../../src/errors.ts';
import type { ReadTool, Step, WriteTool } from '../../src/types.ts';
import { MemoryJournal, memoryStep } from '../support/memory-step.ts';
import { call, says, scriptedModel } from '../support/scripted-turns.ts';

const agent = { ...ENGINEER, toolKinds: ['test.read', 'test.write'] };
const noFetch = () => Promise.reject(new Error('No network here.'));
const SCRIPT = [
  says('Looking.', call('id', 'test_read', { n: 1 }), call('id2', 'test_read', { n: 2 })),
  says('Looking again.', call('id', 'test_read', { n: 3 })),
  says('This one.', call('id', 'test_write', { n: 4 }), call('id2', 'test_read', { n: 5 })),
  says('Done.'),
];
const shared = {
  version: 1,
  description: '',
  inputSchema: {},
  parse: (input: unknown) => input as { n: number },
};
const unused = () => {
  throw new Error('Not in this story.');
};
const write: WriteTool = {
  ...shared,
  access: 'write',
  kind: 'test.write',
  effectClass: 'blind',
  requestTimeoutMs: 1,
  credential: 'none',
  target: unused,
  execute: unused,
  reconcile: unused,
  describeReceipt: unused,
};

/** The whole story: work, answer the proposal, work. `asked` is what cost something, over all attempts. */
async function story(step: Step, asked: string[], skipTurns: number): Promise<WorkOutcome> {
  const model = scriptedModel(SCRIPT.slice(skipTurns), () => asked.push('turn'));
  const read: ReadTool = {
    ...shared,
    access: 'read',
    kind: 'test.read',
    read: async ({ n }) => {
      asked.push(`read ${n}`);
      return { got: n ?? null };
    },
  };
  const deps = { model, tools: [read, write], fetch: noFetch };
  const proposed = await work(step, agent, initialConversation({ objective: 'Do it.' }), deps);
  if (proposed.kind !== 'proposed') return proposed;
  return work(step, agent, answer(proposed.conversation, proposed.toolUseId, 'done', false), deps);
}

describe('a resumed task', () => {
  test('asks only for what the journal lacks, and ends the same, from every point', async () => {
    const whole = new MemoryJournal();
    const expected = await story(memoryStep(whole), [], 0);
    const keys = [...whole.entries.keys()];
    expect(expected).toMatchObject({ kind: 'finished', summary: 'Done.' });
    expect(keys).toHaveLength(8);

    for (let kept = 0; kept <= keys.length; kept += 1) {
      const journal = new MemoryJournal();
      for (const [key, entry] of [...whole.entries].slice(0, kept)) journal.entries.set(key, entry);
      const asked: string[] = [];
      const turnsKept = keys.slice(0, kept).filter((key) => key.startsWith('turn#')).length;

      const outcome = await story(memoryStep(journal), asked, turnsKept);

      expect(outcome).toEqual(expected);
      expect(asked).toHaveLength(keys.length - kept);
      expect(journal.bodies).toEqual(keys.slice(kept));
    }
  });

  test('parks rather than guess when the agent is another version', async () => {
    const journal = new MemoryJournal();
    const conversation = initialConversation({ objective: 'Do it.' });
    const deps = { model: scriptedModel([says('Done.')]), tools: [], fetch: noFetch };
    await work(memoryStep(journal), agent, conversation, deps);

    await expect(
      work(memoryStep(journal), { ...agent, version: `${agent.version}-next` }, conversation, deps),
    ).rejects.toMatchObject({ code: 'JOURNAL_MISMATCH' });
  });
});

describe('a model that fails', () => {
  const failing = (code: 'MODEL_FAILED' | 'MODEL_REFUSED' | 'FENCED') => ({
    ...says(''),
    error: new CountersignError(code, 'overloaded'),
  });

  test('is tried again inside the step, and the work goes on', async () => {
    const journal = new MemoryJournal();
    const model = scriptedModel([failing('MODEL_FAILED'), failing('MODEL_FAILED'), says('Done.')]);

    const outcome = await work(memoryStep(journal), agent, initialConversation({ objective: 'x' }), {
      model,
      tools: [],
      fetch: noFetch,
    });

    expect(outcome).toMatchObject({ kind: 'finished' });
    expect(journal.bodies).toEqual(['turn#1', 'turn#1', 'turn#1']);
  });

  test('for good is a named outcome, asked once', async () => {
    const model = scriptedModel([failing('MODEL_REFUSED')]);

    const outcome = await work(
      memoryStep(new MemoryJournal()),
      agent,
      initialConversation({ objective: 'x' }),
      { model, tools: [], fetch: noFetch },
    );

    expect(outcome).toMatchObject({
      kind: 'stopped',
      stop: 'model_error',
      code: 'MODEL_REFUSED',
      message: 'overloaded',
      turns: [],
    });
    expect(model.seen).toHaveLength(1);
  });

  test('because the attempt was lost ends the attempt', async () => {
    const attempt = work(memoryStep(new MemoryJournal()), agent, initialConversation({ objective: 'x' }), {
      model: scriptedModel([failing('FENCED')]),
      tools: [],
      fetch: noFetch,
    });

    await expect(attempt).rejects.toMatchObject({ code: 'FENCED' });
  });
});
