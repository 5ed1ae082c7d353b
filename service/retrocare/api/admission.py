"""Admission: how much work the synchronous routes accept; the rest is refused at once with a time to retry."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from retrocare.audio.decode import claimed_seconds
from retrocare.checks.budget import RequestBudget
from retrocare.errors import DeadlineExceeded, TooBusy
from retrocare.observability import TURNED_AWAY
from retrocare.settings import Settings

T = TypeVar("T")

POLL_SECONDS = 0.25  # between two looks at whether the caller is still connected
DATABASE_SECONDS = 5.0  # how long storing a result is retried while the database does not answer


class Admission:
    """Count the requests, and the seconds of audio, that are being worked on."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.requests = 0
        self._audio_milliseconds = 0
        self._counting = threading.Lock()

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[RequestBudget]:
        """Admit a request, and yield the budget for its recordings.

        Raises: TooBusy.
        """
        with self._counting:
            if self.requests >= self.settings.admitted_requests:
                raise too_busy(f"{self.requests} requests")
            self.requests += 1
        try:
            yield RequestBudget(
                seconds=self.settings.request_seconds, reserve=self.reserve, database_seconds=DATABASE_SECONDS
            )
        finally:
            with self._counting:
                self.requests -= 1

    @contextmanager
    def reserve(self, recording: bytes) -> Iterator[None]:
        """Count the audio of a recording while it is worked on; one that is alone is accepted whatever its length.

        Raises: TooBusy.
        """
        milliseconds = round(1000 * claimed_seconds(recording))
        with self._counting:
            most = 1000 * self.settings.admitted_audio_seconds
            if self._audio_milliseconds and self._audio_milliseconds + milliseconds > most:
                raise too_busy(f"{self.audio_seconds:.0f} s of audio")
            self._audio_milliseconds += milliseconds
        try:
            yield
        finally:
            with self._counting:
                self._audio_milliseconds -= milliseconds

    @property
    def audio_seconds(self) -> float:
        """Return how much audio is being worked on."""
        return self._audio_milliseconds / 1000

    async def run(self, request: Request, budget: RequestBudget, job: Callable[[], T]) -> T:
        """Run a job in a thread, after the body was read; cancel its budget when the caller disconnects."""
        watch = asyncio.create_task(_watch(request, budget))
        try:
            return await run_in_threadpool(job)
        except asyncio.CancelledError:  # the service stops
            budget.cancelled.set()
            raise
        except DeadlineExceeded as late:
            TURNED_AWAY.labels(late.code).inc()
            raise
        finally:
            watch.cancel()


def too_busy(what: str) -> TooBusy:
    TURNED_AWAY.labels(TooBusy.code).inc()
    return TooBusy(f"The service has {what} in hand already", "Try again after a while.")


async def _watch(request: Request, budget: RequestBudget) -> None:
    while not await request.is_disconnected():  # noqa: ASYNC110  # Starlette has no event for it
        await asyncio.sleep(POLL_SECONDS)
    TURNED_AWAY.labels("caller_gone").inc()
    budget.cancelled.set()
