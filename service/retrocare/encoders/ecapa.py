"""SpeechBrain's ECAPA-TDNN in torch, the production encoder: 192 dimensions, from a local folder.

Source: B. Desplanques et al., ECAPA-TDNN, 2020; model card speechbrain/spkrec-ecapa-voxceleb.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from retrocare.encoders.embedding import unit
from retrocare.encoders.protocol import Vectors, Windows
from retrocare.encoders.spectrum import PowerSpectrum
from retrocare.encoders.weights import HINT, ecapa_weights
from retrocare.errors import ConfigurationError


class Ecapa:
    """Encode with the network of a folder in SpeechBrain's format; only files of that folder are read."""

    dimension = 192
    window_seconds = 5.0

    def __init__(self, folder: Path) -> None:
        weights = ecapa_weights(folder)
        self.id = weights.id
        self.classifier = _load(weights.path)

    @torch.inference_mode()
    def encode(self, windows: Windows) -> Vectors:
        return unit(self.classifier.encode_batch(torch.from_numpy(windows)).squeeze(1).numpy())

    @property
    def network(self) -> torch.nn.Module:
        """The same network with a front end that can be exported."""
        return _Exportable(self.classifier).eval()


class _Exportable(torch.nn.Module):
    def __init__(self, loaded: Any) -> None:
        super().__init__()
        features = loaded.mods.compute_features
        self.spectrum = PowerSpectrum(features.compute_STFT.window, features.compute_STFT.hop_length)
        self.bands, self.network = features.compute_fbanks, loaded.mods.embedding_model

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        bands = self.bands(self.spectrum(windows))
        voices: torch.Tensor = self.network(bands - bands.mean(dim=1, keepdim=True)).squeeze(1)
        return voices


def _load(folder: Path) -> Any:
    make_torchaudio_importable()
    from speechbrain.inference.classifiers import EncoderClassifier
    from speechbrain.utils.fetching import FetchConfig, LocalStrategy

    try:
        return EncoderClassifier.from_hparams(
            source=str(folder),
            savedir=None,
            overrides={"pretrained_path": str(folder)},  # without it SpeechBrain asks the hub even for a local folder
            overrides_must_match=False,
            fetch_config=FetchConfig(allow_network=False),
            local_strategy=LocalStrategy.NO_LINK,
            freeze_params=True,
        )
    except Exception as error:  # whatever SpeechBrain raises while it reads a folder that is broken
        raise ConfigurationError(f"{folder} cannot be read as ECAPA: {error}", hint=HINT) from error


def make_torchaudio_importable() -> None:
    """Let SpeechBrain import torchaudio where the real one cannot be: PyPI's is linked against CUDA.

    ECAPA never calls it, so an empty module will do.
    """
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):
        stand_in = ModuleType("torchaudio")
        stand_in.__version__ = "2.9.0"  # type: ignore[attr-defined]  # SpeechBrain asks for nothing else
        sys.modules["torchaudio"] = stand_in
