/**
 * Guarantee: to the real SDK the local Slack installs an app by OAuth v2, takes files by the external upload, and shows
 * a message grow while it is streamed, each with Slack's limits and error names. Test orders over these and over the
 * local GitHub go through the one control API.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LogLevel, WebClient } from '@slack/web-api';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startWorld, type World } from '../../src/local/world.ts';
import { BOT, ENGINEERING, GENERAL, GUEST, People, REQUESTER, REVIEWER_A } from '../support/people.ts';

const REDIRECT = 'http://127.0.0.1:9/slack/oauth_redirect';

let stateDir: string;
let world: World;
let people: People;
let slack: WebClient;

beforeAll(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'local-slack-oauth-'));
  world = await startWorld({ stateDir, redeliveryScale: 0.001 });
  people = new People(world);
  slack = client(world.slack.botToken);
});

afterAll(async () => {
  await world.close();
  await rm(stateDir, { recursive: true });
});

function client(token?: string): WebClient {
  return new WebClient(token, {
    slackApiUrl: world.slack.apiUrl,
    logLevel: LogLevel.ERROR,
    retryConfig: { retries: 0 },
  });
}

async function failure(call: Promise<unknown>): Promise<string> {
  const error: unknown = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (typeof error !== 'object' || error === null || !('data' in error))
    return `unexpected: ${String(error)}`;
  return (error.data as { error: string }).error;
}

describe('an installation', () => {
  const ask = (over: Record<string, string> = {}): Record<string, string> => ({
    client_id: world.slack.clientId,
    scope: 'chat:write,users:read',
    redirect_uri: REDIRECT,
    state: 'a state & "more"',
    ...over,
  });

  /** The page's form, pressed by `user`; gives where it leads. */
  async function allow(user: string, over: Record<string, string> = {}): Promise<URL> {
    const answer = await fetch(world.slack.authorizeUrl, {
      method: 'POST',
      redirect: 'manual',
      body: new URLSearchParams({ ...ask(over), user }),
    });
    expect(answer.status).toBe(302);
    return new URL(answer.headers.get('location') ?? '');
  }

  const exchange = (code: string | null, over: Record<string, string> = {}) =>
    client().oauth.v2.access({
      client_id: world.slack.clientId,
      client_secret: world.slack.clientSecret,
      code: code ?? '',
      redirect_uri: REDIRECT,
      ...over,
    });

  test('goes over the page, its redirect and the exchange, and the token works', async () => {
    const page = await fetch(`${world.slack.authorizeUrl}?${new URLSearchParams(ask())}`);
    const html = await page.text();
    expect(html).toContain('Allow as reviewer-a');
    expect(html).not.toContain('Allow as guest');
    expect(html).not.toContain('"more"');

    const back = await allow(REVIEWER_A);
    expect(back.origin + back.pathname).toBe(REDIRECT);
    expect(back.searchParams.get('state')).toBe('a state & "more"');

    const installed = await exchange(back.searchParams.get('code'));
    expect(installed).toMatchObject({
      ok: true,
      token_type: 'bot',
      scope: 'chat:write,users:read',
      bot_user_id: BOT,
      app_id: 'A0COUNTERSIGN',
      team: { id: 'T0LOCAL' },
      authed_user: { id: REVIEWER_A },
      is_enterprise_install: false,
    });
    expect(await client(installed.access_token).auth.test()).toMatchObject({ user_id: BOT });
    expect(JSON.stringify(await people.calls('oauth.v2.access'))).not.toContain(world.slack.clientSecret);
  });

  test('a code is good once, for its address, with the secret', async () => {
    const code = (await allow(REVIEWER_A)).searchParams.get('code');

    expect(await failure(exchange(code, { client_id: 'other' }))).toBe('invalid_client_id');
    expect(await failure(exchange(code, { client_secret: 'guessed' }))).toBe('bad_client_secret');
    expect(await failure(exchange(code, { redirect_uri: `${REDIRECT}/else` }))).toBe('bad_redirect_uri');
    expect(await failure(exchange('made up'))).toBe('invalid_code');
    await exchange(code);
    expect(await failure(exchange(code))).toBe('invalid_code');
  });

  test('client id and secret may come as Basic credentials', async () => {
    const code = (await allow(REVIEWER_A)).searchParams.get('code') ?? '';
    const { clientId, clientSecret, apiUrl } = world.slack;

    const answer = await fetch(`${apiUrl}oauth.v2.access`, {
      method: 'POST',
      headers: { authorization: `Basic ${Buffer.from(`${clientId}:${clientSecret}`).toString('base64')}` },
      body: new URLSearchParams({ code, redirect_uri: REDIRECT }),
    });

    expect(await answer.json()).toMatchObject({ ok: true, access_token: world.slack.botToken });
  });

  test('whoever cancels, or may not install, is led back with access_denied and no code', async () => {
    for (const user of ['', GUEST, 'U0NOBODY']) {
      const back = await allow(user);
      expect(back.searchParams.get('error')).toBe('access_denied');
      expect(back.searchParams.has('code')).toBe(false);
    }
  });

  test('a link with a wrong part leads nowhere', async () => {
    for (const over of [
      { client_id: 'other' },
      { scope: 'admin' },
      { redirect_uri: 'https://elsewhere.example/' },
      { redirect_uri: 'javascript:alert(1)' },
    ]) {
      const answer = await fetch(world.slack.authorizeUrl, {
        method: 'POST',
        redirect: 'manual',
        body: new URLSearchParams({ ...ask(over), user: REVIEWER_A }),
      });
      expect([answer.status, answer.headers.get('location')]).toEqual([400, null]);
    }
  });
});

