/**
 * Runs from outside an attempt: starting them, and finding those whose wake-up was lost. What an attempt writes is in attempt.ts, what ends
 * waits in events.ts, what people do to runs in control.ts.
 *
 * Invariant: a run and its first wake-up commit together, and two starts under one key are one run.
 */
import { randomUUIDv7 } from 'node:crypto';
import type { Json, Person, Queryable, RunRef, Statement, Tx, WorkspaceId } from '../../types.ts';
import { cancelRuns, type Wakes } from './cancel.ts';
import { type EventAddress, lockKeys } from './locks.ts';
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
  readonly cancelOn?: readonly { readonly event: string; readonly key: string }[];
  /** Set for a child: its id follows from the parent, and owner and audience are the parent's. */
  readonly child?: { readonly runId: string; readonly parent: ParentRef; readonly key: string };
}

/** Where a child run hangs: its parent, the parent's depth, and the step that started it. */
export interface ParentRef extends RunRef {
  readonly depth: number;
  readonly path: string;
}

/** `insertRun` in one statement that commits by itself: for a start that has neither key nor cancelling events. */
export async function insertRunAlone(
  db: Queryable,
  wakes: Wakes,
  start: Omit<StartRun, 'runKey' | 'cancelOn' | 'child'>,
): Promise<RunRef> {
  const run = { workspaceId: start.workspaceId, runId: randomUUIDv7() };
  await wakes.queue.send(db, [run], insertRoots([{ start, runId: run.runId }]));
  return run;
}

/** `insertRuns` for one. */
export async function insertRun(tx: Tx, wakes: Wakes, start: StartRun): Promise<RunRef> {
  const [run] = await insertRuns(tx, wakes, [start]);
  if (!run) throw new Error('one start gives one run');
  return run;
}

/**
 * Inserts runs and their first wake-ups in the caller's transaction. A second start under one key changes nothing and returns the first
 * run. A run whose cancelling event was emitted earlier begins as cancelling. With `cancelOn`, call before locking runs: event keys come first.
 */
export async function insertRuns(tx: Tx, wakes: Wakes, starts: readonly StartRun[]): Promise<RunRef[]> {
  const planned = starts.map((start) => ({ start, runId: start.child?.runId ?? randomUUIDv7() }));
  await lockKeys(
    tx,
    planned.flatMap(({ start }) => cancelAddresses(start)),
  );
  const insert = starts.some((start) => start.child) ? insertChildren(planned) : insertRoots(planned);
  const refs = planned.map(({ start, runId }) => ({ workspaceId: start.workspaceId, runId }));
  // Without a key nothing can be there already.
  if (starts.every((start) => start.runKey === undefined)) {
    await wakes.queue.send(tx, refs, insert);
    for (const [place, start] of starts.entries()) {
      const run = refs[place];
      if (run && start.cancelOn?.length) await awaitCancelling(tx, wakes, run, start.cancelOn, '');
    }
    return refs;
  }
  const { rows } = await tx.query<{ run_id: string }>(insert);
  const inserted = new Set(rows.map((row) => row.run_id));
  const fresh = planned.filter(({ runId }) => inserted.has(runId));
  await wakes.queue.send(
    tx,
    fresh.map(({ start, runId }) => ({ workspaceId: start.workspaceId, runId })),
  );
  for (const { start, runId } of fresh)
    if (start.cancelOn?.length)
      await awaitCancelling(tx, wakes, { workspaceId: start.workspaceId, runId }, start.cancelOn, '');
  const runs: RunRef[] = [];
  for (const { start, runId } of planned)
    runs.push({
      workspaceId: start.workspaceId,
      runId: inserted.has(runId) ? runId : ((await runUnderKey(tx, start)) ?? runId),
    });
  return runs;
}

interface Planned {
  readonly start: StartRun;
  readonly runId: string;
}

function insertRoots(planned: readonly Planned[]): Statement {
  return {
    name: 'runs_insert',
    text: `insert into runs (workspace_id, run_id, workflow_name, workflow_version, input, origin, run_key, owner_team_id, owner_user_id,
             audience)
           select * from unnest($1::text[], $2::uuid[], $3::text[], $4::int[], $5::json[], $6::text[], $7::text[], $8::text[], $9::text[],
             $10::text[])
           on conflict do nothing
           returning run_id`,
    values: [
      ...commonValues(planned),
      planned.map(({ start }) => start.runKey ?? null),
      planned.map(({ start }) => start.owner?.teamId ?? null),
      planned.map(({ start }) => start.owner?.userId ?? null),
      planned.map(({ start }) => start.audience ?? null),
    ],
  };
}

