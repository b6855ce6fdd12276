/**
 * Two prompts race and are scored: both write, a judge who does not know which is which scores both, the better one is kept.
 *
 * Use it to find out which prompt is worth its price, on real tasks. Unlike first three of five nobody is cancelled: the loser's draft
 * is what the winner is measured against, and what it cost is part of the answer.
 */
import { z } from 'zod';
import { workflow } from '../../src/jobs/engine/workflow.ts';
import type { Step } from '../../src/types.ts';

const STRATEGIES = ['terse', 'thorough'] as const;
type Strategy = (typeof STRATEGIES)[number];

export interface Draft {
  readonly text: string;
  readonly costUsd: number;
}
export interface RaceDeps {
  write(strategy: Strategy, task: string, signal: AbortSignal): Promise<Draft>;
  /** From 0 to 1. */
  judge(task: string, text: string, signal: AbortSignal): Promise<number>;
}

export function promptRace({ write, judge }: RaceDeps) {
  const draft = workflow({
    name: 'draft',
    version: 1,
    input: z.object({ strategy: z.enum(STRATEGIES), task: z.string() }),
    body: (step, { strategy, task }) => step.run('write', ({ signal }) => write(strategy, task, signal)),
  });

  // #region race
  /** Null for one that falls: it leaves the race to the other, and its own run says why. */
  async function enter(step: Step, strategy: Strategy, task: string) {
    try {
      const { text, costUsd } = await step.invoke('draft', draft, { strategy, task });
      const score = await step.run('judge', ({ signal }) => judge(task, text, signal));
      return { strategy, text, costUsd, score };
    } catch {
      return null;
    }
  }

  async function runRace(step: Step, task: string) {
    const entered = await Promise.all(
      STRATEGIES.map((strategy) => step.branch(strategy, (own) => enter(own, strategy, task))),
    );
    const [winner, ...losers] = entered
      .filter((entry) => entry !== null)
      .sort((a, b) => b.score - a.score || a.costUsd - b.costUsd);
    if (!winner) throw new Error('No draft came home');
    return { winner, losers };
  }
  // #endregion

  const race = workflow({
    name: 'prompt-race',
    version: 1,
    input: z.object({ task: z.string() }),
    body: (step, { task }) => runRace(step, task),
  });
  return { race, workflows: [race, draft] };
}
