/**
 * Sends what is owed, in this process, until stopped. Any number of processes may; each row is sent by one at a time.
 *
 * Invariants. A message is posted once: its id travels in the message's metadata (a file's in its name), and after any doubt it is looked
 * for before it is posted again, and absent only when no earlier call can still bring it; who posts holds the row's claim at that moment. A
 * pause that Slack asks for is kept for that call in that place by every process and is no try that counts; what is refused for good is not
 * retried (refusals.ts).
 */
import { createHash } from 'node:crypto';
import {
  CountersignError,
  DeliveryAnswered,
  DeliveryRefused,
  hasCode,
  type RefusedFor,
  toStoredError,
} from '../errors.ts';
import type { Logger } from '../log.ts';
import type { JsonObject, Tx, WorkspaceId } from '../types.ts';
import type { FullView, MessageView, Messenger, NoteReason, ReceiptView, WholeText } from '../views.ts';
import { owe, PRIORITY } from './deliveries.ts';
import {
  type Call,
  claimDue,
  type DeliveryRow,
  leaveStanding,
  lostAfterCall,
  msUntilDue,
  pause,
  refreshStanding,
  release,
  renew,
  retryLater,
  SLOTS,
  settle,
  waitOutDoubt,
} from './delivery-queue.ts';
import type { Bell } from './engine/bell.ts';
import type { Database } from './engine/db.ts';
import { slackLost, slackRegained } from './installation.ts';
import { type Loop, pauseMs, startLoop } from './loop.ts';
import { type AdminsOf, refused } from './refusals.ts';

/** What a lost ring left behind is found at this pace, and what stands is looked after (FAULTS: repaired within 60 s). */
const SWEEP_MS = 10_000;
const FIRST_BACKOFF_MS = 1_000;
/** Tries after which a word of Slack's that nobody knows, met twice in a row, is taken to be its last: some two minutes. */
const MAX_ANSWERED_TRIES = 8;
/** While there is much to send, what stands is not looked after at every turn. */
const LOOK_AFTER_MS = 1_000;

export interface DeliveryOptions {
  readonly database: Database;
  readonly bell: Bell;
  readonly messenger: Messenger;
  readonly log: Logger;
  /** Whose claims these are: they fall with this worker's lease. */
  readonly workerId: string;
  /** The newest committed state behind a message; null when there is nothing (any more) to show. */
  readonly view: (
    workspaceId: WorkspaceId,
    kind: 'approval' | 'task' | 'digest',
    subjectId: string,
  ) => Promise<FullView | null>;
  /** Who hears of a request that Slack takes nowhere else. Default: nobody. */
  readonly adminsOf?: AdminsOf;
}

export function startDeliveries(options: DeliveryOptions): Loop {
  const { database, bell, log, workerId } = options;
  const inFlight = new Map<string, number>();
  const count = (place: string, by: number): void => {
    const now = (inFlight.get(place) ?? 0) + by;
    if (now === 0) inFlight.delete(place);
    else inFlight.set(place, now);
  };
  let lookedAfterAt = Number.NEGATIVE_INFINITY;
  return startLoop({
    name: 'deliveries',
    bell,
    word: 'delivery',
    sweepMs: SWEEP_MS,
    slots: SLOTS,
    async claim(free) {
      if (performance.now() - lookedAfterAt >= LOOK_AFTER_MS) {
        lookedAfterAt = performance.now();
        await refreshStanding(database);
      }
      const rows = await claimDue(database, workerId, inFlight, free);
      for (const { place } of rows) count(place, 1);
      return rows;
    },
    work: (row) => deliver(options, row).finally(() => count(row.place, -1)),
    nextMs: () => msUntilDue(database, inFlight),
    log,
  });
}

/** A failed call, and which it was. */
class Failed {
  readonly call: Call;
  readonly error: unknown;
  constructor(call: Call, error: unknown) {
    this.call = call;
    this.error = error;
  }
}

/** What became of a row. A null `ts`: the message that stands now has no name. `made`: what was done in Slack, when anything was. */
type Sent =
  | { readonly ts: string | null; readonly view: MessageView | null; readonly made: Call | null }
  | 'not_mine'
  | 'paused'
  | 'may_still_come';

