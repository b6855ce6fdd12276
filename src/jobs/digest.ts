/**
 * The digest: what happened since the last one, and what waits for whom. Owns the table `digests`.
 *
 * A row says which seals a digest covers; what it says is read from the ledger when it is drawn: entries, and the words beside them that
 * were not erased. Nothing else is read.
 *
 * Invariants. A schedule's digests cover the seals without gap or overlap, so that every entry is in exactly one of them, however late its
 * transaction committed. One row per schedule and local date, in one transaction with the message that is owed for it. Words of a task are
 * told only where it was asked for, or to its requester alone: a digest reaches no wider audience than what it tells of.
 */
import { randomUUIDv7 } from 'node:crypto';
import type { Person, Queryable, Tx, WorkspaceId } from '../types.ts';
import type {
  DeliveryTarget,
  DigestChanged,
  DigestDone,
  DigestFailed,
  DigestNotDone,
  DigestTask,
  DigestView,
  DigestWaiting,
  Shortened,
} from '../views.ts';
import { owe, PRIORITY } from './deliveries.ts';
import {
  CLOSINGS,
  ENDS,
  type Entry,
  entryBody,
  type History,
  median,
  type Raw,
  type Shown,
  tell,
  UNPARKED,
} from './digest-told.ts';
import { appendEntry } from './ledger.ts';
import { type OccurrenceInput, putSchedule, scheduleNamed } from './schedules.ts';

/** The schedule of the morning digest. */
const DIGEST_SCHEDULE = 'morning-digest';
/** What the schedule starts. */
export const DIGEST_WORKFLOW = { name: 'morning-digest', version: 1 } as const;
/** Weekdays at nine. */
const DIGEST_CRON = '0 9 * * 1-5';

/** Entries of each list that are looked at closely: a message holds fewer. */
const SHOWN = 25;
/** Runs that one digest reads: a busy installation's weekend. Beyond it, it says that there is more. */
const MAX_RUNS = 2_000;
/** How far back it looks for what still waits. Requests live 30 days at most; what nobody settled in a quarter is no news. */
const MAX_WAITING_DAYS = 90;

/**
 * The seal and the instant at which the last digest of schedule $3 in workspace $1 ended; before its first one, when the schedule was made;
 * without a schedule, a day ago.
 */
const WHERE_THE_LAST_ENDED = `
  select coalesce(last.to_seal, (select max(seal_no) from ledger_seals where sealed_at < start.at), 0) as seal_no,
    coalesce(last.made_at, start.at) as at
  from (select coalesce(
          (select created_at from schedules where workspace_id = $1 and schedule_id = $3::uuid), db_now() - interval '1 day') as at) start
  left join lateral (
    select to_seal, made_at from digests where workspace_id = $1 and schedule_id = $3::uuid order by to_seal desc, made_at desc limit 1) last on true`;

/**
 * Makes the digest of one date, in the caller's transaction: its row, the message that is owed, the ledger entry. It begins where the one
 * before it ended and ends at the newest seal. Null when this date has its digest already.
 */
export async function makeDigest(
  tx: Tx,
  workspaceId: WorkspaceId,
  channelId: string,
  occurrence: OccurrenceInput,
): Promise<string | null> {
  const { scheduleId, localDate, timeZone, plannedAt, late, owner } = occurrence;
  const digestId = randomUUIDv7();
  const { rows } = await tx.query<{ from_seal: string; to_seal: string }>({
    text: `insert into digests (workspace_id, digest_id, schedule_id, local_date, time_zone, planned_at, is_late, from_seal, since_at, to_seal,
             channel_id)
           select $1, $2, $3, $4, $5, $6, $7, before.seal_no, before.at, (select coalesce(max(seal_no), 0) from ledger_seals), $8
           from (${WHERE_THE_LAST_ENDED}) before
           on conflict (workspace_id, schedule_id, local_date) do nothing
           returning from_seal, to_seal`,
    values: [workspaceId, digestId, scheduleId, localDate, timeZone, plannedAt, late, channelId],
  });
  const [row] = rows;
  if (!row) return null;
  await owe(tx, {
    workspaceId,
    viewKind: 'digest',
    subjectId: digestId,
    content: { tell: owner.userId },
    target: { to: 'channel', channelId },
    priority: PRIORITY.digest,
  });
  await appendEntry(tx, {
    workspaceId,
    subjectKind: 'schedule',
    subjectId: scheduleId,
    kind: 'digest.made',
    facts: {
      digestId,
      localDate,
      late,
      channel: channelId,
      fromSeal: Number(row.from_seal),
      toSeal: Number(row.to_seal),
    },
  });
  return digestId;
}

