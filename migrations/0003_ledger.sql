-- The ledger: who, what, when, why, on whose word.
--
-- Entries chain per subject (run, agent, policy, schedule, workspace) inside the transaction of what they record, gap-free:
-- `hash` covers the previous hash, the entry's own columns and the exact stored `body` (see ledger_hash). `body` holds ids and salted commitments only; the words
-- stand in ledger_words and can be erased while the chain stays valid. One sealer orders entries globally into seals.

-- Format 1: SHA-256 over the previous hash and nine lines; src/jobs/ledger.ts computes the same when it verifies.
create function ledger_hash(prev_hash bytea, format_version integer, workspace_id text, subject_kind text, subject_id text, subject_seq bigint,
    entry_id uuid, entry_kind text, created_at timestamptz, body text) returns bytea language sql immutable as $$
  select sha256(prev_hash || convert_to(concat_ws(e'\n', format_version::text, workspace_id, subject_kind, subject_id, subject_seq::text,
    entry_id::text, entry_kind, floor(extract(epoch from created_at) * 1000000)::bigint::text, body), 'UTF8'))
$$;

-- The head of each chain: the row every writer of one subject locks, last in the lock order.
create table ledger_subjects (
  workspace_id text not null,
  subject_kind text not null check (subject_kind in ('run', 'agent', 'policy', 'schedule', 'workspace')),
  subject_id text not null,
  last_seq bigint not null,
  last_hash bytea not null,
  -- The hash before the last one: what the newest entry was chained to.
  prev_hash bytea not null,
  primary key (workspace_id, subject_kind, subject_id)
);
grant select, insert, update on ledger_subjects to @app_role@;

create table ledger_entries (
  workspace_id text not null,
  subject_kind text not null,
  subject_id text not null,
  subject_seq bigint not null check (subject_seq > 0),
  entry_id uuid not null unique,
  format_version integer not null,
  entry_kind text not null,
  -- Canonical JSON, hashed as stored.
  body text not null,
  prev_hash bytea not null,
  hash bytea not null,
  created_at timestamptz not null,
  primary key (workspace_id, subject_kind, subject_id, subject_seq)
);
create trigger ledger_entries_append_only before update or delete on ledger_entries
  for each row execute function refuse_change();
create trigger ledger_entries_no_truncate before truncate on ledger_entries
  for each statement execute function refuse_change();
grant select, insert on ledger_entries to @app_role@;

-- The words behind the commitments of an entry. Erasure deletes a row; the entry keeps its commitment.
create table ledger_words (
  workspace_id text not null,
  entry_id uuid not null references ledger_entries (entry_id),
  field text not null,
  salt bytea not null,
  words text not null,
  primary key (workspace_id, entry_id, field)
);
grant select, insert, delete on ledger_words to @app_role@;

-- Entries the sealer has not yet ordered: written with the entry, deleted with its sealing.
create table ledger_unsealed (
  entry_id uuid primary key references ledger_entries (entry_id),
  hash bytea not null
);
grant select, insert, delete on ledger_unsealed to @app_role@;

create table ledger_seals (
  seal_no bigint primary key check (seal_no > 0),
  prev_seal bytea not null,
  merkle_root bytea not null,
  entry_count integer not null check (entry_count > 0),
  seal bytea not null,
  sealed_at timestamptz not null
);
create trigger ledger_seals_append_only before update or delete on ledger_seals
  for each row execute function refuse_change();
create trigger ledger_seals_no_truncate before truncate on ledger_seals
  for each statement execute function refuse_change();
grant select, insert on ledger_seals to @app_role@;

-- Which entry stands where in which seal.
create table ledger_seal_members (
  seal_no bigint not null references ledger_seals,
  ordinal integer not null check (ordinal >= 0),
  entry_id uuid not null unique references ledger_entries (entry_id),
  primary key (seal_no, ordinal)
);
create trigger ledger_seal_members_append_only before update or delete on ledger_seal_members
  for each row execute function refuse_change();
create trigger ledger_seal_members_no_truncate before truncate on ledger_seal_members
  for each statement execute function refuse_change();
grant select, insert on ledger_seal_members to @app_role@;
