/**
 * What people see of an action of which nobody can tell whether it happened: the two buttons, the window that asks for a reason, and the
 * words for who settled it. Pure; outside text stands in plain_text.
 */
import type { ModalView } from '@slack/types';
import { MAX_REASON_LENGTH } from '../../jobs/settling.ts';
import type { Settlement, UnsettledAction } from '../../views.ts';
import { CLICKS, type ModalReference, REASON_INPUT, VIEWS, writeReference } from '../buttons.ts';
import { codeSpan, dateToken, mention, oneLine } from '../text.ts';
import { button, type CardBlock, context, mrkdwn, plain, plainElement } from './blocks.ts';

/** Longest name of an operator shown; it comes from their machine. */
const OPERATOR_NAME = 60;

/** The buttons that settle, for the end of a card. Neither is styled: none of the two answers is the expected one. */
export function settleButtons(action: Pick<UnsettledAction, 'deploymentId' | 'actionId' | 'actionHash'>) {
  const value = writeReference({ d: action.deploymentId, r: action.actionId, h: action.actionHash });
  return [
    button('It happened', CLICKS.happened, value),
    button('It did not happen', CLICKS.didNotHappen, value),
  ];
}

/** Unknown outcomes on one task's message; more are listed by `countersign actions list`. */
const SHOWN = 5;
/** Room for a kind, for one title, and for all titles together. */
const ROOM = { kind: 40, title: 300, titles: 400 } as const;

/** The unknown outcomes on the message of their task, where no card stands for them; nothing when there are none. */
export function unsettledBlocks(actions: readonly UnsettledAction[]): CardBlock[] {
  const shown = actions.slice(0, SHOWN);
  const room = Math.min(ROOM.title, Math.floor(ROOM.titles / shown.length));
  const blocks = shown.flatMap((action): CardBlock[] => [
    mrkdwn(
      `? *Outcome unknown*: ${codeSpan(action.kind, ROOM.kind)} was sent, and nobody can tell whether it happened. It will not be sent again by itself.`,
    ),
    plain(oneLine(action.title), { max: room, before: 'Look at the target and say what you found: ' }).block,
    { type: 'actions', elements: settleButtons(action) },
  ]);
  return actions.length > shown.length
    ? [...blocks, context(`Showing ${shown.length} of ${actions.length} unknown outcomes`)]
    : blocks;
}

/** `✓ *It happened*, says @reviewer-a at 10:02` in mrkdwn. */
export function settledLine(settlement: Settlement): string {
  const word = settlement.happened ? '✓ *It happened*' : '✗ *It did not happen*';
  return `${word}, says ${settledBy(settlement)} ${dateToken(settlement.settledAt)}`;
}

export function settledBy({ by }: Settlement): string {
  return by.via === 'slack' ? mention(by.person) : `the operator ${codeSpan(by.user, OPERATOR_NAME)}`;
}

/** Asks for the reason; its submission is the word that settles. */
export function settleModal(
  action: UnsettledAction,
  answer: 'happened' | 'did_not_happen',
  reference: ModalReference,
): ModalView {
  const happened = answer === 'happened';
  const label = happened ? 'It happened' : 'It did not happen';
  return {
    type: 'modal',
    callback_id: happened ? VIEWS.happened : VIEWS.didNotHappen,
    private_metadata: writeReference(reference),
    title: plainElement(label),
    submit: plainElement('Confirm'),
    close: plainElement('Back'),
    blocks: [
      plain(oneLine(action.title), { max: 300 }).block,
      context(
        `Confirm only what you saw at the target. It is recorded with your name as ${happened ? '*done*' : '*failed*'} and cannot be taken back; nothing is sent again.`,
      ),
      {
        type: 'input',
        block_id: REASON_INPUT.block,
        label: plainElement('What did you see there?'),
        element: {
          type: 'plain_text_input',
          action_id: REASON_INPUT.action,
          multiline: true,
          min_length: 1,
          max_length: MAX_REASON_LENGTH,
        },
      },
    ],
  };
}
