-- Calls: one row per call, upload or onboarding recording, the rules that all of them follow, and the functions that write them.

create type public.call_source as enum (
    'provider',     -- reported by the phone provider
    'api',          -- POST /api/anomaly-check without a call id
    'upload',       -- a file uploaded by the command line
    'onboarding',   -- recorded to enrol the patient; never scored
    'archive'       -- from before RetroCare Voice: backfilled, enrols a patient without a baseline, is never judged
);
comment on type public.call_source is 'Where a call came from.';

create type public.recording_channel as enum (
    'customer',     -- only the patient's side of the call
    'left',         -- stereo, the patient on the left
    'right',        -- stereo, the patient on the right
    'mono',         -- a single channel
    'mixed',        -- a single channel that contains the agent's voice too; never judged
    'stereo'        -- the patient is on one of two channels, found by the times when the patient spoke
);
comment on type public.recording_channel is 'Which part of the recording is the patient''s voice.';

create type public.check_state as enum (
    'queued',           -- waits for a worker           -> leased
    'leased',           -- a worker is processing it     -> any end, or queued again
    'scored',           -- end: compared with the baseline
    'enrolled',         -- end: became the baseline or a part of it
    'held',             -- end: the patient was sick and has no baseline
    'embedded',         -- end: voiceprint of a backfill stored, nothing judged
    'not_assessable',   -- end: the recording cannot be judged
    'skipped',          -- end: not to be judged
    'dead'              -- end: failed permanently; an operator may queue it again
);
comment on type public.check_state is 'The state of a check. The last seven are ends.';

create type public.check_reason as enum (
    'no_speech', 'too_little_speech', 'too_noisy', 'clipped', 'ambiguous_channel', 'undecodable', 'too_long',
    'sick_without_baseline', 'sick_at_enrolment',
    'no_consent', 'duplicate_recording', 'voicemail', 'not_answered', 'nobody_spoke', 'call_failed', 'ended_reason_unknown',
    'recording_unavailable', 'recording_expired', 'processing_failed', 'attempts_exhausted', 'upload_lost'
);
comment on type public.check_reason is
    'Why a check ended: reasons of the first line belong to not_assessable, of the second to held, of the third to skipped, of the fourth to dead.';

alter table public.call_logs
    add column if not exists patient_id uuid not null
        constraint a_call_is_with_a_patient references public.patients (id) on delete cascade,
    add column if not exists "timestamp" timestamptz not null default now(),
    add column if not exists summary text,
    add column if not exists source public.call_source not null default 'provider',
    add column if not exists provider text,
    add column if not exists provider_account text,
    add column if not exists provider_call_id text,
    add column if not exists ended_reason text,
    add column if not exists recording_source_url text,
    add column if not exists recording_ref text,
    add column if not exists recording_channel public.recording_channel,
    add column if not exists speech_intervals jsonb,
    add column if not exists enrolment_id uuid
        constraint an_onboarding_recording_is_of_an_enrolment check (source <> 'onboarding' or enrolment_id is not null),
    add column if not exists anomaly_score double precision,
    add column if not exists created_at timestamptz not null default now();
create unique index a_provider_account_reports_a_call_once on public.call_logs (provider_account, provider_call_id);
update public.call_logs
set provider_account = care.ensure_account(call_logs.provider)
where call_logs.provider <> '' and strpos(call_logs.provider, '/') = 0 and call_logs.provider_account is null;
alter table public.call_logs
    add constraint a_call_is_of_its_providers_account
        foreign key (provider_account, provider) references care.provider_accounts (id, provider);
create index if not exists call_logs_by_patient on public.call_logs (patient_id, "timestamp" desc);
create index if not exists call_logs_by_enrolment on public.call_logs (enrolment_id) where enrolment_id is not null;
-- By default, autovacuum would process a table of ten million rows only after two million of them have changed.
alter table public.call_logs set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
comment on table public.call_logs is 'One row per call, upload or onboarding recording.';
comment on column public.call_logs."timestamp" is 'When the call began.';
comment on column public.call_logs.provider_account is
    'The provider account that made the call, a row of care.provider_accounts. If it is not given, the provider''s default account is set.';
