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
-- `call_log_id` identifies the call everywhere: in SQL, Python, TypeScript and every log line.
--
-- Three schemas. `public` holds what the Data API may show: people, calls, judgements, alerts, views. `care` is private and holds
-- what every signal shares: the work list, alerts and their delivery, audit, keys, settings. `voice` is private too, because
-- voiceprints are biometric data. No API role has USAGE on either; the service may only call the functions granted to it.
--
-- Read these files in the order of their numbers. They run as `postgres`, which is not a superuser on hosted Supabase. They create
-- an empty database; the migrations that upgrade a database of an earlier release are in supabase/migrations.
--
-- Error codes of this schema, so that callers need not parse messages. Constraint violations are recognised by the constraint's name.
--
--     RV001 the lease is lost        RV004 no such model             RV100 this project cannot be adopted as it is
--     RV002 no such patient          RV005 not a comparable vector
--     RV003 no such call or check    RV006 the call is another patient's    RV007 baselines are missing under that encoder
--     RV008 an impossible time       RV009 the idempotency key of another request
--
-- Locks are taken in one order: the models, then the patient, then whatever belongs to the patient. A function that needs a second
-- patient, or already has a lock on something of a patient, does not wait for the patient's lock (care.try_lock_patient).

-- Check first that the server is new enough. pgvector 0.8 introduced iterative scans, which find a patient's vectors among all
-- others.
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
            hint = 'Install a newer version, then run: alter extension vector update; Nothing was changed.';
    end if;
end
$$;

-- pgvector must be installed in `extensions`: every function below qualifies its operators with that schema.
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
comment on schema care is
    'Private: what every signal shares, from the work list to message delivery. Never exposed over the Data API.';
revoke all on schema care from public;

create schema voice;
comment on schema voice is 'Private: voiceprints, baselines and the functions that judge voices. Never exposed over the Data API.';
revoke all on schema voice from public;

-- The login of the Python service. Migrations contain no password; set one with `alter role retrocare_service password ...`.
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

-- Ids that rise with time keep index inserts on the most recent pages. Random ids would hit pages all over the index, which at ten
-- million calls are no longer in memory.
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
    'Returns a UUID of version 7 (RFC 9562): 48 bits of the time in milliseconds, 74 random bits. Default of ids in large tables.';
revoke execute on function care.uuid_v7 from public;
-- A column default is evaluated with the privileges of the role that writes the row.
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
    -- PostgreSQL also accepts offsets such as PST/8. The parts of a zone name begin with a letter.
    return is_time_zone.timezone = 'UTC' or is_time_zone.timezone ~ '^[A-Za-z_]+(/[A-Za-z][A-Za-z0-9_+-]*)+$';
exception when invalid_parameter_value then
    return false;
end
$$;
comment on function care.is_time_zone is
    'Returns whether this is the name of a time zone, such as Europe/Berlin. Abbreviations and offsets are refused, since they have no daylight saving time.';
revoke execute on function care.is_time_zone from public;
-- A check constraint is evaluated with the privileges of the role that writes the row.
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
comment on function care.is_phone_number is
    'Returns whether this is a number in international format (E.164), such as +4930123456.';
revoke execute on function care.is_phone_number from public;
-- A check constraint is evaluated with the privileges of the role that writes the row.
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
comment on function care.local_hour is 'Returns the hour of the day in that time zone with its fraction: 13.5 is half past one.';
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
comment on function care.local_date is 'Returns the date in that time zone.';
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
comment on function care.plain_name is
    'Returns the name as it can appear in a message: on one line, at most 60 characters, without placeholders.';
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
        message = format('Rows of %I.%I cannot be changed', tg_table_schema, tg_table_name),
        hint = 'Insert a new row instead.';
end
$$;
comment on function care.refuse_change is 'Trigger: refuses updates of rows that must stay as they were written.';
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
        message = format('%I.%I is append-only', tg_table_schema, tg_table_name),
        hint = 'To correct an entry, add a further one.';
end
$$;
comment on function care.refuse_rewriting is 'Trigger: refuses update, delete and truncate, even to the owner.';
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
comment on table care.settings is
    'Settings of the work lists and of the search, in one row. Settings of an organisation are in care.organisation_settings.';
comment on column care.settings.maximum_attempts is 'After this many attempts, failed or with a lost lease, a check is dead.';
comment on column care.settings.retry_cap_seconds is
    'The longest wait between attempts, before jitter of up to a fifth.';
comment on column care.settings.delivery_maximum_attempts is
    'After this many failed attempts a delivery is dead, and an operator issue.';
comment on column care.settings.delivery_retry_cap_seconds is
    'As retry_cap_seconds, for messages to caregivers. Thirty attempts span more than two hours.';
comment on column care.settings.retry_base_seconds is 'The wait after the first failure. It doubles with each further failure.';
alter table care.settings
    add column search_breadth integer not null default 150
        constraint a_search_breadth_is_hnsws check (search_breadth between 1 and 1000);
comment on column care.settings.search_breadth is
    'How many candidates a search across patients examines (hnsw.ef_search). A higher value finds the nearest more reliably and takes longer. Before the search reports that nobody was found, it repeats with 1000.';

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
    'Returns how long to wait before the next attempt after this many: the wait doubles up to the cap (null: retry_cap_seconds), with jitter of up to a fifth. Called for every retry: checks, recordings, deliveries, deletions.';
revoke execute on function care.retry_wait from public;
