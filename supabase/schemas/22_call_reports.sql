-- Call reports: each call that the provider reports becomes one row, however often and in whatever order its reports arrive.

create type public.received_call as (
    call_log_id uuid,
    disposition public.call_disposition,
    is_new boolean
);
comment on type public.received_call is 'What happened to a report. Without call_log_id, it waits until its patient is known.';

create table care.unmatched_calls (
    provider_account text not null
        constraint an_unmatched_call_is_of_an_account references care.provider_accounts (id),
    provider_call_id text not null,
    phone text,
    report jsonb not null,
    received_at timestamptz not null,
    constraint unmatched_calls_pkey primary key (provider_account, provider_call_id)
);
alter table care.unmatched_calls enable row level security;
comment on table care.unmatched_calls is
    'Reports of calls whose patient is not known, as they arrived. Once a patient has that id or phone number, the job match_calls stores the call.';

create function care.reported_patient(patient_id uuid, phone text, account text)
returns uuid
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case when count(*) = 1 then min(patients.id::text)::uuid end
    from public.patients
    where patients.organisation_id = (
            select provider_accounts.organisation_id from care.provider_accounts where provider_accounts.id = reported_patient.account)
        and case
            when reported_patient.patient_id is not null then patients.id = reported_patient.patient_id
            else patients.phone = reported_patient.phone
        end
$$;
comment on function care.reported_patient is
    'Returns the patient of a report, among those of the account''s organisation: by id if the report has one, else by phone number. Null: there is none, or several patients share the number.';
revoke execute on function care.reported_patient from public;

create function care.is_erased(account text, provider_call_id text, patient_id uuid)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
            select from care.deletions
            where deletions.kind = 'provider_call'
                and deletions.reference = is_erased.account || '/' || is_erased.provider_call_id
        )
        or exists (
            select from care.tombstones
            where tombstones.patient_id = is_erased.patient_id and tombstones.scope = 'person'
        );
end
$$;
comment on function care.is_erased is
    'Returns whether this call, or the patient named in its report, was erased. Later reports of such a call are not stored. Called by care.receive_call_report and care.unreported_calls.';
revoke execute on function care.is_erased from public;

create function care.unreported_calls(provider text, provider_call_ids text[], account text default null)
returns setof text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select distinct listed.id
    from care.account_of(unreported_calls.provider, unreported_calls.account) as known (account)
    cross join unnest(unreported_calls.provider_call_ids) as listed (id)
    where not exists (
            select from public.call_logs
            where call_logs.provider_account = known.account and call_logs.provider_call_id = listed.id)
        and not exists (
            select from care.unmatched_calls
            where unmatched_calls.provider_account = known.account and unmatched_calls.provider_call_id = listed.id)
        and not care.is_erased(known.account, listed.id, null)
$$;
comment on function care.unreported_calls is
    'Returns those of the account''s calls that were never reported. Security definer for the same reason as care.receive_call_report.';
revoke execute on function care.unreported_calls from public;

create function care.receive_call_report(
    provider text, provider_call_id text, patient_id uuid default null, phone text default null,
    started_at timestamptz default null, ended_at timestamptz default null, ended_reason text default null,
    summary text default null, recording_url text default null, recording_url_channel text default null,
    recording_url_expires_at timestamptz default null, speech_intervals jsonb default null,
    is_recording_consented boolean default null, at timestamptz default now(), account text default null
)
returns public.received_call
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    account_id constant text := care.account_of(receive_call_report.provider, receive_call_report.account);
    patient public.patients;
    call public.call_logs;
    is_new boolean;
    decided care.ended_reasons;
    -- A time that is years off comes from a wrong clock and is ignored.
    begun_at constant timestamptz := coalesce((
        select told.at
        from unnest(array[receive_call_report.started_at, receive_call_report.ended_at, receive_call_report.at]) with ordinality as told (at, turn)
        where told.at between '2000-01-01' and least(greatest(receive_call_report.at, now()) + interval '1 hour', now() + interval '2 days')
        order by told.turn
        limit 1
    ), now());
    ended_at constant timestamptz :=
        case when receive_call_report.ended_at between begun_at and begun_at + interval '1 day' then receive_call_report.ended_at end;
