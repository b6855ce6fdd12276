/**
 * Guarantee: a request that Slack refuses where it was asked goes to the owner of its task, and when the owner cannot have it, to the admins
 * of the policy: each once, in direct messages, all admins at once. Nothing is sent twice to anybody, nothing decides, and when nobody is
 * left the log says so as an error. A request that nobody has to look at any more wakes no admin. The same holds for the question what
 * became of an action that no card stands for, and for the message of its task, which has the buttons; how a task ended goes to its owner.
 */
import { randomUUIDv7 } from 'node:crypto';
import { beforeEach, describe, expect, test } from 'vitest';
import { DeliveryRefused } from '../../src/errors.ts';
import { owe, PRIORITY } from '../../src/jobs/deliveries.ts';
import { until, WORKSPACE } from '../support/database.ts';
import { useSending } from '../support/sending.ts';

const sending = useSending();
const OWNER = 'UOWNER';
const ADMINS = ['UADMIN1', 'UADMIN2', 'UADMIN3'].map((userId) => ({ teamId: WORKSPACE, userId }));
/** Places that Slack takes nothing in. */
let closed: Set<string>;
let requestId: string;

beforeEach(async () => {
  closed = new Set(['CGONE']);
  sending.slack = ({ channelId }) => {
    if (closed.has(channelId)) throw new DeliveryRefused('chat.postMessage: is_archived', 'place');
  };
  requestId = await makeRequest('pending', 'awaiting');
});

/** A request of a task of OWNER, without a run that works. */
async function makeRequest(status: string, actionStatus: string): Promise<string> {
  const request = randomUUIDv7();
  const { runId, actionId, hash } = await makeAction(actionStatus);
  await sending.db.query({
    text: `insert into approval_requests (workspace_id, request_id, action_id, run_id, action_hash, preconditions, review_rule, deadline_at, status)
           values ($1, $2, $3, $4, $5, '[]', '{}', db_now() + interval '1 day', $6)`,
    values: [WORKSPACE, request, actionId, runId, hash, status],
  });
  return request;
}

/** An action of a task of OWNER that nobody was asked about. */
async function makeAction(actionStatus: string) {
  const [runId, taskId, actionId] = [randomUUIDv7(), randomUUIDv7(), randomUUIDv7()];
  const hash = 'a'.repeat(64);
  await sending.db.transaction(async (tx) => {
    await tx.query({
      text: `insert into runs (workspace_id, run_id, workflow_name, workflow_version, input, origin) values ($1, $2, 'w', 1, '{}', 'test')`,
      values: [WORKSPACE, runId],
    });
    await tx.query({
      text: `insert into tasks (workspace_id, task_id, run_id, requester_team_id, requester_user_id, owner_team_id, owner_user_id, channel_id,
               thread_ts, message_ts, objective, contract)
             values ($1, $2, $3, $1, 'U1', $1, $4, 'CGONE', $5, $5, 'o', '{}')`,
      values: [WORKSPACE, taskId, runId, OWNER, randomUUIDv7()],
    });
    await tx.query({
      text: `insert into actions (workspace_id, action_id, run_id, task_id, kind, arguments, tool_version, credential, action_hash, preconditions,
               target, agent_name, agent_version, model_label, agent_reason, status)
             values ($1, $2, $3, $4, 'k', '{}', 1, 'c', $5, '[]', '{}', 'a', '1', 'm', 'r', $6)`,
      values: [WORKSPACE, actionId, runId, taskId, hash, actionStatus],
    });
  });
  return { runId, taskId, actionId, hash };
}

const oweCard = () => sending.owe('CGONE', { viewKind: 'approval', subjectId: requestId });
const triedAt = () => sending.calls.map(({ channelId }) => channelId).sort();
const places = async (status: string) => {
  const { rows } = await sending.db.query<{ place: string }>({
    text: 'select place from deliveries where subject_id = $1 and status = $2 order by place',
    values: [requestId, status],
  });
  return rows.map(({ place }) => place);
};
/** Every copy has come to an end. */
const ended = (count: number) =>
  until('every copy to end', async () => {
    const [standing, refused] = [await places('settled'), await places('refused')];
    return standing.length + refused.length === count && (await places('due')).length === 0;
  });

test('the owner has it; no admin is woken', async () => {
  await sending.work('only', ADMINS);

  await oweCard();
  await ended(2);

  expect(await places('settled')).toEqual([OWNER]);
  expect(triedAt()).toEqual(['CGONE', OWNER]);
  expect(sending.errors).toEqual(['Slack refuses a message']);
});

