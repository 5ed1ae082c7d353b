"""Calls under the calibrated rule, one after the other: what is a warning, what confirms it, and what people answer."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from fixtures.calibrated import ALWAYS_THE_SAME, DOCUMENT, RAW_ONLY, Chart, Observed, Patient, calibrate, decide, usual
from fixtures.records import ENCODER, NOON, USUAL, Records, at_cosine

CRITICAL_AT = 4.3  # a deviation that is critical where it is confirmed; an emergency from 3.7


@pytest.fixture
def patient(records: Records) -> Patient:
    """A patient whose voice may change, and is never taken for another's."""
    calibrate(records, ALWAYS_THE_SAME)
    return Patient(records)


@pytest.fixture
def answered_by_others(records: Records) -> Patient:
    """A patient at whose telephone somebody else may answer."""
    calibrate(records, RAW_ONLY)
    return Patient(records)


def test_everyday_calls_are_low_and_tell_nobody(patient: Patient) -> None:
    for deviation in (0.3, -0.5, 1.2, 0.0, -1.0, 1.5, 0.4, -0.2):
        log = patient.call(deviation)
        assert (log["verdict"], log["severity"], log["rule"]) == ("as_usual", "low", "calibrated")
        assert log["anomaly_score"] < 0.2
        assert log["personal_deviation"] == pytest.approx(deviation, abs=1e-3)
    assert patient.alerts() == []


@pytest.mark.parametrize(("deviation", "severity"), [(2.9, "low"), (3.1, "medium")])
def test_what_comes_by_chance_once_a_year_is_a_warning(patient: Patient, deviation: float, severity: str) -> None:
    log = patient.call(deviation)
    assert (log["severity"], log["pace"]) == (severity, "sudden")


def test_a_single_call_is_never_more_than_a_warning_and_is_told_at_once_at_night(patient: Patient) -> None:
    caregiver = patient.records.caregiver(patient.id, quiet_from="08:00", quiet_until="20:00")  # the call is at noon
    log = patient.call(CRITICAL_AT)
    assert (log["severity"], log["anomaly_score"], log["adjusted_from"] > 0.7) == ("medium", 0.39, True)
    judgement = patient.records.row("select * from public.judgements")
    assert judgement["is_urgent"]
    assert "a second one would confirm it" in judgement["explanation"]
    [told] = patient.records.rows("select * from public.alert_deliveries")
    assert told["run_at"] == patient.at
    [message] = patient.records.claim_deliveries(patient.at)
    assert "It was one call only, but please call Ana now" in message["message"]
    assert caregiver is not None


def test_an_everyday_warning_waits_for_the_morning(patient: Patient) -> None:
    patient.records.caregiver(patient.id, quiet_from="08:00", quiet_until="20:00")
    patient.call(3.2)
    assert not patient.records.one("select is_urgent from public.judgements")
    [told] = patient.records.rows("select * from public.alert_deliveries")
    assert told["run_at"] == NOON + timedelta(days=1, hours=8)


def test_a_second_far_call_within_three_confirms_and_the_level_rises_once(patient: Patient) -> None:
    patient.call(CRITICAL_AT)
    patient.call(0.0)
    confirmed = patient.call(CRITICAL_AT)
    assert (confirmed["severity"], confirmed["alert_type"]) == ("critical", "emergency")
    patient.call(CRITICAL_AT)
    assert patient.changes() == [("opened", "warning"), ("raised", "critical"), ("repeated", "critical")]


def test_a_second_far_call_after_two_everyday_ones_confirms_nothing(patient: Patient) -> None:
    patient.call(CRITICAL_AT)
    patient.call(-0.5)
    patient.call(-0.5)
    assert patient.call(CRITICAL_AT)["severity"] == "medium"


def test_within_a_warning_one_very_unlike_call_is_told(patient: Patient) -> None:
    patient.call(3.2)
    patient.call(-1.0)
    patient.call(-1.0)
    patient.call(CRITICAL_AT)
    assert patient.changes() == [("opened", "warning"), ("raised", "warning")]
    patient.call(-1.0)
    patient.call(-1.0)
    patient.call(3.2)
    assert patient.changes()[2:] == [("repeated", "warning")]


def test_a_small_change_that_lasts_is_found_within_days_and_told_once(patient: Patient) -> None:
    found = []
    for day in range(1, 12):
        log = patient.call(1.5)
        if log["severity"] != "low":
            found.append((day, log["pace"]))
    assert found[0] == (5, "sustained")
    assert "The calls of the last days together" in patient.records.one(
        "select explanation from public.judgements where severity > 'low' order by created_at limit 1"
    )
    assert patient.changes()[0] == ("opened", "warning")
    assert all(change == "repeated" for change, _ in patient.changes()[1:])


