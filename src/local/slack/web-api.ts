/**
 * The HTTP face the app's SDK talks to: `/api/<method>`, response URLs and file uploads.
 *
 * Every call is recorded, every change is on disk before its answer leaves, and faults set through the control API
 * hit here, where a real network would.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Acts } from './acts.ts';
import { Args } from './args.ts';
import { chatMethods, type Method } from './chat-methods.ts';
import { fileMethods, sendFile, storeUpload } from './files.ts';
import { bearer, parseBody, type Route, readBody, sameSecret, sendJson } from './http.ts';
import { type SlackContext, SlackRefusal } from './messages.ts';
import { accessMethod, type OAuthClient } from './oauth.ts';
import { readMethods } from './read-methods.ts';
import { SCOPES } from './seed.ts';
import { streamMethods } from './streams.ts';
import type { Fault, Json } from './types.ts';
import { viewMethods } from './views.ts';

const METHODS = new Map<string, Method>(
  Object.entries({ ...readMethods, ...chatMethods, ...streamMethods, ...fileMethods, ...viewMethods }),
);

/** Methods that answer without a token, as Slack's does. */
const OPEN_METHODS = new Set(['api.test']);

/** What the app knows of itself. */
export interface AppCredentials extends OAuthClient {
  /** `xapp-…`: opens Socket Mode connections and nothing else. */
  readonly appToken: string;
}

export function webApi(context: SlackContext, acts: Acts, app: AppCredentials): Route {
  return async (request, response, url) => {
    if (url.pathname.startsWith('/api/')) {
      await answerCall(context, app, request, response, url);
      return true;
    }
    // Without the app's token the address is the page's, which asks for its own.
    if (url.pathname.startsWith('/files/') && sameSecret(bearer(request), app.botToken)) {
      sendFile(context, url.pathname.slice('/files/'.length), response);
      return true;
    }
    if (request.method === 'POST' && url.pathname.startsWith('/actions/')) {
      await answerResponseUrl(context, acts, request, response, url);
      return true;
    }
    const isUpload = request.method === 'POST' || request.method === 'PUT';
    if (isUpload && url.pathname.startsWith('/upload/')) {
      await answerUpload(context, request, response, url);
      return true;
    }
    return false;
  };
}

async function answerCall(
  context: SlackContext,
  app: AppCredentials,
  request: IncomingMessage,
  response: ServerResponse,
  url: URL,
): Promise<void> {
  const name = url.pathname.slice('/api/'.length);
  const atMs = Date.now();
  const body = parseBody(await readBody(request), request.headers['content-type'] ?? '');
  const raw: Json = { ...Object.fromEntries(url.searchParams), ...body };
  const token = bearer(request) ?? (typeof raw.token === 'string' ? raw.token : undefined);
  delete raw.token;

  const fault = takeFault(context, name, raw);
  const record = (performed: boolean, status: number, answer: Json): void => {
    context.store.recordCall({
      atMs,
      method: name,
      args: withoutSecrets(raw),
      performed,
      status,
      ok: answer.ok === true,
      ...(typeof answer.error === 'string' ? { error: answer.error } : {}),
      ...(typeof answer.ts === 'string' ? { ts: answer.ts } : {}),
      ...(fault ? { fault: fault.kind } : {}),
    });
  };
  if (fault?.kind === 'delay') await sleep(fault.delayMs ?? 1_000);
  if (fault && (await refuseByFault(context, fault, response, record))) return;

  const answer = perform(context, app, name, {
    raw: body === undefined ? undefined : raw,
    token,
    headerToken: bearer(request),
    basic: basicOf(request),
  });
  record(true, fault?.kind === 'drop_after' ? 0 : 200, answer);
  await context.store.flush();
  if (fault?.kind === 'delay_after') await sleep(fault.delayMs ?? 1_000);
  if (fault?.kind === 'drop_after') {
    response.destroy();
    return;
  }
  sendJson(response, 200, answer, { 'x-oauth-scopes': SCOPES, 'x-slack-req-id': context.store.nextId('R') });
}

function withoutSecrets(args: Json): Json {
  return Object.fromEntries(Object.entries(args).filter(([name]) => name !== 'client_secret'));
}

interface GivenCall {
  /** Arguments; undefined when the body was not readable. */
  readonly raw: Json | undefined;
  readonly token: string | undefined;
  readonly headerToken: string | undefined;
  readonly basic: readonly [string, string] | undefined;
}

function perform(context: SlackContext, app: AppCredentials, name: string, call: GivenCall): Json {
  const { raw } = call;
  switch (name) {
    case 'oauth.v2.access':
      return answering(raw, (args) => accessMethod(app)(context, args, call.basic));
    case 'apps.connections.open':
      // Slack takes the app-level token from the header only.
      if (!call.headerToken) return { ok: false, error: 'not_authed' };
      if (sameSecret(call.headerToken, app.botToken)) return { ok: false, error: 'not_allowed_token_type' };
      if (!sameSecret(call.headerToken, app.appToken)) return { ok: false, error: 'invalid_auth' };
      return { ok: true, url: context.deliveries.openSocket(context.baseUrl()) };
    default: {
      const method = METHODS.get(name);
      if (!method) return { ok: false, error: 'unknown_method', req_method: name };
      if (!OPEN_METHODS.has(name)) {
        if (call.token === undefined || call.token === '') return { ok: false, error: 'not_authed' };
        if (sameSecret(call.token, app.appToken)) return { ok: false, error: 'not_allowed_token_type' };
        if (!sameSecret(call.token, app.botToken)) return { ok: false, error: 'invalid_auth' };
      }
      return answering(raw, (args) => method(context, args));
    }
  }
}

