-- Recent events: alerts with their history, and the tables published for live updates.

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
    alerts.is_urgent,
    judgements.explanation,
    case when judgements.likely_patient_id is not null then care.likely_speaker_name(judgements.id) end as likely_speaker,
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
left join public.judgements on judgements.id = alerts.judgement_id
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
comment on column public.alert_history.known_as is 'The caregiver''s own name for the patient, or else the patient''s name.';
comment on column public.alert_history.cause is 'The cause of the last sign of which caregivers were notified; causes has all of them.';
comment on column public.alert_history.anomaly_score is
    'The highest score of the episode, 0 .. 1, that of judgement_id and call_log_id. Null: nothing was judged.';
comment on column public.alert_history.is_urgent is 'Whether a single call was very unlike usual: a second such call makes it an emergency.';
comment on column public.alert_history.explanation is 'Why the call with that score was judged so, in English. Null: the score says it all.';
comment on column public.alert_history.likely_speaker is
    'Who of the household seems to have spoken on the call with that score. Null: the patient, or not known.';
comment on column public.alert_history.opening_cause is 'The cause of the first sign.';
comment on column public.alert_history.opening_judgement_id is 'The judgement of the first sign. Null: that sign was not a score.';
comment on column public.alert_history.repeat_count is 'How many further signs there were.';
comment on column public.alert_history.acknowledged_by is 'The caregiver''s name. Null: nobody, or somebody who is no longer a caregiver.';
comment on column public.alert_history.resolved_by is
    'The caregiver''s name. Null: nobody, a rule, or somebody who is no longer a caregiver.';
comment on column public.alert_history.change_count is 'The number of rows in alert_changes, which has the details of each change.';
comment on column public.alert_history.last_changed_by is 'The caregiver''s name. Null: a rule or an operator made the change.';
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
            -- Only columns that caregivers may read: updates never contain the URL of a recording.
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
        -- If an adopted table has no primary key on id, it could no longer be updated once it is published.
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
    raise notice 'Only the owner of supabase_realtime can switch on live updates: %', sqlerrm;
    return 0;
end
$$;
comment on function care.publish_live_updates is
    'Adds the tables behind the views to Supabase''s live updates, if these exist, and returns how many were added. Called here, and by an operator who enables live updates later.';
revoke execute on function care.publish_live_updates from public;

select care.publish_live_updates();
