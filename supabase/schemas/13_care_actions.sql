-- What the service and its command line do with care records. Definer functions, all of them: `retrocare_service` may
-- touch no table.

create function voice.lock_patient(patient_id uuid)
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
comment on function voice.lock_patient is
    'The patient''s row, locked until the transaction ends: whatever changes a baseline holds it. Raises RV002.';
revoke execute on function voice.lock_patient from public;

create function voice.try_lock_patient(patient_id uuid)
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
comment on function voice.try_lock_patient is
    'As voice.lock_patient, without waiting; false: somebody works on this patient at the moment, or there is none. For whatever locks several patients in one transaction: who never waits is in no deadlock.';
revoke execute on function voice.try_lock_patient from public;

create function voice.lock_patient_if_any(patient_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select from public.patients
    where patients.id = lock_patient_if_any.patient_id
    for no key update
$$;
comment on function voice.lock_patient_if_any is
    'As voice.lock_patient, of somebody who may have been erased meanwhile: then there is nothing to lock, and nothing left to change.';
revoke execute on function voice.lock_patient_if_any from public;

create function voice.lock_patient_or_refuse(patient_id uuid)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Its row is locked already, and a patient is locked first: whoever cannot have both at once lets the other finish.
    if voice.try_lock_patient(lock_patient_or_refuse.patient_id) then
        return true;
    elsif exists (select from public.patients where patients.id = lock_patient_or_refuse.patient_id) then
        raise exception using
            errcode = 'PT409',
            message = 'Somebody works on this patient at this moment',
            hint = 'Nothing was changed: try again.';
    end if;
    return false;
end
$$;
comment on function voice.lock_patient_or_refuse is
    'For triggers on rows of a patient: locks the patient without waiting; false: the patient is being deleted. Raises PT409.';
revoke execute on function voice.lock_patient_or_refuse from public;

create function voice.add_patient(name text, timezone text, has_consent boolean, evidence text default null)
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
        return voice.set_consent(added.id, true, add_patient.evidence);
    end if;
    return added;
end
$$;
comment on function voice.add_patient is 'A new patient. Raises PT400. Called by `retrocare patient add`.';
revoke execute on function voice.add_patient from public;
grant execute on function voice.add_patient to retrocare_service;

create function voice.set_consent(patient_id uuid, is_given boolean, evidence text default null)
returns public.patients
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient public.patients := voice.lock_patient(set_consent.patient_id);
begin
    if set_consent.is_given and set_consent.evidence is not null then
        perform voice.record_consent(patient.id, set_consent.evidence, now());
        return voice.lock_patient(patient.id);
    end if;
    update public.patients
    set voice_consent_at = case when set_consent.is_given then coalesce(patient.voice_consent_at, now()) end
    where patients.id = patient.id
    returning * into patient;
    return patient;
end
$$;
comment on function voice.set_consent is
    'Records consent to voiceprints, with its evidence where there is some, or withdraws it: the voice is erased, and later calls are skipped. Raises PT400, RV002. Called by `retrocare patient consent`.';
revoke execute on function voice.set_consent from public;
grant execute on function voice.set_consent to retrocare_service;

create function voice.change_patient(patient_id uuid, name text, timezone text, phone text, silent_after_days integer)
returns public.patients
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient public.patients := voice.lock_patient(change_patient.patient_id);
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
comment on function voice.change_patient is
    'Changes what is given; null leaves it as it is, an empty phone and 0 days unset theirs. Raises RV002. Called by `retrocare patient set`.';
revoke execute on function voice.change_patient from public;
grant execute on function voice.change_patient to retrocare_service;

create function voice.flag_patient(patient_id uuid, flag text, started_at timestamptz)
returns public.health_flags
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    flagged public.health_flags;
begin
    perform voice.lock_patient(flag_patient.patient_id);
    insert into public.health_flags (patient_id, flag, started_at)
    values (flag_patient.patient_id, flag_patient.flag, flag_patient.started_at)
    returning * into flagged;
    return flagged;
end
$$;
comment on function voice.flag_patient is
    'Notes that a patient is unwell since started_at; samples of that time leave the baseline. Raises RV002. Called by `retrocare patient flag`.';
revoke execute on function voice.flag_patient from public;
grant execute on function voice.flag_patient to retrocare_service;

create function voice.unflag_patient(patient_id uuid, flag text, resolved_at timestamptz)
returns setof public.health_flags
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform voice.lock_patient(unflag_patient.patient_id);
    return query
        update public.health_flags
        set resolved_at = greatest(unflag_patient.resolved_at, health_flags.started_at)
        where health_flags.patient_id = unflag_patient.patient_id
            -- One that would end by itself, too: after an illness that was found, for instance.
            and (health_flags.resolved_at is null or health_flags.resolved_at > unflag_patient.resolved_at)
            and (unflag_patient.flag is null or health_flags.flag = unflag_patient.flag)
        returning health_flags.*;
end
$$;
comment on function voice.unflag_patient is
    'Resolves the patient''s open flags of that name, or all where it is null; the rows resolved. Raises RV002. Called by `retrocare patient unflag`.';
revoke execute on function voice.unflag_patient from public;
grant execute on function voice.unflag_patient to retrocare_service;
