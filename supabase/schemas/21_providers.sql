-- Providers: who places the calls, and what their words for the end of a call mean. A voicemail greeting is never judged as
-- the patient.

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

create table care.providers (
    id text constraint providers_pkey primary key,
    recording_retention_days double precision not null default 14
        constraint recordings_are_kept_a_while check (recording_retention_days > 0 and recording_retention_days <= 3650),
    reconciliation_overlap_hours double precision not null default 1
        constraint reconciliations_overlap check (reconciliation_overlap_hours > 0 and reconciliation_overlap_hours <= 720),
    reconciled_until timestamptz
);
alter table care.providers enable row level security;
insert into care.providers (id) values ('vapi');
comment on table care.providers is 'The phone providers whose reports are taken.';
comment on column care.providers.recording_retention_days is 'How long the provider keeps a recording: so long it is tried to be copied.';
comment on column care.providers.reconciliation_overlap_hours is 'How far a sweep of the provider''s calls looks back before the last one: for clocks that differ, and updates that the provider lists late.';
comment on column care.providers.reconciled_until is 'Every call that was last updated before this moment was listed; null: none was.';

create table care.ended_reasons (
    pattern text constraint ended_reasons_pkey primary key,
    disposition public.call_disposition not null
        constraint a_row_decides check (disposition in ('judge', 'skip')),
    reason public.check_reason,
    needs_speech boolean not null default false
        constraint only_what_is_judged_needs_speech check (disposition = 'judge' or not needs_speech),
    constraint a_pattern_is_in_lower_case check (pattern = lower(pattern)),
    constraint a_skipped_call_has_a_reason check ((disposition = 'skip') = (reason is not null))
);
alter table care.ended_reasons enable row level security;
comment on table care.ended_reasons is
    'What the provider''s words for the end of a call mean. Of the patterns (as for LIKE, in lower case) that match, the very word decides, else one that skips, else the longest.';
comment on column care.ended_reasons.needs_speech is
    'Judged unless the report has everything that was said, and none of it by the patient: then it is nobody_spoke.';
insert into care.ended_reasons (pattern, disposition, reason) values
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
update care.ended_reasons set needs_speech = true where ended_reasons.pattern = 'silence-timed-out';

create function care.ended_reason_rule(ended_reason text)
returns care.ended_reasons
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select ended_reasons
    from care.ended_reasons
    where lower(ended_reason_rule.ended_reason) like ended_reasons.pattern
    order by
        ended_reasons.pattern = lower(ended_reason_rule.ended_reason) desc,
        ended_reasons.disposition = 'skip' desc,
        length(ended_reasons.pattern) desc,
        ended_reasons.pattern
    limit 1
$$;
comment on function care.ended_reason_rule is 'The row that decides about calls that ended so; null: nobody has decided.';
revoke execute on function care.ended_reason_rule from public;

create function care.skip_reason(call public.call_logs)
returns public.check_reason
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when decided.disposition = 'skip' then decided.reason
        when decided.needs_speech and call.speech_intervals = '[]' then 'nobody_spoke'
    end
    from care.ended_reason_rule(call.ended_reason) as decided
$$;
comment on function care.skip_reason is 'Why this call is not judged, as far as its end says; null: it is judged, or nobody has decided.';
revoke execute on function care.skip_reason from public;

create function care.reconcile_since(provider text, at timestamptz default now())
returns timestamptz
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select greatest(
        reconcile_since.at - make_interval(secs => 86400 * providers.recording_retention_days),
        -- Whoever's clock was wrong: never later than now.
        case when providers.reconciled_until is not null then least(providers.reconciled_until, reconcile_since.at) end - make_interval(secs => 3600 * providers.reconciliation_overlap_hours))
    from care.providers
    where providers.id = reconcile_since.provider
$$;
comment on function care.reconcile_since is
    'From which update on a provider''s calls must be listed: the last sweep, with an overlap, and never before its retention; null: no such provider. Definer: as care.receive_call_report.';
revoke execute on function care.reconcile_since from public;

create function care.finish_reconciliation(provider text, until timestamptz)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update care.providers
    set reconciled_until = greatest(providers.reconciled_until, finish_reconciliation.until)
    where providers.id = finish_reconciliation.provider
$$;
comment on function care.finish_reconciliation is 'Every call that was last updated before until was listed. Definer: as care.receive_call_report.';
revoke execute on function care.finish_reconciliation from public;
