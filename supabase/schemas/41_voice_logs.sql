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
    rule public.scoring_rule not null default 'fixed',
    verdict public.voice_verdict not null,
    pace public.change_pace,
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
    local_day date,
    speech_seconds double precision,
    calibration_id integer
        constraint a_log_keeps_its_calibration references voice.calibrations (id),
    reference_version integer,
    is_clean boolean,
    expected_distance double precision,
    population_deviation double precision,
    log_likelihood_ratio double precision,
    whitened_deviation double precision,
    whitened_log_likelihood_ratio double precision,
    warnings_per_year double precision,
    calls_per_year double precision,
    decision_number integer,
    usual_mean double precision,
    usual_variance double precision,
    usual_degrees double precision,
    personal_deviation double precision,
    cusum_before double precision,
    cusum_after double precision,
    is_late boolean not null default false,
    is_step boolean not null default false,
    is_learned boolean not null default false,
    is_disowned boolean not null default false,
    created_at timestamptz not null default now(),
    constraint a_call_is_scored_once_per_encoder unique (call_log_id, encoder),
    constraint decisions_are_counted unique (patient_id, encoder, decision_number),
    constraint a_calibrated_log_can_be_replayed check (
        (rule = 'calibrated') = (decision_number is not null)
        and (rule <> 'calibrated' or (
            calibration_id is not null and is_clean is not null and expected_distance is not null and population_deviation is not null
            and log_likelihood_ratio is not null and warnings_per_year is not null and calls_per_year is not null
            and personal_deviation is not null and cusum_before is not null and cusum_after is not null and pace is not null
            and local_day is not null)))
);
create index voice_anomaly_logs_by_calibration on public.voice_anomaly_logs (calibration_id);
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
comment on column public.voice_anomaly_logs.raw_similarity is
    'Cosine similarity, -1 .. 1, of the embedding and what it was measured against: the baseline or, under the calibrated rule, the reference that follows it.';
comment on column public.voice_anomaly_logs.normalized_score is 'Equal to anomaly_score, under its earlier name.';
comment on column public.voice_anomaly_logs.adjusted_from is
    'The score before the noise and time-of-day adjustments; under the calibrated rule, the score that it would have if it were confirmed.';
comment on column public.voice_anomaly_logs.rule is 'How the score was computed. A provisional score is by the fixed rule always.';
comment on column public.voice_anomaly_logs.verdict is 'as_usual, changed, or another_voice: it did not sound like this person.';
comment on column public.voice_anomaly_logs.pace is 'Whether this call alone decided the score, or the calls of the last days together. Null: by the fixed rule.';
comment on column public.voice_anomaly_logs.speech_seconds is 'Net speech that was analysed.';
comment on column public.voice_anomaly_logs.calibration_id is 'The calibration by which the call was measured. Null: there was none, or the score is provisional.';
comment on column public.voice_anomaly_logs.reference_version is
    'Which version of the patient''s reference it was measured against. Null: against the baseline itself.';