comment on column public.call_logs.recording_ref is
    'storage:bucket/path, or the URL of the recording. A check is queued when it changes from null to a value. A signed URL is set to null after use; it is kept while consent is missing or the check is dead.';
comment on column public.call_logs.recording_source_url is 'The provider''s short-lived URL of the recording; setting it queues nothing.';
comment on column public.call_logs.speech_intervals is
    'When the patient spoke: [[start, end], ...], in seconds from the start of the call.';
comment on column public.call_logs.enrolment_id is 'Shared by all recordings of one enrolment. Null for every other call.';
comment on column public.call_logs.anomaly_score is '0 = as usual, 1 = completely different. Null: not scored.';
grant insert, update, delete on public.call_logs to service_role;
alter table public.call_logs
    add column if not exists check_state public.check_state,
    add column if not exists check_reason public.check_reason;
alter table public.call_logs
    add column if not exists is_heard boolean not null
        generated always as (check_state in ('scored', 'enrolled', 'held') is true) stored,
    add column if not exists is_unheard boolean not null
        generated always as (check_reason in ('no_speech', 'too_little_speech', 'nobody_spoke') is true) stored;
comment on column public.call_logs.check_state is
    'Copied from the call''s newest check that is not a backfill. Null: no check was requested. A call that is not worth judging, or whose recording never arrived, gets an end without a check.';
comment on column public.call_logs.check_reason is 'Copied from the call''s newest check that is not a backfill.';
comment on column public.call_logs.is_heard is
    'The patient''s voice could be judged: the call was scored, enrolled, or held because the patient was sick.';
comment on column public.call_logs.is_unheard is
    'The call was answered, but there was too little speech. Recordings that cannot be decoded or whose channels cannot be told apart count as neither is_heard nor is_unheard; they are operator issues.';
create index call_logs_undecided on public.call_logs (ended_reason) where check_reason = 'ended_reason_unknown';
create index call_logs_unheard on public.call_logs (patient_id, "timestamp") where is_unheard;
create index call_logs_heard on public.call_logs (patient_id, "timestamp") where is_heard;
create index call_logs_with_recordings on public.call_logs (created_at) where recording_ref is not null;
create index call_logs_unusable on public.call_logs (patient_id, "timestamp")
    where check_state in ('held', 'not_assessable');
-- The URL of a recording grants access to it, so roles that may write the column may not read it.
grant select (
    id, patient_id, "timestamp", summary, source, provider, provider_account, provider_call_id, ended_reason, recording_channel,
    speech_intervals, enrolment_id, check_state, check_reason, is_heard, is_unheard, anomaly_score, created_at
) on public.call_logs to service_role;

create function care.are_intervals(intervals jsonb)
returns boolean
language sql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case
        when jsonb_typeof(intervals) <> 'array' or jsonb_array_length(intervals) > 10000 then false
        else not exists (
            select
            from jsonb_array_elements(intervals) as pair
            where case
                when jsonb_typeof(pair) <> 'array' or jsonb_array_length(pair) <> 2 then true
                else exists (
                    select
                    from jsonb_array_elements(pair) as moment
                    where case jsonb_typeof(moment) when 'number' then abs(moment::numeric) > 1e6 else true end
                )
            end
        )
    end
$$;
comment on function care.are_intervals is 'Returns whether the value is [[start, end], ...] with times in seconds that a call can have.';
revoke execute on function care.are_intervals from public;

create function care.forget_garbled_intervals()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not care.are_intervals(new.speech_intervals) then
        new.speech_intervals := null;
    end if;
    return new;
