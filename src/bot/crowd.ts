/**
 * Who may stay at the door when it gets crowded. Anybody on the network can open connections and keep them open; only Slack can sign.
 * A connection is *proven* once it has carried a request with a good signature.
 *
 * Invariants: connections that are not proven, and the memory of bodies on their way, are bounded, and a newcomer is never turned away for
 * the sake of one who has been here longer: whoever has waited longest makes room. Slack's requests are there whole within milliseconds,
 * so that those who have waited longest are not Slack's.
 *
 * Why no bound per address: behind a proxy all requests come from one, Slack's too.
 */
import type { Socket } from 'node:net';

export interface CrowdOptions {
  /** Most connections that are not proven. */
  readonly maxUnproven: number;
  /** Most bytes of bodies on their way, all connections together. */
  readonly maxHeldBytes: number;
  /** Called for each connection that was cut to make room, with how many there were since the start. Must not throw. */
  readonly onEvicted?: (evictedCount: number) => void;
}

export class Crowd {
  readonly #options: CrowdOptions;
  /** In the order in which they came. */
  readonly #unproven = new Set<Socket>();
  /** Bytes of the body that each connection is sending, in the order in which the bodies began. */
  readonly #held = new Map<Socket, number>();
  #heldBytes = 0;
  #evictedCount = 0;

  constructor(options: CrowdOptions) {
    this.#options = options;
  }

  /** To be called once for each connection that is accepted. */
  enter(socket: Socket): void {
    this.#unproven.add(socket);
    socket.once('close', () => this.#leave(socket));
    if (this.#unproven.size > this.#options.maxUnproven) this.#evictFirst(this.#unproven.keys());
  }

  /** A request of this connection bears a good signature: it is no longer among those who make room. */
  prove(socket: Socket): void {
    this.#unproven.delete(socket);
  }

  /** The body being read on this connection takes `bytes` more. May cut a connection, this one included. */
  hold(socket: Socket, bytes: number): void {
    if (socket.destroyed) return;
    this.#held.set(socket, (this.#held.get(socket) ?? 0) + bytes);
    this.#heldBytes += bytes;
    while (this.#heldBytes > this.#options.maxHeldBytes && this.#evictFirst(this.#held.keys()));
  }

  /** Nothing of this connection's body is kept any longer. Safe to call twice. */
  release(socket: Socket): void {
    this.#heldBytes -= this.#held.get(socket) ?? 0;
    this.#held.delete(socket);
  }

  #evictFirst(sockets: Iterator<Socket>): boolean {
    const { value: first, done } = sockets.next();
    if (done) return false;
    this.#evictedCount += 1;
    this.#leave(first);
    first.destroy();
    this.#options.onEvicted?.(this.#evictedCount);
    return true;
  }

  #leave(socket: Socket): void {
    this.#unproven.delete(socket);
    this.release(socket);
  }
}
