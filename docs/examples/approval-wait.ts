/**
 * Ask a person and wait: for hours or weeks, holding no worker, connection or timer; every way it can end is an ordinary value.
 *
 * Use it wherever something must not happen on a model's word alone. Whoever emits the event has verified who spoke; the body still
 * reads the payload as outside data. What does not clearly say yes is a no.
 */
import { z } from 'zod';
import { workflow } from '../../src/jobs/engine/workflow.ts';

const decision = z.object({ approved: z.boolean(), by: z.string() });

export interface ApprovalDeps {
  /** Posts the question. Whoever answers emits `approval.decided` with the request's id as the key. */
  ask(requestId: string, question: string, idempotencyKey: string): Promise<void>;
  carryOut(question: string, idempotencyKey: string): Promise<string>;
}

export function approvalWait({ ask, carryOut }: ApprovalDeps) {
  return workflow({
    name: 'approval-wait',
    version: 1,
    input: z.object({ question: z.string(), patienceMs: z.number().positive() }),
    // #region approval
    async body(step, { question, patienceMs }) {
      const requestId = step.id();
      await step.run('ask', ({ idempotencyKey }) => ask(requestId, question, idempotencyKey));
      const deadlineAt = new Date(step.now().getTime() + patienceMs);
      const heard = await step.waitForEvent('decision', {
        event: 'approval.decided',
        key: requestId,
        deadlineAt,
      });
      if (heard.outcome === 'timeout') return { status: 'expired' };
      const said = decision.safeParse(heard.outcome === 'event' ? heard.payload : null);
      if (!said.success || !said.data.approved) return { status: 'rejected' };
      const receipt = await step.run('carry-out', ({ idempotencyKey }) => carryOut(question, idempotencyKey));
      return { status: 'done', by: said.data.by, receipt };
    },
    // #endregion
  });
}
