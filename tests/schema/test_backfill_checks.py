"""Backfill: another encoder, or an archive, is taken in beside and after all other work, and changes nothing else."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from fixtures.records import ENCODER, NOON, USUAL, Records, Row, at_cosine

NEXT = "next-v1"
# What a caregiver sees, and what is judged: no backfill may touch it.
JUDGED = ("call_logs", "voice_anomaly_logs", "daily_checkins", "caregiver_alerts", "alert_changes")


@pytest.fixture(autouse=True)
def next_encoder(records: Records) -> None:
    records.register(NEXT)


def day(number: int) -> datetime:
    return NOON + timedelta(days=number)


def opened(records: Records, is_history: bool = False, encoder: str = NEXT, most: int = 1000) -> int:
    return int(records.call("open_backfill", encoder, is_history, most)["open_backfill"])


def embed_all(records: Records, encoder: str = NEXT, voice: tuple[float, ...] = USUAL) -> list[Row]:
    """Work on what a worker of that encoder gets until there is nothing more; each patient's come one at a time."""
    done = []
    while claims := records.claims(encoder):
        done += [records.complete(claim, voice, recording=str(claim["call_log_id"])) for claim in claims]
    return done


def samples(records: Records, patient_id: UUID, encoder: str = NEXT) -> set[UUID]:
    """Return the calls that the patient's current baseline under an encoder is made of."""
    return {
        row["call_log_id"]
        for row in records.rows(
            """select call_log_id from voice.baselines as b join voice.baseline_samples as s on s.baseline_id = b.id
               join voice.embeddings as e on e.id = s.embedding_id
               where b.patient_id = %s and b.encoder = %s and b.superseded_at is null""",
            patient_id,
            encoder,
        )
    }


def queued(records: Records, encoder: str = NEXT) -> list[UUID]:
    rows = records.rows(
        "select call_log_id from care.checks where model = %s and state = 'queued' order by is_backfill, id", encoder
    )
    return [row["call_log_id"] for row in rows]


def status(records: Records, encoder: str = NEXT) -> Row:
    return records.call("backfill_status", encoder)


def judged(records: Records) -> dict[str, list[Row]]:
    return {table: records.rows(f"select * from public.{table} order by id") for table in JUDGED}


def enrolled(records: Records, count: int = 3) -> tuple[UUID, list[UUID]]:
    """Make a patient with so many samples whose recordings are kept."""
    patient_id = records.patient()
    return patient_id, [records.recorded(patient_id, day(number - 30)) for number in range(count)]


def fail(records: Records, claim: Row, code: str = "recording_not_found") -> Row:
    return records.call("fail_check", claim["check_id"], claim["lease_token"], code, "gone", True)


# What is opened.


def test_the_samples_of_the_active_encoders_baselines_are_opened_and_nothing_else(records: Records) -> None:
    patient_id, calls = enrolled(records, 3)
    records.recorded(patient_id, day(1), at_cosine(0.5))
    assert opened(records) == 3
    assert set(queued(records)) == set(calls)
    assert {
        row["is_backfill"] for row in records.rows("select is_backfill from care.checks where model = %s", NEXT)
    } == {True}


def test_the_history_follows_the_samples_newest_first(records: Records) -> None:
    patient_id, calls = enrolled(records, 2)
    later = [records.recorded(patient_id, day(number), at_cosine(0.5)) for number in (2, 9, 5)]
    assert opened(records, is_history=True) == 5
    assert queued(records) == [calls[1], calls[0], later[1], later[2], later[0]]


def test_each_recording_is_opened_once_however_often_and_by_however_many_it_is_asked(records: Records) -> None:
    enrolled(records, 3)
    assert (opened(records, most=2), opened(records, most=2), opened(records)) == (2, 1, 0)
    embed_all(records)
    assert opened(records, is_history=True) == 0
    enrolled(records, 2)
    with (
        psycopg.connect(records.database.service_url) as one,
        psycopg.connect(records.database.service_url, autocommit=True) as two,
    ):
        counts: list[Any] = []
        ask = b"select voice.open_backfill(%s, false, 1000)"
        counts += one.execute(ask, [NEXT]).fetchall()
        thread = threading.Thread(target=lambda: counts.extend(two.execute(ask, [NEXT]).fetchall()))
        thread.start()
        thread.join(0.3)
        one.commit()
        thread.join(10)
    assert counts == [(2,), (0,)]


