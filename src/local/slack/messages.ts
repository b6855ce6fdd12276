/**
 * Messages as facts of the workspace, whoever writes them: posting, editing, deleting, reacting, and the events that
 * tell the app about it. A mention reaches the app twice, as `app_mention` and as `message`, with two event ids.
 */
import type { Deliveries } from './deliveries.ts';
import { withIds } from './limits.ts';
import { BOT_USER_ID, TEAM_ID } from './seed.ts';
import type { SlackStore } from './store.ts';
import type { Json, SlackChannel, SlackMessage } from './types.ts';
import { messageJson } from './wire.ts';

/** What every part of the local Slack works with. */
export interface SlackContext {
  readonly store: SlackStore;
  readonly deliveries: Deliveries;
  /** Origin of the world's HTTP server, without a trailing slash. */
  readonly baseUrl: () => string;
}

/** A refusal in Slack's words: `{ok: false, error: code}`. */
export class SlackRefusal extends Error {
  readonly code: string;
  readonly messages: readonly string[];

  constructor(code: string, messages: readonly string[] = []) {
    super(code);
    this.code = code;
    this.messages = messages;
  }
}

export interface NewMessage {
  readonly channel: string;
  readonly user: string;
  readonly botId?: string;
  readonly text: string;
  readonly blocks?: Json[];
  readonly attachments?: Json[];
  readonly files?: Json[];
  readonly metadata?: Json;
  readonly threadTs?: string;
  readonly broadcast?: boolean;
}

/** How many earlier block sets of a message a late click can still find. */
const PRIOR_BLOCKS_KEPT = 10;

export function postMessage(context: SlackContext, message: NewMessage): SlackMessage {
  const { store } = context;
  const threadTs =
    message.threadTs === undefined ? undefined : threadRoot(store, message.channel, message.threadTs);
  const stored = buildMessage(store, message, threadTs);
  store.data.messages.push(stored);
  store.touch();
  const event = messageJson(store, stored, { metadata: 'include' });
  emitMessage(context, stored.channel, { ...event, event_ts: stored.ts });
  const channel = store.channel(stored.channel);
  if (message.botId === undefined && !channel?.is_im && mentionsBot(stored.text) && botSees(channel)) {
    context.deliveries.emit('app_mention', {
      ...event,
      type: 'app_mention',
      channel: stored.channel,
      event_ts: stored.ts,
    });
  }
  return stored;
}

export function postEphemeral(context: SlackContext, message: NewMessage, audience: string): SlackMessage {
  const { store } = context;
  const stored = { ...buildMessage(store, message, message.threadTs), audience };
  store.data.ephemerals.push(stored);
  store.touch();
  return stored;
}

export interface MessageChange {
  readonly text?: string;
  readonly blocks?: Json[];
  readonly attachments?: Json[];
  readonly metadata?: Json;
}

/** Applies an edit. A field that is left out keeps its value. */
export function editMessage(
  context: SlackContext,
  message: SlackMessage,
  change: MessageChange,
  editor: string,
): void {
  const { store } = context;
  const previous = messageJson(store, message, { metadata: 'include' });
  if (change.text !== undefined) message.text = change.text;
  if (change.blocks !== undefined) {
    if (message.blocks)
      message.wasBlocks = [message.blocks, ...(message.wasBlocks ?? [])].slice(0, PRIOR_BLOCKS_KEPT);
    message.blocks = withIds(change.blocks, () => store.nextId('b'));
  }
  if (change.attachments !== undefined) message.attachments = change.attachments;
  if (change.metadata !== undefined) {
    if (Object.keys(change.metadata).length === 0) delete message.metadata;
    else message.metadata = change.metadata;
  }
  const ts = store.nextTs();
  message.edited = { user: editor, ts };
  store.touch();
  if (message.audience !== undefined) return;
  emitMessage(context, message.channel, {
    type: 'message',
    subtype: 'message_changed',
    hidden: true,
    message: messageJson(store, message, { metadata: 'include' }),
    previous_message: previous,
    ts,
    event_ts: ts,
  });
}