end
$$;
comment on function care.forget_garbled_intervals is
    'Trigger: sets speech intervals that are malformed to null, and keeps the call. Security definer: roles that write calls may not call functions in the private schemas.';
revoke execute on function care.forget_garbled_intervals from public;

create function care.name_the_account()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    new.provider_account := care.ensure_account(new.provider);
    return new;
end
$$;
comment on function care.name_the_account is
    'Trigger: sets the account of a provider''s call. Raises PT400. Security definer: roles that write calls may not read the private schemas.';
revoke execute on function care.name_the_account from public;

create function care.refuse_impossible_call()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Allow for clocks that are off by a time zone or a date.
    if (new."timestamp" between '1970-01-01' and now() + interval '2 days') is not true then
        raise exception using
            errcode = 'RV008',
            message = format('A call cannot have begun at %s', new."timestamp"),
            hint = 'A call must have begun in the past: give its time with the time zone.';
    end if;
    if tg_op = 'UPDATE' and new.patient_id <> old.patient_id and (
        exists (select from care.checks where checks.call_log_id = old.id)
        or exists (select from care.recordings where recordings.call_log_id = old.id)
        or exists (select from voice.embeddings where embeddings.call_log_id = old.id)
    ) then
        raise exception using
            errcode = 'RV006',
            message = format('Call %s already has data of another patient', old.id),
            hint = 'Delete it, and record it again for the right patient.';
    end if;
    return new;
end
$$;
comment on function care.refuse_impossible_call is
    'Trigger: refuses a call from the future, and a change of patient once the call has data. Raises RV006, RV008. Security definer: roles that write calls may not read the private schemas.';
revoke execute on function care.refuse_impossible_call from public;

create table care.idempotency_keys (
    organisation_id uuid not null
        constraint a_request_is_of_an_organisation references public.organisations (id) on delete cascade,
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
    constraint idempotency_keys_pkey primary key (organisation_id, caller, key)
);
create index idempotency_keys_by_age on care.idempotency_keys (created_at);
create index idempotency_keys_by_call on care.idempotency_keys (call_log_id);
create index idempotency_keys_by_patient on care.idempotency_keys (patient_id);
alter table care.idempotency_keys enable row level security;
comment on table care.idempotency_keys is
    'The call that each request with an Idempotency-Key created: a repeated request returns the same call. Rows are kept as long as care.retention_policies says.';
comment on column care.idempotency_keys.caller is
    'The name of the API key of the request. Empty: RETROCARE_API_KEY was used, or no key was required.';

