/**
 * Slack as the rest of the product sees it: the `Messenger` port over the Web API, and the few calls that only the
 * bot's own listeners make.
 *
 * Invariants: every post carries its delivery id in the metadata, so that `find` can tell whether a lost answer meant
 * a posted message; nothing posted unfurls, links names or is parsed beyond what the cards wrote; people are looked up
 * anew each time, because authority is read when it is used.
 */
import type { ModalView } from '@slack/types';
import type { WebClient } from '@slack/web-api';
import { z } from 'zod';
import { CountersignError, DeliveryRefused } from '../errors.ts';
import type { Person, PersonFacts } from '../types.ts';
import type { DeliveryTarget, MessageView, Messenger } from '../views.ts';
import { draw } from './cards/message.ts';
import { whole } from './cards/whole.ts';
import {
  CALL_TIMEOUT_MS,
  createClient,
  deliveryError,
  type SlackClientOptions,
  slackErrorName,
} from './slack-client.ts';

/** `event_type` of our messages' metadata; the payload is `{id: deliveryId}`. */
export const DELIVERY_EVENT_TYPE = 'countersign_delivery';

/** Messages of one page when an earlier post is looked for. */
const FIND_PAGE_SIZE = 200;
/** So far our clock may be before Slack's. */
const CLOCKS_DIFFER_MS = 300_000;

/** Slack's ids of people begin with U, or W in an enterprise grid; those of conversations with C, D or G. */
const PERSON_ID = /^[UW][A-Z0-9]+$/;

/** The last call of one method is begun within this or not at all, so that with it the method ends within 20 s (see `Messenger`). */
const BEGIN_WITHIN_MS = 20_000 - CALL_TIMEOUT_MS;

export interface BotIdentity {
  readonly teamId: string;
  readonly enterpriseId: string | null;
  readonly botId: string;
  readonly botUserId: string;
  readonly appId?: string;
}

export interface SlackMessenger extends Messenger {
  /** Who the token is. Throws SLACK_AUTH_FAILED when Slack refuses it, DELIVERY_FAILED when Slack does not answer. */
  authTest(): Promise<BotIdentity>;
  /** Opens a modal. The trigger lives three seconds: a failure is final, whatever its class. */
  openView(triggerId: string, view: ModalView): Promise<void>;
  /** Shows another page in an open modal; `hash` makes it fail when the modal has changed meanwhile. */
  updateView(viewId: string, hash: string | null, view: ModalView): Promise<void>;
}

export type MessengerOptions = SlackClientOptions;

/** By this name a file is found again: nothing else of it is ours to choose. */
function fileName(deliveryId: string): string {
  return `countersign-${deliveryId}.txt`;
}

