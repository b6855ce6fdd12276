/**
 * Whose turn it is: which deliveries may be sent now, by whom, and what must rest. Owns `delivery_pauses`, and the claims in
 * `deliveries`.
 *
 * Invariants. A row is sent by whoever holds its claim at that moment, and nothing but a look is made for it by anybody else for as long as
 * that call may last, whatever has become of the worker. Rows wait in lanes (workspace, place, call, priority): a pause that Slack asked for
 * one call in one place holds back those lanes in every process, and nothing else but edits of progress elsewhere, when it is edits that
 * Slack limits. Progress goes at one pace per channel, whatever number of tasks run there; nothing else waits for that. One place never
 * takes more than a few slots of a process, and whatever is no decision leaves some of them free.
 * The cost of a look grows with the lanes, not with the rows that wait in them.
 */
import type { JsonObject, Queryable, WorkspaceId } from '../types.ts';
import type { DeliveryTarget } from '../views.ts';
import { PRIORITY, type ViewKind } from './deliveries.ts';
import { ring } from './engine/bell.ts';
import { HAS_UNSETTLED } from './settling.ts';

/**
 * A claim is open again after this even while its worker lives. Renewed right before a message is sent, and longer than CALL_MS.
 */
const CLAIM_MS = 30_000;
/**
 * Nothing of a call can reach Slack later than this after it was allowed: START_MS until it is begun, the 20 s in which every method of
 * the Messenger ends, and what a request that we gave up may still be on its way.
 */
const CALL_MS = 25_000;
/** Who was held up for longer between asking and calling does not call: by then somebody else may. */
const START_MS = 2_000;
/** Calls of one process on their way into one place: as many may hang there while the others go on. */
const PLACE_SLOTS = 3;
/** Messages on their way at once in one process: as many calls to Slack may hang before another card waits for them. */
export const SLOTS = 10;
/** Of these, what only decisions may take: progress and files that hang leave them their turn. */
const KEPT_PLACE_SLOTS = 1;
const KEPT_SLOTS = 2;
/** From one progress message or edit in a channel to the next. Slack's own limit is about one message a second. */
const PROGRESS_EVERY_MS = 1_100;
/** Longest pause that Slack is believed to mean: a broken header must not silence a channel for a day. */
const MAX_PAUSE_MS = 3_600_000;
/** While Slack refuses the token nothing is tried but one message after each of these. */
const TOKEN_REST_MS = 120_000;
/** A message on which somebody still has to answer is drawn again after this, and any other card once. With REFRESH_EVERY_MS: within 60 s. */
const REFRESH_MS = 40_000;
/** At most so many cards are drawn again per turn, in all processes: 30 a minute, of the 50 and more that Slack grants (tier 3). */
const REFRESH_EVERY_MS = 10_000;
const REFRESH_COUNT = 5;

/** What is asked of the messenger: its calls, `note` being a post that only one person sees. */
export type Call = 'post' | 'note' | 'find' | 'update' | 'react' | 'attach';

export interface DeliveryRow {
  workspace_id: string;
  delivery_id: string;
  view_kind: ViewKind;
  subject_id: string | null;
  content: JsonObject | null;
  target: DeliveryTarget;
  priority: number;
  place: string;
  next_call: Call;
  form: 'full' | 'short';
  filed: string | null;
  wanted_version: number;
  /** Of what Slack shows; as much as is wanted when the message is only drawn again. */
  shown_version: number;
  ts: string | null;
  try_count: number;
  /** Milliseconds since it was owed, when it was claimed. */
  age_ms: number;
  last_error: string | null;
  /** Until then an earlier call whose end nobody knows may still reach Slack; null when none can. */
  doubt_until: string | null;
  /** What tells this claim from any later one of the same row; changes when it is renewed. */
  claim: string;
  /** Set when the channel's beat for progress has been taken for this try. */
  has_beat?: boolean;
  /** Tried although Slack refuses the token, to see whether it still does. */
  is_probe: boolean;
}

/** How many rows this process has on their way into each place. */
export type InFlight = ReadonlyMap<string, number>;