test('the owner refused: all admins at once, each once', async () => {
  closed.add(OWNER);
  await sending.work('one', ADMINS);
  await sending.work('two', ADMINS);

  await oweCard();
  await ended(5);

  expect(await places('settled')).toEqual(ADMINS.map(({ userId }) => userId));
  expect(triedAt()).toEqual(['CGONE', ...ADMINS.map(({ userId }) => userId), OWNER]);
});

test('the owner deactivated: nothing is posted where nobody reads', async () => {
  sending.gone.add(OWNER);
  await sending.work('only', ADMINS);

  await oweCard();
  await ended(5);

  expect(triedAt()).toEqual(['CGONE', ...ADMINS.map(({ userId }) => userId)]);
});

test('one admin refused: the others have it, and that is enough', async () => {
  closed.add(OWNER).add('UADMIN2');
  await sending.work('only', ADMINS);

  await oweCard();
  await ended(5);

  expect(await places('settled')).toEqual(['UADMIN1', 'UADMIN3']);
  expect(sending.errors).not.toContain('a request waits, and Slack lets nobody be told');
});

test('nobody left: said once as an error, and the request still waits', async () => {
  closed.add(OWNER);
  for (const { userId } of ADMINS) closed.add(userId);
  await sending.work('only', ADMINS);

  await oweCard();
  await ended(5);

  await until('the error', async () => sending.errors.length === 5);
  const last = 'a request waits, and Slack lets nobody be told';
  expect(sending.errors.filter((words) => words === last)).toHaveLength(1);
  expect(triedAt()).toHaveLength(5);
  const { rows } = await sending.db.query<{ status: string }>({
    text: 'select status from approval_requests where request_id = $1',
    values: [requestId],
  });
  expect(rows).toEqual([{ status: 'pending' }]);
});

test('no admins in the policy: said as an error too', async () => {
  closed.add(OWNER);
  await sending.work('only', []);

  await oweCard();
  await ended(2);

  await until('the error', async () =>
    sending.errors.includes('a request waits, and Slack lets nobody be told'),
  );
});

test('a request that is over wakes no admin; one whose outcome nobody knows does', async () => {
  closed.add(OWNER);
  await sending.work('only', ADMINS);
  requestId = await makeRequest('rejected', 'closed');
  await oweCard();
  await ended(2);
  expect(triedAt()).toEqual(['CGONE', OWNER]);

  requestId = await makeRequest('approved', 'unknown');
  await oweCard();
  await ended(5);
  expect(await places('settled')).toEqual(ADMINS.map(({ userId }) => userId));
});

test('a card that takes no edit any more stands as long as it is right, and is posted anew once it is not', async () => {
  closed.clear();
  const loop = await sending.work('one', ADMINS);
  await oweCard();
  await ended(1);
  await loop.stop();
  sending.slack = ({ call }) => {
    if (call === 'update') throw new DeliveryRefused('chat.update: edit_window_closed', 'fixed');
  };

  await sending.setClock('41 seconds');
  await sending.work('two', ADMINS);
  await until('it to be drawn again', async () => sending.calls.length === 2);
  await ended(1);
  expect(await places('settled')).toEqual(['CGONE']);

  await sending.redraw(requestId);
  await until('it to stand anew', async () => sending.calls.length === 4);
  await ended(1);
  expect(sending.calls.map(({ call }) => call)).toEqual(['post', 'update', 'update', 'post']);
  expect(await places('settled')).toEqual(['CGONE']);
});

/** Sends what is owed, lets twice as much time pass as is between two looks, and gives the calls. */
async function lookedAfter(owed: () => Promise<unknown>): Promise<string[]> {
  closed.clear();
  const loop = await sending.work();
  await owed();
  await until('it to stand', async () => sending.calls.length === 1);
  await until('it to be recorded', async () => (await due()) === 0);
  await loop.stop();
  await sending.work('two');
  for (const seconds of [41, 90]) {
    const before = sending.calls.length;
    await sending.setClock(`${seconds} seconds`);
    // What nobody has to answer on is never drawn again: another message shows that the look was made.
    const other = await sending.owe('COTHER');
    // Whoever looks does so at most once a second; everybody looks every ten.
    await until('a look', async () => {
      await sending.ring();
      const { rowCount } = await sending.db.query({
        text: `select 1 from deliveries where status = 'settled' and refresh_at <= db_now()`,
      });
      return rowCount === 0 && sending.calls.length > before;
    });
    await sending.settled(other);
    await until('it to be recorded', async () => (await due()) === 0);
  }
  return sending.calls.filter(({ channelId }) => channelId !== 'COTHER').map(({ call }) => call);
}
const due = async () =>
  (await sending.db.query({ text: `select 1 from deliveries where status = 'due'` })).rowCount;

