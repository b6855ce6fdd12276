/**
 * Guarantee: a wait gets exactly one outcome and its run exactly one wake-up, whatever comes at the same time: an event and its deadline,
 * an event and the park of the run that will wait for it, two events of one key, two runs that send to each other. None is lost, the
 * first write wins. Both orders of each race are forced, many times.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { beforeEach, describe, expect, test } from 'vitest';
import { parkRun, registerWaits } from '../../src/jobs/engine/attempt.ts';
import { ring } from '../../src/jobs/engine/bell.ts';
import type { Database } from '../../src/jobs/engine/db.ts';
import { emitEvent, resolveDueWaits } from '../../src/jobs/engine/events.ts';
import type { RunRef, Step } from '../../src/types.ts';
import { until, useDatabase } from '../support/database.ts';
import { at, ORDERS, TRIES, useRaces, value, waitFor } from './races-support.ts';
import { define, useEngines } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun, runRow, ended, emit, journalOf } = useEngines(base);
const races = useRaces(base);
const MINUTE = 60_000;
const FOREVER = 60 * MINUTE;

beforeEach(() => races.forgetWakes());

const flow = define((step) =>
  step.waitForEvent('go', { event: 'go', key: step.runRef.runId, timeoutMs: FOREVER }),
);

/** Runs that wait, with no process left that works them. */
async function parked(waiting: typeof flow): Promise<RunRef[]> {
  const engine = await engineWith([waiting]);
  await engine.work();
  const runs: RunRef[] = [];
  for (let n = 1; n <= 2 * TRIES; n += 1) runs.push(await startRun(engine, waiting, n));
  for (const run of runs) await ended(run, 'waiting');
  await engine.stop();
  await races.forgetWakes();
  return runs;
}

describe('an event against a deadline', () => {
  test('one outcome, one wake-up, and the run goes on with it', async () => {
    // Due one after the other, so that each race is about one wait.
    const patient = define((step, { n }) =>
      step.waitForEvent('go', { event: 'go', key: step.runRef.runId, timeoutMs: n * MINUTE }),
    );
    const runs = await parked(patient);

    for (const [place, run] of runs.entries()) {
      const order = ORDERS[place % 2] ?? 'first';
      await base.setClock(`${place + 1} minutes 30 seconds`);
      const [event, due] = await races.behindKey(
        at('go', run.runId),
        order,
        races.tx((tx) => emitEvent(tx, races.wakes(), at('go', run.runId), 'went')),
        races.tx((tx) => resolveDueWaits(tx, races.wakes())),
      );

      expect([value(event), value(due).more]).toEqual([true, false]);
      expect((await runRow(run)).status).toBe('queued');
      expect(await races.wakeCount(run)).toBe(1);
      expect(await journalOf(run)).toEqual([
        { path: 'go', kind: 'event', outcome: order === 'first' ? 'event' : 'timeout' },
      ]);
    }
    const engine = await engineWith([patient]);
    await engine.work();

    for (const [place, run] of runs.entries())
      expect((await ended(run, 'completed')).output).toEqual(
        place % 2 === 0 ? { outcome: 'event', payload: 'went' } : { outcome: 'timeout' },
      );
  });

  test('with the row of the run in the way, too', async () => {
    const patient = define((step, { n }) =>
      step.waitForEvent('go', { event: 'go', key: step.runRef.runId, timeoutMs: n * MINUTE }),
    );
    const runs = await parked(patient);
    const seen = { event: 0, timeout: 0 };

    for (const [place, run] of runs.entries()) {
      await base.setClock(`${place + 1} minutes 30 seconds`);
      await races.behindRun(
        run,
        ORDERS[place % 2] ?? 'first',
        races.tx((tx) => emitEvent(tx, races.wakes(), at('go', run.runId), 'went')),
        races.tx((tx) => resolveDueWaits(tx, races.wakes())),
      );

      expect(await races.wakeCount(run)).toBe(1);
      const [wait] = await journalOf(run);
      seen[wait?.outcome as keyof typeof seen] += 1;
    }

    expect(seen).toEqual({ event: TRIES, timeout: TRIES });
  });
});

