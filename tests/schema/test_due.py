"""When work is due: the same for recordings, messages and deletions, on the clock of whoever asks."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from fixtures.records import NOON, Records, at_cosine

LISTS = ["recordings", "deliveries", "deletions"]


def queue(records: Records, work: str) -> None:
    """Queue one piece of work that is due at NOON."""
    patient_id = records.patient()
    if work == "recordings":
        records.report("call-1", patient_id=patient_id, at=NOON)
    elif work == "deliveries":
        records.caregiver(patient_id)
        records.judge(patient_id)
        records.judge(patient_id, at_cosine(0.1))
        records.do("update care.deliveries set run_at = %s", NOON)
    else:
        records.do("select care.queue_deletion(%s, 'storage_object', 'voice-recordings/a.wav')", patient_id)
        records.do("update care.deletions set run_at = %s", NOON)


def claim(records: Records, work: str, at: datetime) -> list[dict[str, Any]]:
    return records.rpc(f"claim_{work}", worker="w", count=9, lease_seconds=60.0, at=at)


def counted(records: Records, work: str, at: datetime) -> int:
    return int(records.row("select * from care.due_work(%s)", at)[work])


@pytest.mark.parametrize("work", LISTS)
def test_work_is_handed_out_whenever_it_is_counted_as_due(records: Records, work: str) -> None:
    queue(records, work)
    for seconds, is_due in ((-1, False), (0, True), (59, False), (60, True), (119, False), (120, True)):
        at = NOON + timedelta(seconds=seconds)
        assert (counted(records, work, at), len(claim(records, work, at))) == (is_due, is_due), seconds


@pytest.mark.parametrize("work", LISTS)
def test_work_that_has_ended_is_never_due(records: Records, work: str) -> None:
    queue(records, work)
    [held] = claim(records, work, NOON)
    lease: dict[str, Any] = {"lease_token": held["lease_token"]}
    if work == "recordings":
        fail = {"call_log_id": held["call_log_id"], "code": "gone", "message": "gone", "is_permanent": True}
        records.rpc("fail_recording", **lease, **fail, at=NOON)
    elif work == "deliveries":
        records.rpc("finish_delivery", **lease, delivery_id=held["delivery_id"], at=NOON)
    else:
        records.rpc("finish_deletion", **lease, deletion_id=held["deletion_id"], at=NOON)
    assert records.one(f"select due_at from care.{work}") is None
    assert counted(records, work, NOON + timedelta(days=1)) == 0
    assert claim(records, work, NOON + timedelta(days=1)) == []
