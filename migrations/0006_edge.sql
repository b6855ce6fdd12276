-- The edge: what Slack sent us, and what we owe Slack.

-- A claim on a row of these tables holds while its worker lives, and at most until claimed_until.
create function claim_is_open(claimed_by uuid, claimed_until timestamptz) returns boolean language sql stable as $$
  select claimed_until is null or claimed_until < db_now()
    or not exists (select 1 from workers w where w.worker_id = claimed_by and w.lease_until > db_now())
$$;

-- Stored before the ack. A redelivery collapses on (workspace_id, dedupe_key).
-- stored -> handled (its consequence committed with it) | parked (needs a person).
create table inbox (
  workspace_id text not null,
  inbox_id uuid not null,
  dedupe_key text not null,
  source text not null check (source in ('event', 'interaction', 'command')),
  payload json not null,
  status text not null default 'stored' check (status in ('stored', 'handled', 'parked')),
  delivery_count integer not null default 1,
  -- Tries that count towards parking, and tries that met outside trouble, which do not.
  try_count integer not null default 0,
  trouble_count integer not null default 0,
  next_try_at timestamptz not null default db_now(),
  -- Worked on by this worker, for as long as it lives and at most until then.
  claimed_by uuid,
  claimed_until timestamptz,
  last_error text,
  received_at timestamptz not null default db_now(),
  handled_at timestamptz,
  primary key (workspace_id, inbox_id),
  unique (workspace_id, dedupe_key)
);
create index inbox_due on inbox (next_try_at) where status = 'stored';
grant select, insert, update on inbox to @app_role@;

-- One message (or reaction) the product owes Slack. Slack is a view: the message is drawn from committed state until
-- shown_version has reached wanted_version.
-- due -> settled -> due (the state behind it changed) ..., due -> refused (Slack will never take it).
create table deliveries (
  workspace_id text not null,
  delivery_id uuid not null,
  view_kind text not null check (view_kind in ('approval', 'task', 'note', 'receipt', 'reaction')),
  -- The request or task it shows; null where `content` says it all.
  subject_id uuid,
  content json,
  target json not null,
  -- Lower goes first: 0 approvals and notes, 1 progress, 2 digest.
  priority smallint not null,
  wanted_version integer not null default 1,
  shown_version integer not null default 0,
  ts text,
  -- When a message that somebody deleted was given up and owed anew: once per delivery.
  reposted_at timestamptz,
  status text not null default 'due' check (status in ('due', 'settled', 'refused')),
  try_count integer not null default 0,
  next_try_at timestamptz not null default db_now(),
  claimed_by uuid,
  claimed_until timestamptz,
  last_error text,
  created_at timestamptz not null default db_now(),
  primary key (workspace_id, delivery_id)
);
create index deliveries_due on deliveries (priority, next_try_at) where status = 'due';
create index deliveries_by_subject on deliveries (workspace_id, subject_id) where subject_id is not null;
grant select, insert, update on deliveries to @app_role@;
