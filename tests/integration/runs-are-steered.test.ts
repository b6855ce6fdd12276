/**
 * Guarantee: a run of any process can be cancelled, paused, resumed and retried. Cancelling reaches everything below it, stops what is in
 * flight, and lets onFailure speak once; pausing loses nothing; a retry repeats no finished step. A word that comes too late changes nothing.
 */
import { describe, expect, test } from 'vitest';
import { CountersignError } from '../../src/errors.ts';
import type { Engine } from '../../src/jobs/engine/engine.ts';
import type { RunRef } from '../../src/types.ts';
import { until, useDatabase } from '../support/database.ts';
import { define, useEngines } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun, runRow, ended, emit, childrenOf, journalOf } = useEngines(base);

const forever = 3_600_000;
const hold = { event: 'hold', timeoutMs: forever };

function steer(engine: Engine, word: 'cancel' | 'pause' | 'resume' | 'retry', run: RunRef) {
  return base.db.transaction((tx) =>
    word === 'cancel' ? engine.control.cancel(tx, run, 'not wanted any more') : engine.control[word](tx, run),
  );
}

describe('cancel', () => {
  test('a waiting run ends as cancelled, with its reason, its waits closed, and its onFailure run once', async () => {
    const said: string[] = [];
    const flow = define(
      (step) => step.waitForEvent('hold', { ...hold, key: step.runRef.runId }),
      undefined,
      1,
      {
        async onFailure(step, _input, error) {
          said.push(await step.run('say', async () => `${error.code}: ${error.message}`));
          await step.sleep('nap', 20);
          await step.run('say-more', async () => null);
        },
      },
    );
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await ended(run, 'waiting');

    const first = await steer(engine, 'cancel', run);
    const second = await steer(engine, 'cancel', run);

    expect([first, second.changed]).toEqual([{ changed: true, status: 'cancelling' }, false]);
    const row = await ended(run, 'cancelled');
    expect(row.error).toMatchObject({ code: 'RUN_CANCELLED', message: 'not wanted any more' });
    expect(new Set(said)).toEqual(new Set(['RUN_CANCELLED: not wanted any more']));
    expect(await journalOf(run)).toMatchObject([
      { path: 'hold', outcome: 'cancelled' },
      { path: 'on-failure/say' },
      { path: 'on-failure/nap', outcome: 'timeout' },
      { path: 'on-failure/say-more' },
    ]);
    expect(await steer(engine, 'cancel', run)).toEqual({ changed: false, status: 'cancelled' });
  });

  test('a step in flight sees its signal fire, and nothing it returns is journaled', async () => {
    const aborted = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    const flow = define((step) =>
      step.run('long', ({ signal }) => {
        begun.resolve();
        return new Promise((resolve) => {
          signal.addEventListener('abort', () => {
            aborted.resolve();
            resolve('too late');
          });
        });
      }),
    );
    const worker = await engineWith([flow]);
    await worker.work();
    const other = await engineWith([flow]);
    const run = await startRun(other, flow);
    await begun.promise;

    await steer(other, 'cancel', run);

    await aborted.promise;
    await ended(run, 'cancelled');
    expect(await journalOf(run)).toEqual([]);
  });

  test('reaches everything below: children and their children', async () => {
    const leaf = define((step) => step.waitForEvent('hold', { ...hold, key: 'leaf' }));
    const middle = define((step) => step.invoke('leaf', leaf, { n: 1 }));
    const root = define((step) => step.invoke('middle', middle, { n: 1 }));
    const engine = await engineWith([leaf, middle, root]);
    await engine.work();
    const run = await startRun(engine, root);
    const middleRun = await until('the middle', async () => (await childrenOf(run))[0]);
    const leafRun = await until('the leaf to wait', async () => {
      const row = (await childrenOf({ ...run, runId: middleRun.run_id }))[0];
      return row?.status === 'waiting' && row;
    });

    await steer(engine, 'cancel', run);

    for (const runId of [run.runId, middleRun.run_id, leafRun.run_id])
      await ended({ ...run, runId }, 'cancelled');
  });

  test('what follows from cancelling commits with it', async () => {
    const flow = define((step) => step.waitForEvent('hold', { ...hold, key: step.runRef.runId }));
    const engine = await engineWith([flow], { onCancel: () => Promise.reject(new Error('no ink')) });
    await engine.work();
    const run = await startRun(engine, flow);
    await ended(run, 'waiting');

    await expect(steer(engine, 'cancel', run)).rejects.toThrow('no ink');

    expect((await runRow(run)).status).toBe('waiting');
  });

  test('an event the workflow named cancels it; one that was emitted earlier cancels it at its start', async () => {
    const flow = define((step) => step.waitForEvent('hold', { ...hold, key: 'x' }), undefined, 1, {
      cancelOn: ({ n }) => [{ event: 'order-withdrawn', key: String(n) }],
    });
    const engine = await engineWith([flow]);
    await engine.work();
    const running = await startRun(engine, flow, 71);
    const other = await startRun(engine, flow, 72);
    await ended(running, 'waiting');

    await emit(engine, 'order-withdrawn', '71');
    const late = await startRun(engine, flow, 71);

    for (const run of [running, late])
      expect((await ended(run, 'cancelled')).error?.message).toContain('order-withdrawn');
    expect((await ended(other, 'waiting')).error).toBeNull();
  });

  test('an unknown run is refused by name', async () => {
    const engine = await engineWith([define(async () => null)]);
    const run = { workspaceId: 'T0LOCAL', runId: '01900000-0000-7000-8000-000000000000' };
    for (const word of ['cancel', 'pause', 'resume', 'retry'] as const)
      await expect(steer(engine, word, run)).rejects.toMatchObject({ code: 'RUN_NOT_FOUND' });
  });
});

