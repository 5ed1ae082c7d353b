"""From starting the service to ready, with the network exported and the database made: what a restart costs."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from fixtures.inputs import RETROCARE

LONGEST_SECONDS = 5.0
PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Start:
    """How long one encoder takes to be ready: the first time, and in the median of later ones."""

    encoder: str
    first_seconds: float
    later_seconds: float


def bench_start(
    weights: Path,
    folder: Path,
    encoders: Sequence[str] = ("ge2e", "ecapa"),
    runs: int = 3,
    tell: Callable[[str], None] = print,
) -> list[Start]:
    """Start the service with each encoder on an embedded database of its own."""
    found = []
    for encoder in encoders:
        environment = os.environ | {
            "RETROCARE_DATA_DIR": str(folder / encoder),
            "RETROCARE_MODEL_DIR": str(folder / encoder / "models"),
            "RETROCARE_ENCODER": encoder,
            "RETROCARE_ECAPA_DIR": str(weights),
        }
        first, *later = [_seconds_to_ready(environment) for _ in range(1 + runs)]
        found.append(Start(encoder, first, statistics.median(later)))
        tell(f"   {encoder} started {1 + runs} times")
    return found


def _seconds_to_ready(environment: dict[str, str]) -> float:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    begun = time.perf_counter()
    command = [RETROCARE, "start", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            while not _is_ready(port):
                if process.poll() is not None or time.perf_counter() - begun > PATIENCE_SECONDS:
                    assert process.stderr
                    process.kill()
                    raise RuntimeError(f"the service did not start: {process.stderr.read().decode()[-1000:]}")
                time.sleep(0.02)
            return time.perf_counter() - begun
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


def shown(found: Sequence[Start]) -> str:
    lines = [f"{'from start to ready, s':<28}{'first time':>12}{'later':>10}"]
    lines += [f"{one.encoder:<28}{one.first_seconds:>12.1f}{one.later_seconds:>10.1f}" for one in found]
    return "\n".join(lines)


def failures(found: Sequence[Start]) -> list[str]:
    """Name the encoders that take longer than promised where everything is at hand."""
    return [
        f"{one.encoder}: ready after {one.later_seconds:.1f} s" for one in found if one.later_seconds > LONGEST_SECONDS
    ]


def as_json(found: Sequence[Start]) -> list[dict[str, Any]]:
    return [asdict(one) for one in found]
