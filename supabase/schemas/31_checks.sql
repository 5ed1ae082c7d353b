-- Checks: the work list, and the record of its results. Each call with a recording gets one check per signal and model, and each
-- check ends exactly once. The worker that processes a check has its lease (next file).

create table care.checks (
    id bigint generated always as identity constraint checks_pkey primary key,
    call_log_id uuid not null
        constraint a_check_is_of_a_call references public.call_logs (id) on delete cascade,
    patient_id uuid not null
        constraint a_check_is_of_a_patient references public.patients (id) on delete cascade,
    signal text not null,
    model text not null,
    is_backfill boolean not null default false,
    state public.check_state not null default 'queued',
    reason public.check_reason,
    attempts integer not null default 0,
    lost_leases integer not null default 0,
    run_at timestamptz not null default now(),
    worker text,
    lease_token uuid,
    leased_until timestamptz,
    duplicate_of uuid
        constraint a_check_keeps_the_call_that_it_repeats references public.call_logs (id) on delete set null,
    quality jsonb not null default '{}',
    detail jsonb not null default '{}',
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    constraint a_check_is_for_a_model foreign key (signal, model) references care.models (signal, id),
    constraint a_leased_check_has_a_lease
        check (state <> 'leased' or (lease_token is not null and leased_until is not null)),
    constraint an_end_has_its_time check ((state in ('queued', 'leased')) = (finished_at is null)),
    constraint an_end_without_a_score_has_a_reason
        check ((state in ('held', 'not_assessable', 'skipped', 'dead')) = (reason is not null))
);
create unique index a_call_has_one_live_check_per_model
    on care.checks (call_log_id, model, is_backfill) where state in ('queued', 'leased');
create index checks_by_call on care.checks (call_log_id, model, id desc);
create index checks_by_patient on care.checks (patient_id);
create index live_checks_by_patient on care.checks (patient_id, model, is_backfill, run_at, id)
    where state in ('queued', 'leased');
create index checks_by_model on care.checks (signal, model);
create index checks_by_repeated_call on care.checks (duplicate_of) where duplicate_of is not null;
create index checks_to_claim on care.checks (model, is_backfill, run_at, id) where state = 'queued';
create index checks_by_lease on care.checks (model, is_backfill, run_at, id)
    where state = 'leased' or (state = 'queued' and lost_leases > 0);
alter table care.checks set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
alter table care.checks enable row level security;
comment on table care.checks is 'The checks of all signals: which wait, which worker has leased them, and how they ended.';
comment on column care.checks.is_backfill is
    'A backfill only stores: it judges nothing, raises no alert and does not change the call. It can be claimed only when no call waits to be judged.';
comment on column care.checks.attempts is 'Counted when the check is leased, so that crashes count.';
comment on column care.checks.lost_leases is 'How many leases were lost. Such a check is claimed alone.';
comment on column care.checks.run_at is 'The check is not run before this time.';
comment on column care.checks.lease_token is
    'Keeps workers with an earlier lease from writing. It is kept after the end, so that a repeated completion is recognised.';
comment on column care.checks.duplicate_of is 'The call whose recording has the same bytes. It was judged; this one is not.';
comment on column care.checks.quality is 'Measures of the recording''s quality, whether it was judged or not. Caregivers may read them.';
comment on column care.checks.detail is 'Further results that the signal stores: for voice, added_to_baseline and snr_db.';
grant select (
    call_log_id, patient_id, signal, model, state, reason, attempts, run_at, created_at, finished_at, id, lost_leases, leased_until,
    is_backfill
) on care.checks to service_role;
grant select (
    call_log_id, patient_id, signal, model, state, reason, attempts, run_at, created_at, finished_at, is_backfill
) on care.checks to authenticated;
grant select (id, quality, detail) on care.checks to authenticated, service_role;
create index dead_checks on care.checks (id) where state = 'dead';

create table care.check_errors (
    id bigint generated always as identity constraint check_errors_pkey primary key,
    check_id bigint not null
        constraint a_failed_check_has_its_errors references care.checks (id) on delete cascade,
    attempt integer not null,
    code text not null,
    message text not null,
    occurred_at timestamptz not null default now()
);
create index check_errors_by_check on care.check_errors (check_id);
alter table care.check_errors enable row level security;
comment on table care.check_errors is 'Every failure of every check. The service redacts the messages before it writes them.';
create index check_errors_by_age on care.check_errors (occurred_at);

