/**
 * Guarantee: what the schema promises holds whatever the code does. Illegal transitions are refused, and the list in SQL is the list in
 * src/types.ts; append-only rows are neither changed nor deleted, by the app's role or by the owner; the app's role makes, drops and
 * empties nothing; every key opens with the workspace.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectDatabase, type Database } from '../../src/jobs/engine/db.ts';
import {
  ACTION_STATUSES,
  ACTION_TRANSITIONS,
  REQUEST_STATUSES,
  REQUEST_TRANSITIONS,
  RUN_STATUSES,
  RUN_TRANSITIONS,
} from '../../src/types.ts';
import { testLog, useDatabase, WORKSPACE } from '../support/database.ts';

const base = useDatabase();
let owner: Database;

const id = (n: number): string => `00000000-0000-7000-8000-${String(n).padStart(12, '0')}`;
const HASH = 'a'.repeat(64);

/** One row of every table that this file tries to change, by the statement that writes it. */
const ROWS: Readonly<Record<string, string>> = {
  runs: `insert into runs (workspace_id, run_id, workflow_name, workflow_version, input, origin) values ('${WORKSPACE}', '${id(1)}', 'w', 1, '{}', 'run')`,
  tasks: `insert into tasks (workspace_id, task_id, run_id, requester_team_id, requester_user_id, owner_team_id, owner_user_id, channel_id,
            thread_ts, message_ts, objective, contract)
          values ('${WORKSPACE}', '${id(2)}', '${id(1)}', 'T0LOCAL', 'U1', 'T0LOCAL', 'U1', 'C1', '1.1', '1.1', 'o', '{}')`,
  actions: `insert into actions (workspace_id, action_id, run_id, task_id, kind, arguments, tool_version, credential, action_hash, preconditions,
              target, agent_name, agent_version, model_label, agent_reason)
            values ('${WORKSPACE}', '${id(3)}', '${id(1)}', '${id(2)}', 'k', '{}', 1, 'c', '${HASH}', '[]', '{}', 'a', '1', 'm', 'r')`,
  approval_requests: `insert into approval_requests (workspace_id, request_id, action_id, run_id, action_hash, preconditions, review_rule, deadline_at)
            values ('${WORKSPACE}', '${id(4)}', '${id(3)}', '${id(1)}', '${HASH}', '[]', '{}', db_now())`,
  steps: `insert into steps (workspace_id, run_id, path, kind, fence, started_at) values ('${WORKSPACE}', '${id(1)}', 'p', 'run', 1, db_now())`,
  events: `insert into events (workspace_id, event_name, event_key, payload) values ('${WORKSPACE}', 'e', 'k', '{}')`,
  policy_versions: `insert into policy_versions (workspace_id, policy_version, content) values ('${WORKSPACE}', 'v', '{}')`,
  policy_activations: `insert into policy_activations (workspace_id, activation_no, policy_version, activated_by, reason)
            values ('${WORKSPACE}', 1, 'v', 'a', 'r')`,
  agent_versions: `insert into agent_versions (workspace_id, agent_name, agent_version, owner, content) values ('${WORKSPACE}', 'a', '1', 'o', '{}')`,
  model_turns: `insert into model_turns (workspace_id, turn_id, run_id, path, agent_name, agent_version, model, model_label, stop_reason,
              input_token_count, output_token_count, cache_creation_token_count, cache_read_token_count, cost, currency, price_table_date)
            values ('${WORKSPACE}', '${id(5)}', '${id(1)}', 'p', 'a', '1', 'm', 'm', 'end_turn', 1, 1, 0, 0, 0, 'USD', '2026-11-01')`,
  verdicts: `insert into verdicts (workspace_id, verdict_id, action_id, verdict, tier, rule, reasons, policy_version, agent_name, agent_version,
              tool_version, credential)
            values ('${WORKSPACE}', '${id(6)}', '${id(3)}', 'deny', 'high', 'r', '[]', 'v', 'a', '1', 1, 'c')`,
  evidence: `insert into evidence (workspace_id, evidence_id, action_id, ordinal, label, value, source, observed_at)
            values ('${WORKSPACE}', '${id(7)}', '${id(3)}', 0, 'l', 'v', 's', db_now())`,
  decisions: `insert into decisions (workspace_id, decision_id, request_id, team_id, user_id, decision, surface, policy_version)
            values ('${WORKSPACE}', '${id(8)}', '${id(4)}', 'T0LOCAL', 'U2', 'approve', 'card', 'v')`,
  deployments: `insert into deployments (deployment_id) values ('${id(10)}') on conflict do nothing`,
  digests: `insert into digests (workspace_id, digest_id, local_date, time_zone, from_seal, channel_id)
            values ('${WORKSPACE}', '${id(11)}', '2026-11-20', 'Etc/UTC', 0, 'C1')`,
  detail_views: `insert into detail_views (workspace_id, request_id, team_id, user_id) values ('${WORKSPACE}', '${id(4)}', 'T0LOCAL', 'U2')`,
  ledger_entries: `insert into ledger_entries (workspace_id, subject_kind, subject_id, subject_seq, entry_id, format_version, entry_kind, body,
              prev_hash, hash, created_at)
            values ('${WORKSPACE}', 'run', 'r', 1, '${id(9)}', 1, 'k', '{}', '\\x00', '\\x00', db_now())`,
  ledger_seals: `insert into ledger_seals (seal_no, prev_seal, merkle_root, entry_count, seal, sealed_at) values (1, '\\x00', '\\x00', 1, '\\x00', db_now())`,
  ledger_seal_members: `insert into ledger_seal_members (seal_no, ordinal, entry_id) values (1, 0, '${id(9)}')`,
};

