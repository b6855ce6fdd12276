-- The migrated schema, read from the catalogs. Written by UPDATE_GOLDEN=1; tests compare.

-- tables

table actions
  workspace_id text not null
  action_id uuid not null
  run_id uuid not null
  task_id uuid not null
  replaces_action_id uuid
  kind text not null
  arguments json not null
  tool_version integer not null
  credential text not null
  action_hash text not null
  preconditions json not null
  target json not null
  agent_name text not null
  agent_version text not null
  model_label text not null
  agent_reason text not null
  status text not null default 'proposed'::text
  created_at timestamp with time zone not null default db_now()
  updated_at timestamp with time zone not null default db_now()
  constraint actions_action_hash_check CHECK ((action_hash ~ '^[0-9a-f]{64}$'::text))
  constraint actions_status_check CHECK ((status = ANY (ARRAY['proposed'::text, 'denied'::text, 'permitted'::text, 'awaiting'::text, 'closed'::text, 'executing'::text, 'done'::text, 'failed'::text, 'unknown'::text])))
  constraint actions_workspace_id_run_id_fkey FOREIGN KEY (workspace_id, run_id) REFERENCES runs(workspace_id, run_id)
  constraint actions_workspace_id_task_id_fkey FOREIGN KEY (workspace_id, task_id) REFERENCES tasks(workspace_id, task_id)
  constraint actions_pkey PRIMARY KEY (workspace_id, action_id)
  INDEX actions_by_run ON public.actions USING btree (workspace_id, run_id, action_hash)
  TRIGGER actions_frozen BEFORE UPDATE ON public.actions FOR EACH ROW WHEN (((((((((((((((((old.workspace_id IS DISTINCT FROM new.workspace_id) OR (old.action_id IS DISTINCT FROM new.action_id)) OR (old.run_id IS DISTINCT FROM new.run_id)) OR (old.task_id IS DISTINCT FROM new.task_id)) OR (old.kind IS DISTINCT FROM new.kind)) OR ((old.arguments)::text IS DISTINCT FROM (new.arguments)::text)) OR (old.tool_version IS DISTINCT FROM new.tool_version)) OR (old.credential IS DISTINCT FROM new.credential)) OR (old.action_hash IS DISTINCT FROM new.action_hash)) OR ((old.preconditions)::text IS DISTINCT FROM (new.preconditions)::text)) OR ((old.target)::text IS DISTINCT FROM (new.target)::text)) OR (old.agent_name IS DISTINCT FROM new.agent_name)) OR (old.agent_version IS DISTINCT FROM new.agent_version)) OR (old.model_label IS DISTINCT FROM new.model_label)) OR (old.agent_reason IS DISTINCT FROM new.agent_reason)) OR (old.replaces_action_id IS DISTINCT FROM new.replaces_action_id))) EXECUTE FUNCTION refuse_rewrite()
  TRIGGER actions_transition BEFORE UPDATE OF status ON public.actions FOR EACH ROW WHEN (((old.status IS DISTINCT FROM new.status) AND (NOT action_transition_is_legal(old.status, new.status)))) EXECUTE FUNCTION refuse_transition()
  grant insert, select, update to @app_role@

