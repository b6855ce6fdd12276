/**
 * Guarantee, through the whole product: at nine of a weekday in the configured zone the digest stands in the configured channel, once,
 * across a restart at nine and with two processes at work; a morning on which nothing ran is made up for once, marked late; a quiet day is
 * one line. `/countersign digest` answers on demand as often as it is asked, to the asker alone or with `here` to the channel; everything
 * else about the command is answered too, and so is a place where Slack does not let it be posted.
 */
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { ring } from '../../src/jobs/engine/bell.ts';
import { SCHEDULE_WORD } from '../../src/jobs/schedules.ts';
import { startProduct } from '../../src/main.ts';
import { testLog, until } from '../support/database.ts';
import { ENGINEERING, GENERAL, GUEST, REQUESTER, REVIEWER_A, type SeenMessage } from '../support/people.ts';
import { askForMerge, useProduct } from '../support/product.ts';

const story = useProduct(
  { admins: [{ teamId: 'T0LOCAL', userId: REVIEWER_A }], deadlineHours: 400 },
  { digest: { timeZone: 'Europe/Berlin', channelId: ENGINEERING } },
);

afterEach(() => story.people.clearFaults());

const isDigest = (message: SeenMessage) =>
  message.thread_ts === undefined &&
  /done|Nothing to report/.test(message.text) &&
  message.bot_id !== undefined;
const digests = async (channel = ENGINEERING) => (await story.people.messages(channel)).filter(isDigest);
const datesMade = async () => {
  const { rows } = await story.db.query<{ date: string }>({
    text: 'select local_date::text as date from digests where schedule_id is not null order by local_date',
  });
  return rows.map((row) => row.date);
};
/** What the schedule owes by now is done and stands in Slack. */
const settled = (dates: readonly string[]) =>
  until('the digests to stand', async () => {
    const { rows } = await story.db.query({
      text: `select 1 from deliveries where status = 'due' union all
             select 1 from runs where workflow_name = 'morning-digest' and status <> 'completed'`,
    });
    return rows.length === 0 && JSON.stringify(await datesMade()) === JSON.stringify(dates);
  });
const look = () => ring(story.db, SCHEDULE_WORD);
// As if it had been started on the Thursday before the weekend on which Berlin's clocks go forward.
beforeAll(async () => {
  await story.product.stop();
  await story.setTime('2030-03-28T12:00:00Z');
  await story.db.query({ text: `update schedules set next_at = '2030-03-29T08:00:00Z'` });
  await story.restart();
});

test('at nine it is posted, once, whoever restarts at that moment and however many look', async () => {
  await askForMerge(story);
  await story.setTime('2030-03-29T07:59:58Z');
  const second = await startProduct({ ...story.config, port: 0 }, testLog);
  try {
    await story.restart();
    await until('nine o’clock', async () => (await digests()).length > 0);
    await Promise.all([look(), look(), story.restart()]);
    await settled(['2030-03-29']);
  } finally {
    await second.stop();
  }

  const [posted, ...more] = await digests();
  expect(more).toEqual([]);
  expect(posted?.text).toMatch(/^Friday 29 March: 0 tasks done, 1 waiting$/);
  const text = JSON.stringify(posted?.blocks);
  expect(text).toContain('`merge pull request 1 in acme/shop`');
  expect(text).toContain(`waits for <@${REVIEWER_A}>`);
  expect(text).not.toContain('Late');
  expect(text).toContain('ledger seal');
});

test('the weekend on which the clocks go forward has none; Monday comes at nine on the wall', async () => {
  await story.setTime('2030-03-31T12:00:00Z');
  await look();
  await settled(['2030-03-29']);
  // Berlin is two hours ahead by now.
  await story.setTime('2030-04-01T06:59:59Z');
  await look();
  await settled(['2030-03-29', '2030-04-01']);

  expect(await digests()).toHaveLength(2);
});

test('a morning on which nothing ran is made up for at the start, once, and says that it is late', async () => {
  await story.product.stop();
  await story.setTime('2030-04-03T10:30:00Z');
  await story.restart();
  await settled(['2030-03-29', '2030-04-01', '2030-04-03']);
  await story.restart();
  await look();
  await settled(['2030-03-29', '2030-04-01', '2030-04-03']);

  const all = await digests();
  expect(all).toHaveLength(3);
  expect(JSON.stringify(all.at(-1)?.blocks)).toContain('Late: nothing ran at 09:00 Wednesday 3 April');
});

