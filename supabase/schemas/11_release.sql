-- The release: which one this database is, and how old a service may be that works on it. A release is brought to the database
-- first, then to the edge functions and services: those of the release before go on meanwhile.

create function care.release()
returns table (version text, oldest_service text)
language sql
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select '1.0.0', '1.0.0'
$$;
comment on function care.release is
    'The release that this database is, and the oldest service that works on it: one release back. Called by every service when it opens the database.';
revoke execute on function care.release from public;
grant execute on function care.release to retrocare_service;
