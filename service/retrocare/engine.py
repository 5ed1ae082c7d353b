"""Run networks on this processor, by OpenVINO, in the precision in which it is fastest.

``scripts/bench engine`` compares it with torch.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import openvino

from retrocare.errors import ConfigurationError

Precision = Literal["f32", "bf16"]

# Only the trained networks of these packages are used; what the packages depend on needs PyTorch and a compiler.
INSTALL_NETWORKS = "pip install --no-deps Resemblyzer==0.1.4 silero-vad==6.2.3"


def fastest_precision() -> Precision:
    """Return bf16 where the processor computes with it, else f32.

    f16, OpenVINO's choice on ARM, is never taken: the power of quiet speech is below its smallest number.
    """
    return "bf16" if "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def read_network(file: Path) -> openvino.Model:
    """Read a network from a file in OpenVINO's own format.

    Raises: ConfigurationError where it cannot be read.
    """
    try:
        return _core().read_model(file)
    except RuntimeError as error:
        raise ConfigurationError(f"{file} cannot be read as a network") from error


def compile_network(model: openvino.Model, threads: int, precision: Precision = "f32") -> openvino.CompiledModel:
    """Prepare a network for this processor; all threads work on one request, and none is pinned to a core."""
    properties = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # or two workers on one machine would share the first cores
    }
    return _core().compile_model(model, "CPU", properties)


def lstm_gates(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Bring the rows of an LSTM from torch's order of gates (input, forget, cell, output) into the engine's.

    That is forget, input, cell, output.
    """
    enter, forget, cell, leave = np.split(weights, 4)
    return np.concatenate([forget, enter, cell, leave])


@cache
def _core() -> openvino.Core:
    return openvino.Core()
