/**
 * Guarantee: what is due is worked at once, whenever its wake-up comes: while a worker is just letting the run go, while all slots
 * are taken, or after the listening connection died without a word. Nobody has to wait for the sweep of what was lost.
 */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { expect, test } from 'vitest';
import { ring } from '../../src/jobs/engine/bell.ts';
import { connectDatabase, type Database } from '../../src/jobs/engine/db.ts';
import { WAKE_CHANNEL } from '../../src/jobs/engine/queue.ts';
import { testLog, until, useDatabase, WORKSPACE } from '../support/database.ts';
import { PROMPTNESS } from '../support/promptness.ts';
import { define, useEngines, watched } from './runs-support.ts';

const base = useDatabase();
const { engineWith, startRun, ended } = useEngines(base);
/** Less than it takes until a queued run counts as lost. */
const AT_ONCE_MS = 3_000;

test('an event that comes between the park and the worker letting go wakes the run', PROMPTNESS, async () => {
  const answered = Promise.withResolvers<void>();
  let held = false;
  const database: Database = {
    ...base.db,
    async transaction(body) {
      const value = await base.db.transaction(body);
      // The park is committed; its answer is still on its way. No other transaction of this engine says yes.
      if (value === true) {
        held = true;
        await answered.promise;
      }
      return value;
    },
  };
  const flow = define((step) =>
    step.waitForEvent('wait', { event: 'go', key: step.runRef.runId, timeoutMs: 60_000 }),
  );
  const engine = await engineWith([flow], { database });
  await engine.work();
  const run = await startRun(engine, flow);
  await ended(run, 'waiting');
  const heard = Promise.withResolvers<void>();
  engine.bell.on('probe', () => heard.resolve());

  await base.db.transaction((tx) =>
    engine.emit(tx, { workspaceId: WORKSPACE, name: 'go', key: run.runId }, null),
  );
  // Notified after the wake-up, so the worker has met that one too.
  await ring(base.db, 'probe');
  await heard.promise;
  expect(held).toBe(true);
  answered.resolve();

  await ended(run, 'completed', AT_ONCE_MS);
});

test('a sweep that finds all slots taken does not forget that more is queued', PROMPTNESS, async () => {
  let sweeps = 0;
  let frozen: Promise<void> | undefined;
  const thaw = Promise.withResolvers<void>();
  const database = watched(base.db, async ({ name }) => {
    if (name !== 'runs_own') return;
    await frozen;
    sweeps += 1;
  });
  const release = Promise.withResolvers<void>();
  const flow = define((step) => step.run('hold', () => release.promise));
  const engine = await engineWith([flow], { database, slots: 1 });
  await engine.work();
  const runs = [await startRun(engine, flow), await startRun(engine, flow), await startRun(engine, flow)];
  const before = sweeps;
  // The second of them began, so the first has ended.
  await until('a sweep with all slots taken', async () => sweeps >= before + 2);
  frozen = thaw.promise;

  release.resolve();

  try {
    for (const run of runs) await ended(run, 'completed', AT_ONCE_MS);
  } finally {
    thaw.resolve();
  }
});

/** A way to the database that can fall silent: open connections then carry nothing more, in no direction, and do not end. */
async function silentProxy(url: string) {
  const target = new URL(url);
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(Number(target.port), target.hostname);
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on('error', () => undefined).on('close', () => sockets.delete(socket));
    }
    near.pipe(far);
    far.pipe(near);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const through = new URL(url);
  through.hostname = '127.0.0.1';
  through.port = String((server.address() as AddressInfo).port);
  return {
    url: through.href,
    silence() {
      for (const socket of sockets) socket.unpipe().pause();
    },
    async close() {
      server.close();
      for (const socket of sockets) socket.destroy();
      await once(server, 'close');
    },
  };
}

test(
  'a listening connection that died without a word is replaced, and rings are heard again',
  PROMPTNESS,
  async () => {
    const proxy = await silentProxy(base.appUrl);
    const db = connectDatabase({ url: proxy.url, log: testLog, pingEveryMs: 50, pingTimeoutMs: 200 });
    let gaps = 0;
    const heard: string[] = [];
    const listener = await db.listen(
      WAKE_CHANNEL,
      (payload) => heard.push(payload),
      () => (gaps += 1),
    );

    try {
      proxy.silence();
      await until('another connection', async () => gaps >= 2, AT_ONCE_MS);
      await ring(base.db, 'after');

      await until('the ring', async () => heard.includes('after'));
    } finally {
      await listener.close();
      await db.close();
      await proxy.close();
    }
  },
);

test('a listener whose connection is silent can be closed', PROMPTNESS, async () => {
  const proxy = await silentProxy(base.appUrl);
  const db = connectDatabase({ url: proxy.url, log: testLog });
  const listener = await db.listen(
    WAKE_CHANNEL,
    () => undefined,
    () => undefined,
  );
  proxy.silence();

  let closed = false;
  const closing = listener.close().then(() => (closed = true));

  try {
    await until('the listener to be closed', async () => closed, AT_ONCE_MS);
  } finally {
    await proxy.close();
    await closing;
    await db.close();
  }
  expect(closed).toBe(true);
});
