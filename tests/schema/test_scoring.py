"""The scoring functions, against the reader's arithmetic and against a NumPy oracle."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.records import ENCODER, Records, text

LOW, MEDIUM, HIGH, CRITICAL = "low", "medium", "high", "critical"
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Chatham"]

oracle = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def oracle_score(similarity: float, snr_db: float | None, hour: float | None) -> float:
    """Say the mission's formulas once more, in Python."""
    score = min(1.0, max(0.0, 1.0 - similarity))
    if snr_db is not None and snr_db < 15:
        score = max(0.0, score - 0.20 * (15 - max(snr_db, 0)) / 15)
    for start in (6, 18):
        if hour is not None and start <= hour < start + 3:
            score *= 1 - (0.05 + 0.05 * (1 - abs(hour - (start + 1.5)) / 1.5))
    return score


def unit_vectors(dimension: int) -> st.SearchStrategy[npt.NDArray[np.float32]]:
    def unit(seed: int) -> npt.NDArray[np.float32]:
        vector = np.random.default_rng(seed).normal(size=dimension)
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    return st.integers(0, 2**32).map(unit)


@oracle
@given(
    pair=st.sampled_from([2, 3, 192, 256]).flatmap(lambda n: st.tuples(unit_vectors(n), unit_vectors(n))),
    nearness=st.floats(0, 1),
    snr_db=st.none() | st.floats(-1e6, 1e6) | st.floats(-5, 20),
    hour=st.none() | st.floats(0, 24, exclude_max=True),
)
def test_a_judgement_agrees_with_numpy(
    records: Records, pair: tuple[Any, Any], nearness: float, snr_db: float | None, hour: float | None
) -> None:
    baseline, other = pair
    current = (nearness * baseline + (1 - nearness) * other).astype(np.float32)
    row = records.row(
        "select (voice.judge(%s, %s, %s, %s, voice.policy(%s), care.thresholds_for(%s))).*",
        text(baseline),
        text(current),
        snr_db,
        hour,
        ENCODER,
        ENCODER,
    )
    one, two = baseline.astype(np.float64), current.astype(np.float64)
    similarity = float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
    assert row["raw_similarity"] == pytest.approx(similarity, abs=1e-6)
    assert row["anomaly"] == pytest.approx(min(1, max(0, 1 - similarity)), abs=1e-6)
    assert row["score"] == pytest.approx(oracle_score(similarity, snr_db, hour), abs=1e-6)


@oracle
@given(
    moment=st.datetimes(datetime(1971, 1, 1), datetime(2037, 12, 31), timezones=st.just(UTC)),
    zone=st.sampled_from(ZONES),
)
def test_the_local_hour_and_day_agree_with_python(records: Records, moment: datetime, zone: str) -> None:
    row = records.row("select care.local_hour(%s, %s) as hour, care.local_date(%s, %s) as day", *(moment, zone) * 2)
    local = moment.astimezone(ZoneInfo(zone))
    expected = local.hour + local.minute / 60 + (local.second + local.microsecond / 1e6) / 3600
    assert row["hour"] == pytest.approx(expected, abs=1e-6)
    assert row["day"] == local.date()


@pytest.mark.parametrize(
    ("score", "severity", "alert"),
    [
        (0.0, LOW, None),
        (math.nextafter(0.25, 0), LOW, None),
        (0.25, LOW, None),
        (math.nextafter(0.25, 1), MEDIUM, "warning"),
        (math.nextafter(0.40, 0), MEDIUM, "warning"),
        (0.40, MEDIUM, "warning"),
        (math.nextafter(0.40, 1), HIGH, "emergency"),
        (math.nextafter(0.70, 0), HIGH, "emergency"),
        (0.70, HIGH, "emergency"),
        (math.nextafter(0.70, 1), CRITICAL, "emergency"),
        (1.0, CRITICAL, "emergency"),
    ],
)
def test_a_threshold_itself_is_still_the_lower_severity(
    records: Records, score: float, severity: str, alert: str | None
) -> None:
    row = records.row(
        """select severity, care.alert_type(care.alert_level(severity)) as alert
           from care.severity(%s, care.thresholds_for(%s)) as severity""",
        score,
        ENCODER,
    )
    assert (row["severity"], row["alert"]) == (severity, alert)


