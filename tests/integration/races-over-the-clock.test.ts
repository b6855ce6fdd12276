/**
 * Guarantee: `step.now()` is the same on every replay, whichever of several branches or steps was faster: the first time in the order in
 * which they ended, on a replay in the order in which they are asked for. What is derived from it fits the journal.
 */
import { describe, expect, test } from 'vitest';
import { CountersignError } from '../../src/errors.ts';
import type { Step } from '../../src/types.ts';
import { until, useDatabase } from '../support/database.ts';
import { define, useEngines } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun, runRow, journalOf } = useEngines(base);

const refused = () => Promise.reject(new CountersignError('TOOL_REFUSED', 'no'));
/** Ends when the journal holds a row at `path`. */
const after = (step: Step, path: string) => async () => {
  await until(path, async () => (await journalOf(step.runRef)).some((row) => row.path === path));
};

const bodies: Readonly<Record<string, (step: Step) => Promise<unknown>>> = {
  'two steps of one branch, the first of which ends last': (step) =>
    Promise.all([step.run('slow', after(step, 'quick')), step.run('quick', async () => null)]),
  'branches, the first of which ends last': (step) =>
    Promise.all([
      step.branch('a', (own) => own.run('slow', after(step, 'b/quick'))),
      step.branch('b', (own) => own.run('quick', async () => null)),
    ]),
  'a failed branch that left another behind': (step) =>
    Promise.all([
      step.branch('a', (own) => own.run('refused', refused)),
      step.branch('b', (own) => own.run('slow', after(step, 'use'))),
    ]).catch(() => null),
  'a race that left the loser behind': (step) =>
    Promise.race([
      step.branch('a', (own) => own.run('quick', async () => null)),
      step.branch('b', (own) => own.run('slow', after(step, 'use'))),
    ]),
};

describe('now() is the same on a replay after', () => {
  test.each(Object.keys(bodies))('%s', async (name) => {
    const flow = define(async (step) => {
      await bodies[name]?.(step);
      await step.run('use', async () => null, { input: step.now().toISOString() });
      // What was left behind ends meanwhile; the sleep makes the body run again.
      await step.run('both', async () => {
        await until('all steps', async () => (await journalOf(step.runRef)).length >= 3);
      });
      await step.sleep('nap', 10);
      return 'done';
    });
    // Suspended after every step, a step could not wait for a later one.
    const engine = await engineWith([flow], { suspendAfterEveryStep: false });
    await engine.work();

    const run = await startRun(engine, flow);

    const row = await until('an end', async () => {
      const now = await runRow(run);
      return ['completed', 'parked', 'failed'].includes(now.status) && now;
    });
    expect([row.status, row.error?.message]).toEqual(['completed', undefined]);
  });
});
