"""How much the measures that explain a score vary in one person and between people, and what noise does to them.

Every call is speech through a telephone, as in `noise`; short recordings of one person are joined, in their order,
until they make a call. What one person's calls vary by, and how people differ, are the priors of ``voice.features``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from bench.noise import spoken, telephoned
from retrocare.audio.decode import Piece, Samples
from retrocare.audio.features import Features, measure_features
from retrocare.audio.speech import find_speech
from retrocare.calibration.telephone import ANYTHING, Noise, babble, called, coloured, recorded

CALL_SECONDS = 12.0
SNRS_DB = (20, 15, 10, 5)
LEAST_CALLS = 3  # of a person whose calls are compared with each other
NAMES = [field.name for field in fields(Features)]
LONGEST_MS = 100.0  # of CPU, for 15 s of speech

Calls = Mapping[str, Sequence[Samples]]  # by person


@dataclass(frozen=True)
class Variation:
    """Hold how a measure varies: the mean over people, and deviations between people and within one."""

    feature: str
    mean: float
    between: float
    within: float
    degrees: float  # of freedom, that the deviation within people in general is worth for one of them
    within_people: tuple[float, ...]
    by_snr: Mapping[int, tuple[float, float]]  # the share of noisy calls that have it, and its error, in within's


@dataclass(frozen=True)
class Found:
    """Hold all that is measured."""

    variations: Sequence[Variation]
    people: int
    calls: int
    milliseconds: float


def bench_features(speech: Path, tell: Callable[[str], None]) -> Found:
    people = {**_people(speech / "librispeech"), **_people(speech / "digits")}
    cohort = [features_of(telephoned(file)) for file in sorted((speech / "cohort").glob("*.flac"))]
    clean = {person: [features_of(call) for call in calls] for person, calls in people.items()}
    tell(f"   {len(people)} people with several calls, {len(cohort)} with one, measured without noise")
    noises = [
        *(recorded(spoken(file)) for file in sorted((speech / "noise").glob("*.flac"))),
        coloured(1),
        babble([spoken(file) for file in sorted((speech / "cohort").glob("*.flac"))[:12]]),
    ]
    noisy = {snr_db: list(_with_noise(people, noises, snr_db)) for snr_db in SNRS_DB}
    variations = [_variation(name, clean, cohort, noisy) for name in NAMES]
    return Found(variations, len(people), sum(map(len, people.values())), _milliseconds())


def features_of(call: Samples, noise: Samples | None = None, snr_db: float = 0) -> Features:
    return find_speech(called(call, noise, snr_db), ANYTHING).features


def _people(folder: Path) -> dict[str, list[Samples]]:
    return {
        f"{folder.name} {person.name}": list(_joined([telephoned(file) for file in sorted(person.glob("*.flac"))]))
        for person in sorted(folder.iterdir())
        if person.is_dir()
    }


def _joined(recordings: Sequence[Samples]) -> Iterator[Samples]:
    waiting: list[Samples] = []
    for recording in recordings:
        waiting.append(recording)
        if sum(map(len, waiting)) >= CALL_SECONDS * 8_000:
            yield np.concatenate(waiting)
            waiting = []


def _with_noise(people: Calls, noises: Sequence[Noise], snr_db: int) -> Iterator[Features]:
    """Measure every call once, each with the next noise."""
    random = np.random.default_rng(snr_db)
    for n, call in enumerate(call for calls in people.values() for call in calls):
        yield features_of(call, noises[n % len(noises)](random, len(call)), snr_db)


def _variation(
    name: str,
    clean: Mapping[str, Sequence[Features]],
    cohort: Sequence[Features],
    noisy: Mapping[int, Sequence[Features]],
) -> Variation:
    by_person = {
        person: [value for one in found if (value := getattr(one, name)) is not None] for person, found in clean.items()
    }
    several = [values for values in by_person.values() if len(values) >= LEAST_CALLS]
    within_people = [float(np.std(values, ddof=1)) for values in several]
    within = float(np.sqrt(np.mean(np.square(within_people))))
    means = [float(np.mean(values)) for values in several]
    means += [value for one in cohort if (value := getattr(one, name)) is not None]
    exact = [getattr(one, name) for found in clean.values() for one in found]
    by_snr = {}
    for snr_db, found in noisy.items():
        given = [getattr(one, name) for one in found]
        errors = [a - b for a, b in zip(given, exact, strict=True) if a is not None and b is not None]
        error = float(np.sqrt(np.mean(np.square(errors)))) / within if errors else float("nan")
        by_snr[snr_db] = (len(errors) / sum(value is not None for value in exact), error)
    spread = _spread_of_variances(within_people, [len(values) for values in several])
    degrees = 4 + 2 / spread if spread > 0 else float("inf")
    between = float(np.std(means, ddof=1))
    return Variation(name, float(np.mean(means)), between, within, degrees, tuple(within_people), by_snr)


def _spread_of_variances(deviations: Sequence[float], counts: Sequence[int]) -> float:
    """Return the squared coefficient of variation of people's variances, without what few calls of each add to it."""
    variances = np.square(deviations)
    by_chance = float(np.mean([2 / (count - 1) for count in counts]))
    squared = float(variances.var(ddof=1) / variances.mean() ** 2)
    return (squared - by_chance) / (1 + by_chance)


def _milliseconds() -> float:
    """Measure the CPU time for 15 s of speech at 16 kHz."""
    random = np.random.default_rng(0)
    pieces = [Piece(n * 80_000, random.normal(0, 0.1, 80_000).astype(np.float32)) for n in range(3)]
    measure_features(pieces, 16_000, 30)
    begun = time.process_time()
    for _ in range(10):
        measure_features(pieces, 16_000, 30)
    return (time.process_time() - begun) * 100


def shown(found: Found) -> str:
    levels_db = ", ".join(f"{snr_db} dB" for snr_db in SNRS_DB)
    lines = [
        f"{found.calls} calls of {found.people} people, of {CALL_SECONDS:g} s or more; "
        f"{found.milliseconds:.0f} ms of CPU for 15 s of speech",
        f"{'':>43}within, of one person     noisy calls that have it | its error, in within,",
        f" {'measure':<13}    mean  between  within  least  median   most  degrees    at {levels_db}",
    ]
    for one in found.variations:
        least, middle, most = np.quantile(one.within_people, (0, 0.5, 1))
        levels = "   ".join(f"{share:>4.0%} | {error:.2f}" for share, error in one.by_snr.values())
        lines.append(
            f" {one.feature:<13} {one.mean:>7.3f}  {one.between:>7.3f} {one.within:>7.3f}"
            f" {least:>6.3f}  {middle:>6.3f} {most:>6.3f}  {one.degrees:>7.1f}    {levels}"
        )
    return "\n".join(lines)


def as_json(found: Found) -> dict[str, Any]:
    return asdict(found)


def failures(found: Found) -> list[str]:
    if found.milliseconds > LONGEST_MS:
        return [f"the measures of a call take {found.milliseconds:.0f} ms of CPU"]
    return []
