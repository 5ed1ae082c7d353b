"""The GE2E speaker network, with the weights that the PyPI package Resemblyzer carries: 256 dimensions, offline.

*Source*: L. Wan et al., Generalized end-to-end loss for speaker verification, 2018; weights by C. Jemine (Resemblyzer
0.1.4, Apache-2.0), trained on LibriSpeech "other" and VoxCeleb 1 and 2.
"""

from __future__ import annotations

import hashlib
import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from retrocare_voice.encoder import SAMPLE_RATE, Vectors, Windows, unit
from retrocare_voice.errors import ConfigurationError

WEIGHTS_SHA256 = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
FRAME, HOP, BANDS = 400, 160, 40  # samples, samples, mel bands
LEVEL_DBFS = -30.0  # the network sees power, not its logarithm: loudness must be taken out first


class Ge2e:
    """Encode with three LSTM layers, a linear layer and a rectifier: every value of a vector is >= 0."""

    dimension = 256
    window_seconds = 1.6

    def __init__(self, weights: Path | None = None) -> None:
        content = (weights or packaged_weights()).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        self.id = "ge2e-v1" if digest == WEIGHTS_SHA256 else f"ge2e-{digest[:8]}"
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["model_state"]
        self._lstm = torch.nn.LSTM(BANDS, 256, num_layers=3, batch_first=True)
        self._linear = torch.nn.Linear(256, 256)
        for part, module in (("lstm.", self._lstm), ("linear.", self._linear)):
            module.load_state_dict({k.removeprefix(part): v for k, v in state.items() if k.startswith(part)})
            module.eval()
        self._hann = torch.hann_window(FRAME)
        self._bands = _mel_bands()

    @torch.inference_mode()
    def encode(self, windows: Windows) -> Vectors:
        _, (hidden, _) = self._lstm(self.mel(torch.from_numpy(windows)))
        return unit(torch.relu(self._linear(hidden[-1])).numpy())

    def mel(self, windows: torch.Tensor) -> torch.Tensor:
        """Compute mel power, (windows, frames, 40), as librosa.feature.melspectrogram does, of levelled windows."""
        level = windows.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-6)
        levelled = windows * (10 ** (LEVEL_DBFS / 20) / level)
        spectrum = torch.stft(levelled, FRAME, HOP, window=self._hann, pad_mode="constant", return_complex=True)
        return (self._bands @ spectrum.abs().square()).transpose(1, 2)


def packaged_weights() -> Path:
    spec = find_spec("resemblyzer")
    if spec is None or spec.origin is None:
        raise ConfigurationError("the weights of GE2E are missing", hint="pip install --no-deps Resemblyzer==0.1.4")
    return Path(spec.origin).with_name("pretrained.pt")


def _mel_bands() -> torch.Tensor:
    from librosa.filters import mel

    return torch.from_numpy(mel(sr=SAMPLE_RATE, n_fft=FRAME, n_mels=BANDS).astype(np.float32))
