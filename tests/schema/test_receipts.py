"""What became of a message that its provider accepted: asked for, three times in all."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from fixtures.records import NOON, Records, at_cosine

MINUTE = timedelta(minutes=1)
EMERGENCY = 0.5


@pytest.fixture
def log_id(records: Records) -> Any:
    """Two caregivers of a patient have been told of an emergency by text message."""
    patient_id = records.patient()
    records.judge(patient_id)
    records.caregiver(patient_id, "primary", phone="+351910000001")
    records.caregiver(patient_id, "family", phone="+351910000002")
    judged = records.complete(records.open(records.call_log(patient_id, NOON)), at_cosine(EMERGENCY), at=NOON)
    for number, delivery in enumerate(records.claim_deliveries(NOON)):
        named = {name: delivery[name] for name in ("delivery_id", "lease_token")}
        records.rpc("finish_delivery", **named, provider_message_id=f"SM{number}", at=NOON)
    return judged["log_id"]


def claimed(records: Records, at: datetime, count: int = 9) -> list[str]:
    return sorted(claim["provider_message_id"] for claim in records.rpc("claim_receipts", count=count, at=at))


def finish(
    records: Records, provider_message_id: str, is_delivered: bool, at: datetime = NOON + 3 * MINUTE
) -> str | None:
    [row] = records.rows("select id from care.deliveries where provider_message_id = %s", provider_message_id)
    told = records.rpc("finish_receipt", delivery_id=row["id"], is_delivered=is_delivered, message="Failed.", at=at)
    state: str | None = told[0]["finish_receipt"]
    return state


def due(records: Records, at: datetime) -> int:
    return int(records.rows("select care.due_receipts(%s) as due", at)[0]["due"])


def alert_sent(records: Records, log_id: Any) -> bool:
    return bool(records.rows("select alert_sent from public.voice_anomaly_logs where id = %s", log_id)[0]["alert_sent"])


@pytest.mark.usefixtures("log_id")
def test_a_provider_is_asked_after_two_ten_and_sixty_minutes_and_then_no_more(records: Records) -> None:
    for minutes, expected in ((1, 0), (2, 2), (9, 0), (10, 2), (59, 0), (60, 2), (600, 0)):
        at = NOON + minutes * MINUTE
        assert due(records, at) == expected
        assert len(claimed(records, at)) == expected
        assert due(records, at) == 0


@pytest.mark.usefixtures("log_id")
def test_a_receipt_is_asked_for_by_one_at_a_time(records: Records) -> None:
    at = NOON + 2 * MINUTE
    assert [len(claimed(records, at, count=1)) for _ in range(3)] == [1, 1, 0]


def test_what_is_delivered_is_not_asked_for_again(records: Records, log_id: Any) -> None:
    assert finish(records, "SM0", is_delivered=True) == "accepted"
    assert claimed(records, NOON + 20 * MINUTE) == ["SM1"]
    assert finish(records, "SM0", is_delivered=False) == "accepted", "it has arrived"
    assert alert_sent(records, log_id)


def test_what_was_not_delivered_is_dead_and_the_operators(records: Records, log_id: Any) -> None:
    assert finish(records, "SM0", is_delivered=False) == "dead"
    [issue] = records.seen("operator_issues")
    assert (issue["kind"], issue["code"], issue["detail"]) == ("delivery_dead", "undelivered", "Failed.")
    assert alert_sent(records, log_id), "the other one may have arrived"
    assert finish(records, "SM1", is_delivered=False) == "dead"
    assert not alert_sent(records, log_id)
    issues = sorted(issue["kind"] for issue in records.seen("operator_issues"))
    assert issues == ["alert_untold", "delivery_dead", "delivery_dead"]
    assert claimed(records, NOON + 20 * MINUTE) == []


@pytest.mark.usefixtures("log_id")
def test_a_message_without_an_id_of_its_provider_has_no_receipt(records: Records) -> None:
    records.do("update care.deliveries set provider_message_id = null")
    assert (due(records, NOON + 20 * MINUTE), claimed(records, NOON + 20 * MINUTE)) == (0, [])


def test_a_receipt_of_a_message_that_was_erased_is_nothing(records: Records) -> None:
    told = records.rpc("finish_receipt", delivery_id=99, is_delivered=False, at=NOON)
    assert told[0]["finish_receipt"] is None
