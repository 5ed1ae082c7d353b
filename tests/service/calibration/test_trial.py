"""evaluation, simulation, trial and report: what is counted, of voices that were drawn with known variances."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fixtures.voices import drawn, levels
from retrocare.calibration.document import Calibration, read_calibration, shipped, text_of
from retrocare.calibration.evaluation import FixedRule, evaluate, limit_for, rate
from retrocare.calibration.fitting import fit
from retrocare.calibration.report import report_page
from retrocare.calibration.simulation import limits_for, simulate
from retrocare.calibration.trial import Trial

FIXED = FixedRule(0.25, 15, 0.2)
FALSE_RATE = 0.0027


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return fit("drawn", [drawn(30, 6, "one"), drawn(30, 6, "two", seed=1)], None, {})


@pytest.fixture(scope="module")
def trial(calibration: Calibration) -> Trial:
    heard = levels(drawn(8, 6, "new", seed=3))
    return Trial(
        encoder="drawn",
        people=8,
        recordings=48,
        splits=3,
        false_rate=FALSE_RATE,
        limit=limit_for(FALSE_RATE),
        levels=evaluate(heard, calibration, FIXED, false_rate=FALSE_RATE, splits=3),
        simulated=simulate(heard[None], calibration),
        left_out={"<Bo & Co>": 2},
        refused={"too_noisy": 3},
        refused_with_noise={20: {}, 10: {"too_noisy": 1}},
        unknown_snr=0,
    )


def test_every_own_call_that_did_not_enrol_is_counted_for_each_enrolment(trial: Trial) -> None:
    for level in trial.levels:
        assert len(level.own.deviate) == 8 * 3 * 3  # people, enrolments, calls
        assert len(level.others.deviate) == 8 * 3 * 7 * 6
        assert level.own.calls <= 48  # different ones
        assert level.others.calls == 8 * 7 * 6


def test_the_json_has_the_keys_that_programs_rely_on(trial: Trial) -> None:
    found = json.loads(json.dumps(trial.as_json()))
    assert found["people"] == 8
    assert [row["snr_db"] for row in found["by_snr"]] == [None, 20, 10]
    for row in found["by_snr"]:
        rates = ("false_alert_rate", "flagged_rate", "another_voice_rate", "own_called_another_rate", "eer")
        assert {"own_calls", "other_calls", *rates} <= row.keys()
        assert all(0 <= row[name] <= 1 for name in rates)
        assert row["another_voice_rate"] <= row["flagged_rate"]
    assert found["not_assessable"] == {"too_noisy": 3}


def test_limits_follow_from_the_false_rate_and_from_nothing_else(trial: Trial) -> None:
    assert trial.limit == pytest.approx(2.782, abs=1e-3)
    assert {level.limit for level in trial.levels} == {trial.limit}


def test_an_interval_counts_a_call_once_however_often_it_was_judged() -> None:
    once, often = rate(1, 50, 50), rate(20, 1000, 50)
    assert once is not None
    assert (once.share, round(once.low, 4), round(once.high, 4)) == (0.02, 0.0035, 0.1050)  # Wilson
    assert once == often
    assert rate(0, 0, 0) is None


def test_the_fixed_rule_is_the_distance_less_what_noise_may_explain() -> None:
    found = FIXED.score(np.array([0.5, 0.5, 0.5, 0.1, 1.7]), np.array([30, 9, np.nan, -3, 15]))
    assert found == pytest.approx([0.5, 0.42, 0.5, 0, 1])


def test_limits_for_one_alert_a_year_are_those_of_the_charts() -> None:
    deviation, cusum = limits_for(1)
    assert deviation == pytest.approx(3.00, abs=0.01)
    assert cusum == pytest.approx(4.75, abs=0.01)


def test_simulated_years_of_people_as_they_were_fitted_bring_few_alerts_and_find_a_change_that_lasts(
    trial: Trial,
) -> None:
    assert trial.simulated.alerts_per_year < 3
    small, large = trial.simulated.delays
    assert large.found_within[7] > 0.9
    assert small.found_within[7] <= large.found_within[7]
    assert small.found_within[1] <= small.found_within[7] <= small.found_within[30]


def test_the_report_needs_nothing_else_and_escapes_names(trial: Trial) -> None:
    page = report_page(trial)

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.names: set[str] = set()
            self.attributes: set[str] = set()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.names.add(tag)
            self.attributes |= {name for name, _ in attrs}

    tags = Tags()
    tags.feed(page)
    assert tags.names.isdisjoint({"script", "link", "img", "iframe"})
    assert tags.attributes.isdisjoint({"src", "href"})
    assert "url(" not in page
    assert "://" not in page
    assert "prefers-color-scheme: dark" in page
    assert page.count("<svg") == len(trial.levels) + 1
    assert "&lt;Bo &amp; Co&gt;" in page
    assert not re.search(r"\bnan\b|\binf\b", page)


def test_a_document_reads_back_as_it_was_written(calibration: Calibration) -> None:
    document = calibration.document()
    assert json.loads(text_of(document)) == document
    again = read_calibration(document)
    assert again.document() == document
    assert again.projection is not None


@pytest.mark.parametrize("encoder", ["ge2e-v2"])
def test_the_calibration_of_ge2e_comes_with_the_package(encoder: str) -> None:
    document = shipped(encoder)
    assert document is not None
    found = read_calibration(document)
    assert found.encoder == encoder
    assert found.projection is not None
    assert found.projection.weights.shape == (48, 256)
    assert [one.snr_from for one in found.raw] == [25, 15, 8]
    assert found.whitened is not None
    assert all(one.call_variance > 0 and one.log_deviation < 1 for one in (*found.raw, *found.whitened))
    assert shipped("ecapa-voxceleb-v2") is None
