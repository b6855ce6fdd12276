/**
 * Guarantee: an operator at the command line sees what any run did, waits for and needs, and can cancel, pause, resume and retry it,
 * whichever process works it. A word that changed something stands in the ledger with who and why, once; one that changed nothing leaves
 * no trace and says why. What is shown hides credentials, moves no cursor, fits a terminal, and says where it was cut.
 *
 * Every command is a process of its own; the engines that work the runs live in the test's process.
 */
import { spawn } from 'node:child_process';
import { randomUUIDv7 } from 'node:crypto';
import { once } from 'node:events';
import { userInfo } from 'node:os';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { CountersignError } from '../../src/errors.ts';
import type { RunRef, Step } from '../../src/types.ts';
import { until, useDatabase, WORKSPACE } from '../support/database.ts';
import { define, useEngines } from './runs-support.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const OPERATOR = `cli/${userInfo().username}`;
/** Shaped as a GitHub token; made up. */
const SECRET = `ghp_${'a1B2'.repeat(9)}`;

const base = useDatabase();
const { engineWith, startRun, runRow, ended, emit, childrenOf } = useEngines(base);

const hold = { event: 'hold', timeoutMs: 3_600_000 };

interface Ended {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

function runs(...args: readonly string[]): Promise<Ended> {
  return countersign(['runs', ...args], base.appUrl);
}

function countersign(args: readonly string[], databaseUrl: string): Promise<Ended> {
  const child = spawn(process.execPath, ['src/cli.mjs', ...args], {
    cwd: ROOT,
    env: { PATH: process.env.PATH, DATABASE_URL: databaseUrl },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [out, err] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    err += text;
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status) => resolve({ status, out, err }));
  });
}

/** What a successful command printed, which fits a terminal. */
async function shown(...args: readonly string[]): Promise<string> {
  const { status, out, err } = await runs(...args);
  expect({ status, err }, out).toEqual({ status: 0, err: '' });
  for (const line of out.split('\n')) expect([...line].length, line).toBeLessThanOrEqual(120);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there.
  expect(out).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/);
  return out;
}

async function json<T>(...args: readonly string[]): Promise<T> {
  const { status, out, err } = await runs(...args, '--json');
  expect({ status, err }, out).toEqual({ status: 0, err: '' });
  expect(out.trim().split('\n')).toHaveLength(1);
  return JSON.parse(out) as T;
}

/** The one line of a refused command. */
async function refused(...args: readonly string[]): Promise<string> {
  const { status, err } = await runs(...args);
  expect(status).toBe(1);
  const lines = err.split('\n').filter((line) => line !== '' && !line.startsWith('(countersign --help'));
  expect(lines, err).toHaveLength(1);
  return lines[0] ?? '';
}

/** What the ledger holds on a run: kind, facts, words. */
async function ledgerOf(run: RunRef) {
  const { rows } = await base.db.query<{ kind: string; body: string; words: string | null }>({
    text: `select entry_kind as kind, body, words from ledger_entries left join ledger_words using (workspace_id, entry_id)
           where subject_kind = 'run' and subject_id = $1 order by subject_seq`,
    values: [run.runId],
  });
  return rows.map(({ kind, body, words }) => ({ kind, facts: JSON.parse(body).facts, words }));
}

/** A run with a journal nobody has to work for. */
async function insertRun(
  values: { readonly runId?: string; readonly status?: string; readonly workflow?: string } = {},
): Promise<RunRef> {
  const run = { workspaceId: WORKSPACE, runId: values.runId ?? randomUUIDv7() };
  await base.db.query({
    text: `insert into runs (workspace_id, run_id, workflow_name, workflow_version, status, input, origin, owner_team_id, owner_user_id)
           values ($1, $2, $3, 1, $4, '{}', 'signal', 'T0LOCAL', 'U0REQUESTER')`,
    values: [run.workspaceId, run.runId, values.workflow ?? 'inserted', values.status ?? 'completed'],
  });
  return run;
}

