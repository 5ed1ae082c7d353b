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

-- 3 A check is made or ends: its call shows it, and the service is asked to look.
create trigger check_requested
    after insert on voice.checks
    for each row
    execute function voice.on_check_state();

create trigger doorbell
    after insert on voice.checks
    for each statement
    execute function voice.ring_doorbell('wake');

create trigger check_moved
    after update of state on voice.checks
    for each row
    when (new.state <> 'leased' and (old.state, old.reason) is distinct from (new.state, new.reason))
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
    before update of alert_id, patient_id, change, level, cause, snoozed_until, outcome, changed_at
    on public.alert_changes
    for each row
    execute function voice.refuse_change();

-- 5 A health flag is noted or moved: the samples that it covers leave the baselines.
create trigger health_flag_noted
    after insert or update of patient_id, started_at, resolved_at on public.health_flags
    for each row
    execute function voice.on_health_flag();

-- 6 A baseline is a version: it may be superseded, never changed; its samples never change at all.
create trigger baselines_never_change
    before update of patient_id, encoder, version, embedding, sample_count, spread_mean, spread_deviation, enrolment_id, created_at
    on voice.baselines
    for each row
    execute function voice.refuse_change();

create trigger baseline_samples_never_change
    before update on voice.baseline_samples
    for each row
    execute function voice.refuse_change();

-- 7 Time passes: where pg_cron exists, the rounds are made every minute, and the provider's calls are looked through now and then.
-- Elsewhere `retrocare start` does both.
create function voice.schedule_rounds()
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
begin
    if to_regprocedure('cron.schedule(text, text, text)') is null then
        return false;
    end if;
    execute 'select cron.schedule($1, $2, $3)'
    using 'retrocare-rounds', '* * * * *', 'select voice.make_rounds()';
    execute 'select cron.schedule($1, $2, $3)'
    using 'retrocare-provider-sweep', '*/5 * * * *', 'select voice.ring(''collect-recordings'', ''{"sweep": true}'')';
    return true;
end
$$;
comment on function voice.schedule_rounds is
    'Schedules the rounds with pg_cron; false where it is not there. Called here, and by an operator who enables pg_cron later.';
revoke execute on function voice.schedule_rounds from public;
select voice.schedule_rounds();
