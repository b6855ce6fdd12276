/**
 * What a person does in their Slack client: write, edit, press, fill in, close, react. Used by the page and by the
 * control API alike, so a test's people and a newcomer's mouse take the same road.
 *
 * A person's act that needs the app reports how the app acknowledged it; a failed one is shown to that person.
 */
import { randomBytes } from 'node:crypto';
import type { Ack } from './deliveries.ts';
import {
  addReaction,
  deleteMessage,
  editMessage,
  postEphemeral,
  postMessage,
  removeReaction,
  type SlackContext,
  SlackRefusal,
} from './messages.ts';
import { APP_ID, BOT_ID, BOT_USER_ID, directMessageId, TEAM_ID } from './seed.ts';
import {
  isRecord,
  type Json,
  type OpenView,
  type ResponseUrl,
  records,
  type SlackMessage,
  type SlackUser,
  text,
} from './types.ts';
import {
  acceptableView,
  blockElements,
  chosenState,
  closeModals,
  closeView,
  homeView,
  newTrigger,
  pushModal,
  replaceView,
  topModal,
} from './views.ts';
import { actorJson, messageJson, viewJson } from './wire.ts';

const RESPONSE_URL_LIFE_MS = 30 * 60_000;
const RESPONSE_URL_USES = 5;

export interface ActResult {
  readonly ackStatus: number;
  readonly ackMs: number;
  /** What the person is told: absent when all went well. */
  readonly error?: string;
  /** Field errors of a `view_submission`: block id → text. */
  readonly fieldErrors?: Json;
}

export interface ClickOptions {
  readonly channel?: string;
  readonly ts?: string;
  readonly viewId?: string;
  readonly actionId: string;
  readonly blockId?: string;
  /** For menus and boxes: the option values chosen; for people: the id. */
  readonly chosen?: string | readonly string[];
  /** Also finds a button that an edit of the message has taken away: a click that was under way. */
  readonly stale?: boolean;
  /** Delivers to another instance of the app than the connected one. */
  readonly eventsUrl?: string;
}

export class Acts {
  readonly #context: SlackContext;
  readonly #verificationToken: string;

  constructor(context: SlackContext, verificationToken: string) {
    this.#context = context;
    this.#verificationToken = verificationToken;
  }

