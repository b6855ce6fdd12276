/**
 * Random workflow programs: what one is, how a real run interprets it, and what a run of it must come to.
 *
 * Two readings of one tree. `interpret` is a workflow body over the primitives; `modelOf` is a pure function that knows nothing of
 * workers, parks and replays: it says how the run ends, which rows its journal must and may hold, and which children it has. Only
 * the naming of rows (branches, names, occurrences, tries) is common knowledge, because it is the engine's contract with old journals.
 */
import { CountersignError } from '../../src/errors.ts';
import type { Invocable, Json, Step, Tx } from '../../src/types.ts';

export type Program = readonly Statement[];
export type Statement =
  | { readonly do: 'run'; readonly value: number }
  /** Fails `before` times in a way that may be tried again, then ends as it says. */
  | {
      readonly do: 'fail';
      readonly before: number;
      readonly end: 'well' | 'used-up' | 'terminal';
      readonly caught: boolean;
    }
  /** Is refused for good, which nothing catches, until the world is mended; then the run is retried. One per program, see `broken`. */
  | { readonly do: 'break'; readonly value: number }
  | { readonly do: 'transact'; readonly value: number }
  /** Writes in its transaction and then refuses: nothing of it may stay. */
  | { readonly do: 'refuse'; readonly caught: boolean }
  | { readonly do: 'sleep'; readonly ms: number }
  /** An event emitted before the run starts, some time after, or never within the deadline. */
  | { readonly do: 'hear'; readonly when: 'before' | 'after' | 'never' }
  /** Waits for what nobody says, for ever. */
  | { readonly do: 'hang' }
  | { readonly do: 'send'; readonly twice: boolean }
  /** A step whose input is what the branch derives: time, id, randomness. A replay that derives otherwise parks. */
  | { readonly do: 'derive' }
  /** Two branches: one waits for what the other sends after `ms`. */
  | { readonly do: 'meet'; readonly ms: number }
  | {
      readonly do: 'split';
      readonly mode: 'all' | 'settled' | 'race';
      readonly branches: readonly Program[];
      readonly caught: boolean;
    }
  | { readonly do: 'invoke'; readonly child: Program; readonly caught: boolean }
  | {
      readonly do: 'first';
      readonly count: number;
      readonly children: readonly Program[];
      readonly caught: boolean;
    };

/** How something ends: with a value, with one of these errors, or not at all. */
export type Outcome =
  | { readonly kind: 'ok'; readonly value: Json }
  | { readonly kind: 'error'; readonly codes: ReadonlySet<string> }
  | { readonly kind: 'hang' };

/** What a run of a program comes to. */
export interface RunModel {
  readonly place: string;
  readonly outcome: Outcome;
  /** Rows of steps and waits, by path, that a run which nobody cancelled has when it has ended. */
  readonly must: ReadonlySet<string>;
  /** Rows it may have besides: of branches that were left behind, and of children that were not needed. */
  readonly may: ReadonlySet<string>;
  /** What steps do to the world: the path of each by its place. Of `transact`, once if and only if it is journaled. */
  readonly transacts: ReadonlyMap<string, string>;
  readonly runs: ReadonlyMap<string, StepModel>;
  /** How often it fails at what is broken, and is retried, before it ends as `outcome` says. */
  readonly failures: number;
  readonly children: readonly ChildModel[];
}

export interface StepModel {
  readonly path: string;
  readonly tries: number;
  /** It fails its run for good before it is tried again. */
  readonly breaks: boolean;
  /** It stands beside what is broken: a failure of the run may interrupt it. */
  readonly besides: boolean;
}

export interface ChildModel {
  readonly path: string;
  readonly key: string;
  /** It surely exists and ends as its model says; others may be cancelled, or never started. */
  readonly required: boolean;
  readonly model: RunModel;
}

export interface ProgramInput {
  /** Unique per case: keys of events and effects begin with it. */
  readonly place: string;
  readonly program: Program;
}