/** The lanes in which rows are due, found by leaping over the index, each with the end of its pause. */
const LANES = `recursive lane as (
    (select workspace_id, place, next_call, priority from deliveries where status = 'due'
     order by workspace_id, place, next_call, priority limit 1)
    union all
    select n.* from lane l cross join lateral (
      select d.workspace_id, d.place, d.next_call, d.priority from deliveries d
      where d.status = 'due'
        and (d.workspace_id, d.place, d.next_call, d.priority) > (l.workspace_id, l.place, l.next_call, l.priority)
      order by d.workspace_id, d.place, d.next_call, d.priority limit 1) n),
  moment as materialized (select db_now() as now),
  lanes as materialized (
    select l.*, ${PLACE_SLOTS} - coalesce(f.count, 0) - case when l.priority > ${PRIORITY.decision} then ${KEPT_PLACE_SLOTS} else 0 end as room,
      ${SLOTS} - busy.count - case when l.priority > ${PRIORITY.decision} then ${KEPT_SLOTS} else 0 end as free,
      (select max(p.until) from delivery_pauses p
       where p.workspace_id = l.workspace_id and ((p.place = l.place and p.call = l.next_call) or (p.place = '*' and p.call = '*')
         or (l.priority = ${PRIORITY.progress} and p.place = l.place and p.call = 'progress')
         -- Slack counts edits per workspace: what it grants next is for cards.
         or (l.priority = ${PRIORITY.progress} and l.next_call = 'update' and p.call = 'update'))) as until,
      (select p.until from delivery_pauses p where p.workspace_id = l.workspace_id and p.place = l.place and p.call = 'find') as find_until
    from lane l cross join (select coalesce(sum(c), 0)::int as count from unnest($2::int[]) c) busy
    left join unnest($1::text[], $2::int[]) f (place, count) on f.place = l.place)`;

/**
 * Nobody has it, or whoever had it can do nothing with it any more: a call that was begun is waited for, though its worker may be gone. What
 * was posted can be looked for meanwhile; it is not posted again before.
 */
const IS_OPEN = `claim_is_open(d.claimed_by, d.claimed_until) and (d.claimed_until is null or d.claimed_until < db_now()
  or d.call_until is null or d.call_until < db_now() or d.next_call in ('post', 'attach'))`;

/** Tried before and its fate unknown: it is looked for first, and that call may have to rest. */
const IN_DOUBT = `d.try_count > 0 and d.next_call in ('post', 'attach')`;

/**
 * Takes at most `count` rows for this worker, approvals before progress before the digest. A worker whose lease has run out claims nothing:
 * its claims would be open to everybody at once.
 */
