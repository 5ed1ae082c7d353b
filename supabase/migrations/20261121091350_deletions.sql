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
        constraint what_is_kept_is_known check (subject in ('recordings', 'voiceprints', 'unmatched_calls', 'errors', 'deliveries')),
    keep_days double precision not null
        constraint something_is_kept_a_while check (keep_days > 0 and keep_days < 36500)
);
alter table voice.retention_policies enable row level security;
insert into voice.retention_policies values
    ('recordings', 90), ('voiceprints', 730), ('unmatched_calls', 30), ('errors', 90), ('deliveries', 365);
comment on table voice.retention_policies is
    'For how long what is kept, in days; a row that is removed: for ever. Voiceprints of which the current baseline is made stay as long as it does.';

create function voice.enforce_retention(at timestamptz)
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    policy record;
    ended integer;
    total integer := 0;
begin
    for policy in
        select retention_policies.subject, enforce_retention.at - make_interval(secs => 86400 * retention_policies.keep_days) as before
        from voice.retention_policies
    loop
        case policy.subject
            when 'recordings' then
                with forgotten as (
                    select voice.delete_recording(call_logs)
                    from public.call_logs
                    -- Since it came here: an archive that is imported is not gone at once.
                    where call_logs.created_at < policy.before
                        and call_logs.recording_ref is not null
                        and (call_logs.check_state not in ('queued', 'leased') or call_logs.source = 'archive')
                )
                select count(*) into ended from forgotten;
            when 'voiceprints' then
                delete from voice.embeddings
                where embeddings.created_at < policy.before
                    and not exists (
                        select
                        from voice.baseline_samples
                        join voice.baselines on baselines.id = baseline_samples.baseline_id
                        where baseline_samples.embedding_id = embeddings.id and baselines.superseded_at is null
                    );
                get diagnostics ended = row_count;
                delete from voice.baselines where baselines.superseded_at < policy.before;
            when 'unmatched_calls' then
                delete from voice.unmatched_calls where unmatched_calls.received_at < policy.before;
                get diagnostics ended = row_count;
            when 'errors' then
                delete from voice.check_errors where check_errors.occurred_at < policy.before;
                get diagnostics ended = row_count;
            when 'deliveries' then
                delete from voice.deliveries where deliveries.finished_at < policy.before;
                get diagnostics ended = row_count;
        end case;
        if ended > 0 then
            perform voice.note_audit('retention_enforced', policy.subject, null, jsonb_build_object('rows', ended));
        end if;
        total := total + ended;
    end loop;
    return total;
end
$$;
comment on function voice.enforce_retention is 'Ends what has been kept for as long as voice.retention_policies says; how many rows. Called by voice.sweep.';
revoke execute on function voice.enforce_retention from public;
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
