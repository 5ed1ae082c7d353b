-- Adoption: in an existing RetroCare project, tables and rows are kept, and missing columns are added. Each table is therefore first
-- created with only its id if it does not exist, and gets its columns in the file that describes it.

-- Preflight: refuse projects that cannot be adopted, before anything is changed.
do $$
declare
    misfit record;
begin
    select
        expected.table_name,
        expected.column_name,
        expected.type_name,
        format_type(attribute.atttypid, null) as found_type
    into misfit
    from (
        values
            ('organisations', 'id', 'uuid'),
            ('patients', 'id', 'uuid'),
            ('patients', 'flags', 'text[]'),
            ('call_logs', 'id', 'uuid'),
            ('call_logs', 'patient_id', 'uuid'),
            ('call_logs', 'timestamp', 'timestamp with time zone'),
            ('health_flags', 'id', 'uuid'),
            ('health_flags', 'patient_id', 'uuid'),
            ('daily_checkins', 'id', 'uuid'),
            ('daily_checkins', 'patient_id', 'uuid'),
            ('daily_checkins', 'date', 'date')
    ) as expected (table_name, column_name, type_name)
    join pg_catalog.pg_attribute as attribute
        on attribute.attrelid = to_regclass('public.' || expected.table_name)
        and attribute.attname = expected.column_name
        and not attribute.attisdropped
    where format_type(attribute.atttypid, null) <> expected.type_name
    limit 1;
    if found then
        raise exception using
            errcode = 'RV100',
            message = format('public.%s.%s is %s, not %s',
                misfit.table_name, misfit.column_name, misfit.found_type, misfit.type_name),
            hint = 'Convert the column (alter table ... alter column ... type ... using ...), then migrate again.';
    end if;

    if (
        select count(*) = 2 from pg_catalog.pg_attribute
        where attrelid = to_regclass('public.daily_checkins') and attname in ('patient_id', 'date')
    ) then
        for misfit in execute
            'select patient_id, "date", count(*) from public.daily_checkins
             where patient_id is not null and "date" is not null group by 1, 2 having count(*) > 1 limit 1'
        loop
            raise exception using
                errcode = 'RV100',
                message = 'public.daily_checkins holds several rows for one patient and day',
                detail = format('patient %s has %s rows of %s', misfit.patient_id, misfit.count, misfit.date),
                hint = 'Keep one row for each patient and date, then migrate again.';
        end loop;
    end if;

    if exists (
        select from pg_catalog.pg_attribute
        where attrelid = to_regclass('public.call_logs') and attname = 'timestamp' and not attisdropped
    ) then
        for misfit in execute 'select id from public.call_logs where "timestamp" is null limit 1' loop
            raise exception using
                errcode = 'RV100',
                message = 'public.call_logs.timestamp is null in some rows',
                hint = 'Set the time of those calls or delete them, then migrate again.';
        end loop;
    end if;
end
$$;

-- Tables of an earlier project whose names are needed here: they are kept unchanged under another name.
do $$
declare
    earlier text;
begin
    foreach earlier in array array['voice_anomaly_logs', 'patient_voice_baseline'] loop
        if exists (
            select from pg_catalog.pg_class
            where oid = to_regclass('public.' || earlier) and relkind in ('r', 'p')
        ) then
            execute format('alter table public.%I rename to %I', earlier, 'legacy_' || earlier);
            execute format('alter index if exists public.%I rename to %I',
                earlier || '_pkey', 'legacy_' || earlier || '_pkey');
            raise notice 'public.% is kept as public.legacy_%', earlier, earlier;
        end if;
    end loop;
end
$$;

-- Row level security is enabled only for tables created here. An adopted table keeps its own policies, and a notice says so.
do $$
declare
    care_table text;
begin
    foreach care_table in array array[
        'organisations', 'patients', 'patient_caregivers', 'call_logs', 'health_flags', 'daily_checkins'
    ] loop
        if to_regclass('public.' || care_table) is not null then
            raise notice 'public.% exists and keeps its own row level security', care_table;
        else
            execute format(
                'create table public.%I (id uuid constraint %I primary key default care.uuid_v7())',
                care_table, care_table || '_pkey');
            execute format('alter table public.%I enable row level security', care_table);
            execute format('revoke all on public.%I from anon, authenticated, service_role', care_table);
        end if;
    end loop;
end
$$;
