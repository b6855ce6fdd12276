/**
 * `countersign runs`: what runs did and wait for, and an operator's word on them. Thin over `src/jobs`; works no run itself, so that
 * it reaches runs of any process.
 *
 * Invariants. An operator is recorded by the name of their account on this machine, as `cli/<name>`. Text from outside stands on one
 * line, masked, with its control characters visible; no line for people is wider than `WIDTH`, and what was cut says so.
 */
import { Command, InvalidArgumentError, Option } from 'commander';
import { oneLine, visible } from '../bot/text.ts';
import { CountersignError, type StoredError } from '../errors.ts';
import { withdrawForCancel } from '../jobs/cancelling.ts';
import type { Database } from '../jobs/engine/db.ts';
import { controlOver } from '../jobs/engine/engine.ts';
import {
  findRuns,
  listRuns,
  type OpenWait,
  type RunReport,
  type RunSummary,
  readRun,
  type StoredText,
  type TraceEntry,
} from '../jobs/engine/inspect.ts';
import { openQueue } from '../jobs/engine/queue.ts';
import { type SteeredByPerson, type SteerWord, steer } from '../jobs/steering.ts';
import { createLogger } from '../log.ts';
import { RUN_STATUSES, type RunStatus, type WorkspaceId } from '../types.ts';
import { operator, withDatabase } from './operator.ts';
import { complain, print, printJson } from './output.ts';

/** Most terminals that people read logs in are at least this wide. */
const WIDTH = 120;
const LISTED = 50;
const MAX_LISTED = 500;
/** Of a long trace, people read how it began and how it stands. */
const TRACE_SHOWN = { first: 20, last: 40 };
/** More than any workflow should journal; beyond it a report no longer fits memory comfortably. */
const TRACE_WHOLE = { first: 10_000, last: 0 };
/** As many candidates as a line holds. */
const CANDIDATES = 3;
/** Shown on the command line, in the ledger and as the run's error. */
const MAX_REASON_LENGTH = 500;
/** A queued run is taken within milliseconds by a process that carries it. */
const TAKEN_WITHIN_MS = 30_000;

/** The `runs` command with its verbs. Register with `program.addCommand(runsCommand())`. Throws CountersignErrors with one clear line. */
export function runsCommand(): Command {
  const runs = new Command('runs')
    .description('Look at runs; cancel, pause, resume and retry them')
    // `addCommand` hands nothing of the program down; the verbs below inherit this.
    .exitOverride()
    .showHelpAfterError('(countersign --help lists the commands)');
  runs
    .command('list')
    .description('List runs, newest first')
    .addOption(new Option('--status <status...>', 'only those of these statuses').choices(RUN_STATUSES))
    .option('--workflow <name>', 'only those of one workflow')
    .option('--limit <count>', `at most so many, up to ${MAX_LISTED}`, parseLimit, LISTED)
    .option('--json', 'print one JSON object: {runs, more}')
    .addHelpText(
      'after',
      '\nExamples:\n  $ countersign runs list --status parked failed\n  $ countersign runs list --workflow handle-task --limit 10 --json',
    )
    .action(list);
  verb(runs, 'show', 'Show what a run did, step by step, what it waits for and what a person can do')
    .option('--all', `show every step of a long run, up to ${TRACE_WHOLE.first}`)
    .option('--json', 'print one JSON object, with every step')
    .addHelpText('after', '\nExample:\n  $ countersign runs show 0199f1aa-3c41')
    .action(show);
  verb(runs, 'cancel', 'Cancel a run and every run below it: steps in flight are aborted, requests withdrawn')
    .requiredOption('--reason <words>', 'why, for the ledger and for whoever waits for it')
    .option('--json', 'print {runId, changed, status}')
    .addHelpText('after', '\nExample:\n  $ countersign runs cancel 0199f1aa-3c41 --reason "asked twice"')
    .action((id: string, options: SteerOptions) => steerRun(id, 'cancel', options));
  for (const [word, description] of [
    ['pause', 'Let a run rest after the steps in flight; what it waits for may happen meanwhile'],
    ['resume', 'Let a paused run go on'],
    ['retry', 'Work a failed run again from the step that failed, a parked one as it is'],
  ] as const)
    verb(runs, word, description)
      .option('--reason <words>', 'why, for the ledger')
      .option('--json', 'print {runId, changed, status}')
      .addHelpText('after', `\nExample:\n  $ countersign runs ${word} 0199f1aa-3c41`)
      .action((id: string, options: SteerOptions) => steerRun(id, word, options));
  return runs;
}

