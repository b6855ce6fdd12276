/**
 * Guarantee: once a run is cancelled, nothing of it waits for a person and nothing of it will be executed. Its open requests are withdrawn in
 * the transaction that cancels it, approved ones too as long as nothing was sent; their cards say so, and a late click is explained. What was
 * being executed is named, left alone, and recorded as it truly ended.
 */
import { randomUUIDv7 } from 'node:crypto';
import { afterEach, expect, test } from 'vitest';
import { createEgress } from '../../src/agents/egress.ts';
import { toolsFor } from '../../src/agents/tools/index.ts';
import { executingActions } from '../../src/jobs/actions.ts';
import { withdrawForCancel } from '../../src/jobs/cancelling.ts';
import { policyInForce } from '../../src/jobs/definitions.ts';
import { cancelRuns } from '../../src/jobs/engine/cancel.ts';
import type { WakeQueue } from '../../src/jobs/engine/queue.ts';
import { conclude, type ExecutorDeps } from '../../src/jobs/executor.ts';
import { verifyLedger } from '../../src/jobs/ledger-verify.ts';
import { readTask, type Task } from '../../src/jobs/tasks.ts';
import { firstPolicy, parsePolicyPeople } from '../../src/policies/first-policy.ts';
import type { RunRef, StepContext } from '../../src/types.ts';
import { until } from '../support/database.ts';
import { ENGINEERING, REVIEWER_A, REVIEWER_B } from '../support/people.ts';
import { askForMerge, ledgerKinds, TEAM, useProduct } from '../support/product.ts';

const story = useProduct();
afterEach(async () => {
  await story.github('DELETE', '/_control/faults');
  await story.setClock('0');
});

const approve = (user: string, ts: string) =>
  story.people.click(user, { channel: ENGINEERING, ts, actionId: 'approval.approve', stale: true });
const fault = (order: object) => story.github('POST', '/_control/faults', order);
const held = async () => {
  const { body } = await story.github('GET', '/_control/faults');
  return ((body as { held?: number }).held ?? 0) > 0;
};
const textAt = async (threadTs: string, ts: string): Promise<string> =>
  JSON.stringify((await story.people.thread(ENGINEERING, threadTs)).find((message) => message.ts === ts));

async function runOf(threadTs: string): Promise<RunRef> {
  const { rows } = await story.db.query<{ run_id: string }>({
    text: 'select run_id from tasks where message_ts = $1',
    values: [threadTs],
  });
  return { workspaceId: TEAM, runId: rows[0]?.run_id ?? '' };
}

async function statesOf(run: RunRef) {
  const { rows } = await story.db.query<{ action: string; request: string | null }>({
    text: `select a.status as action, r.status as request from actions a left join approval_requests r on r.action_id = a.action_id
           where a.run_id = $1 order by a.created_at, a.action_id`,
    values: [run.runId],
  });
  return rows;
}

/** Cancels as the engine does and returns what it names as under way. */
const cancel = (run: RunRef): Promise<readonly string[] | undefined> =>
  story.db.transaction(async (tx) => {
    // The product's sweeper finds what no wake-up was sent for.
    const queue = { send: async () => undefined } as unknown as WakeQueue;
    return (await cancelRuns(tx, { queue, onCancel: withdrawForCancel }, [run], 'test')).get(run.runId);
  });

/** Waits until the worker knows: the cancelled run's segment is over and the run has come to its end. */
async function untilLetGo(run: RunRef): Promise<void> {
  await until('the worker to let go of the run', async () => {
    const { rows } = await story.db.query<{ status: string }>({
      text: 'select status from runs where run_id = $1',
      values: [run.runId],
    });
    return rows[0]?.status === 'cancelled';
  });
}

async function taskOf(run: RunRef): Promise<Task> {
  const { rows } = await story.db.query<{ task_id: string }>({
    text: 'select task_id from tasks where run_id = $1',
    values: [run.runId],
  });
  const task = rows[0] && (await readTask(story.db, TEAM, rows[0].task_id));
  if (!task) throw new Error('no task');
  return task;
}

