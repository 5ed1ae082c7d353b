-- Alert actions: what a caregiver, or an operator for the care team, can do about an alert, and how an episode ends. Viewers may only
-- read alerts; to people who are not caregivers of the patient, an alert does not exist.

create function care.alert_to_act_on(alert_id uuid)
returns public.caregiver_alerts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts;
begin
    -- Lock the patient first, as every change to an alert does, and read the alert only then.
    perform care.patient_for_caller(
        (select caregiver_alerts.patient_id from public.caregiver_alerts where caregiver_alerts.id = alert_to_act_on.alert_id),
        'family');
    select caregiver_alerts.* into alert
    from public.caregiver_alerts
    where caregiver_alerts.id = alert_to_act_on.alert_id
    for update;
    return alert;
end
$$;
comment on function care.alert_to_act_on is
    'Returns the alert, with its row and its patient locked, if the signed-in caregiver or an operator may act on it. Raises PT403, PT404, RV002.';
revoke execute on function care.alert_to_act_on from public;

create function care.actor_of(patient_id uuid, operator text)
returns care.actor
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when care.is_caller_a_caregiver() then (
            'caregiver', (select auth.uid()),
            (
                select patient_caregivers.id
                from public.patient_caregivers
                where patient_caregivers.patient_id = actor_of.patient_id and patient_caregivers.user_id = (select auth.uid())
            ),
            null
        )::care.actor
        -- The database login, or the role that the Data API assumed for it. In a security definer function, current_user is the
        -- owner.
        else (
            'operator', null, null,
            coalesce(nullif(btrim(actor_of.operator), ''), nullif(current_setting('role'), 'none'), session_user)
        )::care.actor
    end
$$;
comment on function care.actor_of is
    'Returns the actor as whom the caller changes an alert of this patient. operator is the name of an operator; null: the login.';
revoke execute on function care.actor_of from public;

create function care.refuse_resolved(alert public.caregiver_alerts)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if alert.state = 'resolved' then
        raise exception using
            errcode = 'PT409',
            message = 'The alert is resolved',
            hint = 'A new sign opens another alert.';
    end if;
end
$$;
comment on function care.refuse_resolved is 'Raises PT409 if the alert is resolved.';
revoke execute on function care.refuse_resolved from public;

create function care.acknowledge_alert(alert_id uuid, at timestamptz default now(), operator text default null)
returns public.caregiver_alerts
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts := care.alert_to_act_on(acknowledge_alert.alert_id);
    caller constant care.actor := care.actor_of(alert.patient_id, acknowledge_alert.operator);
begin
    perform care.refuse_resolved(alert);
    if alert.state = 'acknowledged' then
        return alert;
    end if;
    update public.caregiver_alerts
    set state = 'acknowledged',
        acknowledged_at = acknowledge_alert.at,
        acknowledged_by = caller.caregiver_id,
        snoozed_until = null,
        next_change_at = acknowledge_alert.at + make_interval(secs => 3600 * (
            select maximum_silent_hours from care.alert_policies where alert_policies.level = alert.level
        ))
    where caregiver_alerts.id = alert.id
    returning * into alert;
    perform care.note_change(alert, 'acknowledged', acknowledge_alert.at, caller => caller);
    return alert;
end
$$;
comment on function care.acknowledge_alert is
    'Acknowledges an alert on behalf of the signed-in caregiver or the care team, and returns it. If it is already acknowledged, nothing changes. Raises PT403, PT404, PT409. Security definer: callers may not write alerts directly.';
revoke execute on function care.acknowledge_alert from public;
grant execute on function care.acknowledge_alert to retrocare_service;

create function care.snooze_alert(alert_id uuid, until timestamptz, at timestamptz default now())
returns public.caregiver_alerts
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts := care.alert_to_act_on(snooze_alert.alert_id);
    policy care.alert_policies := (
        select alert_policies from care.alert_policies where alert_policies.level = alert.level
    );
begin
    perform care.refuse_resolved(alert);
    if (snooze_alert.until >= snooze_alert.at + make_interval(secs => 60 * policy.minimum_snooze_minutes)
        and snooze_alert.until <= snooze_alert.at + make_interval(secs => 3600 * policy.maximum_snooze_hours)) is not true
    then
        raise exception using
            errcode = 'PT400',
            message = format('An alert of level %s can be snoozed for %s minutes to %s hours',
                alert.level, policy.minimum_snooze_minutes, policy.maximum_snooze_hours),
            hint = 'Give a time in that range.';
    end if;
    update public.caregiver_alerts
    set state = 'snoozed',
        snoozed_until = snooze_alert.until,
        next_change_at = snooze_alert.until,
        acknowledged_at = null,
        acknowledged_by = null
    where caregiver_alerts.id = alert.id
    returning * into alert;
    perform care.note_change(alert, 'snoozed', snooze_alert.at, caller => care.actor_of(alert.patient_id, null));
    return alert;
