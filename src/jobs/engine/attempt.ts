/**
 * What an attempt writes on its run: claim, journal, waits, park, end. Every statement here is made in the name of one attempt.
 *
 * Invariant: a journal row, a park and an end are written only by the attempt whose fence the run row carries, checked under a lock on
 * that row in the same statement or transaction.
 */
import { CountersignError, type StoredError } from '../../errors.ts';
import type { Json, Queryable, RunRef, RunStatus, Tx } from '../../types.ts';
import { cancelRuns, type Wakes } from './cancel.ts';
import { settleChildren } from './children-ended.ts';
import { sqlState } from './db.ts';
import { lockKeys, lockRuns } from './locks.ts';
import type { WakeQueue } from './queue.ts';

/** A claimed run: what an attempt needs to work. */
export interface Attempt extends RunRef {
  readonly workflowName: string;
  readonly workflowVersion: number;
  readonly input: Json;
  readonly fence: number;
  /** Segments in a row that a worker was lost in without a step journaled in between, this one included. */
  readonly claimCount: number;
  readonly createdAt: Date;
  readonly depth: number;
  readonly parent: { readonly runId: string; readonly path: string } | null;
  /** Why the run is being cancelled; null while it works on its own purpose. */
  readonly cancelling: StoredError | null;
  /** Somebody asked it to pause: it lets go at its next step. */
  readonly pausing: boolean;
  /** Paths whose journal entries this replay passes over. */
  readonly retried: readonly string[];
  readonly retryCount: number;
}

/** One finished step or resolved wait. */
export interface JournalEntry {
  readonly path: string;
  readonly kind: string;
  readonly inputHash: string | null;
  readonly error: StoredError | null;
  readonly result: Json;
  readonly finishedAt: Date;
}

/** A wait as a blocked branch asks for it. */
export interface WaitSpec {
  readonly path: string;
  readonly kind: 'event' | 'sleep' | 'retry';
  readonly inputHash: string | null;
  readonly event: { readonly name: string; readonly key: string } | null;
  readonly due: { readonly afterMs: number } | { readonly at: Date };
}

interface ClaimRow {
  workflow_name: string;
  workflow_version: number;
  input: Json;
  fence: number;
  claim_count: number;
  created_at: Date;
  depth: number;
  parent_run_id: string | null;
  parent_path: string | null;
  cancelling: StoredError | null;
  pausing: boolean;
  retried: string[];
  retry_count: number;
}

/**
 * Takes a queued run, one that is cancelling and that nobody works, or one whose worker's lease has ended, and raises its fence. Only of a
 * workflow in `carried` (`name@version`): `not-carried` when the run is another build's. Undefined when there is nothing to take: a
 * redelivered or late wake-up. One statement, committed by itself; the journal must be read in a later one, because this one's snapshot
 * may be older than what the previous holder committed.
 */
export async function claimRun(
  db: Queryable,
  run: RunRef,
  workerId: string,
  carried: readonly string[],
): Promise<Attempt | 'not-carried' | undefined> {
  const { rows } = await db.query<ClaimRow>({
    name: 'run_claim',
    // In the count, `fence` is still the lost holder's: what that one journaled is progress, and the count begins anew, with the loss
    // itself as the first: the step it was lost in has been tried once.
    text: `update runs set status = case when status = 'cancelling' then status else 'running' end, fence = fence + 1, worker_id = $3,
             claim_count = case
               when claim_count > 0 and exists (
                 select 1 from steps s where s.workspace_id = $1 and s.run_id = $2 and s.fence = runs.fence)
               then 2 else claim_count + 1 end
           where workspace_id = $1 and run_id = $2 and workflow_name || '@' || workflow_version = any ($4)
             and (status = 'queued'
               or (status = 'cancelling' and worker_id is null)
               or (status in ('running', 'cancelling') and worker_id <> $3
                 and not exists (select 1 from workers w where w.worker_id = runs.worker_id and w.lease_until > db_now())))
           returning workflow_name, workflow_version, input, fence, claim_count, created_at, depth, parent_run_id, parent_path,
             case when status = 'cancelling' then error end as cancelling, pausing, retried, retry_count`,
    values: [run.workspaceId, run.runId, workerId, carried],
  });
  const row = rows[0];
  if (!row) return (await isCarried(db, run, carried)) ? undefined : 'not-carried';
  return {
    workspaceId: run.workspaceId,
    runId: run.runId,
    workflowName: row.workflow_name,
    workflowVersion: row.workflow_version,
    input: row.input,
    fence: row.fence,
    claimCount: row.claim_count,
    createdAt: row.created_at,
    depth: row.depth,
    parent: row.parent_run_id === null ? null : { runId: row.parent_run_id, path: row.parent_path ?? '' },
    cancelling: row.cancelling,
    pausing: row.pausing,
    retried: row.retried,
    retryCount: row.retry_count,
  };
}

