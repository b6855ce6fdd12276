/**
 * Details: everything an approval binds, to the last character, in as many pages as it takes.
 *
 * Invariants: pure; the pieces of a text, joined, are the whole text; every page stays inside LIMITS. Each argument
 * has a fence of its own, so that no value can imitate another.
 */
import type { ModalView } from '@slack/types';
import type { Json } from '../../types.ts';
import type { ApprovalView } from '../../views.ts';
import { CLICKS, VIEWS, writeReference } from '../buttons.ts';
import {
  CODE_BLOCK_OVERHEAD,
  chunks,
  codeBlock,
  codeSpan,
  cut,
  dateToken,
  LIMITS,
  mention,
  mentions,
  oneLine,
  plainJson,
} from '../text.ts';
import { button, type CardBlock, context, mrkdwn, plainElement } from './blocks.ts';
import { settledLine } from './settling.ts';
import { agentLabel } from './words.ts';

/** Room for the blocks of ours that each page adds (place, buttons). */
const BLOCKS_PER_PAGE = LIMITS.modalBlocks - 4;
const BYTES_PER_PAGE = LIMITS.viewBytes - 10_000;

/** The pages in order, at least one. A click on Next carries the page wanted; the last page is the end. */
export function approvalDetails(view: ApprovalView): ModalView[] {
  const pages = paged(content(view));
  return pages.map((blocks, index) => ({
    type: 'modal',
    callback_id: VIEWS.details,
    title: plainElement(pages.length === 1 ? 'Details' : `Details ${index + 1} of ${pages.length}`),
    close: plainElement('Close'),
    blocks: [...blocks, ...turning(view, index, pages.length)],
  }));
}

function content(view: ApprovalView): CardBlock[] {
  const blocks: CardBlock[] = [
    heading('What will be executed'),
    context(`${codeSpan(view.kind, 200)} · *${view.tier.toUpperCase()}* risk`),
    ...outside(oneLine(view.title)),
  ];
  const names = Object.entries(view.arguments);
  if (names.length === 0) blocks.push(context('No arguments.'));
  for (const [name, value] of names) {
    const isLines = typeof value === 'string' && value.includes('\n');
    blocks.push(context(`Argument ${codeSpan(name, 200)}${isLines ? ', a text of several lines:' : ':'}`));
    // A name too long for its label is given whole as well: nothing of the arguments is left out.
    if (!cut(oneLine(name), 200).complete) blocks.push(...fencedWhole(name));
    blocks.push(...fencedWhole(isLines ? value : JSON.stringify(value, null, 2)));
  }

  blocks.push(heading('Only while this holds'), context(`As seen ${dateToken(view.preconditionsSeenAt)}`));
  blocks.push(
    ...(view.preconditions.length === 0
      ? [context('No conditions.')]
      : fencedWhole(
          view.preconditions.map(({ path, expected }) => `${path} = ${json(expected)}`).join('\n'),
        )),
  );
  for (const { label, value } of view.facts) blocks.push(...named(label, value));
  if (view.body !== null && view.body !== '')
    blocks.push(heading('What it is about, in the words of its source'), ...fencedWhole(view.body));

  blocks.push(heading('Evidence'));
  if (view.evidence.length === 0) blocks.push(context('None was given.'));
  for (const item of view.evidence)
    blocks.push(
      ...named(item.label, item.value),
      context(`From ${codeSpan(item.source)} ${dateToken(item.observedAt)}`),
    );

  blocks.push(heading('In the agent’s words'), ...quotation(view), heading('Who decides, and why'));
  blocks.push(
    context(
      `Rule ${codeSpan(view.rule)} · policy ${codeSpan(view.policyVersion)} · asked for by ${mention(view.requester)} ${dateToken(view.createdAt)}`,
    ),
  );
  for (const reason of view.reasons) blocks.push(...outside(oneLine(reason)));
  blocks.push(
    context(
      `Needs ${view.quorum} of: ${mentions(view.reviewers, 100)} · until ${dateToken(view.deadlineAt)}`,
    ),
  );
  for (const made of view.decisions) {
    blocks.push(context(`${DECIDED[made.decision]} ${mention(made.person)} ${dateToken(made.decidedAt)}`));
    if (made.reason !== null && made.reason !== '') blocks.push(...outside(`“${oneLine(made.reason)}”`));
  }
  if (view.settlement !== null) {
    blocks.push(heading('What a person said of the outcome'), context(settledLine(view.settlement)));
    if (view.settlement.reason !== null && view.settlement.reason !== '')
      blocks.push(...outside(`“${oneLine(view.settlement.reason)}”`));
  }
  if (view.changes.length > 0)
    blocks.push(
      heading('Changed since review'),
      ...fencedWhole(
        view.changes
          .map(({ path, expected, actual }) => `${path}: ${json(expected)} → ${json(actual)}`)
          .join('\n'),
      ),
    );
  blocks.push(
    context(
      `Request ${codeSpan(view.requestId)} · action ${codeSpan(view.actionId)} · action hash ${codeSpan(view.actionHash)}`,
    ),
  );
  return blocks;
}

