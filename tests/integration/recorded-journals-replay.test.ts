/**
 * Guarantee: every released version of a workflow still reads the journals it wrote. tests/golden/journals holds journals of runs that
 * ended, recorded from the whole product; each is put into an empty database as a run that lost its worker at the last moment, and is
 * worked by today's code with dependencies that throw when touched. It ends as it ended then, and not one row is added: whoever changes
 * what a released version asks of its journal sees it here, before the runs that wait in somebody's database park.
 *
 * A registered version without recordings fails. UPDATE_GOLDEN=1 records them anew: only for a version that was never released.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import { beforeAll, describe, expect, test } from 'vitest';
import { parseAst } from 'vitest/node';
import { ENGINEERS } from '../../src/agents/definitions.ts';
import { toolsFor } from '../../src/agents/tools/index.ts';
import { withdrawForCancel } from '../../src/jobs/cancelling.ts';
import { settleDigest } from '../../src/jobs/digest.ts';
import { ring } from '../../src/jobs/engine/bell.ts';
import { controlOver } from '../../src/jobs/engine/engine.ts';
import { openQueue } from '../../src/jobs/engine/queue.ts';
import type { Workflow } from '../../src/jobs/engine/workflow.ts';
import { SCHEDULE_WORD } from '../../src/jobs/schedules.ts';
import { steer } from '../../src/jobs/steering.ts';
import { type HandleTaskDeps, handleTask, handleTaskFirst } from '../../src/jobs/workflows/handle-task.ts';
import { morningDigest } from '../../src/jobs/workflows/morning-digest.ts';
import { holdsSecret } from '../../src/log.ts';
import type { Json, RunRef } from '../../src/types.ts';
import { testLog, until, useDatabase, WORKSPACE } from '../support/database.ts';
import { ENGINEERING, REVIEWER_A } from '../support/people.ts';
import { askForMerge, ledgerKinds, useProduct } from '../support/product.ts';
import { useEngines } from './runs-support.ts';

const FOLDER = path.resolve(import.meta.dirname, '../golden/journals');
const UPDATE = Boolean(process.env.UPDATE_GOLDEN);

/** Every workflow that src/main.ts registers, by the function it registers it with. */
const RELEASED: Readonly<Record<string, (touched: string[]) => Workflow>> = {
  handleTaskFirst: (touched) => handleTaskFirst(untouchable(touched)),
  handleTask: (touched) => handleTask(untouchable(touched)),
  morningDigest: (touched) => morningDigest(untouchable(touched)),
};

const RECORDED = ['handle-task@1', 'handle-task@2'].flatMap((version) =>
  ['cancelled', 'failed', 'merge-approved', 'merge-rejected', 'retried'].map((name) => `${version}/${name}`),
);

interface Recording {
  readonly workflow: string;
  readonly runId: string;
  readonly createdAt: string;
  readonly input: Json;
  /** Of a retried run. */
  readonly retried: readonly string[];
  readonly retryCount: number;
  readonly steps: readonly {
    readonly path: string;
    readonly kind: string;
    readonly inputHash: string | null;
    readonly fence: number;
    readonly error: Json;
    readonly result: Json;
    readonly startedAt: string;
    readonly finishedAt: string;
  }[];
  readonly waits: readonly {
    readonly path: string;
    readonly kind: string;
    readonly inputHash: string | null;
    readonly eventName: string | null;
    readonly eventKey: string | null;
    readonly deadlineAt: string;
    readonly outcome: string;
    readonly payload: Json;
    readonly resolvedAt: string;
  }[];
  readonly status: string;
  readonly output: Json;
  readonly error: Json;
}

const recordings = new Map<string, Recording>();
const read = () => {
  recordings.clear();
  for (const entry of readdirSync(FOLDER, { recursive: true, encoding: 'utf8' }))
    if (entry.endsWith('.json'))
      recordings.set(
        entry
          .split(path.sep)
          .join('/')
          .replace(/\.json$/, ''),
        JSON.parse(readFileSync(path.join(FOLDER, entry), 'utf8')) as Recording,
      );
};
read();

/** Data is there, whatever acts throws and is remembered. */
function untouchable(touched: string[]): HandleTaskDeps {
  const refuse = (what: string) => (): never => {
    touched.push(what);
    throw new Error(`${what} was touched`);
  };
  const acting = <T extends object>(name: string, data: Readonly<Record<string, string>> = {}): T =>
    new Proxy(data, {
      get: (known, key) => (key in known ? known[String(key)] : refuse(`${name}.${String(key)}`)),
    }) as T;
  const tools = toolsFor({ baseUrl: 'http://127.0.0.1:9', token: 'none', credential: 'none' });
  return {
    database: acting('database'),
    egress: acting('egress'),
    model: acting('model', { model: 'scripted', label: 'scripted model' }),
    tools: tools.map((tool) => ({
      ...tool,
      ...(tool.access === 'read'
        ? { read: refuse(tool.kind) }
        : {
            target: refuse(tool.kind),
            execute: refuse(tool.kind),
            reconcile: refuse(tool.kind),
          }),
    })),
    policyOf: refuse('policyOf'),
    person: refuse('person'),
    agents: ENGINEERS,
  };
}

