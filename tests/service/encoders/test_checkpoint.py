"""checkpoint.py: the same tensors as torch reads; a file that asks for anything else is refused and runs nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retrocare.encoders.checkpoint import MAGIC, VERSION, read_tensors
from retrocare.encoders.weights import ge2e_weights
from retrocare.errors import ConfigurationError


def written(file: Path, held: object) -> Path:
    torch.save(held, file, _use_new_zipfile_serialization=False)
    return file


def pickled(file: Path, *objects: Any) -> Path:
    file.write_bytes(b"".join(pickle.dumps(one, protocol=2) for one in objects))
    return file


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_the_weights_of_ge2e_are_read_as_torch_reads_them() -> None:
    state = torch.load(ge2e_weights().path, map_location="cpu", weights_only=True)["model_state"]
    found = read_tensors(ge2e_weights().path, "model_state")
    assert list(found) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value.numpy())


def test_tensors_that_share_a_storage_are_told_apart(tmp_path: Path) -> None:
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    held = {"whole": whole, "turned": whole.T, "part": whole[1:3, ::2], "one": torch.tensor(7.0), "none": whole[:0]}
    found = read_tensors(written(tmp_path / "a.pt", {"held": held}), "held")
    for name, value in held.items():
        np.testing.assert_array_equal(found[name], value.numpy())


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    machine = {"little_endian": True}
    for objects in ([Runs()], [MAGIC, VERSION, Runs()], [MAGIC, VERSION, machine, {"model_state": Runs()}, []]):
        with pytest.raises(ConfigurationError, match=r"it asks for posix\.mkdir"):
            read_tensors(pickled(tmp_path / "a.pt", *objects), "model_state")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize(
    "held",
    [{"other": {}}, {"model_state": {"a": torch.zeros(2, dtype=torch.float64)}}, {"model_state": {"a": 3}}, [1, 2]],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, held: object) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read as a torch checkpoint"):
        read_tensors(written(tmp_path / "a.pt", held), "model_state")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
def test_a_checkpoint_that_was_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    whole = written(tmp_path / "a.pt", {"model_state": {"a": torch.zeros(50, 50)}}).read_bytes()
    (tmp_path / "b.pt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ConfigurationError, match="cannot be read as a torch checkpoint"):
        read_tensors(tmp_path / "b.pt", "model_state")


def test_a_checkpoint_of_the_newer_format_is_refused(tmp_path: Path) -> None:
    torch.save({"model_state": {"a": torch.zeros(3)}}, tmp_path / "a.pt")
    with pytest.raises(ConfigurationError, match="cannot be read as a torch checkpoint"):
        read_tensors(tmp_path / "a.pt", "model_state")


def test_a_small_file_cannot_ask_for_a_large_tensor(tmp_path: Path) -> None:
    file = written(tmp_path / "a.pt", {"model_state": {"a": torch.zeros(1).expand(1 << 40)}})
    with pytest.raises(ConfigurationError, match="larger than its storage"):
        read_tensors(file, "model_state")


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "a.pt", {"model_state": {"a": torch.zeros(300)}})
    content = file.read_bytes()
    assert content.count(b"M,\x01\x85") == 1  # the shape (300,), as pickle writes it
    file.write_bytes(content.replace(b"M,\x01\x85", b"M-\x01\x85"))
    with pytest.raises(ConfigurationError, match="larger than its storage"):
        read_tensors(file, "model_state")
