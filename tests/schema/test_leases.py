"""Leases among others: other workers, other encoders, a check that killed its worker, an upload in hand."""

from __future__ import annotations

import threading
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from fixtures.records import ENCODER, NOON, Records

URL = "https://example.org/call.flac"


def queue(records: Records, patient_id: UUID | None = None) -> UUID:
    return records.call_log(patient_id or records.patient(), NOON, "provider", URL)


def calls(claims: list[dict[str, object]]) -> list[object]:
    return [claim["call_log_id"] for claim in claims]


def impatient(records: Records) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(records.database.service_url, options="-c lock_timeout=2s")


@pytest.mark.parametrize("is_lost", [False, True], ids=["queued", "lost"])
def test_a_worker_waits_for_no_other_workers_transaction(records: Records, is_lost: bool) -> None:
    both = [queue(records) for _ in range(2)]
    if is_lost:
        records.claims(lease_seconds=-1)
    with impatient(records) as one, impatient(records) as two:
        assert calls(records.claims(count=1, connection=one)) == both[:1]
        assert calls(records.claims(count=1, connection=two)) == both[1:]


def test_an_upload_that_is_being_worked_on_is_not_buried(records: Records) -> None:
    held = records.open(records.call_log(records.patient()))
    assert records.claims() == []
    assert records.complete(held)["state"] == "enrolled"


def test_a_check_that_killed_its_worker_waits_after_a_failure_and_is_then_handed_out_alone(records: Records) -> None:
    suspect = queue(records)
    records.claims(lease_seconds=-1)
    [held] = records.claims()
    records.call("fail_check", held["check_id"], held["lease_token"], "recording_unreachable", "it broke", False)
    other = queue(records)
    assert calls(records.claims()) == [other]
    late = queue(records)
    records.do("update care.checks set run_at = now() - interval '1 second' where call_log_id = %s", suspect)
    assert calls(records.claims()) == [suspect]
    assert calls(records.claims()) == [late]


@pytest.mark.parametrize("is_lost", [False, True], ids=["queued", "lost"])
def test_the_work_of_another_encoder_is_left_to_it_and_holds_nobody_back(records: Records, is_lost: bool) -> None:
    patient_id = records.patient()
    records.register("other-v1")
    records.do("update care.models set is_active = false where id = %s", ENCODER)
    records.do("update care.models set is_active = true where id = 'other-v1'")
    queue(records, patient_id)
    if is_lost:
        records.rows("select * from voice.claim_checks('other-v1', 'other', 1, -1)")
    assert records.claims() == []
    records.do("update care.models set is_active = false where id = 'other-v1'")
    records.do("update care.models set is_active = true where id = %s", ENCODER)
    mine = queue(records, patient_id)
    assert calls(records.claims()) == [mine]


def test_a_call_is_judged_once_by_each_encoder_and_its_recording_is_no_duplicate(records: Records) -> None:
    records.register("other-v1")
    call_log_id = records.call_log(records.patient())
    for encoder in (ENCODER, "other-v1"):
        claim = records.call("open_check", call_log_id, encoder, "test", 60)
        assert records.complete(claim, recording="the same")["state"] == "enrolled"
    current = records.rows("select encoder from voice.baselines where superseded_at is null order by 1")
    assert [row["encoder"] for row in current] == ["other-v1", ENCODER]


def test_only_who_holds_a_check_gives_it_back(records: Records) -> None:
    queue(records)
    [held] = records.claims()
    assert records.call("release_check", held["check_id"], uuid4())["release_check"] is None
    records.complete(held)
    assert records.call("release_check", held["check_id"], held["lease_token"])["release_check"] is None
    assert records.one("select state from care.checks") == "enrolled"


def test_a_recording_that_comes_after_a_dead_upload_or_with_consent_queues_a_check(records: Records) -> None:
    dead = records.call_log(records.patient())
    held = records.open(dead)
    records.call("fail_check", held["check_id"], held["lease_token"], "internal_error", "broken", False)
    unwilling = records.patient(consent=False)
    skipped = records.call_log(unwilling)
    records.open(skipped)
    records.call("set_consent", unwilling, True)
    for call_log_id in (dead, skipped):
        records.do("update public.call_logs set recording_ref = %s where id = %s", URL, call_log_id)
        assert records.one("select check_state from public.call_logs where id = %s", call_log_id) == "queued"


def test_another_address_of_a_dead_checks_recording_queues_nothing(records: Records) -> None:
    queue(records)
    [held] = records.claims()
    records.call("fail_check", held["check_id"], held["lease_token"], "recording_not_found", "gone", True)
    records.do("update public.call_logs set recording_ref = %s", URL + "2")
    assert records.rows("select state from care.checks") == [{"state": "dead"}]