begin
    if nullif(receive_call_report.provider_call_id, '') is null or account_id is null then
        raise exception using
            errcode = 'PT400',
            message = format('A report needs a call id and a known account, not %L of %L',
                receive_call_report.account, receive_call_report.provider),
            hint = 'Accounts are rows of care.provider_accounts. If the provider has several, name one.';
    end if;

    select patients.* into patient
    from public.patients
    where patients.id = coalesce(
        -- A call that is already stored stays with its patient.
        (select call_logs.patient_id from public.call_logs
            where call_logs.provider_account = account_id
                and call_logs.provider_call_id = receive_call_report.provider_call_id),
        care.reported_patient(receive_call_report.patient_id, receive_call_report.phone, account_id))
    for no key update;
    if care.is_erased(account_id, receive_call_report.provider_call_id, receive_call_report.patient_id) then
        return (
            (select id from public.call_logs
                where call_logs.provider_account = account_id
                    and call_logs.provider_call_id = receive_call_report.provider_call_id),
            'erased', false
        )::public.received_call;
    end if;
    if patient.id is null then
        insert into care.unmatched_calls as unmatched (provider_account, provider_call_id, phone, report, received_at)
        values (
            account_id, receive_call_report.provider_call_id, receive_call_report.phone,
            jsonb_build_object(
                'patient_id', receive_call_report.patient_id, 'started_at', receive_call_report.started_at,
                'ended_at', receive_call_report.ended_at, 'ended_reason', receive_call_report.ended_reason,
                'summary', left(receive_call_report.summary, 10000), 'speech_intervals', receive_call_report.speech_intervals,
                'is_recording_consented', receive_call_report.is_recording_consented),
            receive_call_report.at
        )
        on conflict on constraint unmatched_calls_pkey do nothing;
        is_new := found;
        return (null, 'unmatched', is_new)::public.received_call;
    end if;

    is_new := not exists (
        select from public.call_logs
        where call_logs.provider_account = account_id
            and call_logs.provider_call_id = receive_call_report.provider_call_id
    );
    insert into public.call_logs as known (
        patient_id, "timestamp", source, provider, provider_account, provider_call_id, ended_reason, summary,
        recording_source_url, speech_intervals
    )
    values (
        patient.id, begun_at, 'provider', receive_call_report.provider, account_id, receive_call_report.provider_call_id,
        receive_call_report.ended_reason, left(receive_call_report.summary, 10000), null, receive_call_report.speech_intervals
    )
    on conflict (provider_account, provider_call_id) do update
    set ended_reason = coalesce(known.ended_reason, excluded.ended_reason),
        summary = coalesce(known.summary, excluded.summary),
        speech_intervals = coalesce(known.speech_intervals, excluded.speech_intervals)
    returning * into call;
    delete from care.unmatched_calls
    where unmatched_calls.provider_account = call.provider_account and unmatched_calls.provider_call_id = call.provider_call_id;
    decided := care.ended_reason_rule(call.provider, call.ended_reason);

    if call.recording_ref is null and coalesce(call.check_reason, 'ended_reason_unknown') = 'ended_reason_unknown' then
        update public.call_logs
        set (check_state, check_reason) = (
            select 'skipped'::public.check_state, why.reason
            from (select case
                when care.skip_reason(call) is not null then care.skip_reason(call)
                when not care.has_any_consent(patient.id) or not receive_call_report.is_recording_consented then 'no_consent'
                when decided.disposition is null then 'ended_reason_unknown'
            end::public.check_reason as reason) as why
            where why.reason is not null
        )
        where call_logs.id = call.id
        returning * into call;
        if call.check_reason is null or call.check_reason = 'ended_reason_unknown' then
            update public.call_logs
            set recording_source_url = coalesce(receive_call_report.recording_url, call_logs.recording_source_url)
            where call_logs.id = call.id;
            perform care.queue_recording(
                call, receive_call_report.recording_url_channel, receive_call_report.recording_url_expires_at,
                ended_at, receive_call_report.at);
        end if;
    end if;
    return (call.id, coalesce(decided.disposition, 'unknown'), is_new)::public.received_call;
