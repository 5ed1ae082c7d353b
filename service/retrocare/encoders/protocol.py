"""What an encoder is: windows of speech in, one unit vector for each out."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Windows = npt.NDArray[np.float32]  # (windows, samples of one window), 16 kHz, all of one length
Vectors = npt.NDArray[np.float32]  # (windows, dimension), each of length 1

SAMPLE_RATE = 16_000  # Hz, of the windows


class Encoder(Protocol):
    """Turn windows of speech into unit vectors; ``id`` names weights, front end and window together."""

    id: str
    dimension: int
    window_seconds: float

    def encode(self, windows: Windows) -> Vectors: ...


class TorchEncoder(Encoder, Protocol):
    """An encoder in torch, and its network: (1, samples) to (1, dimension), for any number of samples."""

    @property
    def network(self) -> Any: ...
