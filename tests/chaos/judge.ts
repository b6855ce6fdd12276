/**
 * The judge of a chaos run. It looks from outside, when everything has ended: at the rows of runs, journal, waits and events, at the
 * counters, and at what the outside world counted; and holds them against what the plan says a run must come to.
 *
 * Invariant: it shares no code with the engine. A sentence in the list of breaches names the run and the place.
 */
import type { Database } from '../../src/jobs/engine/db.ts';
import type { Json } from '../../src/types.ts';
import type { Outside, SeenEffect } from './outside.ts';
import {
  branchKey,
  brokenPlaceOf,
  type ChildStory,
  childrenAt,
  childrenOf,
  nameOf,
  type Part,
  type Plan,
  placesOf,
  RELAY,
  type Story,
} from './plan.ts';
import { FAILURE_PLACE, REFUSED, UNDO_PLACE } from './story.ts';

interface RunRow {
  run_id: string;
  run_key: string | null;
  parent_run_id: string | null;
  parent_path: string | null;
  child_key: string | null;
  status: string;
  output: Json;
  error: { code: string } | null;
  fence: number;
  retry_count: number;
  failed_path: string | null;
  /** No claim came before its first fence. */
  is_begun_by_starter: boolean;
}
interface StepRow {
  run_id: string;
  path: string;
  kind: string;
  fence: number;
  error: { code: string } | null;
  result: Json;
  /** A later fence had been claimed when this was written. */
  is_late: boolean;
  /** The run was being cancelled when this was written. */
  is_after_cancel: boolean;
}
interface WaitRow {
  run_id: string;
  path: string;
  kind: string;
  outcome: string | null;
  payload: Json;
}

/** What was told and done to the runs from outside. By label of a planned run. */
export interface Dealings {
  /** Every run id that a start returned. */
  readonly startedAs: ReadonlyMap<string, ReadonlySet<string>>;
  /** What the last cancelling found the run to be. */
  readonly cancelledAs: ReadonlyMap<string, string>;
}

/** Everything about one run, by place; after a retry, as the last generation of each place has it. */
interface Evidence {
  readonly run: RunRow;
  /** In the order of writing. */
  readonly steps: readonly StepRow[];
  readonly stepAt: ReadonlyMap<string, StepRow>;
  readonly waits: ReadonlyMap<string, WaitRow>;
  readonly counters: ReadonlyMap<string, number>;
  readonly effects: ReadonlyMap<string, SeenEffect>;
  /** First-written payload of every event, by key. */
  readonly events: ReadonlyMap<string, Json>;
  /** The runs whose `send` stored its event, by its label and place: a child and the one that took its place share both. */
  readonly senders: ReadonlyMap<string, readonly string[]>;
  /** Child runs by the step that started them and their key, the newest first. */
  readonly children: ReadonlyMap<string, readonly RunRow[]>;
}

export interface Verdict {
  readonly breaches: readonly string[];
  /** How many runs ended in each status. */
  readonly statuses: Readonly<Record<string, number>>;
  /** `takeovers`: runs whose journal several attempts wrote. */
  readonly begunByStarter: number;
  readonly rows: { readonly steps: number; readonly effects: number; readonly takeovers: number };
}

type Blame = (what: string) => void;

const ENDED: readonly string[] = ['completed', 'failed', 'cancelled'];

