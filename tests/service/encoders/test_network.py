"""network.py, conversion.py and ge2e.py: the engine gives what other code gives, in every precision, or is not used."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import openvino
import pytest

from fixtures.networks import Ge2eInTorch, noise, run_python
from retrocare.audio.decode import Samples, decode
from retrocare.audio.speech import RecordingLimits, find_speech
from retrocare.cli.demo import RECORDINGS
from retrocare.encoders.checkpoint import read_tensors
from retrocare.encoders.conversion import DESCRIPTION, NETWORK, convert, converted_folder, load_converted
from retrocare.encoders.ecapa import Ecapa
from retrocare.encoders.embedding import cut, embed
from retrocare.encoders.ge2e import load_ge2e, mel_power, reference
from retrocare.encoders.network import LEAST_COSINE, Network, NetworkEncoder, probes
from retrocare.encoders.protocol import SAMPLE_RATE, Vectors
from retrocare.encoders.spectrum import mel_bands
from retrocare.encoders.weights import ecapa_weights, ge2e_weights
from retrocare.engine import Precision, compile_network, fastest_precision
from retrocare.errors import ConfigurationError
from retrocare.observability import silently

PRECISIONS: list[Precision] = list(dict.fromkeys(("f32", fastest_precision())))


@pytest.fixture(scope="module")
def ge2e() -> Network:
    return load_ge2e(ge2e_weights().path)


@pytest.fixture
def converted(ecapa_dir: Path, models: Path, tmp_path: Path) -> Path:
    """The folder of a converted ECAPA, to be spoiled."""
    weights = ecapa_weights(ecapa_dir)
    load_converted(weights, models, silently)
    return Path(shutil.copytree(converted_folder(weights, models), converted_folder(weights, tmp_path)))


def speech() -> Samples:
    audio = decode((RECORDINGS / "01-enrol-monday.flac").read_bytes(), None, 600)
    return find_speech(audio, RecordingLimits(3, 8, 0.01, 600)).samples


def compiled(network: Network, threads: int = 1, precision: Precision | None = None) -> NetworkEncoder:
    return NetworkEncoder("tried-v1", network, denoises=False, threads=threads, precision=precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("seconds", [None, 0.5, 1.0, 1.3])
@pytest.mark.parametrize("family", ["ge2e", "ecapa"])
def test_the_engine_says_of_speech_what_torch_says(
    family: str, seconds: float | None, precision: Precision, ge2e: Network, ecapa_dir: Path, models: Path
) -> None:
    in_torch = Ge2eInTorch() if family == "ge2e" else Ecapa(ecapa_dir)
    network = ge2e if family == "ge2e" else load_converted(ecapa_weights(ecapa_dir), models, silently)
    by_engine = compiled(network, 2, precision)
    windows = cut(speech(), seconds or network.window_seconds)
    cosines = (by_engine.encode(windows) * in_torch.encode(windows)).sum(axis=1)
    assert cosines.min() > (0.99999 if precision == "f32" else 0.998)  # small random networks round more than trained


def test_ge2e_written_in_numpy_says_what_torch_says() -> None:
    windows = cut(speech(), 1.6)
    vectors = reference(read_tensors(ge2e_weights().path, "model_state"), windows)
    np.testing.assert_allclose(vectors, Ge2eInTorch().encode(windows), atol=1e-5)


@pytest.mark.parametrize("seconds", [0.1, 1.6])
def test_ge2e_has_the_mel_front_end_that_its_weights_were_trained_with(seconds: float) -> None:
    samples = noise(seconds)
    levelled = samples * 10 ** (-30 / 20) / np.sqrt(np.mean(np.square(samples)))
    expected = librosa.feature.melspectrogram(y=levelled, sr=16_000, n_fft=400, hop_length=160, n_mels=40)
    np.testing.assert_allclose(mel_power(samples[np.newaxis])[0], expected.T, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("rate", "frame", "bands"), [(16_000, 400, 40), (8_000, 256, 23), (48_000, 2048, 128)])
def test_mel_bands_are_librosas(rate: int, frame: int, bands: int) -> None:
    expected = librosa.filters.mel(sr=rate, n_fft=frame, n_mels=bands)
    np.testing.assert_allclose(mel_bands(rate, frame, bands), expected, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_lower_precision_moves_a_voiceprint_by_less_than_a_hundredth_of_what_lies_between_calls(
    ge2e: Network, precision: Precision
) -> None:
    encoder, exactly = compiled(ge2e, precision=precision), compiled(ge2e, precision="f32")
    limits = RecordingLimits(3, 8, 0.01, 600)
    calls = [find_speech(decode(path.read_bytes(), None, 600), limits) for path in sorted(RECORDINGS.glob("0[1-8]*"))]
    vectors = np.stack([embed(call.samples, encoder).vector for call in calls])
    exact = np.stack([embed(call.samples, exactly).vector for call in calls])
    moved = 1 - (vectors * exact).sum(axis=1)
    between = 1 - (exact @ exact.T)[np.triu_indices(len(exact), 1)]
    assert moved.max() < 0.01 * np.median(between)


def test_a_network_that_does_not_say_what_it_must_is_not_used(ge2e: Network) -> None:
    wrong = dataclasses.replace(ge2e, answers=ge2e.answers[:, ::-1])
    with pytest.raises(ConfigurationError, match="does not give the vectors that it should: in") as refused:
        compiled(wrong)
    assert all(f"in {precision} its cosine" in str(refused.value) for precision in PRECISIONS)


def test_where_a_network_is_wrong_in_low_precision_only_it_runs_in_f32(
    ge2e: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrocare.encoders.network.fastest_precision", lambda: "bf16")
    monkeypatch.setitem(LEAST_COSINE, "bf16", 1.1)
    encoder = compiled(ge2e)
    assert encoder.precision == "f32"
    assert encoder.agreement > LEAST_COSINE["f32"]


def test_where_a_network_cannot_be_compiled_in_low_precision_it_runs_in_f32(
    ge2e: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_in_f32(model: openvino.Model, threads: int, precision: Precision) -> openvino.CompiledModel:
        if precision != "f32":
            raise RuntimeError("could not create a primitive")
        return compile_network(model, threads, precision)

    monkeypatch.setattr("retrocare.encoders.network.fastest_precision", lambda: "bf16")
    monkeypatch.setattr("retrocare.encoders.network.compile_network", only_in_f32)
    assert compiled(ge2e).precision == "f32"


def test_a_start_loads_neither_torch_nor_librosa(ecapa_dir: Path, models: Path) -> None:
    load_converted(ecapa_weights(ecapa_dir), models, silently)
    program = f"""
