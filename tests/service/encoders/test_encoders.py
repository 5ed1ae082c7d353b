"""Windows, unit vectors, which encoder is chosen, and where its weights come from."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fixtures.networks import SMALL, described, noise, run_python
from retrocare.audio.decode import decode
from retrocare.audio.speech import RecordingLimits, find_speech
from retrocare.cli.demo import RECORDINGS
from retrocare.encoders.ecapa import WINDOW_SECONDS, Ecapa
from retrocare.encoders.embedding import OUTLIER_SHARE, cut, embed
from retrocare.encoders.ge2e import load_ge2e
from retrocare.encoders.loading import available_cores, load_encoder
from retrocare.encoders.network import NetworkEncoder
from retrocare.encoders.protocol import Vectors, Windows
from retrocare.encoders.weights import CHECKPOINT, DESCRIPTION, REPOSITORY, ecapa_weights, ge2e_weights
from retrocare.errors import ConfigurationError


class Fixed:
    """An encoder that answers with what it was given."""

    id, dimension, window_seconds, denoises = "fixed-v1", 2, 1.0, False

    def __init__(self, *vectors: tuple[float, float]) -> None:
        self.vectors = np.array(vectors, np.float32)

    def encode(self, windows: Windows) -> Vectors:
        return np.resize(self.vectors, (len(windows), 2))


@pytest.fixture(scope="module")
def ge2e() -> NetworkEncoder:
    return NetworkEncoder("ge2e-v1", load_ge2e(ge2e_weights().path), denoises=False, threads=1)


@pytest.fixture
def silent_hub() -> Iterator[str]:
    """A model hub that accepts the connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


# Windows


@pytest.mark.parametrize(
    ("seconds", "windows"), [(0.4, 1), (1.6, 1), (1.61, 2), (3.2, 2), (3.21, 3), (8.0, 5), (29.97, 19)]
)
def test_cut_covers_every_sample_with_evenly_spaced_windows_the_last_at_the_end(seconds: float, windows: int) -> None:
    numbered = np.arange(round(seconds * 16_000), dtype=np.float32)
    cuts = cut(numbered, 1.6)
    assert cuts.shape == (windows, min(len(numbered), 25_600))
    assert (cuts[0, 0], cuts[-1, -1]) == (0, len(numbered) - 1)
    assert set(cuts.ravel()) == set(numbered)
    steps = np.diff(cuts[:, 0])
    assert windows == 1 or steps.max() - steps.min() <= 1


def test_cut_leaves_speech_shorter_than_a_window_as_it_is() -> None:
    np.testing.assert_array_equal(cut(noise(0.5), 1.6), noise(0.5)[np.newaxis])


def test_embed_is_the_unit_mean_of_the_windows_and_says_how_far_they_agree() -> None:
    embedding = embed(noise(2), Fixed((1, 0), (0, 1)))
    np.testing.assert_allclose(embedding.vector, [np.sqrt(0.5), np.sqrt(0.5)], atol=1e-6)
    assert embedding.windows == 2
    assert embedding.agreement == pytest.approx(np.sqrt(0.5))
    assert embed(noise(2), Fixed((0.6, 0.8))).agreement == pytest.approx(1)


@pytest.mark.parametrize("vectors", [[(0, 0)], [(np.nan, 1)], [(np.inf, 0)], [(1, 0), (-1, 0)]])
def test_embed_never_returns_a_vector_without_a_direction(vectors: list[tuple[float, float]]) -> None:
    with pytest.raises(RuntimeError, match="without a direction"):
        embed(noise(2), Fixed(*vectors))


def of_angles(*degrees: float) -> list[tuple[float, float]]:
    return [(float(np.cos(np.radians(angle))), float(np.sin(np.radians(angle)))) for angle in degrees]


def test_embed_leaves_out_the_windows_of_somebody_else_and_counts_them() -> None:
    embedding = embed(noise(5), Fixed(*of_angles(10, 20, 90, 15, 5)))
    assert (embedding.windows, embedding.outlier_windows) == (4, 1)
    np.testing.assert_allclose(embedding.vector, of_angles(12.5)[0], atol=1e-6)
    assert embedding.agreement == pytest.approx(np.mean(np.cos(np.radians([2.5, 7.5, 2.5, 7.5]))))


def test_embed_keeps_windows_that_vary_as_a_voice_does() -> None:
    widest = np.degrees(np.arccos(OUTLIER_SHARE)) - 1
    embedding = embed(noise(5), Fixed(*of_angles(0, 0, 0, 0, widest)))
    assert (embedding.windows, embedding.outlier_windows) == (5, 0)


def test_embed_measures_outliers_by_how_far_this_speakers_windows_usually_are() -> None:
    assert embed(noise(5), Fixed(*of_angles(0, 45, -45, 48, -48))).outlier_windows == 0


