/**
 * Guarantee: a run may start runs and wait for them. A child is started once whatever happens to its parent, its result and its failure
 * reach the parent, and of several the first so many count: the others are cancelled in the transaction that stores the winners, and what
 * a cancelled one had sent already is named.
 */
import { describe, expect, test } from 'vitest';
import { CountersignError } from '../../src/errors.ts';
import type { Json } from '../../src/types.ts';
import { until, useDatabase } from '../support/database.ts';
import { define, useEngines } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun, ended, emit, childrenOf, journalOf } = useEngines(base);

const forever = 3_600_000;

describe('invoke', () => {
  test('gives the parent what the child returned, typed, and starts it once however often the parent is replayed', async () => {
    let bodies = 0;
    const child = define(async (step, { n }) => ({
      doubled: await step.run('double', async () => {
        bodies += 1;
        return n * 2;
      }),
    }));
    const parent = define(async (step) => {
      const { doubled } = await step.invoke('child', child, { n: 21 });
      await step.sleep('nap', 20);
      const again = await step.invoke('child', child, { n: doubled });
      return [doubled, again.doubled];
    });
    const engine = await engineWith([child, parent]);
    await engine.work();

    const run = await startRun(engine, parent);

    expect((await ended(run, 'completed')).output).toEqual([42, 84]);
    expect(bodies).toBe(2);
    expect((await childrenOf(run)).map((row) => row.status)).toEqual(['completed', 'completed']);
  });

  test("a child's failure reaches the parent by its code, and is the same on a replay", async () => {
    const seen: string[] = [];
    const child = define(async (step) => {
      await step.run('refused', () => Promise.reject(new CountersignError('TOOL_REFUSED', 'no')));
    });
    const parent = define(async (step) => {
      try {
        await step.invoke('child', child, { n: 1 });
      } catch (error) {
        seen.push(error instanceof CountersignError ? `${error.code} ${error.errorClass}` : String(error));
      }
      await step.sleep('nap', 10);
      return 'caught';
    });
    const engine = await engineWith([child, parent]);
    await engine.work();

    const run = await startRun(engine, parent);

    expect((await ended(run, 'completed')).output).toBe('caught');
    expect(new Set(seen)).toEqual(new Set(['TOOL_REFUSED terminal']));
  });

  test("an input that the child's schema refuses fails the call, and no child is started", async () => {
    const child = define(async () => null);
    const parent = define((step) => step.invoke('child', child, { n: 'one' } as unknown as { n: number }));
    const engine = await engineWith([child, parent]);
    await engine.work();

    const run = await startRun(engine, parent);

    expect((await ended(run, 'failed')).error?.code).toBe('WORKFLOW_INPUT_INVALID');
    expect(await childrenOf(run)).toEqual([]);
  });

  test('a child that is not done in time is cancelled, and the parent hears CHILD_TIMEOUT', async () => {
    const child = define((step) =>
      step.waitForEvent('never', { event: 'never', key: 'never', timeoutMs: forever }),
    );
    const parent = define((step) => step.invoke('child', child, { n: 1 }, { timeoutMs: 50 }));
    const engine = await engineWith([child, parent]);
    await engine.work();

    const run = await startRun(engine, parent);

    expect((await ended(run, 'failed')).error).toMatchObject({ code: 'CHILD_TIMEOUT' });
    await until('the child to be cancelled', async () => (await childrenOf(run))[0]?.status === 'cancelled');
  });

  test('runs nest so deep and no deeper', async () => {
    const nested: ReturnType<typeof define> = define(
      async (step, { n }): Promise<Json> =>
        n === 0 ? 'ground' : ((await step.invoke('down', nested, { n: n - 1 })) as Json),
      'nested',
    );
    const engine = await engineWith([nested]);
    await engine.work();

    const deep = await startRun(engine, nested, 8);
    const tooDeep = await startRun(engine, nested, 9);

    expect((await ended(deep, 'completed')).output).toBe('ground');
    expect((await ended(tooDeep, 'failed')).error?.code).toBe('RUN_TOO_DEEP');
  });

  test('a run that ends while a child still works for it cancels that child', async () => {
    const child = define((step) =>
      step.waitForEvent('never', { event: 'never', key: 'never', timeoutMs: forever }),
    );
    const parent = define((step) =>
      Promise.race([
        step.branch('child', (own) => own.invoke('child', child, { n: 1 })),
        step.branch('nap', (own) => own.sleep('nap', 100)),
      ]),
    );
    const engine = await engineWith([child, parent]);
    await engine.work();

    const run = await startRun(engine, parent);

    await ended(run, 'completed');
    await until('the child to be cancelled', async () => (await childrenOf(run))[0]?.status === 'cancelled');
  });
});