end
$$;
comment on function care.receive_call_report is
    'Stores the report of a finished call and returns what happened to it; reports may be repeated. If the patient was on the line and has consented, the recording is queued to be copied. Raises PT400. Security definer: the edge function has no privileges on the private schemas.';
revoke execute on function care.receive_call_report from public;

create function care.calls_to_match(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select unmatched_calls.provider_account || '/' || unmatched_calls.provider_call_id
    from care.unmatched_calls
    where care.reported_patient(
        -- A patient_id that is not a UUID is left to the operator; it must not stop other calls.
        case when pg_input_is_valid(unmatched_calls.report ->> 'patient_id', 'uuid')
            then (unmatched_calls.report ->> 'patient_id')::uuid end,
        unmatched_calls.phone, unmatched_calls.provider_account) is not null
    order by unmatched_calls.received_at
    limit calls_to_match.maximum_rows
$$;
comment on function care.calls_to_match is 'Lists reported calls whose patient is now known. Called by care.run_job.';
revoke execute on function care.calls_to_match from public;

create function care.match_call(reference text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    taken care.unmatched_calls;
begin
    select unmatched_calls.* into taken
    from care.unmatched_calls
    where unmatched_calls.provider_account || '/' || unmatched_calls.provider_call_id = match_call.reference
    for update skip locked;
    if not care.try_lock_patient(care.reported_patient((taken.report ->> 'patient_id')::uuid, taken.phone, taken.provider_account)) then
        return false;
    end if;
    delete from care.unmatched_calls
    where unmatched_calls.provider_account = taken.provider_account and unmatched_calls.provider_call_id = taken.provider_call_id;
    perform care.receive_call_report(
        (select provider_accounts.provider from care.provider_accounts where provider_accounts.id = taken.provider_account),
        taken.provider_call_id, (taken.report ->> 'patient_id')::uuid, taken.phone,
        (taken.report ->> 'started_at')::timestamptz, (taken.report ->> 'ended_at')::timestamptz,
        taken.report ->> 'ended_reason', taken.report ->> 'summary', null, null, null,
        nullif(taken.report -> 'speech_intervals', 'null'), (taken.report ->> 'is_recording_consented')::boolean,
        match_call.at, taken.provider_account);
    return true;
end
$$;
comment on function care.match_call is 'Stores a reported call whose patient is now known. Returns whether it did. Called by care.run_job.';
revoke execute on function care.match_call from public;

create function care.calls_to_redecide(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select call_logs.id::text
    from public.call_logs
    where call_logs.check_reason = 'ended_reason_unknown' and (care.ended_reason_rule(call_logs.provider, call_logs.ended_reason)).disposition is not null
    order by call_logs."timestamp"
    limit calls_to_redecide.maximum_rows
$$;
comment on function care.calls_to_redecide is
    'Lists calls with an unknown ended reason for which there is now a row. Called by care.run_job.';
revoke execute on function care.calls_to_redecide from public;

create function care.redecide_call(call_log_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    call public.call_logs;
begin
    select call_logs.* into call from public.call_logs where call_logs.id = redecide_call.call_log_id::uuid;
    if not care.try_lock_patient(call.patient_id) then
        return false;
    end if;
    update public.call_logs
    set check_state = case when care.skip_reason(call) is not null then 'skipped'::public.check_state end,
        check_reason = care.skip_reason(call)
    where call_logs.id = call.id and call_logs.check_reason = 'ended_reason_unknown';
    if not found then
        return false;
    end if;
    perform care.attach_recording(call.id);
    return true;
end
$$;
comment on function care.redecide_call is
    'Judges or skips a call for whose ended reason there is now a row. Returns whether it did. Called by care.run_job.';
revoke execute on function care.redecide_call from public;
