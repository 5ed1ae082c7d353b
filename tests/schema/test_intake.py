"""A finished call is reported once or ten times, by the webhook or by the reconciliation: it is one call.

It is judged only if the patient was on it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from fixtures.records import NOON, Records

PHONE = "+4930123456"


@pytest.fixture
def patient_id(records: Records) -> UUID:
    patient_id = records.patient()
    records.do("update public.patients set phone = %s where id = %s", PHONE, patient_id)
    return patient_id


def counts(records: Records) -> dict[str, int]:
    tables = ("public.call_logs", "care.recordings", "care.checks", "care.unmatched_calls")
    return {table: records.one(f"select count(*) from {table}") for table in tables}


def test_a_report_becomes_a_call_with_a_recording_to_copy(records: Records, patient_id: UUID) -> None:
    intervals = [[0.5, 2.0], [4.0, 9.5]]
    received = records.report(
        "call-1", phone=PHONE, summary="Talked.", recording_url="https://r.example.org/1?key=k",
        recording_url_channel="stereo", recording_url_expires_at=NOON + timedelta(minutes=30),
        speech_intervals=Jsonb(intervals),
    )  # fmt: skip
    call, recording = records.the_call(), records.the_recording()
    assert received == {"call_log_id": call["id"], "disposition": "judge", "is_new": True}
    assert (call["patient_id"], call["timestamp"], call["source"]) == (patient_id, NOON, "provider")
    assert (call["provider"], call["provider_call_id"], call["ended_reason"]) == (
        "vapi",
        "call-1",
        "customer-ended-call",
    )
    assert (call["summary"], call["speech_intervals"]) == ("Talked.", intervals)
    assert (call["recording_source_url"], call["recording_ref"], call["check_state"]) == (
        "https://r.example.org/1?key=k", None, None,
    )  # fmt: skip
    assert (recording["state"], recording["source_channel"], recording["source_expires_at"]) == (
        "queued", "stereo", NOON + timedelta(minutes=30),
    )  # fmt: skip
    assert recording["expires_at"] == NOON + timedelta(minutes=5, days=14)


def test_the_same_call_reported_again_is_the_same_call(records: Records, patient_id: UUID) -> None:
    first = records.report("call-1", phone=PHONE)
    for _ in range(3):
        again = records.report("call-1", phone=PHONE, summary="Later.")
        assert again == first | {"is_new": False}
    assert counts(records) == {
        "public.call_logs": 1, "care.recordings": 1, "care.checks": 0, "care.unmatched_calls": 0,
    }  # fmt: skip
    assert records.the_call()["summary"] == "Later."


def test_reports_of_one_call_at_the_same_moment_make_one_call(records: Records, patient_id: UUID) -> None:
    with ThreadPoolExecutor(8) as pool:
        received = list(pool.map(lambda _: records.report("call-1", phone=PHONE), range(16)))
    assert sorted(row["is_new"] for row in received) == [False] * 15 + [True]
    assert counts(records)["public.call_logs"] == 1


def test_a_second_report_fills_in_what_the_first_lacked_and_changes_nothing_else(
    records: Records, patient_id: UUID
) -> None:
    records.report("call-1", phone=PHONE, summary=None, ended_reason="customer-ended-call")
    records.report(
        "call-1", phone=PHONE, summary="Talked.", ended_reason="voicemail",
        recording_url="https://r.example.org/1?key=k", recording_url_channel="customer",
        recording_url_expires_at=NOON + timedelta(hours=1),
    )  # fmt: skip
    call, recording = records.the_call(), records.the_recording()
    assert (call["summary"], call["ended_reason"], call["check_state"]) == ("Talked.", "customer-ended-call", None)
    assert call["recording_source_url"] == "https://r.example.org/1?key=k"
    assert (recording["source_channel"], recording["source_expires_at"]) == ("customer", NOON + timedelta(hours=1))


def test_a_fresh_address_is_tried_at_once(records: Records, patient_id: UUID) -> None:
    records.report("call-1", phone=PHONE)
    records.do("update care.recordings set run_at = %s", NOON + timedelta(days=1))
    records.report("call-1", phone=PHONE, recording_url="https://r.example.org/1", recording_url_channel="customer")
    assert records.the_recording()["run_at"] == NOON + timedelta(minutes=6)


@pytest.mark.parametrize(
    ("ended_reason", "reason"),
    [
        ("voicemail", "voicemail"),
        ("Voicemail", "voicemail"),
        ("assistant-ended-call-because-of-voicemail-detected", "voicemail"),
        ("customer-did-not-answer", "not_answered"),
        ("customer-busy", "not_answered"),
        ("twilio-reported-customer-misdialed", "not_answered"),
        ("vonage-rejected", "not_answered"),
        ("call-deleted", "not_answered"),
        ("scheduled-call-deleted", "not_answered"),
        ("call.ringing.hook-executed-say", "not_answered"),
        ("call.ringing.hook-executed-transfer", "not_answered"),
        ("call.ringing.sip-inbound-caller-hungup-before-call-connect", "not_answered"),
        ("assistant-join-timed-out", "call_failed"),
        ("pipeline-error-openai-llm-failed", "call_failed"),
        ("call.in-progress.error-vapifault-worker-died", "call_failed"),
        ("call.start.error-get-assistant", "call_failed"),
        ("assistant-request-returned-no-assistant", "call_failed"),
        ("assistant-not-found", "call_failed"),
        ("phone-call-provider-closed-websocket", "call_failed"),
    ],
)
def test_what_is_not_the_patient_speaking_is_never_judged(
    records: Records, patient_id: UUID, ended_reason: str, reason: str
) -> None:
    received = records.report("call-1", phone=PHONE, ended_reason=ended_reason, recording_url="https://r.example.org/1")
    call = records.the_call()
    assert received["disposition"] == "skip"
    assert (call["check_state"], call["check_reason"], call["recording_source_url"]) == ("skipped", reason, None)
    assert counts(records)["care.recordings"] == 0


@pytest.mark.parametrize(
    "ended_reason",
    [
        "customer-ended-call", "assistant-ended-call", "assistant-ended-call-after-message-spoken",
        "assistant-ended-call-with-hangup-task", "exceeded-max-duration", "assistant-said-end-call-phrase",
        "silence-timed-out", "call.in-progress.twilio-completed-call", "call.in-progress.sip-completed-call",
        "vonage-completed", "vonage-disconnected",
        "call.ending.hook-executed-say", "call.ending.hook-executed-transfer",
    ],
)  # fmt: skip
def test_what_is_the_patient_speaking_is_judged(records: Records, patient_id: UUID, ended_reason: str) -> None:
    assert records.report("call-1", phone=PHONE, ended_reason=ended_reason)["disposition"] == "judge"
    assert counts(records)["care.recordings"] == 1


@pytest.mark.parametrize("ended_reason", ["a-new-way-to-end", None])
def test_an_ended_reason_that_no_row_knows_waits_for_the_operator(
    records: Records, patient_id: UUID, ended_reason: str | None
) -> None:
    received = records.report("call-1", phone=PHONE, ended_reason=ended_reason)
    call = records.the_call()
    assert (received["disposition"], call["check_state"], call["check_reason"]) == (
        "unknown", "skipped", "ended_reason_unknown",
    )  # fmt: skip
    assert counts(records)["care.recordings"] == 1  # kept, so that it can still be judged
    [issue] = records.seen("operator_issues")
    assert (issue["kind"], issue["subject"], issue["detail"]) == (
        "unknown_ended_reason",
        f"vapi {ended_reason or ''}".strip(),
        "1 calls",
    )


@pytest.mark.parametrize("is_stored_before", [True, False])
def test_a_row_for_it_has_the_kept_recording_judged(records: Records, patient_id: UUID, is_stored_before: bool) -> None:
    received = records.report("call-1", phone=PHONE, ended_reason="a-new-way-to-end")
    for step in ("store", "decide") if is_stored_before else ("decide", "store"):
        assert records.the_call()["recording_ref"] is None
        store(records, received["call_log_id"]) if step == "store" else decide(records, "judge")
    call = records.the_call()
    assert (call["check_state"], call["check_reason"]) == ("queued", None)
    assert call["recording_ref"] == "storage:voice-recordings/a.wav"


def test_a_row_against_it_keeps_the_recording_from_being_judged(records: Records, patient_id: UUID) -> None:
    received = records.report("call-1", phone=PHONE, ended_reason="a-new-way-to-end")
    store(records, received["call_log_id"])
    decide(records, "skip", "voicemail")
    call = records.the_call()
    assert (call["check_state"], call["check_reason"], call["recording_ref"]) == ("skipped", "voicemail", None)


def store(records: Records, call_log_id: UUID) -> None:
    [claim] = records.claim_recordings(NOON + timedelta(hours=1))
    assert claim["call_log_id"] == call_log_id
    records.rpc(
        "store_recording", call_log_id=call_log_id, lease_token=claim["lease_token"],
        recording_ref="storage:voice-recordings/a.wav", recording_channel="customer",
    )  # fmt: skip


def decide(records: Records, disposition: str, reason: str | None = None) -> None:
    records.do("insert into care.ended_reasons values ('vapi', 'a-new-%%', %s, %s)", disposition, reason)
    done = records.run_due_jobs(NOON)
    assert done["redecide_calls"] == 1
    assert records.run_due_jobs(NOON)["redecide_calls"] == 0


def test_of_the_patterns_that_match_the_very_word_decides_else_one_that_skips(
    records: Records, patient_id: UUID
) -> None:
    ended = "assistant-ended-call-after-voicemail"
    assert records.report("call-1", phone=PHONE, ended_reason=ended)["disposition"] == "skip"
    records.do("insert into care.ended_reasons values ('vapi', %s, 'judge', null)", ended)
    assert records.report("call-2", phone=PHONE, ended_reason=ended)["disposition"] == "judge"


@pytest.mark.parametrize("is_recording_consented", [True, None])
def test_with_consent_the_recording_is_copied(
    records: Records, patient_id: UUID, is_recording_consented: bool | None
) -> None:
    records.report("call-1", phone=PHONE, is_recording_consented=is_recording_consented)
    assert counts(records)["care.recordings"] == 1


def test_without_consent_the_recording_is_not_even_copied(records: Records) -> None:
    patient_id = records.patient(consent=False)
    records.report("call-1", patient_id=patient_id)
    records.report("call-2", patient_id=records.patient(), is_recording_consented=False)
    calls = records.rows("select check_state, check_reason from public.call_logs")
    assert calls == [{"check_state": "skipped", "check_reason": "no_consent"}] * 2
    assert counts(records)["care.recordings"] == 0


def test_the_patient_is_named_by_id_before_the_number(records: Records, patient_id: UUID) -> None:
    other_id = records.patient()
    records.report("call-1", patient_id=other_id, phone=PHONE)
    assert records.the_call()["patient_id"] == other_id


@pytest.mark.parametrize(
    ("report", "code"),
    [
        ({"phone": "+4930999999"}, "patient_unknown"),
        ({"patient_id": uuid4()}, "patient_unknown"),
        ({"patient_id": uuid4(), "phone": PHONE}, "number_of_several"),  # an id that is wrong is no reason to guess
        ({"phone": PHONE}, "number_of_several"),
        ({}, "names_nobody"),
    ],
)
def test_a_call_of_nobody_known_is_kept_for_the_operator(
    records: Records, patient_id: UUID, report: dict[str, Any], code: str
) -> None:
    records.do("insert into public.patients (phone) values (%s)", PHONE)  # a couple shares the telephone
    received = records.report("call-1", **report)
    assert received == {"call_log_id": None, "disposition": "unmatched", "is_new": True}
    assert records.report("call-1", **report)["is_new"] is False
    assert counts(records)["public.call_logs"] == 0
    [issue] = records.seen("operator_issues")
    assert (issue["kind"], issue["subject"], issue["code"]) == ("unmatched_call", "vapi call-1", code)
    assert records.rpc("unreported_calls", provider="vapi", provider_call_ids=["call-1"]) == []


def test_a_job_takes_it_in_once_the_patient_has_the_number(records: Records) -> None:
    patient_id = records.patient()
    records.report("call-1", phone="+4930777777", summary="Talked.", speech_intervals=Jsonb([[1, 2]]))
    records.do("update public.patients set phone = '+4930777777'")
    assert records.run_due_jobs(NOON)["match_calls"] == 1
    call = records.the_call()
    assert (call["patient_id"], call["summary"], call["timestamp"]) == (patient_id, "Talked.", NOON)
    assert call["speech_intervals"] == [[1, 2]]
    assert counts(records)["care.unmatched_calls"] == 0
    assert records.the_recording()["state"] == "queued"


def test_a_call_stays_with_its_patient(records: Records, patient_id: UUID) -> None:
    records.report("call-1", patient_id=patient_id)
    records.report("call-1", patient_id=records.patient())
    assert records.the_call()["patient_id"] == patient_id


def test_a_report_without_an_id_or_of_another_provider_is_refused(records: Records, patient_id: UUID) -> None:
    for provider, call_id in (("vapi", ""), ("vapi", None), ("other", "call-1"), (None, "call-1")):
        with pytest.raises(psycopg.Error) as raised:
            records.rpc("receive_call_report", provider=provider, provider_call_id=call_id, phone=PHONE)
        assert raised.value.sqlstate == "PT400"
    assert set(counts(records).values()) == {0}


def test_calls_that_were_never_reported_are_named(records: Records, patient_id: UUID) -> None:
    records.report("call-1", phone=PHONE)
    missing = records.rpc(
        "unreported_calls", provider="vapi", provider_call_ids=["call-1", "call-2", "call-3", "call-2"]
    )
    assert sorted(row["unreported_calls"] for row in missing) == ["call-2", "call-3"]


def test_a_reconciliation_begins_where_the_last_one_ended_with_an_overlap(records: Records) -> None:
    def since() -> object:
        return records.rpc("reconcile_since", provider="vapi", at=NOON)[0]["reconcile_since"]

    assert since() == NOON - timedelta(days=14)
    for hours, expected in ((2, 3), (50, 3), (1, 2)):
        records.rpc("finish_reconciliation", provider="vapi", until=NOON - timedelta(hours=hours))
        assert since() == NOON - timedelta(hours=expected)
    assert records.rpc("reconcile_since", provider="other", at=NOON)[0]["reconcile_since"] is None


def test_a_number_that_is_none_is_refused(records: Records, patient_id: UUID) -> None:
    for phone in ("030 123456", "+0301234", "tel:+4930123456", "+49 30 123456", ""):
        with pytest.raises(psycopg.errors.CheckViolation) as raised:
            records.do("update public.patients set phone = %s", phone)
        assert raised.value.diag.constraint_name == "a_patients_phone_is_a_number"
