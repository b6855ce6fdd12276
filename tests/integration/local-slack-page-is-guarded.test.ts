/**
 * Guarantee: the local Slack's page answers plain curl with the printed URL, and nobody else: not without the token,
 * not under another Host, not to a POST from another Origin. What it shows a person is what that person may see, and
 * what that person does goes the way of any Slack client.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LogLevel, WebClient } from '@slack/web-api';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startWorld, type World } from '../../src/local/world.ts';
import { ENGINEERING, People, REQUESTER, REVIEWER_A, REVIEWER_B } from '../support/people.ts';
import { type Receiver, startReceiver } from './local-slack-receiver.ts';

let stateDir: string;
let world: World;
let app: Receiver;
let page: URL;
let token: string;

beforeAll(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'local-page-'));
  world = await startWorld({ stateDir });
  app = await startReceiver(world.slack.signingSecret);
  await world.connect(app.url);
  page = new URL(world.pageUrl);
  token = String(page.searchParams.get('token'));
});

afterAll(async () => {
  await app.close();
  await world.close();
  await rm(stateDir, { recursive: true });
});

/** `fetch` refuses to set Host; this does not. */
function get(path: string, headers: Record<string, string>): Promise<number> {
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port: page.port, path, headers }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
    sent.on('error', reject);
    sent.end();
  });
}

function act(
  body: object,
  headers: Record<string, string> = { origin: page.origin, 'x-page-token': token },
): Promise<Response> {
  return fetch(new URL('/page/act', page), {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  });
}

async function state(as: string): Promise<{
  messages: Record<string, { text: string; ts: string }[]>;
  ephemerals: { text: string; ts: string }[];
  channels: { id: string }[];
  people: { id: string; waiting: number }[];
  unread: { channel: string; thread: string | null; count: number; mentions: number }[];
}> {
  const response = await fetch(new URL(`/page/state?as=${as}`, page), { headers: { 'x-page-token': token } });
  return (await response.json()) as Awaited<ReturnType<typeof state>>;
}

test('the printed URL answers 200 and its cookie opens the rest', async () => {
  const response = await fetch(world.pageUrl);
  expect(response.status).toBe(200);
  expect(await response.text()).toContain('/page/app.js');
  expect(response.headers.get('content-security-policy')).toContain("default-src 'none'");
  const cookie = String(response.headers.get('set-cookie'));
  expect(cookie).toMatch(/HttpOnly; SameSite=Strict/);
  for (const path of [
    '/page/app.js',
    '/page/blocks.js',
    '/page/mrkdwn.js',
    '/page/base.css',
    '/page/state',
    '/page/repository',
    '/page/repository/pulls/1',
  ]) {
    const asset = await fetch(new URL(path, page), { headers: { cookie: String(cookie.split(';')[0]) } });
    expect(asset.status, path).toBe(200);
    expect((await fetch(new URL(path, page))).status, path).toBe(403);
  }
});

test('no token, another Host or another Origin is refused', async () => {
  expect(await get('/', {})).toBe(403);
  expect(await get('/?token=wrong', {})).toBe(403);
  expect(await get(`/?token=${token}`, { host: `evil.example:${page.port}` })).toBe(403);
  expect(await get(`/?token=${token}`, { host: `localhost:${page.port}` })).toBe(200);
  const wish = { kind: 'say', as: REQUESTER, channel: ENGINEERING, text: 'x' };
  expect((await act(wish, { 'x-page-token': token })).status).toBe(403);
  expect((await act(wish, { 'x-page-token': token, origin: 'http://evil.example' })).status).toBe(403);
  expect((await act(wish, { origin: page.origin })).status).toBe(403);
  expect((await fetch(`${world.controlUrl}/calls`)).status).toBe(401);
  expect(
    (await fetch(`${world.controlUrl}/calls`, { headers: { authorization: `Bearer ${token}` } })).status,
  ).toBe(401);
});

test('a typed mention becomes a real one and the rest is escaped', async () => {
  await act({
    kind: 'say',
    as: REQUESTER,
    channel: ENGINEERING,
    text: '@countersign merge <!channel> & @requester-x',
  });

  await new People(world).until(() => app.events('app_mention').length === 1);
  expect(app.events('app_mention')[0]?.json.event).toMatchObject({
    text: '<@U0COUNTERSGN> merge &lt;!channel&gt; &amp; @requester-x',
    user: REQUESTER,
  });
});

test('each person sees their own channels and private messages only', async () => {
  const slack = new WebClient(world.slack.botToken, {
    slackApiUrl: world.slack.apiUrl,
    logLevel: LogLevel.ERROR,
  });
  await slack.chat.postMessage({ channel: REVIEWER_A, text: 'a direct message' });
  await slack.chat.postEphemeral({ channel: ENGINEERING, user: REVIEWER_A, text: 'for a alone' });

  const ofA = await state(REVIEWER_A);
  const ofB = await state(REVIEWER_B);
  expect(JSON.stringify(ofA)).toContain('a direct message');
  expect(ofA.ephemerals.map((one) => one.text)).toEqual(['for a alone']);
  expect(JSON.stringify(ofB)).not.toContain('a direct message');
  expect(JSON.stringify(ofB)).not.toContain('for a alone');
});

