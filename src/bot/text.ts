/**
 * The one module for escaping and for Slack's limits. It hides how outside words (from people, models, repositories)
 * become text that Slack shows and does not act on.
 *
 * Invariant: every string that did not come from our own code passes `escapeText`, `codeSpan`, `cut` or
 * `chunks` here, and what comes out can neither ping, link, format, hide characters, close its quotation, nor show a secret.
 * Masking comes first, then hidden characters, then entities: a later step never sees what an earlier one removed. Whatever length is
 * given or measured here is that of the text as sent.
 */
import { maskSecrets } from '../secrets.ts';
import { ISOLATE, ISOLATE_END, isolated, visible } from './visible.ts';

export { plainJson, visible } from './visible.ts';

/** Slack's limits, in UTF-16 units of the text as sent. Reference pages of docs.slack.dev, read November 2026. */
export const LIMITS = {
  /** chat.postMessage, reference/block-kit/blocks. */
  messageBlocks: 50,
  modalBlocks: 100,
  sectionText: 3_000,
  sectionFields: 10,
  fieldText: 2_000,
  contextElements: 10,
  contextText: 3_000,
  headerText: 150,
  buttonText: 75,
  buttonValue: 2_000,
  actionsElements: 25,
  actionId: 255,
  blockId: 255,
  callbackId: 255,
  inputLabel: 2_000,
  placeholder: 150,
  privateMetadata: 3_000,
  modalTitle: 24,
  modalButton: 24,
  /** chat.postMessage truncates here; our own fallback texts stay far below. */
  messageText: 40_000,
  /** Undocumented: all blocks of one message, measured on their JSON to be on the safe side. */
  messageBlocksJson: 13_200,
  /** Undocumented: a view is refused as too large at about 250 kB; half of it leaves room for form encoding. */
  viewBytes: 125_000,
} as const;

/**
 * Slack's three control characters as entities, which is all it decodes, in plain_text as in mrkdwn. Without `<` no
 * mention, link, channel, group or date syntax can live.
 */
