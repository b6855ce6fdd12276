/**
 * Guarantee: words that are not ours show up as words. They cannot mention, link, format, hide a character, close the
 * quotation they stand in, imitate an escape of ours or show a secret; and what is cut is cut between characters, with
 * the count of what is missing.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  chunks,
  codeBlock,
  codeSpan,
  cut,
  dateToken,
  escapeText,
  mention,
  mentions,
  oneLine,
  plainJson,
  showing,
} from '../../src/bot/text.ts';

const nasty = fc.constantFrom(
  '<!channel>',
  '<@U123>',
  '<https://evil.example|safe>',
  '&lt;',
  '```',
  '`',
  '*',
  '_',
  '~',
  '\u202e',
  '\u200b',
  '\u{e0041}',
  '\0',
  '\r\n',
  '\n',
  '\u2028',
  '\ufe0f',
  '\u00ad',
  '\u115f',
  '\\u{202e}',
  'xoxb-1234567890-abcdefgh',
  '👩‍👩‍👧',
  '🇦🇹',
  'e\u0301',
  '\ud800',
);
const outside = fc
  .array(fc.oneof(nasty, fc.string({ unit: 'binary', maxLength: 8 }), fc.string({ maxLength: 8 })))
  .map((parts) => parts.join(''));

/** Ours: they keep writing from right to left to its line. */
const withoutIsolates = (text: string): string => text.replaceAll(/[\u2068\u2069]/g, '');

const unescaped = (text: string): string =>
  text.replaceAll('&lt;', '').replaceAll('&gt;', '').replaceAll('&amp;', '');

describe('any text', () => {
  it('loses its control characters, its hidden characters and its secrets', () => {
    fc.assert(
      fc.property(outside, (text) => {
        const escaped = escapeText(text);
        expect(unescaped(escaped)).not.toMatch(/[<>&]/);
        expect(withoutIsolates(escaped)).not.toMatch(/(?![\n\t])\p{Cc}|\p{Cf}|\p{Cs}|\p{Zl}|\p{Zp}/u);
        expect(escaped).not.toContain('xoxb-1234567890');
        expect(escaped.isWellFormed()).toBe(true);
      }),
      { numRuns: 2_000 },
    );
  });

  it('cannot close a fence or inline code', () => {
    fc.assert(
      fc.property(outside, fc.integer({ min: 1, max: 200 }), (text, max) => {
        const block = codeBlock(cut(text, max, 'fence').text);
        expect(block.slice(3, -3)).not.toContain('```');
        const span = codeSpan(text, max);
        expect(span.slice(1, -1)).not.toContain('`');
        expect(span).not.toContain('\n');
      }),
      { numRuns: 2_000 },
    );
  });

  it('is cut between characters, inside the room it has, and counted', () => {
    fc.assert(
      fc.property(outside, fc.integer({ min: 0, max: 120 }), (text, max) => {
        const whole = escapeText(text);
        const piece = cut(text, max);
        expect(piece.text.length).toBeLessThanOrEqual(max);
        expect(withoutIsolates(whole).startsWith(withoutIsolates(piece.text))).toBe(true);
        expect(piece.complete).toBe(piece.text === whole);
        expect(piece.text.replaceAll(/[^\u2068\u2069\n]/g, '').split('\n')).toEqual(
          piece.text.split('\n').map((line) => (line.includes('\u2068') ? '\u2068\u2069' : '')),
        );
        expect(piece.complete).toBe(piece.shown === piece.total);
        expect(piece.text).not.toMatch(/&[a-z]*$/);
      }),
      { numRuns: 2_000 },
    );
  });

  it('has the characters that Unicode says, also where stretches of plain letters meet marks and signs', () => {
    const segmenter = new Intl.Segmenter('en', { granularity: 'grapheme' });
    const stretch = fc.nat(12).map((more) => 'q'.repeat(26 + more));
    const meeting = fc.constantFrom(
      '\u0301',
      '\u0d4e',
      '\u{111c2}',
      '\u20e3',
      '👩\u200d👩',
      '🇦',
      '각',
      '\n',
      '7',
    );
    fc.assert(
      fc.property(fc.array(fc.oneof(stretch, meeting, outside), { maxLength: 12 }), (parts) => {
        const shown = escapeText(parts.join(''))
          .replaceAll('&lt;', '<')
          .replaceAll('&gt;', '>')
          .replaceAll('&amp;', '&');
        const characters = [...segmenter.segment(shown)]
          .map(({ segment }) => segment)
          .flatMap((segment) => (segment.length <= 32 ? [segment] : [...segment]))
          .filter((character) => !/[\u2068\u2069]/.test(character));
        expect(cut(parts.join(''), 0).total).toBe(characters.length);
      }),
      { numRuns: 1_000 },
    );
  });

  it('comes back whole from its pieces', () => {
    fc.assert(
      fc.property(
        outside,
        fc.integer({ min: 400, max: 500 }),
        fc.integer({ min: 1, max: 40 }),
        (text, max, times) => {
          const long = text.repeat(times);
          const pieces = chunks(long, max);
          expect(withoutIsolates(pieces.join(''))).toBe(withoutIsolates(escapeText(long)));
          for (const piece of pieces) expect(piece.length).toBeLessThanOrEqual(max);
        },
      ),
    );
  });
});

