/**
 * What a figure is, how it is printed, and the few statistics the benchmarks need.
 *
 * Invariant: standard output carries one JSON line per figure and nothing else, so that it can be piped; words for people go to standard
 * error.
 */

export interface Figure {
  /** kebab-case, as `--only` takes it. */
  readonly name: string;
  /** Median over the rounds. */
  readonly value: number;
  readonly unit: string;
  /** The same work by a bare `pg` program, median over the same rounds; null where there is no such program. */
  readonly floor: number | null;
  /** Median of each round's value / floor: both halves of a round meet the same noise. */
  readonly ratio: number | null;
  /** In words; null for a figure that is only shown. */
  readonly target: string | null;
  readonly ok: boolean;
  /** The value of each round, in order; interleaved with `floorRounds`. */
  readonly rounds: readonly number[];
  readonly floorRounds: readonly number[];
}

export interface Measured {
  readonly name: string;
  readonly unit: string;
  readonly rounds: readonly number[];
  /** Default: none. */
  readonly floorRounds?: readonly number[];
  /** Default: only shown. `ratio` is NaN without a floor. */
  readonly target?: {
    readonly words: string;
    readonly met: (value: number, ratio: number) => boolean;
  };
}

/** Takes medians and judges. Throws when a figure has fewer rounds than a median needs. */
export function figure(measured: Measured): Figure {
  const { name, unit, rounds, floorRounds = [], target } = measured;
  if (rounds.length < 3) throw new RangeError(`${name}: ${rounds.length} rounds, at least 3 are needed`);
  const value = median(rounds);
  const floor = floorRounds.length === 0 ? null : median(floorRounds);
  const ratio = floor === null ? null : median(rounds.map((one, n) => one / (floorRounds[n] ?? Number.NaN)));
  return {
    name,
    value: round(value),
    unit,
    floor: floor === null ? null : round(floor),
    ratio: ratio === null ? null : round(ratio),
    target: target?.words ?? null,
    ok: target?.met(value, ratio ?? Number.NaN) ?? true,
    rounds: rounds.map(round),
    floorRounds: floorRounds.map(round),
  };
}

export function printFigure(figure: Figure): void {
  process.stdout.write(`${JSON.stringify(figure)}\n`);
}

/** Words for the person who watches. */
export function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

export function printTable(figures: readonly Figure[]): void {
  const rows = [
    ['figure', 'value', 'floor', 'ratio', 'target', ''],
    ...figures.map((row) => [
      row.name,
      `${row.value} ${row.unit}`,
      row.floor === null ? '-' : `${row.floor} ${row.unit}`,
      row.ratio === null ? '-' : row.ratio.toFixed(2),
      row.target ?? '(shown only)',
      row.ok ? 'ok' : 'MISSED',
    ]),
  ];
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  say('');
  for (const row of rows)
    say(
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    );
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

export function median(values: readonly number[]): number {
  return percentile(values, 0.5);
}

/** Nearest rank: always a value that was measured. NaN for no values. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

/** Three decimals below 100, whole numbers from 1,000. */
function round(value: number): number {
  const digits = Math.abs(value) < 100 ? 3 : Math.abs(value) < 1_000 ? 1 : 0;
  return Number(value.toFixed(digits));
}
