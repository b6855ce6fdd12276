/**
 * Bolt behind the inbox. A stored row is given to Bolt as if it had just arrived; the one listener that matches does
 * its look-ups outside any transaction and leaves a consequence, which the inbox worker runs in the transaction that
 * marks the row handled.
 *
 * What this relies on in @slack/bolt 5.1 (App.processEvent): it awaits every matching listener and settles after all
 * of them; a listener's rejection reaches the error handler, and what that rejects with rejects processEvent (coded
 * errors as they are, others wrapped in UnknownError with `original`); a body of no known type, or one no listener
 * matches, resolves without a call; `customProperties` are copied shallowly into `context`, so that an object put
 * there is shared. `ack` is a no-op here: Slack was answered when the row was stored. `respond` is never used, and
 * the address it needs is not even stored.
 */
import { App, type Receiver } from '@slack/bolt';
import { hasCode } from '../errors.ts';
import type { Consequence, Desk, InboxRow } from '../jobs/desk.ts';
import type { Logger } from '../log.ts';
import type { Fetch, Person, WorkspaceId } from '../types.ts';
import type { DeliveryTarget } from '../views.ts';
import { VIEWS } from './buttons.ts';
import { onClick, onOutcomeGiven, onReasonGiven } from './clicks.ts';
import {
  blockActions,
  type Command,
  command,
  type InstallationEnvelope,
  installationEnvelope,
  type MessageEnvelope,
  messageEnvelope,
  viewSubmission,
} from './inbound.ts';
import type { SlackMessenger } from './messenger.ts';
import { clientOptions, slackLogger } from './slack-client.ts';

export type { Consequence, InboxRow } from '../jobs/desk.ts';

export interface BotDeps {
  readonly botToken: string;
  /** From `SlackMessenger.authTest`, once at start. */
  readonly botId: string;
  readonly botUserId: string;
  /** Written into every button; a click on another deployment's button is answered with a note. */
  readonly deploymentId: string;
  readonly desk: Desk;
  readonly messenger: SlackMessenger;
  readonly log: Logger;
  /** Where requests come in. Without one (a worker process) `start` and `stop` do nothing. */
  readonly receiver?: Receiver;
  readonly slackApiUrl?: string;
  readonly fetch?: Fetch;
}

export interface Bot {
  /**
   * What follows from a stored row. Makes outside calls (look-ups, modals) and must run in no transaction. A row that
   * nobody handles gives a consequence that does nothing. Rejects when a look-up failed: call again later; a repeated
   * call decides nothing by itself.
   */
  route(row: InboxRow): Promise<Consequence>;
  start(): Promise<void>;
  stop(): Promise<void>;
}

const MESSAGES = ['app_mention', 'message'] as const;
const OF_INSTALLATION = ['app_uninstalled', 'tokens_revoked'] as const;
/** The Slack events we listen to; the manifest subscribes to exactly these. */
export const EVENTS = [...MESSAGES, ...OF_INSTALLATION] as const;

/** The slash command; the manifest registers exactly this one. */
export const COMMAND = '/countersign';

const HOLDER = 'countersign';

/** Shared between `route` and the listener that matches. */
interface Holder {
  readonly row: InboxRow;
  consequence: Consequence | null;
}

export function createBot(deps: BotDeps): Bot {
  const { botToken, botId, botUserId, log } = deps;
  const app = new App({
    receiver: deps.receiver ?? idleReceiver,
    authorize: async () => ({ botToken, botId, botUserId }),
    tokenVerificationEnabled: false,
    ignoreSelf: true,
    convoStore: false,
    logger: slackLogger(log),
    clientOptions: clientOptions({
      log,
      ...(deps.slackApiUrl === undefined ? {} : { slackApiUrl: deps.slackApiUrl }),
      ...(deps.fetch === undefined ? {} : { fetch: deps.fetch }),
    }),
  });
  // The default handler would print the error a second time; the inbox worker logs what it will retry.
  app.error((error) => Promise.reject(error));

  for (const event of MESSAGES)
    app.event(event, async ({ body, context }) => {
      const read = messageEnvelope.safeParse(body);
      if (!read.success) return;
      const holder = holderOf(context);
      holder.consequence = await onMessage(deps, holder.row.workspaceId, read.data);
    });
  for (const event of OF_INSTALLATION)
    app.event(event, async ({ body, context }) => {
      const read = installationEnvelope.safeParse(body);
      if (!read.success) return;
      const holder = holderOf(context);
      holder.consequence = await onInstallationEnded(deps, holder.row.workspaceId, read.data);
    });
  // Every button, not only ours: a click nobody knows is answered too.
  app.action(/[\s\S]*/, async ({ body, context }) => {
    const read = blockActions.safeParse(body);
    if (!read.success) return;
    const holder = holderOf(context);
    holder.consequence = await onClick(deps, holder.row, read.data);
  });
  for (const view of [VIEWS.reject, VIEWS.requestChanges])
    app.view(view, async ({ body, context }) => {
      const read = viewSubmission.safeParse(body);
      if (!read.success) return;
      const holder = holderOf(context);
      holder.consequence = await onReasonGiven(deps, holder.row, read.data);
    });
  for (const view of [VIEWS.happened, VIEWS.didNotHappen])
    app.view(view, async ({ body, context }) => {
      const read = viewSubmission.safeParse(body);
      if (!read.success) return;
      const holder = holderOf(context);
      holder.consequence = await onOutcomeGiven(deps, holder.row, read.data);
    });

  app.command(COMMAND, async ({ body, context }) => {
    const read = command.safeParse(body);
    if (!read.success) return;
    const holder = holderOf(context);
    holder.consequence = await onCommand(deps, holder.row.workspaceId, read.data);
  });

  return {
    async route(row) {
      const holder: Holder = { row, consequence: null };
      try {
        await app.processEvent({
          body: { ...row.payload },
          ack: async () => {},
          customProperties: { [HOLDER]: holder },
        });
      } catch (error) {
        throw original(error);
      }
      return holder.consequence ?? (async () => {});
    },
    async start() {
      await app.start();
    },
    async stop() {
      await app.stop();
    },
  };
}

