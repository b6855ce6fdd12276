/**
 * The workspace a newcomer finds: four people by role, the bot, two channels, a direct message each.
 * Ids are fixed, so that tests, policies and documentation can name them.
 */
import type { SlackChannel, SlackData, SlackUser } from './types.ts';

export const TEAM_ID = 'T0LOCAL';
export const APP_ID = 'A0COUNTERSIGN';
export const BOT_ID = 'B0COUNTERSIGN';
export const BOT_USER_ID = 'U0COUNTERSGN';
export const BOT_NAME = 'Countersign';

/** What the app is subscribed to unless `/control/connect` says otherwise. */
export const DEFAULT_SUBSCRIPTIONS: readonly string[] = [
  'app_home_opened',
  'app_mention',
  'message.channels',
  'message.im',
  'reaction_added',
];

/** What the bot's token may do, sent as `x-oauth-scopes` like Slack does. */
export const SCOPES =
  'app_mentions:read,channels:history,channels:read,chat:write,commands,files:write,im:history,im:read,im:write,' +
  'reactions:read,reactions:write,users:read';

export function makeUser(
  id: string,
  name: string,
  teamId: string,
  overrides: Partial<SlackUser> = {},
): SlackUser {
  return {
    id,
    team_id: teamId,
    name,
    deleted: false,
    is_bot: false,
    is_restricted: false,
    is_ultra_restricted: false,
    is_stranger: false,
    is_admin: false,
    tz: 'Etc/UTC',
    tz_offset: 0,
    ...overrides,
  };
}

export function seed(teamId: string, nowMs: number): SlackData {
  const created = Math.floor(nowMs / 1000);
  const users = [
    makeUser('U0REQUESTER', 'requester', teamId),
    makeUser('U0REVIEWERA', 'reviewer-a', teamId),
    makeUser('U0REVIEWERB', 'reviewer-b', teamId),
    makeUser('U0GUEST', 'guest', teamId, { is_restricted: true }),
    makeUser(BOT_USER_ID, BOT_NAME, teamId, { is_bot: true }),
  ];
  const everyone = users.map((user) => user.id);
  const channel = (id: string, name: string, members: string[], is_im: boolean): SlackChannel => ({
    id,
    name,
    is_im,
    is_archived: false,
    created,
    members,
  });
  return {
    format: 1,
    lastTsMicros: 0,
    lastId: 0,
    eventsUrl: null,
    subscriptions: [...DEFAULT_SUBSCRIPTIONS],
    users,
    channels: [
      channel('C0GENERAL', 'general', [...everyone], false),
      channel('C0ENG', 'engineering', [...everyone], false),
      ...users
        .filter((user) => !user.is_bot)
        .map((user) => channel(directMessageId(user.id), '', [user.id, BOT_USER_ID], true)),
    ],
    messages: [],
    ephemerals: [],
    views: [],
    triggers: [],
    responseUrls: [],
    deliveries: [],
    faults: [],
    files: [],
    inputs: {},
  };
}

/** The direct message between a person and the bot: `U0GUEST` → `D0GUEST`. */
export function directMessageId(userId: string): string {
  return `D${userId.slice(1)}`;
}
