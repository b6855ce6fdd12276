/**
 * The fuzz itself. Every case goes through the door (signature, parser, forms given back) in this process; a share of them goes the whole
 * way: signed, over HTTP, to the running product with its PostgreSQL, and what that stores through Bolt and the desk to its end.
 *
 * What counts as a breach: an answer other than 200 and 4xx; anything thrown, rejected unheard or crashed; a stored row that cannot be stored
 * as it is, holds a token or an address to answer to, or that Socket Mode would read otherwise; a row that does not end handled; a run
 * from what asks for no work by the judge's own reading; any decision; memory that grows.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { type InboundRow, parseEnvelope } from '../../src/bot/inbound.ts';
import { createIngest } from '../../src/bot/ingest.ts';
import { mendForm } from '../../src/bot/mending.ts';
import { anyCase, type Case, FORM_TYPE } from './changes.ts';
import { CONNECTIONS, openRig, type Rig, signatureOf } from './rig.ts';
import { genuineRejection } from './shapes.ts';

/** Cases per property of fast-check: a breach shrinks within its chunk. */
const CHUNK = 1_000;
/** After garbage collection, from a tenth of the way to the end. Caches that fill once lie before that. */
const MAX_GROWTH_BYTES = 12 * 1_048_576;
const MAX_BREACHES = 20;
const HANDLED_MS = 120_000;
const NOW_SECONDS = 1_800_000_000;

export interface FuzzOptions {
  readonly runs: number;
  readonly seed: number;
  /** One in so many goes the whole way. */
  readonly wholeWayOneIn: number;
  readonly onProgress: (line: string) => void;
}

export interface FuzzReport {
  readonly ok: boolean;
  readonly seed: number;
  readonly runs: number;
  readonly wholeWay: number;
  /** Outcomes at the door, and statuses of the whole way. */
  readonly outcomes: Readonly<Record<string, number>>;
  readonly statuses: Readonly<Record<string, number>>;
  readonly pristine: number;
  readonly handledRows: number;
  readonly tasks: number;
  readonly heapGrowthBytes: number;
  readonly seconds: number;
  readonly perSecond: number;
  readonly breaches: readonly string[];
}

export async function runFuzz(options: FuzzOptions): Promise<FuzzReport> {
  const startedAt = performance.now();
  const breaches: string[] = [];
  const breach = (what: string) => {
    if (breaches.length < MAX_BREACHES) breaches.push(what.slice(0, 2_000));
  };
  const crashed = (error: unknown) => breach(`thrown and not caught: ${describe(error)}`);
  process.on('uncaughtException', crashed);
  process.on('unhandledRejection', crashed);
  const rig = await openRig();
  try {
    return await fuzz(options, rig, breach, breaches, startedAt);
  } finally {
    await rig.close();
    process.off('uncaughtException', crashed);
    process.off('unhandledRejection', crashed);
  }
}