describe('onFailure', () => {
  test('runs once after the body failed, is given its error, and cannot change how the run ends', async () => {
    let bodies = 0;
    let words = 0;
    const flow = define(
      async (step) => {
        bodies += 1;
        await step.run('refused', () => Promise.reject(new CountersignError('TOOL_REFUSED', 'no')));
      },
      undefined,
      1,
      {
        async onFailure(step, _input, error) {
          await step.run('word', async () => {
            words += 1;
            return error.code;
          });
          await step.sleep('nap', 20);
          throw new Error('the handler breaks too');
        },
      },
    );
    const engine = await engineWith([flow]);
    await engine.work();

    const run = await startRun(engine, flow);

    expect((await ended(run, 'failed')).error?.code).toBe('TOOL_REFUSED');
    expect(words).toBe(1);
    // After the sleep the journal says that the body is over: it is not asked again.
    expect(bodies).toBeLessThanOrEqual(2);
  });
});

describe('pause and resume', () => {
  test('a running run lets go after the step in flight, keeps its result, and goes on when resumed', async () => {
    const gate = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    const bodies: string[] = [];
    const flow = define(async (step) => {
      await step.run('one', async () => {
        bodies.push('one');
        begun.resolve();
        await gate.promise;
      });
      await step.run('two', async () => bodies.push('two'));
    });
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await begun.promise;

    expect(await steer(engine, 'pause', run)).toEqual({ changed: true, status: 'running' });
    gate.resolve();
    await ended(run, 'paused');
    expect(bodies).toEqual(['one']);

    const answers = await Promise.all([steer(engine, 'resume', run), steer(engine, 'resume', run)]);
    expect(answers.filter((answer) => answer.changed)).toHaveLength(1);
    await ended(run, 'completed');
    expect(bodies).toEqual(['one', 'two']);
  });

  test('an event that comes while a run is paused is taken up when it is resumed, and not before', async () => {
    const flow = define((step) => step.waitForEvent('hold', { ...hold, key: step.runRef.runId }));
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await ended(run, 'waiting');

    await steer(engine, 'pause', run);
    await emit(engine, 'hold', run.runId, 'hello');
    await engine.idle();
    expect((await runRow(run)).status).toBe('paused');
    await steer(engine, 'resume', run);

    expect((await ended(run, 'completed')).output).toEqual({ outcome: 'event', payload: 'hello' });
  });

  test('a paused run can be cancelled, an ended one not paused', async () => {
    const flow = define((step) => step.waitForEvent('hold', { ...hold, key: step.runRef.runId }));
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await ended(run, 'waiting');

    await steer(engine, 'pause', run);
    await steer(engine, 'cancel', run);
    await ended(run, 'cancelled');

    expect(await steer(engine, 'pause', run)).toEqual({ changed: false, status: 'cancelled' });
    expect(await steer(engine, 'resume', run)).toEqual({ changed: false, status: 'cancelled' });
  });
});

