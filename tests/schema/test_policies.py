"""Thresholds, limits and retries are rows: their defaults are the mission's, and what makes no sense is refused."""

from __future__ import annotations

import psycopg
import pytest

from fixtures.records import ENCODER, Records

DEFAULTS = {
    "encoder": ENCODER,
    "medium_above": 0.25,
    "high_above": 0.40,
    "critical_above": 0.70,
    "checkin_above": 0.40,
    "noisy_below_snr_db": 15,
    "noise_reduction": 0.20,
    "morning_start_hour": 6,
    "evening_start_hour": 18,
    "window_hours": 3,
    "edge_reduction": 0.05,
    "middle_reduction": 0.10,
    "baseline_minimum_samples": 3,
    "rule": "fixed",
    "calibration_id": None,
    "baseline_target_samples": 5,
    "calibrated_target_samples": 10,
    "minimum_speech_seconds": 3,
    "minimum_snr_db": 8,
    "maximum_clipped_share": 0.01,
    "maximum_call_seconds": 3600,
}


def test_the_defaults_are_the_missions_values(records: Records) -> None:
    assert records.one("select voice.policy_values(%s)", ENCODER) == DEFAULTS


def test_a_check_is_tried_five_times_within_hours(records: Records) -> None:
    wanted = {"maximum_attempts": 5, "retry_base_seconds": 10, "retry_cap_seconds": 3600}
    assert wanted.items() <= records.row("select * from care.settings").items()


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ({"baseline_target_samples": 2}, "the_target_reaches_the_minimum"),
        ({"edge_reduction": 0.2}, "a_reduction_peaks_in_the_middle"),
        ({"morning_start_hour": 16}, "time_windows_lie_within_the_day"),
        ({"evening_start_hour": 22}, "time_windows_lie_within_the_day"),
        ({"minimum_speech_seconds": 0.1}, "some_speech_is_needed"),
        ({"minimum_snr_db": float("nan")}, "a_minimum_snr_is_a_number"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(records: Records, values: dict[str, float], constraint: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        records.set_policy(**values)
    assert raised.value.diag.constraint_name == constraint


def test_the_noise_reduction_follows_the_policys_own_noisy_line(records: Records) -> None:
    records.set_policy(noisy_below_snr_db=10)
    assert records.one("select voice.noise_adjusted(0.5, 5, voice.policy(%s))", ENCODER) == pytest.approx(0.4)


def test_noise_is_taken_off_before_the_time_of_day(records: Records) -> None:
    query = """select (voice.judge('[1,0,0]', '[0,1,0]', 7.5, 7.5,
                   voice.policy('test-v1'), care.thresholds_for('test-v1'))).score"""
    assert records.one(query) == pytest.approx((1 - 0.10) * 0.90)


@pytest.mark.parametrize(("similarity", "anomaly"), [(1 + 1e-9, 0), (1, 0), (0.6, 0.4), (0, 1), (-1, 1)])
def test_an_anomaly_lies_between_nought_and_one(records: Records, similarity: float, anomaly: float) -> None:
    assert records.one("select voice.anomaly(%s::float8)", similarity) == pytest.approx(anomaly)
    assert 0 <= records.one("select voice.anomaly(%s::float8)", similarity) <= 1
