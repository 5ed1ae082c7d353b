-- Access: what the signed-in caregiver may read. Row level security is on beside each CREATE; whatever no policy allows is
-- refused. `anon` reads nothing. `service_role` passes row level security and has the grants that stand beside each CREATE.

create policy caregivers_see_themselves on public.patient_caregivers
    for select to authenticated
    using (user_id = (select auth.uid()));

create policy caregivers_read_their_patients on public.patients
    for select to authenticated
    using (id in (select patient_id from public.patient_caregivers where user_id = (select auth.uid())));

create policy caregivers_read_their_patients_calls on public.call_logs
    for select to authenticated
    using (patient_id in (select patient_id from public.patient_caregivers where user_id = (select auth.uid())));

create policy caregivers_read_their_patients_flags on public.health_flags
    for select to authenticated
    using (patient_id in (select patient_id from public.patient_caregivers where user_id = (select auth.uid())));

create policy caregivers_read_their_patients_checkins on public.daily_checkins
    for select to authenticated
    using (patient_id in (select patient_id from public.patient_caregivers where user_id = (select auth.uid())));

create policy caregivers_read_their_patients_logs on public.voice_anomaly_logs
    for select to authenticated
    using (patient_id in (select patient_id from public.patient_caregivers where user_id = (select auth.uid())));

create policy caregivers_write_notes_on_their_patients_logs on public.voice_anomaly_logs
    for update to authenticated
    using (
        patient_id in (
            select patient_id from public.patient_caregivers
            where user_id = (select auth.uid()) and role <> 'viewer'
        )
    );

create policy caregivers_read_their_patients_alerts on public.caregiver_alerts
    for select to authenticated
    using (patient_id in (select patient_id from public.patient_caregivers where user_id = (select auth.uid())));

create policy caregivers_read_their_patients_alert_changes on public.alert_changes
    for select to authenticated
    using (patient_id in (select patient_id from public.patient_caregivers where user_id = (select auth.uid())));

create policy caregivers_read_their_patients_baselines on voice.baselines
    for select to authenticated
    using (patient_id in (select patient_id from public.patient_caregivers where user_id = (select auth.uid())));

create policy caregivers_read_their_patients_checks on voice.checks
    for select to authenticated
    using (patient_id in (select patient_id from public.patient_caregivers where user_id = (select auth.uid())));

create policy caregivers_read_how_many_samples_a_baseline_needs on voice.policies
    for select to authenticated
    using (true);

create policy caregivers_read_when_a_patient_counts_as_silent on voice.settings
    for select to authenticated
    using (true);

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