create function care.has_consent(patient_id uuid, signal text)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select
        from care.signals
        join public.consents on consents.scope = signals.consent_scope
        where signals.id = has_consent.signal
            and consents.patient_id = has_consent.patient_id
            and consents.withdrawn_at is null
    )
$$;
comment on function care.has_consent is 'Returns whether the patient has given the consent that this signal needs.';
revoke execute on function care.has_consent from public;

create function care.has_any_consent(patient_id uuid)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from public.consents
        where consents.patient_id = has_any_consent.patient_id
            and consents.withdrawn_at is null
            and consents.scope in (select signals.consent_scope from care.signals)
    )
$$;
comment on function care.has_any_consent is
    'Returns whether the patient has consented to any signal. If so, recordings are copied and kept.';
revoke execute on function care.has_any_consent from public;

create function care.request_check(call public.call_logs, signal text, model text)
returns care.checks
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    -- This applies to every recording, however it was received: a voicemail greeting is not the patient.
    why_not constant public.check_reason :=
        case when care.has_consent(call.patient_id, request_check.signal) then care.skip_reason(call) else 'no_consent' end;
    is_archived boolean := call.source = 'archive';
    requested care.checks;
begin
    insert into care.checks (call_log_id, patient_id, signal, model, is_backfill, run_at, state, reason, finished_at)
    values (
        call.id, call.patient_id, request_check.signal, request_check.model, is_archived,
        case when is_archived then least(now(), call."timestamp") else now() end, -- archived calls in the order of their times
        case when why_not is null then 'queued' else 'skipped' end::public.check_state,
        why_not,
        case when why_not is not null then now() end
    )
    returning * into requested;
    return requested;
end
$$;
comment on function care.request_check is
    'Queues a check, or a backfill for an archived call. Without consent, or if the patient was not on the line, it adds a skipped check with the reason. Returns the check. Called by the trigger of a signal and by care.open_check.';
revoke execute on function care.request_check from public;

create function care.on_check_state()
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
            select from care.checks
            where checks.call_log_id = new.call_log_id
                and checks.signal = new.signal
                and checks.id > new.id
                and not checks.is_backfill
        );
    return null;
end
$$;
comment on function care.on_check_state is
    'Trigger: copies the state of a check to its call. A lease is not copied: it would double the writes to calls, for little information.';
revoke execute on function care.on_check_state from public;

