/**
 * The subject `edge`: how fast Slack is answered while the product works, and whether anything of what was acknowledged is lost.
 *
 * 300 signed events a second, by default for five minutes, on one product process with fifty runs at work; before it, at the same pace, a
 * bare Bolt app that stores each event with one insert. Afterwards every event that was acknowledged has to be a finished run of its own.
 *
 * Invariant: acknowledgements are timed at Slack's end, at a pace that does not wait for them.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { loadavg } from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { openSlackApi, type Sent, sendEvents } from './edge/slack.ts';
import { nextMessage } from './engine/child.ts';
import type { BenchOptions } from './main.ts';
import { type Figure, percentile, printFigure, printTable, say } from './report.ts';
import { type BenchDatabase, openWorld } from './world.ts';

const PER_SECOND = 300;
const DEFAULT_SECONDS = 300;
/** A floor changes little after that. */
const FLOOR_SECONDS = 20;
const WARM_UP = 300;
const WINDOWS = 5;
/** Without one more finished run for so long, what is missing is lost. */
const STUCK_MS = 60_000;

export async function benchEdge({ quiet, only, url, seconds }: BenchOptions): Promise<boolean> {
  const world = await openWorld(url);
  const slack = await openSlackApi();
  const children: ChildProcess[] = [];
  const started = async (file: string, ...args: string[]): Promise<{ child: ChildProcess; port: number }> => {
    const child = fork(path.join(import.meta.dirname, 'edge', file), args, {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    children.push(child);
    const { port } = (await nextMessage(child)) as { port: number };
    return { child, port };
  };
  try {
    if (!quiet) say(`load before: ${loadavg()[0]?.toFixed(2)}`);
    const length = seconds ?? DEFAULT_SECONDS;
    const database = await world.database();

    const bare = await started('bare-app.ts', database.url);
    await sendEvents(bare.port, { count: WARM_UP, perSecond: PER_SECOND, from: 0 });
    const floorCount = PER_SECOND * Math.min(length, FLOOR_SECONDS);
    const floor = await sendEvents(bare.port, { count: floorCount, perSecond: PER_SECOND, from: WARM_UP });
    bare.child.disconnect();
    await once(bare.child, 'exit');

    const product = await started('product.ts', database.url, slack.url);
    const warm = await sendEvents(product.port, { count: WARM_UP, perSecond: PER_SECOND, from: 0 });
    product.child.send('work');
    await nextMessage(product.child);
    const before = await stepsOf(database);
    const count = PER_SECOND * length;
    const sent = await sendEvents(product.port, { count, perSecond: PER_SECOND, from: WARM_UP });
    const steps = (await stepsOf(database)) - before;
    const finishedMeanwhile = (await countsOf(database)).finished;
    const drainingSince = performance.now();
    product.child.send('rest');
    const counts = await drained(database, quiet);
    const drainSeconds = (performance.now() - drainingSince) / 1_000;

    const acked = ackedOf(sent);
    const figures = [
      ackFigure('ack-p50', 0.5, sent, floor, 10),
      ackFigure('ack-p99', 0.99, sent, floor, 100),
      ackFigure('ack-max', 1, sent, floor, 1_500),
      exact('refused', count - acked, 0, 'events'),
      exact('lost', ackedOf(warm) + acked - counts.finished, 0, 'events'),
      exact('not-distinct', counts.events - counts.finished, 0, 'runs'),
      shown('finished-meanwhile', finishedMeanwhile, 'runs'),
      shown('steps-meanwhile', steps, 'steps'),
      shown('drained-after', drainSeconds, 's'),
    ].filter(({ name }) => only === undefined || name.startsWith(only));
    for (const one of figures) printFigure(one);
    if (!quiet) printTable(figures);
    return figures.every(({ ok }) => ok);
  } finally {
    for (const child of children) if (child.connected) child.disconnect();
    await slack.close();
    await world.close();
  }
}

function ackedOf(sent: readonly Sent[]): number {
  return sent.filter(({ status }) => status === 200).length;
}

/** The value is over all events; the rounds are its windows, in order, so that a slow phase shows. */
function ackFigure(
  name: string,
  share: number,
  sent: readonly Sent[],
  floor: readonly Sent[],
  mostMs: number,
): Figure {
  const of = (some: readonly Sent[]) =>
    percentile(
      some.map(({ ackMs }) => ackMs),
      share,
    );
  const window = Math.ceil(sent.length / WINDOWS);
  const rounds = Array.from({ length: WINDOWS }, (_, n) => of(sent.slice(n * window, (n + 1) * window)));
  const value = of(sent);
  const atFloor = of(floor);
  return {
    name,
    value: rounded(value),
    unit: 'ms',
    floor: rounded(atFloor),
    ratio: rounded(value / atFloor),
    target: `< ${mostMs} ms`,
    ok: value < mostMs,
    rounds: rounds.map(rounded),
    floorRounds: [rounded(atFloor)],
  };
}

function exact(name: string, value: number, wanted: number, unit: string): Figure {
  return { ...shown(name, value, unit), target: String(wanted), ok: value === wanted };
}

function shown(name: string, value: number, unit: string): Figure {
  const figure = { name, value: rounded(value), unit, floor: null, ratio: null, target: null, ok: true };
  return { ...figure, rounds: [rounded(value)], floorRounds: [] };
}

function rounded(value: number): number {
  return Number(value.toFixed(value < 100 ? 2 : 0));
}

interface Counts {
  /** Inbox rows that are not handled yet. */
  readonly open: number;
  /** Distinct events stored. */
  readonly events: number;
  /** Finished runs that came from one. */
  readonly finished: number;
}

async function countsOf(database: BenchDatabase): Promise<Counts> {
  const [row] = await database.ask<{ open: string; events: string; finished: string }>(
    `select (select count(*) from inbox where status <> 'handled') as open, (select count(distinct dedupe_key) from inbox) as events,
       (select count(*) from runs where workflow_name = 'handle-task' and status = 'completed') as finished`,
  );
  return { open: Number(row?.open), events: Number(row?.events), finished: Number(row?.finished) };
}

async function stepsOf(database: BenchDatabase): Promise<number> {
  const [row] = await database.ask<{ steps: string }>(
    `select count(*) as steps from steps s join runs r on r.workspace_id = s.workspace_id and r.run_id = s.run_id
     where r.workflow_name = 'background'`,
  );
  return Number(row?.steps);
}

/** Waits until everything stored is finished, or nothing moves any more. */
async function drained(database: BenchDatabase, quiet: boolean): Promise<Counts> {
  let last = await countsOf(database);
  let movedAt = performance.now();
  while (last.open > 0 || last.finished < last.events) {
    await pause(1_000);
    const now = await countsOf(database);
    if (now.finished > last.finished || now.open < last.open) movedAt = performance.now();
    if (performance.now() - movedAt > STUCK_MS) return now;
    last = now;
    if (!quiet) say(`${now.finished} of ${now.events} events are finished runs`);
  }
  return last;
}
