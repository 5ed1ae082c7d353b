-- Operations: what an operator can see: patients, the set-up, and operator issues.

create function care.patient_list()
returns table (
    id uuid,
    name text,
    timezone text,
    voice_consent_at timestamptz,
    open_flags text[],
    sample_count integer,
    is_provisional boolean,
    last_call_at timestamptz,
    last_anomaly_score double precision,
    alert_level public.alert_level
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        patients.id,
        patients.name,
        patients.timezone,
        patients.voice_consent_at,
        patients.flags || array(
            select health_flags.flag
            from public.health_flags
            where health_flags.patient_id = patients.id
                and health_flags.started_at <= now()
                and (health_flags.resolved_at is null or health_flags.resolved_at > now())
            order by health_flags.started_at
        ),
        baseline.sample_count,
        baseline.is_provisional,
        (select max(call_logs."timestamp") from public.call_logs where call_logs.patient_id = patients.id),
        last_log.anomaly_score,
        alert.level
    from public.patients
    left join public.patient_voice_baseline as baseline
        on baseline.patient_id = patients.id and baseline.encoder = voice.active_encoder()
    left join lateral (
        select voice_anomaly_logs.anomaly_score
        from public.voice_anomaly_logs
        where voice_anomaly_logs.patient_id = patients.id
        order by voice_anomaly_logs."timestamp" desc
        limit 1
    ) as last_log on true
    left join public.caregiver_alerts as alert on alert.patient_id = patients.id and alert.resolved_at is null
    order by patients.created_at, patients.id
$$;
comment on function care.patient_list is 'Returns one row per patient for the operator. Called by `retrocare patient list`.';
revoke execute on function care.patient_list from public;
grant execute on function care.patient_list to retrocare_service;

create function care.row_counts(patient_id uuid)
returns table (relation text, row_count bigint, detail text)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select 'public.call_logs', count(*), string_agg(distinct check_state::text, ', ' order by check_state::text)
    from public.call_logs where call_logs.patient_id = row_counts.patient_id
    union all
    select 'voice.embeddings', count(*), 'vectors of ' || max(embeddings.dimension) || ' dimensions'
    from voice.embeddings where embeddings.patient_id = row_counts.patient_id
    union all
    select 'voice.baselines', count(*), 'versions; the current one has '
        || max(baselines.sample_count) filter (where superseded_at is null) || ' samples'
    from voice.baselines where baselines.patient_id = row_counts.patient_id
    union all
    select 'public.voice_anomaly_logs', count(*), string_agg(distinct severity::text, ', ' order by severity::text)
    from public.voice_anomaly_logs where voice_anomaly_logs.patient_id = row_counts.patient_id
    union all
    select 'public.daily_checkins', count(*), 'worst day ' || round(max(anomaly_score)::numeric, 2)
    from public.daily_checkins where daily_checkins.patient_id = row_counts.patient_id
    union all
    select 'public.caregiver_alerts', count(*), string_agg(level || ', ' || state || ', repeated ' || repeat_count, '; ')
    from public.caregiver_alerts where caregiver_alerts.patient_id = row_counts.patient_id
$$;
comment on function care.row_counts is 'Returns the number of rows about one patient in each table. Called by `retrocare demo`.';
revoke execute on function care.row_counts from public;
grant execute on function care.row_counts to retrocare_service;

create function care.call_measures(call_log_id uuid)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select checks.quality
    from care.checks
    where checks.call_log_id = call_measures.call_log_id and checks.signal = 'voice' and not checks.is_backfill
    order by checks.id desc
    limit 1
$$;
comment on function care.call_measures is
    'Returns the measures of a call''s recording. Null: there are none. Security definer: the service has no privileges on tables. Called by `retrocare check`.';
revoke execute on function care.call_measures from public;
grant execute on function care.call_measures to retrocare_service;

create function care.setup_report()
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return jsonb_build_object(
        'active_encoder', voice.active_encoder(),
        'rule', (select policies.rule from voice.policies where policies.encoder = voice.active_encoder()),
        'calibration_id', (select policies.calibration_id from voice.policies where policies.encoder = voice.active_encoder()),
        'channels', (
            select coalesce(jsonb_agg(delivery_channels.id order by delivery_channels.id), '[]')
            from care.delivery_channels
            where delivery_channels.is_enabled
        ),
        'standing_keys', (select count(*) from care.api_keys where api_keys.revoked_at is null),
        'patients', (select count(*) from public.patients where patients.voice_consent_at is not null),
        'patients_without_reachable_caregiver', (
            select count(*)
            from public.patients
            where patients.voice_consent_at is not null
                and not exists (
                    select
                    from public.patient_caregivers
                    cross join lateral care.caregiver_addresses(patient_caregivers)
                    where patient_caregivers.patient_id = patients.id
                )
        )
    );
end
$$;
comment on function care.setup_report is
    'Returns what is set up: the active encoder with its rule and calibration, enabled channels, keys, and patients with no caregiver who can be notified. Counts only patients with consent. Security definer: the service has no privileges on tables. Called by `retrocare doctor`.';
revoke execute on function care.setup_report from public;
grant execute on function care.setup_report to retrocare_service;

create type public.operator_issue_kind as enum (
    'unmatched_call',           -- a report matches no patient: set that phone number or id on the patient
    'unknown_ended_reason',     -- no row of care.ended_reasons matches how calls ended: add one
    'recording_delayed',        -- copying a recording failed, and is retried
    'recording_lost',           -- the recording expired at the provider, or cannot be used
    'check_dead',               -- a check failed permanently: `retrocare checks --requeue`
    'backfill_dead',            -- a backfill could not embed recordings: requeue them as for check_dead, or leave them
    'delivery_delayed',         -- sending a message to a caregiver failed, and is retried
    'delivery_dead',            -- a message to a caregiver will not be sent
    'alert_untold',             -- no caregiver was notified, and none can be: give a caregiver an address
    'alert_unanswered',         -- all reminders of the policy were sent, and nobody has responded
    'recordings_unusable',      -- several calls in a row were not judged: recordings cannot be decoded or channels told apart (ask the provider), or
                                -- the patient is flagged as unwell and has no baseline (end the flag)
    'deletion_delayed',         -- deleting a copy of erased data failed, and is retried: functions/delete-recordings logs why
    'job_failed',               -- a job could not process an item or list what is due, and retries
    'jobs_late'                 -- jobs have not completed a run for long: `retrocare start` or pg_cron runs them
);
comment on type public.operator_issue_kind is 'What an operator must attend to.';

create function care.operator_issues()
returns table (
    kind public.operator_issue_kind,
    patient_id uuid,
    call_log_id uuid,
    alert_id uuid,
    subject text,
    code text,
    detail text,
    occurred_at timestamptz
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select 'unmatched_call'::public.operator_issue_kind, null::uuid, null::uuid, null::uuid,
        unmatched_calls.provider_account || ' ' || unmatched_calls.provider_call_id,
        case when unmatched_calls.phone is null and unmatched_calls.report ->> 'patient_id' is null then 'names_nobody'
            when (
                select count(*)
                from public.patients
                join care.provider_accounts on provider_accounts.organisation_id = patients.organisation_id
                where patients.phone = unmatched_calls.phone and provider_accounts.id = unmatched_calls.provider_account
            ) > 1 then 'number_of_several'
            else 'patient_unknown' end,
        null, unmatched_calls.received_at
    from care.unmatched_calls
    union all
    select 'unknown_ended_reason', null, null, null, concat_ws(' ', call_logs.provider, call_logs.ended_reason), 'ended_reason_unknown',
        count(*) || ' calls', max(call_logs."timestamp")
    from public.call_logs
    where call_logs.check_reason = 'ended_reason_unknown'
    group by call_logs.provider, call_logs.ended_reason
    union all
    select
        case recordings.state when 'queued' then 'recording_delayed' else 'recording_lost' end::public.operator_issue_kind,
        recordings.patient_id, recordings.call_log_id, null,
        call_logs.provider_account || ' ' || call_logs.provider_call_id,
        coalesce(recordings.error_code, recordings.state::text), recordings.error_message,
        coalesce(recordings.finished_at, recordings.run_at)
    from care.recordings
    join public.call_logs on call_logs.id = recordings.call_log_id
    where recordings.state in ('expired', 'refused') or (recordings.state = 'queued' and recordings.error_code is not null)
    union all
    select 'check_dead', checks.patient_id, checks.call_log_id, null, 'check ' || checks.id, checks.reason::text,
        (select check_errors.message from care.check_errors where check_errors.check_id = checks.id order by check_errors.id desc limit 1),
        checks.finished_at
    from care.checks
    where checks.state = 'dead'
        and not checks.is_backfill
        and not exists (
            select from care.checks as newer
            where newer.call_log_id = checks.call_log_id
                and newer.signal = checks.signal
                and newer.id > checks.id
                and not newer.is_backfill
        )
    union all
    select 'backfill_dead', null, null, null, checks.model, 'backfill_dead', count(*) || ' recordings', max(checks.finished_at)
    from care.checks
    where checks.state = 'dead' and checks.is_backfill
    group by checks.model
    union all
    select
        case deliveries.state when 'queued' then 'delivery_delayed' else 'delivery_dead' end::public.operator_issue_kind,
        caregiver_alerts.patient_id, null, deliveries.alert_id, deliveries.channel || ' ' || deliveries.id,
        deliveries.error_code, deliveries.error_message, coalesce(deliveries.finished_at, deliveries.run_at)
    from care.deliveries
    join public.caregiver_alerts on caregiver_alerts.id = deliveries.alert_id
    where deliveries.state = 'dead' or (deliveries.state = 'queued' and deliveries.error_code is not null)
    union all
    select 'alert_untold', caregiver_alerts.patient_id, null, caregiver_alerts.id, caregiver_alerts.level::text,
        'nobody_reachable', null, caregiver_alerts.opened_at
    from public.caregiver_alerts
    where caregiver_alerts.state in ('open', 'escalated')
        and not exists (
            select from care.deliveries
            where deliveries.alert_id = caregiver_alerts.id and deliveries.state in ('queued', 'leased', 'accepted')
        )
    union all
    select 'alert_unanswered', caregiver_alerts.patient_id, null, caregiver_alerts.id, caregiver_alerts.level::text,
        'nobody_answers', caregiver_alerts.reminder_count || ' reminders', caregiver_alerts.last_raised_at
    from public.caregiver_alerts
    join care.alert_policies on alert_policies.level = caregiver_alerts.level
    where caregiver_alerts.state = 'escalated' and caregiver_alerts.reminder_count >= alert_policies.maximum_reminders
    union all
    select 'recordings_unusable', unusable.patient_id, null, null, 'patient ' || unusable.patient_id, unusable.reason,
        unusable.call_count || ' calls', unusable.last_at
    from (
        select call_logs.patient_id, count(*) as call_count, max(call_logs."timestamp") as last_at,
            (array_agg(call_logs.check_reason order by call_logs."timestamp" desc))[1]::text as reason
        from public.call_logs
        where (call_logs.check_state = 'held'
                or (call_logs.check_state = 'not_assessable' and not call_logs.is_unheard))
            and not exists (
                select from public.call_logs as later
                where later.patient_id = call_logs.patient_id
                    and later."timestamp" > call_logs."timestamp"
                    and later.check_state in ('scored', 'enrolled')
            )
        group by call_logs.patient_id
    ) as unusable
    where unusable.call_count >= (care.settings_of(unusable.patient_id)).unusable_calls_in_a_row
    union all
    select 'deletion_delayed', deletions.patient_id, null, null, deletions.kind || ' ' || deletions.id, deletions.error_code,
        deletions.attempts || ' attempts', deletions.created_at
    from care.deletions
    where deletions.state <> 'done' and deletions.error_code is not null and deletions.attempts >= 3
    union all
    select 'job_failed', null, null, null, rtrim(job_failures.job || ' ' || job_failures.subject), job_failures.code,
        job_failures.message, job_failures.last_failed_at
    from care.job_failures
    union all
    select 'jobs_late', null, null, null, string_agg(jobs.id, ', ' order by jobs.position), 'jobs_late',
        count(*) || ' jobs', min(jobs.last_succeeded_at)
    from care.jobs
    where jobs.last_succeeded_at < now() - make_interval(mins => 15 + 3 * jobs.every_minutes)
    having count(*) > 0
$$;
comment on function care.operator_issues is
    'Returns all operator issues. Security definer: callers have no privileges on tables. Called by public.operator_issues and `retrocare issues`.';
revoke execute on function care.operator_issues from public;
grant execute on function care.operator_issues to retrocare_service, service_role;

create view public.operator_issues
with (security_invoker = true)
as
select operator_issues.kind, operator_issues.patient_id, operator_issues.call_log_id, operator_issues.alert_id, operator_issues.subject, operator_issues.code,
    operator_issues.detail, operator_issues.occurred_at
from care.operator_issues() as operator_issues;
comment on view public.operator_issues is
    'For operators (service_role): everything that needs their attention, one row each. operator_issue_kind says what to do.';
comment on column public.operator_issues.subject is
    'What the issue is about: a call of the provider, an ended reason, a check, a delivery, an alert level.';
revoke all on public.operator_issues from anon, authenticated, service_role;
grant select on public.operator_issues to service_role;
