/**
 * The ledger: append-only facts, chained per subject inside the transaction of what they record, ordered globally by seals.
 *
 * Invariants. An entry commits with its transition or not at all. A subject's entries are gap-free: its head row is locked by every
 * writer, last in the lock order. `body` holds ids, codes and salted commitments; people's and models' words stand in
 * ledger_words, where they can be erased while the chain still verifies. Seals are append-only and chain among themselves.
 */
import { createHash, randomBytes, randomUUIDv7 } from 'node:crypto';
import canonicalize from 'canonicalize';
import type { Logger } from '../log.ts';
import { maskSecrets } from '../log.ts';
import type { JsonObject, Tx, WorkspaceId } from '../types.ts';
import type { Database } from './engine/db.ts';

export const LEDGER_FORMAT = 1;
/** What the first entry of a subject, and the first seal, chain to. */
export const GENESIS = Buffer.alloc(32);
/** DESIGN law 12: sealed within a second. Waiting a little lets one seal cover a burst. */
const SEAL_AFTER_MS = 300;
/** What a crash left unsealed is found at this pace. */
const SEAL_SWEEP_MS = 5_000;
const SEAL_BATCH = 1_000;
/** Any constant, used for nothing else: there is one sealer at a time. */
const SEAL_LOCK = 7_281_940_114;

export type SubjectKind = 'run' | 'agent' | 'policy' | 'schedule' | 'workspace';

/** What happened. One word per transition; docs/glossary.md lists them. */
export type EntryKind =
  | 'task.accepted'
  | 'task.finished'
  | 'task.failed'
  | 'task.cancelled'
  | 'run.parked'
  | 'run.cancelled'
  | 'run.paused'
  | 'run.resumed'
  | 'run.retried'
  | 'action.proposed'
  | 'action.denied'
  | 'action.permitted'
  | 'action.closed'
  | 'action.executing'
  | 'action.done'
  | 'action.failed'
  | 'action.unknown'
  | 'action.settled'
  | 'approval.requested'
  | 'approval.decided'
  | 'approval.approved'
  | 'approval.rejected'
  | 'approval.changes_requested'
  | 'approval.expired'
  | 'approval.superseded'
  | 'approval.withdrawn'
  | 'approval.click_refused'
  | 'approval.details_opened'
  | 'policy.activated'
  | 'agent.registered'
  | 'schedule.made'
  | 'schedule.changed'
  | 'schedule.started'
  | 'schedule.skipped'
  | 'digest.made'
  | 'workspace.slack_lost'
  | 'workspace.slack_regained';

export interface LedgerEntry {
  readonly workspaceId: WorkspaceId;
  readonly subjectKind: SubjectKind;
  readonly subjectId: string;
  readonly kind: EntryKind;
  /** Ids, codes, versions, hashes. No words of people or models. */
  readonly facts: JsonObject;
  /** Words by field; each becomes a salted commitment in the entry and stands beside it. Masked for secrets. */
  readonly words?: Readonly<Record<string, string>>;
}

/**
 * Appends one entry in the caller's transaction, as its last locks. What is appended twice is there twice: callers
 * append only when their own compare-and-set changed a row.
 */
export async function appendEntry(tx: Tx, entry: LedgerEntry): Promise<void> {
  const entryId = randomUUIDv7();
  const words = Object.entries(entry.words ?? {}).map(([field, text]) => {
    const salt = randomBytes(16);
    const masked = maskSecrets(storable(text));
    return {
      field,
      salt,
      text: masked,
      commitment: createHash('sha256').update(salt).update(masked).digest('hex'),
    };
  });
  const body = canonicalize({
    facts: entry.facts,
    commitments: Object.fromEntries(words.map((word) => [word.field, word.commitment])),
  });
  await tx.query({
    name: 'ledger_append',
    text: `with moment as (select db_now() as at),
           head as (
             insert into ledger_subjects (workspace_id, subject_kind, subject_id, last_seq, prev_hash, last_hash)
             select $1::text, $2::text, $3::text, 1, $7::bytea, ledger_hash($7::bytea, ${LEDGER_FORMAT}, $1, $2, $3, 1, $4::uuid, $5, at, $6) from moment
             on conflict (workspace_id, subject_kind, subject_id) do update set
               last_seq = ledger_subjects.last_seq + 1,
               prev_hash = ledger_subjects.last_hash,
               last_hash = ledger_hash(ledger_subjects.last_hash, ${LEDGER_FORMAT}, $1, $2, $3, ledger_subjects.last_seq + 1, $4::uuid, $5,
                 (select at from moment), $6)
             returning last_seq, prev_hash, last_hash),
           entry as (
             insert into ledger_entries (workspace_id, subject_kind, subject_id, subject_seq, entry_id, format_version,
               entry_kind, body, prev_hash, hash, created_at)
             select $1, $2, $3, last_seq, $4::uuid, ${LEDGER_FORMAT}, $5, $6, prev_hash, last_hash, at from head, moment
             returning entry_id, hash),
           unsealed as (insert into ledger_unsealed (entry_id, hash) select entry_id, hash from entry returning entry_id)
           insert into ledger_words (workspace_id, entry_id, field, salt, words)
           select $1, entry_id, field, salt, words from unsealed, unnest($8::text[], $9::bytea[], $10::text[]) as w (field, salt, words)`,
    values: [
      entry.workspaceId,
      entry.subjectKind,
      entry.subjectId,
      entryId,
      entry.kind,
      body,
      GENESIS,
      words.map((word) => word.field),
      words.map((word) => word.salt),
      words.map((word) => word.text),
    ],
  });
  tx.afterCommit(() => committed());
}

