-- Ends of checks: completed by the signal itself, abstained from, given back, or failed; one transaction, all or nothing, fenced by the
-- lease token. Who lost the lease changes nothing, who asks twice gets the same answer.

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
    'The patient and the check, locked, after the lease token was found right; leased, or ended already. Raises RV001 where it is lost, RV003 where there is no such check.';
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
        -- Consent was withdrawn meanwhile, for instance: whatever this transaction wrote is taken back.
        raise exception using
            errcode = 'RV001',
            message = format('Check %s has ended already', finish_check.check_id),
            hint = 'Whoever completes a check asks care.leased_check first whether it is still leased.';
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
    'Writes a check''s end. Signed addresses are keys: they are forgotten once nobody needs them; a dead check keeps its own, to be tried again. The caller holds care.leased_check. Raises RV001 where the check has ended.';
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
    'Ends a check whose recording cannot be judged, with the reason: never a score. Returns the state. Raises RV001, RV003. Called by the service.';
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
    'Notes a failure: tried again after a wait that doubles, or dead where it is permanent, the upload is gone, or the attempts are spent. Never a score. Returns the state. Raises RV001, RV003. Called by the service.';
revoke execute on function care.fail_check from public;
grant execute on function care.fail_check to retrocare_service;
