/**
 * The page of the local Slack: static files without a build step, a person's view of the state, what a person does,
 * and a live hint that something changed.
 *
 * Invariants: no route answers without the page's token, a Host that names this very server, and (for anything that
 * changes state) a word of the browser that it comes from this page; everything shown is escaped in the browser by building DOM nodes from text.
 */
import { createReadStream, existsSync, readFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { z } from 'zod';
import { parseBody, type Route, readBody, sameSecret, sendJson } from '../slack/http.ts';
import type { LocalSlack } from '../slack/local-slack.ts';
import { SlackRefusal } from '../slack/messages.ts';
import type { Json } from '../slack/types.ts';
import { type GitHubPlace, issueInDepth, pullInDepth, SHOWN_REPOSITORY, summary } from './repository.ts';
import { playable, stateFor } from './state.ts';
import { perform, wishSchema } from './wishes.ts';

/** What the browser may load, all of it from this folder. */
const SCRIPTS = [
  'app.js',
  'blocks.js',
  'client.js',
  'composer.js',
  'controls.js',
  'glyphs.js',
  'messages.js',
  'modal.js',
  'mrkdwn.js',
  'rail.js',
  'repository.js',
  'tries.js',
];
const STYLES = ['base.css', 'blocks.css', 'messages.css', 'phone.css', 'repository.css'];
const STATIC_FILES = new Map<string, { file: string; type: string }>([
  ...SCRIPTS.map((file) => [`/page/${file}`, { file, type: 'text/javascript; charset=utf-8' }] as const),
  ...STYLES.map((file) => [`/page/${file}`, { file, type: 'text/css; charset=utf-8' }] as const),
]);

/** Several changes in one breath become one hint. */
const HINT_DELAY_MS = 25;
const KEEP_ALIVE_MS = 20_000;

export interface PageOptions {
  readonly slack: LocalSlack;
  readonly token: string;
  readonly port: () => number;
  readonly github: () => GitHubPlace | undefined;
}

/** The page's routes, and the way to tell open pages that something outside Slack's state changed. */
export interface Page {
  readonly route: Route;
  /** The repository may look different now: open pages read it again. Cheap, may be called for every write. */
  readonly repositoryChanged: () => void;
  readonly close: () => void;
}

export function pageRoutes(options: PageOptions): Page {
  const streams = new Set<ServerResponse>();
  const { store } = options.slack.context;
  let hint: NodeJS.Timeout | undefined;
  const stop = store.onChange(() => {
    hint ??= setTimeout(() => {
      hint = undefined;
      for (const stream of streams) stream.write(`data: ${store.revision}\n\n`);
    }, HINT_DELAY_MS);
  });
  let repositoryHint: NodeJS.Timeout | undefined;
  const keepAlive = setInterval(() => {
    for (const stream of streams) stream.write(': still here\n\n');
  }, KEEP_ALIVE_MS);
  keepAlive.unref();

  const route: Route = async (request, response, url) => {
    const handler = handlerFor(request, url);
    if (!handler) return false;
    const refusal = refuse(options, request, url);
    if (refusal !== undefined) {
      response.writeHead(403, { 'content-type': 'text/plain; charset=utf-8' });
      response.end(`${refusal}\n`);
      return true;
    }
    await handler({ options, streams, request, response, url });
    return true;
  };
  return {
    route,
    repositoryChanged: () => {
      repositoryHint ??= setTimeout(() => {
        repositoryHint = undefined;
        for (const stream of streams) stream.write('event: repository\ndata: changed\n\n');
      }, HINT_DELAY_MS);
    },
    close: () => {
      stop();
      clearTimeout(hint);
      clearTimeout(repositoryHint);
      clearInterval(keepAlive);
      for (const stream of streams) stream.end();
    },
  };
}

interface Visit {
  readonly options: PageOptions;
  readonly streams: Set<ServerResponse>;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly url: URL;
}

type Handler = (visit: Visit) => Promise<void> | void;

function handlerFor(request: IncomingMessage, url: URL): Handler | undefined {
  const { pathname } = url;
  if (request.method === 'POST') return pathname === '/page/act' ? performAct : undefined;
  if (request.method !== 'GET' && request.method !== 'HEAD') return undefined;
  if (pathname === '/') return sendPage;
  if (STATIC_FILES.has(pathname)) return sendStatic;
  if (pathname === '/page/state') return sendState;
  if (pathname === '/page/events') return openStream;
  if (pathname.startsWith('/page/repository')) return sendRepository;
  if (pathname.startsWith('/archives/')) return redirectPermalink;
  if (pathname.startsWith('/files/')) return sendFile;
  return undefined;
}

function refuse(options: PageOptions, request: IncomingMessage, url: URL): string | undefined {
  const hosts = [`127.0.0.1:${options.port()}`, `localhost:${options.port()}`];
  const host = request.headers.host ?? '';
  if (!hosts.includes(host)) return 'This page answers only under its own address.';
  if (request.method === 'POST' && !fromThisPage(request, host)) {
    return 'This request did not come from the page.';
  }
  const header = request.headers['x-page-token'];
  const given = [
    url.searchParams.get('token') ?? undefined,
    typeof header === 'string' ? header : undefined,
    cookie(request, cookieName(options)),
  ];
  if (!given.some((token) => sameSecret(token, options.token))) {
    return 'This page needs its token: open the address printed when Countersign started.';
  }
  return undefined;
}

/** Both headers are set by the browser and out of a page's reach; some automated browsers leave Origin out. */
function fromThisPage(request: IncomingMessage, host: string): boolean {
  const { origin } = request.headers;
  if (origin !== undefined) return origin === `http://${host}`;
  return request.headers['sec-fetch-site'] === 'same-origin';
}

const SECURITY_HEADERS = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'cache-control': 'no-store',
};

