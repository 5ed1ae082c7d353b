"""Simulated patients: what their calls' vectors, lengths and lines are like, day after day.

A call's vector is the patient's voice, and on it what differs from day to day and from call to call: a random vector
along 48 directions, of the variance that the calibration expects and, on top, of the days' own variance. How people's
voices really move over months is not known; `day_variance` is a guess, and so every table has a typical and a
pessimistic one. A change is a shift of so many radii: a radius is how far a clean call of ten seconds lies from its
person's mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
DIMENSION, DIRECTIONS = 256, 48
CHANGES_ON = 120  # the day on which a change begins: the patient's own spread is known by then
LEARNED_SPREAD = 0.157  # standard deviation between people of the logarithm of their variance
LINES = ((30.0, 0.7), (20.0, 0.2), (11.0, 0.1))  # SNR in dB, and its share of the calls

Shift = Callable[[Array], Array]  # days -> radii


def none(days: Array) -> Array:
    """Shift nothing."""
    return np.zeros_like(days)


def step(radii: float) -> Shift:
    """Shift by so much from the day of the change on."""
    return lambda days: np.where(days >= CHANGES_ON, radii, 0.0)


def ramp(radii: float, length: float) -> Shift:
    """Shift slowly, over so many days."""
    return lambda days: radii * np.clip((days - CHANGES_ON) / length, 0, 1)


def ageing(radii_a_year: float) -> Shift:
    """Shift a little every day."""
    return lambda days: radii_a_year * days / 365


def season(radii: float) -> Shift:
    """Shift to and fro within a year."""
    return lambda days: radii * np.sin(2 * np.pi * days / 365)


@dataclass(frozen=True)
class Scenario:
    """What happens to every patient of a table's row."""

    name: str
    day_variance: float = 0.04
    persistence: float = 0.2  # correlation of one day with the next
    samples: int = 3
    calls_a_day: int = 1
    heavy_tails: bool = False
    days: int = 365
    shift: Shift = field(default=none, repr=False)
    is_stranger: bool = False  # from the day of the change on

    def pessimistic(self, samples: int = 3) -> Scenario:
        return replace(self, name=f"{self.name}, pessimistic", day_variance=0.08, persistence=0.6, samples=samples)


@dataclass(frozen=True)
class Calls:
    """The calls of one patient, in their order; the first are the enrolment's, of the days before day 0."""

    day: Array
    snr_db: Array
    speech_seconds: Array
    vectors: npt.NDArray[np.float32]  # (calls, DIMENSION), each of length 1


def simulate(scenario: Scenario, document: dict[str, Any], random: np.random.Generator) -> Calls:
    """Make the calls of one patient."""
    raw = sorted(document["bins"]["raw"], key=lambda one: one["snr_from"])
    count = scenario.samples + scenario.days * scenario.calls_a_day
    judged = np.repeat(np.arange(scenario.days, dtype=float), scenario.calls_a_day)
    judged += np.tile(np.arange(scenario.calls_a_day) / max(3, scenario.calls_a_day), scenario.days)
    day = np.concatenate([np.arange(-scenario.samples, 0, dtype=float), judged])
    snr_db = random.choice([level for level, _ in LINES], count, p=[share for _, share in LINES])
    snr_db[: scenario.samples] = LINES[0][0]
    speech = random.uniform(8, 15, count)

    basis = np.linalg.qr(random.normal(size=(DIMENSION, DIRECTIONS + 2)))[0].T
    directions, common, own = basis[:DIRECTIONS], basis[-2], basis[-1]
    apart = np.exp(raw[-1]["other_log_mean"])  # people's voices are so far apart
    voice = np.sqrt(1 - apart) * common + np.sqrt(apart) * own
    stranger = np.sqrt(1 - apart) * common + np.sqrt(apart) * _unit(random.normal(size=DIMENSION))

    bins = np.clip(np.searchsorted([one["snr_from"] for one in raw], snr_db, "right") - 1, 0, None)
    variance = np.array(
        [raw[n]["call_variance"] + raw[n]["speech_variance"] / s for n, s in zip(bins, speech, strict=True)]
    )
    variance *= np.exp(random.normal(0, LEARNED_SPREAD))
    noise = _drawn(random, (count, DIRECTIONS), scenario.heavy_tails) * np.sqrt(variance / DIRECTIONS)[:, None]
    whole_days = np.floor(day).astype(int) + scenario.samples
    days = _correlated(random, int(whole_days.max()) + 1, scenario) * np.sqrt(scenario.day_variance / DIRECTIONS)
    radius = np.sqrt(raw[-1]["call_variance"] + raw[-1]["speech_variance"] / 10)
    towards = _unit(random.normal(size=DIRECTIONS))
    moved = np.outer(scenario.shift(day) * radius, towards)
    vectors = (noise + days[whole_days] + moved) @ directions
    is_other = scenario.is_stranger & (day >= CHANGES_ON)
    vectors += np.where(is_other[:, None], stranger, voice)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Calls(day, snr_db, speech, vectors.astype(np.float32))


def _unit(vector: Array) -> Array:
    found: Array = vector / np.linalg.norm(vector)
    return found


def _drawn(random: np.random.Generator, size: tuple[int, int], heavy_tails: bool) -> Array:
    """Draw normal numbers or, with heavy tails, some calls that are noisier than others, all of variance 1."""
    numbers = random.normal(size=size)
    if heavy_tails:
        numbers *= np.sqrt(3 / random.chisquare(5, (size[0], 1)))  # Student's t with five degrees, of variance 1
    return numbers


def _correlated(random: np.random.Generator, count: int, scenario: Scenario) -> Array:
    """Draw a vector a day, each correlated with the one before."""
    drawn = random.normal(size=(count, DIRECTIONS))
    for n in range(1, count):
        drawn[n] = scenario.persistence * drawn[n - 1] + np.sqrt(1 - scenario.persistence**2) * drawn[n]
    return drawn


HEALTHY = (
    Scenario("typical"),
    Scenario("").pessimistic(),
    Scenario("n = 5").pessimistic(5),
    Scenario("three calls a day", calls_a_day=3),
    Scenario("heavy tails", heavy_tails=True),
    Scenario("ageing, half a radius a year", shift=ageing(0.5)),
    Scenario("season, 0.4 radii to and fro", shift=season(0.4)),
)
CHANGES = (
    Scenario("half a radius", days=CHANGES_ON + 60, shift=step(0.5)),
    Scenario("one radius", days=CHANGES_ON + 60, shift=step(1)),
    Scenario("two radii", days=CHANGES_ON + 30, shift=step(2)),
    Scenario("three radii", days=CHANGES_ON + 30, shift=step(3)),
    Scenario("another person", days=CHANGES_ON + 30, is_stranger=True),
    Scenario("one radius in 60 days", days=CHANGES_ON + 90, shift=ramp(1, 60)),
    Scenario("a new telephone, 1.5 radii", days=CHANGES_ON + 30, shift=step(1.5)),
)