def test_three_calm_calls_take_what_was_confirmed_back(patient: Patient) -> None:
    for deviation in (CRITICAL_AT, CRITICAL_AT):
        patient.call(deviation)
    assert patient.chart["confirmed_level"] == "critical"
    calm = 0
    while calm < 3:
        calm = calm + 1 if patient.call(-2.5)["adjusted_from"] < 0.25 else 0
    assert patient.chart["confirmed_level"] == "warning"
    assert patient.call(CRITICAL_AT)["severity"] == "medium"


def test_another_voice_is_called_so_and_leaves_no_trace_in_what_is_usual(answered_by_others: Patient) -> None:
    patient = answered_by_others
    patient.records.caregiver(patient.id)
    patient.call(0.2)
    before = patient.chart
    log = patient.call(0, voice=at_cosine(0.3))
    assert (log["verdict"], log["severity"], log["is_learned"], log["added_to_baseline"]) == (
        "another_voice", "medium", False, False,
    )  # fmt: skip
    after = patient.chart
    kept = ("learned_calls", "learned_mean", "learned_squares", "cusum", "recent_deviations")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    [alert] = patient.alerts()
    assert alert["cause"] == "another_voice"
    [message] = patient.records.claim_deliveries(patient.at)
    assert "did not sound like Ana's" in message["message"]
    assert patient.records.one("select explanation from judgements order by created_at desc limit 1").startswith(
        "It did not sound like Ana."
    )


def test_another_voice_twice_in_three_calls_is_confirmed_as_any_far_call(answered_by_others: Patient) -> None:
    patient = answered_by_others
    patient.call(0, voice=at_cosine(0.3))
    patient.call(0.0)
    assert patient.call(0, voice=at_cosine(0.3))["severity"] == "critical"
    assert patient.changes() == [("opened", "warning"), ("raised", "critical")]


def test_a_changed_voice_that_is_taken_for_another_in_between_is_one_cause(answered_by_others: Patient) -> None:
    patient = answered_by_others
    patient.call(0, voice=at_cosine(0.3))
    patient.records.call("acknowledge_alert", patient.alerts()[0]["id"], patient.at + timedelta(minutes=1))
    while patient.call(1.6)["severity"] == "low":
        pass
    assert [log["verdict"] for log in (patient.logs[0], patient.logs[-1])] == ["another_voice", "changed"]
    assert [change for change, _ in patient.changes()] == ["opened", "acknowledged", "repeated"]


@pytest.mark.parametrize(
    ("consents", "phone", "named"), [(True, "+4930555", True), (False, "+4930555", False), (True, "+4930556", False)]
)
def test_who_of_the_household_spoke_is_said_where_they_enrolled_and_consented(
    answered_by_others: Patient, consents: bool, phone: str, named: bool
) -> None:
    patient, records = answered_by_others, answered_by_others.records
    other: UUID = records.call("add_patient", "Bruno", "UTC", True)["id"]
    records.do("update public.patients set phone = '+4930555' where id = %s", patient.id)
    records.do("update public.patients set phone = %s where id = %s", phone, other)
    records.enrol(other, *[at_cosine(0.3)] * 3)
    if not consents:
        records.do("update public.patients set voice_consent_at = null where id = %s", other)
    account = records.caregiver(patient.id)
    patient.call(0, voice=at_cosine(0.3))
    judgement = records.row("select * from public.judgements")
    assert judgement["likely_patient_id"] == (other if named else None)
    assert "Bruno" not in judgement["explanation"]  # it would stay when Bruno is erased
    for view in ("voice_timeline where score is not null", "alert_history"):
        assert [row["likely_speaker"] for row in records.seen(view, account)] == ["Bruno" if named else None]
    [message] = records.claim_deliveries(patient.at)
    assert ("but like Bruno's" in message["message"]) == named
    noted = records.one("select count(*) from care.audit_log where action = 'voice_matched' and patient_id = %s", other)
    assert noted == int(named)
    records.rpc("erase_patient_voice", patient_id=other, reason="asked")
    assert records.one("select likely_patient_id from public.judgements") is None


def test_who_spoke_instead_is_read_by_the_caregivers_of_the_one_who_was_called(answered_by_others: Patient) -> None:
    patient, records = answered_by_others, answered_by_others.records
    other: UUID = records.call("add_patient", "Bruno", "UTC", True)["id"]
    records.do("update public.patients set phone = '+4930555'")
    records.enrol(other, *[at_cosine(0.3)] * 3)
    patient.call(0, voice=at_cosine(0.3))
    readers = (records.caregiver(patient.id), records.caregiver(other), records.account())
    seen = [records.seen("voice_timeline where likely_speaker is not null", account) for account in readers]
    assert [[row["likely_speaker"] for row in rows] for rows in seen] == [["Bruno"], [], []]