/**
 * Makes the schedule of the morning digest what the configuration says, in the caller's transaction; without a channel it is paused. An
 * installation that never named one has no schedule. Repeatable; what differs leaves an entry.
 */
export async function settleDigest(
  tx: Tx,
  given: {
    readonly workspaceId: WorkspaceId;
    readonly owner: Person;
    readonly timeZone: string;
    readonly channelId: string | null;
  },
): Promise<void> {
  const { workspaceId, owner, timeZone } = given;
  const stands = await scheduleNamed(tx, workspaceId, DIGEST_SCHEDULE);
  const channelId = given.channelId ?? stands?.audience ?? null;
  if (channelId === null) return;
  await putSchedule(
    tx,
    {
      workspaceId,
      name: DIGEST_SCHEDULE,
      owner,
      workflowName: DIGEST_WORKFLOW.name,
      workflowVersion: DIGEST_WORKFLOW.version,
      input: { channelId },
      cron: DIGEST_CRON,
      timeZone,
      catchUp: 'once',
      audience: channelId,
      paused: given.channelId === null,
    },
    'start',
  );
}

/**
 * Owes a person the digest they asked for: everything since the last one that was posted by the clock, or of the last day where none ever
 * was. It takes nothing away from the next. Joins the caller's transaction.
 */
export async function oweDigest(
  tx: Tx,
  asked: {
    readonly workspaceId: WorkspaceId;
    readonly person: Person;
    readonly channelId: string;
    /** False: only the asker sees it. */
    readonly forAll: boolean;
    /** For installations whose digest has no schedule yet. */
    readonly timeZone: string;
  },
): Promise<void> {
  const { workspaceId, person, channelId, forAll } = asked;
  const schedule = await scheduleNamed(tx, workspaceId, DIGEST_SCHEDULE);
  const timeZone = schedule?.timeZone ?? asked.timeZone;
  const { rows: moment } = await tx.query<{ now: Date }>({ text: 'select db_now() as now' });
  const digestId = randomUUIDv7();
  await tx.query({
    text: `insert into digests (workspace_id, digest_id, local_date, time_zone, from_seal, since_at, channel_id, reader_user_id)
           select $1, $2, $4, $5, before.seal_no, before.at, $6, $7 from (${WHERE_THE_LAST_ENDED}) before`,
    values: [
      workspaceId,
      digestId,
      schedule?.scheduleId ?? null,
      localDateOf(moment[0]?.now ?? new Date(Number.NaN), timeZone),
      timeZone,
      channelId,
      forAll ? null : person.userId,
    ],
  });
  const target: DeliveryTarget = forAll
    ? { to: 'channel', channelId }
    : { to: 'person', channelId, threadTs: null, userId: person.userId };
  await owe(tx, {
    workspaceId,
    viewKind: 'digest',
    subjectId: digestId,
    content: { tell: person.userId },
    target,
    // Somebody waits for it.
    priority: PRIORITY.decision,
  });
}

function localDateOf(now: Date, timeZone: string): string {
  return Temporal.Instant.fromEpochMilliseconds(now.getTime())
    .toZonedDateTimeISO(timeZone)
    .toPlainDate()
    .toString();
}

interface DigestRow {
  schedule_id: string | null;
  local_date: string;
  time_zone: string;
  planned_at: Date | null;
  is_late: boolean;
  from_seal: string;
  since_at: Date | null;
  to_seal: string | null;
  channel_id: string;
  reader_user_id: string | null;
  made_at: Date;
  seal_no: string | null;
  seal: Buffer | null;
}

/** A run that has none of these has nothing to tell. */
const NEWS = [...ENDS, ...CLOSINGS];