create function care.record_call(
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
    patient public.patients;
    call public.call_logs;
    repeated care.idempotency_keys;
begin
    -- This lock comes first, because voice.open_check takes it in the same transaction.
    lock table care.models in row exclusive mode;
    patient := care.lock_patient(record_call.patient_id);
    if record_call.idempotency_key is not null then
        select idempotency_keys.* into repeated
        from care.idempotency_keys
        where idempotency_keys.organisation_id = patient.organisation_id
            and idempotency_keys.caller = coalesce(record_call.caller, '')
            and idempotency_keys.key = record_call.idempotency_key;
        if repeated.request_sha256 <> record_call.request_sha256 then
            raise exception using
                errcode = 'RV009',
                message = 'This Idempotency-Key was already sent with another request',
                hint = 'Use a new key for each request, and the same key only to repeat one.';
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
                -- A judged call needs its URL no longer.
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
            message = format('Call %s belongs to another patient', record_call.call_log_id),
            hint = 'patientId and callLogId must belong together.';
    elsif call.id is null then
        raise exception using
            errcode = 'RV003',
            message = format('No call %s', record_call.call_log_id),
            hint = 'Leave out callLogId to create a call for the recording.';
    end if;
    if record_call.idempotency_key is not null then
        insert into care.idempotency_keys (organisation_id, caller, key, request_sha256, patient_id, call_log_id)
        values (
            patient.organisation_id, coalesce(record_call.caller, ''), record_call.idempotency_key, record_call.request_sha256,
            patient.id, call.id
        );
    end if;
    return call.id;
exception when unique_violation then
    -- A request for another patient used the same key at the same time. A repetition of the same request would have waited for the
    -- lock on the patient.
    raise exception using
        errcode = 'RV009',
        message = 'This Idempotency-Key was already sent with another request',
        hint = 'Use a new key for each request, and the same key only to repeat one.';
end
$$;
comment on function care.record_call is
    'Returns the id of the call to which a recording belongs: that of an earlier request with this idempotency key, or the given call, which gets the recording if it has none, or a new call. Every check therefore has a call. Raises RV002, RV003, RV006, RV008, RV009. Called by the service before open_check, in the same transaction.';
revoke execute on function care.record_call from public;
grant execute on function care.record_call to retrocare_service;

create function care.upsert_call(
    patient_id uuid, provider text, provider_call_id text, recording_ref text default null,
    recording_channel public.recording_channel default null, occurred_at timestamptz default null, ended_reason text default null,
    summary text default null, account text default null
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
    account_id text;
begin
    if nullif(upsert_call.provider, '') is null or nullif(upsert_call.provider_call_id, '') is null then
        raise exception using
            errcode = 'PT400',
            message = 'A provider''s call needs the provider and the provider''s call id',
            hint = 'Send provider and provider_call_id.';
    end if;
    account_id := care.ensure_account(upsert_call.provider, upsert_call.account);
    perform care.lock_patient(upsert_call.patient_id);
    if care.is_erased(account_id, upsert_call.provider_call_id, upsert_call.patient_id) then
        raise exception using
            errcode = 'PT409',
            message = format('Call %s of %s was erased', upsert_call.provider_call_id, upsert_call.provider),
            hint = 'A call that was erased cannot be stored again.';
    end if;
    insert into public.call_logs as known (
        patient_id, source, provider, provider_account, provider_call_id, recording_ref, recording_channel, "timestamp", ended_reason,
        summary
    )
    values (
        upsert_call.patient_id, 'provider', upsert_call.provider, account_id, upsert_call.provider_call_id,
        upsert_call.recording_ref, upsert_call.recording_channel, coalesce(upsert_call.occurred_at, now()), upsert_call.ended_reason,
        left(upsert_call.summary, 10000)
    )
    on conflict (provider_account, provider_call_id) do update
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
            message = format('Call %s of %s belongs to another patient', upsert_call.provider_call_id, upsert_call.provider),
            hint = 'A call cannot be moved to another patient.';
    end if;
    return call.id;
end
$$;
comment on function care.upsert_call is
    'Writes a provider''s call and returns its id. If the call is written again, missing values are added and existing ones stay. Raises PT400, PT409, RV002, RV006, RV008. Security definer: `on conflict` would need SELECT on the URL of the recording, which callers may only write.';
revoke execute on function care.upsert_call from public;

create function care.read_recording(call_log_id uuid)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    call public.call_logs;
begin
    select call_logs.* into call
    from public.call_logs
    where call_logs.id = read_recording.call_log_id and call_logs.patient_id in (select care.patients_of_caller('family'));
    if care.storage_path(call.recording_ref) is null then
        raise exception using
            errcode = 'PT404',
            message = 'No such recording',
            hint = 'Recordings can be played by family, clinicians and primary caregivers, until they are deleted.';
    end if;
    perform care.note_audit('recording_read', 'call_logs ' || call.id, call.patient_id);
    return care.storage_path(call.recording_ref);
end
$$;
comment on function care.read_recording is
    'Returns where a call''s recording is in Storage (bucket/path), for a caregiver who may play it, and notes it in the audit log. Raises PT404. Security definer: callers may not read recording_ref.';
revoke execute on function care.read_recording from public;

create policy caregivers_read_their_patients_calls on public.call_logs
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));