async function fuzz(
  { runs, seed, wholeWayOneIn, onProgress }: FuzzOptions,
  rig: Rig,
  breach: (what: string) => void,
  breaches: readonly string[],
  startedAt: number,
): Promise<FuzzReport> {
  const outcomes: Record<string, number> = {};
  const statuses: Record<string, number> = {};
  let pristine = 0;
  let wholeWay = 0;
  let done = 0;
  const asked = new Set<string>();
  const before = await tally(rig);

  let stored: InboundRow | undefined;
  const secret = randomBytes(16).toString('hex');
  const ingest = createIngest({
    signingSecrets: [randomBytes(16).toString('hex'), secret],
    store: async (row) => {
      stored = row;
      return 'stored';
    },
    mend: mendForm,
    nowSeconds: () => NOW_SECONDS,
  });
  const atTheDoor = async (one: Case): Promise<void> => {
    stored = undefined;
    const { outcome, status } = await ingest(one.body, {
      'content-type': one.contentType,
      'x-slack-request-timestamp': String(NOW_SECONDS),
      'x-slack-signature': signatureOf(secret, String(NOW_SECONDS), one.body),
    });
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    if (status !== 200 && status !== 400) throw new Error(`answered ${status}`);
    if (one.isPristine && status !== 200) throw new Error('refused although Slack sends it so');
    if (stored !== undefined) checkRow(stored, one);
  };

  const beganAt = performance.now();
  let heapEarly: number | undefined;
  for (let chunk = 0; done < runs; chunk += 1) {
    const sending: Case[] = [];
    const size = Math.min(CHUNK, runs - done);
    const result = await fc.check(
      fc.asyncProperty(anyCase(rig.real), async (one) => {
        await atTheDoor(one);
        done += 1;
        if (one.isPristine) pristine += 1;
        if (done % wholeWayOneIn === 0) sending.push(one);
      }),
      { seed: seed + chunk, numRuns: size, endOnFailure: false },
    );
    if (result.failed)
      breach(
        `seed ${seed + chunk} path ${result.counterexamplePath}: ${describe(result.errorInstance)} in ${show(result.counterexample?.[0])}`,
      );
    // What fast-check tried in order to shrink is not counted.
    done = chunk * CHUNK + size;
    wholeWay += sending.length;
    await sendAll(rig, sending, asked, statuses, breach);
    if (heapEarly === undefined && done >= runs / 10) {
      await handled(rig);
      heapEarly = await heapAfterGc();
    }
    if (chunk % 20 === 19) {
      const rate = Math.round((done * 1_000) / (performance.now() - beganAt));
      onProgress(`${done} of ${runs}, ${rate}/s, ${wholeWay} the whole way, ${breaches.length} breaches`);
    }
    if (breaches.length >= MAX_BREACHES) break;
  }
  const left = await handled(rig);
  if (left.length > 0) for (const row of left) breach(`a row did not end handled: ${row}`);
  const heapGrowthBytes = (await heapAfterGc()) - (heapEarly ?? 0);
  if (heapGrowthBytes > MAX_GROWTH_BYTES) breach(`the heap grew by ${heapGrowthBytes} bytes`);
  const after = await judge(rig, asked, before, breach);
  const ms = performance.now() - startedAt;
  return {
    ok: breaches.length === 0,
    seed,
    runs: done,
    wholeWay,
    outcomes,
    statuses,
    pristine,
    handledRows: after.handled,
    tasks: after.tasks,
    heapGrowthBytes,
    seconds: Math.round(ms / 100) / 10,
    perSecond: Math.round((done * 1_000) / (performance.now() - beganAt)),
    breaches,
  };
}

function checkRow(row: InboundRow, one: Case): void {
  const kept = JSON.stringify(row.payload);
  if (!/^[A-Z0-9]{1,64}$/.test(row.workspaceId)) throw new Error(`kept for workspace ${row.workspaceId}`);
  if (!/^(event|interaction|command):./.test(row.dedupeKey) || row.dedupeKey.length > 1_000)
    throw new Error(`kept under ${row.dedupeKey}`);
  if (!isDeepStrictEqual(JSON.parse(kept), row.payload)) throw new Error('kept as JSON cannot hold it');
  if (/\\u0000|\\u[dD][89a-fA-F]/.test(kept.replaceAll('\\\\', '')) || kept.includes('__proto__":'))
    throw new Error('kept what PostgreSQL cannot store');
  // A change may have put the value into somebody's words; then it is those.
  if (/"(?:token|response_url)":/.test(kept)) throw new Error('kept a credential');
  if (one.isPristine && /hooks\.slack\.com|legacy-verification-token/.test(kept))
    throw new Error('kept a credential under another name');
  const type = { event: 'events_api', interaction: 'interactive', command: 'slash_commands' }[row.source];
  const other = parseEnvelope({ type, payload: insideOf(one) });
  if (other.kind !== 'row' || !isDeepStrictEqual(other.row, row))
    throw new Error('Socket Mode reads it otherwise');
}

function insideOf(one: Case): unknown {
  const text = Buffer.from(one.body)
    .toString('utf8')
    .replace(/^\ufeff/, '');
  if (!one.contentType.toLowerCase().startsWith(FORM_TYPE)) return JSON.parse(text);
  const form = new URLSearchParams(text);
  const payload = form.get('payload');
  return payload === null ? Object.fromEntries(form) : JSON.parse(payload);
}

/**
 * The judge's own reading of what asks for work, written apart from the parser: its channel and time, null when nothing does.
 */
