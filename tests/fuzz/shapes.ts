/**
 * What Slack sends, as it looks on the wire: one shape of every kind we know, fields that we do not read included. The fuzz changes them.
 *
 * Invariant, on which the judge relies: nobody who may decide ever presses a button that would count. A reference that is real is pressed
 * by people who may not decide, or opens Details; a reviewer's references are forged in one part at least.
 */
import { CLICKS, VIEWS } from '../../src/bot/buttons.ts';

/** What is real in the product under test, for references to be forged from. */
export interface Real {
  readonly deployment: string;
  /** A request that waits for a decision. */
  readonly request: string;
  readonly actionHash: string;
  /** Its message: a click from anywhere else counts for nothing. */
  readonly card: { readonly channel: string; readonly ts: string; readonly thread: string };
}

export type Fields = Record<string, unknown>;
/** `form`: the fields stand in a form by themselves; `payload`: as JSON in its field of that name. */
export interface Shape {
  readonly name: string;
  readonly encoding: 'json' | 'payload' | 'form';
  /** `unique` makes ids and times that no other has. */
  readonly make: (unique: number, real: Real) => Fields;
}

const TEAM = 'T0LOCAL';
const CHANNEL = 'C0ENG';
const ASKERS = ['U0REQUESTER', 'U0GUEST', 'U0NOBODY', 'U0GUEST'];
/** None of these may decide on what the requester asked for. */
const UNENTITLED = ['U0REQUESTER', 'U0GUEST', 'U0NOBODY', 'U0COUNTERSGN'];
const REVIEWERS = ['U0REVIEWERA', 'U0REVIEWERB'];

const pick = <T>(from: readonly [T, ...T[]] | readonly T[], unique: number): T =>
  from[unique % from.length] as T;
const timeOf = (unique: number) =>
  `${1_800_000_000 + (unique % 100_000_000)}.${String(unique % 1_000_000).padStart(6, '0')}`;

function event(unique: number, over: Fields, outer: Fields = {}): Fields {
  return {
    token: 'legacy-verification-token',
    team_id: TEAM,
    context_team_id: TEAM,
    context_enterprise_id: null,
    api_app_id: 'A0LOCAL',
    event: {
      type: 'app_mention',
      user: pick(ASKERS, unique),
      client_msg_id: `5a1c-${unique}`,
      team: TEAM,
      channel: CHANNEL,
      ts: timeOf(unique),
      event_ts: timeOf(unique),
      text: '<@U0COUNTERSGN> look &amp; say what you see <https://example.com|here>',
      blocks: [
        {
          type: 'rich_text',
          block_id: 'b1',
          elements: [{ type: 'rich_text_section', elements: [{ type: 'user', user_id: 'U0COUNTERSGN' }] }],
        },
      ],
      ...over,
    },
    type: 'event_callback',
    event_id: `Ev${unique}`,
    event_time: 1_800_000_000,
    authorizations: [
      {
        enterprise_id: null,
        team_id: TEAM,
        user_id: 'U0COUNTERSGN',
        is_bot: true,
        is_enterprise_install: false,
      },
    ],
    is_ext_shared_channel: false,
    event_context: `4-${unique}`,
    ...outer,
  };
}

/** In a direct message, which is where we take messages from. */
function direct(unique: number, over: Fields): Fields {
  const user = pick(ASKERS, unique);
  return event(unique, {
    type: 'message',
    user,
    channel: `D0${user.slice(2)}`,
    channel_type: 'im',
    text: 'what is open?',
    ...over,
  });
}

const message = (unique: number) => ({
  type: 'message',
  user: 'U0REQUESTER',
  ts: timeOf(unique),
  text: 'before',
  team: TEAM,
});

