"""Windows of speech become one vector, with whichever encoder is at hand.

To add an encoder, write a module with a class that follows ``Encoder`` and name its loader in ``ENCODERS``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from retrocare_voice.audio import Samples
from retrocare_voice.errors import ConfigurationError

Windows = npt.NDArray[np.float32]  # (windows, samples of one window), 16 kHz, all of one length
Vectors = npt.NDArray[np.float32]  # (windows, dimension), each of length 1

SAMPLE_RATE = 16_000
FETCH_SECONDS = 20.0  # how long `auto` waits for weights to come over the network
NAMED_FETCH_SECONDS = 900.0  # how long it may take where ECAPA was asked for by name


class Encoder(Protocol):
    """Turn windows of speech into unit vectors; ``id`` names weights, front end and window together."""

    id: str
    dimension: int
    window_seconds: float

    def encode(self, windows: Windows) -> Vectors: ...


@dataclass(frozen=True, eq=False)
class Embedding:
    """Hold a voice as one unit vector; agreement is the mean cosine of the windows to it, 1 where all agree."""

    vector: npt.NDArray[np.float32]  # (dimension,)
    windows: int
    agreement: float


@dataclass(frozen=True)
class EncoderChoice:
    """Hold the encoder in use and the sentence that says why it is this one."""

    encoder: Encoder
    why: str


def embed(samples: Samples, encoder: Encoder) -> Embedding:
    """Encode speech at 16 kHz: the mean of windows that leave no sample out.

    *Raises*: RuntimeError where the network gives what is no direction (zero, infinite, not a number).
    """
    vectors = encoder.encode(cut(samples, encoder.window_seconds)).astype(np.float64)
    mean = unit(vectors.mean(axis=0, keepdims=True))[0]
    return Embedding(mean, len(vectors), float((vectors @ mean).mean()))


def cut(samples: Samples, window_seconds: float) -> Windows:
    """Cut speech into as many windows as cover every sample, evenly spaced, the last one ending at the end.

    Speech that is shorter than a window is one window, as it is.
    """
    size = round(window_seconds * SAMPLE_RATE)
    starts = np.linspace(0, len(samples) - size, -(-len(samples) // size)).round().astype(int)
    return np.stack([samples[start : start + size] for start in starts])


def unit(vectors: npt.NDArray[np.floating]) -> Vectors:
    """Scale each vector to length 1.

    *Raises*: RuntimeError where one has no direction.
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 1e-9)).all():
        raise RuntimeError("the encoder gave a vector without a direction")
    directions: Vectors = (vectors / lengths).astype(np.float32)
    return directions


def load_encoder(
    name: str,
    *,
    model_dir: Path,
    ecapa_dir: Path | None,
    active: str | None = None,
    fetch_seconds: float = FETCH_SECONDS,
) -> EncoderChoice:
    """Load an encoder and run it once.

    ``auto`` takes ECAPA where its weights are at hand or come in time, else GE2E; where the database already uses an
    encoder (``active``) it takes that family and no other, since vectors of two encoders cannot be compared.

    *Raises*: ConfigurationError where the encoder is not known, or is named (by ``name``, ``active`` or a folder of
    weights) and not at hand.
    """
    wanted: str | None = None
    if name != "auto":
        wanted, why = name, "it was asked for by name"
    elif active:
        wanted, why = active.partition("-")[0], f"the database already uses {active}"
    elif ecapa_dir:
        wanted, why = "ecapa", f"its weights are named: {ecapa_dir}"
    if wanted is not None:
        encoder = _load(wanted, model_dir, ecapa_dir, NAMED_FETCH_SECONDS)
    else:
        try:
            encoder, why = _load("ecapa", model_dir, None, fetch_seconds), "its weights are at hand"
        except ConfigurationError as absent:
            encoder, why = _load("ge2e", model_dir, None, fetch_seconds), f"ECAPA is not at hand: {absent}"
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    embed(np.random.default_rng(0).normal(0, 0.05, SAMPLE_RATE).astype(np.float32), encoder)
    return EncoderChoice(encoder, f"the encoder is {encoder.id}, because {why}")


def _load(name: str, model_dir: Path, ecapa_dir: Path | None, fetch_seconds: float) -> Encoder:
    if name not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise ConfigurationError(f"no encoder is called {name!r}", hint=f"RETROCARE_ENCODER is one of auto, {known}")
    return ENCODERS[name](model_dir, ecapa_dir, fetch_seconds)


def _load_ecapa(model_dir: Path, ecapa_dir: Path | None, fetch_seconds: float) -> Encoder:
    from retrocare_voice import ecapa

    return ecapa.Ecapa(ecapa_dir or ecapa.fetch(model_dir, fetch_seconds))


def _load_ge2e(model_dir: Path, ecapa_dir: Path | None, fetch_seconds: float) -> Encoder:
    from retrocare_voice import ge2e

    return ge2e.Ge2e()


ENCODERS: Mapping[str, Callable[[Path, Path | None, float], Encoder]] = {"ecapa": _load_ecapa, "ge2e": _load_ge2e}