describe('steering a run that another process works', () => {
  test('cancel aborts it, is recorded once with who and why, and says so when repeated', async () => {
    const begun = Promise.withResolvers<void>();
    const aborted = Promise.withResolvers<void>();
    const flow = define((step) =>
      step.run('long', ({ signal }) => {
        begun.resolve();
        return new Promise((resolve) => {
          signal.addEventListener('abort', () => {
            aborted.resolve();
            resolve(null);
          });
        });
      }),
    );
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await begun.promise;

    const first = await shown('cancel', run.runId, '--reason', `asked twice ${SECRET}`);
    expect(first).toBe(`Run ${run.runId} is being cancelled, and every run below it.\n`);
    await aborted.promise;
    const row = await ended(run, 'cancelled');
    expect(row.error).toMatchObject({ code: 'RUN_CANCELLED', message: 'asked twice [secret]' });

    expect(await json('cancel', run.runId, '--reason', 'again')).toEqual({
      runId: run.runId,
      changed: false,
      status: 'cancelled',
    });
    expect(await shown('cancel', run.runId, '--reason', 'again')).toContain('is cancelled already');
    expect(await ledgerOf(run)).toEqual([
      {
        kind: 'run.cancelled',
        facts: { by: OPERATOR, status: 'cancelling' },
        words: 'asked twice [secret]',
      },
    ]);
  });

  test('pause lets the step in flight finish, resume goes on; both are recorded, repetitions are not', async () => {
    const gate = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    const bodies: string[] = [];
    const flow = define(async (step) => {
      await step.run('one', async () => {
        bodies.push('one');
        begun.resolve();
        await gate.promise;
      });
      await step.run('two', async () => bodies.push('two'));
    });
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await begun.promise;

    expect(await json('pause', run.runId, '--reason', 'a freeze')).toEqual({
      runId: run.runId,
      changed: true,
      status: 'running',
    });
    expect(await shown('pause', run.runId)).toContain('was asked to pause already');
    expect(await shown('list', '--workflow', flow.name)).toContain('pausing');
    gate.resolve();
    await ended(run, 'paused');
    expect(await shown('pause', run.runId)).toContain('is paused already');
    expect(await shown('show', run.runId)).toContain(`\n  countersign runs resume ${run.runId}\n`);
    expect(await refused('retry', run.runId)).toContain(`countersign runs resume ${run.runId}`);

    expect(await shown('resume', run.runId)).toBe(`Run ${run.runId} goes on.\n`);
    await ended(run, 'completed');
    expect(bodies).toEqual(['one', 'two']);
    expect(await ledgerOf(run)).toEqual([
      { kind: 'run.paused', facts: { by: OPERATOR, status: 'running' }, words: 'a freeze' },
      { kind: 'run.resumed', facts: { by: OPERATOR, status: 'queued' }, words: null },
    ]);
  });

  test('retry says from which step, and repeats nothing that finished', async () => {
    const bodies: string[] = [];
    let broken = true;
    const flow = define(async (step) => {
      await step.run('one', async () => bodies.push('one'));
      await step.branch('left', (own) =>
        own.run('two', async () => {
          bodies.push('two');
          if (broken) throw new CountersignError('TOOL_REFUSED', `no entry with ${SECRET}`);
        }),
      );
    });
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await ended(run, 'failed');
    expect(await refused('resume', run.runId)).toContain(`countersign runs retry ${run.runId}`);
    expect(await shown('show', run.runId)).toContain(
      `works it again from step left/two; what finished is kept.\n  countersign runs retry ${run.runId}\n`,
    );
    broken = false;

    expect(await shown('retry', run.runId, '--reason', 'the token was renewed')).toContain(
      'worked again from step left/two',
    );
    await ended(run, 'completed');
    expect(bodies).toEqual(['one', 'two', 'two']);
    expect(await ledgerOf(run)).toEqual([
      {
        kind: 'run.retried',
        facts: { by: OPERATOR, from: 'left/two', status: 'queued' },
        words: 'the token was renewed',
      },
    ]);
    const report = await shown('show', run.runId);
    expect(report).toMatch(/left\/two +\(retried later\) ! TOOL_REFUSED: no entry with \[secret\]/);
    expect(report).toMatch(/left\/two@2 +null/);
  });

  test('a completed run cannot be told anything', async () => {
    const run = await insertRun();
    const words = ['cancel', 'pause', 'resume', 'retry'];

    const answers = await Promise.all(
      words.map((word) =>
        runs(word, run.runId, ...(word === 'cancel' ? ['--reason', 'late'] : []), '--json'),
      ),
    );

    for (const { status, out, err } of answers) {
      expect([status, JSON.parse(out)]).toEqual([
        1,
        { runId: run.runId, changed: false, status: 'completed' },
      ]);
      expect(err).toMatch(
        new RegExp(
          `^countersign: Run ${run.runId} is completed and cannot be \\w+ed; nothing was changed\n$`,
        ),
      );
    }
    expect(await ledgerOf(run)).toEqual([]);
  });

  test('a word whose entry cannot be written changes nothing', async () => {
    const run = await insertRun({ status: 'waiting' });
    await base.db.query({
      text: `insert into ledger_subjects (workspace_id, subject_kind, subject_id, last_seq, last_hash, prev_hash)
      values ($1, 'run', $2, 9223372036854775807, '', '')`,
      values: [WORKSPACE, run.runId],
    });

    expect(await refused('pause', run.runId)).toContain('out of range');

    expect((await runRow(run)).status).toBe('waiting');
  });
});

