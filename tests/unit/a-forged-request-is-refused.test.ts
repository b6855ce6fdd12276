/**
 * Guarantee: nothing that Slack did not sign just now is read, let alone stored. The signature is checked before the
 * body is parsed; one header each, in exactly Slack's form; five minutes in both directions; an old secret is good
 * while it is configured; a missing or short secret refuses to start. Stored means stored: a failing or slow store is
 * answered 503, so that Slack sends the request again.
 */

import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { createIngest, type InboundHeaders, type StoreInbox } from '../../src/bot/ingest.ts';

const SECRET = '8f742231b10e8888abcd99yyyzzz85a5';
const OLD_SECRET = 'an-older-signing-secret-0123456789';
const NOW = 1_795_000_000;

const MENTION = {
  type: 'event_callback',
  team_id: 'T1',
  event_id: 'Ev1',
  event: { type: 'app_mention', user: 'U1', channel: 'C1', ts: '1795000000.000100', text: '<@UBOT> hello' },
};
const BODY = JSON.stringify(MENTION);

function sign(body: string, timestamp = String(NOW), secret = SECRET): string {
  return `v0=${createHmac('sha256', secret).update(`v0:${timestamp}:${body}`).digest('hex')}`;
}

function headers(body: string, over: Record<string, string | string[] | undefined> = {}): InboundHeaders {
  return {
    'content-type': 'application/json',
    'x-slack-request-timestamp': String(NOW),
    'x-slack-signature': sign(body),
    ...over,
  };
}

function door(store?: StoreInbox) {
  const rows: Parameters<StoreInbox>[0][] = [];
  const ingest = createIngest({
    signingSecrets: [SECRET, OLD_SECRET],
    store:
      store ??
      (async (row) => {
        rows.push(row);
        return 'stored';
      }),
    nowSeconds: () => NOW,
    storeTimeoutMs: 50,
  });
  return { rows, send: (body: string | Buffer, head: InboundHeaders) => ingest(Buffer.from(body), head) };
}

describe('a request', () => {
  it('whose storing is answered in time is taken, though this process was held up when the answer came', async () => {
    const database = new Worker(
      `const { parentPort } = require('node:worker_threads');
       parentPort.on('message', () => setTimeout(() => parentPort.postMessage('stored'), 10));`,
      { eval: true },
    );
    await once(database, 'online');
    const heldUp = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
    const { send } = door(async () => {
      const answer = once(database, 'message');
      database.postMessage('store');
      setImmediate(heldUp);
      return (await answer)[0] as 'stored';
    });

    const { status } = await send(BODY, headers(BODY));

    await database.terminate();
    expect(status).toBe(200);
  });

  it('signed by Slack just now is stored once under its event id', async () => {
    const { rows, send } = door();

    const result = await send(BODY, headers(BODY));

    expect(result).toEqual({ outcome: 'stored', status: 200, body: '' });
    expect(rows).toMatchObject([{ workspaceId: 'T1', dedupeKey: 'event:Ev1', source: 'event' }]);
  });

  it('signed with the previous secret is taken while rotating', async () => {
    const { send } = door();

    const result = await send(
      BODY,
      headers(BODY, { 'x-slack-signature': sign(BODY, String(NOW), OLD_SECRET) }),
    );

    expect(result.status).toBe(200);
  });

  const at = (timestamp: string) => ({
    'x-slack-request-timestamp': timestamp,
    'x-slack-signature': sign(BODY, timestamp),
  });
  const good = sign(BODY);
  it.each<[string, Record<string, string | string[] | undefined>]>([
    ['without a signature', { 'x-slack-signature': undefined }],
    ['without a timestamp', { 'x-slack-request-timestamp': undefined }],
    ['with two signatures', { 'x-slack-signature': [good, good] }],
    ['with two joined signatures', { 'x-slack-signature': `${good}, ${good}` }],
    ['with two timestamps', { 'x-slack-request-timestamp': [String(NOW), String(NOW)] }],
    ['with an empty signature', { 'x-slack-signature': '' }],
    ['with trailing junk in the signature', { 'x-slack-signature': `${good}=junk` }],
    ['with an upper-case signature', { 'x-slack-signature': good.toUpperCase() }],
    ['with a short signature', { 'x-slack-signature': good.slice(0, -2) }],
    ['with another version', { 'x-slack-signature': good.replace('v0', 'v1') }],
    ['with a signature that ends in a line break', { 'x-slack-signature': `${good}\n` }],
    ['signed with another secret', { 'x-slack-signature': sign(BODY, String(NOW), 'x'.repeat(32)) }],
    ['signed over another body', { 'x-slack-signature': sign(`${BODY} `) }],
    ['signed over another time', { 'x-slack-signature': sign(BODY, String(NOW - 1)) }],
    ['from 301 s ago', at(String(NOW - 301))],
    ['from 301 s ahead', at(String(NOW + 301))],
    ['with the time Infinity', at('Infinity')],
    ['with the time NaN', at('NaN')],
    ['with a hexadecimal time', at(`0x${NOW.toString(16)}`)],
    ['with leading zeros in the time', at(`0${NOW}`)],
    ['with a fraction in the time', at(`${NOW}.0`)],
    ['with an exponent in the time', at('1.795e9')],
    ['with a sign before the time', at(`+${NOW}`)],
    ['with a space after the time', at(`${NOW} `)],
    ['with a time of 17 digits', at('1'.repeat(17))],
    ['with an empty time', at('')],
  ])('%s is refused with 401 and leaves nothing', async (_, over) => {
    const { rows, send } = door();

    const result = await send(BODY, headers(BODY, over));

    expect(result).toMatchObject({ outcome: 'refused', status: 401 });
    expect(rows).toEqual([]);
  });

  it.each([NOW - 300, NOW + 300])('from the edge of five minutes is taken (%i)', async (second) => {
    const { send } = door();

    const result = await send(BODY, headers(BODY, at(String(second))));

    expect(result.status).toBe(200);
  });

  it('that is unsigned and malformed is refused before anything is parsed', async () => {
    const { send } = door();

    const result = await send('{{{', headers('{{{', { 'x-slack-signature': sign('other') }));

    expect(result.status).toBe(401);
  });

  it('signed over bytes that are not UTF-8 is refused as malformed, not as forged', async () => {
    const bytes = Buffer.from([0x7b, 0xff, 0xfe, 0x7d]);
    const signature = `v0=${createHmac('sha256', SECRET).update(`v0:${NOW}:`).update(bytes).digest('hex')}`;
    const { send } = door();

    const result = await send(bytes, headers('', { 'x-slack-signature': signature }));

    expect(result.status).toBe(400);
  });
});

