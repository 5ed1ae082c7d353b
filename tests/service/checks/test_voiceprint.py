"""From a recording to a voiceprint: what its encoder is given to hear."""

from __future__ import annotations

import numpy as np
import pytest

from retrocare.audio.decode import decode
from retrocare.audio.speech import RecordingLimits, find_speech
from retrocare.checks.voiceprint import Voiceprint, make_voiceprint
from retrocare.cli.demo import RECORDINGS
from retrocare.encoders.embedding import cut
from retrocare.encoders.protocol import Vectors, Windows


@pytest.mark.parametrize("denoises", [False, True])
def test_a_voiceprint_is_of_denoised_speech_where_the_encoder_asks_for_it(denoises: bool) -> None:
    class Hearing:
        id, dimension, window_seconds = "hearing-v1", 2, 1.6

        def __init__(self, denoises: bool) -> None:
            self.denoises, self.heard = denoises, np.zeros(0, np.float32)

        def encode(self, windows: Windows) -> Vectors:
            self.heard = windows
            return np.ones((len(windows), 2), np.float32)

    encoder = Hearing(denoises)
    recording = (RECORDINGS / "09-noisy-line.flac").read_bytes()
    limits = RecordingLimits(3, 8, 0.01, 600)
    assert isinstance(make_voiceprint(recording, None, limits, encoder), Voiceprint)
    speech = find_speech(decode(recording, None, 600), limits, denoised=denoises).samples
    np.testing.assert_array_equal(encoder.heard, cut(speech, 1.6))