export async function claimDue(
  db: Queryable,
  workerId: string,
  inFlight: InFlight,
  count: number,
): Promise<DeliveryRow[]> {
  const { rows } = await db.query<DeliveryRow>({
    name: 'delivery_claim',
    text: `with ${LANES},
           candidates as (
             select d.workspace_id, d.delivery_id, d.priority, d.next_try_at, l.room, l.free,
               row_number() over (partition by l.workspace_id, l.place order by d.priority, d.next_try_at, d.delivery_id) as nth
             from lanes l cross join lateral (
               select d.workspace_id, d.delivery_id, d.priority, d.next_try_at from deliveries d
               where d.status = 'due' and d.workspace_id = l.workspace_id and d.place = l.place and d.next_call = l.next_call
                 and d.priority = l.priority and d.next_try_at <= (select now from moment)
                 and ${IS_OPEN}
                 and not (${IN_DOUBT} and coalesce(l.find_until > (select now from moment), false))
               order by d.next_try_at, d.delivery_id
               -- One at a time where a pace is kept: the next one waits for the next beat anyway.
               limit case when l.priority = ${PRIORITY.progress} then 1 else ${PLACE_SLOTS} end) d
             where l.room > 0 and not coalesce(l.until > (select now from moment), false)),
           resting as materialized (select workspace_id from delivery_pauses where place = '*' and call = '*'),
           picked as materialized (
             select workspace_id, delivery_id from (
               -- While the token is refused each row has its turn, so that none that Slack refuses for its own sake is the only one to try.
               select *, row_number() over (order by case when exists (select 1 from resting) then 0 else priority end,
                 next_try_at, delivery_id) as turn
               from candidates where nth <= room and not claim_is_open($3, 'infinity')) c
             where turn <= free order by turn
             limit case when exists (select 1 from resting) then 1 else $4::int end),
           -- Locked by key, one by one: statistics of a table that empties and fills make a join look at every row that is due.
           due as (
             select d.workspace_id, d.delivery_id from picked c cross join lateral (
               select h.workspace_id, h.delivery_id, h.status, h.claimed_by, h.claimed_until, h.call_until, h.next_call from deliveries h
               where h.workspace_id = c.workspace_id and h.delivery_id = c.delivery_id limit 1 for update skip locked) d
             where d.status = 'due' and ${IS_OPEN}),
           claimed as (
             update deliveries d set claimed_by = $3, claimed_until = db_now() + ${CLAIM_MS} * interval '1 millisecond',
               try_count = d.try_count + 1
             from due where d.workspace_id = due.workspace_id and d.delivery_id = due.delivery_id
             returning d.workspace_id, d.delivery_id, d.view_kind, d.subject_id, d.content, d.target, d.priority, d.place, d.next_call,
               d.form, d.filed, d.wanted_version, d.shown_version, d.ts, d.try_count, d.claimed_until::text as claim, d.next_try_at,
               extract(epoch from db_now() - d.created_at)::float8 * 1000 as age_ms, d.last_error, case when d.call_until > db_now() then d.call_until::text end as doubt_until,
               exists (select 1 from resting r where r.workspace_id = d.workspace_id) as is_probe)
           select workspace_id, delivery_id, view_kind, subject_id, content, target, priority, place, next_call, form, filed,
             wanted_version, shown_version, ts, try_count, claim, is_probe, age_ms, last_error, doubt_until
           from claimed order by priority, next_try_at, delivery_id`,
    values: [[...inFlight.keys()], [...inFlight.values()], workerId, count],
  });
  for (const row of rows)
    if (row.is_probe)
      await db.query({
        text: `update delivery_pauses set until = greatest(until, db_now() + ${TOKEN_REST_MS} * interval '1 millisecond')
               where workspace_id = $1 and place = '*' and call = '*'`,
        values: [row.workspace_id],
      });
  return rows;
}

/** Milliseconds until a row falls due whose lane is open then; undefined when none will. Full places are left out: a row that ends there looks again. */
export async function msUntilDue(db: Queryable, inFlight: InFlight): Promise<number | undefined> {
  const { rows } = await db.query<{ ms: number | null }>({
    name: 'delivery_next',
    text: `with ${LANES}
           select extract(epoch from min(greatest(l.until, next.at)) - (select now from moment))::float8 * 1000 as ms
           from lanes l cross join lateral (
             select min(greatest(d.next_try_at, d.claimed_until, case when ${IN_DOUBT} then l.find_until end)) as at
             from (select d.next_try_at, d.claimed_until, d.try_count, d.next_call from deliveries d
               where d.status = 'due' and d.workspace_id = l.workspace_id and d.place = l.place and d.next_call = l.next_call
                 and d.priority = l.priority
               order by d.next_try_at limit 50) d) next
           where l.room > 0 and l.free > 0`,
    values: [[...inFlight.keys()], [...inFlight.values()]],
  });
  return rows[0]?.ms ?? undefined;
}

/**
 * Holds the row for the one call that comes now, and takes the channel's beat for progress: once for a look and the post after it. `held`:
 * nobody else makes a call for it (but looks) before that one can have no effect any more, whatever becomes of this worker; the caller makes
 * it at once. `not_mine`: somebody else has the row meanwhile, or may have it any moment because this worker's lease has run out. `paused`:
 * the call must rest, or the answer came so late that it may not be made any more. Then nothing may be sent.
 */
