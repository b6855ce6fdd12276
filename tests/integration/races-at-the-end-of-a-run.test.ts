/**
 * Guarantee: when a run has ended nothing of it waits and nothing works for it, also when one of its branches was registering a wait or
 * starting a child at that very moment. What the branch writes commits before the end and is closed by it, or does not commit.
 *
 * The end is made to queue behind the branch's transaction: a statement that began before it sees nothing of what it brings.
 */
import { expect, test } from 'vitest';
import type { Database } from '../../src/jobs/engine/db.ts';
import type { Tx } from '../../src/types.ts';
import { until, useDatabase } from '../support/database.ts';
import { define, useEngines } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun, ended, childrenOf, journalOf } = useEngines(base);
const FOREVER = 3_600_000;

/** Once, the transaction that runs the statement `name` is kept from committing until somebody queues for a lock, or half a second. */
function keptOpen(name: string): { database: () => Database; open: Promise<void> } {
  const open = Promise.withResolvers<void>();
  let kept = false;
  const somebodyQueues = () =>
    until(
      'the end to queue',
      async () => {
        const { rowCount } = await base.db.query({
          text: `select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
        });
        return rowCount > 0;
      },
      500,
    ).catch(() => undefined);
  return {
    open: open.promise,
    database: () => ({
      ...base.db,
      transaction: (body) =>
        base.db.transaction(async (tx) => {
          let here = false;
          const watching: Tx = {
            afterCommit: (callback) => tx.afterCommit(callback),
            afterRollback: (callback) => tx.afterRollback(callback),
            query: (statement) => {
              here ||= statement.name === name;
              return tx.query(statement);
            },
          };
          const result = await body(watching);
          if (here && !kept) {
            kept = true;
            open.resolve();
            await somebodyQueues();
          }
          return result;
        }),
    }),
  };
}

function untilAborted({ signal }: { readonly signal: AbortSignal }): Promise<void> {
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve()));
}

test('a branch that registers a wait as the run ends leaves none open', async () => {
  const { database, open } = keptOpen('waits_register');
  const flow = define(async (step) => {
    await Promise.race([
      step.branch('left', (own) =>
        own.waitForEvent('hold', { event: 'hold', key: own.runRef.runId, timeoutMs: FOREVER }),
      ),
      // Beside a step in flight, a wait is registered at once and not with a park.
      step.branch('right', (own) => own.run('busy', untilAborted)),
      open,
    ]);
    return 'done';
  });
  const engine = await engineWith([flow], { database: database(), suspendAfterEveryStep: false });
  await engine.work();

  const run = await startRun(engine, flow);

  await ended(run, 'completed');
  await engine.idle();
  expect((await journalOf(run)).filter((row) => row.outcome === null && row.kind === 'event')).toEqual([]);
});

test('a branch that starts a child as the run ends leaves none at work', async () => {
  const { database, open } = keptOpen('children_wait_register');
  const child = define((step) =>
    step.waitForEvent('hold', { event: 'hold', key: step.runRef.runId, timeoutMs: FOREVER }),
  );
  const flow = define(async (step) => {
    await Promise.race([step.branch('left', (own) => own.invoke('child', child, { n: 1 })), open]);
    return 'done';
  });
  const engine = await engineWith([child, flow], { database: database(), suspendAfterEveryStep: false });
  await engine.work();

  const run = await startRun(engine, flow);

  await ended(run, 'completed');
  await engine.idle();
  expect((await journalOf(run)).filter((row) => row.outcome === null && row.kind === 'children')).toEqual([]);
  await until('the child to be cancelled', async () =>
    (await childrenOf(run)).every((row) => row.status === 'cancelled'),
  );
});