comment on column public.voice_anomaly_logs.is_clean is 'Whether the SNR is in the calibration''s highest bin.';
comment on column public.voice_anomaly_logs.expected_distance is 'How far a healthy call with this noise and length lies from the baseline on average.';
comment on column public.voice_anomaly_logs.population_deviation is 'How far ln(distance) is above what is expected, in standard deviations of the population.';
comment on column public.voice_anomaly_logs.log_likelihood_ratio is 'Below 0, another person is likelier than this one.';
comment on column public.voice_anomaly_logs.whitened_deviation is 'population_deviation in the whitened space.';
comment on column public.voice_anomaly_logs.whitened_log_likelihood_ratio is 'log_likelihood_ratio in the whitened space.';
comment on column public.voice_anomaly_logs.warnings_per_year is 'How many warnings a year by chance were accepted for this patient.';
comment on column public.voice_anomaly_logs.calls_per_year is 'How often the patient was called.';
comment on column public.voice_anomaly_logs.decision_number is 'Counts the patient''s calls under the calibrated rule, in the order in which they were judged. Null: by the fixed rule.';
comment on column public.voice_anomaly_logs.usual_mean is 'What was expected of this patient''s population_deviation, from the calls learned so far.';
comment on column public.voice_anomaly_logs.usual_variance is 'Its variance.';
comment on column public.voice_anomaly_logs.usual_degrees is 'How well that is known, in degrees of freedom.';
comment on column public.voice_anomaly_logs.personal_deviation is 'population_deviation against this patient''s own mean and variance, as a standard normal deviate. Above 2 is far from usual.';
comment on column public.voice_anomaly_logs.cusum_before is 'The CUSUM before the call.';
comment on column public.voice_anomaly_logs.cusum_after is 'The CUSUM after the call: how much the last days together differ.';
comment on column public.voice_anomaly_logs.is_late is 'Whether a later call had been judged before: the chart did not change.';
comment on column public.voice_anomaly_logs.is_step is 'Whether the change came suddenly after steady calls, as with a new telephone or room.';
comment on column public.voice_anomaly_logs.is_learned is 'Whether the patient''s own mean and variance were learned from it.';
comment on column public.voice_anomaly_logs.is_disowned is 'Whether somebody said that this was another person, or another recording. It then counts no longer.';
comment on column public.voice_anomaly_logs.encoder is 'The judgement''s model.';
comment on column public.voice_anomaly_logs.snr is 'Level of speech above the noise floor, dB. Null: not known.';
comment on column public.voice_anomaly_logs.noise_adjusted is
    'Whether the adjustments changed the severity: listen to the recording before trusting the score.';
comment on column public.voice_anomaly_logs.is_provisional is 'Whether the baseline had fewer samples than the policy requires.';
comment on column public.voice_anomaly_logs.added_to_baseline is 'Whether the call, healthy and with a low score, became a sample itself.';
comment on column public.voice_anomaly_logs.local_hour is 'The hour of the call in the patient''s time zone, with its fraction.';
comment on column public.voice_anomaly_logs.local_day is 'The date of the call in the time zone that the patient had then.';
grant select, delete on public.voice_anomaly_logs to service_role;
grant update (notes) on public.voice_anomaly_logs to service_role;
grant select, update (notes) on public.voice_anomaly_logs to authenticated;

create function voice.logged_observation(log public.voice_anomaly_logs)
returns voice.observation
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select (
        log.is_clean, 1 - log.raw_similarity, log.expected_distance, log.population_deviation, log.log_likelihood_ratio,
        log.whitened_deviation, log.whitened_log_likelihood_ratio
    )::voice.observation
$$;
comment on function voice.logged_observation is 'Returns what a call measured, from its log.';
revoke execute on function voice.logged_observation from public;

create function voice.counted_calls_per_year(patient_id uuid, encoder text, at timestamptz)
returns double precision
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select greatest(52, least(1095, count(*) * 365 / 90.0::double precision))
    from public.voice_anomaly_logs
    where voice_anomaly_logs.patient_id = counted_calls_per_year.patient_id
        and voice_anomaly_logs.encoder = counted_calls_per_year.encoder
        and voice_anomaly_logs."timestamp" > counted_calls_per_year.at - interval '90 days'
        and voice_anomaly_logs."timestamp" <= counted_calls_per_year.at
$$;
comment on function voice.counted_calls_per_year is
    'Returns the calls a year at the rate of the last 90 days, from once a week to three times a day.';
revoke execute on function voice.counted_calls_per_year from public;

create function voice.household(patient public.patients)
returns setof public.patients
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select others.*
    from public.patients as others
    where others.phone = patient.phone and others.organisation_id = patient.organisation_id and others.id <> patient.id
$$;
comment on function voice.household is 'Returns the other patients of the same organisation with the same phone number.';
revoke execute on function voice.household from public;

