"""A RetroCare project that exists: its rows stay, what it lacks is added, what cannot work is refused at once."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from psycopg.errors import InsufficientPrivilege

from fixtures.databases import Database
from fixtures.records import NOON, Records, at_cosine
from retrocare.database.migrations import MigrationFailed, migrate

EARLIER = (Path(__file__).parent / "earlier_schema.sql").read_text()
ANA, RUI = (UUID(int=n) for n in (1, 2))


@pytest.fixture
def earlier(empty_database: Database) -> Database:
    empty_database.owner.execute(EARLIER.encode())
    return empty_database


@pytest.fixture
def adopted(earlier: Database) -> Records:
    migrate(earlier.owner_url)
    records = Records(earlier)
    records.register()
    return records


def test_every_row_is_kept(adopted: Records) -> None:
    counts = {
        table: adopted.one(f"select count(*) from public.{table}")
        for table in (
            "patients",
            "call_logs",
            "health_flags",
            "daily_checkins",
            "legacy_patient_voice_baseline",
            "legacy_voice_anomaly_logs",
        )
    }
    assert counts == dict.fromkeys(counts, 1) | {"patients": 2}
    assert adopted.row("select mood, severity::text from public.daily_checkins") == {"mood": "good", "severity": "high"}
    assert adopted.one("select notes from public.legacy_voice_anomaly_logs") == "first"
    assert adopted.one("select embedding from public.legacy_patient_voice_baseline") == "[0.1, 0.2]"


def test_an_adopted_patient_is_enrolled_and_judged(adopted: Records) -> None:
    adopted.call("set_consent", ANA, True)
    assert adopted.judge(ANA)["state"] == "enrolled"
    result = adopted.judge(ANA, at_cosine(0.4), NOON + timedelta(days=1))
    assert (result["state"], result["severity"]) == ("scored", "high")
    assert adopted.one("select severity::text from public.daily_checkins where date = '2026-03-03'") == "high"
    assert adopted.one("select level from public.caregiver_alerts") == "emergency"


def test_nobody_adopted_has_consented(adopted: Records) -> None:
    claim = adopted.open(adopted.call_log(ANA))
    assert adopted.call("stored_result", claim["check_id"])["reason"] == "no_consent"


def test_an_open_health_flag_counts_from_when_it_was_noted(adopted: Records) -> None:
    assert adopted.one("select started_at = created_at from public.health_flags")
    adopted.call("set_consent", RUI, True)
    assert adopted.judge(RUI, at=datetime.fromisoformat("2026-01-06T12:00+00:00"))["state"] == "held"


def test_flags_that_are_null_hold_nothing(adopted: Records) -> None:
    adopted.do("update public.patients set flags = null")
    adopted.call("set_consent", ANA, True)
    assert adopted.judge(ANA)["state"] == "enrolled"


def test_calls_from_before_queue_nothing(adopted: Records) -> None:
    assert adopted.one("select count(*) from care.checks") == 0


def test_row_level_security_is_switched_on_only_for_tables_made_here(earlier: Database) -> None:
    heard: list[str] = []
    migrate(earlier.owner_url, heard.append)
    secured: dict[str, bool] = dict(
        earlier.owner.execute(
            """select relname, relrowsecurity from pg_class
               where relnamespace = 'public'::regnamespace and relkind = 'r'"""
        ).fetchall()
    )
    kept = {"patients", "call_logs", "health_flags", "daily_checkins"}
    legacy = {"legacy_patient_voice_baseline", "legacy_voice_anomaly_logs"}
    assert {name for name, is_on in secured.items() if not is_on} == kept | legacy
    for name in kept:
        assert any(f"public.{name} exists and keeps its own row level security" in line for line in heard)


def test_a_table_without_row_level_security_is_opened_to_nobody(earlier: Database) -> None:
    heard: list[str] = []
    migrate(earlier.owner_url, heard.append)
    for table in ("patients", "call_logs", "health_flags", "daily_checkins"):
        with earlier.as_role("authenticated", str(UUID(int=9))) as api, pytest.raises(InsufficientPrivilege):
            api.execute(f"select id from {table}".encode())
        assert any(f"public.{table} has no row level security" in line for line in heard)


def test_a_project_that_grants_every_new_table_to_everybody_becomes_no_more_open(
    empty_database: Database, database: Database
) -> None:
    everybody = "anon, authenticated, service_role"
    empty_database.owner.execute(
        f"alter default privileges in schema public grant all on tables to {everybody}".encode()
    )
    migrate(empty_database.owner_url)
    query = """select grantee, table_name, privilege_type from information_schema.table_privileges
               where table_schema = 'public' and grantee in ('anon', 'authenticated', 'service_role')
               order by 1, 2, 3"""
    granted = empty_database.owner.execute(query).fetchall()
    assert granted == database.owner.execute(query).fetchall()


def test_adopting_twice_changes_nothing(earlier: Database) -> None:
    assert len(migrate(earlier.owner_url)) == 1
    assert migrate(earlier.owner_url) == []


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("alter table public.patients alter column flags type text using array_to_string(flags, ',')", "flags is text"),
        ("drop table public.health_flags; create table public.health_flags (id bigint)", "health_flags.id is bigint"),
        ("alter table public.call_logs alter timestamp type timestamp", "call_logs.timestamp is timestamp without"),
        ("alter table public.call_logs alter timestamp drop not null; update public.call_logs set timestamp = null",
         "call_logs.timestamp is null"),
        ("insert into public.daily_checkins (patient_id, date) select patient_id, date from public.daily_checkins",
         "several rows for one patient and day"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_a_hint_before_anything_changes(
    earlier: Database, spoil: str, told: str
) -> None:
    earlier.owner.execute(spoil.encode())
    with pytest.raises(MigrationFailed, match=told) as raised:
        migrate(earlier.owner_url)
    assert "then migrate again" in raised.value.hint
    tables = [
        row[0]
        for row in earlier.owner.execute(
            "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
        )
    ]
    assert "voice_anomaly_logs" in tables
    assert "legacy_voice_anomaly_logs" not in tables
    assert "patient_caregivers" not in tables


def test_a_project_with_ids_alone_gets_every_column(empty_database: Database) -> None:
    for table in ("organisations", "patients", "call_logs", "health_flags", "daily_checkins"):
        empty_database.owner.execute(f"create table public.{table} (id uuid primary key)".encode())
    empty_database.owner.execute("insert into public.organisations values (gen_random_uuid())")
    assert len(migrate(empty_database.owner_url)) == 1
    records = Records(empty_database)
    records.do("alter table public.patients alter column id set default gen_random_uuid()")
    for table in ("call_logs", "daily_checkins"):
        records.do(f"alter table public.{table} alter column id set default gen_random_uuid()")
    records.register()
    patient_id = records.patient()
    assert [records.judge(patient_id, voice)["state"] for voice in (at_cosine(1), at_cosine(0))] == [
        "enrolled",
        "scored",
    ]
    # Those that were there have settings, and patients are of the one that is there from the start.
    assert records.one("select count(*) from care.organisation_settings") == 2
    assert records.one("select organisation_id = care.default_organisation() from public.patients")


def test_adopted_calls_of_a_provider_are_of_its_account(earlier: Database) -> None:
    earlier.owner.execute("alter table public.call_logs add column provider text, add column provider_call_id text")
    earlier.owner.execute("update public.call_logs set provider = 'acme', provider_call_id = 'call-1'")
    migrate(earlier.owner_url)
    records = Records(earlier)
    assert records.one("select provider_account from public.call_logs") == "acme"
    assert records.row("select id, provider from care.provider_accounts where id = 'acme'")["provider"] == "acme"


def test_pgvector_in_another_schema_is_refused_with_the_command_that_moves_it(empty_database: Database) -> None:
    empty_database.admin.execute("drop extension vector; create extension vector with schema public")
    with pytest.raises(MigrationFailed, match="schema public, not in extensions") as raised:
        migrate(empty_database.owner_url)
    assert "alter extension vector set schema extensions" in raised.value.hint


def test_consent_that_an_earlier_project_noted_stands_and_can_be_withdrawn(earlier: Database) -> None:
    earlier.owner.execute("alter table public.patients add column voice_consent_at timestamptz")
    earlier.owner.execute("update public.patients set voice_consent_at = '2025-05-01' where id = %s", [ANA])
    migrate(earlier.owner_url)
    records = Records(earlier)
    records.register()
    assert records.judge(ANA)["state"] == "enrolled"
    records.rpc("withdraw_consent", patient_id=ANA)
    assert records.one("select voice_consent_at from public.patients where id = %s", ANA) is None
