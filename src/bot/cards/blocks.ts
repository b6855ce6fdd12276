/**
 * The few Block Kit pieces the cards are made of. `plain` and `fenced` take outside text and escape it; `mrkdwn` takes
 * only what our own code composed.
 *
 * Invariant: nothing here makes a block longer than LIMITS, and no text object is empty (Slack refuses those).
 */
import type {
  Button,
  ContextBlock,
  KnownBlock,
  MrkdwnElement,
  PlainTextElement,
  SectionBlock,
} from '@slack/types';
import { CODE_BLOCK_OVERHEAD, type Cut, codeBlock, cut, LIMITS, showing } from '../text.ts';

/** What a posted message is made of; `text` is what notifications and screen readers get. */
export interface Drawn {
  readonly blocks: CardBlock[];
  readonly text: string;
}
export type CardBlock = KnownBlock;

/** Already escaped text as plain_text. Colon codes stay letters: outside text cannot draw our status signs. */
export function plainElement(escaped: string): PlainTextElement {
  return { type: 'plain_text', text: escaped === '' ? ' ' : escaped, emoji: false };
}

/** Composed by our own code; `verbatim` keeps Slack from linking what only looks like an address. */
export function mrkdwnElement(composed: string): MrkdwnElement {
  return { type: 'mrkdwn', text: composed === '' ? ' ' : composed, verbatim: true };
}

export function mrkdwn(composed: string): SectionBlock {
  return { type: 'section', text: mrkdwnElement(composed) };
}

export function context(composed: string): ContextBlock {
  return { type: 'context', elements: [mrkdwnElement(composed)] };
}

/** A section of outside text behind an optional label of ours, cut at `max`. */
export function plain(
  text: string,
  options: { readonly max: number; readonly before?: string; readonly after?: string },
): { block: SectionBlock; piece: Cut } {
  const before = options.before ?? '';
  const after = options.after ?? '';
  const room = Math.min(options.max, LIMITS.sectionText - before.length - after.length - 1);
  const piece = cut(text, room);
  const shownText = `${before}${piece.text}${piece.complete ? '' : '…'}${after}`;
  return { block: { type: 'section', text: plainElement(shownText) }, piece };
}

/** The same as whole blocks: what was cut away is counted below it, with `rest` after the count. */
export function plainSaying(
  text: string,
  options: Parameters<typeof plain>[1] & { readonly rest?: string },
): CardBlock[] {
  const { block, piece } = plain(text, options);
  return [block, ...missing(piece, options.rest)];
}

/** Says how much of a text is shown, when it is not all. */
export function missing({ shown, total }: Cut, rest = ''): CardBlock[] {
  return shown < total ? [context(`${showing(shown, total)}${rest}.`)] : [];
}

/** A fenced section of outside text, cut at `max`. */
export function fenced(text: string, max: number): { block: SectionBlock; piece: Cut } {
  const piece = cut(text, Math.min(max, LIMITS.sectionText - CODE_BLOCK_OVERHEAD), 'fence');
  return { block: mrkdwn(codeBlock(piece.text)), piece };
}

export function button(label: string, actionId: string, value: string, style?: 'primary' | 'danger'): Button {
  return {
    type: 'button',
    text: plainElement(label),
    action_id: actionId,
    value,
    ...(style === undefined ? {} : { style }),
  };
}
