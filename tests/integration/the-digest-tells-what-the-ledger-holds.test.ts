/**
 * Guarantee: the digest tells every way a task can end, who decided, who is waited for and since when, what was spent, and the seal it
 * rests on; it reads the ledger and nothing else. Every entry is in exactly one morning's digest, also one that committed late. Words of a
 * task stand only where it was asked for, or where only its requester reads; erased words are gone from it. A retried task is under way, no failure.
 */
import { randomUUID } from 'node:crypto';
import { beforeEach, describe, expect, test } from 'vitest';
import { makeDigest, oweDigest, readDigest } from '../../src/jobs/digest.ts';
import { appendEntry, type EntryKind, sealOnce } from '../../src/jobs/ledger.ts';
import { putSchedule } from '../../src/jobs/schedules.ts';
import type { JsonObject } from '../../src/types.ts';
import type { DigestView } from '../../src/views.ts';
import { useDatabase, WORKSPACE } from '../support/database.ts';

const base = useDatabase();
const HERE = 'C0ENG';
const ELSEWHERE = 'C0GENERAL';
const REQUESTER = 'T0LOCAL/U0REQUESTER';
const REVIEWER_A = { teamId: 'T0LOCAL', userId: 'U0REVIEWERA' };
const REVIEWER_B = { teamId: 'T0LOCAL', userId: 'U0REVIEWERB' };
const MERGE = 'github.pulls.merge';

let scheduleId: string;
let day = 0;
beforeEach(async () => {
  // A schedule of its own per test: its first digest begins with it.
  await base.db.query({ text: `update schedules set name = name || '-' || schedule_id` });
  ({ scheduleId } = await base.db.transaction((tx) =>
    putSchedule(
      tx,
      {
        workspaceId: WORKSPACE,
        name: 'morning-digest',
        owner: REVIEWER_A,
        workflowName: 'morning-digest',
        workflowVersion: 1,
        input: { channelId: HERE },
        cron: '0 9 * * 1-5',
        timeZone: 'Etc/UTC',
        catchUp: 'once',
        audience: HERE,
        paused: false,
      },
      'test',
    ),
  ));
  await seal();
  await morning();
});

const seal = async () => {
  while ((await sealOnce(base.db)) !== 'done');
};

/** Makes the digest of another date and reads it. */
async function morning(late = false): Promise<DigestView> {
  day += 1;
  const localDate = Temporal.PlainDate.from('2026-11-01').add({ days: day }).toString();
  const digestId = await base.db.transaction((tx) =>
    makeDigest(tx, WORKSPACE, HERE, {
      scheduleId,
      localDate,
      plannedAt: `${localDate}T09:00:00Z`,
      timeZone: 'Etc/UTC',
      late,
      owner: REVIEWER_A,
    }),
  );
  const view = await readDigest(base.db, WORKSPACE, digestId ?? '');
  if (!view) throw new Error('no digest');
  return view;
}

interface Story {
  readonly runId: string;
  readonly actionId: string;
  readonly requestId: string;
  say(kind: EntryKind, facts?: JsonObject, words?: Record<string, string>): Promise<void>;
}

/** A task as the ledger has it, asked for in `channel`. */
async function task(objective: string, channel = HERE): Promise<Story> {
  const [runId, actionId, requestId] = [randomUUID(), randomUUID(), randomUUID()];
  const story: Story = {
    runId,
    actionId,
    requestId,
    say: (kind, facts = {}, words = {}) =>
      base.db.transaction((tx) =>
        appendEntry(tx, { workspaceId: WORKSPACE, subjectKind: 'run', subjectId: runId, kind, facts, words }),
      ),
  };
  await story.say('task.accepted', { requester: REQUESTER, channel }, { objective });
  return story;
}

async function asked(story: Story, quorum = 1): Promise<Story> {
  const { actionId, requestId } = story;
  await story.say('action.proposed', { actionId, kind: MERGE });
  await story.say('approval.requested', {
    requestId,
    actionId,
    quorum,
    reviewers: ['T0LOCAL/U0REVIEWERA', 'T0LOCAL/U0REVIEWERB'],
    deadlineAt: '2026-12-01T17:00:00.000Z',
  });
  return story;
}

async function decided(story: Story, decision: string, closing: EntryKind | null, reason?: string) {
  const { actionId, requestId } = story;
  await story.say(
    'approval.decided',
    { requestId, decision, person: 'T0LOCAL/U0REVIEWERA' },
    reason === undefined ? {} : { reason },
  );
  if (closing !== null) await story.say(closing, { requestId, actionId });
}

