"""SpeechBrain's ECAPA-TDNN, the production encoder: 192 dimensions, from a local folder.

Reading its checkpoint takes torch and SpeechBrain, the extra ``ecapa``. Once converted, it takes neither.

Source: B. Desplanques et al., ECAPA-TDNN, 2020; model card speechbrain/spkrec-ecapa-voxceleb.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

from retrocare.encoders.embedding import unit
from retrocare.encoders.network import Network, probes
from retrocare.encoders.protocol import Vectors, Windows
from retrocare.encoders.spectrum import fourier_waves
from retrocare.encoders.weights import HINT, ecapa_weights
from retrocare.errors import ConfigurationError

WINDOW_SECONDS = 5.0
WINDOWS_AT_ONCE = 1  # three at once take as long as three one by one, and 100 MB more


class Ecapa:
    """Encode in torch with the network of a folder in SpeechBrain's format; only files of that folder are read."""

    def __init__(self, folder: Path) -> None:
        self.classifier = _load(ecapa_weights(folder).path)

    @torch.inference_mode()
    def encode(self, windows: Windows) -> Vectors:
        return unit(self.classifier.encode_batch(torch.from_numpy(windows)).squeeze(1).float().numpy())

    def converted(self) -> Network:
        """Convert the network; its answers are torch's."""
        # OpenVINO's own convert_model does the same, and may report to its makers that it was used.
        front_end = FrontEndManager().load_by_framework("pytorch")
        seen = probes(WINDOW_SECONDS)
        with warnings.catch_warnings():
            # Tracing warns of every number that it takes for a constant; the probes tell whether it matters.
            warnings.simplefilter("ignore")
            traced = TorchScriptPythonDecoder(
                _Convertible(self.classifier).eval(), example_input=torch.from_numpy(seen[0])
            )
        model = front_end.convert(front_end.load(traced))
        model.reshape([-1, -1])
        answers = np.concatenate([self.encode(windows) for windows in seen])
        return Network(model, WINDOW_SECONDS, WINDOWS_AT_ONCE, answers)


class _Convertible(torch.nn.Module):
    """The same network with a Fourier transform by convolution, which OpenVINO runs much faster than torch's own."""

    def __init__(self, loaded: Any) -> None:
        super().__init__()
        features = loaded.mods.compute_features
        transform = features.compute_STFT
        waves = fourier_waves(transform.window.double().numpy())
        self.waves: torch.Tensor
        self.register_buffer("waves", torch.from_numpy(waves.astype(np.float32))[:, np.newaxis])
        self.margin, self.hop = len(transform.window) // 2, transform.hop_length
        self.bands, self.network = features.compute_fbanks, loaded.mods.embedding_model

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(windows, (self.margin, self.margin))
        parts = torch.nn.functional.conv1d(padded[:, None], self.waves, stride=self.hop).square()
        real, imaginary = parts.chunk(2, dim=1)
        bands = self.bands((real + imaginary).transpose(1, 2))
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
