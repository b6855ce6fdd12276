/**
 * Guarantee, one contract for both ways in which Slack reaches us (signed requests, Socket Mode): what a person does is
 * stored once and acknowledged after that; what cannot be stored is not acknowledged, so that Slack sends it again, and
 * nothing is lost or doubled by it; a form is given back to be mended; what nobody knows changes nothing and ends
 * nothing. The receivers, the door behind them and the inbox are the product's; Slack is the local one.
 */
import { createHmac } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { WebClient } from '@slack/web-api';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { REASON_INPUT, VIEWS } from '../../src/bot/buttons.ts';
import { HttpReceiver } from '../../src/bot/http-receiver.ts';
import type { InboundRow } from '../../src/bot/inbound.ts';
import { createEnvelopeIngest, createIngest, type StoreOptions } from '../../src/bot/ingest.ts';
import { mendForm } from '../../src/bot/mending.ts';
import { socketOpener } from '../../src/bot/slack-client.ts';
import { SocketReceiver } from '../../src/bot/socket-receiver.ts';
import { storeRequest } from '../../src/jobs/inbox.ts';
import { startWorld, type World } from '../../src/local/world.ts';
import { testLog, useDatabase } from '../support/database.ts';
import { ENGINEERING, MENTION, People, REQUESTER, REVIEWER_A } from '../support/people.ts';

const STORE_TIMEOUT_MS = 1_000;
const SUBSCRIPTIONS = ['app_mention', 'message.im', 'reaction_added', 'app_home_opened'];
/** What no Slack sends, as the inside of an event request or of an envelope. */
const NONSENSE: readonly unknown[] = [
  null,
  [],
  'x',
  7,
  {},
  { type: 'event_callback' },
  { type: 'event_callback', event: null },
  { type: 'event_callback', event: 'x' },
  { type: 'event_callback', event_id: 'Ev1', event: { type: 'app_mention', user: null } },
  { type: 'app_rate_limited', minute_rate_limited: 1 },
  { type: 'block_actions', actions: [] },
  JSON.parse('{"type":"event_callback","__proto__":{"a":1},"event":{"type":"app_mention"}}'),
];

const base = useDatabase();