test.for([
  ['pending', 'awaiting'],
  ['approved', 'unknown'],
] as const)(
  'a card of a request that is %s, its action %s, is drawn again every time',
  async ([status, actionStatus]) => {
    requestId = await makeRequest(status, actionStatus);

    expect(await lookedAfter(oweCard)).toEqual(['post', 'update', 'update']);
  },
);

test('a card of a request that is over is drawn again once', async () => {
  requestId = await makeRequest('approved', 'done');

  expect(await lookedAfter(oweCard)).toEqual(['post', 'update']);
});

test.for([
  ['unknown', ['post', 'update', 'update']],
  ['done', ['post']],
] as const)(
  'the message of a task whose action is %s is drawn again as long as it asks',
  async ([status, calls]) => {
    const { taskId } = await makeAction(status);

    expect(await lookedAfter(() => sending.owe('CGONE', { subjectId: taskId }))).toEqual(calls);
  },
);

describe('of an action that no card stands for', () => {
  const kinds = () =>
    sending.db
      .query<{ view_kind: string; place: string; status: string }>({
        text: `select view_kind, place, status from deliveries where subject_id = $1 or content->>'actionId' = $2 order by view_kind, place`,
        values: [about.taskId, about.actionId],
      })
      .then(({ rows }) => rows);
  const told = async (kind: string) =>
    (await kinds())
      .filter(({ view_kind, status }) => view_kind === kind && status === 'settled')
      .map(({ place }) => place);
  let about: { readonly taskId: string; readonly actionId: string };

  /** Owes the question what became of the action. */
  const ask = (): Promise<void> =>
    sending.db.transaction((tx) =>
      owe(tx, {
        workspaceId: WORKSPACE,
        viewKind: 'receipt',
        content: { actionId: about.actionId, line: 'l', approvedBy: [], asks: [] },
        target: { to: 'channel', channelId: 'CGONE' },
        priority: PRIORITY.decision,
      }),
    );

  /** Owes its task's message, and the question when there is one; gives the task once every copy has come to an end. */
  async function tell(actionStatus: string, count: number): Promise<void> {
    about = await makeAction(actionStatus);
    await sending.owe('CGONE', { viewKind: 'task', subjectId: about.taskId, priority: PRIORITY.progress });
    if (actionStatus === 'unknown') await ask();
    await until('every copy to end', async () => {
      const all = await kinds();
      return all.length === count && all.every(({ status }) => status !== 'due');
    });
  }

  test('the owner has the question and the message with its buttons; no admin is woken', async () => {
    await sending.work('only', ADMINS);

    await tell('unknown', 4);

    expect(await told('receipt')).toEqual([OWNER]);
    expect(await told('task')).toEqual([OWNER]);
  });

  test('the owner deactivated: every admin has both, once', async () => {
    sending.gone.add(OWNER);
    await sending.work('one', ADMINS);
    await sending.work('two', ADMINS);

    await tell('unknown', 10);

    const admins = ADMINS.map(({ userId }) => userId);
    expect(await told('receipt')).toEqual(admins);
    expect(await told('task')).toEqual(admins);
    expect(triedAt()).toEqual(['CGONE', 'CGONE', ...admins.flatMap((userId) => [userId, userId])]);
  });

  test('the message was refused everywhere before there was a question: the admins have it with the question', async () => {
    closed.add(OWNER);
    await sending.work('only', ADMINS);
    about = await makeAction('executing');
    await sending.owe('CGONE', { viewKind: 'task', subjectId: about.taskId, priority: PRIORITY.progress });
    await until('owner and thread to be refused', async () => {
      const all = await kinds();
      return all.length === 2 && all.every(({ status }) => status === 'refused');
    });
    await sending.db.query({
      text: `update actions set status = 'unknown' where action_id = $1`,
      values: [about.actionId],
    });

    await ask();

    await until('the admins to have both', async () => {
      const counts = [(await told('task')).length, (await told('receipt')).length];
      return counts.join() === '3,3';
    });
  });

  test('how a task ended is told to its owner, and to nobody else when that is refused', async () => {
    await sending.work('only', ADMINS);
    await tell('done', 2);
    expect(await told('task')).toEqual([OWNER]);

    closed.add(OWNER);
    await tell('done', 2);
    expect(await told('task')).toEqual([]);
    expect(sending.errors).not.toContain('a request waits, and Slack lets nobody be told');
  });

  test('nobody left: said as an error', async () => {
    closed.add(OWNER);
    await sending.work('only', []);

    await tell('unknown', 4);

    await until('the error', async () =>
      sending.errors.includes('a request waits, and Slack lets nobody be told'),
    );
  });
});
