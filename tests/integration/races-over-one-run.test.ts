/**
 * Guarantee: whoever comes to a run at the same time as somebody else, exactly one of the two stories comes true. One claim wins; what a
 * lost holder wrote is in the journal its successor reads, or was refused; a run completes or is cancelled, never a bit of both; a
 * pause, a resume, a retry count once. Both orders of each race are forced, many times.
 */
import { beforeEach, describe, expect, test } from 'vitest';
import { CountersignError } from '../../src/errors.ts';
import {
  type Attempt,
  endRun,
  handOverRun,
  holdFence,
  insertStep,
  parkRun,
  readJournal,
} from '../../src/jobs/engine/attempt.ts';
import { cancelRun, pauseRun, resumeRun, retryRun } from '../../src/jobs/engine/control.ts';
import type { Workflow } from '../../src/jobs/engine/workflow.ts';
import type { RunRef } from '../../src/types.ts';
import { until, useDatabase } from '../support/database.ts';
import { ORDERS, type Order, refusal, TRIES, useRaces, value, waitFor } from './races-support.ts';
import { define, useEngines } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun, runRow, ended, emit, journalOf } = useEngines(base);
const races = useRaces(base);

beforeEach(() => races.forgetWakes());

/** `TRIES` races in each order, one after the other, on a run of its own each. */
async function each(flow: Workflow, race: (run: RunRef, order: Order) => Promise<void>): Promise<RunRef[]> {
  const engine = await engineWith([flow]);
  const runs: RunRef[] = [];
  for (let count = 0; count < TRIES; count += 1)
    for (const order of ORDERS) {
      const run = await startRun(engine, flow);
      runs.push(run);
      await race(run, order);
    }
  return runs;
}

async function claimed(run: RunRef, flow: Workflow): Promise<Attempt> {
  const attempt = await races.claim(run, flow, await races.aWorker());
  if (!attempt) throw new Error('nobody else claims');
  return attempt;
}

const stepAt = (path: string) => ({
  path,
  kind: 'run',
  inputHash: null,
  error: null,
  result: path,
  startedAt: new Date(),
});

describe('two workers claim', () => {
  test('a queued run: the one in front has it, the other has nothing', async () => {
    const flow = define(async () => 'done');
    const [one, other] = [await races.aWorker(), await races.aWorker()];

    await each(flow, async (run, order) => {
      const [a, b] = await races.behindRun(
        run,
        order,
        () => races.claim(run, flow, one),
        () => races.claim(run, flow, other),
      );

      const [winner, loser] = order === 'first' ? [a, b] : [b, a];
      expect([value(winner)?.fence, value(loser)]).toEqual([1, undefined]);
      expect(await runRow(run)).toMatchObject({
        status: 'running',
        fence: 1,
        worker_id: order === 'first' ? one : other,
      });
    });
  });

  test('a run whose holder was lost: one successor', async () => {
    const flow = define(async () => 'done');
    const [one, other, lost] = [await races.aWorker(), await races.aWorker(), await races.aWorker(-1)];

    await each(flow, async (run, order) => {
      await races.claim(run, flow, lost);
      const results = await races.behindRun(
        run,
        order,
        () => races.claim(run, flow, one),
        () => races.claim(run, flow, other),
      );

      expect(results.map(value).filter((attempt) => attempt?.fence === 2)).toHaveLength(1);
      expect((await runRow(run)).fence).toBe(2);
    });
  });

  test('a hundred runs of two processes that hear of all of them: each step is entered once', async () => {
    const entered = new Map<string, number>();
    const flow = define((step) =>
      step.run('only', async () => {
        entered.set(step.runRef.runId, (entered.get(step.runRef.runId) ?? 0) + 1);
      }),
    );
    const engines = [await engineWith([flow]), await engineWith([flow])];
    for (const engine of engines) await engine.work();
    const [engine] = engines;
    if (!engine) throw new Error('two engines');

    const runs = await Promise.all(Array.from({ length: 100 }, () => startRun(engine, flow)));

    for (const run of runs) await ended(run, 'completed');
    expect([...entered.values()].filter((times) => times !== 1)).toEqual([]);
    expect(entered.size).toBe(100);
  });
});

