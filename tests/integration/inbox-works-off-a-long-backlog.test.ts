/**
 * Guarantee: what came while nobody worked the inbox is worked off at the pace of the work itself, oldest first, however much it is: a claim
 * reads the rows that it takes, not all that wait. What somebody pressed does not wait behind it, nor behind look-ups that hang.
 */
import { randomUUIDv7 } from 'node:crypto';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openBell } from '../../src/jobs/engine/bell.ts';
import { type InboxOptions, startInbox, storeRequest } from '../../src/jobs/inbox.ts';
import { testLog, until, useDatabase, WORKSPACE } from '../support/database.ts';
import { PROMPTNESS } from '../support/promptness.ts';

const BACKLOG = 20_000;
const HANDLED = 1_000;
/** Two on an idle machine, a dozen on one with much else to do. Reading all that wait for each claim, it was a minute at least. */
const BOUND_MS = 30_000;

const base = useDatabase();
let stop: (() => Promise<void>) | undefined;
// Each try begins with an empty inbox, which nobody works.
beforeEach(() => base.db.query({ text: 'delete from inbox' }));
afterEach(end);

async function end(): Promise<void> {
  await stop?.();
  stop = undefined;
}

/** Works the inbox until the test ends; `atEnd` then lets go what `route` made hang. */
async function work(route: InboxOptions['route'], atEnd = () => {}): Promise<void> {
  const workerId = randomUUIDv7();
  await base.db.query({
    text: `insert into workers (worker_id, pid, lease_until) values ($1, 1, 'infinity')`,
    values: [workerId],
  });
  const bell = await openBell(base.db);
  const loop = startInbox({ database: base.db, bell, workerId, log: testLog, route });
  stop = async () => {
    const stopping = loop.stop();
    atEnd();
    await stopping;
    await bell.close();
  };
}

test('a thousand of twenty thousand rows are handled within seconds, the oldest', PROMPTNESS, async () => {
  await base.db.query({
    text: `insert into inbox (workspace_id, inbox_id, dedupe_key, source, payload, next_try_at)
           select $1, uuidv7(), 'event:' || n, 'event', '{"type":"event_callback"}', db_now() - n * interval '1 millisecond'
           from generate_series(1, $2::integer) n`,
    values: [WORKSPACE, BACKLOG],
  });
  const seen: string[] = [];
  const startedAt = performance.now();

  await work(async ({ inboxId }) => {
    seen.push(inboxId);
    return async () => undefined;
  });
  await until('a thousand to be handled', async () => seen.length > HANDLED);
  const tookMs = performance.now() - startedAt;
  await end();

  expect(tookMs).toBeLessThan(BOUND_MS);
  const { rows } = await base.db.query<{ youngest: number }>({
    text: `select min(substr(dedupe_key, 7)::integer) as youngest from inbox where inbox_id = any($1::uuid[])`,
    values: [seen],
  });
  expect(rows[0]?.youngest).toBe(BACKLOG - seen.length + 1);
});

test(
  'a click is handled at once behind thousands of mentions whose look-ups all hang',
  PROMPTNESS,
  async () => {
    await base.db.query({
      text: `insert into inbox (workspace_id, inbox_id, dedupe_key, source, payload)
           select $1, uuidv7(), 'hanging:' || n, 'event', '{"type":"event_callback"}' from generate_series(1, $2::integer) n`,
      values: [WORKSPACE, BACKLOG / 10],
    });
    let hanging = 0;
    const release = Promise.withResolvers<void>();
    const pressed = Promise.withResolvers<number>();
    await work(async ({ source }) => {
      if (source === 'event') {
        hanging += 1;
        await release.promise;
      } else pressed.resolve(performance.now());
      return async () => undefined;
    }, release.resolve);
    await until('every slot of the mentions to hang', async () => hanging > 0);

    const startedAt = performance.now();
    await storeRequest(base.db, {
      workspaceId: WORKSPACE,
      dedupeKey: 'a click',
      source: 'interaction',
      payload: { type: 'block_actions' },
    });

    // A form opens for three seconds after the click.
    expect((await pressed.promise) - startedAt).toBeLessThan(1_500);
  },
);
