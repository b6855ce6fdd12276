/**
 * Guarantee: where nobody can tell whether an action happened, a person is asked and their word settles it, once. The thread is told and the
 * card carries the two buttons; only those settle who may decide, by the newest policy; the first word stands and everybody else is told
 * whose it was and when; the record is corrected with who, when and why, and nothing is executed, or run, again by it.
 */
import { randomUUIDv7 } from 'node:crypto';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { activatePolicy, deploymentId, policyInForce } from '../../src/jobs/definitions.ts';
import { redraw } from '../../src/jobs/deliveries.ts';
import { giveUp } from '../../src/jobs/executor.ts';
import { verifyLedger } from '../../src/jobs/ledger-verify.ts';
import {
  type SettlementClicked,
  settleByClick,
  settleUnknown,
  unsettledAction,
  unsettledOf,
} from '../../src/jobs/settling.ts';
import { readTask, type Task } from '../../src/jobs/tasks.ts';
import { firstPolicy, parsePolicyPeople } from '../../src/policies/first-policy.ts';
import type { PersonFacts } from '../../src/types.ts';
import type { NoteReason } from '../../src/views.ts';
import { until } from '../support/database.ts';
import { ENGINEERING, GUEST, REQUESTER, REVIEWER_A, REVIEWER_B } from '../support/people.ts';
import { askForMerge, ledgerKinds, TEAM, useProduct } from '../support/product.ts';

const story = useProduct();
const policyOf = policyInForce((content) => firstPolicy(parsePolicyPeople(content)));
const deps = { tools: [], policyOf };
const HAPPENED = 'action.happened';
const DID_NOT_HAPPEN = 'action.did_not_happen';

let deployment = '';
beforeAll(async () => {
  deployment = await deploymentId(story.db);
});
afterEach(() => story.github('DELETE', '/_control/faults'));

interface Lost {
  readonly ts: string;
  readonly cardTs: string;
  readonly actionId: string;
  readonly task: Task;
}

/** An approved merge whose call was sent and whose fate nobody knows; the pull request stays open. Waits until the run has ended. */
async function loseMerge(): Promise<Lost> {
  const { ts, card } = await askForMerge(story);
  await story.github('POST', '/_control/faults', {
    match: { method: 'PUT', pathPattern: '/pulls/1/merge$' },
    kind: 'drop-before',
    delayMs: 200,
  });
  await press(REVIEWER_A, card.ts, 'approval.approve');
  const { actionId, task } = await until('the merge to be on its way', async () => {
    const found = await story.db.query<{ action_id: string; task_id: string }>({
      text: `select a.action_id, a.task_id from actions a join tasks t on t.task_id = a.task_id
             where t.message_ts = $1 and a.status = 'executing'`,
      values: [ts],
    });
    const row = found.rows[0];
    const read = row && (await readTask(story.db, TEAM, row.task_id));
    return read ? { actionId: row.action_id, task: read } : false;
  });
  await story.db.transaction((tx) => giveUp(tx, deps, task, actionId));
  await until('the run to end', async () => (await ledgerKinds(story, ts)).includes('task.finished'));
  await until('the card to show it', async () => (await textAt(ts, card.ts)).includes(HAPPENED));
  return { ts, cardTs: card.ts, actionId, task };
}

const press = (user: string, ts: string, actionId: string, stale = false) =>
  story.people.click(user, { channel: ENGINEERING, ts, actionId, stale });
const textAt = async (threadTs: string, ts: string): Promise<string> =>
  JSON.stringify((await story.people.thread(ENGINEERING, threadTs)).find((message) => message.ts === ts));
const notesTo = async (user: string): Promise<string> => JSON.stringify(await story.people.ephemerals(user));
const statusOf = async (actionId: string): Promise<string | undefined> => {
  const { rows } = await story.db.query<{ status: string }>({
    text: 'select status from actions where action_id = $1',
    values: [actionId],
  });
  return rows[0]?.status;
};

/** Opens the window for this answer; the person has it before them afterwards. */
async function open(user: string, cardTs: string, actionId = HAPPENED): Promise<string> {
  const before = (await story.people.views(user)).length;
  await press(user, cardTs, actionId);
  return until('the window', async () => {
    const views = await story.people.views(user);
    return views.length > before ? views.at(-1)?.id : undefined;
  });
}
const say = (user: string, reason: string, viewId: string) =>
  story.people.submitView(user, { 'reason.text': reason }, viewId);

