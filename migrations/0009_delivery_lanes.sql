-- Pauses that hold across processes, and what a delivery needs so that it stands in nobody's way.
--
-- A delivery's lane is (workspace, place, next_call, priority). Rows of one lane are alike to Slack: what holds one back holds back all,
-- and nothing of another lane. Whoever claims looks at the few lanes there are, never at every row that waits in them.

alter table deliveries
  -- Where it goes: a channel's id, or a person's for their direct message.
  add column place text generated always as (coalesce(target->>'channelId', target->'thread'->>'channelId')) stored,
  -- What the messenger will be asked to do with it.
  add column next_call text not null generated always as (
    case when view_kind = 'reaction' then 'react'
         when view_kind = 'file' then 'attach'
         when ts is not null then 'update'
         when target->>'to' = 'person' then 'note'
         else 'post' end) stored,
  -- short: Slack refused the message as it was drawn; a message of a few words stands for it, and a file says the rest.
  add column form text not null default 'full' check (form in ('full', 'short')),
  -- Hash of the text that was last owed as a file beside the message, because the message does not show all of it.
  add column filed text,
  -- When a message that stands is drawn again though nothing changed, so that what Slack lost or a person deleted is noticed.
  add column refresh_at timestamptz,
  alter column place set not null,
  drop constraint deliveries_view_kind_check,
  add constraint deliveries_view_kind_check check
    (view_kind in ('approval', 'task', 'note', 'receipt', 'reaction', 'digest', 'file'));
drop index deliveries_due;
create index deliveries_due on deliveries (workspace_id, place, next_call, priority, next_try_at) where status = 'due';
create index deliveries_refresh on deliveries (refresh_at) where status = 'settled' and refresh_at is not null;
-- Cards that stand for requests still open, so that the first look after the upgrade is not the next change.
update deliveries d set refresh_at = db_now() from approval_requests r
  where d.view_kind = 'approval' and d.status = 'settled' and d.ts is not null
    and r.workspace_id = d.workspace_id and r.request_id = d.subject_id and r.status = 'pending';

-- Until when nothing of a kind is asked of Slack. `call` is the messenger's (post, note, find, update, react, attach), or:
-- progress: the pace of progress in one channel; refresh: the pace of drawing again; *, at the place *: Slack refuses the token.
-- A row whose time has passed holds nothing. The one of the token stays until a call succeeds: `readyz` reads it.
create table delivery_pauses (
  workspace_id text not null,
  place text not null,
  call text not null check (call in ('post', 'note', 'find', 'update', 'react', 'attach', 'progress', 'refresh', '*')),
  until timestamptz not null,
  reason text,
  primary key (workspace_id, place, call),
  check ((call = '*') = (place = '*') or call = 'refresh')
);
grant select, insert, update, delete on delivery_pauses to @app_role@;
