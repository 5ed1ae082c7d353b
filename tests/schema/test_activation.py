"""Activation: another encoder takes over in one step, and every call is judged once, by the one or by the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from fixtures.records import ENCODER, NOON, USUAL, Records, Row, at_cosine

NEXT = "next-v1"
URL = "https://example.org/call.flac"
ACTIVATE = b"select voice.activate_encoder('next-v1')"
Service = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(autouse=True)
def next_encoder(records: Records) -> None:
    records.register(NEXT)


@pytest.fixture
def patient_id(records: Records) -> UUID:
    """A patient whose baseline stands under both encoders."""
    found = records.patient()
    for number in range(3):
        records.recorded(found, NOON - timedelta(days=30 - number))
    backfill(records)
    return found


def backfill(records: Records) -> None:
    records.call("open_backfill", NEXT, False, 1000)
    while claims := records.claims(NEXT):
        for claim in claims:
            records.complete(claim)


def activate(records: Records, accepts_unrecoverable: bool = False) -> int:
    return int(records.call("activate_encoder", NEXT, accepts_unrecoverable)["activate_encoder"])


def refused(records: Records, accepts_unrecoverable: bool = False) -> str:
    with pytest.raises(psycopg.Error) as raised:
        activate(records, accepts_unrecoverable)
    assert raised.value.sqlstate == "RV007"
    assert active(records) == ENCODER
    return raised.value.diag.message_primary or ""


def active(records: Records) -> str:
    return str(records.call("active_encoder")["active_encoder"])


def queue(records: Records, patient_id: UUID) -> UUID:
    return records.call_log(patient_id, NOON, "provider", URL)


def reassigned(records: Records) -> int:
    return int(records.run_due_jobs(datetime.now(UTC))["reassign_checks"])


def check(records: Records, call_log_id: UUID) -> Row:
    return records.row(
        "select model, state, reason, lost_leases from care.checks where call_log_id = %s and not is_backfill",
        call_log_id,
    )


def judgements(records: Records, call_log_id: UUID) -> list[str]:
    rows = records.rows("select encoder from public.voice_anomaly_logs where call_log_id = %s", call_log_id)
    return [row["encoder"] for row in rows]


@contextmanager
def waiting(first: Service, second: Service, statement: bytes, values: tuple[object, ...] = ()) -> Iterator[list[Any]]:
    """Ask ``second`` while ``first`` is in the middle of its transaction, which ends after the block."""
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.extend(second.execute(statement, values).fetchall())
        except psycopg.Error as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(0.3)
    try:
        assert answers == [], "it did not wait"
        yield answers
    finally:
        first.commit()
        thread.join(20)


@pytest.fixture
def connect(records: Records) -> Iterator[Callable[[bool], Service]]:
    made = []

    def give(autocommit: bool) -> Service:
        made.append(psycopg.connect(records.database.service_url, autocommit=autocommit))
        return made[-1]

    yield give
    for connection in made:
        connection.close()


# When it may.


def test_an_encoder_becomes_active_when_every_baseline_is_there(records: Records, patient_id: UUID) -> None:
    assert activate(records) == 0
    assert active(records) == NEXT
    assert activate(records) == 0
    assert records.one("select count(*) from care.models where is_active") == 1
    records.database.service.execute("select voice.activate_encoder(%s)", [ENCODER])
    assert active(records) == ENCODER


def test_it_does_not_while_a_baseline_is_missing_or_of_other_calls(records: Records, patient_id: UUID) -> None:
    other = records.patient()
    records.recorded(other)
    assert (
        refused(records, accepts_unrecoverable=True)
        == "Of 2 baselines, 1 are not rebuilt under next-v1, and 0 cannot be"
    )
    backfill(records)
    records.recorded(other, NOON + timedelta(days=1))
    assert refused(records).startswith("Of 2 baselines, 1 are not")
    records.call("open_backfill", NEXT, True, 1000)
    records.do("update public.call_logs set recording_ref = null where patient_id = %s", other)
    records.do("delete from care.checks where state = 'queued'")
    assert activate(records) == 0  # what cannot be embedded any more keeps nobody


def test_a_baseline_whose_samples_changed_after_they_were_embedded_is_missing_too(
    records: Records, patient_id: UUID
) -> None:
    records.do("update voice.baselines set superseded_at = now() where encoder = %s", NEXT)
    assert refused(records).startswith("Of 1 baselines, 1 are not")
    records.call("rebuild_baselines", NEXT, 10)
    activate(records)


def test_who_would_be_left_behind_is_listed_and_keeps_it_from_becoming_active(
    records: Records, patient_id: UUID
) -> None:
    lost, failed = records.patient(), records.patient()
    records.judge(lost)
    records.recorded(failed)
    records.call("open_backfill", NEXT, False, 1000)
    [claim] = records.claims(NEXT)
    records.call("abstain_check", claim["check_id"], claim["lease_token"], "too_noisy", "{}")
    assert refused(records) == "Of 3 baselines, 0 are not rebuilt under next-v1, and 2 cannot be"
    listed = {
        row.pop("patient_id"): row for row in records.rows("select * from voice.unrecoverable_baselines(%s)", NEXT)
    }
    assert listed == {
        lost: {"sample_count": 1, "gone_count": 1, "failed_count": 0},
        failed: {"sample_count": 1, "gone_count": 0, "failed_count": 1},
    }
    activate(records, accepts_unrecoverable=True)
    call = queue(records, lost)
    [claim] = records.claims(NEXT)
    assert records.complete(claim)["state"] == "enrolled"
    assert check(records, call)["model"] == NEXT


def test_old_scores_stay_as_they_are_explained_by_the_old_encoder(records: Records, patient_id: UUID) -> None:
    records.recorded(patient_id, NOON, at_cosine(0.5))
    before = records.rows("select * from public.voice_anomaly_logs order by id")
    records.call("open_backfill", NEXT, True, 1000)
    while claims := records.claims(NEXT):
        for claim in claims:
            records.complete(claim, at_cosine(0.1))
    records.call("rebuild_baselines", NEXT, 10)
    activate(records)
    assert records.rows("select * from public.voice_anomaly_logs order by id") == before
    [row] = records.rows(
        """select l.encoder, e.encoder as print, b.encoder as baseline, b.version = l.baseline_version as is_its
           from public.voice_anomaly_logs as l join voice.embeddings as e on e.id = l.embedding_id
           join voice.baselines as b on b.id = l.baseline_id where l.anomaly_score > 0.25"""
    )
    assert row == {"encoder": ENCODER, "print": ENCODER, "baseline": ENCODER, "is_its": True}


# What waits is handed over, what is held is finished.


def test_calls_that_wait_move_to_the_new_encoder(records: Records, patient_id: UUID) -> None:
    call = queue(records, patient_id)
    assert activate(records) == 1
    assert check(records, call) | {"model": ""} == {
        "model": "",
        "state": "queued",
        "reason": None,
        "lost_leases": 0,
    }
    assert records.claims(ENCODER) == []
    [claim] = records.claims(NEXT)
    records.complete(claim, at_cosine(0.5))
    assert judgements(records, call) == [NEXT]


def test_a_call_that_is_held_is_finished_by_the_old_encoder(records: Records, patient_id: UUID) -> None:
    call = queue(records, patient_id)
    [claim] = records.claims()
    assert activate(records) == 0
    assert reassigned(records) == 0
    assert records.complete(claim, at_cosine(0.5))["state"] == "scored"
    assert judgements(records, call) == [ENCODER]


@pytest.mark.parametrize("end", ["fails", "is given back", "expires"])
def test_a_call_that_the_old_encoder_does_not_finish_is_judged_by_the_new_one(
    records: Records, patient_id: UUID, end: str
) -> None:
    call = queue(records, patient_id)
    [claim] = records.claims(lease_seconds=-1 if end == "expires" else 60)
    activate(records)
    if end == "fails":
        records.call("fail_check", claim["check_id"], claim["lease_token"], "internal_error", "broken", False)
    elif end == "is given back":
        records.call("release_check", claim["check_id"], claim["lease_token"])
    if end != "expires":  # there it was handed over at once
        assert reassigned(records) == 1
    assert records.claims(ENCODER) == []
    records.do("update care.checks set run_at = now() - interval '1 s'")
    [again] = records.claims(NEXT)
    with pytest.raises(psycopg.Error) as raised:
        records.complete(claim, at_cosine(0.1))
    assert raised.value.sqlstate == "RV001"
    assert again["lost_leases"] == (end == "expires")
    records.complete(again, at_cosine(0.5))
    assert judgements(records, call) == [NEXT]


def test_an_upload_that_the_old_encoder_does_not_finish_is_lost_and_says_so(records: Records, patient_id: UUID) -> None:
    call = records.call_log(patient_id)
    records.open(call, lease_seconds=-1)
    activate(records)
    assert check(records, call)["reason"] == "upload_lost"


def test_a_first_call_that_is_held_enrols_under_the_new_encoder(records: Records, patient_id: UUID) -> None:
    new = records.patient()
    call = queue(records, new)
    [claim] = records.claims()
    activate(records)
    assert records.complete(claim)["state"] == "queued"
    assert check(records, call) == {"model": NEXT, "state": "queued", "reason": None, "lost_leases": 0}
    [again] = records.claims(NEXT)
    assert records.complete(again)["state"] == "enrolled"
    assert {
        row["encoder"] for row in records.rows("select encoder from voice.baselines where patient_id = %s", new)
    } == {NEXT}


def test_the_service_of_the_old_encoder_gets_no_call_any_more(records: Records, patient_id: UUID) -> None:
    activate(records)
    call = queue(records, patient_id)
    records.do("update care.checks set model = %s where call_log_id = %s", ENCODER, call)
    assert records.claims(ENCODER) == []
    assert reassigned(records) == 1
    assert len(records.claims(NEXT)) == 1


def test_a_call_that_the_old_encoder_judged_is_not_judged_again(records: Records, patient_id: UUID) -> None:
    call = records.recorded(patient_id, NOON, at_cosine(0.5))
    activate(records)
    claim = records.call("open_check", call, NEXT, "test", 60)
    assert (claim["state"], claim["lease_token"]) == ("scored", None)
    assert records.call("stored_result", claim["check_id"])["anomaly_score"] == pytest.approx(0.5)
    records.do("update public.call_logs set recording_ref = null where id = %s", call)
    records.do("update public.call_logs set recording_ref = %s where id = %s", URL, call)
    assert check(records, call)["state"] == "scored"


def test_a_call_that_is_asked_for_is_taken_over_from_the_old_encoder(records: Records, patient_id: UUID) -> None:
    call = queue(records, patient_id)
    records.claims(lease_seconds=-1)
    records.do("update care.models set is_active = false where is_active")
    records.do("update care.models set is_active = true where id = %s", NEXT)
    claim = records.call("open_check", call, NEXT, "test", 60)
    assert claim["lease_token"] is not None
    assert check(records, call)["model"] == NEXT
    records.complete(claim, at_cosine(0.5))
    assert judgements(records, call) == [NEXT]


def test_an_archive_that_waits_is_handed_over_and_another_backfill_is_not(records: Records, patient_id: UUID) -> None:
    old = records.call_log(patient_id, NOON - timedelta(days=99), "archive", URL)
    records.recorded(patient_id, NOON, at_cosine(0.5))
    records.do("delete from voice.embeddings where encoder = %s and call_log_id not in (%s, %s)", ENCODER, old, old)
    records.do("update care.checks set is_backfill = true, state = 'queued', finished_at = null where state = 'scored'")
    activate(records, accepts_unrecoverable=True)
    assert [claim["call_log_id"] for claim in records.claims(NEXT)] == [old]


def test_calls_are_kept_waiting_for_the_last_seconds_and_go_on_by_themselves(
    records: Records, patient_id: UUID
) -> None:
    call = queue(records, patient_id)
    old = records.call_log(patient_id, NOON - timedelta(days=99), "archive", URL)
    records.call("hold_calls", 600)
    left = "select extract(epoch from calls_wait_until - clock_timestamp()) from care.models where is_active"
    assert 55 < records.one(left) <= 60
    assert [claim["call_log_id"] for claim in records.claims()] == [old]
    records.call("hold_calls", -1)
    assert [claim["call_log_id"] for claim in records.claims()] == [call]
    records.call("hold_calls", 60)
    waiting = queue(records, records.patient())
    activate(records)
    assert [claim["call_log_id"] for claim in records.claims(NEXT)] == [waiting]


# Two at once.


def test_a_completion_that_is_under_way_is_waited_for_and_counts(
    records: Records, patient_id: UUID, connect: Callable[[bool], Service]
) -> None:
    new = records.patient()
    queue(records, new)
    [claim] = records.claims()
    first, second = connect(False), connect(True)
    assert records.complete(claim, connection=first)["state"] == "enrolled"
    with waiting(first, second, ACTIVATE) as answers:
        pass
    assert isinstance(answers[0], psycopg.Error)
    assert answers[0].sqlstate == "RV007"
    assert active(records) == ENCODER


@pytest.mark.parametrize("is_first", [True, False], ids=["enrolling", "scored"])
def test_a_completion_that_comes_during_activation_waits_and_goes_by_what_is_active_then(
    records: Records, patient_id: UUID, connect: Callable[[bool], Service], is_first: bool
) -> None:
    call = queue(records, records.patient() if is_first else patient_id)
    [claim] = records.claims()
    first, second = connect(False), connect(True)
    first.execute(ACTIVATE)
    complete = b"select state from voice.complete_check(%s, %s, '[0.6,0.8,0]', %s, 10, 30, '{}')"
    with waiting(first, second, complete, (claim["check_id"], claim["lease_token"], b"x" * 32)) as answers:
        pass
    assert answers == [("queued" if is_first else "scored",)]
    assert check(records, call)["model"] == (NEXT if is_first else ENCODER)
    assert judgements(records, call) == ([] if is_first else [ENCODER])


def test_a_call_that_is_opened_during_activation_is_opened_once(
    records: Records, patient_id: UUID, connect: Callable[[bool], Service]
) -> None:
    call = records.call_log(patient_id)
    first, second = connect(False), connect(True)
    first.execute(ACTIVATE)
    opening = b"select lease_token from voice.open_check(%s, 'next-v1', 'test', 60)"
    with waiting(first, second, opening, (call,)) as answers:
        pass
    assert answers[0][0] is not None
    assert check(records, call)["model"] == NEXT


def test_a_call_that_comes_in_during_activation_is_found_by_the_job(
    records: Records, patient_id: UUID, connect: Callable[[bool], Service]
) -> None:
    """Its transaction has read that the old encoder is active; it holds up nobody, and is not forgotten."""
    with psycopg.connect(records.database.owner_url) as integrator:
        [[call]] = integrator.execute(
            "insert into public.call_logs (patient_id, recording_ref) values (%s, %s) returning id", [patient_id, URL]
        ).fetchall()
        assert activate(records) == 0
    assert check(records, call)["model"] == ENCODER
    assert reassigned(records) == 1
    [claim] = records.claims(NEXT)
    records.complete(claim, at_cosine(0.5))
    assert judgements(records, call) == [NEXT]


def test_a_flag_that_comes_during_activation_withdraws_under_both(
    records: Records, patient_id: UUID, connect: Callable[[bool], Service]
) -> None:
    first = connect(False)
    first.execute("select care.flag_patient(%s, 'flu', %s)", [patient_id, NOON - timedelta(days=29)])
    activate(records)
    first.commit()
    counts = records.rows("select sample_count from voice.baselines where superseded_at is null")
    assert [row["sample_count"] for row in counts] == [1, 1]


def test_activation_gives_up_where_a_transaction_does_not_end_and_lets_the_others_go_on(
    records: Records, patient_id: UUID, connect: Callable[[bool], Service]
) -> None:
    call = queue(records, patient_id)
    [claim] = records.claims()
    first = connect(False)
    records.complete(claim, at_cosine(0.5), connection=first)
    records.do("alter function voice.activate_encoder set lock_timeout = '200ms'")
    assert "open for too long" in refused(records)
    first.commit()
    assert judgements(records, call) == [ENCODER]
    activate(records)


def test_an_enrolment_that_is_under_way_goes_on_under_the_new_encoder(records: Records, patient_id: UUID) -> None:
    enrolment_id = uuid4()

    def onboard(number: int, encoder: str) -> Row:
        call = records.call_log(patient_id, NOON + timedelta(days=number), "onboarding", f"{URL}{number}", enrolment_id)
        return records.complete(records.call("open_check", call, encoder, "test", 60), USUAL)

    assert [onboard(number, ENCODER)["added_to_baseline"] for number in (1, 2)] == [False, False]
    backfill(records)
    activate(records)
    assert onboard(3, NEXT)["added_to_baseline"] is True
    current = "select sample_count from voice.baselines where encoder = %s and superseded_at is null"
    assert records.one(current, NEXT) == 3