create function voice.likely_speaker(patient public.patients, stored voice.embeddings, calibration voice.calibrations)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    likeliest record;
begin
    select others.id, compared.ratio into likeliest
    from voice.household(patient) as others
    join voice.baselines on baselines.patient_id = others.id and baselines.encoder = stored.encoder and baselines.superseded_at is null
    cross join lateral voice.observe(
        calibration, baselines.embedding, voice.sample_variance(baselines.id, calibration.id, 'raw'),
        voice.whiten(baselines.embedding, calibration.id), voice.sample_variance(baselines.id, calibration.id, 'whitened'),
        stored.embedding, stored.speech_seconds, stored.snr_db) as observed
    cross join lateral (
        select case
            when observed.is_clean then least(observed.log_likelihood_ratio, observed.whitened_log_likelihood_ratio)
            else coalesce(observed.whitened_log_likelihood_ratio, observed.log_likelihood_ratio)
        end as ratio
    ) as compared
    where others.voice_consent_at is not null and compared.ratio > 0
    order by compared.ratio desc
    limit 1;
    if likeliest.id is not null then
        perform care.note_audit(
            'voice_matched', 'voice.likely_speaker', likeliest.id, jsonb_build_object('encoder', stored.encoder));
    end if;
    return likeliest.id;
end
$$;
comment on function voice.likely_speaker is
    'Returns who of the patient''s household spoke instead, among those who enrolled and consent; null if nobody is likelier than a stranger. A match is noted in the audit log.';
revoke execute on function voice.likely_speaker from public;

create function voice.decision_in_words(
    patient public.patients, verdict public.voice_verdict, pace public.change_pace, is_urgent boolean, is_step boolean,
    warnings_per_year double precision, reasons text[]
)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Rarer events than those that the family accepts are not known well enough to be called rarer.
    return (
        select nullif(concat_ws(' ',
            case
                when verdict = 'another_voice' then format('It did not sound like %s.', names.patient)
                when verdict = 'changed' then format(
                    '%s so by chance less than %s a year.',
                    case pace
                        when 'sustained' then format('The calls of the last days together differ from how %s usually sounds; a healthy voice does', names.patient)
                        else format('This call differs from how %s usually sounds; a healthy voice does', names.patient)
                    end,
                    case decision_in_words.warnings_per_year when 1 then 'once' else decision_in_words.warnings_per_year || ' times' end)
            end,
            'It was ' || names.how || '.',
            case when is_urgent then 'It is one call only: a second one would confirm it.' end,
            case when is_step then 'The calls before it were steady: a new telephone or room is possible.' end), '')
        from (
            select
                care.plain_name(patient.name, 'this person') as patient,
                replace(care.reasons_in_words(decision_in_words.reasons, 'en'), '{patient}', care.plain_name(patient.name, 'this person')) as how
        ) as names
    );
end
$$;
comment on function voice.decision_in_words is 'Says in English why a call was judged as it was. Null: it was as usual.';
revoke execute on function voice.decision_in_words from public;

create function voice.is_sample(
    stored voice.embeddings, policy voice.policies, calibration voice.calibrations, decided voice.decision,
    thresholds care.thresholds, anomaly double precision
)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when decided.score is not null then
            decided.verdict <> 'another_voice'
            and decided.deviation < calibration.far_above
            and decided.cusum_after < calibration.sample_maximum_cusum
            and coalesce(stored.snr_db >= calibration.sample_minimum_snr_db, false)
        -- Judged by the score before adjustments: a score that is low only because noise or the time of day reduced it adds no sample.
        else care.severity(is_sample.anomaly, thresholds) = 'low'
    end
$$;
comment on function voice.is_sample is
    'Returns whether a call is near enough to usual, and its line clear enough, to become a sample of the baseline or to move its reference. anomaly is that of the fixed rule, for a call that it scored.';
revoke execute on function voice.is_sample from public;

