"""What a call costs, by its length: decode, listen, encode, against the pattern that encodes the whole recording.

Both run ECAPA of the real size with random weights (the trained ones would cost the same), in processes of their own.
CPU time and wall time are medians of several runs after one that warms up; memory is the most that the process had.
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
import soundfile
import soxr

from retrocare.audio.speech import RecordingLimits
from retrocare.cli.demo import RECORDINGS
from retrocare.encoders.protocol import Encoder

LIMITS = RecordingLimits(
    minimum_speech_seconds=3, minimum_snr_db=8, maximum_clipped_share=0.01, maximum_call_seconds=3600
)
TARGETS = {30: 1.8, 300: 25.0, 600: 50.0}  # by how much less CPU time, at least
MOST_MEGABYTES = 700
HOUR = 3600


@dataclass(frozen=True)
class Cost:
    """What one call takes."""

    seconds: int
    cpu_seconds: float
    wall_seconds: float
    peak_megabytes: float


@dataclass(frozen=True)
class Length:
    """A call of some length, ours and the pattern's; None: the pattern was not run (its memory grows with the call)."""

    ours: Cost
    pattern: Cost | None

    @property
    def less_cpu(self) -> float | None:
        return self.pattern.cpu_seconds / self.ours.cpu_seconds if self.pattern else None


def write_call(folder: Path, seconds: int) -> Path:
    """Write a customer's channel as a provider has it: the demo's speech, and as much silence as the agent talks."""
    speech = np.concatenate(
        [soundfile.read(file, dtype="float32")[0] for file in sorted(RECORDINGS.glob("0[1-8]*.flac"))]
    )
    random = np.random.default_rng(0)
    turns = []
    for start in range(0, len(speech), 40_000):
        turn = speech[start : start + 40_000]
        turns += [turn, np.zeros_like(turn)]
    call = np.resize(np.concatenate(turns), seconds * 8_000)
    call = call + random.normal(0, 1e-4, len(call)).astype(np.float32)
    file = folder / f"{seconds}.{'wav' if seconds < HOUR else 'flac'}"
    soundfile.write(file, soxr.resample(call, 8_000, 16_000), 16_000, subtype="PCM_16")
    return file


def bench_calls(
    weights: Path,
    folder: Path,
    lengths: Sequence[int] = (30, 300, 600, HOUR),
    runs: int = 3,
    tell: Callable[[str], None] = print,
) -> list[Length]:
    """Measure calls of these lengths with ECAPA; the pattern has no memory for an hour."""
    found = []
    for seconds in lengths:
        file = write_call(folder, seconds)
        ours = _in_a_process("ours", weights, file, seconds, runs)
        pattern = (
            _in_a_process("pattern", weights, file, seconds, 1 if seconds > 60 else runs) if seconds < HOUR else None
        )
        found.append(Length(ours, pattern))
        tell(f"   a call of {seconds:,} s measured")
    return found


def _in_a_process(whose: str, weights: Path, file: Path, seconds: int, runs: int) -> Cost:
    command = [sys.executable, "-m", "bench.calls", whose, str(weights), str(file), str(runs)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return Cost(seconds, **json.loads(done.stdout.splitlines()[-1]))


def embedder(whose: str, weights: Path) -> Callable[[Path], object]:
    """Give what turns a file into a vector, loaded."""
    if whose == "pattern":
        from bench.pattern import Embedder

        return Embedder(weights).embed
    from retrocare.checks.voiceprint import Voiceprint, make_voiceprint

    encoder = full_encoder(weights)

    def embed(file: Path) -> object:
        made = make_voiceprint(file.read_bytes(), "customer", LIMITS, encoder)
        assert isinstance(made, Voiceprint), made
        return made

    return embed


def full_encoder(weights: Path, threads: int | None = None) -> Encoder:
    """Load ECAPA of the real size."""
    from retrocare.encoders.loading import load_encoder

    return load_encoder("ecapa", model_dir=weights.parent, ecapa_dir=weights, threads=threads).encoder


def measure(embed: Callable[[Path], object], file: Path, runs: int) -> dict[str, float]:
    embed(file)
    cpu, wall = [], []
    for _ in range(runs):
        begun, used = time.perf_counter(), time.process_time()
        embed(file)
        cpu.append(time.process_time() - used)
        wall.append(time.perf_counter() - begun)
    peak = peak_bytes()
    return {
        "cpu_seconds": statistics.median(cpu),
        "wall_seconds": statistics.median(wall),
        "peak_megabytes": peak / 1e6,
    }


def peak_bytes() -> int:
    """Return the most memory that this process had; what getrusage says on Linux includes whoever started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        [peak] = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(peak) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def shown(lengths: Sequence[Length]) -> str:
    """Write ours and the pattern's side by side, and by how much less CPU time ours takes."""
    lines = [f"{'':<12}{'CPU, s':>18}{'wall, s':>18}{'peak memory, MB':>20}   less CPU"]
    lines.append(f"{'a call of':<12}" + f"{'ours':>9}{'pattern':>9}" * 2 + f"{'ours':>11}{'pattern':>9}")
    for length in lengths:
        ours, other = length.ours, length.pattern
        cells = [(ours.cpu_seconds, ".2f"), (ours.wall_seconds, ".2f"), (ours.peak_megabytes, ",.0f")]
        theirs = [other.cpu_seconds, other.wall_seconds, other.peak_megabytes] if other else [None] * 3
        pairs = "".join(
            f"{value:>{11 if form == ',.0f' else 9}{form}}"
            + (f"{their:>9{form}}" if their is not None else f"{'-':>9}")
            for (value, form), their in zip(cells, theirs, strict=True)
        )
        ratio = f"{length.less_cpu:.1f} x" if length.less_cpu else ""
        lines.append(f"{ours.seconds:>9,} s {pairs:<56}{ratio:>11}")
    return "\n".join(lines)


def failures(lengths: Sequence[Length]) -> list[str]:
    """Name the lengths at which less is saved than promised, and memory that follows the length."""
    wrong = [
        f"a call of {length.ours.seconds} s: {length.less_cpu:.1f} x less CPU, not {TARGETS[length.ours.seconds]:g} x"
        for length in lengths
        if length.less_cpu is not None and length.less_cpu < TARGETS.get(length.ours.seconds, 0)
    ]
    peaks = [length.ours.peak_megabytes for length in lengths]
    return wrong + ([f"memory reaches {max(peaks):.0f} MB"] if max(peaks) >= MOST_MEGABYTES else [])


def as_json(lengths: Sequence[Length]) -> list[dict[str, Any]]:
    return [asdict(length) | {"less_cpu": length.less_cpu} for length in lengths]


if __name__ == "__main__":
    whose, weights, file, runs = sys.argv[1:]
    print(json.dumps(measure(embedder(whose, Path(weights)), Path(file), int(runs))))