/** Makes no call and holds no connection until used. */
export function createMessenger(options: MessengerOptions): SlackMessenger {
  const client = createClient(options);
  const direct = new Map<string, string>();
  /** A person's id stands for their direct message; only posting takes it, editing and reading want the channel. */
  const channelOf = async (channelId: string): Promise<string> => {
    if (!PERSON_ID.test(channelId)) return channelId;
    const known = direct.get(channelId);
    if (known !== undefined) return known;
    const opened = await attempt('conversations.open', () => client.conversations.open({ users: channelId }));
    const found = opened.channel?.id;
    if (found === undefined)
      throw new CountersignError('DELIVERY_FAILED', 'conversations.open: the answer names no channel');
    direct.set(channelId, found);
    return found;
  };
  return {
    async post(_workspaceId, deliveryId, target, view) {
      const drawn = drawnOrRefused(view);
      // In a direct message everything is private already.
      if (target.to === 'person' && !PERSON_ID.test(target.channelId)) {
        await attempt('chat.postEphemeral', () =>
          client.chat.postEphemeral({
            channel: target.channelId,
            user: target.userId,
            ...(target.threadTs === null ? {} : { thread_ts: target.threadTs }),
            text: drawn.text,
            blocks: drawn.blocks,
            parse: 'none',
            link_names: false,
          }),
        );
        return null;
      }
      const { channelId, threadTs } = placeOf(target);
      const check = inTime('chat.postMessage');
      const channel = await channelOf(channelId);
      check();
      const posted = await attempt('chat.postMessage', () =>
        client.chat.postMessage({
          channel,
          ...(threadTs === null ? {} : { thread_ts: threadTs }),
          text: drawn.text,
          blocks: drawn.blocks,
          metadata: metadata(deliveryId),
          unfurl_links: false,
          unfurl_media: false,
          parse: 'none',
          link_names: false,
        }),
      );
      // An answer without a ts leaves us not knowing: retryable, and then it is looked for first.
      if (typeof posted.ts !== 'string')
        throw new CountersignError('DELIVERY_FAILED', 'chat.postMessage: the answer names no message');
      return target.to === 'person' ? null : posted.ts;
    },

    async find(_workspaceId, deliveryId, target, since) {
      // A private note cannot be read back by anyone but its reader.
      if (target.to === 'person' && !PERSON_ID.test(target.channelId)) return null;
      const { channelId, threadTs } = placeOf(target);
      const check = inTime(threadTs === null ? 'conversations.history' : 'conversations.replies');
      const place = { channelId: await channelOf(channelId), threadTs };
      return findPost(client, deliveryId, place, since, check);
    },

    async update(_workspaceId, deliveryId, channelId, ts, view) {
      const drawn = drawnOrRefused(view);
      const channel = await channelOf(channelId);
      await attempt('chat.update', () =>
        client.chat.update({
          channel,
          ts,
          text: drawn.text,
          blocks: drawn.blocks,
          metadata: metadata(deliveryId),
          parse: 'none',
          link_names: false,
        }),
      );
    },

    async remove(_workspaceId, channelId, ts) {
      const channel = await channelOf(channelId);
      try {
        await client.chat.delete({ channel, ts });
      } catch (error) {
        if (slackErrorName(error) !== 'message_not_found') throw deliveryError('chat.delete', error);
      }
    },

    whole,

    async attach(_workspaceId, deliveryId, target, file) {
      const { channelId, threadTs } = placeOf(target);
      const check = inTime('files.completeUploadExternal');
      const channel = await channelOf(channelId);
      check();
      const bytes = Buffer.from(file.content, 'utf8');
      const address = await attempt('files.getUploadURLExternal', () =>
        client.files.getUploadURLExternal({ filename: fileName(deliveryId), length: bytes.length }),
      );
      check();
      await attempt('files.upload', () => sendBytes(options, client.slackApiUrl, address.upload_url, bytes));
      const files: [{ id: string; title: string }] = [{ id: address.file_id ?? '', title: file.title }];
      check();
      // Comes last, and nothing of the file is seen before it.
      await attempt('files.completeUploadExternal', () =>
        client.files.completeUploadExternal(
          threadTs === null
            ? { files, channel_id: channel }
            : { files, channel_id: channel, thread_ts: threadTs },
        ),
      );
    },

    async react(_workspaceId, channelId, ts, name) {
      try {
        await client.reactions.add({ channel: channelId, timestamp: ts, name });
      } catch (error) {
        if (slackErrorName(error) === 'already_reacted') return;
        throw deliveryError('reactions.add', error);
      }
    },

    async person(workspaceId, person) {
      try {
        const { user } = await client.users.info({ user: person.userId });
        return personFacts(workspaceId, person, user);
      } catch (error) {
        const name = slackErrorName(error);
        if (name === 'user_not_found' || name === 'user_not_visible' || name === 'users_not_found')
          return unknownPerson(person);
        throw deliveryError('users.info', error);
      }
    },

    async authTest() {
      try {
        return identity(await client.auth.test());
      } catch (error) {
        const failure = deliveryError('auth.test', error);
        if (failure.code !== 'DELIVERY_REFUSED')
          throw new CountersignError(
            failure.code,
            `Slack did not answer at ${client.slackApiUrl}: ${failure.message}`,
            {
              cause: error,
            },
          );
        throw new CountersignError('SLACK_AUTH_FAILED', `Slack refused the bot token: ${failure.message}`, {
          cause: error,
        });
      }
    },

    async openView(triggerId, view) {
      await attempt('views.open', () => client.views.open({ trigger_id: triggerId, view }));
    },

    async updateView(viewId, hash, view) {
      await attempt('views.update', () =>
        client.views.update({ view_id: viewId, view, ...(hash === null ? {} : { hash }) }),
      );
    },
  };
}

