/**
 * The local world in one process: a Slack with its page, a GitHub, a scripted model. What a newcomer has instead of
 * accounts. It imports nothing of the product; the two know each other only over HTTP.
 *
 * Invariants: one process per state folder (held by a lock the operating system releases when the process dies);
 * everything answered is on disk; tokens, secrets and ports are made once and kept, so that a restarted world is the
 * same world to whoever still holds its addresses.
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { startLocalGitHub } from './github.ts';
import { startScriptedModel } from './model.ts';
import { pageRoutes } from './page/page.ts';
import { BodyTooLarge, type Route, sendJson } from './slack/http.ts';
import { openLocalSlack } from './slack/local-slack.ts';
import { APP_ID, BOT_USER_ID, TEAM_ID } from './slack/seed.ts';

export interface World {
  readonly stateDir: string;
  /** For a browser; carries the page's token. */
  readonly pageUrl: string;
  /** Base of the control API, without a trailing slash: `${controlUrl}/say`. */
  readonly controlUrl: string;
  readonly controlToken: string;
  readonly slack: {
    /** For the SDK's `slackApiUrl`, with a trailing slash. */
    readonly apiUrl: string;
    readonly botToken: string;
    readonly signingSecret: string;
    /** App-level, for Socket Mode. */
    readonly appToken: string;
    /** For the OAuth installation: `GET ${authorizeUrl}`, then `oauth.v2.access`. */
    readonly clientId: string;
    readonly clientSecret: string;
    readonly authorizeUrl: string;
    readonly teamId: string;
    readonly appId: string;
    readonly botUserId: string;
  };
  readonly github: { readonly apiUrl: string; readonly token: string };
  readonly model: { readonly baseUrl: string; readonly apiKey: string };
  /**
   * Tells the local Slack where the app takes events, interactions and commands. Waiting events go out at once. Gives where it took them
   * before, null when it never did.
   */
  connect(eventsUrl: string): Promise<string | null>;
  /** In process: stops the world, keeping its state. From `launchWorld`: lets go of it, the world lives on. */
  close(): Promise<void>;
}

export interface StartWorldOptions {
  /** Made if missing. Everything the world remembers is in here. */
  readonly stateDir: string;
  /** Port of the Slack, page and control server. Default: the one of last time when it is free, else any. */
  readonly port?: number;
  readonly eventsUrl?: string;
  /** Multiplies the delays of event redelivery (a minute, five minutes). Default `1`; tests use less. */
  readonly redeliveryScale?: number;
}

/** Thrown when another process is already the world of this state folder. */
export class WorldHeld extends Error {
  readonly code = 'WORLD_HELD';
}

interface Secrets {
  controlToken: string;
  pageToken: string;
  botToken: string;
  signingSecret: string;
  appToken: string;
  clientId: string;
  clientSecret: string;
  githubToken: string;
  modelKey: string;
  ports: { slack?: number; model?: number };
}

/** A running world, with the proof of identity that a launcher asks for. */
export type StartedWorld = World & { readonly nonce: string };

export async function startWorld(options: StartWorldOptions): Promise<StartedWorld> {
  const { stateDir } = options;
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  const unlock = lockWorld(stateDir);
  const undo: Array<() => Promise<void> | void> = [unlock];
  const unwind = async (): Promise<void> => {
    for (const step of undo.splice(0).reverse()) await step();
  };
  try {
    const secrets = await loadSecrets(stateDir);
    const nonce = randomBytes(16).toString('hex');
    let port = 0;
    let githubApi: string | undefined;
    const reachGitHub = () =>
      githubApi === undefined ? undefined : { apiUrl: githubApi, token: secrets.githubToken };

    const slack = await openLocalSlack({
      stateDir,
      app: secrets,
      signingSecret: secrets.signingSecret,
      github: reachGitHub,
      controlToken: secrets.controlToken,
      redeliveryScale: options.redeliveryScale ?? 1,
      baseUrl: () => `http://127.0.0.1:${port}`,
    });
    undo.push(() => slack.close());
    const page = pageRoutes({
      slack,
      token: secrets.pageToken,
      port: () => port,
      github: reachGitHub,
    });
    undo.push(() => page.close());

    const github = await startLocalGitHub({
      stateDir,
      token: secrets.githubToken,
      onSaved: () => page.repositoryChanged(),
    });
    undo.push(() => github.close());
    githubApi = github.apiUrl;
    const model = await onKeptPort(secrets.ports.model, (kept) =>
      startScriptedModel({ apiKey: secrets.modelKey, ...(kept === undefined ? {} : { port: kept }) }),
    );
    undo.push(() => model.close());

    const server = createServer(handler(nonce, [...slack.routes, page.route]));
    server.on('upgrade', (request, socket, head) => slack.upgrade(request, socket, head));
    const keptPort = options.port ?? secrets.ports.slack;
    port = await onKeptPort(keptPort, (kept) => listen(server, kept ?? 0));
    undo.push(() => closeServer(server));
    // WebSockets are not among the connections that a server closes by itself: it would wait for them.
    undo.push(() => slack.hangUp());
    secrets.ports = { slack: port, model: model.port };
    await saveSecrets(stateDir, secrets);

    if (options.eventsUrl !== undefined) slack.context.deliveries.connect(options.eventsUrl);
    else slack.context.deliveries.resume();

    const origin = `http://127.0.0.1:${port}`;
    return {
      stateDir,
      nonce,
      pageUrl: `${origin}/?token=${secrets.pageToken}`,
      controlUrl: `${origin}/control`,
      controlToken: secrets.controlToken,
      slack: {
        apiUrl: `${origin}/api/`,
        botToken: secrets.botToken,
        signingSecret: secrets.signingSecret,
        appToken: secrets.appToken,
        clientId: secrets.clientId,
        clientSecret: secrets.clientSecret,
        authorizeUrl: `${origin}/oauth/v2/authorize`,
        teamId: TEAM_ID,
        appId: APP_ID,
        botUserId: BOT_USER_ID,
      },
      github: { apiUrl: github.apiUrl, token: secrets.githubToken },
      model: { baseUrl: model.baseUrl, apiKey: secrets.modelKey },
      async connect(eventsUrl) {
        const before = slack.context.deliveries.connect(eventsUrl);
        await slack.context.store.flush();
        return before;
      },
      close: unwind,
    };
  } catch (error) {
    await unwind();
    throw error;
  }
}

