-- Voice logs: the detail of each voice judgement, with everything needed to explain and recompute its score.

create table public.voice_anomaly_logs (
    id uuid constraint voice_anomaly_logs_pkey primary key
        constraint a_log_is_the_detail_of_a_judgement references public.judgements (id) on delete cascade,
    patient_id uuid not null
        constraint a_log_is_of_a_patient references public.patients (id) on delete cascade,
    call_log_id uuid not null
        constraint a_log_is_of_a_call references public.call_logs (id) on delete cascade,
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
            alert_type is not distinct from care.alert_type(care.alert_level(severity))),
    noise_adjusted boolean not null,
    alert_sent boolean not null default false,
    notes text
        constraint notes_on_a_call_have_at_most_10000_characters check (char_length(notes) <= 10000),
    encoder text not null,
    embedding_id bigint
        constraint a_log_keeps_its_embedding references voice.embeddings (id) on delete set null,
    baseline_id bigint
        constraint a_log_keeps_its_baseline references voice.baselines (id) on delete set null,
    baseline_version integer not null,
    is_provisional boolean not null,
    added_to_baseline boolean not null,
    local_hour double precision,
    created_at timestamptz not null default now(),
    constraint a_call_is_scored_once_per_encoder unique (call_log_id, encoder)
);
create index voice_anomaly_logs_by_patient on public.voice_anomaly_logs (patient_id, "timestamp" desc);
create index voice_anomaly_logs_by_time on public.voice_anomaly_logs ("timestamp" desc);
create index voice_anomaly_logs_by_embedding on public.voice_anomaly_logs (embedding_id);
create index voice_anomaly_logs_by_baseline on public.voice_anomaly_logs (baseline_id);
alter table public.voice_anomaly_logs enable row level security;
revoke all on public.voice_anomaly_logs from anon, authenticated, service_role;
comment on table public.voice_anomaly_logs is
    'The measures behind a voice judgement, under the judgement''s id. Only voice.complete_check writes it; callers may edit notes.';
comment on column public.voice_anomaly_logs."timestamp" is 'When the call began.';
comment on column public.voice_anomaly_logs.anomaly_score is '0 = as usual, 1 = completely different, after the adjustments.';
comment on column public.voice_anomaly_logs.raw_similarity is 'Cosine similarity of embedding and baseline, -1 .. 1.';
comment on column public.voice_anomaly_logs.normalized_score is 'Equal to anomaly_score, under its earlier name.';
comment on column public.voice_anomaly_logs.adjusted_from is 'The score before the noise and time-of-day adjustments.';
comment on column public.voice_anomaly_logs.encoder is 'The judgement''s model.';
comment on column public.voice_anomaly_logs.snr is 'Level of speech above the noise floor, dB. Null: not known.';
comment on column public.voice_anomaly_logs.noise_adjusted is
    'Whether the adjustments changed the severity: listen to the recording before trusting the score.';
comment on column public.voice_anomaly_logs.is_provisional is 'Whether the baseline had fewer samples than the policy requires.';
comment on column public.voice_anomaly_logs.added_to_baseline is 'Whether the call, healthy and with a low score, became a sample itself.';
comment on column public.voice_anomaly_logs.local_hour is 'The hour of the call in the patient''s time zone, with its fraction.';
grant select, delete on public.voice_anomaly_logs to service_role;
grant update (notes) on public.voice_anomaly_logs to service_role;
grant select, update (notes) on public.voice_anomaly_logs to authenticated;

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
    thresholds constant care.thresholds := care.thresholds_for(policy.encoder, patient.id);
    local_hour constant double precision := care.local_hour(call."timestamp", patient.timezone);
    judged constant voice.comparison :=
        voice.judge(baseline.embedding, stored.embedding, stored.snr_db, local_hour, policy, thresholds);
    -- Judged by the score before adjustments: a score that is low only because noise or the time of day reduced it adds no sample.
    is_sample constant boolean := care.severity(judged.anomaly, thresholds) = 'low'
        and care.is_healthy_at(patient, call."timestamp")
        and voice.add_sample(baseline, stored.id, policy);
    judgement public.judgements;
    logged public.voice_anomaly_logs;
begin
    update public.call_logs
    set anomaly_score = judged.score
    where call_logs.id = call.id;

    judgement := care.record_judgement(
        call, thresholds, judged.score, cause => 'voice_changed', rule => 'fixed', policy => to_jsonb(policy),
        severity => judged.severity, at => score_call.at);
    insert into public.voice_anomaly_logs (
        id, patient_id, call_log_id, "timestamp", anomaly_score, raw_similarity, normalized_score, adjusted_from, snr,
        severity, alert_type, noise_adjusted, encoder, embedding_id, baseline_id, baseline_version, is_provisional, added_to_baseline,
        local_hour
    )
    values (
        judgement.id, patient.id, call.id, call."timestamp", judged.score, judged.raw_similarity, judged.score, judged.anomaly,
        stored.snr_db, judged.severity, judged.alert_type, judged.noise_adjusted, stored.encoder, stored.id, baseline.id,
        baseline.version, baseline.sample_count < policy.baseline_minimum_samples, is_sample, local_hour
    )
    returning * into logged;
    return logged;
end
$$;
comment on function voice.score_call is
    'Scores one stored embedding: writes the judgement, the log and the call''s score, and adds the sample to the baseline if it qualifies. Returns the log. The caller has called care.lock_patient. Called by voice.complete_check.';
revoke execute on function voice.score_call from public;

create function voice.on_judgement_told()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.voice_anomaly_logs set alert_sent = new.alert_sent where voice_anomaly_logs.id = new.id;
    return null;
end
$$;
comment on function voice.on_judgement_told is
    'Trigger: copies alert_sent from a judgement to its log. Security definer: roles that send messages may not write logs.';
revoke execute on function voice.on_judgement_told from public;

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
    'Returns the logs of these patients, newest first. Called by GET /api/anomaly-logs and `retrocare logs`.';
revoke execute on function voice.anomaly_logs from public;
grant execute on function voice.anomaly_logs to retrocare_service;

create policy caregivers_read_their_patients_logs on public.voice_anomaly_logs
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

create policy caregivers_write_notes_on_their_patients_logs on public.voice_anomaly_logs
    for update to authenticated
    using (patient_id = any (array(select care.patients_of_caller('family'))));
