"""The work list: what queues a check, who gets it, and how it ends when things go wrong."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest

from fixtures.records import ENCODER, NOON, Records, at_cosine

URL = "https://example.org/call.flac"

Statement = tuple[LiteralString, list[object]]


def queue(records: Records, patient_id: UUID, day: int = 0) -> UUID:
    return records.call_log(patient_id, NOON + timedelta(days=day), "provider", URL)


def fail(
    records: Records, held: dict[str, object], code: str = "recording_unreachable", permanent: bool = False
) -> str:
    result = records.call("fail_check", held["check_id"], held["lease_token"], code, "it broke", permanent)
    return str(result["state"])


def make_due(records: Records) -> None:
    records.do("update care.checks set run_at = now() - interval '1 second' where state = 'queued'")


# What queues a check.


def test_a_recording_that_arrives_with_the_call_queues_its_check(records: Records) -> None:
    call_log_id = queue(records, records.patient())
    assert records.rows("select call_log_id, state, model from care.checks") == [
        {"call_log_id": call_log_id, "state": "queued", "model": ENCODER}
    ]
    assert records.one("select check_state from public.call_logs") == "queued"


def test_only_a_recording_going_from_null_to_a_value_queues_a_check(records: Records) -> None:
    call_log_id = records.call_log(records.patient())
    records.do("update public.call_logs set recording_source_url = %s, summary = 'x' where id = %s", URL, call_log_id)
    assert records.one("select count(*) from care.checks") == 0
    for address in (URL, URL + "?again"):
        records.do("update public.call_logs set recording_ref = %s where id = %s", address, call_log_id)
        assert records.one("select count(*) from care.checks") == 1


def test_a_caregivers_tool_that_may_write_calls_queues_checks_too(records: Records) -> None:
    patient_id = records.patient()
    with records.database.as_role("service_role") as api:
        api.execute("insert into call_logs (patient_id, recording_ref) values (%s, %s)", [patient_id, URL])
    assert records.one("select count(*) from care.checks where state = 'queued'") == 1


def test_a_check_is_queued_in_the_same_transaction_or_not_at_all(records: Records) -> None:
    patient_id = records.patient()
    owner = records.database.owner
    with owner.transaction(force_rollback=True):
        owner.execute("insert into public.call_logs (patient_id, recording_ref) values (%s, %s)", [patient_id, URL])
        assert records.one("select count(*) from care.checks") == 1
    assert records.one("select count(*) from care.checks") == 0


def test_a_recording_without_consent_is_skipped_and_the_call_says_why(records: Records) -> None:
    queue(records, records.patient(consent=False))
    assert records.row("select check_state, check_reason from public.call_logs") == {
        "check_state": "skipped",
        "check_reason": "no_consent",
    }
    assert records.claims() == []


def test_calls_that_came_before_any_encoder_are_queued_with_the_first_one(records: Records) -> None:
    patient_id = records.patient()
    records.do("delete from care.models")
    queue(records, patient_id)
    assert records.one("select count(*) from care.checks") == 0
    assert records.register("first-v1")
    assert records.row("select model, state from care.checks") == {"model": "first-v1", "state": "queued"}


def test_a_call_that_comes_while_the_first_encoder_registers_is_queued_too(records: Records) -> None:
    patient_id = records.patient()
    records.do("delete from care.models")
    for order in ("call first", "encoder first"):
        with psycopg.connect(records.database.owner_url) as one, psycopg.connect(records.database.owner_url) as two:
            call: Statement = (
                "insert into public.call_logs (patient_id, recording_ref) values (%s, %s)",
                [patient_id, URL],
            )
            register: Statement = ("select voice.register_encoder('first-v1', 3, 1.6)", [])
            first, second = (call, register) if order == "call first" else (register, call)
            one.execute(*first)
            thread = threading.Thread(target=two.execute, args=second)
            thread.start()
            thread.join(0.3)
            one.commit()
            thread.join(10)
        assert records.rows("select model, state from care.checks") == [{"model": "first-v1", "state": "queued"}]
        records.do("delete from public.call_logs; delete from care.models")


# Encoders.


def test_the_first_encoder_becomes_active_and_the_second_does_not(records: Records) -> None:
    assert records.register("second-v1") is False
    assert records.register() is True
    assert records.call("active_encoder")["active_encoder"] == ENCODER


def test_an_encoder_brings_its_policy_with_the_missions_values(records: Records) -> None:
    policy = records.one("select voice.policy_values(%s)", ENCODER)
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
    assert records.row("select count(*), max(attempts) as attempts from care.checks") == {"count": 1, "attempts": 1}
    assert records.claims() == []


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
    assert [row["call_log_id"] for row in records.claims(count=2)] == calls[:2]
    assert [row["call_log_id"] for row in records.claims(count=2)] == calls[2:]
    assert records.claims() == []


def test_a_patient_with_many_calls_starves_nobody_and_gets_them_judged_in_order(records: Records) -> None:
    busy, quiet = records.patient(), records.patient()
    history = [queue(records, busy, day) for day in range(5)]
    single = queue(records, quiet)
    first = records.claims()
    assert [row["call_log_id"] for row in first] == [history[0], single]
    assert records.claims() == []
    records.complete(first[0])
    assert [row["call_log_id"] for row in records.claims()] == [history[1]]


def test_a_lease_that_ran_out_is_handed_out_again_alone(records: Records) -> None:
    lost = queue(records, records.patient())
    records.claims(lease_seconds=-1)
    others = [queue(records, records.patient()) for _ in range(2)]
    assert [row["call_log_id"] for row in records.claims()] == [lost]
    assert [row["call_log_id"] for row in records.claims()] == others
    assert records.row("select attempts, lost_leases from care.checks where call_log_id = %s", lost) == {
        "attempts": 2,
        "lost_leases": 1,
    }


def test_a_check_that_kills_every_worker_ends_dead(records: Records) -> None:
    queue(records, records.patient())
    for _ in range(5):
        assert len(records.claims(lease_seconds=-1)) == 1
    assert records.claims() == []
    assert records.row("select state, reason from care.checks") == {"state": "dead", "reason": "attempts_exhausted"}


def test_an_upload_whose_lease_ran_out_is_lost_and_says_so(records: Records) -> None:
    call_log_id = records.call_log(records.patient())
    records.open(call_log_id, lease_seconds=-1)
    assert records.claims() == []
    assert records.row("select check_state, check_reason from public.call_logs") == {
        "check_state": "dead",
        "check_reason": "upload_lost",
    }


def test_ending_a_lost_upload_waits_for_nobody_who_opens_the_call(records: Records) -> None:
    """Both lock the check and its call: one after the other they would wait for each other for ever."""
    call_log_id = records.call_log(records.patient())
    records.open(call_log_id, lease_seconds=-1)
    with psycopg.connect(records.database.owner_url) as other:
        other.execute("select from public.call_logs where id = %s for no key update", [call_log_id])
        with psycopg.connect(records.database.service_url, options="-c lock_timeout=2s") as other:
            other.execute("select from voice.claim_checks(%s, 'worker', 10, 60)", [ENCODER])
    assert records.one("select state from care.checks") == "leased"
    records.claims()
    assert records.one("select state from care.checks") == "dead"


def test_a_lease_is_renewed_by_its_holder_only(records: Records) -> None:
    call_log_id = queue(records, records.patient())
    [held] = records.claims(lease_seconds=-1)
    assert records.call("renew_lease", held["check_id"], held["lease_token"], 60)["renew_lease"] is True
    assert records.claims() == []
    assert records.call("renew_lease", held["check_id"], uuid4(), 60)["renew_lease"] is None
    records.complete(held)
    assert records.call("renew_lease", held["check_id"], held["lease_token"], 60)["renew_lease"] is None
    assert records.open(call_log_id)["state"] == "enrolled"


# Failing.


def test_a_failure_is_tried_again_after_a_wait_that_doubles(records: Records) -> None:
    queue(records, records.patient())
    waits = []
    for _ in range(4):
        [held] = records.claims()
        assert fail(records, held) == "queued"
        waits.append(records.one("select extract(epoch from run_at - clock_timestamp())::float from care.checks"))
        assert records.claims() == []
        make_due(records)
    for wait, middle in zip(waits, (10, 20, 40, 80), strict=True):
        assert 0.75 * middle <= wait <= 1.2 * middle
    [held] = records.claims()
    assert fail(records, held) == "dead"
    assert records.one("select reason from care.checks") == "attempts_exhausted"
    assert records.one("select array_agg(attempt order by id) from care.check_errors") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("code", "reason"),
    [("recording_not_found", "recording_unavailable"), ("an_embedding_has_unit_length", "processing_failed")],
)
def test_a_permanent_failure_is_dead_at_once(records: Records, code: str, reason: str) -> None:
    queue(records, records.patient())
    [held] = records.claims()
    assert fail(records, held, code, permanent=True) == "dead"
    assert records.one("select reason from care.checks") == reason


def test_a_failed_upload_is_dead_since_it_cannot_be_read_again(records: Records) -> None:
    assert fail(records, records.open(records.call_log(records.patient()))) == "dead"
    assert records.one("select reason from care.checks") == "upload_lost"


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
            """insert into care.checks (call_log_id, patient_id, signal, model)
               select call_log_id, patient_id, signal, model from care.checks"""
        )
    assert raised.value.diag.constraint_name == "a_call_has_one_live_check_per_model"


def test_an_end_without_a_score_must_have_a_reason(records: Records) -> None:
    records.judge(records.patient())
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        records.do("update care.checks set state = 'dead'")
    assert raised.value.diag.constraint_name == "an_end_without_a_score_has_a_reason"


def test_logs_are_newest_first_and_of_these_patients_only(records: Records) -> None:
    patient_id, other = records.patient(), records.patient()
    for person in (patient_id, other):
        for day in (0, 2, 1):
            records.judge(person, at_cosine(0.9), NOON + timedelta(days=day))
    rows = records.rows("select patient_id, timestamp from voice.anomaly_logs(array[%s], %s, 10)", patient_id, NOON)
    assert [row["timestamp"] for row in rows] == [NOON + timedelta(days=2), NOON + timedelta(days=1)]
    assert {row["patient_id"] for row in rows} == {patient_id}


# Giving back, and the operator.


def test_a_check_given_back_is_as_if_it_had_never_been_handed_out(records: Records) -> None:
    queue(records, records.patient())
    [held] = records.claims()
    assert records.call("release_check", held["check_id"], held["lease_token"])["release_check"] is True
    assert records.row("select state, attempts, lost_leases, worker from care.checks") == {
        "state": "queued",
        "attempts": 0,
        "lost_leases": 0,
        "worker": None,
    }
    with pytest.raises(psycopg.Error) as raised:
        records.complete(held)
    assert raised.value.sqlstate == "RV001"
    assert len(records.claims()) == 1


def test_an_upload_is_not_given_back_since_nobody_else_has_it(records: Records) -> None:
    held = records.open(records.call_log(records.patient()))
    assert records.call("release_check", held["check_id"], held["lease_token"])["release_check"] is None
    assert records.complete(held)["state"] == "enrolled"


def requeued(records: Records, ids: list[int] | None = None, reasons: list[str] | None = None) -> list[int]:
    rows = records.service.execute("select care.requeue_checks(%s, %s::public.check_reason[])", [ids, reasons])
    return [row[0] for row in rows]


def test_the_operator_queues_a_dead_check_again_with_all_its_attempts(records: Records) -> None:
    queue(records, records.patient())
    [held] = records.claims()
    fail(records, held, "recording_not_found", permanent=True)
    assert requeued(records, reasons=["attempts_exhausted"]) == []
    assert requeued(records, ids=[7_000]) == []
    assert requeued(records) == [held["check_id"]]
    assert records.one("select check_state from public.call_logs") == "queued"
    assert records.one("select count(*) from care.check_errors") == 1
    [again] = records.claims()
    assert records.complete(again)["state"] == "enrolled"
    assert requeued(records) == []


def test_a_lost_upload_stays_dead(records: Records) -> None:
    fail(records, records.open(records.call_log(records.patient())))
    assert requeued(records) == []


def test_the_operator_sees_each_check_with_its_last_error(records: Records) -> None:
    queue(records, records.patient())
    [held] = records.claims()
    fail(records, held, "recording_unreachable")
    [row] = records.rows("select * from care.check_list('{queued}', null, 10)")
    assert (row["state"], row["attempts"], row["error_code"]) == ("queued", 1, "recording_unreachable")
    assert records.rows("select * from care.check_list('{dead}', null, 10)") == []
    assert records.rows("select * from care.check_list(null, %s, 10)", uuid4()) == []


def test_pipeline_health_counts_what_waits_what_is_lost_and_how_the_rest_ended(records: Records) -> None:
    for _ in range(2):
        queue(records, records.patient())
    records.open(queue(records, records.patient()), lease_seconds=-1)
    records.judge(records.patient())
    queue(records, records.patient(consent=False))
    with records.database.as_role("service_role") as operator:
        rows = {
            (row[0], row[1]): row[2:]
            for row in operator.execute(
                "select state, reason, check_count, due_count, lost_lease_count from pipeline_health"
            )
        }
    assert rows == {
        ("queued", None): (2, 2, 0),
        ("leased", None): (1, 0, 1),
        ("enrolled", None): (1, 0, 0),
        ("skipped", "no_consent"): (1, 0, 0),
    }


def test_erasing_a_patient_takes_the_checks_along(records: Records) -> None:
    patient_id = records.patient()
    queue(records, patient_id)
    [held] = records.claims()
    fail(records, held)
    records.do("delete from public.patients where id = %s", patient_id)
    left = [records.one(f"select count(*) from care.{table}") for table in ("checks", "check_errors")]
    assert left == [0, 0]


# Signed addresses.


SIGNED = URL + "?token=secret"


@pytest.mark.parametrize("end", ["complete", "abstain", "skip"])
def test_a_signed_address_is_forgotten_once_it_was_used(records: Records, end: str) -> None:
    patient_id = records.patient()
    call_log_id = records.call_log(patient_id, NOON, "provider", SIGNED)
    records.do("update public.call_logs set recording_source_url = %s", SIGNED)
    [held] = records.claims()
    if end == "complete":
        records.complete(held)
    elif end == "abstain":
        records.call("abstain_check", held["check_id"], held["lease_token"], "no_speech", "{}")
    else:
        records.call("set_consent", patient_id, False)
        records.complete(held)
    row = records.row("select recording_ref, recording_source_url from public.call_logs where id = %s", call_log_id)
    assert row == {"recording_ref": None, "recording_source_url": None}


def test_a_dead_check_keeps_its_address_to_be_tried_again(records: Records) -> None:
    records.call_log(records.patient(), NOON, "provider", SIGNED)
    [held] = records.claims()
    fail(records, held, "recording_not_found", permanent=True)
    assert records.one("select recording_ref from public.call_logs") == SIGNED
    assert len(requeued(records)) == 1


def test_an_address_that_is_no_key_is_kept(records: Records) -> None:
    for address in ("storage:voice-recordings/a/b.wav", URL):
        call_log_id = records.call_log(records.patient(), NOON, "provider", address)
        records.complete(records.open(call_log_id))
        assert records.one("select recording_ref from public.call_logs where id = %s", call_log_id) == address


def test_a_call_that_was_judged_is_not_queued_again_by_another_address(records: Records) -> None:
    patient_id = records.patient()
    call_log_id = records.call_log(patient_id, NOON, "provider", SIGNED)
    records.complete(records.open(call_log_id))
    records.do("update public.call_logs set recording_ref = %s", URL)
    records.call("record_call", patient_id, call_log_id, "api", SIGNED, None, None, None)
    assert records.one("select count(*) from care.checks") == 1
    assert records.one("select recording_ref from public.call_logs") == URL


def test_the_address_of_a_recording_is_granted_to_nobody(records: Records) -> None:
    queue(records, records.patient())
    for role in ("anon", "authenticated", "service_role"):
        for column in ("recording_ref", "recording_source_url"):
            with records.database.as_role(role) as api, pytest.raises(psycopg.errors.InsufficientPrivilege):
                api.execute(f"select {column} from call_logs")


# Many at once.


def test_a_storm_of_claims_gives_each_check_to_one_worker(records: Records) -> None:
    """Many clients at once: every check is handed out once, none is left over."""
    clients, patients, calls = 8, 40, 5
    people = [records.patient() for _ in range(patients)]
    for person in people:
        for day in range(calls):
            queue(records, person, day)
    taken: list[object] = []

    def client(number: int) -> None:
        with psycopg.connect(records.database.service_url, autocommit=True) as connection:
            idle = 0
            while idle < 20:
                rows = connection.execute(
                    "select check_id, lease_token from voice.claim_checks(%s, %s, 3, 60)", [ENCODER, f"client {number}"]
                ).fetchall()
                idle = 0 if rows else idle + 1
                for check_id, lease_token in rows:
                    taken.append(check_id)
                    connection.execute("select care.abstain_check(%s, %s, 'no_speech', '{}')", [check_id, lease_token])

    threads = [threading.Thread(target=client, args=[number]) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(taken) == len(set(taken)) == patients * calls
    assert records.one("select count(*) from care.checks where state = 'not_assessable' and attempts = 1") == len(taken)