async function entriesOf(lost: Lost, kind: string) {
  const { rows } = await story.db.query<{ facts: Record<string, unknown>; reason: string | null }>({
    text: `select e.body::json->'facts' as facts, w.words as reason from ledger_entries e
           left join ledger_words w on w.entry_id = e.entry_id and w.field = 'reason'
           where e.subject_id = $1 and e.entry_kind = $2 order by e.subject_seq`,
    values: [lost.task.runId, kind],
  });
  return rows;
}

function facts(userId: string, over: Partial<PersonFacts> = {}): PersonFacts {
  return {
    teamId: TEAM,
    userId,
    known: true,
    isBot: false,
    isGuest: false,
    isExternal: false,
    isDeactivated: false,
    ...over,
  };
}

test('the thread is asked by name, and the card says that nobody can tell and carries the two buttons', async () => {
  const { ts, cardTs } = await loseMerge();

  const card = await textAt(ts, cardTs);
  expect(card).toContain('Outcome unknown');
  expect(card).toContain(DID_NOT_HAPPEN);
  expect(card).not.toContain('approval.approve');
  const asked = await until('the question', async () =>
    (await story.people.thread(ENGINEERING, ts)).find((message) =>
      message.text.startsWith('? Outcome unknown'),
    ),
  );
  expect(JSON.stringify(asked.blocks)).toContain(`<@${REVIEWER_A}>, <@${REVIEWER_B}>`);
});

test.for([
  [HAPPENED, 'done', 'It happened'],
  [DID_NOT_HAPPEN, 'failed', 'It did not happen'],
] as const)(
  'a reviewer’s word (%s) corrects the record and tells the thread; nothing is executed by it',
  async ([button, status, words]) => {
    const lost = await loseMerge();
    const callsBefore = (await story.github('GET', '/_control/writes')).body;

    await say(REVIEWER_B, 'I looked at the pull request', await open(REVIEWER_B, lost.cardTs, button));

    await until('settled', async () => (await statusOf(lost.actionId)) === status);
    const card = await until('the card to say so', async () => {
      const text = await textAt(lost.ts, lost.cardTs);
      return !text.includes(HAPPENED) && text;
    });
    expect(card).toContain(`*${words}*, says <@${REVIEWER_B}>`);
    expect(card).toContain('I looked at the pull request');
    await until('the thread’s line', async () =>
      (await story.people.thread(ENGINEERING, lost.ts)).some(({ text }) => text.includes(`${words}: `)),
    );
    expect(await entriesOf(lost, 'action.settled')).toMatchObject([
      {
        facts: {
          actionId: lost.actionId,
          happened: status === 'done',
          person: `${TEAM}/${REVIEWER_B}`,
          ownTask: false,
        },
        reason: 'I looked at the pull request',
      },
    ]);
    // That it was unknown stays a fact, also to whoever of the run asks again.
    const { rows } = await story.db.query<{ outcome: string; status: string }>({
      text: 'select x.outcome, r.status from executions x join runs r on r.run_id = x.run_id where x.action_id = $1',
      values: [lost.actionId],
    });
    expect(rows).toEqual([{ outcome: 'unknown', status: 'completed' }]);
    expect(await story.db.transaction((tx) => giveUp(tx, deps, lost.task, lost.actionId))).toBe('unknown');
    expect((await story.github('GET', '/_control/writes')).body).toEqual(callsBefore);
    expect((await verifyLedger(story.db)).firstBad).toBeNull();
  },
);

describe('nothing is settled and the author is told', () => {
  test.for([
    [REQUESTER, /asked for this/i],
    [GUEST, /guest/i],
  ] as const)('when the click is of %s, who is asked for no words', async ([user, words]) => {
    const lost = await loseMerge();

    await press(user, lost.cardTs, HAPPENED);

    await until('a private note', async () => words.test(await notesTo(user)));
    expect(await story.people.views(user)).toEqual([]);
    expect(await statusOf(lost.actionId)).toBe('unknown');
    expect(await entriesOf(lost, 'approval.click_refused')).toMatchObject([
      { facts: { actionId: lost.actionId, person: `${TEAM}/${user}`, decision: 'happened' } },
    ]);
    expect(await textAt(lost.ts, lost.cardTs)).toContain(HAPPENED);
  });

  test('when a button is pressed that was settled meanwhile', async () => {
    const lost = await loseMerge();
    await say(REVIEWER_A, 'merged', await open(REVIEWER_A, lost.cardTs));
    await until('the card to say so', async () => !(await textAt(lost.ts, lost.cardTs)).includes(HAPPENED));

    await press(REVIEWER_B, lost.cardTs, DID_NOT_HAPPEN, true);

    await until('a private note', async () =>
      (await notesTo(REVIEWER_B)).includes(`<@${REVIEWER_A}> has said`),
    );
    expect(await statusOf(lost.actionId)).toBe('done');
  });
});

