"""The trained weights: which are at hand, where, and under which name; nothing here loads a network.

Source: ECAPA-TDNN: model card speechbrain/spkrec-ecapa-voxceleb (Apache-2.0), trained on VoxCeleb 1 and 2. GE2E: C.
Jemine, PyPI package Resemblyzer 0.1.4 (Apache-2.0), trained on LibriSpeech "other" and VoxCeleb 1 and 2.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from retrocare.engine import INSTALL_NETWORKS
from retrocare.errors import ConfigurationError
from retrocare.observability import Say, silently

REPOSITORY = "speechbrain/spkrec-ecapa-voxceleb"
REVISION = "0f99f2d0ebe89ac095bcc5903c4dd8f72b367286"  # pinned, never "main": reading a model folder can run code
CHECKPOINT, DESCRIPTION = "embedding_model.ckpt", "hyperparams.yaml"
KNOWN = {
    "0575cb64845e6b9a10db9bcb74d5ac32b326b8dc90352671d345e2ee3d0126a2": "ecapa-voxceleb",
    "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e": "ge2e",
}
HINT = (
    f"Put the files of huggingface.co/{REPOSITORY} into a folder and name it in RETROCARE_ECAPA_DIR, "
    "or use RETROCARE_ENCODER=ge2e, which works offline."
)
EXTRA_HINT = (
    "Run scripts/setup --ecapa, or pip install 'retrocare-voice[ecapa]'; RETROCARE_ENCODER=ge2e works without it."
)
DOWNLOAD = """
import sys, huggingface_hub
repository, revision, folder = sys.argv[1:]
patterns = ["*.yaml", "*.ckpt", "*.txt"]
huggingface_hub.snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=patterns)
"""


@dataclass(frozen=True)
class Weights:
    """Hold where the weights of one encoder are; ``digest`` changes with every file that makes the network."""

    family: str  # ecapa or ge2e
    name: str  # of known weights, else the family and the beginning of the digest
    path: Path  # a folder in SpeechBrain's format, or a file
    digest: str

    @property
    def ids(self) -> dict[str, bool]:
        """Return the ids of the encoders with these weights, the newest last, and whether each denoises."""
        first = f"{self.name}-v1" if self.name in KNOWN.values() else self.name
        return {first: False, f"{self.name}-v2": True}


def ecapa_weights(folder: Path) -> Weights:
    """Describe the weights in a folder of SpeechBrain's format.

    Raises: ConfigurationError where it is not complete.
    """
    if not is_complete(folder):
        raise ConfigurationError(f"{folder} lacks {CHECKPOINT} or {DESCRIPTION}", hint=HINT)
    digest = _digest(folder / CHECKPOINT)
    return Weights("ecapa", _named("ecapa", digest), folder.resolve(), digest + _digest(folder / DESCRIPTION))


def ge2e_weights(file: Path | None = None) -> Weights:
    """Describe the weights in a file, or in the package Resemblyzer, which is not imported: that needs a compiler.

    Raises: ConfigurationError where they are missing.
    """
    if file is None:
        package = find_spec("resemblyzer")
        if package is None or package.origin is None:
            raise ConfigurationError("The weights of GE2E are missing", hint=INSTALL_NETWORKS)
        file = Path(package.origin).with_name("pretrained.pt")
    digest = _digest(file)
    return Weights("ge2e", _named("ge2e", digest), file, digest)


def fetch_ecapa(model_dir: Path, seconds: float, say: Say = silently) -> Path:
    """Find ECAPA's folder in the model folder or the hub's cache, or download it within the given time.

    The download runs in a process of its own, since a hub that hangs cannot be interrupted from within. What was
    received is kept for the next time.

    Raises: ConfigurationError where it did not arrive, or nothing is installed that could download it.
    """
    folder = model_dir / REPOSITORY.rpartition("/")[2]
    if is_complete(folder):
        return folder
    require_torch()  # the hub's client comes with it
    if cached := _cached():
        return cached
    say(f"Fetching ECAPA's weights from the model hub, for at most {seconds:g} s.")
    partial = folder.with_suffix(".partial")
    command = [sys.executable, "-c", DOWNLOAD, REPOSITORY, REVISION, str(partial)]
    environment = os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        subprocess.run(command, check=True, timeout=seconds, env=environment, capture_output=True)
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"ECAPA's weights did not arrive within {seconds:g} s", hint=HINT) from None
    except subprocess.CalledProcessError:
        raise ConfigurationError("The model hub could not be reached", hint=HINT) from None
    with suppress(OSError):  # another process finished the same download first
        partial.rename(folder)
    return folder


def require_torch() -> None:
    """Raise ConfigurationError where ECAPA's checkpoint cannot be read, since the extra for it is not installed."""
    if missing := [name for name in ("torch", "speechbrain") if find_spec(name) is None]:
        raise ConfigurationError(
            f"ECAPA needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            hint=EXTRA_HINT,
        )


def is_complete(folder: Path) -> bool:
    return (folder / CHECKPOINT).is_file() and (folder / DESCRIPTION).is_file()


def _cached() -> Path | None:
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(REPOSITORY, revision=REVISION, local_files_only=True))
    except huggingface_hub.errors.LocalEntryNotFoundError:
        return None
    return folder if is_complete(folder) else None


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _named(family: str, digest: str) -> str:
    return KNOWN.get(digest, f"{family}-{digest[:8]}")