function askOf(one: Case): string | null {
  if (one.contentType.toLowerCase().startsWith(FORM_TYPE)) return null;
  try {
    const body = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(one.body));
    const event = body?.event;
    if (body?.type !== 'event_callback' || typeof body.event_id !== 'string') return null;
    if (typeof event?.user !== 'string' || typeof event.channel !== 'string') return null;
    if (typeof event.ts !== 'string' || typeof event.text !== 'string') return null;
    if (event.bot_id != null || event.edited != null) return null;
    if (!['file_share', 'me_message', 'thread_broadcast'].includes(event.subtype ?? 'file_share'))
      return null;
    const isDirect = event.channel.startsWith('D') || event.channel_type === 'im';
    return event.type === (isDirect ? 'message' : 'app_mention') ? `${event.channel} ${event.ts}` : null;
  } catch {
    return null;
  }
}

async function sendAll(
  rig: Rig,
  cases: readonly Case[],
  asked: Set<string>,
  statuses: Record<string, number>,
  breach: (what: string) => void,
): Promise<void> {
  const open = cases.values();
  await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      for (const one of open) {
        const ask = askOf(one);
        if (ask !== null) asked.add(ask);
        try {
          const status = await rig.send(one.body, one.contentType);
          statuses[status] = (statuses[status] ?? 0) + 1;
          if (status !== 200 && status !== 400) breach(`answered ${status} to ${show(one)}`);
        } catch (error) {
          breach(`no answer (${describe(error)}) to ${show(one)}`);
        }
      }
    }),
  );
}

/** Waits until every stored row has ended; what did not end handled. */
async function handled(rig: Rig): Promise<string[]> {
  const deadline = Date.now() + HANDLED_MS;
  for (;;) {
    const { rows } = await rig.db.query<{ status: string; payload: unknown; last_error: string | null }>({
      text: `select status, payload, last_error from inbox where status <> 'handled' limit 5`,
    });
    // A row that fails is a breach at its first failure: later tries would only repeat it.
    if (rows.length === 0) return [];
    if (Date.now() > deadline || rows.every((row) => row.status === 'parked' || row.last_error !== null))
      return rows.map((row) => `${row.status}, ${row.last_error}: ${JSON.stringify(row.payload)}`);
    await pause(100);
  }
}

interface Tally {
  readonly handled: number;
  readonly tasks: number;
  readonly runs: number;
  readonly decisions: number;
  readonly executions: number;
}

async function tally(rig: Rig): Promise<Tally> {
  const { rows } = await rig.db.query<Tally>({
    text: `select (select count(*) from inbox where status = 'handled') as handled, (select count(*) from tasks) as tasks,
             (select count(*) from runs where workflow_name = 'handle-task') as runs, (select count(*) from decisions) as decisions,
             (select count(*) from actions where status in ('permitted', 'executing', 'done', 'failed', 'unknown')) as executions`,
  });
  const row = rows[0];
  if (row === undefined) throw new Error('nothing was counted');
  return row;
}

async function judge(
  rig: Rig,
  asked: ReadonlySet<string>,
  before: Tally,
  breach: (what: string) => void,
): Promise<Tally> {
  const after = await tally(rig);
  if (after.decisions !== 0) breach(`${after.decisions} decisions were recorded`);
  if (after.executions !== 0) breach(`${after.executions} actions were executed`);
  if (after.tasks !== after.runs) breach(`${after.tasks} tasks have ${after.runs} runs`);
  await rig.send(
    Buffer.from(`payload=${encodeURIComponent(JSON.stringify(genuineRejection(rig.real)))}`),
    FORM_TYPE,
  );
  await handled(rig);
  if ((await tally(rig)).decisions !== after.decisions + 1)
    breach('a genuine rejection was not recorded: the forged ones prove nothing');
  const { rows } = await rig.db.query<{ ask: string }>({
    text: `select channel_id || ' ' || message_ts as ask from tasks order by created_at offset $1`,
    values: [before.tasks],
  });
  for (const { ask } of rows) if (!asked.has(ask)) breach(`a task came of what asked for none: ${ask}`);
  return after;
}

let gc: (() => void) | undefined;
async function heapAfterGc(): Promise<number> {
  if (gc === undefined) {
    setFlagsFromString('--expose-gc');
    gc = runInNewContext('gc') as () => void;
  }
  // Finalizers run between turns.
  for (let round = 0; round < 3; round += 1) {
    gc();
    await pause(20);
  }
  return process.memoryUsage().heapUsed;
}

function describe(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}

function show(one: Case | undefined): string {
  if (one === undefined) return 'nothing';
  return `${one.shape} (${one.contentType}): ${Buffer.from(one.body).toString('utf8').slice(0, 1_200)}`;
}
