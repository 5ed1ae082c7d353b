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