@pytest.mark.parametrize("angles", [(0.0, 90.0), (0.0,)])
def test_embed_cannot_say_which_of_two_windows_is_the_strangers(angles: tuple[float, ...]) -> None:
    assert embed(noise(len(angles)), Fixed(*of_angles(*angles))).outlier_windows == 0


@pytest.mark.parametrize("foreign", range(5))
def test_embed_never_leaves_out_most_of_a_call(foreign: int) -> None:
    embedding = embed(noise(9), Fixed(*of_angles(*[0.0] * (9 - foreign), *[80.0] * foreign)))
    assert (embedding.windows, embedding.outlier_windows) == (9 - foreign, foreign)
    np.testing.assert_allclose(embedding.vector, (1, 0), atol=1e-6)


# GE2E


def test_ge2e_gives_unit_vectors_of_256_dimensions(ge2e: NetworkEncoder) -> None:
    vectors = ge2e.encode(cut(noise(8), ge2e.window_seconds))
    assert (ge2e.id, vectors.shape, vectors.dtype.name) == ("ge2e-v1", (5, ge2e.dimension), "float32")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors.min() >= 0


def test_ge2e_hears_the_same_voice_however_loud_it_is(ge2e: NetworkEncoder) -> None:
    assert embed(noise(3), ge2e).vector @ embed(noise(3) * 0.001, ge2e).vector == pytest.approx(1, abs=1e-4)


def test_ge2e_names_unknown_weights_by_their_hash(tmp_path: Path) -> None:
    state = torch.load(ge2e_weights().path, map_location="cpu", weights_only=True)
    state["model_state"]["linear.bias"] += 0.1
    torch.save(state, tmp_path / "other.pt", _use_new_zipfile_serialization=False)
    other = ge2e_weights(tmp_path / "other.pt")
    assert other.name.startswith("ge2e-")
    assert len(other.name) == len("ge2e-12345678")
    assert load_ge2e(other.path).dimension == 256


def test_ge2e_scores_the_demo_as_its_story_says(ge2e: NetworkEncoder) -> None:
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    for file in [*sorted(RECORDINGS.glob("0*.flac")), RECORDINGS / "10-another-voice.flac"]:
        speech = find_speech(decode(file.read_bytes(), None, 600), RecordingLimits(3, 8, 0.01, 600))
        vectors[file.stem] = embed(speech.samples, ge2e).vector
    baseline = np.mean([vector for name, vector in vectors.items() if "enrol" in name], axis=0)
    anomaly = {name: 1 - float(vector @ baseline / np.linalg.norm(baseline)) for name, vector in vectors.items()}
    assert all(score < 0.20 for name, score in anomaly.items() if name != "10-another-voice")
    assert anomaly["10-another-voice"] > 0.42


# ECAPA


def test_ecapa_gives_unit_vectors_of_192_dimensions_from_a_local_folder(ecapa_dir: Path) -> None:
    ecapa = Ecapa(ecapa_dir)
    vectors = ecapa.encode(cut(noise(12), WINDOW_SECONDS))
    assert (vectors.shape, vectors.dtype.name) == ((3, 192), "float32")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert sorted(file.name for file in ecapa_dir.iterdir()) == sorted([CHECKPOINT, DESCRIPTION])


def test_ecapa_gives_the_vectors_of_the_network_that_the_folder_holds(ecapa_dir: Path) -> None:
    from speechbrain.lobes.features import Fbank
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    network = ECAPA_TDNN(80, attention_channels=8, lin_neurons=192, **SMALL)
    network.load_state_dict(torch.load(ecapa_dir / CHECKPOINT, weights_only=True))
    with torch.inference_mode():
        features = Fbank(n_mels=80)(torch.from_numpy(noise(5)[np.newaxis]))
        expected = network.eval()(features - features.mean(dim=1, keepdim=True))[0, 0]
    vector = Ecapa(ecapa_dir).encode(noise(5)[np.newaxis])[0]
    np.testing.assert_allclose(vector, expected / expected.norm(), atol=1e-5)


def test_ecapa_gives_a_window_the_same_vector_alone_and_among_others(ecapa_dir: Path) -> None:
    ecapa = Ecapa(ecapa_dir)
    windows = cut(noise(12), WINDOW_SECONDS)
    for window, vector in zip(windows, ecapa.encode(windows), strict=True):
        np.testing.assert_allclose(ecapa.encode(window[np.newaxis])[0], vector, atol=1e-5)


