-- Leases: how a check gets into one worker's hands, and out of them where the worker vanished, stopped, or is not the one that judges
-- any more. No transaction is open while a recording is processed.

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
comment on function care.lease is 'Hands a locked check to a worker and counts the attempt.';
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
    lock table care.models in row exclusive mode; -- first: which one is active stays so until this is done
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
        -- What an earlier model judged is not judged again by the one that is active now.
        and (checks.model = open_check.model or open_check.model = active)
    order by checks.id desc
    limit 1
    for update;
    if latest.id is null or latest.state = 'dead' or latest.reason = 'no_consent'
        -- The call that it repeated is deleted, and what was found then with it.
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
    'The call''s check by this model, leased to this worker at once; one that an earlier model left behind is taken over. Without lease_token it has ended, or another worker holds it. A dead check is opened anew, and one that lacked consent. Raises RV003.';
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
        -- The call too: its state is copied to it, and whoever opens a check locks the call first.
        for no key update of expired, call_logs skip locked
    ) as lost
    where checks.id = lost.id
$$;
comment on function care.expire_leases is
    'Ends the checks whose holder vanished and that cannot be tried again: the upload is gone, or the attempts are spent.';
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

    -- Calls that wait to be judged come first, and are the active model's; then what a backfill asks for.
    foreach of_backfill in array
        case when exists (
            select from care.models
            where models.id = claim_checks.model
                and models.is_active
                and (models.calls_wait_until > clock_timestamp()) is not true
        ) then array[false, true] else array[true] end
    loop
        -- Whoever held this one vanished: it may have killed its worker, so it is handed out alone.
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

        -- Oldest first, but one at a time for each patient: a long history starves nobody, and its calls stay in order.
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
                    -- Not as `not exists`: the whole list would be joined with itself, to find the first of it.
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
    'Hands out up to count checks that are due: of calls that wait to be judged, to the active model alone, and only where there is none, of a backfill. Called by each signal''s own claim.';
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
    'Whether a check of a model that is not active (any more) waits for a worker that may never come. The caller asks about such models alone.';
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
    'Calls that wait to be judged by a model that is not active (any more). Called by voice.activate_encoder, and by care.run_job for those that came back since: a lease that expired, an attempt that failed.';
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
comment on function care.reassign_checks is 'Hands these checks over to the active model; how many. Called by voice.activate_encoder and care.reassign_check.';
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
comment on function care.reassign_check is 'Hands one of care.checks_to_reassign over to the active model; whether it did. Called by care.run_job.';
revoke execute on function care.reassign_check from public;
