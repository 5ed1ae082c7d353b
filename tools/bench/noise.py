"""How much noise harms a voiceprint, and how much of that harm denoising undoes: on real speech.

Every recording goes through a telephone: 300 to 3400 Hz, mu-law at 8 kHz. Some clean ones enrol a person, in several
random ways; the others are checked against every person, as recorded and with noise. The level of noise is relative to
the speech without its pauses, within the telephone's band. What `denoise` is set to was chosen on the set "fitting",
whose voices and noises are in no other.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.budget import FALSE_ALARMS
from retrocare.audio.decode import Audio, Samples
from retrocare.audio.speech import find_speech
from retrocare.calibration.evaluation import equal_error_rate
from retrocare.calibration.telephone import (
    ANYTHING,
    RATE,
    STANDARD,
    Noise,
    at_rate,
    babble,
    called,
    coloured,
    hum,
    recorded,
    street,
)
from retrocare.encoders.embedding import embed, unit
from retrocare.encoders.protocol import Encoder, Vectors
from retrocare.errors import NotAssessable


def telephoned(file: Path) -> Samples:
    """Read a recording as a telephone passes it on, before it is coded."""
    return STANDARD.pass_on(spoken(file))


def spoken(file: Path) -> Samples:
    """Read a recording at the telephone's rate."""
    return at_rate(file.read_bytes(), RATE)


@dataclass(frozen=True)
class Voices:
    """Hold the recordings of some people, and the noises that are mixed into them."""

    people: Mapping[str, Sequence[Samples]]
    enrolled: int  # recordings of each
    noises: Mapping[str, Noise]


def fitting(speech_dir: Path) -> Voices:
    """Take thirty people who said one thing each, and halve it."""
    cohort = sorted((speech_dir / "cohort").glob("*.flac"))
    return Voices(
        people={file.stem: np.array_split(telephoned(file), 2) for file in cohort[30:]},
        enrolled=1,
        noises={
            "noise1": recorded(spoken(speech_dir / "noise" / "noise1.flac")),
            "noise4": recorded(spoken(speech_dir / "noise" / "noise4.flac")),
            "white": coloured(0),
            "pink": coloured(1),
            "babble": babble([spoken(file) for file in cohort[:15]]),
        },
    )


def testing(speech_dir: Path, corpus: str) -> Voices:
    """Take a corpus with a folder for each person."""
    folders = [folder for folder in sorted((speech_dir / corpus).iterdir()) if folder.is_dir()]
    return Voices(
        people={folder.name: [telephoned(file) for file in sorted(folder.glob("*.flac"))] for folder in folders},
        enrolled=3,
        noises={
            "noise2": recorded(spoken(speech_dir / "noise" / "noise2.flac")),
            "noise3": recorded(spoken(speech_dir / "noise" / "noise3.flac")),
            "noise5": recorded(spoken(speech_dir / "noise" / "noise5.flac")),
            "brown": coloured(2),
            "hum": hum,
            "street": street,
            "babble": babble([spoken(file) for file in sorted((speech_dir / "cohort").glob("*.flac"))[15:30]]),
        },
    )


SETS: Mapping[str, Callable[[Path], Voices]] = {
    "librispeech": lambda speech_dir: testing(speech_dir, "librispeech"),
    "digits": lambda speech_dir: testing(speech_dir, "digits"),
    "fitting": fitting,
}
SNRS_DB = (20, 10, 5)
CLEAN = "as recorded"
CLEAN_TOLERANCE = 0.01  # a recording or two, of those that are checked


@dataclass(frozen=True)
class Heard:
    """How well people are told apart in one kind of noise, or in all of a level."""

    voices: str
    noise: str  # "all", or its name
    snr_db: int | None  # None: as recorded
    denoised: bool
    same: int
    other: int
    equal_error_rate: float
    flagged_share: float  # of other people, where one in a hundred of the same is flagged
    alarmed_share: float  # of the same people, where one in a hundred is without noise
    same_median: float
    other_median: float


def bench_noise(
    speech_dir: Path,
    encoder: Encoder,
    sets: Sequence[str] = tuple(SETS),
    splits: int = 10,
    tell: Callable[[str], None] = print,
) -> list[Heard]:
    found = []
    for name in sets:
        voices = SETS[name](speech_dir)
        for denoised in (False, True):
            found += _compared(name, denoised, _distances(_embeddings(name, voices, encoder, denoised), voices, splits))
            tell(f"   {name}: {'denoised' if denoised else 'as it is'}")
    return found


Line = tuple[str, int | None]  # noise and its level; (CLEAN, None) without
Embeddings = dict[Line, dict[str, list[Vectors | None]]]  # for each person and recording; None where nobody is heard
Distances = dict[Line, tuple[list[float], list[float]]]  # to the same person, to others


def _embeddings(name: str, voices: Voices, encoder: Encoder, denoised: bool) -> Embeddings:
    found: Embeddings = defaultdict(lambda: defaultdict(list))
    for person, recordings in voices.people.items():
        for n, voice in enumerate(recordings):
            for line, call in _calls(f"{name}/{person}/{n}", voice, voices.noises):
                found[line][person].append(_vector(call, encoder, denoised))
    return found


def _calls(name: str, voice: Samples, noises: Mapping[str, Noise]) -> Iterator[tuple[Line, Audio]]:
    """Place the same call without noise and with every noise, each the same at every level."""
    yield (CLEAN, None), called(voice)
    for kind, make in noises.items():
        noise = make(np.random.default_rng(zlib.crc32(f"{name}/{kind}".encode())), len(voice))
        for snr_db in SNRS_DB:
            yield (kind, snr_db), called(voice, noise, snr_db)