test('two reviewers at once with opposite words: one stands, the other is told whose and when', async () => {
  const lost = await loseMerge();
  const yes = await open(REVIEWER_A, lost.cardTs, HAPPENED);
  const no = await open(REVIEWER_B, lost.cardTs, DID_NOT_HAPPEN);

  await Promise.all([say(REVIEWER_A, 'it is merged', yes), say(REVIEWER_B, 'it is open', no)]);

  await until(
    'the other to be told',
    async () => (await entriesOf(lost, 'approval.click_refused')).length === 1,
  );
  const [settled] = await entriesOf(lost, 'action.settled');
  expect(await entriesOf(lost, 'action.settled')).toHaveLength(1);
  expect(await entriesOf(lost, 'approval.click_refused')).toMatchObject([
    { facts: { why: 'already_settled' } },
  ]);
  const [winner, other] = settled?.facts.happened ? [REVIEWER_A, REVIEWER_B] : [REVIEWER_B, REVIEWER_A];
  expect(await statusOf(lost.actionId)).toBe(settled?.facts.happened ? 'done' : 'failed');
  await until('the note', async () => (await notesTo(other)).includes(`<@${winner}> has said`));
});

test('a word that is typed while its card is deleted and posted anew still counts', async () => {
  const lost = await loseMerge();
  const viewId = await open(REVIEWER_A, lost.cardTs);
  const { rows } = await story.db.query<{ request_id: string }>({
    text: 'select request_id from approval_requests where action_id = $1',
    values: [lost.actionId],
  });
  const requestId = rows[0]?.request_id ?? '';
  await story.people.removeMessage(ENGINEERING, lost.cardTs);
  await story.db.transaction((tx) => redraw(tx, TEAM, requestId));
  await until('the card to stand again', async () => {
    const { rowCount } = await story.db.query({
      text: `select 1 from deliveries where subject_id = $1 and ts <> $2 and status = 'settled'`,
      values: [requestId, lost.cardTs],
    });
    return rowCount === 1;
  });

  await say(REVIEWER_A, 'it is merged', viewId);

  await until('settled', async () => (await statusOf(lost.actionId)) === 'done');
  expect(await entriesOf(lost, 'action.settled')).toMatchObject([{ reason: 'it is merged' }]);
});