/**
 * Takes the state folder's lock, or throws `WorldHeld`. An exclusive SQLite transaction is the one lock in Node's
 * standard library that the operating system lets go of on `kill -9`.
 */
export function lockWorld(stateDir: string): () => void {
  const database = new DatabaseSync(join(stateDir, 'world.lock'), { timeout: 0 });
  try {
    database.exec('begin exclusive');
  } catch (error) {
    database.close();
    if (error instanceof Error && /locked|busy/i.test(error.message)) {
      throw new WorldHeld(`another process already runs the local world in ${stateDir}`);
    }
    throw error;
  }
  return () => database.close();
}

function handler(
  nonce: string,
  routes: readonly Route[],
): (request: IncomingMessage, response: ServerResponse) => void {
  return (request, response) => {
    void answer(nonce, routes, request, response).catch((error: unknown) => {
      if (response.headersSent) {
        response.destroy();
        return;
      }
      if (error instanceof BodyTooLarge) {
        sendJson(response, 413, { ok: false, error: 'request_too_large' }, { connection: 'close' });
        return;
      }
      process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
      sendJson(response, 500, { ok: false, error: 'internal_error' });
    });
  };
}

async function answer(
  nonce: string,
  routes: readonly Route[],
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const url = URL.parse(request.url ?? '/', 'http://world.invalid');
  if (!url) {
    sendJson(response, 400, { ok: false, error: 'invalid_url' });
    return;
  }
  if (url.pathname === '/healthz') {
    sendJson(response, 200, { ok: true, nonce, pid: process.pid });
    return;
  }
  for (const route of routes) if (await route(request, response, url)) return;
  sendJson(response, 404, { ok: false, error: 'not_found' });
}

async function loadSecrets(stateDir: string): Promise<Secrets> {
  const path = join(stateDir, 'world-secrets.json');
  const random = (): string => randomBytes(24).toString('hex');
  const secrets: Secrets = {
    controlToken: random(),
    pageToken: random(),
    botToken: `xoxb-local-${random()}`,
    signingSecret: randomBytes(16).toString('hex'),
    appToken: `xapp-1-${APP_ID}-1-${random()}`,
    clientId: '1000000000000.1000000000001',
    clientSecret: randomBytes(16).toString('hex'),
    githubToken: `ghp_local${random()}`,
    modelKey: `local-model-${random()}`,
    ports: {},
  };
  if (existsSync(path)) {
    await chmod(path, 0o600);
    // What an earlier version did not know of is made now and kept like the rest.
    Object.assign(secrets, JSON.parse(await readFile(path, 'utf8')));
  }
  await saveSecrets(stateDir, secrets);
  return secrets;
}

async function saveSecrets(stateDir: string, secrets: Secrets): Promise<void> {
  const path = join(stateDir, 'world-secrets.json');
  await writeFile(`${path}.tmp`, `${JSON.stringify(secrets, null, 2)}\n`, { mode: 0o600 });
  await rename(`${path}.tmp`, path);
}

/** Tries the kept port first; somebody else may have taken it meanwhile. */
async function onKeptPort<T>(
  kept: number | undefined,
  start: (port: number | undefined) => Promise<T>,
): Promise<T> {
  if (kept === undefined) return start(undefined);
  try {
    return await start(kept);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EADDRINUSE')) throw error;
    return start(undefined);
  }
}

function listen(server: Server, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => {
      server.off('error', reject);
      resolve((server.address() as AddressInfo).port);
    });
  });
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
