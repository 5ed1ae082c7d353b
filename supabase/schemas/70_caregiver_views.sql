-- What a caregiver looks at: how each patient is, and each patient's calls in time. All of it with the reader's own rights: a view over a
-- private schema shows the columns that are granted there, never a vector. The order is the reader's (`order by called_at desc limit
-- 100`), and the indexes serve it.

create type public.patient_state as enum (
    'as_usual',             -- nothing of the below
    'changed',              -- a judgement was above low, and nobody has said why
    'not_assessable',       -- the last answered call could not be judged
    'collecting_baseline',  -- too few samples to rely on: scores count, marked
    'no_recent_call'        -- no answered call for too long
);
comment on type public.patient_state is 'How a patient is, as far as is known; caregiver_patients.state says which comes first.';

create view public.caregiver_patients
with (security_invoker = true)
as
select
    patients.id as patient_id,
    patients.name,
    coalesce(me.patient_known_as, patients.name) as known_as,
    me.role,
    patients.timezone,
    case
        when exists (select from public.alert_causes where alert_causes.id = any (alert.causes) and alert_causes.has_score)
            or (latest.severity > 'low' and (latest.created_at <= past_alerts.last_resolved_at) is not true)
            then 'changed'
        when coalesce(answered.last_at, patients.created_at)
            < now() - make_interval(days => coalesce(patients.silent_after_days, settings.recent_call_days))
            then 'no_recent_call'
        when (baselines.sample_count >= policies.baseline_minimum_samples) is not true then 'collecting_baseline'
        when unusable.last_at > coalesce(heard.last_at, '-infinity') then 'not_assessable'
        else 'as_usual'
    end::public.patient_state as state,
    (select max(call_logs."timestamp") from public.call_logs where call_logs.patient_id = patients.id) as last_call_at,
    latest.score as last_score,
    latest.occurred_at as last_scored_at,
    latest.severity,
    scores.mean_7_days as mean_score_7_days,
    scores.count_7_days as score_count_7_days,
    scores.mean_30_days as mean_score_30_days,
    scores.count_30_days as score_count_30_days,
    scores.mean_7_days - scores.mean_7_days_before as trend_7_days,
    scores.mean_30_days - scores.mean_30_days_before as trend_30_days,
    coalesce(baselines.sample_count, 0) as baseline_samples,
    policies.baseline_target_samples,
    (baselines.sample_count >= policies.baseline_minimum_samples) is not true as baseline_is_provisional,
    alert.id as alert_id,
    alert.level as alert_level,
    alert.state as alert_state,
    alert.opened_at as alert_opened_at
from public.patient_caregivers as me
join public.patients on patients.id = me.patient_id
join care.organisation_settings as settings on settings.organisation_id = patients.organisation_id
left join voice.policies on policies.encoder = (select voice.active_encoder())
left join voice.baselines
    on baselines.patient_id = patients.id and baselines.encoder = policies.encoder and baselines.superseded_at is null
left join public.caregiver_alerts as alert on alert.patient_id = patients.id and alert.resolved_at is null
left join lateral (
    select judgements.score, judgements.occurred_at, judgements.severity, judgements.created_at
    from public.judgements
    where judgements.patient_id = patients.id
    order by judgements.occurred_at desc
    limit 1
) as latest on true
cross join lateral (
    select max(caregiver_alerts.resolved_at) as last_resolved_at
    from public.caregiver_alerts
    where caregiver_alerts.patient_id = patients.id
) as past_alerts
left join lateral (
    select call_logs."timestamp" as last_at
    from public.call_logs
    where call_logs.patient_id = patients.id
        and (call_logs.check_reason in ('voicemail', 'not_answered', 'call_failed', 'ended_reason_unknown')) is not true
    order by call_logs."timestamp" desc
    limit 1
) as answered on true
cross join lateral (
    select max(call_logs."timestamp") as last_at
    from public.call_logs
    where call_logs.patient_id = patients.id and call_logs.is_heard
) as heard
cross join lateral (
    select max(call_logs."timestamp") as last_at
    from public.call_logs
    where call_logs.patient_id = patients.id
        and (call_logs.check_state = 'not_assessable' or call_logs.check_reason = 'nobody_spoke')
) as unusable
cross join lateral (
    select
        avg(recent.score) filter (where recent.occurred_at > now() - interval '7 days') as mean_7_days,
        count(*) filter (where recent.occurred_at > now() - interval '7 days') as count_7_days,
        avg(recent.score) filter (where recent.occurred_at > now() - interval '30 days') as mean_30_days,
        count(*) filter (where recent.occurred_at > now() - interval '30 days') as count_30_days,
        avg(recent.score) filter (
            where recent.occurred_at > now() - interval '14 days' and recent.occurred_at <= now() - interval '7 days'
        ) as mean_7_days_before,
        avg(recent.score) filter (where recent.occurred_at <= now() - interval '30 days') as mean_30_days_before
    from public.judgements as recent
    where recent.patient_id = patients.id
        and recent.model = policies.encoder
        and recent.occurred_at > now() - interval '60 days'
) as scores
where me.user_id = (select auth.uid());
comment on view public.caregiver_patients is 'For caregivers: the overview, one row per patient of whoever reads.';
comment on column public.caregiver_patients.known_as is 'What the reader calls the patient (patient_caregivers.patient_known_as), else the name.';
comment on column public.caregiver_patients.role is 'What the reader may do for this patient.';
comment on column public.caregiver_patients.state is
    'The first that holds of: changed (an unresolved alert behind which a judgement is, or a last score above low with no alert resolved since), no_recent_call (no answered call for silent_after_days, else care.organisation_settings.recent_call_days; a new patient has as long), collecting_baseline (no baseline yet, or a provisional one), not_assessable (the last answered call), as_usual.';
comment on column public.caregiver_patients.last_call_at is 'When the last call began, answered or not.';
comment on column public.caregiver_patients.last_score is '0 = as usual, 1 = completely different; null: no call was scored.';
comment on column public.caregiver_patients.last_scored_at is 'When the call of that score began.';
comment on column public.caregiver_patients.severity is 'Of the last score.';
comment on column public.caregiver_patients.mean_score_7_days is 'Of the calls of the last 7 days (7 x 24 hours), by the active encoder; null: none.';
comment on column public.caregiver_patients.mean_score_30_days is 'Of the calls of the last 30 days, by the active encoder; null: none.';
comment on column public.caregiver_patients.trend_7_days is
    'mean_score_7_days less the mean of the 7 days before: above 0, the voice moves away from its baseline. Null where either has no score.';
comment on column public.caregiver_patients.trend_30_days is 'mean_score_30_days less the mean of the 30 days before. Null where either has no score.';
comment on column public.caregiver_patients.baseline_samples is 'Calls that the current baseline is the mean of, by the active encoder; 0: there is none.';
comment on column public.caregiver_patients.baseline_is_provisional is 'Too few samples, or none: scores count, marked.';
comment on column public.caregiver_patients.alert_id is 'The unresolved alert, at most one; null: none.';
revoke all on public.caregiver_patients from anon, authenticated, service_role;
grant select on public.caregiver_patients to authenticated;

create view public.voice_timeline
with (security_invoker = true)
as
select
    call_logs.id as call_log_id,
    call_logs.patient_id,
    call_logs."timestamp" as called_at,
    call_logs."timestamp" at time zone patients.timezone as local_time,
    (extract(epoch from call_logs."timestamp" - (
        select max(earlier."timestamp")
        from public.call_logs as earlier
        where earlier.patient_id = call_logs.patient_id and earlier."timestamp" < call_logs."timestamp"
    )) / 86400)::double precision as days_since_previous,
    log.anomaly_score as score,
    log.raw_similarity as similarity,
    log.severity,
    (newest_check.detail ->> 'snr_db')::double precision as snr_db,
    newest_check.quality,
    case
        when log.id is null then null
        when log.is_provisional or baselines.spread_deviation is null then 0
        else greatest(0, baselines.spread_mean - 2 * baselines.spread_deviation)
    end as usual_from,
    case
        when log.is_provisional or baselines.spread_deviation is null then (scoring_policies.policy ->> 'medium_above')::double precision
        else least(1, baselines.spread_mean + 2 * baselines.spread_deviation)
    end as usual_until,
    log.is_provisional,
    call_logs.check_state as outcome,
    call_logs.check_reason as reason,
    log.notes,
    log.id as log_id
from public.call_logs
join public.patients on patients.id = call_logs.patient_id
left join lateral (
    select *
    from public.voice_anomaly_logs
    where voice_anomaly_logs.call_log_id = call_logs.id
    order by voice_anomaly_logs.created_at desc
    limit 1
) as log on true
left join public.judgements on judgements.id = log.id
left join public.scoring_policies on scoring_policies.id = judgements.policy_id
left join voice.baselines on baselines.id = log.baseline_id
left join lateral (
    select checks.detail, checks.quality
    from care.checks
    where checks.call_log_id = call_logs.id and checks.signal = 'voice' and not checks.is_backfill
    order by checks.id desc
    limit 1
) as newest_check on true;
comment on view public.voice_timeline is
    'For caregivers: the calls of a patient in time, one row per call, judged or not. Ask for one patient_id, ordered by called_at.';
comment on column public.voice_timeline.called_at is 'When the call began.';
comment on column public.voice_timeline.local_time is 'The same moment on the patient''s clock.';
comment on column public.voice_timeline.days_since_previous is 'Since the patient''s call before began, in days with their fraction: a gap; null: the first call.';
comment on column public.voice_timeline.score is '0 = as usual, 1 = completely different; null: not scored, outcome and reason say why. By the encoder that judged last.';
comment on column public.voice_timeline.similarity is 'Cosine similarity of voice and baseline, -1 .. 1.';
comment on column public.voice_timeline.snr_db is 'Speech against the noise floor; null: not known.';
comment on column public.voice_timeline.quality is 'What else was measured of the speech: windows, agreement (0 .. 1), clipped_share (0 .. 1), channel; never a vector.';
comment on column public.voice_timeline.usual_from is
    'Where the scores begin that are usual for this patient: spread_mean less two spread_deviations, not below 0, of the baseline version that judged the call. Where that was provisional, or is gone: 0.';
comment on column public.voice_timeline.usual_until is
    'Where they end: spread_mean and two spread_deviations; where the baseline was provisional, or is gone, medium_above of the policy of that moment. Severity follows the policy, never this band.';
comment on column public.voice_timeline.is_provisional is 'The baseline that judged it had too few samples.';
comment on column public.voice_timeline.outcome is 'How the call''s check stands or ended; null: none was asked for.';
comment on column public.voice_timeline.reason is 'Why it ended so.';
comment on column public.voice_timeline.notes is 'What caregivers wrote: voice_anomaly_logs.notes of log_id.';
revoke all on public.voice_timeline from anon, authenticated, service_role;
grant select on public.voice_timeline to authenticated, service_role;

create view public.recent_anomaly_logs
with (security_invoker = true)
as
select
    logs.id,
    logs.patient_id,
    coalesce(me.patient_known_as, patients.name) as known_as,
    logs.call_log_id,
    logs."timestamp",
    logs.anomaly_score,
    logs.raw_similarity,
    logs.normalized_score,
    logs.snr,
    logs.severity,
    logs.alert_type,
    logs.alert_sent,
    logs.noise_adjusted,
    logs.is_provisional,
    logs.notes,
    logs.created_at
from public.voice_anomaly_logs as logs
join public.patients on patients.id = logs.patient_id
left join public.patient_caregivers as me
    on me.patient_id = logs.patient_id and me.user_id = (select auth.uid())
where logs."timestamp" > now() - interval '30 days';
comment on view public.recent_anomaly_logs is
    'For caregivers: the scored calls of the last 30 days of all their patients, columns as in voice_anomaly_logs. Newest first: `order by timestamp desc`.';
comment on column public.recent_anomaly_logs.known_as is 'What the reader calls the patient, else the name.';
comment on column public.recent_anomaly_logs."timestamp" is 'When the call began.';
revoke all on public.recent_anomaly_logs from anon, authenticated, service_role;
grant select on public.recent_anomaly_logs to authenticated, service_role;
