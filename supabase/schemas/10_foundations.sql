-- RetroCare Voice: a voice-embedding store and anomaly scorer inside PostgreSQL.
--
-- The journey of one call:
--
--     1 the call ends           functions/vapi-webhook     verifies the sender, calls receive_call_report()
--     2 the call is a row       call_logs                  one row per provider call id, however often it is reported
--     3 the recording is here   call_logs.recording_ref    copied to Storage, or a URL given by the integrator
--     4 a check is queued       trigger request_check      voice.checks, in the same transaction
--     5 audio becomes a vector  service/.../pipeline.py    fetch, decode, patient's channel, speech, encode
--     6 the vector is judged    voice.complete_check()     stored, enrolled or scored, logged: one transaction
--     7 an alert is raised      public.caregiver_alerts    at most one open alert per patient
--     8 the caregiver knows     functions/notify-caregiver sends, retries, records delivery; views show it at once
--
-- `call_log_id` is the thread: the same word in SQL, Python, TypeScript and every log line.
--
-- Two schemas. `public` holds what the Data API may show: people, calls, logs, alerts, views. `voice` is private:
-- voiceprints are biometric data, and no API role has USAGE on it. What the service may do there is a list of functions.
--
-- These chapters run as hosted Supabase runs them: by `postgres`, who is not a superuser.

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

create schema voice;
comment on schema voice is
    'Private: voiceprints, baselines, the work list and the functions that judge. Never exposed over the Data API.';
revoke all on schema voice from public;

-- The Python service's login. Migrations hold no password: `alter role retrocare_service password ...` sets one.
do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'retrocare_service') then
        create role retrocare_service login noinherit;
    end if;
end
$$;
grant usage on schema voice to retrocare_service;
grant usage on schema extensions to retrocare_service;

-- Ids that rise with time: beside ten million calls, the pages of the indexes into which a random id goes are on the disk, and
-- those into which a rising one goes are those of the call before.
create function voice.rising_uuid()
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
comment on function voice.rising_uuid is
    'A uuid of version 7 (RFC 9562): 48 bits of the time in milliseconds, 74 at random. The default of ids whose rows are many.';
revoke execute on function voice.rising_uuid from public;
-- A default asks with the rights of whoever writes the row.
grant execute on function voice.rising_uuid to authenticated, service_role;

-- Errors of our own, so that callers need not read messages. Constraints speak for themselves, by their names.
--
--     RV001 the lease is lost        RV004 no such encoder           RV100 this project cannot be adopted as it is
--     RV002 no such patient          RV005 not a comparable vector
--     RV003 no such call or check    RV006 the call is another patient's    RV007 baselines are missing under that encoder
--     RV008 an impossible time       RV009 an idempotency key of another request
--
-- Locks are taken in one order: the encoders, then the patient, then whatever is the patient's. Whoever would need a second patient, or
-- holds something of a patient already, does not wait for the patient (voice.try_lock_patient).
