/**
 * Guarantee: when Slack says that the app was uninstalled or its token revoked, and refuses the token, everything owed rests, `/readyz` says
 * no and the ledger keeps it, once; a start with a token that Slack takes ends that. (That a message does so too: deliveries-stand-in-nobodys-
 * way.) An event that comes after the app was installed again, or of other people's tokens, changes nothing.
 */
import { createHmac, randomUUID } from 'node:crypto';
import { afterEach, expect, test } from 'vitest';
import { deliveryHealth } from '../../src/jobs/delivery-queue.ts';
import { until } from '../support/database.ts';
import { BOT, REQUESTER } from '../support/people.ts';
import { TEAM, useProduct } from '../support/product.ts';

const product = useProduct();

afterEach(() => product.people.clearFaults());

/** Sends the event as Slack does and waits until it was handled. */
async function tell(event: object): Promise<void> {
  const eventId = `Ev${randomUUID()}`;
  const body = JSON.stringify({ type: 'event_callback', team_id: TEAM, event_id: eventId, event });
  const timestamp = String(Math.floor(Date.now() / 1_000));
  const signature = createHmac('sha256', product.world.slack.signingSecret)
    .update(`v0:${timestamp}:${body}`)
    .digest('hex');
  const answer = await fetch(`http://127.0.0.1:${product.product.address.port}/slack/events`, {
    method: 'POST',
    body,
    headers: {
      'content-type': 'application/json',
      'x-slack-request-timestamp': timestamp,
      'x-slack-signature': `v0=${signature}`,
    },
  });
  expect(answer.status).toBe(200);
  await until('the event to be handled', async () => {
    const { rows } = await product.db.query({
      text: `select 1 from inbox where dedupe_key = $1 and status = 'handled'`,
      values: [`event:${eventId}`],
    });
    return rows.length === 1;
  });
}

async function ledger(): Promise<unknown[]> {
  const { rows } = await product.db.query<{ entry_kind: string; facts: unknown }>({
    text: `select entry_kind, body::json->'facts' as facts from ledger_entries where subject_kind = 'workspace' and subject_id = $1 order by subject_seq`,
    values: [TEAM],
  });
  return rows.map(({ entry_kind, facts }) => [entry_kind, facts]);
}

const refusedBy = async () => (await deliveryHealth(product.db)).tokenRefused;
const refuse = () =>
  product.people.fault({ method: 'auth.test', kind: 'error', error: 'account_inactive', times: 100 });

test('an uninstalled app is remembered once, and again when it is installed again', async () => {
  await refuse();
  await tell({ type: 'app_uninstalled' });
  await tell({ type: 'tokens_revoked', tokens: { oauth: [], bot: [BOT] } });

  expect(await refusedBy()).toBe('app_uninstalled');
  const lost = ['workspace.slack_lost', { by: 'app_uninstalled' }];
  expect(await ledger()).toEqual([lost]);
  const readyz = `http://127.0.0.1:${product.product.address.port}/readyz`;
  expect((await fetch(readyz)).status).toBe(503);

  await product.people.clearFaults();
  await product.restart();
  const regained = ['workspace.slack_regained', {}];
  expect(await ledger()).toEqual([lost, regained]);

  await refuse();
  await tell({ type: 'tokens_revoked', tokens: { oauth: [], bot: [BOT] } });
  await product.people.clearFaults();
  await product.restart();
  expect(await refusedBy()).toBeNull();
  expect(await ledger()).toEqual([
    lost,
    regained,
    ['workspace.slack_lost', { by: 'tokens_revoked' }],
    regained,
  ]);
});

test('what comes late, or is of other tokens, changes nothing', async () => {
  const before = await ledger();

  await tell({ type: 'app_uninstalled' });
  await refuse();
  await tell({ type: 'tokens_revoked', tokens: { oauth: [REQUESTER], bot: [] } });
  await tell({ type: 'tokens_revoked' });

  expect(await refusedBy()).toBeNull();
  expect(await ledger()).toEqual(before);
});
