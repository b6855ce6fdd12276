/**
 * The digest as a message: a line on a quiet day, else what was done, what failed, what waits for whom, and who changed their mind. Pure.
 *
 * Invariants. The message fits Slack's limits whatever stands in it: each list has its share of the room, measured as sent, and what does
 * not fit is counted ("showing 8 of 31"). Outside words are inline code, cut, and named by what they are: they can neither ping nor format.
 */
import type {
  DigestChanged,
  DigestDone,
  DigestFailed,
  DigestNotDone,
  DigestTask,
  DigestView,
  DigestWaiting,
  Shortened,
} from '../../views.ts';
import { channel, codeSpan, dateToken, LIMITS, mention, mentions } from '../text.ts';
import { type CardBlock, context, type Drawn, mrkdwn, plainElement } from './blocks.ts';
import { duration } from './words.ts';

/** Room of one list, as JSON: five of them with the frame stay below what Slack takes in one message. */
const LIST_ROOM = 2_200;
/** Of outside words on one line. */
const OBJECTIVE = 120;
const REASON = 160;
const PEOPLE = 5;
const ACTIONS = 4;

export function digestCard(digest: DigestView): Drawn {
  if (isQuiet(digest)) {
    const line = `Nothing to report ${since(digest)}.`;
    return { blocks: [mrkdwn(line)], text: line };
  }
  const date = dayOf(digest.localDate);
  const counts = headline(digest);
  const blocks: CardBlock[] = [
    { type: 'header', text: plainElement(date) },
    mrkdwn(`*${counts}* ${since(digest)}`),
  ];
  if (digest.late) blocks.push(context(`Late: nothing ran at ${clockOf(digest)}, when it was due`));
  blocks.push(
    ...list('Done', digest.done, doneLine),
    ...list('Waiting', digest.waiting, waitingLine),
    ...list('Failed', digest.failed, failedLine),
    ...list('Ended with nothing done', digest.notDone, notDoneLine),
    ...list('Changed minds', digest.changed, changedLine),
  );
  const foot = footer(digest);
  if (foot !== '') blocks.push(context(foot));
  return { blocks, text: `${date}: ${counts}` };
}

function isQuiet(digest: DigestView): boolean {
  const { done, notDone, failed, waiting, changed } = digest;
  return [done, notDone, failed, waiting, changed].every((one) => one.total === 0);
}

/** `Friday 20 November`. */
function dayOf(localDate: string): string {
  const date = Temporal.PlainDate.from(localDate);
  const part = (options: Intl.DateTimeFormatOptions) => date.toLocaleString('en-GB', options);
  return `${part({ weekday: 'long' })} ${date.day} ${part({ month: 'long' })}`;
}

function clockOf({ plannedAt, timeZone }: DigestView): string {
  if (plannedAt === null) return 'its time';
  const at = Temporal.Instant.from(plannedAt).toZonedDateTimeISO(timeZone);
  return `${at.toPlainTime().toString({ smallestUnit: 'minute' })} ${dayOf(at.toPlainDate().toString())}`;
}

/** Since when, in the words of somebody who reads it on `localDate`. */
function since({ sinceAt, timeZone, localDate }: DigestView): string {
  if (sinceAt === null) return 'so far';
  const at = Temporal.Instant.from(sinceAt).toZonedDateTimeISO(timeZone);
  const { days } = at.toPlainDate().until(localDate, { largestUnit: 'days' });
  if (days <= 0) return `since ${at.toPlainTime().toString({ smallestUnit: 'minute' })}`;
  const day = dayOf(at.toPlainDate().toString());
  return `since ${days < 7 ? day.split(' ')[0] : day}`;
}

function headline({ done, failed, waiting, notDone }: DigestView): string {
  const parts = [`${done.total} ${done.total === 1 ? 'task' : 'tasks'} done`];
  if (failed.total > 0) parts.push(`${failed.total} failed`);
  if (waiting.total > 0) parts.push(`${waiting.total} waiting`);
  if (notDone.total > 0) parts.push(`${notDone.total} ended with nothing done`);
  return parts.join(', ');
}

