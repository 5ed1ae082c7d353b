"""A recording becomes a voiceprint: the patient's channel, its speech, and one vector of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retrocare.audio.decode import Channel, NamedChannel, decode
from retrocare.audio.features import Features
from retrocare.audio.speech import RecordingLimits, find_speech
from retrocare.audio.stereo import Intervals
from retrocare.encoders.embedding import embed
from retrocare.encoders.protocol import Encoder
from retrocare.errors import NotAssessable


@dataclass(frozen=True, eq=False)
class Voiceprint:
    """Hold the embedding of one recording, and what was measured on the way to it."""

    embedding: npt.NDArray[np.float32]  # (dimension,), length 1
    encoder: str
    windows: int
    outlier_windows: int  # left out, as somebody else's
    agreement: float  # mean cosine of the windows to the embedding
    speech_seconds: float
    snr_db: float | None
    clipped_share: float
    channel: NamedChannel
    audio_sha256: bytes
    features: Features
    channel_margin_db: float | None = None  # between the channels, where one had to be chosen

    @property
    def stored(self) -> dict[str, Any]:
        """Return the arguments of voice.complete_check."""
        names = ("embedding", "audio_sha256", "speech_seconds", "snr_db", "quality")
        return {name: getattr(self, name) for name in names}

    @property
    def quality(self) -> dict[str, Any]:
        """Return the measures that are stored as voice.embeddings.quality."""
        return {
            "windows": self.windows,
            "outlier_windows": self.outlier_windows,
            "agreement": self.agreement,
            "clipped_share": self.clipped_share,
            "channel": self.channel,
            "channel_margin_db": self.channel_margin_db,
            "features": asdict(self.features),
        }


VoiceprintFactory = Callable[
    [bytes, Channel | None, RecordingLimits, Encoder, Intervals], Voiceprint | NotAssessable
]  # ``make_voiceprint``, or what a test puts in its place


def make_voiceprint(
    recording: bytes, channel: Channel | None, limits: RecordingLimits, encoder: Encoder, intervals: Intervals = ()
) -> Voiceprint | NotAssessable:
    """Turn a recording into a voiceprint, or say why it cannot be judged.

    ``intervals`` is when the patient spoke; it tells the channels of a stereo recording apart.
    """
    try:
        audio = decode(recording, channel, limits.maximum_call_seconds, intervals)
        speech = find_speech(audio, limits, denoised=encoder.denoises)
    except NotAssessable as reason:
        return reason
    voice = embed(speech.samples, encoder)
    return Voiceprint(
        embedding=voice.vector,
        encoder=encoder.id,
        windows=voice.windows,
        outlier_windows=voice.outlier_windows,
        agreement=voice.agreement,
        speech_seconds=speech.speech_seconds,
        snr_db=speech.snr_db,
        clipped_share=speech.clipped_share,
        channel=audio.channel,
        audio_sha256=hashlib.sha256(recording).digest(),
        features=speech.features,
        channel_margin_db=audio.channel_margin_db,
    )
