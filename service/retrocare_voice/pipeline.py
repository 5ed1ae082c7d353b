"""Recording in, voiceprint out, and the check brought to its end: the only file that knows the order of the steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retrocare_voice.audio import Channel, Samples, decode
from retrocare_voice.database import Claim, Database
from retrocare_voice.encoder import Embedding, Encoder, embed
from retrocare_voice.errors import NotAssessable, RetrocareError
from retrocare_voice.speech import Limits, find_speech


@dataclass(frozen=True, eq=False)
class Voiceprint:
    """Hold one voice and what it was made of."""

    embedding: npt.NDArray[np.float32]  # (dimension,), length 1
    encoder: str
    windows: int
    agreement: float  # mean cosine of the windows to the embedding
    speech_seconds: float
    snr_db: float | None
    clipped_share: float
    channel: Channel
    audio_sha256: bytes

    @property
    def quality(self) -> dict[str, Any]:
        """Return what is kept beside the vector, as voice.embeddings.quality."""
        return {
            "windows": self.windows,
            "agreement": self.agreement,
            "clipped_share": self.clipped_share,
            "channel": self.channel,
        }


class Inference:
    """Run the encoder in the one thread that torch is used from."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")

    def embed(self, speech: Samples) -> Embedding:
        return self._thread.submit(embed, speech, self.encoder).result()


def voiceprint(
    recording: bytes, channel: Channel | None, limits: Limits, inference: Inference
) -> Voiceprint | NotAssessable:
    """Turn a recording into a voiceprint, or say why it cannot be judged."""
    try:
        audio = decode(recording, channel, limits.maximum_call_seconds)
        speech = find_speech(audio, limits)
    except NotAssessable as reason:
        return reason
    embedded = inference.embed(speech.samples)
    return Voiceprint(
        embedding=embedded.vector,
        encoder=inference.encoder.id,
        windows=embedded.windows,
        agreement=embedded.agreement,
        speech_seconds=speech.speech_seconds,
        snr_db=speech.snr_db,
        clipped_share=speech.clipped_share,
        channel=audio.channel,
        audio_sha256=hashlib.sha256(recording).digest(),
    )


def settle(claim: Claim, read: Callable[[], bytes], inference: Inference, database: Database) -> dict[str, Any]:
    """Bring a leased check to its end, in one call to the database; return the row of voice.check_result.

    Raises: whatever kept the recording from being judged, after that was recorded with the check; a RetrocareError
    carries the check's row as its ``result``.
    """
    try:
        made = voiceprint(read(), claim.channel, claim.limits, inference)
        if isinstance(made, NotAssessable):
            return database.abstain_check(claim, made)
        return database.complete_check(
            claim, made.embedding, made.audio_sha256, made.speech_seconds, made.snr_db, made.quality
        )
    except RetrocareError as failure:
        if failure.code not in ("lease_lost", "database_unavailable"):
            failure.result = database.fail_check(claim, failure.code, str(failure), failure.is_permanent)
        raise
    except Exception as failure:  # whatever broke, the check must say so and be tried again
        database.fail_check(claim, "internal_error", type(failure).__name__, is_permanent=False)
        raise