const context: StepContext = {
  signal: new AbortController().signal,
  tryNumber: 1,
  idempotencyKey: 'key',
  fenced: () => Promise.reject(new Error('nothing is permitted anew')),
};
/** The product's own parts, but for the way out: whoever takes it fails. */
const deps = (): ExecutorDeps => {
  const { apiUrl, token, credential } = story.config.github;
  return {
    database: story.db,
    egress: {
      read: createEgress({ allowedOrigins: [new URL(apiUrl).origin] }).read,
      write: () => {
        throw new Error('something was sent');
      },
    },
    tools: toolsFor({ baseUrl: apiUrl, token, credential }),
    policyOf: policyInForce((content) => firstPolicy(parsePolicyPeople(content))),
    person: () => Promise.reject(new Error('nobody is looked up')),
  };
};

test('what it asks is withdrawn, the card says so, and a late click is explained and decides nothing', async () => {
  const { ts, card } = await askForMerge(story);
  const run = await runOf(ts);

  expect(await cancel(run)).toEqual([]);

  expect(await statesOf(run)).toEqual([{ action: 'closed', request: 'withdrawn' }]);
  const text = await until('the card to say so', async () => {
    const shown = await textAt(ts, card.ts);
    return shown.includes('Withdrawn') && shown;
  });
  expect(text).not.toContain('approval.approve');
  await approve(REVIEWER_A, card.ts);
  await until('a private note', async () =>
    JSON.stringify(await story.people.ephemerals(REVIEWER_A)).includes('already withdrawn'),
  );
  // Nobody withdrew it by a decision, so nobody is named.
  expect(JSON.stringify(await story.people.ephemerals(REVIEWER_A))).not.toContain('withdrawn by');
  expect(await statesOf(run)).toEqual([{ action: 'closed', request: 'withdrawn' }]);
  expect(await story.merges()).toEqual([]);
  const kinds = await ledgerKinds(story, ts);
  expect(kinds.filter((kind) => kind === 'approval.withdrawn')).toHaveLength(1);
  expect(kinds).toContain('approval.click_refused');
  expect((await verifyLedger(story.db)).firstBad).toBeNull();
});

test('an approval that was not executed is withdrawn: nothing is sent after it', async () => {
  const { ts, card } = await askForMerge(story);
  const run = await runOf(ts);
  await fault({
    match: { method: 'GET', pathPattern: '^/repos/acme/shop/pulls/1$' },
    kind: 'hold',
    times: 1,
  });
  await approve(REVIEWER_A, card.ts);
  await until('the look before the execution', held);
  expect(await statesOf(run)).toEqual([{ action: 'permitted', request: 'approved' }]);

  expect(await cancel(run)).toEqual([]);
  await story.github('POST', '/_control/release');

  expect(await statesOf(run)).toEqual([{ action: 'closed', request: 'withdrawn' }]);
  await until('the card to say so', async () => (await textAt(ts, card.ts)).includes('Withdrawn'));
  const { rows } = await story.db.query<{ why: string }>({
    text: `select body::json->'facts'->>'why' as why from ledger_entries where subject_id = $1 and entry_kind = 'action.closed'`,
    values: [run.runId],
  });
  expect(rows).toEqual([{ why: 'cancelled' }]);
  await untilLetGo(run);
  await approve(REVIEWER_B, card.ts);
  const told = await until('a private note', async () => {
    const notes = JSON.stringify(await story.people.ephemerals(REVIEWER_B));
    return notes.includes('already withdrawn') && notes;
  });
  // It was approved by somebody, and withdrawn by nobody.
  expect(told).not.toContain('withdrawn by');
  expect(await story.merges()).toEqual([]);
  expect(await ledgerKinds(story, ts)).not.toContain('action.executing');
});