def test_noise_widens_what_is_expected_instead_of_blinding(patient: Patient) -> None:
    voice = patient.voice(3.5)
    clean = patient.call(0, voice=voice, snr_db=30.0)
    noisy = patient.call(0, voice=voice, snr_db=10.0)
    assert clean["personal_deviation"] == pytest.approx(3.5, abs=1e-3)
    assert noisy["personal_deviation"] < 1
    assert (clean["is_clean"], noisy["is_clean"]) == (True, False)
    assert patient.call(3.5, snr_db=10.0)["severity"] == "medium"


def test_an_unknown_snr_is_judged_as_the_noisiest_line_and_changes_no_baseline(patient: Patient) -> None:
    log = patient.call(0.5, snr_db=None)
    lowest = patient.records.row("select * from voice.calibration_bin(%s, 'raw', 8)", log["calibration_id"])
    expected = (lowest["call_variance"] + lowest["speech_variance"] / 10) / 2 + patient.chart["sample_variance"]
    assert log["expected_distance"] == pytest.approx(expected)
    assert (log["is_clean"], log["added_to_baseline"], log["is_learned"]) == (False, False, True)


def test_a_late_call_is_judged_and_changes_no_state(patient: Patient) -> None:
    patient.call(0.5)
    patient.call(1.0)
    before = patient.chart
    late = patient.call(CRITICAL_AT, days=-0.5)
    assert (late["is_late"], late["severity"], late["is_learned"]) == (True, "medium", False)
    patient.at += timedelta(days=0.5)
    after = patient.chart
    for name in ("state", "last_call_at"):
        assert after[name] == before[name], name
    assert patient.call(CRITICAL_AT)["severity"] == "medium"  # the late one confirms nothing


def test_several_calls_a_day_move_the_cusum_once_by_their_mean(patient: Patient) -> None:
    day = [patient.call(deviation, days=0.1 if n else 1) for n, deviation in enumerate((2.0, 1.0, 1.8))]
    assert [log["cusum_after"] for log in day] == pytest.approx([1.5, 1.0, 1.1], abs=1e-3)
    assert patient.call(1.0)["cusum_after"] == pytest.approx(1.6, abs=1e-3)


def test_with_fewer_than_three_samples_the_fixed_formula_scores_provisionally_and_tells_nobody(
    records: Records,
) -> None:
    calibrate(records, ALWAYS_THE_SAME)
    patient_id = records.patient()
    records.enrol(patient_id, USUAL)
    records.judge(patient_id, at_cosine(0.2))
    [log] = records.rows("select * from public.voice_anomaly_logs")
    assert (log["rule"], log["is_provisional"], log["severity"]) == ("fixed", True, "critical")
    assert log["anomaly_score"] == pytest.approx(0.8, abs=1e-6)
    assert records.rows("select * from public.caregiver_alerts") == []


def test_the_baseline_grows_to_ten_samples_and_then_the_reference_follows(patient: Patient) -> None:
    logs = [patient.call(0.5) for _ in range(12)]
    assert [log["added_to_baseline"] for log in logs] == [True] * 7 + [False] * 5
    baseline = patient.records.baseline(patient.id)
    assert baseline is not None
    assert baseline["sample_count"] == 10
    assert baseline["id"] == patient.chart["anchor_id"]
    versions = [log["reference_version"] for log in logs[7:]]
    assert versions == list(range(versions[0], versions[0] + 5))


@pytest.mark.parametrize(
    ("deviation", "snr_db"), [(2.1, 30.0), (0.5, 14.0), (0.5, None)], ids=["far", "noisy", "unknown line"]
)
def test_a_far_or_noisy_call_moves_neither_baseline_nor_reference(
    patient: Patient, deviation: float, snr_db: float | None
) -> None:
    for _ in range(8):
        patient.call(0.0)
    before = patient.chart["reference_version"]
    patient.call(deviation, snr_db=snr_db)
    assert patient.chart["reference_version"] == before


def test_while_the_cusum_is_high_the_reference_stays(patient: Patient) -> None:
    for _ in range(8):
        patient.call(0.0)
    for _ in range(3):
        patient.call(1.9)
    assert patient.chart["cusum"] > 2.375
    before = patient.chart["reference_version"]
    patient.call(1.0)
    assert patient.chart["reference_version"] == before


def test_the_reference_never_leaves_the_neighbourhood_of_the_baseline(records: Records) -> None:
    calibration_id = calibrate(records)
    least = records.one("select voice.least_reference_similarity(%s)", calibration_id)
    assert least == pytest.approx(1 - (0.06 + 0.4 / 8) / 8)
    reference = "[1,0,0]"
    for _ in range(300):
        reference = records.one(
            "select voice.followed(%s, '[1,0,0]', '[0.8,0.6,0]', 1.0/120, %s)::text", reference, least
        )
    x, y, z = json.loads(reference)
    assert x == pytest.approx(least, abs=1e-6)
    assert (y > 0, z) == (True, 0)


