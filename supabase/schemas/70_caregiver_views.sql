-- Views for caregivers: the state of each patient, and each patient's calls over time. All views run with the caller's privileges: on
-- a table in a private schema, a view shows the columns that are granted there, never a vector. Sort in the query (`order by
-- called_at desc limit 100`); the indexes support it.

create type public.patient_state as enum (
    'as_usual',             -- none of the following
    'changed',              -- a judgement was above low and has not been explained
    'not_assessable',       -- the last answered call could not be judged
    'collecting_baseline',  -- too few samples to rely on: scores count, but are marked as provisional
    'no_recent_call'        -- no answered call for too long
);
comment on type public.patient_state is
    'The state of a patient, as far as it is known. caregiver_patients.state gives the order of precedence.';

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
    case policies.rule when 'calibrated' then policies.calibrated_target_samples else policies.baseline_target_samples end
        as baseline_target_samples,
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
comment on view public.caregiver_patients is 'For caregivers: the overview, one row for each patient of the signed-in caregiver.';
comment on column public.caregiver_patients.known_as is
    'The caregiver''s own name for the patient (patient_caregivers.patient_known_as), or else the patient''s name.';
comment on column public.caregiver_patients.role is 'What the caregiver may do for this patient.';
comment on column public.caregiver_patients.state is
    'The first of these that applies: changed (an unresolved alert with a judgement behind it, or a last score above low and no alert resolved since), no_recent_call (no answered call for silent_after_days, or else care.organisation_settings.recent_call_days; for a new patient, counted from the day of creation), collecting_baseline (no baseline yet, or a provisional one), not_assessable (the last answered call could not be judged), as_usual.';
comment on column public.caregiver_patients.last_call_at is 'When the last call began, answered or not.';
comment on column public.caregiver_patients.last_score is '0 = as usual, 1 = completely different. Null: no call was scored.';
comment on column public.caregiver_patients.last_scored_at is 'When the call with that score began.';
comment on column public.caregiver_patients.severity is 'The severity of the last score.';
comment on column public.caregiver_patients.mean_score_7_days is
    'Mean score of the calls of the last 7 days (7 x 24 hours), by the active encoder. Null: there were none.';
comment on column public.caregiver_patients.mean_score_30_days is
    'Mean score of the calls of the last 30 days, by the active encoder. Null: there were none.';
comment on column public.caregiver_patients.trend_7_days is
    'mean_score_7_days less the mean of the 7 days before. Above 0, the voice moves away from its baseline. Null if either has no score.';
comment on column public.caregiver_patients.trend_30_days is
    'mean_score_30_days less the mean of the 30 days before. Null if either has no score.';
comment on column public.caregiver_patients.baseline_samples is
    'The number of samples in the current baseline under the active encoder. 0: there is no baseline.';
comment on column public.caregiver_patients.baseline_is_provisional is
    'Whether there are too few samples, or none. Scores then count, but are marked as provisional.';
comment on column public.caregiver_patients.alert_id is 'The unresolved alert, of which there is at most one. Null: none.';
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
    log.verdict,
    log.rule,
    log.pace,
    judgements.is_urgent,
    judgements.reasons,
    judgements.explanation,
    case when judgements.likely_patient_id is not null then care.likely_speaker_name(judgements.id) end as likely_speaker,
    (newest_check.detail ->> 'snr_db')::double precision as snr_db,
    newest_check.quality,
    case
        when log.id is null then null
        when log.rule = 'calibrated' or log.is_provisional or baselines.spread_deviation is null then 0
        else greatest(0, baselines.spread_mean - 2 * baselines.spread_deviation)
    end as usual_from,
    case
        when log.rule = 'calibrated' or log.is_provisional or baselines.spread_deviation is null
            then (scoring_policies.policy ->> 'medium_above')::double precision
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
    'For caregivers: a patient''s calls over time, one row per call, judged or not. Filter by one patient_id and order by called_at.';
comment on column public.voice_timeline.called_at is 'When the call began.';
comment on column public.voice_timeline.local_time is 'The same time in the patient''s time zone.';
comment on column public.voice_timeline.days_since_previous is
    'Days, with their fraction, since the patient''s previous call began. Null: the first call.';
comment on column public.voice_timeline.score is
    '0 = as usual, 1 = completely different. Null: not scored; outcome and reason say why. The score is that of the encoder that judged the call last.';
comment on column public.voice_timeline.similarity is 'Cosine similarity of embedding and baseline, -1 .. 1.';
comment on column public.voice_timeline.verdict is 'as_usual, changed, or another_voice: it did not sound like this person.';
comment on column public.voice_timeline.rule is
    'calibrated: the score says how rare such a call is for this patient; fixed: how far it is from the baseline.';
comment on column public.voice_timeline.pace is 'Whether this call alone decided the score, or the calls of the last days together. Null: by the fixed rule.';
comment on column public.voice_timeline.is_urgent is 'Whether one such call more would make it an emergency.';
comment on column public.voice_timeline.reasons is 'What was unusual, strongest first. Empty: nothing is known.';
comment on column public.voice_timeline.explanation is 'Why the call was judged as it was, in English. Null: it was as usual, or by the fixed rule.';
comment on column public.voice_timeline.likely_speaker is
    'Who of the household spoke instead, if another voice sounded like that of another patient with the same phone number. Null: not known.';
comment on column public.voice_timeline.snr_db is 'Level of speech above the noise floor. Null: not known.';
comment on column public.voice_timeline.quality is
    'Further measures of the speech: windows, agreement (0 .. 1), clipped_share (0 .. 1), channel, features (how the patient spoke; null where the line does not allow it); never a vector.';
comment on column public.voice_timeline.usual_from is
    'Lower end of the scores that are usual for this patient: 0 by the calibrated rule; by the fixed one, spread_mean less two spread_deviations of the baseline version that judged the call, not below 0. 0 if that version was provisional or is deleted.';
comment on column public.voice_timeline.usual_until is
    'Upper end of the usual scores: medium_above by the calibrated rule; by the fixed one, spread_mean plus two spread_deviations. If the baseline version was provisional or is deleted, medium_above of the policy at that time. Severity follows the policy, never this range.';
comment on column public.voice_timeline.is_provisional is 'Whether the baseline that judged the call had too few samples.';
comment on column public.voice_timeline.outcome is 'The state or end of the call''s check. Null: none was requested.';
comment on column public.voice_timeline.reason is 'Why the check ended so.';
comment on column public.voice_timeline.notes is 'The caregivers'' notes: voice_anomaly_logs.notes of log_id.';
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
    logs.verdict,
    logs.rule,
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
    'For caregivers: the scored calls of the last 30 days of all their patients, with columns as in voice_anomaly_logs. Newest first: `order by timestamp desc`.';
comment on column public.recent_anomaly_logs.known_as is 'The caregiver''s own name for the patient, or else the patient''s name.';
comment on column public.recent_anomaly_logs."timestamp" is 'When the call began.';
revoke all on public.recent_anomaly_logs from anon, authenticated, service_role;
grant select on public.recent_anomaly_logs to authenticated, service_role;