describe('files', () => {
  const upload = async (content: string, how: 'POST' | 'PUT' = 'POST') => {
    const { upload_url, file_id } = await slack.files.getUploadURLExternal({
      filename: 'report.txt',
      length: Buffer.byteLength(content),
    });
    const answer = await fetch(String(upload_url), { method: how, body: content });
    return { id: String(file_id), url: String(upload_url), status: answer.status };
  };

  test.each(['POST', 'PUT'] as const)(
    'come by %s, are shown in the channel, and are read back with the token',
    async (how) => {
      const { id, status } = await upload('+1 −1', how);
      expect(status).toBe(200);

      const completed = await slack.files.completeUploadExternal({
        files: [{ id, title: 'The diff' }],
        channel_id: ENGINEERING,
        initial_comment: 'as promised',
      });

      const shown = (await people.messages(ENGINEERING)).at(-1);
      expect(shown).toMatchObject({ text: 'as promised', user: BOT, files: [{ id, title: 'The diff' }] });
      const url = String(completed.files?.[0]?.url_private);
      const bytes = await fetch(url, { headers: { authorization: `Bearer ${world.slack.botToken}` } });
      expect([bytes.status, await bytes.text()]).toEqual([200, '+1 −1']);
      expect((await fetch(url)).status).toBeGreaterThanOrEqual(400);
      expect((await slack.files.info({ file: id })).file).toMatchObject({
        name: 'report.txt',
        title: 'The diff',
      });
    },
  );

  test('are shown nowhere before they came, and completed once', async () => {
    const { file_id } = await slack.files.getUploadURLExternal({ filename: 'a', length: 3 });
    const complete = (id: string) =>
      failure(slack.files.completeUploadExternal({ files: [{ id }], channel_id: ENGINEERING }));
    expect(await complete(String(file_id))).toBe('file_not_found');

    const { id } = await upload('abc');
    await slack.files.completeUploadExternal({ files: [{ id }], channel_id: ENGINEERING });
    expect(await complete(id)).toBe('file_not_found');
    expect(await complete('F0MADEUP')).toBe('file_not_found');
  });

  test('of another length than announced, or sent again after completion, are refused', async () => {
    const { upload_url } = await slack.files.getUploadURLExternal({ filename: 'a', length: 3 });
    expect((await fetch(String(upload_url), { method: 'POST', body: 'abcd' })).status).toBe(404);

    const { id, url } = await upload('abc');
    await slack.files.completeUploadExternal({ files: [{ id }] });
    expect((await fetch(url, { method: 'POST', body: 'xyz' })).status).toBe(404);
  });

  test('are taken back from where they were shown', async () => {
    const { id } = await upload('short-lived');
    await slack.files.completeUploadExternal({ files: [{ id }], channel_id: GENERAL });

    await slack.files.delete({ file: id });

    expect(JSON.stringify(await people.messages(GENERAL))).not.toContain(id);
    expect(await failure(slack.files.info({ file: id }))).toBe('file_not_found');
  });
});

