/**
 * The subject `engine`: what a durable run costs over what the database allows.
 */
import { loadavg } from 'node:os';
import { enqueue, eventWake } from './engine/latency.ts';
import { sleeps } from './engine/sleep.ts';
import { flatCost, resume } from './engine/steps.ts';
import { restart, takeover } from './engine/takeover.ts';
import { backlog, throughput } from './engine/throughput.ts';
import { waiting } from './engine/waiting.ts';
import type { BenchOptions } from './main.ts';
import { type Figure, printFigure, printTable, say } from './report.ts';
import { openWorld, SetupRefused, type World } from './world.ts';

/** In the order they are measured; a name is the common beginning of its figures' names. */
const FIGURES: readonly { readonly name: string; measure(world: World): Promise<Figure | Figure[]> }[] = [
  { name: 'throughput', measure: throughput },
  { name: 'backlog', measure: backlog },
  { name: 'event-wake', measure: eventWake },
  { name: 'enqueue', measure: enqueue },
  { name: 'flat-step-cost', measure: flatCost },
  { name: 'resume', measure: resume },
  { name: 'waiting', measure: waiting },
  { name: 'sleep', measure: sleeps },
  { name: 'takeover', measure: takeover },
  { name: 'restart', measure: restart },
];

/** Prints every figure as it is measured; resolves to whether every target was met. Throws SetupRefused. */
export async function benchEngine({ quiet, only, url }: BenchOptions): Promise<boolean> {
  const wanted = FIGURES.filter(
    ({ name }) => only === undefined || only.startsWith(name) || name.startsWith(only),
  );
  if (wanted.length === 0)
    throw new SetupRefused(`no figure ${only}; one of: ${FIGURES.map(({ name }) => name).join(', ')}`, 1);
  const world = await openWorld(url);
  const figures: Figure[] = [];
  try {
    if (!quiet) say(`load before: ${loadavg()[0]?.toFixed(2)}`);
    for (const { name, measure } of wanted) {
      if (!quiet) say(`measuring ${name} …`);
      for (const measured of [await measure(world)].flat()) {
        figures.push(measured);
        printFigure(measured);
      }
    }
  } finally {
    await world.close();
  }
  if (!quiet) printTable(figures);
  return figures.every(({ ok }) => ok);
}
