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
