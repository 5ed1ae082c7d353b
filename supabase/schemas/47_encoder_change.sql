-- Change of encoder: another encoder becomes active in one step. From then on it judges. Checks that wait for the earlier encoder are
-- reassigned; those that it has leased may finish.

create function voice.hold_calls(hold_seconds double precision)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update care.models
    set calls_wait_until = clock_timestamp() + make_interval(secs => least(hold_calls.hold_seconds, 60))
    where models.signal = 'voice' and models.is_active
$$;
comment on function voice.hold_calls is
    'Pauses the judging of calls for hold_seconds, a minute at most, so that baselines stop changing and another encoder can become active even under constant load. The caller repeats the call; if it crashes, the pause ends by itself. Security definer: the service has no privileges on tables. Called by `retrocare backfill --activate`.';
revoke execute on function voice.hold_calls from public;
grant execute on function voice.hold_calls to retrocare_service;

create function voice.adopt_archive()
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    update care.checks
    set model = voice.active_encoder()
    from public.call_logs
    where checks.model = any (array(select models.id from care.models where models.signal = 'voice' and not models.is_active))
        and checks.is_backfill
        and checks.state = 'queued'
        and call_logs.id = checks.call_log_id
        and call_logs.source = 'archive'
        and not exists (
            select from care.checks as twin
            where twin.call_log_id = checks.call_log_id and twin.model = voice.active_encoder() and twin.is_backfill
        )
$$;
comment on function voice.adopt_archive is
    'Reassigns archived calls that wait to be embedded to the active encoder, unless it has a check for them. Called by voice.activate_encoder.';
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
        -- Every transaction that judges takes a weaker lock on this table first. From here on none can judge, and none is in
        -- progress.
        lock table care.models in share row exclusive mode;
    exception when lock_not_available then
        raise exception using
            errcode = 'RV007',
            message = 'A transaction that judges has been open for too long',
            hint = 'Nothing was changed. Try again.';
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
            hint = format('`retrocare backfill --encoder %s --activate` rebuilds them and lists those that cannot be rebuilt. With `--accept-unrecoverable`, these patients enrol anew.',
                activate_encoder.encoder);
    end if;

    update care.models set is_active = false where models.signal = 'voice' and models.is_active;
    update care.models set is_active = true where models.id = activate_encoder.encoder;
    perform voice.adopt_archive();
    return care.reassign_checks(
        array(select id::bigint from care.checks_to_reassign(clock_timestamp(), null) as id), clock_timestamp());
end
$$;
comment on function voice.activate_encoder is
    'Makes another encoder active once every baseline is rebuilt under it, and returns how many waiting checks were reassigned. Unrecoverable baselines are accepted only if accepts_unrecoverable is true; the next healthy call of these patients enrols. All or nothing. Raises RV004, and RV007 if baselines are missing. Security definer: the service has no privileges on tables. Called by `retrocare backfill --activate`.';
revoke execute on function voice.activate_encoder from public;
grant execute on function voice.activate_encoder to retrocare_service;
