/**
 * Guarantee: over the real network stack, a redirect comes back as it is. Neither the token nor the method nor the
 * body reaches the address a redirect names, and a tool takes a redirect for a refusal, not for an answer.
 */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createEgress, mintPermit } from '../../src/agents/egress.ts';
import { toolsFor } from '../../src/agents/tools/index.ts';
import { type AnsweringServer, startAnsweringServer } from '../support/answering-server.ts';

let elsewhere: AnsweringServer;
let api: AnsweringServer;

beforeEach(async () => {
  elsewhere = await startAnsweringServer(() => ({ status: 200 }));
  api = await startAnsweringServer(({ url }) => ({
    status: Number(url.slice(1, 4)) || 301,
    headers: { location: `${elsewhere.url}/stolen` },
  }));
});

afterEach(async () => {
  await Promise.all([api.close(), elsewhere.close()]);
});

test.each([301, 302, 303, 307, 308])('%d comes back, for a read and for a write', async (status) => {
  const egress = createEgress({ allowedOrigins: [api.url, elsewhere.url] });
  const write = egress.write(
    mintPermit({ actionId: 'a', actionHash: 'b', fence: 1, sendBy: Number.POSITIVE_INFINITY }),
  );
  const headers = { authorization: 'token abc' };

  const read = await egress.read(`${api.url}/${status}`, { headers, redirect: 'follow' });
  const written = await write(`${api.url}/${status}`, { method: 'PUT', body: 'x', headers });

  expect([read.status, written.status]).toEqual([status, status]);
  expect(api.received.map(({ method, body }) => [method, body])).toEqual([
    ['GET', ''],
    ['PUT', 'x'],
  ]);
  expect(elsewhere.received).toEqual([]);
});

test('a tool that is redirected is refused', async () => {
  const egress = createEgress({ allowedOrigins: [api.url, elsewhere.url] });
  const [get] = toolsFor({ baseUrl: api.url, token: 'abc', credential: 'test' });
  if (get?.access !== 'read') throw new Error('Not a read tool.');

  const reading = get.read(
    { owner: 'acme', repo: 'moved', pull_number: 1 },
    { fetch: egress.read, signal: new AbortController().signal },
  );

  await expect(reading).rejects.toMatchObject({
    code: 'TOOL_REFUSED',
    message: expect.stringContaining('301'),
  });
  expect(elsewhere.received).toEqual([]);
});
