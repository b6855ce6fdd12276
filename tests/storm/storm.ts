/**
 * A storm of Slack events over three processes of the product on one database: each event delivered one to four times, in any order, to any
 * of the three, again and again until it is acknowledged, as Slack does. Meanwhile one process is killed and PostgreSQL is stopped and
 * started. Afterwards the rows are counted from outside.
 *
 * What counts as a breach: an event that was acknowledged and has not become exactly one task with exactly one run; a run that does not
 * come to its end; a process that does not serve within five seconds after PostgreSQL accepts connections; an answer other than 200 and 503.
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
import { type ChaosServer, openServer } from '../chaos/server.ts';
import { freePort, type Spawned, spawnProduct } from '../support/spawn.ts';

export const PROCESSES = 3;
const MAX_COPIES = 4;
/** One in so many messages also comes as another event: a twin, of the same message. */
const TWIN_ONE_IN = 25;
const CONNECTIONS = 24;
/** Slack waits minutes; what counts is that it comes again. */
const AGAIN_AFTER_MS = 300;
/** FAULTS: serving within 5 s after PostgreSQL accepts connections. */
const MAX_RECOVERY_MS = 5_000;
const DOWN_MS = 400;
const STILL_MS = 60_000;
const REQUEST_MS = 10_000;

export interface StormOptions {
  readonly events: number;
  readonly seed: number;
  readonly kills: number;
  readonly pgStops: number;
  readonly onProgress: (line: string) => void;
}

export interface StormReport {
  readonly ok: boolean;
  readonly seed: number;
  readonly events: number;
  readonly deliveries: number;
  readonly twins: number;
  /** Deliveries that had to be repeated, by what they met. */
  readonly repeated: Readonly<Record<string, number>>;
  readonly kills: number;
  readonly pgStops: number;
  readonly slowestRecoveryMs: number;
  readonly sentSeconds: number;
  readonly endedSeconds: number;
  readonly counted: Counted;
  readonly breaches: readonly string[];
}

export interface Counted {
  readonly rows: number;
  readonly handled: number;
  readonly redelivered: number;
  readonly tasks: number;
  readonly messages: number;
  readonly runs: number;
  readonly ended: number;
  readonly accepted: number;
}

interface Delivery {
  readonly eventId: string;
  readonly body: string;
}

export async function runStorm(options: StormOptions): Promise<StormReport> {
  const stateDir = await mkdtemp(path.join(tmpdir(), 'countersign-storm-'));
  const worldDir = path.join(stateDir, 'world');
  const undo: (() => unknown)[] = [() => rm(stateDir, { recursive: true, force: true })];
  try {
    const [server, world] = await Promise.all([openServer(stateDir), launchWorld({ stateDir: worldDir })]);
    undo.push(
      () => server.close(),
      () => stopWorld(worldDir),
    );
    const ports = await Promise.all(Array.from({ length: PROCESSES }, freePort));
    const fleet: (Spawned | undefined)[] = [];
    const start = (port: number) =>
      spawnProduct({
        stateDir,
        port,
        env: {
          DATABASE_URL: server.appUrl,
          DATABASE_ADMIN_URL: server.adminUrl,
        },
      });
    undo.push(async () => {
      for (const one of fleet) one?.signal('SIGKILL');
      await Promise.all(fleet.map((one) => one?.exited));
    });
    // Together: one of them migrates, the others wait.
    const started = await Promise.allSettled(
      ports.map(async (port, index) => {
        fleet[index] = await start(port);
      }),
    );
    for (const one of started) if (one.status === 'rejected') throw one.reason;
    options.onProgress(`${PROCESSES} processes serve`);
    const log = createLogger({ level: 'silent' });
    const db = connectDatabase({ url: server.appUrl, log, maxConnections: 2, name: 'judge' });
    undo.push(() => db.close());
    const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
    undo.push(() => agent.destroy());
    return await storm(options, {
      server,
      db,
      ports,
      send: (port, body) => post(agent, port, world.slack.signingSecret, body),
      async restart(index) {
        const old = fleet[index];
        old?.signal('SIGKILL');
        await old?.exited;
        fleet[index] = await start(ports[index] ?? 0);
      },
    });
  } finally {
    for (const step of undo.splice(0).reverse()) await step();
  }
}

interface Stage {
  readonly server: ChaosServer;
  readonly db: Database;
  readonly ports: readonly number[];
  /** The answer's status. Rejects when the connection breaks. */
  send(port: number, body: string): Promise<number>;
  /** Kills a process as the kernel does and starts it again; resolves when it is ready. */
  restart(index: number): Promise<void>;
}

