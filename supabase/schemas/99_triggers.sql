-- Triggers: all of them, in firing order, so that a reader can see what happens next. Triggers of a signal that is added later are in
-- its own file.


-- 0 An organisation is added: its settings are inserted.
create trigger every_organisation_has_settings
    after insert on public.organisations
    for each row
    execute function care.on_organisation();

-- 1 A finished call is worth judging: its recording must be copied.
create trigger recordings_wake_up
    after insert on care.recordings
    for each statement
    execute function care.on_new_work('collect-recordings');

-- 2 Speech intervals are written: malformed ones are set to null before anything reads them.
create trigger garbled_intervals_are_forgotten
    before insert or update of speech_intervals on public.call_logs
    for each row
    when (new.speech_intervals is not null)
    execute function care.forget_garbled_intervals();

--   A provider's call gets its account.
create trigger accounts_are_named
    before insert or update of provider, provider_account on public.call_logs
    for each row
    when (new.provider is not null and new.provider_account is null)
    execute function care.name_the_account();

--   A call must have begun in the past, and stays with its patient.
create trigger impossible_calls_are_refused
    before insert or update of "timestamp", patient_id on public.call_logs
    for each row
    execute function care.refuse_impossible_call();

--   A call's recording is available: its check is queued in the same transaction.
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

-- 3 A check is queued or ends: its state is copied to the call if it is a voice check and not a backfill, and the service is woken.
create trigger check_requested
    after insert on care.checks
    for each row
    when (new.signal = 'voice' and not new.is_backfill)
    execute function care.on_check_state();

create trigger checks_wake_up
    after insert on care.checks
    for each statement
    execute function care.on_new_work('wake');

create trigger check_moved
    after update of state on care.checks
    for each row
    when (new.signal = 'voice' and not new.is_backfill and new.state <> 'leased' and (old.state, old.reason) is distinct from (new.state, new.reason))
    execute function care.on_check_state();

-- 4 An alert changes: the caregivers to be notified get deliveries, and notify-caregiver is woken.
create trigger alert_changed
    after insert on public.alert_changes
    for each row
    execute function care.on_alert_change();

create trigger deliveries_wake_up
    after insert on care.deliveries
    for each statement
    execute function care.on_new_work('notify-caregiver');

create trigger alert_changes_never_change
    before update of alert_id, patient_id, change, level, cause, actor, operator, snoozed_until, outcome, changed_at
    on public.alert_changes
    for each row
    execute function care.refuse_change();

create trigger judgement_told
    after update of alert_sent on public.judgements
    for each row
    when (new.signal = 'voice' and new.alert_sent <> old.alert_sent)
    execute function voice.on_judgement_told();

-- 5 Consent is given or withdrawn: this is recorded, and on withdrawal what the consent allowed is erased.
create trigger consent_of_a_new_patient
    after insert on public.patients
    for each row
    when (new.voice_consent_at is not null)
    execute function care.on_consent();

create trigger consent_changed
    after update of voice_consent_at on public.patients
    for each row
    when ((old.voice_consent_at is null) <> (new.voice_consent_at is null))
    execute function care.on_consent();

create trigger consent_given
    after insert on public.consents
    for each row
    execute function care.on_consent_given();

create trigger consents_withdrawn
    after update on public.consents
    referencing old table as before new table as after
    for each statement
    execute function care.on_consents_withdrawn();

--   The row of a patient or call is deleted: its copies are deleted, and its samples leave the baselines.
create trigger a_deleted_patient_is_erased
    before delete on public.patients
    for each row
    execute function care.on_patient_deleted();

create trigger a_deleted_call_leaves_nothing
    before delete on public.call_logs
    for each row
    execute function care.on_call_deleted();

create trigger a_deleted_call_leaves_the_baselines
    before delete on public.call_logs
    for each row
    execute function voice.on_call_deleted();

create trigger deletions_wake_up
    after insert on care.deletions
    for each statement
    execute function care.on_new_work('delete-recordings');

