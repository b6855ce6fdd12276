/**
 * Guarantee: the same thing gives the same row, key included, whether it came as a signed request or as a Socket Mode
 * envelope, so that a change of the way in doubles nothing; what cannot be stored is malformed either way; any value at
 * all gives a result, none a throw.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Inbound, parseEnvelope, parseInbound } from '../../src/bot/inbound.ts';

const FORM = 'application/x-www-form-urlencoded';

const event = (over: object = {}): object => ({
  type: 'event_callback',
  team_id: 'T1',
  event_id: 'Ev1',
  event: { type: 'app_mention', user: 'U1', channel: 'C1', ts: '10.1', text: '<@UBOT> hello' },
  ...over,
});
const click = {
  type: 'block_actions',
  token: 'secret',
  team: { id: 'T1' },
  user: { id: 'U1', team_id: 'T1' },
  trigger_id: '1.2.abc',
  response_url: 'https://hooks.slack.com/x',
  channel: { id: 'C1' },
  actions: [{ type: 'button', action_id: 'a', block_id: 'b', action_ts: '11.1', value: 'v' }],
};
const submission = {
  type: 'view_submission',
  team: { id: 'T1' },
  user: { id: 'U1', team_id: 'T1' },
  trigger_id: '1.3.abc',
  view: {
    id: 'V1',
    hash: '1.h',
    callback_id: 'c',
    private_metadata: '{}',
    state: { values: { b: { a: { type: 'plain_text_input', value: 'why' } } } },
  },
};
const command = {
  command: '/countersign',
  text: 'digest here',
  team_id: 'T1',
  user_id: 'U1',
  channel_id: 'C1',
  trigger_id: '1.4.abc',
};

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const asRequest = {
  events_api: (payload: object) => parseInbound(bytes(JSON.stringify(payload)), 'application/json'),
  interactive: (payload: object) =>
    parseInbound(bytes(new URLSearchParams({ payload: JSON.stringify(payload) }).toString()), FORM),
  slash_commands: (payload: object) =>
    parseInbound(bytes(new URLSearchParams(payload as Record<string, string>).toString()), FORM),
};

describe.each([
  ['a mention', 'events_api', event(), 'row'],
  ['an event we have no use for', 'events_api', event({ event: { type: 'reaction_added' } }), 'ignored'],
  ['a notice about limits, which has no event', 'events_api', { type: 'app_rate_limited' }, 'ignored'],
  ['an event without its event', 'events_api', event({ event: null }), 'malformed'],
  ['an event of no workspace', 'events_api', event({ team_id: null }), 'malformed'],
  [
    'text that no database stores',
    'events_api',
    event({ event: { type: 'app_mention', user: 'U1', channel: 'C1', ts: '10.1', text: 'a\0b' } }),
    'malformed',
  ],
  ['a click', 'interactive', click, 'row'],
  ['a submission', 'interactive', submission, 'row'],
  ['an interaction we have no use for', 'interactive', { type: 'shortcut' }, 'ignored'],
  ['a click on nothing', 'interactive', { ...click, actions: [] }, 'malformed'],
  ['a command', 'slash_commands', command, 'row'],
  ['a command that is none', 'slash_commands', { ...command, command: 'countersign' }, 'malformed'],
] as const)('%s', (_, type, payload, kind) => {
  it(`is ${kind}, the same both ways`, () => {
    const envelope: Inbound = parseEnvelope({ envelope_id: 'e1', type, payload });

    const request = asRequest[type](payload);
    // In other words, perhaps: what is no JSON there is no envelope here.
    expect(envelope).toEqual(kind === 'malformed' ? { kind, what: expect.any(String) } : request);
    expect(request.kind).toBe(kind);
  });
});

it('a kind of envelope that Slack adds tomorrow is left alone, one without a kind is malformed', () => {
  expect(parseEnvelope({ envelope_id: 'e1', type: 'workflow_step', payload: {} }).kind).toBe('ignored');
  expect(parseEnvelope({ envelope_id: 'e1', payload: {} }).kind).toBe('malformed');
});

it('no value makes it throw, and nothing it keeps is deeper than can be read', () => {
  fc.assert(
    fc.property(
      fc.constantFrom('events_api', 'interactive', 'slash_commands', 'other', null, 7),
      fc.anything({ withNullPrototype: true }),
      (type, payload) => {
        expect(['row', 'ignored', 'malformed']).toContain(parseEnvelope({ type, payload }).kind);
        expect(['row', 'ignored', 'malformed']).toContain(parseEnvelope(payload).kind);
      },
    ),
  );
  let deep: unknown = 'x';
  for (let depth = 0; depth < 100_000; depth += 1) deep = [deep];
  expect(parseEnvelope({ type: 'events_api', payload: event({ deep }) }).kind).toBe('malformed');
});
