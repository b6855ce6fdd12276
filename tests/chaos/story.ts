/**
 * The workflow of a chaos run: it plays the parts that its input lists, and returns what each of them told.
 *
 * Invariant: what a part returns can be held, from outside, against the outside world's count, the events and the counters. The effects
 * are written the way FAULTS wants write tools to be: keyed ones repeat under one key; checkable ones write their intent first, and look
 * before they act again, not before an earlier call is too late to arrive.
 */
import { z } from 'zod';
import { CountersignError } from '../../src/errors.ts';
import { type Workflow, workflow } from '../../src/jobs/engine/workflow.ts';
import type { Invocable, Json, Step, StepContext, StepOptions } from '../../src/types.ts';
import { type EffectCall, REFUSED_STATUS } from './outside.ts';
import { branchKey, brokenPlaceOf, childrenAt, nameOf, type Part, RELAY, type Story } from './plan.ts';

export const STORY = 'chaos-story';
/** The name of every event in a chaos run; its key says which. */
export const EVENT = 'chaos';

/**
 * Tables of the story, made by the supervisor as the owner. `chaos_claims` is the judge's: when each fence of a run came to be and when its
 * cancelling began, written by a trigger, so that the engine's own rows need not be believed.
 */
export const STORY_TABLES = `
  create table chaos_counters (run_id uuid not null, place text not null, added_count integer not null, primary key (run_id, place));
  create table chaos_intents (run_id uuid not null, place text not null, expires_at timestamptz not null, primary key (run_id, place));
  create table chaos_claims (run_id uuid not null, fence bigint not null, status text not null, claimed_at timestamptz not null);
  create index on chaos_claims (run_id);
  create function chaos_claimed() returns trigger language plpgsql security definer as $$
  begin
    insert into chaos_claims (run_id, fence, status, claimed_at) values (new.run_id, new.fence, new.status, clock_timestamp());
    return null;
  end $$;
  create trigger chaos_claimed after update of fence, status on runs for each row
    when (old.fence is distinct from new.fence or (new.status = 'cancelling' and old.status <> 'cancelling'))
    execute function chaos_claimed();
`;

/** What a refusing step says. */
export const REFUSED = 'The outside refuses this for good';

/** A call that has not arrived by then is refused by the outside. */
const CALL_MS = 1_500;
/** Longer than any stop: what a stopped process has in hand is still in its hand when it goes on. */
const KEYED_CALL_MS = 20_000;
/** Refusals, lost answers and outages each cost a try; a story must not end for want of them. */
const PATIENT: StepOptions = { maxTries: 100, backoffMs: 40, timeoutMs: 30_000 };
/** The step of onFailure. */
const UNDO = 'undo';
/** Where the journal keeps that the run failed, and what onFailure did. */
export const FAILURE_PLACE = 'on-failure';
export const UNDO_PLACE = `${FAILURE_PLACE}/${UNDO}`;

/** An effect that the story has no choices about. */
const ONE_CALL = { kind: 'effect', mode: 'keyed', refusals: 0, slowMs: 0 } as const;

export function storyWorkflows(outsideUrl: string): Workflow[] {
  const outside = new Caller(outsideUrl);
  const tell = workflow({
    name: STORY,
    version: 1,
    input: z.object({ label: z.string(), parts: z.array(z.custom<Part>()) }),
    body: (step, { label, parts }): Promise<Json> =>
      play({ outside, label, step, prefix: '', child: invocable }, parts),
    onFailure: async (step, { label }) => {
      const stage = { outside, label, step, prefix: '', child: invocable };
      await step.run(UNDO, (context) => effect(stage, UNDO_PLACE, '', ONE_CALL, context), PATIENT);
    },
  });
  // Children are stories too.
  const invocable: Invocable<Story, Json> = {
    name: tell.name,
    version: tell.version,
    body: () => Promise.reject(new Error('named only')),
  };
  return [tell];
}

interface Stage {
  readonly outside: Caller;
  readonly label: string;
  readonly step: Step;
  /** Path of the branch, with its slash. */
  readonly prefix: string;
  readonly child: Invocable<Story, Json>;
}

async function play(stage: Stage, parts: readonly Part[]): Promise<Json[]> {
  const told: Json[] = [];
  for (const [index, part] of parts.entries()) told.push(await playPart(stage, index, part));
  return told;
}

async function playPart(stage: Stage, index: number, part: Part): Promise<Json> {
  const { step, prefix, label } = stage;
  const name = nameOf(part, index);
  const place = `${prefix}${name}`;
  const caught = (error: Error) => error.message;
  switch (part.kind) {
    case 'effect': {
      const token = step.id();
      const receipt = await step.run(name, (context) => effect(stage, place, token, part, context), {
        ...PATIENT,
        input: [part.mode, token],
      });
      return { receipt, token };
    }
    case 'count':
      return step.transact(name, async (tx) => {
        const { rows } = await tx.query<{ added_count: number }>({
          name: 'chaos_count',
          text: `insert into chaos_counters (run_id, place, added_count) values ($1, $2, 1)
                 on conflict (run_id, place) do update set added_count = chaos_counters.added_count + 1 returning added_count`,
          values: [step.runRef.runId, place],
        });
        return rows[0]?.added_count ?? 0;
      });
    case 'event':
      return (await step.waitForEvent(name, {
        event: EVENT,
        key: `${label}/${place}`,
        timeoutMs: part.timeoutMs,
      })) as unknown as Json;
    case 'send':
      // Its relay's other branch is the one before it.
      return step.sendEvent(name, {
        event: EVENT,
        key: `${label}/${prefix.replace(/1\/$/, '0/')}${nameOf(RELAY[0], 0)}`,
        payload: 'relay',
      });
    case 'sleep':
    case 'until': {
      const before = step.now().getTime();
      if (part.kind === 'sleep') await step.sleep(name, part.durationMs);
      else await step.sleepUntil(name, new Date(before + part.durationMs));
      return { sleptMs: step.now().getTime() - before };
    }
    case 'broken':
      return step.run(name, (context) => effect(stage, place, '', ONE_CALL, context, 'broken'), PATIENT);
    case 'failure':
      return step.run(name, refuse);
    case 'refusal':
      return step.run(name, refuse).catch(caught);
    case 'relay':
      return inBranches(
        stage,
        index,
        RELAY.map((inner) => [inner]),
      );
    case 'branches':
      return inBranches(stage, index, part.branches);
    case 'child':
    case 'race': {
      const children = childrenAt(label, place, part).map((child) => ({
        key: child.key,
        workflow: stage.child,
        input: { label: child.label, parts: child.parts },
      }));
      if (part.kind === 'race') return (await step.first(name, part.count, children)) as unknown as Json;
      const [only] = children;
      if (!only) throw new Error('no child');
      const invoked = step.invoke(name, stage.child, only.input);
      // What is to be mended fails all the way up.
      return brokenPlaceOf(only.input.parts) === null ? invoked.catch(caught) : invoked;
    }
    default:
      return part satisfies never;
  }
}