if (UPDATE)
  describe('recording', () => {
    const story = useProduct();
    const admin = async (sql: string) => {
      const client = new pg.Client({ connectionString: story.adminUrl });
      await client.connect();
      await client.query(sql).finally(() => client.end());
    };
    const runOf = async (threadTs: string): Promise<RunRef> => {
      const { rows } = await story.db.query<{ run_id: string }>({
        text: 'select run_id from tasks where message_ts = $1',
        values: [threadTs],
      });
      return { workspaceId: WORKSPACE, runId: rows[0]?.run_id ?? '' };
    };
    const endOf = (run: RunRef, status: string) =>
      until(`run ${status}`, async () => {
        const { rows } = await story.db.query<{ status: string }>({
          text: 'select status from runs where run_id = $1',
          values: [run.runId],
        });
        return rows[0]?.status === status;
      });
    const order = async (run: RunRef, word: 'cancel' | 'retry') => {
      const queue = await openQueue(story.db, testLog);
      const control = controlOver({ queue, onCancel: withdrawForCancel });
      try {
        await story.db.transaction((tx) =>
          steer(tx, control, run, word, { by: 'cli/operator', reason: null }),
        );
      } finally {
        await queue.close();
      }
    };
    const reject = async (card: string) => {
      await story.people.click(REVIEWER_A, { channel: ENGINEERING, ts: card, actionId: 'approval.reject' });
      await until('the modal', async () => (await story.people.views(REVIEWER_A)).length > 0);
      await story.people.submitView(REVIEWER_A, { 'reason.text': 'not before the release' });
    };
    /** A task whose request for approval the database refuses: its run fails. */
    const failing = async (): Promise<{ ts: string; run: RunRef }> => {
      await admin('alter table approval_requests add constraint none_today check (false) not valid');
      try {
        const ts = await story.people.say(
          'U0REQUESTER',
          ENGINEERING,
          '<@U0COUNTERSGN> merge pull request 1 in acme/shop',
        );
        const run = await until('the run', async () => {
          const found = await runOf(ts);
          return found.runId !== '' && found;
        });
        await endOf(run, 'failed');
        return { ts, run };
      } finally {
        await admin('alter table approval_requests drop constraint none_today');
      }
    };

    test('a task that failed', async () => {
      await record('failed', (await failing()).run);
    });

    test('a task that failed, was retried and went on', async () => {
      const { ts, run } = await failing();
      await order(run, 'retry');
      await until('its card', async () => (await ledgerKinds(story, ts)).includes('approval.requested'));
      const card = await until('the card', async () =>
        (await story.people.thread(ENGINEERING, ts)).findLast((message) =>
          JSON.stringify(message.blocks ?? []).includes('"approval.reject"'),
        ),
      );
      await reject(card.ts);
      await endOf(run, 'completed');
      await record('retried', run);
    });

    test('a task that was cancelled while it waited for people', async () => {
      const { ts } = await askForMerge(story);
      const run = await runOf(ts);
      await order(run, 'cancel');
      await endOf(run, 'cancelled');
      await record('cancelled', run);
    });

    test('a merge that was rejected', async () => {
      const { ts, card } = await askForMerge(story);
      await reject(card.ts);
      const run = await runOf(ts);
      await endOf(run, 'completed');
      await record('merge-rejected', run);
    });

    test('a merge that was approved', async () => {
      const { ts, card } = await askForMerge(story);
      await story.people.click(REVIEWER_A, {
        channel: ENGINEERING,
        ts: card.ts,
        actionId: 'approval.approve',
      });
      const run = await runOf(ts);
      await endOf(run, 'completed');
      await record('merge-approved', run);
    });

    test('a morning whose digest was made', async () => {
      await story.db.transaction((tx) =>
        settleDigest(tx, {
          workspaceId: WORKSPACE,
          owner: { teamId: WORKSPACE, userId: REVIEWER_A },
          timeZone: 'Etc/UTC',
          channelId: ENGINEERING,
        }),
      );
      await story.db.query({ text: 'update schedules set next_at = db_now()' });
      await ring(story.db, SCHEDULE_WORD);
      const run = await until('the run', async () => {
        const { rows } = await story.db.query<{ run_id: string }>({
          text: `select run_id from runs where workflow_name = 'morning-digest'`,
        });
        return rows[0] && { workspaceId: WORKSPACE, runId: rows[0].run_id };
      });
      await endOf(run, 'completed');
      await record('made', run);
    });

    async function record(name: string, { runId }: RunRef): Promise<void> {
      const rowsOf = async <Row extends object>(text: string) =>
        (await story.db.query<Row>({ text, values: [runId] })).rows;
      const [run] = await rowsOf<Recording>(
        `select workflow_name || '@' || workflow_version as workflow, run_id as "runId", created_at as "createdAt", input, retried,
         retry_count as "retryCount", status, output, error from runs where run_id = $1`,
      );
      if (!run) throw new Error('no run');
      const recording: Recording = {
        ...run,
        steps: await rowsOf(
          `select path, kind, input_hash as "inputHash", fence, error, result, started_at as "startedAt", finished_at as "finishedAt"
         from steps where run_id = $1 order by finished_at, path`,
        ),
        waits: await rowsOf(
          `select path, kind, input_hash as "inputHash", event_name as "eventName", event_key as "eventKey", deadline_at as "deadlineAt",
           outcome, payload, resolved_at as "resolvedAt" from waits where run_id = $1 order by resolved_at, path`,
        ),
      };
      // Ports are of the day. Whatever else would not belong here is refused below.
      const text = JSON.stringify(recording, null, 2).replace(
        /(127\.0\.0\.1|localhost):\d+/g,
        'local.invalid',
      );
      const file = path.join(FOLDER, run.workflow, `${name}.json`);
      mkdirSync(path.dirname(file), { recursive: true });
      writeFileSync(file, `${text}\n`);
      execFileSync(path.resolve('node_modules/.bin/biome'), ['format', '--write', file], { stdio: 'ignore' });
      read();
    }
  });