table agent_versions
  workspace_id text not null
  agent_name text not null
  agent_version text not null
  owner text not null
  content json not null
  created_at timestamp with time zone not null default db_now()
  constraint agent_versions_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES workspaces(workspace_id)
  constraint agent_versions_pkey PRIMARY KEY (workspace_id, agent_name, agent_version)
  TRIGGER agent_versions_append_only BEFORE DELETE OR UPDATE ON public.agent_versions FOR EACH ROW EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table approval_requests
  workspace_id text not null
  request_id uuid not null
  action_id uuid not null
  run_id uuid not null
  status text not null default 'pending'::text
  action_hash text not null
  preconditions json not null
  review_rule json not null
  deadline_at timestamp with time zone not null
  changes json not null default '[]'::json
  created_at timestamp with time zone not null default db_now()
  closed_at timestamp with time zone
  constraint approval_requests_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'approved'::text, 'rejected'::text, 'changes_requested'::text, 'expired'::text, 'withdrawn'::text, 'superseded'::text, 'revoked'::text])))
  constraint approval_requests_workspace_id_action_id_fkey FOREIGN KEY (workspace_id, action_id) REFERENCES actions(workspace_id, action_id)
  constraint approval_requests_workspace_id_run_id_fkey FOREIGN KEY (workspace_id, run_id) REFERENCES runs(workspace_id, run_id)
  constraint approval_requests_pkey PRIMARY KEY (workspace_id, request_id)
  INDEX approval_requests_by_run ON public.approval_requests USING btree (workspace_id, run_id)
  UNIQUE INDEX approval_requests_one_open ON public.approval_requests USING btree (workspace_id, action_id) WHERE (status = ANY (ARRAY['pending'::text, 'approved'::text]))
  TRIGGER approval_requests_frozen BEFORE UPDATE ON public.approval_requests FOR EACH ROW WHEN (((((((((old.workspace_id IS DISTINCT FROM new.workspace_id) OR (old.request_id IS DISTINCT FROM new.request_id)) OR (old.action_id IS DISTINCT FROM new.action_id)) OR (old.run_id IS DISTINCT FROM new.run_id)) OR (old.action_hash IS DISTINCT FROM new.action_hash)) OR ((old.preconditions)::text IS DISTINCT FROM (new.preconditions)::text)) OR ((old.review_rule)::text IS DISTINCT FROM (new.review_rule)::text)) OR (old.deadline_at IS DISTINCT FROM new.deadline_at))) EXECUTE FUNCTION refuse_rewrite()
  TRIGGER approval_requests_transition BEFORE UPDATE OF status ON public.approval_requests FOR EACH ROW WHEN (((old.status IS DISTINCT FROM new.status) AND (NOT request_transition_is_legal(old.status, new.status)))) EXECUTE FUNCTION refuse_transition()
  grant insert, select, update to @app_role@

table decisions
  workspace_id text not null
  decision_id uuid not null
  request_id uuid not null
  team_id text not null
  user_id text not null
  decision text not null
  reason text
  surface text not null
  policy_version text not null
  created_at timestamp with time zone not null default db_now()
  constraint decisions_decision_check CHECK ((decision = ANY (ARRAY['approve'::text, 'reject'::text, 'request_changes'::text, 'revoke'::text, 'withdraw'::text])))
  constraint decisions_workspace_id_request_id_fkey FOREIGN KEY (workspace_id, request_id) REFERENCES approval_requests(workspace_id, request_id)
  constraint decisions_pkey PRIMARY KEY (workspace_id, decision_id)
  constraint decisions_workspace_id_request_id_team_id_user_id_decision_key UNIQUE (workspace_id, request_id, team_id, user_id, decision)
  TRIGGER decisions_append_only BEFORE DELETE OR UPDATE ON public.decisions FOR EACH ROW EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table deliveries
  workspace_id text not null
  delivery_id uuid not null
  view_kind text not null
  subject_id uuid
  content json
  target json not null
  priority smallint not null
  wanted_version integer not null default 1
  shown_version integer not null default 0
  ts text
  reposted_at timestamp with time zone
  status text not null default 'due'::text
  try_count integer not null default 0
  next_try_at timestamp with time zone not null default db_now()
  claimed_by uuid
  claimed_until timestamp with time zone
  last_error text
  created_at timestamp with time zone not null default db_now()
  place text not null default COALESCE((target ->> 'channelId'::text), ((target -> 'thread'::text) ->> 'channelId'::text))
  next_call text not null default 
CASE
    WHEN (view_kind = 'reaction'::text) THEN 'react'::text
    WHEN (view_kind = 'file'::text) THEN 'attach'::text
    WHEN (ts IS NOT NULL) THEN 'update'::text
    WHEN ((target ->> 'to'::text) = 'person'::text) THEN 'note'::text
    ELSE 'post'::text
END
  form text not null default 'full'::text
  filed text
  refresh_at timestamp with time zone
  call_until timestamp with time zone
  constraint deliveries_form_check CHECK ((form = ANY (ARRAY['full'::text, 'short'::text])))
  constraint deliveries_status_check CHECK ((status = ANY (ARRAY['due'::text, 'settled'::text, 'refused'::text])))
  constraint deliveries_view_kind_check CHECK ((view_kind = ANY (ARRAY['approval'::text, 'task'::text, 'note'::text, 'receipt'::text, 'reaction'::text, 'digest'::text, 'file'::text])))
  constraint deliveries_pkey PRIMARY KEY (workspace_id, delivery_id)
  INDEX deliveries_by_subject ON public.deliveries USING btree (workspace_id, subject_id) WHERE (subject_id IS NOT NULL)
  INDEX deliveries_due ON public.deliveries USING btree (workspace_id, place, next_call, priority, next_try_at) WHERE (status = 'due'::text)
  INDEX deliveries_refresh ON public.deliveries USING btree (refresh_at) WHERE ((status = 'settled'::text) AND (refresh_at IS NOT NULL))
  grant insert, select, update to @app_role@

