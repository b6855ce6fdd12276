/**
 * The outside world of a chaos run: an HTTP server that applies effects, counts them, and answers as badly as real services do.
 *
 * Two kinds of service. `keyed` applies once per idempotency key. `checkable` applies whatever arrives before the time that the caller
 * named, and tells on request what stands: not doing it twice is the caller's work.
 * Invariant: an effect is counted at the moment it is applied, whether or not the caller ever hears of it.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { generator } from './plan.ts';

/** What a worker sends. `place` is the step's path in the run's journal. */
export interface EffectCall {
  readonly runId: string;
  readonly place: string;
  /** Names the effect independently of run ids, so that the world's behaviour follows from the seed. */
  readonly label: string;
  readonly idempotencyKey: string;
  /** A value that the story derived: the same on every replay. */
  readonly token: string;
  /** How often this effect is refused before it is taken. */
  readonly refusals: number;
  /** How long it takes before it is applied. */
  readonly slowMs: number;
  /** Refused for good until the outside is mended for this label's run. */
  readonly isBroken: boolean;
  /** `checkable` only: milliseconds since the epoch, after which the call is refused. */
  readonly expiresAtMs?: number;
}

/** One effect as the outside saw it. */
export interface SeenEffect {
  readonly runId: string;
  readonly place: string;
  /** How often it was really applied. */
  appliedCount: number;
  receipt: string | null;
  /** Orders first applications over all effects. */
  appliedSeq: number;
  arrivalCount: number;
  readonly keys: Set<string>;
  readonly tokens: Set<string>;
}

export interface Outside {
  readonly url: string;
  /** By `<runId> <place>`. */
  readonly effects: ReadonlyMap<string, SeenEffect>;
  /** From now on nothing is refused for good that the planned run `label`, or a child of it, asks for. */
  mend(label: string): void;
  close(): Promise<void>;
}

/** Says that asking again is of no use. */
export const REFUSED_STATUS = 422;
/** From this arrival on an effect is answered properly, so that every story can end. */
const PROPER_FROM = 5;
const MAX_DELAY_MS = 25;

export async function openOutside(seed: string): Promise<Outside> {
  const effects = new Map<string, SeenEffect>();
  const receiptByKey = new Map<string, string>();
  const mended = new Set<string>();
  let applied = 0;

  const apply = (effect: SeenEffect): string => {
    applied += 1;
    effect.appliedCount += 1;
    const receipt = `receipt-${applied}`;
    if (effect.receipt === null) {
      effect.receipt = receipt;
      effect.appliedSeq = applied;
    }
    return receipt;
  };

  const take = async (mode: string, call: EffectCall, response: ServerResponse): Promise<void> => {
    const id = `${call.runId} ${call.place}`;
    let effect = effects.get(id);
    if (!effect) {
      effect = {
        runId: call.runId,
        place: call.place,
        appliedCount: 0,
        receipt: null,
        appliedSeq: 0,
        arrivalCount: 0,
        keys: new Set(),
        tokens: new Set(),
      };
      effects.set(id, effect);
    }
    effect.arrivalCount += 1;
    effect.keys.add(call.idempotencyKey);
    effect.tokens.add(call.token);
    const arrival = effect.arrivalCount;
    const random = generator(`${seed}/outside/${call.label}/${arrival}`);
    if (arrival <= call.refusals) return answer(response, 503, { error: 'try again' });
    await pause(call.slowMs + random.below(MAX_DELAY_MS));
    if (call.isBroken && !mended.has(call.label.split('/')[0] ?? ''))
      return answer(response, REFUSED_STATUS, { error: 'never' });
    const fate = arrival >= PROPER_FROM ? 1 : random.next();
    if (fate < 0.04) return void response.destroy();
    if (mode === 'checkable' && Date.now() >= (call.expiresAtMs ?? 0))
      return answer(response, 410, { error: 'too late' });
    const known = mode === 'keyed' ? receiptByKey.get(call.idempotencyKey) : undefined;
    const receipt = known ?? apply(effect);
    if (mode === 'keyed') receiptByKey.set(call.idempotencyKey, receipt);
    await pause(random.below(MAX_DELAY_MS));
    if (fate < 0.12) return void response.destroy();
    answer(response, 200, { receipt });
  };

  const server = createServer((request, response) => {
    void (async () => {
      const url = new URL(request.url ?? '/', 'http://outside');
      if (request.method === 'POST')
        return await take(url.pathname.slice(1), JSON.parse(await bodyOf(request)) as EffectCall, response);
      const seen = effects.get(`${url.searchParams.get('run')} ${url.searchParams.get('place')}`);
      answer(response, 200, { receipt: seen?.receipt ?? null });
    })().catch(() => response.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    effects,
    mend: (label) => void mended.add(label),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function answer(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of request) text += chunk;
  return text;
}