describe('a stream', () => {
  const start = async (over: object = {}) => {
    const thread_ts = await people.say(REQUESTER, ENGINEERING, 'tell me');
    const started = await slack.apiCall('chat.startStream', {
      channel: ENGINEERING,
      thread_ts,
      recipient_team_id: 'T0LOCAL',
      recipient_user_id: REQUESTER,
      ...over,
    });
    const { ts } = started as unknown as { ts: string };
    return { channel: ENGINEERING, ts, thread_ts };
  };
  const shown = async ({ channel, ts }: { channel: string; ts: string }) =>
    (await people.messages(channel)).find((message) => message.ts === ts);

  test("grows with the SDK's own streamer and ends with blocks and metadata", async () => {
    const thread_ts = await people.say(REQUESTER, ENGINEERING, 'tell me more');
    const streamer = slack.chatStream({
      channel: ENGINEERING,
      thread_ts,
      recipient_team_id: 'T0LOCAL',
      recipient_user_id: REQUESTER,
      buffer_size: 1,
    });
    const first = await streamer.append({ markdown_text: '**Hello** ' });
    const where = { channel: ENGINEERING, ts: String(first?.ts) };
    expect(await shown(where)).toMatchObject({
      text: '**Hello** ',
      thread_ts,
      streaming_state: 'in_progress',
    });
    await streamer.append({ markdown_text: 'world' });
    expect((await shown(where))?.text).toBe('**Hello** world');

    const stopped = await streamer.stop({
      markdown_text: '!',
      blocks: [{ type: 'divider' }],
      metadata: { event_type: 'answer', event_payload: { run: 'r1' } },
    });

    expect(stopped.message).toMatchObject({ text: '**Hello** world!' });
    const done = await shown(where);
    expect(done).not.toHaveProperty('streaming_state');
    expect(done?.blocks?.map(({ type }) => type)).toEqual(['markdown', 'divider']);
    expect(done?.metadata).toEqual({ event_type: 'answer', event_payload: { run: 'r1' } });
    await slack.chat.update({ ...where, text: 'an ordinary message now' });
  });

  test('shows tasks, which change in place', async () => {
    const where = await start();
    const append = (chunks: object[]) => slack.apiCall('chat.appendStream', { ...where, chunks });

    await append([
      { type: 'plan_update', title: 'Two things' },
      { type: 'task_update', id: 't1', title: 'Read', status: 'in_progress' },
      { type: 'markdown_text', text: 'so far' },
    ]);
    await append([{ type: 'task_update', id: 't1', title: 'Read 3 files', status: 'complete' }]);

    expect((await shown(where))?.blocks).toMatchObject([
      { type: 'plan', title: 'Two things' },
      { type: 'task_card', task_id: 't1', title: 'Read 3 files', status: 'complete' },
      { type: 'markdown', text: 'so far' },
    ]);
  });

  test('names who reads it in a channel, and need not in a direct message', async () => {
    expect(await failure(start({ recipient_team_id: '' }))).toBe('missing_recipient_team_id');
    expect(await failure(start({ recipient_user_id: '' }))).toBe('missing_recipient_user_id');
    const thread_ts = await people.say(REQUESTER, 'dm', 'privately');
    expect((await slack.apiCall('chat.startStream', { channel: 'D0REQUESTER', thread_ts })).ok).toBe(true);
  });

  test('keeps its limits, and a refused call changes nothing', async () => {
    const where = await start({ markdown_text: 'kept' });
    const append = (over: object) => failure(slack.apiCall('chat.appendStream', { ...where, ...over }));

    expect(await append({ markdown_text: 'x'.repeat(12_001) })).toBe('msg_too_long');
    expect(await append({})).toBe('no_text');
    expect(await append({ chunks: [{ type: 'made_up' }] })).toBe('invalid_chunks');
    expect(await append({ chunks: [{ type: 'task_update', id: 't', title: 'T', status: 'odd' }] })).toBe(
      'invalid_chunks',
    );
    expect(
      await append({ markdown_text: 'lost', chunks: [{ type: 'blocks', blocks: [{ type: 'made_up' }] }] }),
    ).toBe('invalid_blocks');
    expect(await append({ ts: '1.000001', markdown_text: 'x' })).toBe('message_not_found');
    expect(await append({ ts: where.thread_ts, markdown_text: 'x' })).toBe('message_not_owned_by_app');
    expect(await failure(slack.chat.update({ channel: where.channel, ts: where.ts, text: 'x' }))).toBe(
      'streaming_state_conflict',
    );
    expect((await shown(where))?.text).toBe('kept');
    for (let count = 0; count < 3; count += 1) await append({ markdown_text: 'x'.repeat(12_000) });
    expect(await append({ markdown_text: 'x'.repeat(4_000) })).toBe('msg_too_long');
  });

  test('is over when it was stopped, when its reader stopped it, and after its time', async () => {
    const append = (where: object) =>
      failure(slack.apiCall('chat.appendStream', { ...where, markdown_text: 'more' }));

    const stopped = await start();
    await slack.apiCall('chat.stopStream', stopped);
    expect(await append(stopped)).toBe('message_not_in_streaming_state');
    expect(await failure(slack.apiCall('chat.stopStream', stopped))).toBe('message_not_in_streaming_state');

    const unwanted = await start({ markdown_text: 'half' });
    await people.interruptStream(unwanted.channel, unwanted.ts, 'stop');
    expect(await append(unwanted)).toBe('stopped_by_user');
    expect(await append(unwanted)).toBe('message_not_in_streaming_state');

    const old = await start();
    await people.interruptStream(old.channel, old.ts, 'expire');
    expect(await append(old)).toBe('message_not_in_streaming_state');
  });
});

describe('the control API', () => {
  test('reaches the orders of the local GitHub with its own token', async () => {
    const headers = { authorization: `Bearer ${world.controlToken}`, 'content-type': 'application/json' };
    const fault = await fetch(`${world.controlUrl}/github/faults`, {
      method: 'POST',
      headers,
      body: JSON.stringify({ kind: 'status', status: 502, match: { method: 'POST' } }),
    });
    expect(fault.status).toBe(201);

    const write = await fetch(`${world.github.apiUrl}/repos/acme/shop/issues`, {
      method: 'POST',
      headers: { authorization: `Bearer ${world.github.token}`, 'content-type': 'application/json' },
      body: JSON.stringify({ title: 'x' }),
    });

    expect(write.status).toBe(502);
    expect((await people.githubWrites()).at(-1)).toMatchObject({ method: 'POST', performed: false });
  });

  test('answers nobody without its token, also where it leads on', async () => {
    for (const route of ['calls', 'sockets', 'github/writes'])
      expect((await fetch(`${world.controlUrl}/${route}`)).status).toBe(401);
    const asApp = { authorization: `Bearer ${world.slack.botToken}` };
    expect((await fetch(`${world.controlUrl}/github/writes`, { headers: asApp })).status).toBe(401);
  });
});
