-- Answers: what somebody finds out about an alert changes what is remembered of the patient's voice.

create function voice.settle_charts(patient_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select voice.correct_chart(charts, 'settled', voice.settled_chart(charts.state))
    from voice.charts
    where charts.patient_id = settle_charts.patient_id
$$;
comment on function voice.settle_charts is
    'Forgets what pointed to a change, since the patient is well. What is known of the usual voice stays, so a change that persists is found again within days. The caller has called care.lock_patient.';
revoke execute on function voice.settle_charts from public;

create function voice.disown_calls(patient_id uuid, call_log_ids uuid[])
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    removed integer;
begin
    update public.voice_anomaly_logs
    set is_disowned = true
    where voice_anomaly_logs.patient_id = disown_calls.patient_id
        and voice_anomaly_logs.call_log_id = any (disown_calls.call_log_ids);
    removed := voice.remove_samples(disown_calls.patient_id, array(
        select embeddings.id
        from voice.embeddings
        where embeddings.patient_id = disown_calls.patient_id and embeddings.call_log_id = any (disown_calls.call_log_ids)
    ));
    if removed = 0 then
        perform voice.replay_charts(disown_calls.patient_id);
    end if;
end
$$;
comment on function voice.disown_calls is
    'Takes these calls out of the patient''s baselines and charts, since somebody else spoke. The caller has called care.lock_patient.';
revoke execute on function voice.disown_calls from public;

create function voice.begin_new_line(patient_id uuid, since timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    present voice.baselines;
begin
    for present in
        select baselines.*
        from voice.baselines
        where baselines.patient_id = begin_new_line.patient_id and baselines.superseded_at is null
        order by baselines.encoder
    loop
        perform voice.build_baseline(present.patient_id, present.encoder, array(
            select heard.id
            from (
                select embeddings.id, call_logs."timestamp" as called_at
                from voice.embeddings
                join public.call_logs on call_logs.id = embeddings.call_log_id
                join public.voice_anomaly_logs as logs
                    on logs.call_log_id = embeddings.call_log_id and logs.encoder = embeddings.encoder
                join public.patients on patients.id = embeddings.patient_id
                where embeddings.patient_id = present.patient_id
                    and embeddings.encoder = present.encoder
                    and call_logs."timestamp" >= begin_new_line.since
                    and not logs.is_disowned
                    and care.is_healthy_at(patients, call_logs."timestamp")
                order by call_logs."timestamp" desc
                limit voice.target_samples(voice.policy(present.encoder))
            ) as heard
            order by heard.id
        ), null);
        perform voice.restart_chart(present.patient_id, present.encoder);
    end loop;
end
$$;
comment on function voice.begin_new_line is
    'Builds the patient''s baselines anew, from the healthy calls since that time, and forgets what was known of the calls before: the telephone or the room is another. Without such a call, the next healthy one enrols. The caller has called care.lock_patient.';
revoke execute on function voice.begin_new_line from public;

create function voice.on_alert_resolved()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- The calls behind the signs of this episode.
    call_log_ids constant uuid[] := array(
        select distinct alert_changes.call_log_id
        from public.alert_changes
        join public.alert_causes on alert_causes.id = alert_changes.cause
        where alert_changes.alert_id = new.id
            and alert_changes.change in ('opened', 'raised', 'repeated')
            and alert_causes.signal = 'voice'
            and alert_changes.call_log_id is not null
    );
begin
    if cardinality(call_log_ids) = 0 then
        return null;
    end if;
    case new.outcome
        when 'not_ill' then
            perform voice.settle_charts(new.patient_id);
        when 'other_person', 'wrong_recording' then
            perform voice.disown_calls(new.patient_id, call_log_ids);
        when 'new_line' then
            perform voice.begin_new_line(
                new.patient_id, (select min(call_logs."timestamp") from public.call_logs where call_logs.id = any (call_log_ids)));
        else
            null;  -- an illness is a health flag, which does the rest
    end case;
    return null;
end
$$;
comment on function voice.on_alert_resolved is
    'Trigger: draws the consequences of an outcome for the patient''s charts and baselines. Security definer: roles that act on alerts have no privileges on the private schemas. The caller has called care.lock_patient.';
revoke execute on function voice.on_alert_resolved from public;
