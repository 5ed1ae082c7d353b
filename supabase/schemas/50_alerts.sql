-- Alerts: one alert is one episode of a patient, from its first sign, of any signal, until somebody resolves it. A worse sign raises
-- its level; a repeated one only counts up, so that nobody is woken twice for the same thing. Every change is a row, and changes that
-- caregivers must learn of become deliveries.

create type public.alert_state as enum (
    'open',             -- nobody has responded         -> escalated, acknowledged, snoozed, resolved
    'escalated',        -- nobody responded in time     -> open (raised), acknowledged, snoozed, resolved
    'acknowledged',     -- somebody attends to it       -> open (raised, reopened), snoozed, resolved
    'snoozed',          -- postponed to snoozed_until   -> open (woken or raised), acknowledged, resolved
    'resolved'          -- end: the episode is over
);
comment on type public.alert_state is 'The state of an alert. In every state but resolved, the episode is in progress.';

create type public.alert_outcome as enum (
    'ill',              -- a health flag is added: calls of that time are not learned from
    'not_ill',          -- well: what pointed to a change is forgotten
    'other_person',     -- somebody else spoke: the calls count no longer
    'wrong_recording',  -- the same, for a recording that is of another call
    'new_line',         -- a new telephone or room: a new baseline is built from the calls since the alert was opened
    'other'
);
comment on type public.alert_outcome is 'What the caregivers found out, with its consequences.';

create table public.alert_causes (
    id text constraint alert_causes_pkey primary key,
    name text not null,
    signal text
        constraint a_cause_may_be_of_a_signal references care.signals (id),
    has_score boolean not null,
    closes_when_heard boolean not null
);
create index alert_causes_by_signal on public.alert_causes (signal);
alter table public.alert_causes enable row level security;
revoke all on public.alert_causes from anon, authenticated, service_role;
insert into public.alert_causes (id, name, signal, has_score, closes_when_heard) values
    ('voice_changed', 'The voice has changed', 'voice', true, false),        -- a call with a score above a threshold
    ('another_voice', 'It did not sound like this person', 'voice', true, false),    -- the same, and another person is likelier
    ('nothing_heard', 'Nothing was heard for days', null, false, true),      -- no call could be judged for the set number of days
    ('no_usable_speech', 'Answered, but hardly heard', null, false, true);   -- several answered calls in a row without usable speech
comment on table public.alert_causes is 'The possible causes of an alert.';
comment on column public.alert_causes.has_score is 'Whether a judgement with a score is behind it.';
comment on column public.alert_causes.closes_when_heard is
    'Whether an alert with no other cause is resolved by a rule once the patient is heard again. All other alerts are resolved by a person, who gives the outcome.';
grant select on public.alert_causes to authenticated, service_role;

create type public.alert_change as enum (
    'opened',           -- the first sign
    'raised',           -- a worse sign, or one with another cause while acknowledged or snoozed: open again
    'repeated',         -- the same again: only counted
    'escalated',        -- nobody responded in time: more caregivers are notified
    'reminded',         -- still nobody has responded
    'acknowledged', 'snoozed',
    'woken',            -- the snooze has ended: open again
    'reopened',         -- the acknowledgement has expired without an outcome: open again
    'resolved'
);
comment on type public.alert_change is 'What happened to an alert.';

create type public.alert_actor as enum (
    'rule',         -- time has passed, or a call was judged
    'caregiver',    -- a caregiver, named in caregiver_id
    'operator'      -- the care team, through the service or service_role
);
comment on type public.alert_actor is 'Who changed an alert.';

create table care.alert_policies (
    level public.alert_level constraint alert_policies_pkey primary key,
    first_roles public.caregiver_role[] not null,
    further_roles public.caregiver_role[] not null,
    escalate_after_minutes double precision not null
        constraint an_alert_waits_for_an_answer check (escalate_after_minutes > 0 and escalate_after_minutes <= 10080),
    remind_after_minutes double precision not null
        constraint reminders_are_apart check (remind_after_minutes > 0 and remind_after_minutes <= 10080),
    maximum_reminders integer not null
        constraint reminders_are_counted check (maximum_reminders >= 0),
    maximum_snooze_hours double precision not null
        constraint a_snooze_ends check (maximum_snooze_hours > 0 and maximum_snooze_hours <= 168),
    waits_for_morning boolean not null,
    maximum_silent_hours double precision not null
        constraint an_unresolved_alert_speaks_again check (maximum_silent_hours > 0 and maximum_silent_hours <= 8784),
    minimum_snooze_minutes double precision not null default 15
        constraint a_snooze_takes_a_while check (minimum_snooze_minutes between 0 and 60),
    constraint only_a_warning_waits_for_morning check (level = 'warning' or not waits_for_morning)
);
alter table care.alert_policies enable row level security;
insert into care.alert_policies values
    ('warning', '{primary}', '{primary,family}', 240, 480, 2, 72, true, 168),
    ('emergency', '{primary,family}', '{primary,family,clinician}', 15, 30, 6, 4, false, 24),
    ('critical', '{primary,family,clinician}', '{primary,family,clinician}', 5, 10, 12, 1, false, 4);
