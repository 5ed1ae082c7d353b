-- Replay: what another policy or budget would have done with the stored calls. It reads logs and writes nothing.

create type voice.replayed_call as (
    log_id uuid,
    patient_id uuid,
    occurred_at timestamptz,
    personal_deviation double precision,
    cusum double precision,
    score double precision,
    severity public.anomaly_severity,
    is_alert boolean,
    episode integer,
    recorded_score double precision,
    recorded_severity public.anomaly_severity,
    recorded_is_alert boolean,
    recorded_episode integer
);
comment on type voice.replayed_call is
    'A call as it would have been judged, and as it was. is_alert tells that caregivers would have been told: the level rose within an episode, which ends with three calm calls. Episodes are counted per patient; null: none.';

create type voice.episode as (
    number integer,
    level public.alert_level,
    is_urgent boolean,
    calm_calls integer
);
comment on type voice.episode is 'The episode of a replay so far. A level of null: none is open.';

create function voice.next_episode(episode voice.episode, level public.alert_level, is_urgent boolean, is_calm boolean)
returns voice.episode
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    episode.calm_calls := case when next_episode.is_calm then episode.calm_calls + 1 else 0 end;
    if next_episode.level is not null then
        if episode.level is null then
            episode.number := episode.number + 1;
            episode.is_urgent := false;
        end if;
        episode.level := greatest(episode.level, next_episode.level);
        episode.is_urgent := episode.is_urgent or next_episode.is_urgent;
    elsif episode.calm_calls >= 3 then
        episode.level := null;
    end if;
    return episode;
end
$$;
comment on function voice.next_episode is 'Returns the episode after a call of this level (null: low).';
revoke execute on function voice.next_episode from public;

