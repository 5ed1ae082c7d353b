-- Consent: recorded with scope, time, recorder and evidence before any voiceprint; its withdrawal stops and erases.

create type public.consent_scope as enum ('voiceprint');
comment on type public.consent_scope is 'What was consented to: that voiceprints are made, kept and compared.';

create table public.voice_consents (
    id uuid constraint voice_consents_pkey primary key default gen_random_uuid(),
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
create index voice_consents_by_patient on public.voice_consents (patient_id, given_at desc);
create index voice_consents_by_recorder on public.voice_consents (recorded_by);
create index voice_consents_by_withdrawer on public.voice_consents (withdrawn_by);
alter table public.voice_consents enable row level security;
revoke all on public.voice_consents from anon, authenticated, service_role;
comment on table public.voice_consents is 'Every consent, each with its evidence, and its withdrawal, which ends all that stand; patients.voice_consent_at shows since when one does.';
comment on column public.voice_consents.evidence is 'How it was given: a signed form, a recorded sentence, where to find it.';
comment on column public.voice_consents.recorded_by is 'The account that recorded it; null: an operator, or the service.';
grant select on public.voice_consents to authenticated, service_role;

create function voice.on_consent()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if new.voice_consent_at is not null then
        -- Whoever sets the column without a record of it gets one: the column alone is its evidence.
        insert into public.voice_consents (patient_id, given_at, recorded_by, evidence)
        select new.id, new.voice_consent_at, (select auth.uid()), 'patients.voice_consent_at was set'
        where not exists (
            select from public.voice_consents where voice_consents.patient_id = new.id and voice_consents.withdrawn_at is null
        );
        perform voice.note_audit('consent_given', 'public.voice_consents', new.id);
        return null;
    end if;
    update public.voice_consents
    set withdrawn_at = greatest(now(), voice_consents.given_at),
        withdrawn_by = (select auth.uid())
    where voice_consents.patient_id = new.id and voice_consents.withdrawn_at is null;
    perform voice.note_audit('consent_withdrawn', 'public.voice_consents', new.id);
    perform voice.erase_voice(new.id, 'consent withdrawn');
    return null;
end
$$;
comment on function voice.on_consent is
    'Trigger: consent is given, and recorded; or withdrawn, and what it allowed is erased. Definer: whoever changes a patient may not touch voice.';
revoke execute on function voice.on_consent from public;

create function voice.consenting_patient(patient_id uuid)
returns public.patients
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    caregiver_role public.caregiver_role := voice.role_of_caller(consenting_patient.patient_id);
begin
    if voice.is_caller_a_caregiver() and caregiver_role is null then
        raise exception using errcode = 'PT404', message = 'No such patient', hint = 'Consent is recorded by a caregiver of the patient.';
    elsif voice.is_caller_a_caregiver() and caregiver_role <> 'primary' then
        raise exception using errcode = 'PT403', message = 'The primary caregiver records consent', hint = 'Ask the primary caregiver.';
    end if;
    return voice.lock_patient(consenting_patient.patient_id);
end
$$;
comment on function voice.consenting_patient is
    'The patient, locked, where the caller may record consent: the primary caregiver, or service_role. Raises PT403, PT404, RV002.';
revoke execute on function voice.consenting_patient from public;

create function voice.record_consent(patient_id uuid, evidence text, given_at timestamptz)
returns public.voice_consents
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient public.patients := voice.consenting_patient(record_consent.patient_id);
    consent public.voice_consents;
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
    select voice_consents.* into consent
    from public.voice_consents
    where voice_consents.patient_id = patient.id
        and voice_consents.withdrawn_at is null
        and voice_consents.evidence = record_consent.evidence
    order by voice_consents.created_at
    limit 1;
    if found then
        return consent;
    end if;
    insert into public.voice_consents (patient_id, given_at, recorded_by, evidence)
    values (patient.id, record_consent.given_at, (select auth.uid()), record_consent.evidence)
    returning * into consent;
    if patient.voice_consent_at is not null then
        -- Where consent stands no trigger notes it.
        perform voice.note_audit('consent_given', 'public.voice_consents', patient.id);
    end if;
    update public.patients
    set voice_consent_at = record_consent.given_at
    where patients.id = patient.id and patients.voice_consent_at is null;
    return consent;
end
$$;
comment on function voice.record_consent is
    'Records that consent to voiceprints was given. Where one stands already, this is further evidence of it; the same evidence again changes nothing. Raises PT400, PT403, PT404. Definer: nobody writes consents directly.';
revoke execute on function voice.record_consent from public;
grant execute on function voice.record_consent to authenticated, service_role;

create function voice.withdraw_consent(patient_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient public.patients := voice.consenting_patient(withdraw_consent.patient_id);
begin
    update public.patients
    set voice_consent_at = null
    where patients.id = patient.id and patients.voice_consent_at is not null;
end
$$;
comment on function voice.withdraw_consent is
    'Withdraws consent: nothing is judged any more, and the voice is erased. Raises PT403, PT404. Definer: nobody writes consents directly.';
revoke execute on function voice.withdraw_consent from public;
grant execute on function voice.withdraw_consent to authenticated, service_role;

create function public.record_consent(patient_id uuid, evidence text, given_at timestamptz default now())
returns public.voice_consents
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.record_consent(record_consent.patient_id, record_consent.evidence, record_consent.given_at);
end;
comment on function public.record_consent is
    'For the primary caregiver, and service_role: consent to voiceprints, with its evidence. Raises PT400, PT403, PT404.';
revoke execute on function public.record_consent from public, anon;
grant execute on function public.record_consent to authenticated, service_role;

create function public.withdraw_consent(patient_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.withdraw_consent(withdraw_consent.patient_id);
end;
comment on function public.withdraw_consent is
    'For the primary caregiver, and service_role: ends consent and erases the voice. Raises PT403, PT404.';
revoke execute on function public.withdraw_consent from public, anon;
grant execute on function public.withdraw_consent to authenticated, service_role;