async function merged(objective: string, end: JsonObject = {}): Promise<Story> {
  const story = await asked(await task(objective));
  await decided(story, 'approve', 'approval.approved');
  await story.say('action.done', { actionId: story.actionId, kind: MERGE });
  await story.say('task.finished', end, { summary: 'I merged it.' });
  return story;
}

const counts = ({ done, notDone, failed, waiting, changed }: DigestView) => ({
  done: done.total,
  notDone: notDone.total,
  failed: failed.total,
  waiting: waiting.total,
  changed: changed.total,
});
const NOTHING = { done: 0, notDone: 0, failed: 0, waiting: 0, changed: 0 };

describe('a task that ended', () => {
  test('with its action done says what and on whose word', async () => {
    await merged('merge pull request 1');
    await seal();

    const view = await morning();

    expect(counts(view)).toEqual({ ...NOTHING, done: 1 });
    expect(view.done.items).toMatchObject([
      {
        objective: 'merge pull request 1',
        requester: { userId: 'U0REQUESTER' },
        actions: [{ kind: MERGE, approvedBy: [REVIEWER_A], settled: false }],
      },
    ]);
    expect(view.medianDecisionMs).toBeGreaterThanOrEqual(0);
  });

  test('with an action that the policy allowed, with none at all, and with one a person saw happen', async () => {
    const allowed = await task('label the issues');
    await allowed.say('action.permitted', { actionId: allowed.actionId, kind: 'github.issues.addLabels' });
    await allowed.say('action.done', { actionId: allowed.actionId, kind: 'github.issues.addLabels' });
    await allowed.say('task.finished');
    await (await task('what can you do?')).say('task.finished');
    const seen = await asked(await task('merge pull request 2'));
    await decided(seen, 'approve', 'approval.approved');
    await seen.say('action.unknown', { actionId: seen.actionId, kind: MERGE });
    await seen.say('action.settled', { actionId: seen.actionId, kind: MERGE, happened: true });
    await seen.say('task.finished');
    await seal();

    const view = await morning();

    expect(counts(view)).toEqual({ ...NOTHING, done: 3 });
    const byObjective = new Map(view.done.items.map((item) => [item.objective, item.actions]));
    expect(byObjective.get('label the issues')).toEqual([
      { kind: 'github.issues.addLabels', approvedBy: [], settled: false },
    ]);
    expect(byObjective.get('what can you do?')).toEqual([]);
    expect(byObjective.get('merge pull request 2')).toMatchObject([
      { settled: true, approvedBy: [REVIEWER_A] },
    ]);
  });

  test('with nothing done says why, by the last word on it', async () => {
    const rejected = await asked(await task('merge pull request 3'));
    await decided(rejected, 'reject', 'approval.rejected', 'wait for the release');
    await rejected.say('task.finished');
    const expired = await asked(await task('merge pull request 4'));
    await expired.say('approval.expired', { requestId: expired.requestId });
    await expired.say('task.finished');
    const denied = await task('delete everything');
    await denied.say('action.denied', { actionId: denied.actionId });
    await denied.say('task.finished');
    const cancelled = await asked(await task('merge pull request 5'));
    await cancelled.say('approval.withdrawn', { requestId: cancelled.requestId });
    await cancelled.say('task.cancelled', { code: 'RUN_CANCELLED' });
    await seal();

    const view = await morning();

    expect(counts(view)).toEqual({ ...NOTHING, notDone: 4, changed: 1 });
    expect(Object.fromEntries(view.notDone.items.map((item) => [item.objective, item.because]))).toEqual({
      'merge pull request 3': 'rejected',
      'merge pull request 4': 'expired',
      'delete everything': 'denied',
      'merge pull request 5': 'cancelled',
    });
    expect(view.changed.items).toMatchObject([
      { what: 'rejected', kind: MERGE, by: REVIEWER_A, reason: 'wait for the release' },
    ]);
  });

  test('by failing says why; retried, it is under way and none of this', async () => {
    const failed = await task('bump lodash');
    await failed.say('task.failed', { code: 'MODEL_REFUSED' }, { summary: 'Stopped: no credit' });
    const retried = await task('bump react');
    await retried.say('task.failed', { code: 'MODEL_REFUSED' }, { summary: 'Stopped: no credit' });
    await retried.say('run.retried');
    await seal();

    const view = await morning();
    expect(counts(view)).toEqual({ ...NOTHING, failed: 1 });
    expect(view.failed.items).toMatchObject([
      { objective: 'bump lodash', code: 'MODEL_REFUSED', why: 'Stopped: no credit' },
    ]);

    await retried.say('task.finished');
    await seal();
    expect(counts(await morning())).toEqual({ ...NOTHING, done: 1 });
  });
});

