-- Troubles: everything that waits for the operator, in one list. What is not in it takes care of itself.

create type public.trouble_kind as enum (
    'unmatched_call',           -- a report of nobody who is known: give the patient that phone or id
    'unknown_ended_reason',     -- calls ended in a way that no row of voice.ended_reasons knows: add one
    'recording_delayed',        -- the copying fails, and is tried again
    'recording_lost',           -- the provider has forgotten the recording, or it cannot be taken
    'check_dead',               -- failed for good: `retrocare checks --requeue`
    'backfill_dead',            -- recordings that a backfill could not embed: as for check_dead, or let them be
    'delivery_delayed',         -- a message to a caregiver is refused, and tried again
    'delivery_dead',            -- a message to a caregiver that will not be sent
    'alert_untold',             -- nobody has been told, and nobody can be: give a caregiver an address
    'alert_unanswered',         -- everybody was told as often as the policy says, and nobody answers
    'recordings_unusable',      -- several calls in a row that were not judged: they cannot be read or told apart (ask the provider), or
                                -- the patient is flagged as unwell and has no baseline (end the flag)
    'deletion_delayed',         -- a copy of what was erased cannot be deleted, and is tried again: functions/delete-recordings logs why
    'job_failed',               -- a job could not do one thing, or list what is due, and tries again
    'jobs_late'                 -- jobs have not come to their end for long: `retrocare start`, or pg_cron, runs them
);
comment on type public.trouble_kind is 'What an operator must see to.';

