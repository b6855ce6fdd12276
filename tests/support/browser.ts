/**
 * A real Chromium for tests, and a person sitting at the page in it. On Linux the browser comes from the lockfile; elsewhere an installed
 * Chrome serves, and without one the browser tests are skipped, visibly.
 *
 * Invariants: one browser per file, one context (cookies, storage) per seat; a page that raises an error, or asks any other host for
 * anything, fails its test.
 */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { type Browser, type BrowserContext, chromium, type Locator, type Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { GUEST, REQUESTER, REVIEWER_A, REVIEWER_B } from './people.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const PACKAGED = process.platform === 'linux' && process.arch === 'x64';
/** Waits in the page end here: a slow machine gets there, a broken page does not hold up the rest. */
const PAGE_WAIT_MS = 15_000;
export const DESK = { width: 1440, height: 900 };
export const PHONE = { width: 390, height: 844 };
/** Set to `1` to write docs/images anew. */
const WRITES_IMAGES = process.env.COUNTERSIGN_SCREENSHOTS === '1';

export type PersonName = 'requester' | 'reviewer-a' | 'reviewer-b' | 'guest';

const PERSON_IDS: Readonly<Record<PersonName, string>> = {
  requester: REQUESTER,
  'reviewer-a': REVIEWER_A,
  'reviewer-b': REVIEWER_B,
  guest: GUEST,
};

export interface SeatOptions {
  readonly as?: PersonName;
  /** Default DESK. */
  readonly viewport?: { readonly width: number; readonly height: number };
  /** Default `light`. */
  readonly colorScheme?: 'light' | 'dark';
}

/** Call at the top of a file. `pageUrl` is the address that the product printed. */
export function useBrowser(): { open(pageUrl: string, options?: SeatOptions): Promise<Seat> } {
  let browser: Browser | undefined;
  const contexts: BrowserContext[] = [];
  const wrongs: string[] = [];
  beforeAll(async () => {
    browser = await launch();
  });
  afterEach(() => {
    expect(wrongs.splice(0), 'errors in the page, or requests to other hosts').toEqual([]);
  });
  afterAll(async () => {
    for (const context of contexts) await context.close();
    await browser?.close();
  });
  return {
    async open(pageUrl, { as = 'requester', viewport = DESK, colorScheme = 'light' } = {}) {
      if (!browser) throw new Error('useBrowser: not before beforeAll');
      const context = await browser.newContext({
        viewport,
        colorScheme,
        reducedMotion: 'reduce',
        locale: 'en-GB',
      });
      contexts.push(context);
      context.setDefaultTimeout(PAGE_WAIT_MS);
      const page = await context.newPage();
      page.on('pageerror', (error) => wrongs.push(error.message));
      page.on('request', (request) => {
        const { protocol, host } = new URL(request.url());
        if (protocol !== 'data:' && host !== new URL(pageUrl).host) wrongs.push(`asked ${request.url()}`);
      });
      await page.goto(pageUrl);
      const seat = new Seat(page);
      await seat.page.locator('.person').first().waitFor();
      await seat.become(as);
      return seat;
    },
  };
}

/** One person at one window. Everything is done and seen as people do: by labels, words and keys. */
export class Seat {
  readonly page: Page;

  constructor(page: Page) {
    this.page = page;
  }

  get channel(): Locator {
    return this.page.locator('#messages');
  }

  get thread(): Locator {
    return this.page.locator('#replies');
  }

  get repository(): Locator {
    return this.page.locator('#repo');
  }

  get modal(): Locator {
    return this.page.locator('#modal[open]');
  }

  /** One click on the person. */
  async become(name: PersonName): Promise<void> {
    const person = this.page.locator(`[role="radio"][data-person="${PERSON_IDS[name]}"]`);
    await person.click();
    await this.page.locator(`[data-person="${PERSON_IDS[name]}"][aria-checked="true"]`).waitFor();
  }

  /** Types into the channel's box and sends with Enter. */
  async say(text: string): Promise<void> {
    const box = this.page.getByRole('combobox', { name: 'Message' });
    await box.fill(text);
    await box.press('Enter');
    await this.page.locator('#composer-box:placeholder-shown').waitFor();
  }

  /** The newest message of the channel whose words contain `text`, opened as a thread. */
  async openThread(text: string): Promise<void> {
    await this.channel.locator('.message', { hasText: text }).last().locator('.replies').click();
    await this.thread.locator('.message').nth(1).waitFor();
  }

  /** The approval card in the open thread, whatever its state: the newest message that has a Details button. */
  get card(): Locator {
    return this.thread
      .locator('.message', { has: this.page.getByRole('button', { name: 'Details', exact: true }) })
      .last();
  }

  async press(label: string, within: Locator = this.card): Promise<void> {
    await within.getByRole('button', { name: label, exact: true }).click();
  }

  /** Waits until `where` shows `words`. */
  async sees(where: Locator, words: string | RegExp): Promise<void> {
    await where.filter({ hasText: words }).first().waitFor();
  }

  /** Writes docs/images/<name>.png when asked to (COUNTERSIGN_SCREENSHOTS=1). */
  async picture(name: string, of: Locator | Page = this.page): Promise<void> {
    if (!WRITES_IMAGES) return;
    const folder = path.join(ROOT, 'docs/images');
    await mkdir(folder, { recursive: true });
    const viewport = this.page.viewportSize() ?? DESK;
    // A long message is shown whole only in a window that is high enough for it.
    if (of !== this.page) {
      await this.page.setViewportSize({ ...viewport, height: 2_000 });
      const scrolls = (node: unknown) =>
        (node as { scrollIntoView(to: object): void }).scrollIntoView({ block: 'center' });
      await (of as Locator).evaluate(scrolls);
    }
    await this.page.mouse.move(0, 0);
    await of.screenshot({ path: path.join(folder, `${name}.png`), animations: 'disabled' });
    await this.page.setViewportSize(viewport);
  }

  /** How far the page is wider than its window: nobody should have to scroll sideways. */
  overhang(): Promise<number> {
    return this.page.evaluate('document.scrollingElement.scrollWidth - window.innerWidth') as Promise<number>;
  }
}

async function launch(): Promise<Browser> {
  if (!PACKAGED) return chromium.launch({ channel: 'chrome' });
  const { executablePath, fonts, libraries } = await unpacked();
  const env = { ...process.env, ...(existsSync('/etc/fonts') ? {} : { FONTCONFIG_PATH: fonts }) };
  const start = (extra: Record<string, string>): Promise<Browser> =>
    chromium.launch({ executablePath, args: ['--disable-gpu'], env: { ...env, ...extra } });
  return start({}).catch(async (error: unknown) => {
    // A bare image may lack libraries that the package brings along.
    if (!/shared libraries/.test(String(error))) throw error;
    return start({ LD_LIBRARY_PATH: libraries });
  });
}

/** Whether there is a browser here to test with. */
export const hasBrowser =
  PACKAGED ||
  [
    '/Applications/Google Chrome.app',
    'C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe',
    '/opt/google/chrome/chrome',
  ].some((file) => existsSync(file));

/** Unpacks the browser once per installation, beside it. Several files starting together end with one copy. */
async function unpacked(): Promise<{ executablePath: string; fonts: string; libraries: string }> {
  const packageFile = path.join(ROOT, 'node_modules/@sparticuz/chromium/package.json');
  const { version } = JSON.parse(await readFile(packageFile, 'utf8')) as { version: string };
  const cache = path.join(ROOT, 'node_modules/.cache');
  const folder = path.join(cache, `chromium-${version}`);
  if (!existsSync(folder)) {
    await mkdir(cache, { recursive: true });
    const own = await mkdtemp(path.join(cache, 'unpacking-'));
    const { inflate } = (await import('@sparticuz/chromium')) as {
      inflate(file: string): Promise<string>;
    };
    const bin = path.join(path.dirname(createRequire(import.meta.url).resolve(packageFile)), 'bin');
    const before = process.env.TMPDIR;
    // The package unpacks into the folder for temporary files and trusts what lies there from before.
    process.env.TMPDIR = own;
    try {
      const files = ['chromium.br', 'fonts.tar.br', 'swiftshader.tar.br', 'al2023.tar.br'];
      await Promise.all(files.map((file) => inflate(path.join(bin, file))));
    } finally {
      if (before === undefined) delete process.env.TMPDIR;
      else process.env.TMPDIR = before;
    }
    await rename(own, folder).catch(async (error: NodeJS.ErrnoException) => {
      if (!existsSync(folder)) throw error;
      await rm(own, { recursive: true, force: true });
    });
  }
  return {
    executablePath: path.join(folder, 'chromium'),
    fonts: path.join(folder, 'fonts'),
    libraries: path.join(folder, 'al2023', 'lib'),
  };
}
