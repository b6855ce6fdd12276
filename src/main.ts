/**
 * The composition root: makes the rooms know each other, starts and stops them in order. No logic of its own.
 */
import type { AddressInfo } from 'node:net';
import { ENGINEER, ENGINEERS } from './agents/definitions.ts';
import { createEgress, type Egress } from './agents/egress.ts';
import { createModel } from './agents/model.ts';
import { toolsFor } from './agents/tools/index.ts';
import { createBot } from './bot/app.ts';
import { HttpReceiver } from './bot/http-receiver.ts';
import { createEnvelopeIngest, createIngest, STORE_TIMEOUT_MS, type StoreOptions } from './bot/ingest.ts';
import { mendForm } from './bot/mending.ts';
import { createMessenger } from './bot/messenger.ts';
import { socketOpener } from './bot/slack-client.ts';
import { SocketReceiver } from './bot/socket-receiver.ts';
import type { Config } from './config.ts';
import { CountersignError, hasCode } from './errors.ts';
import { readApproval } from './jobs/approval-view.ts';
import { withdrawForCancel } from './jobs/cancelling.ts';
import {
  activatePolicy,
  activePolicyVersion,
  deploymentId,
  ensureWorkspace,
  policyInForce,
  registerAgent,
} from './jobs/definitions.ts';
import { startDeliveries } from './jobs/delivering.ts';
import { deliveryHealth } from './jobs/delivery-queue.ts';
import { createDesk } from './jobs/desk.ts';
import { readDigest, settleDigest } from './jobs/digest.ts';
import { connectDatabase, probeDatabase } from './jobs/engine/db.ts';
import { openEngine } from './jobs/engine/engine.ts';
import { assertMigrated, migrate } from './jobs/engine/migrate.ts';
import { startInbox, startPruning, storeRequest } from './jobs/inbox.ts';
import { slackRegained } from './jobs/installation.ts';
import { startSealer } from './jobs/ledger.ts';
import { startSchedules } from './jobs/schedules.ts';
import { noteParked, taskView } from './jobs/tasks.ts';
import { handleTask, handleTaskFirst } from './jobs/workflows/handle-task.ts';
import { morningDigest } from './jobs/workflows/morning-digest.ts';
import type { Logger } from './log.ts';
import { firstPolicy, parsePolicyPeople } from './policies/first-policy.ts';
import type { Json } from './types.ts';

/** Connections of the ack path alone: storing a request is one short statement. */
export const ACK_CONNECTIONS = 4;
/**
 * Longer than a request is made to wait (ingest answers 503 within a second, FAULTS): the pool gives up a connection that is just being made
 * when its taker's time is over, and on a machine where making one takes a second none would ever be made.
 */
export const ACK_ACQUIRE_MS = 5_000;
/** Connections of everything else. */
export const CONNECTIONS = 16;
/** Together below the 25 s after which the process ends whatever is left (FAULTS). */
const STOP_WORK_MS = 16_000;
/** Part of STOP_WORK_MS: one call to Slack and its record. */
const STOP_SENDING_MS = 11_000;
const STOP_REST_MS = 3_000;
/** After this the product runs on without a connection to Slack, not ready, and keeps trying. */
const FIRST_GREETING_MS = 30_000;
/** Nothing of the policy itself: whoever asks reads it. */
const UNREADABLE_POLICY =
  'this release cannot read the active policy, nothing is judged; use: countersign policy apply --reason "…"';

export interface Product {
  readonly address: AddressInfo;
  /** Stops taking work, finishes or hands over what is in flight within 25 s, closes everything it opened. */
  stop(): Promise<void>;
}

