/**
 * Guarantee: each risk tier looks in the browser as it behaves. Low: what was asked for happens without a card, and the repository beside it
 * shows it. Medium: nothing has moved while its card waits; one press by a second person and the repository shows it. (High is the whole
 * story's.) What a newcomer types is completed for them, and a file can be taken from the message that carries it.
 */
import { WebClient } from '@slack/web-api';
import { describe, expect, it } from 'vitest';
import { hasBrowser, type Seat, useBrowser } from '../support/browser.ts';
import { ENGINEERING } from '../support/people.ts';
import { useProduct } from '../support/product.ts';

describe.skipIf(!hasBrowser)('in the browser', () => {
  const test = useProduct();
  const browser = useBrowser();
  let seat: Seat;
  const issue = (number: number) => seat.repository.locator(`[data-key="issues/${number}"]`);
  const tab = (name: string) => seat.repository.getByRole('button', { name: new RegExp(`^${name}`) }).click();

  it('low: labels are put on by themselves', async () => {
    seat = await browser.open(test.world.pageUrl);
    await tab('Issues');
    await issue(3).waitFor();
    expect(await issue(3).innerText()).not.toContain('countersign/');

    await seat.say('@Countersign triage the open issues in acme/shop');

    for (const [number, label] of [
      [3, 'countersign/bug'],
      [9, 'countersign/bug'],
      [10, 'countersign/question'],
    ] as const)
      await seat.sees(issue(number), label);
  });

  it('medium: nothing moves while its card waits, and one press by a second person is enough', async () => {
    await seat.openThread('triage the open issues');
    await seat.sees(seat.card, 'MEDIUM risk');
    await seat.sees(seat.card, 'comment on issue 6');
    expect(await issue(6).innerText()).not.toContain('1 comment');

    await seat.become('reviewer-b');
    await seat.press('Approve');

    await seat.sees(seat.card, /Done.*approved by @reviewer-b/s);
    await seat.sees(issue(6), '1 comment');
    await seat.sees(seat.thread, /Issue 11 holds orders to an agent\. I did not follow them/);
  });

  it('medium: sent back with words, the agent asks again', async () => {
    await seat.become('requester');
    await seat.say('@Countersign close stale issues in acme/shop');
    await seat.become('reviewer-a');
    await seat.openThread('close stale issues');
    await seat.sees(seat.card, 'close 2 issues');

    await seat.press('Request changes');
    await seat.press('Request changes', seat.modal);
    await seat.sees(seat.modal, 'This is a required field');
    await seat.modal.getByLabel(/^What should change/).fill('   ');
    await seat.press('Request changes', seat.modal);
    await seat.sees(seat.modal, 'Say what should change');
    await seat.modal.getByLabel(/^What should change/).fill('Please keep #5, we still talk about it.');
    await seat.press('Request changes', seat.modal);

    await seat.sees(seat.thread, 'Changes requested by @reviewer-a');
    await seat.sees(seat.card, 'close issue 4');
    await seat.press('Approve');
    await seat.sees(seat.card, 'Done');
    await seat.sees(issue(4), 'closed');
    await seat.sees(issue(5), 'open');
  });

  it('a command is completed while it is typed, and its answer is private', async () => {
    const box = seat.page.getByRole('combobox', { name: 'Message' });
    await box.pressSequentially('/count');
    await seat.sees(seat.page.getByRole('option'), '/countersign');
    await box.press('Enter');
    await box.pressSequentially('digest');
    await box.press('Enter');

    const told = seat.channel.locator('.private', { hasText: 'ledger seal' });
    await told.waitFor();
    await seat.sees(told, 'Done');
    await seat.sees(told, '$0.00');
  });

  it('a file is named with its size, and arrives whole when it is taken', async () => {
    const slack = new WebClient(test.world.slack.botToken, { slackApiUrl: test.world.slack.apiUrl });
    await slack.filesUploadV2({
      channel_id: ENGINEERING,
      filename: 'change.diff',
      title: 'The whole change',
      content: '+ one line\n',
    });
    const file = seat.channel.getByRole('link', { name: /The whole change/ });
    await seat.sees(file, 'change.diff · 11');

    const [taken] = await Promise.all([seat.page.waitForEvent('download'), file.click()]);
    expect(taken.suggestedFilename()).toBe('change.diff');
    const chunks: Buffer[] = [];
    for await (const chunk of await taken.createReadStream()) chunks.push(Buffer.from(chunk));
    expect(Buffer.concat(chunks).toString()).toBe('+ one line\n');
  });
});
