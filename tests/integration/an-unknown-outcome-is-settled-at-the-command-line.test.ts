/**
 * Guarantee: an operator finds the actions whose outcome is unknown and settles one by its id, or the beginning of it; the ledger says on
 * whose word and why. Whatever cannot be done is one clear line and changes nothing.
 */
import { randomUUIDv7 } from 'node:crypto';
import { userInfo } from 'node:os';
import { CommanderError } from 'commander';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { actionsCommand } from '../../src/commands/actions.ts';
import { verifyLedger } from '../../src/jobs/ledger-verify.ts';
import { useDatabase, WORKSPACE } from '../support/database.ts';

const base = useDatabase();
const OPERATOR = `cli/${userInfo().username}`;
const HASH = 'd'.repeat(64);

beforeEach(() => {
  vi.stubEnv('DATABASE_URL', base.appUrl);
});
afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

/** What the command printed; rejects as `countersign` would print it in one line. */
async function actions(...args: readonly string[]): Promise<string> {
  let out = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += String(text);
    return true;
  });
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    out += String(text);
    return true;
  });
  try {
    await actionsCommand().parseAsync(args, { from: 'user' });
  } catch (error) {
    // Commander prints its own line and throws.
    if (error instanceof CommanderError) throw new Error(out, { cause: error });
    throw error;
  } finally {
    vi.restoreAllMocks();
  }
  return out;
}

/** An action of a task of its own, with or without people behind it, in this status. */
async function insertAction(status: string, actionId: string = randomUUIDv7(), title = 'merge it') {
  const [runId, taskId] = [randomUUIDv7(), randomUUIDv7()];
  await base.db.transaction(async (tx) => {
    await tx.query({
      text: `insert into runs (workspace_id, run_id, workflow_name, workflow_version, status, input, origin)
             values ($1, $2, 'w', 1, 'completed', '{}', 'slack')`,
      values: [WORKSPACE, runId],
    });
    await tx.query({
      text: `insert into tasks (workspace_id, task_id, run_id, requester_team_id, requester_user_id, owner_team_id, owner_user_id,
               channel_id, thread_ts, message_ts, objective, contract)
             values ($1, $2, $3, 'T', 'U', 'T', 'U', 'C0ENG', '1.1', $4, 'o', '{}')`,
      values: [WORKSPACE, taskId, runId, taskId],
    });
    await tx.query({
      text: `insert into actions (workspace_id, action_id, run_id, task_id, kind, arguments, tool_version, credential, action_hash,
               preconditions, target, agent_name, agent_version, model_label, agent_reason, status)
             values ($1, $2, $3, $4, 'github.pulls.merge', '{}', 1, 'github', $5, '[]', $6, 'a', '1', 'm', 'r', $7)`,
      values: [WORKSPACE, actionId, runId, taskId, HASH, JSON.stringify({ title }), status],
    });
  });
  return { actionId, runId };
}
const statusOf = async (actionId: string): Promise<string | undefined> => {
  const { rows } = await base.db.query<{ status: string }>({
    text: 'select status from actions where action_id = $1',
    values: [actionId],
  });
  return rows[0]?.status;
};

