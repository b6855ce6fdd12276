/**
 * What the local GitHub's `/_control` offers the tests: a list of every write that arrived, and faults to order.
 *
 * Invariant: a fault takes effect at most `times` times, in the order the faults were ordered; the list names every
 * non-GET request once, whether or not it was performed. Faults are not persisted: they are orders to this process.
 */
import { setTimeout as pause } from 'node:timers/promises';

export type FaultKind = 'drop-before' | 'drop-after' | 'status' | 'hold';

/** `pathPattern` is a regular expression over the path without its query; a missing matcher matches everything. */
export interface FaultOrder {
  readonly match?: { readonly method?: string; readonly pathPattern?: string };
  /** How often, default `1`. */
  readonly times?: number;
  /** `hold` performs the request and keeps the reply until `/_control/release`, or until the client leaves. */
  readonly kind: FaultKind;
  /** For `status`, default `503`. */
  readonly status?: number;
  /** Waits this long before doing anything. */
  readonly delayMs?: number;
}

export interface Write {
  readonly seq: number;
  readonly method: string;
  readonly path: string;
  readonly body: unknown;
  /** Null when the request was cut before it was performed. */
  readonly status: number | null;
  readonly performed: boolean;
  readonly fault: FaultKind | null;
  readonly at: string;
}

const KINDS: readonly FaultKind[] = ['drop-before', 'drop-after', 'status', 'hold'];

export class Faults {
  #orders: { order: FaultOrder; left: number }[] = [];
  #held = new Set<() => void>();

  /** Throws a line naming what is wrong with the order. */
  add(order: unknown): void {
    const { kind, times, match } = (order ?? {}) as Partial<FaultOrder>;
    if (!kind || !KINDS.includes(kind)) throw new Error(`kind must be one of ${KINDS.join(', ')}`);
    if (match?.pathPattern !== undefined) new RegExp(match.pathPattern);
    this.#orders.push({ order: order as FaultOrder, left: times ?? 1 });
  }

  clear(): void {
    this.#orders = [];
    this.release();
  }

  get pending(): readonly FaultOrder[] {
    return this.#orders.map((each) => ({ ...each.order, times: each.left }));
  }

  get heldCount(): number {
    return this.#held.size;
  }

  /** Uses up the first fault that matches. */
  async take(method: string, path: string): Promise<FaultOrder | null> {
    const found = this.#orders.find(
      ({ order: { match } }) =>
        (match?.method === undefined || match.method.toUpperCase() === method) &&
        (match?.pathPattern === undefined || new RegExp(match.pathPattern).test(path)),
    );
    if (!found) return null;
    found.left -= 1;
    if (found.left <= 0) this.#orders = this.#orders.filter((each) => each !== found);
    if (found.order.delayMs) await pause(found.order.delayMs);
    return found.order;
  }

  /** Resolves at the next release or when `left` fires. */
  async hold(left: AbortSignal): Promise<void> {
    if (left.aborted) return;
    await new Promise<void>((resolve) => {
      const done = () => {
        this.#held.delete(done);
        resolve();
      };
      this.#held.add(done);
      left.addEventListener('abort', done, { once: true });
    });
  }

  release(): void {
    for (const done of [...this.#held]) done();
  }
}