describe('a late write of a lost holder against its successor', () => {
  test('a step is in the journal that the successor reads, or it is refused', async () => {
    const flow = define(async () => 'done');
    const [lost, successor] = [await races.aWorker(-1), await races.aWorker()];

    await each(flow, async (run, order) => {
      const stale = await races.claim(run, flow, lost);
      if (!stale) throw new Error('nobody else claims');
      const [late, read] = await races.behindRun(
        run,
        order,
        () => insertStep(base.db, stale, stepAt('late')),
        async () => {
          const attempt = await races.claim(run, flow, successor);
          return attempt && (await readJournal(base.db, attempt)).entries.map((entry) => entry.path);
        },
      );

      expect(refusal(late)).toBe(order === 'first' ? null : 'FENCED');
      expect(value(read)).toEqual(order === 'first' ? ['late'] : []);
      expect((await journalOf(run)).map((row) => row.path)).toEqual(value(read));
    });
  });

  test.each([
    ['with its step', true],
    ['of a step that is not finished', false],
  ])('a transaction %s commits before the takeover, or not at all', async (_what, finishes) => {
    const flow = define(async () => 'done');
    const [lost, successor] = [await races.aWorker(-1), await races.aWorker()];
    const write = (stale: Attempt) => async () => {
      await base.db.transaction(async (tx) => {
        await holdFence(tx, stale);
        await tx.query({
          text: `insert into events (workspace_id, event_name, event_key, payload) values ($1, 'effect', $2, 'null')`,
          values: [stale.workspaceId, stale.runId],
        });
        if (finishes) await insertStep(tx, stale, stepAt('late'));
      });
    };
    const effects = async (run: RunRef) => {
      const { rowCount } = await base.db.query({
        text: `select 1 from events where event_name = 'effect' and event_key = $1`,
        values: [run.runId],
      });
      return rowCount;
    };

    await each(flow, async (run, order) => {
      const stale = await races.claim(run, flow, lost);
      if (!stale) throw new Error('nobody else claims');
      const [late, read] = await races.behindRun(run, order, write(stale), async () => {
        const attempt = await races.claim(run, flow, successor);
        const journal = attempt && (await readJournal(base.db, attempt)).entries.map((entry) => entry.path);
        return { journal, effects: await effects(run) };
      });

      expect(refusal(late)).toBe(order === 'first' ? null : 'FENCED');
      expect(value(read)).toEqual({
        journal: order === 'first' && finishes ? ['late'] : [],
        effects: order === 'first' ? 1 : 0,
      });
      expect(await effects(run)).toBe(order === 'first' ? 1 : 0);
    });
  });

  test('without a lock held for them: what committed was read, whoever was faster', async () => {
    const flow = define(async () => 'done');
    const engine = await engineWith([flow]);
    const lost = await races.aWorker(-1);
    const seen = { before: 0, after: 0 };

    for (let count = 0; count < 200; count += 1) {
      const run = await startRun(engine, flow);
      const stale = await races.claim(run, flow, lost);
      if (!stale) throw new Error('nobody else claims');
      const successor = await races.aWorker();
      const write = () =>
        insertStep(base.db, stale, stepAt('late')).then(
          () => true,
          (error: CountersignError) => error.code !== 'FENCED' && Promise.reject(error),
        );
      const take = async () => {
        const attempt = await races.claim(run, flow, successor);
        return attempt && (await readJournal(base.db, attempt)).entries.length;
      };
      const [wrote, read] =
        count % 2 === 0
          ? await Promise.all([write(), take()])
          : await Promise.all([take(), write()]).then(([r, w]) => [w, r] as const);

      expect(read).toBe(wrote ? 1 : 0);
      seen[wrote ? 'before' : 'after'] += 1;
    }

    expect(Math.min(seen.before, seen.after)).toBeGreaterThan(0);
  });
});

