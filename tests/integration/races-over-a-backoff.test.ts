/**
 * Guarantee: a step that failed is tried again when its backoff is over and not before, also when its run is woken by something else
 * meanwhile: the try that failed is counted, and the next one is the next.
 */
import { expect, test } from 'vitest';
import { until, useDatabase } from '../support/database.ts';
import { define, useEngines } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun, ended, emit, journalOf } = useEngines(base);

test('an event for another branch does not end a backoff', async () => {
  const tries: number[] = [];
  const flow = define((step) =>
    Promise.all([
      step.branch('a', (own) =>
        own.run(
          'flaky',
          async ({ tryNumber }) => {
            tries.push(tryNumber);
            if (tryNumber === 1) throw new Error('again');
            return 'well';
          },
          { backoffMs: 600_000 },
        ),
      ),
      step.branch('b', async (own) => {
        await own.waitForEvent('go', { event: 'go', key: own.runRef.runId, timeoutMs: 3_600_000 });
        return own.run('after', async () => 'went');
      }),
    ]),
  );
  const engine = await engineWith([flow]);
  await engine.work();
  const run = await startRun(engine, flow);
  await ended(run, 'waiting');

  await emit(engine, 'go', run.runId);
  await until('the other branch to go on', async () =>
    (await journalOf(run)).some((row) => row.path === 'b/after'),
  );
  await ended(run, 'waiting');
  expect(tries).toEqual([1]);

  await base.setClock('15 minutes');
  expect((await ended(run, 'completed')).output).toEqual(['well', 'went']);
  expect(tries).toEqual([1, 2]);
});
