/**
 * Guarantee: how Slack's events come follows from what is set, and from nothing else. An app-level token means Socket
 * Mode, also beside a signing secret; a signing secret alone means requests; neither means that `serve` names both; and
 * no value of either is ever printed.
 */
import { describe, expect, it } from 'vitest';
import { describeConfig, readVariables, serveConfig, slackReceiver } from '../../src/config.ts';

const SECRET = 'an old signing secret';
const OLDER = 'an older signing secret';
const TOKEN = 'xapp-1-A0-1-abcdef';

const receiverOf = (env: Record<string, string>) => slackReceiver(readVariables(env));

describe('what is set decides', () => {
  it('a signing secret: signed requests, also with the previous one while rotating', () => {
    expect(receiverOf({ SLACK_SIGNING_SECRET: SECRET })).toEqual({ kind: 'http', signingSecrets: [SECRET] });
    expect(receiverOf({ SLACK_SIGNING_SECRET: SECRET, SLACK_SIGNING_SECRET_PREVIOUS: OLDER })).toEqual({
      kind: 'http',
      signingSecrets: [SECRET, OLDER],
    });
  });

  it('an app-level token: Socket Mode, whatever else is set', () => {
    const socket = { kind: 'socket', appToken: TOKEN };
    expect(receiverOf({ SLACK_APP_TOKEN: TOKEN })).toEqual(socket);
    expect(receiverOf({ SLACK_APP_TOKEN: TOKEN, SLACK_SIGNING_SECRET: SECRET })).toEqual(socket);
  });

  it('neither, empty ones, or the previous secret alone: nothing', () => {
    expect(receiverOf({})).toBeNull();
    expect(receiverOf({ SLACK_APP_TOKEN: '', SLACK_SIGNING_SECRET: '' })).toBeNull();
    expect(receiverOf({ SLACK_SIGNING_SECRET_PREVIOUS: OLDER })).toBeNull();
  });
});

it('a token of another kind is refused by name, without its value', () => {
  const read = () => readVariables({ SLACK_APP_TOKEN: 'xoxb-not-this-one' });

  expect(read).toThrow(/SLACK_APP_TOKEN must start with xapp-/);
  expect(read).not.toThrow(/not-this-one/);
});

it('serve names both ways when neither is set, and neither when one is', () => {
  expect(() => serveConfig(readVariables({ SLACK_BOT_TOKEN: 'xoxb-1' }))).toThrow(
    /missing: DATABASE_URL, SLACK_APP_TOKEN or SLACK_SIGNING_SECRET, ANTHROPIC_API_KEY/,
  );
  expect(() => serveConfig(readVariables({ SLACK_BOT_TOKEN: 'xoxb-1', SLACK_APP_TOKEN: TOKEN }))).toThrow(
    /missing: DATABASE_URL, ANTHROPIC_API_KEY/,
  );
});

it('printing the configuration shows that the token is set, not what it is', () => {
  expect(describeConfig(readVariables({ SLACK_APP_TOKEN: TOKEN })).SLACK_APP_TOKEN).toBe('[set]');
});
