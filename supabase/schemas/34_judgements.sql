-- Judgements: one row per judged signal of a call. care.record_judgement alone turns a score into a check-in, an alert and messages.
-- The alert is raised by care.raise_alert, in a later file.

alter table public.daily_checkins
    add column if not exists patient_id uuid not null
        constraint a_checkin_is_a_patients references public.patients (id) on delete cascade,
    add column if not exists date date,
    add column if not exists anomaly_score double precision,
    add column if not exists severity public.anomaly_severity,
    add column if not exists created_at timestamptz not null default now();
create unique index if not exists a_patient_has_one_checkin_a_day on public.daily_checkins (patient_id, date);
comment on table public.daily_checkins is
    'The patient''s days. A call with a score above the checkin_above of its thresholds leaves its score here.';
comment on column public.daily_checkins.date is 'The date in the patient''s time zone.';
comment on column public.daily_checkins.anomaly_score is 'The highest score of the day.';
grant select, insert, update, delete on public.daily_checkins to service_role;

-- Policies change a few times a year, while there are millions of scores. Each set of values is therefore stored once, and judgements
-- refer to it.
create table public.scoring_policies (
    id integer generated always as identity constraint scoring_policies_pkey primary key,
    policy jsonb not null constraint a_policy_is_kept_once unique,
    first_used_at timestamptz not null default now()
);
alter table public.scoring_policies enable row level security;
revoke all on public.scoring_policies from anon, authenticated, service_role;
comment on table public.scoring_policies is
    'Thresholds and weights with which calls were judged. A row never changes and serves all judgements made with these values.';
comment on column public.scoring_policies.policy is
    'All values by name: those of care.thresholds, and those of the signal, for voice those of voice.policies.';
grant select on public.scoring_policies to authenticated, service_role;

create function care.keep_scoring_policy(policy jsonb)
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    kept_id integer;
begin
    loop
        select scoring_policies.id into kept_id
        from public.scoring_policies
        where scoring_policies.policy = keep_scoring_policy.policy;
        exit when found;
        -- Another transaction may insert the same values at this moment. The next iteration then finds its row.
        insert into public.scoring_policies (policy)
        values (keep_scoring_policy.policy)
        on conflict do nothing;
    end loop;
    return kept_id;
end
$$;
comment on function care.keep_scoring_policy is
    'Returns the id of the row with these values, which is added if it is new. Called by care.record_judgement.';
revoke execute on function care.keep_scoring_policy from public;

create table public.judgements (
    id uuid constraint judgements_pkey primary key default care.uuid_v7(),
    signal text not null,
    model text not null,
    patient_id uuid not null
        constraint a_judgement_is_of_a_patient references public.patients (id) on delete cascade,
    call_log_id uuid not null
        constraint a_judgement_is_of_a_call references public.call_logs (id) on delete cascade,
    occurred_at timestamptz not null,
    score double precision not null
        constraint a_score_is_a_share check (score between 0 and 1),
    severity public.anomaly_severity not null,
    alert_type public.alert_type
        constraint an_alert_type_follows_from_the_severity check (
            alert_type is not distinct from care.alert_type(care.alert_level(severity))),
    rule text not null,
    explanation text,
    reasons text[] not null default '{}',
    is_urgent boolean not null default false,
    likely_patient_id uuid
        constraint another_patient_may_have_spoken references public.patients (id) on delete set null,
    policy_id integer not null
        constraint a_judgement_keeps_its_policy references public.scoring_policies (id),
    alert_sent boolean not null default false,
    created_at timestamptz not null default now(),
    constraint a_call_is_judged_once_by_each_model unique (call_log_id, model),
    constraint a_judgement_is_by_a_model foreign key (signal, model) references care.models (signal, id)
);
create index judgements_by_patient on public.judgements (patient_id, occurred_at desc);
create index judgements_by_model on public.judgements (signal, model);
create index judgements_by_policy on public.judgements (policy_id);
create index judgements_by_likely_patient on public.judgements (likely_patient_id) where likely_patient_id is not null;
alter table public.judgements set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
alter table public.judgements enable row level security;
revoke all on public.judgements from anon, authenticated, service_role;
comment on table public.judgements is
    'One row per judged signal of a call, written only by care.record_judgement. What the signal measured is stored under the same id; for voice, in voice_anomaly_logs. A call that was not judged has no row.';
comment on column public.judgements.signal is 'The signal that was judged: a row of care.signals, such as voice.';
comment on column public.judgements.model is 'The model that produced the score. Scores of different models are not comparable.';
comment on column public.judgements.occurred_at is 'When the call began.';
comment on column public.judgements.score is '0 = as usual, 1 = completely different, after all adjustments.';
comment on column public.judgements.rule is 'The signal''s rule that produced the score, such as fixed.';
comment on column public.judgements.explanation is 'The reasons for the score, in words. Null: the score says it all.';
comment on column public.judgements.reasons is
    'What was unusual, strongest first: rows of care.reason_texts, which have the words. Empty: nothing is known.';