def test_every_number_of_a_decision_can_be_computed_again_from_its_log(records: Records) -> None:
    calibrate(records)
    patient, chart = Patient(records), Chart()
    for deviation, snr_db in ((0.3, 30.0), (1.2, 18.0), (-0.5, 10.0), (2.4, 30.0), (2.2, None), (4.0, 12.0)):
        log = patient.call(deviation, snr_db=snr_db)
        seen = Observed(
            log["is_clean"], log["population_deviation"], log["log_likelihood_ratio"],
            log["whitened_deviation"], log["whitened_log_likelihood_ratio"],
        )  # fmt: skip
        expected = decide(chart, seen, log["warnings_per_year"], log["calls_per_year"], log["timestamp"].date())
        assert log["personal_deviation"] == pytest.approx(expected.deviation, abs=1e-9)
        assert log["cusum_after"] == pytest.approx(expected.cusum, abs=1e-9)
        assert log["adjusted_from"] == pytest.approx(expected.unconfirmed, abs=1e-9)
        assert log["anomaly_score"] == pytest.approx(expected.score, abs=1e-9)
        assert (log["severity"], log["verdict"]) == (expected.severity, expected.verdict)


def test_a_call_after_steady_ones_that_is_suddenly_far_may_be_a_new_telephone(patient: Patient) -> None:
    for _ in range(10):
        patient.call(0.0)
    log = patient.call(3.2)
    assert log["is_step"]
    assert "a new telephone or room is possible" in patient.records.one(
        "select explanation from public.judgements where id = %s", log["id"]
    )
    unsteady = Patient(patient.records)
    for _ in range(10):
        unsteady.call(0.8)
    assert not unsteady.call(3.2)["is_step"]


def test_after_a_month_without_a_call_what_pointed_to_a_change_is_forgotten(patient: Patient) -> None:
    for _ in range(6):
        patient.call(CRITICAL_AT)
    assert patient.chart["confirmed_level"] == "critical"
    known = patient.chart["learned_calls"]
    log = patient.call(0.0, days=31)
    assert (log["severity"], log["cusum_after"], log["is_late"]) == ("low", 0, False)
    assert patient.call(CRITICAL_AT)["severity"] == "medium"
    assert patient.chart["learned_calls"] == known + 2


# What people answer.


def test_well_forgets_the_change_and_finds_it_again_if_it_lasts(patient: Patient) -> None:
    for _ in range(6):
        patient.call(2.2)
    patient.answer("not_ill")
    chart = patient.chart
    assert (chart["cusum"], chart["recent_far"], chart["confirmed_level"]) == (0, [], "warning")
    assert chart["learned_calls"] == 6
    again = next(n for n in range(1, 9) if patient.call(2.2)["severity"] != "low")
    assert 2 <= again <= 4


def test_well_after_a_late_call_stays_forgotten_when_the_chart_is_computed_again(patient: Patient) -> None:
    for _ in range(3):
        patient.call(2.4)
    patient.call(0.0, days=-1.5)
    patient.at += timedelta(days=1.5)
    patient.answer("not_ill")
    settled = patient.chart["state"]
    patient.records.one("select voice.replay_charts(%s)", patient.id)
    assert patient.chart["state"] == settled


def test_well_stays_forgotten_when_the_call_before_it_is_deleted(patient: Patient) -> None:
    for _ in range(3):
        patient.call(2.4, snr_db=10.0)
    deleted = patient.call(2.4, snr_db=10.0)
    patient.answer("not_ill")
    patient.records.do("delete from public.call_logs where id = %s", deleted["call_log_id"])
    assert patient.chart["cusum"] == 0
    assert patient.call(1.0)["cusum_after"] == pytest.approx(0.5, abs=1e-3)
    [*_, last] = patient.records.rows("select * from voice.replay(null, null, '{}')")
    assert last["cusum"] == pytest.approx(0.5, abs=1e-3)


def test_ill_mutes_without_forgetting_and_learns_nothing_meanwhile(patient: Patient) -> None:
    for _ in range(3):
        patient.call(CRITICAL_AT - 0.5)
    cusum, learned = patient.chart["cusum"], patient.chart["learned_calls"]
    patient.answer("ill")
    assert patient.chart["cusum"] > 0
    log = patient.call(2.5)
    assert (log["is_learned"], log["added_to_baseline"]) == (False, False)
    assert patient.chart["cusum"] >= min(cusum, 10) - 1
    assert patient.chart["learned_calls"] <= learned
    assert len(patient.alerts()) == 1


