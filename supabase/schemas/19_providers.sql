-- Providers: the phone providers that place the calls, and the accounts with them.

-- The bucket for recordings: private, at most 50 MiB per file, audio only. Outside Supabase there is no Storage, and no bucket is
-- created.
do $$
begin
    if to_regclass('storage.buckets') is not null then
        insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
        values (
            'voice-recordings', 'voice-recordings', false, 50 * 1024 * 1024,
            array['audio/wav', 'audio/mpeg', 'audio/ogg', 'audio/flac', 'audio/mp4', 'audio/webm']
        )
        on conflict (id) do nothing;
    end if;
end
$$;

create table care.providers (
    id text constraint providers_pkey primary key
        constraint a_provider_has_a_name_without_a_slash check (id <> '' and strpos(id, '/') = 0),
    recording_retention_days double precision not null default 14
        constraint recordings_are_kept_a_while check (recording_retention_days > 0 and recording_retention_days <= 3650),
    reconciliation_overlap_hours double precision not null default 1
        constraint reconciliations_overlap check (reconciliation_overlap_hours > 0 and reconciliation_overlap_hours <= 720)
);
alter table care.providers enable row level security;
insert into care.providers (id) values ('vapi');
comment on table care.providers is 'The phone providers whose calls are accepted.';
comment on column care.providers.recording_retention_days is
    'How long the provider keeps a recording. Copying it is attempted for that long.';
comment on column care.providers.reconciliation_overlap_hours is
    'How far each reconciliation reaches back before the end of the last one, to allow for clock differences and for updates that the provider lists late.';

create table care.provider_accounts (
    id text constraint provider_accounts_pkey primary key
        constraint an_account_has_a_name_without_a_slash check (id <> '' and strpos(id, '/') = 0),
    organisation_id uuid not null default care.default_organisation()
        constraint an_account_is_an_organisations references public.organisations (id),
    provider text not null
        constraint an_account_is_with_a_provider references care.providers (id),
    secret_name text,
    reconciled_until timestamptz,
    constraint an_account_is_with_one_provider unique (id, provider)
);
create index provider_accounts_by_organisation on care.provider_accounts (organisation_id);
create index provider_accounts_by_provider on care.provider_accounts (provider);
alter table care.provider_accounts enable row level security;
insert into care.provider_accounts (id, provider, secret_name) values ('vapi', 'vapi', 'VAPI_API_KEY');
comment on table care.provider_accounts is
    'Accounts with the providers. If a request names no account, the account named like its provider is used, or else the only one.';
comment on column care.provider_accounts.secret_name is
    'The name of the secret with the API key, in the Vault or the environment; never the key itself. Null: no key is known.';
comment on column care.provider_accounts.reconciled_until is
    'Reconciliation has listed all calls last updated before this time. Null: it has not run yet.';

create function care.account_of(provider text, account text default null)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case
            when account_of.account is not null then min(provider_accounts.id) filter (where provider_accounts.id = account_of.account)
            else coalesce(
                min(provider_accounts.id) filter (where provider_accounts.id = account_of.provider),
                case when count(*) = 1 then min(provider_accounts.id) end)
        end
    from care.provider_accounts
    where provider_accounts.provider = account_of.provider
$$;
comment on function care.account_of is
    'Returns the named account of this provider, or else the account named like the provider, or else the only one. Null: there is none, or it must be named.';
revoke execute on function care.account_of from public;

create function care.ensure_account(provider text, account text default null)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    account_id text := care.account_of(ensure_account.provider, ensure_account.account);
begin
    if account_id is null
        and ensure_account.account is null
        and ensure_account.provider <> ''
        and strpos(ensure_account.provider, '/') = 0
    then
        insert into care.providers (id) values (ensure_account.provider) on conflict (id) do nothing;
        insert into care.provider_accounts (id, provider)
        select providers.id, providers.id
        from care.providers
        where providers.id = ensure_account.provider
            and not exists (select from care.provider_accounts where provider_accounts.provider = providers.id)
        on conflict (id) do nothing;
        account_id := care.account_of(ensure_account.provider);
    end if;
    if account_id is null then
        raise exception using
            errcode = 'PT400',
            message = format('It is not known to which account with %L this call belongs', ensure_account.provider),
            hint = 'Name an account; they are rows of care.provider_accounts.';
    end if;
    return account_id;
end
$$;
comment on function care.ensure_account is
    'Does the same as care.account_of, for callers that write calls directly instead of reporting them. An unknown provider is added, with an account of the same name. Raises PT400.';
revoke execute on function care.ensure_account from public;

create function care.reconcile_since(provider text, at timestamptz default now(), account text default null)
returns timestamptz
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select greatest(
        reconcile_since.at - make_interval(secs => 86400 * providers.recording_retention_days),
        -- The stored time may come from a wrong clock: it is never taken later than now.
        case
            when provider_accounts.reconciled_until is not null then least(provider_accounts.reconciled_until, reconcile_since.at)
        end - make_interval(secs => 3600 * providers.reconciliation_overlap_hours))
    from care.provider_accounts
    join care.providers on providers.id = provider_accounts.provider
    where provider_accounts.id = care.account_of(reconcile_since.provider, reconcile_since.account)
$$;
comment on function care.reconcile_since is
    'Returns the time since which an account''s updated calls must be listed: the end of the last reconciliation less an overlap, but never before the provider''s retention. Null: there is no such account. Security definer for the same reason as care.receive_call_report.';
revoke execute on function care.reconcile_since from public;

create function care.finish_reconciliation(provider text, until timestamptz, account text default null)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update care.provider_accounts
    set reconciled_until = greatest(provider_accounts.reconciled_until, finish_reconciliation.until)
    where provider_accounts.id = care.account_of(finish_reconciliation.provider, finish_reconciliation.account)
$$;
comment on function care.finish_reconciliation is
    'Notes that all calls of the account last updated before until have been listed. Security definer for the same reason as care.receive_call_report.';
revoke execute on function care.finish_reconciliation from public;
