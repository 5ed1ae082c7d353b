-- Audit: who did what, and when. Append-only, and without names, phone numbers or vectors, since entries outlive the people that they
-- concern.

create type public.audit_action as enum (
    'inserted', 'updated', 'deleted',               -- a row of an audited table, noted by a trigger
    'consent_given', 'consent_withdrawn', 'signal_erased', 'person_erased', 'erasure_replayed', 'deletion_finished',
    'retention_enforced', 'exported', 'recording_read', 'voice_matched', 'key_used'
);
comment on type public.audit_action is 'The kind of action that was performed.';

create table care.audit_log (
    id bigint generated always as identity constraint audit_log_pkey primary key,
    occurred_at timestamptz not null default clock_timestamp(),
    action public.audit_action not null,
    actor_id uuid,
    actor_role text not null,
    patient_id uuid,
    subject text not null,
    detail jsonb not null default '{}'
);
create index audit_log_by_patient on care.audit_log (patient_id, occurred_at desc);
create index audit_log_by_time on care.audit_log (occurred_at desc);
create index audit_log_by_actor on care.audit_log (actor_id, occurred_at desc);
alter table care.audit_log enable row level security;
comment on table care.audit_log is
    'Append-only: update, delete and truncate are refused, even to the owner. It has no foreign keys, so entries remain when a person is erased.';
comment on column care.audit_log.actor_id is 'The account that performed the action. Null: the service, an operator or a rule.';
comment on column care.audit_log.actor_role is 'The role in the token, or the database login.';
comment on column care.audit_log.subject is 'The object of the action: a table and a key, or a function.';
comment on column care.audit_log.detail is
    'The names of the changed columns, with the old and new values of those that hold no personal data.';

create function care.note_audit(
    action public.audit_action, subject text, patient_id uuid default null, detail jsonb default '{}'
)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into care.audit_log (action, actor_id, actor_role, patient_id, subject, detail)
    values (
        note_audit.action, (select auth.uid()), coalesce((select auth.jwt()) ->> 'role', session_user), note_audit.patient_id,
        note_audit.subject, note_audit.detail
    )
$$;
comment on function care.note_audit is 'Adds an entry to the audit log, with the current user as its actor.';
revoke execute on function care.note_audit from public;

create function care.audit_change()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    before jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    after jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
    present jsonb := coalesce(after, before);
    changed text[] := array(
        select columns.key
        from jsonb_object_keys(present) as columns (key)
        where (before -> columns.key) is distinct from (after -> columns.key)
        order by columns.key
    );
begin
    if tg_op = 'UPDATE' and changed = '{}' then
        return null;
    end if;
    perform care.note_audit(
        case tg_op when 'INSERT' then 'inserted' when 'UPDATE' then 'updated' else 'deleted' end::public.audit_action,
        format('%I.%I %s', tg_table_schema, tg_table_name, coalesce(present ->> 'id', present ->> tg_argv[0])),
        case when tg_table_name = 'patients' then (present ->> 'id')::uuid else (present ->> 'patient_id')::uuid end,
        jsonb_build_object('columns', changed) || (
            -- Values are kept only of columns named in the trigger's arguments: thresholds, roles, scopes; never of personal data.
            select coalesce(jsonb_object_agg(kept.name, jsonb_build_array(before -> kept.name, after -> kept.name)), '{}')
            from unnest(tg_argv[1:]) as kept (name)
            where kept.name = any (changed)
        ));
    return null;
end
$$;
comment on function care.audit_change is
    'Trigger: notes a change in the audit log. Its arguments are the name of the key column and of the columns whose values are kept. Security definer: roles that change the row may not write the log.';
revoke execute on function care.audit_change from public;

create function care.audit_trail(patient_id uuid, since timestamptz, maximum_rows integer)
returns setof care.audit_log
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select *
    from care.audit_log
    where (audit_trail.patient_id is null or audit_log.patient_id = audit_trail.patient_id)
        and (audit_trail.since is null or audit_log.occurred_at >= audit_trail.since)
    order by audit_log.id desc
    limit audit_trail.maximum_rows
$$;
comment on function care.audit_trail is
    'Returns the audit entries about this patient (null: all patients), newest first. Security definer: the caller may not read the table. Called by `retrocare audit` and by public.audit_trail.';
revoke execute on function care.audit_trail from public;
grant execute on function care.audit_trail to retrocare_service, service_role;

create view public.audit_trail
with (security_invoker = true)
as
select trail.occurred_at, trail.action, trail.actor_id, trail.actor_role, trail.patient_id, trail.subject, trail.detail
from care.audit_trail(null, null, null) as trail;
comment on view public.audit_trail is 'For the privacy officer (service_role): who did what, and when, newest first.';
revoke all on public.audit_trail from anon, authenticated, service_role;
grant select on public.audit_trail to service_role;