@pytest.mark.parametrize("outcome", ["other_person", "wrong_recording"])
def test_that_was_somebody_else_takes_the_calls_out(patient: Patient, outcome: str) -> None:
    for deviation in (0.2, 0.1, -0.3):
        patient.call(deviation)
    before = patient.chart
    patient.call(CRITICAL_AT)
    patient.answer(outcome)
    after = patient.chart
    for name in ("learned_calls", "learned_mean", "learned_squares", "cusum", "recent_far", "confirmed_level"):
        assert (
            after[name] == pytest.approx(before[name])
            if isinstance(before[name], float)
            else after[name] == before[name]
        )
    assert [log["is_disowned"] for log in patient.logs] == [False, False, False, True]


def test_a_new_telephone_builds_the_baseline_from_the_calls_since(patient: Patient) -> None:
    for _ in range(3):
        patient.call(0.0)
    new = at_cosine(0.8)
    for _ in range(3):
        patient.call(0, voice=new)
    patient.answer("new_line")
    baseline = patient.records.baseline(patient.id)
    assert baseline is not None
    assert baseline["sample_count"] == 3
    log = patient.call(0, voice=new)
    assert log["severity"] == "low"
    assert log["raw_similarity"] == pytest.approx(1, abs=1e-6)


def test_a_flag_that_is_set_late_takes_back_what_was_learned_and_the_chart_is_computed_again(patient: Patient) -> None:
    for deviation in (0.4, -0.2, 0.6):
        patient.call(deviation)
    kept = patient.chart
    since = patient.at + timedelta(hours=1)
    for _ in range(4):
        patient.call(1.4)
    assert patient.chart["learned_calls"] == 7
    patient.records.call("flag_patient", patient.id, "flu", since)
    chart = patient.chart
    assert chart["learned_calls"] == 3
    assert chart["learned_mean"] == pytest.approx(kept["learned_mean"], abs=1e-9)
    assert chart["cusum"] > 2  # a sick voice is still a changed voice
    baseline = patient.records.baseline(patient.id)
    assert baseline is not None
    assert baseline["sample_count"] == 6


def test_a_sickness_of_today_takes_nothing_back_of_what_was_learned_before_it(patient: Patient) -> None:
    for deviation in (0.4, -0.2, 0.6):
        patient.call(deviation)
    learned = patient.chart["learned_mean"]
    patient.records.do("update public.patients set flags = '{flu}'")
    patient.call(3.2)
    patient.answer("other_person")
    assert patient.chart["learned_calls"] == 3
    assert patient.chart["learned_mean"] == pytest.approx(learned, abs=1e-9)


def test_a_deleted_call_leaves_the_chart_and_the_reference(patient: Patient) -> None:
    for _ in range(9):
        patient.call(0.5)
    kept = patient.chart
    log = patient.call(1.5)
    assert patient.chart["reference_version"] > kept["reference_version"]
    patient.records.do("delete from public.call_logs where id = %s", log["call_log_id"])
    chart = patient.chart
    assert chart["learned_mean"] == pytest.approx(kept["learned_mean"], abs=1e-9)
    baseline = patient.records.baseline(patient.id)
    assert baseline is not None
    assert chart["reference"] == baseline["embedding"]


def test_an_erased_patient_has_no_chart(patient: Patient) -> None:
    patient.call(0.5)
    counts = patient.records.rpc("erase_patient_voice", patient_id=patient.id, reason="asked")[0]["erase_patient_voice"]
    assert counts["charts"] == 1
    assert patient.records.rows("select * from voice.charts") == []
    assert patient.records.rows("select * from voice.chart_corrections") == []


@pytest.mark.parametrize("how", ["flagged", "withdrawn", "erased", "new line"])
def test_a_patient_without_a_baseline_for_a_time_is_judged_again_from_nothing(patient: Patient, how: str) -> None:
    records = patient.records
    for deviation in (0.5, 0.2, 3.2):
        patient.call(deviation, snr_db=10.0)
    if how == "flagged":
        records.call("flag_patient", patient.id, "flu", NOON - timedelta(days=60))
        records.call("unflag_patient", patient.id, None, patient.at)
    elif how == "withdrawn":
        for row in records.rows("select call_log_id from voice.embeddings order by id limit 3"):
            records.call("withdraw_sample", patient.id, row["call_log_id"])
    elif how == "erased":
        records.call("erase_patient_voice", patient.id, "asked")
        records.do("update public.patients set voice_consent_at = now() where id = %s", patient.id)
    else:
        records.do("delete from voice.embeddings where call_log_id in (select call_log_id from voice_anomaly_logs)")
        patient.answer("new_line")
    assert records.baseline(patient.id) is None
    for _ in range(4):
        patient.at += timedelta(days=1)
        records.judge_at(patient.id, patient.at)
    log = patient.call(0.5)
    assert (log["rule"], log["decision_number"]) == ("calibrated", 5)
    assert patient.chart["learned_calls"] == 2
    last = [row for row in records.rows("select * from voice.replay(null, null, '{}')") if row["log_id"] == log["id"]]
    assert last[0]["personal_deviation"] == pytest.approx(log["personal_deviation"], abs=1e-9)


