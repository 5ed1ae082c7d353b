"""What a call's windows cost in torch and in the engine, by precision, and how far a voiceprint moves by it.

Each is run in a process of its own, on one thread. ECAPA has its real size and random weights, GE2E its trained ones.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.calls import LIMITS, peak_bytes
from fixtures.inputs import MODELS, SPEECH
from retrocare.audio.decode import Samples, decode
from retrocare.audio.speech import RecordingLimits, find_speech
from retrocare.cli.demo import RECORDINGS
from retrocare.encoders.embedding import cut, embed
from retrocare.encoders.ge2e import load_ge2e
from retrocare.encoders.network import Network, NetworkEncoder
from retrocare.encoders.protocol import Vectors, Windows
from retrocare.encoders.weights import ecapa_weights, ge2e_weights
from retrocare.engine import Precision, fastest_precision

SPEECH_SECONDS = 15.0
RUNS = 10
LARGEST_SHARE = 0.01  # of what lies between two calls of one person: more would make the precision part of an id
ANYTHING = RecordingLimits(1, -100, 1, 3600)


@dataclass(frozen=True)
class Ran:
    """What one network costs in one engine: the windows of one call, 15 s of speech."""

    network: str
    engine: str
    windows: int
    load_seconds: float
    cpu_ms: float
    peak_megabytes: float
    least_cosine: float  # of a window's vector to torch's in f32


@dataclass(frozen=True)
class Moved:
    """How far the engine's fastest precision moves GE2E's voiceprints, and how far apart one person's are."""

    precision: Precision
    calls: int
    other_windows: int  # calls of which another window is left out, since one was at the limit
    largest: float  # cosine distance to the voiceprint in f32, of the other calls
    between: float  # median cosine distance of two calls of one person, in f32


def bench_engine(weights: Path, tell: Callable[[str], None] = print) -> tuple[list[Ran], Moved]:
    """Measure both networks in torch, and in the engine in each precision that this processor has."""
    engines = ["torch f32", "torch bf16", *(f"OpenVINO {one}" for one in dict.fromkeys(("f32", fastest_precision())))]
    ran = []
    for network in ("ecapa", "ge2e"):
        vectors: dict[str, Vectors] = {}
        for engine in engines:
            found = _in_a_process(network, engine, weights)
            vectors[engine] = np.array(found.pop("vectors"), np.float32)
            cosines = (vectors[engine] * vectors["torch f32"]).sum(axis=1)
            ran.append(Ran(network, engine, len(cosines), **found, least_cosine=float(cosines.min())))
            tell(f"   {network} in {engine} measured")
    return ran, _moved()