/** Tables whose rows are facts. */
const APPEND_ONLY = [
  'agent_versions',
  'decisions',
  'deployments',
  'detail_views',
  'digests',
  'events',
  'evidence',
  'ledger_entries',
  'ledger_seal_members',
  'ledger_seals',
  'model_turns',
  'policy_activations',
  'policy_versions',
  'steps',
  'verdicts',
] as const;

/** Tables of the whole deployment, not of a workspace, each with its reason. */
const WITHOUT_WORKSPACE = [
  'deployments', // one row: this installation
  'ledger_seal_members', // one order over all workspaces
  'ledger_seals',
  'ledger_unsealed',
  'schema_migrations',
  'test_clock', // the test template's own
  'workers', // processes work for every workspace
];

const APP_REFUSED = '42501'; // insufficient_privilege
const CHANGE_REFUSED = 'CS001';
const TRANSITION_REFUSED = 'CS002';
const REWRITE_REFUSED = 'CS003';

beforeAll(async () => {
  owner = connectDatabase({ url: base.adminUrl, log: testLog, maxConnections: 2 });
  await owner.transaction(async (tx) => {
    for (const text of Object.values(ROWS)) await tx.query({ text });
  });
});
afterAll(() => owner.close());

/** The SQLSTATE with which the database refuses `text`; `done` when it does not. Nothing stays either way. */
async function refusal(database: Database, text: string): Promise<string> {
  const undo = new Error('undo');
  try {
    await database.transaction(async (tx) => {
      await tx.query({ text });
      throw undo;
    });
  } catch (error) {
    if (error === undo) return 'done';
    return String((error as { code?: unknown }).code);
  }
  throw new Error('unreachable');
}

async function tables(): Promise<string[]> {
  const { rows } = await owner.query<{ name: string }>({
    text: `select relname as name from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') order by relname`,
  });
  return rows.map((row) => row.name);
}

