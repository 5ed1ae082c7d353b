"""A worker for recordings that are numbers: b"0.5" is a voice at cosine 0.5 to the usual one. It needs no torch.

It stands for the real pipeline where the list is put to the test and not the voices. Two words in a recording make it
misbehave: ABORT ends the process as a bug in a decoder would, SLOW takes three seconds.

    python -m faults.numbers        the worker as a process of its own
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time

import numpy as np
import numpy.typing as npt

from records import DIMENSION, ENCODER, at_cosine
from retrocare.audio.decode import Channel
from retrocare.audio.speech import RecordingLimits
from retrocare.audio.stereo import Intervals
from retrocare.checks.inference import Inference
from retrocare.checks.voiceprint import Voiceprint
from retrocare.checks.worker import Worker
from retrocare.database.connection import connected
from retrocare.encoders.protocol import Encoder
from retrocare.observability import write_events
from retrocare.settings import read_settings

SLOW_SECONDS = 3.0


class Numbers:
    """The encoder that is named, and never asked."""

    id, dimension, window_seconds = ENCODER, DIMENSION, 1.6

    def encode(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        raise AssertionError("not asked")


def read_number(
    recording: bytes, channel: Channel | None, limits: RecordingLimits, encoder: Encoder, intervals: Intervals
) -> Voiceprint:
    """Take a recording for the number that it begins with."""
    if b"ABORT" in recording:
        os.abort()
    if b"SLOW" in recording:
        time.sleep(SLOW_SECONDS)
    vector = np.array(at_cosine(float(recording.split()[0])), np.float32)
    sha256 = hashlib.sha256(recording).digest()
    return Voiceprint(vector, encoder.id, 1, 0, 1.0, 10.0, 30.0, 0.0, "mono", sha256)


def main() -> None:
    """Work until SIGTERM or SIGINT, or until a recording ends the process."""
    write_events()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = read_settings()
    with connected(settings) as database:
        inference = Inference(Numbers())
        worker = Worker(settings, database, inference, read_number)
        worker.start()
        stop.wait()
        worker.stop()


if __name__ == "__main__":
    main()
