"""How much speech, in windows of which length, tells people apart: on real speech, against the whole recording.

Each person's recordings are joined to two long calls, in several random ways: one is enrolled, the other is checked
against every person's. From point to point the budget changes, or the window; all else is as in the service.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from fixtures.hostile import written
from retrocare.audio.decode import Audio, Samples, decode
from retrocare.audio.speech import KEPT_SECONDS, find_speech
from retrocare.calibration.evaluation import equal_error_rate
from retrocare.calibration.telephone import ANYTHING
from retrocare.encoders.embedding import embed, same_speaker, unit
from retrocare.encoders.protocol import Encoder, Vectors, Windows

WHOLE = math.inf
CORPORA = {"librispeech": "read speech, 16 kHz", "digits": "spoken digits, 8 kHz"}
FALSE_ALARMS = 0.01


@dataclass
class Windowed:
    """An encoder that is given windows of another length than its own."""

    encoder: Encoder
    window_seconds: float

    def __post_init__(self) -> None:
        self.id, self.dimension = self.encoder.id, self.encoder.dimension
        self.denoises = self.encoder.denoises

    def encode(self, windows: Windows) -> Vectors:
        return self.encoder.encode(windows)


@dataclass(frozen=True)
class Point:
    """How well people are told apart with one budget and one window."""

    corpus: str
    window_seconds: float
    budget_seconds: float
    speech_seconds: float  # that was encoded, on average
    same: int
    other: int
    equal_error_rate: float
    flagged_share: float  # of other people, where one in a hundred of the same is flagged
    same_median: float
    other_median: float


@dataclass(frozen=True)
class Mixture:
    """What leaving out the windows of somebody else does, where that share of a call is somebody else's."""

    corpus: str
    foreign_share: float
    moved_with_all: float  # cosine distance to the voiceprint without the other one
    moved: float
    lost_share: float  # of the speaker's own windows that are left out
    found_share: float  # of the other one's windows that are left out


def calls_of(folder: Path, splits: int) -> Iterator[list[tuple[Audio, Audio]]]:
    """Give, for each split, each person's two calls, of half of the recordings each."""
    people = [sorted(path.glob("*.flac")) for path in sorted(folder.iterdir()) if path.is_dir()]
    for split in range(splits):
        random = np.random.default_rng(split)
        found = []
        for files in people:
            order = random.permutation(len(files))
            halves = np.array_split(order, 2)
            found.append((_joined([files[n] for n in halves[0]]), _joined([files[n] for n in halves[1]])))
        yield found


def _joined(files: Sequence[Path]) -> Audio:
    sounds = [soundfile.read(file, dtype="float32") for file in files]
    return decode(written(np.concatenate([samples for samples, _ in sounds]), sounds[0][1], "FLAC"), None, 3600)


def bench_budget(
    speech_dir: Path,
    encoder: Encoder,
    budgets: Sequence[float] = (5, 10, 15, 20, 30, 60, 120, WHOLE),
    windows: Sequence[float] = (0.8, 1.2, 1.6, 2.4, 3.0),
    splits: int = 5,
    tell: Callable[[str], None] = print,
) -> list[Point]:
    """Try every budget with the encoder's window, and every window with the service's budget and with no budget."""
    own = encoder.window_seconds
    tried = [(own, budget) for budget in budgets]
    tried += [(window, budget) for window in windows for budget in (KEPT_SECONDS, WHOLE) if window != own]
    points = []
    for corpus in CORPORA:
        same: dict[tuple[float, float], list[float]] = defaultdict(list)
        other: dict[tuple[float, float], list[float]] = defaultdict(list)
        spent: dict[tuple[float, float], list[float]] = defaultdict(list)
        for split, people in enumerate(calls_of(speech_dir / corpus, splits)):
            for window, budget in tried:
                used = Windowed(encoder, window)
                speech = [[find_speech(call, ANYTHING, budget).samples for call in calls] for calls in people]
                spent[window, budget] += [len(samples) / 16_000 for calls in speech for samples in calls]
                voices = np.array([[embed(samples, used).vector for samples in calls] for calls in speech])
                distances = 1 - voices[:, 0] @ voices[:, 1].T
                is_same = np.eye(len(people), dtype=bool)
                same[window, budget] += distances[is_same].tolist()
                other[window, budget] += distances[~is_same].tolist()
            tell(f"   {corpus}: split {split + 1} of {splits}")
        for window, budget in tried:
            key = (window, budget)
            points.append(_point(corpus, window, budget, float(np.mean(spent[key])), same[key], other[key]))
    return points


def _point(
    corpus: str, window: float, budget: float, spent: float, same: Sequence[float], other: Sequence[float]
) -> Point:
    threshold = float(np.quantile(same, 1 - FALSE_ALARMS))
    return Point(
        corpus=corpus,
        window_seconds=window,
        budget_seconds=budget,
        speech_seconds=spent,
        same=len(same),
        other=len(other),
        equal_error_rate=equal_error_rate(same, other),
        flagged_share=float(np.mean(np.array(other) > threshold)),
        same_median=float(np.median(same)),
        other_median=float(np.median(other)),
    )


