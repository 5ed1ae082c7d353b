-- RetroCare Voice: a voice-embedding store and anomaly scorer inside PostgreSQL.
--
-- The journey of one call:
--
--     1 the call ends           functions/call-webhook     authenticates the provider, calls receive_call_report()
--     2 the call is a row       call_logs                  one row per call of the provider, however often it is reported
--     3 the recording is here   call_logs.recording_ref    copied to Storage, or an address given by an integrator
--     4 a check is queued       trigger request_check      a row of care.checks, in the same transaction
--     5 audio becomes a vector  service, checks/pipeline   fetch, decode, the patient's channel, speech, encode
--     6 the vector is judged    voice.complete_check()     stored, enrolled or scored, logged: one transaction
--     7 an alert is raised      public.caregiver_alerts    at most one unresolved alert per patient
--     8 the caregiver knows     functions/notify-caregiver sends, retries, records delivery; views show it at once
--
-- `call_log_id` is the thread: the same word in SQL, Python, TypeScript and every log line.
--
-- Three schemas. `public` holds what the Data API may show: people, calls, judgements, alerts, views. `care` is private, and holds
-- what every signal shares: the work list, alerts and their delivery, audit, keys, settings. `voice` is private too: voiceprints are
-- biometric data. No API role has USAGE on either; what the service may do there is a list of functions.
--
-- These files are read in the order of their numbers, and run by `postgres`, who is no superuser on hosted Supabase. They make an
-- empty database; what brings one of an earlier release to this one is in supabase/migrations.
--
-- Errors of our own, so that callers need not read messages. Constraints speak for themselves, by their names.
--
--     RV001 the lease is lost        RV004 no such model             RV100 this project cannot be adopted as it is
--     RV002 no such patient          RV005 not a comparable vector
--     RV003 no such call or check    RV006 the call is another patient's    RV007 baselines are missing under that encoder
--     RV008 an impossible time       RV009 an idempotency key of another request
--
-- Locks are taken in one order: the models, then the patient, then whatever is the patient's. Whoever would need a second patient, or
-- holds something of a patient already, does not wait for the patient (care.try_lock_patient).

-- Before anything is made: is this server new enough? pgvector 0.8 finds a patient's own vectors among all others' (iterative scans).
do $$
declare
    oldest_server constant integer := 16;
    oldest_vector constant text := '0.8';
    vector_version text := coalesce(
        (select extension.extversion from pg_catalog.pg_extension as extension where extension.extname = 'vector'),
        (select available.default_version from pg_catalog.pg_available_extensions as available where available.name = 'vector')
    );
begin
    if current_setting('server_version_num')::integer < oldest_server * 10000 then
        raise exception using
            errcode = 'RV100',
            message = format('PostgreSQL %s is too old: RetroCare Voice needs %s or newer',
                current_setting('server_version'), oldest_server),
            hint = 'Upgrade the server first. Nothing was changed.';
    elsif vector_version is null then
        raise exception using
            errcode = 'RV100',
            message = 'The extension vector (pgvector) is not installed on this server',
            hint = format('Install pgvector %s or newer. Nothing was changed.', oldest_vector);
    elsif string_to_array(vector_version, '.')::integer[] < string_to_array(oldest_vector, '.')::integer[] then
        raise exception using
            errcode = 'RV100',
            message = format('pgvector %s is too old: RetroCare Voice needs %s or newer', vector_version, oldest_vector),
            hint = 'Install a newer one, then: alter extension vector update; Nothing was changed.';
    end if;
end
$$;

-- pgvector must live in `extensions`: every function below names its operators there.
do $$
declare
    vector_schema text := (
        select namespace.nspname
        from pg_catalog.pg_extension as extension
        join pg_catalog.pg_namespace as namespace on namespace.oid = extension.extnamespace
        where extension.extname = 'vector'
    );
begin
    if vector_schema <> 'extensions' then
        raise exception using
            errcode = 'RV100',
            message = format('The extension vector is installed in schema %I, not in extensions', vector_schema),
            hint = 'Move it first: alter extension vector set schema extensions;';
    end if;
end
$$;

create schema if not exists extensions;
create extension if not exists vector with schema extensions;

create schema care;
comment on schema care is 'Private: what every signal shares, from the work list to the delivery of messages. Never exposed over the Data API.';
revoke all on schema care from public;

create schema voice;
comment on schema voice is 'Private: voiceprints, baselines and the functions that judge voices. Never exposed over the Data API.';
revoke all on schema voice from public;

-- The Python service's login. Migrations hold no password: `alter role retrocare_service password ...` sets one.
do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'retrocare_service') then
        create role retrocare_service login noinherit;
    end if;
end
$$;

grant usage on schema care to retrocare_service;
grant usage on schema voice to retrocare_service;
grant usage on schema extensions to retrocare_service;

-- Ids that rise with time: beside ten million calls, the pages of the indexes into which a random id goes are on the disk, and
-- those into which a rising one goes are those of the call before.
create function care.uuid_v7()
returns uuid
language sql
volatile
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select encode(
        set_bit(set_bit(
            overlay(
                uuid_send(gen_random_uuid())
                placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                from 1 for 6),
            52, 1), 53, 1),
        'hex')::uuid
$$;
comment on function care.uuid_v7 is
    'A uuid of version 7 (RFC 9562): 48 bits of the time in milliseconds, 74 at random. The default of ids whose rows are many.';
revoke execute on function care.uuid_v7 from public;
-- A default asks with the rights of whoever writes the row.
grant execute on function care.uuid_v7 to authenticated, service_role;

