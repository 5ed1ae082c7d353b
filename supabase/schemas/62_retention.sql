-- Retention: how long data are kept.

create table care.retention_policies (
    subject text constraint retention_policies_pkey primary key,
    keep_days double precision not null
        constraint something_is_kept_a_while check (keep_days > 0 and keep_days < 36500)
);
alter table care.retention_policies enable row level security;
insert into care.retention_policies values
    ('recordings', 90), ('voiceprints', 730), ('unmatched_calls', 30), ('errors', 90), ('deliveries', 365), ('idempotency_keys', 1);
comment on table care.retention_policies is
    'For how many days data are kept. Without a row, they are kept for ever. Voiceprints in a current baseline are kept as long as it is.';

create function care.kept_since(subject text, at timestamptz)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select kept_since.at - make_interval(secs => 86400 * retention_policies.keep_days)
    from care.retention_policies
    where retention_policies.subject = kept_since.subject
$$;
comment on function care.kept_since is
    'Returns the time before which data are no longer kept. Null: they are kept for ever. Called by the jobs that delete.';
revoke execute on function care.kept_since from public;

create function care.old_recordings(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select call_logs.id::text
    from public.call_logs
    -- Counted from when the row was created, so that an imported archive is not deleted at once.
    where call_logs.created_at < care.kept_since('recordings', old_recordings.at)
        and (call_logs.recording_ref is not null
            -- It was copied but never attached to the call, because no row matches the call's ended reason.
            or exists (
                select from care.recordings
                where recordings.call_log_id = call_logs.id
                    -- Or a worker that crashed may have copied it.
                    and (recordings.recording_ref is not null or (recordings.state in ('expired', 'refused') and recordings.attempts > 0))
            ))
        and not exists (
            select from care.checks
            where checks.call_log_id = call_logs.id
                and checks.state in ('queued', 'leased')
                and not checks.is_backfill
                -- A check that nobody processes keeps its recording for at most twice as long.
                and call_logs.created_at > 2 * (care.kept_since('recordings', old_recordings.at) - old_recordings.at) + old_recordings.at
        )
    order by call_logs.created_at
    limit old_recordings.maximum_rows
$$;
comment on function care.old_recordings is 'Lists calls whose recording has passed its retention, judged or not. Called by care.run_job.';
revoke execute on function care.old_recordings from public;

create function care.delete_old_recording(call_log_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    call public.call_logs;
begin
    select call_logs.* into call from public.call_logs where call_logs.id = delete_old_recording.call_log_id::uuid;
    if not care.try_lock_patient(call.patient_id) then
        return false;
    end if;
    select call_logs.* into call from public.call_logs where call_logs.id = call.id for no key update;
    perform care.delete_recording(call);
    return true;
end
$$;
comment on function care.delete_old_recording is
    'Removes such a recording and queues the deletion of its copies. Returns whether it did. Called by care.run_job.';
revoke execute on function care.delete_old_recording from public;

create function care.old_unmatched_calls(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select unmatched_calls.provider_account || '/' || unmatched_calls.provider_call_id
    from care.unmatched_calls
    where unmatched_calls.received_at < care.kept_since('unmatched_calls', old_unmatched_calls.at)
    order by unmatched_calls.received_at
    limit old_unmatched_calls.maximum_rows
$$;
comment on function care.old_unmatched_calls is 'Lists unmatched call reports that have passed their retention. Called by care.run_job.';
revoke execute on function care.old_unmatched_calls from public;

create function care.delete_old_unmatched_call(reference text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from care.unmatched_calls
    using (
        select old_call.provider_account, old_call.provider_call_id
        from care.unmatched_calls as old_call
        where old_call.provider_account || '/' || old_call.provider_call_id = delete_old_unmatched_call.reference
        for update skip locked -- a locked row is being erased or matched
    ) as found_call
    where unmatched_calls.provider_account = found_call.provider_account and unmatched_calls.provider_call_id = found_call.provider_call_id;
    return found;
end
$$;
comment on function care.delete_old_unmatched_call is 'Deletes such a report. Returns whether it did. Called by care.run_job.';
revoke execute on function care.delete_old_unmatched_call from public;

create function care.old_errors(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select check_errors.id::text
    from care.check_errors
    where check_errors.occurred_at < care.kept_since('errors', old_errors.at)
    order by check_errors.occurred_at
    limit old_errors.maximum_rows
$$;
comment on function care.old_errors is 'Lists errors of checks that have passed their retention. Called by care.run_job.';
revoke execute on function care.old_errors from public;

create function care.delete_old_error(error_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not care.try_lock_patient((
        select checks.patient_id
        from care.check_errors
        join care.checks on checks.id = check_errors.check_id
        where check_errors.id = delete_old_error.error_id::bigint
    )) then
        return false;
    end if;
    delete from care.check_errors where check_errors.id = delete_old_error.error_id::bigint;
    return found;
end
$$;
comment on function care.delete_old_error is 'Deletes such an error. Returns whether it did. Called by care.run_job.';
revoke execute on function care.delete_old_error from public;

create function care.old_deliveries(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select deliveries.id::text
    from care.deliveries
    where deliveries.finished_at < care.kept_since('deliveries', old_deliveries.at)
    order by deliveries.finished_at
    limit old_deliveries.maximum_rows
$$;
comment on function care.old_deliveries is 'Lists messages that have passed their retention. Called by care.run_job.';
revoke execute on function care.old_deliveries from public;

create function care.delete_old_delivery(delivery_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not care.try_lock_patient((
        select alert_changes.patient_id
        from care.deliveries
        join public.alert_changes on alert_changes.id = deliveries.change_id
        where deliveries.id = delete_old_delivery.delivery_id::bigint
    )) then
        return false;
    end if;
    delete from care.deliveries where deliveries.id = delete_old_delivery.delivery_id::bigint;
    return found;
end
$$;
comment on function care.delete_old_delivery is 'Deletes such a message. Returns whether it did. Called by care.run_job.';
revoke execute on function care.delete_old_delivery from public;

create function care.old_idempotency_keys(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_array(idempotency_keys.organisation_id, idempotency_keys.caller, idempotency_keys.key)::text
    from care.idempotency_keys
    where idempotency_keys.created_at < care.kept_since('idempotency_keys', old_idempotency_keys.at)
    order by idempotency_keys.created_at
    limit old_idempotency_keys.maximum_rows
$$;
comment on function care.old_idempotency_keys is 'Lists idempotency keys that have passed their retention. Called by care.run_job.';
revoke execute on function care.old_idempotency_keys from public;

create function care.delete_old_idempotency_key(reference text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    old_key care.idempotency_keys;
begin
    select idempotency_keys.* into old_key
    from care.idempotency_keys
    where idempotency_keys.organisation_id = (delete_old_idempotency_key.reference::jsonb ->> 0)::uuid
        and idempotency_keys.caller = delete_old_idempotency_key.reference::jsonb ->> 1
        and idempotency_keys.key = delete_old_idempotency_key.reference::jsonb ->> 2;
    if not care.try_lock_patient(old_key.patient_id) then
        return false;
    end if;
    delete from care.idempotency_keys
    where idempotency_keys.organisation_id = old_key.organisation_id
        and idempotency_keys.caller = old_key.caller
        and idempotency_keys.key = old_key.key;
    return found;
end
$$;
comment on function care.delete_old_idempotency_key is 'Deletes such a key. Returns whether it did. Called by care.run_job.';
revoke execute on function care.delete_old_idempotency_key from public;
