-- What has happened lately: alerts with their history, scores with the name that the reader uses, and the tables that live
-- updates listen to.

create function voice.caregiver_name(patient_id uuid, user_id uuid)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select patient_caregivers.name
    from public.patient_caregivers
    where patient_caregivers.patient_id = caregiver_name.patient_id and patient_caregivers.user_id = caregiver_name.user_id
$$;
comment on function voice.caregiver_name is
    'What that caregiver of the patient is called; null once the person is none any more. Definer: caregivers do not read each other''s rows, and may know who answered. Called by views, which ask about nobody else.';
revoke execute on function voice.caregiver_name from public;
grant execute on function voice.caregiver_name to authenticated, service_role;

create view public.voice_alerts
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
    alerts.log_id,
    alerts.opened_at,
    opening.cause as opening_cause,
    opening.log_id as opening_log_id,
    alerts.last_raised_at,
    alerts.repeat_count,
    alerts.acknowledged_at,
    voice.caregiver_name(alerts.patient_id, alerts.acknowledged_by) as acknowledged_by,
    alerts.snoozed_until,
    alerts.resolved_at,
    voice.caregiver_name(alerts.patient_id, alerts.resolved_by) as resolved_by,
    alerts.outcome,
    alerts.notes,
    history.change_count,
    latest.change as last_change,
    latest.changed_at as last_changed_at,
    voice.caregiver_name(alerts.patient_id, latest.actor_id) as last_changed_by
from public.caregiver_alerts as alerts
join public.patients on patients.id = alerts.patient_id
left join public.patient_caregivers as me
    on me.patient_id = alerts.patient_id and me.user_id = (select auth.uid())
left join lateral (
    select alert_changes.cause, alert_changes.log_id
    from public.alert_changes
    where alert_changes.alert_id = alerts.id and alert_changes.change = 'opened'
    order by alert_changes.changed_at
    limit 1
) as opening on true
left join lateral (
    select alert_changes.change, alert_changes.changed_at, alert_changes.actor_id
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
comment on view public.voice_alerts is
    'For caregivers: inbox and history, one row per alert. Unresolved first: `order by resolved_at desc nulls first, level desc, opened_at desc`.';
comment on column public.voice_alerts.known_as is 'What the reader calls the patient, else the name.';
comment on column public.voice_alerts.cause is 'The last sign that somebody was told of; causes has every kind.';
comment on column public.voice_alerts.anomaly_score is 'The worst of the episode, 0 .. 1; log_id is its log. Null: no voice was judged.';
comment on column public.voice_alerts.opening_cause is 'The first sign.';
comment on column public.voice_alerts.opening_log_id is 'The log of the first sign; null: it was no score.';
comment on column public.voice_alerts.repeat_count is 'How many further signs there were.';
comment on column public.voice_alerts.acknowledged_by is 'The caregiver''s name; null: nobody, or no caregiver any more.';
comment on column public.voice_alerts.resolved_by is 'The caregiver''s name; null: nobody, a rule, or no caregiver any more.';
comment on column public.voice_alerts.change_count is 'Rows of alert_changes, where each change can be read.';
comment on column public.voice_alerts.last_changed_by is 'The caregiver''s name; null: a rule did it.';
revoke all on public.voice_alerts from anon, authenticated, service_role;
grant select on public.voice_alerts to authenticated, service_role;

create view public.recent_anomaly_logs
with (security_invoker = true)
as
select
    logs.id,
    logs.patient_id,
    coalesce(me.patient_known_as, patients.name) as known_as,
    logs.call_log_id,
    logs."timestamp",
    logs.anomaly_score,
    logs.raw_similarity,
    logs.normalized_score,
    logs.snr,
    logs.severity,
    logs.alert_type,
    logs.alert_sent,
    logs.noise_adjusted,
    logs.is_provisional,
    logs.notes,
    logs.created_at
from public.voice_anomaly_logs as logs
join public.patients on patients.id = logs.patient_id
left join public.patient_caregivers as me
    on me.patient_id = logs.patient_id and me.user_id = (select auth.uid())
where logs."timestamp" > now() - interval '30 days';
comment on view public.recent_anomaly_logs is
    'For caregivers: the scored calls of the last 30 days of all their patients, columns as in voice_anomaly_logs. Newest first: `order by timestamp desc`.';
comment on column public.recent_anomaly_logs.known_as is 'What the reader calls the patient, else the name.';
comment on column public.recent_anomaly_logs."timestamp" is 'When the call began.';
revoke all on public.recent_anomaly_logs from anon, authenticated, service_role;
grant select on public.recent_anomaly_logs to authenticated, service_role;

create function voice.publish_live_updates()
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
            ('voice_anomaly_logs', ''), ('caregiver_alerts', ''), ('alert_changes', ''), ('health_flags', ''),
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
comment on function voice.publish_live_updates is
    'Adds the tables behind the views to Supabase''s live updates, where those are there; how many were added. Called here, and by an operator who enables them later.';
revoke execute on function voice.publish_live_updates from public;
select voice.publish_live_updates();
