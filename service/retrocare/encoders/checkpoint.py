"""Read the tensors of a torch checkpoint without torch: the format in which torch wrote files before 1.6.

Such a file is five pickles (magic number, version, machine, the object, the names of the storages), then the storages.
A pickle may run any code; here it may name nothing but what describes a tensor.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from retrocare.errors import ConfigurationError

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Stored:
    """Say where in which storage a tensor lies."""

    storage: str
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_tensors(file: Path, name: str) -> dict[str, Tensor]:
    """Return the float32 tensors of the dictionary that a checkpoint holds under a name.

    Raises: ConfigurationError where the file is not of that format, or holds anything but tensors.
    """
    try:
        with file.open("rb") as content:
            magic, version, _ = (_Unpickler(content).load() for _ in range(3))
            if (magic, version) != (MAGIC, VERSION):
                raise ValueError("another format")
            described = _Unpickler(content).load()[name]
            storages = {key: _read_storage(content) for key in _Unpickler(content).load()}
            return {key: _tensor(stored, storages[stored.storage]) for key, stored in described.items()}
    except (
        pickle.UnpicklingError,
        struct.error,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        EOFError,
        OverflowError,
        MemoryError,
    ) as error:
        raise ConfigurationError(f"{file} cannot be read as a torch checkpoint: {error}") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _described
        if (module, name) == ("torch", "FloatStorage"):
            return np.float32
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> str:
        kind, element, key, *_ = pid
        if (kind, element) != ("storage", np.float32):
            raise pickle.UnpicklingError("it holds numbers other than float32")
        return str(key)


def _described(storage: str, first: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _Stored:
    return _Stored(storage, first, shape, strides)


def _read_storage(content: BinaryIO) -> Tensor:
    (count,) = struct.unpack("<q", content.read(8))
    return np.frombuffer(content.read(4 * count), "<f4", count)


def _tensor(stored: _Stored, storage: Tensor) -> Tensor:
    """Copy a tensor out of its storage; one that reaches beyond it raises ValueError."""
    if np.prod(stored.shape, dtype=float) > len(storage):
        raise ValueError("a tensor is larger than its storage")
    span = 1 + sum((size - 1) * stride for size, stride in zip(stored.shape, stored.strides, strict=True))
    lies = storage[stored.first : stored.first + span]
    if stored.first < 0 or min(stored.strides, default=0) < 0 or len(lies) != span:
        raise ValueError("a tensor reaches beyond its storage")
    return np.lib.stride_tricks.as_strided(lies, stored.shape, [4 * stride for stride in stored.strides]).copy()