async function deliver(options: DeliveryOptions, row: DeliveryRow): Promise<void> {
  const { database, log } = options;
  const about = { deliveryId: row.delivery_id, view: row.view_kind };
  try {
    const sent = await send(options, row);
    if (sent === 'paused') return await release(database, row, null);
    if (sent === 'may_still_come') return await waitOutDoubt(database, row);
    if (sent === 'not_mine') return log.info(about, 'a delivery went to another worker');
    if (sent.made !== null) await taken(options, row);
    if (await settleWith(options, row, sent.ts, sent.view)) return;
    log.info(about, 'a delivery went to another worker');
    if (sent.made !== null) await lost(options, row, sent.made === 'post' ? sent.ts : null);
  } catch (thrown) {
    const { call, error } = thrown instanceof Failed ? thrown : { call: row.next_call, error: thrown };
    await failed(options, row, call, error);
  }
}

/** Slack took a call of ours. */
async function taken({ database, log }: DeliveryOptions, row: DeliveryRow): Promise<void> {
  if (row.is_probe && (await database.transaction((tx) => slackRegained(tx, row.workspace_id))))
    log.info({ deliveryId: row.delivery_id }, 'Slack takes the token again');
}

/** A call was made and the row is somebody else's by now: the newest state is drawn once more, and a second copy goes. */
async function lost(options: DeliveryOptions, row: DeliveryRow, posted: string | null): Promise<void> {
  const { database, messenger, log } = options;
  if (!(await lostAfterCall(database, row, posted)) || posted === null) return;
  await messenger
    .remove(row.workspace_id, row.place, posted)
    .catch((error: unknown) =>
      log.warn(
        { deliveryId: row.delivery_id, error: toStoredError(error) },
        'a second copy of a message stays in Slack',
      ),
    );
}

async function failed(options: DeliveryOptions, row: DeliveryRow, call: Call, error: unknown): Promise<void> {
  const { database, log, adminsOf } = options;
  const about = { deliveryId: row.delivery_id, view: row.view_kind, call };
  const stored = toStoredError(error);
  const isAnswered = error instanceof DeliveryAnswered;
  const isLastWord = isAnswered && row.try_count >= MAX_ANSWERED_TRIES && row.last_error === stored.message;
  if (isLastWord || hasCode(error, 'DELIVERY_REFUSED')) {
    const refusedFor: RefusedFor = error instanceof DeliveryRefused ? error.refusedFor : 'place';
    if (refusedFor === 'credential') {
      const isNews = await database.transaction((tx) => slackLost(tx, row.workspace_id, stored.message));
      if (isNews)
        log.error(
          { ...about, error: stored.message },
          'Slack refuses the token: everything rests and is sent when it works again',
        );
      else log.info({ ...about, error: stored.message }, 'Slack still refuses the token');
      // Another row is the next to try: what Slack refuses may be this one alone.
      return release(database, row, stored.message, true);
    }
    // Workspaces may close messages for edits after a while. One that says what it should may well stand.
    if (refusedFor === 'fixed' && row.shown_version === row.wanted_version)
      return leaveStanding(database, row);
    // A refusal of the place is an answer to us: the token works.
    if (refusedFor !== 'message') await taken(options, row);
    const next = await refused(database, adminsOf ?? nobody, row, refusedFor, stored.message);
    log.error(
      { ...about, error: stored.message, next, ...(row.subject_id ? { subjectId: row.subject_id } : {}) },
      next === 'nobody is left'
        ? 'a request waits, and Slack lets nobody be told'
        : 'Slack refuses a message',
    );
    return;
  }
  const asked = error instanceof CountersignError ? error.retryAfterMs : undefined;
  if (asked !== undefined) {
    const { waiting } = await pause(database, row, call, asked);
    log.warn(
      { ...about, place: row.place, waitMs: asked, waiting },
      'Slack asks for a pause; nothing is lost',
    );
    // The lane of notes knows no pause of looking: let go, it would be taken again at once.
    if (call === 'find' && row.next_call === 'note') {
      await retryLater(database, row, stored.message, asked, false);
      return;
    }
    return release(database, row, stored.message);
  }
  const waitMs = pauseMs(FIRST_BACKOFF_MS, row.try_count, undefined);
  log.warn({ ...about, error: stored, waitMs }, 'delivery failed, will be retried');
  if (!(await retryLater(database, row, stored.message, waitMs, isAnswered)) && call === 'update')
    await lost(options, row, null);
}