/**
 * Sends a file's bytes where Slack said. Not by the SDK's filesUploadV2 (8.2), which sends the token along to whatever address that is:
 * the address alone is what it takes. No redirect is followed.
 */
async function sendBytes(
  options: SlackClientOptions,
  slackApiUrl: string,
  uploadUrl: string | undefined,
  bytes: Buffer,
): Promise<void> {
  const address = new URL(uploadUrl ?? '', slackApiUrl);
  // Beside TLS only a stand-in on this machine speaks plainly.
  if (address.protocol !== 'https:' && address.origin !== new URL(slackApiUrl).origin)
    throw new Error('the address for the file is not https');
  const response = await (options.fetch ?? fetch)(address, {
    method: 'POST',
    headers: { 'content-type': 'application/octet-stream' },
    body: new Uint8Array(bytes),
    redirect: 'error',
    signal: AbortSignal.timeout(CALL_TIMEOUT_MS),
  });
  await response.arrayBuffer();
  if (response.status !== 200) throw new Error(`the file was not taken: ${response.status}`);
}

async function attempt<T>(method: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw deliveryError(method, error);
  }
}

/** A view that cannot be drawn can never be: said in a few words it may. */
function drawnOrRefused(view: MessageView): ReturnType<typeof draw> {
  try {
    return draw(view);
  } catch (error) {
    throw new DeliveryRefused(
      `it cannot be drawn: ${error instanceof Error ? error.message : 'no error'}`,
      'message',
      error,
    );
  }
}

/** To be asked before a further call of the same method: throws DELIVERY_FAILED when it would end too late. Begins now. */
function inTime(method: string): () => void {
  const beganAt = Date.now();
  return () => {
    if (Date.now() - beganAt > BEGIN_WITHIN_MS)
      throw new CountersignError(
        'DELIVERY_FAILED',
        `${method}: not begun, what comes before it took too long`,
      );
  };
}

function metadata(deliveryId: string): { event_type: string; event_payload: { id: string } } {
  return { event_type: DELIVERY_EVENT_TYPE, event_payload: { id: deliveryId } };
}

interface Place {
  readonly channelId: string;
  readonly threadTs: string | null;
}

function placeOf(target: DeliveryTarget): Place {
  switch (target.to) {
    case 'thread':
      return { channelId: target.thread.channelId, threadTs: target.thread.threadTs };
    case 'channel':
      return { channelId: target.channelId, threadTs: null };
    case 'person':
      return { channelId: target.channelId, threadTs: target.threadTs };
  }
}

const foundMessage = z.object({
  ts: z.string(),
  metadata: z.object({ event_type: z.string(), event_payload: z.object({ id: z.string() }) }),
});
const foundFiles = z.object({ ts: z.string(), files: z.array(z.object({ name: z.string() })) });

/** The ts of a message that is, or brings, what this delivery posted. */
function tsOf(message: unknown, deliveryId: string): string | null {
  const read = foundMessage.safeParse(message);
  if (read.success) {
    const { event_type, event_payload } = read.data.metadata;
    if (event_type === DELIVERY_EVENT_TYPE && event_payload.id === deliveryId) return read.data.ts;
  }
  const brought = foundFiles.safeParse(message);
  if (!brought.success) return null;
  const { ts, files } = brought.data;
  return files.some(({ name }) => name === fileName(deliveryId)) ? ts : null;
}

