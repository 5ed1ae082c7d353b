"""What-if: stored calls judged once more, by the policy that was in force and by others."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import pytest

from fixtures.calibrated import ALWAYS_THE_SAME, Patient, calibrate
from fixtures.records import NOON, Records, at_cosine


def replayed(records: Records, **arguments: Any) -> dict[str, Any]:
    [row] = records.rpc("replay_policy", **arguments)
    found: dict[str, Any] = row["replay_policy"]
    return found


def eventful(records: Records, seed: int = 1) -> Patient:
    """Give a patient half a year with noise, a late call, a late flag, answers and a change of the budget."""
    random = np.random.default_rng(seed)
    patient = Patient(records)
    for day in range(40):
        patient.call(float(random.normal(0.3, 1.1)), snr_db=float(random.choice([30.0, 18.0, 10.0])))
        if day == 12:
            patient.call(1.0, days=-3)
            patient.at += timedelta(days=3)
        if day == 18:
            records.call("flag_patient", patient.id, "cold", patient.at - timedelta(days=4))
            records.call("unflag_patient", patient.id, None, patient.at)
        if day == 20:
            patient.call(4.2)
            patient.answer("not_ill")
        if day == 25:
            patient.call(4.2)
            patient.answer("other_person")
        if day == 30:
            records.call("set_warnings_per_year", patient.id, 12)
        if day == 35:
            patient.call(4.2)
            patient.call(4.2)
    return patient


def test_the_policy_in_force_gives_every_stored_number_again(records: Records) -> None:
    calibrate(records, ALWAYS_THE_SAME)
    patients = [eventful(records, seed) for seed in (1, 2)]
    compared = records.rows(
        """select r.*, l.personal_deviation as deviation_then, l.cusum_after, l.anomaly_score
           from voice.replay(null, null, '{}') as r join public.voice_anomaly_logs as l on l.id = r.log_id"""
    )
    assert len(compared) == sum(len(patient.logs) for patient in patients)
    for row in compared:
        assert row["personal_deviation"] == pytest.approx(row["deviation_then"], abs=1e-9)
        assert row["cusum"] == pytest.approx(row["cusum_after"], abs=1e-9)
        assert row["score"] == pytest.approx(row["anomaly_score"], abs=1e-9)
    told = replayed(records)
    assert told["largest_score_difference"] <= 1e-9
    assert told["replayed"] == told["recorded"]
    assert (told["patients"], told["calls"]) == (2, len(compared))


def test_a_patient_who_moves_to_another_time_zone_is_replayed_by_the_days_of_then(records: Records) -> None:
    calibrate(records, ALWAYS_THE_SAME)
    patient = Patient(records)
    for _ in range(8):
        patient.call(1.2, days=0.4)
    records.do("update public.patients set timezone = 'Pacific/Auckland'")
    stored = {log["id"]: log["cusum_after"] for log in patient.logs}
    for row in records.rows("select * from voice.replay(null, null, '{}')"):
        assert row["cusum"] == pytest.approx(stored[row["log_id"]], abs=1e-9)


def test_calls_that_were_judged_at_once_are_replayed_in_the_order_in_which_they_were_judged(records: Records) -> None:
    calibrate(records, ALWAYS_THE_SAME)
    patient = Patient(records)
    first, second = (records.open(records.call_log(patient.id, NOON + timedelta(days=day))) for day in (1, 2))
    with psycopg.connect(records.database.owner_url) as slow:
        slow.execute("select now()")  # it begins first, and is second to get the patient
        records.complete(first, patient.voice(2.2))
        records.complete(second, patient.voice(1.5), connection=slow)
    assert [log["decision_number"] for log in patient.logs] == [1, 2]


def test_a_larger_budget_would_have_warned_more_often(records: Records) -> None:
    calibrate(records, ALWAYS_THE_SAME)
    patient = Patient(records)
    for n in range(30):
        patient.call(2.7 if n % 10 == 9 else 0.0)
    assert replayed(records)["replayed"]["episodes_per_year"]["warning"] == 0
    told = replayed(records, patient_id=patient.id, changes='{"warnings_per_year": 12}')
    years = 29 / 365.25
    assert told["patient_years"] == pytest.approx(years, abs=1e-3)
    assert told["replayed"]["episodes_per_year"]["warning"] == pytest.approx(3 / years, rel=0.01)
    assert told["recorded"]["episodes_per_year"]["warning"] == 0


def test_the_calibrated_rule_can_be_tried_on_a_history_of_the_fixed_one_and_back(records: Records) -> None:
    calibrate(records, ALWAYS_THE_SAME)
    records.do("update voice.policies set rule = 'fixed'")
    patient = Patient(records)
    for n in range(12):
        patient.call(0, voice=at_cosine(0.97 if n < 6 else 0.8))
    assert replayed(records)["recorded"]["episodes_per_year"]["warning"] == 0
    tried = replayed(records, changes='{"rule": "calibrated"}')["replayed"]
    assert sum(tried["episodes_per_year"].values()) > 0
    records.do("update voice.policies set rule = 'calibrated'")
    for _ in range(3):
        patient.call(0, voice=at_cosine(0.5))
    back = replayed(records, changes='{"rule": "fixed"}')
    assert back["replayed"]["episodes_per_year"]["emergency"] > 0


def test_a_health_flag_is_said_to_be_preceded_by_so_many_days(records: Records) -> None:
    calibrate(records, ALWAYS_THE_SAME)
    patient = Patient(records)
    for deviation in (0.0, 0.0, 3.2, 0.0, 0.0, 0.0, 0.0):
        patient.call(deviation)
    records.call("flag_patient", patient.id, "flu", NOON + timedelta(days=6))
    told = replayed(records)["recorded"]
    assert (told["health_flags"], told["health_flags_preceded"], told["median_lead_days"]) == (1, 1, 3)


def test_only_one_patient_or_one_organisation_is_replayed(records: Records) -> None:
    calibrate(records, ALWAYS_THE_SAME)
    one, other = Patient(records), Patient(records)
    one.call(0.0)
    other.call(0.0)
    organisation_id = records.one("insert into public.organisations (name) values ('Other') returning id")
    records.do("update public.patients set organisation_id = %s where id = %s", organisation_id, other.id)
    assert replayed(records)["calls"] == 2
    assert replayed(records, organisation_id=organisation_id)["calls"] == 1
    assert replayed(records, patient_id=one.id)["calls"] == 1


@pytest.mark.parametrize("changes", ['{"mood": 1}', '{"encoder": "x"}', '{"warnings_per_year": 3}'])
def test_what_cannot_be_tried_is_refused(records: Records, changes: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        replayed(records, changes=changes)
    assert refused.value.sqlstate == "PT400"


def test_a_replay_stores_nothing(records: Records) -> None:
    calibrate(records, ALWAYS_THE_SAME)
    patient = Patient(records)
    patient.call(4.2)
    before = (patient.logs, patient.chart, patient.alerts())
    replayed(records, changes='{"warnings_per_year": 12}')
    assert (patient.logs, patient.chart, patient.alerts()) == before