function verb(runs: Command, name: string, description: string): Command {
  return runs
    .command(name)
    .description(description)
    .argument('<run-id>', 'the id, or its first 8 or more digits where they are unique');
}

function parseLimit(text: string): number {
  const limit = Number(text);
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LISTED)
    throw new InvalidArgumentError(`A whole number from 1 to ${MAX_LISTED} is needed.`);
  return limit;
}

interface ListOptions {
  readonly status?: readonly RunStatus[];
  readonly workflow?: string;
  readonly limit: number;
  readonly json?: boolean;
}

async function list(options: ListOptions): Promise<void> {
  await withDatabase('runs', async (database, workspaceId) => {
    const { status, workflow, limit } = options;
    const { runs, more, now } = await listRuns(database, {
      workspaceId,
      limit,
      ...(status === undefined ? {} : { statuses: status }),
      ...(workflow === undefined ? {} : { workflowName: workflow }),
    });
    if (options.json) return printJson({ runs, more });
    if (runs.length === 0)
      return print(
        status === undefined && workflow === undefined ? 'There are no runs.' : 'No run is like that.',
      );
    const rows = runTable(runs, now, '');
    if (more) rows.push(`Showing the newest ${limit}; there are more (--limit, --status, --workflow).`);
    print(...rows);
  });
}

async function show(idOrPrefix: string, options: { all?: boolean; json?: boolean }): Promise<void> {
  await withDatabase('runs', async (database, workspaceId) => {
    const runId = await resolve(database, workspaceId, idOrPrefix);
    const bounds = options.all || options.json ? TRACE_WHOLE : TRACE_SHOWN;
    const report = await readRun(database, workspaceId, runId, bounds);
    if (report === null) throw new CountersignError('RUN_NOT_FOUND', `There is no run ${runId}`);
    if (options.json) printJson(report);
    else print(...describe(report));
  });
}

interface SteerOptions {
  readonly reason?: string;
  readonly json?: boolean;
}

/** In these states a word has nothing to do, because what it asks for is so already. In all others it cannot be followed. */
const IS_SO_ALREADY: Readonly<Record<SteerWord, readonly RunStatus[]>> = {
  cancel: ['cancelling', 'cancelled'],
  // Running and unchanged: it was asked to pause before.
  pause: ['paused', 'running'],
  resume: ['queued', 'running', 'waiting'],
  retry: ['queued', 'running', 'waiting'],
};

async function steerRun(idOrPrefix: string, word: SteerWord, options: SteerOptions): Promise<void> {
  const reason = options.reason ?? null;
  if (reason?.trim() === '') throw new CountersignError('CONFIG_INVALID', '--reason is blank; say why');
  if (reason !== null && reason.length > MAX_REASON_LENGTH)
    throw new CountersignError(
      'CONFIG_INVALID',
      `--reason is ${reason.length} characters long; at most ${MAX_REASON_LENGTH} are kept`,
    );
  await withDatabase('runs', async (database, workspaceId) => {
    const runId = await resolve(database, workspaceId, idOrPrefix);
    const queue = await openQueue(database, createLogger({ level: 'silent' }), { upkeep: false });
    try {
      const control = controlOver({ queue, onCancel: withdrawForCancel });
      const answer = await database.transaction((tx) =>
        steer(tx, control, { workspaceId, runId }, word, { by: `cli/${operator()}`, reason }),
      );
      const { changed, status } = answer;
      const cannot = !changed && !IS_SO_ALREADY[word].includes(status);
      if (options.json) printJson({ runId, changed, status });
      else if (!cannot) print(changed ? done(runId, word, answer) : soAlready(runId, word, status));
      if (!cannot) return;
      complain(refusal(runId, word, status));
      process.exitCode = 1;
    } finally {
      await queue.close();
    }
  });
}

function done(runId: string, word: SteerWord, { status, retriedFrom }: SteeredByPerson): string {
  switch (word) {
    case 'cancel':
      return `Run ${runId} is being cancelled, and every run below it.`;
    case 'pause':
      return status === 'paused'
        ? `Run ${runId} is paused.`
        : `Run ${runId} will be paused after the steps in flight.`;
    case 'resume':
      return `Run ${runId} goes on.`;
    case 'retry':
      return retriedFrom === null
        ? `Run ${runId} is worked again; what finished is kept.`
        : `Run ${runId} is worked again from step ${retriedFrom}; what finished is kept.`;
    default:
      return word satisfies never;
  }
}

