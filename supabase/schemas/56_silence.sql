-- Silence is a sign too: a patient on a schedule has had no call that could be judged for days, or answers calls without usable
-- speech. It raises the same kind of alert as a score, as a warning. When the patient is heard again, that alert is resolved by a
-- rule.

create function care.silences(at timestamptz)
returns table (
    patient_id uuid,
    cause text,
    last_heard_at timestamptz,
    silent_days double precision,
    unusable_calls bigint
)
language sql
stable
set search_path = pg_catalog, pg_temp
begin atomic
    with known as (
        select
            patients.id,
            patients.silent_after_days,
            patients.voice_consent_at,
            settings.unusable_calls_in_a_row,
            (
                select max(call_logs."timestamp")
                from public.call_logs
                where call_logs.patient_id = patients.id
                    and call_logs.is_heard
                    and call_logs."timestamp" <= silences.at + interval '1 day' -- allows for a wrong clock
            ) as last_heard_at
        from public.patients
        join care.organisation_settings as settings on settings.organisation_id = patients.organisation_id
        where isfinite(patients.voice_consent_at)
    ),
    answered as (
        select
            known.*,
            (
                select count(*)
                from (
                    select from public.call_logs
                    where call_logs.patient_id = known.id
                        and call_logs."timestamp" > coalesce(known.last_heard_at, '-infinity')
                        and call_logs.is_unheard
                    limit 1000
                ) as unusable
            ) as unusable_calls
        from known
    )
    select answered.id, causes.cause, answered.last_heard_at,
        extract(epoch from silences.at - coalesce(answered.last_heard_at, answered.voice_consent_at)) / 86400,
        answered.unusable_calls
    from answered
    cross join lateral (
        select 'nothing_heard' as cause
        where coalesce(answered.last_heard_at, answered.voice_consent_at)
            <= silences.at - make_interval(days => least(answered.silent_after_days, 36500))
        union all
        select 'no_usable_speech'
        where answered.unusable_calls >= answered.unusable_calls_in_a_row
    ) as causes;
end;
comment on function care.silences is
    'Returns who is not heard at this time, and in what way: patients on a schedule without a call that could be judged for silent_after_days, and patients whose last answered calls all lacked usable speech. Runs with the caller''s privileges.';
revoke execute on function care.silences from public;
grant execute on function care.silences to authenticated, service_role;

create view public.silent_patients
with (security_invoker = true)
as
select
    silences.patient_id,
    silences.cause,
    silences.last_heard_at,
    silences.silent_days,
    silences.unusable_calls
from care.silences(now()) as silences;
comment on view public.silent_patients is 'For caregivers and operators: patients who are not heard, one row per patient and cause.';
comment on column public.silent_patients.last_heard_at is 'When the last call that could be judged took place. Null: there was none.';
comment on column public.silent_patients.silent_days is 'Days since then, or since consent was given if there was none.';
comment on column public.silent_patients.unusable_calls is 'Answered calls since then, none of them with usable speech.';
revoke all on public.silent_patients from anon, authenticated, service_role;
grant select on public.silent_patients to authenticated, service_role;

create function care.silences_to_note(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select silences.patient_id || ' ' || silences.cause
    from care.silences(silences_to_note.at) as silences
    join public.patients on patients.id = silences.patient_id
    where not exists (
        select from public.caregiver_alerts
        where caregiver_alerts.patient_id = silences.patient_id
            -- A silence is noted once per episode. After the episode, it is noted again only if the patient was heard since, or as
            -- many days have passed again.
            and silences.cause = any (caregiver_alerts.causes)
            and (caregiver_alerts.resolved_at is null
                or (caregiver_alerts.opened_at > coalesce(silences.last_heard_at, '-infinity')
                    and caregiver_alerts.resolved_at > silences_to_note.at
                        - make_interval(days => coalesce(least(patients.silent_after_days, 36500), 1))))
    )
    order by silences.patient_id, silences.cause
    limit silences_to_note.maximum_rows
$$;
comment on function care.silences_to_note is
    'Lists silences of which nobody has been notified, as patient and cause. Called by care.run_job.';
revoke execute on function care.silences_to_note from public;

create function care.note_silence(silence text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    patient_id constant uuid := split_part(note_silence.silence, ' ', 1)::uuid;
begin
    if not care.try_lock_patient(patient_id) then
        return false;
    end if;
    perform care.raise_alert(patient_id, split_part(note_silence.silence, ' ', 2), 'warning', note_silence.at);
    return true;
end
$$;
comment on function care.note_silence is 'Raises the alert of a new silence. Returns whether it did. Called by care.run_job.';
revoke execute on function care.note_silence from public;

create function care.do_close_when_heard(causes text[])
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select not exists (
        select from public.alert_causes
        where alert_causes.id = any (do_close_when_heard.causes) and not alert_causes.closes_when_heard
    )
$$;
comment on function care.do_close_when_heard is 'Returns whether an alert with no other causes than these is resolved by a rule.';
revoke execute on function care.do_close_when_heard from public;

create function care.silences_to_end(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select caregiver_alerts.id::text
    from public.caregiver_alerts
    where caregiver_alerts.resolved_at is null
        and care.do_close_when_heard(caregiver_alerts.causes)
        and exists (
            select from public.call_logs
            where call_logs.patient_id = caregiver_alerts.patient_id
                and call_logs."timestamp" > caregiver_alerts.opened_at
                and call_logs.is_heard
        )
        and not exists (
            select from care.silences(silences_to_end.at) as silences
            where silences.patient_id = caregiver_alerts.patient_id
        )
    order by caregiver_alerts.opened_at
    limit silences_to_end.maximum_rows
$$;
comment on function care.silences_to_end is 'Lists alerts about the silence of patients who have been heard again. Called by care.run_job.';
revoke execute on function care.silences_to_end from public;

create function care.end_silence(alert_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    alert public.caregiver_alerts;
begin
    select caregiver_alerts.* into alert from public.caregiver_alerts where caregiver_alerts.id = end_silence.alert_id::uuid;
    if not care.try_lock_patient(alert.patient_id) then
        return false;
    end if;
    select caregiver_alerts.* into alert
    from public.caregiver_alerts
    where caregiver_alerts.id = alert.id
        and caregiver_alerts.resolved_at is null
        and care.do_close_when_heard(caregiver_alerts.causes)
    for update;
    if not found then
        return false;
    end if;
    perform care.resolve(alert, null, null, end_silence.at);
    return true;
end
$$;
comment on function care.end_silence is 'Resolves an alert about a silence that is over. Returns whether it did. Called by care.run_job.';
revoke execute on function care.end_silence from public;
