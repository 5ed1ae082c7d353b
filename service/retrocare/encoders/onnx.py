"""Networks run by ONNX Runtime: a third less work than in torch, and torch need not be imported.

The first start exports the network into the model folder, in a process of its own, and compares the two. Every start
compares the file with torch's answers, which it carries. A network that does not agree is not used.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from retrocare.encoders.embedding import unit
from retrocare.encoders.families import load_in_torch
from retrocare.encoders.protocol import SAMPLE_RATE, TorchEncoder, Vectors, Windows
from retrocare.encoders.weights import Weights
from retrocare.errors import ConfigurationError
from retrocare.observability import Say, silently

LEAST_COSINE = 0.9999  # between torch's and ONNX Runtime's vectors of one window
OPSET = 17
EXPECTED, DESCRIBED = "retrocare.expected", "retrocare.encoder"  # the metadata of the file
EXPORT_SECONDS = 300.0


class OnnxEncoder:
    """Encode windows one by one: on a CPU a batch gains nothing and costs memory.

    Raises: ConfigurationError where the file cannot be read, or does not agree with torch.
    """

    def __init__(self, file: Path, threads: int) -> None:
        # One window per thread: threads that share a window take a tenth more work, and spin while they wait.
        self.threads = threads
        self._each = ThreadPoolExecutor(threads, "encoding").map if threads > 1 else map
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            carried = self._session.get_modelmeta().custom_metadata_map
            described, expected = json.loads(carried[DESCRIBED]), np.array(json.loads(carried[EXPECTED]))
        except Exception as error:  # whatever ONNX Runtime raises while it reads a file that is broken
            raise ConfigurationError(f"{file} cannot be read as an exported network") from error
        self.id: str = described["id"]
        self.dimension: int = described["dimension"]
        self.window_seconds: float = described["window_seconds"]
        self.agreement = float((self._answers() * expected).sum(axis=1).min())
        if not self.agreement >= LEAST_COSINE:
            raise ConfigurationError(f"{file} does not agree with torch: cosine {self.agreement:.6f}")

    def encode(self, windows: Windows) -> Vectors:
        return unit(np.concatenate(list(self._each(self._answer, windows))))

    def _answer(self, window: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        vector: npt.NDArray[np.float32] = self._session.run(None, {"windows": window[np.newaxis]})[0]
        return vector

    def _answers(self) -> Vectors:
        return np.concatenate([self.encode(windows) for windows in probes(self.window_seconds)])


def load_exported(weights: Weights, folder: Path, threads: int, say: Say = silently) -> OnnxEncoder:
    """Load the exported network; export it first where that has not been done.

    Raises: ConfigurationError where it cannot be exported, or does not agree with torch.
    """
    file = folder / f"{weights.id}-{_revision(weights)}.onnx"
    if file.is_file():
        try:
            return OnnxEncoder(file, threads)
        except ConfigurationError:
            file.unlink(missing_ok=True)  # cut short, or made for another ONNX Runtime: export it again
    say(f"Exporting {weights.id} for ONNX Runtime, and comparing it with torch: once, some ten seconds.")
    command = [sys.executable, "-m", "retrocare.encoders.onnx", weights.family, str(weights.path), str(file)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, timeout=EXPORT_SECONDS, capture_output=True, text=True)
    except subprocess.CalledProcessError as failed:
        last = (failed.stderr.strip() or "no reason given").splitlines()[-1]
        raise ConfigurationError(f"the network could not be exported: {last}") from None
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"the network was not exported within {EXPORT_SECONDS:g} s") from None
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {error.strerror}") from None
    return OnnxEncoder(file, threads)


def export(encoder: TorchEncoder, file: Path) -> None:
    """Write an encoder's network, and torch's answers for the probes, into one file.

    Raises: ConfigurationError where ONNX Runtime does not agree with them; then nothing is written.
    """
    import onnx
    import torch

    expected = np.concatenate([encoder.encode(windows) for windows in probes(encoder.window_seconds)])
    described = {"id": encoder.id, "dimension": encoder.dimension, "window_seconds": encoder.window_seconds}
    carried = {DESCRIBED: json.dumps(described), EXPECTED: json.dumps(expected.tolist())}
    with tempfile.TemporaryDirectory(dir=file.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # tracing warns of every number that it takes for a constant; the probes tell whether it matters
        unfinished = Path(folder) / file.name
        torch.onnx.export(
            encoder.network,
            (torch.from_numpy(probes(encoder.window_seconds)[0]),),
            unfinished,
            dynamo=False,
            opset_version=OPSET,
            input_names=["windows"],
            dynamic_axes={"windows": {1: "samples"}},
        )
        model = onnx.load(unfinished)
        onnx.helper.set_model_props(model, carried)
        onnx.save(model, unfinished)
        OnnxEncoder(unfinished, threads=1)
        os.replace(unfinished, file)


def probes(window_seconds: float) -> list[Windows]:
    """Return the windows on which two runtimes are compared: noise and tones that swell, of three lengths."""
    random = np.random.default_rng(0)
    found = []
    for seconds in (window_seconds, 0.7 * window_seconds, 0.4):
        times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        tones = sum(np.sin(2 * np.pi * n * (120 + 20 * np.sin(3 * times)) * times) / n for n in range(1, 20))
        swelling = 0.05 * (1 + np.sin(7 * times)) * (tones + random.normal(0, 0.5, len(times)))
        found.append(swelling.astype(np.float32)[np.newaxis])
    return found


def _revision(weights: Weights) -> str:
    """Return a word that changes with the weights and with the code that exports them."""
    sources = [Path(__file__).with_name(f"{name}.py") for name in ("onnx", "spectrum", weights.family)]
    parts = [weights.digest.encode(), *(source.read_bytes() for source in sources)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def main() -> None:
    """Export FAMILY WEIGHTS FILE, in a process of its own: a service need not load torch."""
    family, path, file = sys.argv[1:]
    try:
        export(load_in_torch(family, Path(path)), Path(file))
    except ConfigurationError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