function soAlready(runId: string, word: SteerWord, status: RunStatus): string {
  if (word === 'pause' && status === 'running')
    return `Run ${runId} was asked to pause already; steps are still in flight. Nothing was changed.`;
  return word === 'cancel' || word === 'pause'
    ? `Run ${runId} is ${status} already; nothing was changed.`
    : `Run ${runId} is at work already (${status}); nothing was changed.`;
}

const PARTICIPLE: Readonly<Record<SteerWord, string>> = {
  cancel: 'cancelled',
  pause: 'paused',
  resume: 'resumed',
  retry: 'retried',
};

function refusal(runId: string, word: SteerWord, status: RunStatus): string {
  const hint =
    word === 'retry' && status === 'paused'
      ? `; "countersign runs resume ${runId}" lets it go on`
      : word === 'resume' && (status === 'failed' || status === 'parked')
        ? `; "countersign runs retry ${runId}" works it again`
        : '';
  return `Run ${runId} is ${status} and cannot be ${PARTICIPLE[word]}; nothing was changed${hint}`;
}

async function resolve(database: Database, workspaceId: WorkspaceId, idOrPrefix: string): Promise<string> {
  const found = await findRuns(database, workspaceId, idOrPrefix, CANDIDATES + 1);
  if (found === null)
    throw new CountersignError(
      'CONFIG_INVALID',
      `${shown(JSON.stringify(idOrPrefix), 60)} is no run id: give it whole, or its first 8 or more digits; "countersign runs list" shows them`,
    );
  const [only, another] = found;
  if (only === undefined) throw new CountersignError('RUN_NOT_FOUND', `There is no run ${idOrPrefix}`);
  if (another !== undefined) {
    const candidates = found.slice(0, CANDIDATES).join(', ') + (found.length > CANDIDATES ? ', …' : '');
    throw new CountersignError(
      'RUN_NOT_FOUND',
      `More than one run begins with ${idOrPrefix}: ${candidates}; give more of it`,
    );
  }
  return only;
}

function runTable(runs: readonly RunSummary[], now: Date, indent: string): string[] {
  return table(
    ['RUN', 'WORKFLOW', 'STATUS', 'AGE', 'OWNER', 'AT'],
    runs.map((run) => [
      run.runId,
      fromEnd(`${'· '.repeat(run.depth)}${run.workflowName}@${run.workflowVersion}`, 26),
      run.pausing ? 'pausing' : run.status,
      span(now.getTime() - run.createdAt.getTime()),
      shown(run.owner?.userId ?? '-', 12),
      standing(run, now),
    ]),
    indent,
  );
}

/** Where a run stands, in a few words. */
function standing(run: RunSummary, now: Date): string {
  const after = run.lastPath === null ? 'before its first step' : `after ${run.lastPath}`;
  const why = (error: StoredError | null) => (error === null ? '' : `${error.code}: ${error.message}`);
  switch (run.status) {
    case 'queued':
    case 'running':
      return after;
    case 'waiting':
    case 'paused': {
      if (run.wait === null) return after;
      const others = run.waitCount > 1 ? ` +${run.waitCount - 1}` : '';
      return `${due(run.wait, now)}${others}: ${waitsFor(run.wait)}`;
    }
    case 'failed':
      return `${run.failedPath === null ? '' : `${run.failedPath}: `}${why(run.error)}`;
    case 'cancelling':
    case 'cancelled':
      return run.error?.message ?? '';
    case 'parked':
      return why(run.error);
    case 'completed':
      return run.finishedAt === null
        ? ''
        : `took ${span(run.finishedAt.getTime() - run.createdAt.getTime())}`;
    default:
      return run.status satisfies never;
  }
}

function waitsFor(wait: OpenWait): string {
  const event = wait.event === null ? '' : `event ${wait.event.name} ${wait.event.key}`;
  switch (wait.kind) {
    case 'event':
      return event;
    case 'cancel':
      return `${event}, which would cancel it`;
    case 'sleep':
      return `sleep ${wait.path}`;
    case 'retry':
      return `another try of ${wait.path.replace(/~\d+$/, '')}`;
    case 'children':
      return `${wait.neededCount} of its children, ${wait.path}`;
    default:
      return wait.kind satisfies never;
  }
}