create function voice.troubles()
returns table (
    kind public.trouble_kind,
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
    select 'unmatched_call'::public.trouble_kind, null::uuid, null::uuid, null::uuid,
        unmatched_calls.provider || ' ' || unmatched_calls.provider_call_id,
        case when unmatched_calls.phone is null and unmatched_calls.report ->> 'patient_id' is null then 'names_nobody'
            when (select count(*) from public.patients where patients.phone = unmatched_calls.phone) > 1 then 'number_of_several'
            else 'patient_unknown' end,
        null, unmatched_calls.received_at
    from voice.unmatched_calls
    union all
    select 'unknown_ended_reason', null, null, null, call_logs.ended_reason, 'ended_reason_unknown',
        count(*) || ' calls', max(call_logs."timestamp")
    from public.call_logs
    where call_logs.check_reason = 'ended_reason_unknown'
    group by call_logs.ended_reason
    union all
    select
        case recordings.state when 'queued' then 'recording_delayed' else 'recording_lost' end::public.trouble_kind,
        recordings.patient_id, recordings.call_log_id, null,
        call_logs.provider || ' ' || call_logs.provider_call_id,
        coalesce(recordings.error_code, recordings.state::text), recordings.error_message,
        coalesce(recordings.finished_at, recordings.run_at)
    from voice.recordings
    join public.call_logs on call_logs.id = recordings.call_log_id
    where recordings.state in ('expired', 'refused') or (recordings.state = 'queued' and recordings.error_code is not null)
    union all
    select 'check_dead', checks.patient_id, checks.call_log_id, null, 'check ' || checks.id, checks.reason::text,
        (select check_errors.message from voice.check_errors where check_errors.check_id = checks.id order by check_errors.id desc limit 1),
        checks.finished_at
    from voice.checks
    where checks.state = 'dead'
        and not checks.is_backfill
        and not exists (
            select from voice.checks as newer
            where newer.call_log_id = checks.call_log_id and newer.id > checks.id and not newer.is_backfill
        )
    union all
    select 'backfill_dead', null, null, null, checks.encoder, 'backfill_dead', count(*) || ' recordings', max(checks.finished_at)
    from voice.checks
    where checks.state = 'dead' and checks.is_backfill
    group by checks.encoder
    union all
    select
        case deliveries.state when 'queued' then 'delivery_delayed' else 'delivery_dead' end::public.trouble_kind,
        caregiver_alerts.patient_id, null, deliveries.alert_id, deliveries.channel || ' ' || deliveries.id,
        deliveries.error_code, deliveries.error_message, coalesce(deliveries.finished_at, deliveries.run_at)
    from voice.deliveries
    join public.caregiver_alerts on caregiver_alerts.id = deliveries.alert_id
    where deliveries.state = 'dead' or (deliveries.state = 'queued' and deliveries.error_code is not null)
    union all
    select 'alert_untold', caregiver_alerts.patient_id, null, caregiver_alerts.id, caregiver_alerts.level::text,
        'nobody_reachable', null, caregiver_alerts.opened_at
    from public.caregiver_alerts
    where caregiver_alerts.state in ('open', 'escalated')
        and not exists (
            select from voice.deliveries
            where deliveries.alert_id = caregiver_alerts.id and deliveries.state in ('queued', 'leased', 'accepted')
        )
    union all
    select 'alert_unanswered', caregiver_alerts.patient_id, null, caregiver_alerts.id, caregiver_alerts.level::text,
        'nobody_answers', caregiver_alerts.reminder_count || ' reminders', caregiver_alerts.last_raised_at
    from public.caregiver_alerts
    join voice.alert_policies on alert_policies.level = caregiver_alerts.level
    where caregiver_alerts.state = 'escalated' and caregiver_alerts.reminder_count >= alert_policies.maximum_reminders
    union all
    select 'recordings_unusable', unusable.patient_id, null, null, 'patient ' || unusable.patient_id, unusable.reason,
        unusable.call_count || ' calls', unusable.last_at
    from (
        select call_logs.patient_id, count(*) as call_count, max(call_logs."timestamp") as last_at,
            (array_agg(call_logs.check_reason order by call_logs."timestamp" desc))[1]::text as reason
        from public.call_logs
        where (call_logs.check_state = 'held'
                or (call_logs.check_state = 'not_assessable'
                    and call_logs.check_reason not in ('no_speech', 'too_little_speech')))
            and not exists (
                select from public.call_logs as later
                where later.patient_id = call_logs.patient_id
                    and later."timestamp" > call_logs."timestamp"
                    and later.check_state in ('scored', 'enrolled')
            )
        group by call_logs.patient_id
    ) as unusable
    where unusable.call_count >= (select settings.unusable_calls_in_a_row from voice.settings)
    union all
    select 'deletion_delayed', deletions.patient_id, null, null, deletions.kind || ' ' || deletions.id, deletions.error_code,
        deletions.attempts || ' attempts', deletions.created_at
    from voice.deletions
    where deletions.state <> 'done' and deletions.error_code is not null and deletions.attempts >= 3
    union all
    select 'job_failed', null, null, null, rtrim(job_failures.job || ' ' || job_failures.subject), job_failures.code,
        job_failures.message, job_failures.last_failed_at
    from voice.job_failures
    union all
    select 'jobs_late', null, null, null, string_agg(jobs.id, ', ' order by jobs.position), 'jobs_late',
        count(*) || ' jobs', min(jobs.last_succeeded_at)
    from voice.jobs
    where jobs.last_succeeded_at < now() - make_interval(mins => 15 + 3 * jobs.every_minutes)
    having count(*) > 0
$$;
comment on function voice.troubles is
    'Everything that waits for the operator. Definer: the reader touches no table. Called by the view and `retrocare troubles`.';
revoke execute on function voice.troubles from public;
grant execute on function voice.troubles to retrocare_service, service_role;
create index deliveries_in_trouble on voice.deliveries (id) where state = 'dead' or (state = 'queued' and error_code is not null);
create index recordings_in_trouble on voice.recordings (call_log_id)
    where state in ('expired', 'refused') or (state = 'queued' and error_code is not null);
create index deletions_in_trouble on voice.deletions (id) where state <> 'done' and error_code is not null;
create index call_logs_unusable on public.call_logs (patient_id, "timestamp")
    where check_state in ('held', 'not_assessable');
create index dead_checks on voice.checks (id) where state = 'dead';
create index alerts_that_press on public.caregiver_alerts (opened_at) where state in ('open', 'escalated');

create view public.voice_troubles
with (security_invoker = true)
as
select troubles.kind, troubles.patient_id, troubles.call_log_id, troubles.alert_id, troubles.subject, troubles.code,
    troubles.detail, troubles.occurred_at
from voice.troubles() as troubles;
comment on view public.voice_troubles is 'For operators (service_role): everything that waits for them, one row each; trouble_kind says what to do.';
comment on column public.voice_troubles.subject is 'What it is about: a call of the provider, a reason, a check, a delivery, a level.';
revoke all on public.voice_troubles from anon, authenticated, service_role;
grant select on public.voice_troubles to service_role;