describe.each([
  { noun: 'run', table: 'runs', key: `run_id = '${id(1)}'`, statuses: RUN_STATUSES, legal: RUN_TRANSITIONS },
  {
    noun: 'action',
    table: 'actions',
    key: `action_id = '${id(3)}'`,
    statuses: ACTION_STATUSES,
    legal: ACTION_TRANSITIONS,
  },
  {
    noun: 'request',
    table: 'approval_requests',
    key: `request_id = '${id(4)}'`,
    statuses: REQUEST_STATUSES,
    legal: REQUEST_TRANSITIONS,
  },
])('transitions of a $noun', ({ noun, table, key, statuses, legal }) => {
  const inCode = new Set(
    Object.entries(legal).flatMap(([from, all]) =>
      (all as readonly string[]).map((to) => `${from} -> ${to}`),
    ),
  );
  const worker = table === 'runs' ? `, worker_id = '${id(99)}'` : '';

  it('are the same list in SQL and in src/types.ts, for every pair', async () => {
    const { rows } = await owner.query<{ pair: string; legal: boolean | null }>({
      text: `select a || ' -> ' || b as pair, ${noun}_transition_is_legal(a, b) as legal
             from unnest($1::text[]) as a, unnest($1::text[]) as b`,
      values: [[...statuses, 'nonsense', '']],
    });

    expect(rows).toHaveLength((statuses.length + 2) ** 2);
    expect(rows.filter((row) => row.legal === null)).toEqual([]);
    expect(new Set(rows.filter((row) => row.legal).map((row) => row.pair))).toEqual(inCode);
  });

  it('hold for rows: a legal one passes, every other one is refused, by the owner too', async () => {
    const wrong: string[] = [];
    for (const from of statuses)
      for (const to of statuses) {
        if (from === to) continue;
        const outcome = await owner.transaction(async (tx) => {
          // The starting status is set past the trigger; the transition itself meets it.
          await tx.query({ text: `savepoint start` });
          await tx.query({ text: `alter table ${table} disable trigger ${table}_transition` });
          await tx.query({ text: `update ${table} set status = '${from}'${worker} where ${key}` });
          await tx.query({ text: `alter table ${table} enable trigger ${table}_transition` });
          const found = await tx
            .query({ text: `update ${table} set status = '${to}' where ${key}` })
            .then((result) => `${result.rowCount} row`)
            .catch((error: { code?: string }) => String(error.code));
          await tx.query({ text: 'rollback to savepoint start' });
          return found;
        });
        const expected = inCode.has(`${from} -> ${to}`) ? '1 row' : TRANSITION_REFUSED;
        if (outcome !== expected) wrong.push(`${from} -> ${to}: ${outcome}`);
      }

    expect(wrong).toEqual([]);
  });

  it('cannot begin or end in a word that is no status', async () => {
    expect(await refusal(owner, `update ${table} set status = 'nonsense' where ${key}`)).not.toBe('done');
    const { rows } = await owner.query<{ definition: string }>({
      text: `select pg_get_constraintdef(oid) as definition from pg_constraint where conname = '${table}_status_check'`,
    });
    const named = [...(rows[0]?.definition ?? '').matchAll(/'(\w+)'::text/g)].map((match) => match[1]);
    expect(named.sort()).toEqual([...statuses].sort());
  });
});

describe('append-only tables', () => {
  it('are exactly the ones with the trigger that refuses change', async () => {
    const { rows } = await owner.query<{ name: string }>({
      text: `select distinct c.relname as name from pg_trigger t join pg_class c on c.oid = t.tgrelid
             where t.tgfoid = 'refuse_change'::regproc and t.tgenabled = 'O' order by 1`,
    });

    expect(rows.map((row) => row.name)).toEqual([...APPEND_ONLY]);
  });

  it.each(APPEND_ONLY)('%s: neither updated nor deleted, by the app or by the owner', async (table) => {
    const column = (
      await owner.query<{ name: string }>({
        text: `select attname as name from pg_attribute where attrelid = '${table}'::regclass and attnum > 0 order by attnum limit 1`,
      })
    ).rows[0]?.name;
    const update = `update ${table} set ${column} = ${column}`;
    const remove = `delete from ${table}`;

    expect({
      appUpdate: await refusal(base.db, update),
      appDelete: await refusal(base.db, remove),
      ownerUpdate: await refusal(owner, update),
      ownerDelete: await refusal(owner, remove),
    }).toEqual({
      appUpdate: APP_REFUSED,
      appDelete: APP_REFUSED,
      ownerUpdate: CHANGE_REFUSED,
      ownerDelete: CHANGE_REFUSED,
    });
  });

  it.each(['ledger_entries', 'ledger_seals', 'ledger_seal_members'])(
    '%s: not emptied by the owner',
    async (table) => {
      // By its own trigger: emptying it would empty others that refuse, too.
      await expect(owner.query({ text: `truncate ${table} cascade` })).rejects.toMatchObject({
        code: CHANGE_REFUSED,
        message: `${table} is append-only`,
      });
    },
  );

  it('an action keeps what was judged', async () => {
    for (const change of [
      `kind = 'other'`,
      `arguments = '{"force": true}'`,
      'tool_version = 2',
      `credential = 'other'`,
      `action_hash = '${'b'.repeat(64)}'`,
      `preconditions = '[1]'`,
      `target = '{"title": "other"}'`,
      `agent_name = 'other'`,
      `agent_version = '2'`,
      `agent_reason = 'other'`,
      `model_label = 'other'`,
      `replaces_action_id = '${id(11)}'`,
    ])
      for (const database of [base.db, owner])
        expect(await refusal(database, `update actions set ${change}`), change).toBe(REWRITE_REFUSED);
  });

  it('a request keeps what it binds and of whom it asks', async () => {
    for (const change of [
      `action_hash = '${'b'.repeat(64)}'`,
      `preconditions = '[1]'`,
      `review_rule = '{"quorum": 0}'`,
      `deadline_at = deadline_at + interval '1 year'`,
    ])
      for (const database of [base.db, owner])
        expect(await refusal(database, `update approval_requests set ${change}`), change).toBe(
          REWRITE_REFUSED,
        );
  });
});