def _vector(call: Audio, encoder: Encoder, denoised: bool) -> Vectors | None:
    try:
        return embed(find_speech(call, ANYTHING, denoised=denoised).samples, encoder).vector
    except NotAssessable:
        return None


def _distances(embeddings: Embeddings, voices: Voices, splits: int) -> Distances:
    """Enrol everybody from some clean recordings, and compare all others with everybody, in each split anew."""
    found: Distances = {line: ([], []) for line in embeddings}
    clean = embeddings[CLEAN, None]
    for split in range(splits):
        random = np.random.default_rng(split)
        order = {person: random.permutation(len(recordings)) for person, recordings in voices.people.items()}
        enrolled = {
            person: unit(np.mean([clean[person][n] for n in order[person][: voices.enrolled]], axis=0, keepdims=True))
            for person in voices.people
        }
        everybody = np.concatenate(list(enrolled.values()))
        for line, (same, other) in found.items():
            for which, person in enumerate(voices.people):
                for n in order[person][voices.enrolled :]:
                    vector = embeddings[line][person][n]
                    if vector is not None:
                        distances = 1 - everybody @ vector
                        same.append(float(distances[which]))
                        other += np.delete(distances, which).tolist()
    return found


def _compared(voices: str, denoised: bool, distances: Distances) -> list[Heard]:
    limit = float(np.quantile(distances[CLEAN, None][0], 1 - FALSE_ALARMS))
    lines = dict(distances)
    for snr_db in SNRS_DB:
        of_level = [found for (_, level), found in distances.items() if level == snr_db]
        lines["all", snr_db] = ([d for same, _ in of_level for d in same], [d for _, other in of_level for d in other])
    return [
        Heard(
            voices=voices,
            noise=noise,
            snr_db=snr_db,
            denoised=denoised,
            same=len(same),
            other=len(other),
            equal_error_rate=equal_error_rate(same, other),
            flagged_share=float(np.mean(np.array(other) > np.quantile(same, 1 - FALSE_ALARMS))),
            alarmed_share=float(np.mean(np.array(same) > limit)),
            same_median=float(np.median(same)),
            other_median=float(np.median(other)),
        )
        for (noise, snr_db), (same, other) in lines.items()
    ]


def shown(found: Sequence[Heard]) -> str:
    lines = []
    for voices in dict.fromkeys(one.voices for one in found):
        of_set = {(one.noise, one.snr_db, one.denoised): one for one in found if one.voices == voices}
        levels: list[Line] = [(CLEAN, None), *(("all", snr_db) for snr_db in SNRS_DB)]
        lines.append(f"{voices}: pairs of one person and of two, then as it is | denoised")
        lines.append(
            " noise           same   other     equal error   others flagged   alarms at the        median same    other"
            "\n                                                 at 1 % alarms     clean limit"
        )
        for line in levels:
            plain, denoised = of_set[*line, False], of_set[*line, True]
            name = CLEAN if line == (CLEAN, None) else f"{line[1]} dB"
            lines.append(
                f" {name:<12} {plain.same:>7} {plain.other:>7} {plain.equal_error_rate:>8.2%} | "
                f"{denoised.equal_error_rate:<6.2%} {plain.flagged_share:>7.1%} | {denoised.flagged_share:<6.1%} "
                f"{plain.alarmed_share:>7.1%} | {denoised.alarmed_share:<6.1%} {plain.same_median:>7.3f} | "
                f"{denoised.same_median:.3f} {plain.other_median:>7.3f} | {denoised.other_median:.3f}"
            )
        levels_db = ", ".join(f"{snr_db} dB" for snr_db in SNRS_DB)
        lines.append(f" equal error by noise, at {levels_db}: as it is | denoised")
        for noise in dict.fromkeys(one.noise for one in found if one.voices == voices):
            if noise not in (CLEAN, "all"):
                rates = [
                    "  ".join(f"{of_set[noise, snr_db, denoised].equal_error_rate:>6.2%}" for snr_db in SNRS_DB)
                    for denoised in (False, True)
                ]
                lines.append(f" {noise:<12} {' | '.join(rates)}")
    return "\n".join(lines)


def as_json(found: Sequence[Heard]) -> list[dict[str, Any]]:
    return [asdict(one) for one in found]


def failures(found: Sequence[Heard]) -> list[str]:
    """Name where denoising makes clean calls worse, or noisy ones not better."""
    wrong = []
    by = {(one.voices, one.noise, one.snr_db, one.denoised): one for one in found}
    levels: list[Line] = [(CLEAN, None), *(("all", snr_db) for snr_db in SNRS_DB)]
    for voices in dict.fromkeys(one.voices for one in found):
        for noise, snr_db in levels:
            plain, denoised = by[voices, noise, snr_db, False], by[voices, noise, snr_db, True]
            tolerated = CLEAN_TOLERANCE if snr_db is None else 0
            if denoised.equal_error_rate > plain.equal_error_rate + tolerated:
                wrong.append(
                    f"{voices}, {CLEAN if snr_db is None else f'{snr_db} dB'}: "
                    f"{plain.equal_error_rate:.2%} errors as it is, {denoised.equal_error_rate:.2%} denoised"
                )
    return wrong
