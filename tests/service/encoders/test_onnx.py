"""onnx.py: exported networks say what torch says; a file that does not is not used; torch is not needed again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from fixtures.networks import noise, run_python
from retrocare.audio.decode import Samples, decode
from retrocare.audio.speech import RecordingLimits, find_speech
from retrocare.cli.demo import RECORDINGS
from retrocare.encoders.ecapa import Ecapa
from retrocare.encoders.embedding import cut
from retrocare.encoders.ge2e import Ge2e
from retrocare.encoders.loading import load_encoder
from retrocare.encoders.onnx import EXPECTED, LEAST_COSINE, OnnxEncoder, export, load_exported
from retrocare.encoders.protocol import TorchEncoder
from retrocare.encoders.weights import ecapa_weights, ge2e_weights
from retrocare.errors import ConfigurationError


def speech() -> Samples:
    audio = decode((RECORDINGS / "01-enrol-monday.flac").read_bytes(), None, 600)
    return find_speech(audio, RecordingLimits(3, 8, 0.01, 600)).samples


def altered(file: Path, change: Callable[[list[list[float]]], object]) -> None:
    """Change what the file says that torch had said."""
    model = onnx.load(file)
    carried = {entry.key: entry.value for entry in model.metadata_props}
    expected = json.loads(carried[EXPECTED])
    change(expected)
    onnx.helper.set_model_props(model, carried | {EXPECTED: json.dumps(expected)})
    onnx.save(model, file)


@pytest.fixture
def exported(models: Path, tmp_path: Path) -> Path:
    """A folder with the exported GE2E, to be spoiled."""
    load_exported(ge2e_weights(), models / "onnx", 1)
    file = max((models / "onnx").glob("ge2e-v1-*.onnx"), key=lambda found: found.stat().st_mtime)
    folder = tmp_path / "onnx"
    folder.mkdir()
    (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("seconds", [None, 0.5, 1.0, 1.3])
@pytest.mark.parametrize("family", ["ge2e", "ecapa"])
def test_an_exported_network_says_of_speech_what_torch_says(
    family: str, seconds: float | None, ecapa_dir: Path, tmp_path: Path, models: Path
) -> None:
    weights = ge2e_weights() if family == "ge2e" else ecapa_weights(ecapa_dir)
    in_torch: TorchEncoder = Ge2e() if family == "ge2e" else Ecapa(ecapa_dir)
    by_onnx = load_exported(weights, models / "onnx", 2)
    described = (in_torch.id, in_torch.dimension, in_torch.window_seconds)
    assert (by_onnx.id, by_onnx.dimension, by_onnx.window_seconds) == described
    windows = cut(speech(), seconds or in_torch.window_seconds)
    cosines = (by_onnx.encode(windows) * in_torch.encode(windows)).sum(axis=1)
    assert cosines.min() > 0.99999


def test_a_second_start_loads_neither_torch_nor_librosa(exported: Path) -> None:
    program = f"""
import pathlib, sys
from retrocare.encoders.loading import load_encoder
from retrocare.audio.speech import find_speech
print(load_encoder("ge2e", model_dir=pathlib.Path({str(exported.parent)!r}), ecapa_dir=None).encoder.agreement > 0.9999)
print([name for name in ("torch", "librosa", "speechbrain", "numba") if name in sys.modules])
"""
    assert run_python(program).splitlines() == ["True", "[]"]


def test_a_file_that_does_not_say_what_torch_said_is_refused(exported: Path) -> None:
    [file] = exported.iterdir()
    agreed = OnnxEncoder(file, 1)
    assert agreed.agreement > 0.99999
    altered(file, lambda expected: expected[0].reverse())
    with pytest.raises(ConfigurationError, match="does not agree with torch"):
        OnnxEncoder(file, 1)


@pytest.mark.parametrize(
    "spoil", [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"no network"]
)
def test_a_file_that_was_cut_short_is_exported_again(exported: Path, spoil: Callable[[bytes], bytes]) -> None:
    [file] = exported.iterdir()
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        OnnxEncoder(file, 1)
    told: list[str] = []
    assert load_exported(ge2e_weights(), exported, 1, told.append).agreement > LEAST_COSINE
    assert [line.partition(" for ")[0] for line in told] == ["Exporting ge2e-v1"]
    assert [found.name for found in exported.iterdir()] == [file.name]


def test_an_export_that_disagrees_with_torch_leaves_no_file_behind(tmp_path: Path) -> None:
    class Disagreeing(Ge2e):
        def encode(self, windows: object) -> np.ndarray:
            return np.eye(1, self.dimension, dtype=np.float32)

    with pytest.raises(ConfigurationError, match="does not agree with torch"):
        export(Disagreeing(), tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []


def test_other_weights_are_another_file(models: Path, ecapa_dir: Path, tmp_path: Path) -> None:
    load_exported(ecapa_weights(ecapa_dir), tmp_path, 1)
    other = tmp_path / "weights"
    other.mkdir()
    for file in ecapa_dir.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    with (other / "hyperparams.yaml").open("a") as description:
        description.write("# another front end\n")
    load_exported(ecapa_weights(other), tmp_path, 1)
    assert len(list(tmp_path.glob("*.onnx"))) == 2


def test_torch_runs_what_cannot_be_exported_and_the_reason_is_said(tmp_path: Path) -> None:
    (tmp_path / "onnx").write_text("in the way")
    choice = load_encoder("ge2e", model_dir=tmp_path, ecapa_dir=None)
    assert isinstance(choice.encoder, Ge2e)
    assert choice.why.endswith(f"torch runs it: {tmp_path / 'onnx'} cannot be written: {os.strerror(17)}")


def test_a_window_has_the_same_vector_alone_and_among_others(models: Path) -> None:
    encoder = load_exported(ge2e_weights(), models / "onnx", 2)
    windows = cut(noise(8), encoder.window_seconds)
    np.testing.assert_array_equal(
        encoder.encode(windows), np.concatenate([encoder.encode(window[np.newaxis]) for window in windows])
    )
