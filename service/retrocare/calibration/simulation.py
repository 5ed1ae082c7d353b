"""Days that were not recorded: what a year of calls would bring, and how soon a change that lasts is found.

A simulated call is one of a person's recordings, moved by a random amount for the day along directions in which calls
of one person really differ. How much days differ is assumed; no corpus has many days of one person.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from retrocare.calibration.corpus import Heard
from retrocare.calibration.document import Calibration
from retrocare.calibration.fitting import SAMPLES
from retrocare.calibration.formulas import (
    Numbers,
    anchor_variance,
    chosen_bins,
    expected_distance,
    personal_deviate,
    personal_spread,
    population_z,
    variances,
)

DAYS = 365
PATIENTS = 200
DAY_SHARE = 0.4  # of the variance of a clean call of ten seconds: what a day adds
TYPICAL_SECONDS = 10.0
DIRECTIONS = 48
LEARNING_CALLS, WINSORISED_AT = 60, 3.0
ALLOWANCE, LARGEST_STEP, LARGEST_CUSUM = 0.5, 3.0, 10.0
CHANGED_ON = 60  # the day from which a change lasts
SHIFTS = (1.0, 2.0)  # in radii: the root mean square distance of a clean call from its person's mean
WITHIN_DAYS = (1, 7, 30)
QUIET_DAYS = 3  # an alert after so many days without one is another


@dataclass(frozen=True)
class Delay:
    """Hold how soon a change that lasts is found, with the share of patients in whom it is within some days."""

    shift: float
    median_days: float | None  # None: in most patients it is not found
    found_within: dict[int, float]


@dataclass(frozen=True)
class Simulated:
    """Hold what simulated years brought."""

    patients: int
    alerts_per_year: float
    without_alert: float  # share of patients
    delays: Sequence[Delay]


def limits_for(alerts_per_year: float) -> tuple[float, float]:
    """Return the limits of a single deviation and of the CUSUM that make so many alerts a year by chance, half each.

    Source: D. Siegmund, Sequential Analysis, 1985, for the average run length of a CUSUM.
    """
    run_length = 2 * DAYS / alerts_per_year
    g = 5.0
    for _ in range(50):
        g -= (2 * (math.exp(g) - g - 1) - run_length) / (2 * (math.exp(g) - 1))
    return NormalDist().inv_cdf(1 - 1 / run_length), g - 1.166


def simulate(as_recorded: Heard, calibration: Calibration, alerts_per_year: float = 1.0) -> Simulated:
    """Simulate a year of daily calls of everybody, as they are and with a change that lasts."""
    random = np.random.default_rng(0)
    people = [as_recorded.where(as_recorded.person == person) for person in dict.fromkeys(as_recorded.person.tolist())]
    people = [person for person in people if len(person.recording) > SAMPLES]
    directions = _directions(people)
    clean = max(calibration.raw, key=lambda one: one.snr_from)
    radius = math.sqrt(float(clean.variance(TYPICAL_SECONDS)))
    limits = limits_for(alerts_per_year)
    patients = [_Patient(people[n % len(people)], directions, radius, random) for n in range(PATIENTS)]

    def alarms(shift: float) -> npt.NDArray[np.bool_]:
        z = np.stack([patient.year(calibration, shift * radius, random) for patient in patients])
        return _alarms(z, calibration, limits)

    usual = alarms(0.0)
    begun = usual & ~_recently(usual)
    delays = []
    for shift in SHIFTS:
        after = alarms(shift)[:, CHANGED_ON:]
        days = np.where(after.any(axis=1), after.argmax(axis=1) + 1, np.inf)
        median = float(np.median(days))
        within = {limit: float(np.mean(days <= limit)) for limit in WITHIN_DAYS}
        delays.append(Delay(shift, median if math.isfinite(median) else None, within))
    return Simulated(PATIENTS, float(begun.sum(axis=1).mean()), float(1 - begun.any(axis=1).mean()), delays)


def _directions(people: Sequence[Heard]) -> Numbers:
    """Return the directions, (48, dimension) or fewer, in which calls of one person differ most."""
    deviations = np.concatenate([person.vectors - person.vectors.mean(axis=0) for person in people])
    found: Numbers = np.linalg.svd(deviations.astype(np.float64), full_matrices=False)[2][:DIRECTIONS]
    return found


class _Patient:
    """A person who was enrolled on three days, and whose other recordings are the calls of all others."""

    def __init__(self, known: Heard, directions: Numbers, radius: float, random: np.random.Generator) -> None:
        order = random.permutation(len(known.recording))
        self.samples, self.calls = known.where(order[:SAMPLES]), known.where(order[SAMPLES:])
        self.directions, self.day_deviation = directions, radius * math.sqrt(DAY_SHARE / len(directions))
        moved = self.samples.vectors + self.days(SAMPLES, random)
        mean = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).mean(axis=0)
        self.anchor = mean / np.linalg.norm(mean)

    def days(self, count: int, random: np.random.Generator) -> Numbers:
        found: Numbers = random.normal(0, self.day_deviation, (count, len(self.directions))) @ self.directions
        return found

    def year(self, calibration: Calibration, shift: float, random: np.random.Generator) -> Numbers:
        """Return the population z of a call a day."""
        calls = self.calls.where(random.integers(len(self.calls.recording), size=DAYS))
        moved = calls.vectors + self.days(DAYS, random)
        towards = random.normal(size=len(self.directions)) @ self.directions
        moved[CHANGED_ON:] += shift * towards / np.linalg.norm(towards)
        distance = 1 - moved @ self.anchor / np.linalg.norm(moved, axis=1)
        bins = calibration.raw
        chosen, of_samples = chosen_bins(bins, calls.snr_db), chosen_bins(bins, self.samples.snr_db)
        expected = expected_distance(
            variances(bins, chosen, calls.speech_seconds),
            anchor_variance(variances(bins, of_samples, self.samples.speech_seconds)),
        )
        return population_z(bins, chosen, distance, expected)


def _alarms(z: Numbers, calibration: Calibration, limits: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Say on which days, (patients, days), a single deviation or the CUSUM is beyond its limit."""
    patients = len(z)
    mean, squares, cusum = np.zeros(patients), np.zeros(patients), np.zeros(patients)
    found = np.zeros(z.shape, bool)
    for day, today in enumerate(z.T):
        count = min(day, LEARNING_CALLS)
        deviate = personal_deviate(today, calibration.prior, count, mean, squares)
        cusum = np.clip(cusum + np.clip(deviate, -LARGEST_STEP, LARGEST_STEP) - ALLOWANCE, 0, LARGEST_CUSUM)
        found[:, day] = (deviate > limits[0]) | (cusum > limits[1])
        if day < LEARNING_CALLS:
            centre, deviation, _ = personal_spread(calibration.prior, count, mean, squares)
            learned = np.minimum(today, centre + WINSORISED_AT * deviation)
            moved = learned - mean
            mean = mean + moved / (count + 1)
            squares = squares + moved * (learned - mean)
    return found


def _recently(alarms: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Say on which days there was an alarm within the days before."""
    found = np.zeros_like(alarms)
    for days in range(1, QUIET_DAYS + 1):
        found[:, days:] |= alarms[:, :-days]
    return found