create function voice.record_score(
    patient public.patients, call public.call_logs, stored voice.embeddings, policy voice.policies, thresholds care.thresholds,
    calibration voice.calibrations, logged public.voice_anomaly_logs, is_urgent boolean, at timestamptz
)
returns public.judgements
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    likely_patient_id constant uuid :=
        case when logged.verdict = 'another_voice' then voice.likely_speaker(patient, stored, calibration) end;
    reasons constant text[] := case when logged.verdict = 'changed' then array(
        select unusual.reason from voice.unusual_features(patient.id, stored.quality) as unusual order by abs(unusual.deviation) desc
    ) else '{}' end;
begin
    return care.record_judgement(
        call, thresholds, logged.anomaly_score,
        cause => case logged.verdict when 'another_voice' then 'another_voice' else 'voice_changed' end,
        rule => logged.rule::text,
        policy => to_jsonb(policy),
        severity => logged.severity,
        at => record_score.at,
        explanation => case when logged.rule = 'calibrated' then voice.decision_in_words(
            patient, logged.verdict, logged.pace, record_score.is_urgent, logged.is_step, logged.warnings_per_year, reasons) end,
        reasons => reasons,
        is_urgent => record_score.is_urgent,
        -- A calibrated policy tells nobody about a score by the fixed rule, which it gives while the baseline is incomplete.
        is_alerted => policy.rule = logged.rule,
        likely_patient_id => likely_patient_id);
end
$$;
comment on function voice.record_score is 'Records a scored call as a judgement, with its words, and returns that. Called by voice.score_call.';
revoke execute on function voice.record_score from public;

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
    is_provisional constant boolean := baseline.sample_count < policy.baseline_minimum_samples;
    is_calibrated constant boolean := policy.rule = 'calibrated' and not is_provisional;
    is_healthy constant boolean := care.is_healthy_at(patient, call."timestamp");
    calibration voice.calibrations;
    chart voice.charts;
    observed voice.observation;
    decided voice.decision;
    judged voice.comparison;
    judgement public.judgements;
    logged public.voice_anomaly_logs;
