/**
 * What a click or a submitted modal leads to. Looks things up and opens modals now, and hands back what has to be
 * recorded in the transaction that marks the inbox row handled.
 *
 * Invariants: every click ends in something its author can see; the button only names what was seen, authority and
 * state are the desk's to judge; Approve on a card that did not show everything first opens the rest; what is opened from a copy outside the
 * task's channel is shown to its requester and to who may decide, to nobody else.
 */
import type { ModalView } from '@slack/types';
import type { Consequence, DecisionAsked, Desk, InboxRow } from '../jobs/desk.ts';
import type { Logger } from '../log.ts';
import type { Person, PersonFacts, WorkspaceId } from '../types.ts';
import type { ApprovalView, DeliveryTarget, NoteReason } from '../views.ts';
import {
  type ButtonReference,
  CLICKS,
  type ModalReference,
  REASON_INPUT,
  readButton,
  readModal,
  VIEWS,
  writeReference,
} from './buttons.ts';
import { approvalCard } from './cards/approval.ts';
import { context } from './cards/blocks.ts';
import { approvalDetails } from './cards/details.ts';
import { reasonModal } from './cards/message.ts';
import { settleModal } from './cards/settling.ts';
import type { BlockActions, ViewSubmission } from './inbound.ts';
import type { SlackMessenger } from './messenger.ts';

export interface ClickDeps {
  readonly deploymentId: string;
  readonly desk: Desk;
  readonly messenger: Pick<SlackMessenger, 'person' | 'openView' | 'updateView'>;
  readonly log: Logger;
}

/** Where a click came from: private notes go there. */
interface Place {
  readonly channelId: string;
  readonly ts: string | null;
  readonly threadTs: string | null;
}

/** A form can be opened for 3 s after the click (docs.slack.dev/interactivity/handling-user-interaction, `trigger_id`), and opening takes time too. */
const LOOKUP_MS = 1_000;

const NOTHING: Consequence = async () => {};

/** Throws only what a retry may cure (a look-up that failed); everything else ends in a note. */
export async function onClick(
  deps: ClickDeps,
  { workspaceId, receivedAt }: InboxRow,
  body: BlockActions,
): Promise<Consequence> {
  const action = body.actions[0];
  const turning = action?.action_id.startsWith(`${CLICKS.page}.`) === true;
  const opened = turning ? readModal(body.view?.private_metadata) : undefined;
  const place = turning ? placeOfModal(opened) : placeOfMessage(body);
  const say = noteTo(deps, workspaceId, place, body.user.id);

  const reference = readButton(action?.value);
  if (action === undefined || reference === undefined) return say({ kind: 'not_found' });
  const click: Click = {
    workspaceId,
    pressedAt: receivedAt,
    person: personOf(body, workspaceId),
    reference,
    place,
    triggerId: body.trigger_id,
    say,
  };
  if (reference.d !== deps.deploymentId) return ofElsewhere(deps, click, action.action_id);
  if (turning) return turnPage(deps, click, body.view ?? null);
  switch (action.action_id) {
    case CLICKS.approve:
      return approve(deps, click);
    case CLICKS.requestChanges:
      return askReason(deps, click, 'request_changes');
    case CLICKS.reject:
      return askReason(deps, click, 'reject');
    case CLICKS.details:
      return showDetails(deps, click);
    case CLICKS.happened:
      return askOutcome(deps, click, 'happened');
    case CLICKS.didNotHappen:
      return askOutcome(deps, click, 'did_not_happen');
    default:
      return say({ kind: 'not_found' });
  }
}

/** A button of another deployment decides nothing; that somebody tried to decide with it is recorded by the desk. */
async function ofElsewhere(deps: ClickDeps, click: Click, actionId: string): Promise<Consequence> {
  switch (actionId) {
    case CLICKS.approve:
      return decision(deps, click, 'approve', null);
    case CLICKS.requestChanges:
      return decision(deps, click, 'request_changes', null);
    case CLICKS.reject:
      return decision(deps, click, 'reject', null);
    case CLICKS.happened:
      return settlement(deps, click, 'happened', '');
    case CLICKS.didNotHappen:
      return settlement(deps, click, 'did_not_happen', '');
    default:
      return click.say({ kind: 'other_deployment' });
  }
}