describe('settle', () => {
  test.for([
    ['--happened', 'done', 'it happened', true],
    ['--did-not-happen', 'failed', 'it did not happen', false],
  ] as const)('%s corrects the record on the operator’s word', async ([flag, status, words, happened]) => {
    const { actionId, runId } = await insertAction('unknown');

    const out = await actions('settle', actionId, flag, '--reason', 'looked at pull request 7');

    expect(out).toBe(`Action ${actionId} is recorded: ${words}, on the word of ${OPERATOR}.\n`);
    expect(await statusOf(actionId)).toBe(status);
    const { rows } = await base.db.query<{ kind: string; facts: object; words: string }>({
      text: `select e.entry_kind as kind, e.body::json->'facts' as facts, w.words from ledger_entries e join ledger_words w using (entry_id)
             where e.subject_id = $1`,
      values: [runId],
    });
    expect(rows).toMatchObject([
      {
        kind: 'action.settled',
        facts: { actionId, happened, by: OPERATOR },
        words: 'looked at pull request 7',
      },
    ]);
    expect((await verifyLedger(base.db)).firstBad).toBeNull();
  });

  test('takes the beginning of an id, and prints one JSON object when asked', async () => {
    const actionId = 'aaaabbbb-0000-7000-8000-000000000001';
    await insertAction('unknown', actionId);

    const out = await actions('settle', 'AAAABBBB', '--happened', '--reason', 'seen', '--json');

    expect(JSON.parse(out)).toMatchObject({
      actionId,
      status: 'done',
      settlement: { happened: true, by: { via: 'cli', user: userInfo().username }, reason: 'seen' },
    });
  });

  test('a second time changes nothing and names the first', async () => {
    const { actionId } = await insertAction('unknown');
    await actions('settle', actionId, '--happened', '--reason', 'seen');

    await expect(actions('settle', actionId, '--did-not-happen', '--reason', 'no')).rejects.toThrow(
      new RegExp(`^Action ${actionId} was settled by ${OPERATOR} at .*: it happened; nothing was changed$`),
    );
    expect(await statusOf(actionId)).toBe('done');
  });

  test.for(['executing', 'done', 'closed'])('refuses an action that is %s', async (status) => {
    const { actionId } = await insertAction(status);

    await expect(actions('settle', actionId, '--happened', '--reason', 'seen')).rejects.toThrow(
      'is not unknown',
    );
    expect(await statusOf(actionId)).toBe(status);
  });

  test.for<[string, string[], RegExp]>([
    [
      'an id that begins two',
      ['ccccdddd', '--happened', '--reason', 'x'],
      /^More than one action begins with ccccdddd/,
    ],
    ['an id too short', ['cccc', '--happened', '--reason', 'x'], /first 8 or more characters/],
    ['an id that is none', ['%%%%%%%%%', '--happened', '--reason', 'x'], /first 8 or more characters/],
    ['an unknown id', ['99999999', '--happened', '--reason', 'x'], /^There is no action 99999999/],
    ['no word', ['ccccdddd-0000-7000-8000-000000000001', '--reason', 'x'], /^settle needs either/],
    ['both words', ['ccccdddd', '--happened', '--did-not-happen', '--reason', 'x'], /cannot be used with/],
    ['no reason', ['ccccdddd', '--happened'], /--reason/],
    ['a blank reason', ['ccccdddd', '--happened', '--reason', ' '], /^--reason is blank/],
    ['a reason beyond the card', ['ccccdddd', '--happened', '--reason', 'x'.repeat(501)], /at most 500/],
  ])('with %s is one clear line', async ([, args, line]) => {
    const ids = [1, 2].map((n) => `ccccdddd-0000-7000-8000-00000000000${n}`);
    for (const id of ids) if ((await statusOf(id)) === undefined) await insertAction('unknown', id);

    await expect(actions('settle', ...args)).rejects.toThrow(line);
    for (const id of ids) expect(await statusOf(id)).toBe('unknown');
  });
});

describe('list', () => {
  test('shows the ones of a status as a table, in which outside text moves no cursor, or as JSON', async () => {
    const { actionId } = await insertAction('unknown', randomUUIDv7(), 'merge\n\u001b[2Jit');
    const { actionId: other } = await insertAction('permitted');

    const out = await actions('list', '--status', 'unknown');
    const all = JSON.parse(await actions('list', '--json')) as {
      actionId: string;
      status: string;
      title: string;
    }[];

    expect(out).toMatch(/^ACTION +STATUS +SINCE +KIND +TITLE\n/);
    expect(out).toContain(actionId);
    expect(out).not.toContain(other);
    expect(out).not.toContain('\u001b');
    expect(all).toContainEqual(
      expect.objectContaining({ actionId, status: 'unknown', title: 'merge\n\u001b[2Jit' }),
    );
    expect(all).toContainEqual(expect.objectContaining({ actionId: other, status: 'permitted' }));
  });

  test('says so when there is none, and refuses a status that is none', async () => {
    expect(await actions('list', '--status', 'denied')).toBe('No actions are denied.\n');
    await expect(actions('list', '--status', 'lost')).rejects.toThrow(/Allowed choices/);
  });
});
