/**
 * What of an outside text does not show as what it is, made visible: hidden characters, piles of marks, letters that pass for others,
 * emptiness that pushes words out of sight, and writing from right to left, which is kept from turning our own words around.
 *
 * Invariant: every step puts an escape (`\u{202e}`) where something was, so that nothing disappears; an escape in the text itself is told
 * from ours by its own escaped backslash. Ordinary writing in any script passes as it is.
 */
import { maskSecrets } from '../secrets.ts';

/**
 * Characters that show nothing or change how their neighbours show: controls (line break and tab excepted), format
 * characters (bidi, zero-width, tags), default-ignorables (fillers, variation selectors), private use, unassigned
 * surrogates, code points that are no characters, odd separators, the braille blank. The selector of emoji presentation stays after an emoji
 * and inside a keycap: a digit, # and * alone show nothing of it, although Unicode counts them among the emoji.
 */
const HIDDEN =
  /(?![\n\t])\p{Cc}|\p{Cf}|\p{Cs}|\p{Co}|\p{NChar}|\p{Zl}|\p{Zp}|(?![ \u{a0}\u{3000}])\p{Zs}|\u{2800}|(?!\u{fe0f})\p{DI}|(?<!(?![#*0-9])\p{Emoji}|[#*0-9](?=\u{fe0f}\u{20e3}))\u{fe0f}/gu;

/** An escape of ours in the outside text itself: its backslash is escaped, so that ours cannot be imitated. */
const IMITATED_ESCAPE = /\\(?=u\{)/g;

/**
 * Marks on a letter beyond what any living orthography piles up: they are drawn over the lines above and below. And one with no letter
 * before it, which would be drawn on a word of ours.
 */
const PILED_MARK = /\p{M}(?<=\p{M}{6}|(?<!\S)\p{M})/gu;

/** Runs of blanks and of empty lines longer than any indentation or paragraph. */
const BLANKS = /[ \t\u{a0}\u{3000}]{101,}/gu;
const MAX_BLANKS = 100;
const EMPTY_LINES = /(?:[ \t\u{a0}\u{3000}]*\n){5,}/gu;
const MAX_EMPTY_LINES = 4;

/**
 * Letters that pass for Latin ones inside a Latin word, from Unicode's confusables.txt (UTS 39): any of the scripts that are full of them, and
 * of Greek, which also stands beside units and variables (Δt, μs), those that look alike.
 */
const LOOKALIKE =
  /[\p{Script=Cyrillic}\p{Script=Armenian}\p{Script=Cherokee}\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf\u03bd\u03b9\u03c1\u03f2\u03f3]/gu;
/** Letters in a row: what a hyphen joins (API-ключ) are two words. */
const WORD = /\p{L}+/gu;
/** A stroke that passes for the slash between an owner and a repository, or for a dot. */
const FALSE_SIGN = /(?<=[A-Za-z0-9])[\u2024\u2044\u2215\u29f8\uff0e\uff0f](?=[A-Za-z])/g;

function escapeOf(character: string): string {
  return `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`;
}

function escapeAll(text: string): string {
  return [...text].map(escapeOf).join('');
}

/** Masks secrets and shows what does not show as what it is, like `\u{202e}`. Line breaks and tabs stay. */
export function visible(text: string): string {
  const shown = maskSecrets(text)
    .replace(IMITATED_ESCAPE, '\\u{5c}')
    .replace(HIDDEN, escapeOf)
    .replace(BLANKS, (run) => run.slice(0, MAX_BLANKS) + escapeAll(run.slice(MAX_BLANKS)))
    .replace(EMPTY_LINES, (run) => {
      const lines = run.split('\n');
      const kept = lines.slice(0, MAX_EMPTY_LINES).join('\n');
      // The last break stays one: what follows is a line of its own.
      return `${kept}\n${escapeAll(lines.slice(MAX_EMPTY_LINES, -1).join('\n'))}\n`;
    });
  // Plain ASCII, as most texts are, has none of the rest.
  if (/^[\n\t -~]*$/.test(shown)) return shown;
  return withoutLookalikes(shown.replace(PILED_MARK, escapeOf)).replace(FALSE_SIGN, escapeOf);
}

function withoutLookalikes(text: string): string {
  // Without one no word needs to be looked at.
  if (text.search(LOOKALIKE) === -1) return text;
  return text.replace(WORD, (word) => (/[A-Za-z]/.test(word) ? word.replace(LOOKALIKE, escapeOf) : word));
}

/** First strong isolate and its end: what stands between has its own direction and turns nothing outside around. */
export const ISOLATE = '\u2068';
export const ISOLATE_END = '\u2069';
/** Letters, digits and signs of the scripts that are written from right to left. */
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/** Isolates each line that is written from right to left, in text that `visible` made: an isolate of outside text is an escape by then. */
export function isolated(shown: string): string {
  if (!RIGHT_TO_LEFT.test(shown)) return shown;
  return shown
    .split('\n')
    .map((line) => (RIGHT_TO_LEFT.test(line) ? `${ISOLATE}${line}${ISOLATE_END}` : line))
    .join('\n');
}

/**
 * JSON in which writing from right to left is escaped as JSON escapes it: for values that stand beside each other on a line, where it would
 * change which is which.
 */
export function plainJson(value: unknown): string {
  return JSON.stringify(value).replace(new RegExp(RIGHT_TO_LEFT.source, 'gu'), (character) =>
    [...Array(character.length).keys()]
      .map((at) => `\\u${character.charCodeAt(at).toString(16).padStart(4, '0')}`)
      .join(''),
  );
}
