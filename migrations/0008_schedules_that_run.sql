-- Schedules that run, and the digest they post.
--
-- A schedule is due at `next_at`. Whoever serves it locks its row, starts the run under the key `schedule:<id>:<local date>`, moves
-- `last_local_date` and `next_at` on, and says so in the ledger: one transaction. A local date is served once, and dates only grow.
-- A paused schedule has no next_at.

alter table schedules
  -- Who may see what its runs say: a channel id, or the id of a person's direct message.
  add column audience text,
  add check ((paused_at is null) = (next_at is not null));

-- A served date is never taken back: that would serve it again.
create function check_schedule_date() returns trigger language plpgsql as $$
begin
  if old.last_local_date is not null and (new.last_local_date is null or new.last_local_date < old.last_local_date) then
    raise exception 'schedule % was served up to % already', old.name, old.last_local_date using errcode = 'CS002';
  end if;
  return new;
end $$;
create trigger schedules_dates_grow before update of last_local_date on schedules for each row
  when (old.last_local_date is distinct from new.last_local_date) execute function check_schedule_date();

-- What one digest covers: the entries sealed after `from_seal`, up to `to_seal`. A schedule's digests follow on each other without gap or
-- overlap, one per local date: the row is what makes it one. What it says is read from the ledger when it is drawn.
create table digests (
  workspace_id text not null references workspaces,
  digest_id uuid not null,
  -- Null: a person asked for it.
  schedule_id uuid,
  local_date date not null,
  time_zone text not null,
  -- When it was due; null when a person asked for it.
  planned_at timestamptz,
  is_late boolean not null default false,
  from_seal bigint not null,
  -- Where the digest before it ended, null when there was none.
  since_at timestamptz,
  -- Null: all there is when it is drawn.
  to_seal bigint,
  -- Where it is read, and, where only one person reads it, by whom: words of tasks from elsewhere are left out.
  channel_id text not null,
  reader_user_id text,
  made_at timestamptz not null default db_now(),
  primary key (workspace_id, digest_id),
  unique (workspace_id, schedule_id, local_date),
  foreign key (workspace_id, schedule_id) references schedules,
  check ((schedule_id is null) = (planned_at is null)),
  check (schedule_id is null or to_seal is not null)
);
create trigger digests_append_only before update or delete on digests
  for each row execute function refuse_change();
grant select, insert on digests to @app_role@;

alter table deliveries
  drop constraint deliveries_view_kind_check,
  add constraint deliveries_view_kind_check check
    (view_kind in ('approval', 'task', 'note', 'receipt', 'reaction', 'digest'));

-- What may still wait for a person: the digest looks for these among all that was ever written. Everything else it finds by seal.
create index ledger_entries_waiting on ledger_entries (workspace_id, created_at)
  where entry_kind in ('approval.requested', 'action.unknown', 'run.parked');
