/**
 * Guarantee: every click that was stored leads through real Bolt to exactly one thing its author can see: a decision
 * handed to the desk, an opened modal, or a private note where the click was made. Approve on a card that does not
 * show everything opens Details first. A look-up that fails rejects, so that the row is tried again; a modal that
 * cannot open is explained. A mention becomes a task with the words that were meant.
 */
import { beforeEach, describe, expect, it } from 'vitest';
import { createBot } from '../../src/bot/app.ts';
import { CLICKS, readModal, VIEWS, writeReference } from '../../src/bot/buttons.ts';
import type { SlackMessenger } from '../../src/bot/messenger.ts';
import { CountersignError } from '../../src/errors.ts';
import type { Desk } from '../../src/jobs/desk.ts';
import { createLogger } from '../../src/log.ts';
import type { JsonObject, Tx } from '../../src/types.ts';
import type { ApprovalView, UnsettledAction } from '../../src/views.ts';
import { approvalView, UNSETTLED } from './bot-views.ts';

const TX = {
  query: async () => ({ rows: [], rowCount: 0 }),
  afterCommit: () => {},
  afterRollback: () => {},
} as Tx;
const VIEW = approvalView();
const RECEIVED_AT = new Date(1_000_000);
const LONG_BODY = 'one line of a change\n'.repeat(200);

/** What the desk was asked, which modals were shown, and what fails on demand. */
function world() {
  const seen: { call: string; given: unknown }[] = [];
  const state = {
    approval: VIEW as ApprovalView | null,
    unsettled: UNSETTLED as UnsettledAction | null,
    readAt: null as Date | null,
    entitled: true,
    lookupFails: false,
    lookups: 0,
    lookupHangs: false,
    modalFails: false,
    seen,
  };
  const desk: Desk = {
    async requestTask(_tx, asked) {
      seen.push({ call: 'requestTask', given: asked });
    },
    async decide(_tx, asked) {
      seen.push({ call: 'decide', given: asked });
    },
    async approval() {
      return state.approval;
    },
    async hadReadDetails(_workspaceId, _requestId, _person, at) {
      return state.readAt !== null && state.readAt < at;
    },
    async detailsOpened(_tx, workspaceId, requestId, person) {
      seen.push({ call: 'detailsOpened', given: { workspaceId, requestId, userId: person.userId } });
    },
    async unsettled() {
      return state.unsettled;
    },
    async mayDecide(_workspaceId, actionId) {
      const asked = [state.approval?.actionId, state.unsettled?.actionId];
      return state.entitled && asked.includes(actionId);
    },
    async settle(_tx, clicked) {
      seen.push({ call: 'settle', given: clicked });
    },
    async digest(_tx, asked) {
      seen.push({ call: 'digest', given: asked });
    },
    async slackLost() {},
    async note(_tx, workspaceId, target, note) {
      seen.push({ call: 'note', given: { workspaceId, target, note } });
    },
  };
  const messenger: Pick<SlackMessenger, 'person' | 'openView' | 'updateView'> = {
    async person(_workspaceId, person) {
      state.lookups += 1;
      if (state.lookupFails) throw new CountersignError('DELIVERY_FAILED', 'users.info: no answer');
      if (state.lookupHangs) await new Promise(() => {});
      return {
        ...person,
        known: true,
        isBot: false,
        isGuest: false,
        isExternal: false,
        isDeactivated: false,
      };
    },
    async openView(triggerId, view) {
      if (state.modalFails) throw new CountersignError('DELIVERY_FAILED', 'views.open: expired_trigger_id');
      seen.push({ call: 'openView', given: { triggerId, view } });
    },
    async updateView(viewId, hash, view) {
      seen.push({ call: 'updateView', given: { viewId, hash, view } });
    },
  };
  const bot = createBot({
    botToken: 'test-token',
    botId: 'BBOT',
    botUserId: 'UBOT',
    deploymentId: VIEW.deploymentId,
    desk,
    messenger: messenger as SlackMessenger,
    log: createLogger({ level: 'silent' }),
  });
  const route = (source: 'event' | 'interaction', payload: JsonObject) =>
    bot.route({ workspaceId: 'T1', inboxId: 'i1', source, payload, receivedAt: RECEIVED_AT });
  return { state, seen, route };
}

let given: ReturnType<typeof world>;
beforeEach(() => {
  given = world();
});

async function run(source: 'event' | 'interaction', payload: JsonObject): Promise<void> {
  const consequence = await given.route(source, payload);
  await consequence(TX);
}

