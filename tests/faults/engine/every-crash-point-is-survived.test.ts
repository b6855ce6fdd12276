/**
 * Guarantee: wherever in a run its process dies, another process finishes the run as if nothing had happened. At every step and wait: before
 * it, after its effect but before its record, and after its record; and with every effect and every record done twice. The outside sees
 * each effect under one key, the result is the undisturbed run's, the journal has the same paths and one writer at a time.
 *
 * The points are not listed here: they are read from the journal of a run that nobody disturbed.
 */
import { expect, test } from 'vitest';
import type { RunRef } from '../../../src/types.ts';
import { useDatabase } from '../../support/database.ts';
import { type Entry, type Look, useMatrix } from './matrix.ts';
import { watchRecords } from './records.ts';
import type { Death } from './worker.ts';

/** Before the effect; after it, before its record; after the record was committed. */
const POINTS = ['before', 'after-effect', 'after-record'] as const;
type Point = (typeof POINTS)[number];

/** Processes at a time: two cores. */
const PROCESS_LANES = 2;
/** Engines at a time in this process; most of their time they wait. */
const ENGINE_LANES = 8;

const base = useDatabase();
const matrix = useMatrix(base);

let known: Promise<Look> | undefined;
/** The run that everything is compared with, made once. */
function undisturbed(): Promise<Look> {
  known ??= (async () => {
    await matrix.prepare(['undisturbed']);
    const worker = await matrix.process({ workflows: ['undisturbed'] });
    const look = await matrix.ended(await matrix.start('undisturbed'));
    await worker.end();
    expect(look).toMatchObject({ status: 'completed', openWaits: [], outOfOrder: 0 });
    return look;
  })();
  return known;
}

for (const point of POINTS)
  test(`killed ${point.replaceAll('-', ' ')}, at every path: another process finishes the run`, async () => {
    const model = await undisturbed();
    const runs = new Map<string, RunRef>();
    const workflows = model.journal.map((entry) => nameFor(point, model, entry));
    await matrix.prepare(workflows);
    await inLanes(PROCESS_LANES, model.journal, async (entry) => {
      const workflow = nameFor(point, model, entry);
      const death = deathAt(point, entry);
      const worker = await matrix.process({
        workflows: [workflow],
        death,
      });
      const run = await matrix.start(workflow);
      runs.set(entry.path, run);
      const { signal, said } = await worker.ended;

      expect
        .soft({ signal, said })
        .toEqual({ signal: 'SIGKILL', said: `died at ${death.at} ${death.path}\n` });
      expectDiedAt(point, entry, model, await matrix.look(run));
    });

    const heir = await matrix.process({ workflows });
    for (const entry of model.journal) {
      const look = await matrix.ended(runs.get(entry.path) as RunRef);

      expectAsUndisturbed(`${point}:${entry.path}`, model, look);
      const calls = look.calls[entry.path]?.calls;
      if (calls !== undefined) expect.soft(calls, entry.path).toBe(point === 'after-effect' ? 2 : 1);
    }
    await heir.end();
  });

test('an effect that its body repeats comes under the same key', async () => {
  const model = await undisturbed();
  const effects = Object.keys(model.calls);
  expect(effects.length).toBeGreaterThan(0);
  await matrix.prepare(effects.map((_, index) => `twice-${index}`));
  await inLanes(ENGINE_LANES, effects, async (path, index) => {
    const workflow = `twice-${index}`;
    const engine = await matrix.engine(base.db, workflow, { twice: path });
    await engine.work();

    const look = await matrix.ended(await matrix.start(workflow));

    await engine.stop();
    expectAsUndisturbed(`twice:${path}`, model, look);
    expect.soft(look.calls[path], path).toEqual({ calls: 2, keys: 1 });
  });
});

test('a record that the database undid before its commit is written again', async () => {
  const model = await undisturbed();
  const undone = await withTrouble(model, 'undone', (once) => ({
    onSent: once(() => Object.assign(new Error('deadlock detected'), { code: '40P01' })),
  }));
  // A step with an effect is journaled by a statement of its own, which has nothing to be undone with.
  const inTransactions = model.journal.filter((entry) => entry.kind !== 'run');
  expect(undone).toEqual(inTransactions.map((entry) => entry.path));
});

test('a record whose answer was lost is not written again', async () => {
  const model = await undisturbed();
  const lost = await withTrouble(model, 'lost', (once) => ({
    onCommitted: once(() => new Error('Connection terminated unexpectedly')),
  }));
  expect(lost).toEqual(model.journal.map((entry) => entry.path));
});