def test_ecapa_names_unknown_weights_by_their_hash(ecapa_dir: Path) -> None:
    program = (
        f"import hashlib; print(hashlib.sha256(open({str(ecapa_dir / CHECKPOINT)!r}, 'rb').read()).hexdigest()[:8])"
    )
    assert ecapa_weights(ecapa_dir).name == f"ecapa-{run_python(program)}"


def test_ecapa_asks_no_network_for_a_local_folder(ecapa_dir: Path) -> None:
    program = f"""
import socket, sys
asked = []
sys.addaudithook(lambda event, arguments: asked.append(event) if event.startswith("socket.") else None)
from pathlib import Path
from retrocare.encoders.ecapa import Ecapa
Ecapa(Path({str(ecapa_dir)!r}))
print([event for event in asked if event in ("socket.connect", "socket.getaddrinfo")])
"""
    assert run_python(program) == "[]"


def test_ecapa_says_which_folder_lacks_what_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=CHECKPOINT) as refused:
        Ecapa(tmp_path)
    assert "RETROCARE_ECAPA_DIR" in refused.value.hint
    (tmp_path / CHECKPOINT).write_bytes(b"no weights")
    (tmp_path / DESCRIPTION).write_text(described(SMALL, 8))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Ecapa(tmp_path)


@pytest.mark.parametrize(
    ("real", "is_replaced"),
    [("__version__ = '2.11.0'", False), ("raise OSError('libcudart')", True), ("raise ImportError", True)],
)
def test_torchaudio_is_stood_in_for_only_where_it_cannot_be_imported(
    tmp_path: Path, real: str, is_replaced: bool
) -> None:
    (tmp_path / "torchaudio.py").write_text(real)
    program = """
from retrocare.encoders.ecapa import make_torchaudio_importable
make_torchaudio_importable()
import torchaudio
print(hasattr(torchaudio, "__file__"))
"""
    assert run_python(program, tmp_path) == str(not is_replaced)


# The choice


def test_load_encoder_takes_ecapa_where_its_folder_is_named_or_lies_in_the_model_folder(
    ecapa_dir: Path, tmp_path: Path, models: Path
) -> None:
    (tmp_path / "converted").symlink_to(models / "converted")
    named = load_encoder("auto", model_dir=tmp_path, ecapa_dir=ecapa_dir)
    (tmp_path / REPOSITORY.rpartition("/")[2]).symlink_to(ecapa_dir)
    found = load_encoder("auto", model_dir=tmp_path, ecapa_dir=None)
    assert named.encoder.id == found.encoder.id == f"{ecapa_weights(ecapa_dir).name}-v2"
    assert str(ecapa_dir) in named.why
    assert "available" in found.why


def test_auto_takes_an_encoder_with_a_calibration_before_one_without(
    ecapa_dir: Path, tmp_path: Path, models: Path
) -> None:
    (tmp_path / "converted").symlink_to(models / "converted")
    (tmp_path / REPOSITORY.rpartition("/")[2]).symlink_to(ecapa_dir)
    found = load_encoder("auto", model_dir=tmp_path, ecapa_dir=None, calibrated=["ge2e-v2"])
    assert found.encoder.id == "ge2e-v2"
    assert "a calibration comes with it" in found.why


