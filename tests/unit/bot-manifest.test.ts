/**
 * Guarantee: the Slack app that the manifest describes is the one the code is: it subscribes to the events that are
 * listened to, asks for the scopes of the methods that are called and for no other, and sends everything to the one
 * address that is served.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { COMMAND, EVENTS } from '../../src/bot/app.ts';
import { botSources, calledMethods, HIDDEN_CALL } from '../support/slack-methods.ts';

const ROOT = new URL('../../', import.meta.url);
const manifest = z
  .object({
    display_information: z.object({
      name: z.string().max(35),
      description: z.string().max(140),
      long_description: z.string().min(174).max(4_000),
    }),
    features: z.object({
      app_home: z.object({ messages_tab_enabled: z.boolean(), messages_tab_read_only_enabled: z.boolean() }),
      bot_user: z.object({ display_name: z.string().max(80) }),
      slash_commands: z.array(
        z.object({
          command: z.string().startsWith('/').max(32),
          url: z.url(),
          description: z.string().max(2_000),
          usage_hint: z.string().max(1_000),
          should_escape: z.literal(false),
        }),
      ),
    }),
    oauth_config: z.object({ scopes: z.object({ bot: z.array(z.string()) }) }),
    settings: z.object({
      event_subscriptions: z.object({ request_url: z.url(), bot_events: z.array(z.string()) }),
      interactivity: z.object({ is_enabled: z.boolean(), request_url: z.url() }),
      socket_mode_enabled: z.boolean(),
    }),
  })
  .parse(JSON.parse(readFileSync(new URL('manifest.json', ROOT), 'utf8')));

/** Scopes a bot needs per method, from each method's reference page, read November 2026. */
const SCOPES_OF_METHODS: Readonly<Record<string, readonly string[]>> = {
  // With an app-level token, whose scope connections:write stands in no manifest.
  'apps.connections.open': [],
  'auth.test': [],
  'chat.delete': ['chat:write'],
  'chat.postEphemeral': ['chat:write'],
  'chat.postMessage': ['chat:write'],
  'chat.update': ['chat:write'],
  // A delivery may stand in any kind of conversation that people mention the bot in.
  'conversations.history': ['channels:history', 'groups:history', 'im:history', 'mpim:history'],
  'conversations.replies': ['channels:history', 'groups:history', 'im:history', 'mpim:history'],
  'conversations.open': ['im:write'],
  // What a message cannot show whole stands beside it as a file.
  'files.completeUploadExternal': ['files:write'],
  'files.getUploadURLExternal': ['files:write'],
  'reactions.add': ['reactions:write'],
  'users.info': ['users:read'],
  'views.open': [],
  'views.update': [],
};
const SCOPES_OF_EVENTS: Readonly<Record<string, readonly string[]>> = {
  app_mention: ['app_mentions:read'],
  'message.im': ['im:history'],
  // Of the installation itself: no scope.
  app_uninstalled: [],
  tokens_revoked: [],
};

describe('the manifest', () => {
  it('asks for the scopes of what is called and heard, and for no other', () => {
    const methods = calledMethods();
    expect(methods).toEqual(Object.keys(SCOPES_OF_METHODS).sort());

    const needed = [
      ...methods.flatMap((method) => SCOPES_OF_METHODS[method] ?? []),
      ...manifest.settings.event_subscriptions.bot_events.flatMap(
        (event) => SCOPES_OF_EVENTS[event] ?? [event],
      ),
      ...(manifest.features.slash_commands.length > 0 ? ['commands'] : []),
    ];
    expect([...manifest.oauth_config.scopes.bot].sort()).toEqual([...new Set(needed)].sort());
  });

  it('knows of every call, because none hides its method', () => {
    for (const { name, text } of botSources())
      expect([name, text.match(HIDDEN_CALL)?.[0]]).toEqual([name, undefined]);
    // The reading itself: by other names, over lines, with more than one dot.
    const text = 'x.web\n.chat\n.delete({}); this.#c.apps.connections.open(); a.users.profile.get(1)';
    expect(calledMethods([{ name: 'x.ts', text }])).toEqual([
      'apps.connections.open',
      'chat.delete',
      'users.profile.get',
    ]);
  });

  it('subscribes to the events that are listened to', () => {
    const types = manifest.settings.event_subscriptions.bot_events.map((event) => event.split('.')[0]);

    expect([...new Set(types)].sort()).toEqual([...EVENTS].sort());
  });

  it('registers the slash command that is listened to', () => {
    expect(manifest.features.slash_commands.map(({ command }) => command)).toEqual([COMMAND]);
  });

  it('sends events, clicks and commands to the address that is served, over HTTPS', () => {
    for (const address of [
      manifest.settings.event_subscriptions.request_url,
      manifest.settings.interactivity.request_url,
      ...manifest.features.slash_commands.map(({ url }) => url),
    ])
      expect(new URL(address)).toMatchObject({ protocol: 'https:', pathname: '/slack/events' });
    expect(manifest.settings.interactivity.is_enabled).toBe(true);
    expect(manifest.settings.socket_mode_enabled).toBe(false);
  });

  it('lets people write to the bot directly', () => {
    expect(manifest.features.app_home).toMatchObject({
      messages_tab_enabled: true,
      messages_tab_read_only_enabled: false,
    });
  });
});
