"""Who reads what: the caregiver her own patients, the service its functions, everybody else nothing."""

from __future__ import annotations

from uuid import UUID, uuid4

import psycopg
import pytest

from fixtures.records import Records, at_cosine

READABLE = [
    "patients",
    "patient_caregivers",
    "call_logs",
    "health_flags",
    "daily_checkins",
    "voice_anomaly_logs",
    "caregiver_alerts",
    "patient_voice_baseline",
    "check_status",
]
SHOWN = {"patients": "id", "patient_caregivers": "patient_id"}
PRIVATE = [
    "voice.encoders",
    "voice.embeddings",
    "voice.baselines",
    "voice.baseline_samples",
    "voice.policies",
    "care.settings",
    "care.checks",
    "care.check_errors",
]


@pytest.fixture
def people(records: Records) -> dict[str, UUID]:
    """Make a patient with a row in each table, a caregiver of hers, and somebody else with a patient of his own."""
    found: dict[str, UUID] = {}
    for name in ("caregiver", "stranger"):
        patient_id = records.patient()
        records.judge(patient_id)
        records.judge(patient_id, at_cosine(0.1))
        records.call("flag_patient", patient_id, "tired", "2026-05-01")
        user_id = records.one("insert into auth.users (id) values (%s) returning id", uuid4())
        records.do("insert into public.patient_caregivers (patient_id, user_id) values (%s, %s)", patient_id, user_id)
        found |= {name: user_id, f"{name}'s patient": patient_id}
    return found


@pytest.mark.parametrize("relation", READABLE)
def test_a_caregiver_reads_her_own_patients_and_nobody_elses(
    records: Records, people: dict[str, UUID], relation: str
) -> None:
    column = SHOWN.get(relation, "patient_id")
    for name in ("caregiver", "stranger"):
        with records.database.as_role("authenticated", str(people[name])) as api:
            seen = {row[0] for row in api.execute(f"select {column} from {relation}")}
        assert seen == {people[f"{name}'s patient"]}


@pytest.mark.parametrize("relation", READABLE)
def test_who_cares_for_nobody_reads_nothing(records: Records, people: dict[str, UUID], relation: str) -> None:
    with records.database.as_role("authenticated", str(uuid4())) as api:
        assert api.execute(f"select count(*) from {relation}").fetchone() == (0,)


@pytest.mark.parametrize("relation", READABLE)
def test_anon_reads_nothing_at_all(records: Records, relation: str) -> None:
    with records.database.as_role("anon") as api, pytest.raises(psycopg.errors.InsufficientPrivilege):
        api.execute(f"select count(*) from {relation}")


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role", "retrocare_service"])
@pytest.mark.parametrize("table", PRIVATE)
def test_nobody_reads_the_private_tables(records: Records, people: dict[str, UUID], role: str, table: str) -> None:
    if role == "retrocare_service":
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            records.service.execute(f"select * from {table}")
        return
    with (
        records.database.as_role(role, str(people["caregiver"])) as api,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        api.execute(f"select * from {table}")


@pytest.mark.parametrize("relation", READABLE)
def test_the_service_reads_no_public_table(records: Records, relation: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        records.service.execute(f"select * from public.{relation}")


def test_the_totals_of_the_pipeline_are_for_operators_only(records: Records, people: dict[str, UUID]) -> None:
    for role in ("anon", "authenticated"):
        with (
            records.database.as_role(role, str(people["caregiver"])) as api,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            api.execute("select * from pipeline_health")


def test_no_view_shows_a_vector(records: Records) -> None:
    shown = records.rows(
        """select table_name, column_name from information_schema.columns
           where table_schema = 'public' and udt_name in ('vector', 'halfvec', 'sparsevec')"""
    )
    assert shown == []


def test_the_address_of_a_recording_is_shown_to_no_caregiver(records: Records, people: dict[str, UUID]) -> None:
    for column in ("recording_ref", "recording_source_url"):
        with (
            records.database.as_role("authenticated", str(people["caregiver"])) as api,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            api.execute(f"select {column} from call_logs")


def test_a_caregiver_writes_notes_and_nothing_else(records: Records, people: dict[str, UUID]) -> None:
    with records.database.as_role("authenticated", str(people["caregiver"])) as api:
        assert api.execute("update voice_anomaly_logs set notes = 'she had a cold'").rowcount == 1
        for change in (
            "update voice_anomaly_logs set anomaly_score = 0",
            "delete from voice_anomaly_logs",
            "insert into voice_anomaly_logs (patient_id) values (gen_random_uuid())",
            "update patients set name = 'x'",
            "update caregiver_alerts set state = 'resolved'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                api.execute(change)
    assert records.one("select count(*) from public.voice_anomaly_logs where notes is not null") == 1


def test_the_dashboard_adds_and_changes_patients(records: Records) -> None:
    with records.database.as_role("service_role") as api:
        api.execute("insert into patients (name, timezone) values ('Ana', 'Europe/Lisbon')")
        assert api.execute("update patients set flags = '{flu}', voice_consent_at = now()").rowcount == 1
        with pytest.raises(psycopg.errors.CheckViolation):
            api.execute("update patients set timezone = 'Mars/Olympus'")


def test_a_viewer_writes_no_notes(records: Records, people: dict[str, UUID]) -> None:
    records.do("update public.patient_caregivers set role = 'viewer'")
    with records.database.as_role("authenticated", str(people["caregiver"])) as api:
        assert api.execute("update voice_anomaly_logs set notes = 'x'").rowcount == 0


def test_the_owner_of_the_schema_is_no_superuser(records: Records) -> None:
    assert records.one("select rolsuper from pg_roles where rolname = 'postgres'") is False
    owners = records.rows(
        """select distinct pg_get_userbyid(relowner) as owner from pg_class
           where relnamespace in ('public'::regnamespace, 'care'::regnamespace, 'voice'::regnamespace)"""
    )
    assert owners == [{"owner": "postgres"}]
