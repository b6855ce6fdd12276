/**
 * Guarantee: with an app-level token instead of a signing secret the whole story is the same: a mention, a card, a
 * second person's click, one merge; no request of Slack's is needed, none is served, and readiness says whether Slack
 * is connected. A restart in between loses nothing that was said meanwhile.
 */
import { expect, test } from 'vitest';
import { until } from '../support/database.ts';
import { ENGINEERING, REQUESTER, REVIEWER_A } from '../support/people.ts';
import { cardIn, MERGE, useProduct } from '../support/product.ts';

const story = useProduct({}, { by: 'socket' });

const at = (route: string): string => `http://127.0.0.1:${story.product.address.port}${route}`;

test('a mention ends with the pull request merged, over one WebSocket', async () => {
  const ts = await story.people.say(REQUESTER, ENGINEERING, MERGE);
  const card = await cardIn(story.people, ENGINEERING, ts);

  await story.restart();
  const click = await story.people.click(REVIEWER_A, {
    channel: ENGINEERING,
    ts: card.ts,
    actionId: 'approval.approve',
  });

  expect(click.ackStatus).toBe(200);
  await until('merged', async () => (await story.merges()).length > 0);
  expect(await story.merges()).toHaveLength(1);
  const writes = await story.people.githubWrites();
  expect(writes.filter(({ performed, method }) => performed && method === 'PUT')).toHaveLength(1);
});

test('no request is served but health and readiness, and readiness knows the connection', async () => {
  expect((await fetch(at('/slack/events'), { method: 'POST', body: '{}' })).status).toBe(404);
  expect((await fetch(at('/healthz'))).status).toBe(200);
  const ready = await fetch(at('/readyz'));
  expect([ready.status, await ready.json()]).toEqual([200, expect.objectContaining({ slack: 'connected' })]);

  await story.people.fault({ method: 'apps.connections.open', kind: 'server_error', times: 1_000 });
  await story.people.socket('cut');
  const lost = await until('readiness to say no', async () => {
    const answer = await fetch(at('/readyz'));
    return answer.status === 503 && answer;
  });
  expect(await lost.json()).toMatchObject({ ok: false, slack: 'disconnected' });
  await story.people.clearFaults();
  await until('readiness to say yes', async () => (await fetch(at('/readyz'))).status === 200);
});
