/**
 * The first story as the crash tests tell it: a pull request of its own, a mention, a card, a click; and what must be true at its
 * end whatever happened in between.
 */
import { expect } from 'vitest';
import { verifyLedger } from '../../src/jobs/ledger-verify.ts';
import { until } from '../support/database.ts';
import { ENGINEERING, MENTION, REQUESTER, REVIEWER_A, type SeenMessage } from '../support/people.ts';
import type { GitHubWrite, ProductProcess } from '../support/process.ts';

const REPO = '/repos/acme/shop';
/** A crash may leave a claim of 30 s on an inbox row or a message; what it held up is repaired within 60 s (FAULTS). */
export const REPAIRED_MS = 60_000;

export interface Story {
  readonly pull: number;
  /** The mention's ts: the thread. */
  readonly ts: string;
}

/** A pull request that nobody else's test merges. */
export async function openPull(product: ProductProcess): Promise<number> {
  const main = await product.github<{ object: { sha: string } }>('GET', `${REPO}/git/ref/heads/main`);
  const branch = `fault-${main.object.sha.slice(0, 7)}-${Date.now()}`;
  await product.github('POST', `${REPO}/git/refs`, { ref: `refs/heads/${branch}`, sha: main.object.sha });
  await product.github('PUT', `${REPO}/contents/notes/${branch}.md`, {
    message: 'Add a note',
    content: Buffer.from(`${branch}\n`).toString('base64'),
    branch,
  });
  const title = `Add ${branch}`;
  const opened = await product.github<{ number: number }>('POST', `${REPO}/pulls`, {
    title,
    head: branch,
    base: 'main',
  });
  return opened.number;
}

/** Asks for the merge as the requester; does not wait for anything. */
export async function ask(product: ProductProcess, pull: number): Promise<Story> {
  const ts = await product.people.say(
    REQUESTER,
    ENGINEERING,
    `${MENTION} merge pull request ${pull} in acme/shop`,
  );
  return { pull, ts };
}

/** Waits for the story's open card. */
export function openCard(product: ProductProcess, story: Story, timeoutMs = 20_000): Promise<SeenMessage> {
  return until(
    'an open card',
    async () => {
      const thread = await product.people.thread(ENGINEERING, story.ts);
      return thread.findLast((message) => textOf(message).includes('"approval.approve"'));
    },
    timeoutMs,
  );
}

/** A pull request, its mention and its open card. */
export async function untilAsked(product: ProductProcess): Promise<Story & { readonly card: SeenMessage }> {
  const story = await ask(product, await openPull(product));
  const card = await openCard(product, story);
  await settled(product, story);
  return { ...story, card };
}

/** Approves as the first reviewer; the click must be acknowledged. */
export async function approve(product: ProductProcess, card: SeenMessage): Promise<void> {
  const click = await product.people.click(REVIEWER_A, {
    channel: ENGINEERING,
    ts: card.ts,
    actionId: 'approval.approve',
  });
  expect(click.ackStatus).toBe(200);
}

/** Every merge call for this pull request that arrived at GitHub, whatever became of it. */
export async function mergeCalls(product: ProductProcess, { pull }: Story): Promise<GitHubWrite[]> {
  const writes = await product.writes();
  return writes.filter((write) => write.method === 'PUT' && write.path === `${REPO}/pulls/${pull}/merge`);
}

/** One value of the story's run, by a query over `$1` = run id. */
export async function ofRun<T extends object>(
  product: ProductProcess,
  story: Story,
  text: string,
): Promise<T[]> {
  const { rows } = await product.db.query<T>({
    text: `with this as (select t.run_id from tasks t where t.thread_ts = $1 and t.message_ts = $1) ${text}`,
    values: [story.ts],
  });
  return rows;
}

/** Waits until the run waits for people and Slack shows all of it: nothing of the story is in flight. */
export async function settled(product: ProductProcess, story: Story): Promise<void> {
  await until('the run to wait and its messages to be shown', async () => {
    const [row] = await ofRun<{ status: string; due: number }>(
      product,
      story,
      `select r.status, (select count(*) from deliveries where status = 'due') as due
       from runs r join this using (run_id)`,
    );
    return row?.status === 'waiting' && row.due === 0;
  });
}

/**
 * Waits for the end of an approved story and asserts all that must hold then: merged by exactly one call (after `lostCalls` that never
 * arrived, default `0`) and after a committed decision; one card ever, at its end the same message without buttons; one receipt; one
 * ledger entry per transition, verifying; one row per step.
 */
