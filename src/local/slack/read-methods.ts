/** `auth.*`, `users.*`, `bots.*` and `conversations.*`: who and what there is, and what was said. */
import type { Args } from './args.ts';
import { page } from './args.ts';
import { type Method, readableChannel } from './chat-methods.ts';
import { type SlackContext, SlackRefusal } from './messages.ts';
import { APP_ID, BOT_ID, BOT_NAME, BOT_USER_ID, directMessageId, TEAM_ID } from './seed.ts';
import type { Json, SlackChannel, SlackMessage } from './types.ts';
import { channelJson, messageJson, userJson } from './wire.ts';

export const readMethods: Record<string, Method> = {
  'api.test': (_context, args) => {
    const error = args.string('error');
    if (error !== undefined) throw new SlackRefusal(error);
    return { args: args.raw };
  },

  'auth.test': (context) => ({
    url: `${context.baseUrl()}/`,
    team: 'Local',
    user: BOT_NAME.toLowerCase(),
    team_id: TEAM_ID,
    user_id: BOT_USER_ID,
    bot_id: BOT_ID,
    is_enterprise_install: false,
  }),

  'team.info': () => ({ team: { id: TEAM_ID, name: 'Local', domain: 'local' } }),

  'bots.info': (_context, args) => {
    if (args.required('bot', 'bot_not_found') !== BOT_ID) throw new SlackRefusal('bot_not_found');
    return {
      bot: {
        id: BOT_ID,
        deleted: false,
        name: BOT_NAME,
        updated: 0,
        app_id: APP_ID,
        user_id: BOT_USER_ID,
        icons: {},
      },
    };
  },

  'users.info': (context, args) => {
    const user = context.store.user(args.required('user', 'user_not_found'));
    if (!user) throw new SlackRefusal('user_not_found');
    return { user: userJson(user) };
  },

  'users.list': (context, args) => {
    const { items, next_cursor } = page(context.store.data.users, args, 1000);
    return { members: items.map(userJson), cache_ts: 0, response_metadata: { next_cursor } };
  },

  'conversations.info': (context, args) => {
    const channel = context.store.channel(args.required('channel', 'channel_not_found'));
    if (!channel) throw new SlackRefusal('channel_not_found');
    return { channel: channelJson(channel) };
  },

  'conversations.list': (context, args) => listChannels(context, args, context.store.data.channels),

  'users.conversations': (context, args) =>
    listChannels(
      context,
      args,
      context.store.data.channels.filter((channel) =>
        channel.members.includes(args.string('user') ?? BOT_USER_ID),
      ),
    ),

  'conversations.open': (context, args) => {
    const given =
      args.string('channel') ?? directMessageId(args.required('users', 'users_list_not_supplied'));
    if (given.includes(','))
      throw new SlackRefusal('not_enough_users', ['[ERROR] group messages are not part of the local Slack']);
    const channel = context.store.channel(given);
    if (!channel?.is_im)
      throw new SlackRefusal(args.string('channel') === undefined ? 'user_not_found' : 'channel_not_found');
    return {
      no_op: true,
      already_open: true,
      channel: args.flag('return_im') === 'yes' ? channelJson(channel) : { id: channel.id },
    };
  },

  'conversations.join': (context, args) => {
    const channel = context.store.channel(args.required('channel', 'channel_not_found'));
    if (!channel) throw new SlackRefusal('channel_not_found');
    if (channel.is_im) throw new SlackRefusal('method_not_supported_for_channel_type');
    if (channel.is_archived) throw new SlackRefusal('is_archived');
    if (!channel.members.includes(BOT_USER_ID)) channel.members.push(BOT_USER_ID);
    context.store.touch();
    return { channel: channelJson(channel) };
  },

  'conversations.members': (context, args) => {
    const channel = readableChannel(context, args.required('channel', 'channel_not_found'));
    const { items, next_cursor } = page(channel.members, args, 100);
    return { members: items, response_metadata: { next_cursor } };
  },

  'conversations.history': (context, args) => {
    const channel = readableChannel(context, args.required('channel', 'channel_not_found'));
    const messages = context.store.data.messages
      .filter((message) => message.channel === channel.id && (isRoot(message) || message.broadcast === true))
      .filter(inWindow(args))
      .toReversed();
    return messagePage(context, args, messages, 100);
  },

  'conversations.replies': (context, args) => {
    const channel = readableChannel(context, args.required('channel', 'channel_not_found'));
    const ts = args.required('ts', 'thread_not_found');
    const parent = context.store.message(channel.id, ts);
    if (!parent) throw new SlackRefusal('thread_not_found');
    const window = inWindow(args);
    const replies = isRoot(parent) ? context.store.repliesTo(channel.id, ts).filter(window) : [];
    return messagePage(context, args, [parent, ...replies], 1000);
  },
};

function listChannels(_context: SlackContext, args: Args, channels: readonly SlackChannel[]): Json {
  const types = new Set((args.string('types') ?? 'public_channel').split(',').map((type) => type.trim()));
  const wanted = channels
    .filter((channel) => types.has(channel.is_im ? 'im' : 'public_channel'))
    .filter((channel) => args.flag('exclude_archived') === 'no' || !channel.is_archived);
  const { items, next_cursor } = page(wanted, args, 100);
  return { channels: items.map(channelJson), response_metadata: { next_cursor } };
}

function isRoot(message: SlackMessage): boolean {
  return message.thread_ts === undefined || message.thread_ts === message.ts;
}

/** Timestamps have a fixed width, so they compare as text. */
function inWindow(args: Args): (message: SlackMessage) => boolean {
  const oldest = args.string('oldest');
  const latest = args.string('latest');
  const inclusive = args.flag('inclusive') === 'yes';
  const bound = (value: string): string => {
    const [seconds = '0', micros = ''] = value.split('.');
    return `${seconds.padStart(10, '0')}.${micros.padEnd(6, '0').slice(0, 6)}`;
  };
  return (message) => {
    if (oldest && oldest !== '0') {
      const from = bound(oldest);
      if (inclusive ? message.ts < from : message.ts <= from) return false;
    }
    if (latest && latest !== 'now') {
      const to = bound(latest);
      if (inclusive ? message.ts > to : message.ts >= to) return false;
    }
    return true;
  };
}

function messagePage(
  context: SlackContext,
  args: Args,
  messages: readonly SlackMessage[],
  fallback: number,
): Json {
  const { items, next_cursor } = page(messages, args, fallback);
  const metadata = args.flag('include_all_metadata') === 'yes' ? 'include' : 'omit';
  return {
    messages: items.map((message) => messageJson(context.store, message, { metadata })),
    has_more: next_cursor !== '',
    pin_count: 0,
    response_metadata: { next_cursor },
  };
}
