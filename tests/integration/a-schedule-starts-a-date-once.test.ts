/**
 * Guarantee: a local date of a schedule starts one run, whoever looks, however many look at once, and wherever they die; what fell due while
 * nothing ran is made up for once, by the last date alone, and marked late, or passed over where the schedule says so; a change of zone
 * never serves a date twice. A schedule that cannot be started holds up no other and is tried again. What was done is in the ledger.
 */
import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { ring } from '../../src/jobs/engine/bell.ts';
import type { Engine } from '../../src/jobs/engine/engine.ts';
import { workflow } from '../../src/jobs/engine/workflow.ts';
import type { Loop } from '../../src/jobs/loop.ts';
import {
  occurrenceInput,
  putSchedule,
  SCHEDULE_WORD,
  type ScheduleSpec,
  serveDue,
  startSchedules,
} from '../../src/jobs/schedules.ts';
import { testLog, until, useDatabase, WORKSPACE } from '../support/database.ts';
import { useEngines } from './runs-support.ts';

const base = useDatabase();
const { engineWith } = useEngines(base);
const daily = workflow({
  name: 'daily',
  version: 1,
  input: z.object({ what: z.string(), occurrence: occurrenceInput }),
  body: async () => null,
});
const OWNER = { teamId: 'T0LOCAL', userId: 'U0REVIEWERA' };

let engine: Engine;
let loops: Loop[];
beforeEach(async () => {
  loops = [];
  engine = await engineWith([daily]);
});
afterEach(async () => {
  for (const loop of loops) await loop.stop();
  // What one test leaves due is no other test's.
  await base.db.query({
    text: 'update schedules set next_at = null, paused_at = db_now() where next_at is not null',
  });
});

const specOf = (changes: Partial<ScheduleSpec> = {}): ScheduleSpec => ({
  workspaceId: WORKSPACE,
  name: `daily-${randomUUID()}`,
  owner: OWNER,
  workflowName: 'daily',
  workflowVersion: 1,
  input: { what: 'look' },
  cron: '0 9 * * 1-5',
  timeZone: 'Europe/Berlin',
  catchUp: 'once',
  audience: 'C0GENERAL',
  paused: false,
  ...changes,
});
const put = (spec: ScheduleSpec) => base.db.transaction((tx) => putSchedule(tx, spec, 'test'));
const serve = (id: string) => base.db.transaction((tx) => serveDue(tx, engine, WORKSPACE, id));
const runsOf = async (id: string) => {
  const { rows } = await base.db.query<{
    run_key: string;
    late: boolean;
    origin: string;
    audience: string;
    owner_user_id: string;
  }>({
    text: `select run_key, (input::jsonb #>> '{occurrence,late}')::boolean as late, origin, audience, owner_user_id from runs
           where run_key like $1 order by created_at`,
    values: [`schedule:${id}:%`],
  });
  return rows;
};
const datesOf = async (id: string) => (await runsOf(id)).map((run) => run.run_key.split(':')[2]);
const told = async (id: string) => {
  const { rows } = await base.db.query<{ entry_kind: string; body: string }>({
    text: `select entry_kind, body from ledger_entries where subject_kind = 'schedule' and subject_id = $1 order by subject_seq`,
    values: [id],
  });
  return rows.map((row) => row.entry_kind);
};
const nextOf = async (id: string) => {
  const { rows } = await base.db.query<{ next_at: Date | null }>({
    text: 'select next_at from schedules where schedule_id = $1',
    values: [id],
  });
  return rows[0]?.next_at?.toISOString() ?? null;
};

test('at nine it starts one run of its owner, and is due again the next weekday', async () => {
  await base.setTime('2026-11-19T12:00Z');
  const { scheduleId } = await put(specOf());
  expect(await nextOf(scheduleId)).toBe('2026-11-20T08:00:00.000Z');
  expect(await serve(scheduleId)).toBeUndefined();

  await base.setTime('2026-11-20T08:00:01Z');
  expect(await serve(scheduleId)).toBe('started');
  expect(await serve(scheduleId)).toBeUndefined();

  expect(await runsOf(scheduleId)).toEqual([
    {
      run_key: `schedule:${scheduleId}:2026-11-20`,
      late: false,
      origin: 'schedule',
      audience: 'C0GENERAL',
      owner_user_id: OWNER.userId,
    },
  ]);
  // Friday's is served: Saturday and Sunday are none.
  expect(await nextOf(scheduleId)).toBe('2026-11-23T08:00:00.000Z');
  await base.setTime('2026-11-22T12:00Z');
  expect(await serve(scheduleId)).toBeUndefined();
  expect(await told(scheduleId)).toEqual(['schedule.made', 'schedule.started']);
});