describe('a click', () => {
  let lost: Lost;
  beforeAll(async () => {
    lost = await loseMerge();
    // A message on its way may be the one that was clicked.
    await until('every message to stand', async () => {
      const { rowCount } = await story.db.query({ text: `select 1 from deliveries where status = 'due'` });
      return rowCount === 0;
    });
  });

  /** The reviewer's good click on the card, or what differs from it; what its author was told. */
  async function click(over: Partial<SettlementClicked> = {}): Promise<NoteReason | undefined> {
    const { rows } = await story.db.query<{ action_hash: string }>({
      text: 'select action_hash from actions where action_id = $1',
      values: [lost.actionId],
    });
    const clicked: SettlementClicked = {
      workspaceId: TEAM,
      actionId: lost.actionId,
      deploymentId: deployment,
      actionHash: rows[0]?.action_hash ?? '',
      person: facts(REVIEWER_A),
      happened: true,
      reason: 'seen',
      byForm: false,
      message: { channelId: ENGINEERING, ts: lost.cardTs, threadTs: lost.ts },
      ...over,
    };
    const started = (await story.db.query<{ at: Date }>({ text: 'select clock_timestamp() as at' })).rows[0]
      ?.at;
    await story.db.transaction((tx) => settleByClick(tx, { policyOf, deploymentId: deployment }, clicked));
    const notes = await story.db.query<{ content: NoteReason }>({
      text: `select content from deliveries where view_kind = 'note' and created_at >= $1`,
      values: [started],
    });
    return notes.rows[0]?.content;
  }

  test.for<[string, Partial<SettlementClicked>, Partial<NoteReason>]>([
    ['of another deployment', { deploymentId: 'another' }, { kind: 'other_deployment' }],
    ['on what was not shown', { actionHash: 'b'.repeat(64) }, { kind: 'replaced' }],
    ['of an id that is none', { actionId: '1; drop table' }, { kind: 'not_found' }],
    ['of an action that is not there', { actionId: randomUUIDv7() }, { kind: 'not_found' }],
    ['of another workspace', { workspaceId: 'T0OTHER' }, { kind: 'not_found' }],
    [
      'on a message that is not ours',
      { message: { channelId: ENGINEERING, ts: '1.1', threadTs: null } },
      { kind: 'not_found' },
    ],
    ['without a reason', { reason: ' \n' }, { kind: 'reason_missing' }],
    ['by a bot', { person: facts(REVIEWER_A, { isBot: true }) }, { kind: 'ineligible' }],
    [
      'by somebody from elsewhere',
      { person: facts(REVIEWER_A, { isExternal: true }) },
      { kind: 'ineligible' },
    ],
    [
      'by somebody deactivated',
      { person: facts(REVIEWER_A, { isDeactivated: true }) },
      { kind: 'ineligible' },
    ],
    [
      'by somebody Slack does not know',
      { person: facts(REVIEWER_A, { known: false }) },
      { kind: 'ineligible' },
    ],
    [
      'by a namesake in another workspace',
      { person: facts(REVIEWER_A, { teamId: 'T0OTHER' }) },
      { kind: 'ineligible' },
    ],
  ])('%s settles nothing and is explained', async ([, over, note]) => {
    const told =
      over.workspaceId === undefined
        ? await click(over)
        : (
            (await story.db.transaction((tx) =>
              settleUnknown(
                tx,
                { policyOf },
                {
                  workspaceId: 'T0OTHER',
                  actionId: lost.actionId,
                  by: { via: 'cli', user: 'x' },
                  happened: true,
                  reason: 'x',
                },
              ),
            )) as { note: NoteReason }
          ).note;

    expect(told).toMatchObject(note);
    expect(await statusOf(lost.actionId)).toBe('unknown');
  });

  test('by a reviewer whom the newest policy no longer names settles nothing', async () => {
    const people = (reviewers: readonly string[]) => ({
      admins: [{ teamId: TEAM, userId: REVIEWER_A }],
      reviewers: reviewers.map((userId) => ({ teamId: TEAM, userId })),
      requesters: 'members' as const,
    });
    const apply = (reviewers: readonly string[]) =>
      story.db.transaction((tx) => {
        const content = people(reviewers);
        return activatePolicy(tx, TEAM, { version: firstPolicy(content).version, content }, 'test', 'test');
      });
    await apply([REVIEWER_B]);

    const told = await click();

    await apply([REVIEWER_A, REVIEWER_B]);
    expect(told).toMatchObject({ kind: 'ineligible', reason: 'not_a_reviewer' });
    expect(await statusOf(lost.actionId)).toBe('unknown');
  });

  test('and an operator at the same time: one word stands, and neither can be said again', async () => {
    const by = { via: 'cli', user: 'operator' } as const;
    const word = (happened: boolean) =>
      story.db.transaction((tx) =>
        settleUnknown(
          tx,
          { policyOf },
          { workspaceId: TEAM, actionId: lost.actionId, by, happened, reason: 'seen' },
        ),
      );

    const [told, ...answers] = await Promise.all([click(), word(true), word(false), word(true)]);

    const stood = answers.filter((answer) => answer.settled).length + (told === undefined ? 1 : 0);
    expect(stood).toBe(1);
    expect(await entriesOf(lost, 'action.settled')).toHaveLength(1);
    expect(await word(false)).toMatchObject({ settled: false, note: { kind: 'already_settled' } });
    expect(await entriesOf(lost, 'action.settled')).toHaveLength(1);
  });

  test.for(['executing', 'done', 'failed', 'closed', 'awaiting', 'permitted'] as const)(
    'on an action that is %s settles nothing: only unknown is settled',
    async (status) => {
      const actionId = await insertAction(lost.task, status);

      const answer = await story.db.transaction((tx) =>
        settleUnknown(
          tx,
          { policyOf },
          {
            workspaceId: TEAM,
            actionId,
            by: { via: 'slack', person: facts(REVIEWER_A) },
            happened: true,
            reason: 'seen',
          },
        ),
      );

      expect(answer).toEqual({ settled: false, note: { kind: 'nothing_to_settle' } });
      expect(await statusOf(actionId)).toBe(status);
    },
  );
});

