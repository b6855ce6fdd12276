/**
 * Guarantee: the local world outlives the product and its own death. What it answered before a kill -9 is there after
 * the relaunch, at the same addresses with the same tokens; an event that was not acknowledged is delivered then; two
 * launchers end with one world; stopping it frees the folder.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { LogLevel, WebClient } from '@slack/web-api';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { launchWorld, stopWorld, worldPid } from '../../src/local/launch-world.ts';
import { startWorld, type World, WorldHeld } from '../../src/local/world.ts';
import { ENGINEERING, GENERAL, MENTION, People, REQUESTER } from '../support/people.ts';
import { startReceiver } from './local-slack-receiver.ts';

const NOWHERE = 'http://127.0.0.1:9/slack/events';

let stateDir: string;

beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'local-world-'));
});

afterEach(async () => {
  await stopWorld(stateDir);
  await rm(stateDir, { recursive: true });
});

function bot(world: World): WebClient {
  return new WebClient(world.slack.botToken, {
    slackApiUrl: world.slack.apiUrl,
    logLevel: LogLevel.ERROR,
    retryConfig: { retries: 0 },
  });
}

async function killHard(): Promise<void> {
  const pid = await worldPid(stateDir);
  if (pid === undefined) throw new Error('no world to kill');
  process.kill(pid, 'SIGKILL');
  await new People({ controlUrl: '', controlToken: '' }).until(
    async () => (await worldPid(stateDir)) === undefined,
  );
}

test('everything answered before kill -9 is there after the relaunch', async () => {
  const before = await launchWorld({ stateDir, eventsUrl: NOWHERE });
  // Much state makes each save slow: an answer that ran ahead of its save would be caught out.
  const bulk = Array.from({ length: 150 }, () =>
    bot(before).chat.postMessage({ channel: GENERAL, text: 'x'.repeat(40_000) }),
  );
  await Promise.all(bulk);
  const pid = await worldPid(stateDir);
  if (pid === undefined) throw new Error('no world to kill');

  const answered: string[] = [];
  const posts = Array.from({ length: 60 }, async (_, count) => {
    const { ts } = await bot(before).chat.postMessage({ channel: ENGINEERING, text: `post ${count}` });
    answered.push(String(ts));
    process.kill(pid, 'SIGKILL');
  });
  await Promise.allSettled(posts);

  const after = await launchWorld({ stateDir, eventsUrl: NOWHERE });
  expect(after.slack).toEqual(before.slack);
  expect(after.pageUrl).toBe(before.pageUrl);
  const kept = new Set((await new People(after).messages(ENGINEERING)).map((one) => one.ts));
  expect(answered.length).toBeGreaterThan(0);
  expect(answered.filter((ts) => !kept.has(ts))).toEqual([]);
  const next = await bot(after).chat.postMessage({ channel: ENGINEERING, text: 'later' });
  expect([...kept].every((ts) => ts < String(next.ts))).toBe(true);
});

test('an event nobody took is delivered after a restart of the world, with the same id', async () => {
  const before = await launchWorld({ stateDir, eventsUrl: NOWHERE });
  await new People(before).say(REQUESTER, ENGINEERING, `${MENTION} are you there?`);
  const pending = await new People(before).until(async () => {
    const all = await new People(before).deliveries();
    return all.every((one) => one.attempts.length > 0) && all.find((one) => one.eventType === 'app_mention');
  });
  await killHard();

  const app = await startReceiver(before.slack.signingSecret);
  const after = await launchWorld({ stateDir, eventsUrl: app.url });
  await new People(after).until(() => app.events('app_mention').length === 1);
  expect(app.events('app_mention')[0]?.json.event_id).toBe(pending.eventId);
  expect(app.events('app_mention')[0]?.headers['x-slack-retry-num']).toBeDefined();
  await app.close();
});

test('a living world is adopted, and told where the app is now', async () => {
  const first = await launchWorld({ stateDir, eventsUrl: NOWHERE });
  const pid = await worldPid(stateDir);
  await first.close();
  const app = await startReceiver(first.slack.signingSecret);

  const second = await launchWorld({ stateDir, eventsUrl: app.url });
  await new People(second).say(REQUESTER, 'dm', 'hello');

  expect(await worldPid(stateDir)).toBe(pid);
  await new People(second).until(() => app.events('message').length === 1);
  await app.close();
});

test('launchers that race end with one world, and with no spare process that could become another', async () => {
  const launch = (): Promise<World> => launchWorld({ stateDir, eventsUrl: NOWHERE });
  const launches = [launch(), launch()];
  // Latecomers while the first becomes ready: some have only just started a process when they find the world.
  for (let count = 0; count < 6; count += 1) {
    await new Promise((resolve) => setTimeout(resolve, 60));
    launches.push(launch());
  }
  const worlds = await Promise.all(launches);

  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'args']);
  expect(stdout.split('\n').filter((line) => line.includes(stateDir))).toHaveLength(1);
  expect(new Set(worlds.map((world) => world.pageUrl)).size).toBe(1);
  await expect(startWorld({ stateDir })).rejects.toBeInstanceOf(WorldHeld);
});

test('killing the launcher does not kill the world', async () => {
  const module = join(import.meta.dirname, '../../src/local/launch-world.ts');
  const script = `
    const { launchWorld } = await import(${JSON.stringify(module)});
    await launchWorld({ stateDir: ${JSON.stringify(stateDir)}, eventsUrl: ${JSON.stringify(NOWHERE)} });
    process.kill(process.pid, 'SIGKILL');`;
  const ended = promisify(execFile)(process.execPath, ['--input-type=module', '--eval', script]);

  await expect(ended).rejects.toMatchObject({ signal: 'SIGKILL' });
  expect(await worldPid(stateDir)).toBeGreaterThan(0);
});

test('files that hold secrets are for their owner only', async () => {
  await launchWorld({ stateDir, eventsUrl: NOWHERE });
  for (const file of ['world-secrets.json', 'world.json', 'slack.json']) {
    expect((await stat(join(stateDir, file))).mode & 0o077, file).toBe(0);
  }
});

test('a stale world.json whose port answers with another nonce is not believed', async () => {
  await launchWorld({ stateDir, eventsUrl: NOWHERE });
  const path = join(stateDir, 'world.json');
  const honest = await readFile(path, 'utf8');
  await writeFile(path, honest.replace(/"nonce": "[0-9a-f]+"/, '"nonce": "other"'));

  expect(await worldPid(stateDir)).toBeUndefined();
  await writeFile(path, honest);
});

test('a world that cannot start says so and names its log', async () => {
  await writeFile(join(stateDir, 'slack.json'), 'not json');

  await expect(launchWorld({ stateDir, eventsUrl: NOWHERE })).rejects.toThrow(join(stateDir, 'world.log'));
});