table delivery_pauses
  workspace_id text not null
  place text not null
  call text not null
  until timestamp with time zone not null
  reason text
  constraint delivery_pauses_call_check CHECK ((call = ANY (ARRAY['post'::text, 'note'::text, 'find'::text, 'update'::text, 'react'::text, 'attach'::text, 'progress'::text, 'refresh'::text, '*'::text])))
  constraint delivery_pauses_check CHECK ((((call = '*'::text) = (place = '*'::text)) OR (call = 'refresh'::text)))
  constraint delivery_pauses_pkey PRIMARY KEY (workspace_id, place, call)
  grant delete, insert, select, update to @app_role@

table deployments
  deployment_id uuid not null
  created_at timestamp with time zone not null default db_now()
  constraint deployments_pkey PRIMARY KEY (deployment_id)
  UNIQUE INDEX deployments_only_one ON public.deployments USING btree ((true))
  TRIGGER deployments_append_only BEFORE DELETE OR UPDATE ON public.deployments FOR EACH ROW EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table detail_views
  workspace_id text not null
  request_id uuid not null
  team_id text not null
  user_id text not null
  opened_at timestamp with time zone not null default db_now()
  constraint detail_views_workspace_id_request_id_fkey FOREIGN KEY (workspace_id, request_id) REFERENCES approval_requests(workspace_id, request_id)
  constraint detail_views_pkey PRIMARY KEY (workspace_id, request_id, team_id, user_id)
  TRIGGER detail_views_append_only BEFORE DELETE OR UPDATE ON public.detail_views FOR EACH ROW EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table digests
  workspace_id text not null
  digest_id uuid not null
  schedule_id uuid
  local_date date not null
  time_zone text not null
  planned_at timestamp with time zone
  is_late boolean not null default false
  from_seal bigint not null
  since_at timestamp with time zone
  to_seal bigint
  channel_id text not null
  reader_user_id text
  made_at timestamp with time zone not null default db_now()
  constraint digests_check CHECK (((schedule_id IS NULL) = (planned_at IS NULL)))
  constraint digests_check1 CHECK (((schedule_id IS NULL) OR (to_seal IS NOT NULL)))
  constraint digests_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES workspaces(workspace_id)
  constraint digests_workspace_id_schedule_id_fkey FOREIGN KEY (workspace_id, schedule_id) REFERENCES schedules(workspace_id, schedule_id)
  constraint digests_pkey PRIMARY KEY (workspace_id, digest_id)
  constraint digests_workspace_id_schedule_id_local_date_key UNIQUE (workspace_id, schedule_id, local_date)
  TRIGGER digests_append_only BEFORE DELETE OR UPDATE ON public.digests FOR EACH ROW EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table events
  workspace_id text not null
  event_name text not null
  event_key text not null
  payload json not null
  created_at timestamp with time zone not null default db_now()
  constraint events_pkey PRIMARY KEY (workspace_id, event_name, event_key)
  TRIGGER events_append_only BEFORE DELETE OR UPDATE ON public.events FOR EACH ROW EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table evidence
  workspace_id text not null
  evidence_id uuid not null
  action_id uuid not null
  ordinal integer not null
  label text not null
  value text not null
  source text not null
  observed_at timestamp with time zone not null
  constraint evidence_workspace_id_action_id_fkey FOREIGN KEY (workspace_id, action_id) REFERENCES actions(workspace_id, action_id)
  constraint evidence_pkey PRIMARY KEY (workspace_id, evidence_id)
  INDEX evidence_by_action ON public.evidence USING btree (workspace_id, action_id, ordinal)
  TRIGGER evidence_append_only BEFORE DELETE OR UPDATE ON public.evidence FOR EACH ROW EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table executions
  workspace_id text not null
  execution_id uuid not null
  action_id uuid not null
  run_id uuid not null
  fence bigint not null
  action_hash text not null
  tool_version integer not null
  credential text not null
  policy_version text not null
  idempotency_key text not null
  effect_class text not null
  settles_at timestamp with time zone not null
  receipt json
  error json
  outcome text
  started_at timestamp with time zone not null default db_now()
  finished_at timestamp with time zone
  constraint executions_effect_class_check CHECK ((effect_class = ANY (ARRAY['keyed'::text, 'checkable'::text, 'blind'::text])))
  constraint executions_outcome_check CHECK ((outcome = ANY (ARRAY['done'::text, 'failed'::text, 'unknown'::text])))
  constraint executions_workspace_id_action_id_fkey FOREIGN KEY (workspace_id, action_id) REFERENCES actions(workspace_id, action_id)
  constraint executions_pkey PRIMARY KEY (workspace_id, execution_id)
  constraint executions_workspace_id_action_id_key UNIQUE (workspace_id, action_id)
  grant insert, select, update to @app_role@