def test_a_chart_outlives_the_retention_of_the_version_that_anchors_it(patient: Patient) -> None:
    patient.call(0.5)
    patient.call(0.2)
    patient.records.do("update care.retention_policies set keep_days = 0.0001 where subject = 'voiceprints'")
    patient.records.do("update voice.baselines set superseded_at = superseded_at - interval '1 day'")
    patient.records.run_due_jobs(patient.records.one("select now()"))
    assert patient.records.one("select count(*) from voice.baselines where superseded_at is not null") == 1
    patient.call(0.1)
    assert patient.chart["learned_calls"] == 3


def test_a_name_that_was_said_of_a_call_goes_with_the_person(answered_by_others: Patient) -> None:
    records = answered_by_others.records
    other: UUID = records.call("add_patient", "Bruno", "UTC", True)["id"]
    records.do("update public.patients set phone = '+4930555'")
    records.enrol(other, *[at_cosine(0.3)] * 3)
    answered_by_others.call(0, voice=at_cosine(0.3))
    said = records.row("select explanation, likely_patient_id from public.judgements")
    assert said["likely_patient_id"] == other
    records.call("erase_patient_voice", other, "asked")
    left = records.row("select explanation, likely_patient_id from public.judgements")
    assert left == {
        "explanation": said["explanation"].replace("It may have been Bruno. ", ""),
        "likely_patient_id": None,
    }


# The budget.


def test_the_family_chooses_how_many_warnings_come_by_chance(records: Records) -> None:
    calibrate(records, ALWAYS_THE_SAME)
    families = {budget: Patient(records) for budget in (1.0, 4.0, 12.0)}
    account = records.caregiver(families[4.0].id)
    records.rpc("set_warnings_per_year", sub=account, patient_id=families[4.0].id, warnings_per_year=4)
    records.call("set_warnings_per_year", families[12.0].id, 12)
    found = {budget: family.call(2.6)["severity"] for budget, family in families.items()}
    assert found == {1.0: "low", 4.0: "medium", 12.0: "medium"}
    assert [family.logs[0]["warnings_per_year"] for family in families.values()] == [1, 4, 12]


def test_an_organisation_chooses_for_the_families_that_did_not(records: Records) -> None:
    calibrate(records, ALWAYS_THE_SAME)
    one, other = Patient(records), Patient(records)
    records.call("set_warnings_per_year", other.id, 1)
    records.call("set_organisation_warnings", 12)
    assert [family.call(2.6)["severity"] for family in (one, other)] == ["medium", "low"]


def test_a_change_of_the_budget_is_audited_with_both_values(records: Records) -> None:
    patient_id = records.patient()
    records.call("set_warnings_per_year", patient_id, 4)
    records.call("set_organisation_warnings", 12)
    noted = records.rows(
        """select detail -> 'warnings_per_year' as values from care.audit_log
           where detail ? 'warnings_per_year' order by id"""
    )
    assert [row["values"] for row in noted][-2:] == [[None, 4], [1, 12]]


@pytest.mark.parametrize("choice", [0, 2, 1000, float("nan")])
def test_another_number_of_warnings_is_refused_with_the_choices(records: Records, choice: float) -> None:
    with pytest.raises(psycopg.Error, match="is not a choice") as refused:
        records.call("set_warnings_per_year", records.patient(), choice)
    assert refused.value.sqlstate == "PT400"
    assert refused.value.diag.message_hint == "Choose one of 1, 4, 12."


def test_a_caregiver_of_somebody_else_does_not_learn_what_a_family_chose(records: Records) -> None:
    patient_id, stranger = records.patient(), records.caregiver(records.patient())
    own = records.caregiver(patient_id, "viewer")
    records.call("set_warnings_per_year", patient_id, 12)
    for account, chosen in ((own, 12), (stranger, 1), (None, 12)):
        found = records.rpc("warning_budget_list", sub=account, patient_id=patient_id)
        assert [row["warnings_per_year"] for row in found if row["is_chosen"]] == [chosen]


def test_only_the_primary_caregiver_chooses_the_budget(records: Records) -> None:
    patient_id = records.patient()
    family = records.caregiver(patient_id, "family")
    assert records.refusal("set_warnings_per_year", sub=family, patient_id=patient_id, warnings_per_year=12) == "PT403"


# Calibrations, and both rules side by side.