describe('an event against a park', () => {
  test.each([
    ['whose wait is registered with it', false],
    ['whose wait was registered before', true],
  ])('%s is never lost: found by the park, or the run is woken', async (_what, early) => {
    const engine = await engineWith([flow]);
    const runs: RunRef[] = [];

    for (let count = 0; count < TRIES; count += 1)
      for (const order of ORDERS) {
        const run = await startRun(engine, flow);
        runs.push(run);
        await races.forgetWakes();
        const attempt = await races.claim(run, flow, await races.aWorker(-1));
        if (!attempt) throw new Error('nobody else claims');
        const spec = waitFor(run.runId);
        if (early) await base.db.transaction((tx) => registerWaits(tx, attempt, [spec]));
        const [event, park] = await (early ? races.behindRun : behindKeyOf)(
          run,
          order,
          races.tx((tx) => emitEvent(tx, races.wakes(), at('go', run.runId), 'went')),
          races.tx((tx) => parkRun(tx, attempt, early ? [] : [spec], ['go'])),
        );

        expect([value(event), value(park)]).toEqual([true, order === 'second']);
        expect((await runRow(run)).status).toBe(order === 'second' ? 'queued' : 'running');
        expect(await races.wakeCount(run)).toBe(order === 'second' ? 1 : 0);
        expect(await journalOf(run)).toEqual([{ path: 'go', kind: 'event', outcome: 'event' }]);
      }
    // The holders of those that did not park were lost: their runs are taken over and find the same.
    await base.db.transaction((tx) => races.wakes().queue.send(tx, runs));
    await engine.work();
    for (const run of runs)
      expect((await ended(run, 'completed')).output).toEqual({ outcome: 'event', payload: 'went' });
  });

  const behindKeyOf: typeof races.behindRun = (run, order, one, other) =>
    races.behindKey(at('go', run.runId), order, one, other);
});

describe('a late nudge against a park', () => {
  test('while its process does not know yet that the run was let go: the next step is entered by the next attempt alone', async () => {
    const parked = Promise.withResolvers<void>();
    const known = Promise.withResolvers<void>();
    const looked = Promise.withResolvers<void>();
    let letGo = false;
    // Commits, but the answer is long in coming.
    const slow: Database = {
      ...base.db,
      async transaction(body) {
        let parks = false;
        const result = await base.db.transaction((tx) =>
          body({
            ...tx,
            query: (statement) => {
              parks ||= statement.name === 'run_park';
              return tx.query(statement);
            },
          }),
        );
        if (parks && !letGo) {
          letGo = true;
          parked.resolve();
          await known.promise;
        }
        return result;
      },
      async query(statement) {
        const result = await base.db.query(statement);
        if (letGo && statement.name === 'waits_resolved') setImmediate(looked.resolve);
        return result as never;
      },
    };
    let entered = 0;
    const going = define((step) =>
      Promise.all([
        step.branch('left', async (own) => {
          await own.waitForEvent('go', { event: 'go', key: own.runRef.runId, timeoutMs: FOREVER });
          return own.run('after', async () => ++entered);
        }),
        // Beside a step in flight the wait is registered at once, and not with the park.
        step.run('beside', async () => {
          await until('the wait', async () => (await journalOf(step.runRef)).length > 0);
        }),
      ]),
    );
    const engine = await engineWith([going], { database: slow, suspendAfterEveryStep: false });
    await engine.work();
    const run = await startRun(engine, going);
    await parked.promise;

    await emit(engine, 'go', run.runId);
    await ring(base.db, `nudge ${run.runId}`);
    // Whoever knows better than to look is given the time that a look takes.
    await Promise.race([looked.promise, pause(250)]);
    known.resolve();

    expect((await ended(run, 'completed')).output).toEqual([1, null]);
    expect(entered).toBe(1);
  });
});

