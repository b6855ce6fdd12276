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

const unescaped = (text: string): string =>
  text.replaceAll('&lt;', '').replaceAll('&gt;', '').replaceAll('&amp;', '');

describe('any text', () => {
  it('loses its control characters, its hidden characters and its secrets', () => {
    fc.assert(
      fc.property(outside, (text) => {
        const escaped = escapeText(text);
        expect(unescaped(escaped)).not.toMatch(/[<>&]/);
        expect(escaped).not.toMatch(/(?![\n\t])\p{Cc}|\p{Cf}|\p{Cs}|\p{Zl}|\p{Zp}/u);
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
        expect(whole.startsWith(piece.text)).toBe(true);
        expect(piece.complete).toBe(piece.text === whole);
        expect(piece.complete).toBe(piece.shown === piece.total);
        expect(piece.text).not.toMatch(/&[a-z]*$/);
      }),
      { numRuns: 2_000 },
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
          expect(pieces.join('')).toBe(escapeText(long));
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
  it('a letter with a thousand marks is cut like a thousand characters', () => {
    expect(cut(`a${'\u0301'.repeat(1_000)}`, 50)).toMatchObject({ complete: false, total: 1_001 });
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