table inbox
  workspace_id text not null
  inbox_id uuid not null
  dedupe_key text not null
  source text not null
  payload json not null
  status text not null default 'stored'::text
  delivery_count integer not null default 1
  try_count integer not null default 0
  trouble_count integer not null default 0
  next_try_at timestamp with time zone not null default db_now()
  claimed_by uuid
  claimed_until timestamp with time zone
  last_error text
  received_at timestamp with time zone not null default db_now()
  handled_at timestamp with time zone
  claim_count integer not null default 0
  constraint inbox_source_check CHECK ((source = ANY (ARRAY['event'::text, 'interaction'::text, 'command'::text])))
  constraint inbox_status_check CHECK ((status = ANY (ARRAY['stored'::text, 'handled'::text, 'parked'::text])))
  constraint inbox_pkey PRIMARY KEY (workspace_id, inbox_id)
  constraint inbox_workspace_id_dedupe_key_key UNIQUE (workspace_id, dedupe_key)
  INDEX inbox_claimed ON public.inbox USING btree (next_try_at) WHERE ((status = 'stored'::text) AND (claim_count > 0))
  INDEX inbox_due_events ON public.inbox USING btree (next_try_at) WHERE ((status = 'stored'::text) AND (claim_count = 0) AND (source = 'event'::text))
  INDEX inbox_due_presses ON public.inbox USING btree (next_try_at) WHERE ((status = 'stored'::text) AND (claim_count = 0) AND (source <> 'event'::text))
  INDEX inbox_handled ON public.inbox USING btree (handled_at) WHERE (status = 'handled'::text)
  INDEX inbox_parked ON public.inbox USING btree (received_at) WHERE (status = 'parked'::text)
  grant delete, insert, select, update to @app_role@

