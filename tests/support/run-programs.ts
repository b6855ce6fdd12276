/**
 * Random workflow programs for the model in run-model.ts, whose ends it can foresee.
 *
 * Invariant: what comes from `programs` holds nothing broken; what comes from `broken` holds one broken step, which fails the run.
 */
import fc from 'fast-check';
import { ending, endingWell, foreseeable, type Program, type Statement } from './run-model.ts';

const mostly = (value: boolean) =>
  fc.oneof({ weight: 4, arbitrary: fc.constant(value) }, fc.constant(!value));
const leaf: fc.Arbitrary<Statement> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ do: fc.constant('run' as const), value: fc.nat(9) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('fail' as const),
      before: fc.nat(2),
      end: fc.constantFrom('well' as const, 'used-up' as const, 'terminal' as const),
      caught: mostly(true),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('transact' as const), value: fc.nat(9) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('refuse' as const), caught: mostly(true) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('sleep' as const), ms: fc.nat(12) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('hear' as const),
      when: fc.constantFrom('after' as const, 'before' as const, 'never' as const),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('send' as const), twice: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('derive' as const) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('meet' as const), ms: fc.nat(8) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('hang' as const) }) },
);

/** Programs that are nested `depth` deep at most. */
export function programs(depth: number): fc.Arbitrary<Program> {
  if (depth === 0) return fc.array(leaf, { maxLength: 3 });
  const inner = programs(depth - 1);
  const nested: fc.Arbitrary<Statement> = fc.oneof(
    {
      weight: 3,
      arbitrary: fc.record({
        do: fc.constant('split' as const),
        mode: fc.constantFrom('all' as const, 'settled' as const, 'race' as const),
        branches: fc.array(inner, { minLength: 1, maxLength: 3 }),
        caught: mostly(true),
      }),
    },
    {
      weight: 2,
      arbitrary: fc.record({ do: fc.constant('invoke' as const), child: inner, caught: mostly(true) }),
    },
    {
      weight: 2,
      arbitrary: fc
        .record({
          do: fc.constant('first' as const),
          count: fc.integer({ min: 1, max: 3 }),
          children: fc.array(inner, { minLength: 1, maxLength: 4 }),
          caught: mostly(true),
        })
        .map((first) => ({ ...first, count: Math.min(first.count, first.children.length) })),
    },
  );
  return fc.array(fc.oneof({ weight: 2, arbitrary: leaf }, nested).map(foreseeable), { maxLength: 4 });
}

/** Somewhere in it a step is broken, and nothing keeps that from failing the run. What stands before and beside it ends well. */
export function broken(depth: number): fc.Arbitrary<Program> {
  const well = programs(Math.max(0, depth - 1)).map(endingWell);
  const leafOf: fc.Arbitrary<Statement> = fc.record({ do: fc.constant('break' as const), value: fc.nat(9) });
  const placed = <T>(others: readonly T[], one: T, at: number): T[] => [
    ...others.slice(0, at),
    one,
    ...others.slice(at),
  ];
  /** Often it waits when the failure comes. */
  const beside = fc
    .tuple(fc.boolean(), well)
    .map(([waits, others]): Program => (waits ? [{ do: 'hear', when: 'after' }, ...others] : others));
  const amongWell = (inner: fc.Arbitrary<Program>) =>
    fc
      .tuple(fc.array(beside, { minLength: 1, maxLength: 2 }), inner, fc.nat(2))
      .map(([others, one, at]) => placed(others, one, at));
  const statement =
    depth === 0
      ? leafOf
      : fc.oneof(
          leafOf,
          amongWell(broken(depth - 1)).map(
            (branches): Statement => ({ do: 'split', mode: 'all', branches, caught: false }),
          ),
          broken(depth - 1).map((child): Statement => ({ do: 'invoke', child, caught: false })),
          amongWell(broken(depth - 1)).map(
            (children): Statement => ({ do: 'first', count: children.length, children, caught: false }),
          ),
        );
  return fc
    .tuple(well, statement, programs(Math.max(0, depth - 1)))
    .map(([before, one, after]) => ending([...before, one, ...after], before.length));
}
