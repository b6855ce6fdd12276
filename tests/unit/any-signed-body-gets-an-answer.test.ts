/**
 * Guarantee: whatever bytes carry a good signature, the parser answers and never throws. What it keeps can be stored
 * and read back by Bolt, names its workspace and a key that is the same for each redelivery, and holds no response
 * address and no token. What we have no use for (bots, edits, other events) is ignored, not stored.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createBot } from '../../src/bot/app.ts';
import { parseInbound } from '../../src/bot/inbound.ts';
import type { SlackMessenger } from '../../src/bot/messenger.ts';
import type { Desk } from '../../src/jobs/desk.ts';
import { createLogger } from '../../src/log.ts';

const JSON_TYPE = 'application/json';
const FORM_TYPE = 'application/x-www-form-urlencoded';

function json(body: unknown) {
  return parseInbound(Buffer.from(JSON.stringify(body)), JSON_TYPE);
}
function interaction(payload: unknown) {
  return parseInbound(Buffer.from(`payload=${encodeURIComponent(JSON.stringify(payload))}`), FORM_TYPE);
}

const mention = {
  token: 'legacy-verification-token',
  type: 'event_callback',
  team_id: 'T1',
  api_app_id: 'A1',
  event_id: 'Ev1',
  event_time: 1_795_000_000,
  authorizations: [
    { enterprise_id: null, team_id: 'T1', user_id: 'UBOT', is_bot: true, is_enterprise_install: false },
  ],
  event: {
    type: 'app_mention',
    user: 'U1',
    team: 'T1',
    channel: 'C1',
    ts: '1795000000.000100',
    text: '<@UBOT> fix it',
    blocks: [{ type: 'rich_text' }],
  },
};
const direct = {
  ...mention,
  event_id: 'Ev2',
  event: {
    type: 'message',
    user: 'U1',
    channel: 'D1',
    channel_type: 'im',
    ts: '1795000000.000200',
    text: 'fix it',
  },
};
const click = {
  type: 'block_actions',
  token: 'legacy-verification-token',
  team: { id: 'T1', domain: 'acme' },
  user: { id: 'U1', username: 'reviewer-a', team_id: 'T1' },
  trigger_id: '1.2.abc',
  response_url: 'https://hooks.slack.com/actions/T1/1/secret',
  container: {
    type: 'message',
    channel_id: 'C1',
    message_ts: '1795000000.000300',
    thread_ts: '1795000000.000100',
  },
  channel: { id: 'C1', name: 'general' },
  message: { ts: '1795000000.000300', thread_ts: '1795000000.000100', text: 'card' },
  actions: [
    { type: 'button', action_id: 'approval.approve', block_id: 'b', action_ts: '1795000001.5', value: '{}' },
  ],
};
const submission = {
  type: 'view_submission',
  team: { id: 'T1' },
  user: { id: 'U1', team_id: 'T1' },
  view: {
    id: 'V1',
    hash: '1.abc',
    callback_id: 'approval.reject',
    private_metadata: '{}',
    state: { values: { reason: { 'reason.text': { type: 'plain_text_input', value: null } } } },
  },
};

describe('what is kept', () => {
  it('a mention, under its event id', () => {
    expect(json(mention)).toMatchObject({
      kind: 'row',
      row: { workspaceId: 'T1', dedupeKey: 'event:Ev1', source: 'event' },
    });
  });
  it('a direct message', () => {
    expect(json(direct)).toMatchObject({ kind: 'row', row: { dedupeKey: 'event:Ev2' } });
  });
  it('a click, under its trigger, time and button', () => {
    expect(interaction(click)).toMatchObject({
      kind: 'row',
      row: {
        workspaceId: 'T1',
        dedupeKey: 'interaction:1.2.abc:1795000001.5:approval.approve',
        source: 'interaction',
      },
    });
  });
  it('a submitted modal, under its view, hash, person and words: sent again with others it is another', () => {
    const keyOf = (sent: object) => {
      const inbound = interaction(sent);
      return inbound.kind === 'row' ? inbound.row.dedupeKey : inbound.kind;
    };
    const saying = (value: string) => {
      const values = { reason: { 'reason.text': { type: 'plain_text_input', value } } };
      return { ...submission, view: { ...submission.view, state: { values } } };
    };
    expect(keyOf(submission)).toMatch(/^interaction:V1:1\.abc:U1:[\w-]{43}$/);
    expect(keyOf(saying('too late'))).toBe(keyOf(saying('too late')));
    expect(new Set([submission, saying('too late'), saying('too soon')].map(keyOf)).size).toBe(3);
  });
  it('what came through a shared channel, under the workspace the app is installed in', () => {
    const elsewhere = { team: { id: 'T2' }, user: { id: 'U1', team_id: 'T2' } };
    const view = { ...submission.view, app_installed_team_id: 'T1' };
    expect(interaction({ ...submission, ...elsewhere, view })).toMatchObject({ row: { workspaceId: 'T1' } });
    expect(interaction({ ...click, ...elsewhere, view })).toMatchObject({ row: { workspaceId: 'T1' } });
  });
  it.each(['file_share', 'me_message', 'thread_broadcast'])('new words with the subtype %s', (subtype) => {
    expect(json({ ...direct, event: { ...direct.event, subtype } })).toMatchObject({
      row: { dedupeKey: 'event:Ev2' },
    });
    expect(json({ ...direct, event: { ...direct.event, subtype, bot_id: 'B1' } })).toEqual({
      kind: 'ignored',
    });
  });
  it('a slash command, under its trigger', () => {
    const body =
      'command=%2Fcountersign&text=hi&team_id=T1&user_id=U1&channel_id=C1&trigger_id=9.9.z&response_url=x';

    expect(parseInbound(Buffer.from(body), FORM_TYPE)).toMatchObject({
      kind: 'row',
      row: { workspaceId: 'T1', dedupeKey: 'command:9.9.z', source: 'command' },
    });
  });
  it('the end of the installation, which names neither person nor place', () => {
    for (const event of [
      { type: 'app_uninstalled' },
      { type: 'tokens_revoked', tokens: { oauth: ['U1'], bot: ['UBOT'] } },
    ])
      expect(json({ ...mention, event })).toMatchObject({
        kind: 'row',
        row: { workspaceId: 'T1', dedupeKey: 'event:Ev1', payload: { event: { type: event.type } } },
      });
  });
  it('an org-wide installation is one workspace, whichever team the request names', () => {
    const event = {
      ...mention,
      authorizations: [{ enterprise_id: 'E1', team_id: 'T7', is_enterprise_install: true }],
    };

    expect(json(event)).toMatchObject({ row: { workspaceId: 'E1' } });
    expect(interaction({ ...click, is_enterprise_install: true, enterprise: { id: 'E1' } })).toMatchObject({
      row: { workspaceId: 'E1' },
    });
    expect(interaction({ ...click, team: null, enterprise: { id: 'E1' }, user: { id: 'U1' } })).toMatchObject(
      {
        row: { workspaceId: 'E1' },
      },
    );
  });
  it('what Slack calls null is absent, because Bolt reads it as there', () => {
    const inModal = interaction({ ...click, channel: null, message: null, team: { id: 'T1' } });

    expect(inModal.kind === 'row' ? Object.keys(inModal.row.payload) : []).not.toContain('channel');
  });
  it('no response address and no token reach the row', () => {
    const kept = JSON.stringify([json(mention), interaction(click)]);

    expect(kept).not.toContain('hooks.slack.com');
    expect(kept).not.toContain('legacy-verification-token');
  });
});

describe('what is ignored with a 200', () => {
  const event = (over: object) => ({ ...mention, event: { ...mention.event, ...over } });
  it.each<[string, unknown]>([
    ['a message of a bot', event({ bot_id: 'B1' })],
    ['an edit', { ...direct, event: { ...direct.event, subtype: 'message_changed' } }],
    ['an edited mention', event({ edited: { user: 'U1', ts: '1.1' } })],
    ['a deletion', { ...direct, event: { ...direct.event, subtype: 'message_deleted' } }],
    ['a join', { ...direct, event: { ...direct.event, subtype: 'channel_join' } }],
    ['the channel message of a mention', event({ type: 'message', channel_type: 'channel' })],
    ['a mention in a direct message', event({ channel: 'D1' })],
    ['an opened App Home', event({ type: 'app_home_opened' })],
    ['a reaction', event({ type: 'reaction_added' })],
    ['an archived channel', event({ type: 'channel_archive' })],
    ['a deleted channel', event({ type: 'channel_deleted' })],
    ['a channel the bot left', event({ type: 'channel_left' })],
    ['a person who was deactivated', event({ type: 'user_change', user: { id: 'U1', deleted: true } })],
    ['a message shown to one person', { ...direct, event: { ...direct.event, hidden: true } }],
    ['a rate limit notice', { type: 'app_rate_limited', team_id: 'T1' }],
    ['an unknown envelope', { type: 'something_new' }],
  ])('%s', (_, body) => {
    expect(json(body)).toEqual({ kind: 'ignored' });
  });
  it('a closed modal, an unknown interaction, a signed certificate check', () => {
    expect(interaction({ ...submission, type: 'view_closed' })).toEqual({ kind: 'ignored' });
    expect(interaction({ type: 'shortcut' })).toEqual({ kind: 'ignored' });
    expect(parseInbound(Buffer.from('ssl_check=1&token=x'), FORM_TYPE)).toEqual({ kind: 'ignored' });
  });
});

it('the challenge is given back', () => {
  expect(json({ type: 'url_verification', challenge: 'abc' })).toEqual({
    kind: 'challenge',
    challenge: 'abc',
  });
});

describe('signed nonsense is refused', () => {
  const raw = (text: string, type = JSON_TYPE) => parseInbound(Buffer.from(text), type);
  it.each<[string, ReturnType<typeof parseInbound>]>([
    ['nothing', raw('')],
    ['null', raw('null')],
    ['an array', raw('[]')],
    ['a number', raw('7')],
    ['a string', raw('"x"')],
    ['broken JSON', raw('{"type":')],
    ['brackets 500,000 deep', raw('['.repeat(500_000))],
    ['closed brackets 400,000 deep', raw('['.repeat(400_000) + ']'.repeat(400_000))],
    ['objects 100 deep', raw(`${'{"a":'.repeat(100)}1${'}'.repeat(100)}`)],
    [
      'a mention with a part 100 deep',
      raw(JSON.stringify(mention).replace('"blocks":[', `"blocks":[${'['.repeat(100)}${']'.repeat(100)},`)),
    ],
    ['a NUL', json({ ...mention, event: { ...mention.event, text: 'a\0b' } })],
    ['a lone surrogate', raw(JSON.stringify(mention).replace('fix it', '\\ud800'))],
    ['a lone surrogate as a key', raw('{"type":"event_callback","\\udfff":1}')],
    ['__proto__', raw(JSON.stringify(mention).replace('"token"', '"__proto__":{"polluted":true},"token"'))],
    ['no event', json({ ...mention, event: null })],
    ['an event that is text', json({ ...mention, event: 'str' })],
    ['no user', json({ ...mention, event: { ...mention.event, user: null } })],
    ['no event id', json({ ...mention, event_id: undefined })],
    ['an event id with a line break', json({ ...mention, event_id: 'Ev\n1' })],
    ['no workspace', json({ ...mention, team_id: undefined, authorizations: [] })],
    ['a team that is a name every object has', json({ ...mention, team_id: 'toString', authorizations: [] })],
    ['a null authorization', json({ ...mention, authorizations: [null] })],
    ['payload=null', raw('payload=null', FORM_TYPE)],
    ['an empty payload', raw('payload=', FORM_TYPE)],
    ['two payloads', raw('payload={}&payload={}', FORM_TYPE)],
    ['a bad percent sequence', raw('payload=%E0%A4%A', FORM_TYPE)],
    ['a click without actions', interaction({ ...click, actions: [] })],
    ['a click without a user', interaction({ ...click, user: null })],
    ['a click with a user that is text', interaction({ ...click, user: 'U1' })],
    ['a submission without a view', interaction({ ...submission, view: null })],
    ['a command without a trigger', raw('command=%2Fx&team_id=T1&user_id=U1&channel_id=C1', FORM_TYPE)],
    ['a form that is nothing of Slack', raw('a=b', FORM_TYPE)],
  ])('%s', (_, inbound) => {
    expect(inbound).toEqual({ kind: 'malformed', what: expect.stringMatching(/^\w[ -~]{1,120}$/) });
  });
  it('with the fields at fault, and nothing that stood in them', () => {
    expect(json({ ...mention, event: { ...mention.event, user: 'not an id', ts: 7 } })).toEqual({
      kind: 'malformed',
      what: 'app_mention: event.user, event.ts',
    });
    const values = { 'a name\nof theirs': { field: { type: 7 } } };
    expect(interaction({ ...submission, view: { ...submission.view, state: { values } } })).toEqual({
      kind: 'malformed',
      what: 'view_submission: view.state.values.field.type',
    });
  });
  it('and nothing was polluted', () => {
    expect(Object.hasOwn(Object.prototype, 'polluted')).toBe(false);
  });
});

describe('any bytes', () => {
  const type = fc.constantFrom(
    JSON_TYPE,
    FORM_TYPE,
    '',
    'text/plain',
    'application/x-www-form-urlencoded; charset=x',
  );

  it('give an answer', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), type, (bytes, contentType) => {
        expect(parseInbound(bytes, contentType).kind).toMatch(/^(row|challenge|ignored|malformed)$/);
      }),
      { numRuns: 3_000 },
    );
  });

  it('that are JSON give an answer, as an event and as an interaction', () => {
    fc.assert(
      fc.property(fc.jsonValue({ depthSize: 'large' }), (value) => {
        expect(json(value).kind).not.toBe('row');
        expect(interaction(value).kind).not.toBe('row');
      }),
      { numRuns: 3_000 },
    );
  });

  const paths = (value: unknown, at: string[] = []): string[][] =>
    typeof value === 'object' && value !== null
      ? [at, ...Object.entries(value).flatMap(([key, member]) => paths(member, [...at, key]))]
      : [at];
  const replaced = (root: unknown, path: readonly string[], value: unknown): unknown => {
    const [key, ...rest] = path;
    if (key === undefined) return value;
    if (Array.isArray(root))
      return root.map((member, index) => (String(index) === key ? replaced(member, rest, value) : member));
    const record = root as Record<string, unknown>;
    return { ...record, [key]: replaced(record[key], rest, value) };
  };
  const junk = fc.oneof(
    fc.constantFrom(null, undefined, '', 'x', 0, -1, [], {}, [null], '\0', '\ud800', 'a'.repeat(5_000), true),
    fc.jsonValue(),
    fc.string({ unit: 'binary' }),
  );
  const mutated = fc
    .constantFrom(mention, direct, click, submission)
    .chain((body) =>
      fc.tuple(fc.constantFrom(...paths(body)), junk).map(([path, value]) => replaced(body, path, value)),
    );

  it('that are a real payload with one thing replaced give a row only with what a row needs', () => {
    fc.assert(
      fc.property(mutated, (body) => {
        for (const inbound of [json(body ?? null), interaction(body ?? null)]) {
          if (inbound.kind !== 'row') continue;
          const { workspaceId, dedupeKey, payload } = inbound.row;
          expect(workspaceId).toMatch(/^[\w.:-]+$/);
          expect(dedupeKey).toMatch(/^(event|interaction):./);
          const stored = JSON.stringify(payload);
          expect(stored).not.toContain('\\u0000');
          expect(stored.isWellFormed()).toBe(true);
          expect(JSON.parse(stored)).toEqual(payload);
        }
      }),
      { numRuns: 5_000 },
    );
  });

  it('that were kept are read by Bolt without a throw', async () => {
    const person = { known: false, isBot: false, isGuest: false, isExternal: false, isDeactivated: false };
    const bot = createBot({
      botToken: 'test-token',
      botId: 'BBOT',
      botUserId: 'UBOT',
      deploymentId: 'd',
      desk: { approval: async () => null } as unknown as Desk,
      messenger: {
        person: async (_: string, who: object) => ({ ...who, ...person }),
      } as unknown as SlackMessenger,
      log: createLogger({ level: 'silent' }),
    });
    await fc.assert(
      fc.asyncProperty(mutated, async (body) => {
        for (const inbound of [json(body ?? null), interaction(body ?? null)])
          if (inbound.kind === 'row')
            await bot.route({ ...inbound.row, inboxId: 'i', receivedAt: new Date(0) });
      }),
      { numRuns: 2_000 },
    );
  });
});
