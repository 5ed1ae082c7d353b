-- Caregivers: the primary caregiver, or an operator, decides who cares for a patient. How they are notified, caregivers decide
-- themselves.

create function care.refuse_wrong_contact(role public.caregiver_role, phone text, webhook_url text, user_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if refuse_wrong_contact.role is null then
        raise exception using
            errcode = 'PT400',
            message = 'A caregiver needs a role',
            hint = format('Use one of %s.', array_to_string(enum_range(null::public.caregiver_role), ', '));
    elsif not care.is_phone_number(refuse_wrong_contact.phone) then
        raise exception using
            errcode = 'PT400',
            message = 'The phone number is not in international format',
            hint = 'Use a number such as +4930123456.';
    elsif refuse_wrong_contact.webhook_url !~ '^https://[^[:space:]/@]+(/[^[:space:]]*)?$' then
        raise exception using
            errcode = 'PT400',
            message = 'Messages cannot be posted to that webhook URL',
            hint = 'Use an https URL such as https://example.org/hook, without a name and password.';
    elsif not exists (select from auth.users where users.id = refuse_wrong_contact.user_id)
        and refuse_wrong_contact.user_id is not null
    then
        raise exception using
            errcode = 'PT400',
            message = 'There is no such account',
            hint = 'Leave the account out; it can be added later.';
    end if;
end
$$;
comment on function care.refuse_wrong_contact is 'Raises PT400 if the role, an address or the account is not valid.';
revoke execute on function care.refuse_wrong_contact from public;

create function care.refuse_unknown_language(language text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if refuse_unknown_language.language <> all (select alert_openings.language from care.alert_openings) then
        raise exception using
            errcode = 'PT400',
            message = format('There are no messages in the language %s', left(refuse_unknown_language.language, 20)),
            hint = (
                select format('Messages exist in: %s.', string_agg(distinct alert_openings.language, ', '))
                from care.alert_openings
            );
    end if;
end
$$;
comment on function care.refuse_unknown_language is
    'Raises PT400 if there are no messages in this language. Null, the default, is accepted.';
revoke execute on function care.refuse_unknown_language from public;

create function care.refuse_losing_the_last_primary(patient_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if care.is_caller_a_caregiver() and not exists (
        select from public.patient_caregivers
        where patient_caregivers.patient_id = refuse_losing_the_last_primary.patient_id
            and patient_caregivers.role = 'primary'
            and patient_caregivers.user_id is not null
    ) then
        raise exception using
            errcode = 'PT409',
            message = 'The patient would have no primary caregiver with an account',
            hint = 'Make somebody else primary first.';
    end if;
end
$$;
comment on function care.refuse_losing_the_last_primary is
    'Raises PT409 if, apart from operators, nobody would be left who may manage caregivers and consent. Called after the change, which the error rolls back.';
revoke execute on function care.refuse_losing_the_last_primary from public;

create function care.add_caregiver(
    patient_id uuid, role public.caregiver_role, name text, phone text default null, webhook_url text default null,
    user_id uuid default null, patient_known_as text default null, language text default null
)
returns public.patient_caregivers
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    added public.patient_caregivers;
begin
    perform care.patient_for_caller(add_caregiver.patient_id, 'primary');
    perform care.refuse_unknown_language(add_caregiver.language);
    perform care.refuse_wrong_contact(
        add_caregiver.role, add_caregiver.phone, add_caregiver.webhook_url, add_caregiver.user_id);
    insert into public.patient_caregivers (patient_id, role, name, phone, webhook_url, user_id, patient_known_as, language)
    values (
        add_caregiver.patient_id, add_caregiver.role, add_caregiver.name, add_caregiver.phone, add_caregiver.webhook_url,
        add_caregiver.user_id, add_caregiver.patient_known_as, coalesce(add_caregiver.language, 'en')
    )
    returning * into added;
    return added;
exception when unique_violation then
    raise exception using
        errcode = 'PT409',
        message = 'That account already belongs to a caregiver of the patient',
        hint = 'Change that caregiver instead.';
end
$$;
comment on function care.add_caregiver is
    'Adds a caregiver and returns the new row. The default language is English. Raises PT400, PT403, PT404, PT409. Security definer: callers may not write caregivers directly.';
revoke execute on function care.add_caregiver from public;
grant execute on function care.add_caregiver to retrocare_service;

create function care.change_caregiver(
    caregiver_id uuid, role public.caregiver_role, name text, phone text, webhook_url text, user_id uuid, patient_known_as text,
    language text default null
)
returns public.patient_caregivers
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient_id uuid := (
        select patient_caregivers.patient_id from public.patient_caregivers where patient_caregivers.id = change_caregiver.caregiver_id
    );
    changed public.patient_caregivers;
begin
    perform care.patient_for_caller(patient_id, 'primary');
    perform care.refuse_unknown_language(change_caregiver.language);
    perform care.refuse_wrong_contact(
        change_caregiver.role, change_caregiver.phone, change_caregiver.webhook_url, change_caregiver.user_id);
    update public.patient_caregivers
    set role = change_caregiver.role,
        name = change_caregiver.name,
        phone = change_caregiver.phone,
        webhook_url = change_caregiver.webhook_url,
        user_id = change_caregiver.user_id,
        patient_known_as = change_caregiver.patient_known_as,
        language = coalesce(change_caregiver.language, patient_caregivers.language)
    where patient_caregivers.id = change_caregiver.caregiver_id
    returning * into changed;
    if not found then
        -- It was removed while this call waited for the lock.
        perform care.patient_for_caller(null, 'primary');
    end if;
    perform care.refuse_losing_the_last_primary(changed.patient_id);
    return changed;
exception when unique_violation then
    raise exception using
        errcode = 'PT409',
        message = 'That account already belongs to a caregiver of the patient',
        hint = 'Change that caregiver instead.';
end
$$;
comment on function care.change_caregiver is
    'Writes all columns of a caregiver and returns the row. Null unsets a value, except that a null language leaves the language unchanged. Raises PT400, PT403, PT404, PT409. Security definer: callers may not write caregivers directly.';
revoke execute on function care.change_caregiver from public;
grant execute on function care.change_caregiver to retrocare_service;

create function care.remove_caregiver(caregiver_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patient_id uuid := (
        select patient_caregivers.patient_id from public.patient_caregivers where patient_caregivers.id = remove_caregiver.caregiver_id
    );
begin
    perform care.patient_for_caller(patient_id, 'primary');
    delete from public.patient_caregivers where patient_caregivers.id = remove_caregiver.caregiver_id;
    perform care.refuse_losing_the_last_primary(patient_id);
end
$$;
comment on function care.remove_caregiver is
    'Removes a caregiver and the queued messages to that caregiver. Raises PT403, PT404, PT409. Security definer: callers may not write caregivers directly.';
revoke execute on function care.remove_caregiver from public;
grant execute on function care.remove_caregiver to retrocare_service;

create function care.set_my_preferences(
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
    if not care.is_time_zone(set_my_preferences.timezone) then
        raise exception using
            errcode = 'PT400',
            message = 'There is no such time zone',
            hint = 'Use a name such as Europe/Berlin, or null for the patient''s time zone.';
    end if;
    perform care.refuse_unknown_language(set_my_preferences.language);
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
            hint = 'Only caregivers of the patient have preferences.';
    end if;
    return changed;
end
$$;
comment on function care.set_my_preferences is
    'Writes the preferences of the signed-in caregiver for messages about a patient, and returns the row. Null means the default. Raises PT400, PT404. Security definer: callers may not write caregivers directly.';
revoke execute on function care.set_my_preferences from public;

create function care.caregiver_list(patient_id uuid)
returns table (
    id uuid,
    patient_id uuid,
    patient text,
    role public.caregiver_role,
    name text,
    phone text,
    webhook_url text,
    patient_known_as text,
    language text,
    user_id uuid,
    is_reachable boolean
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        patient_caregivers.id,
        patients.id,
        patients.name,
        patient_caregivers.role,
        patient_caregivers.name,
        patient_caregivers.phone,
        patient_caregivers.webhook_url,
        patient_caregivers.patient_known_as,
        patient_caregivers.language,
        patient_caregivers.user_id,
        exists (select from care.caregiver_addresses(patient_caregivers))
    from public.patient_caregivers
    join public.patients on patients.id = patient_caregivers.patient_id
    where caregiver_list.patient_id is null or patients.id = caregiver_list.patient_id
    order by patients.created_at, patients.id, patient_caregivers.role desc, patient_caregivers.created_at
$$;
comment on function care.caregiver_list is
    'Returns the caregivers of this patient (null: of all patients), and whether messages reach them by an enabled channel. Called by `retrocare caregiver`.';
revoke execute on function care.caregiver_list from public;
grant execute on function care.caregiver_list to retrocare_service;
