/**
 * Guarantee: whatever keeps a command from working, its user reads exactly one clear line on standard error: no stack trace, no secret,
 * a status other than 0, within ten seconds. (The parser of the command line may add its one-line hint.)
 *
 * Every case runs `src/cli.mjs` as a process of its own with nothing but the variables it names.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectDatabase, type Database } from '../../src/jobs/engine/db.ts';
import { appendEntry, sealOnce } from '../../src/jobs/ledger.ts';
import { type StartedWorld, startWorld } from '../../src/local/world.ts';
import { testLog, useDatabase, WORKSPACE } from '../support/database.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const FAILS_WITHIN_MS = 10_000;
/** Nothing listens on port 1 of a loopback address. */
const NOWHERE = '127.0.0.1:1';
const HINT = '(countersign --help lists the commands)';
const PASSWORD = 'hunter2-do-not-print';

const base = useDatabase();
let folder: string;
let world: StartedWorld;
let owner: Database;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'countersign-cli-'));
  world = await startWorld({ stateDir: path.join(folder, 'world') });
  owner = connectDatabase({ url: base.adminUrl, log: testLog, maxConnections: 1 });
});
afterAll(async () => {
  await owner.close();
  await world.close();
  await rm(folder, { recursive: true, force: true });
});

interface Ended {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
  readonly durationMs: number;
}

function countersign(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
  nodeArgs: readonly string[] = [],
): Promise<Ended> {
  const started = Date.now();
  const child = spawn(process.execPath, [...nodeArgs, 'src/cli.mjs', ...args], {
    cwd: ROOT,
    // Somebody may be running the product in this very checkout.
    env: { PATH: process.env.PATH, COUNTERSIGN_STATE_DIR: path.join(folder, 'nothing'), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [out, err] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    err += text;
  });
  // A command that hangs is cut off, and then its status is null.
  const cut = setTimeout(() => child.kill('SIGKILL'), FAILS_WITHIN_MS + 5_000);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status) => {
      clearTimeout(cut);
      resolve({ status, out, err, durationMs: Date.now() - started });
    });
  });
}