-- 6 A health flag is added or changed: samples of the time that it covers leave the baselines.
create trigger a_flagged_patient_is_locked
    before insert or update of patient_id, started_at, resolved_at on public.health_flags
    for each row
    execute function care.lock_flagged_patient();

create trigger health_flag_noted
    after insert or update of patient_id, started_at, resolved_at on public.health_flags
    for each row
    execute function voice.on_health_flag();

--   An alert is resolved: what was found out changes what is remembered of the voice.
create trigger answers_have_consequences
    after update of resolved_at on public.caregiver_alerts
    for each row
    when (old.resolved_at is null and new.resolved_at is not null and new.outcome is not null)
    execute function voice.on_alert_resolved();

-- 7 An encoder is registered: its baselines become searchable.
create trigger encoder_registered
    after insert on voice.encoders
    for each row
    execute function voice.on_encoder();

--   A baseline is a version: it may be superseded, but never changes. Its samples never change at all.
create trigger baselines_never_change
    before update of patient_id, encoder, version, embedding, sample_count, spread_mean, spread_deviation, enrolment_id, created_at
    on voice.baselines
    for each row
    execute function care.refuse_change();

create trigger baseline_samples_never_change
    before update on voice.baseline_samples
    for each row
    execute function care.refuse_change();

-- 8 Important changes are noted in the audit log, which is append-only.
create trigger patients_are_audited
    after insert or update or delete on public.patients
    for each row
    execute function care.audit_change('id', 'warnings_per_year');

create trigger caregivers_are_audited
    after insert or update or delete on public.patient_caregivers
    for each row
    execute function care.audit_change('id', 'role');

create trigger health_flags_are_audited
    after insert or update or delete on public.health_flags
    for each row
    execute function care.audit_change('id');

create trigger notes_are_audited
    after update of notes or delete on public.voice_anomaly_logs
    for each row
    execute function care.audit_change('id');

create trigger keys_are_audited
    after insert or update of name, scopes, revoked_at or delete on care.api_keys
    for each row
    execute function care.audit_change('id', 'name', 'scopes', 'revoked_at');

create trigger calls_that_are_deleted_are_audited
    after delete on public.call_logs
    for each row
    execute function care.audit_change('id');

create trigger audit_log_is_only_added_to
    before update or delete or truncate on care.audit_log
    for each statement
    execute function care.refuse_rewriting();

create trigger calibrations_never_change
    before update or truncate on voice.calibrations
    for each statement
    execute function care.refuse_rewriting();

create trigger bins_never_change
    before update or truncate on voice.calibration_bins
    for each statement
    execute function care.refuse_rewriting();

create trigger projections_never_change
    before update or truncate on voice.projection_rows
    for each statement
    execute function care.refuse_rewriting();

create trigger tombstones_are_only_added_to
    before update or delete or truncate on care.tombstones
    for each statement
    execute function care.refuse_rewriting();

do $$
declare
    audited record;
begin
    for audited in
        select * from (values
            ('care.models', 'id'), ('care.thresholds', 'model'), ('voice.encoders', 'id'), ('voice.policies', 'encoder'), ('voice.features', 'id'),
            ('care.settings', 'is_only'), ('public.organisations', 'id'), ('care.organisation_settings', 'organisation_id'),
            ('care.alert_policies', 'level'),
            ('care.providers', 'id'), ('care.ended_reasons', 'pattern'), ('care.retention_policies', 'subject'), ('care.delivery_channels', 'id')
        ) as rules (name, key)
    loop
        execute format(
            'create trigger rules_are_audited after insert or update or delete on %s
             for each row execute function care.audit_change(%s)',
            audited.name,
            (
                select string_agg(quote_literal(column_name), ', ')
                from (
                    select audited.key as column_name
                    union all
                    select attname::text
                    from pg_catalog.pg_attribute
                    where attrelid = audited.name::regclass and attnum > 0 and not attisdropped
                ) as columns
            ));
    end loop;
end
$$;
