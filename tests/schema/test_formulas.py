"""formulas.py, by which calibrations are fitted and evaluated, gives what SQL gives: with the calibration of GE2E."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.calibrated import calibrate, unit
from fixtures.records import Records, text
from retrocare.calibration.corpus import Heard
from retrocare.calibration.document import read_calibration, shipped
from retrocare.calibration.evaluation import FixedRule, judge
from retrocare.calibration.formulas import Prior, anchor_variance, chosen_bins, personal_deviate, variances

ENCODER = "ge2e-v2"
FIXED = FixedRule(0.25, 15, 0.2)
OBSERVE = """
    select seen.* from voice.calibrations, voice.observe(
        calibrations, %s::extensions.vector, %s, voice.whiten(%s::extensions.vector, calibrations.id), %s,
        %s::extensions.vector, %s, %s) as seen
    where calibrations.id = %s
"""


def heard(vectors: list[Any], snrs_db: list[float | None], seconds: list[float]) -> Heard:
    names = np.array([str(n) for n in range(len(vectors))])
    snr_db = np.array([np.nan if snr is None else snr for snr in snrs_db], np.float64)
    return Heard(np.array(vectors, np.float32), names, names, np.array(seconds), snr_db)


@pytest.fixture
def document(records: Records) -> Any:
    records.register(ENCODER, 256)
    return shipped(ENCODER)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000),
    apart=st.floats(0.01, 2),
    snr_db=st.none() | st.floats(-5, 60) | st.sampled_from([8.0, 15.0, 25.0]),
    seconds=st.floats(3, 60),
)
def test_deviations_and_ratios_of_a_call_agree_with_sql(
    records: Records, document: Any, seed: int, apart: float, snr_db: float | None, seconds: float
) -> None:
    calibration = read_calibration(document)
    assert calibration.whitened is not None
    used = calibrate(records, document)
    random = np.random.default_rng(seed)
    first = np.abs(random.normal(size=256))
    voices = [unit(first + spread * random.normal(size=256)) for spread in (0.2, 0.2, 0.2, apart)]
    samples = heard(voices[:3], [30, None, 16], [4, 9, 20])
    anchor = unit(np.mean(voices[:3], axis=0)).astype(np.float32).astype(np.float64)
    call = heard(voices[3:], [snr_db], [seconds])
    judged, _ = judge(calibration, call, anchor, samples)
    of_samples = [
        float(anchor_variance(variances(bins, chosen_bins(bins, samples.snr_db), samples.speech_seconds)))
        for bins in (calibration.raw, calibration.whitened)
    ]
    seen = records.row(
        OBSERVE, text(anchor.tolist()), of_samples[0], text(anchor.tolist()), of_samples[1],
        text(call.vectors[0].tolist()), seconds, snr_db, used,
    )  # fmt: skip
    assert seen["is_clean"] == judged.is_clean[0]
    assert judged.whitened_z is not None
    assert judged.whitened_ratio is not None
    assert seen["log_likelihood_ratio"] == pytest.approx(judged.raw_ratio[0], abs=1e-3)
    assert seen["whitened_deviation"] == pytest.approx(judged.whitened_z[0], abs=1e-3)
    assert seen["whitened_log_likelihood_ratio"] == pytest.approx(judged.whitened_ratio[0], abs=1e-3)
    assert float(personal_deviate(seen["deviation"], calibration.prior)) == pytest.approx(
        judged.raw_deviate[0], abs=1e-3
    )


def test_the_fixed_rule_agrees_with_sql(records: Records) -> None:
    records.register(ENCODER, 256)
    one, other = unit([1.0] * 256), unit([n + 40.0 for n in range(256)])
    distance = 1 - float(one @ other)
    for snr_db in (None, 30.0, 12.0, 3.0, -4.0):
        found = records.call("compare", text(one.tolist()), text(other.tolist()), snr_db, None, ENCODER)
        score = FIXED.score(np.array([distance]), np.array([np.nan if snr_db is None else snr_db]))
        assert found["score"] == pytest.approx(float(score[0]), abs=1e-6)


def test_a_deviate_is_normal_for_a_patient_as_the_prior_says() -> None:
    random = np.random.default_rng(0)
    prior, count, patients = Prior(12, 0.7, 0.4), 8, 200_000
    variance = prior.degrees * prior.variance / random.chisquare(prior.degrees, patients)
    mean = random.normal(0, np.sqrt(variance * prior.mean_variance / prior.variance))
    z = random.normal(mean, np.sqrt(variance), (count + 1, patients))
    known = z[:-1]
    squares = np.square(known - known.mean(axis=0)).sum(axis=0)
    deviate = personal_deviate(z[-1], prior, count, known.mean(axis=0), squares)
    assert np.mean(deviate > 2.782) == pytest.approx(0.0027, abs=0.0005)
    assert deviate.std() == pytest.approx(1, abs=0.01)