export async function renew(
  db: Queryable,
  row: DeliveryRow,
  call: Call,
): Promise<'held' | 'paused' | 'not_mine'> {
  // Not the monotonic clock, which stands still while a machine sleeps.
  const askedAt = Date.now();
  const { rows } = await db.query<{ claim: string | null; paused: boolean }>({
    name: 'delivery_renew',
    text: `with paused as materialized (
             select 1 from delivery_pauses where workspace_id = $1 and until > db_now()
               and ((place = $4 and call = $5) or (place = '*' and call = '*' and not $6)
                 or ($8 and call = 'update' and $5 = 'update'))),
           beat as (
             insert into delivery_pauses as p (workspace_id, place, call, until)
             select $1, $4, 'progress', db_now() + ${PROGRESS_EVERY_MS} * interval '1 millisecond'
             where $7 and not exists (select 1 from paused)
             on conflict (workspace_id, place, call) do update set until = excluded.until where p.until <= db_now()
             returning 1),
           held as (
             update deliveries set claimed_until = db_now() + ${CLAIM_MS} * interval '1 millisecond',
               call_until = case when $5 = 'find' then call_until else db_now() + ${CALL_MS} * interval '1 millisecond' end
             where workspace_id = $1 and delivery_id = $2 and claimed_until = $3::timestamptz and not claim_is_open(claimed_by, 'infinity')
               and not exists (select 1 from paused) and (not $7 or exists (select 1 from beat))
             returning claimed_until::text as claim)
           select (select claim from held) as claim,
             exists (select 1 from paused) or ($7 and not exists (select 1 from beat)) as paused`,
    values: [
      row.workspace_id,
      row.delivery_id,
      row.claim,
      row.place,
      call,
      row.is_probe,
      row.priority === PRIORITY.progress && row.has_beat !== true,
      row.priority === PRIORITY.progress,
    ],
  });
  const [held] = rows;
  if (held?.claim) {
    row.claim = held.claim;
    row.has_beat = true;
    return Date.now() - askedAt > START_MS ? 'paused' : 'held';
  }
  return held?.paused === true ? 'paused' : 'not_mine';
}

/**
 * Slack has the message as it was wanted when the row was claimed; what was asked for since is due at once. False when the claim was
 * somebody else's (see `lostAfterCall`). A card is drawn once more a while after each change, and again as long as its request is open or its
 * action's outcome unknown; the message of a task as long as it has buttons that settle; any message, once no earlier call can still draw over it.
 */
export async function settle(
  db: Queryable,
  row: DeliveryRow,
  ts: string | null,
  filed: string | null,
): Promise<boolean> {
  const { rowCount } = await db.query({
    name: 'delivery_settle',
    text: `update deliveries d set ts = coalesce($4, ts), shown_version = $5, claimed_by = null, claimed_until = null, try_count = 0,
             last_error = null, filed = $6, status = case when wanted_version > $5 then 'due' else 'settled' end, next_try_at = db_now(),
             call_until = null, refresh_at = case when $7::timestamptz is not null and coalesce($4, ts) is not null then $7::timestamptz
               when view_kind = 'approval' and (shown_version < $5 or exists (select 1 from approval_requests r
                 join actions a on a.workspace_id = r.workspace_id and a.action_id = r.action_id
                 where r.workspace_id = d.workspace_id and r.request_id = d.subject_id and (r.status = 'pending' or a.status = 'unknown')))
                 or view_kind = 'task' and exists (select 1 from tasks t
                   where t.workspace_id = d.workspace_id and t.task_id = d.subject_id and ${HAS_UNSETTLED})
               then db_now() + ${REFRESH_MS} * interval '1 millisecond'
               -- This drawing was begun before an earlier one had to have arrived.
               when refresh_at > claimed_until - ${CLAIM_MS} * interval '1 millisecond' then refresh_at end
           where workspace_id = $1 and delivery_id = $2 and claimed_until = $3::timestamptz`,
    values: [row.workspace_id, row.delivery_id, row.claim, ts, row.wanted_version, filed, row.doubt_until],
  });
  return rowCount === 1;
}

/**
 * A call was made for this row, and somebody else had it before its end was recorded (a process that was frozen): what Slack shows may be
 * older than what they drew, so it is drawn once more. `posted`: the message that was made; true when it is not the row's and has to go. It
 * becomes the row's own when that knows of none yet: whoever is posting then is told the same.
 */
