"""The doorbell. pg_net and Vault are on Supabase only: a table that records the posts, and a view, stand for them."""

from __future__ import annotations

import pytest

from records import NOON, Records

STAND_INS = """
create schema net;
create table net.posts (url text, body jsonb, headers jsonb, timeout_milliseconds integer);
create function net.http_post(url text, body jsonb default '{}', params jsonb default '{}',
    headers jsonb default '{}', timeout_milliseconds integer default 5000)
returns bigint language sql as $$
    insert into net.posts values (url, body, headers, timeout_milliseconds) returning 1::bigint
$$;
create schema vault;
create view vault.decrypted_secrets as
    select 'python_service_url' as name, 'https://voice.example.org/' as decrypted_secret
    union all select 'retrocare_api_key', 'a key';
grant usage on schema net, vault to postgres;
grant insert on net.posts to postgres;
grant select on vault.decrypted_secrets to postgres;
"""


@pytest.fixture
def rung(records: Records) -> Records:
    records.database.admin.execute(STAND_INS)
    return records


def posts(records: Records) -> list[tuple[str, str, int]]:
    return records.database.admin.execute(
        "select url, headers ->> 'Authorization', timeout_milliseconds from net.posts"
    ).fetchall()


def queue(records: Records, calls: int = 1) -> None:
    records.do(
        """insert into public.call_logs (patient_id, "timestamp", recording_ref)
           select %s, %s, 'https://example.org/' || n from generate_series(1, %s) as n""",
        records.patient(),
        NOON,
        calls,
    )


def test_a_new_check_rings_at_the_service_with_its_key(rung: Records) -> None:
    queue(rung)
    assert posts(rung) == [("https://voice.example.org/wake", "Bearer a key", 2000)]


def test_without_pg_net_and_vault_a_check_is_queued_all_the_same(records: Records) -> None:
    queue(records)
    assert records.one("select state from voice.checks") == "queued"


@pytest.mark.parametrize(
    "breakage",
    [
        "drop view vault.decrypted_secrets",
        "create or replace view vault.decrypted_secrets as select ''::text as name, null::text as decrypted_secret",
        "drop table net.posts",
        "revoke usage on schema vault from postgres",
        "revoke usage on schema net from postgres",
    ],
)
def test_a_broken_doorbell_never_keeps_a_check_from_being_queued(rung: Records, breakage: str) -> None:
    rung.database.admin.execute(breakage.encode())
    queue(rung)
    assert rung.one("select state from voice.checks") == "queued"
