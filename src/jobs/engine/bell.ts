/**
 * The bell: one listening connection per process, shared by everything that wants to be woken.
 *
 * A ring is a hint, never the truth: it may be lost with a connection. Whoever listens also looks by itself after a gap.
 * A ring in a transaction sounds with its commit, or not at all.
 */
import type { Queryable } from '../../types.ts';
import type { Database } from './db.ts';
import { WAKE_CHANNEL } from './queue.ts';

export interface Bell {
  /** Calls `handler` with the whole payload of every ring whose first word is `word`. Handlers must not throw. */
  on(word: string, handler: (payload: string) => void): void;
  /** Called after every (re)connection: rings may have been missed. */
  onGap(handler: () => void): void;
  close(): Promise<void>;
}

/** Rings `payload` (first word: what for) in the caller's transaction, or at once on a pool. */
export async function ring(target: Queryable, payload: string): Promise<void> {
  await target.query({
    name: 'bell_ring',
    text: `select pg_notify('${WAKE_CHANNEL}', $1)`,
    values: [payload],
  });
}

/** Rings each of `payloads`, in one statement. */
export async function ringAll(target: Queryable, payloads: readonly string[]): Promise<void> {
  if (payloads.length === 0) return;
  await target.query({
    name: 'bell_ring_all',
    text: `select pg_notify('${WAKE_CHANNEL}', payload) from unnest($1::text[]) as payload`,
    values: [payloads],
  });
}

export async function openBell(database: Database): Promise<Bell> {
  const handlers = new Map<string, ((payload: string) => void)[]>();
  const gapHandlers: (() => void)[] = [];
  const listener = await database.listen(
    WAKE_CHANNEL,
    (payload) => {
      const word = payload.split(' ', 1)[0] ?? '';
      for (const handler of handlers.get(word) ?? []) handler(payload);
    },
    () => {
      for (const handler of gapHandlers) handler();
    },
  );
  return {
    on(word, handler) {
      handlers.set(word, [...(handlers.get(word) ?? []), handler]);
    },
    onGap(handler) {
      gapHandlers.push(handler);
    },
    close: () => listener.close(),
  };
}
