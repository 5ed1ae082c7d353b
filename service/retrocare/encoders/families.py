"""The families of encoders: where the weights of each are found, and how its network is loaded in torch.

A new family is a row of ``FAMILIES``, a function in ``weights`` that finds its weights, and a module with its network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from retrocare.encoders.protocol import TorchEncoder
from retrocare.encoders.weights import Weights, ecapa_weights, fetch_ecapa, ge2e_weights
from retrocare.errors import ConfigurationError
from retrocare.observability import Say


@dataclass(frozen=True)
class Folders:
    """Where weights may be: downloaded ones in ``models``, ECAPA's also in a folder that the operator names."""

    models: Path
    ecapa: Path | None = None


@dataclass(frozen=True)
class Family:
    """Find the weights of a family, within so many seconds; load its network from them, which imports torch."""

    find_weights: Callable[[Folders, float, Say], Weights]
    load: Callable[[Path], TorchEncoder]


def find_family(name: str) -> Family:
    """Return the family of that name.

    Raises: ConfigurationError where there is none.
    """
    if name not in FAMILIES:
        names = ", ".join(sorted(FAMILIES))
        raise ConfigurationError(f"No encoder is called {name!r}", hint=f"RETROCARE_ENCODER is one of auto, {names}.")
    return FAMILIES[name]


def load_in_torch(name: str, path: Path) -> TorchEncoder:
    """Load a network as it was trained.

    Raises: ConfigurationError where the family is not known, or the weights cannot be read.
    """
    return find_family(name).load(path)


def _find_ecapa(folders: Folders, seconds: float, say: Say) -> Weights:
    return ecapa_weights(folders.ecapa or fetch_ecapa(folders.models, seconds, say))


def _find_ge2e(folders: Folders, seconds: float, say: Say) -> Weights:
    return ge2e_weights()  # they are part of an installed package


def _load_ecapa(path: Path) -> TorchEncoder:
    from retrocare.encoders.ecapa import Ecapa

    return Ecapa(path)


def _load_ge2e(path: Path) -> TorchEncoder:
    from retrocare.encoders.ge2e import Ge2e

    return Ge2e(path)


# `auto` tries them in this order.
FAMILIES = {
    "ecapa": Family(_find_ecapa, _load_ecapa),
    "ge2e": Family(_find_ge2e, _load_ge2e),
}
