-- Episodes: how signs open and change an alert, and what happens when nobody responds.

create function care.after_quiet_hours(at timestamptz, timezone text, quiet_from time, quiet_until time)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when quiet_from = quiet_until then after_quiet_hours.at
        when quiet_from < quiet_until and (clock.local_at::time < quiet_from or clock.local_at::time >= quiet_until)
            then after_quiet_hours.at
        when quiet_from > quiet_until and clock.local_at::time < quiet_from and clock.local_at::time >= quiet_until
            then after_quiet_hours.at
        else (clock.local_at::date + (clock.local_at::time >= quiet_until)::integer + quiet_until)
            at time zone after_quiet_hours.timezone
    end
    from (select after_quiet_hours.at at time zone after_quiet_hours.timezone as local_at) as clock
$$;
comment on function care.after_quiet_hours is
    'Returns this time, or the end of the quiet hours into which it falls, in that time zone. Stable, not immutable: time zones change with PostgreSQL''s data.';
revoke execute on function care.after_quiet_hours from public;

create function care.answer_due_at(
    patient_id uuid, level public.alert_level, minutes double precision, at timestamptz, is_urgent boolean default false
)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case
            when alert_policies.waits_for_morning and not answer_due_at.is_urgent then care.after_quiet_hours(
                answer_due_at.at, patients.timezone, settings.quiet_from, settings.quiet_until)
            else answer_due_at.at
        end + make_interval(secs => 60 * answer_due_at.minutes)
    from public.patients
    join care.organisation_settings as settings on settings.organisation_id = patients.organisation_id
    cross join care.alert_policies
    where patients.id = answer_due_at.patient_id and alert_policies.level = answer_due_at.level
$$;
comment on function care.answer_due_at is
    'Returns the time by which somebody should have responded. If the level waits for the morning, and the sign is not urgent, the time starts when quiet hours end.';
revoke execute on function care.answer_due_at from public;

create function care.raise_alert(
    patient_id uuid, cause text, level public.alert_level, at timestamptz,
    call_log_id uuid default null, judgement_id uuid default null, anomaly_score double precision default null,
    is_urgent boolean default false
)
returns public.caregiver_alerts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    due_at timestamptz;
    earlier public.caregiver_alerts;
    alert public.caregiver_alerts;
    change public.alert_change := 'opened';
    is_worse boolean;
    is_new_cause boolean;
begin
    if (select alert_causes.has_score from public.alert_causes where alert_causes.id = raise_alert.cause)
        is distinct from (raise_alert.anomaly_score is not null)
    then
        raise exception using
            errcode = '23514',
            message = format('%s is no cause of public.alert_causes with%s a score',
                raise_alert.cause, case when raise_alert.anomaly_score is null then 'out' else '' end),
            hint = 'A new cause is a row of public.alert_causes; has_score says whether a judgement is behind it.';
    end if;
    select caregiver_alerts.* into earlier
    from public.caregiver_alerts
    where caregiver_alerts.patient_id = raise_alert.patient_id and caregiver_alerts.resolved_at is null
    for update;
    -- The time to respond is that of the worst sign of the episode, not of the last one.
    select care.answer_due_at(
        raise_alert.patient_id, alert_policies.level, alert_policies.escalate_after_minutes, raise_alert.at,
        raise_alert.is_urgent or coalesce(earlier.is_urgent, false))
    into due_at
    from care.alert_policies
    where alert_policies.level = greatest(raise_alert.level, earlier.level);
    if earlier.id is null then
        insert into public.caregiver_alerts (
            patient_id, level, cause, causes, call_log_id, judgement_id, anomaly_score, is_urgent, opened_at, last_raised_at,
            next_change_at
        )
        values (
            raise_alert.patient_id, raise_alert.level, raise_alert.cause, array[raise_alert.cause], raise_alert.call_log_id,
            raise_alert.judgement_id, raise_alert.anomaly_score, raise_alert.is_urgent, raise_alert.at, raise_alert.at, due_at
        )
        returning * into alert;
    else
        is_worse := raise_alert.anomaly_score > coalesce(earlier.anomaly_score, -1);
        -- Causes of one signal say the same: a changed voice is at times taken for another one.
        is_new_cause := not exists (
            select
            from public.alert_causes as known
            join public.alert_causes as raised on raised.id = raise_alert.cause
            where known.id = any (earlier.causes) and (known.id = raised.id or known.signal = raised.signal)
        );
        change := case
            when raise_alert.level > earlier.level then 'raised'
            -- Within a warning, one call that is very unlike usual is a rise.
            when raise_alert.is_urgent and not earlier.is_urgent and earlier.level = 'warning' then 'raised'
            when earlier.state in ('acknowledged', 'snoozed')
                -- A new cause, or a sign after the time for which the alert was acknowledged or snoozed.
                and (is_new_cause or earlier.next_change_at <= raise_alert.at)
                then 'raised'
            else 'repeated'
        end;
        update public.caregiver_alerts
        set level = greatest(earlier.level, raise_alert.level),
            causes = case when raise_alert.cause = any (earlier.causes) then earlier.causes else earlier.causes || raise_alert.cause end,
            call_log_id = case when is_worse then raise_alert.call_log_id else earlier.call_log_id end,
            judgement_id = case when is_worse then raise_alert.judgement_id else earlier.judgement_id end,
            anomaly_score = greatest(earlier.anomaly_score, raise_alert.anomaly_score),
            is_urgent = earlier.is_urgent or raise_alert.is_urgent,
            repeat_count = earlier.repeat_count + 1,
            last_raised_at = raise_alert.at
        where caregiver_alerts.id = earlier.id
        returning * into alert;
        if change = 'raised' then
            update public.caregiver_alerts
            set state = 'open',
                cause = raise_alert.cause,
                reminder_count = 0,
                next_change_at = due_at,
                acknowledged_at = null,
                acknowledged_by = null,
                snoozed_until = null
            where caregiver_alerts.id = earlier.id
            returning * into alert;
        end if;
    end if;
    perform care.note_change(
        alert, change, raise_alert.at, raise_alert.level, raise_alert.cause, raise_alert.call_log_id, raise_alert.judgement_id,
        is_urgent => raise_alert.is_urgent);
    return alert;
