/**
 * Guarantee: over Slack's own wire (the local Slack, the real SDK, real Bolt, a real socket), a mention reaches the
 * desk once although Slack sends it as two events and again when it was not stored; a card that is posted is found by
 * its id, and its buttons, modals and pages lead back to the desk with what the person saw; the redrawn card has lost
 * its buttons. The inbox here is a list in memory: what a database does with a row is tested where the inbox is.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Bot, createBot } from '../../src/bot/app.ts';
import { HttpReceiver } from '../../src/bot/http-receiver.ts';
import type { InboundRow } from '../../src/bot/inbound.ts';
import { createIngest } from '../../src/bot/ingest.ts';
import { createMessenger, type SlackMessenger } from '../../src/bot/messenger.ts';
import type { DecisionAsked, Desk, TaskAsked } from '../../src/jobs/desk.ts';
import { startWorld, type World } from '../../src/local/world.ts';
import { createLogger } from '../../src/log.ts';
import type { Tx } from '../../src/types.ts';
import type { ApprovalView, DeliveryTarget } from '../../src/views.ts';
import { ENGINEERING, MENTION, People, REQUESTER, REVIEWER_A } from '../support/people.ts';
import { approvalView } from '../unit/bot-views.ts';

const TX = {
  query: async () => ({ rows: [], rowCount: 0 }),
  afterCommit: () => {},
  afterRollback: () => {},
} as Tx;

let stateDir: string;
let world: World;
let people: People;
let messenger: SlackMessenger;
let bot: Bot;
let receiver: HttpReceiver;

/** The inbox: rows by workspace and key, first one wins. */
const inbox = new Map<string, InboundRow>();
let refusals = 0;
const asked: TaskAsked[] = [];
const decided: DecisionAsked[] = [];
const read: string[] = [];
let approval: ApprovalView;

const desk: Desk = {
  async requestTask(_tx, task) {
    asked.push(task);
  },
  async decide(_tx, decision) {
    decided.push(decision);
  },
  async approval(_workspaceId, requestId) {
    return requestId === approval.requestId ? approval : null;
  },
  async hadReadDetails() {
    return read.length > 0;
  },
  async detailsOpened(_tx, _workspaceId, _requestId, person) {
    read.push(person.userId);
  },
  async unsettled() {
    return null;
  },
  async mayDecide() {
    return true;
  },
  async settle() {},
  async digest() {},
  async slackLost() {},
  async note(_tx, workspaceId, target, note) {
    await messenger.post(workspaceId, 'a-note', target, { kind: 'note', note });
  },
};

beforeAll(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'slack-edge-'));
  world = await startWorld({ stateDir, redeliveryScale: 0.001 });
  people = new People(world);
  const log = createLogger({ level: 'silent' });
  messenger = createMessenger({ botToken: world.slack.botToken, slackApiUrl: world.slack.apiUrl, log });
  receiver = new HttpReceiver({
    ingest: createIngest({
      signingSecrets: [world.slack.signingSecret],
      store: async (row) => {
        if (refusals > 0) {
          refusals -= 1;
          throw new Error('the database is gone');
        }
        const key = `${row.workspaceId} ${row.dedupeKey}`;
        if (inbox.has(key)) return 'duplicate';
        inbox.set(key, row);
        return 'stored';
      },
      nowSeconds: () => Date.now() / 1_000,
    }),
    ready: async () => ({ ok: true, detail: {} }),
    log,
    port: 0,
    host: '127.0.0.1',
  });
  const { port } = await receiver.start();
  await world.connect(`http://127.0.0.1:${port}/slack/events`);
  const { botId, botUserId } = await messenger.authTest();
  bot = createBot({
    botToken: world.slack.botToken,
    botId,
    botUserId,
    deploymentId: approvalView().deploymentId,
    desk,
    messenger,
    log,
    slackApiUrl: world.slack.apiUrl,
  });
});

afterAll(async () => {
  await receiver.stop();
  await world.close();
  await rm(stateDir, { recursive: true });
});

beforeEach(() => {
  inbox.clear();
  for (const list of [asked, decided, read]) list.length = 0;
  approval = approvalView({
    requester: { teamId: world.slack.teamId, userId: REQUESTER },
    reviewers: [{ teamId: world.slack.teamId, userId: REVIEWER_A }],
  });
});

/** Does what the inbox worker does with every row that came in so far. */
async function work(): Promise<void> {
  for (const [key, row] of inbox) {
    inbox.delete(key);
    const consequence = await bot.route({ ...row, inboxId: key, receivedAt: new Date() });
    await consequence(TX);
  }
}

async function mention(text: string): Promise<string> {
  const ts = await people.say(REQUESTER, ENGINEERING, text);
  await people.until(() => inbox.size > 0, { what: 'the mention to be stored' });
  return ts;
}

/** Posts the card into a thread and returns where it is. */
async function card(): Promise<{ channel: string; ts: string; target: DeliveryTarget; threadTs: string }> {
  const threadTs = await people.say(REQUESTER, ENGINEERING, 'a thread');
  const target: DeliveryTarget = { to: 'thread', thread: { channelId: ENGINEERING, threadTs } };
  const ts = await messenger.post(world.slack.teamId, approval.requestId, target, {
    kind: 'approval',
    approval,
  });
  if (ts === null) throw new Error('The card was not posted.');
  return { channel: ENGINEERING, ts, target, threadTs };
}

