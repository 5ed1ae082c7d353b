"""What the operator sees and does: alerts, messages that died, thresholds, and flags that mean nothing."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from fixtures.records import NOON, Records, Row, at_cosine


def set_policy(records: Records, **changes: Any) -> Row:
    changed: Row = records.call("set_policy", "test-v1", json.dumps(changes))["set_policy"]
    return changed


def test_values_of_a_policy_change_together(records: Records) -> None:
    changed = set_policy(records, medium_above=0.5, high_above=0.6, baseline_minimum_samples=4)
    assert (changed["medium_above"], changed["high_above"], changed["baseline_minimum_samples"]) == (0.5, 0.6, 4)
    assert records.one("select voice.policy_values('test-v1')") == changed


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"medium": 0.5}, "PT400"),
        ({"encoder": "other-v1"}, "PT400"),
        ({"medium_above": 0.5}, "23514"),
        ({"medium_above": None}, "23502"),
        ({"medium_above": "NaN"}, "23514"),
        ({"baseline_minimum_samples": "many"}, "22P02"),
    ],
    ids=str,
)
def test_what_is_no_value_of_a_policy_is_refused(records: Records, changes: dict[str, Any], code: str) -> None:
    before = records.one("select voice.policy_values('test-v1')")
    with pytest.raises(psycopg.Error) as raised:
        set_policy(records, **changes)
    assert raised.value.sqlstate == code
    assert records.one("select voice.policy_values('test-v1')") == before


def test_a_message_that_died_is_queued_again_with_all_its_attempts(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    records.caregiver(patient_id, name="Rui")
    claim = records.open(records.call_log(patient_id, NOON))
    records.complete(claim, at_cosine(0.5), at=NOON)
    [message] = records.claim_deliveries(NOON)
    held = {name: message[name] for name in ("delivery_id", "lease_token")}
    failure: Row = {"code": "no_such_number", "message": "no", "is_permanent": True, "may_have_been_sent": False}
    records.rpc("fail_delivery", **held, **failure, at=NOON)
    [listed] = records.rows("select * from care.delivery_list('{dead}', null, 9)")
    assert (listed["id"], listed["caregiver"], listed["error_code"]) == (
        message["delivery_id"],
        "Rui",
        "no_such_number",
    )
    assert records.rows("select * from care.requeue_deliveries(%s)", [message["delivery_id"] + 1]) == []
    assert records.rows("select * from care.requeue_deliveries(null)") == [{"requeue_deliveries": listed["id"]}]
    later = records.one("select now()") + timedelta(minutes=1)
    [again] = records.claim_deliveries(later)
    assert (again["delivery_id"], again["attempts"]) == (message["delivery_id"], 1)


def test_alerts_are_listed_the_most_urgent_first_and_those_that_are_over_on_request(records: Records) -> None:
    alerts = {}
    for similarity in (0.7, 0.1):
        patient_id = records.patient()
        records.judge(patient_id)
        records.judge(patient_id, at_cosine(similarity), NOON + timedelta(hours=1))
        alerts[similarity] = patient_id
    listed = records.rows("select * from care.alert_list(null, false, 9)")
    assert [(row["patient_id"], row["level"]) for row in listed] == [
        (alerts[0.1], "critical"),
        (alerts[0.7], "warning"),
    ]
    records.call("resolve_alert", listed[0]["id"], "other", None)
    [left] = records.rows("select * from care.alert_list(null, false, 9)")
    assert left["patient_id"] == alerts[0.7]
    [over] = records.rows("select * from care.alert_list(%s, true, 9)", alerts[0.1])
    assert (over["state"], over["last_change"], over["last_actor"]) == ("resolved", "resolved", "operator")


def test_a_flag_without_a_word_of_sickness_is_pointed_out(records: Records) -> None:
    patient_id = records.patient()
    records.do("update public.patients set flags = array['feaver', 'has pneumonia', 'hearing aid']")
    rows = records.rows("select * from care.unknown_flags()")
    assert [(row["patient_id"], row["flag"]) for row in rows] == [(patient_id, "feaver"), (patient_id, "hearing aid")]


def test_an_erasure_says_before_what_it_would_remove(records: Records) -> None:
    patient_id = records.patient()
    records.recorded(patient_id)
    records.judge(patient_id, at=NOON + timedelta(days=1))
    rows = records.rows("select * from care.erasure_preview(%s)", patient_id)
    preview = {row["erased"]: row["row_count"] for row in rows}
    of_charts = {"charts": 0, "chart_corrections": 0, "usual_features": 0}
    assert preview == {"embeddings": 2, "baselines": 2, "checks": 2, "recordings": 1} | of_charts
    assert records.call("erase_patient_voice", patient_id, "asked")["erase_patient_voice"] == preview


def test_a_patient_is_changed_in_what_is_given_and_unset_where_that_is_said(records: Records) -> None:
    patient_id = records.patient("Europe/Lisbon")
    changed = records.call("change_patient", patient_id, None, None, "+4930123456", 3)
    assert (changed["name"], changed["timezone"], changed["phone"]) == ("Ana", "Europe/Lisbon", "+4930123456")
    changed = records.call("change_patient", patient_id, "Ann", None, "", 0)
    assert (changed["name"], changed["phone"], changed["silent_after_days"]) == ("Ann", None, None)
