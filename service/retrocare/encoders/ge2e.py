"""The GE2E speaker network in torch: 256 dimensions, with the weights that the PyPI package Resemblyzer carries.

Source: L. Wan et al., Generalized end-to-end loss for speaker verification, 2018.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from retrocare.encoders.embedding import unit
from retrocare.encoders.protocol import SAMPLE_RATE, Vectors, Windows
from retrocare.encoders.spectrum import PowerSpectrum
from retrocare.encoders.weights import ge2e_weights

FRAME, HOP, BANDS = 400, 160, 40  # samples, samples, mel bands
LEVEL_DBFS = -30.0  # the network takes power, not its logarithm, so loudness is levelled first


class Ge2e:
    """Encode with three LSTM layers, a linear layer and a rectifier: every value of a vector is >= 0."""

    dimension = 256
    window_seconds = 1.6

    def __init__(self, file: Path | None = None) -> None:
        weights = ge2e_weights(file)
        self.id = weights.id
        self.network = _Network().eval()
        state = torch.load(weights.path, map_location="cpu", weights_only=True)["model_state"]
        self.network.load_state_dict(
            {k: v for k, v in state.items() if k.startswith(("lstm.", "linear."))}, strict=False
        )

    @torch.inference_mode()
    def encode(self, windows: Windows) -> Vectors:
        return unit(self.network(torch.from_numpy(windows)).numpy())


class _Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spectrum = PowerSpectrum(torch.hann_window(FRAME), HOP)
        self.bands: torch.Tensor
        self.register_buffer("bands", _mel_bands())
        self.lstm = torch.nn.LSTM(BANDS, 256, num_layers=3, batch_first=True)
        self.linear = torch.nn.Linear(256, 256)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.lstm(self.mel(windows))
        voices: torch.Tensor = torch.relu(self.linear(hidden[-1]))
        return voices

    def mel(self, windows: torch.Tensor) -> torch.Tensor:
        """Compute mel power, (windows, frames, 40), as librosa.feature.melspectrogram does, of levelled windows."""
        level = windows.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-6)
        levelled = windows * (10 ** (LEVEL_DBFS / 20) / level)
        bands: torch.Tensor = self.spectrum(levelled) @ self.bands.T
        return bands


def _mel_bands() -> torch.Tensor:
    from librosa.filters import mel

    return torch.from_numpy(mel(sr=SAMPLE_RATE, n_fft=FRAME, n_mels=BANDS).astype(np.float32))