comment on column public.judgements.is_urgent is
    'Whether a second such call would make it an emergency. Caregivers are told at once, whatever the quiet hours, and a second call is wanted.';
comment on column public.judgements.likely_patient_id is
    'Who spoke instead, if it sounded like another patient of the household. Null: not known.';
comment on column public.judgements.policy_id is 'The thresholds and weights at that time: scoring_policies.policy.';
comment on column public.judgements.alert_sent is 'Whether a provider has accepted a message about it.';
grant select on public.judgements to authenticated, service_role;

create function care.note_checkin(patient public.patients, at timestamptz, score double precision, severity public.anomaly_severity)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into public.daily_checkins as checkin (patient_id, date, anomaly_score, severity)
    values (patient.id, care.local_date(note_checkin.at, patient.timezone), note_checkin.score, note_checkin.severity)
    on conflict (patient_id, date) do update
    set anomaly_score = excluded.anomaly_score,
        severity = excluded.severity
    where checkin.anomaly_score is null or checkin.anomaly_score < excluded.anomaly_score
$$;
comment on function care.note_checkin is
    'Keeps the highest score of the patient''s local day in its check-in. Called by care.record_judgement.';
revoke execute on function care.note_checkin from public;

create function care.record_judgement(
    call public.call_logs, thresholds care.thresholds, score double precision, cause text, rule text, policy jsonb,
    explanation text default null, severity public.anomaly_severity default null, at timestamptz default clock_timestamp(),
    reasons text[] default '{}', is_urgent boolean default false, is_alerted boolean default true, likely_patient_id uuid default null
)
returns public.judgements
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    reached constant public.anomaly_severity :=
        coalesce(record_judgement.severity, care.severity(record_judgement.score, thresholds));
    level constant public.alert_level := care.alert_level(reached);
    patient public.patients;
    judgement public.judgements;
begin
    insert into public.judgements (
        signal, model, patient_id, call_log_id, occurred_at, score, severity, alert_type, rule, explanation, reasons, is_urgent,
        likely_patient_id, policy_id
    )
    values (
        thresholds.signal, thresholds.model, call.patient_id, call.id, call."timestamp", record_judgement.score,
        reached, care.alert_type(level), record_judgement.rule, record_judgement.explanation, record_judgement.reasons,
        record_judgement.is_urgent, record_judgement.likely_patient_id,
        care.keep_scoring_policy(
            record_judgement.policy || (to_jsonb(thresholds) - '{id,organisation_id,signal,model}'::text[]))
    )
    returning * into judgement;

    if judgement.score > thresholds.checkin_above then
        select patients.* into patient from public.patients where patients.id = call.patient_id;
        perform care.note_checkin(patient, call."timestamp", judgement.score, judgement.severity);
    end if;
    if level is not null
        and record_judgement.is_alerted
        and not care.is_known_illness(call.patient_id, call."timestamp", level)
    then
        perform care.raise_alert(
            call.patient_id, record_judgement.cause, level, record_judgement.at, call.id, judgement.id, judgement.score,
            record_judgement.is_urgent);
    end if;
    return judgement;
end
$$;
comment on function care.record_judgement is
    'Records a score as a judgement, raises the day''s check-in, an alert and its messages as needed, and returns the judgement. Nothing else does so. If severity is null, it follows from the thresholds. A judgement that is not alerted (is_alerted) is only shown. The caller has called care.lock_patient. Called by each signal, once per call and model.';
revoke execute on function care.record_judgement from public;

create function care.likely_speaker_name(judgement_id uuid)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select others.name
    from public.judgements
    join public.patients as others on others.id = judgements.likely_patient_id
    where judgements.id = likely_speaker_name.judgement_id
        and (not care.is_caller_a_caregiver() or judgements.patient_id in (select care.patients_of_caller('viewer')))
$$;
comment on function care.likely_speaker_name is
    'Returns the name of the patient who seems to have spoken instead, to caregivers of the patient who was called and to operators. Null: not known. Security definer: caregivers may not read the other patient. Called by views.';
revoke execute on function care.likely_speaker_name from public;
grant execute on function care.likely_speaker_name to authenticated, service_role;

create policy caregivers_read_their_patients_checkins on public.daily_checkins
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

create policy caregivers_read_what_their_patients_were_judged_by on public.scoring_policies
    for select to authenticated
    using (true);

create policy caregivers_read_their_patients_judgements on public.judgements
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));
