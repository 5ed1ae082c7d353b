"""The settings, the database and the encoder, opened together: what every way of judging needs."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID

from retrocare.audio.vad import load_networks
from retrocare.calibration.document import shipped, shipped_ids
from retrocare.checks.budget import RequestBudget
from retrocare.checks.explanations import explain
from retrocare.checks.inference import Inference
from retrocare.checks.pipeline import fetch_voiceprint, give_back, run_check
from retrocare.checks.scheduler import Scheduler
from retrocare.checks.voiceprint import Voiceprint
from retrocare.checks.worker import Worker
from retrocare.database.client import Claim, Database, Row
from retrocare.database.connection import connected
from retrocare.encoders.loading import AUTO, family_of, load_encoder
from retrocare.errors import NotAssessable, ThreadEnded, Unavailable
from retrocare.observability import ATTEMPTS, Phases, Say, event, silently
from retrocare.recordings.fetch import Recording
from retrocare.settings import Settings


class Service:
    """Embed or judge recordings with one encoder and one database."""

    def __init__(self, settings: Settings, database: Database, inference: Inference, why: str) -> None:
        self.settings, self.database, self.inference, self.why = settings, database, inference, why
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.worker: Worker | None = None
        self._open: dict[int, Claim] = {}  # checks of requests that are being answered
        self.scheduler: Scheduler | None = None

    @property
    def encoder(self) -> str:
        return self.inference.encoder.id

    def check_ready(self) -> None:
        """Raise Unavailable where no check can be run: a thread or the database is gone, another encoder is active."""
        self.check_threads()
        active = self.database.active_encoder()
        if active != self.encoder:
            raise Unavailable(
                f"The active encoder is {active}, this service runs {self.encoder}",
                hint=f"Set RETROCARE_ENCODER={active}, or change the active encoder with `retrocare backfill`.",
                code="encoder_not_active",
            )

    def check_threads(self) -> None:
        """Raise Unavailable where a thread that checks need has ended."""
        if not self.inference.is_alive:
            raise ThreadEnded("The inference thread", code="inference_ended")
        if self.worker and not self.worker.is_alive:
            raise ThreadEnded("The worker", code="worker_ended")
        if self.scheduler and not self.scheduler.is_alive:
            raise ThreadEnded("The scheduler", code="scheduler_ended")

    def embed(
        self, recording: Recording, budget: RequestBudget | None = None
    ) -> tuple[Voiceprint | NotAssessable, Phases]:
        """Turn one recording into a voiceprint; nothing is stored. Raises: RetrocareError."""
        phases = Phases()
        limits = self.database.limits(self.encoder)
        read = partial(recording.read, self.settings)
        budget = budget or RequestBudget()
        return fetch_voiceprint(read, recording.channel, limits, self.inference, budget, phases), phases

    def judge(
        self, recording: Recording, patient_id: UUID, budget: RequestBudget | None = None, **call: Any
    ) -> tuple[Row, Phases]:
        """Judge one recording; return its row of voice.check_result, and how long each phase took.

        Where another worker holds the check, or it had ended before, that row is returned. Raises: RetrocareError.
        """
        budget = budget or RequestBudget()
        self.check_ready()
        budget.check()  # an upload that comes too late is not even noted
        claim = self.database.open_recording(
            encoder=self.encoder,
            worker=self.name,
            lease_seconds=self.settings.lease_seconds,
            patient_id=patient_id,
            recording_ref=recording.reference,
            channel=recording.channel,
            **call,
        )
        if claim.lease_token is None:
            return self.database.stored_result(claim.check_id), Phases(claim.call_log_id)
        ATTEMPTS.labels("request").inc()
        event("opened", claim.call_log_id)
        self._open[claim.check_id] = claim
        try:
            return run_check(claim, partial(recording.read, self.settings), self.inference, self.database, budget)
        finally:
            self._open.pop(claim.check_id, None)

    def release_open_checks(self) -> None:
        """Give back the checks of requests that are cut off."""
        for claim in list(self._open.values()):
            give_back(claim, self.database)

    def explanation(self, row: Row) -> str | None:
        """Return the reason of a row of voice.check_result as a sentence, where there is one."""
        if row["reason"] is None:
            return None
        return explain(
            row["reason"], self.database.call_measures(row["call_log_id"]), self.database.limits(self.encoder)
        )


@contextmanager
def opened_service(settings: Settings, say: Say = silently) -> Iterator[Service]:
    """Open the database, load and register the encoder; ``say`` gets a line for each step that takes a while.

    Raises: ConfigurationError, Unavailable.
    """
    if settings.encoder != AUTO:
        family_of(settings.encoder)  # a word that is no encoder's is refused before a database is made
    with connected(settings, say) as database:
        load_networks()
        choice = load_encoder(
            settings.encoder,
            model_dir=settings.models,
            ecapa_dir=settings.ecapa_dir,
            active=database.active_encoder(),
            threads=settings.inference_threads,
            calibrated=shipped_ids(),
            say=say,
        )
        say(choice.why)
        encoder = choice.encoder
        database.register_encoder(encoder.id, encoder.dimension, encoder.window_seconds)
        calibrate_as_shipped(database, encoder.id, say)
        inference = Inference(encoder)
        try:
            service = Service(settings, database, inference, choice.why)
            try:
                yield service
            finally:
                service.release_open_checks()
        finally:
            inference.stop()


def calibrate_as_shipped(database: Database, encoder: str, say: Say) -> None:
    """Give an encoder the calibration that comes with it; say so loudly where there is none."""
    if document := shipped(encoder):
        database.ship_calibration(encoder, document)
    elif database.policy(encoder)["calibration_id"] is None:
        say(
            f"WARNING: {encoder} has no calibration. Its scores are by the fixed rule, whose thresholds were not made "
            "for it: expect false alerts and missed changes. `retrocare calibrate` makes one from public speech."
        )


@contextmanager
def working(service: Service) -> Iterator[Worker]:
    """Run a worker and the scheduler beside whatever else is done.

    Raises: Unavailable where another encoder is active.
    """
    service.check_ready()
    worker = service.worker = Worker(service.settings, service.database, service.inference)
    scheduler = service.scheduler = Scheduler(service.settings, service.database)
    worker.start()
    scheduler.start()
    try:
        yield worker
    finally:
        worker.stop()
        scheduler.stop()
