"""Where the time of a judged call of five minutes goes, end to end with the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.calls import LIMITS, full_encoder, write_call
from fixtures.databases import Database
from fixtures.records import NOON, Records
from fixtures.running import settings_for
from retrocare.audio.decode import decode
from retrocare.audio.speech import find_speech
from retrocare.database.connection import connected
from retrocare.encoders.embedding import embed

MAY_BE_LARGE = ("listen", "encode")
LARGEST_SHARE = 0.10
CALL_SECONDS = 300


@dataclass(frozen=True)
class Steps:
    """How long each step takes per call, in seconds, where one core does everything."""

    calls: int
    seconds: dict[str, float]

    @property
    def judged_per_core_second(self) -> float:
        return 1 / sum(self.seconds.values())

    def share(self, step: str) -> float:
        return self.seconds[step] / sum(self.seconds.values())


def bench_steps(
    database: Database, weights: Path, folder: Path, calls: int = 10, tell: Callable[[str], None] = print
) -> Steps:
    """Claim, read, decode, listen, encode and complete, each timed, on one thread and one after the other."""
    encoder = full_encoder(weights, threads=1)
    recording = write_call(folder, CALL_SECONDS)
    records = Records(database)
    spent = dict.fromkeys(("claim", "read", "decode", "listen", "encode", "complete"), 0.0)
    with connected(settings_for(database)) as opened:
        opened.register_encoder(encoder.id, encoder.dimension, encoder.window_seconds)
        patients = [records.patient() for _ in range(calls)]
        begun = time.perf_counter()

        def took(step: str) -> None:
            nonlocal begun
            now = time.perf_counter()
            spent[step] += now - begun
            begun = now

        for n in range(-1, 2 * calls):
            if n == 0:  # one call warms up
                spent = dict.fromkeys(spent, 0.0)
            records.call("record_call", patients[n % calls], None, "api", f"storage:calls/{n}.wav", None, NOON, None)
            begun = time.perf_counter()
            [claim] = opened.claim_checks(encoder.id, "bench", 1, 600)
            took("claim")
            content = recording.read_bytes()
            took("read")
            audio = decode(content, "customer", LIMITS.maximum_call_seconds)
            took("decode")
            speech = find_speech(audio, LIMITS)
            took("listen")
            embedded = embed(speech.samples, encoder)
            took("encode")
            sha256 = n.to_bytes(32, "big", signed=True)
            quality = {"windows": embedded.windows}
            opened.complete_check(claim, embedded.vector, sha256, speech.speech_seconds, speech.snr_db, quality)
            took("complete")
    tell(f"   {2 * calls} calls of {CALL_SECONDS} s judged")
    return Steps(2 * calls, {step: seconds / (2 * calls) for step, seconds in spent.items()})


def shown(found: Steps) -> str:
    lines = [f"{'a call of 300 s, step by step':<34}{'ms':>10}{'share':>8}"]
    lines += [f"{step:<34}{1000 * seconds:>10.1f}{found.share(step):>8.1%}" for step, seconds in found.seconds.items()]
    lines.append(f"one core judges {found.judged_per_core_second:.2f} such calls in a second, end to end")
    return "\n".join(lines)


def failures(found: Steps) -> list[str]:
    """Name the steps, but for those that hear, that take more than a tenth."""
    return [
        f"{step} takes {found.share(step):.0%} of a call"
        for step in found.seconds
        if step not in MAY_BE_LARGE and found.share(step) > LARGEST_SHARE
    ]


def as_json(found: Steps) -> dict[str, Any]:
    return asdict(found) | {"judged_per_core_second": found.judged_per_core_second}