test('what the policy allowed without asking is closed too, and cancelling again changes nothing', async () => {
  const { ts } = await askForMerge(story);
  const run = await runOf(ts);
  await story.db.query({
    text: `insert into actions (workspace_id, action_id, run_id, task_id, kind, arguments, tool_version, credential, action_hash,
             preconditions, target, agent_name, agent_version, model_label, agent_reason, status)
           select workspace_id, $2, run_id, task_id, 'slack.chat.postMessage', '{}', 1, 'slack', action_hash, '[]', '{"title": "post"}',
             'a', '1', 'm', 'r', 'permitted' from actions where run_id = $1`,
    values: [run.runId, randomUUIDv7()],
  });

  await cancel(run);
  const kinds = await ledgerKinds(story, ts);
  expect(await story.db.transaction((tx) => withdrawForCancel(tx, run))).toEqual([]);

  expect(await statesOf(run)).toEqual([
    { action: 'closed', request: 'withdrawn' },
    { action: 'closed', request: null },
  ]);
  expect(kinds.filter((kind) => kind === 'action.closed')).toHaveLength(1);
  expect(await ledgerKinds(story, ts)).toEqual(kinds);
});

test('a click at the same moment: approved or not, it ends withdrawn, and nothing is stuck', async () => {
  const { ts, card } = await askForMerge(story);
  const run = await runOf(ts);

  await Promise.all([approve(REVIEWER_A, card.ts), approve(REVIEWER_B, card.ts), cancel(run)]);
  await until('the inbox to be worked off', async () => {
    const { rowCount } = await story.db.query({ text: `select 1 from inbox where status = 'stored'` });
    return rowCount === 0;
  });

  expect(await statesOf(run)).toEqual([{ action: 'closed', request: 'withdrawn' }]);
  expect(await story.merges()).toEqual([]);
});

test('a call that was lost is looked for until it can no longer arrive, and is not sent again', async () => {
  const { ts, card } = await askForMerge(story);
  const run = await runOf(ts);
  await fault({
    match: { method: 'PUT', pathPattern: '/pulls/1/merge$' },
    kind: 'drop-before',
    delayMs: 200,
  });
  await approve(REVIEWER_A, card.ts);
  const [actionId] = await until('the merge to be on its way', async () => {
    const executing = await executingActions(story.db, run);
    return executing.length > 0 && executing;
  });
  await cancel(run);
  const task = await taskOf(run);
  const look = () => conclude(context, deps(), task, actionId ?? '');

  await expect(look()).rejects.toMatchObject({ code: 'TOOL_FAILED', errorClass: 'retryable' });
  expect(await statesOf(run)).toEqual([{ action: 'executing', request: 'approved' }]);
  await story.setClock('1 hour');
  const ended = await look();

  expect(ended).toMatchObject({ outcome: 'failed', error: { code: 'RUN_CANCELLED' } });
  expect(await look()).toEqual(ended);
  expect(await statesOf(run)).toEqual([{ action: 'failed', request: 'approved' }]);
  expect(await story.merges()).toEqual([]);
  await until('the card to say so', async () => (await textAt(ts, card.ts)).includes('*Failed*'));
});

test('what is being executed is named and left alone, and its true end is recorded', async () => {
  const { ts, card } = await askForMerge(story);
  const run = await runOf(ts);
  await fault({ match: { method: 'PUT', pathPattern: '/pulls/1/merge$' }, kind: 'hold', times: 1 });
  await approve(REVIEWER_A, card.ts);
  await until('the merge to be on its way', held);

  const underWay = await cancel(run);

  expect(underWay).toEqual([expect.stringMatching(/^github\.pulls\.merge: .*1/)]);
  expect(await executingActions(story.db, run)).toHaveLength(1);
  expect(await statesOf(run)).toEqual([{ action: 'executing', request: 'approved' }]);

  await untilLetGo(run);
  // The call was not broken off: GitHub still holds its answer for somebody.
  expect(await held()).toBe(true);
  await story.github('POST', '/_control/release');
  await until('its end to be recorded', async () => (await statesOf(run))[0]?.action === 'done');
  expect(await executingActions(story.db, run)).toEqual([]);
  expect(await story.merges()).toHaveLength(1);
  await until('the card to say so', async () => (await textAt(ts, card.ts)).includes('*Done*'));
});