function answering(raw: Json | undefined, work: (args: Args) => Json): Json {
  if (raw === undefined) return { ok: false, error: 'invalid_json' };
  try {
    return { ok: true, ...work(new Args(raw)) };
  } catch (error) {
    if (!(error instanceof SlackRefusal)) throw error;
    return {
      ok: false,
      error: error.code,
      ...(error.messages.length > 0
        ? { errors: error.messages, response_metadata: { messages: error.messages } }
        : {}),
    };
  }
}

/** Name and secret of a Basic Authorization header. */
function basicOf(request: IncomingMessage): readonly [string, string] | undefined {
  const [, coded] = /^Basic (.+)$/i.exec(request.headers.authorization ?? '') ?? [];
  const [, name, secret] = /^([^:]*):(.*)$/.exec(Buffer.from(coded ?? '', 'base64').toString('utf8')) ?? [];
  return name === undefined || secret === undefined ? undefined : [name, secret];
}

/** The first fault meant for this call, counted down. */
function takeFault(context: SlackContext, method: string, args: Json): Fault | undefined {
  const { data } = context.store;
  const fault = data.faults.find(
    (candidate) =>
      (candidate.method === '*' || candidate.method === method) &&
      (candidate.channel === undefined || candidate.channel === args.channel),
  );
  if (!fault) return undefined;
  fault.times -= 1;
  if (fault.times <= 0) data.faults = data.faults.filter((candidate) => candidate !== fault);
  context.store.touch();
  return fault;
}

async function refuseByFault(
  context: SlackContext,
  fault: Fault,
  response: ServerResponse,
  record: (performed: boolean, status: number, answer: Json) => void,
): Promise<boolean> {
  switch (fault.kind) {
    case 'rate_limited': {
      const answer = { ok: false, error: 'ratelimited' };
      record(false, 429, answer);
      await context.store.flush();
      sendJson(response, 429, answer, { 'retry-after': String(fault.retryAfterSec ?? 1) });
      return true;
    }
    case 'server_error': {
      const status = fault.status ?? 503;
      record(false, status, { ok: false, error: 'internal_error' });
      await context.store.flush();
      response.writeHead(status, { 'content-type': 'text/html' });
      response.end('<html><body>Server error</body></html>');
      return true;
    }
    case 'error': {
      const answer = { ok: false, error: fault.error ?? 'internal_error' };
      record(false, 200, answer);
      await context.store.flush();
      sendJson(response, 200, answer);
      return true;
    }
    case 'drop_before':
      record(false, 0, { ok: false });
      await context.store.flush();
      response.destroy();
      return true;
    case 'drop_after':
    case 'delay':
    case 'delay_after':
      return false;
    default: {
      const unreachable: never = fault.kind;
      throw new Error(`unknown fault ${String(unreachable)}`);
    }
  }
}

async function answerResponseUrl(
  context: SlackContext,
  acts: Acts,
  request: IncomingMessage,
  response: ServerResponse,
  url: URL,
): Promise<void> {
  const body = parseBody(await readBody(request), 'application/json');
  const id = url.pathname.split('/').at(-1);
  const known = context.store.data.responseUrls.find((candidate) => candidate.id === id);
  const error = !body ? 'invalid_payload' : !known ? 'used_url' : acts.respond(known, body);
  context.store.recordCall({
    atMs: Date.now(),
    method: 'response_url',
    args: body ?? {},
    performed: error === undefined,
    status: error === undefined ? 200 : 404,
    ok: error === undefined,
    ...(error === undefined ? {} : { error }),
  });
  await context.store.flush();
  if (error !== undefined) {
    sendJson(response, error === 'invalid_payload' ? 400 : 404, { ok: false, error });
    return;
  }
  response.writeHead(200, { 'content-type': 'text/plain' });
  response.end('ok');
}

async function answerUpload(
  context: SlackContext,
  request: IncomingMessage,
  response: ServerResponse,
  url: URL,
): Promise<void> {
  const body = await readBody(request);
  const contentType = request.headers['content-type'] ?? '';
  const bytes = contentType.startsWith('multipart/form-data') ? await firstFile(body, contentType) : body;
  const stored = bytes !== undefined && storeUpload(context, url.pathname.slice('/upload/'.length), bytes);
  await context.store.flush();
  response.writeHead(stored ? 200 : 404, { 'content-type': 'text/plain' });
  response.end(stored && bytes ? `OK - ${bytes.length}` : 'file_not_found');
}

async function firstFile(body: Buffer, contentType: string): Promise<Buffer | undefined> {
  const form = await new Response(new Uint8Array(body), {
    headers: { 'content-type': contentType },
  }).formData();
  for (const value of form.values()) {
    return typeof value === 'string' ? Buffer.from(value) : Buffer.from(await value.arrayBuffer());
  }
  return undefined;
}
