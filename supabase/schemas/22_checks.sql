-- Checks: the work list and the record. Each call with a recording gets one check per encoder, and each check exactly one
-- end. Who works on a check holds its lease; the lease's token fences off whoever held it before.

create type public.check_state as enum (
    'queued',           -- waits for a worker           -> leased
    'leased',           -- a worker holds it            -> any end, or queued again
    'scored',           -- compared with the baseline: end
    'enrolled',         -- became the baseline, or a part of it: end
    'held',             -- the patient was sick and has no baseline: end
    'embedded',         -- of a backfill: the voiceprint is stored, nothing is judged: end
    'not_assessable',   -- the recording cannot be judged: end
    'skipped',          -- not to be judged: end
    'dead'              -- failed for good: end; an operator may queue it again
);
comment on type public.check_state is 'Where a check stands; the last seven are ends.';

create type public.check_reason as enum (
    'no_speech', 'too_little_speech', 'too_noisy', 'clipped', 'ambiguous_channel', 'undecodable', 'too_long',
    'sick_without_baseline', 'sick_at_enrolment',
    'no_consent', 'duplicate_recording', 'voicemail', 'not_answered', 'nobody_spoke', 'call_failed', 'ended_reason_unknown',
    'recording_unavailable', 'recording_expired', 'processing_failed', 'attempts_exhausted', 'upload_lost'
);
comment on type public.check_reason is
    'Why a check ended so: the first line goes with not_assessable, the second with held, the third with skipped, the fourth with dead.';

alter table public.call_logs
    add column if not exists check_state public.check_state,
    add column if not exists check_reason public.check_reason;
comment on column public.call_logs.check_state is
    'Copied from the call''s newest check that is no backfill; null: none was asked for. A call that is not worth judging, or whose recording never came, has an end without a check.';
comment on column public.call_logs.check_reason is 'Copied from the call''s newest check.';

create table voice.checks (
    id bigint generated always as identity constraint checks_pkey primary key,
    call_log_id uuid not null
        constraint a_check_is_of_a_call references public.call_logs (id) on delete cascade,
    patient_id uuid not null
        constraint a_check_is_of_a_patient references public.patients (id) on delete cascade,
    encoder text not null
        constraint a_check_is_for_an_encoder references voice.encoders (id),
    is_backfill boolean not null default false,
    state public.check_state not null default 'queued',
    reason public.check_reason,
    attempts integer not null default 0,
    lost_leases integer not null default 0,
    run_at timestamptz not null default now(),
    worker text,
    lease_token uuid,
    leased_until timestamptz,
    log_id uuid
        constraint a_check_keeps_its_log references public.voice_anomaly_logs (id) on delete set null,
    duplicate_of uuid
        constraint a_check_keeps_the_call_that_it_repeats references public.call_logs (id) on delete set null,
    added_to_baseline boolean not null default false,
    snr_db double precision,
    quality jsonb not null default '{}',
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    constraint a_leased_check_has_a_lease
        check (state <> 'leased' or (lease_token is not null and leased_until is not null)),
    constraint an_end_has_its_time check ((state in ('queued', 'leased')) = (finished_at is null)),
    constraint an_end_without_a_score_has_a_reason
        check ((state in ('held', 'not_assessable', 'skipped', 'dead')) = (reason is not null))
);
create unique index a_call_has_one_live_check_per_encoder
    on voice.checks (call_log_id, encoder, is_backfill) where state in ('queued', 'leased');
create index checks_by_call on voice.checks (call_log_id, encoder, id desc);
create index checks_by_patient on voice.checks (patient_id);
create index live_checks_by_patient on voice.checks (patient_id, encoder, is_backfill, run_at, id)
    where state in ('queued', 'leased');
create index checks_by_encoder on voice.checks (encoder);
create index checks_by_log on voice.checks (log_id);
create index checks_by_repeated_call on voice.checks (duplicate_of) where duplicate_of is not null;
create index checks_to_claim on voice.checks (encoder, is_backfill, run_at, id) where state = 'queued';
create index checks_by_lease on voice.checks (encoder, is_backfill, run_at, id)
    where state = 'leased' or (state = 'queued' and lost_leases > 0);
alter table voice.checks set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
alter table voice.checks enable row level security;
comment on table voice.checks is 'The work list and the record: what waits, who works on it, how it ended.';
comment on column voice.checks.is_backfill is
    'Only the voiceprint is wanted, and at most a baseline: no score, no alert, nothing on the call. Handed out when no call waits to be judged.';
comment on column voice.checks.attempts is 'Counted when the check is handed out, so that a crash counts.';
comment on column voice.checks.lost_leases is 'How often its holder vanished: such a check is handed out alone.';
comment on column voice.checks.run_at is 'Not before this moment.';
comment on column voice.checks.lease_token is 'Fences off earlier holders; kept after the end, so that a repeated completion is recognised.';
comment on column voice.checks.duplicate_of is 'The call whose recording has the same bytes: it was judged, this one is not.';
comment on column voice.checks.quality is 'What was measured, judged or not.';