/** The modal that asked for a reason was sent: that is the rejection, or the request for changes. */
export async function onReasonGiven(
  deps: ClickDeps,
  { workspaceId, receivedAt }: InboxRow,
  body: ViewSubmission,
): Promise<Consequence> {
  const reference = readModal(body.view.private_metadata);
  const place = placeOfModal(reference);
  const say = noteTo(deps, workspaceId, place, body.user.id);
  if (reference === undefined) return say({ kind: 'not_found' });
  if (reference.d !== deps.deploymentId) return say({ kind: 'other_deployment' });
  const given = reasonIn(body);
  const person = personOf(body, workspaceId);
  const decided = body.view.callback_id === VIEWS.requestChanges ? 'request_changes' : 'reject';
  const click = { workspaceId, pressedAt: receivedAt, person, reference, place, byForm: true } as const;
  return decision(deps, click, decided, given === '' ? null : given);
}

/** The modal that asked what was seen at the target was sent: that is the word that settles an unknown outcome. */
export async function onOutcomeGiven(
  deps: ClickDeps,
  { workspaceId }: InboxRow,
  body: ViewSubmission,
): Promise<Consequence> {
  const reference = readModal(body.view.private_metadata);
  const place = placeOfModal(reference);
  const say = noteTo(deps, workspaceId, place, body.user.id);
  if (reference === undefined) return say({ kind: 'not_found' });
  if (reference.d !== deps.deploymentId) return say({ kind: 'other_deployment' });
  const person = personOf(body, workspaceId);
  const answer = body.view.callback_id === VIEWS.happened ? 'happened' : 'did_not_happen';
  return settlement(deps, { workspaceId, person, reference, place, byForm: true }, answer, reasonIn(body));
}

function reasonIn(body: ViewSubmission): string {
  return body.view.state?.values[REASON_INPUT.block]?.[REASON_INPUT.action]?.value?.trim() ?? '';
}

interface Click {
  readonly workspaceId: WorkspaceId;
  readonly pressedAt: Date;
  readonly person: Person;
  readonly reference: ButtonReference;
  readonly place: Place | null;
  readonly triggerId: string;
  /** Set when it is no click but a form that was sent. */
  readonly byForm?: true;
  readonly say: (note: NoteReason) => Consequence;
}

async function approve(deps: ClickDeps, click: Click): Promise<Consequence> {
  const { workspaceId, reference } = click;
  const approval = await deps.desk.approval(workspaceId, reference.r);
  if (
    approval !== null &&
    isOpen(approval, reference) &&
    (reference.e === true || !approvalCard(approval).fits)
  ) {
    const facts = await deps.messenger.person(workspaceId, click.person);
    // The desk says why.
    if (reference.e === true && !(await mayRead(deps, click, approval, facts)))
      return decision(deps, click, 'approve', null);
    // Before the press, not before now: another press of the same person may have opened them meanwhile.
    if (!(await deps.desk.hadReadDetails(workspaceId, reference.r, facts, click.pressedAt))) {
      const lead = 'Not everything is on the card. Read this first, then press *Approve* on the card again.';
      return openDetails(deps, click, approval, { lead, otherwise: { kind: 'read_details_first' } }, facts);
    }
  }
  return decision(deps, click, 'approve', null);
}

async function askReason(
  deps: ClickDeps,
  click: Click,
  decided: 'reject' | 'request_changes',
): Promise<Consequence> {
  const approval = await deps.desk.approval(click.workspaceId, click.reference.r);
  // Nothing to give a reason for, or nobody's to give: the desk says why, and records the click.
  if (
    approval === null ||
    !isOpen(approval, click.reference) ||
    (await isSurelyNotEntitled(deps, click, approval.actionId))
  )
    return decision(deps, click, decided, null);
  const modal = reasonModal(decided, approval.title, modalReference(click));
  const isShown = await opens(deps, () => deps.messenger.openView(click.triggerId, modal));
  return isShown ? NOTHING : click.say({ kind: 'modal_expired' });
}

