/**
 * What is done to the engine from outside, by whichever process is asked to: a worker over its channel, or the supervisor itself.
 *
 * Invariant: each may be done again by another process, late or at once: keys and states make it one.
 */
import { toStoredError } from '../../src/errors.ts';
import type { Database } from '../../src/jobs/engine/db.ts';
import type { Engine } from '../../src/jobs/engine/engine.ts';
import type { Json, RunRef } from '../../src/types.ts';
import type { Story } from './plan.ts';
import { EVENT, STORY } from './story.ts';

export const WORKSPACE = 'T0CHAOS';

export type Ask =
  /** Answered with the run's id. `isThrownAway`: an earlier transaction starts it too and is rolled back. */
  | { readonly kind: 'start'; readonly story: Story; readonly isThrownAway: boolean }
  | { readonly kind: 'emit'; readonly key: string; readonly payload: string }
  /** A start in a transaction that is rolled back, and nothing else. */
  | { readonly kind: 'throw-away'; readonly story: Story }
  /** These two are answered with what they changed. */
  | { readonly kind: 'cancel'; readonly runId: string }
  | { readonly kind: 'retry'; readonly runId: string }
  /** Answered when the process holds no run and keeps no slot. */
  | { readonly kind: 'idle' };

export interface Answer {
  readonly runId?: string;
  readonly changed?: boolean;
  /** The run's, after it was steered. */
  readonly status?: string;
}

/** As it crosses the channel, each way. */
export interface Asked {
  readonly askId: number;
  readonly ask: Ask;
}
export interface Answered {
  readonly askId: number;
  readonly answer: Answer | null;
  /** Why there is none. What was asked may be done all the same. */
  readonly failure: string | null;
}

export async function perform(database: Database, engine: Engine, ask: Ask): Promise<Answer> {
  switch (ask.kind) {
    case 'start': {
      if (ask.isThrownAway) await throwAway(database, engine, ask.story);
      return await database.transaction((tx) => engine.start(tx, startOf(ask.story)));
    }
    case 'throw-away':
      await throwAway(database, engine, ask.story);
      return {};
    case 'emit':
      await database.transaction((tx) =>
        engine.emit(tx, { workspaceId: WORKSPACE, name: EVENT, key: ask.key }, ask.payload),
      );
      return {};
    case 'cancel':
      return await database.transaction((tx) => engine.control.cancel(tx, refOf(ask.runId), 'chaos'));
    case 'retry':
      return await database.transaction((tx) => engine.control.retry(tx, refOf(ask.runId)));
    case 'idle':
      await engine.idle();
      return {};
    default:
      return ask satisfies never;
  }
}

export async function answerOf(
  database: Database,
  engine: Engine | undefined,
  { askId, ask }: Asked,
): Promise<Answered> {
  try {
    if (!engine) throw new Error('not at work');
    return { askId, answer: await perform(database, engine, ask), failure: null };
  } catch (error) {
    return { askId, answer: null, failure: toStoredError(error).message };
  }
}

function startOf(story: Story) {
  return {
    workspaceId: WORKSPACE,
    workflowName: STORY,
    input: story as unknown as Json,
    origin: 'signal',
    runKey: story.label,
  };
}

function refOf(runId: string): RunRef {
  return { workspaceId: WORKSPACE, runId };
}

class ThrownAway extends Error {}

async function throwAway(database: Database, engine: Engine, story: Story): Promise<void> {
  try {
    await database.transaction(async (tx) => {
      await engine.start(tx, startOf(story));
      throw new ThrownAway();
    });
  } catch (error) {
    if (!(error instanceof ThrownAway)) throw error;
  }
}
