"""The provider keeps a recording for two weeks: until then it is copied, whatever happens.

Where it never comes, the call says so.
"""

from __future__ import annotations

import re
import sys
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from fixtures.inputs import ROOT
from fixtures.records import NOON, Records

REF = "storage:voice-recordings/a/b.wav"
LATER = NOON + timedelta(hours=1)
END = NOON + timedelta(minutes=5, days=14)


@pytest.fixture
def call_log_id(records: Records) -> UUID:
    received = records.report(
        "call-1", patient_id=records.patient(), recording_url="https://r.example.org/1?key=k",
        recording_url_channel="stereo", recording_url_expires_at=NOON + timedelta(minutes=30),
        speech_intervals=Jsonb([[1, 2]]),
    )  # fmt: skip
    call_log_id: UUID = received["call_log_id"]
    return call_log_id


def store(records: Records, held: dict[str, Any], **values: Any) -> bool:
    given: dict[str, Any] = {"recording_ref": REF, "recording_channel": "customer"} | values
    held = {name: held[name] for name in ("call_log_id", "lease_token")}
    return bool(records.rpc("store_recording", **held, **given)[0]["store_recording"])


def fail(records: Records, held: dict[str, Any], at: datetime = LATER, is_permanent: bool = False) -> str:
    held = {name: held[name] for name in ("call_log_id", "lease_token")}
    failed = records.rpc("fail_recording", **held, code="late", message="not yet", is_permanent=is_permanent, at=at)
    return str(failed[0]["fail_recording"])


def test_a_claim_says_from_where_and_to_which_path(records: Records, call_log_id: UUID) -> None:
    [held] = records.claim_recordings(LATER)
    assert held["object_path"] == f"{held['patient_id']}/{call_log_id}"
    expected = {
        "call_log_id": call_log_id, "provider": "vapi", "provider_call_id": "call-1", "attempts": 1,
        "source_url": "https://r.example.org/1?key=k", "source_channel": "stereo", "speech_intervals": [[1, 2]],
        "source_expires_at": NOON + timedelta(minutes=30),
    }  # fmt: skip
    assert held | expected == held


def test_a_recording_is_copied_by_one_at_a_time(records: Records, call_log_id: UUID) -> None:
    assert len(records.claim_recordings(LATER)) == 1
    assert records.claim_recordings(LATER) == []


def test_a_recording_whose_holder_vanished_is_handed_out_again_and_the_first_holder_is_fenced_off(
    records: Records, call_log_id: UUID
) -> None:
    [lost] = records.claim_recordings(LATER, lease_seconds=-1.0)
    [held] = records.claim_recordings(LATER)
    assert held["attempts"] == 2
    assert store(records, lost, recording_ref="storage:voice-recordings/other.wav") is False
    assert fail(records, lost) == "leased"
    assert store(records, held) is True
    assert records.the_call()["recording_ref"] == REF


def test_one_call_can_be_asked_for(records: Records, call_log_id: UUID) -> None:
    other = records.report("call-2", patient_id=records.patient())["call_log_id"]
    assert [held["call_log_id"] for held in records.claim_recordings(LATER, call_log_id=other)] == [other]
    assert records.claim_recordings(LATER, call_log_id=uuid4()) == []


@pytest.mark.parametrize("channel", ["customer", "stereo", "mixed"])
def test_a_copied_recording_queues_its_check(records: Records, call_log_id: UUID, channel: str) -> None:
    assert store(
        records, records.claim_recordings(LATER)[0], recording_channel=channel, speech_intervals=Jsonb([[3, 4]])
    )
    call = records.the_call()
    assert (call["recording_ref"], call["recording_channel"], call["recording_source_url"]) == (REF, channel, None)
    assert (call["check_state"], call["speech_intervals"]) == ("queued", [[3, 4]])
    claimed = records.call("claim_checks", "test-v1", "w", 9, 60.0)
    assert (claimed["call_log_id"], claimed["speech_intervals"], claimed["recording_channel"]) == (
        call_log_id, [[3, 4]], channel,
    )  # fmt: skip
    assert records.the_recording()["state"] == "stored"
    assert records.claim_recordings(LATER) == []


def test_storing_twice_changes_nothing(records: Records, call_log_id: UUID) -> None:
    [held] = records.claim_recordings(LATER)
    assert [store(records, held) for _ in range(3)] == [True] * 3
    assert records.one("select count(*) from care.checks") == 1
    assert records.the_call()["speech_intervals"] == [[1, 2]]


def test_a_channel_that_is_none_is_refused_and_nothing_is_stored(records: Records, call_log_id: UUID) -> None:
    [held] = records.claim_recordings(LATER)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        store(records, held, recording_channel="both")
    assert records.the_recording()["state"] == "leased"
    assert records.the_call()["recording_ref"] is None


def test_a_failure_is_tried_again_after_a_wait_that_doubles(records: Records, call_log_id: UUID) -> None:
    at = LATER
    waits = []
    for _ in range(4):
        [held] = records.claim_recordings(at)
        assert fail(records, held, at) == "queued"
        waits.append((records.the_recording()["run_at"] - at).total_seconds())
        assert records.claim_recordings(at) == []
        at = records.the_recording()["run_at"]
    for wait, expected in zip(waits, (10, 20, 40, 80), strict=True):
        assert 0.8 * expected <= wait <= 1.2 * expected
    [issue] = records.seen("operator_issues")
    assert (issue["kind"], issue["code"], issue["detail"]) == ("recording_delayed", "late", "not yet")
    assert records.the_call()["check_state"] is None


