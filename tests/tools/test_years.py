"""A few simulated patients: `scripts/years` does the same at length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fixtures.calibrated import ALWAYS_THE_SAME, RAW_ONLY
from fixtures.databases import Database
from years.__main__ import shown
from years.judging import judge, prepared
from years.patients import CHANGES, CHANGES_ON, HEALTHY, Scenario, simulate

PATIENTS = 3
TYPICAL = HEALTHY[0]
# One radius and more apart: strangers are as far as the calibration says, and nobody is taken for another.
DOCUMENT = {**ALWAYS_THE_SAME, "bins": RAW_ONLY["bins"]}


def scenario(name: str) -> Scenario:
    [found] = [one for one in (*HEALTHY, *CHANGES) if one.name == name]
    return found


@pytest.mark.parametrize(
    "life",
    [
        TYPICAL,
        replace(TYPICAL, name="autocorrelated", persistence=0.6),
        replace(TYPICAL, name="heavy tails", heavy_tails=True),
        replace(TYPICAL, name="three calls a day", calls_a_day=3, days=60),
    ],
    ids=lambda life: life.name,
)
def test_healthy_patients_hardly_ever_reach_an_emergency(database: Database, life: Scenario) -> None:
    found = judge(prepared(database, DOCUMENT), replace(life, days=min(life.days, 150)), DOCUMENT, PATIENTS, seed=1)
    years = found.years
    if life is TYPICAL:
        assert found.episodes[1]["warning"] * years <= 2
    assert found.episodes[1]["emergency"] * years <= 1
    assert found.episodes[1]["critical"] == 0
    assert found.episodes[12]["warning"] >= found.episodes[4]["warning"] >= found.episodes[1]["warning"]


@pytest.mark.parametrize(("change", "within"), [("one radius", 30), ("two radii", 7), ("another person", 1)])
def test_a_change_is_found_in_time(database: Database, change: str, within: int) -> None:
    what = scenario(change)
    found = judge(prepared(database, DOCUMENT), replace(what, days=CHANGES_ON + within), DOCUMENT, PATIENTS, seed=1)
    assert max(found.found["warning"]) <= within
    assert f"{change:<34}" in shown([found])


def test_ageing_and_seasons_tell_nobody_and_a_decline_is_not_swallowed(database: Database) -> None:
    records = prepared(database, DOCUMENT)
    for name in ("ageing, half a radius a year", "season, 0.4 radii to and fro"):
        slow = judge(records, replace(scenario(name), days=200), DOCUMENT, 2, seed=1)
        assert slow.episodes[1]["emergency"] == 0, name
    decline = judge(records, scenario("one radius in 60 days"), DOCUMENT, 2, seed=1)
    assert max(decline.found["warning"]) <= 75


def test_a_change_is_as_large_as_it_is_called() -> None:
    what = replace(scenario("two radii"), day_variance=0.0)
    calls = simulate(what, DOCUMENT, np.random.default_rng(1))
    before, after = calls.vectors[calls.day < CHANGES_ON], calls.vectors[calls.day >= CHANGES_ON]
    apart = np.linalg.norm(before.mean(axis=0) - after.mean(axis=0))
    radius = np.sqrt(np.mean(np.sum((before - before.mean(axis=0)) ** 2, axis=1)))
    assert 1.4 < apart / radius < 2.4
