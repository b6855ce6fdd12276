/**
 * The reference workflow of the crash matrix: every primitive of the engine, alone and side by side. Its bodies tell their place to
 * whoever may end the process there.
 *
 * Invariant: what a run returns does not depend on the run, so that any two runs may be compared.
 */
import { z } from 'zod';
import { CountersignError, type ErrorCode } from '../../../src/errors.ts';
import { type Workflow, workflow } from '../../../src/jobs/engine/workflow.ts';
import type { Json, Step } from '../../../src/types.ts';

/** Where a body tells its place: before its effect and after it. */
export type MeetingPoint = 'before' | 'after-effect';

export interface Bodies {
  /** Called by every body before and after its effect. */
  meet(point: MeetingPoint, path: string): Promise<void>;
  /** The path whose effect the body repeats, as a body does that runs again after a crash. */
  readonly twice?: string;
  readonly outsideUrl: string;
}

/**
 * `early` is emitted by the test before the run starts, `late` once the run waits for it, `told` by the run itself, `never` by nobody.
 */
export const EVENTS = {
  early: 'matrix-early',
  late: 'matrix-late',
  told: 'matrix-told',
  never: 'matrix-never',
} as const;

export const MATRIX_TABLE = `
  create table matrix_counters (run_id uuid not null, path text not null, added_count integer not null, primary key (run_id, path))`;

const LONG_MS = 600_000;

/** The workflow `name`, and the one its children run. No two of all their steps have the same path. */
export function reference(name: string, bodies: Bodies): Workflow[] {
  const child = workflow({
    name: `${name}-child`,
    version: 1,
    input: z.object({ key: z.string(), role: z.enum(['only', 'winner', 'loser']) }),
    body: async (step, { key, role }): Promise<Json> => {
      const own = new Place(bodies, step, '', key);
      if (role === 'loser') return own.event('never');
      const worked = await own.effect(`${role}-work`);
      return role === 'winner' ? worked : [worked, await own.count('only-book')];
    },
  });
  const root = workflow({
    name,
    version: 1,
    input: z.object({ key: z.string() }),
    body: async (step, { key }) => {
      const at = (own: Step, prefix: string) => new Place(bodies, own, prefix, key);
      const top = at(step, '');
      const charged = await top.effect('charge');
      const early = await top.event('early');
      const booked = await top.count('book');
      await step.sleep('nap', 60);
      const sides = await Promise.all([
        step.branch('left', async (own) => {
          const left = at(own, 'left/');
          const packed = await left.effect('pack');
          await own.sleep('rest', 40);
          return [packed, await left.count('tally')];
        }),
        step.branch('right', async (own) => {
          const right = at(own, 'right/');
          return [await right.event('late'), await right.effect('ship')];
        }),
      ]);
      const flaky = await top.effect('flaky', { failsFirst: true });
      const refused = await top
        .effect('refused', { refusal: 'TOOL_REFUSED' })
        .catch((error: CountersignError) => error.code);
      const repeated = [await top.effect('repeat'), await top.effect('repeat', { occurrence: 2 })];
      const sent = await step.sendEvent('tell', { event: EVENTS.told, key, payload: 'word of told' });
      const told = await top.event('told');
      await step.sleepUntil('until', new Date(step.now().getTime() + 50));
      const called = await step.invoke('call', child, { key, role: 'only' });
      const picked = await step.first('pick', 1, [
        { key: 'winner', workflow: child, input: { key, role: 'winner' } },
        { key: 'loser', workflow: child, input: { key, role: 'loser' } },
      ]);
      const race = [picked.completed.map(({ output }) => output), picked.cancelled.map((lost) => lost.key)];
      return { charged, early, booked, sides, flaky, refused, repeated, sent, told, called, race };
    },
  });
  return [root, child];
}

interface EffectOptions {
  readonly failsFirst?: boolean;
  readonly refusal?: ErrorCode;
  readonly occurrence?: number;
}

class Place {
  readonly #bodies: Bodies;
  readonly #step: Step;
  readonly #prefix: string;
  readonly #key: string;

  constructor(bodies: Bodies, step: Step, prefix: string, key: string) {
    this.#bodies = bodies;
    this.#step = step;
    this.#prefix = prefix;
    this.#key = key;
  }

  effect(name: string, options: EffectOptions = {}): Promise<string> {
    const { meet, twice, outsideUrl } = this.#bodies;
    const path = `${this.#prefix}${name}${options.occurrence ? `#${options.occurrence}` : ''}`;
    const { runId } = this.#step.runRef;
    return this.#step.run(
      name,
      async (context) => {
        if (options.failsFirst && context.tryNumber === 1) throw new Error('not at the first try');
        await meet('before', path);
        for (let times = twice === path ? 2 : 1; times > 0; times -= 1) {
          const response = await fetch(outsideUrl, {
            method: 'POST',
            body: JSON.stringify({ runId, path, idempotencyKey: context.idempotencyKey }),
            signal: context.signal,
          });
          if (!response.ok) throw new Error(`The outside answered ${response.status}`);
        }
        await meet('after-effect', path);
        if (options.refusal) throw new CountersignError(options.refusal, 'refused for good');
        return `receipt of ${path}`;
      },
      { backoffMs: 20 },
    );
  }

  count(name: string): Promise<number> {
    const path = `${this.#prefix}${name}`;
    return this.#step.transact(name, async (tx) => {
      await this.#bodies.meet('before', path);
      const { rows } = await tx.query<{ added_count: number }>({
        text: `insert into matrix_counters (run_id, path, added_count) values ($1, $2, 1)
               on conflict (run_id, path) do update set added_count = matrix_counters.added_count + 1 returning added_count`,
        values: [this.#step.runRef.runId, path],
      });
      await this.#bodies.meet('after-effect', path);
      return rows[0]?.added_count ?? 0;
    });
  }

  async event(name: keyof typeof EVENTS): Promise<Json> {
    const outcome = await this.#step.waitForEvent(name, {
      event: EVENTS[name],
      key: this.#key,
      timeoutMs: LONG_MS,
    });
    return outcome as unknown as Json;
  }
}