export async function judge(
  db: Database,
  plan: Plan,
  outside: Outside,
  dealings: Dealings,
): Promise<Verdict> {
  const breaches: string[] = [];
  const senders = new Map<string, string[]>();
  const { runs, evidenceOf, takeovers, stepCount } = await gather(db, outside, senders);
  const statuses: Record<string, number> = {};
  for (const run of runs) statuses[run.status] = (statuses[run.status] ?? 0) + 1;

  const met = new Set<string>();
  const meet = (story: Story, run: RunRow, expected: readonly string[]): void => {
    met.add(run.run_id);
    const blame = (what: string) => breaches.push(`${story.label} (${run.run_id}): ${what}`);
    const seen = evidenceOf(run);
    const isMended = brokenPlaceOf(story.parts) !== null;
    judgeRun(story, expected, blame, isMended ? judgeMended(story, blame, seen) : seen);
    for (const child of childrenOf(story)) {
      const [row, ...more] = seen.children.get(`${child.place} ${child.key}`) ?? [];
      if (more.length > (isMended ? 1 : 0))
        blame(`${child.place} has ${more.length + 1} children ${child.key}`);
      // Its parent's failure cancelled it, and the retry started another.
      for (const earlier of more) meet(child, earlier, ['cancelled']);
      if (row) meet(child, row, statusesOfChild(child, run));
      else if (seen.waits.has(child.place)) blame(`${child.place} waited for ${child.key}, which is no run`);
    }
  };
  const byKey = Map.groupBy(runs, (run) => run.run_key);
  const noteSenders = (story: Story, run: RunRow): void => {
    const { steps, children } = evidenceOf(run);
    for (const { path } of steps.filter(({ kind, result }) => kind === 'send-event' && result === true))
      senders.set(`${story.label}/${path}`, [...(senders.get(`${story.label}/${path}`) ?? []), run.run_id]);
    for (const child of childrenOf(story))
      for (const row of children.get(`${child.place} ${child.key}`) ?? []) noteSenders(child, row);
  };
  for (const { story } of plan.runs) for (const run of byKey.get(story.label) ?? []) noteSenders(story, run);
  for (const { story } of plan.runs) {
    const [run, ...more] = byKey.get(story.label) ?? [];
    if (!run || more.length > 0) {
      breaches.push(`${story.label}: ${more.length + (run ? 1 : 0)} runs`);
      continue;
    }
    const started = [...(dealings.startedAs.get(story.label) ?? [])];
    if (started.length !== 1 || started[0] !== run.run_id)
      breaches.push(`${story.label} (${run.run_id}): its starts returned ${started.join(', ') || 'nothing'}`);
    const cancelledAs = dealings.cancelledAs.get(story.label);
    meet(story, run, [cancelledAs?.startsWith('cancel') ? 'cancelled' : ownStatus(story)]);
  }
  for (const run of runs)
    if (!met.has(run.run_id))
      breaches.push(`run ${run.run_id} (${run.run_key ?? `child ${run.child_key}`}): nobody planned it`);
  const known = new Set(runs.map((run) => run.run_id));
  for (const { runId, place } of outside.effects.values())
    if (!known.has(runId)) breaches.push(`an effect at ${place} of run ${runId}, which does not exist`);
  const begunByStarter = runs.filter((run) => run.is_begun_by_starter).length;
  return {
    breaches,
    statuses,
    begunByStarter,
    rows: { steps: stepCount, effects: outside.effects.size, takeovers },
  };
}

async function gather(db: Database, outside: Outside, senders: Evidence['senders']) {
  const { rows: runs } = await db.query<RunRow>({
    text: `select run_id, run_key, parent_run_id, parent_path, child_key, status, output, error, fence, retry_count, failed_path,
             parent_run_id is null and not exists (select 1 from chaos_claims c where c.run_id = r.run_id and c.fence = 1) as is_begun_by_starter
           from runs r order by created_at`,
  });
  const steps = await byRun<StepRow>(
    db,
    `select run_id, path, kind, fence, error, result,
       exists (select 1 from chaos_claims c
               where c.run_id = s.run_id and c.fence > s.fence and c.claimed_at < s.finished_at) as is_late,
       exists (select 1 from chaos_claims c
               where c.run_id = s.run_id and c.status = 'cancelling' and c.claimed_at < s.finished_at) as is_after_cancel
     from steps s order by finished_at, fence`,
  );
  const waits = await byRun<WaitRow>(db, 'select run_id, path, kind, outcome, payload from waits');
  const counters = await byRun<{ run_id: string; place: string; added_count: number }>(
    db,
    'select run_id, place, added_count from chaos_counters',
  );
  const { rows: eventRows } = await db.query<{ event_key: string; payload: Json }>({
    text: 'select event_key, payload from events',
  });
  const events = new Map(eventRows.map((row) => [row.event_key, row.payload]));
  const effects = Map.groupBy(outside.effects.values(), (effect) => effect.runId);
  const children = Map.groupBy(runs, (run) => run.parent_run_id);
  const evidenceOf = (run: RunRow): Evidence => {
    const own = steps.get(run.run_id) ?? [];
    return {
      run,
      steps: own,
      stepAt: new Map(own.map((step) => [step.path, step])),
      waits: new Map((waits.get(run.run_id) ?? []).map((wait) => [wait.path, wait])),
      counters: new Map((counters.get(run.run_id) ?? []).map((row) => [row.place, row.added_count])),
      effects: new Map((effects.get(run.run_id) ?? []).map((effect) => [effect.place, effect])),
      events,
      senders,
      children: Map.groupBy(
        (children.get(run.run_id) ?? []).toReversed(),
        (child) => `${child.parent_path} ${child.child_key}`,
      ),
    };
  };
  const lists = [...steps.values()];
  return {
    runs,
    evidenceOf,
    stepCount: lists.reduce((sum, list) => sum + list.length, 0),
    takeovers: lists.filter((list) => list.some((step) => step.fence !== list[0]?.fence)).length,
  };
}

