"""The GE2E speaker network: 256 dimensions, with the weights that the PyPI package Resemblyzer carries.

Power in mel bands, three LSTM layers, a linear layer, a rectifier: every value of a vector is >= 0. It is written
twice: as a graph, which the engine runs, and in NumPy, which says what the graph must give.

Source: L. Wan et al., Generalized end-to-end loss for speaker verification, 2018.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
from openvino import opset13 as ops

from retrocare.encoders.checkpoint import Tensor, read_tensors
from retrocare.encoders.embedding import unit
from retrocare.encoders.network import Network, probes
from retrocare.encoders.protocol import SAMPLE_RATE, Vectors, Windows
from retrocare.encoders.spectrum import Floats, fourier_waves, mel_bands
from retrocare.engine import lstm_gates
from retrocare.errors import ConfigurationError

WINDOW_SECONDS = 1.6
WINDOWS_AT_ONCE = 16  # ten at once take a third of the time of ten one by one
FRAME, HOP, BANDS = 400, 160, 40  # samples, samples, mel bands
UNITS, LAYERS = 256, 3
LEVEL_DBFS = -30.0  # the network takes power, not its logarithm, so loudness is levelled first
LEVEL, FAINTEST = 10 ** (LEVEL_DBFS / 20), 1e-6


def load_ge2e(file: Path) -> Network:
    """Load the network with the weights in a file.

    Raises: ConfigurationError where they cannot be read.
    """
    weights = read_tensors(file, "model_state")
    try:
        answers = np.concatenate([reference(weights, windows) for windows in probes(WINDOW_SECONDS)])
        return Network(_graph(weights), WINDOW_SECONDS, WINDOWS_AT_ONCE, answers)
    except (KeyError, ValueError) as error:
        raise ConfigurationError(f"{file} does not hold the weights of GE2E: {error}") from error


def reference(weights: dict[str, Tensor], windows: Windows) -> Vectors:
    """Compute in NumPy, frame by frame, what the graph computes: (windows, samples) to unit vectors."""
    seen = mel_power(windows)
    for layer in range(LAYERS):
        seen = _lstm(seen, *_of_layer(weights, layer))
    return unit(np.maximum(0, seen[:, -1] @ weights["linear.weight"].T + weights["linear.bias"]))


def mel_power(windows: Windows) -> Floats:
    """Compute mel power, (windows, frames, 40), as librosa.feature.melspectrogram does, of levelled windows."""
    level = np.sqrt(np.mean(np.square(windows, dtype=np.float64), axis=1, keepdims=True))
    levelled = np.pad(windows * (LEVEL / np.maximum(level, FAINTEST)), ((0, 0), (FRAME // 2, FRAME // 2)))
    frames = np.lib.stride_tricks.sliding_window_view(levelled, FRAME, axis=1)[:, ::HOP] * _hann()
    power: Floats = np.square(np.abs(np.fft.rfft(frames))) @ mel_bands(SAMPLE_RATE, FRAME, BANDS).T
    return power


def _lstm(seen: Floats, of_input: Tensor, of_state: Tensor, *biases: Tensor) -> Floats:
    """Run one layer over (windows, frames, inputs); return its state after each frame."""
    asked, by_state = seen @ of_input.T + sum(biases), of_state.T.astype(np.float64)
    state = memory = np.zeros((len(seen), UNITS))
    states = []
    for step in range(seen.shape[1]):
        enter, forget, new, leave = np.split(asked[:, step] + state @ by_state, 4, axis=1)
        memory = _sigmoid(forget) * memory + _sigmoid(enter) * np.tanh(new)
        state = _sigmoid(leave) * np.tanh(memory)
        states.append(state)
    return np.stack(states, axis=1)


def _sigmoid(values: Floats) -> Floats:
    return (1 + np.tanh(values / 2)) / 2


def _hann() -> Floats:
    window: Floats = np.hanning(FRAME + 1)[:-1]
    return window


def _graph(weights: dict[str, Tensor]) -> openvino.Model:
    windows = ops.parameter([-1, -1], np.float32, name="windows")
    level = ops.sqrt(ops.reduce_mean(ops.multiply(windows, windows), _whole(1), keep_dims=True))
    levelled = ops.multiply(windows, ops.divide(_real(LEVEL), ops.maximum(level, _real(FAINTEST))))
    padded = ops.pad(levelled, _whole(0, FRAME // 2), _whole(0, FRAME // 2), "constant")
    waves = ops.convolution(
        ops.unsqueeze(padded, _whole(1)), _real(fourier_waves(_hann())[:, np.newaxis]), [HOP], [0], [0], [1]
    )
    bands = np.tile(mel_bands(SAMPLE_RATE, FRAME, BANDS), 2)  # of the squares of cosines and sines
    power = ops.convolution(ops.multiply(waves, waves), _real(bands[:, :, np.newaxis]), [1], [0], [0], [1])
    seen = ops.transpose(power, _whole(0, 2, 1))
    shape = ops.shape_of(seen)
    count, frames = (ops.gather(shape, _whole(axis), _whole(0)) for axis in (0, 1))
    zeros = ops.broadcast(_real(0.0), ops.concat([count, _whole(1, UNITS)], 0))
    lengths = ops.broadcast(frames, count)
    for layer in range(LAYERS):
        of_input, of_state, *biases = (lstm_gates(values)[np.newaxis] for values in _of_layer(weights, layer))
        states = ops.lstm_sequence(
            seen, zeros, zeros, lengths, _real(of_input), _real(of_state), _real(sum(biases)), UNITS, "forward"
        )
        seen = ops.squeeze(states.output(0), _whole(1))
    last = ops.squeeze(states.output(1), _whole(1))
    linear = ops.add(ops.matmul(last, _real(weights["linear.weight"]), False, True), _real(weights["linear.bias"]))
    return openvino.Model([ops.relu(linear)], [windows], "ge2e")


def _of_layer(weights: dict[str, Tensor], layer: int) -> list[Tensor]:
    return [weights[f"lstm.{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def _real(values: Floats | Tensor | float) -> openvino.Node:
    return ops.constant(np.asarray(values, np.float32))


def _whole(*values: int) -> openvino.Node:
    return ops.constant(np.array(values, np.int64))
