/**
 * Looking at runs of any process: lists of them, one with its whole trace, and runs by the beginning of their id.
 *
 * Invariants. Nothing here locks or changes anything. Every text that a step, a caller or an error brought leaves here with credentials
 * masked, and bounded: a value that was cut says how long it is. A bounded list says how many there are.
 */
import type { StoredError } from '../../errors.ts';
import { maskSecrets } from '../../log.ts';
import type { Person, Queryable, RunRef, RunStatus, WorkspaceId } from '../../types.ts';

/** Characters of a value that are read; whole ones may be a MiB each. */
const MAX_VALUE_LENGTH = 4_096;
/** A credential that the cut went through is shorter than this unless its beginning was recognised; so much is dropped before the cut. */
const CUT_MARGIN = 512;
/** A step has at most 100 children; several such steps are rare. */
const MAX_CHILDREN = 200;
const MAX_WAITS = 100;

/** A stored value as JSON text. `cut`: `text` is its beginning, of `byteCount` in all. */
export interface StoredText {
  readonly text: string;
  readonly byteCount: number;
  readonly cut: boolean;
}

/** Something a run waits for. */
export interface OpenWait {
  readonly path: string;
  readonly kind: 'event' | 'sleep' | 'retry' | 'children' | 'cancel';
  readonly event: { readonly name: string; readonly key: string } | null;
  /** Of `children`: how many have to complete. */
  readonly neededCount: number | null;
  readonly since: Date;
  /** Null: as long as the run lives. */
  readonly deadlineAt: Date | null;
}

export interface RunSummary {
  readonly runId: string;
  readonly workflowName: string;
  readonly workflowVersion: number;
  readonly status: RunStatus;
  /** Asked to pause while it runs: it lets go after the steps in flight. */
  readonly pausing: boolean;
  readonly owner: Person | null;
  readonly parentRunId: string | null;
  readonly childKey: string | null;
  /** 0 for a run that no run started. */
  readonly depth: number;
  readonly createdAt: Date;
  readonly queuedAt: Date;
  readonly finishedAt: Date | null;
  readonly error: StoredError | null;
  /** The step whose error ended it; null when the body itself threw. */
  readonly failedPath: string | null;
  /** The step that finished last. */
  readonly lastPath: string | null;
  /** Of what it waits for, the one that is due first; null once it has ended. */
  readonly wait: OpenWait | null;
  readonly waitCount: number;
}

/** Runs, and the database's time when they were read. */
export interface RunList {
  readonly now: Date;
  readonly runs: readonly RunSummary[];
  /** There are more than were asked for. */
  readonly more: boolean;
}

export interface RunFilter {
  readonly workspaceId: WorkspaceId;
  /** Default: all. */
  readonly statuses?: readonly RunStatus[];
  readonly workflowName?: string;
  readonly limit: number;
}

/** One finished step or ended wait. */
export interface TraceEntry {
  readonly path: string;
  /** Of the primitive: run, transact, event, sleep, children, send-event, failure, cancel. */
  readonly kind: string;
  readonly startedAt: Date;
  readonly finishedAt: Date;
  /** Between the two; never negative, though a step's start is its process's clock. */
  readonly durationMs: number;
  readonly tryCount: number;
  /** Of a wait, how it ended; null for a step. */
  readonly outcome: 'event' | 'timeout' | 'cancelled' | null;
  readonly error: StoredError | null;
  /** Null where there is an error, or a wait brought nothing. */
  readonly result: StoredText | null;
  /** A retry of the run passes over it: it stands in the journal, and the step was tried anew under another path. */
  readonly passedOver: boolean;
}

export interface RunReport extends RunSummary {
  readonly now: Date;
  readonly origin: string;
  readonly audience: string | null;
  readonly runKey: string | null;
  /** Claims so far: attempts of workers. */
  readonly fence: number;
  readonly retryCount: number;
  /** Who holds it; `alive` while that process's lease lasts. */
  readonly worker: { readonly workerId: string; readonly pid: number | null; readonly alive: boolean } | null;
  readonly input: StoredText;
  readonly output: StoredText | null;
  /** In the order of finishing. Without `total - entries.length` ones after the first `shownFirst`. */
  readonly trace: {
    readonly total: number;
    readonly shownFirst: number;
    readonly entries: readonly TraceEntry[];
  };
  readonly waits: readonly OpenWait[];
  /** Oldest first. */
  readonly children: Pick<RunList, 'runs' | 'more'>;
}