/** What a story comes to when nobody cancels it. */
function ownStatus({ parts }: Story): string {
  return parts.some((part) => part.kind === 'failure') ? 'failed' : 'completed';
}

/** A child ends as its story says, unless its parent ended early or, in a race, did not need it. */
function statusesOfChild(child: ChildStory, parent: RunRow): readonly string[] {
  const isNeeded = parent.status === 'completed' && !child.isRunner;
  return isNeeded ? [ownStatus(child)] : [ownStatus(child), 'cancelled'];
}

function judgeRun(story: Story, expected: readonly string[], blame: Blame, seen: Evidence): void {
  const { run } = seen;
  if (!expected.includes(run.status))
    blame(`is ${run.status} with ${JSON.stringify(run.error)}, not ${expected.join(' or ')}`);
  if (run.status === 'failed' && run.error?.code !== 'TOOL_REFUSED')
    blame(`failed with ${JSON.stringify(run.error)}`);
  judgeJournal(story.parts, blame, seen);
  judgeTraces(story.parts, blame, seen);
  judgeUndo(story, blame, seen);
  if (run.status === 'completed')
    judgeTold({ label: story.label, prefix: '', blame, seen }, story.parts, run.output);
}

/** One row per path that the story has, none besides, one writer at a time, nothing left open. */
function judgeJournal(parts: readonly Part[], blame: Blame, seen: Evidence): void {
  const isWhole = seen.run.status === 'completed' || seen.run.status === 'failed';
  const known = new Map([...placesOf(parts)].map(({ place, part }) => [place, part]));
  for (const [place, part] of known) {
    const inSteps = seen.stepAt.has(place);
    const inWaits = seen.waits.has(place);
    if (isWait(part) ? inSteps : inWaits) blame(`${place} is journaled as another kind`);
    if (isWhole && !(isWait(part) ? inWaits : inSteps)) blame(`${place} is missing in the journal`);
  }
  for (const path of seen.stepAt.keys())
    if (!known.has(path) && path !== FAILURE_PLACE && path !== UNDO_PLACE)
      blame(`the journal holds ${path}, which the story lacks`);
  for (const [path, wait] of seen.waits) {
    const [place = '', tryNumber] = path.split('~');
    if (!(known.has(place) || place === UNDO_PLACE) || (wait.kind === 'retry') !== (tryNumber !== undefined))
      blame(`waits hold ${path} (${wait.kind}), which the story lacks`);
    const before = Number(tryNumber) - 1;
    if (before > 0 && !seen.waits.has(`${place}~${before}`)) blame(`try ${before} of ${place} is missing`);
    if (wait.outcome === null && ENDED.includes(seen.run.status))
      blame(`${path} still waits though the run has ended`);
  }
  let highest = 0;
  for (const step of seen.steps) {
    if (step.is_late) blame(`${step.path} was written under fence ${step.fence} after the next was claimed`);
    if (step.is_after_cancel && !step.path.startsWith(FAILURE_PLACE))
      blame(`${step.path} was written after the run was cancelled`);
    if (step.fence < highest) blame(`${step.path} was written under fence ${step.fence} after ${highest}`);
    if (step.fence > seen.run.fence)
      blame(`${step.path} was written under fence ${step.fence}, never claimed`);
    highest = Math.max(highest, step.fence);
  }
}

/**
 * A run that failed, was mended and retried: the failed step is journaled twice, first with its failure; what waited beside it was closed
 * and waited for again; nothing else has a second generation. Returns the evidence as the second generation left it.
 */
