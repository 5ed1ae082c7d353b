-- Operations: what the operator sees of the work list, and does about it.

create function voice.check_list(states public.check_state[], patient_id uuid, maximum_rows integer)
returns table (
    id bigint,
    call_log_id uuid,
    patient_id uuid,
    encoder text,
    is_backfill boolean,
    state public.check_state,
    reason public.check_reason,
    attempts integer,
    run_at timestamptz,
    leased_until timestamptz,
    worker text,
    created_at timestamptz,
    finished_at timestamptz,
    error_code text,
    error_message text
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        checks.id,
        checks.call_log_id,
        checks.patient_id,
        checks.encoder,
        checks.is_backfill,
        checks.state,
        checks.reason,
        checks.attempts,
        checks.run_at,
        checks.leased_until,
        checks.worker,
        checks.created_at,
        checks.finished_at,
        last_error.code,
        last_error.message
    from voice.checks
    left join lateral (
        select check_errors.code, check_errors.message
        from voice.check_errors
        where check_errors.check_id = checks.id
        order by check_errors.id desc
        limit 1
    ) as last_error on true
    where (check_list.states is null or checks.state = any (check_list.states))
        and (check_list.patient_id is null or checks.patient_id = check_list.patient_id)
    order by checks.id desc
    limit check_list.maximum_rows
$$;
comment on function voice.check_list is
    'Checks of these states and this patient (null: all), newest first, with the last error of each. Called by `retrocare checks`.';
revoke execute on function voice.check_list from public;
grant execute on function voice.check_list to retrocare_service;

create function voice.requeue_checks(check_ids bigint[], reasons public.check_reason[])
returns setof bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted bigint[] := array(
        select dead.id
        from voice.checks as dead
        where dead.state = 'dead'
            and (requeue_checks.check_ids is null or dead.id = any (requeue_checks.check_ids))
            and (requeue_checks.reasons is null or dead.reason = any (requeue_checks.reasons))
    );
begin
    -- Several patients, always in the same order: whoever holds one of them waits for no other.
    perform from public.patients
    where patients.id in (select checks.patient_id from voice.checks where checks.id = any (wanted))
    order by patients.id
    for no key update;
    return query
        update voice.checks
        set state = 'queued',
            reason = null,
            attempts = 0,
            lost_leases = 0,
            run_at = clock_timestamp(),
            lease_token = null,
            leased_until = null,
            worker = null,
            finished_at = null
        from (
            select dead.id
            from voice.checks as dead
            join public.call_logs on call_logs.id = dead.call_log_id
            where dead.id = any (wanted)
                and dead.state = 'dead'
                and call_logs.recording_ref is not null
                and not exists (
                    select from voice.checks as newer
                    where newer.call_log_id = dead.call_log_id
                        and newer.id > dead.id
                        and newer.is_backfill = dead.is_backfill
                        and (not dead.is_backfill or newer.encoder = dead.encoder)
                )
            for no key update of dead, call_logs skip locked
        ) as kept
        where checks.id = kept.id
        returning checks.id;
end
$$;
comment on function voice.requeue_checks is
    'Queues dead checks again (these, or null for all; of these reasons, or null for any), with all their attempts; those whose upload is gone, or that were opened anew, stay. The errors are kept. Called by `retrocare checks --requeue`.';
revoke execute on function voice.requeue_checks from public;
grant execute on function voice.requeue_checks to retrocare_service;

create view public.voice_check_status
with (security_invoker = true)
as
select
    checks.call_log_id,
    checks.patient_id,
    checks.encoder,
    checks.state,
    checks.reason,
    checks.attempts,
    checks.run_at,
    checks.created_at,
    checks.finished_at
from voice.checks
where not checks.is_backfill;
comment on view public.voice_check_status is 'For caregivers and operators: how each call''s check stands, one row per check; without backfills.';
comment on column public.voice_check_status.run_at is 'A queued check is not tried before this moment.';
comment on column public.voice_check_status.attempts is 'How often it was handed out.';
grant select (
    call_log_id, patient_id, encoder, state, reason, attempts, run_at, created_at, finished_at, id, lost_leases, leased_until,
    is_backfill
) on voice.checks to service_role;
grant select (
    call_log_id, patient_id, encoder, state, reason, attempts, run_at, created_at, finished_at, is_backfill
) on voice.checks to authenticated;
revoke all on public.voice_check_status from anon, authenticated, service_role;
grant select on public.voice_check_status to authenticated, service_role;

create view public.voice_pipeline_health
with (security_invoker = true)
as
select
    checks.encoder,
    checks.is_backfill,
    checks.state,
    checks.reason,
    count(*) as check_count,
    min(checks.created_at) filter (where checks.state in ('queued', 'leased')) as oldest_waiting_since,
    count(*) filter (where checks.state = 'queued' and checks.run_at <= now()) as due_count,
    count(*) filter (where checks.state = 'leased' and checks.leased_until < now()) as lost_lease_count,
    max(checks.finished_at) as last_finished_at
from voice.checks
group by checks.encoder, checks.is_backfill, checks.state, checks.reason;
comment on view public.voice_pipeline_health is
    'For operators (service_role): how many checks stand where and why, since when the oldest waits, and whether leases are lost.';
comment on column public.voice_pipeline_health.is_backfill is 'Work that keeps no call waiting: it is done when nothing else is.';
comment on column public.voice_pipeline_health.due_count is 'Queued and not waiting for another try.';
comment on column public.voice_pipeline_health.lost_lease_count is 'Leased, and the holder has not renewed: the next claim takes them.';
revoke all on public.voice_pipeline_health from anon, authenticated, service_role;
grant select on public.voice_pipeline_health to service_role;

create function voice.pipeline_health()
returns setof public.voice_pipeline_health
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select * from public.voice_pipeline_health
$$;
comment on function voice.pipeline_health is 'The view, for the service, which reads no table. Called by GET /metrics.';
revoke execute on function voice.pipeline_health from public;
grant execute on function voice.pipeline_health to retrocare_service;