describe('runs list', () => {
  test('newest first, children marked, filtered and bounded, saying when there are more', async () => {
    const child = define((step) => step.waitForEvent('hold', { ...hold, key: 'of-the-child' }));
    const parent = define((step) => step.invoke('do-it', child, { n: 1 }));
    const engine = await engineWith([child, parent]);
    await engine.work();
    const older = await insertRun({ workflow: parent.name, status: 'failed' });
    const run = await startRun(engine, parent);
    const childRun = await until('the child to wait', async () => {
      const row = (await childrenOf(run))[0];
      return row?.status === 'waiting' && row;
    });
    await ended(run, 'waiting');

    const all = (await shown('list', '--limit', '500')).split('\n');
    const at = (id: string) => all.findIndex((line) => line.startsWith(id));
    expect(at(childRun.run_id)).toBeGreaterThan(0);
    expect(at(childRun.run_id)).toBeLessThan(at(older.runId));
    expect(at(run.runId)).toBeGreaterThan(0);
    expect(at(run.runId)).toBeLessThan(at(older.runId));
    expect(all[at(childRun.run_id)]).toMatch(new RegExp(`  · ${child.name}@1 +waiting `));
    expect(all[at(childRun.run_id)]).toMatch(/in 59m: event hold of-the-child$/);
    expect(all[at(run.runId)]).toMatch(/1 of its children, do-it$/);
    expect(all[at(older.runId)]).toContain('U0REQUESTER');

    const some = await json<{ runs: { runId: string; status: string }[]; more: boolean }>(
      'list',
      '--workflow',
      parent.name,
      '--status',
      'waiting',
      'failed',
      '--limit',
      '1',
    );
    expect(some).toMatchObject({ runs: [{ runId: run.runId, status: 'waiting' }], more: true });
    expect(await shown('list', '--workflow', parent.name, '--limit', '1')).toContain('there are more');
    expect(await json('list', '--workflow', parent.name, '--status', 'parked')).toEqual({
      runs: [],
      more: false,
    });
    expect(await json<object>('list', '--workflow', child.name)).toMatchObject({
      runs: [
        {
          runId: childRun.run_id,
          workflowName: child.name,
          workflowVersion: 1,
          status: 'waiting',
          pausing: false,
          owner: null,
          parentRunId: run.runId,
          childKey: 'do-it',
          depth: 1,
          createdAt: expect.stringMatching(/^\d{4}-.*Z$/),
          finishedAt: null,
          error: null,
          wait: {
            kind: 'event',
            event: { name: 'hold', key: 'of-the-child' },
            deadlineAt: expect.any(String),
          },
          waitCount: 1,
        },
      ],
      more: false,
    });
    expect(await shown('show', run.runId)).toContain(childRun.run_id);
  });
});