describe.each(['http', 'socket'] as const)('over %s', (by) => {
  let stateDir: string;
  let world: World;
  let people: People;
  let slack: WebClient;
  let receiver: { stop(): Promise<void> };
  /** Sends something that no Slack sends, and resolves once it has been dealt with. */
  let sendNonsense: (inside: unknown) => Promise<void>;
  /** What storing does; the default stores. */
  let store: StoreOptions['store'];
  const taken: InboundRow[] = [];

  const reallyStore: StoreOptions['store'] = (row, deadline) => storeRequest(base.db, row, deadline);

  beforeAll(async () => {
    stateDir = await mkdtemp(join(tmpdir(), `both-receivers-${by}-`));
    world = await startWorld({ stateDir, redeliveryScale: 0.001 });
    people = new People(world);
    slack = new WebClient(world.slack.botToken, { slackApiUrl: world.slack.apiUrl });
    const options: StoreOptions = {
      store: (row, signal) => {
        taken.push(row);
        return store(row, signal);
      },
      mend: mendForm,
      storeTimeoutMs: STORE_TIMEOUT_MS,
    };
    if (by === 'http') {
      const http = new HttpReceiver({
        ingest: createIngest({
          ...options,
          signingSecrets: [world.slack.signingSecret],
          nowSeconds: () => Date.now() / 1_000,
        }),
        ready: async () => ({ ok: true, detail: {} }),
        log: testLog,
        port: 0,
        host: '127.0.0.1',
      });
      const url = `http://127.0.0.1:${(await http.start()).port}/slack/events`;
      await people.connect(url, SUBSCRIPTIONS);
      receiver = http;
      sendNonsense = async (inside) => {
        const body = JSON.stringify(inside);
        const timestamp = String(Math.floor(Date.now() / 1_000));
        const signature = createHmac('sha256', world.slack.signingSecret)
          .update(`v0:${timestamp}:${body}`)
          .digest('hex');
        const answer = await fetch(url, {
          method: 'POST',
          body,
          headers: {
            'content-type': 'application/json',
            'x-slack-request-timestamp': timestamp,
            'x-slack-signature': `v0=${signature}`,
          },
        });
        expect(answer.status).toBeLessThan(500);
      };
    } else {
      const socket = new SocketReceiver({
        ingest: createEnvelopeIngest(options),
        open: socketOpener({
          appToken: world.slack.appToken,
          slackApiUrl: world.slack.apiUrl,
          log: testLog,
        }),
        log: testLog,
      });
      // The subscriptions of the app are the same whichever way its events come.
      await people.connect('http://127.0.0.1:9/nowhere', SUBSCRIPTIONS);
      await socket.start();
      receiver = socket;
      sendNonsense = async (inside) => {
        for (const type of ['events_api', 'interactive', 'slash_commands', 'made_up', null])
          await people.socket('send', {
            frame: JSON.stringify({ envelope_id: 'e1', type, payload: inside }),
          });
        await people.socket('send', { frame: JSON.stringify(inside) });
        await people.socket('send', { frame: '{not json' });
      };
    }
  });

  beforeEach(async () => {
    store = reallyStore;
    taken.length = 0;
    await base.db.query({ text: `update inbox set dedupe_key = 'earlier ' || inbox_id::text` });
  });

  afterAll(async () => {
    await receiver.stop();
    await world.close();
    await rm(stateDir, { recursive: true });
  });

  interface Stored {
    readonly dedupe_key: string;
    readonly source: string;
    readonly payload: Record<string, unknown>;
    readonly delivery_count: number;
  }

  async function rows(): Promise<Stored[]> {
    const { rows: found } = await base.db.query<Stored>({
      text: `select dedupe_key, source, payload, delivery_count from inbox
             where dedupe_key not like 'earlier %' order by received_at, inbox_id`,
    });
    return found;
  }

  /** The delivery of what was said at `ts`, once Slack is through with it. */
  const settled = (ts: string, type: string) =>
    people.until(async () =>
      (await people.deliveries()).find(
        ({ envelope, eventType, status }) =>
          envelope.event.ts === ts && eventType === type && status !== 'pending',
      ),
    );

  /** A card with one button, pressed by reviewer-a; gives what the person was told. */
  async function press() {
    const { ts } = await slack.chat.postMessage({
      channel: ENGINEERING,
      text: 'card',
      blocks: [
        {
          type: 'actions',
          elements: [{ type: 'button', action_id: 'a', text: { type: 'plain_text', text: 'A' } }],
        },
      ],
    });
    return people.click(REVIEWER_A, { channel: ENGINEERING, ts: String(ts), actionId: 'a' });
  }

  it('a mention is stored once and acknowledged at its first delivery', async () => {
    const ts = await people.say(REQUESTER, ENGINEERING, `${MENTION} hello`);

    expect((await settled(ts, 'app_mention')).attempts).toHaveLength(1);
    expect(await rows()).toMatchObject([
      { source: 'event', delivery_count: 1, payload: { event: { type: 'app_mention', ts } } },
    ]);
  });

  it('a direct message is stored', async () => {
    const ts = await people.say(REQUESTER, 'dm', 'hello');

    expect((await settled(ts, 'message')).status).toBe('delivered');
    expect(await rows()).toMatchObject([{ payload: { event: { type: 'message', ts, text: 'hello' } } }]);
  });

  it('a slash command is stored, and its author sees no error', async () => {
    const told = await people.command(REQUESTER, ENGINEERING, '/countersign', 'digest here');

    expect(told).toMatchObject({ ackStatus: 200 });
    expect(told.error).toBeUndefined();
    expect(await rows()).toMatchObject([
      {
        source: 'command',
        payload: { command: '/countersign', text: 'digest here', user_id: REQUESTER },
      },
    ]);
  });

  it('a click is stored before it is acknowledged, without the addresses and tokens that came with it', async () => {
    const order: string[] = [];
    store = async (row, signal) => {
      const outcome = await reallyStore(row, signal);
      order.push('stored');
      return outcome;
    };

    const told = await press();
    order.push('acknowledged');

    expect(told).toMatchObject({ ackStatus: 200 });
    expect(order).toEqual(['stored', 'acknowledged']);
    const [row] = await rows();
    expect(row).toMatchObject({ source: 'interaction', payload: { type: 'block_actions' } });
    expect(JSON.stringify(row)).not.toContain('response_url');
    expect(JSON.stringify(row)).not.toContain('"token"');
  });

  it('a form that says nothing is given back under its field; mended, it is stored and closed', async () => {
    await press();
    const [click] = await rows();
    await slack.views.open({
      trigger_id: String(click?.payload.trigger_id),
      view: {
        type: 'modal',
        callback_id: VIEWS.happened,
        title: { type: 'plain_text', text: 'It happened' },
        submit: { type: 'plain_text', text: 'Confirm' },
        blocks: [
          {
            type: 'input',
            block_id: REASON_INPUT.block,
            label: { type: 'plain_text', text: 'What did you see there?' },
            element: { type: 'plain_text_input', action_id: REASON_INPUT.action },
          },
        ],
      },
    });

    const blank = await people.submitView(REVIEWER_A, { [REASON_INPUT.action]: '   ' });
    expect(blank.fieldErrors).toEqual({ [REASON_INPUT.block]: expect.stringContaining('Say what you saw') });
    expect(await people.views(REVIEWER_A)).toHaveLength(1);
    expect(await rows()).toHaveLength(1);

    const mended = await people.submitView(REVIEWER_A, { [REASON_INPUT.action]: 'It is merged.' });
    expect(mended.error).toBeUndefined();
    expect(await people.views(REVIEWER_A)).toEqual([]);
    expect((await rows())[1]).toMatchObject({ payload: { type: 'view_submission' } });
  });

  it('a redelivery is acknowledged and stays one row', async () => {
    const ts = await people.say(REQUESTER, ENGINEERING, `${MENTION} again`);
    const { eventId } = await settled(ts, 'app_mention');

    for (let count = 0; count < 3; count += 1)
      expect(await people.redeliver(eventId)).toMatchObject({ ackStatus: 200 });

    expect(await rows()).toMatchObject([{ dedupe_key: `event:${eventId}`, delivery_count: 4 }]);
  });

  it('what was stored too late to be acknowledged comes again and is one row', async () => {
    const late = Promise.withResolvers<void>();
    store = async (row, signal) => {
      const outcome = await reallyStore(row, signal);
      if (taken.length === 1) await late.promise;
      return outcome;
    };

    const ts = await people.say(REQUESTER, 'dm', 'slowly');

    const { attempts, status } = await settled(ts, 'message');
    late.resolve();
    expect(status).toBe('delivered');
    expect(attempts).toHaveLength(2);
    expect(attempts[0]?.reason).toBeDefined();
    expect(await rows()).toMatchObject([{ delivery_count: 2 }]);
  });

  it('a click that had to wait for a connection until its author was told otherwise is not stored after all', async () => {
    const free = Promise.withResolvers<void>();
    const given = Promise.withResolvers<unknown>();
    store = (row, signal) => {
      const stored = free.promise.then(() => reallyStore(row, signal));
      given.resolve(stored.catch((error: unknown) => error));
      return stored;
    };

    const told = await press();
    free.resolve();

    expect(told.error).toBeDefined();
    expect(await given.promise).toBeInstanceOf(Error);
    expect(await rows()).toEqual([]);
  });

  it('with the database away nothing is acknowledged: events come again, a click tells its author', async () => {
    store = async () => {
      throw new Error('the database is away');
    };
    const told = await press();
    expect(told.error).toBeDefined();
    expect(told.ackStatus).not.toBe(200);

    let tries = 0;
    store = async (row, signal) => {
      tries += 1;
      if (tries < 3) throw new Error('the database is away');
      return reallyStore(row, signal);
    };
    const ts = await people.say(REQUESTER, 'dm', 'keep this');

    const { attempts, status } = await settled(ts, 'message');
    expect(status).toBe('delivered');
    expect(attempts).toHaveLength(3);
    expect(await rows()).toMatchObject([{ payload: { event: { ts, text: 'keep this' } } }]);
  });

  it('what it has no use for is acknowledged and leaves no row', async () => {
    const ts = await people.say(REQUESTER, ENGINEERING, 'no mention in here');
    await people.react(REVIEWER_A, ENGINEERING, ts, 'eyes');
    await people.openHome(REQUESTER);

    await people.until(async () => {
      const done = (await people.deliveries()).filter(
        ({ eventType, status }) =>
          status === 'delivered' && (eventType === 'reaction_added' || eventType === 'app_home_opened'),
      );
      return done.length === 2;
    });
    expect(await rows()).toEqual([]);
  });

  it('nonsense leaves no row and ends nothing', async () => {
    for (const inside of NONSENSE) await sendNonsense(inside);

    const ts = await people.say(REQUESTER, 'dm', 'still there?');
    expect((await settled(ts, 'message')).attempts).toHaveLength(1);
    expect(await rows()).toHaveLength(1);
  });

  it('events in another order than they happened are each stored', async () => {
    await people.hold();
    for (const words of ['one', 'two', 'three']) await people.say(REQUESTER, 'dm', words);
    expect(await rows()).toEqual([]);

    const sent = await people.release('reverse');

    expect(sent).toHaveLength(3);
    expect(taken.map(({ payload }) => (payload.event as { text?: string }).text)).toEqual([
      'three',
      'two',
      'one',
    ]);
    expect(await rows()).toHaveLength(3);
  });

  // Last: afterwards nobody listens any more.
  it('stopping lets what is being stored be stored and acknowledged', async () => {
    const reached = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    store = async (row, signal) => {
      reached.resolve();
      await go.promise;
      return reallyStore(row, signal);
    };
    const told = press();
    await reached.promise;

    const stopped = receiver.stop();
    go.resolve();

    expect(await told).toMatchObject({ ackStatus: 200 });
    await stopped;
    expect(await rows()).toMatchObject([{ source: 'interaction', payload: { type: 'block_actions' } }]);
  });
});