const SUBTYPES = [
  'bot_message',
  'me_message',
  'channel_join',
  'channel_leave',
  'channel_topic',
  'channel_purpose',
  'channel_name',
  'channel_archive',
  'group_join',
  'file_share',
  'thread_broadcast',
  'reply_broadcast',
  'pinned_item',
  'ekm_access_denied',
  'assistant_app_thread',
] as const;
const OTHER_EVENTS: readonly Fields[] = [
  {
    type: 'reaction_added',
    reaction: 'white_check_mark',
    item: { type: 'message', channel: CHANNEL, ts: '1.1' },
    item_user: 'U0COUNTERSGN',
  },
  { type: 'app_home_opened', tab: 'home', channel: 'D0REQUESTER' },
  { type: 'member_joined_channel', channel_type: 'C' },
  { type: 'channel_archive' },
  { type: 'channel_deleted' },
  { type: 'channel_left' },
  { type: 'user_change', user: { id: 'U0REQUESTER', deleted: true } },
  { type: 'team_join', user: { id: 'U0NEW' } },
  { type: 'link_shared', links: [{ url: 'https://example.com', domain: 'example.com' }] },
  {
    type: 'assistant_thread_started',
    assistant_thread: { user_id: 'U0REQUESTER', channel_id: 'D0REQUESTER', thread_ts: '1.1' },
  },
];

/** Forged in one part; every kind of part in its turn. */
function forged(unique: number, real: Real): Fields {
  const good = { d: real.deployment, r: real.request, h: real.actionHash };
  const part = pick(
    [
      { d: '019a0000-0000-7000-8000-000000000000' },
      { d: '' },
      { r: '019a0000-0000-7000-8000-000000000000' },
      { r: 'not-an-id' },
      { r: `${real.request}'; drop table inbox; --` },
      { r: '../../etc' },
      { r: 'toString' },
      { r: real.actionHash },
      { r: 'x'.repeat(199) },
      { h: '0'.repeat(64) },
      { h: real.actionHash.toUpperCase().replace(/^./, 'Z') },
      { h: '-' },
      { p: -1 },
      { extra: true },
    ] as Fields[],
    unique,
  );
  return { ...good, ...part };
}

function click(
  unique: number,
  user: string,
  actionId: string,
  value: unknown,
  card: Real['card'],
  over: Fields = {},
): Fields {
  return {
    type: 'block_actions',
    api_app_id: 'A0LOCAL',
    token: 'legacy-verification-token',
    team: { id: TEAM, domain: 'local' },
    enterprise: null,
    is_enterprise_install: false,
    user: { id: user, username: 'somebody', name: 'somebody', team_id: TEAM },
    trigger_id: `${unique}.2.abc`,
    response_url: 'https://hooks.slack.com/actions/T0LOCAL/1/secret',
    container: {
      type: 'message',
      message_ts: card.ts,
      channel_id: card.channel,
      is_ephemeral: false,
      thread_ts: card.thread,
    },
    channel: { id: card.channel, name: 'engineering' },
    message: {
      type: 'message',
      bot_id: 'B0COUNTERSGN',
      ts: card.ts,
      thread_ts: card.thread,
      text: 'card',
      blocks: [],
    },
    state: { values: {} },
    actions: [
      {
        type: 'button',
        action_id: actionId,
        block_id: 'b1',
        text: { type: 'plain_text', text: 'Approve', emoji: true },
        value: typeof value === 'string' ? value : JSON.stringify(value),
        action_ts: timeOf(unique),
      },
    ],
    ...over,
  };
}

function submission(
  unique: number,
  user: string,
  callbackId: string,
  metadata: Fields,
  reason: string,
): Fields {
  return {
    type: 'view_submission',
    api_app_id: 'A0LOCAL',
    token: 'legacy-verification-token',
    team: { id: TEAM, domain: 'local' },
    user: { id: user, username: 'somebody', name: 'somebody', team_id: TEAM },
    trigger_id: `${unique}.3.abc`,
    view: {
      id: `V${unique}`,
      team_id: TEAM,
      type: 'modal',
      blocks: [],
      callback_id: callbackId,
      private_metadata: JSON.stringify(metadata),
      state: { values: { reason: { 'reason.text': { type: 'plain_text_input', value: reason } } } },
      hash: `1.${unique}`,
      title: { type: 'plain_text', text: 'Reject' },
      app_id: 'A0LOCAL',
      bot_id: 'B0COUNTERSGN',
    },
    response_urls: [],
    is_enterprise_install: false,
    enterprise: null,
  };
}

