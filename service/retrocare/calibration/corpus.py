"""Folders of recordings, a folder a person, and what the service hears in each recording."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from retrocare.audio.decode import Audio, Samples
from retrocare.audio.speech import RecordingLimits, find_speech
from retrocare.calibration import telephone
from retrocare.calibration.telephone import Noise
from retrocare.encoders.embedding import cut, mean_voice
from retrocare.encoders.protocol import Encoder, Vectors
from retrocare.errors import BadRequest, NotAssessable

TEXTS = {".csv", ".html", ".json", ".md", ".pdf", ".tsv", ".txt"}  # what lies beside recordings
STANDARD, OWN, ANY = "standard", "own", "any"  # telephones: one for all, one a person, another for each call
MOST_RECORDINGS = 20  # of one person that are read
HEARD = RecordingLimits(2, -100, 1, telephone.LONGEST_SECONDS)  # what a calibration listens to, however noisy

People = Mapping[str, Sequence[Path]]  # the recordings of each


def people_of(folder: Path) -> People:
    """List the people of a folder: a folder in it is one with all recordings below, a file one who said one thing.

    Raises: BadRequest where there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise BadRequest(f"There is no folder {folder}", "Name a folder with a folder a person.", "no_folder")
    found: dict[str, Sequence[Path]] = {}
    for entry in _listed(folder):
        if entry.is_dir():
            files = [file for file in sorted(entry.rglob("*")) if file.is_file() and _is_recording(file)]
            if files:
                found[entry.name] = files
        elif _is_recording(entry):
            found[entry.stem] = [entry]
    if not found:
        raise BadRequest(
            f"There are no recordings in {folder}", "Name a folder with a folder a person.", "no_recordings"
        )
    return found