/** What a run touches outside its journal. */
export interface Outside {
  /** Called by the body of each `run` step, each time it is entered. */
  entered(place: string): void;
  /** Whether what is broken still is. */
  isBroken(place: string): boolean;
  /** Called in the transaction of each `transact` step. */
  write(tx: Tx, place: string): Promise<void>;
}

export const HEARD = 'heard';
/** Long enough to be beyond every test, short enough to be seen if a test waits for it. */
const FOREVER_MS = 3_600_000;
/** For what never comes in time. */
const SHORT_MS = 12;
const CAUGHT = 'caught';

// ---------------------------------------------------------------------------------------------------------------
// As a workflow body
// ---------------------------------------------------------------------------------------------------------------

type ProgramWorkflow = Invocable<ProgramInput, Json>;

export async function interpret(
  step: Step,
  { place, program }: ProgramInput,
  self: ProgramWorkflow,
  outside: Outside,
): Promise<Json> {
  const values: Json[] = [];
  for (const [index, statement] of program.entries()) {
    values.push(await perform(step, statement, `${place}.${index}`, self, outside));
  }
  return values;
}

async function perform(
  step: Step,
  statement: Statement,
  place: string,
  self: ProgramWorkflow,
  outside: Outside,
): Promise<Json> {
  switch (statement.do) {
    case 'run':
      return step.run('run', async () => {
        outside.entered(place);
        return statement.value;
      });
    case 'break':
      return step.run('break', async () => {
        outside.entered(place);
        if (outside.isBroken(place)) throw new CountersignError('TOOL_REFUSED', 'not yet');
        return statement.value;
      });
    case 'fail':
      return orCaught(statement.caught, () =>
        step.run(
          'fail',
          async ({ tryNumber }) => {
            outside.entered(place);
            if (tryNumber <= statement.before) throw new Error('again');
            if (statement.end === 'used-up') throw new Error('to the last');
            if (statement.end === 'terminal') throw new CountersignError('TOOL_REFUSED', 'no');
            return 'well';
          },
          { maxTries: statement.before + 1, backoffMs: 1 },
        ),
      );
    case 'transact':
      return step.transact('transact', async (tx) => {
        await outside.write(tx, place);
        return statement.value;
      });
    case 'refuse':
      return orCaught(statement.caught, () =>
        step.transact('refuse', async (tx): Promise<Json> => {
          await outside.write(tx, place);
          throw new CountersignError('DENIED_BY_POLICY', 'no');
        }),
      );
    case 'sleep':
      await step.sleep('sleep', statement.ms);
      return 'slept';
    case 'hear':
      return (await step.waitForEvent('hear', {
        event: HEARD,
        key: place,
        timeoutMs: statement.when === 'never' ? SHORT_MS : FOREVER_MS,
      })) as Json;
    case 'hang':
      return (await step.waitForEvent('hang', { event: 'never', key: place, timeoutMs: FOREVER_MS })) as Json;
    case 'send': {
      const sent = { event: 'sent', key: `${place} ${step.runRef.runId}`, payload: place };
      const first = await step.sendEvent('send', sent);
      return statement.twice ? [first, await step.sendEvent('send', sent)] : [first];
    }
    case 'derive': {
      const derived = [step.now().toISOString(), step.id(), step.random()];
      return step.run('derive', async () => 'derived', { input: derived });
    }
    case 'meet': {
      // A child that is started anew sends anew.
      const met = { event: 'met', key: `${place} ${step.runRef.runId}` };
      return Promise.all([
        step.branch('meet-wait', async (own) => {
          const heard = await own.waitForEvent('wait', { ...met, timeoutMs: FOREVER_MS });
          return heard as Json;
        }),
        step.branch('meet-send', async (own) => {
          if (statement.ms > 0) await own.sleep('nap', statement.ms);
          return own.sendEvent('send', { ...met, payload: place });
        }),
      ]);
    }
    case 'split': {
      const branches = () =>
        statement.branches.map((program, index) =>
          step.branch(splitName(place, index), (own) =>
            interpret(own, { place: `${place}/${index}`, program }, self, outside),
          ),
        );
      if (statement.mode === 'race') {
        await Promise.race(branches());
        return 'raced';
      }
      if (statement.mode === 'all') return orCaught(statement.caught, () => Promise.all(branches()), CAUGHT);
      const settled = await Promise.allSettled(branches());
      return settled.map((one) => (one.status === 'fulfilled' ? one.value : CAUGHT));
    }
    case 'invoke': {
      const late = outcomeOf(statement.child).kind === 'hang';
      return orCaught(
        statement.caught,
        () =>
          step.invoke(
            'invoke',
            self,
            { place: `${place}/0`, program: statement.child },
            late ? { timeoutMs: SHORT_MS } : {},
          ),
        CAUGHT,
      );
    }
    case 'first': {
      const options = ofFirst(statement) === 'late' ? { timeoutMs: SHORT_MS } : {};
      const children = statement.children.map((program, index) => ({
        key: `c${index}`,
        workflow: self,
        input: { place: `${place}/${index}`, program },
      }));
      return orCaught(
        statement.caught,
        async () =>
          `${(await step.first('first', statement.count, children, options)).completed.length} completed`,
        CAUGHT,
      );
    }
  }
}