describe('what waits', () => {
  test('is told every morning until it ends: for whom, how many of how many, since when, until when', async () => {
    const story = await asked(await task('merge pull request 6'), 2);
    await decided(story, 'approve', null);
    await seal();

    for (const view of [await morning(), await morning()]) {
      expect(counts(view)).toEqual({ ...NOTHING, waiting: 1 });
      expect(view.waiting.items).toMatchObject([
        {
          what: 'decision',
          objective: 'merge pull request 6',
          kind: MERGE,
          people: [REVIEWER_A, REVIEWER_B],
          approvals: { given: 1, needed: 2 },
          until: '2026-12-01T17:00:00.000Z',
        },
      ]);
      expect(Date.parse(view.waiting.items[0]?.since ?? '')).not.toBeNaN();
    }

    await decided(story, 'reject', 'approval.rejected');
    await story.say('task.finished');
    await seal();
    expect(counts(await morning())).toEqual({ ...NOTHING, notDone: 1, changed: 1 });
    expect(counts(await morning())).toEqual(NOTHING);
  });

  test('is also an outcome nobody knows, and a run that needs its operator', async () => {
    const unknown = await asked(await task('merge pull request 7'));
    await decided(unknown, 'approve', 'approval.approved');
    await unknown.say('action.unknown', { actionId: unknown.actionId, kind: MERGE });
    const parked = await task('fix the tests');
    await parked.say('run.parked', { code: 'JOURNAL_MISMATCH' });
    await seal();

    const view = await morning();
    expect(view.waiting.items).toMatchObject([
      { what: 'settlement', kind: MERGE, people: [REVIEWER_A, REVIEWER_B], until: null },
      { what: 'operator', objective: 'fix the tests', kind: null, people: [] },
    ]);

    await unknown.say('action.settled', { actionId: unknown.actionId, happened: false });
    await parked.say('run.retried');
    await seal();
    expect(counts(await morning())).toEqual(NOTHING);
  });

  test('is not an action whose request was replaced by another', async () => {
    const story = await asked(await task('merge pull request 8'));
    const newer = randomUUID();
    await story.say('approval.superseded', { requestId: story.requestId });
    await story.say('approval.requested', {
      requestId: newer,
      actionId: story.actionId,
      quorum: 1,
      reviewers: [],
    });
    await seal();

    expect((await morning()).waiting.total).toBe(1);

    await story.say('approval.withdrawn', { requestId: newer });
    await seal();
    expect((await morning()).waiting.total).toBe(0);
  });
});

describe('every entry is in one digest', () => {
  test('also one that committed after the digest that its time belongs to', async () => {
    await base.db.transaction(async (tx) => {
      const runId = randomUUID();
      const entry = { workspaceId: WORKSPACE, subjectKind: 'run', subjectId: runId } as const;
      await appendEntry(tx, {
        ...entry,
        kind: 'task.accepted',
        facts: { requester: REQUESTER, channel: HERE },
      });
      await appendEntry(tx, { ...entry, kind: 'task.finished', facts: {} });
      // While it is written but not committed, the morning comes.
      await seal();
      expect(counts(await morning())).toEqual(NOTHING);
    });
    await seal();

    expect(counts(await morning())).toEqual({ ...NOTHING, done: 1 });
    expect(counts(await morning())).toEqual(NOTHING);
  });

  test('also of a run that still waits: what was told of it is not told again', async () => {
    const unknown = await asked(await task('merge pull request 13'));
    await decided(unknown, 'approve', 'approval.approved');
    await unknown.say('action.unknown', { actionId: unknown.actionId, kind: MERGE });
    await unknown.say('task.finished');
    const again = await asked(await task('merge pull request 14'));
    await decided(again, 'request_changes', 'approval.changes_requested', 'squash it');
    const requestId = randomUUID();
    await again.say('approval.requested', { requestId, actionId: again.actionId, quorum: 1, reviewers: [] });
    await seal();

    expect(counts(await morning())).toEqual({ ...NOTHING, notDone: 1, changed: 1, waiting: 2 });
    const second = await morning();
    expect(counts(second)).toEqual({ ...NOTHING, waiting: 2 });
    expect(second.medianDecisionMs).toBeNull();

    await unknown.say('action.settled', { actionId: unknown.actionId, happened: true });
    await again.say('approval.withdrawn', { requestId });
    await seal();
    expect(counts(await morning())).toEqual(NOTHING);
  });

  test('and a date has one: the second is none', async () => {
    const again = () =>
      base.db.transaction((tx) =>
        makeDigest(tx, WORKSPACE, HERE, {
          scheduleId,
          localDate: '2026-12-31',
          plannedAt: '2026-12-31T09:00:00Z',
          timeZone: 'Etc/UTC',
          late: false,
          owner: REVIEWER_A,
        }),
      );
    const made = await Promise.all([again(), again(), again()]);

    expect(made.filter((id) => id !== null)).toHaveLength(1);
    const { rows } = await base.db.query({
      text: `select 1 from deliveries where view_kind = 'digest' and subject_id = any ($1::uuid[])`,
      values: [made.filter((id) => id !== null)],
    });
    expect(rows).toHaveLength(1);
  });

  test('what a person asks for takes nothing away from it, and holds what is not sealed yet', async () => {
    await merged('merge pull request 9');
    const ask = () =>
      base.db.transaction((tx) =>
        oweDigest(tx, {
          workspaceId: WORKSPACE,
          person: REVIEWER_A,
          channelId: HERE,
          forAll: false,
          timeZone: 'Etc/UTC',
        }),
      );
    await ask();
    await ask();
    const { rows } = await base.db.query<{ digest_id: string }>({
      text: 'select digest_id from digests where schedule_id is null',
    });
    for (const { digest_id } of rows) {
      const view = await readDigest(base.db, WORKSPACE, digest_id);
      expect(view && counts(view)).toEqual({ ...NOTHING, done: 1 });
    }
    expect(rows).toHaveLength(2);
    await seal();
    expect(counts(await morning())).toEqual({ ...NOTHING, done: 1 });
  });
});

