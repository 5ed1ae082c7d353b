-- Wake-up: where pg_net and Vault exist, new work makes whoever does it look at once. Nothing depends on it: the work is a row already, and
-- is found by polling. So whatever goes wrong here is a warning, never an error.
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
    -- Once a transaction: whoever deletes a thousand recordings wakes up once.
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
    'Asks the service (target wake) or an edge function (its name) to look for work, where pg_net is there and Vault holds the address.';
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
    'Trigger: wakes up the target that it is created with. Definer: whoever writes calls reads no secret.';
revoke execute on function care.on_new_work from public;