describe('runs show', () => {
  test('what it did, how often it tried, what it waits for; no credential, no control character', async () => {
    const hostile = '\u001b[2Jgone\u202e\u009b31m';
    let tries = 0;
    const body = async (step: Step) => {
      await step.run(
        'flaky',
        async () => {
          tries += 1;
          if (tries < 3) throw new Error('not yet');
          return { token: SECRET, says: hostile };
        },
        { backoffMs: 1 },
      );
      await step.run('large', async () => `${'x'.repeat(30_000)} ${SECRET}`);
      // The cut of a long value goes through the credential: 4,096 characters are read.
      await step.run('straddling', async () => `${'y'.repeat(4_081)} ${SECRET}`);
      await step.waitForEvent('decision', { ...hold, key: `${hostile} ${SECRET}` });
    };
    const flow = define(body, undefined, 1, { cancelOn: () => [{ event: 'order-withdrawn', key: '7' }] });
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await ended(run, 'waiting');

    const report = await shown('show', run.runId);
    const whole = await json<{
      trace: { total: number; entries: { path: string; tryCount: number; result: object }[] };
    }>('show', run.runId);

    for (const text of [report, JSON.stringify(whole)]) expect(text).not.toContain(SECRET.slice(0, 12));
    expect(report).toMatch(/ 3 +run +flaky +\{"token":"\[secret\]",/);
    expect(report).toMatch(/ 1 +run +large +30\.0 kB "xxx.*…$/m);
    expect(report).toContain('event hold \\u{1b}[2Jgone\\u{202e}\\u{9b}31m [secret] (step decision)');
    expect(report).toMatch(/since \S+Z \(\d+m?s ago\), until \S+Z \(in 59m\)/);
    expect(report).toContain('event order-withdrawn 7, which would cancel it');
    expect(report).toContain('as long as it lives');
    expect(report).toContain(`countersign runs cancel ${run.runId} --reason "…"`);
    expect(whole).toMatchObject({
      runId: run.runId,
      status: 'waiting',
      origin: 'signal',
      retryCount: 0,
      input: { text: '{"n":1}', byteCount: 7, cut: false },
      output: null,
      waits: [
        { path: 'decision', kind: 'event' },
        { kind: 'cancel', event: { name: 'order-withdrawn', key: '7' }, deadlineAt: null },
      ],
      children: { runs: [], more: false },
    });
    expect(whole.trace).toMatchObject({
      total: 3,
      entries: [
        { path: 'flaky', kind: 'run', tryCount: 3, outcome: null, error: null, passedOver: false },
        { path: 'large', tryCount: 1, result: { byteCount: 30_043, cut: true } },
        { path: 'straddling', result: { cut: true } },
      ],
    });
  });

  test('a parked run says what a person can do, and retry works it again', async () => {
    let other = false;
    const flow = define(async (step) => {
      await step.run('one', async () => 1, { input: other ? 'b' : 'a' });
      await step.waitForEvent('hold', { ...hold, key: step.runRef.runId });
      return 'through';
    });
    const engine = await engineWith([flow]);
    await engine.work();
    const run = await startRun(engine, flow);
    await ended(run, 'waiting');
    other = true;
    await emit(engine, 'hold', run.runId);
    await ended(run, 'parked');
    other = false;

    const report = await shown('show', run.runId);
    expect(report).toMatch(/^Error +JOURNAL_MISMATCH: /m);
    expect(report).toContain(`countersign runs retry ${run.runId}`);

    expect(await shown('retry', run.runId)).toContain('is worked again; what finished is kept');
    await ended(run, 'completed');
    expect(await shown('show', run.runId)).toMatch(/^Output +"through"$/m);
  });

  test('of a thousand steps the middle is left out, which is said; --all shows each', async () => {
    const run = await insertRun();
    await base.db.query({
      text: `insert into steps (workspace_id, run_id, path, kind, fence, result, started_at, finished_at)
             select $1, $2, 'step#' || n, 'run', 1, n::text::json, db_now(), db_now() + n * interval '1 second' from generate_series(1, 1000) n`,
      values: [run.workspaceId, run.runId],
    });

    const report = await shown('show', run.runId);
    expect(report).toContain('(1000)');
    expect(report).toMatch(
      new RegExp(
        `step#20 .*\\n  … 940 steps are not shown: countersign runs show ${run.runId} --all\\n.*step#961 `,
      ),
    );
    expect(report.match(/ step#\d+ /g)).toHaveLength(60);
    const all = await shown('show', run.runId, '--all');
    expect(all.match(/ step#\d+ /g)).toHaveLength(1_000);
    expect(all).not.toContain('not shown');
  });
});

test('a reader that has had enough is no error', async () => {
  await base.db.query({
    text: `insert into runs (workspace_id, run_id, workflow_name, workflow_version, status, input, origin)
           select $1, gen_random_uuid(), 'many', 1, 'completed', '{}', 'signal' from generate_series(1, 500)`,
    values: [WORKSPACE],
  });
  const child = spawn(process.execPath, ['src/cli.mjs', 'runs', 'list', '--limit', '500', '--json'], {
    cwd: ROOT,
    env: { PATH: process.env.PATH, DATABASE_URL: base.appUrl },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let err = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    err += text;
  });
  child.stdout.once('data', () => child.stdout.destroy());
  const [status] = await once(child, 'close');

  expect({ status, err }).toEqual({ status: 0, err: '' });
});

describe('naming a run', () => {
  test('by its beginning where that is unique; else the candidates are named', async () => {
    const first = await insertRun({ runId: '01990000-aaaa-7000-8000-000000000001', status: 'waiting' });
    const second = await insertRun({ runId: '01990000-bbbb-7000-8000-000000000002', status: 'waiting' });

    for (const prefix of ['01990000-a', '01990000AAAA', '01990000-aaaa-'])
      expect(await json('show', prefix)).toMatchObject({ runId: first.runId });
    for (const word of ['show', 'pause'])
      expect(await refused(word, '01990000')).toBe(
        `countersign: More than one run begins with 01990000: ${first.runId}, ${second.runId}; give more of it`,
      );
    expect(await json('pause', '01990000-bb')).toEqual({
      runId: second.runId,
      changed: true,
      status: 'paused',
    });
  });

  test('what is no id is refused as such', async () => {
    const wrong = ['0199000', 'not-a-run-id', '0199-0000', '01990000-aaaa-7000-8000-0000000000011'];

    for (const line of await Promise.all(wrong.map((id) => refused('show', id))))
      expect(line).toMatch(/^countersign: .* is no run id/);
  });

  test('an unknown run is one line', async () => {
    const id = '01900000-0000-7000-8000-000000000000';
    const lines = [refused('show', id), refused('cancel', id, '--reason', 'x'), refused('retry', id)];

    for (const line of await Promise.all(lines)) expect(line).toBe(`countersign: There is no run ${id}`);
  });
});

describe('what keeps a command from working is one line', () => {
  test('what was typed wrong is named', async () => {
    const cases = [
      [['cancel', '01990000'], '--reason'],
      [['cancel', '01990000', '--reason', ' '], '--reason is blank'],
      [['pause', '01990000', '--reason', 'x'.repeat(501)], '501 characters'],
      [['list', '--status', 'asleep'], 'asleep'],
      [['list', '--limit', '0'], '--limit'],
      [['show'], 'run-id'],
    ] as const;

    await Promise.all(cases.map(async ([args, named]) => expect(await refused(...args)).toContain(named)));
  });

  test('a database that is away', async () => {
    const { status, err } = await countersign(['runs', 'list'], 'postgres://app:pw@127.0.0.1:1/countersign');

    expect(status).toBe(1);
    expect(err).toMatch(/^countersign: Cannot reach the database at 127\.0\.0\.1:1\/countersign: .*\n$/);
  });

  test('a database without the schema', async () => {
    const url = new URL(base.appUrl);
    url.pathname = '/postgres';
    const { status, err } = await countersign(['runs', 'list'], url.href);

    expect(status).toBe(1);
    expect(err).toMatch(/^countersign: The database lacks \d+ migration\(s\), .*\n$/);
  });

  test('the help of every verb has an example', async () => {
    const verbs = ['list', 'show', 'cancel', 'pause', 'resume', 'retry'];
    const helps = await Promise.all(verbs.map((verb) => shown(verb, '--help')));

    for (const [place, help] of helps.entries())
      expect(help).toMatch(new RegExp(`Examples?:\\n {2}\\$ countersign runs ${verbs[place]} `));
  });
});