function judgeMended({ parts }: Story, blame: Blame, seen: Evidence): Evidence {
  const broken = brokenPlaceOf(parts) ?? '';
  const again = `${broken}${SECOND}`;
  if (seen.run.retry_count !== 1) blame(`was retried ${seen.run.retry_count} times`);
  if (seen.waits.has(broken)) {
    if (seen.waits.get(broken)?.outcome !== 'event' || seen.waits.get(again)?.outcome !== 'event')
      blame(`${broken} did not wait for its children, failed, and wait again`);
  } else if (
    seen.stepAt.get(broken)?.error?.code !== 'TOOL_REFUSED' ||
    seen.stepAt.get(again)?.error !== null
  )
    blame(`${broken} is not journaled as failed and then as done`);
  for (const path of seen.stepAt.keys())
    if (path.includes('@') && path !== again) blame(`the journal holds ${path}, which was not retried`);
  for (const path of seen.waits.keys()) {
    const [place = '', tries] = path.split('~');
    if (!place.includes('@') || place === again) continue;
    const first = seen.waits.get(place.slice(0, -SECOND.length));
    if (!place.endsWith(SECOND) || tries !== undefined || first?.outcome !== 'cancelled')
      blame(`waits hold ${path}, which was not closed before`);
  }
  // Paths of a second generation sort behind those that they take the place of.
  const last = <Row>(rows: ReadonlyMap<string, Row>): Map<string, Row> =>
    new Map(
      [...rows]
        .sort(([one], [other]) => Number(one.includes(SECOND)) - Number(other.includes(SECOND)))
        .map(([path, row]) => [path.replace(SECOND, ''), row]),
    );
  return { ...seen, stepAt: last(seen.stepAt), waits: last(seen.waits) };
}

function isWait({ kind }: Part): boolean {
  return ['event', 'sleep', 'until', 'child', 'race'].includes(kind);
}

/** What a retry adds to the path of what it does again. */
const SECOND = '@2';

/** What is left outside the journal agrees with it, however the run ended. */
function judgeTraces(parts: readonly Part[], blame: Blame, seen: Evidence): void {
  const kinds = new Map<string, string>([...placesOf(parts)].map(({ place, part }) => [place, part.kind]));
  kinds.set(UNDO_PLACE, 'effect');
  for (const [place, count] of seen.counters) {
    if (count !== 1) blame(`${place} counted ${count} times`);
    if (!seen.stepAt.has(place)) blame(`${place} counted, but is not in the journal`);
  }
  for (const [place, step] of seen.stepAt)
    if (kinds.get(place) === 'count' && step.error === null && !seen.counters.has(place))
      blame(`${place} is in the journal, but did not count`);
  for (const [place, effect] of seen.effects) {
    if (!isEffect(kinds.get(place))) blame(`an effect at ${place}, which the story lacks`);
    if (effect.appliedCount > 1) blame(`${place} was applied ${effect.appliedCount} times`);
    if (effect.keys.size > 1) blame(`${place} came under ${effect.keys.size} idempotency keys`);
    if (effect.tokens.size > 1) blame(`${place} came with ${effect.tokens.size} derived ids`);
  }
  for (const [place, step] of seen.stepAt)
    if (isEffect(kinds.get(place)) && step.error === null && seen.effects.get(place)?.receipt !== step.result)
      blame(`${place} is journaled with a receipt that the outside did not give`);
}

function isEffect(kind: string | undefined): boolean {
  return kind === 'effect' || kind === 'broken';
}

/** A run that did not complete, or failed before it did, had its onFailure, once and to the end; any other had none. */
function judgeUndo({ parts }: Story, blame: Blame, { run, stepAt, effects }: Evidence): void {
  const applied = effects.get(UNDO_PLACE)?.appliedCount ?? 0;
  const hasFailed = run.status === 'failed' || brokenPlaceOf(parts) !== null;
  if (run.status === 'completed' && !hasFailed) {
    if (applied > 0 || stepAt.has(UNDO_PLACE) || stepAt.has(FAILURE_PLACE))
      blame('completed, and was undone');
  } else if (ENDED.includes(run.status)) {
    if (applied !== 1 || stepAt.get(UNDO_PLACE)?.error !== null)
      blame(`${run.status}, and was undone ${applied} times`);
    if (hasFailed && !stepAt.has(FAILURE_PLACE)) blame('failed, and its failure is not journaled');
  }
}

interface Hearing {
  readonly label: string;
  readonly prefix: string;
  readonly blame: (what: string) => void;
  readonly seen: Evidence;
}

