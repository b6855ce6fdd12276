/**
 * Guarantee: a task cancelled at the command line asks for nothing any more. Its open request is withdrawn in the transaction that cancels
 * it, its thread and the ledger say so, and a click that comes later executes nothing.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { expect, test } from 'vitest';
import { until } from '../support/database.ts';
import { ENGINEERING, REVIEWER_A } from '../support/people.ts';
import { askForMerge, ledgerKinds, useProduct } from '../support/product.ts';

const story = useProduct();

test('its request is withdrawn before the command ends, and nothing is merged', async () => {
  const { ts, card } = await askForMerge(story);
  const { rows } = await story.db.query<{ run_id: string }>({
    text: 'select run_id from tasks where message_ts = $1',
    values: [ts],
  });

  const child = spawn(
    process.execPath,
    ['src/cli.mjs', 'runs', 'cancel', rows[0]?.run_id ?? '', '--reason', 'changed plans'],
    {
      cwd: path.resolve(import.meta.dirname, '../..'),
      env: { PATH: process.env.PATH, DATABASE_URL: story.appUrl },
      stdio: 'ignore',
    },
  );
  const [status] = await once(child, 'exit');

  expect(status).toBe(0);
  const requests = await story.db.query<{ status: string }>({ text: 'select status from approval_requests' });
  expect(requests.rows).toEqual([{ status: 'withdrawn' }]);
  await story.people.click(REVIEWER_A, {
    channel: ENGINEERING,
    ts: card.ts,
    actionId: 'approval.approve',
    stale: true,
  });
  await until('the thread to say so', async () =>
    JSON.stringify(await story.people.thread(ENGINEERING, ts)).includes('changed plans'),
  );
  expect(await ledgerKinds(story, ts)).toEqual(
    expect.arrayContaining(['approval.withdrawn', 'run.cancelled']),
  );
  expect(await story.merges()).toEqual([]);
});
