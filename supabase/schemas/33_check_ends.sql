-- Ends of checks: a check is completed by its signal, abstained from, or failed. Each end is one transaction, guarded by the lease
-- token. A worker that lost the lease changes nothing; a repeated call gets the same answer.

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
            hint = 'The lease expired, and another worker may have the check. Stop working on it.';
    end if;
    return held;
end
$$;
comment on function care.leased_check is
    'Locks the patient and the check, verifies the lease token, and returns the check, which is leased or has already ended. Raises RV001 if the lease is lost, RV003 if there is no such check.';
revoke execute on function care.leased_check from public;

create function care.finish_check(
    check_id bigint, state public.check_state, reason public.check_reason, quality jsonb default null, detail jsonb default null
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    ended care.checks;
begin
    update care.checks
    set state = finish_check.state,
        reason = finish_check.reason,
        quality = coalesce(finish_check.quality, '{}'),
        detail = coalesce(finish_check.detail, '{}'),
        finished_at = clock_timestamp()
    where checks.id = finish_check.check_id and checks.state = 'leased'
    returning * into ended;
    if not found then
        -- For example, consent was withdrawn meanwhile. The error rolls back what this transaction wrote.
        raise exception using
            errcode = 'RV001',
            message = format('Check %s has already ended', finish_check.check_id),
            hint = 'Call care.leased_check first, to see whether the check is still leased.';
    end if;

    if finish_check.state <> 'dead' then
        update public.call_logs
        set recording_source_url = null,
            recording_ref = case when recording_ref not like '%?%' then recording_ref end
        where id = ended.call_log_id
            and (recording_source_url is not null or recording_ref like '%?%')
            and not exists (
                select from care.checks as waiting
                where waiting.call_log_id = ended.call_log_id and waiting.state in ('queued', 'leased')
            );
    end if;
end
$$;
comment on function care.finish_check is
    'Writes the end of a check. Signed URLs grant access, so they are removed once no check needs them; a dead check keeps its URL for a retry. The caller has called care.leased_check. Raises RV001 if the check has already ended.';
revoke execute on function care.finish_check from public;

create function care.abstain_check(check_id bigint, lease_token uuid, reason public.check_reason, quality jsonb)
returns public.check_state
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held care.checks := care.leased_check(abstain_check.check_id, abstain_check.lease_token);
begin
    if held.state <> 'leased' then
        return held.state;
    end if;
    if not care.has_consent(held.patient_id, held.signal) then
        perform care.finish_check(held.id, 'skipped', 'no_consent');
        return 'skipped';
    end if;
    perform care.finish_check(
        held.id, 'not_assessable', abstain_check.reason, abstain_check.quality,
        case when abstain_check.quality ? 'snr_db' then jsonb_build_object('snr_db', abstain_check.quality -> 'snr_db') end);
    return 'not_assessable';
end
$$;
comment on function care.abstain_check is
    'Ends a check whose recording cannot be judged, with the reason and without a score. Returns the state. Raises RV001, RV003. Called by the service.';
revoke execute on function care.abstain_check from public;
grant execute on function care.abstain_check to retrocare_service;

create function care.fail_check(check_id bigint, lease_token uuid, code text, message text, is_permanent boolean)
returns public.check_state
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
        return held.state;
    end if;
    insert into care.check_errors (check_id, attempt, code, message)
    values (held.id, held.attempts, fail_check.code, left(fail_check.message, 1000));

    if fail_check.is_permanent or not has_recording or held.attempts >= setting.maximum_attempts then
        perform care.finish_check(
            held.id, 'dead',
            case when not has_recording then 'upload_lost'
                when not fail_check.is_permanent then 'attempts_exhausted'
                when starts_with(fail_check.code, 'recording_') then 'recording_unavailable'
                else 'processing_failed' end::public.check_reason);
        return 'dead';
    end if;
    update care.checks
    set state = 'queued',
        lease_token = null,
        leased_until = null,
        run_at = clock_timestamp() + care.retry_wait(held.attempts)
    where checks.id = held.id;
    return 'queued';
end
$$;
comment on function care.fail_check is
    'Notes a failed attempt and returns the state of the check. It is retried with exponential backoff, or dead if the failure is permanent, the upload is gone, or all attempts are used up. Writes no score. Raises RV001, RV003. Called by the service.';
revoke execute on function care.fail_check from public;
grant execute on function care.fail_check to retrocare_service;
