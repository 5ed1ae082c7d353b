-- Jobs: what is due because time has passed. A job lists what is due and does it one by one. Each job is a transaction of its
-- own, and what presses comes before what tidies up; a row that fails is put back and becomes the operator's, and keeps neither the
-- others nor another job from being done. Safe to run by anybody at any moment: pg_cron where it exists, `retrocare start`, an operator.

create table voice.jobs (
    id text constraint jobs_pkey primary key,
    position integer not null constraint jobs_have_an_order unique,
    due_function text not null,
    step_function text not null,
    every_minutes integer not null
        constraint a_job_is_run_once_an_hour_at_least check (every_minutes between 1 and 60),
    maximum_rows integer not null default 500
        constraint a_job_is_done_in_batches check (maximum_rows between 1 and 10000),
    maximum_seconds double precision not null default 2
        constraint a_job_lets_others_have_their_turn check (maximum_seconds > 0 and maximum_seconds <= 60),
    is_audited boolean not null default false,
    last_succeeded_at timestamptz not null default now()
);
alter table voice.jobs enable row level security;
comment on table voice.jobs is 'What time makes due, the most urgent first: due_function lists it, step_function does one of it.';
comment on column voice.jobs.due_function is 'Of the schema voice: (at, maximum_rows) gives what is due now, each as text.';
comment on column voice.jobs.step_function is 'Of the schema voice: (one of these, at) does it; whether there was something to do. It never waits for a patient.';
comment on column voice.jobs.every_minutes is '1: whenever anybody looks, which pg_cron does every minute.';
comment on column voice.jobs.maximum_seconds is 'A run ends after as long, wherever it is: the next one goes on.';
comment on column voice.jobs.last_succeeded_at is 'When it came to its end the last time, whatever became of single rows.';
comment on column voice.jobs.is_audited is 'What it did is noted in the audit, by number.';
insert into voice.jobs (id, position, due_function, step_function, every_minutes) values
    ('advance_alerts', 10, 'alerts_to_advance', 'advance_alert', 1),
    ('cancel_deliveries', 20, 'deliveries_to_cancel', 'cancel_delivery', 1),
    ('note_silences', 30, 'silences_to_note', 'note_silence', 1),
    ('end_silences', 40, 'silences_to_end', 'end_silence', 1),
    ('expire_recordings', 50, 'recordings_to_expire', 'expire_recording', 1),
    ('redecide_calls', 60, 'calls_to_redecide', 'redecide_call', 1),
    ('match_calls', 70, 'calls_to_match', 'match_call', 1),
    ('reassign_checks', 80, 'checks_to_reassign', 'reassign_check', 1),
    ('delete_old_recordings', 110, 'old_recordings', 'delete_old_recording', 10),
    ('delete_old_voiceprints', 120, 'old_voiceprints', 'delete_old_voiceprint', 10),
    ('delete_old_baselines', 130, 'old_baselines', 'delete_old_baseline', 10),
    ('delete_old_unmatched_calls', 140, 'old_unmatched_calls', 'delete_old_unmatched_call', 10),
    ('delete_old_errors', 150, 'old_errors', 'delete_old_error', 10),
    ('delete_old_deliveries', 160, 'old_deliveries', 'delete_old_delivery', 10),
    ('delete_old_idempotency_keys', 170, 'old_idempotency_keys', 'delete_old_idempotency_key', 10);
update voice.jobs set is_audited = true where jobs.id like 'delete\_old\_%' and jobs.id <> 'delete_old_idempotency_keys';

create table voice.job_failures (
    job text not null
        constraint a_failure_is_of_a_job references voice.jobs (id) on delete cascade,
    subject text not null,
    code text not null,
    message text not null,
    attempts integer not null default 1,
    run_at timestamptz not null,
    first_failed_at timestamptz not null,
    last_failed_at timestamptz not null,
    constraint job_failures_pkey primary key (job, subject)
);
alter table voice.job_failures enable row level security;
comment on table voice.job_failures is 'What a job could not do, until it can: the operator''s.';
comment on column voice.job_failures.subject is 'What was due, as due_function gave it; empty: the list itself.';
comment on column voice.job_failures.code is 'The SQLSTATE.';
comment on column voice.job_failures.run_at is 'It is not tried again before this moment.';

create function voice.note_job_failure(job text, subject text, code text, message text, at timestamptz)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into voice.job_failures as failure (job, subject, code, message, run_at, first_failed_at, last_failed_at)
    values (
        note_job_failure.job, note_job_failure.subject, note_job_failure.code, left(note_job_failure.message, 500),
        note_job_failure.at + voice.retry_wait(1), note_job_failure.at, note_job_failure.at
    )
    on conflict (job, subject) do update
    set code = excluded.code,
        message = excluded.message,
        attempts = failure.attempts + 1,
        run_at = excluded.last_failed_at + voice.retry_wait(failure.attempts + 1),
        last_failed_at = excluded.last_failed_at
