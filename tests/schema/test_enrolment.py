"""Enrolment: which recordings become samples of a baseline, which leave it, and what a version remembers."""

from __future__ import annotations

import threading
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from fixtures.records import ENCODER, NOON, USUAL, Records, at_cosine


def test_a_baseline_remembers_its_enrolment_when_it_grows_and_when_it_shrinks(records: Records) -> None:
    patient_id, enrolment_id = records.patient(), uuid4()
    records.enrol(patient_id, USUAL, USUAL, USUAL, enrolment_id=enrolment_id)
    assert records.one("select is_provisional from public.patient_voice_baseline") is False
    records.judge(patient_id, at=NOON)
    grown = records.baseline(patient_id)
    assert grown is not None
    assert (grown["sample_count"], grown["enrolment_id"]) == (4, enrolment_id)
    records.call("flag_patient", patient_id, "flu", NOON - timedelta(days=1))
    shrunk = records.baseline(patient_id)
    assert shrunk is not None
    assert (shrunk["sample_count"], shrunk["enrolment_id"]) == (3, enrolment_id)


def test_an_enrolment_that_goes_on_keeps_what_was_added_meanwhile(records: Records) -> None:
    patient_id, enrolment_id = records.patient(), uuid4()
    records.enrol(patient_id, USUAL, enrolment_id=enrolment_id)
    for _ in range(3):
        assert records.judge(patient_id)["added_to_baseline"] is True
    records.judge(patient_id, USUAL, NOON, source="onboarding", enrolment_id=enrolment_id)
    found = records.baseline(patient_id)
    assert found is not None
    assert found["sample_count"] == 5


def test_a_flag_that_covers_no_sample_makes_no_new_version(records: Records) -> None:
    patient_id = records.patient()
    records.enrol(patient_id, USUAL, USUAL, USUAL)
    records.call("flag_patient", patient_id, "flu", NOON)
    found = records.baseline(patient_id)
    assert found is not None
    assert found["version"] == 3


def test_an_enrolment_that_goes_on_leaves_out_the_days_that_were_flagged_since(records: Records) -> None:
    patient_id, enrolment_id = records.patient(), uuid4()
    records.enrol(patient_id, USUAL, enrolment_id=enrolment_id)
    records.call("flag_patient", patient_id, "flu", NOON - timedelta(days=31))
    records.call("unflag_patient", patient_id, None, NOON - timedelta(days=29))
    records.judge(patient_id, USUAL, NOON, source="onboarding", enrolment_id=enrolment_id)
    found = records.baseline(patient_id)
    assert found is not None
    assert found["sample_count"] == 1


def test_an_enrolment_heard_by_two_encoders_makes_a_baseline_for_each(records: Records) -> None:
    patient_id, enrolment_id = records.patient(), uuid4()
    records.register("other-v1")
    call_log_id = records.call_log(patient_id, NOON, "onboarding", enrolment_id=enrolment_id)
    for encoder in (ENCODER, "other-v1"):
        claim = records.call("open_check", call_log_id, encoder, "test", 60)
        assert records.complete(claim)["added_to_baseline"] is True
    counts = records.rows("select encoder, sample_count from voice.baselines where superseded_at is null order by 1")
    assert [(row["encoder"], row["sample_count"]) for row in counts] == [("other-v1", 1), (ENCODER, 1)]


def test_the_onboarding_of_a_patient_who_is_sick_by_now_is_held_whatever_baseline_there_is(records: Records) -> None:
    patient_id = records.patient()
    records.enrol(patient_id, USUAL, USUAL, USUAL)
    records.call("flag_patient", patient_id, "flu", NOON - timedelta(days=1))
    result = records.judge(patient_id, USUAL, NOON, source="onboarding", enrolment_id=uuid4())
    assert (result["state"], result["reason"]) == ("held", "sick_at_enrolment")


def test_a_patient_has_one_current_baseline(records: Records) -> None:
    patient_id = records.patient()
    for _ in range(2):
        records.judge(patient_id)
    with pytest.raises(psycopg.errors.UniqueViolation) as raised:
        records.do("update voice.baselines set superseded_at = null")
    assert raised.value.diag.constraint_name == "a_patient_has_one_current_baseline_per_encoder"


def test_a_second_call_that_completes_meanwhile_waits_for_the_first(records: Records) -> None:
    patient_id = records.patient()
    first, second = (records.open(records.call_log(patient_id)) for _ in range(2))
    results = []
    url = records.database.service_url
    with psycopg.connect(url) as one, psycopg.connect(url) as two:
        records.complete(first, connection=one)
        thread = threading.Thread(target=lambda: results.append(records.complete(second, connection=two)))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        one.commit()
        thread.join(10)
    assert [result["state"] for result in results] == ["scored"]


