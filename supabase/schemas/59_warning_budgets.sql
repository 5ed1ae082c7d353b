-- Warning budgets: how many warnings a year by chance a family, or an organisation, chooses to accept.

create function care.refuse_unknown_budget(warnings_per_year double precision)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if refuse_unknown_budget.warnings_per_year is not null and not exists (
        select from care.warning_budgets where warning_budgets.warnings_per_year = refuse_unknown_budget.warnings_per_year
    ) then
        raise exception using
            errcode = 'PT400',
            message = format('%s warnings a year is not a choice', refuse_unknown_budget.warnings_per_year),
            hint = format('Choose one of %s.', (
                select string_agg(warning_budgets.warnings_per_year::text, ', ' order by warning_budgets.warnings_per_year) from care.warning_budgets));
    end if;
end
$$;
comment on function care.refuse_unknown_budget is 'Raises PT400 if this is no row of care.warning_budgets. Null is allowed.';
revoke execute on function care.refuse_unknown_budget from public;

create function care.set_warnings_per_year(patient_id uuid, warnings_per_year double precision)
returns double precision
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform care.refuse_unknown_budget(set_warnings_per_year.warnings_per_year);
    perform care.patient_for_caller(set_warnings_per_year.patient_id, 'primary');
    update public.patients
    set warnings_per_year = set_warnings_per_year.warnings_per_year
    where patients.id = set_warnings_per_year.patient_id;
    return care.warnings_per_year(set_warnings_per_year.patient_id);
end
$$;
comment on function care.set_warnings_per_year is
    'Sets how many warnings a year by chance the family accepts (null: as the organisation does), and returns what applies from the next call on. Raises PT400, PT403, PT404, RV002. Security definer: callers may not write the column.';
revoke execute on function care.set_warnings_per_year from public;
grant execute on function care.set_warnings_per_year to retrocare_service;

create function care.set_organisation_warnings(warnings_per_year double precision, organisation_id uuid default care.default_organisation())
returns double precision
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform care.refuse_unknown_budget(coalesce(set_organisation_warnings.warnings_per_year, 'NaN'));
    update care.organisation_settings
    set warnings_per_year = set_organisation_warnings.warnings_per_year
    where organisation_settings.organisation_id = set_organisation_warnings.organisation_id;
    if not found then
        raise exception using errcode = 'PT404', message = format('There is no organisation %s', set_organisation_warnings.organisation_id);
    end if;
    return set_organisation_warnings.warnings_per_year;
end
$$;
comment on function care.set_organisation_warnings is
    'Sets how many warnings a year by chance are accepted for each patient of an organisation whose family did not choose. Raises PT400, PT404. Security definer: callers may not write the table.';
revoke execute on function care.set_organisation_warnings from public;
grant execute on function care.set_organisation_warnings to retrocare_service;

create function care.warning_budget_list(patient_id uuid default null)
returns table (warnings_per_year double precision, name text, cost text, is_chosen boolean)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select warning_budgets.warnings_per_year, warning_budgets.name, warning_budgets.cost,
        warning_budgets.warnings_per_year = coalesce(case
            -- What the family of somebody else's patient chose is none of a caregiver's business.
            when not care.is_caller_a_caregiver()
                or warning_budget_list.patient_id = any (array(select care.patients_of_caller('viewer')))
                then care.warnings_per_year(warning_budget_list.patient_id)
        end, (
            select organisation_settings.warnings_per_year
            from care.organisation_settings
            where organisation_settings.organisation_id = care.default_organisation()
        ))
    from care.warning_budgets
    order by warning_budgets.warnings_per_year
$$;
comment on function care.warning_budget_list is
    'Returns the choices of how many warnings a year by chance are accepted, and which one applies to this patient (null: to the default organisation). Security definer: callers may not read the tables. Called by `retrocare warnings`.';
revoke execute on function care.warning_budget_list from public;
grant execute on function care.warning_budget_list to retrocare_service;