describe('recordings', () => {
  const base = useDatabase();
  const { engineWith } = useEngines(base);

  /** Works a recorded run with today's code: everything in which that was not as it was then. */
  async function complaints(recording: Recording): Promise<string[]> {
    const run = await insert(recording);
    const before = await rowsOf(run);
    const touched: string[] = [];
    const engine = await engineWith(Object.values(RELEASED).map((make) => make(touched)));
    await engine.work();
    const row = await until('it to stand', async () => {
      const { rows } = await base.db.query<Pick<Recording, 'status' | 'output' | 'error'>>({
        text: 'select status, output, error from runs where workspace_id = $1 and run_id = $2',
        values: [run.workspaceId, run.runId],
      });
      return rows[0] && !['queued', 'running', 'cancelling'].includes(rows[0].status) && rows[0];
    });
    await engine.stop();
    const found = touched.map((what) => `${what} was touched`);
    const say = (what: string, now: unknown, then: unknown) => {
      if (JSON.stringify(now) !== JSON.stringify(then))
        found.push(`${what}: ${JSON.stringify(now)} instead of ${JSON.stringify(then)}`);
    };
    say('status', row.status, recording.status);
    say('output', row.output, recording.output);
    say('error', row.error, recording.error);
    for (const added of (await rowsOf(run)).filter((one) => !before.includes(one)))
      found.push(`wrote ${added}`);
    return found;
  }

  async function rowsOf(run: RunRef): Promise<string[]> {
    const { rows } = await base.db.query<{ row: string }>({
      text: `select row_to_json(s)::text as row from steps s where workspace_id = $1 and run_id = $2
             union all select row_to_json(w)::text from waits w where workspace_id = $1 and run_id = $2`,
      values: [run.workspaceId, run.runId],
    });
    return rows.map(({ row }) => row);
  }

  let serial = 0;

  /** As a run that is queued again, or is being cancelled, with all that its journal held when it ended. */
  async function insert(recording: Recording): Promise<RunRef> {
    serial += 1;
    const workspaceId = `T0REPLAY${serial}`;
    const { runId } = recording;
    const [name, version] = recording.workflow.split('@');
    const cancelled = recording.status === 'cancelled';
    await base.db.query({ text: 'insert into workspaces (workspace_id) values ($1)', values: [workspaceId] });
    for (const step of recording.steps)
      await base.db.query({
        text: `insert into steps (workspace_id, run_id, path, kind, input_hash, fence, error, result, started_at, finished_at)
               values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
        values: [
          workspaceId,
          runId,
          step.path,
          step.kind,
          step.inputHash,
          step.fence,
          step.error === null ? null : JSON.stringify(step.error),
          JSON.stringify(step.result),
          step.startedAt,
          step.finishedAt,
        ],
      });
    for (const wait of recording.waits)
      await base.db.query({
        text: `insert into waits (workspace_id, run_id, path, kind, input_hash, event_name, event_key, deadline_at, outcome, payload, resolved_at)
               values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
        values: [
          workspaceId,
          runId,
          wait.path,
          wait.kind,
          wait.inputHash,
          wait.eventName,
          wait.eventKey,
          wait.deadlineAt,
          wait.outcome,
          wait.payload === null ? null : JSON.stringify(wait.payload),
          wait.resolvedAt,
        ],
      });
    await base.db.query({
      text: `insert into runs (workspace_id, run_id, workflow_name, workflow_version, status, input, error, origin, fence, retried, retry_count,
               created_at, queued_at)
             values ($1, $2, $3, $4, $5, $6, $7, 'test', 1000, $8, $9, $10, db_now() - interval '1 minute')`,
      values: [
        workspaceId,
        runId,
        name,
        Number(version),
        cancelled ? 'cancelling' : 'queued',
        JSON.stringify(recording.input),
        cancelled ? JSON.stringify(recording.error) : null,
        recording.retried,
        recording.retryCount,
        recording.createdAt,
      ],
    });
    return { workspaceId, runId };
  }

  const lacking = (versions: readonly string[], recorded: readonly Recording[]) =>
    versions.filter((version) => !recorded.some((recording) => recording.workflow === version));
  const versions = () =>
    Object.values(RELEASED).map((make) => {
      const { name, version } = make([]);
      return `${name}@${version}`;
    });
  const one = (name: string): Recording => {
    const found = recordings.get(name);
    if (!found) throw new Error(`no recording ${name}: UPDATE_GOLDEN=1 makes it`);
    return found;
  };

  beforeAll(read);

  test('there are some of every version that the product registers', () => {
    expect(
      registeredIn(readFileSync(path.resolve(import.meta.dirname, '../../src/main.ts'), 'utf8')),
    ).toEqual(Object.keys(RELEASED));
    expect(lacking(versions(), [...recordings.values()])).toEqual([]);
    expect(lacking([...versions(), 'handle-task@99'], [...recordings.values()])).toEqual(['handle-task@99']);
    expect(registeredIn('openEngine({ workflows: [handleTask({}), digest({})] })')).toEqual([
      'handleTask',
      'digest',
    ]);
  });

  test('hold no secret and nothing of the machine they were made on', () => {
    for (const [name, recording] of recordings) {
      const text = JSON.stringify(recording);
      expect(holdsSecret(text), name).toBe(false);
      for (const place of [tmpdir(), homedir(), process.cwd(), '127.0.0.1', 'localhost'])
        expect(text.includes(place), `${name} says ${place}`).toBe(false);
    }
  });

  test.each(RECORDED)('%s ends as it ended then, and writes nothing', async (name) => {
    expect(await complaints(one(name))).toEqual([]);
  });

  test('morning-digest@1/made ends as it ended then, and writes nothing', async () => {
    expect(await complaints(one('morning-digest@1/made'))).toEqual([]);
  });

  test('and each that is there was replayed', () => {
    expect([...recordings.keys()].sort()).toEqual([...RECORDED, 'morning-digest@1/made']);
  });

  test.each(['merge-approved', 'failed', 'cancelled'])(
    '%s without its last step is found out',
    async (name) => {
      const whole = one(`handle-task@2/${name}`);

      const found = await complaints({ ...whole, steps: whole.steps.slice(0, -1) });

      expect(found.join('\n')).toMatch(/wrote .*conclude/);
    },
  );

  test('and so is one whose code asks for another input, in another order, or for nothing', async () => {
    const whole = one('handle-task@2/merge-approved');
    const edited = (edit: (step: Recording['steps'][number]) => object) => ({
      ...whole,
      steps: whole.steps.map((step) => ({ ...step, ...edit(step) })),
    });

    const otherInput = edited(({ path: at }) => (at === 'turn' ? { inputHash: 'other' } : {}));
    expect((await complaints(otherInput)).join('\n')).toMatch(/status: "parked"/);
    const otherKind = edited(({ path: at }) => (at === 'judge' ? { kind: 'run' } : {}));
    expect((await complaints(otherKind)).join('\n')).toMatch(/status: "parked"/);
    const undecided = { ...whole, waits: [] };
    expect((await complaints(undecided)).join('\n')).toMatch(/status: "waiting"/);
  });
});

/** The functions whose workflows `openEngine` is given, in order. */
function registeredIn(source: string): string[] {
  interface Node {
    readonly type: string;
    readonly [key: string]: unknown;
  }
  const nodes = (value: unknown): Node[] => {
    if (Array.isArray(value)) return value.flatMap(nodes);
    if (typeof value !== 'object' || value === null) return [];
    const inner = Object.values(value).flatMap(nodes);
    return 'type' in value ? [value as Node, ...inner] : inner;
  };
  return nodes(parseAst(source, { lang: 'ts' }))
    .filter((node) => node.type === 'Property' && (node.key as Node).name === 'workflows')
    .flatMap((node) => ((node.value as Node).elements as Node[] | undefined) ?? [])
    .map((element) => String(((element.callee ?? element) as Node).name));
}
