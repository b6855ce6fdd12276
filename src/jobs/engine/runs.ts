/**
 * Runs and their journal: start, claim, journal, park, end. Every statement that an attempt makes on its run is here; what ends waits
 * from outside is in events.ts.
 *
 * Invariant: a journal row, a park and an end are written only by the attempt whose fence the run row carries, checked under a lock on
 * that row in the same statement or transaction.
 *
 * Lock order: event keys (sorted, advisory) -> runs (by id, `for update`) -> whatever the caller locks.
 */
import { randomUUIDv7 } from 'node:crypto';
import { CountersignError, type StoredError } from '../../errors.ts';
import type {
  Json,
  Person,
  Queryable,
  RunRef,
  RunStatus,
  Tx,
  WaitOutcome,
  WorkspaceId,
} from '../../types.ts';
import { eventLockKey, lockKeys } from './events.ts';
import type { WakeQueue } from './queue.ts';

export interface StartRun {
  readonly workspaceId: WorkspaceId;
  readonly workflowName: string;
  readonly workflowVersion: number;
  /** Already checked against the workflow's schema. */
  readonly input: Json;
  /** What started it: `slack`, `schedule`, `signal` or `run`. */
  readonly origin: string;
  /** Starting again under the same key returns the first run. */
  readonly runKey?: string;
  readonly owner?: Person;
  readonly audience?: string;
}

