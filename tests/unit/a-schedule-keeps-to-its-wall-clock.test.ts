/**
 * Guarantee: nine in the morning of a weekday is nine on the wall of the schedule's zone, whatever the clocks of that zone do: on the nights
 * they are put forward or back, by an hour or by half, where the zone stands on odd minutes, and where a date does not exist. What follows
 * is always later, in time and in date; a date comes once. A time that the clocks leave out happens when they go on, one that comes twice
 * happens once. What nobody reads is refused.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { hasCode } from '../../src/errors.ts';
import { latestOccurrence, nextOccurrence, parseRecurrence } from '../../src/jobs/recurrence.ts';

const WEEKDAYS_AT_NINE = parseRecurrence('0 9 * * 1-5');

/** The instants of the next `count` occurrences after `from`, as UTC. */
function following(zone: string, from: string, count: number, recurrence = WEEKDAYS_AT_NINE): string[] {
  const found: string[] = [];
  let after = Temporal.Instant.from(from);
  let served: Temporal.PlainDate | null = null;
  for (let i = 0; i < count; i += 1) {
    const next = nextOccurrence(recurrence, zone, after, served);
    found.push(next.at.toString());
    after = next.at;
    served = next.date;
  }
  return found;
}

describe('weekdays at nine', () => {
  it.each([
    // Forward in the night to Sunday 29 March 2026, back in the night to Sunday 25 October.
    ['Europe/Berlin', '2026-03-27T00:00Z', ['2026-03-27T08:00:00Z', '2026-03-30T07:00:00Z']],
    ['Europe/Berlin', '2026-10-23T00:00Z', ['2026-10-23T07:00:00Z', '2026-10-26T08:00:00Z']],
    ['America/New_York', '2026-03-06T00:00Z', ['2026-03-06T14:00:00Z', '2026-03-09T13:00:00Z']],
    ['America/New_York', '2026-10-30T00:00Z', ['2026-10-30T13:00:00Z', '2026-11-02T14:00:00Z']],
    // By half an hour: +10:30 in winter, +11 in summer.
    ['Australia/Lord_Howe', '2026-04-02T12:00Z', ['2026-04-02T22:00:00Z', '2026-04-05T22:30:00Z']],
    ['Australia/Lord_Howe', '2026-10-01T12:00Z', ['2026-10-01T22:30:00Z', '2026-10-04T22:00:00Z']],
    // +05:45, all the year round.
    ['Asia/Kathmandu', '2026-11-20T00:00Z', ['2026-11-20T03:15:00Z', '2026-11-23T03:15:00Z']],
    // Samoa left out Friday 30 December 2011.
    ['Pacific/Apia', '2011-12-29T00:00Z', ['2011-12-29T19:00:00Z', '2012-01-01T19:00:00Z']],
  ])('in %s from %s', (zone, from, expected) => {
    expect(following(zone, from, expected.length)).toEqual(expected);
  });

  it('strictly increases and is nine on a weekday, in any zone at any instant', () => {
    const zones = Intl.supportedValuesOf('timeZone');
    fc.assert(
      fc.property(
        fc.constantFrom(...zones),
        fc.integer({ min: Date.UTC(1971, 0), max: Date.UTC(2090, 0) }),
        (zone, atMs) => {
          let after = Temporal.Instant.fromEpochMilliseconds(atMs);
          let served: Temporal.PlainDate | null = null;
          for (let i = 0; i < 8; i += 1) {
            const next = nextOccurrence(WEEKDAYS_AT_NINE, zone, after, served);
            const local = next.at.toZonedDateTimeISO(zone);

            expect(Temporal.Instant.compare(next.at, after)).toBe(1);
            if (served) expect(Temporal.PlainDate.compare(next.date, served)).toBe(1);
            expect(local.toPlainDate().equals(next.date)).toBe(true);
            expect(local.dayOfWeek).toBeLessThanOrEqual(5);
            expect(local.toPlainTime().toString()).toBe('09:00:00');
            // A moment later it is the last one there was, and a moment before it was not.
            expect(latestOccurrence(WEEKDAYS_AT_NINE, zone, next.at).at.equals(next.at)).toBe(true);
            const before = latestOccurrence(WEEKDAYS_AT_NINE, zone, next.at.subtract({ milliseconds: 1 }));
            expect(Temporal.PlainDate.compare(before.date, next.date)).toBe(-1);
            after = next.at;
            served = next.date;
          }
        },
      ),
      { numRuns: 300 },
    );
  });

  it('leaves out the dates that were served, also when the zone moved behind them', () => {
    const wednesdayNoonUtc = Temporal.Instant.from('2026-11-18T12:00Z');
    const served = Temporal.PlainDate.from('2026-11-18');

    // New York's own nine o'clock of that Wednesday is still to come.
    expect(nextOccurrence(WEEKDAYS_AT_NINE, 'America/New_York', wednesdayNoonUtc, null).at.toString()).toBe(
      '2026-11-18T14:00:00Z',
    );
    expect(nextOccurrence(WEEKDAYS_AT_NINE, 'America/New_York', wednesdayNoonUtc, served).at.toString()).toBe(
      '2026-11-19T14:00:00Z',
    );
  });
});

describe('a time that the clocks touch', () => {
  const nights = parseRecurrence('30 2 * * *');

  it('happens once, when the clocks go on, where they leave it out', () => {
    expect(following('Europe/Berlin', '2026-03-27T12:00Z', 3, nights)).toEqual([
      '2026-03-28T01:30:00Z',
      '2026-03-29T01:30:00Z',
      '2026-03-30T00:30:00Z',
    ]);
  });

  it('happens once where it comes twice', () => {
    expect(following('Europe/Berlin', '2026-10-23T12:00Z', 3, nights)).toEqual([
      '2026-10-24T00:30:00Z',
      '2026-10-25T00:30:00Z',
      '2026-10-26T01:30:00Z',
    ]);
  });
});

describe('a recurrence', () => {
  it.each([
    ['0 9 * * 1-5', [1, 2, 3, 4, 5]],
    ['0 9 * * *', [1, 2, 3, 4, 5, 6, 7]],
    ['0 9 * * 0', [7]],
    ['0 9 * * 7', [7]],
    ['0 9 * * 0-2', [1, 2, 7]],
    ['0 9 * * 1,3,5-6', [1, 3, 5, 6]],
  ])('%s is read', (cron, days) => {
    const read = parseRecurrence(cron);

    expect([...read.days].sort()).toEqual(days);
    expect(read).toMatchObject({ hour: 9, minute: 0 });
  });

  it.each([
    '',
    '0 9',
    '0 9 * *',
    '0 9 1 * 1',
    '0 9 * 1 1',
    '60 9 * * 1',
    '0 24 * * 1',
    '*/5 9 * * 1',
    '0 9 * * 8',
    '0 9 * * 5-1',
    '0 9 * * MON',
    '0 9 * * 1 2026',
    '@daily',
    '0 -9 * * 1',
    '0 9.5 * * 1',
    '0 9 * * ,',
  ])('%j is refused, not guessed at', (cron) => {
    try {
      parseRecurrence(cron);
    } catch (error) {
      expect(hasCode(error, 'CONFIG_INVALID')).toBe(true);
      return;
    }
    expect.fail('it was read');
  });
});
