"""The calibrated rule: SQL against a NumPy oracle, step by step, and what one call after the other must lead to."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.calibrated import Chart, Observed, calibrate, decide
from fixtures.records import ENCODER, Records

oracle = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DAY = date(2026, 3, 2)


@pytest.fixture
def calibration_id(records: Records) -> int:
    return calibrate(records)


def numbers(least: float, greatest: float) -> st.SearchStrategy[float]:
    """Leave out numbers next to nothing: differences of logarithms are none of these."""
    return st.floats(least, greatest).map(lambda number: round(number, 9))


observations = st.builds(
    Observed,
    is_clean=st.booleans(),
    deviation=numbers(-6, 6) | numbers(-200, 200),
    ratio=numbers(-20, 20),
    whitened_deviation=st.none() | numbers(-6, 8),
    whitened_ratio=numbers(-20, 20),
)
DECIDE = """
    select * from voice.decide(
        %s::voice.chart_state, (%s, 0.1, 0.1, %s, %s, %s, %s)::voice.observation,
        (select calibrations from voice.calibrations where id = %s), care.thresholds_for(%s), %s, %s, %s, %s, %s)
"""


@oracle
@given(
    calls=st.lists(
        st.tuples(observations, st.integers(0, 1), st.booleans(), st.integers(0, 9).map(lambda n: n == 0)), max_size=25
    ),
    warnings=st.sampled_from([1.0, 4.0, 12.0]),
    rate=st.floats(52, 1095),
)
def test_a_course_of_calls_agrees_with_numpy(
    records: Records,
    calls: list[tuple[Observed, int, bool, bool]],
    warnings: float,
    rate: float,
) -> None:
    calibration_id = calibrate(records)
    state: Any = records.one("select voice.new_chart()::text")
    chart, day = Chart(), DAY
    for seen, days, is_healthy, is_late in calls:
        day += timedelta(days=days)
        told = records.row(
            DECIDE.replace("select *", "select *, after::text as state"),
            state, seen.is_clean, seen.deviation, seen.ratio, seen.whitened_deviation, seen.whitened_ratio,
            calibration_id, ENCODER, warnings, rate, day, is_healthy, is_late,
        )  # fmt: skip
        state = told["state"]
        expected = decide(chart, seen, warnings, rate, day, is_healthy, is_late)
        for name, value in (
            ("usual_mean", expected.mean),
            ("usual_variance", expected.variance),
            ("usual_degrees", expected.degrees),
            ("deviation", expected.deviation),
            ("cusum_after", expected.cusum),
            ("unconfirmed_score", expected.unconfirmed),
            ("score", expected.score),
        ):
            assert told[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name
        assert (told["severity"], told["verdict"], told["is_urgent"], told["is_learned"]) == (
            expected.severity, expected.verdict, expected.is_urgent, expected.is_learned,
        )  # fmt: skip
        if abs(expected.unconfirmed) > 1e-9:
            assert told["pace"] == expected.pace


def test_a_deviation_that_is_not_a_number_is_refused_before_it_is_clipped(
    records: Records, calibration_id: int
) -> None:
    for seen in ((True, "NaN", 1, 0, 1), (False, 0, 1, "NaN", 1)):
        with pytest.raises(Exception, match="is not a number"):
            records.row(
                DECIDE, records.one("select voice.new_chart()::text"), *seen, calibration_id, ENCODER, 1, 365, DAY,
                True, False,
            )  # fmt: skip
