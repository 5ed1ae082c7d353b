"""Noise is removed from speech before it is encoded: what is little louder than noise is weakened, band by band.

Noise on the line moves a voiceprint as another voice would. What is measured of a recording (its speech, its signal to
noise ratio, its clipping) is measured before.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from retrocare.audio.decode import Samples

FRAME_SECONDS = 0.032  # frames overlap by half
SMOOTHED_FRAMES, SMOOTHED_BANDS = 5, 3
NOISE_SECONDS = 1.5  # within so long, a voice leaves every band for a moment
OVER_MINIMUM = 2.0  # noise is about twice what its smoothed power falls to
OVERSUBTRACTION = 2.0  # twice the noise is taken away
LEAST_GAIN = 0.1  # -20 dB

Power = npt.NDArray[np.float64]  # (frames, bands)


def denoise(speech: Samples, sample_rate: int) -> Samples:
    """Weaken noise in speech by a Wiener filter; noise is what a band falls to within a second or so.

    It is looked for in the speech alone: pauses are few in some calls, and in others the telephone silences them.

    Source: P. Scalart and J. Vieira Filho, Speech enhancement based on a priori signal to noise estimation, 1996, for
    the filter; R. Martin, Noise power spectral density estimation based on optimal smoothing and minimum statistics,
    2001; M. Berouti et al., Enhancement of speech corrupted by acoustic noise, 1979, for taking more than the noise.
    """
    hop = round(FRAME_SECONDS / 2 * sample_rate)
    window = np.sin(np.pi / (2 * hop) * np.arange(2 * hop))  # its square and itself half a frame later add up to 1
    spectra = np.fft.rfft(_frames(speech, hop) * window)
    power = _smoothed(np.square(np.abs(spectra)))
    noise = OVER_MINIMUM * _minimum(power, round(NOISE_SECONDS / FRAME_SECONDS))
    noise_share = np.divide(OVERSUBTRACTION * noise, power, out=np.zeros_like(power), where=power > 0)
    spectra *= np.maximum(1 - noise_share, LEAST_GAIN)
    return _joined(np.fft.irfft(spectra) * window, hop, len(speech))


def _frames(samples: Samples, hop: int) -> npt.NDArray[np.floating]:
    """Cut into frames, each half over the one before; every sample is in two of them."""
    padded = np.pad(samples, (hop, -len(samples) % hop + hop)).reshape(-1, hop)
    return np.hstack([padded[:-1], padded[1:]])


def _joined(frames: npt.NDArray[np.floating], hop: int, count: int) -> Samples:
    """Add frames up again where they overlap."""
    added = frames[:-1, hop:] + frames[1:, :hop]
    return added.ravel()[:count].astype(np.float32)


def _smoothed(power: Power) -> Power:
    """Average over neighbouring frames and bands; the first and the last stand for those beyond."""
    for axis, width in ((0, SMOOTHED_FRAMES), (1, SMOOTHED_BANDS)):
        beyond = [(0, 0), (0, 0)]
        beyond[axis] = (width // 2, width // 2)
        padded, count = np.pad(power, beyond, mode="edge"), power.shape[axis]
        shifted = (np.moveaxis(padded, axis, 0)[n : n + count] for n in range(width))
        power = np.moveaxis(sum(shifted, np.zeros(1)) / width, 0, axis)
    return power


def _minimum(power: Power, reach: int) -> Power:
    """Return the least of each band among the frames up to ``reach`` before and after."""
    least = np.pad(power, ((reach, reach), (0, 0)), constant_values=np.inf)
    width = 1
    while width < 2 * reach + 1:
        step = min(width, 2 * reach + 1 - width)
        least = np.minimum(least[:-step], least[step:])
        width += step
    return least
