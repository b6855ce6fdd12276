-- Definitions: policy and agent versions, and schedules. Versions are immutable; activations say which one is in force.

create table policy_versions (
  workspace_id text not null references workspaces,
  policy_version text not null,
  content json not null,
  created_at timestamptz not null default db_now(),
  primary key (workspace_id, policy_version)
);
create trigger policy_versions_append_only before update or delete on policy_versions
  for each row execute function refuse_change();
grant select, insert on policy_versions to @app_role@;

-- The newest row is the active policy.
create table policy_activations (
  workspace_id text not null,
  activation_no bigint not null check (activation_no > 0),
  policy_version text not null,
  activated_by text not null,
  reason text not null,
  activated_at timestamptz not null default db_now(),
  primary key (workspace_id, activation_no),
  foreign key (workspace_id, policy_version) references policy_versions
);
create trigger policy_activations_append_only before update or delete on policy_activations
  for each row execute function refuse_change();
grant select, insert on policy_activations to @app_role@;

create table agent_versions (
  workspace_id text not null references workspaces,
  agent_name text not null,
  agent_version text not null,
  owner text not null,
  content json not null,
  created_at timestamptz not null default db_now(),
  primary key (workspace_id, agent_name, agent_version)
);
create trigger agent_versions_append_only before update or delete on agent_versions
  for each row execute function refuse_change();
grant select, insert on agent_versions to @app_role@;

-- Work that starts by the clock. The reviewers of what it proposes are named when it is made.
create table schedules (
  workspace_id text not null references workspaces,
  schedule_id uuid not null,
  name text not null,
  owner_team_id text not null,
  owner_user_id text not null,
  workflow_name text not null,
  workflow_version integer not null,
  input json not null,
  cron text not null,
  time_zone text not null,
  catch_up text not null check (catch_up in ('skip', 'once')),
  -- The local date last served: the unique mark that makes a date happen once.
  last_local_date date,
  next_at timestamptz,
  paused_at timestamptz,
  created_at timestamptz not null default db_now(),
  primary key (workspace_id, schedule_id),
  unique (workspace_id, name)
);
create index schedules_due on schedules (next_at) where paused_at is null;
grant select, insert, update on schedules to @app_role@;
