/**
 * Guarantee: over Socket Mode nothing is lost or doubled when connections come and go. A successor is greeted before
 * the old connection ends; a cut, a silent or a refused connection is replaced; trouble is met with growing pauses, and
 * a token that Slack refuses ends the start with one line. Readiness knows whether Slack is connected.
 */
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type WebSocket as Accepted, WebSocketServer } from 'ws';
import type { IngestResult } from '../../src/bot/ingest.ts';
import { socketOpener } from '../../src/bot/slack-client.ts';
import { SocketReceiver, type SocketReceiverOptions } from '../../src/bot/socket-receiver.ts';
import { startWorld, type World } from '../../src/local/world.ts';
import { testLog } from '../support/database.ts';
import { People, REQUESTER } from '../support/people.ts';

const STORED: IngestResult = { outcome: 'stored', status: 200, body: '' };

let stateDir: string;
let world: World;
let people: People;
const closing: (() => Promise<unknown> | unknown)[] = [];

beforeAll(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'socket-mode-'));
  world = await startWorld({ stateDir, redeliveryScale: 0.01 });
  people = new People(world);
});

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

afterAll(async () => {
  await world.close();
  await rm(stateDir, { recursive: true });
});

async function receiving(over: Partial<SocketReceiverOptions> = {}) {
  const seen: string[] = [];
  const receiver = new SocketReceiver({
    ingest: async (envelope) => {
      const { payload } = envelope as { payload?: { event?: { text?: string } } };
      seen.push(payload?.event?.text ?? '?');
      return STORED;
    },
    open: socketOpener({ appToken: world.slack.appToken, slackApiUrl: world.slack.apiUrl, log: testLog }),
    log: testLog,
    firstRetryMs: 20,
    ...over,
  });
  closing.push(() => receiver.stop());
  await receiver.start();
  return { receiver, seen };
}

const delivered = (text: string) =>
  people.until(async () =>
    (await people.deliveries()).find(
      ({ envelope, status }) => envelope.event.text === text && status === 'delivered',
    ),
  );

describe('a connection that Slack refreshes', () => {
  it('is replaced before it ends, and every message is delivered at its first try', async () => {
    const { receiver, seen } = await receiving();
    const said: string[] = [];

    for (let round = 0; round < 3; round += 1) {
      await people.socket('refresh_requested', { closeAfterMs: 1_500 });
      for (let count = 0; count < 4; count += 1) {
        said.push(`round ${round} message ${count}`);
        // Whoever speaks while only the leaving connection is there waits for its successor.
        await people.until(async () => (await people.sockets()).some(({ isLeaving }) => !isLeaving));
        expect(receiver.isConnected).toBe(true);
        await people.say(REQUESTER, 'dm', said.at(-1) ?? '');
      }
    }

    for (const text of said) expect((await delivered(text)).attempts).toHaveLength(1);
    expect(seen.toSorted()).toEqual(said.toSorted());
  });

  it('still takes the acknowledgement of what was being stored', async () => {
    const reached = Promise.withResolvers<void>();
    const go = Promise.withResolvers<IngestResult>();
    await receiving({
      ingest: () => {
        reached.resolve();
        return go.promise;
      },
    });
    await people.say(REQUESTER, 'dm', 'under way');
    await reached.promise;

    await people.socket('warning', { closeAfterMs: 1_000 });
    await people.until(async () => (await people.sockets()).length === 2);
    go.resolve(STORED);

    expect((await delivered('under way')).attempts).toHaveLength(1);
  });
});

describe('a connection that is gone', () => {
  it('when it is cut: what was open and what came meanwhile is delivered over the next', async () => {
    const { seen } = await receiving();

    await people.socket('cut');
    await people.say(REQUESTER, 'dm', 'after the cut');

    await delivered('after the cut');
    expect(seen).toContain('after the cut');
  });

  it('when Slack is away: it keeps trying, and takes what waited when Slack is back', async () => {
    const { receiver, seen } = await receiving();

    await people.fault({ method: 'apps.connections.open', kind: 'server_error', times: 2 });
    await people.fault({ method: 'apps.connections.open', kind: 'rate_limited', retryAfterSec: 0.2 });
    await people.fault({ method: 'apps.connections.open', kind: 'drop_after' });
    const before = (await people.calls('apps.connections.open')).length;
    await people.socket('cut');
    await people.say(REQUESTER, 'dm', 'while Slack was away');
    await people.until(() => !receiver.isConnected);

    await delivered('while Slack was away');
    expect(receiver.isConnected).toBe(true);
    expect(seen).toContain('while Slack was away');
    expect((await people.calls('apps.connections.open')).length - before).toBe(5);
  });
});

