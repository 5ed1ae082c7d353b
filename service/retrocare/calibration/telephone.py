"""A recording is passed on as a telephone would: in its band, as mu-law at 8 kHz, with noise at a chosen level.

The level of noise is relative to the speech without its pauses. Noises are generated, or are recordings of noise.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from retrocare.audio.decode import Audio, Samples, decode
from retrocare.audio.speech import RecordingLimits, find_speech
from retrocare.errors import NotAssessable

RATE = 8_000
MIDDLE_HERTZ = 1000
LEVEL = 0.05  # root mean square of speech on the line
BABBLING = 6  # voices
LONGEST_SECONDS = 3600.0
ANYTHING = RecordingLimits(0, -100, 1, LONGEST_SECONDS)

Noise = Callable[[np.random.Generator, int], Samples]  # so many samples of it, at 8 kHz if it is generated


def at_rate(recording: bytes, rate: int) -> Samples:
    """Read a recording of one voice at another sampling rate. Raises: NotAssessable."""
    audio = decode(recording, None, LONGEST_SECONDS)
    samples = audio.samples
    return samples if audio.sample_rate == rate else soxr.resample(samples, audio.sample_rate, rate)


@dataclass(frozen=True)
class Telephone:
    """Hold what a telephone passes on: a band, in which the level rises or falls with frequency."""

    lowest_hertz: float = 300
    highest_hertz: float = 3400
    tilt_db: float = 0  # an octave

    def pass_on(self, samples: npt.NDArray[np.floating]) -> Samples:
        """Take away all that is outside the band, and tilt the rest."""
        spectrum = np.fft.rfft(samples)
        hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
        spectrum *= 10 ** (self.tilt_db * np.log2(np.maximum(hertz, 1) / MIDDLE_HERTZ) / 20)
        spectrum[(hertz < self.lowest_hertz) | (hertz > self.highest_hertz)] = 0
        return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


STANDARD = Telephone()


def any_telephone(random: np.random.Generator) -> Telephone:
    """Choose a telephone: those of today pass on more or less than the standard, and none is like another."""
    return Telephone(random.uniform(50, 400), random.uniform(3000, 4000), random.uniform(-3, 3))


def called(voice: Samples, noise: Samples | None = None, snr_db: float = 0, telephone: Telephone = STANDARD) -> Audio:
    """Place a call: a voice, with as much noise as asked for, coded as mu-law and decoded as the service does.

    Raises: NotAssessable where nobody is heard in the voice.
    """
    voice = telephone.pass_on(voice)
    voice = voice * np.float32(LEVEL / speech_level(voice, RATE))
    if noise is not None:
        voice = voice + at_level(telephone.pass_on(noise), LEVEL, snr_db)
    voice = voice * np.float32(min(1, 0.9 / np.abs(voice).max()))
    return decode(written(voice, RATE, "ULAW"), None, LONGEST_SECONDS)


def at_level(noise: Samples, level: float, snr_db: float) -> Samples:
    """Scale noise to a ratio below the level (root mean square) of speech."""
    scaled: Samples = noise * np.float32(level * 10 ** (-snr_db / 20) / max(1e-6, _loudness(noise)))
    return scaled


def speech_level(voice: Samples, rate: int) -> float:
    """Measure the root mean square of a voice without its pauses. Raises: NotAssessable where nobody is heard."""
    peak = float(np.abs(voice).max(initial=0))
    if peak == 0:
        raise NotAssessable("no_speech")
    audio = decode(written(voice / np.float32(peak), rate, "FLOAT"), None, LONGEST_SECONDS)
    speech = find_speech(audio, ANYTHING, np.inf).samples
    return _loudness(speech) * peak


def _loudness(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


def written(voice: Samples, rate: int, subtype: str) -> bytes:
    """Return a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, voice, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def coloured(slope: float) -> Noise:
    """Make noise whose power falls with frequency as f ** -slope: 0 is white, 1 pink, 2 brown."""

    def make(random: np.random.Generator, count: int) -> Samples:
        spectrum = np.fft.rfft(random.normal(size=count))
        hertz = np.maximum(np.fft.rfftfreq(count, 1 / RATE), 20)
        return np.fft.irfft(spectrum * hertz ** (-slope / 2), count).astype(np.float32)

    return make


def hum(random: np.random.Generator, count: int) -> Samples:
    """Make the hum of the mains, with all its harmonics, and a little hiss."""
    times = np.arange(count) / RATE
    waves = sum(np.sin(2 * np.pi * 50 * n * times + random.uniform(0, 2 * np.pi)) / n for n in range(1, 60))
    return (waves + 0.1 * random.normal(size=count)).astype(np.float32)


def street(random: np.random.Generator, count: int) -> Samples:
    """Make traffic: a rumble on which cars, in about a second each, come and go 15 dB louder."""
    seconds = count / RATE
    times = np.arange(count) / RATE
    rumble, tyres = coloured(1.5)(random, count), coloured(0.7)(random, count)
    level = np.zeros(count)
    for _ in range(1 + int(seconds / 3)):
        level += np.exp(-(((times - random.uniform(0, seconds)) / random.uniform(0.4, 1.5)) ** 2))
    together: Samples = (rumble / rumble.std() + 10 ** (15 / 20) * level * tyres / tyres.std()).astype(np.float32)
    return together


def recorded(samples: Samples) -> Noise:
    """Take a stretch from a recording of noise, as often in a row as is needed."""

    def make(random: np.random.Generator, count: int) -> Samples:
        begun: Samples = np.resize(np.roll(samples, -int(random.integers(len(samples)))), count)
        return begun

    return make


def babble(voices: Sequence[Samples]) -> Noise:
    """Let six people at once talk in the background, each as loud as the other."""

    def make(random: np.random.Generator, count: int) -> Samples:
        chosen = [voices[n] for n in random.permutation(len(voices))[:BABBLING]]
        moved = [np.roll(np.resize(one / one.std(), count), random.integers(count)) for one in chosen]
        together: Samples = np.sum(moved, axis=0, dtype=np.float32)
        return together

    return make
