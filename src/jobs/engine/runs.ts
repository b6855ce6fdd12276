/**
 * Runs from outside an attempt: starting them, and finding those whose wake-up was lost. What an attempt writes is in attempt.ts, what ends
 * waits in events.ts, what people do to runs in control.ts.
 *
 * Invariant: a run commits together with what makes it work, its first wake-up or the claim of the worker that started it; two starts
 * under one key are one run.
 */
import { randomUUIDv7 } from 'node:crypto';
import type { Json, Person, Queryable, RunRef, Statement, Tx, WorkspaceId } from '../../types.ts';
import type { Attempt } from './attempt.ts';
import { cancelRuns, type Wakes } from './cancel.ts';
import { whenCommitted } from './db.ts';
import { lockKeys } from './locks.ts';
import type { WakeQueue } from './queue.ts';

export interface StartRun {
  readonly workspaceId: WorkspaceId;
  readonly workflowName: string;
  readonly workflowVersion: number;
  /** Already checked against the workflow's schema. */
  readonly input: Json;
  /** What started it, in one word. */
  readonly origin: string;
  /** Starting again under the same key returns the first run. */
  readonly runKey?: string;
  readonly owner?: Person;
  readonly audience?: string;
  /** Any of these events cancels the run. */
  readonly cancelOn?: CancelOn;
}

type CancelOn = readonly { readonly event: string; readonly key: string }[];

/** A child: its id follows from the parent, and owner and audience are the parent's. */
export interface StartChild
  extends Required<Pick<StartRun, 'workflowName' | 'workflowVersion' | 'input' | 'cancelOn'>> {
  readonly runId: string;
  readonly key: string;
}

/** Where child runs hang: their parent, and the step that started them. */
export interface ParentRef extends RunRef {
  readonly path: string;
}

/** This process's own worker, as a start sees it. */
export interface Here {
  /** Keeps a slot for a run that is about to be inserted as held by this worker; undefined when none is free. */
  reserve(runId: string): Reserved | undefined;
}

/** A slot kept for one run, until one of the two is called; `release` may come twice. */
export interface Reserved {
  readonly workerId: string;
  /** The run stands, held: work it. */
  begin(attempt: Attempt): void;
  /** The run does not stand, or nobody knows: then the worker finds it at its next sweep. */
  release(): void;
}

/**
 * Inserts a run in the caller's transaction: as held by this process's worker when it has a slot, which then begins it after the commit; else
 * as queued, with its first wake-up. A second start under one key changes nothing and returns the first run. A run whose cancelling event
 * was emitted earlier begins as cancelling. With `cancelOn`, call before locking runs: event keys come first.
 */
export async function insertRun(
  tx: Tx,
  wakes: Wakes,
  start: StartRun,
  here: Here | undefined,
): Promise<RunRef> {
  const run = { workspaceId: start.workspaceId, runId: randomUUIDv7() };
  const cancelOn = start.cancelOn ?? [];
  await lockKeys(
    tx,
    cancelOn.map(({ event, key }) => ({ workspaceId: run.workspaceId, name: event, key })),
  );
  // What may be cancelled already must not have begun.
  const slot = cancelOn.length === 0 ? here?.reserve(run.runId) : undefined;
  if (slot) {
    tx.afterRollback(() => slot.release());
    return (await insertHeld(tx, start, run, slot)) ? run : underItsKey(tx, start);
  }
  const insert = insertRoot(start, run.runId);
  if (start.runKey === undefined) await wakes.queue.send(tx, [run], insert);
  else {
    const { rowCount } = await tx.query(insert);
    if (rowCount === 0) return underItsKey(tx, start);
    await wakes.queue.send(tx, [run]);
  }
  await awaitCancelling(tx, wakes, run, cancelOn, '');
  return run;
}

/** `insertRun` in one statement that commits by itself: for a start that has neither key nor cancelling events. */
export async function insertRunAlone(
  db: Queryable,
  wakes: Wakes,
  start: Omit<StartRun, 'runKey' | 'cancelOn'>,
  here: Here | undefined,
): Promise<RunRef> {
  const run = { workspaceId: start.workspaceId, runId: randomUUIDv7() };
  const slot = here?.reserve(run.runId);
  if (!slot) {
    await wakes.queue.send(db, [run], insertRoot(start, run.runId));
    return run;
  }
  try {
    await insertHeld(db, start, run, slot);
  } catch (error) {
    slot.release();
    throw error;
  }
  return run;
}

