"""A caller's temporary objects hijack no function that runs with its owner's rights.

Whoever may create temporary objects may call one `text`, `patients` or `lower`. Each kind of object is made by each
role that may call a definer function, in a session whose own path has pg_temp first; then definer functions are called
that use those names.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from uuid import UUID

import psycopg
import pytest

from fixtures.databases import Connection
from fixtures.records import Records

# Definer functions that each role may call: with declarations, tables, operators and casts in them.
CALLS = {
    "retrocare_service": [
        "care.use_api_key(%(hash)s, 'read')",
        "voice.register_encoder('other-v1', 3, 1.0)",
        "care.patient_list()",
        "voice.active_encoder()",
        "care.run_job('advance_alerts')",
    ],
    "service_role": [
        "public.receive_call_report('vapi', 'call-x', %(patient_id)s)",
        "public.record_consent(%(patient_id)s, 'a form')",
        "public.claim_deliveries('w', 9, 60)",
    ],
    "authenticated": [
        "public.record_consent(%(patient_id)s, 'a form')",
        "public.export_patient(%(patient_id)s)",
        "public.set_my_preferences(%(patient_id)s, 'Mum', 'en', null, null, null)",
    ],
}
TYPES = ("text", "uuid", "timestamptz", "jsonb", "bool", "int4", "float8")
TABLES = ("patients", "call_logs", "encoders", "api_keys", "consents", "audit_log", "deletions", "settings")
SPY = """create function pg_temp.spy() returns boolean language plpgsql as $$
    begin
        insert into pg_temp.seen values (session_user::pg_catalog.text || ' as ' || current_user::pg_catalog.text);
        return true;
    end $$"""
SEEN = "create temporary table seen (who pg_catalog.text); grant insert on seen to public"
TEXT_FUNCTION = "returns pg_catalog.text language sql as 'select pg_temp.spy()::pg_catalog.text'"
SAME = "create function pg_temp.same(pg_catalog.{0}, pg_catalog.{0}) returns pg_catalog.bool language sql as {1}"

KINDS = {
    "domain": [f"create domain pg_temp.{name} as pg_catalog.{name} check (pg_temp.spy())" for name in TYPES],
    "type": ["create type pg_temp.text as (a pg_catalog.int4)", "create type pg_temp.uuid as enum ('a')"],
    "table": [f"create temporary table {name} (id pg_catalog.uuid, patient_id pg_catalog.uuid)" for name in TABLES],
    "view": [f"create temporary view {name} as select pg_temp.spy() as id" for name in TABLES],
    "function": [f"create function pg_temp.{name}(pg_catalog.text) {TEXT_FUNCTION}" for name in ("lower", "btrim")],
    "operator": [
        SAME.format("uuid", "'select pg_temp.spy()'"),
        "create operator pg_temp.= (function = pg_temp.same, leftarg = pg_catalog.uuid, rightarg = pg_catalog.uuid)",
        "create operator pg_temp.<> (function = pg_temp.same, leftarg = pg_catalog.uuid, rightarg = pg_catalog.uuid)",
    ],
    "cast": [
        "create type pg_temp.trick as (a pg_catalog.text)",
        f"create function pg_temp.turn(pg_temp.trick) {TEXT_FUNCTION}",
        "create cast (pg_temp.trick as pg_catalog.text) with function pg_temp.turn(pg_temp.trick) as implicit",
    ],
}


@pytest.fixture
def patient_id(records: Records) -> UUID:
    patient_id = records.patient()
    records.judge(patient_id)
    records.do("select care.add_api_key('robot', '{read}', %s)", b"\0" * 32)
    return patient_id


def connected(records: Records, patient_id: UUID, role: str) -> AbstractContextManager[Connection]:
    if role == "retrocare_service":
        return psycopg.connect(records.database.service_url, autocommit=True)
    return records.database.as_role(role, str(records.caregiver(patient_id)) if role == "authenticated" else None)


def seen_by_the_spy(
    connection: Connection, objects: list[str], calls: list[str], values: dict[str, object]
) -> set[str]:
    """Make the objects, make the calls, and return as whom the spy ran."""
    connection.execute(SEEN)
    connection.execute(SPY)
    for statement in objects:
        connection.execute(statement.encode())
    connection.execute("set search_path = pg_temp, public, extensions")
    assert connection.execute("select pg_temp.spy()").fetchone() == (True,), "the spy works"
    for call in calls:
        connection.execute(f"select {call}".encode(), values)
    return {row[0] for row in connection.execute("select distinct who from pg_temp.seen").fetchall()}


@pytest.mark.parametrize("role", CALLS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_temporary_object_never_runs_as_the_owner(records: Records, patient_id: UUID, role: str, kind: str) -> None:
    values: dict[str, object] = {"patient_id": patient_id, "hash": b"\0" * 32}
    with connected(records, patient_id, role) as connection:
        seen = seen_by_the_spy(connection, KINDS[kind], CALLS[role], values)
    assert not [who for who in seen if who.endswith(" as postgres")], seen


@pytest.mark.parametrize("role", CALLS)
def test_the_attack_is_real_where_the_search_path_is_empty(records: Records, patient_id: UUID, role: str) -> None:
    records.do(
        """create function voice.open_door() returns boolean language plpgsql security definer set search_path = ''
           as $$ declare active text := 'x'; begin return active = 'x'; end $$"""
    )
    records.do("grant execute on function voice.open_door to public")
    records.do("grant usage on schema care, voice to public")
    with connected(records, patient_id, role) as connection:
        seen = seen_by_the_spy(connection, KINDS["domain"][:1], ["voice.open_door()"], {})
    assert [who for who in seen if who.endswith(" as postgres")]
