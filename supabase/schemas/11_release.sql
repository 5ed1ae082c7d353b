-- The release: the version of this database, and the oldest service that may work with it. The database is upgraded first, then the
-- edge functions and services; those of the previous release keep working meanwhile.

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
    'Returns the version of this database and of the oldest service that works with it, which is one release back. Called by every service when it opens the database.';
revoke execute on function care.release from public;
grant execute on function care.release to retrocare_service;