interface SummaryRow {
  now: Date;
  run_id: string;
  workflow_name: string;
  workflow_version: number;
  status: RunStatus;
  pausing: boolean;
  owner_team_id: string | null;
  owner_user_id: string | null;
  parent_run_id: string | null;
  child_key: string | null;
  depth: number;
  created_at: Date;
  queued_at: Date;
  finished_at: Date | null;
  error: StoredError | null;
  failed_path: string | null;
  last_path: string | null;
  wait_path: string | null;
  wait_kind: OpenWait['kind'] | null;
  wait_event_name: string | null;
  wait_event_key: string | null;
  wait_needed_count: number | null;
  wait_since: Date | null;
  wait_deadline_at: Date | null;
  wait_count: number | null;
}

/** What a bounded subquery `r` over runs has to select, so that the rest can be read beside it. */
const OF_RUNS = `workspace_id, run_id, workflow_name, workflow_version, status, pausing, owner_team_id, owner_user_id, parent_run_id, child_key,
  depth, created_at, queued_at, finished_at, error, failed_path`;
const SUMMARY = `(select db_now()) as now, r.run_id, r.workflow_name, r.workflow_version, r.status, r.pausing, r.owner_team_id, r.owner_user_id,
  r.parent_run_id, r.child_key, r.depth, r.created_at, r.queued_at, r.finished_at, r.error, r.failed_path, s.path as last_path,
  w.path as wait_path, w.kind as wait_kind, w.event_name as wait_event_name, w.event_key as wait_event_key,
  w.needed_count as wait_needed_count, w.created_at as wait_since, nullif(w.deadline_at, 'infinity') as wait_deadline_at, w.wait_count`;
const BESIDE = `left join lateral (
    select path from steps where workspace_id = r.workspace_id and run_id = r.run_id order by finished_at desc, path desc limit 1) s
    on r.status not in ('completed', 'failed', 'cancelled')
  left join lateral (
    select path, kind, event_name, event_key, needed_count, created_at, deadline_at, (count(*) over ())::int as wait_count
    from waits where workspace_id = r.workspace_id and run_id = r.run_id and outcome is null and kind <> 'cancel'
    order by deadline_at, path limit 1) w
    on r.status not in ('completed', 'failed', 'cancelled')`;

/** Runs of a workspace, newest first: ids begin with a time, a child's with that of its parent's start. Reads along the primary key. */
export async function listRuns(db: Queryable, filter: RunFilter): Promise<RunList> {
  const { rows } = await db.query<SummaryRow>({
    text: `select ${SUMMARY} from (
             select ${OF_RUNS} from runs
             where workspace_id = $1 and ($2::text[] is null or status = any ($2)) and ($3::text is null or workflow_name = $3)
             order by run_id desc limit $4) r
           ${BESIDE} order by r.run_id desc`,
    values: [filter.workspaceId, filter.statuses ?? null, filter.workflowName ?? null, filter.limit + 1],
  });
  return toList(rows, filter.limit);
}

const PREFIX_DIGITS = /^[0-9a-f]{8,32}$/;

/**
 * Ids of runs that begin with `idPrefix`, oldest first, at most `limit`. A beginning has 8 hex digits or more, with the hyphens where an id has
 * them or with none. Null when it is no such thing.
 */
export async function findRuns(
  db: Queryable,
  workspaceId: WorkspaceId,
  idPrefix: string,
  limit: number,
): Promise<readonly string[] | null> {
  const given = idPrefix.toLowerCase();
  const digits = given.replaceAll('-', '');
  if (!PREFIX_DIGITS.test(digits)) return null;
  const [first, last] = [hyphenated(digits.padEnd(32, '0')), hyphenated(digits.padEnd(32, 'f'))];
  if (given !== digits && !first.startsWith(given)) return null;
  const { rows } = await db.query<{ run_id: string }>({
    text: 'select run_id from runs where workspace_id = $1 and run_id between $2 and $3 order by run_id limit $4',
    values: [workspaceId, first, last, limit],
  });
  return rows.map((row) => row.run_id);
}