/** A run that is held from its first moment: its lease is what brings it back when this process dies. False when its key is taken. */
async function insertHeld(target: Queryable, start: StartRun, run: RunRef, slot: Reserved): Promise<boolean> {
  const { rows } = await target.query<{ created_at: Date }>(insertRoot(start, run.runId, slot.workerId));
  const [row] = rows;
  if (!row) {
    slot.release();
    return false;
  }
  const attempt: Attempt = {
    ...run,
    workflowName: start.workflowName,
    workflowVersion: start.workflowVersion,
    // As a later claim would read it.
    input: JSON.parse(JSON.stringify(start.input)) as Json,
    fence: 1,
    claimCount: 1,
    createdAt: row.created_at,
    depth: 0,
    parent: null,
    cancelling: null,
    pausing: false,
    retried: [],
    retryCount: 0,
  };
  whenCommitted(target, () => slot.begin(attempt));
  return true;
}

/** `insertRun` for the children of one step. The caller has locked their cancelling keys and the parent. Those that are there stay as they are. */
export async function insertChildren(
  tx: Tx,
  wakes: Wakes,
  parent: ParentRef,
  children: readonly StartChild[],
): Promise<void> {
  const { workspaceId } = parent;
  await wakes.queue.send(
    tx,
    children.map(({ runId }) => ({ workspaceId, runId })),
    insertBelow(parent, children),
  );
  for (const { runId, cancelOn } of children)
    await awaitCancelling(tx, wakes, { workspaceId, runId }, cancelOn, '');
}

function insertRoot(start: StartRun, runId: string, workerId?: string): Statement {
  const keyed = start.runKey !== undefined;
  const held = workerId !== undefined;
  return {
    name: `run_insert${keyed ? '_keyed' : ''}${held ? '_held' : ''}`,
    text: `insert into runs (workspace_id, run_id, workflow_name, workflow_version, input, origin, owner_team_id, owner_user_id, audience,
             run_key${held ? ', worker_id, status, fence, claim_count' : ''})
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10${held ? `, $11, 'running', 1, 1` : ''})
           ${keyed ? 'on conflict do nothing' : ''} ${held ? 'returning created_at' : ''}`,
    values: [
      start.workspaceId,
      runId,
      start.workflowName,
      start.workflowVersion,
      JSON.stringify(start.input),
      start.origin,
      start.owner?.teamId ?? null,
      start.owner?.userId ?? null,
      start.audience ?? null,
      start.runKey ?? null,
      ...(held ? [workerId] : []),
    ],
  };
}

function insertBelow(parent: ParentRef, children: readonly StartChild[]): Statement {
  return {
    name: 'children_insert',
    text: `insert into runs (workspace_id, run_id, workflow_name, workflow_version, input, origin, owner_team_id, owner_user_id,
             audience, depth, parent_run_id, parent_path, child_key)
           select p.workspace_id, n.run_id, n.workflow_name, n.workflow_version, n.input, 'run', p.owner_team_id, p.owner_user_id,
             p.audience, p.depth + 1, p.run_id, $3, n.child_key
           from runs p, unnest($4::uuid[], $5::text[], $6::int[], $7::json[], $8::text[])
             as n (run_id, workflow_name, workflow_version, input, child_key)
           where p.workspace_id = $1 and p.run_id = $2
           on conflict do nothing`,
    values: [
      parent.workspaceId,
      parent.runId,
      parent.path,
      children.map(({ runId }) => runId),
      children.map(({ workflowName }) => workflowName),
      children.map(({ workflowVersion }) => workflowVersion),
      children.map(({ input }) => JSON.stringify(input)),
      children.map(({ key }) => key),
    ],
  };
}

async function underItsKey(tx: Tx, { workspaceId, runKey }: StartRun): Promise<RunRef> {
  const { rows } = await tx.query<{ run_id: string }>({
    text: 'select run_id from runs where workspace_id = $1 and run_key = $2',
    values: [workspaceId, runKey ?? null],
  });
  const [row] = rows;
  if (!row) throw new Error('the run that has this key is not there');
  return { workspaceId, runId: row.run_id };
}