async function storm(options: StormOptions, stage: Stage): Promise<StormReport> {
  const { events, seed, onProgress } = options;
  const random = randomFrom(seed);
  const breaches: string[] = [];
  const breach = (what: string) => {
    if (breaches.length < 20) breaches.push(what);
  };
  const { deliveries, twins } = plan(events, random);
  const queue = [...deliveries];
  const repeated: Record<string, number> = {};
  const acknowledged = new Set<string>();
  let open = queue.length;
  let acked = 0;

  const sendOne = async (delivery: Delivery): Promise<void> => {
    const port = stage.ports[Math.floor(random() * PROCESSES)] ?? 0;
    const status = await stage
      .send(port, delivery.body)
      .catch((error: NodeJS.ErrnoException) => error.code ?? 'broken');
    if (status === 200) {
      acknowledged.add(delivery.eventId);
      acked += 1;
      open -= 1;
      return;
    }
    if (typeof status === 'number' && status !== 503) breach(`answered ${status} to ${delivery.eventId}`);
    repeated[status] = (repeated[status] ?? 0) + 1;
    await pause(AGAIN_AFTER_MS);
    // Somewhere behind, as if Slack came back to it later.
    queue.push(delivery);
  };
  const sender = async (): Promise<void> => {
    while (open > 0) {
      const delivery = queue.shift();
      if (delivery === undefined) await pause(5);
      else await sendOne(delivery);
    }
  };

  const startedAt = performance.now();
  const disturbing = disturb(
    options,
    stage,
    random,
    () => acked / deliveries.length,
    deliveries[0]?.body ?? '',
    breach,
  );
  await Promise.all(Array.from({ length: CONNECTIONS }, sender));
  const sentSeconds = secondsSince(startedAt);
  const disturbed = await disturbing;
  onProgress(`${deliveries.length} deliveries acknowledged after ${sentSeconds} s`);

  const counted = await settled(stage.db, events, onProgress);
  const expected: Partial<Counted> = {
    rows: events + twins,
    handled: events + twins,
    tasks: events,
    messages: events,
    runs: events,
    ended: events,
    accepted: events,
  };
  for (const [name, count] of Object.entries(expected))
    if (counted[name as keyof Counted] !== count)
      breach(`${name}: ${counted[name as keyof Counted]} instead of ${count}`);
  if (acknowledged.size !== events + twins) breach(`${acknowledged.size} events were acknowledged`);
  const { rows: lost } = await stage.db.query<{ event_id: string }>({
    text: `select event_id from unnest($1::text[]) as a (event_id)
           where not exists (select 1 from inbox i where i.dedupe_key = 'event:' || event_id and i.status = 'handled') limit 5`,
    values: [[...acknowledged]],
  });
  for (const { event_id } of lost) breach(`${event_id} was acknowledged and is not handled`);
  return {
    ok: breaches.length === 0,
    seed,
    events,
    deliveries: deliveries.length,
    twins,
    repeated,
    ...disturbed,
    sentSeconds,
    endedSeconds: secondsSince(startedAt),
    counted,
    breaches,
  };
}

/** Kills and stops, spread over the storm, one after the other. */
async function disturb(
  { kills, pgStops, onProgress }: StormOptions,
  stage: Stage,
  random: () => number,
  progress: () => number,
  known: string,
  breach: (what: string) => void,
): Promise<{ kills: number; pgStops: number; slowestRecoveryMs: number }> {
  const total = kills + pgStops;
  let slowestRecoveryMs = 0;
  const isKill = new Set(
    Array.from({ length: kills }, (_, index) => Math.floor(((index + 0.5) * total) / kills)),
  );
  for (let index = 0; index < total; index += 1) {
    while (progress() < (index + 0.5) / (total + 1)) await pause(10);
    if (isKill.has(index)) {
      const victim = Math.floor(random() * PROCESSES);
      await stage.restart(victim);
      onProgress(`process ${victim} was killed and serves again`);
      continue;
    }
    await stage.server.interrupt(index % 2 === 0 ? 'immediate' : 'fast', DOWN_MS);
    const acceptsAt = performance.now();
    const recoveries = stage.ports.map(async (port) => {
      // Something it has already: what is asked is whether it can store.
      while ((await stage.send(port, known).catch(() => 0)) !== 200) {
        if (performance.now() - acceptsAt > 4 * MAX_RECOVERY_MS) break;
        await pause(20);
      }
      return performance.now() - acceptsAt;
    });
    const slowest = Math.round(Math.max(...(await Promise.all(recoveries))));
    slowestRecoveryMs = Math.max(slowestRecoveryMs, slowest);
    if (slowest > MAX_RECOVERY_MS) breach(`served only ${slowest} ms after PostgreSQL accepted connections`);
    onProgress(`PostgreSQL was stopped; all serve ${slowest} ms after it accepts connections`);
  }
  return { kills, pgStops, slowestRecoveryMs };
}