def test_the_same_document_is_one_calibration_and_another_one_is_another(records: Records) -> None:
    first = calibrate(records)
    assert calibrate(records) == first
    assert calibrate(records, RAW_ONLY) != first


def test_a_calibration_never_changes(records: Records) -> None:
    calibrate(records)
    columns = {"calibrations": "prior_degrees", "calibration_bins": "log_bias", "projection_rows": "row_offset"}
    for table, column in columns.items():
        with pytest.raises(psycopg.Error) as refused:
            records.database.admin.execute(f"update voice.{table} set {column} = {column} + 1".encode())
        assert refused.value.sqlstate == "55000"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {**DOCUMENT, "encoder": "another-v1"},
        {**DOCUMENT, "bins": {"raw": []}},
        {**DOCUMENT, "projection": {"weights": [[1.0]], "offsets": [0.0]}},
        {**DOCUMENT, "projection": "none"},
        {**DOCUMENT, "projection": {"weights": None, "offsets": None}},
        {**DOCUMENT, "projection": {"weights": [1, 2, 3], "offsets": [1, 2, 3]}},
        {**DOCUMENT, "projection": {"weights": [[0, 0, 0]], "offsets": [0]}},
        {**DOCUMENT, "projection": {"weights": [[3e38, 3e38, 0]], "offsets": [0]}},
        {**DOCUMENT, "projection": {"weights": [[1, 0, 0]], "offsets": ["NaN"]}},
        {**DOCUMENT, "projection": {"weights": [[1, 0, 0]], "offsets": [1e300]}},
        {**DOCUMENT, "prior": {**DOCUMENT["prior"], "variance": -1}},
        {**DOCUMENT, "bins": {"raw": [{**DOCUMENT["bins"]["raw"][0], "log_deviation": 0}]}},
        {**RAW_ONLY, "bins": {"raw": [{**DOCUMENT["bins"]["raw"][0], "log_deviation": 1e-300}]}},
    ],
    ids=[
        "empty",
        "of another encoder",
        "no bins",
        "another dimension",
        "no projection but a text",
        "null for weights",
        "numbers for rows",
        "zero weights",
        "huge weights",
        "an offset that is not a number",
        "a huge offset",
        "negative variance",
        "no deviation",
        "next to no deviation",
    ],
)
def test_a_calibration_that_does_not_fit_is_refused_and_nothing_is_kept(records: Records, document: Any) -> None:
    with pytest.raises(psycopg.Error) as refused:
        records.call("add_calibration", ENCODER, json.dumps(document))
    assert refused.value.sqlstate in ("PT400", "23514", "23502")
    assert records.one("select count(*) from voice.calibrations") == 0


def test_the_document_of_the_calibration_in_use_is_as_it_was_given(records: Records) -> None:
    calibrate(records)
    found = records.call("calibration_document", ENCODER)["calibration_document"]
    assert {name: found[name] for name in DOCUMENT} == DOCUMENT
    assert found["limits"]["far_above"] == 2


def test_a_shipped_calibration_does_not_displace_one_that_is_in_use(records: Records) -> None:
    mine = calibrate(records, RAW_ONLY)
    records.call("ship_calibration", ENCODER, json.dumps(DOCUMENT))
    assert records.one("select calibration_id from voice.policies") == mine


def test_a_shipped_calibration_is_used_where_there_is_none(records: Records) -> None:
    shipped = records.call("ship_calibration", ENCODER, json.dumps(DOCUMENT))["ship_calibration"]
    assert records.row("select calibration_id, rule from voice.policies") == {
        "calibration_id": shipped,
        "rule": "calibrated",
    }


def test_where_the_rule_is_fixed_the_numbers_are_those_of_the_fixed_rule(records: Records) -> None:
    calibrate(records)
    records.do("update voice.policies set rule = 'fixed'")
    patient = Patient(records)
    log = patient.call(0, voice=at_cosine(0.55), snr_db=10.0)
    assert log["rule"] == "fixed"
    assert log["adjusted_from"] == pytest.approx(0.45, abs=1e-6)
    assert log["anomaly_score"] == pytest.approx(0.45 - 0.2 * 5 / 15, abs=1e-6)
    assert (log["severity"], log["verdict"], log["decision_number"]) == ("medium", "changed", None)
    assert log["expected_distance"] is not None


def test_under_the_fixed_rule_a_call_is_measured_from_the_baseline_not_from_what_followed_it(patient: Patient) -> None:
    for _ in range(20):
        patient.call(0.3)
    patient.records.do("update voice.policies set rule = 'fixed'")
    log = patient.call(0, voice=at_cosine(0.9))
    similarity = patient.records.one(
        """select 1 - (b.embedding operator(extensions.<=>) e.embedding)
           from voice.baselines as b join voice.embeddings as e on e.id = %s where b.id = %s""",
        log["embedding_id"], log["baseline_id"],
    )  # fmt: skip
    assert log["raw_similarity"] == pytest.approx(similarity, abs=1e-12)
    assert log["reference_version"] is None


