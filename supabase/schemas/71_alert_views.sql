-- What has happened lately: alerts with their history, and the tables that live updates listen to.

create view public.alert_history
with (security_invoker = true)
as
select
    alerts.id as alert_id,
    alerts.patient_id,
    coalesce(me.patient_known_as, patients.name) as known_as,
    alerts.level,
    alerts.state,
    alerts.cause,
    alerts.causes,
    alerts.anomaly_score,
    alerts.judgement_id,
    alerts.call_log_id,
    alerts.opened_at,
    opening.cause as opening_cause,
    opening.judgement_id as opening_judgement_id,
    opening.call_log_id as opening_call_log_id,
    alerts.last_raised_at,
    alerts.repeat_count,
    alerts.acknowledged_at,
    care.caregiver_name(alerts.acknowledged_by) as acknowledged_by,
    alerts.snoozed_until,
    alerts.resolved_at,
    care.caregiver_name(alerts.resolved_by) as resolved_by,
    alerts.outcome,
    alerts.notes,
    history.change_count,
    latest.change as last_change,
    latest.changed_at as last_changed_at,
    care.caregiver_name(latest.caregiver_id) as last_changed_by
from public.caregiver_alerts as alerts
join public.patients on patients.id = alerts.patient_id
left join public.patient_caregivers as me
    on me.patient_id = alerts.patient_id and me.user_id = (select auth.uid())
left join lateral (
    select alert_changes.cause, alert_changes.judgement_id, alert_changes.call_log_id
    from public.alert_changes
    where alert_changes.alert_id = alerts.id and alert_changes.change = 'opened'
    order by alert_changes.changed_at
    limit 1
) as opening on true
left join lateral (
    select alert_changes.change, alert_changes.changed_at, alert_changes.caregiver_id
    from public.alert_changes
    where alert_changes.alert_id = alerts.id
    order by alert_changes.changed_at desc, alert_changes.change desc
    limit 1
) as latest on true
cross join lateral (
    select count(*) as change_count
    from public.alert_changes
    where alert_changes.alert_id = alerts.id
) as history;
comment on view public.alert_history is
    'For caregivers: inbox and history, one row per alert. Unresolved first: `order by resolved_at desc nulls first, level desc, opened_at desc`.';
comment on column public.alert_history.known_as is 'What the reader calls the patient, else the name.';
comment on column public.alert_history.cause is 'The last sign that somebody was told of; causes has every kind.';
comment on column public.alert_history.anomaly_score is 'The worst of the episode, 0 .. 1, of judgement_id and call_log_id. Null: nothing was judged.';
comment on column public.alert_history.opening_cause is 'The first sign.';
comment on column public.alert_history.opening_judgement_id is 'The judgement of the first sign; null: it was no score.';
comment on column public.alert_history.repeat_count is 'How many further signs there were.';
comment on column public.alert_history.acknowledged_by is 'The caregiver''s name; null: nobody, or no caregiver any more.';
comment on column public.alert_history.resolved_by is 'The caregiver''s name; null: nobody, a rule, or no caregiver any more.';
comment on column public.alert_history.change_count is 'Rows of alert_changes, where each change can be read.';
comment on column public.alert_history.last_changed_by is 'The caregiver''s name; null: a rule did it, or an operator.';
revoke all on public.alert_history from anon, authenticated, service_role;
grant select on public.alert_history to authenticated, service_role;

create function care.publish_live_updates()
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    live record;
    published integer := 0;
begin
    for live in
        select tables.name, tables.columns
        from (values
            ('patients', ''),
            -- What caregivers may read of a call: the address of a recording is in no update.
            ('call_logs', '(id, patient_id, "timestamp", summary, source, provider, ended_reason, recording_channel,'
                ' check_state, check_reason, anomaly_score, created_at)'),
            ('judgements', ''), ('voice_anomaly_logs', ''), ('caregiver_alerts', ''), ('alert_changes', ''), ('health_flags', ''),
            ('daily_checkins', '')
        ) as tables (name, columns)
        join pg_catalog.pg_publication as publication on publication.pubname = 'supabase_realtime'
        where not exists (
            select from pg_catalog.pg_publication_tables
            where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = tables.name
        )
        -- Without its id as the key, an adopted table could no longer be updated once it was published.
        and exists (
            select from pg_catalog.pg_index
            join pg_catalog.pg_attribute on attrelid = indrelid and attnum = indkey[0]
            where indrelid = to_regclass('public.' || tables.name) and indisprimary and indnkeyatts = 1 and attname = 'id'
        )
    loop
        execute format('alter publication supabase_realtime add table public.%I %s', live.name, live.columns);
        published := published + 1;
    end loop;
    return published;
exception when insufficient_privilege then
    raise notice 'Live updates are for the owner of supabase_realtime to switch on: %', sqlerrm;
    return 0;
end
$$;
comment on function care.publish_live_updates is
    'Adds the tables behind the views to Supabase''s live updates, where those are there; how many were added. Called here, and by an operator who enables them later.';
revoke execute on function care.publish_live_updates from public;

select care.publish_live_updates();
