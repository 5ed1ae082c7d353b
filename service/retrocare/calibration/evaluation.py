"""How well a calibrated judgement tells people apart: who is flagged among own calls, and among other people's.

Limits are nominal: they follow from the false rate that is asked for, and are not tuned on what is evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from retrocare.calibration.corpus import Heard
from retrocare.calibration.document import Calibration
from retrocare.calibration.fitting import SAMPLES
from retrocare.calibration.formulas import (
    Judged,
    Numbers,
    anchor_variance,
    chosen_bins,
    expected_distance,
    log_likelihood_ratio,
    personal_deviate,
    population_z,
    variances,
)
from retrocare.encoders.embedding import unit

MOST_OTHERS = 2_000  # calls of other people that are compared with one enrolment at one level
CONFIDENCE = NormalDist().inv_cdf(0.975)

Level = int | None  # dB of noise that was mixed in; None: as recorded


@dataclass(frozen=True)
class FixedRule:
    """Hold the constants of the fixed rule: a distance above a threshold, less what noise may explain."""

    threshold: float
    noisy_below_snr_db: float
    noise_reduction: float

    def score(self, distance: Numbers, snr_db: Numbers) -> Numbers:
        """Return the score at an hour that reduces nothing."""
        noisy = np.nan_to_num(np.clip(1 - snr_db / self.noisy_below_snr_db, 0, 1))  # an unknown SNR reduces nothing
        found: Numbers = np.maximum(0, np.clip(distance, 0, 1) - self.noise_reduction * noisy)
        return found


@dataclass(frozen=True)
class Rate:
    """Hold a share and its 95 % interval (Wilson), which counts every call once, however many splits it is in."""

    share: float
    low: float
    high: float


def rate(hits: int, tried: int, calls: int) -> Rate | None:
    """Return the share of hits among those tried; None where nothing was."""
    if not tried:
        return None
    share, count = hits / tried, min(calls, tried)
    middle = (share + CONFIDENCE**2 / (2 * count)) / (1 + CONFIDENCE**2 / count)
    half = CONFIDENCE * math.sqrt(share * (1 - share) / count + CONFIDENCE**2 / (4 * count**2))
    half /= 1 + CONFIDENCE**2 / count
    return Rate(share, max(0.0, middle - half), min(1.0, middle + half))


@dataclass(frozen=True, eq=False)
class Scores:
    """Hold scores of calls in arrays of one length; ``calls`` is how many different ones there are."""

    deviate: Numbers  # raw in the clean bin, whitened below it
    is_another: npt.NDArray[np.bool_]
    fixed: Numbers
    raw: Numbers
    whitened: Numbers
    calls: int

    def rate(self, is_hit: npt.NDArray[np.bool_]) -> Rate | None:
        return rate(int(is_hit.sum()), len(is_hit), self.calls)


@dataclass(frozen=True, eq=False)
class AtLevel:
    """Hold what became of calls at one level of noise: each own call and each other's call, once for every split."""

    snr_db: Level
    own: Scores
    others: Scores
    limit: float
    fixed_threshold: float

    @property
    def false_alerts(self) -> Rate | None:
        return self.own.rate(self.own.deviate > self.limit)

    @property
    def flagged(self) -> Rate | None:
        return self.others.rate(self.others.deviate > self.limit)

    @property
    def another_voice(self) -> Rate | None:
        return self.others.rate(self.others.is_another)

    @property
    def own_called_another(self) -> Rate | None:
        return self.own.rate(self.own.is_another)

    @property
    def fixed_false_alerts(self) -> Rate | None:
        return self.own.rate(self.own.fixed > self.fixed_threshold)

    @property
    def fixed_flagged(self) -> Rate | None:
        return self.others.rate(self.others.fixed > self.fixed_threshold)

    @property
    def fixed_flagged_at_equal_false_alerts(self) -> Rate | None:
        """Say what the fixed rule would flag with the threshold that makes as many false alerts as the limit does."""
        if not len(self.own.fixed):
            return None
        share = float(np.mean(self.own.deviate > self.limit))
        return self.others.rate(self.others.fixed > np.quantile(self.own.fixed, 1 - share, method="higher"))

    @property
    def equal_error_rate(self) -> float | None:
        if not len(self.own.deviate) or not len(self.others.deviate):
            return None
        return equal_error_rate(self.own.deviate, self.others.deviate)


def limit_for(false_rate: float) -> float:
    """Return the normal deviate that so many own calls exceed."""
    return NormalDist().inv_cdf(1 - false_rate)


