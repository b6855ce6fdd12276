/**
 * People in the local Slack, for tests: they write, press, fill in and look, through the control API. The product
 * under test is reached only by what the local Slack sends it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { World } from '../../src/local/world.ts';

/** The people of the local workspace. */
export const REQUESTER = 'U0REQUESTER';
export const REVIEWER_A = 'U0REVIEWERA';
export const REVIEWER_B = 'U0REVIEWERB';
export const GUEST = 'U0GUEST';
export const BOT = 'U0COUNTERSGN';
export const GENERAL = 'C0GENERAL';
export const ENGINEERING = 'C0ENG';
/** How a person mentions the bot in raw message text. */
export const MENTION = `<@${BOT}>`;

export type Block = Record<string, unknown> & { type: string; block_id?: string };

export interface SeenMessage {
  readonly ts: string;
  readonly thread_ts?: string;
  readonly user: string;
  readonly bot_id?: string;
  readonly subtype?: string;
  readonly text: string;
  readonly blocks?: Block[];
  readonly metadata?: { event_type: string; event_payload: Record<string, unknown> };
  readonly reactions?: { name: string; users: string[]; count: number }[];
  readonly edited?: { user: string; ts: string };
  readonly reply_count?: number;
}

export interface SeenEphemeral extends SeenMessage {
  readonly channel: string;
  readonly audience: string;
}

export interface SeenView {
  readonly id: string;
  readonly callback_id: string;
  readonly private_metadata: string;
  readonly title: { text: string };
  readonly blocks: Block[];
  readonly hash: string;
  readonly submit: { text: string } | null;
  readonly close: { text: string } | null;
  readonly state: { values: Record<string, Record<string, unknown>> };
}

export interface ActResult {
  /** HTTP status of the app's acknowledgement, 0 when none came. */
  readonly ackStatus: number;
  readonly ackMs: number;
  /** What the person was told; absent when all went well. */
  readonly error?: string;
  readonly fieldErrors?: Record<string, string>;
}

export interface SeenCall {
  readonly atMs: number;
  readonly method: string;
  readonly args: Record<string, unknown>;
  readonly performed: boolean;
  readonly status: number;
  readonly ok: boolean;
  readonly error?: string;
  readonly ts?: string;
  readonly fault?: string;
}

export interface SeenDelivery {
  readonly eventId: string;
  readonly eventType: string;
  readonly status: 'pending' | 'delivered' | 'given_up';
  readonly attempts: { atMs: number; status: number; durationMs: number; reason?: string }[];
  readonly envelope: { event_id: string; event: Record<string, unknown> & { type: string } };
}

export interface SeenSocket {
  readonly id: string;
  readonly isLeaving: boolean;
  readonly sentCount: number;
  readonly unansweredCount: number;
}

export interface FaultOrder {
  /** A Web API method, or `*`. */
  readonly method: string;
  readonly kind:
    | 'rate_limited'
    | 'server_error'
    | 'error'
    | 'drop_before'
    | 'drop_after'
    | 'delay'
    | 'delay_after';
  /** Default `1`. */
  readonly times?: number;
  readonly channel?: string;
  readonly retryAfterSec?: number;
  readonly status?: number;
  readonly error?: string;
  readonly delayMs?: number;
}

export interface ClickTarget {
  readonly actionId: string;
  readonly channel?: string;
  readonly ts?: string;
  readonly viewId?: string;
  readonly blockId?: string;
  readonly chosen?: string | string[];
  /** Also finds a button that an edit has just taken away. */
  readonly stale?: boolean;
  /** Sends the click to another instance of the app. */
  readonly eventsUrl?: string;
}

/** A refusal by the local Slack itself, such as `action_not_found`, before the app was asked. */
export class Refused extends Error {
  readonly code: string;

  constructor(path: string, code: string) {
    super(`${path}: ${code}`);
    this.code = code;
  }
}

export class People {
  readonly #world: Pick<World, 'controlUrl' | 'controlToken'>;

  constructor(world: Pick<World, 'controlUrl' | 'controlToken'>) {
    this.#world = world;
  }

