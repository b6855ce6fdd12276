/**
 * Guarantee: a process that stood still for longer than its lease has lost its runs. What it still had in hand when it goes on is refused:
 * the journal of a run that another process took over holds nothing that the first wrote after that.
 */
import { expect, test } from 'vitest';
import { until } from '../support/database.ts';
import { useProcess } from '../support/process.ts';
import { approve, ask, expectMergedOnce, ofRun, openCard, openPull, shown } from './story.ts';

const product = useProcess();

test('stopped for longer than its lease and continued: its step is not journaled', async () => {
  const pull = await openPull(product);
  const hold = { match: { method: 'GET', pathPattern: '/compare/' }, kind: 'hold' } as const;
  await product.fault(hold);
  const story = await ask(product, pull);
  await product.held(1);
  // The turn's other call runs beside the held one: journaled before the stop, it is not the second process's to write.
  await until('the call beside the held one to be journaled', async () => {
    const rows = await ofRun(
      product,
      story,
      `select 1 from steps join this using (run_id) where path = 'turn-2-call-1/read'`,
    );
    return rows.length === 1;
  });
  await shown(product);
  const fence = 'select fence from runs join this using (run_id)';
  const [held] = await ofRun<{ fence: number }>(product, story, fence);
  if (!held) throw new Error('no run');
  const first = product.now;
  first.signal('SIGSTOP');
  // Its answer now waits in the first process's socket, the second one's does not come: whatever is journaled next, the first wrote.
  await product.release();
  await product.held(0);
  await product.fault(hold);

  const second = await product.startAnother();
  await product.held(1);
  const fences = 'select max(fence) as fence from steps join this using (run_id)';
  expect(await ofRun(product, story, fence)).toEqual([{ fence: held.fence + 1 }]);
  expect(await ofRun(product, story, fences)).toEqual([held]);
  const journaled = 'select path from steps join this using (run_id) order by path';
  const before = await ofRun(product, story, journaled);

  first.signal('SIGCONT');
  await until('the first process to work again', async () => {
    // Readiness asks the database, over the pool that the late step went into.
    const answer = await fetch(`${first.url}/readyz`).catch(() => null);
    return answer?.ok;
  });
  for (let asked = 0; asked < 20; asked += 1) await (await fetch(`${first.url}/readyz`)).text();
  expect(await ofRun(product, story, journaled)).toEqual(before);

  await product.release();
  const card = await openCard(product, story);
  await approve(product, card);
  await expectMergedOnce(product, { ...story, card });
  expect(second.output()).not.toContain('parked');
});
