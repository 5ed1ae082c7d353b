-- A toy signal: a patient says a number on each call, and seven is as usual. All of it is in this file, as a further signal's would be in
-- one of supabase/schemas: its tables in a schema of its own, its triggers, its rows. No function that was there before is changed.

create schema toy;
comment on schema toy is 'Private: numbers that patients say.';
revoke all on schema toy from public;

insert into care.consent_scopes (id, description) values ('numbers', 'Numbers are kept and compared.');
insert into care.signals (id, name, schema_name, consent_scope, erase_function) values
    ('toy', 'Numbers', 'toy', 'numbers', 'toy.erase_numbers');
select care.register_model('toy', 'toy-1');
insert into public.alert_causes (id, name, signal, has_score, closes_when_heard) values
    ('number_changed', 'Another number was said', 'toy', true, false);
insert into care.alert_texts (language, cause, level, text) values
    ('en', 'number_changed', 'warning', '{patient} said another number than usual{when}. Please call {patient}{link}.');
insert into care.retention_policies (subject, keep_days) values ('numbers', 30);

create table toy.numbers (
    id bigint generated always as identity constraint numbers_pkey primary key,
    patient_id uuid not null
        constraint a_number_is_a_patients references public.patients (id) on delete cascade,
    call_log_id uuid not null
        constraint a_number_is_said_on_a_call references public.call_logs (id) on delete cascade,
    number double precision not null,
    created_at timestamptz not null default now()
);
create index numbers_by_patient on toy.numbers (patient_id);
create index numbers_by_call on toy.numbers (call_log_id);
alter table toy.numbers enable row level security;
comment on table toy.numbers is 'What was said.';

create function toy.on_recording()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform care.request_check(new, 'toy', care.active_model('toy'));
    return null;
end
$$;
comment on function toy.on_recording is 'Trigger: a call''s recording is here, and a number may be on it. Definer: as voice.on_recording.';
revoke execute on function toy.on_recording from public;

create function toy.complete_check(check_id bigint, lease_token uuid, number double precision)
returns public.judgements
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held constant care.checks := care.leased_check(complete_check.check_id, complete_check.lease_token);
    call public.call_logs;
    judgement public.judgements;
begin
    if held.state <> 'leased' then
        -- Asked twice, or ended meanwhile: what there is, is told.
        select judgements.* into judgement
        from public.judgements
        where judgements.call_log_id = held.call_log_id and judgements.model = held.model;
        return judgement;
    end if;
    select call_logs.* into call from public.call_logs where call_logs.id = held.call_log_id;
    insert into toy.numbers (patient_id, call_log_id, number) values (held.patient_id, call.id, complete_check.number);
    judgement := care.record_judgement(
        call, care.thresholds_for(held.model, held.patient_id), least(1, abs(complete_check.number - 7) / 10), cause => 'number_changed',
        rule => 'distance', policy => '{"usual": 7}', explanation => format('%s instead of 7', complete_check.number));
    perform care.finish_check(held.id, 'scored', null, jsonb_build_object('number', complete_check.number));
    return judgement;
end
$$;
comment on function toy.complete_check is 'Judges a number. Raises RV001, RV003. Definer: whoever listens may touch no table.';
revoke execute on function toy.complete_check from public;

create function toy.erase_numbers(patient_id uuid)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    with numbers as (delete from toy.numbers where numbers.patient_id = erase_numbers.patient_id returning id)
    select jsonb_build_object('numbers', count(*)) from numbers
$$;
comment on function toy.erase_numbers is 'Removes what a patient said; how many. Called by care.erase_signal.';
revoke execute on function toy.erase_numbers from public;

create function toy.old_numbers(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select numbers.id::text
    from toy.numbers
    where numbers.created_at < care.kept_since('numbers', old_numbers.at)
    order by numbers.created_at
    limit old_numbers.maximum_rows
$$;
comment on function toy.old_numbers is 'Numbers that are kept no longer. Called by care.run_job.';
revoke execute on function toy.old_numbers from public;

create function toy.delete_old_number(number_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not care.try_lock_patient((select numbers.patient_id from toy.numbers where numbers.id = delete_old_number.number_id::bigint)) then
        return false;
    end if;
    delete from toy.numbers where numbers.id = delete_old_number.number_id::bigint;
    return found;
end
$$;
comment on function toy.delete_old_number is 'Deletes one of them; whether it did. Called by care.run_job.';
revoke execute on function toy.delete_old_number from public;

insert into care.jobs (id, position, due_function, step_function, every_minutes, is_audited) values
    ('delete_old_numbers', 200, 'toy.old_numbers', 'toy.delete_old_number', 10, true);

create trigger a_number_may_be_on_it_later
    after update of recording_ref on public.call_logs
    for each row
    when (old.recording_ref is null and new.recording_ref is not null)
    execute function toy.on_recording();

create trigger a_number_may_be_on_it
    after insert on public.call_logs
    for each row
    when (new.recording_ref is not null)
    execute function toy.on_recording();
