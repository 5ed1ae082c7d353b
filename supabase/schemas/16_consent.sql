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
