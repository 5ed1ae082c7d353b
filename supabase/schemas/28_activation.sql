-- Activation: the one step in which another encoder becomes the active one. From then on that one judges: what waits for the
-- earlier one is handed over, what the earlier one holds it may finish.

alter table voice.encoders add column calls_wait_until timestamptz;
comment on column voice.encoders.calls_wait_until is
    'Until then no call is handed out to be judged, so that baselines stand still: another encoder is about to take over. Null, or past: they are.';

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

create function voice.is_stranded("check" voice.checks, at timestamptz)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select not "check".is_backfill
        and ("check".state = 'queued' or ("check".state = 'leased' and "check".leased_until < is_stranded.at))
        and not exists (
            select from voice.checks as twin
            where twin.call_log_id = "check".call_log_id
                and twin.encoder = voice.active_encoder()
                and not twin.is_backfill
                and twin.state in ('queued', 'leased')
        )
$$;
comment on function voice.is_stranded is
    'Whether a check of an encoder that is not active (any more) waits for a worker that may never come. The caller asks about such encoders alone.';
revoke execute on function voice.is_stranded from public;

create function voice.checks_to_reassign(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select stranded.id::text
    from voice.checks as stranded
    where stranded.encoder = any (array(select encoders.id from voice.encoders where not encoders.is_active))
        and stranded.state in ('queued', 'leased')
        and voice.is_stranded(stranded, checks_to_reassign.at)
    order by stranded.id
    limit checks_to_reassign.maximum_rows
$$;
comment on function voice.checks_to_reassign is
    'Calls that wait to be judged by an encoder that is not active (any more). Called by voice.activate_encoder, and by voice.run_job for those that came back since: a lease that expired, an attempt that failed.';
revoke execute on function voice.checks_to_reassign from public;

create function voice.reassign_checks(check_ids bigint[], at timestamptz)
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    reassigned integer;
begin
    perform voice.bury_lost_checks(encoders.id) from voice.encoders where not encoders.is_active;
    update voice.checks
    set encoder = voice.active_encoder(),
        state = 'queued',
        lost_leases = checks.lost_leases + (checks.state = 'leased')::integer,
        lease_token = null,
        leased_until = null,
        worker = null
    from (
        select stranded.id
        from voice.checks as stranded
        where stranded.id = any (reassign_checks.check_ids) and voice.is_stranded(stranded, reassign_checks.at)
        for no key update of stranded skip locked
    ) as found
    where checks.id = found.id;
    get diagnostics reassigned = row_count;
    return reassigned;
end
$$;
comment on function voice.reassign_checks is 'Hands these checks over to the active encoder; how many. Called by voice.activate_encoder and voice.reassign_check.';
revoke execute on function voice.reassign_checks from public;

create function voice.reassign_check(check_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return voice.try_lock_patient((select checks.patient_id from voice.checks where checks.id = reassign_check.check_id::bigint))
        and voice.reassign_checks(array[reassign_check.check_id::bigint], reassign_check.at) > 0;
end
$$;
comment on function voice.reassign_check is 'Hands one of voice.checks_to_reassign over to the active encoder; whether it did. Called by voice.run_job.';
revoke execute on function voice.reassign_check from public;

create function voice.adopt_archive()
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    update voice.checks
    set encoder = voice.active_encoder()
    from public.call_logs
    where checks.encoder = any (array(select encoders.id from voice.encoders where not encoders.is_active))
        and checks.is_backfill
        and checks.state = 'queued'
        and call_logs.id = checks.call_log_id
        and call_logs.source = 'archive'
        and not exists (
            select from voice.checks as twin
            where twin.call_log_id = checks.call_log_id and twin.encoder = voice.active_encoder() and twin.is_backfill
        )
$$;
comment on function voice.adopt_archive is
    'Hands archived calls that wait to be embedded over to the active encoder, unless it has had them. Called by voice.activate_encoder.';
revoke execute on function voice.adopt_archive from public;

create function voice.activate_encoder(encoder text, leaves_behind boolean default false)
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
        count(*) filter (where rebuilding.stage in ('waiting', 'behind')) as unfinished,
        count(*) filter (where rebuilding.stage = 'left_behind') as lost
    into missing
    from voice.rebuilding
    where rebuilding.encoder = activate_encoder.encoder;
    if missing.unfinished > 0 or (missing.lost > 0 and not activate_encoder.leaves_behind) then
        raise exception using
            errcode = 'RV007',
            message = format('Of %s baselines, %s are not rebuilt under %s, and %s cannot be',
                missing.of_all, missing.unfinished, activate_encoder.encoder, missing.lost),
            hint = '`retrocare backfill` rebuilds them, and lists who would be left behind; --leave-behind accepts that they enrol anew.';
    end if;

    update voice.encoders set is_active = false where encoders.is_active;
    update voice.encoders set is_active = true where encoders.id = activate_encoder.encoder;
    perform voice.adopt_archive();
    return voice.reassign_checks(
        array(select id::bigint from voice.checks_to_reassign(clock_timestamp(), null) as id), clock_timestamp());
end
$$;
comment on function voice.activate_encoder is
    'Makes another encoder the active one, once every baseline has its counterpart under it; how many waiting checks were handed over. Patients without any are left behind only where that is asked for: their next healthy call enrols. All or nothing. Raises RV004, and RV007 where baselines are missing. Definer: the service touches no table. Called by `retrocare backfill --activate`.';
revoke execute on function voice.activate_encoder from public;
grant execute on function voice.activate_encoder to retrocare_service;
