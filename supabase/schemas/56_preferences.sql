-- Preferences: how a caregiver wants to be told; and what caregivers call over the Data API about caregivers.

create function voice.set_my_preferences(
    patient_id uuid, patient_known_as text, language text, timezone text, quiet_from time, quiet_until time
)
returns public.patient_caregivers
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    changed public.patient_caregivers;
begin
    if not voice.is_time_zone(set_my_preferences.timezone) then
        raise exception using
            errcode = 'PT400',
            message = 'That is no time zone',
            hint = 'Such as Europe/Berlin; null: the patient''s.';
    end if;
    perform voice.refuse_unknown_language(set_my_preferences.language);
    update public.patient_caregivers
    set patient_known_as = nullif(btrim(set_my_preferences.patient_known_as), ''),
        language = coalesce(set_my_preferences.language, 'en'),
        timezone = set_my_preferences.timezone,
        quiet_from = set_my_preferences.quiet_from,
        quiet_until = set_my_preferences.quiet_until
    where patient_caregivers.patient_id = set_my_preferences.patient_id
        and patient_caregivers.user_id = (select auth.uid())
    returning * into changed;
    if not found then
        raise exception using
            errcode = 'PT404',
            message = 'No such patient',
            hint = 'Preferences are those of a caregiver of the patient.';
    end if;
    return changed;
end
$$;
comment on function voice.set_my_preferences is
    'Writes how the signed-in caregiver is told about a patient; what is null is as the settings say. Raises PT400, PT404. Definer: nobody writes caregivers directly.';
revoke execute on function voice.set_my_preferences from public;
grant execute on function voice.set_my_preferences to authenticated;

-- What caregivers call. The bodies are bound when they are created.

create function public.set_my_preferences(
    patient_id uuid, patient_known_as text, language text, timezone text, quiet_from time, quiet_until time
)
returns public.patient_caregivers
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.set_my_preferences(
        set_my_preferences.patient_id, set_my_preferences.patient_known_as, set_my_preferences.language,
        set_my_preferences.timezone, set_my_preferences.quiet_from, set_my_preferences.quiet_until);
end;
comment on function public.set_my_preferences is
    'For every caregiver: what messages call the patient, their language, the caregiver''s time zone and quiet hours. All are given; what is null is as the settings say. Raises PT400, PT404.';
revoke execute on function public.set_my_preferences from public, anon, service_role;
grant execute on function public.set_my_preferences to authenticated;

create function public.add_caregiver(
    patient_id uuid,
    role public.caregiver_role,
    name text,
    phone text default null,
    webhook_url text default null,
    user_id uuid default null,
    patient_known_as text default null
)
returns public.patient_caregivers
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.add_caregiver(
        add_caregiver.patient_id, add_caregiver.role, add_caregiver.name, add_caregiver.phone, add_caregiver.webhook_url,
        add_caregiver.user_id, add_caregiver.patient_known_as);
end;
comment on function public.add_caregiver is
    'For the primary caregiver: one more caregiver, with or without an account. Raises PT400, PT403, PT404, PT409.';
revoke execute on function public.add_caregiver from public, anon, service_role;
grant execute on function public.add_caregiver to authenticated;

create function public.change_caregiver(
    caregiver_id uuid, role public.caregiver_role, name text, phone text, webhook_url text, user_id uuid, patient_known_as text
)
returns public.patient_caregivers
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.change_caregiver(
        change_caregiver.caregiver_id, change_caregiver.role, change_caregiver.name, change_caregiver.phone,
        change_caregiver.webhook_url, change_caregiver.user_id, change_caregiver.patient_known_as);
end;
comment on function public.change_caregiver is
    'For the primary caregiver: writes a caregiver''s row. All are given; what is null is unset. Raises PT400, PT403, PT404, and PT409 where no primary caregiver would be left.';
revoke execute on function public.change_caregiver from public, anon, service_role;
grant execute on function public.change_caregiver to authenticated;

create function public.remove_caregiver(caregiver_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.remove_caregiver(remove_caregiver.caregiver_id);
end;
comment on function public.remove_caregiver is
    'For the primary caregiver: somebody cares for the patient no longer. Raises PT403, PT404, and PT409 where no primary caregiver would be left.';
revoke execute on function public.remove_caregiver from public, anon, service_role;
grant execute on function public.remove_caregiver to authenticated;