const reference = { d: VIEW.deploymentId, r: VIEW.requestId, h: VIEW.actionHash };
function click(actionId: string, value = writeReference(reference), over: JsonObject = {}): JsonObject {
  return {
    type: 'block_actions',
    team: { id: 'T1' },
    user: { id: 'UREVIEWERA', team_id: 'T1' },
    trigger_id: '1.2.trigger',
    container: { type: 'message', channel_id: 'C1', message_ts: '10.3', thread_ts: '10.1' },
    channel: { id: 'C1' },
    message: { ts: '10.3', thread_ts: '10.1' },
    actions: [{ type: 'button', action_id: actionId, block_id: 'b', action_ts: '11.5', value }],
    ...over,
  };
}
function shownView(seen: { given: unknown } | undefined): { private_metadata: string; callback_id: string } {
  const { view } = (seen ?? { given: {} }).given as {
    view?: { private_metadata: string; callback_id: string };
  };
  if (view === undefined) throw new Error('No modal was shown.');
  return view;
}
/** A click inside a modal comes from no message. */
function inModal(actionId: string, value: string, over: JsonObject): JsonObject {
  const { container: _container, channel: _channel, message: _message, ...rest } = click(actionId, value);
  return { ...rest, ...over };
}
const MODAL = {
  d: UNSETTLED.deploymentId,
  r: UNSETTLED.actionId,
  h: UNSETTLED.actionHash,
  c: 'C1',
  t: '10.3',
  th: '10.1',
};
const PLACE = { to: 'person', channelId: 'C1', threadTs: '10.1', userId: 'UREVIEWERA' };
const noted = (kind: string) => [
  { call: 'note', given: { workspaceId: 'T1', target: PLACE, note: { kind } } },
];

describe('Approve', () => {
  it('is handed to the desk with who clicked, what they saw and where', async () => {
    await run('interaction', click(CLICKS.approve));

    expect(given.seen).toMatchObject([
      {
        call: 'decide',
        given: {
          workspaceId: 'T1',
          requestId: VIEW.requestId,
          deploymentId: VIEW.deploymentId,
          actionHash: VIEW.actionHash,
          person: { teamId: 'T1', userId: 'UREVIEWERA', known: true },
          decision: 'approve',
          reason: null,
          byForm: false,
          message: { channelId: 'C1', ts: '10.3', threadTs: '10.1' },
        },
      },
    ]);
  });

  it('decides nothing before the consequence is run', async () => {
    await given.route('interaction', click(CLICKS.approve));

    expect(given.seen).toEqual([]);
  });

  it('on a card that does not fit opens Details, and decides nothing', async () => {
    given.state.approval = { ...VIEW, body: LONG_BODY };

    await run('interaction', click(CLICKS.approve));

    expect(given.seen.map(({ call }) => call)).toEqual(['openView', 'detailsOpened']);
    expect(JSON.stringify(given.seen[0])).toContain('Read this first');
  });

  it('on a card that does not fit decides once Details were read', async () => {
    given.state.approval = { ...VIEW, body: LONG_BODY };
    given.state.readAt = new Date(RECEIVED_AT.getTime() - 1);

    await run('interaction', click(CLICKS.approve));

    expect(given.seen).toMatchObject([{ call: 'decide', given: { pressedAt: RECEIVED_AT } }]);
  });

  it('on a card that does not fit, pressed before Details were read and looked at after that, decides nothing', async () => {
    given.state.approval = { ...VIEW, body: LONG_BODY };
    given.state.readAt = new Date(RECEIVED_AT.getTime() + 1);

    await run('interaction', click(CLICKS.approve));

    expect(given.seen.map(({ call }) => call)).toEqual(['openView', 'detailsOpened']);
  });

  it('on a card that does not fit is explained when Details cannot open', async () => {
    given.state.approval = { ...VIEW, body: LONG_BODY };
    given.state.modalFails = true;

    await run('interaction', click(CLICKS.approve));

    expect(given.seen).toEqual(noted('read_details_first'));
  });

  it('goes to the desk, which explains, when there is no such request or it is decided', async () => {
    given.state.approval = null;
    await run('interaction', click(CLICKS.approve));
    given.state.approval = { ...VIEW, status: 'expired', body: LONG_BODY };
    await run('interaction', click(CLICKS.approve));

    expect(given.seen.map(({ call }) => call)).toEqual(['decide', 'decide']);
  });

  it('is tried again when Slack cannot say who clicked', async () => {
    given.state.lookupFails = true;

    await expect(given.route('interaction', click(CLICKS.approve))).rejects.toMatchObject({
      code: 'DELIVERY_FAILED',
    });
    expect(given.seen).toEqual([]);
  });
});

