-- Ended reasons: what a provider's reasons for the end of a call mean. A voicemail greeting must never be judged as the patient.

create type public.call_disposition as enum (
    'judge',        -- the patient was on the line
    'skip',         -- voicemail, nobody answered, or an error; the recording is not even copied
    'unknown',      -- no row matches the reason: the recording is kept until the operator adds one
    'unmatched',    -- no known patient matches: the report is kept until the patient's id or number is known
    'erased'        -- the call or the person was erased: nothing of the report is kept
);
comment on type public.call_disposition is 'What happens to a reported call.';

create table care.ended_reasons (
    provider text not null default 'vapi'
        constraint an_ended_reason_is_a_providers references care.providers (id),
    pattern text not null,
    disposition public.call_disposition not null
        constraint a_row_decides check (disposition in ('judge', 'skip')),
    reason public.check_reason,
    needs_speech boolean not null default false
        constraint only_what_is_judged_needs_speech check (disposition = 'judge' or not needs_speech),
    constraint ended_reasons_pkey primary key (provider, pattern),
    constraint a_pattern_is_in_lower_case check (pattern = lower(pattern)),
    constraint a_pattern_ends_no_escape check (pattern !~ '(^|[^\\])(\\\\)*\\$'),
    constraint a_skipped_call_has_a_reason check ((disposition = 'skip') = (reason is not null))
);
alter table care.ended_reasons enable row level security;
comment on table care.ended_reasons is
    'What providers'' ended reasons mean. Patterns are those of LIKE, in lower case. Of the patterns that match, those of the call''s own provider decide; if it has none, those of others do. Among them, an exact match wins, then a pattern that skips, then the longest.';
comment on column care.ended_reasons.needs_speech is
    'If true, the call is judged unless the report is a complete transcript in which the patient says nothing. Then it is skipped as nobody_spoke.';
insert into care.ended_reasons (pattern, disposition, reason) values
    ('customer-ended-call', 'judge', null),
    ('customer-ended-call-%', 'judge', null),
    ('assistant-ended-call', 'judge', null),
    ('assistant-ended-call-%', 'judge', null),
    ('assistant-said-end-call-phrase', 'judge', null),
    ('assistant-said-message-with-end-call-enabled', 'judge', null),
    ('assistant-forwarded-call', 'judge', null),
    ('exceeded-max-duration', 'judge', null),
    ('silence-timed-out', 'judge', null), -- a patient who falls silent in the middle of a call is exactly whom to judge
    ('call.in-progress.twilio-completed-call', 'judge', null),
    ('call.in-progress.sip-completed-call', 'judge', null),
    ('vonage-completed', 'judge', null),
    -- The connection broke, or a hook ended the call: the patient had been on the line.
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

create function care.ended_reason_rule(provider text, ended_reason text)
returns care.ended_reasons
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select ended_reasons
    from care.ended_reasons
    where lower(ended_reason_rule.ended_reason) like ended_reasons.pattern
    order by
        ended_reasons.provider is not distinct from ended_reason_rule.provider desc,
        ended_reasons.pattern = lower(ended_reason_rule.ended_reason) desc,
        ended_reasons.disposition = 'skip' desc,
        length(ended_reasons.pattern) desc,
        ended_reasons.pattern,
        ended_reasons.provider
    limit 1
$$;
comment on function care.ended_reason_rule is
    'Returns the row that decides about this provider''s calls with that ended reason. Null: no row matches.';
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
    from care.ended_reason_rule(call.provider, call.ended_reason) as decided
$$;
comment on function care.skip_reason is
    'Returns why this call is not judged, as far as its ended reason tells. Null: it is judged, or no row matches.';
revoke execute on function care.skip_reason from public;
