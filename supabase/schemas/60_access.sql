-- Access: what the signed-in caregiver may read. Row level security is on beside each CREATE; whatever no policy allows is
-- refused. `anon` reads nothing. `service_role` passes row level security and has the grants that stand beside each CREATE.

create function voice.patients_of_caller(minimum_role public.caregiver_role)
returns setof uuid
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select patient_caregivers.patient_id
    from public.patient_caregivers
    where patient_caregivers.user_id = (select auth.uid())
        and patient_caregivers.role >= patients_of_caller.minimum_role
$$;
comment on function voice.patients_of_caller is
    'The patients of the signed-in caregiver, where the role is this or a later one of public.caregiver_role; of nobody, none. Definer: who cares for whom is asked here, not through the policies that ask it. In a policy: `patient_id = any (array(select ...))`, which is worked out once a query and which an index serves.';
revoke execute on function voice.patients_of_caller from public;
grant execute on function voice.patients_of_caller to authenticated;

create policy caregivers_see_themselves_and_the_primary_all_of_them on public.patient_caregivers
    for select to authenticated
    using (
        user_id = (select auth.uid())
        or patient_id = any (array(select voice.patients_of_caller('primary')))
    );

create policy caregivers_read_their_patients on public.patients
    for select to authenticated
    using (id = any (array(select voice.patients_of_caller('viewer'))));

create policy caregivers_read_their_patients_calls on public.call_logs
    for select to authenticated
    using (patient_id = any (array(select voice.patients_of_caller('viewer'))));

create policy caregivers_read_their_patients_flags on public.health_flags
    for select to authenticated
    using (patient_id = any (array(select voice.patients_of_caller('viewer'))));

create policy caregivers_read_their_patients_checkins on public.daily_checkins
    for select to authenticated
    using (patient_id = any (array(select voice.patients_of_caller('viewer'))));

create policy caregivers_read_their_patients_logs on public.voice_anomaly_logs
    for select to authenticated
    using (patient_id = any (array(select voice.patients_of_caller('viewer'))));

create policy caregivers_write_notes_on_their_patients_logs on public.voice_anomaly_logs
    for update to authenticated
    using (patient_id = any (array(select voice.patients_of_caller('family'))));

create policy caregivers_read_their_patients_alerts on public.caregiver_alerts
    for select to authenticated
    using (patient_id = any (array(select voice.patients_of_caller('viewer'))));

create policy caregivers_read_their_patients_alert_changes on public.alert_changes
    for select to authenticated
    using (patient_id = any (array(select voice.patients_of_caller('viewer'))));

create policy caregivers_read_their_patients_consents on public.voice_consents
    for select to authenticated
    using (patient_id = any (array(select voice.patients_of_caller('viewer'))));

create policy caregivers_read_their_patients_baselines on voice.baselines
    for select to authenticated
    using (patient_id = any (array(select voice.patients_of_caller('viewer'))));

create policy caregivers_read_their_patients_checks on voice.checks
    for select to authenticated
    using (patient_id = any (array(select voice.patients_of_caller('viewer'))));

create policy caregivers_read_how_many_samples_a_baseline_needs on voice.policies
    for select to authenticated
    using (true);

create policy caregivers_read_what_their_patients_were_judged_by on public.scoring_policies
    for select to authenticated
    using (true);

create policy caregivers_read_when_a_patient_counts_as_silent on voice.settings
    for select to authenticated
    using (true);

-- Recordings lie in Storage as <patient_id>/<call_log_id>.wav: whoever may play them may read them there, and nothing more.
do $$
begin
    if to_regclass('storage.objects') is null then
        raise notice 'There is no Storage: caregivers play no recordings';
    elsif not exists (
        select from pg_catalog.pg_policies
        where schemaname = 'storage' and policyname = 'caregivers_play_their_patients_recordings'
    ) then
        create policy caregivers_play_their_patients_recordings on storage.objects
            for select to authenticated
            using (
                bucket_id = 'voice-recordings'
                and split_part(name, '/', 1) = any (array(select voice.patients_of_caller('family')::text))
            );
    end if;
exception when insufficient_privilege then
    raise notice 'The policy for Storage is for its owner to make: %', sqlerrm;
end
$$;

-- A grant on an adopted table whose row level security is off would show every row to whoever signs in.
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
                ' check_state, check_reason, anomaly_score, created_at)')
        ) as care (table_name, columns)
    loop
        if (select relrowsecurity from pg_catalog.pg_class where oid = to_regclass('public.' || readable.table_name)) then
            execute format('grant select %s on public.%I to authenticated', readable.columns, readable.table_name);
        else
            raise notice 'public.% has no row level security: caregivers are granted nothing on it', readable.table_name;
        end if;
    end loop;
end
$$;

-- The address of a recording is a key to it: whoever may write it need not read it.
grant select (
    id, patient_id, "timestamp", summary, source, provider, provider_call_id, ended_reason, recording_channel,
    speech_intervals, enrolment_id, check_state, check_reason, anomaly_score, created_at
) on public.call_logs to service_role;
