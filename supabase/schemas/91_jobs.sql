-- Jobs: work that becomes due as time passes. A job lists what is due and processes it row by row. Each run of a job is a transaction
-- of its own, and urgent jobs come before housekeeping. A row that fails is retried later and becomes an operator issue; it blocks
-- neither other rows nor other jobs. Jobs may be run by several callers at any time: pg_cron where it exists, `retrocare start`, an
-- operator.

create table care.jobs (
    id text constraint jobs_pkey primary key,
    position integer not null constraint jobs_have_an_order unique,
    due_function text not null
        constraint what_is_due_is_listed_by_a_function check (due_function ~ '^[a-z_]+[.][a-z0-9_]+$'),
    step_function text not null
        constraint what_is_due_is_done_by_a_function check (step_function ~ '^[a-z_]+[.][a-z0-9_]+$'),
    every_minutes integer not null
        constraint a_job_is_run_once_an_hour_at_least check (every_minutes between 1 and 60),
    maximum_rows integer not null default 500
        constraint a_job_is_done_in_batches check (maximum_rows between 1 and 10000),
    maximum_seconds double precision not null default 2
        constraint a_job_lets_others_have_their_turn check (maximum_seconds > 0 and maximum_seconds <= 60),
    is_audited boolean not null default false,
    last_succeeded_at timestamptz not null default now()
);
alter table care.jobs enable row level security;
comment on table care.jobs is
    'Work that becomes due by time, most urgent first. due_function lists what is due, step_function processes one item.';
comment on column care.jobs.due_function is
    'Schema-qualified name. The function takes (at, maximum_rows) and returns what is due, each item as text. It is not stored as regproc, because pg_upgrade refuses tables with regproc columns.';
comment on column care.jobs.step_function is
    'Schema-qualified name. The function takes (item, at), processes the item, and returns whether there was something to do. It never waits for the lock on a patient.';
comment on column care.jobs.every_minutes is 'How often the job is due. 1: on every run of due jobs, once a minute with pg_cron.';
comment on column care.jobs.maximum_seconds is 'A run ends after this time; the next run continues.';
comment on column care.jobs.last_succeeded_at is 'When the job last completed a run, whether or not single rows failed.';
comment on column care.jobs.is_audited is 'Whether the number of processed rows is noted in the audit log.';
insert into care.jobs (id, position, due_function, step_function, every_minutes) values
    ('advance_alerts', 10, 'care.alerts_to_advance', 'care.advance_alert', 1),
    ('cancel_deliveries', 20, 'care.deliveries_to_cancel', 'care.cancel_delivery', 1),
    ('note_silences', 30, 'care.silences_to_note', 'care.note_silence', 1),
    ('end_silences', 40, 'care.silences_to_end', 'care.end_silence', 1),
    ('expire_recordings', 50, 'care.recordings_to_expire', 'care.expire_recording', 1),
    ('redecide_calls', 60, 'care.calls_to_redecide', 'care.redecide_call', 1),
    ('match_calls', 70, 'care.calls_to_match', 'care.match_call', 1),
    ('reassign_checks', 80, 'care.checks_to_reassign', 'care.reassign_check', 1),
    ('delete_old_recordings', 110, 'care.old_recordings', 'care.delete_old_recording', 10),
    ('delete_old_voiceprints', 120, 'voice.old_voiceprints', 'voice.delete_old_voiceprint', 10),
    ('delete_old_baselines', 130, 'voice.old_baselines', 'voice.delete_old_baseline', 10),
    ('delete_old_unmatched_calls', 140, 'care.old_unmatched_calls', 'care.delete_old_unmatched_call', 10),
    ('delete_old_errors', 150, 'care.old_errors', 'care.delete_old_error', 10),
    ('delete_old_deliveries', 160, 'care.old_deliveries', 'care.delete_old_delivery', 10),
    ('delete_old_idempotency_keys', 170, 'care.old_idempotency_keys', 'care.delete_old_idempotency_key', 10);
update care.jobs set is_audited = true where jobs.id like 'delete\_old\_%' and jobs.id <> 'delete_old_idempotency_keys';

create table care.job_failures (
    job text not null
        constraint a_failure_is_of_a_job references care.jobs (id) on delete cascade,
    subject text not null,
    code text not null,
    message text not null,
    attempts integer not null default 1,
    run_at timestamptz not null,
    first_failed_at timestamptz not null,
    last_failed_at timestamptz not null,
    constraint job_failures_pkey primary key (job, subject)
);
alter table care.job_failures enable row level security;
comment on table care.job_failures is 'What a job could not process, until it succeeds. These are operator issues.';
comment on column care.job_failures.subject is 'The item as due_function returned it. Empty: the list itself failed.';
comment on column care.job_failures.code is 'The SQLSTATE.';
comment on column care.job_failures.run_at is 'It is not retried before this time.';

create function care.note_job_failure(job text, subject text, code text, message text, at timestamptz)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into care.job_failures as failure (job, subject, code, message, run_at, first_failed_at, last_failed_at)
    values (
        note_job_failure.job, note_job_failure.subject, note_job_failure.code, left(note_job_failure.message, 500),
        note_job_failure.at + care.retry_wait(1), note_job_failure.at, note_job_failure.at
    )
    on conflict (job, subject) do update
    set code = excluded.code,
        message = excluded.message,
        attempts = failure.attempts + 1,
        run_at = excluded.last_failed_at + care.retry_wait(failure.attempts + 1),
        last_failed_at = excluded.last_failed_at
$$;
comment on function care.note_job_failure is
    'Notes the failure of a job''s item, which is retried with exponential backoff. Called by care.run_job.';
revoke execute on function care.note_job_failure from public;

