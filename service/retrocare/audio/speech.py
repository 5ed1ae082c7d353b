"""Which samples are speech, and whether it is enough, and clean enough, to judge a voice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr

from retrocare.audio.decode import PIECE_SECONDS, Audio, Piece, Samples
from retrocare.audio.denoise import denoise
from retrocare.audio.features import Features, measure_features
from retrocare.audio.vad import Stretches, find_stretches
from retrocare.errors import NotAssessable

SPEECH_RATE = 16_000  # Hz, of what find_speech returns
KEPT_SECONDS = 15.0  # more speech than this makes no better voiceprint: `scripts/bench budget` prints the curve
VAD_LEVEL_DBFS = -23.0
PIECES_AT_ONCE = 8
FRAME_SECONDS = 0.03
FLOOR_PERCENTILE = 10
HIGHEST_SNR_DB = 60.0  # above it, the pauses are digital silence or nearly so
SNR_PAUSE_SECONDS = 0.3
GOLDEN_SHARE = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class RecordingLimits:
    """Hold what a policy demands of a recording."""

    minimum_speech_seconds: float
    minimum_snr_db: float
    maximum_clipped_share: float
    maximum_call_seconds: float


@dataclass(frozen=True, eq=False)
class Speech:
    """Hold the speech to encode (16 kHz, at most KEPT_SECONDS) and what was measured in the pieces that it is from."""

    samples: Samples
    speech_seconds: float
    snr_db: float | None
    clipped_share: float
    features: Features


@dataclass(frozen=True, eq=False)
class AnalysedPiece:
    """Hold a piece of the recording, and where somebody speaks in it."""

    piece: Piece
    stretches: Stretches

    @property
    def speech(self) -> list[Piece]:
        return [Piece(self.piece.start + start, self.piece.samples[start:end]) for start, end in self.stretches]


def find_speech(
    audio: Audio, limits: RecordingLimits, kept_seconds: float = KEPT_SECONDS, denoised: bool = False
) -> Speech:
    """Collect speech from pieces all over a recording until there is as much as is kept and as the limits demand.

    Only the samples are denoised, last of all: what is measured, and compared with the limits, is the recording.

    Raises: NotAssessable with no_speech, too_little_speech, too_noisy or clipped.
    """
    pieces = _find_pieces(audio, max(kept_seconds, limits.minimum_speech_seconds) * audio.sample_rate)
    speech = [stretch for one in pieces for stretch in one.speech]
    speech_seconds = sum(len(one.samples) for one in speech) / audio.sample_rate
    snr_db = _snr_db(pieces, audio.sample_rate)
    clipped_share = _clipped_share(pieces, audio)
    reason = (
        "no_speech"
        if not speech
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
    kept = _spread(np.concatenate([one.samples for one in speech]), kept_seconds, audio.sample_rate)
    if denoised:
        kept = denoise(kept, audio.sample_rate)
    if audio.sample_rate != SPEECH_RATE:
        kept = soxr.resample(kept, audio.sample_rate, SPEECH_RATE)
    features = measure_features(speech, audio.sample_rate, snr_db)
    return Speech(kept, speech_seconds, snr_db, clipped_share, features)


def _find_pieces(audio: Audio, wanted: float) -> list[AnalysedPiece]:
    """Look for speech in pieces spread over the call until enough is found; return those pieces in their order."""
    if not audio.loudness:
        return []
    gain = np.float32(10 ** (VAD_LEVEL_DBFS / 20) / audio.loudness)
    size = round(PIECE_SECONDS * audio.sample_rate)
    waiting = sorted(range(len(audio.pieces)), key=lambda n: n * GOLDEN_SHARE % 1)
    pieces: dict[int, AnalysedPiece] = {}
    found, share = 0, 1.0
    while waiting and found < wanted:
        count = int(min(PIECES_AT_ONCE, 1 + (wanted - found) / (share * size)))
        now, waiting = waiting[:count], waiting[count:]
        levelled = np.zeros((len(now), size), np.float32)
        for row, n in zip(levelled, now, strict=True):
            samples = audio.pieces[n].samples
            np.clip(samples * gain, -1, 1, out=row[: len(samples)])
        for n, stretches in zip(now, find_stretches(levelled, audio.sample_rate), strict=True):
            pieces[n] = AnalysedPiece(audio.pieces[n], stretches)
            found += sum(end - start for start, end in pieces[n].stretches)
        share = max(0.1, found / (len(pieces) * size))
    return [pieces[n] for n in sorted(pieces)]


def _snr_db(pieces: list[AnalysedPiece], sample_rate: int) -> float | None:
    """Estimate speech level over noise level, the noise being the quietest tenth of the 30 ms frames.

    None with less than 0.3 s of pauses, or above 60 dB. It errs upwards, since it measures noise at its quietest. With
    five real noises mixed into LibriSpeech, a true 0 / 5 / 10 / 15 / 20 dB reads 2 / 6 / 10.5 / 15 / 19 in the two
    steadiest, about 8 / 11 / 15 / 18 / 21 in one that swells, and 12 / 14 / 17 / 21 / 24 and 22 or more in two that
    come and go. Beyond 20 dB it reads the recording's own floor. ``pytest -s -k known_noise`` prints the table.
    """
    size = int(FRAME_SECONDS * sample_rate)
    powers, marks = [np.zeros(0)], [np.zeros(0, bool)]
    for one in pieces:
        frames = one.piece.samples[: len(one.piece.samples) // size * size].reshape(-1, size)
        powers.append(np.mean(np.square(frames, dtype=np.float64), axis=1))
        marks.append(np.zeros(len(frames), bool))
        for start, end in one.stretches:
            marks[-1][start // size : -(-end // size)] = True
    power, is_speech = np.concatenate(powers), np.concatenate(marks)
    sounding = power > 0
    if not (sounding & is_speech).any() or (sounding & ~is_speech).sum() * FRAME_SECONDS < SNR_PAUSE_SECONDS:
        return None
    floor = float(np.percentile(power[sounding], FLOOR_PERCENTILE))
    speech = float(power[is_speech].mean())
    snr_db = 10 * float(np.log10(max(speech - floor, floor * 1e-3) / floor))
    return snr_db if snr_db <= HIGHEST_SNR_DB else None


def _clipped_share(pieces: list[AnalysedPiece], audio: Audio) -> float:
    """Measure the share of the speech that stays flat at the recording's peak."""
    weights = np.zeros(len(audio.clipping))
    tenth = audio.sample_rate / 10
    for one in pieces:
        for start, end in one.stretches:
            first, last = one.piece.start + start, one.piece.start + end
            weights[int(first / tenth) : int(np.ceil(last / tenth))] = 1
    return float(np.average(audio.clipping, weights=weights)) if weights.any() else 0.0


def _spread(speech: Samples, kept_seconds: float, sample_rate: int) -> Samples:
    """Cut speech down to what is kept, as pieces spread evenly over it."""
    if len(speech) <= kept_seconds * sample_rate:
        return speech
    pieces = max(1, round(kept_seconds / PIECE_SECONDS))
    size = round(kept_seconds / pieces * sample_rate)
    starts = np.linspace(0, len(speech) - size, pieces).astype(int)
    return np.concatenate([speech[start : start + size] for start in starts])