/** For a process that takes no requests. */
const idleReceiver: Receiver = { init() {}, async start() {}, async stop() {} };

function holderOf(context: Record<string, unknown>): Holder {
  return context[HOLDER] as Holder;
}

/** Bolt wraps errors without a code; the inbox worker wants the one that was thrown. */
function original(error: unknown): unknown {
  return error instanceof Error && 'original' in error && error.original instanceof Error
    ? error.original
    : error;
}

async function onMessage(
  deps: BotDeps,
  workspaceId: WorkspaceId,
  body: MessageEnvelope,
): Promise<Consequence> {
  const { event } = body;
  const threadTs = event.thread_ts ?? event.ts;
  const text = request(event.text ?? '', deps.botUserId);
  if (text === '') {
    const target: DeliveryTarget = {
      to: 'person',
      channelId: event.channel,
      threadTs: event.thread_ts ?? null,
      userId: event.user,
    };
    return (tx) => deps.desk.note(tx, workspaceId, target, { kind: 'empty_request' });
  }
  const person: Person = {
    teamId: event.user_team ?? event.team ?? body.team_id ?? workspaceId,
    userId: event.user,
  };
  const requester = await deps.messenger.person(workspaceId, person);
  return (tx) =>
    deps.desk.requestTask(tx, {
      workspaceId,
      requester,
      thread: { channelId: event.channel, threadTs },
      messageTs: event.ts,
      text,
    });
}

/**
 * The app was uninstalled, or tokens of it were revoked. Slack is asked whether that is so: the event may come late, after the app was
 * installed again, and other people's tokens are not ours.
 */
async function onInstallationEnded(
  deps: BotDeps,
  workspaceId: WorkspaceId,
  body: InstallationEnvelope,
): Promise<Consequence | null> {
  const { type, tokens } = body.event;
  if (type === 'tokens_revoked' && tokens?.bot?.includes(deps.botUserId) !== true) return null;
  try {
    await deps.messenger.authTest();
  } catch (error) {
    if (!hasCode(error, 'SLACK_AUTH_FAILED')) throw error;
    deps.log.error({ event: type }, 'Slack took our access: install the app again and set its new token');
    return (tx) => deps.desk.slackLost(tx, workspaceId, type);
  }
  deps.log.warn({ event: type }, 'Slack says that our access ended, and still takes our token');
  return null;
}

/** `/countersign`, `help`, `digest`, `digest here`; anything else is answered with what there is. */
async function onCommand(deps: BotDeps, workspaceId: WorkspaceId, body: Command): Promise<Consequence> {
  const { channel_id: channelId, user_id: userId } = body;
  const [verb = 'help', ...rest] = body.text
    .toLowerCase()
    .split(/\s+/)
    .filter((word) => word !== '');
  const isDigest = verb === 'digest' && (rest.length === 0 || (rest.length === 1 && rest[0] === 'here'));
  if (!isDigest) {
    const target: DeliveryTarget = { to: 'person', channelId, threadTs: null, userId };
    return (tx) =>
      deps.desk.note(tx, workspaceId, target, { kind: 'command_help', unknown: verb !== 'help' });
  }
  const person = await deps.messenger.person(workspaceId, { teamId: body.team_id ?? workspaceId, userId });
  return (tx) => deps.desk.digest(tx, { workspaceId, person, channelId, forAll: rest.length === 1 });
}

/** What was asked: the mention of the bot taken out, Slack's three entities read back as characters. */
function request(text: string, botUserId: string): string {
  return text
    .replaceAll(new RegExp(`<@${botUserId.replace(/\W/g, '')}(?:\\|[^>]*)?>`, 'g'), ' ')
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&amp;', '&')
    .trim();
}
