-- Reports: the one call that the webhook and the sweep make for each finished call, and what they ask around it.

create function voice.is_erased(provider text, provider_call_id text, patient_id uuid)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
            select from voice.deletions
            where deletions.kind = 'provider_call'
                and deletions.reference = is_erased.provider || '/' || is_erased.provider_call_id
        )
        or exists (
            select from voice.tombstones
            where tombstones.patient_id = is_erased.patient_id and tombstones.scope = 'person'
        );
end
$$;
comment on function voice.is_erased is
    'Whether this call, or the person whom its report names, was erased: what the provider still says of it is not taken in again. Called by voice.receive_call_report and voice.unreported_calls.';
revoke execute on function voice.is_erased from public;

create function voice.queue_recording(
    call public.call_logs, source_channel text, source_expires_at timestamptz, ended_at timestamptz, at timestamptz
)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into voice.recordings as queued (call_log_id, patient_id, source_channel, source_expires_at, run_at, expires_at)
    select
        call.id, call.patient_id, queue_recording.source_channel, queue_recording.source_expires_at, queue_recording.at,
        -- Whatever the report says of the time: it is tried for a day at least.
        greatest(
            coalesce(queue_recording.ended_at, call."timestamp") + make_interval(secs => 86400 * providers.recording_retention_days),
            queue_recording.at + interval '1 day')
    from voice.providers
    where providers.id = call.provider
    on conflict (call_log_id) do update
    -- Reported again, with another address: worth another try at once.
    set source_channel = coalesce(excluded.source_channel, queued.source_channel),
        source_expires_at = case
            when excluded.source_channel is not null then excluded.source_expires_at else queued.source_expires_at
        end,
        run_at = least(queued.run_at, excluded.run_at)
    where queued.state in ('queued', 'leased')
$$;
comment on function voice.queue_recording is 'Has a call''s recording copied. Called by voice.receive_call_report.';
revoke execute on function voice.queue_recording from public;

create function voice.receive_call_report(
    provider text, provider_call_id text, patient_id uuid, phone text, started_at timestamptz, ended_at timestamptz,
    ended_reason text, summary text, recording_url text, recording_url_channel text, recording_url_expires_at timestamptz,
    speech_intervals jsonb, is_recording_consented boolean, at timestamptz
)
returns public.received_call
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    patient public.patients;
    call public.call_logs;
    is_new boolean;
    decided voice.ended_reasons;
    -- A clock that is wrong by years says nothing of when it was.
    begun_at constant timestamptz := coalesce((
        select told.at
        from unnest(array[receive_call_report.started_at, receive_call_report.ended_at, receive_call_report.at]) with ordinality as told (at, turn)
        where told.at between '2000-01-01' and least(greatest(receive_call_report.at, now()) + interval '1 hour', now() + interval '2 days')
        order by told.turn
        limit 1
    ), now());
    ended_at constant timestamptz :=
        case when receive_call_report.ended_at between begun_at and begun_at + interval '1 day' then receive_call_report.ended_at end;