describe('retry', () => {
  test('goes on from the failed step, under the same idempotency key, and repeats nothing that finished', async () => {
    const calls: string[] = [];
    const keys = new Set<string>();
    let broken = true;
    const flow = define(
      async (step) => {
        await step.run('one', async () => calls.push('one'));
        const branches = await Promise.all([
          step.branch('left', (own) =>
            own.run('two', async ({ idempotencyKey }) => {
              calls.push('two');
              keys.add(idempotencyKey);
              if (broken) throw new CountersignError('TOOL_REFUSED', 'broken');
              return 'mended';
            }),
          ),
          step.branch('right', (own) => own.waitForEvent('hold', { ...hold, key: own.runRef.runId })),
        ]);
        await step.run('three', async () => calls.push('three'));
        return branches;
      },
      undefined,
      1,
      {
        onFailure: (step) =>
          step.run('word', async () => {
            calls.push('word');
          }),
      },
    );
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await ended(run, 'failed');

    expect(await steer(engine, 'retry', run)).toEqual({ changed: true, status: 'queued' });
    await until('the second failure', async () => calls.filter((call) => call === 'word').length === 2);
    await ended(run, 'failed');
    broken = false;
    await steer(engine, 'retry', run);
    await until('the other branch to wait anew', async () =>
      (await journalOf(run)).some((row) => row.path.startsWith('right/hold') && row.outcome === null),
    );
    await emit(engine, 'hold', run.runId, 'now');

    expect((await ended(run, 'completed')).output).toEqual(['mended', { outcome: 'event', payload: 'now' }]);
    expect(calls).toEqual(['one', 'two', 'word', 'two', 'word', 'two', 'three']);
    expect(keys.size).toBe(1);
    expect((await journalOf(run)).map((row) => row.path)).toEqual(
      expect.arrayContaining(['left/two', 'left/two@2', 'left/two@3', 'on-failure@2/word']),
    );
    expect(await steer(engine, 'retry', run)).toEqual({ changed: false, status: 'completed' });
  });

  test("a failed child is retried with its parent, from the child's failed step", async () => {
    const calls: string[] = [];
    let broken = true;
    const child = define(async (step) => {
      await step.run('pay', async () => calls.push('pay'));
      await step.run('send', async () => {
        calls.push('send');
        if (broken) throw new CountersignError('TOOL_REFUSED', 'broken');
      });
      return 'sent';
    });
    const parent = define((step) => step.invoke('child', child, { n: 1 }));
    const engine = await engineWith([child, parent]);
    await engine.work();
    const run = await startRun(engine, parent);
    await ended(run, 'failed');
    broken = false;

    await steer(engine, 'retry', run);

    expect((await ended(run, 'completed')).output).toBe('sent');
    expect(calls).toEqual(['pay', 'send', 'send']);
    expect(await childrenOf(run)).toHaveLength(1);
  });

  test('a parked run is worked again as it is, once its cause is mended', async () => {
    let other = false;
    const flow = define(async (step) => {
      await step.run('one', async () => 1, { input: other ? 'b' : 'a' });
      await step.waitForEvent('hold', { ...hold, key: step.runRef.runId });
      return 'through';
    });
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await ended(run, 'waiting');
    other = true;
    await emit(engine, 'hold', run.runId);
    await ended(run, 'parked');
    other = false;

    await steer(engine, 'retry', run);

    expect((await ended(run, 'completed')).output).toBe('through');
  });
});
