"""Recording in, voiceprint out, and the check brought to its end: the only file that knows the order of the steps."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retrocare_voice.audio import Channel, NamedChannel, decode
from retrocare_voice.channels import Intervals
from retrocare_voice.database import Claim, Database
from retrocare_voice.encoder import Encoder, embed
from retrocare_voice.errors import NotAssessable, RetrocareError, Unavailable
from retrocare_voice.events import FAILURES, OUTCOMES, Phases, event, log
from retrocare_voice.inference import Inference
from retrocare_voice.speech import Limits, find_speech


@dataclass(frozen=True, eq=False)
class Voiceprint:
    """Hold one voice and what it was made of."""

    embedding: npt.NDArray[np.float32]  # (dimension,), length 1
    encoder: str
    windows: int
    outlier_windows: int  # left out: of somebody else
    agreement: float  # mean cosine of the windows to the embedding
    speech_seconds: float
    snr_db: float | None
    clipped_share: float
    channel: NamedChannel
    audio_sha256: bytes
    channel_margin_db: float | None = None  # by how much it was told from the other one, where that was needed

    @property
    def stored(self) -> dict[str, Any]:
        """Return what voice.complete_check stores."""
        names = ("embedding", "audio_sha256", "speech_seconds", "snr_db", "quality")
        return {name: getattr(self, name) for name in names}

    @property
    def quality(self) -> dict[str, Any]:
        """Return what is kept beside the vector, as voice.embeddings.quality."""
        return {
            "windows": self.windows,
            "outlier_windows": self.outlier_windows,
            "agreement": self.agreement,
            "clipped_share": self.clipped_share,
            "channel": self.channel,
            "channel_margin_db": self.channel_margin_db,
        }


def voiceprint(
    recording: bytes, channel: Channel | None, limits: Limits, encoder: Encoder, intervals: Intervals = ()
) -> Voiceprint | NotAssessable:
    """Turn a recording into a voiceprint, or say why it cannot be judged."""
    try:
        audio = decode(recording, channel, limits.maximum_call_seconds, intervals)
        speech = find_speech(audio, limits)
    except NotAssessable as reason:
        return reason
    embedded = embed(speech.samples, encoder)
    return Voiceprint(
        embedding=embedded.vector,
        encoder=encoder.id,
        windows=embedded.windows,
        outlier_windows=embedded.outlier_windows,
        agreement=embedded.agreement,
        speech_seconds=speech.speech_seconds,
        snr_db=speech.snr_db,
        clipped_share=speech.clipped_share,
        channel=audio.channel,
        audio_sha256=hashlib.sha256(recording).digest(),
        channel_margin_db=audio.channel_margin_db,
    )


Make = Callable[[bytes, Channel | None, Limits, Encoder, Intervals], Voiceprint | NotAssessable]


class Patience:
    """How long whoever asked is willing to wait. A worker has all the time that its lease has."""

    database_seconds = 120.0  # how long an end is offered to a database that is away

    def check(self) -> None:
        """Raise where the work is not wanted any more."""

    def weigh(self, recording: bytes) -> None:
        """Raise where this recording is more than can be taken on."""

    def remaining(self) -> float | None:
        """Return how many seconds are left; None: no limit."""
        return None


class Abandoned(RetrocareError):
    """Nobody waits for the answer any more: the check is given back, and judged later where its recording is kept."""

    code, status = "caller_gone", 503


def heard(
    read: Callable[[], bytes],
    channel: Channel | None,
    limits: Limits,
    inference: Inference,
    patience: Patience,
    phases: Phases,
    make: Make = voiceprint,
    intervals: Intervals = (),
) -> Voiceprint | NotAssessable:
    """Fetch a recording and make its voiceprint when its turn comes, as long as somebody waits for it."""
    with phases("fetch"):
        recording = read()
    patience.weigh(recording)

    def job() -> Voiceprint | NotAssessable:
        patience.check()
        return make(recording, channel, limits, inference.encoder, intervals)

    with phases("voiceprint"):
        return inference.run(job, patience.remaining())


def settle(
    claim: Claim,
    read: Callable[[], bytes],
    inference: Inference,
    database: Database,
    patience: Patience,
    make: Make = voiceprint,
) -> tuple[dict[str, Any], Phases]:
    """Bring a leased check to its end; return the row of voice.check_result, and how long each phase took.

    Raises: whatever kept the recording from being judged, after that was recorded with the check; a RetrocareError
    carries the check's row as its ``result``. Where the lease, the database or the inference thread is lost, nothing
    can be recorded: the lease runs out, and the check is handed out again.
    """
    phases = Phases(claim.call_log_id)
    try:
        made = heard(read, claim.channel, claim.limits, inference, patience, phases, make, claim.speech_intervals)
        with phases("complete"):
            if isinstance(made, NotAssessable):
                row = _offered(lambda: database.abstain_check(claim, made), patience)
            else:
                row = _offered(lambda: database.complete_check(claim, **made.stored), patience)
    except RetrocareError as failure:
        FAILURES.labels(failure.code).inc()
        if failure.code in ("caller_gone", "deadline_exceeded", "too_busy") and database.release_check(claim):
            event("released", claim.call_log_id, code=failure.code)
        elif failure.code not in ("lease_lost", "database_unavailable", "inference_ended"):
            failure.result = database.fail_check(claim, failure.code, str(failure), failure.is_permanent)
            _report(claim, failure.result, failure.code)
        raise
    except Exception as failure:  # whatever broke, the check must say so and be tried again
        FAILURES.labels("internal_error").inc()
        log.exception("failed", extra={"fields": {"call_log_id": str(claim.call_log_id)}})
        _report(claim, database.fail_check(claim, "internal_error", type(failure).__name__, False), "internal_error")
        raise
    except BaseException:  # Ctrl-C or SIGTERM: an upload is nobody else's, any other check is given back
        with suppress(RetrocareError):
            _ = database.release_check(claim) or database.fail_check(claim, "interrupted", "interrupted", False)
        raise
    _report(claim, row)
    return row, phases


def _offered(end: Callable[[], dict[str, Any]], patience: Patience) -> dict[str, Any]:
    """Ask for an end until the database answers: the lease's token makes asking twice the same as asking once."""
    deadline = time.monotonic() + patience.database_seconds
    for wait in backoff():
        try:
            return end()
        except Unavailable as away:
            if away.code != "database_unavailable" or time.monotonic() + wait > deadline:
                raise
            time.sleep(wait)
    raise AssertionError("backoff never ends")


def backoff(first: float = 0.25, longest: float = 30.0) -> Iterator[float]:
    """Give the seconds to wait before each further try: doubled each time, and never quite the same for two."""
    wait = first
    while True:
        yield wait * random.uniform(0.8, 1.2)  # noqa: S311  # no secret hangs on it
        wait = min(longest, 2 * wait)


def _report(claim: Claim, row: dict[str, Any], code: str | None = None) -> None:
    if row["state"] not in ("queued", "leased"):
        OUTCOMES.labels(row["state"], row["reason"] or "").inc()
    fields = {"state": row["state"], "reason": row["reason"], "code": code}
    event("settled", claim.call_log_id, **{name: value for name, value in fields.items() if value})
