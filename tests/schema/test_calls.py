"""What is true of every call: it has begun, it stays with its patient, and it is one however often it is written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from fixtures.records import NOON, Records, at_cosine


def refusal(records: Records, statement: str, *values: object) -> str | None:
    with pytest.raises(psycopg.Error) as raised:
        records.do(statement, *values)
    return raised.value.sqlstate


@pytest.mark.parametrize("when", ["2099-01-01", "infinity", "-infinity", "1969-12-31"])
def test_a_call_that_has_not_begun_or_never_could_is_refused(records: Records, patient_id: UUID, when: str) -> None:
    insert = 'insert into public.call_logs (patient_id, "timestamp") values (%s, %s)'
    assert refusal(records, insert, patient_id, when) == "RV008"
    call_log_id = records.call_log(patient_id)
    assert refusal(records, 'update public.call_logs set "timestamp" = %s where id = %s', when, call_log_id) == "RV008"
    with pytest.raises(psycopg.Error) as raised:
        records.call("record_call", patient_id, None, "api", None, None, when, None)
    assert raised.value.sqlstate == "RV008"


def test_a_clock_that_is_wrong_by_a_zone_and_a_date_is_taken(records: Records, patient_id: UUID) -> None:
    records.call_log(patient_id, datetime.now(UTC) + timedelta(hours=38))


def test_a_call_of_an_earlier_database_that_lies_in_the_future_hides_no_silence(
    records: Records, patient_id: UUID
) -> None:
    records.judge(patient_id)
    records.do("update public.patients set silent_after_days = 3, voice_consent_at = %s", NOON)
    records.do("alter table public.call_logs disable trigger user")
    records.do(
        """insert into public.call_logs (patient_id, "timestamp", check_state) values (%s, '2099-01-01', 'scored')""",
        patient_id,
    )
    assert records.run_due_jobs(NOON + timedelta(days=9))["note_silences"] == 1


@pytest.mark.parametrize("taken_up", ["queued", "judged", "copying"])
def test_a_call_that_was_taken_up_stays_with_its_patient(records: Records, patient_id: UUID, taken_up: str) -> None:
    if taken_up == "copying":
        call_log_id = records.report("call-1", patient_id=patient_id, recording_url="https://example.org/a.wav")[
            "call_log_id"
        ]
    else:
        call_log_id = records.call_log(patient_id, recording_ref="https://example.org/a.wav")
    if taken_up == "judged":
        records.complete(records.open(call_log_id))
    other = records.patient()
    assert refusal(records, "update public.call_logs set patient_id = %s where id = %s", other, call_log_id) == "RV006"
    assert records.one("select patient_id from public.call_logs where id = %s", call_log_id) == patient_id


def test_a_call_that_nobody_has_taken_up_can_be_given_to_another_patient(records: Records, patient_id: UUID) -> None:
    call_log_id = records.call_log(patient_id)
    records.do("update public.call_logs set patient_id = %s where id = %s", records.patient(), call_log_id)


def written(records: Records, patient_id: UUID, **values: Any) -> UUID:
    [row] = records.rpc("upsert_call", patient_id=patient_id, provider="other", provider_call_id="call-1", **values)
    call_log_id: UUID = row["upsert_call"]
    return call_log_id


def test_an_integrator_writes_a_call_any_number_of_times_and_it_is_one(records: Records, patient_id: UUID) -> None:
    first = written(records, patient_id, occurred_at=NOON)
    assert records.claims() == []
    ref = "https://example.org/a.wav"
    assert [written(records, patient_id, recording_ref=ref, summary="a talk") for _ in range(3)] == [first] * 3
    [claim] = records.claims()
    assert (claim["call_log_id"], claim["recording_ref"]) == (first, ref)
    call = records.row("select * from public.call_logs")
    assert (call["timestamp"], call["summary"], call["source"]) == (NOON, "a talk", "provider")


def test_a_call_that_was_judged_keeps_its_recording(records: Records, patient_id: UUID) -> None:
    call_log_id = written(records, patient_id, recording_ref="https://example.org/a.wav")
    records.complete(records.open(call_log_id))
    written(records, patient_id, recording_ref="https://example.org/b.wav")
    assert records.one("select recording_ref from public.call_logs") == "https://example.org/a.wav"
    assert records.claims() == []


@pytest.mark.parametrize(
    ("change", "state"),
    [({"provider_call_id": ""}, "PT400"), ({"provider": ""}, "PT400"), ({"occurred_at": "2099-01-01"}, "RV008")],
)
def test_a_call_that_cannot_be_known_again_is_refused(
    records: Records, patient_id: UUID, change: dict[str, Any], state: str
) -> None:
    values = {"patient_id": patient_id, "provider": "other", "provider_call_id": "call-1", **change}
    with pytest.raises(psycopg.Error) as raised:
        records.rpc("upsert_call", **values)
    assert raised.value.sqlstate == state
    assert records.one("select count(*) from public.call_logs") == 0


def test_another_patients_call_is_refused_and_an_erased_one_too(records: Records, patient_id: UUID) -> None:
    written(records, patient_id)
    for whose, state in ((records.patient(), "RV006"), (patient_id, "PT409")):
        if state == "PT409":
            records.do("delete from public.call_logs")
        with pytest.raises(psycopg.Error) as raised:
            written(records, whose)
        assert raised.value.sqlstate == state


def test_only_the_service_role_writes_calls_so(records: Records, patient_id: UUID) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        records.rpc(
            "upsert_call", sub=records.caregiver(patient_id), patient_id=patient_id, provider="x", provider_call_id="1"
        )


SAME, OTHER = b"\1" * 32, b"\2" * 32


def asked(
    records: Records, patient_id: UUID, key: str | None = "key", sha256: bytes = SAME, caller: str = "robot"
) -> UUID:
    made = records.call("record_call", patient_id, None, "api", None, None, None, None, caller, key, sha256)
    call_log_id: UUID = made["record_call"]
    return call_log_id


def test_the_same_idempotency_key_is_the_same_call(records: Records, patient_id: UUID) -> None:
    first = asked(records, patient_id)
    assert [asked(records, patient_id) for _ in range(3)] == [first] * 3
    assert asked(records, patient_id, "another") != first
    assert asked(records, patient_id, caller="another") != first
    assert asked(records, patient_id, None) != asked(records, patient_id, None)


def test_an_idempotency_key_with_another_request_is_refused(records: Records, patient_id: UUID) -> None:
    asked(records, patient_id)
    for whose, sha256 in ((patient_id, OTHER), (records.patient(), OTHER)):
        with pytest.raises(psycopg.Error) as raised:
            asked(records, whose, sha256=sha256)
        assert raised.value.sqlstate == "RV009"


def test_an_idempotency_key_is_forgotten_after_a_day(records: Records, patient_id: UUID) -> None:
    first = asked(records, patient_id)
    records.run_due_jobs(datetime.now(UTC) + timedelta(hours=23.9))
    assert asked(records, patient_id) == first
    records.run_due_jobs(datetime.now(UTC) + timedelta(hours=24.1))
    assert asked(records, patient_id) != first


# What a provider says of the time never loses a recording.


@pytest.mark.parametrize("field", ["started_at", "ended_at"])
@pytest.mark.parametrize("when", ["2099-01-01", "1970-01-01", "infinity", "-infinity"])
def test_a_report_whose_clock_is_wrong_by_years_is_taken_in_at_the_time_it_came(
    records: Records, patient_id: UUID, field: str, when: str
) -> None:
    at = NOON + timedelta(minutes=6)
    received = records.report(
        "call-1", patient_id=patient_id, recording_url="https://example.org/a.wav", at=at, **{field: when}
    )
    call = records.row("select * from public.call_logs where id = %s", received["call_log_id"])
    assert NOON <= call["timestamp"] <= at
    expires = records.one("select expires_at from care.recordings")
    assert at + timedelta(days=1) <= expires <= at + timedelta(days=15)


def test_a_patient_who_falls_silent_is_judged_and_one_who_said_nothing_is_not(
    records: Records, patient_id: UUID
) -> None:
    said = {"speech_intervals": Jsonb([[1, 4]])}
    nothing: dict[str, Any] = {"speech_intervals": Jsonb([])}
    for number, (told, reason, state) in enumerate(
        [
            (said, "silence-timed-out", None),
            ({}, "silence-timed-out", None),
            (nothing, "silence-timed-out", "nobody_spoke"),
            (nothing, "customer-ended-call", None),
        ]
    ):
        received = records.report(f"call-{number}", patient_id=patient_id, ended_reason=reason, **told)
        call = records.row("select check_reason from public.call_logs where id = %s", received["call_log_id"])
        assert call["check_reason"] == state, (told, reason)
        queued = records.one("select count(*) from care.recordings where call_log_id = %s", received["call_log_id"])
        assert queued == (state is None)


# What an adjustment excused is not learned from.


@pytest.mark.parametrize("archived", [False, True])
def test_a_call_that_a_noisy_line_excused_is_not_learned_from(
    records: Records, patient_id: UUID, archived: bool
) -> None:
    if archived:
        for voice in ((1.0, 0.0, 0.0), at_cosine(0.63)):
            call_log_id = records.call_log(patient_id, NOON, "archive", "https://example.org/a.flac")
            [claim] = records.claims()
            assert claim["call_log_id"] == call_log_id
            result = records.complete(claim, voice, 3.0)
        assert (result["state"], result["added_to_baseline"]) == ("embedded", False)
        return
    records.judge(patient_id)
    result = records.judge(patient_id, at_cosine(0.63), snr_db=3.0)
    assert (result["severity"], result["added_to_baseline"]) == ("low", False)
    assert records.judge(patient_id, at_cosine(0.8), snr_db=3.0)["added_to_baseline"] is True


def test_four_excused_calls_leave_the_sick_voice_sick_and_the_healthy_one_healthy(
    records: Records, patient_id: UUID
) -> None:
    records.judge(patient_id)
    for _ in range(4):
        records.judge(patient_id, at_cosine(0.63), snr_db=8.0)
    assert records.judge(patient_id)["severity"] == "low"
    assert records.judge(patient_id, at_cosine(0.63))["anomaly_score"] == pytest.approx(0.37)


def test_a_call_that_the_hour_excused_is_not_learned_from(records: Records, patient_id: UUID) -> None:
    records.judge(patient_id)
    result = records.judge(patient_id, at_cosine(0.74), NOON.replace(hour=7, minute=30))
    assert (result["severity"], result["added_to_baseline"]) == ("low", False)


# A machine's voice is never judged, however its recording comes here.


def voicemail_by_upsert(records: Records, patient_id: UUID) -> UUID:
    return written(records, patient_id, recording_ref="https://example.org/a.wav", ended_reason="voicemail")


def voicemail_by_insert(records: Records, patient_id: UUID) -> UUID:
    with records.database.as_role("service_role") as connection:
        statement = """insert into public.call_logs (patient_id, recording_ref, ended_reason)
                       values (%s, 'https://example.org/a.wav', 'voicemail') returning id"""
        found: UUID = connection.execute(statement, [patient_id]).fetchall()[0][0]
    return found


def voicemail_by_request(records: Records, patient_id: UUID) -> UUID:
    call_log_id = records.report("call-1", patient_id=patient_id, ended_reason="voicemail")["call_log_id"]
    records.call("record_call", patient_id, call_log_id, "api", "https://example.org/a.wav", None, None, None)
    found: UUID = call_log_id
    return found


@pytest.mark.parametrize("how", [voicemail_by_upsert, voicemail_by_insert, voicemail_by_request])
def test_a_voicemail_greeting_is_not_judged_however_it_comes_here(
    records: Records, patient_id: UUID, how: Callable[[Records, UUID], UUID]
) -> None:
    call_log_id = how(records, patient_id)
    assert records.claims() == []
    assert records.open(call_log_id)["lease_token"] is None
    call = records.row("select check_state, check_reason from public.call_logs where id = %s", call_log_id)
    assert call == {"check_state": "skipped", "check_reason": "voicemail"}


def test_a_call_that_turns_out_to_be_a_voicemail_while_it_is_worked_on_is_not_judged(
    records: Records, patient_id: UUID
) -> None:
    records.judge(patient_id)
    call_log_id = written(records, patient_id, recording_ref="https://example.org/a.wav")
    [claim] = records.claims()
    records.do("update public.call_logs set ended_reason = 'voicemail' where id = %s", call_log_id)
    result = records.complete(claim, at_cosine(0.1))
    assert (result["state"], result["reason"], result["anomaly_score"]) == ("skipped", "voicemail", None)
    assert records.one("select count(*) from public.caregiver_alerts") == 0


def test_a_recording_that_was_only_embedded_with_an_archive_is_judged_when_it_is_asked_for(
    records: Records, patient_id: UUID
) -> None:
    for number, voice in enumerate(((1.0, 0.0, 0.0), at_cosine(0.3))):
        records.call_log(patient_id, NOON + timedelta(days=number), "archive", f"https://example.org/{number}.flac")
        records.complete(records.claims()[0], voice, recording=f"archived {number}")
    result = records.judge(patient_id, at_cosine(0.3), recording="archived 1")
    assert (result["state"], result["severity"], result["duplicate_of"]) == ("scored", "high", None)
    assert records.one("select count(*) from voice.embeddings") == 2


def test_a_duplicate_whose_first_call_was_deleted_is_judged_when_it_is_asked_for_again(
    records: Records, patient_id: UUID
) -> None:
    records.judge(patient_id)
    first = records.judge(patient_id, at_cosine(0.5), recording="monday")
    again = records.judge(patient_id, at_cosine(0.5), recording="monday")
    assert again["duplicate_of"] == first["call_log_id"]
    records.do("delete from public.call_logs where id = %s", first["call_log_id"])
    result = records.complete(records.open(again["call_log_id"]), at_cosine(0.5), recording="monday")
    assert (result["state"], result["duplicate_of"]) == ("scored", None)


def test_calls_that_are_held_one_after_the_other_are_the_operators(records: Records, patient_id: UUID) -> None:
    records.call("flag_patient", patient_id, "flu", NOON - timedelta(days=1))
    for days in range(3):
        records.judge(patient_id, at=NOON + timedelta(days=days))
    [issue] = records.seen("operator_issues")
    assert (issue["kind"], issue["code"], issue["detail"]) == (
        "recordings_unusable",
        "sick_without_baseline",
        "3 calls",
    )


def test_a_reconciliation_that_ended_in_the_future_passes_over_nothing(records: Records) -> None:
    records.rpc("finish_reconciliation", provider="vapi", until="2999-01-01")
    assert (
        NOON - timedelta(days=1) < records.rpc("reconcile_since", provider="vapi", at=NOON)[0]["reconcile_since"] < NOON
    )


def test_a_first_reconciliation_looks_as_far_back_as_the_provider_keeps_recordings(records: Records) -> None:
    assert records.rpc("reconcile_since", provider="vapi", at=NOON)[0]["reconcile_since"] == NOON - timedelta(days=14)
