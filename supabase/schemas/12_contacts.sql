-- Contacts: how the patient is phoned, and how each caregiver is told.

create function voice.is_phone_number(phone text)
returns boolean
language sql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select is_phone_number.phone ~ '^\+[1-9][0-9]{5,14}$'
$$;
comment on function voice.is_phone_number is 'Whether this is a number in international form (E.164), such as +4930123456.';
revoke execute on function voice.is_phone_number from public;
-- A check constraint asks with the rights of whoever writes the row.
grant execute on function voice.is_phone_number to authenticated, service_role;

alter table public.patients
    add column if not exists phone text
        constraint a_patients_phone_is_a_number check (voice.is_phone_number(phone)),
    add column if not exists silent_after_days integer
        constraint silence_takes_between_a_day_and_a_year check (silent_after_days between 1 and 366);
create index if not exists patients_by_phone on public.patients (phone);
comment on column public.patients.phone is
    'Where the patient is phoned, E.164. A report that names no patient is matched by it, where only one patient has it.';
comment on column public.patients.silent_after_days is
    'The patient is phoned on a schedule: as many days without a call that could be judged raise an alert, from 1 to 366. Null: no schedule.';

alter table public.patient_caregivers
    add column if not exists patient_known_as text,
    add column if not exists language text not null default 'en',
    add column if not exists timezone text
        constraint a_caregivers_timezone_is_a_zone check (voice.is_time_zone(timezone)),
    add column if not exists quiet_from time,
    add column if not exists quiet_until time,
    add column if not exists other_addresses jsonb not null default '{}'
        constraint other_addresses_are_named check (jsonb_typeof(other_addresses) = 'object');
create function voice.role_of_caller(patient_id uuid)
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
comment on function voice.role_of_caller is
    'What the signed-in person may do for this patient; null: nothing. Called by every function that acts for a caregiver.';
revoke execute on function voice.role_of_caller from public;

create function voice.is_caller_a_caregiver()
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    -- The role of whoever asks, which a token without an account has as well; as definer, current_user is the owner.
    select current_setting('role') in ('anon', 'authenticated') or (select auth.uid()) is not null
$$;
comment on function voice.is_caller_a_caregiver is
    'Whether a person signed in asks, or nobody known, and not an operator: service_role, or the service''s own login.';
revoke execute on function voice.is_caller_a_caregiver from public;
comment on column public.patient_caregivers.phone is 'Where text messages go, E.164; null: none.';
comment on column public.patient_caregivers.webhook_url is 'Where signed messages are posted, over https; null: none.';
comment on column public.patient_caregivers.patient_known_as is 'What messages call the patient, such as Mum; null: the patient''s name.';
comment on column public.patient_caregivers.language is 'Of messages, a language of voice.alert_texts; what is not translated into it is told in English.';
comment on column public.patient_caregivers.timezone is 'Where the caregiver lives; null: where the patient does.';
comment on column public.patient_caregivers.quiet_from is 'Warnings wait from here; null: as voice.settings says.';
comment on column public.patient_caregivers.quiet_until is 'Warnings wait until here; null: as voice.settings says.';
comment on column public.patient_caregivers.other_addresses is 'Addresses of further channels, by the channel''s name.';