  /** Writes as a person and returns the message's ts. `channel` may be `dm`: the person's direct message with the bot. */
  async say(
    user: string,
    channel: string,
    text: string,
    options: { threadTs?: string } = {},
  ): Promise<string> {
    return (await this.#post<{ ts: string }>('say', { user, channel, text, ...options })).ts;
  }

  edit(user: string, channel: string, ts: string, text: string): Promise<unknown> {
    return this.#post('edit', { user, channel, ts, text });
  }

  removeMessage(channel: string, ts: string): Promise<unknown> {
    return this.#post('remove-message', { channel, ts });
  }

  react(user: string, channel: string, ts: string, name: string): Promise<unknown> {
    return this.#post('react', { user, channel, ts, name });
  }

  command(user: string, channel: string, command: string, text = ''): Promise<ActResult> {
    return this.#post('command', { user, channel, command, text });
  }

  click(user: string, target: ClickTarget): Promise<ActResult> {
    return this.#post('click', { user, ...target });
  }

  /** Submits the person's top modal, or `viewId`; `values` by action id. */
  submitView(
    user: string,
    values: Record<string, string | string[]> = {},
    viewId?: string,
  ): Promise<ActResult> {
    return this.#post('submit', { user, values, ...(viewId === undefined ? {} : { viewId }) });
  }

  closeView(user: string, viewId?: string): Promise<ActResult> {
    return this.#post('close', { user, ...(viewId === undefined ? {} : { viewId }) });
  }

  openHome(user: string): Promise<unknown> {
    return this.#post('home', { user });
  }

  /** All messages of a channel, threads included, oldest first. */
  messages(channel: string): Promise<SeenMessage[]> {
    return this.#get('messages', { channel });
  }

  async thread(channel: string, ts: string): Promise<SeenMessage[]> {
    return (await this.messages(channel)).filter((message) => message.ts === ts || message.thread_ts === ts);
  }

  ephemerals(user?: string): Promise<SeenEphemeral[]> {
    return this.#get('ephemerals', user === undefined ? {} : { user });
  }

  /** The person's open modals, the top one last. */
  views(user: string): Promise<SeenView[]> {
    return this.#get('views', { user });
  }

  async home(user: string): Promise<SeenView | null> {
    return (await this.#get<{ view: SeenView | null }>('home', { user })).view;
  }

  /** Every Web API call the local Slack received, oldest first. */
  calls(method?: string): Promise<SeenCall[]> {
    return this.#get('calls', method === undefined ? {} : { method });
  }

  deliveries(): Promise<SeenDelivery[]> {
    return this.#get('deliveries', {});
  }

  redeliver(eventId: string, eventsUrl?: string): Promise<{ ackStatus: number; ackMs: number }> {
    return this.#post('redeliver', { eventId, ...(eventsUrl === undefined ? {} : { eventsUrl }) });
  }

  fault(order: FaultOrder): Promise<unknown> {
    return this.#post('fault', order);
  }

  clearFaults(): Promise<unknown> {
    return this.#request('DELETE', 'faults');
  }

  /** Changes a person, or adds one who joins every channel. */
  user(
    id: string,
    changes: {
      name?: string;
      team_id?: string;
      deleted?: boolean;
      is_restricted?: boolean;
      is_ultra_restricted?: boolean;
      is_stranger?: boolean;
      is_admin?: boolean;
      tz?: string;
    },
  ): Promise<unknown> {
    return this.#post('user', { id, ...changes });
  }

  deactivate(user: string): Promise<unknown> {
    return this.user(user, { deleted: true });
  }

  /** Changes a channel, or makes one with everybody in it. */
  channel(id: string, changes: { name?: string; archived?: boolean } = {}): Promise<unknown> {
    return this.#post('channel', { id, ...changes });
  }

  archive(channel: string): Promise<unknown> {
    return this.channel(channel, { archived: true });
  }

  join(channel: string, user: string): Promise<unknown> {
    return this.#post('member', { channel, user, what: 'add' });
  }

  leave(channel: string, user: string): Promise<unknown> {
    return this.#post('member', { channel, user, what: 'remove' });
  }

  /** Keeps events back from now on; `release` sends them. */
  hold(): Promise<unknown> {
    return this.#post('hold', {});
  }

  /** Sends the held events one after the other; those not named follow. Gives the event ids as they were sent. */
  async release(order: 'forward' | 'reverse' | string[] = 'forward'): Promise<string[]> {
    return (await this.#post<{ sent: string[] }>('release', { order })).sent;
  }

  /** The app's open Socket Mode connections. */
  sockets(): Promise<SeenSocket[]> {
    return this.#get('sockets', {});
  }

  /** Does something to one Socket Mode connection, or to all. */
  socket(
    what: 'warning' | 'refresh_requested' | 'link_disabled' | 'cut' | 'send',
    options: { id?: string; closeAfterMs?: number; frame?: string } = {},
  ): Promise<{ count: number }> {
    return this.#post('socket', { what, ...options });
  }

  /** Ends a stream as its reader's Stop button does, or as Slack does after five minutes. */
  interruptStream(channel: string, ts: string, what: 'stop' | 'expire'): Promise<unknown> {
    return this.#post('stream', { channel, ts, what });
  }

  /** Every write that arrived at the local GitHub, oldest first. */
  githubWrites(): Promise<{ method: string; path: string; performed: boolean; status: number | null }[]> {
    return this.#get('github/writes', {});
  }

  connect(eventsUrl: string, subscriptions?: string[]): Promise<unknown> {
    return this.#post('connect', { eventsUrl, ...(subscriptions === undefined ? {} : { subscriptions }) });
  }

  /**
   * Waits until `look` gives something truthy and returns it. Asks every few milliseconds; throws after `timeoutMs`
   * (default 60,000) with `what` and the last answer.
   */
  async until<T>(
    look: () => T | Promise<T>,
    options: { timeoutMs?: number; what?: string } = {},
  ): Promise<Exclude<T, undefined | null | false | 0 | ''>> {
    const deadline = Date.now() + (options.timeoutMs ?? 60_000);
    for (;;) {
      const seen = await look();
      if (seen) return seen as Exclude<T, undefined | null | false | 0 | ''>;
      if (Date.now() > deadline) {
        throw new Error(
          `still waiting for ${options.what ?? 'a condition'}; last seen: ${JSON.stringify(seen)}`,
        );
      }
      await sleep(15);
    }
  }

  #get<T>(path: string, query: Record<string, string>): Promise<T> {
    return this.#request('GET', `${path}?${new URLSearchParams(query)}`);
  }

  #post<T>(path: string, body: unknown): Promise<T> {
    return this.#request('POST', path, JSON.stringify(body));
  }

  async #request<T>(method: string, path: string, body?: string): Promise<T> {
    const response = await fetch(`${this.#world.controlUrl}/${path}`, {
      method,
      headers: { authorization: `Bearer ${this.#world.controlToken}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body }),
    });
    const answer: unknown = await response.json();
    if (response.ok) return answer as T;
    const error =
      typeof answer === 'object' && answer !== null && 'error' in answer
        ? String(answer.error)
        : String(response.status);
    throw new Refused(path, error);
  }
}
