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
import type { ActResult, ClickOptions } from '../slack/acts.ts';
import { parseBody, type Route, readBody, sameSecret, sendJson } from '../slack/http.ts';
import type { LocalSlack } from '../slack/local-slack.ts';
import { SlackRefusal } from '../slack/messages.ts';
import { BOT_NAME, BOT_USER_ID } from '../slack/seed.ts';
import type { Json, SlackUser } from '../slack/types.ts';
import { homeView, modalStack } from '../slack/views.ts';
import { messageJson, viewJson } from '../slack/wire.ts';

const STATIC_FILES: Record<string, { file: string; type: string }> = {
  '/page/app.js': { file: 'app.js', type: 'text/javascript; charset=utf-8' },
  '/page/blocks.js': { file: 'blocks.js', type: 'text/javascript; charset=utf-8' },
  '/page/mrkdwn.js': { file: 'mrkdwn.js', type: 'text/javascript; charset=utf-8' },
  '/page/style.css': { file: 'style.css', type: 'text/css; charset=utf-8' },
};

/** Enough to scroll through; the whole history is in the Web API. */
const MESSAGES_PER_CHANNEL = 300;
/** Several changes in one breath become one hint. */
const HINT_DELAY_MS = 25;
const KEEP_ALIVE_MS = 20_000;
const SHOWN_REPOSITORY = 'acme/shop';

export interface PageOptions {
  readonly slack: LocalSlack;
  readonly token: string;
  readonly port: () => number;
  readonly github: () => { apiUrl: string; token: string } | undefined;
}

const act = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('say'),
    as: z.string(),
    channel: z.string(),
    text: z.string(),
    threadTs: z.string().optional(),
  }),
  z.object({
    kind: z.literal('click'),
    as: z.string(),
    actionId: z.string(),
    blockId: z.string().optional(),
    channel: z.string().optional(),
    ts: z.string().optional(),
    viewId: z.string().optional(),
    chosen: z.union([z.string(), z.array(z.string())]).optional(),
  }),
  z.object({
    kind: z.literal('submit'),
    as: z.string(),
    viewId: z.string(),
    values: z.record(z.string(), z.union([z.string(), z.array(z.string())])),
  }),
  z.object({ kind: z.literal('close'), as: z.string(), viewId: z.string() }),
  z.object({
    kind: z.literal('react'),
    as: z.string(),
    channel: z.string(),
    ts: z.string(),
    name: z.string(),
    what: z.enum(['add', 'remove']),
  }),
  z.object({ kind: z.literal('home'), as: z.string() }),
]);