create function care.is_time_zone(timezone text)
returns boolean
language plpgsql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
begin
    perform '2000-01-01 00:00+00'::timestamptz at time zone is_time_zone.timezone;
    -- PostgreSQL takes offsets such as PST/8 too; the parts of a zone's name begin with a letter.
    return is_time_zone.timezone = 'UTC' or is_time_zone.timezone ~ '^[A-Za-z_]+(/[A-Za-z][A-Za-z0-9_+-]*)+$';
exception when invalid_parameter_value then
    return false;
end
$$;
comment on function care.is_time_zone is
    'Whether this is a zone with a history, such as Europe/Berlin: abbreviations and offsets know no daylight saving.';
revoke execute on function care.is_time_zone from public;
-- A check constraint asks with the rights of whoever writes the row.
grant execute on function care.is_time_zone to authenticated, service_role;

create function care.is_phone_number(phone text)
returns boolean
language sql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select is_phone_number.phone ~ '^\+[1-9][0-9]{5,14}$'
$$;
comment on function care.is_phone_number is 'Whether this is a number in international form (E.164), such as +4930123456.';
revoke execute on function care.is_phone_number from public;
-- A check constraint asks with the rights of whoever writes the row.
grant execute on function care.is_phone_number to authenticated, service_role;

create function care.local_hour(occurred_at timestamptz, timezone text)
returns double precision
language sql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select extract(epoch from (local_hour.occurred_at at time zone local_hour.timezone)::time)::double precision / 3600
$$;
comment on function care.local_hour is 'The hour on the patient''s clock, with its fraction: 13.5 is half past one.';
revoke execute on function care.local_hour from public;

create function care.local_date(occurred_at timestamptz, timezone text)
returns date
language sql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select (local_date.occurred_at at time zone local_date.timezone)::date
$$;
comment on function care.local_date is 'The day on the patient''s calendar.';
revoke execute on function care.local_date from public;

create function care.plain_name(name text, otherwise text)
returns text
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(nullif(left(btrim(regexp_replace(plain_name.name, '[[:cntrl:]{}[:space:]]+', ' ', 'g')), 60), ''), otherwise)
$$;
comment on function care.plain_name is 'A name as it can stand in a message: one line, not too long, and no placeholder.';
revoke execute on function care.plain_name from public;

create function care.refuse_change()
returns trigger
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = '55000',
        message = format('Rows of %I.%I never change', tg_table_schema, tg_table_name),
        hint = 'A new version is a new row.';
end
$$;
comment on function care.refuse_change is 'Trigger: refuses an update of what must stay as it was written.';
revoke execute on function care.refuse_change from public;

create function care.refuse_rewriting()
returns trigger
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = '55000',
        message = format('%I.%I is only ever added to', tg_table_schema, tg_table_name),
        hint = 'What was wrong is put right by a further entry.';
end
$$;
comment on function care.refuse_rewriting is 'Trigger: refuses update, delete and truncate, to whomever.';
revoke execute on function care.refuse_rewriting from public;

create table care.settings (
    is_only boolean constraint settings_pkey primary key default true
        constraint settings_are_one_row check (is_only),
    maximum_attempts integer not null default 5
        constraint a_check_is_tried_at_least_once check (maximum_attempts >= 1),
    retry_base_seconds double precision not null default 10
        constraint a_retry_waits check (retry_base_seconds > 0 and retry_base_seconds < 'infinity'),
    retry_cap_seconds double precision not null default 3600,
    delivery_maximum_attempts integer not null default 30
        constraint a_delivery_is_tried_at_least_once check (delivery_maximum_attempts >= 1),
    delivery_retry_cap_seconds double precision not null default 300
        constraint a_delivery_waits_at_most_a_day check (delivery_retry_cap_seconds between 1 and 86400),
    constraint the_retry_cap_is_not_below_the_base
        check (retry_cap_seconds >= retry_base_seconds and retry_cap_seconds < 'infinity')
);
insert into care.settings default values;
alter table care.settings enable row level security;
comment on table care.settings is 'How the work lists and the search behave: one row. What an organisation decides is in care.organisation_settings.';
comment on column care.settings.maximum_attempts is 'After as many failures or lost leases a check is dead.';
comment on column care.settings.retry_cap_seconds is 'No wait is longer, but for a fifth of jitter.';
comment on column care.settings.delivery_maximum_attempts is 'After as many refusals a delivery is dead, and the operator''s.';
comment on column care.settings.delivery_retry_cap_seconds is 'As retry_cap_seconds, for messages to caregivers: thirty attempts bridge more than two hours.';
comment on column care.settings.retry_base_seconds is 'The first wait after a failure; each further one is twice as long.';
alter table care.settings
    add column search_breadth integer not null default 300
        constraint a_search_breadth_is_hnsws check (search_breadth between 1 and 1000);
comment on column care.settings.search_breadth is
    'How many voices a search across patients weighs at a time (hnsw.ef_search): more find the nearest more surely, and take longer. Before it says nobody, it looks again, 1000 wide.';

create function care.retry_wait(attempts integer, cap_seconds double precision default null)
returns interval
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select make_interval(secs => (0.8 + 0.4 * random()) * least(
        coalesce(retry_wait.cap_seconds, settings.retry_cap_seconds),
        settings.retry_base_seconds * 2 ^ least(retry_wait.attempts - 1, 30)))
    from care.settings
$$;
comment on function care.retry_wait is
    'How long the next try waits after so many: it doubles up to the cap (null: retry_cap_seconds), with a fifth of jitter. Called by whatever fails: checks, recordings, deliveries, deletions.';
revoke execute on function care.retry_wait from public;
