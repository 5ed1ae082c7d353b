"""A Supabase project for tests of the edge functions: PostgreSQL 18 with the migrations; over it an API with Storage.

    backend.py                says where it is in one line of JSON, and stops when its standard input ends
    backend.py COMMAND ...    runs a command with that line in RETROCARE_TEST_BACKEND, and exits as the command does

The API is ``@supabase/lite``, on a free port of loopback, run by the Deno in node_modules. It grants everything in
``public`` to the API roles, so grants are tested elsewhere (tests/schema). Its database can be set back between tests:
``call fixture.reset()`` leaves what the migrations left.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "service")]

from fixtures import inputs  # noqa: E402, F401  # which the processes that are started inherit
from fixtures.databases import Database, Server, short_folder  # noqa: E402
from retrocare.database.embedded import embedded  # noqa: E402

DENO = HERE / "node_modules" / ".bin" / "deno"
LITE = HERE / "node_modules" / "@supabase" / "lite" / "dist" / "cli" / "index.js"
BUCKET = "voice-recordings"
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "60"}
START_SECONDS = 60

# Columns that hosted Storage has, and the API's Storage writes.
STORAGE = """
alter table storage.buckets
    add column if not exists owner uuid,
    add column if not exists owner_id text;
alter table storage.objects
    add column if not exists owner uuid,
    add column if not exists user_metadata jsonb,
    add column if not exists path_tokens text[] generated always as (string_to_array(name, '/')) stored,
    add column if not exists version text,
    add column if not exists last_accessed_at timestamptz default now();
"""

# Columns that hosted Auth has, and the API's Auth writes.
ACCOUNTS = """
alter table auth.users
    add column if not exists aud text default 'authenticated',
    add column if not exists role text default 'authenticated',
    add column if not exists encrypted_password text,
    add column if not exists email_confirmed_at timestamptz,
    add column if not exists phone_confirmed_at timestamptz,
    add column if not exists confirmed_at timestamptz
        generated always as (least(email_confirmed_at, phone_confirmed_at)) stored,
    add column if not exists invited_at timestamptz,
    add column if not exists confirmation_token text,
    add column if not exists confirmation_sent_at timestamptz,
    add column if not exists recovery_token text,
    add column if not exists recovery_sent_at timestamptz,
    add column if not exists email_change text,
    add column if not exists email_change_token_new text,
    add column if not exists email_change_token_current text,
    add column if not exists email_change_sent_at timestamptz,
    add column if not exists email_change_confirm_status smallint default 0,
    add column if not exists phone_change text,
    add column if not exists phone_change_token text,
    add column if not exists phone_change_sent_at timestamptz,
    add column if not exists reauthentication_token text,
    add column if not exists reauthentication_sent_at timestamptz,
    add column if not exists last_sign_in_at timestamptz,
    add column if not exists is_super_admin boolean default false,
    add column if not exists is_sso_user boolean not null default false,
    add column if not exists is_anonymous boolean not null default false,
    add column if not exists banned_until timestamptz,
    add column if not exists deleted_at timestamptz;
"""

# The API encodes a list that is given for jsonb twice, as the hosted one does not: what arrives so is a JSON text.
DECODED = """
create schema fixture;

