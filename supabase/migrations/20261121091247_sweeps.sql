-- Sweeps: what time does. One function, safe to call by anybody at any moment: pg_cron where it exists, the service, an edge
-- function, an operator.

create function voice.sweep(at timestamptz default now())
returns jsonb
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    step text;
    done_count integer;
    counts jsonb := '{}';
begin
    if not pg_try_advisory_xact_lock(hashtext('voice.sweep')) then
        return counts; -- another sweep is under way, and does the same
    end if;
    foreach step in array array[
        'advance_alerts', 'cancel_deliveries', 'note_silence', 'end_silence', 'expire_recordings', 'redecide_calls', 'match_calls',
        'adopt_checks', 'enforce_retention'
    ] loop
        begin
            execute format('select voice.%I($1)', step) into done_count using sweep.at;
        exception when others then
            -- What is wrong with one step keeps no other from being done.
            raise warning 'voice.% failed: %', step, sqlerrm;
            done_count := -1;
        end;
        counts := counts || jsonb_build_object(step, done_count);
    end loop;
    return counts;
end
$$;
comment on function voice.sweep is
    'Does everything that is due because time has passed; how much, by step, -1 where a step failed, and nothing where another sweep is under way. Definer: whoever calls it touches no table. Called by pg_cron, `retrocare start` and public.run_sweeps.';
revoke execute on function voice.sweep from public;
grant execute on function voice.sweep to retrocare_service, service_role;

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
            (select count(*) from voice.deliveries
                where case deliveries.state when 'queued' then deliveries.run_at <= due_work.at
                    when 'leased' then deliveries.leased_until < due_work.at end),
            voice.due_deletions(due_work.at);
end
$$;
comment on function voice.due_work is 'What waits for an edge function now. Definer: the service touches no table. Called by `retrocare start`.';
revoke execute on function voice.due_work from public;
grant execute on function voice.due_work to retrocare_service;
