"""vad.find_stretches(): what silero's own code finds with its own network."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from fixtures.networks import run_python
from retrocare.audio.decode import Samples, decode
from retrocare.audio.vad import Stretches, find_stretches
from retrocare.cli.demo import RECORDINGS
from retrocare.engine import INSTALL_NETWORKS


@pytest.fixture(scope="module")
def silero() -> Iterator[Callable[[Samples, int], Stretches]]:
    """Silero's own code, on one thread: it is too small for more."""
    threads = torch.get_num_threads()
    import silero_vad

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch deprecates TorchScript, silero's other format
        network = silero_vad.load_silero_vad(onnx=False)

    def find(samples: Samples, sample_rate: int) -> Stretches:
        found = silero_vad.get_speech_timestamps(torch.from_numpy(samples), network, sampling_rate=sample_rate)
        return [(stretch["start"], min(stretch["end"], len(samples))) for stretch in found]

    yield find
    torch.set_num_threads(threads)


def levelled(file: Path) -> tuple[Samples, int]:
    audio = decode(file.read_bytes(), None, 600)
    level = np.float32(0.07 / max(audio.loudness, 1e-9))
    return np.clip(audio.samples * level, -1, 1), audio.sample_rate


@pytest.mark.parametrize("name", sorted(file.name for file in RECORDINGS.glob("*.flac")))
def test_it_finds_what_silero_finds_in_the_demo(silero: Callable[[Samples, int], Stretches], name: str) -> None:
    samples, sample_rate = levelled(RECORDINGS / name)
    assert find_stretches(samples[np.newaxis], sample_rate) == [silero(samples, sample_rate)]


@pytest.mark.parametrize("corpus", ["librispeech", "digits"])
def test_it_finds_what_silero_finds_in_real_speech(
    silero: Callable[[Samples, int], Stretches], speech_dir: Path, corpus: str
) -> None:
    files = sorted((speech_dir / corpus).glob("*/*.flac"))[::9]
    assert len(files) > 5
    for file in files:
        samples, sample_rate = levelled(file)
        assert find_stretches(samples[np.newaxis], sample_rate) == [silero(samples, sample_rate)], file.name


def test_a_piece_has_the_same_stretches_alone_and_among_others() -> None:
    samples, sample_rate = levelled(RECORDINGS / "01-enrol-monday.flac")
    spoken = np.resize(samples, (4, 5 * sample_rate))
    pieces = np.concatenate([spoken, np.zeros((1, 5 * sample_rate), np.float32)])
    together = find_stretches(pieces, sample_rate)
    assert together == [find_stretches(piece[np.newaxis], sample_rate)[0] for piece in pieces]
    assert together[-1] == []
    assert all(together[:-1])


@pytest.mark.parametrize("seconds", [0.01, 0.2, 0.3])
def test_a_piece_may_be_shorter_than_a_frame(seconds: float) -> None:
    assert find_stretches(np.zeros((1, int(16_000 * seconds)), np.float32), 16_000) == [[]]


def test_threads_that_ask_at_once_get_what_each_gets_alone() -> None:
    samples, sample_rate = levelled(RECORDINGS / "01-enrol-monday.flac")
    calls = [np.resize(samples[n * 8_000 :], (1 + n % 3, 5 * sample_rate)) for n in range(12)]
    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(lambda call: find_stretches(call, sample_rate), calls))
    assert at_once == [find_stretches(call, sample_rate) for call in calls]


def test_it_needs_neither_torch_nor_silero_itself() -> None:
    program = "import sys; import retrocare.audio.vad as v, numpy as n; v.find_stretches(n.zeros((1, 8000), 'f'), 8000)"
    program += "; print({'torch', 'silero_vad', 'onnx', 'onnxruntime'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "set()"


def silero_in(folder: Path, version: bytes) -> None:
    """Put a package of silero's name into a folder, whose network is of no known version."""
    (folder / "silero_vad" / "data").mkdir(parents=True)
    (folder / "silero_vad" / "__init__.py").touch()
    (folder / "silero_vad" / "data" / "silero_vad.jit").write_bytes(version)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_network_that_is_missing_or_of_another_version_is_refused_with_the_command_that_installs_it(
    tmp_path: Path, is_there: bool
) -> None:
    if is_there:
        silero_in(tmp_path, b"another version")
    program = f"""
import sys
{"" if is_there else "sys.modules['silero_vad'] = None"}
import retrocare.audio.vad as vad, numpy
from retrocare.errors import ConfigurationError
try:
    vad.find_stretches(numpy.zeros((1, 8000), "f"), 8000)
except ConfigurationError as error:
    print(error, error.hint, sep="|")
"""
    what = "of another version of silero-vad" if is_there else "missing"
    said = run_python(program, tmp_path)
    assert said == f"The network that detects speech is {what}|{INSTALL_NETWORKS}"
