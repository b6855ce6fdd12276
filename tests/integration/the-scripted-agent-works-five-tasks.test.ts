/**
 * Guarantee: what a newcomer asks for happens as the cards say. Labels of our own come at once and by themselves; comments, commits, pull
 * requests, drafts and closing come after a second person's approval and not before; text in an issue that gives orders is reported and
 * moves nothing; and a repository that is not as the script expects stops it before it proposes anything.
 */
import { expect, test } from 'vitest';
import { until } from '../support/database.ts';
import { ENGINEERING, MENTION, REQUESTER, REVIEWER_A, type SeenMessage } from '../support/people.ts';
import { ledgerKinds, useProduct } from '../support/product.ts';

const story = useProduct();
const REPO = '/repos/acme/shop';

const textOf = (message: SeenMessage) => JSON.stringify(message.blocks ?? message.text);
const thread = (ts: string) => story.people.thread(ENGINEERING, ts);
const ask = (words: string) => story.people.say(REQUESTER, ENGINEERING, `${MENTION} ${words}`);

/** The open card of the thread whose text fits. */
function card(ts: string, words: RegExp): Promise<SeenMessage> {
  return until(`a card ${words}`, async () =>
    (await thread(ts)).findLast(
      (message) => textOf(message).includes('"approval.approve"') && words.test(textOf(message)),
    ),
  );
}

/** Approves as a reviewer does: where the card sends them to Details first, after its last page. */
async function approve(threadTs: string, { ts }: SeenMessage): Promise<void> {
  const press = () =>
    story.people.click(REVIEWER_A, { channel: ENGINEERING, ts, actionId: 'approval.approve', stale: true });
  const isDecided = async () =>
    (await thread(threadTs)).some(
      (message) => message.ts === ts && !textOf(message).includes('"approval.approve"'),
    );
  const views = () => story.people.views(REVIEWER_A);
  const known = new Set((await views()).map(({ id }) => id));
  await press();
  const details = await until('decided, or Details', async () => {
    const opened = (await views()).find(({ id }) => !known.has(id));
    return opened ?? ((await isDecided()) && 'decided');
  });
  if (details === 'decided') return;
  const page = async () => (await views()).find(({ id }) => id === details.id);
  for (let shown = await page(); shown; shown = await page()) {
    const [, place, all] = /(\d+) of (\d+)/.exec(shown.title.text) ?? [];
    if (place === all) break;
    const { hash } = shown;
    const next = shown.blocks.find((block) => JSON.stringify(block).includes('Next'));
    await story.people.click(REVIEWER_A, {
      viewId: details.id,
      actionId: 'approval.page',
      ...(next?.block_id === undefined ? {} : { blockId: next.block_id }),
    });
    await until('the next page', async () => (await page())?.hash !== hash);
  }
  await until('read to the end', async () => {
    const { rowCount } = await story.db.query({
      text: `select 1 from detail_views v join deliveries d on d.subject_id = v.request_id where d.ts = $1`,
      values: [ts],
    });
    return rowCount === 1;
  });
  await press();
}

/** The agent's last words in this thread. */
async function lastWords(ts: string): Promise<string> {
  return until('the last words', async () => {
    const { rows } = await story.db.query<{ summary: string | null }>({
      text: 'select summary from tasks where message_ts = $1',
      values: [ts],
    });
    return rows[0]?.summary ?? false;
  });
}

async function reject({ ts }: SeenMessage, reason: string): Promise<void> {
  await story.people.click(REVIEWER_A, { channel: ENGINEERING, ts, actionId: 'approval.reject' });
  await until('the modal', async () => (await story.people.views(REVIEWER_A)).length > 0);
  await story.people.submitView(REVIEWER_A, { 'reason.text': reason });
}

interface Listed {
  readonly number: number;
  readonly title: string;
  readonly state: string;
  readonly draft?: boolean;
  readonly tag_name?: string;
  readonly labels: readonly { readonly name: string }[];
  readonly comments: number;
  readonly head?: { readonly ref: string };
}
const rowsAt = async (route: string) =>
  (await story.github('GET', `${REPO}${route}`)).body as unknown as readonly Listed[];
const issues = () => rowsAt('/issues?state=all&per_page=100');