/** Also when there is no such run. */
async function isCarried(db: Queryable, run: RunRef, carried: readonly string[]): Promise<boolean> {
  const { rowCount } = await db.query({
    name: 'run_is_foreign',
    text: `select 1 from runs where workspace_id = $1 and run_id = $2 and workflow_name || '@' || workflow_version <> all ($3)`,
    values: [run.workspaceId, run.runId, carried],
  });
  return rowCount === 0;
}

interface JournalRow {
  path: string;
  kind: string;
  input_hash: string | null;
  error: StoredError | null;
  result: Json;
  outcome: 'event' | 'timeout' | 'cancelled' | null;
  finished_at: Date;
}

/** What a replay needs: everything that is finished, steps and waits alike, and the paths of the waits that stand open. */
export async function readJournal(
  db: Queryable,
  run: RunRef,
): Promise<{ entries: JournalEntry[]; open: { readonly path: string; readonly kind: string }[] }> {
  const { rows } = await db.query<JournalRow>({
    name: 'journal_read',
    text: `select path, kind, input_hash, error, result, null as outcome, finished_at
             from steps where workspace_id = $1 and run_id = $2
           union all
           select path, kind, input_hash, null, payload, outcome, resolved_at
             from waits where workspace_id = $1 and run_id = $2 and kind <> 'cancel'`,
    values: [run.workspaceId, run.runId],
  });
  return {
    entries: rows.filter((row) => row.finished_at !== null).map(toJournalEntry),
    open: rows.filter((row) => row.finished_at === null),
  };
}

function toJournalEntry(row: JournalRow): JournalEntry {
  return {
    path: row.path,
    kind: row.kind,
    inputHash: row.input_hash,
    error: row.error,
    result: row.outcome === null ? row.result : outcomeJson(row.outcome, row.result),
    finishedAt: row.finished_at,
  };
}

function outcomeJson(outcome: string, payload: Json): Json {
  return outcome === 'event' || payload !== null ? { outcome, payload } : { outcome };
}

export interface StepRow {
  readonly path: string;
  readonly kind: string;
  readonly inputHash: string | null;
  readonly error: StoredError | null;
  readonly result: Json;
  readonly startedAt: Date;
}

/**
 * Journals one finished step and returns when. The lock on the run row and the fence check are part of the statement.
 * Throws FENCED when another attempt holds the run, or it no longer runs.
 */
export async function insertStep(db: Queryable, attempt: Attempt, step: StepRow): Promise<Date> {
  try {
    const { rows } = await db.query<{ finished_at: Date }>({
      name: 'step_insert',
      // Without `on conflict`, which costs every step for the one whose answer was lost.
      text: `with held as (
               select 1 from runs where workspace_id = $1 and run_id = $2 and fence = $3 and status in ('running', 'cancelling') for share)
             insert into steps (workspace_id, run_id, path, kind, input_hash, fence, error, result, started_at)
             select $1, $2, $4, $5, $6, $3, $7, $8, $9 from held
             returning finished_at`,
      values: [
        attempt.workspaceId,
        attempt.runId,
        attempt.fence,
        step.path,
        step.kind,
        step.inputHash,
        step.error === null ? null : JSON.stringify(step.error),
        JSON.stringify(step.result),
        step.startedAt,
      ],
    });
    if (rows[0]) return rows[0].finished_at;
  } catch (error) {
    const written = sqlState(error) === UNIQUE_VIOLATION && (await writtenEarlier(db, attempt, step.path));
    if (written) return written;
    throw error;
  }
  throw fenced(attempt);
}

/** postgresql.org/docs/18/errcodes-appendix.html */
const UNIQUE_VIOLATION = '23505';

/** A commit whose answer was lost is read back by key: the row is ours only under our fence. */
async function writtenEarlier(db: Queryable, attempt: Attempt, path: string): Promise<Date | undefined> {
  const { rows } = await db.query<{ finished_at: Date }>({
    text: 'select finished_at from steps where workspace_id = $1 and run_id = $2 and path = $3 and fence = $4',
    values: [attempt.workspaceId, attempt.runId, path, attempt.fence],
  });
  return rows[0]?.finished_at;
}

/** Locks the run row `for share` in the caller's transaction; FENCED unless this attempt owns it and it is still worked. */
export async function holdFence(tx: Tx, attempt: Attempt): Promise<void> {
  const { rowCount } = await tx.query({
    name: 'run_hold',
    text: `select 1 from runs where workspace_id = $1 and run_id = $2 and fence = $3 and status in ('running', 'cancelling') for share`,
    values: [attempt.workspaceId, attempt.runId, attempt.fence],
  });
  if (rowCount !== 1) throw fenced(attempt);
}