def test_a_flag_that_is_written_while_a_call_completes_withdraws_it_all_the_same(records: Records) -> None:
    patient_id = records.patient()
    held = records.open(records.call_log(patient_id))
    flag = "insert into public.health_flags (patient_id, flag, started_at) values (%s, 'flu', %s)"
    with psycopg.connect(records.database.service_url) as one, psycopg.connect(records.database.owner_url) as two:
        assert records.complete(held, connection=one)["state"] == "enrolled"
        thread = threading.Thread(target=two.execute, args=(flag, [patient_id, NOON - timedelta(days=1)]))
        thread.start()
        thread.join(0.3)
        one.commit()
        thread.join(10)
    assert records.baseline(patient_id) is None


def test_a_flag_that_is_moved_to_an_earlier_start_withdraws_what_it_covers_now(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    records.call("flag_patient", patient_id, "flu", NOON + timedelta(days=1))
    assert records.baseline(patient_id) is not None
    records.do("update public.health_flags set started_at = %s", NOON - timedelta(days=1))
    assert records.baseline(patient_id) is None


def test_a_score_that_was_adjusted_is_the_calls_score_too(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    result = records.judge(patient_id, at_cosine(0.5), snr_db=7.5)
    assert result["anomaly_score"] == pytest.approx(0.4)
    call = "select anomaly_score from public.call_logs where id = %s"
    assert records.one(call, result["call_log_id"]) == result["anomaly_score"]
    assert records.rows("select * from voice.anomaly_logs(array[%s], null, 0)", patient_id) == []


def test_what_was_measured_is_kept_with_the_vector_and_with_the_check(records: Records) -> None:
    claim = records.open(records.call_log(records.patient()))
    values = (claim["check_id"], claim["lease_token"], "[1,0,0]", b"x" * 32, 10.0, 30.0, '{"windows": 7}')
    records.call("complete_check", *values)
    assert records.row("select snr_db, quality from voice.embeddings") == {"snr_db": 30.0, "quality": {"windows": 7}}
    kept = records.row("select detail, quality from care.checks")
    assert kept == {"detail": {"snr_db": 30.0, "added_to_baseline": True}, "quality": {"windows": 7}}


def test_after_consent_was_withdrawn_not_even_measures_are_kept(records: Records) -> None:
    patient_id = records.patient()
    claim = records.open(records.call_log(patient_id))
    records.call("set_consent", patient_id, False)
    values = (claim["check_id"], claim["lease_token"], "[1,0,0]", b"x" * 32, 10.0, 30.0, '{"windows": 7}')
    records.call("complete_check", *values)
    assert records.row("select detail, quality from care.checks") == {"detail": {}, "quality": {}}


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        (("[1.001,0,0]", b"x" * 32, 10.0), "an_embedding_has_unit_length"),
        (("[1,0,0]", b"x" * 31, 10.0), "a_sha256_has_32_bytes"),
        (("[1,0,0]", b"x" * 32, 0.0), "an_embedding_is_of_some_speech"),
    ],
)
def test_a_voiceprint_that_cannot_be_one_is_refused_by_name(
    records: Records, values: tuple[object, ...], constraint: str
) -> None:
    claim = records.open(records.call_log(records.patient()))
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        records.call("complete_check", claim["check_id"], claim["lease_token"], *values, None, "{}")
    assert raised.value.diag.constraint_name == constraint


def test_a_providers_address_is_forgotten_and_the_kept_recording_is_not(records: Records) -> None:
    call_log_id = records.call_log(records.patient(), recording_ref="storage:voice-recordings/1.flac")
    records.do("update public.call_logs set recording_source_url = 'https://example.org/x?key=1'")
    records.complete(records.open(call_log_id))
    row = records.row("select recording_ref, recording_source_url from public.call_logs")
    assert row == {"recording_ref": "storage:voice-recordings/1.flac", "recording_source_url": None}


def test_an_alert_says_when_it_was_last_raised_and_has_the_time_that_its_state_asks_for(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    for _ in range(2):
        records.judge(patient_id, at_cosine(0.5))
    assert records.one("select last_raised_at > opened_at from public.caregiver_alerts")
    for state, constraint in (
        ("resolved", "a_resolved_alert_has_its_time"),
        ("snoozed", "a_snoozed_alert_has_its_end"),
    ):
        with pytest.raises(psycopg.errors.CheckViolation) as raised:
            records.do("update public.caregiver_alerts set state = %s", state)
        assert raised.value.diag.constraint_name == constraint
