-- Deletions: how what lies outside of the database is deleted, what is kept for how long, and how a restored backup is brought
-- up to date.

create type public.deletion_claim as (
    deletion_id bigint,
    kind public.deletion_kind,
    reference text,
    attempts integer,
    lease_token uuid
);
comment on type public.deletion_claim is 'Something to delete: bucket/path in Storage, or provider/call id.';

create function voice.claim_deletions(worker text, count integer, lease_seconds double precision, at timestamptz)
returns setof public.deletion_claim
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update voice.deletions as claimed
    set state = 'leased',
        attempts = claimed.attempts + 1,
        worker = claim_deletions.worker,
        lease_token = gen_random_uuid(),
        leased_until = clock_timestamp() + make_interval(secs => claim_deletions.lease_seconds)
    from (
        select due.id
        from voice.deletions as due
        where case due.state when 'queued' then due.run_at <= claim_deletions.at when 'leased' then due.leased_until < clock_timestamp() end
        order by due.run_at, due.id
        for update skip locked
        limit claim_deletions.count
    ) as ready
    where claimed.id = ready.id
    returning claimed.id, claimed.kind, claimed.reference, claimed.attempts, claimed.lease_token
$$;
comment on function voice.claim_deletions is 'Hands out up to count deletions that are due. Definer: the edge function may not touch voice.';
revoke execute on function voice.claim_deletions from public;
grant execute on function voice.claim_deletions to service_role;

create function voice.finish_deletion(deletion_id bigint, lease_token uuid, at timestamptz)
returns boolean
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    with done as (
        update voice.deletions
        set state = 'done', finished_at = finish_deletion.at, error_code = null
        where deletions.id = finish_deletion.deletion_id
            and deletions.lease_token = finish_deletion.lease_token
            and deletions.state = 'leased'
        returning deletions.patient_id, deletions.kind
    ),
    noted as (
        select voice.note_audit('deletion_finished', done.kind::text, done.patient_id) from done
    )
    select count(*) > 0 from noted
$$;
comment on function voice.finish_deletion is
    'It is gone, and was seen to be gone. False: the lease is lost. Definer: the edge function may not touch voice.';
revoke execute on function voice.finish_deletion from public;
grant execute on function voice.finish_deletion to service_role;

create function voice.fail_deletion(deletion_id bigint, lease_token uuid, code text, at timestamptz)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update voice.deletions
    set state = 'queued',
        error_code = fail_deletion.code,
        lease_token = null,
        leased_until = null,
        run_at = fail_deletion.at + voice.retry_wait(deletions.attempts)
    where deletions.id = fail_deletion.deletion_id
        and deletions.lease_token = fail_deletion.lease_token
        and deletions.state = 'leased'
$$;
comment on function voice.fail_deletion is
    'It is not gone: tried again after a wait that doubles, for ever. Definer: the edge function may not touch voice.';
revoke execute on function voice.fail_deletion from public;
grant execute on function voice.fail_deletion to service_role;

create function voice.due_deletions(at timestamptz)
returns bigint
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select count(*)
    from voice.deletions
    where case deletions.state when 'queued' then deletions.run_at <= due_deletions.at when 'leased' then deletions.leased_until < due_deletions.at end
$$;
comment on function voice.due_deletions is 'How many deletions could be done now. Called by voice.due_work.';
revoke execute on function voice.due_deletions from public;

create table voice.retention_policies (
    subject text constraint retention_policies_pkey primary key
        constraint what_is_kept_is_known check (
            subject in ('recordings', 'voiceprints', 'unmatched_calls', 'errors', 'deliveries', 'idempotency_keys')),
    keep_days double precision not null
        constraint something_is_kept_a_while check (keep_days > 0 and keep_days < 36500)
);
alter table voice.retention_policies enable row level security;
insert into voice.retention_policies values
    ('recordings', 90), ('voiceprints', 730), ('unmatched_calls', 30), ('errors', 90), ('deliveries', 365), ('idempotency_keys', 1);
comment on table voice.retention_policies is
    'For how long what is kept, in days; a row that is removed: for ever. Voiceprints of which the current baseline is made stay as long as it does.';

create function voice.kept_since(subject text, at timestamptz)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select kept_since.at - make_interval(secs => 86400 * retention_policies.keep_days)
    from voice.retention_policies
    where retention_policies.subject = kept_since.subject
$$;
comment on function voice.kept_since is 'What came before this moment is kept no longer; null: it is kept for ever. Called by the jobs that delete.';
revoke execute on function voice.kept_since from public;

-- Each pair is a job of voice.jobs: what is too old, and the deletion of one of it.