describe("the app's role", () => {
  it('makes nothing', async () => {
    for (const text of [
      'create table mine (id integer)',
      'create schema mine',
      'create function mine() returns integer language sql as $$select 1$$',
      `create or replace function db_now() returns timestamptz language sql as $$select timestamptz 'epoch'$$`,
      'create role mine',
      'create extension pg_trgm',
      'create trigger mine before insert on runs for each row execute function refuse_change()',
    ])
      expect(await refusal(base.db, text), text).toBe(APP_REFUSED);
  });

  it('drops, alters and empties no table', async () => {
    for (const table of await tables())
      for (const text of [
        `drop table ${table} cascade`,
        `alter table ${table} add column mine integer`,
        `alter table ${table} disable trigger user`,
        `truncate ${table} cascade`,
      ])
        expect(await refusal(base.db, text), text).toBe(APP_REFUSED);
  });

  it('drops and empties nothing of the queue', async () => {
    for (const text of ['drop schema pgboss cascade', 'drop table pgboss.job cascade', 'truncate pgboss.job'])
      expect(await refusal(base.db, text), text).toBe(APP_REFUSED);
  });

  it('owns nothing and may not become somebody else', async () => {
    const { rows } = await base.db.query<{ what: string }>({
      text: `select 'superuser' as what from pg_roles where rolname = current_user
               and (rolsuper or rolcreaterole or rolcreatedb or rolbypassrls or rolreplication)
             union all select 'member of ' || roleid::regrole from pg_auth_members where member = current_user::regrole
             union all select 'owns ' || oid::regclass from pg_class where relowner = current_user::regrole
             union all select 'owns ' || oid::regprocedure from pg_proc where proowner = current_user::regrole`,
    });

    expect(rows).toEqual([]);
  });

  it('holds delete only where rows are not facts', async () => {
    const { rows } = await owner.query<{ name: string }>({
      text: `select relname as name from pg_class, aclexplode(relacl) as x where relnamespace = 'public'::regnamespace
               and x.grantee = $1::regrole and x.privilege_type = 'DELETE' order by 1`,
      values: [decodeURIComponent(new URL(base.appUrl).username)],
    });

    // What Slack sent is a fact only until its consequence stands; handled rows are kept for a day, for redeliveries.
    expect(rows.map((row) => row.name)).toEqual([
      'delivery_pauses',
      'inbox',
      'ledger_unsealed',
      'ledger_words',
      'workers',
    ]);
  });
});

describe('the workspace', () => {
  it('opens the primary key of every table that has one, and is never null', async () => {
    const { rows } = await owner.query<{ name: string; first: string | null; has: boolean }>({
      text: `select c.relname as name, first.attname as first,
               exists (select 1 from pg_attribute a where a.attrelid = c.oid and a.attname = 'workspace_id' and not a.attisdropped) as has
             from pg_class c
             left join pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
             left join pg_attribute first on first.attrelid = c.oid and first.attnum = k.conkey[1]
             where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') order by c.relname`,
    });

    expect(rows.filter((row) => row.has && row.first !== 'workspace_id')).toEqual([]);
    expect(rows.filter((row) => !row.has).map((row) => row.name)).toEqual(WITHOUT_WORKSPACE);
  });

  it('opens every unique key and every foreign key of those tables', async () => {
    const { rows } = await owner.query<{ name: string; key: string }>({
      text: `select c.relname || '.' || k.conname as name, first.attname as key
             from pg_constraint k join pg_class c on c.oid = k.conrelid
             join pg_attribute first on first.attrelid = c.oid and first.attnum = k.conkey[1]
             where c.relnamespace = 'public'::regnamespace and k.contype in ('u', 'f') and first.attname <> 'workspace_id'
               and c.relname <> all ($1) order by 1`,
      values: [WITHOUT_WORKSPACE],
    });

    // The seals of all workspaces name entries by their id alone.
    expect(rows.map((row) => row.name)).toEqual([
      'ledger_entries.ledger_entries_entry_id_key',
      'ledger_words.ledger_words_entry_id_fkey',
    ]);
  });
});