$$;
comment on function voice.note_job_failure is 'Keeps what went wrong; it is tried again after a wait that doubles. Called by voice.run_job.';
revoke execute on function voice.note_job_failure from public;

create function voice.run_job(job text, at timestamptz default now())
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
declare
    listed text[];
    due text[];
    most integer;
    item text;
    was_due boolean;
    done integer := 0;
    running voice.jobs;
    begun_at constant timestamptz := clock_timestamp();
begin
    select jobs.* into running from voice.jobs where jobs.id = run_job.job;
    if not found then
        raise exception using
            errcode = 'PT404',
            message = format('There is no job %s', run_job.job),
            hint = 'Jobs are rows of voice.jobs.';
    end if;
    if not pg_try_advisory_xact_lock(hashtext('voice.run_job'), hashtext(running.id)) then
        return null;
    end if;
    begin
        -- What waits for another try takes no place of what is due.
        most := running.maximum_rows + (select count(*) from voice.job_failures where job_failures.job = running.id);
        execute format('select array(select voice.%I($1, $2))', running.due_function) into listed using run_job.at, most;
        delete from voice.job_failures
        where job_failures.job = running.id
            and (job_failures.subject = '' or (cardinality(listed) < most and job_failures.subject <> all (listed)));
        due := array(
            select subject
            from unnest(listed) with ordinality as found (subject, turn)
            where not exists (
                select from voice.job_failures
                where job_failures.job = running.id and job_failures.subject = found.subject and job_failures.run_at > run_job.at
            )
            order by turn
            limit running.maximum_rows
        );
    exception when others then
        perform voice.note_job_failure(running.id, '', sqlstate, sqlerrm, run_job.at);
        return -1;
    end;
    foreach item in array due loop
        begin
            execute format('select voice.%I($1, $2)', running.step_function) into was_due using item, run_job.at;
            done := done + was_due::integer;
            delete from voice.job_failures where job_failures.job = running.id and job_failures.subject = item;
        exception
            when query_canceled then
                -- The statement's time is over, and it was this one that took it: the others have the next run.
                perform voice.note_job_failure(running.id, item, sqlstate, sqlerrm, run_job.at);
                exit;
            when others then
                perform voice.note_job_failure(running.id, item, sqlstate, sqlerrm, run_job.at);
        end;
        exit when clock_timestamp() > begun_at + make_interval(secs => running.maximum_seconds);
    end loop;
    if done > 0 and running.is_audited then
        perform voice.note_audit('retention_enforced', running.id, null, jsonb_build_object('rows', done));
    end if;
    update voice.jobs set last_succeeded_at = clock_timestamp() where jobs.id = running.id;
    return done;
end
$$;
comment on function voice.run_job is
    'Does what is due of one job, up to its maximum_rows and maximum_seconds; how much, -1 where it could not even be listed, and null while another run of it is under way. Raises PT404. Definer: whoever calls it touches no table. Called by pg_cron, `retrocare start` and public.run_job.';
revoke execute on function voice.run_job from public;
grant execute on function voice.run_job to retrocare_service, service_role;

create function voice.due_jobs(at timestamptz default now())
returns setof text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select jobs.id
    from voice.jobs
    where jobs.every_minutes = 1 or jobs.last_succeeded_at <= due_jobs.at - make_interval(mins => jobs.every_minutes)
    order by jobs.position
$$;
comment on function voice.due_jobs is
    'The jobs whose turn it is, in the order in which to run them. Definer: the service touches no table. Called by `retrocare start`.';
revoke execute on function voice.due_jobs from public;
grant execute on function voice.due_jobs to retrocare_service, service_role;

create function voice.due_work(at timestamptz default now())
returns table (recordings bigint, deliveries bigint, deletions bigint)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        select
            (select count(*) from voice.recordings
                where case recordings.state when 'queued' then recordings.run_at <= due_work.at
                    when 'leased' then recordings.leased_until < due_work.at end),
            voice.due_receipts(due_work.at) + (select count(*) from voice.deliveries
                where case deliveries.state when 'queued' then deliveries.run_at <= due_work.at
                    when 'leased' then deliveries.leased_until < due_work.at end),
            voice.due_deletions(due_work.at);
end
$$;
comment on function voice.due_work is 'What waits for an edge function now. Definer: the service touches no table. Called by `retrocare start`.';
revoke execute on function voice.due_work from public;
grant execute on function voice.due_work to retrocare_service;
