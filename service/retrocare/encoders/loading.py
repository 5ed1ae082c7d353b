"""Which encoder is used, and why; its network is loaded, compiled and compared before anybody waits for it."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from retrocare.encoders.families import FAMILIES, Folders
from retrocare.encoders.network import NetworkEncoder
from retrocare.encoders.weights import Weights
from retrocare.errors import ConfigurationError
from retrocare.observability import Say, silently

AUTO = "auto"
AUTO_FETCH_SECONDS = 20.0  # how long `auto` waits for weights to come over the network
NAMED_FETCH_SECONDS = 900.0  # and how long where the encoder was asked for by name


@dataclass(frozen=True)
class EncoderChoice:
    """Hold the encoder in use and the sentence that says why it is this one."""

    encoder: NetworkEncoder
    why: str


def load_encoder(
    name: str,
    *,
    model_dir: Path,
    ecapa_dir: Path | None,
    active: str | None = None,
    fetch_seconds: float | None = None,
    threads: int | None = None,
    calibrated: Collection[str] = (),
    say: Say = silently,
) -> EncoderChoice:
    """Load an encoder, and compare it with what it must say.

    ``name`` is an id (``ge2e-v2``), a family (``ge2e``: in the version that the database uses, else the newest), or
    ``auto``: the first family whose weights are available or come in time, those with a calibration (ids, in
    ``calibrated``) before the others. Where the database already uses an encoder
    (``active``), ``auto`` takes that one and no other, since vectors of two encoders cannot be compared.
    ``fetch_seconds`` is how long weights may take to come over the network (20 s for ``auto``, 15 minutes for a name);
    ``threads`` are as many as there are cores where nothing else is said; ``say`` hears of what takes a while.

    Raises: ConfigurationError where the encoder is not known, or is named (by ``name``, ``active`` or a folder of
    weights) and not available, or does not say what it must.
    """
    folders = Folders(model_dir, ecapa_dir)
    exact, family, why = None, None, "it was asked for by name"
    if name in FAMILIES:
        family = name
    elif name != AUTO:
        exact = name
    elif active:
        exact, why = active, f"the database already uses {active}"
    elif ecapa_dir:
        family, why = "ecapa", f"its weights are named: {ecapa_dir}"
    if exact is not None:
        family = family_of(exact)
    if family is not None:
        weights = FAMILIES[family].find_weights(folders, fetch_seconds or NAMED_FETCH_SECONDS, say)
    else:
        weights, why = _first_available(folders, fetch_seconds or AUTO_FETCH_SECONDS, calibrated, say)
    ids = list(weights.ids)
    id = exact or (active if active in ids else ids[-1])
    if id not in ids:
        raise ConfigurationError(f"There is no encoder {id} here, only {' and '.join(ids)}", hint=_names_hint())
    if id == active != ids[-1] and exact is None:
        why += ", and the database uses that version"
    network = FAMILIES[weights.family].load(weights, folders, say)
    encoder = NetworkEncoder(id, network, denoises=weights.ids[id], threads=threads or available_cores())
    return EncoderChoice(encoder, f"the encoder is {id}, because {why}; it runs in {encoder.precision}")


def family_of(name: str) -> str:
    """Return the family that a name or an id belongs to.

    Raises: ConfigurationError where there is none.
    """
    family = name.partition("-")[0]
    if family not in FAMILIES:
        raise ConfigurationError(f"No encoder is called {name!r}", hint=_names_hint())
    return family


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _names_hint() -> str:
    return f"RETROCARE_ENCODER is auto, {', '.join(sorted(FAMILIES))}, or an id such as ge2e-v2."


def _first_available(
    folders: Folders, fetch_seconds: float, calibrated: Collection[str], say: Say
) -> tuple[Weights, str]:
    families = {family_of(id) for id in calibrated}
    absent: list[str] = []
    for name in sorted(FAMILIES, key=lambda name: name not in families):
        try:
            weights = FAMILIES[name].find_weights(folders, fetch_seconds, say)
        except ConfigurationError as error:
            absent.append(f"{name.upper()} is not available ({error})")
        else:
            found = "a calibration comes with it" if name in families else "its weights are available"
            return weights, "; ".join(absent) or found
    raise ConfigurationError("No encoder is available: " + "; ".join(absent))