describe('the certificate check', () => {
  it('is answered without a signature and has no effect', async () => {
    const { rows, send } = door();

    const result = await send('ssl_check=1&token=abc', {
      'content-type': 'application/x-www-form-urlencoded',
    });

    expect(result).toMatchObject({ outcome: 'certificate_check', status: 200 });
    expect(rows).toEqual([]);
  });

  it('is no way in for anything else', async () => {
    const { send } = door();
    const body = 'ssl_check=1&command=%2Fx&team_id=T1&user_id=U1&channel_id=C1&trigger_id=t1';

    const result = await send(body, { 'content-type': 'application/x-www-form-urlencoded' });

    expect(result.status).toBe(401);
  });
});

describe('storing', () => {
  it('a redelivery is answered 200 without a second row', async () => {
    const { send } = door(async () => 'duplicate');

    expect(await send(BODY, headers(BODY))).toEqual({ outcome: 'duplicate', status: 200, body: '' });
  });

  it('a store that fails is answered 503 and the cause is kept for the log', async () => {
    const cause = new Error('connection refused');
    const { send } = door(async () => {
      throw cause;
    });

    expect(await send(BODY, headers(BODY))).toEqual({ outcome: 'unavailable', status: 503, body: '', cause });
  });

  it('a store that does not answer is answered 503 before Slack gives up', async () => {
    const { send } = door(() => new Promise(() => {}));

    expect(await send(BODY, headers(BODY))).toMatchObject({ outcome: 'unavailable', status: 503 });
  });
});

describe('the signing secret', () => {
  it.each([[''], ['   '], ['short'], ['x'.repeat(15)], [`${' '.repeat(20)}x`]])(
    'refuses to start with %j',
    (secret) => {
      const start = () =>
        createIngest({ signingSecrets: [secret], store: async () => 'stored', nowSeconds: () => NOW });

      expect(start).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
    },
  );

  it('refuses to start when one of two is short', () => {
    const start = () =>
      createIngest({ signingSecrets: [SECRET, 'short'], store: async () => 'stored', nowSeconds: () => NOW });

    expect(start).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });
});
