/**
 * Guarantee, over real sockets: the HTTP edge answers everything within bounds of size and time and lives on (413
 * while reading, slow senders cut off, other paths and methods refused), a 200 to an event means that it is stored,
 * and stopping lets an open request finish. Readiness says what the process says of itself.
 */
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { Agent, request } from 'node:http';
import { connect, type Socket } from 'node:net';
import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { HttpReceiver, type HttpReceiverOptions } from '../../src/bot/http-receiver.ts';
import type { InboundRow } from '../../src/bot/inbound.ts';
import { createIngest } from '../../src/bot/ingest.ts';
import { createLogger } from '../../src/log.ts';
import { PROMPTNESS } from '../support/promptness.ts';

const SECRET = '8f742231b10e8888abcd99yyyzzz85a5';
const BODY = JSON.stringify({
  type: 'event_callback',
  team_id: 'T1',
  event_id: 'Ev1',
  event: { type: 'app_mention', user: 'U1', channel: 'C1', ts: '10.1', text: '<@UBOT> hello' },
});

const closing: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function edge(over: Partial<HttpReceiverOptions> & { store?: () => Promise<'stored'> } = {}) {
  const rows: InboundRow[] = [];
  const { store, ...options } = over;
  const receiver = new HttpReceiver({
    ingest: createIngest({
      signingSecrets: [SECRET],
      store: async (row) => {
        rows.push(row);
        return store === undefined ? 'stored' : store();
      },
      nowSeconds: () => Date.now() / 1_000,
    }),
    ready: async () => ({ ok: true, detail: { database: 'up' } }),
    log: createLogger({ level: 'silent' }),
    port: 0,
    host: '127.0.0.1',
    ...options,
  });
  const { port } = await receiver.start();
  closing.push(() => receiver.stop());
  return { rows, receiver, port, url: `http://127.0.0.1:${port}` };
}

function signed(body: string): RequestInit {
  const timestamp = String(Math.floor(Date.now() / 1_000));
  const signature = createHmac('sha256', SECRET).update(`v0:${timestamp}:${body}`).digest('hex');
  return {
    method: 'POST',
    body,
    headers: {
      'content-type': 'application/json',
      'x-slack-request-timestamp': timestamp,
      'x-slack-signature': `v0=${signature}`,
    },
  };
}

/** On a connection of the agent's; whether it had carried a request before. */
function post(url: string, agent: Agent, body: string): Promise<{ status: number; isReused: boolean }> {
  return new Promise((resolve, reject) => {
    const { headers } = signed(body);
    const sent = request(
      url,
      { agent, method: 'POST', headers: headers as Record<string, string> },
      (answer) => {
        answer.resume();
        answer.once('end', () => resolve({ status: answer.statusCode ?? 0, isReused: sent.reusedSocket }));
      },
    );
    sent.once('error', reject);
    sent.end(body);
  });
}

/** Sends raw bytes and collects what comes back until the connection ends. */
function raw(port: number, ...parts: string[]): { socket: Socket; answer: Promise<string> } {
  const socket = connect({ port, host: '127.0.0.1' });
  closing.push(() => {
    socket.destroy();
  });
  const answer = new Promise<string>((resolve) => {
    let text = '';
    socket.on('data', (data) => {
      text += data.toString('latin1');
    });
    // A reset is an end as well: what was read before it counts.
    socket.on('error', () => {});
    socket.on('close', () => resolve(text));
  });
  for (const part of parts) socket.write(part);
  return { socket, answer };
}

