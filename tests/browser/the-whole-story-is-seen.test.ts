/**
 * Guarantee: what happens can be followed and steered in a browser alone, as people do: somebody asks, an agent proposes, a card waits;
 * who asked and a guest are refused and told why, alone; a reviewer's one press merges, and the card, the thread and the repository beside
 * it say so without a reload. On a phone the same card can be read and pressed.
 */
import { describe, expect, it } from 'vitest';
import { DESK, hasBrowser, PHONE, type Seat, useBrowser } from '../support/browser.ts';
import { useProduct } from '../support/product.ts';

describe.skipIf(!hasBrowser)('the whole story', () => {
  const test = useProduct();
  const browser = useBrowser();
  let desk: Seat;
  let phone: Seat;

  it('a mention is answered with a reaction, a thread and a card', async () => {
    desk = await browser.open(test.world.pageUrl);
    await desk.picture('workspace-first');
    const box = desk.page.getByRole('combobox', { name: 'Message' });
    await box.pressSequentially('@coun');
    await desk.sees(desk.page.getByRole('option'), 'Countersign');
    await box.press('Enter');
    await box.pressSequentially('merge pull request 1 in acme/shop');
    await box.press('Enter');

    await desk.channel.getByRole('button', { name: /^eyes, 1: Countersign/ }).waitFor();
    await desk.sees(desk.page.getByRole('radio', { name: /^reviewer-a, 1 unread mention/ }), '1');
    await desk.openThread('merge pull request 1');
    await desk.sees(desk.card, 'Approve: merge pull request 1 into main');
    expect(await desk.card.getByRole('button').allTextContents()).toEqual(
      expect.arrayContaining(['Details', 'Approve', 'Request changes', 'Reject']),
    );
  });

  it('who asked is refused, and nobody else is shown that', async () => {
    await desk.press('Approve');
    await desk.sees(desk.thread.locator('.private'), 'You asked for this, so someone else decides');

    await desk.become('reviewer-b');
    expect(await desk.thread.locator('.private').count()).toBe(0);
    await desk.sees(desk.card, '0 so far');
  });

  it('a guest is refused', async () => {
    await desk.become('guest');
    await desk.press('Approve');
    await desk.sees(desk.thread.locator('.private'), 'Guests cannot decide');
    expect(await test.merges()).toHaveLength(0);
    await desk.press('Dismiss', desk.thread.locator('.private'));
    await expect.poll(() => desk.thread.locator('.private').count()).toBe(0);
  });

  it('on a phone the card fits, and its buttons are large enough for a thumb', async () => {
    phone = await browser.open(test.world.pageUrl, { as: 'reviewer-a', viewport: PHONE });
    await phone.openThread('merge pull request 1');
    await phone.sees(phone.card, 'Approve: merge pull request 1 into main');

    expect(await phone.overhang()).toBe(0);
    const cardBox = await phone.card.boundingBox();
    expect((cardBox?.x ?? -1) >= 0 && (cardBox?.width ?? 999) <= PHONE.width).toBe(true);
    for (const label of ['Details', 'Approve', 'Request changes', 'Reject']) {
      const button = await phone.card.getByRole('button', { name: label, exact: true }).boundingBox();
      expect(button?.height, label).toBeGreaterThanOrEqual(44);
      expect((button?.x ?? 0) + (button?.width ?? 0), label).toBeLessThanOrEqual(PHONE.width);
    }
    await phone.picture('phone-card');
  });

  it('a reviewer approves on the phone; card, thread and repository say so on the desk by themselves', async () => {
    await desk.sees(desk.repository.locator('.row'), /open.*#1/);
    await phone.press('Approve');

    await desk.sees(desk.card, 'Done');
    await desk.sees(desk.card, 'approved by @reviewer-a');
    expect(await desk.card.getByRole('button').allTextContents()).not.toContain('Approve');
    await desk.sees(desk.thread.locator('.message').last(), /Approved by @reviewer-a|Done/);
    await desk.sees(desk.repository.locator('.news'), 'Pull request #1 is merged');
    const row = desk.repository.locator('.row', { hasText: 'Fix rounding of half cents' });
    await desk.sees(row, /merged.*merged as [0-9a-f]{7}/);
    expect(await test.merges()).toHaveLength(1);
    await desk.become('requester');
    await desk.picture('workspace');

    await row.click();
    await desk.sees(desk.repository, 'test: success');
    await desk.sees(desk.repository.locator('.diff').first(), '+  // In whole numbers');
    await phone.sees(phone.card, 'Done');
  });

  it('in the dark the same is there', async () => {
    const dark = await browser.open(test.world.pageUrl, {
      as: 'reviewer-b',
      viewport: DESK,
      colorScheme: 'dark',
    });
    await dark.openThread('merge pull request 1');
    await dark.sees(dark.card, 'Done');
    const background = await dark.page.evaluate('getComputedStyle(document.body).backgroundColor');
    expect(background).toBe('rgb(23, 27, 25)');
    await dark.picture('workspace-dark');
  });
});
