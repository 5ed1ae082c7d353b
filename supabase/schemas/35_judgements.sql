-- Judgements: one row per call that was scored, with everything that explains and recomputes its score.

alter table public.daily_checkins
    add column if not exists patient_id uuid not null
        constraint a_checkin_is_a_patients references public.patients (id) on delete cascade,
    add column if not exists date date,
    add column if not exists anomaly_score double precision,
    add column if not exists severity public.anomaly_severity,
    add column if not exists created_at timestamptz not null default now();
create unique index if not exists a_patient_has_one_checkin_a_day on public.daily_checkins (patient_id, date);
comment on table public.daily_checkins is 'The patient''s days; a call scored above the policy''s checkin_above leaves its score here.';
comment on column public.daily_checkins.date is 'The day in the patient''s own time zone.';
comment on column public.daily_checkins.anomaly_score is 'The highest of that day.';
grant select, insert, update, delete on public.daily_checkins to service_role;

-- Millions of scores, and a policy that changes a few times a year: its values are kept once, and each log names them.
create table public.scoring_policies (
    id integer generated always as identity constraint scoring_policies_pkey primary key,
    policy jsonb not null constraint a_policy_is_kept_once unique,
    first_used_at timestamptz not null default now()
);
alter table public.scoring_policies enable row level security;
revoke all on public.scoring_policies from anon, authenticated, service_role;
comment on table public.scoring_policies is
    'Rows of voice.policies as they were when calls were scored by them: never changed, one for all the logs that it judged.';
comment on column public.scoring_policies.policy is 'Every threshold and weight, by its name in voice.policies.';
grant select on public.scoring_policies to authenticated, service_role;

create function voice.scoring_policy_id(policy voice.policies)
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
        where scoring_policies.policy = to_jsonb(scoring_policy_id.policy);
        exit when found;
        -- Another completion may keep the same values at this moment: then its row is found next time round.
        insert into public.scoring_policies (policy)
        values (to_jsonb(scoring_policy_id.policy))
        on conflict do nothing;
    end loop;
    return kept_id;
end
$$;
comment on function voice.scoring_policy_id is 'Where the values of this policy are kept; they are written where they are new. Called by voice.score_call.';
revoke execute on function voice.scoring_policy_id from public;

create table public.voice_anomaly_logs (
    id uuid constraint voice_anomaly_logs_pkey primary key default care.uuid_v7(),
    patient_id uuid not null
        constraint a_log_is_of_a_patient references public.patients (id) on delete cascade,
    call_log_id uuid
        constraint a_log_is_of_a_call references public.call_logs (id) on delete set null,
    "timestamp" timestamptz not null,
    anomaly_score double precision not null
        constraint an_anomaly_score_is_a_share check (anomaly_score between 0 and 1),
    raw_similarity double precision not null
        constraint a_raw_similarity_is_a_cosine check (raw_similarity between -1.000001 and 1.000001),
    normalized_score double precision not null
        constraint the_normalized_score_is_the_anomaly_score check (normalized_score = anomaly_score),
    adjusted_from double precision not null
        constraint an_unadjusted_score_is_a_share check (adjusted_from between 0 and 1),
    snr double precision,
    severity public.anomaly_severity not null,
    alert_type public.alert_type
        constraint an_alert_type_follows_from_the_severity check (
            alert_type is not distinct from case severity
                when 'medium' then 'warning'::public.alert_type
                when 'high' then 'emergency'
                when 'critical' then 'emergency'
            end),
    noise_adjusted boolean not null,
    alert_sent boolean not null default false,
    notes text
        constraint notes_on_a_call_have_at_most_10000_characters check (char_length(notes) <= 10000),
    encoder text not null
        constraint a_log_names_its_encoder references voice.encoders (id),
    embedding_id bigint
        constraint a_log_keeps_its_embedding references voice.embeddings (id) on delete set null,
    baseline_id bigint
        constraint a_log_keeps_its_baseline references voice.baselines (id) on delete set null,
    baseline_version integer not null,
    is_provisional boolean not null,
    added_to_baseline boolean not null,
    local_hour double precision,
    policy_id integer not null
        constraint a_log_keeps_its_policy references public.scoring_policies (id),
    created_at timestamptz not null default now(),
    constraint a_call_is_scored_once_per_encoder unique (call_log_id, encoder)
);
create index voice_anomaly_logs_by_patient on public.voice_anomaly_logs (patient_id, "timestamp" desc);
create index voice_anomaly_logs_by_time on public.voice_anomaly_logs ("timestamp" desc);
create index voice_anomaly_logs_by_embedding on public.voice_anomaly_logs (embedding_id);
create index voice_anomaly_logs_by_baseline on public.voice_anomaly_logs (baseline_id);
create index voice_anomaly_logs_by_encoder on public.voice_anomaly_logs (encoder);
create index voice_anomaly_logs_by_policy on public.voice_anomaly_logs (policy_id);
alter table public.voice_anomaly_logs enable row level security;
revoke all on public.voice_anomaly_logs from anon, authenticated, service_role;
comment on table public.voice_anomaly_logs is
    'One row per scored call, written by voice.complete_check alone; callers edit notes. A call that was not judged has none.';