describe('POST /slack/events', () => {
  it('answers 200 to a signed event, after it was stored', async () => {
    const { rows, url } = await edge();

    const response = await fetch(`${url}/slack/events`, signed(BODY));

    expect([response.status, await response.text()]).toEqual([200, '']);
    expect(rows).toMatchObject([{ dedupeKey: 'event:Ev1' }]);
  });

  it('gives the challenge back as JSON', async () => {
    const { url } = await edge();

    const response = await fetch(
      `${url}/slack/events`,
      signed(JSON.stringify({ type: 'url_verification', challenge: 'abc' })),
    );

    expect(await response.json()).toEqual({ challenge: 'abc' });
  });

  it('answers 401 unsigned, 400 to signed nonsense, 503 when nothing can be stored, and lives on', async () => {
    const { url } = await edge({
      store: async () => {
        throw new Error('the database is gone');
      },
    });
    const status = async (init: RequestInit) => (await fetch(`${url}/slack/events`, init)).status;

    expect(await status({ method: 'POST', body: BODY })).toBe(401);
    for (const nonsense of ['null', '[]', '"x"', '[[[[', '{"type":"event_callback","event":null}'])
      expect(await status(signed(nonsense))).toBe(400);
    expect(await status(signed(BODY))).toBe(503);
    expect((await fetch(`${url}/healthz`)).status).toBe(200);
  });

  it('answers 503 within a second while the database does not answer at all', PROMPTNESS, async () => {
    const { url } = await edge({ store: () => new Promise<never>(() => {}) });
    const startedAt = performance.now();

    const { status } = await fetch(`${url}/slack/events`, signed(BODY));

    expect(status).toBe(503);
    // And what a busy machine adds.
    expect(performance.now() - startedAt).toBeLessThan(1_500);
  });

  it('refuses a signature header given twice', async () => {
    const { port, rows } = await edge();
    const headers = Object.entries(signed(BODY).headers ?? {}).map(([name, value]) => `${name}: ${value}`);
    const twice = [...headers, ...headers.filter((line) => line.startsWith('x-slack-signature'))];

    const { answer } = raw(
      port,
      `POST /slack/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: ${BODY.length}\r\n${twice.join('\r\n')}\r\n\r\n${BODY}`,
    );

    expect(await answer).toMatch(/^HTTP\/1\.1 401 /);
    expect(rows).toEqual([]);
  });

  it('answers 413 to a body that says it is too long, without reading it', async () => {
    const { port } = await edge();

    const { answer } = raw(port, 'POST /slack/events HTTP/1.1\r\nhost: x\r\ncontent-length: 1048577\r\n\r\n');

    expect(await answer).toMatch(/^HTTP\/1\.1 413 /);
  });

  it.each([
    ['413', 'that turns out too long', `v0=${'0'.repeat(64)}`],
    ['401', 'that bears no signature and is more than a certificate check', null],
  ])('answers %s to a body %s, while it is still being sent', async (status, _, signature) => {
    const { port, url } = await edge();
    const chunk = `10000\r\n${'x'.repeat(0x1_0000)}\r\n`;
    const signedAs =
      signature === null
        ? ''
        : `x-slack-request-timestamp: 1800000000\r\nx-slack-signature: ${signature}\r\n`;

    const { answer } = raw(
      port,
      `POST /slack/events HTTP/1.1\r\nhost: x\r\n${signedAs}transfer-encoding: chunked\r\n\r\n`,
      ...Array.from({ length: 17 }, () => chunk),
    );

    expect(await answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect((await fetch(`${url}/healthz`)).status).toBe(200);
  });

  it('lets whoever has waited longest make room, never Slack', async () => {
    const { port, url, rows } = await edge({ maxUnproven: 4 });
    const slack = new Agent({ keepAlive: true, maxSockets: 1 });
    closing.push(() => slack.destroy());
    const event = (n: number) => post(`${url}/slack/events`, slack, BODY.replace('Ev1', `Ev${n}`));
    const first = await event(1);
    const waiting = Array.from({ length: 4 }, () => raw(port, 'POST /slack/events HTTP/1.1\r\n'));
    await Promise.all(waiting.map(({ socket }) => once(socket, 'connect')));

    const newcomer = raw(port, 'POST /slack/events HTTP/1.1\r\n');

    await waiting[0]?.answer;
    expect(waiting.slice(1).map(({ socket }) => socket.destroyed)).toEqual([false, false, false]);
    expect(newcomer.socket.destroyed).toBe(false);
    // The connection that has carried a signed request stands, though it has been there the longest.
    const second = await event(2);
    expect([first, second]).toEqual([
      { status: 200, isReused: false },
      { status: 200, isReused: true },
    ]);
    expect(rows).toHaveLength(2);
  });

  it('lets nobody stay for a certificate check, which bears no signature', async () => {
    const { port } = await edge();
    const check = 'ssl_check=1&token=abc';

    const { answer } = raw(
      port,
      `POST /slack/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: ${check.length}\r\n\r\n${check}`,
    );

    expect(await answer).toMatch(/^HTTP\/1\.1 200 [\s\S]*\r\nconnection: close\r\n/i);
  });

  it('bounds what all bodies on their way hold together', async () => {
    const { port } = await edge({ maxHeldBytes: 10_000 });
    const body = () =>
      raw(
        port,
        `POST /slack/events HTTP/1.1\r\nhost: x\r\nx-slack-request-timestamp: 1800000000\r\nx-slack-signature: v0=${'0'.repeat(64)}\r\ncontent-length: 8000\r\n\r\n`,
        'x'.repeat(5_000),
      );
    const older = body();
    await once(older.socket, 'connect');

    const newer = body();

    expect(await older.answer).toBe('');
    newer.socket.write('x'.repeat(3_000));
    expect(await newer.answer).toMatch(/^HTTP\/1\.1 401 /);
  });

  it('lives on after any bytes at all', async () => {
    const { port, url } = await edge({ headersDeadlineMs: 300, requestDeadlineMs: 300 });
    const lines = [
      'POST /slack/events HTTP/1.1\r\n',
      'GET http://[ HTTP/9.9\r\n',
      'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
      'CONNECT x:1 HTTP/1.1\r\n',
      'host: x\r\n',
      'host : x\r\n',
      'upgrade: websocket\r\nconnection: upgrade\r\n',
      'expect: 100-continue\r\n',
      'content-length: 5\r\n',
      'content-length: -1\r\n',
      'content-length: 9'.padEnd(40, '9'),
      'transfer-encoding: chunked\r\n',
      'transfer-encoding: gzip, chunked\r\n',
      'x-slack-signature: v0=\r\n',
      `x-slack-signature: v0=${'0'.repeat(64)}\r\nx-slack-request-timestamp: 1\r\n`,
      `a: ${'b'.repeat(20_000)}\r\n`,
      '\r\n',
      'fffffffffffffffff\r\n',
      '5;x="y\r\nhello\r\n0\r\nb: c\r\n\r\n',
      '\0\xff\x16\x03\x01',
    ];
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom(...lines), { minLength: 1, maxLength: 12 }),
        async (parts) => {
          const { socket, answer } = raw(port, ...parts);
          socket.end();
          expect(await answer).toMatch(/^(HTTP\/1\.1 (?!5)\d{3} [\s\S]*)?$/);
        },
      ),
      { numRuns: 300 },
    );
    expect((await fetch(`${url}/healthz`)).status).toBe(200);
  });

  it.each([
    ['headers', 'POST /slack/events HTTP/1.1\r\nhost: x\r\n'],
    ['a body', 'POST /slack/events HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc'],
  ])('cuts off who does not finish %s', async (_, beginning) => {
    const { port, rows } = await edge({ headersDeadlineMs: 100, requestDeadlineMs: 200 });

    const { answer } = raw(port, beginning);

    expect(await answer).toMatch(/^(HTTP\/1\.1 408 [\s\S]*)?$/);
    expect(rows).toEqual([]);
  });
});

