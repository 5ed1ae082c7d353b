"""Whatever path a deletion takes, the recording goes, here and at the provider; no vector is without its patient."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from fixtures.inputs import ROOT
from fixtures.records import Records, at_cosine

NOW = datetime.now(UTC)
EXTENSIONS = {"wav", "ogg", "flac", "m4a", "webm", "mp3"}
ELSEWHERE = {"storage_object", "provider_call"}


def stored(records: Records, provider_call_id: str, patient_id: UUID | None, at: datetime = NOW, **report: Any) -> UUID:
    """Report a call and copy its recording into Storage; return the call."""
    call_log_id: UUID = records.report(
        provider_call_id, patient_id=patient_id, started_at=at, ended_at=at, at=at, **report
    )["call_log_id"]
    [held] = records.claim_recordings(at, call_log_id=call_log_id)
    records.rpc(
        "store_recording", call_log_id=call_log_id, lease_token=held["lease_token"],
        recording_ref=f"storage:voice-recordings/{held['object_path']}.wav", recording_channel="customer",
    )  # fmt: skip
    return call_log_id


def judged(
    records: Records, provider_call_id: str, patient_id: UUID, voice: tuple[float, ...] = (1.0, 0.0, 0.0)
) -> UUID:
    call_log_id = stored(records, provider_call_id, patient_id)
    records.complete(records.open(call_log_id), voice)
    return call_log_id


@pytest.fixture
def patient_id(records: Records) -> UUID:
    """A patient with a baseline of three calls, all reported by the provider, with their recordings in Storage."""
    patient_id = records.patient()
    records.do("update public.patients set phone = '+4930111111' where id = %s", patient_id)
    for number in range(3):
        judged(records, f"call-{number}", patient_id, at_cosine(1 - number / 50))
    return patient_id


def deletions(records: Records, state: str = "queued") -> set[tuple[str, str]]:
    rows = records.rows("select kind, reference from care.deletions where state = %s", state)
    return {(row["kind"], row["reference"]) for row in rows}


def delete_all(records: Records) -> None:
    for held in records.rpc("claim_deletions", worker="w", count=99, lease_seconds=60.0, at=datetime.now(UTC)):
        records.rpc("finish_deletion", deletion_id=held["deletion_id"], lease_token=held["lease_token"])


def vectors_without_a_consenting_patient(records: Records) -> int:
    count: int = records.one(
        """select count(*) from (
               select patient_id from voice.embeddings union all select patient_id from voice.baselines) as vectors
           where patient_id not in (select id from public.patients where voice_consent_at is not null)"""
    )
    return count


def as_service_role(statement: str) -> Callable[[Records, UUID], None]:
    def path(records: Records, patient_id: UUID) -> None:
        with records.database.as_role("service_role") as connection:
            connection.execute(statement.encode(), {"patient_id": patient_id})

    return path


def as_owner(statement: str) -> Callable[[Records, UUID], None]:
    return lambda records, patient_id: records.do(statement, patient_id)


def pass_retention(records: Records, patient_id: UUID) -> None:
    records.run_due_jobs(NOW + timedelta(days=91))


PATHS: dict[str, Callable[[Records, UUID], object]] = {
    "erasure of the voice": lambda r, p: r.rpc("erase_patient_voice", patient_id=p, reason="asked"),
    "erasure of the person": lambda r, p: r.rpc("erase_patient", patient_id=p, reason="asked"),
    "consent withdrawn": lambda r, p: r.rpc("withdraw_consent", patient_id=p),
    "consent removed from the row": as_service_role(
        "update public.patients set voice_consent_at = null where id = %(patient_id)s"
    ),
    "calls deleted by the service role": as_service_role(
        "delete from public.call_logs where patient_id = %(patient_id)s"
    ),
    "patient deleted by the service role": as_service_role("delete from public.patients where id = %(patient_id)s"),
    "patient deleted by the owner": as_owner("delete from public.patients where id = %s"),
    "retention": pass_retention,
}


@pytest.mark.parametrize("path", PATHS)
def test_the_copies_go_here_and_at_the_provider(records: Records, patient_id: UUID, path: str) -> None:
    undecided = stored(records, "call-9", patient_id, ended_reason="a-new-way-to-end")
    PATHS[path](records, patient_id)
    expected = {("provider_call", f"vapi/call-{number}") for number in (0, 1, 2, 9)}
    found = deletions(records)
    assert {entry for entry in found if entry[0] == "provider_call"} == expected
    assert len([entry for entry in found if entry[0] == "storage_object"]) == 4
    assert ("storage_object", f"voice-recordings/{patient_id}/{undecided}.wav") in found
    assert records.one("select count(*) from public.call_logs where recording_ref is not null") == 0
    assert records.one("select count(*) from care.recordings where recording_ref is not null") == 0
    assert vectors_without_a_consenting_patient(records) == 0


@pytest.mark.parametrize("path", [path for path in PATHS if path != "retention"])
def test_nothing_of_the_voice_is_left(records: Records, patient_id: UUID, path: str) -> None:
    PATHS[path](records, patient_id)
    left = records.row(
        """select (select count(*) from voice.embeddings) as embeddings,
               (select count(*) from voice.baselines) as baselines,
               (select count(*) from care.checks where reason is distinct from 'no_consent') as checks"""
    )
    assert left == {"embeddings": 0, "baselines": 0, "checks": 0}


@pytest.mark.parametrize("path", [path for path in PATHS if path.startswith(("erasure", "consent", "patient"))])
def test_each_erasure_leaves_a_tombstone(records: Records, patient_id: UUID, path: str) -> None:
    PATHS[path](records, patient_id)
    scope = "person" if "person" in path or path.startswith("patient") else "voice"
    found = records.rows("select * from care.tombstones where scope = %s", scope)
    assert [(row["patient_id"], row["scope"]) for row in found] == [(patient_id, scope)]


@pytest.mark.parametrize("path", PATHS)
def test_a_late_report_brings_nothing_back(records: Records, patient_id: UUID, path: str) -> None:
    PATHS[path](records, patient_id)
    delete_all(records)
    if "consent" in path or path == "erasure of the voice":
        records.rpc("record_consent", patient_id=patient_id, evidence="A new form")
    for named in ({"patient_id": patient_id}, {"phone": "+4930111111"}):
        received = records.report("call-1", summary="She told us", recording_url="https://example.org/1.wav", **named)
        assert (received["disposition"], received["is_new"]) == ("erased", False)
    assert records.one("select count(*) from care.unmatched_calls") == 0
    assert records.one("select count(*) from care.recordings where state in ('queued', 'leased')") == 0
    assert records.one("select count(*) from public.call_logs where summary is not null") == 0
    assert records.claims() == []
    unknown = records.rpc("unreported_calls", provider="vapi", provider_call_ids=["call-1", "call-7"])
    assert unknown == [{"unreported_calls": "call-7"}], "and nobody asks the provider for it again"


def test_a_report_that_names_an_erased_person_is_not_kept(records: Records, patient_id: UUID) -> None:
    records.rpc("erase_patient", patient_id=patient_id, reason="asked")
    assert records.report("call-8", patient_id=patient_id, summary="Late")["disposition"] == "erased"
    assert records.one("select count(*) from care.unmatched_calls") == 0


def test_what_is_stored_again_at_the_same_path_is_deleted_again(records: Records, patient_id: UUID) -> None:
    records.rpc("withdraw_consent", patient_id=patient_id)
    delete_all(records)
    assert deletions(records) == set()
    records.rpc("record_consent", patient_id=patient_id, evidence="A new form")
    path = records.one("select min(reference) from care.deletions where kind = 'storage_object'")
    records.call_log(patient_id, NOW, recording_ref=f"storage:{path}")
    records.rpc("withdraw_consent", patient_id=patient_id)
    assert ("storage_object", path) in deletions(records)


def test_what_comes_back_while_it_is_being_deleted_is_deleted_once_more(records: Records, patient_id: UUID) -> None:
    call_log_id = records.one("select min(id::text)::uuid from public.call_logs")
    records.rpc("erase_patient_voice", patient_id=patient_id, reason="asked")
    held = records.rpc("claim_deletions", worker="w", count=99, lease_seconds=60.0, at=datetime.now(UTC))
    records.rpc("record_consent", patient_id=patient_id, evidence="A new form")
    path = next(row["reference"] for row in held if str(call_log_id) in row["reference"])
    records.do("update public.call_logs set recording_ref = %s where id = %s", f"storage:{path}", call_log_id)
    records.rpc("erase_patient_voice", patient_id=patient_id, reason="asked again")
    for row in held:
        done = records.rpc("finish_deletion", deletion_id=row["deletion_id"], lease_token=row["lease_token"])
        assert done == [{"finish_deletion": row["reference"] not in {reference for _, reference in deletions(records)}}]
    assert ("storage_object", path) in deletions(records)


def test_a_file_that_is_stored_while_its_patient_is_erased_does_not_stay(records: Records) -> None:
    patient_id = records.patient()
    records.report("call-1", patient_id=patient_id, started_at=NOW, at=NOW)
    [held] = records.claim_recordings(NOW)
    records.rpc("erase_patient", patient_id=patient_id, reason="asked")
    path = f"voice-recordings/{held['object_path']}.wav"
    told = records.rpc(
        "store_recording", call_log_id=held["call_log_id"], lease_token=held["lease_token"],
        recording_ref=f"storage:{path}", recording_channel="customer",
    )  # fmt: skip
    assert told == [{"store_recording": False}]
    assert ("storage_object", path) in deletions(records)


def test_one_deleted_call_leaves_the_baseline_and_every_version_that_it_was_in(
    records: Records, patient_id: UUID
) -> None:
    sample = records.row(
        """select embeddings.call_log_id, embeddings.embedding::text as vector from voice.embeddings
           join voice.baseline_samples on embedding_id = embeddings.id
           join voice.baselines on baselines.id = baseline_id and superseded_at is null
           order by embeddings.id desc limit 1"""
    )
    with records.database.as_role("service_role") as connection:
        connection.execute("delete from public.call_logs where id = %s", [sample["call_log_id"]])
    baseline = records.baseline(patient_id)
    assert baseline is not None
    assert baseline["sample_count"] == 2
    mean = records.one(
        """select extensions.l2_normalize(extensions.avg(embedding))::text from voice.embeddings
           join voice.baseline_samples on embedding_id = embeddings.id where baseline_id = %s""",
        baseline["id"],
    )
    assert mean == records.one("select embedding::text from voice.baselines where id = %s", baseline["id"])
    made_of = records.rows(
        """select id from voice.baselines where sample_count <>
           (select count(*) from voice.baseline_samples where baseline_id = baselines.id)"""
    )
    assert made_of == [], "a version whose sample is gone"


def test_a_call_whose_patient_is_worked_on_is_not_deleted_and_nobody_waits_for_ever(
    records: Records, patient_id: UUID
) -> None:
    with records.database.connect(records.database.owner_url) as other, other.transaction():
        other.execute("select care.lock_patient(%s)", [patient_id])
        records.do("set lock_timeout = '2s'")
        with pytest.raises(psycopg.Error) as raised:
            records.do("delete from public.call_logs where patient_id = %s", patient_id)
        assert raised.value.sqlstate == "PT409"
    records.do("delete from public.call_logs where patient_id = %s", patient_id)


def test_a_deletion_that_fails_again_and_again_is_the_operators(records: Records, patient_id: UUID) -> None:
    records.rpc("erase_patient_voice", patient_id=patient_id, reason="asked")
    at = datetime.now(UTC)
    for attempt in range(3):
        assert [row for row in records.seen("operator_issues") if row["kind"] == "deletion_delayed"] == []
        for held in records.rpc("claim_deletions", worker="w", count=99, lease_seconds=60.0, at=at):
            if held["reference"] == "vapi/call-0":
                records.rpc(
                    "fail_deletion",
                    deletion_id=held["deletion_id"],
                    lease_token=held["lease_token"],
                    code="provider_refused",
                    at=at,
                )
            else:
                records.rpc("finish_deletion", deletion_id=held["deletion_id"], lease_token=held["lease_token"])
        at += timedelta(hours=2 + attempt)
    [issue] = [row for row in records.seen("operator_issues") if row["kind"] == "deletion_delayed"]
    assert (issue["code"], issue["detail"], issue["patient_id"]) == ("provider_refused", "3 attempts", patient_id)
    assert "call-0" not in issue["subject"]


@pytest.mark.parametrize("path", ["erasure", "expiry"])
def test_a_copy_of_which_nobody_told_is_deleted_too(records: Records, path: str) -> None:
    """The function that copied it vanished after Storage had it: of which kind the file is, nobody knows."""
    patient_id = records.patient()
    call_log_id = records.report("call-1", patient_id=patient_id, started_at=NOW, at=NOW)["call_log_id"]
    [held] = records.claim_recordings(NOW, lease_seconds=0.0)
    if path == "erasure":
        records.rpc("erase_patient", patient_id=patient_id, reason="asked")
    else:
        for days in (15, 91):
            records.run_due_jobs(NOW + timedelta(days=days))
    assert held["object_path"] == f"{patient_id}/{call_log_id}"
    found = {reference for kind, reference in deletions(records) if kind == "storage_object"}
    assert found == {f"voice-recordings/{held['object_path']}.{kind}" for kind in EXTENSIONS}


def test_the_kinds_of_files_are_those_that_are_copied() -> None:
    source = (ROOT / "supabase" / "functions" / "_shared" / "recordings" / "audio.ts").read_text()
    assert set(re.findall(r'extension: "(\w+)"', source)) == EXTENSIONS


def test_a_report_that_waits_for_an_erased_persons_number_goes_to_nobody_else(records: Records) -> None:
    erased, other = records.patient(), records.patient()
    records.do("update public.patients set phone = '+4930222222'")
    records.report("call-1", phone="+4930222222", summary="of whom?")
    assert records.one("select count(*) from care.unmatched_calls") == 1
    records.rpc("erase_patient", patient_id=erased, reason="asked")
    records.run_due_jobs(datetime.now(UTC))
    assert records.one("select count(*) from care.unmatched_calls") == 0
    assert records.one("select count(*) from public.call_logs where patient_id = %s", other) == 0


def test_a_report_that_is_taken_in_waits_no_longer(records: Records, patient_id: UUID) -> None:
    records.report("call-7", phone="+4930999999")
    records.report("call-7", patient_id=patient_id)
    assert records.one("select count(*) from care.unmatched_calls") == 0