create function voice.refuse_unknown_changes(changes jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    unknown constant text := (
        select string_agg(given.name, ', ')
        from jsonb_object_keys(refuse_unknown_changes.changes) as given (name)
        where given.name <> 'warnings_per_year'
            and not (to_jsonb(jsonb_populate_record(null::voice.policies, '{}')) || to_jsonb(jsonb_populate_record(null::care.thresholds, '{}')))
                ? given.name
            or given.name in ('encoder', 'calibration_id', 'id', 'organisation_id', 'signal', 'model')
    );
begin
    if unknown is not null then
        raise exception using
            errcode = 'PT400',
            message = format('%s cannot be tried', unknown),
            hint = 'Try warnings_per_year, rule, a threshold, or a weight of the fixed rule: `retrocare policy show` lists them.';
    elsif refuse_unknown_changes.changes ? 'warnings_per_year' then
        perform care.refuse_unknown_budget((refuse_unknown_changes.changes ->> 'warnings_per_year')::double precision);
    end if;
end
$$;
comment on function voice.refuse_unknown_changes is 'Raises PT400 if a policy has no such value, or if it cannot be tried on stored calls.';
revoke execute on function voice.refuse_unknown_changes from public;

create function voice.replay(patient_id uuid, organisation_id uuid, changes jsonb)
returns setof voice.replayed_call
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    logged public.voice_anomaly_logs;
    stored record;
    policy_values jsonb;
    kept_policy_id integer := -1;
    policy voice.policies;
    thresholds care.thresholds;
    calibration voice.calibrations;
    state voice.chart_state;
    decided voice.decision;
    judged voice.comparison;
    trial voice.episode;
    recorded voice.episode;
    before_level public.alert_level;
    before_urgent boolean;
    found_call voice.replayed_call;
    present_patient uuid;
    present_encoder text;
begin
    perform voice.refuse_unknown_changes(replay.changes);
    for stored in
        select
            kept.log, judgements.policy_id, corrected.state as correction
        from (
            -- Calls in between may be deleted; what was corrected after one of them stays corrected.
            select
                logs as log,
                lead(logs.decision_number) over (partition by logs.patient_id, logs.encoder order by logs.decision_number) as next_number
            from public.voice_anomaly_logs as logs
            join public.patients on patients.id = logs.patient_id
            where logs.calibration_id is not null
                and (replay.patient_id is null or logs.patient_id = replay.patient_id)
                and (replay.organisation_id is null or patients.organisation_id = replay.organisation_id)
        ) as kept
        join public.judgements on judgements.id = (kept.log).id
        left join lateral (
            select chart_corrections.state
            from voice.chart_corrections
            where chart_corrections.patient_id = (kept.log).patient_id
                and chart_corrections.encoder = (kept.log).encoder
                and chart_corrections.after_decision >= (kept.log).decision_number
                and (chart_corrections.after_decision < kept.next_number or kept.next_number is null)
            order by chart_corrections.id desc
            limit 1
        ) as corrected on true
        order by (kept.log).patient_id, (kept.log).encoder, (kept.log).created_at, (kept.log).decision_number
    loop
        logged := stored.log;
        if stored.policy_id <> kept_policy_id then
            kept_policy_id := stored.policy_id;
            policy_values := (select scoring_policies.policy from public.scoring_policies where scoring_policies.id = kept_policy_id) || replay.changes;
            policy := jsonb_populate_record(null::voice.policies, policy_values);
            thresholds := jsonb_populate_record(null::care.thresholds, policy_values);
        end if;
        if calibration.id is distinct from logged.calibration_id then
            select calibrations.* into calibration from voice.calibrations where calibrations.id = logged.calibration_id;
            state := voice.new_chart();
        end if;
        if present_patient is distinct from logged.patient_id then
            trial := (0, null, false, 0)::voice.episode;
            recorded := trial;
        end if;
        if (present_patient, present_encoder) is distinct from (logged.patient_id, logged.encoder) then
            state := voice.new_chart();
            present_patient := logged.patient_id;
            present_encoder := logged.encoder;
        end if;

        if policy.rule = 'calibrated' then
            decided := voice.decide(
                state, voice.logged_observation(logged), calibration, thresholds,
                coalesce((replay.changes ->> 'warnings_per_year')::double precision, logged.warnings_per_year),
                coalesce(logged.calls_per_year, 365), logged.local_day, logged.is_learned or logged.rule = 'fixed', logged.is_late);
            state := case when stored.correction is null then decided.after else stored.correction end;
            found_call.personal_deviation := decided.deviation;
            found_call.cusum := decided.cusum_after;
            found_call.score := decided.score;
            found_call.severity := decided.severity;
        else
            judged.anomaly := voice.anomaly(logged.raw_similarity);
            found_call.personal_deviation := null;
            found_call.cusum := null;
            found_call.score := voice.time_adjusted(
                voice.noise_adjusted(judged.anomaly, logged.snr, policy), logged.local_hour, policy);
            found_call.severity := care.severity(found_call.score, thresholds);
            decided.unconfirmed_score := found_call.score;
            decided.is_urgent := false;
        end if;
        found_call.log_id := logged.id;
        found_call.patient_id := logged.patient_id;
        found_call.occurred_at := logged."timestamp";

        before_level := trial.level;
        before_urgent := trial.is_urgent;
        trial := voice.next_episode(
            trial, care.alert_level(found_call.severity), decided.is_urgent, decided.unconfirmed_score < thresholds.medium_above);
        found_call.is_alert := trial.level is distinct from before_level and trial.level is not null
            or trial.level = 'warning' and trial.is_urgent and not before_urgent;
        found_call.episode := case when trial.level is not null then trial.number end;

        before_level := recorded.level;
        recorded := voice.next_episode(
            recorded, care.alert_level(logged.severity), false, logged.adjusted_from < thresholds.medium_above);
        found_call.recorded_score := logged.anomaly_score;
        found_call.recorded_severity := logged.severity;
        found_call.recorded_is_alert := recorded.level is distinct from before_level and recorded.level is not null;
        found_call.recorded_episode := case when recorded.level is not null then recorded.number end;
        return next found_call;
    end loop;
end
$$;
comment on function voice.replay is
    'Judges the stored calls of a patient, an organisation or all (null) once more from their stored numbers, in the order in which they were judged, with these changes of the policy. Calls without a calibration are left out. What somebody answered then stays as it was. Raises PT400.';
revoke execute on function voice.replay from public;

create function voice.replay_policy(patient_id uuid default null, organisation_id uuid default null, changes jsonb default '{}')
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    with calls as materialized (
        select * from voice.replay(replay_policy.patient_id, replay_policy.organisation_id, replay_policy.changes)
    ),
    spans as (
        select
            calls.patient_id,
            greatest(86400, extract(epoch from max(calls.occurred_at) - min(calls.occurred_at))) / (86400 * 365.25) as years,
            min(calls.occurred_at) as first_at,
            max(calls.occurred_at) as last_at
        from calls
        group by calls.patient_id
    ),
    total as (
        select count(*) as patients, sum(spans.years)::double precision as years from spans
    ),
    alerts as (
        select 'replayed' as whose, calls.patient_id, calls.occurred_at, care.alert_level(calls.severity) as level
        from calls where calls.is_alert
        union all
        select 'recorded', calls.patient_id, calls.occurred_at, care.alert_level(calls.recorded_severity)
        from calls where calls.recorded_is_alert
    ),
    episodes as (
        select 'replayed' as whose, calls.patient_id, calls.episode, max(care.alert_level(calls.severity)) as level
        from calls where calls.episode is not null group by calls.patient_id, calls.episode
        union all
        select 'recorded', calls.patient_id, calls.recorded_episode, max(care.alert_level(calls.recorded_severity))
        from calls where calls.recorded_episode is not null group by calls.patient_id, calls.recorded_episode
    ),
    leads as (
        -- The first alert of the 30 days before somebody noted that the patient was unwell.
        select whose.whose, health_flags.id, (
            select extract(epoch from health_flags.started_at - min(alerts.occurred_at)) / 86400
            from alerts
            where alerts.whose = whose.whose
                and alerts.patient_id = health_flags.patient_id
                and alerts.occurred_at between health_flags.started_at - interval '30 days' and health_flags.started_at
        )::double precision as days
        from public.health_flags
        join spans on spans.patient_id = health_flags.patient_id
            and health_flags.started_at between spans.first_at and spans.last_at
        cross join (values ('replayed'), ('recorded')) as whose (whose)
    )
    select jsonb_build_object(
        'patients', total.patients,
        'calls', (select count(*) from calls),
        'patient_years', round(coalesce(total.years, 0)::numeric, 3),
        'largest_score_difference', (select max(abs(calls.score - calls.recorded_score)) from calls)
    ) || (
        select jsonb_object_agg(whose.whose, jsonb_build_object(
            'alerts_per_year', (
                select jsonb_object_agg(levels.level, round(((
                    select count(*) from alerts where alerts.whose = whose.whose and alerts.level = levels.level
                ) / nullif(total.years, 0))::numeric, 4))
                from unnest(enum_range(null::public.alert_level)) as levels (level)
            ),
            'episodes_per_year', (
                select jsonb_object_agg(levels.level, round(((
                    select count(*) from episodes where episodes.whose = whose.whose and episodes.level = levels.level
                ) / nullif(total.years, 0))::numeric, 4))
                from unnest(enum_range(null::public.alert_level)) as levels (level)
            ),
            'health_flags', (select count(*) from leads where leads.whose = whose.whose),
            'health_flags_preceded', (select count(leads.days) from leads where leads.whose = whose.whose),
            'median_lead_days', (
                select percentile_cont(0.5) within group (order by leads.days) from leads where leads.whose = whose.whose
            )
        ))
        from (values ('replayed'), ('recorded')) as whose (whose)
    )
    from total
$$;
comment on function voice.replay_policy is
    'Returns what another policy would have done with the stored calls of a patient, an organisation or all (null): alerts and episodes a year by level, and how many days before a health flag the first alert came, beside the same for the recorded scores. changes has values of the policy by name, and warnings_per_year; none: the policy that was in force, whose scores come out as they were recorded. Raises PT400. Security definer: callers may not read the logs. Called by `retrocare policy replay`.';
revoke execute on function voice.replay_policy from public;
grant execute on function voice.replay_policy to retrocare_service;
