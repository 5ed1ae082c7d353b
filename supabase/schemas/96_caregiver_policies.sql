-- Access: what the signed-in caregiver may read. Whatever no policy allows is refused; `anon` reads nothing, and `service_role`
-- bypasses row level security.

-- Recordings are stored as <patient_id>/<call_log_id>.wav. Caregivers who may play recordings can read them there, and nothing else.
do $$
begin
    if to_regclass('storage.objects') is null then
        raise notice 'There is no Storage: caregivers cannot play recordings';
    elsif not exists (
        select from pg_catalog.pg_policies
        where schemaname = 'storage' and policyname = 'caregivers_play_their_patients_recordings'
    ) then
        create policy caregivers_play_their_patients_recordings on storage.objects
            for select to authenticated
            using (
                bucket_id = 'voice-recordings'
                and split_part(name, '/', 1) = any (array(select care.patients_of_caller('family')::text))
            );
    end if;
exception when insufficient_privilege then
    raise notice 'Only the owner of Storage can create its policy: %', sqlerrm;
end
$$;

-- A grant on an adopted table without row level security would show every row to all signed-in users.
do $$
declare
    readable record;
begin
    for readable in
        select * from (values
            ('patient_caregivers', ''),
            ('patients', ''),
            ('health_flags', ''),
            ('daily_checkins', ''),
            ('call_logs', '(id, patient_id, "timestamp", summary, source, provider, ended_reason, recording_channel,'
                ' check_state, check_reason, is_heard, is_unheard, anomaly_score, created_at)')
        ) as care (table_name, columns)
    loop
        if (select relrowsecurity from pg_catalog.pg_class where oid = to_regclass('public.' || readable.table_name)) then
            execute format('grant select %s on public.%I to authenticated', readable.columns, readable.table_name);
        else
            raise notice 'public.% has no row level security: caregivers get no privileges on it', readable.table_name;
        end if;
    end loop;
end
$$;
