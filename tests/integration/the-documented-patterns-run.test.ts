/**
 * Guarantee: what docs/orchestration.md shows is code that compiles and runs. Every TypeScript block of the page is a region of a file in
 * docs/examples, every number of its table of limits is the constant's, and each example reaches the same result, with each outside call
 * carried out once, however it is worked: straight through, suspended after every step, or with its engine stopped at any of its calls.
 */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import pg from 'pg';
import { beforeAll, describe, expect, test } from 'vitest';
import { approvalWait } from '../../docs/examples/approval-wait.ts';
import { panel } from '../../docs/examples/first-three-of-five.ts';
import { fetchOrder, fulfilOrder, placeOrder, type Shop } from '../../docs/examples/fulfil-order.ts';
import { orchestrator } from '../../docs/examples/orchestrator-workers.ts';
import { planner } from '../../docs/examples/planner.ts';
import { promptRace } from '../../docs/examples/prompt-race.ts';
import { reactLoop, type Tool } from '../../docs/examples/react-loop.ts';
import { CountersignError } from '../../src/errors.ts';
import type { OnCancel } from '../../src/jobs/engine/cancel.ts';
import type { Engine } from '../../src/jobs/engine/engine.ts';
import type { Workflow } from '../../src/jobs/engine/workflow.ts';
import type { Json, RunRef } from '../../src/types.ts';
import { until, useDatabase, WORKSPACE } from '../support/database.ts';
import { useEngines } from './runs-support.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const EXAMPLES = path.join(ROOT, 'docs/examples');
const PAGE = readFileSync(path.join(ROOT, 'docs/orchestration.md'), 'utf8');

const base = useDatabase();
const { engineWith, runRow, ended } = useEngines(base);

beforeAll(async () => {
  const admin = new pg.Client({ connectionString: base.adminUrl });
  await admin.connect();
  await admin.query(`create table orders (order_id text primary key);
    create table reserved (order_id text not null);
    grant select, insert, delete on orders, reserved to public`);
  await admin.end();
});

/**
 * The world outside: what was carried out, in the order of finishing. It can be frozen at the n-th call, as if the process died before that
 * call went out: it and every later one stand at the door until the process is gone.
 */
class Outside {
  readonly carriedOut: string[] = [];
  readonly frozen = Promise.withResolvers<void>();
  readonly gone = Promise.withResolvers<never>();
  arrivals = 0;
  #freezeAt: number;

  constructor(freezeAt = Number.POSITIVE_INFINITY) {
    this.#freezeAt = freezeAt;
    this.gone.promise.catch(() => undefined);
  }

  async call<T>(what: string, answer: () => T | Promise<T>): Promise<T> {
    this.arrivals += 1;
    if (this.arrivals >= this.#freezeAt) {
      this.frozen.resolve();
      await this.gone.promise;
    }
    try {
      const value = await answer();
      this.carriedOut.push(what);
      return value;
    } catch (error) {
      if (error instanceof CountersignError) this.carriedOut.push(what);
      throw error;
    }
  }

  /** The process that stood at the door has died. */
  die(): void {
    this.#freezeAt = Number.POSITIVE_INFINITY;
    this.gone.reject(new Error('the process is gone'));
  }
}

interface Story {
  /** The first one is started. */
  readonly workflows: readonly Workflow[];
  readonly input: Json;
  readonly output: unknown;
  /** What is carried out in the world outside, sorted. */
  readonly calls: readonly string[];
  readonly onCancel?: OnCancel;
  /** What somebody else does meanwhile. `desk` works no runs. */
  meanwhile?(desk: Engine): Promise<unknown>;
}

let serial = 0;

