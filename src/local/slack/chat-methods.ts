/** The `chat.*` and `reactions.*` methods, with Slack's checks and error names. */
import type { Args } from './args.ts';
import { blockChars, checkBlocks, LIMITS } from './limits.ts';
import {
  addReaction,
  deleteMessage,
  editMessage,
  type NewMessage,
  postEphemeral,
  postMessage,
  removeReaction,
  type SlackContext,
  SlackRefusal,
} from './messages.ts';
import { BOT_ID, BOT_USER_ID, directMessageId } from './seed.ts';
import { isRecord, type Json, records, type SlackChannel, type SlackMessage } from './types.ts';
import { messageJson } from './wire.ts';

export type Method = (context: SlackContext, args: Args) => Json;

export const chatMethods: Record<string, Method> = {
  'chat.postMessage': (context, args) => {
    const channel = writableChannel(context, args.required('channel', 'channel_not_found'));
    const message = outgoing(args, channel.id);
    const stored = postMessage(context, message);
    return {
      channel: channel.id,
      ts: stored.ts,
      message: messageJson(context.store, stored, { metadata: 'include' }),
    };
  },

  'chat.postEphemeral': (context, args) => {
    const channel = writableChannel(context, args.required('channel', 'channel_not_found'));
    const user = args.required('user', 'user_not_found');
    if (!context.store.user(user)) throw new SlackRefusal('user_not_found');
    if (!channel.members.includes(user)) throw new SlackRefusal('user_not_in_channel');
    return { message_ts: postEphemeral(context, outgoing(args, channel.id), user).ts };
  },

  'chat.update': (context, args) => {
    const { channel, message } = ownMessage(context, args, 'cant_update_message');
    if (channel.is_archived) throw new SlackRefusal('is_archived');
    if (message.streaming) throw new SlackRefusal('streaming_state_conflict');
    const blocks = outgoingBlocks(args);
    const text = outgoingText(args);
    const attachments = args.json('attachments', 'invalid_attachments');
    const metadata = outgoingMetadata(args);
    if (text === undefined && blocks === undefined && attachments === undefined)
      throw new SlackRefusal('no_text');
    editMessage(
      context,
      message,
      {
        ...(text === undefined ? {} : { text }),
        ...(blocks === undefined ? {} : { blocks }),
        ...(attachments === undefined ? {} : { attachments: records(attachments) }),
        ...(metadata === undefined ? {} : { metadata }),
      },
      BOT_USER_ID,
    );
    return {
      channel: channel.id,
      ts: message.ts,
      text: message.text,
      message: messageJson(context.store, message, { metadata: 'include' }),
    };
  },

  'chat.delete': (context, args) => {
    const { channel, message } = ownMessage(context, args, 'cant_delete_message');
    deleteMessage(context, message);
    return { channel: channel.id, ts: message.ts };
  },

  'chat.getPermalink': (context, args) => {
    const { channel, message } = anyMessage(context, args, 'message_ts');
    const thread = message.thread_ts ? `?thread_ts=${message.thread_ts}&cid=${channel.id}` : '';
    return {
      channel: channel.id,
      permalink: `${context.baseUrl()}/archives/${channel.id}/p${message.ts.replace('.', '')}${thread}`,
    };
  },

  'reactions.add': (context, args) => {
    addReaction(context, anyMessage(context, args, 'timestamp').message, BOT_USER_ID, reactionName(args));
    return {};
  },

  'reactions.remove': (context, args) => {
    removeReaction(context, anyMessage(context, args, 'timestamp').message, BOT_USER_ID, reactionName(args));
    return {};
  },

  'reactions.get': (context, args) => {
    const { channel, message } = anyMessage(context, args, 'timestamp');
    return {
      type: 'message',
      channel: channel.id,
      message: messageJson(context.store, message, { metadata: 'omit' }),
    };
  },
};

/** The channel an id, `#name` or person names, provided the bot may write there. */
export function writableChannel(context: SlackContext, name: string): SlackChannel {
  const channel = readableChannel(context, name);
  if (channel.is_archived) throw new SlackRefusal('is_archived');
  return channel;
}