table ledger_entries
  workspace_id text not null
  subject_kind text not null
  subject_id text not null
  subject_seq bigint not null
  entry_id uuid not null
  format_version integer not null
  entry_kind text not null
  body text not null
  prev_hash bytea not null
  hash bytea not null
  created_at timestamp with time zone not null
  constraint ledger_entries_subject_seq_check CHECK ((subject_seq > 0))
  constraint ledger_entries_pkey PRIMARY KEY (workspace_id, subject_kind, subject_id, subject_seq)
  constraint ledger_entries_entry_id_key UNIQUE (entry_id)
  INDEX ledger_entries_waiting ON public.ledger_entries USING btree (workspace_id, created_at) WHERE (entry_kind = ANY (ARRAY['approval.requested'::text, 'action.unknown'::text, 'run.parked'::text]))
  TRIGGER ledger_entries_append_only BEFORE DELETE OR UPDATE ON public.ledger_entries FOR EACH ROW EXECUTE FUNCTION refuse_change()
  TRIGGER ledger_entries_no_truncate BEFORE TRUNCATE ON public.ledger_entries FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table ledger_seal_members
  seal_no bigint not null
  ordinal integer not null
  entry_id uuid not null
  constraint ledger_seal_members_ordinal_check CHECK ((ordinal >= 0))
  constraint ledger_seal_members_entry_id_fkey FOREIGN KEY (entry_id) REFERENCES ledger_entries(entry_id)
  constraint ledger_seal_members_seal_no_fkey FOREIGN KEY (seal_no) REFERENCES ledger_seals(seal_no)
  constraint ledger_seal_members_pkey PRIMARY KEY (seal_no, ordinal)
  constraint ledger_seal_members_entry_id_key UNIQUE (entry_id)
  TRIGGER ledger_seal_members_append_only BEFORE DELETE OR UPDATE ON public.ledger_seal_members FOR EACH ROW EXECUTE FUNCTION refuse_change()
  TRIGGER ledger_seal_members_no_truncate BEFORE TRUNCATE ON public.ledger_seal_members FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table ledger_seals
  seal_no bigint not null
  prev_seal bytea not null
  merkle_root bytea not null
  entry_count integer not null
  seal bytea not null
  sealed_at timestamp with time zone not null
  constraint ledger_seals_entry_count_check CHECK ((entry_count > 0))
  constraint ledger_seals_seal_no_check CHECK ((seal_no > 0))
  constraint ledger_seals_pkey PRIMARY KEY (seal_no)
  TRIGGER ledger_seals_append_only BEFORE DELETE OR UPDATE ON public.ledger_seals FOR EACH ROW EXECUTE FUNCTION refuse_change()
  TRIGGER ledger_seals_no_truncate BEFORE TRUNCATE ON public.ledger_seals FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table ledger_subjects
  workspace_id text not null
  subject_kind text not null
  subject_id text not null
  last_seq bigint not null
  last_hash bytea not null
  prev_hash bytea not null
  constraint ledger_subjects_subject_kind_check CHECK ((subject_kind = ANY (ARRAY['run'::text, 'agent'::text, 'policy'::text, 'schedule'::text, 'workspace'::text])))
  constraint ledger_subjects_pkey PRIMARY KEY (workspace_id, subject_kind, subject_id)
  grant insert, select, update to @app_role@

table ledger_unsealed
  entry_id uuid not null
  hash bytea not null
  constraint ledger_unsealed_entry_id_fkey FOREIGN KEY (entry_id) REFERENCES ledger_entries(entry_id)
  constraint ledger_unsealed_pkey PRIMARY KEY (entry_id)
  grant delete, insert, select to @app_role@

table ledger_words
  workspace_id text not null
  entry_id uuid not null
  field text not null
  salt bytea not null
  words text not null
  constraint ledger_words_entry_id_fkey FOREIGN KEY (entry_id) REFERENCES ledger_entries(entry_id)
  constraint ledger_words_pkey PRIMARY KEY (workspace_id, entry_id, field)
  grant delete, insert, select to @app_role@

table model_turns
  workspace_id text not null
  turn_id uuid not null
  run_id uuid not null
  path text not null
  agent_name text not null
  agent_version text not null
  model text not null
  model_label text not null
  stop_reason text not null
  input_token_count bigint not null
  output_token_count bigint not null
  cache_creation_token_count bigint not null
  cache_read_token_count bigint not null
  cost numeric(14,6) not null
  currency text not null
  price_table_date date not null
  created_at timestamp with time zone not null default db_now()
  constraint model_turns_workspace_id_run_id_fkey FOREIGN KEY (workspace_id, run_id) REFERENCES runs(workspace_id, run_id)
  constraint model_turns_pkey PRIMARY KEY (workspace_id, turn_id)
  constraint model_turns_workspace_id_run_id_path_key UNIQUE (workspace_id, run_id, path)
  TRIGGER model_turns_append_only BEFORE DELETE OR UPDATE ON public.model_turns FOR EACH ROW EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table people
  workspace_id text not null
  team_id text not null
  user_id text not null
  github_login text
  recorded_by text not null
  recorded_at timestamp with time zone not null default db_now()
  constraint people_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES workspaces(workspace_id)
  constraint people_pkey PRIMARY KEY (workspace_id, team_id, user_id)
  grant insert, select, update to @app_role@

