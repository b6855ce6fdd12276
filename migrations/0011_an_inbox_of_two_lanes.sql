-- The inbox in two lanes: who has just clicked does not wait behind what was said. A form opens for three seconds after a click.

-- Rows nobody claims, in the order in which they are claimed, by lane: clicks, forms and commands; and everything else.
drop index inbox_due;
create index inbox_due_presses on inbox (next_try_at) where status = 'stored' and claim_count = 0 and source <> 'event';
create index inbox_due_events on inbox (next_try_at) where status = 'stored' and claim_count = 0 and source = 'event';
-- What was given up stays for a person to look at, a month long.
create index inbox_parked on inbox (received_at) where status = 'parked';