comment on column public.voice_anomaly_logs."timestamp" is 'When the call began.';
comment on column public.voice_anomaly_logs.anomaly_score is '0 = as usual, 1 = completely different, after the adjustments.';
comment on column public.voice_anomaly_logs.raw_similarity is 'Cosine similarity of voice and baseline, -1 .. 1.';
comment on column public.voice_anomaly_logs.normalized_score is 'The same as anomaly_score, under its earlier name.';
comment on column public.voice_anomaly_logs.adjusted_from is 'The score before the noise and time-of-day adjustments.';
comment on column public.voice_anomaly_logs.snr is 'Speech against the noise floor, dB; null: not known.';
comment on column public.voice_anomaly_logs.noise_adjusted is
    'The adjustments moved the score across a threshold: listen before trusting it.';
comment on column public.voice_anomaly_logs.is_provisional is 'The baseline had fewer samples than the policy asks for.';
comment on column public.voice_anomaly_logs.added_to_baseline is 'The call, healthy and low, became a sample itself.';
comment on column public.voice_anomaly_logs.local_hour is 'The hour on the patient''s clock, with its fraction.';
comment on column public.voice_anomaly_logs.policy_id is 'The policy''s values as they were at that moment: scoring_policies.policy.';
grant select, delete on public.voice_anomaly_logs to service_role;
grant update (notes) on public.voice_anomaly_logs to service_role;
grant select, update (notes) on public.voice_anomaly_logs to authenticated;

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
comment on function care.note_checkin is 'The patient''s local day keeps the highest score of its calls. Called by voice.score_call.';
revoke execute on function care.note_checkin from public;

create function voice.score_call(
    patient public.patients,
    call public.call_logs,
    stored voice.embeddings,
    baseline voice.baselines,
    policy voice.policies,
    at timestamptz
)
returns public.voice_anomaly_logs
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    local_hour double precision := care.local_hour(call."timestamp", patient.timezone);
    judged voice.judgement := voice.judge(baseline.embedding, stored.embedding, stored.snr_db, local_hour, policy);
    -- By the score without the adjustments: what a noisy line or the hour excused is not learned from.
    is_sample boolean := voice.severity(judged.anomaly, policy) = 'low'
        and care.is_healthy_at(patient, call."timestamp")
        and voice.add_sample(baseline, stored.id, policy);
    logged public.voice_anomaly_logs;
begin
    insert into public.voice_anomaly_logs (
        patient_id, call_log_id, "timestamp", anomaly_score, raw_similarity, normalized_score, adjusted_from, snr,
        severity, alert_type, noise_adjusted, encoder, embedding_id, baseline_id, baseline_version, is_provisional,
        added_to_baseline, local_hour, policy_id
    )
    values (
        patient.id, call.id, call."timestamp", judged.score, judged.raw_similarity, judged.score, judged.anomaly,
        stored.snr_db, judged.severity, judged.alert_type, judged.noise_adjusted, stored.encoder, stored.id, baseline.id,
        baseline.version, baseline.sample_count < policy.baseline_minimum_samples, is_sample, local_hour,
        voice.scoring_policy_id(policy)
    )
    returning * into logged;

    update public.call_logs
    set anomaly_score = judged.score
    where call_logs.id = call.id;

    if judged.score > policy.checkin_above then
        perform care.note_checkin(patient, call."timestamp", judged.score, judged.severity);
    end if;
    if judged.alert_type is not null
        and not care.is_known_illness(patient.id, call."timestamp", care.alert_level(judged.severity))
    then
        perform care.raise_alert(
            patient.id, 'voice_changed', care.alert_level(judged.severity), score_call.at, logged.id, judged.score);
    end if;
    return logged;
end
$$;
comment on function voice.score_call is
    'Judges one stored voiceprint: log, call, check-in, alert, and baseline where it is a sample. The caller holds care.lock_patient. Called by voice.complete_check.';
revoke execute on function voice.score_call from public;

create function voice.anomaly_logs(patient_ids uuid[], since timestamptz, maximum_rows integer)
returns setof public.voice_anomaly_logs
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select *
    from public.voice_anomaly_logs
    where voice_anomaly_logs.patient_id = any (anomaly_logs.patient_ids)
        and (anomaly_logs.since is null or voice_anomaly_logs."timestamp" >= anomaly_logs.since)
    order by voice_anomaly_logs."timestamp" desc, voice_anomaly_logs.created_at desc
    limit anomaly_logs.maximum_rows
$$;
comment on function voice.anomaly_logs is
    'The logs of these patients, newest first. Called by GET /api/anomaly-logs and `retrocare logs`.';
revoke execute on function voice.anomaly_logs from public;
grant execute on function voice.anomaly_logs to retrocare_service;

create policy caregivers_read_their_patients_checkins on public.daily_checkins
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

create policy caregivers_read_what_their_patients_were_judged_by on public.scoring_policies
    for select to authenticated
    using (true);

create policy caregivers_read_their_patients_logs on public.voice_anomaly_logs
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

create policy caregivers_write_notes_on_their_patients_logs on public.voice_anomaly_logs
    for update to authenticated
    using (patient_id = any (array(select care.patients_of_caller('family'))));
