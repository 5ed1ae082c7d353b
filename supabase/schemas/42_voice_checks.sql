-- Voice checks: how a service claims the checks of its encoder, and how it reads the result of one that has ended.

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
    'A claimed check with what the pipeline needs: the location of the recording, and the limits of the policy. Without lease_token, the check is not leased to the caller. With lost_leases above 0, it may crash the worker: process no other check beside it.';

create function voice.claim_of("check" care.checks)
returns voice.claim
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select
        "check".id,
        "check".lease_token,
        "check".leased_until,
        "check".state,
        "check".call_log_id,
        "check".patient_id,
        call_logs.recording_ref,
        call_logs.recording_channel,
        call_logs.speech_intervals,
        "check".lost_leases,
        policies.minimum_speech_seconds,
        policies.minimum_snr_db,
        policies.maximum_clipped_share,
        policies.maximum_call_seconds
    from public.call_logs
    join voice.policies on policies.encoder = "check".model
    where call_logs.id = "check".call_log_id
$$;
comment on function voice.claim_of is 'Returns the check with what the pipeline needs.';
revoke execute on function voice.claim_of from public;

create function voice.open_check(call_log_id uuid, encoder text, worker text, lease_seconds double precision)
returns voice.claim
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return voice.claim_of(care.open_check(
        open_check.call_log_id, 'voice', open_check.encoder, open_check.worker, open_check.lease_seconds));
end
$$;
comment on function voice.open_check is
    'Opens the call''s check for the synchronous path: leases it to this worker at once and returns it with what the pipeline needs. Without lease_token, it has ended (read voice.stored_result) or another worker has leased it. Raises RV003. Security definer: the service has no privileges on tables.';
revoke execute on function voice.open_check from public;
grant execute on function voice.open_check to retrocare_service;

create function voice.claim_checks(encoder text, worker text, count integer, lease_seconds double precision)
returns setof voice.claim
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    claimed care.checks;
begin
    for claimed in
        select * from care.claim_checks(claim_checks.encoder, claim_checks.worker, claim_checks.count, claim_checks.lease_seconds)
    loop
        return next voice.claim_of(claimed);
    end loop;
end
$$;
comment on function voice.claim_checks is
    'Claims up to count checks that are due and returns them with what the pipeline needs. Security definer: the service has no privileges on tables. Called by the worker in a loop.';
revoke execute on function voice.claim_checks from public;
grant execute on function voice.claim_checks to retrocare_service;

create function voice.on_recording()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    active text := voice.active_encoder();
begin
    if active is null then
        -- An encoder may be registering now without seeing this call. Wait for it, or make it wait for this call.
        lock table care.models in row exclusive mode;
        active := voice.active_encoder();
    end if;
    -- If there is no encoder yet, voice.register_encoder queues the call later. A call that an earlier encoder has judged is not
    -- checked again.
    if active is not null and not exists (
        select from care.checks
        where checks.call_log_id = new.id and checks.signal = 'voice' and checks.is_backfill = (new.source = 'archive')
            and checks.state <> 'dead' and checks.reason is distinct from 'no_consent'
    ) then
        perform care.request_check(new, 'voice', active);
    end if;
    return null;
end
$$;
comment on function voice.on_recording is
    'Trigger: queues the check of a call whose recording is available. Security definer: roles that write call_logs have no privileges on the private schemas.';
revoke execute on function voice.on_recording from public;

create function voice.register_encoder(encoder text, dimension integer, window_seconds double precision)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    is_new constant boolean := care.register_model('voice', register_encoder.encoder);
    is_active constant boolean := register_encoder.encoder is not distinct from voice.active_encoder();
    registered voice.encoders;
begin
    if is_new then
        insert into voice.encoders (id, dimension, window_seconds)
        values (register_encoder.encoder, register_encoder.dimension, register_encoder.window_seconds);
        insert into voice.policies (encoder) values (register_encoder.encoder);
    end if;
    if is_new and is_active then
        perform care.request_check(call_logs, 'voice', register_encoder.encoder)
        from public.call_logs
        where call_logs.recording_ref is not null and call_logs.check_state is null;
    end if;

    select encoders.* into registered from voice.encoders where encoders.id = register_encoder.encoder;
    if (registered.dimension, registered.window_seconds)
        is distinct from (register_encoder.dimension::smallint, register_encoder.window_seconds)
    then
        raise exception using
            errcode = 'RV004',
            message = format('The encoder %s is registered with %s dimensions and windows of %s s',
                register_encoder.encoder, registered.dimension, registered.window_seconds),
            hint = 'Another dimension or window makes another encoder. Give it another id.';
    end if;
    return is_active;
end
$$;
comment on function voice.register_encoder is
    'Registers an encoder with the default policy and returns whether it is active. The first one becomes active, and the calls that waited for it are queued. Raises RV004 if the id is registered with other values. Called by the service at start.';
revoke execute on function voice.register_encoder from public;
grant execute on function voice.register_encoder to retrocare_service;

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
    rule public.scoring_rule,
    verdict public.voice_verdict,
    is_provisional boolean,
    explanation text,
    added_to_baseline boolean,
    duplicate_of uuid
);
comment on type voice.check_result is
    'The state of a check and its result; the scores are null if there is none. For a recording that was judged before, it holds the result of that call, whose id is duplicate_of.';

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
        voice_anomaly_logs.id,
        voice_anomaly_logs.anomaly_score,
        voice_anomaly_logs.raw_similarity,
        voice_anomaly_logs.normalized_score,
        (told.detail ->> 'snr_db')::double precision,
        voice_anomaly_logs.severity,
        voice_anomaly_logs.alert_type,
        voice_anomaly_logs.rule,
        voice_anomaly_logs.verdict,
        voice_anomaly_logs.is_provisional,
        judgements.explanation,
        coalesce((told.detail ->> 'added_to_baseline')::boolean, false),
        case when told.id <> asked.id then told.call_log_id end
    from care.checks as asked
    cross join lateral (
        select checks.*
        from care.checks
        where checks.id = asked.id
            or (asked.duplicate_of is not null
                and checks.call_log_id = asked.duplicate_of
                and checks.model = asked.model
                and checks.state in ('scored', 'enrolled'))
        order by checks.id = asked.id, checks.id
        limit 1
    ) as told
    left join public.voice_anomaly_logs
        on voice_anomaly_logs.call_log_id = told.call_log_id and voice_anomaly_logs.encoder = told.model and told.state = 'scored'
    left join public.judgements on judgements.id = voice_anomaly_logs.id
    where asked.id = stored_result.check_id
$$;
comment on function voice.stored_result is
    'Returns the state and result of a check. Security definer: the service has no privileges on tables. Called by the service when open_check returned no lease, and after a check without a score.';
revoke execute on function voice.stored_result from public;
grant execute on function voice.stored_result to retrocare_service;
