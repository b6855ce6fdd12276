/**
 * Forms that are given back to be mended, while their author still has them open. Slack itself only asks that a required
 * field is not empty; spaces pass.
 *
 * Invariant: decides nothing and knows nothing but the form: what is let through here is judged by the desk as always.
 */
import { REASON_INPUT, VIEWS } from './buttons.ts';
import { type InboundRow, viewSubmission } from './inbound.ts';

/** The answer to a submission that lacks what it must say, or null when there is nothing to mend. Pure and total. */
export function mendForm(row: InboundRow): object | null {
  if (row.source !== 'interaction' || row.payload.type !== 'view_submission') return null;
  const read = viewSubmission.safeParse(row.payload);
  if (!read.success) return null;
  const { view } = read.data;
  // A rejection needs no reason; the word that settles an unknown outcome does.
  if (view.callback_id !== VIEWS.happened && view.callback_id !== VIEWS.didNotHappen) return null;
  const said = view.state?.values[REASON_INPUT.block]?.[REASON_INPUT.action]?.value ?? '';
  if (said.trim() !== '') return null;
  return {
    response_action: 'errors',
    errors: { [REASON_INPUT.block]: 'Say what you saw there: it is recorded with your name.' },
  };
}