test('an answer from Slack that was lost leads to one digest all the same', async () => {
  await story.people.fault({ method: 'chat.postMessage', kind: 'drop_after', channel: ENGINEERING });
  await story.setTime('2030-04-04T07:00:00Z');
  await look();
  await settled(['2030-03-29', '2030-04-01', '2030-04-03', '2030-04-04']);

  expect(await digests()).toHaveLength(4);
});

describe('/countersign', () => {
  const answers = async (user: string) =>
    (await story.people.ephemerals(user)).map((one) => ({ ...one, all: JSON.stringify(one.blocks) }));
  const asked = async (user: string, channel: string, text: string, count = 1) => {
    const before = (await answers(user)).length;
    const ack = await story.people.command(user, channel, '/countersign', text);
    expect(ack.ackStatus).toBe(200);
    return until('an answer', async () => {
      const now = await answers(user);
      return now.length === before + count && now.at(-1);
    });
  };

  test('digest answers the asker alone, twice when asked twice, and takes nothing away', async () => {
    const one = await asked(REQUESTER, ENGINEERING, 'digest');
    const two = await asked(REQUESTER, ENGINEERING, ' Digest ');

    for (const answer of [one, two]) expect(answer.all).toContain('merge pull request 1 in acme/shop');
    expect(await digests()).toHaveLength(4);
  });

  test('in another channel tells no words of this one, but to who said them', async () => {
    expect((await asked(REVIEWER_A, GENERAL, 'digest')).all).not.toContain('acme/shop');
    expect((await asked(REQUESTER, GENERAL, 'digest')).all).toContain('acme/shop');
  });

  test('digest here answers everybody in the channel', async () => {
    await story.people.command(REQUESTER, GENERAL, '/countersign', 'digest here');
    const [posted] = await until('the digest', async () => {
      const found = await digests(GENERAL);
      return found.length > 0 && found;
    });

    expect(JSON.stringify(posted?.blocks)).toContain(`A task of <@${REQUESTER}> in <#${ENGINEERING}>`);
  });

  test.each(['', 'help', 'digest everywhere', 'merge it'])('%j says what there is', async (text) => {
    const answer = await asked(REQUESTER, ENGINEERING, text);

    expect(answer.all).toContain('/countersign digest here');
    expect(answer.all.includes('do not know')).toBe(!['', 'help'].includes(text));
  });

  test('a guest is told why not', async () => {
    expect((await asked(GUEST, ENGINEERING, 'digest')).all).toContain('who may give me tasks');
  });

  test('where Slack does not let it be posted, the asker is told in their direct message', async () => {
    await story.people.fault({
      method: 'chat.postMessage',
      kind: 'error',
      error: 'not_in_channel',
      channel: GENERAL,
    });
    await story.people.command(REVIEWER_A, GENERAL, '/countersign', 'digest here');

    await until('a note', async () => {
      const direct = await story.people.messages(`D${REVIEWER_A.slice(1)}`);
      return direct.some((message) => message.text.includes('does not let me post the digest'));
    });
  });
});

test('a quiet day is one line', async () => {
  // The one task that waits is taken back by the reviewer's no.
  const card = (await story.people.messages(ENGINEERING)).findLast((message) =>
    JSON.stringify(message.blocks ?? []).includes('"approval.reject"'),
  );
  await story.people.click(REVIEWER_A, {
    channel: ENGINEERING,
    ts: card?.ts ?? '',
    actionId: 'approval.reject',
  });
  await until('the modal', async () => (await story.people.views(REVIEWER_A)).length > 0);
  await story.people.submitView(REVIEWER_A, { 'reason.text': 'not before the release' });
  await until('its end', async () => {
    const { rows } = await story.db.query({
      text: `select 1 from ledger_entries where entry_kind = 'task.finished'`,
    });
    return rows.length > 0;
  });
  await story.setTime('2030-04-05T07:00:00Z');
  await look();
  await until('Friday’s', async () => (await digests()).length === 5);
  await story.setTime('2030-04-08T07:00:00Z');
  await look();
  await until('Monday’s', async () => (await digests()).length === 6);

  const [friday, monday] = (await digests()).slice(-2);
  expect(JSON.stringify(friday?.blocks)).toContain('not before the release');
  expect(monday?.text).toBe('Nothing to report since Friday.');
});
