/**
 * Guarantee: what a parent and its children come to at the same moment is one story. A child that ends while its parent is cancelled has
 * either told it first or is cancelled with it; of children that end at once exactly as many win as were asked for, and a loser's result
 * goes nowhere. Both orders of each race are forced, many times.
 */
import { beforeEach, expect, test } from 'vitest';
import { type Attempt, endRun } from '../../src/jobs/engine/attempt.ts';
import { cancelRun } from '../../src/jobs/engine/control.ts';
import { resolveDueWaits } from '../../src/jobs/engine/events.ts';
import type { Workflow } from '../../src/jobs/engine/workflow.ts';
import type { Json, RunRef } from '../../src/types.ts';
import { until, useDatabase } from '../support/database.ts';
import { ORDERS, type Order, refusal, TRIES, useRaces, value } from './races-support.ts';
import { define, useEngines } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun, runRow, ended, emit, childrenOf, journalOf } = useEngines(base);
const races = useRaces(base);
const FOREVER = 3_600_000;

beforeEach(() => races.forgetWakes());

const child = define((step) =>
  step.waitForEvent('hold', { event: 'hold', key: step.runRef.runId, timeoutMs: FOREVER }),
);

interface Family {
  readonly run: RunRef;
  readonly order: Order;
  /** Claimed, and about to end. */
  readonly children: readonly Attempt[];
}

/** Families whose children are at work in a process of the test's, and whose parents wait. */
async function families(parent: Workflow, size: number): Promise<Family[]> {
  const engine = await engineWith([child, parent]);
  await engine.work();
  const runs = await Promise.all(Array.from({ length: 2 * TRIES }, () => startRun(engine, parent)));
  const rows = await Promise.all(
    runs.map((run) =>
      until('all children to wait', async () => {
        const now = await childrenOf(run);
        return now.length === size && now.every((row) => row.status === 'waiting') && now;
      }),
    ),
  );
  for (const run of runs) await ended(run, 'waiting');
  await engine.stop();
  const workerId = await races.aWorker();
  const found: Family[] = [];
  for (const [place, run] of runs.entries()) {
    const children: Attempt[] = [];
    for (const row of rows[place] ?? []) {
      const own = { ...run, runId: row.run_id };
      await emit(engine, 'hold', row.run_id);
      const attempt = await races.claim(own, child, workerId);
      if (!attempt) throw new Error('nobody else claims');
      children.push(attempt);
    }
    found.push({ run, order: ORDERS[place % 2] ?? 'first', children });
  }
  await races.forgetWakes();
  return found;
}

const end = (attempt: Attempt | undefined, output: Json) =>
  races.tx(async (tx) => {
    if (!attempt) throw new Error('no such child');
    await endRun(tx, races.wakes(), attempt, { status: 'completed', output, error: null });
  });

/** Lets a process bring everything to its end. */
async function finish(parent: Workflow, found: readonly Family[]): Promise<void> {
  const engine = await engineWith([child, parent]);
  const all = found.flatMap(({ run, children }) => [run, ...children]);
  await base.db.transaction((tx) => races.wakes().queue.send(tx, all));
  await engine.work();
  for (const { runId, workspaceId } of all)
    await until('everything to end', async () =>
      ['completed', 'failed', 'cancelled'].includes((await runRow({ runId, workspaceId })).status),
    );
}

test('a child ends while its parent is cancelled: it has told it, or it is cancelled with it', async () => {
  const parent = define((step) => step.invoke('child', child, { n: 1 }));
  const found = await families(parent, 1);

  for (const { run, order, children } of found) {
    const [ending, cancel] = await races.behindRun(
      run,
      order,
      end(children[0], 'well'),
      races.tx((tx) => cancelRun(tx, races.wakes(), run, 'not wanted')),
    );

    expect(value(cancel)).toEqual({ changed: true, status: 'cancelling' });
    expect(refusal(ending)).toBe(order === 'first' ? null : 'FENCED');
    expect(await journalOf(run)).toEqual([
      { path: 'child', kind: 'children', outcome: order === 'first' ? 'event' : 'cancelled' },
    ]);
  }
  await finish(parent, found);

  for (const { run, order } of found) {
    expect(await runRow(run)).toMatchObject({ status: 'cancelled', output: null });
    expect(await childrenOf(run)).toMatchObject([
      order === 'first' ? { status: 'completed', output: 'well' } : { status: 'cancelled', output: null },
    ]);
  }
});

