"""How somebody speaks, in five numbers that explain a score and never enter it.

They are measured in the recording's own speech, before noise is removed, and below 4 kHz whatever the rate, so that a
call at 8 kHz and one at 16 kHz agree. Each is None where the line, or too little speech, does not allow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from retrocare.audio.decode import Piece

WINDOW_SECONDS, HOP_SECONDS, TRANSFORMED_SECONDS = 0.04, 0.01, 0.064
ANALYSED_HZ = 4_000  # what telephones leave
LOW_BAND_HZ, HIGH_BAND_HZ, SYLLABLE_BAND_HZ = (300, 1_000), (1_000, 3_400), (300, 2_500)
SILENCE = 1e-20  # power
LOUD = 95  # percentile of the level that stands for the loudest: bangs are rare

LOWEST_HZ, HIGHEST_HZ = 60.0, 400.0  # of a pitch
REFERENCE_HZ = 100.0  # where semitones are counted from
VOICED_ABOVE = 0.45
VOICED_WITHIN_DB = 25.0  # of the loudest
OCTAVE_COST = 0.02  # an octave below correlates as well: of two that are nearly equal, the higher
LARGEST_STEP, SHORTEST_RUN = 1.5, 4  # semitones from frame to frame, frames
FURTHEST_FROM_MEDIAN = 9.0  # semitones: beyond is a harmonic, where the telephone has taken the fundamental

SMOOTHED_FRAMES = 7
PROMINENCE_DB = 2.0  # of a syllable's nucleus over the dips around it
NUCLEI_WITHIN_DB = 15.0  # of the loudest
LONGEST_PAUSE_SECONDS = 2.0  # after that somebody else has the word

LEAST_SECONDS = 2.0  # of speech, or of voiced speech
PITCH_SNR_DB, TILT_SNR_DB, SYLLABLE_SNR_DB, SPREAD_SNR_DB, PAUSE_SNR_DB = 10.0, 10.0, 15.0, 20.0, 20.0
UNKNOWN_SNR_DB = 15.0  # is taken for this: where pauses are silenced, or few, noise in the speech is not known

Spectra = npt.NDArray[np.float32]  # (frames, bands): power


@dataclass(frozen=True)
class Features:
    """Hold the measures of one recording; None is one that it does not allow."""

    pitch: float | None = None  # median, in semitones above 100 Hz
    pitch_spread: float | None = None  # from the 10th to the 90th percentile, in semitones
    syllable_rate: float | None = None  # nuclei per second of speech
    pause_share: float | None = None  # of the time in which the patient has the word
    tilt: float | None = None  # power at 1 to 3.4 kHz over that at 0.3 to 1 kHz, in dB


def measure_features(spoken: Sequence[Piece], sample_rate: int, snr_db: float | None) -> Features:
    """Measure how somebody speaks in these stretches of speech, given in their order.

    Source: P. Boersma, Accurate short-term analysis of the fundamental frequency, 1993, for the pitch; N. de Jong and
    T. Wempe, Praat script to detect syllable nuclei and measure speech rate automatically, 2009, for the syllables.
    """
    snr_db = UNKNOWN_SNR_DB if snr_db is None else snr_db
    speech_seconds = sum(len(one.samples) for one in spoken) / sample_rate
    if speech_seconds < LEAST_SECONDS or snr_db < min(PITCH_SNR_DB, TILT_SNR_DB):
        return Features()
    spectra = [_spectra(one.samples, sample_rate) for one in spoken]
    together = np.concatenate(spectra)
    pitches = _pitches(together)
    is_voiced = len(pitches) * HOP_SECONDS >= LEAST_SECONDS
    return Features(
        pitch=float(np.median(pitches)) if is_voiced and snr_db >= PITCH_SNR_DB else None,
        pitch_spread=_spread(pitches) if is_voiced and snr_db >= SPREAD_SNR_DB else None,
        syllable_rate=_count_nuclei(spectra) / speech_seconds if snr_db >= SYLLABLE_SNR_DB else None,
        pause_share=_pause_share(spoken, sample_rate) if snr_db >= PAUSE_SNR_DB else None,
        tilt=_tilt_db(together) if snr_db >= TILT_SNR_DB else None,
    )


def _spectra(samples: npt.NDArray[np.float32], sample_rate: int) -> Spectra:
    """Return the power of every frame up to ANALYSED_HZ, with room to turn it into an autocorrelation."""
    size, hop = round(WINDOW_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)
    transformed = round(TRANSFORMED_SECONDS * sample_rate)
    bands = round(TRANSFORMED_SECONDS * ANALYSED_HZ) + 1
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]
    frames = (frames - frames.mean(axis=1, keepdims=True)) * np.hanning(size + 1)[:-1].astype(np.float32)
    spectra = np.fft.rfft(frames, transformed)[:, :bands]
    return np.square(spectra.real) + np.square(spectra.imag)


def _band(spectra: Spectra, band_hz: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the power of each frame within a band."""
    first, last = (round(TRANSFORMED_SECONDS * hz) for hz in band_hz)
    power: npt.NDArray[np.float64] = spectra[:, first:last].sum(axis=1, dtype=np.float64)
    return power