def test_nothing_is_opened_without_a_recording_or_consent(records: Records) -> None:
    unheard = records.patient()
    records.judge(unheard)
    unwilling, [kept, *_] = enrolled(records)
    records.do("update public.call_logs set recording_ref = null where id <> %s", kept)
    records.call("set_consent", unwilling, False)
    records.do("update public.call_logs set recording_ref = 'https://example.org/x', check_state = 'scored'")
    records.do("delete from care.checks where state = 'queued'")
    assert opened(records) == 1  # the first one's, which has got a recording
    assert records.one("select patient_id from care.checks where is_backfill") == unheard


def test_a_call_that_waits_to_be_judged_is_judged_first_and_taken_up_later(records: Records) -> None:
    patient_id, _ = enrolled(records, 1)
    waiting = records.call_log(patient_id, day(1), "provider", "https://example.org/w.flac")
    held = records.call_log(patient_id, day(2), "provider", "https://example.org/h.flac")
    claim = records.open(held)
    assert opened(records, is_history=True) == 1
    assert not {waiting, held} & set(queued(records))
    records.complete(claim)
    records.complete(records.open(waiting))
    assert opened(records, is_history=True) == 2
    assert set(queued(records)) >= {waiting, held}


def test_what_was_not_to_be_judged_is_not_embedded_either(records: Records) -> None:
    patient_id = records.patient()
    records.complete(records.open(records.call_log(patient_id, day(0), "provider", "https://x/1")), recording="same")
    again = records.call_log(patient_id, day(1), "provider", "https://x/2")
    records.complete(records.open(again), recording="same")
    assert records.one("select check_reason from public.call_logs where id = %s", again) == "duplicate_recording"
    assert opened(records, is_history=True) == 1
    assert again not in queued(records)


def test_recordings_of_an_enrolment_that_is_under_way_are_opened_too(records: Records) -> None:
    patient_id, _ = enrolled(records, 3)
    enrolment_id = uuid4()
    call = records.call_log(patient_id, day(1), "onboarding", "https://x/1", enrolment_id)
    assert records.complete(records.open(call))["added_to_baseline"] is False
    opened(records)
    assert call in queued(records)


def test_an_encoder_that_is_not_registered_has_no_backfill(records: Records) -> None:
    for function, values in (("open_backfill", (False, 1)), ("activate_encoder", ())):
        with pytest.raises(psycopg.Error) as raised:
            records.call(function, "unheard-of-v1", *values)
        assert raised.value.sqlstate == "RV004"


# Who gets it, and when.


def test_a_call_that_waits_to_be_judged_comes_before_any_backfill(records: Records) -> None:
    for number in range(3):
        records.call_log(records.patient(), day(-number), "archive", f"https://x/{number}")
    call = records.call_log(records.patient(), NOON, "provider", "https://x/live")
    assert [claim["call_log_id"] for claim in records.claims()] == [call]
    assert len(records.claims()) == 3


def test_a_backfill_that_killed_its_worker_does_not_come_before_a_call(records: Records) -> None:
    records.call_log(records.patient(), NOON, "archive", "https://x/poison")
    assert len(records.claims(lease_seconds=-1)) == 1
    call = records.call_log(records.patient(), NOON, "provider", "https://x/live")
    assert [claim["call_log_id"] for claim in records.claims()] == [call]
    [poison] = records.claims()
    assert poison["lost_leases"] == 1


def test_a_backfill_keeps_no_call_of_its_patient_waiting(records: Records) -> None:
    patient_id = records.patient()
    records.call_log(patient_id, NOON, "archive", "https://x/1")
    assert len(records.claims()) == 1
    call = records.call_log(patient_id, NOON, "provider", "https://x/live")
    assert [claim["call_log_id"] for claim in records.claims()] == [call]


def test_the_service_of_an_encoder_that_is_not_active_gets_backfills_alone(records: Records) -> None:
    enrolled(records, 1)
    opened(records)
    records.do("update care.checks set is_backfill = false where model = %s", NEXT)
    assert records.claims(NEXT) == []
    records.do("update care.checks set is_backfill = true where model = %s", NEXT)
    assert len(records.claims(NEXT)) == 1


# What it makes.


