/**
 * Schedules: work that starts by the clock. Owns the table `schedules`.
 *
 * A schedule is a row with an owner, a zone and a catch-up policy. When it is due, a run of its workflow is started like any other, under
 * the key `schedule:<id>:<local date>`, in the transaction that moves the schedule on: whoever dies in between has done neither. Nobody
 * polls: one timer per process for the earliest due row, a ring when a schedule changes, a slow look as the net. What fell due while
 * nothing ran is found at the start.
 *
 * Invariants. A local date of a schedule is served once, and dates only grow, also across changes of zone. Of several dates that were
 * missed only the last is made up for, once, and marked late. Database time decides what is due; zones are the process's.
 * Lock order: the schedule's row before the run, the ledger's head last.
 */
import { randomUUIDv7 } from 'node:crypto';
import canonicalize from 'canonicalize';
import { z } from 'zod';
import { toStoredError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Json, JsonObject, Person, Queryable, Tx, WorkspaceId } from '../types.ts';
import { type Bell, ring } from './engine/bell.ts';
import type { Database } from './engine/db.ts';
import type { Engine } from './engine/engine.ts';
import { appendEntry, type EntryKind } from './ledger.ts';
import { type Loop, startLoop } from './loop.ts';
import { latestOccurrence, nextOccurrence, type Occurrence, parseRecurrence } from './recurrence.ts';

/** The bell's word that says that a schedule has changed. */
export const SCHEDULE_WORD = 'schedule';
/**
 * Later than this after its time an occurrence counts as missed: longer than a restart with a migration takes, shorter than anybody would
 * call the same morning.
 */
export const LATE_AFTER_MS = 5 * 60_000;
/** What a lost ring left behind, or a clock that was set, is found at this pace. */
const SWEEP_MS = 60_000;
/** A schedule that could not be started is left alone for so long by this process; others may try. */
const REST_MS = 30_000;
const SLOTS = 4;

/** What a schedule's run is told of its occasion; the key `occurrence` of its input. */
export const occurrenceInput = z.object({
  scheduleId: z.uuid(),
  /** In the schedule's zone. */
  localDate: z.iso.date(),
  /** When it was due. */
  plannedAt: z.iso.datetime(),
  timeZone: z.string(),
  /** It made up for a time at which nothing ran. */
  late: z.boolean(),
  owner: z.object({ teamId: z.string(), userId: z.string() }),
});
export type OccurrenceInput = z.infer<typeof occurrenceInput>;

/** A schedule as its owner means it. */
export interface ScheduleSpec {
  readonly workspaceId: WorkspaceId;
  /** Unique in the workspace. */
  readonly name: string;
  readonly owner: Person;
  readonly workflowName: string;
  readonly workflowVersion: number;
  /** What every run is given, beside `occurrence`. */
  readonly input: JsonObject;
  /** See `parseRecurrence`. */
  readonly cron: string;
  /** A zone of the IANA database. */
  readonly timeZone: string;
  /** What becomes of a time at which nothing ran: nothing, or one run as soon as something does. */
  readonly catchUp: 'skip' | 'once';
  /** Who may see what its runs say: a channel id; null for nobody in particular. */
  readonly audience: string | null;
  readonly paused: boolean;
}

interface ScheduleRow {
  workspace_id: string;
  schedule_id: string;
  name: string;
  owner_team_id: string;
  owner_user_id: string;
  workflow_name: string;
  workflow_version: number;
  input: JsonObject;
  cron: string;
  time_zone: string;
  catch_up: 'skip' | 'once';
  audience: string | null;
  last_local_date: string | null;
  next_at: Date | null;
  now: Date;
}

const COLUMNS = `workspace_id, schedule_id, name, owner_team_id, owner_user_id, workflow_name, workflow_version, input, cron, time_zone, catch_up,
  audience, last_local_date::text as last_local_date, next_at, db_now() as now`;

/**
 * Makes the schedule of this name, or makes it what `spec` says; what is so already stays untouched and leaves no entry. Joins the
 * caller's transaction. A change of the clock (zone, times) keeps the dates that were served; the next one is the new clock's first after
 * them that is not before what was due by the old clock. Pausing forgets what was due. Throws CONFIG_INVALID for a recurrence nobody reads.
 */
