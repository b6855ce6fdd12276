/** How the local Slack's state looks over the wire: the JSON of users, channels, messages and views. */
import { APP_ID, BOT_ID, BOT_NAME, BOT_USER_ID, TEAM_ID } from './seed.ts';
import type { SlackStore } from './store.ts';
import type { Json, OpenView, SlackChannel, SlackMessage, SlackUser } from './types.ts';

export function userJson(user: SlackUser): Json {
  return {
    id: user.id,
    team_id: user.team_id,
    name: user.name.toLowerCase(),
    deleted: user.deleted,
    real_name: user.name,
    tz: user.tz,
    tz_label: user.tz,
    tz_offset: user.tz_offset,
    profile: {
      real_name: user.name,
      display_name: user.name,
      team: user.team_id,
      ...(user.is_bot ? { api_app_id: APP_ID, bot_id: BOT_ID } : {}),
    },
    is_admin: user.is_admin,
    is_owner: false,
    is_primary_owner: false,
    is_restricted: user.is_restricted,
    is_ultra_restricted: user.is_ultra_restricted,
    is_bot: user.is_bot,
    is_app_user: false,
    is_stranger: user.is_stranger,
    updated: 0,
  };
}

export function channelJson(channel: SlackChannel): Json {
  const common = { id: channel.id, created: channel.created, is_archived: channel.is_archived };
  if (channel.is_im) {
    return {
      ...common,
      is_im: true,
      is_org_shared: false,
      user: channel.members.find((member) => member !== BOT_USER_ID),
      is_user_deleted: false,
    };
  }
  return {
    ...common,
    name: channel.name,
    name_normalized: channel.name,
    is_channel: true,
    is_group: false,
    is_im: false,
    is_mpim: false,
    is_private: false,
    is_general: channel.id === 'C0GENERAL',
    is_shared: false,
    is_ext_shared: false,
    is_org_shared: false,
    is_member: channel.members.includes(BOT_USER_ID),
    num_members: channel.members.length,
    topic: { value: '', creator: '', last_set: 0 },
    purpose: { value: '', creator: '', last_set: 0 },
    context_team_id: TEAM_ID,
  };
}

export function messageJson(
  store: SlackStore,
  message: SlackMessage,
  options: { metadata: 'include' | 'omit' },
): Json {
  if (message.tombstone) {
    return {
      type: 'message',
      subtype: 'tombstone',
      user: 'USLACKBOT',
      text: 'This message was deleted.',
      ts: message.ts,
      hidden: true,
      ...threadJson(store, message),
    };
  }
  return {
    type: 'message',
    ...(message.broadcast ? { subtype: 'thread_broadcast' } : {}),
    user: message.user,
    text: message.text,
    ts: message.ts,
    team: store.user(message.user)?.team_id ?? TEAM_ID,
    ...(message.bot_id === undefined
      ? {}
      : {
          bot_id: message.bot_id,
          app_id: APP_ID,
          bot_profile: {
            id: BOT_ID,
            app_id: APP_ID,
            user_id: BOT_USER_ID,
            name: BOT_NAME,
            deleted: false,
            team_id: TEAM_ID,
          },
        }),
    ...(message.blocks && message.blocks.length > 0 ? { blocks: message.blocks } : {}),
    ...(message.attachments && message.attachments.length > 0 ? { attachments: message.attachments } : {}),
    ...(message.files && message.files.length > 0 ? { files: message.files } : {}),
    ...(message.streaming ? { streaming_state: 'in_progress' } : {}),
    ...(message.edited ? { edited: message.edited } : {}),
    ...(options.metadata === 'include' && message.metadata ? { metadata: message.metadata } : {}),
    ...(message.reactions.length > 0
      ? { reactions: message.reactions.map((reaction) => ({ ...reaction, count: reaction.users.length })) }
      : {}),
    ...threadJson(store, message),
  };
}

function threadJson(store: SlackStore, message: SlackMessage): Json {
  if (message.audience !== undefined) return message.thread_ts ? { thread_ts: message.thread_ts } : {};
  if (message.thread_ts !== undefined && message.thread_ts !== message.ts) {
    const parent = store.message(message.channel, message.thread_ts);
    return { thread_ts: message.thread_ts, ...(parent ? { parent_user_id: parent.user } : {}) };
  }
  const replies = store.repliesTo(message.channel, message.ts);
  const latest = replies.at(-1);
  if (!latest) return {};
  const users = [...new Set(replies.map((reply) => reply.user))];
  return {
    thread_ts: message.ts,
    reply_count: replies.length,
    reply_users_count: users.length,
    reply_users: users.slice(0, 5),
    latest_reply: latest.ts,
    is_locked: false,
    subscribed: true,
  };
}

export function viewJson(open: OpenView): Json {
  const { view } = open;
  return {
    id: open.id,
    team_id: TEAM_ID,
    type: open.type,
    blocks: view.blocks ?? [],
    private_metadata: view.private_metadata ?? '',
    callback_id: view.callback_id ?? '',
    state: { values: open.values },
    hash: open.hash,
    title: view.title ?? { type: 'plain_text', text: 'View Title', emoji: true },
    clear_on_close: view.clear_on_close ?? false,
    notify_on_close: view.notify_on_close ?? false,
    close: view.close ?? null,
    submit: view.submit ?? null,
    previous_view_id: open.previousId,
    root_view_id: open.rootId,
    app_id: APP_ID,
    external_id: view.external_id ?? '',
    app_installed_team_id: TEAM_ID,
    bot_id: BOT_ID,
  };
}

/** The person in an interaction payload. */
export function actorJson(user: SlackUser): Json {
  return { id: user.id, username: user.name, name: user.name, team_id: user.team_id };
}
