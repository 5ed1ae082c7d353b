-- Made of supabase/schemas by `scripts/release baseline`: read, and change, those.

-- 10_foundations.sql

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

-- 11_adoption.sql

-- Adoption: in an existing RetroCare project, tables and rows are kept, and missing columns are added. Each table is therefore first
-- created with only its id if it does not exist, and gets its columns in the file that describes it.

-- Preflight: refuse projects that cannot be adopted, before anything is changed.
do $$
declare
    misfit record;
begin
    select
        expected.table_name,
        expected.column_name,
        expected.type_name,
        format_type(attribute.atttypid, null) as found_type
    into misfit
    from (
        values
            ('organisations', 'id', 'uuid'),
            ('patients', 'id', 'uuid'),
            ('patients', 'flags', 'text[]'),
            ('call_logs', 'id', 'uuid'),
            ('call_logs', 'patient_id', 'uuid'),
            ('call_logs', 'timestamp', 'timestamp with time zone'),
            ('health_flags', 'id', 'uuid'),
            ('health_flags', 'patient_id', 'uuid'),
            ('daily_checkins', 'id', 'uuid'),
            ('daily_checkins', 'patient_id', 'uuid'),
            ('daily_checkins', 'date', 'date')
    ) as expected (table_name, column_name, type_name)
    join pg_catalog.pg_attribute as attribute
        on attribute.attrelid = to_regclass('public.' || expected.table_name)
        and attribute.attname = expected.column_name
        and not attribute.attisdropped
    where format_type(attribute.atttypid, null) <> expected.type_name
    limit 1;
    if found then
        raise exception using
            errcode = 'RV100',
            message = format('public.%s.%s is %s, not %s',
                misfit.table_name, misfit.column_name, misfit.found_type, misfit.type_name),
            hint = 'Convert the column (alter table ... alter column ... type ... using ...), then migrate again.';
    end if;

    if (
        select count(*) = 2 from pg_catalog.pg_attribute
        where attrelid = to_regclass('public.daily_checkins') and attname in ('patient_id', 'date')
    ) then
        for misfit in execute
            'select patient_id, "date", count(*) from public.daily_checkins
             where patient_id is not null and "date" is not null group by 1, 2 having count(*) > 1 limit 1'
        loop
            raise exception using
                errcode = 'RV100',
                message = 'public.daily_checkins holds several rows for one patient and day',
                detail = format('patient %s has %s rows of %s', misfit.patient_id, misfit.count, misfit.date),
                hint = 'Keep one row for each patient and date, then migrate again.';
        end loop;
    end if;

    if exists (
        select from pg_catalog.pg_attribute
        where attrelid = to_regclass('public.call_logs') and attname = 'timestamp' and not attisdropped
    ) then
        for misfit in execute 'select id from public.call_logs where "timestamp" is null limit 1' loop
            raise exception using
                errcode = 'RV100',
                message = 'public.call_logs.timestamp is null in some rows',
                hint = 'Set the time of those calls or delete them, then migrate again.';
        end loop;
    end if;
end
$$;

-- Tables of an earlier project whose names are needed here: they are kept unchanged under another name.
do $$
declare
    earlier text;
begin
    foreach earlier in array array['voice_anomaly_logs', 'patient_voice_baseline'] loop
        if exists (
            select from pg_catalog.pg_class
            where oid = to_regclass('public.' || earlier) and relkind in ('r', 'p')
        ) then
            execute format('alter table public.%I rename to %I', earlier, 'legacy_' || earlier);
            execute format('alter index if exists public.%I rename to %I',
                earlier || '_pkey', 'legacy_' || earlier || '_pkey');
            raise notice 'public.% is kept as public.legacy_%', earlier, earlier;
        end if;
    end loop;
end
$$;

-- Row level security is enabled only for tables created here. An adopted table keeps its own policies, and a notice says so.
do $$
declare
    care_table text;
begin
    foreach care_table in array array[
        'organisations', 'patients', 'patient_caregivers', 'call_logs', 'health_flags', 'daily_checkins'
    ] loop
        if to_regclass('public.' || care_table) is not null then
            raise notice 'public.% exists and keeps its own row level security', care_table;
        else
            execute format(
                'create table public.%I (id uuid constraint %I primary key default care.uuid_v7())',
                care_table, care_table || '_pkey');
            execute format('alter table public.%I enable row level security', care_table);
            execute format('revoke all on public.%I from anon, authenticated, service_role', care_table);
        end if;
    end loop;
end
$$;

-- 11_release.sql

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

-- 12_organisations.sql

-- Organisations: they own patients, keys and provider accounts, and decide how their caregivers are notified.

create function care.default_organisation()
returns uuid
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select '00000000-0000-7000-8000-000000000000'::uuid
$$;
comment on function care.default_organisation is
    'Returns the id of the organisation to which rows belong that name none. Default of organisation_id.';
revoke execute on function care.default_organisation from public;
-- A column default is evaluated with the privileges of the role that writes the row or calls the function.
grant execute on function care.default_organisation to authenticated, service_role, retrocare_service;

alter table public.organisations
    add column if not exists name text not null default 'Organisation'
        constraint an_organisation_has_a_name check (btrim(name) <> ''),
    add column if not exists created_at timestamptz not null default now();
comment on table public.organisations is
    'The organisations that look after patients. One exists from the start (care.default_organisation).';
insert into public.organisations (id, name) values (care.default_organisation(), 'Default') on conflict (id) do nothing;
grant select on public.organisations to service_role;

create table care.warning_budgets (
    warnings_per_year double precision constraint warning_budgets_pkey primary key
        constraint some_warnings_come_by_chance check (warnings_per_year > 0 and warnings_per_year <= 52),
    name text not null,
    cost text not null
);
alter table care.warning_budgets enable row level security;
insert into care.warning_budgets values
    (1, 'about one a year', 'A large change is found by the first call; one of moderate size by the sixth, in half of the cases; a small one may not be found.'),
    (4, 'about four a year', 'A change of moderate size is found by the fourth call, in half of the cases.'),
    (12, 'about one a month', 'A change of moderate size is found by the third call, and half of the small ones within a month.');
comment on table care.warning_budgets is
    'How many warnings by chance a family can choose to accept, in words, and what that means for how soon a change is found.';

create table care.organisation_settings (
    organisation_id uuid constraint organisation_settings_pkey primary key
        constraint settings_are_an_organisations references public.organisations (id) on delete cascade,
    quiet_from time not null default '21:00',
    quiet_until time not null default '07:00',
    unusable_calls_in_a_row integer not null default 3
        constraint one_unusable_call_is_no_silence check (unusable_calls_in_a_row >= 2),
    illness_days integer not null default 14
        constraint an_illness_ends_within_a_year check (illness_days between 1 and 366),
    recent_call_days integer not null default 7
        constraint a_recent_call_is_of_some_day check (recent_call_days >= 1),
    warnings_per_year double precision not null default 1
        constraint an_organisation_chooses_a_budget references care.warning_budgets (warnings_per_year),
    dashboard_url text
        constraint the_dashboard_is_on_the_web check (dashboard_url ~ '^https?://[^[:space:]]+$')
);
create index organisation_settings_by_budget on care.organisation_settings (warnings_per_year);
alter table care.organisation_settings enable row level security;
insert into care.organisation_settings (organisation_id) select organisations.id from public.organisations;
comment on table care.organisation_settings is
    'How alerts behave and how caregivers are notified. One row per organisation, created with it.';
comment on column care.organisation_settings.quiet_from is
    'Start of quiet hours in the caregiver''s time zone: warnings wait until quiet_until, unless the caregiver has set other hours. If both times are the same, there are no quiet hours.';
comment on column care.organisation_settings.unusable_calls_in_a_row is
    'This many answered calls in a row without usable speech raise an alert.';
comment on column care.organisation_settings.illness_days is
    'For this many days after an alert is resolved as an illness, the patient counts as unwell.';
comment on column care.organisation_settings.recent_call_days is
    'After this many days without an answered call, a patient without silent_after_days is shown as no_recent_call.';
comment on column care.organisation_settings.warnings_per_year is
    'How many warnings a year by chance are accepted for each patient who is called daily: a row of care.warning_budgets. With more of them, changes are found sooner.';
comment on column care.organisation_settings.dashboard_url is
    'The URL in messages at which the caregiver responds to an alert. Null: messages contain no URL.';
grant select (organisation_id, unusable_calls_in_a_row, recent_call_days) on care.organisation_settings to authenticated, service_role;

create function care.on_organisation()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into care.organisation_settings (organisation_id) values (new.id);
    return null;
end
$$;
comment on function care.on_organisation is
    'Trigger: inserts the settings of a new organisation. Security definer: roles that add organisations have no privileges on the private schemas.';
revoke execute on function care.on_organisation from public;

-- True is safe here: only the caregiver views read these settings, and only those of the caregiver's patients. No API role has USAGE
-- on this schema.
create policy caregivers_read_when_a_patient_counts_as_silent on care.organisation_settings
    for select to authenticated
    using (true);

-- 13_audit.sql

-- Audit: who did what, and when. Append-only, and without names, phone numbers or vectors, since entries outlive the people that they
-- concern.

create type public.audit_action as enum (
    'inserted', 'updated', 'deleted',               -- a row of an audited table, noted by a trigger
    'consent_given', 'consent_withdrawn', 'signal_erased', 'person_erased', 'erasure_replayed', 'deletion_finished',
    'retention_enforced', 'exported', 'recording_read', 'voice_matched', 'key_used'
);
comment on type public.audit_action is 'The kind of action that was performed.';

create table care.audit_log (
    id bigint generated always as identity constraint audit_log_pkey primary key,
    occurred_at timestamptz not null default clock_timestamp(),
    action public.audit_action not null,
    actor_id uuid,
    actor_role text not null,
    patient_id uuid,
    subject text not null,
    detail jsonb not null default '{}'
);
create index audit_log_by_patient on care.audit_log (patient_id, occurred_at desc);
create index audit_log_by_time on care.audit_log (occurred_at desc);
create index audit_log_by_actor on care.audit_log (actor_id, occurred_at desc);
alter table care.audit_log enable row level security;
comment on table care.audit_log is
    'Append-only: update, delete and truncate are refused, even to the owner. It has no foreign keys, so entries remain when a person is erased.';
comment on column care.audit_log.actor_id is 'The account that performed the action. Null: the service, an operator or a rule.';
comment on column care.audit_log.actor_role is 'The role in the token, or the database login.';
comment on column care.audit_log.subject is 'The object of the action: a table and a key, or a function.';
comment on column care.audit_log.detail is
    'The names of the changed columns, with the old and new values of those that hold no personal data.';

create function care.note_audit(
    action public.audit_action, subject text, patient_id uuid default null, detail jsonb default '{}'
)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into care.audit_log (action, actor_id, actor_role, patient_id, subject, detail)
    values (
        note_audit.action, (select auth.uid()), coalesce((select auth.jwt()) ->> 'role', session_user), note_audit.patient_id,
        note_audit.subject, note_audit.detail
    )
$$;
comment on function care.note_audit is 'Adds an entry to the audit log, with the current user as its actor.';
revoke execute on function care.note_audit from public;

create function care.audit_change()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    before jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    after jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
    present jsonb := coalesce(after, before);
    changed text[] := array(
        select columns.key
        from jsonb_object_keys(present) as columns (key)
        where (before -> columns.key) is distinct from (after -> columns.key)
        order by columns.key
    );
begin
    if tg_op = 'UPDATE' and changed = '{}' then
        return null;
    end if;
    perform care.note_audit(
        case tg_op when 'INSERT' then 'inserted' when 'UPDATE' then 'updated' else 'deleted' end::public.audit_action,
        format('%I.%I %s', tg_table_schema, tg_table_name, coalesce(present ->> 'id', present ->> tg_argv[0])),
        case when tg_table_name = 'patients' then (present ->> 'id')::uuid else (present ->> 'patient_id')::uuid end,
        jsonb_build_object('columns', changed) || (
            -- Values are kept only of columns named in the trigger's arguments: thresholds, roles, scopes; never of personal data.
            select coalesce(jsonb_object_agg(kept.name, jsonb_build_array(before -> kept.name, after -> kept.name)), '{}')
            from unnest(tg_argv[1:]) as kept (name)
            where kept.name = any (changed)
        ));
    return null;
end
$$;
comment on function care.audit_change is
    'Trigger: notes a change in the audit log. Its arguments are the name of the key column and of the columns whose values are kept. Security definer: roles that change the row may not write the log.';
revoke execute on function care.audit_change from public;

create function care.audit_trail(patient_id uuid, since timestamptz, maximum_rows integer)
returns setof care.audit_log
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select *
    from care.audit_log
    where (audit_trail.patient_id is null or audit_log.patient_id = audit_trail.patient_id)
        and (audit_trail.since is null or audit_log.occurred_at >= audit_trail.since)
    order by audit_log.id desc
    limit audit_trail.maximum_rows
$$;
comment on function care.audit_trail is
    'Returns the audit entries about this patient (null: all patients), newest first. Security definer: the caller may not read the table. Called by `retrocare audit` and by public.audit_trail.';
revoke execute on function care.audit_trail from public;
grant execute on function care.audit_trail to retrocare_service, service_role;

create view public.audit_trail
with (security_invoker = true)
as
select trail.occurred_at, trail.action, trail.actor_id, trail.actor_role, trail.patient_id, trail.subject, trail.detail
from care.audit_trail(null, null, null) as trail;
comment on view public.audit_trail is 'For the privacy officer (service_role): who did what, and when, newest first.';
revoke all on public.audit_trail from anon, authenticated, service_role;
grant select on public.audit_trail to service_role;

-- 14_people.sql

-- People: the patients, their caregivers, and the lock that every change to a patient's data takes.

create type public.caregiver_role as enum (
    'viewer',       -- reads
    'family',       -- also acts on alerts, writes notes and plays recordings
    'clinician',    -- same rights as family
    'primary'       -- also manages caregivers and consent
);
comment on type public.caregiver_role is 'What a caregiver may do for a patient. Each role includes the rights of those before it.';

alter table public.patients
    add column if not exists name text,
    add column if not exists timezone text not null default 'UTC'
        constraint a_patients_timezone_is_a_zone check (care.is_time_zone(timezone)),
    add column if not exists flags text[] not null default '{}',
    add column if not exists voice_consent_at timestamptz
        constraint consent_was_given_after_1900 check (voice_consent_at >= '1900-01-01 00:00+00' and voice_consent_at < 'infinity'),
    add column if not exists created_at timestamptz not null default now();
alter table public.patients
    add column if not exists organisation_id uuid not null default care.default_organisation()
        constraint a_patient_is_an_organisations references public.organisations (id);
create index if not exists patients_by_organisation on public.patients (organisation_id);
comment on table public.patients is 'The people who are called.';
comment on column public.patients.timezone is 'The patient''s time zone: it decides the local hour and the local day of a call.';
comment on column public.patients.flags is
    'Words about the patient''s present state. If one of them is in care.sickness_words, the patient is sick.';
comment on column public.patients.voice_consent_at is
    'When consent to voiceprints was given. Null: there is no consent, and no voiceprint is stored.';
grant select, insert, update, delete on public.patients to service_role;
alter table public.patients
    add column if not exists phone text
        constraint a_patients_phone_is_a_number check (care.is_phone_number(phone)),
    add column if not exists silent_after_days integer
        constraint silence_takes_between_a_day_and_a_year check (silent_after_days between 1 and 366);
alter table public.patients
    add column if not exists warnings_per_year double precision
        constraint a_family_chooses_a_budget references care.warning_budgets (warnings_per_year);
create index if not exists patients_by_budget on public.patients (warnings_per_year) where warnings_per_year is not null;
comment on column public.patients.warnings_per_year is
    'How many warnings a year by chance the family accepts: a row of care.warning_budgets. Null: as set in care.organisation_settings.';
create index if not exists patients_by_phone on public.patients (phone);
comment on column public.patients.phone is
    'The patient''s phone number (E.164). A report without a patient id is matched by it if only one patient has that number.';
comment on column public.patients.silent_after_days is
    'For patients who are called on a schedule: after this many days (1 to 366) without a call that could be judged, an alert is raised. Null: no schedule.';

alter table public.patient_caregivers
    add column if not exists patient_id uuid not null
        constraint a_caregiver_cares_for_a_patient references public.patients (id) on delete cascade,
    add column if not exists user_id uuid
        constraint a_caregiver_may_have_an_account references auth.users (id) on delete set null,
    add column if not exists role public.caregiver_role not null default 'family',
    add column if not exists name text,
    add column if not exists phone text,
    add column if not exists webhook_url text constraint a_webhook_is_reached_over_https check (webhook_url ~ '^https://'),
    add column if not exists created_at timestamptz not null default now();
create unique index if not exists a_user_cares_once_for_a_patient on public.patient_caregivers (patient_id, user_id);
create index if not exists patient_caregivers_by_user on public.patient_caregivers (user_id);
comment on table public.patient_caregivers is 'Who cares for which patient. user_id is null until the caregiver has an account.';
grant select, insert, update, delete on public.patient_caregivers to service_role;
alter table public.patient_caregivers
    add column if not exists patient_known_as text,
    add column if not exists language text not null default 'en',
    add column if not exists timezone text
        constraint a_caregivers_timezone_is_a_zone check (care.is_time_zone(timezone)),
    add column if not exists quiet_from time,
    add column if not exists quiet_until time,
    add column if not exists other_addresses jsonb not null default '{}'
        constraint other_addresses_are_named check (jsonb_typeof(other_addresses) = 'object');
comment on column public.patient_caregivers.phone is 'Where text messages are sent (E.164). Null: none are sent.';
comment on column public.patient_caregivers.webhook_url is 'The https URL to which signed messages are posted. Null: none are posted.';
comment on column public.patient_caregivers.patient_known_as is
    'What messages call the patient, for example Mum. Null: the patient''s name.';
comment on column public.patient_caregivers.language is
    'The language of messages, one of those in care.alert_texts. Texts without a translation are sent in English.';
comment on column public.patient_caregivers.timezone is 'The caregiver''s time zone. Null: the patient''s.';
comment on column public.patient_caregivers.quiet_from is
    'Start of quiet hours, in which warnings wait. Null: as set in care.organisation_settings.';
comment on column public.patient_caregivers.quiet_until is 'End of quiet hours. Null: as set in care.organisation_settings.';
comment on column public.patient_caregivers.other_addresses is 'Addresses on further channels, by channel name.';

create function care.settings_of(patient_id uuid)
returns care.organisation_settings
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select organisation_settings
    from public.patients
    join care.organisation_settings on organisation_settings.organisation_id = patients.organisation_id
    where patients.id = settings_of.patient_id
$$;
comment on function care.settings_of is 'Returns the settings of the patient''s organisation.';
revoke execute on function care.settings_of from public;

create function care.warnings_per_year(patient_id uuid)
returns double precision
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(patients.warnings_per_year, organisation_settings.warnings_per_year)
    from public.patients
    join care.organisation_settings on organisation_settings.organisation_id = patients.organisation_id
    where patients.id = warnings_per_year.patient_id
$$;
comment on function care.warnings_per_year is 'Returns how many warnings a year by chance are accepted for this patient.';
revoke execute on function care.warnings_per_year from public;

create function care.role_of_caller(patient_id uuid)
returns public.caregiver_role
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select patient_caregivers.role
    from public.patient_caregivers
    where patient_caregivers.patient_id = role_of_caller.patient_id
        and patient_caregivers.user_id = (select auth.uid())
$$;
comment on function care.role_of_caller is
    'Returns the role of the signed-in caregiver for this patient. Null: none. Called by care.patient_for_caller.';
revoke execute on function care.role_of_caller from public;

create function care.is_caller_a_caregiver()
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    -- The setting role is the caller's, and is set for a token without an account too. In a security definer function, current_user
    -- is the owner.
    select current_setting('role') in ('anon', 'authenticated') or (select auth.uid()) is not null
$$;
comment on function care.is_caller_a_caregiver is
    'Returns whether the caller is a signed-in or anonymous user of the API, and not an operator (service_role, or the service''s own login).';
revoke execute on function care.is_caller_a_caregiver from public;

create function care.patients_of_caller(minimum_role public.caregiver_role)
returns setof uuid
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select patient_caregivers.patient_id
    from public.patient_caregivers
    where patient_caregivers.user_id = (select auth.uid())
        and patient_caregivers.role >= patients_of_caller.minimum_role
$$;
comment on function care.patients_of_caller is
    'Returns the patients for whom the signed-in caregiver has at least minimum_role; none if nobody is signed in. Security definer: it reads patient_caregivers without its policies, which call this function. In a policy, write `patient_id = any (array(select ...))`, which is evaluated once per query and can use an index.';
revoke execute on function care.patients_of_caller from public;
grant execute on function care.patients_of_caller to authenticated;

create function care.caregiver_name(caregiver_id uuid)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select patient_caregivers.name
    from public.patient_caregivers
    where patient_caregivers.id = caregiver_name.caregiver_id
$$;
comment on function care.caregiver_name is
    'Returns the name of that caregiver. Security definer: caregivers may not read each other''s rows, but may see who responded. Called by views, for those caregivers only.';
revoke execute on function care.caregiver_name from public;
grant execute on function care.caregiver_name to authenticated, service_role;

create function care.lock_patient(patient_id uuid)
returns public.patients
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    locked public.patients;
begin
    select patients.* into locked
    from public.patients
    where patients.id = lock_patient.patient_id
    for no key update;
    if not found then
        raise exception using
            errcode = 'RV002',
            message = format('No patient %s', lock_patient.patient_id),
            hint = 'Patients are rows of public.patients; `retrocare patient list` shows them.';
    end if;
    return locked;
end
$$;
comment on function care.lock_patient is
    'Returns the patient''s row, locked until the transaction ends. Every change to a baseline takes this lock. Raises RV002.';
revoke execute on function care.lock_patient from public;

create function care.patient_for_caller(patient_id uuid, minimum_role public.caregiver_role)
returns public.patients
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    is_caregiver constant boolean := care.is_caller_a_caregiver();
    patient public.patients;
begin
    if patient_for_caller.patient_id is null
        or (is_caregiver and care.role_of_caller(patient_for_caller.patient_id) is null)
    then
        raise exception using
            errcode = 'PT404',
            message = 'No object with that id belongs to one of your patients',
            hint = 'You can only access data of patients for whom you are a caregiver.';
    end if;
    patient := care.lock_patient(patient_for_caller.patient_id);
    -- Of two caregivers who change each other's role at the same time, the second waits for the lock above. The role is therefore
    -- checked again here.
    if is_caregiver and (care.role_of_caller(patient.id) >= patient_for_caller.minimum_role) is not true then
        raise exception using
            errcode = 'PT403',
            message = format('This requires the role %s', (
                select string_agg(role::text, ' or ')
                from unnest(enum_range(patient_for_caller.minimum_role, null)) as role)),
            hint = 'Ask the primary caregiver of the patient.';
    end if;
    return patient;
end
$$;
comment on function care.patient_for_caller is
    'Returns the patient, locked until the transaction ends, if the signed-in caregiver has at least minimum_role; operators always pass. Raises PT404 to callers who are not caregivers of the patient, PT403, RV002. Called by every function that changes something on behalf of a caregiver.';
revoke execute on function care.patient_for_caller from public;

create function care.try_lock_patient(patient_id uuid)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform from public.patients
    where patients.id = try_lock_patient.patient_id
    for no key update skip locked;
    return found;
end
$$;
comment on function care.try_lock_patient is
    'Does the same as care.lock_patient, but without waiting. Returns false if another transaction holds the lock, or there is no such patient. For functions that lock several patients in one transaction: since they never wait, they cannot deadlock.';
revoke execute on function care.try_lock_patient from public;

create function care.lock_patient_if_any(patient_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select from public.patients
    where patients.id = lock_patient_if_any.patient_id
    for no key update
$$;
comment on function care.lock_patient_if_any is
    'Does the same as care.lock_patient, for a patient who may have been erased meanwhile; then it locks nothing.';
revoke execute on function care.lock_patient_if_any from public;

create function care.lock_patient_or_refuse(patient_id uuid)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The row is already locked, although the patient must be locked first. To avoid a deadlock, do not wait: let the other
    -- transaction finish.
    if care.try_lock_patient(lock_patient_or_refuse.patient_id) then
        return true;
    elsif exists (select from public.patients where patients.id = lock_patient_or_refuse.patient_id) then
        raise exception using
            errcode = 'PT409',
            message = 'Another transaction is changing this patient',
            hint = 'Nothing was changed. Try again.';
    end if;
    return false;
end
$$;
comment on function care.lock_patient_or_refuse is
    'Locks the patient without waiting, for triggers on rows that belong to a patient. Returns false if the patient is being deleted. Raises PT409.';
revoke execute on function care.lock_patient_or_refuse from public;

create function care.add_patient(name text, timezone text, has_consent boolean, evidence text default null)
returns public.patients
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    added public.patients;
begin
    insert into public.patients (name, timezone)
    values (add_patient.name, add_patient.timezone)
    returning * into added;
    if add_patient.has_consent then
        return care.set_consent(added.id, true, add_patient.evidence);
    end if;
    return added;
end
$$;
comment on function care.add_patient is 'Adds a patient and returns the new row. Raises PT400. Called by `retrocare patient add`.';
revoke execute on function care.add_patient from public;
grant execute on function care.add_patient to retrocare_service;

create function care.change_patient(patient_id uuid, name text, timezone text, phone text, silent_after_days integer)
returns public.patients
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient public.patients := care.lock_patient(change_patient.patient_id);
begin
    update public.patients
    set name = coalesce(change_patient.name, patients.name),
        timezone = coalesce(change_patient.timezone, patients.timezone),
        phone = case when change_patient.phone is null then patients.phone else nullif(change_patient.phone, '') end,
        silent_after_days = case
            when change_patient.silent_after_days is null then patients.silent_after_days
            else nullif(change_patient.silent_after_days, 0)
        end
    where patients.id = patient.id
    returning * into patient;
    return patient;
end
$$;
comment on function care.change_patient is
    'Changes the given columns and returns the patient. Null leaves a column unchanged; an empty phone and silent_after_days 0 set theirs to null. Raises RV002. Called by `retrocare patient set`.';
revoke execute on function care.change_patient from public;
grant execute on function care.change_patient to retrocare_service;

create policy caregivers_read_their_patients on public.patients
    for select to authenticated
    using (id = any (array(select care.patients_of_caller('viewer'))));

create policy caregivers_see_themselves_and_the_primary_all_of_them on public.patient_caregivers
    for select to authenticated
    using (
        user_id = (select auth.uid())
        or patient_id = any (array(select care.patients_of_caller('primary')))
    );

-- 15_health.sql

-- Health: when a patient was unwell. Calls of that time enrol nothing, and samples of such days leave the baseline.

alter table public.health_flags
    add column if not exists patient_id uuid not null
        constraint a_health_flag_is_a_patients references public.patients (id) on delete cascade,
    add column if not exists flag text,
    add column if not exists started_at timestamptz not null default now(),
    add column if not exists resolved_at timestamptz
        constraint a_health_flag_ends_after_it_starts check (resolved_at >= started_at),
    add column if not exists created_at timestamptz not null default now();
-- In rows of an earlier project, started_at has just been set to the time of this transaction. Set it to the time when the flag was
-- created.
update public.health_flags set started_at = created_at where started_at = now() and created_at < now();
create index if not exists health_flags_by_patient on public.health_flags (patient_id, started_at);
comment on table public.health_flags is
    'When a patient was unwell: from started_at to resolved_at, or until now while resolved_at is null. Calls of that time enrol nothing.';
grant select, insert, update, delete on public.health_flags to service_role;

create table care.sickness_words (
    word text constraint sickness_words_pkey primary key
        constraint a_sickness_word_is_one_lower_case_word check (word ~ '^[[:alpha:]]+$' and word = lower(word))
);
insert into care.sickness_words (word)
values
    ('sick'), ('illness'), ('pain'), ('fever'), ('cough'), ('cold'), ('flu'), ('injury'),
    ('sickness'), ('ill'), ('unwell'), ('disease'), ('pains'), ('feverish'), ('coughs'), ('coughing'), ('colds'), ('influenza'),
    ('injuries'), ('injured'), ('infection'), ('infections'), ('infected'), ('pneumonia'), ('bronchitis'), ('asthma'), ('covid'),
    ('hoarse'), ('hoarseness'), ('laryngitis'), ('breathless'), ('stroke'), ('hospital'), ('hospitalised'), ('hospitalized'),
    ('nausea'), ('vomiting'), ('dizzy'), ('dizziness'), ('weak'), ('weakness'), ('fracture'), ('concussion');
alter table care.sickness_words enable row level security;
comment on table care.sickness_words is 'A patient with one of these words in patients.flags is sick.';

create function care.is_unwell_at(patient_id uuid, at timestamptz)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from public.health_flags
        where health_flags.patient_id = is_unwell_at.patient_id
            and health_flags.started_at <= is_unwell_at.at
            and (health_flags.resolved_at is null or health_flags.resolved_at > is_unwell_at.at)
    )
$$;
comment on function care.is_unwell_at is 'Returns whether a health flag of the patient covers that moment.';
revoke execute on function care.is_unwell_at from public;

create function care.is_healthy_at(patient public.patients, at timestamptz)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select not care.is_unwell_at(patient.id, is_healthy_at.at)
        and not exists (
            select
            from unnest(patient.flags) as flag
            join care.sickness_words
                on sickness_words.word = any (regexp_split_to_array(lower(flag), '[^[:alpha:]]+'))
        )
$$;
comment on function care.is_healthy_at is
    'Returns whether the patient is healthy at that moment: no health flag covers it, and patients.flags contains no sickness word.';
revoke execute on function care.is_healthy_at from public;

create function care.unknown_flags()
returns table (patient_id uuid, patient text, flag text)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select patients.id, patients.name, flags.flag
    from public.patients
    cross join lateral unnest(patients.flags) as flags (flag)
    where not exists (
        select from care.sickness_words
        where sickness_words.word = any (regexp_split_to_array(lower(flags.flag), '[^[:alpha:]]+'))
    )
    order by patients.created_at, patients.id
$$;
comment on function care.unknown_flags is
    'Returns the entries of patients.flags that contain no word of care.sickness_words and so have no effect. Called by `retrocare patient list`.';
revoke execute on function care.unknown_flags from public;
grant execute on function care.unknown_flags to retrocare_service;

create function care.lock_flagged_patient()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'INSERT' then
        perform care.lock_patient(new.patient_id);
    else
        perform care.lock_patient_or_refuse(new.patient_id);
    end if;
    return new;
end
$$;
comment on function care.lock_flagged_patient is
    'Trigger: locks the patient before anything else, since a health flag rebuilds baselines. Security definer: roles that write health flags may not lock patients.';
revoke execute on function care.lock_flagged_patient from public;

create function care.flag_patient(patient_id uuid, flag text, started_at timestamptz)
returns public.health_flags
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    flagged public.health_flags;
begin
    perform care.lock_patient(flag_patient.patient_id);
    insert into public.health_flags (patient_id, flag, started_at)
    values (flag_patient.patient_id, flag_patient.flag, flag_patient.started_at)
    returning * into flagged;
    return flagged;
end
$$;
comment on function care.flag_patient is
    'Adds a health flag from started_at on and returns it. Samples of that time leave the baseline. Raises RV002. Called by `retrocare patient flag`.';
revoke execute on function care.flag_patient from public;
grant execute on function care.flag_patient to retrocare_service;

create function care.unflag_patient(patient_id uuid, flag text, resolved_at timestamptz)
returns setof public.health_flags
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform care.lock_patient(unflag_patient.patient_id);
    return query
        update public.health_flags
        set resolved_at = greatest(unflag_patient.resolved_at, health_flags.started_at)
        where health_flags.patient_id = unflag_patient.patient_id
            -- This includes flags with an end in the future, for example after an alert was resolved as an illness.
            and (health_flags.resolved_at is null or health_flags.resolved_at > unflag_patient.resolved_at)
            and (unflag_patient.flag is null or health_flags.flag = unflag_patient.flag)
        returning health_flags.*;
end
$$;
comment on function care.unflag_patient is
    'Resolves the patient''s open flags of that name (null: all) and returns them. Raises RV002. Called by `retrocare patient unflag`.';
revoke execute on function care.unflag_patient from public;
grant execute on function care.unflag_patient to retrocare_service;

create policy caregivers_read_their_patients_flags on public.health_flags
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

-- 16_consent.sql

-- Consent: recorded with its scope, time, recorder and evidence before a recording is processed. Its withdrawal stops the processing
-- and erases the results.

create table care.consent_scopes (
    id text constraint consent_scopes_pkey primary key,
    description text not null
);
alter table care.consent_scopes enable row level security;
insert into care.consent_scopes (id, description) values ('voiceprint', 'Voiceprints are made, kept and compared.');
comment on table care.consent_scopes is 'The scopes to which a patient can consent. Each signal requires one.';

create table public.consents (
    id uuid constraint consents_pkey primary key default gen_random_uuid(),
    patient_id uuid not null
        constraint a_consent_is_a_patients references public.patients (id) on delete cascade,
    scope text not null default 'voiceprint'
        constraint a_consent_is_to_something_known references care.consent_scopes (id),
    given_at timestamptz not null
        constraint a_consent_was_given_after_1900 check (given_at >= '1900-01-01 00:00+00' and given_at < 'infinity'),
    recorded_by uuid
        constraint whoever_recorded_it_had_an_account references auth.users (id) on delete set null,
    evidence text not null
        constraint a_consent_has_evidence check (btrim(evidence) <> '' and char_length(evidence) <= 10000),
    withdrawn_at timestamptz
        constraint a_consent_is_given_before_it_is_withdrawn check (withdrawn_at >= given_at),
    withdrawn_by uuid
        constraint whoever_withdrew_it_had_an_account references auth.users (id) on delete set null,
    created_at timestamptz not null default now()
);
create index consents_by_patient on public.consents (patient_id, given_at desc);
create index consents_by_scope on public.consents (scope);
create index consents_by_recorder on public.consents (recorded_by);
create index consents_by_withdrawer on public.consents (withdrawn_by);
alter table public.consents enable row level security;
revoke all on public.consents from anon, authenticated, service_role;
comment on table public.consents is
    'Every consent, with its evidence and its withdrawal. A withdrawal ends all consents of that scope; patients.voice_consent_at shows since when consent to voiceprints has been in force.';
comment on column public.consents.evidence is 'How consent was given: a signed form, a recorded sentence, or where to find it.';
comment on column public.consents.recorded_by is 'The account that recorded it. Null: an operator, or the service.';
grant select on public.consents to authenticated, service_role;

-- An adopted project may have the column already. The column itself is then the evidence.
insert into public.consents (patient_id, given_at, evidence)
select patients.id, patients.voice_consent_at, 'patients.voice_consent_at was set'
from public.patients
where patients.voice_consent_at is not null;

create function care.on_consent()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if new.voice_consent_at is not null then
        -- If the column is set without a row in consents, add one, with the column as its evidence.
        insert into public.consents (patient_id, given_at, recorded_by, evidence)
        select new.id, new.voice_consent_at, (select auth.uid()), 'patients.voice_consent_at was set'
        where not exists (
            select from public.consents
            where consents.patient_id = new.id and consents.scope = 'voiceprint' and consents.withdrawn_at is null
        );
    else
        update public.consents
        set withdrawn_at = greatest(now(), consents.given_at),
            withdrawn_by = (select auth.uid())
        where consents.patient_id = new.id and consents.scope = 'voiceprint' and consents.withdrawn_at is null;
    end if;
    return null;
end
$$;
comment on function care.on_consent is
    'Trigger: a change of patients.voice_consent_at records or withdraws consent to voiceprints. Security definer: roles that change patients may not write consents.';
revoke execute on function care.on_consent from public;

create function care.on_consent_given()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform care.note_audit('consent_given', 'public.consents', new.patient_id, jsonb_build_object('scope', new.scope));
    if new.scope = 'voiceprint' then
        update public.patients
        set voice_consent_at = new.given_at
        where patients.id = new.patient_id and patients.voice_consent_at is null;
    end if;
    return null;
end
$$;
comment on function care.on_consent_given is
    'Trigger: notes a consent in the audit log, and shows consent to voiceprints on the patient. Security definer for the same reason as care.on_consent.';
revoke execute on function care.on_consent_given from public;

create function care.on_consents_withdrawn()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    withdrawn record;
    signal text;
begin
    for withdrawn in
        select distinct after.patient_id, after.scope
        from after
        join before on before.id = after.id
        where before.withdrawn_at is null
            and after.withdrawn_at is not null
            and not exists (
                select from public.consents
                where consents.patient_id = after.patient_id
                    and consents.scope = after.scope
                    and consents.withdrawn_at is null
            )
        order by after.patient_id, after.scope
    loop
        perform care.note_audit(
            'consent_withdrawn', 'public.consents', withdrawn.patient_id, jsonb_build_object('scope', withdrawn.scope));
        if withdrawn.scope = 'voiceprint' then
            update public.patients
            set voice_consent_at = null
            where patients.id = withdrawn.patient_id and patients.voice_consent_at is not null;
        end if;
        for signal in select signals.id from care.signals where signals.consent_scope = withdrawn.scope order by signals.id loop
            perform care.erase_signal(withdrawn.patient_id, signal, 'consent withdrawn');
        end loop;
    end loop;
    return null;
end
$$;
comment on function care.on_consents_withdrawn is
    'Trigger: erases what was made under a scope when its last consent is withdrawn. Security definer for the same reason as care.on_consent.';
revoke execute on function care.on_consents_withdrawn from public;

create function care.refuse_unknown_scope(scope text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from care.consent_scopes where consent_scopes.id = refuse_unknown_scope.scope) then
        raise exception using
            errcode = 'PT400',
            message = format('There is no consent scope %L', refuse_unknown_scope.scope),
            hint = format('Use one of %s.', (select string_agg(consent_scopes.id, ', ' order by consent_scopes.id) from care.consent_scopes));
    end if;
end
$$;
comment on function care.refuse_unknown_scope is 'Raises PT400 if there is no such consent scope.';
revoke execute on function care.refuse_unknown_scope from public;

create function care.record_consent(
    patient_id uuid, evidence text, given_at timestamptz default now(), scope text default 'voiceprint'
)
returns public.consents
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient public.patients := care.patient_for_caller(record_consent.patient_id, 'primary');
    consent public.consents;
begin
    if nullif(btrim(record_consent.evidence), '') is null
        or (record_consent.given_at between '1900-01-01 00:00+00' and now() + interval '1 minute') is not true
    then
        raise exception using
            errcode = 'PT400',
            message = 'A consent needs evidence and a time that is not in the future',
            hint = 'State how consent was given and where the evidence is kept.';
    elsif char_length(record_consent.evidence) > 10000 then
        raise exception using
            errcode = 'PT400',
            message = format('The evidence has %s characters; at most 10000 are kept', char_length(record_consent.evidence)),
            hint = 'Keep longer evidence elsewhere and state where.';
    end if;
    perform care.refuse_unknown_scope(record_consent.scope);
    select consents.* into consent
    from public.consents
    where consents.patient_id = patient.id
        and consents.scope = record_consent.scope
        and consents.withdrawn_at is null
        and consents.evidence = record_consent.evidence
    order by consents.created_at
    limit 1;
    if found then
        return consent;
    end if;
    insert into public.consents (patient_id, scope, given_at, recorded_by, evidence)
    values (patient.id, record_consent.scope, record_consent.given_at, (select auth.uid()), record_consent.evidence)
    returning * into consent;
    return consent;
end
$$;
comment on function care.record_consent is
    'Records a consent, to voiceprints unless scope names another, and returns it. If one is already in force, this is further evidence; a repetition with the same evidence changes nothing. Raises PT400, PT403, PT404. Security definer: callers may not write consents directly.';
revoke execute on function care.record_consent from public;

create function care.withdraw_consent(patient_id uuid, scope text default 'voiceprint')
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient public.patients := care.patient_for_caller(withdraw_consent.patient_id, 'primary');
begin
    perform care.refuse_unknown_scope(withdraw_consent.scope);
    update public.consents
    set withdrawn_at = greatest(now(), consents.given_at),
        withdrawn_by = (select auth.uid())
    where consents.patient_id = patient.id and consents.scope = withdraw_consent.scope and consents.withdrawn_at is null;
end
$$;
comment on function care.withdraw_consent is
    'Withdraws consent: signals that need it stop, and what they made is erased. Raises PT400, PT403, PT404. Security definer: callers may not write consents directly.';
revoke execute on function care.withdraw_consent from public;

create function care.set_consent(patient_id uuid, is_given boolean, evidence text default null)
returns public.patients
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient public.patients := care.lock_patient(set_consent.patient_id);
begin
    if set_consent.is_given and set_consent.evidence is not null then
        perform care.record_consent(patient.id, set_consent.evidence, now());
        return care.lock_patient(patient.id);
    end if;
    update public.patients
    set voice_consent_at = case when set_consent.is_given then coalesce(patient.voice_consent_at, now()) end
    where patients.id = patient.id
    returning * into patient;
    return patient;
end
$$;
comment on function care.set_consent is
    'Records consent to voiceprints, with its evidence if given, or withdraws it, and returns the patient. After a withdrawal, the voice data are erased and later calls are skipped. Raises PT400, RV002. Called by `retrocare patient consent`.';
revoke execute on function care.set_consent from public;
grant execute on function care.set_consent to retrocare_service;

create policy caregivers_read_their_patients_consents on public.consents
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

-- 19_providers.sql

-- Providers: the phone providers that place the calls, and the accounts with them.

-- The bucket for recordings: private, at most 50 MiB per file, audio only. Outside Supabase there is no Storage, and no bucket is
-- created.
do $$
begin
    if to_regclass('storage.buckets') is not null then
        insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
        values (
            'voice-recordings', 'voice-recordings', false, 50 * 1024 * 1024,
            array['audio/wav', 'audio/mpeg', 'audio/ogg', 'audio/flac', 'audio/mp4', 'audio/webm']
        )
        on conflict (id) do nothing;
    end if;
end
$$;

create table care.providers (
    id text constraint providers_pkey primary key
        constraint a_provider_has_a_name_without_a_slash check (id <> '' and strpos(id, '/') = 0),
    recording_retention_days double precision not null default 14
        constraint recordings_are_kept_a_while check (recording_retention_days > 0 and recording_retention_days <= 3650),
    reconciliation_overlap_hours double precision not null default 1
        constraint reconciliations_overlap check (reconciliation_overlap_hours > 0 and reconciliation_overlap_hours <= 720)
);
alter table care.providers enable row level security;
insert into care.providers (id) values ('vapi');
comment on table care.providers is 'The phone providers whose calls are accepted.';
comment on column care.providers.recording_retention_days is
    'How long the provider keeps a recording. Copying it is attempted for that long.';
comment on column care.providers.reconciliation_overlap_hours is
    'How far each reconciliation reaches back before the end of the last one, to allow for clock differences and for updates that the provider lists late.';

create table care.provider_accounts (
    id text constraint provider_accounts_pkey primary key
        constraint an_account_has_a_name_without_a_slash check (id <> '' and strpos(id, '/') = 0),
    organisation_id uuid not null default care.default_organisation()
        constraint an_account_is_an_organisations references public.organisations (id),
    provider text not null
        constraint an_account_is_with_a_provider references care.providers (id),
    secret_name text,
    reconciled_until timestamptz,
    constraint an_account_is_with_one_provider unique (id, provider)
);
create index provider_accounts_by_organisation on care.provider_accounts (organisation_id);
create index provider_accounts_by_provider on care.provider_accounts (provider);
alter table care.provider_accounts enable row level security;
insert into care.provider_accounts (id, provider, secret_name) values ('vapi', 'vapi', 'VAPI_API_KEY');
comment on table care.provider_accounts is
    'Accounts with the providers. If a request names no account, the account named like its provider is used, or else the only one.';
comment on column care.provider_accounts.secret_name is
    'The name of the secret with the API key, in the Vault or the environment; never the key itself. Null: no key is known.';
comment on column care.provider_accounts.reconciled_until is
    'Reconciliation has listed all calls last updated before this time. Null: it has not run yet.';

create function care.account_of(provider text, account text default null)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case
            when account_of.account is not null then min(provider_accounts.id) filter (where provider_accounts.id = account_of.account)
            else coalesce(
                min(provider_accounts.id) filter (where provider_accounts.id = account_of.provider),
                case when count(*) = 1 then min(provider_accounts.id) end)
        end
    from care.provider_accounts
    where provider_accounts.provider = account_of.provider
$$;
comment on function care.account_of is
    'Returns the named account of this provider, or else the account named like the provider, or else the only one. Null: there is none, or it must be named.';
revoke execute on function care.account_of from public;

create function care.ensure_account(provider text, account text default null)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    account_id text := care.account_of(ensure_account.provider, ensure_account.account);
begin
    if account_id is null
        and ensure_account.account is null
        and ensure_account.provider <> ''
        and strpos(ensure_account.provider, '/') = 0
    then
        insert into care.providers (id) values (ensure_account.provider) on conflict (id) do nothing;
        insert into care.provider_accounts (id, provider)
        select providers.id, providers.id
        from care.providers
        where providers.id = ensure_account.provider
            and not exists (select from care.provider_accounts where provider_accounts.provider = providers.id)
        on conflict (id) do nothing;
        account_id := care.account_of(ensure_account.provider);
    end if;
    if account_id is null then
        raise exception using
            errcode = 'PT400',
            message = format('It is not known to which account with %L this call belongs', ensure_account.provider),
            hint = 'Name an account; they are rows of care.provider_accounts.';
    end if;
    return account_id;
end
$$;
comment on function care.ensure_account is
    'Does the same as care.account_of, for callers that write calls directly instead of reporting them. An unknown provider is added, with an account of the same name. Raises PT400.';
revoke execute on function care.ensure_account from public;

create function care.reconcile_since(provider text, at timestamptz default now(), account text default null)
returns timestamptz
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select greatest(
        reconcile_since.at - make_interval(secs => 86400 * providers.recording_retention_days),
        -- The stored time may come from a wrong clock: it is never taken later than now.
        case
            when provider_accounts.reconciled_until is not null then least(provider_accounts.reconciled_until, reconcile_since.at)
        end - make_interval(secs => 3600 * providers.reconciliation_overlap_hours))
    from care.provider_accounts
    join care.providers on providers.id = provider_accounts.provider
    where provider_accounts.id = care.account_of(reconcile_since.provider, reconcile_since.account)
$$;
comment on function care.reconcile_since is
    'Returns the time since which an account''s updated calls must be listed: the end of the last reconciliation less an overlap, but never before the provider''s retention. Null: there is no such account. Security definer for the same reason as care.receive_call_report.';
revoke execute on function care.reconcile_since from public;

create function care.finish_reconciliation(provider text, until timestamptz, account text default null)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update care.provider_accounts
    set reconciled_until = greatest(provider_accounts.reconciled_until, finish_reconciliation.until)
    where provider_accounts.id = care.account_of(finish_reconciliation.provider, finish_reconciliation.account)
$$;
comment on function care.finish_reconciliation is
    'Notes that all calls of the account last updated before until have been listed. Security definer for the same reason as care.receive_call_report.';
revoke execute on function care.finish_reconciliation from public;

-- 20_calls.sql

-- Calls: one row per call, upload or onboarding recording, the rules that all of them follow, and the functions that write them.

create type public.call_source as enum (
    'provider',     -- reported by the phone provider
    'api',          -- POST /api/anomaly-check without a call id
    'upload',       -- a file uploaded by the command line
    'onboarding',   -- recorded to enrol the patient; never scored
    'archive'       -- from before RetroCare Voice: backfilled, enrols a patient without a baseline, is never judged
);
comment on type public.call_source is 'Where a call came from.';

create type public.recording_channel as enum (
    'customer',     -- only the patient's side of the call
    'left',         -- stereo, the patient on the left
    'right',        -- stereo, the patient on the right
    'mono',         -- a single channel
    'mixed',        -- a single channel that contains the agent's voice too; never judged
    'stereo'        -- the patient is on one of two channels, found by the times when the patient spoke
);
comment on type public.recording_channel is 'Which part of the recording is the patient''s voice.';

create type public.check_state as enum (
    'queued',           -- waits for a worker           -> leased
    'leased',           -- a worker is processing it     -> any end, or queued again
    'scored',           -- end: compared with the baseline
    'enrolled',         -- end: became the baseline or a part of it
    'held',             -- end: the patient was sick and has no baseline
    'embedded',         -- end: voiceprint of a backfill stored, nothing judged
    'not_assessable',   -- end: the recording cannot be judged
    'skipped',          -- end: not to be judged
    'dead'              -- end: failed permanently; an operator may queue it again
);
comment on type public.check_state is 'The state of a check. The last seven are ends.';

create type public.check_reason as enum (
    'no_speech', 'too_little_speech', 'too_noisy', 'clipped', 'ambiguous_channel', 'undecodable', 'too_long',
    'sick_without_baseline', 'sick_at_enrolment',
    'no_consent', 'duplicate_recording', 'voicemail', 'not_answered', 'nobody_spoke', 'call_failed', 'ended_reason_unknown',
    'recording_unavailable', 'recording_expired', 'processing_failed', 'attempts_exhausted', 'upload_lost'
);
comment on type public.check_reason is
    'Why a check ended: reasons of the first line belong to not_assessable, of the second to held, of the third to skipped, of the fourth to dead.';

alter table public.call_logs
    add column if not exists patient_id uuid not null
        constraint a_call_is_with_a_patient references public.patients (id) on delete cascade,
    add column if not exists "timestamp" timestamptz not null default now(),
    add column if not exists summary text,
    add column if not exists source public.call_source not null default 'provider',
    add column if not exists provider text,
    add column if not exists provider_account text,
    add column if not exists provider_call_id text,
    add column if not exists ended_reason text,
    add column if not exists recording_source_url text,
    add column if not exists recording_ref text,
    add column if not exists recording_channel public.recording_channel,
    add column if not exists speech_intervals jsonb,
    add column if not exists enrolment_id uuid
        constraint an_onboarding_recording_is_of_an_enrolment check (source <> 'onboarding' or enrolment_id is not null),
    add column if not exists anomaly_score double precision,
    add column if not exists created_at timestamptz not null default now();
create unique index a_provider_account_reports_a_call_once on public.call_logs (provider_account, provider_call_id);
update public.call_logs
set provider_account = care.ensure_account(call_logs.provider)
where call_logs.provider <> '' and strpos(call_logs.provider, '/') = 0 and call_logs.provider_account is null;
alter table public.call_logs
    add constraint a_call_is_of_its_providers_account
        foreign key (provider_account, provider) references care.provider_accounts (id, provider);
create index if not exists call_logs_by_patient on public.call_logs (patient_id, "timestamp" desc);
create index if not exists call_logs_by_enrolment on public.call_logs (enrolment_id) where enrolment_id is not null;
-- By default, autovacuum would process a table of ten million rows only after two million of them have changed.
alter table public.call_logs set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
comment on table public.call_logs is 'One row per call, upload or onboarding recording.';
comment on column public.call_logs."timestamp" is 'When the call began.';
comment on column public.call_logs.provider_account is
    'The provider account that made the call, a row of care.provider_accounts. If it is not given, the provider''s default account is set.';
comment on column public.call_logs.recording_ref is
    'storage:bucket/path, or the URL of the recording. A check is queued when it changes from null to a value. A signed URL is set to null after use; it is kept while consent is missing or the check is dead.';
comment on column public.call_logs.recording_source_url is 'The provider''s short-lived URL of the recording; setting it queues nothing.';
comment on column public.call_logs.speech_intervals is
    'When the patient spoke: [[start, end], ...], in seconds from the start of the call.';
comment on column public.call_logs.enrolment_id is 'Shared by all recordings of one enrolment. Null for every other call.';
comment on column public.call_logs.anomaly_score is '0 = as usual, 1 = completely different. Null: not scored.';
grant insert, update, delete on public.call_logs to service_role;
alter table public.call_logs
    add column if not exists check_state public.check_state,
    add column if not exists check_reason public.check_reason;
alter table public.call_logs
    add column if not exists is_heard boolean not null
        generated always as (check_state in ('scored', 'enrolled', 'held') is true) stored,
    add column if not exists is_unheard boolean not null
        generated always as (check_reason in ('no_speech', 'too_little_speech', 'nobody_spoke') is true) stored;
comment on column public.call_logs.check_state is
    'Copied from the call''s newest check that is not a backfill. Null: no check was requested. A call that is not worth judging, or whose recording never arrived, gets an end without a check.';
comment on column public.call_logs.check_reason is 'Copied from the call''s newest check that is not a backfill.';
comment on column public.call_logs.is_heard is
    'The patient''s voice could be judged: the call was scored, enrolled, or held because the patient was sick.';
comment on column public.call_logs.is_unheard is
    'The call was answered, but there was too little speech. Recordings that cannot be decoded or whose channels cannot be told apart count as neither is_heard nor is_unheard; they are operator issues.';
create index call_logs_undecided on public.call_logs (ended_reason) where check_reason = 'ended_reason_unknown';
create index call_logs_unheard on public.call_logs (patient_id, "timestamp") where is_unheard;
create index call_logs_heard on public.call_logs (patient_id, "timestamp") where is_heard;
create index call_logs_with_recordings on public.call_logs (created_at) where recording_ref is not null;
create index call_logs_unusable on public.call_logs (patient_id, "timestamp")
    where check_state in ('held', 'not_assessable');
-- The URL of a recording grants access to it, so roles that may write the column may not read it.
grant select (
    id, patient_id, "timestamp", summary, source, provider, provider_account, provider_call_id, ended_reason, recording_channel,
    speech_intervals, enrolment_id, check_state, check_reason, is_heard, is_unheard, anomaly_score, created_at
) on public.call_logs to service_role;

create function care.are_intervals(intervals jsonb)
returns boolean
language sql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case
        when jsonb_typeof(intervals) <> 'array' or jsonb_array_length(intervals) > 10000 then false
        else not exists (
            select
            from jsonb_array_elements(intervals) as pair
            where case
                when jsonb_typeof(pair) <> 'array' or jsonb_array_length(pair) <> 2 then true
                else exists (
                    select
                    from jsonb_array_elements(pair) as moment
                    where case jsonb_typeof(moment) when 'number' then abs(moment::numeric) > 1e6 else true end
                )
            end
        )
    end
$$;
comment on function care.are_intervals is 'Returns whether the value is [[start, end], ...] with times in seconds that a call can have.';
revoke execute on function care.are_intervals from public;

create function care.forget_garbled_intervals()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not care.are_intervals(new.speech_intervals) then
        new.speech_intervals := null;
    end if;
    return new;
end
$$;
comment on function care.forget_garbled_intervals is
    'Trigger: sets speech intervals that are malformed to null, and keeps the call. Security definer: roles that write calls may not call functions in the private schemas.';
revoke execute on function care.forget_garbled_intervals from public;

create function care.name_the_account()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    new.provider_account := care.ensure_account(new.provider);
    return new;
end
$$;
comment on function care.name_the_account is
    'Trigger: sets the account of a provider''s call. Raises PT400. Security definer: roles that write calls may not read the private schemas.';
revoke execute on function care.name_the_account from public;

create function care.refuse_impossible_call()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Allow for clocks that are off by a time zone or a date.
    if (new."timestamp" between '1970-01-01' and now() + interval '2 days') is not true then
        raise exception using
            errcode = 'RV008',
            message = format('A call cannot have begun at %s', new."timestamp"),
            hint = 'A call must have begun in the past: give its time with the time zone.';
    end if;
    if tg_op = 'UPDATE' and new.patient_id <> old.patient_id and (
        exists (select from care.checks where checks.call_log_id = old.id)
        or exists (select from care.recordings where recordings.call_log_id = old.id)
        or exists (select from voice.embeddings where embeddings.call_log_id = old.id)
    ) then
        raise exception using
            errcode = 'RV006',
            message = format('Call %s already has data of another patient', old.id),
            hint = 'Delete it, and record it again for the right patient.';
    end if;
    return new;
end
$$;
comment on function care.refuse_impossible_call is
    'Trigger: refuses a call from the future, and a change of patient once the call has data. Raises RV006, RV008. Security definer: roles that write calls may not read the private schemas.';
revoke execute on function care.refuse_impossible_call from public;

create table care.idempotency_keys (
    organisation_id uuid not null
        constraint a_request_is_of_an_organisation references public.organisations (id) on delete cascade,
    caller text not null,
    key text not null
        constraint an_idempotency_key_is_short check (length(key) between 1 and 255),
    request_sha256 bytea not null
        constraint a_request_is_known_by_its_hash check (octet_length(request_sha256) = 32),
    patient_id uuid not null
        constraint a_repeated_request_is_about_a_patient references public.patients (id) on delete cascade,
    call_log_id uuid not null
        constraint a_repeated_request_is_one_call references public.call_logs (id) on delete cascade,
    created_at timestamptz not null default now(),
    constraint idempotency_keys_pkey primary key (organisation_id, caller, key)
);
create index idempotency_keys_by_age on care.idempotency_keys (created_at);
create index idempotency_keys_by_call on care.idempotency_keys (call_log_id);
create index idempotency_keys_by_patient on care.idempotency_keys (patient_id);
alter table care.idempotency_keys enable row level security;
comment on table care.idempotency_keys is
    'The call that each request with an Idempotency-Key created: a repeated request returns the same call. Rows are kept as long as care.retention_policies says.';
comment on column care.idempotency_keys.caller is
    'The name of the API key of the request. Empty: RETROCARE_API_KEY was used, or no key was required.';

create function care.record_call(
    patient_id uuid,
    call_log_id uuid,
    source public.call_source,
    recording_ref text,
    recording_channel public.recording_channel,
    occurred_at timestamptz,
    enrolment_id uuid,
    caller text default null,
    idempotency_key text default null,
    request_sha256 bytea default null
)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient public.patients;
    call public.call_logs;
    repeated care.idempotency_keys;
begin
    -- This lock comes first, because voice.open_check takes it in the same transaction.
    lock table care.models in row exclusive mode;
    patient := care.lock_patient(record_call.patient_id);
    if record_call.idempotency_key is not null then
        select idempotency_keys.* into repeated
        from care.idempotency_keys
        where idempotency_keys.organisation_id = patient.organisation_id
            and idempotency_keys.caller = coalesce(record_call.caller, '')
            and idempotency_keys.key = record_call.idempotency_key;
        if repeated.request_sha256 <> record_call.request_sha256 then
            raise exception using
                errcode = 'RV009',
                message = 'This Idempotency-Key was already sent with another request',
                hint = 'Use a new key for each request, and the same key only to repeat one.';
        elsif found then
            return repeated.call_log_id;
        end if;
    end if;
    if record_call.call_log_id is null then
        insert into public.call_logs (patient_id, source, recording_ref, recording_channel, "timestamp", enrolment_id)
        values (
            record_call.patient_id, record_call.source, record_call.recording_ref, record_call.recording_channel,
            coalesce(record_call.occurred_at, now()), record_call.enrolment_id
        )
        returning * into call;
    else
        update public.call_logs
        set recording_ref = case
                -- A judged call needs its URL no longer.
                when call_logs.check_state is null or call_logs.check_state in ('queued', 'leased', 'dead', 'skipped')
                then coalesce(call_logs.recording_ref, record_call.recording_ref)
                else call_logs.recording_ref
            end,
            recording_channel = coalesce(call_logs.recording_channel, record_call.recording_channel)
        where call_logs.id = record_call.call_log_id and call_logs.patient_id = record_call.patient_id
        returning * into call;
    end if;
    if call.id is null and exists (select from public.call_logs where call_logs.id = record_call.call_log_id) then
        raise exception using
            errcode = 'RV006',
            message = format('Call %s belongs to another patient', record_call.call_log_id),
            hint = 'patientId and callLogId must belong together.';
    elsif call.id is null then
        raise exception using
            errcode = 'RV003',
            message = format('No call %s', record_call.call_log_id),
            hint = 'Leave out callLogId to create a call for the recording.';
    end if;
    if record_call.idempotency_key is not null then
        insert into care.idempotency_keys (organisation_id, caller, key, request_sha256, patient_id, call_log_id)
        values (
            patient.organisation_id, coalesce(record_call.caller, ''), record_call.idempotency_key, record_call.request_sha256,
            patient.id, call.id
        );
    end if;
    return call.id;
exception when unique_violation then
    -- A request for another patient used the same key at the same time. A repetition of the same request would have waited for the
    -- lock on the patient.
    raise exception using
        errcode = 'RV009',
        message = 'This Idempotency-Key was already sent with another request',
        hint = 'Use a new key for each request, and the same key only to repeat one.';
end
$$;
comment on function care.record_call is
    'Returns the id of the call to which a recording belongs: that of an earlier request with this idempotency key, or the given call, which gets the recording if it has none, or a new call. Every check therefore has a call. Raises RV002, RV003, RV006, RV008, RV009. Called by the service before open_check, in the same transaction.';
revoke execute on function care.record_call from public;
grant execute on function care.record_call to retrocare_service;

create function care.upsert_call(
    patient_id uuid, provider text, provider_call_id text, recording_ref text default null,
    recording_channel public.recording_channel default null, occurred_at timestamptz default null, ended_reason text default null,
    summary text default null, account text default null
)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    call public.call_logs;
    account_id text;
begin
    if nullif(upsert_call.provider, '') is null or nullif(upsert_call.provider_call_id, '') is null then
        raise exception using
            errcode = 'PT400',
            message = 'A provider''s call needs the provider and the provider''s call id',
            hint = 'Send provider and provider_call_id.';
    end if;
    account_id := care.ensure_account(upsert_call.provider, upsert_call.account);
    perform care.lock_patient(upsert_call.patient_id);
    if care.is_erased(account_id, upsert_call.provider_call_id, upsert_call.patient_id) then
        raise exception using
            errcode = 'PT409',
            message = format('Call %s of %s was erased', upsert_call.provider_call_id, upsert_call.provider),
            hint = 'A call that was erased cannot be stored again.';
    end if;
    insert into public.call_logs as known (
        patient_id, source, provider, provider_account, provider_call_id, recording_ref, recording_channel, "timestamp", ended_reason,
        summary
    )
    values (
        upsert_call.patient_id, 'provider', upsert_call.provider, account_id, upsert_call.provider_call_id,
        upsert_call.recording_ref, upsert_call.recording_channel, coalesce(upsert_call.occurred_at, now()), upsert_call.ended_reason,
        left(upsert_call.summary, 10000)
    )
    on conflict (provider_account, provider_call_id) do update
    set recording_ref = case
            when known.check_state is null then coalesce(known.recording_ref, excluded.recording_ref) else known.recording_ref
        end,
        recording_channel = coalesce(known.recording_channel, excluded.recording_channel),
        ended_reason = coalesce(known.ended_reason, excluded.ended_reason),
        summary = coalesce(known.summary, excluded.summary)
    where known.patient_id = excluded.patient_id
    returning * into call;
    if not found then
        raise exception using
            errcode = 'RV006',
            message = format('Call %s of %s belongs to another patient', upsert_call.provider_call_id, upsert_call.provider),
            hint = 'A call cannot be moved to another patient.';
    end if;
    return call.id;
end
$$;
comment on function care.upsert_call is
    'Writes a provider''s call and returns its id. If the call is written again, missing values are added and existing ones stay. Raises PT400, PT409, RV002, RV006, RV008. Security definer: `on conflict` would need SELECT on the URL of the recording, which callers may only write.';
revoke execute on function care.upsert_call from public;

create function care.read_recording(call_log_id uuid)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    call public.call_logs;
begin
    select call_logs.* into call
    from public.call_logs
    where call_logs.id = read_recording.call_log_id and call_logs.patient_id in (select care.patients_of_caller('family'));
    if care.storage_path(call.recording_ref) is null then
        raise exception using
            errcode = 'PT404',
            message = 'No such recording',
            hint = 'Recordings can be played by family, clinicians and primary caregivers, until they are deleted.';
    end if;
    perform care.note_audit('recording_read', 'call_logs ' || call.id, call.patient_id);
    return care.storage_path(call.recording_ref);
end
$$;
comment on function care.read_recording is
    'Returns where a call''s recording is in Storage (bucket/path), for a caregiver who may play it, and notes it in the audit log. Raises PT404. Security definer: callers may not read recording_ref.';
revoke execute on function care.read_recording from public;

create policy caregivers_read_their_patients_calls on public.call_logs
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

-- 21_ended_reasons.sql

-- Ended reasons: what a provider's reasons for the end of a call mean. A voicemail greeting must never be judged as the patient.

create type public.call_disposition as enum (
    'judge',        -- the patient was on the line
    'skip',         -- voicemail, nobody answered, or an error; the recording is not even copied
    'unknown',      -- no row matches the reason: the recording is kept until the operator adds one
    'unmatched',    -- no known patient matches: the report is kept until the patient's id or number is known
    'erased'        -- the call or the person was erased: nothing of the report is kept
);
comment on type public.call_disposition is 'What happens to a reported call.';

create table care.ended_reasons (
    provider text not null default 'vapi'
        constraint an_ended_reason_is_a_providers references care.providers (id),
    pattern text not null,
    disposition public.call_disposition not null
        constraint a_row_decides check (disposition in ('judge', 'skip')),
    reason public.check_reason,
    needs_speech boolean not null default false
        constraint only_what_is_judged_needs_speech check (disposition = 'judge' or not needs_speech),
    constraint ended_reasons_pkey primary key (provider, pattern),
    constraint a_pattern_is_in_lower_case check (pattern = lower(pattern)),
    constraint a_pattern_ends_no_escape check (pattern !~ '(^|[^\\])(\\\\)*\\$'),
    constraint a_skipped_call_has_a_reason check ((disposition = 'skip') = (reason is not null))
);
alter table care.ended_reasons enable row level security;
comment on table care.ended_reasons is
    'What providers'' ended reasons mean. Patterns are those of LIKE, in lower case. Of the patterns that match, those of the call''s own provider decide; if it has none, those of others do. Among them, an exact match wins, then a pattern that skips, then the longest.';
comment on column care.ended_reasons.needs_speech is
    'If true, the call is judged unless the report is a complete transcript in which the patient says nothing. Then it is skipped as nobody_spoke.';
insert into care.ended_reasons (pattern, disposition, reason) values
    ('customer-ended-call', 'judge', null),
    ('customer-ended-call-%', 'judge', null),
    ('assistant-ended-call', 'judge', null),
    ('assistant-ended-call-%', 'judge', null),
    ('assistant-said-end-call-phrase', 'judge', null),
    ('assistant-said-message-with-end-call-enabled', 'judge', null),
    ('assistant-forwarded-call', 'judge', null),
    ('exceeded-max-duration', 'judge', null),
    ('silence-timed-out', 'judge', null), -- a patient who falls silent in the middle of a call is exactly whom to judge
    ('call.in-progress.twilio-completed-call', 'judge', null),
    ('call.in-progress.sip-completed-call', 'judge', null),
    ('vonage-completed', 'judge', null),
    -- The connection broke, or a hook ended the call: the patient had been on the line.
    ('vonage-disconnected', 'judge', null),
    ('call.ending.hook-executed-say', 'judge', null),
    ('call.ending.hook-executed-transfer', 'judge', null),
    ('%voicemail%', 'skip', 'voicemail'),
    ('%answering-machine%', 'skip', 'voicemail'),
    ('%did-not-answer%', 'skip', 'not_answered'),
    ('%no-answer%', 'skip', 'not_answered'),
    ('%busy%', 'skip', 'not_answered'),
    ('%misdialed%', 'skip', 'not_answered'),
    ('customer-did-not-give-microphone-permission', 'skip', 'not_answered'),
    ('manually-canceled', 'skip', 'not_answered'),
    ('vonage-rejected', 'skip', 'not_answered'),
    ('call-deleted', 'skip', 'not_answered'),
    ('scheduled-call-deleted', 'skip', 'not_answered'),
    ('call.ringing.hook-executed-say', 'skip', 'not_answered'),
    ('call.ringing.hook-executed-transfer', 'skip', 'not_answered'),
    ('call.ringing.sip-inbound-caller-hungup-before-call-connect', 'skip', 'not_answered'),
    ('assistant-join-timed-out', 'skip', 'call_failed'),
    ('%error%', 'skip', 'call_failed'),
    ('%failed%', 'skip', 'call_failed'),
    ('%fault%', 'skip', 'call_failed'),
    ('%not-found%', 'skip', 'call_failed'),
    ('%not-valid%', 'skip', 'call_failed'),
    ('assistant-request-%', 'skip', 'call_failed'),
    ('pipeline-%', 'skip', 'call_failed'),
    ('phone-call-provider-%', 'skip', 'call_failed'),
    ('worker-shutdown', 'skip', 'call_failed');
update care.ended_reasons set needs_speech = true where ended_reasons.pattern = 'silence-timed-out';

create function care.ended_reason_rule(provider text, ended_reason text)
returns care.ended_reasons
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select ended_reasons
    from care.ended_reasons
    where lower(ended_reason_rule.ended_reason) like ended_reasons.pattern
    order by
        ended_reasons.provider is not distinct from ended_reason_rule.provider desc,
        ended_reasons.pattern = lower(ended_reason_rule.ended_reason) desc,
        ended_reasons.disposition = 'skip' desc,
        length(ended_reasons.pattern) desc,
        ended_reasons.pattern,
        ended_reasons.provider
    limit 1
$$;
comment on function care.ended_reason_rule is
    'Returns the row that decides about this provider''s calls with that ended reason. Null: no row matches.';
revoke execute on function care.ended_reason_rule from public;

create function care.skip_reason(call public.call_logs)
returns public.check_reason
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when decided.disposition = 'skip' then decided.reason
        when decided.needs_speech and call.speech_intervals = '[]' then 'nobody_spoke'
    end
    from care.ended_reason_rule(call.provider, call.ended_reason) as decided
$$;
comment on function care.skip_reason is
    'Returns why this call is not judged, as far as its ended reason tells. Null: it is judged, or no row matches.';
revoke execute on function care.skip_reason from public;

-- 22_call_reports.sql

-- Call reports: each call that the provider reports becomes one row, however often and in whatever order its reports arrive.

create type public.received_call as (
    call_log_id uuid,
    disposition public.call_disposition,
    is_new boolean
);
comment on type public.received_call is 'What happened to a report. Without call_log_id, it waits until its patient is known.';

create table care.unmatched_calls (
    provider_account text not null
        constraint an_unmatched_call_is_of_an_account references care.provider_accounts (id),
    provider_call_id text not null,
    phone text,
    report jsonb not null,
    received_at timestamptz not null,
    constraint unmatched_calls_pkey primary key (provider_account, provider_call_id)
);
alter table care.unmatched_calls enable row level security;
comment on table care.unmatched_calls is
    'Reports of calls whose patient is not known, as they arrived. Once a patient has that id or phone number, the job match_calls stores the call.';

create function care.reported_patient(patient_id uuid, phone text, account text)
returns uuid
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case when count(*) = 1 then min(patients.id::text)::uuid end
    from public.patients
    where patients.organisation_id = (
            select provider_accounts.organisation_id from care.provider_accounts where provider_accounts.id = reported_patient.account)
        and case
            when reported_patient.patient_id is not null then patients.id = reported_patient.patient_id
            else patients.phone = reported_patient.phone
        end
$$;
comment on function care.reported_patient is
    'Returns the patient of a report, among those of the account''s organisation: by id if the report has one, else by phone number. Null: there is none, or several patients share the number.';
revoke execute on function care.reported_patient from public;

create function care.is_erased(account text, provider_call_id text, patient_id uuid)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
            select from care.deletions
            where deletions.kind = 'provider_call'
                and deletions.reference = is_erased.account || '/' || is_erased.provider_call_id
        )
        or exists (
            select from care.tombstones
            where tombstones.patient_id = is_erased.patient_id and tombstones.scope = 'person'
        );
end
$$;
comment on function care.is_erased is
    'Returns whether this call, or the patient named in its report, was erased. Later reports of such a call are not stored. Called by care.receive_call_report and care.unreported_calls.';
revoke execute on function care.is_erased from public;

create function care.unreported_calls(provider text, provider_call_ids text[], account text default null)
returns setof text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select distinct listed.id
    from care.account_of(unreported_calls.provider, unreported_calls.account) as known (account)
    cross join unnest(unreported_calls.provider_call_ids) as listed (id)
    where not exists (
            select from public.call_logs
            where call_logs.provider_account = known.account and call_logs.provider_call_id = listed.id)
        and not exists (
            select from care.unmatched_calls
            where unmatched_calls.provider_account = known.account and unmatched_calls.provider_call_id = listed.id)
        and not care.is_erased(known.account, listed.id, null)
$$;
comment on function care.unreported_calls is
    'Returns those of the account''s calls that were never reported. Security definer for the same reason as care.receive_call_report.';
revoke execute on function care.unreported_calls from public;

create function care.receive_call_report(
    provider text, provider_call_id text, patient_id uuid default null, phone text default null,
    started_at timestamptz default null, ended_at timestamptz default null, ended_reason text default null,
    summary text default null, recording_url text default null, recording_url_channel text default null,
    recording_url_expires_at timestamptz default null, speech_intervals jsonb default null,
    is_recording_consented boolean default null, at timestamptz default now(), account text default null
)
returns public.received_call
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    account_id constant text := care.account_of(receive_call_report.provider, receive_call_report.account);
    patient public.patients;
    call public.call_logs;
    is_new boolean;
    decided care.ended_reasons;
    -- A time that is years off comes from a wrong clock and is ignored.
    begun_at constant timestamptz := coalesce((
        select told.at
        from unnest(array[receive_call_report.started_at, receive_call_report.ended_at, receive_call_report.at]) with ordinality as told (at, turn)
        where told.at between '2000-01-01' and least(greatest(receive_call_report.at, now()) + interval '1 hour', now() + interval '2 days')
        order by told.turn
        limit 1
    ), now());
    ended_at constant timestamptz :=
        case when receive_call_report.ended_at between begun_at and begun_at + interval '1 day' then receive_call_report.ended_at end;
begin
    if nullif(receive_call_report.provider_call_id, '') is null or account_id is null then
        raise exception using
            errcode = 'PT400',
            message = format('A report needs a call id and a known account, not %L of %L',
                receive_call_report.account, receive_call_report.provider),
            hint = 'Accounts are rows of care.provider_accounts. If the provider has several, name one.';
    end if;

    select patients.* into patient
    from public.patients
    where patients.id = coalesce(
        -- A call that is already stored stays with its patient.
        (select call_logs.patient_id from public.call_logs
            where call_logs.provider_account = account_id
                and call_logs.provider_call_id = receive_call_report.provider_call_id),
        care.reported_patient(receive_call_report.patient_id, receive_call_report.phone, account_id))
    for no key update;
    if care.is_erased(account_id, receive_call_report.provider_call_id, receive_call_report.patient_id) then
        return (
            (select id from public.call_logs
                where call_logs.provider_account = account_id
                    and call_logs.provider_call_id = receive_call_report.provider_call_id),
            'erased', false
        )::public.received_call;
    end if;
    if patient.id is null then
        insert into care.unmatched_calls as unmatched (provider_account, provider_call_id, phone, report, received_at)
        values (
            account_id, receive_call_report.provider_call_id, receive_call_report.phone,
            jsonb_build_object(
                'patient_id', receive_call_report.patient_id, 'started_at', receive_call_report.started_at,
                'ended_at', receive_call_report.ended_at, 'ended_reason', receive_call_report.ended_reason,
                'summary', left(receive_call_report.summary, 10000), 'speech_intervals', receive_call_report.speech_intervals,
                'is_recording_consented', receive_call_report.is_recording_consented),
            receive_call_report.at
        )
        on conflict on constraint unmatched_calls_pkey do nothing;
        is_new := found;
        return (null, 'unmatched', is_new)::public.received_call;
    end if;

    is_new := not exists (
        select from public.call_logs
        where call_logs.provider_account = account_id
            and call_logs.provider_call_id = receive_call_report.provider_call_id
    );
    insert into public.call_logs as known (
        patient_id, "timestamp", source, provider, provider_account, provider_call_id, ended_reason, summary,
        recording_source_url, speech_intervals
    )
    values (
        patient.id, begun_at, 'provider', receive_call_report.provider, account_id, receive_call_report.provider_call_id,
        receive_call_report.ended_reason, left(receive_call_report.summary, 10000), null, receive_call_report.speech_intervals
    )
    on conflict (provider_account, provider_call_id) do update
    set ended_reason = coalesce(known.ended_reason, excluded.ended_reason),
        summary = coalesce(known.summary, excluded.summary),
        speech_intervals = coalesce(known.speech_intervals, excluded.speech_intervals)
    returning * into call;
    delete from care.unmatched_calls
    where unmatched_calls.provider_account = call.provider_account and unmatched_calls.provider_call_id = call.provider_call_id;
    decided := care.ended_reason_rule(call.provider, call.ended_reason);

    if call.recording_ref is null and coalesce(call.check_reason, 'ended_reason_unknown') = 'ended_reason_unknown' then
        update public.call_logs
        set (check_state, check_reason) = (
            select 'skipped'::public.check_state, why.reason
            from (select case
                when care.skip_reason(call) is not null then care.skip_reason(call)
                when not care.has_any_consent(patient.id) or not receive_call_report.is_recording_consented then 'no_consent'
                when decided.disposition is null then 'ended_reason_unknown'
            end::public.check_reason as reason) as why
            where why.reason is not null
        )
        where call_logs.id = call.id
        returning * into call;
        if call.check_reason is null or call.check_reason = 'ended_reason_unknown' then
            update public.call_logs
            set recording_source_url = coalesce(receive_call_report.recording_url, call_logs.recording_source_url)
            where call_logs.id = call.id;
            perform care.queue_recording(
                call, receive_call_report.recording_url_channel, receive_call_report.recording_url_expires_at,
                ended_at, receive_call_report.at);
        end if;
    end if;
    return (call.id, coalesce(decided.disposition, 'unknown'), is_new)::public.received_call;
end
$$;
comment on function care.receive_call_report is
    'Stores the report of a finished call and returns what happened to it; reports may be repeated. If the patient was on the line and has consented, the recording is queued to be copied. Raises PT400. Security definer: the edge function has no privileges on the private schemas.';
revoke execute on function care.receive_call_report from public;

create function care.calls_to_match(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select unmatched_calls.provider_account || '/' || unmatched_calls.provider_call_id
    from care.unmatched_calls
    where care.reported_patient(
        -- A patient_id that is not a UUID is left to the operator; it must not stop other calls.
        case when pg_input_is_valid(unmatched_calls.report ->> 'patient_id', 'uuid')
            then (unmatched_calls.report ->> 'patient_id')::uuid end,
        unmatched_calls.phone, unmatched_calls.provider_account) is not null
    order by unmatched_calls.received_at
    limit calls_to_match.maximum_rows
$$;
comment on function care.calls_to_match is 'Lists reported calls whose patient is now known. Called by care.run_job.';
revoke execute on function care.calls_to_match from public;

create function care.match_call(reference text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    taken care.unmatched_calls;
begin
    select unmatched_calls.* into taken
    from care.unmatched_calls
    where unmatched_calls.provider_account || '/' || unmatched_calls.provider_call_id = match_call.reference
    for update skip locked;
    if not care.try_lock_patient(care.reported_patient((taken.report ->> 'patient_id')::uuid, taken.phone, taken.provider_account)) then
        return false;
    end if;
    delete from care.unmatched_calls
    where unmatched_calls.provider_account = taken.provider_account and unmatched_calls.provider_call_id = taken.provider_call_id;
    perform care.receive_call_report(
        (select provider_accounts.provider from care.provider_accounts where provider_accounts.id = taken.provider_account),
        taken.provider_call_id, (taken.report ->> 'patient_id')::uuid, taken.phone,
        (taken.report ->> 'started_at')::timestamptz, (taken.report ->> 'ended_at')::timestamptz,
        taken.report ->> 'ended_reason', taken.report ->> 'summary', null, null, null,
        nullif(taken.report -> 'speech_intervals', 'null'), (taken.report ->> 'is_recording_consented')::boolean,
        match_call.at, taken.provider_account);
    return true;
end
$$;
comment on function care.match_call is 'Stores a reported call whose patient is now known. Returns whether it did. Called by care.run_job.';
revoke execute on function care.match_call from public;

create function care.calls_to_redecide(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select call_logs.id::text
    from public.call_logs
    where call_logs.check_reason = 'ended_reason_unknown' and (care.ended_reason_rule(call_logs.provider, call_logs.ended_reason)).disposition is not null
    order by call_logs."timestamp"
    limit calls_to_redecide.maximum_rows
$$;
comment on function care.calls_to_redecide is
    'Lists calls with an unknown ended reason for which there is now a row. Called by care.run_job.';
revoke execute on function care.calls_to_redecide from public;

create function care.redecide_call(call_log_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    call public.call_logs;
begin
    select call_logs.* into call from public.call_logs where call_logs.id = redecide_call.call_log_id::uuid;
    if not care.try_lock_patient(call.patient_id) then
        return false;
    end if;
    update public.call_logs
    set check_state = case when care.skip_reason(call) is not null then 'skipped'::public.check_state end,
        check_reason = care.skip_reason(call)
    where call_logs.id = call.id and call_logs.check_reason = 'ended_reason_unknown';
    if not found then
        return false;
    end if;
    perform care.attach_recording(call.id);
    return true;
end
$$;
comment on function care.redecide_call is
    'Judges or skips a call for whose ended reason there is now a row. Returns whether it did. Called by care.run_job.';
revoke execute on function care.redecide_call from public;

-- 23_recordings.sql

-- Recordings: the work list of recordings that must be copied from the provider into Storage before the provider deletes them.

create type public.recording_state as enum (
    'queued',       -- waits to be copied, or for a retry           -> leased, expired
    'leased',       -- being copied                                -> stored, refused, queued again, expired
    'stored',       -- end: in Storage
    'refused',      -- end: the provider's recording cannot be used
    'expired'       -- end: the provider no longer keeps it
);
comment on type public.recording_state is 'The state of copying a provider''s recording.';

create table care.recordings (
    call_log_id uuid constraint recordings_pkey primary key
        constraint a_recording_is_of_a_call references public.call_logs (id) on delete cascade,
    patient_id uuid not null
        constraint a_recording_is_of_a_patient references public.patients (id) on delete cascade,
    state public.recording_state not null default 'queued',
    source_channel text
        constraint a_source_has_one_of_three_kinds check (source_channel in ('customer', 'stereo', 'mixed')),
    source_expires_at timestamptz,
    recording_ref text,
    recording_channel public.recording_channel,
    attempts integer not null default 0,
    run_at timestamptz not null,
    expires_at timestamptz not null,
    worker text,
    lease_token uuid,
    leased_until timestamptz,
    due_at timestamptz
        generated always as (case state when 'queued' then run_at when 'leased' then leased_until end) stored,
    error_code text,
    error_message text,
    finished_at timestamptz,
    constraint a_leased_recording_has_a_lease
        check (state <> 'leased' or (lease_token is not null and leased_until is not null)),
    constraint an_ended_recording_has_its_time check ((state in ('queued', 'leased')) = (finished_at is null)),
    constraint a_stored_recording_is_somewhere check ((state = 'stored') = (recording_ref is not null))
);
create index recordings_by_patient on care.recordings (patient_id);
create index recordings_to_copy on care.recordings (due_at) where due_at is not null;
alter table care.recordings enable row level security;
comment on table care.recordings is 'The state of copying a call''s recording; one row per reported call that is worth judging.';
comment on column care.recordings.source_channel is 'The kind of recording at call_logs.recording_source_url: customer, stereo or mixed.';
comment on column care.recordings.source_expires_at is 'When that URL expires.';
comment on column care.recordings.run_at is 'The recording is not copied before this time.';
comment on column care.recordings.due_at is
    'When the recording can be claimed: run_at while it is queued, leased_until while it is leased. Null: it has ended.';
comment on column care.recordings.expires_at is 'When the provider deletes the recording.';
create index recordings_at_issue on care.recordings (call_log_id)
    where state in ('expired', 'refused') or (state = 'queued' and error_code is not null);

create function care.queue_recording(
    call public.call_logs, source_channel text, source_expires_at timestamptz, ended_at timestamptz, at timestamptz
)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into care.recordings as queued (call_log_id, patient_id, source_channel, source_expires_at, run_at, expires_at)
    select
        call.id, call.patient_id, queue_recording.source_channel, queue_recording.source_expires_at, queue_recording.at,
        -- Copying is attempted for at least a day, whatever times the report has.
        greatest(
            coalesce(queue_recording.ended_at, call."timestamp") + make_interval(secs => 86400 * providers.recording_retention_days),
            queue_recording.at + interval '1 day')
    from care.providers
    where providers.id = call.provider
    on conflict (call_log_id) do update
    -- A repeated report with another URL is worth an immediate retry.
    set source_channel = coalesce(excluded.source_channel, queued.source_channel),
        source_expires_at = case
            when excluded.source_channel is not null then excluded.source_expires_at else queued.source_expires_at
        end,
        run_at = least(queued.run_at, excluded.run_at)
    where queued.finished_at is null
$$;
comment on function care.queue_recording is 'Queues a call''s recording to be copied. Called by care.receive_call_report.';
revoke execute on function care.queue_recording from public;

create function care.end_recording(call_log_id uuid, state public.recording_state, at timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update care.recordings
    set state = end_recording.state,
        finished_at = end_recording.at
    where recordings.call_log_id = end_recording.call_log_id;
    update public.call_logs
    set check_state = 'dead',
        check_reason = case end_recording.state when 'expired' then 'recording_expired' else 'recording_unavailable' end::public.check_reason,
        recording_source_url = null
    where call_logs.id = end_recording.call_log_id and call_logs.recording_ref is null;
end
$$;
comment on function care.end_recording is 'Ends the copying of a recording without success, and ends its call as dead.';
revoke execute on function care.end_recording from public;

create function care.recordings_to_expire(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select recordings.call_log_id::text
    from care.recordings
    where recordings.expires_at <= recordings_to_expire.at
        and (recordings.state = 'queued' or recordings.due_at <= recordings_to_expire.at)
    order by recordings.expires_at
    limit recordings_to_expire.maximum_rows
$$;
comment on function care.recordings_to_expire is
    'Lists calls whose recordings expired at the provider before they were copied. Called by care.run_job.';
revoke execute on function care.recordings_to_expire from public;

create function care.expire_recording(call_log_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    lost care.recordings;
begin
    select recordings.* into lost from care.recordings where recordings.call_log_id = expire_recording.call_log_id::uuid;
    if not care.try_lock_patient(lost.patient_id) then
        return false;
    end if;
    select recordings.* into lost
    from care.recordings
    where recordings.call_log_id = lost.call_log_id
        and recordings.expires_at <= expire_recording.at
        and (recordings.state = 'queued' or recordings.due_at <= expire_recording.at)
    for update skip locked;
    if not found then
        return false;
    end if;
    perform care.end_recording(lost.call_log_id, 'expired', expire_recording.at);
    return true;
end
$$;
comment on function care.expire_recording is
    'Ends a recording that expired at the provider, and its call. Returns whether it did. Called by care.run_job.';
revoke execute on function care.expire_recording from public;

create type public.recording_claim as (
    call_log_id uuid,
    patient_id uuid,
    provider text,
    provider_account text,
    provider_call_id text,
    source_url text,
    source_channel text,
    source_expires_at timestamptz,
    object_path text,
    speech_intervals jsonb,
    attempts integer,
    lease_token uuid
);
comment on type public.recording_claim is 'A recording to copy: its source, and its path in Storage without the extension.';

create function care.claim_recordings(
    worker text, count integer, lease_seconds double precision, call_log_id uuid default null, at timestamptz default now()
)
returns setof public.recording_claim
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        update care.recordings as claimed
        set state = 'leased',
            attempts = claimed.attempts + 1,
            worker = claim_recordings.worker,
            lease_token = gen_random_uuid(),
            leased_until = claim_recordings.at + make_interval(secs => claim_recordings.lease_seconds)
        from (
            select due.call_log_id
            from care.recordings as due
            where due.due_at <= claim_recordings.at
                and due.expires_at > claim_recordings.at
                and (claim_recordings.call_log_id is null or due.call_log_id = claim_recordings.call_log_id)
            order by due.due_at, due.call_log_id
            for update skip locked
            limit claim_recordings.count
        ) as ready
        join public.call_logs on call_logs.id = ready.call_log_id
        where claimed.call_log_id = ready.call_log_id
        returning
            claimed.call_log_id, claimed.patient_id, call_logs.provider, call_logs.provider_account, call_logs.provider_call_id,
            call_logs.recording_source_url, claimed.source_channel, claimed.source_expires_at,
            claimed.patient_id || '/' || claimed.call_log_id, call_logs.speech_intervals, claimed.attempts,
            claimed.lease_token;
end
$$;
comment on function care.claim_recordings is
    'Claims up to count recordings that are due, or the one of this call, and returns them. Security definer: the edge function may not read the URLs itself.';
revoke execute on function care.claim_recordings from public;

create function care.attach_recording(call_log_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    update public.call_logs
    set recording_ref = recordings.recording_ref,
        recording_channel = recordings.recording_channel,
        recording_source_url = null
    from care.recordings
    where recordings.call_log_id = attach_recording.call_log_id
        and call_logs.id = recordings.call_log_id
        and recordings.state = 'stored'
        and call_logs.recording_ref is null
        and (care.ended_reason_rule(call_logs.provider, call_logs.ended_reason)).disposition = 'judge'
        and care.skip_reason(call_logs) is null
$$;
comment on function care.attach_recording is 'Sets a call''s copied recording, which queues its check, if the call is worth judging.';
revoke execute on function care.attach_recording from public;

create function care.store_recording(
    call_log_id uuid, lease_token uuid, recording_ref text, recording_channel text, speech_intervals jsonb default null
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held care.recordings;
begin
    perform care.lock_patient_if_any((
        select recordings.patient_id from care.recordings where recordings.call_log_id = store_recording.call_log_id
    ));
    select recordings.* into held from care.recordings where recordings.call_log_id = store_recording.call_log_id for update;
    if not found then
        perform care.delete_orphan(store_recording.recording_ref); -- the call was erased while its recording was copied
    end if;
    update care.recordings
    set state = 'stored',
        recording_ref = store_recording.recording_ref,
        recording_channel = store_recording.recording_channel::public.recording_channel,
        error_code = null,
        error_message = null,
        finished_at = clock_timestamp()
    where recordings.call_log_id = held.call_log_id
        and recordings.lease_token = store_recording.lease_token
        and recordings.state in ('leased', 'stored');
    if not found then
        return false;
    end if;
    update public.call_logs
    set speech_intervals = coalesce(store_recording.speech_intervals, call_logs.speech_intervals),
        recording_source_url = null
    where call_logs.id = held.call_log_id;
    perform care.attach_recording(held.call_log_id);
    return true;
end
$$;
comment on function care.store_recording is
    'Notes that a recording is in Storage and sets it on its call, which queues the check. Returns false if the lease is lost and another worker copies it. Security definer: the edge function has no privileges on the private schemas.';
revoke execute on function care.store_recording from public;

create function care.fail_recording(
    call_log_id uuid, lease_token uuid, code text, message text, is_permanent boolean, at timestamptz default now()
)
returns public.recording_state
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    failed care.recordings;
begin
    perform care.lock_patient_if_any((
        select recordings.patient_id from care.recordings where recordings.call_log_id = fail_recording.call_log_id
    ));
    update care.recordings
    set state = 'queued',
        error_code = fail_recording.code,
        error_message = left(fail_recording.message, 1000),
        lease_token = null,
        leased_until = null,
        run_at = fail_recording.at + care.retry_wait(recordings.attempts)
    where recordings.call_log_id = fail_recording.call_log_id
        and recordings.lease_token = fail_recording.lease_token
        and recordings.state = 'leased'
    returning * into failed;
    if failed.call_log_id is not null and (fail_recording.is_permanent or failed.expires_at <= fail_recording.at) then
        failed.state := case when fail_recording.is_permanent then 'refused' else 'expired' end;
        perform care.end_recording(failed.call_log_id, failed.state, fail_recording.at);
    end if;
    return coalesce(
        failed.state,
        (select recordings.state from care.recordings where recordings.call_log_id = fail_recording.call_log_id));
end
$$;
comment on function care.fail_recording is
    'Notes why a recording could not be copied, and returns its state. It is retried with exponential backoff until it expires at the provider; a permanent failure is refused at once. Security definer for the same reason as care.store_recording.';
revoke execute on function care.fail_recording from public;

-- 30_signals.sql

-- Signals: the ways to judge a patient, the models that produce their scores, and what a score means. `voice` is one; another signal
-- has a file of its own, a schema for its tables, and rows here.

create table care.signals (
    id text constraint signals_pkey primary key
        constraint a_signal_is_one_word check (id ~ '^[a-z_]+$' and id <> 'person'),
    name text not null,
    schema_name text not null,
    consent_scope text not null
        constraint a_signal_needs_a_consent references care.consent_scopes (id),
    erase_function text not null
        constraint what_a_signal_keeps_is_erased_by_a_function check (erase_function ~ '^[a-z_]+[.][a-z0-9_]+$')
);
create index signals_by_consent on care.signals (consent_scope);
alter table care.signals enable row level security;
insert into care.signals (id, name, schema_name, consent_scope, erase_function) values
    ('voice', 'Voice', 'voice', 'voiceprint', 'voice.erase_traces');
comment on table care.signals is 'The ways to judge a patient. Each needs a consent; exports and erasures find its tables here.';
comment on column care.signals.schema_name is
    'The schema of its tables. Those with a patient_id are exported, and counted before they are erased.';
comment on column care.signals.consent_scope is
    'Without consent to this scope nothing is checked. When it is withdrawn, what the signal made is erased.';
comment on column care.signals.erase_function is
    'Schema-qualified name. The function takes (patient_id), removes what the signal stores about a patient besides checks and judgements, and returns the number of removed rows by name. The caller has called care.lock_patient.';

create table care.models (
    id text constraint models_pkey primary key,
    signal text not null
        constraint a_model_is_of_a_signal references care.signals (id),
    is_active boolean not null default false,
    calls_wait_until timestamptz,
    registered_at timestamptz not null default now(),
    constraint models_by_signal unique (signal, id)
);
create unique index a_signal_has_one_active_model on care.models (signal) where is_active;
alter table care.models enable row level security;
comment on table care.models is
    'What turns a recording into data that can be judged. Scores of different models are never compared. Checks are queued for the active model of a signal.';
comment on column care.models.id is 'Identifies everything on which a score depends. Any change of it makes another model.';
comment on column care.models.calls_wait_until is
    'Until this time no call can be claimed for judging, so that baselines stay unchanged while another model is about to become active. Null or past: calls can be claimed.';

create function care.active_model(signal text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select models.id from care.models where models.signal = active_model.signal and models.is_active
$$;
comment on function care.active_model is 'Returns the model for which checks are queued. Null: the signal has none yet.';
revoke execute on function care.active_model from public;

-- What a score means.

create type public.anomaly_severity as enum ('low', 'medium', 'high', 'critical');
comment on type public.anomaly_severity is 'How far a score is from usual. The thresholds are in care.thresholds.';

create type public.alert_level as enum (
    'warning',      -- listen to the patient soon
    'emergency',    -- attend to the patient now
    'critical'      -- attend to the patient now; every caregiver is told
);
comment on type public.alert_level is 'The urgency of a medium, high and critical score, in rising order.';

create type public.alert_type as enum ('warning', 'emergency');
comment on type public.alert_type is 'A medium score is a warning, a high or critical one an emergency, a low one neither (null).';

create function care.alert_level(severity public.anomaly_severity)
returns public.alert_level
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case alert_level.severity
        when 'medium' then 'warning'::public.alert_level
        when 'high' then 'emergency'
        when 'critical' then 'critical'
    end
$$;
comment on function care.alert_level is 'Returns the alert level of a severity; null for low.';
revoke execute on function care.alert_level from public;
-- A check constraint is evaluated with the privileges of the role that writes the row.
grant execute on function care.alert_level to authenticated, service_role;

create function care.alert_type(level public.alert_level)
returns public.alert_type
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case alert_type.level
        when 'warning' then 'warning'::public.alert_type
        when 'emergency' then 'emergency'
        when 'critical' then 'emergency'
    end
$$;
comment on function care.alert_type is 'Returns the alert type of a level, as logs show it; null for null.';
revoke execute on function care.alert_type from public;
grant execute on function care.alert_type to authenticated, service_role;

create table care.thresholds (
    id bigint generated always as identity constraint thresholds_pkey primary key,
    organisation_id uuid
        constraint thresholds_may_be_an_organisations references public.organisations (id) on delete cascade,
    signal text not null,
    model text not null,
    medium_above double precision not null default 0.25,
    high_above double precision not null default 0.40,
    critical_above double precision not null default 0.70,
    checkin_above double precision not null default 0.40
        constraint a_checkin_threshold_is_a_score check (checkin_above between 0 and 1),
    constraint thresholds_rise
        check (0 <= medium_above and medium_above < high_above and high_above < critical_above and critical_above <= 1),
    constraint thresholds_are_of_a_model
        foreign key (signal, model) references care.models (signal, id) on delete cascade,
    constraint a_model_has_thresholds_once unique nulls not distinct (model, organisation_id)
);
create index thresholds_by_organisation on care.thresholds (organisation_id);
create index thresholds_by_signal on care.thresholds (signal, model);
alter table care.thresholds enable row level security;
comment on table care.thresholds is
    'What a score means. One row per model, since scores of different models are not comparable, and further rows for organisations with thresholds of their own.';
comment on column care.thresholds.organisation_id is
    'The organisation to whose patients they apply. Null: all organisations without a row of their own.';
comment on column care.thresholds.medium_above is 'A score above this has severity medium (a warning).';
comment on column care.thresholds.high_above is 'A score above this has severity high (an emergency).';
comment on column care.thresholds.critical_above is 'A score above this has severity critical.';
comment on column care.thresholds.checkin_above is 'A call with a score above this appears in the day''s check-in.';

create function care.thresholds_for(model text, patient_id uuid default null)
returns care.thresholds
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_thresholds care.thresholds;
begin
    select thresholds.* into found_thresholds
    from care.thresholds
    where thresholds.model = thresholds_for.model
        and (thresholds.organisation_id is null or thresholds.organisation_id = (
            select patients.organisation_id from public.patients where patients.id = thresholds_for.patient_id
        ))
    order by thresholds.organisation_id nulls last
    limit 1;
    if not found then
        raise exception using
            errcode = 'RV004',
            message = format('No encoder or other model %s is registered', thresholds_for.model),
            hint = 'A service registers its model when it starts.';
    end if;
    return found_thresholds;
end
$$;
comment on function care.thresholds_for is
    'Returns the thresholds of a model for this patient: those of the patient''s organisation, or else the general ones; always the general ones if patient_id is null. Raises RV004.';
revoke execute on function care.thresholds_for from public;

create function care.severity(score double precision, thresholds care.thresholds)
returns public.anomaly_severity
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if severity.score = 'NaN' then
        raise exception using errcode = 'RV005', message = 'The score is not a number';
    end if;
    return case
        when severity.score > thresholds.critical_above then 'critical'
        when severity.score > thresholds.high_above then 'high'
        when severity.score > thresholds.medium_above then 'medium'
        when severity.score <= thresholds.medium_above then 'low'
    end;
end
$$;
comment on function care.severity is
    'Returns the severity of a score: low <= medium_above < medium <= high_above < high <= critical_above < critical; null for null. Raises RV005 for NaN.';
revoke execute on function care.severity from public;

create function care.register_model(signal text, model text)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    lock table care.models in share row exclusive mode;
    insert into care.models (id, signal, is_active)
    values (register_model.model, register_model.signal, care.active_model(register_model.signal) is null)
    on conflict (id) do nothing;
    if not found then
        return false;
    end if;
    insert into care.thresholds (signal, model) values (register_model.signal, register_model.model);
    return true;
end
$$;
comment on function care.register_model is
    'Registers a model with the default thresholds; the first one of a signal becomes active. Returns false if it was registered already.';
revoke execute on function care.register_model from public;

-- 31_checks.sql

-- Checks: the work list, and the record of its results. Each call with a recording gets one check per signal and model, and each
-- check ends exactly once. The worker that processes a check has its lease (next file).

create table care.checks (
    id bigint generated always as identity constraint checks_pkey primary key,
    call_log_id uuid not null
        constraint a_check_is_of_a_call references public.call_logs (id) on delete cascade,
    patient_id uuid not null
        constraint a_check_is_of_a_patient references public.patients (id) on delete cascade,
    signal text not null,
    model text not null,
    is_backfill boolean not null default false,
    state public.check_state not null default 'queued',
    reason public.check_reason,
    attempts integer not null default 0,
    lost_leases integer not null default 0,
    run_at timestamptz not null default now(),
    worker text,
    lease_token uuid,
    leased_until timestamptz,
    duplicate_of uuid
        constraint a_check_keeps_the_call_that_it_repeats references public.call_logs (id) on delete set null,
    quality jsonb not null default '{}',
    detail jsonb not null default '{}',
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    constraint a_check_is_for_a_model foreign key (signal, model) references care.models (signal, id),
    constraint a_leased_check_has_a_lease
        check (state <> 'leased' or (lease_token is not null and leased_until is not null)),
    constraint an_end_has_its_time check ((state in ('queued', 'leased')) = (finished_at is null)),
    constraint an_end_without_a_score_has_a_reason
        check ((state in ('held', 'not_assessable', 'skipped', 'dead')) = (reason is not null))
);
create unique index a_call_has_one_live_check_per_model
    on care.checks (call_log_id, model, is_backfill) where state in ('queued', 'leased');
create index checks_by_call on care.checks (call_log_id, model, id desc);
create index checks_by_patient on care.checks (patient_id);
create index live_checks_by_patient on care.checks (patient_id, model, is_backfill, run_at, id)
    where state in ('queued', 'leased');
create index checks_by_model on care.checks (signal, model);
create index checks_by_repeated_call on care.checks (duplicate_of) where duplicate_of is not null;
create index checks_to_claim on care.checks (model, is_backfill, run_at, id) where state = 'queued';
create index checks_by_lease on care.checks (model, is_backfill, run_at, id)
    where state = 'leased' or (state = 'queued' and lost_leases > 0);
alter table care.checks set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
alter table care.checks enable row level security;
comment on table care.checks is 'The checks of all signals: which wait, which worker has leased them, and how they ended.';
comment on column care.checks.is_backfill is
    'A backfill only stores: it judges nothing, raises no alert and does not change the call. It can be claimed only when no call waits to be judged.';
comment on column care.checks.attempts is 'Counted when the check is leased, so that crashes count.';
comment on column care.checks.lost_leases is 'How many leases were lost. Such a check is claimed alone.';
comment on column care.checks.run_at is 'The check is not run before this time.';
comment on column care.checks.lease_token is
    'Keeps workers with an earlier lease from writing. It is kept after the end, so that a repeated completion is recognised.';
comment on column care.checks.duplicate_of is 'The call whose recording has the same bytes. It was judged; this one is not.';
comment on column care.checks.quality is 'Measures of the recording''s quality, whether it was judged or not. Caregivers may read them.';
comment on column care.checks.detail is 'Further results that the signal stores: for voice, added_to_baseline and snr_db.';
grant select (
    call_log_id, patient_id, signal, model, state, reason, attempts, run_at, created_at, finished_at, id, lost_leases, leased_until,
    is_backfill
) on care.checks to service_role;
grant select (
    call_log_id, patient_id, signal, model, state, reason, attempts, run_at, created_at, finished_at, is_backfill
) on care.checks to authenticated;
grant select (id, quality, detail) on care.checks to authenticated, service_role;
create index dead_checks on care.checks (id) where state = 'dead';

create table care.check_errors (
    id bigint generated always as identity constraint check_errors_pkey primary key,
    check_id bigint not null
        constraint a_failed_check_has_its_errors references care.checks (id) on delete cascade,
    attempt integer not null,
    code text not null,
    message text not null,
    occurred_at timestamptz not null default now()
);
create index check_errors_by_check on care.check_errors (check_id);
alter table care.check_errors enable row level security;
comment on table care.check_errors is 'Every failure of every check. The service redacts the messages before it writes them.';
create index check_errors_by_age on care.check_errors (occurred_at);

create function care.has_consent(patient_id uuid, signal text)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select
        from care.signals
        join public.consents on consents.scope = signals.consent_scope
        where signals.id = has_consent.signal
            and consents.patient_id = has_consent.patient_id
            and consents.withdrawn_at is null
    )
$$;
comment on function care.has_consent is 'Returns whether the patient has given the consent that this signal needs.';
revoke execute on function care.has_consent from public;

create function care.has_any_consent(patient_id uuid)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from public.consents
        where consents.patient_id = has_any_consent.patient_id
            and consents.withdrawn_at is null
            and consents.scope in (select signals.consent_scope from care.signals)
    )
$$;
comment on function care.has_any_consent is
    'Returns whether the patient has consented to any signal. If so, recordings are copied and kept.';
revoke execute on function care.has_any_consent from public;

create function care.request_check(call public.call_logs, signal text, model text)
returns care.checks
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    -- This applies to every recording, however it was received: a voicemail greeting is not the patient.
    why_not constant public.check_reason :=
        case when care.has_consent(call.patient_id, request_check.signal) then care.skip_reason(call) else 'no_consent' end;
    is_archived boolean := call.source = 'archive';
    requested care.checks;
begin
    insert into care.checks (call_log_id, patient_id, signal, model, is_backfill, run_at, state, reason, finished_at)
    values (
        call.id, call.patient_id, request_check.signal, request_check.model, is_archived,
        case when is_archived then least(now(), call."timestamp") else now() end, -- archived calls in the order of their times
        case when why_not is null then 'queued' else 'skipped' end::public.check_state,
        why_not,
        case when why_not is not null then now() end
    )
    returning * into requested;
    return requested;
end
$$;
comment on function care.request_check is
    'Queues a check, or a backfill for an archived call. Without consent, or if the patient was not on the line, it adds a skipped check with the reason. Returns the check. Called by the trigger of a signal and by care.open_check.';
revoke execute on function care.request_check from public;

create function care.on_check_state()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.call_logs
    set check_state = new.state,
        check_reason = new.reason
    where call_logs.id = new.call_log_id
        and not exists (
            select from care.checks
            where checks.call_log_id = new.call_log_id
                and checks.signal = new.signal
                and checks.id > new.id
                and not checks.is_backfill
        );
    return null;
end
$$;
comment on function care.on_check_state is
    'Trigger: copies the state of a check to its call. A lease is not copied: it would double the writes to calls, for little information.';
revoke execute on function care.on_check_state from public;

create function care.check_list(states public.check_state[], patient_id uuid, maximum_rows integer)
returns table (
    id bigint,
    call_log_id uuid,
    patient_id uuid,
    signal text,
    model text,
    is_backfill boolean,
    state public.check_state,
    reason public.check_reason,
    attempts integer,
    run_at timestamptz,
    leased_until timestamptz,
    worker text,
    created_at timestamptz,
    finished_at timestamptz,
    error_code text,
    error_message text
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        checks.id,
        checks.call_log_id,
        checks.patient_id,
        checks.signal,
        checks.model,
        checks.is_backfill,
        checks.state,
        checks.reason,
        checks.attempts,
        checks.run_at,
        checks.leased_until,
        checks.worker,
        checks.created_at,
        checks.finished_at,
        last_error.code,
        last_error.message
    from care.checks
    left join lateral (
        select check_errors.code, check_errors.message
        from care.check_errors
        where check_errors.check_id = checks.id
        order by check_errors.id desc
        limit 1
    ) as last_error on true
    where (check_list.states is null or checks.state = any (check_list.states))
        and (check_list.patient_id is null or checks.patient_id = check_list.patient_id)
    order by checks.id desc
    limit check_list.maximum_rows
$$;
comment on function care.check_list is
    'Returns the checks with these states and of this patient (null: all), newest first, each with its last error. Called by `retrocare checks`.';
revoke execute on function care.check_list from public;
grant execute on function care.check_list to retrocare_service;

create function care.requeue_checks(check_ids bigint[], reasons public.check_reason[])
returns setof bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted bigint[] := array(
        select dead.id
        from care.checks as dead
        where dead.state = 'dead'
            and (requeue_checks.check_ids is null or dead.id = any (requeue_checks.check_ids))
            and (requeue_checks.reasons is null or dead.reason = any (requeue_checks.reasons))
    );
begin
    -- Patients are always locked in the same order, so that two callers cannot deadlock.
    perform from public.patients
    where patients.id in (select checks.patient_id from care.checks where checks.id = any (wanted))
    order by patients.id
    for no key update;
    return query
        update care.checks
        set state = 'queued',
            reason = null,
            attempts = 0,
            lost_leases = 0,
            run_at = clock_timestamp(),
            lease_token = null,
            leased_until = null,
            worker = null,
            finished_at = null
        from (
            select dead.id
            from care.checks as dead
            join public.call_logs on call_logs.id = dead.call_log_id
            where dead.id = any (wanted)
                and dead.state = 'dead'
                and call_logs.recording_ref is not null
                and not exists (
                    select from care.checks as newer
                    where newer.call_log_id = dead.call_log_id
                        and newer.signal = dead.signal
                        and newer.id > dead.id
                        and newer.is_backfill = dead.is_backfill
                        and (not dead.is_backfill or newer.model = dead.model)
                )
            for no key update of dead, call_logs skip locked
        ) as kept
        where checks.id = kept.id
        returning checks.id;
end
$$;
comment on function care.requeue_checks is
    'Queues dead checks again with all their attempts, and returns their ids: those with these ids (null: all) and these reasons (null: any). Checks whose upload is gone, or for which there is a newer check, stay dead. Errors are kept. Called by `retrocare checks --requeue`.';
revoke execute on function care.requeue_checks from public;
grant execute on function care.requeue_checks to retrocare_service;

create view public.check_status
with (security_invoker = true)
as
select
    checks.call_log_id,
    checks.patient_id,
    checks.signal,
    checks.model,
    checks.state,
    checks.reason,
    checks.attempts,
    checks.run_at,
    checks.created_at,
    checks.finished_at
from care.checks
where not checks.is_backfill;
comment on view public.check_status is
    'For caregivers and operators: the state of each call''s checks, one row per check of any signal, without backfills.';
comment on column public.check_status.run_at is 'A queued check is not run before this time.';
comment on column public.check_status.attempts is 'How often the check was leased.';
revoke all on public.check_status from anon, authenticated, service_role;
grant select on public.check_status to authenticated, service_role;

create view public.pipeline_health
with (security_invoker = true)
as
select
    checks.signal,
    checks.model,
    checks.is_backfill,
    checks.state,
    checks.reason,
    count(*) as check_count,
    min(checks.created_at) filter (where checks.state in ('queued', 'leased')) as oldest_waiting_since,
    count(*) filter (where checks.state = 'queued' and checks.run_at <= now()) as due_count,
    count(*) filter (where checks.state = 'leased' and checks.leased_until < now()) as lost_lease_count,
    max(checks.finished_at) as last_finished_at
from care.checks
group by checks.signal, checks.model, checks.is_backfill, checks.state, checks.reason;
comment on view public.pipeline_health is
    'For operators (service_role): how many checks are in each state and for which reason, since when the oldest has waited, and how many leases were lost.';
comment on column public.pipeline_health.is_backfill is 'Backfills delay no call: they run only when nothing else waits.';
comment on column public.pipeline_health.due_count is 'Queued checks that are due now, not waiting for a retry.';
comment on column public.pipeline_health.lost_lease_count is 'Leased checks whose lease has expired; the next claim takes them.';
revoke all on public.pipeline_health from anon, authenticated, service_role;
grant select on public.pipeline_health to service_role;

create function care.pipeline_health()
returns setof public.pipeline_health
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select * from public.pipeline_health
$$;
comment on function care.pipeline_health is
    'Returns public.pipeline_health. Security definer: the service may not read the table. Called by GET /metrics.';
revoke execute on function care.pipeline_health from public;
grant execute on function care.pipeline_health to retrocare_service;

create policy caregivers_read_their_patients_checks on care.checks
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

-- 32_leases.sql

-- Leases: how a worker claims a check, and how the check is freed if the worker crashes, stops, or its model is no longer active. No
-- transaction stays open while a recording is processed.

create function care.lease(check_id bigint, worker text, lease_seconds double precision)
returns care.checks
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    leased care.checks;
begin
    update care.checks
    set state = 'leased',
        attempts = checks.attempts + 1,
        lost_leases = checks.lost_leases + (checks.state = 'leased')::integer,
        worker = lease.worker,
        lease_token = gen_random_uuid(),
        leased_until = clock_timestamp() + make_interval(secs => lease.lease_seconds)
    where checks.id = lease.check_id
    returning * into leased;
    return leased;
end
$$;
comment on function care.lease is 'Leases a locked check to a worker, counts the attempt, and returns the check.';
revoke execute on function care.lease from public;

create function care.open_check(call_log_id uuid, signal text, model text, worker text, lease_seconds double precision)
returns care.checks
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    call public.call_logs;
    latest care.checks;
    active text;
begin
    lock table care.models in row exclusive mode; -- locked first, so that the active model cannot change meanwhile
    active := care.active_model(open_check.signal);
    select call_logs.* into call from public.call_logs where call_logs.id = open_check.call_log_id;
    if call.patient_id is null then
        raise exception using
            errcode = 'RV003',
            message = format('No call %s', open_check.call_log_id),
            hint = 'Calls are rows of public.call_logs, each with a patient.';
    end if;
    perform care.lock_patient(call.patient_id);
    select call_logs.* into call from public.call_logs where call_logs.id = call.id for no key update;

    select checks.* into latest
    from care.checks
    where checks.call_log_id = call.id
        and checks.is_backfill = (call.source = 'archive')
        and checks.signal = open_check.signal
        -- A call that an earlier model has judged is not judged again by the active one.
        and (checks.model = open_check.model or open_check.model = active)
    order by checks.id desc
    limit 1
    for update;
    if latest.id is null or latest.state = 'dead' or latest.reason = 'no_consent'
        -- The call that it duplicated was deleted, and the result with it.
        or (latest.reason = 'duplicate_recording' and latest.duplicate_of is null)
    then
        latest := care.request_check(call, open_check.signal, open_check.model);
    end if;
    if latest.state = 'queued' or (latest.state = 'leased' and latest.leased_until < clock_timestamp()) then
        update care.checks set model = open_check.model where checks.id = latest.id and checks.model <> open_check.model;
        return care.lease(latest.id, open_check.worker, open_check.lease_seconds);
    end if;
    latest.lease_token := null;
    return latest;
end
$$;
comment on function care.open_check is
    'Returns the call''s check by this model, leased to this worker at once. A check that is still queued for a previously active model is taken over. If lease_token is null, the check has ended, or another worker has leased it. A new check replaces a dead one and one that lacked consent. Raises RV003.';
revoke execute on function care.open_check from public;

create function care.expire_leases(model text)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    update care.checks
    set state = 'dead',
        reason = case when lost.recording_ref is null then 'upload_lost' else 'attempts_exhausted' end::public.check_reason,
        finished_at = clock_timestamp()
    from (
        select expired.id, call_logs.recording_ref
        from care.checks as expired
        join public.call_logs on call_logs.id = expired.call_log_id
        where expired.model = expire_leases.model
            and expired.state = 'leased'
            and expired.leased_until < clock_timestamp()
            and (call_logs.recording_ref is null
                or expired.attempts >= (select settings.maximum_attempts from care.settings))
        -- Lock the call too: the state is copied to it, and care.open_check locks the call before its check.
        for no key update of expired, call_logs skip locked
    ) as lost
    where checks.id = lost.id
$$;
comment on function care.expire_leases is
    'Ends checks whose lease has expired and that cannot be retried, because the upload is gone or all attempts are used up.';
revoke execute on function care.expire_leases from public;

create function care.claim_checks(model text, worker text, count integer, lease_seconds double precision)
returns setof care.checks
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    of_backfill boolean;
    suspect_id bigint;
begin
    perform care.expire_leases(claim_checks.model);

    -- Calls that wait to be judged come first, for the active model only; backfills follow.
    foreach of_backfill in array
        case when exists (
            select from care.models
            where models.id = claim_checks.model
                and models.is_active
                and (models.calls_wait_until > clock_timestamp()) is not true
        ) then array[false, true] else array[true] end
    loop
        -- The lease of this check was lost, so it may have crashed its worker. It is claimed alone.
        select suspect.id into suspect_id
        from care.checks as suspect
        where suspect.model = claim_checks.model
            and suspect.is_backfill = of_backfill
            and (suspect.state = 'leased' or (suspect.state = 'queued' and suspect.lost_leases > 0))
            and case suspect.state when 'leased' then suspect.leased_until else suspect.run_at end < clock_timestamp()
            and exists (
                select from public.call_logs where call_logs.id = suspect.call_log_id and call_logs.recording_ref is not null
            )
        order by suspect.run_at, suspect.id
        for update skip locked
        limit 1;
        if found then
            return next care.lease(suspect_id, claim_checks.worker, claim_checks.lease_seconds);
            return;
        end if;

        -- Oldest first, but one check at a time per patient: a patient with many calls does not delay others, and calls stay in
        -- order.
        return query
            select claimed.*
            from (
                select waiting.id
                from care.checks as waiting
                where waiting.model = claim_checks.model
                    and waiting.is_backfill = of_backfill
                    and waiting.state = 'queued'
                    and waiting.run_at <= clock_timestamp()
                    and waiting.lost_leases = 0
                    -- With `not exists`, the planner would join the whole list with itself only to find the first row.
                    and (
                        select sooner.id
                        from care.checks as sooner
                        where sooner.patient_id = waiting.patient_id
                            and sooner.model = waiting.model
                            and sooner.is_backfill = waiting.is_backfill
                            and (sooner.state = 'leased'
                                or (sooner.state = 'queued'
                                    and (sooner.run_at, sooner.id) < (waiting.run_at, waiting.id)))
                        limit 1
                    ) is null
                order by waiting.run_at, waiting.id
                for update skip locked
                limit claim_checks.count
            ) as ready
            cross join lateral care.lease(ready.id, claim_checks.worker, claim_checks.lease_seconds) as claimed;
        if found then
            return;
        end if;
    end loop;
end
$$;
comment on function care.claim_checks is
    'Claims up to count checks that are due and returns them: checks of calls that wait to be judged, which only the active model gets, or else backfills. Called by the claim function of each signal.';
revoke execute on function care.claim_checks from public;

create function care.renew_lease(check_id bigint, lease_token uuid, lease_seconds double precision)
returns boolean
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update care.checks
    set leased_until = clock_timestamp() + make_interval(secs => renew_lease.lease_seconds)
    where checks.id = renew_lease.check_id
        and checks.lease_token = renew_lease.lease_token
        and checks.state = 'leased'
    returning true
$$;
comment on function care.renew_lease is 'Renews the lease of a check. Returns true; null: the lease is lost.';
revoke execute on function care.renew_lease from public;
grant execute on function care.renew_lease to retrocare_service;

create function care.release_check(check_id bigint, lease_token uuid)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The state is copied to the call, so the patient is locked first.
    perform care.lock_patient_if_any((select checks.patient_id from care.checks where checks.id = release_check.check_id));
    update care.checks
    set state = 'queued',
        attempts = checks.attempts - 1,
        lease_token = null,
        leased_until = null,
        worker = null
    where checks.id = release_check.check_id
        and checks.lease_token = release_check.lease_token
        and checks.state = 'leased'
        and exists (
            select from public.call_logs where call_logs.id = checks.call_log_id and call_logs.recording_ref is not null
        );
    return nullif(found, false);
end
$$;
comment on function care.release_check is
    'Releases a check that was not processed, as if it had never been claimed. Returns true; null: the lease is lost, or the recording is an upload that only this worker has. Called by a worker that stops.';
revoke execute on function care.release_check from public;
grant execute on function care.release_check to retrocare_service;

create function care.is_stranded("check" care.checks, at timestamptz)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select not "check".is_backfill
        and ("check".state = 'queued' or ("check".state = 'leased' and "check".leased_until < is_stranded.at))
        and not exists (
            select from care.checks as twin
            where twin.call_log_id = "check".call_log_id
                and twin.model = care.active_model("check".signal)
                and not twin.is_backfill
                and twin.state in ('queued', 'leased')
        )
$$;
comment on function care.is_stranded is
    'Returns whether a check is due for a model that is not active, so that it may never be claimed. Callers pass only checks of such models.';
revoke execute on function care.is_stranded from public;

create function care.checks_to_reassign(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select stranded.id::text
    from care.checks as stranded
    where stranded.model = any (array(select models.id from care.models where not models.is_active))
        and stranded.state in ('queued', 'leased')
        and care.is_stranded(stranded, checks_to_reassign.at)
    order by stranded.id
    limit checks_to_reassign.maximum_rows
$$;
comment on function care.checks_to_reassign is
    'Lists checks of calls that wait to be judged by a model that is not active. Called by voice.activate_encoder, and by care.run_job for checks that became due later: after an expired lease or a failed attempt.';
revoke execute on function care.checks_to_reassign from public;

create function care.reassign_checks(check_ids bigint[], at timestamptz)
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    reassigned integer;
begin
    perform care.expire_leases(models.id) from care.models where not models.is_active;
    update care.checks
    set model = care.active_model(checks.signal),
        state = 'queued',
        lost_leases = checks.lost_leases + (checks.state = 'leased')::integer,
        lease_token = null,
        leased_until = null,
        worker = null
    from (
        select stranded.id
        from care.checks as stranded
        where stranded.id = any (reassign_checks.check_ids) and care.is_stranded(stranded, reassign_checks.at)
        for no key update of stranded skip locked
    ) as found
    where checks.id = found.id;
    get diagnostics reassigned = row_count;
    return reassigned;
end
$$;
comment on function care.reassign_checks is
    'Reassigns these checks to the active model and returns how many. Called by voice.activate_encoder and care.reassign_check.';
revoke execute on function care.reassign_checks from public;

create function care.reassign_check(check_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return care.try_lock_patient((select checks.patient_id from care.checks where checks.id = reassign_check.check_id::bigint))
        and care.reassign_checks(array[reassign_check.check_id::bigint], reassign_check.at) > 0;
end
$$;
comment on function care.reassign_check is
    'Reassigns one of care.checks_to_reassign to the active model. Returns whether it did. Called by care.run_job.';
revoke execute on function care.reassign_check from public;

-- 33_check_ends.sql

-- Ends of checks: a check is completed by its signal, abstained from, or failed. Each end is one transaction, guarded by the lease
-- token. A worker that lost the lease changes nothing; a repeated call gets the same answer.

create function care.leased_check(check_id bigint, lease_token uuid)
returns care.checks
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    held care.checks;
begin
    select checks.* into held from care.checks where checks.id = leased_check.check_id;
    if not found then
        raise exception using errcode = 'RV003', message = format('No check %s', leased_check.check_id);
    end if;
    perform care.lock_patient(held.patient_id);
    select checks.* into held from care.checks where checks.id = leased_check.check_id for update;
    if held.lease_token is distinct from leased_check.lease_token or held.state = 'queued' then
        raise exception using
            errcode = 'RV001',
            message = format('The lease of check %s is lost', leased_check.check_id),
            hint = 'The lease expired, and another worker may have the check. Stop working on it.';
    end if;
    return held;
end
$$;
comment on function care.leased_check is
    'Locks the patient and the check, verifies the lease token, and returns the check, which is leased or has already ended. Raises RV001 if the lease is lost, RV003 if there is no such check.';
revoke execute on function care.leased_check from public;

create function care.finish_check(
    check_id bigint, state public.check_state, reason public.check_reason, quality jsonb default null, detail jsonb default null
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    ended care.checks;
begin
    update care.checks
    set state = finish_check.state,
        reason = finish_check.reason,
        quality = coalesce(finish_check.quality, '{}'),
        detail = coalesce(finish_check.detail, '{}'),
        finished_at = clock_timestamp()
    where checks.id = finish_check.check_id and checks.state = 'leased'
    returning * into ended;
    if not found then
        -- For example, consent was withdrawn meanwhile. The error rolls back what this transaction wrote.
        raise exception using
            errcode = 'RV001',
            message = format('Check %s has already ended', finish_check.check_id),
            hint = 'Call care.leased_check first, to see whether the check is still leased.';
    end if;

    if finish_check.state <> 'dead' then
        update public.call_logs
        set recording_source_url = null,
            recording_ref = case when recording_ref not like '%?%' then recording_ref end
        where id = ended.call_log_id
            and (recording_source_url is not null or recording_ref like '%?%')
            and not exists (
                select from care.checks as waiting
                where waiting.call_log_id = ended.call_log_id and waiting.state in ('queued', 'leased')
            );
    end if;
end
$$;
comment on function care.finish_check is
    'Writes the end of a check. Signed URLs grant access, so they are removed once no check needs them; a dead check keeps its URL for a retry. The caller has called care.leased_check. Raises RV001 if the check has already ended.';
revoke execute on function care.finish_check from public;

create function care.abstain_check(check_id bigint, lease_token uuid, reason public.check_reason, quality jsonb)
returns public.check_state
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held care.checks := care.leased_check(abstain_check.check_id, abstain_check.lease_token);
begin
    if held.state <> 'leased' then
        return held.state;
    end if;
    if not care.has_consent(held.patient_id, held.signal) then
        perform care.finish_check(held.id, 'skipped', 'no_consent');
        return 'skipped';
    end if;
    perform care.finish_check(
        held.id, 'not_assessable', abstain_check.reason, abstain_check.quality,
        case when abstain_check.quality ? 'snr_db' then jsonb_build_object('snr_db', abstain_check.quality -> 'snr_db') end);
    return 'not_assessable';
end
$$;
comment on function care.abstain_check is
    'Ends a check whose recording cannot be judged, with the reason and without a score. Returns the state. Raises RV001, RV003. Called by the service.';
revoke execute on function care.abstain_check from public;
grant execute on function care.abstain_check to retrocare_service;

create function care.fail_check(check_id bigint, lease_token uuid, code text, message text, is_permanent boolean)
returns public.check_state
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held care.checks := care.leased_check(fail_check.check_id, fail_check.lease_token);
    setting care.settings := (select settings from care.settings);
    has_recording boolean := (select recording_ref is not null from public.call_logs where id = held.call_log_id);
begin
    if held.state <> 'leased' then
        return held.state;
    end if;
    insert into care.check_errors (check_id, attempt, code, message)
    values (held.id, held.attempts, fail_check.code, left(fail_check.message, 1000));

    if fail_check.is_permanent or not has_recording or held.attempts >= setting.maximum_attempts then
        perform care.finish_check(
            held.id, 'dead',
            case when not has_recording then 'upload_lost'
                when not fail_check.is_permanent then 'attempts_exhausted'
                when starts_with(fail_check.code, 'recording_') then 'recording_unavailable'
                else 'processing_failed' end::public.check_reason);
        return 'dead';
    end if;
    update care.checks
    set state = 'queued',
        lease_token = null,
        leased_until = null,
        run_at = clock_timestamp() + care.retry_wait(held.attempts)
    where checks.id = held.id;
    return 'queued';
end
$$;
comment on function care.fail_check is
    'Notes a failed attempt and returns the state of the check. It is retried with exponential backoff, or dead if the failure is permanent, the upload is gone, or all attempts are used up. Writes no score. Raises RV001, RV003. Called by the service.';
revoke execute on function care.fail_check from public;
grant execute on function care.fail_check to retrocare_service;

-- 34_judgements.sql

-- Judgements: one row per judged signal of a call. care.record_judgement alone turns a score into a check-in, an alert and messages.
-- The alert is raised by care.raise_alert, in a later file.

alter table public.daily_checkins
    add column if not exists patient_id uuid not null
        constraint a_checkin_is_a_patients references public.patients (id) on delete cascade,
    add column if not exists date date,
    add column if not exists anomaly_score double precision,
    add column if not exists severity public.anomaly_severity,
    add column if not exists created_at timestamptz not null default now();
create unique index if not exists a_patient_has_one_checkin_a_day on public.daily_checkins (patient_id, date);
comment on table public.daily_checkins is
    'The patient''s days. A call with a score above the checkin_above of its thresholds leaves its score here.';
comment on column public.daily_checkins.date is 'The date in the patient''s time zone.';
comment on column public.daily_checkins.anomaly_score is 'The highest score of the day.';
grant select, insert, update, delete on public.daily_checkins to service_role;

-- Policies change a few times a year, while there are millions of scores. Each set of values is therefore stored once, and judgements
-- refer to it.
create table public.scoring_policies (
    id integer generated always as identity constraint scoring_policies_pkey primary key,
    policy jsonb not null constraint a_policy_is_kept_once unique,
    first_used_at timestamptz not null default now()
);
alter table public.scoring_policies enable row level security;
revoke all on public.scoring_policies from anon, authenticated, service_role;
comment on table public.scoring_policies is
    'Thresholds and weights with which calls were judged. A row never changes and serves all judgements made with these values.';
comment on column public.scoring_policies.policy is
    'All values by name: those of care.thresholds, and those of the signal, for voice those of voice.policies.';
grant select on public.scoring_policies to authenticated, service_role;

create function care.keep_scoring_policy(policy jsonb)
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    kept_id integer;
begin
    loop
        select scoring_policies.id into kept_id
        from public.scoring_policies
        where scoring_policies.policy = keep_scoring_policy.policy;
        exit when found;
        -- Another transaction may insert the same values at this moment. The next iteration then finds its row.
        insert into public.scoring_policies (policy)
        values (keep_scoring_policy.policy)
        on conflict do nothing;
    end loop;
    return kept_id;
end
$$;
comment on function care.keep_scoring_policy is
    'Returns the id of the row with these values, which is added if it is new. Called by care.record_judgement.';
revoke execute on function care.keep_scoring_policy from public;

create table public.judgements (
    id uuid constraint judgements_pkey primary key default care.uuid_v7(),
    signal text not null,
    model text not null,
    patient_id uuid not null
        constraint a_judgement_is_of_a_patient references public.patients (id) on delete cascade,
    call_log_id uuid not null
        constraint a_judgement_is_of_a_call references public.call_logs (id) on delete cascade,
    occurred_at timestamptz not null,
    score double precision not null
        constraint a_score_is_a_share check (score between 0 and 1),
    severity public.anomaly_severity not null,
    alert_type public.alert_type
        constraint an_alert_type_follows_from_the_severity check (
            alert_type is not distinct from care.alert_type(care.alert_level(severity))),
    rule text not null,
    explanation text,
    reasons text[] not null default '{}',
    is_urgent boolean not null default false,
    likely_patient_id uuid
        constraint another_patient_may_have_spoken references public.patients (id) on delete set null,
    policy_id integer not null
        constraint a_judgement_keeps_its_policy references public.scoring_policies (id),
    alert_sent boolean not null default false,
    created_at timestamptz not null default now(),
    constraint a_call_is_judged_once_by_each_model unique (call_log_id, model),
    constraint a_judgement_is_by_a_model foreign key (signal, model) references care.models (signal, id)
);
create index judgements_by_patient on public.judgements (patient_id, occurred_at desc);
create index judgements_by_model on public.judgements (signal, model);
create index judgements_by_policy on public.judgements (policy_id);
create index judgements_by_likely_patient on public.judgements (likely_patient_id) where likely_patient_id is not null;
alter table public.judgements set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
alter table public.judgements enable row level security;
revoke all on public.judgements from anon, authenticated, service_role;
comment on table public.judgements is
    'One row per judged signal of a call, written only by care.record_judgement. What the signal measured is stored under the same id; for voice, in voice_anomaly_logs. A call that was not judged has no row.';
comment on column public.judgements.signal is 'The signal that was judged: a row of care.signals, such as voice.';
comment on column public.judgements.model is 'The model that produced the score. Scores of different models are not comparable.';
comment on column public.judgements.occurred_at is 'When the call began.';
comment on column public.judgements.score is '0 = as usual, 1 = completely different, after all adjustments.';
comment on column public.judgements.rule is 'The signal''s rule that produced the score, such as fixed.';
comment on column public.judgements.explanation is 'The reasons for the score, in words. Null: the score says it all.';
comment on column public.judgements.reasons is
    'What was unusual, strongest first: rows of care.reason_texts, which have the words. Empty: nothing is known.';
comment on column public.judgements.is_urgent is
    'Whether a second such call would make it an emergency. Caregivers are told at once, whatever the quiet hours, and a second call is wanted.';
comment on column public.judgements.likely_patient_id is
    'Who spoke instead, if it sounded like another patient of the household. Null: not known.';
comment on column public.judgements.policy_id is 'The thresholds and weights at that time: scoring_policies.policy.';
comment on column public.judgements.alert_sent is 'Whether a provider has accepted a message about it.';
grant select on public.judgements to authenticated, service_role;

create function care.note_checkin(patient public.patients, at timestamptz, score double precision, severity public.anomaly_severity)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into public.daily_checkins as checkin (patient_id, date, anomaly_score, severity)
    values (patient.id, care.local_date(note_checkin.at, patient.timezone), note_checkin.score, note_checkin.severity)
    on conflict (patient_id, date) do update
    set anomaly_score = excluded.anomaly_score,
        severity = excluded.severity
    where checkin.anomaly_score is null or checkin.anomaly_score < excluded.anomaly_score
$$;
comment on function care.note_checkin is
    'Keeps the highest score of the patient''s local day in its check-in. Called by care.record_judgement.';
revoke execute on function care.note_checkin from public;

create function care.record_judgement(
    call public.call_logs, thresholds care.thresholds, score double precision, cause text, rule text, policy jsonb,
    explanation text default null, severity public.anomaly_severity default null, at timestamptz default clock_timestamp(),
    reasons text[] default '{}', is_urgent boolean default false, is_alerted boolean default true, likely_patient_id uuid default null
)
returns public.judgements
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    reached constant public.anomaly_severity :=
        coalesce(record_judgement.severity, care.severity(record_judgement.score, thresholds));
    level constant public.alert_level := care.alert_level(reached);
    patient public.patients;
    judgement public.judgements;
begin
    insert into public.judgements (
        signal, model, patient_id, call_log_id, occurred_at, score, severity, alert_type, rule, explanation, reasons, is_urgent,
        likely_patient_id, policy_id
    )
    values (
        thresholds.signal, thresholds.model, call.patient_id, call.id, call."timestamp", record_judgement.score,
        reached, care.alert_type(level), record_judgement.rule, record_judgement.explanation, record_judgement.reasons,
        record_judgement.is_urgent, record_judgement.likely_patient_id,
        care.keep_scoring_policy(
            record_judgement.policy || (to_jsonb(thresholds) - '{id,organisation_id,signal,model}'::text[]))
    )
    returning * into judgement;

    if judgement.score > thresholds.checkin_above then
        select patients.* into patient from public.patients where patients.id = call.patient_id;
        perform care.note_checkin(patient, call."timestamp", judgement.score, judgement.severity);
    end if;
    if level is not null
        and record_judgement.is_alerted
        and not care.is_known_illness(call.patient_id, call."timestamp", level)
    then
        perform care.raise_alert(
            call.patient_id, record_judgement.cause, level, record_judgement.at, call.id, judgement.id, judgement.score,
            record_judgement.is_urgent);
    end if;
    return judgement;
end
$$;
comment on function care.record_judgement is
    'Records a score as a judgement, raises the day''s check-in, an alert and its messages as needed, and returns the judgement. Nothing else does so. If severity is null, it follows from the thresholds. A judgement that is not alerted (is_alerted) is only shown. The caller has called care.lock_patient. Called by each signal, once per call and model.';
revoke execute on function care.record_judgement from public;

create function care.likely_speaker_name(judgement_id uuid)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select others.name
    from public.judgements
    join public.patients as others on others.id = judgements.likely_patient_id
    where judgements.id = likely_speaker_name.judgement_id
        and (not care.is_caller_a_caregiver() or judgements.patient_id in (select care.patients_of_caller('viewer')))
$$;
comment on function care.likely_speaker_name is
    'Returns the name of the patient who seems to have spoken instead, to caregivers of the patient who was called and to operators. Null: not known. Security definer: caregivers may not read the other patient. Called by views.';
revoke execute on function care.likely_speaker_name from public;
grant execute on function care.likely_speaker_name to authenticated, service_role;

create policy caregivers_read_their_patients_checkins on public.daily_checkins
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

create policy caregivers_read_what_their_patients_were_judged_by on public.scoring_policies
    for select to authenticated
    using (true);

create policy caregivers_read_their_patients_judgements on public.judgements
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

-- 36_voiceprints.sql

-- Voiceprints: the registered encoders, and the embeddings that they produced.
--
-- An encoder's id stands for its weights, audio front end and window. If any of them changes, it is another encoder. Embeddings of
-- different encoders are never compared.

create table voice.encoders (
    id text constraint encoders_pkey primary key
        constraint an_encoder_is_a_model references care.models (id) on delete cascade,
    dimension smallint not null
        constraint an_encoder_has_a_dimension check (dimension between 1 and 16000),
    window_seconds double precision not null
        constraint a_window_has_a_length check (window_seconds > 0 and window_seconds < 'infinity'),
    constraint encoders_by_dimension unique (id, dimension)
);
alter table voice.encoders enable row level security;
comment on table voice.encoders is 'Encoders turn audio into embeddings. They are the models of the signal voice.';
comment on column voice.encoders.window_seconds is 'The length of speech that is encoded at once.';

create table voice.embeddings (
    id bigint generated always as identity constraint embeddings_pkey primary key,
    patient_id uuid not null
        constraint an_embedding_is_of_a_patient references public.patients (id) on delete cascade,
    call_log_id uuid not null
        constraint an_embedding_is_of_a_call references public.call_logs (id) on delete cascade,
    encoder text not null,
    embedding extensions.vector not null
        constraint an_embedding_has_unit_length check (abs(extensions.vector_norm(embedding) - 1) < 1e-4),
    dimension smallint not null generated always as (extensions.vector_dims(embedding)) stored,
    audio_sha256 bytea not null
        constraint a_sha256_has_32_bytes check (octet_length(audio_sha256) = 32),
    speech_seconds double precision not null
        constraint an_embedding_is_of_some_speech check (speech_seconds > 0 and speech_seconds < 'infinity'),
    snr_db double precision
        constraint a_known_snr_is_a_number check (snr_db > '-infinity' and snr_db < 'infinity'),
    quality jsonb not null default '{}',
    created_at timestamptz not null default now(),
    constraint an_embedding_has_its_encoders_dimension
        foreign key (encoder, dimension) references voice.encoders (id, dimension),
    constraint a_call_is_embedded_once_per_encoder unique (call_log_id, encoder),
    constraint a_recording_is_embedded_once_per_patient unique (patient_id, encoder, audio_sha256),
    constraint embeddings_by_patient_and_encoder unique (id, patient_id, encoder)
);
create index embeddings_by_encoder on voice.embeddings (encoder, dimension);
alter table voice.embeddings enable row level security;
comment on table voice.embeddings is 'One voice embedding per call and encoder. This is biometric data; no role has privileges on it.';
comment on column voice.embeddings.embedding is 'Unit vector. The zero vector and NaN are refused.';
comment on column voice.embeddings.audio_sha256 is 'Hash of the recording''s bytes: the same bytes are the same recording.';
comment on column voice.embeddings.speech_seconds is 'Net speech that was analysed. Analysis stops once there is enough.';
comment on column voice.embeddings.snr_db is 'Level of speech above the noise floor. Null: not known.';
comment on column voice.embeddings.quality is
    'Further measures: windows, outlier_windows (left out because another person speaks), agreement, clipped_share, channel, and features: how the patient spoke, by the ids of voice.features.';
create index embeddings_by_age on voice.embeddings (created_at);

create function voice.active_encoder()
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select care.active_model('voice')
$$;
comment on function voice.active_encoder is
    'Returns the id of the encoder for which checks are queued. Null before the first service has started.';
revoke execute on function voice.active_encoder from public;
grant execute on function voice.active_encoder to retrocare_service;
-- Scores of different encoders are not comparable, so the means in the overview are those of the active encoder.
grant execute on function voice.active_encoder to authenticated, service_role;

-- 37_calibrations.sql

-- Calibrations: what has been measured of an encoder, so that a distance can be read as a rarity. docs/judgement.md has the formulas.
--
-- A calibration never changes; another one is another row. The logs name the calibration by which they were judged.

create type public.scoring_rule as enum (
    'fixed',        -- the cosine distance, less what noise and the time of day may explain
    'calibrated'    -- how rare such a call is for this patient; needs a calibration
);
comment on type public.scoring_rule is 'How a score is computed.';

create type voice.vector_space as enum (
    'raw',          -- as the encoder produced them
    'whitened'      -- projected by voice.projection_rows, where noise moves them less
);
comment on type voice.vector_space is 'The vectors between which a distance is measured.';

create table voice.calibrations (
    id integer generated always as identity constraint calibrations_pkey primary key,
    encoder text not null
        constraint a_calibration_is_of_an_encoder references voice.encoders (id) on delete cascade,
    digest text not null,
    provenance jsonb not null default '{}',
    prior_degrees double precision not null
        constraint a_prior_has_more_than_two_degrees check (prior_degrees > 2 and prior_degrees < 1e6),
    prior_variance double precision not null
        constraint a_prior_variance_is_positive check (prior_variance > 1e-6 and prior_variance < 1e6),
    prior_mean_variance double precision not null
        constraint the_variance_of_means_is_positive check (prior_mean_variance > 1e-6 and prior_mean_variance < 1e6),
    learning_calls integer not null default 60
        constraint learning_ends check (learning_calls between 0 and 1000),
    winsorised_at double precision not null default 3
        constraint winsorising_leaves_something check (winsorised_at > 0 and winsorised_at <= 10),
    cusum_allowance double precision not null default 0.5
        constraint an_allowance_is_positive check (cusum_allowance > 0 and cusum_allowance <= 3),
    deviation_limit double precision not null default 3
        constraint a_day_moves_the_cusum check (deviation_limit > cusum_allowance and deviation_limit <= 10),
    maximum_cusum double precision not null default 10
        constraint the_cusum_is_bounded check (maximum_cusum > 0 and maximum_cusum <= 100),
    far_above double precision not null default 2
        constraint far_is_above_usual check (far_above > 0 and far_above <= 8),
    named_above double precision not null default 3
        constraint another_voice_is_far check (named_above >= far_above and named_above <= 8),
    sample_minimum_snr_db double precision not null default 15
        constraint a_sample_needs_a_known_line check (sample_minimum_snr_db > '-infinity' and sample_minimum_snr_db < 'infinity'),
    sample_maximum_cusum double precision not null default 2.375
        constraint samples_come_from_quiet_times check (sample_maximum_cusum > 0 and sample_maximum_cusum < 'infinity'),
    following_share double precision not null default 1.0 / 120
        constraint a_reference_follows_slowly check (following_share between 0 and 0.5),
    steady_below double precision not null default 0.3
        constraint a_steady_time_is_near_usual check (steady_below > '-infinity' and steady_below < far_above),
    settles_after_days integer not null default 30
        constraint what_pointed_to_a_change_ages check (settles_after_days between 1 and 366),
    created_at timestamptz not null default now(),
    constraint a_calibration_is_kept_once unique (encoder, digest),
    constraint calibrations_by_encoder unique (id, encoder)
);
alter table voice.calibrations enable row level security;
comment on table voice.calibrations is
    'Immutable versions of what is known of an encoder: how far calls of one person lie apart, by noise and length, and the limits of the calibrated rule. Logs refer to them.';
comment on column voice.calibrations.digest is 'Identifies the document from which the row was made: the same document gives the same row.';
comment on column voice.calibrations.provenance is 'From which recordings, how many people, and by which command it was made.';
comment on column voice.calibrations.prior_degrees is 'How much is known of a patient''s spread before the first call: degrees of freedom.';
comment on column voice.calibrations.prior_variance is 'Variance of one person''s deviations about that person''s mean, over all people.';
comment on column voice.calibrations.prior_mean_variance is 'Variance of people''s mean deviations.';
comment on column voice.calibrations.learning_calls is 'From so many healthy calls the patient''s own mean and spread are learned; then they stay.';
comment on column voice.calibrations.winsorised_at is 'A learned call counts as at most this many standard deviations from the mean.';
comment on column voice.calibrations.cusum_allowance is 'What a usual day takes from the CUSUM, in standard deviations.';
comment on column voice.calibrations.deviation_limit is 'At most so much of a day''s deviation moves the CUSUM, either way.';
comment on column voice.calibrations.maximum_cusum is 'The CUSUM stays at or below this, so that it can fall again.';
comment on column voice.calibrations.far_above is 'A call with a higher deviation is far from usual: two of three such calls confirm a change.';
comment on column voice.calibrations.named_above is 'Only a call with a higher deviation may be called another voice.';
comment on column voice.calibrations.sample_minimum_snr_db is 'Calls below it, or with an unknown SNR, do not change the baseline or its reference.';
comment on column voice.calibrations.sample_maximum_cusum is 'While the CUSUM is at or above it, no call changes the baseline or its reference.';
comment on column voice.calibrations.following_share is 'By which share of the way the reference follows each usual call once the baseline is complete.';
comment on column voice.calibrations.steady_below is
    'If the last ten calls deviated by less than this on average, a sudden change may be a new telephone or room.';

comment on column voice.calibrations.settles_after_days is
    'After so many days without a judged call, what pointed to a change is forgotten: it says nothing about the present.';

create table voice.calibration_bins (
    calibration_id integer not null
        constraint a_bin_is_of_a_calibration references voice.calibrations (id) on delete cascade,
    space voice.vector_space not null,
    snr_from double precision not null
        constraint a_bin_begins_somewhere check (snr_from > '-infinity' and snr_from < 'infinity'),
    call_variance double precision not null
        constraint calls_differ check (call_variance > 1e-9 and call_variance < 100),
    speech_variance double precision not null
        constraint more_speech_varies_less check (speech_variance >= 0 and speech_variance < 100),
    log_bias double precision not null
        constraint a_bias_is_a_number check (log_bias > -10 and log_bias < 10),
    log_deviation double precision not null
        constraint logarithms_of_distances_vary check (log_deviation >= 0.01 and log_deviation < 10),
    other_log_mean double precision not null
        constraint others_are_at_some_distance check (other_log_mean > -20 and other_log_mean < 2),
    other_log_deviation double precision not null
        constraint others_vary check (other_log_deviation >= 0.01 and other_log_deviation < 10),
    constraint calibration_bins_pkey primary key (calibration_id, space, snr_from)
);
alter table voice.calibration_bins enable row level security;
comment on table voice.calibration_bins is 'How far calls lie apart, by the noise on the line.';
comment on column voice.calibration_bins.snr_from is
    'The bin of calls with this SNR or more, up to the next bin. Calls below all bins, or with an unknown SNR, belong to the lowest one.';
comment on column voice.calibration_bins.call_variance is 'Variance between two calls of one person, however long: the distance of two equals half the sum of theirs.';
comment on column voice.calibration_bins.speech_variance is 'What a second of speech adds to it; n seconds add one n-th.';
comment on column voice.calibration_bins.log_bias is 'Mean of ln(distance / expected distance) over calls of the same person.';
comment on column voice.calibration_bins.log_deviation is 'Its standard deviation.';
comment on column voice.calibration_bins.other_log_mean is 'Mean of ln(distance) between a baseline and other people''s calls.';
comment on column voice.calibration_bins.other_log_deviation is 'Its standard deviation.';

create table voice.projection_rows (
    calibration_id integer not null
        constraint a_projection_is_of_a_calibration references voice.calibrations (id) on delete cascade,
    row_number smallint not null
        constraint rows_are_counted_from_one check (row_number >= 1),
    weights extensions.vector not null
        constraint weights_are_of_an_ordinary_size check (extensions.vector_norm(weights) between 1e-6 and 1e6),
    row_offset double precision not null
        constraint an_offset_is_of_an_ordinary_size check (row_offset between -1e6 and 1e6),
    constraint projection_rows_pkey primary key (calibration_id, row_number)
);
alter table voice.projection_rows enable row level security;
comment on table voice.projection_rows is 'The projection into the whitened space: one component of a whitened vector per row. A calibration may have none.';
comment on column voice.projection_rows.row_offset is 'Added to the product of weights and embedding.';

create function voice.add_calibration(encoder text, parameters jsonb)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    dimension constant integer := (select encoders.dimension from voice.encoders where encoders.id = add_calibration.encoder);
    content_digest constant text := md5(add_calibration.parameters::text);
    added_id integer;
    misfit text := case
        when dimension is null then format('No encoder %s is registered', add_calibration.encoder)
        when jsonb_typeof(add_calibration.parameters) is distinct from 'object' then 'The calibration is not a JSON object'
        when add_calibration.parameters ->> 'encoder' is distinct from add_calibration.encoder
            then format('The calibration is of the encoder %s', coalesce(add_calibration.parameters ->> 'encoder', 'null'))
        when jsonb_typeof(add_calibration.parameters #> '{bins,raw}') is distinct from 'array'
            or jsonb_array_length(add_calibration.parameters #> '{bins,raw}') = 0 then 'The calibration has no bins of raw distances'
        when jsonb_typeof(add_calibration.parameters -> 'projection') <> 'null' and (
            jsonb_typeof(add_calibration.parameters #> '{bins,whitened}') is distinct from 'array'
            or jsonb_array_length(add_calibration.parameters #> '{bins,whitened}') = 0
            or jsonb_typeof(add_calibration.parameters #> '{projection,weights}') is distinct from 'array'
            or jsonb_typeof(add_calibration.parameters #> '{projection,offsets}') is distinct from 'array'
            or jsonb_array_length(add_calibration.parameters #> '{projection,weights}')
                <> jsonb_array_length(add_calibration.parameters #> '{projection,offsets}')
            or exists (
                select from jsonb_array_elements(add_calibration.parameters #> '{projection,weights}') as given (weights)
                where case jsonb_typeof(given.weights) when 'array' then jsonb_array_length(given.weights) end is distinct from dimension
            )) then format('The projection does not fit: bins, offsets and rows of %s weights are needed', dimension)
    end;
begin
    if misfit is not null then
        raise exception using
            errcode = 'PT400',
            message = misfit,
            hint = '`retrocare calibrate` makes a calibration for the encoder that is in use.';
    end if;
    perform pg_advisory_xact_lock(hashtext('voice.add_calibration'));
    select calibrations.id into added_id
    from voice.calibrations
    where calibrations.encoder = add_calibration.encoder and calibrations.digest = content_digest;
    if found then
        return added_id;
    end if;

    insert into voice.calibrations (encoder, digest, provenance, prior_degrees, prior_variance, prior_mean_variance)
    values (
        add_calibration.encoder, content_digest, coalesce(add_calibration.parameters -> 'provenance', '{}'),
        (add_calibration.parameters #>> '{prior,degrees}')::double precision,
        (add_calibration.parameters #>> '{prior,variance}')::double precision,
        (add_calibration.parameters #>> '{prior,mean_variance}')::double precision
    )
    returning id into added_id;
    insert into voice.calibration_bins (
        calibration_id, space, snr_from, call_variance, speech_variance, log_bias, log_deviation, other_log_mean, other_log_deviation
    )
    select
        added_id, spaces.space::voice.vector_space, bins.snr_from, bins.call_variance, bins.speech_variance, bins.log_bias,
        bins.log_deviation, bins.other_log_mean, bins.other_log_deviation
    from jsonb_each(add_calibration.parameters -> 'bins') as spaces (space, bins)
    cross join lateral jsonb_to_recordset(case jsonb_typeof(spaces.bins) when 'array' then spaces.bins else '[]' end) as bins (
        snr_from double precision, call_variance double precision, speech_variance double precision, log_bias double precision,
        log_deviation double precision, other_log_mean double precision, other_log_deviation double precision
    );
    insert into voice.projection_rows (calibration_id, row_number, weights, row_offset)
    select
        added_id, given.row_number, given.weights::text::extensions.vector,
        (add_calibration.parameters #>> array['projection', 'offsets', (given.row_number - 1)::text])::double precision
    from jsonb_array_elements(coalesce(add_calibration.parameters #> '{projection,weights}', '[]')) with ordinality as given (weights, row_number);
    return added_id;
end
$$;
comment on function voice.add_calibration is
    'Stores a calibration, as `retrocare calibrate` makes it, and returns its id; the same content is stored once. Nothing is judged by it before voice.use_calibration. Raises PT400, or a violation of the tables'' constraints. Security definer: the service has no privileges on tables.';
revoke execute on function voice.add_calibration from public;
grant execute on function voice.add_calibration to retrocare_service;

create function voice.whiten(embedding extensions.vector, calibration_id integer)
returns extensions.vector
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select extensions.l2_normalize(
        array_agg((row_offset - (weights operator(extensions.<#>) whiten.embedding))::real order by row_number)::extensions.vector)
    from voice.projection_rows
    where projection_rows.calibration_id = whiten.calibration_id
$$;
comment on function voice.whiten is
    'Projects an embedding into the whitened space and returns a unit vector. Null: the calibration has no projection.';
revoke execute on function voice.whiten from public;

create function voice.calibration_bin(calibration_id integer, space voice.vector_space, snr_db double precision)
returns voice.calibration_bins
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select calibration_bins.*
    from voice.calibration_bins
    where calibration_bins.calibration_id = calibration_bin.calibration_id and calibration_bins.space = calibration_bin.space
    order by
        calibration_bins.snr_from <= coalesce(calibration_bin.snr_db, '-infinity') desc,
        abs(calibration_bins.snr_from - coalesce(calibration_bin.snr_db, calibration_bins.snr_from)),
        calibration_bins.snr_from
    limit 1
$$;
comment on function voice.calibration_bin is
    'Returns the bin to which a call with this SNR belongs. An unknown SNR (null) belongs to the lowest one, which expects the greatest distances. Null: there are no bins.';
revoke execute on function voice.calibration_bin from public;

-- 37_voice_policies.sql

-- Policies of voice: the rule, weights and limits are rows, so changing one is an update, not a release. Their defaults are the specified
-- values. The thresholds are in care.thresholds.

create table voice.policies (
    encoder text constraint policies_pkey primary key
        constraint a_policy_belongs_to_an_encoder references voice.encoders (id) on delete cascade,
    rule public.scoring_rule not null default 'fixed',
    calibration_id integer,
    noisy_below_snr_db double precision not null default 15
        constraint the_noisy_line_is_positive check (noisy_below_snr_db > 0 and noisy_below_snr_db < 'infinity'),
    noise_reduction double precision not null default 0.20
        constraint a_noise_reduction_is_a_share check (noise_reduction between 0 and 1),
    morning_start_hour double precision not null default 6,
    evening_start_hour double precision not null default 18,
    window_hours double precision not null default 3
        constraint a_time_window_has_a_length check (window_hours > 0 and window_hours <= 12),
    edge_reduction double precision not null default 0.05,
    middle_reduction double precision not null default 0.10,
    baseline_minimum_samples integer not null default 3
        constraint a_baseline_needs_a_sample check (baseline_minimum_samples >= 1),
    baseline_target_samples integer not null default 5,
    calibrated_target_samples integer not null default 10,
    minimum_speech_seconds double precision not null default 3
        constraint some_speech_is_needed check (minimum_speech_seconds >= 0.5 and minimum_speech_seconds < 'infinity'),
    minimum_snr_db double precision not null default 8
        constraint a_minimum_snr_is_a_number check (minimum_snr_db > '-infinity' and minimum_snr_db < 'infinity'),
    maximum_clipped_share double precision not null default 0.01
        constraint a_clipped_share_is_a_share check (maximum_clipped_share between 0 and 1),
    maximum_call_seconds double precision not null default 3600
        constraint a_call_has_a_length check (maximum_call_seconds > 0 and maximum_call_seconds < 'infinity'),
    constraint time_windows_lie_within_the_day
        check (0 <= morning_start_hour and morning_start_hour + window_hours <= evening_start_hour
            and evening_start_hour + window_hours <= 24),
    constraint a_reduction_peaks_in_the_middle
        check (0 <= edge_reduction and edge_reduction <= middle_reduction and middle_reduction <= 1),
    constraint the_target_reaches_the_minimum check (baseline_target_samples >= baseline_minimum_samples),
    constraint the_calibrated_target_reaches_the_minimum check (calibrated_target_samples >= baseline_minimum_samples),
    constraint a_policy_uses_a_calibration_of_its_encoder
        foreign key (calibration_id, encoder) references voice.calibrations (id, encoder),
    constraint the_calibrated_rule_needs_a_calibration check (rule <> 'calibrated' or calibration_id is not null)
);
create index policies_by_calibration on voice.policies (calibration_id);
alter table voice.policies enable row level security;
comment on table voice.policies is
    'How a voice is scored, and which recordings can be judged. One row per encoder. The meaning of a score is in care.thresholds.';
comment on column voice.policies.rule is 'How calls are scored. An encoder gets the calibrated rule together with its first calibration.';
comment on column voice.policies.calibration_id is
    'The calibration in use. Under the fixed rule its measures are only logged, so that the calibrated rule can be tried on them.';
comment on column voice.policies.calibrated_target_samples is 'How many samples a baseline gets under the calibrated rule; baseline_target_samples is for the fixed one.';
comment on column voice.policies.noisy_below_snr_db is 'A known SNR below this reduces the score.';
comment on column voice.policies.noise_reduction is
    'How much an SNR of 0 dB reduces the score; the reduction falls to nothing at noisy_below_snr_db.';
comment on column voice.policies.morning_start_hour is 'Start of the morning window, in the patient''s time zone.';
comment on column voice.policies.evening_start_hour is 'Start of the evening window, in the patient''s time zone.';
comment on column voice.policies.window_hours is 'Length of the morning window and of the evening window.';
comment on column voice.policies.edge_reduction is
    'Share by which the score is reduced at the edge of a window; middle_reduction applies in its middle.';
comment on column voice.policies.minimum_speech_seconds is 'A recording with less net speech is not assessable.';
comment on column voice.policies.maximum_call_seconds is 'A longer recording is not assessable.';
comment on column voice.policies.minimum_snr_db is 'A recording with a known SNR below this is not assessable.';
comment on column voice.policies.maximum_clipped_share is 'A recording with a larger share of clipped samples is not assessable.';
grant select (
    encoder, rule, calibration_id, baseline_minimum_samples, baseline_target_samples, calibrated_target_samples
) on voice.policies to authenticated, service_role;

create function voice.target_samples(policy voice.policies)
returns integer
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case policy.rule when 'calibrated' then policy.calibrated_target_samples else policy.baseline_target_samples end
$$;
comment on function voice.target_samples is 'Returns how many samples a baseline gets under the policy''s rule.';
revoke execute on function voice.target_samples from public;

create function voice.policy(encoder text)
returns voice.policies
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    found_policy voice.policies;
begin
    select policies.* into found_policy
    from voice.policies
    where policies.encoder = policy.encoder;
    if not found then
        raise exception using
            errcode = 'RV004',
            message = format('No encoder %s is registered', policy.encoder),
            hint = 'A service registers its encoder when it starts.';
    end if;
    return found_policy;
end
$$;
comment on function voice.policy is
    'Returns the policy of an encoder. Raises RV004. Security definer: the service may not read the table, and gets its limits here.';
revoke execute on function voice.policy from public;
grant execute on function voice.policy to retrocare_service;

create function voice.policy_values(encoder text)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select to_jsonb(voice.policy(policy_values.encoder))
        || (to_jsonb(care.thresholds_for(policy_values.encoder)) - '{id,organisation_id,signal,model}'::text[])
$$;
comment on function voice.policy_values is
    'Returns all thresholds, weights and limits of an encoder by name. Raises RV004. Security definer: the service may not read the tables. Called by `retrocare policy show`.';
revoke execute on function voice.policy_values from public;
grant execute on function voice.policy_values to retrocare_service;

create function voice.set_policy(encoder text, changes jsonb)
returns jsonb
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    changed record;
    unknown text := (
        select string_agg(given.name, ', ')
        from jsonb_object_keys(set_policy.changes) as given (name)
        where given.name = 'encoder' or not voice.policy_values(set_policy.encoder) ? given.name
    );
begin
    if unknown is not null then
        raise exception using
            errcode = 'PT400',
            message = format('There is no threshold or limit named %s', unknown),
            hint = 'List the names with `retrocare policy show`.';
    end if;
    for changed in
        select rules.relation, rules.key,
            string_agg(format('%1$I = (jsonb_populate_record(null::%2$s, $1)).%1$I', attribute.attname, rules.relation), ', ') as assignments
        from (values
            ('voice.policies'::regclass, 'encoder = $2'),
            ('care.thresholds'::regclass, 'model = $2 and organisation_id is null')
        ) as rules (relation, key)
        join pg_catalog.pg_attribute as attribute on attribute.attrelid = rules.relation and set_policy.changes ? attribute.attname
        where attribute.attnum > 0 and not attribute.attisdropped
        group by rules.relation, rules.key
    loop
        execute format('update %s set %s where %s', changed.relation, changed.assignments, changed.key)
        using set_policy.changes, set_policy.encoder;
    end loop;
    return voice.policy_values(set_policy.encoder);
end
$$;
comment on function voice.set_policy is
    'Changes values of an encoder''s policy and thresholds by column name, and returns all of them as they are then. Raises PT400, RV004, or a violation of their constraints. Called by `retrocare policy set`.';
revoke execute on function voice.set_policy from public;
grant execute on function voice.set_policy to retrocare_service;

create function voice.use_calibration(encoder text, calibration_id integer)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update voice.policies
    set rule = 'calibrated', calibration_id = use_calibration.calibration_id
    where policies.encoder = use_calibration.encoder
        and exists (
            select from voice.calibrations
            where calibrations.id = use_calibration.calibration_id and calibrations.encoder = use_calibration.encoder
        );
    if not found then
        raise exception using
            errcode = 'RV004',
            message = format('The encoder %s has no calibration %s', use_calibration.encoder, use_calibration.calibration_id),
            hint = 'voice.add_calibration returns the id of a calibration.';
    end if;
end
$$;
comment on function voice.use_calibration is
    'Judges by this calibration, under the calibrated rule, from the next call on. Raises RV004. Security definer: the service has no privileges on tables. Called by `retrocare calibrate`.';
revoke execute on function voice.use_calibration from public;
grant execute on function voice.use_calibration to retrocare_service;

create function voice.ship_calibration(encoder text, parameters jsonb)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    added_id constant integer := voice.add_calibration(ship_calibration.encoder, ship_calibration.parameters);
begin
    if (voice.policy(ship_calibration.encoder)).calibration_id is null then
        perform voice.use_calibration(ship_calibration.encoder, added_id);
    end if;
    return added_id;
end
$$;
comment on function voice.ship_calibration is
    'Stores the calibration that comes with an encoder, and uses it if the encoder has none yet. Returns its id. Raises PT400, RV004. Security definer: the service has no privileges on tables. Called by the service at start.';
revoke execute on function voice.ship_calibration from public;
grant execute on function voice.ship_calibration to retrocare_service;

create function voice.calibration_document(encoder text)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object(
        'id', calibrations.id,
        'encoder', calibrations.encoder,
        'provenance', calibrations.provenance,
        'bins', (
            select jsonb_object_agg(spaces.space, spaces.bins)
            from (
                select bins.space, jsonb_agg(to_jsonb(bins) - '{calibration_id,space}'::text[] order by bins.snr_from desc) as bins
                from voice.calibration_bins as bins
                where bins.calibration_id = calibrations.id
                group by bins.space
            ) as spaces
        ),
        'prior', jsonb_build_object(
            'degrees', calibrations.prior_degrees, 'variance', calibrations.prior_variance,
            'mean_variance', calibrations.prior_mean_variance),
        'projection', (
            select jsonb_build_object(
                'weights', jsonb_agg(projection_rows.weights::text::jsonb order by projection_rows.row_number),
                'offsets', jsonb_agg(projection_rows.row_offset order by projection_rows.row_number))
            from voice.projection_rows
            where projection_rows.calibration_id = calibrations.id
            having count(*) > 0
        ),
        'limits', to_jsonb(calibrations)
            - '{id,encoder,digest,provenance,prior_degrees,prior_variance,prior_mean_variance,created_at}'::text[]
    )
    from voice.policies
    join voice.calibrations on calibrations.id = policies.calibration_id
    where policies.encoder = calibration_document.encoder
$$;
comment on function voice.calibration_document is
    'Returns the calibration in use, as `retrocare calibrate` makes it, with its id and limits. Null: the encoder has none. Security definer: the service has no privileges on tables. Called by `retrocare evaluate`.';
revoke execute on function voice.calibration_document from public;
grant execute on function voice.calibration_document to retrocare_service;

create policy caregivers_read_how_many_samples_a_baseline_needs on voice.policies
    for select to authenticated
    using (true);

-- 38_calibrated_scoring.sql

-- Calibrated scoring: how rare a call is for this patient. Pure functions of their arguments; nothing in this file writes a table.
--
--     expected distance   E = v(call) / 2 + sum of v(samples) / (2 n^2),  v = call_variance + speech_variance / seconds
--     deviation           w = (ln d - ln E - log_bias) / log_deviation              of the population
--     personal deviation  u = w against the mean and spread of this patient's own calls, as a standard normal deviate
--     sudden              a call with u or more comes by chance once in 1 / p(u) calls
--     sustained           CUSUM of the days' u; its average run length says how often it gets there by chance
--     score               0.25 = as rare as the warnings by chance that the family accepts, 0.40 = ten times rarer,
--                         0.70 = a hundred times rarer, 1 = a thousand times rarer
--     confirmation        a score stays a warning until two of the last three calls were far from usual
--
-- Sources: D. C. Montgomery, Introduction to Statistical Quality Control, 2013 (Shewhart and CUSUM charts; the average run length is
-- Siegmund's approximation); A. Gelman et al., Bayesian Data Analysis, 2013 (the predictive distribution of a normal variable with
-- unknown mean and variance); D. L. Wallace, Bounds on normal approximations to Student's and the chi-square distributions, 1959.

create type voice.observation as (
    is_clean boolean,
    distance double precision,
    expected_distance double precision,
    deviation double precision,
    log_likelihood_ratio double precision,
    whitened_deviation double precision,
    whitened_log_likelihood_ratio double precision
);
comment on type voice.observation is
    'What one call measures, before the patient''s history counts: is_clean tells whether its SNR is in the highest bin; the deviations are those of the population; a log-likelihood ratio below 0 says that another person is likelier. The whitened ones are null without a projection.';

create type voice.chart_state as (
    learned_calls integer,
    learned_mean double precision,
    learned_squares double precision,
    cusum double precision,
    day date,
    cusum_before_day double precision,
    day_calls integer,
    day_sum double precision,
    recent_deviations double precision[],
    recent_far boolean[],
    confirmed_level public.alert_level,
    calm_calls integer
);
comment on type voice.chart_state is
    'What is remembered of a patient''s calls: number, mean and sum of squares of the learned deviations; the CUSUM, and how far the present day moved it; the last ten deviations; whether the last two calls were far from usual; the level up to which a change is confirmed, and how many calm calls have followed.';

create type public.change_pace as enum (
    'sudden',       -- this call alone is rare
    'sustained'     -- the calls of the last days together are
);
comment on type public.change_pace is 'What decided a score.';

create type public.voice_verdict as enum (
    'as_usual',         -- the score is low
    'changed',          -- the score is not low
    'another_voice'     -- it did not sound like this person
);
comment on type public.voice_verdict is 'What a judgement of a voice says.';

create type voice.decision as (
    usual_mean double precision,
    usual_variance double precision,
    usual_degrees double precision,
    deviation double precision,
    cusum_before double precision,
    cusum_after double precision,
    unconfirmed_score double precision,
    score double precision,
    severity public.anomaly_severity,
    verdict public.voice_verdict,
    pace public.change_pace,
    is_urgent boolean,
    is_step boolean,
    is_learned boolean,
    after voice.chart_state
);
comment on type voice.decision is
    'How a call was judged, with every value on the way. deviation is the personal one; is_urgent tells that this call alone would be an emergency if another one confirmed it; is_step that a change came suddenly after steady calls, as with a new telephone or room; after is the chart after the call.';

create function voice.new_chart()
returns voice.chart_state
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select (0, 0, 0, 0, null, 0, 0, 0, '{}', '{}', 'warning', 0)::voice.chart_state
$$;
comment on function voice.new_chart is 'Returns the chart of a patient of whom no call was judged.';
revoke execute on function voice.new_chart from public;

create function voice.settled_chart(chart voice.chart_state)
returns voice.chart_state
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    chart.cusum := 0;
    chart.cusum_before_day := 0;
    chart.day_calls := 0;
    chart.day_sum := 0;
    chart.recent_far := '{}';
    chart.confirmed_level := 'warning';
    chart.calm_calls := 0;
    return chart;
end
$$;
comment on function voice.settled_chart is
    'Returns the chart after somebody said that the patient is well: what was learned stays, and what pointed to a change is gone.';
revoke execute on function voice.settled_chart from public;

create function voice.expected_distance(call_variance double precision, sample_variance double precision)
returns double precision
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select expected_distance.call_variance / 2 + expected_distance.sample_variance
$$;
comment on function voice.expected_distance is
    'Returns how far a healthy call lies from the baseline on average, given the call''s variance and that of the baseline (half the sum of its samples'' variances over the square of their number).';
revoke execute on function voice.expected_distance from public;

create function voice.population_deviation(
    distance double precision, expected_distance double precision, bin voice.calibration_bins
)
returns double precision
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select (ln(greatest(population_deviation.distance, 1e-6))
        - ln(population_deviation.expected_distance) - bin.log_bias) / bin.log_deviation
$$;
comment on function voice.population_deviation is
    'Returns by how many standard deviations of the population the logarithm of the distance exceeds what is expected.';
revoke execute on function voice.population_deviation from public;

create function voice.log_likelihood_ratio(
    distance double precision, expected_distance double precision, bin voice.calibration_bins
)
returns double precision
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    -- Both are taken as normal in ln(distance), with the mean of their variances, and at least 0.15 apart.
    select (means.other - means.same) / ((bin.log_deviation ^ 2 + bin.other_log_deviation ^ 2) / 2)
        * ((means.same + means.other) / 2 - ln(greatest(log_likelihood_ratio.distance, 1e-6)))
    from (
        select
            ln(log_likelihood_ratio.expected_distance) + bin.log_bias as same,
            greatest(bin.other_log_mean, ln(log_likelihood_ratio.expected_distance) + bin.log_bias + 0.15) as other
    ) as means
$$;
comment on function voice.log_likelihood_ratio is
    'Returns the logarithm of how much likelier the distance is for the same person than for another. Below 0: another person is likelier.';
revoke execute on function voice.log_likelihood_ratio from public;

create function voice.observe(
    calibration voice.calibrations, reference extensions.vector, sample_variance double precision,
    whitened_anchor extensions.vector, whitened_sample_variance double precision, "current" extensions.vector,
    speech_seconds double precision, snr_db double precision
)
returns voice.observation
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    bin constant voice.calibration_bins := voice.calibration_bin(calibration.id, 'raw', observe.snr_db);
    whitened_bin voice.calibration_bins;
    whitened_distance double precision;
    whitened_expected double precision;
    observed voice.observation;
begin
    observed.is_clean := not exists (
        select from voice.calibration_bins
        where calibration_bins.calibration_id = calibration.id
            and calibration_bins.space = 'raw'
            and calibration_bins.snr_from > coalesce(observe.snr_db, '-infinity')
    );
    observed.distance := 1 - voice.raw_similarity(observe.reference, observe."current");
    observed.expected_distance := voice.expected_distance(
        bin.call_variance + bin.speech_variance / observe.speech_seconds, observe.sample_variance);
    observed.deviation := voice.population_deviation(observed.distance, observed.expected_distance, bin);
    observed.log_likelihood_ratio := voice.log_likelihood_ratio(observed.distance, observed.expected_distance, bin);
    if observe.whitened_anchor is not null then
        whitened_bin := voice.calibration_bin(calibration.id, 'whitened', observe.snr_db);
        whitened_distance := 1 - voice.raw_similarity(observe.whitened_anchor, voice.whiten(observe."current", calibration.id));
        whitened_expected := voice.expected_distance(
            whitened_bin.call_variance + whitened_bin.speech_variance / observe.speech_seconds, observe.whitened_sample_variance);
        observed.whitened_deviation := voice.population_deviation(whitened_distance, whitened_expected, whitened_bin);
        observed.whitened_log_likelihood_ratio := voice.log_likelihood_ratio(whitened_distance, whitened_expected, whitened_bin);
    end if;
    return observed;
end
$$;
comment on function voice.observe is
    'Measures a call against a baseline: reference is what the raw distance is measured from, whitened_anchor (null without a projection) the whitened baseline; the sample variances are those of voice.expected_distance. Raises RV005 for vectors that cannot be compared.';
revoke execute on function voice.observe from public;

create function voice.normal_deviate(t double precision, degrees double precision)
returns double precision
language plpgsql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    -- 2 atanh(x / (2 + x)) is ln(1 + x), also where x is next to nothing.
    return sign(t) * (8 * degrees + 1) / (8 * degrees + 3) * sqrt(degrees * 2 * atanh(t ^ 2 / (2 * degrees + t ^ 2)));
end
$$;
comment on function voice.normal_deviate is
    'Returns the normal deviate that is as rare as this value of Student''s distribution (Wallace 1959, error below 0.01 up to 4).';
revoke execute on function voice.normal_deviate from public;

create function voice.rarity_score(
    chance double precision, calls_per_year double precision, warnings_per_year double precision
)
returns double precision
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    -- How many times rarer, in powers of ten; half of the warnings are left to the sudden part, half to the sustained one.
    decades constant double precision := log(warnings_per_year / (2 * calls_per_year * chance));
    of_any_call constant double precision := log(warnings_per_year / calls_per_year);
begin
    -- These points are the scale itself, with which the thresholds of severity, which are data, are compared.
    return case
        when decades <= of_any_call then 0
        when decades < 0 then 0.25 * (1 - decades / of_any_call)
        when decades < 1 then 0.25 + 0.15 * decades
        when decades < 2 then 0.40 + 0.30 * (decades - 1)
        when decades < 3 then 0.70 + 0.30 * (decades - 2)
        else 1
    end;
end
$$;
comment on function voice.rarity_score is
    'Returns the score of something that comes by chance in this share of calls: 0.25 if half of the accepted warnings a year would be as rare, 0.40, 0.70 and 1 if ten, a hundred and a thousand times fewer; 0 for what half of all calls reach.';
revoke execute on function voice.rarity_score from public;

create function voice.chance_of_deviation(deviation double precision)
returns double precision
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return erfc(least(8, greatest(0, deviation)) / sqrt(2::double precision)) / 2;
end
$$;
comment on function voice.chance_of_deviation is 'Returns in which share of healthy calls a deviation is at least this large; at most a half.';
revoke execute on function voice.chance_of_deviation from public;

create function voice.chance_of_cusum(cusum double precision, allowance double precision)
returns double precision
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Siegmund's approximation of the average run length, with 2 * 0.583 for what a CUSUM in steps overshoots its limit.
    height constant double precision := 2 * allowance * (cusum + 1.166);
begin
    return 2 * allowance ^ 2 / (exp(height) - height - 1);
end
$$;
comment on function voice.chance_of_cusum is
    'Returns one over the average number of healthy days after which the CUSUM reaches this height.';
revoke execute on function voice.chance_of_cusum from public;

create function voice.highest_score(level public.alert_level, thresholds care.thresholds)
returns double precision
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return case level
        when 'warning' then greatest(thresholds.high_above - 0.01, (thresholds.medium_above + thresholds.high_above) / 2)
        when 'emergency' then greatest(thresholds.critical_above - 0.01, (thresholds.high_above + thresholds.critical_above) / 2)
        else 1
    end;
end
$$;
comment on function voice.highest_score is 'Returns the highest score that is given as long as only this level is confirmed.';
revoke execute on function voice.highest_score from public;

create function voice.decide(
    chart voice.chart_state, observed voice.observation, calibration voice.calibrations, thresholds care.thresholds,
    warnings_per_year double precision, calls_per_year double precision, day date, is_healthy boolean, is_late boolean
)
returns voice.decision
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    decided voice.decision;
    state voice.chart_state := decide.chart;  -- becomes the chart after the call
    kappa constant double precision := calibration.prior_variance / calibration.prior_mean_variance;
    learned constant double precision := state.learned_calls;
    deviation constant double precision := observed.deviation;
    whitened constant double precision := observed.whitened_deviation;
    scale double precision;     -- standard deviation of the next call of this patient
    student double precision;
    is_named boolean;
    is_far boolean;
    unconfirmed_level public.alert_level;
    sudden_score double precision;
    sustained_score double precision := 0;
    learned_deviation double precision;
    step_from_mean double precision;
begin
    -- greatest(0, least(8, 'NaN')) is 8: a NaN that is clipped becomes an emergency.
    if deviation = 'NaN' or whitened = 'NaN' then
        raise exception using errcode = 'RV005', message = 'The deviation of the call is not a number';
    end if;

    if decide.day - state.day > calibration.settles_after_days and not decide.is_late then
        state := voice.settled_chart(state);
    end if;

    -- 1 How unusual is this for this patient?
    decided.usual_mean := learned * state.learned_mean / (learned + kappa);
    decided.usual_degrees := calibration.prior_degrees + learned;
    decided.usual_variance := (calibration.prior_degrees * calibration.prior_variance + state.learned_squares
        + learned * kappa / (learned + kappa) * state.learned_mean ^ 2) / decided.usual_degrees;
    scale := sqrt(decided.usual_variance * (1 + 1 / (learned + kappa)));
    student := (deviation - decided.usual_mean) / scale;
    decided.deviation := voice.normal_deviate(student, decided.usual_degrees);

    -- 2 Is it this patient at all? On a clean line both spaces must say no; below, the whitened one tells voices apart better.
    is_named := case
        when whitened is null then decided.deviation > calibration.named_above and observed.log_likelihood_ratio < 0
        when observed.is_clean then decided.deviation > calibration.named_above
            and observed.log_likelihood_ratio < 0 and observed.whitened_log_likelihood_ratio < 0
        else whitened > calibration.named_above and observed.whitened_log_likelihood_ratio < 0
    end;

    -- 3 Has it been so for days? The CUSUM moves once a day, by the mean of the day.
    decided.cusum_before := state.cusum;
    if not is_named and not decide.is_late then
        if state.day is distinct from decide.day then
            state.day := decide.day;
            state.cusum_before_day := state.cusum;
            state.day_calls := 0;
            state.day_sum := 0;
        end if;
        state.day_calls := state.day_calls + 1;
        state.day_sum := state.day_sum + decided.deviation;
        state.cusum := least(calibration.maximum_cusum, greatest(0, state.cusum_before_day - calibration.cusum_allowance
            + greatest(-calibration.deviation_limit, least(calibration.deviation_limit, state.day_sum / state.day_calls))));
        -- There is at most one step a day.
        sustained_score := voice.rarity_score(
            voice.chance_of_cusum(state.cusum, calibration.cusum_allowance), least(decide.calls_per_year, 365), decide.warnings_per_year);
    end if;
    decided.cusum_after := state.cusum;

    -- 4 How rare is that?
    sudden_score := voice.rarity_score(
        voice.chance_of_deviation(
            case when is_named and not observed.is_clean and whitened is not null then whitened else decided.deviation end),
        decide.calls_per_year, decide.warnings_per_year);
    decided.pace := case when sustained_score > sudden_score then 'sustained' else 'sudden' end::public.change_pace;
    decided.unconfirmed_score := greatest(sudden_score, sustained_score);

    -- 5 Is it confirmed? A single call is never more than a warning.
    is_far := is_named or decided.deviation >= calibration.far_above;
    decided.score := decided.unconfirmed_score;
    decided.severity := care.severity(decided.score, decide.thresholds);
    decided.is_urgent := false;
    decided.is_step := false;
    if decided.severity > 'low' then
        unconfirmed_level := care.alert_level(decided.severity);
        if is_far and true = any (state.recent_far) and not decide.is_late then
            state.confirmed_level := greatest(state.confirmed_level, unconfirmed_level);
        end if;
        decided.score := least(decided.score, voice.highest_score(state.confirmed_level, decide.thresholds));
        decided.severity := care.severity(decided.score, decide.thresholds);
        decided.is_urgent := state.confirmed_level = 'warning'
            and care.severity(sudden_score, decide.thresholds) > care.severity(decided.score, decide.thresholds);
        decided.is_step := is_far
            and cardinality(state.recent_deviations) = 10
            and (select avg(recent.deviation) from unnest(state.recent_deviations) as recent (deviation)) < calibration.steady_below;
    end if;
    decided.verdict := case
        when is_named then 'another_voice'
        when decided.severity > 'low' then 'changed'
        else 'as_usual'
    end::public.voice_verdict;
    if not decide.is_late then
        state.recent_far := (state.recent_far || is_far)[greatest(1, cardinality(state.recent_far)):];
    end if;

    -- 6 What is remembered of it?
    decided.is_learned := decide.is_healthy and not is_named and not decide.is_late and state.learned_calls < calibration.learning_calls;
    if decided.is_learned then
        -- An extreme call counts less; were it left out, the spread would stay too small, and alarms would never end.
        learned_deviation := greatest(decided.usual_mean - calibration.winsorised_at * scale,
            least(decided.usual_mean + calibration.winsorised_at * scale, deviation));
        state.learned_calls := state.learned_calls + 1;
        step_from_mean := learned_deviation - state.learned_mean;
        state.learned_mean := state.learned_mean + step_from_mean / state.learned_calls;
        state.learned_squares := state.learned_squares + step_from_mean * (learned_deviation - state.learned_mean);
    end if;
    if not decide.is_late then
        if not is_named then
            state.recent_deviations := (state.recent_deviations || decided.deviation)[greatest(1, cardinality(state.recent_deviations) - 8):];
        end if;
        state.calm_calls := case when decided.unconfirmed_score < decide.thresholds.medium_above then state.calm_calls + 1 else 0 end;
        if state.calm_calls >= 3 then
            state.confirmed_level := 'warning';
        end if;
    end if;
    decided.after := state;
    return decided;
end
$$;
comment on function voice.decide is
    'Judges a call by the patient''s chart and returns the decision with the chart after it. warnings_per_year is how many warnings by chance are accepted; a late call (is_late), which began before one that was judged already, neither changes the chart nor is confirmed by it; only a healthy call is learned from. Raises RV005 for NaN. Called by voice.score_call and voice.replay.';
revoke execute on function voice.decide from public;

-- 38_voice_scoring.sql

-- Voice scoring: pure functions of their arguments. Nothing in this file writes a table.
--
--     raw_similarity = 1 - (baseline <=> current)                                  -1 .. 1
--     anomaly        = clamp(1 - raw_similarity, 0, 1)
--     noise          : a known SNR below 15 dB subtracts 0.20 * (15 - max(snr, 0)) / 15, not below 0
--     time of day    : in the morning and evening of the patient's time zone, multiplied by 1 - r,
--                      r = 0.05 + 0.05 * (1 - |t - middle| / 1.5)
--     severity       : low <= 0.25 < medium <= 0.40 < high <= 0.70 < critical      (care.severity)
--
-- The numbers are the defaults of voice.policies and care.thresholds. Null means unknown, never zero; functions return it early,
-- because greatest() ignores it. NaN raises: `NaN > 0.5` is true, and greatest(0, least(1, 'NaN')) is 1, a false critical.

create type voice.comparison as (
    raw_similarity double precision,
    anomaly double precision,
    score double precision,
    severity public.anomaly_severity,
    alert_type public.alert_type,
    noise_adjusted boolean
);
comment on type voice.comparison is
    'A score and the values that explain it: anomaly is the score before adjustments, and noise_adjusted tells whether the adjustments changed the severity.';

create function voice.raw_similarity(baseline extensions.vector, "current" extensions.vector)
returns double precision
language plpgsql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    similarity double precision;
begin
    if extensions.vector_dims(baseline) <> extensions.vector_dims("current") then
        raise exception using
            errcode = 'RV005',
            message = format('Vectors of %s and %s dimensions cannot be compared',
                extensions.vector_dims(baseline), extensions.vector_dims("current")),
            hint = 'Both must come from the same encoder.';
    end if;
    similarity := 1 - (baseline operator(extensions.<=>) "current");
    if similarity = 'NaN' then
        raise exception using
            errcode = 'RV005',
            message = 'The similarity is not a number',
            hint = 'One of the vectors is the zero vector.';
    end if;
    return similarity;
end
$$;
comment on function voice.raw_similarity is
    'Returns the cosine similarity, -1 .. 1, which is 1 - cosine distance. Raises RV005 for the zero vector and for different dimensions.';
revoke execute on function voice.raw_similarity from public;

create function voice.anomaly(raw_similarity double precision)
returns double precision
language plpgsql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if anomaly.raw_similarity = 'NaN' then
        raise exception using errcode = 'RV005', message = 'The similarity is not a number';
    end if;
    return greatest(0, least(1, 1 - anomaly.raw_similarity));
end
$$;
comment on function voice.anomaly is
    'Returns 1 - raw_similarity, clamped to 0 .. 1: 0 = as usual, 1 = completely different. Raises RV005 for NaN.';
revoke execute on function voice.anomaly from public;

create function voice.noise_adjusted(anomaly double precision, snr_db double precision, policy voice.policies)
returns double precision
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if noise_adjusted.snr_db = 'NaN' then
        raise exception using errcode = 'RV005', message = 'The SNR is not a number', hint = 'Use null for an unknown SNR.';
    end if;
    if noise_adjusted.anomaly is null or policy.noisy_below_snr_db is null then
        return null;
    end if;
    if noise_adjusted.snr_db is null or noise_adjusted.snr_db >= policy.noisy_below_snr_db then
        return noise_adjusted.anomaly;
    end if;
    return greatest(0, noise_adjusted.anomaly - policy.noise_reduction
        * (policy.noisy_below_snr_db - greatest(noise_adjusted.snr_db, 0)) / policy.noisy_below_snr_db);
end
$$;
comment on function voice.noise_adjusted is
    'Returns the anomaly reduced by what noise may explain; an unknown SNR (null) reduces nothing. Raises RV005 for NaN.';
revoke execute on function voice.noise_adjusted from public;

create function voice.time_adjusted(anomaly double precision, local_hour double precision, policy voice.policies)
returns double precision
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select time_adjusted.anomaly * (1 - coalesce(
        (
            select policy.edge_reduction + (policy.middle_reduction - policy.edge_reduction)
                * (1 - abs(time_adjusted.local_hour - (start_hour + policy.window_hours / 2)) / (policy.window_hours / 2))
            from (values (policy.morning_start_hour), (policy.evening_start_hour)) as time_windows (start_hour)
            where time_adjusted.local_hour >= start_hour
                and time_adjusted.local_hour < start_hour + policy.window_hours
            limit 1
        ), 0))
$$;
comment on function voice.time_adjusted is
    'Returns the anomaly reduced by what the time of day may explain; local_hour has a fraction, 0 .. 24. An unknown hour (null) reduces nothing.';
revoke execute on function voice.time_adjusted from public;

create function voice.judge(
    baseline extensions.vector,
    "current" extensions.vector,
    snr_db double precision,
    local_hour double precision,
    policy voice.policies,
    thresholds care.thresholds
)
returns voice.comparison
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    judged voice.comparison;
begin
    judged.raw_similarity := voice.raw_similarity(judge.baseline, judge."current");
    judged.anomaly := voice.anomaly(judged.raw_similarity);
    judged.score := voice.time_adjusted(
        voice.noise_adjusted(judged.anomaly, judge.snr_db, judge.policy), judge.local_hour, judge.policy);
    if judged.score is null then
        raise exception using
            errcode = 'RV005',
            message = 'Nothing to compare: the baseline, the current embedding or the policy is null';
    end if;
    judged.severity := care.severity(judged.score, judge.thresholds);
    judged.alert_type := care.alert_type(care.alert_level(judged.severity));
    judged.noise_adjusted := judged.severity <> care.severity(judged.anomaly, judge.thresholds);
    return judged;
end
$$;
comment on function voice.judge is
    'Compares an embedding with a baseline and returns the comparison. Raises RV005 if there is nothing to compare. Called by voice.score_call and voice.compare.';
revoke execute on function voice.judge from public;

create function voice.compare(
    baseline extensions.vector,
    "current" extensions.vector,
    snr_db double precision,
    local_hour double precision,
    encoder text
)
returns voice.comparison
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    policy voice.policies := voice.policy(coalesce(compare.encoder, voice.active_encoder()));
begin
    if extensions.vector_dims(compare.baseline) <> (select dimension from voice.encoders where id = policy.encoder) then
        raise exception using
            errcode = 'RV005',
            message = format('A vector of %s dimensions is not from encoder %s',
                extensions.vector_dims(compare.baseline), policy.encoder),
            hint = 'Name the encoder that produced the vectors.';
    end if;
    return voice.judge(
        compare.baseline, compare."current", compare.snr_db, compare.local_hour, policy, care.thresholds_for(policy.encoder));
end
$$;
comment on function voice.compare is
    'Compares two given embeddings by the policy of an encoder (null: the active one) and stores nothing. Raises RV004, RV005. Called by POST /compare.';
revoke execute on function voice.compare from public;
grant execute on function voice.compare to retrocare_service;

-- 39_baselines.sql

-- Baselines: how a patient sounds when well.
--
-- A baseline is l2_normalize(avg) of the unit vectors of its samples, per patient and encoder. A version never changes: each change
-- adds a new version, which supersedes the last. Only samples of healthy days count. A health flag that is added later withdraws the
-- samples of the time that it covers.

create table voice.baselines (
    id bigint generated always as identity constraint baselines_pkey primary key,
    patient_id uuid not null
        constraint a_baseline_is_of_a_patient references public.patients (id) on delete cascade,
    encoder text not null,
    version integer not null,
    embedding extensions.vector not null
        constraint a_baseline_has_unit_length check (abs(extensions.vector_norm(embedding) - 1) < 1e-4),
    dimension smallint not null generated always as (extensions.vector_dims(embedding)) stored,
    sample_count integer not null
        constraint a_baseline_has_a_sample check (sample_count >= 1),
    spread_mean double precision,
    spread_deviation double precision,
    enrolment_id uuid,
    created_at timestamptz not null default now(),
    superseded_at timestamptz,
    constraint a_baseline_has_its_encoders_dimension
        foreign key (encoder, dimension) references voice.encoders (id, dimension),
    constraint a_spread_needs_two_samples check ((sample_count >= 2) = (spread_mean is not null)),
    constraint baseline_versions_are_counted unique (patient_id, encoder, version),
    constraint baselines_by_patient_and_encoder unique (id, patient_id, encoder)
);
create unique index a_patient_has_one_current_baseline_per_encoder
    on voice.baselines (patient_id, encoder) where superseded_at is null;
create index baselines_by_encoder on voice.baselines (encoder, dimension);
-- Searches still visit superseded versions until they are vacuumed.
alter table voice.baselines set (autovacuum_vacuum_scale_factor = 0.02);
alter table voice.baselines enable row level security;
comment on table voice.baselines is
    'Immutable versions of each patient''s baseline, which represents the healthy voice. The current version has no superseded_at.';
comment on column voice.baselines.embedding is 'l2_normalize(avg) of the samples.';
comment on column voice.baselines.spread_mean is 'Mean cosine distance of each sample to the mean of the others. Null below two samples.';
comment on column voice.baselines.spread_deviation is 'Sample standard deviation of those distances. Null below two samples.';
comment on column voice.baselines.enrolment_id is 'The enrolment from which it was built. Null: it was built from ordinary calls.';
grant select (
    id, patient_id, encoder, version, sample_count, spread_mean, spread_deviation, created_at, superseded_at
) on voice.baselines to authenticated, service_role;

create table voice.baseline_samples (
    baseline_id bigint not null,
    embedding_id bigint not null,
    patient_id uuid not null,
    encoder text not null,
    constraint baseline_samples_pkey primary key (baseline_id, embedding_id),
    constraint a_sample_is_of_the_baselines_patient_and_encoder
        foreign key (baseline_id, patient_id, encoder)
        references voice.baselines (id, patient_id, encoder) on delete cascade,
    constraint a_sample_is_an_embedding_of_the_patient_and_encoder
        foreign key (embedding_id, patient_id, encoder)
        references voice.embeddings (id, patient_id, encoder) on delete cascade
);
create index baseline_samples_by_embedding on voice.baseline_samples (embedding_id);
alter table voice.baseline_samples enable row level security;
comment on table voice.baseline_samples is 'The embeddings of which each baseline version is the mean.';

create function voice.current_baseline(patient_id uuid, encoder text)
returns voice.baselines
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select baselines.*
    from voice.baselines
    where baselines.patient_id = current_baseline.patient_id
        and baselines.encoder = current_baseline.encoder
        and baselines.superseded_at is null
$$;
comment on function voice.current_baseline is 'Returns the baseline version with which calls are compared, or null if there is none.';
revoke execute on function voice.current_baseline from public;

create function voice.averaged(embedding_ids bigint[])
returns extensions.vector
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select extensions.l2_normalize(extensions.avg(embeddings.embedding))
    from voice.embeddings
    where embeddings.id = any (averaged.embedding_ids)
$$;
comment on function voice.averaged is 'Returns the normalised mean of these embeddings; null for none.';
revoke execute on function voice.averaged from public;

create function voice.build_baseline(patient_id uuid, encoder text, embedding_ids bigint[], enrolment_id uuid)
returns voice.baselines
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    built voice.baselines;
begin
    update voice.baselines
    set superseded_at = clock_timestamp()
    where baselines.patient_id = build_baseline.patient_id
        and baselines.encoder = build_baseline.encoder
        and baselines.superseded_at is null;

    if cardinality(build_baseline.embedding_ids) = 0 then
        return null;
    end if;

    insert into voice.baselines
        (patient_id, encoder, version, embedding, sample_count, spread_mean, spread_deviation, enrolment_id)
    select
        build_baseline.patient_id,
        build_baseline.encoder,
        1 + coalesce((
            select max(earlier.version)
            from voice.baselines as earlier
            where earlier.patient_id = build_baseline.patient_id and earlier.encoder = build_baseline.encoder
        ), 0),
        voice.averaged(build_baseline.embedding_ids),
        cardinality(build_baseline.embedding_ids),
        avg(sample.distance_to_others),
        stddev_samp(sample.distance_to_others),
        build_baseline.enrolment_id
    from (
        select embeddings.embedding operator(extensions.<=>)
            voice.averaged(array_remove(build_baseline.embedding_ids, embeddings.id)) as distance_to_others
        from voice.embeddings
        where embeddings.id = any (build_baseline.embedding_ids)
    ) as sample
    returning * into built;

    insert into voice.baseline_samples (baseline_id, embedding_id, patient_id, encoder)
    select built.id, embedding_id, built.patient_id, built.encoder
    from unnest(build_baseline.embedding_ids) as embedding_id;
    return built;
end
$$;
comment on function voice.build_baseline is
    'Builds the next baseline version as the mean of these embeddings and returns it. Without embeddings, the patient then has no current baseline, and it returns null. The caller has called care.lock_patient.';
revoke execute on function voice.build_baseline from public;

create function voice.sample_ids(baseline_id bigint)
returns bigint[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(array_agg(baseline_samples.embedding_id order by baseline_samples.embedding_id), '{}')
    from voice.baseline_samples
    where baseline_samples.baseline_id = sample_ids.baseline_id
$$;
comment on function voice.sample_ids is 'Returns the ids of the embeddings of which a baseline version is the mean.';
revoke execute on function voice.sample_ids from public;

create policy caregivers_read_their_patients_baselines on voice.baselines
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

-- 40_enrolment.sql

-- Enrolment: which recordings become samples of a baseline, and which are removed from it.

create function voice.enrolment_samples(enrolment_id uuid, encoder text)
returns bigint[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(array_agg(embeddings.id order by embeddings.id), '{}')
    from public.call_logs
    join voice.embeddings on embeddings.call_log_id = call_logs.id
    where call_logs.enrolment_id = enrolment_samples.enrolment_id
        and embeddings.encoder = enrolment_samples.encoder
        and not care.is_unwell_at(call_logs.patient_id, call_logs."timestamp")
$$;
comment on function voice.enrolment_samples is
    'Returns the embeddings of one enrolment''s recordings, except those of days that have since been flagged.';
revoke execute on function voice.enrolment_samples from public;

create function voice.enrol(call public.call_logs, embedding_id bigint, policy voice.policies)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    present voice.baselines := voice.current_baseline(call.patient_id, policy.encoder);
    samples bigint[] := array[enrol.embedding_id];
begin
    if call.enrolment_id is not null then
        samples := voice.enrolment_samples(call.enrolment_id, policy.encoder);
        if present.enrolment_id = call.enrolment_id then
            -- Keep the samples that have been added to it since.
            samples := array(select distinct id from unnest(samples || voice.sample_ids(present.id)) as id order by id);
        elsif present.sample_count >= policy.baseline_minimum_samples
            and cardinality(samples) < policy.baseline_minimum_samples
        then
            -- A complete baseline stays in use until the new one is complete.
            return false;
        end if;
    end if;
    perform voice.build_baseline(call.patient_id, policy.encoder, samples, call.enrolment_id);
    if present.enrolment_id is distinct from call.enrolment_id then
        perform voice.restart_chart(call.patient_id, policy.encoder);
    end if;
    return true;
end
$$;
comment on function voice.enrol is
    'Builds a baseline from a first healthy call, or from the recordings of an enrolment so far. Returns whether the sample is now in use. The caller has called care.lock_patient.';
revoke execute on function voice.enrol from public;

create function voice.add_sample(baseline voice.baselines, embedding_id bigint, policy voice.policies)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if baseline.sample_count >= voice.target_samples(policy) then
        return false;
    end if;
    perform voice.build_baseline(baseline.patient_id, baseline.encoder,
        voice.sample_ids(baseline.id) || add_sample.embedding_id, baseline.enrolment_id);
    return true;
end
$$;
comment on function voice.add_sample is
    'Adds the sample of a healthy call with a low score to the baseline unless it has enough. Returns whether it did. The caller has called care.lock_patient.';
revoke execute on function voice.add_sample from public;

create function voice.remove_samples(patient_id uuid, embedding_ids bigint[])
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    affected record;
    removed integer := 0;
begin
    for affected in
        select
            baselines.encoder,
            baselines.enrolment_id,
            count(*) filter (where baseline_samples.embedding_id = any (remove_samples.embedding_ids)) as removed_count,
            coalesce(array_agg(baseline_samples.embedding_id order by baseline_samples.embedding_id)
                filter (where baseline_samples.embedding_id <> all (remove_samples.embedding_ids)), '{}') as kept_ids
        from voice.baselines
        join voice.baseline_samples on baseline_samples.baseline_id = baselines.id
        where baselines.patient_id = remove_samples.patient_id and baselines.superseded_at is null
        group by baselines.id
    loop
        if affected.removed_count > 0 then
            removed := removed + affected.removed_count;
            perform voice.build_baseline(remove_samples.patient_id, affected.encoder, affected.kept_ids, affected.enrolment_id);
        end if;
    end loop;
    if removed > 0 then
        perform voice.replay_charts(remove_samples.patient_id);
    end if;
    return removed;
end
$$;
comment on function voice.remove_samples is
    'Rebuilds the patient''s current baselines without these samples, computes their charts again, and returns how many were removed. If none are left, the next healthy call enrols. The caller has called care.lock_patient.';
revoke execute on function voice.remove_samples from public;

create function voice.withdraw_samples(patient_id uuid)
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    removed integer;
begin
    perform care.lock_patient(withdraw_samples.patient_id);
    removed := voice.remove_samples(withdraw_samples.patient_id, array(
        select embeddings.id
        from voice.embeddings
        join public.call_logs on call_logs.id = embeddings.call_log_id
        where embeddings.patient_id = withdraw_samples.patient_id
            and care.is_unwell_at(call_logs.patient_id, call_logs."timestamp")
    ));
    if removed = 0 and exists (
        select from public.voice_anomaly_logs
        where voice_anomaly_logs.patient_id = withdraw_samples.patient_id
            and voice_anomaly_logs.is_learned
            and care.is_unwell_at(voice_anomaly_logs.patient_id, voice_anomaly_logs."timestamp")
    ) then
        perform voice.replay_charts(withdraw_samples.patient_id);
    end if;
    return removed;
end
$$;
comment on function voice.withdraw_samples is
    'Rebuilds the patient''s current baselines without samples of times that a health flag covers, and returns how many were removed. Charts forget what they learned in that time.';
revoke execute on function voice.withdraw_samples from public;

create function voice.on_health_flag()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform voice.withdraw_samples(new.patient_id);
    return null;
end
$$;
comment on function voice.on_health_flag is
    'Trigger: withdraws the samples that a newly added or changed health flag covers. Security definer: roles that write health flags have no privileges on the private schemas.';
revoke execute on function voice.on_health_flag from public;

create function voice.enrol_archived(patient public.patients, call public.call_logs, stored voice.embeddings, policy voice.policies)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    present voice.baselines := voice.current_baseline(patient.id, stored.encoder);
begin
    if not care.is_healthy_at(patient, call."timestamp") then
        return false;
    elsif present.id is null then
        perform voice.build_baseline(patient.id, stored.encoder, array[stored.id], null);
        return true;
    elsif exists (
        select
        from voice.baseline_samples
        join voice.embeddings on embeddings.id = baseline_samples.embedding_id
        join public.call_logs on call_logs.id = embeddings.call_log_id
        where baseline_samples.baseline_id = present.id and (call_logs.source <> 'archive' or embeddings.id = stored.id)
    ) then
        return false;
    end if;
    return care.severity(
            voice.anomaly(voice.raw_similarity(present.embedding, stored.embedding)), care.thresholds_for(policy.encoder, patient.id)) = 'low'
        and voice.add_sample(present, stored.id, policy);
end
$$;
comment on function voice.enrol_archived is
    'Adds an archived call to a baseline that contains archived calls only, by the rule of ordinary calls: the first healthy call builds the baseline, then healthy calls that sound like it are added until it has enough. A baseline that contains any other call stays unchanged. Returns whether the call became a sample. The caller has called care.lock_patient.';
revoke execute on function voice.enrol_archived from public;

-- 40_voice_charts.sql

-- Charts: what the calibrated rule remembers of each patient between calls, one row per encoder, and what corrects it.
--
-- Calls are measured against the reference. It is the baseline itself until that is complete; then it follows usual calls slowly, never
-- farther than two calls of one person differ anyway, so that ageing and seasons raise no alarm and a decline is not swallowed.

create table voice.charts (
    patient_id uuid not null
        constraint a_chart_is_of_a_patient references public.patients (id) on delete cascade,
    encoder text not null,
    calibration_id integer not null,
    anchor_id bigint not null,
    sample_variance double precision not null,
    whitened_anchor extensions.vector,
    whitened_sample_variance double precision,
    reference extensions.vector not null,
    reference_version integer not null default 1,
    state voice.chart_state not null,
    decision_count integer not null default 0,
    calls_per_year double precision not null default 365,
    calls_counted_at timestamptz not null,
    last_call_at timestamptz,
    constraint charts_pkey primary key (patient_id, encoder),
    constraint a_chart_uses_a_calibration_of_its_encoder
        foreign key (calibration_id, encoder) references voice.calibrations (id, encoder),
    constraint a_chart_is_anchored_in_a_baseline
        foreign key (anchor_id, patient_id, encoder) references voice.baselines (id, patient_id, encoder) on delete cascade
) with (fillfactor = 70);
create index charts_by_calibration on voice.charts (calibration_id, encoder);
create index charts_by_anchor on voice.charts (anchor_id, patient_id, encoder);
alter table voice.charts enable row level security;
comment on table voice.charts is
    'The control chart of each patient, with the reference against which calls are measured. This is biometric data; no role has privileges on it.';
comment on column voice.charts.anchor_id is 'The baseline version from which the reference began.';
comment on column voice.charts.sample_variance is 'What the baseline''s samples add to the expected distance: half the sum of their variances over the square of their number.';
comment on column voice.charts.whitened_anchor is 'The baseline in the whitened space. Null: the calibration has no projection.';
comment on column voice.charts.reference_version is 'Counts the changes of the reference.';
comment on column voice.charts.decision_count is 'How many calls were judged by the calibrated rule; the last one has this decision_number.';
comment on column voice.charts.calls_per_year is 'How often the patient is called, by the judged calls of the last 90 days; 365 in the first 90 days. Counted once a month.';

create type voice.correction_kind as enum (
    'settled',      -- somebody said that the patient is well: what pointed to a change is gone
    'restarted',    -- another baseline, or another calibration: nothing is known yet
    'replayed'      -- calls were withdrawn: the chart was computed again from the stored numbers of the others
);
comment on type voice.correction_kind is 'Why a chart was changed by something other than a call.';

create table voice.chart_corrections (
    id bigint generated always as identity constraint chart_corrections_pkey primary key,
    patient_id uuid not null
        constraint a_correction_is_of_a_patients_chart references public.patients (id) on delete cascade,
    encoder text not null,
    after_decision integer not null,
    kind voice.correction_kind not null,
    state voice.chart_state not null,
    corrected_at timestamptz not null default clock_timestamp()
);
create index corrections_by_chart on voice.chart_corrections (patient_id, encoder, after_decision);
alter table voice.chart_corrections enable row level security;
comment on table voice.chart_corrections is
    'Every change of a chart that no call made, so that a replay of the calls gives the same numbers. They outlive the chart, as the logs do.';
comment on column voice.chart_corrections.after_decision is 'The decision_number of the last call before it.';
comment on column voice.chart_corrections.state is 'The chart after the correction.';

create function voice.sample_variance(baseline_id bigint, calibration_id integer, space voice.vector_space)
returns double precision
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select sum(bin.call_variance + bin.speech_variance / embeddings.speech_seconds) / (2 * count(*) ^ 2)
    from voice.baseline_samples
    join voice.embeddings on embeddings.id = baseline_samples.embedding_id
    cross join lateral voice.calibration_bin(sample_variance.calibration_id, sample_variance.space, embeddings.snr_db) as bin
    where baseline_samples.baseline_id = sample_variance.baseline_id
$$;
comment on function voice.sample_variance is
    'Returns half the sum of the variances of a baseline''s samples over the square of their number: what they add to the expected distance.';
revoke execute on function voice.sample_variance from public;

create function voice.anchor_chart(chart voice.charts, baseline voice.baselines)
returns voice.charts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    chart.anchor_id := baseline.id;
    chart.reference := baseline.embedding;
    chart.reference_version := coalesce(chart.reference_version, 0) + 1;
    chart.sample_variance := voice.sample_variance(baseline.id, chart.calibration_id, 'raw');
    chart.whitened_anchor := voice.whiten(baseline.embedding, chart.calibration_id);
    if chart.whitened_anchor is not null then
        chart.whitened_sample_variance := voice.sample_variance(baseline.id, chart.calibration_id, 'whitened');
    end if;
    return chart;
end
$$;
comment on function voice.anchor_chart is 'Returns the chart with this baseline as its anchor and reference; nothing else changes.';
revoke execute on function voice.anchor_chart from public;

create function voice.correct_chart(chart voice.charts, kind voice.correction_kind, state voice.chart_state)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update voice.charts
    set state = correct_chart.state
    where charts.patient_id = chart.patient_id and charts.encoder = chart.encoder;
    insert into voice.chart_corrections (patient_id, encoder, after_decision, kind, state)
    values (chart.patient_id, chart.encoder, chart.decision_count, correct_chart.kind, correct_chart.state);
end
$$;
comment on function voice.correct_chart is 'Gives a chart another state, and keeps why. The caller has called care.lock_patient.';
revoke execute on function voice.correct_chart from public;

create function voice.chart_of(baseline voice.baselines, calibration_id integer, at timestamptz)
returns voice.charts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    chart voice.charts;
    is_new boolean;
begin
    select charts.* into chart
    from voice.charts
    where charts.patient_id = baseline.patient_id and charts.encoder = baseline.encoder;
    is_new := not found;
    if not is_new and chart.anchor_id = baseline.id and chart.calibration_id = chart_of.calibration_id then
        return chart;
    end if;
    if is_new then
        chart.patient_id := baseline.patient_id;
        chart.encoder := baseline.encoder;
        chart.state := voice.new_chart();
        -- A patient without a baseline for a time had a chart before; its decisions keep their numbers.
        chart.decision_count := coalesce((
            select max(voice_anomaly_logs.decision_number)
            from public.voice_anomaly_logs
            where voice_anomaly_logs.patient_id = baseline.patient_id and voice_anomaly_logs.encoder = baseline.encoder
        ), 0);
        chart.calls_per_year := 365;
        chart.calls_counted_at := chart_of.at;
    elsif chart.calibration_id <> chart_of.calibration_id then
        -- Deviations by different calibrations are not comparable.
        perform voice.correct_chart(chart, 'restarted', voice.new_chart());
        chart.state := voice.new_chart();
    end if;
    chart.calibration_id := chart_of.calibration_id;
    chart := voice.anchor_chart(chart, baseline);
    if is_new then
        insert into voice.charts select chart.*;
        perform voice.correct_chart(chart, 'restarted', chart.state) where chart.decision_count > 0;
    else
        update voice.charts
        set calibration_id = chart.calibration_id,
            anchor_id = chart.anchor_id,
            sample_variance = chart.sample_variance,
            whitened_anchor = chart.whitened_anchor,
            whitened_sample_variance = chart.whitened_sample_variance,
            reference = chart.reference,
            reference_version = chart.reference_version
        where charts.patient_id = chart.patient_id and charts.encoder = chart.encoder;
    end if;
    return chart;
end
$$;
comment on function voice.chart_of is
    'Returns the patient''s chart, anchored in this baseline; a new one if there is none, and one that knows nothing yet if the calibration is another. The caller has called care.lock_patient.';
revoke execute on function voice.chart_of from public;

create function voice.scaled(embedding extensions.vector, factor double precision)
returns extensions.vector
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select scaled.embedding operator(extensions.*) array_fill(scaled.factor::real, array[extensions.vector_dims(scaled.embedding)])::extensions.vector
$$;
comment on function voice.scaled is 'Multiplies a vector by a number.';
revoke execute on function voice.scaled from public;

create function voice.followed(
    reference extensions.vector, anchor extensions.vector, "current" extensions.vector, share double precision,
    least_similarity double precision
)
returns extensions.vector
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    moved constant extensions.vector := extensions.l2_normalize(
        voice.scaled(followed.reference, 1 - followed.share) operator(extensions.+) voice.scaled(followed."current", followed.share));
    similarity constant double precision := 1 - (followed.anchor operator(extensions.<=>) moved);
begin
    if similarity >= followed.least_similarity then
        return moved;
    end if;
    -- Too far: back to the edge, in the same direction from the anchor.
    return extensions.l2_normalize(
        voice.scaled(followed.anchor, followed.least_similarity)
        operator(extensions.+) voice.scaled(
            extensions.l2_normalize(moved operator(extensions.-) voice.scaled(followed.anchor, similarity)),
            sqrt(1 - followed.least_similarity ^ 2)));
end
$$;
comment on function voice.followed is
    'Returns the reference after it followed a call by this share of the way, never less similar to the anchor than least_similarity. All are unit vectors.';
revoke execute on function voice.followed from public;

create function voice.least_reference_similarity(calibration_id integer)
returns double precision
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    -- A quarter of the expected distance of two clean calls with 8 s of speech each.
    select 1 - (bins.call_variance + bins.speech_variance / 8) / 8
    from voice.calibration_bins as bins
    where bins.calibration_id = least_reference_similarity.calibration_id and bins.space = 'raw'
    order by bins.snr_from desc
    limit 1
$$;
comment on function voice.least_reference_similarity is 'Returns how similar a reference stays to its anchor at least.';
revoke execute on function voice.least_reference_similarity from public;

create function voice.replayed_state(chart voice.charts, thresholds care.thresholds)
returns voice.chart_state
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    calibration constant voice.calibrations := (select calibrations from voice.calibrations where calibrations.id = chart.calibration_id);
    state voice.chart_state := voice.new_chart();
    restarted_after constant integer := coalesce((
        select max(chart_corrections.after_decision)
        from voice.chart_corrections
        where chart_corrections.patient_id = chart.patient_id
            and chart_corrections.encoder = chart.encoder
            and chart_corrections.kind = 'restarted'
    ), 0);
    replayed record;
begin
    for replayed in
        select
            kept.log,
            (kept.log).is_learned and not care.is_unwell_at(chart.patient_id, (kept.log)."timestamp") as is_healthy,
            exists (
                select from voice.chart_corrections
                where chart_corrections.patient_id = chart.patient_id
                    and chart_corrections.encoder = chart.encoder
                    and chart_corrections.kind = 'settled'
                    and chart_corrections.after_decision >= (kept.log).decision_number
                    and (chart_corrections.after_decision < kept.next_number or kept.next_number is null)
            ) as is_settled
        from (
            -- Calls in between were late, or are deleted; somebody may have answered after one of them.
            select logs as log, lead(logs.decision_number) over (order by logs.decision_number) as next_number
            from public.voice_anomaly_logs as logs
            where logs.patient_id = chart.patient_id
                and logs.encoder = chart.encoder
                and logs.decision_number > restarted_after
                and logs.calibration_id = chart.calibration_id
                and not logs.is_late
        ) as kept
        order by (kept.log).decision_number
    loop
        if not (replayed.log).is_disowned then
            state := (voice.decide(
                state, voice.logged_observation(replayed.log), calibration, replayed_state.thresholds, (replayed.log).warnings_per_year,
                (replayed.log).calls_per_year, (replayed.log).local_day, replayed.is_healthy, false)).after;
        end if;
        if replayed.is_settled then
            state := voice.settled_chart(state);
        end if;
    end loop;
    return state;
end
$$;
comment on function voice.replayed_state is
    'Computes a chart again from the stored numbers of its calls, without learning from days that are flagged by now, and without calls that were somebody else''s.';
revoke execute on function voice.replayed_state from public;

create function voice.replay_charts(patient_id uuid)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    chart voice.charts;
    baseline voice.baselines;
begin
    for chart in select charts.* from voice.charts where charts.patient_id = replay_charts.patient_id order by charts.encoder loop
        baseline := voice.current_baseline(chart.patient_id, chart.encoder);
        if baseline.id is null then
            delete from voice.charts where charts.patient_id = chart.patient_id and charts.encoder = chart.encoder;
        else
            -- The reference may have followed a call that is withdrawn now.
            update voice.charts
            set reference = baseline.embedding, reference_version = chart.reference_version + 1
            where charts.patient_id = chart.patient_id and charts.encoder = chart.encoder;
            perform voice.correct_chart(
                voice.chart_of(baseline, chart.calibration_id, chart.calls_counted_at), 'replayed',
                voice.replayed_state(chart, care.thresholds_for(chart.encoder, chart.patient_id)));
        end if;
    end loop;
end
$$;
comment on function voice.replay_charts is
    'Computes the patient''s charts again after samples were withdrawn, with the present baselines as their references. The caller has called care.lock_patient.';
revoke execute on function voice.replay_charts from public;

create function voice.restart_chart(patient_id uuid, encoder text)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select voice.correct_chart(charts, 'restarted', voice.new_chart())
    from voice.charts
    where charts.patient_id = restart_chart.patient_id and charts.encoder = restart_chart.encoder
$$;
comment on function voice.restart_chart is
    'Forgets what is known of the patient''s calls, since another baseline replaces theirs. The caller has called care.lock_patient.';
revoke execute on function voice.restart_chart from public;

-- 40_voice_explanations.sql

-- Voice explanations: what is unusual about how a patient speaks on a call, in the patient's own deviations. They explain a judgement
-- and are never part of it.
--
-- The service measures five features of each recording (voice.embeddings.quality, "features"). A feature is compared with the patient's
-- healthy calls by the predictive distribution of a normal variable whose mean and variance are not known, under the prior in
-- voice.features (c calls with that mean and m2; kappa = within_deviation^2 / between_deviation^2):
--
--     expected  = (c * mean + kappa * population_mean) / (c + kappa)
--     variance  = (degrees * within_deviation^2 + m2 + c * kappa / (c + kappa) * (mean - population_mean)^2) / (degrees + c)
--     t         = (value - expected) / sqrt(variance * (1 + 1 / (c + kappa)))          Student, degrees + c degrees of freedom
--     deviation = t as a normal deviate                                                Wallace, error below 0.01

create table voice.features (
    id text constraint features_pkey primary key
        constraint a_feature_is_one_word check (id ~ '^[a-z_]+$'),
    name text not null,
    unit text not null,
    population_mean double precision not null,
    between_deviation double precision not null
        constraint people_differ_in_a_feature check (between_deviation > 0 and between_deviation < 'infinity'),
    within_deviation double precision not null
        constraint calls_differ_in_a_feature check (within_deviation > 0 and within_deviation < 'infinity'),
    degrees double precision not null
        constraint a_prior_has_degrees_of_freedom check (degrees > 0 and degrees < 'infinity'),
    above_reason text not null,
    below_reason text not null,
    said_beyond double precision not null default 2
        constraint what_is_usual_is_not_said check (said_beyond > 0),
    minimum_calls integer not null default 5
        constraint a_comparison_needs_a_call check (minimum_calls >= 1),
    learned_calls integer not null default 60,
    learned_within double precision not null default 3
        constraint a_learned_value_lies_within_a_range check (learned_within > 0),
    constraint enough_calls_are_learned check (learned_calls >= minimum_calls)
);
alter table voice.features enable row level security;
insert into voice.features
    (id, name, unit, population_mean, between_deviation, within_deviation, degrees, above_reason, below_reason)
values
    ('pitch', 'Median pitch', 'semitones above 100 Hz', 7.6, 5.5, 1.2, 6, 'higher_voice', 'lower_voice'),
    ('pitch_spread', 'Pitch, from the 10th to the 90th percentile', 'semitones', 7.4, 2.1, 1.3, 7, 'livelier', 'flatter'),
    ('syllable_rate', 'Syllables', 'per second of speech', 3.7, 0.61, 0.31, 7, 'faster', 'slower'),
    ('pause_share', 'Pauses', 'share of the time in which the patient has the word', 0.13, 0.074, 0.070, 12, 'longer_pauses', 'shorter_pauses'),
    ('tilt', 'Power at 1 to 3.4 kHz over that at 0.3 to 1 kHz', 'dB', -5.7, 4.1, 1.4, 8, 'brighter', 'duller');
comment on table voice.features is
    'The features of speech that explain a judgement, and the prior under which a call is compared with the patient''s own. The values are those of public recordings in a telephone''s band (`scripts/bench features`).';
comment on column voice.features.id is 'The name under which the service stores the measure, in voice.embeddings.quality, "features".';
comment on column voice.features.population_mean is 'The mean over people.';
comment on column voice.features.between_deviation is 'The standard deviation of people''s means.';
comment on column voice.features.within_deviation is 'The standard deviation of one person''s calls, over people in general.';
comment on column voice.features.degrees is 'How many calls of the patient count as much as within_deviation does.';
comment on column voice.features.above_reason is 'The reason that is given for a value above the usual ones; its words are in care.reason_texts.';
comment on column voice.features.below_reason is 'The reason that is given for a value below the usual ones.';
comment on column voice.features.said_beyond is 'A deviation beyond this, in either direction, is a reason. It is a normal deviate.';
comment on column voice.features.minimum_calls is 'Nothing is said before so many healthy calls of the patient have been learned.';
comment on column voice.features.learned_calls is 'After so many calls, what is usual no longer changes.';
comment on column voice.features.learned_within is
    'A value further from the expected one than so many deviations is learned as if it were only so far.';

create table voice.usual_features (
    patient_id uuid not null
        constraint usual_features_are_of_a_patient references public.patients (id) on delete cascade,
    feature text not null
        constraint what_is_usual_is_a_feature references voice.features (id) on delete cascade,
    call_count integer not null
        constraint something_usual_was_heard check (call_count >= 1),
    mean double precision not null,
    m2 double precision not null
        constraint squares_add_up_to_no_less_than_0 check (m2 >= 0 and m2 < 'infinity'),
    updated_at timestamptz not null default now(),
    constraint usual_features_pkey primary key (patient_id, feature)
);
create index usual_features_by_feature on voice.usual_features (feature);
alter table voice.usual_features enable row level security;
comment on table voice.usual_features is
    'How a patient usually speaks: the statistics of each feature over the first healthy calls. They are biometric data.';
comment on column voice.usual_features.m2 is 'The sum of the squared deviations from the mean.';

create type voice.expected_feature as (
    expected double precision,
    deviation double precision,
    degrees double precision
);
comment on type voice.expected_feature is
    'What the next call of a patient is expected to measure: a Student distribution around expected, with the scale deviation and so many degrees of freedom.';

create function voice.expected_feature(feature voice.features, usual voice.usual_features)
returns voice.expected_feature
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select
        (calls * coalesce(usual.mean, 0) + kappa * feature.population_mean) / (calls + kappa),
        sqrt(
            (
                feature.degrees * feature.within_deviation ^ 2
                + coalesce(usual.m2, 0)
                + calls * kappa / (calls + kappa) * (coalesce(usual.mean, 0) - feature.population_mean) ^ 2
            )
            / (feature.degrees + calls) * (1 + 1 / (calls + kappa))),
        feature.degrees + calls
    from (select coalesce(usual.call_count, 0), (feature.within_deviation / feature.between_deviation) ^ 2) as prior (calls, kappa)
$$;
comment on function voice.expected_feature is
    'Returns what a patient''s next call is expected to measure. Without usual values (null), it is what anybody''s would.';
revoke execute on function voice.expected_feature from public;

create function voice.measured_features(quality jsonb)
returns table (feature voice.features, value double precision)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select features, measured.value::double precision
    from voice.features
    cross join lateral (
        select case when jsonb_typeof(found) = 'number' then found::numeric end
        from (select measured_features.quality -> 'features' -> features.id) as given (found)
    ) as measured (value)
    -- Nothing that can be heard is larger, and an explanation must not fail a judgement.
    where abs(measured.value) < 1e6
$$;
comment on function voice.measured_features is
    'Returns the features that were measured on a call. Those that its line did not allow are missing.';
revoke execute on function voice.measured_features from public;

create function voice.unusual_features(patient_id uuid, quality jsonb)
returns table (reason text, deviation double precision)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case when compared.deviation > 0 then (compared.feature).above_reason else (compared.feature).below_reason end, compared.deviation
    from (
        select
            measured.feature,
            voice.normal_deviate((measured.value - expected.expected) / expected.deviation, expected.degrees) as deviation
        from voice.measured_features(unusual_features.quality) as measured
        join voice.usual_features as usual
            on usual.patient_id = unusual_features.patient_id
            and usual.feature = (measured.feature).id
            and usual.call_count >= (measured.feature).minimum_calls
        cross join lateral voice.expected_feature(measured.feature, usual) as expected
    ) as compared
    where abs(compared.deviation) > (compared.feature).said_beyond
    order by abs(compared.deviation) desc
    limit 3
$$;
comment on function voice.unusual_features is
    'Returns what is unusual about how this patient speaks on a call, the most unusual first and at most three, with the deviation as a normal deviate. Returns nothing before enough healthy calls were learned.';
revoke execute on function voice.unusual_features from public;

create function voice.learn_features(patient_id uuid, quality jsonb)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into voice.usual_features as usual (patient_id, feature, call_count, mean, m2)
    select
        learn_features.patient_id,
        (measured.feature).id,
        1,
        greatest(
            expected.expected - (measured.feature).learned_within * expected.deviation,
            least(expected.expected + (measured.feature).learned_within * expected.deviation, measured.value)),
        0
    from voice.measured_features(learn_features.quality) as measured
    left join voice.usual_features as present
        on present.patient_id = learn_features.patient_id and present.feature = (measured.feature).id
    cross join lateral voice.expected_feature(measured.feature, present) as expected
    where coalesce(present.call_count, 0) < (measured.feature).learned_calls
    on conflict on constraint usual_features_pkey do update
    set call_count = usual.call_count + 1,
        mean = usual.mean + (excluded.mean - usual.mean) / (usual.call_count + 1),
        m2 = usual.m2 + (excluded.mean - usual.mean) ^ 2 * usual.call_count / (usual.call_count + 1),
        updated_at = now()
$$;
comment on function voice.learn_features is
    'Adds a healthy call to what is usual for a patient. The caller has called care.lock_patient.';
revoke execute on function voice.learn_features from public;

-- 41_voice_logs.sql

-- Voice logs: the detail of each voice judgement, with everything needed to explain and recompute its score.

create table public.voice_anomaly_logs (
    id uuid constraint voice_anomaly_logs_pkey primary key
        constraint a_log_is_the_detail_of_a_judgement references public.judgements (id) on delete cascade,
    patient_id uuid not null
        constraint a_log_is_of_a_patient references public.patients (id) on delete cascade,
    call_log_id uuid not null
        constraint a_log_is_of_a_call references public.call_logs (id) on delete cascade,
    "timestamp" timestamptz not null,
    anomaly_score double precision not null
        constraint an_anomaly_score_is_a_share check (anomaly_score between 0 and 1),
    raw_similarity double precision not null
        constraint a_raw_similarity_is_a_cosine check (raw_similarity between -1.000001 and 1.000001),
    normalized_score double precision not null
        constraint the_normalized_score_is_the_anomaly_score check (normalized_score = anomaly_score),
    adjusted_from double precision not null
        constraint an_unadjusted_score_is_a_share check (adjusted_from between 0 and 1),
    snr double precision,
    rule public.scoring_rule not null default 'fixed',
    verdict public.voice_verdict not null,
    pace public.change_pace,
    severity public.anomaly_severity not null,
    alert_type public.alert_type
        constraint an_alert_type_follows_from_the_severity check (
            alert_type is not distinct from care.alert_type(care.alert_level(severity))),
    noise_adjusted boolean not null,
    alert_sent boolean not null default false,
    notes text
        constraint notes_on_a_call_have_at_most_10000_characters check (char_length(notes) <= 10000),
    encoder text not null,
    embedding_id bigint
        constraint a_log_keeps_its_embedding references voice.embeddings (id) on delete set null,
    baseline_id bigint
        constraint a_log_keeps_its_baseline references voice.baselines (id) on delete set null,
    baseline_version integer not null,
    is_provisional boolean not null,
    added_to_baseline boolean not null,
    local_hour double precision,
    local_day date,
    speech_seconds double precision,
    calibration_id integer
        constraint a_log_keeps_its_calibration references voice.calibrations (id),
    reference_version integer,
    is_clean boolean,
    expected_distance double precision,
    population_deviation double precision,
    log_likelihood_ratio double precision,
    whitened_deviation double precision,
    whitened_log_likelihood_ratio double precision,
    warnings_per_year double precision,
    calls_per_year double precision,
    decision_number integer,
    usual_mean double precision,
    usual_variance double precision,
    usual_degrees double precision,
    personal_deviation double precision,
    cusum_before double precision,
    cusum_after double precision,
    is_late boolean not null default false,
    is_step boolean not null default false,
    is_learned boolean not null default false,
    is_disowned boolean not null default false,
    created_at timestamptz not null default now(),
    constraint a_call_is_scored_once_per_encoder unique (call_log_id, encoder),
    constraint decisions_are_counted unique (patient_id, encoder, decision_number),
    constraint a_calibrated_log_can_be_replayed check (
        (rule = 'calibrated') = (decision_number is not null)
        and (rule <> 'calibrated' or (
            calibration_id is not null and is_clean is not null and expected_distance is not null and population_deviation is not null
            and log_likelihood_ratio is not null and warnings_per_year is not null and calls_per_year is not null
            and personal_deviation is not null and cusum_before is not null and cusum_after is not null and pace is not null
            and local_day is not null)))
);
create index voice_anomaly_logs_by_calibration on public.voice_anomaly_logs (calibration_id);
create index voice_anomaly_logs_by_patient on public.voice_anomaly_logs (patient_id, "timestamp" desc);
create index voice_anomaly_logs_by_time on public.voice_anomaly_logs ("timestamp" desc);
create index voice_anomaly_logs_by_embedding on public.voice_anomaly_logs (embedding_id);
create index voice_anomaly_logs_by_baseline on public.voice_anomaly_logs (baseline_id);
alter table public.voice_anomaly_logs enable row level security;
revoke all on public.voice_anomaly_logs from anon, authenticated, service_role;
comment on table public.voice_anomaly_logs is
    'The measures behind a voice judgement, under the judgement''s id. Only voice.complete_check writes it; callers may edit notes.';
comment on column public.voice_anomaly_logs."timestamp" is 'When the call began.';
comment on column public.voice_anomaly_logs.anomaly_score is '0 = as usual, 1 = completely different, after the adjustments.';
comment on column public.voice_anomaly_logs.raw_similarity is
    'Cosine similarity, -1 .. 1, of the embedding and what it was measured against: the baseline or, under the calibrated rule, the reference that follows it.';
comment on column public.voice_anomaly_logs.normalized_score is 'Equal to anomaly_score, under its earlier name.';
comment on column public.voice_anomaly_logs.adjusted_from is
    'The score before the noise and time-of-day adjustments; under the calibrated rule, the score that it would have if it were confirmed.';
comment on column public.voice_anomaly_logs.rule is 'How the score was computed. A provisional score is by the fixed rule always.';
comment on column public.voice_anomaly_logs.verdict is 'as_usual, changed, or another_voice: it did not sound like this person.';
comment on column public.voice_anomaly_logs.pace is 'Whether this call alone decided the score, or the calls of the last days together. Null: by the fixed rule.';
comment on column public.voice_anomaly_logs.speech_seconds is 'Net speech that was analysed.';
comment on column public.voice_anomaly_logs.calibration_id is 'The calibration by which the call was measured. Null: there was none, or the score is provisional.';
comment on column public.voice_anomaly_logs.reference_version is
    'Which version of the patient''s reference it was measured against. Null: against the baseline itself.';
comment on column public.voice_anomaly_logs.is_clean is 'Whether the SNR is in the calibration''s highest bin.';
comment on column public.voice_anomaly_logs.expected_distance is 'How far a healthy call with this noise and length lies from the baseline on average.';
comment on column public.voice_anomaly_logs.population_deviation is 'How far ln(distance) is above what is expected, in standard deviations of the population.';
comment on column public.voice_anomaly_logs.log_likelihood_ratio is 'Below 0, another person is likelier than this one.';
comment on column public.voice_anomaly_logs.whitened_deviation is 'population_deviation in the whitened space.';
comment on column public.voice_anomaly_logs.whitened_log_likelihood_ratio is 'log_likelihood_ratio in the whitened space.';
comment on column public.voice_anomaly_logs.warnings_per_year is 'How many warnings a year by chance were accepted for this patient.';
comment on column public.voice_anomaly_logs.calls_per_year is 'How often the patient was called.';
comment on column public.voice_anomaly_logs.decision_number is 'Counts the patient''s calls under the calibrated rule, in the order in which they were judged. Null: by the fixed rule.';
comment on column public.voice_anomaly_logs.usual_mean is 'What was expected of this patient''s population_deviation, from the calls learned so far.';
comment on column public.voice_anomaly_logs.usual_variance is 'Its variance.';
comment on column public.voice_anomaly_logs.usual_degrees is 'How well that is known, in degrees of freedom.';
comment on column public.voice_anomaly_logs.personal_deviation is 'population_deviation against this patient''s own mean and variance, as a standard normal deviate. Above 2 is far from usual.';
comment on column public.voice_anomaly_logs.cusum_before is 'The CUSUM before the call.';
comment on column public.voice_anomaly_logs.cusum_after is 'The CUSUM after the call: how much the last days together differ.';
comment on column public.voice_anomaly_logs.is_late is 'Whether a later call had been judged before: the chart did not change.';
comment on column public.voice_anomaly_logs.is_step is 'Whether the change came suddenly after steady calls, as with a new telephone or room.';
comment on column public.voice_anomaly_logs.is_learned is 'Whether the patient''s own mean and variance were learned from it.';
comment on column public.voice_anomaly_logs.is_disowned is 'Whether somebody said that this was another person, or another recording. It then counts no longer.';
comment on column public.voice_anomaly_logs.encoder is 'The judgement''s model.';
comment on column public.voice_anomaly_logs.snr is 'Level of speech above the noise floor, dB. Null: not known.';
comment on column public.voice_anomaly_logs.noise_adjusted is
    'Whether the adjustments changed the severity: listen to the recording before trusting the score.';
comment on column public.voice_anomaly_logs.is_provisional is 'Whether the baseline had fewer samples than the policy requires.';
comment on column public.voice_anomaly_logs.added_to_baseline is 'Whether the call, healthy and with a low score, became a sample itself.';
comment on column public.voice_anomaly_logs.local_hour is 'The hour of the call in the patient''s time zone, with its fraction.';
comment on column public.voice_anomaly_logs.local_day is 'The date of the call in the time zone that the patient had then.';
grant select, delete on public.voice_anomaly_logs to service_role;
grant update (notes) on public.voice_anomaly_logs to service_role;
grant select, update (notes) on public.voice_anomaly_logs to authenticated;

create function voice.logged_observation(log public.voice_anomaly_logs)
returns voice.observation
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select (
        log.is_clean, 1 - log.raw_similarity, log.expected_distance, log.population_deviation, log.log_likelihood_ratio,
        log.whitened_deviation, log.whitened_log_likelihood_ratio
    )::voice.observation
$$;
comment on function voice.logged_observation is 'Returns what a call measured, from its log.';
revoke execute on function voice.logged_observation from public;

create function voice.counted_calls_per_year(patient_id uuid, encoder text, at timestamptz)
returns double precision
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select greatest(52, least(1095, count(*) * 365 / 90.0::double precision))
    from public.voice_anomaly_logs
    where voice_anomaly_logs.patient_id = counted_calls_per_year.patient_id
        and voice_anomaly_logs.encoder = counted_calls_per_year.encoder
        and voice_anomaly_logs."timestamp" > counted_calls_per_year.at - interval '90 days'
        and voice_anomaly_logs."timestamp" <= counted_calls_per_year.at
$$;
comment on function voice.counted_calls_per_year is
    'Returns the calls a year at the rate of the last 90 days, from once a week to three times a day.';
revoke execute on function voice.counted_calls_per_year from public;

create function voice.household(patient public.patients)
returns setof public.patients
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select others.*
    from public.patients as others
    where others.phone = patient.phone and others.organisation_id = patient.organisation_id and others.id <> patient.id
$$;
comment on function voice.household is 'Returns the other patients of the same organisation with the same phone number.';
revoke execute on function voice.household from public;

create function voice.likely_speaker(patient public.patients, stored voice.embeddings, calibration voice.calibrations)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    likeliest record;
begin
    select others.id, compared.ratio into likeliest
    from voice.household(patient) as others
    join voice.baselines on baselines.patient_id = others.id and baselines.encoder = stored.encoder and baselines.superseded_at is null
    cross join lateral voice.observe(
        calibration, baselines.embedding, voice.sample_variance(baselines.id, calibration.id, 'raw'),
        voice.whiten(baselines.embedding, calibration.id), voice.sample_variance(baselines.id, calibration.id, 'whitened'),
        stored.embedding, stored.speech_seconds, stored.snr_db) as observed
    cross join lateral (
        select case
            when observed.is_clean then least(observed.log_likelihood_ratio, observed.whitened_log_likelihood_ratio)
            else coalesce(observed.whitened_log_likelihood_ratio, observed.log_likelihood_ratio)
        end as ratio
    ) as compared
    where others.voice_consent_at is not null and compared.ratio > 0
    order by compared.ratio desc
    limit 1;
    if likeliest.id is not null then
        perform care.note_audit(
            'voice_matched', 'voice.likely_speaker', likeliest.id, jsonb_build_object('encoder', stored.encoder));
    end if;
    return likeliest.id;
end
$$;
comment on function voice.likely_speaker is
    'Returns who of the patient''s household spoke instead, among those who enrolled and consent; null if nobody is likelier than a stranger. A match is noted in the audit log.';
revoke execute on function voice.likely_speaker from public;

create function voice.decision_in_words(
    patient public.patients, verdict public.voice_verdict, pace public.change_pace, is_urgent boolean, is_step boolean,
    warnings_per_year double precision, reasons text[]
)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Rarer events than those that the family accepts are not known well enough to be called rarer.
    return (
        select nullif(concat_ws(' ',
            case
                when verdict = 'another_voice' then format('It did not sound like %s.', names.patient)
                when verdict = 'changed' then format(
                    '%s so by chance less than %s a year.',
                    case pace
                        when 'sustained' then format('The calls of the last days together differ from how %s usually sounds; a healthy voice does', names.patient)
                        else format('This call differs from how %s usually sounds; a healthy voice does', names.patient)
                    end,
                    case decision_in_words.warnings_per_year when 1 then 'once' else decision_in_words.warnings_per_year || ' times' end)
            end,
            'It was ' || names.how || '.',
            case when is_urgent then 'It is one call only: a second one would confirm it.' end,
            case when is_step then 'The calls before it were steady: a new telephone or room is possible.' end), '')
        from (
            select
                care.plain_name(patient.name, 'this person') as patient,
                replace(care.reasons_in_words(decision_in_words.reasons, 'en'), '{patient}', care.plain_name(patient.name, 'this person')) as how
        ) as names
    );
end
$$;
comment on function voice.decision_in_words is 'Says in English why a call was judged as it was. Null: it was as usual.';
revoke execute on function voice.decision_in_words from public;

create function voice.is_sample(
    stored voice.embeddings, policy voice.policies, calibration voice.calibrations, decided voice.decision,
    thresholds care.thresholds, anomaly double precision
)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when decided.score is not null then
            decided.verdict <> 'another_voice'
            and decided.deviation < calibration.far_above
            and decided.cusum_after < calibration.sample_maximum_cusum
            and coalesce(stored.snr_db >= calibration.sample_minimum_snr_db, false)
        -- Judged by the score before adjustments: a score that is low only because noise or the time of day reduced it adds no sample.
        else care.severity(is_sample.anomaly, thresholds) = 'low'
    end
$$;
comment on function voice.is_sample is
    'Returns whether a call is near enough to usual, and its line clear enough, to become a sample of the baseline or to move its reference. anomaly is that of the fixed rule, for a call that it scored.';
revoke execute on function voice.is_sample from public;

create function voice.record_score(
    patient public.patients, call public.call_logs, stored voice.embeddings, policy voice.policies, thresholds care.thresholds,
    calibration voice.calibrations, logged public.voice_anomaly_logs, is_urgent boolean, at timestamptz
)
returns public.judgements
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    likely_patient_id constant uuid :=
        case when logged.verdict = 'another_voice' then voice.likely_speaker(patient, stored, calibration) end;
    reasons constant text[] := case when logged.verdict = 'changed' then array(
        select unusual.reason from voice.unusual_features(patient.id, stored.quality) as unusual order by abs(unusual.deviation) desc
    ) else '{}' end;
begin
    return care.record_judgement(
        call, thresholds, logged.anomaly_score,
        cause => case logged.verdict when 'another_voice' then 'another_voice' else 'voice_changed' end,
        rule => logged.rule::text,
        policy => to_jsonb(policy),
        severity => logged.severity,
        at => record_score.at,
        explanation => case when logged.rule = 'calibrated' then voice.decision_in_words(
            patient, logged.verdict, logged.pace, record_score.is_urgent, logged.is_step, logged.warnings_per_year, reasons) end,
        reasons => reasons,
        is_urgent => record_score.is_urgent,
        -- A calibrated policy tells nobody about a score by the fixed rule, which it gives while the baseline is incomplete.
        is_alerted => policy.rule = logged.rule,
        likely_patient_id => likely_patient_id);
end
$$;
comment on function voice.record_score is 'Records a scored call as a judgement, with its words, and returns that. Called by voice.score_call.';
revoke execute on function voice.record_score from public;

create function voice.score_call(
    patient public.patients,
    call public.call_logs,
    stored voice.embeddings,
    baseline voice.baselines,
    policy voice.policies,
    at timestamptz
)
returns public.voice_anomaly_logs
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    thresholds constant care.thresholds := care.thresholds_for(policy.encoder, patient.id);
    is_provisional constant boolean := baseline.sample_count < policy.baseline_minimum_samples;
    is_calibrated constant boolean := policy.rule = 'calibrated' and not is_provisional;
    is_healthy constant boolean := care.is_healthy_at(patient, call."timestamp");
    calibration voice.calibrations;
    chart voice.charts;
    observed voice.observation;
    decided voice.decision;
    judged voice.comparison;
    judgement public.judgements;
    logged public.voice_anomaly_logs;
begin
    -- What is measured is kept under either rule, so that the calibrated one can be tried on a history of the fixed one.
    if policy.calibration_id is not null and not is_provisional then
        select calibrations.* into calibration from voice.calibrations where calibrations.id = policy.calibration_id;
        chart := voice.chart_of(baseline, calibration.id, call."timestamp");
        observed := voice.observe(
            calibration, case when is_calibrated then chart.reference else baseline.embedding end, chart.sample_variance, chart.whitened_anchor, chart.whitened_sample_variance,
            stored.embedding, stored.speech_seconds, stored.snr_db);
        logged.calibration_id := calibration.id;
        logged.is_clean := observed.is_clean;
        logged.expected_distance := observed.expected_distance;
        logged.population_deviation := observed.deviation;
        logged.log_likelihood_ratio := observed.log_likelihood_ratio;
        logged.whitened_deviation := observed.whitened_deviation;
        logged.whitened_log_likelihood_ratio := observed.whitened_log_likelihood_ratio;
        logged.reference_version := case when is_calibrated then chart.reference_version end;
        logged.warnings_per_year := care.warnings_per_year(patient.id);
    end if;
    logged.is_late := coalesce(is_calibrated and call."timestamp" < chart.last_call_at, false);
    logged.local_hour := care.local_hour(call."timestamp", patient.timezone);
    logged.local_day := care.local_date(call."timestamp", patient.timezone);

    if is_calibrated then
        if not logged.is_late and call."timestamp" >= chart.calls_counted_at + make_interval(days => case chart.calls_per_year when 365 then 90 else 30 end) then
            chart.calls_per_year := voice.counted_calls_per_year(patient.id, stored.encoder, call."timestamp");
            chart.calls_counted_at := call."timestamp";
        end if;
        decided := voice.decide(
            chart.state, observed, calibration, thresholds, logged.warnings_per_year, chart.calls_per_year,
            logged.local_day, is_healthy, logged.is_late);
        logged.anomaly_score := decided.score;
        logged.raw_similarity := 1 - observed.distance;
        logged.adjusted_from := decided.unconfirmed_score;
        logged.severity := decided.severity;
        logged.noise_adjusted := false;
        logged.verdict := decided.verdict;
        logged.pace := decided.pace;
        logged.is_step := decided.is_step;
        logged.is_learned := decided.is_learned;
        logged.calls_per_year := chart.calls_per_year;
        logged.usual_mean := decided.usual_mean;
        logged.usual_variance := decided.usual_variance;
        logged.usual_degrees := decided.usual_degrees;
        logged.personal_deviation := decided.deviation;
        logged.cusum_before := decided.cusum_before;
        logged.cusum_after := decided.cusum_after;
        logged.decision_number := chart.decision_count + 1;
    else
        judged := voice.judge(
            baseline.embedding, stored.embedding, stored.snr_db, logged.local_hour, policy, thresholds);
        logged.anomaly_score := judged.score;
        logged.raw_similarity := judged.raw_similarity;
        logged.adjusted_from := judged.anomaly;
        logged.severity := judged.severity;
        logged.noise_adjusted := judged.noise_adjusted;
        logged.verdict := case judged.severity when 'low' then 'as_usual' else 'changed' end;
        logged.is_step := false;
        logged.is_learned := false;
    end if;
    logged.rule := case when is_calibrated then 'calibrated' else 'fixed' end;
    logged.added_to_baseline := voice.is_sample(stored, policy, calibration, decided, thresholds, judged.anomaly)
        and is_healthy and not logged.is_late
        and voice.add_sample(baseline, stored.id, policy);

    update public.call_logs
    set anomaly_score = logged.anomaly_score
    where call_logs.id = call.id;
    judgement := voice.record_score(patient, call, stored, policy, thresholds, calibration, logged, coalesce(decided.is_urgent, false), score_call.at);
    if is_healthy and not logged.is_late and logged.verdict <> 'another_voice' then
        perform voice.learn_features(patient.id, stored.quality);
    end if;

    logged.id := judgement.id;
    logged.patient_id := patient.id;
    logged.call_log_id := call.id;
    logged."timestamp" := call."timestamp";
    logged.normalized_score := logged.anomaly_score;
    logged.snr := stored.snr_db;
    logged.speech_seconds := stored.speech_seconds;
    logged.alert_type := judgement.alert_type;
    logged.alert_sent := judgement.alert_sent;
    logged.encoder := stored.encoder;
    logged.embedding_id := stored.id;
    logged.baseline_id := baseline.id;
    logged.baseline_version := baseline.version;
    logged.is_provisional := is_provisional;
    logged.is_disowned := false;
    logged.created_at := clock_timestamp();  -- the patient is locked: the order in which calls were judged
    insert into public.voice_anomaly_logs select logged.*;

    if is_calibrated then
        if not logged.is_late and not logged.added_to_baseline
            and is_healthy
            and baseline.sample_count >= voice.target_samples(policy)
            and voice.is_sample(stored, policy, calibration, decided, thresholds, null)
        then
            chart.reference := voice.followed(
                chart.reference, baseline.embedding, stored.embedding, calibration.following_share,
                voice.least_reference_similarity(calibration.id));
            chart.reference_version := chart.reference_version + 1;
        end if;
        update voice.charts
        set state = decided.after,
            reference = chart.reference,
            reference_version = chart.reference_version,
            decision_count = logged.decision_number,
            calls_per_year = chart.calls_per_year,
            calls_counted_at = chart.calls_counted_at,
            last_call_at = greatest(chart.last_call_at, call."timestamp")
        where charts.patient_id = patient.id and charts.encoder = stored.encoder;
    end if;
    return logged;
end
$$;
comment on function voice.score_call is
    'Scores one stored embedding: writes the judgement, the log, the call''s score and the patient''s chart, and adds the sample to the baseline if it qualifies. Returns the log. The caller has called care.lock_patient. Called by voice.complete_check.';
revoke execute on function voice.score_call from public;

create function voice.on_judgement_told()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.voice_anomaly_logs set alert_sent = new.alert_sent where voice_anomaly_logs.id = new.id;
    return null;
end
$$;
comment on function voice.on_judgement_told is
    'Trigger: copies alert_sent from a judgement to its log. Security definer: roles that send messages may not write logs.';
revoke execute on function voice.on_judgement_told from public;

create function voice.anomaly_logs(patient_ids uuid[], since timestamptz, maximum_rows integer)
returns setof public.voice_anomaly_logs
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select *
    from public.voice_anomaly_logs
    where voice_anomaly_logs.patient_id = any (anomaly_logs.patient_ids)
        and (anomaly_logs.since is null or voice_anomaly_logs."timestamp" >= anomaly_logs.since)
    order by voice_anomaly_logs."timestamp" desc, voice_anomaly_logs.created_at desc
    limit anomaly_logs.maximum_rows
$$;
comment on function voice.anomaly_logs is
    'Returns the logs of these patients, newest first. Called by GET /api/anomaly-logs and `retrocare logs`.';
revoke execute on function voice.anomaly_logs from public;
grant execute on function voice.anomaly_logs to retrocare_service;

create policy caregivers_read_their_patients_logs on public.voice_anomaly_logs
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

create policy caregivers_write_notes_on_their_patients_logs on public.voice_anomaly_logs
    for update to authenticated
    using (patient_id = any (array(select care.patients_of_caller('family'))));

-- 42_voice_checks.sql

-- Voice checks: how a service claims the checks of its encoder, and how it reads the result of one that has ended.

create type voice.claim as (
    check_id bigint,
    lease_token uuid,
    leased_until timestamptz,
    state public.check_state,
    call_log_id uuid,
    patient_id uuid,
    recording_ref text,
    recording_channel public.recording_channel,
    speech_intervals jsonb,
    lost_leases integer,
    minimum_speech_seconds double precision,
    minimum_snr_db double precision,
    maximum_clipped_share double precision,
    maximum_call_seconds double precision
);
comment on type voice.claim is
    'A claimed check with what the pipeline needs: the location of the recording, and the limits of the policy. Without lease_token, the check is not leased to the caller. With lost_leases above 0, it may crash the worker: process no other check beside it.';

create function voice.claim_of("check" care.checks)
returns voice.claim
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select
        "check".id,
        "check".lease_token,
        "check".leased_until,
        "check".state,
        "check".call_log_id,
        "check".patient_id,
        call_logs.recording_ref,
        call_logs.recording_channel,
        call_logs.speech_intervals,
        "check".lost_leases,
        policies.minimum_speech_seconds,
        policies.minimum_snr_db,
        policies.maximum_clipped_share,
        policies.maximum_call_seconds
    from public.call_logs
    join voice.policies on policies.encoder = "check".model
    where call_logs.id = "check".call_log_id
$$;
comment on function voice.claim_of is 'Returns the check with what the pipeline needs.';
revoke execute on function voice.claim_of from public;

create function voice.open_check(call_log_id uuid, encoder text, worker text, lease_seconds double precision)
returns voice.claim
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return voice.claim_of(care.open_check(
        open_check.call_log_id, 'voice', open_check.encoder, open_check.worker, open_check.lease_seconds));
end
$$;
comment on function voice.open_check is
    'Opens the call''s check for the synchronous path: leases it to this worker at once and returns it with what the pipeline needs. Without lease_token, it has ended (read voice.stored_result) or another worker has leased it. Raises RV003. Security definer: the service has no privileges on tables.';
revoke execute on function voice.open_check from public;
grant execute on function voice.open_check to retrocare_service;

create function voice.claim_checks(encoder text, worker text, count integer, lease_seconds double precision)
returns setof voice.claim
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    claimed care.checks;
begin
    for claimed in
        select * from care.claim_checks(claim_checks.encoder, claim_checks.worker, claim_checks.count, claim_checks.lease_seconds)
    loop
        return next voice.claim_of(claimed);
    end loop;
end
$$;
comment on function voice.claim_checks is
    'Claims up to count checks that are due and returns them with what the pipeline needs. Security definer: the service has no privileges on tables. Called by the worker in a loop.';
revoke execute on function voice.claim_checks from public;
grant execute on function voice.claim_checks to retrocare_service;

create function voice.on_recording()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    active text := voice.active_encoder();
begin
    if active is null then
        -- An encoder may be registering now without seeing this call. Wait for it, or make it wait for this call.
        lock table care.models in row exclusive mode;
        active := voice.active_encoder();
    end if;
    -- If there is no encoder yet, voice.register_encoder queues the call later. A call that an earlier encoder has judged is not
    -- checked again.
    if active is not null and not exists (
        select from care.checks
        where checks.call_log_id = new.id and checks.signal = 'voice' and checks.is_backfill = (new.source = 'archive')
            and checks.state <> 'dead' and checks.reason is distinct from 'no_consent'
    ) then
        perform care.request_check(new, 'voice', active);
    end if;
    return null;
end
$$;
comment on function voice.on_recording is
    'Trigger: queues the check of a call whose recording is available. Security definer: roles that write call_logs have no privileges on the private schemas.';
revoke execute on function voice.on_recording from public;

create function voice.register_encoder(encoder text, dimension integer, window_seconds double precision)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    is_new constant boolean := care.register_model('voice', register_encoder.encoder);
    is_active constant boolean := register_encoder.encoder is not distinct from voice.active_encoder();
    registered voice.encoders;
begin
    if is_new then
        insert into voice.encoders (id, dimension, window_seconds)
        values (register_encoder.encoder, register_encoder.dimension, register_encoder.window_seconds);
        insert into voice.policies (encoder) values (register_encoder.encoder);
    end if;
    if is_new and is_active then
        perform care.request_check(call_logs, 'voice', register_encoder.encoder)
        from public.call_logs
        where call_logs.recording_ref is not null and call_logs.check_state is null;
    end if;

    select encoders.* into registered from voice.encoders where encoders.id = register_encoder.encoder;
    if (registered.dimension, registered.window_seconds)
        is distinct from (register_encoder.dimension::smallint, register_encoder.window_seconds)
    then
        raise exception using
            errcode = 'RV004',
            message = format('The encoder %s is registered with %s dimensions and windows of %s s',
                register_encoder.encoder, registered.dimension, registered.window_seconds),
            hint = 'Another dimension or window makes another encoder. Give it another id.';
    end if;
    return is_active;
end
$$;
comment on function voice.register_encoder is
    'Registers an encoder with the default policy and returns whether it is active. The first one becomes active, and the calls that waited for it are queued. Raises RV004 if the id is registered with other values. Called by the service at start.';
revoke execute on function voice.register_encoder from public;
grant execute on function voice.register_encoder to retrocare_service;

create type voice.check_result as (
    call_log_id uuid,
    state public.check_state,
    reason public.check_reason,
    log_id uuid,
    anomaly_score double precision,
    raw_similarity double precision,
    normalized_score double precision,
    snr double precision,
    severity public.anomaly_severity,
    alert_type public.alert_type,
    rule public.scoring_rule,
    verdict public.voice_verdict,
    is_provisional boolean,
    explanation text,
    added_to_baseline boolean,
    duplicate_of uuid
);
comment on type voice.check_result is
    'The state of a check and its result; the scores are null if there is none. For a recording that was judged before, it holds the result of that call, whose id is duplicate_of.';

create function voice.stored_result(check_id bigint)
returns voice.check_result
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        asked.call_log_id,
        told.state,
        told.reason,
        voice_anomaly_logs.id,
        voice_anomaly_logs.anomaly_score,
        voice_anomaly_logs.raw_similarity,
        voice_anomaly_logs.normalized_score,
        (told.detail ->> 'snr_db')::double precision,
        voice_anomaly_logs.severity,
        voice_anomaly_logs.alert_type,
        voice_anomaly_logs.rule,
        voice_anomaly_logs.verdict,
        voice_anomaly_logs.is_provisional,
        judgements.explanation,
        coalesce((told.detail ->> 'added_to_baseline')::boolean, false),
        case when told.id <> asked.id then told.call_log_id end
    from care.checks as asked
    cross join lateral (
        select checks.*
        from care.checks
        where checks.id = asked.id
            or (asked.duplicate_of is not null
                and checks.call_log_id = asked.duplicate_of
                and checks.model = asked.model
                and checks.state in ('scored', 'enrolled'))
        order by checks.id = asked.id, checks.id
        limit 1
    ) as told
    left join public.voice_anomaly_logs
        on voice_anomaly_logs.call_log_id = told.call_log_id and voice_anomaly_logs.encoder = told.model and told.state = 'scored'
    left join public.judgements on judgements.id = voice_anomaly_logs.id
    where asked.id = stored_result.check_id
$$;
comment on function voice.stored_result is
    'Returns the state and result of a check. Security definer: the service has no privileges on tables. Called by the service when open_check returned no lease, and after a check without a score.';
revoke execute on function voice.stored_result from public;
grant execute on function voice.stored_result to retrocare_service;

-- 43_completion.sql

-- Completion: an embedding is stored, and the call enrols the patient or is scored. A backfill only stores it.

create function voice.check_detail(snr_db double precision, added_to_baseline boolean)
returns jsonb
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('snr_db', check_detail.snr_db, 'added_to_baseline', check_detail.added_to_baseline)
$$;
comment on function voice.check_detail is 'Returns what voice stores in care.checks.detail.';
revoke execute on function voice.check_detail from public;

create function voice.end_check(
    check_id bigint, state public.check_state, reason public.check_reason, quality jsonb default null, detail jsonb default null
)
returns voice.check_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform care.finish_check(end_check.check_id, end_check.state, end_check.reason, end_check.quality, end_check.detail);
    return voice.stored_result(end_check.check_id);
end
$$;
comment on function voice.end_check is 'Writes the end of a check and returns its result. The caller has called care.leased_check.';
revoke execute on function voice.end_check from public;

create function voice.store_embedding(
    held care.checks,
    embedding extensions.vector,
    audio_sha256 bytea,
    speech_seconds double precision,
    snr_db double precision,
    quality jsonb
)
returns voice.embeddings
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    kept voice.embeddings;
begin
    select embeddings.* into kept
    from voice.embeddings
    where embeddings.encoder = held.model
        and (embeddings.call_log_id = held.call_log_id
            or (embeddings.patient_id = held.patient_id and embeddings.audio_sha256 = store_embedding.audio_sha256))
    order by embeddings.call_log_id = held.call_log_id desc
    limit 1;
    if not found then
        insert into voice.embeddings
            (patient_id, call_log_id, encoder, embedding, audio_sha256, speech_seconds, snr_db, quality)
        values (held.patient_id, held.call_log_id, held.model, store_embedding.embedding, store_embedding.audio_sha256,
            store_embedding.speech_seconds, store_embedding.snr_db, store_embedding.quality)
        returning * into kept;
    end if;
    return kept;
end
$$;
comment on function voice.store_embedding is
    'Stores the call''s embedding and returns it. If there already is one, from a backfill, from the call''s own check or from an archived call with the same bytes, it returns that one. The caller has called care.leased_check.';
revoke execute on function voice.store_embedding from public;

create function voice.requeue_under_active_encoder(check_id bigint)
returns voice.check_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update care.checks
    set model = voice.active_encoder(),
        state = 'queued',
        lease_token = null,
        leased_until = null,
        worker = null
    where checks.id = requeue_under_active_encoder.check_id;
    return voice.stored_result(requeue_under_active_encoder.check_id);
end
$$;
comment on function voice.requeue_under_active_encoder is
    'Queues a check again for the encoder that has become active meanwhile. The caller has called care.leased_check.';
revoke execute on function voice.requeue_under_active_encoder from public;

create function voice.build_from_backfill(patient public.patients, call public.call_logs, stored voice.embeddings, policy voice.policies)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if stored.encoder = voice.active_encoder() then
        return call.source = 'archive' and voice.enrol_archived(patient, call, stored, policy);
    end if;
    perform voice.rebuild_baseline(patient.id, stored.encoder);
    return exists (
        select
        from voice.baseline_samples
        join voice.baselines on baselines.id = baseline_samples.baseline_id
        where baseline_samples.embedding_id = stored.id and baselines.superseded_at is null
    );
end
$$;
comment on function voice.build_from_backfill is
    'Updates baselines after a backfill has stored an embedding: an archived call may enrol under the active encoder; under another encoder, the baseline is rebuilt to match the active one''s. Returns whether the call became a sample. The caller has called care.lock_patient. Called by voice.complete_check.';
revoke execute on function voice.build_from_backfill from public;

create function voice.complete_check(
    check_id bigint,
    lease_token uuid,
    embedding extensions.vector,
    audio_sha256 bytea,
    speech_seconds double precision,
    snr_db double precision,
    quality jsonb,
    at timestamptz default clock_timestamp()
)
returns voice.check_result
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held care.checks;
    policy voice.policies;
    patient public.patients;
    call public.call_logs;
    baseline voice.baselines;
    stored voice.embeddings;
    logged public.voice_anomaly_logs;
    is_healthy boolean;
    is_sample boolean;
    first_call_id uuid;
    measured constant jsonb := voice.check_detail(complete_check.snr_db, false);
begin
    -- Locked first, so that the active encoder, whose baselines count, cannot change meanwhile.
    lock table care.models in row exclusive mode;
    held := care.leased_check(complete_check.check_id, complete_check.lease_token);
    if held.state <> 'leased' then
        return voice.stored_result(held.id);
    end if;
    select patients.* into patient from public.patients where patients.id = held.patient_id;
    select call_logs.* into call from public.call_logs where call_logs.id = held.call_log_id;
    policy := voice.policy(held.model);
    baseline := voice.current_baseline(patient.id, held.model);
    is_healthy := care.is_healthy_at(patient, call."timestamp");

    if patient.voice_consent_at is null then
        return voice.end_check(held.id, 'skipped', 'no_consent');
    end if;
    if care.skip_reason(call) is not null then
        -- The ended reason was reported after the recording had arrived.
        return voice.end_check(held.id, 'skipped', care.skip_reason(call));
    end if;
    select embeddings.call_log_id into first_call_id
    from voice.embeddings
    where embeddings.patient_id = patient.id
        and embeddings.encoder = held.model
        and embeddings.audio_sha256 = complete_check.audio_sha256
        and embeddings.call_log_id <> call.id
        -- A recording that was only embedded, as part of an archive, has not been judged. It is judged now.
        and (held.is_backfill or exists (
            select from care.checks
            where checks.call_log_id = embeddings.call_log_id
                and checks.signal = 'voice'
                and checks.state in ('scored', 'enrolled')
        ));
    if found then
        update care.checks set duplicate_of = first_call_id where checks.id = held.id;
        return voice.end_check(held.id, 'skipped', 'duplicate_recording', complete_check.quality, measured);
    end if;
    if held.is_backfill then
        stored := voice.store_embedding(held, complete_check.embedding, complete_check.audio_sha256,
            complete_check.speech_seconds, complete_check.snr_db, complete_check.quality);
        is_sample := voice.build_from_backfill(patient, call, stored, policy);
        return voice.end_check(
            held.id, 'embedded', null, stored.quality, voice.check_detail(stored.snr_db, is_sample));
    end if;
    if not is_healthy and (call.source = 'onboarding' or baseline.id is null) then
        return voice.end_check(
            held.id, 'held',
            case call.source when 'onboarding' then 'sick_at_enrolment' else 'sick_without_baseline' end::public.check_reason,
            complete_check.quality, measured);
    end if;

    if (call.source = 'onboarding' or baseline.id is null)
        and held.model <> voice.active_encoder() and call.recording_ref is not null
        and not exists (
            select from care.checks as twin
            where twin.call_log_id = call.id
                and twin.signal = 'voice'
                and twin.id <> held.id
                and not twin.is_backfill
                and twin.state in ('queued', 'leased')
        )
    then
        return voice.requeue_under_active_encoder(held.id); -- another encoder became active meanwhile, and the baseline must be built under that one
    end if;

    stored := voice.store_embedding(held, complete_check.embedding, complete_check.audio_sha256,
        complete_check.speech_seconds, complete_check.snr_db, complete_check.quality);
    if call.source = 'onboarding' or baseline.id is null then
        is_sample := voice.enrol(call, stored.id, policy);
        perform voice.learn_features(patient.id, stored.quality);
        return voice.end_check(
            held.id, 'enrolled', null, stored.quality, voice.check_detail(stored.snr_db, is_sample));
    end if;
    logged := voice.score_call(patient, call, stored, baseline, policy, complete_check.at);
    return voice.end_check(
        held.id, 'scored', null, stored.quality, voice.check_detail(stored.snr_db, logged.added_to_baseline));
end
$$;
comment on function voice.complete_check is
    'Stores one embedding, then enrols the patient or scores the call: writes the embedding, the baseline or the log, the call, the check-in, the alert and the end of the check, all or nothing. For a backfill, it writes only the embedding and possibly the baseline. Returns the result; a repeated call with the same token returns the stored one. Raises RV001, RV003, RV005, or a violation of the vector''s constraints. Security definer: the service has no privileges on tables. Called by the service, once per recording.';
revoke execute on function voice.complete_check from public;
grant execute on function voice.complete_check to retrocare_service;

-- 44_search.sql

-- Search across patients: whose voice is this? Was it enrolled twice? Does it belong to another member of the household?
--
-- Only current baselines are searched, with one approximate index (HNSW) per encoder. The index stores half-precision vectors, which
-- halves its size at the same recall; the nearest are then compared in full precision. Measurements are in docs/search.md.

create type public.voice_match as (
    patient_id uuid,
    cosine_similarity double precision,
    baseline_version integer,
    sample_count integer,
    is_provisional boolean
);
comment on type public.voice_match is
    'A patient with a similar voice. cosine_similarity (-1 .. 1) is to the current baseline; is_provisional tells that this baseline has fewer samples than the policy requires.';

create function voice.index_voices(encoder text, degree integer default 24, build_breadth integer default 200)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    name text := 'voices_of_' || md5(index_voices.encoder);  -- an encoder id may be longer than an identifier
    dimension integer := (select encoders.dimension from voice.encoders where encoders.id = index_voices.encoder);
begin
    execute format('drop index if exists voice.%I', name);
    -- HNSW supports at most 4000 dimensions. Longer vectors are searched without an index, which is exact.
    if dimension <= 4000 then
        execute format(
            'create index %I on voice.baselines
             using hnsw ((embedding::extensions.halfvec(%s)) extensions.halfvec_cosine_ops)
             with (m = %s, ef_construction = %s) where superseded_at is null and encoder = %L',
            name, dimension, index_voices.degree, index_voices.build_breadth, index_voices.encoder);
    end if;
end
$$;
comment on function voice.index_voices is
    'Builds the index of an encoder''s current baselines, or rebuilds it; completions wait meanwhile. degree is the m of HNSW, build_breadth its ef_construction. Called when an encoder is registered, and by an operator who wants other values.';
revoke execute on function voice.index_voices from public;

create function voice.on_encoder()
returns trigger
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform voice.index_voices(new.id);
    return null;
end
$$;
comment on function voice.on_encoder is 'Trigger: makes the baselines of a new encoder searchable.';
revoke execute on function voice.on_encoder from public;

create function voice.searched_encoder(
    embedding extensions.vector, encoder text, count integer, min_similarity double precision
)
returns voice.encoders
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    searched voice.encoders;
    misfit text;
    remedy text;
begin
    select encoders.* into searched
    from voice.encoders
    where encoders.id = coalesce(searched_encoder.encoder, voice.active_encoder());
    case
        when searched_encoder.embedding is null then
            misfit := 'embedding is null';
            remedy := 'Send a vector as POST /embed returns it.';
        when searched_encoder.count is null or searched_encoder.count not between 1 and 100 then
            misfit := format('count is %s', coalesce(searched_encoder.count::text, 'null'));
            remedy := 'Use a value from 1 to 100.';
        when searched_encoder.min_similarity not between -1 and 1 then
            misfit := format('min_similarity is %s', searched_encoder.min_similarity);
            remedy := 'A cosine lies between -1 and 1. Use null for the encoder''s default.';
        when searched.id is null then
            raise exception using
                errcode = 'PT404',
                message = format('No encoder %s is registered', coalesce(searched_encoder.encoder, 'at all')),
                hint = 'A service registers its encoder when it starts.';
        when extensions.vector_dims(searched_encoder.embedding) <> searched.dimension then
            misfit := format('The vector has %s dimensions, but those of %s have %s',
                extensions.vector_dims(searched_encoder.embedding), searched.id, searched.dimension);
            remedy := 'Name the encoder that produced the vector.';
        when extensions.vector_norm(searched_encoder.embedding) = 0 then
            misfit := 'The zero vector has no similarity to any other';
            remedy := 'Send the vector as the encoder produced it.';
        else
            return searched;
    end case;
    raise exception using errcode = 'PT400', message = misfit, hint = remedy;
end
$$;
comment on function voice.searched_encoder is
    'Validates the arguments of a search and returns the encoder to search (null: the active one). Raises PT400, PT404.';
revoke execute on function voice.searched_encoder from public;

create function voice.match_voices(
    embedding extensions.vector, encoder text default null, count integer default 5,
    min_similarity double precision default null
)
returns setof public.voice_match
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    searched voice.encoders := voice.searched_encoder(
        match_voices.embedding, match_voices.encoder, match_voices.count, match_voices.min_similarity);
    policy voice.policies := voice.policy(searched.id);
    -- Compare a few more than requested in full precision, since half precision may swap near neighbours.
    candidates integer := match_voices.count + 10;
    found_voice public.voice_match;
    breadth integer;
    is_anybody boolean := false;
begin
    -- Superseded versions stay in the graph until the next vacuum and resemble the current one. An iterative scan continues past
    -- them.
    perform set_config('hnsw.iterative_scan', 'relaxed_order', true);
    perform set_config('hnsw.max_scan_tuples', '20000', true);

    -- The first pass nearly always finds a match if there is one. Report nobody only after a pass with the maximum breadth.
    foreach breadth in array array[greatest((select search_breadth from care.settings), candidates), 1000] loop
        perform set_config('hnsw.ef_search', breadth::text, true);
        -- The encoder is a literal in the text, because with a parameter only custom plans could use the partial index.
        for found_voice in execute format(
            'select nearest.patient_id, 1 - (nearest.embedding operator(extensions.<=>) $1), nearest.version,
                 nearest.sample_count, nearest.sample_count < $4
             from (
                 select baselines.*
                 from voice.baselines
                 where baselines.encoder = %L and baselines.superseded_at is null
                 order by baselines.embedding::extensions.halfvec(%s) operator(extensions.<=>) $1::extensions.halfvec(%2$s)
                 limit $2
             ) as nearest
             where 1 - (nearest.embedding operator(extensions.<=>) $1) >= $3
             order by nearest.embedding operator(extensions.<=>) $1
             limit $5', searched.id, searched.dimension)
        using extensions.l2_normalize(match_voices.embedding), candidates,
            coalesce(match_voices.min_similarity, 1 - (care.thresholds_for(searched.id)).medium_above), policy.baseline_minimum_samples, match_voices.count
        loop
            perform care.note_audit('voice_matched', 'voice.match_voices', found_voice.patient_id,
                jsonb_build_object('encoder', searched.id));
            is_anybody := true;
            return next found_voice;
        end loop;
        exit when is_anybody;
    end loop;
    if not is_anybody then
        perform care.note_audit('voice_matched', 'voice.match_voices', null, jsonb_build_object('encoder', searched.id));
    end if;
end
$$;
comment on function voice.match_voices is
    'Returns the patients whose current baselines are most similar to this embedding, nearest first, and notes each in the audit log. If min_similarity is null, it is 1 - medium_above of the encoder''s thresholds. Sets hnsw.* for the rest of the transaction. Raises PT400, PT404. Security definer: callers may not read the embeddings of baselines.';
revoke execute on function voice.match_voices from public;

-- 45_rebuilding.sql

-- Rebuilding: under an encoder that is not active, each baseline follows the active encoder's. It is built from the same calls, as
-- far as they can be embedded, and rebuilt whenever those change, so that the encoder can become active at any time.

create type voice.rebuild_stage as enum (
    'waiting',      -- some of its calls are not yet embedded      -> outdated, rebuilt, unrecoverable
    'outdated',       -- all are embedded, but not in the baseline   -> rebuilt
    'rebuilt',      -- built from the same calls                   -> waiting, outdated: the active encoder's may change
    'unrecoverable'   -- none of its calls can be embedded: the next healthy call enrols
);
comment on type voice.rebuild_stage is 'The progress of a baseline under an encoder that is not active.';

create view voice.rebuilding
with (security_invoker = true)
as
with wanted as (
    select
        original.patient_id,
        successor.id as encoder,
        original.enrolment_id,
        count(*) as sample_count,
        count(*) filter (where stored.id is null and call_logs.recording_ref is null) as gone_count,
        count(*) filter (where stored.id is null and call_logs.recording_ref is not null and failed.is_so) as failed_count,
        count(*) filter (where stored.id is null and call_logs.recording_ref is not null and failed.is_so is null) as waiting_count,
        coalesce(array_agg(stored.id order by stored.id) filter (where stored.id is not null), '{}') as embedding_ids
    from care.models as active
    join care.models as successor on successor.signal = active.signal and not successor.is_active
    join voice.baselines as original on original.encoder = active.id and original.superseded_at is null
    join voice.baseline_samples on baseline_samples.baseline_id = original.id
    join voice.embeddings as sample on sample.id = baseline_samples.embedding_id
    join public.call_logs on call_logs.id = sample.call_log_id
    left join voice.embeddings as stored on stored.call_log_id = sample.call_log_id and stored.encoder = successor.id
    left join lateral (
        select true as is_so
        from care.checks
        where checks.call_log_id = sample.call_log_id
            and checks.model = successor.id
            and checks.is_backfill
            and checks.state in ('not_assessable', 'skipped', 'dead')
            and checks.reason <> 'no_consent'
        limit 1
    ) as failed on true
    where active.is_active and active.signal = 'voice'
    group by original.patient_id, successor.id, original.enrolment_id
)
select
    wanted.*,
    case
        when wanted.waiting_count > 0 then 'waiting'
        when array(
            select baseline_samples.embedding_id
            from voice.baseline_samples
            where baseline_samples.baseline_id = present.id
            order by baseline_samples.embedding_id
        ) <> wanted.embedding_ids then 'outdated'
        when wanted.embedding_ids = '{}' then 'unrecoverable'
        else 'rebuilt'
    end::voice.rebuild_stage as stage
from wanted
left join voice.baselines as present
    on present.patient_id = wanted.patient_id and present.encoder = wanted.encoder and present.superseded_at is null
union all
-- If the active encoder has no baseline, or no longer has one, there must be none here.
select present.patient_id, present.encoder, null, 0, 0, 0, 0, '{}', 'outdated'
from voice.baselines as present
join care.models as successor on successor.id = present.encoder and not successor.is_active
where present.superseded_at is null
    and not exists (
        select
        from voice.baselines as original
        join care.models as active on active.id = original.encoder and active.is_active
        where original.patient_id = present.patient_id and original.superseded_at is null
    );
comment on view voice.rebuilding is
    'What the baselines under each encoder that is not active must consist of, and what is still missing. No role has privileges on it.';
comment on column voice.rebuilding.sample_count is 'The number of calls in the active encoder''s baseline.';
comment on column voice.rebuilding.gone_count is 'How many of those calls have no recording any more.';
comment on column voice.rebuilding.failed_count is
    'How many of those calls could not be embedded: their check is dead, skipped or not assessable.';
comment on column voice.rebuilding.waiting_count is 'How many of those calls are not yet embedded.';
comment on column voice.rebuilding.embedding_ids is 'The embeddings of the remaining calls under this encoder.';

create function voice.rebuild_baseline(patient_id uuid, encoder text)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted voice.rebuilding;
    present constant voice.baselines := voice.current_baseline(rebuild_baseline.patient_id, rebuild_baseline.encoder);
begin
    select rebuilding.* into wanted
    from voice.rebuilding
    where rebuilding.patient_id = rebuild_baseline.patient_id and rebuilding.encoder = rebuild_baseline.encoder;
    if wanted.stage is distinct from 'outdated' then
        return false;
    end if;
    perform voice.build_baseline(wanted.patient_id, wanted.encoder, wanted.embedding_ids, wanted.enrolment_id);
    if present.enrolment_id is distinct from wanted.enrolment_id then
        perform voice.restart_chart(wanted.patient_id, wanted.encoder);
    end if;
    return true;
end
$$;
comment on function voice.rebuild_baseline is
    'Rebuilds a patient''s baseline under an encoder that is not active from the calls of the active encoder''s, once they are embedded. Returns whether it changed. The caller has called care.lock_patient.';
revoke execute on function voice.rebuild_baseline from public;

create function voice.rebuild_baselines(encoder text, maximum_rows integer)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    found_id uuid;
    rebuilt integer := 0;
begin
    for found_id in
        select patients.id
        from voice.rebuilding
        join public.patients on patients.id = rebuilding.patient_id
        where rebuilding.encoder = rebuild_baselines.encoder and rebuilding.stage = 'outdated'
        limit rebuild_baselines.maximum_rows
        for no key update of patients skip locked
    loop
        rebuilt := rebuilt + voice.rebuild_baseline(found_id, rebuild_baselines.encoder)::integer;
    end loop;
    return rebuilt;
end
$$;
comment on function voice.rebuild_baselines is
    'Rebuilds up to maximum_rows outdated baselines under this encoder and returns how many changed. A baseline is outdated if its samples changed after they were embedded, or can no longer be embedded. Security definer: the service has no privileges on tables. Called by `retrocare backfill`.';
revoke execute on function voice.rebuild_baselines from public;
grant execute on function voice.rebuild_baselines to retrocare_service;

-- 46_archive_calibration.sql

-- A calibration made of the stored history, for an encoder of which no public speech was measured. The vectors stay in the database.
--
-- Only calls count that were judged or enrolled while the patient was healthy, and that nobody called somebody else's. The first
-- three clean ones of each patient stand for the enrolment. Projection and whitened bins are those of the calibration in use.

create function voice.archive_calls(encoder text)
returns table (
    patient_id uuid, embedding_id bigint, embedding extensions.vector, speech_seconds double precision, snr_from double precision,
    call_number bigint
)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    with bins (snr_from) as (values (25::double precision), (15), (8)),
    latest as (
        select
            embeddings.patient_id, embeddings.id, embeddings.embedding, embeddings.speech_seconds,
            coalesce((select max(bins.snr_from) from bins where bins.snr_from <= embeddings.snr_db), 8) as snr_from,
            call_logs."timestamp",
            row_number() over (partition by embeddings.patient_id order by call_logs."timestamp" desc, embeddings.id desc) as recency
        from voice.embeddings
        join public.call_logs on call_logs.id = embeddings.call_log_id
        join public.patients on patients.id = embeddings.patient_id
        where embeddings.encoder = archive_calls.encoder
            and call_logs.check_state in ('scored', 'enrolled')
            and care.is_healthy_at(patients, call_logs."timestamp")
            and not exists (
                select from public.voice_anomaly_logs as logs
                where logs.call_log_id = embeddings.call_log_id
                    and logs.encoder = embeddings.encoder
                    and (logs.is_disowned or logs.verdict = 'another_voice')
            )
    )
    select
        latest.patient_id, latest.id, latest.embedding, latest.speech_seconds, latest.snr_from,
        row_number() over (partition by latest.patient_id order by latest.snr_from desc, latest."timestamp", latest.id)
    from latest
    where latest.recency <= 40
$$;
comment on function voice.archive_calls is
    'Returns the last 40 calls of each patient that a calibration may be made of, the clean ones first. snr_from is the bin; an unknown SNR belongs to the lowest one.';
revoke execute on function voice.archive_calls from public;

create type voice.sighting as (
    variance double precision,
    per_second double precision
);
comment on type voice.sighting is 'What one distance says of the variance of calls, and one over the seconds of speech.';

create function voice.fitted_variance(sightings voice.sighting[])
returns table (call_variance double precision, speech_variance double precision)
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select
        greatest(case when fitted.slope > 0 then fitted.intercept else fitted.mean end, 1e-4),
        greatest(fitted.slope, 0)
    from (
        select
            coalesce(regr_slope(seen.variance, seen.per_second), 0) as slope,
            regr_intercept(seen.variance, seen.per_second) as intercept,
            avg(seen.variance) as mean
        from unnest(sightings) as seen
    ) as fitted
$$;
comment on function voice.fitted_variance is 'Fits variance = call_variance + speech_variance / seconds, neither below 0.';
revoke execute on function voice.fitted_variance from public;

create function voice.archive_coverage(encoder text)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    with counted as (
        select
            archive.patient_id, count(*) as calls,
            count(*) filter (where archive.snr_from = 25) as clean,
            count(*) filter (where archive.snr_from = 15) as less_clean,
            count(*) filter (where archive.snr_from = 8) as noisy
        from voice.archive_calls(archive_coverage.encoder) as archive
        group by archive.patient_id
    ),
    enough as (
        select * from counted where calls >= 20 and clean >= 4
    ),
    summed as (
        select
            (select count(*) from counted) as patients,
            (select count(*) from enough) as patients_with_20_calls,
            coalesce((select sum(calls) from enough), 0) as calls,
            (select count(*) from enough where less_clean > 0) as patients_below_25_db,
            (select count(*) from enough where noisy > 0) as patients_below_15_db,
            (voice.policy(archive_coverage.encoder)).calibration_id is not null as is_calibrated
    )
    select to_jsonb(summed) || jsonb_build_object(
        'encoder', archive_coverage.encoder,
        'missing', array_remove(array[
            case when patients_with_20_calls < 40 then
                format('%s more patients with 20 healthy calls, 4 of them at 25 dB or more', 40 - patients_with_20_calls) end,
            case when not is_calibrated and patients_below_25_db < 10 then
                format('%s more of them with calls below 25 dB', 10 - patients_below_25_db) end,
            case when not is_calibrated and patients_below_15_db < 10 then
                format('%s more of them with calls below 15 dB', 10 - patients_below_15_db) end
        ], null))
    from summed
$$;
comment on function voice.archive_coverage is
    'Returns of how many patients and calls a calibration of the stored history can be made, and what is missing for one (an empty array: nothing). Raises RV004. Security definer: the service may not read the tables. Called by `retrocare evaluate --history`.';
revoke execute on function voice.archive_coverage from public;
grant execute on function voice.archive_coverage to retrocare_service;

create function voice.calibrate_archive(encoder text)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    coverage constant jsonb := voice.archive_coverage(calibrate_archive.encoder);
    present constant jsonb := voice.calibration_document(calibrate_archive.encoder);
    fitted_bins jsonb;
    prior jsonb;
begin
    if jsonb_array_length(coverage -> 'missing') > 0 then
        raise exception using
            errcode = 'PT409',
            message = 'The stored history is too short for a calibration',
            detail = coverage::text,
            hint = format('Missing: %s. Until then, calibrate with public speech.',
                (select string_agg(given.lack, '; ') from jsonb_array_elements_text(coverage -> 'missing') as given (lack)));
    end if;

    with calls as materialized (
        select archive.*, 1 / archive.speech_seconds as per_second
        from (
            select
                found.*,
                count(*) over (partition by found.patient_id) as calls,
                count(*) filter (where found.snr_from = 25) over (partition by found.patient_id) as clean
            from voice.archive_calls(calibrate_archive.encoder) as found
        ) as archive
        where archive.calls >= 20 and archive.clean >= 4
    ),
    -- The distance of two calls of one person is expected to be half the sum of both variances.
    pairs as materialized (
        select
            one.per_second as clean_per_second, other.per_second, other.snr_from,
            one.embedding operator(extensions.<=>) other.embedding as distance
        from calls as one
        join calls as other using (patient_id)
        where one.snr_from = 25
            and one.embedding_id <> other.embedding_id
            and (other.snr_from < 25 or one.embedding_id < other.embedding_id)
    ),
    clean as (
        select * from voice.fitted_variance((
            select array_agg(row(distance, (clean_per_second + per_second) / 2)::voice.sighting) from pairs where snr_from = 25))
    ),
    variances as materialized (
        select 25::double precision as snr_from, clean.call_variance, clean.speech_variance from clean
        union all
        select noisy.snr_from, fitted.call_variance, fitted.speech_variance
        from (
            select
                pairs.snr_from,
                array_agg(row(
                    2 * pairs.distance - clean.call_variance - clean.speech_variance * pairs.clean_per_second,
                    pairs.per_second)::voice.sighting) as sightings
            from pairs
            cross join clean
            where pairs.snr_from < 25
            group by pairs.snr_from
        ) as noisy
        cross join lateral voice.fitted_variance(noisy.sightings) as fitted
    ),
    anchors as materialized (
        select
            calls.patient_id,
            extensions.l2_normalize(extensions.avg(calls.embedding)) as anchor,
            sum(variances.call_variance + variances.speech_variance * calls.per_second) / (2 * count(*) ^ 2) as variance
        from calls
        join variances using (snr_from)
        where calls.call_number <= 3
        group by calls.patient_id
    ),
    residuals as materialized (
        select
            calls.patient_id, calls.snr_from,
            ln(greatest(calls.embedding operator(extensions.<=>) anchors.anchor, 1e-6))
                - ln(voice.expected_distance(
                    variances.call_variance + variances.speech_variance * calls.per_second, anchors.variance)) as residual
        from calls
        join anchors using (patient_id)
        join variances using (snr_from)
        where calls.call_number > 3
    ),
    own as materialized (
        select
            residuals.snr_from, count(distinct residuals.patient_id) as patients,
            avg(residuals.residual) as log_bias, stddev_samp(residuals.residual) as log_deviation
        from residuals
        group by residuals.snr_from
    ),
    other as materialized (
        select distances.snr_from, avg(distances.log_distance) as other_log_mean, stddev_samp(distances.log_distance) as other_log_deviation
        from (
            select calls.snr_from, ln(greatest(calls.embedding operator(extensions.<=>) anchors.anchor, 1e-6)) as log_distance
            from calls
            join anchors on anchors.patient_id <> calls.patient_id
        ) as distances
        group by distances.snr_from
    ),
    moments as (
        select
            residuals.patient_id, count(*)::double precision as calls,
            avg((residuals.residual - own.log_bias) / own.log_deviation) as mean,
            var_samp(residuals.residual / own.log_deviation) as variance
        from residuals
        join own using (snr_from)
        where residuals.snr_from = 25
        group by residuals.patient_id
        having count(*) > 1
    )
    select
        (
            -- Where too few patients have such calls, the bin is that of the calibration in use.
            select jsonb_agg(
                case
                    when own.patients >= 10 then jsonb_build_object(
                        'snr_from', floors.snr_from, 'call_variance', variances.call_variance,
                        'speech_variance', variances.speech_variance, 'log_bias', own.log_bias, 'log_deviation', own.log_deviation,
                        'other_log_mean', other.other_log_mean, 'other_log_deviation', other.other_log_deviation)
                    else to_jsonb(voice.calibration_bin((present ->> 'id')::integer, 'raw', floors.snr_from))
                        - '{calibration_id,space}'::text[] || jsonb_build_object('snr_from', floors.snr_from)
                end order by floors.snr_from desc)
            from (values (25::double precision), (15), (8)) as floors (snr_from)
            left join variances using (snr_from)
            left join own using (snr_from)
            left join other using (snr_from)
        ),
        (
            -- The variances of a few calls differ by chance: by 2 / (calls - 1) of their mean, squared.
            select jsonb_build_object(
                'degrees', least(60, greatest(6, 4 + 2 / greatest(
                    var_samp(moments.variance) / avg(moments.variance) ^ 2 - avg(2 / (moments.calls - 1)), 1e-9))),
                'variance', greatest(avg(moments.variance), 0.05),
                'mean_variance', greatest(avg(moments.mean ^ 2 - moments.variance / moments.calls), 0.05))
            from moments
        )
    into fitted_bins, prior;
    return jsonb_build_object(
        'encoder', calibrate_archive.encoder,
        'provenance', jsonb_build_object(
            'corpora', jsonb_build_array('the stored history'),
            'people', coverage -> 'patients_with_20_calls',
            'recordings', coverage -> 'calls',
            'made_by', 'retrocare calibrate --archive',
            'projection_of', present -> 'id'),
        'bins', jsonb_build_object('raw', fitted_bins, 'whitened', present #> '{bins,whitened}'),
        'prior', prior,
        'projection', present -> 'projection');
end
$$;
comment on function voice.calibrate_archive is
    'Returns a calibration that is estimated from stored calls, as voice.add_calibration takes it; no vector leaves the database but the projection in use. Raises RV004, and PT409 where the history is too short (its detail is that of voice.archive_coverage). Security definer: the service may not read the tables. Called by `retrocare calibrate --archive`.';
revoke execute on function voice.calibrate_archive from public;
grant execute on function voice.calibrate_archive to retrocare_service;

-- 46_backfill.sql

-- Backfill: stored recordings are embedded by a new encoder, or because an archive was imported. The work is queued in care.checks
-- with a lower priority than calls. It makes embeddings and baselines, but no logs or alerts, and does not change calls.

create function voice.open_backfill(encoder text, is_history boolean, maximum_rows integer)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    is_active boolean := open_backfill.encoder is not distinct from voice.active_encoder();
    wanted_ids uuid[];
    opened integer;
begin
    perform voice.policy(open_backfill.encoder);
    perform pg_advisory_xact_lock(hashtext('voice.open_backfill')); -- serialises callers, so that each call is queued once
    wanted_ids := array(with
        candidates as (
            -- Activation depends on these: the samples of the present baselines, and enrolments in progress.
            select embeddings.call_log_id, true as is_sample
            from voice.baselines
            join voice.baseline_samples on baseline_samples.baseline_id = baselines.id
            join voice.embeddings on embeddings.id = baseline_samples.embedding_id
            where not is_active and baselines.encoder = voice.active_encoder() and baselines.superseded_at is null
            union all
            select call_logs.id, true from public.call_logs where not is_active and call_logs.enrolment_id is not null
            union all
            select call_logs.id, false from public.call_logs where is_active and call_logs.source = 'archive'
            union all
            select call_logs.id, false from public.call_logs where open_backfill.is_history
        ),
        wanted as (
            select candidates.call_log_id, bool_or(candidates.is_sample) as is_sample
            from candidates
            group by candidates.call_log_id
        ),
        kept as (
            select call_logs.id, wanted.is_sample, call_logs."timestamp"
            from wanted
            join public.call_logs on call_logs.id = wanted.call_log_id
            join public.patients on patients.id = call_logs.patient_id
            where call_logs.recording_ref is not null
                and patients.voice_consent_at is not null
                and call_logs.check_state is distinct from 'skipped'
                and not exists (
                    select from voice.embeddings
                    where embeddings.call_log_id = call_logs.id and embeddings.encoder = open_backfill.encoder
                )
                and not exists (
                    select from care.checks
                    where checks.call_log_id = call_logs.id
                        and checks.signal = 'voice'
                        and case when checks.is_backfill
                            -- Only once each: a recording that cannot be embedded is not retried for ever.
                            then checks.model = open_backfill.encoder and checks.reason is distinct from 'no_consent'
                            -- A call that waits to be judged is judged first, and backfilled later.
                            else checks.state in ('queued', 'leased') end
                )
            order by wanted.is_sample desc, call_logs."timestamp" desc
            limit open_backfill.maximum_rows
        )
        select kept.id from kept order by kept.is_sample desc, kept."timestamp" desc
    );
    -- Patients are always locked in the same order, so that two callers cannot deadlock.
    perform from public.patients
    where patients.id in (select call_logs.patient_id from public.call_logs where call_logs.id = any (wanted_ids))
    order by patients.id
    for no key update;
    insert into care.checks (call_log_id, patient_id, signal, model, is_backfill, run_at)
    select call_logs.id, call_logs.patient_id, 'voice', open_backfill.encoder, true,
        case when is_active and call_logs.source = 'archive' then least(now(), call_logs."timestamp") else now() end
    from unnest(wanted_ids) with ordinality as wanted (id, turn)
    join public.call_logs on call_logs.id = wanted.id
    join public.patients on patients.id = call_logs.patient_id
    -- Skip what was erased while this transaction waited for the locks.
    where call_logs.recording_ref is not null
        and patients.voice_consent_at is not null
        and not exists (
            select from care.checks
            where checks.call_log_id = call_logs.id
                and checks.signal = 'voice'
                and checks.state in ('queued', 'leased')
                and (not checks.is_backfill or checks.model = open_backfill.encoder)
        )
    order by wanted.turn;
    get diagnostics opened = row_count;
    return opened;
end
$$;
comment on function voice.open_backfill is
    'Queues up to maximum_rows recordings that this encoder has not embedded, once each, and returns how many. For the active encoder these are archived calls; for another encoder, the samples of the active encoder''s baselines. If is_history is true, all other recordings follow, newest first. Raises RV004. Security definer: the service has no privileges on tables. Called by `retrocare backfill`.';
revoke execute on function voice.open_backfill from public;
grant execute on function voice.open_backfill to retrocare_service;

create function voice.waiting_backfill(encoder text)
returns bigint
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select count(*)
    from care.checks
    where checks.model = waiting_backfill.encoder and checks.is_backfill and checks.state in ('queued', 'leased')
$$;
comment on function voice.waiting_backfill is
    'Returns how many backfill checks of this encoder have not ended. Security definer for the same reason as voice.open_backfill. Called by `retrocare backfill` every few seconds.';
revoke execute on function voice.waiting_backfill from public;
grant execute on function voice.waiting_backfill to retrocare_service;

create function voice.backfill_status(encoder text)
returns table (
    encoder text, is_active boolean, embedded bigint, not_assessable bigint, skipped bigint, dead bigint, waiting bigint,
    baselines bigint, rebuilt bigint, outdated bigint, unrecoverable bigint
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select encoders.id, models.is_active, done.*, built.*
    from voice.encoders
    join care.models on models.id = encoders.id
    cross join lateral (
        select
            count(*) filter (where checks.state = 'embedded'),
            count(*) filter (where checks.state = 'not_assessable'),
            count(*) filter (where checks.state = 'skipped'),
            count(*) filter (where checks.state = 'dead'),
            count(*) filter (where checks.state in ('queued', 'leased'))
        from care.checks
        where checks.model = encoders.id and checks.is_backfill
    ) as done
    cross join lateral (
        select
            count(*),
            count(*) filter (where rebuilding.stage = 'rebuilt'),
            count(*) filter (where rebuilding.stage in ('waiting', 'outdated')),
            count(*) filter (where rebuilding.stage = 'unrecoverable')
        from voice.rebuilding
        where rebuilding.encoder = encoders.id
    ) as built
    where encoders.id = backfill_status.encoder
$$;
comment on function voice.backfill_status is
    'Returns the progress of a backfill: its checks by state, and how many baselines of the active encoder are rebuilt under this one. Security definer for the same reason as voice.open_backfill. Called by `retrocare backfill`.';
revoke execute on function voice.backfill_status from public;
grant execute on function voice.backfill_status to retrocare_service;

create function voice.unrecoverable_baselines(encoder text)
returns table (patient_id uuid, sample_count bigint, gone_count bigint, failed_count bigint)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select rebuilding.patient_id, rebuilding.sample_count, rebuilding.gone_count, rebuilding.failed_count
    from voice.rebuilding
    where rebuilding.encoder = unrecoverable_baselines.encoder and rebuilding.stage = 'unrecoverable'
    order by rebuilding.patient_id
$$;
comment on function voice.unrecoverable_baselines is
    'Returns the patients whose baseline cannot be rebuilt under this encoder, and why: of sample_count calls, gone_count have no recording any more and failed_count could not be embedded. Security definer for the same reason as voice.open_backfill. Called by `retrocare backfill`.';
revoke execute on function voice.unrecoverable_baselines from public;
grant execute on function voice.unrecoverable_baselines to retrocare_service;

-- 47_encoder_change.sql

-- Change of encoder: another encoder becomes active in one step. From then on it judges. Checks that wait for the earlier encoder are
-- reassigned; those that it has leased may finish.

create function voice.hold_calls(hold_seconds double precision)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update care.models
    set calls_wait_until = clock_timestamp() + make_interval(secs => least(hold_calls.hold_seconds, 60))
    where models.signal = 'voice' and models.is_active
$$;
comment on function voice.hold_calls is
    'Pauses the judging of calls for hold_seconds, a minute at most, so that baselines stop changing and another encoder can become active even under constant load. The caller repeats the call; if it crashes, the pause ends by itself. Security definer: the service has no privileges on tables. Called by `retrocare backfill --activate`.';
revoke execute on function voice.hold_calls from public;
grant execute on function voice.hold_calls to retrocare_service;

create function voice.adopt_archive()
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    update care.checks
    set model = voice.active_encoder()
    from public.call_logs
    where checks.model = any (array(select models.id from care.models where models.signal = 'voice' and not models.is_active))
        and checks.is_backfill
        and checks.state = 'queued'
        and call_logs.id = checks.call_log_id
        and call_logs.source = 'archive'
        and not exists (
            select from care.checks as twin
            where twin.call_log_id = checks.call_log_id and twin.model = voice.active_encoder() and twin.is_backfill
        )
$$;
comment on function voice.adopt_archive is
    'Reassigns archived calls that wait to be embedded to the active encoder, unless it has a check for them. Called by voice.activate_encoder.';
revoke execute on function voice.adopt_archive from public;

create function voice.activate_encoder(encoder text, accepts_unrecoverable boolean default false)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    missing record;
begin
    perform voice.policy(activate_encoder.encoder);
    begin
        -- Every transaction that judges takes a weaker lock on this table first. From here on none can judge, and none is in
        -- progress.
        lock table care.models in share row exclusive mode;
    exception when lock_not_available then
        raise exception using
            errcode = 'RV007',
            message = 'A transaction that judges has been open for too long',
            hint = 'Nothing was changed. Try again.';
    end;
    if activate_encoder.encoder = voice.active_encoder() then
        return 0;
    end if;

    select
        count(*) as of_all,
        count(*) filter (where rebuilding.stage in ('waiting', 'outdated')) as unfinished,
        count(*) filter (where rebuilding.stage = 'unrecoverable') as lost
    into missing
    from voice.rebuilding
    where rebuilding.encoder = activate_encoder.encoder;
    if missing.unfinished > 0 or (missing.lost > 0 and not activate_encoder.accepts_unrecoverable) then
        raise exception using
            errcode = 'RV007',
            message = format('Of %s baselines, %s are not rebuilt under %s, and %s cannot be',
                missing.of_all, missing.unfinished, activate_encoder.encoder, missing.lost),
            hint = format('`retrocare backfill --encoder %s --activate` rebuilds them and lists those that cannot be rebuilt. With `--accept-unrecoverable`, these patients enrol anew.',
                activate_encoder.encoder);
    end if;

    update care.models set is_active = false where models.signal = 'voice' and models.is_active;
    update care.models set is_active = true where models.id = activate_encoder.encoder;
    perform voice.adopt_archive();
    return care.reassign_checks(
        array(select id::bigint from care.checks_to_reassign(clock_timestamp(), null) as id), clock_timestamp());
end
$$;
comment on function voice.activate_encoder is
    'Makes another encoder active once every baseline is rebuilt under it, and returns how many waiting checks were reassigned. Unrecoverable baselines are accepted only if accepts_unrecoverable is true; the next healthy call of these patients enrols. All or nothing. Raises RV004, and RV007 if baselines are missing. Security definer: the service has no privileges on tables. Called by `retrocare backfill --activate`.';
revoke execute on function voice.activate_encoder from public;
grant execute on function voice.activate_encoder to retrocare_service;

-- 48_baseline_versions.sql

-- Baseline versions: what an operator can see of them, how to restore an earlier one, and how to remove a wrong sample.

create view public.patient_voice_baseline
with (security_invoker = true)
as
select
    baselines.patient_id,
    baselines.encoder,
    baselines.version,
    baselines.sample_count,
    policies.baseline_minimum_samples,
    case policies.rule when 'calibrated' then policies.calibrated_target_samples else policies.baseline_target_samples end
        as baseline_target_samples,
    baselines.sample_count < policies.baseline_minimum_samples as is_provisional,
    baselines.spread_mean,
    baselines.spread_deviation,
    baselines.created_at
from voice.baselines
join voice.policies on policies.encoder = baselines.encoder
where baselines.superseded_at is null;
comment on view public.patient_voice_baseline is
    'For caregivers: the progress of each patient''s baseline, one row per encoder, without the embedding.';
comment on column public.patient_voice_baseline.version is 'Counts every change of the baseline.';
comment on column public.patient_voice_baseline.is_provisional is
    'Whether there are fewer samples than baseline_minimum_samples. Scores then count, but are marked as provisional.';
comment on column public.patient_voice_baseline.spread_mean is
    'How much this voice varies when well: mean cosine distance of each sample to the mean of the others. Null below two samples.';
comment on column public.patient_voice_baseline.spread_deviation is 'Standard deviation of those distances. Null below two samples.';
comment on column public.patient_voice_baseline.created_at is 'When this version was built.';
revoke all on public.patient_voice_baseline from anon, authenticated, service_role;
grant select on public.patient_voice_baseline to authenticated, service_role;

create function voice.baseline_versions(patient_id uuid, encoder text)
returns table (
    version integer,
    is_current boolean,
    sample_count integer,
    kept_samples bigint,
    call_log_ids uuid[],
    created_at timestamptz,
    superseded_at timestamptz
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        baselines.version,
        baselines.superseded_at is null,
        baselines.sample_count,
        count(embeddings.id),
        coalesce(
            array_agg(embeddings.call_log_id order by embeddings.id) filter (where embeddings.id is not null), '{}'),
        baselines.created_at,
        baselines.superseded_at
    from voice.baselines
    left join voice.baseline_samples on baseline_samples.baseline_id = baselines.id
    left join voice.embeddings on embeddings.id = baseline_samples.embedding_id
    where baselines.patient_id = baseline_versions.patient_id
        and baselines.encoder = coalesce(baseline_versions.encoder, voice.active_encoder())
    group by baselines.id
    order by baselines.version desc
$$;
comment on function voice.baseline_versions is
    'Returns the versions of a patient''s baseline under this encoder (null: the active one), newest first, with the calls from which they were built, as far as these are still stored. Called by `retrocare patient baseline`.';
revoke execute on function voice.baseline_versions from public;
grant execute on function voice.baseline_versions to retrocare_service;

create function voice.restore_baseline(patient_id uuid, version integer)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    earlier voice.baselines;
    healthy bigint[];
    restored voice.baselines;
begin
    -- Locked first, so that the active encoder, whose baseline counts, cannot change meanwhile.
    lock table care.models in row exclusive mode;
    perform care.lock_patient(restore_baseline.patient_id);
    select baselines.* into earlier
    from voice.baselines
    where baselines.patient_id = restore_baseline.patient_id
        and baselines.encoder = voice.active_encoder()
        and baselines.version = restore_baseline.version;
    healthy := array(
        select embeddings.id
        from voice.baseline_samples
        join voice.embeddings on embeddings.id = baseline_samples.embedding_id
        join public.call_logs on call_logs.id = embeddings.call_log_id
        where baseline_samples.baseline_id = earlier.id
            and not care.is_unwell_at(call_logs.patient_id, call_logs."timestamp")
        order by embeddings.id
    );
    if earlier.id is null then
        raise exception using
            errcode = 'PT409',
            message = format('The patient''s baseline has no version %s', restore_baseline.version),
            hint = 'List the versions with `retrocare patient baseline`.';
    elsif earlier.superseded_at is null then
        raise exception using
            errcode = 'PT409',
            message = format('Version %s is already the current version', restore_baseline.version),
            hint = 'There is nothing to restore.';
    elsif healthy = '{}' then
        raise exception using
            errcode = 'PT409',
            message = format('No sample of version %s is left', restore_baseline.version),
            hint = 'Its samples were erased, or are of days that a health flag covers. Enrol the patient anew.';
    end if;
    restored := voice.build_baseline(earlier.patient_id, earlier.encoder, healthy, earlier.enrolment_id);
    perform voice.restart_chart(earlier.patient_id, earlier.encoder);
    return restored.version;
end
$$;
comment on function voice.restore_baseline is
    'Builds a new version from the samples of an earlier one, except those of days that have since been flagged, and returns its number. The chart restarts. Raises PT409, RV002. Called by `retrocare patient baseline --restore`.';
revoke execute on function voice.restore_baseline from public;
grant execute on function voice.restore_baseline to retrocare_service;

create function voice.withdraw_sample(patient_id uuid, call_log_id uuid)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    rebuilt integer;
begin
    -- Locked first, so that the active encoder, whose baseline counts, cannot change meanwhile.
    lock table care.models in row exclusive mode;
    perform care.lock_patient(withdraw_sample.patient_id);
    -- A call is at most one sample of a baseline.
    rebuilt := voice.remove_samples(
        withdraw_sample.patient_id,
        array(select embeddings.id from voice.embeddings where embeddings.call_log_id = withdraw_sample.call_log_id));
    if rebuilt = 0 then
        raise exception using
            errcode = 'RV003',
            message = format('The patient''s current baseline has no sample of the call %s', withdraw_sample.call_log_id),
            hint = 'List the calls of the baseline with `retrocare patient baseline`.';
    end if;
    return rebuilt;
end
$$;
comment on function voice.withdraw_sample is
    'Rebuilds the patient''s current baselines without the sample of that call and returns how many changed. If no samples are left, the next healthy call enrols. Raises RV002, RV003. Called by `retrocare patient withdraw-sample`.';
revoke execute on function voice.withdraw_sample from public;
grant execute on function voice.withdraw_sample to retrocare_service;

create function voice.compare_with_baseline(patient_id uuid, encoder text, embedding extensions.vector, snr_db double precision)
returns table (
    baseline_version integer,
    sample_count integer,
    anomaly_score double precision,
    raw_similarity double precision,
    severity public.anomaly_severity,
    is_unlike boolean
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    policy voice.policies := voice.policy(compare_with_baseline.encoder);
    present voice.baselines := voice.current_baseline(compare_with_baseline.patient_id, compare_with_baseline.encoder);
    judged voice.comparison;
    thresholds constant care.thresholds := care.thresholds_for(
        compare_with_baseline.encoder, compare_with_baseline.patient_id);
begin
    if present.id is null or present.sample_count < policy.baseline_minimum_samples then
        return;
    end if;
    judged := voice.judge(present.embedding, compare_with_baseline.embedding, compare_with_baseline.snr_db, null, policy, thresholds);
    return query select
        present.version, present.sample_count, judged.score, judged.raw_similarity, judged.severity,
        -- Uses the score before adjustments: a noisy line must not make another person's voice pass as this one.
        judged.anomaly > thresholds.medium_above;
end
$$;
comment on function voice.compare_with_baseline is
    'Compares an embedding with a patient''s baseline and returns the result; no row if the baseline is not complete. Stores nothing. Raises RV004, RV005. Called by `retrocare enroll` before it replaces anything.';
revoke execute on function voice.compare_with_baseline from public;
grant execute on function voice.compare_with_baseline to retrocare_service;

create function voice.covered_samples(patient_id uuid, since timestamptz)
returns bigint
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select count(*)
    from voice.baselines
    join voice.baseline_samples on baseline_samples.baseline_id = baselines.id
    join voice.embeddings on embeddings.id = baseline_samples.embedding_id
    join public.call_logs on call_logs.id = embeddings.call_log_id
    where baselines.patient_id = covered_samples.patient_id
        and baselines.superseded_at is null
        and baselines.encoder = voice.active_encoder()
        and call_logs."timestamp" >= covered_samples.since
$$;
comment on function voice.covered_samples is
    'Returns how many samples would leave the current baseline if the patient had been unwell since that time. Called by `retrocare patient flag`.';
revoke execute on function voice.covered_samples from public;
grant execute on function voice.covered_samples to retrocare_service;

-- 49_replay.sql

-- Replay: what another policy or budget would have done with the stored calls. It reads logs and writes nothing.

create type voice.replayed_call as (
    log_id uuid,
    patient_id uuid,
    occurred_at timestamptz,
    personal_deviation double precision,
    cusum double precision,
    score double precision,
    severity public.anomaly_severity,
    is_alert boolean,
    episode integer,
    recorded_score double precision,
    recorded_severity public.anomaly_severity,
    recorded_is_alert boolean,
    recorded_episode integer
);
comment on type voice.replayed_call is
    'A call as it would have been judged, and as it was. is_alert tells that caregivers would have been told: the level rose within an episode, which ends with three calm calls. Episodes are counted per patient; null: none.';

create type voice.episode as (
    number integer,
    level public.alert_level,
    is_urgent boolean,
    calm_calls integer
);
comment on type voice.episode is 'The episode of a replay so far. A level of null: none is open.';

create function voice.next_episode(episode voice.episode, level public.alert_level, is_urgent boolean, is_calm boolean)
returns voice.episode
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    episode.calm_calls := case when next_episode.is_calm then episode.calm_calls + 1 else 0 end;
    if next_episode.level is not null then
        if episode.level is null then
            episode.number := episode.number + 1;
            episode.is_urgent := false;
        end if;
        episode.level := greatest(episode.level, next_episode.level);
        episode.is_urgent := episode.is_urgent or next_episode.is_urgent;
    elsif episode.calm_calls >= 3 then
        episode.level := null;
    end if;
    return episode;
end
$$;
comment on function voice.next_episode is 'Returns the episode after a call of this level (null: low).';
revoke execute on function voice.next_episode from public;

create function voice.refuse_unknown_changes(changes jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    unknown constant text := (
        select string_agg(given.name, ', ')
        from jsonb_object_keys(refuse_unknown_changes.changes) as given (name)
        where given.name <> 'warnings_per_year'
            and not (to_jsonb(jsonb_populate_record(null::voice.policies, '{}')) || to_jsonb(jsonb_populate_record(null::care.thresholds, '{}')))
                ? given.name
            or given.name in ('encoder', 'calibration_id', 'id', 'organisation_id', 'signal', 'model')
    );
begin
    if unknown is not null then
        raise exception using
            errcode = 'PT400',
            message = format('%s cannot be tried', unknown),
            hint = 'Try warnings_per_year, rule, a threshold, or a weight of the fixed rule: `retrocare policy show` lists them.';
    elsif refuse_unknown_changes.changes ? 'warnings_per_year' then
        perform care.refuse_unknown_budget((refuse_unknown_changes.changes ->> 'warnings_per_year')::double precision);
    end if;
end
$$;
comment on function voice.refuse_unknown_changes is 'Raises PT400 if a policy has no such value, or if it cannot be tried on stored calls.';
revoke execute on function voice.refuse_unknown_changes from public;

create function voice.replay(patient_id uuid, organisation_id uuid, changes jsonb)
returns setof voice.replayed_call
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    logged public.voice_anomaly_logs;
    stored record;
    policy_values jsonb;
    kept_policy_id integer := -1;
    policy voice.policies;
    thresholds care.thresholds;
    calibration voice.calibrations;
    state voice.chart_state;
    decided voice.decision;
    judged voice.comparison;
    trial voice.episode;
    recorded voice.episode;
    before_level public.alert_level;
    before_urgent boolean;
    found_call voice.replayed_call;
    present_patient uuid;
    present_encoder text;
begin
    perform voice.refuse_unknown_changes(replay.changes);
    for stored in
        select
            kept.log, judgements.policy_id, corrected.state as correction
        from (
            -- Calls in between may be deleted; what was corrected after one of them stays corrected.
            select
                logs as log,
                lead(logs.decision_number) over (partition by logs.patient_id, logs.encoder order by logs.decision_number) as next_number
            from public.voice_anomaly_logs as logs
            join public.patients on patients.id = logs.patient_id
            where logs.calibration_id is not null
                and (replay.patient_id is null or logs.patient_id = replay.patient_id)
                and (replay.organisation_id is null or patients.organisation_id = replay.organisation_id)
        ) as kept
        join public.judgements on judgements.id = (kept.log).id
        left join lateral (
            select chart_corrections.state
            from voice.chart_corrections
            where chart_corrections.patient_id = (kept.log).patient_id
                and chart_corrections.encoder = (kept.log).encoder
                and chart_corrections.after_decision >= (kept.log).decision_number
                and (chart_corrections.after_decision < kept.next_number or kept.next_number is null)
            order by chart_corrections.id desc
            limit 1
        ) as corrected on true
        order by (kept.log).patient_id, (kept.log).encoder, (kept.log).created_at, (kept.log).decision_number
    loop
        logged := stored.log;
        if stored.policy_id <> kept_policy_id then
            kept_policy_id := stored.policy_id;
            policy_values := (select scoring_policies.policy from public.scoring_policies where scoring_policies.id = kept_policy_id) || replay.changes;
            policy := jsonb_populate_record(null::voice.policies, policy_values);
            thresholds := jsonb_populate_record(null::care.thresholds, policy_values);
        end if;
        if calibration.id is distinct from logged.calibration_id then
            select calibrations.* into calibration from voice.calibrations where calibrations.id = logged.calibration_id;
            state := voice.new_chart();
        end if;
        if present_patient is distinct from logged.patient_id then
            trial := (0, null, false, 0)::voice.episode;
            recorded := trial;
        end if;
        if (present_patient, present_encoder) is distinct from (logged.patient_id, logged.encoder) then
            state := voice.new_chart();
            present_patient := logged.patient_id;
            present_encoder := logged.encoder;
        end if;

        if policy.rule = 'calibrated' then
            decided := voice.decide(
                state, voice.logged_observation(logged), calibration, thresholds,
                coalesce((replay.changes ->> 'warnings_per_year')::double precision, logged.warnings_per_year),
                coalesce(logged.calls_per_year, 365), logged.local_day, logged.is_learned or logged.rule = 'fixed', logged.is_late);
            state := case when stored.correction is null then decided.after else stored.correction end;
            found_call.personal_deviation := decided.deviation;
            found_call.cusum := decided.cusum_after;
            found_call.score := decided.score;
            found_call.severity := decided.severity;
        else
            judged.anomaly := voice.anomaly(logged.raw_similarity);
            found_call.personal_deviation := null;
            found_call.cusum := null;
            found_call.score := voice.time_adjusted(
                voice.noise_adjusted(judged.anomaly, logged.snr, policy), logged.local_hour, policy);
            found_call.severity := care.severity(found_call.score, thresholds);
            decided.unconfirmed_score := found_call.score;
            decided.is_urgent := false;
        end if;
        found_call.log_id := logged.id;
        found_call.patient_id := logged.patient_id;
        found_call.occurred_at := logged."timestamp";

        before_level := trial.level;
        before_urgent := trial.is_urgent;
        trial := voice.next_episode(
            trial, care.alert_level(found_call.severity), decided.is_urgent, decided.unconfirmed_score < thresholds.medium_above);
        found_call.is_alert := trial.level is distinct from before_level and trial.level is not null
            or trial.level = 'warning' and trial.is_urgent and not before_urgent;
        found_call.episode := case when trial.level is not null then trial.number end;

        before_level := recorded.level;
        recorded := voice.next_episode(
            recorded, care.alert_level(logged.severity), false, logged.adjusted_from < thresholds.medium_above);
        found_call.recorded_score := logged.anomaly_score;
        found_call.recorded_severity := logged.severity;
        found_call.recorded_is_alert := recorded.level is distinct from before_level and recorded.level is not null;
        found_call.recorded_episode := case when recorded.level is not null then recorded.number end;
        return next found_call;
    end loop;
end
$$;
comment on function voice.replay is
    'Judges the stored calls of a patient, an organisation or all (null) once more from their stored numbers, in the order in which they were judged, with these changes of the policy. Calls without a calibration are left out. What somebody answered then stays as it was. Raises PT400.';
revoke execute on function voice.replay from public;

create function voice.replay_policy(patient_id uuid default null, organisation_id uuid default null, changes jsonb default '{}')
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    with calls as materialized (
        select * from voice.replay(replay_policy.patient_id, replay_policy.organisation_id, replay_policy.changes)
    ),
    spans as (
        select
            calls.patient_id,
            greatest(86400, extract(epoch from max(calls.occurred_at) - min(calls.occurred_at))) / (86400 * 365.25) as years,
            min(calls.occurred_at) as first_at,
            max(calls.occurred_at) as last_at
        from calls
        group by calls.patient_id
    ),
    total as (
        select count(*) as patients, sum(spans.years)::double precision as years from spans
    ),
    alerts as (
        select 'replayed' as whose, calls.patient_id, calls.occurred_at, care.alert_level(calls.severity) as level
        from calls where calls.is_alert
        union all
        select 'recorded', calls.patient_id, calls.occurred_at, care.alert_level(calls.recorded_severity)
        from calls where calls.recorded_is_alert
    ),
    episodes as (
        select 'replayed' as whose, calls.patient_id, calls.episode, max(care.alert_level(calls.severity)) as level
        from calls where calls.episode is not null group by calls.patient_id, calls.episode
        union all
        select 'recorded', calls.patient_id, calls.recorded_episode, max(care.alert_level(calls.recorded_severity))
        from calls where calls.recorded_episode is not null group by calls.patient_id, calls.recorded_episode
    ),
    leads as (
        -- The first alert of the 30 days before somebody noted that the patient was unwell.
        select whose.whose, health_flags.id, (
            select extract(epoch from health_flags.started_at - min(alerts.occurred_at)) / 86400
            from alerts
            where alerts.whose = whose.whose
                and alerts.patient_id = health_flags.patient_id
                and alerts.occurred_at between health_flags.started_at - interval '30 days' and health_flags.started_at
        )::double precision as days
        from public.health_flags
        join spans on spans.patient_id = health_flags.patient_id
            and health_flags.started_at between spans.first_at and spans.last_at
        cross join (values ('replayed'), ('recorded')) as whose (whose)
    )
    select jsonb_build_object(
        'patients', total.patients,
        'calls', (select count(*) from calls),
        'patient_years', round(coalesce(total.years, 0)::numeric, 3),
        'largest_score_difference', (select max(abs(calls.score - calls.recorded_score)) from calls)
    ) || (
        select jsonb_object_agg(whose.whose, jsonb_build_object(
            'alerts_per_year', (
                select jsonb_object_agg(levels.level, round(((
                    select count(*) from alerts where alerts.whose = whose.whose and alerts.level = levels.level
                ) / nullif(total.years, 0))::numeric, 4))
                from unnest(enum_range(null::public.alert_level)) as levels (level)
            ),
            'episodes_per_year', (
                select jsonb_object_agg(levels.level, round(((
                    select count(*) from episodes where episodes.whose = whose.whose and episodes.level = levels.level
                ) / nullif(total.years, 0))::numeric, 4))
                from unnest(enum_range(null::public.alert_level)) as levels (level)
            ),
            'health_flags', (select count(*) from leads where leads.whose = whose.whose),
            'health_flags_preceded', (select count(leads.days) from leads where leads.whose = whose.whose),
            'median_lead_days', (
                select percentile_cont(0.5) within group (order by leads.days) from leads where leads.whose = whose.whose
            )
        ))
        from (values ('replayed'), ('recorded')) as whose (whose)
    )
    from total
$$;
comment on function voice.replay_policy is
    'Returns what another policy would have done with the stored calls of a patient, an organisation or all (null): alerts and episodes a year by level, and how many days before a health flag the first alert came, beside the same for the recorded scores. changes has values of the policy by name, and warnings_per_year; none: the policy that was in force, whose scores come out as they were recorded. Raises PT400. Security definer: callers may not read the logs. Called by `retrocare policy replay`.';
revoke execute on function voice.replay_policy from public;
grant execute on function voice.replay_policy to retrocare_service;

-- 50_alerts.sql

-- Alerts: one alert is one episode of a patient, from its first sign, of any signal, until somebody resolves it. A worse sign raises
-- its level; a repeated one only counts up, so that nobody is woken twice for the same thing. Every change is a row, and changes that
-- caregivers must learn of become deliveries.

create type public.alert_state as enum (
    'open',             -- nobody has responded         -> escalated, acknowledged, snoozed, resolved
    'escalated',        -- nobody responded in time     -> open (raised), acknowledged, snoozed, resolved
    'acknowledged',     -- somebody attends to it       -> open (raised, reopened), snoozed, resolved
    'snoozed',          -- postponed to snoozed_until   -> open (woken or raised), acknowledged, resolved
    'resolved'          -- end: the episode is over
);
comment on type public.alert_state is 'The state of an alert. In every state but resolved, the episode is in progress.';

create type public.alert_outcome as enum (
    'ill',              -- a health flag is added: calls of that time are not learned from
    'not_ill',          -- well: what pointed to a change is forgotten
    'other_person',     -- somebody else spoke: the calls count no longer
    'wrong_recording',  -- the same, for a recording that is of another call
    'new_line',         -- a new telephone or room: a new baseline is built from the calls since the alert was opened
    'other'
);
comment on type public.alert_outcome is 'What the caregivers found out, with its consequences.';

create table public.alert_causes (
    id text constraint alert_causes_pkey primary key,
    name text not null,
    signal text
        constraint a_cause_may_be_of_a_signal references care.signals (id),
    has_score boolean not null,
    closes_when_heard boolean not null
);
create index alert_causes_by_signal on public.alert_causes (signal);
alter table public.alert_causes enable row level security;
revoke all on public.alert_causes from anon, authenticated, service_role;
insert into public.alert_causes (id, name, signal, has_score, closes_when_heard) values
    ('voice_changed', 'The voice has changed', 'voice', true, false),        -- a call with a score above a threshold
    ('another_voice', 'It did not sound like this person', 'voice', true, false),    -- the same, and another person is likelier
    ('nothing_heard', 'Nothing was heard for days', null, false, true),      -- no call could be judged for the set number of days
    ('no_usable_speech', 'Answered, but hardly heard', null, false, true);   -- several answered calls in a row without usable speech
comment on table public.alert_causes is 'The possible causes of an alert.';
comment on column public.alert_causes.has_score is 'Whether a judgement with a score is behind it.';
comment on column public.alert_causes.closes_when_heard is
    'Whether an alert with no other cause is resolved by a rule once the patient is heard again. All other alerts are resolved by a person, who gives the outcome.';
grant select on public.alert_causes to authenticated, service_role;

create type public.alert_change as enum (
    'opened',           -- the first sign
    'raised',           -- a worse sign, or one with another cause while acknowledged or snoozed: open again
    'repeated',         -- the same again: only counted
    'escalated',        -- nobody responded in time: more caregivers are notified
    'reminded',         -- still nobody has responded
    'acknowledged', 'snoozed',
    'woken',            -- the snooze has ended: open again
    'reopened',         -- the acknowledgement has expired without an outcome: open again
    'resolved'
);
comment on type public.alert_change is 'What happened to an alert.';

create type public.alert_actor as enum (
    'rule',         -- time has passed, or a call was judged
    'caregiver',    -- a caregiver, named in caregiver_id
    'operator'      -- the care team, through the service or service_role
);
comment on type public.alert_actor is 'Who changed an alert.';

create table care.alert_policies (
    level public.alert_level constraint alert_policies_pkey primary key,
    first_roles public.caregiver_role[] not null,
    further_roles public.caregiver_role[] not null,
    escalate_after_minutes double precision not null
        constraint an_alert_waits_for_an_answer check (escalate_after_minutes > 0 and escalate_after_minutes <= 10080),
    remind_after_minutes double precision not null
        constraint reminders_are_apart check (remind_after_minutes > 0 and remind_after_minutes <= 10080),
    maximum_reminders integer not null
        constraint reminders_are_counted check (maximum_reminders >= 0),
    maximum_snooze_hours double precision not null
        constraint a_snooze_ends check (maximum_snooze_hours > 0 and maximum_snooze_hours <= 168),
    waits_for_morning boolean not null,
    maximum_silent_hours double precision not null
        constraint an_unresolved_alert_speaks_again check (maximum_silent_hours > 0 and maximum_silent_hours <= 8784),
    minimum_snooze_minutes double precision not null default 15
        constraint a_snooze_takes_a_while check (minimum_snooze_minutes between 0 and 60),
    constraint only_a_warning_waits_for_morning check (level = 'warning' or not waits_for_morning)
);
alter table care.alert_policies enable row level security;
insert into care.alert_policies values
    ('warning', '{primary}', '{primary,family}', 240, 480, 2, 72, true, 168),
    ('emergency', '{primary,family}', '{primary,family,clinician}', 15, 30, 6, 4, false, 24),
    ('critical', '{primary,family,clinician}', '{primary,family,clinician}', 5, 10, 12, 1, false, 4);
comment on table care.alert_policies is 'Who is notified at each level, when others are, and how often.';
comment on column care.alert_policies.first_roles is
    'The roles that are notified at once. If none of them can be reached, everybody who can be is.';
comment on column care.alert_policies.further_roles is 'The roles that are notified when nobody has responded.';
comment on column care.alert_policies.maximum_silent_hours is
    'The longest time for which an unresolved alert stays silent: an acknowledgement expires after it, and so does the pause after the last of maximum_reminders.';
comment on column care.alert_policies.waits_for_morning is
    'Whether messages wait until the caregiver''s quiet hours are over. Those of an emergency never do.';
comment on column care.alert_policies.minimum_snooze_minutes is
    'A shorter snooze is refused, since the caregiver is notified again whenever one ends.';

create table public.caregiver_alerts (
    id uuid constraint caregiver_alerts_pkey primary key default gen_random_uuid(),
    patient_id uuid not null
        constraint an_alert_is_about_a_patient references public.patients (id) on delete cascade,
    level public.alert_level not null,
    state public.alert_state not null default 'open',
    cause text not null
        constraint an_alert_has_a_known_cause references public.alert_causes (id),
    causes text[] not null default '{}',
    call_log_id uuid
        constraint an_alert_keeps_its_worst_call references public.call_logs (id) on delete set null,
    judgement_id uuid
        constraint an_alert_keeps_its_worst_judgement references public.judgements (id) on delete set null,
    anomaly_score double precision
        constraint an_alert_score_is_a_share check (anomaly_score between 0 and 1),
    is_urgent boolean not null default false,
    repeat_count integer not null default 0,
    reminder_count integer not null default 0,
    opened_at timestamptz not null default now(),
    last_raised_at timestamptz not null default now(),
    next_change_at timestamptz default now(),
    acknowledged_at timestamptz,
    acknowledged_by uuid
        constraint whoever_acknowledged_was_a_caregiver references public.patient_caregivers (id) on delete set null,
    snoozed_until timestamptz,
    resolved_at timestamptz,
    resolved_by uuid
        constraint whoever_resolved_was_a_caregiver references public.patient_caregivers (id) on delete set null,
    outcome public.alert_outcome,
    notes text
        constraint notes_on_an_alert_have_at_most_10000_characters check (char_length(notes) <= 10000),
    constraint an_unresolved_alert_is_never_silent_for_ever check (state = 'resolved' or (next_change_at is not null and isfinite(next_change_at))),
    constraint a_resolved_alert_has_its_time check ((state = 'resolved') = (resolved_at is not null)),
    constraint an_acknowledged_alert_has_its_time check (state <> 'acknowledged' or acknowledged_at is not null),
    constraint a_snoozed_alert_has_its_end check ((state = 'snoozed') = (snoozed_until is not null)),
    constraint an_outcome_comes_with_the_end check (outcome is null or state = 'resolved')
);
create unique index a_patient_has_one_unresolved_alert on public.caregiver_alerts (patient_id) where resolved_at is null;
create index caregiver_alerts_by_patient on public.caregiver_alerts (patient_id, opened_at desc);
create index caregiver_alerts_by_cause on public.caregiver_alerts (cause);
create index caregiver_alerts_by_call on public.caregiver_alerts (call_log_id);
create index caregiver_alerts_by_judgement on public.caregiver_alerts (judgement_id);
create index caregiver_alerts_by_acknowledger on public.caregiver_alerts (acknowledged_by);
create index caregiver_alerts_by_resolver on public.caregiver_alerts (resolved_by);
create index caregiver_alerts_due on public.caregiver_alerts (next_change_at) where resolved_at is null;
alter table public.caregiver_alerts enable row level security;
revoke all on public.caregiver_alerts from anon, authenticated, service_role;
comment on table public.caregiver_alerts is 'One row per episode, at most one unresolved per patient.';
comment on column public.caregiver_alerts.cause is 'The cause of the last sign of which caregivers were notified.';
comment on column public.caregiver_alerts.causes is 'All causes of signs in this episode.';
comment on column public.caregiver_alerts.anomaly_score is
    'The highest score of the episode, that of judgement_id and call_log_id. Null: nothing was judged.';
comment on column public.caregiver_alerts.is_urgent is
    'Whether caregivers were told at once, because a single call was very unlike usual; a second such call makes it an emergency.';
comment on column public.caregiver_alerts.repeat_count is 'How many further signs there were.';
comment on column public.caregiver_alerts.next_change_at is 'When it is escalated, reminded of, woken or reopened. Null: it is resolved.';
grant select on public.caregiver_alerts to service_role, authenticated;
create index alerts_that_press on public.caregiver_alerts (opened_at) where state in ('open', 'escalated');

create table public.alert_changes (
    id uuid constraint alert_changes_pkey primary key default gen_random_uuid(),
    alert_id uuid not null
        constraint a_change_is_of_an_alert references public.caregiver_alerts (id) on delete cascade,
    patient_id uuid not null
        constraint a_change_is_about_a_patient references public.patients (id) on delete cascade,
    change public.alert_change not null,
    level public.alert_level not null,
    cause text not null
        constraint a_change_has_a_known_cause references public.alert_causes (id),
    call_log_id uuid
        constraint a_change_keeps_its_call references public.call_logs (id) on delete set null,
    judgement_id uuid
        constraint a_change_keeps_its_judgement references public.judgements (id) on delete set null,
    actor public.alert_actor not null default 'rule',
    actor_id uuid
        constraint whoever_changed_it_had_an_account references auth.users (id) on delete set null,
    caregiver_id uuid
        constraint whoever_changed_it_was_a_caregiver references public.patient_caregivers (id) on delete set null,
    operator text
        constraint an_operator_has_a_name check ((actor = 'operator') = (operator is not null)),
    snoozed_until timestamptz,
    outcome public.alert_outcome,
    is_urgent boolean not null default false,
    changed_at timestamptz not null
);
create index alert_changes_by_alert on public.alert_changes (alert_id, changed_at);
create index alert_changes_by_patient on public.alert_changes (patient_id, changed_at desc);
create index alert_changes_by_cause on public.alert_changes (cause);
create index alert_changes_by_call on public.alert_changes (call_log_id);
create index alert_changes_by_judgement on public.alert_changes (judgement_id);
create index alert_changes_by_actor on public.alert_changes (actor_id);
create index alert_changes_by_caregiver on public.alert_changes (caregiver_id);
alter table public.alert_changes enable row level security;
revoke all on public.alert_changes from anon, authenticated, service_role;
comment on table public.alert_changes is 'The history of every alert: what happened, when, and by whom. Append-only.';
comment on column public.alert_changes.level is 'The level of the sign if there was one, else that of the alert.';
comment on column public.alert_changes.actor_id is
    'The caregiver''s account. Null: actor is an operator or a rule, or the caregiver has no account.';
comment on column public.alert_changes.caregiver_id is
    'The caregiver who made the change. Null: actor is an operator or a rule, or the caregiver no longer cares for the patient.';
comment on column public.alert_changes.is_urgent is 'Whether messages about it do not wait for the end of quiet hours.';
comment on column public.alert_changes.operator is 'If actor is an operator: the database login, or the name given with the change.';
grant select on public.alert_changes to service_role, authenticated;

create type care.actor as (
    actor public.alert_actor,
    actor_id uuid,
    caregiver_id uuid,
    operator text
);
comment on type care.actor is 'Who changes an alert, as stored in alert_changes.';

create function care.note_change(
    alert public.caregiver_alerts, change public.alert_change, at timestamptz, level public.alert_level default null,
    cause text default null, call_log_id uuid default null, judgement_id uuid default null,
    caller care.actor default row('rule', null, null, null)::care.actor, is_urgent boolean default false
)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into public.alert_changes (
        alert_id, patient_id, change, level, cause, call_log_id, judgement_id, actor, actor_id, caregiver_id, operator,
        snoozed_until, outcome, is_urgent, changed_at
    )
    values (
        alert.id, alert.patient_id, note_change.change, coalesce(note_change.level, alert.level),
        coalesce(note_change.cause, alert.cause), note_change.call_log_id, note_change.judgement_id,
        (note_change.caller).actor, (note_change.caller).actor_id, (note_change.caller).caregiver_id, (note_change.caller).operator,
        alert.snoozed_until, alert.outcome, note_change.is_urgent, note_change.at
    )
$$;
comment on function care.note_change is 'Adds a change to an alert''s history. A trigger then notifies caregivers.';
revoke execute on function care.note_change from public;

create policy caregivers_read_their_patients_alerts on public.caregiver_alerts
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

create policy caregivers_read_their_patients_alert_changes on public.alert_changes
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

create policy everybody_who_is_told_reads_what_about on public.alert_causes
    for select to authenticated
    using (true);

-- 51_episodes.sql

-- Episodes: how signs open and change an alert, and what happens when nobody responds.

create function care.after_quiet_hours(at timestamptz, timezone text, quiet_from time, quiet_until time)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when quiet_from = quiet_until then after_quiet_hours.at
        when quiet_from < quiet_until and (clock.local_at::time < quiet_from or clock.local_at::time >= quiet_until)
            then after_quiet_hours.at
        when quiet_from > quiet_until and clock.local_at::time < quiet_from and clock.local_at::time >= quiet_until
            then after_quiet_hours.at
        else (clock.local_at::date + (clock.local_at::time >= quiet_until)::integer + quiet_until)
            at time zone after_quiet_hours.timezone
    end
    from (select after_quiet_hours.at at time zone after_quiet_hours.timezone as local_at) as clock
$$;
comment on function care.after_quiet_hours is
    'Returns this time, or the end of the quiet hours into which it falls, in that time zone. Stable, not immutable: time zones change with PostgreSQL''s data.';
revoke execute on function care.after_quiet_hours from public;

create function care.answer_due_at(
    patient_id uuid, level public.alert_level, minutes double precision, at timestamptz, is_urgent boolean default false
)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case
            when alert_policies.waits_for_morning and not answer_due_at.is_urgent then care.after_quiet_hours(
                answer_due_at.at, patients.timezone, settings.quiet_from, settings.quiet_until)
            else answer_due_at.at
        end + make_interval(secs => 60 * answer_due_at.minutes)
    from public.patients
    join care.organisation_settings as settings on settings.organisation_id = patients.organisation_id
    cross join care.alert_policies
    where patients.id = answer_due_at.patient_id and alert_policies.level = answer_due_at.level
$$;
comment on function care.answer_due_at is
    'Returns the time by which somebody should have responded. If the level waits for the morning, and the sign is not urgent, the time starts when quiet hours end.';
revoke execute on function care.answer_due_at from public;

create function care.raise_alert(
    patient_id uuid, cause text, level public.alert_level, at timestamptz,
    call_log_id uuid default null, judgement_id uuid default null, anomaly_score double precision default null,
    is_urgent boolean default false
)
returns public.caregiver_alerts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    due_at timestamptz;
    earlier public.caregiver_alerts;
    alert public.caregiver_alerts;
    change public.alert_change := 'opened';
    is_worse boolean;
    is_new_cause boolean;
begin
    if (select alert_causes.has_score from public.alert_causes where alert_causes.id = raise_alert.cause)
        is distinct from (raise_alert.anomaly_score is not null)
    then
        raise exception using
            errcode = '23514',
            message = format('%s is no cause of public.alert_causes with%s a score',
                raise_alert.cause, case when raise_alert.anomaly_score is null then 'out' else '' end),
            hint = 'A new cause is a row of public.alert_causes; has_score says whether a judgement is behind it.';
    end if;
    select caregiver_alerts.* into earlier
    from public.caregiver_alerts
    where caregiver_alerts.patient_id = raise_alert.patient_id and caregiver_alerts.resolved_at is null
    for update;
    -- The time to respond is that of the worst sign of the episode, not of the last one.
    select care.answer_due_at(
        raise_alert.patient_id, alert_policies.level, alert_policies.escalate_after_minutes, raise_alert.at,
        raise_alert.is_urgent or coalesce(earlier.is_urgent, false))
    into due_at
    from care.alert_policies
    where alert_policies.level = greatest(raise_alert.level, earlier.level);
    if earlier.id is null then
        insert into public.caregiver_alerts (
            patient_id, level, cause, causes, call_log_id, judgement_id, anomaly_score, is_urgent, opened_at, last_raised_at,
            next_change_at
        )
        values (
            raise_alert.patient_id, raise_alert.level, raise_alert.cause, array[raise_alert.cause], raise_alert.call_log_id,
            raise_alert.judgement_id, raise_alert.anomaly_score, raise_alert.is_urgent, raise_alert.at, raise_alert.at, due_at
        )
        returning * into alert;
    else
        is_worse := raise_alert.anomaly_score > coalesce(earlier.anomaly_score, -1);
        -- Causes of one signal say the same: a changed voice is at times taken for another one.
        is_new_cause := not exists (
            select
            from public.alert_causes as known
            join public.alert_causes as raised on raised.id = raise_alert.cause
            where known.id = any (earlier.causes) and (known.id = raised.id or known.signal = raised.signal)
        );
        change := case
            when raise_alert.level > earlier.level then 'raised'
            -- Within a warning, one call that is very unlike usual is a rise.
            when raise_alert.is_urgent and not earlier.is_urgent and earlier.level = 'warning' then 'raised'
            when earlier.state in ('acknowledged', 'snoozed')
                -- A new cause, or a sign after the time for which the alert was acknowledged or snoozed.
                and (is_new_cause or earlier.next_change_at <= raise_alert.at)
                then 'raised'
            else 'repeated'
        end;
        update public.caregiver_alerts
        set level = greatest(earlier.level, raise_alert.level),
            causes = case when raise_alert.cause = any (earlier.causes) then earlier.causes else earlier.causes || raise_alert.cause end,
            call_log_id = case when is_worse then raise_alert.call_log_id else earlier.call_log_id end,
            judgement_id = case when is_worse then raise_alert.judgement_id else earlier.judgement_id end,
            anomaly_score = greatest(earlier.anomaly_score, raise_alert.anomaly_score),
            is_urgent = earlier.is_urgent or raise_alert.is_urgent,
            repeat_count = earlier.repeat_count + 1,
            last_raised_at = raise_alert.at
        where caregiver_alerts.id = earlier.id
        returning * into alert;
        if change = 'raised' then
            update public.caregiver_alerts
            set state = 'open',
                cause = raise_alert.cause,
                reminder_count = 0,
                next_change_at = due_at,
                acknowledged_at = null,
                acknowledged_by = null,
                snoozed_until = null
            where caregiver_alerts.id = earlier.id
            returning * into alert;
        end if;
    end if;
    perform care.note_change(
        alert, change, raise_alert.at, raise_alert.level, raise_alert.cause, raise_alert.call_log_id, raise_alert.judgement_id,
        is_urgent => raise_alert.is_urgent);
    return alert;
end
$$;
comment on function care.raise_alert is
    'Opens an alert for the patient, or raises or counts up the unresolved one, and returns it. Messages about an urgent one (is_urgent) do not wait for the end of quiet hours. The caller has called care.lock_patient. Called by care.record_judgement and care.note_silence.';
revoke execute on function care.raise_alert from public;

create function care.is_known_illness(patient_id uuid, at timestamptz, level public.alert_level)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    -- A critical sign is always notified, even of a known illness.
    select is_known_illness.level < 'critical'
        and care.is_unwell_at(is_known_illness.patient_id, is_known_illness.at)
        and coalesce((
            select latest.outcome = 'ill'
                and latest.level >= is_known_illness.level
                -- A known illness expires, even while a health flag is still open.
                and is_known_illness.at <= latest.resolved_at + make_interval(days => (care.settings_of(latest.patient_id)).illness_days)
            from public.caregiver_alerts as latest
            where latest.patient_id = is_known_illness.patient_id
            order by latest.opened_at desc
            limit 1
        ), false)
$$;
comment on function care.is_known_illness is
    'Returns whether a judgement is explained by an illness that caregivers know of: they resolved the last episode as ill, at most care.organisation_settings.illness_days ago, a health flag still covers the call, and the sign is not critical and not worse than that episode. Called by care.record_judgement.';
revoke execute on function care.is_known_illness from public;

create function care.alerts_to_advance(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select caregiver_alerts.id::text
    from public.caregiver_alerts
    where caregiver_alerts.resolved_at is null and caregiver_alerts.next_change_at <= alerts_to_advance.at
    order by caregiver_alerts.level desc, caregiver_alerts.next_change_at
    limit alerts_to_advance.maximum_rows
$$;
comment on function care.alerts_to_advance is 'Lists the alerts whose next change is due, most urgent first. Called by care.run_job.';
revoke execute on function care.alerts_to_advance from public;

create function care.advance_alert(alert_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts;
    policy care.alert_policies;
    moved public.alert_change;
    has_score boolean;
begin
    select caregiver_alerts.* into alert from public.caregiver_alerts where caregiver_alerts.id = advance_alert.alert_id::uuid;
    if not care.try_lock_patient(alert.patient_id) then
        return false;
    end if;
    select caregiver_alerts.* into alert
    from public.caregiver_alerts
    where caregiver_alerts.id = alert.id
        and caregiver_alerts.resolved_at is null
        and caregiver_alerts.next_change_at <= advance_alert.at
    for update;
    if not found then
        return false;
    end if;
    select alert_policies.* into policy from care.alert_policies where alert_policies.level = alert.level;
    moved := case alert.state
        when 'snoozed' then 'woken'
        when 'acknowledged' then 'reopened'
        when 'open' then 'escalated'
        else 'reminded'
    end;
    alert.reminder_count := case moved when 'reminded' then alert.reminder_count + 1 else 0 end;
    update public.caregiver_alerts
    set state = case when moved in ('woken', 'reopened') then 'open'::public.alert_state else 'escalated' end,
        acknowledged_at = null,
        acknowledged_by = null,
        snoozed_until = null,
        reminder_count = alert.reminder_count,
        next_change_at = care.answer_due_at(
            alert.patient_id, alert.level,
            case
                when moved in ('woken', 'reopened') then policy.escalate_after_minutes
                when alert.reminder_count < policy.maximum_reminders then policy.remind_after_minutes
                else 60 * policy.maximum_silent_hours
            end,
            advance_alert.at, alert.is_urgent)
    where caregiver_alerts.id = alert.id
    returning * into alert;
    -- Without a score, no call is behind the last sign of which caregivers were notified.
    has_score := (select alert_causes.has_score from public.alert_causes where alert_causes.id = alert.cause);
    perform care.note_change(
        alert, moved, advance_alert.at,
        call_log_id => case when has_score then alert.call_log_id end,
        judgement_id => case when has_score then alert.judgement_id end,
        is_urgent => alert.is_urgent);
    return true;
end
$$;
comment on function care.advance_alert is
    'Advances an alert: wakes a snoozed one, reopens an acknowledged one, escalates an open one, or sends a reminder. Returns whether it did. Called by care.run_job.';
revoke execute on function care.advance_alert from public;

-- 52_alert_actions.sql

-- Alert actions: what a caregiver, or an operator for the care team, can do about an alert, and how an episode ends. Viewers may only
-- read alerts; to people who are not caregivers of the patient, an alert does not exist.

create function care.alert_to_act_on(alert_id uuid)
returns public.caregiver_alerts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts;
begin
    -- Lock the patient first, as every change to an alert does, and read the alert only then.
    perform care.patient_for_caller(
        (select caregiver_alerts.patient_id from public.caregiver_alerts where caregiver_alerts.id = alert_to_act_on.alert_id),
        'family');
    select caregiver_alerts.* into alert
    from public.caregiver_alerts
    where caregiver_alerts.id = alert_to_act_on.alert_id
    for update;
    return alert;
end
$$;
comment on function care.alert_to_act_on is
    'Returns the alert, with its row and its patient locked, if the signed-in caregiver or an operator may act on it. Raises PT403, PT404, RV002.';
revoke execute on function care.alert_to_act_on from public;

create function care.actor_of(patient_id uuid, operator text)
returns care.actor
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when care.is_caller_a_caregiver() then (
            'caregiver', (select auth.uid()),
            (
                select patient_caregivers.id
                from public.patient_caregivers
                where patient_caregivers.patient_id = actor_of.patient_id and patient_caregivers.user_id = (select auth.uid())
            ),
            null
        )::care.actor
        -- The database login, or the role that the Data API assumed for it. In a security definer function, current_user is the
        -- owner.
        else (
            'operator', null, null,
            coalesce(nullif(btrim(actor_of.operator), ''), nullif(current_setting('role'), 'none'), session_user)
        )::care.actor
    end
$$;
comment on function care.actor_of is
    'Returns the actor as whom the caller changes an alert of this patient. operator is the name of an operator; null: the login.';
revoke execute on function care.actor_of from public;

create function care.refuse_resolved(alert public.caregiver_alerts)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if alert.state = 'resolved' then
        raise exception using
            errcode = 'PT409',
            message = 'The alert is resolved',
            hint = 'A new sign opens another alert.';
    end if;
end
$$;
comment on function care.refuse_resolved is 'Raises PT409 if the alert is resolved.';
revoke execute on function care.refuse_resolved from public;

create function care.acknowledge_alert(alert_id uuid, at timestamptz default now(), operator text default null)
returns public.caregiver_alerts
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts := care.alert_to_act_on(acknowledge_alert.alert_id);
    caller constant care.actor := care.actor_of(alert.patient_id, acknowledge_alert.operator);
begin
    perform care.refuse_resolved(alert);
    if alert.state = 'acknowledged' then
        return alert;
    end if;
    update public.caregiver_alerts
    set state = 'acknowledged',
        acknowledged_at = acknowledge_alert.at,
        acknowledged_by = caller.caregiver_id,
        snoozed_until = null,
        next_change_at = acknowledge_alert.at + make_interval(secs => 3600 * (
            select maximum_silent_hours from care.alert_policies where alert_policies.level = alert.level
        ))
    where caregiver_alerts.id = alert.id
    returning * into alert;
    perform care.note_change(alert, 'acknowledged', acknowledge_alert.at, caller => caller);
    return alert;
end
$$;
comment on function care.acknowledge_alert is
    'Acknowledges an alert on behalf of the signed-in caregiver or the care team, and returns it. If it is already acknowledged, nothing changes. Raises PT403, PT404, PT409. Security definer: callers may not write alerts directly.';
revoke execute on function care.acknowledge_alert from public;
grant execute on function care.acknowledge_alert to retrocare_service;

create function care.snooze_alert(alert_id uuid, until timestamptz, at timestamptz default now())
returns public.caregiver_alerts
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts := care.alert_to_act_on(snooze_alert.alert_id);
    policy care.alert_policies := (
        select alert_policies from care.alert_policies where alert_policies.level = alert.level
    );
begin
    perform care.refuse_resolved(alert);
    if (snooze_alert.until >= snooze_alert.at + make_interval(secs => 60 * policy.minimum_snooze_minutes)
        and snooze_alert.until <= snooze_alert.at + make_interval(secs => 3600 * policy.maximum_snooze_hours)) is not true
    then
        raise exception using
            errcode = 'PT400',
            message = format('An alert of level %s can be snoozed for %s minutes to %s hours',
                alert.level, policy.minimum_snooze_minutes, policy.maximum_snooze_hours),
            hint = 'Give a time in that range.';
    end if;
    update public.caregiver_alerts
    set state = 'snoozed',
        snoozed_until = snooze_alert.until,
        next_change_at = snooze_alert.until,
        acknowledged_at = null,
        acknowledged_by = null
    where caregiver_alerts.id = alert.id
    returning * into alert;
    perform care.note_change(alert, 'snoozed', snooze_alert.at, caller => care.actor_of(alert.patient_id, null));
    return alert;
end
$$;
comment on function care.snooze_alert is
    'Snoozes an alert and returns it. When the snooze ends, the alert is open again and caregivers are notified. Raises PT400 if the time is too short or too long, PT403, PT404, PT409. Security definer: callers may not write alerts directly.';
revoke execute on function care.snooze_alert from public;

create function care.resolve(
    alert public.caregiver_alerts, outcome public.alert_outcome, notes text, at timestamptz,
    caller care.actor default row('rule', null, null, null)::care.actor
)
returns public.caregiver_alerts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.caregiver_alerts
    set state = 'resolved',
        resolved_at = resolve.at,
        resolved_by = (resolve.caller).caregiver_id,
        outcome = resolve.outcome,
        notes = coalesce(resolve.notes, alert.notes),
        snoozed_until = null,
        next_change_at = null
    where caregiver_alerts.id = alert.id
    returning * into alert;
    perform care.note_change(alert, 'resolved', resolve.at, caller => resolve.caller);
    return alert;
end
$$;
comment on function care.resolve is
    'Resolves an alert and returns it. Called by care.resolve_alert, and by care.end_silence when a silent patient was heard again.';
revoke execute on function care.resolve from public;

create function care.flag_illness(alert public.caregiver_alerts)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into public.health_flags (patient_id, flag, started_at, resolved_at)
    select
        alert.patient_id, 'ill (alert)', alert.opened_at,
        alert.resolved_at + make_interval(days => (care.settings_of(alert.patient_id)).illness_days)
    where not care.is_unwell_at(alert.patient_id, alert.resolved_at)
$$;
comment on function care.flag_illness is
    'Adds a health flag for a patient who was found ill, from the opening of the alert until care.organisation_settings.illness_days after its end, unless a health flag already covers that time. Called by care.resolve_alert.';
revoke execute on function care.flag_illness from public;

create function care.resolve_alert(
    alert_id uuid, outcome public.alert_outcome, notes text default null, at timestamptz default now(), operator text default null
)
returns public.caregiver_alerts
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts := care.alert_to_act_on(resolve_alert.alert_id);
    caller constant care.actor := care.actor_of(alert.patient_id, resolve_alert.operator);
begin
    if resolve_alert.outcome is null then
        raise exception using
            errcode = 'PT400',
            message = 'An outcome is required to resolve an alert',
            hint = format('Use one of %s.', array_to_string(enum_range(null::public.alert_outcome), ', '));
    elsif char_length(resolve_alert.notes) > 10000 then
        raise exception using
            errcode = 'PT400',
            message = format('The notes have %s characters; at most 10000 are kept', char_length(resolve_alert.notes)),
            hint = 'Keep longer notes elsewhere and state where.';
    end if;
    if (alert.state, alert.outcome, alert.resolved_by)
        is not distinct from ('resolved'::public.alert_state, resolve_alert.outcome, caller.caregiver_id)
    then
        return alert;
    end if;
    perform care.refuse_resolved(alert);
    alert := care.resolve(alert, resolve_alert.outcome, resolve_alert.notes, resolve_alert.at, caller);
    if alert.outcome = 'ill' then
        perform care.flag_illness(alert);
    end if;
    return alert;
end
$$;
comment on function care.resolve_alert is
    'Resolves an alert with its outcome and returns it; an illness is noted as a health flag. Repeating the same call changes nothing. Raises PT400, PT403, PT404, PT409. Security definer: callers may not write alerts directly.';
revoke execute on function care.resolve_alert from public;
grant execute on function care.resolve_alert to retrocare_service;

create function care.alert_list(patient_id uuid, is_resolved_shown boolean, maximum_rows integer)
returns table (
    id uuid,
    patient_id uuid,
    patient text,
    level public.alert_level,
    state public.alert_state,
    cause text,
    anomaly_score double precision,
    opened_at timestamptz,
    repeat_count integer,
    outcome public.alert_outcome,
    notes text,
    last_change public.alert_change,
    last_actor public.alert_actor
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        alerts.id,
        alerts.patient_id,
        patients.name,
        alerts.level,
        alerts.state,
        alerts.cause,
        alerts.anomaly_score,
        alerts.opened_at,
        alerts.repeat_count,
        alerts.outcome,
        alerts.notes,
        latest.change,
        latest.actor
    from public.caregiver_alerts as alerts
    join public.patients on patients.id = alerts.patient_id
    left join lateral (
        select alert_changes.change, alert_changes.actor
        from public.alert_changes
        where alert_changes.alert_id = alerts.id
        order by alert_changes.changed_at desc, alert_changes.change desc
        limit 1
    ) as latest on true
    where (alert_list.is_resolved_shown or alerts.resolved_at is null)
        and (alert_list.patient_id is null or alerts.patient_id = alert_list.patient_id)
    order by alerts.resolved_at nulls first, alerts.level desc, alerts.opened_at desc
    limit alert_list.maximum_rows
$$;
comment on function care.alert_list is
    'Returns the alerts of this patient (null: of all), unresolved and most urgent ones first. Called by `retrocare alert list`.';
revoke execute on function care.alert_list from public;
grant execute on function care.alert_list to retrocare_service;

-- 53_messages.sql

-- Messages: the texts that caregivers read, as rows, so that a translation is rows too. They say in plain words what happened and
-- what to do; they contain no score and no diagnosis.
--
-- {patient} is the name by which the caregiver knows the patient, {who} the caregiver who acted, {when} the time of the call, {link}
-- the URL at which to respond, {how} what was unusual (", slower than usual"), {other} who may have spoken instead.

create table care.alert_openings (
    language text not null,
    change public.alert_change not null,
    is_by_rule boolean not null default true,
    text text not null,
    is_whole boolean not null default false,
    constraint alert_openings_pkey primary key (language, change, is_by_rule)
);
alter table care.alert_openings enable row level security;
comment on table care.alert_openings is 'The beginning of the message about each kind of change. Changes without a row are not sent.';
comment on column care.alert_openings.is_by_rule is 'Whether the change was made by a rule, not by a person.';
comment on column care.alert_openings.is_whole is
    'Whether this is the whole message, for those who were notified before; no text of care.alert_texts follows.';
insert into care.alert_openings (language, change, is_by_rule, text, is_whole) values
    ('en', 'opened', true, '', false),
    ('en', 'raised', true, '', false),
    ('en', 'escalated', true, 'Nobody has answered yet. ', false),
    ('en', 'reminded', true, 'Still nobody has answered. ', false),
    ('en', 'woken', true, 'As you asked, once more: ', false),
    ('en', 'reopened', true, 'Somebody saw to this some time ago, but nobody has said how it ended. ', false),
    ('en', 'acknowledged', false, '{who} is looking after {patient} now. You need not do anything.', true),
    ('en', 'resolved', false, '{who} has looked after {patient}, and the matter is closed. You need not do anything.', true),
    ('en', 'resolved', true, 'We have heard {patient} on the phone again. You need not do anything.', true);

create table care.alert_texts (
    language text not null,
    cause text not null
        constraint a_text_is_about_a_cause references public.alert_causes (id),
    level public.alert_level not null,
    text text not null,
    is_urgent boolean not null default false,
    constraint alert_texts_pkey primary key (language, cause, level, is_urgent)
);
create index alert_texts_by_cause on care.alert_texts (cause);
alter table care.alert_texts enable row level security;
comment on table care.alert_texts is 'What happened and what to do. A level without a text uses that of the next lower level.';
comment on column care.alert_texts.is_urgent is 'Whether the text is for a single call that was very unlike usual. Without one, the other text is used.';
insert into care.alert_texts (language, cause, level, is_urgent, text) values
    ('en', 'voice_changed', 'warning', true,
        '{patient} sounded very unlike usual on the phone{when}{how}. It was one call only, but please call {patient} now. If you cannot reach {patient}, ask somebody nearby to look in. Then say that you have seen this{link}.'),
    ('en', 'another_voice', 'warning', true,
        'The voice on {patient}''s phone{when} did not sound like {patient}''s{other}. If you know who it was, say so{link}. If not, please call {patient} now: a voice can change that much by itself.');
insert into care.alert_texts (language, cause, level, text) values
    ('en', 'voice_changed', 'warning',
        '{patient} sounded different from usual on the phone{when}{how}. Please call {patient} today and hear how things are. Then say that you have seen this{link}.'),
    ('en', 'another_voice', 'warning',
        'The voice on {patient}''s phone{when} did not sound like {patient}''s{other}. Please call {patient} today, and say who it was if you know{link}.'),
    ('en', 'another_voice', 'emergency',
        'URGENT: in two of the last three calls, the voice on {patient}''s phone did not sound like {patient}''s{other}. Please call or visit {patient} now: a voice can change that much by itself. Then say what you found{link}.'),
    ('en', 'another_voice', 'critical',
        'VERY URGENT: in two of the last three calls, the voice on {patient}''s phone was hardly like {patient}''s{other}. Please see to {patient} at once, or send somebody. If nobody can be reached, call the emergency services. Then say what you found{link}.'),
    ('en', 'voice_changed', 'emergency',
        'URGENT: {patient} sounded very different from usual on the phone{when}{how}. Please call or visit {patient} now. If you cannot reach {patient}, ask somebody nearby to look in. Then say that you have seen this{link}.'),
    ('en', 'voice_changed', 'critical',
        'VERY URGENT: the voice on {patient}''s phone{when} was hardly like {patient}''s. Please see to {patient} at once, or send somebody. If nobody can be reached, call the emergency services. Then say that you have seen this{link}.'),
    ('en', 'nothing_heard', 'warning',
        'We have not been able to hear {patient} on the phone for some days. Please call {patient} and hear how things are. Then say that you have seen this{link}.'),
    ('en', 'no_usable_speech', 'warning',
        '{patient} has answered our last calls, but we hardly heard {patient} speak. Please call {patient} and hear how things are. Then say that you have seen this{link}.');

create table care.reason_texts (
    language text not null,
    reason text not null,
    text text not null,
    further_text text not null,
    constraint reason_texts_pkey primary key (language, reason)
);
alter table care.reason_texts enable row level security;
comment on table care.reason_texts is 'What was unusual about a call, as clauses: text where a reason comes first, further_text where it follows another.';
comment on column care.reason_texts.reason is 'A reason that a signal gives; those of voice are in voice.features.';
insert into care.reason_texts (language, reason, text, further_text) values
    ('en', 'slower', 'slower than usual for {patient}', 'slower'),
    ('en', 'faster', 'faster than usual for {patient}', 'faster'),
    ('en', 'higher_voice', 'in a higher voice than usual for {patient}', 'in a higher voice'),
    ('en', 'lower_voice', 'in a lower voice than usual for {patient}', 'in a lower voice'),
    ('en', 'longer_pauses', 'with longer pauses than usual for {patient}', 'with longer pauses'),
    ('en', 'shorter_pauses', 'with shorter pauses than usual for {patient}', 'with shorter pauses'),
    ('en', 'livelier', 'with more melody than usual for {patient}', 'with more melody'),
    ('en', 'flatter', 'more monotonous than usual for {patient}', 'more monotonous'),
    ('en', 'brighter', 'in a brighter voice than usual for {patient}', 'in a brighter voice'),
    ('en', 'duller', 'in a duller voice than usual for {patient}', 'in a duller voice'),
    ('en', 'like_another', 'but like {other}''s', 'but like {other}''s');  -- who of the household was heard instead

create function care.reasons_in_words(reasons text[], language text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select string_agg(
        case when written.place = 1 then written.text else written.further_text end, ', ' order by written.place)
    from (
        select chosen.text, chosen.further_text, row_number() over (order by given.place) as place
        from unnest(reasons_in_words.reasons) with ordinality as given (reason, place)
        cross join lateral (
            select reason_texts.text, reason_texts.further_text
            from care.reason_texts
            where reason_texts.reason = given.reason
            order by
                reason_texts.language = reasons_in_words.language desc,
                reason_texts.language = 'en' desc,
                reason_texts.language
            limit 1
        ) as chosen
    ) as written
$$;
comment on function care.reasons_in_words is
    'Returns the reasons as one clause, in their order, with {patient} for the name. A reason without a translation is written in English, or else in any language that there is; one without any text is left out. Null: there is nothing to say.';
revoke execute on function care.reasons_in_words from public;

create function care.alert_message(change public.alert_changes, caregiver public.patient_caregivers)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    with place as (
        select
            care.plain_name(coalesce(nullif(caregiver.patient_known_as, ''), patients.name), 'the person you care for') as patient,
            coalesce(caregiver.timezone, patients.timezone) as timezone,
            ' at ' || to_char(
                call_logs."timestamp" at time zone coalesce(caregiver.timezone, patients.timezone), 'HH24:MI "on" FMDD FMMonth'
            ) as at_time,
            care.plain_name(actor.name, 'The care team') as who,
            case when settings.dashboard_url is null then '' else ': ' || settings.dashboard_url end as link,
            coalesce(', ' || care.reasons_in_words(judgements.reasons, caregiver.language), '') as how,
            coalesce(
                ', ' || replace(
                    care.reasons_in_words(array['like_another'], caregiver.language), '{other}', care.plain_name(likely.name, null)),
                '') as other
        from public.patients
        join care.organisation_settings as settings on settings.organisation_id = patients.organisation_id
        left join public.call_logs on call_logs.id = change.call_log_id
        left join public.patient_caregivers as actor on actor.id = change.caregiver_id
        left join public.judgements on judgements.id = change.judgement_id
        left join public.patients as likely on likely.id = judgements.likely_patient_id
        where patients.id = change.patient_id
    ),
    written as (
        -- Each text is chosen by itself: one without a translation is sent in English, or else in any language that there is.
        select opening.text || case
            when opening.is_whole then ''
            else coalesce(happened.text, '{patient}: please call and hear how things are. Then say that you have seen this{link}.')
        end as text
        from (
            select alert_openings.text, alert_openings.is_whole
            from care.alert_openings
            where alert_openings.change = change.change and alert_openings.is_by_rule = (change.actor = 'rule')
            order by
                alert_openings.language = caregiver.language desc,
                alert_openings.language = 'en' desc,
                alert_openings.language
            limit 1
        ) as opening
        left join lateral (
            select alert_texts.text
            from care.alert_texts
            where alert_texts.cause = change.cause
                and alert_texts.level <= change.level
                and (change.is_urgent or not alert_texts.is_urgent)
            order by
                alert_texts.language = caregiver.language desc,
                alert_texts.language = 'en' desc,
                alert_texts.language,
                alert_texts.level desc,
                alert_texts.is_urgent desc
            limit 1
        ) as happened on true
    )
    select replace(replace(replace(replace(replace(replace(written.text,
        '{how}', place.how), '{other}', place.other),
        '{patient}', place.patient), '{who}', place.who), '{when}', coalesce(place.at_time, '')), '{link}', place.link)
    from written
    cross join place
$$;
comment on function care.alert_message is
    'Returns the message about a change, in the caregiver''s language and time zone. Null: this change is not sent to anybody.';
revoke execute on function care.alert_message from public;

-- 54_outbox.sql

-- The outbox: one delivery for each change to be sent, each caregiver to be notified, and each channel that reaches that caregiver.
-- Deliveries are written in the transaction of the change, and sent by functions/notify-caregiver.

create table care.delivery_channels (
    id text constraint delivery_channels_pkey primary key,
    is_enabled boolean not null
);
alter table care.delivery_channels enable row level security;
insert into care.delivery_channels values ('sms', true), ('webhook', true), ('console', false);
comment on table care.delivery_channels is
    'The channels by which messages are sent; each is a file of functions/notify-caregiver/channels. console is for development: it counts every caregiver as reachable and sends nothing.';

create type public.delivery_state as enum (
    'queued',       -- waits to be sent, or for a retry             -> leased, cancelled
    'leased',       -- being sent                                   -> accepted, dead, queued again
    'accepted',     -- end: the provider accepted it
    'cancelled',    -- end: somebody responded, or a newer message says more
    'dead'          -- end, and an operator issue: it cannot be sent, or failed too often
);
comment on type public.delivery_state is 'The state of a message to a caregiver.';

create table care.deliveries (
    id bigint generated always as identity constraint deliveries_pkey primary key,
    alert_id uuid not null
        constraint a_delivery_is_about_an_alert references public.caregiver_alerts (id) on delete cascade,
    change_id uuid not null
        constraint a_delivery_tells_a_change references public.alert_changes (id) on delete cascade,
    call_log_id uuid
        constraint a_delivery_keeps_its_call references public.call_logs (id) on delete set null,
    caregiver_id uuid not null
        constraint a_delivery_goes_to_a_caregiver references public.patient_caregivers (id) on delete cascade,
    channel text not null
        constraint a_delivery_goes_by_a_channel references care.delivery_channels (id),
    state public.delivery_state not null default 'queued',
    attempts integer not null default 0,
    may_have_been_sent boolean not null default false,
    run_at timestamptz not null,
    worker text,
    lease_token uuid,
    leased_until timestamptz,
    due_at timestamptz
        generated always as (case state when 'queued' then run_at when 'leased' then leased_until end) stored,
    idempotency_key uuid not null default gen_random_uuid(),
    provider_message_id text,
    error_code text,
    error_message text,
    created_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    constraint a_change_is_told_once_to_each_by_each_channel unique (change_id, caregiver_id, channel),
    constraint a_leased_delivery_has_a_lease
        check (state <> 'leased' or (lease_token is not null and leased_until is not null)),
    constraint an_ended_delivery_has_its_time check ((state in ('queued', 'leased')) = (finished_at is null))
);
create index deliveries_by_alert on care.deliveries (alert_id, caregiver_id, channel, id desc);
create index deliveries_by_call on care.deliveries (call_log_id);
create index deliveries_by_caregiver on care.deliveries (caregiver_id);
create index deliveries_by_channel on care.deliveries (channel);
create index deliveries_to_send on care.deliveries (due_at) where due_at is not null;
alter table care.deliveries enable row level security;
comment on table care.deliveries is 'The outbox: one row per change, caregiver and channel.';
comment on column care.deliveries.may_have_been_sent is
    'Whether an attempt ended without an answer from the provider. The provider is then asked before the message is sent again.';
comment on column care.deliveries.run_at is 'The message is not sent before this time: quiet hours, or the wait before a retry.';
comment on column care.deliveries.due_at is
    'When the message can be claimed: run_at while it is queued, leased_until while it is leased. Null: it has ended.';
comment on column care.deliveries.idempotency_key is 'The same for every attempt, for providers that support idempotency keys.';
grant select (
    id, alert_id, change_id, call_log_id, caregiver_id, channel, state, attempts, run_at, error_code, created_at, finished_at
) on care.deliveries to service_role;
alter table care.deliveries
    add column receipt_count integer not null default 0,
    add column delivered_at timestamptz,
    add constraint what_is_delivered_was_accepted check (delivered_at is null or state = 'accepted');
comment on column care.deliveries.receipt_count is 'How often the provider was asked whether the message was delivered.';
comment on column care.deliveries.delivered_at is 'When the provider said that the message was delivered. Null: not known.';
create index deliveries_without_receipt on care.deliveries (finished_at)
    where state = 'accepted' and provider_message_id is not null and delivered_at is null and receipt_count < 3;
create index deliveries_by_age on care.deliveries (finished_at);
create index deliveries_at_issue on care.deliveries (id) where state = 'dead' or (state = 'queued' and error_code is not null);

create function care.caregiver_addresses(caregiver public.patient_caregivers)
returns table (channel text, address text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select delivery_channels.id, addresses.address
    from care.delivery_channels
    join lateral (
        values
            ('sms', caregiver.phone), ('webhook', caregiver.webhook_url),
            ('console', coalesce(caregiver.name, 'caregiver'))
        union all
        select further.key, further.value
        from jsonb_each_text(caregiver.other_addresses) as further
        where further.key not in ('sms', 'webhook', 'console')
    ) as addresses (channel, address) on addresses.channel = delivery_channels.id
    where delivery_channels.is_enabled and nullif(addresses.address, '') is not null
$$;
comment on function care.caregiver_addresses is 'Returns the addresses at which a caregiver can be reached, one for each enabled channel.';
revoke execute on function care.caregiver_addresses from public;

create function care.caregivers_to_tell(change public.alert_changes)
returns setof public.patient_caregivers
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    with reachable as (
        select
            patient_caregivers as caregiver,
            case
                when patient_caregivers.role = any (case
                    when change.change in ('escalated', 'reminded') then alert_policies.further_roles
                    else alert_policies.first_roles
                end) then 1
                when patient_caregivers.role <> 'viewer' then 2
                else 3
            end as turn
        from public.patient_caregivers
        join care.alert_policies on alert_policies.level = change.level
        where patient_caregivers.patient_id = change.patient_id
            and exists (select from care.caregiver_addresses(patient_caregivers))
    )
    -- Changes that call for action go to the roles whose turn it is; if none of those caregivers can be reached, to everybody who
    -- can.
    select (reachable.caregiver).*
    from reachable
    where change.change not in ('acknowledged', 'resolved')
        and reachable.turn = (select min(others.turn) from reachable as others)
    union all
    -- Changes that end the need for action go to everybody who was notified before, except the caregiver who acted.
    select (reachable.caregiver).*
    from reachable
    where change.change in ('acknowledged', 'resolved')
        and (reachable.caregiver).id is distinct from change.caregiver_id
        and exists (
            select from care.deliveries
            where deliveries.alert_id = change.alert_id
                and deliveries.caregiver_id = (reachable.caregiver).id
                and deliveries.state in ('accepted', 'leased')
        )
$$;
comment on function care.caregivers_to_tell is
    'Returns the caregivers to be notified of a change, as care.alert_policies says, without those who cannot be reached.';
revoke execute on function care.caregivers_to_tell from public;

create function care.on_alert_change()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into care.deliveries (alert_id, change_id, call_log_id, caregiver_id, channel, run_at)
    select
        new.alert_id, new.id, new.call_log_id, caregiver.id, addresses.channel,
        case
            when alert_policies.waits_for_morning and not new.is_urgent then care.after_quiet_hours(
                new.changed_at, coalesce(caregiver.timezone, patients.timezone),
                coalesce(caregiver.quiet_from, settings.quiet_from), coalesce(caregiver.quiet_until, settings.quiet_until))
            else new.changed_at
        end
    from care.caregivers_to_tell(new) as caregiver
    cross join lateral care.caregiver_addresses(caregiver) as addresses
    join public.patients on patients.id = new.patient_id
    join care.organisation_settings as settings on settings.organisation_id = patients.organisation_id
    join care.alert_policies on alert_policies.level = new.level
    where exists (
            select from care.alert_openings
            where alert_openings.change = new.change and alert_openings.is_by_rule = (new.actor = 'rule')
        )
        -- If somebody alternates between acknowledging and snoozing, only the first acknowledgement is sent until the alert calls for
        -- action again.
        and not (new.change = 'acknowledged' and exists (
            select from public.alert_changes as earlier
            where earlier.alert_id = new.alert_id
                and earlier.change = 'acknowledged'
                and earlier.id <> new.id
                and not exists (
                    select from public.alert_changes as pressing
                    where pressing.alert_id = new.alert_id
                        and pressing.change in ('opened', 'raised', 'escalated', 'reminded', 'woken', 'reopened')
                        and pressing.changed_at > earlier.changed_at
                )
        ));
    return null;
end
$$;
comment on function care.on_alert_change is
    'Trigger: inserts the deliveries of a change, due at once or after the quiet hours. Security definer: roles that act on alerts have no privileges on the private schemas.';
revoke execute on function care.on_alert_change from public;

create view public.alert_deliveries
with (security_invoker = true)
as
select
    deliveries.id,
    deliveries.alert_id,
    deliveries.change_id,
    deliveries.call_log_id,
    deliveries.caregiver_id,
    deliveries.channel,
    deliveries.state,
    deliveries.attempts,
    deliveries.run_at,
    deliveries.error_code,
    deliveries.created_at,
    deliveries.finished_at
from care.deliveries;
comment on view public.alert_deliveries is 'For operators (service_role): every message to a caregiver, with its state.';
comment on column public.alert_deliveries.run_at is 'The message is not sent before this time.';
revoke all on public.alert_deliveries from anon, authenticated, service_role;
grant select on public.alert_deliveries to service_role;

-- 55_deliveries.sql

-- Deliveries: how a message is claimed and sent, and whether it arrived. As for checks, a message is claimed with a lease, the claim
-- counts the attempt, and each message ends exactly once. A provider that has accepted a message may still fail to deliver it. The
-- provider is therefore asked some minutes later, three times in all; a message that was not delivered is an operator issue.

create function care.deliveries_to_cancel(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select waiting.id::text
    from care.deliveries as waiting
    join public.alert_changes on alert_changes.id = waiting.change_id
    join public.caregiver_alerts on caregiver_alerts.id = waiting.alert_id
    where (waiting.state = 'queued' or waiting.due_at <= deliveries_to_cancel.at)
        and (
            -- Somebody has responded: a message that calls for action would only alarm.
            (alert_changes.change not in ('acknowledged', 'resolved')
                and caregiver_alerts.state not in ('open', 'escalated'))
            or exists (
                select from care.deliveries as newer
                where newer.alert_id = waiting.alert_id
                    and newer.caregiver_id = waiting.caregiver_id
                    and newer.channel = waiting.channel
                    and newer.id > waiting.id
                    and (newer.finished_at is null or newer.state = 'accepted')
            )
        )
    order by waiting.id
    limit deliveries_to_cancel.maximum_rows
$$;
comment on function care.deliveries_to_cancel is
    'Lists messages that need not be sent any more, because somebody has responded or a newer message says more. These are never claimed. Called by care.claim_deliveries and care.run_job.';
revoke execute on function care.deliveries_to_cancel from public;

create function care.cancel_delivery(delivery_id text, at timestamptz)
returns boolean
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    with cancelled as (
        update care.deliveries
        set state = 'cancelled',
            finished_at = cancel_delivery.at
        from (
            select waiting.id
            from care.deliveries as waiting
            where waiting.id = cancel_delivery.delivery_id::bigint
                and (waiting.state = 'queued' or waiting.due_at <= cancel_delivery.at)
            for update skip locked
        ) as overtaken
        where deliveries.id = overtaken.id
        returning deliveries.id
    )
    select exists (select from cancelled)
$$;
comment on function care.cancel_delivery is
    'Cancels a message that need not be sent any more. Returns whether it did. Called by care.run_job.';
revoke execute on function care.cancel_delivery from public;

create type public.delivery_claim as (
    delivery_id bigint,
    idempotency_key uuid,
    lease_token uuid,
    channel text,
    address text,
    message text,
    level public.alert_level,
    change public.alert_change,
    alert_id uuid,
    call_log_id uuid,
    patient_id uuid,
    attempts integer,
    may_have_been_sent boolean,
    created_at timestamptz
);
comment on type public.delivery_claim is 'A message to send: its channel, address and text.';

create function care.claim_deliveries(worker text, count integer, lease_seconds double precision, at timestamptz default now())
returns setof public.delivery_claim
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    overtaken bigint[] := array(select id::bigint from care.deliveries_to_cancel(claim_deliveries.at, null) as id);
begin
    -- A lost lease counts as an attempt, and the address may have been removed meanwhile.
    update care.deliveries
    set state = 'dead',
        error_code = lost.code,
        error_message = lost.why,
        finished_at = claim_deliveries.at
    from (
        select
            due.id,
            case when addressed.is_left then 'attempts_exhausted' else 'no_address' end as code,
            case when addressed.is_left then 'The lease of every attempt was lost'
                else 'The caregiver no longer has an address for this channel' end as why
        from care.deliveries as due
        cross join lateral (
            select exists (
                select
                from public.patient_caregivers
                cross join lateral care.caregiver_addresses(patient_caregivers) as addresses
                where patient_caregivers.id = due.caregiver_id and addresses.channel = due.channel
            ) as is_left
        ) as addressed
        where due.due_at <= claim_deliveries.at
            and due.id <> all (overtaken)
            and (not addressed.is_left
                or due.attempts >= (select settings.delivery_maximum_attempts from care.settings))
        for update of due skip locked
    ) as lost
    where deliveries.id = lost.id;

    return query
        update care.deliveries as claimed
        set state = 'leased',
            attempts = claimed.attempts + 1,
            -- The lease was lost, so the message may have been sent.
            may_have_been_sent = claimed.may_have_been_sent or claimed.state = 'leased',
            worker = claim_deliveries.worker,
            lease_token = gen_random_uuid(),
            leased_until = claim_deliveries.at + make_interval(secs => claim_deliveries.lease_seconds)
        from (
            select due.id
            from care.deliveries as due
            join public.alert_changes on alert_changes.id = due.change_id
            where due.due_at <= claim_deliveries.at
                and due.id <> all (overtaken)
            order by alert_changes.level desc, due.due_at, due.id
            for update of due skip locked
            limit claim_deliveries.count
        ) as ready
        cross join public.alert_changes
        cross join public.patient_caregivers
        cross join lateral care.caregiver_addresses(patient_caregivers) as addresses
        where claimed.id = ready.id
            and alert_changes.id = claimed.change_id
            and patient_caregivers.id = claimed.caregiver_id
            and addresses.channel = claimed.channel
        returning
            claimed.id, claimed.idempotency_key, claimed.lease_token, claimed.channel, addresses.address,
            care.alert_message(alert_changes, patient_caregivers), alert_changes.level, alert_changes.change,
            claimed.alert_id, claimed.call_log_id, alert_changes.patient_id, claimed.attempts, claimed.may_have_been_sent, claimed.created_at;
end
$$;
comment on function care.claim_deliveries is
    'Claims up to count messages that are due and returns them, most urgent first. Messages that need not be sent any more are left out. Security definer: the edge function may not read phone numbers itself.';
revoke execute on function care.claim_deliveries from public;

create function care.finish_delivery(
    delivery_id bigint, lease_token uuid, provider_message_id text default null, at timestamptz default now()
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    sent care.deliveries;
begin
    -- This may change a judgement, which belongs to the patient, so the patient is locked first.
    perform care.lock_patient_if_any((
        select caregiver_alerts.patient_id
        from care.deliveries
        join public.caregiver_alerts on caregiver_alerts.id = deliveries.alert_id
        where deliveries.id = finish_delivery.delivery_id
    ));
    update care.deliveries
    set state = 'accepted',
        provider_message_id = finish_delivery.provider_message_id,
        error_code = null,
        error_message = null,
        finished_at = finish_delivery.at
    where deliveries.id = finish_delivery.delivery_id
        and deliveries.lease_token = finish_delivery.lease_token
        and deliveries.state = 'leased'
    returning * into sent;
    if not found then
        return exists (
            select from care.deliveries
            where deliveries.id = finish_delivery.delivery_id
                and deliveries.lease_token = finish_delivery.lease_token
                and deliveries.state = 'accepted'
        );
    end if;
    update public.judgements
    set alert_sent = true
    from public.alert_changes
    where alert_changes.id = sent.change_id
        and judgements.id = alert_changes.judgement_id
        and not judgements.alert_sent;
    return true;
end
$$;
comment on function care.finish_delivery is
    'Notes that a provider has accepted the message, and sets alert_sent on its judgement. Returns false if the lease is lost. Security definer: the edge function has no privileges on the private schemas.';
revoke execute on function care.finish_delivery from public;

create function care.fail_delivery(
    delivery_id bigint, lease_token uuid, code text, message text, is_permanent boolean, may_have_been_sent boolean default false,
    at timestamptz default now()
)
returns public.delivery_state
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    setting care.settings := (select settings from care.settings);
begin
    update care.deliveries
    set state = case when is_over then 'dead' else 'queued' end::public.delivery_state,
        may_have_been_sent = deliveries.may_have_been_sent or fail_delivery.may_have_been_sent,
        error_code = fail_delivery.code,
        error_message = left(fail_delivery.message, 1000),
        run_at = fail_delivery.at + care.retry_wait(deliveries.attempts, setting.delivery_retry_cap_seconds),
        lease_token = null,
        leased_until = null,
        finished_at = case when is_over then fail_delivery.at end
    from (
        select failing.id, fail_delivery.is_permanent or failing.attempts >= setting.delivery_maximum_attempts as is_over
        from care.deliveries as failing
        where failing.id = fail_delivery.delivery_id
    ) as failed
    where deliveries.id = failed.id
        and deliveries.lease_token = fail_delivery.lease_token
        and deliveries.state = 'leased';
    return (select deliveries.state from care.deliveries where deliveries.id = fail_delivery.delivery_id);
end
$$;
comment on function care.fail_delivery is
    'Notes why a message was not accepted, and returns its state. It is retried with exponential backoff, or dead if the failure is permanent or all attempts are used up. Security definer for the same reason as care.finish_delivery.';
revoke execute on function care.fail_delivery from public;

create function care.receipt_wait(receipt_count integer)
returns interval
language sql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select (array['2 minutes', '10 minutes', '60 minutes']::interval[])[receipt_wait.receipt_count + 1]
$$;
comment on function care.receipt_wait is
    'Returns how long after acceptance the provider is asked for the next receipt, if it was asked this many times. Null: it is not asked again.';
revoke execute on function care.receipt_wait from public;

create function care.due_receipts(at timestamptz)
returns bigint
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select count(*)
    from care.deliveries
    where deliveries.state = 'accepted'
        and deliveries.provider_message_id is not null
        and deliveries.delivered_at is null
        and deliveries.receipt_count < 3
        and deliveries.finished_at + care.receipt_wait(deliveries.receipt_count) <= due_receipts.at
$$;
comment on function care.due_receipts is 'Returns for how many messages a receipt can be requested now. Called by care.due_work.';
revoke execute on function care.due_receipts from public;

create type public.receipt_claim as (
    delivery_id bigint,
    call_log_id uuid,
    channel text,
    provider_message_id text
);
comment on type public.receipt_claim is 'A message whose receipt is to be requested from its provider.';

create function care.claim_receipts(count integer, at timestamptz default now())
returns setof public.receipt_claim
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update care.deliveries as claimed
    set receipt_count = claimed.receipt_count + 1
    from (
        select due.id
        from care.deliveries as due
        where due.state = 'accepted'
            and due.provider_message_id is not null
            and due.delivered_at is null
            and due.receipt_count < 3
            and due.finished_at + care.receipt_wait(due.receipt_count) <= claim_receipts.at
        order by due.finished_at
        for update of due skip locked
        limit claim_receipts.count
    ) as ready
    where claimed.id = ready.id
    returning claimed.id, claimed.call_log_id, claimed.channel, claimed.provider_message_id
$$;
comment on function care.claim_receipts is
    'Claims up to count messages whose receipt is due and returns them. The request is counted here, so that after a crash the next one follows in its turn. Security definer for the same reason as care.claim_deliveries.';
revoke execute on function care.claim_receipts from public;

create function care.finish_receipt(
    delivery_id bigint, is_delivered boolean, message text default null, at timestamptz default now()
)
returns public.delivery_state
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    change public.alert_changes;
begin
    select alert_changes.* into change
    from care.deliveries
    join public.alert_changes on alert_changes.id = deliveries.change_id
    where deliveries.id = finish_receipt.delivery_id;
    if not found then
        return null; -- erased meanwhile
    end if;
    perform care.lock_patient(change.patient_id);

    update care.deliveries
    set state = case when finish_receipt.is_delivered then 'accepted' else 'dead' end::public.delivery_state,
        delivered_at = case when finish_receipt.is_delivered then finish_receipt.at end,
        error_code = case when not finish_receipt.is_delivered then 'undelivered' end,
        error_message = case when not finish_receipt.is_delivered then left(finish_receipt.message, 1000) end
    where deliveries.id = finish_receipt.delivery_id
        and deliveries.state = 'accepted'
        and deliveries.delivered_at is null;
    if found and not finish_receipt.is_delivered then
        update public.judgements
        set alert_sent = false
        where judgements.id = change.judgement_id
            and not exists (
                select
                from public.alert_changes
                join care.deliveries on deliveries.change_id = alert_changes.id
                where alert_changes.judgement_id = change.judgement_id and deliveries.state = 'accepted'
            );
    end if;
    return (select deliveries.state from care.deliveries where deliveries.id = finish_receipt.delivery_id);
end
$$;
comment on function care.finish_receipt is
    'Notes whether an accepted message was delivered, and returns its state. An undelivered one is dead with the code undelivered and thus an operator issue; its judgement loses alert_sent unless another message about it was accepted. Security definer for the same reason as care.claim_deliveries.';
revoke execute on function care.finish_receipt from public;

create function care.delivery_list(states public.delivery_state[], patient_id uuid, maximum_rows integer)
returns table (
    id bigint,
    patient text,
    caregiver text,
    channel text,
    change public.alert_change,
    state public.delivery_state,
    attempts integer,
    run_at timestamptz,
    error_code text,
    error_message text,
    alert_id uuid,
    created_at timestamptz
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        deliveries.id,
        patients.name,
        patient_caregivers.name,
        deliveries.channel,
        alert_changes.change,
        deliveries.state,
        deliveries.attempts,
        deliveries.run_at,
        deliveries.error_code,
        deliveries.error_message,
        deliveries.alert_id,
        deliveries.created_at
    from care.deliveries
    join public.alert_changes on alert_changes.id = deliveries.change_id
    join public.patients on patients.id = alert_changes.patient_id
    join public.patient_caregivers on patient_caregivers.id = deliveries.caregiver_id
    where (delivery_list.states is null or deliveries.state = any (delivery_list.states))
        and (delivery_list.patient_id is null or alert_changes.patient_id = delivery_list.patient_id)
    order by deliveries.id desc
    limit delivery_list.maximum_rows
$$;
comment on function care.delivery_list is
    'Returns the messages in these states about this patient (null: all), newest first. Called by `retrocare deliveries list`.';
revoke execute on function care.delivery_list from public;
grant execute on function care.delivery_list to retrocare_service;

create function care.requeue_deliveries(delivery_ids bigint[])
returns setof bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted bigint[] := array(
        select deliveries.id
        from care.deliveries
        where deliveries.state = 'dead'
            and (requeue_deliveries.delivery_ids is null or deliveries.id = any (requeue_deliveries.delivery_ids))
    );
begin
    perform from public.patients
    where patients.id in (
        select caregiver_alerts.patient_id
        from care.deliveries
        join public.caregiver_alerts on caregiver_alerts.id = deliveries.alert_id
        where deliveries.id = any (wanted)
    )
    order by patients.id
    for no key update;
    return query
        update care.deliveries
        set state = 'queued',
            attempts = 0,
            run_at = clock_timestamp(),
            worker = null,
            lease_token = null,
            leased_until = null,
            error_code = null,
            error_message = null,
            finished_at = null,
            provider_message_id = null,
            receipt_count = 0
        where deliveries.id = any (wanted) and deliveries.state = 'dead'
        returning deliveries.id;
end
$$;
comment on function care.requeue_deliveries is
    'Queues dead messages again (these, or null for all) with all their attempts, and returns their ids. As always, one that may have been sent is first looked up at the provider, and one that is no longer needed is cancelled. Called by `retrocare deliveries requeue`.';
revoke execute on function care.requeue_deliveries from public;
grant execute on function care.requeue_deliveries to retrocare_service;

-- 56_silence.sql

-- Silence is a sign too: a patient on a schedule has had no call that could be judged for days, or answers calls without usable
-- speech. It raises the same kind of alert as a score, as a warning. When the patient is heard again, that alert is resolved by a
-- rule.

create function care.silences(at timestamptz)
returns table (
    patient_id uuid,
    cause text,
    last_heard_at timestamptz,
    silent_days double precision,
    unusable_calls bigint
)
language sql
stable
set search_path = pg_catalog, pg_temp
begin atomic
    with known as (
        select
            patients.id,
            patients.silent_after_days,
            patients.voice_consent_at,
            settings.unusable_calls_in_a_row,
            (
                select max(call_logs."timestamp")
                from public.call_logs
                where call_logs.patient_id = patients.id
                    and call_logs.is_heard
                    and call_logs."timestamp" <= silences.at + interval '1 day' -- allows for a wrong clock
            ) as last_heard_at
        from public.patients
        join care.organisation_settings as settings on settings.organisation_id = patients.organisation_id
        where isfinite(patients.voice_consent_at)
    ),
    answered as (
        select
            known.*,
            (
                select count(*)
                from (
                    select from public.call_logs
                    where call_logs.patient_id = known.id
                        and call_logs."timestamp" > coalesce(known.last_heard_at, '-infinity')
                        and call_logs.is_unheard
                    limit 1000
                ) as unusable
            ) as unusable_calls
        from known
    )
    select answered.id, causes.cause, answered.last_heard_at,
        extract(epoch from silences.at - coalesce(answered.last_heard_at, answered.voice_consent_at)) / 86400,
        answered.unusable_calls
    from answered
    cross join lateral (
        select 'nothing_heard' as cause
        where coalesce(answered.last_heard_at, answered.voice_consent_at)
            <= silences.at - make_interval(days => least(answered.silent_after_days, 36500))
        union all
        select 'no_usable_speech'
        where answered.unusable_calls >= answered.unusable_calls_in_a_row
    ) as causes;
end;
comment on function care.silences is
    'Returns who is not heard at this time, and in what way: patients on a schedule without a call that could be judged for silent_after_days, and patients whose last answered calls all lacked usable speech. Runs with the caller''s privileges.';
revoke execute on function care.silences from public;
grant execute on function care.silences to authenticated, service_role;

create view public.silent_patients
with (security_invoker = true)
as
select
    silences.patient_id,
    silences.cause,
    silences.last_heard_at,
    silences.silent_days,
    silences.unusable_calls
from care.silences(now()) as silences;
comment on view public.silent_patients is 'For caregivers and operators: patients who are not heard, one row per patient and cause.';
comment on column public.silent_patients.last_heard_at is 'When the last call that could be judged took place. Null: there was none.';
comment on column public.silent_patients.silent_days is 'Days since then, or since consent was given if there was none.';
comment on column public.silent_patients.unusable_calls is 'Answered calls since then, none of them with usable speech.';
revoke all on public.silent_patients from anon, authenticated, service_role;
grant select on public.silent_patients to authenticated, service_role;

create function care.silences_to_note(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select silences.patient_id || ' ' || silences.cause
    from care.silences(silences_to_note.at) as silences
    join public.patients on patients.id = silences.patient_id
    where not exists (
        select from public.caregiver_alerts
        where caregiver_alerts.patient_id = silences.patient_id
            -- A silence is noted once per episode. After the episode, it is noted again only if the patient was heard since, or as
            -- many days have passed again.
            and silences.cause = any (caregiver_alerts.causes)
            and (caregiver_alerts.resolved_at is null
                or (caregiver_alerts.opened_at > coalesce(silences.last_heard_at, '-infinity')
                    and caregiver_alerts.resolved_at > silences_to_note.at
                        - make_interval(days => coalesce(least(patients.silent_after_days, 36500), 1))))
    )
    order by silences.patient_id, silences.cause
    limit silences_to_note.maximum_rows
$$;
comment on function care.silences_to_note is
    'Lists silences of which nobody has been notified, as patient and cause. Called by care.run_job.';
revoke execute on function care.silences_to_note from public;

create function care.note_silence(silence text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    patient_id constant uuid := split_part(note_silence.silence, ' ', 1)::uuid;
begin
    if not care.try_lock_patient(patient_id) then
        return false;
    end if;
    perform care.raise_alert(patient_id, split_part(note_silence.silence, ' ', 2), 'warning', note_silence.at);
    return true;
end
$$;
comment on function care.note_silence is 'Raises the alert of a new silence. Returns whether it did. Called by care.run_job.';
revoke execute on function care.note_silence from public;

create function care.do_close_when_heard(causes text[])
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select not exists (
        select from public.alert_causes
        where alert_causes.id = any (do_close_when_heard.causes) and not alert_causes.closes_when_heard
    )
$$;
comment on function care.do_close_when_heard is 'Returns whether an alert with no other causes than these is resolved by a rule.';
revoke execute on function care.do_close_when_heard from public;

create function care.silences_to_end(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select caregiver_alerts.id::text
    from public.caregiver_alerts
    where caregiver_alerts.resolved_at is null
        and care.do_close_when_heard(caregiver_alerts.causes)
        and exists (
            select from public.call_logs
            where call_logs.patient_id = caregiver_alerts.patient_id
                and call_logs."timestamp" > caregiver_alerts.opened_at
                and call_logs.is_heard
        )
        and not exists (
            select from care.silences(silences_to_end.at) as silences
            where silences.patient_id = caregiver_alerts.patient_id
        )
    order by caregiver_alerts.opened_at
    limit silences_to_end.maximum_rows
$$;
comment on function care.silences_to_end is 'Lists alerts about the silence of patients who have been heard again. Called by care.run_job.';
revoke execute on function care.silences_to_end from public;

create function care.end_silence(alert_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts;
begin
    select caregiver_alerts.* into alert from public.caregiver_alerts where caregiver_alerts.id = end_silence.alert_id::uuid;
    if not care.try_lock_patient(alert.patient_id) then
        return false;
    end if;
    select caregiver_alerts.* into alert
    from public.caregiver_alerts
    where caregiver_alerts.id = alert.id
        and caregiver_alerts.resolved_at is null
        and care.do_close_when_heard(caregiver_alerts.causes)
    for update;
    if not found then
        return false;
    end if;
    perform care.resolve(alert, null, null, end_silence.at);
    return true;
end
$$;
comment on function care.end_silence is 'Resolves an alert about a silence that is over. Returns whether it did. Called by care.run_job.';
revoke execute on function care.end_silence from public;

-- 57_caregivers.sql

-- Caregivers: the primary caregiver, or an operator, decides who cares for a patient. How they are notified, caregivers decide
-- themselves.

create function care.refuse_wrong_contact(role public.caregiver_role, phone text, webhook_url text, user_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if refuse_wrong_contact.role is null then
        raise exception using
            errcode = 'PT400',
            message = 'A caregiver needs a role',
            hint = format('Use one of %s.', array_to_string(enum_range(null::public.caregiver_role), ', '));
    elsif not care.is_phone_number(refuse_wrong_contact.phone) then
        raise exception using
            errcode = 'PT400',
            message = 'The phone number is not in international format',
            hint = 'Use a number such as +4930123456.';
    elsif refuse_wrong_contact.webhook_url !~ '^https://[^[:space:]/@]+(/[^[:space:]]*)?$' then
        raise exception using
            errcode = 'PT400',
            message = 'Messages cannot be posted to that webhook URL',
            hint = 'Use an https URL such as https://example.org/hook, without a name and password.';
    elsif not exists (select from auth.users where users.id = refuse_wrong_contact.user_id)
        and refuse_wrong_contact.user_id is not null
    then
        raise exception using
            errcode = 'PT400',
            message = 'There is no such account',
            hint = 'Leave the account out; it can be added later.';
    end if;
end
$$;
comment on function care.refuse_wrong_contact is 'Raises PT400 if the role, an address or the account is not valid.';
revoke execute on function care.refuse_wrong_contact from public;

create function care.refuse_unknown_language(language text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if refuse_unknown_language.language <> all (select alert_openings.language from care.alert_openings) then
        raise exception using
            errcode = 'PT400',
            message = format('There are no messages in the language %s', left(refuse_unknown_language.language, 20)),
            hint = (
                select format('Messages exist in: %s.', string_agg(distinct alert_openings.language, ', '))
                from care.alert_openings
            );
    end if;
end
$$;
comment on function care.refuse_unknown_language is
    'Raises PT400 if there are no messages in this language. Null, the default, is accepted.';
revoke execute on function care.refuse_unknown_language from public;

create function care.refuse_losing_the_last_primary(patient_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if care.is_caller_a_caregiver() and not exists (
        select from public.patient_caregivers
        where patient_caregivers.patient_id = refuse_losing_the_last_primary.patient_id
            and patient_caregivers.role = 'primary'
            and patient_caregivers.user_id is not null
    ) then
        raise exception using
            errcode = 'PT409',
            message = 'The patient would have no primary caregiver with an account',
            hint = 'Make somebody else primary first.';
    end if;
end
$$;
comment on function care.refuse_losing_the_last_primary is
    'Raises PT409 if, apart from operators, nobody would be left who may manage caregivers and consent. Called after the change, which the error rolls back.';
revoke execute on function care.refuse_losing_the_last_primary from public;

create function care.add_caregiver(
    patient_id uuid, role public.caregiver_role, name text, phone text default null, webhook_url text default null,
    user_id uuid default null, patient_known_as text default null, language text default null
)
returns public.patient_caregivers
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    added public.patient_caregivers;
begin
    perform care.patient_for_caller(add_caregiver.patient_id, 'primary');
    perform care.refuse_unknown_language(add_caregiver.language);
    perform care.refuse_wrong_contact(
        add_caregiver.role, add_caregiver.phone, add_caregiver.webhook_url, add_caregiver.user_id);
    insert into public.patient_caregivers (patient_id, role, name, phone, webhook_url, user_id, patient_known_as, language)
    values (
        add_caregiver.patient_id, add_caregiver.role, add_caregiver.name, add_caregiver.phone, add_caregiver.webhook_url,
        add_caregiver.user_id, add_caregiver.patient_known_as, coalesce(add_caregiver.language, 'en')
    )
    returning * into added;
    return added;
exception when unique_violation then
    raise exception using
        errcode = 'PT409',
        message = 'That account already belongs to a caregiver of the patient',
        hint = 'Change that caregiver instead.';
end
$$;
comment on function care.add_caregiver is
    'Adds a caregiver and returns the new row. The default language is English. Raises PT400, PT403, PT404, PT409. Security definer: callers may not write caregivers directly.';
revoke execute on function care.add_caregiver from public;
grant execute on function care.add_caregiver to retrocare_service;

create function care.change_caregiver(
    caregiver_id uuid, role public.caregiver_role, name text, phone text, webhook_url text, user_id uuid, patient_known_as text,
    language text default null
)
returns public.patient_caregivers
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient_id uuid := (
        select patient_caregivers.patient_id from public.patient_caregivers where patient_caregivers.id = change_caregiver.caregiver_id
    );
    changed public.patient_caregivers;
begin
    perform care.patient_for_caller(patient_id, 'primary');
    perform care.refuse_unknown_language(change_caregiver.language);
    perform care.refuse_wrong_contact(
        change_caregiver.role, change_caregiver.phone, change_caregiver.webhook_url, change_caregiver.user_id);
    update public.patient_caregivers
    set role = change_caregiver.role,
        name = change_caregiver.name,
        phone = change_caregiver.phone,
        webhook_url = change_caregiver.webhook_url,
        user_id = change_caregiver.user_id,
        patient_known_as = change_caregiver.patient_known_as,
        language = coalesce(change_caregiver.language, patient_caregivers.language)
    where patient_caregivers.id = change_caregiver.caregiver_id
    returning * into changed;
    if not found then
        -- It was removed while this call waited for the lock.
        perform care.patient_for_caller(null, 'primary');
    end if;
    perform care.refuse_losing_the_last_primary(changed.patient_id);
    return changed;
exception when unique_violation then
    raise exception using
        errcode = 'PT409',
        message = 'That account already belongs to a caregiver of the patient',
        hint = 'Change that caregiver instead.';
end
$$;
comment on function care.change_caregiver is
    'Writes all columns of a caregiver and returns the row. Null unsets a value, except that a null language leaves the language unchanged. Raises PT400, PT403, PT404, PT409. Security definer: callers may not write caregivers directly.';
revoke execute on function care.change_caregiver from public;
grant execute on function care.change_caregiver to retrocare_service;

create function care.remove_caregiver(caregiver_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient_id uuid := (
        select patient_caregivers.patient_id from public.patient_caregivers where patient_caregivers.id = remove_caregiver.caregiver_id
    );
begin
    perform care.patient_for_caller(patient_id, 'primary');
    delete from public.patient_caregivers where patient_caregivers.id = remove_caregiver.caregiver_id;
    perform care.refuse_losing_the_last_primary(patient_id);
end
$$;
comment on function care.remove_caregiver is
    'Removes a caregiver and the queued messages to that caregiver. Raises PT403, PT404, PT409. Security definer: callers may not write caregivers directly.';
revoke execute on function care.remove_caregiver from public;
grant execute on function care.remove_caregiver to retrocare_service;

create function care.set_my_preferences(
    patient_id uuid, patient_known_as text, language text, timezone text, quiet_from time, quiet_until time
)
returns public.patient_caregivers
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    changed public.patient_caregivers;
begin
    if not care.is_time_zone(set_my_preferences.timezone) then
        raise exception using
            errcode = 'PT400',
            message = 'There is no such time zone',
            hint = 'Use a name such as Europe/Berlin, or null for the patient''s time zone.';
    end if;
    perform care.refuse_unknown_language(set_my_preferences.language);
    update public.patient_caregivers
    set patient_known_as = nullif(btrim(set_my_preferences.patient_known_as), ''),
        language = coalesce(set_my_preferences.language, 'en'),
        timezone = set_my_preferences.timezone,
        quiet_from = set_my_preferences.quiet_from,
        quiet_until = set_my_preferences.quiet_until
    where patient_caregivers.patient_id = set_my_preferences.patient_id
        and patient_caregivers.user_id = (select auth.uid())
    returning * into changed;
    if not found then
        raise exception using
            errcode = 'PT404',
            message = 'No such patient',
            hint = 'Only caregivers of the patient have preferences.';
    end if;
    return changed;
end
$$;
comment on function care.set_my_preferences is
    'Writes the preferences of the signed-in caregiver for messages about a patient, and returns the row. Null means the default. Raises PT400, PT404. Security definer: callers may not write caregivers directly.';
revoke execute on function care.set_my_preferences from public;

create function care.caregiver_list(patient_id uuid)
returns table (
    id uuid,
    patient_id uuid,
    patient text,
    role public.caregiver_role,
    name text,
    phone text,
    webhook_url text,
    patient_known_as text,
    language text,
    user_id uuid,
    is_reachable boolean
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        patient_caregivers.id,
        patients.id,
        patients.name,
        patient_caregivers.role,
        patient_caregivers.name,
        patient_caregivers.phone,
        patient_caregivers.webhook_url,
        patient_caregivers.patient_known_as,
        patient_caregivers.language,
        patient_caregivers.user_id,
        exists (select from care.caregiver_addresses(patient_caregivers))
    from public.patient_caregivers
    join public.patients on patients.id = patient_caregivers.patient_id
    where caregiver_list.patient_id is null or patients.id = caregiver_list.patient_id
    order by patients.created_at, patients.id, patient_caregivers.role desc, patient_caregivers.created_at
$$;
comment on function care.caregiver_list is
    'Returns the caregivers of this patient (null: of all patients), and whether messages reach them by an enabled channel. Called by `retrocare caregiver`.';
revoke execute on function care.caregiver_list from public;
grant execute on function care.caregiver_list to retrocare_service;

-- 58_voice_answers.sql

-- Answers: what somebody finds out about an alert changes what is remembered of the patient's voice.

create function voice.settle_charts(patient_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select voice.correct_chart(charts, 'settled', voice.settled_chart(charts.state))
    from voice.charts
    where charts.patient_id = settle_charts.patient_id
$$;
comment on function voice.settle_charts is
    'Forgets what pointed to a change, since the patient is well. What is known of the usual voice stays, so a change that persists is found again within days. The caller has called care.lock_patient.';
revoke execute on function voice.settle_charts from public;

create function voice.disown_calls(patient_id uuid, call_log_ids uuid[])
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    removed integer;
begin
    update public.voice_anomaly_logs
    set is_disowned = true
    where voice_anomaly_logs.patient_id = disown_calls.patient_id
        and voice_anomaly_logs.call_log_id = any (disown_calls.call_log_ids);
    removed := voice.remove_samples(disown_calls.patient_id, array(
        select embeddings.id
        from voice.embeddings
        where embeddings.patient_id = disown_calls.patient_id and embeddings.call_log_id = any (disown_calls.call_log_ids)
    ));
    if removed = 0 then
        perform voice.replay_charts(disown_calls.patient_id);
    end if;
end
$$;
comment on function voice.disown_calls is
    'Takes these calls out of the patient''s baselines and charts, since somebody else spoke. The caller has called care.lock_patient.';
revoke execute on function voice.disown_calls from public;

create function voice.begin_new_line(patient_id uuid, since timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    present voice.baselines;
begin
    for present in
        select baselines.*
        from voice.baselines
        where baselines.patient_id = begin_new_line.patient_id and baselines.superseded_at is null
        order by baselines.encoder
    loop
        perform voice.build_baseline(present.patient_id, present.encoder, array(
            select heard.id
            from (
                select embeddings.id, call_logs."timestamp" as called_at
                from voice.embeddings
                join public.call_logs on call_logs.id = embeddings.call_log_id
                join public.voice_anomaly_logs as logs
                    on logs.call_log_id = embeddings.call_log_id and logs.encoder = embeddings.encoder
                join public.patients on patients.id = embeddings.patient_id
                where embeddings.patient_id = present.patient_id
                    and embeddings.encoder = present.encoder
                    and call_logs."timestamp" >= begin_new_line.since
                    and not logs.is_disowned
                    and care.is_healthy_at(patients, call_logs."timestamp")
                order by call_logs."timestamp" desc
                limit voice.target_samples(voice.policy(present.encoder))
            ) as heard
            order by heard.id
        ), null);
        perform voice.restart_chart(present.patient_id, present.encoder);
    end loop;
end
$$;
comment on function voice.begin_new_line is
    'Builds the patient''s baselines anew, from the healthy calls since that time, and forgets what was known of the calls before: the telephone or the room is another. Without such a call, the next healthy one enrols. The caller has called care.lock_patient.';
revoke execute on function voice.begin_new_line from public;

create function voice.on_alert_resolved()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- The calls behind the signs of this episode.
    call_log_ids constant uuid[] := array(
        select distinct alert_changes.call_log_id
        from public.alert_changes
        join public.alert_causes on alert_causes.id = alert_changes.cause
        where alert_changes.alert_id = new.id
            and alert_changes.change in ('opened', 'raised', 'repeated')
            and alert_causes.signal = 'voice'
            and alert_changes.call_log_id is not null
    );
begin
    if cardinality(call_log_ids) = 0 then
        return null;
    end if;
    case new.outcome
        when 'not_ill' then
            perform voice.settle_charts(new.patient_id);
        when 'other_person', 'wrong_recording' then
            perform voice.disown_calls(new.patient_id, call_log_ids);
        when 'new_line' then
            perform voice.begin_new_line(
                new.patient_id, (select min(call_logs."timestamp") from public.call_logs where call_logs.id = any (call_log_ids)));
        else
            null;  -- an illness is a health flag, which does the rest
    end case;
    return null;
end
$$;
comment on function voice.on_alert_resolved is
    'Trigger: draws the consequences of an outcome for the patient''s charts and baselines. Security definer: roles that act on alerts have no privileges on the private schemas. The caller has called care.lock_patient.';
revoke execute on function voice.on_alert_resolved from public;

-- 59_warning_budgets.sql

-- Warning budgets: how many warnings a year by chance a family, or an organisation, chooses to accept.

create function care.refuse_unknown_budget(warnings_per_year double precision)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if refuse_unknown_budget.warnings_per_year is not null and not exists (
        select from care.warning_budgets where warning_budgets.warnings_per_year = refuse_unknown_budget.warnings_per_year
    ) then
        raise exception using
            errcode = 'PT400',
            message = format('%s warnings a year is not a choice', refuse_unknown_budget.warnings_per_year),
            hint = format('Choose one of %s.', (
                select string_agg(warning_budgets.warnings_per_year::text, ', ' order by warning_budgets.warnings_per_year) from care.warning_budgets));
    end if;
end
$$;
comment on function care.refuse_unknown_budget is 'Raises PT400 if this is no row of care.warning_budgets. Null is allowed.';
revoke execute on function care.refuse_unknown_budget from public;

create function care.set_warnings_per_year(patient_id uuid, warnings_per_year double precision)
returns double precision
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform care.refuse_unknown_budget(set_warnings_per_year.warnings_per_year);
    perform care.patient_for_caller(set_warnings_per_year.patient_id, 'primary');
    update public.patients
    set warnings_per_year = set_warnings_per_year.warnings_per_year
    where patients.id = set_warnings_per_year.patient_id;
    return care.warnings_per_year(set_warnings_per_year.patient_id);
end
$$;
comment on function care.set_warnings_per_year is
    'Sets how many warnings a year by chance the family accepts (null: as the organisation does), and returns what applies from the next call on. Raises PT400, PT403, PT404, RV002. Security definer: callers may not write the column.';
revoke execute on function care.set_warnings_per_year from public;
grant execute on function care.set_warnings_per_year to retrocare_service;

create function care.set_organisation_warnings(warnings_per_year double precision, organisation_id uuid default care.default_organisation())
returns double precision
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform care.refuse_unknown_budget(coalesce(set_organisation_warnings.warnings_per_year, 'NaN'));
    update care.organisation_settings
    set warnings_per_year = set_organisation_warnings.warnings_per_year
    where organisation_settings.organisation_id = set_organisation_warnings.organisation_id;
    if not found then
        raise exception using errcode = 'PT404', message = format('There is no organisation %s', set_organisation_warnings.organisation_id);
    end if;
    return set_organisation_warnings.warnings_per_year;
end
$$;
comment on function care.set_organisation_warnings is
    'Sets how many warnings a year by chance are accepted for each patient of an organisation whose family did not choose. Raises PT400, PT404. Security definer: callers may not write the table.';
revoke execute on function care.set_organisation_warnings from public;
grant execute on function care.set_organisation_warnings to retrocare_service;

create function care.warning_budget_list(patient_id uuid default null)
returns table (warnings_per_year double precision, name text, cost text, is_chosen boolean)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select warning_budgets.warnings_per_year, warning_budgets.name, warning_budgets.cost,
        warning_budgets.warnings_per_year = coalesce(case
            -- What the family of somebody else's patient chose is none of a caregiver's business.
            when not care.is_caller_a_caregiver()
                or warning_budget_list.patient_id = any (array(select care.patients_of_caller('viewer')))
                then care.warnings_per_year(warning_budget_list.patient_id)
        end, (
            select organisation_settings.warnings_per_year
            from care.organisation_settings
            where organisation_settings.organisation_id = care.default_organisation()
        ))
    from care.warning_budgets
    order by warning_budgets.warnings_per_year
$$;
comment on function care.warning_budget_list is
    'Returns the choices of how many warnings a year by chance are accepted, and which one applies to this patient (null: to the default organisation). Security definer: callers may not read the tables. Called by `retrocare warnings`.';
revoke execute on function care.warning_budget_list from public;
grant execute on function care.warning_budget_list to retrocare_service;

-- 60_erasure.sql

-- Erasure: a signal's data, or a person, is removed from the whole database in one transaction. Copies outside the database (Storage,
-- the provider) are listed, and deleted by functions/delete-recordings until their absence is confirmed.

create table care.tombstones (
    id uuid constraint tombstones_pkey primary key default gen_random_uuid(),
    patient_id uuid not null,
    scope text not null,
    reason text not null,
    erased_at timestamptz not null default now()
);
create index tombstones_by_patient on care.tombstones (patient_id);
alter table care.tombstones enable row level security;
comment on column care.tombstones.scope is 'The signal that was erased, or person if everything was.';
comment on table care.tombstones is 'The erasures: exported, and replayed on a restored backup. Append-only.';

create type public.deletion_state as enum (
    'queued',       -- waits to be deleted, or for a retry      -> leased
    'leased',       -- being deleted                            -> done, queued again
    'done'          -- end: deleted
);
comment on type public.deletion_state is 'The state of a deletion outside the database. It is retried until it succeeds.';

create type public.deletion_kind as enum ('storage_object', 'provider_call');
comment on type public.deletion_kind is 'What is to be deleted. Its reference is bucket/path, or provider account/call id.';

create table care.deletions (
    id bigint generated always as identity constraint deletions_pkey primary key,
    patient_id uuid not null,
    kind public.deletion_kind not null,
    reference text not null,
    state public.deletion_state not null default 'queued',
    attempts integer not null default 0,
    run_at timestamptz not null default now(),
    worker text,
    lease_token uuid,
    leased_until timestamptz,
    due_at timestamptz
        generated always as (case state when 'queued' then run_at when 'leased' then leased_until end) stored,
    error_code text,
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    constraint a_thing_is_deleted_once unique (kind, reference),
    constraint a_leased_deletion_has_a_lease check (state <> 'leased' or (lease_token is not null and leased_until is not null)),
    constraint a_done_deletion_has_its_time check ((state = 'done') = (finished_at is not null))
);
create index deletions_by_patient on care.deletions (patient_id);
create index deletions_to_do on care.deletions (due_at) where due_at is not null;
alter table care.deletions enable row level security;
comment on table care.deletions is 'What is to be deleted outside the database. It has no foreign keys, since it outlives the person.';
comment on column care.deletions.due_at is
    'When the deletion can be claimed: run_at while it is queued, leased_until while it is leased. Null: it is done.';
create index deletions_at_issue on care.deletions (id) where state <> 'done' and error_code is not null;

create function care.storage_path(recording_ref text)
returns text
language sql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case when starts_with(recording_ref, 'storage:') then substr(recording_ref, length('storage:') + 1) end
$$;
comment on function care.storage_path is 'Returns bucket/path of a recording in Storage. Null: it is elsewhere.';
revoke execute on function care.storage_path from public;

create function care.queue_deletion(patient_id uuid, kind public.deletion_kind, reference text)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into care.deletions (patient_id, kind, reference, state, finished_at)
    select queue_deletion.patient_id, queue_deletion.kind, queue_deletion.reference,
        case when is_ours then 'queued' else 'done' end::public.deletion_state, case when not is_ours then now() end
    from (
        -- Without the provider's API key, nothing can be deleted there. The row then only keeps the call from being stored again.
        select queue_deletion.kind <> 'provider_call' or exists (
            select from care.provider_accounts
            where provider_accounts.id = split_part(queue_deletion.reference, '/', 1) and provider_accounts.secret_name is not null
        )
    ) as place (is_ours)
    -- The copy may have come back since it was deleted, or while it is being deleted: delete it again.
    on conflict (kind, reference) do update
    set state = excluded.state,
        attempts = 0,
        run_at = now(),
        lease_token = null,
        leased_until = null,
        error_code = null,
        finished_at = excluded.finished_at
$$;
comment on function care.queue_deletion is
    'Queues a deletion outside the database, again if it was done before. A call of a provider account without a secret is only noted as erased.';
revoke execute on function care.queue_deletion from public;

create function care.queue_deletions(call public.call_logs)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select care.queue_deletion(call.patient_id, copies.kind, copies.reference)
    from (
        select 'storage_object'::public.deletion_kind as kind, care.storage_path(call.recording_ref) as reference
        union
        select 'storage_object', care.storage_path(recordings.recording_ref)
        from care.recordings
        where recordings.call_log_id = call.id
        union
        -- A worker may have been copying the recording. Neither its progress nor the file type is known.
        select 'storage_object', 'voice-recordings/' || call.patient_id || '/' || call.id || '.' || kinds.extension
        from care.recordings
        cross join unnest(array['wav', 'ogg', 'flac', 'm4a', 'webm', 'mp3']) as kinds (extension)
        where recordings.call_log_id = call.id and recordings.recording_ref is null and recordings.attempts > 0
        union
        select 'provider_call', call.provider_account || '/' || call.provider_call_id
    ) as copies
    where copies.reference is not null
    order by copies.kind, copies.reference
$$;
comment on function care.queue_deletions is 'Queues the deletion of all copies of a call''s recording, in Storage and at the provider.';
revoke execute on function care.queue_deletions from public;

create function care.delete_recording(call public.call_logs)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select care.queue_deletions(call);
    delete from care.recordings where recordings.call_log_id = call.id;
    update public.call_logs
    set recording_ref = null,
        recording_source_url = null,
        speech_intervals = null
    where call_logs.id = call.id;
$$;
comment on function care.delete_recording is
    'Removes a call''s recording, and queues the deletion of its copies in Storage and at the provider. The caller has called care.lock_patient.';
revoke execute on function care.delete_recording from public;

create function care.delete_orphan(recording_ref text)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select care.queue_deletion(
        split_part(delete_orphan.recording_ref, '/', 2)::uuid, 'storage_object', care.storage_path(delete_orphan.recording_ref))
    where delete_orphan.recording_ref ~ '^storage:[^/]+/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/'
$$;
comment on function care.delete_orphan is
    'Queues the deletion of a file that was put into Storage for a patient who was erased meanwhile. Called by care.store_recording.';
revoke execute on function care.delete_orphan from public;

create function care.erase_recordings(patient_id uuid)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    counts jsonb;
begin
    update public.call_logs
    set check_state = 'skipped', check_reason = 'no_consent'
    where call_logs.patient_id = erase_recordings.patient_id
        and exists (
            select from care.recordings
            where recordings.call_log_id = call_logs.id and recordings.state in ('queued', 'leased')
        );
    with forgotten as (
        select care.delete_recording(call_logs)
        from public.call_logs
        where call_logs.patient_id = erase_recordings.patient_id
            and (call_logs.recording_ref is not null or call_logs.provider_call_id is not null)
    )
    select jsonb_build_object('recordings', count(*)) into counts from forgotten;
    return counts;
end
$$;
comment on function care.erase_recordings is
    'Removes all recordings of a patient, keeps any from being copied, and returns how many there were. The caller has called care.lock_patient.';
revoke execute on function care.erase_recordings from public;

create function care.erase_signal(patient_id uuid, signal text, reason text)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    counts jsonb;
    removed jsonb;
begin
    perform care.lock_patient(erase_signal.patient_id);
    -- End unfinished checks with the reason no_consent, so that their workers learn of it. Delete all others, with their measures.
    update care.checks
    set state = 'skipped', reason = 'no_consent', finished_at = clock_timestamp(), quality = '{}', detail = '{}'
    where checks.patient_id = erase_signal.patient_id
        and checks.signal = erase_signal.signal
        and checks.state in ('queued', 'leased');
    with checks as (
        delete from care.checks
        where checks.patient_id = erase_signal.patient_id
            and checks.signal = erase_signal.signal
            and checks.reason is distinct from 'no_consent'
        returning id
    )
    select jsonb_build_object('checks', count(*)) from checks into counts;
    execute format('select %s($1)', (select signals.erase_function from care.signals where signals.id = erase_signal.signal))
    into removed
    using erase_signal.patient_id;
    counts := counts || removed;
    update public.judgements
    set explanation = null, reasons = '{}', likely_patient_id = null
    where judgements.patient_id = erase_signal.patient_id
        and judgements.signal = erase_signal.signal
        and (judgements.explanation is not null or judgements.reasons <> '{}' or judgements.likely_patient_id is not null);
    -- Nobody was recognised by a voice that is erased.
    update public.judgements
    set likely_patient_id = null
    where judgements.likely_patient_id = erase_signal.patient_id and judgements.signal = erase_signal.signal;
    -- Recordings serve all signals. They are kept as long as another signal may use them.
    if not exists (
        select
        from public.consents
        join care.signals on signals.consent_scope = consents.scope
        where consents.patient_id = erase_signal.patient_id
            and consents.withdrawn_at is null
            and consents.scope <> (select erased.consent_scope from care.signals as erased where erased.id = erase_signal.signal)
    ) then
        counts := counts || care.erase_recordings(erase_signal.patient_id);
    end if;
    if not exists (
        select from care.tombstones
        where tombstones.patient_id = erase_signal.patient_id
            and tombstones.scope in (erase_signal.signal, 'person')
            and tombstones.erased_at = now()
    ) then
        insert into care.tombstones (patient_id, scope, reason)
        values (erase_signal.patient_id, erase_signal.signal, erase_signal.reason);
        perform care.note_audit('signal_erased', erase_signal.signal, erase_signal.patient_id, counts);
    end if;
    return counts;
end
$$;
comment on function care.erase_signal is
    'Removes all data of a signal, including those that its erase_function removes, and returns the numbers of removed rows by name. Judgements stay, without their explanation and the data from which they were computed. Raises RV002.';
revoke execute on function care.erase_signal from public;

create function care.erase_patient_signal(patient_id uuid, signal text, reason text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    counts jsonb;
begin
    if not exists (select from care.signals where signals.id = erase_patient_signal.signal) then
        raise exception using
            errcode = 'PT400',
            message = format('There is no signal %L', erase_patient_signal.signal),
            hint = format('Use one of %s.', (select string_agg(signals.id, ', ' order by signals.id) from care.signals));
    end if;
    counts := care.erase_signal(erase_patient_signal.patient_id, erase_patient_signal.signal, erase_patient_signal.reason);
    -- Without this, the next call would create the data again.
    update public.consents
    set withdrawn_at = greatest(now(), consents.given_at),
        withdrawn_by = (select auth.uid())
    where consents.patient_id = erase_patient_signal.patient_id
        and consents.scope = (select signals.consent_scope from care.signals where signals.id = erase_patient_signal.signal)
        and consents.withdrawn_at is null;
    return counts;
end
$$;
comment on function care.erase_patient_signal is
    'Erases what a signal stores about a patient, and withdraws the consent to it; returns the numbers of removed rows by name. Raises PT400, RV002. Security definer: callers have no privileges on the private schemas. Called by `retrocare tombstones --replay` and care.erase_patient_voice.';
revoke execute on function care.erase_patient_signal from public;

create function care.erase_patient_voice(patient_id uuid, reason text)
returns jsonb
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    select care.erase_patient_signal(erase_patient_voice.patient_id, 'voice', erase_patient_voice.reason)
$$;
comment on function care.erase_patient_voice is
    'Erases a patient''s voice data and withdraws the consent to them; returns the numbers of removed rows by name. Raises RV002. Security definer for the same reason as care.erase_patient_signal. Called by `retrocare patient erase` and public.erase_patient_voice.';
revoke execute on function care.erase_patient_voice from public;
grant execute on function care.erase_patient_voice to retrocare_service;

create function care.erase_signals(patient_id uuid, reason text)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    signal text;
    removed jsonb;
    counts jsonb := '{}';
begin
    for signal in select signals.id from care.signals order by signals.id loop
        removed := care.erase_signal(erase_signals.patient_id, signal, erase_signals.reason);
        counts := counts || (
            select jsonb_object_agg(erased.key, coalesce((counts ->> erased.key)::bigint, 0) + erased.value::bigint)
            from jsonb_each_text(removed) as erased
        );
    end loop;
    if not counts ? 'recordings' then
        counts := counts || care.erase_recordings(erase_signals.patient_id);
    end if;
    return counts;
end
$$;
comment on function care.erase_signals is 'Erases all signals of a patient and returns the numbers of removed rows by name. Raises RV002.';
revoke execute on function care.erase_signals from public;

create function care.erase_patient(patient_id uuid, reason text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    counts jsonb;
begin
    -- Take the lock that the deletion needs right away. Transactions that refer to the patient then wait, and no lock upgrade can
    -- deadlock.
    perform from public.patients where patients.id = erase_patient.patient_id for update;
    counts := care.erase_signals(erase_patient.patient_id, erase_patient.reason);
    insert into care.tombstones (patient_id, scope, reason) values (erase_patient.patient_id, 'person', erase_patient.reason);
    perform care.note_audit('person_erased', 'care.erase_patient', erase_patient.patient_id, counts);
    delete from public.patients where patients.id = erase_patient.patient_id;
    return counts;
end
$$;
comment on function care.erase_patient is
    'Erases a person: the voice data, calls, judgements, alerts and everything else except the audit log. Returns the numbers of removed rows by name. Raises RV002. Security definer for the same reason as care.erase_patient_signal. Called by `retrocare patient erase --person` and public.erase_patient.';
revoke execute on function care.erase_patient from public;
grant execute on function care.erase_patient to retrocare_service;

-- Rows can also be deleted directly, by service_role or in the SQL editor. The triggers below make sure that nothing is left behind
-- then either.

create function care.on_patient_deleted()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    forgotten_count bigint;
begin
    -- Reports that waited for this patient's number must not go to another patient who gets it.
    with forgotten as (
        delete from care.unmatched_calls
        using care.provider_accounts
        where provider_accounts.id = unmatched_calls.provider_account
            and provider_accounts.organisation_id = old.organisation_id
            and (unmatched_calls.phone = old.phone or unmatched_calls.report ->> 'patient_id' = old.id::text)
        returning unmatched_calls.provider_account || '/' || unmatched_calls.provider_call_id as reference
    )
    select count(care.queue_deletion(old.id, 'provider_call', forgotten.reference)) into forgotten_count from forgotten;
    if not exists (
        select from care.tombstones
        where tombstones.patient_id = old.id and tombstones.scope = 'person' and tombstones.erased_at = now()
    ) then
        perform care.erase_signals(old.id, 'the row was deleted');
        insert into care.tombstones (patient_id, scope, reason) values (old.id, 'person', 'the row was deleted');
        perform care.note_audit('person_erased', 'public.patients', old.id);
    end if;
    return old;
end
$$;
comment on function care.on_patient_deleted is
    'Trigger: erases the person when a patient''s row is deleted. Security definer: roles that delete the row have no privileges on the private schemas.';
revoke execute on function care.on_patient_deleted from public;

create function care.on_call_deleted()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if care.lock_patient_or_refuse(old.patient_id) then
        perform care.queue_deletions(old);
    end if;
    return old;
end
$$;
comment on function care.on_call_deleted is
    'Trigger: queues the deletion of a call''s copies when its row is deleted. Security definer for the same reason as care.on_patient_deleted.';
revoke execute on function care.on_call_deleted from public;

create function care.erasure_preview(patient_id uuid)
returns table (erased text, row_count bigint)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    kept record;
begin
    for kept in
        select relation.relname::text as name, relation.oid::regclass as relation
        from care.signals
        join pg_catalog.pg_namespace as namespace on namespace.nspname = signals.schema_name
        join pg_catalog.pg_class as relation on relation.relnamespace = namespace.oid and relation.relkind = 'r'
        join pg_catalog.pg_attribute as key on key.attrelid = relation.oid and key.attname = 'patient_id' and not key.attisdropped
        -- Tables that only join others are left out, since their counts would mean nothing to the reader.
        where exists (
            select
            from pg_catalog.pg_index as identity
            join pg_catalog.pg_attribute as id on id.attrelid = identity.indrelid and id.attnum = any (identity.indkey)
            where identity.indrelid = relation.oid and identity.indisprimary and id.attname in ('id', 'patient_id')
        )
        order by 1
    loop
        execute format('select %L, count(*) from %s where patient_id = $1', kept.name, kept.relation)
        into erased, row_count
        using erasure_preview.patient_id;
        return next;
    end loop;
    return query
        select 'checks', count(*) from care.checks where checks.patient_id = erasure_preview.patient_id
        union all
        select 'recordings', count(*)
        from public.call_logs
        where call_logs.patient_id = erasure_preview.patient_id
            and (call_logs.recording_ref is not null or call_logs.provider_call_id is not null);
end
$$;
comment on function care.erasure_preview is
    'Returns what erasing all signals of a patient would remove, by name. Called before `retrocare patient erase` and `consent --withdraw` ask for confirmation.';
revoke execute on function care.erasure_preview from public;
grant execute on function care.erasure_preview to retrocare_service;

create function care.tombstone_list()
returns setof care.tombstones
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select * from care.tombstones order by erased_at, id
$$;
comment on function care.tombstone_list is
    'Returns the list of erasures, which must be kept apart from backups. Security definer: the service has no privileges on tables. Called by `retrocare tombstones`.';
revoke execute on function care.tombstone_list from public;
grant execute on function care.tombstone_list to retrocare_service;

create function care.replay_tombstone(id uuid, patient_id uuid, scope text, reason text, erased_at timestamptz)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from care.tombstones where tombstones.id = replay_tombstone.id) then
        return false; -- this database already contains the erasure
    end if;
    if exists (select from public.patients where patients.id = replay_tombstone.patient_id) then
        if replay_tombstone.scope = 'person' then
            perform care.erase_patient(replay_tombstone.patient_id, replay_tombstone.reason);
        -- A signal that is unknown in this database has no data in it.
        elsif exists (select from care.signals where signals.id = replay_tombstone.scope) then
            perform care.erase_patient_signal(replay_tombstone.patient_id, replay_tombstone.scope, replay_tombstone.reason);
        end if;
    end if;
    insert into care.tombstones (id, patient_id, scope, reason, erased_at)
    values (
        replay_tombstone.id, replay_tombstone.patient_id, replay_tombstone.scope, replay_tombstone.reason,
        replay_tombstone.erased_at
    );
    perform care.note_audit('erasure_replayed', replay_tombstone.scope, replay_tombstone.patient_id);
    return true;
end
$$;
comment on function care.replay_tombstone is
    'Repeats an erasure on a restored backup. Returns false if this database already contains it. Security definer for the same reason as care.erase_patient. Called by `retrocare tombstones --replay`.';
revoke execute on function care.replay_tombstone from public;
grant execute on function care.replay_tombstone to retrocare_service;

-- 61_deletions.sql

-- Deletions: how copies outside the database, in Storage and at the provider, are deleted.

create type public.deletion_claim as (
    deletion_id bigint,
    kind public.deletion_kind,
    reference text,
    attempts integer,
    lease_token uuid
);
comment on type public.deletion_claim is 'Something to delete: bucket/path in Storage, or provider account/call id.';

create function care.claim_deletions(worker text, count integer, lease_seconds double precision, at timestamptz default now())
returns setof public.deletion_claim
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update care.deletions as claimed
    set state = 'leased',
        attempts = claimed.attempts + 1,
        worker = claim_deletions.worker,
        lease_token = gen_random_uuid(),
        leased_until = claim_deletions.at + make_interval(secs => claim_deletions.lease_seconds)
    from (
        select due.id
        from care.deletions as due
        where due.due_at <= claim_deletions.at
        order by due.due_at, due.id
        for update skip locked
        limit claim_deletions.count
    ) as ready
    where claimed.id = ready.id
    returning claimed.id, claimed.kind, claimed.reference, claimed.attempts, claimed.lease_token
$$;
comment on function care.claim_deletions is
    'Claims up to count deletions that are due and returns them. Security definer: the edge function has no privileges on the private schemas.';
revoke execute on function care.claim_deletions from public;

create function care.finish_deletion(deletion_id bigint, lease_token uuid, at timestamptz default now())
returns boolean
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    with done as (
        update care.deletions
        set state = 'done', finished_at = finish_deletion.at, error_code = null
        where deletions.id = finish_deletion.deletion_id
            and deletions.lease_token = finish_deletion.lease_token
            and deletions.state = 'leased'
        returning deletions.patient_id, deletions.kind
    ),
    noted as (
        select care.note_audit('deletion_finished', done.kind::text, done.patient_id) from done
    )
    select count(*) > 0 from noted
$$;
comment on function care.finish_deletion is
    'Notes that the copy is deleted and its absence was confirmed. Returns false if the lease is lost. Security definer: the edge function has no privileges on the private schemas.';
revoke execute on function care.finish_deletion from public;

create function care.fail_deletion(deletion_id bigint, lease_token uuid, code text, at timestamptz default now())
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update care.deletions
    set state = 'queued',
        error_code = fail_deletion.code,
        lease_token = null,
        leased_until = null,
        run_at = fail_deletion.at + care.retry_wait(deletions.attempts)
    where deletions.id = fail_deletion.deletion_id
        and deletions.lease_token = fail_deletion.lease_token
        and deletions.state = 'leased'
$$;
comment on function care.fail_deletion is
    'Notes that the copy could not be deleted. It is retried with exponential backoff until it succeeds. Security definer: the edge function has no privileges on the private schemas.';
revoke execute on function care.fail_deletion from public;

-- 62_retention.sql

-- Retention: how long data are kept.

create table care.retention_policies (
    subject text constraint retention_policies_pkey primary key,
    keep_days double precision not null
        constraint something_is_kept_a_while check (keep_days > 0 and keep_days < 36500)
);
alter table care.retention_policies enable row level security;
insert into care.retention_policies values
    ('recordings', 90), ('voiceprints', 730), ('unmatched_calls', 30), ('errors', 90), ('deliveries', 365), ('idempotency_keys', 1);
comment on table care.retention_policies is
    'For how many days data are kept. Without a row, they are kept for ever. Voiceprints in a current baseline are kept as long as it is.';

create function care.kept_since(subject text, at timestamptz)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select kept_since.at - make_interval(secs => 86400 * retention_policies.keep_days)
    from care.retention_policies
    where retention_policies.subject = kept_since.subject
$$;
comment on function care.kept_since is
    'Returns the time before which data are no longer kept. Null: they are kept for ever. Called by the jobs that delete.';
revoke execute on function care.kept_since from public;

create function care.old_recordings(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select call_logs.id::text
    from public.call_logs
    -- Counted from when the row was created, so that an imported archive is not deleted at once.
    where call_logs.created_at < care.kept_since('recordings', old_recordings.at)
        and (call_logs.recording_ref is not null
            -- It was copied but never attached to the call, because no row matches the call's ended reason.
            or exists (
                select from care.recordings
                where recordings.call_log_id = call_logs.id
                    -- Or a worker that crashed may have copied it.
                    and (recordings.recording_ref is not null or (recordings.state in ('expired', 'refused') and recordings.attempts > 0))
            ))
        and not exists (
            select from care.checks
            where checks.call_log_id = call_logs.id
                and checks.state in ('queued', 'leased')
                and not checks.is_backfill
                -- A check that nobody processes keeps its recording for at most twice as long.
                and call_logs.created_at > 2 * (care.kept_since('recordings', old_recordings.at) - old_recordings.at) + old_recordings.at
        )
    order by call_logs.created_at
    limit old_recordings.maximum_rows
$$;
comment on function care.old_recordings is 'Lists calls whose recording has passed its retention, judged or not. Called by care.run_job.';
revoke execute on function care.old_recordings from public;

create function care.delete_old_recording(call_log_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    call public.call_logs;
begin
    select call_logs.* into call from public.call_logs where call_logs.id = delete_old_recording.call_log_id::uuid;
    if not care.try_lock_patient(call.patient_id) then
        return false;
    end if;
    select call_logs.* into call from public.call_logs where call_logs.id = call.id for no key update;
    perform care.delete_recording(call);
    return true;
end
$$;
comment on function care.delete_old_recording is
    'Removes such a recording and queues the deletion of its copies. Returns whether it did. Called by care.run_job.';
revoke execute on function care.delete_old_recording from public;

create function care.old_unmatched_calls(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select unmatched_calls.provider_account || '/' || unmatched_calls.provider_call_id
    from care.unmatched_calls
    where unmatched_calls.received_at < care.kept_since('unmatched_calls', old_unmatched_calls.at)
    order by unmatched_calls.received_at
    limit old_unmatched_calls.maximum_rows
$$;
comment on function care.old_unmatched_calls is 'Lists unmatched call reports that have passed their retention. Called by care.run_job.';
revoke execute on function care.old_unmatched_calls from public;

create function care.delete_old_unmatched_call(reference text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from care.unmatched_calls
    using (
        select old_call.provider_account, old_call.provider_call_id
        from care.unmatched_calls as old_call
        where old_call.provider_account || '/' || old_call.provider_call_id = delete_old_unmatched_call.reference
        for update skip locked -- a locked row is being erased or matched
    ) as found_call
    where unmatched_calls.provider_account = found_call.provider_account and unmatched_calls.provider_call_id = found_call.provider_call_id;
    return found;
end
$$;
comment on function care.delete_old_unmatched_call is 'Deletes such a report. Returns whether it did. Called by care.run_job.';
revoke execute on function care.delete_old_unmatched_call from public;

create function care.old_errors(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select check_errors.id::text
    from care.check_errors
    where check_errors.occurred_at < care.kept_since('errors', old_errors.at)
    order by check_errors.occurred_at
    limit old_errors.maximum_rows
$$;
comment on function care.old_errors is 'Lists errors of checks that have passed their retention. Called by care.run_job.';
revoke execute on function care.old_errors from public;

create function care.delete_old_error(error_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not care.try_lock_patient((
        select checks.patient_id
        from care.check_errors
        join care.checks on checks.id = check_errors.check_id
        where check_errors.id = delete_old_error.error_id::bigint
    )) then
        return false;
    end if;
    delete from care.check_errors where check_errors.id = delete_old_error.error_id::bigint;
    return found;
end
$$;
comment on function care.delete_old_error is 'Deletes such an error. Returns whether it did. Called by care.run_job.';
revoke execute on function care.delete_old_error from public;

create function care.old_deliveries(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select deliveries.id::text
    from care.deliveries
    where deliveries.finished_at < care.kept_since('deliveries', old_deliveries.at)
    order by deliveries.finished_at
    limit old_deliveries.maximum_rows
$$;
comment on function care.old_deliveries is 'Lists messages that have passed their retention. Called by care.run_job.';
revoke execute on function care.old_deliveries from public;

create function care.delete_old_delivery(delivery_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not care.try_lock_patient((
        select alert_changes.patient_id
        from care.deliveries
        join public.alert_changes on alert_changes.id = deliveries.change_id
        where deliveries.id = delete_old_delivery.delivery_id::bigint
    )) then
        return false;
    end if;
    delete from care.deliveries where deliveries.id = delete_old_delivery.delivery_id::bigint;
    return found;
end
$$;
comment on function care.delete_old_delivery is 'Deletes such a message. Returns whether it did. Called by care.run_job.';
revoke execute on function care.delete_old_delivery from public;

create function care.old_idempotency_keys(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_array(idempotency_keys.organisation_id, idempotency_keys.caller, idempotency_keys.key)::text
    from care.idempotency_keys
    where idempotency_keys.created_at < care.kept_since('idempotency_keys', old_idempotency_keys.at)
    order by idempotency_keys.created_at
    limit old_idempotency_keys.maximum_rows
$$;
comment on function care.old_idempotency_keys is 'Lists idempotency keys that have passed their retention. Called by care.run_job.';
revoke execute on function care.old_idempotency_keys from public;

create function care.delete_old_idempotency_key(reference text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    old_key care.idempotency_keys;
begin
    select idempotency_keys.* into old_key
    from care.idempotency_keys
    where idempotency_keys.organisation_id = (delete_old_idempotency_key.reference::jsonb ->> 0)::uuid
        and idempotency_keys.caller = delete_old_idempotency_key.reference::jsonb ->> 1
        and idempotency_keys.key = delete_old_idempotency_key.reference::jsonb ->> 2;
    if not care.try_lock_patient(old_key.patient_id) then
        return false;
    end if;
    delete from care.idempotency_keys
    where idempotency_keys.organisation_id = old_key.organisation_id
        and idempotency_keys.caller = old_key.caller
        and idempotency_keys.key = old_key.key;
    return found;
end
$$;
comment on function care.delete_old_idempotency_key is 'Deletes such a key. Returns whether it did. Called by care.run_job.';
revoke execute on function care.delete_old_idempotency_key from public;

-- 63_export.sql

-- Export: everything that is stored about a person, except vectors.

create table care.unexported_columns (
    name text constraint unexported_columns_pkey primary key,
    reason text not null
);
alter table care.unexported_columns enable row level security;
insert into care.unexported_columns (name, reason) values
    ('recording_ref', 'the location of a recording grants access to it'),
    ('recording_source_url', 'the URL of a recording grants access to it'),
    ('lease_token', 'keeps workers with an expired lease from writing'),
    ('idempotency_key', 'sent by a caller'),
    ('key', 'sent by a caller'),
    ('caller', 'the name of an API key'),
    ('request_sha256', 'hash of what a caller sent');
comment on table care.unexported_columns is
    'Columns of any table that are left out of exports, and why. Vectors are always left out: they are of use only to the scoring functions.';

create function care.export_patient(patient_id uuid)
returns jsonb
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient public.patients := care.patient_for_caller(export_patient.patient_id, 'primary');
    kept record;
    rows jsonb;
    exported jsonb := jsonb_build_object('exported_at', now(), 'patients', jsonb_build_array(to_jsonb(patient)));
begin
    for kept in
        select
            namespace.nspname || '.' || relation.relname as name,
            relation.oid::regclass as relation,
            array_agg(hidden.attname::text) filter (where hidden.attname is not null) as hidden
        from pg_catalog.pg_class as relation
        join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
        join pg_catalog.pg_attribute as key
            on key.attrelid = relation.oid and key.attname = 'patient_id' and not key.attisdropped
        left join pg_catalog.pg_attribute as hidden
            on hidden.attrelid = relation.oid
            and not hidden.attisdropped
            and (hidden.attname = any (array(select unexported_columns.name from care.unexported_columns))
                or hidden.atttypid = 'extensions.vector'::regtype)
        where namespace.nspname = any (array(select signals.schema_name from care.signals) || '{public,care}'::text[]) and relation.relkind = 'r'
        group by 1, 2
        order by 1
    loop
        execute format(
            'select coalesce(jsonb_agg(to_jsonb(kept) - $2), ''[]'') from %s as kept where kept.patient_id = $1', kept.relation)
        into rows
        using patient.id, coalesce(kept.hidden, '{}');
        exported := exported || jsonb_build_object(replace(kept.name, 'public.', ''), rows);
    end loop;
    perform care.note_audit('exported', 'care.export_patient', patient.id);
    return exported;
end
$$;
comment on function care.export_patient is
    'Returns everything that is stored about a patient, of every signal and by table, without the vectors, and notes it in the audit log. Raises PT403, PT404, RV002. Security definer: no caller may read all of it.';
revoke execute on function care.export_patient from public;
grant execute on function care.export_patient to retrocare_service;

-- 64_api_keys.sql

-- API keys: which programs may call the service, and for what. A key is shown once, when it is created; only its hash is stored here.

create type care.api_scope as enum (
    'embed',    -- encode recordings, compare vectors
    'check',    -- judge and enrol recordings, wake the worker
    'read',     -- read scores
    'admin'     -- read metrics, and everything above
);
comment on type care.api_scope is 'What a key allows.';

create table care.api_keys (
    id bigint generated always as identity constraint api_keys_pkey primary key,
    organisation_id uuid not null default care.default_organisation()
        constraint an_api_key_is_an_organisations references public.organisations (id),
    name text not null
        constraint an_api_key_has_a_name check (btrim(name) <> ''),
    key_sha256 bytea not null
        constraint an_api_key_is_known_by_its_hash check (octet_length(key_sha256) = 32),
    scopes care.api_scope[] not null
        constraint an_api_key_allows_something check (cardinality(scopes) > 0),
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    last_used_at timestamptz,
    constraint an_api_key_is_one_callers unique (key_sha256)
);
create unique index a_name_stands_for_one_key_of_an_organisation on care.api_keys (organisation_id, name) where revoked_at is null;
create index api_keys_by_organisation on care.api_keys (organisation_id);
alter table care.api_keys enable row level security;
comment on table care.api_keys is 'The callers of the service. A revoked key is refused from the next request on.';
comment on column care.api_keys.key_sha256 is 'Hash of a random key of 256 bits. Such a key cannot be guessed, so the hash needs no salt.';
comment on column care.api_keys.last_used_at is 'Rounded down to the minute.';

create type care.api_key as (
    id bigint,
    name text,
    scopes text[],
    created_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    organisation_id uuid
);
comment on type care.api_key is 'An API key as it is shown, without its hash.';

create function care.add_api_key(
    name text, scopes care.api_scope[], key_sha256 bytea, organisation_id uuid default care.default_organisation()
)
returns care.api_key
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    added care.api_keys;
begin
    insert into care.api_keys (name, scopes, key_sha256, organisation_id)
    values (add_api_key.name, add_api_key.scopes, add_api_key.key_sha256, add_api_key.organisation_id)
    returning * into added;
    return (
        added.id, added.name, added.scopes::text[], added.created_at, added.revoked_at, added.last_used_at, added.organisation_id
    )::care.api_key;
end
$$;
comment on function care.add_api_key is
    'Adds an API key and returns it without its hash. Security definer: the service has no privileges on tables. Called by `retrocare key add`.';
revoke execute on function care.add_api_key from public;
grant execute on function care.add_api_key to retrocare_service;

create function care.revoke_api_key(name text, organisation_id uuid default care.default_organisation())
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update care.api_keys
    set revoked_at = now()
    where api_keys.organisation_id = revoke_api_key.organisation_id
        and api_keys.name = revoke_api_key.name
        and api_keys.revoked_at is null;
    return found;
end
$$;
comment on function care.revoke_api_key is
    'Revokes an API key. Returns false if the organisation has no valid key of that name. Security definer: the service has no privileges on tables. Called by `retrocare key revoke`.';
revoke execute on function care.revoke_api_key from public;
grant execute on function care.revoke_api_key to retrocare_service;

create function care.api_key_list()
returns setof care.api_key
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        api_keys.id, api_keys.name, api_keys.scopes::text[], api_keys.created_at, api_keys.revoked_at, api_keys.last_used_at,
        api_keys.organisation_id
    from care.api_keys
    order by api_keys.id
$$;
comment on function care.api_key_list is
    'Returns all API keys, including revoked ones. Security definer: the service has no privileges on tables. Called by `retrocare key list`, and by the service at start.';
revoke execute on function care.api_key_list from public;
grant execute on function care.api_key_list to retrocare_service;

create function care.use_api_key(key_sha256 bytea, scope care.api_scope)
returns table (name text, is_allowed boolean, organisation_id uuid)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    used care.api_keys;
begin
    select api_keys.* into used
    from care.api_keys
    where api_keys.key_sha256 = use_api_key.key_sha256 and api_keys.revoked_at is null;
    if not found then
        return;
    end if;
    if coalesce(used.last_used_at, '-infinity') < now() - interval '1 minute' then
        update care.api_keys
        set last_used_at = date_trunc('minute', now())
        where api_keys.id = used.id;
        -- One audit entry per hour is enough to show that a key is in use; one per request would be too many.
        if coalesce(used.last_used_at, '-infinity') < date_trunc('hour', now()) then
            perform care.note_audit('key_used', 'care.api_keys ' || used.id);
        end if;
    end if;
    return query
        select used.name, use_api_key.scope = any (used.scopes) or 'admin' = any (used.scopes), used.organisation_id;
end
$$;
comment on function care.use_api_key is
    'Returns the name and organisation of the API key with this hash, and whether it allows this scope; no row if there is no such key or it is revoked. Its use is noted in the audit log at most once an hour. Security definer: the service has no privileges on tables. Called with every request.';
revoke execute on function care.use_api_key from public;
grant execute on function care.use_api_key to retrocare_service;

-- 65_voice_erasure.sql

-- Voice erasure: voice data that are removed with a patient, with a call, or after their retention.

create function voice.erase_traces(patient_id uuid)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    counts jsonb;
begin
    with charts as (delete from voice.charts where charts.patient_id = erase_traces.patient_id returning encoder)
    select jsonb_build_object('charts', count(*)) into counts from charts;
    with corrections as (delete from voice.chart_corrections where chart_corrections.patient_id = erase_traces.patient_id returning encoder)
    select counts || jsonb_build_object('chart_corrections', count(*)) into counts from corrections;
    with baselines as (delete from voice.baselines where baselines.patient_id = erase_traces.patient_id returning id)
    select counts || jsonb_build_object('baselines', count(*)) into counts from baselines;
    with embeddings as (delete from voice.embeddings where embeddings.patient_id = erase_traces.patient_id returning id)
    select counts || jsonb_build_object('embeddings', count(*)) into counts from embeddings;
    with usual as (delete from voice.usual_features where usual_features.patient_id = erase_traces.patient_id returning feature)
    select counts || jsonb_build_object('usual_features', count(*)) into counts from usual;
    return counts;
end
$$;
comment on function voice.erase_traces is
    'Removes the embeddings, baselines, charts and usual features of a patient and returns the numbers of removed rows by name. The caller has called care.lock_patient. Called by care.erase_signal.';
revoke execute on function voice.erase_traces from public;

create function voice.on_call_deleted()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was_judged boolean;
begin
    if care.lock_patient_or_refuse(old.patient_id) then
        -- The charts are computed again without it, and a reference that followed it returns to the baseline.
        delete from public.judgements where judgements.call_log_id = old.id;
        was_judged := found;
        if voice.remove_samples(
            old.patient_id, array(select embeddings.id from voice.embeddings where embeddings.call_log_id = old.id)) = 0
            and was_judged
        then
            perform voice.replay_charts(old.patient_id);
        end if;
        -- A baseline version that was built from this call cannot be separated from it, so it is deleted.
        delete from voice.baselines
        where baselines.patient_id = old.patient_id
            and exists (
                select
                from voice.baseline_samples
                join voice.embeddings on embeddings.id = baseline_samples.embedding_id
                where baseline_samples.baseline_id = baselines.id and embeddings.call_log_id = old.id
            );
    end if;
    return old;
end
$$;
comment on function voice.on_call_deleted is
    'Trigger: removes the samples of a deleted call from baselines. Security definer: roles that delete calls have no privileges on the private schemas.';
revoke execute on function voice.on_call_deleted from public;

create function voice.old_voiceprints(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select embeddings.id::text
    from voice.embeddings
    where embeddings.created_at < care.kept_since('voiceprints', old_voiceprints.at)
        and not exists (
            select
            from voice.baseline_samples
            join voice.baselines on baselines.id = baseline_samples.baseline_id
            where baseline_samples.embedding_id = embeddings.id and baselines.superseded_at is null
        )
    order by embeddings.created_at
    limit old_voiceprints.maximum_rows
$$;
comment on function voice.old_voiceprints is
    'Lists embeddings that have passed their retention and are in no current baseline. Called by care.run_job.';
revoke execute on function voice.old_voiceprints from public;

create function voice.delete_old_voiceprint(embedding_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not care.try_lock_patient((select embeddings.patient_id from voice.embeddings where embeddings.id = delete_old_voiceprint.embedding_id::bigint)) then
        return false;
    end if;
    delete from voice.embeddings
    where embeddings.id = delete_old_voiceprint.embedding_id::bigint
        and not exists (
            select
            from voice.baseline_samples
            join voice.baselines on baselines.id = baseline_samples.baseline_id
            where baseline_samples.embedding_id = embeddings.id and baselines.superseded_at is null
        );
    return found;
end
$$;
comment on function voice.delete_old_voiceprint is
    'Deletes such an embedding unless it has become a sample meanwhile. Returns whether it did. Called by care.run_job.';
revoke execute on function voice.delete_old_voiceprint from public;

create function voice.old_baselines(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select baselines.id::text
    from voice.baselines
    where baselines.superseded_at < care.kept_since('voiceprints', old_baselines.at)
        -- With the next call, a chart moves on to the current version.
        and not exists (select from voice.charts where charts.anchor_id = baselines.id)
    order by baselines.superseded_at
    limit old_baselines.maximum_rows
$$;
comment on function voice.old_baselines is 'Lists superseded baseline versions that have passed their retention, and in which no chart is anchored. Called by care.run_job.';
revoke execute on function voice.old_baselines from public;

create function voice.delete_old_baseline(baseline_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not care.try_lock_patient((select baselines.patient_id from voice.baselines where baselines.id = delete_old_baseline.baseline_id::bigint)) then
        return false;
    end if;
    delete from voice.baselines
    where baselines.id = delete_old_baseline.baseline_id::bigint
        and baselines.superseded_at is not null
        and not exists (select from voice.charts where charts.anchor_id = baselines.id);
    return found;
end
$$;
comment on function voice.delete_old_baseline is 'Deletes a superseded baseline version. Returns whether it did. Called by care.run_job.';
revoke execute on function voice.delete_old_baseline from public;

-- 70_caregiver_views.sql

-- Views for caregivers: the state of each patient, and each patient's calls over time. All views run with the caller's privileges: on
-- a table in a private schema, a view shows the columns that are granted there, never a vector. Sort in the query (`order by
-- called_at desc limit 100`); the indexes support it.

create type public.patient_state as enum (
    'as_usual',             -- none of the following
    'changed',              -- a judgement was above low and has not been explained
    'not_assessable',       -- the last answered call could not be judged
    'collecting_baseline',  -- too few samples to rely on: scores count, but are marked as provisional
    'no_recent_call'        -- no answered call for too long
);
comment on type public.patient_state is
    'The state of a patient, as far as it is known. caregiver_patients.state gives the order of precedence.';

create view public.caregiver_patients
with (security_invoker = true)
as
select
    patients.id as patient_id,
    patients.name,
    coalesce(me.patient_known_as, patients.name) as known_as,
    me.role,
    patients.timezone,
    case
        when exists (select from public.alert_causes where alert_causes.id = any (alert.causes) and alert_causes.has_score)
            or (latest.severity > 'low' and (latest.created_at <= past_alerts.last_resolved_at) is not true)
            then 'changed'
        when coalesce(answered.last_at, patients.created_at)
            < now() - make_interval(days => coalesce(patients.silent_after_days, settings.recent_call_days))
            then 'no_recent_call'
        when (baselines.sample_count >= policies.baseline_minimum_samples) is not true then 'collecting_baseline'
        when unusable.last_at > coalesce(heard.last_at, '-infinity') then 'not_assessable'
        else 'as_usual'
    end::public.patient_state as state,
    (select max(call_logs."timestamp") from public.call_logs where call_logs.patient_id = patients.id) as last_call_at,
    latest.score as last_score,
    latest.occurred_at as last_scored_at,
    latest.severity,
    scores.mean_7_days as mean_score_7_days,
    scores.count_7_days as score_count_7_days,
    scores.mean_30_days as mean_score_30_days,
    scores.count_30_days as score_count_30_days,
    scores.mean_7_days - scores.mean_7_days_before as trend_7_days,
    scores.mean_30_days - scores.mean_30_days_before as trend_30_days,
    coalesce(baselines.sample_count, 0) as baseline_samples,
    case policies.rule when 'calibrated' then policies.calibrated_target_samples else policies.baseline_target_samples end
        as baseline_target_samples,
    (baselines.sample_count >= policies.baseline_minimum_samples) is not true as baseline_is_provisional,
    alert.id as alert_id,
    alert.level as alert_level,
    alert.state as alert_state,
    alert.opened_at as alert_opened_at
from public.patient_caregivers as me
join public.patients on patients.id = me.patient_id
join care.organisation_settings as settings on settings.organisation_id = patients.organisation_id
left join voice.policies on policies.encoder = (select voice.active_encoder())
left join voice.baselines
    on baselines.patient_id = patients.id and baselines.encoder = policies.encoder and baselines.superseded_at is null
left join public.caregiver_alerts as alert on alert.patient_id = patients.id and alert.resolved_at is null
left join lateral (
    select judgements.score, judgements.occurred_at, judgements.severity, judgements.created_at
    from public.judgements
    where judgements.patient_id = patients.id
    order by judgements.occurred_at desc
    limit 1
) as latest on true
cross join lateral (
    select max(caregiver_alerts.resolved_at) as last_resolved_at
    from public.caregiver_alerts
    where caregiver_alerts.patient_id = patients.id
) as past_alerts
left join lateral (
    select call_logs."timestamp" as last_at
    from public.call_logs
    where call_logs.patient_id = patients.id
        and (call_logs.check_reason in ('voicemail', 'not_answered', 'call_failed', 'ended_reason_unknown')) is not true
    order by call_logs."timestamp" desc
    limit 1
) as answered on true
cross join lateral (
    select max(call_logs."timestamp") as last_at
    from public.call_logs
    where call_logs.patient_id = patients.id and call_logs.is_heard
) as heard
cross join lateral (
    select max(call_logs."timestamp") as last_at
    from public.call_logs
    where call_logs.patient_id = patients.id
        and (call_logs.check_state = 'not_assessable' or call_logs.check_reason = 'nobody_spoke')
) as unusable
cross join lateral (
    select
        avg(recent.score) filter (where recent.occurred_at > now() - interval '7 days') as mean_7_days,
        count(*) filter (where recent.occurred_at > now() - interval '7 days') as count_7_days,
        avg(recent.score) filter (where recent.occurred_at > now() - interval '30 days') as mean_30_days,
        count(*) filter (where recent.occurred_at > now() - interval '30 days') as count_30_days,
        avg(recent.score) filter (
            where recent.occurred_at > now() - interval '14 days' and recent.occurred_at <= now() - interval '7 days'
        ) as mean_7_days_before,
        avg(recent.score) filter (where recent.occurred_at <= now() - interval '30 days') as mean_30_days_before
    from public.judgements as recent
    where recent.patient_id = patients.id
        and recent.model = policies.encoder
        and recent.occurred_at > now() - interval '60 days'
) as scores
where me.user_id = (select auth.uid());
comment on view public.caregiver_patients is 'For caregivers: the overview, one row for each patient of the signed-in caregiver.';
comment on column public.caregiver_patients.known_as is
    'The caregiver''s own name for the patient (patient_caregivers.patient_known_as), or else the patient''s name.';
comment on column public.caregiver_patients.role is 'What the caregiver may do for this patient.';
comment on column public.caregiver_patients.state is
    'The first of these that applies: changed (an unresolved alert with a judgement behind it, or a last score above low and no alert resolved since), no_recent_call (no answered call for silent_after_days, or else care.organisation_settings.recent_call_days; for a new patient, counted from the day of creation), collecting_baseline (no baseline yet, or a provisional one), not_assessable (the last answered call could not be judged), as_usual.';
comment on column public.caregiver_patients.last_call_at is 'When the last call began, answered or not.';
comment on column public.caregiver_patients.last_score is '0 = as usual, 1 = completely different. Null: no call was scored.';
comment on column public.caregiver_patients.last_scored_at is 'When the call with that score began.';
comment on column public.caregiver_patients.severity is 'The severity of the last score.';
comment on column public.caregiver_patients.mean_score_7_days is
    'Mean score of the calls of the last 7 days (7 x 24 hours), by the active encoder. Null: there were none.';
comment on column public.caregiver_patients.mean_score_30_days is
    'Mean score of the calls of the last 30 days, by the active encoder. Null: there were none.';
comment on column public.caregiver_patients.trend_7_days is
    'mean_score_7_days less the mean of the 7 days before. Above 0, the voice moves away from its baseline. Null if either has no score.';
comment on column public.caregiver_patients.trend_30_days is
    'mean_score_30_days less the mean of the 30 days before. Null if either has no score.';
comment on column public.caregiver_patients.baseline_samples is
    'The number of samples in the current baseline under the active encoder. 0: there is no baseline.';
comment on column public.caregiver_patients.baseline_is_provisional is
    'Whether there are too few samples, or none. Scores then count, but are marked as provisional.';
comment on column public.caregiver_patients.alert_id is 'The unresolved alert, of which there is at most one. Null: none.';
revoke all on public.caregiver_patients from anon, authenticated, service_role;
grant select on public.caregiver_patients to authenticated;

create view public.voice_timeline
with (security_invoker = true)
as
select
    call_logs.id as call_log_id,
    call_logs.patient_id,
    call_logs."timestamp" as called_at,
    call_logs."timestamp" at time zone patients.timezone as local_time,
    (extract(epoch from call_logs."timestamp" - (
        select max(earlier."timestamp")
        from public.call_logs as earlier
        where earlier.patient_id = call_logs.patient_id and earlier."timestamp" < call_logs."timestamp"
    )) / 86400)::double precision as days_since_previous,
    log.anomaly_score as score,
    log.raw_similarity as similarity,
    log.severity,
    log.verdict,
    log.rule,
    log.pace,
    judgements.is_urgent,
    judgements.reasons,
    judgements.explanation,
    case when judgements.likely_patient_id is not null then care.likely_speaker_name(judgements.id) end as likely_speaker,
    (newest_check.detail ->> 'snr_db')::double precision as snr_db,
    newest_check.quality,
    case
        when log.id is null then null
        when log.rule = 'calibrated' or log.is_provisional or baselines.spread_deviation is null then 0
        else greatest(0, baselines.spread_mean - 2 * baselines.spread_deviation)
    end as usual_from,
    case
        when log.rule = 'calibrated' or log.is_provisional or baselines.spread_deviation is null
            then (scoring_policies.policy ->> 'medium_above')::double precision
        else least(1, baselines.spread_mean + 2 * baselines.spread_deviation)
    end as usual_until,
    log.is_provisional,
    call_logs.check_state as outcome,
    call_logs.check_reason as reason,
    log.notes,
    log.id as log_id
from public.call_logs
join public.patients on patients.id = call_logs.patient_id
left join lateral (
    select *
    from public.voice_anomaly_logs
    where voice_anomaly_logs.call_log_id = call_logs.id
    order by voice_anomaly_logs.created_at desc
    limit 1
) as log on true
left join public.judgements on judgements.id = log.id
left join public.scoring_policies on scoring_policies.id = judgements.policy_id
left join voice.baselines on baselines.id = log.baseline_id
left join lateral (
    select checks.detail, checks.quality
    from care.checks
    where checks.call_log_id = call_logs.id and checks.signal = 'voice' and not checks.is_backfill
    order by checks.id desc
    limit 1
) as newest_check on true;
comment on view public.voice_timeline is
    'For caregivers: a patient''s calls over time, one row per call, judged or not. Filter by one patient_id and order by called_at.';
comment on column public.voice_timeline.called_at is 'When the call began.';
comment on column public.voice_timeline.local_time is 'The same time in the patient''s time zone.';
comment on column public.voice_timeline.days_since_previous is
    'Days, with their fraction, since the patient''s previous call began. Null: the first call.';
comment on column public.voice_timeline.score is
    '0 = as usual, 1 = completely different. Null: not scored; outcome and reason say why. The score is that of the encoder that judged the call last.';
comment on column public.voice_timeline.similarity is 'Cosine similarity of embedding and baseline, -1 .. 1.';
comment on column public.voice_timeline.verdict is 'as_usual, changed, or another_voice: it did not sound like this person.';
comment on column public.voice_timeline.rule is
    'calibrated: the score says how rare such a call is for this patient; fixed: how far it is from the baseline.';
comment on column public.voice_timeline.pace is 'Whether this call alone decided the score, or the calls of the last days together. Null: by the fixed rule.';
comment on column public.voice_timeline.is_urgent is 'Whether one such call more would make it an emergency.';
comment on column public.voice_timeline.reasons is 'What was unusual, strongest first. Empty: nothing is known.';
comment on column public.voice_timeline.explanation is 'Why the call was judged as it was, in English. Null: it was as usual, or by the fixed rule.';
comment on column public.voice_timeline.likely_speaker is
    'Who of the household spoke instead, if another voice sounded like that of another patient with the same phone number. Null: not known.';
comment on column public.voice_timeline.snr_db is 'Level of speech above the noise floor. Null: not known.';
comment on column public.voice_timeline.quality is
    'Further measures of the speech: windows, agreement (0 .. 1), clipped_share (0 .. 1), channel, features (how the patient spoke; null where the line does not allow it); never a vector.';
comment on column public.voice_timeline.usual_from is
    'Lower end of the scores that are usual for this patient: 0 by the calibrated rule; by the fixed one, spread_mean less two spread_deviations of the baseline version that judged the call, not below 0. 0 if that version was provisional or is deleted.';
comment on column public.voice_timeline.usual_until is
    'Upper end of the usual scores: medium_above by the calibrated rule; by the fixed one, spread_mean plus two spread_deviations. If the baseline version was provisional or is deleted, medium_above of the policy at that time. Severity follows the policy, never this range.';
comment on column public.voice_timeline.is_provisional is 'Whether the baseline that judged the call had too few samples.';
comment on column public.voice_timeline.outcome is 'The state or end of the call''s check. Null: none was requested.';
comment on column public.voice_timeline.reason is 'Why the check ended so.';
comment on column public.voice_timeline.notes is 'The caregivers'' notes: voice_anomaly_logs.notes of log_id.';
revoke all on public.voice_timeline from anon, authenticated, service_role;
grant select on public.voice_timeline to authenticated, service_role;

create view public.recent_anomaly_logs
with (security_invoker = true)
as
select
    logs.id,
    logs.patient_id,
    coalesce(me.patient_known_as, patients.name) as known_as,
    logs.call_log_id,
    logs."timestamp",
    logs.anomaly_score,
    logs.raw_similarity,
    logs.normalized_score,
    logs.snr,
    logs.severity,
    logs.verdict,
    logs.rule,
    logs.alert_type,
    logs.alert_sent,
    logs.noise_adjusted,
    logs.is_provisional,
    logs.notes,
    logs.created_at
from public.voice_anomaly_logs as logs
join public.patients on patients.id = logs.patient_id
left join public.patient_caregivers as me
    on me.patient_id = logs.patient_id and me.user_id = (select auth.uid())
where logs."timestamp" > now() - interval '30 days';
comment on view public.recent_anomaly_logs is
    'For caregivers: the scored calls of the last 30 days of all their patients, with columns as in voice_anomaly_logs. Newest first: `order by timestamp desc`.';
comment on column public.recent_anomaly_logs.known_as is 'The caregiver''s own name for the patient, or else the patient''s name.';
comment on column public.recent_anomaly_logs."timestamp" is 'When the call began.';
revoke all on public.recent_anomaly_logs from anon, authenticated, service_role;
grant select on public.recent_anomaly_logs to authenticated, service_role;

-- 71_alert_views.sql

-- Recent events: alerts with their history, and the tables published for live updates.

create view public.alert_history
with (security_invoker = true)
as
select
    alerts.id as alert_id,
    alerts.patient_id,
    coalesce(me.patient_known_as, patients.name) as known_as,
    alerts.level,
    alerts.state,
    alerts.cause,
    alerts.causes,
    alerts.anomaly_score,
    alerts.is_urgent,
    judgements.explanation,
    case when judgements.likely_patient_id is not null then care.likely_speaker_name(judgements.id) end as likely_speaker,
    alerts.judgement_id,
    alerts.call_log_id,
    alerts.opened_at,
    opening.cause as opening_cause,
    opening.judgement_id as opening_judgement_id,
    opening.call_log_id as opening_call_log_id,
    alerts.last_raised_at,
    alerts.repeat_count,
    alerts.acknowledged_at,
    care.caregiver_name(alerts.acknowledged_by) as acknowledged_by,
    alerts.snoozed_until,
    alerts.resolved_at,
    care.caregiver_name(alerts.resolved_by) as resolved_by,
    alerts.outcome,
    alerts.notes,
    history.change_count,
    latest.change as last_change,
    latest.changed_at as last_changed_at,
    care.caregiver_name(latest.caregiver_id) as last_changed_by
from public.caregiver_alerts as alerts
join public.patients on patients.id = alerts.patient_id
left join public.patient_caregivers as me
    on me.patient_id = alerts.patient_id and me.user_id = (select auth.uid())
left join public.judgements on judgements.id = alerts.judgement_id
left join lateral (
    select alert_changes.cause, alert_changes.judgement_id, alert_changes.call_log_id
    from public.alert_changes
    where alert_changes.alert_id = alerts.id and alert_changes.change = 'opened'
    order by alert_changes.changed_at
    limit 1
) as opening on true
left join lateral (
    select alert_changes.change, alert_changes.changed_at, alert_changes.caregiver_id
    from public.alert_changes
    where alert_changes.alert_id = alerts.id
    order by alert_changes.changed_at desc, alert_changes.change desc
    limit 1
) as latest on true
cross join lateral (
    select count(*) as change_count
    from public.alert_changes
    where alert_changes.alert_id = alerts.id
) as history;
comment on view public.alert_history is
    'For caregivers: inbox and history, one row per alert. Unresolved first: `order by resolved_at desc nulls first, level desc, opened_at desc`.';
comment on column public.alert_history.known_as is 'The caregiver''s own name for the patient, or else the patient''s name.';
comment on column public.alert_history.cause is 'The cause of the last sign of which caregivers were notified; causes has all of them.';
comment on column public.alert_history.anomaly_score is
    'The highest score of the episode, 0 .. 1, that of judgement_id and call_log_id. Null: nothing was judged.';
comment on column public.alert_history.is_urgent is 'Whether a single call was very unlike usual: a second such call makes it an emergency.';
comment on column public.alert_history.explanation is 'Why the call with that score was judged so, in English. Null: the score says it all.';
comment on column public.alert_history.likely_speaker is
    'Who of the household seems to have spoken on the call with that score. Null: the patient, or not known.';
comment on column public.alert_history.opening_cause is 'The cause of the first sign.';
comment on column public.alert_history.opening_judgement_id is 'The judgement of the first sign. Null: that sign was not a score.';
comment on column public.alert_history.repeat_count is 'How many further signs there were.';
comment on column public.alert_history.acknowledged_by is 'The caregiver''s name. Null: nobody, or somebody who is no longer a caregiver.';
comment on column public.alert_history.resolved_by is
    'The caregiver''s name. Null: nobody, a rule, or somebody who is no longer a caregiver.';
comment on column public.alert_history.change_count is 'The number of rows in alert_changes, which has the details of each change.';
comment on column public.alert_history.last_changed_by is 'The caregiver''s name. Null: a rule or an operator made the change.';
revoke all on public.alert_history from anon, authenticated, service_role;
grant select on public.alert_history to authenticated, service_role;

create function care.publish_live_updates()
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    live record;
    published integer := 0;
begin
    for live in
        select tables.name, tables.columns
        from (values
            ('patients', ''),
            -- Only columns that caregivers may read: updates never contain the URL of a recording.
            ('call_logs', '(id, patient_id, "timestamp", summary, source, provider, ended_reason, recording_channel,'
                ' check_state, check_reason, anomaly_score, created_at)'),
            ('judgements', ''), ('voice_anomaly_logs', ''), ('caregiver_alerts', ''), ('alert_changes', ''), ('health_flags', ''),
            ('daily_checkins', '')
        ) as tables (name, columns)
        join pg_catalog.pg_publication as publication on publication.pubname = 'supabase_realtime'
        where not exists (
            select from pg_catalog.pg_publication_tables
            where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = tables.name
        )
        -- If an adopted table has no primary key on id, it could no longer be updated once it is published.
        and exists (
            select from pg_catalog.pg_index
            join pg_catalog.pg_attribute on attrelid = indrelid and attnum = indkey[0]
            where indrelid = to_regclass('public.' || tables.name) and indisprimary and indnkeyatts = 1 and attname = 'id'
        )
    loop
        execute format('alter publication supabase_realtime add table public.%I %s', live.name, live.columns);
        published := published + 1;
    end loop;
    return published;
exception when insufficient_privilege then
    raise notice 'Only the owner of supabase_realtime can switch on live updates: %', sqlerrm;
    return 0;
end
$$;
comment on function care.publish_live_updates is
    'Adds the tables behind the views to Supabase''s live updates, if these exist, and returns how many were added. Called here, and by an operator who enables live updates later.';
revoke execute on function care.publish_live_updates from public;

select care.publish_live_updates();

-- 90_wake_up.sql

-- Wake-up: with pg_net and Vault, new work wakes the service or edge function that processes it. Nothing depends on wake-ups: the
-- work is already a row, and is found by polling. An error here is therefore only a warning.
--
--     select vault.create_secret('https://voice.example.org', 'python_service_url');
--     select vault.create_secret('the service''s key', 'retrocare_api_key');
--     select vault.create_secret('https://<project>.supabase.co/functions/v1', 'retrocare_functions_url');
--     select vault.create_secret('the functions'' key', 'retrocare_functions_key');

create function care.wake_up(target text, body jsonb)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    is_service constant boolean := wake_up.target = 'wake';
    -- Once per transaction: deleting a thousand recordings sends one wake-up.
    woken constant text := 'retrocare.woken_' || replace(wake_up.target, '-', '_');
    url text;
    key text;
begin
    if current_setting(woken, true) = 'yes' then
        return;
    end if;
    perform set_config(woken, 'yes', true);
    if to_regclass('vault.decrypted_secrets') is null
        or not exists (
            select from pg_catalog.pg_proc where proname = 'http_post' and pronamespace = to_regnamespace('net')
        )
    then
        return;
    end if;
    execute 'select max(decrypted_secret) filter (where name = $1), max(decrypted_secret) filter (where name = $2)
             from vault.decrypted_secrets'
    into url, key
    using
        case when is_service then 'python_service_url' else 'retrocare_functions_url' end,
        case when is_service then 'retrocare_api_key' else 'retrocare_functions_key' end;
    if url is not null then
        execute 'select net.http_post(url := $1, body := $2, headers := $3, timeout_milliseconds := 2000)'
        using
            rtrim(url, '/') || '/' || wake_up.target,
            wake_up.body,
            jsonb_build_object('Content-Type', 'application/json', 'Authorization', 'Bearer ' || coalesce(key, ''));
    end if;
exception when others then
    raise warning 'The wake-up failed: %', sqlerrm;
end
$$;
comment on function care.wake_up is
    'Wakes the service (target wake) or an edge function (by its name), if pg_net exists and Vault contains its URL.';
revoke execute on function care.wake_up from public;

create function care.on_new_work()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform care.wake_up(tg_argv[0], '{}');
    return null;
end
$$;
comment on function care.on_new_work is
    'Trigger: wakes the target that is the trigger''s argument. Security definer: roles that write calls may not read secrets.';
revoke execute on function care.on_new_work from public;

-- 91_jobs.sql

-- Jobs: work that becomes due as time passes. A job lists what is due and processes it row by row. Each run of a job is a transaction
-- of its own, and urgent jobs come before housekeeping. A row that fails is retried later and becomes an operator issue; it blocks
-- neither other rows nor other jobs. Jobs may be run by several callers at any time: pg_cron where it exists, `retrocare start`, an
-- operator.

create table care.jobs (
    id text constraint jobs_pkey primary key,
    position integer not null constraint jobs_have_an_order unique,
    due_function text not null
        constraint what_is_due_is_listed_by_a_function check (due_function ~ '^[a-z_]+[.][a-z0-9_]+$'),
    step_function text not null
        constraint what_is_due_is_done_by_a_function check (step_function ~ '^[a-z_]+[.][a-z0-9_]+$'),
    every_minutes integer not null
        constraint a_job_is_run_once_an_hour_at_least check (every_minutes between 1 and 60),
    maximum_rows integer not null default 500
        constraint a_job_is_done_in_batches check (maximum_rows between 1 and 10000),
    maximum_seconds double precision not null default 2
        constraint a_job_lets_others_have_their_turn check (maximum_seconds > 0 and maximum_seconds <= 60),
    is_audited boolean not null default false,
    last_succeeded_at timestamptz not null default now()
);
alter table care.jobs enable row level security;
comment on table care.jobs is
    'Work that becomes due by time, most urgent first. due_function lists what is due, step_function processes one item.';
comment on column care.jobs.due_function is
    'Schema-qualified name. The function takes (at, maximum_rows) and returns what is due, each item as text. It is not stored as regproc, because pg_upgrade refuses tables with regproc columns.';
comment on column care.jobs.step_function is
    'Schema-qualified name. The function takes (item, at), processes the item, and returns whether there was something to do. It never waits for the lock on a patient.';
comment on column care.jobs.every_minutes is 'How often the job is due. 1: on every run of due jobs, once a minute with pg_cron.';
comment on column care.jobs.maximum_seconds is 'A run ends after this time; the next run continues.';
comment on column care.jobs.last_succeeded_at is 'When the job last completed a run, whether or not single rows failed.';
comment on column care.jobs.is_audited is 'Whether the number of processed rows is noted in the audit log.';
insert into care.jobs (id, position, due_function, step_function, every_minutes) values
    ('advance_alerts', 10, 'care.alerts_to_advance', 'care.advance_alert', 1),
    ('cancel_deliveries', 20, 'care.deliveries_to_cancel', 'care.cancel_delivery', 1),
    ('note_silences', 30, 'care.silences_to_note', 'care.note_silence', 1),
    ('end_silences', 40, 'care.silences_to_end', 'care.end_silence', 1),
    ('expire_recordings', 50, 'care.recordings_to_expire', 'care.expire_recording', 1),
    ('redecide_calls', 60, 'care.calls_to_redecide', 'care.redecide_call', 1),
    ('match_calls', 70, 'care.calls_to_match', 'care.match_call', 1),
    ('reassign_checks', 80, 'care.checks_to_reassign', 'care.reassign_check', 1),
    ('delete_old_recordings', 110, 'care.old_recordings', 'care.delete_old_recording', 10),
    ('delete_old_voiceprints', 120, 'voice.old_voiceprints', 'voice.delete_old_voiceprint', 10),
    ('delete_old_baselines', 130, 'voice.old_baselines', 'voice.delete_old_baseline', 10),
    ('delete_old_unmatched_calls', 140, 'care.old_unmatched_calls', 'care.delete_old_unmatched_call', 10),
    ('delete_old_errors', 150, 'care.old_errors', 'care.delete_old_error', 10),
    ('delete_old_deliveries', 160, 'care.old_deliveries', 'care.delete_old_delivery', 10),
    ('delete_old_idempotency_keys', 170, 'care.old_idempotency_keys', 'care.delete_old_idempotency_key', 10);
update care.jobs set is_audited = true where jobs.id like 'delete\_old\_%' and jobs.id <> 'delete_old_idempotency_keys';

create table care.job_failures (
    job text not null
        constraint a_failure_is_of_a_job references care.jobs (id) on delete cascade,
    subject text not null,
    code text not null,
    message text not null,
    attempts integer not null default 1,
    run_at timestamptz not null,
    first_failed_at timestamptz not null,
    last_failed_at timestamptz not null,
    constraint job_failures_pkey primary key (job, subject)
);
alter table care.job_failures enable row level security;
comment on table care.job_failures is 'What a job could not process, until it succeeds. These are operator issues.';
comment on column care.job_failures.subject is 'The item as due_function returned it. Empty: the list itself failed.';
comment on column care.job_failures.code is 'The SQLSTATE.';
comment on column care.job_failures.run_at is 'It is not retried before this time.';

create function care.note_job_failure(job text, subject text, code text, message text, at timestamptz)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into care.job_failures as failure (job, subject, code, message, run_at, first_failed_at, last_failed_at)
    values (
        note_job_failure.job, note_job_failure.subject, note_job_failure.code, left(note_job_failure.message, 500),
        note_job_failure.at + care.retry_wait(1), note_job_failure.at, note_job_failure.at
    )
    on conflict (job, subject) do update
    set code = excluded.code,
        message = excluded.message,
        attempts = failure.attempts + 1,
        run_at = excluded.last_failed_at + care.retry_wait(failure.attempts + 1),
        last_failed_at = excluded.last_failed_at
$$;
comment on function care.note_job_failure is
    'Notes the failure of a job''s item, which is retried with exponential backoff. Called by care.run_job.';
revoke execute on function care.note_job_failure from public;

create function care.run_job(job text, at timestamptz default now())
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
declare
    listed text[];
    due text[];
    most integer;
    item text;
    was_due boolean;
    done integer := 0;
    running care.jobs;
    begun_at constant timestamptz := clock_timestamp();
begin
    select jobs.* into running from care.jobs where jobs.id = run_job.job;
    if not found then
        raise exception using
            errcode = 'PT404',
            message = format('There is no job %s', run_job.job),
            hint = 'Jobs are rows of care.jobs.';
    end if;
    if not pg_try_advisory_xact_lock(hashtext('care.run_job'), hashtext(running.id)) then
        return null;
    end if;
    begin
        -- Items that wait for a retry must not displace others that are due.
        most := running.maximum_rows + (select count(*) from care.job_failures where job_failures.job = running.id);
        execute format('select array(select %s($1, $2))', running.due_function) into listed using run_job.at, most;
        delete from care.job_failures
        where job_failures.job = running.id
            and (job_failures.subject = '' or (cardinality(listed) < most and job_failures.subject <> all (listed)));
        due := array(
            select subject
            from unnest(listed) with ordinality as found (subject, turn)
            where not exists (
                select from care.job_failures
                where job_failures.job = running.id and job_failures.subject = found.subject and job_failures.run_at > run_job.at
            )
            order by turn
            limit running.maximum_rows
        );
    exception when others then
        perform care.note_job_failure(running.id, '', sqlstate, sqlerrm, run_job.at);
        return -1;
    end;
    foreach item in array due loop
        begin
            execute format('select %s($1, $2)', running.step_function) into was_due using item, run_job.at;
            done := done + was_due::integer;
            delete from care.job_failures where job_failures.job = running.id and job_failures.subject = item;
        exception
            when query_canceled then
                -- The statement timed out in this item, so the other items are left to the next run.
                perform care.note_job_failure(running.id, item, sqlstate, sqlerrm, run_job.at);
                exit;
            when others then
                perform care.note_job_failure(running.id, item, sqlstate, sqlerrm, run_job.at);
        end;
        exit when clock_timestamp() > begun_at + make_interval(secs => running.maximum_seconds);
    end loop;
    if done > 0 and running.is_audited then
        perform care.note_audit('retention_enforced', running.id, null, jsonb_build_object('rows', done));
    end if;
    update care.jobs set last_succeeded_at = clock_timestamp() where jobs.id = running.id;
    return done;
end
$$;
comment on function care.run_job is
    'Processes what is due of one job, up to its maximum_rows and maximum_seconds. Returns how many items; -1 if they could not be listed; null if another run of the job is in progress. Raises PT404. Security definer: callers have no privileges on tables. Called by pg_cron, `retrocare start` and public.run_job.';
revoke execute on function care.run_job from public;
grant execute on function care.run_job to retrocare_service;

create function care.due_jobs(at timestamptz default now())
returns setof text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select jobs.id
    from care.jobs
    where jobs.every_minutes = 1 or jobs.last_succeeded_at <= due_jobs.at - make_interval(mins => jobs.every_minutes)
    order by jobs.position
$$;
comment on function care.due_jobs is
    'Returns the jobs that are due, in the order in which to run them. Security definer: the service has no privileges on tables. Called by `retrocare start`.';
revoke execute on function care.due_jobs from public;
grant execute on function care.due_jobs to retrocare_service;

create function care.due_work(at timestamptz default now())
returns table (recordings bigint, deliveries bigint, deletions bigint)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        select
            (select count(*) from care.recordings where recordings.due_at <= due_work.at),
            care.due_receipts(due_work.at) + (select count(*) from care.deliveries where deliveries.due_at <= due_work.at),
            (select count(*) from care.deletions where deletions.due_at <= due_work.at);
end
$$;
comment on function care.due_work is
    'Returns how much work is due for each edge function. Security definer: the service has no privileges on tables. Called by `retrocare start`.';
revoke execute on function care.due_work from public;
grant execute on function care.due_work to retrocare_service;

create function care.wake_functions()
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    due record;
begin
    select due_work.* into due from care.due_work(now()) as due_work;
    if due.recordings > 0 then
        perform care.wake_up('collect-recordings', '{}');
    end if;
    if due.deliveries > 0 then
        perform care.wake_up('notify-caregiver', '{}');
    end if;
    if due.deletions > 0 then
        perform care.wake_up('delete-recordings', '{}');
    end if;
end
$$;
comment on function care.wake_functions is
    'Wakes the edge functions for which work is due, such as retries, which no trigger announces. Called by pg_cron every minute.';
revoke execute on function care.wake_functions from public;

-- If pg_cron exists, it runs each job, and has calls reconciled with the providers every five minutes. Otherwise `retrocare start`
-- does both.
create function care.schedule_jobs()
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    job record;
begin
    if to_regprocedure('cron.schedule(text, text, text)') is null then
        return false;
    end if;
    for job in select jobs.id, jobs.every_minutes from care.jobs loop
        execute 'select cron.schedule($1, $2, $3)'
        using
            'retrocare-' || replace(job.id, '_', '-'),
            case job.every_minutes when 1 then '* * * * *' else format('*/%s * * * *', job.every_minutes) end,
            format('select care.run_job(%L)', job.id);
    end loop;
    execute 'select cron.schedule($1, $2, $3)'
    using 'retrocare-wake-functions', '* * * * *', 'select care.wake_functions()';
    execute 'select cron.schedule($1, $2, $3)'
    using 'retrocare-reconcile-calls', '*/5 * * * *', 'select care.wake_up(''collect-recordings'', ''{"reconcile": true}'')';
    return true;
end
$$;
comment on function care.schedule_jobs is
    'Schedules the jobs with pg_cron. Returns false if pg_cron does not exist. Called here, and by an operator who enables pg_cron later.';
revoke execute on function care.schedule_jobs from public;

select care.schedule_jobs();

-- 92_operations.sql

-- Operations: what an operator can see: patients, the set-up, and operator issues.

create function care.patient_list()
returns table (
    id uuid,
    name text,
    timezone text,
    voice_consent_at timestamptz,
    open_flags text[],
    sample_count integer,
    is_provisional boolean,
    last_call_at timestamptz,
    last_anomaly_score double precision,
    alert_level public.alert_level
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        patients.id,
        patients.name,
        patients.timezone,
        patients.voice_consent_at,
        patients.flags || array(
            select health_flags.flag
            from public.health_flags
            where health_flags.patient_id = patients.id
                and health_flags.started_at <= now()
                and (health_flags.resolved_at is null or health_flags.resolved_at > now())
            order by health_flags.started_at
        ),
        baseline.sample_count,
        baseline.is_provisional,
        (select max(call_logs."timestamp") from public.call_logs where call_logs.patient_id = patients.id),
        last_log.anomaly_score,
        alert.level
    from public.patients
    left join public.patient_voice_baseline as baseline
        on baseline.patient_id = patients.id and baseline.encoder = voice.active_encoder()
    left join lateral (
        select voice_anomaly_logs.anomaly_score
        from public.voice_anomaly_logs
        where voice_anomaly_logs.patient_id = patients.id
        order by voice_anomaly_logs."timestamp" desc
        limit 1
    ) as last_log on true
    left join public.caregiver_alerts as alert on alert.patient_id = patients.id and alert.resolved_at is null
    order by patients.created_at, patients.id
$$;
comment on function care.patient_list is 'Returns one row per patient for the operator. Called by `retrocare patient list`.';
revoke execute on function care.patient_list from public;
grant execute on function care.patient_list to retrocare_service;

create function care.row_counts(patient_id uuid)
returns table (relation text, row_count bigint, detail text)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select 'public.call_logs', count(*), string_agg(distinct check_state::text, ', ' order by check_state::text)
    from public.call_logs where call_logs.patient_id = row_counts.patient_id
    union all
    select 'voice.embeddings', count(*), 'vectors of ' || max(embeddings.dimension) || ' dimensions'
    from voice.embeddings where embeddings.patient_id = row_counts.patient_id
    union all
    select 'voice.baselines', count(*), 'versions; the current one has '
        || max(baselines.sample_count) filter (where superseded_at is null) || ' samples'
    from voice.baselines where baselines.patient_id = row_counts.patient_id
    union all
    select 'public.voice_anomaly_logs', count(*), string_agg(distinct severity::text, ', ' order by severity::text)
    from public.voice_anomaly_logs where voice_anomaly_logs.patient_id = row_counts.patient_id
    union all
    select 'public.daily_checkins', count(*), 'worst day ' || round(max(anomaly_score)::numeric, 2)
    from public.daily_checkins where daily_checkins.patient_id = row_counts.patient_id
    union all
    select 'public.caregiver_alerts', count(*), string_agg(level || ', ' || state || ', repeated ' || repeat_count, '; ')
    from public.caregiver_alerts where caregiver_alerts.patient_id = row_counts.patient_id
$$;
comment on function care.row_counts is 'Returns the number of rows about one patient in each table. Called by `retrocare demo`.';
revoke execute on function care.row_counts from public;
grant execute on function care.row_counts to retrocare_service;

create function care.call_measures(call_log_id uuid)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select checks.quality
    from care.checks
    where checks.call_log_id = call_measures.call_log_id and checks.signal = 'voice' and not checks.is_backfill
    order by checks.id desc
    limit 1
$$;
comment on function care.call_measures is
    'Returns the measures of a call''s recording. Null: there are none. Security definer: the service has no privileges on tables. Called by `retrocare check`.';
revoke execute on function care.call_measures from public;
grant execute on function care.call_measures to retrocare_service;

create function care.setup_report()
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return jsonb_build_object(
        'active_encoder', voice.active_encoder(),
        'rule', (select policies.rule from voice.policies where policies.encoder = voice.active_encoder()),
        'calibration_id', (select policies.calibration_id from voice.policies where policies.encoder = voice.active_encoder()),
        'channels', (
            select coalesce(jsonb_agg(delivery_channels.id order by delivery_channels.id), '[]')
            from care.delivery_channels
            where delivery_channels.is_enabled
        ),
        'standing_keys', (select count(*) from care.api_keys where api_keys.revoked_at is null),
        'patients', (select count(*) from public.patients where patients.voice_consent_at is not null),
        'patients_without_reachable_caregiver', (
            select count(*)
            from public.patients
            where patients.voice_consent_at is not null
                and not exists (
                    select
                    from public.patient_caregivers
                    cross join lateral care.caregiver_addresses(patient_caregivers)
                    where patient_caregivers.patient_id = patients.id
                )
        )
    );
end
$$;
comment on function care.setup_report is
    'Returns what is set up: the active encoder with its rule and calibration, enabled channels, keys, and patients with no caregiver who can be notified. Counts only patients with consent. Security definer: the service has no privileges on tables. Called by `retrocare doctor`.';
revoke execute on function care.setup_report from public;
grant execute on function care.setup_report to retrocare_service;

create type public.operator_issue_kind as enum (
    'unmatched_call',           -- a report matches no patient: set that phone number or id on the patient
    'unknown_ended_reason',     -- no row of care.ended_reasons matches how calls ended: add one
    'recording_delayed',        -- copying a recording failed, and is retried
    'recording_lost',           -- the recording expired at the provider, or cannot be used
    'check_dead',               -- a check failed permanently: `retrocare checks --requeue`
    'backfill_dead',            -- a backfill could not embed recordings: requeue them as for check_dead, or leave them
    'delivery_delayed',         -- sending a message to a caregiver failed, and is retried
    'delivery_dead',            -- a message to a caregiver will not be sent
    'alert_untold',             -- no caregiver was notified, and none can be: give a caregiver an address
    'alert_unanswered',         -- all reminders of the policy were sent, and nobody has responded
    'recordings_unusable',      -- several calls in a row were not judged: recordings cannot be decoded or channels told apart (ask the provider), or
                                -- the patient is flagged as unwell and has no baseline (end the flag)
    'deletion_delayed',         -- deleting a copy of erased data failed, and is retried: functions/delete-recordings logs why
    'job_failed',               -- a job could not process an item or list what is due, and retries
    'jobs_late'                 -- jobs have not completed a run for long: `retrocare start` or pg_cron runs them
);
comment on type public.operator_issue_kind is 'What an operator must attend to.';

create function care.operator_issues()
returns table (
    kind public.operator_issue_kind,
    patient_id uuid,
    call_log_id uuid,
    alert_id uuid,
    subject text,
    code text,
    detail text,
    occurred_at timestamptz
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select 'unmatched_call'::public.operator_issue_kind, null::uuid, null::uuid, null::uuid,
        unmatched_calls.provider_account || ' ' || unmatched_calls.provider_call_id,
        case when unmatched_calls.phone is null and unmatched_calls.report ->> 'patient_id' is null then 'names_nobody'
            when (
                select count(*)
                from public.patients
                join care.provider_accounts on provider_accounts.organisation_id = patients.organisation_id
                where patients.phone = unmatched_calls.phone and provider_accounts.id = unmatched_calls.provider_account
            ) > 1 then 'number_of_several'
            else 'patient_unknown' end,
        null, unmatched_calls.received_at
    from care.unmatched_calls
    union all
    select 'unknown_ended_reason', null, null, null, concat_ws(' ', call_logs.provider, call_logs.ended_reason), 'ended_reason_unknown',
        count(*) || ' calls', max(call_logs."timestamp")
    from public.call_logs
    where call_logs.check_reason = 'ended_reason_unknown'
    group by call_logs.provider, call_logs.ended_reason
    union all
    select
        case recordings.state when 'queued' then 'recording_delayed' else 'recording_lost' end::public.operator_issue_kind,
        recordings.patient_id, recordings.call_log_id, null,
        call_logs.provider_account || ' ' || call_logs.provider_call_id,
        coalesce(recordings.error_code, recordings.state::text), recordings.error_message,
        coalesce(recordings.finished_at, recordings.run_at)
    from care.recordings
    join public.call_logs on call_logs.id = recordings.call_log_id
    where recordings.state in ('expired', 'refused') or (recordings.state = 'queued' and recordings.error_code is not null)
    union all
    select 'check_dead', checks.patient_id, checks.call_log_id, null, 'check ' || checks.id, checks.reason::text,
        (select check_errors.message from care.check_errors where check_errors.check_id = checks.id order by check_errors.id desc limit 1),
        checks.finished_at
    from care.checks
    where checks.state = 'dead'
        and not checks.is_backfill
        and not exists (
            select from care.checks as newer
            where newer.call_log_id = checks.call_log_id
                and newer.signal = checks.signal
                and newer.id > checks.id
                and not newer.is_backfill
        )
    union all
    select 'backfill_dead', null, null, null, checks.model, 'backfill_dead', count(*) || ' recordings', max(checks.finished_at)
    from care.checks
    where checks.state = 'dead' and checks.is_backfill
    group by checks.model
    union all
    select
        case deliveries.state when 'queued' then 'delivery_delayed' else 'delivery_dead' end::public.operator_issue_kind,
        caregiver_alerts.patient_id, null, deliveries.alert_id, deliveries.channel || ' ' || deliveries.id,
        deliveries.error_code, deliveries.error_message, coalesce(deliveries.finished_at, deliveries.run_at)
    from care.deliveries
    join public.caregiver_alerts on caregiver_alerts.id = deliveries.alert_id
    where deliveries.state = 'dead' or (deliveries.state = 'queued' and deliveries.error_code is not null)
    union all
    select 'alert_untold', caregiver_alerts.patient_id, null, caregiver_alerts.id, caregiver_alerts.level::text,
        'nobody_reachable', null, caregiver_alerts.opened_at
    from public.caregiver_alerts
    where caregiver_alerts.state in ('open', 'escalated')
        and not exists (
            select from care.deliveries
            where deliveries.alert_id = caregiver_alerts.id and deliveries.state in ('queued', 'leased', 'accepted')
        )
    union all
    select 'alert_unanswered', caregiver_alerts.patient_id, null, caregiver_alerts.id, caregiver_alerts.level::text,
        'nobody_answers', caregiver_alerts.reminder_count || ' reminders', caregiver_alerts.last_raised_at
    from public.caregiver_alerts
    join care.alert_policies on alert_policies.level = caregiver_alerts.level
    where caregiver_alerts.state = 'escalated' and caregiver_alerts.reminder_count >= alert_policies.maximum_reminders
    union all
    select 'recordings_unusable', unusable.patient_id, null, null, 'patient ' || unusable.patient_id, unusable.reason,
        unusable.call_count || ' calls', unusable.last_at
    from (
        select call_logs.patient_id, count(*) as call_count, max(call_logs."timestamp") as last_at,
            (array_agg(call_logs.check_reason order by call_logs."timestamp" desc))[1]::text as reason
        from public.call_logs
        where (call_logs.check_state = 'held'
                or (call_logs.check_state = 'not_assessable' and not call_logs.is_unheard))
            and not exists (
                select from public.call_logs as later
                where later.patient_id = call_logs.patient_id
                    and later."timestamp" > call_logs."timestamp"
                    and later.check_state in ('scored', 'enrolled')
            )
        group by call_logs.patient_id
    ) as unusable
    where unusable.call_count >= (care.settings_of(unusable.patient_id)).unusable_calls_in_a_row
    union all
    select 'deletion_delayed', deletions.patient_id, null, null, deletions.kind || ' ' || deletions.id, deletions.error_code,
        deletions.attempts || ' attempts', deletions.created_at
    from care.deletions
    where deletions.state <> 'done' and deletions.error_code is not null and deletions.attempts >= 3
    union all
    select 'job_failed', null, null, null, rtrim(job_failures.job || ' ' || job_failures.subject), job_failures.code,
        job_failures.message, job_failures.last_failed_at
    from care.job_failures
    union all
    select 'jobs_late', null, null, null, string_agg(jobs.id, ', ' order by jobs.position), 'jobs_late',
        count(*) || ' jobs', min(jobs.last_succeeded_at)
    from care.jobs
    where jobs.last_succeeded_at < now() - make_interval(mins => 15 + 3 * jobs.every_minutes)
    having count(*) > 0
$$;
comment on function care.operator_issues is
    'Returns all operator issues. Security definer: callers have no privileges on tables. Called by public.operator_issues and `retrocare issues`.';
revoke execute on function care.operator_issues from public;
grant execute on function care.operator_issues to retrocare_service, service_role;

create view public.operator_issues
with (security_invoker = true)
as
select operator_issues.kind, operator_issues.patient_id, operator_issues.call_log_id, operator_issues.alert_id, operator_issues.subject, operator_issues.code,
    operator_issues.detail, operator_issues.occurred_at
from care.operator_issues() as operator_issues;
comment on view public.operator_issues is
    'For operators (service_role): everything that needs their attention, one row each. operator_issue_kind says what to do.';
comment on column public.operator_issues.subject is
    'What the issue is about: a call of the provider, an ended reason, a check, a delivery, an alert level.';
revoke all on public.operator_issues from anon, authenticated, service_role;
grant select on public.operator_issues to service_role;

-- 95_api.sql

-- The API: the functions that caregivers, edge functions and integrators call over the Data API.

create function care.expose(private_function regproc, roles text[], comment text, unpublished_arguments text[] default '{}')
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    published pg_catalog.pg_proc;
    signature text;
    arguments text;
    passed text;
begin
    select pg_proc.* into strict published from pg_catalog.pg_proc where pg_proc.oid = expose.private_function;
    select
        string_agg(format('%I %s', argument.name, format_type(argument.type, null)), ', ' order by argument.position),
        string_agg(
            format('%I %s', argument.name, format_type(argument.type, null))
                || coalesce(' default ' || pg_get_function_arg_default(published.oid, argument.position::integer), ''),
            ', ' order by argument.position),
        string_agg(format('%1$I => %2$I.%1$I', argument.name, published.proname), ', ' order by argument.position)
    into signature, arguments, passed
    from unnest(published.proargnames, published.proargtypes::oid[]) with ordinality as argument (name, type, position)
    where argument.type is not null and argument.name <> all (expose.unpublished_arguments);
    -- A `begin atomic` body is bound when the function is created, so callers need no USAGE on the private schema.
    execute format(
        'create function public.%I(%s) returns %s language sql %s set search_path = pg_catalog, pg_temp begin atomic select %s(%s); end',
        published.proname,
        arguments,
        pg_get_function_result(published.oid),
        case published.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
        published.oid::regproc,
        passed);
    signature := format('public.%I(%s)', published.proname, signature);
    execute format('comment on function %s is %L', signature, expose.comment);
    execute format('revoke execute on function %s from public, anon, authenticated, service_role', signature);
    execute format(
        'grant execute on function %s, %s to %s',
        signature, published.oid::regprocedure, (select string_agg(format('%I', role), ', ') from unnest(expose.roles) as role));
end
$$;
comment on function care.expose is
    'Creates a public function that calls this private one, with the same name, arguments, defaults, result and volatility. Only these roles may execute it, and they may then execute the private one too. Unpublished arguments keep their defaults. Called by these files.';
revoke execute on function care.expose from public;

select care.expose(
    'care.upsert_call', '{service_role}',
    'For integrators (service_role): writes a call of a phone provider, with its recording if known. If the call is written again, missing values are added. Returns its id. Raises PT400, PT409, RV002, RV006, RV008.');

select care.expose(
    'care.acknowledge_alert', '{authenticated,service_role}',
    'For caregivers, and service_role for the care team: acknowledges an alert. Reminders stop for the hours that care.alert_policies allows at this level, and the other notified caregivers are informed. Raises PT403, PT404, PT409.',
    '{at,operator}');

select care.expose(
    'care.snooze_alert', '{authenticated}',
    'For caregivers: snoozes an alert, within the minutes and hours that care.alert_policies allows at this level. Raises PT400, PT403, PT404, PT409.',
    '{at}');

select care.expose(
    'care.resolve_alert', '{authenticated,service_role}',
    'For caregivers, and service_role for the care team: resolves an alert with its outcome. The outcome ill also adds a health flag. Raises PT400, PT403, PT404, PT409.',
    '{at,operator}');

select care.expose(
    'care.claim_receipts', '{service_role}',
    'For functions/notify-caregiver (service_role): claims messages whose receipt is due.');

select care.expose(
    'care.finish_receipt', '{service_role}',
    'For functions/notify-caregiver (service_role): notes whether a message was delivered. Returns its state.');

select care.expose(
    'care.receive_call_report', '{service_role}',
    'For functions/call-webhook and reconciliation (service_role): stores the report of a finished call; reports may be repeated. Raises PT400.');

select care.expose(
    'care.unreported_calls', '{service_role}',
    'For functions/collect-recordings (service_role): returns those of these calls that were never reported.');

select care.expose(
    'care.reconcile_since', '{service_role}',
    'For functions/collect-recordings (service_role): returns the time since which the provider''s updated calls must be listed.');

select care.expose(
    'care.finish_reconciliation', '{service_role}',
    'For functions/collect-recordings (service_role): notes that all calls last updated before until have been listed.');

select care.expose(
    'care.claim_recordings', '{service_role}',
    'For functions/collect-recordings (service_role): claims recordings that are due.');

select care.expose(
    'care.store_recording', '{service_role}',
    'For functions/collect-recordings (service_role): notes that a recording is in Storage. False: the lease is lost.');

select care.expose(
    'care.fail_recording', '{service_role}',
    'For functions/collect-recordings (service_role): notes why a recording could not be copied. Returns its state.');

select care.expose(
    'care.claim_deliveries', '{service_role}',
    'For functions/notify-caregiver (service_role): claims messages that are due.');

select care.expose(
    'care.finish_delivery', '{service_role}',
    'For functions/notify-caregiver (service_role): notes that a provider has accepted the message. False: the lease is lost.');

select care.expose(
    'care.fail_delivery', '{service_role}',
    'For functions/notify-caregiver (service_role): notes why a message was not accepted. Returns its state.');

select care.expose(
    'care.run_job', '{service_role}',
    'For operators (service_role): processes what is due of one job of care.jobs. Returns how many items; -1 if it failed; null if another run is in progress. Raises PT404.');

select care.expose(
    'voice.match_voices', '{service_role}',
    'For operators (service_role): returns the patients whose current baselines are most similar to this embedding. encoder null: the active one; min_similarity null: 1 - medium_above of its thresholds. Noted in the audit log. Raises PT400, PT404.');

select care.expose(
    'care.record_consent', '{authenticated,service_role}',
    'For the primary caregiver, and service_role: records a consent with its evidence, to voiceprints unless scope names another. Raises PT400, PT403, PT404.');

select care.expose(
    'care.withdraw_consent', '{authenticated,service_role}',
    'For the primary caregiver, and service_role: withdraws a consent, to voiceprints unless scope names another, and erases what it allowed. Raises PT403, PT404.');

select care.expose(
    'care.export_patient', '{authenticated,service_role}',
    'For the primary caregiver, and service_role: returns everything that is stored about a patient, as JSON. Raises PT403, PT404.');

select care.expose(
    'care.read_recording', '{authenticated}',
    'For family, clinicians and primary caregivers: returns bucket/path of a call''s recording, to be opened with storage.createSignedUrl. Raises PT404.');

select care.expose(
    'care.erase_patient_voice', '{service_role}',
    'For the privacy officer (service_role): erases a patient''s voice data and withdraws the consent to them.');

select care.expose(
    'care.erase_patient', '{service_role}',
    'For the privacy officer (service_role): erases a person, except for the audit log.');

select care.expose(
    'care.claim_deletions', '{service_role}',
    'For functions/delete-recordings (service_role): claims deletions that are due.');

select care.expose(
    'care.finish_deletion', '{service_role}',
    'For functions/delete-recordings (service_role): notes that a copy is deleted.');

select care.expose(
    'care.fail_deletion', '{service_role}',
    'For functions/delete-recordings (service_role): notes that a copy could not be deleted.');

select care.expose(
    'care.set_my_preferences', '{authenticated}',
    'For every caregiver: sets what messages call the patient, their language, and the caregiver''s time zone and quiet hours. All arguments are written; null means the default. Raises PT400, PT404.');

select care.expose(
    'care.set_warnings_per_year', '{authenticated,service_role}',
    'For the primary caregiver, and service_role: sets how many warnings a year by chance the family accepts (null: as the organisation does), and returns what applies. Raises PT400, PT403, PT404.');

select care.expose(
    'care.set_organisation_warnings', '{service_role}',
    'For operators (service_role): sets how many warnings a year by chance are accepted for each patient whose family did not choose. Raises PT400, PT404.');

select care.expose(
    'care.warning_budget_list', '{authenticated,service_role}',
    'For caregivers, and service_role: returns the choices of how many warnings a year by chance are accepted, what each means, and which one applies to the patient.');

select care.expose(
    'voice.replay_policy', '{service_role}',
    'For operators (service_role): returns what another policy or budget would have done with the stored calls of a patient, an organisation or all, beside what happened. Nothing is stored. Raises PT400.');

select care.expose(
    'care.add_caregiver', '{authenticated}',
    'For the primary caregiver: adds a caregiver, with or without an account. Raises PT400, PT403, PT404, PT409.',
    '{language}');

select care.expose(
    'care.change_caregiver', '{authenticated}',
    'For the primary caregiver: changes a caregiver. All arguments are written; null unsets a value. Raises PT400, PT403, PT404, and PT409 if no primary caregiver would be left.',
    '{language}');

select care.expose(
    'care.remove_caregiver', '{authenticated}',
    'For the primary caregiver: removes a caregiver. Raises PT403, PT404, and PT409 if no primary caregiver would be left.');

-- 96_caregiver_policies.sql

-- Access: what the signed-in caregiver may read. Whatever no policy allows is refused; `anon` reads nothing, and `service_role`
-- bypasses row level security.

-- Recordings are stored as <patient_id>/<call_log_id>.wav. Caregivers who may play recordings can read them there, and nothing else.
do $$
begin
    if to_regclass('storage.objects') is null then
        raise notice 'There is no Storage: caregivers cannot play recordings';
    elsif not exists (
        select from pg_catalog.pg_policies
        where schemaname = 'storage' and policyname = 'caregivers_play_their_patients_recordings'
    ) then
        create policy caregivers_play_their_patients_recordings on storage.objects
            for select to authenticated
            using (
                bucket_id = 'voice-recordings'
                and split_part(name, '/', 1) = any (array(select care.patients_of_caller('family')::text))
            );
    end if;
exception when insufficient_privilege then
    raise notice 'Only the owner of Storage can create its policy: %', sqlerrm;
end
$$;

-- A grant on an adopted table without row level security would show every row to all signed-in users.
do $$
declare
    readable record;
begin
    for readable in
        select * from (values
            ('patient_caregivers', ''),
            ('patients', ''),
            ('health_flags', ''),
            ('daily_checkins', ''),
            ('call_logs', '(id, patient_id, "timestamp", summary, source, provider, ended_reason, recording_channel,'
                ' check_state, check_reason, is_heard, is_unheard, anomaly_score, created_at)')
        ) as care (table_name, columns)
    loop
        if (select relrowsecurity from pg_catalog.pg_class where oid = to_regclass('public.' || readable.table_name)) then
            execute format('grant select %s on public.%I to authenticated', readable.columns, readable.table_name);
        else
            raise notice 'public.% has no row level security: caregivers get no privileges on it', readable.table_name;
        end if;
    end loop;
end
$$;

-- 99_triggers.sql

-- Triggers: all of them, in firing order, so that a reader can see what happens next. Triggers of a signal that is added later are in
-- its own file.


-- 0 An organisation is added: its settings are inserted.
create trigger every_organisation_has_settings
    after insert on public.organisations
    for each row
    execute function care.on_organisation();

-- 1 A finished call is worth judging: its recording must be copied.
create trigger recordings_wake_up
    after insert on care.recordings
    for each statement
    execute function care.on_new_work('collect-recordings');

-- 2 Speech intervals are written: malformed ones are set to null before anything reads them.
create trigger garbled_intervals_are_forgotten
    before insert or update of speech_intervals on public.call_logs
    for each row
    when (new.speech_intervals is not null)
    execute function care.forget_garbled_intervals();

--   A provider's call gets its account.
create trigger accounts_are_named
    before insert or update of provider, provider_account on public.call_logs
    for each row
    when (new.provider is not null and new.provider_account is null)
    execute function care.name_the_account();

--   A call must have begun in the past, and stays with its patient.
create trigger impossible_calls_are_refused
    before insert or update of "timestamp", patient_id on public.call_logs
    for each row
    execute function care.refuse_impossible_call();

--   A call's recording is available: its check is queued in the same transaction.
create trigger request_check_with_the_call
    after insert on public.call_logs
    for each row
    when (new.recording_ref is not null)
    execute function voice.on_recording();

create trigger request_check
    after update of recording_ref on public.call_logs
    for each row
    when (old.recording_ref is null and new.recording_ref is not null)
    execute function voice.on_recording();

-- 3 A check is queued or ends: its state is copied to the call if it is a voice check and not a backfill, and the service is woken.
create trigger check_requested
    after insert on care.checks
    for each row
    when (new.signal = 'voice' and not new.is_backfill)
    execute function care.on_check_state();

create trigger checks_wake_up
    after insert on care.checks
    for each statement
    execute function care.on_new_work('wake');

create trigger check_moved
    after update of state on care.checks
    for each row
    when (new.signal = 'voice' and not new.is_backfill and new.state <> 'leased' and (old.state, old.reason) is distinct from (new.state, new.reason))
    execute function care.on_check_state();

-- 4 An alert changes: the caregivers to be notified get deliveries, and notify-caregiver is woken.
create trigger alert_changed
    after insert on public.alert_changes
    for each row
    execute function care.on_alert_change();

create trigger deliveries_wake_up
    after insert on care.deliveries
    for each statement
    execute function care.on_new_work('notify-caregiver');

create trigger alert_changes_never_change
    before update of alert_id, patient_id, change, level, cause, actor, operator, snoozed_until, outcome, changed_at
    on public.alert_changes
    for each row
    execute function care.refuse_change();

create trigger judgement_told
    after update of alert_sent on public.judgements
    for each row
    when (new.signal = 'voice' and new.alert_sent <> old.alert_sent)
    execute function voice.on_judgement_told();

-- 5 Consent is given or withdrawn: this is recorded, and on withdrawal what the consent allowed is erased.
create trigger consent_of_a_new_patient
    after insert on public.patients
    for each row
    when (new.voice_consent_at is not null)
    execute function care.on_consent();

create trigger consent_changed
    after update of voice_consent_at on public.patients
    for each row
    when ((old.voice_consent_at is null) <> (new.voice_consent_at is null))
    execute function care.on_consent();

create trigger consent_given
    after insert on public.consents
    for each row
    execute function care.on_consent_given();

create trigger consents_withdrawn
    after update on public.consents
    referencing old table as before new table as after
    for each statement
    execute function care.on_consents_withdrawn();

--   The row of a patient or call is deleted: its copies are deleted, and its samples leave the baselines.
create trigger a_deleted_patient_is_erased
    before delete on public.patients
    for each row
    execute function care.on_patient_deleted();

create trigger a_deleted_call_leaves_nothing
    before delete on public.call_logs
    for each row
    execute function care.on_call_deleted();

create trigger a_deleted_call_leaves_the_baselines
    before delete on public.call_logs
    for each row
    execute function voice.on_call_deleted();

create trigger deletions_wake_up
    after insert on care.deletions
    for each statement
    execute function care.on_new_work('delete-recordings');

-- 6 A health flag is added or changed: samples of the time that it covers leave the baselines.
create trigger a_flagged_patient_is_locked
    before insert or update of patient_id, started_at, resolved_at on public.health_flags
    for each row
    execute function care.lock_flagged_patient();

create trigger health_flag_noted
    after insert or update of patient_id, started_at, resolved_at on public.health_flags
    for each row
    execute function voice.on_health_flag();

--   An alert is resolved: what was found out changes what is remembered of the voice.
create trigger answers_have_consequences
    after update of resolved_at on public.caregiver_alerts
    for each row
    when (old.resolved_at is null and new.resolved_at is not null and new.outcome is not null)
    execute function voice.on_alert_resolved();

-- 7 An encoder is registered: its baselines become searchable.
create trigger encoder_registered
    after insert on voice.encoders
    for each row
    execute function voice.on_encoder();

--   A baseline is a version: it may be superseded, but never changes. Its samples never change at all.
create trigger baselines_never_change
    before update of patient_id, encoder, version, embedding, sample_count, spread_mean, spread_deviation, enrolment_id, created_at
    on voice.baselines
    for each row
    execute function care.refuse_change();

create trigger baseline_samples_never_change
    before update on voice.baseline_samples
    for each row
    execute function care.refuse_change();

-- 8 Important changes are noted in the audit log, which is append-only.
create trigger patients_are_audited
    after insert or update or delete on public.patients
    for each row
    execute function care.audit_change('id', 'warnings_per_year');

create trigger caregivers_are_audited
    after insert or update or delete on public.patient_caregivers
    for each row
    execute function care.audit_change('id', 'role');

create trigger health_flags_are_audited
    after insert or update or delete on public.health_flags
    for each row
    execute function care.audit_change('id');

create trigger notes_are_audited
    after update of notes or delete on public.voice_anomaly_logs
    for each row
    execute function care.audit_change('id');

create trigger keys_are_audited
    after insert or update of name, scopes, revoked_at or delete on care.api_keys
    for each row
    execute function care.audit_change('id', 'name', 'scopes', 'revoked_at');

create trigger calls_that_are_deleted_are_audited
    after delete on public.call_logs
    for each row
    execute function care.audit_change('id');

create trigger audit_log_is_only_added_to
    before update or delete or truncate on care.audit_log
    for each statement
    execute function care.refuse_rewriting();

create trigger calibrations_never_change
    before update or truncate on voice.calibrations
    for each statement
    execute function care.refuse_rewriting();

create trigger bins_never_change
    before update or truncate on voice.calibration_bins
    for each statement
    execute function care.refuse_rewriting();

create trigger projections_never_change
    before update or truncate on voice.projection_rows
    for each statement
    execute function care.refuse_rewriting();

create trigger tombstones_are_only_added_to
    before update or delete or truncate on care.tombstones
    for each statement
    execute function care.refuse_rewriting();

do $$
declare
    audited record;
begin
    for audited in
        select * from (values
            ('care.models', 'id'), ('care.thresholds', 'model'), ('voice.encoders', 'id'), ('voice.policies', 'encoder'), ('voice.features', 'id'),
            ('care.settings', 'is_only'), ('public.organisations', 'id'), ('care.organisation_settings', 'organisation_id'),
            ('care.alert_policies', 'level'),
            ('care.providers', 'id'), ('care.ended_reasons', 'pattern'), ('care.retention_policies', 'subject'), ('care.delivery_channels', 'id')
        ) as rules (name, key)
    loop
        execute format(
            'create trigger rules_are_audited after insert or update or delete on %s
             for each row execute function care.audit_change(%s)',
            audited.name,
            (
                select string_agg(quote_literal(column_name), ', ')
                from (
                    select audited.key as column_name
                    union all
                    select attname::text
                    from pg_catalog.pg_attribute
                    where attrelid = audited.name::regclass and attnum > 0 and not attisdropped
                ) as columns
            ));
    end loop;
end
$$;
