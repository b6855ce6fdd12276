/**
 * The product's side of the benchmark `edge`, in a process of its own: the real receiver, door, inbox, Bolt, desk, engine and sealer over one
 * database. Run by bench/edge.ts with the database's URL and the address of the Slack stand-in; prints nothing, tells its port over its channel.
 *
 * Two things are not the product's. A task's workflow is one step, because the benchmark is of the edge and an agent's turns would be its
 * stand-in's speed; and what Slack is owed is written down but not sent, because Slack takes one message a second per channel whatever we do.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import { createBot } from '../../src/bot/app.ts';
import { HttpReceiver } from '../../src/bot/http-receiver.ts';
import { createIngest, STORE_TIMEOUT_MS } from '../../src/bot/ingest.ts';
import { createMessenger } from '../../src/bot/messenger.ts';
import { activatePolicy, deploymentId, policyInForce } from '../../src/jobs/definitions.ts';
import { createDesk } from '../../src/jobs/desk.ts';
import { connectDatabase } from '../../src/jobs/engine/db.ts';
import { openEngine } from '../../src/jobs/engine/engine.ts';
import { workflow } from '../../src/jobs/engine/workflow.ts';
import { startInbox, storeRequest } from '../../src/jobs/inbox.ts';
import { startSealer } from '../../src/jobs/ledger.ts';
import { createLogger } from '../../src/log.ts';
import { ACK_ACQUIRE_MS, ACK_CONNECTIONS, CONNECTIONS } from '../../src/main.ts';
import { firstPolicy, parsePolicyPeople } from '../../src/policies/first-policy.ts';
import { WORKSPACE } from '../world.ts';
import { BOT, POLICY, SIGNING_SECRET } from './slack.ts';

/** Runs that work meanwhile, and how long each of their steps waits for its outside. */
const BACKGROUND_RUNS = 50;
const OUTSIDE_MS = 250;

const [url, slackApiUrl] = process.argv.slice(2);
if (url === undefined || slackApiUrl === undefined) throw new Error('a URL and an address are needed');
const log = createLogger({ level: 'error', destination: process.stderr });
const database = connectDatabase({ url, log, maxConnections: CONNECTIONS });
const ackDatabase = connectDatabase({
  url,
  log,
  maxConnections: ACK_CONNECTIONS,
  acquireTimeoutMs: ACK_ACQUIRE_MS,
  statementTimeoutMs: STORE_TIMEOUT_MS,
  name: 'countersign-ack',
});
const version = firstPolicy(parsePolicyPeople(POLICY)).version;
await database.transaction((tx) =>
  activatePolicy(tx, WORKSPACE, { version, content: POLICY }, 'bench', 'benchmark'),
);

let ending = false;
const engine = await openEngine({
  database,
  log,
  // As many as work meanwhile, and the default for what comes in.
  slots: BACKGROUND_RUNS + 10,
  workflows: [
    workflow({
      name: 'handle-task',
      version: 1,
      input: z.object({ taskId: z.uuid() }),
      body: (step) => step.run('done', async () => null),
    }),
    workflow({
      name: 'background',
      version: 1,
      input: z.object({ n: z.number() }),
      async body(step) {
        for (let n = 0; !ending; n += 1) await step.run(`step-${n}`, () => pause(OUTSIDE_MS, { n }));
      },
    }),
  ],
});
await engine.work();
const policyOf = policyInForce((content) => firstPolicy(parsePolicyPeople(content)));
const messenger = createMessenger({ botToken: BOT.token, log, slackApiUrl });
const desk = createDesk({
  database,
  engine,
  policyOf,
  deploymentId: await deploymentId(database),
  tools: [],
  timeZone: 'Etc/UTC',
});
const receiver = new HttpReceiver({
  ingest: createIngest({
    store: (row, deadline) => storeRequest(ackDatabase, row, deadline),
    signingSecrets: [SIGNING_SECRET],
    nowSeconds: () => Math.floor(Date.now() / 1_000),
  }),
  ready: async () => ({ ok: true, detail: {} }),
  log,
  port: 0,
  host: '127.0.0.1',
});
const bot = createBot({
  botToken: BOT.token,
  botId: BOT.botId,
  botUserId: BOT.userId,
  deploymentId: 'bench',
  desk,
  messenger,
  log,
  receiver,
  slackApiUrl,
});
startInbox({ database, bell: engine.bell, workerId: engine.workerId, log, route: (row) => bot.route(row) });
startSealer(database, log);
const { port } = await receiver.start();

process.on('message', (word) => {
  if (word === 'work') void work();
  if (word === 'rest') ending = true;
});
// The database goes with whoever started this.
process.on('disconnect', () => process.exit(0));
process.send?.({ port });

async function work(): Promise<void> {
  for (let n = 0; n < BACKGROUND_RUNS; n += 1)
    await database.transaction((tx) =>
      engine.start(tx, {
        workspaceId: WORKSPACE,
        workflowName: 'background',
        input: { n },
        origin: 'signal',
        runKey: `background:${n}`,
      }),
    );
  process.send?.('working');
}
