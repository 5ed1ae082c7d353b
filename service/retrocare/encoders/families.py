"""The families of encoders: where the weights of each are found, and how its network is loaded.

A new family is a row of ``FAMILIES``, a function in ``weights`` that finds its weights, and a module with its network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from retrocare.encoders.conversion import load_converted
from retrocare.encoders.ge2e import load_ge2e
from retrocare.encoders.network import Network
from retrocare.encoders.weights import Weights, ecapa_weights, fetch_ecapa, ge2e_weights
from retrocare.observability import Say


@dataclass(frozen=True)
class Folders:
    """Where weights may be: downloaded and converted ones in ``models``, ECAPA's also in a folder that is named."""

    models: Path
    ecapa: Path | None = None


@dataclass(frozen=True)
class Family:
    """Find the weights of a family, within so many seconds; load its network from them."""

    find_weights: Callable[[Folders, float, Say], Weights]
    load: Callable[[Weights, Folders, Say], Network]


def _find_ecapa(folders: Folders, seconds: float, say: Say) -> Weights:
    return ecapa_weights(folders.ecapa or fetch_ecapa(folders.models, seconds, say))


def _load_ecapa(weights: Weights, folders: Folders, say: Say) -> Network:
    return load_converted(weights, folders.models, say)


def _find_ge2e(folders: Folders, seconds: float, say: Say) -> Weights:
    return ge2e_weights()  # they are part of an installed package


def _load_ge2e(weights: Weights, folders: Folders, say: Say) -> Network:
    return load_ge2e(weights.path)


# `auto` tries them in this order.
FAMILIES = {
    "ecapa": Family(_find_ecapa, _load_ecapa),
    "ge2e": Family(_find_ge2e, _load_ge2e),
}
