-- A call to Slack outlasts the claim and the lease of whoever makes it: it is heard of late, or never, and may yet do what it was for.

alter table deliveries
  -- Nothing of the last call can reach Slack after this. Null when every call made for this row came to an end that is known.
  add column call_until timestamptz;
update deliveries set call_until = claimed_until where status = 'due' and claimed_until is not null;