def judge(
    calibration: Calibration, calls: Heard, anchor: npt.NDArray[np.float64], samples: Heard
) -> tuple[Judged, Numbers]:
    """Judge calls against one enrolment; return the distances as well."""
    raw, prior = calibration.raw, calibration.prior
    chosen, of_samples = chosen_bins(raw, calls.snr_db), chosen_bins(raw, samples.snr_db)
    distance = 1 - calls.vectors.astype(np.float64) @ anchor
    expected = expected_distance(
        variances(raw, chosen, calls.speech_seconds),
        anchor_variance(variances(raw, of_samples, samples.speech_seconds)),
    )
    whitened_z = whitened_ratio = None
    if calibration.whitened is not None and calibration.projection is not None:
        bins = calibration.whitened
        whiten = calibration.projection.whiten
        white = 1 - whiten(calls.vectors).astype(np.float64) @ whiten(anchor)
        of_anchor = anchor_variance(variances(bins, of_samples, samples.speech_seconds))
        white_expected = expected_distance(variances(bins, chosen, calls.speech_seconds), of_anchor)
        whitened_z = population_z(bins, chosen, white, white_expected)
        whitened_ratio = log_likelihood_ratio(bins, chosen, white, white_expected)
    return (
        Judged(
            is_clean=chosen == int(np.argmax([one.snr_from for one in raw])),
            raw_deviate=personal_deviate(population_z(raw, chosen, distance, expected), prior),
            raw_ratio=log_likelihood_ratio(raw, chosen, distance, expected),
            whitened_z=whitened_z,
            whitened_ratio=whitened_ratio,
        ),
        distance,
    )


def enrolments(recordings: Sequence[str], splits: int, random: np.random.Generator) -> Iterator[set[str]]:
    """Yield different ways to enrol three recordings: the first three, then random ones."""
    tried: set[frozenset[str]] = set()
    for split in range(4 * splits):
        chosen = recordings[:SAMPLES] if split == 0 else random.permutation(recordings)[:SAMPLES]
        if (enrolled := frozenset(map(str, chosen))) not in tried and len(tried) < splits:
            tried.add(enrolled)
            yield set(enrolled)


def evaluate(
    levels: Mapping[Level, Heard], calibration: Calibration, fixed: FixedRule, *, false_rate: float, splits: int
) -> list[AtLevel]:
    """Enrol everybody in several ways from recordings as they are, and judge all other calls, at every level."""
    limit = limit_for(false_rate)
    as_recorded = levels[None]
    found: dict[Level, tuple[list[Numbers], list[Numbers]]] = {level: ([], []) for level in levels}
    names = {level: (set[str](), set[tuple[str, str]]()) for level in levels}
    for number, person in enumerate(dict.fromkeys(as_recorded.person.tolist())):
        random = np.random.default_rng(number)
        own = as_recorded.where(as_recorded.person == person)
        if len(own.recording) <= SAMPLES:
            continue
        for enrolled in enrolments(own.recording.tolist(), splits, random):
            samples = own.where(np.isin(own.recording, list(enrolled)))
            anchor = unit(samples.vectors.mean(axis=0, keepdims=True))[0].astype(np.float64)
            for level, heard in levels.items():
                is_own = (heard.person == person) & ~np.isin(heard.recording, list(enrolled))
                others = np.flatnonzero(heard.person != person)
                if len(others) > MOST_OTHERS:
                    others = np.sort(random.choice(others, MOST_OTHERS, replace=False))
                kept = is_own.copy()
                kept[others] = True
                calls = heard.where(kept)
                judged, distance = judge(calibration, calls, anchor, samples)
                whitened = judged.raw_deviate if judged.whitened_z is None else judged.whitened_z
                scores = np.stack(
                    [
                        judged.deviate,
                        judged.is_another_voice(limit),
                        fixed.score(distance, calls.snr_db),
                        judged.raw_deviate,
                        whitened,
                    ]
                )
                of_person = calls.person == person
                found[level][0].append(scores[:, of_person])
                found[level][1].append(scores[:, ~of_person])
                names[level][0].update(calls.recording[of_person].tolist())
                names[level][1].update((person, other) for other in calls.recording[~of_person].tolist())
    return [
        AtLevel(
            snr_db=level,
            own=_scores(found[level][0], len(names[level][0])),
            others=_scores(found[level][1], len(names[level][1])),
            limit=limit,
            fixed_threshold=fixed.threshold,
        )
        for level in levels
    ]


def _scores(parts: Sequence[Numbers], calls: int) -> Scores:
    deviate, another, fixed, raw, whitened = np.concatenate([np.zeros((5, 0)), *parts], axis=1)
    return Scores(deviate, another.astype(bool), fixed, raw, whitened, calls)


def pooled(evaluations: Sequence[Sequence[AtLevel]]) -> list[AtLevel]:
    """Put evaluations of different people together, level by level."""
    return [
        replace(
            of_level[0], own=_joined([one.own for one in of_level]), others=_joined([one.others for one in of_level])
        )
        for of_level in zip(*evaluations, strict=True)
    ]


def _joined(parts: Sequence[Scores]) -> Scores:
    names = ("deviate", "is_another", "fixed", "raw", "whitened")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Scores(**arrays, calls=sum(part.calls for part in parts))


def equal_error_rate(own: npt.ArrayLike, others: npt.ArrayLike) -> float:
    """Return the share of errors of both kinds where there are as many of one as of the other."""
    own, others = np.sort(np.asarray(own)), np.sort(np.asarray(others))
    thresholds = np.sort(np.concatenate([own, others]))
    missed = np.searchsorted(others, thresholds, "right") / len(others)
    alarmed = 1 - np.searchsorted(own, thresholds, "right") / len(own)
    crossing = int(np.argmin(np.abs(missed - alarmed)))
    return float((missed[crossing] + alarmed[crossing]) / 2)
