/**
 * Guarantee: somebody looking at open cards loses nothing when the product is killed: the page says nothing was lost, the cards stay, and
 * after a restart the oldest one takes the first press.
 */
import { describe, expect, it } from 'vitest';
import { hasBrowser, useBrowser } from '../support/browser.ts';
import { until } from '../support/database.ts';
import { useProcess } from '../support/process.ts';

const CARDS = 5;

describe.skipIf(!hasBrowser)('a killed product', () => {
  const product = useProcess();
  const browser = useBrowser();

  it(`keeps ${CARDS} open cards, and the oldest is decided first after the restart`, async () => {
    const seat = await browser.open(product.now.pageUrl);
    for (let card = 1; card <= CARDS; card += 1)
      await seat.say(`@Countersign merge pull request 1 in acme/shop, ask ${card}`);
    await until(`${CARDS} pending cards`, async () => {
      const { rows } = await product.db.query<{ n: number }>({
        text: `select count(*)::int as n from approval_requests where status = 'pending'`,
      });
      return rows[0]?.n === CARDS;
    });
    await seat.become('reviewer-a');
    const oldest = seat.channel.locator('.message', { hasText: 'ask 1' });
    await oldest.locator('.replies').click();
    await seat.sees(seat.card, 'Approve: merge pull request 1');

    await product.kill9();
    await seat.press('Approve');
    await seat.sees(seat.card.locator('.trouble'), 'the app did not answer');
    expect(await seat.card.getByRole('button', { name: 'Approve', exact: true }).count()).toBe(1);

    await product.start();
    await seat.press('Approve');

    await seat.sees(seat.card, 'Done');
    expect(await seat.card.locator('.trouble').count()).toBe(0);
    await seat.sees(seat.repository.locator('.row'), /merged.*#1/);
    const merges = (await product.writes()).filter(
      (write) => write.method === 'PUT' && write.path.endsWith('/merge') && write.performed,
    );
    expect(merges).toHaveLength(1);
  });
});
