/**
 * The scripted model: a stand-in that speaks Anthropic's Messages API to the real SDK, JSON and SSE, on loopback.
 *
 * Hides: aimock, which renders the wire format, behind a front that checks key and request as Anthropic does and decides
 * the reply. Invariant: a reply, its ids included, is a function of the request alone; nothing is kept between requests.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ReadableStream } from 'node:stream/web';
import { LLMock } from '@copilotkit/aimock';
import { invalid, type Reply, readConversation, record } from './model/conversation.ts';
import { nextReply } from './model/scripts/index.ts';

export interface ScriptedModel {
  /** For ANTHROPIC_BASE_URL; the SDK appends `/v1/messages`. */
  readonly baseUrl: string;
  readonly port: number;
  /** Cuts open replies. Repeatable. */
  close(): Promise<void>;
}

/** Anthropic's own limit on a Messages request. */
const MAX_BODY_BYTES = 32 * 1024 * 1024;
const CHARS_PER_TOKEN = 4;

/** Starts the stand-in on 127.0.0.1; `port` defaults to any. Only `apiKey` is served. */
export async function startScriptedModel(options: { port?: number; apiKey: string }): Promise<ScriptedModel> {
  if (!options.apiKey) throw new Error('startScriptedModel needs an apiKey: it serves nobody without one.');
  const innerKey = randomBytes(24).toString('hex');
  const renderer = new LLMock({
    port: 0,
    host: '127.0.0.1',
    auth: { apiKeys: [innerKey] },
    logLevel: 'silent',
  });
  renderer.on({}, (request) => rendered(String(request.messages.at(-1)?.content)));
  const innerUrl = await renderer.start();

  const server = createServer((request, response) => {
    void answer(request, response, { apiKey: options.apiKey, innerUrl, innerKey }).catch((error: unknown) => {
      if (response.headersSent) response.destroy();
      else fail(response, 500, 'api_error', error instanceof Error ? error.message : String(error));
    });
  });
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(options.port ?? 0, '127.0.0.1', resolve);
    });
  } catch (error) {
    await renderer.stop();
    throw error;
  }
  const address = server.address();
  if (!address || typeof address === 'string') throw new Error('The scripted model has no port.');
  let closing: Promise<void> | null = null;
  const close = async (): Promise<void> => {
    await new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
    await renderer.stop();
  };
  return {
    baseUrl: `http://127.0.0.1:${address.port}`,
    port: address.port,
    close: () => {
      closing ??= close();
      return closing;
    },
  };
}

interface Inner {
  readonly apiKey: string;
  readonly innerUrl: string;
  readonly innerKey: string;
}

async function answer(request: IncomingMessage, response: ServerResponse, inner: Inner): Promise<void> {
  const bytes = await readBody(request);
  if (bytes === null) return fail(response, 413, 'request_too_large', 'Request exceeds the maximum size');
  const key =
    request.headers['x-api-key'] ?? /^bearer\s+(\S+)$/i.exec(request.headers.authorization ?? '')?.[1];
  if (typeof key !== 'string')
    return fail(response, 401, 'authentication_error', 'x-api-key header is required');
  if (!sameText(key, inner.apiKey)) return fail(response, 401, 'authentication_error', 'invalid x-api-key');
  const path = (request.url ?? '').split('?')[0];
  if (request.method !== 'POST' || (path !== '/v1/messages' && path !== '/v1/messages/count_tokens')) {
    return fail(response, 404, 'not_found_error', 'Not found');
  }
  const body = parse(bytes);
  if (path === '/v1/messages/count_tokens') {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ input_tokens: tokens(bytes.length) }));
    return;
  }
  const problem = invalid(body);
  if (problem) return fail(response, 400, 'invalid_request_error', problem);

  const seed = createHash('sha256').update(bytes).digest('hex');
  const { model, stream } = record(body);
  const order: Order = { reply: nextReply(readConversation(body)), seed, inputTokens: tokens(bytes.length) };
  const left = new AbortController();
  response.once('close', () => left.abort());
  const inward = await fetch(`${inner.innerUrl}/v1/messages`, {
    method: 'POST',
    headers: {
      'x-api-key': inner.innerKey,
      'content-type': 'application/json',
      'anthropic-version': '2023-06-01',
    },
    body: JSON.stringify({
      model,
      stream: stream === true,
      max_tokens: 1,
      messages: [{ role: 'user', content: JSON.stringify(order) }],
    }),
    signal: left.signal,
  });
  response.writeHead(inward.status, {
    'content-type': inward.headers.get('content-type') ?? 'application/json',
    'request-id': `req_${seed.slice(0, 24)}`,
  });
  if (inward.body) await pipeline(Readable.fromWeb(inward.body as ReadableStream), response).catch(() => {});
  else response.end();
}

/** The decided reply on its way through the renderer. */
interface Order {
  readonly reply: Reply;
  /** Hash of the request: ids come from it, so the same request gets the same bytes. */
  readonly seed: string;
  readonly inputTokens: number;
}

function rendered(text: string) {
  const { reply, seed, inputTokens } = JSON.parse(text) as Order;
  const about = {
    id: `msg_${seed.slice(0, 24)}`,
    usage: { input_tokens: inputTokens, output_tokens: tokens(Buffer.byteLength(JSON.stringify(reply))) },
  };
  if (reply.calls.length === 0) return { ...about, content: reply.text };
  const toolCalls = reply.calls.map((call, index) => ({
    id: `toolu_${seed.slice(0, 20)}${index}`,
    name: call.name,
    arguments: JSON.stringify(call.input),
  }));
  return { ...about, content: reply.text, toolCalls };
}

function tokens(bytes: number): number {
  return Math.max(1, Math.ceil(bytes / CHARS_PER_TOKEN));
}

function fail(response: ServerResponse, status: number, type: string, message: string): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ type: 'error', error: { type, message } }));
}

async function readBody(request: IncomingMessage): Promise<Buffer | null> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) return null;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function parse(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    return null;
  }
}

function sameText(a: string, b: string): boolean {
  const [one, two] = [a, b].map((text) => createHash('sha256').update(text).digest());
  return one !== undefined && two !== undefined && timingSafeEqual(one, two);
}
