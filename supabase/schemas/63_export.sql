-- Export: everything that is stored about a person, except vectors.

create table care.unexported_columns (
    name text constraint unexported_columns_pkey primary key,
    reason text not null
);
alter table care.unexported_columns enable row level security;
insert into care.unexported_columns (name, reason) values
    ('recording_ref', 'the location of a recording grants access to it'),
    ('recording_source_url', 'the URL of a recording grants access to it'),
    ('lease_token', 'keeps workers with an expired lease from writing'),
    ('idempotency_key', 'sent by a caller'),
    ('key', 'sent by a caller'),
    ('caller', 'the name of an API key'),
    ('request_sha256', 'hash of what a caller sent');
comment on table care.unexported_columns is
    'Columns of any table that are left out of exports, and why. Vectors are always left out: they are of use only to the scoring functions.';

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
    'Returns everything that is stored about a patient, of every signal and by table, without the vectors, and notes it in the audit log. Raises PT403, PT404, RV002. Security definer: no caller may read all of it.';
revoke execute on function care.export_patient from public;
grant execute on function care.export_patient to retrocare_service;