/** Its own for every split of a sequence: what an earlier one left behind may still be in flight under its name. */
function splitName(place: string, branch: number): string {
  return `split-${place.slice(place.lastIndexOf('.') + 1)}-${branch}`;
}

async function orCaught(
  caught: boolean,
  work: () => Promise<Json>,
  value: Json | null = null,
): Promise<Json> {
  try {
    return await work();
  } catch (error) {
    if (!caught) throw error;
    return value ?? `caught ${(error as { code?: string }).code}`;
  }
}

// ---------------------------------------------------------------------------------------------------------------
// As a model
// ---------------------------------------------------------------------------------------------------------------

/** `failures`: how often what is broken in the program, if anything is, fails it before the world is mended. */
export function modelOf(place: string, program: Program, failures: number): RunModel {
  const run = {
    failures: isBroken(program) ? failures : 0,
    besides: false,
    must: new Set<string>(),
    may: new Set<string>(),
    transacts: new Map<string, string>(),
    runs: new Map<string, StepModel>(),
    children: [] as ChildModel[],
  };
  recordAll(run, program, '', place, true);
  return { place, outcome: outcomeOf(program, place), ...run };
}

export function isBroken(program: Program): boolean {
  return program.some(
    (statement) =>
      statement.do === 'break' ||
      (statement.do === 'split' && statement.branches.some(isBroken)) ||
      (statement.do === 'invoke' && isBroken(statement.child)) ||
      (statement.do === 'first' && statement.children.some(isBroken)),
  );
}

/** The program, if it comes to its end by itself and well; else an empty one. */
export function endingWell(program: Program): Program {
  return outcomeOf(program).kind === 'ok' ? program : [];
}

/** The program, if it comes to its end by itself, once mended; else without what follows the statement `last`. */
export function ending(program: Program, last: number): Program {
  return outcomeOf(program).kind === 'hang' ? program.slice(0, last + 1) : program;
}

/** Events that somebody has to say: their keys, and whether before the run is started. */
export function eventsOf(place: string, program: Program): { key: string; early: boolean }[] {
  return program.flatMap((statement, index) => {
    const here = `${place}.${index}`;
    const inner = (programs: readonly Program[]) =>
      programs.flatMap((one, at) => eventsOf(`${here}/${at}`, one));
    switch (statement.do) {
      case 'hear':
        return statement.when === 'never' ? [] : [{ key: here, early: statement.when === 'before' }];
      case 'split':
        return inner(statement.branches);
      case 'invoke':
        return inner([statement.child]);
      case 'first':
        return inner(statement.children);
      default:
        return [];
    }
  });
}