test('a press reaches the app, and a failed one is told to the person', async () => {
  const slack = new WebClient(world.slack.botToken, {
    slackApiUrl: world.slack.apiUrl,
    logLevel: LogLevel.ERROR,
  });
  const element = {
    type: 'button' as const,
    action_id: 'go',
    text: { type: 'plain_text' as const, text: 'Go' },
  };
  const { ts } = await slack.chat.postMessage({
    channel: ENGINEERING,
    text: 'c',
    blocks: [{ type: 'actions', elements: [element] }],
  });
  const press = { kind: 'click', as: REVIEWER_A, channel: ENGINEERING, ts, actionId: 'go' };

  expect(await (await act(press)).json()).toMatchObject({ ackStatus: 200 });
  app.answer = () => ({ status: 500 });
  expect(await (await act(press)).json()).toMatchObject({
    ackStatus: 500,
    error: expect.stringContaining('went wrong'),
  });
  app.answer = () => ({});
});

test('changes are hinted live', async () => {
  const stream = await fetch(new URL('/page/events', page), { headers: { 'x-page-token': token } });
  const reader = stream.body?.pipeThrough(new TextDecoderStream()).getReader();
  let seen = '';
  const next = async (): Promise<void> => {
    seen += (await reader?.read())?.value ?? '';
  };
  await next();
  await new People(world).say(REQUESTER, ENGINEERING, 'something new');
  while (!/data: \d+/.test(seen)) await next();
  await reader?.cancel();
});

test('everything index.html and its scripts ask for is served, and nothing of it is elsewhere', async () => {
  const load = async (path: string): Promise<string> => {
    const response = await fetch(new URL(path, page), { headers: { 'x-page-token': token } });
    expect(response.status, path).toBe(200);
    return response.text();
  };
  const html = await load('/');
  const wanted = [...html.matchAll(/(?:src|href)="(\/[^"]+)"/g)].map(([, path]) => String(path));
  expect(wanted.length).toBeGreaterThan(3);
  const seen = new Set<string>();
  while (wanted.length > 0) {
    const path = String(wanted.pop());
    if (seen.has(path)) continue;
    seen.add(path);
    const text = await load(path);
    expect(text, path).not.toMatch(/@import|url\(|https?:\/\/(?!www\.w3\.org)[a-z]/);
    for (const [, file] of text.matchAll(/from '\.\/([\w-]+\.js)'/g)) wanted.push(`/page/${file}`);
  }
  expect(seen).toContain('/page/tries.js');
});

test('what was read stays read, for that person alone, and never goes back', async () => {
  const slack = new WebClient(world.slack.botToken, {
    slackApiUrl: world.slack.apiUrl,
    logLevel: LogLevel.ERROR,
  });
  const { ts } = await slack.chat.postMessage({ channel: 'C0GENERAL', text: `<@${REVIEWER_A}> please look` });
  const unread = async (as: string) =>
    (await state(as)).unread.find((one) => one.channel === 'C0GENERAL' && one.thread === null);

  expect(await unread(REVIEWER_A)).toMatchObject({ count: 1, mentions: 1 });
  expect(await unread(REVIEWER_B)).toMatchObject({ count: 1, mentions: 0 });
  expect((await state(REVIEWER_B)).people.find((one) => one.id === REVIEWER_A)?.waiting).toBeGreaterThan(0);
  await act({ kind: 'read', as: REVIEWER_A, channel: 'C0GENERAL', ts });
  await act({ kind: 'read', as: REVIEWER_A, channel: 'C0GENERAL', ts: '1.000000' });

  expect(await unread(REVIEWER_A)).toBeUndefined();
  expect(await unread(REVIEWER_B)).toMatchObject({ count: 1 });
});

test('a private message is dismissed by its reader and nobody else', async () => {
  const mine = async () => (await state(REVIEWER_A)).ephemerals.find((one) => one.text === 'for a alone');
  const ts = (await mine())?.ts;
  await act({ kind: 'dismiss', as: REVIEWER_B, channel: ENGINEERING, ts });
  expect(await mine()).toBeDefined();
  await act({ kind: 'dismiss', as: REVIEWER_A, channel: ENGINEERING, ts });
  expect(await mine()).toBeUndefined();
});

test('the repository is shown as the local GitHub has it, and a write is hinted live', async () => {
  const read = async (path: string) =>
    (await fetch(new URL(`/page/repository${path}`, page), { headers: { 'x-page-token': token } })).json();
  expect(await read('')).toMatchObject({
    repository: 'acme/shop',
    pulls: [{ number: 1, state: 'open', base: 'main' }],
    branches: expect.arrayContaining([expect.objectContaining({ name: 'main', base: true })]),
  });
  expect(await read('/pulls/1')).toMatchObject({
    checks: [{ name: 'test', state: 'success' }],
    files: expect.arrayContaining([expect.objectContaining({ filename: 'src/price.ts' })]),
  });
  expect(await read('/issues/999')).toMatchObject({ error: 'GitHub answered 404' });

  const stream = await fetch(new URL('/page/events', page), { headers: { 'x-page-token': token } });
  const reader = stream.body?.pipeThrough(new TextDecoderStream()).getReader();
  const comment = await fetch(`${world.github.apiUrl}/repos/acme/shop/issues/2/comments`, {
    method: 'POST',
    headers: { authorization: `Bearer ${world.github.token}` },
    body: JSON.stringify({ body: 'seen' }),
  });
  expect(comment.status).toBe(201);
  let seen = '';
  while (!seen.includes('event: repository')) seen += (await reader?.read())?.value ?? '';
  await reader?.cancel();
  expect(await read('/issues/2')).toMatchObject({ comments: [{ body: 'seen' }] });
});
