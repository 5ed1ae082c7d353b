-- Erasure: a signal's data, or a person, is removed from the whole database in one transaction. Copies outside the database (Storage,
-- the provider) are listed, and deleted by functions/delete-recordings until their absence is confirmed.

create table care.tombstones (
    id uuid constraint tombstones_pkey primary key default gen_random_uuid(),
    patient_id uuid not null,
    scope text not null,
    reason text not null,
    erased_at timestamptz not null default now()
);
create index tombstones_by_patient on care.tombstones (patient_id);
alter table care.tombstones enable row level security;
comment on column care.tombstones.scope is 'The signal that was erased, or person if everything was.';
comment on table care.tombstones is 'The erasures: exported, and replayed on a restored backup. Append-only.';

create type public.deletion_state as enum (
    'queued',       -- waits to be deleted, or for a retry      -> leased
    'leased',       -- being deleted                            -> done, queued again
    'done'          -- end: deleted
);
comment on type public.deletion_state is 'The state of a deletion outside the database. It is retried until it succeeds.';

create type public.deletion_kind as enum ('storage_object', 'provider_call');
comment on type public.deletion_kind is 'What is to be deleted. Its reference is bucket/path, or provider account/call id.';

create table care.deletions (
    id bigint generated always as identity constraint deletions_pkey primary key,
    patient_id uuid not null,
    kind public.deletion_kind not null,
    reference text not null,
    state public.deletion_state not null default 'queued',
    attempts integer not null default 0,
    run_at timestamptz not null default now(),
    worker text,
    lease_token uuid,
    leased_until timestamptz,
    due_at timestamptz
        generated always as (case state when 'queued' then run_at when 'leased' then leased_until end) stored,
    error_code text,
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    constraint a_thing_is_deleted_once unique (kind, reference),
    constraint a_leased_deletion_has_a_lease check (state <> 'leased' or (lease_token is not null and leased_until is not null)),
    constraint a_done_deletion_has_its_time check ((state = 'done') = (finished_at is not null))
);
create index deletions_by_patient on care.deletions (patient_id);
create index deletions_to_do on care.deletions (due_at) where due_at is not null;
alter table care.deletions enable row level security;
comment on table care.deletions is 'What is to be deleted outside the database. It has no foreign keys, since it outlives the person.';
comment on column care.deletions.due_at is
    'When the deletion can be claimed: run_at while it is queued, leased_until while it is leased. Null: it is done.';
create index deletions_at_issue on care.deletions (id) where state <> 'done' and error_code is not null;

create function care.storage_path(recording_ref text)
returns text
language sql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case when starts_with(recording_ref, 'storage:') then substr(recording_ref, length('storage:') + 1) end
$$;
comment on function care.storage_path is 'Returns bucket/path of a recording in Storage. Null: it is elsewhere.';
revoke execute on function care.storage_path from public;

create function care.queue_deletion(patient_id uuid, kind public.deletion_kind, reference text)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into care.deletions (patient_id, kind, reference, state, finished_at)
    select queue_deletion.patient_id, queue_deletion.kind, queue_deletion.reference,
        case when is_ours then 'queued' else 'done' end::public.deletion_state, case when not is_ours then now() end
    from (
        -- Without the provider's API key, nothing can be deleted there. The row then only keeps the call from being stored again.
        select queue_deletion.kind <> 'provider_call' or exists (
            select from care.provider_accounts
            where provider_accounts.id = split_part(queue_deletion.reference, '/', 1) and provider_accounts.secret_name is not null
        )
    ) as place (is_ours)
    -- The copy may have come back since it was deleted, or while it is being deleted: delete it again.
    on conflict (kind, reference) do update
    set state = excluded.state,
        attempts = 0,
        run_at = now(),
        lease_token = null,
        leased_until = null,
        error_code = null,
        finished_at = excluded.finished_at
$$;
comment on function care.queue_deletion is
    'Queues a deletion outside the database, again if it was done before. A call of a provider account without a secret is only noted as erased.';
revoke execute on function care.queue_deletion from public;

create function care.queue_deletions(call public.call_logs)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select care.queue_deletion(call.patient_id, copies.kind, copies.reference)
    from (
        select 'storage_object'::public.deletion_kind as kind, care.storage_path(call.recording_ref) as reference
        union
        select 'storage_object', care.storage_path(recordings.recording_ref)
        from care.recordings
        where recordings.call_log_id = call.id
        union
        -- A worker may have been copying the recording. Neither its progress nor the file type is known.
        select 'storage_object', 'voice-recordings/' || call.patient_id || '/' || call.id || '.' || kinds.extension
        from care.recordings
        cross join unnest(array['wav', 'ogg', 'flac', 'm4a', 'webm', 'mp3']) as kinds (extension)
        where recordings.call_log_id = call.id and recordings.recording_ref is null and recordings.attempts > 0
        union
        select 'provider_call', call.provider_account || '/' || call.provider_call_id
    ) as copies
    where copies.reference is not null
    order by copies.kind, copies.reference