/** A heading and its lines, as many as fit; nothing for an empty list. */
function list<Item>(
  title: string,
  { items, total }: Shortened<Item>,
  line: (item: Item) => string,
): CardBlock[] {
  if (total === 0) return [];
  const lines = [`*${title}*`];
  let room = Math.min(LIST_ROOM, LIMITS.sectionText);
  let shown = 0;
  for (const item of items) {
    const text = `• ${line(item)}`;
    // As it is sent: quotes and backslashes count twice there.
    room -= JSON.stringify(text).length;
    if (room < 0) break;
    lines.push(text);
    shown += 1;
  }
  if (shown < total) lines.push(`Showing ${shown} of ${total}`);
  return [mrkdwn(lines.join('\n'))];
}

/** What was asked for, where that may be said; else by whom and where. */
function name(task: DigestTask): string {
  if (task.objective !== null) return codeSpan(task.objective, OBJECTIVE);
  if (task.requester === null) return `Run ${codeSpan(task.runId, 40)}`;
  const place = task.channelId === null ? '' : ` in ${channel(task.channelId)}`;
  return `A task of ${mention(task.requester)}${place}`;
}

function doneLine(task: DigestDone): string {
  if (task.actions.length === 0) return `${name(task)} · nothing was changed outside`;
  const actions = task.actions.slice(0, ACTIONS).map(({ kind, approvedBy, settled }) => {
    const by = approvedBy.length === 0 ? 'allowed by policy' : `approved by ${mentions(approvedBy, PEOPLE)}`;
    return `${codeSpan(kind, 60)} ${by}${settled ? ', a person saw that it happened' : ''}`;
  });
  const more = task.actions.length - actions.length;
  return `${name(task)} · ${actions.join(' · ')}${more > 0 ? ` · and ${more} more` : ''}`;
}

function waitingLine(task: DigestWaiting): string {
  const who = task.people.length === 0 ? 'the operator' : mentions(task.people, PEOPLE);
  const what = task.kind === null ? '' : ` · ${codeSpan(task.kind, 60)}`;
  const until = task.until === null ? '' : `, until ${dateToken(task.until)}`;
  const when = `since ${dateToken(task.since)}${until}`;
  switch (task.what) {
    case 'decision': {
      const { given, needed } = task.approvals ?? { given: 0, needed: 1 };
      const count = needed > 1 ? ` (${given} of ${needed})` : '';
      return `${name(task)}${what} · waits for ${who}${count} ${when}`;
    }
    case 'settlement':
      return `${name(task)}${what} · outcome unknown: ${who} must look and say, ${when}`;
    case 'operator':
      return `${name(task)} · stopped: ${who} must look, ${when}`;
    default:
      return task.what satisfies never;
  }
}

function failedLine(task: DigestFailed): string {
  const why = task.why === null || task.why === '' ? '' : ` · ${codeSpan(task.why, REASON)}`;
  return `${name(task)} · ${codeSpan(task.code, 60)}${why}`;
}

const BECAUSE: Readonly<Record<DigestNotDone['because'], string>> = {
  rejected: 'rejected',
  changes_requested: 'sent back for changes',
  expired: 'nobody decided in time',
  denied: 'denied by policy',
  failed: 'its action failed',
  unknown: 'nobody can tell yet whether its action happened',
  withdrawn: 'withdrawn',
  superseded: 'its target kept changing',
  cancelled: 'cancelled',
};

function notDoneLine(task: DigestNotDone): string {
  return `${name(task)} · ${BECAUSE[task.because]}`;
}

const CHANGED: Readonly<Record<DigestChanged['what'], string>> = {
  rejected: 'rejected',
  changes_requested: 'sent back for changes',
  revoked: 'revoked',
};

function changedLine(task: DigestChanged): string {
  const kind = task.kind === null ? '' : ` ${codeSpan(task.kind, 60)}`;
  const by = task.by === null ? '' : ` by ${mention(task.by)}`;
  const reason = task.reason === null || task.reason === '' ? '' : `: ${codeSpan(task.reason, REASON)}`;
  return `${name(task)} ·${kind} ${CHANGED[task.what]}${by}${reason}`;
}

function footer(digest: DigestView): string {
  const parts: string[] = [];
  if (digest.spentUsd !== null) parts.push(`$${digest.spentUsd.toFixed(2)} spent`);
  if (digest.medianDecisionMs !== null)
    parts.push(`median wait for a decision ${duration(digest.medianDecisionMs)}`);
  if (digest.seal !== null)
    parts.push(
      `ledger seal ${digest.seal.no.toLocaleString('en-US')} ${codeSpan(digest.seal.hash.slice(0, 12))}`,
    );
  if (digest.more) parts.push('more happened than I read: the counts are lower bounds');
  return parts.join(' · ');
}
