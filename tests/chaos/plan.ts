/**
 * What a chaos run is going to do, decided before it starts: which runs, with which parts, when and how often they are started, which
 * events they get, and which faults strike when.
 *
 * Invariant: everything here follows from the options alone. The same seed is the same plan; only the machine's timing differs.
 */
import { createHash } from 'node:crypto';

/** One part of a run's story. Its place in the story names its step, see `nameOf`. */
export type Part =
  /**
   * An outside effect. The first `refusals` calls are refused retryably; it is applied `slowMs` after it came. `checkable`: the outside does
   * not deduplicate.
   */
  | {
      readonly kind: 'effect';
      readonly mode: 'keyed' | 'checkable';
      readonly refusals: number;
      readonly slowMs: number;
    }
  /** Adds one to a row of its own, in the transaction that journals the step. */
  | { readonly kind: 'count' }
  /** `sure`: an event comes well before the deadline. `race`: about then. `never`: none comes. `relayed`: the run itself sends it. */
  | {
      readonly kind: 'event';
      readonly comes: 'sure' | 'race' | 'never' | 'relayed';
      readonly timeoutMs: number;
    }
  | { readonly kind: 'sleep'; readonly durationMs: number }
  | { readonly kind: 'until'; readonly durationMs: number }
  /** Emits the event that the other branch of its relay waits for. */
  | { readonly kind: 'send' }
  /** Two branches: one waits for what the other sends. */
  | { readonly kind: 'relay' }
  /** A step that fails for good; the story catches that and goes on. */
  | { readonly kind: 'refusal' }
  /** The run fails here. */
  | { readonly kind: 'failure' }
  /** An effect that is refused for good, which fails the run, until the outside is mended; then the run is retried. */
  | { readonly kind: 'broken' }
  | { readonly kind: 'branches'; readonly branches: readonly (readonly Part[])[] }
  /** A child run with parts of its own; the story catches its failure, unless that is to be mended. */
  | { readonly kind: 'child'; readonly parts: readonly Part[] }
  /** Child runs of which the first `count` to complete are wanted; the others are cancelled. */
  | { readonly kind: 'race'; readonly count: number; readonly children: readonly (readonly Part[])[] };

/** What a run is given. The label names it, and everything it does outside, independently of ids. */
export interface Story {
  readonly label: string;
  readonly parts: readonly Part[];
}

export interface PlannedRun {
  /** Its label is the run key. */
  readonly story: Story;
  /** The first, and further ones under the same run key. */
  readonly starts: readonly [PlannedStart, ...PlannedStart[]];
  readonly cancel: { readonly atMs: number; readonly by: By } | null;
  readonly pause: { readonly atMs: number; readonly forMs: number } | null;
  readonly events: readonly PlannedEvent[];
  /** How a story with something broken is mended: this long after its failure was seen it is retried by each of these at once. */
  readonly mending: { readonly afterMs: number; readonly by: readonly [By, ...By[]] } | null;
}

/** The worker process that is asked to do it; null: the supervisor does. */
export type By = number | null;

export interface PlannedStart {
  readonly atMs: number;
  readonly by: By;
  /** The worker first starts it in a transaction that is rolled back. */
  readonly isThrownAway: boolean;
}

export interface PlannedEvent {
  readonly by: By;
  readonly key: string;
  readonly atMs: number;
  readonly payload: string;
}

export type PlannedFault =
  | { readonly kind: 'kill'; readonly atMs: number; readonly slot: number; readonly downMs: number }
  | { readonly kind: 'stop'; readonly atMs: number; readonly slot: number; readonly forMs: number }
  | {
      readonly kind: 'postgres';
      readonly atMs: number;
      readonly mode: 'immediate' | 'fast';
      readonly downMs: number;
    };

export interface Plan {
  /** Runs start and faults strike until then; afterwards everything heals. */
  readonly durationMs: number;
  readonly runs: readonly PlannedRun[];
  /** By time. */
  readonly faults: readonly PlannedFault[];
}

