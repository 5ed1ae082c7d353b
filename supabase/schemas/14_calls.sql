-- Calls: what is true of every one of them, and how the service and integrators make one.

create function voice.refuse_impossible_call()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- A clock may be wrong by a time zone, and by a date.
    if (new."timestamp" between '1970-01-01' and now() + interval '2 days') is not true then
        raise exception using
            errcode = 'RV008',
            message = format('A call cannot have begun at %s', new."timestamp"),
            hint = 'It began before now: give the time of the call, with its zone.';
    end if;
    if tg_op = 'UPDATE' and new.patient_id <> old.patient_id and (
        exists (select from voice.checks where checks.call_log_id = old.id)
        or exists (select from voice.recordings where recordings.call_log_id = old.id)
        or exists (select from voice.embeddings where embeddings.call_log_id = old.id)
    ) then
        raise exception using
            errcode = 'RV006',
            message = format('Call %s has been taken up as another patient''s', old.id),
            hint = 'Delete it, and record it again for the right patient.';
    end if;
    return new;
end
$$;
comment on function voice.refuse_impossible_call is
    'Trigger: a call has begun, and stays with the patient for whom it was taken up. Raises RV006, RV008. Definer: whoever writes calls may not read voice.';
revoke execute on function voice.refuse_impossible_call from public;

create table voice.idempotency_keys (
    caller text not null,
    key text not null
        constraint an_idempotency_key_is_short check (length(key) between 1 and 255),
    request_sha256 bytea not null
        constraint a_request_is_known_by_its_hash check (octet_length(request_sha256) = 32),
    patient_id uuid not null
        constraint a_repeated_request_is_about_a_patient references public.patients (id) on delete cascade,
    call_log_id uuid not null
        constraint a_repeated_request_is_one_call references public.call_logs (id) on delete cascade,
    created_at timestamptz not null default now(),
    constraint idempotency_keys_pkey primary key (caller, key)
);
create index idempotency_keys_by_age on voice.idempotency_keys (created_at);
create index idempotency_keys_by_call on voice.idempotency_keys (call_log_id);
create index idempotency_keys_by_patient on voice.idempotency_keys (patient_id);
alter table voice.idempotency_keys enable row level security;
comment on table voice.idempotency_keys is
    'Which call a request made that carried an Idempotency-Key: the same again is about the same call. Kept as voice.retention_policies says.';
comment on column voice.idempotency_keys.caller is 'The name of the API key that asked; empty: RETROCARE_API_KEY, or nobody was asked for one.';

create function voice.record_call(
    patient_id uuid,
    call_log_id uuid,
    source public.call_source,
    recording_ref text,
    recording_channel public.recording_channel,
    occurred_at timestamptz,
    enrolment_id uuid,
    caller text default null,
    idempotency_key text default null,
    request_sha256 bytea default null
)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    call public.call_logs;
    repeated voice.idempotency_keys;
begin
    -- First, as voice.open_check will ask for it in the same transaction.
    lock table voice.encoders in row exclusive mode;
    perform voice.lock_patient(record_call.patient_id);
    if record_call.idempotency_key is not null then
        select idempotency_keys.* into repeated
        from voice.idempotency_keys
        where idempotency_keys.caller = coalesce(record_call.caller, '') and idempotency_keys.key = record_call.idempotency_key;
        if repeated.request_sha256 <> record_call.request_sha256 then
            raise exception using
                errcode = 'RV009',
                message = 'This Idempotency-Key was sent with another request',
                hint = 'Send another key with each request, and the same one only to repeat it.';
        elsif found then
            return repeated.call_log_id;
        end if;
    end if;
    if record_call.call_log_id is null then
        insert into public.call_logs (patient_id, source, recording_ref, recording_channel, "timestamp", enrolment_id)
        values (
            record_call.patient_id, record_call.source, record_call.recording_ref, record_call.recording_channel,
            coalesce(record_call.occurred_at, now()), record_call.enrolment_id
        )
        returning * into call;
    else
        update public.call_logs
        set recording_ref = case
                -- What has been judged needs no address any more.
                when call_logs.check_state is null or call_logs.check_state in ('queued', 'leased', 'dead', 'skipped')
                then coalesce(call_logs.recording_ref, record_call.recording_ref)
                else call_logs.recording_ref
            end,
            recording_channel = coalesce(call_logs.recording_channel, record_call.recording_channel)
        where call_logs.id = record_call.call_log_id and call_logs.patient_id = record_call.patient_id
        returning * into call;
    end if;
    if call.id is null and exists (select from public.call_logs where call_logs.id = record_call.call_log_id) then
        raise exception using
            errcode = 'RV006',
            message = format('Call %s is another patient''s', record_call.call_log_id),
            hint = 'patientId and callLogId must belong together.';
    elsif call.id is null then
        raise exception using
            errcode = 'RV003',
            message = format('No call %s', record_call.call_log_id),
            hint = 'Without callLogId a call is made for the recording.';
    end if;
    if record_call.idempotency_key is not null then
        insert into voice.idempotency_keys (caller, key, request_sha256, patient_id, call_log_id)
        values (coalesce(record_call.caller, ''), record_call.idempotency_key, record_call.request_sha256, record_call.patient_id, call.id);
    end if;
    return call.id;
