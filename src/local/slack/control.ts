/**
 * The control API, `/control/*`: what tests and the launcher may do that Slack offers nobody. It acts as people,
 * shows the state, and arranges trouble. It needs the control token, which the app never gets.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { z } from 'zod';
import type { Acts, ClickOptions } from './acts.ts';
import { bearer, parseBody, type Route, readBody, sameSecret, sendJson } from './http.ts';
import { type SlackContext, SlackRefusal } from './messages.ts';
import { BOT_USER_ID, directMessageId, makeUser, TEAM_ID } from './seed.ts';
import { interruptStream } from './streams.ts';
import type { Fault, Json, SlackUser } from './types.ts';
import { modalStack } from './views.ts';
import { messageJson, userJson, viewJson } from './wire.ts';

const id = z.string().min(1);
const chosen = z.union([z.string(), z.array(z.string())]);

const bodies = {
  connect: z.object({ eventsUrl: z.url(), subscriptions: z.array(z.string()).optional() }),
  say: z.object({ user: id, channel: id, text: z.string(), threadTs: z.string().optional() }),
  edit: z.object({ user: id, channel: id, ts: id, text: z.string() }),
  remove: z.object({ user: id, channel: id, ts: id }),
  react: z.object({
    user: id,
    channel: id,
    ts: id,
    name: id,
    what: z.enum(['add', 'remove']).default('add'),
  }),
  command: z.object({
    user: id,
    channel: id,
    command: z.string().startsWith('/'),
    text: z.string().default(''),
  }),
  click: z.object({
    user: id,
    actionId: id,
    channel: id.optional(),
    ts: id.optional(),
    viewId: id.optional(),
    blockId: id.optional(),
    chosen: chosen.optional(),
    stale: z.boolean().optional(),
    eventsUrl: z.url().optional(),
  }),
  submit: z.object({ user: id, viewId: id.optional(), values: z.record(z.string(), chosen).default({}) }),
  close: z.object({ user: id, viewId: id.optional() }),
  home: z.object({ user: id }),
  fault: z.object({
    method: id,
    kind: z.enum([
      'rate_limited',
      'server_error',
      'error',
      'drop_before',
      'drop_after',
      'delay',
      'delay_after',
    ]),
    times: z.number().int().positive().default(1),
    channel: id.optional(),
    retryAfterSec: z.number().optional(),
    status: z.number().int().optional(),
    error: z.string().optional(),
    delayMs: z.number().nonnegative().optional(),
  }),
  release: z.object({
    order: z.union([z.enum(['forward', 'reverse']), z.array(id)]).default('forward'),
  }),
  socket: z.object({
    what: z.enum(['warning', 'refresh_requested', 'link_disabled', 'cut', 'send']),
    id: id.optional(),
    closeAfterMs: z.number().nonnegative().optional(),
    frame: z.string().optional(),
  }),
  stream: z.object({ channel: id, ts: id, what: z.enum(['stop', 'expire']) }),
  redeliver: z.object({ eventId: id, eventsUrl: z.url().optional() }),
  user: z.object({
    id,
    name: id.optional(),
    team_id: id.optional(),
    deleted: z.boolean().optional(),
    is_restricted: z.boolean().optional(),
    is_ultra_restricted: z.boolean().optional(),
    is_stranger: z.boolean().optional(),
    is_admin: z.boolean().optional(),
    tz: z.string().optional(),
    tz_offset: z.number().int().optional(),
  }),
  channel: z.object({ id, name: id.optional(), archived: z.boolean().optional() }),
  member: z.object({ channel: id, user: id, what: z.enum(['add', 'remove']) }),
  removeMessage: z.object({ channel: id, ts: id }),
};

type Handler = (body: Json) => unknown;

export interface ControlOptions {
  readonly token: string;
  /** The local GitHub, once it runs. */
  readonly github: () => { readonly apiUrl: string; readonly token: string } | undefined;
}