export interface PlanOptions {
  readonly runs: number;
  readonly workers: number;
  readonly seed: string;
}

/** Long enough for a process to be stopped past its lease and to come back while runs still start. */
const LEAST_DURATION_MS = 16_000;
/** What two cores carry beside the restarts of workers: with more, most runs would wait for the calm after the faults. */
const RUNS_PER_SECOND = 8;
/** Past the engine's lease of 8 s. */
const STOP_MS = [8_600, 11_500] as const;
/** So long before the end the last outage strikes, and the killing is over. */
const LAST_WORD_MS = 1_000;
/** Far longer than any outage here: a sure event is never late. */
const SURE_MS = 600_000;

export function makePlan(options: PlanOptions): Plan {
  const durationMs = Math.max(LEAST_DURATION_MS, Math.ceil((options.runs / RUNS_PER_SECOND) * 1_000));
  const runs = Array.from({ length: options.runs }, (_, index) =>
    planRun(options, `run-${index}`, (durationMs * index) / options.runs),
  );
  return { durationMs, runs, faults: planFaults(options, durationMs) };
}

function planRun({ seed, workers }: PlanOptions, label: string, startAtMs: number): PlannedRun {
  const random = generator(`${seed}/${label}`);
  const parts = planParts(random, 2 + random.below(5), 0);
  const isBroken = random.chance(0.15);
  if (isBroken) parts.splice(random.below(parts.length + 1), 0, planBroken(random));
  else if (random.chance(0.04)) parts.push({ kind: 'failure' });
  const by = (): By => (random.chance(0.5) ? random.below(workers) : null);
  const story = { label, parts };
  const events: PlannedEvent[] = [];
  for (const { label: teller, parts: told } of storiesOf(story))
    for (const { place, part } of placesOf(told))
      if (part.kind === 'event')
        for (const event of planEvents(random, `${teller}/${place}`, startAtMs, part))
          events.push({ ...event, by: by() });
  const duplicatesAtMs = random.chance(0.25)
    ? Array.from({ length: 1 + random.below(2) }, () =>
        // At once, so that two starters race, or when the run may have ended.
        random.chance(0.5) ? startAtMs : startAtMs + random.between(50, 4_000),
      )
    : [];
  const start = (atMs: number) => ({ atMs, by: by(), isThrownAway: random.chance(0.3) });
  return {
    story,
    starts: [start(startAtMs), ...duplicatesAtMs.map(start)],
    events,
    // What is to be mended must come to its failure first.
    cancel:
      !isBroken && random.chance(0.08) ? { atMs: startAtMs + random.between(0, 2_500), by: by() } : null,
    mending: isBroken
      ? { afterMs: random.between(0, 500), by: random.chance(0.4) ? [by(), by()] : [by()] }
      : null,
    pause: random.chance(0.05)
      ? { atMs: startAtMs + random.between(0, 1_500), forMs: random.between(0, 2_000) }
      : null,
  };
}

function planParts(random: Random, count: number, depth: number): Part[] {
  return Array.from({ length: count }, () => planPart(random, depth));
}

function planPart(random: Random, depth: number): Part {
  const dice = random.below(100);
  if (dice < 32) return planEffect(random);
  if (dice < 48) return { kind: 'count' };
  if (dice < 62) return planWait(random);
  if (dice < 70) return { kind: 'sleep', durationMs: random.below(501) };
  if (dice < 74) return { kind: 'until', durationMs: random.below(501) };
  if (dice < 79) return { kind: 'refusal' };
  if (dice < 83) return { kind: 'relay' };
  if (depth >= 2) return { kind: 'count' };
  if (dice < 91) {
    const branches = planMany(random, 2 + random.below(2), depth);
    return { kind: 'branches', branches };
  }
  if (dice < 96) {
    const parts = planParts(random, 1 + random.below(3), depth + 1);
    if (random.chance(0.15)) parts.push({ kind: 'failure' });
    return { kind: 'child', parts };
  }
  const children = planMany(random, 2 + random.below(2), depth);
  const count = 1 + random.below(children.length);
  // Never first: it waits until it is cancelled.
  if (random.chance(0.5)) children.push([{ kind: 'event', comes: 'never', timeoutMs: SURE_MS }]);
  return { kind: 'race', count, children };
}