def _pitches(spectra: Spectra) -> npt.NDArray[np.float64]:
    """Return the pitch of every voiced frame, in semitones.

    The autocorrelation of a frame falls with the lag as that of its window does, so it is divided by it. A frame is
    voiced where it correlates, is not much fainter than the loudest, and its neighbours have nearly its pitch: noise
    correlates as well, but never twice at the same lag.
    """
    rate = 4 * ANALYSED_HZ  # fine enough that no peak falls between two lags
    window = np.hanning(round(WINDOW_SECONDS * rate) + 1)[:-1]
    of_window = np.correlate(window, window, "full")[len(window) - 1 :]
    lags = np.arange(int(rate / HIGHEST_HZ) - 1, int(rate / LOWEST_HZ) + 2)
    correlation = np.fft.irfft(spectra, round(TRANSFORMED_SECONDS * rate))
    power = np.maximum(correlation[:, :1], SILENCE)
    level = 10 * np.log10(power[:, 0])
    correlation = correlation[:, lags] / power / (of_window[lags] / of_window[0])
    before, here, after = correlation[:, :-2], correlation[:, 1:-1], correlation[:, 2:]
    is_peak = (here > before) & (here >= after) & (here > VOICED_ABOVE)
    at = np.where(is_peak, here - OCTAVE_COST * np.log2(lags[1:-1]), -np.inf).argmax(axis=1)[:, np.newaxis]
    left, peak, right = (np.take_along_axis(side, at, axis=1)[:, 0] for side in (before, here, after))
    is_voiced = is_peak.any(axis=1) & (level > np.percentile(level, LOUD) - VOICED_WITHIN_DB)
    bend = np.where(is_voiced, left - 2 * peak + right, -1)
    period = lags[1:-1][at[:, 0]] + 0.5 * np.where(is_voiced, left - right, 0) / bend  # where a parabola peaks
    pitches = np.where(is_voiced, 12 * np.log2(rate / period / REFERENCE_HZ), np.nan)
    breaks = np.flatnonzero(~(np.abs(np.diff(pitches)) < LARGEST_STEP))
    runs = [run for run in np.split(pitches, breaks + 1) if len(run) >= SHORTEST_RUN]
    if not runs:
        return np.zeros(0)
    found: npt.NDArray[np.float64] = np.concatenate(runs)
    return found[np.abs(found - np.median(found)) < FURTHEST_FROM_MEDIAN]


def _spread(pitches: npt.NDArray[np.float64]) -> float:
    low, high = np.percentile(pitches, (10, 90))
    return float(high - low)


def _tilt_db(spectra: Spectra) -> float:
    low, high = (max(float(_band(spectra, band).sum()), SILENCE) for band in (LOW_BAND_HZ, HIGH_BAND_HZ))
    return 10 * float(np.log10(high / low))


def _count_nuclei(spectra: Sequence[Spectra]) -> int:
    """Count the peaks of the level that are prominent, and not much fainter than the loudest."""
    levels = [_level_db(one) for one in spectra]
    faintest = float(np.percentile(np.concatenate(levels), LOUD)) - NUCLEI_WITHIN_DB
    return sum(_count_peaks(level.tolist(), faintest) for level in levels)


def _level_db(spectra: Spectra) -> npt.NDArray[np.float64]:
    weights = np.hanning(SMOOTHED_FRAMES + 2)[1:-1]
    power = np.convolve(_band(spectra, SYLLABLE_BAND_HZ), weights / weights.sum(), "same")
    return 10 * np.log10(np.maximum(power, SILENCE))


def _count_peaks(level: Sequence[float], faintest: float) -> int:
    """Count how often a level rises by the prominence and falls by it again; it begins and ends in a dip."""
    count, dip, peak = 0, -np.inf, -np.inf
    for now in (*level, -np.inf):
        if now > peak:
            peak = now
        elif now < peak - PROMINENCE_DB:
            if peak > max(faintest, dip + PROMINENCE_DB):
                count += 1
            dip = peak = now
    return count


def _pause_share(spoken: Sequence[Piece], sample_rate: int) -> float:
    """Return the share of pauses, which lie between two stretches; where another has the word is no pause."""
    gaps = [later.start - (one.start + len(one.samples)) for one, later in pairwise(spoken)]
    pauses = sum(gap for gap in gaps if gap <= LONGEST_PAUSE_SECONDS * sample_rate)
    return pauses / (pauses + sum(len(one.samples) for one in spoken))