/** Waits until rows and runs have come to their end, or nothing has moved for a minute. */
async function settled(db: Database, events: number, onProgress: (line: string) => void): Promise<Counted> {
  let last = '';
  let movedAt = performance.now();
  for (let round = 0; ; round += 1) {
    const counted = await count(db);
    const now = JSON.stringify(counted);
    if (now !== last) movedAt = performance.now();
    last = now;
    const isDone =
      counted.handled === counted.rows && counted.runs === counted.ended && counted.runs >= events;
    if (isDone || performance.now() - movedAt > STILL_MS) return counted;
    if (round % 25 === 24)
      onProgress(
        `${counted.handled} of ${counted.rows} rows handled, ${counted.ended} of ${counted.runs} runs ended`,
      );
    await pause(200);
  }
}

async function count(db: Database): Promise<Counted> {
  const { rows } = await db.query<Counted>({
    text: `select (select count(*) from inbox) as rows, (select count(*) from inbox where status = 'handled') as handled,
             (select coalesce(sum(delivery_count - 1), 0)::bigint from inbox) as redelivered,
             (select count(*) from tasks) as tasks, (select count(distinct (channel_id, message_ts)) from tasks) as messages,
             (select count(*) from runs where workflow_name = 'handle-task') as runs,
             (select count(*) from runs where workflow_name = 'handle-task' and status in ('completed', 'failed', 'cancelled')) as ended,
             (select count(*) from ledger_entries where entry_kind = 'task.accepted') as accepted`,
  });
  if (rows[0] === undefined) throw new Error('nothing was counted');
  return rows[0];
}

function plan(
  events: number,
  random: () => number,
): { readonly deliveries: readonly Delivery[]; readonly twins: number } {
  const deliveries: Delivery[] = [];
  let twins = 0;
  const add = (eventId: string, body: string) => {
    const copies = 1 + Math.floor(random() * MAX_COPIES);
    for (let copy = 0; copy < copies; copy += 1) deliveries.push({ eventId, body });
  };
  for (let index = 0; index < events; index += 1) {
    add(`Ev${index}`, mention(`Ev${index}`, index));
    if (index % TWIN_ONE_IN !== 0) continue;
    twins += 1;
    add(`EvTwin${index}`, mention(`EvTwin${index}`, index));
  }
  for (let index = deliveries.length - 1; index > 0; index -= 1) {
    const other = Math.floor(random() * (index + 1));
    [deliveries[index], deliveries[other]] = [deliveries[other] as Delivery, deliveries[index] as Delivery];
  }
  return { deliveries, twins };
}

function mention(eventId: string, index: number): string {
  const ts = `${1_700_000_000 + index}.000100`;
  return JSON.stringify({
    type: 'event_callback',
    team_id: 'T0LOCAL',
    api_app_id: 'A0LOCAL',
    event_id: eventId,
    event_time: 1_700_000_000 + index,
    authorizations: [
      { team_id: 'T0LOCAL', user_id: 'U0COUNTERSGN', is_bot: true, is_enterprise_install: false },
    ],
    event: {
      type: 'app_mention',
      user: 'U0REQUESTER',
      team: 'T0LOCAL',
      channel: 'C0GENERAL',
      ts,
      event_ts: ts,
      text: `<@U0COUNTERSGN> what about number ${index}?`,
    },
  });
}

function post(agent: Agent, port: number, secret: string, body: string): Promise<number> {
  const timestamp = String(Math.floor(Date.now() / 1_000));
  const signature = createHmac('sha256', secret).update(`v0:${timestamp}:${body}`).digest('hex');
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        agent,
        host: '127.0.0.1',
        port,
        path: '/slack/events',
        method: 'POST',
        timeout: REQUEST_MS,
        headers: {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(body),
          'x-slack-request-timestamp': timestamp,
          'x-slack-signature': `v0=${signature}`,
        },
      },
      (answer) => {
        answer.resume();
        answer.once('end', () => resolve(answer.statusCode ?? 0));
        answer.once('error', reject);
      },
    );
    sent.once('timeout', () => sent.destroy(new Error('no answer')));
    sent.once('error', reject);
    sent.end(body);
  });
}

/** mulberry32: small, even, the same everywhere. */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b_79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

function secondsSince(startedAt: number): number {
  return Math.round((performance.now() - startedAt) / 100) / 10;
}