def _in_a_process(network: str, engine: str, weights: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.engine", network, engine, str(weights)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _encoder(network: str, engine: str, weights: Path) -> Callable[[Windows], Vectors]:
    name, precision = engine.split()
    if name == "torch":
        return _in_torch(network, precision, weights)
    loaded = load_ge2e(ge2e_weights().path) if network == "ge2e" else _ecapa(weights)
    chosen: Precision = "bf16" if precision == "bf16" else "f32"
    return NetworkEncoder(network, loaded, denoises=False, threads=1, precision=chosen).encode


def _ecapa(weights: Path) -> Network:
    from retrocare.encoders.conversion import load_converted

    return load_converted(ecapa_weights(weights), MODELS, lambda line: None)


def _in_torch(network: str, precision: str, weights: Path) -> Callable[[Windows], Vectors]:
    import torch

    from fixtures.networks import Ge2eInTorch
    from retrocare.encoders.ecapa import Ecapa

    torch.set_num_threads(1)
    encode = (Ge2eInTorch() if network == "ge2e" else Ecapa(weights)).encode

    def lower(windows: Windows) -> Vectors:
        with torch.autocast("cpu", torch.bfloat16):
            return encode(windows)

    return lower if precision == "bf16" else encode


def _speech() -> Samples:
    """Join the demo's calls until there is as much as is kept of one."""
    calls = [find_speech(decode(file.read_bytes(), None, 600), LIMITS) for file in sorted(RECORDINGS.glob("0[1-8]*"))]
    return np.resize(np.concatenate([call.samples for call in calls]), round(SPEECH_SECONDS * 16_000))


def measure(network: str, engine: str, weights: Path) -> dict[str, Any]:
    begun = time.perf_counter()
    encode = _encoder(network, engine, weights)
    loaded = time.perf_counter() - begun
    windows = cut(_speech(), 1.6 if network == "ge2e" else 5.0)
    vectors, spent = encode(windows), []
    for _ in range(RUNS):
        used = time.process_time()
        encode(windows)
        spent.append(1000 * (time.process_time() - used))
    return {
        "load_seconds": loaded,
        "cpu_ms": statistics.median(spent),
        "peak_megabytes": peak_bytes() / 1e6,
        "vectors": vectors.tolist(),
    }


def _moved() -> Moved:
    """Compare voiceprints of real speech, or of the demo's where there is none."""
    network, precision = load_ge2e(ge2e_weights().path), fastest_precision()
    fast = NetworkEncoder("ge2e", network, denoises=False, threads=1, precision=precision)
    exact = NetworkEncoder("ge2e", network, denoises=False, threads=1, precision="f32")
    people = [path for corpus in ("librispeech", "digits") for path in sorted((SPEECH / corpus).glob("*/"))]
    groups = [sorted(person.glob("*.flac"))[:5] for person in people] or [sorted(RECORDINGS.glob("0[1-8]*"))]
    moved: list[float] = []
    between: list[float] = []
    other_windows = 0
    for files in groups:
        calls = [find_speech(decode(file.read_bytes(), None, 600), ANYTHING).samples for file in files]
        pairs = [(embed(call, exact), embed(call, fast)) for call in calls]
        moved += [1 - float(one.vector @ other.vector) for one, other in pairs if one.windows == other.windows]
        other_windows += sum(one.windows != other.windows for one, other in pairs)
        vectors = np.stack([one.vector for one, _ in pairs])
        between += (1 - (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]).tolist()
    return Moved(precision, len(moved) + other_windows, other_windows, max(moved), statistics.median(between))


def shown(found: tuple[Sequence[Ran], Moved]) -> str:
    ran, moved = found
    lines = [f"{'':<22}{'windows':>9}{'CPU, ms':>10}{'peak, MB':>10}{'load, s':>10}{'least cosine':>15}"]
    lines += [
        f"{one.network + ', ' + one.engine:<22}{one.windows:>9}{one.cpu_ms:>10.0f}{one.peak_megabytes:>10,.0f}"
        f"{one.load_seconds:>10.1f}{one.least_cosine:>15.6f}"
        for one in ran
    ]
    share = moved.largest / moved.between
    lines += [
        f"{moved.precision} moves a voiceprint of GE2E by at most {moved.largest:.6f}, {share:.2%} of the"
        f" {moved.between:.3f} between two calls of one person.",
        f"Of {moved.calls} calls, {moved.other_windows} left out another window than in f32.",
    ]
    return "\n".join(lines)


def failures(found: tuple[Sequence[Ran], Moved]) -> list[str]:
    """Say where the engine takes longer than torch does, or a precision moves a voiceprint by too much."""
    ran, moved = found
    spent = {(one.network, one.engine): one.cpu_ms for one in ran}
    slow = [
        f"{one.network}: {one.engine} takes {one.cpu_ms:.0f} ms, torch {spent[one.network, 'torch f32']:.0f} ms"
        for one in ran
        if one.engine.startswith("OpenVINO") and one.cpu_ms > spent[one.network, "torch f32"]
    ]
    share = moved.largest / moved.between
    return slow + ([f"{moved.precision} moves a voiceprint by {share:.1%}"] if share > LARGEST_SHARE else [])


def as_json(found: tuple[Sequence[Ran], Moved]) -> dict[str, Any]:
    return {"ran": [asdict(one) for one in found[0]], "moved": asdict(found[1])}


if __name__ == "__main__":
    network, engine, weights = sys.argv[1:]
    print(json.dumps(measure(network, engine, Path(weights))))
