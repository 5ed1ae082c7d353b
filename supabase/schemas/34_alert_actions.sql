-- Alert actions: what a caregiver, or an operator for the care team, does about an alert. Viewers only look; to everybody else
-- the alert does not exist.

create function voice.alert_to_act_on(alert_id uuid)
returns public.caregiver_alerts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    patient_id uuid := (
        select caregiver_alerts.patient_id from public.caregiver_alerts where caregiver_alerts.id = alert_to_act_on.alert_id
    );
    caregiver_role public.caregiver_role := voice.role_of_caller(patient_id);
    alert public.caregiver_alerts;
begin
    if caregiver_role is not null or not voice.is_caller_a_caregiver() and patient_id is not null then
        -- The patient first, as everybody who changes alerts does; what is there then is what counts.
        perform voice.lock_patient(patient_id);
        select caregiver_alerts.* into alert
        from public.caregiver_alerts
        where caregiver_alerts.id = alert_to_act_on.alert_id
        for update;
    end if;
    if alert.id is null then
        raise exception using
            errcode = 'PT404',
            message = 'No such alert',
            hint = 'An alert can be answered by a caregiver of its patient.';
    elsif caregiver_role = 'viewer' then
        raise exception using
            errcode = 'PT403',
            message = 'A viewer does not answer alerts',
            hint = 'Ask the primary caregiver for another role.';
    end if;
    return alert;
end
$$;
comment on function voice.alert_to_act_on is
    'The alert and its patient, locked, where the signed-in caregiver, or an operator, may act on it. Raises PT403, PT404, RV002.';
revoke execute on function voice.alert_to_act_on from public;

create function voice.actor_of_caller()
returns public.alert_actor
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case when voice.is_caller_a_caregiver() then 'caregiver' else 'operator' end::public.alert_actor
$$;
comment on function voice.actor_of_caller is 'As whom the caller changes an alert.';
revoke execute on function voice.actor_of_caller from public;

create function voice.refuse_resolved(alert public.caregiver_alerts)
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
            hint = 'A new sign opens another one.';
    end if;
end
$$;
comment on function voice.refuse_resolved is 'Raises PT409 where the episode is over.';
revoke execute on function voice.refuse_resolved from public;

create function voice.acknowledge_alert(alert_id uuid, at timestamptz default now())
returns public.caregiver_alerts
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts := voice.alert_to_act_on(acknowledge_alert.alert_id);
begin
    perform voice.refuse_resolved(alert);
    if alert.state = 'acknowledged' then
        return alert;
    end if;
    update public.caregiver_alerts
    set state = 'acknowledged',
        acknowledged_at = acknowledge_alert.at,
        acknowledged_by = (select auth.uid()),
        snoozed_until = null,
        next_change_at = acknowledge_alert.at + make_interval(secs => 3600 * (
            select maximum_silent_hours from voice.alert_policies where alert_policies.level = alert.level
        ))
    where caregiver_alerts.id = alert.id
    returning * into alert;
    perform voice.note_change(
        alert, 'acknowledged', acknowledge_alert.at, actor_id => (select auth.uid()), actor => voice.actor_of_caller());
    return alert;
end
$$;
comment on function voice.acknowledge_alert is
    'The signed-in caregiver, or the care team, sees to it; done twice, the first counts. Raises PT403, PT404, PT409. Definer: nobody writes alerts directly.';
revoke execute on function voice.acknowledge_alert from public;
grant execute on function voice.acknowledge_alert to authenticated, service_role, retrocare_service;

create function voice.snooze_alert(alert_id uuid, until timestamptz, at timestamptz)
returns public.caregiver_alerts
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts := voice.alert_to_act_on(snooze_alert.alert_id);
    policy voice.alert_policies := (
        select alert_policies from voice.alert_policies where alert_policies.level = alert.level
    );
begin
    perform voice.refuse_resolved(alert);
    if (snooze_alert.until >= snooze_alert.at + make_interval(secs => 60 * policy.minimum_snooze_minutes)
        and snooze_alert.until <= snooze_alert.at + make_interval(secs => 3600 * policy.maximum_snooze_hours)) is not true
    then
        raise exception using
            errcode = 'PT400',
            message = format('An alert of this level (%s) can be put off for %s minutes to %s hours',
                alert.level, policy.minimum_snooze_minutes, policy.maximum_snooze_hours),
            hint = 'Give a time in between.';
    end if;
    update public.caregiver_alerts
    set state = 'snoozed',
        snoozed_until = snooze_alert.until,
        next_change_at = snooze_alert.until,
        acknowledged_at = null,
        acknowledged_by = null
    where caregiver_alerts.id = alert.id
    returning * into alert;
    perform voice.note_change(alert, 'snoozed', snooze_alert.at, actor_id => (select auth.uid()), actor => 'caregiver');
    return alert;
end
$$;
comment on function voice.snooze_alert is
    'Puts an alert off; then it is open again, and told. Raises PT400 where that is too long or too short, PT403, PT404, PT409. Definer: nobody writes alerts directly.';
revoke execute on function voice.snooze_alert from public;
grant execute on function voice.snooze_alert to authenticated;

-- What caregivers call. The bodies are bound when they are created: nobody needs USAGE on the private schema.

create function public.acknowledge_alert(alert_id uuid)
returns public.caregiver_alerts
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.acknowledge_alert(acknowledge_alert.alert_id, now());
end;
comment on function public.acknowledge_alert is
    'For caregivers, and service_role for the care team: I see to it. Stops reminders for the hours that voice.alert_policies allows at this level; the others who were told hear of it. Raises PT403, PT404, PT409.';
revoke execute on function public.acknowledge_alert from public, anon;
grant execute on function public.acknowledge_alert to authenticated, service_role;

create function public.snooze_alert(alert_id uuid, until timestamptz)
returns public.caregiver_alerts
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.snooze_alert(snooze_alert.alert_id, snooze_alert.until, now());
end;
comment on function public.snooze_alert is
    'For caregivers: remind us then. Within the minutes and hours that voice.alert_policies allows at this level. Raises PT400, PT403, PT404, PT409.';
revoke execute on function public.snooze_alert from public, anon, service_role;
grant execute on function public.snooze_alert to authenticated;