table policy_activations
  workspace_id text not null
  activation_no bigint not null
  policy_version text not null
  activated_by text not null
  reason text not null
  activated_at timestamp with time zone not null default db_now()
  constraint policy_activations_activation_no_check CHECK ((activation_no > 0))
  constraint policy_activations_workspace_id_policy_version_fkey FOREIGN KEY (workspace_id, policy_version) REFERENCES policy_versions(workspace_id, policy_version)
  constraint policy_activations_pkey PRIMARY KEY (workspace_id, activation_no)
  TRIGGER policy_activations_append_only BEFORE DELETE OR UPDATE ON public.policy_activations FOR EACH ROW EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table policy_versions
  workspace_id text not null
  policy_version text not null
  content json not null
  created_at timestamp with time zone not null default db_now()
  constraint policy_versions_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES workspaces(workspace_id)
  constraint policy_versions_pkey PRIMARY KEY (workspace_id, policy_version)
  TRIGGER policy_versions_append_only BEFORE DELETE OR UPDATE ON public.policy_versions FOR EACH ROW EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table runs with (fillfactor=70)
  workspace_id text not null
  run_id uuid not null
  workflow_name text not null
  workflow_version integer not null
  status text not null default 'queued'::text
  input json not null
  output json
  error json
  fence bigint not null default 0
  worker_id uuid
  claim_count integer not null default 0
  run_key text
  parent_run_id uuid
  parent_path text
  owner_team_id text
  owner_user_id text
  origin text not null
  audience text
  taint text[] not null default '{}'::text[]
  created_at timestamp with time zone not null default db_now()
  queued_at timestamp with time zone not null default db_now()
  finished_at timestamp with time zone
  depth smallint not null default 0
  child_key text
  pausing boolean not null default false
  failed_path text
  retried text[] not null default '{}'::text[]
  retry_count integer not null default 0
  constraint runs_check CHECK (((status <> 'running'::text) OR (worker_id IS NOT NULL)))
  constraint runs_check1 CHECK (((parent_run_id IS NULL) = (depth = 0)))
  constraint runs_check2 CHECK (((parent_run_id IS NULL) = (child_key IS NULL)))
  constraint runs_depth_check CHECK (((depth >= 0) AND (depth <= 8)))
  constraint runs_status_check CHECK ((status = ANY (ARRAY['queued'::text, 'running'::text, 'waiting'::text, 'paused'::text, 'cancelling'::text, 'completed'::text, 'failed'::text, 'cancelled'::text, 'parked'::text])))
  constraint runs_workflow_version_check CHECK ((workflow_version > 0))
  constraint runs_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES workspaces(workspace_id)
  constraint runs_pkey PRIMARY KEY (workspace_id, run_id)
  UNIQUE INDEX runs_by_key ON public.runs USING btree (workspace_id, run_key) WHERE (run_key IS NOT NULL)
  INDEX runs_by_parent ON public.runs USING btree (workspace_id, parent_run_id, parent_path) WHERE (parent_run_id IS NOT NULL)
  INDEX runs_cancelling ON public.runs USING btree (queued_at) WHERE (status = 'cancelling'::text)
  INDEX runs_held ON public.runs USING btree (worker_id) WHERE (worker_id IS NOT NULL)
  INDEX runs_queued ON public.runs USING btree (queued_at) WHERE (status = 'queued'::text)
  TRIGGER runs_transition BEFORE UPDATE OF status ON public.runs FOR EACH ROW WHEN ((old.status IS DISTINCT FROM new.status)) EXECUTE FUNCTION check_run_transition()
  grant insert, select, update to @app_role@

table schedules
  workspace_id text not null
  schedule_id uuid not null
  name text not null
  owner_team_id text not null
  owner_user_id text not null
  workflow_name text not null
  workflow_version integer not null
  input json not null
  cron text not null
  time_zone text not null
  catch_up text not null
  last_local_date date
  next_at timestamp with time zone
  paused_at timestamp with time zone
  created_at timestamp with time zone not null default db_now()
  audience text
  constraint schedules_catch_up_check CHECK ((catch_up = ANY (ARRAY['skip'::text, 'once'::text])))
  constraint schedules_check CHECK (((paused_at IS NULL) = (next_at IS NOT NULL)))
  constraint schedules_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES workspaces(workspace_id)
  constraint schedules_pkey PRIMARY KEY (workspace_id, schedule_id)
  constraint schedules_workspace_id_name_key UNIQUE (workspace_id, name)
  INDEX schedules_due ON public.schedules USING btree (next_at) WHERE (paused_at IS NULL)
  TRIGGER schedules_dates_grow BEFORE UPDATE OF last_local_date ON public.schedules FOR EACH ROW WHEN ((old.last_local_date IS DISTINCT FROM new.last_local_date)) EXECUTE FUNCTION check_schedule_date()
  grant insert, select, update to @app_role@

