/**
 * What a person does on the page, as it arrives from the browser: parsed once, then done through the same acts as everybody else's.
 *
 * Invariant: typed text is escaped before it is a message; only what the page completes (people, channels) becomes a reference.
 */
import { z } from 'zod';
import type { ActResult, ClickOptions } from '../slack/acts.ts';
import type { LocalSlack } from '../slack/local-slack.ts';
import type { Json } from '../slack/types.ts';
import { markRead } from './state.ts';

export const wishSchema = z.discriminatedUnion('kind', [
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
  z.object({
    kind: z.literal('read'),
    as: z.string(),
    channel: z.string(),
    thread: z.string().optional(),
    ts: z.string().regex(/^\d{1,12}\.\d{6}$/),
  }),
  z.object({ kind: z.literal('dismiss'), as: z.string(), channel: z.string(), ts: z.string() }),
]);

export type Wish = z.infer<typeof wishSchema>;

/** Does it, as the person named. Throws SlackRefusal in Slack's words when Slack's own client could not. */
export async function perform(slack: LocalSlack, wish: Wish): Promise<ActResult | Json> {
  const { acts } = slack;
  const { store } = slack.context;
  switch (wish.kind) {
    case 'say': {
      const [, command, args = ''] = /^(\/[a-z][a-z0-9_-]*)(?:\s+([\s\S]*))?$/.exec(wish.text.trim()) ?? [];
      if (command !== undefined) return acts.command(wish.as, wish.channel, command, args);
      const message = acts.say(
        wish.as,
        wish.channel,
        asTyped(slack, wish.text),
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
    case 'read':
      if (store.channel(wish.channel)?.members.includes(wish.as)) markRead(store, wish.as, wish);
      return {};
    case 'dismiss':
      store.data.ephemerals = store.data.ephemerals.filter(
        (message) =>
          message.audience !== wish.as || message.ts !== wish.ts || message.channel !== wish.channel,
      );
      store.touch();
      return {};
    default: {
      const unreachable: never = wish;
      return unreachable;
    }
  }
}

/** Typed text as Slack's client sends it: special characters escaped, `@name` and `#channel` turned into references. */
function asTyped({ context }: LocalSlack, typed: string): string {
  const { users, channels } = context.store.data;
  const references = [
    ...users.map((user) => ({ sign: '@', name: user.name, becomes: `<@${user.id}>` })),
    ...channels
      .filter((channel) => !channel.is_im)
      .map((channel) => ({ sign: '#', name: channel.name, becomes: `<#${channel.id}>` })),
  ].toSorted((a, b) => b.name.length - a.name.length);
  let text = typed.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
  for (const { sign, name, becomes } of references) {
    const escaped = name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
    text = text.replace(new RegExp(`(^|[^\\w@#<])${sign}${escaped}(?![\\w-])`, 'gi'), `$1${becomes}`);
  }
  return text;
}
