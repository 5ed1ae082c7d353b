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

create function voice.adopt_checks(at timestamptz)
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    adopted integer;
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
        where stranded.encoder = any (array(select encoders.id from voice.encoders where not encoders.is_active))
            and not stranded.is_backfill
            and (stranded.state = 'queued' or (stranded.state = 'leased' and stranded.leased_until < adopt_checks.at))
            and not exists (
                select from voice.checks as twin
                where twin.call_log_id = stranded.call_log_id
                    and twin.encoder = voice.active_encoder()
                    and not twin.is_backfill
                    and twin.state in ('queued', 'leased')
            )
        for no key update of stranded skip locked
    ) as found
    where checks.id = found.id;
    get diagnostics adopted = row_count;
    return adopted;
end
$$;
comment on function voice.adopt_checks is
    'Hands calls that wait to be judged by an encoder that is not active (any more) over to the active one; how many. Called by voice.activate_encoder, and by voice.sweep for those that came back since: a lease that expired, an attempt that failed.';
revoke execute on function voice.adopt_checks from public;

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
    return voice.adopt_checks(clock_timestamp());
end
$$;
comment on function voice.activate_encoder is
    'Makes another encoder the active one, once every baseline has its counterpart under it; how many waiting checks were handed over. Patients without any are left behind only where that is asked for: their next healthy call enrols. All or nothing. Raises RV004, and RV007 where baselines are missing. Definer: the service touches no table. Called by `retrocare backfill --activate`.';
revoke execute on function voice.activate_encoder from public;
grant execute on function voice.activate_encoder to retrocare_service;
