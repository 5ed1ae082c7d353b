-- Wiring: every trigger and scheduled job, in firing order. A reader's question is "what happens next?".

-- 1 A finished call is worth judging: its recording is to be copied.
create trigger recording_doorbell
    after insert on voice.recordings
    for each statement
    execute function voice.ring_doorbell('collect-recordings');

-- 2 When the patient spoke is written: what is no list of times is forgotten, before anybody reads it.
create trigger garbled_intervals_are_forgotten
    before insert or update of speech_intervals on public.call_logs
    for each row
    when (new.speech_intervals is not null)
    execute function voice.forget_garbled_intervals();

--   It began before now, and stays with its patient.
create trigger impossible_calls_are_refused
    before insert or update of "timestamp", patient_id on public.call_logs
    for each row
    execute function voice.refuse_impossible_call();

--   A call's recording is here: its check is queued, in the same transaction.
create trigger request_check_with_the_call
    after insert on public.call_logs
    for each row
    when (new.recording_ref is not null)
    execute function voice.on_recording();

create trigger request_check
    after update of recording_ref on public.call_logs
    for each row
    when (old.recording_ref is null and new.recording_ref is not null)
    execute function voice.on_recording();

-- 3 A check is made or ends: its call shows it, unless it is a backfill's, and the service is asked to look.
create trigger check_requested
    after insert on voice.checks
    for each row
    when (not new.is_backfill)
    execute function voice.on_check_state();

create trigger doorbell
    after insert on voice.checks
    for each statement
    execute function voice.ring_doorbell('wake');

create trigger check_moved
    after update of state on voice.checks
    for each row
    when (not new.is_backfill and new.state <> 'leased' and (old.state, old.reason) is distinct from (new.state, new.reason))
    execute function voice.on_check_state();

-- 4 An alert changes: whoever must hear of it is written to, and the sender is asked to look.
create trigger alert_changed
    after insert on public.alert_changes
    for each row
    execute function voice.on_alert_change();

create trigger delivery_doorbell
    after insert on voice.deliveries
    for each statement
    execute function voice.ring_doorbell('notify-caregiver');

create trigger alert_changes_never_change
    before update of alert_id, patient_id, change, level, cause, actor, snoozed_until, outcome, changed_at
    on public.alert_changes
    for each row
    execute function voice.refuse_change();

-- 5 Consent is given or withdrawn: it is recorded, and what it allowed is erased.
create trigger consent_of_a_new_patient
    after insert on public.patients
    for each row
    when (new.voice_consent_at is not null)
    execute function voice.on_consent();

create trigger consent_changed
    after update of voice_consent_at on public.patients
    for each row
    when ((old.voice_consent_at is null) <> (new.voice_consent_at is null))
    execute function voice.on_consent();

--   A patient or a call is deleted by its row: its copies are deleted, and its voice leaves the baselines.
create trigger a_deleted_patient_is_erased
    before delete on public.patients
    for each row
    execute function voice.on_patient_deleted();

create trigger a_deleted_call_leaves_nothing
    before delete on public.call_logs
    for each row
    execute function voice.on_call_deleted();

create trigger deletion_doorbell
    after insert on voice.deletions
    for each statement
    execute function voice.ring_doorbell('delete-recordings');

-- 6 A health flag is noted or moved: the samples that it covers leave the baselines.
create trigger a_flagged_patient_is_locked
    before insert or update of patient_id, started_at, resolved_at on public.health_flags
    for each row
    execute function voice.lock_flagged_patient();

create trigger health_flag_noted
    after insert or update of patient_id, started_at, resolved_at on public.health_flags
    for each row
    execute function voice.on_health_flag();

-- 7 An encoder is registered: one voice can be looked for among all that it has heard.
create trigger encoder_registered
    after insert on voice.encoders
    for each row
    execute function voice.on_encoder();

--   A baseline is a version: it may be superseded, never changed; its samples never change at all.
create trigger baselines_never_change
    before update of patient_id, encoder, version, embedding, sample_count, spread_mean, spread_deviation, enrolment_id, created_at
    on voice.baselines
    for each row
    execute function voice.refuse_change();

create trigger baseline_samples_never_change
    before update on voice.baseline_samples
    for each row
    execute function voice.refuse_change();

-- 8 What matters is noted in the audit, and the audit is only ever added to.
create trigger patients_are_audited
    after insert or update or delete on public.patients
    for each row
    execute function voice.audit_change('id');

create trigger caregivers_are_audited
    after insert or update or delete on public.patient_caregivers
    for each row
    execute function voice.audit_change('id', 'role');

create trigger health_flags_are_audited
    after insert or update or delete on public.health_flags
    for each row
    execute function voice.audit_change('id');

create trigger notes_are_audited
    after update of notes or delete on public.voice_anomaly_logs
    for each row
    execute function voice.audit_change('id');

create trigger keys_are_audited
    after insert or update of name, scopes, revoked_at or delete on voice.api_keys
    for each row
    execute function voice.audit_change('id', 'name', 'scopes', 'revoked_at');

create trigger calls_that_are_deleted_are_audited
    after delete on public.call_logs
    for each row
    execute function voice.audit_change('id');

do $$
declare
    audited record;
begin
    for audited in
        select * from (values
            ('encoders', 'id'), ('policies', 'encoder'), ('settings', 'is_only'), ('alert_policies', 'level'),
            ('ended_reasons', 'pattern'), ('retention_policies', 'subject'), ('delivery_channels', 'id')
        ) as rules (name, key)
    loop
        execute format(
            'create trigger rules_are_audited after insert or update or delete on voice.%I
             for each row execute function voice.audit_change(%s)',
            audited.name,
            (
                select string_agg(quote_literal(column_name), ', ')
                from (
                    select audited.key as column_name
                    union all
                    select attname::text
                    from pg_catalog.pg_attribute
                    where attrelid = ('voice.' || audited.name)::regclass and attnum > 0 and not attisdropped
                ) as columns
            ));
    end loop;
end
$$;

create trigger audit_log_is_only_added_to
    before update or delete or truncate on voice.audit_log
    for each statement
    execute function voice.refuse_rewriting();

create trigger tombstones_are_only_added_to
    before update or delete or truncate on voice.tombstones
    for each statement
    execute function voice.refuse_rewriting();

-- 9 Time passes: where pg_cron exists, it runs each job by itself, and looks through the provider's calls now and then. Elsewhere
-- `retrocare start` does both.
create function voice.schedule_jobs()
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    job record;
begin
    if to_regprocedure('cron.schedule(text, text, text)') is null then
        return false;
    end if;
    for job in select jobs.id, jobs.every_minutes from voice.jobs loop
        execute 'select cron.schedule($1, $2, $3)'
        using
            'retrocare-' || replace(job.id, '_', '-'),
            case job.every_minutes when 1 then '* * * * *' else format('*/%s * * * *', job.every_minutes) end,
            format('select voice.run_job(%L)', job.id);
    end loop;
    execute 'select cron.schedule($1, $2, $3)'
    using 'retrocare-wake-functions', '* * * * *', 'select voice.wake_functions()';
    execute 'select cron.schedule($1, $2, $3)'
    using 'retrocare-provider-sweep', '*/5 * * * *', 'select voice.ring(''collect-recordings'', ''{"sweep": true}'')';
    return true;
end
$$;
comment on function voice.schedule_jobs is
    'Schedules the jobs with pg_cron; false where it is not there. Called here, and by an operator who enables pg_cron later.';
revoke execute on function voice.schedule_jobs from public;
select voice.schedule_jobs();
