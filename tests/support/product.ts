/**
 * The whole product in the test's process, over a database of the file and a local world of its own: real Bolt, real SDKs, real HTTP.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import type { Config } from '../../src/config.ts';
import { type StartedWorld, startWorld } from '../../src/local/world.ts';
import { type Product, startProduct } from '../../src/main.ts';
import { SUSPEND, type TestDatabase, testLog, until, useDatabase } from './database.ts';
import { ENGINEERING, MENTION, People, REQUESTER } from './people.ts';

export const TEAM = 'T0LOCAL';

export interface GitHubWrite {
  readonly method: string;
  readonly path: string;
  readonly status: number | null;
  readonly performed: boolean;
}

/** The fields of GitHub's answers that tests look at. */
export interface GitHubAnswer {
  readonly merged?: boolean;
  readonly state?: string;
  readonly sha?: string;
  readonly head?: { readonly sha: string; readonly ref: string };
  readonly object?: { readonly sha: string };
  readonly tree?: { readonly sha: string };
  readonly writes?: readonly GitHubWrite[];
}

export interface TestProduct extends TestDatabase {
  readonly world: StartedWorld;
  readonly people: People;
  readonly product: Product;
  readonly config: Config;
  /** Stops and starts the product in this process; the world and the database stay. */
  restart(): Promise<void>;
  github(method: string, path: string, body?: unknown): Promise<{ status: number; body: GitHubAnswer }>;
  /** Merges that GitHub carried out. */
  merges(): Promise<GitHubWrite[]>;
}

/**
 * Policy people and the digest's settings may be changed per file (by default no digest is posted), and how Slack's events come. Call at the
 * top of a file.
 */
export function useProduct(
  policy: object = {},
  {
    by = 'http',
    digest = {},
  }: { readonly by?: 'http' | 'socket'; readonly digest?: Partial<Config['digest']> } = {},
): TestProduct {
  const base = useDatabase();
  let stateDir = '';
  let world: StartedWorld | undefined;
  let product: Product | undefined;
  let people: People | undefined;
  const up = <T>(value: T | undefined): T => {
    if (value === undefined) throw new Error('useProduct: not before beforeAll');
    return value;
  };
  const configOf = (): Config => ({
    databaseUrl: base.appUrl,
    databaseAdminUrl: base.adminUrl,
    slack: {
      botToken: up(world).slack.botToken,
      receiver:
        by === 'socket'
          ? { kind: 'socket', appToken: up(world).slack.appToken }
          : { kind: 'http', signingSecrets: [up(world).slack.signingSecret] },
      apiUrl: up(world).slack.apiUrl,
    },
    model: {
      apiKey: up(world).model.apiKey,
      baseUrl: up(world).model.baseUrl,
      name: 'scripted',
      label: 'scripted model',
    },
    github: { token: up(world).github.token, apiUrl: up(world).github.apiUrl, credential: 'local-github' },
    policy: {
      admins: [],
      reviewers: ['U0REVIEWERA', 'U0REVIEWERB'].map((userId) => ({ teamId: TEAM, userId })),
      requesters: 'members',
      ...policy,
    },
    applyPolicy: true,
    mayWrite: true,
    digest: { timeZone: 'Etc/UTC', channelId: null, ...digest },
    host: '127.0.0.1',
    port: 0,
    logLevel: 'silent',
    suspendAfterEveryStep: SUSPEND,
  });
  const start = async () => {
    product = await startProduct(configOf(), testLog);
    if (by === 'http') await up(world).connect(`http://127.0.0.1:${product.address.port}/slack/events`);
  };
  const test: TestProduct = Object.assign(Object.create(base) as TestDatabase, {
    restart: async () => {
      await up(product).stop();
      await start();
    },
    github: async (method: string, route: string, body?: unknown) => {
      const response = await fetch(
        new URL(route.replace(/^\//, ''), `${up(world).github.apiUrl.replace(/\/$/, '')}/`),
        {
          method,
          headers: { authorization: `Bearer ${up(world).github.token}`, 'content-type': 'application/json' },
          ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        },
      );
      const text = await response.text();
      return { status: response.status, body: text === '' ? null : JSON.parse(text) };
    },
    merges: async () => {
      const { body } = await test.github('GET', '/_control/writes');
      const writes = Array.isArray(body) ? (body as GitHubWrite[]) : (body.writes ?? []);
      return writes.filter(
        (write) => write.method === 'PUT' && write.path.endsWith('/merge') && write.performed,
      );
    },
  }) as TestProduct;
  Object.defineProperties(test, {
    world: { get: () => up(world) },
    people: { get: () => up(people) },
    product: { get: () => up(product) },
    config: { get: configOf },
  });
  beforeAll(async () => {
    stateDir = await mkdtemp(path.join(tmpdir(), 'countersign-world-'));
    world = await startWorld({ stateDir, redeliveryScale: 0.001 });
    people = new People(world);
    await start();
  });
  afterAll(async () => {
    await product?.stop();
    await world?.close();
    await rm(stateDir, { recursive: true, force: true });
  });
  return test;
}

export const MERGE = `${MENTION} merge pull request 1 in acme/shop`;

/** A message of the bot in this thread that has a button with this action id. */
export async function cardIn(people: People, channel: string, thread: string) {
  return until('an approval card', async () => {
    const messages = await people.thread(channel, thread);
    return messages.findLast((message) =>
      JSON.stringify(message.blocks ?? []).includes('"approval.approve"'),
    );
  });
}

/** Asks for the merge as the requester and waits for its card. */
export async function askForMerge(test: TestProduct) {
  const ts = await test.people.say(REQUESTER, ENGINEERING, MERGE);
  const card = await cardIn(test.people, ENGINEERING, ts);
  return { ts, card };
}

/** Pushes another commit to the branch of pull request 1 and returns its new head. */
export async function moveHead(test: TestProduct): Promise<string> {
  const repo = '/repos/acme/shop';
  const before = await test.github('GET', `${repo}/git/ref/heads/fix-rounding`);
  const parent = before.body.object?.sha ?? '';
  const commit = await test.github('GET', `${repo}/git/commits/${parent}`);
  const tree = await test.github('POST', `${repo}/git/trees`, {
    base_tree: commit.body.tree?.sha,
    tree: [{ path: 'NOTES.md', mode: '100644', type: 'blob', content: `moved at ${Date.now()}\n` }],
  });
  const made = await test.github('POST', `${repo}/git/commits`, {
    message: 'Add notes',
    tree: tree.body.sha,
    parents: [parent],
  });
  await test.github('PATCH', `${repo}/git/refs/heads/fix-rounding`, { sha: made.body.sha });
  return made.body.sha ?? '';
}

/** Ledger kinds of the newest run, in order. */
export async function ledgerKinds(test: TestProduct, threadTs: string): Promise<string[]> {
  const { rows } = await test.db.query<{ entry_kind: string }>({
    text: `select entry_kind from ledger_entries where subject_kind = 'run'
             and subject_id = (select run_id::text from tasks where message_ts = $1) order by subject_seq`,
    values: [threadTs],
  });
  return rows.map((row) => row.entry_kind);
}