test('across both nights on which the clocks change it stays at nine', async () => {
  await base.setTime('2026-03-26T12:00Z');
  const { scheduleId } = await put(specOf());
  for (const morning of [
    '2026-03-27T08:00Z',
    '2026-03-30T07:00Z',
    '2026-10-23T07:00Z',
    '2026-10-26T08:00Z',
  ]) {
    await base.setTime(new Date(Date.parse(morning) - 60_000).toISOString());
    if (morning.startsWith('2026-03')) expect(await serve(scheduleId)).toBeUndefined();
    // The summer between is made up for at its last day, and is no part of this.
    else if (morning.startsWith('2026-10-23')) expect(await serve(scheduleId)).toBe('started');
    await base.setTime(morning);
    expect(await serve(scheduleId)).toBe('started');
  }
  expect(await datesOf(scheduleId)).toEqual([
    '2026-03-27',
    '2026-03-30',
    '2026-10-22',
    '2026-10-23',
    '2026-10-26',
  ]);
});

describe('two processes', () => {
  test('that look at once start one run', async () => {
    await base.setTime('2026-11-19T12:00Z');
    const { scheduleId } = await put(specOf());
    const other = await engineWith([daily]);
    for (const each of [engine, other])
      loops.push(startSchedules({ database: base.db, engine: each, bell: each.bell, log: testLog }));

    await base.setTime('2026-11-20T08:00:00Z');
    await ring(base.db, SCHEDULE_WORD);
    await until('the run', async () => (await runsOf(scheduleId)).length > 0);
    const all = await Promise.all(Array.from({ length: 8 }, () => serve(scheduleId)));

    expect(all).toEqual(Array.from({ length: 8 }, () => undefined));
    expect(await datesOf(scheduleId)).toEqual(['2026-11-20']);
    expect(await told(scheduleId)).toEqual(['schedule.made', 'schedule.started']);
  });

  test('that serve one row at the same time: one starts, the other finds it served', async () => {
    await base.setTime('2026-11-19T12:00Z');
    const { scheduleId } = await put(specOf());
    await base.setTime('2026-11-20T08:00:00Z');

    const all = await Promise.all(Array.from({ length: 6 }, () => serve(scheduleId)));

    expect(all.filter((one) => one === 'started')).toHaveLength(1);
    expect(await datesOf(scheduleId)).toEqual(['2026-11-20']);
  });
});

test('whoever dies before the commit has done nothing, and the next one does it', async () => {
  await base.setTime('2026-11-19T12:00Z');
  const { scheduleId } = await put(specOf());
  await base.setTime('2026-11-20T08:00:00Z');

  const dying = base.db.transaction(async (tx) => {
    await serveDue(tx, engine, WORKSPACE, scheduleId);
    throw new Error('killed');
  });
  await expect(dying).rejects.toThrow('killed');

  expect(await runsOf(scheduleId)).toEqual([]);
  expect(await nextOf(scheduleId)).toBe('2026-11-20T08:00:00.000Z');
  expect(await serve(scheduleId)).toBe('started');
  expect(await datesOf(scheduleId)).toEqual(['2026-11-20']);
});

describe('when nothing ran at nine', () => {
  test('one run makes up for it as soon as something does, marked late', async () => {
    await base.setTime('2026-11-19T12:00Z');
    const { scheduleId } = await put(specOf());
    await base.setTime('2026-11-20T11:17:00Z');

    loops.push(startSchedules({ database: base.db, engine, bell: engine.bell, log: testLog }));
    await until('the run', async () => (await runsOf(scheduleId)).length > 0);

    expect(await runsOf(scheduleId)).toMatchObject([
      { run_key: `schedule:${scheduleId}:2026-11-20`, late: true },
    ]);
    expect(await nextOf(scheduleId)).toBe('2026-11-23T08:00:00.000Z');
  });

  test('for many days, the last of them is made up for and no other', async () => {
    await base.setTime('2026-11-02T12:00Z');
    const { scheduleId } = await put(specOf());
    await base.setTime('2026-11-21T10:00:00Z');

    expect(await serve(scheduleId)).toBe('started');
    expect(await serve(scheduleId)).toBeUndefined();

    expect(await runsOf(scheduleId)).toMatchObject([
      { run_key: `schedule:${scheduleId}:2026-11-20`, late: true },
    ]);
    expect(await nextOf(scheduleId)).toBe('2026-11-23T08:00:00.000Z');
  });

  test('a restart of minutes is not late', async () => {
    await base.setTime('2026-11-19T12:00Z');
    const { scheduleId } = await put(specOf());
    await base.setTime('2026-11-20T08:02:00Z');

    await serve(scheduleId);

    expect(await runsOf(scheduleId)).toMatchObject([{ late: false }]);
  });

  test('and it is not to be made up for, it is passed over, which is told', async () => {
    await base.setTime('2026-11-19T12:00Z');
    const { scheduleId } = await put(specOf({ catchUp: 'skip' }));
    await base.setTime('2026-11-20T11:00:00Z');

    expect(await serve(scheduleId)).toBe('skipped');

    expect(await runsOf(scheduleId)).toEqual([]);
    expect(await nextOf(scheduleId)).toBe('2026-11-23T08:00:00.000Z');
    expect(await told(scheduleId)).toEqual(['schedule.made', 'schedule.skipped']);
  });
});