export function pageRoutes(options: PageOptions): { route: Route; close: () => void } {
  const streams = new Set<ServerResponse>();
  const { store } = options.slack.context;
  let hint: NodeJS.Timeout | undefined;
  const stop = store.onChange(() => {
    hint ??= setTimeout(() => {
      hint = undefined;
      for (const stream of streams) stream.write(`data: ${store.revision}\n\n`);
    }, HINT_DELAY_MS);
  });
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
    close: () => {
      stop();
      clearTimeout(hint);
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
  if (STATIC_FILES[pathname]) return sendStatic;
  if (pathname === '/page/state') return sendState;
  if (pathname === '/page/events') return openStream;
  if (pathname === '/page/github') return sendPulls;
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
  const known = STATIC_FILES[url.pathname];
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
  const people = store.data.users.filter((user) => !user.is_bot && !user.deleted);
  const me = people.find((user) => user.id === url.searchParams.get('as')) ?? people[0];
  if (!me) {
    sendJson(response, 404, { error: 'nobody is left in this workspace' });
    return;
  }
  await store.flush();
  sendJson(response, 200, stateFor(options, me, people), SECURITY_HEADERS);
}

/** What this person's client may know: their channels, their ephemeral messages, their views. */
function stateFor(options: PageOptions, me: SlackUser, people: readonly SlackUser[]): Json {
  const { store } = options.slack.context;
  const channels = store.data.channels.filter((channel) => channel.members.includes(me.id));
  const home = homeView(store, me.id);
  return {
    revision: store.revision,
    me: me.id,
    connected: store.data.eventsUrl !== null,
    people: people.map(({ id, name, is_restricted }) => ({ id, name, guest: is_restricted })),
    names: Object.fromEntries(store.data.users.map((user) => [user.id, user.name])),
    bot: { id: BOT_USER_ID, name: BOT_NAME },
    channels: channels.map(({ id, name, is_im, is_archived }) => ({
      id,
      name: is_im ? BOT_NAME : name,
      is_im,
      is_archived,
    })),
    messages: Object.fromEntries(
      channels.map((channel) => [
        channel.id,
        store.data.messages
          .filter((message) => message.channel === channel.id)
          .slice(-MESSAGES_PER_CHANNEL)
          .map((message) => ({
            ...messageJson(store, message, { metadata: 'omit' }),
            broadcast: message.broadcast === true,
            inputs: store.data.inputs[`${me.id}:${channel.id}:${message.ts}`] ?? {},
          })),
      ]),
    ),
    ephemerals: store.data.ephemerals
      .filter((message) => message.audience === me.id)
      .slice(-MESSAGES_PER_CHANNEL)
      .map((message) => ({
        ...messageJson(store, message, { metadata: 'omit' }),
        channel: message.channel,
        ephemeral: true,
        inputs: store.data.inputs[`${me.id}:${message.channel}:${message.ts}`] ?? {},
      })),
    views: modalStack(store, me.id).map(viewJson),
    home: home ? viewJson(home) : null,
  };
}

async function performAct({ options, request, response }: Visit): Promise<void> {
  const parsed = act.safeParse(parseBody(await readBody(request), 'application/json'));
  if (!parsed.success) {
    sendJson(response, 400, { error: z.prettifyError(parsed.error) });
    return;
  }
  try {
    const result = await perform(options, parsed.data);
    await options.slack.context.store.flush();
    sendJson(response, 200, result);
  } catch (error) {
    if (!(error instanceof SlackRefusal)) throw error;
    sendJson(response, 200, { error: error.code });
  }
}

async function perform({ slack }: PageOptions, wish: z.infer<typeof act>): Promise<ActResult | Json> {
  const { acts } = slack;
  switch (wish.kind) {
    case 'say': {
      const [, command, args = ''] = /^(\/[a-z][a-z0-9_-]*)(?:\s+([\s\S]*))?$/.exec(wish.text.trim()) ?? [];
      if (command !== undefined) return acts.command(wish.as, wish.channel, command, args);
      const text = asTyped(slack, wish.text);
      const message = acts.say(
        wish.as,
        wish.channel,
        text,
        wish.threadTs === undefined ? {} : { threadTs: wish.threadTs },
      );
      return { ts: message.ts, channel: message.channel };
    }
    case 'click': {
      const { kind: _kind, as, ...options } = wish;
      return acts.click(as, JSON.parse(JSON.stringify(options)) as ClickOptions);
    }
    case 'submit':
      return acts.submit(wish.as, wish.values, wish.viewId);
    case 'close':
      return acts.close(wish.as, wish.viewId);
    case 'react':
      acts.react(wish.as, wish.channel, wish.ts, wish.name, wish.what);
      return {};
    case 'home':
      acts.openHome(wish.as);
      return {};
    default: {
      const unreachable: never = wish;
      return unreachable;
    }
  }
}

/** Typed text as Slack's client sends it: special characters escaped, `@name` turned into a mention. */
function asTyped({ context }: LocalSlack, typed: string): string {
  let text = typed.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
  const byLength = context.store.data.users.toSorted((a, b) => b.name.length - a.name.length);
  for (const user of byLength) {
    const name = user.name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
    text = text.replace(new RegExp(`(^|[^\\w@<])@${name}(?![\\w-])`, 'gi'), `$1<@${user.id}>`);
  }
  return text;
}

interface Pull {
  readonly number: number;
  readonly title: string;
  readonly state: string;
  readonly draft?: boolean;
  readonly merged_at?: string | null;
  readonly merge_commit_sha?: string | null;
  readonly head?: { ref?: string; sha?: string };
  readonly base?: { ref?: string };
}

/** The local repository's pull requests, read over its own API, so that a merge is seen where it happened. */
async function sendPulls({ options, response }: Visit): Promise<void> {
  const github = options.github();
  if (!github) {
    sendJson(response, 200, { repository: SHOWN_REPOSITORY, pulls: [], error: 'no local GitHub' });
    return;
  }
  try {
    const answer = await fetch(`${github.apiUrl}/repos/${SHOWN_REPOSITORY}/pulls?state=all&per_page=20`, {
      headers: { authorization: `Bearer ${github.token}`, accept: 'application/vnd.github+json' },
      signal: AbortSignal.timeout(3_000),
    });
    if (!answer.ok) throw new Error(`GitHub answered ${answer.status}`);
    const pulls = ((await answer.json()) as Pull[]).map((pull) => ({
      number: pull.number,
      title: pull.title,
      state: pull.merged_at ? 'merged' : pull.draft ? 'draft' : pull.state,
      merged_at: pull.merged_at ?? null,
      merge_commit_sha: pull.merged_at ? (pull.merge_commit_sha ?? null) : null,
      head: pull.head?.ref ?? '',
      sha: pull.head?.sha ?? '',
      base: pull.base?.ref ?? '',
    }));
    sendJson(response, 200, { repository: SHOWN_REPOSITORY, pulls });
  } catch (error) {
    const reason = error instanceof Error ? error.message : 'unreachable';
    sendJson(response, 200, { repository: SHOWN_REPOSITORY, pulls: [], error: reason });
  }
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
