"""Each reason becomes a sentence with its numbers, and no sentence shows how a program writes things."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.databases import Database
from fixtures.records import Records
from retrocare.audio.speech import RecordingLimits
from retrocare.checks.explanations import explain

LIMITS = RecordingLimits(3.0, 8.0, 0.01, 3600.0)


@pytest.mark.parametrize(
    ("reason", "measures", "told"),
    [
        ("no_speech", {"speech_seconds": 0.0}, "No speech was heard. At least 3 s are needed."),
        ("too_little_speech", {"speech_seconds": 2.123}, "Heard 2.1 s of speech; 3 are needed."),
        ("too_noisy", {"snr_db": 5.04}, "Speech is only 5.0 dB above the noise; 8 are needed."),
        (
            "clipped",
            {"clipped_share": 0.034},
            "3.4 % of the samples are clipped: the recording was too loud; at most 1 % may be.",
        ),
        (
            "too_long",
            {"seconds": 4000.4, "maximum_seconds": 3600.0},
            "The recording lasts 4000 s; at most 3600 s are judged.",
        ),
        ("undecodable", {"detail": "truncated"}, "The recording cannot be read: truncated."),
    ],
)
def test_a_reason_is_said_with_what_was_measured_and_what_is_needed(reason: str, measures: Any, told: str) -> None:
    assert explain(reason, measures, LIMITS) == told


def test_every_reason_has_its_sentence_with_or_without_measures(database: Database) -> None:
    rows = Records(database).rows("select unnest(enum_range(null::public.check_reason))::text as reason")
    assert len(rows) > 15
    for reason in (row["reason"] for row in rows):
        for limits in (LIMITS, None):
            told = explain(reason, {}, limits)
            assert told.endswith("."), told
            assert not told.startswith("It was not judged"), reason
            assert not any(sign in told for sign in "{}[]_"), told