export async function putSchedule(
  tx: Tx,
  spec: ScheduleSpec,
  by: string,
): Promise<{ readonly scheduleId: string; readonly nextAt: Date | null; readonly changed: boolean }> {
  const recurrence = parseRecurrence(spec.cron);
  const { rows: moment } = await tx.query<{ now: Date }>({ text: 'select db_now() as now' });
  const now = instantOf(moment[0]?.now ?? new Date(Number.NaN));
  const first = spec.paused ? null : nextOccurrence(recurrence, spec.timeZone, now, null).at;
  const scheduleId = randomUUIDv7();
  const { rowCount } = await tx.query({
    text: `insert into schedules (workspace_id, schedule_id, name, owner_team_id, owner_user_id, workflow_name, workflow_version, input, cron,
             time_zone, catch_up, audience, next_at, paused_at)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, case when $13::timestamptz is null then db_now() end)
           on conflict (workspace_id, name) do nothing`,
    values: [spec.workspaceId, scheduleId, spec.name, ...columnsOf(spec), first?.toString() ?? null],
  });
  if (rowCount === 1) {
    await note(tx, spec.workspaceId, scheduleId, 'schedule.made', specFacts(spec, by), spec.input);
    await ring(tx, SCHEDULE_WORD);
    return { scheduleId, nextAt: dateOf(first), changed: true };
  }

  const { rows } = await tx.query<ScheduleRow>({
    text: `select ${COLUMNS} from schedules where workspace_id = $1 and name = $2 for update`,
    values: [spec.workspaceId, spec.name],
  });
  const [old] = rows;
  if (!old) throw new Error(`schedule ${spec.name} is neither new nor there`);
  if (same(old, spec)) return { scheduleId: old.schedule_id, nextAt: old.next_at, changed: false };
  const sameClock = old.cron === spec.cron && old.time_zone === spec.timeZone;
  let next: Temporal.Instant | null = null;
  if (!spec.paused) {
    // What is due but not served yet stays due where the clock stays.
    if (sameClock && old.next_at !== null) next = instantOf(old.next_at);
    else {
      const due = old.next_at === null ? now : instantOf(old.next_at).subtract({ milliseconds: 1 });
      next = nextOccurrence(recurrence, spec.timeZone, earlier(due, now), servedDate(old)).at;
    }
  }
  await tx.query({
    text: `update schedules set owner_team_id = $3, owner_user_id = $4, workflow_name = $5, workflow_version = $6, input = $7, cron = $8,
             time_zone = $9, catch_up = $10, audience = $11, next_at = $12,
             paused_at = case when $12::timestamptz is null then coalesce(paused_at, db_now()) end
           where workspace_id = $1 and schedule_id = $2`,
    values: [spec.workspaceId, old.schedule_id, ...columnsOf(spec), next?.toString() ?? null],
  });
  await note(tx, spec.workspaceId, old.schedule_id, 'schedule.changed', specFacts(spec, by), spec.input);
  await ring(tx, SCHEDULE_WORD);
  return { scheduleId: old.schedule_id, nextAt: dateOf(next), changed: true };
}

export interface SchedulesOptions {
  readonly database: Database;
  readonly engine: Pick<Engine, 'start'>;
  readonly bell: Bell;
  readonly log: Logger;
}