describe('in particular', () => {
  it('a reversed text shows what reverses it', () => {
    expect(escapeText('abc\u202edef')).toBe('abc\\u{202e}def');
  });
  it('an imitated escape differs from a real one', () => {
    expect(escapeText('\\u{202e}')).not.toBe(escapeText('\u202e'));
  });
  it('emoji keep their presentation, letters cannot carry it', () => {
    expect(escapeText('❤\ufe0f')).toBe('❤\ufe0f');
    expect(escapeText('a\ufe0f')).toBe('a\\u{fe0f}');
  });
  it('digits, # and * show what they carry, but for a keycap', () => {
    for (const sign of ['1', '0', '#', '*']) {
      expect(escapeText(`v${sign}\ufe0f`)).toBe(`v${sign}\\u{fe0f}`);
      expect(escapeText(`${sign}\ufe0f\u20e3`)).toBe(`${sign}\ufe0f\u20e3`);
    }
    expect(escapeText('1\ufe0f\ufe0f\u20e3')).toBe('1\\u{fe0f}\\u{fe0f}\u20e3');
  });
  it('a letter keeps the marks of any orthography; a pile of them is shown as what it is, and cut like it', () => {
    expect(escapeText('e\u0301\u0323 שָּׁ')).toBe('\u2068e\u0301\u0323 שָּׁ\u2069');
    expect(escapeText(`a${'\u0301'.repeat(7)}b`)).toBe(`a${'\u0301'.repeat(5)}\\u{301}\\u{301}b`);
    expect(cut(`a${'\u0301'.repeat(1_000)}`, 50)).toMatchObject({ complete: false, shown: 45 });
  });
  it('a mark with no letter cannot strike out a word of ours', () => {
    expect(escapeText('\u0338')).toBe('\\u{338}');
    expect(escapeText('a\n\u20e0b \u0336')).toBe('a\n\\u{20e0}b \\u{336}');
    expect(escapeText('1\ufe0f\u20e3')).toBe('1\ufe0f\u20e3');
  });
  it('a word in two alphabets shows which letters are not what they seem; words in one are left alone', () => {
    expect(escapeText('\u0430cme/shop and pаypal')).toBe('\\u{430}cme/shop and p\\u{430}ypal');
    expect(escapeText('acme\u2215shop, acme\uff0fshop')).toBe('acme\\u{2215}shop, acme\\u{ff0f}shop');
    for (const plain of [
      'Проверь API-ключ и PR',
      'Δt = 5 μs, λ-Wert',
      'kırmızı ısı',
      'größer café',
      '日本語/README',
      'ελληνικά',
      '½ or 1⁄2',
    ])
      expect(escapeText(plain)).toBe(plain);
  });
  it('emptiness cannot push words out of sight', () => {
    const blanks = escapeText(`a${' '.repeat(104)}b`);
    expect(blanks).toBe(`a${' '.repeat(100)}${'\\u{20}'.repeat(4)}b`);
    expect(escapeText(`a${'\n'.repeat(300)}b`).split('\n')).toHaveLength(6);
    expect(escapeText(`a${'\n'.repeat(300)}b`)).toMatch(/\\u\{a\}\nb$/);
    expect(escapeText('a\n\n\nb\n  \nc')).toBe('a\n\n\nb\n  \nc');
  });
  it('writing from right to left turns nothing of ours around', () => {
    expect(escapeText('שלום 7')).toBe('\u2068שלום 7\u2069');
    expect(codeSpan('ענף')).toBe('`\u2068ענף\u2069`');
    expect(cut('שלום', 4)).toEqual({ text: '\u2068של\u2069', shown: 2, total: 4, complete: false });
    expect(cut('שלום', 1)).toEqual({ text: '', shown: 0, total: 4, complete: false });
    expect(chunks('one\nשלום שלום', 9)).toEqual(['one\n\u2068שלו\u2069', '\u2068ם שלום\u2069']);
    expect(plainJson({ a: 'ענף' })).toBe('{"a":"\\u05e2\\u05e0\\u05e3"}');
    expect(JSON.parse(plainJson({ a: 'ענף \u{10840}' }))).toEqual({ a: 'ענף \u{10840}' });
  });
  it('an isolate or an override of theirs is shown, not obeyed', () => {
    expect(escapeText('\u2068a\u2069\u202e')).toBe('\\u{2068}a\\u{2069}\\u{202e}');
  });
  it('a flag is not cut in two', () => {
    expect(cut('🇦🇹🇦🇹', 5)).toEqual({ text: '🇦🇹', shown: 1, total: 2, complete: false });
  });
  it('a secret is masked before it is cut', () => {
    expect(cut('token xoxb-1234567890-abcdefgh', 12).text).not.toContain('xoxb');
  });
  it('several lines become one, visibly', () => {
    expect(oneLine('fine\r\n\n✓ Approved')).toBe('fine ⏎ ✓ Approved');
  });
  it('what is missing is said', () => {
    expect(showing(2_400, 9_130)).toBe('Showing 2,400 of 9,130 characters');
    expect(showing(3, 3)).toBe('');
  });
  it('only ids that Slack makes become mentions', () => {
    expect(mention({ userId: 'U123ABC' })).toBe('<@U123ABC>');
    expect(mention({ userId: 'U1> <!channel' })).toBe('`U1&gt; &lt;!channel`');
    expect(mentions(Array.from({ length: 12 }, () => ({ userId: 'U1' })))).toMatch(/ and 2 more$/);
  });
  it('an instant has a fallback, and what is none is shown as it is', () => {
    expect(dateToken('2026-11-20T09:00:30.000Z')).toBe(
      '<!date^1795165230^{date_short_pretty} {time}|2026-11-20 09:00 UTC>',
    );
    expect(dateToken('soon>')).toBe('`soon&gt;`');
  });
});