/** What the run returned, part by part, is what happened; and parts of one branch happened one after another. */
function judgeTold(hearing: Hearing, parts: readonly Part[], output: Json): void {
  const { prefix, blame } = hearing;
  if (!Array.isArray(output) || output.length !== parts.length) {
    blame(`${prefix || 'the run'} told ${JSON.stringify(output)} of ${parts.length} parts`);
    return;
  }
  let lastSeq = 0;
  for (const [index, part] of parts.entries()) {
    const place = `${prefix}${nameOf(part, index)}`;
    const told = output[index] ?? null;
    if (part.kind === 'branches' || part.kind === 'relay') {
      const branches = part.kind === 'relay' ? RELAY.map((one) => [one]) : part.branches;
      for (const [branch, inner] of branches.entries())
        judgeTold(
          { ...hearing, prefix: `${prefix}${branchKey(index, branch)}/` },
          inner,
          Array.isArray(told) ? (told[branch] ?? null) : null,
        );
      continue;
    }
    if (!isTrue(hearing, part, place, told)) blame(`${place} told ${JSON.stringify(told)}`);
    const seq = isEffect(part.kind) ? (hearing.seen.effects.get(place)?.appliedSeq ?? 0) : lastSeq;
    if (seq < lastSeq) blame(`${place} was applied before what comes before it`);
    lastSeq = seq;
  }
}

function isTrue(
  { label, seen }: Pick<Hearing, 'label' | 'seen'>,
  part: Part,
  place: string,
  told: Json,
): boolean {
  const fields = fieldsOf(told);
  switch (part.kind) {
    case 'effect': {
      const effect = seen.effects.get(place);
      return (
        effect !== undefined &&
        effect.appliedCount === 1 &&
        fields.receipt === effect.receipt &&
        [...effect.tokens].every((token) => token === fields.token)
      );
    }
    case 'broken': {
      const effect = seen.effects.get(place);
      return effect?.appliedCount === 1 && told === effect.receipt;
    }
    case 'count':
      return told === 1 && seen.counters.get(place) === 1;
    case 'event': {
      const wait = seen.waits.get(place);
      if (!wait || wait.outcome !== fields.outcome) return false;
      if (fields.outcome === 'timeout') return part.comes === 'race' || part.comes === 'never';
      const stored = seen.events.get(`${label}/${place}`);
      return (
        fields.outcome === 'event' &&
        stored !== undefined &&
        fields.payload === stored &&
        wait.payload === stored
      );
    }
    case 'send': {
      const [sender, ...more] = seen.senders.get(`${label}/${place}`) ?? [];
      return more.length === 0 && sender !== undefined && told === (sender === seen.run.run_id);
    }
    case 'sleep':
    case 'until':
      return typeof fields.sleptMs === 'number' && fields.sleptMs >= part.durationMs;
    case 'refusal':
      return told === REFUSED;
    case 'child': {
      const [child] = childrenAt(label, place, part);
      const [row] = seen.children.get(`${place} ${child?.key}`) ?? [];
      return row?.status === 'failed' ? told === REFUSED : row !== undefined && isSame(told, row.output);
    }
    case 'race':
      return isRaceTrue({ label, seen }, part, place, fields);
    case 'failure':
    case 'relay':
    case 'branches':
      return false;
    default:
      return part satisfies never;
  }
}

/** Every runner is in the list of how it ended, and those that were wanted completed. */
function isRaceTrue(
  { label, seen }: Pick<Hearing, 'label' | 'seen'>,
  part: Extract<Part, { kind: 'race' }>,
  place: string,
  told: Readonly<Record<string, Json>>,
): boolean {
  const lists = ['completed', 'failed', 'cancelled'].map((status) =>
    (Array.isArray(told[status]) ? told[status] : []).map((one) => ({ status, ...fieldsOf(one as Json) })),
  );
  const listed: Readonly<Record<string, Json>>[] = lists.flat();
  return (
    lists[0]?.length === part.count &&
    listed.length === part.children.length &&
    childrenAt(label, place, part).every(({ key }) => {
      const [row] = seen.children.get(`${place} ${key}`) ?? [];
      const one = listed.find((child) => child.key === key);
      return (
        one?.runId === row?.run_id &&
        one?.status === row?.status &&
        (one?.status !== 'completed' || isSame(one.output ?? null, row?.output ?? null))
      );
    })
  );
}

function isSame(one: Json, other: Json): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

function fieldsOf(told: Json): Readonly<Record<string, Json>> {
  return told !== null && typeof told === 'object' && !Array.isArray(told)
    ? (told as Readonly<Record<string, Json>>)
    : {};
}

async function byRun<Row extends { run_id: string }>(
  db: Database,
  text: string,
): Promise<Map<string, Row[]>> {
  const { rows } = await db.query<Row>({ text });
  return Map.groupBy(rows, (row) => row.run_id);
}