export function controlApi(context: SlackContext, acts: Acts, options: ControlOptions): Route {
  const handlers = controlHandlers(context, acts);
  return async (request, response, url) => {
    if (!url.pathname.startsWith('/control/')) return false;
    if (!sameSecret(bearer(request), options.token)) {
      sendJson(response, 401, { error: 'invalid_auth' });
      return true;
    }
    if (url.pathname.startsWith('/control/github/')) {
      await forwardToGitHub(options.github(), request, response, url);
      return true;
    }
    const handler = handlers[`${request.method} ${url.pathname.slice('/control/'.length)}`];
    if (!handler) {
      sendJson(response, 404, { error: 'unknown_control' });
      return true;
    }
    const body =
      request.method === 'GET'
        ? Object.fromEntries(url.searchParams)
        : parseBody(await readBody(request), 'application/json');
    try {
      const answer = await handler(body ?? {});
      await context.store.flush();
      sendJson(response, 200, answer ?? {});
    } catch (error) {
      if (error instanceof SlackRefusal) sendJson(response, 409, { error: error.code });
      else if (error instanceof z.ZodError) sendJson(response, 400, { error: z.prettifyError(error) });
      else throw error;
    }
    return true;
  };
}

function controlHandlers(context: SlackContext, acts: Acts): Record<string, Handler> {
  const { store, deliveries } = context;
  return {
    'POST connect': (body) => {
      const { eventsUrl, subscriptions } = bodies.connect.parse(body);
      return { before: deliveries.connect(eventsUrl, subscriptions) };
    },
    'POST say': (body) => {
      const { user, channel, text, threadTs } = bodies.say.parse(body);
      const message = acts.say(user, channel, text, threadTs === undefined ? {} : { threadTs });
      return { channel: message.channel, ts: message.ts };
    },
    'POST edit': (body) => {
      const { user, channel, ts, text } = bodies.edit.parse(body);
      acts.edit(user, channel, ts, text);
    },
    'POST remove': (body) => {
      const { user, channel, ts } = bodies.remove.parse(body);
      acts.remove(user, channel, ts);
    },
    'POST react': (body) => {
      const { user, channel, ts, name, what } = bodies.react.parse(body);
      acts.react(user, channel, ts, name, what);
    },
    'POST command': (body) => {
      const { user, channel, command, text } = bodies.command.parse(body);
      return acts.command(user, channel, command, text);
    },
    'POST click': (body) => {
      const { user, ...options } = bodies.click.parse(body);
      return acts.click(user, defined(options) as unknown as ClickOptions);
    },
    'POST submit': (body) => {
      const { user, viewId, values } = bodies.submit.parse(body);
      return acts.submit(user, values, viewId);
    },
    'POST close': (body) => {
      const { user, viewId } = bodies.close.parse(body);
      return acts.close(user, viewId);
    },
    'POST home': (body) => acts.openHome(bodies.home.parse(body).user),
    'GET messages': (body) => {
      const channel = String(body.channel ?? '');
      return store.data.messages
        .filter((message) => message.channel === channel)
        .map((message) => messageJson(store, message, { metadata: 'include' }));
    },
    'GET ephemerals': (body) =>
      store.data.ephemerals
        .filter((message) => body.user === undefined || message.audience === body.user)
        .map((message) => ({
          ...messageJson(store, message, { metadata: 'include' }),
          channel: message.channel,
          audience: message.audience,
        })),
    'GET views': (body) => modalStack(store, String(body.user ?? '')).map(viewJson),
    'GET home': (body) => {
      const open = store.data.views.find((view) => view.type === 'home' && view.user === body.user);
      return { view: open ? viewJson(open) : null };
    },
    'GET calls': (body) =>
      store.calls.filter((call) => body.method === undefined || call.method === body.method),
    'GET deliveries': () =>
      store.data.deliveries.map(({ body, ...rest }) => ({ ...rest, envelope: JSON.parse(body) })),
    'POST redeliver': async (body) => {
      const { eventId, eventsUrl } = bodies.redeliver.parse(body);
      const ack = await deliveries.redeliver(eventId, eventsUrl);
      if (!ack) throw new SlackRefusal('event_not_found');
      return { ackStatus: ack.ackStatus, ackMs: ack.ackMs };
    },
    'POST hold': () => deliveries.hold(),
    'POST release': async (body) => ({ sent: await deliveries.release(bodies.release.parse(body).order) }),
    'GET sockets': () => deliveries.sockets.list(),
    'POST socket': (body) => {
      const { what, id: socketId, closeAfterMs, frame } = bodies.socket.parse(body);
      const { sockets } = deliveries;
      if (what === 'cut') return { count: sockets.cut(socketId) };
      if (what === 'send') return { count: sockets.sendRaw(frame ?? '', socketId) };
      const order = defined({ id: socketId, closeAfterMs }) as { id?: string; closeAfterMs?: number };
      return { count: sockets.disconnect(what, order) };
    },
    'POST stream': (body) => {
      const { channel, ts, what } = bodies.stream.parse(body);
      const message = store.message(channel, ts);
      if (!message) throw new SlackRefusal('message_not_found');
      interruptStream(context, message, what);
    },
    'POST fault': (body) => {
      store.data.faults.push(defined(bodies.fault.parse(body)) as unknown as Fault);
      store.touch();
    },
    'DELETE faults': () => {
      store.data.faults = [];
      store.touch();
    },
    'POST user': (body) => {
      const { id: userId, ...changes } = bodies.user.parse(body);
      const user =
        store.user(userId) ?? addPerson(context, userId, changes.name ?? userId, changes.team_id ?? TEAM_ID);
      Object.assign(user, defined(changes));
      store.touch();
      return userJson(user);
    },
    'POST channel': (body) => {
      const { id: channelId, name, archived } = bodies.channel.parse(body);
      let channel = store.channel(channelId);
      if (!channel) {
        channel = {
          id: channelId,
          name: name ?? channelId.toLowerCase(),
          is_im: false,
          is_archived: false,
          created: Math.floor(Date.now() / 1000),
          members: store.data.users.map((user) => user.id),
        };
        store.data.channels.push(channel);
      }
      if (name !== undefined) channel.name = name;
      if (archived !== undefined) channel.is_archived = archived;
      store.touch();
    },
    'POST member': (body) => {
      const { channel: channelId, user, what } = bodies.member.parse(body);
      const channel = store.channel(channelId);
      if (!channel) throw new SlackRefusal('channel_not_found');
      channel.members = channel.members.filter((member) => member !== user);
      if (what === 'add') channel.members.push(user);
      store.touch();
    },
    'POST remove-message': (body) => {
      // As a workspace admin: also the app's messages, which nobody else may delete.
      const { channel, ts } = bodies.removeMessage.parse(body);
      const message = store.message(channel, ts);
      if (!message) throw new SlackRefusal('message_not_found');
      acts.removeAsAdmin(message);
    },
  };
}