export async function expectMergedOnce(
  product: ProductProcess,
  story: Story & { readonly card: SeenMessage },
  options: { readonly timeoutMs?: number; readonly lostCalls?: number } = {},
): Promise<void> {
  const { timeoutMs = REPAIRED_MS, lostCalls = 0 } = options;
  await until(
    'the run to complete',
    async () => {
      const [run] = await ofRun<{ status: string }>(
        product,
        story,
        'select status from runs join this using (run_id)',
      );
      return run?.status === 'completed';
    },
    timeoutMs,
  );
  const thread = await until(
    'the thread to show the end',
    async () => {
      const messages = await product.people.thread(ENGINEERING, story.ts);
      const text = messages.map(textOf).join('\n');
      return (
        !text.includes('"approval.approve"') &&
        receiptsIn(messages, story.pull).length > 0 &&
        /is merged by squash/.test(text) &&
        textOf(messages.find((message) => message.ts === story.card.ts)).includes('Merged pull request') &&
        messages
      );
    },
    timeoutMs,
  );

  const lost = Array.from({ length: lostCalls }, () => ({ status: null, performed: false }));
  expect(await mergeCalls(product, story)).toMatchObject([...lost, { status: 200, performed: true }]);
  expect(await product.github('GET', `${REPO}/pulls/${story.pull}`)).toMatchObject({ merged: true });
  await expectAskedOnce(product, story);
  const final = textOf(thread.find((message) => message.ts === story.card.ts));
  expect(final).toContain(`<@${REVIEWER_A}>`);
  expect(final).not.toContain('approval.reject');
  expect(receiptsIn(thread, story.pull)).toHaveLength(1);

  expect(await ofRun(product, story, DECIDED_BEFORE_EXECUTED)).toEqual([
    { decisions: 1, executions: 1, outcome: 'done', decided_before: true },
  ]);
  await expectLedger(product, story);
  const [journal] = await ofRun<{ rows: number; paths: number; out_of_order: number }>(
    product,
    story,
    JOURNAL,
  );
  expect(journal).toMatchObject({ out_of_order: 0 });
  expect(journal?.rows).toBe(journal?.paths);
}

/** Waits until Slack shows all that is committed, so that a kill after it hits what the test means and nothing beside it. */
export async function shown(product: ProductProcess): Promise<void> {
  await until('every message to show what is committed', async () => {
    const { rows } = await product.db.query({ text: `select 1 from deliveries where status = 'due'` });
    return rows.length === 0;
  });
}

/** One card was ever posted in this thread, and it is the one that was clicked. */
export async function expectAskedOnce(
  product: ProductProcess,
  story: Story & { readonly card: SeenMessage },
): Promise<void> {
  const posted = await cardPosts(product, story);
  expect(posted.map((call) => call.ts)).toEqual([story.card.ts]);
  const requests = await ofRun(
    product,
    story,
    'select 1 as one from approval_requests join this using (run_id)',
  );
  expect(requests).toHaveLength(1);
}

/** Calls that put a card with buttons into the story's thread. */
export async function cardPosts(product: ProductProcess, story: Story) {
  const calls = await product.people.calls('chat.postMessage');
  return calls.filter(
    (call) =>
      call.performed &&
      call.args.thread_ts === story.ts &&
      JSON.stringify(call.args.blocks).includes('approval.approve'),
  );
}

/** The entries of a story that ends in a merge, in order. */
const TOLD = [
  'task.accepted',
  'action.proposed',
  'approval.requested',
  'approval.decided',
  'approval.approved',
  'action.executing',
  'action.done',
  'task.finished',
];

async function expectLedger(product: ProductProcess, story: Story): Promise<void> {
  const entries = await ofRun<{ entry_kind: string }>(
    product,
    story,
    `select entry_kind from ledger_entries e join this on e.subject_id = this.run_id::text
     where subject_kind = 'run' order by subject_seq`,
  );
  expect(entries.map((entry) => entry.entry_kind)).toEqual(TOLD);
  await expectLedgerVerifies(product);
}

export async function expectLedgerVerifies(product: ProductProcess): Promise<void> {
  await until('the ledger to be sealed', async () => (await verifyLedger(product.db)).unsealed === 0);
  expect(await verifyLedger(product.db)).toMatchObject({ firstBad: null, unsealed: 0 });
}

const DECIDED_BEFORE_EXECUTED = `
  select (select count(*) from decisions d join approval_requests q using (workspace_id, request_id) join this using (run_id)) as decisions,
    count(*) as executions, min(x.outcome) as outcome,
    bool_and(x.started_at > (select max(d.created_at) from decisions d join approval_requests q using (workspace_id, request_id)
                             join this using (run_id))) as decided_before
  from executions x join this using (run_id)`;

/** A journal has one writer at a time: what a later attempt wrote is never followed by an earlier one's. */
const JOURNAL = `
  select count(*) as rows, count(distinct path) as paths, count(*) filter (where fence < highest) as out_of_order
  from (select path, fence, max(fence) over (order by finished_at) as highest from steps join this using (run_id)) as written`;

function receiptsIn(thread: readonly SeenMessage[], pull: number): SeenMessage[] {
  return thread.filter((message) => message.text.startsWith(`✓ \`Merged pull request ${pull} as`));
}

function textOf(message: SeenMessage | undefined): string {
  return JSON.stringify(message?.blocks ?? []);
}
