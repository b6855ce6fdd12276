/**
 * What follows when Slack refuses a message for good. Of `deliveries`, only how a row ends and what is owed in its stead.
 *
 * Invariants. Nothing that is refused is sent again as it was, to the same place. A refusal decides nothing: the request stays as it is.
 * A message that somebody deleted, or that takes no edit any more, is owed anew once; one that is too long or malformed is owed once in a few words, the rest as a file;
 * a request whose place is gone goes to the owner of its task, and when that is refused too, to the admins of the newest policy, each
 * once, in direct messages. So does a task's message, to the admins only while it asks what became of an action, and that question itself.
 *
 * The admins are told all at once, not one after the other: the owner could not be told, so nobody knows of it yet, and a direct
 * message that Slack takes says nothing about whether its reader is at work today. The copies are redrawn together, and decide together.
 * Those of the admins stand outside the audience of the task, and show what they are asked and not what the task is about; the owner's shows all.
 */
import type { RefusedFor } from '../errors.ts';
import type { Json, JsonObject, Person, Queryable, Tx, WorkspaceId } from '../types.ts';
import { type Owed, owe, oweNote, PRIORITY } from './deliveries.ts';
import type { DeliveryRow } from './delivery-queue.ts';
import type { Database } from './engine/db.ts';
import { HAS_UNSETTLED } from './settling.ts';

/** More readers than this are a broadcast. */
const ADMINS_TOLD = 10;

/** The admins of the newest policy, in its order; throws when none is in force. */
export type AdminsOf = (db: Queryable, workspaceId: WorkspaceId) => Promise<readonly Person[]>;

/** `nobody is left`: a person is needed and there is no one whom Slack lets us tell. */
export type Followed =
  | 'posted anew'
  | 'said shortly'
  | 'owner is told'
  | 'admins are told'
  | 'reader is told'
  | 'none'
  | 'nobody is left'
  | 'not mine';

/** Ends the row, or turns it into what Slack may take, in one transaction with what is owed in its stead. `message` is kept: no secrets. */
export function refused(
  database: Database,
  adminsOf: AdminsOf,
  row: DeliveryRow,
  refusedFor: RefusedFor,
  message: string,
): Promise<Followed> {
  return database.transaction(async (tx) => {
    // Every copy, in one order: two of them refused at once must not both turn to the owner.
    await tx.query({
      text: `select 1 from deliveries where workspace_id = $1 and (delivery_id = $2 or subject_id = $3) order by delivery_id for update`,
      values: [row.workspace_id, row.delivery_id, row.subject_id],
    });
    const { rows } = await tx.query<{ next: 'anew' | 'short' | 'refused' }>({
      text: `update deliveries d set claimed_by = null, claimed_until = null, last_error = $4, next_try_at = db_now(),
               status = case n.next when 'refused' then 'refused' else 'due' end,
               ts = case n.next when 'anew' then null else d.ts end,
               try_count = case n.next when 'refused' then d.try_count else 0 end,
               reposted_at = case n.next when 'anew' then db_now() else d.reposted_at end,
               form = case n.next when 'short' then 'short' else d.form end
             from (select delivery_id, case
                     when $5 in ('gone', 'fixed') and reposted_at is null then 'anew'
                     when $5 = 'message' and form = 'full' and view_kind not in ('reaction', 'file') then 'short'
                     else 'refused' end as next
                   from deliveries where workspace_id = $1 and delivery_id = $2) n
             where d.workspace_id = $1 and d.delivery_id = n.delivery_id and d.claimed_until = $3::timestamptz
             returning n.next`,
      values: [row.workspace_id, row.delivery_id, row.claim, message, refusedFor],
    });
    switch (rows[0]?.next) {
      case undefined:
        return 'not mine';
      case 'anew':
        return 'posted anew';
      case 'short':
        return 'said shortly';
      case 'refused':
        return oweInstead(tx, adminsOf, row);
    }
  });
}

async function oweInstead(tx: Tx, adminsOf: AdminsOf, row: DeliveryRow): Promise<Followed> {
  switch (row.view_kind) {
    case 'approval':
    case 'task':
      return row.subject_id === null
        ? 'none'
        : oweSomebody(tx, adminsOf, row.workspace_id, row.view_kind, row.subject_id);
    case 'receipt':
      return oweWhoCanSay(tx, adminsOf, row);
    case 'note':
      return oweReader(tx, row);
    case 'digest':
      return oweWhoeverAsked(tx, row);
    case 'reaction':
    case 'file':
      return 'none';
  }
}

/** A private note that does not stand where it was owed goes to its reader's direct message. Once. */
async function oweReader(tx: Tx, row: DeliveryRow): Promise<Followed> {
  const { target } = row;
  if (target.to !== 'person' || target.channelId === target.userId) return 'none';
  await owe(tx, {
    workspaceId: row.workspace_id,
    viewKind: 'note',
    ...(row.content === null ? {} : { content: row.content }),
    target: { to: 'channel', channelId: target.userId },
    priority: PRIORITY.decision,
  });
  return 'reader is told';
}

/** Whoever asked for a digest, or owns it, hears in their direct message that it could not be posted. Once. */
async function oweWhoeverAsked(tx: Tx, row: DeliveryRow): Promise<Followed> {
  const tell = (row.content as { tell?: string } | null)?.tell;
  if (row.target.to === 'thread' || tell === undefined) return 'none';
  await oweNote(
    tx,
    row.workspace_id,
    { to: 'channel', channelId: tell },
    { kind: 'digest_refused', channelId: row.target.channelId },
  );
  return 'reader is told';
}

