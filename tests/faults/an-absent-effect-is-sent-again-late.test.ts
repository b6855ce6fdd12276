/**
 * Guarantee: killed after the intent was written and before the merge arrived, the product looks first, and sends again only when the lost
 * call can no longer arrive: after the request timeout and the lease. The merge happens once, both calls are in the ledger.
 */
import { expect, test } from 'vitest';
import { until } from '../support/database.ts';
import { useProcess } from '../support/process.ts';
import { approve, expectMergedOnce, ofRun, shown, untilAsked } from './story.ts';

const product = useProcess();

test('killed before the merge arrived: it is sent once more, not before the first can no longer come', async () => {
  const story = await untilAsked(product);
  await product.fault({
    match: { method: 'PUT', pathPattern: `/pulls/${story.pull}/merge$` },
    kind: 'drop-before',
    delayMs: 3_000,
  });
  await approve(product, story.card);
  await until('the merge to be on its way', async () => {
    const { faults } = await product.github<{ faults: unknown[] }>('GET', '/_control/faults');
    return faults.length === 0;
  });
  const [intent] = await ofRun<{ outcome: null; settles_at: Date }>(
    product,
    story,
    'select outcome, settles_at from executions join this using (run_id)',
  );
  expect(intent?.outcome).toBeNull();
  await shown(product);

  await product.kill9();
  await product.start();

  await expectMergedOnce(product, story, { lostCalls: 1 });
  const merged = (await product.writes()).findLast((write) => write.path.endsWith('/merge'));
  expect(Date.parse(merged?.at ?? '')).toBeGreaterThan(intent?.settles_at.getTime() ?? Number.NaN);
});
