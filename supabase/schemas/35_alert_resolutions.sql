-- Resolutions: how an episode ends, by somebody who has seen to it or by a rule, and what was found.

create function voice.resolve(
    alert public.caregiver_alerts, outcome public.alert_outcome, notes text, actor_id uuid, at timestamptz,
    actor public.alert_actor default 'rule'
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
    perform voice.note_change(alert, 'resolved', resolve.at, actor_id => resolve.actor_id, actor => resolve.actor);
    return alert;
end
$$;
comment on function voice.resolve is 'The episode is over. Called by voice.resolve_alert, and by voice.end_silence when a silent patient was heard again.';
revoke execute on function voice.resolve from public;

create function voice.flag_illness(alert public.caregiver_alerts)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into public.health_flags (patient_id, flag, started_at, resolved_at)
    select alert.patient_id, 'ill (alert)', alert.opened_at, alert.resolved_at + make_interval(days => settings.illness_days)
    from voice.settings
    where not voice.is_unwell_at(alert.patient_id, alert.resolved_at)
$$;
comment on function voice.flag_illness is
    'The patient was found ill: unwell since the alert was opened, for voice.settings.illness_days after its end, unless a health flag says so already. Called by voice.resolve_alert.';
revoke execute on function voice.flag_illness from public;

create function voice.resolve_alert(
    alert_id uuid, outcome public.alert_outcome, notes text, at timestamptz default now()
)
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
            hint = format('One of %s.', array_to_string(enum_range(null::public.alert_outcome), ', '));
    elsif char_length(resolve_alert.notes) > 10000 then
        raise exception using
            errcode = 'PT400',
            message = format('The notes have %s characters; at most 10000 are kept', char_length(resolve_alert.notes)),
            hint = 'Keep what is longer elsewhere, and say where.';
    end if;
    if (alert.state, alert.outcome, alert.resolved_by)
        is not distinct from ('resolved'::public.alert_state, resolve_alert.outcome, (select auth.uid()))
    then
        return alert;
    end if;
    perform voice.refuse_resolved(alert);
    alert := voice.resolve(
        alert, resolve_alert.outcome, resolve_alert.notes, (select auth.uid()), resolve_alert.at, voice.actor_of_caller());
    if alert.outcome = 'ill' then
        perform voice.flag_illness(alert);
    end if;
    return alert;
end
$$;
comment on function voice.resolve_alert is
    'Ends the episode with what was found, and notes an illness as a health flag; the same again changes nothing. Raises PT400, PT403, PT404, PT409. Definer: nobody writes alerts directly.';
revoke execute on function voice.resolve_alert from public;
grant execute on function voice.resolve_alert to authenticated, service_role, retrocare_service;

-- What caregivers call. The body is bound when it is created: nobody needs USAGE on the private schema.

create function public.resolve_alert(alert_id uuid, outcome public.alert_outcome, notes text default null)
returns public.caregiver_alerts
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.resolve_alert(resolve_alert.alert_id, resolve_alert.outcome, resolve_alert.notes, now());
end;
comment on function public.resolve_alert is
    'For caregivers, and service_role for the care team: it is over, and this was it. ill notes a health flag as well. Raises PT400, PT403, PT404, PT409.';
revoke execute on function public.resolve_alert from public, anon;
grant execute on function public.resolve_alert to authenticated, service_role;