/** What a text column takes: no NUL, no half of a surrogate pair. Models and repositories send both. */
export function storable(text: string): string {
  return text.replaceAll('\0', '\uFFFD').toWellFormed();
}

/** Called after each commit that appended; the process's sealer listens. */
let committed: () => void = () => undefined;

export interface Sealer {
  stop(): Promise<void>;
}

/** Seals what this process appends, and what a dead one left. One per process. */
export function startSealer(database: Database, log: Logger): Sealer {
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> = Promise.resolve();
  const seal = () => {
    timer = undefined;
    running = running
      .then(async () => {
        let result: Awaited<ReturnType<typeof sealOnce>>;
        do result = await sealOnce(database);
        while (result === 'more');
        // The other's snapshot may be older than our entries.
        if (result === 'busy') committed();
      })
      .catch((error: unknown) => log.warn({ err: error }, 'sealing failed, will be retried'));
  };
  committed = () => {
    timer ??= setTimeout(seal, SEAL_AFTER_MS);
  };
  const sweep = setInterval(seal, SEAL_SWEEP_MS);
  seal();
  return {
    async stop() {
      committed = () => undefined;
      clearTimeout(timer);
      clearInterval(sweep);
      seal();
      await running;
    },
  };
}

/** Makes one seal over what is unsealed. `busy`: another process is sealing at the moment. */
export async function sealOnce(database: Database): Promise<'done' | 'more' | 'busy'> {
  return database.transaction(async (tx) => {
    const { rows: lock } = await tx.query<{ mine: boolean; at: string; at_us: string }>({
      text: `select pg_try_advisory_xact_lock($1) as mine, at::text, floor(extract(epoch from at) * 1000000)::bigint::text as at_us
             from (select db_now() as at) moment`,
      values: [SEAL_LOCK],
    });
    const moment = lock[0];
    if (!moment?.mine) return 'busy';
    const { rows: entries } = await tx.query<{ entry_id: string; hash: Buffer }>({
      name: 'ledger_unsealed_read',
      text: `select entry_id, hash from ledger_unsealed order by entry_id limit ${SEAL_BATCH}`,
    });
    if (entries.length === 0) return 'done';
    const { rows: last } = await tx.query<{ seal_no: number; seal: Buffer }>({
      name: 'ledger_last_seal',
      text: 'select seal_no, seal from ledger_seals order by seal_no desc limit 1',
    });
    const sealNo = (last[0]?.seal_no ?? 0) + 1;
    const prevSeal = last[0]?.seal ?? GENESIS;
    const root = merkleRoot(entries.map((entry) => entry.hash));
    await tx.query({
      name: 'ledger_seal',
      text: `with sealed as (
               insert into ledger_seals (seal_no, prev_seal, merkle_root, entry_count, seal, sealed_at)
               values ($1, $2, $3, $4, $5, $7::timestamptz)),
             members as (
               insert into ledger_seal_members (seal_no, ordinal, entry_id)
               select $1, place - 1, id from unnest($6::uuid[]) with ordinality as m (id, place))
             delete from ledger_unsealed where entry_id = any ($6::uuid[])`,
      values: [
        sealNo,
        prevSeal,
        root,
        entries.length,
        sealHash({ sealNo, prevSeal, root, count: entries.length, atUs: moment.at_us }),
        entries.map((entry) => entry.entry_id),
        moment.at,
      ],
    });
    return entries.length === SEAL_BATCH ? 'more' : 'done';
  });
}

/** RFC 6962's shape: leaves and nodes are hashed under different prefixes, so that neither passes for the other. */
export function merkleRoot(leaves: readonly Buffer[]): Buffer {
  let level = leaves.map((leaf) => sha256(Buffer.from([0]), leaf));
  while (level.length > 1) {
    const next: Buffer[] = [];
    for (let i = 0; i < level.length; i += 2) {
      const [left, right] = [level[i], level[i + 1]];
      if (left) next.push(right ? sha256(Buffer.from([1]), left, right) : left);
    }
    level = next;
  }
  return level[0] ?? GENESIS;
}

export interface Seal {
  readonly sealNo: number;
  readonly prevSeal: Buffer;
  readonly root: Buffer;
  readonly count: number;
  /** Microseconds since the epoch, in decimal. */
  readonly atUs: string;
}

export function sealHash({ sealNo, prevSeal, root, count, atUs }: Seal): Buffer {
  return sha256(prevSeal, root, Buffer.from(`${sealNo}\n${count}\n${atUs}`));
}

export function sha256(...parts: readonly Buffer[]): Buffer {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
}
