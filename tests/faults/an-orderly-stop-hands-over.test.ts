/**
 * Guarantee: asked to end (SIGTERM), the process takes no more work, lets a step in flight finish or gives its run back, and ends with
 * status 0 within 25 seconds; a message on its way to Slack is recorded, and a press in flight handled, before the process gives up its
 * lease; the next start completes the run as if nothing had happened.
 */
import { expect, test } from 'vitest';
import { until } from '../support/database.ts';
import { ENGINEERING, REVIEWER_A } from '../support/people.ts';
import { STOP_MS, useProcess } from '../support/process.ts';
import { askForMerge, useProduct } from '../support/product.ts';
import { approve, ask, expectMergedOnce, ofRun, openCard, openPull, type Story } from './story.ts';

const product = useProcess();
/** In the test's own process: its world and its database are there to be asked while it stops. */
const here = useProduct();

test('a step that ends in time is recorded before the process ends, and not repeated', async () => {
  const pull = await openPull(product);
  await product.fault({ match: { method: 'GET', pathPattern: '/compare/' }, kind: 'hold' });
  const story = await ask(product, pull);
  await product.held(1);
  const read = `select fence from steps join this using (run_id) where path like 'turn-2-call-0/%'`;
  expect(await ofRun(product, story, read)).toEqual([]);
  const held = await ofRun(product, story, 'select fence from runs join this using (run_id)');

  const { url } = product.now;
  const stopping = product.stop();
  await until(
    'no more requests to be taken',
    async () => (await fetch(`${url}/healthz`).catch(() => null)) === null,
  );
  await product.release();
  const { code, tookMs } = await stopping;
  expect(code).toBe(0);
  expect(tookMs).toBeLessThan(STOP_MS);

  await product.start();
  expect(await ofRun(product, story, read)).toEqual(held);
  const card = await openCard(product, story);
  await approve(product, card);
  await expectMergedOnce(product, { ...story, card });
});

/** Stops in order and in time; the next start brings the story to its one merge. */
async function stopAndFinish(story: Story): Promise<void> {
  const { code, tookMs } = await product.stop();
  expect(code).toBe(0);
  expect(tookMs).toBeLessThan(STOP_MS);

  await product.start();
  const card = await openCard(product, story);
  await approve(product, card);
  await expectMergedOnce(product, { ...story, card });
}

test('a step that does not end is given up in time, and done after the next start', async () => {
  const pull = await openPull(product);
  await product.fault({ match: { method: 'GET', pathPattern: '/compare/' }, kind: 'hold' });
  const story = await ask(product, pull);
  await product.held(1);

  await stopAndFinish(story);
});

test('a message on its way to Slack is recorded before the process ends', async () => {
  const pull = await openPull(product);
  const looks = await product.people.calls('conversations.replies');
  await product.people.fault({ method: 'chat.postMessage', kind: 'delay_after', delayMs: 5_000 });
  const story = await ask(product, pull);
  await until(
    'the post to arrive',
    async () => (await product.people.thread(ENGINEERING, story.ts)).length === 2,
  );

  await stopAndFinish(story);
  // Nobody had to look for it.
  expect(await product.people.calls('conversations.replies')).toEqual(looks);
});

test('a press that is being handled is no other process’s before it is handled', async () => {
  const { card } = await askForMerge(here);
  await here.people.fault({ method: 'views.open', kind: 'delay_after', delayMs: 2_000 });
  const clicked = { channel: ENGINEERING, ts: card.ts, actionId: 'approval.details' };
  const press = async () => {
    const { rows } = await here.db.query<{ status: string; open: boolean }>({
      text: `select status, claim_is_open(claimed_by, claimed_until) as open from inbox where source = 'interaction'`,
    });
    return rows[0];
  };
  await here.people.click(REVIEWER_A, clicked);
  await until('the press to be claimed', async () => (await press())?.open === false);

  const stopping = here.product.stop();
  const end = await until('the press to be handled or given away', async () => {
    const row = await press();
    return row !== undefined && (row.status !== 'stored' || row.open) && row.status;
  });
  await stopping;

  expect(end).toBe('handled');
});