/** A race is foreseeable only when none of its branches fails and one ends. */
export function foreseeable(statement: Statement): Statement {
  if (statement.do !== 'split' || statement.mode !== 'race') return statement;
  const kinds = statement.branches.map((branch) => outcomeOf(branch).kind);
  return kinds.includes('ok') && !kinds.includes('error') ? statement : { ...statement, mode: 'settled' };
}

const ok = (value: Json): Outcome => ({ kind: 'ok', value });
const error = (...codes: string[]): Outcome => ({ kind: 'error', codes: new Set(codes) });
const HANG: Outcome = { kind: 'hang' };

function outcomeOf(program: Program, place = ''): Outcome {
  const values: Json[] = [];
  for (const [index, statement] of program.entries()) {
    const outcome = outcomeOfOne(statement, `${place}.${index}`);
    if (outcome.kind !== 'ok') return outcome;
    values.push(outcome.value);
  }
  return ok(values);
}

function outcomeOfOne(statement: Statement, place: string): Outcome {
  const caught = (code: string, ...alsoCodes: string[]) =>
    'caught' in statement && statement.caught ? ok(`caught ${code}`) : error(code, ...alsoCodes);
  const caughtAny = (outcome: Outcome) =>
    outcome.kind === 'error' && 'caught' in statement && statement.caught ? ok(CAUGHT) : outcome;
  switch (statement.do) {
    case 'run':
    case 'break':
    case 'transact':
      return ok(statement.value);
    case 'fail':
      if (statement.end === 'well') return ok('well');
      // An error from outside the table is passed on by the class that carries it.
      return statement.end === 'terminal' ? caught('TOOL_REFUSED') : caught('Error', 'StepFailed');
    case 'refuse':
      return caught('DENIED_BY_POLICY');
    case 'sleep':
      return ok('slept');
    case 'hear':
      return ok(statement.when === 'never' ? { outcome: 'timeout' } : { outcome: 'event', payload: place });
    case 'hang':
      return HANG;
    case 'send':
      return ok(statement.twice ? [true, false] : [true]);
    case 'derive':
      return ok('derived');
    case 'meet':
      return ok([{ outcome: 'event', payload: place }, true]);
    case 'split': {
      const branches = statement.branches.map((branch, index) => outcomeOf(branch, `${place}/${index}`));
      if (statement.mode === 'race') return ok('raced');
      const errors = branches.flatMap((branch) => (branch.kind === 'error' ? [...branch.codes] : []));
      const hangs = branches.some((branch) => branch.kind === 'hang');
      if (statement.mode === 'all' && errors.length > 0) return caughtAny(error(...errors));
      if (hangs) return HANG;
      return ok(branches.map((branch) => (branch.kind === 'ok' ? branch.value : CAUGHT)));
    }
    case 'invoke': {
      const child = outcomeOf(statement.child, `${place}/0`);
      return caughtAny(child.kind === 'hang' ? error('CHILD_TIMEOUT') : child);
    }
    case 'first':
      switch (ofFirst(statement)) {
        case 'enough':
          return ok(`${statement.count} completed`);
        case 'late':
          return caughtAny(error('CHILD_TIMEOUT'));
        case 'too-few':
          return caughtAny(error('TOO_FEW_COMPLETED'));
      }
  }
}

function ofFirst({ count, children }: Statement & { do: 'first' }): 'enough' | 'late' | 'too-few' {
  const kinds = children.map((child) => outcomeOf(child).kind);
  const well = kinds.filter((kind) => kind === 'ok').length;
  if (well >= count) return 'enough';
  return well + kinds.filter((kind) => kind === 'hang').length >= count ? 'late' : 'too-few';
}