comment on table care.alert_policies is 'Who is notified at each level, when others are, and how often.';
comment on column care.alert_policies.first_roles is
    'The roles that are notified at once. If none of them can be reached, everybody who can be is.';
comment on column care.alert_policies.further_roles is 'The roles that are notified when nobody has responded.';
comment on column care.alert_policies.maximum_silent_hours is
    'The longest time for which an unresolved alert stays silent: an acknowledgement expires after it, and so does the pause after the last of maximum_reminders.';
comment on column care.alert_policies.waits_for_morning is
    'Whether messages wait until the caregiver''s quiet hours are over. Those of an emergency never do.';
comment on column care.alert_policies.minimum_snooze_minutes is
    'A shorter snooze is refused, since the caregiver is notified again whenever one ends.';

create table public.caregiver_alerts (
    id uuid constraint caregiver_alerts_pkey primary key default gen_random_uuid(),
    patient_id uuid not null
        constraint an_alert_is_about_a_patient references public.patients (id) on delete cascade,
    level public.alert_level not null,
    state public.alert_state not null default 'open',
    cause text not null
        constraint an_alert_has_a_known_cause references public.alert_causes (id),
    causes text[] not null default '{}',
    call_log_id uuid
        constraint an_alert_keeps_its_worst_call references public.call_logs (id) on delete set null,
    judgement_id uuid
        constraint an_alert_keeps_its_worst_judgement references public.judgements (id) on delete set null,
    anomaly_score double precision
        constraint an_alert_score_is_a_share check (anomaly_score between 0 and 1),
    is_urgent boolean not null default false,
    repeat_count integer not null default 0,
    reminder_count integer not null default 0,
    opened_at timestamptz not null default now(),
    last_raised_at timestamptz not null default now(),
    next_change_at timestamptz default now(),
    acknowledged_at timestamptz,
    acknowledged_by uuid
        constraint whoever_acknowledged_was_a_caregiver references public.patient_caregivers (id) on delete set null,
    snoozed_until timestamptz,
    resolved_at timestamptz,
    resolved_by uuid
        constraint whoever_resolved_was_a_caregiver references public.patient_caregivers (id) on delete set null,
    outcome public.alert_outcome,
    notes text
        constraint notes_on_an_alert_have_at_most_10000_characters check (char_length(notes) <= 10000),
    constraint an_unresolved_alert_is_never_silent_for_ever check (state = 'resolved' or (next_change_at is not null and isfinite(next_change_at))),
    constraint a_resolved_alert_has_its_time check ((state = 'resolved') = (resolved_at is not null)),
    constraint an_acknowledged_alert_has_its_time check (state <> 'acknowledged' or acknowledged_at is not null),
    constraint a_snoozed_alert_has_its_end check ((state = 'snoozed') = (snoozed_until is not null)),
    constraint an_outcome_comes_with_the_end check (outcome is null or state = 'resolved')
);
create unique index a_patient_has_one_unresolved_alert on public.caregiver_alerts (patient_id) where resolved_at is null;
create index caregiver_alerts_by_patient on public.caregiver_alerts (patient_id, opened_at desc);
create index caregiver_alerts_by_cause on public.caregiver_alerts (cause);
create index caregiver_alerts_by_call on public.caregiver_alerts (call_log_id);
create index caregiver_alerts_by_judgement on public.caregiver_alerts (judgement_id);
create index caregiver_alerts_by_acknowledger on public.caregiver_alerts (acknowledged_by);
create index caregiver_alerts_by_resolver on public.caregiver_alerts (resolved_by);
create index caregiver_alerts_due on public.caregiver_alerts (next_change_at) where resolved_at is null;
alter table public.caregiver_alerts enable row level security;
revoke all on public.caregiver_alerts from anon, authenticated, service_role;
comment on table public.caregiver_alerts is 'One row per episode, at most one unresolved per patient.';
comment on column public.caregiver_alerts.cause is 'The cause of the last sign of which caregivers were notified.';
comment on column public.caregiver_alerts.causes is 'All causes of signs in this episode.';
comment on column public.caregiver_alerts.anomaly_score is
    'The highest score of the episode, that of judgement_id and call_log_id. Null: nothing was judged.';