table schema_migrations
  name text not null
  sha256 text not null
  applied_at timestamp with time zone not null default clock_timestamp()
  constraint schema_migrations_pkey PRIMARY KEY (name)
  grant select to @app_role@

table steps
  workspace_id text not null
  run_id uuid not null
  path text not null
  kind text not null
  input_hash text
  fence bigint not null
  error json
  result json
  started_at timestamp with time zone not null
  finished_at timestamp with time zone not null default db_now()
  constraint steps_pkey PRIMARY KEY (workspace_id, run_id, path)
  TRIGGER steps_append_only BEFORE DELETE OR UPDATE ON public.steps FOR EACH ROW EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table tasks
  workspace_id text not null
  task_id uuid not null
  run_id uuid not null
  requester_team_id text not null
  requester_user_id text not null
  owner_team_id text not null
  owner_user_id text not null
  channel_id text not null
  thread_ts text not null
  message_ts text not null
  objective text not null
  contract json not null
  summary text
  created_at timestamp with time zone not null default db_now()
  finished_at timestamp with time zone
  constraint tasks_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES workspaces(workspace_id)
  constraint tasks_workspace_id_run_id_fkey FOREIGN KEY (workspace_id, run_id) REFERENCES runs(workspace_id, run_id) DEFERRABLE INITIALLY DEFERRED
  constraint tasks_pkey PRIMARY KEY (workspace_id, task_id)
  constraint tasks_workspace_id_channel_id_message_ts_key UNIQUE (workspace_id, channel_id, message_ts)
  constraint tasks_workspace_id_run_id_key UNIQUE (workspace_id, run_id)
  grant insert, select, update to @app_role@

table verdicts
  workspace_id text not null
  verdict_id uuid not null
  action_id uuid not null
  verdict text not null
  tier text not null
  rule text not null
  reasons json not null
  policy_version text not null
  agent_name text not null
  agent_version text not null
  tool_version integer not null
  credential text not null
  created_at timestamp with time zone not null default db_now()
  constraint verdicts_tier_check CHECK ((tier = ANY (ARRAY['low'::text, 'medium'::text, 'high'::text])))
  constraint verdicts_verdict_check CHECK ((verdict = ANY (ARRAY['allow'::text, 'require_approval'::text, 'deny'::text])))
  constraint verdicts_workspace_id_action_id_fkey FOREIGN KEY (workspace_id, action_id) REFERENCES actions(workspace_id, action_id)
  constraint verdicts_pkey PRIMARY KEY (workspace_id, verdict_id)
  INDEX verdicts_by_action ON public.verdicts USING btree (workspace_id, action_id, created_at)
  TRIGGER verdicts_append_only BEFORE DELETE OR UPDATE ON public.verdicts FOR EACH ROW EXECUTE FUNCTION refuse_change()
  grant insert, select to @app_role@

table waits
  workspace_id text not null
  run_id uuid not null
  path text not null
  kind text not null
  input_hash text
  event_name text
  event_key text
  deadline_at timestamp with time zone not null
  outcome text
  payload json
  created_at timestamp with time zone not null default db_now()
  resolved_at timestamp with time zone
  needed_count integer
  children_path text
  constraint waits_check CHECK (((event_name IS NULL) = (event_key IS NULL)))
  constraint waits_check2 CHECK (((outcome IS NULL) = (resolved_at IS NULL)))
  constraint waits_children_check CHECK ((((kind = 'children'::text) = (needed_count IS NOT NULL)) AND ((kind = 'children'::text) = (children_path IS NOT NULL))))
  constraint waits_event_check CHECK (((kind = ANY (ARRAY['event'::text, 'cancel'::text])) = (event_name IS NOT NULL)))
  constraint waits_kind_check CHECK ((kind = ANY (ARRAY['event'::text, 'sleep'::text, 'retry'::text, 'children'::text, 'cancel'::text])))
  constraint waits_needed_count_check CHECK ((needed_count > 0))
  constraint waits_outcome_check CHECK ((outcome = ANY (ARRAY['event'::text, 'timeout'::text, 'cancelled'::text])))
  constraint waits_pkey PRIMARY KEY (workspace_id, run_id, path)
  INDEX waits_open_by_deadline ON public.waits USING btree (deadline_at) WHERE (outcome IS NULL)
  INDEX waits_open_by_event ON public.waits USING btree (workspace_id, event_name, event_key) WHERE ((outcome IS NULL) AND (event_name IS NOT NULL))
  grant insert, select, update to @app_role@