function sendPage({ options, response }: Visit): void {
  response.writeHead(200, {
    ...SECURITY_HEADERS,
    'content-type': 'text/html; charset=utf-8',
    'set-cookie': `${cookieName(options)}=${options.token}; HttpOnly; SameSite=Strict; Path=/`,
  });
  response.end(readFileSync(join(import.meta.dirname, 'index.html')));
}

function sendStatic({ response, url }: Visit): void {
  const known = STATIC_FILES.get(url.pathname);
  if (!known) return;
  response.writeHead(200, { ...SECURITY_HEADERS, 'content-type': known.type });
  response.end(readFileSync(join(import.meta.dirname, known.file)));
}

function openStream({ streams, response }: Visit): void {
  response.writeHead(200, { ...SECURITY_HEADERS, 'content-type': 'text/event-stream' });
  response.write('retry: 500\n\ndata: hello\n\n');
  streams.add(response);
  response.on('close', () => streams.delete(response));
}

async function sendState({ options, response, url }: Visit): Promise<void> {
  const { store } = options.slack.context;
  const people = playable(store);
  const me = people.find((user) => user.id === url.searchParams.get('as')) ?? people[0];
  if (!me) {
    sendJson(response, 404, { error: 'nobody is left in this workspace' });
    return;
  }
  await store.flush();
  sendJson(response, 200, stateFor(store, me), SECURITY_HEADERS);
}

async function performAct({ options, request, response }: Visit): Promise<void> {
  const parsed = wishSchema.safeParse(parseBody(await readBody(request), 'application/json'));
  if (!parsed.success) {
    sendJson(response, 400, { error: z.prettifyError(parsed.error) });
    return;
  }
  try {
    const result = await perform(options.slack, parsed.data);
    await options.slack.context.store.flush();
    sendJson(response, 200, result);
  } catch (error) {
    if (!(error instanceof SlackRefusal)) throw error;
    sendJson(response, 200, { error: error.code });
  }
}

/** `/page/repository`, `/page/repository/pulls/1`, `/page/repository/issues/2`. What GitHub refuses is said in `error`. */
async function sendRepository({ options, response, url }: Visit): Promise<void> {
  const github = options.github();
  const [, kind, number] = /^\/page\/repository\/(pulls|issues)\/(\d{1,9})$/.exec(url.pathname) ?? [];
  const look = async (): Promise<Json> => {
    if (!github) throw new Error('The local GitHub is not running');
    if (kind === 'pulls') return pullInDepth(github, Number(number));
    if (kind === 'issues') return issueInDepth(github, Number(number));
    return summary(github);
  };
  const answer = await look().catch((error: unknown) => ({
    repository: SHOWN_REPOSITORY,
    error: error instanceof Error ? error.message : 'unreachable',
  }));
  sendJson(response, 200, answer, SECURITY_HEADERS);
}

function redirectPermalink({ response, url }: Visit): void {
  const [, channel = '', digits = ''] = /^\/archives\/([A-Z0-9]+)\/p(\d+)$/.exec(url.pathname) ?? [];
  const query = new URLSearchParams({ channel, ts: `${digits.slice(0, -6)}.${digits.slice(-6)}` });
  const thread = url.searchParams.get('thread_ts');
  if (thread !== null) query.set('thread', thread);
  response.writeHead(302, { location: `/?${query}` });
  response.end();
}

function sendFile({ options, response, url }: Visit): void {
  const { store } = options.slack.context;
  const file = store.data.files.find(
    (candidate) => candidate.id === url.pathname.slice('/files/'.length) && candidate.completed,
  );
  const path = file && join(store.stateDir, 'files', file.id);
  if (!file || !path || !existsSync(path)) {
    response.writeHead(404).end();
    return;
  }
  // Never shown as a page: an uploaded file is as untrusted as any other text.
  response.writeHead(200, {
    ...SECURITY_HEADERS,
    'content-type': 'application/octet-stream',
    'content-disposition': `attachment; filename*=UTF-8''${encodeURIComponent(file.name)}`,
  });
  createReadStream(path).pipe(response);
}

/** Cookies are shared by all ports of a host, so the name carries the port. */
function cookieName(options: PageOptions): string {
  return `countersign_world_${options.port()}`;
}

function cookie(request: IncomingMessage, name: string): string | undefined {
  for (const pair of (request.headers.cookie ?? '').split(';')) {
    const [key, value] = pair.trim().split('=', 2);
    if (key === name) return value;
  }
  return undefined;
}
