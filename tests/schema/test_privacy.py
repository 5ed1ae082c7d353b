"""Consent comes first and its withdrawal erases; what was done is noted; nothing is kept longer than the rows say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from fixtures.databases import Database
from fixtures.records import NOON, Records, at_cosine

NOW = datetime.now(UTC)


@pytest.fixture
def patient_id(records: Records) -> UUID:
    """A patient with everything: a baseline, scores, alerts, messages, recordings, a report of the provider."""
    patient_id = records.patient()
    records.caregiver(patient_id, name="Maria")
    records.enrol(patient_id, (1.0, 0.0, 0.0), at_cosine(0.99))
    for similarity in (0.99, 0.5, 0.97):
        records.judge(patient_id, at_cosine(similarity))
    records.do("select voice.learn_features(%s, %s)", patient_id, '{"features": {"pitch": 7.125}}')
    records.report("call-1", patient_id=patient_id, started_at=NOW, ended_at=NOW, at=NOW)
    [held] = records.claim_recordings(NOW)
    records.rpc(
        "store_recording", call_log_id=held["call_log_id"], lease_token=held["lease_token"],
        recording_ref=f"storage:voice-recordings/{held['object_path']}.wav", recording_channel="customer",
    )  # fmt: skip
    [claim] = records.rows("select * from voice.claim_checks('test-v1', 'w', 1, 60)")
    records.complete(claim)
    return patient_id


def vectors_of(records: Records, patient_id: UUID) -> list[str]:
    return [
        row["v"]
        for row in records.rows(
            """select embedding::text as v from voice.embeddings where patient_id = %s
               union select embedding::text from voice.baselines where patient_id = %s""",
            patient_id, patient_id,
        )
    ]  # fmt: skip


def scan(database: Database, wanted: str) -> set[str]:
    """Name every table of ours in which this text occurs, in whatever column."""
    tables = database.admin.execute(
        """select oid::regclass::text from pg_class
           where relkind in ('r', 'm')
               and relnamespace in ('public'::regnamespace, 'care'::regnamespace, 'voice'::regnamespace)"""
    ).fetchall()
    found = set()
    for (table,) in tables:
        query = sql.SQL("select exists (select from {} as t where position(%s in t::text) > 0)").format(sql.SQL(table))
        if database.admin.execute(query, [wanted]).fetchone() == (True,):
            found.add(table)
    return found


def erase(records: Records, patient_id: UUID, person: bool = False) -> dict[str, int]:
    name = "erase_patient" if person else "erase_patient_voice"
    counts: dict[str, int] = records.rpc(name, patient_id=patient_id, reason="asked for")[0][name]
    return counts


def test_an_erased_voice_is_nowhere(records: Records, patient_id: UUID) -> None:
    other_id = records.patient()
    records.judge(other_id, (0.0, 1.0, 0.0))
    vectors = vectors_of(records, patient_id)
    assert len(vectors) > 5
    assert all(scan(records.database, vector) for vector in vectors)
    counts = erase(records, patient_id)
    assert counts == {
        "checks": 6, "charts": 0,
        "chart_corrections": 0, "baselines": 5, "embeddings": 6, "usual_features": 1, "recordings": 1,
    }  # fmt: skip
    assert [vector for vector in vectors if scan(records.database, vector)] == []
    for table in ("voice.embeddings", "voice.baselines", "voice.baseline_samples", "care.recordings", "care.checks"):
        assert records.one(f"select count(*) from {table} where patient_id = %s", patient_id) == 0
    assert vectors_of(records, other_id) != []
    logs = records.rows("select embedding_id, baseline_id, anomaly_score from public.voice_anomaly_logs")
    assert len(logs) == 4
    assert all(row["embedding_id"] is None and row["baseline_id"] is None for row in logs)
    call = records.row("select recording_ref, speech_intervals from public.call_logs where provider is not null")
    assert call == {"recording_ref": None, "speech_intervals": None}
    assert records.one("select voice_consent_at from public.patients where id = %s", patient_id) is None


def test_an_erased_person_is_nowhere_but_in_the_audit_the_tombstones_and_what_is_to_be_deleted(
    records: Records, patient_id: UUID
) -> None:
    erase(records, patient_id, person=True)
    assert scan(records.database, str(patient_id)) == {"care.audit_log", "care.tombstones", "care.deletions"}
    assert scan(records.database, "Maria") == set()


def test_erasure_has_the_copies_in_storage_and_at_the_provider_deleted(records: Records, patient_id: UUID) -> None:
    call_id = records.one("select id from public.call_logs where provider is not null")
    erase(records, patient_id)
    claims = records.rpc("claim_deletions", worker="w", count=9, lease_seconds=60.0)
    assert sorted((row["kind"], row["reference"]) for row in claims) == [
        ("provider_call", "vapi/call-1"), ("storage_object", f"voice-recordings/{patient_id}/{call_id}.wav"),
    ]  # fmt: skip
    assert records.rpc("claim_deletions", worker="w", count=9, lease_seconds=60.0) == []
    first, second = claims
    held = {name: first[name] for name in ("deletion_id", "lease_token")}
    records.rpc("fail_deletion", **held, code="provider_unreachable", at=NOW)
    assert records.rpc("finish_deletion", **held)[0]["finish_deletion"] is False  # the lease went with the failure
    held = {name: second[name] for name in ("deletion_id", "lease_token")}
    assert records.rpc("finish_deletion", **held)[0]["finish_deletion"] is True
    rows = records.rows("select state, error_code from care.deletions order by state")
    assert rows == [
        {"state": "queued", "error_code": "provider_unreachable"}, {"state": "done", "error_code": None},
    ]  # fmt: skip
    assert records.one("select count(*) from care.audit_log where action = 'deletion_finished'") == 1
    [again] = records.rpc("claim_deletions", worker="w", count=9, lease_seconds=60.0, at=NOW + timedelta(hours=9))
    assert again["deletion_id"] == first["deletion_id"]


def test_a_deletion_whose_holder_vanished_is_anothers(records: Records, patient_id: UUID) -> None:
    erase(records, patient_id)
    lost = records.rpc("claim_deletions", worker="w", count=9, lease_seconds=-1.0)
    again = records.rpc("claim_deletions", worker="w", count=9, lease_seconds=60.0)
    for claims, expected in ((lost, False), (again, True)):
        for claim in claims:
            held = {name: claim[name] for name in ("deletion_id", "lease_token")}
            assert records.rpc("finish_deletion", **held)[0]["finish_deletion"] is expected


def test_withdrawing_consent_erases_and_stops(records: Records, patient_id: UUID) -> None:
    vectors = vectors_of(records, patient_id)
    caregiver = records.caregiver(patient_id)
    records.rpc("withdraw_consent", sub=caregiver, patient_id=patient_id)
    assert [vector for vector in vectors if scan(records.database, vector)] == []
    consent = records.row("select withdrawn_at, withdrawn_by from public.consents")
    assert consent["withdrawn_at"] is not None
    assert consent["withdrawn_by"] == caregiver
    assert records.row("select scope, reason from care.tombstones") == {
        "scope": "voice",
        "reason": "consent withdrawn",
    }
    assert records.judge(patient_id)["reason"] == "no_consent"


def test_whoever_is_judging_when_consent_is_withdrawn_stores_nothing(records: Records, patient_id: UUID) -> None:
    claim = records.open(records.call_log(patient_id))
    records.do("update public.patients set voice_consent_at = null where id = %s", patient_id)
    result = records.complete(claim)
    assert (result["state"], result["reason"]) == ("skipped", "no_consent")
    assert records.one("select count(*) from voice.embeddings") == 0


def test_consent_is_recorded_with_who_when_and_how(records: Records) -> None:
    patient_id = records.patient(consent=False)
    caregiver = records.caregiver(patient_id, "primary")
    [consent] = records.rpc(
        "record_consent", sub=caregiver, patient_id=patient_id, evidence="Form of 1 March", given_at=NOON
    )
    assert (consent["given_at"], consent["recorded_by"], consent["evidence"]) == (NOON, caregiver, "Form of 1 March")
    assert consent["scope"] == "voiceprint"
    assert records.one("select voice_consent_at from public.patients where id = %s", patient_id) == NOON
    [again] = records.rpc("record_consent", sub=caregiver, patient_id=patient_id, evidence="Another form")
    assert (again["given_at"] > NOON, again["evidence"]) == (True, "Another form")
    assert records.one("select voice_consent_at from public.patients where id = %s", patient_id) == NOON


def test_further_evidence_of_a_consent_that_stands_is_kept_with_its_time_and_its_recorder(records: Records) -> None:
    patient_id = records.patient(consent=False)
    caregiver = records.caregiver(patient_id, "primary")
    given: dict[str, Any] = {"patient_id": patient_id, "given_at": NOON}
    [first] = records.rpc("record_consent", sub=caregiver, evidence="Form of 1 March", **given)
    [second] = records.rpc("record_consent", evidence="Recorded sentence", patient_id=patient_id)
    assert records.rpc("record_consent", sub=caregiver, evidence="Form of 1 March", **given) == [first]
    kept = records.rows("select * from public.consents order by given_at")
    assert [(row["evidence"], row["recorded_by"]) for row in kept] == [
        ("Form of 1 March", caregiver), ("Recorded sentence", None),
    ]  # fmt: skip
    assert kept == [first, second]
    records.rpc("withdraw_consent", sub=caregiver, patient_id=patient_id)
    assert records.one("select count(*) from public.consents where withdrawn_at is null") == 0


def test_the_service_records_consent_with_its_evidence(records: Records) -> None:
    patient_id = records.call("add_patient", "Ana", "UTC", True, "Signed form 7")["id"]
    assert records.one("select evidence from public.consents") == "Signed form 7"
    since = records.call("set_consent", patient_id, True, "Signed form 8")["voice_consent_at"]
    assert records.one("select count(*) from public.consents where withdrawn_at is null") == 2
    assert records.one("select voice_consent_at from public.patients") == since


@pytest.mark.parametrize("column", ["voice_consent_at = '-infinity'", "voice_consent_at = '1899-12-31'"])
def test_a_consent_of_before_there_were_telephones_is_refused_by_the_table(records: Records, column: str) -> None:
    records.patient()
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        records.do(f"update public.patients set {column}")
    assert raised.value.diag.constraint_name == "consent_was_given_after_1900"


@pytest.mark.parametrize("days", [0, 367, 999_999_999])
def test_a_schedule_is_between_a_day_and_a_year(records: Records, days: int) -> None:
    records.patient()
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        records.do("update public.patients set silent_after_days = %s", days)
    assert raised.value.diag.constraint_name == "silence_takes_between_a_day_and_a_year"
    records.do("update public.patients set silent_after_days = 366")


def test_however_consent_is_set_it_is_recorded(records: Records) -> None:
    records.patient()
    silent_id = records.patient(consent=False)
    records.do("update public.patients set voice_consent_at = %s where id = %s", NOON, silent_id)
    rows = records.rows("select patient_id, evidence from public.consents")
    assert len(rows) == 2
    assert {row["evidence"] for row in rows} == {"patients.voice_consent_at was set"}


@pytest.mark.parametrize(
    "values",
    [
        {"evidence": " "},
        {"evidence": None},
        {"evidence": "x" * 10_001},
        {"given_at": NOW + timedelta(days=1)},
        {"given_at": "-infinity"},
        {"given_at": "1899-12-31"},
        {"given_at": None},
    ],
    ids=lambda values: str(values)[:40],
)
def test_consent_without_evidence_or_from_the_future_is_refused(records: Records, values: dict[str, Any]) -> None:
    given: dict[str, Any] = {"patient_id": records.patient(consent=False), "evidence": "A form"} | values
    with pytest.raises(psycopg.Error) as raised:
        records.rpc("record_consent", **given)
    assert raised.value.sqlstate == "PT400"


@pytest.mark.parametrize("function", ["record_consent", "withdraw_consent", "export_patient"])
def test_only_the_primary_caregiver_decides_about_consent_and_export(
    records: Records, patient_id: UUID, function: str
) -> None:
    more: dict[str, Any] = {"evidence": "A form"} if function == "record_consent" else {}
    for role, refusal in (("family", "PT403"), ("clinician", "PT403"), ("viewer", "PT403"), (None, "PT404")):
        account = records.caregiver(patient_id, role) if role else records.caregiver(records.patient())
        with pytest.raises(psycopg.Error) as raised:
            records.rpc(function, sub=account, patient_id=patient_id, **more)
        assert raised.value.sqlstate == refusal
    records.rpc(function, sub=records.caregiver(patient_id, "primary"), patient_id=patient_id, **more)


def test_erasing_is_the_privacy_officers(records: Records, patient_id: UUID) -> None:
    for function in ("erase_patient", "erase_patient_voice"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            records.rpc(function, sub=records.caregiver(patient_id), patient_id=patient_id, reason="asked for")


def test_the_export_holds_everything_and_no_vector(records: Records, patient_id: UUID) -> None:
    account = records.caregiver(patient_id)
    [row] = records.rpc("export_patient", sub=account, patient_id=patient_id)
    exported = row["export_patient"]
    assert len(exported["call_logs"]) == 6
    assert len(exported["voice_anomaly_logs"]) == 4
    assert len(exported["voice.embeddings"]) == 6
    assert "embedding" not in exported["voice.embeddings"][0]
    with_patients = records.rows(
        """select relnamespace::regnamespace || '.' || relname as name
           from pg_class join pg_attribute on attrelid = pg_class.oid
           where attname = 'patient_id' and relkind = 'r'
               and relnamespace in ('public'::regnamespace, 'care'::regnamespace, 'voice'::regnamespace)"""
    )
    assert {row["name"].replace("public.", "") for row in with_patients} <= set(exported)
    assert [vector for vector in vectors_of(records, patient_id) if vector in str(exported)] == []
    entry = records.row("select actor_id, actor_role, patient_id from care.audit_log where action = 'exported'")
    assert entry == {"actor_id": account, "actor_role": "authenticated", "patient_id": patient_id}


@pytest.mark.parametrize(("role", "may"), [("primary", True), ("family", True), ("clinician", True), ("viewer", False)])
def test_a_recording_is_read_by_those_who_may_play_it_and_that_is_noted(
    records: Records, patient_id: UUID, role: str, may: bool
) -> None:
    call_id = records.one("select id from public.call_logs where provider is not null")
    account = records.caregiver(patient_id, role)
    if may:
        [row] = records.rpc("read_recording", sub=account, call_log_id=call_id)
        assert row["read_recording"] == f"voice-recordings/{patient_id}/{call_id}.wav"
        assert records.one("select actor_id from care.audit_log where action = 'recording_read'") == account
        account = records.caregiver(records.patient(), role)
    with pytest.raises(psycopg.Error) as raised:
        records.rpc("read_recording", sub=account, call_log_id=call_id)
    assert raised.value.sqlstate == "PT404"


@pytest.mark.parametrize(
    "statement", ["update {} set id = id", "delete from {}", "truncate {}", "delete from {} where false"]
)
@pytest.mark.parametrize("table", ["care.audit_log", "care.tombstones"])
def test_the_audit_is_only_ever_added_to_also_by_its_owner(
    records: Records, patient_id: UUID, table: str, statement: str
) -> None:
    erase(records, patient_id)
    statement = statement.format(table).replace("set id = id", "set patient_id = null")
    for connection in (records.database.owner, records.database.admin):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            connection.execute(statement.encode())


def test_sensitive_changes_are_noted_without_a_word_about_the_person(records: Records, patient_id: UUID) -> None:
    records.do("update public.patients set name = 'Secret Name', phone = '+4930111111' where id = %s", patient_id)
    records.do("update public.patient_caregivers set role = 'clinician', phone = '+4930222222'")
    records.do("update care.thresholds set medium_above = 0.2")
    entries = {row["subject"].split()[0]: row for row in records.rows("select * from care.audit_log order by id")}
    assert entries["public.patients"]["detail"] == {"columns": ["name", "phone"]}
    assert entries["public.patient_caregivers"]["detail"] == {
        "columns": ["phone", "role"], "role": ["primary", "clinician"],
    }  # fmt: skip
    assert entries["care.thresholds"]["detail"] == {"columns": ["medium_above"], "medium_above": [0.25, 0.2]}
    assert entries["care.thresholds"]["actor_role"] == "postgres"
    text = str(records.rows("select detail from care.audit_log"))
    assert "Secret" not in text
    assert "+4930" not in text


def test_a_change_that_changes_nothing_is_not_noted(records: Records, patient_id: UUID) -> None:
    before = records.one("select count(*) from care.audit_log")
    records.do("update public.patients set name = name")
    assert records.one("select count(*) from care.audit_log") == before


def test_a_restored_backup_is_brought_up_to_date_by_replaying_the_tombstones(
    records: Records, patient_id: UUID
) -> None:
    person_id, vectors = records.patient(), vectors_of(records, patient_id)
    records.judge(person_id)
    with records.database.admin.transaction(force_rollback=True):  # the backup is what was before
        for erased, function in ((patient_id, "erase_patient_voice"), (person_id, "erase_patient")):
            records.database.admin.execute(f"select care.{function}(%s, 'asked for')".encode(), [erased])
        tombstones = records.database.admin.execute("select * from care.tombstones").fetchall()
    assert len(tombstones) == 3
    assert vectors_of(records, patient_id) == vectors

    def replay() -> list[bool]:
        return [records.call("replay_tombstone", *tombstone)["replay_tombstone"] for tombstone in tombstones]

    assert all(replay())
    assert vectors_of(records, patient_id) == []
    assert records.one("select count(*) from public.patients where id = %s", person_id) == 0
    assert not any(replay())  # and a second time changes nothing
    records.rpc("record_consent", patient_id=patient_id, evidence="A new form")
    records.judge(patient_id)
    assert not any(replay())
    assert vectors_of(records, patient_id) != []


def test_what_was_kept_long_enough_goes(records: Records, patient_id: UUID) -> None:
    records.report("call-2", phone="+4930999999")
    late = NOW + timedelta(days=91)
    assert records.run_due_jobs(NOW + timedelta(days=29))["delete_old_unmatched_calls"] == 1  # call-2
    assert records.one("select count(*) from care.unmatched_calls") == 0
    assert records.run_due_jobs(late)["delete_old_recordings"] >= 1
    assert records.one("select count(*) from public.call_logs where recording_ref like 'storage:%%'") == 0
    assert records.one("select count(*) from care.deletions") == 2
    assert records.one("select count(*) from voice.embeddings") == 6
    records.run_due_jobs(NOW + timedelta(days=731))
    samples = records.one(
        """select count(*) from voice.embeddings
           join voice.baseline_samples on baseline_samples.embedding_id = embeddings.id
           join voice.baselines on baselines.id = baseline_samples.baseline_id and baselines.superseded_at is null"""
    )
    assert samples == records.one("select count(*) from voice.embeddings") == 5  # what the present baseline is made of
    assert records.judge(patient_id)["state"] == "scored"
    assert records.one("select count(*) from care.audit_log where action = 'retention_enforced'") >= 3


def test_a_row_that_is_removed_keeps_for_ever(records: Records, patient_id: UUID) -> None:
    records.do("delete from care.retention_policies")
    records.run_due_jobs(NOW + timedelta(days=9999))
    assert records.one("select count(*) from voice.embeddings") == 6


def test_the_recordings_of_an_archive_that_is_imported_are_kept_as_long_as_any(records: Records) -> None:
    call_id = records.call_log(
        records.patient(), NOW - timedelta(days=1000), recording_ref="storage:voice-recordings/a"
    )
    [claim] = records.rows("select * from voice.claim_checks('test-v1', 'w', 1, 60)")
    records.complete(claim)
    records.run_due_jobs(NOW + timedelta(days=89))
    assert records.one("select recording_ref from public.call_logs where id = %s", call_id) is not None