/** By itself, in one of several branches, or in a child; other parts around it. */
function planBroken(random: Random): Part {
  const parts = planParts(random, random.below(3), 1);
  parts.splice(random.below(parts.length + 1), 0, { kind: 'broken' });
  const dice = random.below(5);
  if (dice < 2) return { kind: 'broken' };
  if (dice < 3) return { kind: 'child', parts };
  const others = planMany(random, 1 + random.below(2), 0);
  return { kind: 'branches', branches: [dice < 4 ? parts : [{ kind: 'child', parts }], ...others] };
}

function planMany(random: Random, count: number, depth: number): Part[][] {
  return Array.from({ length: count }, () => planParts(random, 1 + random.below(3), depth + 1));
}

function planEffect(random: Random): Part {
  const mode = random.chance(0.7) ? 'keyed' : 'checkable';
  const refusals = random.chance(0.3) ? 1 + random.below(2) : 0;
  // Slow enough to be in hand when its process is stopped, and to be in hand again elsewhere when that goes on.
  const slowMs = mode === 'keyed' && random.chance(0.15) ? random.between(500, 3_000) : 0;
  return { kind: 'effect', mode, refusals, slowMs };
}

function planWait(random: Random): Part {
  const dice = random.below(10);
  if (dice < 7) return { kind: 'event', comes: 'sure', timeoutMs: SURE_MS };
  if (dice < 9) return { kind: 'event', comes: 'race', timeoutMs: random.between(300, 2_000) };
  return { kind: 'event', comes: 'never', timeoutMs: random.between(200, 900) };
}

function planEvents(
  random: Random,
  key: string,
  startAtMs: number,
  part: Extract<Part, { kind: 'event' }>,
): Omit<PlannedEvent, 'by'>[] {
  const event = (atMs: number, payload: string) => ({ key, atMs: Math.max(0, atMs), payload });
  if (part.comes === 'never' || part.comes === 'relayed') return [];
  if (part.comes === 'race') return [event(startAtMs + part.timeoutMs + random.between(-200, 200), 'race')];
  const dice = random.below(4);
  if (dice === 0) return [event(startAtMs - random.between(1, 500), 'before')];
  if (dice === 1) return [event(startAtMs + random.between(0, 30), 'close')];
  if (dice === 2) return [event(startAtMs + random.between(200, 5_000), 'after')];
  // Twice with different words: the first write wins, whichever that is.
  const atMs = startAtMs + random.between(0, 2_000);
  return [event(atMs, 'one'), event(atMs + (random.chance(0.5) ? 0 : random.between(1, 1_500)), 'other')];
}

function planFaults({ seed, workers }: PlanOptions, durationMs: number): PlannedFault[] {
  const kills = generator(`${seed}/kills`);
  const stops = generator(`${seed}/stops`);
  const outages = generator(`${seed}/postgres`);
  const faults: PlannedFault[] = [];
  for (
    let atMs = kills.between(1_000, 2_500);
    atMs < durationMs - LAST_WORD_MS;
    atMs += kills.between(1_500, 6_000)
  )
    faults.push({ kind: 'kill', atMs, slot: kills.below(workers), downMs: kills.below(1_001) });
  for (let atMs = stops.between(1_500, 3_500); atMs < durationMs; atMs += stops.between(6_000, 14_000))
    faults.push({ kind: 'stop', atMs, slot: stops.below(workers), forMs: stops.between(...STOP_MS) });
  for (
    let atMs = outages.between(4_000, 7_000);
    atMs < durationMs - 5 * LAST_WORD_MS;
    atMs += outages.between(5_000, 10_000)
  )
    faults.push({
      kind: 'postgres',
      atMs,
      mode: outages.chance(0.5) ? 'immediate' : 'fast',
      downMs: outages.below(2_001),
    });
  // No death comes after it: what it tore from living processes these must find again themselves.
  const downMs = outages.between(500, 1_500);
  faults.push({ kind: 'postgres', atMs: durationMs - LAST_WORD_MS, mode: 'immediate', downMs });
  return faults.sort((one, other) => one.atMs - other.atMs);
}

