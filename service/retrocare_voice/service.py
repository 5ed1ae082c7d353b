"""The settings, the database and the encoder, opened together: what the routes and the command line judge with."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from retrocare_voice.database import Database, Row, connected
from retrocare_voice.encoder import load_encoder
from retrocare_voice.errors import Unavailable
from retrocare_voice.fetch import Recording
from retrocare_voice.pipeline import Inference, settle
from retrocare_voice.settings import Settings


class Service:
    """What judges one recording after the other."""

    def __init__(self, settings: Settings, database: Database, inference: Inference, why: str) -> None:
        self.settings, self.database, self.inference, self.why = settings, database, inference, why
        self.worker = socket.gethostname()

    @property
    def encoder(self) -> str:
        return self.inference.encoder.id

    def check_ready(self) -> None:
        """Raise Unavailable where the database is away, or another encoder is active."""
        active = self.database.active_encoder()
        if active != self.encoder:
            raise Unavailable(
                f"The active encoder is {active}, this service runs {self.encoder}",
                hint="Start it with the active encoder: RETROCARE_ENCODER names it.",
                code="encoder_not_active",
            )

    def judge(self, recording: Recording, patient_id: UUID, **call: Any) -> Row:
        """Bring one recording to its end and return the row of voice.check_result.

        Where another worker holds the check, or it has ended before, the row says so. Raises: RetrocareError.
        """
        self.check_ready()
        claim = self.database.open_recording(
            encoder=self.encoder,
            worker=self.worker,
            lease_seconds=self.settings.lease_seconds,
            patient_id=patient_id,
            recording_ref=recording.reference,
            channel=recording.channel,
            **call,
        )
        if claim.lease_token is None:
            return self.database.stored_result(claim.check_id)
        return settle(claim, lambda: recording.read(self.settings), self.inference, self.database)


@contextmanager
def opened_service(settings: Settings, say: Callable[[str], None] = lambda line: None) -> Iterator[Service]:
    """Open the database, load and register the encoder; ``say`` hears which, why, and each migration applied.

    Raises: ConfigurationError, Unavailable.
    """
    with connected(settings, say) as database:
        choice = load_encoder(
            settings.encoder, model_dir=settings.models, ecapa_dir=settings.ecapa_dir, active=database.active_encoder()
        )
        say(choice.why)
        encoder = choice.encoder
        database.register_encoder(encoder.id, encoder.dimension, encoder.window_seconds)
        yield Service(settings, database, Inference(encoder), choice.why)
