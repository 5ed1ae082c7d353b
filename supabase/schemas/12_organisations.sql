-- Organisations: they own patients, keys and provider accounts, and decide how their caregivers are notified.

create function care.default_organisation()
returns uuid
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select '00000000-0000-7000-8000-000000000000'::uuid
$$;
comment on function care.default_organisation is
    'Returns the id of the organisation to which rows belong that name none. Default of organisation_id.';
revoke execute on function care.default_organisation from public;
-- A column default is evaluated with the privileges of the role that writes the row or calls the function.
grant execute on function care.default_organisation to authenticated, service_role, retrocare_service;

alter table public.organisations
    add column if not exists name text not null default 'Organisation'
        constraint an_organisation_has_a_name check (btrim(name) <> ''),
    add column if not exists created_at timestamptz not null default now();
comment on table public.organisations is
    'The organisations that look after patients. One exists from the start (care.default_organisation).';
insert into public.organisations (id, name) values (care.default_organisation(), 'Default') on conflict (id) do nothing;
grant select on public.organisations to service_role;

create table care.warning_budgets (
    warnings_per_year double precision constraint warning_budgets_pkey primary key
        constraint some_warnings_come_by_chance check (warnings_per_year > 0 and warnings_per_year <= 52),
    name text not null,
    cost text not null
);
alter table care.warning_budgets enable row level security;
insert into care.warning_budgets values
    (1, 'about one a year', 'A large change is found by the first call; one of moderate size by the sixth, in half of the cases; a small one may not be found.'),
    (4, 'about four a year', 'A change of moderate size is found by the fourth call, in half of the cases.'),
    (12, 'about one a month', 'A change of moderate size is found by the third call, and half of the small ones within a month.');
comment on table care.warning_budgets is
    'How many warnings by chance a family can choose to accept, in words, and what that means for how soon a change is found.';

create table care.organisation_settings (
    organisation_id uuid constraint organisation_settings_pkey primary key
        constraint settings_are_an_organisations references public.organisations (id) on delete cascade,
    quiet_from time not null default '21:00',
    quiet_until time not null default '07:00',
    unusable_calls_in_a_row integer not null default 3
        constraint one_unusable_call_is_no_silence check (unusable_calls_in_a_row >= 2),
    illness_days integer not null default 14
        constraint an_illness_ends_within_a_year check (illness_days between 1 and 366),
    recent_call_days integer not null default 7
        constraint a_recent_call_is_of_some_day check (recent_call_days >= 1),
    warnings_per_year double precision not null default 1
        constraint an_organisation_chooses_a_budget references care.warning_budgets (warnings_per_year),
    dashboard_url text
        constraint the_dashboard_is_on_the_web check (dashboard_url ~ '^https?://[^[:space:]]+$')
);
create index organisation_settings_by_budget on care.organisation_settings (warnings_per_year);
alter table care.organisation_settings enable row level security;
insert into care.organisation_settings (organisation_id) select organisations.id from public.organisations;
comment on table care.organisation_settings is
    'How alerts behave and how caregivers are notified. One row per organisation, created with it.';
comment on column care.organisation_settings.quiet_from is
    'Start of quiet hours in the caregiver''s time zone: warnings wait until quiet_until, unless the caregiver has set other hours. If both times are the same, there are no quiet hours.';
comment on column care.organisation_settings.unusable_calls_in_a_row is
    'This many answered calls in a row without usable speech raise an alert.';
comment on column care.organisation_settings.illness_days is
    'For this many days after an alert is resolved as an illness, the patient counts as unwell.';
comment on column care.organisation_settings.recent_call_days is
    'After this many days without an answered call, a patient without silent_after_days is shown as no_recent_call.';
comment on column care.organisation_settings.warnings_per_year is
    'How many warnings a year by chance are accepted for each patient who is called daily: a row of care.warning_budgets. With more of them, changes are found sooner.';
comment on column care.organisation_settings.dashboard_url is
    'The URL in messages at which the caregiver responds to an alert. Null: messages contain no URL.';
grant select (organisation_id, unusable_calls_in_a_row, recent_call_days) on care.organisation_settings to authenticated, service_role;

create function care.on_organisation()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into care.organisation_settings (organisation_id) values (new.id);
    return null;
end
$$;
comment on function care.on_organisation is
    'Trigger: inserts the settings of a new organisation. Security definer: roles that add organisations have no privileges on the private schemas.';
revoke execute on function care.on_organisation from public;

-- True is safe here: only the caregiver views read these settings, and only those of the caregiver's patients. No API role has USAGE
-- on this schema.
create policy caregivers_read_when_a_patient_counts_as_silent on care.organisation_settings
    for select to authenticated
    using (true);
