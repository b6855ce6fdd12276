/**
 * Guarantee: whoever changes the ledger behind the product's back, the owner of its tables included, is found: `verifySnapshot` names the
 * first row that does not fit. Only the erasure of words leaves it whole, because erasing is allowed.
 *
 * Each case tampers inside a transaction, verifies there and rolls back, so that all cases start from the same good ledger.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectDatabase, type Database } from '../../src/jobs/engine/db.ts';
import { appendEntry, sealOnce } from '../../src/jobs/ledger.ts';
import { type LedgerCheck, verifySnapshot } from '../../src/jobs/ledger-verify.ts';
import { testLog, useDatabase, WORKSPACE } from '../support/database.ts';

const base = useDatabase();
let owner: Database;

const A = `subject_kind = 'run' and subject_id = 'a'`;
const B = `subject_kind = 'run' and subject_id = 'b'`;
const RUN_A = `${WORKSPACE} run a`;
const LEDGER_TABLES = ['ledger_entries', 'ledger_seals', 'ledger_seal_members'];
/** What an entry's hash is, recomputed the way a forger with the source at hand would. */
const REHASH = `hash = ledger_hash(prev_hash, format_version, workspace_id, subject_kind, subject_id, subject_seq, entry_id, entry_kind, created_at, body)`;

beforeAll(async () => {
  owner = connectDatabase({ url: base.adminUrl, log: testLog, maxConnections: 2 });
  const append = (subjectId: string, n: number) =>
    base.db.transaction((tx) =>
      appendEntry(tx, {
        workspaceId: WORKSPACE,
        subjectKind: 'run',
        subjectId,
        kind: 'task.accepted',
        facts: { n },
        words: { objective: `please do ${subjectId}${n}` },
      }),
    );
  // Seal 1: a1 a2 b1; seal 2: a3 b2; then a4, not yet sealed.
  for (const [subject, n] of [
    ['a', 1],
    ['a', 2],
    ['b', 1],
  ] as const)
    await append(subject, n);
  await sealOnce(base.db);
  for (const [subject, n] of [
    ['a', 3],
    ['b', 2],
  ] as const)
    await append(subject, n);
  await sealOnce(base.db);
  await append('a', 4);
});
afterAll(() => owner.close());

/** What the verifier says after these statements. As the owner, with the triggers out of the way; nothing stays. */
async function verifyAfter(...statements: readonly string[]): Promise<LedgerCheck> {
  const undo = new Error('undo');
  let check: LedgerCheck | undefined;
  await owner
    .transaction(async (tx) => {
      for (const table of LEDGER_TABLES)
        await tx.query({ text: `alter table ${table} disable trigger user` });
      for (const text of statements) {
        const { rowCount } = await tx.query({ text });
        expect(rowCount, `tampered with nothing: ${text}`).toBeGreaterThan(0);
      }
      check = await verifySnapshot(tx);
      throw undo;
    })
    .catch((error: unknown) => {
      if (error !== undo) throw error;
    });
  if (!check) throw new Error('not verified');
  return check;
}

async function firstBadAfter(...statements: readonly string[]): Promise<string | null> {
  return (await verifyAfter(...statements)).firstBad;
}

/** Takes an entry out with everything that refers to it. */
function removal(where: string): [words: string, members: string, entry: string] {
  const ids = `(select entry_id from ledger_entries where ${where})`;
  return [
    `delete from ledger_words where entry_id in ${ids}`,
    `delete from ledger_seal_members where entry_id in ${ids}`,
    `delete from ledger_entries where ${where}`,
  ];
}

it('a ledger that nobody touched verifies', async () => {
  const check = await verifySnapshot(base.db);

  expect(check).toMatchObject({ entries: 6, subjects: 2, seals: 2, unsealed: 1, firstBad: null });
  expect(check.head).toMatch(/^[0-9a-f]{64}$/);
});