/** The step's name of a part in its branch. */
export function nameOf(part: Part, index: number): string {
  return `${part.kind}-${index}`;
}

/** The key of the branch `branch` of the part `branches` at `index`. */
export function branchKey(index: number, branch: number): string {
  return `branch-${index}-${branch}`;
}

/** Every part with its place, which is its path in the journal; branches and relays are entered. */
export function* placesOf(
  parts: readonly Part[],
  prefix = '',
): Generator<{ readonly place: string; readonly part: Part }> {
  for (const [index, part] of parts.entries()) {
    if (part.kind === 'branches')
      for (const [branch, inner] of part.branches.entries())
        yield* placesOf(inner, `${prefix}${branchKey(index, branch)}/`);
    else if (part.kind === 'relay')
      for (const [branch, inner] of RELAY.entries())
        yield* placesOf([inner], `${prefix}${branchKey(index, branch)}/`);
    else yield { place: `${prefix}${nameOf(part, index)}`, part };
  }
}

/** Where a run of these parts fails until the outside is mended; null: nowhere. */
export function brokenPlaceOf(parts: readonly Part[]): string | null {
  for (const { place, part } of placesOf(parts))
    if (part.kind === 'broken' || (part.kind === 'child' && brokenPlaceOf(part.parts) !== null)) return place;
  return null;
}

/** The branches of a relay. */
export const RELAY = [
  { kind: 'event', comes: 'relayed', timeoutMs: SURE_MS },
  { kind: 'send' },
] as const satisfies readonly Part[];

/** A child run of a story: the step that starts it, its key there, and what it is given. */
export interface ChildStory extends Story {
  readonly place: string;
  readonly key: string;
  /** One of a race, which may be over without it. */
  readonly isRunner: boolean;
}

export function* childrenOf({ label, parts }: Story): Generator<ChildStory> {
  for (const { place, part } of placesOf(parts)) yield* childrenAt(label, place, part);
}

/** The child runs of one part: none unless it is a `child` or a `race`. A child's key is the step's name. */
export function childrenAt(label: string, place: string, part: Part): ChildStory[] {
  const child = (key: string, parts: readonly Part[]) => ({
    label: `${label}/${place}/${key}`,
    place,
    key,
    isRunner: part.kind === 'race',
    parts,
  });
  if (part.kind === 'child') return [child(place.slice(place.lastIndexOf('/') + 1), part.parts)];
  if (part.kind === 'race') return part.children.map((parts, index) => child(`runner-${index}`, parts));
  return [];
}

/** A story and all below it. */
export function* storiesOf(story: Story): Generator<Story> {
  yield story;
  for (const child of childrenOf(story)) yield* storiesOf(child);
}

export interface Random {
  /** In [0, 1). */
  next(): number;
  /** A whole number in [0, limit). */
  below(limit: number): number;
  /** A whole number in [least, most]. */
  between(least: number, most: number): number;
  chance(probability: number): boolean;
}

/** Numbers that follow from `seed` alone: a hash in counter mode, so that streams of different names are independent. */
export function generator(seed: string): Random {
  let count = 0;
  const next = () => {
    count += 1;
    return createHash('sha256').update(`${seed}/${count}`).digest().readUIntBE(0, 6) / 2 ** 48;
  };
  return {
    next,
    below: (limit) => Math.floor(next() * limit),
    between: (least, most) => least + Math.floor(next() * (most - least + 1)),
    chance: (probability) => next() < probability,
  };
}