const stories: Readonly<Record<string, (outside: Outside) => Story>> = {
  'fulfil-order': (outside) => {
    const orderId = `order-${++serial}`;
    return {
      workflows: fulfilOrder(shopOver(outside)).workflows,
      input: { orderId, travelMs: 20 },
      meanwhile: (desk) => fetchOrder(base.db, desk, orderId),
      output: {
        left: 1,
        receipt: 'receipt of 500',
        cheapest: 30,
        grams: [3, 4],
        told: true,
        fetched: { by: 'courier' },
        survey: { id: expect.any(String), askedAt: expect.any(String), long: expect.any(Boolean) },
      },
      calls: [
        'charge',
        'pack cap',
        'pack boot',
        'quote north',
        'quote west',
        'read',
        'weigh boot',
        'weigh cap',
      ],
    };
  },
  'react-loop': (outside) => ({
    workflows: [
      reactLoop(
        (messages) =>
          outside.call(`turn after ${messages.length}`, () => {
            const last = messages.at(-1)?.text;
            if (last?.startsWith('It failed')) return { kind: 'answer', text: `Rain, and ${last}` };
            if (messages.length > 1) return { kind: 'calls', calls: [{ tool: 'news', argument: '' }] };
            const calls = ['Bergen', 'Oslo'].map((argument) => ({ tool: 'weather', argument }));
            return { kind: 'calls', calls: [...calls, { tool: 'oracle', argument: '' }] };
          }),
        new Map<string, Tool>([
          ['weather', (city) => outside.call(`weather ${city}`, () => 'rain')],
          [
            'news',
            () => outside.call('news', () => Promise.reject(new CountersignError('TOOL_REFUSED', 'no'))),
          ],
        ]),
      ),
    ],
    input: { task: 'How is the weather?' },
    output: 'Rain, and It failed: no',
    calls: ['news', 'turn after 1', 'turn after 5', 'turn after 7', 'weather Bergen', 'weather Oslo'],
  }),
  planner: (outside) => ({
    workflows: [
      planner({
        plan: ({ done, setback }) =>
          outside.call(`plan after ${done.length}`, () =>
            setback === null ? ['dig', 'pour', 'build'] : ['dry', 'pour again', 'build'],
          ),
        perform: (task) =>
          outside.call(task, () => {
            if (task === 'pour') throw new CountersignError('TOOL_REFUSED', 'it rains');
            return `${task}: done`;
          }),
      }),
    ],
    input: { goal: 'a house' },
    output: {
      plans: 2,
      done: ['dig', 'dry', 'pour again', 'build'].map((task) => ({ task, result: `${task}: done` })),
    },
    calls: ['build', 'dig', 'dry', 'plan after 0', 'plan after 1', 'pour', 'pour again'],
  }),
  'orchestrator-workers': (outside) => ({
    workflows: orchestrator({
      split: (task) => outside.call('split', () => task.split(' and ')),
      work: (part) => outside.call(`work ${part}`, () => part.toUpperCase()),
      combine: (_task, findings) => outside.call('combine', () => findings.join(' + ')),
    }).workflows,
    input: { task: 'salt and pepper and oil' },
    output: 'SALT + PEPPER + OIL',
    calls: ['combine', 'split', 'work oil', 'work pepper', 'work salt'],
  }),
  'first-three-of-five': (outside) => {
    const meeting = meetingOf(5);
    return {
      workflows: panel((advisor, _question, signal) =>
        outside.call(`ask ${advisor}`, async () => {
          await meeting(advisor, ['d', 'e'].includes(advisor), signal);
          return 'yes';
        }),
      ).workflows,
      input: { question: 'Shall we?', advisors: ['a', 'b', 'c', 'd', 'e'] },
      output: {
        answers: expect.toSatisfy(
          (answers: string[]) => answers.toSorted().join() === 'a: yes,b: yes,c: yes',
        ),
        failed: [],
        sentAllTheSame: ['the question to d'],
      },
      calls: ['ask a', 'ask b', 'ask c'],
      async onCancel(tx, run) {
        const { rows } = await tx.query<{ child_key: string }>({
          text: 'select child_key from runs where run_id = $1',
          values: [run.runId],
        });
        return rows[0]?.child_key === 'd' ? ['the question to d'] : [];
      },
    };
  },
  'prompt-race': (outside) => ({
    workflows: promptRace({
      write: (strategy) =>
        outside.call(`write ${strategy}`, () =>
          strategy === 'terse' ? { text: 'No.', costUsd: 0.01 } : { text: 'No, because …', costUsd: 0.25 },
        ),
      judge: (_task, text) => outside.call(`judge ${text}`, () => text.length / 100),
    }).workflows,
    input: { task: 'May I?' },
    output: {
      winner: { strategy: 'thorough', text: 'No, because …', costUsd: 0.25, score: 0.13 },
      losers: [{ strategy: 'terse', text: 'No.', costUsd: 0.01, score: 0.03 }],
    },
    calls: ['judge No, because …', 'judge No.', 'write terse', 'write thorough'],
  }),
  'approval-wait': (outside) => {
    const asked = Promise.withResolvers<string>();
    return {
      workflows: [approval(outside, asked.resolve)],
      input: { question: 'Merge it?', patienceMs: 3_600_000 },
      meanwhile: async (desk) => decide(desk, await asked.promise, { approved: true, by: 'reviewer-a' }),
      output: { status: 'done', by: 'reviewer-a', receipt: 'Merge it? Done.' },
      calls: ['ask', 'carry out'],
    };
  },
};

