"""The work list: what queues a check, who gets it, and how it ends when things go wrong."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from records import ENCODER, NOON, Records, at_cosine

URL = "https://example.org/call.flac"


def queue(records: Records, patient_id: UUID, day: int = 0) -> UUID:
    return records.call_log(patient_id, NOON + timedelta(days=day), "provider", URL)


def claim(
    records: Records, count: int = 10, lease_seconds: float = 60, worker: str = "worker"
) -> list[dict[str, object]]:
    rows = records.service.execute(
        "select call_log_id, check_id, lease_token from voice.claim_checks(%s, %s, %s, %s)",
        [ENCODER, worker, count, lease_seconds],
    )
    return [dict(zip(("call_log_id", "check_id", "lease_token"), row, strict=True)) for row in rows]


def fail(
    records: Records, held: dict[str, object], code: str = "recording_unreachable", permanent: bool = False
) -> str:
    result = records.call("fail_check", held["check_id"], held["lease_token"], code, "it broke", permanent)
    return str(result["state"])


def make_due(records: Records) -> None:
    records.do("update voice.checks set run_at = now() - interval '1 second' where state = 'queued'")


# What queues a check.


def test_a_recording_that_arrives_with_the_call_queues_its_check(records: Records) -> None:
    call_log_id = queue(records, records.patient())
    assert records.rows("select call_log_id, state, encoder from voice.checks") == [
        {"call_log_id": call_log_id, "state": "queued", "encoder": ENCODER}
    ]
    assert records.one("select check_state from public.call_logs") == "queued"


def test_only_a_recording_going_from_null_to_a_value_queues_a_check(records: Records) -> None:
    call_log_id = records.call_log(records.patient())
    records.do("update public.call_logs set recording_source_url = %s, summary = 'x' where id = %s", URL, call_log_id)
    assert records.one("select count(*) from voice.checks") == 0
    for address in (URL, URL + "?again"):
        records.do("update public.call_logs set recording_ref = %s where id = %s", address, call_log_id)
        assert records.one("select count(*) from voice.checks") == 1


def test_a_caregivers_tool_that_may_write_calls_queues_checks_too(records: Records) -> None:
    patient_id = records.patient()
    with records.database.as_role("service_role") as api:
        api.execute("insert into call_logs (patient_id, recording_ref) values (%s, %s)", [patient_id, URL])
    assert records.one("select count(*) from voice.checks where state = 'queued'") == 1


def test_a_check_is_queued_in_the_same_transaction_or_not_at_all(records: Records) -> None:
    patient_id = records.patient()
    owner = records.database.owner
    with owner.transaction(force_rollback=True):
        owner.execute("insert into public.call_logs (patient_id, recording_ref) values (%s, %s)", [patient_id, URL])
        assert records.one("select count(*) from voice.checks") == 1
    assert records.one("select count(*) from voice.checks") == 0


def test_a_recording_without_consent_is_skipped_and_the_call_says_why(records: Records) -> None:
    queue(records, records.patient(consent=False))
    assert records.row("select check_state, check_reason from public.call_logs") == {
        "check_state": "skipped",
        "check_reason": "no_consent",
    }
    assert claim(records) == []


def test_calls_that_came_before_any_encoder_are_queued_with_the_first_one(records: Records) -> None:
    patient_id = records.patient()
    records.do("delete from voice.encoders")
    queue(records, patient_id)
    assert records.one("select count(*) from voice.checks") == 0
    assert records.register("first-v1")
    assert records.row("select encoder, state from voice.checks") == {"encoder": "first-v1", "state": "queued"}


# Encoders.


def test_the_first_encoder_becomes_active_and_the_second_does_not(records: Records) -> None:
    assert records.register("second-v1") is False
    assert records.register() is True
    assert records.call("active_encoder")["active_encoder"] == ENCODER


def test_an_encoder_brings_its_policy_with_the_missions_values(records: Records) -> None:
    policy = records.row("select * from voice.policies where encoder = %s", ENCODER)
    assert (policy["medium_above"], policy["high_above"], policy["critical_above"]) == (0.25, 0.40, 0.70)
    assert (policy["baseline_minimum_samples"], policy["baseline_target_samples"]) == (3, 5)


def test_an_id_cannot_stand_for_another_dimension(records: Records) -> None:
    with pytest.raises(psycopg.Error) as raised:
        records.register(ENCODER, 4)
    assert raised.value.sqlstate == "RV004"


# Opening: the synchronous path.


def test_opening_leases_the_check_that_was_queued_and_makes_no_second_one(records: Records) -> None:
    call_log_id = queue(records, records.patient())
    opened = records.open(call_log_id)
    assert opened["state"] == "leased"
    assert opened["lease_token"] is not None
    assert records.row("select count(*), max(attempts) as attempts from voice.checks") == {"count": 1, "attempts": 1}
    assert claim(records) == []


def test_opening_what_another_worker_holds_gives_no_lease(records: Records) -> None:
    call_log_id = records.call_log(records.patient())
    records.open(call_log_id)
    again = records.open(call_log_id)
    assert (again["state"], again["lease_token"]) == ("leased", None)


def test_opening_what_has_ended_gives_the_end(records: Records) -> None:
    done = records.judge(records.patient())
    again = records.open(done["call_log_id"])
    assert (again["state"], again["lease_token"]) == ("enrolled", None)
    assert records.call("stored_result", again["check_id"]) == done


def test_a_lease_carries_the_limits_of_the_policy(records: Records) -> None:
    records.set_policy(minimum_speech_seconds=1.5, minimum_snr_db=4)
    opened = records.open(records.call_log(records.patient()))
    assert (opened["minimum_speech_seconds"], opened["minimum_snr_db"]) == (1.5, 4)


@pytest.mark.parametrize("known", [True, False])
def test_a_call_that_is_not_this_patients_is_refused(records: Records, known: bool) -> None:
    patient_id = records.patient()
    call_log_id = records.call_log(records.patient()) if known else uuid4()
    with pytest.raises(psycopg.Error) as raised:
        records.call("record_call", patient_id, call_log_id, "api", None, None, NOON, None)
    assert raised.value.sqlstate == ("RV006" if known else "RV003")


def test_a_patient_who_is_none_is_refused(records: Records) -> None:
    with pytest.raises(psycopg.Error) as raised:
        records.call_log(uuid4())
    assert raised.value.sqlstate == "RV002"


def test_a_call_keeps_the_recording_that_it_has(records: Records) -> None:
    patient_id = records.patient()
    call_log_id = queue(records, patient_id)
    records.call("record_call", patient_id, call_log_id, "api", "https://example.org/other", None, None, None)
    assert records.one("select recording_ref from public.call_logs") == URL


# Claiming.


def test_checks_are_handed_out_oldest_first_and_only_once(records: Records) -> None:
    calls = [queue(records, records.patient()) for _ in range(3)]
    assert [row["call_log_id"] for row in claim(records, 2)] == calls[:2]
    assert [row["call_log_id"] for row in claim(records, 2)] == calls[2:]
    assert claim(records) == []


def test_a_patient_with_many_calls_starves_nobody_and_gets_them_judged_in_order(records: Records) -> None:
    busy, quiet = records.patient(), records.patient()
    history = [queue(records, busy, day) for day in range(5)]
    single = queue(records, quiet)
    first = claim(records)
    assert [row["call_log_id"] for row in first] == [history[0], single]
    assert claim(records) == []
    records.complete(first[0])
    assert [row["call_log_id"] for row in claim(records)] == [history[1]]


def test_a_lease_that_ran_out_is_handed_out_again_alone(records: Records) -> None:
    lost = queue(records, records.patient())
    claim(records, lease_seconds=-1)
    others = [queue(records, records.patient()) for _ in range(2)]
    assert [row["call_log_id"] for row in claim(records)] == [lost]
    assert [row["call_log_id"] for row in claim(records)] == others
    assert records.row("select attempts, lost_leases from voice.checks where call_log_id = %s", lost) == {
        "attempts": 2,
        "lost_leases": 1,
    }


def test_a_check_that_kills_every_worker_ends_dead(records: Records) -> None:
    queue(records, records.patient())
    for _ in range(5):
        assert len(claim(records, lease_seconds=-1)) == 1
    assert claim(records) == []
    assert records.row("select state, reason from voice.checks") == {"state": "dead", "reason": "attempts_exhausted"}


def test_an_upload_whose_lease_ran_out_is_lost_and_says_so(records: Records) -> None:
    call_log_id = records.call_log(records.patient())
    records.open(call_log_id, lease_seconds=-1)
    assert claim(records) == []
    assert records.row("select check_state, check_reason from public.call_logs") == {
        "check_state": "dead",
        "check_reason": "upload_lost",
    }


def test_a_lease_is_renewed_by_its_holder_only(records: Records) -> None:
    call_log_id = queue(records, records.patient())
    [held] = claim(records, lease_seconds=-1)
    assert records.call("renew_lease", held["check_id"], held["lease_token"], 60)["renew_lease"] is True
    assert claim(records) == []
    assert records.call("renew_lease", held["check_id"], uuid4(), 60)["renew_lease"] is None
    records.complete(held)
    assert records.call("renew_lease", held["check_id"], held["lease_token"], 60)["renew_lease"] is None
    assert records.open(call_log_id)["state"] == "enrolled"


# Failing.


def test_a_failure_is_tried_again_after_a_wait_that_doubles(records: Records) -> None:
    queue(records, records.patient())
    waits = []
    for _ in range(4):
        [held] = claim(records)
        assert fail(records, held) == "queued"
        waits.append(records.one("select extract(epoch from run_at - clock_timestamp())::float from voice.checks"))
        assert claim(records) == []
        make_due(records)
    for wait, middle in zip(waits, (10, 20, 40, 80), strict=True):
        assert 0.75 * middle <= wait <= 1.2 * middle
    [held] = claim(records)
    assert fail(records, held) == "dead"
    assert records.one("select reason from voice.checks") == "attempts_exhausted"
    assert records.one("select array_agg(attempt order by id) from voice.check_errors") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("code", "reason"),
    [("recording_not_found", "recording_unavailable"), ("an_embedding_has_unit_length", "processing_failed")],
)
def test_a_permanent_failure_is_dead_at_once(records: Records, code: str, reason: str) -> None:
    queue(records, records.patient())
    [held] = claim(records)
    assert fail(records, held, code, permanent=True) == "dead"
    assert records.one("select reason from voice.checks") == reason


def test_a_failed_upload_is_dead_since_it_cannot_be_read_again(records: Records) -> None:
    assert fail(records, records.open(records.call_log(records.patient()))) == "dead"
    assert records.one("select reason from voice.checks") == "upload_lost"


def test_a_dead_check_may_be_opened_anew(records: Records) -> None:
    call_log_id = records.call_log(records.patient())
    fail(records, records.open(call_log_id))
    assert records.complete(records.open(call_log_id))["state"] == "enrolled"
    assert records.one("select check_state from public.call_logs") == "enrolled"


def test_a_check_has_exactly_one_end(records: Records) -> None:
    held = records.open(records.call_log(records.patient()))
    records.complete(held)
    assert fail(records, held) == "enrolled"
    result = records.call("abstain_check", held["check_id"], held["lease_token"], "no_speech", "{}")
    assert result["state"] == "enrolled"


def test_two_live_checks_of_one_call_are_refused(records: Records) -> None:
    queue(records, records.patient())
    with pytest.raises(psycopg.errors.UniqueViolation) as raised:
        records.do(
            """insert into voice.checks (call_log_id, patient_id, encoder)
               select call_log_id, patient_id, encoder from voice.checks"""
        )
    assert raised.value.diag.constraint_name == "a_call_has_one_live_check_per_encoder"


def test_an_end_without_a_score_must_have_a_reason(records: Records) -> None:
    records.judge(records.patient())
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        records.do("update voice.checks set state = 'dead'")
    assert raised.value.diag.constraint_name == "an_end_without_a_score_has_a_reason"


def test_logs_are_newest_first_and_of_these_patients_only(records: Records) -> None:
    patient_id, other = records.patient(), records.patient()
    for person in (patient_id, other):
        for day in (0, 2, 1):
            records.judge(person, at_cosine(0.9), NOON + timedelta(days=day))
    rows = records.rows("select patient_id, timestamp from voice.anomaly_logs(array[%s], %s, 10)", patient_id, NOON)
    assert [row["timestamp"] for row in rows] == [NOON + timedelta(days=2), NOON + timedelta(days=1)]
    assert {row["patient_id"] for row in rows} == {patient_id}