/** A claimed run: what an attempt needs to work. */
export interface Attempt extends RunRef {
  readonly workflowName: string;
  readonly workflowVersion: number;
  readonly input: Json;
  readonly fence: number;
  /** Claims since the last orderly end of a segment or the last one that journaled a step, this one included. */
  readonly claimCount: number;
  readonly createdAt: Date;
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

/** Inserts the run and its first wake-up in the caller's transaction. A second start under one key changes nothing. */
export async function insertRun(tx: Tx, queue: WakeQueue, start: StartRun): Promise<RunRef> {
  const run: RunRef = { workspaceId: start.workspaceId, runId: randomUUIDv7() };
  const { rowCount } = await tx.query({
    name: 'run_insert',
    text: `insert into runs (workspace_id, run_id, workflow_name, workflow_version, input, origin, run_key,
             owner_team_id, owner_user_id, audience)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
           on conflict (workspace_id, run_key) do nothing`,
    values: [
      run.workspaceId,
      run.runId,
      start.workflowName,
      start.workflowVersion,
      JSON.stringify(start.input),
      start.origin,
      start.runKey ?? null,
      start.owner?.teamId ?? null,
      start.owner?.userId ?? null,
      start.audience ?? null,
    ],
  });
  if (rowCount === 1) {
    await queue.send(tx, [run]);
    return run;
  }
  const { rows } = await tx.query<{ run_id: string }>({
    text: 'select run_id from runs where workspace_id = $1 and run_key = $2',
    values: [start.workspaceId, start.runKey],
  });
  return { workspaceId: start.workspaceId, runId: rows[0]?.run_id ?? run.runId };
}

interface ClaimRow {
  carried: boolean;
  workflow_name: string;
  workflow_version: number;
  input: Json;
  fence: number;
  claim_count: number;
  created_at: Date;
}

/**
 * Takes a queued run, or one whose worker's lease has ended, and raises its fence. Only of a workflow in `carried` (`name@version`):
 * `not-carried` when the run is another build's. Undefined when there is nothing to take: a redelivered or late wake-up. One statement,
 * committed by itself; the journal must be read in a later one, because this one's snapshot may be older than what the previous
 * holder committed.
 */
export async function claimRun(
  db: Queryable,
  run: RunRef,
  workerId: string,
  carried: readonly string[],
): Promise<Attempt | 'not-carried' | undefined> {
  const { rows } = await db.query<ClaimRow>({
    name: 'run_claim',
    // In the count, `fence` is still the lost holder's: what that one journaled is progress, and the count begins anew.
    text: `with claimed as (
             update runs set status = 'running', fence = fence + 1, worker_id = $3,
               claim_count = case
                 when claim_count > 0 and not exists (
                   select 1 from steps s where s.workspace_id = $1 and s.run_id = $2 and s.fence = runs.fence)
                 then claim_count + 1 else 1 end
             where workspace_id = $1 and run_id = $2 and workflow_name || '@' || workflow_version = any ($4)
               and (status = 'queued'
                 or (status = 'running' and worker_id <> $3
                   and not exists (select 1 from workers w where w.worker_id = runs.worker_id and w.lease_until > db_now())))
             returning workflow_name, workflow_version, input, fence, claim_count, created_at)
           select true as carried, workflow_name, workflow_version, input, fence, claim_count, created_at from claimed
           union all
           select false, workflow_name, workflow_version, null, fence, claim_count, created_at from runs
           where workspace_id = $1 and run_id = $2 and workflow_name || '@' || workflow_version <> all ($4)`,
    values: [run.workspaceId, run.runId, workerId, carried],
  });
  const row = rows[0];
  if (!row) return undefined;
  if (!row.carried) return 'not-carried';
  return {
    workspaceId: run.workspaceId,
    runId: run.runId,
    workflowName: row.workflow_name,
    workflowVersion: row.workflow_version,
    input: row.input,
    fence: row.fence,
    claimCount: row.claim_count,
    createdAt: row.created_at,
  };
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

/** Everything that is finished in this run, steps and waits alike. */
export async function readJournal(db: Queryable, run: RunRef): Promise<JournalEntry[]> {
  const { rows } = await db.query<JournalRow>({
    name: 'journal_read',
    text: `select path, kind, input_hash, error, result, null as outcome, finished_at
             from steps where workspace_id = $1 and run_id = $2
           union all
           select path, kind, input_hash, null, payload, outcome, resolved_at
             from waits where workspace_id = $1 and run_id = $2 and outcome is not null`,
    values: [run.workspaceId, run.runId],
  });
  return rows.map(toJournalEntry);
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

function outcomeJson(outcome: WaitOutcome['outcome'], payload: Json): Json {
  return outcome === 'event' ? { outcome, payload } : { outcome };
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
  const { rows } = await db.query<{ finished_at: Date }>({
    name: 'step_insert',
    text: `with held as (
             select 1 from runs where workspace_id = $1 and run_id = $2 and fence = $3 and status = 'running' for share)
           insert into steps (workspace_id, run_id, path, kind, input_hash, fence, error, result, started_at)
           select $1, $2, $4, $5, $6, $3, $7, $8, $9 from held
           on conflict (workspace_id, run_id, path) do nothing
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
  const written = rows[0]?.finished_at ?? (await writtenEarlier(db, attempt, step.path));
  if (!written) throw fenced(attempt);
  return written;
}

/** A commit whose answer was lost is read back by key: the row is ours only under our fence. */
async function writtenEarlier(db: Queryable, attempt: Attempt, path: string): Promise<Date | undefined> {
  const { rows } = await db.query<{ finished_at: Date }>({
    text: 'select finished_at from steps where workspace_id = $1 and run_id = $2 and path = $3 and fence = $4',
    values: [attempt.workspaceId, attempt.runId, path, attempt.fence],
  });
  return rows[0]?.finished_at;
}

/** Locks the run row `for share` in the caller's transaction; FENCED unless this attempt owns it and it still runs. */
export async function holdFence(tx: Tx, attempt: Attempt): Promise<void> {
  const { rowCount } = await tx.query({
    name: 'run_hold',
    text: `select 1 from runs where workspace_id = $1 and run_id = $2 and fence = $3 and status = 'running' for share`,
    values: [attempt.workspaceId, attempt.runId, attempt.fence],
  });
  if (rowCount !== 1) throw fenced(attempt);
}

function fenced(attempt: Attempt): CountersignError {
  return new CountersignError('FENCED', `Attempt ${attempt.fence} no longer holds run ${attempt.runId}`);
}

export type ParkResult =
  | { readonly parked: true }
  /** Outcomes that came before the park: the segment goes on with these. */
  | { readonly parked: false; readonly resolved: JournalEntry[] };

/**
 * Registers what every open branch waits for and lets the run go. Looks again, under the locks, for events that came first: then
 * nothing is parked and those outcomes are stored and returned. Must be called with all branches blocked.
 */
export async function parkRun(tx: Tx, attempt: Attempt, waits: readonly WaitSpec[]): Promise<ParkResult> {
  await lockKeys(
    tx,
    waits.flatMap((wait) =>
      wait.event ? [eventLockKey(attempt.workspaceId, wait.event.name, wait.event.key)] : [],
    ),
  );
  const { rowCount } = await tx.query({
    name: 'run_lock_own',
    text: `select 1 from runs where workspace_id = $1 and run_id = $2 and fence = $3 and status = 'running' for update`,
    values: [attempt.workspaceId, attempt.runId, attempt.fence],
  });
  if (rowCount !== 1) throw fenced(attempt);

  await tx.query({
    name: 'waits_register',
    text: `insert into waits (workspace_id, run_id, path, kind, input_hash, event_name, event_key, deadline_at, outcome, payload, resolved_at)
           select $1, $2, w.path, w.kind, w.input_hash, w.event_name, w.event_key,
             coalesce(w.deadline_at, db_now() + w.after_ms * interval '1 millisecond'),
             case when e.event_name is null then null else 'event' end, e.payload,
             case when e.event_name is null then null else db_now() end
           from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::float8[], $9::timestamptz[])
             as w (path, kind, input_hash, event_name, event_key, after_ms, deadline_at)
           left join events e on e.workspace_id = $1 and e.event_name = w.event_name and e.event_key = w.event_key
           on conflict (workspace_id, run_id, path) do nothing`,
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
    ],
  });
  const { rows } = await tx.query<JournalRow>({
    name: 'waits_resolved',
    text: `select path, kind, input_hash, null as error, payload as result, outcome, resolved_at as finished_at
           from waits where workspace_id = $1 and run_id = $2 and path = any ($3) and outcome is not null`,
    values: [attempt.workspaceId, attempt.runId, waits.map((wait) => wait.path)],
  });
  if (rows.length > 0) return { parked: false, resolved: rows.map(toJournalEntry) };

  await tx.query({
    name: 'run_park',
    text: `update runs set status = 'waiting', worker_id = null, claim_count = 0 where workspace_id = $1 and run_id = $2`,
    values: [attempt.workspaceId, attempt.runId],
  });
  return { parked: true };
}

export interface RunEnd {
  readonly status: Extract<RunStatus, 'completed' | 'failed' | 'parked'>;
  readonly output: Json;
  readonly error: StoredError | null;
}

/** Ends the attempt for good and closes its open waits. FENCED when another attempt holds the run. */
export async function endRun(tx: Tx, attempt: Attempt, end: RunEnd): Promise<void> {
  const { rowCount } = await tx.query({
    name: 'run_end',
    text: `update runs set status = $4, output = $5, error = $6, worker_id = null, claim_count = 0,
             finished_at = case when $4 = 'parked' then null else db_now() end
           where workspace_id = $1 and run_id = $2 and fence = $3 and status = 'running'`,
    values: [
      attempt.workspaceId,
      attempt.runId,
      attempt.fence,
      end.status,
      JSON.stringify(end.output),
      end.error === null ? null : JSON.stringify(end.error),
    ],
  });
  if (rowCount !== 1) throw fenced(attempt);
  if (end.status === 'parked') return;
  await tx.query({
    name: 'waits_close',
    text: `update waits set outcome = 'cancelled', resolved_at = db_now() where workspace_id = $1 and run_id = $2 and outcome is null`,
    values: [attempt.workspaceId, attempt.runId],
  });
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
  await endRun(tx, attempt, { status: 'parked', output: null, error });
  await onParked?.(tx, { workspaceId: attempt.workspaceId, runId: attempt.runId }, error);
}

/** Gives the run back to the queue unfinished, not counted against it: for a process that is going down. */
export async function handOverRun(tx: Tx, queue: WakeQueue, attempt: Attempt): Promise<void> {
  const { rowCount } = await tx.query({
    text: `update runs set status = 'queued', queued_at = db_now(), worker_id = null, claim_count = greatest(claim_count - 1, 0)
           where workspace_id = $1 and run_id = $2 and fence = $3 and status = 'running'`,
    values: [attempt.workspaceId, attempt.runId, attempt.fence],
  });
  if (rowCount === 1) await queue.send(tx, [attempt]);
}

/**
 * Finds runs whose wake-up was lost: queued for longer than `staleMs`, or held by a worker whose lease has ended. They get a new wake-up.
 * Only runs of a workflow in `carried` (`name@version`): the builds that carry the others send theirs.
 */
export async function resendLost(
  tx: Tx,
  queue: WakeQueue,
  staleMs: number,
  carried: readonly string[],
): Promise<number> {
  const { rows } = await tx.query<{ workspace_id: string; run_id: string }>({
    name: 'runs_lost',
    text: `with stale as (
             select workspace_id, run_id from runs
             where status = 'queued' and queued_at < db_now() - $1 * interval '1 millisecond'
               and workflow_name || '@' || workflow_version = any ($2)
             order by queued_at limit 100 for update skip locked),
           resent as (
             update runs set queued_at = db_now() where (workspace_id, run_id) in (select workspace_id, run_id from stale)
             returning workspace_id, run_id),
           orphaned as (
             select r.workspace_id, r.run_id from runs r
             where r.status = 'running' and r.workflow_name || '@' || r.workflow_version = any ($2)
               and not exists (select 1 from workers w where w.worker_id = r.worker_id and w.lease_until > db_now())
             limit 100)
           select workspace_id, run_id from resent union all select workspace_id, run_id from orphaned`,
    values: [staleMs, carried],
  });
  await queue.send(
    tx,
    rows.map((row) => ({ workspaceId: row.workspace_id, runId: row.run_id })),
  );
  return rows.length;
}