function fenced(attempt: Attempt): CountersignError {
  return new CountersignError('FENCED', `Attempt ${attempt.fence} no longer holds run ${attempt.runId}`);
}

/**
 * Registers what blocked branches wait for, once: a wait that is there already keeps its deadline. An event that came first is found,
 * because its key is locked before the look. FENCED when another attempt holds the run.
 */
export async function registerWaits(tx: Tx, attempt: Attempt, waits: readonly WaitSpec[]): Promise<void> {
  await lockKeys(
    tx,
    waits.flatMap(({ event }) => (event ? [{ workspaceId: attempt.workspaceId, ...event }] : [])),
  );
  const { rows } = await tx.query({
    name: 'waits_register',
    text: `with held as (
             select 1 from runs where workspace_id = $1 and run_id = $2 and fence = $10 and status in ('running', 'cancelling') for update),
           registered as (
             insert into waits (workspace_id, run_id, path, kind, input_hash, event_name, event_key, deadline_at, outcome, payload, resolved_at)
             select $1, $2, w.path, w.kind, w.input_hash, w.event_name, w.event_key,
               coalesce(w.deadline_at, db_now() + w.after_ms * interval '1 millisecond'),
               case when e.event_name is null then null else 'event' end, e.payload,
               case when e.event_name is null then null else db_now() end
             from held, unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::float8[], $9::timestamptz[])
               as w (path, kind, input_hash, event_name, event_key, after_ms, deadline_at)
             left join events e on e.workspace_id = $1 and e.event_name = w.event_name and e.event_key = w.event_key
             on conflict (workspace_id, run_id, path) do nothing)
           select 1 from held`,
    values: [
      attempt.workspaceId,
      attempt.runId,
      waits.map((wait) => wait.path),
      waits.map((wait) => wait.kind),
      waits.map((wait) => wait.inputHash),
      waits.map((wait) => wait.event?.name ?? null),
      waits.map((wait) => wait.event?.key ?? null),
      waits.map((wait) => ('afterMs' in wait.due ? wait.due.afterMs : null)),
      waits.map((wait) => ('at' in wait.due ? wait.due.at : null)),
      attempt.fence,
    ],
  });
  if (rows.length === 0) throw fenced(attempt);
}

/** Which of these waits have an outcome. Whoever ends a wait locks the run first, so after `registerWaits` or a park nothing is missed. */
export async function readOutcomes(
  db: Queryable,
  run: RunRef,
  paths: readonly string[],
): Promise<JournalEntry[]> {
  const { rows } = await db.query<JournalRow>({
    name: 'waits_resolved',
    text: `select path, kind, input_hash, null as error, payload as result, outcome, resolved_at as finished_at
           from waits where workspace_id = $1 and run_id = $2 and path = any ($3) and outcome is not null`,
    values: [run.workspaceId, run.runId, paths],
  });
  return rows.map(toJournalEntry);
}

/**
 * Lets the run go until one of its waits ends: `unregistered` ones are registered first. Returns false, and the run stays held, when
 * one of `paths` has ended already. Must be called with all branches blocked. FENCED when another attempt holds the run.
 */
export async function parkRun(
  tx: Tx,
  attempt: Attempt,
  unregistered: readonly WaitSpec[],
  paths: readonly string[],
): Promise<boolean> {
  if (unregistered.length > 0) await registerWaits(tx, attempt, unregistered);
  else await holdForUpdate(tx, attempt);
  const { rowCount } = await tx.query({
    name: 'run_park',
    text: `update runs set worker_id = null, claim_count = 0, pausing = false,
             status = case when status = 'cancelling' then status when pausing then 'paused' else 'waiting' end
           where workspace_id = $1 and run_id = $2
             and not exists (
               select 1 from waits where workspace_id = $1 and run_id = $2 and path = any ($3) and outcome is not null)`,
    values: [attempt.workspaceId, attempt.runId, paths],
  });
  return rowCount === 1;
}

/** As `holdFence`, and nobody else holds it meanwhile. */
export async function holdForUpdate(tx: Tx, attempt: Attempt): Promise<void> {
  const { rowCount } = await tx.query({
    name: 'run_lock_own',
    text: `select 1 from runs where workspace_id = $1 and run_id = $2 and fence = $3 and status in ('running', 'cancelling') for update`,
    values: [attempt.workspaceId, attempt.runId, attempt.fence],
  });
  if (rowCount !== 1) throw fenced(attempt);
}

export interface RunEnd {
  readonly status: Extract<RunStatus, 'completed' | 'failed' | 'cancelled' | 'parked'>;
  readonly output: Json;
  readonly error: StoredError | null;
  /** The step whose error it is; null for the body's own. */
  readonly failedPath?: string | null;
}

