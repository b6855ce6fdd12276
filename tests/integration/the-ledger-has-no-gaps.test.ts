/**
 * Guarantee: an entry commits with its transition or not at all, and a subject's entries have no gap: not under many writers, not after
 * a rollback, not after a connection dies. One sealer works at a time; every entry ends in exactly one seal, soon after its commit.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectDatabase, type Database } from '../../src/jobs/engine/db.ts';
import { appendEntry, sealOnce, startSealer } from '../../src/jobs/ledger.ts';
import { verifyLedger } from '../../src/jobs/ledger-verify.ts';
import type { Tx } from '../../src/types.ts';
import { testLog, until, useDatabase, WORKSPACE } from '../support/database.ts';
import { PROMPTNESS } from '../support/promptness.ts';

const base = useDatabase();
/** A second process as far as the database can tell, and the owner. */
let other: Database;
let owner: Database;

beforeAll(() => {
  other = connectDatabase({ url: base.appUrl, log: testLog, maxConnections: 5, name: 'other' });
  owner = connectDatabase({ url: base.adminUrl, log: testLog, maxConnections: 2 });
});
afterAll(async () => {
  await other.close();
  await owner.close();
});

function append(tx: Tx, subjectId: string, words?: string): Promise<void> {
  return appendEntry(tx, {
    workspaceId: WORKSPACE,
    subjectKind: 'run',
    subjectId,
    kind: 'task.accepted',
    facts: {},
    ...(words === undefined ? {} : { words: { objective: words } }),
  });
}

async function sequences(subjectId: string): Promise<number[]> {
  const { rows } = await base.db.query<{ subject_seq: number }>({
    text: 'select subject_seq from ledger_entries where subject_id = $1 order by created_at, subject_seq',
    values: [subjectId],
  });
  return rows.map((row) => row.subject_seq).sort((a, b) => a - b);
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1);

async function sealAll(database: Database): Promise<void> {
  await until('everything to be sealed', async () => {
    await sealOnce(database);
    return (await verifyLedger(database)).unsealed === 0;
  });
}

describe('the entries of a subject', () => {
  it('have no gap under many writers in two processes, and verify', async () => {
    await Promise.all(upTo(60).map((n) => (n % 2 ? base.db : other).transaction((tx) => append(tx, 'busy'))));

    expect(await sequences('busy')).toEqual(upTo(60));
    expect((await verifyLedger(base.db)).firstBad).toBeNull();
  });

  it('have no gap when every third writer fails after appending', async () => {
    const results = await Promise.allSettled(
      upTo(30).map((n) =>
        base.db.transaction(async (tx) => {
          await append(tx, 'shaky');
          if (n % 3 === 0) throw new Error('the transition failed');
        }),
      ),
    );

    expect(results.filter((result) => result.status === 'rejected')).toHaveLength(10);
    expect(await sequences('shaky')).toEqual(upTo(20));
    expect((await verifyLedger(base.db)).firstBad).toBeNull();
  });

  it('have no gap when the connection dies between append and commit', async () => {
    await base.db.transaction((tx) => append(tx, 'cut'));

    const dying = base.db.transaction(async (tx) => {
      await append(tx, 'cut');
      const { rows } = await tx.query<{ pid: number }>({ text: 'select pg_backend_pid() as pid' });
      await owner.query({ text: 'select pg_terminate_backend($1, 5000)', values: [rows[0]?.pid] });
    });

    await expect(dying).rejects.toThrow();
    await base.db.transaction((tx) => append(tx, 'cut'));
    expect(await sequences('cut')).toEqual([1, 2]);
    expect((await verifyLedger(base.db)).firstBad).toBeNull();
  });

  it('several in one transaction follow each other', async () => {
    await base.db.transaction(async (tx) => {
      for (let n = 0; n < 3; n += 1) await append(tx, 'story');
    });

    expect(await sequences('story')).toEqual([1, 2, 3]);
    expect((await verifyLedger(base.db)).firstBad).toBeNull();
  });

  it('a failed transition leaves no entry, no head, no words and nothing to seal', async () => {
    const before = await verifyLedger(base.db);

    await expect(
      base.db.transaction(async (tx) => {
        await append(tx, 'never', 'words of a transition that never was');
        throw new Error('the transition failed');
      }),
    ).rejects.toThrow('the transition failed');

    expect(await verifyLedger(base.db)).toEqual(before);
    const { rows } = await base.db.query({
      text: `select from ledger_words where words like '%never was%' union all select from ledger_subjects where subject_id = 'never'`,
    });
    expect(rows).toEqual([]);
  });

  it('their words are masked for secrets before they are kept', async () => {
    const token = ['xoxb', '1234567890', 'abcdefghijkl'].join('-');
    await base.db.transaction((tx) => append(tx, 'masked', `use ${token} for this`));

    const { rows } = await base.db.query<{ words: string }>({
      text: `select words from ledger_words join ledger_entries using (entry_id) where subject_id = 'masked'`,
    });
    expect(rows).toEqual([{ words: 'use [secret] for this' }]);
    expect((await verifyLedger(base.db)).firstBad).toBeNull();
  });
});

