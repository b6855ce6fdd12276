/**
 * First three of five: ask five, take the first three answers, and stop paying for the other two.
 *
 * Use it when answers are worth about the same and time is worth more than money. The losers are cancelled in the transaction that
 * stores the winners; what a loser had already sent into the world cannot be called back, so it is named.
 */
import { z } from 'zod';
import { workflow } from '../../src/jobs/engine/workflow.ts';

const HOUR_MS = 3_600_000;

export type Ask = (advisor: string, question: string, signal: AbortSignal) => Promise<string>;

export function panel(ask: Ask) {
  const advisor = workflow({
    name: 'advisor',
    version: 1,
    input: z.object({ advisor: z.string(), question: z.string() }),
    body: (step, input) => step.run('ask', ({ signal }) => ask(input.advisor, input.question, signal)),
  });

  const firstThree = workflow({
    name: 'first-three-of-five',
    version: 1,
    input: z.object({ question: z.string(), advisors: z.array(z.string()).length(5) }),
    // #region first
    async body(step, { question, advisors }) {
      const calls = advisors.map((key) => ({ key, workflow: advisor, input: { advisor: key, question } }));
      const { completed, failed, cancelled } = await step.first('advisors', 3, calls, { timeoutMs: HOUR_MS });
      return {
        answers: completed.map(({ key, output }) => `${key}: ${output}`),
        failed: failed.map(({ key, error }) => `${key}: ${error.code}`),
        // Sent before the cancelling: finished and recorded, not undone. Somebody may have to be told.
        sentAllTheSame: cancelled.flatMap(({ inFlight }) => inFlight),
      };
    },
    // #endregion
  });
  return { firstThree, workflows: [firstThree, advisor] };
}