create function care.run_job(job text, at timestamptz default now())
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
    running care.jobs;
    begun_at constant timestamptz := clock_timestamp();
begin
    select jobs.* into running from care.jobs where jobs.id = run_job.job;
    if not found then
        raise exception using
            errcode = 'PT404',
            message = format('There is no job %s', run_job.job),
            hint = 'Jobs are rows of care.jobs.';
    end if;
    if not pg_try_advisory_xact_lock(hashtext('care.run_job'), hashtext(running.id)) then
        return null;
    end if;
    begin
        -- Items that wait for a retry must not displace others that are due.
        most := running.maximum_rows + (select count(*) from care.job_failures where job_failures.job = running.id);
        execute format('select array(select %s($1, $2))', running.due_function) into listed using run_job.at, most;
        delete from care.job_failures
        where job_failures.job = running.id
            and (job_failures.subject = '' or (cardinality(listed) < most and job_failures.subject <> all (listed)));
        due := array(
            select subject
            from unnest(listed) with ordinality as found (subject, turn)
            where not exists (
                select from care.job_failures
                where job_failures.job = running.id and job_failures.subject = found.subject and job_failures.run_at > run_job.at
            )
            order by turn
            limit running.maximum_rows
        );
    exception when others then
        perform care.note_job_failure(running.id, '', sqlstate, sqlerrm, run_job.at);
        return -1;
    end;
    foreach item in array due loop
        begin
            execute format('select %s($1, $2)', running.step_function) into was_due using item, run_job.at;
            done := done + was_due::integer;
            delete from care.job_failures where job_failures.job = running.id and job_failures.subject = item;
        exception
            when query_canceled then
                -- The statement timed out in this item, so the other items are left to the next run.
                perform care.note_job_failure(running.id, item, sqlstate, sqlerrm, run_job.at);
                exit;
            when others then
                perform care.note_job_failure(running.id, item, sqlstate, sqlerrm, run_job.at);
        end;
        exit when clock_timestamp() > begun_at + make_interval(secs => running.maximum_seconds);
    end loop;
    if done > 0 and running.is_audited then
        perform care.note_audit('retention_enforced', running.id, null, jsonb_build_object('rows', done));
    end if;
    update care.jobs set last_succeeded_at = clock_timestamp() where jobs.id = running.id;
    return done;
end
$$;
comment on function care.run_job is
    'Processes what is due of one job, up to its maximum_rows and maximum_seconds. Returns how many items; -1 if they could not be listed; null if another run of the job is in progress. Raises PT404. Security definer: callers have no privileges on tables. Called by pg_cron, `retrocare start` and public.run_job.';
revoke execute on function care.run_job from public;
grant execute on function care.run_job to retrocare_service;

create function care.due_jobs(at timestamptz default now())
returns setof text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select jobs.id
    from care.jobs
    where jobs.every_minutes = 1 or jobs.last_succeeded_at <= due_jobs.at - make_interval(mins => jobs.every_minutes)
    order by jobs.position
$$;
comment on function care.due_jobs is
    'Returns the jobs that are due, in the order in which to run them. Security definer: the service has no privileges on tables. Called by `retrocare start`.';
revoke execute on function care.due_jobs from public;
grant execute on function care.due_jobs to retrocare_service;

create function care.due_work(at timestamptz default now())
returns table (recordings bigint, deliveries bigint, deletions bigint)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        select
            (select count(*) from care.recordings where recordings.due_at <= due_work.at),
            care.due_receipts(due_work.at) + (select count(*) from care.deliveries where deliveries.due_at <= due_work.at),
            (select count(*) from care.deletions where deletions.due_at <= due_work.at);
end
$$;
comment on function care.due_work is
    'Returns how much work is due for each edge function. Security definer: the service has no privileges on tables. Called by `retrocare start`.';
revoke execute on function care.due_work from public;
grant execute on function care.due_work to retrocare_service;

create function care.wake_functions()
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    due record;
begin
    select due_work.* into due from care.due_work(now()) as due_work;
    if due.recordings > 0 then
        perform care.wake_up('collect-recordings', '{}');
    end if;
    if due.deliveries > 0 then
        perform care.wake_up('notify-caregiver', '{}');
    end if;
    if due.deletions > 0 then
        perform care.wake_up('delete-recordings', '{}');
    end if;
end
$$;
comment on function care.wake_functions is
    'Wakes the edge functions for which work is due, such as retries, which no trigger announces. Called by pg_cron every minute.';
revoke execute on function care.wake_functions from public;

-- If pg_cron exists, it runs each job, and has calls reconciled with the providers every five minutes. Otherwise `retrocare start`
-- does both.
create function care.schedule_jobs()
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    job record;
begin
    if to_regprocedure('cron.schedule(text, text, text)') is null then
        return false;
    end if;
    for job in select jobs.id, jobs.every_minutes from care.jobs loop
        execute 'select cron.schedule($1, $2, $3)'
        using
            'retrocare-' || replace(job.id, '_', '-'),
            case job.every_minutes when 1 then '* * * * *' else format('*/%s * * * *', job.every_minutes) end,
            format('select care.run_job(%L)', job.id);
    end loop;
    execute 'select cron.schedule($1, $2, $3)'
    using 'retrocare-wake-functions', '* * * * *', 'select care.wake_functions()';
    execute 'select cron.schedule($1, $2, $3)'
    using 'retrocare-reconcile-calls', '*/5 * * * *', 'select care.wake_up(''collect-recordings'', ''{"reconcile": true}'')';
    return true;
end
$$;
comment on function care.schedule_jobs is
    'Schedules the jobs with pg_cron. Returns false if pg_cron does not exist. Called here, and by an operator who enables pg_cron later.';
revoke execute on function care.schedule_jobs from public;

select care.schedule_jobs();