@pytest.mark.parametrize(
    ("snr_db", "expected"),
    [(None, 0.5), (15, 0.5), (40, 0.5), (7.5, 0.4), (0, 0.3), (-1e300, 0.3), (14.999999, 0.5 - 0.2e-6 / 15)],
)
def test_a_noisy_line_takes_off_up_to_a_fifth_and_an_unknown_one_nothing(
    records: Records, snr_db: float | None, expected: float
) -> None:
    found = records.one("select voice.noise_adjusted(0.5, %s, voice.policy(%s))", snr_db, ENCODER)
    assert found == pytest.approx(expected, abs=1e-9)


def test_noise_never_takes_a_score_below_zero(records: Records) -> None:
    assert records.one("select voice.noise_adjusted(0.1, 0, voice.policy(%s))", ENCODER) == 0


@pytest.mark.parametrize(
    ("hour", "factor"),
    [(None, 1), (5.999, 1), (6, 0.95), (7.5, 0.90), (8.25, 0.925), (9, 1), (18, 0.95), (19.5, 0.90), (21, 1), (12, 1)],
)
def test_mornings_and_evenings_take_off_five_to_ten_percent(
    records: Records, hour: float | None, factor: float
) -> None:
    assert records.one("select voice.time_adjusted(0.6, %s, voice.policy(%s))", hour, ENCODER) == pytest.approx(
        0.6 * factor
    )


@pytest.mark.parametrize(
    "query",
    [
        "select voice.raw_similarity('[0,0,0]', '[1,0,0]')",
        "select voice.raw_similarity('[1,0,0]', '[0,0,0]')",
        "select voice.raw_similarity('[1,0]', '[1,0,0]')",
        "select voice.anomaly('NaN')",
        "select voice.noise_adjusted(0.5, 'NaN', voice.policy('test-v1'))",
        "select care.severity('NaN', care.thresholds_for('test-v1'))",
        "select voice.judge(null, '[1,0,0]', 20, 12, voice.policy('test-v1'), care.thresholds_for('test-v1'))",
        "select voice.judge('[1,0,0]', '[1,0,0]', 20, 12, null, care.thresholds_for('test-v1'))",
        "select voice.compare('[1,0]', '[1,0]', 20, 12, 'test-v1')",
    ],
)
def test_what_cannot_be_compared_raises_and_is_no_score(records: Records, query: str) -> None:
    with pytest.raises(psycopg.Error) as raised:
        records.one(query)
    assert raised.value.sqlstate == "RV005"


def test_nan_in_a_vector_is_refused_by_its_type(records: Records) -> None:
    with pytest.raises(psycopg.errors.DataException, match="NaN not allowed in vector"):
        records.one("select voice.raw_similarity('[NaN,0,0]', '[1,0,0]')")


def test_an_encoder_that_nobody_registered_has_no_policy(records: Records) -> None:
    with pytest.raises(psycopg.Error) as raised:
        records.call("compare", text((1, 0, 0)), text((1, 0, 0)), None, None, "unknown-v1")
    assert raised.value.sqlstate == "RV004"


def test_unknown_input_is_unknown_output_and_never_zero(records: Records) -> None:
    row = records.row(
        """select voice.noise_adjusted(null, 5, voice.policy(%s)) as noise,
                  voice.time_adjusted(null, 7, voice.policy(%s)) as time,
                  care.severity(null, care.thresholds_for(%s)) as severity,
                  voice.noise_adjusted(0.5, 5, null) as policy""",
        *[ENCODER] * 3,
    )
    assert set(row.values()) == {None}


def test_adjustments_that_cross_a_threshold_are_marked(records: Records) -> None:
    judge = """select (voice.judge('[1,0,0]', %s, %s, null, voice.policy('test-v1'),
                   care.thresholds_for('test-v1'))).*"""
    crossed = records.row(judge, text((0.7, math.sqrt(0.51), 0)), 8.0)
    assert (crossed["severity"], crossed["noise_adjusted"]) == (LOW, True)
    within = records.row(judge, text((0.7, math.sqrt(0.51), 0)), 14.0)
    assert (within["severity"], within["noise_adjusted"]) == (MEDIUM, False)


def test_thresholds_are_data(records: Records) -> None:
    records.set_policy(medium_above=0.1, high_above=0.2, critical_above=0.3)
    assert records.one("select care.severity(0.25, care.thresholds_for('test-v1'))") == HIGH


def test_thresholds_that_do_not_rise_are_refused(records: Records) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        records.set_policy(medium_above=0.5)
    assert raised.value.diag.constraint_name == "thresholds_rise"