describe.each([
  [CLICKS.reject, 'reject'],
  [CLICKS.requestChanges, 'request_changes'],
] as const)('%s', (clicked, decision) => {
  it('asks for a reason, and its answer is the decision', async () => {
    await run('interaction', click(clicked));
    const [opened] = given.seen.splice(0);
    const view = shownView(opened);
    expect(opened).toMatchObject({ call: 'openView', given: { triggerId: '1.2.trigger' } });

    await run('interaction', {
      type: 'view_submission',
      team: { id: 'T1' },
      user: { id: 'UREVIEWERA', team_id: 'T1' },
      view: {
        id: 'V1',
        hash: 'h',
        callback_id: view.callback_id,
        private_metadata: view.private_metadata,
        state: {
          values: { reason: { 'reason.text': { type: 'plain_text_input', value: '  wait for it ' } } },
        },
      },
    });

    expect(given.seen).toMatchObject([
      {
        call: 'decide',
        given: {
          requestId: VIEW.requestId,
          decision,
          reason: 'wait for it',
          message: { channelId: 'C1', ts: '10.3', threadTs: '10.1' },
        },
      },
    ]);
  });

  it('is explained when the modal cannot open', async () => {
    given.state.modalFails = true;

    await run('interaction', click(clicked));

    expect(given.seen).toEqual(noted('modal_expired'));
  });

  it('by somebody who may not decide goes to the desk without a modal', async () => {
    given.state.entitled = false;

    await run('interaction', click(clicked));

    expect(given.seen).toMatchObject([{ call: 'decide', given: { decision, reason: null } }]);
  });

  it.each(['lookupFails', 'lookupHangs'] as const)(
    'asks for a reason as well while Slack does not say who clicked (%s)',
    async (trouble) => {
      given.state[trouble] = true;

      await run('interaction', click(clicked));

      expect(given.seen).toMatchObject([{ call: 'openView' }]);
    },
  );

  it('of what is decided already goes to the desk without a modal', async () => {
    given.state.approval = { ...VIEW, status: 'approved' };

    await run('interaction', click(clicked));

    expect(given.seen).toMatchObject([{ call: 'decide', given: { decision, reason: null } }]);
  });
});

describe.each([
  [CLICKS.happened, VIEWS.happened, true],
  [CLICKS.didNotHappen, VIEWS.didNotHappen, false],
] as const)('%s', (clicked, callback, happened) => {
  const pressed = click(
    clicked,
    writeReference({ d: UNSETTLED.deploymentId, r: UNSETTLED.actionId, h: UNSETTLED.actionHash }),
  );
  const asked = {
    call: 'settle',
    given: {
      workspaceId: 'T1',
      actionId: UNSETTLED.actionId,
      deploymentId: UNSETTLED.deploymentId,
      actionHash: UNSETTLED.actionHash,
      person: { teamId: 'T1', userId: 'UREVIEWERA', known: true },
      happened,
      message: { channelId: 'C1', ts: '10.3', threadTs: '10.1' },
    },
  };
  const submission = (metadata: string, state?: JsonObject): JsonObject => ({
    type: 'view_submission',
    team: { id: 'T1' },
    user: { id: 'UREVIEWERA', team_id: 'T1' },
    view: {
      id: 'V1',
      hash: 'h',
      callback_id: callback,
      private_metadata: metadata,
      ...(state === undefined ? {} : { state }),
    },
  });

  it('asks what was seen, and the answer is the word', async () => {
    await run('interaction', pressed);
    const [opened] = given.seen.splice(0);
    const view = shownView(opened);
    expect(view.callback_id).toBe(callback);

    const said = { type: 'plain_text_input', value: ' it is there ' };
    await run(
      'interaction',
      submission(view.private_metadata, { values: { reason: { 'reason.text': said } } }),
    );

    expect(given.seen).toMatchObject([{ ...asked, given: { ...asked.given, reason: 'it is there' } }]);
  });

  it('without a reason goes to the desk, which explains', async () => {
    await run('interaction', pressed);
    const view = shownView(given.seen.splice(0)[0]);

    await run('interaction', submission(view.private_metadata));

    expect(given.seen).toMatchObject([{ ...asked, given: { ...asked.given, reason: '' } }]);
  });

  it('by somebody who may not say goes to the desk without a modal', async () => {
    given.state.entitled = false;

    await run('interaction', pressed);

    expect(given.seen).toMatchObject([{ ...asked, given: { ...asked.given, reason: '' } }]);
  });

  it('of what is settled, or of another action, goes to the desk without a modal', async () => {
    given.state.unsettled = null;
    await run('interaction', pressed);
    given.state.unsettled = { ...UNSETTLED, actionHash: 'b'.repeat(64) };
    await run('interaction', pressed);

    expect(given.seen).toMatchObject([asked, asked]);
  });

  it('is explained when the modal cannot open, comes from elsewhere or is not one of ours', async () => {
    given.state.modalFails = true;
    await run('interaction', pressed);
    await run('interaction', submission(writeReference({ ...MODAL, d: 'deployment-2' })));

    expect(given.seen).toEqual([...noted('modal_expired'), ...noted('other_deployment')]);
  });

  it('is tried again when Slack cannot say who answered', async () => {
    given.state.lookupFails = true;

    await expect(given.route('interaction', submission(writeReference(MODAL)))).rejects.toMatchObject({
      code: 'DELIVERY_FAILED',
    });
  });
});

