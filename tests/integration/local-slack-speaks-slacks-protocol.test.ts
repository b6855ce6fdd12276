/**
 * Guarantee: to the real SDK and to an app behind a signature check, the local Slack is Slack. Events, interactions
 * and commands arrive signed and in Slack's shapes; a mention arrives twice; an event that is not acknowledged comes
 * again with the same id; limits are enforced with Slack's error names; triggers and response URLs run out.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LogLevel, WebClient } from '@slack/web-api';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { startWorld, type World } from '../../src/local/world.ts';
import {
  BOT,
  ENGINEERING,
  GENERAL,
  GUEST,
  MENTION,
  People,
  REQUESTER,
  REVIEWER_A,
  REVIEWER_B,
} from '../support/people.ts';
import { type Receiver, startReceiver } from './local-slack-receiver.ts';

let stateDir: string;
let world: World;
let app: Receiver;
let people: People;
let slack: WebClient;

beforeAll(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'local-slack-'));
  world = await startWorld({ stateDir, redeliveryScale: 0.001 });
  people = new People(world);
  slack = client(world.slack.botToken);
});

afterAll(async () => {
  await app.close();
  await world.close();
  await rm(stateDir, { recursive: true });
});

beforeEach(async () => {
  await app?.close();
  app = await startReceiver(world.slack.signingSecret);
  await people.clearFaults();
  await world.connect(app.url);
});

function client(token: string): WebClient {
  return new WebClient(token, {
    slackApiUrl: world.slack.apiUrl,
    logLevel: LogLevel.ERROR,
    retryConfig: { retries: 0 },
    rejectRateLimitedCalls: true,
  });
}

function button(actionId: string, value = 'v'): object {
  return {
    type: 'button',
    action_id: actionId,
    value,
    text: { type: 'plain_text', text: 'Approve' },
    style: 'primary',
  };
}

function card(...actionIds: string[]): object[] {
  return [
    { type: 'section', text: { type: 'mrkdwn', text: 'Approve?' } },
    { type: 'actions', block_id: 'decide', elements: actionIds.map((id) => button(id)) },
  ];
}

async function post(blocks: object[], channel = ENGINEERING): Promise<string> {
  const answer = await slack.apiCall('chat.postMessage', { channel, text: 'card', blocks });
  return String((answer as { ts?: unknown }).ts);
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

describe('events', () => {
  test('a mention arrives as app_mention and as message, signed, with two event ids', async () => {
    const ts = await people.say(REQUESTER, ENGINEERING, `${MENTION} merge pull request 1`);

    await people.until(() => app.events('app_mention').length === 1 && app.events('message').length === 1);
    const [mention] = app.events('app_mention');
    const [message] = app.events('message');
    expect(mention?.signed).toBe(true);
    expect(mention?.json).toMatchObject({
      type: 'event_callback',
      team_id: 'T0LOCAL',
      api_app_id: 'A0COUNTERSIGN',
      authorizations: [{ team_id: 'T0LOCAL', user_id: BOT, is_bot: true }],
      event: { type: 'app_mention', user: REQUESTER, channel: ENGINEERING, ts, event_ts: ts },
    });
    expect(message?.json.event).toMatchObject({ ts, channel: ENGINEERING, channel_type: 'channel' });
    expect(message?.json.event_id).not.toBe(mention?.json.event_id);
  });

  test('a direct message arrives once, as message.im', async () => {
    await people.say(REQUESTER, 'dm', `hello ${MENTION}`);

    await people.until(() => app.events('message').length === 1);
    expect(app.events('message')[0]?.json.event).toMatchObject({
      channel: 'D0REQUESTER',
      channel_type: 'im',
    });
    expect(app.events('app_mention')).toHaveLength(0);
  });

  test("the bot's own post comes back as a message with its bot id", async () => {
    const { ts } = await slack.chat.postMessage({ channel: ENGINEERING, text: `own ${MENTION}` });

    await people.until(() => app.events('message').length === 1);
    expect(app.events('message')[0]?.json.event).toMatchObject({ ts, user: BOT, bot_id: 'B0COUNTERSIGN' });
    expect(app.events('app_mention')).toHaveLength(0);
  });

  test('an unacknowledged event comes again with the same id and bytes, and is given up after three retries', async () => {
    app.answer = () => ({ status: 500 });
    await people.say(REQUESTER, 'dm', 'nobody stores this');

    const given = await people.until(async () =>
      (await people.deliveries()).find((one) => one.status === 'given_up'),
    );
    expect(given.attempts).toHaveLength(4);
    expect(app.received.map((one) => one.headers['x-slack-retry-num'])).toEqual([undefined, '1', '2', '3']);
    expect(app.received[3]?.headers['x-slack-retry-reason']).toBe('http_error');
    expect(new Set(app.received.map((one) => one.body)).size).toBe(1);
    expect(app.received.every((one) => one.signed)).toBe(true);
  });

  test('a retry stops at the first acknowledgement, and an old event can be redelivered', async () => {
    app.answer = () => (app.received.length < 2 ? { status: 503 } : {});
    await people.say(REQUESTER, 'dm', 'second time lucky');

    const done = await people.until(async () =>
      (await people.deliveries()).findLast((one) => one.status === 'delivered' && one.attempts.length === 2),
    );
    expect(app.received).toHaveLength(2);
    await people.redeliver(done.eventId);
    expect(app.received).toHaveLength(3);
    expect(app.received[2]?.body).toBe(app.received[0]?.body);
    expect(app.received[2]?.headers['x-slack-retry-num']).toBeDefined();
  });

  test('an answer later than three seconds is a timeout', async () => {
    let release = (): void => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    app.answer = async () => {
      if (app.received.length === 1) await held;
      return {};
    };
    await people.say(REQUESTER, 'dm', 'slow');

    await people.until(() => app.received.length === 2);
    release();
    expect(app.received[1]?.headers['x-slack-retry-reason']).toBe('http_timeout');
  });
});

describe('clicks and modals', () => {
  test('a click carries message, container, state and a trigger, and its answer is measured', async () => {
    const ts = await post(card('approve', 'reject'));

    const result = await people.click(REVIEWER_A, { channel: ENGINEERING, ts, actionId: 'approve' });

    expect(result.ackStatus).toBe(200);
    expect(result.error).toBeUndefined();
    const [click] = app.interactions('block_actions');
    expect(click?.signed).toBe(true);
    expect(click?.headers['content-type']).toBe('application/x-www-form-urlencoded');
    expect(click?.json).toMatchObject({
      user: { id: REVIEWER_A, team_id: 'T0LOCAL' },
      api_app_id: 'A0COUNTERSIGN',
      container: { type: 'message', message_ts: ts, channel_id: ENGINEERING, is_ephemeral: false },
      team: { id: 'T0LOCAL' },
      enterprise: null,
      is_enterprise_install: false,
      channel: { id: ENGINEERING },
      message: { ts, bot_id: 'B0COUNTERSIGN' },
      state: { values: {} },
      actions: [{ action_id: 'approve', block_id: 'decide', type: 'button', value: 'v' }],
    });
  });

  test('a click the app does not take is not retried, and its author is told', async () => {
    const ts = await post(card('approve'));
    app.answer = () => ({ status: 500 });

    const result = await people.click(REVIEWER_A, { channel: ENGINEERING, ts, actionId: 'approve' });

    expect(result.ackStatus).toBe(500);
    expect(result.error).toContain('Something went wrong');
    expect(app.interactions('block_actions')).toHaveLength(1);
  });

  test('a button taken away by an edit is gone, except for a click already under way', async () => {
    const ts = await post(card('approve'));
    await slack.chat.update({ channel: ENGINEERING, ts, text: 'done', blocks: [] });

    await expect(
      people.click(REVIEWER_A, { channel: ENGINEERING, ts, actionId: 'approve' }),
    ).rejects.toMatchObject({
      code: 'action_not_found',
    });
    const stale = await people.click(REVIEWER_A, {
      channel: ENGINEERING,
      ts,
      actionId: 'approve',
      stale: true,
    });
    expect(stale.ackStatus).toBe(200);
  });

  test('boxes in a message keep what each person ticked', async () => {
    const options = ['3', '5'].map((value) => ({ value, text: { type: 'plain_text', text: `#${value}` } }));
    const ts = await post([
      {
        type: 'actions',
        block_id: 'pick',
        elements: [{ type: 'checkboxes', action_id: 'items', options }, button('go')],
      },
    ]);

    await people.click(REVIEWER_A, { channel: ENGINEERING, ts, actionId: 'items', chosen: ['5'] });
    await people.click(REVIEWER_B, { channel: ENGINEERING, ts, actionId: 'go' });
    await people.click(REVIEWER_A, { channel: ENGINEERING, ts, actionId: 'go' });

    const [, ofB, ofA] = app.interactions('block_actions');
    expect(ofA?.json.state).toMatchObject({
      values: { pick: { items: { selected_options: [{ value: '5' }] } } },
    });
    expect(ofB?.json.state).toEqual({ values: {} });
  });

  test('a trigger opens one modal; its submission can be refused by field, updated, and closed', async () => {
    const ts = await post(card('details'));
    await people.click(REVIEWER_A, { channel: ENGINEERING, ts, actionId: 'details' });
    const trigger_id = String(app.interactions('block_actions')[0]?.json.trigger_id);
    const view = {
      type: 'modal' as const,
      callback_id: 'reason',
      notify_on_close: true,
      title: { type: 'plain_text' as const, text: 'Reject' },
      submit: { type: 'plain_text' as const, text: 'Send' },
      blocks: [
        {
          type: 'input' as const,
          block_id: 'why',
          label: { type: 'plain_text' as const, text: 'Why' },
          element: { type: 'plain_text_input' as const, action_id: 'text', multiline: true },
        },
      ],
    };
    await slack.views.open({ trigger_id, view });
    expect(await failure(slack.views.open({ trigger_id, view }))).toBe('exchanged_trigger_id');
    expect(await people.views(REVIEWER_B)).toEqual([]);

    expect((await people.submitView(REVIEWER_A)).fieldErrors).toEqual({ why: 'This is a required field.' });
    expect(app.interactions('view_submission')).toHaveLength(0);

    app.answer = () => ({ body: { response_action: 'errors', errors: { why: 'Say more.' } } });
    expect((await people.submitView(REVIEWER_A, { text: 'no' })).fieldErrors).toEqual({ why: 'Say more.' });

    app.answer = () => ({
      body: { response_action: 'update', view: { ...view, title: { type: 'plain_text', text: 'Sure?' } } },
    });
    await people.submitView(REVIEWER_A);
    expect((await people.views(REVIEWER_A)).map((open) => open.title.text)).toEqual(['Sure?']);

    app.answer = () => ({});
    await people.submitView(REVIEWER_A, { text: 'wait for the release' });
    expect(await people.views(REVIEWER_A)).toEqual([]);
    expect(app.interactions('view_submission').at(-1)?.json).toMatchObject({
      user: { id: REVIEWER_A },
      view: {
        callback_id: 'reason',
        state: { values: { why: { text: { value: 'wait for the release' } } } },
      },
    });
  });

  test('closing tells the app only if it asked; a stale hash and a used-up trigger are refused', async () => {
    const ts = await post(card('details'));
    const open = async (notify: boolean): Promise<string> => {
      await people.click(REVIEWER_A, { channel: ENGINEERING, ts, actionId: 'details' });
      const trigger_id = String(app.interactions('block_actions').at(-1)?.json.trigger_id);
      const { view } = await slack.views.open({
        trigger_id,
        view: {
          type: 'modal',
          notify_on_close: notify,
          title: { type: 'plain_text', text: 'T' },
          blocks: [{ type: 'divider' }],
        },
      });
      return String(view?.id);
    };
    const view_id = await open(false);
    const update = { type: 'modal' as const, title: { type: 'plain_text' as const, text: 'U' }, blocks: [] };
    expect(await failure(slack.views.update({ view_id, hash: 'old', view: update }))).toBe('hash_conflict');
    await people.closeView(REVIEWER_A);
    expect(await failure(slack.views.update({ view_id, view: update }))).toBe('not_found');
    await open(true);
    await people.closeView(REVIEWER_A);
    expect(app.interactions('view_closed')).toHaveLength(1);
    expect(await failure(slack.views.open({ trigger_id: 'made up', view: update }))).toBe(
      'invalid_trigger_id',
    );
  });

  test('a response_url answers its person privately, replaces the original, and works five times', async () => {
    const ts = await post(card('approve'));
    await people.click(REVIEWER_B, { channel: ENGINEERING, ts, actionId: 'approve' });
    const url = String(app.interactions('block_actions')[0]?.json.response_url);
    const respond = async (body: object): Promise<number> =>
      (
        await fetch(url, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify(body),
        })
      ).status;

    expect(
      await respond({ response_type: 'ephemeral', replace_original: false, text: 'already decided' }),
    ).toBe(200);
    expect(await respond({ replace_original: true, text: 'now closed' })).toBe(200);
    expect((await people.ephemerals(REVIEWER_B)).at(-1)).toMatchObject({
      text: 'already decided',
      channel: ENGINEERING,
    });
    expect((await people.ephemerals(REVIEWER_A)).some((one) => one.text === 'already decided')).toBe(false);
    expect((await people.messages(ENGINEERING)).find((one) => one.ts === ts)?.text).toBe('now closed');
    for (let use = 3; use <= 5; use += 1) expect(await respond({ text: `use ${use}` })).toBe(200);
    expect(await respond({ text: 'use 6' })).toBe(404);
  });

  test('a slash command is a signed form, and its answer is shown to its author', async () => {
    app.answer = () => ({ body: { text: 'on it' } });
    await people.command(REQUESTER, ENGINEERING, '/countersign', 'status');

    expect(app.received[0]?.signed).toBe(true);
    expect(app.received[0]?.json).toMatchObject({
      command: '/countersign',
      text: 'status',
      user_id: REQUESTER,
      team_id: 'T0LOCAL',
    });
    expect((await people.ephemerals(REQUESTER)).at(-1)?.text).toBe('on it');
  });

  test('App Home: opening tells the app, publishing shows the person', async () => {
    await people.openHome(GUEST);
    await people.until(() => app.events('app_home_opened').length === 1);
    await slack.views.publish({ user_id: GUEST, view: { type: 'home', blocks: [{ type: 'divider' }] } });
    expect((await people.home(GUEST))?.blocks).toHaveLength(1);
  });
});

describe('the Web API', () => {
  test('tokens are checked', async () => {
    expect(await failure(client('xoxb-wrong').auth.test())).toBe('invalid_auth');
    expect(await failure(client('').auth.test())).toBe('not_authed');
    expect(await slack.auth.test()).toMatchObject({
      ok: true,
      team_id: 'T0LOCAL',
      user_id: BOT,
      bot_id: 'B0COUNTERSIGN',
    });
    expect((await slack.bots.info({ bot: 'B0COUNTERSIGN' })).bot?.app_id).toBe('A0COUNTERSIGN');
    expect(await failure(slack.apiCall('no.such'))).toBe('unknown_method');
  });

  test('people carry what authority is judged by', async () => {
    const flags = [
      'is_bot',
      'is_restricted',
      'is_ultra_restricted',
      'is_stranger',
      'deleted',
      'team_id',
      'tz',
    ];
    const { user } = await slack.users.info({ user: GUEST });
    expect(Object.keys(user ?? {})).toEqual(expect.arrayContaining(flags));
    expect(user).toMatchObject({ is_restricted: true, deleted: false });
    await people.user('U0STRANGER', { name: 'stranger', team_id: 'T0OTHER', is_stranger: true });
    expect((await slack.users.info({ user: 'U0STRANGER' })).user).toMatchObject({
      team_id: 'T0OTHER',
      is_stranger: true,
    });
    await people.deactivate('U0STRANGER');
    expect((await slack.users.info({ user: 'U0STRANGER' })).user?.deleted).toBe(true);
    expect(await failure(slack.users.info({ user: 'U0NOBODY' }))).toBe('user_not_found');
  });

  test('threads, metadata and windows are read back', async () => {
    const metadata = { event_type: 'card', event_payload: { request: 'r1' } };
    const parent = await slack.chat.postMessage({ channel: GENERAL, text: 'parent', metadata });
    const reply = await slack.chat.postMessage({
      channel: GENERAL,
      text: 'reply',
      thread_ts: String(parent.ts),
      metadata,
    });

    const replies = await slack.conversations.replies({
      channel: GENERAL,
      ts: String(parent.ts),
      include_all_metadata: true,
    });
    expect(replies.messages?.map((one) => one.ts)).toEqual([parent.ts, reply.ts]);
    expect(replies.messages?.[1]?.metadata).toEqual(metadata);
    const history = await slack.conversations.history({
      channel: GENERAL,
      oldest: String(parent.ts),
      inclusive: true,
    });
    expect(history.messages?.map((one) => one.ts)).toEqual([parent.ts]);
    expect(history.messages?.[0]).toMatchObject({ reply_count: 1 });
    expect(history.messages?.[0]?.metadata).toBeUndefined();
    expect(
      (await slack.conversations.history({ channel: GENERAL, oldest: String(parent.ts) })).messages,
    ).toEqual([]);
    expect(await failure(slack.conversations.replies({ channel: GENERAL, ts: '1.000001' }))).toBe(
      'thread_not_found',
    );
    const { permalink } = await slack.chat.getPermalink({ channel: GENERAL, message_ts: String(reply.ts) });
    expect(permalink).toContain(`/archives/${GENERAL}/p${String(reply.ts).replace('.', '')}`);
  });

  test('lists are paged by cursor', async () => {
    for (let count = 0; count < 5; count += 1) await people.say(REQUESTER, GENERAL, `page ${count}`);
    const texts: (string | undefined)[] = [];
    for await (const found of slack.paginate('conversations.history', { channel: GENERAL, limit: 2 })) {
      texts.push(...((found as { messages?: { text?: string }[] }).messages ?? []).map((one) => one.text));
      if (texts.length >= 5) break;
    }
    expect(texts.slice(0, 5)).toEqual(['page 4', 'page 3', 'page 2', 'page 1', 'page 0']);
  });

  test("Slack's limits are enforced with Slack's names", async () => {
    const say = (extra: object): Promise<string> =>
      failure(slack.apiCall('chat.postMessage', { channel: ENGINEERING, text: 'x', ...extra }));
    const section = (length: number): object => ({
      type: 'section',
      text: { type: 'mrkdwn', text: 'x'.repeat(length) },
    });
    expect(await say({ blocks: [section(3000)] })).toContain('unexpected: undefined');
    expect(await say({ blocks: [section(3001)] })).toBe('invalid_blocks');
    expect(await say({ blocks: [section(0)] })).toBe('invalid_blocks');
    expect(await say({ blocks: Array(51).fill({ type: 'divider' }) })).toBe('invalid_blocks');
    expect(await say({ blocks: Array(5).fill(section(2900)) })).toBe('msg_blocks_too_long');
    expect(await say({ blocks: [{ type: 'actions', elements: [button('a', 'v'.repeat(2001))] }] })).toBe(
      'invalid_blocks',
    );
    expect(await say({ blocks: [{ type: 'actions', elements: [button('a'), button('a')] }] })).toBe(
      'invalid_blocks',
    );
    expect(await say({ blocks: [{ type: 'made_up' }] })).toBe('invalid_blocks');
    expect(await say({ blocks: [{ type: 'markdown', text: 'x'.repeat(12_001) }] })).toBe('invalid_blocks');
    expect(await say({ text: 'x'.repeat(40_001) })).toBe('msg_too_long');
    expect(await say({ text: '' })).toBe('no_text');
    expect(await say({ metadata: { event_type: 'x' } })).toBe('invalid_metadata_schema');
    expect(await say({ thread_ts: '1.000001' })).toBe('thread_not_found');
    const ts = await post(card('approve'));
    const update = { channel: ENGINEERING, ts, text: 'x', blocks: [section(3001)] };
    expect(await failure(slack.apiCall('chat.update', update))).toBe('invalid_blocks');
  });

  test('channels that cannot be written say why', async () => {
    const say = (channel: string): Promise<string> => failure(slack.chat.postMessage({ channel, text: 'x' }));
    expect(await say('C0NOWHERE')).toBe('channel_not_found');
    await people.channel('C0OLD', { name: 'old', archived: true });
    expect(await say('C0OLD')).toBe('is_archived');
    await people.channel('C0PRIVATE');
    await people.leave('C0PRIVATE', BOT);
    expect(await say('C0PRIVATE')).toBe('not_in_channel');
  });

  test("only the bot's own messages are edited and deleted; a field left out is kept", async () => {
    const theirs = await people.say(REQUESTER, ENGINEERING, 'mine');
    expect(await failure(slack.chat.update({ channel: ENGINEERING, ts: theirs, text: 'x' }))).toBe(
      'cant_update_message',
    );
    expect(await failure(slack.chat.delete({ channel: ENGINEERING, ts: theirs }))).toBe(
      'cant_delete_message',
    );
    const ts = await post(card('approve'));
    await slack.chat.update({ channel: ENGINEERING, ts, text: 'new words' });
    const [kept] = (await people.messages(ENGINEERING)).filter((one) => one.ts === ts);
    expect(kept).toMatchObject({ text: 'new words', edited: { user: BOT } });
    expect(kept?.blocks).toHaveLength(2);
    await slack.chat.delete({ channel: ENGINEERING, ts });
    expect(await failure(slack.chat.update({ channel: ENGINEERING, ts, text: 'x' }))).toBe(
      'message_not_found',
    );
  });

  test('reactions are counted once each', async () => {
    const timestamp = await people.say(REQUESTER, ENGINEERING, 'look');
    await slack.reactions.add({ channel: ENGINEERING, timestamp, name: 'eyes' });
    expect(await failure(slack.reactions.add({ channel: ENGINEERING, timestamp, name: 'eyes' }))).toBe(
      'already_reacted',
    );
    await people.react(REVIEWER_A, ENGINEERING, timestamp, 'eyes');
    const got = await slack.reactions.get({ channel: ENGINEERING, timestamp });
    expect((got as { message?: unknown }).message).toMatchObject({
      reactions: [{ name: 'eyes', users: [BOT, REVIEWER_A], count: 2 }],
    });
    await people.until(() => app.events('reaction_added').length === 2);
  });

  test('a private message is seen by its person alone', async () => {
    await slack.chat.postEphemeral({ channel: ENGINEERING, user: REVIEWER_A, text: 'for a' });
    expect((await people.ephemerals(REVIEWER_A)).at(-1)).toMatchObject({
      text: 'for a',
      audience: REVIEWER_A,
    });
    expect((await people.ephemerals(REVIEWER_B)).some((one) => one.text === 'for a')).toBe(false);
    expect((await people.messages(ENGINEERING)).some((one) => one.text === 'for a')).toBe(false);
  });

  test('a file is uploaded by the SDK into a thread', async () => {
    const { ts } = await slack.chat.postMessage({ channel: ENGINEERING, text: 'see file' });
    await slack.files.uploadV2({
      channel_id: ENGINEERING,
      thread_ts: String(ts),
      filename: 'diff.txt',
      content: '+1 -1',
    });
    const thread = await people.thread(ENGINEERING, String(ts));
    expect(thread.at(-1)).toMatchObject({ files: [{ name: 'diff.txt', size: 5 }] });
  });
});

describe('arranged trouble', () => {
  test('a rate limit hits its method and channel only, and says how long', async () => {
    await people.fault({
      method: 'chat.postMessage',
      channel: ENGINEERING,
      kind: 'rate_limited',
      retryAfterSec: 7,
    });

    await slack.chat.postMessage({ channel: GENERAL, text: 'elsewhere' });
    const error = await slack.chat
      .postMessage({ channel: ENGINEERING, text: 'x' })
      .catch((reason: unknown) => reason);
    expect(error).toMatchObject({ retryAfter: 7 });
    await slack.chat.postMessage({ channel: ENGINEERING, text: 'after' });
  });

  test('accept-then-drop performs once and loses the answer; drop-before performs nothing', async () => {
    await people.fault({ method: 'chat.postMessage', kind: 'drop_after' });
    await expect(slack.chat.postMessage({ channel: ENGINEERING, text: 'did it arrive?' })).rejects.toThrow();
    await people.fault({ method: 'chat.postMessage', kind: 'drop_before' });
    await expect(slack.chat.postMessage({ channel: ENGINEERING, text: 'never' })).rejects.toThrow();

    const texts = (await people.messages(ENGINEERING)).map((one) => one.text);
    expect(texts.filter((text) => text === 'did it arrive?')).toHaveLength(1);
    expect(texts).not.toContain('never');
    expect((await people.calls('chat.postMessage')).slice(-2)).toMatchObject([
      { performed: true, status: 0, fault: 'drop_after' },
      { performed: false, status: 0, fault: 'drop_before' },
    ]);
  });

  test('a server error performs nothing', async () => {
    await people.fault({ method: 'chat.update', kind: 'server_error', status: 502 });
    const ts = await post(card('approve'));
    await expect(slack.chat.update({ channel: ENGINEERING, ts, text: 'x' })).rejects.toMatchObject({
      statusCode: 502,
    });
  });
});