import pathlib, sys
from retrocare.encoders.loading import load_encoder
from retrocare.audio.speech import find_speech
models, ecapa = pathlib.Path({str(models)!r}), pathlib.Path({str(ecapa_dir)!r})
for name in ("ge2e", "ecapa"):
    print(load_encoder(name, model_dir=models, ecapa_dir=ecapa).encoder.agreement > 0.999)
absent = ("torch", "librosa", "scipy", "speechbrain", "onnx", "huggingface_hub")
print([name for name in absent if name in sys.modules])
"""
    assert run_python(program).splitlines() == ["True", "True", "[]"]


def test_a_conversion_asks_no_network_for_anything_and_starts_nothing_and_needs_no_onnx(
    ecapa_dir: Path, tmp_path: Path
) -> None:
    program = f"""
import pathlib, sys
sys.modules["onnx"] = None
asked = []
sys.addaudithook(lambda event, arguments: asked.append(event))
from retrocare.encoders.conversion import convert
convert(pathlib.Path({str(ecapa_dir)!r}), pathlib.Path({str(tmp_path / "converted")!r}))
print([event for event in asked if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen")])
"""
    assert run_python(program) == "[]"


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        (NETWORK, lambda content: content[: len(content) // 2]),
        ("network.bin", lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]),
        (DESCRIPTION, lambda content: b"{}"),
    ],
)
def test_files_that_are_damaged_are_converted_again(
    converted: Path, ecapa_dir: Path, name: str, spoil: Callable[[bytes], bytes]
) -> None:
    file = converted / name
    whole = file.read_bytes()
    file.write_bytes(spoil(whole))
    told: list[str] = []
    network = load_converted(ecapa_weights(ecapa_dir), converted.parent.parent, told.append)
    assert compiled(network).agreement > LEAST_COSINE["bf16"]
    assert [" ".join(line.split()[:3]) for line in told] == ["The converted network", "Converting ECAPA for"]
    assert [found.name for found in converted.parent.iterdir()] == [converted.name]


def test_files_that_cannot_be_read_for_a_moment_are_kept_where_they_cannot_be_made_again(
    converted: Path, ecapa_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise ConfigurationError("ECAPA needs torch, which is not installed")

    def fail(file: Path) -> openvino.Model:
        raise ConfigurationError("too many open files")

    monkeypatch.setattr("retrocare.encoders.conversion.require_torch", absent)
    with monkeypatch.context() as broken:
        broken.setattr("retrocare.encoders.conversion.read_network", fail)
        with pytest.raises(ConfigurationError, match="needs torch"):
            load_converted(ecapa_weights(ecapa_dir), converted.parent.parent, silently)
    assert load_converted(ecapa_weights(ecapa_dir), converted.parent.parent, silently).dimension == 192


def test_a_converted_network_is_read_without_a_word_the_second_time(converted: Path, ecapa_dir: Path) -> None:
    told: list[str] = []
    load_converted(ecapa_weights(ecapa_dir), converted.parent.parent, told.append)
    assert told == []


def test_a_conversion_that_disagrees_with_torch_leaves_nothing_behind(
    ecapa_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ecapa, "encode", lambda self, windows: np.eye(1, 192, dtype=np.float32))
    with pytest.raises(ConfigurationError, match="does not give the vectors"):
        convert(ecapa_dir, tmp_path / "converted")
    assert list(tmp_path.iterdir()) == []


def test_other_weights_are_converted_to_another_place(converted: Path, ecapa_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "weights"
    other.mkdir()
    for file in ecapa_dir.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    with (other / "hyperparams.yaml").open("a") as description:
        description.write("# another front end\n")
    load_converted(ecapa_weights(other), tmp_path, silently)
    assert len(list(converted.parent.iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_named(ecapa_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "converted").write_text("in the way")
    with pytest.raises(ConfigurationError, match=f"converted cannot be written: {os.strerror(17)}") as refused:
        load_converted(ecapa_weights(ecapa_dir), tmp_path, silently)
    assert "RETROCARE_MODEL_DIR" in refused.value.hint


@pytest.mark.parametrize("seconds", [8.0, 40.0])
def test_a_window_has_the_same_vector_alone_and_among_others(ge2e: Network, seconds: float) -> None:
    encoder = compiled(ge2e, 2)
    windows = cut(noise(seconds), encoder.window_seconds)
    alone = np.concatenate([encoder.encode(window[np.newaxis]) for window in windows])
    assert (encoder.encode(windows) * alone).sum(axis=1).min() > 0.9999


def test_threads_that_encode_at_once_get_each_their_own_vectors(ge2e: Network) -> None:
    encoder = compiled(ge2e)
    given = [cut(noise(5, seed), encoder.window_seconds) for seed in range(4)]
    alone = [encoder.encode(windows) for windows in given]
    together: dict[int, Vectors] = {}

    def encode(n: int) -> None:
        for _ in range(5):
            together[n] = encoder.encode(given[n])

    threads = [threading.Thread(target=encode, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for n in range(4):
        np.testing.assert_array_equal(together[n], alone[n])


def test_the_probes_are_of_three_lengths_and_the_same_each_time() -> None:
    first, second = probes(1.6), probes(1.6)
    assert [windows.shape for windows in first] == [(1, round(n * SAMPLE_RATE)) for n in (1.6, 1.12, 0.4)]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