/** Runs the workflow once for each path, with trouble at that path's record; returns the paths that had it. */
async function withTrouble(
  model: Look,
  name: string,
  trouble: (once: (error: () => Error) => () => Promise<void>) => {
    onSent?: () => Promise<void>;
    onCommitted?: () => Promise<void>;
  },
): Promise<string[]> {
  const struck = new Set<string>();
  await matrix.prepare(model.journal.map((_, index) => `${name}-${index}`));
  await inLanes(ENGINE_LANES, model.journal, async ({ path }, index) => {
    const workflow = `${name}-${index}`;
    const once = (error: () => Error) => async () => {
      if (struck.has(path)) return;
      struck.add(path);
      throw error();
    };
    const engine = await matrix.engine(watchRecords(base.db, { path, ...trouble(once) }), workflow);
    await engine.work();

    const look = await matrix.ended(await matrix.start(workflow));

    await engine.stop();
    expectAsUndisturbed(`${name}:${path}`, model, look);
  });
  return model.journal.map((entry) => entry.path).filter((path) => struck.has(path));
}

/** At death the journal holds what comes before this point in its branch, and nothing that comes after it. */
function expectDiedAt(point: Point, entry: Entry, model: Look, look: Look): void {
  const where = `${point}:${entry.path}`;
  const place = model.journal.findIndex(({ path }) => path === entry.path);
  const journaled = new Set([...look.journal.map(({ path }) => path), ...look.openWaits]);
  for (const [index, other] of model.journal.entries()) {
    const { path } = other;
    if (!isOrdered(other, entry)) continue;
    const expected = index < place || (index === place && point === 'after-record');
    expect.soft(journaled.has(path), `${where}: ${path} journaled`).toBe(expected);
  }
  if (!hasBody(entry)) return;
  const isDone = point !== 'before';
  if (entry.path in model.calls)
    expect.soft(look.calls[entry.path]?.calls ?? 0, `${where}: calls`).toBe(isDone ? 1 : 0);
  if (entry.kind === 'transact')
    expect
      .soft(look.counters[entry.path], `${where}: counter`)
      .toBe(point === 'after-record' ? 1 : undefined);
}

function expectAsUndisturbed(where: string, model: Look, look: Look): void {
  expect.soft(look.status, where).toBe('completed');
  expect.soft(look.output, where).toEqual(model.output);
  const sorted = (journal: readonly Entry[]) => journal.map((entry) => JSON.stringify(entry)).sort();
  expect.soft(sorted(look.journal), where).toEqual(sorted(model.journal));
  expect.soft(look.childStatuses, where).toEqual(model.childStatuses);
  expect.soft(look.openWaits, where).toEqual([]);
  expect.soft(look.outOfOrder, where).toBe(0);
  expect.soft(look.counters, where).toEqual(model.counters);
  expect.soft(Object.keys(look.calls).sort(), where).toEqual(Object.keys(model.calls).sort());
  for (const [path, { keys }] of Object.entries(look.calls)) expect.soft(keys, `${where}: ${path}`).toBe(1);
}

/**
 * Whether one of two entries always comes before the other: they stand in one branch, or one stands in a branch of the other's. Not a step
 * and what its children do: it stands open all the while.
 */
function isOrdered(one: Entry, other: Entry): boolean {
  if (one.branch.startsWith(`${other.path}/`) || other.branch.startsWith(`${one.path}/`)) return false;
  return one.branch.startsWith(other.branch) || other.branch.startsWith(one.branch);
}

/**
 * Where the process ends itself. What has no body of the workflow's (waits, sent events) is interrupted at its record; what a transaction
 * did is recorded in it, so its last moment before the record is the one before that statement.
 */
function deathAt(point: Point, entry: Entry): Death {
  const { path } = entry;
  switch (point) {
    case 'before':
      return { path, at: hasBody(entry) ? 'before' : 'sending' };
    case 'after-effect':
      if (entry.kind === 'run') return { path, at: 'after-effect' };
      return { path, at: entry.kind === 'transact' ? 'sending' : 'sent' };
    case 'after-record':
      return { path, at: 'committed' };
    default:
      return point satisfies never;
  }
}

function hasBody({ kind }: Entry): boolean {
  return kind === 'run' || kind === 'transact';
}

function nameFor(point: Point, model: Look, entry: Entry): string {
  return `${point}-${model.journal.findIndex(({ path }) => path === entry.path)}`;
}

async function inLanes<T>(
  lanes: number,
  items: readonly T[],
  work: (item: T, index: number) => Promise<void>,
): Promise<void> {
  const left = [...items.entries()];
  const lane = async () => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) await work(next[1], next[0]);
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}
