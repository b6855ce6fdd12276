-- The inbox keeps itself: a row that ends the process each time is bounded, handled rows go after a day.

-- Claims since the last one that came to an end (handled, or failed and put back). One that is open counts already: the process may not
-- live to say what came of it.
alter table inbox add column claim_count integer not null default 0;
update inbox set claim_count = 1 where status = 'stored' and claimed_until is not null;
-- Rows nobody claims, in the order in which they are claimed; and rows under a claim, or whose last claim came to no end: few, however long
-- the inbox. One index for both would be read to its end for each claim.
drop index inbox_due;
create index inbox_due on inbox (next_try_at) where status = 'stored' and claim_count = 0;
create index inbox_claimed on inbox (next_try_at) where status = 'stored' and claim_count > 0;
create index inbox_handled on inbox (handled_at) where status = 'handled';
grant delete on inbox to @app_role@;
