"""Networks for tests: ECAPA with random weights in SpeechBrain's folder format; noise to hear, a fresh Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from retrocare.audio.decode import Samples
from retrocare.encoders.weights import CHECKPOINT, DESCRIPTION, REPOSITORY

SMALL = {"channels": [16, 16, 16, 16, 48], "kernel_sizes": [5, 3, 3, 3, 1], "dilations": [1, 2, 3, 4, 1]}
FULL = {"channels": [1024, 1024, 1024, 1024, 3072], "kernel_sizes": [5, 3, 3, 3, 1], "dilations": [1, 2, 3, 4, 1]}


def described(sizes: dict[str, list[int]], attention_channels: int) -> str:
    """Return what SpeechBrain needs to know to build it."""
    return f"""
pretrained_path: {REPOSITORY}
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 80
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 80
    channels: {sizes["channels"]}
    kernel_sizes: {sizes["kernel_sizes"]}
    dilations: {sizes["dilations"]}
    attention_channels: {attention_channels}
    lin_neurons: 192
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 192
    out_neurons: 4
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <pretrained_path>/{CHECKPOINT}
"""


def noise(seconds: float, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * 16_000)).astype(np.float32)


def run_python(program: str, *paths: Path, **environment: str) -> str:
    path = os.pathsep.join([*map(str, paths), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    ).stdout.strip()


def write_ecapa(folder: Path, sizes: dict[str, list[int]], attention_channels: int) -> Path:
    """Write an ECAPA with random weights, the same each time; return its folder."""
    program = f"""
from retrocare.encoders.ecapa import make_torchaudio_importable
make_torchaudio_importable()
import torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
torch.manual_seed(0)
network = ECAPA_TDNN(80, attention_channels={attention_channels}, lin_neurons=192, **{sizes})
torch.save(network.state_dict(), {str(folder / CHECKPOINT)!r})
"""
    folder.mkdir(parents=True, exist_ok=True)
    run_python(program)
    (folder / DESCRIPTION).write_text(described(sizes, attention_channels))
    return folder