export async function lostAfterCall(
  db: Queryable,
  row: DeliveryRow,
  posted: string | null,
): Promise<boolean> {
  const { rows } = await db.query<{ ts: string }>({
    text: `update deliveries set wanted_version = wanted_version + 1, status = 'due', ts = coalesce(ts, $3::text),
             claimed_by = case when ts is not null then claimed_by end, claimed_until = case when ts is not null then claimed_until end,
             next_try_at = case when status = 'settled' then db_now() else next_try_at end
           where workspace_id = $1 and delivery_id = $2 and status <> 'refused' and (ts is not null or $3::text is not null)
           returning ts`,
    values: [row.workspace_id, row.delivery_id, posted],
  });
  if (rows.length > 0) await ring(db, 'delivery');
  return posted !== null && rows[0]?.ts !== posted;
}

/** The message takes no edit any more and shows what it should: nothing is left to do for it until its state changes. */
export async function leaveStanding(db: Queryable, row: DeliveryRow): Promise<void> {
  await db.query({
    text: `update deliveries set claimed_by = null, claimed_until = null, try_count = 0, refresh_at = null, call_until = null,
             status = case when wanted_version > shown_version then 'due' else 'settled' end
           where workspace_id = $1 and delivery_id = $2 and claimed_until = $3::timestamptz`,
    values: [row.workspace_id, row.delivery_id, row.claim],
  });
}

/**
 * The call failed: the row is tried again after `waitMs`, and if it may stand in Slack already, looked for first. `isOver`: nothing of the call
 * can still come. False when the claim was somebody else's (see `lostAfterCall`).
 */
export async function retryLater(
  db: Queryable,
  row: DeliveryRow,
  message: string,
  waitMs: number,
  isOver: boolean,
): Promise<boolean> {
  const { rowCount } = await db.query({
    text: `update deliveries set claimed_by = null, claimed_until = null, last_error = $4, next_try_at = db_now() + $5 * interval '1 millisecond',
             call_until = case when $6::boolean then $7::timestamptz else call_until end
           where workspace_id = $1 and delivery_id = $2 and claimed_until = $3::timestamptz`,
    values: [row.workspace_id, row.delivery_id, row.claim, message, waitMs, isOver, row.doubt_until],
  });
  return rowCount === 1;
}

/** It is not there, but an earlier call may still bring it: looked for again when none can. */
export async function waitOutDoubt(db: Queryable, row: DeliveryRow): Promise<void> {
  await db.query({
    text: `update deliveries set claimed_by = null, claimed_until = null, try_count = try_count - 1, next_try_at = $4::timestamptz
           where workspace_id = $1 and delivery_id = $2 and claimed_until = $3::timestamptz`,
    values: [row.workspace_id, row.delivery_id, row.claim, row.doubt_until],
  });
}

/**
 * Lets the row go as if it had not been tried: nothing reached Slack. Its lane says when it is its turn again, and `isLast` that it is not
 * before what waits in it by now. `row.ts` was found meanwhile, or not.
 */
export async function release(
  db: Queryable,
  row: DeliveryRow,
  message: string | null,
  isLast = false,
): Promise<void> {
  await db.query({
    text: `update deliveries set claimed_by = null, claimed_until = null, try_count = greatest(try_count - 1, 0), ts = $5,
             next_try_at = case when $7::boolean then db_now() else next_try_at end,
             last_error = coalesce($4, last_error), call_until = $6::timestamptz
           where workspace_id = $1 and delivery_id = $2 and claimed_until = $3::timestamptz`,
    values: [row.workspace_id, row.delivery_id, row.claim, message, row.ts, row.doubt_until, isLast],
  });
}

/** Slack asks for a pause of this call in this place. Gives how many rows wait for it now. The longest pause that was asked for holds. */
export async function pause(
  db: Queryable,
  row: DeliveryRow,
  call: Call,
  waitMs: number,
): Promise<{ readonly waiting: number }> {
  const { rows } = await db.query<{ waiting: number }>({
    text: `with paused as (
             insert into delivery_pauses as p (workspace_id, place, call, until)
             values ($1, $2, $3, db_now() + $4 * interval '1 millisecond')
             on conflict (workspace_id, place, call) do update set until = greatest(p.until, excluded.until))
           select count(*)::int as waiting from deliveries where status = 'due' and workspace_id = $1 and place = $2`,
    values: [row.workspace_id, row.place, call, Math.min(waitMs, MAX_PAUSE_MS)],
  });
  return { waiting: rows[0]?.waiting ?? 0 };
}

