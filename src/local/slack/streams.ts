/**
 * The streaming methods `chat.startStream`, `chat.appendStream`, `chat.stopStream`: a message that grows while the app
 * writes, and is an ordinary message afterwards.
 *
 * Limits and error names from docs.slack.dev/reference/methods/chat.*Stream, read November 2026; that Slack ends a
 * stream by itself five minutes after its start is not documented but reported by everybody who runs long ones
 * (slackapi/python-slack-sdk issue 1859), and such a stream answers `message_not_in_streaming_state`.
 */
import type { Args } from './args.ts';
import { authored, type Method, outgoingMetadata, ownMessage, writableChannel } from './chat-methods.ts';
import { checkBlocks, LIMITS, withIds } from './limits.ts';
import { postMessage, type SlackContext, SlackRefusal } from './messages.ts';
import { isRecord, type Json, records, type SlackMessage, text } from './types.ts';
import { messageJson } from './wire.ts';

const STREAM_LIFE_MS = 5 * 60_000;
const CHUNKS = new Set(['markdown_text', 'task_update', 'plan_update', 'blocks']);
const TASK_STATUSES = new Set(['pending', 'in_progress', 'complete', 'error']);

export const streamMethods: Record<string, Method> = {
  'chat.startStream': (context, args) => {
    const channel = writableChannel(context, args.required('channel', 'channel_not_found'));
    const threadTs = args.string('thread_ts');
    if (!channel.is_im) {
      if (!args.string('recipient_team_id')) throw new SlackRefusal('missing_recipient_team_id');
      const recipient = args.string('recipient_user_id');
      if (!recipient) throw new SlackRefusal('missing_recipient_user_id');
      if (!context.store.user(recipient)) throw new SlackRefusal('user_not_found');
    }
    const added = chunksIn(args);
    const message = postMessage(context, {
      ...authored(channel.id),
      text: '',
      ...(threadTs ? { threadTs } : {}),
    });
    message.streaming = { startedAtMs: Date.now(), blocks: [] };
    grow(context, message, added);
    return { channel: channel.id, ts: message.ts };
  },

  'chat.appendStream': (context, args) => {
    const message = streamed(context, args);
    const added = chunksIn(args);
    if (added.length === 0) throw new SlackRefusal('no_text');
    grow(context, message, added);
    return { channel: message.channel, ts: message.ts };
  },

  'chat.stopStream': (context, args) => {
    const message = streamed(context, args);
    const blocks = args.json('blocks', 'invalid_blocks_format');
    if (blocks !== undefined) {
      const findings = checkBlocks(blocks, LIMITS.blocksPerMessage);
      if (findings.length > 0) throw new SlackRefusal('invalid_blocks', findings);
    }
    const metadata = outgoingMetadata(args);
    grow(context, message, [...chunksIn(args), ...records(blocks).map(asBlock)]);
    if (metadata !== undefined) message.metadata = metadata;
    endStream(context, message);
    return {
      channel: message.channel,
      ts: message.ts,
      message: messageJson(context.store, message, { metadata: 'include' }),
    };
  },
};

/** What a person's Stop button does, and what five minutes do: the app learns of it at its next call. */
export function interruptStream(context: SlackContext, message: SlackMessage, how: 'stop' | 'expire'): void {
  if (!message.streaming) throw new SlackRefusal('message_not_in_streaming_state');
  if (how === 'stop') message.streaming.isStopped = true;
  else endStream(context, message);
  context.store.touch();
}

/** The bot's own message in the middle of its stream. */
function streamed(context: SlackContext, args: Args): SlackMessage {
  const { message } = ownMessage(context, args, 'message_not_owned_by_app');
  const { streaming } = message;
  if (!streaming) throw new SlackRefusal('message_not_in_streaming_state');
  if (streaming.isStopped) {
    endStream(context, message);
    throw new SlackRefusal('stopped_by_user');
  }
  if (Date.now() - streaming.startedAtMs > STREAM_LIFE_MS) {
    endStream(context, message);
    throw new SlackRefusal('message_not_in_streaming_state');
  }
  return message;
}

/** From here on the message is like any other: the app may update it, and is told of nothing more. */
function endStream(context: SlackContext, message: SlackMessage): void {
  delete message.streaming;
  context.store.touch();
}

/** Everything is checked before anything is added: a refused call changes nothing. */
function chunksIn(args: Args): Json[] {
  const markdown = args.string('markdown_text');
  if (markdown !== undefined && markdown.length > LIMITS.markdownText) throw new SlackRefusal('msg_too_long');
  const given = args.json('chunks', 'invalid_chunks');
  if (given !== undefined && !Array.isArray(given)) throw new SlackRefusal('invalid_chunks');
  const chunks = [
    ...(markdown ? [{ type: 'markdown_text', text: markdown }] : []),
    ...(Array.isArray(given) ? given : []),
  ];
  return chunks.map((chunk: unknown) => {
    if (!isRecord(chunk) || !CHUNKS.has(String(chunk.type))) throw new SlackRefusal('invalid_chunks');
    switch (chunk.type) {
      case 'markdown_text': {
        const words = text(chunk.text);
        if (words === undefined) throw new SlackRefusal('invalid_chunks');
        if (words.length > LIMITS.markdownText) throw new SlackRefusal('msg_too_long');
        return chunk;
      }
      case 'task_update':
        if (!text(chunk.id) || !text(chunk.title) || !TASK_STATUSES.has(String(chunk.status)))
          throw new SlackRefusal('invalid_chunks');
        return chunk;
      case 'plan_update':
        if (!text(chunk.title)) throw new SlackRefusal('invalid_chunks');
        return chunk;
      default: {
        const findings = checkBlocks(chunk.blocks, LIMITS.blocksPerMessage);
        if (findings.length > 0) throw new SlackRefusal('invalid_blocks', findings);
        return chunk;
      }
    }
  });
}

function asBlock(block: Json): Json {
  return { type: 'blocks', blocks: [block] };
}

/** Adds what came to what is shown: text runs on, a task already shown changes in place. */
function grow(context: SlackContext, message: SlackMessage, chunks: readonly Json[]): void {
  const { streaming } = message;
  if (!streaming) throw new SlackRefusal('message_not_in_streaming_state');
  const blocks = structuredClone(streaming.blocks);
  for (const chunk of chunks) {
    const last = blocks.at(-1);
    switch (chunk.type) {
      case 'markdown_text':
        if (last?.type === 'markdown') last.text = `${String(last.text)}${String(chunk.text)}`;
        else blocks.push({ type: 'markdown', text: chunk.text });
        break;
      case 'task_update': {
        const { type: _, id, ...task } = chunk;
        const shown = blocks.find((block) => block.type === 'task_card' && block.task_id === id);
        if (shown) Object.assign(shown, task);
        else blocks.push({ type: 'task_card', task_id: id, ...task });
        break;
      }
      case 'plan_update': {
        const shown = blocks.find((block) => block.type === 'plan');
        if (shown) shown.title = chunk.title;
        else blocks.unshift({ type: 'plan', title: chunk.title });
        break;
      }
      default:
        blocks.push(...records(chunk.blocks));
    }
  }
  const words = blocks.flatMap((block) => (block.type === 'markdown' ? [String(block.text)] : [])).join('');
  if (words.length > LIMITS.messageText) throw new SlackRefusal('msg_too_long');
  streaming.blocks = withIds(blocks, () => context.store.nextId('b'));
  message.blocks = streaming.blocks;
  message.text = words;
  context.store.touch();
}
