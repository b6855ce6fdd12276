/**
 * Guarantee: the tokens of Slack, and what is said to it, go to the configured address and nowhere else: no redirect is followed, by any
 * call, over the real network stack; an address that Slack sent along with a click or a command (`response_url`) is neither kept nor called.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseEnvelope, parseInbound } from '../../src/bot/inbound.ts';
import { createMessenger, type SlackMessenger } from '../../src/bot/messenger.ts';
import { createClient, socketOpener } from '../../src/bot/slack-client.ts';
import { createLogger } from '../../src/log.ts';
import { type AnsweringServer, startAnsweringServer } from '../support/answering-server.ts';
import { botSources } from '../support/slack-methods.ts';

const log = createLogger({ level: 'silent' });
const note = { kind: 'note', note: { kind: 'empty_request' } } as const;
const thread = { to: 'thread', thread: { channelId: 'C1', threadTs: '1.1' } } as const;
const view = { type: 'modal', title: { type: 'plain_text', text: 'x' }, blocks: [] } as const;

/** Every call the product makes, by its method. */
const CALLS: Readonly<Record<string, (messenger: SlackMessenger) => Promise<unknown>>> = {
  'chat.postMessage': (it) => it.post('T1', 'd', thread, note),
  'chat.postEphemeral': (it) =>
    it.post('T1', 'd', { to: 'person', channelId: 'C1', threadTs: null, userId: 'U1' }, note),
  'chat.update': (it) => it.update('T1', 'd', 'C1', '1.1', note),
  'chat.delete': (it) => it.remove('T1', 'C1', '1.1'),
  'conversations.open': (it) => it.post('T1', 'd', { to: 'channel', channelId: 'U1' }, note),
  'conversations.replies': (it) => it.find('T1', 'd', thread, new Date()),
  'conversations.history': (it) => it.find('T1', 'd', { to: 'channel', channelId: 'C1' }, new Date()),
  'reactions.add': (it) => it.react('T1', 'C1', '1.1', 'eyes'),
  'users.info': (it) => it.person('T1', { teamId: 'T1', userId: 'U1' }),
  'auth.test': (it) => it.authTest(),
  'views.open': (it) => it.openView('1', { ...view, blocks: [] }),
  'views.update': (it) => it.updateView('V1', null, { ...view, blocks: [] }),
};

describe('a redirect', () => {
  let elsewhere: AnsweringServer;
  let slack: AnsweringServer;
  let status = 302;
  const options = () => ({ slackApiUrl: `${slack.url}/api/`, log });

  beforeEach(async () => {
    elsewhere = await startAnsweringServer(() => ({ status: 200, body: { ok: true, url: 'wss://x' } }));
    slack = await startAnsweringServer(() => ({ status, headers: { location: `${elsewhere.url}/stolen` } }));
  });
  afterEach(async () => {
    await Promise.all([slack.close(), elsewhere.close()]);
  });

  test.each([301, 302, 303, 307, 308])('by %d is followed by no call', async (code) => {
    status = code;
    const messenger = createMessenger({ ...options(), botToken: 'xoxb-token' });

    for (const [method, call] of Object.entries(CALLS)) {
      await expect([method, await call(messenger).catch((error) => error)]).toMatchObject([
        method,
        { code: 'DELIVERY_FAILED' },
      ]);
      expect(slack.received.at(-1)).toMatchObject({
        url: `/api/${method}`,
        headers: { authorization: 'Bearer xoxb-token' },
      });
    }
    const opened = await socketOpener({ ...options(), appToken: 'xapp-token' })();

    expect(opened.ok).toBe(false);
    expect(slack.received.at(-1)?.headers.authorization).toBe('Bearer xapp-token');
    expect(elsewhere.received).toEqual([]);
  });

  test('is not followed either when Slack’s client would', async () => {
    const seen: (RequestInit | undefined)[] = [];
    const client = createClient({
      ...options(),
      botToken: 'xoxb-token',
      fetch: async (input, init) => {
        seen.push(init);
        return fetch(input, init);
      },
    });
    await client.auth.test().catch(() => {});
    expect(seen.map((init) => init?.redirect)).toEqual(['error']);
  });
});

describe('a response_url', () => {
  const URL_OF_IT = 'https://hooks.slack.com/actions/T1/1/abcdefghijkl';
  const click = {
    type: 'block_actions',
    team: { id: 'T1' },
    user: { id: 'U1', team_id: 'T1' },
    trigger_id: '1.2.abc',
    response_url: URL_OF_IT,
    response_urls: [{ response_url: URL_OF_IT }],
    container: { type: 'message', channel_id: 'C1', message_ts: '1.1', response_url: URL_OF_IT },
    channel: { id: 'C1' },
    actions: [
      {
        type: 'button',
        action_id: 'approval.approve',
        action_ts: '1.1',
        value: 'x',
        response_url: URL_OF_IT,
      },
    ],
  };
  const command = {
    command: '/countersign',
    text: 'help',
    team_id: 'T1',
    user_id: 'U1',
    channel_id: 'C1',
    trigger_id: '1.2.abc',
    response_url: URL_OF_IT,
    token: 'verification',
  };
  const form = (fields: Record<string, string>) =>
    parseInbound(Buffer.from(new URLSearchParams(fields).toString()), 'application/x-www-form-urlencoded');

  test('is not kept, whichever way it came', () => {
    for (const inbound of [
      form({ payload: JSON.stringify(click) }),
      form(command),
      parseEnvelope({ type: 'interactive', payload: click, envelope_id: 'e' }),
      parseEnvelope({ type: 'slash_commands', payload: command, envelope_id: 'e' }),
    ]) {
      expect(inbound.kind).toBe('row');
      expect(JSON.stringify(inbound)).not.toMatch(/response_url|hooks\.slack|verification/);
    }
  });

  test('is named by no code of ours', () => {
    for (const { name, text } of botSources())
      expect([name, text.match(/response_?url|hooks\.slack/i)?.[0]]).toEqual([name, undefined]);
  });
});
