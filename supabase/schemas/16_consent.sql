-- Consent: recorded with scope, time, recorder and evidence before anything is made of a recording; its withdrawal stops and
-- erases.

create type public.consent_scope as enum ('voiceprint');
comment on type public.consent_scope is 'What was consented to: that voiceprints are made, kept and compared.';

create table public.consents (
    id uuid constraint consents_pkey primary key default gen_random_uuid(),
    patient_id uuid not null
        constraint a_consent_is_a_patients references public.patients (id) on delete cascade,
    scope public.consent_scope not null default 'voiceprint',
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
create index consents_by_recorder on public.consents (recorded_by);
create index consents_by_withdrawer on public.consents (withdrawn_by);
alter table public.consents enable row level security;
revoke all on public.consents from anon, authenticated, service_role;
comment on table public.consents is 'Every consent, each with its evidence, and its withdrawal, which ends all that stand; patients.voice_consent_at shows since when one does.';
comment on column public.consents.evidence is 'How it was given: a signed form, a recorded sentence, where to find it.';
comment on column public.consents.recorded_by is 'The account that recorded it; null: an operator, or the service.';
grant select on public.consents to authenticated, service_role;

create function care.on_consent()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if new.voice_consent_at is not null then
        -- Whoever sets the column without a record of it gets one: the column alone is its evidence.
        insert into public.consents (patient_id, given_at, recorded_by, evidence)
        select new.id, new.voice_consent_at, (select auth.uid()), 'patients.voice_consent_at was set'
        where not exists (
            select from public.consents where consents.patient_id = new.id and consents.withdrawn_at is null
        );
        perform care.note_audit('consent_given', 'public.consents', new.id);
        return null;
    end if;
    update public.consents
    set withdrawn_at = greatest(now(), consents.given_at),
        withdrawn_by = (select auth.uid())
    where consents.patient_id = new.id and consents.withdrawn_at is null;
    perform care.note_audit('consent_withdrawn', 'public.consents', new.id);
    perform care.erase_voice(new.id, 'consent withdrawn');
    return null;
end
$$;
comment on function care.on_consent is
    'Trigger: consent is given, and recorded; or withdrawn, and what it allowed is erased. Definer: whoever changes a patient may not touch the private schemas.';
revoke execute on function care.on_consent from public;

create function care.record_consent(patient_id uuid, evidence text, given_at timestamptz default now())
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
            message = 'A consent has evidence, and was given before now',
            hint = 'Say how it was given, and where that can be found.';
    elsif char_length(record_consent.evidence) > 10000 then
        raise exception using
            errcode = 'PT400',
            message = format('The evidence has %s characters; at most 10000 are kept', char_length(record_consent.evidence)),
            hint = 'Keep what is longer elsewhere, and say where.';
    end if;
    select consents.* into consent
    from public.consents
    where consents.patient_id = patient.id
        and consents.withdrawn_at is null
        and consents.evidence = record_consent.evidence
    order by consents.created_at
    limit 1;
    if found then
        return consent;
    end if;
    insert into public.consents (patient_id, given_at, recorded_by, evidence)
    values (patient.id, record_consent.given_at, (select auth.uid()), record_consent.evidence)
    returning * into consent;
    if patient.voice_consent_at is not null then
        -- Where consent stands no trigger notes it.
        perform care.note_audit('consent_given', 'public.consents', patient.id);
    end if;
    update public.patients
    set voice_consent_at = record_consent.given_at
    where patients.id = patient.id and patients.voice_consent_at is null;
    return consent;
end
$$;
comment on function care.record_consent is
    'Records that consent to voiceprints was given. Where one stands already, this is further evidence of it; the same evidence again changes nothing. Raises PT400, PT403, PT404. Definer: nobody writes consents directly.';
revoke execute on function care.record_consent from public;

create function care.withdraw_consent(patient_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient public.patients := care.patient_for_caller(withdraw_consent.patient_id, 'primary');
begin
    update public.patients
    set voice_consent_at = null
    where patients.id = patient.id and patients.voice_consent_at is not null;
end
$$;
comment on function care.withdraw_consent is
    'Withdraws consent: nothing is judged any more, and the voice is erased. Raises PT403, PT404. Definer: nobody writes consents directly.';
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
    'Records consent to voiceprints, with its evidence where there is some, or withdraws it: the voice is erased, and later calls are skipped. Raises PT400, RV002. Called by `retrocare patient consent`.';
revoke execute on function care.set_consent from public;
grant execute on function care.set_consent to retrocare_service;

create policy caregivers_read_their_patients_consents on public.consents
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));