def test_a_call_shows_its_newest_check_whatever_becomes_of_an_older_one(records: Records) -> None:
    call_log_id = queue(records)
    records.register("other-v1")
    newest = records.call("open_check", call_log_id, "other-v1", "test", 60)
    records.complete(newest)
    [held] = records.claims()
    records.call("fail_check", held["check_id"], held["lease_token"], "recording_not_found", "gone", True)
    assert records.one("select check_state from public.call_logs") == "enrolled"


def test_two_services_that_register_the_first_encoders_at_once_agree_on_the_active_one(records: Records) -> None:
    records.do("delete from care.models")
    answers: list[bool] = []

    def register(connection: psycopg.Connection[tuple[bool]], encoder: str) -> None:
        [[is_active]] = connection.execute("select voice.register_encoder(%s, 3, 1.6)", [encoder]).fetchall()
        answers.append(is_active)

    url = records.database.service_url
    with psycopg.connect(url) as one, psycopg.connect(url) as two:
        register(one, "one-v1")
        thread = threading.Thread(target=register, args=(two, "two-v1"))
        thread.start()
        thread.join(0.3)
        one.commit()
        thread.join(10)
    assert answers == [True, False]


def test_an_encoder_keeps_its_window_and_only_calls_with_a_recording_wait_for_it(records: Records) -> None:
    with pytest.raises(psycopg.Error) as raised:
        records.call("register_encoder", ENCODER, 3, 5.0)
    assert raised.value.sqlstate == "RV004"
    records.do("delete from care.models")
    records.call_log(records.patient())
    records.register("first-v1")
    assert records.one("select count(*) from care.checks") == 0


def test_only_one_encoder_is_active(records: Records) -> None:
    records.register("other-v1")
    with pytest.raises(psycopg.errors.UniqueViolation) as raised:
        records.do("update care.models set is_active = true")
    assert raised.value.diag.constraint_name == "a_signal_has_one_active_model"


def test_no_wait_is_longer_than_the_cap(records: Records) -> None:
    records.do("update care.settings set retry_cap_seconds = 10")
    queue(records)
    for _ in range(3):
        records.do("update care.checks set run_at = now() - interval '1 second'")
        [held] = records.claims()
        records.call("fail_check", held["check_id"], held["lease_token"], "recording_unreachable", "x" * 5000, False)
    assert records.one("select run_at - now() from care.checks") < timedelta(seconds=12.1)
    assert records.one("select max(length(message)) from care.check_errors") == 1000


def test_an_operator_sees_the_last_error_and_a_requeued_check_has_all_its_attempts(records: Records) -> None:
    queue(records)
    for code, is_permanent in (("recording_unreachable", False), ("recording_not_found", True)):
        records.do("update care.checks set run_at = now() - interval '1 second'")
        [held] = records.claims()
        records.call("fail_check", held["check_id"], held["lease_token"], code, "it broke", is_permanent)
    assert records.call("check_list", None, None, 10)["error_code"] == "recording_not_found"
    records.rows("select care.requeue_checks(null, null)")
    assert records.row("select state, attempts from care.checks") == {"state": "queued", "attempts": 0}


def test_a_dead_check_that_was_opened_anew_is_not_queued_again(records: Records) -> None:
    call_log_id = queue(records)
    [held] = records.claims()
    records.call("fail_check", held["check_id"], held["lease_token"], "recording_not_found", "gone", True)
    records.complete(records.open(call_log_id))
    assert records.rows("select care.requeue_checks(null, null)") == []
    assert records.one("select check_state from public.call_logs") == "enrolled"


def test_pipeline_health_tells_what_is_due_from_what_waits_and_what_is_held_from_what_is_lost(records: Records) -> None:
    for _ in range(4):
        queue(records)
    records.claims(count=1)
    records.claims(count=1, lease_seconds=-1)
    records.do(
        """update care.checks set run_at = now() + interval '1 hour', created_at = now() - interval '1 day'
           where id = (select max(id) from care.checks)"""
    )
    rows = {row["state"]: row for row in records.rows("select * from public.pipeline_health")}
    assert (rows["queued"]["check_count"], rows["queued"]["due_count"]) == (2, 1)
    assert (rows["leased"]["check_count"], rows["leased"]["lost_lease_count"]) == (2, 1)
    oldest = "select min(created_at) from care.checks where state = 'queued'"
    assert rows["queued"]["oldest_waiting_since"] == records.one(oldest)