comment on column public.caregiver_alerts.is_urgent is
    'Whether caregivers were told at once, because a single call was very unlike usual; a second such call makes it an emergency.';
comment on column public.caregiver_alerts.repeat_count is 'How many further signs there were.';
comment on column public.caregiver_alerts.next_change_at is 'When it is escalated, reminded of, woken or reopened. Null: it is resolved.';
grant select on public.caregiver_alerts to service_role, authenticated;
create index alerts_that_press on public.caregiver_alerts (opened_at) where state in ('open', 'escalated');

create table public.alert_changes (
    id uuid constraint alert_changes_pkey primary key default gen_random_uuid(),
    alert_id uuid not null
        constraint a_change_is_of_an_alert references public.caregiver_alerts (id) on delete cascade,
    patient_id uuid not null
        constraint a_change_is_about_a_patient references public.patients (id) on delete cascade,
    change public.alert_change not null,
    level public.alert_level not null,
    cause text not null
        constraint a_change_has_a_known_cause references public.alert_causes (id),
    call_log_id uuid
        constraint a_change_keeps_its_call references public.call_logs (id) on delete set null,
    judgement_id uuid
        constraint a_change_keeps_its_judgement references public.judgements (id) on delete set null,
    actor public.alert_actor not null default 'rule',
    actor_id uuid
        constraint whoever_changed_it_had_an_account references auth.users (id) on delete set null,
    caregiver_id uuid
        constraint whoever_changed_it_was_a_caregiver references public.patient_caregivers (id) on delete set null,
    operator text
        constraint an_operator_has_a_name check ((actor = 'operator') = (operator is not null)),
    snoozed_until timestamptz,
    outcome public.alert_outcome,
    is_urgent boolean not null default false,
    changed_at timestamptz not null
);
create index alert_changes_by_alert on public.alert_changes (alert_id, changed_at);
create index alert_changes_by_patient on public.alert_changes (patient_id, changed_at desc);
create index alert_changes_by_cause on public.alert_changes (cause);
create index alert_changes_by_call on public.alert_changes (call_log_id);
create index alert_changes_by_judgement on public.alert_changes (judgement_id);
create index alert_changes_by_actor on public.alert_changes (actor_id);
create index alert_changes_by_caregiver on public.alert_changes (caregiver_id);
alter table public.alert_changes enable row level security;
revoke all on public.alert_changes from anon, authenticated, service_role;
comment on table public.alert_changes is 'The history of every alert: what happened, when, and by whom. Append-only.';
comment on column public.alert_changes.level is 'The level of the sign if there was one, else that of the alert.';
comment on column public.alert_changes.actor_id is
    'The caregiver''s account. Null: actor is an operator or a rule, or the caregiver has no account.';
comment on column public.alert_changes.caregiver_id is
    'The caregiver who made the change. Null: actor is an operator or a rule, or the caregiver no longer cares for the patient.';
comment on column public.alert_changes.is_urgent is 'Whether messages about it do not wait for the end of quiet hours.';
comment on column public.alert_changes.operator is 'If actor is an operator: the database login, or the name given with the change.';
grant select on public.alert_changes to service_role, authenticated;

create type care.actor as (
    actor public.alert_actor,
    actor_id uuid,
    caregiver_id uuid,
    operator text
);
comment on type care.actor is 'Who changes an alert, as stored in alert_changes.';

create function care.note_change(
    alert public.caregiver_alerts, change public.alert_change, at timestamptz, level public.alert_level default null,
    cause text default null, call_log_id uuid default null, judgement_id uuid default null,
    caller care.actor default row('rule', null, null, null)::care.actor, is_urgent boolean default false
)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into public.alert_changes (
        alert_id, patient_id, change, level, cause, call_log_id, judgement_id, actor, actor_id, caregiver_id, operator,
        snoozed_until, outcome, is_urgent, changed_at
    )
    values (
        alert.id, alert.patient_id, note_change.change, coalesce(note_change.level, alert.level),
        coalesce(note_change.cause, alert.cause), note_change.call_log_id, note_change.judgement_id,
        (note_change.caller).actor, (note_change.caller).actor_id, (note_change.caller).caregiver_id, (note_change.caller).operator,
        alert.snoozed_until, alert.outcome, note_change.is_urgent, note_change.at
    )
$$;
comment on function care.note_change is 'Adds a change to an alert''s history. A trigger then notifies caregivers.';
revoke execute on function care.note_change from public;

create policy caregivers_read_their_patients_alerts on public.caregiver_alerts
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

create policy caregivers_read_their_patients_alert_changes on public.alert_changes
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));

create policy everybody_who_is_told_reads_what_about on public.alert_causes
    for select to authenticated
    using (true);
