"""What the service does with people and calls: consent, flags, and the recording that a call gets."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from fixtures.records import NOON, Records, at_cosine

URL = "https://example.org/call.flac"


def open_flags(records: Records) -> list[str]:
    rows = records.rows("select flag from public.health_flags where resolved_at is null order by flag")
    return [row["flag"] for row in rows]


def test_consent_given_again_keeps_its_first_date_and_given_anew_gets_another(records: Records) -> None:
    patient_id = records.patient(consent=False)
    first = records.call("set_consent", patient_id, True)["voice_consent_at"]
    assert records.call("set_consent", patient_id, True)["voice_consent_at"] == first
    assert records.call("set_consent", patient_id, False)["voice_consent_at"] is None
    assert records.call("set_consent", patient_id, True)["voice_consent_at"] > first


@pytest.mark.parametrize("function", ["set_consent", "flag_patient", "unflag_patient"])
def test_somebody_who_is_no_patient_is_refused(records: Records, function: str) -> None:
    values = {"set_consent": (True,)}.get(function, ("flu", NOON))
    with pytest.raises(psycopg.Error) as raised:
        records.call(function, uuid4(), *values)
    assert raised.value.sqlstate == "RV002"


def test_only_the_flag_that_is_named_is_resolved_and_only_this_patients(records: Records) -> None:
    patient_id, other = records.patient(), records.patient()
    for person, flag in ((patient_id, "cough"), (patient_id, "flu"), (other, "flu again")):
        records.call("flag_patient", person, flag, NOON)
    assert records.call("unflag_patient", patient_id, "flu", NOON + timedelta(days=1))["flag"] == "flu"
    assert open_flags(records) == ["cough", "flu again"]
    records.call("unflag_patient", patient_id, None, NOON + timedelta(days=1))
    assert open_flags(records) == ["flu again"]


def test_a_flag_that_was_resolved_stays_as_it_was(records: Records) -> None:
    patient_id = records.patient()
    records.call("flag_patient", patient_id, "flu", NOON)
    for days in (1, 2):
        records.rows("select * from care.unflag_patient(%s, null, %s)", patient_id, NOON + timedelta(days=days))
    assert records.one("select resolved_at from public.health_flags") == NOON + timedelta(days=1)


def test_a_flag_never_ends_before_it_starts(records: Records) -> None:
    patient_id = records.patient()
    records.call("flag_patient", patient_id, "flu", NOON)
    resolved = records.call("unflag_patient", patient_id, "flu", NOON - timedelta(days=1))
    assert resolved["resolved_at"] == NOON
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        records.do("update public.health_flags set resolved_at = started_at - interval '1 second'")
    assert raised.value.diag.constraint_name == "a_health_flag_ends_after_it_starts"


def test_a_call_without_a_recording_gets_the_one_that_comes_and_keeps_its_channel(records: Records) -> None:
    patient_id = records.patient()
    call_log_id = records.call_log(patient_id)
    for ref, channel in ((URL, "left"), (URL + "2", "right")):
        records.call("record_call", patient_id, call_log_id, "api", ref, channel, None, None)
        row = records.row("select recording_ref, recording_channel from public.call_logs")
        assert row == {"recording_ref": URL, "recording_channel": "left"}


def test_a_provider_reports_a_call_once_and_a_person_cares_once_for_a_patient(records: Records) -> None:
    patient_id = records.patient()
    user_id = records.one("insert into auth.users default values returning id")
    for statement, name, values in (
        ("insert into public.call_logs (patient_id, provider, provider_call_id) values (%s, 'vapi', '1')",
         "a_provider_account_reports_a_call_once", [patient_id]),
        ("insert into public.patient_caregivers (patient_id, user_id) values (%s, %s)",
         "a_user_cares_once_for_a_patient", [patient_id, user_id]),
    ):  # fmt: skip
        records.do(statement, *values)
        with pytest.raises(psycopg.errors.UniqueViolation) as raised:
            records.do(statement, *values)
        assert raised.value.diag.constraint_name == name


def test_the_list_of_patients_shows_the_latest_calls_score_the_open_flags_and_the_active_encoders_baseline(
    records: Records,
) -> None:
    patient_id = records.patient()
    records.judge(patient_id, at=NOON - timedelta(days=9))
    for day, similarity in ((2, 0.5), (1, 0.9)):
        records.judge(patient_id, at_cosine(similarity), NOON + timedelta(days=day))
    records.call("flag_patient", patient_id, "cough", NOON + timedelta(days=3))
    records.call("unflag_patient", patient_id, None, NOON + timedelta(days=4))
    records.call("flag_patient", patient_id, "flu", NOON + timedelta(days=5))
    records.register("other-v1")
    records.complete(records.call("open_check", records.call_log(patient_id), "other-v1", "test", 60))
    [listed] = records.rows("select * from care.patient_list()")
    assert listed["last_anomaly_score"] == pytest.approx(0.5)
    assert (listed["open_flags"], listed["sample_count"], listed["alert_level"]) == (["flu"], 2, "emergency")
    records.do("update public.caregiver_alerts set state = 'resolved', resolved_at = now()")
    assert [row["alert_level"] for row in records.rows("select * from care.patient_list()")] == [None]
