"""SpeechBrain's ECAPA-TDNN, the production encoder: 192 dimensions, from a local folder or the model hub.

*Source*: B. Desplanques et al., ECAPA-TDNN, 2020; model card speechbrain/spkrec-ecapa-voxceleb (Apache-2.0), trained on
VoxCeleb 1 and 2.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from retrocare_voice.encoder import Vectors, Windows, unit
from retrocare_voice.errors import ConfigurationError

REPOSITORY = "speechbrain/spkrec-ecapa-voxceleb"
REVISION = "0f99f2d0ebe89ac095bcc5903c4dd8f72b367286"  # a model folder can run code when it is read: never "main"
WEIGHTS_SHA256 = "0575cb64845e6b9a10db9bcb74d5ac32b326b8dc90352671d345e2ee3d0126a2"
WEIGHTS, DESCRIPTION = "embedding_model.ckpt", "hyperparams.yaml"
HINT = (
    f"put the files of huggingface.co/{REPOSITORY} into a folder and name it in RETROCARE_ECAPA_DIR, "
    "or use RETROCARE_ENCODER=ge2e, which works offline"
)
DOWNLOAD = """
import sys, huggingface_hub
repository, revision, folder = sys.argv[1:]
patterns = ["*.yaml", "*.ckpt", "*.txt"]
huggingface_hub.snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=patterns)
"""


class Ecapa:
    """Encode with the network of a folder in SpeechBrain's format; only files of that folder are read."""

    dimension = 192
    window_seconds = 5.0

    def __init__(self, folder: Path) -> None:
        if not is_complete(folder):
            raise ConfigurationError(f"{folder} lacks {WEIGHTS} or {DESCRIPTION}", hint=HINT)
        with (folder / WEIGHTS).open("rb") as weights:
            digest = hashlib.file_digest(weights, "sha256").hexdigest()
        self.id = "ecapa-voxceleb-v1" if digest == WEIGHTS_SHA256 else f"ecapa-{digest[:8]}"
        self._network = _load(folder.resolve())

    @torch.inference_mode()
    def encode(self, windows: Windows) -> Vectors:
        return unit(self._network.encode_batch(torch.from_numpy(windows)).squeeze(1).numpy())


def is_complete(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file() and (folder / DESCRIPTION).is_file()


def fetch(model_dir: Path, seconds: float) -> Path:
    """Find the weights in the model folder or the hub's cache, or download them within the given time.

    The download is a process of its own, because a hub that hangs cannot be interrupted from within; what it had
    received is kept for the next time.

    *Raises*: ConfigurationError where they did not come.
    """
    folder = model_dir / REPOSITORY.rpartition("/")[2]
    if is_complete(folder):
        return folder
    if cached := _cached():
        return cached
    partial = folder.with_suffix(".partial")
    command = [sys.executable, "-c", DOWNLOAD, REPOSITORY, REVISION, str(partial)]
    environment = os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        subprocess.run(command, check=True, timeout=seconds, env=environment, capture_output=True)
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"its weights did not come within {seconds:g} s", hint=HINT) from None
    except subprocess.CalledProcessError:
        raise ConfigurationError("the model hub could not be reached", hint=HINT) from None
    with suppress(OSError):  # another process that fetched at the same time was first
        partial.rename(folder)
    return folder


def _cached() -> Path | None:
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(REPOSITORY, revision=REVISION, local_files_only=True))
    except huggingface_hub.errors.LocalEntryNotFoundError:
        return None
    return folder if is_complete(folder) else None


def _load(folder: Path) -> Any:
    make_torchaudio_importable()
    from speechbrain.inference.classifiers import EncoderClassifier
    from speechbrain.utils.fetching import FetchConfig, LocalStrategy

    try:
        return EncoderClassifier.from_hparams(
            source=str(folder),
            savedir=None,
            overrides={"pretrained_path": str(folder)},  # without it the hub is asked even for a local folder
            overrides_must_match=False,
            fetch_config=FetchConfig(allow_network=False),
            local_strategy=LocalStrategy.NO_LINK,
            freeze_params=True,
        )
    except Exception as error:  # whatever SpeechBrain raises while it reads a folder that is broken
        raise ConfigurationError(f"{folder} cannot be read as ECAPA: {error}", hint=HINT) from error


def make_torchaudio_importable() -> None:
    """Let SpeechBrain import torchaudio where the real one cannot be: PyPI's is linked against CUDA.

    ECAPA never calls it, so that an empty module serves.
    """
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):
        stand_in = ModuleType("torchaudio")
        stand_in.__version__ = "2.9.0"  # type: ignore[attr-defined]  # from here on SpeechBrain asks it nothing
        sys.modules["torchaudio"] = stand_in