/** Starts the whole product in this process. Throws a CountersignError with one clear line when it cannot. */
export async function startProduct(config: Config, log: Logger): Promise<Product> {
  const people = parsePolicyPeople(config.policy);
  await probeDatabase(config.databaseUrl);
  if (config.databaseAdminUrl === null) await assertMigrated(config.databaseUrl);
  else {
    await probeDatabase(config.databaseAdminUrl);
    const applied = await migrate({
      adminUrl: config.databaseAdminUrl,
      appRole: decodeURIComponent(new URL(config.databaseUrl).username),
    });
    if (applied.length > 0) log.info({ applied }, 'database migrated');
  }

  const messenger = createMessenger({
    botToken: config.slack.botToken,
    log,
    ...(config.slack.apiUrl === null ? {} : { slackApiUrl: config.slack.apiUrl }),
  });
  const identity = await messenger.authTest();

  const database = connectDatabase({ url: config.databaseUrl, log, maxConnections: CONNECTIONS });
  const ackDatabase = connectDatabase({
    url: config.databaseUrl,
    log,
    maxConnections: ACK_CONNECTIONS,
    acquireTimeoutMs: ACK_ACQUIRE_MS,
    statementTimeoutMs: STORE_TIMEOUT_MS,
    name: 'countersign-ack',
  });
  const workspaceId = identity.teamId;
  await ensureWorkspace(database, {
    workspaceId,
    enterpriseId: identity.enterpriseId,
    botUserId: identity.botUserId,
  });
  // It has just taken our token.
  await database.transaction((tx) => slackRegained(tx, workspaceId));
  const deployment = await deploymentId(database);
  await settlePolicy(
    config,
    log,
    (content, reason) =>
      database.transaction((tx) =>
        activatePolicy(
          tx,
          workspaceId,
          { version: firstPolicy(parsePolicyPeople(content)).version, content },
          'start',
          reason,
        ),
      ),
    () => activePolicyVersion(database, workspaceId),
  );
  const policyOf = policyInForce((content) => firstPolicy(parsePolicyPeople(content)));
  await database.transaction((tx) =>
    registerAgent(tx, workspaceId, {
      name: ENGINEER.name,
      version: ENGINEER.version,
      owner: 'admins',
      content: { prompt: ENGINEER.prompt, toolKinds: ENGINEER.toolKinds, riskCeiling: ENGINEER.riskCeiling },
    }),
  );

  const tools = toolsFor({
    baseUrl: config.github.apiUrl,
    token: config.github.token,
    credential: config.github.credential,
  });
  const model = createModel({
    apiKey: config.model.apiKey,
    model: config.model.name,
    label: config.model.label,
    ...(config.model.baseUrl === null ? {} : { baseUrl: config.model.baseUrl }),
  });
  const egress = egressFor(config);
  const person = messenger.person.bind(messenger);
  const forTasks = { database, egress, tools, policyOf, person, agents: ENGINEERS, model };
  const engine = await openEngine({
    database,
    log,
    workflows: [handleTaskFirst(forTasks), handleTask(forTasks), morningDigest({ database })],
    onParked: noteParked,
    onCancel: withdrawForCancel,
    suspendAfterEveryStep: config.suspendAfterEveryStep,
  });
  await engine.work();
  const desk = createDesk({
    database,
    engine,
    policyOf,
    deploymentId: deployment,
    tools,
    timeZone: config.digest.timeZone,
  });
  await database.transaction((tx) =>
    settleDigest(tx, {
      ...config.digest,
      workspaceId,
      // Whoever answers for the installation answers for its digest; without admins the bot itself does.
      owner: people.admins[0] ?? {
        teamId: workspaceId,
        userId: identity.botUserId,
      },
    }),
  );
  const schedules = startSchedules({ database, engine, bell: engine.bell, log });
  const newestAgent = { name: ENGINEER.name, version: ENGINEER.version, modelLabel: model.label };
  const deliveries = startDeliveries({
    database,
    adminsOf: async (db, ws) => (await policyOf(db, ws)).admins,
    bell: engine.bell,
    workerId: engine.workerId,
    messenger,
    log,
    view: async (ws, kind, subjectId) => {
      if (kind === 'task') {
        const task = await taskView(database, ws, subjectId, newestAgent);
        return task && { kind, task };
      }
      if (kind === 'digest') {
        const digest = await readDigest(database, ws, subjectId);
        return digest && { kind, digest };
      }
      const approval = await readApproval(database, ws, subjectId, deployment, tools);
      return approval && { kind, approval };
    },
  });
  const sealer = startSealer(database, log);

  const store: StoreOptions = {
    store: (row, deadline) => storeRequest(ackDatabase, row, deadline),
    mend: mendForm,
  };
  const { receiver: from } = config.slack;
  const sockets =
    from.kind === 'http'
      ? null
      : new SocketReceiver({
          ingest: createEnvelopeIngest(store),
          open: socketOpener({
            appToken: from.appToken,
            log,
            ...(config.slack.apiUrl === null ? {} : { slackApiUrl: config.slack.apiUrl }),
          }),
          log,
        });
  const receiver = new HttpReceiver({
    ingest:
      from.kind === 'socket'
        ? null
        : createIngest({
            ...store,
            signingSecrets: from.signingSecrets,
            nowSeconds: () => Math.floor(Date.now() / 1000),
          }),
    ready: async () => {
      const { rows } = await database.query<{ workflow: string }>({
        text: `select distinct workflow_name || '@' || workflow_version as workflow from runs
               where status not in ('completed', 'failed', 'cancelled')`,
      });
      const known = new Set(engine.versions.map((entry) => `${entry.name}@${entry.version}`));
      const lacking = rows.map((row) => row.workflow).filter((workflow) => !known.has(workflow));
      const isConnected = sockets?.isConnected ?? true;
      const deliveries = await deliveryHealth(database);
      const isJudging = await policyOf(database, workspaceId).then(
        () => true,
        (error: unknown) => {
          if (!hasCode(error, 'CONFIG_INVALID')) throw error;
          return false;
        },
      );
      return {
        ok: lacking.length === 0 && isConnected && deliveries.tokenRefused === null && isJudging,
        detail: {
          database: 'ok',
          ...(isJudging ? {} : { policy: UNREADABLE_POLICY }),
          lackingWorkflows: lacking,
          deliveries,
          ...(sockets === null ? {} : { slack: isConnected ? 'connected' : 'disconnected' }),
        },
      };
    },
    log,
    port: config.port,
    ...(config.host === null ? {} : { host: config.host }),
  });
  const bot = createBot({
    botToken: config.slack.botToken,
    botId: identity.botId,
    botUserId: identity.botUserId,
    deploymentId: deployment,
    desk,
    messenger,
    log,
    receiver,
    ...(config.slack.apiUrl === null ? {} : { slackApiUrl: config.slack.apiUrl }),
  });
  const inbox = startInbox({
    database,
    bell: engine.bell,
    workerId: engine.workerId,
    log,
    route: (row) => {
      if (row.workspaceId === workspaceId) return bot.route(row);
      // Signed with our secret, so the app is installed there too; this installation has neither its token nor its data.
      log.warn(
        { workspace: row.workspaceId, inboxId: row.inboxId },
        'a request of another workspace is left alone',
      );
      return Promise.resolve(async () => undefined);
    },
  });

  const pruning = startPruning({ database, log });

  // Side by side under one bound: a slow Slack and a slow step must not add up past the time a process is given to end.
  const stop = async (): Promise<void> => {
    const endsAt = performance.now() + STOP_WORK_MS;
    // The engine gives our lease back, on which our claims rest: messages on their way to Slack and rows of the inbox come to their end before.
    const stopEngine = Promise.allSettled([
      within(STOP_SENDING_MS, deliveries.stop()),
      within(STOP_SENDING_MS, inbox.stop()),
    ]).then(() => engine.stop(endsAt - performance.now()));
    await Promise.allSettled([
      within(STOP_WORK_MS, receiver.stop()),
      within(STOP_WORK_MS, sockets?.stop() ?? Promise.resolve()),
      within(STOP_WORK_MS, pruning.stop()),
      within(STOP_WORK_MS, schedules.stop()),
      stopEngine,
    ]);
    await Promise.allSettled([within(STOP_REST_MS, sealer.stop())]);
    await Promise.allSettled([
      within(STOP_REST_MS, ackDatabase.close()),
      within(STOP_REST_MS, database.close()),
    ]);
  };
  try {
    const address = await receiver.start();
    if (sockets) await within(FIRST_GREETING_MS, sockets.start());
    return { address, stop };
  } catch (error) {
    await stop();
    throw portTaken(error, config.port);
  }
}

