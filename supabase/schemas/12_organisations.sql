-- Organisations: whose patients, keys and provider accounts they are, and how each wants its caregivers told.

create function care.default_organisation()
returns uuid
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select '00000000-0000-7000-8000-000000000000'::uuid
$$;
comment on function care.default_organisation is 'Whose everything is that names no organisation. The default of organisation_id.';
revoke execute on function care.default_organisation from public;
-- A default asks with the rights of whoever writes the row, or calls the function.
grant execute on function care.default_organisation to authenticated, service_role, retrocare_service;

alter table public.organisations
    add column if not exists name text not null default 'Organisation'
        constraint an_organisation_has_a_name check (btrim(name) <> ''),
    add column if not exists created_at timestamptz not null default now();
comment on table public.organisations is 'Who runs this for its patients. One is there from the start (care.default_organisation).';
insert into public.organisations (id, name) values (care.default_organisation(), 'Default') on conflict (id) do nothing;
grant select on public.organisations to service_role;

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
    dashboard_url text
        constraint the_dashboard_is_on_the_web check (dashboard_url ~ '^https?://[^[:space:]]+$')
);
alter table care.organisation_settings enable row level security;
insert into care.organisation_settings (organisation_id) select organisations.id from public.organisations;
comment on table care.organisation_settings is 'How alerts behave and caregivers are told: one row for each organisation, made with it.';
comment on column care.organisation_settings.quiet_from is
    'On the caregiver''s clock: warnings wait from here until quiet_until, where the caregiver says nothing else. The same time twice: no quiet hours.';
comment on column care.organisation_settings.unusable_calls_in_a_row is 'As many answered calls in a row without usable speech raise an alert.';
comment on column care.organisation_settings.illness_days is 'How long a patient whose alert was resolved as ill counts as unwell from then on.';
comment on column care.organisation_settings.recent_call_days is
    'As many days without an answered call show as no_recent_call, for patients without silent_after_days.';
comment on column care.organisation_settings.dashboard_url is 'Where messages send the caregiver to answer; null: they name no address.';
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
    'Trigger: every organisation has its settings. Definer: whoever adds one may not touch the private schemas.';
revoke execute on function care.on_organisation from public;

-- Of a caregiver's patients alone is it asked, by the views; nobody else reaches this schema.
create policy caregivers_read_when_a_patient_counts_as_silent on care.organisation_settings
    for select to authenticated
    using (true);
