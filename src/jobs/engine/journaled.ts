/**
 * What one attempt remembers of its run's journal: what is finished, which waits stand open, and which entries a retry passes over.
 *
 * Invariant: what the code asks for and what was journaled are the same kind of thing with the same input, or the run is parked.
 */
import { CountersignError } from '../../errors.ts';
import type { JournalEntry } from './attempt.ts';

export class Journaled {
  readonly #entries = new Map<string, JournalEntry>();
  /** Waits that stood open when this attempt began. */
  readonly #open = new Set<string>();
  readonly #retried: ReadonlySet<string>;

  constructor(retried: readonly string[]) {
    this.#retried = new Set(retried);
  }

  read(entries: readonly JournalEntry[], open: readonly { readonly path: string }[]): void {
    for (const { path } of open) this.#open.add(path);
    for (const entry of entries) if (!this.#retried.has(entry.path)) this.add(entry);
  }

  add(entry: JournalEntry): void {
    this.#entries.set(entry.path, entry);
  }

  entry(path: string): JournalEntry | undefined {
    return this.#entries.get(path);
  }

  /** Where the journal keeps what the body asks for at `path`: elsewhere when that step is being retried. */
  placeOf(path: string): string {
    let place = path;
    for (let generation = 2; this.#retried.has(place); generation += 1) place = `${path}@${generation}`;
    return place;
  }

  /** A finished entry. Throws JOURNAL_MISMATCH when the code asks for something else than was journaled. */
  recall(path: string, kind: string, inputHash: string | null): JournalEntry | undefined {
    const entry = this.#entries.get(path);
    if (entry && (entry.kind !== kind || entry.inputHash !== inputHash))
      throw new CountersignError(
        'JOURNAL_MISMATCH',
        `Step ${path} was journaled as another ${entry.kind === kind ? 'input' : 'kind'}`,
      );
    return entry;
  }

  /** How often a step was tried and backed off already. */
  triesBefore(path: string): number {
    let tries = 0;
    while (this.#entries.has(`${path}~${tries + 1}`)) tries += 1;
    return tries;
  }

  /** The backoff that an earlier attempt began after its last try of a step and that is not over; it is registered. */
  openBackoff(path: string): string | undefined {
    const backoff = `${path}~${this.triesBefore(path) + 1}`;
    return this.#open.has(backoff) ? backoff : undefined;
  }
}