def test_the_baseline_is_made_of_the_same_calls_once_all_are_embedded(records: Records) -> None:
    patient_id, calls = enrolled(records, 3)
    opened(records)
    done = []
    for _ in range(3):
        assert samples(records, patient_id) == set()
        [claim] = records.claims(NEXT)
        done.append(records.complete(claim, at_cosine(0.9)))
    assert samples(records, patient_id) == set(calls)
    assert [row["state"] for row in done] == ["embedded"] * 3
    assert [row["added_to_baseline"] for row in done] == [False, False, True]
    vector = records.row("select embedding::text from voice.baselines where encoder = %s", NEXT)["embedding"]
    assert [float(part) for part in vector.strip("[]").split(",")] == pytest.approx(at_cosine(0.9), abs=1e-6)


def test_a_backfill_leaves_nothing_but_embeddings_and_baselines(records: Records) -> None:
    patient_id, _ = enrolled(records, 3)
    records.recorded(patient_id, day(1), at_cosine(0.2))
    claim = records.open(records.recorded(patient_id, day(2), at_cosine(0.7)))
    assert claim["lease_token"] is None
    before = judged(records)
    assert len(before["voice_anomaly_logs"]) >= 2
    assert len(before["caregiver_alerts"]) == 1
    opened(records, is_history=True)
    for number, voice in enumerate((USUAL, at_cosine(-1), at_cosine(-0.5), USUAL, USUAL)):
        [claim] = records.claims(NEXT)
        match number:
            case 1:
                records.call("abstain_check", claim["check_id"], claim["lease_token"], "too_noisy", "{}")
            case 2:
                fail(records, claim)
            case _:
                records.complete(claim, voice)
    assert status(records) == {
        "encoder": NEXT, "is_active": False, "embedded": 3, "not_assessable": 1, "skipped": 0, "dead": 1, "waiting": 0,
        "baselines": 1, "rebuilt": 1, "outdated": 0, "unrecoverable": 0,
    }  # fmt: skip
    records.run_due_jobs(datetime.now(UTC))
    assert judged(records) == before
    assert records.one("select count(*) from voice.embeddings where encoder = %s", NEXT) == 3


def test_consent_is_asked_again_when_the_recording_has_been_heard(records: Records) -> None:
    patient_id, _ = enrolled(records, 1)
    opened(records)
    [claim] = records.claims(NEXT)
    records.call("set_consent", patient_id, False)
    assert records.complete(claim)["reason"] == "no_consent"
    assert records.one("select count(*) from voice.embeddings") == 0


def test_a_sample_that_was_flagged_meanwhile_comes_into_no_baseline(records: Records) -> None:
    patient_id, calls = enrolled(records, 3)
    opened(records)
    claims = records.claims(NEXT)
    records.call("flag_patient", patient_id, "flu", day(-28))
    assert samples(records, patient_id, ENCODER) == set(calls[:2])
    for claim in claims:
        records.complete(claim)
    embed_all(records)
    assert samples(records, patient_id) == set(calls[:2])


def test_a_baseline_that_changes_meanwhile_is_followed(records: Records) -> None:
    patient_id, calls = enrolled(records, 2)
    opened(records)
    embed_all(records)
    added = records.recorded(patient_id, day(1))
    assert samples(records, patient_id, ENCODER) == {*calls, added}
    assert (status(records)["outdated"], samples(records, patient_id)) == (1, set(calls))
    assert opened(records) == 1
    embed_all(records)
    assert samples(records, patient_id) == {*calls, added}
    enrolment_id, again = uuid4(), []
    for number in (3, 4, 5):
        again.append(records.call_log(patient_id, day(number), "onboarding", f"https://x/{number}", enrolment_id))
        records.complete(records.open(again[-1]))
    assert samples(records, patient_id, ENCODER) == set(again)
    assert opened(records) == 3
    embed_all(records)
    assert samples(records, patient_id) == set(again)
    current = "select enrolment_id from voice.baselines where encoder = %s and superseded_at is null"
    assert records.one(current, NEXT) == enrolment_id