  say(userId: string, channelId: string, message: string, options: { threadTs?: string } = {}): SlackMessage {
    const user = this.#person(userId);
    const channel = this.#context.store.channel(channelId === 'dm' ? directMessageId(user.id) : channelId);
    if (!channel) throw new SlackRefusal('channel_not_found');
    if (channel.is_archived) throw new SlackRefusal('is_archived');
    if (user.deleted || !channel.members.includes(user.id)) throw new SlackRefusal('not_in_channel');
    if (message.trim() === '') throw new SlackRefusal('no_text');
    return postMessage(this.#context, {
      channel: channel.id,
      user: user.id,
      text: message,
      ...(options.threadTs === undefined ? {} : { threadTs: options.threadTs }),
    });
  }

  edit(userId: string, channel: string, ts: string, message: string): void {
    editMessage(this.#context, this.#ownMessage(userId, channel, ts), { text: message }, userId);
  }

  remove(userId: string, channel: string, ts: string): void {
    deleteMessage(this.#context, this.#ownMessage(userId, channel, ts));
  }

  removeAsAdmin(message: SlackMessage): void {
    deleteMessage(this.#context, message);
  }

  react(userId: string, channel: string, ts: string, name: string, what: 'add' | 'remove'): void {
    const message = this.#context.store.message(channel, ts);
    if (!message) throw new SlackRefusal('message_not_found');
    (what === 'add' ? addReaction : removeReaction)(this.#context, message, this.#person(userId).id, name);
  }

  /** A slash command; what the app answers at once is shown as Slack shows it. */
  async command(userId: string, channelId: string, command: string, args: string): Promise<ActResult> {
    const user = this.#person(userId);
    const channel = this.#context.store.channel(channelId);
    if (!channel) throw new SlackRefusal('channel_not_found');
    const responseUrl = this.#responseUrl({ channel: channelId, user: userId });
    const form = new URLSearchParams({
      token: this.#verificationToken,
      team_id: TEAM_ID,
      team_domain: 'local',
      channel_id: channelId,
      channel_name: channel.is_im ? 'directmessage' : channel.name,
      user_id: userId,
      user_name: user.name,
      command,
      text: args,
      api_app_id: APP_ID,
      is_enterprise_install: 'false',
      response_url: responseUrl,
      trigger_id: newTrigger(this.#context.store, userId).id,
    });
    const ack = await this.#context.deliveries.post(form.toString(), 'application/x-www-form-urlencoded');
    if (ack.reason === undefined && ack.body.trim() !== '') this.#showAnswer(ack.body, channelId, userId);
    return this.#result(
      ack,
      `${command} failed with the error "${ack.reason === 'http_timeout' ? 'operation_timeout' : 'dispatch_failed'}"`,
    );
  }

  /** Presses a button, or chooses in a menu or boxes, of a message, an ephemeral message or a view. */
  async click(userId: string, options: ClickOptions): Promise<ActResult> {
    const user = this.#person(userId);
    const { store } = this.#context;
    const place =
      options.ts === undefined ? this.#viewPlace(userId, options) : this.#messagePlace(userId, options);
    const { block, element } = findElement(place.blockSets, options);
    const blockId = String(block.block_id);
    const actionId = String(element.action_id);
    const changed = options.chosen === undefined ? undefined : chosenState(element, options.chosen);
    if (options.chosen !== undefined && !changed) throw new SlackRefusal('option_not_found');
    if (changed && changed.type !== 'overflow') {
      place.values[blockId] = { ...place.values[blockId], [actionId]: changed };
      store.touch();
    }
    const trigger = newTrigger(store, userId, place.viewId);
    const actionTs = store.nextTs();
    const payload: Json = {
      type: 'block_actions',
      user: actorJson(user),
      api_app_id: APP_ID,
      token: this.#verificationToken,
      container: place.container,
      trigger_id: trigger.id,
      team: { id: TEAM_ID, domain: 'local' },
      enterprise: null,
      is_enterprise_install: false,
      ...place.payload(),
      actions: [
        {
          ...describeElement(element),
          action_id: actionId,
          block_id: blockId,
          ...(changed ?? {}),
          action_ts: actionTs,
        },
      ],
    };
    const ack = await this.#interact(payload, options.eventsUrl);
    return this.#result(ack, 'Something went wrong: the app did not answer. Try again.');
  }

  /**
   * Submits the person's top modal, or `viewId`. `values` are by action id: text, an option value or several. As
   * Slack's client does, a required field left empty is refused before the app hears of it.
   */
  async submit(
    userId: string,
    values: Record<string, string | readonly string[]>,
    viewId?: string,
  ): Promise<ActResult> {
    const user = this.#person(userId);
    const { store } = this.#context;
    const open = this.#openView(userId, viewId);
    const missing: Record<string, string> = {};
    for (const block of records(open.view.blocks)) {
      const blockId = String(block.block_id);
      for (const element of blockElements(block)) {
        const actionId = String(element.action_id);
        const given = values[actionId];
        const state = given === undefined ? undefined : chosenState(element, given);
        if (state) open.values[blockId] = { ...open.values[blockId], [actionId]: state };
        if (block.type === 'input' && block.optional !== true && isEmpty(open.values[blockId]?.[actionId])) {
          missing[blockId] = 'This is a required field.';
        }
      }
    }
    store.touch();
    if (Object.keys(missing).length > 0)
      return { ackStatus: 0, ackMs: 0, error: 'missing_required', fieldErrors: missing };

    const payload: Json = {
      type: 'view_submission',
      team: { id: TEAM_ID, domain: 'local' },
      user: actorJson(user),
      api_app_id: APP_ID,
      token: this.#verificationToken,
      trigger_id: newTrigger(store, userId, open.id).id,
      view: viewJson(open),
      response_urls: [],
      is_enterprise_install: false,
      enterprise: null,
    };
    const ack = await this.#interact(payload);
    const result = this.#result(ack, 'We had some trouble connecting. Try again?');
    if (result.error !== undefined) return result;
    return this.#applyAnswer(open, ack, result);
  }

  /** Closes the person's top modal, or `viewId`; the app hears of it only if it asked to. */
  async close(userId: string, viewId?: string): Promise<ActResult> {
    const open = this.#openView(userId, viewId);
    const tellApp = open.view.notify_on_close === true;
    const closed = viewJson(open);
    if (open.view.clear_on_close === true) closeModals(this.#context.store, userId);
    else closeView(this.#context.store, open);
    if (!tellApp) return { ackStatus: 0, ackMs: 0 };
    const ack = await this.#interact({
      type: 'view_closed',
      team: { id: TEAM_ID, domain: 'local' },
      user: actorJson(this.#person(userId)),
      api_app_id: APP_ID,
      token: this.#verificationToken,
      view: closed,
      is_cleared: open.view.clear_on_close === true,
      is_enterprise_install: false,
      enterprise: null,
    });
    return this.#result(ack, '');
  }

  /** Opens the app's Home tab; the app is told, and may publish a view. */
  openHome(userId: string): void {
    const home = homeView(this.#context.store, userId);
    this.#context.deliveries.emit('app_home_opened', {
      type: 'app_home_opened',
      user: this.#person(userId).id,
      channel: directMessageId(userId),
      tab: 'home',
      event_ts: this.#context.store.nextTs(),
      ...(home ? { view: viewJson(home) } : {}),
    });
  }

  /** What the app posted to a response_url. Returns an error word, or undefined when it was applied. */
  respond(url: ResponseUrl, body: Json): string | undefined {
    const { store } = this.#context;
    if (url.expiresAtMs < Date.now()) return 'expired_url';
    if (url.usesLeft <= 0) return 'used_url';
    url.usesLeft -= 1;
    store.touch();
    const original =
      url.messageTs === undefined
        ? undefined
        : (store.message(url.channel, url.messageTs) ?? store.ephemeral(url.channel, url.messageTs));
    if (body.delete_original === true) {
      if (original) deleteMessage(this.#context, original);
      return undefined;
    }
    const words = text(body.text);
    const blocks = Array.isArray(body.blocks) ? records(body.blocks) : undefined;
    if (!words && !blocks?.length) return 'no_text';
    if (body.replace_original === true && original) {
      editMessage(this.#context, original, { text: words ?? '', blocks: blocks ?? [] }, BOT_USER_ID);
      return undefined;
    }
    this.#showAnswer(JSON.stringify(body), url.channel, url.user, url.threadTs);
    return undefined;
  }

  #showAnswer(body: string, channel: string, user: string, defaultThread?: string): void {
    let answer: Json = { text: body };
    try {
      const parsed: unknown = JSON.parse(body);
      if (isRecord(parsed)) answer = parsed;
    } catch {
      // Slack shows a plain text answer as it stands.
    }
    const threadTs = text(answer.thread_ts) ?? defaultThread;
    const message = {
      channel,
      user: BOT_USER_ID,
      botId: BOT_ID,
      text: text(answer.text) ?? '',
      ...(Array.isArray(answer.blocks) ? { blocks: records(answer.blocks) } : {}),
      ...(threadTs === undefined ? {} : { threadTs }),
    };
    if (answer.response_type === 'in_channel') postMessage(this.#context, message);
    else postEphemeral(this.#context, message, user);
  }

  #applyAnswer(open: OpenView, ack: Ack, result: ActResult): ActResult {
    const { store } = this.#context;
    let answer: Json = {};
    try {
      const parsed: unknown = ack.body.trim() === '' ? {} : JSON.parse(ack.body);
      if (isRecord(parsed)) answer = parsed;
    } catch {
      return { ...result, error: 'We had some trouble connecting. Try again?' };
    }
    const view = acceptableView(answer.view);
    switch (answer.response_action) {
      case 'errors':
        return {
          ...result,
          error: 'errors',
          fieldErrors: isRecord(answer.errors) ? answer.errors : {},
        };
      case 'clear':
        closeModals(store, open.user);
        return result;
      case 'update':
        if (!view) return { ...result, error: 'invalid_view' };
        replaceView(store, open, view);
        return result;
      case 'push':
        if (!view) return { ...result, error: 'invalid_view' };
        pushModal(store, open, view);
        return result;
      default:
        closeView(store, open);
        return result;
    }
  }

  #messagePlace(userId: string, options: ClickOptions): Place {
    const { store } = this.#context;
    const channel = store.channel(options.channel ?? '');
    const message =
      channel &&
      (store.message(channel.id, options.ts ?? '') ?? store.ephemeral(channel.id, options.ts ?? ''));
    if (!channel || !message) throw new SlackRefusal('message_not_found');
    const ephemeral = message.audience !== undefined;
    if (ephemeral && message.audience !== userId) throw new SlackRefusal('message_not_found');
    const key = `${userId}:${channel.id}:${message.ts}`;
    store.data.inputs[key] ??= {};
    const values = store.data.inputs[key];
    const threadTs = message.thread_ts;
    return {
      blockSets: [message.blocks ?? [], ...(options.stale ? (message.wasBlocks ?? []) : [])],
      values,
      container: {
        type: 'message',
        message_ts: message.ts,
        channel_id: channel.id,
        is_ephemeral: ephemeral,
        ...(threadTs === undefined ? {} : { thread_ts: threadTs }),
      },
      payload: () => ({
        channel: { id: channel.id, name: channel.is_im ? 'directmessage' : channel.name },
        ...(ephemeral ? {} : { message: messageJson(store, message, { metadata: 'include' }) }),
        state: { values },
        response_url: this.#responseUrl({
          channel: channel.id,
          user: userId,
          messageTs: message.ts,
          ...(threadTs === undefined ? {} : { threadTs }),
        }),
      }),
    };
  }

  #viewPlace(userId: string, options: ClickOptions): Place {
    const open = this.#openView(userId, options.viewId);
    return {
      blockSets: [records(open.view.blocks)],
      values: open.values,
      viewId: open.id,
      container: { type: 'view', view_id: open.id },
      payload: () => ({ view: viewJson(open) }),
    };
  }

  #openView(userId: string, viewId?: string): OpenView {
    const open =
      viewId === undefined
        ? topModal(this.#context.store, userId)
        : this.#context.store.data.views.find(
            (candidate) => candidate.id === viewId && candidate.user === userId,
          );
    if (!open) throw new SlackRefusal('view_not_found');
    return open;
  }

  #responseUrl(about: { channel: string; user: string; messageTs?: string; threadTs?: string }): string {
    const url: ResponseUrl = {
      ...about,
      id: randomBytes(16).toString('hex'),
      expiresAtMs: Date.now() + RESPONSE_URL_LIFE_MS,
      usesLeft: RESPONSE_URL_USES,
    };
    this.#context.store.data.responseUrls.push(url);
    this.#context.store.touch();
    return `${this.#context.baseUrl()}/actions/${TEAM_ID}/${url.id}`;
  }

  #interact(payload: Json, eventsUrl?: string): Promise<Ack> {
    return this.#context.deliveries.post(
      new URLSearchParams({ payload: JSON.stringify(payload) }).toString(),
      'application/x-www-form-urlencoded',
      eventsUrl === undefined ? {} : { eventsUrl },
    );
  }

  #result(ack: Ack, failure: string): ActResult {
    const { ackStatus, ackMs } = ack;
    if (ack.reason === undefined) return { ackStatus, ackMs };
    if (ack.reason === 'not_connected')
      return { ackStatus, ackMs, error: 'No app is connected to this Slack yet.' };
    return { ackStatus, ackMs, error: `${failure} (${ack.reason}${ackStatus === 0 ? '' : ` ${ackStatus}`})` };
  }

  #person(userId: string): SlackUser {
    const user = this.#context.store.user(userId);
    if (!user || user.is_bot) throw new SlackRefusal('user_not_found');
    return user;
  }

  #ownMessage(userId: string, channel: string, ts: string): SlackMessage {
    const message = this.#context.store.message(channel, ts);
    if (!message || message.user !== userId) throw new SlackRefusal('message_not_found');
    return message;
  }
}

/** Where a click happens, and what the payload says about it. */
interface Place {
  readonly blockSets: Json[][];
  readonly values: Record<string, Record<string, Json>>;
  readonly viewId?: string;
  readonly container: Json;
  /** Built after the choice is stored, so that `state` shows it. */
  readonly payload: () => Json;
}

function findElement(blockSets: Json[][], options: ClickOptions): { block: Json; element: Json } {
  for (const blocks of blockSets) {
    for (const block of blocks) {
      if (options.blockId !== undefined && block.block_id !== options.blockId) continue;
      const element = blockElements(block).find((candidate) => candidate.action_id === options.actionId);
      if (element) return { block, element };
    }
  }
  throw new SlackRefusal('action_not_found');
}

function describeElement(element: Json): Json {
  const kept: Json = { type: element.type };
  for (const key of ['text', 'value', 'style', 'url'])
    if (element[key] !== undefined) kept[key] = element[key];
  return kept;
}

function isEmpty(state: Json | undefined): boolean {
  if (!state) return true;
  return Object.entries(state).every(
    ([key, value]) =>
      key === 'type' || value === null || value === '' || (Array.isArray(value) && value.length === 0),
  );
}
