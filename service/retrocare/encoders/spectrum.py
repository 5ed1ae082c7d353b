"""The power spectrum as convolutions with sines and cosines: torch's own STFT cannot be exported to ONNX."""

from __future__ import annotations

import math

import torch


class PowerSpectrum(torch.nn.Module):
    """Compute the power of centred frames, zeros beyond both ends, as torch.stft does with pad_mode="constant".

    Shapes: (windows, samples) becomes (windows, frames, frame // 2 + 1).
    """

    def __init__(self, window: torch.Tensor, hop: int) -> None:
        super().__init__()
        frame = len(window)
        angles = 2 * math.pi / frame * torch.arange(frame // 2 + 1).outer(torch.arange(frame)).double()
        waves = torch.cat([angles.cos(), angles.sin()]) * window.double()
        self.waves: torch.Tensor
        self.register_buffer("waves", waves.float()[:, None, :])
        self.frame, self.hop = frame, hop

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(windows, (self.frame // 2, self.frame // 2))
        parts = torch.nn.functional.conv1d(padded[:, None], self.waves, stride=self.hop).square()
        real, imaginary = parts.chunk(2, dim=1)
        return (real + imaginary).transpose(1, 2)
