-- Providers: who places the calls, and the accounts of theirs by which it is done.

-- Where recordings are kept: private, up to 50 MiB each, and audio alone. Storage is on Supabase; elsewhere there is no bucket to make.
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
comment on table care.providers is 'The phone providers whose calls are taken.';
comment on column care.providers.recording_retention_days is 'How long the provider keeps a recording: so long it is tried to be copied.';
comment on column care.providers.reconciliation_overlap_hours is 'How far a reconciliation looks back before the end of the last one: for clocks that differ, and updates that the provider lists late.';

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
    'The accounts with those providers. The one that has its provider''s name is meant where none is named, or the only one.';
comment on column care.provider_accounts.secret_name is 'The name of the key''s secret, in the Vault or the environment; never the key. Null: no key is known.';
comment on column care.provider_accounts.reconciled_until is 'Every call that was last updated before this moment was listed; null: none was.';

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
    'The account of this provider that is named, else the one that has the provider''s name, else the only one; null: there is none, or it must be named.';
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
            message = format('It is not known which account with %L this call is of', ensure_account.provider),
            hint = 'Accounts are rows of care.provider_accounts: name one of them.';
    end if;
    return account_id;
end
$$;
comment on function care.ensure_account is
    'As care.account_of, for whoever writes calls instead of reporting them: a provider whom nobody knows is added, with an account of its name. Raises PT400.';
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
        -- Whoever's clock was wrong: never later than now.
        case
            when provider_accounts.reconciled_until is not null then least(provider_accounts.reconciled_until, reconcile_since.at)
        end - make_interval(secs => 3600 * providers.reconciliation_overlap_hours))
    from care.provider_accounts
    join care.providers on providers.id = provider_accounts.provider
    where provider_accounts.id = care.account_of(reconcile_since.provider, reconcile_since.account)
$$;
comment on function care.reconcile_since is
    'From which update on an account''s calls must be listed: the end of the last reconciliation, with an overlap, and never before the provider''s retention; null: no such account. Definer: as care.receive_call_report.';
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
    'Every call of the account that was last updated before until was listed. Definer: as care.receive_call_report.';
revoke execute on function care.finish_reconciliation from public;