def test_a_baseline_that_is_gone_meanwhile_is_followed(records: Records) -> None:
    patient_id, calls = enrolled(records, 1)
    opened(records)
    embed_all(records)
    records.judge(patient_id, source="onboarding", enrolment_id=uuid4(), at=day(3))
    assert samples(records, patient_id, ENCODER).isdisjoint(calls)
    records.call("flag_patient", patient_id, "flu", day(3))
    assert samples(records, patient_id, ENCODER) == set()
    assert samples(records, patient_id) == set(calls)
    assert status(records)["outdated"] == 1
    assert records.call("rebuild_baselines", NEXT, 10)["rebuild_baselines"] == 1
    assert samples(records, patient_id) == set()


@pytest.mark.parametrize("loss", ["gone", "dead", "not assessable", "gone while it waits"])
def test_what_cannot_be_embedded_is_left_out_and_the_baseline_is_made_of_the_others(
    records: Records, loss: str
) -> None:
    patient_id, calls = enrolled(records, 3)
    if loss == "gone":
        records.do("update public.call_logs set recording_ref = null where id = %s", calls[0])
    opened(records)
    while claims := records.claims(NEXT):
        for claim in claims:
            if claim["call_log_id"] != calls[0]:
                records.complete(claim)
            elif loss == "dead":
                fail(records, claim)
            elif loss == "not assessable":
                records.call("abstain_check", claim["check_id"], claim["lease_token"], "too_noisy", "{}")
            else:
                records.do("update public.call_logs set recording_ref = null where id = %s", calls[0])
                assert fail(records, claim)["state"] == "dead"
    records.call("rebuild_baselines", NEXT, 10)
    assert samples(records, patient_id) == set(calls[1:])
    assert status(records)["rebuilt"] == 1
    assert opened(records) == 0


def test_a_call_that_a_backfill_has_embedded_is_judged_all_the_same_when_it_is_asked_for(records: Records) -> None:
    patient_id, _ = enrolled(records, 3)
    late = records.call_log(patient_id, day(1), "provider", "https://x/late")
    claim = records.open(late)
    fail(records, claim)
    opened(records, is_history=True)
    embed_all(records)
    records.call("activate_encoder", NEXT)
    assert records.rows("select * from care.requeue_checks(null, null)") == [{"requeue_checks": claim["check_id"]}]
    records.run_due_jobs(datetime.now(UTC))
    [result] = embed_all(records, voice=at_cosine(0.5))
    assert result["state"] == "scored"
    assert records.one("select count(*) from voice.embeddings where call_log_id = %s and encoder = %s", late, NEXT) == 1


# What is seen of it.


def test_no_view_takes_a_backfill_for_the_calls_judgement(records: Records) -> None:
    patient_id, _ = enrolled(records, 1)
    caregiver = records.caregiver(patient_id)
    shown = [records.seen(view, caregiver) for view in ("voice_timeline", "check_status", "caregiver_patients")]
    assert shown[0][0]["snr_db"] == 30
    opened(records)
    [claim] = records.claims(NEXT)
    records.complete(claim, snr_db=9)
    again = [records.seen(view, caregiver) for view in ("voice_timeline", "check_status", "caregiver_patients")]
    assert again == shown
    assert len(records.seen("check_status")) == 1
    health = {row["model"]: row for row in records.seen("pipeline_health")}
    assert (health[NEXT]["is_backfill"], health[ENCODER]["is_backfill"]) == (True, False)
    assert [row["is_backfill"] for row in records.rows("select * from care.check_list(null, null, 9)")] == [
        True,
        False,
    ]


def test_recordings_that_a_backfill_could_not_embed_are_one_trouble(records: Records) -> None:
    enrolled(records, 2)
    enrolled(records, 1)
    opened(records)
    while claims := records.claims(NEXT):
        for claim in claims:
            fail(records, claim)
    [issue] = records.seen("operator_issues")
    assert (issue["kind"], issue["subject"], issue["detail"]) == ("backfill_dead", NEXT, "3 recordings")
    assert len(records.rows("select * from care.requeue_checks(null, null)")) == 3
    embed_all(records)
    assert status(records)["rebuilt"] == 2


# Archives.


def archive(records: Records, patient_id: UUID, number: int) -> UUID:
    return records.call_log(patient_id, day(number), "archive", f"https://example.org/archive/{number}")


