/**
 * What one person's client may know: their channels, their messages, their private ones, their windows, what they have not read.
 *
 * Invariant: nothing of another person's direct messages, ephemeral messages or modals is in it; of other people it says only how
 * many messages name them, so that whoever plays all four roles sees where to look next.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { BOT_NAME, BOT_USER_ID } from '../slack/seed.ts';
import type { SlackStore } from '../slack/store.ts';
import {
  isRecord,
  type Json,
  records,
  type SlackChannel,
  type SlackMessage,
  type SlackUser,
} from '../slack/types.ts';
import { homeView, modalStack } from '../slack/views.ts';
import { messageJson, viewJson } from '../slack/wire.ts';

/** Enough to scroll through; the whole history is in the Web API. */
const MESSAGES_PER_CHANNEL = 300;
const MANIFEST = join(import.meta.dirname, '../../../manifest.json');

/** People who can be played here. */
export function playable(store: SlackStore): SlackUser[] {
  return store.data.users.filter((user) => !user.is_bot && !user.deleted);
}

export function stateFor(store: SlackStore, me: SlackUser): Json {
  const people = playable(store);
  const channels = channelsOf(store, me.id);
  const home = homeView(store, me.id);
  const shown = (message: SlackMessage): Json => ({
    ...messageJson(store, message, { metadata: 'omit' }),
    inputs: store.data.inputs[`${me.id}:${message.channel}:${message.ts}`] ?? {},
  });
  return {
    revision: store.revision,
    me: me.id,
    connected: store.data.eventsUrl !== null,
    people: people.map(({ id, name, is_restricted }) => ({
      id,
      name,
      guest: is_restricted,
      waiting: unreadOf(store, id).reduce((sum, one) => sum + one.mentions, 0),
    })),
    names: Object.fromEntries(store.data.users.map((user) => [user.id, user.name])),
    bot: { id: BOT_USER_ID, name: BOT_NAME },
    commands: slashCommands(),
    channels: channels.map(({ id, name, is_im, is_archived }) => ({
      id,
      name: is_im ? BOT_NAME : name,
      is_im,
      is_archived,
      read: store.data.reads?.[readKey(me.id, id)] ?? '',
    })),
    unread: unreadOf(store, me.id),
    messages: Object.fromEntries(
      channels.map((channel) => [
        channel.id,
        recent(store, channel.id).map((message) => ({
          ...shown(message),
          broadcast: message.broadcast === true,
        })),
      ]),
    ),
    ephemerals: store.data.ephemerals
      .filter((message) => message.audience === me.id)
      .slice(-MESSAGES_PER_CHANNEL)
      .map((message) => ({ ...shown(message), channel: message.channel, ephemeral: true })),
    views: modalStack(store, me.id).map(viewJson),
    home: home ? viewJson(home) : null,
  };
}

/** Remembers how far a person has read a channel, or one of its threads. Never goes back. */
export function markRead(
  store: SlackStore,
  userId: string,
  place: { readonly channel: string; readonly thread?: string | undefined; readonly ts: string },
): void {
  store.data.reads ??= {};
  const key = readKey(userId, place.channel, place.thread);
  if ((store.data.reads[key] ?? '') >= place.ts) return;
  store.data.reads[key] = place.ts;
  store.touch();
}

/** What somebody has not read of a channel (`thread` null) or of a thread they follow. */
interface Unread {
  readonly channel: string;
  readonly thread: string | null;
  readonly count: number;
  /** How many of them name this person, or are written to them alone. */
  readonly mentions: number;
  readonly latest: string;
  readonly follows: boolean;
}

/** One entry per channel with something new, and one per followed thread, read or not. */
function unreadOf(store: SlackStore, userId: string): Unread[] {
  return channelsOf(store, userId).flatMap((channel) => {
    const messages = recent(store, channel.id).filter((message) => !message.tombstone);
    const roots = messages.filter((message) => isRoot(message));
    const replies = Map.groupBy(
      messages.filter((message) => message.thread_ts !== undefined && message.thread_ts !== message.ts),
      (message) => String(message.thread_ts),
    );
    const count = (list: readonly SlackMessage[], thread: string | null): Unread => {
      const readTo = store.data.reads?.[readKey(userId, channel.id, thread ?? undefined)] ?? '';
      const fresh = list.filter((message) => message.ts > readTo && message.user !== userId);
      return {
        channel: channel.id,
        thread,
        count: fresh.length,
        mentions: fresh.filter((message) => channel.is_im || named(message).has(userId)).length,
        latest: list.at(-1)?.ts ?? '',
        follows: thread !== null,
      };
    };
    const threads = [...replies].flatMap(([ts, list]) => {
      const root = messages.find((message) => message.ts === ts);
      const whole = root ? [root, ...list] : list;
      const follows = whole.some((message) => message.user === userId || named(message).has(userId));
      return follows || channel.is_im ? [count(list, ts)] : [];
    });
    const own = count(roots, null);
    return own.count > 0 ? [own, ...threads] : threads;
  });
}

function isRoot(message: SlackMessage): boolean {
  return message.thread_ts === undefined || message.thread_ts === message.ts || message.broadcast === true;
}

function channelsOf(store: SlackStore, userId: string): SlackChannel[] {
  return store.data.channels.filter((channel) => channel.members.includes(userId));
}

function recent(store: SlackStore, channel: string): SlackMessage[] {
  return store.data.messages.filter((message) => message.channel === channel).slice(-MESSAGES_PER_CHANNEL);
}

/** The people a message names, wherever in it; kept per content, because every hint asks for all of them. */
function named(message: SlackMessage): ReadonlySet<string> {
  const kept = NAMED.get(message);
  if (kept && kept.blocks === message.blocks && kept.text === message.text) return kept.people;
  const words = `${message.text}${JSON.stringify(message.blocks ?? [])}`;
  const people = new Set([...words.matchAll(/<@([UW][A-Z0-9]+)/g)].map(([, id]) => String(id)));
  NAMED.set(message, { blocks: message.blocks, text: message.text, people });
  return people;
}
const NAMED = new WeakMap<
  SlackMessage,
  { blocks: Json[] | undefined; text: string; people: ReadonlySet<string> }
>();

function readKey(userId: string, channel: string, thread?: string): string {
  return thread === undefined ? `${userId}:${channel}` : `${userId}:${channel}:${thread}`;
}

/** The slash commands of the app's manifest, which is what Slack offers people too. */
function slashCommands(): Json[] {
  const manifest: unknown = JSON.parse(readFileSync(MANIFEST, 'utf8'));
  const features = isRecord(manifest) && isRecord(manifest.features) ? manifest.features : {};
  return records(features.slash_commands).map(({ command, description, usage_hint }) => ({
    command,
    description: description ?? '',
    hint: usage_hint ?? '',
  }));
}
