-- Work: tasks, what agents spent, what they proposed, how it was judged, who decided, what was executed.
--
-- Action: proposed -> denied | permitted | awaiting; awaiting -> permitted | closed; permitted -> executing | closed;
-- executing -> done | failed | unknown; unknown -> done | failed (a person says).
-- Request: pending -> approved | rejected | changes_requested | expired | withdrawn | superseded;
-- approved -> revoked | superseded | withdrawn | expired (not executed in time).

create function action_transition_is_legal(from_status text, to_status text) returns boolean language sql immutable as $$
  select case from_status
    when 'proposed' then to_status in ('denied', 'permitted', 'awaiting')
    when 'permitted' then to_status in ('executing', 'closed')
    when 'awaiting' then to_status in ('permitted', 'closed')
    when 'executing' then to_status in ('done', 'failed', 'unknown')
    when 'unknown' then to_status in ('done', 'failed')
    else false
  end
$$;

create function request_transition_is_legal(from_status text, to_status text) returns boolean language sql immutable as $$
  select case from_status
    when 'pending' then to_status in ('approved', 'rejected', 'changes_requested', 'expired', 'withdrawn', 'superseded')
    when 'approved' then to_status in ('revoked', 'superseded', 'withdrawn', 'expired')
    else false
  end
$$;

-- What was asked for.
create table tasks (
  workspace_id text not null references workspaces,
  task_id uuid not null,
  run_id uuid not null,
  requester_team_id text not null,
  requester_user_id text not null,
  owner_team_id text not null,
  owner_user_id text not null,
  channel_id text not null,
  thread_ts text not null,
  message_ts text not null,
  objective text not null,
  -- Constraints, acceptance checks and budget, as drafted.
  contract json not null,
  summary text,
  created_at timestamptz not null default db_now(),
  finished_at timestamptz,
  primary key (workspace_id, task_id),
  unique (workspace_id, run_id),
  -- The mention and the message event of one Slack message are one task.
  unique (workspace_id, channel_id, message_ts),
  foreign key (workspace_id, run_id) references runs deferrable initially deferred
);
grant select, insert, update on tasks to @app_role@;

-- One row per model turn that was paid for.
create table model_turns (
  workspace_id text not null,
  turn_id uuid not null,
  run_id uuid not null,
  path text not null,
  agent_name text not null,
  agent_version text not null,
  model text not null,
  model_label text not null,
  stop_reason text not null,
  input_token_count bigint not null,
  output_token_count bigint not null,
  cache_creation_token_count bigint not null,
  cache_read_token_count bigint not null,
  cost numeric(14, 6) not null,
  currency text not null,
  price_table_date date not null,
  created_at timestamptz not null default db_now(),
  primary key (workspace_id, turn_id),
  unique (workspace_id, run_id, path),
  foreign key (workspace_id, run_id) references runs
);
create trigger model_turns_append_only before update or delete on model_turns
  for each row execute function refuse_change();
grant select, insert on model_turns to @app_role@;

create table actions (
  workspace_id text not null,
  action_id uuid not null,
  run_id uuid not null,
  task_id uuid not null,
  -- Set when this action replaces one whose target changed.
  replaces_action_id uuid,
  kind text not null,
  arguments json not null,
  tool_version integer not null,
  credential text not null,
  action_hash text not null check (action_hash ~ '^[0-9a-f]{64}$'),
  preconditions json not null,
  target json not null,
  agent_name text not null,
  agent_version text not null,
  model_label text not null,
  agent_reason text not null,
  status text not null default 'proposed' check (status in
    ('proposed', 'denied', 'permitted', 'awaiting', 'closed', 'executing', 'done', 'failed', 'unknown')),
  created_at timestamptz not null default db_now(),
  updated_at timestamptz not null default db_now(),
  primary key (workspace_id, action_id),
  foreign key (workspace_id, run_id) references runs,
  foreign key (workspace_id, task_id) references tasks
);
create index actions_by_run on actions (workspace_id, run_id, action_hash);
create trigger actions_transition before update of status on actions for each row
  when (old.status is distinct from new.status and not action_transition_is_legal(old.status, new.status))
  execute function refuse_transition();
-- What was judged and approved is what runs: nothing of it changes after it was proposed.
create function refuse_rewrite() returns trigger language plpgsql as $$
begin
  raise exception 'a row of % is never rewritten', tg_table_name using errcode = 'CS003';
end $$;
create trigger actions_frozen before update on actions for each row
  when (row(old.workspace_id, old.action_id, old.run_id, old.task_id, old.kind, old.arguments::text, old.tool_version, old.credential,
            old.action_hash, old.preconditions::text, old.target::text, old.agent_name, old.agent_version, old.model_label,
            old.agent_reason, old.replaces_action_id)
        is distinct from
        row(new.workspace_id, new.action_id, new.run_id, new.task_id, new.kind, new.arguments::text, new.tool_version, new.credential,
            new.action_hash, new.preconditions::text, new.target::text, new.agent_name, new.agent_version, new.model_label,
            new.agent_reason, new.replaces_action_id))
  execute function refuse_rewrite();
grant select, insert, update on actions to @app_role@;