describe('a Slack that behaves oddly', () => {
  it('and says nothing any more is left for another connection', async () => {
    const slack = await oddSlack((socket, count) => {
      socket.send('{"type":"hello"}');
      // The first is greeted and never heard of again; the second is pinged.
      if (count > 1) setInterval(() => socket.ping(), 20).unref();
    });
    const { receiver } = await receiving({ open: slack.open, silenceMs: 200 });

    await people.until(() => slack.sockets.length === 2);
    await people.until(() => slack.sockets[0]?.readyState === 3 && receiver.isConnected);
    // Pings alone keep the second one.
    const heldSince = Date.now();
    await people.until(() => Date.now() - heldSince > 600);
    expect(slack.sockets).toHaveLength(2);
  });

  it('and never greets is asked again', async () => {
    const slack = await oddSlack((socket, count) => {
      if (count > 1) socket.send('{"type":"hello"}');
    });

    await receiving({ open: slack.open, helloDeadlineMs: 50 });

    expect(slack.sockets).toHaveLength(2);
  });

  it('and never greets, nor answers that we close, is asked again', async () => {
    const slack = await oddSlack((socket, count) => {
      if (count > 1) socket.send('{"type":"hello"}');
      else socket.pause();
    });

    const { receiver } = await receiving({ open: slack.open, helloDeadlineMs: 200 });

    expect(slack.sockets).toHaveLength(2);
    expect(receiver.isConnected).toBe(true);
  });

  it('and hangs up on every greeting is not stormed', async () => {
    const slack = await oddSlack((socket) => {
      socket.send('{"type":"hello"}');
      socket.close();
    });
    await receiving({ open: slack.open, firstRetryMs: 200 });

    const since = Date.now();
    await people.until(() => Date.now() - since > 1_500);

    expect(slack.sockets.length).toBeLessThan(15);
    expect(slack.sockets.length).toBeGreaterThan(1);
  });

  it('and sends frames that are none is survived, and none of it is acknowledged', async () => {
    const answers: string[] = [];
    const slack = await oddSlack((socket) => {
      socket.on('message', (data) => answers.push(String(data)));
      socket.send('{"type":"hello"}');
      socket.send(Buffer.from([0, 1, 2]));
      for (const frame of [
        '',
        'null',
        '[]',
        '{}',
        '{"envelope_id":7}',
        `{"envelope_id":"${'x'.repeat(300)}"}`,
      ])
        socket.send(frame);
      socket.send(`{"envelope_id":"big","pad":"${'x'.repeat(1_100_000)}"}`);
      socket.send('{"envelope_id":"good","type":"events_api","payload":{}}');
    });

    await receiving({ open: slack.open });

    await people.until(() => answers.length > 0);
    expect(answers).toEqual(['{"envelope_id":"good"}']);
  });
});

it('a token that Slack refuses ends the start with one line', async () => {
  const receiver = new SocketReceiver({
    ingest: async () => STORED,
    open: socketOpener({ appToken: 'xapp-1-wrong', slackApiUrl: world.slack.apiUrl, log: testLog }),
    log: testLog,
  });
  closing.push(() => receiver.stop());

  await expect(receiver.start()).rejects.toMatchObject({
    code: 'SLACK_AUTH_FAILED',
    message: 'Slack refused SLACK_APP_TOKEN: invalid_auth',
  });
  expect(receiver.isConnected).toBe(false);
});

it('an address that is not encrypted is not taken from a Slack that is', async () => {
  const open = socketOpener({
    appToken: world.slack.appToken,
    slackApiUrl: 'https://slack.example/api/',
    log: testLog,
    fetch: async () =>
      new Response(JSON.stringify({ ok: true, url: 'ws://slack.example/link' }), {
        headers: { 'content-type': 'application/json' },
      }),
  });

  expect(await open()).toEqual({ ok: false, error: 'no address' });
});

/** A WebSocket server in the test's own hand, and how to open a connection to it. */
async function oddSlack(greet: (socket: Accepted, count: number) => void) {
  const http: Server = createServer();
  const sockets: Accepted[] = [];
  const server = new WebSocketServer({ server: http });
  server.on('connection', (socket) => {
    sockets.push(socket);
    greet(socket, sockets.length);
  });
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
  closing.push(() => {
    for (const socket of sockets) socket.terminate();
    server.close();
    http.close();
  });
  const url = `ws://127.0.0.1:${(http.address() as AddressInfo).port}/`;
  return { sockets, open: async () => ({ ok: true as const, url }) };
}