end
$$;
comment on function care.raise_alert is
    'Opens an alert for the patient, or raises or counts up the unresolved one, and returns it. Messages about an urgent one (is_urgent) do not wait for the end of quiet hours. The caller has called care.lock_patient. Called by care.record_judgement and care.note_silence.';
revoke execute on function care.raise_alert from public;

create function care.is_known_illness(patient_id uuid, at timestamptz, level public.alert_level)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    -- A critical sign is always notified, even of a known illness.
    select is_known_illness.level < 'critical'
        and care.is_unwell_at(is_known_illness.patient_id, is_known_illness.at)
        and coalesce((
            select latest.outcome = 'ill'
                and latest.level >= is_known_illness.level
                -- A known illness expires, even while a health flag is still open.
                and is_known_illness.at <= latest.resolved_at + make_interval(days => (care.settings_of(latest.patient_id)).illness_days)
            from public.caregiver_alerts as latest
            where latest.patient_id = is_known_illness.patient_id
            order by latest.opened_at desc
            limit 1
        ), false)
$$;
comment on function care.is_known_illness is
    'Returns whether a judgement is explained by an illness that caregivers know of: they resolved the last episode as ill, at most care.organisation_settings.illness_days ago, a health flag still covers the call, and the sign is not critical and not worse than that episode. Called by care.record_judgement.';
revoke execute on function care.is_known_illness from public;

create function care.alerts_to_advance(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select caregiver_alerts.id::text
    from public.caregiver_alerts
    where caregiver_alerts.resolved_at is null and caregiver_alerts.next_change_at <= alerts_to_advance.at
    order by caregiver_alerts.level desc, caregiver_alerts.next_change_at
    limit alerts_to_advance.maximum_rows
$$;
comment on function care.alerts_to_advance is 'Lists the alerts whose next change is due, most urgent first. Called by care.run_job.';
revoke execute on function care.alerts_to_advance from public;

create function care.advance_alert(alert_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts;
    policy care.alert_policies;
    moved public.alert_change;
    has_score boolean;
begin
    select caregiver_alerts.* into alert from public.caregiver_alerts where caregiver_alerts.id = advance_alert.alert_id::uuid;
    if not care.try_lock_patient(alert.patient_id) then
        return false;
    end if;
    select caregiver_alerts.* into alert
    from public.caregiver_alerts
    where caregiver_alerts.id = alert.id
        and caregiver_alerts.resolved_at is null
        and caregiver_alerts.next_change_at <= advance_alert.at
    for update;
    if not found then
        return false;
    end if;
    select alert_policies.* into policy from care.alert_policies where alert_policies.level = alert.level;
    moved := case alert.state
        when 'snoozed' then 'woken'
        when 'acknowledged' then 'reopened'
        when 'open' then 'escalated'
        else 'reminded'
    end;
    alert.reminder_count := case moved when 'reminded' then alert.reminder_count + 1 else 0 end;
    update public.caregiver_alerts
    set state = case when moved in ('woken', 'reopened') then 'open'::public.alert_state else 'escalated' end,
        acknowledged_at = null,
        acknowledged_by = null,
        snoozed_until = null,
        reminder_count = alert.reminder_count,
        next_change_at = care.answer_due_at(
            alert.patient_id, alert.level,
            case
                when moved in ('woken', 'reopened') then policy.escalate_after_minutes
                when alert.reminder_count < policy.maximum_reminders then policy.remind_after_minutes
                else 60 * policy.maximum_silent_hours
            end,
            advance_alert.at, alert.is_urgent)
    where caregiver_alerts.id = alert.id
    returning * into alert;
    -- Without a score, no call is behind the last sign of which caregivers were notified.
    has_score := (select alert_causes.has_score from public.alert_causes where alert_causes.id = alert.cause);
    perform care.note_change(
        alert, moved, advance_alert.at,
        call_log_id => case when has_score then alert.call_log_id end,
        judgement_id => case when has_score then alert.judgement_id end,
        is_urgent => alert.is_urgent);
    return true;
end
$$;
comment on function care.advance_alert is
    'Advances an alert: wakes a snoozed one, reopens an acknowledged one, escalates an open one, or sends a reminder. Returns whether it did. Called by care.run_job.';
revoke execute on function care.advance_alert from public;
