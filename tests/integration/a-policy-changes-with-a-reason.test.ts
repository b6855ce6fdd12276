/**
 * Guarantee: the policy in force changes by the operator's word alone, with a reason, recorded in the ledger; from then on every
 * judgement is by the new one, which takes the right to decide away from whoever it does not name, and gives it to nobody for what was
 * asked before it. A policy that cannot be read changes nothing; while the one in force is of another release, readiness says so, and what
 * people ask waits.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { activatePolicy } from '../../src/jobs/definitions.ts';
import { until } from '../support/database.ts';
import { ENGINEERING, REQUESTER, REVIEWER_A, REVIEWER_B } from '../support/people.ts';
import { askForMerge, cardIn, ledgerKinds, MERGE, TEAM, useProduct } from '../support/product.ts';

const story = useProduct();
let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'countersign-policy-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function apply(
  content: string,
  ...args: string[]
): Promise<{ out: string; err: string; status: number }> {
  const file = path.join(folder, 'policy.json');
  await writeFile(file, content);
  return promisify(execFile)(process.execPath, ['src/cli.mjs', 'policy', 'apply', ...args], {
    env: { PATH: process.env.PATH, DATABASE_URL: story.appUrl, COUNTERSIGN_POLICY: file },
  }).then(
    ({ stdout, stderr }) => ({ out: stdout, err: stderr, status: 0 }),
    (error: { stdout: string; stderr: string; code: number }) => ({
      out: error.stdout,
      err: error.stderr,
      status: error.code,
    }),
  );
}
const only = (userId: string) =>
  JSON.stringify({ admins: [], reviewers: [{ teamId: TEAM, userId }], requesters: 'members' });
const activations = async () =>
  (
    await story.db.query<{ activated_by: string; reason: string }>({
      text: 'select activated_by, reason from policy_activations order by activation_no',
    })
  ).rows;

test('a policy without a reason, or one that cannot be read, changes nothing', async () => {
  const before = await activations();

  const [silent, broken, wrong] = [
    await apply(only(REVIEWER_B)),
    await apply('{', '--reason', 'x'),
    await apply('{"reviewers": "everyone"}', '--reason', 'x'),
  ];

  for (const { status, err } of [silent, broken, wrong]) {
    expect(status).not.toBe(0);
    expect(err).not.toContain('    at ');
  }
  expect(await activations()).toEqual(before);
});

test('a newer policy hands out nothing on a request that stands: who decides on it are those it asked', async () => {
  const { ts, card } = await askForMerge(story);
  const everybody = JSON.stringify({
    admins: [],
    reviewers: [REVIEWER_A, REVIEWER_B, REQUESTER].map((userId) => ({ teamId: TEAM, userId })),
    requesters: 'members',
    requesterMayDecide: true,
  });
  expect(await apply(everybody, '--reason', 'one more')).toMatchObject({ status: 0, err: '' });

  await story.people.click(REQUESTER, { channel: ENGINEERING, ts: card.ts, actionId: 'approval.approve' });
  await until('refused', async () => (await ledgerKinds(story, ts)).includes('approval.click_refused'));
  expect(await story.merges()).toEqual([]);

  await story.people.click(REVIEWER_A, { channel: ENGINEERING, ts: card.ts, actionId: 'approval.reject' });
  await until('the window', async () => (await story.people.views(REVIEWER_A)).length > 0);
  await story.people.submitView(REVIEWER_A, { 'reason.text': 'not today' });
  await until('decided', async () => (await ledgerKinds(story, ts)).includes('approval.decided'));
});

test('under a policy of another release readiness says what to do, and a mention is served once one that fits is applied', async () => {
  const { policy } = story.config;
  const ready = () => fetch(`http://127.0.0.1:${story.product.address.port}/readyz`);
  await story.db.transaction((tx) =>
    activatePolicy(tx, TEAM, { version: 'first-elsewhere', content: policy }, 'test', 'test'),
  );

  const answer = await until('readiness to say no', async () => {
    const response = await ready();
    return response.status === 503 && response.json();
  });
  expect(answer).toMatchObject({ ok: false, policy: expect.stringContaining('countersign policy apply') });
  const ts = await story.people.say(REQUESTER, ENGINEERING, MERGE);
  await until('a try to fail', async () => {
    const { rowCount } = await story.db.query({
      text: `select 1 from inbox where status = 'stored' and trouble_count > 0 and last_error like '%another release%'`,
    });
    return rowCount === 1;
  });

  expect(await apply(JSON.stringify(policy), '--reason', 'a new release')).toMatchObject({ status: 0 });

  await cardIn(story.people, ENGINEERING, ts);
  await until('readiness to say yes', async () => (await ready()).status === 200);
});

test('a reviewer taken off the policy while a card is open may not decide on it any more; who is left may', async () => {
  const { ts, card } = await askForMerge(story);

  const applied = await apply(only(REVIEWER_B), '--reason', 'reviewer-a moved on');
  const again = await apply(only(REVIEWER_B), '--reason', 'twice');

  expect(applied).toMatchObject({ status: 0, err: '' });
  expect(again.out).toContain('already');
  expect((await activations()).at(-1)).toMatchObject({ reason: 'reviewer-a moved on' });
  await story.people.click(REVIEWER_A, { channel: ENGINEERING, ts: card.ts, actionId: 'approval.approve' });
  await until('refused', async () => (await ledgerKinds(story, ts)).includes('approval.click_refused'));
  expect(await story.merges()).toEqual([]);
  await story.people.click(REVIEWER_B, { channel: ENGINEERING, ts: card.ts, actionId: 'approval.approve' });
  await until('merged', async () => (await story.merges()).length === 1);
});
