-- Change of encoder: the one step in which another encoder becomes the active one.

create function voice.hold_calls(hold_seconds double precision)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update voice.encoders
    set calls_wait_until = clock_timestamp() + make_interval(secs => least(hold_calls.hold_seconds, 60))
    where encoders.is_active
$$;
comment on function voice.hold_calls is
    'Lets the calls that are to be judged wait, for a minute at most: where so many come that a baseline always changes, another encoder could never take over. Whoever asks for it must ask again; if it vanishes, they go on. Definer: the service touches no table. Called by `retrocare backfill --activate`.';
revoke execute on function voice.hold_calls from public;
grant execute on function voice.hold_calls to retrocare_service;

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
                and twin.encoder = voice.active_encoder()
                and not twin.is_backfill
                and twin.state in ('queued', 'leased')
        )
$$;
comment on function care.is_stranded is
    'Whether a check of an encoder that is not active (any more) waits for a worker that may never come. The caller asks about such encoders alone.';
revoke execute on function care.is_stranded from public;

create function care.checks_to_reassign(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select stranded.id::text
    from care.checks as stranded
    where stranded.encoder = any (array(select encoders.id from voice.encoders where not encoders.is_active))
        and stranded.state in ('queued', 'leased')
        and care.is_stranded(stranded, checks_to_reassign.at)
    order by stranded.id
    limit checks_to_reassign.maximum_rows
$$;
comment on function care.checks_to_reassign is
    'Calls that wait to be judged by an encoder that is not active (any more). Called by voice.activate_encoder, and by care.run_job for those that came back since: a lease that expired, an attempt that failed.';
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
    perform care.expire_leases(encoders.id) from voice.encoders where not encoders.is_active;
    update care.checks
    set encoder = voice.active_encoder(),
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
comment on function care.reassign_checks is 'Hands these checks over to the active encoder; how many. Called by voice.activate_encoder and care.reassign_check.';
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
comment on function care.reassign_check is 'Hands one of care.checks_to_reassign over to the active encoder; whether it did. Called by care.run_job.';
revoke execute on function care.reassign_check from public;

create function voice.adopt_archive()
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    update care.checks
    set encoder = voice.active_encoder()
    from public.call_logs
    where checks.encoder = any (array(select encoders.id from voice.encoders where not encoders.is_active))
        and checks.is_backfill
        and checks.state = 'queued'
        and call_logs.id = checks.call_log_id
        and call_logs.source = 'archive'
        and not exists (
            select from care.checks as twin
            where twin.call_log_id = checks.call_log_id and twin.encoder = voice.active_encoder() and twin.is_backfill
        )
$$;
comment on function voice.adopt_archive is
    'Hands archived calls that wait to be embedded over to the active encoder, unless it has had them. Called by voice.activate_encoder.';
revoke execute on function voice.adopt_archive from public;

create function voice.activate_encoder(encoder text, accepts_unrecoverable boolean default false)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    missing record;
begin
    perform voice.policy(activate_encoder.encoder);
    begin
        -- Whoever judges holds this too, first of all: from here on nobody does, and nobody is in the middle of it.
        lock table voice.encoders in share row exclusive mode;
    exception when lock_not_available then
        raise exception using
            errcode = 'RV007',
            message = 'A transaction that judges has been open for too long',
            hint = 'Nothing was changed: try again.';
    end;
    if activate_encoder.encoder = voice.active_encoder() then
        return 0;
    end if;

    select
        count(*) as of_all,
        count(*) filter (where rebuilding.stage in ('waiting', 'outdated')) as unfinished,
        count(*) filter (where rebuilding.stage = 'unrecoverable') as lost
    into missing
    from voice.rebuilding
    where rebuilding.encoder = activate_encoder.encoder;
    if missing.unfinished > 0 or (missing.lost > 0 and not activate_encoder.accepts_unrecoverable) then
        raise exception using
            errcode = 'RV007',
            message = format('Of %s baselines, %s are not rebuilt under %s, and %s cannot be',
                missing.of_all, missing.unfinished, activate_encoder.encoder, missing.lost),
            hint = '`retrocare backfill` rebuilds them, and lists who would be left behind; --leave-behind accepts that they enrol anew.';
    end if;

    update voice.encoders set is_active = false where encoders.is_active;
    update voice.encoders set is_active = true where encoders.id = activate_encoder.encoder;
    perform voice.adopt_archive();
    return care.reassign_checks(
        array(select id::bigint from care.checks_to_reassign(clock_timestamp(), null) as id), clock_timestamp());
end
$$;
comment on function voice.activate_encoder is
    'Makes another encoder the active one, once every baseline has its counterpart under it; how many waiting checks were handed over. Patients without any are left behind only where that is asked for: their next healthy call enrols. All or nothing. Raises RV004, and RV007 where baselines are missing. Definer: the service touches no table. Called by `retrocare backfill --activate`.';
revoke execute on function voice.activate_encoder from public;
grant execute on function voice.activate_encoder to retrocare_service;
