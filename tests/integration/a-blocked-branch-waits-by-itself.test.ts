/**
 * Guarantee: branches do not wait for each other. What one is blocked on is registered at once and ends it at once, in the process that works
 * the run, while its siblings' steps are still in flight; and what a finished body left behind in other branches does nothing more.
 */
import { describe, expect, test } from 'vitest';
import { CountersignError } from '../../src/errors.ts';
import { until, useDatabase } from '../support/database.ts';
import { define, useEngines } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun, runRow, ended, emit, journalOf } = useEngines(base);

const forever = 3_600_000;

/** A body of two branches: `left` is held by the gate, `right` does what the test is about. */
function gated() {
  const gate = Promise.withResolvers<void>();
  return { hold: () => gate.promise.then(() => 'held'), open: () => gate.resolve() };
}

describe('while a sibling step is in flight', () => {
  test('an event resumes the branch that waits for it', async () => {
    const gate = gated();
    const flow = define((step) =>
      Promise.all([
        step.branch('left', (own) => own.run('long', gate.hold)),
        step.branch('right', async (own) => {
          const heard = await own.waitForEvent('go', {
            event: 'go',
            key: own.runRef.runId,
            timeoutMs: forever,
          });
          await own.run('after', async () => null);
          return heard;
        }),
      ]),
    );
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await until('the wait', async () => (await journalOf(run)).some((row) => row.path === 'right/go'));

    await emit(engine, 'go', run.runId, 'now');

    await until('the step after it', async () =>
      (await journalOf(run)).some((row) => row.path === 'right/after'),
    );
    expect((await runRow(run)).fence).toBe(1);
    gate.open();
    expect((await ended(run, 'completed')).output).toEqual(['held', { outcome: 'event', payload: 'now' }]);
  });

  test('a sleep ends, a failing step is tried again, and an earlier event is found', async () => {
    const gate = gated();
    let tries = 0;
    const flow = define((step) =>
      Promise.all([
        step.branch('left', (own) => own.run('long', gate.hold)),
        step.branch('right', async (own) => {
          await own.sleep('nap', 30);
          await own.waitForEvent('early', { event: 'early', key: own.runRef.runId, timeoutMs: forever });
          return own.run(
            'shaky',
            async () => {
              tries += 1;
              if (tries < 3) throw new CountersignError('TOOL_FAILED', 'not yet');
              return tries;
            },
            { backoffMs: 10 },
          );
        }),
      ]),
    );
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await emit(engine, 'early', run.runId);

    await until('the third try', async () =>
      (await journalOf(run)).some((row) => row.path === 'right/shaky'),
    );

    gate.open();
    expect((await ended(run, 'completed')).output).toEqual(['held', 3]);
  });

  test('what the run waits for is not lost when its process goes down: the deadline stands', async () => {
    const gate = gated();
    const flow = define((step) =>
      Promise.all([
        step.branch('left', (own) => own.run('long', gate.hold)),
        step.branch('right', (own) => own.sleep('nap', forever)),
      ]),
    );
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    const deadline = async () => {
      const { rows } = await base.db.query<{ deadline_at: Date }>({
        text: `select deadline_at from waits where run_id = $1 and path = 'right/nap'`,
        values: [run.runId],
      });
      return rows[0]?.deadline_at.getTime();
    };
    const before = await until('the wait', deadline);
    await engine.stop(0);

    const next = await engineWith([flow]);
    await next.work();
    gate.open();

    await ended(run, 'waiting');
    expect(await deadline()).toBe(before);
  });
});

describe('when the body is over', () => {
  test('a branch it left blocked does not go on, whatever comes for it', async () => {
    const after: string[] = [];
    const flow = define(
      async (step) => {
        await Promise.all([
          step.branch('left', async (own) => {
            await own.waitForEvent('go', { event: 'go', key: own.runRef.runId, timeoutMs: forever });
            after.push('left went on');
          }),
          step.branch('right', async (own) => {
            await own.sleep('nap', 20);
            throw new CountersignError('TOOL_REFUSED', 'no');
          }),
        ]);
      },
      undefined,
      1,
      {
        async onFailure(step) {
          await step.waitForEvent('said', { event: 'said', key: step.runRef.runId, timeoutMs: forever });
        },
      },
    );
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await until('onFailure to wait', async () =>
      (await journalOf(run)).some((row) => row.path === 'on-failure/said'),
    );

    await emit(engine, 'go', run.runId);
    await emit(engine, 'said', run.runId);

    expect((await ended(run, 'failed')).error?.code).toBe('TOOL_REFUSED');
    expect(after).toEqual([]);
  });

  test('a hundred runs whose body ends while a branch is blocked all end, none is parked instead', async () => {
    const flow = define((step) =>
      Promise.race([
        step.branch('left', (own) =>
          own.waitForEvent('go', { event: 'go', key: own.runRef.runId, timeoutMs: forever }),
        ),
        step.branch('right', (own) => own.run('quick', async () => 'done')),
      ]),
    );
    const engine = await engineWith([flow]);
    await engine.work();

    const runs = await Promise.all(Array.from({ length: 100 }, () => startRun(engine, flow)));

    for (const run of runs) expect((await ended(run, 'completed')).output).toBe('done');
  });
});
