/**
 * Guarantee: the page behaves as a Slack client does, whatever app is behind it: unread marks, private messages for one person, windows
 * that refuse what is missing and say the app's own errors at the field, edits and reactions live, files, Home, all of it by keyboard; and
 * it is the same page after a reload and after a restart of the local world.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LogLevel, WebClient } from '@slack/web-api';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startWorld, type World } from '../../src/local/world.ts';
import { type Receiver, startReceiver } from '../integration/local-slack-receiver.ts';
import { hasBrowser, type Seat, useBrowser } from '../support/browser.ts';
import { ENGINEERING, GENERAL, REQUESTER, REVIEWER_A } from '../support/people.ts';

const FORM = {
  type: 'modal' as const,
  callback_id: 'form',
  title: { type: 'plain_text' as const, text: 'Order' },
  submit: { type: 'plain_text' as const, text: 'Send it' },
  blocks: [
    {
      type: 'input' as const,
      block_id: 'why',
      label: { type: 'plain_text' as const, text: 'Why' },
      element: { type: 'plain_text_input' as const, action_id: 'why.text' },
    },
  ],
};

describe.skipIf(!hasBrowser)('the page', () => {
  const browser = useBrowser();
  let stateDir = '';
  let world: World;
  let app: Receiver;
  let seat: Seat;
  const slack = () =>
    new WebClient(world.slack.botToken, { slackApiUrl: world.slack.apiUrl, logLevel: LogLevel.ERROR });
  const button = (text: string, action_id: string) => ({
    type: 'actions' as const,
    elements: [{ type: 'button' as const, action_id, text: { type: 'plain_text' as const, text } }],
  });

  beforeAll(async () => {
    stateDir = await mkdtemp(join(tmpdir(), 'countersign-page-'));
    world = await startWorld({ stateDir });
    app = await startReceiver(world.slack.signingSecret);
    await world.connect(app.url);
    seat = await browser.open(world.pageUrl, { as: 'reviewer-a' });
  });

  afterAll(async () => {
    await app.close();
    await world.close();
    await rm(stateDir, { recursive: true, force: true });
  });

  it('marks what is unread, counts what names the person, and clears it by looking', async () => {
    await slack().chat.postMessage({ channel: GENERAL, text: `<@${REVIEWER_A}> please look` });
    const general = seat.page.locator('[data-place="C0GENERAL"]');
    await seat.sees(general, '1');
    await seat.sees(seat.page.locator('.place.unread'), 'general');

    await general.click();
    await seat.sees(seat.channel.locator('.mention.me'), '@reviewer-a');
    await expect.poll(() => general.getAttribute('aria-label')).toBe('general');
    expect(await seat.page.title()).toContain('general');
    await seat.page.locator('[data-place="C0ENG"]').click();
  });

  it('redraws an edit where it stands, and shows reactions of others', async () => {
    const { ts } = await slack().chat.postMessage({ channel: ENGINEERING, text: 'before' });
    await seat.sees(seat.channel, 'before');
    await slack().chat.update({ channel: ENGINEERING, ts: String(ts), text: 'after' });
    await slack().reactions.add({ channel: ENGINEERING, timestamp: String(ts), name: 'eyes' });

    const message = seat.channel.locator(`[data-key="${ts}"]`);
    await seat.sees(message, 'after');
    const eyes = message.getByRole('button', { name: /^eyes, 1/ });
    await eyes.click();
    await message.getByRole('button', { name: /^eyes, 2/ }).waitFor();
  });

  it('shows a private message to its reader alone', async () => {
    await slack().chat.postEphemeral({ channel: ENGINEERING, user: REVIEWER_A, text: 'for you alone' });
    await seat.sees(seat.channel.locator('.private'), 'Only visible to you');
    const other = await browser.open(world.pageUrl, { as: 'reviewer-b' });
    await other.sees(other.channel, 'after');
    expect(await other.channel.getByText('for you alone').count()).toBe(0);
    await other.page.close();
  });

  it('shows a press under way, and the trouble when the app does not answer it', async () => {
    const blocks = [button('Go on', 'go')];
    const { ts } = await slack().chat.postMessage({ channel: ENGINEERING, text: 'press', blocks });
    const message = seat.channel.locator(`[data-key="${ts}"]`);
    app.answer = () => ({ status: 500 });
    await seat.press('Go on', message);
    await seat.sees(message.getByRole('alert'), 'Something went wrong');
    app.answer = () => ({});
    await seat.press('Go on', message);
    await expect.poll(() => message.getByRole('alert').count()).toBe(0);
  });

  it('asks in a window by keyboard alone: required fields, the app’s own errors, then done', async () => {
    const { ts } = await slack().chat.postMessage({
      channel: ENGINEERING,
      text: 'form',
      blocks: [button('Open the form', 'open')],
    });
    app.answer = (request) => {
      const asked = String(request.json.type);
      if (asked === 'block_actions')
        void slack().views.open({ trigger_id: String(request.json.trigger_id), view: FORM });
      if (asked !== 'view_submission') return {};
      const given = JSON.stringify(request.json.view);
      return given.includes('because')
        ? {}
        : { body: { response_action: 'errors', errors: { why: 'Say because.' } } };
    };
    const open = seat.channel.locator(`[data-key="${ts}"]`).getByRole('button', { name: 'Open the form' });
    await open.focus();
    await seat.page.keyboard.press('Enter');
    const field = seat.modal.getByLabel('Why');
    await field.waitFor();
    await seat.modal.locator('.b-field:focus').waitFor();

    await seat.page.keyboard.press('Enter');
    await seat.sees(seat.modal, 'This is a required field');
    await seat.page.keyboard.type('no reason');
    await seat.page.keyboard.press('Enter');
    await seat.sees(seat.modal, 'Say because.');
    expect(await field.getAttribute('aria-invalid')).toBe('true');
    expect(await field.inputValue()).toBe('no reason');
    await seat.page.keyboard.press('End');
    await seat.page.keyboard.type(' but because');
    await seat.page.keyboard.press('Enter');
    await seat.modal.waitFor({ state: 'hidden' });
    app.answer = () => ({});
  });

  it('has Home, which the app publishes for this person', async () => {
    await slack().views.publish({
      user_id: REVIEWER_A,
      view: {
        type: 'home',
        blocks: [{ type: 'header', text: { type: 'plain_text', text: 'Waiting on you' } }],
      },
    });
    await seat.page.locator('[data-place^="D"]').click();
    await seat.page.getByRole('button', { name: 'Home', exact: true }).click();
    await seat.sees(seat.channel, 'Waiting on you');
    await expect.poll(() => app.events('app_home_opened').length).toBeGreaterThan(0);
  });

  it('lets one be another person with the arrow keys', async () => {
    await seat.page.locator('[data-place="C0ENG"]').click();
    await seat.page.locator('.person.current').focus();
    await seat.page.keyboard.press('ArrowLeft');
    await seat.page.locator(`[data-person="${REQUESTER}"][aria-checked="true"]`).waitFor();
    await expect.poll(() => seat.page.evaluate('document.activeElement.dataset.person')).toBe(REQUESTER);
  });

  it('takes a click on a person while an answer for another is still on its way', async () => {
    let release: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    let isHeld = false;
    await seat.page.route('**/page/state*', async (route) => {
      if (!isHeld) {
        isHeld = true;
        await held;
      }
      await route.continue();
    });
    await slack().chat.postMessage({ channel: ENGINEERING, text: 'something new' });
    await expect.poll(() => isHeld).toBe(true);
    await seat.page.locator(`[data-person="${REVIEWER_A}"]`).click();
    release();

    await seat.page.locator(`[data-person="${REVIEWER_A}"][aria-checked="true"]`).waitFor();
    await seat.page.unroute('**/page/state*');
    await seat.become('requester');
  });

  it('is the same after a reload and after a restart of the local world', async () => {
    expect(seat.page.url()).not.toContain('token');
    await seat.page.reload();
    await seat.sees(seat.channel, 'after');
    await seat.page.locator(`[data-person="${REQUESTER}"][aria-checked="true"]`).waitFor();

    await world.close();
    await seat.sees(seat.page.getByRole('status'), /Reconnecting|Not reachable/);
    world = await startWorld({ stateDir });
    await slack().chat.postMessage({ channel: ENGINEERING, text: 'back again' });
    await seat.sees(seat.channel, 'back again');
    await expect.poll(() => seat.page.getByRole('status').innerText()).toBe('');
  });
});