/** A statement of its own, because the look at the parent has no place in the hottest one. All have the same parent. */
function insertChildren(planned: readonly Planned[]): Statement {
  const parent = planned[0]?.start.child?.parent;
  return {
    name: 'children_insert',
    text: `insert into runs (workspace_id, run_id, workflow_name, workflow_version, input, origin, owner_team_id, owner_user_id,
             audience, depth, parent_run_id, parent_path, child_key)
           select n.workspace_id, n.run_id, n.workflow_name, n.workflow_version, n.input, n.origin, p.owner_team_id, p.owner_user_id,
             p.audience, p.depth + 1, p.run_id, $8, n.child_key
           from runs p, unnest($1::text[], $2::uuid[], $3::text[], $4::int[], $5::json[], $6::text[], $7::text[])
             as n (workspace_id, run_id, workflow_name, workflow_version, input, origin, child_key)
           where p.workspace_id = $9 and p.run_id = $10
           on conflict do nothing
           returning run_id`,
    values: [
      ...commonValues(planned),
      planned.map(({ start }) => start.child?.key ?? null),
      parent?.path ?? null,
      parent?.workspaceId ?? null,
      parent?.runId ?? null,
    ],
  };
}

function commonValues(planned: readonly Planned[]): unknown[] {
  return [
    planned.map(({ start }) => start.workspaceId),
    planned.map(({ runId }) => runId),
    planned.map(({ start }) => start.workflowName),
    planned.map(({ start }) => start.workflowVersion),
    planned.map(({ start }) => JSON.stringify(start.input)),
    planned.map(({ start }) => start.origin),
  ];
}

async function runUnderKey(tx: Tx, start: StartRun): Promise<string | undefined> {
  const { rows } = await tx.query<{ run_id: string }>({
    text: 'select run_id from runs where workspace_id = $1 and run_key = $2',
    values: [start.workspaceId, start.runKey ?? null],
  });
  return rows[0]?.run_id;
}

function cancelAddresses(start: StartRun): EventAddress[] {
  return (start.cancelOn ?? []).map(({ event, key }) => ({
    workspaceId: start.workspaceId,
    name: event,
    key,
  }));
}

/**
 * Registers the events that cancel a run; one that is there already cancels it now. The caller has locked their keys. `generation` tells
 * the registrations of a retried run from the ones that were closed.
 */
export async function awaitCancelling(
  tx: Tx,
  wakes: Wakes,
  run: RunRef,
  cancelOn: readonly { readonly event: string; readonly key: string }[],
  generation: string,
): Promise<void> {
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

/** How long an orphaned run is left to the one who takes it up before somebody else is woken for it. */
const ORPHAN_RESEND_MS = 2_000;

/**
 * Finds runs whose wake-up was lost: queued for longer than `staleMs`, cancelling with nobody at work and nothing to wait for, or held by a
 * worker whose lease has ended. They get a new wake-up, each from one sweeper. Only runs of a workflow in `carried` (`name@version`): the
 * builds that carry the others send theirs. With `busy` only the orphaned ones: a queue that is not empty has lost nothing.
 */
export async function resendLost(
  tx: Tx,
  queue: WakeQueue,
  options: { readonly staleMs: number; readonly carried: readonly string[]; readonly busy: boolean },
): Promise<number> {
  const { rows } = await tx.query<{ workspace_id: string; run_id: string }>({
    name: 'runs_lost',
    text: `with queued as (
             select workspace_id, run_id from runs
             where status = 'queued' and not $3 and queued_at < db_now() - $1 * interval '1 millisecond'
               and workflow_name || '@' || workflow_version = any ($2)
             order by queued_at limit 100 for update skip locked),
           cancelling as (
             select workspace_id, run_id from runs r
             where status = 'cancelling' and worker_id is null and not $3 and queued_at < db_now() - $1 * interval '1 millisecond'
               and workflow_name || '@' || workflow_version = any ($2)
               and not exists (
                 select 1 from waits w where w.workspace_id = r.workspace_id and w.run_id = r.run_id and w.outcome is null)
             limit 100 for update skip locked),
           orphaned as (
             select workspace_id, run_id from runs r
             where status in ('running', 'cancelling') and worker_id is not null
               and queued_at < db_now() - ${ORPHAN_RESEND_MS} * interval '1 millisecond'
               and workflow_name || '@' || workflow_version = any ($2)
               and not exists (select 1 from workers w where w.worker_id = r.worker_id and w.lease_until > db_now())
             limit 100 for update skip locked)
           update runs set queued_at = db_now()
           where (workspace_id, run_id) in (
             select workspace_id, run_id from queued union all select workspace_id, run_id from cancelling
             union all select workspace_id, run_id from orphaned)
           returning workspace_id, run_id`,
    values: [options.staleMs, options.carried, options.busy],
  });
  await queue.send(
    tx,
    rows.map((row) => ({ workspaceId: row.workspace_id, runId: row.run_id })),
  );
  return rows.length;
}
