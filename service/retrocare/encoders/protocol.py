"""What an encoder is: windows of speech in, one unit vector for each out."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Windows = npt.NDArray[np.float32]  # (windows, samples of one window), 16 kHz, all of one length
Vectors = npt.NDArray[np.float32]  # (windows, dimension), each of length 1

SAMPLE_RATE = 16_000  # Hz, of the windows


class Encoder(Protocol):
    """Turn windows of speech into unit vectors; ``id`` names weights, front end and window together.

    Where ``denoises`` is true, noise is to be removed from the speech before it is cut into windows.
    """

    id: str
    dimension: int
    window_seconds: float
    denoises: bool

    def encode(self, windows: Windows) -> Vectors: ...
