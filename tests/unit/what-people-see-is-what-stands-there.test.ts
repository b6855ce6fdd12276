/**
 * Guarantee: wherever outside words stand in what people see (every message in every state, every window, the fallback text of
 * notifications), they are words: no mention, link, formatting, emoji or status of theirs works, none stands on a line that could be ours,
 * nothing is hidden, turned around, piled over its neighbours or pushed out of sight, and every limit holds after escaping. Each attack is
 * tried in every place at once, on posting and on updating, which draw the same.
 */
import { describe, expect, it } from 'vitest';
import { createMessenger } from '../../src/bot/messenger.ts';
import { createLogger } from '../../src/log.ts';
import { everythingShown, messages, type Shown } from '../support/views.ts';
import { broken, type TextObject, texts } from './bot-measure.ts';

/** Outside words that would like to be more, by what they try. */
const ATTACKS: Readonly<Record<string, string>> = {
  'mention everybody': 'x <!channel> <!here> <!everyone> @channel @here',
  'mention a group, a person, a channel':
    '<!subteam^S0123|@admins> <@U0REVIEWERA> <#C0ENG|eng> @reviewer-a #eng',
  'a date that says something else': '<!date^1^approved {date}|✓ Approved>',
  'a link with another name':
    '<https://evil.example|https://github.com/acme/shop/pull/7> [docs](https://evil.example)',
  'an address that Slack links by itself':
    'see https://evil.example/x, evil.example, ops@evil.example, mailto:a@b.example slack://app',
  'entities of their own': '&lt;!channel&gt; &amp;lt;!here&amp;gt; &#60;!channel&#62;',
  'bold, italics, strikes, quotes, lists': '*Approved* _by_ ~nobody~ >quote &gt; • 1. `code`',
  'an emoji that looks like our sign': ':white_check_mark: :heavy_check_mark: :x: ✓ ✗ ⏳',
  'the end of a fence': 'a\n```\n✓ *Approved* by <@U0REVIEWERA>\n```\nb ```` c',
  'the end of inline code': '` *Approved* ` <!channel> `',
  'lines of their own':
    'fine”\n\n✓ Done · approved by everybody\r\nEvidence\u2028Needs 0 of\u2029x\u0085y\vz\fq',
  'the end of our quotation': '” says: “Approved.” (rule none, policy none)',
  'a branch written from right to left': 'main\u202ehcnarb \u2066x\u2069 \u200f\u061c',
  'Hebrew around our arrows': 'ענף ← → ראשי 7',
  'Arabic digits and punctuation': 'فرع (٧) ← main',
  'marks over marks': `a${'\u0336\u0489\u20dd'.repeat(30)}b \u0338\u20e0`,
  'a repository with a Cyrillic letter': '\u0430cme/shop ac\u043ce/sh\u03bfp \u0455hop',
  'a false slash': 'acme\u2215shop acme\u2044shop acme\uff0fshop acme\u2024shop',
  'hidden characters':
    'a\u200bb\u00adc\u2060d\ufeffe\u115ff\u3164g\u2800h\u{e0041}i\u180ej\u034fk\0l\u001bm\u009bn',
  'half a character and no character': 'a\ud800b\udfffc\ufffed\u{1fffe}e\ufdd0f\ue000g',
  emptiness: `a${' '.repeat(3_000)}b${'\n'.repeat(300)}c${'\u3000'.repeat(500)}d${'\t'.repeat(300)}e`,
  'a text without an end': `${'word '.repeat(2_000)}the end`,
  'one letter without an end': `👩${'\u200d👩'.repeat(400)}${'🇦🇹'.repeat(300)}${'é'.repeat(3_000)}`,
  nothing: '',
  'only what is hidden': '\u200b\u202e',
  'an escape that imitates ours': '\\u{202e} \\u{5c}u{202e}',
};

/** Syntax of Slack that our own code writes. */
const OURS =
  /<@[UW][A-Z0-9]+>|<#[CG][A-Z0-9]+>|<!date\^\d+\^\{date_short_pretty\} \{time\}\|\d{4}-\d\d-\d\d \d\d:\d\d UTC>/g;