async function askOutcome(
  deps: ClickDeps,
  click: Click,
  answer: 'happened' | 'did_not_happen',
): Promise<Consequence> {
  const action = await deps.desk.unsettled(click.workspaceId, click.reference.r);
  // Nothing to say any more, or never was, or nobody's to say: the desk says why, and records the click.
  if (
    action === null ||
    action.actionHash !== click.reference.h ||
    (await isSurelyNotEntitled(deps, click, action.actionId))
  )
    return settlement(deps, click, answer, '');
  const modal = settleModal(action, answer, modalReference(click));
  const isShown = await opens(deps, () => deps.messenger.openView(click.triggerId, modal));
  return isShown ? NOTHING : click.say({ kind: 'modal_expired' });
}

async function showDetails(deps: ClickDeps, click: Click): Promise<Consequence> {
  const approval = await deps.desk.approval(click.workspaceId, click.reference.r);
  if (approval === null) return click.say({ kind: 'not_found' });
  // Closed while Slack does not say who this is.
  const facts =
    click.reference.e === true ? await deps.messenger.person(click.workspaceId, click.person) : null;
  if (facts !== null && !(await mayRead(deps, click, approval, facts)))
    return click.say({ kind: 'may_not_read_details', reviewers: approval.reviewers });
  return openDetails(deps, click, approval, { lead: null, otherwise: { kind: 'modal_expired' } }, facts);
}

/** Whoever asked for it, and who may decide. Where the task is talked about everybody may; of who reads a copy elsewhere that is not known. */
async function mayRead(
  deps: ClickDeps,
  { workspaceId }: Click,
  approval: ApprovalView,
  person: PersonFacts,
): Promise<boolean> {
  const { teamId, userId } = approval.requester;
  if (person.teamId === teamId && person.userId === userId) return true;
  return deps.desk.mayDecide(workspaceId, approval.actionId, person);
}

async function openDetails(
  deps: ClickDeps,
  click: Click,
  approval: ApprovalView,
  words: { readonly lead: string | null; readonly otherwise: NoteReason },
  known: PersonFacts | null,
): Promise<Consequence> {
  if (approval.actionHash !== click.reference.h) return click.say({ kind: 'replaced' });
  const pages = approvalDetails(approval);
  const [first] = pages;
  if (first === undefined) return click.say(words.otherwise);
  const shown: ModalView = {
    ...first,
    private_metadata: writeReference(modalReference(click)),
    blocks: words.lead === null ? first.blocks : [context(words.lead), ...first.blocks],
  };
  const reader = pages.length === 1 ? (known ?? readerOf(deps, click)) : null;
  if (!(await opens(deps, () => deps.messenger.openView(click.triggerId, shown))))
    return click.say(words.otherwise);
  return readToTheEnd(deps, click, await reader);
}

async function turnPage(
  deps: ClickDeps,
  click: Click,
  view: { readonly id: string; readonly hash?: string | null | undefined } | null,
): Promise<Consequence> {
  const approval = await deps.desk.approval(click.workspaceId, click.reference.r);
  if (approval === null || view === null) return click.say({ kind: 'not_found' });
  if (approval.actionHash !== click.reference.h) return click.say({ kind: 'replaced' });
  const pages = approvalDetails(approval);
  const index = Math.min(click.reference.p ?? 0, pages.length - 1);
  const page = pages[index];
  if (page === undefined) return click.say({ kind: 'not_found' });
  const shown = { ...page, private_metadata: writeReference(modalReference(click)) };
  const reader = index === pages.length - 1 ? readerOf(deps, click) : null;
  if (!(await opens(deps, () => deps.messenger.updateView(view.id, view.hash ?? null, shown))))
    return click.say({ kind: 'modal_expired' });
  return readToTheEnd(deps, click, await reader);
}

/**
 * Asked beside the showing, and never rejects: what was shown cannot be shown again, and another try would tell its reader that it was not.
 * Null while Slack does not say who this is; the reading then does not count, and Approve shows Details again.
 */
function readerOf(deps: ClickDeps, { workspaceId, person }: Click): Promise<PersonFacts | null> {
  return deps.messenger.person(workspaceId, person).catch((error: unknown) => {
    deps.log.warn({ err: error }, 'Slack does not say who read Details: not recorded');
    return null;
  });
}

/** Pages are turned one by one, so that whoever sees the last has been shown all of them. */
function readToTheEnd(deps: ClickDeps, click: Click, reader: PersonFacts | null): Consequence {
  if (reader === null) return NOTHING;
  return (tx) => deps.desk.detailsOpened(tx, click.workspaceId, click.reference.r, reader);
}