describe('an event against another of its key', () => {
  test('the first is the event: its payload is what the waiting run gets, once', async () => {
    const runs = await parked(flow);

    for (const [place, run] of runs.entries()) {
      const order = ORDERS[place % 2] ?? 'first';
      const [a, b] = await races.behindKey(
        at('go', run.runId),
        order,
        races.tx((tx) => emitEvent(tx, races.wakes(), at('go', run.runId), 'first')),
        races.tx((tx) => emitEvent(tx, races.wakes(), at('go', run.runId), 'second')),
      );

      expect([value(a), value(b)]).toEqual(order === 'first' ? [true, false] : [false, true]);
      expect(await races.wakeCount(run)).toBe(1);
    }
    const engine = await engineWith([flow]);
    await engine.work();

    for (const [place, run] of runs.entries())
      expect((await ended(run, 'completed')).output).toEqual({
        outcome: 'event',
        payload: ORDERS[place % 2],
      });
  });
});

describe('runs that send to each other', () => {
  const toAndFro = async (step: Step, own: string, other: string, turns: number) => {
    const heard: unknown[] = [];
    for (let turn = 1; turn <= turns; turn += 1) {
      const sent = step.branch('send', (branch) =>
        branch.sendEvent('say', { event: 'ball', key: `${other}-${turn}`, payload: `${own}-${turn}` }),
      );
      const got = step.branch('hear', (branch) =>
        branch.waitForEvent('ball', { event: 'ball', key: `${own}-${turn}`, timeoutMs: FOREVER }),
      );
      heard.push(...(await Promise.all([sent, got])));
    }
    return heard.length;
  };

  test('at once, in forty pairs over two processes: every ball arrives', async () => {
    const player = define((step, { n }) => {
      const [pair, side] = [Math.floor(n / 2), n % 2];
      return toAndFro(step, `p${pair}-${side}`, `p${pair}-${1 - side}`, 4);
    });
    const engines = [await engineWith([player]), await engineWith([player])];
    for (const engine of engines) await engine.work();
    const [engine] = engines;
    if (!engine) throw new Error('two engines');

    const runs = await Promise.all(Array.from({ length: 80 }, (_, n) => startRun(engine, player, n)));

    for (const run of runs) expect((await ended(run, 'completed')).output).toBe(8);
    const { rows } = await base.db.query<{ count: number }>({
      text: `select count(*)::int as count from events where event_name = 'ball'`,
    });
    expect(rows[0]?.count).toBe(80 * 4);
  });

  test('each while the other parks on it: both go on', async () => {
    const engine = await engineWith([flow]);

    for (let count = 0; count < TRIES; count += 1) {
      const pair = [await startRun(engine, flow), await startRun(engine, flow)] as const;
      const attempts = await Promise.all(
        pair.map(async (run) => races.claim(run, flow, await races.aWorker(-1))),
      );
      const [a, b] = attempts;
      if (!a || !b) throw new Error('nobody else claims');
      await Promise.all([
        base.db.transaction((tx) => emitEvent(tx, races.wakes(), at('go', b.runId), 'from a', a)),
        base.db.transaction((tx) => emitEvent(tx, races.wakes(), at('go', a.runId), 'from b', b)),
        base.db.transaction((tx) => parkRun(tx, a, [waitFor(a.runId)], ['go'])),
        base.db.transaction((tx) => parkRun(tx, b, [waitFor(b.runId)], ['go'])),
      ]);
      for (const run of pair) {
        expect(await journalOf(run)).toEqual([{ path: 'go', kind: 'event', outcome: 'event' }]);
        expect(['queued', 'running']).toContain((await runRow(run)).status);
        expect(await emit(engine, 'go', run.runId, 'late')).toBe(false);
      }
    }
  });
});