const nobody: AdminsOf = async () => [];

/** Makes one call and remembers which it was when it fails. */
async function ask<T>(call: Call, made: Promise<T>): Promise<T> {
  try {
    return await made;
  } catch (error) {
    throw new Failed(call, error);
  }
}

/** Shown to its reader alone, so that it cannot be looked for. In a direct message everything can. */
function isPrivate({ target }: DeliveryRow): boolean {
  return target.to === 'person' && target.channelId !== target.userId;
}

function find(messenger: Messenger, row: DeliveryRow): Promise<string | null> {
  const since = new Date(Date.now() - Math.max(0, row.age_ms));
  return ask('find', messenger.find(row.workspace_id, row.delivery_id, row.target, since));
}

async function send(options: DeliveryOptions, row: DeliveryRow): Promise<Sent> {
  const { messenger, database } = options;
  const { workspace_id, delivery_id, target, place } = row;
  if (row.view_kind === 'reaction') {
    const content = row.content as { name: string; ts: string };
    await ask('react', messenger.react(workspace_id, place, content.ts, content.name));
    return { ts: null, view: null, made: 'react' };
  }
  if (row.view_kind === 'file') return sendFile(options, row);
  const view = await viewOf(options, row);
  if (view === null) return { ts: row.ts, view, made: null };
  // Tried before and its fate unknown: it may be standing there already.
  if (row.ts === null && row.try_count > 1 && !isPrivate(row)) {
    // Notes keep no pace, and their lane knows no pause of looking: let go, they would be taken again at once.
    const held = row.next_call === 'note' ? 'held' : await renew(database, row, 'find');
    if (held !== 'held') return held;
    row.ts = await find(messenger, row);
    if (row.ts === null && row.doubt_until !== null) return 'may_still_come';
  }
  const { ts } = row;
  if (ts === null) {
    await mustHaveReader(messenger, row);
    const held = await renew(database, row, row.next_call);
    if (held !== 'held') return held;
    return {
      ts: await ask(row.next_call, messenger.post(workspace_id, delivery_id, target, view)),
      view,
      made: 'post',
    };
  }
  const held = await renew(database, row, 'update');
  if (held !== 'held') return held;
  await ask('update', messenger.update(workspace_id, delivery_id, place, ts, view));
  return { ts, view, made: 'update' };
}

async function sendFile(options: DeliveryOptions, row: DeliveryRow): Promise<Sent> {
  const { messenger, database } = options;
  const { workspace_id, delivery_id, target } = row;
  if (row.try_count > 1) {
    const held = await renew(database, row, 'find');
    if (held !== 'held') return held;
    if ((await find(messenger, row)) !== null) return { ts: null, view: null, made: null };
    if (row.doubt_until !== null) return 'may_still_come';
  }
  const view = await viewOf(options, row);
  const whole = wholeOf(options, row, view);
  if (whole === null) return { ts: null, view: null, made: null };
  const held = await renew(database, row, 'attach');
  if (held !== 'held') return held;
  await ask('attach', messenger.attach(workspace_id, delivery_id, target, whole));
  return { ts: null, view: null, made: 'attach' };
}

/** Nobody reads the direct message of an account that is deactivated, though Slack may take it: what waits needs somebody who does. */
async function mustHaveReader(messenger: Messenger, row: DeliveryRow): Promise<void> {
  const reader = (row.content as { reader?: string } | null)?.reader;
  if (reader === undefined) return;
  const facts = await ask(
    row.next_call,
    messenger.person(row.workspace_id, { teamId: row.workspace_id, userId: reader }),
  );
  if (!facts.known || facts.isDeactivated)
    throw new DeliveryRefused('the account is deactivated or unknown', 'place');
}