/**
 * Slack refuses the token, whatever is sent: everything rests, and one message every two minutes tries. True when this is news.
 * Joins the caller's transaction where there is one; calling it again prolongs the rest.
 */
export async function restAll(db: Queryable, workspaceId: WorkspaceId, reason: string): Promise<boolean> {
  const { rows } = await db.query<{ is_new: boolean }>({
    // Postgres says by xmax whether the row was there already.
    text: `insert into delivery_pauses as p (workspace_id, place, call, until, reason)
           values ($1, '*', '*', db_now() + ${TOKEN_REST_MS} * interval '1 millisecond', $2)
           on conflict (workspace_id, place, call) do update set until = greatest(p.until, excluded.until)
           returning (xmax = 0) as is_new`,
    values: [workspaceId, reason],
  });
  return rows[0]?.is_new === true;
}

/** The token works: all that is owed goes out now. True when it had been refused. */
export async function endRest(db: Queryable, workspaceId: WorkspaceId): Promise<boolean> {
  const { rowCount } = await db.query({
    text: `delete from delivery_pauses where workspace_id = $1 and place = '*' and call = '*'`,
    values: [workspaceId],
  });
  if (rowCount > 0) await ring(db, 'delivery');
  return rowCount > 0;
}

/**
 * Makes cards due again that have stood unchanged for a while, a few at a time in all processes together. Drawing a card again is the
 * one look that finds out everything (deleted, an edit that Slack lost or took in the wrong order, a channel that takes no edits any
 * more), and mends it in the same call; it needs no further scope. Nobody is notified by an edit.
 */
export async function refreshStanding(db: Queryable): Promise<void> {
  const { rows } = await db.query<{ workspace_id: string }>({
    name: 'delivery_refresh',
    text: `with standing as (
             select workspace_id, delivery_id from deliveries
             where status = 'settled' and refresh_at is not null and refresh_at <= db_now()
             order by refresh_at limit ${REFRESH_COUNT} for update skip locked),
           beat as (
             insert into delivery_pauses as p (workspace_id, place, call, until)
             select workspace_id, '*', 'refresh', db_now() + ${REFRESH_EVERY_MS - 500} * interval '1 millisecond'
             from standing group by workspace_id
             on conflict (workspace_id, place, call) do update set until = excluded.until where p.until <= db_now()
             returning p.workspace_id)
           update deliveries d set status = 'due', next_try_at = db_now()
           from standing s join beat b on b.workspace_id = s.workspace_id
           where d.workspace_id = s.workspace_id and d.delivery_id = s.delivery_id
           returning d.workspace_id`,
  });
  if (rows.length > 0) await ring(db, 'delivery');
}

/** How delivery stands, without a name of anybody or any channel. */
export interface DeliveryHealth {
  /** Messages that Slack does not show yet as they should be. */
  readonly due: number;
  /** Of the oldest of them, since it could have been sent; null when nothing is due. */
  readonly lateMs: number | null;
  /** Calls that rest because Slack asked for it. */
  readonly pauses: number;
  /** Null while Slack takes the token. */
  readonly tokenRefused: string | null;
}

export async function deliveryHealth(db: Queryable): Promise<DeliveryHealth> {
  const { rows } = await db.query<{
    due: number;
    late_ms: number | null;
    pauses: number;
    token_refused: string | null;
  }>({
    text: `select count(*)::int as due,
             round(extract(epoch from db_now() - min(next_try_at)) * 1000)::float8 as late_ms,
             (select count(*)::int from delivery_pauses where until > db_now() and call not in ('*', 'progress', 'refresh')) as pauses,
             (select reason from delivery_pauses where place = '*' and call = '*' limit 1) as token_refused
           from deliveries where status = 'due'`,
  });
  const [row] = rows;
  return {
    due: row?.due ?? 0,
    lateMs: row?.late_ms === null || row?.late_ms === undefined ? null : Math.max(0, row.late_ms),
    pauses: row?.pauses ?? 0,
    tokenRefused: row?.token_refused ?? null,
  };
}