exception when unique_violation then
    -- At the same moment, for another patient: the same request would have waited for the patient.
    raise exception using
        errcode = 'RV009',
        message = 'This Idempotency-Key was sent with another request',
        hint = 'Send another key with each request, and the same one only to repeat it.';
end
$$;
comment on function voice.record_call is
    'The id of the call that a recording belongs to: that of the request with this idempotency key, or the given one, whose recording it becomes where it had none, or a new one, so that every check has a call. Raises RV002, RV003, RV006, RV008, RV009. Called by the service before open_check, in one transaction.';
revoke execute on function voice.record_call from public;
grant execute on function voice.record_call to retrocare_service;

create function voice.upsert_call(
    patient_id uuid, provider text, provider_call_id text, recording_ref text, recording_channel public.recording_channel,
    occurred_at timestamptz, ended_reason text, summary text
)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    call public.call_logs;
begin
    if nullif(upsert_call.provider, '') is null or nullif(upsert_call.provider_call_id, '') is null then
        raise exception using
            errcode = 'PT400',
            message = 'A call that may be reported again needs its provider and the provider''s id',
            hint = 'Send provider and provider_call_id.';
    end if;
    perform voice.lock_patient(upsert_call.patient_id);
    if voice.is_erased(upsert_call.provider, upsert_call.provider_call_id, upsert_call.patient_id) then
        raise exception using
            errcode = 'PT409',
            message = format('Call %s of %s was erased', upsert_call.provider_call_id, upsert_call.provider),
            hint = 'What was erased is not taken in again.';
    end if;
    insert into public.call_logs as known (
        patient_id, source, provider, provider_call_id, recording_ref, recording_channel, "timestamp", ended_reason, summary
    )
    values (
        upsert_call.patient_id, 'provider', upsert_call.provider, upsert_call.provider_call_id, upsert_call.recording_ref,
        upsert_call.recording_channel, coalesce(upsert_call.occurred_at, now()), upsert_call.ended_reason,
        left(upsert_call.summary, 10000)
    )
    on conflict (provider, provider_call_id) do update
    set recording_ref = case
            when known.check_state is null then coalesce(known.recording_ref, excluded.recording_ref) else known.recording_ref
        end,
        recording_channel = coalesce(known.recording_channel, excluded.recording_channel),
        ended_reason = coalesce(known.ended_reason, excluded.ended_reason),
        summary = coalesce(known.summary, excluded.summary)
    where known.patient_id = excluded.patient_id
    returning * into call;
    if not found then
        raise exception using
            errcode = 'RV006',
            message = format('Call %s of %s is another patient''s', upsert_call.provider_call_id, upsert_call.provider),
            hint = 'A call stays with the patient for whom it was recorded.';
    end if;
    return call.id;
end
$$;
comment on function voice.upsert_call is
    'A provider''s call, once however often it is written: what was missing is added, what is known stays. Raises PT400, PT409, RV002, RV006, RV008. Definer: who may write the address of a recording need not read it, as `on conflict` would ask.';
revoke execute on function voice.upsert_call from public;
grant execute on function voice.upsert_call to service_role;

create function public.upsert_call(
    patient_id uuid, provider text, provider_call_id text, recording_ref text default null,
    recording_channel public.recording_channel default null, occurred_at timestamptz default null, ended_reason text default null,
    summary text default null
)
returns uuid
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.upsert_call(
        upsert_call.patient_id, upsert_call.provider, upsert_call.provider_call_id, upsert_call.recording_ref,
        upsert_call.recording_channel, upsert_call.occurred_at, upsert_call.ended_reason, upsert_call.summary);
end;
comment on function public.upsert_call is
    'For integrators (service_role): one call of a phone provider, with its recording where it is known; the same call again adds what was missing. Returns its id. Raises PT400, PT409, RV002, RV006, RV008.';
revoke execute on function public.upsert_call from public, anon, authenticated;
grant execute on function public.upsert_call to service_role;
