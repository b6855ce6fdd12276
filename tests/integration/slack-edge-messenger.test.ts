/**
 * Guarantee, with the real SDK over a real socket: a delivery is sent once and carries its id, nothing it says can
 * unfurl or link, and whatever Slack answers becomes one of two things: worth trying again (with the wait Slack asked
 * for) or refused for good. A lost answer is found again by the id. No call is repeated by itself.
 */
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createMessenger, type SlackMessenger } from '../../src/bot/messenger.ts';
import { CountersignError, DeliveryAnswered } from '../../src/errors.ts';
import { createLogger } from '../../src/log.ts';
import type { DeliveryTarget, MessageView } from '../../src/views.ts';

interface Call {
  readonly method: string;
  readonly form: Readonly<Record<string, string>>;
  readonly authorization: string | undefined;
}
type Answer = { status?: number; headers?: Record<string, string>; body: string | object } | 'hang up';

let calls: Call[];
let answers: (call: Call) => Answer;
let messenger: SlackMessenger;
let close: () => Promise<void>;
let api: string;

async function read(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const part of request) text += part;
  return text;
}

beforeEach(async () => {
  calls = [];
  answers = () => ({ body: { ok: true } });
  const server = createServer(async (request, response) => {
    const form = Object.fromEntries(new URLSearchParams(await read(request)));
    const call = {
      method: (request.url ?? '').replace('/api/', ''),
      form,
      authorization: request.headers.authorization,
    };
    calls.push(call);
    const answer = answers(call);
    if (answer === 'hang up') {
      request.socket.destroy();
      return;
    }
    response.writeHead(answer.status ?? 200, { 'content-type': 'application/json', ...answer.headers });
    response.end(typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  close = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  const { port } = server.address() as AddressInfo;
  api = `http://127.0.0.1:${port}/api/`;
  messenger = createMessenger({
    botToken: 'test-token',
    slackApiUrl: api,
    log: createLogger({ level: 'silent' }),
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  return close();
});

/** As if that much time had passed. */
function slowly(ms: number): void {
  const now = Date.now();
  vi.spyOn(Date, 'now').mockReturnValue(now + ms);
}

const THREAD: DeliveryTarget = { to: 'thread', thread: { channelId: 'C1', threadTs: '10.1' } };
const CHANNEL: DeliveryTarget = { to: 'channel', channelId: 'C1' };
const PERSON: DeliveryTarget = { to: 'person', channelId: 'C1', threadTs: '10.1', userId: 'U1' };
const SINCE = new Date('2026-11-20T08:00:00Z');
const RECEIPT: MessageView = { kind: 'receipt', line: 'See https://example.com <!here>', approvedBy: [] };
const NOTE: MessageView = { kind: 'note', note: { kind: 'expired' } };
const METADATA = { event_type: 'countersign_delivery', event_payload: { id: 'd1' } };

describe('a post', () => {
  it('goes to its thread once, with its id, and without unfurling or linking', async () => {
    answers = () => ({ body: { ok: true, ts: '10.9' } });

    const ts = await messenger.post('T1', 'd1', THREAD, RECEIPT);

    expect(ts).toBe('10.9');
    expect(calls).toHaveLength(1);
    expect(calls[0]).toMatchObject({
      method: 'chat.postMessage',
      authorization: 'Bearer test-token',
      form: {
        channel: 'C1',
        thread_ts: '10.1',
        unfurl_links: 'false',
        unfurl_media: 'false',
        link_names: 'false',
        parse: 'none',
      },
    });
    expect(JSON.parse(calls[0]?.form.metadata ?? '')).toEqual(METADATA);
    expect(calls[0]?.form.blocks).toContain('&lt;!here&gt;');
    expect(calls[0]?.form.text).not.toContain('<!here>');
  });

  it('to a channel stands in no thread; to a person only that person sees it', async () => {
    answers = () => ({ body: { ok: true, ts: '10.9', message_ts: '10.9' } });

    await messenger.post('T1', 'd1', CHANNEL, RECEIPT);
    const privately = await messenger.post('T1', 'd1', PERSON, NOTE);

    expect(calls[0]?.form.thread_ts).toBeUndefined();
    expect(privately).toBeNull();
    expect(calls[1]).toMatchObject({
      method: 'chat.postEphemeral',
      form: { channel: 'C1', user: 'U1', thread_ts: '10.1' },
    });
  });

  it('is redrawn in place under the same id', async () => {
    await messenger.update('T1', 'd1', 'C1', '10.9', RECEIPT);

    expect(calls[0]).toMatchObject({ method: 'chat.update', form: { channel: 'C1', ts: '10.9' } });
    expect(JSON.parse(calls[0]?.form.metadata ?? '')).toEqual(METADATA);
  });
});

describe('a failure', () => {
  const post = () => messenger.post('T1', 'd1', THREAD, RECEIPT);
  it.each<[string, Answer, object]>([
    [
      'a rate limit',
      { status: 429, headers: { 'retry-after': '30' }, body: { ok: false, error: 'ratelimited' } },
      { code: 'DELIVERY_FAILED', errorClass: 'retryable', retryAfterMs: 30_000 },
    ],
    [
      'a rate limit that names no wait',
      { status: 429, body: '' },
      { code: 'DELIVERY_FAILED', retryAfterMs: undefined },
    ],
    [
      'a rate limit in a good answer',
      { headers: { 'retry-after': '7' }, body: { ok: false, error: 'ratelimited' } },
      { code: 'DELIVERY_FAILED', retryAfterMs: 7_000 },
    ],
    ['a server error', { status: 503, body: '<html>' }, { code: 'DELIVERY_FAILED', errorClass: 'retryable' }],
    ['a lost connection', 'hang up', { code: 'DELIVERY_FAILED' }],
    ['an answer that is no JSON', { body: '<html>oops' }, { code: 'DELIVERY_FAILED' }],
    ['an answer that is null', { body: 'null' }, { code: 'DELIVERY_FAILED' }],
    ['an answer that names no message', { body: { ok: true } }, { code: 'DELIVERY_FAILED' }],
    [
      'an error nobody listed',
      { headers: { 'retry-after': '9' }, body: { ok: false, error: 'brand_new' } },
      { code: 'DELIVERY_FAILED', constructor: DeliveryAnswered, retryAfterMs: undefined },
    ],
    [
      'Slack’s own trouble, in which something may have been done, even with a wait',
      { headers: { 'retry-after': '9' }, body: { ok: false, error: 'internal_error' } },
      { code: 'DELIVERY_FAILED', constructor: CountersignError, retryAfterMs: undefined },
    ],
    [
      'a rate limit whose wait is nothing',
      { status: 429, headers: { 'retry-after': '0' }, body: '' },
      { code: 'DELIVERY_FAILED', retryAfterMs: 1_000 },
    ],
    [
      'a rate limit in a good answer that names no wait',
      { body: { ok: false, error: 'rate_limited' } },
      { code: 'DELIVERY_FAILED', retryAfterMs: 1_000 },
    ],
    [
      'a redirect, which would carry the token away',
      { status: 302, headers: { location: 'http://127.0.0.1:1/' }, body: '' },
      { code: 'DELIVERY_FAILED' },
    ],
    ...[
      'channel_not_found',
      'not_in_channel',
      'is_archived',
      'invalid_auth',
      'token_revoked',
      'missing_scope',
      'invalid_blocks',
      'msg_too_long',
    ].map((error): [string, Answer, object] => [
      error,
      { body: { ok: false, error } },
      { code: 'DELIVERY_REFUSED', errorClass: 'terminal', message: `chat.postMessage: ${error}` },
    ]),
  ])('%s is told apart, and the call is made once', async (_, answer, expected) => {
    answers = () => answer;

    await expect(post()).rejects.toMatchObject(expected);
    expect(calls).toHaveLength(1);
  });
});

describe('a refusal', () => {
  it.each<[string, string]>([
    ['is_archived', 'place'],
    ['missing_scope', 'place'],
    ['msg_too_long', 'message'],
    ['invalid_blocks', 'message'],
    ['edit_window_closed', 'fixed'],
    ['token_revoked', 'credential'],
    ['accesslimited', 'credential'],
    ['account_inactive', 'credential'],
  ])('%s says what has to change first: the %s', async (error, refusedFor) => {
    answers = () => ({ body: { ok: false, error } });

    await expect(messenger.post('T1', 'd1', THREAD, RECEIPT)).rejects.toMatchObject({ refusedFor });
  });

  it('of a view that cannot be drawn is one of the message, and nothing is sent', async () => {
    const broken = { ...RECEIPT, approvedBy: null } as unknown as MessageView;

    await expect(messenger.post('T1', 'd1', THREAD, broken)).rejects.toMatchObject({ refusedFor: 'message' });
    await expect(messenger.update('T1', 'd1', 'C1', '10.9', broken)).rejects.toMatchObject({
      refusedFor: 'message',
    });
    expect(calls).toEqual([]);
  });

  it('of an edit whose message is gone is told from that of a reply or a reaction', async () => {
    answers = () => ({ body: { ok: false, error: 'message_not_found' } });

    await expect(messenger.update('T1', 'd1', 'C1', '10.9', RECEIPT)).rejects.toMatchObject({
      refusedFor: 'gone',
    });
    await expect(messenger.react('T1', 'C1', '10.1', 'eyes')).rejects.toMatchObject({ refusedFor: 'place' });
  });
});

describe('a file', () => {
  const file = { title: 'All of it', content: 'every word\n' };
  const uploads = ({ method }: Call): Answer =>
    method === 'files.getUploadURLExternal'
      ? { body: { ok: true, upload_url: `${api.replace('/api/', '')}/put`, file_id: 'F1' } }
      : { body: { ok: true, files: [] } };

  it('is put into its thread under the delivery’s id; its bytes travel without the token', async () => {
    answers = uploads;

    await messenger.attach('T1', 'd1', THREAD, file);

    expect(calls.map(({ method, authorization }) => [method, authorization])).toEqual([
      ['files.getUploadURLExternal', 'Bearer test-token'],
      ['/put', undefined],
      ['files.completeUploadExternal', 'Bearer test-token'],
    ]);
    expect(calls[0]?.form).toMatchObject({ filename: 'countersign-d1.txt', length: '11' });
    expect(calls[2]?.form).toMatchObject({ channel_id: 'C1', thread_ts: '10.1' });
  });

  it('is sent to no address without TLS but that of the stand-in, and through no redirect', async () => {
    answers = (call) =>
      call.method === 'files.getUploadURLExternal'
        ? { body: { ok: true, upload_url: 'http://files.example/put', file_id: 'F1' } }
        : uploads(call);
    await expect(messenger.attach('T1', 'd1', THREAD, file)).rejects.toMatchObject({
      code: 'DELIVERY_FAILED',
    });
    answers = (call) =>
      call.method === '/put' ? { status: 307, headers: { location: api }, body: '' } : uploads(call);
    await expect(messenger.attach('T1', 'd1', THREAD, file)).rejects.toMatchObject({
      code: 'DELIVERY_FAILED',
    });

    expect(calls.map(({ method }) => method)).not.toContain('files.completeUploadExternal');
  });

  it('is not shown when its bytes took so long that it would outlast its claim', async () => {
    answers = (call) => {
      if (call.method === '/put') slowly(11_000);
      return uploads(call);
    };

    await expect(messenger.attach('T1', 'd1', THREAD, file)).rejects.toMatchObject({
      code: 'DELIVERY_FAILED',
    });
    expect(calls.map(({ method }) => method)).not.toContain('files.completeUploadExternal');
  });

  it('is found again by its name', async () => {
    answers = () => ({
      body: { ok: true, messages: [{ ts: '10.8', files: [{ name: 'countersign-d1.txt' }] }] },
    });

    expect(await messenger.find('T1', 'd1', THREAD, SINCE)).toBe('10.8');
    expect(await messenger.find('T1', 'd2', THREAD, SINCE)).toBeNull();
  });
});

describe('an earlier post', () => {
  const other = { ts: '10.2', metadata: { event_type: 'countersign_delivery', event_payload: { id: 'd2' } } };
  const strange = { ts: '10.3', metadata: { event_type: 'countersign_delivery', event_payload: 'd1' } };

  it('is found by its id on a later page of the thread', async () => {
    answers = ({ form }) => ({
      body:
        form.cursor === undefined
          ? { ok: true, messages: [{ ts: '10.1' }, other, strange], response_metadata: { next_cursor: 'n' } }
          : {
              ok: true,
              messages: [{ ts: '10.9', metadata: METADATA }],
              response_metadata: { next_cursor: '' },
            },
    });

    expect(await messenger.find('T1', 'd1', THREAD, SINCE)).toBe('10.9');
    expect(calls).toMatchObject([
      { method: 'conversations.replies', form: { channel: 'C1', ts: '10.1', include_all_metadata: 'true' } },
      { form: { cursor: 'n' } },
    ]);
  });

  it('is looked for in a channel, and absent when it is not there', async () => {
    answers = () => ({ body: { ok: true, messages: [other] } });

    expect(await messenger.find('T1', 'd1', CHANNEL, SINCE)).toBeNull();
    expect(calls).toMatchObject([{ method: 'conversations.history' }]);
  });

  it('that only one person saw cannot be found', async () => {
    expect(await messenger.find('T1', 'd1', PERSON, SINCE)).toBeNull();
    expect(calls).toEqual([]);
  });

  it('is looked for where it can be: since it was owed, clocks apart', async () => {
    answers = () => ({ body: { ok: true, messages: [] } });

    await messenger.find('T1', 'd1', THREAD, SINCE);
    await messenger.find('T1', 'd1', CHANNEL, SINCE);

    const oldest = `${SINCE.getTime() / 1_000 - 300}.000000`;
    expect(calls.map(({ form }) => form.oldest)).toEqual([oldest, oldest]);
  });

  it('is found however many messages have come since', async () => {
    answers = () => ({
      body:
        calls.length < 30
          ? { ok: true, messages: [other], response_metadata: { next_cursor: 'more' } }
          : { ok: true, messages: [{ ts: '10.9', metadata: METADATA }] },
    });

    expect(await messenger.find('T1', 'd1', CHANNEL, SINCE)).toBe('10.9');
  });

  it('is not called absent when the search does not come to its end in time', async () => {
    answers = () => {
      slowly(1_000);
      return { body: { ok: true, messages: [other], response_metadata: { next_cursor: 'more' } } };
    };

    await expect(messenger.find('T1', 'd1', THREAD, SINCE)).rejects.toMatchObject({
      code: 'DELIVERY_FAILED',
    });
  });
});

it('a message that is to be removed and is gone already is a success', async () => {
  answers = () => ({ body: { ok: false, error: 'message_not_found' } });
  await messenger.remove('T1', 'C1', '10.9');

  expect(calls).toMatchObject([{ method: 'chat.delete', form: { channel: 'C1', ts: '10.9' } }]);
});

it('a reaction that is there already is a success', async () => {
  answers = () => ({ body: { ok: false, error: 'already_reacted' } });
  await messenger.react('T1', 'C1', '10.1', 'eyes');

  answers = () => ({ body: { ok: false, error: 'message_not_found' } });
  await expect(messenger.react('T1', 'C1', '10.1', 'eyes')).rejects.toMatchObject({
    code: 'DELIVERY_REFUSED',
  });
});

describe('a person', () => {
  const who = { teamId: 'T1', userId: 'U1' };
  const facts = async (user: object) => {
    answers = () => ({ body: { ok: true, user: { id: 'U1', team_id: 'T1', ...user } } });
    return messenger.person('T1', who);
  };
  const member = {
    ...who,
    known: true,
    isBot: false,
    isGuest: false,
    isExternal: false,
    isDeactivated: false,
  };

  it('is what Slack says at this moment, each time anew', async () => {
    expect(await facts({})).toEqual(member);
    expect(await facts({ deleted: true })).toEqual({ ...member, isDeactivated: true });
    expect(await facts({ is_restricted: true })).toEqual({ ...member, isGuest: true });
    expect(await facts({ is_ultra_restricted: true })).toEqual({ ...member, isGuest: true });
    expect(await facts({ is_bot: true })).toEqual({ ...member, isBot: true });
    expect(await facts({ is_stranger: true })).toEqual({ ...member, isExternal: true });
    expect(await facts({ team_id: 'T2' })).toEqual({ ...member, teamId: 'T2', isExternal: true });
    expect(await facts({ team_id: 'T2', enterprise_user: { teams: ['T1'] } })).toEqual({
      ...member,
      teamId: 'T2',
    });
    expect(calls).toHaveLength(8);
  });

  it('whom Slack does not know is unknown; an odd answer grants nothing', async () => {
    for (const body of [
      { ok: false, error: 'user_not_found' },
      { ok: false, error: 'user_not_visible' },
      { ok: true },
      { ok: true, user: { id: 'U2', team_id: 'T1' } },
    ]) {
      answers = () => ({ body });
      expect(await messenger.person('T1', who)).toMatchObject({ known: false });
    }
  });

  it('who cannot be looked up now can be later', async () => {
    answers = () => ({ status: 500, body: '' });

    await expect(messenger.person('T1', who)).rejects.toMatchObject({ code: 'DELIVERY_FAILED' });
  });
});

describe('the token', () => {
  it('names the bot it belongs to', async () => {
    answers = () => ({ body: { ok: true, team_id: 'T1', user_id: 'UBOT', bot_id: 'BBOT' } });

    expect(await messenger.authTest()).toEqual({
      teamId: 'T1',
      enterpriseId: null,
      botId: 'BBOT',
      botUserId: 'UBOT',
    });
  });

  it('that Slack refuses, or that is no bot’s, is named so; silence is not a refusal', async () => {
    answers = () => ({ body: { ok: false, error: 'invalid_auth' } });
    await expect(messenger.authTest()).rejects.toMatchObject({ code: 'SLACK_AUTH_FAILED' });
    answers = () => ({ body: { ok: true, team_id: 'T1', user_id: 'U1' } });
    await expect(messenger.authTest()).rejects.toMatchObject({ code: 'SLACK_AUTH_FAILED' });
    answers = () => 'hang up';
    await expect(messenger.authTest()).rejects.toMatchObject({ code: 'DELIVERY_FAILED' });
  });
});

it('modals are opened with the trigger and turned with the hash', async () => {
  const view = {
    type: 'modal' as const,
    title: { type: 'plain_text' as const, text: 'Details' },
    blocks: [],
  };

  await messenger.openView('1.2.t', view);
  await messenger.updateView('V1', 'h1', view);

  expect(calls).toMatchObject([
    { method: 'views.open', form: { trigger_id: '1.2.t' } },
    { method: 'views.update', form: { view_id: 'V1', hash: 'h1' } },
  ]);
});