begin
    -- What is measured is kept under either rule, so that the calibrated one can be tried on a history of the fixed one.
    if policy.calibration_id is not null and not is_provisional then
        select calibrations.* into calibration from voice.calibrations where calibrations.id = policy.calibration_id;
        chart := voice.chart_of(baseline, calibration.id, call."timestamp");
        observed := voice.observe(
            calibration, case when is_calibrated then chart.reference else baseline.embedding end, chart.sample_variance, chart.whitened_anchor, chart.whitened_sample_variance,
            stored.embedding, stored.speech_seconds, stored.snr_db);
        logged.calibration_id := calibration.id;
        logged.is_clean := observed.is_clean;
        logged.expected_distance := observed.expected_distance;
        logged.population_deviation := observed.deviation;
        logged.log_likelihood_ratio := observed.log_likelihood_ratio;
        logged.whitened_deviation := observed.whitened_deviation;
        logged.whitened_log_likelihood_ratio := observed.whitened_log_likelihood_ratio;
        logged.reference_version := case when is_calibrated then chart.reference_version end;
        logged.warnings_per_year := care.warnings_per_year(patient.id);
    end if;
    logged.is_late := coalesce(is_calibrated and call."timestamp" < chart.last_call_at, false);
    logged.local_hour := care.local_hour(call."timestamp", patient.timezone);
    logged.local_day := care.local_date(call."timestamp", patient.timezone);

    if is_calibrated then
        if not logged.is_late and call."timestamp" >= chart.calls_counted_at + make_interval(days => case chart.calls_per_year when 365 then 90 else 30 end) then
            chart.calls_per_year := voice.counted_calls_per_year(patient.id, stored.encoder, call."timestamp");
            chart.calls_counted_at := call."timestamp";
        end if;
        decided := voice.decide(
            chart.state, observed, calibration, thresholds, logged.warnings_per_year, chart.calls_per_year,
            logged.local_day, is_healthy, logged.is_late);
        logged.anomaly_score := decided.score;
        logged.raw_similarity := 1 - observed.distance;
        logged.adjusted_from := decided.unconfirmed_score;
        logged.severity := decided.severity;
        logged.noise_adjusted := false;
        logged.verdict := decided.verdict;
        logged.pace := decided.pace;
        logged.is_step := decided.is_step;
        logged.is_learned := decided.is_learned;
        logged.calls_per_year := chart.calls_per_year;
        logged.usual_mean := decided.usual_mean;
        logged.usual_variance := decided.usual_variance;
        logged.usual_degrees := decided.usual_degrees;
        logged.personal_deviation := decided.deviation;
        logged.cusum_before := decided.cusum_before;
        logged.cusum_after := decided.cusum_after;
        logged.decision_number := chart.decision_count + 1;
    else
        judged := voice.judge(
            baseline.embedding, stored.embedding, stored.snr_db, logged.local_hour, policy, thresholds);
        logged.anomaly_score := judged.score;
        logged.raw_similarity := judged.raw_similarity;
        logged.adjusted_from := judged.anomaly;
        logged.severity := judged.severity;
        logged.noise_adjusted := judged.noise_adjusted;
        logged.verdict := case judged.severity when 'low' then 'as_usual' else 'changed' end;
        logged.is_step := false;
        logged.is_learned := false;
    end if;
    logged.rule := case when is_calibrated then 'calibrated' else 'fixed' end;
    logged.added_to_baseline := voice.is_sample(stored, policy, calibration, decided, thresholds, judged.anomaly)
        and is_healthy and not logged.is_late
        and voice.add_sample(baseline, stored.id, policy);

    update public.call_logs
    set anomaly_score = logged.anomaly_score
    where call_logs.id = call.id;
    judgement := voice.record_score(patient, call, stored, policy, thresholds, calibration, logged, coalesce(decided.is_urgent, false), score_call.at);
    if is_healthy and not logged.is_late and logged.verdict <> 'another_voice' then
        perform voice.learn_features(patient.id, stored.quality);
    end if;

    logged.id := judgement.id;
    logged.patient_id := patient.id;
    logged.call_log_id := call.id;
    logged."timestamp" := call."timestamp";
    logged.normalized_score := logged.anomaly_score;
    logged.snr := stored.snr_db;
    logged.speech_seconds := stored.speech_seconds;
    logged.alert_type := judgement.alert_type;
    logged.alert_sent := judgement.alert_sent;
    logged.encoder := stored.encoder;
    logged.embedding_id := stored.id;
    logged.baseline_id := baseline.id;
    logged.baseline_version := baseline.version;
    logged.is_provisional := is_provisional;
    logged.is_disowned := false;
    logged.created_at := clock_timestamp();  -- the patient is locked: the order in which calls were judged
    insert into public.voice_anomaly_logs select logged.*;

    if is_calibrated then
        if not logged.is_late and not logged.added_to_baseline
            and is_healthy
            and baseline.sample_count >= voice.target_samples(policy)
            and voice.is_sample(stored, policy, calibration, decided, thresholds, null)
        then
            chart.reference := voice.followed(
                chart.reference, baseline.embedding, stored.embedding, calibration.following_share,
                voice.least_reference_similarity(calibration.id));
            chart.reference_version := chart.reference_version + 1;
        end if;
        update voice.charts
        set state = decided.after,
            reference = chart.reference,
            reference_version = chart.reference_version,
            decision_count = logged.decision_number,
            calls_per_year = chart.calls_per_year,
            calls_counted_at = chart.calls_counted_at,
            last_call_at = greatest(chart.last_call_at, call."timestamp")
        where charts.patient_id = patient.id and charts.encoder = stored.encoder;
    end if;
    return logged;
end
$$;
comment on function voice.score_call is
    'Scores one stored embedding: writes the judgement, the log, the call''s score and the patient''s chart, and adds the sample to the baseline if it qualifies. Returns the log. The caller has called care.lock_patient. Called by voice.complete_check.';
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