test('triage: labels of our own at once, a comment only after approval, orders in an issue move nothing', async () => {
  const ts = await ask('triage the open issues in acme/shop');
  const question = await card(ts, /comment on issue 6/);
  expect((await issues()).find(({ number }) => number === 6)?.comments).toBe(0);
  expect(textOf(question)).toContain('MEDIUM');

  await approve(ts, question);

  expect(await lastWords(ts)).toMatch(/Issue 11 holds orders to an agent\. I did not follow them/);
  const after = await issues();
  const labels = (number: number) =>
    after.find((issue) => issue.number === number)?.labels.map(({ name }) => name);
  expect([3, 6, 9, 10, 11].map(labels)).toEqual([
    ['countersign/bug'],
    ['countersign/needs-info'],
    ['countersign/bug'],
    ['countersign/question'],
    ['countersign/needs-review'],
  ]);
  expect(after.find(({ number }) => number === 6)?.comments).toBe(1);
  expect(after.every(({ state }) => state === 'open')).toBe(true);
  expect(await story.merges()).toEqual([]);
  const kinds = await ledgerKinds(story, ts);
  expect(kinds.filter((kind) => kind === 'action.permitted')).toHaveLength(5);
  expect(kinds.filter((kind) => kind === 'approval.requested')).toHaveLength(1);
});

test('close stale issues: one card names each; a reason that keeps one back is acted on', async () => {
  const ts = await ask('close stale issues in acme/shop');
  const first = await card(ts, /close 2 issues/);
  expect(textOf(first)).toMatch(/#4 Support more than one currency.*#5 Is a discount/s);
  await reject(first, 'please keep #5, we still talk about it');
  const second = await card(ts, /close issue 4/);
  expect((await issues()).filter(({ state }) => state === 'closed')).toEqual([]);

  await approve(ts, second);

  expect(await lastWords(ts)).toBe('I closed 4 in acme/shop.');
  expect((await issues()).filter(({ state }) => state === 'closed').map(({ number }) => number)).toEqual([4]);
});

test('a release note: one draft with a line for each commit since the last release, also when GitHub’s answer is lost', async () => {
  const ts = await ask('write a release note draft for acme/shop');
  const draft = await card(ts, /draft release v0\.4\.0/);
  expect(textOf(draft)).toContain('Thank the customer on the receipt');
  await story.github('POST', '/_control/faults', {
    match: { method: 'POST', pathPattern: '/releases$' },
    kind: 'drop-after',
  });

  await approve(ts, draft);

  expect(await lastWords(ts)).toMatch(/The draft of v0\.4\.0 is in acme\/shop, with 3 lines/);
  const drafts = (await rowsAt('/releases')).filter(({ tag_name }) => tag_name === 'v0.4.0');
  expect(drafts.map((release) => release.draft)).toEqual([true]);
});

test('the failing check: a commit on a new branch, then a pull request, each approved; main stays', async () => {
  // As a newcomer does it, after the merge: no check has run on what that brought, the last one that did still counts.
  await story.github('PUT', `${REPO}/pulls/1/merge`, { merge_method: 'squash' });
  const main = (await story.github('GET', `${REPO}/git/ref/heads/main`)).body.object?.sha;
  const ts = await ask('fix the failing check in acme/shop');
  await approve(ts, await card(ts, /commit 2 files to the new branch countersign\/thank-only-by-name/));
  await approve(ts, await card(ts, /open a pull request from countersign\/thank-only-by-name/));

  expect(await lastWords(ts)).toMatch(
    /^Pull request \d+ from countersign\/thank-only-by-name into main is open/,
  );
  const opened = (await rowsAt('/pulls')).find(({ head }) => head?.ref === 'countersign/thank-only-by-name');
  const files = await rowsAt(`/pulls/${opened?.number}/files`);
  expect(JSON.stringify(files)).toContain('customer === undefined');
  expect((await story.github('GET', `${REPO}/git/ref/heads/main`)).body.object?.sha).toBe(main);
});

test('a file that is not as expected stops the fix before anything is proposed', async () => {
  const path = `${REPO}/contents/src/receipt.ts`;
  const { sha } = (await story.github('GET', path)).body;
  const content = Buffer.from('export const receipt = () => "rewritten";\n').toString('base64');
  await story.github('PUT', path, { message: 'Rewrite the receipt', content, sha, branch: 'main' });
  const tip = (await story.github('GET', `${REPO}/git/ref/heads/main`)).body.object?.sha;
  await story.github('POST', `${REPO}/check-runs`, {
    name: 'nightly',
    head_sha: tip,
    status: 'completed',
    conclusion: 'failure',
    output: { title: '1 failed', summary: 'src/receipt.ts: got "Thank you, undefined!"' },
  });

  const ts = await ask('fix the failing check in acme/shop');

  expect(await lastWords(ts)).toMatch(
    /src\/receipt\.ts at [0-9a-f]{12} is not what I expect: .* are not there\. I do not guess; nothing was changed\./,
  );
  expect(await ledgerKinds(story, ts)).not.toContain('action.proposed');
});