/** What the row shows; of a file, what the message shows that it stands beside. */
async function viewOf(options: DeliveryOptions, row: DeliveryRow): Promise<MessageView | null> {
  const { workspace_id } = row;
  switch (row.view_kind) {
    case 'approval':
    case 'task':
    case 'digest':
      if (row.subject_id === null) return null;
      return inForm(
        row.form,
        forReader(row, await options.view(workspace_id, row.view_kind, row.subject_id)),
      );
    case 'note':
      return inForm(row.form, { kind: 'note', note: row.content as unknown as NoteReason });
    case 'receipt':
      return inForm(row.form, receiptOf(row.content));
    case 'file': {
      const { of } = row.content as unknown as FileContent;
      if ('receipt' in of) return inForm(of.form, receiptOf(of.receipt));
      return inForm(of.form, await options.view(workspace_id, of.kind, of.subjectId));
    }
    case 'reaction':
      return null;
  }
}

/** What a copy shows where not everybody may see the task is the card's to know. */
function forReader(row: DeliveryRow, view: FullView | null): FullView | null {
  if ((row.content as { isElsewhere?: boolean } | null)?.isElsewhere !== true) return view;
  switch (view?.kind) {
    case 'approval':
      return { ...view, approval: { ...view.approval, isElsewhere: true } };
    case 'task':
      return { ...view, task: { ...view.task, isElsewhere: true } };
    default:
      return view;
  }
}

function receiptOf(content: JsonObject | null): ReceiptView {
  return { ...(content as unknown as Omit<ReceiptView, 'kind'>), kind: 'receipt' };
}

/** A request says itself that it is shown shortly: a click on it must know that too. */
function inForm(form: 'full' | 'short', view: FullView | null): MessageView | null {
  return view === null || form === 'full' || view.kind === 'approval' ? view : { kind: 'short', of: view };
}

/** Which message a file stands beside. Drawn from committed state like every other message. */
interface FileContent {
  readonly of: { readonly form: 'full' | 'short' } & (
    | { readonly kind: 'approval' | 'task' | 'digest'; readonly subjectId: string }
    | { readonly receipt: JsonObject }
  );
}

/** A text that cannot be written down is missing beside its message; it must not keep the message from being recorded. */
function wholeOf(
  { messenger, log }: DeliveryOptions,
  row: DeliveryRow,
  view: MessageView | null,
): WholeText | null {
  try {
    return view && messenger.whole(view);
  } catch (error) {
    log.error({ deliveryId: row.delivery_id, error: toStoredError(error) }, 'a file cannot be drawn');
    return null;
  }
}

/** Records the row as sent and, with that, owes the file of what the message does not show whole: once for each text. */
async function settleWith(
  options: DeliveryOptions,
  row: DeliveryRow,
  ts: string | null,
  view: MessageView | null,
): Promise<boolean> {
  const { database } = options;
  const whole = wholeOf(options, row, view);
  if (whole === null) return settle(database, row, ts, row.filed);
  const filed = createHash('sha256').update(whole.content).digest('hex');
  if (filed === row.filed) return settle(database, row, ts, filed);
  return database.transaction(async (tx) => {
    if (!(await settle(tx, row, ts, filed))) return false;
    await oweFile(tx, row);
    return true;
  });
}

async function oweFile(tx: Tx, row: DeliveryRow): Promise<void> {
  const { view_kind: kind, form } = row;
  const of: FileContent['of'] | null =
    kind === 'receipt' && row.content !== null
      ? { form, receipt: row.content }
      : (kind === 'approval' || kind === 'task' || kind === 'digest') && row.subject_id !== null
        ? { form, kind, subjectId: row.subject_id }
        : null;
  if (of === null) return;
  await owe(tx, {
    workspaceId: row.workspace_id,
    viewKind: 'file',
    content: { of } as unknown as JsonObject,
    target: row.target,
    // Nobody waits for it: the message itself says what matters.
    priority: PRIORITY.progress,
  });
}
