-- Child runs, cancelling, pausing, retrying.
--
-- A child run names its parent, the step that started it and its key among its siblings. The parent waits for its children with one
-- wait of kind `children`: it ends when `needed_count` of them have completed, or cannot any more. A wait of kind `cancel` ends its
-- run instead of waking it; its deadline is the run's own end. `depth` orders locks: wherever several runs are locked, by (depth, run
-- id), so that a parent always comes before its children.
--
-- A run that is cancelled is `cancelling` while its workflow's onFailure works, then `cancelled`. `pausing` asks the holder of a running
-- run to let go; it becomes `paused`. A retry never rewrites the journal: `retried` lists the paths whose entries the next replay
-- passes over, and the step is journaled anew under `path@2`, `path@3`, ...

alter table runs
  add column depth smallint not null default 0 check (depth between 0 and 8),
  add column child_key text,
  add column pausing boolean not null default false,
  -- The step whose error ended the run, null when the body itself threw.
  add column failed_path text,
  add column retried text[] not null default '{}',
  add column retry_count integer not null default 0,
  add check ((parent_run_id is null) = (depth = 0)),
  add check ((parent_run_id is null) = (child_key is null));
drop index runs_by_parent;
create index runs_by_parent on runs (workspace_id, parent_run_id, parent_path) where parent_run_id is not null;
create index runs_cancelling on runs (queued_at) where status = 'cancelling';
-- What the heartbeat's sweep looks at: every run that somebody holds. Not by status: a statement that names the same statuses would be
-- planned over this index, in which every held run leaves a dead entry, instead of over the primary key.
drop index runs_running;
create index runs_held on runs (worker_id) where worker_id is not null;
-- Most runs have no key; every index of this table is written at each change of status.
alter table runs drop constraint runs_workspace_id_run_key_key;
create unique index runs_by_key on runs (workspace_id, run_key) where run_key is not null;

alter table waits
  add column needed_count integer check (needed_count > 0),
  -- The children's step as the children name it: without the generation of a retry.
  add column children_path text,
  drop constraint waits_kind_check,
  drop constraint waits_check1,
  add constraint waits_kind_check check (kind in ('event', 'sleep', 'retry', 'children', 'cancel')),
  add constraint waits_event_check check ((kind in ('event', 'cancel')) = (event_name is not null)),
  add constraint waits_children_check check
    ((kind = 'children') = (needed_count is not null) and (kind = 'children') = (children_path is not null));

-- A condition of a trigger is prepared anew with every statement, and a function in it analysed anew: that took most of the time of a
-- claim and of an end. In a body it is prepared once per session.
create function check_run_transition() returns trigger language plpgsql as $$
begin
  if not run_transition_is_legal(old.status, new.status) then
    raise exception '% may not go from % to %', tg_table_name, old.status, new.status using errcode = 'CS002';
  end if;
  return new;
end $$;
drop trigger runs_transition on runs;
create trigger runs_transition before update of status on runs for each row
  when (old.status is distinct from new.status) execute function check_run_transition();