async function decision(
  deps: ClickDeps,
  click: Pick<Click, 'workspaceId' | 'pressedAt' | 'person' | 'reference' | 'place' | 'byForm'>,
  decided: DecisionAsked['decision'],
  reason: string | null,
): Promise<Consequence> {
  const { workspaceId, pressedAt, reference, place, byForm = false } = click;
  const person = await deps.messenger.person(workspaceId, click.person);
  const message = messageAt(place);
  return (tx) =>
    deps.desk.decide(tx, {
      workspaceId,
      requestId: reference.r,
      deploymentId: reference.d,
      actionHash: reference.h,
      person,
      decision: decided,
      reason,
      pressedAt,
      byForm,
      message,
    });
}

async function settlement(
  deps: ClickDeps,
  click: Pick<Click, 'workspaceId' | 'person' | 'reference' | 'place' | 'byForm'>,
  answer: 'happened' | 'did_not_happen',
  reason: string,
): Promise<Consequence> {
  const { workspaceId, reference, place, byForm = false } = click;
  const person = await deps.messenger.person(workspaceId, click.person);
  return (tx) =>
    deps.desk.settle(tx, {
      workspaceId,
      actionId: reference.r,
      deploymentId: reference.d,
      actionHash: reference.h,
      person,
      happened: answer === 'happened',
      reason,
      byForm,
      message: messageAt(place),
    });
}

/**
 * Asked before a form is opened, so that nobody writes a reason in vain. When Slack does not say who this is while the form can still be
 * opened, it opens: what is sent with it is judged as always.
 */
async function isSurelyNotEntitled(
  deps: ClickDeps,
  { workspaceId, person }: Click,
  actionId: string,
): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), LOOKUP_MS);
  });
  const known = await Promise.race([deps.messenger.person(workspaceId, person).catch(() => null), late]);
  clearTimeout(timer);
  return known !== null && !(await deps.desk.mayDecide(workspaceId, actionId, known));
}

function messageAt(place: Place | null): DecisionAsked['message'] {
  return place === null || place.ts === null
    ? null
    : { channelId: place.channelId, ts: place.ts, threadTs: place.threadTs };
}

function isOpen(approval: ApprovalView, reference: ButtonReference): boolean {
  return approval.status === 'pending' && approval.actionHash === reference.h;
}

/** A trigger is good for three seconds and once: whatever went wrong, trying again later cannot work. */
async function opens(deps: ClickDeps, show: () => Promise<void>): Promise<boolean> {
  try {
    await show();
    return true;
  } catch (error) {
    deps.log.warn({ err: error }, 'a modal could not be shown');
    return false;
  }
}

function modalReference({ reference, place }: Click): ModalReference {
  const { d, r, h } = reference;
  return { d, r, h, c: place?.channelId ?? '-', t: place?.ts ?? null, th: place?.threadTs ?? null };
}

function placeOfModal(reference: ModalReference | undefined): Place | null {
  if (reference === undefined || reference.c === '-') return null;
  return { channelId: reference.c, ts: reference.t, threadTs: reference.th };
}

function placeOfMessage(body: BlockActions): Place | null {
  const channelId = body.channel?.id ?? body.container?.channel_id;
  if (channelId == null) return null;
  return {
    channelId,
    ts: body.message?.ts ?? body.container?.message_ts ?? null,
    threadTs: body.message?.thread_ts ?? body.container?.thread_ts ?? null,
  };
}

function personOf(body: BlockActions | ViewSubmission, workspaceId: WorkspaceId): Person {
  return { teamId: body.user.team_id ?? body.team?.id ?? workspaceId, userId: body.user.id };
}

function noteTo(
  deps: ClickDeps,
  workspaceId: WorkspaceId,
  place: Place | null,
  userId: string,
): (note: NoteReason) => Consequence {
  if (place === null)
    return (note) => async () => {
      // Only a button that we did not draw can be without a channel.
      deps.log.warn({ note: note.kind }, 'a click came from no channel, its author cannot be told');
    };
  const target: DeliveryTarget = {
    to: 'person',
    channelId: place.channelId,
    threadTs: place.threadTs,
    userId,
  };
  return (note) => (tx) => deps.desk.note(tx, workspaceId, target, note);
}