def bench_outliers(speech_dir: Path, encoder: Encoder, shares: Sequence[float] = (0, 0.1, 0.2, 0.33)) -> list[Mixture]:
    """Put somebody else's speech into each person's, as much as the service listens to, and see what becomes of it."""
    found = []
    for corpus in CORPORA:
        halves = [call for calls in next(calls_of(speech_dir / corpus, 1)) for call in calls]
        heard = [find_speech(call, ANYTHING, 2 * KEPT_SECONDS).samples for call in halves]
        people = [samples for samples in heard if len(samples) >= KEPT_SECONDS * 16_000]
        pairs = [
            (one, people[(n + k) % len(people)]) for n, one in enumerate(people) for k in (2, 5, len(people) // 2 + 1)
        ]
        for share in shares:
            found.append(_mixed(corpus, share, pairs, encoder))
    return found


def _mixed(corpus: str, share: float, pairs: Sequence[tuple[Samples, Samples]], encoder: Encoder) -> Mixture:
    size = round(encoder.window_seconds * 16_000)
    count = int(KEPT_SECONDS * 16_000) // size
    own = count - round(share * count)
    moved: list[tuple[float, float]] = []
    kept: list[npt.NDArray[np.bool_]] = []
    for one, another in pairs:
        alone = encoder.encode(one[: count * size].reshape(count, size)).astype(np.float64)
        foreign = encoder.encode(another[: (count - own) * size].reshape(-1, size)) if own < count else alone[:0]
        mixed = np.concatenate([alone[:own], foreign])
        kept.append(same_speaker(mixed))
        moved.append((_distance(mixed, alone), _distance(mixed[kept[-1]], alone)))
    everything, without = np.mean(moved, axis=0)
    left_out = ~np.array(kept)
    return Mixture(
        corpus=corpus,
        foreign_share=1 - own / count,
        moved_with_all=float(everything),
        moved=float(without),
        lost_share=float(left_out[:, :own].mean()),
        found_share=float(left_out[:, own:].mean()) if own < count else math.nan,
    )


def _distance(some: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> float:
    one, another = unit(np.stack([some.mean(axis=0), others.mean(axis=0)]))
    return 1 - float(one @ another)


def shown(points: Sequence[Point], mixtures: Sequence[Mixture]) -> str:
    lines = []
    for corpus, what in CORPORA.items():
        of_corpus = [point for point in points if point.corpus == corpus]
        first = of_corpus[0]
        lines.append(f"{corpus}: {what}; {first.same} pairs of one person, {first.other} of two")
        lines.append(" window  budget  encoded  equal error  others flagged at 1 % alarms  median same / other")
        for point in of_corpus:
            budget = "whole" if math.isinf(point.budget_seconds) else f"{point.budget_seconds:g} s"
            lines.append(
                f"{point.window_seconds:>5g} s {budget:>7} {point.speech_seconds:>6.0f} s"
                f" {point.equal_error_rate:>11.2%} {point.flagged_share:>29.2%}"
                f" {point.same_median:>13.3f} / {point.other_median:.3f}"
            )
    lines.append("Somebody else's windows, in the service's budget: how far the voiceprint moves (cosine distance)")
    lines.append(" corpus       somebody else   all windows   without outliers   outliers found   own windows lost")
    for mixture in mixtures:
        caught = "" if math.isnan(mixture.found_share) else f"{mixture.found_share:.0%}"
        lines.append(
            f" {mixture.corpus:<12} {mixture.foreign_share:>13.0%} {mixture.moved_with_all:>13.4f}"
            f" {mixture.moved:>18.4f} {caught:>16} {mixture.lost_share:>18.2%}"
        )
    return "\n".join(lines)


def as_json(points: Sequence[Point], mixtures: Sequence[Mixture]) -> dict[str, Any]:
    found = {"points": [asdict(point) for point in points], "mixtures": [asdict(mixture) for mixture in mixtures]}
    return {name: [_without_infinities(row) for row in rows] for name, rows in found.items()}


def _without_infinities(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: the whole recording has no budget."""
    return {
        name: value if not isinstance(value, float) or math.isfinite(value) else None for name, value in row.items()
    }


def failures(points: Sequence[Point], window_seconds: float) -> list[str]:
    """Name where the service's budget tells people apart less well than the whole recording."""
    wrong = []
    for corpus in CORPORA:
        of_corpus = {(p.window_seconds, p.budget_seconds): p for p in points if p.corpus == corpus}
        ours, whole = of_corpus[window_seconds, KEPT_SECONDS], of_corpus[window_seconds, WHOLE]
        if ours.equal_error_rate > whole.equal_error_rate or ours.flagged_share < whole.flagged_share:
            wrong.append(
                f"{corpus}: {KEPT_SECONDS:g} s err in {ours.equal_error_rate:.2%} and flag {ours.flagged_share:.2%}, "
                f"the whole recording in {whole.equal_error_rate:.2%} and {whole.flagged_share:.2%}"
            )
    return wrong
