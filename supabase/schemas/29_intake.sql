-- Intake: what the phone provider reports becomes a call, once, however often and in whatever order it is reported. Whether a
-- call is worth judging is decided by rows: a voicemail greeting must never be judged as the patient.

-- Where recordings are kept: private, up to 50 MiB each, and audio alone. Storage is on Supabase; elsewhere there is no bucket to make.
do $$
begin
    if to_regclass('storage.buckets') is not null then
        insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
        values (
            'voice-recordings', 'voice-recordings', false, 50 * 1024 * 1024,
            array['audio/wav', 'audio/mpeg', 'audio/ogg', 'audio/flac', 'audio/mp4', 'audio/webm']
        )
        on conflict (id) do nothing;
    end if;
end
$$;

create type public.call_disposition as enum (
    'judge',        -- the patient was on the line
    'skip',         -- voicemail, nobody, an error: its recording is not even copied
    'unknown',      -- a reason that no row knows: its recording is kept, and waits for the operator's row
    'unmatched',    -- of no patient that is known: the report is kept, and waits for the patient's id or number
    'erased'        -- the call, or the person, was erased: nothing of the report is kept
);
comment on type public.call_disposition is 'What becomes of a reported call.';

create table voice.providers (
    id text constraint providers_pkey primary key,
    recording_retention_days double precision not null default 14
        constraint recordings_are_kept_a_while check (recording_retention_days > 0 and recording_retention_days <= 3650),
    sweep_overlap_hours double precision not null default 1
        constraint sweeps_overlap check (sweep_overlap_hours > 0 and sweep_overlap_hours <= 720),
    swept_until timestamptz
);
alter table voice.providers enable row level security;
insert into voice.providers (id) values ('vapi');
comment on table voice.providers is 'The phone providers whose reports are taken.';
comment on column voice.providers.recording_retention_days is 'How long the provider keeps a recording: so long it is tried to be copied.';
comment on column voice.providers.sweep_overlap_hours is 'How far a sweep of the provider''s calls looks back before the last one: for clocks that differ, and updates that the provider lists late.';
comment on column voice.providers.swept_until is 'Every call that was last updated before this moment was listed; null: none was.';

create table voice.ended_reasons (
    pattern text constraint ended_reasons_pkey primary key,
    disposition public.call_disposition not null
        constraint a_row_decides check (disposition in ('judge', 'skip')),
    reason public.check_reason,
    needs_speech boolean not null default false
        constraint only_what_is_judged_needs_speech check (disposition = 'judge' or not needs_speech),
    constraint a_pattern_is_in_lower_case check (pattern = lower(pattern)),
    constraint a_skipped_call_has_a_reason check ((disposition = 'skip') = (reason is not null))
);
alter table voice.ended_reasons enable row level security;
comment on table voice.ended_reasons is
    'What the provider''s words for the end of a call mean. Of the patterns (as for LIKE, in lower case) that match, the very word decides, else one that skips, else the longest.';
comment on column voice.ended_reasons.needs_speech is
    'Judged unless the report has everything that was said, and none of it by the patient: then it is nobody_spoke.';
