-- Recordings: the work list of recordings that must be copied from the provider into Storage before the provider deletes them.

create type public.recording_state as enum (
    'queued',       -- waits to be copied, or for a retry           -> leased, expired
    'leased',       -- being copied                                -> stored, refused, queued again, expired
    'stored',       -- end: in Storage
    'refused',      -- end: the provider's recording cannot be used
    'expired'       -- end: the provider no longer keeps it
);
comment on type public.recording_state is 'The state of copying a provider''s recording.';

create table care.recordings (
    call_log_id uuid constraint recordings_pkey primary key
        constraint a_recording_is_of_a_call references public.call_logs (id) on delete cascade,
    patient_id uuid not null
        constraint a_recording_is_of_a_patient references public.patients (id) on delete cascade,
    state public.recording_state not null default 'queued',
    source_channel text
        constraint a_source_has_one_of_three_kinds check (source_channel in ('customer', 'stereo', 'mixed')),
    source_expires_at timestamptz,
    recording_ref text,
    recording_channel public.recording_channel,
    attempts integer not null default 0,
    run_at timestamptz not null,
    expires_at timestamptz not null,
    worker text,
    lease_token uuid,
    leased_until timestamptz,
    due_at timestamptz
        generated always as (case state when 'queued' then run_at when 'leased' then leased_until end) stored,
    error_code text,
    error_message text,
    finished_at timestamptz,
    constraint a_leased_recording_has_a_lease
        check (state <> 'leased' or (lease_token is not null and leased_until is not null)),
    constraint an_ended_recording_has_its_time check ((state in ('queued', 'leased')) = (finished_at is null)),
    constraint a_stored_recording_is_somewhere check ((state = 'stored') = (recording_ref is not null))
);
create index recordings_by_patient on care.recordings (patient_id);
create index recordings_to_copy on care.recordings (due_at) where due_at is not null;
alter table care.recordings enable row level security;
comment on table care.recordings is 'The state of copying a call''s recording; one row per reported call that is worth judging.';
comment on column care.recordings.source_channel is 'The kind of recording at call_logs.recording_source_url: customer, stereo or mixed.';
comment on column care.recordings.source_expires_at is 'When that URL expires.';
comment on column care.recordings.run_at is 'The recording is not copied before this time.';
comment on column care.recordings.due_at is
    'When the recording can be claimed: run_at while it is queued, leased_until while it is leased. Null: it has ended.';
comment on column care.recordings.expires_at is 'When the provider deletes the recording.';
create index recordings_at_issue on care.recordings (call_log_id)
    where state in ('expired', 'refused') or (state = 'queued' and error_code is not null);

create function care.queue_recording(
    call public.call_logs, source_channel text, source_expires_at timestamptz, ended_at timestamptz, at timestamptz
)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into care.recordings as queued (call_log_id, patient_id, source_channel, source_expires_at, run_at, expires_at)
    select
        call.id, call.patient_id, queue_recording.source_channel, queue_recording.source_expires_at, queue_recording.at,
        -- Copying is attempted for at least a day, whatever times the report has.
        greatest(
            coalesce(queue_recording.ended_at, call."timestamp") + make_interval(secs => 86400 * providers.recording_retention_days),
            queue_recording.at + interval '1 day')
    from care.providers
    where providers.id = call.provider
    on conflict (call_log_id) do update
    -- A repeated report with another URL is worth an immediate retry.
    set source_channel = coalesce(excluded.source_channel, queued.source_channel),
        source_expires_at = case
            when excluded.source_channel is not null then excluded.source_expires_at else queued.source_expires_at
        end,
        run_at = least(queued.run_at, excluded.run_at)
    where queued.finished_at is null
$$;
comment on function care.queue_recording is 'Queues a call''s recording to be copied. Called by care.receive_call_report.';
revoke execute on function care.queue_recording from public;

