/**
 * When something recurs: a time of day on days of the week, in a zone. Pure; Temporal knows the zones.
 *
 * Invariants. A local date occurs at most once, whatever the clocks do: a time that an hour's jump forward left out happens when the jump
 * ends, one that comes twice happens the first time, a date that a zone left out does not happen. What follows is always later than what
 * was, in time and in date.
 *
 * Why not a cron library: of cron we need the minute, the hour and the days of the week, in a zone; what a library decides about gaps,
 * overlaps and dates that were served already would have to be checked day by day all the same, and that is all there is here.
 */
import { CountersignError } from '../errors.ts';

/** A parsed recurrence. Days as Temporal counts them: 1 Monday to 7 Sunday. */
export interface Recurrence {
  readonly hour: number;
  readonly minute: number;
  readonly days: ReadonlySet<number>;
}

/** One moment at which a schedule starts its work. */
export interface Occurrence {
  readonly at: Temporal.Instant;
  /** In the schedule's zone: what makes it happen once. */
  readonly date: Temporal.PlainDate;
}

/** Days looked at for one occurrence: a week, one more for a date that does not exist, two for where a zone's change leaves the date. */
const MAX_DAYS = 17;

/**
 * Reads `minute hour * * days`, as cron writes it: `0 9 * * 1-5`. Days are `*`, numbers from 0 or 7 (Sunday), ranges and lists of both.
 * Throws CONFIG_INVALID for everything else, also for what cron would take: nothing is half understood.
 */
export function parseRecurrence(cron: string): Recurrence {
  const [minute, hour, dayOfMonth, month, days, ...rest] = cron.trim().split(/\s+/);
  const refuse = (): never => {
    throw new CountersignError(
      'CONFIG_INVALID',
      `A schedule is written as "minute hour * * days-of-week"; this is not: ${JSON.stringify(cron)}`,
    );
  };
  if (dayOfMonth !== '*' || month !== '*' || days === undefined || rest.length > 0) return refuse();
  const wanted = new Set<number>();
  for (const part of days.split(',')) {
    const [, from, to] = /^([0-7])(?:-([0-7]))?$/.exec(part === '*' ? '1-7' : part) ?? [];
    if (from === undefined || Number(to ?? from) < Number(from)) return refuse();
    for (let day = Number(from); day <= Number(to ?? from); day += 1) wanted.add(day === 0 ? 7 : day);
  }
  return { minute: upTo(59, minute) ?? refuse(), hour: upTo(23, hour) ?? refuse(), days: wanted };
}

function upTo(highest: number, text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,2}$/.test(text) && Number(text) <= highest ? Number(text) : undefined;
}

/** The first occurrence later than `after` whose local date is later than `servedDate`. */
export function nextOccurrence(
  recurrence: Recurrence,
  timeZone: string,
  after: Temporal.Instant,
  servedDate: Temporal.PlainDate | null,
): Occurrence {
  let date = after.toZonedDateTimeISO(timeZone).toPlainDate();
  if (servedDate !== null && Temporal.PlainDate.compare(date, servedDate) <= 0)
    date = servedDate.add({ days: 1 });
  for (let day = 0; day < MAX_DAYS; day += 1, date = date.add({ days: 1 })) {
    const found = occurrenceOn(recurrence, timeZone, date);
    if (found !== null && Temporal.Instant.compare(found.at, after) > 0) return found;
  }
  throw new Error(`no occurrence after ${after} in ${timeZone}`);
}

/** The last occurrence that is not later than `at`. */
export function latestOccurrence(recurrence: Recurrence, timeZone: string, at: Temporal.Instant): Occurrence {
  let date = at.toZonedDateTimeISO(timeZone).toPlainDate();
  for (let day = 0; day < MAX_DAYS; day += 1, date = date.subtract({ days: 1 })) {
    const found = occurrenceOn(recurrence, timeZone, date);
    if (found !== null && Temporal.Instant.compare(found.at, at) <= 0) return found;
  }
  throw new Error(`no occurrence until ${at} in ${timeZone}`);
}

function occurrenceOn(
  { hour, minute, days }: Recurrence,
  timeZone: string,
  date: Temporal.PlainDate,
): Occurrence | null {
  if (!days.has(date.dayOfWeek)) return null;
  // `compatible`, the default: a time in a gap is as much later as the gap is long, of two the first is taken.
  const zoned = date.toZonedDateTime({ timeZone, plainTime: { hour, minute } });
  // A date that its zone left out, as Samoa did with 30 December 2011, would come out as the next one.
  return zoned.toPlainDate().equals(date) ? { at: zoned.toInstant(), date } : null;
}
