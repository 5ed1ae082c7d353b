"""A caller's temporary objects hijack no function that runs with its owner's rights.

Whoever may create temporary objects may call one `text`, `patients` or `lower`. Each kind of object is made, by each role that may call a
definer function, in a session whose own path has pg_temp first, and then a definer function is called that uses that name.
"""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest

from records import Records

ROLES = {
    # The role, and a call of definer functions that it may make: with plpgsql declarations, tables, operators and casts in them.
    "retrocare_service": "select voice.use_api_key(%(hash)s, 'read'), voice.register_encoder('other-v1', 3, 1.0), voice.patient_list()",
    "service_role": "select public.receive_call_report('vapi', 'call-x', %(patient_id)s), public.record_consent(%(patient_id)s, 'a form')",
    "authenticated": "select public.record_consent(%(patient_id)s, 'a form'), public.export_patient(%(patient_id)s)",
}

SPY = """create function pg_temp.spy() returns boolean language plpgsql as $$
    begin
        insert into pg_temp.seen values (session_user::pg_catalog.text || ' as ' || current_user::pg_catalog.text);
        return true;
    end $$"""
# The spy writes down as whom it ran. The table is made first, in the same session, by the same role.
SEEN = "create temporary table seen (who pg_catalog.text)"

KINDS = {
    "domain": [f"create domain pg_temp.{name} as pg_catalog.{name} check (pg_temp.spy())" for name in ("text", "uuid", "timestamptz", "jsonb", "bool")],
    "type": ["create type pg_temp.text as (a pg_catalog.int4)", "create type pg_temp.uuid as enum ('a')"],
    "table": [
        f"create temporary table {name} (id pg_catalog.uuid, patient_id pg_catalog.uuid)"
        for name in ("patients", "call_logs", "encoders", "api_keys", "voice_consents", "audit_log", "deletions")
    ],
    "view": ["create temporary view patients as select pg_temp.spy() as id", "create temporary view encoders as select pg_temp.spy() as id"],
    "function": [
        "create function pg_temp.lower(pg_catalog.text) returns pg_catalog.text language sql as 'select pg_temp.spy()::pg_catalog.text'",
        "create function pg_temp.now() returns pg_catalog.timestamptz language sql as 'select case when pg_temp.spy() then null::pg_catalog.timestamptz end'",
        "create function pg_temp.coalesce_ids(pg_catalog.uuid) returns pg_catalog.uuid language sql as 'select $1'",
    ],
    "operator": [
        "create function pg_temp.same(pg_catalog.uuid, pg_catalog.uuid) returns pg_catalog.bool language sql as 'select pg_temp.spy()'",
        "create operator pg_temp.= (function = pg_temp.same, leftarg = pg_catalog.uuid, rightarg = pg_catalog.uuid)",
        "create operator pg_temp.<> (function = pg_temp.same, leftarg = pg_catalog.uuid, rightarg = pg_catalog.uuid)",
    ],
    "cast": [
        "create type pg_temp.trick as (a pg_catalog.text)",
        "create function pg_temp.turn(pg_temp.trick) returns pg_catalog.text language sql as 'select pg_temp.spy()::pg_catalog.text'",
        "create cast (pg_temp.trick as pg_catalog.text) with function pg_temp.turn(pg_temp.trick) as implicit",
    ],
}  # fmt: skip


@pytest.fixture
def patient_id(records: Records) -> UUID:
    patient_id = records.patient()
    records.judge(patient_id)
    records.do("select voice.add_api_key('robot', '{read}', %s)", b"\0" * 32)
    return patient_id


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_temporary_object_never_runs_as_the_owner(records: Records, patient_id: UUID, role: str, kind: str) -> None:
    caregiver = records.caregiver(patient_id)
    database = records.database
    if role == "retrocare_service":
        context = psycopg.connect(database.service_url, autocommit=True)
    else:
        context = database.as_role(role, str(caregiver) if role == "authenticated" else None)
    with context as connection:
        connection.execute(SEEN)
        connection.execute("grant insert on seen to public")
        connection.execute(SPY)
        for statement in KINDS[kind]:
            connection.execute(statement.encode())
        connection.execute("set search_path = pg_temp, public, extensions")
        assert connection.execute("select pg_temp.spy()").fetchone() == (True,)  # the spy works
        values = {"patient_id": patient_id, "hash": b"\0" * 32}
        for call in ROLES[role].removeprefix("select ").split("), "):
            whole = call if call.endswith(")") else f"{call})"
            connection.execute(f"select {whole}".encode(), values)
        seen = {row[0] for row in connection.execute("select distinct who from pg_temp.seen").fetchall()}
    assert not [who for who in seen if who.endswith(" as postgres")], seen


def test_the_spy_would_be_seen_where_the_path_is_empty(records: Records, patient_id: UUID) -> None:
    """What is attacked here is real: with an empty path, the domain's check runs as the owner of the function."""
    records.do(
        """create function voice.open_door() returns boolean language plpgsql security definer set search_path = ''
           as $$ declare active text := 'x'; begin return active = 'x'; end $$"""
    )
    records.do("grant execute on function voice.open_door to retrocare_service")
    with psycopg.connect(records.database.service_url, autocommit=True) as connection:
        connection.execute("create temporary table seen (who pg_catalog.text); grant insert on seen to public")
        connection.execute(SPY)
        connection.execute("create domain pg_temp.text as pg_catalog.text check (pg_temp.spy())")
        connection.execute("select voice.open_door()")
        seen = connection.execute("select who from pg_temp.seen").fetchall()
    assert ("retrocare_service as postgres",) in seen
