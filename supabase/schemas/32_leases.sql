-- Leases: how a worker claims a check, and how the check is freed if the worker crashes, stops, or its model is no longer active. No
-- transaction stays open while a recording is processed.

create function care.lease(check_id bigint, worker text, lease_seconds double precision)
returns care.checks
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    leased care.checks;
begin
    update care.checks
    set state = 'leased',
        attempts = checks.attempts + 1,
        lost_leases = checks.lost_leases + (checks.state = 'leased')::integer,
        worker = lease.worker,
        lease_token = gen_random_uuid(),
        leased_until = clock_timestamp() + make_interval(secs => lease.lease_seconds)
    where checks.id = lease.check_id
    returning * into leased;
    return leased;
end
$$;
comment on function care.lease is 'Leases a locked check to a worker, counts the attempt, and returns the check.';
revoke execute on function care.lease from public;

create function care.open_check(call_log_id uuid, signal text, model text, worker text, lease_seconds double precision)
returns care.checks
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    call public.call_logs;
    latest care.checks;
    active text;
begin
    lock table care.models in row exclusive mode; -- locked first, so that the active model cannot change meanwhile
    active := care.active_model(open_check.signal);
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
        and checks.signal = open_check.signal
        -- A call that an earlier model has judged is not judged again by the active one.
        and (checks.model = open_check.model or open_check.model = active)
    order by checks.id desc
    limit 1
    for update;
    if latest.id is null or latest.state = 'dead' or latest.reason = 'no_consent'
        -- The call that it duplicated was deleted, and the result with it.
        or (latest.reason = 'duplicate_recording' and latest.duplicate_of is null)
    then
        latest := care.request_check(call, open_check.signal, open_check.model);
    end if;
    if latest.state = 'queued' or (latest.state = 'leased' and latest.leased_until < clock_timestamp()) then
        update care.checks set model = open_check.model where checks.id = latest.id and checks.model <> open_check.model;
        return care.lease(latest.id, open_check.worker, open_check.lease_seconds);
    end if;
    latest.lease_token := null;
    return latest;
end
$$;
comment on function care.open_check is
    'Returns the call''s check by this model, leased to this worker at once. A check that is still queued for a previously active model is taken over. If lease_token is null, the check has ended, or another worker has leased it. A new check replaces a dead one and one that lacked consent. Raises RV003.';
revoke execute on function care.open_check from public;

create function care.expire_leases(model text)
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
        where expired.model = expire_leases.model
            and expired.state = 'leased'
            and expired.leased_until < clock_timestamp()
            and (call_logs.recording_ref is null
                or expired.attempts >= (select settings.maximum_attempts from care.settings))
        -- Lock the call too: the state is copied to it, and care.open_check locks the call before its check.
        for no key update of expired, call_logs skip locked
    ) as lost
    where checks.id = lost.id
$$;
comment on function care.expire_leases is
    'Ends checks whose lease has expired and that cannot be retried, because the upload is gone or all attempts are used up.';
revoke execute on function care.expire_leases from public;

create function care.claim_checks(model text, worker text, count integer, lease_seconds double precision)
returns setof care.checks
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    of_backfill boolean;
    suspect_id bigint;
begin
    perform care.expire_leases(claim_checks.model);

    -- Calls that wait to be judged come first, for the active model only; backfills follow.
    foreach of_backfill in array
        case when exists (
            select from care.models
            where models.id = claim_checks.model
                and models.is_active
                and (models.calls_wait_until > clock_timestamp()) is not true
        ) then array[false, true] else array[true] end
    loop
        -- The lease of this check was lost, so it may have crashed its worker. It is claimed alone.
        select suspect.id into suspect_id
        from care.checks as suspect
        where suspect.model = claim_checks.model
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

        -- Oldest first, but one check at a time per patient: a patient with many calls does not delay others, and calls stay in
        -- order.
        return query
            select claimed.*
            from (
                select waiting.id
                from care.checks as waiting
                where waiting.model = claim_checks.model
                    and waiting.is_backfill = of_backfill
                    and waiting.state = 'queued'
                    and waiting.run_at <= clock_timestamp()
                    and waiting.lost_leases = 0
                    -- With `not exists`, the planner would join the whole list with itself only to find the first row.
                    and (
                        select sooner.id
                        from care.checks as sooner
                        where sooner.patient_id = waiting.patient_id
                            and sooner.model = waiting.model
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
comment on function care.claim_checks is
    'Claims up to count checks that are due and returns them: checks of calls that wait to be judged, which only the active model gets, or else backfills. Called by the claim function of each signal.';
revoke execute on function care.claim_checks from public;

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
comment on function care.renew_lease is 'Renews the lease of a check. Returns true; null: the lease is lost.';
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
    -- The state is copied to the call, so the patient is locked first.
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
    'Releases a check that was not processed, as if it had never been claimed. Returns true; null: the lease is lost, or the recording is an upload that only this worker has. Called by a worker that stops.';
revoke execute on function care.release_check from public;
grant execute on function care.release_check to retrocare_service;

create function care.is_stranded("check" care.checks, at timestamptz)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select not "check".is_backfill
        and ("check".state = 'queued' or ("check".state = 'leased' and "check".leased_until < is_stranded.at))
        and not exists (
            select from care.checks as twin
            where twin.call_log_id = "check".call_log_id
                and twin.model = care.active_model("check".signal)
                and not twin.is_backfill
                and twin.state in ('queued', 'leased')
        )
$$;
comment on function care.is_stranded is
    'Returns whether a check is due for a model that is not active, so that it may never be claimed. Callers pass only checks of such models.';
revoke execute on function care.is_stranded from public;

create function care.checks_to_reassign(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select stranded.id::text
    from care.checks as stranded
    where stranded.model = any (array(select models.id from care.models where not models.is_active))
        and stranded.state in ('queued', 'leased')
        and care.is_stranded(stranded, checks_to_reassign.at)
    order by stranded.id
    limit checks_to_reassign.maximum_rows
$$;
comment on function care.checks_to_reassign is
    'Lists checks of calls that wait to be judged by a model that is not active. Called by voice.activate_encoder, and by care.run_job for checks that became due later: after an expired lease or a failed attempt.';
revoke execute on function care.checks_to_reassign from public;

create function care.reassign_checks(check_ids bigint[], at timestamptz)
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    reassigned integer;
begin
    perform care.expire_leases(models.id) from care.models where not models.is_active;
    update care.checks
    set model = care.active_model(checks.signal),
        state = 'queued',
        lost_leases = checks.lost_leases + (checks.state = 'leased')::integer,
        lease_token = null,
        leased_until = null,
        worker = null
    from (
        select stranded.id
        from care.checks as stranded
        where stranded.id = any (reassign_checks.check_ids) and care.is_stranded(stranded, reassign_checks.at)
        for no key update of stranded skip locked
    ) as found
    where checks.id = found.id;
    get diagnostics reassigned = row_count;
    return reassigned;
end
$$;
comment on function care.reassign_checks is
    'Reassigns these checks to the active model and returns how many. Called by voice.activate_encoder and care.reassign_check.';
revoke execute on function care.reassign_checks from public;

create function care.reassign_check(check_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return care.try_lock_patient((select checks.patient_id from care.checks where checks.id = reassign_check.check_id::bigint))
        and care.reassign_checks(array[reassign_check.check_id::bigint], reassign_check.at) > 0;
end
$$;
comment on function care.reassign_check is
    'Reassigns one of care.checks_to_reassign to the active model. Returns whether it did. Called by care.run_job.';
revoke execute on function care.reassign_check from public;
