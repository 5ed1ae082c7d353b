"""The judgement's formulas, over arrays: calibration fits them, evaluation applies them, and SQL must agree with them.

A distance is one minus the cosine between a voice and the anchor, the direction of the mean of its samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrocare.encoders.protocol import Vectors

Numbers = npt.NDArray[np.float64]

LEAST_DISTANCE = 1e-6
LEAST_SEPARATION = 0.15  # of the logarithms of distances to another voice and to one's own


@dataclass(frozen=True)
class Bin:
    """Hold what is known of distances at one level of noise, in one space (as encoded, or whitened)."""

    snr_from: float
    call_variance: float
    speech_variance: float  # seconds: what a second of speech adds, divided by the seconds
    log_bias: float
    log_deviation: float
    other_log_mean: float
    other_log_deviation: float

    def variance(self, speech_seconds: npt.ArrayLike) -> Numbers:
        """Return how far a call strays from its person's mean, squared."""
        return self.call_variance + self.speech_variance / np.asarray(speech_seconds, np.float64)


@dataclass(frozen=True)
class Prior:
    """Hold what is believed of a patient's mean and spread of z before any call was judged."""

    degrees: float
    variance: float
    mean_variance: float


@dataclass(frozen=True, eq=False)
class Projection:
    """Hold the projection into the space where voices are told apart: (48, dimension) and (48,)."""

    weights: Numbers
    offsets: Numbers

    def whiten(self, vectors: npt.NDArray[np.floating]) -> Vectors:
        """Project vectors, (..., dimension), and scale each to length 1."""
        projected = vectors.astype(np.float64) @ self.weights.T + self.offsets
        whitened: Vectors = (projected / np.linalg.norm(projected, axis=-1, keepdims=True)).astype(np.float32)
        return whitened


def chosen_bins(bins: Sequence[Bin], snr_db: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Return which bin each signal to noise ratio belongs to; the lowest where it is unknown (NaN) or below all."""
    known = np.nan_to_num(np.asarray(snr_db, np.float64), nan=-np.inf)
    floors = np.array([one.snr_from for one in bins])
    order = np.argsort(floors)
    chosen: npt.NDArray[np.intp] = order[np.maximum(0, np.searchsorted(floors[order], known, "right") - 1)]
    return chosen


def variances(bins: Sequence[Bin], chosen: npt.NDArray[np.intp], speech_seconds: npt.ArrayLike) -> Numbers:
    """Return the variance of calls, each in its own bin."""
    call, speech = np.array([[one.call_variance, one.speech_variance] for one in bins]).T
    seconds: Numbers = np.asarray(speech_seconds, np.float64)
    found: Numbers = call[chosen] + speech[chosen] / seconds
    return found


def anchor_variance(sample_variances: Numbers) -> Numbers:
    """Return what an anchor's samples, along the last axis, add to every distance to it."""
    found: Numbers = sample_variances.sum(axis=-1) / (2 * sample_variances.shape[-1] ** 2)
    return found


def expected_distance(variance: npt.ArrayLike, of_anchor: npt.ArrayLike) -> Numbers:
    found: Numbers = np.asarray(variance, np.float64) / 2 + np.asarray(of_anchor, np.float64)
    return found


def log_distance(distance: npt.ArrayLike) -> Numbers:
    found: Numbers = np.log(np.maximum(np.asarray(distance, np.float64), LEAST_DISTANCE))
    return found


def population_z(
    bins: Sequence[Bin], chosen: npt.NDArray[np.intp], distance: npt.ArrayLike, expected: npt.ArrayLike
) -> Numbers:
    """Return by how many deviations a call is farther from its anchor than those of most people are."""
    bias, deviation = np.array([[one.log_bias, one.log_deviation] for one in bins]).T
    found: Numbers = (log_distance(distance) - np.log(expected) - bias[chosen]) / deviation[chosen]
    return found


def personal_spread(
    prior: Prior, count: npt.ArrayLike, mean: npt.ArrayLike, m2: npt.ArrayLike
) -> tuple[Numbers, Numbers, Numbers]:
    """Return where a patient's next z is expected, its deviation and degrees of freedom.

    ``count``, ``mean`` and ``m2`` are number, mean and summed squares of deviations of those before.

    Source: A. Gelman et al., Bayesian Data Analysis, 2013: the predictive distribution under a normal-inverse-gamma
    prior.
    """
    count, mean, m2 = (np.asarray(given, np.float64) for given in (count, mean, m2))
    kappa = prior.variance / prior.mean_variance
    degrees: Numbers = prior.degrees + count
    variance = (prior.degrees * prior.variance + m2 + count * kappa / (count + kappa) * mean**2) / degrees
    centre: Numbers = count * mean / (count + kappa)
    deviation: Numbers = np.sqrt(variance * (1 + 1 / (count + kappa)))
    return centre, deviation, degrees


def personal_deviate(
    z: npt.ArrayLike, prior: Prior, count: npt.ArrayLike = 0, mean: npt.ArrayLike = 0, m2: npt.ArrayLike = 0
) -> Numbers:
    """Return z as a normal deviate of the patient's own.

    Source: D. L. Wallace, Bounds on normal approximations to Student's and the chi-square distributions, 1959.
    """
    centre, deviation, degrees = personal_spread(prior, count, mean, m2)
    t = (np.asarray(z, np.float64) - centre) / deviation
    found: Numbers = (
        np.sign(t) * (8 * degrees + 1) / (8 * degrees + 3) * np.sqrt(degrees * np.log1p(np.square(t) / degrees))
    )
    return found


def log_likelihood_ratio(
    bins: Sequence[Bin], chosen: npt.NDArray[np.intp], distance: npt.ArrayLike, expected: npt.ArrayLike
) -> Numbers:
    """Return how much likelier a distance is for the patient than for another person: below 0, another is likelier."""
    bias, deviation, other_mean, other_deviation = np.array(
        [[one.log_bias, one.log_deviation, one.other_log_mean, one.other_log_deviation] for one in bins]
    ).T[:, chosen]
    same = np.log(expected) + bias
    other = np.maximum(other_mean, same + LEAST_SEPARATION)
    variance = (np.square(deviation) + np.square(other_deviation)) / 2
    found: Numbers = (other - same) / variance * ((same + other) / 2 - log_distance(distance))
    return found


@dataclass(frozen=True, eq=False)
class Judged:
    """Hold what the formulas say of calls against anchors, in arrays of one shape."""

    is_clean: npt.NDArray[np.bool_]  # in the highest bin
    raw_deviate: Numbers
    raw_ratio: Numbers
    whitened_z: Numbers | None
    whitened_ratio: Numbers | None

    @property
    def deviate(self) -> Numbers:
        """Return what a limit is compared with: raw in the clean bin, whitened below it; raw without a projection."""
        return (
            self.raw_deviate if self.whitened_z is None else np.where(self.is_clean, self.raw_deviate, self.whitened_z)
        )

    def is_flagged(self, limit: float) -> npt.NDArray[np.bool_]:
        flagged: npt.NDArray[np.bool_] = self.deviate > limit
        return flagged

    def is_another_voice(self, gate: float) -> npt.NDArray[np.bool_]:
        """Say which calls are named another voice."""
        if self.whitened_ratio is None:
            ratio = self.raw_ratio
        else:
            both = np.maximum(self.raw_ratio, self.whitened_ratio)
            ratio = np.where(self.is_clean, both, self.whitened_ratio)
        named: npt.NDArray[np.bool_] = (self.deviate > gate) & (ratio < 0)
        return named
