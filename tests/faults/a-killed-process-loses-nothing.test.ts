/**
 * Guarantee: whenever the process is killed between a mention and its receipt, starting it again finishes the story: the first click counts,
 * the pull request is merged by exactly one call, the reviewer is not asked again, the same card tells the end, the thread gets one
 * receipt, and the ledger holds one entry per transition. What no later action needs ends honestly: a pull request that somebody's
 * approval merged is not merged by another's.
 */
import { expect, test } from 'vitest';
import { until } from '../support/database.ts';
import { ENGINEERING } from '../support/people.ts';
import { useProcess } from '../support/process.ts';
import {
  approve,
  ask,
  expectLedgerVerifies,
  expectMergedOnce,
  mergeCalls,
  ofRun,
  openCard,
  openPull,
  REPAIRED_MS,
  settled,
  shown,
  untilAsked,
} from './story.ts';

/** FAULTS has no number for a restart; people lose patience at about this. */
const CONTINUES_WITHIN_MS = 15_000;

const product = useProcess();

test('killed while the card waits: the first click after the restart is the decision', async () => {
  const story = await untilAsked(product);

  await product.kill9();
  await product.start();
  await approve(product, story.card);

  await expectMergedOnce(product, story);
});

test('killed between the decision and its execution: it is executed after the restart', async () => {
  const story = await untilAsked(product);
  await product.fault({
    match: { method: 'GET', pathPattern: `/pulls/${story.pull}$` },
    kind: 'hold',
  });
  await approve(product, story.card);
  await product.held(1);
  await shown(product);
  const decided =
    'select d.decision from decisions d join approval_requests using (request_id) join this using (run_id)';
  expect(await ofRun(product, story, decided)).toEqual([{ decision: 'approve' }]);
  expect(await ofRun(product, story, 'select 1 as one from executions join this using (run_id)')).toEqual([]);

  await product.kill9();
  await product.start();

  await expectMergedOnce(product, story);
});

test('killed between the merge and its record: the merge is found, not repeated', async () => {
  const story = await untilAsked(product);
  await product.fault({
    match: { method: 'PUT', pathPattern: `/pulls/${story.pull}/merge$` },
    kind: 'hold',
  });
  await approve(product, story.card);
  await product.held(1);
  await shown(product);
  expect(await mergeCalls(product, story)).toMatchObject([{ status: 200, performed: true }]);
  expect(await ofRun(product, story, 'select outcome from executions join this using (run_id)')).toEqual([
    { outcome: null },
  ]);

  await product.kill9();
  const { startedInMs, readyAtMs } = await product.start();
  const [recorded] = await until('the merge to be recorded', async () => {
    const rows = await ofRun<{ at: Date }>(
      product,
      story,
      `select finished_at as at from executions join this using (run_id) where outcome = 'done'`,
    );
    return rows.length > 0 && rows;
  });
  const continuedAfterMs = Math.max(0, (recorded?.at.getTime() ?? Number.NaN) - readyAtMs);

  process.stdout.write(
    `restart: ready in ${startedInMs} ms, the run continued ${continuedAfterMs} ms later\n`,
  );
  expect(continuedAfterMs).toBeLessThan(CONTINUES_WITHIN_MS);
  await expectMergedOnce(product, story);
});

test('five open cards outlive a kill: the first approved one merges, the others end honestly', async () => {
  const pull = await openPull(product);
  const stories = [];
  for (let count = 0; count < 5; count += 1) stories.push(await ask(product, pull));
  const asked = await Promise.all(
    stories.map(async (story) => ({ ...story, card: await openCard(product, story) })),
  );
  for (const story of asked) await settled(product, story);

  await product.kill9();
  await product.start();
  const [oldest, ...others] = asked;
  if (!oldest) throw new Error('no story');
  await approve(product, oldest.card);
  await expectMergedOnce(product, oldest);
  await Promise.all(others.map((story) => approve(product, story.card)));

  for (const story of others) {
    const told = await until(
      'the thread to tell that the target changed',
      async () => {
        const messages = await product.people.thread(ENGINEERING, story.ts);
        const text = JSON.stringify(messages.map((message) => message.blocks));
        return text.includes('is merged') && text.includes('Changed since review') && text;
      },
      REPAIRED_MS,
    );
    expect(told).not.toContain('approval.approve');
    expect(
      await ofRun(
        product,
        story,
        `select r.status, q.status as request, q.changes->0->>'path' as changed,
           (select count(*) from executions x where x.run_id = r.run_id) as executions
         from runs r join this using (run_id) join approval_requests q using (run_id)`,
      ),
    ).toEqual([{ status: 'completed', request: 'superseded', changed: '/state', executions: 0 }]);
  }
  expect(await mergeCalls(product, oldest)).toHaveLength(1);
  await expectLedgerVerifies(product);
});