const BUTTONS = Object.values(CLICKS);
const FORMS = Object.values(VIEWS);
const realReference = (real: Real) => ({ d: real.deployment, r: real.request, h: real.actionHash });
const modalReference = (real: Real) => ({
  ...realReference(real),
  c: real.card.channel,
  t: real.card.ts,
  th: real.card.thread,
});

export const SHAPES: readonly Shape[] = [
  { name: 'mention', encoding: 'json', make: (unique) => event(unique, {}) },
  {
    name: 'mention in a thread',
    encoding: 'json',
    make: (unique) => event(unique, { thread_ts: timeOf(unique + 1), parent_user_id: 'U0REQUESTER' }),
  },
  { name: 'direct message', encoding: 'json', make: (unique) => direct(unique, {}) },
  {
    name: 'twin of a mention',
    encoding: 'json',
    make: (unique) => event(unique, { type: 'message', channel_type: 'channel' }),
  },
  {
    name: 'edit',
    encoding: 'json',
    make: (unique) =>
      direct(unique, {
        subtype: 'message_changed',
        hidden: true,
        message: { ...message(unique), edited: { user: 'U0REQUESTER', ts: '2.1' } },
        previous_message: message(unique),
      }),
  },
  {
    name: 'edited mention',
    encoding: 'json',
    make: (unique) => event(unique, { edited: { user: 'U0REQUESTER', ts: '2.1' } }),
  },
  {
    name: 'deletion',
    encoding: 'json',
    make: (unique) =>
      direct(unique, {
        subtype: 'message_deleted',
        hidden: true,
        deleted_ts: timeOf(unique),
        previous_message: message(unique),
      }),
  },
  {
    name: 'message of a bot',
    encoding: 'json',
    make: (unique) =>
      direct(unique, { bot_id: 'B0OTHER', bot_profile: { id: 'B0OTHER', name: 'other' }, app_id: 'A0OTHER' }),
  },
  {
    name: 'own message',
    encoding: 'json',
    make: (unique) => direct(unique, { user: 'U0COUNTERSGN', bot_id: 'B0COUNTERSGN' }),
  },
  {
    name: 'subtype',
    encoding: 'json',
    make: (unique) => direct(unique, { subtype: pick(SUBTYPES, unique) }),
  },
  {
    name: 'other event',
    encoding: 'json',
    make: (unique) => event(unique, structuredClone(pick(OTHER_EVENTS, unique))),
  },
  {
    name: 'end of the installation',
    encoding: 'json',
    make: (unique) =>
      event(unique, {
        type: pick(['app_uninstalled', 'tokens_revoked'], unique),
        tokens: { oauth: ['U0REQUESTER'], bot: ['U0COUNTERSGN'] },
      }),
  },
  {
    name: 'mention from elsewhere',
    encoding: 'json',
    make: (unique) => event(unique, { user_team: 'T0ELSEWHERE' }, { is_ext_shared_channel: true }),
  },
  {
    name: 'mention of another installation',
    encoding: 'json',
    make: (unique) =>
      event(
        unique,
        {},
        {
          team_id: 'T0OTHER',
          authorizations: [
            { enterprise_id: 'E0OTHER', team_id: 'T0OTHER', user_id: 'U0BOT', is_enterprise_install: true },
          ],
        },
      ),
  },
  {
    name: 'outer notice',
    encoding: 'json',
    make: (unique) => ({
      token: 't',
      type: pick(['url_verification', 'app_rate_limited', 'tomorrow'], unique),
      challenge: `c${unique}`,
      team_id: TEAM,
      minute_rate_limited: 1,
    }),
  },
  {
    name: 'a click by nobody entitled',
    encoding: 'payload',
    make: (unique, real) =>
      click(unique, pick(UNENTITLED, unique), pick(BUTTONS, unique), realReference(real), real.card),
  },
  {
    name: 'a forged click of a reviewer',
    encoding: 'payload',
    make: (unique, real) =>
      click(unique, pick(REVIEWERS, unique), pick(BUTTONS, unique >> 4), forged(unique, real), real.card),
  },
  {
    name: 'a look into Details',
    encoding: 'payload',
    make: (unique, real) =>
      click(unique, pick(REVIEWERS, unique), CLICKS.details, realReference(real), real.card),
  },
  {
    name: 'a page of Details',
    encoding: 'payload',
    make: (unique, real) =>
      click(
        unique,
        pick(REVIEWERS, unique),
        `${CLICKS.page}.${unique % 3}`,
        { ...realReference(real), p: unique % 1_000 },
        real.card,
        {
          channel: null,
          message: null,
          container: { type: 'view', view_id: `V${unique}` },
          view: {
            id: `V${unique}`,
            hash: '1.a',
            callback_id: VIEWS.details,
            private_metadata: JSON.stringify(modalReference(real)),
          },
        },
      ),
  },
  {
    name: 'a click on something of nobody',
    encoding: 'payload',
    make: (unique, real) =>
      click(
        unique,
        'U0REVIEWERA',
        'made.up',
        pick(['', '{}', '[]', 'null', '{"d":1}', 'x'], unique),
        real.card,
      ),
  },
  {
    name: 'a form of nobody entitled',
    encoding: 'payload',
    make: (unique, real) =>
      submission(
        unique,
        pick(UNENTITLED, unique),
        pick(FORMS, unique),
        modalReference(real),
        'wait for the release',
      ),
  },
  {
    name: 'a forged form of a reviewer',
    encoding: 'payload',
    make: (unique, real) =>
      submission(
        unique,
        pick(REVIEWERS, unique),
        pick(FORMS, unique >> 4),
        { ...modalReference(real), ...forged(unique, real) },
        pick(['', ' ', 'no'], unique),
      ),
  },
  {
    name: 'a closed form',
    encoding: 'payload',
    make: (unique, real) => ({
      ...submission(unique, 'U0REVIEWERA', VIEWS.reject, modalReference(real), ''),
      type: 'view_closed',
      is_cleared: false,
    }),
  },
  {
    name: 'a shortcut',
    encoding: 'payload',
    make: (unique) => ({
      type: pick(['shortcut', 'message_action', 'block_suggestion', 'workflow_step_edit'], unique),
      callback_id: 'x',
      trigger_id: `${unique}.4`,
      user: { id: 'U0REQUESTER' },
      team: { id: TEAM },
      action_ts: timeOf(unique),
    }),
  },
  {
    name: 'a command',
    encoding: 'form',
    make: (unique) => ({
      token: 't',
      team_id: TEAM,
      team_domain: 'local',
      channel_id: CHANNEL,
      channel_name: 'engineering',
      user_id: pick(ASKERS, unique),
      user_name: 'somebody',
      command: pick(['/countersign', '/other'], unique >> 3),
      text: pick(['', 'digest', 'digest here', 'help', 'merge 1'], unique),
      api_app_id: 'A0LOCAL',
      is_enterprise_install: 'false',
      response_url: 'https://hooks.slack.com/commands/1',
      trigger_id: `${unique}.5.abc`,
    }),
  },
  { name: 'a certificate check', encoding: 'form', make: () => ({ token: 't', ssl_check: '1' }) },
];

/** What does decide: a reviewer's own word on the real request. Sent last, to see that the forged ones were close. */
export function genuineRejection(real: Real): Fields {
  return submission(1, 'U0REVIEWERA', VIEWS.reject, modalReference(real), 'no');
}