/** What a digest says, from the ledger as it stands. Null when there is no such digest. */
export async function readDigest(
  db: Queryable,
  workspaceId: WorkspaceId,
  digestId: string,
): Promise<DigestView | null> {
  const { rows } = await db.query<DigestRow>({
    text: `select d.schedule_id, d.local_date::text as local_date, d.time_zone, d.planned_at, d.is_late, d.from_seal, d.since_at, d.to_seal,
             d.channel_id, d.reader_user_id, d.made_at, s.seal_no, s.seal
           from digests d left join ledger_seals s
             on s.seal_no = coalesce(d.to_seal, (select max(seal_no) from ledger_seals))
           where d.workspace_id = $1 and d.digest_id = $2`,
    values: [workspaceId, digestId],
  });
  const [digest] = rows;
  if (!digest) return null;
  const news = await runsWithNews(db, workspaceId, digest);
  const waitingIn = await runsThatMayWait(db, workspaceId, digest);
  const histories = await readHistories(db, workspaceId, digest, [...new Set([...news, ...waitingIn])]);
  const told = tell(histories);
  const shown: Shown = {
    done: told.done.slice(0, SHOWN),
    notDone: told.notDone.slice(0, SHOWN),
    failed: told.failed.slice(0, SHOWN),
    waiting: told.waiting.slice(0, SHOWN),
    changed: told.changed.slice(0, SHOWN),
  };
  const words = await readWords(db, workspaceId, shown);
  const open = <Item extends DigestTask>(items: readonly Raw<Item>[], total: number): Shortened<Item> => ({
    items: items.map((item) => withWords(item, digest, words)),
    total,
  });
  return {
    localDate: digest.local_date,
    timeZone: digest.time_zone,
    plannedAt: digest.planned_at?.toISOString() ?? null,
    late: digest.is_late,
    sinceAt: digest.since_at?.toISOString() ?? null,
    done: open<DigestDone>(shown.done, told.done.length),
    notDone: open<DigestNotDone>(shown.notDone, told.notDone.length),
    failed: open<DigestFailed>(shown.failed, told.failed.length),
    waiting: open<DigestWaiting>(shown.waiting, told.waiting.length),
    changed: open<DigestChanged>(shown.changed, told.changed.length),
    spentUsd: told.spentUsd,
    medianDecisionMs: median(told.decisionMs),
    seal:
      digest.seal_no === null || digest.seal === null
        ? null
        : { no: Number(digest.seal_no), hash: digest.seal.toString('hex') },
    more: news.length === MAX_RUNS || waitingIn.length === MAX_RUNS,
  };
}

/** Runs in whose entries something ended, since the digest before. */
async function runsWithNews(db: Queryable, workspaceId: WorkspaceId, digest: DigestRow): Promise<string[]> {
  const { rows } = await db.query<{ subject_id: string }>({
    text: `select e.subject_id from (
             select entry_id from ledger_seal_members where seal_no > $2 and ($3::bigint is null or seal_no <= $3)
             union all select entry_id from ledger_unsealed where $3::bigint is null) as covered
           join ledger_entries e on e.entry_id = covered.entry_id
           where e.workspace_id = $1 and e.subject_kind = 'run' and e.entry_kind = any ($4)
           group by e.subject_id order by max(e.created_at) desc, e.subject_id limit ${MAX_RUNS}`,
    values: [workspaceId, digest.from_seal, digest.to_seal, NEWS],
  });
  return rows.map((row) => row.subject_id);
}