test('a child ends as its time is up: its result, or CHILD_TIMEOUT and its cancelling', async () => {
  const parent = define((step) => step.invoke('child', child, { n: 1 }, { timeoutMs: FOREVER / 2 }));
  const found = await families(parent, 1);
  await base.setClock('45 minutes');

  for (const { run, order, children } of found.slice(0, 1)) {
    // All are due at once, so that one race decides; the others are swept along.
    const [ending] = await races.behindRun(
      run,
      order,
      end(children[0], 'well'),
      races.tx((tx) => resolveDueWaits(tx, races.wakes())),
    );
    expect(refusal(ending)).toBe(null);
  }
  await finish(parent, found);

  for (const [place, { run }] of found.entries()) {
    const row = await runRow(run);
    if (place === 0) expect(row).toMatchObject({ status: 'completed', output: 'well' });
    else expect(row).toMatchObject({ status: 'failed', error: { code: 'CHILD_TIMEOUT' } });
    expect((await childrenOf(run)).map(({ status }) => status)).toEqual([
      place === 0 ? 'completed' : 'cancelled',
    ]);
  }
});

test('two children end at once as the last that is needed: one wins, the other is refused', async () => {
  const parent = define((step) =>
    step.first(
      'some',
      2,
      ['a', 'b', 'c'].map((key) => ({ key, workflow: child, input: { n: 1 } })),
    ),
  );
  const found = await families(parent, 3);

  for (const { run, order, children } of found) {
    const [sure, one, other] = children;
    await end(sure, 'sure')();
    expect(await races.wakeCount(run)).toBe(0);
    const results = await races.behindRun(run, order, end(one, 'one'), end(other, 'other'));

    expect(results.map(refusal)).toEqual(order === 'first' ? [null, 'FENCED'] : ['FENCED', null]);
    expect(await races.wakeCount(run)).toBe(1);
  }
  await finish(parent, found);

  for (const { run, order } of found) {
    const { status, output } = await runRow(run);
    expect(status).toBe('completed');
    expect(output).toMatchObject({
      completed: [
        { key: 'a', output: 'sure' },
        order === 'first' ? { key: 'b', output: 'one' } : { key: 'c', output: 'other' },
      ],
      failed: [],
      cancelled: [{ key: order === 'first' ? 'c' : 'b' }],
    });
    expect((await childrenOf(run)).map((row) => row.status)).toEqual(
      order === 'first' ? ['completed', 'completed', 'cancelled'] : ['completed', 'cancelled', 'completed'],
    );
  }
});

test('two children end at once, both needed: both are counted, the parent is woken once', async () => {
  const parent = define((step) =>
    step.first(
      'both',
      2,
      ['a', 'b'].map((key) => ({ key, workflow: child, input: { n: 1 } })),
    ),
  );
  const found = await families(parent, 2);

  for (const { run, order, children } of found) {
    const results = await races.behindRun(run, order, end(children[0], 'one'), end(children[1], 'other'));

    expect(results.map(refusal)).toEqual([null, null]);
    expect(await races.wakeCount(run)).toBe(1);
  }
  await finish(parent, found);

  for (const { run, order } of found)
    expect((await runRow(run)).output).toMatchObject({
      // In the order of ending.
      completed: order === 'first' ? [{ key: 'a' }, { key: 'b' }] : [{ key: 'b' }, { key: 'a' }],
      cancelled: [],
    });
});