function due(wait: OpenWait, now: Date): string {
  if (wait.deadlineAt === null) return 'no deadline';
  const leftMs = wait.deadlineAt.getTime() - now.getTime();
  return leftMs <= 0 ? 'due' : `in ${span(leftMs)}`;
}

function describe(run: RunReport): string[] {
  const { now } = run;
  const lines = [
    ...field('Run', run.runId),
    ...field('Workflow', `${run.workflowName}@${run.workflowVersion}`),
    ...field('Status', run.pausing ? `${run.status}, will pause after the steps in flight` : run.status),
    ...field('Owner', run.owner === null ? '-' : `${run.owner.teamId}/${run.owner.userId}`),
    ...field('Origin', run.origin + (run.audience === null ? '' : `, audience ${run.audience}`)),
    ...(run.parentRunId === null
      ? []
      : field('Child of', `${run.parentRunId}${run.childKey === null ? '' : ` as ${run.childKey}`}`)),
    ...field('Created', moment(run.createdAt, now)),
    ...(run.finishedAt === null ? [] : field('Finished', moment(run.finishedAt, now))),
    ...field('Attempts', `${run.fence}${run.retryCount === 0 ? '' : `, retried ${run.retryCount} time(s)`}`),
    ...(run.worker === null ? [] : field('Worked by', heldBy(run.worker))),
    ...(run.error === null ? [] : field('Error', `${run.error.code}: ${run.error.message}`, 6)),
    ...field('Input', shownValue(run.input, WIDTH - 12)),
    ...(run.output === null || run.status !== 'completed'
      ? []
      : field('Output', shownValue(run.output, WIDTH - 12))),
    '',
    ...trace(run),
  ];
  if (run.waits.length > 0) {
    lines.push('', 'Waits for');
    for (const wait of run.waits)
      lines.push(
        shown(`  ${waitsFor(wait)} (step ${wait.path})`, WIDTH),
        `    since ${moment(wait.since, now)}, ${wait.deadlineAt === null ? 'as long as it lives' : `until ${instant(wait.deadlineAt)} (${due(wait, now)})`}`,
      );
  }
  if (run.children.runs.length > 0) {
    lines.push('', 'Children', ...runTable(run.children.runs, now, '  '));
    if (run.children.more) lines.push(`  Showing the oldest ${run.children.runs.length}; there are more.`);
  }
  return [...lines, '', ...next(run).map((line) => shown(line, WIDTH))];
}

function heldBy({ workerId, pid, alive }: NonNullable<RunReport['worker']>): string {
  return `process ${pid ?? '?'}, worker ${workerId}${alive ? '' : ': its lease has ended, another process takes over'}`;
}

function trace({ runId, trace: { total, shownFirst, entries } }: RunReport): string[] {
  if (total === 0) return ['No step has finished.'];
  const rows = table(
    ['FINISHED', 'TOOK', 'TRIES', 'KIND', 'STEP', 'RESULT'],
    entries.map((entry) => [
      instant(entry.finishedAt),
      span(entry.durationMs),
      String(entry.tryCount),
      entry.kind,
      fromEnd(entry.path, 40),
      (entry.passedOver ? '(retried later) ' : '') + resultOf(entry),
    ]),
    '  ',
  );
  const missing = total - entries.length;
  if (missing > 0)
    rows.splice(
      1 + shownFirst,
      0,
      `  … ${missing} steps are not shown: countersign runs show ${runId} ${shownFirst < TRACE_WHOLE.first ? '--all' : '(too many)'}`,
    );
  return [`Steps, in the order of finishing (${total})`, ...rows];
}

function resultOf(entry: TraceEntry): string {
  if (entry.error !== null) return `! ${entry.error.code}: ${entry.error.message}`;
  if (entry.outcome === 'cancelled') return 'cancelled';
  if (entry.outcome === 'timeout') return entry.kind === 'sleep' ? 'slept' : 'timed out';
  return entry.result === null ? 'null' : shownValue(entry.result, 60);
}

/** A value that is small, or its size and beginning. */
function shownValue(value: StoredText, room: number): string {
  return value.cut || value.text.length > room ? `${size(value.byteCount)} ${value.text}…` : value.text;
}