function shopOver(outside: Outside): Shop {
  const meeting = meetingOf(3);
  return {
    read: () => outside.call('read', () => ({ items: ['cap', 'boot'], cents: 500 })),
    async reserve(tx, orderId) {
      await tx.query({ text: 'insert into reserved (order_id) values ($1)', values: [orderId] });
      return reservedBy(orderId, tx);
    },
    async release(tx, orderId) {
      await tx.query({ text: 'delete from reserved where order_id = $1', values: [orderId] });
    },
    charge: (cents) => outside.call('charge', () => `receipt of ${cents}`),
    quote: (carrier, signal) =>
      outside.call(`quote ${carrier}`, async () => {
        await meeting(carrier, carrier === 'south', signal);
        return carrier === 'north' ? 40 : 30;
      }),
    pack: (item) => outside.call(`pack ${item}`, () => item),
    weigh: (box) => outside.call(`weigh ${box}`, () => box.length),
  };
}

async function reservedBy(orderId: string, db: Pick<typeof base.db, 'query'> = base.db): Promise<number> {
  const { rows } = await db.query<{ count: number }>({
    text: 'select count(*)::int as count from reserved where order_id = $1',
    values: [orderId],
  });
  return rows[0]?.count ?? 0;
}

/** Nobody answers before so many have been asked, and the slow ones never do. */
function meetingOf(size: number) {
  const present = new Set<string>();
  const complete = Promise.withResolvers<void>();
  return async (name: string, slow: boolean, signal: AbortSignal): Promise<void> => {
    present.add(name);
    if (present.size === size) complete.resolve();
    const aborted = new Promise<never>((_resolve, reject) => {
      signal.addEventListener('abort', () => reject(new Error('not wanted any more')));
    });
    await (slow ? aborted : Promise.race([complete.promise, aborted]));
  };
}

function approval(outside: Outside, asked: (requestId: string) => void): Workflow {
  return approvalWait({
    ask: (requestId) => outside.call('ask', () => asked(requestId)),
    carryOut: (question) => outside.call('carry out', () => `${question} Done.`),
  });
}

function decide(desk: Engine, requestId: string, payload: Json): Promise<boolean> {
  const address = { workspaceId: WORKSPACE, name: 'approval.decided', key: requestId };
  return base.db.transaction((tx) => desk.emit(tx, address, payload));
}

function start(desk: Engine, flow: Workflow | undefined, input: Json): Promise<RunRef> {
  if (!flow) throw new Error('a story without a workflow');
  return base.db.transaction((tx) =>
    desk.start(tx, { workspaceId: WORKSPACE, workflowName: flow.name, input, origin: 'test' }),
  );
}

