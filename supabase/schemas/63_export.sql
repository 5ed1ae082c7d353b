-- Export: everything that is kept of a person, without the vectors.

create table care.unexported_columns (
    name text constraint unexported_columns_pkey primary key,
    reason text not null
);
alter table care.unexported_columns enable row level security;
insert into care.unexported_columns (name, reason) values
    ('recording_ref', 'the address of a recording is a key to it'),
    ('recording_source_url', 'the address of a recording is a key to it'),
    ('lease_token', 'fences workers off each other'),
    ('idempotency_key', 'what a caller sent'),
    ('key', 'what a caller sent'),
    ('caller', 'the name of an API key'),
    ('request_sha256', 'of what a caller sent');
comment on table care.unexported_columns is 'Columns of any table that are in no export, and why. Vectors never are: they are of use to nobody but the scoring functions.';

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
            array_agg(hidden.attname::text) filter (where hidden.attname is not null) as hidden
        from pg_catalog.pg_class as relation
        join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
        join pg_catalog.pg_attribute as key
            on key.attrelid = relation.oid and key.attname = 'patient_id' and not key.attisdropped
        left join pg_catalog.pg_attribute as hidden
            on hidden.attrelid = relation.oid
            and not hidden.attisdropped
            and (hidden.attname = any (array(select unexported_columns.name from care.unexported_columns))
                or hidden.atttypid = 'extensions.vector'::regtype)
        where namespace.nspname = any (array(select signals.schema_name from care.signals) || '{public,care}'::text[]) and relation.relkind = 'r'
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
    'Everything that is kept of a patient, table by table, of every signal, without the vectors. Noted in the audit. Raises PT403, PT404, RV002. Definer: no reader reaches all of it.';
revoke execute on function care.export_patient from public;
grant execute on function care.export_patient to retrocare_service;
