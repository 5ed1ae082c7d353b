"""Who is not heard is missed: for days without a call that could be judged, or by answering without a voice."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from fixtures.records import NOON, Records, at_cosine

DAY = timedelta(days=1)


@pytest.fixture
def patient_id(records: Records) -> UUID:
    """Phoned daily, and missed after three days."""
    patient_id = records.patient()
    records.do("update public.patients set silent_after_days = 3, voice_consent_at = %s", NOON - 30 * DAY)
    return patient_id


def hear_nothing(records: Records, patient_id: UUID, at: datetime, reason: str = "no_speech") -> None:
    """Let the patient answer a call without a voice that can be judged."""
    if reason == "nobody_spoke":
        records.report(
            f"call-{at}",
            patient_id=patient_id,
            started_at=at,
            ended_reason="silence-timed-out",
            speech_intervals=Jsonb([]),
        )
        return
    claim = records.open(records.call_log(patient_id, at))
    records.call("abstain_check", claim["check_id"], claim["lease_token"], reason, "{}")


def alerts(records: Records) -> list[tuple[str, str, str]]:
    rows = records.rows("select level, state, cause from public.caregiver_alerts order by opened_at, id")
    return [(row["level"], row["state"], row["cause"]) for row in rows]


def changes(records: Records) -> list[str]:
    return [row["change"] for row in records.rows("select change from public.alert_changes order by changed_at, id")]


HEARD = {("scored", None), ("enrolled", None), ("held", "sick_without_baseline"), ("held", "sick_at_enrolment")}
UNHEARD = {("not_assessable", "no_speech"), ("not_assessable", "too_little_speech"), ("skipped", "nobody_spoke")}


def test_a_call_says_whether_the_patient_was_heard(records: Records, patient_id: UUID) -> None:
    """Every state with every reason: a call that is neither says nothing about the patient."""
    records.do(
        """insert into public.call_logs (patient_id, check_state, check_reason)
           select %s, state, reason
           from unnest(enum_range(null::public.check_state) || null::public.check_state) as state
           cross join unnest(enum_range(null::public.check_reason) || null::public.check_reason) as reason""",
        patient_id,
    )
    rows = records.rows("select check_state, check_reason, is_heard, is_unheard from public.call_logs")
    assert {row["check_state"] for row in rows if row["is_heard"]} == {state for state, _ in HEARD}
    assert {row["check_reason"] for row in rows if row["is_unheard"]} == {reason for _, reason in UNHEARD}
    told = {(row["check_state"], row["check_reason"]): (row["is_heard"], row["is_unheard"]) for row in rows}
    assert {told[end] for end in HEARD} == {(True, False)}
    assert {told[end] for end in UNHEARD} == {(False, True)}
    assert told[None, None] == told["not_assessable", "undecodable"] == (False, False)


@pytest.mark.parametrize(("column", "index"), [("is_heard", "call_logs_heard"), ("is_unheard", "call_logs_unheard")])
def test_an_index_holds_the_calls_that_tell_of_silence(
    records: Records, patient_id: UUID, column: str, index: str
) -> None:
    with records.database.owner.transaction():
        records.do("set local enable_seqscan = off")
        plan = records.rows(
            f'explain select max("timestamp") from public.call_logs where patient_id = %s and {column}', patient_id
        )
    assert index in str(plan)


NOTHING, UNUSABLE = ("warning", "open", "nothing_heard"), ("warning", "open", "no_usable_speech")


def test_a_patient_on_a_schedule_who_was_not_heard_for_the_set_days_raises_one_alert(
    records: Records, patient_id: UUID
) -> None:
    records.judge_at(patient_id, NOON)
    records.run_due_jobs(NOON + 3 * DAY - timedelta(seconds=1))
    assert alerts(records) == []
    assert records.run_due_jobs(NOON + 3 * DAY)["note_silences"] == 1
    assert alerts(records) == [NOTHING]
    assert records.run_due_jobs(NOON + 3 * DAY)["note_silences"] == 0


def test_a_patient_who_was_never_heard_is_missed_since_consent(records: Records, patient_id: UUID) -> None:
    records.run_due_jobs(NOON)
    assert alerts(records) == [NOTHING]


@pytest.mark.parametrize("change", ["silent_after_days = null", "voice_consent_at = null"])
def test_without_a_schedule_or_consent_nobody_is_missed(records: Records, patient_id: UUID, change: str) -> None:
    records.do(f"update public.patients set {change}")
    records.run_due_jobs(NOON + 99 * DAY)
    assert alerts(records) == []


@pytest.mark.parametrize("ended_reason", ["voicemail", "customer-did-not-answer", "pipeline-error-x"])
def test_calls_that_the_patient_did_not_answer_break_no_silence(
    records: Records, patient_id: UUID, ended_reason: str
) -> None:
    records.judge_at(patient_id, NOON)
    for day in range(1, 4):
        at = NOON + day * DAY
        records.report(f"call-{day}", patient_id=patient_id, started_at=at, ended_reason=ended_reason)
    records.run_due_jobs(NOON + 3 * DAY)
    assert alerts(records) == [NOTHING]


@pytest.mark.parametrize("reason", ["no_speech", "too_little_speech", "nobody_spoke"])
def test_several_answered_calls_in_a_row_without_usable_speech_raise_an_alert(
    records: Records, patient_id: UUID, reason: str
) -> None:
    records.do("update public.patients set silent_after_days = null")
    records.judge_at(patient_id, NOON)
    for hour in range(1, 3):
        hear_nothing(records, patient_id, NOON + timedelta(hours=hour), reason)
    records.run_due_jobs(NOON + DAY)
    assert alerts(records) == []
    hear_nothing(records, patient_id, NOON + timedelta(hours=3), reason)
    records.run_due_jobs(NOON + DAY)
    assert alerts(records) == [UNUSABLE]


@pytest.mark.parametrize("reason", ["ambiguous_channel", "undecodable", "too_long", "too_noisy", "clipped"])
def test_recordings_that_cannot_be_read_or_told_apart_are_the_operators_and_tell_the_family_nothing(
    records: Records, patient_id: UUID, reason: str
) -> None:
    records.do("update public.patients set silent_after_days = null")
    records.judge_at(patient_id, NOON)
    for hour in range(1, 3):
        hear_nothing(records, patient_id, NOON + timedelta(hours=hour), reason)
    assert records.seen("operator_issues") == []
    hear_nothing(records, patient_id, NOON + timedelta(hours=3), reason)
    records.run_due_jobs(NOON + DAY)
    assert alerts(records) == []
    [issue] = records.seen("operator_issues")
    assert (issue["kind"], issue["patient_id"], issue["code"], issue["detail"]) == (
        "recordings_unusable", patient_id, reason, "3 calls",
    )  # fmt: skip
    records.judge_at(patient_id, NOON + timedelta(hours=4))
    assert records.seen("operator_issues") == []


def test_a_voice_in_between_begins_the_count_anew(records: Records, patient_id: UUID) -> None:
    records.judge_at(patient_id, NOON)
    for hour in (1, 2, 4, 5):
        hear_nothing(records, patient_id, NOON + timedelta(hours=hour))
    records.judge_at(patient_id, NOON + timedelta(hours=3))
    records.run_due_jobs(NOON + DAY)
    assert alerts(records) == []


def test_voicemail_between_two_silent_calls_does_not_hide_them(records: Records, patient_id: UUID) -> None:
    for hour in range(3):
        hear_nothing(records, patient_id, NOON + timedelta(hours=2 * hour))
        records.report(
            f"call-{hour}",
            patient_id=patient_id,
            started_at=NOON + timedelta(hours=2 * hour + 1),
            ended_reason="voicemail",
        )
    records.do("update public.patients set silent_after_days = null")
    records.run_due_jobs(NOON + DAY)
    assert alerts(records) == [UNUSABLE]


def test_when_the_patient_is_heard_again_the_alert_closes_by_itself_and_those_told_hear_of_it(
    records: Records, patient_id: UUID
) -> None:
    records.caregiver(patient_id)
    records.run_due_jobs(NOON)
    [told] = records.claim_deliveries(NOON)
    assert told["message"].startswith("We have not been able to hear Ana on the phone for some days.")
    records.rpc("finish_delivery", delivery_id=told["delivery_id"], lease_token=told["lease_token"], at=NOON)
    records.judge_at(patient_id, NOON + timedelta(hours=1))
    assert records.run_due_jobs(NOON + timedelta(hours=2))["end_silences"] == 1
    assert alerts(records) == [("warning", "resolved", "nothing_heard")]
    [told] = records.claim_deliveries(NOON + timedelta(hours=2))
    assert told["message"] == "We have heard Ana on the phone again. You need not do anything."


def test_an_alert_about_a_voice_does_not_close_by_itself(records: Records, patient_id: UUID) -> None:
    records.judge_at(patient_id, NOON)
    records.judge_at(patient_id, NOON, at_cosine(0.5))
    records.judge_at(patient_id, NOON + timedelta(hours=1))
    records.run_due_jobs(NOON + timedelta(minutes=10))
    assert alerts(records) == [("emergency", "open", "voice_changed")]


def test_silence_in_an_open_episode_only_counts_up(records: Records, patient_id: UUID) -> None:
    records.judge_at(patient_id, NOON)
    records.judge_at(patient_id, NOON, at_cosine(0.5))
    records.run_due_jobs(NOON + 3 * DAY)
    assert records.row("select level, cause, repeat_count from public.caregiver_alerts") == {
        "level": "emergency", "cause": "voice_changed", "repeat_count": 1,
    }  # fmt: skip
    records.run_due_jobs(NOON + 4 * DAY)
    assert changes(records).count("repeated") == 1


def test_silence_after_somebody_took_it_over_is_told(records: Records, patient_id: UUID) -> None:
    caregiver = records.caregiver(patient_id)
    records.judge_at(patient_id, NOON)
    records.judge_at(patient_id, NOON, at_cosine(0.7))
    records.rpc("acknowledge_alert", sub=caregiver, alert_id=records.one("select id from public.caregiver_alerts"))
    records.run_due_jobs(NOON + 3 * DAY)
    assert alerts(records) == [NOTHING]
    assert "We have not been able to hear Ana" in records.claim_deliveries(NOON + 3 * DAY)[0]["message"]


def test_a_silence_that_was_seen_to_is_not_raised_again_until_as_many_days_have_passed(
    records: Records, patient_id: UUID
) -> None:
    caregiver = records.caregiver(patient_id)
    records.judge_at(patient_id, NOON)
    silent_at = NOON + 3 * DAY
    records.run_due_jobs(silent_at)
    alert_id = records.one("select id from public.caregiver_alerts")
    records.rpc("resolve_alert", sub=caregiver, alert_id=alert_id, outcome="other", notes="In hospital.")
    records.do("update public.caregiver_alerts set resolved_at = %s", silent_at)
    records.run_due_jobs(silent_at + 3 * DAY - timedelta(seconds=1))
    assert len(alerts(records)) == 1
    records.run_due_jobs(silent_at + 3 * DAY)
    assert len(alerts(records)) == 2


def test_after_it_was_heard_a_new_silence_is_a_new_episode(records: Records, patient_id: UUID) -> None:
    records.run_due_jobs(NOON)
    records.judge_at(patient_id, NOON + DAY)
    records.run_due_jobs(NOON + DAY)
    records.run_due_jobs(NOON + 4 * DAY)
    assert alerts(records) == [("warning", "resolved", "nothing_heard"), NOTHING]


def test_caregivers_see_their_silent_patients_in_a_view(records: Records, patient_id: UUID) -> None:
    records.do("update public.patients set voice_consent_at = now() - interval '5 days'")
    [row] = records.seen("silent_patients", records.caregiver(patient_id, "viewer"))
    assert (row["patient_id"], row["cause"], row["last_heard_at"], row["unusable_calls"]) == (
        patient_id, "nothing_heard", None, 0,
    )  # fmt: skip
    assert row["silent_days"] == pytest.approx(5, abs=0.01)
    assert records.seen("silent_patients", records.caregiver(records.patient())) == []
    assert len(records.seen("silent_patients")) == 1
