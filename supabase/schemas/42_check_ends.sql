-- Ends of checks: completed, abstained from, given back, or failed; one transaction, all or nothing, fenced by the lease
-- token.

create type voice.check_result as (
    call_log_id uuid,
    state public.check_state,
    reason public.check_reason,
    log_id uuid,
    anomaly_score double precision,
    raw_similarity double precision,
    normalized_score double precision,
    snr double precision,
    severity public.anomaly_severity,
    alert_type public.alert_type,
    added_to_baseline boolean,
    duplicate_of uuid
);
comment on type voice.check_result is
    'How a check stands; the scores are null where there is none. Of a recording that was judged before (duplicate_of: that call), what was found then.';

create function voice.stored_result(check_id bigint)
returns voice.check_result
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        asked.call_log_id,
        told.state,
        told.reason,
        told.log_id,
        voice_anomaly_logs.anomaly_score,
        voice_anomaly_logs.raw_similarity,
        voice_anomaly_logs.normalized_score,
        told.snr_db,
        voice_anomaly_logs.severity,
        voice_anomaly_logs.alert_type,
        told.added_to_baseline,
        case when told.id <> asked.id then told.call_log_id end
    from care.checks as asked
    cross join lateral (
        select checks.*
        from care.checks
        where checks.id = asked.id
            or (asked.duplicate_of is not null
                and checks.call_log_id = asked.duplicate_of
                and checks.encoder = asked.encoder
                and checks.state in ('scored', 'enrolled'))
        order by checks.id = asked.id, checks.id
        limit 1
    ) as told
    left join public.voice_anomaly_logs on voice_anomaly_logs.id = told.log_id
    where asked.id = stored_result.check_id
$$;
comment on function voice.stored_result is 'How a check stands or ended. Called by the service where open_check gave no lease.';
revoke execute on function voice.stored_result from public;
grant execute on function voice.stored_result to retrocare_service;

create function care.leased_check(check_id bigint, lease_token uuid)
returns care.checks
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    held care.checks;
begin
    select checks.* into held from care.checks where checks.id = leased_check.check_id;
    if not found then
        raise exception using errcode = 'RV003', message = format('No check %s', leased_check.check_id);
    end if;
    perform care.lock_patient(held.patient_id);
    select checks.* into held from care.checks where checks.id = leased_check.check_id for update;
    if held.lease_token is distinct from leased_check.lease_token or held.state = 'queued' then
        raise exception using
            errcode = 'RV001',
            message = format('The lease of check %s is lost', leased_check.check_id),
            hint = 'It expired and went to another worker; drop the work.';
    end if;
    return held;
end
$$;
comment on function care.leased_check is
    'The patient and the check, locked, after the lease token was found right. Raises RV001 where it is lost, RV003 where there is no such check.';
revoke execute on function care.leased_check from public;

create function care.finish_check(
    check_id bigint,
    state public.check_state,
    reason public.check_reason,
    log_id uuid,
    added_to_baseline boolean,
    snr_db double precision,
    quality jsonb
)
returns voice.check_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update care.checks
    set state = finish_check.state,
        reason = finish_check.reason,
        log_id = finish_check.log_id,
        added_to_baseline = finish_check.added_to_baseline,
        snr_db = finish_check.snr_db,
        quality = coalesce(finish_check.quality, '{}'),
        finished_at = clock_timestamp()
    where checks.id = finish_check.check_id;

    if finish_check.state <> 'dead' then
        update public.call_logs
        set recording_source_url = null,
            recording_ref = case when recording_ref not like '%?%' then recording_ref end
        where id = (select call_log_id from care.checks where checks.id = finish_check.check_id)
            and (recording_source_url is not null or recording_ref like '%?%');
    end if;
    return voice.stored_result(finish_check.check_id);
end
$$;
comment on function care.finish_check is
    'Writes a check''s end. Signed addresses are keys: they are forgotten once used; a dead check keeps its own, to be tried again. The caller holds care.leased_check.';
revoke execute on function care.finish_check from public;

create function care.abstain_check(check_id bigint, lease_token uuid, reason public.check_reason, quality jsonb)
returns voice.check_result
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held care.checks := care.leased_check(abstain_check.check_id, abstain_check.lease_token);
begin
    if held.state <> 'leased' then
        return voice.stored_result(held.id);
    end if;
    if (select voice_consent_at is null from public.patients where id = held.patient_id) then
        return care.finish_check(held.id, 'skipped', 'no_consent', null, false, null, null);
    end if;
    return care.finish_check(held.id, 'not_assessable', abstain_check.reason, null, false,
        (abstain_check.quality ->> 'snr_db')::double precision, abstain_check.quality);
end
$$;
comment on function care.abstain_check is
    'Ends a check whose recording cannot be judged, with the reason: never a score. Raises RV001, RV003. Called by the service.';
revoke execute on function care.abstain_check from public;
grant execute on function care.abstain_check to retrocare_service;

create function care.fail_check(check_id bigint, lease_token uuid, code text, message text, is_permanent boolean)
returns voice.check_result
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held care.checks := care.leased_check(fail_check.check_id, fail_check.lease_token);
    setting care.settings := (select settings from care.settings);
    has_recording boolean := (select recording_ref is not null from public.call_logs where id = held.call_log_id);
begin
    if held.state <> 'leased' then
        return voice.stored_result(held.id);
    end if;
    insert into care.check_errors (check_id, attempt, code, message)
    values (held.id, held.attempts, fail_check.code, left(fail_check.message, 1000));

    if fail_check.is_permanent or not has_recording or held.attempts >= setting.maximum_attempts then
        return care.finish_check(
            held.id, 'dead',
            case when not has_recording then 'upload_lost'
                when not fail_check.is_permanent then 'attempts_exhausted'
                when starts_with(fail_check.code, 'recording_') then 'recording_unavailable'
                else 'processing_failed' end::public.check_reason,
            null, false, null, null);
    end if;
    update care.checks
    set state = 'queued',
        lease_token = null,
        leased_until = null,
        run_at = clock_timestamp() + care.retry_wait(held.attempts)
    where checks.id = held.id;
    return voice.stored_result(held.id);
end
$$;
comment on function care.fail_check is
    'Notes a failure: tried again after a wait that doubles, or dead where it is permanent, the upload is gone, or the attempts are spent. Never a score. Raises RV001, RV003. Called by the service.';
revoke execute on function care.fail_check from public;
grant execute on function care.fail_check to retrocare_service;
