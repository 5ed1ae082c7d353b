"""Windows of speech become one vector, with whichever encoder is at hand.

To add an encoder, write a module with a class that follows ``Torched``, name its weights in ``weights``, and both here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from retrocare_voice.audio import Samples
from retrocare_voice.errors import ConfigurationError
from retrocare_voice.weights import Weights, ecapa_weights, fetch_ecapa, ge2e_weights

Windows = npt.NDArray[np.float32]  # (windows, samples of one window), 16 kHz, all of one length
Vectors = npt.NDArray[np.float32]  # (windows, dimension), each of length 1

SAMPLE_RATE = 16_000
LEAST_WINDOWS = 3  # of two that differ, nobody can say which is the stranger's
OUTLIER_SHARE = 0.8  # of the usual cosine: whose window has less of it is somebody else
FETCH_SECONDS = 20.0  # how long `auto` waits for weights to come over the network
NAMED_FETCH_SECONDS = 900.0  # how long it may take where ECAPA was asked for by name


class Encoder(Protocol):
    """Turn windows of speech into unit vectors; ``id`` names weights, front end and window together."""

    id: str
    dimension: int
    window_seconds: float

    def encode(self, windows: Windows) -> Vectors: ...


class Torched(Encoder, Protocol):
    """An encoder in torch, and its network: (1, samples) to (1, dimension), for any number of samples."""

    @property
    def network(self) -> Any: ...


@dataclass(frozen=True, eq=False)
class Embedding:
    """Hold a voice as one unit vector; agreement is the mean cosine of its windows to it, 1 where all agree."""

    vector: npt.NDArray[np.float32]  # (dimension,)
    windows: int  # that it is the mean of
    outlier_windows: int  # that were left out: of somebody else
    agreement: float


@dataclass(frozen=True)
class EncoderChoice:
    """Hold the encoder in use and the sentence that says why it is this one."""

    encoder: Encoder
    why: str


def embed(samples: Samples, encoder: Encoder) -> Embedding:
    """Encode speech at 16 kHz: the mean of windows that leave no sample out, but for those of somebody else.

    *Raises*: RuntimeError where the network gives what is no direction (zero, infinite, not a number).
    """
    vectors = encoder.encode(cut(samples, encoder.window_seconds)).astype(np.float64)
    kept = vectors[belonging(vectors)]
    mean = unit(kept.mean(axis=0, keepdims=True))[0]
    return Embedding(mean, len(kept), len(vectors) - len(kept), float((kept @ mean).mean()))


def belonging(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Tell the windows of the one who speaks most from those of somebody else: another person, the agent's echo.

    The half of the windows that agree best say how the speaker sounds; who is much further from that than they usually
    are is left out. With GE2E and a fifth of the windows another's, the voiceprint moves by 0.006 instead of 0.027 in
    read speech, by 0.005 instead of 0.020 in digits; one in a hundred of the speaker's own windows is lost
    (``scripts/bench budget``).
    """
    if len(vectors) < LEAST_WINDOWS:
        return np.ones(len(vectors), bool)
    support = (vectors @ vectors.T).sum(axis=1)
    best = np.argsort(-support, kind="stable")[: -(-len(vectors) // 2)]
    cosines = vectors @ unit(vectors[best].mean(axis=0, keepdims=True))[0]
    is_close: npt.NDArray[np.bool_] = cosines >= OUTLIER_SHARE * np.median(cosines)
    return is_close


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
    threads: int | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> EncoderChoice:
    """Load an encoder and run it once: by ONNX Runtime, or by torch where the export does not agree with it.

    ``threads`` are as many as there are cores where nothing else is said; ``say`` hears of what takes a while.

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
        weights = _find(wanted, model_dir, ecapa_dir, NAMED_FETCH_SECONDS)
    else:
        try:
            weights, why = _find("ecapa", model_dir, None, fetch_seconds), "its weights are at hand"
        except ConfigurationError as absent:
            weights, why = _find("ge2e", model_dir, None, fetch_seconds), f"ECAPA is not at hand: {absent}"
    encoder, how = _loaded(weights, model_dir, threads or available_cores(), say)
    return EncoderChoice(encoder, f"the encoder is {encoder.id}, because {why}; {how}")


def in_torch(family: str, path: Path) -> Torched:
    """Load a network as it was trained; nothing else imports torch."""
    if family == "ecapa":
        from retrocare_voice.ecapa import Ecapa

        return Ecapa(path)
    from retrocare_voice.ge2e import Ge2e

    return Ge2e(path)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _find(name: str, model_dir: Path, ecapa_dir: Path | None, fetch_seconds: float) -> Weights:
    if name == "ge2e":
        return ge2e_weights()
    if name == "ecapa":
        return ecapa_weights(ecapa_dir or fetch_ecapa(model_dir, fetch_seconds))
    raise ConfigurationError(f"no encoder is called {name!r}", hint="RETROCARE_ENCODER is one of auto, ecapa, ge2e")


def _loaded(weights: Weights, model_dir: Path, threads: int, say: Callable[[str], object]) -> tuple[Encoder, str]:
    from retrocare_voice.onnx import prepared

    try:
        return prepared(weights, model_dir / "onnx", threads, say), "ONNX Runtime runs it"
    except ConfigurationError as refused:
        encoder = in_torch(weights.family, weights.path)
        import torch

        torch.set_num_threads(threads)
        embed(np.random.default_rng(0).normal(0, 0.05, SAMPLE_RATE).astype(np.float32), encoder)  # warm, as probes do
        return encoder, f"torch runs it: {refused}"
