/**
 * Guarantee: to the real Socket Mode SDK (the one in Bolt) the local Slack is Slack. A connection is opened with an
 * app-level token and a ticket that works once; events, interactions and commands come as envelopes; what the app puts
 * into an acknowledgement answers a command or a submission; several connections share the work; what is not
 * acknowledged comes again; a connection that is told to go gets nothing more.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { App, LogLevel } from '@slack/bolt';
import { WebClient } from '@slack/web-api';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { startWorld, type World } from '../../src/local/world.ts';
import { ENGINEERING, MENTION, People, REQUESTER, REVIEWER_A } from '../support/people.ts';

let stateDir: string;
let world: World;
let people: People;
const closing: (() => Promise<unknown> | unknown)[] = [];

beforeAll(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'local-slack-sockets-'));
  world = await startWorld({ stateDir, redeliveryScale: 0.001 });
  people = new People(world);
});

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

afterAll(async () => {
  await world.close();
  await rm(stateDir, { recursive: true });
});

/** Bolt over Socket Mode, as anybody would write it. */
async function bolt(): Promise<App> {
  const app = new App({
    token: world.slack.botToken,
    appToken: world.slack.appToken,
    socketMode: true,
    logLevel: LogLevel.ERROR,
    clientOptions: { slackApiUrl: world.slack.apiUrl },
    installerOptions: { clientOptions: { slackApiUrl: world.slack.apiUrl } },
  });
  await app.start();
  closing.push(() => app.stop());
  return app;
}

/** A connection in the test's own hand. */
async function raw() {
  const client = new WebClient(world.slack.appToken, { slackApiUrl: world.slack.apiUrl });
  const { url } = await client.apps.connections.open({});
  const frames: Frame[] = [];
  const socket = new WebSocket(String(url));
  socket.addEventListener('message', ({ data }) => frames.push(JSON.parse(String(data)) as Frame));
  const closed = new Promise<void>((resolve) => socket.addEventListener('close', () => resolve()));
  closing.push(() => {
    socket.close();
    return closed;
  });
  await people.until(() => frames.length > 0);
  return {
    url: String(url),
    frames,
    closed,
    envelopes: () => frames.filter((frame) => frame.envelope_id !== undefined),
    ack: (frame: Frame | undefined, payload?: object) =>
      socket.send(JSON.stringify({ envelope_id: frame?.envelope_id, ...(payload ? { payload } : {}) })),
  };
}

interface Frame {
  readonly type: string;
  readonly reason?: string;
  readonly envelope_id?: string;
  readonly accepts_response_payload?: boolean;
  readonly retry_attempt?: number;
  readonly retry_reason?: string;
  readonly payload?: { event_id?: string; event?: { ts?: string; text?: string } };
}

describe("Bolt's own Socket Mode receiver", () => {
  test('gets a mention, a command, a click and a submission, and its answers arrive', async () => {
    const app = await bolt();
    const seen: string[] = [];
    app.event('app_mention', async ({ event }) => {
      seen.push(`mention ${event.ts}`);
    });
    app.command('/countersign', async ({ ack, command }) => {
      await ack(`you said ${command.text}`);
    });
    app.action('open', async ({ ack, body, client }) => {
      await ack();
      await client.views.open({
        trigger_id: 'trigger_id' in body ? body.trigger_id : '',
        view: {
          type: 'modal',
          callback_id: 'form',
          title: { type: 'plain_text', text: 'Form' },
          submit: { type: 'plain_text', text: 'Send' },
          blocks: [
            {
              type: 'input',
              block_id: 'why',
              label: { type: 'plain_text', text: 'Why' },
              element: { type: 'plain_text_input', action_id: 'text' },
            },
          ],
        },
      });
    });
    app.view('form', async ({ ack, view }) => {
      const said = view.state.values.why?.text?.value;
      await (said === 'good'
        ? ack()
        : ack({ response_action: 'errors', errors: { why: 'Say something good.' } }));
    });

    const ts = await people.say(REQUESTER, ENGINEERING, `${MENTION} over a socket`);
    await people.until(() => seen.includes(`mention ${ts}`));

    const command = await people.command(REQUESTER, ENGINEERING, '/countersign', 'status');
    expect(command).toMatchObject({ ackStatus: 200 });
    expect((await people.ephemerals(REQUESTER)).at(-1)?.text).toBe('you said status');

    const posted = await app.client.chat.postMessage({
      channel: ENGINEERING,
      text: 'card',
      blocks: [
        {
          type: 'actions',
          elements: [{ type: 'button', action_id: 'open', text: { type: 'plain_text', text: 'Open' } }],
        },
      ],
    });
    const click = await people.click(REVIEWER_A, {
      channel: ENGINEERING,
      ts: String(posted.ts),
      actionId: 'open',
    });
    expect(click.error).toBeUndefined();
    await people.until(async () => (await people.views(REVIEWER_A)).length === 1);

    expect((await people.submitView(REVIEWER_A, { text: 'bad' })).fieldErrors).toEqual({
      why: 'Say something good.',
    });
    expect((await people.submitView(REVIEWER_A, { text: 'good' })).error).toBeUndefined();
    expect(await people.views(REVIEWER_A)).toEqual([]);
  });
});