describe('a changed entry', () => {
  it.each([
    ['body', `body = replace(body, '"n":2', '"n":9')`],
    ['body by a space', `body = body || ' '`],
    ['kind', `entry_kind = 'action.permitted'`],
    ['format', `format_version = 2`],
    ['time by a microsecond', `created_at = created_at + interval '1 microsecond'`],
    ['id of its words', `hash = sha256(hash)`],
  ])('%s', async (_what, change) => {
    expect(await firstBadAfter(`update ledger_entries set ${change} where ${A} and subject_seq = 2`)).toBe(
      `entry 2 of ${RUN_A}: its content does not match its hash`,
    );
  });

  it('with its hash recomputed: the next entry is not chained to it', async () => {
    expect(
      await firstBadAfter(
        `update ledger_entries set body = '{"facts":{"n":9}}' where ${A} and subject_seq = 2`,
        `update ledger_entries set ${REHASH} where ${A} and subject_seq = 2`,
      ),
    ).toBe(`entry 3 of ${RUN_A}: not chained to the entry before`);
  });

  it('with a cut chain: the entry is not chained to the one before', async () => {
    expect(
      await firstBadAfter(`update ledger_entries set prev_hash = sha256('x') where ${A} and subject_seq = 1`),
    ).toBe(`entry 1 of ${RUN_A}: not chained to the entry before`);
  });

  it('the last of its subject, with its hash recomputed: the head says so', async () => {
    expect(
      await firstBadAfter(
        `update ledger_entries set entry_kind = 'task.failed' where ${B} and subject_seq = 2`,
        `update ledger_entries set ${REHASH} where ${B} and subject_seq = 2`,
      ),
    ).toBe(`subject ${WORKSPACE} run b: entries are missing at its end`);
  });

  it('the last of its subject, with hash and head recomputed: its seal says so', async () => {
    expect(
      await firstBadAfter(
        `update ledger_entries set entry_kind = 'task.failed' where ${B} and subject_seq = 2`,
        `update ledger_entries set ${REHASH} where ${B} and subject_seq = 2`,
        `update ledger_subjects set last_hash = (select hash from ledger_entries where ${B} and subject_seq = 2) where ${B}`,
      ),
    ).toBe('seal 2: its entries do not match its root');
  });
});

describe('a removed entry', () => {
  it('in the middle', async () => {
    expect(await firstBadAfter(...removal(`${A} and subject_seq = 2`))).toBe(
      `entry 3 of ${RUN_A}: a gap after 1`,
    );
  });

  it('at the beginning', async () => {
    expect(await firstBadAfter(...removal(`${A} and subject_seq = 1`))).toBe(
      `entry 2 of ${RUN_A}: a gap after 0`,
    );
  });

  it('at the end', async () => {
    expect(await firstBadAfter(...removal(`${B} and subject_seq = 2`))).toBe(
      `subject ${WORKSPACE} run b: entries are missing at its end`,
    );
  });

  it('at the end, not yet sealed', async () => {
    const [words, , entry] = removal(`${A} and subject_seq = 4`);

    expect(await firstBadAfter('delete from ledger_unsealed', words, entry)).toBe(
      `subject ${RUN_A}: entries are missing at its end`,
    );
  });

  it('at the end, with the head lowered: its seal says so', async () => {
    expect(
      await firstBadAfter(
        ...removal(`${B} and subject_seq = 2`),
        `update ledger_subjects set last_seq = 1, last_hash = (select hash from ledger_entries where ${B}) where ${B}`,
      ),
    ).toBe('seal 2: 1 of its 2 entries exist');
  });

  it('together with its whole subject: the seals say so', async () => {
    expect(await firstBadAfter(...removal(B), `delete from ledger_subjects where ${B}`)).toBe(
      'seal 1: 2 of its 3 entries exist',
    );
  });

  it('the head alone', async () => {
    expect(await firstBadAfter(`delete from ledger_subjects where ${B}`)).toBe(
      'a subject without a head row',
    );
  });
});

describe('swapped or added entries', () => {
  it('two entries of a subject that change places', async () => {
    expect(
      await firstBadAfter(
        `update ledger_entries set subject_seq = 99 where ${A} and subject_seq = 2`,
        `update ledger_entries set subject_seq = 2 where ${A} and subject_seq = 3`,
        `update ledger_entries set subject_seq = 3 where ${A} and subject_seq = 99`,
      ),
    ).toBe(`entry 2 of ${RUN_A}: not chained to the entry before`);
  });

  it('two entries that change bodies', async () => {
    expect(
      await firstBadAfter(
        `update ledger_entries e set body = o.body from ledger_entries o
         where e.subject_id = 'a' and o.subject_id = 'a' and e.subject_seq in (1, 2) and o.subject_seq = 3 - e.subject_seq`,
      ),
    ).toBe(`entry 1 of ${RUN_A}: its content does not match its hash`);
  });

  it("an entry moved to another subject's end", async () => {
    expect(
      await firstBadAfter(
        `update ledger_entries set subject_id = 'b', subject_seq = 3 where ${A} and subject_seq = 4`,
      ),
    ).toBe(`entry 3 of ${WORKSPACE} run b: not chained to the entry before`);
  });

  it('an entry that no transition wrote, well chained: nobody sealed it', async () => {
    expect(
      await firstBadAfter(
        `insert into ledger_entries (workspace_id, subject_kind, subject_id, subject_seq, entry_id, format_version, entry_kind, body,
           prev_hash, hash, created_at)
         select workspace_id, subject_kind, subject_id, subject_seq + 1, gen_random_uuid(), 1, 'approval.approved', '{}', hash, '\\x00', created_at
         from ledger_entries where ${B} and subject_seq = 2`,
        `update ledger_entries set ${REHASH} where ${B} and subject_seq = 3`,
        `update ledger_subjects set last_seq = 3, last_hash = (select hash from ledger_entries where ${B} and subject_seq = 3) where ${B}`,
      ),
    ).toBe('an entry is neither sealed nor waiting to be');
  });
});