begin
    if nullif(receive_call_report.provider_call_id, '') is null
        or not exists (select from voice.providers where id = receive_call_report.provider)
    then
        raise exception using
            errcode = 'PT400',
            message = format('A report needs the id of its call, and a provider that is known, not %L', receive_call_report.provider),
            hint = 'Providers are rows of voice.providers.';
    end if;

    select patients.* into patient
    from public.patients
    where patients.id = coalesce(
        -- What is taken in stays with its patient.
        (select call_logs.patient_id from public.call_logs
            where call_logs.provider = receive_call_report.provider
                and call_logs.provider_call_id = receive_call_report.provider_call_id),
        voice.reported_patient(receive_call_report.patient_id, receive_call_report.phone))
    for no key update;
    if voice.is_erased(receive_call_report.provider, receive_call_report.provider_call_id, receive_call_report.patient_id) then
        return (
            (select id from public.call_logs
                where call_logs.provider = receive_call_report.provider
                    and call_logs.provider_call_id = receive_call_report.provider_call_id),
            'erased', false
        )::public.received_call;
    end if;
    if patient.id is null then
        insert into voice.unmatched_calls as unmatched (provider, provider_call_id, phone, report, received_at)
        values (
            receive_call_report.provider, receive_call_report.provider_call_id, receive_call_report.phone,
            jsonb_build_object(
                'patient_id', receive_call_report.patient_id, 'started_at', receive_call_report.started_at,
                'ended_at', receive_call_report.ended_at, 'ended_reason', receive_call_report.ended_reason,
                'summary', left(receive_call_report.summary, 10000), 'speech_intervals', receive_call_report.speech_intervals,
                'is_recording_consented', receive_call_report.is_recording_consented),
            receive_call_report.at
        )
        on conflict on constraint unmatched_calls_pkey do nothing;
        is_new := found;
        return (null, 'unmatched', is_new)::public.received_call;
    end if;

    is_new := not exists (
        select from public.call_logs
        where call_logs.provider = receive_call_report.provider
            and call_logs.provider_call_id = receive_call_report.provider_call_id
    );
    insert into public.call_logs as known (
        patient_id, "timestamp", source, provider, provider_call_id, ended_reason, summary, recording_source_url,
        speech_intervals
    )
    values (
        patient.id, begun_at, 'provider', receive_call_report.provider, receive_call_report.provider_call_id,
        receive_call_report.ended_reason, left(receive_call_report.summary, 10000), null, receive_call_report.speech_intervals
    )
    on conflict (provider, provider_call_id) do update
    set ended_reason = coalesce(known.ended_reason, excluded.ended_reason),
        summary = coalesce(known.summary, excluded.summary),
        speech_intervals = coalesce(known.speech_intervals, excluded.speech_intervals)
    returning * into call;
    delete from voice.unmatched_calls
    where unmatched_calls.provider = call.provider and unmatched_calls.provider_call_id = call.provider_call_id;
    decided := voice.ended_as(call.ended_reason);

    if call.recording_ref is null and coalesce(call.check_reason, 'ended_reason_unknown') = 'ended_reason_unknown' then
        update public.call_logs
        set (check_state, check_reason) = (
            select 'skipped'::public.check_state, why.reason
            from (select case
                when voice.skip_reason(call) is not null then voice.skip_reason(call)
                when patient.voice_consent_at is null or not receive_call_report.is_recording_consented then 'no_consent'
                when decided.disposition is null then 'ended_reason_unknown'
            end::public.check_reason as reason) as why
            where why.reason is not null
        )
        where call_logs.id = call.id
        returning * into call;
        if call.check_reason is null or call.check_reason = 'ended_reason_unknown' then
            update public.call_logs
            set recording_source_url = coalesce(receive_call_report.recording_url, call_logs.recording_source_url)
            where call_logs.id = call.id;
            perform voice.queue_recording(
                call, receive_call_report.recording_url_channel, receive_call_report.recording_url_expires_at,
                ended_at, receive_call_report.at);
        end if;
    end if;
    return (call.id, coalesce(decided.disposition, 'unknown'), is_new)::public.received_call;
end
$$;
comment on function voice.receive_call_report is
    'Takes in the report of one finished call, however often it comes: the call is a row, and its recording is copied where the patient was on the line and has consented. Raises PT400. Definer: the edge function may not touch voice.';
revoke execute on function voice.receive_call_report from public;
grant execute on function voice.receive_call_report to service_role;