describe('an action that the policy allowed without asking', () => {
  test('has its question on the task’s message, and is settled there by who may decide', async () => {
    const { task } = await loseMerge();
    const actionId = await insertAction(task, 'executing');
    expect(await unsettledOf(story.db, TEAM, task.taskId)).toEqual([]);
    expect(await story.db.transaction((tx) => giveUp(tx, deps, task, actionId))).toBe('unknown');

    const unsettled = await unsettledOf(story.db, TEAM, task.taskId);
    expect(unsettled).toMatchObject([{ deploymentId: deployment, actionId, title: 'post the notes' }]);
    expect(await unsettledAction(story.db, TEAM, actionId, deployment)).toEqual(unsettled[0]);
    await until('the question', async () =>
      (await story.people.thread(ENGINEERING, task.thread.threadTs)).some((message) =>
        message.text.startsWith('? Outcome unknown: `post the notes'),
      ),
    );
    const onTaskMessage = async (person: PersonFacts) => {
      const ts = await until('the task’s message', async () => {
        const { rows } = await story.db.query<{ ts: string | null }>({
          text: `select ts from deliveries where view_kind = 'task' and subject_id = $1`,
          values: [task.taskId],
        });
        return rows[0]?.ts ?? false;
      });
      await story.db.transaction((tx) =>
        settleByClick(
          tx,
          { policyOf, deploymentId: deployment },
          {
            workspaceId: TEAM,
            actionId,
            deploymentId: deployment,
            actionHash: unsettled[0]?.actionHash ?? '',
            person,
            happened: false,
            reason: 'the channel does not show it',
            byForm: false,
            message: { channelId: ENGINEERING, ts, threadTs: null },
          },
        ),
      );
    };

    await onTaskMessage(facts(REQUESTER));
    expect(await statusOf(actionId)).toBe('unknown');

    await onTaskMessage(facts(REVIEWER_B));
    expect(await statusOf(actionId)).toBe('failed');
    expect(await unsettledOf(story.db, TEAM, task.taskId)).toEqual([]);
    await until('the thread’s line', async () =>
      (await story.people.thread(ENGINEERING, task.thread.threadTs)).some(
        ({ text }) => text === '✗ It did not happen: `post the notes`',
      ),
    );
  });
});

test('where the channel is gone, the task’s owner has the question and the buttons in their direct message, where they settle', async () => {
  const { ts } = await askForMerge(story);
  const { rows } = await story.db.query<{ task_id: string }>({
    text: 'select task_id from tasks where message_ts = $1',
    values: [ts],
  });
  const task = await readTask(story.db, TEAM, rows[0]?.task_id ?? '');
  if (task === null) throw new Error('no task');
  await story.people.archive(ENGINEERING);
  const actionId = await insertAction(task, 'executing');

  await story.db.transaction((tx) => giveUp(tx, deps, task, actionId));

  const direct = 'D0REQUESTER';
  const buttons = await until('question and buttons', async () => {
    const messages = await story.people.messages(direct);
    return (
      messages.some(({ text }) => text.startsWith('? Outcome unknown: `post the notes')) &&
      messages.find(({ blocks }) => JSON.stringify(blocks ?? []).includes(actionId))
    );
  });
  expect(JSON.stringify(buttons.blocks)).toContain('Task: “');
  await story.people.join(direct, REVIEWER_A);
  const before = (await story.people.views(REVIEWER_A)).length;
  await story.people.click(REVIEWER_A, { channel: direct, ts: buttons.ts, actionId: DID_NOT_HAPPEN });
  const window = await until('the window', async () => {
    const views = await story.people.views(REVIEWER_A);
    return views.length > before ? views.at(-1)?.id : undefined;
  });
  await say(REVIEWER_A, 'it is not there', window);
  await until('settled', async () => (await statusOf(actionId)) === 'failed');
});

/** An action of the task that no request stands behind, with its intent. */
async function insertAction(task: Task, status: string): Promise<string> {
  const actionId = randomUUIDv7();
  await story.db.query({
    text: `insert into actions (workspace_id, action_id, run_id, task_id, kind, arguments, tool_version, credential, action_hash,
             preconditions, target, agent_name, agent_version, model_label, agent_reason, status)
           values ($1, $2, $3, $4, 'slack.chat.postMessage', '{}', 1, 'slack', $5, '[]', '{"title": "post the notes"}', 'a', '1', 'm', 'r', $6)`,
    values: [TEAM, actionId, task.runId, task.taskId, 'c'.repeat(64), status],
  });
  await story.db.query({
    text: `insert into executions (workspace_id, execution_id, action_id, run_id, fence, action_hash, tool_version, credential,
             policy_version, idempotency_key, effect_class, settles_at)
           values ($1, $2, $3, $4, 1, $5, 1, 'slack', 'p', 'k', 'blind', db_now())`,
    values: [TEAM, randomUUIDv7(), actionId, task.runId, 'c'.repeat(64)],
  });
  return actionId;
}