export function deleteMessage(context: SlackContext, message: SlackMessage): void {
  const { store } = context;
  const previous = messageJson(store, message, { metadata: 'include' });
  if (message.audience !== undefined) {
    store.data.ephemerals = store.data.ephemerals.filter((candidate) => candidate !== message);
    store.touch();
    return;
  }
  if (store.repliesTo(message.channel, message.ts).length > 0) {
    message.tombstone = true;
    message.text = '';
    message.reactions = [];
    delete message.blocks;
    delete message.metadata;
  } else {
    store.data.messages = store.data.messages.filter((candidate) => candidate !== message);
  }
  const ts = store.nextTs();
  store.touch();
  emitMessage(context, message.channel, {
    type: 'message',
    subtype: 'message_deleted',
    hidden: true,
    deleted_ts: message.ts,
    previous_message: previous,
    ts,
    event_ts: ts,
  });
}

export function addReaction(context: SlackContext, message: SlackMessage, user: string, name: string): void {
  const reaction = message.reactions.find((candidate) => candidate.name === name);
  if (reaction?.users.includes(user)) throw new SlackRefusal('already_reacted');
  if (reaction) reaction.users.push(user);
  else message.reactions.push({ name, users: [user] });
  context.store.touch();
  emitReaction(context, message, user, name, 'reaction_added');
}

export function removeReaction(
  context: SlackContext,
  message: SlackMessage,
  user: string,
  name: string,
): void {
  const reaction = message.reactions.find((candidate) => candidate.name === name);
  if (!reaction?.users.includes(user)) throw new SlackRefusal('no_reaction');
  reaction.users = reaction.users.filter((candidate) => candidate !== user);
  message.reactions = message.reactions.filter((candidate) => candidate.users.length > 0);
  context.store.touch();
  emitReaction(context, message, user, name, 'reaction_removed');
}

function buildMessage(store: SlackStore, message: NewMessage, threadTs: string | undefined): SlackMessage {
  return {
    channel: message.channel,
    ts: store.nextTs(),
    user: message.user,
    ...(message.botId === undefined ? {} : { bot_id: message.botId }),
    text: message.text,
    ...(message.blocks ? { blocks: withIds(message.blocks, () => store.nextId('b')) } : {}),
    ...(message.attachments ? { attachments: message.attachments } : {}),
    ...(message.files ? { files: message.files } : {}),
    ...(message.metadata ? { metadata: message.metadata } : {}),
    ...(threadTs === undefined ? {} : { thread_ts: threadTs }),
    ...(message.broadcast ? { broadcast: true } : {}),
    reactions: [],
  };
}

/** A reply to a reply belongs to the same thread. */
function threadRoot(store: SlackStore, channel: string, ts: string): string {
  const parent = store.message(channel, ts);
  if (!parent) throw new SlackRefusal('thread_not_found');
  return parent.thread_ts ?? parent.ts;
}

function emitMessage(context: SlackContext, channelId: string, event: Json): void {
  const channel = context.store.channel(channelId);
  if (!channel || !botSees(channel)) return;
  context.deliveries.emit(channel.is_im ? 'message.im' : 'message.channels', {
    ...event,
    channel: channelId,
    channel_type: channel.is_im ? 'im' : 'channel',
  });
}

function emitReaction(
  context: SlackContext,
  message: SlackMessage,
  user: string,
  name: string,
  type: string,
): void {
  if (!botSees(context.store.channel(message.channel))) return;
  context.deliveries.emit(type, {
    type,
    user,
    reaction: name,
    item: { type: 'message', channel: message.channel, ts: message.ts },
    item_user: message.user,
    event_ts: context.store.nextTs(),
    team: TEAM_ID,
  });
}

function botSees(channel: SlackChannel | undefined): boolean {
  return channel?.members.includes(BOT_USER_ID) ?? false;
}

function mentionsBot(text: string): boolean {
  return text.includes(`<@${BOT_USER_ID}>`) || text.includes(`<@${BOT_USER_ID}|`);
}