describe('apps.connections.open', () => {
  test('takes the app-level token only, and that token opens nothing else', async () => {
    const failure = (token: string, method: string) =>
      new WebClient(token, { slackApiUrl: world.slack.apiUrl }).apiCall(method).then(
        () => 'none',
        (error: { data?: { error?: string } }) => error.data?.error,
      );

    expect(await failure(world.slack.botToken, 'apps.connections.open')).toBe('not_allowed_token_type');
    expect(await failure('xapp-1-wrong', 'apps.connections.open')).toBe('invalid_auth');
    expect(await failure(world.slack.appToken, 'auth.test')).toBe('not_allowed_token_type');
  });

  test('gives a ticket that works once', async () => {
    const { url } = await raw();

    const again = new WebSocket(url);
    const how = await new Promise((resolve) => {
      again.addEventListener('open', () => resolve('open'));
      again.addEventListener('error', () => resolve('refused'));
    });

    expect(how).toBe('refused');
  });

  test('greets ten connections and sends the eleventh away', async () => {
    for (let count = 1; count <= 10; count += 1) {
      const { frames } = await raw();
      expect(frames[0]).toMatchObject({ type: 'hello', num_connections: count });
    }

    const eleventh = await raw();

    expect(eleventh.frames[0]).toMatchObject({ type: 'disconnect', reason: 'too_many_websockets' });
    await eleventh.closed;
  });
});

describe('envelopes', () => {
  test('each goes to one of the open connections, in turn', async () => {
    const [one, other] = [await raw(), await raw()];

    for (let count = 0; count < 4; count += 1) await people.say(REQUESTER, 'dm', `message ${count}`);
    await people.until(() => one.envelopes().length + other.envelopes().length >= 4);

    expect([one.envelopes().length, other.envelopes().length]).toEqual([2, 2]);
    for (const connection of [one, other]) for (const frame of connection.envelopes()) connection.ack(frame);
    const ids = [...one.envelopes(), ...other.envelopes()].map((frame) => frame.payload?.event_id);
    expect(new Set(ids).size).toBe(4);
    await people.until(async () => (await people.sockets()).every((socket) => socket.unansweredCount === 0));
  });

  test('what is not acknowledged comes again, counted; what is, does not', async () => {
    const connection = await raw();

    const ts = await people.say(REQUESTER, 'dm', 'nobody acknowledges this at first');
    const mine = () => connection.envelopes().filter((frame) => frame.payload?.event?.ts === ts);
    await people.until(() => mine().length === 2);
    connection.ack(mine()[1]);

    const done = await people.until(async () =>
      (await people.deliveries()).find(
        (delivery) => delivery.envelope.event.ts === ts && delivery.status === 'delivered',
      ),
    );
    expect(done.attempts.map((attempt) => attempt.reason)).toEqual(['http_timeout', undefined]);
    expect(mine().map((frame) => frame.retry_attempt)).toEqual([0, 1]);
    expect(mine()[1]?.payload?.event_id).toBe(mine()[0]?.payload?.event_id);
    expect(mine()[1]?.envelope_id).not.toBe(mine()[0]?.envelope_id);
  });

  test('a cut connection loses nothing: the next one gets what was open and what came meanwhile', async () => {
    const first = await raw();
    const open = await people.say(REQUESTER, 'dm', 'in flight');
    await people.until(() => first.envelopes().length === 1);

    await people.socket('cut');
    const meanwhile = await people.say(REQUESTER, 'dm', 'while nobody listens');
    const second = await raw();

    await people.until(() => {
      const seen = second.envelopes().map((frame) => frame.payload?.event?.ts);
      return seen.includes(open) && seen.includes(meanwhile);
    });
    for (const frame of second.envelopes()) second.ack(frame);
  });

  test('a connection told to go gets nothing more and is closed; its last answers still count', async () => {
    const old = await raw();
    const before = await people.say(REQUESTER, 'dm', 'before');
    await people.until(() => old.envelopes().length === 1);

    await people.socket('refresh_requested', { closeAfterMs: 300 });
    const fresh = await raw();
    const after = await people.say(REQUESTER, 'dm', 'after');
    await people.until(() => fresh.envelopes().length === 1);
    old.ack(old.envelopes()[0]);
    fresh.ack(fresh.envelopes()[0]);

    expect(old.frames.at(-1)).toMatchObject({ type: 'disconnect', reason: 'refresh_requested' });
    expect(fresh.envelopes()[0]?.payload?.event?.ts).toBe(after);
    const both = await people.until(async () => {
      const done = (await people.deliveries()).filter(
        ({ envelope, status }) =>
          status === 'delivered' && [before, after].includes(String(envelope.event.ts)),
      );
      return done.length === 2 && done;
    });
    expect(both.map(({ attempts }) => attempts.length)).toEqual([1, 1]);
    await old.closed;
  });
});