create function care.check_list(states public.check_state[], patient_id uuid, maximum_rows integer)
returns table (
    id bigint,
    call_log_id uuid,
    patient_id uuid,
    signal text,
    model text,
    is_backfill boolean,
    state public.check_state,
    reason public.check_reason,
    attempts integer,
    run_at timestamptz,
    leased_until timestamptz,
    worker text,
    created_at timestamptz,
    finished_at timestamptz,
    error_code text,
    error_message text
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        checks.id,
        checks.call_log_id,
        checks.patient_id,
        checks.signal,
        checks.model,
        checks.is_backfill,
        checks.state,
        checks.reason,
        checks.attempts,
        checks.run_at,
        checks.leased_until,
        checks.worker,
        checks.created_at,
        checks.finished_at,
        last_error.code,
        last_error.message
    from care.checks
    left join lateral (
        select check_errors.code, check_errors.message
        from care.check_errors
        where check_errors.check_id = checks.id
        order by check_errors.id desc
        limit 1
    ) as last_error on true
    where (check_list.states is null or checks.state = any (check_list.states))
        and (check_list.patient_id is null or checks.patient_id = check_list.patient_id)
    order by checks.id desc
    limit check_list.maximum_rows
$$;
comment on function care.check_list is
    'Returns the checks with these states and of this patient (null: all), newest first, each with its last error. Called by `retrocare checks`.';
revoke execute on function care.check_list from public;
grant execute on function care.check_list to retrocare_service;

create function care.requeue_checks(check_ids bigint[], reasons public.check_reason[])
returns setof bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted bigint[] := array(
        select dead.id
        from care.checks as dead
        where dead.state = 'dead'
            and (requeue_checks.check_ids is null or dead.id = any (requeue_checks.check_ids))
            and (requeue_checks.reasons is null or dead.reason = any (requeue_checks.reasons))
    );
begin
    -- Patients are always locked in the same order, so that two callers cannot deadlock.
    perform from public.patients
    where patients.id in (select checks.patient_id from care.checks where checks.id = any (wanted))
    order by patients.id
    for no key update;
    return query
        update care.checks
        set state = 'queued',
            reason = null,
            attempts = 0,
            lost_leases = 0,
            run_at = clock_timestamp(),
            lease_token = null,
            leased_until = null,
            worker = null,
            finished_at = null
        from (
            select dead.id
            from care.checks as dead
            join public.call_logs on call_logs.id = dead.call_log_id
            where dead.id = any (wanted)
                and dead.state = 'dead'
                and call_logs.recording_ref is not null
                and not exists (
                    select from care.checks as newer
                    where newer.call_log_id = dead.call_log_id
                        and newer.signal = dead.signal
                        and newer.id > dead.id
                        and newer.is_backfill = dead.is_backfill
                        and (not dead.is_backfill or newer.model = dead.model)
                )
            for no key update of dead, call_logs skip locked
        ) as kept
        where checks.id = kept.id
        returning checks.id;
end
$$;
comment on function care.requeue_checks is
    'Queues dead checks again with all their attempts, and returns their ids: those with these ids (null: all) and these reasons (null: any). Checks whose upload is gone, or for which there is a newer check, stay dead. Errors are kept. Called by `retrocare checks --requeue`.';
revoke execute on function care.requeue_checks from public;
grant execute on function care.requeue_checks to retrocare_service;

create view public.check_status
with (security_invoker = true)
as
select
    checks.call_log_id,
    checks.patient_id,
    checks.signal,
    checks.model,
    checks.state,
    checks.reason,
    checks.attempts,
    checks.run_at,
    checks.created_at,
    checks.finished_at
from care.checks
where not checks.is_backfill;
comment on view public.check_status is
    'For caregivers and operators: the state of each call''s checks, one row per check of any signal, without backfills.';
comment on column public.check_status.run_at is 'A queued check is not run before this time.';
comment on column public.check_status.attempts is 'How often the check was leased.';
revoke all on public.check_status from anon, authenticated, service_role;
grant select on public.check_status to authenticated, service_role;

create view public.pipeline_health
with (security_invoker = true)
as
select
    checks.signal,
    checks.model,
    checks.is_backfill,
    checks.state,
    checks.reason,
    count(*) as check_count,
    min(checks.created_at) filter (where checks.state in ('queued', 'leased')) as oldest_waiting_since,
    count(*) filter (where checks.state = 'queued' and checks.run_at <= now()) as due_count,
    count(*) filter (where checks.state = 'leased' and checks.leased_until < now()) as lost_lease_count,
    max(checks.finished_at) as last_finished_at
from care.checks
group by checks.signal, checks.model, checks.is_backfill, checks.state, checks.reason;
comment on view public.pipeline_health is
    'For operators (service_role): how many checks are in each state and for which reason, since when the oldest has waited, and how many leases were lost.';
comment on column public.pipeline_health.is_backfill is 'Backfills delay no call: they run only when nothing else waits.';
comment on column public.pipeline_health.due_count is 'Queued checks that are due now, not waiting for a retry.';
comment on column public.pipeline_health.lost_lease_count is 'Leased checks whose lease has expired; the next claim takes them.';
revoke all on public.pipeline_health from anon, authenticated, service_role;
grant select on public.pipeline_health to service_role;

create function care.pipeline_health()
returns setof public.pipeline_health
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select * from public.pipeline_health
$$;
comment on function care.pipeline_health is
    'Returns public.pipeline_health. Security definer: the service may not read the table. Called by GET /metrics.';
revoke execute on function care.pipeline_health from public;
grant execute on function care.pipeline_health to retrocare_service;

create policy caregivers_read_their_patients_checks on care.checks
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));