def test_an_archive_is_embedded_and_never_judged(records: Records) -> None:
    patient_id, calls = enrolled(records, 3)
    old = [archive(records, patient_id, -number) for number in (400, 300)]
    before = judged(records)
    assert {row["state"] for row in embed_all(records, ENCODER, at_cosine(-0.9))} == {"embedded"}
    assert judged(records) == before
    rows = records.rows("select check_state, check_reason, anomaly_score from public.call_logs where id = any(%s)", old)
    assert [set(row.values()) for row in rows] == [{None}] * 2
    assert samples(records, patient_id, ENCODER) == set(calls)
    assert len(records.rows("select from voice.embeddings where call_log_id = any(%s)", old)) == 2


def test_an_archive_makes_a_baseline_where_there_is_none_of_its_healthy_calls_in_their_order(records: Records) -> None:
    patient_id = records.patient()
    records.set_policy(baseline_target_samples=3)
    records.call("flag_patient", patient_id, "flu", day(-90))
    records.call("unflag_patient", patient_id, None, day(-89))
    voices = {-90: USUAL, -80: USUAL, -70: at_cosine(0.2), -60: at_cosine(0.95), -50: at_cosine(0.9), -40: USUAL}
    calls = {number: archive(records, patient_id, number) for number in (-50, -40, -90, -60, -80, -70)}
    heard = []
    while claims := records.claims():
        for claim in claims:
            number = next(number for number, call in calls.items() if call == claim["call_log_id"])
            heard.append(number)
            records.complete(claim, voices[number])
    assert heard == sorted(calls)
    assert samples(records, patient_id, ENCODER) == {calls[-80], calls[-60], calls[-50]}
    assert records.one("select count(*) from public.voice_anomaly_logs") == 0
    assert records.judge(patient_id, at_cosine(0.5), at=day(1))["state"] == "scored"


def test_an_archive_adds_nothing_to_a_baseline_of_other_calls(records: Records) -> None:
    patient_id = records.patient()
    first = archive(records, patient_id, -50)
    embed_all(records, ENCODER)
    assert samples(records, patient_id, ENCODER) == {first}
    live = records.recorded(patient_id, day(1))
    archive(records, patient_id, -40)
    embed_all(records, ENCODER)
    assert samples(records, patient_id, ENCODER) == {first, live}


def test_an_archived_call_is_no_answer_and_no_silence(records: Records) -> None:
    now = datetime.now(UTC)
    patient_id = records.patient()
    records.do("update public.patients set voice_consent_at = %s, silent_after_days = 3", now - timedelta(days=9))
    records.run_due_jobs(now)
    assert records.one("select causes[1] from public.caregiver_alerts where resolved_at is null") == "nothing_heard"
    for days in (1, 2, 3, 4):
        records.call_log(patient_id, now - timedelta(days=days), "archive", f"https://x/{days}")
    for number in range(4):
        [claim] = records.claims()
        if number:
            records.call("abstain_check", claim["check_id"], claim["lease_token"], "no_speech", "{}")
        else:
            records.complete(claim)
    before = judged(records)
    records.run_due_jobs(now + timedelta(minutes=1))
    assert judged(records)["caregiver_alerts"] == before["caregiver_alerts"]


def test_an_archive_without_consent_waits_for_it(records: Records) -> None:
    patient_id = records.patient(consent=False)
    archive(records, patient_id, -9)
    assert records.row("select state, reason from care.checks") == {"state": "skipped", "reason": "no_consent"}
    assert opened(records, encoder=ENCODER) == 0
    records.call("set_consent", patient_id, True)
    assert (opened(records, encoder=ENCODER), opened(records, encoder=ENCODER)) == (1, 0)


def test_to_ask_for_an_archived_call_embeds_it_and_judges_nothing(records: Records) -> None:
    patient_id, _ = enrolled(records, 3)
    call = records.call_log(patient_id, day(-100), "archive")
    assert records.complete(records.open(call), at_cosine(-0.9))["state"] == "embedded"
    assert records.open(call)["lease_token"] is None
    assert records.one("select check_state from public.call_logs where id = %s", call) is None


def test_an_archives_recordings_are_kept_no_longer_than_others(records: Records) -> None:
    call = archive(records, records.patient(), -9)
    embed_all(records, ENCODER)
    records.do("update public.call_logs set created_at = now() - interval '91 days'")
    records.run_due_jobs(datetime.now(UTC))
    assert records.one("select recording_ref from public.call_logs where id = %s", call) is None
