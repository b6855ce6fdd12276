/**
 * Forms that are given back to be mended, while their author still has them open. Slack itself only asks that a required
 * field is not empty; spaces pass.
 *
 * Invariant: decides nothing and knows nothing but the form: what is let through here is judged by the desk as always.
 */
import { REASON_INPUT, VIEWS } from './buttons.ts';
import { type InboundRow, viewSubmission } from './inbound.ts';

/** What each form cannot do without, in the words put under its field. A rejection needs no reason. */
const MISSING: Readonly<Record<string, string>> = {
  [VIEWS.happened]: 'Say what you saw there: it is recorded with your name.',
  [VIEWS.didNotHappen]: 'Say what you saw there: it is recorded with your name.',
  [VIEWS.requestChanges]: 'Say what should change: the agent can do nothing with an empty wish.',
};

/** The answer to a submission that lacks what it must say, or null when there is nothing to mend. Pure and total. */
export function mendForm(row: InboundRow): object | null {
  if (row.source !== 'interaction' || row.payload.type !== 'view_submission') return null;
  const read = viewSubmission.safeParse(row.payload);
  if (!read.success) return null;
  const { view } = read.data;
  const missing = Object.hasOwn(MISSING, view.callback_id ?? '')
    ? MISSING[view.callback_id ?? '']
    : undefined;
  if (missing === undefined) return null;
  const said = view.state?.values[REASON_INPUT.block]?.[REASON_INPUT.action]?.value ?? '';
  if (said.trim() !== '') return null;
  return { response_action: 'errors', errors: { [REASON_INPUT.block]: missing } };
}
