"""The power spectrum by a convolution with sines and cosines, which every engine has, and the mel scale of Slaney."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def fourier_waves(window: Floats) -> Floats:
    """Return the cosines, then the sines, of a frame's Fourier transform, under a window.

    Shapes: (frame,) becomes (2 * (frame // 2 + 1), frame). The power at frequency k is the sum of the squares of a
    frame's products with rows k and k + frame // 2 + 1.
    """
    frame = len(window)
    angles = 2 * np.pi / frame * np.outer(np.arange(frame // 2 + 1), np.arange(frame))
    waves: Floats = np.concatenate([np.cos(angles), np.sin(angles)]) * window
    return waves


def mel_bands(sample_rate: int, frame: int, bands: int) -> Floats:
    """Return triangles of equal area, evenly spaced on Slaney's mel scale: (bands, frame // 2 + 1).

    The scale is linear to 1 kHz, 200/3 Hz a mel, and logarithmic above: 27 mels from 1 kHz to 6.4 kHz.

    Source: M. Slaney, Auditory Toolbox, 1998; the same as librosa.filters.mel.
    """
    step = np.log(6.4) / 27
    top = 15 + np.log(sample_rate / 2 / 1000) / step
    mels = np.linspace(0, top, bands + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * step))
    frequencies = np.arange(frame // 2 + 1) * sample_rate / frame
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - lower) / (centre - lower), (upper - frequencies) / (upper - centre)
    triangles: Floats = np.maximum(0, np.minimum(rising, falling)) * 2 / (upper - lower)
    return triangles
