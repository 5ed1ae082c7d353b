-- Setup report: what `retrocare doctor` asks of the database, and what a command says of a recording that could not be judged.

create function voice.setup_report()
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    migrations jsonb := '[]';
begin
    if to_regclass('supabase_migrations.schema_migrations') is not null then
        execute 'select coalesce(jsonb_agg(version), ''[]'') from supabase_migrations.schema_migrations' into migrations;
    end if;
    return jsonb_build_object(
        'migrations', migrations,
        'active_encoder', voice.active_encoder(),
        'channels', (
            select coalesce(jsonb_agg(delivery_channels.id order by delivery_channels.id), '[]')
            from voice.delivery_channels
            where delivery_channels.is_enabled
        ),
        'standing_keys', (select count(*) from voice.api_keys where api_keys.revoked_at is null),
        'patients', (select count(*) from public.patients where patients.voice_consent_at is not null),
        'patients_without_reachable_caregiver', (
            select count(*)
            from public.patients
            where patients.voice_consent_at is not null
                and not exists (
                    select
                    from public.patient_caregivers
                    cross join lateral voice.caregiver_addresses(patient_caregivers)
                    where patient_caregivers.patient_id = patients.id
                )
        )
    );
end
$$;
comment on function voice.setup_report is
    'What is set up: applied migrations, the active encoder, enabled channels, keys, and patients of whom nobody could be told. Counts only patients with consent. Definer: the service touches no table. Called by `retrocare doctor`.';
revoke execute on function voice.setup_report from public;
grant execute on function voice.setup_report to retrocare_service;

create function voice.call_measures(call_log_id uuid)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select checks.quality
    from voice.checks
    where checks.call_log_id = call_measures.call_log_id and not checks.is_backfill
    order by checks.id desc
    limit 1
$$;
comment on function voice.call_measures is
    'What was measured of a call''s recording; null: nothing. Definer: the service touches no table. Called by `retrocare check`.';
revoke execute on function voice.call_measures from public;
grant execute on function voice.call_measures to retrocare_service;
