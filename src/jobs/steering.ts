/**
 * A person's word on a run, recorded: the engine's control with the ledger entry and the task's message beside it. Owns no table.
 *
 * Invariant (law 12): a word that changed something and its entry are one transaction; one that changed nothing leaves no entry.
 *
 * Lock order: what the word locks (event keys -> the run and those below it -> what follows from cancelling) -> task -> deliveries -> ledger.
 */
import type { RunRef, Tx } from '../types.ts';
import type { Steered } from './engine/control.ts';
import type { Control } from './engine/engine.ts';
import { readStanding } from './engine/inspect.ts';
import { appendEntry, type EntryKind } from './ledger.ts';
import { noteSteered } from './tasks.ts';

export type SteerWord = 'cancel' | 'pause' | 'resume' | 'retry';

const ENTRY_OF: Readonly<Record<SteerWord, EntryKind>> = {
  cancel: 'run.cancelled',
  pause: 'run.paused',
  resume: 'run.resumed',
  retry: 'run.retried',
};

export interface SteeredBy {
  /** Who: `cli/<name on that machine>`, or for a person in Slack `<team id>/<user id>`. An id, no words. */
  readonly by: string;
  /** In the person's words; null when none were given. They can be erased from the ledger. */
  readonly reason: string | null;
}

/** `retriedFrom`: the step that a retry goes on from; null of any other word, and where no step but the body or its worker had failed. */
export interface SteeredByPerson extends Steered {
  readonly retriedFrom: string | null;
}

/**
 * Passes a person's word to a run, of any process. When it changed something, its task's message is redrawn and an entry on the run appended.
 * Joins the caller's transaction, which holds no locks yet. Repeatable as `control` is: a second word finds nothing to change. Throws
 * RUN_NOT_FOUND. Whether that person may is the caller's question.
 */
export async function steer(
  tx: Tx,
  control: Control,
  run: RunRef,
  word: SteerWord,
  { by, reason }: SteeredBy,
): Promise<SteeredByPerson> {
  // Not under a lock: a retry locks event keys first. Whether it is what the retry found is checked below.
  const before = word === 'retry' ? await readStanding(tx, run) : null;
  const steered =
    word === 'cancel'
      ? await control.cancel(tx, run, reason ?? `Cancelled by ${by}`)
      : await control[word](tx, run);
  if (!steered.changed) return { ...steered, retriedFrom: null };
  const after = before && (await readStanding(tx, run));
  const retriedFrom =
    before !== null && after?.retryCount === before.retryCount + 1 && before.status === 'failed'
      ? before.failedPath
      : null;
  await noteSteered(tx, run, word);
  await appendEntry(tx, {
    workspaceId: run.workspaceId,
    subjectKind: 'run',
    subjectId: run.runId,
    kind: ENTRY_OF[word],
    facts: { by, status: steered.status, ...(retriedFrom === null ? {} : { from: retriedFrom }) },
    ...(reason === null ? {} : { words: { reason } }),
  });
  return { ...steered, retriedFrom };
}