interface Standing {
  owner_user_id: string;
  /** Somebody still has to decide, or to say what happened. */
  is_open: boolean;
  places: string[];
  /** Copies that stand, or that nobody has refused yet. */
  held_count: number;
}

/** Of a message by what it shows, `$2`: whose task it is, and whether it has to be looked at. */
const SUBJECT = {
  approval: `select t.owner_user_id, (r.status = 'pending' or a.status = 'unknown') as is_open from approval_requests r
             join actions a on a.workspace_id = r.workspace_id and a.action_id = r.action_id
             join tasks t on t.workspace_id = r.workspace_id and t.run_id = r.run_id
             where r.workspace_id = $1 and r.request_id = $2`,
  task: `select t.owner_user_id, ${HAS_UNSETTLED} as is_open from tasks t where t.workspace_id = $1 and t.task_id = $2`,
} as const;

async function oweSomebody(
  tx: Tx,
  adminsOf: AdminsOf,
  workspaceId: WorkspaceId,
  kind: keyof typeof SUBJECT,
  subjectId: string,
): Promise<Followed> {
  const { rows } = await tx.query<Standing>({
    text: `select s.owner_user_id, s.is_open, c.places, c.held_count from (${SUBJECT[kind]}) s
           cross join lateral (select coalesce(array_agg(d.place), '{}') as places, count(*) filter (where d.status <> 'refused')::int as held_count
             from deliveries d where d.workspace_id = $1 and d.subject_id = $2 and d.view_kind = $3) c`,
    values: [workspaceId, subjectId, kind],
  });
  const [standing] = rows;
  if (standing === undefined) return 'none';
  const asked = new Set(standing.places);
  const copy = {
    workspaceId,
    viewKind: kind,
    subjectId,
    // What becomes of a task is no more urgent to its owner than to its thread.
    priority: kind === 'approval' || standing.is_open ? PRIORITY.decision : PRIORITY.progress,
  };
  if (!asked.has(standing.owner_user_id)) {
    await oweDirectly(tx, copy, standing.owner_user_id);
    return 'owner is told';
  }
  // Of what nobody has to look at any more the owner's copy was enough; and as long as one copy stands, somebody has it.
  if (!standing.is_open || standing.held_count > 0) return 'none';
  const admins = await adminsBeside(tx, adminsOf, workspaceId, asked);
  // They need be neither reviewers nor members of its channel.
  for (const userId of admins) await oweDirectly(tx, { ...copy, content: { isElsewhere: true } }, userId);
  return admins.length === 0 ? 'nobody is left' : 'admins are told';
}

/**
 * The question what became of an action goes on to the owner of its task and, refused there, to the admins, as long as it is one. Where no
 * card stands for the action, they need the task's message as well: it has the buttons.
 */
async function oweWhoCanSay(tx: Tx, adminsOf: AdminsOf, row: DeliveryRow): Promise<Followed> {
  const { workspace_id: workspaceId } = row;
  const content = (row.content ?? {}) as JsonObject & { asks?: Json; actionId?: string; reader?: string };
  if (content.asks === undefined || content.actionId === undefined) return 'none';
  const { rows } = await tx.query<{ task_id: string; owner_user_id: string; has_buttons: boolean }>({
    text: `select t.task_id, t.owner_user_id, ${HAS_UNSETTLED} as has_buttons
           from actions q join tasks t on t.workspace_id = q.workspace_id and t.task_id = q.task_id
           where q.workspace_id = $1 and q.action_id = $2 and q.status = 'unknown'`,
    values: [workspaceId, content.actionId],
  });
  const [task] = rows;
  if (task === undefined) return 'none';
  const { owner_user_id: owner } = task;
  const question = { workspaceId, viewKind: 'receipt', content, priority: PRIORITY.decision } as const;
  if (content.reader === undefined) {
    await oweDirectly(tx, question, owner);
    return 'owner is told';
  }
  if (content.reader !== owner) return 'none';
  const admins = await adminsBeside(tx, adminsOf, workspaceId, new Set([owner]));
  for (const userId of admins) await oweDirectly(tx, question, userId);
  if (task.has_buttons) {
    // As for any refusal: its copies may be refused at the same time.
    await tx.query({
      text: `select 1 from deliveries where workspace_id = $1 and subject_id = $2 order by delivery_id for update`,
      values: [workspaceId, task.task_id],
    });
    await oweSomebody(tx, adminsOf, workspaceId, 'task', task.task_id);
  }
  return admins.length === 0 ? 'nobody is left' : 'admins are told';
}

async function adminsBeside(
  tx: Tx,
  adminsOf: AdminsOf,
  workspaceId: WorkspaceId,
  asked: ReadonlySet<string>,
): Promise<readonly string[]> {
  const admins = await adminsOf(tx, workspaceId);
  return admins
    .map(({ userId }) => userId)
    .filter((userId) => !asked.has(userId))
    .slice(0, ADMINS_TOLD);
}

/** `reader` says whose direct message it is: whether they still read it is asked before it is posted. */
function oweDirectly(tx: Tx, owed: Omit<Owed, 'target'>, reader: string): Promise<void> {
  return owe(tx, {
    ...owed,
    content: { ...owed.content, reader },
    target: { to: 'channel', channelId: reader },
  });
}
