/**
 * A `Step` in memory: a journal map and the replay rules of DESIGN §4, for tests of plain functions over steps. It
 * hides the engine; it keeps its promises about keys (path, occurrence within a branch, ambiguity) and stored results.
 */
import { createHash } from 'node:crypto';
import { CountersignError, toStoredError } from '../../src/errors.ts';
import type { Step, StepContext, StepOptions } from '../../src/types.ts';

type Entry =
  | { readonly ok: true; readonly value: string | undefined; readonly input: string }
  | { readonly ok: false; readonly code: string; readonly message: string; readonly input: string };

/** What survives a crash. `bodies` lists the keys whose bodies ran, in order, tries included. */
export class MemoryJournal {
  readonly entries = new Map<string, Entry>();
  readonly bodies: string[] = [];

  /** Forgets everything recorded from the n-th entry on, as if the process had died there. */
  truncate(keep: number): void {
    for (const key of [...this.entries.keys()].slice(keep)) this.entries.delete(key);
  }
}

/** A step over `journal`: a new one for each attempt. `signal` fires in every step body. */
export function memoryStep(journal: MemoryJournal, signal: AbortSignal = new AbortController().signal): Step {
  return branchStep(journal, signal, '');
}

function branchStep(journal: MemoryJournal, signal: AbortSignal, path: string): Step {
  const occurrences = new Map<string, number>();
  const inFlight = new Set<string>();

  const run = async <T>(
    name: string,
    body: (context: StepContext) => Promise<T>,
    options: StepOptions = {},
  ): Promise<T> => {
    if (inFlight.has(name)) throw new CountersignError('STEP_NAME_AMBIGUOUS', name);
    inFlight.add(name);
    try {
      const place = (occurrences.get(name) ?? 0) + 1;
      occurrences.set(name, place);
      const key = `${path}${name}#${place}`;
      const input = JSON.stringify(options.input ?? null);
      let entry = journal.entries.get(key);
      if (entry !== undefined && entry.input !== input) throw new CountersignError('JOURNAL_MISMATCH', key);
      if (entry === undefined) {
        entry = await perform(key, input, body, options.maxTries ?? 5);
        journal.entries.set(key, entry);
      }
      if (!entry.ok) throw new CountersignError(entry.code as 'TOOL_FAILED', entry.message);
      return (entry.value === undefined ? undefined : JSON.parse(entry.value)) as T;
    } finally {
      inFlight.delete(name);
    }
  };

  const perform = async <T>(
    key: string,
    input: string,
    body: (context: StepContext) => Promise<T>,
    maxTries: number,
  ): Promise<Entry> => {
    for (let tryNumber = 1; ; tryNumber += 1) {
      journal.bodies.push(key);
      try {
        const value = await body({
          signal,
          tryNumber,
          idempotencyKey: key,
          fenced: () => Promise.reject(new Error('No database here.')),
        });
        return { ok: true, value: JSON.stringify(value), input };
      } catch (error) {
        const stored = toStoredError(error);
        if (stored.code === 'FENCED' || stored.code === 'RUN_CANCELLED') throw error;
        if (stored.errorClass === 'terminal' || tryNumber >= maxTries) return { ok: false, ...stored, input };
      }
    }
  };

  return {
    runRef: { workspaceId: 'T1', runId: 'run-1' },
    run,
    transact: () => Promise.reject(new Error('No database here.')),
    waitForEvent: () => Promise.reject(new Error('No waits here.')),
    sleep: () => Promise.reject(new Error('No waits here.')),
    sleepUntil: () => Promise.reject(new Error('No waits here.')),
    sendEvent: () => Promise.reject(new Error('No events here.')),
    invoke: () => Promise.reject(new Error('No other runs here.')),
    first: () => Promise.reject(new Error('No other runs here.')),
    branch: (key, body) => body(branchStep(journal, signal, `${path}${key}/`)),
    now: () => new Date(0),
    id: () => createHash('sha256').update(path).digest('hex'),
    random: () => 0.5,
  };
}