describe('cancel', () => {
  /** Speaks once if and only if the run did not complete. */
  const spoken = new Map<string, number>();
  const withWord = (): Workflow =>
    define(async (step) => step.run('end', async () => 'done'), undefined, 1, {
      onFailure: (step) =>
        step.run('word', async () => {
          spoken.set(step.runRef.runId, (spoken.get(step.runRef.runId) ?? 0) + 1);
        }),
    }) as Workflow;

  test('against the end: completed with its output and unspoken, or cancelled without one and spoken once', async () => {
    const flow = withWord();
    const orders = new Map<string, Order>();

    const runs = await each(flow, async (run, order) => {
      orders.set(run.runId, order);
      const attempt = await claimed(run, flow);
      await insertStep(base.db, attempt, stepAt('end'));
      const [end, cancel] = await races.behindRun(
        run,
        order,
        races.tx((tx) =>
          endRun(tx, races.wakes(), attempt, { status: 'completed', output: 'done', error: null }),
        ),
        races.tx((tx) => cancelRun(tx, races.wakes(), run, 'too late?')),
      );

      expect(refusal(end)).toBe(order === 'first' ? null : 'FENCED');
      expect(value(cancel)).toEqual(
        order === 'first' ? { changed: false, status: 'completed' } : { changed: true, status: 'cancelling' },
      );
    });
    const engine = await engineWith([flow]);
    await engine.work();

    for (const run of runs) {
      const completed = orders.get(run.runId) === 'first';
      const row = await ended(run, completed ? 'completed' : 'cancelled');
      expect([row.output, row.error?.code]).toEqual(
        completed ? ['done', undefined] : [null, 'RUN_CANCELLED'],
      );
      expect(spoken.get(run.runId)).toBe(completed ? undefined : 1);
      expect((await journalOf(run)).filter((entry) => entry.outcome === 'cancelled')).toEqual([]);
    }
  });

  test('against the end, as processes meet: each run is one or the other, its wait too', async () => {
    const flow = define(
      (step) => step.waitForEvent('go', { event: 'go', key: step.runRef.runId, timeoutMs: 3_600_000 }),
      undefined,
      1,
      {
        onFailure: (step) => step.run('word', async () => undefined),
      },
    );
    const engine = await engineWith([flow]);
    await engine.work();
    const seen = { completed: 0, cancelled: 0 };

    await Promise.all(
      Array.from({ length: 120 }, async (_, place) => {
        const run = await startRun(engine, flow);
        await ended(run, 'waiting');
        const go = () => emit(engine, 'go', run.runId, 'went');
        const stop = () => base.db.transaction((tx) => engine.control.cancel(tx, run, 'not wanted'));
        const [cancel] = await (place % 2 === 0
          ? Promise.all([stop(), go()])
          : Promise.all([go(), stop()]).then(([, word]) => [word]));
        const row = await until('an end', async () => {
          const now = await runRow(run);
          return ['completed', 'cancelled'].includes(now.status) && now;
        });
        const journal = await journalOf(run);

        expect(row.status).toBe(cancel?.changed ? 'cancelled' : 'completed');
        expect(row.output).toEqual(cancel?.changed ? null : { outcome: 'event', payload: 'went' });
        expect(journal.filter((entry) => entry.path === 'on-failure/word')).toHaveLength(
          cancel?.changed ? 1 : 0,
        );
        if (row.status === 'completed')
          expect(journal).toEqual([{ path: 'go', kind: 'event', outcome: 'event' }]);
        seen[row.status as keyof typeof seen] += 1;
      }),
    );

    expect(seen.cancelled).toBeGreaterThan(0);
  });

  test('against a claim: the body is never entered with leave to write', async () => {
    const flow = withWord();

    const runs = await each(flow, async (run, order) => {
      const workerId = await races.aWorker();
      const [claim, cancel] = await races.behindRun(
        run,
        order,
        () => races.claim(run, flow, workerId),
        races.tx((tx) => cancelRun(tx, races.wakes(), run, 'not wanted')),
      );
      const attempt = value(claim);

      expect(value(cancel)).toEqual({ changed: true, status: 'cancelling' });
      if (!attempt) throw new Error('a cancelling run wants a worker, too');
      expect(attempt.cancelling?.code).toBe(order === 'first' ? undefined : 'RUN_CANCELLED');
      if (order === 'first')
        await expect(insertStep(base.db, attempt, stepAt('end'))).rejects.toMatchObject({ code: 'FENCED' });
      await base.db.transaction((tx) => handOverRun(tx, races.wakes().queue, attempt));
    });
    const engine = await engineWith([flow]);
    await engine.work();

    for (const run of runs) {
      await ended(run, 'cancelled');
      expect((await journalOf(run)).map((entry) => entry.path)).toEqual(['on-failure/word']);
      expect(spoken.get(run.runId)).toBe(1);
    }
  });
});

