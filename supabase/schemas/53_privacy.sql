-- Privacy: what a person may ask for, and who may ask. The raw vectors are in no answer.

create function voice.export_patient(patient_id uuid)
returns jsonb
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient public.patients := voice.consenting_patient(export_patient.patient_id);
    kept record;
    rows jsonb;
    exported jsonb := jsonb_build_object('exported_at', now(), 'patients', jsonb_build_array(to_jsonb(patient)));
begin
    for kept in
        select
            namespace.nspname || '.' || relation.relname as name,
            relation.oid::regclass as relation,
            -- Addresses of recordings are keys; embeddings are of use to nobody but the scoring functions.
            array_agg(hidden.attname::text) filter (where hidden.attname is not null) as hidden
        from pg_catalog.pg_class as relation
        join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
        join pg_catalog.pg_attribute as key
            on key.attrelid = relation.oid and key.attname = 'patient_id' and not key.attisdropped
        left join pg_catalog.pg_attribute as hidden
            on hidden.attrelid = relation.oid
            and not hidden.attisdropped
            and (hidden.attname in ('recording_ref', 'recording_source_url', 'lease_token', 'idempotency_key')
                or hidden.atttypid = 'extensions.vector'::regtype)
        where namespace.nspname in ('public', 'voice') and relation.relkind = 'r'
        group by 1, 2
        order by 1
    loop
        execute format(
            'select coalesce(jsonb_agg(to_jsonb(kept) - $2), ''[]'') from %s as kept where kept.patient_id = $1', kept.relation)
        into rows
        using patient.id, coalesce(kept.hidden, '{}');
        exported := exported || jsonb_build_object(replace(kept.name, 'public.', ''), rows);
    end loop;
    perform voice.note_audit('exported', 'voice.export_patient', patient.id);
    return exported;
end
$$;
comment on function voice.export_patient is
    'Everything that is kept of a patient, table by table, without the vectors. Noted in the audit. Raises PT403, PT404, RV002. Definer: no reader reaches all of it.';
revoke execute on function voice.export_patient from public;
grant execute on function voice.export_patient to authenticated, service_role, retrocare_service;

create function voice.read_recording(call_log_id uuid)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    call public.call_logs;
begin
    select call_logs.* into call
    from public.call_logs
    where call_logs.id = read_recording.call_log_id and voice.role_of_caller(call_logs.patient_id) <> 'viewer';
    if voice.storage_path(call.recording_ref) is null then
        raise exception using
            errcode = 'PT404',
            message = 'No such recording',
            hint = 'Recordings are played by family, clinicians and primary caregivers, while they are kept.';
    end if;
    perform voice.note_audit('recording_read', 'call_logs ' || call.id, call.patient_id);
    return voice.storage_path(call.recording_ref);
end
$$;
comment on function voice.read_recording is
    'Where a call''s recording is in Storage (bucket/path), for a caregiver who may play it. Noted in the audit. Raises PT404. Definer: nobody reads recording_ref.';
revoke execute on function voice.read_recording from public;
grant execute on function voice.read_recording to authenticated;

-- What is called over the Data API. The bodies are bound when they are created.

create function public.export_patient(patient_id uuid)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.export_patient(export_patient.patient_id);
end;
comment on function public.export_patient is
    'For the primary caregiver, and service_role: everything that is kept of a patient, as JSON. Raises PT403, PT404.';
revoke execute on function public.export_patient from public, anon;
grant execute on function public.export_patient to authenticated, service_role;

create function public.read_recording(call_log_id uuid)
returns text
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.read_recording(read_recording.call_log_id);
end;
comment on function public.read_recording is
    'For family, clinicians and primary caregivers: bucket/path of a call''s recording, to be opened with storage.createSignedUrl. Raises PT404.';
revoke execute on function public.read_recording from public, anon, service_role;
grant execute on function public.read_recording to authenticated;

create function public.erase_patient_voice(patient_id uuid, reason text)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.erase_patient_voice(erase_patient_voice.patient_id, erase_patient_voice.reason);
end;
comment on function public.erase_patient_voice is 'For the privacy officer (service_role): erases a voice, and ends the consent to it.';
revoke execute on function public.erase_patient_voice from public, anon, authenticated;
grant execute on function public.erase_patient_voice to service_role;

create function public.erase_patient(patient_id uuid, reason text)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.erase_patient(erase_patient.patient_id, erase_patient.reason);
end;
comment on function public.erase_patient is 'For the privacy officer (service_role): erases a person, but for the audit.';
revoke execute on function public.erase_patient from public, anon, authenticated;
grant execute on function public.erase_patient to service_role;

create function public.claim_deletions(worker text, count integer, lease_seconds double precision, at timestamptz default now())
returns setof public.deletion_claim
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.claim_deletions(
        claim_deletions.worker, claim_deletions.count, claim_deletions.lease_seconds, claim_deletions.at);
end;
comment on function public.claim_deletions is 'For functions/delete-recordings (service_role): deletions that are due.';
revoke execute on function public.claim_deletions from public, anon, authenticated;
grant execute on function public.claim_deletions to service_role;

create function public.finish_deletion(deletion_id bigint, lease_token uuid, at timestamptz default now())
returns boolean
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.finish_deletion(finish_deletion.deletion_id, finish_deletion.lease_token, finish_deletion.at);
end;
comment on function public.finish_deletion is 'For functions/delete-recordings (service_role): it is gone.';
revoke execute on function public.finish_deletion from public, anon, authenticated;
grant execute on function public.finish_deletion to service_role;

create function public.fail_deletion(deletion_id bigint, lease_token uuid, code text, at timestamptz default now())
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.fail_deletion(fail_deletion.deletion_id, fail_deletion.lease_token, fail_deletion.code, fail_deletion.at);
end;
comment on function public.fail_deletion is 'For functions/delete-recordings (service_role): it is not gone.';
revoke execute on function public.fail_deletion from public, anon, authenticated;
grant execute on function public.fail_deletion to service_role;
