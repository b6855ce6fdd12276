/**
 * A local Slack: opens its state, wires its parts, and offers its routes to the world's HTTP server. It knows the app
 * only as an address that gets signed requests and as a caller with a token.
 */
import { randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { Acts } from './acts.ts';
import { type ControlOptions, controlApi } from './control.ts';
import { Deliveries } from './deliveries.ts';
import type { Route } from './http.ts';
import type { SlackContext } from './messages.ts';
import { authorizeRoute } from './oauth.ts';
import { TEAM_ID } from './seed.ts';
import { SlackStore } from './store.ts';
import { type AppCredentials, webApi } from './web-api.ts';

export interface LocalSlackOptions {
  readonly stateDir: string;
  readonly app: AppCredentials;
  readonly signingSecret: string;
  readonly controlToken: string;
  readonly redeliveryScale: number;
  /** The local GitHub, once it runs: the control API shows what was written there. */
  readonly github: ControlOptions['github'];
  /** Origin of the server the routes are mounted on; called only after it listens. */
  readonly baseUrl: () => string;
}

export interface LocalSlack {
  readonly context: SlackContext;
  readonly acts: Acts;
  readonly routes: readonly Route[];
  /** For the server's `upgrade` event: the app's Socket Mode connections. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Ends the app's Socket Mode connections. */
  hangUp(): void;
  /** Saves what is left and stops sending. */
  close(): Promise<void>;
}

export async function openLocalSlack(options: LocalSlackOptions): Promise<LocalSlack> {
  const store = await SlackStore.open(options.stateDir, TEAM_ID);
  // Slack's deprecated verification token: apps must not trust it, so a fresh one each time does no harm.
  const verificationToken = randomBytes(12).toString('hex');
  const deliveries = new Deliveries(store, {
    signingSecret: options.signingSecret,
    verificationToken,
    redeliveryScale: options.redeliveryScale,
  });
  const context: SlackContext = { store, deliveries, baseUrl: options.baseUrl };
  const acts = new Acts(context, verificationToken);
  return {
    context,
    acts,
    routes: [
      webApi(context, acts, options.app),
      authorizeRoute(context, options.app),
      controlApi(context, acts, { token: options.controlToken, github: options.github }),
    ],
    upgrade: (request, socket, head) => deliveries.sockets.upgrade(request, socket, head),
    hangUp: () => deliveries.sockets.close(),
    async close() {
      deliveries.close();
      await store.flush();
    },
  };
}