end
$$;
comment on function care.snooze_alert is
    'Snoozes an alert and returns it. When the snooze ends, the alert is open again and caregivers are notified. Raises PT400 if the time is too short or too long, PT403, PT404, PT409. Security definer: callers may not write alerts directly.';
revoke execute on function care.snooze_alert from public;

create function care.resolve(
    alert public.caregiver_alerts, outcome public.alert_outcome, notes text, at timestamptz,
    caller care.actor default row('rule', null, null, null)::care.actor
)
returns public.caregiver_alerts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.caregiver_alerts
    set state = 'resolved',
        resolved_at = resolve.at,
        resolved_by = (resolve.caller).caregiver_id,
        outcome = resolve.outcome,
        notes = coalesce(resolve.notes, alert.notes),
        snoozed_until = null,
        next_change_at = null
    where caregiver_alerts.id = alert.id
    returning * into alert;
    perform care.note_change(alert, 'resolved', resolve.at, caller => resolve.caller);
    return alert;
end
$$;
comment on function care.resolve is
    'Resolves an alert and returns it. Called by care.resolve_alert, and by care.end_silence when a silent patient was heard again.';
revoke execute on function care.resolve from public;

create function care.flag_illness(alert public.caregiver_alerts)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into public.health_flags (patient_id, flag, started_at, resolved_at)
    select
        alert.patient_id, 'ill (alert)', alert.opened_at,
        alert.resolved_at + make_interval(days => (care.settings_of(alert.patient_id)).illness_days)
    where not care.is_unwell_at(alert.patient_id, alert.resolved_at)
$$;
comment on function care.flag_illness is
    'Adds a health flag for a patient who was found ill, from the opening of the alert until care.organisation_settings.illness_days after its end, unless a health flag already covers that time. Called by care.resolve_alert.';
revoke execute on function care.flag_illness from public;

create function care.resolve_alert(
    alert_id uuid, outcome public.alert_outcome, notes text default null, at timestamptz default now(), operator text default null
)
returns public.caregiver_alerts
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts := care.alert_to_act_on(resolve_alert.alert_id);
    caller constant care.actor := care.actor_of(alert.patient_id, resolve_alert.operator);
begin
    if resolve_alert.outcome is null then
        raise exception using
            errcode = 'PT400',
            message = 'An outcome is required to resolve an alert',
            hint = format('Use one of %s.', array_to_string(enum_range(null::public.alert_outcome), ', '));
    elsif char_length(resolve_alert.notes) > 10000 then
        raise exception using
            errcode = 'PT400',
            message = format('The notes have %s characters; at most 10000 are kept', char_length(resolve_alert.notes)),
            hint = 'Keep longer notes elsewhere and state where.';
    end if;
    if (alert.state, alert.outcome, alert.resolved_by)
        is not distinct from ('resolved'::public.alert_state, resolve_alert.outcome, caller.caregiver_id)
    then
        return alert;
    end if;
    perform care.refuse_resolved(alert);
    alert := care.resolve(alert, resolve_alert.outcome, resolve_alert.notes, resolve_alert.at, caller);
    if alert.outcome = 'ill' then
        perform care.flag_illness(alert);
    end if;
    return alert;
end
$$;
comment on function care.resolve_alert is
    'Resolves an alert with its outcome and returns it; an illness is noted as a health flag. Repeating the same call changes nothing. Raises PT400, PT403, PT404, PT409. Security definer: callers may not write alerts directly.';
revoke execute on function care.resolve_alert from public;
grant execute on function care.resolve_alert to retrocare_service;

create function care.alert_list(patient_id uuid, is_resolved_shown boolean, maximum_rows integer)
returns table (
    id uuid,
    patient_id uuid,
    patient text,
    level public.alert_level,
    state public.alert_state,
    cause text,
    anomaly_score double precision,
    opened_at timestamptz,
    repeat_count integer,
    outcome public.alert_outcome,
    notes text,
    last_change public.alert_change,
    last_actor public.alert_actor
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        alerts.id,
        alerts.patient_id,
        patients.name,
        alerts.level,
        alerts.state,
        alerts.cause,
        alerts.anomaly_score,
        alerts.opened_at,
        alerts.repeat_count,
        alerts.outcome,
        alerts.notes,
        latest.change,
        latest.actor
    from public.caregiver_alerts as alerts
    join public.patients on patients.id = alerts.patient_id
    left join lateral (
        select alert_changes.change, alert_changes.actor
        from public.alert_changes
        where alert_changes.alert_id = alerts.id
        order by alert_changes.changed_at desc, alert_changes.change desc
        limit 1
    ) as latest on true
    where (alert_list.is_resolved_shown or alerts.resolved_at is null)
        and (alert_list.patient_id is null or alerts.patient_id = alert_list.patient_id)
    order by alerts.resolved_at nulls first, alerts.level desc, alerts.opened_at desc
    limit alert_list.maximum_rows
$$;
comment on function care.alert_list is
    'Returns the alerts of this patient (null: of all), unresolved and most urgent ones first. Called by `retrocare alert list`.';
revoke execute on function care.alert_list from public;
grant execute on function care.alert_list to retrocare_service;