describe('other requests', () => {
  it('are told what is not there and what is not allowed', async () => {
    const { url } = await edge();

    expect((await fetch(`${url}/`)).status).toBe(404);
    expect((await fetch(`${url}/slack/events/more`, { method: 'POST' })).status).toBe(404);
    const wrong = await fetch(`${url}/slack/events`);
    expect([wrong.status, wrong.headers.get('allow')]).toEqual([405, 'POST']);
    expect((await fetch(`${url}/healthz`, { method: 'POST' })).status).toBe(405);
  });

  it('learn whether the process is ready, from the process', async () => {
    const ready = await edge();
    const unready = await edge({ ready: async () => ({ ok: false, detail: { database: 'down' } }) });
    const broken = await edge({
      ready: async () => {
        throw new Error('no');
      },
    });

    const yes = await fetch(`${ready.url}/readyz`);
    expect([yes.status, await yes.json()]).toEqual([200, { ok: true, database: 'up' }]);
    const no = await fetch(`${unready.url}/readyz`);
    expect([no.status, await no.json()]).toEqual([503, { ok: false, database: 'down' }]);
    expect((await fetch(`${broken.url}/readyz`)).status).toBe(503);
  });

  it('that ask for readiness, however many, ask the database once', async () => {
    const asked: (() => void)[] = [];
    const { url } = await edge({
      ready: () => new Promise((resolve) => asked.push(() => resolve({ ok: true, detail: {} }))),
    });
    const answers = Promise.all(Array.from({ length: 20 }, () => fetch(`${url}/readyz`)));
    await vi.waitFor(() => expect(asked).toHaveLength(1));
    for (const answer of asked) answer();

    expect(new Set((await answers).map(({ status }) => status))).toEqual(new Set([200]));
    expect(asked).toHaveLength(1);
    await vi.waitFor(
      async () => {
        const again = fetch(`${url}/readyz`);
        asked[1]?.();
        await again;
        expect(asked.length).toBeGreaterThan(1);
      },
      { timeout: 5_000 },
    );
  });
});

it('stopping lets an open request finish and takes no more', async () => {
  const stored = Promise.withResolvers<'stored'>();
  const reached = Promise.withResolvers<void>();
  const { receiver, url } = await edge({
    store: () => {
      reached.resolve();
      return stored.promise;
    },
  });
  const open = fetch(`${url}/slack/events`, signed(BODY));
  await reached.promise;

  const stopping = receiver.stop();
  stored.resolve('stored');

  expect((await open).status).toBe(200);
  await stopping;
  await expect(fetch(`${url}/healthz`)).rejects.toThrow();
});