create table voice.check_errors (
    id bigint generated always as identity constraint check_errors_pkey primary key,
    check_id bigint not null
        constraint a_failed_check_has_its_errors references voice.checks (id) on delete cascade,
    attempt integer not null,
    code text not null,
    message text not null,
    occurred_at timestamptz not null default now()
);
create index check_errors_by_check on voice.check_errors (check_id);
alter table voice.check_errors enable row level security;
comment on table voice.check_errors is 'Every failure of every check; messages are redacted by the service before they come here.';

create function voice.request_check(call public.call_logs, encoder text)
returns voice.checks
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    has_consent boolean := (select voice_consent_at is not null from public.patients where id = call.patient_id);
    -- However the recording came here: a voicemail greeting is not the patient.
    why_not constant public.check_reason := case when has_consent then voice.skip_reason(call) else 'no_consent' end;
    is_archived boolean := call.source = 'archive';
    requested voice.checks;
begin
    insert into voice.checks (call_log_id, patient_id, encoder, is_backfill, run_at, state, reason, finished_at)
    values (
        call.id, call.patient_id, request_check.encoder, is_archived,
        case when is_archived then least(now(), call."timestamp") else now() end, -- an archive in its calls' order
        case when why_not is null then 'queued' else 'skipped' end::public.check_state,
        why_not,
        case when why_not is not null then now() end
    )
    returning * into requested;
    return requested;
end
$$;
comment on function voice.request_check is
    'Queues a check, of an archived call as a backfill, or records why there is none to be: no consent, or the patient was not on the line. Called by the trigger and voice.open_check.';
revoke execute on function voice.request_check from public;

create function voice.on_recording()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    active text := voice.active_encoder();
begin
    if active is null then
        -- An encoder may be registering now, which does not see this call yet: wait for it, or let it wait.
        lock table voice.encoders in row exclusive mode;
        active := voice.active_encoder();
    end if;
    -- Without any encoder yet, voice.register_encoder queues the call later. What an earlier encoder judged stays so.
    if active is not null and not exists (
        select from voice.checks
        where checks.call_log_id = new.id and checks.is_backfill = (new.source = 'archive')
            and checks.state <> 'dead' and checks.reason is distinct from 'no_consent'
    ) then
        perform voice.request_check(new, active);
    end if;
    return null;
end
$$;
comment on function voice.on_recording is
    'Trigger: a call''s recording is here, its check is queued. Definer: whoever writes call_logs may not write voice.';
revoke execute on function voice.on_recording from public;

create function voice.on_check_state()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.call_logs
    set check_state = new.state,
        check_reason = new.reason
    where call_logs.id = new.call_log_id
        and not exists (
            select from voice.checks
            where checks.call_log_id = new.call_log_id and checks.id > new.id and not checks.is_backfill
        );
    return null;
end
$$;
comment on function voice.on_check_state is
    'Trigger: copies a check''s state to its call. A lease is not copied: it would write the call twice as often, and says little.';
revoke execute on function voice.on_check_state from public;

create function voice.register_encoder(encoder text, dimension integer, window_seconds double precision)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    registered voice.encoders;
begin
    lock table voice.encoders in share row exclusive mode;
    insert into voice.encoders (id, dimension, window_seconds, is_active)
    values (
        register_encoder.encoder, register_encoder.dimension, register_encoder.window_seconds,
        not exists (select from voice.encoders where is_active)
    )
    on conflict (id) do nothing
    returning * into registered;

    if registered.is_active then
        insert into voice.policies (encoder) values (registered.id);
        perform voice.request_check(call_logs, registered.id)
        from public.call_logs
        where call_logs.recording_ref is not null and call_logs.check_state is null;
    elsif registered.id is not null then
        insert into voice.policies (encoder) values (registered.id);
    end if;

    select encoders.* into registered from voice.encoders where encoders.id = register_encoder.encoder;
    if (registered.dimension, registered.window_seconds)
        <> (register_encoder.dimension::smallint, register_encoder.window_seconds)
    then
        raise exception using
            errcode = 'RV004',
            message = format('The encoder %s is registered with %s dimensions and windows of %s s',
                registered.id, registered.dimension, registered.window_seconds),
            hint = 'Another dimension or window is another encoder: give it another id.';
    end if;
    return registered.is_active;
end
$$;
comment on function voice.register_encoder is
    'Makes an encoder known, with the default policy; the first one becomes active and gets the calls that waited for it. Returns whether it is active. Raises RV004 where the id stands for something else. Called by the service at start.';
revoke execute on function voice.register_encoder from public;
grant execute on function voice.register_encoder to retrocare_service;