def test_it_is_tried_until_the_provider_forgets_it_and_then_the_call_says_so(
    records: Records, call_log_id: UUID
) -> None:
    at, tries = LATER, 0
    while held := records.claim_recordings(at):
        tries += 1
        assert tries < 1000
        if fail(records, held[0], at) == "expired":
            break
        at = records.the_recording()["run_at"]
    records.run_due_jobs(max(at, END))
    assert END - timedelta(hours=1.2) <= at
    assert tries > 300  # an hour apart at most, for two weeks
    assert_lost(records, "expired", "recording_expired")


def test_what_nobody_came_to_copy_is_lost_in_the_end_and_the_call_says_so(records: Records, call_log_id: UUID) -> None:
    records.run_due_jobs(END - timedelta(minutes=1))
    assert records.the_recording()["state"] == "queued"
    assert records.claim_recordings(END) == []
    records.run_due_jobs(END)
    assert_lost(records, "expired", "recording_expired")


def test_what_cannot_be_taken_is_refused_for_good(records: Records, call_log_id: UUID) -> None:
    assert fail(records, records.claim_recordings(LATER)[0], is_permanent=True) == "refused"
    assert_lost(records, "refused", "recording_unavailable")


def assert_lost(records: Records, state: str, reason: str) -> None:
    call = records.the_call()
    assert records.the_recording()["state"] == state
    assert (call["check_state"], call["check_reason"]) == ("dead", reason)
    assert (call["recording_ref"], call["recording_source_url"]) == (None, None)
    assert records.claim_recordings(END + timedelta(days=1)) == []
    assert [issue["kind"] for issue in records.seen("operator_issues")] == ["recording_lost"]


def test_a_recording_that_is_being_copied_does_not_expire(records: Records, call_log_id: UUID) -> None:
    [held] = records.claim_recordings(END - timedelta(seconds=30))
    records.run_due_jobs(END + timedelta(seconds=20))
    assert store(records, held) is True
    assert records.the_call()["check_state"] == "queued"


def test_a_recording_expires_once_whoever_copied_it_has_vanished(records: Records, call_log_id: UUID) -> None:
    records.claim_recordings(END - timedelta(seconds=30))
    records.run_due_jobs(END + timedelta(seconds=30))
    assert_lost(records, "expired", "recording_expired")


def test_a_recording_that_the_integrator_gave_is_kept(records: Records, call_log_id: UUID) -> None:
    records.do("update public.call_logs set recording_ref = 'storage:voice-recordings/given.wav'")
    assert store(records, records.claim_recordings(LATER)[0])
    assert records.the_call()["recording_ref"] == "storage:voice-recordings/given.wav"
    assert records.one("select count(*) from care.checks") == 1


def test_consent_withdrawn_while_it_was_copied_is_respected(records: Records, call_log_id: UUID) -> None:
    [held] = records.claim_recordings(LATER)
    records.do("update public.patients set voice_consent_at = null")
    call = records.the_call()
    assert (call["check_state"], call["check_reason"]) == ("skipped", "no_consent")
    reference = f"voice-recordings/{held['object_path']}.wav"
    assert store(records, held, recording_ref=f"storage:{reference}") is False
    assert records.the_call()["recording_ref"] is None
    found = records.rows("select reference from care.deletions where kind = 'storage_object' and state = 'queued'")
    assert {"reference": reference} in found  # what was put there meanwhile does not stay


def test_erasing_the_patient_takes_the_recordings_along(records: Records, call_log_id: UUID) -> None:
    records.do("delete from public.patients")
    assert records.one("select count(*) from care.recordings") == 0


def test_recordings_are_kept_in_a_private_bucket_that_takes_audio_of_50_mib(records: Records) -> None:
    buckets = records.database.admin.execute(
        "select id, public, file_size_limit, allowed_mime_types from storage.buckets"
    ).fetchall()
    audio = (ROOT / "supabase" / "functions" / "_shared" / "recordings" / "audio.ts").read_text()
    uploaded = set(re.findall(r'contentType: "([^"]+)"', audio))
    [(name, is_public, limit, types)] = buckets
    assert (name, is_public, limit, set(types)) == ("voice-recordings", False, 50 * 2**20, uploaded)


@pytest.mark.parametrize(
    "garbage",
    [
        {}, "[[1, 2]]", 7, [1, 2], [[1]], [[1, 2, 3]], [[1, "2"]], [[1, None]], [[1, [2]]], [[0, 1e7]], [[-1e7, 2]],
        [[0, 10**5000]], [[0, 1]] * 10_001,
    ],
)  # fmt: skip
def test_times_of_speech_that_cannot_be_read_are_forgotten_and_the_call_is_kept(records: Records, garbage: Any) -> None:
    sys.set_int_max_str_digits(6000)
    records.report("call-1", patient_id=records.patient(), speech_intervals=Jsonb(garbage))
    assert records.the_call()["speech_intervals"] is None
    [held] = records.claim_recordings(LATER)
    store(records, held, recording_channel="stereo", speech_intervals=Jsonb(garbage))
    assert records.call("claim_checks", "test-v1", "w", 9, 60.0)["speech_intervals"] is None
