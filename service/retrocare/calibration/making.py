"""A calibration is made of folders of public speech, and tested on people from whom nothing of it was fitted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrocare.audio.decode import Samples
from retrocare.calibration import telephone
from retrocare.calibration.corpus import (
    ANY,
    MOST_RECORDINGS,
    OWN,
    STANDARD,
    Call,
    Corpus,
    Heard,
    Mixing,
    People,
    heard_of,
    noises_of,
    people_of,
    telephone_calls,
)
from retrocare.calibration.document import Calibration
from retrocare.calibration.evaluation import AtLevel, FixedRule, Level, evaluate, pooled
from retrocare.calibration.fitting import LEAST_SECONDS, SNR_FROM, Pieces, fit, joined, pieces_of, repeated_people
from retrocare.encoders.protocol import Encoder
from retrocare.errors import NotAssessable

LEVELS_DB = (20, 15, 10)
NOISES_AT_A_LEVEL = 3
OTHER_SPEEDS = (0.8, 0.88, 1.13, 1.25)  # at which a person is further people, for the projection
OTHER_LEVELS_DB = (20, 10)
OTHER_NOISES_AT_A_LEVEL = 2
BABBLING = 30  # people whose voices are the babble
HALVES = 2

Progress = Callable[[int, int], object]  # how many recordings are done, and of how many


@dataclass(frozen=True, eq=False)
class Spoken:
    """Hold what is heard of people in some folders; ``further``: the same at other speeds, and telephones."""

    corpora: Sequence[Corpus]
    further: Sequence[Corpus]
    noises: Sequence[str]

    @property
    def calls(self) -> list[Call]:
        return [call for corpus in self.corpora for call in corpus.calls]

    @property
    def refused(self) -> Counter[str]:
        """Return why how many recordings could not be used."""
        return sum((corpus.refused for corpus in self.corpora), Counter())

    def described(self) -> dict[str, Any]:
        return {
            "corpora": [corpus.name for corpus in self.corpora],
            "people": len({call.person for call in self.calls}),
            "recordings": len({call.recording for call in self.calls}),
            "calls": len(self.calls),
            "noises": list(self.noises),
        }


def listen(
    folders: Sequence[Path], noise: Path | None, encoder: Encoder, progress: Progress = lambda done, total: None
) -> Spoken:
    """Embed everybody's recordings over a telephone, as recorded, with noise, and at other speeds.

    Raises: BadRequest where a folder is missing or empty.
    """
    people = {folder.resolve().name: people_of(folder) for folder in folders}
    noises = noises_of(noise, _voices([file for known in people.values() for file in _first_files(known)]))
    total = 3 * sum(min(len(files), MOST_RECORDINGS) for known in people.values() for files in known.values())
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    own, others = Mixing(noises, LEVELS_DB, NOISES_AT_A_LEVEL), Mixing(noises, OTHER_LEVELS_DB, OTHER_NOISES_AT_A_LEVEL)
    corpora = [telephone_calls(name, known, encoder, own, (STANDARD, OWN), done=tell) for name, known in people.items()]
    further = [
        telephone_calls(name, known, encoder, others, used, speeds, tell)
        for name, known in people.items()
        for used, speeds in (((STANDARD,), OTHER_SPEEDS), ((ANY,), (1.0,)))
    ]
    return Spoken(corpora, further, list(noises))


def _first_files(people: People) -> list[Path]:
    return [files[0] for files in people.values()]


def _voices(files: Sequence[Path]) -> list[Samples]:
    """Read voices for a babble, from all over the files."""
    voices = []
    for n in np.linspace(0, len(files) - 1, min(BABBLING, len(files))).astype(int):
        with suppress(NotAssessable):
            voices.append(telephone.at_rate(files[n].read_bytes(), telephone.RATE))
    return voices


def make(spoken: Spoken, encoder: Encoder, provenance: Mapping[str, Any]) -> Calibration:
    """Fit a calibration to everybody. Raises: Unprocessable where too few people were heard."""
    corpora, further = _pieces(spoken, encoder)
    return fit(encoder.id, corpora, further, {**spoken.described(), **provenance})


def _pieces(spoken: Spoken, encoder: Encoder) -> tuple[list[Pieces], Pieces | None]:
    corpora = [pieces_of(corpus.calls, encoder.window_seconds) for corpus in spoken.corpora if corpus.calls]
    further = [pieces_of(corpus.calls, encoder.window_seconds) for corpus in spoken.further if corpus.calls]
    return corpora, joined(further) if further else None


@dataclass(frozen=True, eq=False)
class Tested:
    """Hold how people of one corpus were told apart by calibrations that were fitted to others."""

    corpus: str
    fitted: str  # to whom
    people: int
    levels: Sequence[AtLevel]


def cross_check(spoken: Spoken, encoder: Encoder, fixed: FixedRule, false_rate: float, splits: int) -> list[Tested]:
    """Test each half of the people with what was fitted to the other half, and each corpus with a fit that lacks it.

    Everybody is tested over the standard telephone. Whoever said one thing only is fitted, and never tested.
    """
    corpora, further = _pieces(spoken, encoder)
    repeated = {
        corpus.name: repeated_people(pieces)
        for corpus, pieces in zip([one for one in spoken.corpora if one.calls], corpora, strict=True)
    }
    tested = {name: people for name, people in repeated.items() if len(people) >= HALVES * 2}

    def without(people: Sequence[str]) -> Calibration:
        kept = [corpus.where(~np.isin(corpus.person, people)) for corpus in corpora]
        named = [name for corpus in corpora for name in corpus.recording[np.isin(corpus.person, people)]]
        others = further and further.where(~np.isin(further.recording, named))
        return fit(encoder.id, [one for one in kept if len(one.person)], others, {}, least_repeated=HALVES * 2)

    def test(calibration: Calibration, people: Sequence[str]) -> list[AtLevel]:
        calls = [call for call in spoken.calls if call.person in people and call.telephone == STANDARD]
        levels = _levels(calls, encoder.dimension)
        return evaluate(levels, calibration, fixed, false_rate=false_rate, splits=splits)

    halves = [[person for people in tested.values() for person in people[half::HALVES]] for half in range(HALVES)]
    fits = [without(half) for half in halves]
    found = [
        Tested(
            name,
            "the other half",
            len(people),
            pooled([test(calibration, people[half::HALVES]) for half, calibration in enumerate(fits)]),
        )
        for name, people in tested.items()
    ]
    if len(tested) > 1:
        found += [
            Tested(name, "the other corpora", len(people), test(without(people), people))
            for name, people in tested.items()
        ]
    return found


def _levels(calls: Sequence[Call], dimension: int) -> dict[Level, Heard]:
    levels: list[Level] = [None, *LEVELS_DB]
    judged = [call for call in calls if call.speech_seconds >= LEAST_SECONDS and not (call.snr_db or 99) < SNR_FROM[-1]]
    return {level: heard_of([call for call in judged if call.line.snr_db == level], dimension) for level in levels}
