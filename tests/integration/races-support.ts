/**
 * What the race tests share: two contenders held before the same lock until both queue for it, in a known order.
 *
 * Postgres grants a lock in the order of asking. So the test takes it first, lets one contender come and queue, then the other, and lets
 * go: the interleaving is the worst one, and the same on every machine.
 */
import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';
import { afterAll, beforeAll } from 'vitest';
import { type Attempt, claimRun, type WaitSpec } from '../../src/jobs/engine/attempt.ts';
import type { Wakes } from '../../src/jobs/engine/cancel.ts';
import { type EventAddress, lockKeys, lockRuns } from '../../src/jobs/engine/locks.ts';
import { openQueue, type WakeQueue } from '../../src/jobs/engine/queue.ts';
import type { Workflow } from '../../src/jobs/engine/workflow.ts';
import type { RunRef, Tx } from '../../src/types.ts';
import { type TestDatabase, testLog, until, WORKSPACE } from '../support/database.ts';

/** Each order of a race is tried so often: enough for a plan or a snapshot that differs from try to try. */
export const TRIES = 20;
export const ORDERS = ['first', 'second'] as const;
export type Order = (typeof ORDERS)[number];

/** Call at the top of a file. */
export function useRaces(base: TestDatabase) {
  let queue: WakeQueue | undefined;
  beforeAll(async () => {
    queue = await openQueue(base.db, testLog);
  });
  afterAll(async () => {
    await queue?.close();
  });
  const wakes = (): Wakes => {
    if (!queue) throw new Error('useRaces: not before beforeAll');
    return { queue };
  };
  const blocked = async (): Promise<number> => {
    const { rows } = await base.db.query<{ count: number }>({
      text: `select count(*)::int as count from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'`,
    });
    return rows[0]?.count ?? 0;
  };
  /** Holds what `lock` locks until both stand before it, the one named by `order` in front; how each ended. */
  async function behind<A, B>(
    lock: (tx: Tx) => Promise<unknown>,
    order: Order,
    one: () => Promise<A>,
    other: () => Promise<B>,
  ): Promise<[PromiseSettledResult<A>, PromiseSettledResult<B>]> {
    let a: Promise<A> | undefined;
    let b: Promise<B> | undefined;
    const startOne = () => {
      a = one();
      a.catch(() => undefined);
    };
    const startOther = () => {
      b = other();
      b.catch(() => undefined);
    };
    await base.db.transaction(async (tx) => {
      await lock(tx);
      (order === 'first' ? startOne : startOther)();
      await until('the one in front to queue', async () => (await blocked()) >= 1);
      (order === 'first' ? startOther : startOne)();
      await until('the one behind to queue', async () => (await blocked()) >= 2);
    });
    if (!a || !b) throw new Error('both were started');
    return Promise.allSettled([a, b]) as Promise<[PromiseSettledResult<A>, PromiseSettledResult<B>]>;
  }
  const tx = <T>(body: (open: Tx) => Promise<T>): (() => Promise<T>) => {
    return () => base.db.transaction(body);
  };
  return {
    wakes,
    /** As a contender: `body` in a transaction of its own. */
    tx,
    behindRun: <A, B>(run: RunRef, order: Order, one: () => Promise<A>, other: () => Promise<B>) =>
      behind((open) => lockRuns(open, [run]), order, one, other),
    behindKey: <A, B>(address: EventAddress, order: Order, one: () => Promise<A>, other: () => Promise<B>) =>
      behind((open) => lockKeys(open, [address]), order, one, other),
    /** Wake-ups in the queue. */
    async wakeCount(run: RunRef): Promise<number> {
      const { rows } = await base.db.query<{ count: number }>({
        text: `select count(*)::int as count from pgboss.job where data ->> 'runId' = $1`,
        values: [run.runId],
      });
      return rows[0]?.count ?? 0;
    },
    async forgetWakes(): Promise<void> {
      await base.db.query({ text: 'delete from pgboss.job' });
    },
    /** A process with a lease, as far as the database can tell. */
    async aWorker(aliveMs = 3_600_000): Promise<string> {
      const workerId = crypto.randomUUID();
      await base.db.query({
        text: `insert into workers (worker_id, pid, lease_until) values ($1, 1, db_now() + $2 * interval '1 millisecond')`,
        values: [workerId, aliveMs],
      });
      return workerId;
    },
    claim: async (run: RunRef, flow: Workflow, workerId: string): Promise<Attempt | undefined> => {
      const claimed = await claimRun(base.db, run, workerId, [`${flow.name}@${flow.version}`]);
      if (claimed === 'not-carried') throw new Error('this workflow is carried');
      return claimed;
    },
  };
}

export function at(name: string, key: string): EventAddress {
  return { workspaceId: WORKSPACE, name, key };
}

/** The wait of a body that does `step.waitForEvent('go', { event: 'go', key, timeoutMs })`, as its segment registers it. */
export function waitFor(key: string): WaitSpec {
  return {
    path: 'go',
    kind: 'event',
    inputHash: createHash('sha256')
      .update(canonicalize(['go', key]) ?? '')
      .digest('hex'),
    event: { name: 'go', key },
    due: { afterMs: 3_600_000 },
  };
}

/** What a contender that must not fail came to. */
export function value<T>(result: PromiseSettledResult<T>): T {
  if (result.status === 'rejected') throw result.reason;
  return result.value;
}

/** The code a contender was refused with; null when it was not. */
export function refusal(result: PromiseSettledResult<unknown>): string | null {
  return result.status === 'rejected' ? String((result.reason as { code?: string }).code) : null;
}
