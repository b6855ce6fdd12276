/**
 * Orchestrator and workers: one call splits the task, a child run works on each part side by side, one call combines what they found.
 *
 * Use it when the parts are known only once the task is read. A worker is a run of its own: another process may work it, it has a trace,
 * it can be retried by itself, and it may wait for days without holding anything.
 */
import { z } from 'zod';
import { workflow } from '../../src/jobs/engine/workflow.ts';

/** Parts beyond this are better split again by their worker. */
const MAX_PARTS = 10;

export interface OrchestratorDeps {
  split(task: string, signal: AbortSignal): Promise<readonly string[]>;
  work(part: string, signal: AbortSignal): Promise<string>;
  combine(task: string, findings: readonly string[], signal: AbortSignal): Promise<string>;
}

export function orchestrator({ split, work, combine }: OrchestratorDeps) {
  const worker = workflow({
    name: 'worker',
    version: 1,
    input: z.object({ part: z.string() }),
    body: (step, { part }) => step.run('work', ({ signal }) => work(part, signal)),
  });

  const orchestrate = workflow({
    name: 'orchestrator',
    version: 1,
    input: z.object({ task: z.string() }),
    // #region orchestrator
    async body(step, { task }) {
      const parts = (await step.run('split', ({ signal }) => split(task, signal))).slice(0, MAX_PARTS);
      const findings = await Promise.all(
        parts.map((part, n) => step.branch(`part-${n}`, (own) => own.invoke('worker', worker, { part }))),
      );
      return step.run('combine', ({ signal }) => combine(task, findings, signal));
    },
    // #endregion
  });
  return { orchestrate, workflows: [orchestrate, worker] };
}
