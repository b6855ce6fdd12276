/**
 * Guarantee: docs/slack.md tells an administrator what the app asks for, all of it and nothing else: its table of scopes and its table of
 * events are the manifest's, its table of methods is what the code calls, each with a reason; and the page is found from README and
 * ARCHITECTURE.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { calledMethods } from '../support/slack-methods.ts';

const read = (name: string): string => readFileSync(new URL(`../../${name}`, import.meta.url), 'utf8');
const page = read('docs/slack.md');
const manifest = JSON.parse(read('manifest.json')) as {
  oauth_config: { scopes: { bot: string[] } };
  settings: { event_subscriptions: { bot_events: string[] } };
};

/** The rows of the one table whose head begins with `head`, cells trimmed. */
function rows(head: string): string[][] {
  const lines = page.split('\n');
  const at = lines.findIndex((line) => line.startsWith(`| ${head} |`));
  if (at < 0) throw new Error(`no table ${head}`);
  const body = lines.slice(at + 2);
  const end = body.findIndex((line) => !line.startsWith('|'));
  return body.slice(0, end).map((line) =>
    line
      .slice(1, -1)
      .split('|')
      .map((cell) => cell.trim()),
  );
}

function named(head: string): string[] {
  return rows(head).map(([name = '']) => name.replace(/^`(.*)`$/, '$1'));
}

describe('docs/slack.md', () => {
  it('explains each scope of the manifest, and no other', () => {
    expect(named('Scope').sort()).toEqual([...manifest.oauth_config.scopes.bot].sort());
  });

  it('explains each event that is subscribed, and no other', () => {
    expect(named('Slack event').sort()).toEqual([...manifest.settings.event_subscriptions.bot_events].sort());
  });

  it('names each method that is called with its limit, and no other', () => {
    expect(named('Method').sort()).toEqual(calledMethods());
  });

  it('gives a reason in every row', () => {
    for (const head of ['Scope', 'Slack event', 'Method'])
      for (const [name, ...reasons] of rows(head))
        expect([name, ...reasons.filter((reason) => reason.length < 3)]).toEqual([name]);
  });

  it('is linked from where people begin', () => {
    expect(read('README.md')).toContain('](docs/slack.md)');
    expect(read('ARCHITECTURE.md')).toContain('docs/slack.md');
  });
});
