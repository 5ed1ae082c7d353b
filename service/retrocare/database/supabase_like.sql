-- What hosted Supabase offers before the first migration, as far as RetroCare Voice uses it.
--
-- Run by the superuser supabase_admin, in one transaction, when a database is made and whenever this file has changed:
-- every statement must therefore bear to be repeated. The owner of the migrations, postgres, is no superuser, as there.

do $$
declare
    wanted record;
begin
    for wanted in
        select * from (values
            ('postgres',               'login createdb createrole bypassrls replication'),
            ('anon',                   'nologin'),
            ('authenticated',          'nologin'),
            ('service_role',           'nologin bypassrls'),
            ('authenticator',          'login noinherit'),
            ('supabase_storage_admin', 'nologin noinherit')
        ) as roles (name, attributes)
    loop
        if not exists (select from pg_catalog.pg_roles where rolname = wanted.name) then
            execute format('create role %I %s', wanted.name, wanted.attributes);
        end if;
    end loop;
    execute format('alter database %I owner to postgres', current_database());
    -- The database is ours: nobody but its owner has a use for temporary objects, with which functions could be deceived.
    execute format('revoke temporary on database %I from public', current_database());
end
$$;

grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role to postgres with admin option;

alter role postgres set search_path = "$user", public, extensions;
alter role authenticator set statement_timeout = '8s';
grant usage on schema public to anon, authenticated, service_role;

-- Extensions live apart, so that no API role's search path meets them by accident.

create schema if not exists extensions authorization postgres;
grant usage on schema extensions to anon, authenticated, service_role;
create extension if not exists vector with schema extensions;

-- Who is asking: PostgREST puts the claims of the caller's token into request.jwt.claims.

create schema if not exists auth;
grant usage on schema auth to postgres, anon, authenticated, service_role;

create table if not exists auth.users (
    id uuid primary key default gen_random_uuid(),
    email text unique,
    phone text unique,
    raw_user_meta_data jsonb,
    raw_app_meta_data jsonb,
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);
alter table auth.users enable row level security;
grant select, insert, update, delete, references, trigger on auth.users to postgres;

create or replace function auth.jwt()
returns jsonb
language sql
stable
as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')
    )::jsonb
$$;

create or replace function auth.uid()
returns uuid
language sql
stable
as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim.sub', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
    )::uuid
$$;

create or replace function auth.role()
returns text
language sql
stable
as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim.role', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
    )
$$;

-- Where recordings are kept. Membership stands for what hosted Supabase lets postgres do here by other means: policies.

create schema if not exists storage authorization supabase_storage_admin;
grant supabase_storage_admin to postgres;
grant usage on schema storage to postgres, anon, authenticated, service_role;

create table if not exists storage.buckets (
    id text primary key,
    name text not null unique,
    public boolean default false,
    file_size_limit bigint,
    allowed_mime_types text[],
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);

create table if not exists storage.objects (
    id uuid primary key default gen_random_uuid(),
    bucket_id text references storage.buckets (id),
    name text,
    owner_id text,
    metadata jsonb,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    unique (bucket_id, name)
);
alter table storage.buckets owner to supabase_storage_admin;
alter table storage.objects owner to supabase_storage_admin;
alter table storage.buckets enable row level security;
alter table storage.objects enable row level security;
grant all on storage.buckets, storage.objects to postgres, service_role;
revoke all on storage.buckets, storage.objects from anon, authenticated;
grant select, insert, update, delete on storage.buckets, storage.objects to anon, authenticated;

-- What live updates listen to.

do $$
begin
    if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
        create publication supabase_realtime;
        alter publication supabase_realtime owner to postgres;
    end if;
end
$$;