create function voice.old_recordings(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select call_logs.id::text
    from public.call_logs
    -- Since it came here: an archive that is imported is not gone at once.
    where call_logs.created_at < voice.kept_since('recordings', old_recordings.at)
        and (call_logs.recording_ref is not null
            -- Copied, and never given to the call: nobody has decided about its ended reason.
            or exists (
                select from voice.recordings
                where recordings.call_log_id = call_logs.id
                    -- Or perhaps copied, by somebody who vanished.
                    and (recordings.recording_ref is not null or (recordings.state in ('expired', 'refused') and recordings.attempts > 0))
            ))
        and (call_logs.check_state is null or call_logs.check_state not in ('queued', 'leased') or call_logs.source = 'archive')
    order by call_logs.created_at
    limit old_recordings.maximum_rows
$$;
comment on function voice.old_recordings is 'Calls whose recording is kept no longer, judged or not. Called by voice.run_job.';
revoke execute on function voice.old_recordings from public;

create function voice.delete_old_recording(call_log_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    call public.call_logs;
begin
    select call_logs.* into call from public.call_logs where call_logs.id = delete_old_recording.call_log_id::uuid;
    if not voice.try_lock_patient(call.patient_id) then
        return false;
    end if;
    select call_logs.* into call from public.call_logs where call_logs.id = call.id for no key update;
    perform voice.delete_recording(call);
    return true;
end
$$;
comment on function voice.delete_old_recording is 'Forgets a recording, and has its copies deleted; whether it did. Called by voice.run_job.';
revoke execute on function voice.delete_old_recording from public;

create function voice.old_voiceprints(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select embeddings.id::text
    from voice.embeddings
    where embeddings.created_at < voice.kept_since('voiceprints', old_voiceprints.at)
        and not exists (
            select
            from voice.baseline_samples
            join voice.baselines on baselines.id = baseline_samples.baseline_id
            where baseline_samples.embedding_id = embeddings.id and baselines.superseded_at is null
        )
    order by embeddings.created_at
    limit old_voiceprints.maximum_rows
$$;
comment on function voice.old_voiceprints is 'Voiceprints that are kept no longer, and of which no current baseline is made. Called by voice.run_job.';
revoke execute on function voice.old_voiceprints from public;

create function voice.delete_old_voiceprint(embedding_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not voice.try_lock_patient((select embeddings.patient_id from voice.embeddings where embeddings.id = delete_old_voiceprint.embedding_id::bigint)) then
        return false;
    end if;
    delete from voice.embeddings
    where embeddings.id = delete_old_voiceprint.embedding_id::bigint
        and not exists (
            select
            from voice.baseline_samples
            join voice.baselines on baselines.id = baseline_samples.baseline_id
            where baseline_samples.embedding_id = embeddings.id and baselines.superseded_at is null
        );
    return found;
end
$$;
comment on function voice.delete_old_voiceprint is 'Deletes a voiceprint, unless it has become a sample meanwhile; whether it did. Called by voice.run_job.';
revoke execute on function voice.delete_old_voiceprint from public;

create function voice.old_baselines(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select baselines.id::text
    from voice.baselines
    where baselines.superseded_at < voice.kept_since('voiceprints', old_baselines.at)
    order by baselines.superseded_at
    limit old_baselines.maximum_rows
$$;
comment on function voice.old_baselines is 'Superseded versions that are kept no longer. Called by voice.run_job.';
revoke execute on function voice.old_baselines from public;

create function voice.delete_old_baseline(baseline_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not voice.try_lock_patient((select baselines.patient_id from voice.baselines where baselines.id = delete_old_baseline.baseline_id::bigint)) then
        return false;
    end if;
    delete from voice.baselines where baselines.id = delete_old_baseline.baseline_id::bigint and baselines.superseded_at is not null;
    return found;
end
$$;
comment on function voice.delete_old_baseline is 'Deletes a superseded version; whether it did. Called by voice.run_job.';
revoke execute on function voice.delete_old_baseline from public;

create function voice.old_unmatched_calls(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select unmatched_calls.provider || '/' || unmatched_calls.provider_call_id
    from voice.unmatched_calls
    where unmatched_calls.received_at < voice.kept_since('unmatched_calls', old_unmatched_calls.at)
    order by unmatched_calls.received_at
    limit old_unmatched_calls.maximum_rows
$$;
comment on function voice.old_unmatched_calls is 'Reports of nobody known that are kept no longer. Called by voice.run_job.';
revoke execute on function voice.old_unmatched_calls from public;

create function voice.delete_old_unmatched_call(reference text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from voice.unmatched_calls
    using (
        select old_call.provider, old_call.provider_call_id
        from voice.unmatched_calls as old_call
        where old_call.provider || '/' || old_call.provider_call_id = delete_old_unmatched_call.reference
        for update skip locked -- whoever erases a person, or takes the call in, has it
    ) as found_call
    where unmatched_calls.provider = found_call.provider and unmatched_calls.provider_call_id = found_call.provider_call_id;
    return found;
end
$$;
comment on function voice.delete_old_unmatched_call is 'Deletes one of them; whether it did. Called by voice.run_job.';
revoke execute on function voice.delete_old_unmatched_call from public;

create function voice.old_errors(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select check_errors.id::text
    from voice.check_errors
    where check_errors.occurred_at < voice.kept_since('errors', old_errors.at)
    order by check_errors.occurred_at
    limit old_errors.maximum_rows
$$;
comment on function voice.old_errors is 'Failures of checks that are kept no longer. Called by voice.run_job.';
revoke execute on function voice.old_errors from public;

create function voice.delete_old_error(error_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not voice.try_lock_patient((
        select checks.patient_id
        from voice.check_errors
        join voice.checks on checks.id = check_errors.check_id
        where check_errors.id = delete_old_error.error_id::bigint
    )) then
        return false;
    end if;
    delete from voice.check_errors where check_errors.id = delete_old_error.error_id::bigint;
    return found;
end
$$;
comment on function voice.delete_old_error is 'Deletes one of them; whether it did. Called by voice.run_job.';
revoke execute on function voice.delete_old_error from public;

create function voice.old_deliveries(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select deliveries.id::text
    from voice.deliveries
    where deliveries.finished_at < voice.kept_since('deliveries', old_deliveries.at)
    order by deliveries.finished_at
    limit old_deliveries.maximum_rows
$$;
comment on function voice.old_deliveries is 'Messages that are kept no longer. Called by voice.run_job.';
revoke execute on function voice.old_deliveries from public;

create function voice.delete_old_delivery(delivery_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not voice.try_lock_patient((
        select alert_changes.patient_id
        from voice.deliveries
        join public.alert_changes on alert_changes.id = deliveries.change_id
        where deliveries.id = delete_old_delivery.delivery_id::bigint
    )) then
        return false;
    end if;
    delete from voice.deliveries where deliveries.id = delete_old_delivery.delivery_id::bigint;
    return found;
end
$$;
comment on function voice.delete_old_delivery is 'Deletes one of them; whether it did. Called by voice.run_job.';
revoke execute on function voice.delete_old_delivery from public;

create function voice.old_idempotency_keys(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_array(idempotency_keys.caller, idempotency_keys.key)::text
    from voice.idempotency_keys
    where idempotency_keys.created_at < voice.kept_since('idempotency_keys', old_idempotency_keys.at)
    order by idempotency_keys.created_at
    limit old_idempotency_keys.maximum_rows
$$;
comment on function voice.old_idempotency_keys is 'Idempotency keys that are kept no longer. Called by voice.run_job.';
revoke execute on function voice.old_idempotency_keys from public;

create function voice.delete_old_idempotency_key(reference text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    old_key voice.idempotency_keys;
begin
    select idempotency_keys.* into old_key
    from voice.idempotency_keys
    where idempotency_keys.caller = delete_old_idempotency_key.reference::jsonb ->> 0
        and idempotency_keys.key = delete_old_idempotency_key.reference::jsonb ->> 1;
    if not voice.try_lock_patient(old_key.patient_id) then
        return false;
    end if;
    delete from voice.idempotency_keys
    where idempotency_keys.caller = old_key.caller and idempotency_keys.key = old_key.key;
    return found;
end
$$;
comment on function voice.delete_old_idempotency_key is 'Deletes one of them; whether it did. Called by voice.run_job.';
revoke execute on function voice.delete_old_idempotency_key from public;
create index embeddings_by_age on voice.embeddings (created_at);
create index check_errors_by_age on voice.check_errors (occurred_at);
create index deliveries_by_age on voice.deliveries (finished_at);
create index call_logs_with_recordings on public.call_logs (created_at) where recording_ref is not null;

create function voice.tombstone_list()
returns setof voice.tombstones
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select * from voice.tombstones order by erased_at, id
$$;
comment on function voice.tombstone_list is
    'Who was erased, to be kept apart from the backups. Definer: the service touches no table. Called by `retrocare tombstones`.';
revoke execute on function voice.tombstone_list from public;
grant execute on function voice.tombstone_list to retrocare_service, service_role;

create function voice.replay_tombstone(id uuid, patient_id uuid, scope public.erasure_scope, reason text, erased_at timestamptz)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from voice.tombstones where tombstones.id = replay_tombstone.id) then
        return false; -- this database is younger than the erasure
    end if;
    if exists (select from public.patients where patients.id = replay_tombstone.patient_id) then
        if replay_tombstone.scope = 'person' then
            perform voice.erase_patient(replay_tombstone.patient_id, replay_tombstone.reason);
        else
            perform voice.erase_patient_voice(replay_tombstone.patient_id, replay_tombstone.reason);
        end if;
    end if;
    insert into voice.tombstones (id, patient_id, scope, reason, erased_at)
    values (
        replay_tombstone.id, replay_tombstone.patient_id, replay_tombstone.scope, replay_tombstone.reason,
        replay_tombstone.erased_at
    );
    perform voice.note_audit('erasure_replayed', replay_tombstone.scope::text, replay_tombstone.patient_id);
    return true;
end
$$;
comment on function voice.replay_tombstone is
    'Erases again what a restored backup brought back; false where it was erased here. Definer: as voice.erase_patient. Called by `retrocare tombstones --replay`.';
revoke execute on function voice.replay_tombstone from public;
grant execute on function voice.replay_tombstone to retrocare_service, service_role;