insert into voice.ended_reasons (pattern, disposition, reason) values
    ('customer-ended-call', 'judge', null),
    ('customer-ended-call-%', 'judge', null),
    ('assistant-ended-call', 'judge', null),
    ('assistant-ended-call-%', 'judge', null),
    ('assistant-said-end-call-phrase', 'judge', null),
    ('assistant-said-message-with-end-call-enabled', 'judge', null),
    ('assistant-forwarded-call', 'judge', null),
    ('exceeded-max-duration', 'judge', null),
    ('silence-timed-out', 'judge', null), -- a patient who falls silent in the middle of a call is the one to judge
    ('call.in-progress.twilio-completed-call', 'judge', null),
    ('call.in-progress.sip-completed-call', 'judge', null),
    ('vonage-completed', 'judge', null),
    -- The line broke, or a hook spoke or transferred at the end: the patient had been on the line.
    ('vonage-disconnected', 'judge', null),
    ('call.ending.hook-executed-say', 'judge', null),
    ('call.ending.hook-executed-transfer', 'judge', null),
    ('%voicemail%', 'skip', 'voicemail'),
    ('%answering-machine%', 'skip', 'voicemail'),
    ('%did-not-answer%', 'skip', 'not_answered'),
    ('%no-answer%', 'skip', 'not_answered'),
    ('%busy%', 'skip', 'not_answered'),
    ('%misdialed%', 'skip', 'not_answered'),
    ('customer-did-not-give-microphone-permission', 'skip', 'not_answered'),
    ('manually-canceled', 'skip', 'not_answered'),
    ('vonage-rejected', 'skip', 'not_answered'),
    ('call-deleted', 'skip', 'not_answered'),
    ('scheduled-call-deleted', 'skip', 'not_answered'),
    ('call.ringing.hook-executed-say', 'skip', 'not_answered'),
    ('call.ringing.hook-executed-transfer', 'skip', 'not_answered'),
    ('call.ringing.sip-inbound-caller-hungup-before-call-connect', 'skip', 'not_answered'),
    ('assistant-join-timed-out', 'skip', 'call_failed'),
    ('%error%', 'skip', 'call_failed'),
    ('%failed%', 'skip', 'call_failed'),
    ('%fault%', 'skip', 'call_failed'),
    ('%not-found%', 'skip', 'call_failed'),
    ('%not-valid%', 'skip', 'call_failed'),
    ('assistant-request-%', 'skip', 'call_failed'),
    ('pipeline-%', 'skip', 'call_failed'),
    ('phone-call-provider-%', 'skip', 'call_failed'),
    ('worker-shutdown', 'skip', 'call_failed');

update voice.ended_reasons set needs_speech = true where ended_reasons.pattern = 'silence-timed-out';

create function voice.ended_as(ended_reason text)
returns voice.ended_reasons
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select ended_reasons
    from voice.ended_reasons
    where lower(ended_as.ended_reason) like ended_reasons.pattern
    order by
        ended_reasons.pattern = lower(ended_as.ended_reason) desc,
        ended_reasons.disposition = 'skip' desc,
        length(ended_reasons.pattern) desc,
        ended_reasons.pattern
    limit 1
$$;
comment on function voice.ended_as is 'The row that decides about calls that ended so; null: nobody has decided.';
revoke execute on function voice.ended_as from public;

create function voice.skip_reason(call public.call_logs)
returns public.check_reason
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when decided.disposition = 'skip' then decided.reason
        when decided.needs_speech and call.speech_intervals = '[]' then 'nobody_spoke'
    end
    from voice.ended_as(call.ended_reason) as decided
$$;
comment on function voice.skip_reason is 'Why this call is not judged, as far as its end says; null: it is judged, or nobody has decided.';
revoke execute on function voice.skip_reason from public;

create table voice.unmatched_calls (
    provider text not null
        constraint an_unmatched_call_has_a_provider references voice.providers (id),
    provider_call_id text not null,
    phone text,
    report jsonb not null,
    received_at timestamptz not null,
    constraint unmatched_calls_pkey primary key (provider, provider_call_id)
);
alter table voice.unmatched_calls enable row level security;
comment on table voice.unmatched_calls is
    'Reports of calls whose patient is not known, as they came: once the patient has that id or number, a sweep takes them in.';

create function voice.reported_patient(patient_id uuid, phone text)
returns uuid
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case when count(*) = 1 then min(patients.id::text)::uuid end
    from public.patients
    where case
        when reported_patient.patient_id is not null then patients.id = reported_patient.patient_id
        else patients.phone = reported_patient.phone
    end
$$;
comment on function voice.reported_patient is
    'The patient whom a report means: by id where it names one, else by number; null where there is none, or a number is two patients''.';
revoke execute on function voice.reported_patient from public;

create function voice.are_intervals(intervals jsonb)
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
comment on function voice.are_intervals is 'Whether this is [[start, end], ...], in seconds that a call may have.';
revoke execute on function voice.are_intervals from public;

create function voice.forget_garbled_intervals()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not voice.are_intervals(new.speech_intervals) then
        new.speech_intervals := null;
    end if;
    return new;
end
$$;
comment on function voice.forget_garbled_intervals is
    'Trigger: times of speech that cannot be read say nothing; the call is kept. Definer: whoever writes calls may not call into voice.';
revoke execute on function voice.forget_garbled_intervals from public;

create type public.received_call as (
    call_log_id uuid,
    disposition public.call_disposition,
    is_new boolean
);
comment on type public.received_call is 'What became of a report; without call_log_id it waits for its patient.';
