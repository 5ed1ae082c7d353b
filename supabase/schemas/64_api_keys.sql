-- API keys: which programs may call the service, and for what. A key is shown once, when it is created; only its hash is stored here.

create type care.api_scope as enum (
    'embed',    -- encode recordings, compare vectors
    'check',    -- judge and enrol recordings, wake the worker
    'read',     -- read scores
    'admin'     -- read metrics, and everything above
);
comment on type care.api_scope is 'What a key allows.';

create table care.api_keys (
    id bigint generated always as identity constraint api_keys_pkey primary key,
    organisation_id uuid not null default care.default_organisation()
        constraint an_api_key_is_an_organisations references public.organisations (id),
    name text not null
        constraint an_api_key_has_a_name check (btrim(name) <> ''),
    key_sha256 bytea not null
        constraint an_api_key_is_known_by_its_hash check (octet_length(key_sha256) = 32),
    scopes care.api_scope[] not null
        constraint an_api_key_allows_something check (cardinality(scopes) > 0),
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    last_used_at timestamptz,
    constraint an_api_key_is_one_callers unique (key_sha256)
);
create unique index a_name_stands_for_one_key_of_an_organisation on care.api_keys (organisation_id, name) where revoked_at is null;
create index api_keys_by_organisation on care.api_keys (organisation_id);
alter table care.api_keys enable row level security;
comment on table care.api_keys is 'The callers of the service. A revoked key is refused from the next request on.';
comment on column care.api_keys.key_sha256 is 'Hash of a random key of 256 bits. Such a key cannot be guessed, so the hash needs no salt.';
comment on column care.api_keys.last_used_at is 'Rounded down to the minute.';

create type care.api_key as (
    id bigint,
    name text,
    scopes text[],
    created_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    organisation_id uuid
);
comment on type care.api_key is 'An API key as it is shown, without its hash.';

create function care.add_api_key(
    name text, scopes care.api_scope[], key_sha256 bytea, organisation_id uuid default care.default_organisation()
)
returns care.api_key
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    added care.api_keys;
begin
    insert into care.api_keys (name, scopes, key_sha256, organisation_id)
    values (add_api_key.name, add_api_key.scopes, add_api_key.key_sha256, add_api_key.organisation_id)
    returning * into added;
    return (
        added.id, added.name, added.scopes::text[], added.created_at, added.revoked_at, added.last_used_at, added.organisation_id
    )::care.api_key;
end
$$;
comment on function care.add_api_key is
    'Adds an API key and returns it without its hash. Security definer: the service has no privileges on tables. Called by `retrocare key add`.';
revoke execute on function care.add_api_key from public;
grant execute on function care.add_api_key to retrocare_service;

create function care.revoke_api_key(name text, organisation_id uuid default care.default_organisation())
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update care.api_keys
    set revoked_at = now()
    where api_keys.organisation_id = revoke_api_key.organisation_id
        and api_keys.name = revoke_api_key.name
        and api_keys.revoked_at is null;
    return found;
end
$$;
comment on function care.revoke_api_key is
    'Revokes an API key. Returns false if the organisation has no valid key of that name. Security definer: the service has no privileges on tables. Called by `retrocare key revoke`.';
revoke execute on function care.revoke_api_key from public;
grant execute on function care.revoke_api_key to retrocare_service;

create function care.api_key_list()
returns setof care.api_key
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        api_keys.id, api_keys.name, api_keys.scopes::text[], api_keys.created_at, api_keys.revoked_at, api_keys.last_used_at,
        api_keys.organisation_id
    from care.api_keys
    order by api_keys.id
$$;
comment on function care.api_key_list is
    'Returns all API keys, including revoked ones. Security definer: the service has no privileges on tables. Called by `retrocare key list`, and by the service at start.';
revoke execute on function care.api_key_list from public;
grant execute on function care.api_key_list to retrocare_service;

create function care.use_api_key(key_sha256 bytea, scope care.api_scope)
returns table (name text, is_allowed boolean, organisation_id uuid)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    used care.api_keys;
begin
    select api_keys.* into used
    from care.api_keys
    where api_keys.key_sha256 = use_api_key.key_sha256 and api_keys.revoked_at is null;
    if not found then
        return;
    end if;
    if coalesce(used.last_used_at, '-infinity') < now() - interval '1 minute' then
        update care.api_keys
        set last_used_at = date_trunc('minute', now())
        where api_keys.id = used.id;
        -- One audit entry per hour is enough to show that a key is in use; one per request would be too many.
        if coalesce(used.last_used_at, '-infinity') < date_trunc('hour', now()) then
            perform care.note_audit('key_used', 'care.api_keys ' || used.id);
        end if;
    end if;
    return query
        select used.name, use_api_key.scope = any (used.scopes) or 'admin' = any (used.scopes), used.organisation_id;
end
$$;
comment on function care.use_api_key is
    'Returns the name and organisation of the API key with this hash, and whether it allows this scope; no row if there is no such key or it is revoked. Its use is noted in the audit log at most once an hour. Security definer: the service has no privileges on tables. Called with every request.';
revoke execute on function care.use_api_key from public;
grant execute on function care.use_api_key to retrocare_service;
