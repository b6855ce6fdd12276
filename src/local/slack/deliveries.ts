/**
 * What the local Slack sends to the app: signed requests or Socket Mode envelopes, three seconds for an answer.
 *
 * Events are kept until acknowledged: redelivered with the same event id and the same bytes at once, after a minute
 * and after five, across restarts of this process, then given up. Interactions and commands are sent once, as Slack
 * does; their sender learns what became of them. Nothing leaves before the state it speaks of is on disk.
 */
import { createHmac } from 'node:crypto';
import { setTimeout as setTimer } from 'node:timers';
import { APP_ID, BOT_USER_ID, TEAM_ID } from './seed.ts';
import { type Envelope, Sockets } from './sockets.ts';
import type { SlackStore } from './store.ts';
import type { EventDelivery, Json } from './types.ts';

const ACK_TIMEOUT_MS = 3_000;
/** Slack's schedule after a failed delivery: nearly at once, a minute, five minutes. */
const REDELIVERY_DELAYS_MS: readonly number[] = [0, 60_000, 300_000];

export interface Ack {
  /** HTTP status of the app's answer (200 for an acknowledged envelope), or 0 when none came in time. */
  readonly ackStatus: number;
  readonly ackMs: number;
  /** Slack's word for a failure: `http_timeout`, `connection_failed`, `http_error`, or `not_connected`. */
  readonly reason?: string;
  readonly body: string;
  readonly noRetry: boolean;
}

export interface DeliveryOptions {
  readonly signingSecret: string;
  readonly verificationToken: string;
  /** Multiplies the redelivery delays; `1` is Slack's own pace, tests use a thousandth. */
  readonly redeliveryScale: number;
}