$$;
comment on function care.queue_deletions is 'Queues the deletion of all copies of a call''s recording, in Storage and at the provider.';
revoke execute on function care.queue_deletions from public;

create function care.delete_recording(call public.call_logs)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select care.queue_deletions(call);
    delete from care.recordings where recordings.call_log_id = call.id;
    update public.call_logs
    set recording_ref = null,
        recording_source_url = null,
        speech_intervals = null
    where call_logs.id = call.id;
$$;
comment on function care.delete_recording is
    'Removes a call''s recording, and queues the deletion of its copies in Storage and at the provider. The caller has called care.lock_patient.';
revoke execute on function care.delete_recording from public;

create function care.delete_orphan(recording_ref text)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select care.queue_deletion(
        split_part(delete_orphan.recording_ref, '/', 2)::uuid, 'storage_object', care.storage_path(delete_orphan.recording_ref))
    where delete_orphan.recording_ref ~ '^storage:[^/]+/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/'
$$;
comment on function care.delete_orphan is
    'Queues the deletion of a file that was put into Storage for a patient who was erased meanwhile. Called by care.store_recording.';
revoke execute on function care.delete_orphan from public;

create function care.erase_recordings(patient_id uuid)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    counts jsonb;
begin
    update public.call_logs
    set check_state = 'skipped', check_reason = 'no_consent'
    where call_logs.patient_id = erase_recordings.patient_id
        and exists (
            select from care.recordings
            where recordings.call_log_id = call_logs.id and recordings.state in ('queued', 'leased')
        );
    with forgotten as (
        select care.delete_recording(call_logs)
        from public.call_logs
        where call_logs.patient_id = erase_recordings.patient_id
            and (call_logs.recording_ref is not null or call_logs.provider_call_id is not null)
    )
    select jsonb_build_object('recordings', count(*)) into counts from forgotten;
    return counts;
end
$$;
comment on function care.erase_recordings is
    'Removes all recordings of a patient, keeps any from being copied, and returns how many there were. The caller has called care.lock_patient.';
revoke execute on function care.erase_recordings from public;

create function care.erase_signal(patient_id uuid, signal text, reason text)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    counts jsonb;
    removed jsonb;
begin
    perform care.lock_patient(erase_signal.patient_id);
    -- End unfinished checks with the reason no_consent, so that their workers learn of it. Delete all others, with their measures.
    update care.checks
    set state = 'skipped', reason = 'no_consent', finished_at = clock_timestamp(), quality = '{}', detail = '{}'
    where checks.patient_id = erase_signal.patient_id
        and checks.signal = erase_signal.signal
        and checks.state in ('queued', 'leased');
    with checks as (
        delete from care.checks
        where checks.patient_id = erase_signal.patient_id
            and checks.signal = erase_signal.signal
            and checks.reason is distinct from 'no_consent'
        returning id
    )
    select jsonb_build_object('checks', count(*)) from checks into counts;
    execute format('select %s($1)', (select signals.erase_function from care.signals where signals.id = erase_signal.signal))
    into removed
    using erase_signal.patient_id;
    counts := counts || removed;
    update public.judgements
    set explanation = null, reasons = '{}', likely_patient_id = null
    where judgements.patient_id = erase_signal.patient_id
        and judgements.signal = erase_signal.signal
        and (judgements.explanation is not null or judgements.reasons <> '{}' or judgements.likely_patient_id is not null);
    -- Nobody was recognised by a voice that is erased.
    update public.judgements
    set likely_patient_id = null
    where judgements.likely_patient_id = erase_signal.patient_id and judgements.signal = erase_signal.signal;
    -- Recordings serve all signals. They are kept as long as another signal may use them.
    if not exists (
        select
        from public.consents
        join care.signals on signals.consent_scope = consents.scope
        where consents.patient_id = erase_signal.patient_id
            and consents.withdrawn_at is null
            and consents.scope <> (select erased.consent_scope from care.signals as erased where erased.id = erase_signal.signal)
    ) then
        counts := counts || care.erase_recordings(erase_signal.patient_id);
    end if;
    if not exists (
        select from care.tombstones
        where tombstones.patient_id = erase_signal.patient_id
            and tombstones.scope in (erase_signal.signal, 'person')
            and tombstones.erased_at = now()
    ) then
        insert into care.tombstones (patient_id, scope, reason)
        values (erase_signal.patient_id, erase_signal.signal, erase_signal.reason);
        perform care.note_audit('signal_erased', erase_signal.signal, erase_signal.patient_id, counts);
    end if;
    return counts;
