"""From a recording to a voiceprint: what its encoder is given to hear."""

from __future__ import annotations

import json

import numpy as np
import pytest

from retrocare.audio.decode import decode
from retrocare.audio.speech import RecordingLimits, find_speech
from retrocare.checks.voiceprint import Voiceprint, make_voiceprint
from retrocare.cli.demo import RECORDINGS
from retrocare.encoders.embedding import cut
from retrocare.encoders.protocol import Vectors, Windows

LIMITS = RecordingLimits(3, 8, 0.01, 600)
CLEAN_LINES_ONLY = {"pitch_spread", "syllable_rate", "pause_share"}


class Hearing:
    """An encoder that remembers what it was given."""

    id, dimension, window_seconds = "hearing-v1", 2, 1.6

    def __init__(self, denoises: bool) -> None:
        self.denoises, self.heard = denoises, np.zeros(0, np.float32)

    def encode(self, windows: Windows) -> Vectors:
        self.heard = windows
        return np.ones((len(windows), 2), np.float32)


@pytest.mark.parametrize("denoises", [False, True])
def test_a_voiceprint_is_of_denoised_speech_where_the_encoder_asks_for_it(denoises: bool) -> None:
    encoder = Hearing(denoises)
    recording = (RECORDINGS / "09-noisy-line.flac").read_bytes()
    assert isinstance(make_voiceprint(recording, None, LIMITS, encoder), Voiceprint)
    speech = find_speech(decode(recording, None, 600), LIMITS, denoised=denoises).samples
    np.testing.assert_array_equal(encoder.heard, cut(speech, 1.6))


@pytest.mark.parametrize(("name", "withheld"), [("01-enrol-monday", set()), ("09-noisy-line", CLEAN_LINES_ONLY)])
def test_a_voiceprints_quality_says_how_it_was_spoken_as_far_as_the_line_allows(name: str, withheld: set[str]) -> None:
    made = make_voiceprint((RECORDINGS / f"{name}.flac").read_bytes(), None, LIMITS, Hearing(denoises=True))
    assert isinstance(made, Voiceprint)
    features = json.loads(json.dumps(made.stored["quality"]))["features"]
    assert set(features) == {"pitch", "pitch_spread", "syllable_rate", "pause_share", "tilt"}
    assert {name for name, value in features.items() if value is None} == withheld
