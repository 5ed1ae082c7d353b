"""The Python service of a day that is played: it judges what is queued when it is told to, by the clock it is told.

    judge.py FOLDER CALLS    writes recordings into FOLDER, says so in one line of JSON, and then answers each line of
                               its standard input, a moment, with a line that counts what it brought to which end

The recordings are the demo's, each made a little different, so that none is a duplicate: as many of the usual voice as
there are calls (`usual-0.wav`, ...), and a quarter as many of a changed one and in stereo. The database and Storage are
those that the environment names.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from retrocare.checks.budget import RequestBudget
from retrocare.checks.inference import Inference
from retrocare.checks.pipeline import run_check
from retrocare.cli.demo import RECORDINGS
from retrocare.database.client import Database, Row
from retrocare.database.connection import connected
from retrocare.encoders.loading import load_encoder
from retrocare.errors import RetrocareError
from retrocare.recordings.fetch import fetch
from retrocare.settings import Settings, read_settings

LEASE_SECONDS = 300.0
RATE = 8_000  # of the demo's recordings
Voice = npt.NDArray[np.float32]


class PlayedDatabase(Database):
    """The database, on a clock that is told."""

    at: datetime

    def _row(self, function: str, /, **arguments: object) -> Row:
        told = {"at": self.at} if function == "voice.complete_check" else {}
        return super()._row(function, **arguments, **told)


def main(folder: Path, calls: int) -> None:
    settings = read_settings()
    write_recordings(folder, calls)
    with connected(settings) as opened:
        encoder = load_encoder("ge2e", model_dir=settings.models, ecapa_dir=None).encoder
        opened.register_encoder(encoder.id, encoder.dimension, encoder.window_seconds)
        database, inference = PlayedDatabase(opened._pool, opened.service_url), Inference(encoder)
        print(json.dumps({"encoder": encoder.id}), flush=True)
        for line in sys.stdin:
            database.at = datetime.fromisoformat(line.strip())
            print(json.dumps(judge(settings, database, inference)), flush=True)
        inference.stop()


def judge(settings: Settings, database: Database, inference: Inference) -> dict[str, int]:
    """Bring everything that is queued to its end."""
    ends: Counter[str] = Counter()
    while claims := database.claim_checks(inference.encoder.id, "day", 1, LEASE_SECONDS):
        reference = claims[0].recording_ref or ""
        try:
            row, _ = run_check(claims[0], lambda: fetch(reference, settings), inference, database, RequestBudget())  # noqa: B023
            ends[row["state"]] += 1
        except RetrocareError as error:
            ends[error.code] += 1
    return dict(ends)


def write_recordings(folder: Path, calls: int) -> None:
    """Write so many recordings of each kind."""
    random = np.random.default_rng(20261121)
    usual = [read(path) for path in sorted(RECORDINGS.glob("0[1-7]-*.flac"))]
    [changed] = [read(path) for path in RECORDINGS.glob("10-*.flac")]
    for number in range(calls):
        write(folder / f"usual-{number}.wav", different(usual[number % len(usual)], random))
    for number in range(calls // 4):
        voice = usual[number % len(usual)]
        write(folder / f"changed-{number}.wav", different(changed, random))
        # The agent speaks first, and the patient after it; on which side, chance decides.
        agent = different(changed, random)
        sides = [np.concatenate([agent, np.zeros_like(voice)]), np.concatenate([np.zeros_like(agent), voice])]
        sides = [different(side, random) for side in (sides if number % 2 else sides[::-1])]
        write(folder / f"stereo-{number}.wav", np.stack(sides, axis=1))
    (folder / "agent-seconds").write_text(str(len(changed) / RATE))


def read(path: Path) -> Voice:
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE, path
    found: Voice = samples
    return found


def different(voice: Voice, random: np.random.Generator) -> Voice:
    """Add the faintest noise, 70 dB below full scale."""
    noisy: Voice = (voice + random.normal(0, 3e-4, voice.shape)).astype(np.float32)
    return noisy


def write(path: Path, samples: Any) -> None:
    soundfile.write(path, samples, RATE, subtype="PCM_16")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