/** Steps that called the world, journaled in a run and everything below it. */
async function journaledCalls(run: RunRef): Promise<number> {
  const { rows } = await base.db.query<{ count: number }>({
    text: `with recursive tree as (
             select run_id from runs where run_id = $1
             union all select r.run_id from runs r join tree on r.parent_run_id = tree.run_id)
           select count(*)::int as count from steps where kind = 'run' and run_id in (select run_id from tree)`,
    values: [run.runId],
  });
  return rows[0]?.count ?? 0;
}

describe.each(Object.entries(stories))('%s', (_name, tell) => {
  test.each([
    ['worked straight through', false],
    ['suspended after every step', true],
  ])('%s', async (_how, suspendAfterEveryStep) => {
    const outside = new Outside();
    const { workflows, input, output, calls, meanwhile, ...options } = tell(outside);
    const engine = await engineWith(workflows, { ...options, suspendAfterEveryStep });
    await engine.work();

    const run = await start(engine, workflows[0], input);
    await meanwhile?.(engine);

    expect((await ended(run, 'completed')).output).toEqual(output);
    expect(outside.carriedOut.toSorted()).toEqual(calls.toSorted());
  });

  test('its engine stopped at each of its calls, another one takes over', async () => {
    const { calls, workflows: known } = tell(new Outside());
    const desk = await engineWith(known);
    for (let stopAt = 1; stopAt <= calls.length; stopAt += 1) {
      const outside = new Outside(stopAt);
      const { workflows, input, output, meanwhile, ...options } = tell(outside);
      const engine = await engineWith(workflows, options);
      await engine.work();
      const run = await start(desk, workflows[0], input);
      const elsewhere = meanwhile?.(desk);
      await outside.frozen.promise;
      // What was carried out before is on disk: the moment between the two is tests/faults' subject.
      await until(
        'the calls before to be journaled',
        async () => (await journaledCalls(run)) === outside.carriedOut.length,
      );
      await engine.stop(0);
      outside.die();

      const next = await engineWith(workflows, options);
      await next.work();
      await elsewhere;

      expect((await ended(run, 'completed')).output).toEqual(output);
      expect(outside.carriedOut.toSorted(), `stopped at call ${stopAt}`).toEqual(calls.toSorted());
      await next.stop(500);
    }
  });
});

describe('fulfil-order, further', () => {
  test('an order and its run are one transaction, and the same order twice is one run', async () => {
    const { workflows } = fulfilOrder(shopOver(new Outside()));
    const engine = await engineWith(workflows);
    const orderId = `order-${++serial}`;

    const first = await placeOrder(base.db, engine, orderId);
    const second = await placeOrder(base.db, engine, orderId);

    expect(second).toEqual(first);
    expect((await runRow(first)).status).toBe('queued');
  });

  test.each([
    ['when it fails', 'failed', false],
    ['when the order is withdrawn', 'cancelled', true],
  ])('what was reserved is released %s', async (_when, status, withdrawn) => {
    const outside = new Outside();
    const orderId = `order-${++serial}`;
    const held = Promise.withResolvers<string>();
    const shop: Shop = {
      ...shopOver(outside),
      charge: () =>
        withdrawn ? held.promise : Promise.reject(new CountersignError('TOOL_REFUSED', 'no money')),
    };
    const { workflows } = fulfilOrder(shop);
    const engine = await engineWith(workflows);
    await engine.work();
    const run = await start(engine, workflows[0], { orderId, travelMs: 1 });
    if (withdrawn) {
      await until('the reservation', async () => (await reservedBy(orderId)) === 1);
      await base.db.transaction((tx) =>
        engine.emit(tx, { workspaceId: WORKSPACE, name: 'order.withdrawn', key: orderId }, null),
      );
    }

    await ended(run, status);
    held.resolve('too late');

    expect(await reservedBy(orderId)).toBe(0);
    const { rowCount } = await base.db.query({
      text: `select 1 from steps where run_id = $1 and path in ('reserve', 'on-failure/release')`,
      values: [run.runId],
    });
    expect(rowCount).toBe(2);
  });
});