/** Looks through all of the place since then. Not having seen all of it is not the same as absent: saying so would post twice. */
async function findPost(
  client: WebClient,
  deliveryId: string,
  place: Place,
  since: Date,
  checkTime: () => void,
): Promise<string | null> {
  const { channelId, threadTs } = place;
  const oldest = ((since.getTime() - CLOCKS_DIFFER_MS) / 1_000).toFixed(6);
  let cursor: string | undefined;
  for (;;) {
    checkTime();
    const common = {
      channel: channelId,
      oldest,
      include_all_metadata: true,
      limit: FIND_PAGE_SIZE,
      ...(cursor === undefined ? {} : { cursor }),
    };
    const answer =
      threadTs === null
        ? await attempt('conversations.history', () => client.conversations.history(common))
        : await attempt('conversations.replies', () =>
            client.conversations.replies({ ...common, ts: threadTs }),
          );
    for (const message of answer.messages ?? []) {
      const ts = tsOf(message, deliveryId);
      if (ts !== null) return ts;
    }
    cursor = answer.response_metadata?.next_cursor;
    if (cursor === undefined || cursor === '') return null;
  }
}

const slackUser = z.object({
  id: z.string(),
  team_id: z.string().nullish(),
  is_bot: z.boolean().nullish(),
  is_workflow_bot: z.boolean().nullish(),
  is_restricted: z.boolean().nullish(),
  is_ultra_restricted: z.boolean().nullish(),
  is_stranger: z.boolean().nullish(),
  deleted: z.boolean().nullish(),
  enterprise_user: z
    .object({ enterprise_id: z.string().nullish(), teams: z.array(z.string()).nullish() })
    .nullish(),
});

/** Slack's own assistant: no bot by its flags, and no person. */
const SLACKBOT = 'USLACKBOT';

function personFacts(workspaceId: string, person: Person, answer: unknown): PersonFacts {
  const read = slackUser.safeParse(answer);
  if (!read.success || read.data.id !== person.userId) return unknownPerson(person);
  const user = read.data;
  const isHere =
    user.team_id === workspaceId ||
    user.enterprise_user?.enterprise_id === workspaceId ||
    user.enterprise_user?.teams?.includes(workspaceId) === true;
  return {
    // In an organization Slack names another team with a click than with a message of the same person; here it is always the same.
    teamId: user.team_id ?? person.teamId,
    userId: person.userId,
    known: true,
    isBot: user.is_bot === true || user.is_workflow_bot === true || user.id === SLACKBOT,
    isGuest: user.is_restricted === true || user.is_ultra_restricted === true,
    // Only what Slack says in words counts as belonging here.
    isExternal: user.is_stranger === true || !isHere,
    isDeactivated: user.deleted === true,
  };
}

function unknownPerson(person: Person): PersonFacts {
  return {
    ...person,
    known: false,
    isBot: false,
    isGuest: false,
    isExternal: false,
    isDeactivated: false,
  };
}

const authAnswer = z.object({
  team_id: z.string(),
  enterprise_id: z.string().nullish(),
  bot_id: z.string(),
  user_id: z.string(),
  app_id: z.string().nullish(),
});

function identity(answer: unknown): BotIdentity {
  const read = authAnswer.safeParse(answer);
  if (!read.success)
    throw new CountersignError('SLACK_AUTH_FAILED', 'The token is not a bot token: auth.test names no bot.');
  const { team_id, enterprise_id, bot_id, user_id, app_id } = read.data;
  return {
    teamId: team_id,
    enterpriseId: enterprise_id ?? null,
    botId: bot_id,
    botUserId: user_id,
    ...(app_id == null ? {} : { appId: app_id }),
  };
}
