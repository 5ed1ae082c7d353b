"""fitting.fit(): what it estimates, of voices that were drawn with known variances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fixtures.voices import CALL_VARIANCES, DIMENSION, SPEECH_VARIANCE, drawn, levels
from retrocare.calibration import fitting
from retrocare.calibration.document import Calibration
from retrocare.calibration.evaluation import FixedRule, evaluate
from retrocare.calibration.fitting import fit
from retrocare.errors import Unprocessable

FIXED = FixedRule(0.25, 15, 0.2)


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    return fit("drawn", [drawn(30, 6, "one"), drawn(30, 6, "two", seed=1)], None, {})


def test_the_variances_that_made_the_voices_are_recovered(fitted: Calibration) -> None:
    for found, call_variance in zip(fitted.raw, CALL_VARIANCES, strict=True):
        assert found.call_variance == pytest.approx(call_variance, rel=0.12)
        assert found.speech_variance == pytest.approx(SPEECH_VARIANCE, rel=0.2)
        assert found.log_bias == pytest.approx(0, abs=0.06)
        assert found.log_deviation == pytest.approx(np.sqrt(2 / DIMENSION), rel=0.3)  # of a chi-square's logarithm


def test_of_people_who_were_not_fitted_as_many_are_flagged_falsely_as_was_asked_for(fitted: Calibration) -> None:
    found = evaluate(levels(drawn(40, 8, "new", seed=2)), fitted, FIXED, false_rate=0.05, splits=4)
    for level in found:
        assert level.false_alerts is not None
        assert level.false_alerts.share == pytest.approx(0.05, abs=0.03)
        assert level.flagged is not None
        assert level.flagged.share > 0.99


def test_the_deviation_grows_where_corpora_differ_in_how_far_calls_of_one_person_are_apart() -> None:
    alike = fit("drawn", [drawn(10, 6, "one"), drawn(10, 6, "two", seed=1)], None, {})
    unlike = fit("drawn", [drawn(10, 6, "one"), drawn(10, 6, "two", seed=1, session=3)], None, {})
    assert unlike.raw[0].log_deviation > 3 * alike.raw[0].log_deviation


def test_a_projection_takes_out_the_directions_in_which_calls_of_one_person_differ() -> None:
    random = np.random.default_rng(0)
    known = drawn(60, 5, "one")
    line = random.normal(size=DIMENSION) / np.sqrt(DIMENSION)
    moved = known.vectors + np.float32(1) * random.normal(size=(len(known.person), 1)) * line
    projection = fitting.fit_projection(replace(known, vectors=moved.astype(np.float32)))
    assert projection.weights.shape == (fitting.DIMENSIONS, DIMENSION)
    assert np.linalg.norm(projection.weights @ line) < 0.3 * np.linalg.norm(projection.weights) / np.sqrt(DIMENSION)


def test_without_enough_speakers_there_is_no_projection() -> None:
    found = fit("drawn", [drawn(12, 6, "one")], None, {})
    assert (found.whitened, found.projection) == (None, None)
    assert found.document()["projection"] is None


def test_somebody_with_one_recording_serves_the_projection_alone(fitted: Calibration) -> None:
    few, many = drawn(12, 6, "one"), drawn(60, 1, "two", seed=5)
    found = fit("drawn", [few, many], None, {})
    assert found.projection is not None
    assert found.raw[0].call_variance == fit("drawn", [few], None, {}).raw[0].call_variance


def test_too_few_people_with_enough_recordings_are_refused_with_what_is_missing() -> None:
    with pytest.raises(Unprocessable) as refused:
        fit("drawn", [drawn(7, 6, "one"), drawn(40, 3, "two")], None, {})
    assert refused.value.code == "too_few_people"
    assert str(refused.value) == "7 people have 4 or more recordings that can be judged, as recorded"
    assert "At least 8 are needed" in refused.value.hint
