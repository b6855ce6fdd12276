/**
 * The loop of a table whose due rows are worked off: looks when the bell rings, after a gap, at a steady pace, when a row finishes and
 * when the next one falls due; keeps at most so many rows in flight.
 *
 * Invariants. A row that hangs holds its own slot and nothing else. A ring during a look leads to another look. Nothing here is the
 * truth: which rows are due, and whose they are, the claim decides.
 */
import { toStoredError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Bell } from './engine/bell.ts';
import { backoffMs } from './engine/branch.ts';

/** Soonest look for a row that is due but was not handed out: another process may hold its lock for a moment. */
const MIN_PAUSE_MS = 10;
/** Longest pause between two tries, whatever the doubling says: people wait for these rows. */
const MAX_BACKOFF_MS = 60_000;

export interface LoopOptions<Row> {
  /** For log lines. */
  readonly name: string;
  readonly bell: Bell;
  /** The bell's word that says there may be rows. */
  readonly word: string;
  /** What a lost ring left behind is found at this pace. */
  readonly sweepMs: number;
  /** Most rows in flight in this process. */
  readonly slots: number;
  /** Takes at most `free` due rows for this process, in the order in which they are to begin. May throw: looked again at the next sweep. */
  readonly claim: (free: number) => Promise<Row[]>;
  /** Works one row to its end and records that; what it throws is logged, and the row waits until its claim is open again. */
  readonly work: (row: Row) => Promise<void>;
  /** Milliseconds until the next row falls due or its claim runs out; undefined when none will. */
  readonly nextMs: () => Promise<number | undefined>;
  readonly log: Logger;
}

export interface Loop {
  /** Takes no more rows and resolves when those in flight have ended. */
  stop(): Promise<void>;
}

/** Works rows off in this process until stopped. Any number of processes may, over the same table. */
export function startLoop<Row>(options: LoopOptions<Row>): Loop {
  const { bell, log, name } = options;
  const running = new Set<Promise<void>>();
  let stopped = false;
  let again = false;
  let looking: Promise<void> | undefined;
  let timer: NodeJS.Timeout | undefined;

  const look = (): void => {
    if (stopped) return;
    again = true;
    looking ??= takeAll()
      .catch((error: unknown) =>
        log.warn({ loop: name, error: toStoredError(error) }, 'rows cannot be read, will be retried'),
      )
      .finally(() => {
        looking = undefined;
        if (again) look();
      });
  };
  const takeAll = async (): Promise<void> => {
    while (again && !stopped) {
      again = false;
      const free = options.slots - running.size;
      // The first row to finish looks again.
      if (free === 0) return;
      const rows = await options.claim(free);
      for (const row of rows) begin(row);
      if (again) continue;
      // As above: and the question below reads every row that waits, which a long backlog cannot afford once per row.
      if (rows.length >= free) return;
      const nextMs = await options.nextMs();
      clearTimeout(timer);
      if (nextMs !== undefined && !stopped)
        timer = setTimeout(look, Math.min(options.sweepMs, Math.max(MIN_PAUSE_MS, nextMs)));
    }
  };
  const begin = (row: Row): void => {
    const work = options
      .work(row)
      .catch((error: unknown) =>
        log.warn({ loop: name, error: toStoredError(error) }, 'a row failed and could not say so'),
      )
      .finally(() => {
        running.delete(work);
        look();
      });
    running.add(work);
  };

  bell.on(options.word, look);
  bell.onGap(look);
  const sweep = setInterval(look, options.sweepMs);
  look();
  return {
    async stop() {
      stopped = true;
      again = false;
      clearInterval(sweep);
      clearTimeout(timer);
      await looking;
      await Promise.all(running);
    },
  };
}

/**
 * The pause before a row's next try: `firstMs`, doubled with jitter, at most a minute; never shorter than `askedMs`, which the outside
 * world asked for.
 */
export function pauseMs(firstMs: number, tryCount: number, askedMs: number | undefined): number {
  return Math.max(askedMs ?? 0, Math.min(MAX_BACKOFF_MS, backoffMs(firstMs, tryCount, undefined)));
}
