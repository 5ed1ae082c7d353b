-- Leases: how a check gets into one worker's hands. No transaction is open while audio is processed.

create type voice.claim as (
    check_id bigint,
    lease_token uuid,
    leased_until timestamptz,
    state public.check_state,
    call_log_id uuid,
    patient_id uuid,
    recording_ref text,
    recording_channel public.recording_channel,
    speech_intervals jsonb,
    lost_leases integer,
    minimum_speech_seconds double precision,
    minimum_snr_db double precision,
    maximum_clipped_share double precision,
    maximum_call_seconds double precision
);
comment on type voice.claim is
    'A check with what the pipeline needs: where the recording is, and the limits of its policy. Without lease_token it is not yours; with lost_leases above 0 it may kill its worker: hold nothing else beside it.';

create function voice.claim_of(check_id bigint, is_yours boolean)
returns voice.claim
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select
        checks.id,
        case when claim_of.is_yours then checks.lease_token end,
        checks.leased_until,
        checks.state,
        checks.call_log_id,
        checks.patient_id,
        call_logs.recording_ref,
        call_logs.recording_channel,
        call_logs.speech_intervals,
        checks.lost_leases,
        policies.minimum_speech_seconds,
        policies.minimum_snr_db,
        policies.maximum_clipped_share,
        policies.maximum_call_seconds
    from care.checks
    join public.call_logs on call_logs.id = checks.call_log_id
    join voice.policies on policies.encoder = checks.encoder
    where checks.id = claim_of.check_id
$$;
comment on function voice.claim_of is 'The check as it is handed out.';
revoke execute on function voice.claim_of from public;

create function care.lease(check_id bigint, worker text, lease_seconds double precision)
returns voice.claim
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update care.checks
    set state = 'leased',
        attempts = checks.attempts + 1,
        lost_leases = checks.lost_leases + (checks.state = 'leased')::integer,
        worker = lease.worker,
        lease_token = gen_random_uuid(),
        leased_until = clock_timestamp() + make_interval(secs => lease.lease_seconds)
    where checks.id = lease.check_id;
    return voice.claim_of(lease.check_id, true);
end
$$;
comment on function care.lease is 'Hands a locked check to a worker and counts the attempt.';
revoke execute on function care.lease from public;

create function voice.open_check(call_log_id uuid, encoder text, worker text, lease_seconds double precision)
returns voice.claim
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    call public.call_logs;
    latest care.checks;
    active text;
begin
    lock table voice.encoders in row exclusive mode; -- first: which one is active stays so until this is done
    active := voice.active_encoder();
    select call_logs.* into call from public.call_logs where call_logs.id = open_check.call_log_id;
    if call.patient_id is null then
        raise exception using
            errcode = 'RV003',
            message = format('No call %s', open_check.call_log_id),
            hint = 'Calls are rows of public.call_logs, each with a patient.';
    end if;
    perform care.lock_patient(call.patient_id);
    select call_logs.* into call from public.call_logs where call_logs.id = call.id for no key update;

    select checks.* into latest
    from care.checks
    where checks.call_log_id = call.id
        and checks.is_backfill = (call.source = 'archive')
        -- What an earlier encoder judged is not judged again by the one that is active now.
        and (checks.encoder = open_check.encoder or open_check.encoder = active)
    order by checks.id desc
    limit 1
    for update;
    if latest.id is null or latest.state = 'dead' or latest.reason = 'no_consent'
        -- The call that it repeated is deleted, and what was found then with it.
        or (latest.reason = 'duplicate_recording' and latest.duplicate_of is null)
    then
        latest := care.request_check(call, open_check.encoder);
    end if;
    if latest.state = 'queued' or (latest.state = 'leased' and latest.leased_until < clock_timestamp()) then
        update care.checks set encoder = open_check.encoder where checks.id = latest.id and checks.encoder <> open_check.encoder;
        return care.lease(latest.id, open_check.worker, open_check.lease_seconds);
    end if;
    return voice.claim_of(latest.id, false);
end
$$;
comment on function voice.open_check is
    'The synchronous path: the call''s check, leased to this worker at once; one that an earlier encoder left behind is taken over. Without lease_token it has ended (read voice.stored_result) or another worker holds it. A dead check is opened anew, and one that lacked consent. Raises RV003.';
revoke execute on function voice.open_check from public;
grant execute on function voice.open_check to retrocare_service;

create function care.expire_leases(encoder text)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    update care.checks
    set state = 'dead',
        reason = case when lost.recording_ref is null then 'upload_lost' else 'attempts_exhausted' end::public.check_reason,
        finished_at = clock_timestamp()
    from (
        select expired.id, call_logs.recording_ref
        from care.checks as expired
        join public.call_logs on call_logs.id = expired.call_log_id
        where expired.encoder = expire_leases.encoder
            and expired.state = 'leased'
            and expired.leased_until < clock_timestamp()
            and (call_logs.recording_ref is null
                or expired.attempts >= (select settings.maximum_attempts from care.settings))
        -- The call too: its state is copied to it, and whoever opens a check locks the call first.
        for no key update of expired, call_logs skip locked
    ) as lost
    where checks.id = lost.id