export class Deliveries {
  readonly #store: SlackStore;
  readonly #options: DeliveryOptions;
  readonly #timers = new Map<string, NodeJS.Timeout>();
  readonly #inFlight = new Set<string>();
  readonly #closing = new AbortController();
  /** Set while events are being sent in an order of a test's choosing. */
  #releasing = false;
  readonly sockets = new Sockets(() => this.#hurry());

  constructor(store: SlackStore, options: DeliveryOptions) {
    this.#store = store;
    this.#options = options;
  }

  /** Takes up what an earlier process left undelivered. */
  resume(): void {
    for (const delivery of this.#store.data.deliveries) this.#schedule(delivery);
  }

  /** Sets where the app listens and delivers at once what was waiting. */
  connect(eventsUrl: string, subscriptions?: readonly string[]): string | null {
    const { data } = this.#store;
    const before = data.eventsUrl;
    data.eventsUrl = eventsUrl;
    data.socketMode = false;
    if (subscriptions) data.subscriptions = [...subscriptions];
    this.sockets.disconnect('link_disabled');
    this.#hurry();
    return before;
  }

  /**
   * Switches the app to Socket Mode and gives the address of one connection. With Slack the switch is a setting of
   * the app; here asking for a connection is the switch, and `connect` turns it back.
   */
  openSocket(origin: string, subscriptions?: readonly string[]): string {
    this.#store.data.socketMode = true;
    if (subscriptions) this.#store.data.subscriptions = [...subscriptions];
    this.#store.touch();
    return this.sockets.ticketUrl(origin);
  }

  /** Keeps back every event from now on; clicks, commands and submissions still go out. */
  hold(): void {
    this.#store.data.isHolding = true;
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    this.#store.touch();
  }

  /**
   * Lets the held events go, one after the other, in the given order; those not named follow in theirs. Resolves with
   * the event ids in the order in which they were sent.
   */
  async release(order: 'forward' | 'reverse' | readonly string[]): Promise<string[]> {
    const { data } = this.#store;
    const held = data.deliveries.filter(({ status }) => status === 'pending');
    const named =
      typeof order === 'string'
        ? []
        : order.flatMap((id) => held.find(({ eventId }) => eventId === id) ?? []);
    const rest = held.filter((delivery) => !named.includes(delivery));
    const sorted = order === 'reverse' ? rest.reverse() : [...named, ...rest];
    data.isHolding = false;
    this.#store.touch();
    this.#releasing = true;
    try {
      for (const delivery of sorted) await this.#attempt(delivery);
    } finally {
      this.#releasing = false;
      this.resume();
    }
    return sorted.map(({ eventId }) => eventId);
  }

  /**
   * Queues an event for the app if it is subscribed to it. Does not wait: the event may arrive before the answer to
   * the request that caused it, as with Slack.
   */
  emit(subscription: string, event: Json): string | undefined {
    const { data } = this.#store;
    if (!data.subscriptions.includes(subscription)) return undefined;
    const eventId = this.#store.nextId('Ev');
    const delivery: EventDelivery = {
      eventId,
      eventType: String(event.type),
      body: JSON.stringify({
        token: this.#options.verificationToken,
        team_id: TEAM_ID,
        context_team_id: TEAM_ID,
        context_enterprise_id: null,
        api_app_id: APP_ID,
        event,
        type: 'event_callback',
        event_id: eventId,
        event_time: Math.floor(Date.now() / 1000),
        authorizations: [
          {
            enterprise_id: null,
            team_id: TEAM_ID,
            user_id: BOT_USER_ID,
            is_bot: true,
            is_enterprise_install: false,
          },
        ],
        is_ext_shared_channel: false,
        event_context: `4-${eventId}`,
      }),
      status: 'pending',
      attempts: [],
      dueAtMs: Date.now(),
    };
    data.deliveries.push(delivery);
    this.#store.touch();
    this.#schedule(delivery);
    return eventId;
  }

  /** Sends a known event once more, outside the schedule, as a redelivery with the same id and bytes. */
  async redeliver(eventId: string, eventsUrl?: string): Promise<Ack | undefined> {
    const delivery = this.#store.data.deliveries.find((candidate) => candidate.eventId === eventId);
    if (!delivery) return undefined;
    return this.post(delivery.body, 'application/json', {
      ...(eventsUrl === undefined ? {} : { eventsUrl }),
      retry: { count: Math.max(1, delivery.attempts.length), reason: 'http_timeout' },
    });
  }

  /**
   * Sends a body, signed or as an envelope, and reports the acknowledgement; never throws for the app's failures. With
   * `eventsUrl` it goes there by HTTP whatever the app's setting.
   */
  async post(
    body: string,
    contentType: string,
    options: { eventsUrl?: string; retry?: { count: number; reason: string } } = {},
  ): Promise<Ack> {
    if (options.eventsUrl === undefined && this.#store.data.socketMode === true) {
      await this.#store.flush();
      const ack = await this.sockets.send(envelopeOf(body, contentType, options.retry));
      return { ...ack, ackStatus: ack.reason === undefined ? 200 : 0, noRetry: false };
    }
    const url = options.eventsUrl ?? this.#store.data.eventsUrl;
    if (url === null) return { ackStatus: 0, ackMs: 0, reason: 'not_connected', body: '', noRetry: false };
    await this.#store.flush();

    const timestamp = String(Math.floor(Date.now() / 1000));
    const signature = createHmac('sha256', this.#options.signingSecret)
      .update(`v0:${timestamp}:${body}`)
      .digest('hex');
    const startedAt = performance.now();
    const elapsedMs = (): number => Math.round(performance.now() - startedAt);
    const timeout = AbortSignal.timeout(ACK_TIMEOUT_MS);
    try {
      const response = await fetch(url, {
        method: 'POST',
        redirect: 'manual',
        signal: AbortSignal.any([timeout, this.#closing.signal]),
        headers: {
          'content-type': contentType,
          'user-agent': 'Slackbot 1.0 (+https://api.slack.com/robots)',
          'x-slack-request-timestamp': timestamp,
          'x-slack-signature': `v0=${signature}`,
          ...(options.retry === undefined
            ? {}
            : {
                'x-slack-retry-num': String(options.retry.count),
                'x-slack-retry-reason': options.retry.reason,
              }),
        },
        body,
      });
      const answer = await response.text();
      return {
        ackStatus: response.status,
        ackMs: elapsedMs(),
        ...(response.ok ? {} : { reason: 'http_error' }),
        body: answer,
        noRetry: response.headers.get('x-slack-no-retry') === '1',
      };
    } catch {
      const reason = timeout.aborted ? 'http_timeout' : 'connection_failed';
      return { ackStatus: 0, ackMs: elapsedMs(), reason, body: '', noRetry: false };
    }
  }

  /** Stops sending. What is pending stays pending, on disk. */
  close(): void {
    this.#closing.abort();
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    this.sockets.close();
  }

  /** Sends what waits now, whenever it was due: the app has just come (back). */
  #hurry(): void {
    const now = Date.now();
    for (const delivery of this.#store.data.deliveries)
      if (delivery.status === 'pending') delivery.dueAtMs = now;
    this.#store.touch();
    this.resume();
  }

  #schedule(delivery: EventDelivery): void {
    const { data } = this.#store;
    if (delivery.status !== 'pending' || this.#closing.signal.aborted) return;
    if (data.isHolding === true || this.#releasing) return;
    if (data.eventsUrl === null && data.socketMode !== true) return;
    clearTimeout(this.#timers.get(delivery.eventId));
    const timer = setTimer(
      () => {
        this.#timers.delete(delivery.eventId);
        void this.#attempt(delivery).catch(() => {
          // Only a failed save lands here. The delivery is still pending and is taken up at the next start.
        });
      },
      Math.max(0, delivery.dueAtMs - Date.now()),
    );
    this.#timers.set(delivery.eventId, timer);
  }

  async #attempt(delivery: EventDelivery): Promise<void> {
    if (delivery.status !== 'pending' || this.#inFlight.has(delivery.eventId)) return;
    this.#inFlight.add(delivery.eventId);
    try {
      const previous = delivery.attempts.at(-1);
      const ack = await this.post(
        delivery.body,
        'application/json',
        previous
          ? { retry: { count: delivery.attempts.length, reason: previous.reason ?? 'unknown_error' } }
          : {},
      );
      if (this.#closing.signal.aborted) return;
      delivery.attempts.push({
        atMs: Date.now(),
        status: ack.ackStatus,
        durationMs: ack.ackMs,
        ...(ack.reason === undefined ? {} : { reason: ack.reason }),
      });
      const delayMs = REDELIVERY_DELAYS_MS[delivery.attempts.length - 1];
      if (ack.reason === undefined) delivery.status = 'delivered';
      else if (ack.noRetry || delayMs === undefined) delivery.status = 'given_up';
      else delivery.dueAtMs = Date.now() + delayMs * this.#options.redeliveryScale;
      this.#store.touch();
      await this.#store.flush();
    } finally {
      this.#inFlight.delete(delivery.eventId);
    }
    this.#schedule(delivery);
  }
}

/** What is a signed request over HTTP, as the envelope it is in Socket Mode. */
function envelopeOf(body: string, contentType: string, retry: Envelope['retry']): Envelope {
  if (contentType === 'application/json')
    return {
      type: 'events_api',
      payload: JSON.parse(body),
      acceptsAnswer: false,
      ...(retry === undefined ? {} : { retry }),
    };
  const form = new URLSearchParams(body);
  const payload = form.get('payload');
  if (payload === null)
    return { type: 'slash_commands', payload: Object.fromEntries(form), acceptsAnswer: true };
  const interaction = JSON.parse(payload) as Json;
  return {
    type: 'interactive',
    payload: interaction,
    acceptsAnswer: interaction.type === 'view_submission' || interaction.type === 'block_suggestion',
  };
}