describe('Details', () => {
  it('of one page open and are remembered as read', async () => {
    await run('interaction', click(CLICKS.details));

    expect(given.seen.map(({ call }) => call)).toEqual(['openView', 'detailsOpened']);
  });

  it('that opened are not said to be closed because Slack does not say who reads them', async () => {
    given.state.lookupFails = true;

    await run('interaction', click(CLICKS.details));
    await run(
      'interaction',
      inModal(`${CLICKS.page}.next`, writeReference({ ...reference, p: 0 }), {
        view: { id: 'V1', hash: 'h1', private_metadata: writeReference(MODAL) },
      }),
    );

    expect(given.seen.map(({ call }) => call)).toEqual(['openView', 'updateView']);
  });

  it('that Approve opens are read by whom it found pressing', async () => {
    given.state.approval = { ...VIEW, body: LONG_BODY };

    await run('interaction', click(CLICKS.approve));

    expect(given.seen.map(({ call }) => call)).toEqual(['openView', 'detailsOpened']);
    expect(given.state.lookups).toBe(1);
  });

  describe('from a copy outside the channel of its task', () => {
    const elsewhere = writeReference({ ...reference, e: true });
    const opens = ['openView', 'detailsOpened'];

    it('open for who may decide, and for who asked', async () => {
      await run('interaction', click(CLICKS.details, elsewhere));
      given.state.entitled = false;
      const { userId, teamId } = VIEW.requester;
      await run('interaction', click(CLICKS.details, elsewhere, { user: { id: userId, team_id: teamId } }));

      expect(given.seen.map(({ call }) => call)).toEqual([...opens, ...opens]);
    });

    it('are refused to anybody else with a private note, also by Approve, which the desk explains', async () => {
      given.state.entitled = false;

      await run('interaction', click(CLICKS.details, elsewhere));
      await run('interaction', click(CLICKS.approve, elsewhere));

      expect(given.seen).toMatchObject([
        {
          call: 'note',
          given: { target: PLACE, note: { kind: 'may_not_read_details', reviewers: VIEW.reviewers } },
        },
        { call: 'decide', given: { decision: 'approve' } },
      ]);
    });

    it('stay closed while Slack does not say who clicked', async () => {
      given.state.lookupFails = true;

      await expect(given.route('interaction', click(CLICKS.details, elsewhere))).rejects.toMatchObject({
        code: 'DELIVERY_FAILED',
      });
      expect(given.seen).toEqual([]);
    });

    it('come before Approve counts, once', async () => {
      await run('interaction', click(CLICKS.approve, elsewhere));
      given.state.readAt = new Date(RECEIVED_AT.getTime() - 1);
      await run('interaction', click(CLICKS.approve, elsewhere));

      expect(given.seen.map(({ call }) => call)).toEqual([...opens, 'decide']);
    });
  });

  it('of several pages are read when the last one was shown', async () => {
    given.state.approval = { ...VIEW, body: 'one line of a change\n'.repeat(15_000) };

    await run('interaction', click(CLICKS.details));
    expect(given.seen.map(({ call }) => call)).toEqual(['openView']);
    const metadata = shownView(given.seen[0]).private_metadata;
    expect(readModal(metadata)).toMatchObject({ c: 'C1', t: '10.3', th: '10.1' });

    const page = (p: number) =>
      inModal(`${CLICKS.page}.next`, writeReference({ ...reference, p }), {
        view: { id: 'V1', hash: 'h1', private_metadata: metadata },
      });
    await run('interaction', page(1));
    expect(given.seen.map(({ call }) => call)).toEqual(['openView', 'updateView']);
    await run('interaction', page(999));
    expect(given.seen.map(({ call }) => call)).toEqual([
      'openView',
      'updateView',
      'updateView',
      'detailsOpened',
    ]);
  });

  it('of something unknown, of another action, and those that cannot open are explained', async () => {
    given.state.approval = null;
    await run('interaction', click(CLICKS.details));
    given.state.approval = { ...VIEW, actionHash: 'b'.repeat(64) };
    await run('interaction', click(CLICKS.details));
    given.state.approval = VIEW;
    given.state.modalFails = true;
    await run('interaction', click(CLICKS.details));

    expect(given.seen).toEqual([...noted('not_found'), ...noted('replaced'), ...noted('modal_expired')]);
  });
});