export function readableChannel(context: SlackContext, name: string): SlackChannel {
  const { store } = context;
  const id = name.startsWith('U') ? directMessageId(name) : name;
  const channel =
    store.channel(id) ??
    store.data.channels.find((candidate) => `#${candidate.name}` === name && !candidate.is_im);
  if (!channel) throw new SlackRefusal('channel_not_found');
  if (!channel.members.includes(BOT_USER_ID)) throw new SlackRefusal('not_in_channel');
  return channel;
}

export function authored(channel: string): { channel: string; user: string; botId: string } {
  return { channel, user: BOT_USER_ID, botId: BOT_ID };
}

function outgoing(args: Args, channel: string): NewMessage {
  const text = outgoingText(args);
  const blocks = outgoingBlocks(args);
  const attachments = records(args.json('attachments', 'invalid_attachments'));
  const metadata = outgoingMetadata(args);
  const threadTs = args.string('thread_ts');
  if (!text && !blocks?.length && attachments.length === 0) throw new SlackRefusal('no_text');
  return {
    ...authored(channel),
    text: text ?? '',
    ...(blocks === undefined ? {} : { blocks }),
    ...(attachments.length === 0 ? {} : { attachments }),
    ...(metadata === undefined ? {} : { metadata }),
    ...(threadTs === undefined || threadTs === '' ? {} : { threadTs }),
    ...(args.flag('reply_broadcast') === 'yes' ? { broadcast: true } : {}),
  };
}

function outgoingText(args: Args): string | undefined {
  const text = args.string('text');
  const markdown = args.string('markdown_text');
  if (markdown !== undefined) {
    if (text !== undefined || args.raw.blocks !== undefined) throw new SlackRefusal('markdown_text_conflict');
    if (markdown.length > LIMITS.markdownText) throw new SlackRefusal('msg_too_long');
    return markdown;
  }
  if (text !== undefined && text.length > LIMITS.messageText) throw new SlackRefusal('msg_too_long');
  return text;
}

export function outgoingBlocks(args: Args): Json[] | undefined {
  const blocks = args.json('blocks', 'invalid_blocks_format');
  if (blocks === undefined) return undefined;
  if (!Array.isArray(blocks)) throw new SlackRefusal('invalid_blocks_format');
  const findings = checkBlocks(blocks, LIMITS.blocksPerMessage);
  if (findings.length > 0) throw new SlackRefusal('invalid_blocks', findings);
  if (blockChars(blocks) > LIMITS.blockCharsPerMessage) throw new SlackRefusal('msg_blocks_too_long');
  return records(blocks);
}

export function outgoingMetadata(args: Args): Json | undefined {
  const metadata = args.object('metadata', 'invalid_metadata_format');
  if (metadata === undefined || Object.keys(metadata).length === 0) return metadata;
  if (typeof metadata.event_type !== 'string' || !isRecord(metadata.event_payload)) {
    throw new SlackRefusal('invalid_metadata_schema');
  }
  if (Buffer.byteLength(JSON.stringify(metadata)) > LIMITS.metadataBytes)
    throw new SlackRefusal('metadata_too_large');
  return metadata;
}

function anyMessage(
  context: SlackContext,
  args: Args,
  tsName: string,
): { channel: SlackChannel; message: SlackMessage } {
  const channel = readableChannel(context, args.required('channel', 'channel_not_found'));
  const message = context.store.message(channel.id, args.required(tsName, 'message_not_found'));
  if (!message || message.tombstone) throw new SlackRefusal('message_not_found');
  return { channel, message };
}

export function ownMessage(
  context: SlackContext,
  args: Args,
  refusal: string,
): { channel: SlackChannel; message: SlackMessage } {
  const found = anyMessage(context, args, 'ts');
  if (found.message.bot_id === undefined) throw new SlackRefusal(refusal);
  return found;
}

function reactionName(args: Args): string {
  const name = args.required('name', 'no_reaction').replace(/^:|:$/g, '');
  if (!/^[a-z0-9_+'-]+$/.test(name)) throw new SlackRefusal('invalid_name');
  return name;
}
