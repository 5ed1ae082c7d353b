-- Wake-up: with pg_net and Vault, new work wakes the service or edge function that processes it. Nothing depends on wake-ups: the
-- work is already a row, and is found by polling. An error here is therefore only a warning.
--
--     select vault.create_secret('https://voice.example.org', 'python_service_url');
--     select vault.create_secret('the service''s key', 'retrocare_api_key');
--     select vault.create_secret('https://<project>.supabase.co/functions/v1', 'retrocare_functions_url');
--     select vault.create_secret('the functions'' key', 'retrocare_functions_key');

create function care.wake_up(target text, body jsonb)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    is_service constant boolean := wake_up.target = 'wake';
    -- Once per transaction: deleting a thousand recordings sends one wake-up.
    woken constant text := 'retrocare.woken_' || replace(wake_up.target, '-', '_');
    url text;
    key text;
begin
    if current_setting(woken, true) = 'yes' then
        return;
    end if;
    perform set_config(woken, 'yes', true);
    if to_regclass('vault.decrypted_secrets') is null
        or not exists (
            select from pg_catalog.pg_proc where proname = 'http_post' and pronamespace = to_regnamespace('net')
        )
    then
        return;
    end if;
    execute 'select max(decrypted_secret) filter (where name = $1), max(decrypted_secret) filter (where name = $2)
             from vault.decrypted_secrets'
    into url, key
    using
        case when is_service then 'python_service_url' else 'retrocare_functions_url' end,
        case when is_service then 'retrocare_api_key' else 'retrocare_functions_key' end;
    if url is not null then
        execute 'select net.http_post(url := $1, body := $2, headers := $3, timeout_milliseconds := 2000)'
        using
            rtrim(url, '/') || '/' || wake_up.target,
            wake_up.body,
            jsonb_build_object('Content-Type', 'application/json', 'Authorization', 'Bearer ' || coalesce(key, ''));
    end if;
exception when others then
    raise warning 'The wake-up failed: %', sqlerrm;
end
$$;
comment on function care.wake_up is
    'Wakes the service (target wake) or an edge function (by its name), if pg_net exists and Vault contains its URL.';
revoke execute on function care.wake_up from public;

create function care.on_new_work()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform care.wake_up(tg_argv[0], '{}');
    return null;
end
$$;
comment on function care.on_new_work is
    'Trigger: wakes the target that is the trigger''s argument. Security definer: roles that write calls may not read secrets.';
revoke execute on function care.on_new_work from public;
