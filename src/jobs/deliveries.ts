/**
 * Deliveries: the one way the product's own messages reach Slack. Owns the table `deliveries`, with delivery-queue.ts (whose turn it
 * is), delivering.ts (sending) and refusals.ts (what a refusal leads to). This file is what the rest of the product sees: owing.
 *
 * A delivery is owed in the transaction of what it tells; it is sent after the commit, drawn from the newest committed state, and
 * again until what Slack shows is what the database says. Slack is a view: a failed delivery decides nothing.
 */
import { randomUUIDv7 } from 'node:crypto';
import type { JsonObject, Queryable, Tx, WorkspaceId } from '../types.ts';
import type { DeliveryTarget, NoteReason } from '../views.ts';
import { ring } from './engine/bell.ts';

/** Lower goes first. */
export const PRIORITY = { decision: 0, progress: 1, digest: 2 } as const;

export type ViewKind = 'approval' | 'task' | 'note' | 'receipt' | 'reaction' | 'digest' | 'file';

export interface Owed {
  readonly workspaceId: WorkspaceId;
  readonly viewKind: ViewKind;
  /** The request, task or digest it shows. */
  readonly subjectId?: string;
  /** What it says, where no subject says it. */
  readonly content?: JsonObject;
  readonly target: DeliveryTarget;
  readonly priority: number;
}

/** Owes Slack a message, in the caller's transaction. */
export async function owe(tx: Tx, owed: Owed): Promise<void> {
  await tx.query({
    name: 'delivery_owe',
    text: `insert into deliveries (workspace_id, delivery_id, view_kind, subject_id, content, target, priority)
           values ($1, $2, $3, $4, $5, $6, $7)`,
    values: [
      owed.workspaceId,
      randomUUIDv7(),
      owed.viewKind,
      owed.subjectId ?? null,
      owed.content === undefined ? null : JSON.stringify(owed.content),
      JSON.stringify(owed.target),
      owed.priority,
    ],
  });
  await ring(tx, 'delivery');
}

/** Owes one person a private explanation. */
export function oweNote(
  tx: Tx,
  workspaceId: WorkspaceId,
  target: DeliveryTarget,
  note: NoteReason,
): Promise<void> {
  return owe(tx, {
    workspaceId,
    viewKind: 'note',
    content: note as unknown as JsonObject,
    target,
    priority: PRIORITY.decision,
  });
}

/** Says that what these messages show has changed: every copy is redrawn after the commit, none before the pause that Slack asked for. */
export async function redraw(tx: Tx, workspaceId: WorkspaceId, subjectId: string): Promise<void> {
  await tx.query({
    name: 'delivery_redraw',
    text: `update deliveries set wanted_version = wanted_version + 1, status = 'due',
             next_try_at = case when status = 'settled' then db_now() else next_try_at end
           where workspace_id = $1 and subject_id = $2 and status <> 'refused'`,
    values: [workspaceId, subjectId],
  });
  await ring(tx, 'delivery');
}

/** Whether a card of a few words stands for this request anywhere: whoever decided on it has not seen everything. */
export async function isShownShort(
  db: Queryable,
  workspaceId: WorkspaceId,
  requestId: string,
): Promise<boolean> {
  const { rows } = await db.query<{ short: boolean }>({
    name: 'delivery_is_short',
    text: `select exists (select 1 from deliveries where workspace_id = $1 and subject_id = $2 and form = 'short') as short`,
    values: [workspaceId, requestId],
  });
  return rows[0]?.short === true;
}