/** Runs in whose entries a wait was opened that none of the same entries' successors ends. Which do wait, their histories tell. */
async function runsThatMayWait(
  db: Queryable,
  workspaceId: WorkspaceId,
  digest: DigestRow,
): Promise<string[]> {
  const { rows } = await db.query<{ subject_id: string }>({
    text: `select e.subject_id from ledger_entries e
           where e.workspace_id = $1 and e.entry_kind in ('approval.requested', 'action.unknown', 'run.parked')
             and e.created_at > $5::timestamptz - interval '${MAX_WAITING_DAYS} days' and e.subject_kind = 'run'
             and not exists (
               select 1 from ledger_entries c left join ledger_seal_members m on m.entry_id = c.entry_id
               where c.workspace_id = e.workspace_id and c.subject_kind = 'run' and c.subject_id = e.subject_id and c.subject_seq > e.subject_seq
                 and ($2::bigint is null or m.seal_no <= $2)
                 and case e.entry_kind
                   when 'approval.requested' then c.entry_kind = any ($3)
                     and c.body::jsonb #> '{facts,requestId}' = e.body::jsonb #> '{facts,requestId}'
                   when 'action.unknown' then c.entry_kind = 'action.settled'
                     and c.body::jsonb #> '{facts,actionId}' = e.body::jsonb #> '{facts,actionId}'
                   else c.entry_kind = any ($4) end)
           group by e.subject_id order by min(e.created_at), e.subject_id limit ${MAX_RUNS}`,
    values: [workspaceId, digest.to_seal, CLOSINGS, UNPARKED, digest.made_at],
  });
  return rows.map((row) => row.subject_id);
}

/** All that is sealed for the digest, or all there is, of these runs. */
async function readHistories(
  db: Queryable,
  workspaceId: WorkspaceId,
  digest: DigestRow,
  runIds: readonly string[],
): Promise<Map<string, History>> {
  const { rows } = await db.query<{
    subject_id: string;
    subject_seq: string;
    entry_id: string;
    entry_kind: string;
    body: string;
    created_at: Date;
    fresh: boolean;
  }>({
    text: `select e.subject_id, e.subject_seq, e.entry_id, e.entry_kind, e.body, e.created_at, coalesce(m.seal_no > $3, true) as fresh
           from ledger_entries e left join ledger_seal_members m on m.entry_id = e.entry_id
           where e.workspace_id = $1 and e.subject_kind = 'run' and e.subject_id = any ($2) and ($4::bigint is null or m.seal_no <= $4)
           order by e.subject_id, e.subject_seq`,
    values: [workspaceId, runIds, digest.from_seal, digest.to_seal],
  });
  const found = new Map<string, Entry[]>();
  for (const row of rows) {
    const { success, data } = entryBody.safeParse(JSON.parse(row.body));
    const entry: Entry = {
      id: row.entry_id,
      seq: Number(row.subject_seq),
      kind: row.entry_kind,
      at: row.created_at,
      facts: success ? data.facts : {},
      fresh: row.fresh,
    };
    const history = found.get(row.subject_id);
    if (history) history.push(entry);
    else found.set(row.subject_id, [entry]);
  }
  return found;
}

/** Words by entry and field, of what is shown only. */
async function readWords(
  db: Queryable,
  workspaceId: WorkspaceId,
  shown: Shown,
): Promise<ReadonlyMap<string, string>> {
  const ids = Object.values(shown)
    .flat()
    .flatMap((item: { wordsOf: Raw<DigestTask>['wordsOf'] }) => Object.values(item.wordsOf))
    .filter((id): id is string => id !== undefined);
  const { rows } = await db.query<{ entry_id: string; field: string; words: string }>({
    text: 'select entry_id, field, words from ledger_words where workspace_id = $1 and entry_id = any ($2)',
    values: [workspaceId, ids],
  });
  return new Map(rows.map((row) => [`${row.entry_id} ${row.field}`, row.words]));
}

/** Under which name the ledger keeps the words of an item's field. */
const LEDGER_FIELD = { objective: 'objective', why: 'summary', reason: 'reason' } as const;

/** Puts the words in, where everybody who reads this digest may see the task. */
function withWords<Item extends DigestTask>(
  { wordsOf, ...item }: Raw<Item>,
  digest: Pick<DigestRow, 'channel_id' | 'reader_user_id'>,
  words: ReadonlyMap<string, string>,
): Item {
  const task = item as unknown as Omit<DigestTask, 'objective'>;
  const visible =
    task.channelId === digest.channel_id ||
    (digest.reader_user_id !== null && task.requester?.userId === digest.reader_user_id);
  const read = (['objective', 'why', 'reason'] as const)
    .filter((field) => field in wordsOf)
    .map((field) => [
      field,
      (visible ? words.get(`${wordsOf[field] ?? ''} ${LEDGER_FIELD[field]}`) : undefined) ?? null,
    ]);
  return { ...item, ...Object.fromEntries(read) } as unknown as Item;
}
