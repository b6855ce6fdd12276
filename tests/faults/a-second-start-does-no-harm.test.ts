/**
 * Guarantee: starting the product twice in one folder harms neither. On the same port the second says where the first is, and goes; on a port
 * of its own it shares the local database, Slack and GitHub, and when it ends the first has them all again. The command line beside it finds
 * the database by itself.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { ENGINEERING, MENTION, REQUESTER } from '../support/people.ts';
import { useProcess } from '../support/process.ts';
import { spawnProduct } from '../support/spawn.ts';

const product = useProcess();

test('on the same port it says where the first one is', async () => {
  const { url, pageUrl } = product.now;
  const second = spawnProduct({ stateDir: product.stateDir, port: Number(new URL(url).port) });

  await expect(second).rejects.toThrow(`Countersign runs in this folder already: open ${pageUrl}`);
  expect((await fetch(`${url}/readyz`)).status).toBe(200);
});

test('on a port of its own it shares the local parts, and leaves them to the first', async () => {
  const second = await product.startAnother();
  second.signal('SIGTERM');
  expect(await second.exited).toBe(0);

  expect((await fetch(`${product.now.url}/readyz`)).status).toBe(200);
  const ts = await product.people.say(REQUESTER, ENGINEERING, `${MENTION} merge pull request 1 in acme/shop`);
  const seen = await product.people.until(
    async () =>
      (await product.people.calls('reactions.add')).find(
        (call) => call.args.timestamp === ts && call.performed,
      ),
    { what: 'a reaction of the first one' },
  );
  expect(seen).toBeDefined();
});

test('the command line in the same folder finds its database', async () => {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['src/cli.mjs', 'ledger', 'verify', '--json'],
    { env: { PATH: process.env.PATH, COUNTERSIGN_STATE_DIR: product.stateDir } },
  );
  expect(JSON.parse(stdout)).toMatchObject({ firstBad: null });
});
