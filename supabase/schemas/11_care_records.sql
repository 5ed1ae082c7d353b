-- The people and their calls. A RetroCare project that exists already is adopted: its tables stay, its rows stay, and
-- what they lack is added. So each table is first made with its id alone, where it is missing, and then given its columns.

-- Preflight: refuse, before anything is changed, what cannot work.
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
                hint = 'Give those calls their time, or delete them, then migrate again.';
        end loop;
    end if;
end
$$;

-- The earlier tables whose names are needed: kept whole, under another name.
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

create type public.call_source as enum (
    'provider',     -- the phone provider reported it
    'api',          -- POST /api/anomaly-check without a call of its own
    'upload',       -- a file given to the command line
    'onboarding',   -- recorded to enrol the patient: never scored
    'archive'       -- of before: embedded when nothing else waits, makes a baseline where there is none, never judged
);
comment on type public.call_source is 'How a call came to be a row.';

create type public.recording_channel as enum (
    'customer',     -- the file holds the patient''s side alone
    'left',         -- stereo, the patient on the left
    'right',        -- stereo, the patient on the right
    'mono',         -- one channel
    'mixed',        -- one channel, with the agent's voice in it: never judged
    'stereo'        -- the patient is on one of two sides, found by when the patient spoke
);
comment on type public.recording_channel is 'Where in the recording the patient is.';

create type public.caregiver_role as enum (
    'viewer',       -- reads
    'family',       -- also acts on alerts, writes notes, plays recordings
    'clinician',    -- as family
    'primary'       -- also manages caregivers and consent
);
comment on type public.caregiver_role is 'What a caregiver may do for one patient.';

create function voice.is_time_zone(timezone text)
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
comment on function voice.is_time_zone is
    'Whether this is a zone with a history, such as Europe/Berlin: abbreviations and offsets know no daylight saving.';
revoke execute on function voice.is_time_zone from public;
-- A check constraint asks with the rights of whoever writes the row.
grant execute on function voice.is_time_zone to authenticated, service_role;

-- RLS is switched on only for tables made here: an adopted table keeps its own rules, and a notice says so.
do $$
declare
    care_table text;
begin
    foreach care_table in array array[
        'patients', 'patient_caregivers', 'call_logs', 'health_flags', 'daily_checkins'
    ] loop
        if to_regclass('public.' || care_table) is not null then
            raise notice 'public.% exists and keeps its own row level security', care_table;
        else
            execute format(
                'create table public.%I (id uuid constraint %I primary key default voice.rising_uuid())',
                care_table, care_table || '_pkey');
            execute format('alter table public.%I enable row level security', care_table);
            execute format('revoke all on public.%I from anon, authenticated, service_role', care_table);
        end if;
    end loop;
end
$$;

alter table public.patients
    add column if not exists name text,
    add column if not exists timezone text not null default 'UTC'
        constraint a_patients_timezone_is_a_zone check (voice.is_time_zone(timezone)),
    add column if not exists flags text[] not null default '{}',
    add column if not exists voice_consent_at timestamptz
        constraint consent_was_given_after_1900 check (voice_consent_at >= '1900-01-01 00:00+00' and voice_consent_at < 'infinity'),
    add column if not exists created_at timestamptz not null default now();
comment on table public.patients is 'The people who are phoned.';
comment on column public.patients.timezone is 'Where the patient lives: decides the local hour and the local day of a call.';
comment on column public.patients.flags is 'Words about the patient''s present state; one of voice.sickness_words makes the patient sick.';
comment on column public.patients.voice_consent_at is 'When consent to voiceprints was given; null: none, nothing is stored.';
grant select, insert, update, delete on public.patients to service_role;

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
comment on table public.patient_caregivers is 'Who cares for whom; user_id is null until the person has an account.';
grant select, insert, update, delete on public.patient_caregivers to service_role;

alter table public.call_logs
    add column if not exists patient_id uuid not null
        constraint a_call_is_with_a_patient references public.patients (id) on delete cascade,
    add column if not exists "timestamp" timestamptz not null default now(),
    add column if not exists summary text,
    add column if not exists source public.call_source not null default 'provider',
    add column if not exists provider text,
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
create unique index if not exists a_provider_reports_a_call_once on public.call_logs (provider, provider_call_id);
create index if not exists call_logs_by_patient on public.call_logs (patient_id, "timestamp" desc);
create index if not exists call_logs_by_enrolment on public.call_logs (enrolment_id) where enrolment_id is not null;
-- By default a table of ten million rows is looked after once two million have changed.
alter table public.call_logs set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
comment on table public.call_logs is 'One row per call, upload or onboarding recording.';
comment on column public.call_logs."timestamp" is 'When the call began.';
comment on column public.call_logs.recording_ref is
    'storage:bucket/path or a URL of the recording; going from null to a value queues the check. A signed URL is nulled once it was used; without consent, or with a dead check, it waits.';
comment on column public.call_logs.recording_source_url is 'The provider''s short-lived address; triggers nothing.';
comment on column public.call_logs.speech_intervals is 'When the patient spoke, [[start, end], ...] in seconds from the start.';
comment on column public.call_logs.enrolment_id is 'The recordings of one enrolment share it; null for every other call.';
comment on column public.call_logs.anomaly_score is '0 = as usual, 1 = completely different; null: not scored.';
grant insert, update, delete on public.call_logs to service_role;

alter table public.health_flags
    add column if not exists patient_id uuid not null
        constraint a_health_flag_is_a_patients references public.patients (id) on delete cascade,
    add column if not exists flag text,
    add column if not exists started_at timestamptz not null default now(),
    add column if not exists resolved_at timestamptz
        constraint a_health_flag_ends_after_it_starts check (resolved_at >= started_at),
    add column if not exists created_at timestamptz not null default now();
-- Flags from before have just got a start, this transaction's moment: they started when they were noted.
update public.health_flags set started_at = created_at where started_at = now() and created_at < now();
create index if not exists health_flags_by_patient on public.health_flags (patient_id, started_at);
comment on table public.health_flags is
    'When a patient was unwell: from started_at to resolved_at, open while that is null. Calls of that time enrol nothing.';
grant select, insert, update, delete on public.health_flags to service_role;

create type public.anomaly_severity as enum ('low', 'medium', 'high', 'critical');
comment on type public.anomaly_severity is 'How far a score is from usual; the thresholds are in voice.policies.';

alter table public.daily_checkins
    add column if not exists patient_id uuid not null
        constraint a_checkin_is_a_patients references public.patients (id) on delete cascade,
    add column if not exists date date,
    add column if not exists anomaly_score double precision,
    add column if not exists severity public.anomaly_severity,
    add column if not exists created_at timestamptz not null default now();
create unique index if not exists a_patient_has_one_checkin_a_day on public.daily_checkins (patient_id, date);
comment on table public.daily_checkins is 'The patient''s days; a call scored above the policy''s checkin_above leaves its score here.';
comment on column public.daily_checkins.date is 'The day in the patient''s own time zone.';
comment on column public.daily_checkins.anomaly_score is 'The highest of that day.';
grant select, insert, update, delete on public.daily_checkins to service_role;