/** Makes sure that a policy is in force: the given one where it may be applied by itself, else the active one, which must then be the same. */
async function settlePolicy(
  config: Config,
  log: Logger,
  activate: (content: Json, reason: string) => Promise<boolean>,
  active: () => Promise<string | null>,
): Promise<void> {
  const given = firstPolicy(parsePolicyPeople(config.policy)).version;
  const current = await active();
  if (current === given) return;
  if (config.applyPolicy || current === null) {
    await activate(config.policy, current === null ? 'first policy of this database' : 'development start');
    log.info({ policy: given }, 'policy activated');
    return;
  }
  log.warn(
    { active: current, file: given },
    'the policy file differs from the active policy and is not applied; use: countersign policy apply --reason "…"',
  );
}

function egressFor(config: Config): Egress {
  const egress = createEgress({ allowedOrigins: [new URL(config.github.apiUrl).origin] });
  if (config.mayWrite) return egress;
  return {
    read: egress.read,
    write() {
      throw new CountersignError(
        'TOOL_REFUSED',
        'Reviewers of the local Slack are nobody: writes to a real service are refused until SLACK_BOT_TOKEN is set',
      );
    },
  };
}

/** Gives up waiting after `boundMs`; what was waited for goes on by itself. */
async function within(boundMs: number, work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const bound = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, boundMs);
  });
  await Promise.race([work, bound]).finally(() => clearTimeout(timer));
}

function portTaken(error: unknown, port: number): unknown {
  if ((error as { code?: unknown } | null)?.code !== 'EADDRINUSE') return error;
  return new CountersignError('CONFIG_INVALID', `Port ${port} is in use; set PORT to a free one`, {
    cause: error,
  });
}
