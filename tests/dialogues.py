"""Telephone calls put together from the speech of two people, and what a provider tells of who spoke when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from hostile import written

RATE = 8_000

Voice = npt.NDArray[np.float32]  # (n,), of one person, 8 kHz, root mean square 1
Times = tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class Dialogue:
    """A stereo call of two channels in either order."""

    stereo: npt.NDArray[np.float32]  # (n, 2)
    side: Literal["left", "right"]  # the patient's
    told: Times  # when the patient spoke, as the provider has it: late, early, and not all of it
    agent_told: Times  # the same of the agent
    seconds: float

    @property
    def recording(self) -> bytes:
        return written(self.stereo, RATE)


def voices(speech_dir: Path) -> list[Voice]:
    """Read all that each person of LibriSpeech says; of the cohort, who says something longer."""
    people = [sorted(folder.glob("*.flac")) for folder in sorted((speech_dir / "librispeech").iterdir())]
    people += [[file] for file in sorted((speech_dir / "cohort").glob("*.flac")) if soundfile.info(file).duration > 8]
    return [_read(files) for files in people if files]


def dialogues(people: list[Voice], count: int, seed: int, shortest: float, longest: float) -> Iterator[Dialogue]:
    random = np.random.default_rng(seed)
    made = 0
    while made < count:
        if found := _dialogue(random, people, random.uniform(shortest, longest)):
            made += 1
            yield found


def _read(files: list[Path]) -> Voice:
    spoken = [soxr.resample(*soundfile.read(file, dtype="float32"), RATE) for file in files]
    voice = np.concatenate(spoken)
    return voice / np.sqrt(np.mean(np.square(voice)))  # type: ignore[no-any-return]  # float32 divided by a float32


def _dialogue(random: np.random.Generator, people: list[Voice], seconds: float) -> Dialogue | None:
    """Let the agent and the patient talk in turn, the agent more; None where the provider tells of no turn."""
    clean = np.zeros((int(seconds * RATE), 2), np.float32)  # (n, [agent, patient])
    turns: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    speakers = random.choice(len(people), 2, replace=False)
    now, who = float(random.uniform(0.2, 2)), 0
    while True:
        short_answer = who == 1 and random.random() < 0.4
        wanted = (
            random.uniform(2, 10) if who == 0 else random.uniform(0.4, 1.5) if short_answer else random.uniform(1.5, 7)
        )
        spoken = _turn(random, people[speakers[who]], wanted)
        begin, end = int(now * RATE), int(now * RATE) + len(spoken)
        if end > len(clean):
            break
        clean[begin:end, who] += spoken
        turns[who].append((now, end / RATE))
        interrupts = who == 0 and random.random() < 0.25
        length = len(spoken) / RATE
        now += length + (-random.uniform(0.2, min(1.5, length / 2)) if interrupts else random.uniform(0.2, 1.5))
        who = 1 - who
    clean *= 10 ** (random.uniform(-30, -18, 2) / 20)
    heard = clean.copy()
    for here, there in ((0, 1), (1, 0)):
        delay = int(random.uniform(0, 0.12) * RATE)
        heard[delay:, here] += 10 ** (random.uniform(-30, -20) / 20) * clean[: len(clean) - delay, there]
        if random.random() < 0.9:  # else a line that is digitally silent
            heard[:, here] += 10 ** (random.uniform(-70, -45) / 20) * random.standard_normal(len(heard))
    told, agent_told = _told(random, turns[1]), _told(random, turns[0])
    if not told or not agent_told:
        return None
    is_left = random.random() < 0.5
    stereo = np.clip(heard[:, ::-1] if is_left else heard, -1, 1)
    return Dialogue(stereo, "left" if is_left else "right", told, agent_told, seconds)


def _turn(random: np.random.Generator, voice: Voice, seconds: float) -> Voice:
    count = min(int(seconds * RATE), len(voice))
    start = random.integers(0, len(voice) - count + 1)
    return voice[start : start + count]


def _told(random: np.random.Generator, turns: list[tuple[float, float]]) -> Times:
    """Tell of turns as a provider's messages do: begin and length up to 0.3 s wrong, and about one in seven missing."""
    found = []
    for start, end in turns:
        if random.random() < 0.15:
            continue
        begins = max(0.0, start + random.uniform(-0.3, 0.3))
        found.append((round(begins, 2), round(begins + max(0.1, end - start + random.uniform(-0.3, 0.3)), 2)))
    return tuple(found)