describe('first N of M', () => {
  test('the first three of five win; the other two are cancelled with the winners, and one names its effect in flight', async () => {
    const child = define(async (step, { n }) => {
      if (n > 3) await step.waitForEvent('hold', { event: 'hold', key: String(n), timeoutMs: forever });
      return n * 10;
    });
    const parent = define((step) =>
      step.first(
        'three',
        3,
        [1, 2, 3, 4, 5].map((n) => ({ key: `c${n}`, workflow: child, input: { n } })),
      ),
    );
    const engine = await engineWith([child, parent], {
      onCancel: async (tx, run) => {
        const { rows } = await tx.query<{ child_key: string }>({
          text: 'select child_key from runs where run_id = $1',
          values: [run.runId],
        });
        return rows[0]?.child_key === 'c5' ? ['a letter to the bank'] : [];
      },
    });
    await engine.work();

    const run = await startRun(engine, parent);

    const { output } = await ended(run, 'completed');
    expect(output).toMatchObject({ failed: [] });
    const { completed, cancelled } = output as {
      completed: { key: string; output: number }[];
      cancelled: Json[];
    };
    expect(completed.map(({ key, output: value }) => `${key}=${value}`).sort()).toEqual([
      'c1=10',
      'c2=20',
      'c3=30',
    ]);
    expect(cancelled).toMatchObject([
      { key: 'c4', inFlight: [] },
      { key: 'c5', inFlight: ['a letter to the bank'] },
    ]);
    await until('all to have ended', async () => {
      const statuses = (await childrenOf(run)).map((row) => row.status);
      return statuses.filter((status) => status === 'cancelled').length === 2;
    });
    expect(await emit(engine, 'hold', '4')).toBe(true);
    expect((await childrenOf(run)).map((row) => row.status).sort()).toEqual([
      'cancelled',
      'cancelled',
      'completed',
      'completed',
      'completed',
    ]);
  });

  test('ends as soon as enough cannot complete any more, and cancels the rest', async () => {
    const child = define(async (step, { n }) => {
      if (n <= 2) throw new CountersignError('TOOL_REFUSED', `no ${n}`);
      await step.waitForEvent('hold', { event: 'hold', key: 'hold', timeoutMs: forever });
    });
    const parent = define((step) =>
      step.first(
        'two',
        2,
        [1, 2, 3].map((n) => ({ key: `c${n}`, workflow: child, input: { n } })),
      ),
    );
    const engine = await engineWith([child, parent]);
    await engine.work();

    const run = await startRun(engine, parent);

    const { error } = await ended(run, 'failed');
    expect(error?.code).toBe('TOO_FEW_COMPLETED');
    expect(error?.message).toContain('c1 (TOOL_REFUSED)');
    await until('the third to be cancelled', async () => (await childrenOf(run))[2]?.status === 'cancelled');
  });

  test('children that end at once are counted one after the other: exactly so many win', async () => {
    const child = define((step, { n }) =>
      step.waitForEvent('go', { event: 'go', key: 'all', timeoutMs: forever }).then(() => n),
    );
    const parent = define((step) =>
      step.first(
        'some',
        4,
        Array.from({ length: 10 }, (_, n) => ({ key: `c${n}`, workflow: child, input: { n } })),
      ),
    );
    const engines = [await engineWith([child, parent]), await engineWith([child, parent])];
    for (const engine of engines) await engine.work();
    const [engine] = engines;
    if (!engine) throw new Error('no engine');
    const run = await startRun(engine, parent);
    await until('all to wait', async () => {
      const rows = await childrenOf(run);
      return rows.length === 10 && rows.every((row) => row.status === 'waiting');
    });

    await emit(engine, 'go', 'all');

    const { output } = await ended(run, 'completed');
    const { completed, cancelled } = output as { completed: Json[]; cancelled: Json[] };
    expect([completed.length, cancelled.length]).toEqual([4, 6]);
    await until('the losers to end', async () =>
      (await childrenOf(run)).every((row) => ['completed', 'cancelled'].includes(row.status)),
    );
    expect((await journalOf(run)).filter((row) => row.kind === 'children')).toEqual([
      { path: 'some', kind: 'children', outcome: 'event' },
    ]);
  });

  test.each([
    ['none', 0, ['a']],
    ['more than there are', 2, ['a']],
    ['twins', 1, ['a', 'a']],
  ])('asking for %s is a defect of the workflow', async (_what, count, keys) => {
    const child = define(async () => null);
    const parent = define((step) =>
      step.first(
        'some',
        count,
        keys.map((key) => ({ key, workflow: child, input: { n: 1 } })),
      ),
    );
    const engine = await engineWith([child, parent]);
    await engine.work();

    const run = await startRun(engine, parent);

    expect((await ended(run, 'failed')).error?.code).toBe('TypeError');
  });
});