def test_a_new_calibration_starts_every_chart_anew(patient: Patient) -> None:
    for _ in range(3):
        patient.call(1.0)
    calibrate(patient.records, RAW_ONLY)
    patient.call(0.5)
    chart = patient.chart
    assert (chart["learned_calls"], patient.logs[-1]["calibration_id"]) == (1, chart["calibration_id"])
    assert patient.records.one("select kind from voice.chart_corrections") == "restarted"


def test_both_encoders_of_a_change_keep_their_own_charts(records: Records) -> None:
    calibrate(records, ALWAYS_THE_SAME)
    patient = Patient(records)
    for _ in range(3):
        patient.call(0.5)
    before = patient.chart
    records.register("next-v1")
    calibrate(records, {**ALWAYS_THE_SAME, "encoder": "next-v1"})
    records.do("update care.models set is_active = (id = 'next-v1')")
    claim = records.call("open_check", records.call_log(patient.id, NOON + timedelta(days=9)), "next-v1", "test", 60)
    records.complete(claim, USUAL)
    charts = records.rows("select encoder, decision_count, (state).learned_calls from voice.charts order by encoder")
    assert charts == [{"encoder": ENCODER, "decision_count": 3, "learned_calls": 3}]
    assert records.one("select encoder from voice.baselines where encoder = 'next-v1'") == "next-v1"  # it enrols
    assert patient.chart["state"] == before["state"]


def test_a_chart_of_the_other_encoder_starts_anew_with_another_enrolment(records: Records) -> None:
    calibrate(records, ALWAYS_THE_SAME)
    patient = Patient(records)
    for _ in range(3):
        patient.call(0.5)
    records.register("next-v1")
    records.do("update care.models set is_active = false")
    records.do("update care.models set is_active = true where id = 'next-v1'")
    enrolment_id = uuid4()
    for day in (10, 11, 12):
        call = records.call_log(patient.id, NOON + timedelta(days=day), "onboarding", enrolment_id=enrolment_id)
        records.complete(records.call("open_check", call, "next-v1", "test", 60), at_cosine(0.8))
    records.do(
        """insert into voice.embeddings (patient_id, call_log_id, encoder, embedding, audio_sha256, speech_seconds)
           select patient_id, call_log_id, %s, embedding, audio_sha256, 10 from voice.embeddings
           where encoder = 'next-v1'""",
        ENCODER,
    )
    assert records.call("rebuild_baselines", ENCODER, 9)["rebuild_baselines"] == 1
    assert patient.chart["learned_calls"] == 0


def test_calls_a_year_are_counted_once_a_month_after_ninety_days(patient: Patient) -> None:
    rates = [patient.call(0.0, days=7)["calls_per_year"] for _ in range(18)]
    assert rates[:12] == [365] * 12
    assert rates[13] == pytest.approx(365 / 90 * 13, rel=0.1)
    assert len(set(rates)) <= 4


def test_a_personal_spread_is_learned_for_sixty_calls_and_then_stays(patient: Patient) -> None:
    for n in range(62):
        patient.call(1.0 if n % 2 else -1.2, days=0.3)
    chart = patient.chart
    assert chart["learned_calls"] == 60
    mean, scale, degrees = usual(60, chart["learned_mean"], chart["learned_squares"])
    log = patient.call(0.7)
    assert (log["usual_mean"], log["usual_degrees"]) == pytest.approx((mean, degrees))
    assert log["is_learned"] is False
    assert scale > 0


def test_what_was_unusual_is_said_in_the_explanation_and_the_message_and_decides_nothing(patient: Patient) -> None:
    patient.records.caregiver(patient.id, patient_known_as="Mum")
    usual_call, slow = (
        {"features": {"syllable_rate": rate, "pause_share": share}} for rate, share in ((3.7, 0.1), (1.5, 0.6))
    )
    for _ in range(6):
        patient.call(0.0, quality=usual_call)
    log = patient.call(3.2, quality=slow)
    judgement = patient.records.row("select * from public.judgements where id = %s", log["id"])
    assert set(judgement["reasons"]) == {"slower", "longer_pauses"}
    assert "than usual for Ana" in judgement["explanation"]
    [message] = patient.records.claim_deliveries(patient.at + timedelta(days=1))
    assert "than usual for Mum" in message["message"]
    assert log["personal_deviation"] == pytest.approx(3.2, abs=1e-3)
    low = patient.call(0.0, quality=slow)
    assert low["severity"] == "low"
    assert patient.records.one("select reasons from public.judgements where id = %s", low["id"]) == []