function entities(text: string): string {
  if (!/[&<>]/.test(text)) return text;
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

/** Outside text for a plain_text object, line breaks kept. Never for mrkdwn: formatting is not neutralised. */
export function escapeText(text: string): string {
  return entities(prepare(text, 'plain'));
}

/**
 * Makes one line of many, the breaks shown: outside text that stands on a line of ours cannot start another. Masks secrets, because some of
 * them have lines.
 */
export function oneLine(text: string): string {
  // By lines, not by one pattern with blanks around the break: that takes quadratic time on a long run of blanks.
  return maskSecrets(text)
    .split(/[\n\r\u{2028}\u{2029}\u{85}\v\f]+/u)
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .join(' ⏎ ');
}

/** Outside text as inline code in mrkdwn, one line, cut at `max` with an ellipsis. */
export function codeSpan(text: string, max = 200): string {
  const piece = cut(oneLine(text), max, 'span');
  return piece.text === '' ? '`(empty)`' : `\`${piece.text}${piece.complete ? '' : '…'}\``;
}

/**
 * Fenced mrkdwn around text that was cut for a fence. The line breaks keep a backtick at either end of the content
 * from growing the fence.
 */
export function codeBlock(prepared: string): string {
  return `\`\`\`\n${prepared}\n\`\`\``;
}
/** What `codeBlock` adds. */
export const CODE_BLOCK_OVERHEAD = codeBlock('').length;

/** Where escaped text will stand: a plain_text object, a fence in mrkdwn, inline code in mrkdwn. */
export type Place = 'plain' | 'fence' | 'span';

/** Backticks that would close what surrounds them become escapes, like every other character that does harm. */
function prepare(text: string, place: Place): string {
  const shown = visible(text);
  switch (place) {
    case 'plain':
      return isolated(shown);
    case 'fence':
      return isolated(shown.replace(/`{3,}/g, (run) => '\\u{60}'.repeat(run.length)));
    case 'span':
      return isolated(shown.replaceAll('`', '\\u{60}'));
    default:
      return place satisfies never;
  }
}

/** A piece of a text, and how much of it that is, in characters as people count them. */
export interface Cut {
  /** Escaped, ready for Slack, at most `max` long. */
  readonly text: string;
  readonly shown: number;
  readonly total: number;
  readonly complete: boolean;
}

const segmenter = new Intl.Segmenter('en', { granularity: 'grapheme' });

/** A letter may carry any number of marks; past this many units it is split, or one letter could fill a card. */
const LONGEST_GRAPHEME = 32;

/** A stretch of plain ASCII, where every unit is a character; shorter ones are not worth leaving the segmenter for. */
const PLAIN_STRETCH = /[\n\t -~]{32,}/g;

function* characters(text: string): Generator<string> {
  // The segmenter costs ten times the rest, so it sees no more than it has to: beside what is not ASCII the unit before it, which its marks
  // belong to, and the one after it, which may belong to a sign that stands before numbers. No rule of UAX 29 reaches further.
  let done = 0;
  for (const { 0: plain, index } of text.matchAll(PLAIN_STRETCH)) {
    const from = index === 0 ? 0 : index + 1;
    const to = index + plain.length - (index + plain.length === text.length ? 0 : 1);
    yield* graphemes(text.slice(done, from));
    yield* text.slice(from, to);
    done = to;
  }
  yield* graphemes(text.slice(done));
}

function* graphemes(text: string): Generator<string> {
  if (text === '') return;
  for (const { segment } of segmenter.segment(text)) {
    if (segment.length <= LONGEST_GRAPHEME) yield segment;
    else yield* segment;
  }
}

/** Escapes `text` and cuts it on a character border so that the result is at most `max` units long. */
export function cut(text: string, max: number, place: Place = 'plain'): Cut {
  const shownText = prepare(text, place);
  const whole = entities(shownText);
  if (whole.length <= max) {
    const total = count(shownText);
    return { text: whole, shown: total, total, complete: true };
  }
  let out = '';
  let shown = 0;
  let total = 0;
  let open = true;
  let toClose = 0;
  for (const character of characters(shownText)) {
    const isMark = isIsolate(character);
    if (!isMark) total += 1;
    if (!open) continue;
    const piece = entities(character);
    // What was opened has to be closed: its end has a place from the beginning.
    const after = character === ISOLATE ? 1 : character === ISOLATE_END ? 0 : toClose;
    if (out.length + piece.length + after > max) {
      open = false;
      continue;
    }
    toClose = after;
    out += piece;
    if (!isMark) shown += 1;
  }
  if (toClose === 0) return { text: out, shown, total, complete: false };
  const closed = out.endsWith(ISOLATE) ? out.slice(0, -1) : out + ISOLATE_END;
  return { text: closed, shown, total, complete: false };
}

/** Ours, no characters of the text. */
function isIsolate(character: string): boolean {
  return character === ISOLATE || character === ISOLATE_END;
}

function count(text: string): number {
  let total = 0;
  for (const character of characters(text)) if (!isIsolate(character)) total += 1;
  return total;
}

/**
 * Escapes `text` and splits it into pieces of at most `max` units that together hold every character. Borders are
 * character borders, at a line break where one is near.
 */
export function chunks(text: string, max: number, place: Place = 'plain'): string[] {
  const pieces: string[] = [];
  let piece = '';
  let lastBreak = 0;
  let toClose = 0;
  for (const character of characters(prepare(text, place))) {
    const escaped = entities(character);
    const after = character === ISOLATE ? 1 : character === ISOLATE_END ? 0 : toClose;
    if (piece.length + escaped.length + after > max) {
      const isAtBreak = lastBreak > max / 2;
      const border = isAtBreak ? lastBreak : piece.length;
      pieces.push(piece.slice(0, border) + (isAtBreak || toClose === 0 ? '' : ISOLATE_END));
      piece = (isAtBreak || toClose === 0 ? '' : ISOLATE) + piece.slice(border);
      lastBreak = 0;
    }
    toClose = after;
    piece += escaped;
    if (character === '\n') lastBreak = piece.length;
  }
  if (piece !== '') pieces.push(piece);
  return pieces;
}

/** "Showing 2,400 of 9,130 characters", or nothing when all is shown. */
export function showing(shown: number, total: number): string {
  return shown >= total ? '' : `Showing ${grouped(shown)} of ${grouped(total)} characters`;
}

function grouped(value: number): string {
  return value.toLocaleString('en-US');
}

/** Room for an id or an instant that is not what it should be: enough to find it by. */
const ODD_ID = 32;

/** A person's mention, by code only. An id that Slack would not have made is shown, not sent as syntax. */
export function mention(person: { readonly userId: string }): string {
  return /^[UW][A-Z0-9]{1,30}$/.test(person.userId) ? `<@${person.userId}>` : codeSpan(person.userId, ODD_ID);
}

/** A list of people, the first `max` by name and the rest counted. */
export function mentions(people: readonly { readonly userId: string }[], max = 10): string {
  const named = people.slice(0, max).map(mention).join(', ');
  return people.length > max ? `${named} and ${people.length - max} more` : named;
}

/** A channel's mention, by code only; Slack shows its name to those who may see it. A direct message has no name. */
export function channel(id: string): string {
  if (/^D[A-Z0-9]{1,63}$/.test(id)) return 'a direct message';
  return /^[CG][A-Z0-9]{1,63}$/.test(id) ? `<#${id}>` : codeSpan(id, ODD_ID);
}

/** An instant in each reader's own zone; the fallback is UTC. */
export function dateToken(iso: string): string {
  const ms = Date.parse(iso);
  if (Number.isNaN(ms)) return codeSpan(iso, ODD_ID);
  const fallback = `${new Date(ms).toISOString().slice(0, 16).replace('T', ' ')} UTC`;
  return `<!date^${Math.floor(ms / 1000)}^{date_short_pretty} {time}|${fallback}>`;
}
