/**
 * Plan, then carry out: one look at the whole way, then each task in order; what fails goes back to the planner with what is done.
 *
 * Use it when the way can be written down before it is walked and a person may want to read it first. Cheaper than a ReAct loop: the
 * model is asked once per plan, not once per task.
 */
import { z } from 'zod';
import { workflow } from '../../src/jobs/engine/workflow.ts';
import type { Step } from '../../src/types.ts';

/** A third plan that fails means that the goal is wrong, not the plan. */
const MAX_PLANS = 3;
const MAX_TASKS = 20;

export type Done = { readonly task: string; readonly result: string };
export type Planning = {
  readonly goal: string;
  readonly done: readonly Done[];
  /** What went wrong with the plan before; null for the first one. */
  readonly setback: string | null;
};
export interface PlannerDeps {
  /** Returns what is still to be done. */
  plan(planning: Planning, signal: AbortSignal): Promise<readonly string[]>;
  perform(task: string, signal: AbortSignal): Promise<string>;
}

// #region planner
export async function planAndPerform(step: Step, goal: string, { plan, perform }: PlannerDeps) {
  const done: Done[] = [];
  let setback: string | null = null;
  for (let plans = 1; plans <= MAX_PLANS; plans += 1) {
    const planning: Planning = { goal, done: [...done], setback };
    const tasks = await step.run('plan', ({ signal }) => plan(planning, signal), { input: planning });
    setback = null;
    for (const task of tasks.slice(0, MAX_TASKS)) {
      try {
        const result = await step.run('perform', ({ signal }) => perform(task, signal), { input: task });
        done.push({ task, result });
      } catch (error) {
        setback = `${task}: ${error instanceof Error ? error.message : String(error)}`;
        break;
      }
    }
    if (setback === null) return { plans, done };
  }
  throw new Error(`Gave up after ${MAX_PLANS} plans: ${setback}`);
}
// #endregion

export function planner(deps: PlannerDeps) {
  return workflow({
    name: 'planner',
    version: 1,
    input: z.object({ goal: z.string() }),
    body: (step, { goal }) => planAndPerform(step, goal, deps),
  });
}
