-- Alerts: one episode of a patient is one alert, from the first score above a threshold until somebody resolves it. A worse
-- score raises its level, a repeat only counts up: nobody is woken twice for the same thing.

create type public.alert_level as enum (
    'warning',      -- listen to the patient soon
    'emergency',    -- see to the patient now
    'critical'      -- see to the patient now, and everybody does
);
comment on type public.alert_level is 'How urgent: medium, high and critical scores. In rising order.';

create type public.alert_state as enum (
    'open',             -- nobody has answered          -> escalated, acknowledged, snoozed, resolved
    'escalated',        -- nobody answered in time      -> acknowledged, snoozed, resolved
    'acknowledged',     -- somebody sees to it          -> snoozed, resolved
    'snoozed',          -- put off until snoozed_until  -> open, acknowledged, resolved
    'resolved'          -- the episode is over: end
);
comment on type public.alert_state is 'Where an alert stands; every state but resolved is part of the episode.';

create type public.alert_outcome as enum ('ill', 'not_ill', 'other_person', 'wrong_recording', 'other');
comment on type public.alert_outcome is 'What the caregivers found.';

create table public.caregiver_alerts (
    id uuid constraint caregiver_alerts_pkey primary key default gen_random_uuid(),
    patient_id uuid not null
        constraint an_alert_is_about_a_patient references public.patients (id) on delete cascade,
    level public.alert_level not null,
    state public.alert_state not null default 'open',
    log_id uuid
        constraint an_alert_keeps_its_worst_log references public.voice_anomaly_logs (id) on delete set null,
    anomaly_score double precision not null
        constraint an_alert_score_is_a_share check (anomaly_score between 0 and 1),
    repeat_count integer not null default 0,
    opened_at timestamptz not null default now(),
    last_raised_at timestamptz not null default now(),
    acknowledged_at timestamptz,
    snoozed_until timestamptz,
    resolved_at timestamptz,
    outcome public.alert_outcome,
    constraint a_resolved_alert_has_its_time check ((state = 'resolved') = (resolved_at is not null)),
    constraint a_snoozed_alert_has_its_end check (state <> 'snoozed' or snoozed_until is not null),
    constraint an_outcome_comes_with_the_end check (outcome is null or state = 'resolved')
);
create unique index a_patient_has_one_unresolved_alert on public.caregiver_alerts (patient_id) where resolved_at is null;
create index caregiver_alerts_by_patient on public.caregiver_alerts (patient_id, opened_at desc);
create index caregiver_alerts_by_log on public.caregiver_alerts (log_id);
alter table public.caregiver_alerts enable row level security;
revoke all on public.caregiver_alerts from anon, authenticated, service_role;
comment on table public.caregiver_alerts is 'One row per episode; at most one unresolved per patient.';
comment on column public.caregiver_alerts.anomaly_score is 'The worst of the episode; log_id is its log.';
comment on column public.caregiver_alerts.repeat_count is 'How many further calls of the episode were above a threshold.';
grant select on public.caregiver_alerts to service_role, authenticated;

create function voice.alert_level(severity public.anomaly_severity)
returns public.alert_level
language sql
immutable
parallel safe
set search_path = ''
as $$
    select case alert_level.severity
        when 'medium' then 'warning'::public.alert_level
        when 'high' then 'emergency'
        when 'critical' then 'critical'
    end
$$;
comment on function voice.alert_level is 'How urgent a severity is; null for low.';
revoke execute on function voice.alert_level from public;

create function voice.raise_alert(log public.voice_anomaly_logs)
returns public.caregiver_alerts
language sql
volatile
set search_path = ''
as $$
    insert into public.caregiver_alerts as alert (patient_id, level, log_id, anomaly_score)
    values (log.patient_id, voice.alert_level(log.severity), log.id, log.anomaly_score)
    on conflict (patient_id) where resolved_at is null do update
    set level = greatest(alert.level, excluded.level),
        log_id = case when excluded.anomaly_score > alert.anomaly_score then excluded.log_id else alert.log_id end,
        anomaly_score = greatest(alert.anomaly_score, excluded.anomaly_score),
        repeat_count = alert.repeat_count + 1,
        last_raised_at = clock_timestamp()
    returning *
$$;
comment on function voice.raise_alert is
    'Opens the patient''s alert, or raises and counts up the one that is unresolved. Called by voice.score_call.';
revoke execute on function voice.raise_alert from public;