describe('approval-wait, further', () => {
  const yes = { approved: true, by: 'reviewer-a' };
  const done = { status: 'done', by: 'reviewer-a', receipt: 'Merge it? Done.' };
  const no = { status: 'rejected' };
  const cases: readonly (readonly [string, Json, Json, readonly string[]])[] = [
    ['approved', yes, done, ['ask', 'carry out']],
    ['rejected', { ...yes, approved: false }, no, ['ask']],
    ['answered with something that is no decision', 'approve!!!', no, ['ask']],
  ];
  test.each(cases)('%s while no engine is at work', async (_how, payload, output, calls) => {
    const outside = new Outside();
    const asked = Promise.withResolvers<string>();
    const flow = approval(outside, asked.resolve);
    const engine = await engineWith([flow]);
    await engine.work();
    const desk = await engineWith([flow]);
    const run = await start(desk, flow, { question: 'Merge it?', patienceMs: 3_600_000 });
    await ended(run, 'waiting');
    await engine.stop(0);

    await decide(desk, await asked.promise, payload);
    const next = await engineWith([flow]);
    await next.work();

    expect((await ended(run, 'completed')).output).toEqual(output);
    expect(outside.carriedOut).toEqual(calls);
  });

  test('nobody answers in time: it says so, and nothing is carried out', async () => {
    const outside = new Outside();
    const flow = approval(outside, () => undefined);
    const engine = await engineWith([flow]);
    await engine.work();

    const run = await start(engine, flow, { question: 'Merge it?', patienceMs: 50 });

    expect((await ended(run, 'completed')).output).toEqual({ status: 'expired' });
    expect(outside.carriedOut).toEqual(['ask']);
  });
});

/** The marked regions of the examples, by file and name, without their indentation. */
function regions(): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const file of readdirSync(EXAMPLES).filter((name) => name.endsWith('.ts'))) {
    const source = readFileSync(path.join(EXAMPLES, file), 'utf8');
    for (const [, indent = '', name = '', text = ''] of source.matchAll(
      /^( *)\/\/ #region (\S+)\n(.*?)^ *\/\/ #endregion$/gms,
    ))
      found.set(`${file} ${name}`, text.replaceAll(new RegExp(`^${indent}`, 'gm'), ''));
  }
  return found;
}

describe('the page', () => {
  const shown = [...PAGE.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, text = '']) => text);

  test('shows nothing but regions of the examples, and every one of them', () => {
    const known = regions();

    for (const text of shown) expect([...known.values()]).toContain(text);
    expect([...known].filter(([, text]) => !shown.includes(text)).map(([name]) => name)).toEqual([]);
  });

  test('every example is told as a story above, and linked', () => {
    const files = readdirSync(EXAMPLES).toSorted();

    expect(files).toEqual(
      Object.keys(stories)
        .map((name) => `${name}.ts`)
        .toSorted(),
    );
    for (const file of files) expect(PAGE).toContain(`(examples/${file})`);
  });

  test('each limit is what the code says', () => {
    const limits = [...PAGE.matchAll(/^\| `([A-Z_]+)` \| ([\d,]+)(?: ([a-z]+))? \|/gm)];
    const sources = readdirSync(path.join(ROOT, 'src/jobs/engine'))
      .map((file) => readFileSync(path.join(ROOT, 'src/jobs/engine', file), 'utf8'))
      .join('\n');

    for (const [, name = '', value = '', unit = ''] of limits) {
      const written = new RegExp(`const ${name} = ([\\d_* ]+);`).exec(sources)?.[1] ?? 'nowhere';
      const product = written.split('*').reduce((all, factor) => all * Number(factor.replaceAll('_', '')), 1);
      expect(`${name} ${Number(value.replaceAll(',', '')) * (UNITS[unit] ?? Number.NaN)}`).toBe(
        `${name} ${product}`,
      );
    }
    expect(limits.length).toBe(PAGE.match(/^\| `[A-Z_]+` \|/gm)?.length);
  });
});

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  ms: 1,
  s: 1_000,
  minutes: 60_000,
  days: 86_400_000,
  bytes: 1,
  levels: 1,
};
