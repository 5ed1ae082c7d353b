"""A second signal is one file: from a number to a message, exported, erased and retained, nothing changed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from fixtures.databases import Database
from fixtures.records import NOON, USUAL, Records, Row, at_cosine

TOY = Path(__file__).with_name("toy_signal.sql").read_text(encoding="utf-8")
EVERYTHING_MADE = """
    select oid::regprocedure::text as name, md5(pg_get_functiondef(oid) || coalesce(proacl::text, '')) as text
    from pg_proc
    where pronamespace in ('public'::regnamespace, 'care'::regnamespace, 'voice'::regnamespace) and prokind = 'f'
        and not exists (select from pg_depend where objid = pg_proc.oid and deptype = 'e')
    union all
    select conrelid::regclass || '.' || conname, md5(pg_get_constraintdef(oid)) from pg_constraint
    where connamespace in ('public'::regnamespace, 'care'::regnamespace, 'voice'::regnamespace)
    union all
    select oid::regclass::text, md5(pg_get_viewdef(oid)) from pg_class
    where relnamespace in ('public'::regnamespace, 'care'::regnamespace, 'voice'::regnamespace) and relkind = 'v'
    order by name"""


@pytest.fixture
def toy(database: Database) -> Records:
    """A database in which the toy signal is there, beside an encoder."""
    records = Records(database)
    records.register()
    database.owner.execute(TOY.encode())
    return records


@pytest.fixture
def patient_id(toy: Records) -> UUID:
    """A patient who has consented to both."""
    patient_id = toy.patient("Europe/Berlin")
    toy.rpc("record_consent", patient_id=patient_id, evidence="said yes", given_at=NOON, scope="numbers")
    return patient_id


def says(records: Records, patient_id: UUID, number: float, at: Any = NOON) -> Row:
    """Phone the patient, and judge the number that is said."""
    call_log_id = records.call_log(patient_id, at, "upload", f"storage:voice-recordings/{patient_id}/{at:%j%H}.wav")
    [claim] = records.rows("select * from care.claim_checks('toy-1', 'listener', 10, 60)")
    assert claim["call_log_id"] == call_log_id
    query = "select * from toy.complete_check(%s, %s, %s)"
    return records.row(query, claim["id"], claim["lease_token"], number)


def test_it_comes_in_without_a_change_to_anything_that_was_there(database: Database) -> None:
    records = Records(database)
    before = records.rows(EVERYTHING_MADE)
    assert len(before) > 300
    database.owner.execute(TOY.encode())
    assert records.rows(EVERYTHING_MADE) == before


def test_a_number_becomes_a_judgement_a_checkin_an_alert_and_a_message(toy: Records, patient_id: UUID) -> None:
    caregiver = toy.caregiver(patient_id, name="Rui", patient_known_as="Mum")
    judged = says(toy, patient_id, 12)
    assert (judged["signal"], judged["model"], judged["score"], judged["severity"]) == ("toy", "toy-1", 0.5, "high")
    assert (judged["alert_type"], judged["rule"], judged["explanation"]) == ("emergency", "distance", "12 instead of 7")
    assert toy.one("select policy from public.scoring_policies") == {
        "usual": 7, "medium_above": 0.25, "high_above": 0.4, "critical_above": 0.7, "checkin_above": 0.4,
    }  # fmt: skip
    assert toy.row("select anomaly_score, severity from public.daily_checkins") == {
        "anomaly_score": 0.5,
        "severity": "high",
    }

    [alert] = toy.seen("alert_history", caregiver)
    assert (alert["cause"], alert["level"], alert["judgement_id"]) == ("number_changed", "emergency", judged["id"])
    assert alert["call_log_id"] == alert["opening_call_log_id"] == judged["call_log_id"]
    [overview] = toy.seen("caregiver_patients", caregiver)
    assert (overview["state"], overview["last_score"], overview["severity"]) == ("changed", 0.5, "high")
    assert overview["score_count_30_days"] == 0, "means are of the voice, by its own encoder"

    soon = toy.one("select now() + interval '1 minute'")
    [message] = toy.rpc("claim_deliveries", worker="sender", count=10, lease_seconds=60, at=soon)
    assert message["message"].startswith("Mum said another number than usual at 13:00 on 2 March. Please call Mum")
    assert message["call_log_id"] == judged["call_log_id"]
    finished = {"delivery_id": message["delivery_id"], "lease_token": message["lease_token"]}
    toy.rpc("finish_delivery", **finished, provider_message_id="SM1", at=soon)
    assert toy.one("select alert_sent from public.judgements")


def test_a_usual_number_tells_nobody(toy: Records, patient_id: UUID) -> None:
    toy.caregiver(patient_id)
    assert says(toy, patient_id, 8)["severity"] == "low"
    assert toy.rows("select * from public.caregiver_alerts") == []
    assert toy.rows("select * from public.daily_checkins") == []


def test_both_signals_judge_one_call_and_share_one_episode(toy: Records, patient_id: UUID) -> None:
    caregiver = toy.caregiver(patient_id)
    toy.judge(patient_id, USUAL, NOON - timedelta(days=1))
    judged = says(toy, patient_id, 11)
    result = toy.complete(toy.open(judged["call_log_id"]), at_cosine(0.5))
    assert result["state"] == "scored"
    rows = toy.rows("select signal, score, id from public.judgements order by signal")
    assert [(row["signal"], row["score"]) for row in rows] == [("toy", 0.4), ("voice", 0.5)]
    assert rows[1]["id"] == result["log_id"]
    [alert] = toy.seen("alert_history", caregiver)
    assert (alert["causes"], alert["level"]) == (["number_changed", "voice_changed"], "emergency")
    assert (alert["judgement_id"], alert["opening_judgement_id"]) == (rows[1]["id"], rows[0]["id"])
    shown = toy.rows("select signal, state from public.check_status where call_log_id = %s", judged["call_log_id"])
    assert {row["signal"]: row["state"] for row in shown} == {"toy": "scored", "voice": "scored"}
    assert toy.one("select anomaly_score from public.call_logs where id = %s", judged["call_log_id"]) == 0.5


def test_a_call_shows_the_state_of_its_voice_alone(toy: Records, patient_id: UUID) -> None:
    judged = says(toy, patient_id, 7)
    assert toy.one("select check_state from public.call_logs where id = %s", judged["call_log_id"]) == "queued"


def test_without_its_own_consent_nothing_is_checked(toy: Records) -> None:
    patient_id = toy.patient()
    call_log_id = toy.call_log(patient_id, recording_ref="https://example.org/a.wav")
    ended = toy.rows(
        "select signal, state, reason from care.checks where call_log_id = %s order by signal", call_log_id
    )
    assert ended == [
        {"signal": "toy", "state": "skipped", "reason": "no_consent"},
        {"signal": "voice", "state": "queued", "reason": None},
    ]


def test_an_address_is_kept_until_every_signal_has_used_it(toy: Records, patient_id: UUID) -> None:
    call_log_id = toy.call_log(patient_id, recording_ref="https://example.org/a.wav?token=1")
    toy.complete(toy.open(call_log_id))
    address = "select recording_ref from public.call_logs where id = %s"
    assert toy.one(address, call_log_id) is not None
    [claim] = toy.rows("select * from care.claim_checks('toy-1', 'listener', 10, 60)")
    toy.row("select * from toy.complete_check(%s, %s, 7)", claim["id"], claim["lease_token"])
    assert toy.one(address, call_log_id) is None


def test_a_check_that_dies_is_the_operators(toy: Records, patient_id: UUID) -> None:
    toy.call_log(patient_id, recording_ref="https://example.org/a.wav")
    [claim] = toy.rows("select * from care.claim_checks('toy-1', 'listener', 10, 60)")
    toy.do("select care.fail_check(%s, %s, 'deaf', 'cannot hear', true)", claim["id"], claim["lease_token"])
    [issue] = toy.rows("select * from care.operator_issues() where kind = 'check_dead'")
    assert (issue["subject"], issue["detail"]) == (f"check {claim['id']}", "cannot hear")


def test_it_is_exported(toy: Records, patient_id: UUID) -> None:
    says(toy, patient_id, 12)
    exported = toy.call("export_patient", patient_id)["export_patient"]
    assert [row["number"] for row in exported["toy.numbers"]] == [12]
    assert [row["explanation"] for row in exported["judgements"]] == ["12 instead of 7"]
    assert {row["scope"] for row in exported["consents"]} == {"voiceprint", "numbers"}


def test_its_consent_withdrawn_erases_it_and_leaves_the_voice(toy: Records, patient_id: UUID) -> None:
    says(toy, patient_id, 12)
    toy.judge(patient_id)
    previewed = {
        row["erased"]: row["row_count"] for row in toy.rows("select * from care.erasure_preview(%s)", patient_id)
    }
    assert (previewed["numbers"], previewed["embeddings"]) == (1, 1)
    toy.rpc("withdraw_consent", patient_id=patient_id, scope="numbers")
    assert toy.rows("select * from toy.numbers") == []
    assert [row["signal"] for row in toy.rows("select distinct signal from care.checks")] == ["voice"]
    assert toy.one("select count(*) from voice.embeddings") == 1
    assert toy.one("select voice_consent_at is not null from public.patients")
    assert [row["scope"] for row in toy.rows("select scope from care.tombstones")] == ["toy"]
    noted = toy.row("select subject, detail from care.audit_log where action = 'signal_erased'")
    assert noted == {"subject": "toy", "detail": {"checks": 1, "numbers": 1}}


def test_an_erased_person_takes_it_along(toy: Records, patient_id: UUID) -> None:
    says(toy, patient_id, 12)
    counts = toy.call("erase_patient", patient_id, "asked")["erase_patient"]
    assert (counts["numbers"], counts["checks"]) == (1, 1)
    assert toy.rows("select * from toy.numbers") == toy.rows("select * from public.judgements") == []


def test_a_tombstone_of_it_is_replayed_on_a_restored_backup(toy: Records, patient_id: UUID) -> None:
    says(toy, patient_id, 12)
    replayed = "select care.replay_tombstone(gen_random_uuid(), %s, 'toy', 'asked', now())"
    assert toy.one(replayed, patient_id) is True
    assert toy.rows("select * from toy.numbers") == []
    assert toy.one("select count(*) from public.consents where scope = 'numbers' and withdrawn_at is null") == 0


def test_it_is_kept_as_long_as_its_row_says(toy: Records, patient_id: UUID) -> None:
    says(toy, patient_id, 12)
    now = toy.one("select now()")
    assert toy.run_due_jobs(now + timedelta(days=29))["delete_old_numbers"] == 0
    assert toy.run_due_jobs(now + timedelta(days=31))["delete_old_numbers"] == 1
    assert toy.rows("select * from toy.numbers") == []
    assert toy.one("select count(*) from public.judgements") == 1


def test_its_thresholds_are_its_own(toy: Records, patient_id: UUID) -> None:
    toy.do("update care.thresholds set medium_above = 0.01, high_above = 0.02 where signal = 'toy'")
    assert says(toy, patient_id, 8)["severity"] == "high"
    toy.judge(patient_id)
    assert toy.judge(patient_id, at_cosine(0.9), NOON + timedelta(days=1))["severity"] == "low"


def test_an_organisation_may_have_thresholds_of_its_own(toy: Records, patient_id: UUID) -> None:
    toy.do("insert into public.organisations (name) values ('Strict')")
    toy.do(
        """insert into care.thresholds (organisation_id, signal, model, medium_above, high_above, critical_above)
           select id, 'toy', 'toy-1', 0.01, 0.02, 0.03 from public.organisations where name = 'Strict'"""
    )
    assert says(toy, patient_id, 8)["severity"] == "low"
    toy.do("update public.patients set organisation_id = (select id from public.organisations where name = 'Strict')")
    assert says(toy, patient_id, 8, NOON + timedelta(days=1))["severity"] == "critical"


def test_a_check_that_ended_while_somebody_listened_is_not_completed(toy: Records, patient_id: UUID) -> None:
    toy.call_log(patient_id, recording_ref="https://example.org/a.wav")
    [claim] = toy.rows("select * from care.claim_checks('toy-1', 'listener', 10, 60)")
    toy.rpc("withdraw_consent", patient_id=patient_id, scope="numbers")
    completed = toy.row("select * from toy.complete_check(%s, %s, 12)", claim["id"], claim["lease_token"])
    assert completed["id"] is None
    with pytest.raises(psycopg.Error) as raised:
        toy.do("select care.finish_check(%s, 'scored', null)", claim["id"])
    assert raised.value.sqlstate == "RV001"
    assert toy.rows("select * from toy.numbers") == toy.rows("select * from public.judgements") == []
    assert toy.one("select state from care.checks where signal = 'toy'") == "skipped"


def test_whoever_completes_twice_gets_the_same_answer(toy: Records, patient_id: UUID) -> None:
    toy.call_log(patient_id, recording_ref="https://example.org/a.wav")
    [claim] = toy.rows("select * from care.claim_checks('toy-1', 'listener', 10, 60)")
    query = "select * from toy.complete_check(%s, %s, 12)"
    first, again = (toy.row(query, claim["id"], claim["lease_token"]) for _ in range(2))
    assert again["id"] == first["id"]
    assert toy.one("select count(*) from toy.numbers") == 1


def test_whoever_consents_to_it_alone_is_recorded_and_not_judged_by_voice(toy: Records) -> None:
    patient_id = toy.patient(consent=False)
    toy.rpc("record_consent", patient_id=patient_id, evidence="said yes", given_at=NOON, scope="numbers")
    received = toy.report("call-1", patient_id=patient_id)
    assert received["disposition"] == "judge"
    [claim] = toy.rpc("claim_recordings", worker="copier", count=1, lease_seconds=60, at=NOON + timedelta(hours=1))
    stored: dict[str, Any] = {
        "recording_ref": f"storage:voice-recordings/{claim['object_path']}.wav",
        "recording_channel": "customer",
    }
    toy.rpc("store_recording", call_log_id=claim["call_log_id"], lease_token=claim["lease_token"], **stored)
    ended = toy.rows("select signal, state, reason from care.checks order by signal")
    assert [(row["signal"], row["state"], row["reason"]) for row in ended] == [
        ("toy", "queued", None),
        ("voice", "skipped", "no_consent"),
    ]


def test_recordings_stay_until_the_last_signal_has_no_consent(toy: Records, patient_id: UUID) -> None:
    says(toy, patient_id, 7)
    kept = "select count(*) from public.call_logs where recording_ref is not null"
    toy.rpc("withdraw_consent", patient_id=patient_id)
    assert toy.one(kept) == 1
    toy.rpc("withdraw_consent", patient_id=patient_id, scope="numbers")
    assert toy.one(kept) == 0
    assert toy.one("select count(*) from care.deletions where kind = 'storage_object'") == 1
    assert toy.one("select explanation from public.judgements") is None


def test_a_recording_on_which_nobody_works_is_not_kept_for_ever(toy: Records, patient_id: UUID) -> None:
    toy.call_log(patient_id, recording_ref=f"storage:voice-recordings/{patient_id}/a.wav")
    now = toy.one("select now()")
    assert toy.run_due_jobs(now + timedelta(days=179))["delete_old_recordings"] == 0
    assert toy.run_due_jobs(now + timedelta(days=181))["delete_old_recordings"] == 1


@pytest.mark.parametrize("scope", ["voice", None])
def test_what_cannot_be_consented_to_cannot_be_withdrawn(toy: Records, patient_id: UUID, scope: str | None) -> None:
    with pytest.raises(psycopg.Error) as raised:
        toy.rpc("withdraw_consent", patient_id=patient_id, scope=scope)
    assert raised.value.sqlstate == "PT400"


def test_a_tombstone_of_a_signal_that_is_not_known_here_is_only_kept(toy: Records, patient_id: UUID) -> None:
    says(toy, patient_id, 12)
    replayed = "select care.replay_tombstone(gen_random_uuid(), %s, 'gait', 'asked', now())"
    assert toy.one(replayed, patient_id) is True
    assert toy.one("select count(*) from toy.numbers") == 1
    assert toy.one("select count(*) from care.tombstones where scope = 'gait'") == 1