test('spend is what the ends say, less what was told of a retried task before', async () => {
  const story = await task('bump lodash');
  await story.say('task.failed', { code: 'X', costUsd: '0.250000' });
  await merged('merge pull request 10', { costUsd: '0.180000' });
  await seal();
  expect((await morning()).spentUsd).toBeCloseTo(0.43);

  await story.say('run.retried');
  await story.say('task.finished', { costUsd: '0.300000' });
  await seal();
  expect((await morning()).spentUsd).toBeCloseTo(0.05);

  await merged('merge pull request 11');
  await seal();
  expect((await morning()).spentUsd).toBeNull();
});

test('words are told where the task was asked for, to its requester, and nowhere else; erased ones nowhere', async () => {
  const secret = await task('the secret plan', ELSEWHERE);
  await secret.say('task.failed', { code: 'X' }, { summary: 'Stopped: the secret cause' });
  const rejected = await asked(await task('the other plan', ELSEWHERE));
  await decided(rejected, 'reject', 'approval.rejected', 'a secret reason');
  await rejected.say('task.finished');
  const erased = await merged('words to be erased');
  await base.db.query({
    text: `delete from ledger_words where entry_id in (select entry_id from ledger_entries where subject_id = $1)`,
    values: [erased.runId],
  });
  await seal();

  const view = await morning();

  expect(counts(view)).toEqual({ ...NOTHING, done: 1, failed: 1, notDone: 1, changed: 1 });
  expect(JSON.stringify(view)).not.toMatch(/secret|\bplan\b|erased/);
  expect(view.failed.items).toMatchObject([{ objective: null, why: null, channelId: ELSEWHERE }]);
  expect(view.done.items).toMatchObject([{ objective: null }]);

  const ownOf = async (userId: string) => {
    await base.db.transaction((tx) =>
      oweDigest(tx, {
        workspaceId: WORKSPACE,
        person: { teamId: 'T0LOCAL', userId },
        channelId: HERE,
        forAll: false,
        timeZone: 'Etc/UTC',
      }),
    );
    const { rows } = await base.db.query<{ digest_id: string }>({
      text: 'select digest_id from digests where reader_user_id = $1 order by made_at desc limit 1',
      values: [userId],
    });
    return JSON.stringify(await readDigest(base.db, WORKSPACE, rows[0]?.digest_id ?? ''));
  };
  const late = await task('the third plan', ELSEWHERE);
  await late.say('task.failed', { code: 'X' }, { summary: 'Stopped: the secret cause' });
  expect(await ownOf('U0REQUESTER')).toMatch(/the third plan.*the secret cause/);
  expect(await ownOf('U0REVIEWERA')).not.toMatch(/secret|\bplan\b/);
});

test('it names the seal it rests on, and says when it is late', async () => {
  await merged('merge pull request 12');
  await seal();
  const { rows } = await base.db.query<{ seal_no: string; seal: Buffer }>({
    text: 'select seal_no, seal from ledger_seals order by seal_no desc limit 1',
  });

  const view = await morning(true);

  expect(view.seal).toEqual({ no: Number(rows[0]?.seal_no), hash: rows[0]?.seal.toString('hex') });
  expect(view.late).toBe(true);
});
