"""Voice activity detection: silero's network, run by ONNX Runtime over many pieces of a call at once.

The network is a file of the package silero-vad. The package itself is not imported, since that imports torch, which
takes seconds and 200 MB. The result equals that of silero's own ``get_speech_timestamps``, to the sample.

Source: Silero Team, Silero VAD 6.2 (MIT): network, thresholds and durations.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from retrocare.errors import ConfigurationError

Stretches = list[tuple[int, int]]  # (first sample, one after the last)

SPEECH_BEGINS, SPEECH_ENDS = 0.5, 0.35  # probabilities
LEAST_SPEECH_SECONDS, LEAST_PAUSE_SECONDS, MARGIN_SECONDS = 0.25, 0.1, 0.03
STATE = (2, 128)  # of the network, for each piece


def find_stretches(pieces: npt.NDArray[np.float32], sample_rate: int) -> list[Stretches]:
    """Find the stretches of speech in each piece.

    Shapes: pieces is (pieces, samples), at 8 or 16 kHz; upsampled telephone speech is hardly detected.
    """
    frame = sample_rate * 32 // 1000
    return [
        _with_margins(_stretches(piece, frame, pieces.shape[1], sample_rate), pieces.shape[1], sample_rate)
        for piece in _probabilities(pieces, frame, sample_rate)
    ]


def _probabilities(pieces: npt.NDArray[np.float32], frame: int, sample_rate: int) -> npt.NDArray[np.float32]:
    """Return the probability of speech in each frame, (pieces, frames); a frame is preceded by the end of the last."""
    context, frames = frame // 8, -(-pieces.shape[1] // frame)
    padded = np.pad(pieces, ((0, 0), (context, frames * frame - pieces.shape[1])))
    state = np.zeros((STATE[0], len(pieces), STATE[1]), np.float32)
    found = np.empty((len(pieces), frames), np.float32)
    network, rate = _network(), np.array(sample_rate)
    for n in range(frames):
        seen = padded[:, n * frame : (n + 1) * frame + context]
        chances, state = network.run(None, {"input": seen, "state": state, "sr": rate})
        found[:, n] = chances[:, 0]
    return found


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
    """Extend each stretch by a margin at both ends; pauses are longer than two margins."""
    margin = int(MARGIN_SECONDS * sample_rate)
    return [(max(0, start - margin), min(samples, end + margin)) for start, end in stretches]


@cache
def _network() -> onnxruntime.InferenceSession:
    package = find_spec("silero_vad")
    if package is None or package.origin is None:
        raise ConfigurationError("The voice activity network is missing", hint="pip install silero-vad")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # it is too small for more
    path = Path(package.origin).with_name("data") / "silero_vad.onnx"
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
