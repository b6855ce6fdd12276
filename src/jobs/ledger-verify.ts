/**
 * The ledger's verifier: reads everything and recomputes every hash, chain, commitment and seal. Names the first row that does not fit.
 */
import type { Queryable } from '../types.ts';
import type { Database } from './engine/db.ts';
import { GENESIS, merkleRoot, sealHash, sha256 } from './ledger.ts';

export interface LedgerCheck {
  readonly entries: number;
  readonly subjects: number;
  readonly seals: number;
  /** Entries committed and not yet sealed; normally none older than a second. */
  readonly unsealed: number;
  /** The first row that does not verify, in words; null when all do. */
  readonly firstBad: string | null;
  /** Hex of the newest seal, null before the first. */
  readonly head: string | null;
}

interface EntryRow {
  workspace_id: string;
  subject_kind: string;
  subject_id: string;
  subject_seq: number;
  entry_id: string;
  entry_kind: string;
  body: string;
  prev_hash: Buffer;
  hash: Buffer;
  format_version: number;
  at_us: string;
}

/** Reads the whole ledger and recomputes every hash, chain and seal. Changes nothing. */
export async function verifyLedger(database: Database): Promise<LedgerCheck> {
  return database.transaction(async (tx) => {
    // One snapshot for all tables: what is appended meanwhile must not look like a gap.
    await tx.query({ text: 'set transaction isolation level repeatable read, read only' });
    return verifySnapshot(tx);
  });
}

/** The same inside the caller's transaction, which sees what it changed itself. */
export async function verifySnapshot(db: Queryable): Promise<LedgerCheck> {
  const { rows: entries } = await db.query<EntryRow>({
    text: `select workspace_id, subject_kind, subject_id, subject_seq, entry_id, entry_kind, body, prev_hash, hash, format_version,
             floor(extract(epoch from created_at) * 1000000)::bigint::text as at_us
           from ledger_entries order by workspace_id, subject_kind, subject_id, subject_seq`,
  });
  const { rows: heads } = await db.query<{ subject: string; last_seq: number; last_hash: Buffer }>({
    text: `select concat_ws(' ', workspace_id, subject_kind, subject_id) as subject, last_seq, last_hash from ledger_subjects`,
  });
  const { rows: seals } = await db.query<{
    seal_no: number;
    prev_seal: Buffer;
    merkle_root: Buffer;
    entry_count: number;
    seal: Buffer;
    at_us: string;
  }>({
    text: `select seal_no, prev_seal, merkle_root, entry_count, seal,
             floor(extract(epoch from sealed_at) * 1000000)::bigint::text as at_us
           from ledger_seals order by seal_no`,
  });
  const { rows: members } = await db.query<{ seal_no: number; entry_id: string }>({
    text: 'select seal_no, entry_id from ledger_seal_members order by seal_no, ordinal',
  });
  const { rows: words } = await db.query<{ entry_id: string; field: string; salt: Buffer; words: string }>({
    text: 'select entry_id, field, salt, words from ledger_words',
  });
  const { rows: waiting } = await db.query<{ count: number }>({
    text: 'select count(*) as count from ledger_unsealed',
  });

  const tails = new Map<string, { seq: number; hash: Buffer }>();
  const hashes = new Map<string, Buffer>();
  const bodies = new Map<string, string>();
  const bad = ((): string | null => {
    for (const row of entries) {
      const subject = `${row.workspace_id} ${row.subject_kind} ${row.subject_id}`;
      const tail = tails.get(subject) ?? { seq: 0, hash: GENESIS };
      const where = `entry ${row.subject_seq} of ${subject}`;
      if (row.subject_seq !== tail.seq + 1) return `${where}: a gap after ${tail.seq}`;
      if (!row.prev_hash.equals(tail.hash)) return `${where}: not chained to the entry before`;
      const lines = [
        row.format_version,
        row.workspace_id,
        row.subject_kind,
        row.subject_id,
        row.subject_seq,
        row.entry_id,
        row.entry_kind,
        row.at_us,
        row.body,
      ];
      if (!row.hash.equals(sha256(row.prev_hash, Buffer.from(lines.join('\n')))))
        return `${where}: its content does not match its hash`;
      tails.set(subject, { seq: row.subject_seq, hash: row.hash });
      hashes.set(row.entry_id, row.hash);
      bodies.set(row.entry_id, row.body);
    }
    for (const head of heads) {
      const tail = tails.get(head.subject);
      if (tail?.seq !== head.last_seq || !tail.hash.equals(head.last_hash))
        return `subject ${head.subject}: entries are missing at its end`;
    }
    if (heads.length !== tails.size) return 'a subject without a head row';
    for (const word of words) {
      const body = JSON.parse(bodies.get(word.entry_id) ?? '{}') as { commitments?: Record<string, string> };
      if (body.commitments?.[word.field] !== sha256(word.salt, Buffer.from(word.words)).toString('hex'))
        return `words ${word.field} of entry ${word.entry_id}: do not match their commitment`;
    }
    let prev: { seal_no: number; seal: Buffer } = { seal_no: 0, seal: GENESIS };
    const bySeal = Map.groupBy(members, (member) => member.seal_no);
    for (const seal of seals) {
      const leaves = (bySeal.get(seal.seal_no) ?? []).flatMap((member) => hashes.get(member.entry_id) ?? []);
      const where = `seal ${seal.seal_no}`;
      if (seal.seal_no !== prev.seal_no + 1 || !seal.prev_seal.equals(prev.seal))
        return `${where}: not chained to the seal before`;
      if (leaves.length !== seal.entry_count)
        return `${where}: ${leaves.length} of its ${seal.entry_count} entries exist`;
      if (!merkleRoot(leaves).equals(seal.merkle_root)) return `${where}: its entries do not match its root`;
      const {
        seal_no: sealNo,
        prev_seal: prevSeal,
        merkle_root: root,
        entry_count: count,
        at_us: atUs,
      } = seal;
      if (!sealHash({ sealNo, prevSeal, root, count, atUs }).equals(seal.seal)) return `${where}: altered`;
      prev = seal;
    }
    if (members.length + (waiting[0]?.count ?? 0) !== entries.length)
      return 'an entry is neither sealed nor waiting to be';
    return null;
  })();
  return {
    entries: entries.length,
    subjects: tails.size,
    seals: seals.length,
    unsealed: waiting[0]?.count ?? 0,
    firstBad: bad,
    head: seals.at(-1)?.seal.toString('hex') ?? null,
  };
}
