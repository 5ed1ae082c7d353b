-- Alert actions: what a caregiver does about an alert. Viewers only look; to everybody else the alert does not exist.

create function voice.alert_to_act_on(alert_id uuid)
returns public.caregiver_alerts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts;
    caregiver_role public.caregiver_role;
begin
    select caregiver_alerts.* into alert
    from public.caregiver_alerts
    where caregiver_alerts.id = alert_to_act_on.alert_id
    for update;
    caregiver_role := voice.role_of_caller(alert.patient_id);
    if caregiver_role is null then
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
    'The alert, locked, where the signed-in caregiver may act on it. Raises PT403, PT404.';
revoke execute on function voice.alert_to_act_on from public;

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

create function voice.acknowledge_alert(alert_id uuid, at timestamptz)
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
    perform voice.note_change(alert, 'acknowledged', acknowledge_alert.at, actor_id => (select auth.uid()));
    return alert;
end
$$;
comment on function voice.acknowledge_alert is
    'The signed-in caregiver sees to it; done twice, the first counts. Raises PT403, PT404, PT409. Definer: nobody writes alerts directly.';
revoke execute on function voice.acknowledge_alert from public;
grant execute on function voice.acknowledge_alert to authenticated;

create function voice.snooze_alert(alert_id uuid, until timestamptz, at timestamptz)
returns public.caregiver_alerts
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts := voice.alert_to_act_on(snooze_alert.alert_id);
    maximum_hours double precision := (
        select maximum_snooze_hours from voice.alert_policies where alert_policies.level = alert.level
    );
begin
    perform voice.refuse_resolved(alert);
    if (snooze_alert.until > snooze_alert.at
        and snooze_alert.until <= snooze_alert.at + make_interval(secs => 3600 * maximum_hours)) is not true
    then
        raise exception using
            errcode = 'PT400',
            message = format('An alert of this level (%s) can be put off for up to %s hours', alert.level, maximum_hours),
            hint = 'Give a time that is to come, and not so far.';
    end if;
    update public.caregiver_alerts
    set state = 'snoozed',
        snoozed_until = snooze_alert.until,
        next_change_at = snooze_alert.until,
        acknowledged_at = null,
        acknowledged_by = null
    where caregiver_alerts.id = alert.id
    returning * into alert;
    perform voice.note_change(alert, 'snoozed', snooze_alert.at, actor_id => (select auth.uid()));
    return alert;
end
$$;
comment on function voice.snooze_alert is
    'Puts an alert off; then it is open again, and told. Raises PT400 where that is too long, PT403, PT404, PT409. Definer: nobody writes alerts directly.';
revoke execute on function voice.snooze_alert from public;
grant execute on function voice.snooze_alert to authenticated;

create function voice.resolve(
    alert public.caregiver_alerts, outcome public.alert_outcome, notes text, actor_id uuid, at timestamptz
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
        resolved_by = resolve.actor_id,
        outcome = resolve.outcome,
        notes = coalesce(resolve.notes, alert.notes),
        snoozed_until = null,
        next_change_at = null
    where caregiver_alerts.id = alert.id
    returning * into alert;
    perform voice.note_change(alert, 'resolved', resolve.at, actor_id => resolve.actor_id);
    return alert;
end
$$;
comment on function voice.resolve is 'The episode is over. Called by voice.resolve_alert, and by a job when a silent patient was heard again.';
revoke execute on function voice.resolve from public;

create function voice.resolve_alert(alert_id uuid, outcome public.alert_outcome, notes text, at timestamptz)
returns public.caregiver_alerts
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts := voice.alert_to_act_on(resolve_alert.alert_id);
begin
    if resolve_alert.outcome is null then
        raise exception using
            errcode = 'PT400',
            message = 'An alert is resolved with an outcome',
            hint = format('One of %s.', enum_range(null::public.alert_outcome));
    end if;
    if (alert.state, alert.outcome, alert.resolved_by)
        is not distinct from ('resolved'::public.alert_state, resolve_alert.outcome, (select auth.uid()))
    then
        return alert;
    end if;
    perform voice.refuse_resolved(alert);
    return voice.resolve(alert, resolve_alert.outcome, resolve_alert.notes, (select auth.uid()), resolve_alert.at);
end
$$;
comment on function voice.resolve_alert is
    'Ends the episode with what was found; the same again changes nothing. Raises PT400, PT403, PT404, PT409. Definer: nobody writes alerts directly.';
revoke execute on function voice.resolve_alert from public;
grant execute on function voice.resolve_alert to authenticated;

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
    'For caregivers: I see to it. Stops reminders for the hours that voice.alert_policies allows at this level; the others who were told hear of it. Raises PT403, PT404, PT409.';
revoke execute on function public.acknowledge_alert from public, anon, service_role;
grant execute on function public.acknowledge_alert to authenticated;

create function public.snooze_alert(alert_id uuid, until timestamptz)
returns public.caregiver_alerts
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.snooze_alert(snooze_alert.alert_id, snooze_alert.until, now());
end;
comment on function public.snooze_alert is
    'For caregivers: remind us then. Up to the hours that voice.alert_policies allows at this level. Raises PT400, PT403, PT404, PT409.';
revoke execute on function public.snooze_alert from public, anon, service_role;
grant execute on function public.snooze_alert to authenticated;

create function public.resolve_alert(alert_id uuid, outcome public.alert_outcome, notes text default null)
returns public.caregiver_alerts
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.resolve_alert(resolve_alert.alert_id, resolve_alert.outcome, resolve_alert.notes, now());
end;
comment on function public.resolve_alert is
    'For caregivers: it is over, and this was it. Raises PT400, PT403, PT404, PT409.';
revoke execute on function public.resolve_alert from public, anon, service_role;
grant execute on function public.resolve_alert to authenticated;