create function fixture.decode_intervals()
returns trigger
language plpgsql
as $$
begin
    new.speech_intervals := (new.speech_intervals #>> '{}')::jsonb;
    return new;
end
$$;
create trigger decode_intervals before insert or update on public.call_logs
for each row when (jsonb_typeof(new.speech_intervals) = 'string') execute function fixture.decode_intervals();
"""

# Every row that the migrations left is kept aside; reset() empties all tables and puts those rows back.
RESET = """
create table fixture.kept as
select
    format('%I.%I', table_schema, table_name) as name,
    (
        select string_agg(quote_ident(columns.column_name), ', ' order by columns.ordinal_position)
        from information_schema.columns
        where columns.table_schema = tables.table_schema
            and columns.table_name = tables.table_name
            and columns.is_generated = 'NEVER'
    ) as written,
    row_number() over (order by table_schema, table_name) as number
from information_schema.tables
where table_schema in ('public', 'care', 'voice', 'storage') and table_type = 'BASE TABLE';

do $$
declare
    kept record;
begin
    for kept in select * from fixture.kept loop
        execute format('create table fixture.%I as select %s from %s', 'kept_' || kept.number, kept.written, kept.name);
    end loop;
end
$$;

create procedure fixture.reset()
language plpgsql
as $$
declare
    kept record;
begin
    set local session_replication_role = replica;
    execute (select 'truncate ' || string_agg(name, ', ') || ' restart identity cascade' from fixture.kept);
    for kept in select * from fixture.kept loop
        execute format('insert into %s (%s) overriding system value table fixture.%I',
            kept.name, kept.written, 'kept_' || kept.number);
    end loop;
end
$$;
"""


@contextmanager
def backend() -> Iterator[dict[str, Any]]:
    """Start everything, and say where it is."""
    with short_folder() as folder, embedded(folder, 18, FAST) as postgres:
        server = Server(postgres.admin_url())
        try:
            with server.clone(server.migrated_template) as database:
                database.admin.execute((STORAGE + ACCOUNTS + DECODED).encode())
                database.admin.execute(
                    "insert into storage.buckets (id, name, public) values (%s, %s, false) on conflict do nothing",
                    [BUCKET, BUCKET],
                )
                with api(database) as reached:
                    database.admin.execute(RESET.encode())
                    yield reached
        finally:
            server.close()


@contextmanager
def api(database: Database) -> Iterator[dict[str, Any]]:
    """Serve one database over HTTP."""
    key, port, login = f"sb_secret_{secrets.token_hex(16)}", free_port(), conninfo_to_dict(database.admin_url)
    publishable_key, jwt_secret = f"sb_publishable_{secrets.token_hex(16)}", secrets.token_hex(32)
    settings = f"""
project_id = "retrocare"
[api]
port = {port}
schemas = ["public"]
[db]
driver = "postgres"
url = "postgres:///{database.name}"
[storage]
enabled = true
file_size_limit = "200MiB"
[auth]
publishable_key = "{publishable_key}"
secret_key = "{key}"
jwt_secret = "{jwt_secret}"
"""
    environment = {
        **os.environ,
        "PGHOST": str(login["host"]),
        "PGPORT": str(login.get("port", 5432)),
        "PGUSER": str(login["user"]),
        "EXPERIMENTAL_STORAGE": "1",
        "LITE_TELEMETRY": "0",
        "NO_COLOR": "1",
    }
    with tempfile.TemporaryDirectory(prefix="retrocare-api-") as project, (Path(project) / "log").open("w+b") as log:
        (Path(project) / "supabase").mkdir()
        (Path(project) / "supabase" / "config.toml").write_text(settings)
        command = [str(DENO), "run", "--allow-all", "--node-modules-dir=manual", str(LITE), "start", "--no-admin"]
        process = subprocess.Popen(
            command,
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # .bin/deno may be a script that starts another process
        )
        try:
            url = f"http://127.0.0.1:{port}"
            if not is_up(url, key, process):
                log.seek(0)
                raise SystemExit(f"The API does not start:\n{log.read().decode(errors='replace')}")
            yield {
                "api_url": url,
                "service_key": key,
                "publishable_key": publishable_key,
                "jwt_secret": jwt_secret,
                "bucket": BUCKET,
                "database_url": database.owner_url,
                "service_url": database.service_url,
                "database": {"host": login["host"], "port": 5432, "database": database.name},
            }
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(10)


def is_up(url: str, key: str, process: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            request = urllib.request.Request(f"{url}/rest/v1/patients?limit=0", headers={"apikey": key})
            with urllib.request.urlopen(request, timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)
    return False


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def main(command: list[str]) -> int:
    if not DENO.exists():
        raise SystemExit(f"{DENO} is missing: npm ci --prefix {HERE}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with backend() as reached:
            line = json.dumps(reached)
            if command:
                return subprocess.run(
                    command, env={**os.environ, "RETROCARE_TEST_BACKEND": line}, check=False
                ).returncode
            print(line, flush=True)
            sys.stdin.buffer.read()
    except KeyboardInterrupt:
        return 130
    except psycopg.Error as error:
        raise SystemExit(f"The database does not take the migrations: {error}") from None
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