describe('a button', () => {
  const ofElsewhere = writeReference({ ...reference, d: 'deployment-2' });
  it.each([
    [CLICKS.approve, 'decide'],
    [CLICKS.reject, 'decide'],
    [CLICKS.requestChanges, 'decide'],
    [CLICKS.happened, 'settle'],
    [CLICKS.didNotHappen, 'settle'],
  ])('of another deployment (%s) goes to the desk, which explains and records', async (id, call) => {
    await run('interaction', click(id, ofElsewhere));

    expect(given.seen).toMatchObject([{ call, given: { deploymentId: 'deployment-2' } }]);
  });

  it('of another deployment that would only show something is explained', async () => {
    await run('interaction', click(CLICKS.details, ofElsewhere));

    expect(given.seen).toEqual(noted('other_deployment'));
  });

  it.each(['', 'x', 'null', '[]', '{}', '{"d":1,"r":2,"h":3}', `{"d":"${'x'.repeat(3_000)}"}`])(
    'with the value %j is explained',
    async (value) => {
      await run('interaction', click(CLICKS.approve, value));

      expect(given.seen).toEqual(noted('not_found'));
    },
  );

  it('that nobody knows is explained', async () => {
    await run('interaction', click('something.else'));

    expect(given.seen).toEqual(noted('not_found'));
  });
});

describe('a message', () => {
  const event = (over: JsonObject): JsonObject => ({
    type: 'event_callback',
    team_id: 'T1',
    event_id: 'Ev1',
    event: {
      type: 'app_mention',
      user: 'UREQUESTER',
      team: 'T1',
      channel: 'C1',
      ts: '10.1',
      text: '',
      ...over,
    },
  });

  it('that mentions the bot becomes a task in its thread, in the words that were meant', async () => {
    await run(
      'event',
      event({ text: ' <@UBOT>  fix a &lt; b &amp;&amp; c in <#C2|shop>, <@UBOT|countersign> ' }),
    );

    expect(given.seen).toMatchObject([
      {
        call: 'requestTask',
        given: {
          workspaceId: 'T1',
          requester: { teamId: 'T1', userId: 'UREQUESTER' },
          thread: { channelId: 'C1', threadTs: '10.1' },
          messageTs: '10.1',
          text: 'fix a < b && c in <#C2|shop>,',
        },
      },
    ]);
  });

  it('inside a thread belongs to that thread; in a direct message it needs no mention', async () => {
    await run('event', event({ text: '<@UBOT> go', ts: '12.2', thread_ts: '10.1' }));
    await run('event', event({ type: 'message', channel: 'D1', channel_type: 'im', text: 'go' }));

    expect(given.seen).toMatchObject([
      { given: { thread: { threadTs: '10.1' }, messageTs: '12.2', text: 'go' } },
      { given: { thread: { channelId: 'D1', threadTs: '10.1' }, text: 'go' } },
    ]);
  });

  it('with nothing but the mention is answered privately', async () => {
    await run('event', event({ text: ' <@UBOT> ' }));

    expect(given.seen).toMatchObject([
      {
        call: 'note',
        given: { target: { channelId: 'C1', userId: 'UREQUESTER' }, note: { kind: 'empty_request' } },
      },
    ]);
  });

  it('of the bot itself leads to nothing', async () => {
    await run('event', event({ user: 'UBOT', text: '<@UBOT> go' }));

    expect(given.seen).toEqual([]);
  });

  it('is tried again when Slack cannot say who asked', async () => {
    given.state.lookupFails = true;

    await expect(given.route('event', event({ text: '<@UBOT> go' }))).rejects.toMatchObject({
      code: 'DELIVERY_FAILED',
    });
  });
});

it('a row that nobody handles leads to nothing', async () => {
  await run('interaction', {
    command: '/countersign',
    text: '',
    team_id: 'T1',
    user_id: 'U1',
    channel_id: 'C1',
  });
  await run('interaction', { type: 'something_new' });

  expect(given.seen).toEqual([]);
});