/**
 * Registers the events that cancel a run; one that is there already cancels it now. The caller has locked their keys. `generation` tells
 * the registrations of a retried run from the ones that were closed.
 */
export async function awaitCancelling(
  tx: Tx,
  wakes: Wakes,
  run: RunRef,
  cancelOn: CancelOn,
  generation: string,
): Promise<void> {
  if (cancelOn.length === 0) return;
  const { rows } = await tx.query<{ outcome: string | null; event_name: string }>({
    name: 'cancel_waits_register',
    text: `insert into waits (workspace_id, run_id, path, kind, event_name, event_key, deadline_at, outcome, payload, resolved_at)
           select $1, $2, 'cancel-on/' || c.place || $5, 'cancel', c.event_name, c.event_key, 'infinity',
             case when e.event_name is null then null else 'event' end, e.payload, case when e.event_name is null then null else db_now() end
           from unnest($3::text[], $4::text[]) with ordinality as c (event_name, event_key, place)
           left join events e on e.workspace_id = $1 and e.event_name = c.event_name and e.event_key = c.event_key
           on conflict do nothing
           returning outcome, event_name`,
    values: [
      run.workspaceId,
      run.runId,
      cancelOn.map((entry) => entry.event),
      cancelOn.map((entry) => entry.key),
      generation,
    ],
  });
  const happened = rows.find((row) => row.outcome !== null);
  if (happened) await cancelRuns(tx, wakes, [run], cancelledBy(happened.event_name));
}

/** Why a run is cancelled by an event, in words. */
export function cancelledBy(eventName: string): string {
  return `Cancelled by the event ${eventName}`;
}

/** Woken for when its worker's lease has ended, an orphaned run is left to whoever takes it up for so long before somebody else is woken. */
const ORPHAN_RESEND_MS = 2_000;

/**
 * Finds runs whose wake-up was lost: queued for longer than `staleMs`, cancelling with nobody at work and nothing to wait for, or held by a
 * worker whose lease has ended. They get a new wake-up, each from one sweeper. Only runs of a workflow in `carried` (`name@version`): the
 * builds that carry the others send theirs.
 */
export async function resendLost(
  tx: Tx,
  queue: WakeQueue,
  options: { readonly staleMs: number; readonly carried: readonly string[] },
): Promise<number> {
  const { rows } = await tx.query<{ workspace_id: string; run_id: string }>({
    name: 'runs_lost',
    text: `with queued as (
             select workspace_id, run_id from runs
             where status = 'queued' and queued_at < db_now() - $1 * interval '1 millisecond'
               and workflow_name || '@' || workflow_version = any ($2)
             order by queued_at limit 100 for update skip locked),
           cancelling as (
             select workspace_id, run_id from runs r
             where status = 'cancelling' and worker_id is null and queued_at < db_now() - $1 * interval '1 millisecond'
               and workflow_name || '@' || workflow_version = any ($2)
               and not exists (
                 select 1 from waits w where w.workspace_id = r.workspace_id and w.run_id = r.run_id and w.outcome is null)
             limit 100 for update skip locked),
           orphaned as (
             select r.workspace_id, r.run_id from runs r left join workers w on w.worker_id = r.worker_id
             where r.status in ('running', 'cancelling') and r.worker_id is not null
               and (w.worker_id is null or w.lease_until <= db_now())
               and r.queued_at < greatest(w.lease_until, db_now() - ${ORPHAN_RESEND_MS} * interval '1 millisecond')
               and r.workflow_name || '@' || r.workflow_version = any ($2)
             limit 100 for update of r skip locked)
           update runs set queued_at = db_now()
           where (workspace_id, run_id) in (
             select workspace_id, run_id from queued union all select workspace_id, run_id from cancelling
             union all select workspace_id, run_id from orphaned)
           returning workspace_id, run_id`,
    values: [options.staleMs, options.carried],
  });
  await queue.send(
    tx,
    rows.map((row) => ({ workspaceId: row.workspace_id, runId: row.run_id })),
  );
  return rows.length;
}
