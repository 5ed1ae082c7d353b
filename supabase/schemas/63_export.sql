-- Export: everything that is kept of a person, without the vectors.

create function care.export_patient(patient_id uuid)
returns jsonb
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient public.patients := care.patient_for_caller(export_patient.patient_id, 'primary');
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
        where namespace.nspname in ('public', 'care', 'voice') and relation.relkind = 'r'
        group by 1, 2
        order by 1
    loop
        execute format(
            'select coalesce(jsonb_agg(to_jsonb(kept) - $2), ''[]'') from %s as kept where kept.patient_id = $1', kept.relation)
        into rows
        using patient.id, coalesce(kept.hidden, '{}');
        exported := exported || jsonb_build_object(replace(kept.name, 'public.', ''), rows);
    end loop;
    perform care.note_audit('exported', 'care.export_patient', patient.id);
    return exported;
end
$$;
comment on function care.export_patient is
    'Everything that is kept of a patient, table by table, without the vectors. Noted in the audit. Raises PT403, PT404, RV002. Definer: no reader reaches all of it.';
revoke execute on function care.export_patient from public;
grant execute on function care.export_patient to retrocare_service;
