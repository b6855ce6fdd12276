/**
 * The product under the fuzz: in this process, over a PostgreSQL and a local world that are processes of their own, with one request
 * that waits for a decision.
 */
import { createHmac } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { connectDatabase, type Database } from '../../src/jobs/engine/db.ts';
import { launchWorld, stopWorld } from '../../src/local/launch-world.ts';
import { createLogger } from '../../src/log.ts';
import { type Product, startProduct } from '../../src/main.ts';
import { openServer } from '../chaos/server.ts';
import { ENGINEERING, MENTION, People, REQUESTER } from '../support/people.ts';
import type { Real } from './shapes.ts';

/** At a time; more only queue. */
export const CONNECTIONS = 24;
const REAL_MS = 30_000;

export interface Rig {
  readonly real: Real;
  readonly db: Database;
  readonly signingSecret: string;
  /** Signs and sends; the answer's status. Rejects when the connection breaks. */
  send(body: Uint8Array, contentType: string): Promise<number>;
  close(): Promise<void>;
}

export function signatureOf(secret: string, timestamp: string, body: Uint8Array): string {
  return `v0=${createHmac('sha256', secret).update(`v0:${timestamp}:`).update(body).digest('hex')}`;
}

export async function openRig(): Promise<Rig> {
  const stateDir = await mkdtemp(path.join(tmpdir(), 'countersign-fuzz-'));
  const worldDir = path.join(stateDir, 'world');
  const undo: (() => Promise<unknown>)[] = [() => rm(stateDir, { recursive: true, force: true })];
  const close = async () => {
    for (const step of undo.splice(0).reverse()) await step();
  };
  try {
    const log = createLogger({ level: process.env.FUZZ_LOG ?? 'silent' });
    const [server, world] = await Promise.all([openServer(stateDir), launchWorld({ stateDir: worldDir })]);
    undo.push(
      () => server.close(),
      () => stopWorld(worldDir),
    );
    const product: Product = await startProduct(
      {
        databaseUrl: server.appUrl,
        databaseAdminUrl: server.adminUrl,
        slack: {
          botToken: world.slack.botToken,
          receiver: { kind: 'http', signingSecrets: [world.slack.signingSecret] },
          apiUrl: world.slack.apiUrl,
        },
        model: {
          apiKey: world.model.apiKey,
          baseUrl: world.model.baseUrl,
          name: 'scripted',
          label: 'scripted model',
        },
        github: { token: world.github.token, apiUrl: world.github.apiUrl, credential: 'local-github' },
        policy: {
          admins: [],
          reviewers: ['U0REVIEWERA', 'U0REVIEWERB'].map((userId) => ({ teamId: 'T0LOCAL', userId })),
          requesters: 'members',
        },
        applyPolicy: true,
        mayWrite: true,
        digest: { timeZone: 'Etc/UTC', channelId: null },
        host: '127.0.0.1',
        port: 0,
        logLevel: 'silent',
        suspendAfterEveryStep: false,
      },
      log,
    );
    undo.push(() => product.stop());
    const { port } = product.address;
    await world.connect(`http://127.0.0.1:${port}/slack/events`);
    const db = connectDatabase({ url: server.appUrl, log, maxConnections: 2, name: 'judge' });
    undo.push(() => db.close());
    await new People(world).say(REQUESTER, ENGINEERING, `${MENTION} merge pull request 1 in acme/shop`);
    const real = await realRequest(db);

    const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
    undo.push(async () => agent.destroy());
    const { signingSecret } = world.slack;
    return {
      real,
      db,
      signingSecret,
      send: (body, contentType) => post(agent, port, signingSecret, body, contentType),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function realRequest(db: Database): Promise<Real> {
  const deadline = Date.now() + REAL_MS;
  for (;;) {
    const { rows } = await db.query<{
      deployment: string;
      request: string;
      hash: string;
      channel: string;
      ts: string;
      thread: string;
    }>({
      text: `select dep.deployment_id as deployment, r.request_id as request, a.action_hash as hash, t.channel_id as channel, d.ts, t.thread_ts as thread
             from approval_requests r
             join actions a on a.workspace_id = r.workspace_id and a.action_id = r.action_id
             join tasks t on t.workspace_id = r.workspace_id and t.run_id = r.run_id
             join deliveries d on d.workspace_id = r.workspace_id and d.subject_id = r.request_id and d.ts is not null,
             deployments dep
             where r.status = 'pending'`,
    });
    const row = rows[0];
    if (row) {
      const { deployment, request, hash: actionHash, channel, ts, thread } = row;
      return { deployment, request, actionHash, card: { channel, ts, thread } };
    }
    if (Date.now() > deadline) throw new Error('no request came to wait for a decision');
    await pause(50);
  }
}

function post(
  agent: Agent,
  port: number,
  secret: string,
  body: Uint8Array,
  contentType: string,
): Promise<number> {
  const timestamp = String(Math.floor(Date.now() / 1_000));
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        agent,
        host: '127.0.0.1',
        port,
        path: '/slack/events',
        method: 'POST',
        headers: {
          'content-type': contentType,
          'content-length': body.length,
          'x-slack-request-timestamp': timestamp,
          'x-slack-signature': signatureOf(secret, timestamp, body),
        },
      },
      (answer) => {
        answer.resume();
        answer.once('end', () => resolve(answer.statusCode ?? 0));
        answer.once('error', reject);
      },
    );
    // The server may close an idle connection just when it is used again, as it may to anybody.
    sent.once('error', (error) =>
      sent.reusedSocket ? resolve(post(agent, port, secret, body, contentType)) : reject(error),
    );
    sent.end(body);
  });
}
