/**
 * Guarantee: every message the product makes, in every state, is drawn whole by the page: nothing is left as raw markup, no block is
 * unknown, nothing is wider than a phone. With COUNTERSIGN_SCREENSHOTS=1 the same writes docs/images/card-<state>.png.
 */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { LogLevel, WebClient } from '@slack/web-api';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startWorld, type World } from '../../src/local/world.ts';
import { hasBrowser, PHONE, useBrowser } from '../support/browser.ts';
import { ENGINEERING, People } from '../support/people.ts';

const GOLDEN = path.resolve(import.meta.dirname, '../golden/blocks');

describe.skipIf(!hasBrowser)('the page', () => {
  const browser = useBrowser();
  let stateDir = '';
  let world: World;
  const cards = new Map<string, string>();

  beforeAll(async () => {
    stateDir = await mkdtemp(path.join(tmpdir(), 'countersign-cards-'));
    world = await startWorld({ stateDir });
    const people = new People(world);
    const slack = new WebClient(world.slack.botToken, {
      slackApiUrl: world.slack.apiUrl,
      logLevel: LogLevel.ERROR,
    });
    for (const [id, name] of [
      ['UREQUESTER', 'requester'],
      ['UREVIEWERA', 'reviewer-a'],
      ['UREVIEWERB', 'reviewer-b'],
    ] as const)
      await people.user(id, { name });
    for (const file of (await readdir(GOLDEN)).filter((name) => name.endsWith('.json'))) {
      const drawn = JSON.parse(await readFile(path.join(GOLDEN, file), 'utf8'));
      const blocks = Array.isArray(drawn) ? drawn : drawn.blocks;
      const { ts } = await slack.chat.postMessage({ channel: ENGINEERING, text: file, blocks });
      cards.set(file.replace('.json', ''), String(ts));
    }
  });

  afterAll(async () => {
    await world.close();
    await rm(stateDir, { recursive: true, force: true });
  });

  it('draws every kind of card, task and receipt', async () => {
    const seat = await browser.open(world.pageUrl, { viewport: { width: 900, height: 900 } });
    expect(cards.size).toBeGreaterThan(15);
    for (const [name, ts] of cards) {
      const message = seat.channel.locator(`[data-key="${ts}"]`);
      const words = await message.innerText();
      expect(words.length, name).toBeGreaterThan(30);
      // A hostile card shows hostile text: there only our own marks are looked for.
      if (!name.includes('hostile')) expect(words, name).not.toMatch(/<@|<!|&(amp|lt|gt);|\*\w/);
      expect(await message.locator('.b-unknown').count(), name).toBe(0);

      if (/^card-(?!.*(hostile|not-fit))/.test(name)) await seat.picture(name, message);
    }
  });

  it('lets no hostile text become anything but text', async () => {
    const seat = await browser.open(world.pageUrl);
    const hostile = seat.channel.locator(`[data-key="${cards.get('card-pending-hostile')}"]`);
    await hostile.waitFor();
    expect(await hostile.locator('img, script, iframe, a').count()).toBe(0);
    expect(await hostile.getByRole('button', { name: 'Approve', exact: true }).count()).toBe(1);
  });

  it('keeps all of them inside a phone', async () => {
    const seat = await browser.open(world.pageUrl, { viewport: PHONE });
    await seat.channel.locator('.message').last().waitFor();
    expect(await seat.overhang()).toBe(0);
    const wide = await seat.page.evaluate(
      "[...document.querySelectorAll('#messages .message')].filter((one) => one.scrollWidth > one.clientWidth + 1).length",
    );
    expect(wide).toBe(0);
  });
});
