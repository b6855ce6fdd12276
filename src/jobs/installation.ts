/**
 * Whether Slack still lets us in. Somebody may uninstall the app or revoke its token: from then on nothing can be sent, and whatever is owed
 * rests (delivery-queue.ts) until Slack takes the token again.
 *
 * Invariants. Only Slack's refusal of our token ends access; an event alone does not, because it may come late, after the app was installed
 * again. Each change is one ledger entry. Requests stay pending meanwhile: losing Slack decides nothing.
 */
import type { Tx, WorkspaceId } from '../types.ts';
import { endRest, restAll } from './delivery-queue.ts';
import { appendEntry } from './ledger.ts';

/**
 * Slack refuses our token: everything owed rests, and one message every two minutes tries. `by`: the event's name, or the refused call and
 * Slack's word. In the caller's transaction; true when this is news, a second time changes nothing.
 */
export async function slackLost(tx: Tx, workspaceId: WorkspaceId, by: string): Promise<boolean> {
  const isNews = await restAll(tx, workspaceId, by);
  if (isNews) await remember(tx, workspaceId, 'workspace.slack_lost', { by });
  return isNews;
}

/** Slack took our token: what rested goes out. In the caller's transaction; true when there was a rest to end. */
export async function slackRegained(tx: Tx, workspaceId: WorkspaceId): Promise<boolean> {
  const isNews = await endRest(tx, workspaceId);
  if (isNews) await remember(tx, workspaceId, 'workspace.slack_regained', {});
  return isNews;
}

function remember(
  tx: Tx,
  workspaceId: WorkspaceId,
  kind: 'workspace.slack_lost' | 'workspace.slack_regained',
  facts: { readonly by?: string },
): Promise<void> {
  return appendEntry(tx, { workspaceId, subjectKind: 'workspace', subjectId: workspaceId, kind, facts });
}
