-- The engine: runs, their journal, their waits, the events that end waits, and the processes that work.
--
-- A run is one durable execution of a workflow. A worker claims it (fence + 1), works one segment and either finishes
-- or parks it. `steps` is the journal: one row per finished step, written once. `waits` are persisted registrations;
-- a resolved wait is part of the journal too. `events` are facts addressed to a key, first write wins, kept.
--
-- Lock order, everywhere: event keys (advisory, sorted) -> parent run -> children by id -> request -> action -> ledger
-- subject. Every journal write locks the run row `for share` in its own statement; claim, park and wake lock it
-- `for update` and look again.
--
-- Run: queued -> running -> waiting -> queued ..., running -> completed | failed, any open state -> cancelling ->
-- cancelled, running -> parked (needs a person) -> queued. The list below is the law; src/types.ts holds the same.

create function run_transition_is_legal(from_status text, to_status text) returns boolean language sql immutable as $$
  select case from_status
    when 'queued' then to_status in ('running', 'paused', 'cancelling', 'cancelled', 'parked')
    when 'running' then to_status in ('queued', 'waiting', 'paused', 'cancelling', 'completed', 'failed', 'cancelled', 'parked')
    when 'waiting' then to_status in ('queued', 'paused', 'cancelling', 'cancelled')
    when 'paused' then to_status in ('queued', 'cancelling', 'cancelled')
    when 'cancelling' then to_status in ('cancelled')
    when 'failed' then to_status in ('queued')
    when 'parked' then to_status in ('queued', 'cancelling', 'cancelled')
    else false
  end
$$;

-- One row per process that works on runs; its heartbeat is the lease of every run it holds.
create table workers (
  worker_id uuid primary key,
  -- Boot id and pid namespace: equal only where a missing pid proves the process dead. Null where neither is known.
  host_key text,
  pid integer not null,
  -- Start time of that pid as the kernel counts it, so that a reused pid is not taken for the holder.
  pid_started text,
  lease_until timestamptz not null,
  started_at timestamptz not null default db_now()
);
create index workers_by_host on workers (host_key) where host_key is not null;
grant select, insert, update, delete on workers to @app_role@;

create table runs (
  workspace_id text not null references workspaces,
  run_id uuid not null,
  workflow_name text not null,
  workflow_version integer not null check (workflow_version > 0),
  status text not null default 'queued' check (status in
    ('queued', 'running', 'waiting', 'paused', 'cancelling', 'completed', 'failed', 'cancelled', 'parked')),
  input json not null,
  output json,
  error json,
  -- Raised by every claim; a write that names an older fence is refused.
  fence bigint not null default 0,
  worker_id uuid,
  -- Claims since the last orderly end of a segment: counted before the work, so that a killer run is seen.
  claim_count integer not null default 0,
  -- Starting twice under one key is one run.
  run_key text,
  parent_run_id uuid,
  parent_path text,
  owner_team_id text,
  owner_user_id text,
  -- What started it: slack, schedule, signal, run.
  origin text not null,
  -- Who may see what it says: a channel id, or the id of a person's direct message.
  audience text,
  -- Where untrusted text entered, by step path.
  taint text[] not null default '{}',
  created_at timestamptz not null default db_now(),
  queued_at timestamptz not null default db_now(),
  finished_at timestamptz,
  primary key (workspace_id, run_id),
  unique (workspace_id, run_key),
  check (status <> 'running' or worker_id is not null)
) with (fillfactor = 70);
create index runs_running on runs (worker_id) where status = 'running';
create index runs_queued on runs (queued_at) where status = 'queued';
create index runs_by_parent on runs (workspace_id, parent_run_id) where parent_run_id is not null;
create trigger runs_transition before update of status on runs for each row
  when (old.status is distinct from new.status and not run_transition_is_legal(old.status, new.status))
  execute function refuse_transition();
grant select, insert, update on runs to @app_role@;

-- The journal. `path` is the step's key: its branches, its name, its occurrence.
create table steps (
  workspace_id text not null,
  run_id uuid not null,
  path text not null,
  kind text not null,
  input_hash text,
  fence bigint not null,
  -- Null for success; an error is a result like any other, thrown again on replay.
  error json,
  result json,
  started_at timestamptz not null,
  finished_at timestamptz not null default db_now(),
  primary key (workspace_id, run_id, path)
);
create trigger steps_append_only before update or delete on steps
  for each row execute function refuse_change();
grant select, insert on steps to @app_role@;

create table events (
  workspace_id text not null,
  event_name text not null,
  event_key text not null,
  payload json not null,
  created_at timestamptz not null default db_now(),
  primary key (workspace_id, event_name, event_key)
);
create trigger events_append_only before update or delete on events
  for each row execute function refuse_change();
grant select, insert on events to @app_role@;

-- A wait is open until it has an outcome; the outcome is stored, never inferred.
create table waits (
  workspace_id text not null,
  run_id uuid not null,
  path text not null,
  kind text not null check (kind in ('event', 'sleep', 'retry')),
  input_hash text,
  event_name text,
  event_key text,
  deadline_at timestamptz not null,
  outcome text check (outcome in ('event', 'timeout', 'cancelled')),
  payload json,
  created_at timestamptz not null default db_now(),
  resolved_at timestamptz,
  primary key (workspace_id, run_id, path),
  check ((event_name is null) = (event_key is null)),
  check ((kind = 'event') = (event_name is not null)),
  check ((outcome is null) = (resolved_at is null))
);
create index waits_open_by_event on waits (workspace_id, event_name, event_key) where outcome is null and event_name is not null;
create index waits_open_by_deadline on waits (deadline_at) where outcome is null;
grant select, insert, update on waits to @app_role@;
