"""Voice activity detection: silero's network, run over all frames of a piece at once.

Only the last layers of the network remember what came before; those before them see every frame at once. The weights
are in a file of the package silero-vad, which is not imported, since it imports torch: that takes seconds and 200 MB.
The result equals that of silero's own ``get_speech_timestamps``, to the sample.

Source: Silero Team, Silero VAD 6.2 (MIT): network, thresholds and durations.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import openvino
from openvino import opset13 as ops

from retrocare.engine import INSTALL_NETWORKS, compile_network, lstm_gates
from retrocare.errors import ConfigurationError

Stretches = list[tuple[int, int]]  # (first sample, one after the last)
Weights = npt.NDArray[np.float32]

SPEECH_BEGINS, SPEECH_ENDS = 0.5, 0.35  # probabilities
LEAST_SPEECH_SECONDS, LEAST_PAUSE_SECONDS, MARGIN_SECONDS = 0.25, 0.1, 0.03
SHA256 = "e1122837f4154c511485fe0b9c64455f7b929c96fbb8d79fbdb336383ebd3720"  # of that version's file
TENSORS = {16_000: range(2, 17), 8_000: range(17, 32)}  # of the network for each rate, as silero numbers them
LAYERS = ((128, 1), (64, 2), (64, 2), (128, 1))  # convolutions of the spectrum: channels and stride
MEMORY = 128
AT_ONCE = 2  # pieces that the network sees together: eight save 2 ms a call, and take 12 MB more


def load_networks() -> None:
    """Compile the networks of both rates, for which the first call would have to wait.

    Raises: ConfigurationError where they are missing.
    """
    for sample_rate in TENSORS:
        _network(sample_rate)


def find_stretches(pieces: npt.NDArray[np.float32], sample_rate: int) -> list[Stretches]:
    """Find the stretches of speech in each piece.

    Shapes: pieces is (pieces, samples), at 8 or 16 kHz; upsampled telephone speech is hardly detected.
    """
    frame, samples = _frame(sample_rate), pieces.shape[1]
    return [
        _with_margins(_stretches(chances, frame, samples, sample_rate), samples, sample_rate)
        for chances in _probabilities(pieces, sample_rate)
    ]


def _frame(sample_rate: int) -> int:
    return sample_rate * 32 // 1000


def _probabilities(pieces: npt.NDArray[np.float32], sample_rate: int) -> npt.NDArray[np.float32]:
    """Return the probability of speech in each frame, (pieces, frames); it is heard with the end of the last one."""
    frame = _frame(sample_rate)
    context, frames = frame // 8, -(-pieces.shape[1] // frame)
    padded = np.pad(pieces, ((0, 0), (context, frames * frame - pieces.shape[1])))
    seen = np.lib.stride_tricks.sliding_window_view(padded, context + frame, axis=1)[:, ::frame]
    request = _network(sample_rate).create_infer_request()  # one a call: threads may ask at once
    parts = [np.ascontiguousarray(seen[n : n + AT_ONCE]) for n in range(0, len(seen), AT_ONCE)]
    return np.concatenate([request.infer([part])[0] for part in parts])


def _stretches(chances: npt.NDArray[np.float32], frame: int, samples: int, sample_rate: int) -> Stretches:
    """Return where speech begins and ends; it ends with the first frame of a pause."""
    found: Stretches = []
    begun = paused = None
    for at, chance in zip(range(0, samples, frame), chances.tolist(), strict=True):
        if chance >= SPEECH_BEGINS:
            begun, paused = at if begun is None else begun, None
        elif chance < SPEECH_ENDS and begun is not None:
            paused = at if paused is None else paused
            if at - paused >= LEAST_PAUSE_SECONDS * sample_rate:
                found.append((begun, paused))
                begun = paused = None
    if begun is not None:
        found.append((begun, samples))
    return [(start, end) for start, end in found if end - start > LEAST_SPEECH_SECONDS * sample_rate]


def _with_margins(stretches: Stretches, samples: int, sample_rate: int) -> Stretches:
    """Extend each stretch by a margin at both ends; pauses are longer than two margins, so none overlap."""
    margin = int(MARGIN_SECONDS * sample_rate)
    return [(max(0, start - margin), min(samples, end + margin)) for start, end in stretches]


@cache
def _network(sample_rate: int) -> openvino.CompiledModel:
    """Build the network of one rate: (pieces, frames, samples) to (pieces, frames)."""
    weights = _weights(sample_rate)
    frame = _frame(sample_rate)
    context, hop, window = frame // 8, frame // 4, frame // 2
    frames = ops.parameter([-1, -1, context + frame], np.float32)
    pieces, length = (ops.gather(ops.shape_of(frames), [n], np.int64(0)) for n in (0, 1))

    heard = ops.reshape(frames, [-1, 1, context + frame], special_zero=False)
    heard = ops.pad(heard, [0, 0, 0], [0, 0, context], "reflect")
    heard = ops.convolution(heard, next(weights).reshape(-1, 1, window), [hop], [0], [0], [1])
    real, imaginary = ops.split(heard, np.int64(1), 2).outputs()
    heard = ops.sqrt(ops.add(ops.multiply(real, real), ops.multiply(imaginary, imaginary)))
    for channels, stride in LAYERS:
        heard = ops.convolution(heard, next(weights).reshape(channels, -1, 3), [stride], [1], [1], [1])
        heard = ops.relu(ops.add(heard, next(weights).reshape(1, channels, 1)))

    from_heard, from_past, bias, other_bias = (lstm_gates(next(weights)) for _ in range(4))
    nothing = ops.broadcast(np.float32(0), ops.concat([pieces, [1, MEMORY]], 0))
    remembered = ops.lstm_sequence(
        ops.reshape(heard, ops.concat([pieces, length, [MEMORY]], 0), special_zero=False),
        nothing,
        nothing,
        ops.broadcast(length, pieces),
        from_heard.reshape(1, -1, MEMORY),
        from_past.reshape(1, -1, MEMORY),
        (bias + other_bias).reshape(1, -1),
        MEMORY,
        "forward",
    ).output(0)
    chances = ops.matmul(ops.relu(remembered), next(weights).reshape(MEMORY, 1), False, False)
    chances = ops.sigmoid(ops.add(chances, next(weights)))
    chances = ops.reshape(chances, ops.concat([pieces, length], 0), special_zero=False)
    return compile_network(openvino.Model([chances], [frames], "silero"), threads=1)  # it is too small for more


def _weights(sample_rate: int) -> Iterator[Weights]:
    """Read the network's weights and biases, layer by layer, from silero's file: a zip archive of tensors.

    Raises: ConfigurationError where it is missing, or another version's, whose tensors may be numbered otherwise.
    """
    package = find_spec("silero_vad")
    if package is None or package.origin is None:
        raise ConfigurationError("The network that detects speech is missing", hint=INSTALL_NETWORKS)
    content = (Path(package.origin).with_name("data") / "silero_vad.jit").read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ConfigurationError(
            "The network that detects speech is of another version of silero-vad", hint=INSTALL_NETWORKS
        )
    with ZipFile(io.BytesIO(content)) as archive:
        folder = archive.namelist()[0].split("/")[0]
        for n in TENSORS[sample_rate]:
            yield np.frombuffer(archive.read(f"{folder}/data/{n}"), np.float32)