function hyphenated(digits: string): string {
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

/** Where a run stands, without locking it. */
export interface Standing {
  readonly status: RunStatus;
  readonly failedPath: string | null;
  readonly retryCount: number;
}

/** Null when there is no such run. */
export async function readStanding(db: Queryable, run: RunRef): Promise<Standing | null> {
  const { rows } = await db.query<{ status: RunStatus; failed_path: string | null; retry_count: number }>({
    text: 'select status, failed_path, retry_count from runs where workspace_id = $1 and run_id = $2',
    values: [run.workspaceId, run.runId],
  });
  const row = rows[0];
  return row ? { status: row.status, failedPath: row.failed_path, retryCount: row.retry_count } : null;
}

/** Which entries of the trace to read: so many from its beginning and from its end. */
export interface TraceBounds {
  readonly first: number;
  readonly last: number;
}

interface ReportRow extends SummaryRow {
  origin: string;
  audience: string | null;
  run_key: string | null;
  fence: number;
  retry_count: number;
  retried: string[];
  worker_id: string | null;
  worker_pid: number | null;
  worker_alive: boolean;
  input: string;
  input_bytes: number;
  output: string | null;
  output_bytes: number | null;
}

/**
 * One run with what it did and waits for; null when there is none. A few statements: of a run that is worked meanwhile they may show
 * neighbouring moments.
 */
export async function readRun(
  db: Queryable,
  workspaceId: WorkspaceId,
  runId: string,
  bounds: TraceBounds,
): Promise<RunReport | null> {
  const { rows } = await db.query<ReportRow>({
    text: `select ${SUMMARY}, r.origin, r.audience, r.run_key, r.fence, r.retry_count, r.retried, r.worker_id, k.pid as worker_pid,
             coalesce(k.lease_until > db_now(), false) as worker_alive,
             left(r.input::text, ${MAX_VALUE_LENGTH}) as input, octet_length(r.input::text) as input_bytes,
             left(r.output::text, ${MAX_VALUE_LENGTH}) as output, octet_length(r.output::text) as output_bytes
           from runs r left join workers k on k.worker_id = r.worker_id ${BESIDE}
           where r.workspace_id = $1 and r.run_id = $2`,
    values: [workspaceId, runId],
  });
  const row = rows[0];
  if (!row) return null;
  return {
    ...toSummary(row),
    now: row.now,
    origin: row.origin,
    audience: row.audience,
    runKey: row.run_key === null ? null : maskSecrets(row.run_key),
    fence: row.fence,
    retryCount: row.retry_count,
    worker:
      row.worker_id === null
        ? null
        : { workerId: row.worker_id, pid: row.worker_pid, alive: row.worker_alive },
    input: toText(row.input, row.input_bytes),
    output: row.output === null ? null : toText(row.output, row.output_bytes ?? 0),
    trace: await readTrace(db, { workspaceId, runId }, row.retried, bounds),
    waits: await readWaits(db, { workspaceId, runId }),
    children: await readChildren(db, { workspaceId, runId }),
  };
}

interface TraceRow {
  path: string;
  kind: string;
  started_at: Date;
  finished_at: Date;
  tries: number;
  outcome: TraceEntry['outcome'];
  error: StoredError | null;
  value: string | null;
  value_bytes: number | null;
  passed_over: boolean;
  place: number;
  total: number;
}

async function readTrace(
  db: Queryable,
  run: RunRef,
  retried: readonly string[],
  { first, last }: TraceBounds,
): Promise<RunReport['trace']> {
  const { rows } = await db.query<TraceRow>({
    // Backing off is no entry of its own: it is counted as tries of its step. Values are read of the entries that are shown, no others.
    text: `with tried as (
             select regexp_replace(path, '~[0-9]+$', '') as path, count(*)::int as backoffs from waits
             where workspace_id = $1 and run_id = $2 and kind = 'retry' and outcome = 'timeout' group by 1),
           journal as (
             select path, kind, started_at, finished_at, null as outcome from steps where workspace_id = $1 and run_id = $2
             union all
             select path, kind, created_at, resolved_at, outcome from waits
             where workspace_id = $1 and run_id = $2 and outcome is not null and kind <> 'retry'
               and not (kind = 'cancel' and outcome = 'cancelled')),
           placed as (
             select path, kind, started_at, finished_at, outcome,
               row_number() over (order by finished_at, path) as place, count(*) over () as total from journal)
           select p.path, p.kind, p.started_at, p.finished_at, p.outcome, p.place, p.total, coalesce(t.backoffs, 0) + 1 as tries, s.error,
             left(v.value, ${MAX_VALUE_LENGTH}) as value, octet_length(v.value) as value_bytes, p.path = any ($3) as passed_over
           from placed p
           left join tried t on t.path = p.path
           left join steps s on p.outcome is null and s.workspace_id = $1 and s.run_id = $2 and s.path = p.path
           left join waits w on p.outcome is not null and w.workspace_id = $1 and w.run_id = $2 and w.path = p.path
           cross join lateral (select coalesce(s.result, w.payload)::text as value) v
           where p.place <= $4 or p.place > p.total - $5
           order by p.place`,
    values: [run.workspaceId, run.runId, retried, first, last],
  });
  const total = rows[0]?.total ?? 0;
  return {
    total,
    shownFirst: Math.min(first, total),
    entries: rows.map((row) => ({
      path: row.path,
      kind: row.kind,
      startedAt: row.started_at,
      finishedAt: row.finished_at,
      durationMs: Math.max(0, row.finished_at.getTime() - row.started_at.getTime()),
      tryCount: row.tries,
      outcome: row.outcome,
      error: toError(row.error),
      result: row.error !== null || row.value === null ? null : toText(row.value, row.value_bytes ?? 0),
      passedOver: row.passed_over,
    })),
  };
}

interface WaitRow {
  path: string;
  kind: OpenWait['kind'];
  event_name: string | null;
  event_key: string | null;
  needed_count: number | null;
  created_at: Date;
  deadline_at: Date | null;
}

async function readWaits(db: Queryable, run: RunRef): Promise<OpenWait[]> {
  const { rows } = await db.query<WaitRow>({
    text: `select path, kind, event_name, event_key, needed_count, created_at, nullif(deadline_at, 'infinity') as deadline_at
           from waits where workspace_id = $1 and run_id = $2 and outcome is null order by waits.deadline_at, path limit ${MAX_WAITS}`,
    values: [run.workspaceId, run.runId],
  });
  return rows.map(toWait);
}

async function readChildren(db: Queryable, run: RunRef): Promise<RunReport['children']> {
  const { rows } = await db.query<SummaryRow>({
    text: `select ${SUMMARY} from (
             select ${OF_RUNS} from runs where workspace_id = $1 and parent_run_id = $2
             order by created_at, run_id limit ${MAX_CHILDREN + 1}) r
           ${BESIDE} order by r.created_at, r.run_id`,
    values: [run.workspaceId, run.runId],
  });
  const { runs, more } = toList(rows, MAX_CHILDREN);
  return { runs, more };
}

function toList(rows: readonly SummaryRow[], limit: number): RunList {
  return {
    now: rows[0]?.now ?? new Date(0),
    runs: rows.slice(0, limit).map(toSummary),
    more: rows.length > limit,
  };
}

function toSummary(row: SummaryRow): RunSummary {
  return {
    runId: row.run_id,
    workflowName: row.workflow_name,
    workflowVersion: row.workflow_version,
    status: row.status,
    pausing: row.pausing,
    owner:
      row.owner_team_id === null || row.owner_user_id === null
        ? null
        : { teamId: row.owner_team_id, userId: row.owner_user_id },
    parentRunId: row.parent_run_id,
    childKey: row.child_key,
    depth: row.depth,
    createdAt: row.created_at,
    queuedAt: row.queued_at,
    finishedAt: row.finished_at,
    error: toError(row.error),
    failedPath: row.failed_path,
    lastPath: row.last_path,
    wait:
      row.wait_path === null || row.wait_kind === null || row.wait_since === null
        ? null
        : toWait({
            path: row.wait_path,
            kind: row.wait_kind,
            event_name: row.wait_event_name,
            event_key: row.wait_event_key,
            needed_count: row.wait_needed_count,
            created_at: row.wait_since,
            deadline_at: row.wait_deadline_at,
          }),
    waitCount: row.wait_count ?? 0,
  };
}

function toWait(row: WaitRow): OpenWait {
  return {
    path: row.path,
    kind: row.kind,
    event:
      row.event_name === null || row.event_key === null
        ? null
        : { name: maskSecrets(row.event_name), key: maskSecrets(row.event_key) },
    neededCount: row.needed_count,
    since: row.created_at,
    deadlineAt: row.deadline_at,
  };
}

function toError(error: StoredError | null): StoredError | null {
  return error && { ...error, message: maskSecrets(error.message) };
}

/** Masks first, then drops what the database's cut may have left of a credential. */
function toText(read: string, byteCount: number): StoredText {
  const cut = Buffer.byteLength(read) < byteCount;
  const masked = maskSecrets(read);
  return { text: cut ? masked.slice(0, -CUT_MARGIN).toWellFormed() : masked, byteCount, cut };
}