end
$$;
comment on function care.erase_signal is
    'Removes all data of a signal, including those that its erase_function removes, and returns the numbers of removed rows by name. Judgements stay, without their explanation and the data from which they were computed. Raises RV002.';
revoke execute on function care.erase_signal from public;

create function care.erase_patient_signal(patient_id uuid, signal text, reason text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    counts jsonb;
begin
    if not exists (select from care.signals where signals.id = erase_patient_signal.signal) then
        raise exception using
            errcode = 'PT400',
            message = format('There is no signal %L', erase_patient_signal.signal),
            hint = format('Use one of %s.', (select string_agg(signals.id, ', ' order by signals.id) from care.signals));
    end if;
    counts := care.erase_signal(erase_patient_signal.patient_id, erase_patient_signal.signal, erase_patient_signal.reason);
    -- Without this, the next call would create the data again.
    update public.consents
    set withdrawn_at = greatest(now(), consents.given_at),
        withdrawn_by = (select auth.uid())
    where consents.patient_id = erase_patient_signal.patient_id
        and consents.scope = (select signals.consent_scope from care.signals where signals.id = erase_patient_signal.signal)
        and consents.withdrawn_at is null;
    return counts;
end
$$;
comment on function care.erase_patient_signal is
    'Erases what a signal stores about a patient, and withdraws the consent to it; returns the numbers of removed rows by name. Raises PT400, RV002. Security definer: callers have no privileges on the private schemas. Called by `retrocare tombstones --replay` and care.erase_patient_voice.';
revoke execute on function care.erase_patient_signal from public;

create function care.erase_patient_voice(patient_id uuid, reason text)
returns jsonb
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    select care.erase_patient_signal(erase_patient_voice.patient_id, 'voice', erase_patient_voice.reason)
$$;
comment on function care.erase_patient_voice is
    'Erases a patient''s voice data and withdraws the consent to them; returns the numbers of removed rows by name. Raises RV002. Security definer for the same reason as care.erase_patient_signal. Called by `retrocare patient erase` and public.erase_patient_voice.';
revoke execute on function care.erase_patient_voice from public;
grant execute on function care.erase_patient_voice to retrocare_service;

create function care.erase_signals(patient_id uuid, reason text)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    signal text;
    removed jsonb;
    counts jsonb := '{}';
begin
    for signal in select signals.id from care.signals order by signals.id loop
        removed := care.erase_signal(erase_signals.patient_id, signal, erase_signals.reason);
        counts := counts || (
            select jsonb_object_agg(erased.key, coalesce((counts ->> erased.key)::bigint, 0) + erased.value::bigint)
            from jsonb_each_text(removed) as erased
        );
    end loop;
    if not counts ? 'recordings' then
        counts := counts || care.erase_recordings(erase_signals.patient_id);
    end if;
    return counts;
end
$$;
comment on function care.erase_signals is 'Erases all signals of a patient and returns the numbers of removed rows by name. Raises RV002.';
revoke execute on function care.erase_signals from public;

create function care.erase_patient(patient_id uuid, reason text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    counts jsonb;
begin
    -- Take the lock that the deletion needs right away. Transactions that refer to the patient then wait, and no lock upgrade can
    -- deadlock.
    perform from public.patients where patients.id = erase_patient.patient_id for update;
    counts := care.erase_signals(erase_patient.patient_id, erase_patient.reason);
    insert into care.tombstones (patient_id, scope, reason) values (erase_patient.patient_id, 'person', erase_patient.reason);
    perform care.note_audit('person_erased', 'care.erase_patient', erase_patient.patient_id, counts);
    delete from public.patients where patients.id = erase_patient.patient_id;
    return counts;
end
$$;
comment on function care.erase_patient is
    'Erases a person: the voice data, calls, judgements, alerts and everything else except the audit log. Returns the numbers of removed rows by name. Raises RV002. Security definer for the same reason as care.erase_patient_signal. Called by `retrocare patient erase --person` and public.erase_patient.';
revoke execute on function care.erase_patient from public;
grant execute on function care.erase_patient to retrocare_service;

-- Rows can also be deleted directly, by service_role or in the SQL editor. The triggers below make sure that nothing is left behind
-- then either.

create function care.on_patient_deleted()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    forgotten_count bigint;
begin
    -- Reports that waited for this patient's number must not go to another patient who gets it.
    with forgotten as (
        delete from care.unmatched_calls
        using care.provider_accounts
        where provider_accounts.id = unmatched_calls.provider_account
            and provider_accounts.organisation_id = old.organisation_id
            and (unmatched_calls.phone = old.phone or unmatched_calls.report ->> 'patient_id' = old.id::text)
        returning unmatched_calls.provider_account || '/' || unmatched_calls.provider_call_id as reference
    )
    select count(care.queue_deletion(old.id, 'provider_call', forgotten.reference)) into forgotten_count from forgotten;
    if not exists (
        select from care.tombstones
        where tombstones.patient_id = old.id and tombstones.scope = 'person' and tombstones.erased_at = now()
    ) then
        perform care.erase_signals(old.id, 'the row was deleted');
        insert into care.tombstones (patient_id, scope, reason) values (old.id, 'person', 'the row was deleted');
        perform care.note_audit('person_erased', 'public.patients', old.id);
    end if;
    return old;
end
$$;
comment on function care.on_patient_deleted is
    'Trigger: erases the person when a patient''s row is deleted. Security definer: roles that delete the row have no privileges on the private schemas.';
revoke execute on function care.on_patient_deleted from public;

create function care.on_call_deleted()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if care.lock_patient_or_refuse(old.patient_id) then
        perform care.queue_deletions(old);
    end if;
    return old;
end
$$;
comment on function care.on_call_deleted is
    'Trigger: queues the deletion of a call''s copies when its row is deleted. Security definer for the same reason as care.on_patient_deleted.';
revoke execute on function care.on_call_deleted from public;

create function care.erasure_preview(patient_id uuid)
returns table (erased text, row_count bigint)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    kept record;
begin
    for kept in
        select relation.relname::text as name, relation.oid::regclass as relation
        from care.signals
        join pg_catalog.pg_namespace as namespace on namespace.nspname = signals.schema_name
        join pg_catalog.pg_class as relation on relation.relnamespace = namespace.oid and relation.relkind = 'r'
        join pg_catalog.pg_attribute as key on key.attrelid = relation.oid and key.attname = 'patient_id' and not key.attisdropped
        -- Tables without an id only join others, so their counts would mean nothing to the reader.
        where exists (
            select from pg_catalog.pg_attribute as id
            where id.attrelid = relation.oid and id.attname = 'id' and not id.attisdropped
        )
        order by 1
    loop
        execute format('select %L, count(*) from %s where patient_id = $1', kept.name, kept.relation)
        into erased, row_count
        using erasure_preview.patient_id;
        return next;
    end loop;
    return query
        select 'checks', count(*) from care.checks where checks.patient_id = erasure_preview.patient_id
        union all
        select 'recordings', count(*)
        from public.call_logs
        where call_logs.patient_id = erasure_preview.patient_id
            and (call_logs.recording_ref is not null or call_logs.provider_call_id is not null);
end
$$;
comment on function care.erasure_preview is
    'Returns what erasing all signals of a patient would remove, by name. Called before `retrocare patient erase` and `consent --withdraw` ask for confirmation.';
revoke execute on function care.erasure_preview from public;
grant execute on function care.erasure_preview to retrocare_service;

create function care.tombstone_list()
returns setof care.tombstones
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select * from care.tombstones order by erased_at, id
$$;
comment on function care.tombstone_list is
    'Returns the list of erasures, which must be kept apart from backups. Security definer: the service has no privileges on tables. Called by `retrocare tombstones`.';
revoke execute on function care.tombstone_list from public;
grant execute on function care.tombstone_list to retrocare_service;

create function care.replay_tombstone(id uuid, patient_id uuid, scope text, reason text, erased_at timestamptz)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from care.tombstones where tombstones.id = replay_tombstone.id) then
        return false; -- this database already contains the erasure
    end if;
    if exists (select from public.patients where patients.id = replay_tombstone.patient_id) then
        if replay_tombstone.scope = 'person' then
            perform care.erase_patient(replay_tombstone.patient_id, replay_tombstone.reason);
        -- A signal that is unknown in this database has no data in it.
        elsif exists (select from care.signals where signals.id = replay_tombstone.scope) then
            perform care.erase_patient_signal(replay_tombstone.patient_id, replay_tombstone.scope, replay_tombstone.reason);
        end if;
    end if;
    insert into care.tombstones (id, patient_id, scope, reason, erased_at)
    values (
        replay_tombstone.id, replay_tombstone.patient_id, replay_tombstone.scope, replay_tombstone.reason,
        replay_tombstone.erased_at
    );
    perform care.note_audit('erasure_replayed', replay_tombstone.scope, replay_tombstone.patient_id);
    return true;
end
$$;
comment on function care.replay_tombstone is
    'Repeats an erasure on a restored backup. Returns false if this database already contains it. Security definer for the same reason as care.erase_patient. Called by `retrocare tombstones --replay`.';
revoke execute on function care.replay_tombstone from public;
grant execute on function care.replay_tombstone to retrocare_service;