@pytest.mark.parametrize(
    ("name", "active", "expected"),
    [
        ("auto", None, "ge2e-v2"),
        ("auto", "ge2e-v1", "ge2e-v1"),
        ("ge2e", None, "ge2e-v2"),
        ("ge2e", "ge2e-v1", "ge2e-v1"),
        ("ge2e", "ecapa-voxceleb-v1", "ge2e-v2"),
        ("ge2e", "ge2e-12345678", "ge2e-v2"),
        ("ge2e-v1", None, "ge2e-v1"),
        ("ge2e-v2", "ge2e-v1", "ge2e-v2"),
    ],
)
def test_load_encoder_takes_what_is_named_else_what_the_database_uses_else_the_newest(
    models: Path, tmp_path: Path, name: str, active: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    encoder = load_encoder(name, model_dir=models, ecapa_dir=None, active=active).encoder
    assert (encoder.id, encoder.denoises) == (expected, expected.endswith("-v2"))


def test_load_encoder_does_not_replace_the_family_that_the_database_uses(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        load_encoder("auto", model_dir=tmp_path, ecapa_dir=tmp_path, active="ecapa-voxceleb-v1")


@pytest.mark.parametrize(("name", "active"), [("ecapa", None), ("ecapa", "ge2e-v1"), ("xvector", None), ("", None)])
def test_load_encoder_fails_where_the_named_encoder_is_absent(tmp_path: Path, name: str, active: str | None) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_encoder(name, model_dir=tmp_path, ecapa_dir=tmp_path / "absent", active=active)
    assert "ge2e" in refused.value.hint


@pytest.mark.parametrize("name", ["xvector", "xvector-v1", "-v1"])
@pytest.mark.parametrize("is_active", [False, True])
def test_an_encoder_that_nobody_knows_is_refused_and_never_taken_for_another(
    tmp_path: Path, name: str, is_active: bool
) -> None:
    with pytest.raises(ConfigurationError, match=f"No encoder is called '{name}'") as refused:
        load_encoder(
            "auto" if is_active else name, model_dir=tmp_path, ecapa_dir=None, active=name if is_active else None
        )
    assert "auto, ecapa, ge2e" in refused.value.hint


@pytest.mark.parametrize("id", ["ge2e-12345678", "ge2e-v3", "ge2e-v01", "ge2e-v1\n"])
@pytest.mark.parametrize("is_active", [False, True])
def test_an_id_that_the_weights_have_not_is_refused_by_name_and_from_the_database(
    tmp_path: Path, id: str, is_active: bool
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_encoder("auto" if is_active else id, model_dir=tmp_path, ecapa_dir=None, active=id if is_active else None)
    assert str(refused.value) == f"There is no encoder {id} here, only ge2e-v1 and ge2e-v2"


@pytest.mark.parametrize("name", ["auto", "ecapa", "as it is called"])
def test_weights_of_ones_own_keep_the_id_under_which_the_database_knows_them(
    ecapa_dir: Path, models: Path, name: str
) -> None:
    id = ecapa_weights(ecapa_dir).name
    asked = id if name == "as it is called" else name
    encoder = load_encoder(asked, model_dir=models, ecapa_dir=ecapa_dir, active=id).encoder
    assert (encoder.id, encoder.denoises) == (id, False)
    assert list(ecapa_weights(ecapa_dir).ids) == [id, f"{id}-v2"]


def test_without_the_extra_ecapa_is_asked_for_in_one_sentence_and_auto_takes_ge2e_at_once(
    tmp_path: Path, ecapa_dir: Path
) -> None:
    program = f"""
import importlib.util, pathlib, sys
from importlib.machinery import PathFinder
real = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: (
    None if name.partition(".")[0] in ("torch", "speechbrain", "huggingface_hub") else real(name, *rest)
)
from retrocare.encoders.loading import load_encoder
from retrocare.errors import ConfigurationError
models = pathlib.Path({str(tmp_path)!r})
for folder in (None, pathlib.Path({str(ecapa_dir)!r})):
    try:
        load_encoder("ecapa", model_dir=models, ecapa_dir=folder)
    except ConfigurationError as error:
        print(error, error.hint, sep="|")
said = []
print(load_encoder("auto", model_dir=models, ecapa_dir=None, say=said.append).why, said, sep="|")
"""
    named, in_a_folder, chosen = run_python(program).splitlines()
    reason = "ECAPA needs torch and speechbrain, which are not installed"
    assert named == in_a_folder
    assert named.partition("|")[0] == reason
    assert "scripts/setup --ecapa" in named
    assert chosen.startswith(f"the encoder is ge2e-v2, because ECAPA is not available ({reason}); it runs in ")
    assert chosen.endswith("|[]")


def test_load_encoder_falls_back_to_ge2e_in_time_when_the_hub_hangs(tmp_path: Path, silent_hub: str) -> None:
    program = f"""
import pathlib, time
from retrocare.encoders.loading import load_encoder
start = time.monotonic()
choice = load_encoder("auto", model_dir=pathlib.Path({str(tmp_path)!r}), ecapa_dir=None, fetch_seconds=2)
import psutil
print(choice.encoder.id, psutil.Process().children(recursive=True), choice.why, sep="|")
"""
    start = time.monotonic()
    said = run_python(program, HF_ENDPOINT=silent_hub, HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="0")
    assert time.monotonic() - start < 15
    identity, children, why = said.split("|")
    assert (identity, children) == ("ge2e-v2", "[]")
    absent = "ECAPA is not available (ECAPA's weights did not arrive within 2 s)"
    assert why.startswith(f"the encoder is ge2e-v2, because {absent}; it runs in ")


def test_load_encoder_says_when_the_hub_cannot_be_reached(tmp_path: Path) -> None:
    program = f"""
import pathlib
from retrocare.encoders.loading import load_encoder
print(load_encoder("auto", model_dir=pathlib.Path({str(tmp_path)!r}), ecapa_dir=None).why)
"""
    assert "The model hub could not be reached" in run_python(program, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))


def test_load_encoder_uses_as_many_threads_as_it_is_told_or_as_there_are_cores(models: Path) -> None:
    for threads, expected in ((None, available_cores()), (1, 1)):
        encoder = load_encoder("ge2e", model_dir=models, ecapa_dir=None, threads=threads).encoder
        assert encoder.threads == expected
