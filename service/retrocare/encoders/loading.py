"""Which encoder is used, and why; it is loaded and run once before anybody waits for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrocare.encoders.embedding import embed
from retrocare.encoders.families import FAMILIES, Folders, find_family, load_in_torch
from retrocare.encoders.onnx import load_exported
from retrocare.encoders.protocol import SAMPLE_RATE, Encoder
from retrocare.encoders.weights import Weights
from retrocare.errors import ConfigurationError
from retrocare.observability import Say, silently

AUTO = "auto"
AUTO_FETCH_SECONDS = 20.0  # how long `auto` waits for weights to come over the network
NAMED_FETCH_SECONDS = 900.0  # and how long where the encoder was asked for by name


@dataclass(frozen=True)
class EncoderChoice:
    """Hold the encoder in use and the sentence that says why it is this one."""

    encoder: Encoder
    why: str


def load_encoder(
    name: str,
    *,
    model_dir: Path,
    ecapa_dir: Path | None,
    active: str | None = None,
    fetch_seconds: float | None = None,
    threads: int | None = None,
    say: Say = silently,
) -> EncoderChoice:
    """Load an encoder and run it once: by ONNX Runtime, or by torch where the export does not agree with it.

    ``auto`` takes the first family whose weights are at hand or come in time; where the database already uses an
    encoder (``active``) it takes that family and no other, since vectors of two encoders cannot be compared.
    ``fetch_seconds`` is how long weights may take to come over the network (20 s for ``auto``, 15 minutes for a name);
    ``threads`` are as many as there are cores where nothing else is said; ``say`` hears of what takes a while.

    Raises: ConfigurationError where the encoder is not known, or is named (by ``name``, ``active`` or a folder of
    weights) and not at hand.
    """
    folders = Folders(model_dir, ecapa_dir)
    wanted: str | None = None
    if name != AUTO:
        wanted, why = name, "it was asked for by name"
    elif active:
        wanted, why = active.partition("-")[0], f"the database already uses {active}"
    elif ecapa_dir:
        wanted, why = "ecapa", f"its weights are named: {ecapa_dir}"
    if wanted is not None:
        weights = find_family(wanted).find_weights(folders, fetch_seconds or NAMED_FETCH_SECONDS, say)
    else:
        weights, why = _first_at_hand(folders, fetch_seconds or AUTO_FETCH_SECONDS, say)
    encoder, how = _load(weights, model_dir, threads or available_cores(), say)
    return EncoderChoice(encoder, f"the encoder is {encoder.id}, because {why}; {how}")


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first_at_hand(folders: Folders, fetch_seconds: float, say: Say) -> tuple[Weights, str]:
    absent: list[str] = []
    for name, family in FAMILIES.items():
        try:
            weights = family.find_weights(folders, fetch_seconds, say)
        except ConfigurationError as error:
            absent.append(f"{name.upper()} is not at hand ({error})")
        else:
            return weights, "; ".join(absent) or "its weights are at hand"
    raise ConfigurationError("No encoder is at hand: " + "; ".join(absent))


def _load(weights: Weights, model_dir: Path, threads: int, say: Say) -> tuple[Encoder, str]:
    try:
        return load_exported(weights, model_dir / "onnx", threads, say), "ONNX Runtime runs it"
    except ConfigurationError as refused:
        encoder = load_in_torch(weights.family, weights.path)
        import torch

        torch.set_num_threads(threads)
        embed(np.random.default_rng(0).normal(0, 0.05, SAMPLE_RATE).astype(np.float32), encoder)
        return encoder, f"torch runs it: {refused}"