create function voice.calls_to_match(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select unmatched_calls.provider || '/' || unmatched_calls.provider_call_id
    from voice.unmatched_calls
    where voice.reported_patient(
        -- What is no id is the operator's, and not in the way of the others.
        case when pg_input_is_valid(unmatched_calls.report ->> 'patient_id', 'uuid')
            then (unmatched_calls.report ->> 'patient_id')::uuid end,
        unmatched_calls.phone) is not null
    order by unmatched_calls.received_at
    limit calls_to_match.maximum_rows
$$;
comment on function voice.calls_to_match is 'Reported calls whose patient is known by now. Called by voice.run_job.';
revoke execute on function voice.calls_to_match from public;

create function voice.match_call(reference text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    taken voice.unmatched_calls;
begin
    select unmatched_calls.* into taken
    from voice.unmatched_calls
    where unmatched_calls.provider || '/' || unmatched_calls.provider_call_id = match_call.reference
    for update skip locked;
    if not voice.try_lock_patient(voice.reported_patient((taken.report ->> 'patient_id')::uuid, taken.phone)) then
        return false;
    end if;
    delete from voice.unmatched_calls
    where unmatched_calls.provider = taken.provider and unmatched_calls.provider_call_id = taken.provider_call_id;
    perform voice.receive_call_report(
        taken.provider, taken.provider_call_id, (taken.report ->> 'patient_id')::uuid, taken.phone,
        (taken.report ->> 'started_at')::timestamptz, (taken.report ->> 'ended_at')::timestamptz,
        taken.report ->> 'ended_reason', taken.report ->> 'summary', null, null, null,
        nullif(taken.report -> 'speech_intervals', 'null'), (taken.report ->> 'is_recording_consented')::boolean,
        match_call.at);
    return true;
end
$$;
comment on function voice.match_call is 'Takes in a call whose patient is known by now; whether it did. Called by voice.run_job.';
revoke execute on function voice.match_call from public;

create function voice.calls_to_redecide(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select call_logs.id::text
    from public.call_logs
    where call_logs.check_reason = 'ended_reason_unknown' and (voice.ended_as(call_logs.ended_reason)).disposition is not null
    order by call_logs."timestamp"
    limit calls_to_redecide.maximum_rows
$$;
comment on function voice.calls_to_redecide is 'Calls whose ended reason a row explains by now. Called by voice.run_job.';
revoke execute on function voice.calls_to_redecide from public;

create function voice.redecide_call(call_log_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    call public.call_logs;
begin
    select call_logs.* into call from public.call_logs where call_logs.id = redecide_call.call_log_id::uuid;
    if not voice.try_lock_patient(call.patient_id) then
        return false;
    end if;
    update public.call_logs
    set check_state = case when voice.skip_reason(call) is not null then 'skipped'::public.check_state end,
        check_reason = voice.skip_reason(call)
    where call_logs.id = call.id and call_logs.check_reason = 'ended_reason_unknown';
    if not found then
        return false;
    end if;
    perform voice.publish_recording(call.id);
    return true;
end
$$;
comment on function voice.redecide_call is 'Judges or skips a call whose ended reason a row explains by now; whether it did. Called by voice.run_job.';
revoke execute on function voice.redecide_call from public;
create index call_logs_undecided on public.call_logs (ended_reason) where check_reason = 'ended_reason_unknown';

create function voice.unreported_calls(provider text, provider_call_ids text[])
returns setof text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select distinct listed.id
    from unnest(unreported_calls.provider_call_ids) as listed (id)
    where not exists (
            select from public.call_logs
            where call_logs.provider = unreported_calls.provider and call_logs.provider_call_id = listed.id)
        and not exists (
            select from voice.unmatched_calls
            where unmatched_calls.provider = unreported_calls.provider and unmatched_calls.provider_call_id = listed.id)
        and not voice.is_erased(unreported_calls.provider, listed.id, null)
$$;
comment on function voice.unreported_calls is 'Those of a provider''s calls that nobody has reported. Definer: as voice.receive_call_report.';
revoke execute on function voice.unreported_calls from public;
grant execute on function voice.unreported_calls to service_role;

create function voice.sweep_since(provider text, at timestamptz)
returns timestamptz
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select greatest(
        sweep_since.at - make_interval(secs => 86400 * providers.recording_retention_days),
        -- Whoever's clock was wrong: never later than now.
        case when providers.swept_until is not null then least(providers.swept_until, sweep_since.at) end - make_interval(secs => 3600 * providers.sweep_overlap_hours))
    from voice.providers
    where providers.id = sweep_since.provider
$$;
comment on function voice.sweep_since is
    'From which update on a provider''s calls must be listed: the last sweep, with an overlap, and never before its retention; null: no such provider. Definer: as voice.receive_call_report.';
revoke execute on function voice.sweep_since from public;
grant execute on function voice.sweep_since to service_role;

create function voice.finish_sweep(provider text, until timestamptz)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update voice.providers
    set swept_until = greatest(providers.swept_until, finish_sweep.until)
    where providers.id = finish_sweep.provider
$$;
comment on function voice.finish_sweep is 'Every call that was last updated before until was listed. Definer: as voice.receive_call_report.';
revoke execute on function voice.finish_sweep from public;
grant execute on function voice.finish_sweep to service_role;