/** The local GitHub's own orders and its list of writes, so that a test needs one address and one token. */
async function forwardToGitHub(
  github: ReturnType<ControlOptions['github']>,
  request: IncomingMessage,
  response: ServerResponse,
  url: URL,
): Promise<void> {
  if (github === undefined) {
    sendJson(response, 503, { error: 'github_not_running' });
    return;
  }
  const route = url.pathname.slice('/control/github/'.length);
  const body = request.method === 'POST' ? await readBody(request) : undefined;
  const answer = await fetch(`${github.apiUrl.replace(/\/$/, '')}/_control/${route}${url.search}`, {
    method: request.method ?? 'GET',
    headers: { authorization: `Bearer ${github.token}`, 'content-type': 'application/json' },
    ...(body === undefined || body.length === 0 ? {} : { body: body.toString('utf8') }),
  });
  const content = await answer.text();
  sendJson(response, answer.status, content === '' ? {} : JSON.parse(content));
}

/** A new person joins every channel and gets a direct message with the bot. */
function addPerson(context: SlackContext, userId: string, name: string, teamId: string): SlackUser {
  const { data } = context.store;
  const user = makeUser(userId, name, teamId);
  data.users.push(user);
  for (const channel of data.channels) if (!channel.is_im) channel.members.push(userId);
  data.channels.push({
    id: directMessageId(userId),
    name: '',
    is_im: true,
    is_archived: false,
    created: Math.floor(Date.now() / 1000),
    members: [userId, BOT_USER_ID],
  });
  return user;
}

/** The same object without the keys that hold `undefined`. */
function defined(value: Json): Json {
  return Object.fromEntries(Object.entries(value).filter(([, item]) => item !== undefined));
}