/** The one line on standard error, after checking that it is one and says nothing it should not. */
function oneLine(ended: Ended, secrets: readonly string[] = []): string {
  const lines = ended.err.split('\n').filter((line) => line !== '' && line !== HINT);
  expect(lines, ended.err).toHaveLength(1);
  expect(ended.err).not.toMatch(/^\s+at |node:internal|\.ts:\d+|\[object |undefined/m);
  for (const secret of [PASSWORD, ...secrets]) {
    expect(ended.err).not.toContain(secret);
    expect(ended.out).not.toContain(secret);
  }
  expect(ended.status, 'status').toBeGreaterThan(0);
  expect(ended.durationMs).toBeLessThan(FAILS_WITHIN_MS);
  return lines[0] ?? '';
}

async function policyFile(content: string): Promise<string> {
  const file = path.join(folder, `policy-${Math.random().toString(36).slice(2)}.json`);
  await writeFile(file, content);
  return file;
}

/** A whole configuration of `serve` against the local world; each case breaks one part. */
async function serveVariables(
  change: Readonly<Record<string, string>> = {},
): Promise<Record<string, string>> {
  const reviewers = ['U0REVIEWERA', 'U0REVIEWERB'].map((userId) => ({ teamId: world.slack.teamId, userId }));
  return {
    DATABASE_URL: base.appUrl,
    SLACK_BOT_TOKEN: world.slack.botToken,
    SLACK_SIGNING_SECRET: world.slack.signingSecret,
    SLACK_API_URL: world.slack.apiUrl,
    ANTHROPIC_API_KEY: world.model.apiKey,
    ANTHROPIC_BASE_URL: world.model.baseUrl,
    GITHUB_TOKEN: world.github.token,
    GITHUB_API_URL: world.github.apiUrl,
    COUNTERSIGN_POLICY: await policyFile(JSON.stringify({ admins: [], reviewers, requesters: 'members' })),
    PORT: '0',
    ...change,
  };
}

describe('a malformed configuration is named', () => {
  it.each([
    ['PORT', 'abc'],
    ['PORT', '70000'],
    ['DATABASE_URL', `mysql://app:${PASSWORD}@127.0.0.1/countersign`],
    ['DATABASE_URL', `app:${PASSWORD}@127.0.0.1`],
    ['SLACK_BOT_TOKEN', `xoxp-${PASSWORD}`],
    ['SLACK_SIGNING_SECRET', 'too-short'],
    ['SLACK_API_URL', 'not a url'],
    ['COUNTERSIGN_LOG_LEVEL', 'loud'],
  ])('%s=%s', async (name, value) => {
    const line = oneLine(await countersign(['serve'], { [name]: value }));

    expect(line).toMatch(new RegExp(`^countersign: .*${name}`));
  });

  it('all of it at once', async () => {
    const line = oneLine(
      await countersign(['serve'], { PORT: 'abc', DATABASE_URL: 'nonsense', SLACK_API_URL: 'nonsense' }),
    );

    for (const name of ['PORT', 'DATABASE_URL', 'SLACK_API_URL']) expect(line).toContain(name);
  });

  it('serve with nothing set names each missing variable, and starts nothing local', async () => {
    const line = oneLine(await countersign(['serve']));

    expect(line).toMatch(
      /missing: DATABASE_URL, SLACK_BOT_TOKEN, SLACK_APP_TOKEN or SLACK_SIGNING_SECRET, ANTHROPIC_API_KEY, GITHUB_TOKEN, COUNTERSIGN_POLICY$/,
    );
  });

  it('serve with one variable missing, or empty, names that one', async () => {
    const variables = await serveVariables({ GITHUB_TOKEN: '' });

    expect(oneLine(await countersign(['serve'], variables))).toMatch(/missing: GITHUB_TOKEN$/);
  });

  it('serve with one variable malformed names that, and what is missing beside it', async () => {
    const line = oneLine(await countersign(['serve'], { SLACK_BOT_TOKEN: ' ', PORT: '99999' }));
    expect(line).toMatch(/SLACK_BOT_TOKEN must start with xoxb-; PORT must be a port/);
    expect(line).toMatch(/missing: DATABASE_URL, SLACK_APP_TOKEN or SLACK_SIGNING_SECRET, ANTHROPIC_API_KEY/);
  });

  it('serve with a policy that names nobody says so before it asks the database', async () => {
    const variables = await serveVariables({
      COUNTERSIGN_POLICY: await policyFile('{"admins":3}'),
      DATABASE_URL: `postgres://app:x@${NOWHERE}/countersign`,
    });
    expect(oneLine(await countersign(['serve'], variables))).toContain('admins');
  });

  it.each([['migrate'], ['ledger verify'], ['runs list']])('%s without a database', async (verb) => {
    expect(oneLine(await countersign(verb.split(' ')))).toContain('DATABASE_URL');
  });
});

describe('an outside part that does not answer or refuses is named', () => {
  it('a database that cannot be reached', async () => {
    const url = `postgres://app:${PASSWORD}@${NOWHERE}/countersign`;
    for (const ended of [
      await countersign(['serve'], await serveVariables({ DATABASE_URL: url })),
      await countersign(['ledger', 'verify'], { DATABASE_URL: url }),
      await countersign(['migrate'], { DATABASE_URL: url, DATABASE_ADMIN_URL: url }),
    ])
      expect(oneLine(ended)).toMatch(
        /^countersign: Cannot reach the database at 127\.0\.0\.1:1\/countersign: /,
      );
  });

  it('a database that refuses the password', async () => {
    const url = new URL(base.appUrl);
    url.password = PASSWORD;

    const line = oneLine(await countersign(['serve'], await serveVariables({ DATABASE_URL: url.href })));

    expect(line).toContain('Cannot reach the database at');
  });

  it('a Slack that refuses the token', async () => {
    const token = 'xoxb-wrong';
    const ended = await countersign(['serve'], await serveVariables({ SLACK_BOT_TOKEN: token }));

    expect(oneLine(ended, [token])).toMatch(/Slack.*(token|invalid_auth)/i);
  });

  it('a Slack that cannot be reached', async () => {
    const ended = await countersign(
      ['serve'],
      await serveVariables({ SLACK_API_URL: `http://${NOWHERE}/api/` }),
    );

    expect(oneLine(ended, [world.slack.botToken])).toMatch(/Slack/);
  });
});

describe('a policy that cannot be used is named', () => {
  it('a file that is not there', async () => {
    const variables = await serveVariables({ COUNTERSIGN_POLICY: '/nonexistent/policy.json' });

    expect(oneLine(await countersign(['serve'], variables))).toMatch(
      /COUNTERSIGN_POLICY.*\/nonexistent\/policy\.json.*ENOENT/,
    );
  });

  it.each([
    ['no JSON', '{\n  "reviewers": [\n'],
    ['empty', ''],
    ['JSON, but no policy', '["x"]'],
    ['a policy with a wrong part', '{\n "admins": [],\n "reviewers": "everybody",\n "requesters": 7 }'],
  ])('a file that is %s', async (_what, content) => {
    const variables = await serveVariables({ COUNTERSIGN_POLICY: await policyFile(content) });

    expect(oneLine(await countersign(['serve'], variables))).toMatch(/policy/i);
  });
});

describe('the command line itself', () => {
  it.each([
    [['frobnicate']],
    [['serve', '--frobnicate']],
    [['ledger', 'frobnicate']],
    [['serve', 'frobnicate']],
  ])('unknown words are named: %j', async (args) => {
    expect(oneLine(await countersign(args))).toContain('error:');
  });

  it('--help shows every verb and examples, and succeeds', async () => {
    const ended = await countersign(['--help']);

    expect(ended).toMatchObject({ status: 0, err: '' });
    for (const verb of ['dev', 'serve', 'migrate', 'ledger'])
      expect(ended.out).toMatch(new RegExp(`^  ${verb} `, 'm'));
    expect(ended.out).toMatch(/^Examples:\n {2}\$ /m);
  });

  it('the help of a verb shows an example', async () => {
    expect((await countersign(['ledger', 'verify', '--help'])).out).toMatch(
      /Examples?:\n {2}\$ .*countersign ledger verify/,
    );
  });
});

describe('ledger verify', () => {
  it('--json on a good ledger prints one object and succeeds; on a bad one it names the row and fails', async () => {
    await base.db.transaction((tx) =>
      appendEntry(tx, {
        workspaceId: WORKSPACE,
        subjectKind: 'run',
        subjectId: 'r',
        kind: 'task.accepted',
        facts: {},
      }),
    );
    await sealOnce(base.db);

    const good = await countersign(['ledger', 'verify', '--json'], { DATABASE_URL: base.appUrl });
    expect(good).toMatchObject({ status: 0, err: '' });
    expect(good.out.trim().split('\n')).toHaveLength(1);
    expect(JSON.parse(good.out)).toMatchObject({
      entries: 1,
      subjects: 1,
      seals: 1,
      unsealed: 0,
      firstBad: null,
    });

    await owner.transaction(async (tx) => {
      await tx.query({ text: 'alter table ledger_entries disable trigger user' });
      await tx.query({ text: `update ledger_entries set entry_kind = 'task.failed'` });
      await tx.query({ text: 'alter table ledger_entries enable trigger user' });
    });
    const bad = await countersign(['ledger', 'verify', '--json'], { DATABASE_URL: base.appUrl });
    expect(bad.status).toBe(1);
    expect(JSON.parse(bad.out)).toMatchObject({ firstBad: expect.stringContaining('entry 1 of') });
    const words = await countersign(['ledger', 'verify'], { DATABASE_URL: base.appUrl });
    expect(words.status).toBe(1);
    expect(words.out).toMatch(/does NOT verify: entry 1 of/);
  });
});

describe('a Node.js that is too old', () => {
  /** The real command in a process that believes to be another Node.js: only one Node.js is installed with the product. */
  const claims = (version: string) => [
    '--import',
    `data:text/javascript,${encodeURIComponent(
      `Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '${version}' } });`,
    )}`,
  ];

  it.each(['18.20.8', '20.20.2', '24.9.0', '25.11.1'])(
    '%s: one line before anything else is loaded, naming both versions',
    async (version) => {
      const line = oneLine(await countersign(['--help'], {}, claims(version)));

      expect(line).toMatch(new RegExp(`Node\\.js 26 .*${version.replaceAll('.', '\\.')}`));
    },
  );

  it.each(['26.0.0', '27.1.0', '100.0.0'])('%s is new enough', async (version) => {
    expect(await countersign(['--help'], {}, claims(version))).toMatchObject({ status: 0, err: '' });
  });
});