const DECIDED: Readonly<Record<ApprovalView['decisions'][number]['decision'], string>> = {
  approve: '✓ Approved by',
  reject: '✗ Rejected by',
  request_changes: '⟲ Changes requested by',
  revoke: '↩ Revoked by',
  withdraw: '⊘ Withdrawn by',
};

function quotation(view: ApprovalView): CardBlock[] {
  const said = { type: 'section', text: plainElement(`${agentLabel(view.agent)} says:`) } as const;
  return [said, ...fencedWhole(view.agentReason)];
}

function heading(words: string): CardBlock {
  return { type: 'header', text: plainElement(words) };
}

function outside(text: string): CardBlock[] {
  return chunks(text, LIMITS.sectionText).map((piece) => ({ type: 'section', text: plainElement(piece) }));
}

/** A value under its name; one of several lines in a fence, so that none of them passes for a line of ours. */
function named(label: string, value: string): CardBlock[] {
  return value.trim().includes('\n')
    ? [...outside(`${oneLine(label)}:`), ...fencedWhole(value)]
    : outside(`${oneLine(label)}: ${oneLine(value)}`);
}

function fencedWhole(text: string): CardBlock[] {
  if (text === '') return [context('(empty)')];
  const pieces = chunks(text, LIMITS.sectionText - CODE_BLOCK_OVERHEAD, 'fence');
  return pieces.flatMap((piece, index) => [
    ...(pieces.length > 1 ? [context(`Part ${index + 1} of ${pieces.length}`)] : []),
    mrkdwn(codeBlock(piece)),
  ]);
}

function json(value: Json): string {
  return plainJson(value);
}

function paged(blocks: readonly CardBlock[]): CardBlock[][] {
  const pages: CardBlock[][] = [];
  let page: CardBlock[] = [];
  let bytes = 0;
  for (const block of blocks) {
    const size = Buffer.byteLength(JSON.stringify(block));
    if (page.length > 0 && (page.length === BLOCKS_PER_PAGE || bytes + size > BYTES_PER_PAGE)) {
      pages.push(page);
      page = [];
      bytes = 0;
    }
    page.push(block);
    bytes += size;
  }
  pages.push(page);
  return pages;
}

function turning(view: ApprovalView, index: number, count: number): CardBlock[] {
  if (count === 1) return [];
  const to = (page: number): string =>
    writeReference({ d: view.deploymentId, r: view.requestId, h: view.actionHash, p: page });
  // Slack wants distinct action ids within one block.
  const previous = button('Previous page', `${CLICKS.page}.previous`, to(index - 1));
  const next = button('Next page', `${CLICKS.page}.next`, to(index + 1), 'primary');
  return [
    context(index === count - 1 ? 'This is the last page.' : `Page ${index + 1} of ${count}; more follows.`),
    {
      type: 'actions',
      elements: [...(index > 0 ? [previous] : []), ...(index < count - 1 ? [next] : [])],
    },
  ];
}