/** What becomes of it, then what a person can do: each a line of its own, to be copied. */
function next(run: RunReport): string[] {
  const say = (word: SteerWord, runId = run.runId) =>
    `  countersign runs ${word} ${runId}${word === 'cancel' ? ' --reason "…"' : ''}`;
  switch (run.status) {
    case 'queued': {
      const waitedMs = run.now.getTime() - run.queuedAt.getTime();
      const what =
        waitedMs < TAKEN_WITHIN_MS
          ? 'It is taken up at once.'
          : `Nobody has taken it up for ${span(waitedMs)}: a process that carries its workflow has to run.`;
      return [what, say('pause'), say('cancel')];
    }
    case 'running':
      return ['It is at work.', say(run.pausing ? 'resume' : 'pause'), say('cancel')];
    case 'waiting':
      return ['It goes on by itself.', say('pause'), say('cancel')];
    case 'paused':
      return ['It goes on when it is resumed.', say('resume'), say('cancel')];
    case 'parked':
      return ['A person is needed: mend what the error names, then retry.', say('retry'), say('cancel')];
    case 'failed':
      return [
        run.failedPath === null
          ? 'A retry works it again; what finished is kept.'
          : `A retry works it again from step ${run.failedPath}; what finished is kept.`,
        say('retry'),
        ...(run.parentRunId === null
          ? []
          : ['Its parent is told only when it is retried itself.', say('retry', run.parentRunId)]),
      ];
    case 'cancelling':
      return ['Its last steps are at work, then it is cancelled.'];
    case 'completed':
    case 'cancelled':
      return ['It has ended.'];
    default:
      return run.status satisfies never;
  }
}

/** Columns as wide as they need, the last one as wide as is left. */
function table(head: readonly string[], rows: readonly (readonly string[])[], indent: string): string[] {
  const lines = [head, ...rows.map((row) => row.map((cell) => visible(oneLine(cell))))];
  const widths = head.map((_, column) => Math.max(...lines.map((line) => [...(line[column] ?? '')].length)));
  return lines.map((line) => {
    const text = line.map((cell, column) => cell + ' '.repeat((widths[column] ?? 0) - [...cell].length));
    return fitted(indent + text.join('  ').trimEnd(), WIDTH);
  });
}

/** One named value, over a few lines where it is long. */
function field(name: string, value: string, maxLines = 1): string[] {
  const room = WIDTH - 12;
  const characters = [...visible(oneLine(value))];
  const lines: string[] = [];
  for (let at = 0; at === 0 || (at < characters.length && lines.length < maxLines); at += room)
    lines.push(characters.slice(at, at + room).join(''));
  if (characters.length > maxLines * room)
    lines.splice(-1, 1, fitted(characters.slice((maxLines - 1) * room).join(''), room));
  return lines.map((line, place) => `${(place === 0 ? name : '').padEnd(12)}${line}`.trimEnd());
}

/** Outside text on one line of a terminal, where it can move no cursor. Leading blanks stay. */
function shown(text: string, width: number): string {
  const indent = /^ */.exec(text)?.[0] ?? '';
  return fitted(indent + visible(oneLine(text)), width);
}

function fitted(text: string, width: number): string {
  const characters = [...text];
  return characters.length <= width ? text : `${characters.slice(0, width - 1).join('')}…`;
}

/** Of a path, the end says most. */
function fromEnd(text: string, width: number): string {
  return text.length <= width ? text : `…${text.slice(1 - width)}`;
}

function instant(at: Date): string {
  return `${at.toISOString().slice(0, 19)}Z`;
}

function moment(at: Date, now: Date): string {
  return `${instant(at)} (${span(now.getTime() - at.getTime())} ago)`;
}

function span(durationMs: number): string {
  const ms = Math.max(0, durationMs);
  if (ms < 1_000) return `${Math.round(ms)}ms`;
  for (const [unitMs, unit, until] of [
    [1_000, 's', 120],
    [60_000, 'm', 120],
    [3_600_000, 'h', 48],
  ] as const)
    if (ms < until * unitMs) return `${Math.floor(ms / unitMs)}${unit}`;
  return `${Math.floor(ms / 86_400_000)}d`;
}

function size(bytes: number): string {
  return bytes < 1_000 ? `${bytes} B` : `${(bytes / 1_000).toFixed(1)} kB`;
}