create function care.end_recording(call_log_id uuid, state public.recording_state, at timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update care.recordings
    set state = end_recording.state,
        finished_at = end_recording.at
    where recordings.call_log_id = end_recording.call_log_id;
    update public.call_logs
    set check_state = 'dead',
        check_reason = case end_recording.state when 'expired' then 'recording_expired' else 'recording_unavailable' end::public.check_reason,
        recording_source_url = null
    where call_logs.id = end_recording.call_log_id and call_logs.recording_ref is null;
end
$$;
comment on function care.end_recording is 'Ends the copying of a recording without success, and ends its call as dead.';
revoke execute on function care.end_recording from public;

create function care.recordings_to_expire(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select recordings.call_log_id::text
    from care.recordings
    where recordings.expires_at <= recordings_to_expire.at
        and (recordings.state = 'queued' or recordings.due_at <= recordings_to_expire.at)
    order by recordings.expires_at
    limit recordings_to_expire.maximum_rows
$$;
comment on function care.recordings_to_expire is
    'Lists calls whose recordings expired at the provider before they were copied. Called by care.run_job.';
revoke execute on function care.recordings_to_expire from public;

create function care.expire_recording(call_log_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    lost care.recordings;
begin
    select recordings.* into lost from care.recordings where recordings.call_log_id = expire_recording.call_log_id::uuid;
    if not care.try_lock_patient(lost.patient_id) then
        return false;
    end if;
    select recordings.* into lost
    from care.recordings
    where recordings.call_log_id = lost.call_log_id
        and recordings.expires_at <= expire_recording.at
        and (recordings.state = 'queued' or recordings.due_at <= expire_recording.at)
    for update skip locked;
    if not found then
        return false;
    end if;
    perform care.end_recording(lost.call_log_id, 'expired', expire_recording.at);
    return true;
end
$$;
comment on function care.expire_recording is
    'Ends a recording that expired at the provider, and its call. Returns whether it did. Called by care.run_job.';
revoke execute on function care.expire_recording from public;

create type public.recording_claim as (
    call_log_id uuid,
    patient_id uuid,
    provider text,
    provider_account text,
    provider_call_id text,
    source_url text,
    source_channel text,
    source_expires_at timestamptz,
    object_path text,
    speech_intervals jsonb,
    attempts integer,
    lease_token uuid
);
comment on type public.recording_claim is 'A recording to copy: its source, and its path in Storage without the extension.';

create function care.claim_recordings(
    worker text, count integer, lease_seconds double precision, call_log_id uuid default null, at timestamptz default now()
)
returns setof public.recording_claim
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        update care.recordings as claimed
        set state = 'leased',
            attempts = claimed.attempts + 1,
            worker = claim_recordings.worker,
            lease_token = gen_random_uuid(),
            leased_until = claim_recordings.at + make_interval(secs => claim_recordings.lease_seconds)
        from (
            select due.call_log_id
            from care.recordings as due
            where due.due_at <= claim_recordings.at
                and due.expires_at > claim_recordings.at
                and (claim_recordings.call_log_id is null or due.call_log_id = claim_recordings.call_log_id)
            order by due.due_at, due.call_log_id
            for update skip locked
            limit claim_recordings.count
        ) as ready
        join public.call_logs on call_logs.id = ready.call_log_id
        where claimed.call_log_id = ready.call_log_id
        returning
            claimed.call_log_id, claimed.patient_id, call_logs.provider, call_logs.provider_account, call_logs.provider_call_id,
            call_logs.recording_source_url, claimed.source_channel, claimed.source_expires_at,
            claimed.patient_id || '/' || claimed.call_log_id, call_logs.speech_intervals, claimed.attempts,
            claimed.lease_token;
end
$$;
comment on function care.claim_recordings is
    'Claims up to count recordings that are due, or the one of this call, and returns them. Security definer: the edge function may not read the URLs itself.';
revoke execute on function care.claim_recordings from public;

create function care.attach_recording(call_log_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    update public.call_logs
    set recording_ref = recordings.recording_ref,
        recording_channel = recordings.recording_channel,
        recording_source_url = null
    from care.recordings
    where recordings.call_log_id = attach_recording.call_log_id
        and call_logs.id = recordings.call_log_id
        and recordings.state = 'stored'
        and call_logs.recording_ref is null
        and (care.ended_reason_rule(call_logs.provider, call_logs.ended_reason)).disposition = 'judge'
        and care.skip_reason(call_logs) is null
$$;
comment on function care.attach_recording is 'Sets a call''s copied recording, which queues its check, if the call is worth judging.';
revoke execute on function care.attach_recording from public;

create function care.store_recording(
    call_log_id uuid, lease_token uuid, recording_ref text, recording_channel text, speech_intervals jsonb default null
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held care.recordings;
begin
    perform care.lock_patient_if_any((
        select recordings.patient_id from care.recordings where recordings.call_log_id = store_recording.call_log_id
    ));
    select recordings.* into held from care.recordings where recordings.call_log_id = store_recording.call_log_id for update;
    if not found then
        perform care.delete_orphan(store_recording.recording_ref); -- the call was erased while its recording was copied
    end if;
    update care.recordings
    set state = 'stored',
        recording_ref = store_recording.recording_ref,
        recording_channel = store_recording.recording_channel::public.recording_channel,
        error_code = null,
        error_message = null,
        finished_at = clock_timestamp()
    where recordings.call_log_id = held.call_log_id
        and recordings.lease_token = store_recording.lease_token
        and recordings.state in ('leased', 'stored');
    if not found then
        return false;
    end if;
    update public.call_logs
    set speech_intervals = coalesce(store_recording.speech_intervals, call_logs.speech_intervals),
        recording_source_url = null
    where call_logs.id = held.call_log_id;
    perform care.attach_recording(held.call_log_id);
    return true;
end
$$;
comment on function care.store_recording is
    'Notes that a recording is in Storage and sets it on its call, which queues the check. Returns false if the lease is lost and another worker copies it. Security definer: the edge function has no privileges on the private schemas.';
revoke execute on function care.store_recording from public;

create function care.fail_recording(
    call_log_id uuid, lease_token uuid, code text, message text, is_permanent boolean, at timestamptz default now()
)
returns public.recording_state
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    failed care.recordings;
begin
    perform care.lock_patient_if_any((
        select recordings.patient_id from care.recordings where recordings.call_log_id = fail_recording.call_log_id
    ));
    update care.recordings
    set state = 'queued',
        error_code = fail_recording.code,
        error_message = left(fail_recording.message, 1000),
        lease_token = null,
        leased_until = null,
        run_at = fail_recording.at + care.retry_wait(recordings.attempts)
    where recordings.call_log_id = fail_recording.call_log_id
        and recordings.lease_token = fail_recording.lease_token
        and recordings.state = 'leased'
    returning * into failed;
    if failed.call_log_id is not null and (fail_recording.is_permanent or failed.expires_at <= fail_recording.at) then
        failed.state := case when fail_recording.is_permanent then 'refused' else 'expired' end;
        perform care.end_recording(failed.call_log_id, failed.state, fail_recording.at);
    end if;
    return coalesce(
        failed.state,
        (select recordings.state from care.recordings where recordings.call_log_id = fail_recording.call_log_id));
end
$$;
comment on function care.fail_recording is
    'Notes why a recording could not be copied, and returns its state. It is retried with exponential backoff until it expires at the provider; a permanent failure is refused at once. Security definer for the same reason as care.store_recording.';
revoke execute on function care.fail_recording from public;
