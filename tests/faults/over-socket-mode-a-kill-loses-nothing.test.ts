/**
 * Guarantee: the product over Socket Mode, killed as machines kill. What was acknowledged before happens once after the
 * restart; what was said while nobody was connected is delivered when somebody is again; and a local Slack that was
 * restarted finds the product again, which reconnects by itself.
 */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { launchWorld, stopWorld } from '../../src/local/launch-world.ts';
import { until } from '../support/database.ts';
import { ENGINEERING, REQUESTER } from '../support/people.ts';
import { useProcess } from '../support/process.ts';
import { cardIn, MERGE } from '../support/product.ts';

const product = useProcess(async ({ slack }) => ({
  SLACK_BOT_TOKEN: slack.botToken,
  SLACK_APP_TOKEN: slack.appToken,
  SLACK_API_URL: slack.apiUrl,
}));

test('kill -9, words meanwhile, restart: each mention becomes one task', async () => {
  const before = await product.people.say(REQUESTER, ENGINEERING, MERGE);
  await cardIn(product.people, ENGINEERING, before);

  await product.kill9();
  const meanwhile = await product.people.say(REQUESTER, ENGINEERING, MERGE);
  await product.start();

  await until('both tasks, once each', async () => {
    const { rows } = await product.db.query<{ message_ts: string }>({
      text: 'select message_ts from tasks',
    });
    return rows.length === 2 && rows;
  });
  const { rows } = await product.db.query<{ message_ts: string }>({ text: 'select message_ts from tasks' });
  expect(rows.map((row) => row.message_ts).toSorted()).toEqual([before, meanwhile].toSorted());
  expect(await product.people.sockets()).toHaveLength(1);
});

test('Slack goes and comes back: the product connects again by itself', async () => {
  const worldDir = join(product.stateDir, 'world');
  await stopWorld(worldDir);
  await until('readiness to say no', async () => (await fetch(`${product.now.url}/readyz`)).status === 503);

  await launchWorld({ stateDir: worldDir });
  const ts = await product.people.say(REQUESTER, ENGINEERING, MERGE);

  await until('the task', async () => {
    const { rows } = await product.db.query<{ message_ts: string }>({
      text: 'select message_ts from tasks',
    });
    return rows.some((row) => row.message_ts === ts);
  });
  await until('readiness to say yes', async () => (await fetch(`${product.now.url}/readyz`)).status === 200);
});