describe('a change', () => {
  test('of the zone between two days serves no date twice', async () => {
    await base.setTime('2026-11-17T12:00Z');
    const spec = specOf({ timeZone: 'Asia/Kathmandu' });
    const { scheduleId } = await put(spec);
    await base.setTime('2026-11-18T03:15:00Z');
    expect(await serve(scheduleId)).toBe('started');

    // Nine o'clock of the same Wednesday is still to come in New York.
    await base.setTime('2026-11-18T12:00:00Z');
    expect(await put({ ...spec, timeZone: 'America/New_York' })).toMatchObject({ changed: true });
    expect(await nextOf(scheduleId)).toBe('2026-11-19T14:00:00.000Z');
    await base.setTime('2026-11-18T14:00:01Z');
    expect(await serve(scheduleId)).toBeUndefined();
    await base.setTime('2026-11-19T14:00:00Z');
    expect(await serve(scheduleId)).toBe('started');

    // And back: Thursday was served, Friday comes early.
    await put(spec);
    await base.setTime('2026-11-20T03:15:00Z');
    expect(await serve(scheduleId)).toBe('started');
    expect(await datesOf(scheduleId)).toEqual(['2026-11-18', '2026-11-19', '2026-11-20']);
    expect(await told(scheduleId)).toEqual([
      'schedule.made',
      'schedule.started',
      'schedule.changed',
      'schedule.started',
      'schedule.changed',
      'schedule.started',
    ]);
  });

  test('of what it does leaves what is due due', async () => {
    await base.setTime('2026-11-19T12:00Z');
    const spec = specOf();
    const { scheduleId } = await put(spec);
    await base.setTime('2026-11-20T10:00:00Z');

    await put({ ...spec, input: { what: 'look again' } });

    expect(await serve(scheduleId)).toBe('started');
    expect(await datesOf(scheduleId)).toEqual(['2026-11-20']);
  });

  test('that changes nothing leaves no entry; a pause forgets what was due', async () => {
    await base.setTime('2026-11-19T12:00Z');
    const spec = specOf();
    const { scheduleId } = await put(spec);
    expect(await put(spec)).toMatchObject({ scheduleId, changed: false });
    await base.setTime('2026-11-20T10:00:00Z');

    await put({ ...spec, paused: true });
    expect(await serve(scheduleId)).toBeUndefined();
    expect(await nextOf(scheduleId)).toBeNull();
    await put(spec);

    expect(await nextOf(scheduleId)).toBe('2026-11-23T08:00:00.000Z');
    expect(await told(scheduleId)).toEqual(['schedule.made', 'schedule.changed', 'schedule.changed']);
  });
});

test('a served date is not taken back, also by hand', async () => {
  await base.setTime('2026-11-19T12:00Z');
  const { scheduleId } = await put(specOf());
  await base.setTime('2026-11-20T08:00:00Z');
  await serve(scheduleId);

  const back = base.db.query({
    text: `update schedules set last_local_date = '2026-11-19' where schedule_id = $1`,
    values: [scheduleId],
  });

  await expect(back).rejects.toThrow('was served up to 2026-11-20 already');
});

test('one whose workflow nobody carries holds up no other', async () => {
  await base.setTime('2026-11-19T12:00Z');
  const { scheduleId: lost } = await put(specOf({ workflowName: 'gone', cron: '0 8 * * 1-5' }));
  const { scheduleId } = await put(specOf());
  await base.setTime('2026-11-20T08:00:00Z');

  const tried: string[] = [];
  const watched: Pick<Engine, 'start'> = {
    start: (tx, options) => {
      tried.push(options.workflowName);
      return engine.start(tx, options);
    },
  };
  const { scheduleId: next } = await put(specOf());
  await base.db.query({
    text: `update schedules set next_at = db_now() + interval '700 milliseconds' where schedule_id = $1`,
    values: [next],
  });
  loops.push(startSchedules({ database: base.db, engine: watched, bell: engine.bell, log: testLog }));
  await until('the run', async () => (await runsOf(scheduleId)).length > 0);
  await until('the run of the later one', async () => (await runsOf(next)).length > 0);

  // It rests meanwhile instead of being tried as fast as it fails.
  expect(tried.toSorted()).toEqual(['daily', 'daily', 'gone']);
  expect(await runsOf(lost)).toEqual([]);
  expect(await nextOf(lost)).toBe('2026-11-20T07:00:00.000Z');
});