/**
 * Ends the attempt for good, closes its open waits, cancels the children that still work for it and tells its parent. FENCED when another
 * attempt holds the run.
 */
export async function endRun(tx: Tx, wakes: Wakes, attempt: Attempt, end: RunEnd): Promise<void> {
  const parent = attempt.parent && { workspaceId: attempt.workspaceId, runId: attempt.parent.runId };
  // Parent before child.
  if (parent && end.status !== 'parked') await lockRuns(tx, [parent]);
  // In a statement of its own: what this attempt registered just now must be seen by the one that closes waits.
  await holdForUpdate(tx, attempt);
  const { openChildren } = await writeEnd(tx, attempt, end);
  if (openChildren) await cancelChildren(tx, wakes, attempt);
  if (parent && attempt.parent && end.status !== 'parked')
    await settleChildren(tx, wakes, parent, attempt.parent.path);
}

/**
 * `endRun` of a run that has no parent and never registered a wait, in one statement that commits by itself. FENCED as `endRun`.
 */
export async function endAlone(db: Queryable, attempt: Attempt, end: RunEnd): Promise<void> {
  const { rowCount } = await db.query({
    name: 'run_end_alone',
    text: `${END_RUN} returning 1`,
    values: endValues(attempt, end),
  });
  if (rowCount !== 1) throw fenced(attempt);
}

const END_RUN = `update runs set status = $4, output = $5, error = $6, failed_path = $7, worker_id = null, claim_count = 0, pausing = false,
  finished_at = case when $4 = 'parked' then null else db_now() end
  where workspace_id = $1 and run_id = $2 and fence = $3 and status in ('running', 'cancelling')`;

function endValues(attempt: Attempt, end: RunEnd): unknown[] {
  return [
    attempt.workspaceId,
    attempt.runId,
    attempt.fence,
    end.status,
    JSON.stringify(end.output),
    end.error === null ? null : JSON.stringify(end.error),
    end.failedPath ?? null,
  ];
}

async function writeEnd(db: Queryable, attempt: Attempt, end: RunEnd): Promise<{ openChildren: boolean }> {
  const { rows } = await db.query<{ closed: string[] }>({
    name: 'run_end',
    text: `with ended as (${END_RUN} returning 1),
           closed as (
             update waits set outcome = 'cancelled', resolved_at = db_now()
             where workspace_id = $1 and run_id = $2 and outcome is null and $4 <> 'parked' and exists (select 1 from ended)
             returning kind)
           select array(select distinct kind from closed) as closed from ended`,
    values: endValues(attempt, end),
  });
  const row = rows[0];
  if (!row) throw fenced(attempt);
  return { openChildren: row.closed.includes('children') };
}

async function cancelChildren(tx: Tx, wakes: Wakes, attempt: Attempt): Promise<void> {
  const { rows } = await tx.query<{ run_id: string }>({
    text: `select run_id from runs where workspace_id = $1 and parent_run_id = $2 and status not in ('completed', 'failed', 'cancelled')`,
    values: [attempt.workspaceId, attempt.runId],
  });
  const children = rows.map((row) => ({ workspaceId: attempt.workspaceId, runId: row.run_id }));
  await cancelRuns(tx, wakes, children, 'The run that started it has ended');
}

/**
 * Called inside the transaction that parks a run for a person, after the run row is written: what it writes commits with the park, what
 * it throws undoes the park, which is then tried again. May run more than once, as any transaction's body. Must not emit events: their
 * keys are locked before runs.
 */
export type OnParked = (tx: Tx, run: RunRef, error: StoredError) => Promise<void>;

/** Parks the attempt's run and tells `onParked` in the same transaction. FENCED when another attempt holds the run. */
export async function parkForPerson(
  tx: Tx,
  attempt: Attempt,
  error: StoredError,
  onParked: OnParked | undefined,
): Promise<void> {
  await writeEnd(tx, attempt, { status: 'parked', output: null, error });
  await onParked?.(tx, { workspaceId: attempt.workspaceId, runId: attempt.runId }, error);
}

/** Gives the run back unfinished, not counted against it: to the queue, or to whoever asked it to pause. */
export async function handOverRun(tx: Tx, queue: WakeQueue, attempt: Attempt): Promise<void> {
  const { rows } = await tx.query<{ status: RunStatus }>({
    name: 'run_hand_over',
    text: `update runs set status = case when status = 'cancelling' then status when pausing then 'paused' else 'queued' end,
             pausing = false, queued_at = db_now(), worker_id = null, claim_count = greatest(claim_count - 1, 0)
           where workspace_id = $1 and run_id = $2 and fence = $3 and status in ('running', 'cancelling')
           returning status`,
    values: [attempt.workspaceId, attempt.runId, attempt.fence],
  });
  if (rows[0] && rows[0].status !== 'paused') await queue.send(tx, [attempt]);
}