describe('pause, resume and retry', () => {
  const flow = define((step) =>
    step.waitForEvent('go', { event: 'go', key: step.runRef.runId, timeoutMs: 3_600_000 }),
  );
  const finish = async (runs: readonly RunRef[], works: Workflow) => {
    const engine = await engineWith([works]);
    await base.db.transaction((tx) => races.wakes().queue.send(tx, runs));
    await engine.work();
    for (const run of runs) {
      await emit(engine, 'go', run.runId, 'went');
      expect((await ended(run, 'completed')).output).toEqual({ outcome: 'event', payload: 'went' });
    }
  };

  test('a pause against a park: paused either way, its wait kept', async () => {
    const runs = await each(flow, async (run, order) => {
      const attempt = await claimed(run, flow);
      const [park, paused] = await races.behindRun(
        run,
        order,
        races.tx((tx) => parkRun(tx, attempt, [waitFor(run.runId)], ['go'])),
        races.tx((tx) => pauseRun(tx, run)),
      );

      expect(value(park)).toBe(true);
      expect(value(paused)).toEqual({ changed: true, status: order === 'first' ? 'paused' : 'running' });
      expect(await runRow(run)).toMatchObject({ status: 'paused', worker_id: null });
      expect(await journalOf(run)).toEqual([{ path: 'go', kind: 'event', outcome: null }]);
      const resumed = await base.db.transaction((tx) => resumeRun(tx, races.wakes(), run));
      expect(resumed).toEqual({ changed: true, status: 'queued' });
    });

    await finish(runs, flow);
  });

  test('a pause against a step that fails beside another: its try is counted, its backoff kept', async () => {
    const [begun, told, fail] = [
      Promise.withResolvers<void>(),
      Promise.withResolvers<void>(),
      Promise.withResolvers<void>(),
    ];
    const tries: number[] = [];
    const two = define((step) =>
      Promise.all([
        step.branch('a', (own) =>
          own.run(
            'flaky',
            async ({ tryNumber }) => {
              tries.push(tryNumber);
              if (tries.length > 1) return 'well';
              await fail.promise;
              throw new Error('again');
            },
            { backoffMs: 20 },
          ),
        ),
        step.branch('b', async (own) => {
          await own.run('one', async () => {
            begun.resolve();
            await told.promise;
          });
          await own.run('two', async () => null);
        }),
      ]),
    );
    const engine = await engineWith([two]);
    await engine.work();
    // After the worker's own: the segment has been told.
    engine.bell.on('pause', () => told.resolve());
    const run = await startRun(engine, two);
    await begun.promise;

    await base.db.transaction((tx) => engine.control.pause(tx, run));
    await until('the other branch to be held', async () => (await journalOf(run)).length === 1);
    fail.resolve();
    await ended(run, 'paused');
    await base.db.transaction((tx) => engine.control.resume(tx, run));

    await ended(run, 'completed');
    expect(tries).toEqual([1, 2]);
    expect((await journalOf(run)).map((row) => row.path)).toContain('a/flaky~1');
  });

  test('two resumes: one of them, one wake-up', async () => {
    const runs = await each(flow, async (run, order) => {
      await base.db.transaction((tx) => pauseRun(tx, run));
      await races.forgetWakes();
      const resume = races.tx((tx) => resumeRun(tx, races.wakes(), run));
      const [a, b] = await races.behindRun(run, order, resume, resume);

      expect([value(a), value(b)].map((answer) => answer.changed).sort()).toEqual([false, true]);
      expect(await races.wakeCount(run)).toBe(1);
    });

    await finish(runs, flow);
  });

  test('two retries: one of them, one wake-up, one more try', async () => {
    const tries = new Map<string, number>();
    const failing = define(async (step) => {
      await step.run('pay', async () => {
        const tried = (tries.get(step.runRef.runId) ?? 0) + 1;
        tries.set(step.runRef.runId, tried);
        if (tried === 1) throw new CountersignError('TOOL_REFUSED', 'not yet');
      });
      return 'paid';
    });
    const first = await engineWith([failing]);
    await first.work();
    const runs = await Promise.all(Array.from({ length: 2 * TRIES }, () => startRun(first, failing)));
    for (const run of runs) await ended(run, 'failed');
    await first.stop();

    for (const [place, run] of runs.entries()) {
      await races.forgetWakes();
      const retry = races.tx((tx) => retryRun(tx, races.wakes(), run));
      const [a, b] = await races.behindRun(run, place % 2 === 0 ? 'first' : 'second', retry, retry);
      expect([value(a), value(b)].filter((answer) => answer.changed)).toEqual([
        { changed: true, status: 'queued' },
      ]);
      expect(await races.wakeCount(run)).toBe(1);
    }
    const second = await engineWith([failing]);
    await second.work();

    for (const run of runs) {
      await base.db.transaction((tx) => races.wakes().queue.send(tx, [run]));
      expect((await ended(run, 'completed')).output).toBe('paid');
      expect(tries.get(run.runId)).toBe(2);
      expect((await journalOf(run)).map((row) => row.path).sort()).toEqual(['pay', 'pay@2']);
    }
  });
});