interface Recording {
  readonly must: Set<string>;
  readonly may: Set<string>;
  readonly transacts: Map<string, string>;
  readonly runs: Map<string, StepModel>;
  readonly children: ChildModel[];
  readonly failures: number;
  /** What is recorded now stands beside what is broken. */
  besides: boolean;
}

/** Records what a sequence leaves in the journal. `sure`: it is surely worked to its end. */
function recordAll(run: Recording, program: Program, prefix: string, place: string, sure: boolean): void {
  const occurrences = new Map<string, number>();
  const named = (name: string) => {
    const occurrence = (occurrences.get(name) ?? 0) + 1;
    occurrences.set(name, occurrence);
    return `${prefix}${name}${occurrence === 1 ? '' : `#${occurrence}`}`;
  };
  for (const [index, statement] of program.entries()) {
    record(run, statement, named, `${place}.${index}`, sure);
    if (outcomeOfOne(statement, '').kind !== 'ok') return;
  }
}

function record(
  run: Recording,
  statement: Statement,
  named: (name: string) => string,
  place: string,
  sure: boolean,
): void {
  const row = (path: string) => {
    (sure ? run.must : run.may).add(path);
    return path;
  };
  /** Of a step that fails the run as often as it fails at all: a row for each time, and one for the last. */
  const rows = (path: string, breaks: boolean) => {
    for (let generation = 2; breaks && generation <= run.failures + 1; generation += 1)
      row(`${path}@${generation}`);
    return row(path);
  };
  const { besides } = run;
  switch (statement.do) {
    case 'break':
      run.runs.set(place, {
        path: rows(named('break'), true),
        tries: run.failures + 1,
        breaks: true,
        besides,
      });
      return;
    case 'fail': {
      const path = row(named('fail'));
      for (let tried = 1; tried <= statement.before; tried += 1) row(`${path}~${tried}`);
      run.runs.set(place, { path, tries: statement.before + 1, breaks: false, besides });
      return;
    }
    case 'run':
      run.runs.set(place, { path: row(named('run')), tries: 1, breaks: false, besides });
      return;
    case 'transact':
      run.transacts.set(place, row(named('transact')));
      return;
    case 'send':
      row(named('send'));
      if (statement.twice) row(named('send'));
      return;
    case 'meet': {
      row(`${named('meet-wait')}/wait`);
      const sender = named('meet-send');
      if (statement.ms > 0) row(`${sender}/nap`);
      row(`${sender}/send`);
      return;
    }
    case 'split': {
      const kinds = statement.branches.map((branch) => outcomeOf(branch).kind);
      const errors = kinds.filter((kind) => kind === 'error').length;
      const breaks = statement.branches.some(isBroken);
      for (const [index, branch] of statement.branches.entries()) {
        run.besides = besides || (breaks && !isBroken(branch));
        const toItsEnd =
          statement.mode === 'settled' ||
          (statement.mode === 'all' && (errors === 0 || (errors === 1 && kinds[index] === 'error')));
        recordAll(run, branch, `${named(splitName(place, index))}/`, `${place}/${index}`, sure && toItsEnd);
      }
      run.besides = besides;
      return;
    }
    case 'invoke': {
      const path = rows(named('invoke'), isBroken(statement.child));
      const model = modelOf(`${place}/0`, statement.child, run.failures);
      run.children.push({ path, key: 'invoke', required: sure && model.outcome.kind !== 'hang', model });
      return;
    }
    case 'first': {
      const path = rows(named('first'), statement.children.some(isBroken));
      const kinds = statement.children.map((child) => outcomeOf(child).kind);
      const allNeeded = kinds.filter((kind) => kind === 'ok').length === statement.count;
      for (const [index, child] of statement.children.entries()) {
        const required = sure && allNeeded && kinds[index] === 'ok';
        run.children.push({
          path,
          key: `c${index}`,
          required,
          model: modelOf(`${place}/${index}`, child, run.failures),
        });
      }
      return;
    }
    default:
      row(named(statement.do));
  }
}
