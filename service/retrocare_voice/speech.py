"""Which samples are speech, and whether there is enough of it, clean enough, to judge a voice by."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from retrocare_voice.audio import Audio, Samples
from retrocare_voice.errors import NotAssessable

Stretches = list[tuple[int, int]]  # (first sample, one after the last)

SPEECH_RATE = 16_000  # of what find_speech returns
BUDGET_SECONDS = 30.0  # more speech than this makes no better voiceprint
PIECE_SECONDS = 5.0  # the budget is spent in pieces of this length
LISTENING_LEVEL_DBFS = -23.0
LISTENING_SECONDS = 60  # listened to at a time, so that memory does not follow the length of the call
FRAME_SECONDS = 0.03
FLOOR_PERCENTILE = 10
HIGHEST_SNR_DB = 60.0  # above it the pauses were made by a machine
LEAST_PAUSE_SECONDS = 0.3

_listening = threading.Lock()  # silero's network keeps state between calls


@dataclass(frozen=True)
class Limits:
    """Hold what a policy row asks of a recording."""

    minimum_speech_seconds: float
    minimum_snr_db: float
    maximum_clipped_share: float
    maximum_call_seconds: float


@dataclass(frozen=True, eq=False)
class Speech:
    """Hold the speech to encode (16 kHz, at most the budget) and what was measured over the whole call."""

    samples: Samples
    speech_seconds: float
    snr_db: float | None
    clipped_share: float


def find_speech(audio: Audio, limits: Limits) -> Speech:
    """Keep the speech of a recording.

    *Raises*: NotAssessable with no_speech, too_little_speech, too_noisy or clipped.
    """
    stretches = _listen(audio)
    speech_seconds = sum(end - start for start, end in stretches) / audio.sample_rate
    snr_db = _snr_db(audio, stretches)
    clipped_share = _clipped_share(audio, stretches)
    reason = (
        "no_speech"
        if not stretches
        else "too_little_speech"
        if speech_seconds < limits.minimum_speech_seconds
        else "clipped"
        if clipped_share > limits.maximum_clipped_share
        else "too_noisy"
        if snr_db is not None and snr_db < limits.minimum_snr_db
        else None
    )
    if reason:
        raise NotAssessable(reason, speech_seconds=speech_seconds, snr_db=snr_db, clipped_share=clipped_share)
    kept = _spread(audio.samples, stretches, audio.sample_rate)
    if audio.sample_rate != SPEECH_RATE:
        kept = soxr.resample(kept, audio.sample_rate, SPEECH_RATE)
    return Speech(kept, speech_seconds, snr_db, clipped_share)


def _listen(audio: Audio) -> Stretches:
    """Find the stretches of speech, at the recording's own rate: upsampled telephone speech is hardly heard."""
    heard = audio.samples[audio.samples != 0]
    if not heard.size:
        return []
    gain = 10 ** (LISTENING_LEVEL_DBFS / 20) / float(np.sqrt(np.mean(np.square(heard, dtype=np.float64))))
    step = LISTENING_SECONDS * audio.sample_rate
    find, stretches = _silero(), []
    for offset in range(0, len(audio.samples), step):
        levelled = np.clip(audio.samples[offset : offset + step] * np.float32(gain), -1, 1)
        with _listening:
            stretches += [(offset + start, offset + end) for start, end in find(levelled, audio.sample_rate)]
    return stretches


@cache
def _silero() -> Callable[[Samples, int], Stretches]:
    import torch

    threads = torch.get_num_threads()
    import silero_vad

    torch.set_num_threads(threads)  # importing silero_vad sets it to one, for every network in the process
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch 2.13 deprecates TorchScript, silero's format
        network: Any = silero_vad.load_silero_vad(onnx=False)

    def find(levelled: Samples, sample_rate: int) -> Stretches:
        found = silero_vad.get_speech_timestamps(torch.from_numpy(levelled), network, sampling_rate=sample_rate)
        return [(stretch["start"], min(stretch["end"], len(levelled))) for stretch in found]

    return find


def _snr_db(audio: Audio, stretches: Stretches) -> float | None:
    """Estimate speech level over noise level, the noise being the quietest tenth of the 30 ms frames.

    Unknown (None) with less than 0.3 s of pauses, or above 60 dB. It errs upwards: it sees noise at its quietest. With
    five real noises mixed into LibriSpeech, a true 0 / 5 / 10 / 15 / 20 dB reads 2 / 6 / 10.5 / 15 / 19 in the two
    steadiest, about 8 / 11 / 15 / 18 / 21 in one that swells, and 12 / 14 / 17 / 21 / 24 and 22 or more in two that
    come and go. Beyond 20 dB it reads the recording's own floor. ``pytest -s -k known_noise`` prints the table.
    """
    size = int(FRAME_SECONDS * audio.sample_rate)
    frames = audio.samples[: len(audio.samples) // size * size].reshape(-1, size)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    is_speech = np.zeros(len(power), bool)
    for start, end in stretches:
        is_speech[start // size : -(-end // size)] = True
    sounding = power > 0
    if not (sounding & is_speech).any() or (sounding & ~is_speech).sum() * FRAME_SECONDS < LEAST_PAUSE_SECONDS:
        return None
    floor = float(np.percentile(power[sounding], FLOOR_PERCENTILE))
    speech = float(power[is_speech].mean())
    snr_db = 10 * float(np.log10(max(speech - floor, floor * 1e-3) / floor))
    return snr_db if snr_db <= HIGHEST_SNR_DB else None


def _clipped_share(audio: Audio, stretches: Stretches) -> float:
    """Measure the share of the speech that stays flat at the recording's peak."""
    weights = np.zeros(len(audio.clipping))
    tenth = audio.sample_rate / 10
    for start, end in stretches:
        weights[int(start / tenth) : int(np.ceil(end / tenth))] = 1
    return float(np.average(audio.clipping, weights=weights)) if weights.any() else 0.0


def _spread(samples: Samples, stretches: Stretches, sample_rate: int) -> Samples:
    """Join the speech; where there is more than the budget, take pieces spread evenly over it."""
    speech: npt.NDArray[np.float32] = np.concatenate([samples[start:end] for start, end in stretches])
    if len(speech) <= BUDGET_SECONDS * sample_rate:
        return speech
    size = int(PIECE_SECONDS * sample_rate)
    starts = np.linspace(0, len(speech) - size, int(BUDGET_SECONDS / PIECE_SECONDS)).astype(int)
    return np.concatenate([speech[start : start + size] for start in starts])
