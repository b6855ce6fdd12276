/**
 * The one way out for tools: a `fetch` that only reads, and a `fetch` bound to a permit that may write.
 *
 * Invariant: no request with another method than GET or HEAD leaves without a live permit, and no request leaves for
 * an origin that is not listed. What is checked is what is sent: the request is taken apart once, judged, and sent
 * from those parts, so nothing the caller holds (a Request, a getter, a dispatcher) is read a second time.
 */
import { CountersignError } from '../errors.ts';
import type { Fetch } from '../types.ts';

/** What a permit is for. */
export interface PermitBinding {
  readonly actionId: string;
  readonly actionHash: string;
  /** The fence of the attempt that minted it. */
  readonly fence: number;
  /**
   * Milliseconds since the epoch, this process's clock: nothing is sent after it. Taken before the minting transaction, so that a
   * process which stood still since then cannot send what another has meanwhile looked for, found absent, and sent itself.
   */
  readonly sendBy: number;
}

/** Held by this module alone: the constructor of `Permit` is reachable from any permit, the key is not. */
const MINT_KEY: unique symbol = Symbol('mint');

let isLive: (value: unknown) => boolean;
let take: (value: unknown) => boolean;

/**
 * The right to execute one action once. Never stored, never copied: the private fields are its brand, and an object
 * of the same shape, a proxy or a structured clone has none.
 */
class Permit {
  readonly #binding: PermitBinding;
  // live → taken (a write fetch was handed out) → spent. Only forward.
  #state: 'live' | 'taken' | 'spent' = 'live';

  static {
    isLive = (value) =>
      typeof value === 'object' && value !== null && #state in value && value.#state !== 'spent';
    take = (value) => {
      if (typeof value !== 'object' || value === null || !(#state in value) || value.#state !== 'live')
        return false;
      value.#state = 'taken';
      return true;
    };
  }

  constructor(key: typeof MINT_KEY, binding: PermitBinding) {
    if (key !== MINT_KEY)
      throw new CountersignError('PERMIT_REQUIRED', 'A permit is minted by the executor only.');
    this.#binding = {
      actionId: binding.actionId,
      actionHash: binding.actionHash,
      fence: binding.fence,
      sendBy: binding.sendBy,
    };
  }

  get actionId(): string {
    return this.#binding.actionId;
  }

  get actionHash(): string {
    return this.#binding.actionHash;
  }

  get fence(): number {
    return this.#binding.fence;
  }

  get sendBy(): number {
    return this.#binding.sendBy;
  }

  /** Spends the permit: from now on nothing is written with it. Repeatable. */
  close(): void {
    this.#state = 'spent';
  }
}

export type { Permit };

/**
 * Mints a permit. Called by jobs/executor.ts alone (a boundary test says so), in the transaction that moves the
 * action `permitted → executing`.
 */
export function mintPermit(binding: PermitBinding): Permit {
  return new Permit(MINT_KEY, binding);
}

export interface Egress {
  /** GET and HEAD to listed origins. Throws PERMIT_REQUIRED for another method, EGRESS_REFUSED for another origin. */
  readonly read: Fetch;
  /**
   * A fetch that may also write, while `permit` is live. A permit gives one such fetch: a second call with it, and a
   * permit that is forged or spent, throw PERMIT_REQUIRED.
   */
  write(permit: Permit): Fetch;
}

export interface EgressOptions {
  /** `https://api.github.com`: scheme, host and port, nothing more. The operator's word: local addresses may be listed. */
  readonly allowedOrigins: readonly string[];
  /** What sends. Default `globalThis.fetch`. */
  readonly underlying?: Fetch;
}

const READ_METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD']);

/** Headers by which frameworks let a GET or POST act as another method. */
const OVERRIDE_HEADERS = ['x-http-method-override', 'x-http-method', 'x-method-override'];

/**
 * Makes the egress. Throws CONFIG_INVALID for an origin that is not one. Redirects are never followed, because the
 * token would go along and the method with it: a 3xx comes back as it is.
 */
export function createEgress(options: EgressOptions): Egress {
  const origins = new Set(options.allowedOrigins.map(parseOrigin));
  const underlying = options.underlying ?? globalThis.fetch;

  const guarded =
    (mayWrite: () => boolean): Fetch =>
    async (input, init) => {
      const request = await takeApart(input, init);

      const url = new URL(request.url);
      if ((url.protocol !== 'https:' && url.protocol !== 'http:') || !origins.has(url.origin))
        throw new CountersignError('EGRESS_REFUSED', `${url.origin} is not on the egress list.`);
      const overridden = OVERRIDE_HEADERS.some((name) => request.headers.has(name));
      if ((!READ_METHODS.has(request.method) || overridden) && !mayWrite())
        throw new CountersignError('PERMIT_REQUIRED', `A ${request.method} was attempted without a permit.`);

      return underlying(request.url, {
        method: request.method,
        headers: request.headers,
        signal: request.signal,
        redirect: 'manual',
        ...(request.body === null ? {} : { body: request.body }),
      });
    };

  return Object.freeze({
    read: guarded(() => false),
    write(permit: Permit): Fetch {
      if (!take(permit)) throw new CountersignError('PERMIT_REQUIRED', 'The permit is not live.');
      return guarded(() => {
        if (!isLive(permit)) return false;
        // Retryable: whether the action was carried out meanwhile is for the next try to find out.
        if (Date.now() > permit.sendBy)
          throw new CountersignError('TOOL_FAILED', 'The permit was not used in time; nothing was sent.');
        return true;
      });
    },
  });
}

interface RequestParts {
  readonly url: string;
  readonly method: string;
  readonly headers: Headers;
  readonly signal: AbortSignal;
  readonly body: ArrayBuffer | null;
}

/**
 * Reads everything that will be sent, once. The platform's own Request constructor decides what url and method mean,
 * so a subclass's getters, `init` winning over a Request, and odd spellings are settled before anything is judged.
 */
async function takeApart(
  input: string | URL | Request,
  init: RequestInit | undefined,
): Promise<RequestParts> {
  let request: Request;
  try {
    request = new Request(input, init);
  } catch (cause) {
    throw new CountersignError('EGRESS_REFUSED', 'The request is malformed.', { cause });
  }
  return {
    url: request.url,
    method: request.method,
    headers: new Headers(request.headers),
    signal: request.signal,
    body: request.body === null ? null : await request.arrayBuffer(),
  };
}

function parseOrigin(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:') || url.origin !== text)
    throw new CountersignError('CONFIG_INVALID', `${JSON.stringify(text)} is not an origin.`);
  return url.origin;
}