function inBranches(stage: Stage, index: number, branches: readonly (readonly Part[])[]): Promise<Json[]> {
  return Promise.all(
    branches.map((inner, branch) => {
      const key = branchKey(index, branch);
      const prefix = `${stage.prefix}${key}/`;
      return stage.step.branch(key, (step) => play({ ...stage, step, prefix }, inner));
    }),
  );
}

async function effect(
  stage: Stage,
  place: string,
  token: string,
  part: Extract<Part, { kind: 'effect' }>,
  context: StepContext,
  world: 'whole' | 'broken' = 'whole',
): Promise<string> {
  const { runId } = stage.step.runRef;
  const call: EffectCall = {
    runId,
    place,
    label: `${stage.label}/${place}`,
    idempotencyKey: context.idempotencyKey,
    token,
    refusals: part.refusals,
    slowMs: part.slowMs,
    isBroken: world === 'broken',
  };
  if (part.mode === 'keyed') return stage.outside.act('keyed', call, context.signal);

  const intent = await intend(context, runId, place);
  if ('openForMs' in intent)
    throw new CountersignError('TOOL_FAILED', 'An earlier call may still arrive', {
      retryAfterMs: intent.openForMs,
    });
  if (!intent.isFirst) {
    const receipt = await stage.outside.look(runId, place, context.signal);
    if (receipt !== null) return receipt;
  }
  return stage.outside.act('checkable', { ...call, expiresAtMs: intent.expiresAtMs }, context.signal);
}

type Intent =
  | { readonly isFirst: boolean; readonly expiresAtMs: number }
  /** An earlier call may arrive for that long. */
  | { readonly openForMs: number };

/**
 * Writes until when this attempt's call may arrive, unless an earlier call's time is not over. Holds the fence, so that an attempt that
 * lost the run cannot extend its time; whoever is let through looks before acting, except the very first.
 */
function intend(context: StepContext, runId: string, place: string): Promise<Intent> {
  return context.fenced(async (tx) => {
    const { rows } = await tx.query<{ open_ms: number | null }>({
      text: `select extract(epoch from expires_at - db_now())::float8 * 1000 as open_ms from chaos_intents
             where run_id = $1 and place = $2`,
      values: [runId, place],
    });
    const openMs = rows[0]?.open_ms ?? null;
    if (openMs !== null && openMs > 0) return { openForMs: Math.ceil(openMs) };
    const written = await tx.query<{ expires_ms: number }>({
      text: `insert into chaos_intents (run_id, place, expires_at) values ($1, $2, db_now() + $3 * interval '1 millisecond')
             on conflict (run_id, place) do update set expires_at = excluded.expires_at
             returning extract(epoch from expires_at)::float8 * 1000 as expires_ms`,
      values: [runId, place, CALL_MS],
    });
    // Whole milliseconds, rounded down: the outside reads its clock that way.
    return { isFirst: openMs === null, expiresAtMs: Math.floor(written.rows[0]?.expires_ms ?? 0) };
  });
}

function refuse(): Promise<never> {
  return Promise.reject(new CountersignError('TOOL_REFUSED', REFUSED));
}

/** Speaks to the outside. Whatever it does not get a receipt for is thrown as outside trouble, which is retryable. */
class Caller {
  readonly #url: string;

  constructor(url: string) {
    this.#url = url;
  }

  async act(mode: 'keyed' | 'checkable', call: EffectCall, signal: AbortSignal): Promise<string> {
    const { receipt } = await this.#ask(`/${mode}`, signal, mode === 'keyed' ? KEYED_CALL_MS : CALL_MS, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(call),
    });
    if (receipt === null) throw new Error('no receipt');
    return receipt;
  }

  /** What stands there already, null when nothing does. */
  async look(runId: string, place: string, signal: AbortSignal): Promise<string | null> {
    const query = new URLSearchParams({ run: runId, place });
    return (await this.#ask(`/effect?${query}`, signal, CALL_MS, {})).receipt;
  }

  async #ask(
    path: string,
    signal: AbortSignal,
    boundMs: number,
    request: RequestInit,
  ): Promise<{ receipt: string | null }> {
    const response = await fetch(`${this.#url}${path}`, {
      ...request,
      signal: AbortSignal.any([signal, AbortSignal.timeout(boundMs)]),
    });
    if (response.status === REFUSED_STATUS) return refuse();
    if (!response.ok) throw new Error(`The outside answered ${response.status}`);
    return (await response.json()) as { receipt: string | null };
  }
}