async function press(actionId: string, at: { channel: string; ts: string }): Promise<number> {
  const { ackStatus } = await people.click(REVIEWER_A, { actionId, channel: at.channel, ts: at.ts });
  await work();
  return ackStatus;
}

describe('a mention', () => {
  it('reaches the desk once, with its thread and its words', async () => {
    const ts = await mention(`${MENTION} fix <the> test & tell me`);
    await work();

    expect(asked).toMatchObject([
      {
        workspaceId: world.slack.teamId,
        requester: { userId: REQUESTER, known: true, isGuest: false, isExternal: false },
        thread: { channelId: ENGINEERING, threadTs: ts },
        messageTs: ts,
      },
    ]);
    expect(asked[0]?.text).toContain('test & tell me');
  });

  it('that could not be stored comes again and is not lost', async () => {
    refusals = 1;

    await mention(`${MENTION} again`);
    await work();

    expect(refusals).toBe(0);
    expect(asked).toHaveLength(1);
  });

  it('without words is answered to its author alone', async () => {
    await mention(MENTION);
    await work();

    expect(asked).toEqual([]);
    const notes = await people.ephemerals(REQUESTER);
    expect(notes.at(-1)?.text).toContain('Tell me what to do');
  });
});

describe('a card', () => {
  it('is taken by Slack as it was drawn, and found again by its id', async () => {
    const at = await card();

    expect(await messenger.find(world.slack.teamId, approval.requestId, at.target, new Date())).toBe(at.ts);
    expect(await messenger.find(world.slack.teamId, 'another', at.target, new Date())).toBeNull();
  });

  it('whose post was answered by nothing is found instead of posted twice', async () => {
    const threadTs = await people.say(REQUESTER, ENGINEERING, 'a thread');
    const target: DeliveryTarget = { to: 'thread', thread: { channelId: ENGINEERING, threadTs } };
    await people.fault({ method: 'chat.postMessage', kind: 'drop_after' });

    const post = messenger.post(world.slack.teamId, 'lost-answer', target, { kind: 'approval', approval });
    await expect(post).rejects.toMatchObject({ code: 'DELIVERY_FAILED' });

    const thread = await people.thread(ENGINEERING, threadTs);
    expect(thread).toHaveLength(2);
    expect(await messenger.find(world.slack.teamId, 'lost-answer', target, new Date())).toBe(thread[1]?.ts);
  });

  it('Approve comes back with what the person saw and where', async () => {
    const at = await card();

    expect(await press('approval.approve', at)).toBe(200);

    expect(decided).toMatchObject([
      {
        requestId: approval.requestId,
        actionHash: approval.actionHash,
        person: { userId: REVIEWER_A, known: true },
        decision: 'approve',
        message: { channelId: ENGINEERING, ts: at.ts, threadTs: at.threadTs },
      },
    ]);
  });

  it('Reject asks for the reason, and brings it', async () => {
    const at = await card();

    await press('approval.reject', at);
    expect(decided).toEqual([]);
    const submitted = await people.submitView(REVIEWER_A, { 'reason.text': 'wait for the release' });
    await work();

    expect(submitted).toMatchObject({ ackStatus: 200 });
    expect(await people.views(REVIEWER_A)).toEqual([]);
    expect(decided).toMatchObject([
      { decision: 'reject', reason: 'wait for the release', message: { ts: at.ts } },
    ]);
  });

  it('that shows not everything opens Details on Approve, to be turned to the end', async () => {
    approval = { ...approval, body: `${'a line of a long change\n'.repeat(12_000)}THE LAST LINE` };
    const at = await card();

    await press('approval.approve', at);
    const [first] = await people.views(REVIEWER_A);
    expect(first?.title.text).toMatch(/^Details 1 of \d+$/);
    expect([decided, read]).toEqual([[], []]);

    for (let turned = 0; turned < 20 && read.length === 0; turned += 1) {
      const [view] = await people.views(REVIEWER_A);
      await people.click(REVIEWER_A, { actionId: 'approval.page.next', viewId: view?.id ?? '' });
      await work();
    }
    const [last] = await people.views(REVIEWER_A);
    expect(JSON.stringify(last?.blocks)).toContain('Request `');
    expect(read).toEqual([REVIEWER_A]);

    await people.closeView(REVIEWER_A);
    await press('approval.approve', at);
    expect(decided).toMatchObject([{ decision: 'approve' }]);
  });

  it('of another installation goes to the desk with its name, which explains', async () => {
    approval = { ...approval, deploymentId: 'another-deployment' };
    const at = await card();

    await press('approval.approve', at);

    expect(decided).toMatchObject([{ deploymentId: 'another-deployment', decision: 'approve' }]);
  });

  it('that is redrawn as done has lost its buttons', async () => {
    const at = await card();
    const done: ApprovalView = {
      ...approval,
      status: 'approved',
      actionStatus: 'done',
      receiptLine: 'Merged pull request 7.',
    };

    await messenger.update(world.slack.teamId, approval.requestId, at.channel, at.ts, {
      kind: 'approval',
      approval: done,
    });

    const shown = (await people.messages(at.channel)).find(({ ts }) => ts === at.ts);
    expect(JSON.stringify(shown?.blocks)).toContain('Merged pull request 7.');
    expect(JSON.stringify(shown?.blocks)).not.toContain('approval.approve');
    await expect(press('approval.approve', at)).rejects.toThrow('action_not_found');
  });
});