/** Starts what is due, in this process, until stopped. Any number of processes may: each date is started by one of them. */
export function startSchedules({ database, engine, bell, log }: SchedulesOptions): Loop {
  /** Until when, on this process's own clock, a schedule that failed is left alone. */
  const resting = new Map<string, number>();
  /** Handed out and not done with: a row has no mark that says so. */
  const inHand = new Set<string>();
  const leftAlone = (): string[] => {
    for (const [id, untilMs] of resting) if (untilMs <= performance.now()) resting.delete(id);
    return [...resting.keys(), ...inHand];
  };
  return startLoop<Pick<ScheduleRow, 'workspace_id' | 'schedule_id'>>({
    name: 'schedules',
    bell,
    word: SCHEDULE_WORD,
    sweepMs: SWEEP_MS,
    slots: SLOTS,
    claim: async (free) => {
      const { rows } = await database.query<Pick<ScheduleRow, 'workspace_id' | 'schedule_id'>>({
        name: 'schedules_due',
        text: `select workspace_id, schedule_id from schedules
               where paused_at is null and next_at <= db_now() and not schedule_id = any ($2::uuid[]) order by next_at limit $1`,
        values: [free, leftAlone()],
      });
      for (const row of rows) inHand.add(row.schedule_id);
      return rows;
    },
    work: async (row) => {
      try {
        await database.transaction((tx) => serveDue(tx, engine, row.workspace_id, row.schedule_id));
      } catch (error) {
        resting.set(row.schedule_id, performance.now() + REST_MS);
        log.error(
          { scheduleId: row.schedule_id, error: toStoredError(error) },
          'a schedule could not be started',
        );
      } finally {
        inHand.delete(row.schedule_id);
      }
    },
    nextMs: async () => {
      const { rows } = await database.query<{ ms: number | null }>({
        name: 'schedules_next',
        text: `select extract(epoch from min(next_at) - db_now())::float8 * 1000 as ms from schedules
               where paused_at is null and not schedule_id = any ($1::uuid[])`,
        values: [leftAlone()],
      });
      return rows[0]?.ms ?? undefined;
    },
    log,
  });
}

/**
 * Serves a schedule if it is due, in the caller's transaction: starts its run, or passes a missed time over where its policy says so, and
 * moves it on. Undefined when it is not due (any more): whoever comes second waits for the first and finds it served.
 */
export async function serveDue(
  tx: Tx,
  engine: Pick<Engine, 'start'>,
  workspaceId: WorkspaceId,
  scheduleId: string,
): Promise<'started' | 'skipped' | undefined> {
  const { rows } = await tx.query<ScheduleRow>({
    name: 'schedule_lock_due',
    text: `select ${COLUMNS} from schedules
           where workspace_id = $1 and schedule_id = $2 and paused_at is null and next_at <= db_now() for update`,
    values: [workspaceId, scheduleId],
  });
  const [row] = rows;
  if (!row?.next_at) return undefined;
  const recurrence = parseRecurrence(row.cron);
  const now = instantOf(row.now);
  const { at, date } = occasion(row, instantOf(row.next_at), now);
  const served = servedDate(row);
  // Only a changed zone database makes a due date a served one; it was served.
  if (served !== null && Temporal.PlainDate.compare(date, served) <= 0) {
    await advance(tx, row, served, nextOccurrence(recurrence, row.time_zone, now, served));
    return undefined;
  }
  const late = now.epochMilliseconds - at.epochMilliseconds > LATE_AFTER_MS;
  const skipped = late && row.catch_up === 'skip';
  const localDate = date.toString();
  const plannedAt = at.toString();
  const facts: Record<string, Json> = { localDate, plannedAt, timeZone: row.time_zone, late };
  if (!skipped) {
    const owner: Person = { teamId: row.owner_team_id, userId: row.owner_user_id };
    const occurrence: OccurrenceInput = {
      scheduleId,
      localDate,
      plannedAt,
      timeZone: row.time_zone,
      late,
      owner: { ...owner },
    };
    const run = await engine.start(tx, {
      workspaceId,
      workflowName: row.workflow_name,
      workflowVersion: row.workflow_version,
      input: { ...row.input, occurrence },
      origin: 'schedule',
      runKey: `schedule:${scheduleId}:${localDate}`,
      owner,
      ...(row.audience === null ? {} : { audience: row.audience }),
    });
    facts.runId = run.runId;
  }
  await advance(tx, row, date, nextOccurrence(recurrence, row.time_zone, now, date));
  await note(tx, workspaceId, scheduleId, skipped ? 'schedule.skipped' : 'schedule.started', facts);
  return skipped ? 'skipped' : 'started';
}

