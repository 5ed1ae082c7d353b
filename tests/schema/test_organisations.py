"""Organisations: whose patients and keys they are, and that each decides for its own patients."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from fixtures.records import NOON, USUAL, Records, at_cosine

WARNING = at_cosine(0.6)
HASH = b"\1" * 32
NIGHT = NOON.replace(hour=23)


@pytest.fixture
def elsewhere(records: Records) -> UUID:
    """Add another organisation."""
    added: UUID = records.one("insert into public.organisations (name) values ('Elsewhere') returning id")
    return added


def settle(records: Records, organisation: UUID, **values: object) -> None:
    for name, value in values.items():
        records.do(f"update care.organisation_settings set {name} = %s where organisation_id = %s", value, organisation)


def patients(records: Records, elsewhere: UUID) -> tuple[UUID, UUID]:
    """Give a patient of the default organisation, and one of the other."""
    here, there = records.patient(), records.patient()
    records.do("update public.patients set organisation_id = %s where id = %s", elsewhere, there)
    return here, there


def test_whoever_names_no_organisation_is_of_the_one_that_is_there_from_the_start(records: Records) -> None:
    default = records.one("select care.default_organisation()")
    assert records.rows("select id, name from public.organisations") == [{"id": default, "name": "Default"}]
    with records.database.as_role("service_role") as api:
        api.execute("insert into patients (name) values ('Ana')")
    assert records.one("select organisation_id from public.patients") == default
    records.call("add_api_key", "robot", ["read"], HASH)
    assert records.one("select organisation_id from care.api_keys") == default


def test_an_organisation_has_settings_of_its_own_from_the_start(records: Records, elsewhere: UUID) -> None:
    [default, own] = records.rows("select * from care.organisation_settings order by organisation_id = %s", elsewhere)
    assert own == default | {"organisation_id": elsewhere}


def test_an_organisation_that_has_patients_stays(records: Records, elsewhere: UUID) -> None:
    patients(records, elsewhere)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        records.do("delete from public.organisations where id = %s", elsewhere)


def test_quiet_hours_and_the_dashboard_are_those_of_the_patients_organisation(
    records: Records, elsewhere: UUID
) -> None:
    settle(records, elsewhere, quiet_from="22:00", quiet_until="09:00", dashboard_url="https://elsewhere.example.org")
    for patient_id in patients(records, elsewhere):
        records.caregiver(patient_id)
        records.judge(patient_id)
        claim = records.open(records.call_log(patient_id, NIGHT))
        records.complete(claim, WARNING, at=NIGHT)
    nights = records.rows(
        """select deliveries.run_at, caregiver_alerts.next_change_at
           from care.deliveries join public.caregiver_alerts on caregiver_alerts.id = alert_id order by run_at"""
    )
    mornings = [NIGHT + timedelta(hours=hours) for hours in (8, 10)]
    assert [night["run_at"] for night in nights] == mornings
    assert [night["next_change_at"] for night in nights] == [morning + timedelta(hours=4) for morning in mornings]
    sent = records.claim_deliveries(mornings[1])
    assert ["https://elsewhere.example.org" in message["message"] for message in sent] == [False, True]


def test_as_many_unusable_calls_as_the_patients_organisation_says_raise_an_alert(
    records: Records, elsewhere: UUID
) -> None:
    settle(records, elsewhere, unusable_calls_in_a_row=2)
    here, there = patients(records, elsewhere)
    records.do("update public.patients set voice_consent_at = %s", NOON - timedelta(days=9))
    for patient_id in (here, there):
        for hours, reason in enumerate(("no_speech", "no_speech", "too_long", "too_long")):
            claim = records.open(records.call_log(patient_id, NOON + timedelta(hours=hours)))
            records.call("abstain_check", claim["check_id"], claim["lease_token"], reason, "{}")
    assert [row["patient_id"] for row in records.rows("select patient_id from care.silences(%s)", NOON)] == [there]
    unusable = "select patient_id from care.operator_issues() where kind = 'recordings_unusable'"
    assert [row["patient_id"] for row in records.rows(unusable)] == [there]


def test_an_illness_lasts_as_long_as_the_patients_organisation_says(records: Records, elsewhere: UUID) -> None:
    settle(records, elsewhere, illness_days=3)
    lasting = []
    for patient_id in patients(records, elsewhere):
        caregiver = records.caregiver(patient_id)
        for voice in (USUAL, WARNING):
            records.judge(patient_id, voice)
        alert_id = records.one("select id from public.caregiver_alerts where patient_id = %s", patient_id)
        [alert] = records.rpc("resolve_alert", sub=caregiver, alert_id=alert_id, outcome="ill")
        ends = records.one("select resolved_at from public.health_flags where patient_id = %s", patient_id)
        lasting.append(ends - alert["resolved_at"])
        known = [
            records.one(
                "select care.is_known_illness(%s, %s, 'warning')", patient_id, ends + timedelta(minutes=minutes)
            )
            for minutes in (-1, 1)
        ]
        assert known == [True, False]
    assert lasting == [timedelta(days=14), timedelta(days=3)]


def test_the_overview_calls_recent_what_the_patients_organisation_does(records: Records, elsewhere: UUID) -> None:
    settle(records, elsewhere, recent_call_days=3)
    states = []
    for patient_id in patients(records, elsewhere):
        caregiver = records.caregiver(patient_id)
        for _ in range(3):
            records.judge(patient_id, USUAL, datetime.now(UTC) - timedelta(days=5))
        states += [row["state"] for row in records.seen("caregiver_patients", caregiver)]
    assert states == ["as_usual", "no_recent_call"]


def test_two_organisations_may_call_a_key_the_same_and_each_revokes_its_own(records: Records, elsewhere: UUID) -> None:
    default = records.one("select care.default_organisation()")
    records.call("add_api_key", "robot", ["read"], HASH)
    records.call("add_api_key", "robot", ["read"], b"\2" * 32, elsewhere)
    with pytest.raises(psycopg.errors.UniqueViolation) as raised:
        records.call("add_api_key", "robot", ["read"], b"\3" * 32, elsewhere)
    assert raised.value.diag.constraint_name == "a_name_stands_for_one_key_of_an_organisation"
    used = {"name": "robot", "is_allowed": True}
    assert records.call("use_api_key", HASH, "read") == used | {"organisation_id": default}
    assert records.call("use_api_key", b"\2" * 32, "read") == used | {"organisation_id": elsewhere}
    assert records.call("revoke_api_key", "robot", elsewhere)["revoke_api_key"] is True
    assert records.call("use_api_key", HASH, "read") == used | {"organisation_id": default}
    assert records.call("revoke_api_key", "robot", elsewhere)["revoke_api_key"] is False


def test_an_idempotency_key_is_known_within_its_patients_organisation(records: Records, elsewhere: UUID) -> None:
    here, there = patients(records, elsewhere)

    def record(patient_id: UUID, sha256: bytes) -> UUID:
        request = (patient_id, None, "api", None, None, NOON, None, "robot", "key-1", sha256)
        call_log_id: UUID = records.call("record_call", *request)["record_call"]
        return call_log_id

    assert record(here, HASH) == record(here, HASH) != record(there, b"\2" * 32)
    with pytest.raises(psycopg.Error) as raised:
        record(there, HASH)
    assert raised.value.sqlstate == "RV009"
    assert records.run_due_jobs(datetime.now(UTC) + timedelta(days=2))["delete_old_idempotency_keys"] == 2
