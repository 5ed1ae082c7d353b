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