function advance(tx: Tx, row: ScheduleRow, served: Temporal.PlainDate, next: Occurrence): Promise<unknown> {
  return tx.query({
    name: 'schedule_advance',
    text: `update schedules set last_local_date = $3::date, next_at = $4::timestamptz where workspace_id = $1 and schedule_id = $2`,
    values: [row.workspace_id, row.schedule_id, served.toString(), next.at.toString()],
  });
}

/** Of all that was due until now, the last: what came before it is not made up for one by one. */
function occasion(row: ScheduleRow, due: Temporal.Instant, now: Temporal.Instant): Occurrence {
  const dueDate = due.toZonedDateTimeISO(row.time_zone).toPlainDate();
  const latest = latestOccurrence(parseRecurrence(row.cron), row.time_zone, now);
  // The zones of another release of Node.js may put the due instant elsewhere on the clock; it stays due.
  return Temporal.PlainDate.compare(latest.date, dueDate) > 0 ? latest : { at: due, date: dueDate };
}

function columnsOf(spec: ScheduleSpec): unknown[] {
  return [
    spec.owner.teamId,
    spec.owner.userId,
    spec.workflowName,
    spec.workflowVersion,
    JSON.stringify(spec.input),
    spec.cron,
    spec.timeZone,
    spec.catchUp,
    spec.audience,
  ];
}

function same(row: ScheduleRow, spec: ScheduleSpec): boolean {
  return (
    row.owner_team_id === spec.owner.teamId &&
    row.owner_user_id === spec.owner.userId &&
    row.workflow_name === spec.workflowName &&
    row.workflow_version === spec.workflowVersion &&
    canonicalize(row.input) === canonicalize(spec.input) &&
    row.cron === spec.cron &&
    row.time_zone === spec.timeZone &&
    row.catch_up === spec.catchUp &&
    row.audience === spec.audience &&
    (row.next_at === null) === spec.paused
  );
}

function specFacts(spec: ScheduleSpec, by: string): JsonObject {
  return {
    by,
    name: spec.name,
    owner: `${spec.owner.teamId}/${spec.owner.userId}`,
    workflow: `${spec.workflowName}@${spec.workflowVersion}`,
    cron: spec.cron,
    timeZone: spec.timeZone,
    catchUp: spec.catchUp,
    audience: spec.audience,
    paused: spec.paused,
  };
}

function note(
  tx: Tx,
  workspaceId: WorkspaceId,
  scheduleId: string,
  kind: EntryKind,
  facts: JsonObject,
  input?: JsonObject,
): Promise<void> {
  return appendEntry(tx, {
    workspaceId,
    subjectKind: 'schedule',
    subjectId: scheduleId,
    kind,
    facts,
    ...(input === undefined ? {} : { words: { input: canonicalize(input) ?? '' } }),
  });
}

/** A schedule by its name, null when there is none. */
export async function scheduleNamed(
  db: Queryable,
  workspaceId: WorkspaceId,
  name: string,
): Promise<{
  readonly scheduleId: string;
  readonly timeZone: string;
  readonly audience: string | null;
} | null> {
  const { rows } = await db.query<{ schedule_id: string; time_zone: string; audience: string | null }>({
    text: 'select schedule_id, time_zone, audience from schedules where workspace_id = $1 and name = $2',
    values: [workspaceId, name],
  });
  const [row] = rows;
  return row ? { scheduleId: row.schedule_id, timeZone: row.time_zone, audience: row.audience } : null;
}

function servedDate(row: ScheduleRow): Temporal.PlainDate | null {
  return row.last_local_date === null ? null : Temporal.PlainDate.from(row.last_local_date);
}

function instantOf(date: Date): Temporal.Instant {
  return Temporal.Instant.fromEpochMilliseconds(date.getTime());
}

function dateOf(instant: Temporal.Instant | null): Date | null {
  return instant === null ? null : new Date(instant.epochMilliseconds);
}

function earlier(one: Temporal.Instant, other: Temporal.Instant): Temporal.Instant {
  return Temporal.Instant.compare(one, other) < 0 ? one : other;
}