describe('an altered seal', () => {
  it.each([
    ['its root', `merkle_root = sha256('x')`, 'seal 1: its entries do not match its root'],
    ['its time', `sealed_at = sealed_at - interval '1 day'`, 'seal 1: altered'],
    ['its own hash', `seal = sha256('x')`, 'seal 1: altered'],
    ['its predecessor', `prev_seal = sha256('x')`, 'seal 1: not chained to the seal before'],
    ['its count', 'entry_count = 2', 'seal 1: 3 of its 2 entries exist'],
  ])('%s', async (_what, change, said) => {
    expect(await firstBadAfter(`update ledger_seals set ${change} where seal_no = 1`)).toBe(said);
  });

  it('the order of its entries', async () => {
    expect(
      await firstBadAfter(
        'update ledger_seal_members set ordinal = 99 where seal_no = 1 and ordinal = 0',
        'update ledger_seal_members set ordinal = 0 where seal_no = 1 and ordinal = 1',
        'update ledger_seal_members set ordinal = 1 where seal_no = 1 and ordinal = 99',
      ),
    ).toBe('seal 1: its entries do not match its root');
  });

  it('removed in the middle', async () => {
    expect(
      await firstBadAfter(
        'delete from ledger_seal_members where seal_no = 1',
        'delete from ledger_seals where seal_no = 1',
      ),
    ).toBe('seal 2: not chained to the seal before');
  });

  it('removed at the end', async () => {
    expect(
      await firstBadAfter(
        'delete from ledger_seal_members where seal_no = 2',
        'delete from ledger_seals where seal_no = 2',
      ),
    ).toBe('an entry is neither sealed nor waiting to be');
  });

  it('removed at the end and its entries queued anew: the head differs from the published one', async () => {
    const before = await verifySnapshot(base.db);
    const after = await verifyAfter(
      `insert into ledger_unsealed (entry_id, hash)
       select entry_id, hash from ledger_entries join ledger_seal_members using (entry_id) where seal_no = 2`,
      'delete from ledger_seal_members where seal_no = 2',
      'delete from ledger_seals where seal_no = 2',
    );

    expect(after.head).not.toBe(before.head);
  });
});

describe('words', () => {
  const wordsOf = `entry_id = (select entry_id from ledger_entries where ${A} and subject_seq = 2)`;

  it('changed: named', async () => {
    expect(
      await firstBadAfter(`update ledger_words set words = 'please do nothing' where ${wordsOf}`),
    ).toMatch(/^words objective of entry [0-9a-f-]{36}: do not match their commitment$/);
  });

  it('with another salt, under another field, or of another entry: named', async () => {
    for (const change of [
      `update ledger_words set salt = '\\x00' where ${wordsOf}`,
      `update ledger_words set field = 'reason' where ${wordsOf}`,
      `update ledger_words set entry_id = (select entry_id from ledger_entries where ${B} and subject_seq = 1), field = 'other' where ${wordsOf}`,
    ])
      expect(await firstBadAfter(change), change).toMatch(/^words /);
  });

  it('erased, one or all: the ledger still verifies', async () => {
    expect(await firstBadAfter(`delete from ledger_words where ${wordsOf}`)).toBeNull();
    expect(await firstBadAfter('delete from ledger_words')).toBeNull();
  });

  it('stand nowhere in the chained text', async () => {
    const { rows } = await base.db.query<{ body: string; words: string }>({
      text: 'select body, words from ledger_entries join ledger_words using (entry_id)',
    });

    expect(rows).toHaveLength(6);
    for (const row of rows) {
      expect(row.words).toMatch(/^please do/);
      expect(row.body).not.toContain('please');
    }
  });
});