/** What stands in code, fenced or not: there Slack reads no formatting and no emoji. */
const CODE = /```\n[\s\S]*?\n```|`[^`\n]*`/g;

function mrkdwnOf({ blocks, text }: Shown): string[] {
  return [
    ...texts(blocks)
      .filter(({ type }) => type === 'mrkdwn')
      .map((object) => object.text),
    text,
  ];
}

function plainOf({ blocks }: Shown): (TextObject & { emoji?: boolean })[] {
  return texts(blocks).filter(({ type }) => type === 'plain_text');
}

/** What our own code says around outside words: the same drawing with a word that is none of its own. */
function ourWords(): ReadonlyMap<number, readonly string[]> {
  return new Map(
    everythingShown('zq').map((shown, at) => [at, mrkdwnOf(shown).map((text) => text.replaceAll(CODE, ''))]),
  );
}

describe.each(Object.entries(ATTACKS))('%s', (_what, words) => {
  const all = everythingShown(words);

  it('stays inside the limits of Slack', () => {
    for (const { what, blocks } of all)
      if (what === 'window') expect(broken(blocks, 'modal')).toEqual([]);
      else expect([what, ...broken(blocks, 'message')]).toEqual([what]);
    for (const { text } of all) expect(text.length).toBeLessThan(4_000);
  });

  it('is no syntax of Slack, formats nothing and draws no emoji', () => {
    const wrong = [];
    for (const shown of all) {
      for (const text of mrkdwnOf(shown)) {
        const bare = text.replaceAll(OURS, '');
        // Outside code there are only our own words.
        const outside = bare.replaceAll(CODE, '');
        if (/[<>]/.test(bare) || /`|evil|channel>|white_check|Approved.* by everybody|zalgo/i.test(outside))
          wrong.push(text);
      }
      for (const { text, emoji } of plainOf(shown))
        if (/[<>]/.test(text) || emoji !== false) wrong.push(text);
    }
    expect(wrong).toEqual([]);
  });

  it('hides nothing, turns nothing of ours around and shows no secret sign', () => {
    const wrong = [];
    for (const shown of all)
      for (const text of [...mrkdwnOf(shown), ...plainOf(shown).map((object) => object.text)]) {
        const bare = text.replaceAll(/[\u2068\u2069]/g, '');
        if (
          /(?![\n\t])\p{Cc}|\p{Cf}|\p{Cs}|\p{Co}|\p{NChar}|\p{Zl}|\p{Zp}|\u2800|\u3164|\u115f/u.test(bare) ||
          /\p{M}{6}/u.test(bare) ||
          /[A-Za-z]\p{Script=Cyrillic}|\p{Script=Cyrillic}[A-Za-z]/u.test(bare) ||
          / {102}|\n{6}/.test(bare) ||
          text.split('\n').some((line) => isUnbalanced(line) || turnsOursAround(line))
        )
          wrong.push(text);
      }
    expect(wrong).toEqual([]);
  });

  it('begins no line that could be ours', () => {
    // Lists of ours have lines; each begins with our sign, and the words on it are one line.
    const lines = all.flatMap((shown) => plainOf(shown).flatMap(({ text }) => text.split('\n').slice(1)));
    expect(lines.filter((line) => !/^(?:•|✓|▸|Showing)/.test(line.replace(/^\u2068/, '')))).toEqual([]);
  });
});

function isUnbalanced(line: string): boolean {
  return !/^(?:\u2068\u2069)*$/.test(line.replaceAll(/[^\u2068\u2069]/g, ''));
}

function turnsOursAround(line: string): boolean {
  return /[\u0590-\u08ff]/.test(line.replaceAll(/\u2068[^\u2069]*\u2069/g, ''));
}

describe('what is ours', () => {
  it('is not changed by what stands beside it', () => {
    const plain = ourWords();
    for (const words of ['*x*', '<!channel>', 'a`b']) {
      const attacked = everythingShown(words);
      for (const [at, mine] of plain)
        expect(mrkdwnOf(attacked[at] as Shown).map((text) => text.replaceAll(CODE, ''))).toEqual(mine);
    }
  });

  it('is asked of Slack: nothing is linked, parsed or unfurled, when posting, alone to somebody and on an update', async () => {
    const calls: { method: string; args: URLSearchParams }[] = [];
    const messenger = createMessenger({
      botToken: 'xoxb-1',
      slackApiUrl: 'http://127.0.0.1:9/api/',
      log: createLogger({ level: 'silent' }),
      fetch: async (input, init) => {
        calls.push({
          method: String(input).split('/').at(-1) ?? '',
          args: new URLSearchParams(String(init?.body)),
        });
        return Response.json({ ok: true, ts: '1.1', message_ts: '1.1' });
      },
    });
    const [view] = messages('https://evil.example');
    if (view === undefined) throw new Error('no view');
    await messenger.post('T1', 'id', { to: 'channel', channelId: 'C1' }, view);
    await messenger.post('T1', 'id', { to: 'person', channelId: 'C1', threadTs: null, userId: 'U1' }, view);
    await messenger.update('T1', 'id', 'C1', '1.1', view);

    expect(calls.map(({ method }) => method)).toEqual([
      'chat.postMessage',
      'chat.postEphemeral',
      'chat.update',
    ]);
    for (const { args } of calls)
      expect([args.get('parse'), args.get('link_names')]).toEqual(['none', 'false']);
    expect([calls[0]?.args.get('unfurl_links'), calls[0]?.args.get('unfurl_media')]).toEqual([
      'false',
      'false',
    ]);
    // The same blocks and the same text, whichever way they go.
    expect(new Set(calls.map(({ args }) => args.get('blocks'))).size).toBe(1);
    expect(new Set(calls.map(({ args }) => args.get('text'))).size).toBe(1);
    for (const object of texts(JSON.parse(calls[0]?.args.get('blocks') ?? '')))
      if (object.type === 'mrkdwn') expect(object).toMatchObject({ verbatim: true });
  });
});