$$;
comment on function care.expire_leases is
    'Ends the checks whose holder vanished and that cannot be tried again: the upload is gone, or the attempts are spent.';
revoke execute on function care.expire_leases from public;

create function voice.claim_checks(encoder text, worker text, count integer, lease_seconds double precision)
returns setof voice.claim
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    of_backfill boolean;
    suspect_id bigint;
begin
    perform care.expire_leases(claim_checks.encoder);

    -- Calls that wait to be judged come first, and are the active encoder's; then what a backfill asks for.
    foreach of_backfill in array
        case when exists (
            select from voice.encoders
            where encoders.id = claim_checks.encoder
                and encoders.is_active
                and (encoders.calls_wait_until > clock_timestamp()) is not true
        ) then array[false, true] else array[true] end
    loop
        -- Whoever held this one vanished: it may have killed its worker, so it is handed out alone.
        select suspect.id into suspect_id
        from care.checks as suspect
        where suspect.encoder = claim_checks.encoder
            and suspect.is_backfill = of_backfill
            and (suspect.state = 'leased' or (suspect.state = 'queued' and suspect.lost_leases > 0))
            and case suspect.state when 'leased' then suspect.leased_until else suspect.run_at end < clock_timestamp()
            and exists (
                select from public.call_logs where call_logs.id = suspect.call_log_id and call_logs.recording_ref is not null
            )
        order by suspect.run_at, suspect.id
        for update skip locked
        limit 1;
        if found then
            return next care.lease(suspect_id, claim_checks.worker, claim_checks.lease_seconds);
            return;
        end if;

        -- Oldest first, but one at a time for each patient: a long history starves nobody, and its calls stay in order.
        return query
            select claimed.*
            from (
                select waiting.id
                from care.checks as waiting
                where waiting.encoder = claim_checks.encoder
                    and waiting.is_backfill = of_backfill
                    and waiting.state = 'queued'
                    and waiting.run_at <= clock_timestamp()
                    and waiting.lost_leases = 0
                    -- Not as `not exists`: the whole list would be joined with itself, to find the first of it.
                    and (
                        select sooner.id
                        from care.checks as sooner
                        where sooner.patient_id = waiting.patient_id
                            and sooner.encoder = waiting.encoder
                            and sooner.is_backfill = waiting.is_backfill
                            and (sooner.state = 'leased'
                                or (sooner.state = 'queued'
                                    and (sooner.run_at, sooner.id) < (waiting.run_at, waiting.id)))
                        limit 1
                    ) is null
                order by waiting.run_at, waiting.id
                for update skip locked
                limit claim_checks.count
            ) as ready
            cross join lateral care.lease(ready.id, claim_checks.worker, claim_checks.lease_seconds) as claimed;
        if found then
            return;
        end if;
    end loop;
end
$$;
comment on function voice.claim_checks is
    'Hands out up to count checks that are due: of calls that wait to be judged, to the active encoder alone, and only where there is none, of a backfill. Called by the worker, again and again.';
revoke execute on function voice.claim_checks from public;
grant execute on function voice.claim_checks to retrocare_service;

create function care.renew_lease(check_id bigint, lease_token uuid, lease_seconds double precision)
returns boolean
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update care.checks
    set leased_until = clock_timestamp() + make_interval(secs => renew_lease.lease_seconds)
    where checks.id = renew_lease.check_id
        and checks.lease_token = renew_lease.lease_token
        and checks.state = 'leased'
    returning true
$$;
comment on function care.renew_lease is 'Keeps a check that is worked on; null: the lease is lost.';
revoke execute on function care.renew_lease from public;
grant execute on function care.renew_lease to retrocare_service;

create function care.release_check(check_id bigint, lease_token uuid)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Its state is copied to its call: the patient is locked first.
    perform care.lock_patient_if_any((select checks.patient_id from care.checks where checks.id = release_check.check_id));
    update care.checks
    set state = 'queued',
        attempts = checks.attempts - 1,
        lease_token = null,
        leased_until = null,
        worker = null
    where checks.id = release_check.check_id
        and checks.lease_token = release_check.lease_token
        and checks.state = 'leased'
        and exists (
            select from public.call_logs where call_logs.id = checks.call_log_id and call_logs.recording_ref is not null
        );
    return nullif(found, false);
end
$$;
comment on function care.release_check is
    'Gives a check back that was not worked on, as if it had never been handed out; null: the lease is lost, or the recording was an upload that nobody else has. Called by a worker that stops.';
revoke execute on function care.release_check from public;
grant execute on function care.release_check to retrocare_service;