describe('sealers', () => {
  it('while one is sealing, another leaves at once', async () => {
    await sealAll(base.db);
    await base.db.transaction((tx) => append(tx, 'sealed'));
    const before = await verifyLedger(base.db);

    let first: ReturnType<typeof sealOnce> | undefined;
    await owner.transaction(async (tx) => {
      await tx.query({ text: 'lock table ledger_seals in access exclusive mode' });
      first = sealOnce(base.db);
      await until('the first sealer to be held up', async () => {
        const { rows } = await owner.query({
          text: `select from pg_locks where relation = 'ledger_seals'::regclass and not granted`,
        });
        return rows.length > 0;
      });

      expect(await sealOnce(other)).toBe('busy');
    });

    await first;
    const after = await verifyLedger(base.db);
    expect(after).toMatchObject({ seals: before.seals + 1, unsealed: 0, firstBad: null });
  });

  it('many at once beside writers seal each entry exactly once', async () => {
    let writing = true;
    const sealing = [base.db, other].map(async (database) => {
      while (writing) await sealOnce(database);
    });
    await Promise.all(upTo(60).map((n) => base.db.transaction((tx) => append(tx, `crowd-${n % 7}`))));
    writing = false;
    await Promise.all(sealing);
    await sealAll(base.db);

    const { rows } = await base.db.query<{ entries: number; sealed: number; seals: number; last: number }>({
      text: `select (select count(*) from ledger_entries) as entries, (select count(distinct entry_id) from ledger_seal_members) as sealed,
               (select count(*) from ledger_seals) as seals, (select max(seal_no) from ledger_seals) as last`,
    });
    expect(rows[0]?.sealed).toBe(rows[0]?.entries);
    expect(rows[0]?.last).toBe(rows[0]?.seals);
    expect((await verifyLedger(base.db)).firstBad).toBeNull();
  });

  it(
    'the sealer of a process seals what a dead one left, what is committed while it runs, and the rest when it stops',
    PROMPTNESS,
    async () => {
      const unsealed = async () => (await verifyLedger(base.db)).unsealed;
      await base.db.transaction((tx) => append(tx, 'left'));
      expect(await unsealed()).toBe(1);

      const sealer = startSealer(base.db, testLog);
      try {
        await until('what was left to be sealed', async () => (await unsealed()) === 0, 4_000);
        await base.db.transaction((tx) => append(tx, 'fresh'));
        // Sooner than the sweep for what others left comes round.
        await until('what was committed to be sealed', async () => (await unsealed()) === 0, 3_000);
        await base.db.transaction((tx) => append(tx, 'last'));
      } finally {
        await sealer.stop();
      }

      expect(await unsealed()).toBe(0);
      expect((await verifyLedger(base.db)).firstBad).toBeNull();
    },
  );
});