table workers
  worker_id uuid not null
  host_key text
  pid integer not null
  pid_started text
  lease_until timestamp with time zone not null
  started_at timestamp with time zone not null default db_now()
  constraint workers_pkey PRIMARY KEY (worker_id)
  INDEX workers_by_host ON public.workers USING btree (host_key) WHERE (host_key IS NOT NULL)
  grant delete, insert, select, update to @app_role@

table workspaces
  workspace_id text not null
  enterprise_id text
  bot_user_id text
  created_at timestamp with time zone not null default db_now()
  constraint workspaces_workspace_id_check CHECK ((workspace_id ~ '^[A-Z0-9]{2,32}$'::text))
  constraint workspaces_pkey PRIMARY KEY (workspace_id)
  grant insert, select, update to @app_role@

-- functions

CREATE OR REPLACE FUNCTION public.action_transition_is_legal(from_status text, to_status text)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select case from_status
    when 'proposed' then to_status in ('denied', 'permitted', 'awaiting')
    when 'permitted' then to_status in ('executing', 'closed')
    when 'awaiting' then to_status in ('permitted', 'closed')
    when 'executing' then to_status in ('done', 'failed', 'unknown')
    when 'unknown' then to_status in ('done', 'failed')
    else false
  end
$function$

CREATE OR REPLACE FUNCTION public.check_run_transition()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  if not run_transition_is_legal(old.status, new.status) then
    raise exception '% may not go from % to %', tg_table_name, old.status, new.status using errcode = 'CS002';
  end if;
  return new;
end $function$

CREATE OR REPLACE FUNCTION public.check_schedule_date()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  if old.last_local_date is not null and (new.last_local_date is null or new.last_local_date < old.last_local_date) then
    raise exception 'schedule % was served up to % already', old.name, old.last_local_date using errcode = 'CS002';
  end if;
  return new;
end $function$

CREATE OR REPLACE FUNCTION public.claim_is_open(claimed_by uuid, claimed_until timestamp with time zone)
 RETURNS boolean
 LANGUAGE sql
 STABLE
AS $function$
  select claimed_until is null or claimed_until < db_now()
    or not exists (select 1 from workers w where w.worker_id = claimed_by and w.lease_until > db_now())
$function$

CREATE OR REPLACE FUNCTION public.db_now()
 RETURNS timestamp with time zone
 LANGUAGE sql
AS $function$select clock_timestamp()$function$

CREATE OR REPLACE FUNCTION public.ledger_hash(prev_hash bytea, format_version integer, workspace_id text, subject_kind text, subject_id text, subject_seq bigint, entry_id uuid, entry_kind text, created_at timestamp with time zone, body text)
 RETURNS bytea
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select sha256(prev_hash || convert_to(concat_ws(e'\n', format_version::text, workspace_id, subject_kind, subject_id, subject_seq::text,
    entry_id::text, entry_kind, floor(extract(epoch from created_at) * 1000000)::bigint::text, body), 'UTF8'))
$function$

CREATE OR REPLACE FUNCTION public.refuse_change()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  raise exception '% is append-only', tg_table_name using errcode = 'CS001';
end $function$

CREATE OR REPLACE FUNCTION public.refuse_rewrite()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  raise exception 'a row of % is never rewritten', tg_table_name using errcode = 'CS003';
end $function$

CREATE OR REPLACE FUNCTION public.refuse_transition()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  raise exception '% may not go from % to %', tg_table_name, old.status, new.status using errcode = 'CS002';
end $function$

CREATE OR REPLACE FUNCTION public.request_transition_is_legal(from_status text, to_status text)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select case from_status
    when 'pending' then to_status in ('approved', 'rejected', 'changes_requested', 'expired', 'withdrawn', 'superseded')
    when 'approved' then to_status in ('revoked', 'superseded', 'withdrawn', 'expired')
    else false
  end
$function$

CREATE OR REPLACE FUNCTION public.run_transition_is_legal(from_status text, to_status text)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE
AS $function$
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
$function$

-- schema

grant usage to public