def _listed(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _is_recording(file: Path) -> bool:
    return not file.name.startswith(".") and file.suffix.lower() not in TEXTS


@dataclass(frozen=True)
class Line:
    """Hold over which line a call is placed: with which noise, at which ratio; as recorded where both are None."""

    noise: str | None = None
    snr_db: int | None = None


AS_RECORDED = Line()


@dataclass(frozen=True, eq=False)
class Call:
    """Hold what the service hears of one recording over one line: the vectors of its windows, (windows, dimension)."""

    person: str
    recording: str
    line: Line
    windows: Vectors
    speech_seconds: float
    snr_db: float | None  # as measured, as a judgement sees it
    telephone: str = STANDARD

    def vector(self, windows: slice = slice(None)) -> npt.NDArray[np.float32]:
        """Return the voice in some of the windows."""
        return mean_voice(self.windows[windows]).vector


@dataclass(frozen=True, eq=False)
class Corpus:
    """Hold the calls of the people of one folder, and how many recordings could not be used, by reason."""

    name: str
    calls: Sequence[Call]
    refused: Counter[str] = field(default_factory=Counter)


def hear(audio: Audio, encoder: Encoder, limits: RecordingLimits) -> tuple[Vectors, float, float | None]:
    """Return the vectors of the windows of a recording's speech, how many seconds of it there are, and its SNR.

    Raises: NotAssessable.
    """
    speech = find_speech(audio, limits, denoised=encoder.denoises)
    windows = encoder.encode(cut(speech.samples, encoder.window_seconds))
    return windows, speech.speech_seconds, speech.snr_db


def seed(*names: object) -> np.random.Generator:
    """Return random numbers that are always the same for the same names."""
    return np.random.default_rng(zlib.crc32("/".join(map(str, names)).encode()))


@dataclass(frozen=True)
class Mixing:
    """Say which noises are mixed into recordings, how many of them at each level, and at which levels."""

    noises: Mapping[str, Noise]
    levels_db: Sequence[int]
    noises_at_a_level: int

    def lines(self, random: np.random.Generator) -> Iterator[Line]:
        """Choose the lines of one recording: as recorded, and some noises at every level."""
        yield AS_RECORDED
        names = list(self.noises)
        for level in self.levels_db:
            for n in random.permutation(len(names))[: self.noises_at_a_level]:
                yield Line(names[n], level)


def noises_of(folder: Path | None, voices: Sequence[Samples]) -> dict[str, Noise]:
    """Return the generated noises, and those that a folder holds recordings of. Raises: BadRequest."""
    found: dict[str, Noise] = {
        "white": telephone.coloured(0),
        "pink": telephone.coloured(1),
        "brown": telephone.coloured(2),
        "street": telephone.street,
        "hum": telephone.hum,
    }
    if voices:
        found["babble"] = telephone.babble(voices)
    return found | recorded_noises(folder) if folder else found


def recorded_noises(folder: Path, rate: int = telephone.RATE) -> dict[str, Noise]:
    """Read recordings of noise at a sampling rate. Raises: BadRequest where there are none."""
    if not folder.is_dir():
        raise BadRequest(f"There is no folder {folder}", "Name a folder with recordings of noise.", "no_folder")
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and _is_recording(file):
            with suppress(NotAssessable):  # what is no recording of one channel is no noise of ours
                found[file.stem] = telephone.recorded(telephone.at_rate(file.read_bytes(), rate))
    if not found:
        raise BadRequest(
            f"There are no recordings in {folder}", "Name a folder with recordings of noise.", "no_recordings"
        )
    return found


def telephone_calls(
    name: str,
    people: People,
    encoder: Encoder,
    mixing: Mixing,
    telephones: Sequence[str],
    speeds: Sequence[float] = (1.0,),
    done: Callable[[], object] = lambda: None,
) -> Corpus:
    """Let everybody say each recording over telephones, as recorded and with noise; ``done`` is called after each.

    At another speed everybody is somebody else: pitch and timbre move with it. A recording that cannot be used is
    counted.
    """
    calls: list[Call] = []
    refused: Counter[str] = Counter()
    for person, files in people.items():
        for n, file in enumerate(files[:MOST_RECORDINGS], 1):
            try:
                voice = telephone.at_rate(file.read_bytes(), telephone.RATE)
                for speed in speeds:
                    played = voice if speed == 1 else soxr.resample(voice, telephone.RATE * speed, telephone.RATE)
                    speaker = f"{name}/{person}" + ("" if speed == 1 else f" at {speed:g}")
                    for used in telephones:
                        recording = f"{name}/{person}/{n} {file.name}"
                        calls += _over_lines(speaker, recording, played, encoder, mixing, used)
            except NotAssessable as reason:
                refused[reason.reason] += 1
            done()
    return Corpus(name, calls, refused)


def _over_lines(
    person: str, recording: str, voice: Samples, encoder: Encoder, mixing: Mixing, used: str
) -> Iterator[Call]:
    for line in mixing.lines(seed(person, recording, used)):
        random = seed(recording, line.noise)  # the same noise at every level
        noise = mixing.noises[line.noise](random, len(voice)) if line.noise is not None else None
        if used == STANDARD:
            passing = telephone.STANDARD
        else:
            passing = telephone.any_telephone(seed(person) if used == OWN else seed(person, recording, line))
        try:
            audio = telephone.called(voice, noise, line.snr_db or 0, passing)
            windows, seconds, snr_db = hear(audio, encoder, HEARD)
        except NotAssessable:
            if line == AS_RECORDED:
                raise
            continue  # too loud a noise to hear anybody
        yield Call(person, recording, line, windows, seconds, snr_db, used)


@dataclass(frozen=True, eq=False)
class Heard:
    """Hold whole calls in arrays of one length, as a judgement sees them; a person's calls follow each other."""

    vectors: npt.NDArray[np.float32]  # (calls, dimension)
    person: npt.NDArray[np.str_]
    recording: npt.NDArray[np.str_]
    speech_seconds: npt.NDArray[np.float64]
    snr_db: npt.NDArray[np.float64]  # NaN where it is unknown

    def where(self, mask: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Heard:
        return Heard(**{one.name: getattr(self, one.name)[mask] for one in fields(self)})


def heard_of(calls: Sequence[Call], dimension: int) -> Heard:
    return Heard(
        vectors=np.array([call.vector() for call in calls], np.float32).reshape(-1, dimension),
        person=np.array([call.person for call in calls], str),
        recording=np.array([call.recording for call in calls], str),
        speech_seconds=np.array([call.speech_seconds for call in calls], np.float64),
        snr_db=np.array([np.nan if call.snr_db is None else call.snr_db for call in calls], np.float64),
    )
