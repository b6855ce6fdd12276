/**
 * Guarantee: reviewers are shown everything and told everything. What does not fit on the card is in Details, page by page to the last
 * character, and Approve leads there first; a rejection carries its reason to the agent and what follows is a new card; of two reviewers
 * pressing at once the first decides, and the other sees who did.
 */
import { describe, expect, it } from 'vitest';
import { hasBrowser, type Seat, useBrowser } from '../support/browser.ts';
import { useProduct } from '../support/product.ts';

const LAST_LINE = 'the very last line of a long change: ∎';

describe.skipIf(!hasBrowser)('reviewers', () => {
  const test = useProduct();
  const browser = useBrowser();
  let a: Seat;
  let b: Seat;

  it('read Details to the last character before Approve counts', async () => {
    await lengthenPull();
    a = await browser.open(test.world.pageUrl);
    await a.say('@Countersign merge pull request 1 in acme/shop');
    await a.become('reviewer-a');
    await a.openThread('merge pull request 1');
    await a.sees(a.card, 'Approve opens the rest first');

    await a.press('Approve');
    await a.sees(a.modal, 'Not everything is on the card');
    const title = a.modal.getByRole('heading', { level: 2 });
    const [, pages = '0'] = /Details 1 of (\d+)/.exec((await title.textContent()) ?? '') ?? [];
    expect(Number(pages)).toBeGreaterThan(1);
    await a.picture('details', a.modal);
    let read = await a.modal.locator('.modal-body').innerText();
    for (let page = 2; page <= Number(pages); page += 1) {
      await a.press('Next page', a.modal);
      await a.sees(title, `Details ${page} of ${pages}`);
      read += await a.modal.locator('.modal-body').innerText();
    }
    expect(read).toContain(LAST_LINE);
    await a.page.keyboard.press('Escape');
    await a.modal.waitFor({ state: 'hidden' });
    expect(await test.merges()).toHaveLength(0);
  });

  it('reject with a reason, which the agent answers with another proposal', async () => {
    await a.press('Reject');
    await a.modal.getByLabel(/^Reason/).fill('No squash please: keep it as a merge commit.');
    await a.press('Reject', a.modal);

    const rejected = a.thread.locator('.message', { hasText: 'Rejected by @reviewer-a' });
    await rejected.waitFor();
    await a.sees(rejected, 'No squash please');
    expect(await rejected.getByRole('button', { name: 'Approve' }).count()).toBe(0);
    await a.thread.getByRole('button', { name: 'Approve', exact: true }).waitFor();
    await a.sees(a.card, 'Method: merge');
  });

  it('press at once: the first decides, the other is told or sees who did, and it is done once', async () => {
    b = await browser.open(test.world.pageUrl, { as: 'reviewer-b' });
    await b.openThread('merge pull request 1');
    // Both have read to the end, so that both presses are decisions.
    for (const seat of [a, b]) await readToTheEnd(seat);

    await Promise.all([a.press('Approve'), b.press('Approve')]);

    for (const seat of [a, b]) await seat.sees(seat.card, /Done.*approved by @reviewer-[ab]/s);
    await expect
      .poll(async () => {
        const told = await Promise.all(
          [a, b].map((seat) => seat.thread.locator('.private', { hasText: 'already approved by' }).count()),
        );
        return told.toSorted();
      })
      .toEqual([0, 1]);
    expect(await test.merges()).toHaveLength(1);
  });

  async function readToTheEnd(seat: Seat): Promise<void> {
    await seat.press('Details');
    const title = seat.modal.getByRole('heading', { level: 2 });
    await seat.sees(title, 'Details 1 of');
    const [, pages = '1'] = /of (\d+)/.exec((await title.textContent()) ?? '') ?? [];
    for (let page = 2; page <= Number(pages); page += 1) {
      await seat.press('Next page', seat.modal);
      await seat.sees(title, `Details ${page} of ${pages}`);
    }
    await seat.press('Close', seat.modal);
    await seat.modal.waitFor({ state: 'hidden' });
  }

  /** Adds a file to pull request 1 that no card can show as a whole. */
  async function lengthenPull(): Promise<void> {
    const repo = '/repos/acme/shop';
    const parent = (await test.github('GET', `${repo}/git/ref/heads/fix-rounding`)).body.object?.sha;
    const base = (await test.github('GET', `${repo}/git/commits/${parent}`)).body.tree?.sha;
    const lines = Array.from(
      { length: 760 },
      (_, index) => `line ${index + 1} of notes on rounding ${'.'.repeat(300)}`,
    );
    const tree = await test.github('POST', `${repo}/git/trees`, {
      base_tree: base,
      tree: [
        {
          path: 'NOTES.md',
          mode: '100644',
          type: 'blob',
          content: `${[...lines, LAST_LINE].join('\n')}\n`,
        },
      ],
    });
    const commit = await test.github('POST', `${repo}/git/commits`, {
      message: 'Notes',
      tree: tree.body.sha,
      parents: [parent],
    });
    await test.github('PATCH', `${repo}/git/refs/heads/fix-rounding`, { sha: commit.body.sha });
  }
});
