-- Foundation: time, guards, workspaces, people, deployments.
--
-- Legend. Every table of the product opens its key with workspace_id: Slack's team id, or the enterprise id of an
-- org-wide installation. Ids are UUIDv7. Times are timestamptz and come from db_now(), never from a process.
-- `json` columns hold text exactly as written (journals, inputs, results, payloads may contain any JSON string, also
-- ones jsonb refuses); nothing queries inside them.
-- @app_role@ is the app's lesser role; the migrator replaces it by the user of DATABASE_URL.
-- Append-only tables are so twice: the app's role holds no update or delete, and a trigger refuses both to everyone.

-- The one source of time. Only the test template replaces it.
create function db_now() returns timestamptz language sql volatile
  as 'select clock_timestamp()';

create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception '% is append-only', tg_table_name using errcode = 'CS001';
end $$;

create function refuse_transition() returns trigger language plpgsql as $$
begin
  raise exception '% may not go from % to %', tg_table_name, old.status, new.status using errcode = 'CS002';
end $$;

-- One row per installation of the Slack app.
create table workspaces (
  workspace_id text primary key check (workspace_id ~ '^[A-Z0-9]{2,32}$'),
  enterprise_id text,
  bot_user_id text,
  created_at timestamptz not null default db_now()
);
grant select, insert, update on workspaces to @app_role@;

-- One row per place the product runs. Its id is in every button, so that two deployments on one Slack app do not
-- answer each other's clicks.
create table deployments (
  deployment_id uuid primary key,
  created_at timestamptz not null default db_now()
);
create unique index deployments_only_one on deployments ((true));
create trigger deployments_append_only before update or delete on deployments
  for each row execute function refuse_change();
grant select, insert on deployments to @app_role@;

-- Who in Slack is who on GitHub, kept by admins.
create table people (
  workspace_id text not null references workspaces,
  team_id text not null,
  user_id text not null,
  github_login text,
  recorded_by text not null,
  recorded_at timestamptz not null default db_now(),
  primary key (workspace_id, team_id, user_id)
);
grant select, insert, update on people to @app_role@;