create table verdicts (
  workspace_id text not null,
  verdict_id uuid not null,
  action_id uuid not null,
  verdict text not null check (verdict in ('allow', 'require_approval', 'deny')),
  tier text not null check (tier in ('low', 'medium', 'high')),
  rule text not null,
  reasons json not null,
  policy_version text not null,
  agent_name text not null,
  agent_version text not null,
  tool_version integer not null,
  credential text not null,
  created_at timestamptz not null default db_now(),
  primary key (workspace_id, verdict_id),
  foreign key (workspace_id, action_id) references actions
);
create index verdicts_by_action on verdicts (workspace_id, action_id, created_at);
create trigger verdicts_append_only before update or delete on verdicts
  for each row execute function refuse_change();
grant select, insert on verdicts to @app_role@;

create table evidence (
  workspace_id text not null,
  evidence_id uuid not null,
  action_id uuid not null,
  ordinal integer not null,
  label text not null,
  value text not null,
  source text not null,
  observed_at timestamptz not null,
  primary key (workspace_id, evidence_id),
  foreign key (workspace_id, action_id) references actions
);
create index evidence_by_action on evidence (workspace_id, action_id, ordinal);
create trigger evidence_append_only before update or delete on evidence
  for each row execute function refuse_change();
grant select, insert on evidence to @app_role@;

create table approval_requests (
  workspace_id text not null,
  request_id uuid not null,
  action_id uuid not null,
  run_id uuid not null,
  status text not null default 'pending' check (status in
    ('pending', 'approved', 'rejected', 'changes_requested', 'expired', 'withdrawn', 'superseded', 'revoked')),
  -- The fingerprint this request binds; the executor compares it with the action's.
  action_hash text not null,
  preconditions json not null,
  review_rule json not null,
  deadline_at timestamptz not null,
  -- When superseded: what had changed.
  changes json not null default '[]',
  created_at timestamptz not null default db_now(),
  closed_at timestamptz,
  primary key (workspace_id, request_id),
  foreign key (workspace_id, action_id) references actions,
  foreign key (workspace_id, run_id) references runs
);
create unique index approval_requests_one_open on approval_requests (workspace_id, action_id) where status in ('pending', 'approved');
create index approval_requests_by_run on approval_requests (workspace_id, run_id);
create trigger approval_requests_transition before update of status on approval_requests for each row
  when (old.status is distinct from new.status and not request_transition_is_legal(old.status, new.status))
  execute function refuse_transition();
-- What a request binds and of whom it asks is frozen with it.
create trigger approval_requests_frozen before update on approval_requests for each row
  when (row(old.workspace_id, old.request_id, old.action_id, old.run_id, old.action_hash, old.preconditions::text,
            old.review_rule::text, old.deadline_at)
        is distinct from
        row(new.workspace_id, new.request_id, new.action_id, new.run_id, new.action_hash, new.preconditions::text,
            new.review_rule::text, new.deadline_at))
  execute function refuse_rewrite();
grant select, insert, update on approval_requests to @app_role@;

-- One reviewer's word. One approval and one rejection per person and request.
create table decisions (
  workspace_id text not null,
  decision_id uuid not null,
  request_id uuid not null,
  team_id text not null,
  user_id text not null,
  decision text not null check (decision in ('approve', 'reject', 'request_changes', 'revoke', 'withdraw')),
  reason text,
  surface text not null,
  policy_version text not null,
  created_at timestamptz not null default db_now(),
  primary key (workspace_id, decision_id),
  unique (workspace_id, request_id, team_id, user_id, decision),
  foreign key (workspace_id, request_id) references approval_requests
);
create trigger decisions_append_only before update or delete on decisions
  for each row execute function refuse_change();
grant select, insert on decisions to @app_role@;

-- Who has opened Details.
create table detail_views (
  workspace_id text not null,
  request_id uuid not null,
  team_id text not null,
  user_id text not null,
  opened_at timestamptz not null default db_now(),
  primary key (workspace_id, request_id, team_id, user_id),
  foreign key (workspace_id, request_id) references approval_requests
);
create trigger detail_views_append_only before update or delete on detail_views
  for each row execute function refuse_change();
grant select, insert on detail_views to @app_role@;

-- The carrying out of an action: the intent is written before the call, the receipt after it.
create table executions (
  workspace_id text not null,
  execution_id uuid not null,
  action_id uuid not null,
  run_id uuid not null,
  fence bigint not null,
  action_hash text not null,
  tool_version integer not null,
  credential text not null,
  policy_version text not null,
  idempotency_key text not null,
  effect_class text not null check (effect_class in ('keyed', 'checkable', 'blind')),
  -- No effect of this intent is expected after this instant: the provider's request timeout has passed.
  settles_at timestamptz not null,
  receipt json,
  error json,
  outcome text check (outcome in ('done', 'failed', 'unknown')),
  started_at timestamptz not null default db_now(),
  finished_at timestamptz,
  primary key (workspace_id, execution_id),
  -- One intent per action: usable once.
  unique (workspace_id, action_id),
  foreign key (workspace_id, action_id) references actions
);
grant select, insert, update on executions to @app_role@;
