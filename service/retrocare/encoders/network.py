"""A trained network becomes an encoder: compiled for this processor, and compared with what other code computed.

Every start compares. A precision in which the network does not agree is not used.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import openvino

from retrocare.encoders.embedding import unit
from retrocare.encoders.protocol import SAMPLE_RATE, Vectors, Windows
from retrocare.engine import Precision, compile_network, fastest_precision
from retrocare.errors import ConfigurationError

# The least cosine between a vector and the answer for the same window. bf16 moves a voiceprint by a thousandth of what
# lies between two calls of one person (``scripts/bench engine``), so the precision is not part of an id.
LEAST_COSINE: dict[Precision, float] = {"f32": 0.9999, "bf16": 0.999}


@dataclass(frozen=True, eq=False)
class Network:
    """Hold a trained network, (windows, samples) to (windows, dimension), for any number of both.

    ``answers`` are its unit vectors for the probes, (3, dimension), computed by other code than the engine's.
    ``windows_at_once`` is how many are encoded in one batch: where more save no time, they only take memory.
    """

    model: openvino.Model
    window_seconds: float
    windows_at_once: int
    answers: Vectors

    @property
    def dimension(self) -> int:
        return int(self.answers.shape[1])


class NetworkEncoder:
    """Encode with a network, in batches.

    Raises: ConfigurationError where the network agrees with its answers in no precision.
    """

    def __init__(
        self, id: str, network: Network, *, denoises: bool, threads: int, precision: Precision | None = None
    ) -> None:
        self.id, self.denoises, self.threads = id, denoises, threads
        self.dimension, self.window_seconds = network.dimension, network.window_seconds
        self._at_once = network.windows_at_once
        self._one_at_a_time = threading.Lock()  # a request holds the memory of one inference
        disagreeing = []
        for tried in dict.fromkeys((precision or fastest_precision(), precision or "f32")):
            self.precision: Precision = tried
            try:
                self._request = compile_network(network.model, threads, tried).create_infer_request()
                vectors = np.concatenate([self.encode(windows) for windows in probes(self.window_seconds)])
            except RuntimeError as error:
                disagreeing.append(f"in {tried} it cannot be run ({str(error).splitlines()[-1]})")
                continue
            self.agreement = float((vectors * network.answers).sum(axis=1).min())
            if self.agreement >= LEAST_COSINE[tried]:
                break
            disagreeing.append(f"in {tried} its cosine to them is {self.agreement:.6f}")
        else:
            raise ConfigurationError(
                f"The network of {id} does not give the vectors that it should: {', '.join(disagreeing)}",
                hint="This processor may be broken, or OpenVINO: try another machine, or another version.",
            )

    def encode(self, windows: Windows) -> Vectors:
        with self._one_at_a_time:
            parts = [
                self._request.infer([windows[first : first + self._at_once]])[0].copy()
                for first in range(0, len(windows), self._at_once)
            ]
        return unit(np.concatenate(parts))


def probes(window_seconds: float) -> list[Windows]:
    """Return the windows on which the engine is compared: noise and tones that swell, of three lengths."""
    random = np.random.default_rng(0)
    found = []
    for seconds in (window_seconds, 0.7 * window_seconds, 0.4):
        times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        tones = sum(np.sin(2 * np.pi * n * (120 + 20 * np.sin(3 * times)) * times) / n for n in range(1, 20))
        swelling = 0.05 * (1 + np.sin(7 * times)) * (tones + random.normal(0, 0.5, len(times)))
        found.append(swelling.astype(np.float32)[np.newaxis])
    return found
