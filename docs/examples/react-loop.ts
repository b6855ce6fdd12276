/**
 * ReAct: the model says what to call, the calls are made, the model sees what came of them, until it answers.
 *
 * Use it when nobody can write down the way beforehand. A turn is a step and a call is a step, so a crash in the ninth turn pays for
 * the ninth turn again at most, not for the eight before it.
 */
import { z } from 'zod';
import { workflow } from '../../src/jobs/engine/workflow.ts';
import type { Step } from '../../src/types.ts';

/** A model that has not answered by then goes in circles. */
const MAX_TURNS = 20;
/** Of one turn; a longer list is a loop in disguise. */
const MAX_CALLS = 8;

export interface Message {
  readonly role: 'task' | 'model' | 'tool';
  readonly text: string;
}
export interface Call {
  readonly tool: string;
  readonly argument: string;
}
export type Turn =
  | { readonly kind: 'answer'; readonly text: string }
  | { readonly kind: 'calls'; readonly calls: readonly Call[] };

export type Model = (messages: readonly Message[], signal: AbortSignal) => Promise<Turn>;
export type Tool = (argument: string, signal: AbortSignal) => Promise<string>;

// #region loop
export async function react(step: Step, task: string, model: Model, tools: ReadonlyMap<string, Tool>) {
  const messages: Message[] = [{ role: 'task', text: task }];
  for (let turn = 1; turn <= MAX_TURNS; turn += 1) {
    const said = await step.run('model', ({ signal }) => model([...messages], signal));
    if (said.kind === 'answer') return said.text;
    const calls = said.calls.slice(0, MAX_CALLS);
    messages.push({ role: 'model', text: JSON.stringify(calls) });
    const results = await Promise.all(
      calls.map((call, place) => step.branch(`call-${place}`, (own) => use(own, call, tools))),
    );
    messages.push(...results.map((text): Message => ({ role: 'tool', text })));
  }
  throw new Error(`No answer after ${MAX_TURNS} turns`);
}
// #endregion

/** What goes wrong is told to the model: it may know another way. */
async function use(step: Step, { tool, argument }: Call, tools: ReadonlyMap<string, Tool>): Promise<string> {
  const found = tools.get(tool);
  if (!found) return `There is no tool ${tool}`;
  try {
    return await step.run('tool', ({ signal }) => found(argument, signal), { maxTries: 2 });
  } catch (error) {
    return `It failed: ${error instanceof Error ? error.message : String(error)}`;
  }
}

export function reactLoop(model: Model, tools: ReadonlyMap<string, Tool>) {
  return workflow({
    name: 'react-loop',
    version: 1,
    input: z.object({ task: z.string() }),
    body: (step, { task }) => react(step, task, model, tools),
  });
}
