/**
 * The subject `story`: what a person waits for, measured on the product as `npm start` runs it, against the local Slack and GitHub.
 *
 * Each time stands beside the same by a bare program at the other end of the same local Slack and GitHub: it answers and does at once what
 * the product does after storing, judging and journaling. Invariant: times are taken where people and services are, not in the product.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { launchWorld, stopWorld } from '../src/local/launch-world.ts';
import type { World } from '../src/local/world.ts';
import { ENGINEERING, MENTION, People, REQUESTER, REVIEWER_A } from '../tests/support/people.ts';
import { freePort, type Spawned, spawnProduct } from '../tests/support/spawn.ts';
import type { BenchOptions } from './main.ts';
import { type Figure, figure, median, printFigure, printTable, say } from './report.ts';
import { type BareApp, openBareApp } from './story/bare-app.ts';
import { SetupRefused } from './world.ts';

const ROUNDS = 3;
const STORIES = 6;
const WARM_UP = 2;
const REPO = '/repos/acme/shop';
/** Nothing is asked of it for so long before its memory is read. */
const IDLE_MS = 5_000;
const MB = 1024 * 1024;

/** What one person waited for, in ms. */
interface Waited {
  readonly reaction: number;
  readonly ack: number;
  readonly execution: number;
}

export async function benchStory({ quiet, only, url }: BenchOptions): Promise<boolean> {
  if (url !== undefined) throw new SetupRefused('story starts its own PostgreSQL; --url is not for it', 1);
  const stateDir = await mkdtemp(path.join(tmpdir(), 'countersign-bench-story-'));
  const worldDir = path.join(stateDir, 'world');
  let product: Spawned | undefined;
  let bare: BareApp | undefined;
  try {
    if (!quiet) say(`load before: ${loadavg()[0]?.toFixed(2)}`);
    product = await spawnProduct({ stateDir, port: await freePort() });
    const world = await launchWorld({ stateDir: worldDir });
    bare = await openBareApp(world);
    const people = new People(world);
    const eventsUrl = `${product.url}/slack/events`;

    const measured: Waited[] = [];
    const floor: Waited[] = [];
    for (let round = -1; round < ROUNDS; round += 1) {
      await people.connect(bare.eventsUrl);
      const atFloor = await stories(world, people, round < 0 ? WARM_UP : STORIES);
      await people.connect(eventsUrl);
      const atProduct = await stories(world, people, round < 0 ? WARM_UP : STORIES);
      if (round < 0) continue;
      floor.push(atFloor);
      measured.push(atProduct);
    }
    await pause(IDLE_MS);
    const resident: number[] = [];
    for (let n = 0; n < ROUNDS; n += 1) resident.push((await residentBytes(product.pid)) / MB);

    const within = (name: string, key: keyof Waited, mostMs: number): Figure =>
      figure({
        name,
        unit: 'ms',
        rounds: measured.map((waited) => waited[key]),
        floorRounds: floor.map((waited) => waited[key]),
        target: { words: `< ${mostMs} ms`, met: (value) => value < mostMs },
      });
    const figures = [
      within('mention-to-reaction', 'reaction', 1_000),
      within('click-to-ack', 'ack', 100),
      within('click-to-execution', 'execution', 250),
      figure({
        name: 'idle-memory',
        unit: 'MB',
        rounds: resident,
        target: { words: '< 200 MB', met: (value) => value < 200 },
      }),
    ].filter(({ name }) => only === undefined || name.startsWith(only));
    for (const one of figures) printFigure(one);
    if (!quiet) printTable(figures);
    return figures.every(({ ok }) => ok);
  } finally {
    await bare?.close();
    product?.signal('SIGTERM');
    await product?.exited;
    await stopWorld(worldDir);
    await rm(stateDir, { recursive: true, force: true });
  }
}

/** Medians over some stories, one after another: a pull request each, a mention, a card, a click. */
async function stories(world: World, people: People, count: number): Promise<Waited> {
  const waited: Waited[] = [];
  for (let n = 0; n < count; n += 1) waited.push(await story(world, people));
  const of = (key: keyof Waited): number => median(waited.map((one) => one[key]));
  return { reaction: of('reaction'), ack: of('ack'), execution: of('execution') };
}

async function story(world: World, people: People): Promise<Waited> {
  const pull = await openPull(world);
  const saidAtMs = Date.now();
  const ts = await people.say(REQUESTER, ENGINEERING, `${MENTION} merge pull request ${pull} in acme/shop`);
  const reaction = await people.until(
    async () =>
      (await people.calls('reactions.add')).find((call) => call.args.timestamp === ts && call.performed),
    { what: 'a reaction' },
  );
  const card = await people.until(
    async () =>
      (await people.thread(ENGINEERING, ts)).findLast((message) =>
        JSON.stringify(message.blocks ?? []).includes('"approval.approve"'),
      ),
    { what: 'a card', timeoutMs: 30_000 },
  );
  const clickedAtMs = Date.now();
  const click = await people.click(REVIEWER_A, {
    channel: ENGINEERING,
    ts: card.ts,
    actionId: 'approval.approve',
  });
  if (click.ackStatus !== 200) throw new Error(`the click was answered with ${click.ackStatus}`);
  const merge = await people.until(
    async () => {
      const writes = await github<{ method: string; path: string; at: string }[]>(
        world,
        'GET',
        '/_control/writes',
      );
      return writes.find(({ method, path }) => method === 'PUT' && path === `${REPO}/pulls/${pull}/merge`);
    },
    { what: 'a merge' },
  );
  return {
    reaction: reaction.atMs - saidAtMs,
    ack: click.ackMs,
    execution: Date.parse(merge.at) - clickedAtMs,
  };
}

async function openPull(world: World): Promise<number> {
  const main = await github<{ object: { sha: string } }>(world, 'GET', `${REPO}/git/ref/heads/main`);
  const branch = `bench-${process.hrtime.bigint()}`;
  await github(world, 'POST', `${REPO}/git/refs`, { ref: `refs/heads/${branch}`, sha: main.object.sha });
  await github(world, 'PUT', `${REPO}/contents/notes/${branch}.md`, {
    message: 'Add a note',
    content: Buffer.from(`${branch}\n`).toString('base64'),
    branch,
  });
  const opened = await github<{ number: number }>(world, 'POST', `${REPO}/pulls`, {
    title: `Add ${branch}`,
    head: branch,
    base: 'main',
  });
  return opened.number;
}

async function github<T>(world: World, method: string, route: string, body?: unknown): Promise<T> {
  const response = await fetch(`${world.github.apiUrl.replace(/\/$/, '')}${route}`, {
    method,
    headers: { authorization: `Bearer ${world.github.token}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  if (!response.ok) throw new Error(`${method} ${route}: ${response.status} ${await response.text()}`);
  return (await response.json()) as T;
}

/** Of the one process that `npm start` starts for the product; its database and local world are others. */
async function residentBytes(pid: number): Promise<number> {
  const { stdout } = await promisify(execFile)('ps', ['-o', 'rss=', '-p', String(pid)]);
  return Number(stdout.trim()) * 1024;
}
