"""Admission: how much work the synchronous routes accept; the rest is refused at once with a time to retry."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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
        self.audio_seconds = 0.0
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
        reserved: list[float] = []

        def reserve(recording: bytes) -> None:
            seconds = claimed_seconds(recording)
            self._take_on(seconds)
            reserved.append(seconds)

        try:
            yield RequestBudget(
                seconds=self.settings.request_seconds, reserve=reserve, database_seconds=DATABASE_SECONDS
            )
        finally:
            with self._counting:
                self.requests -= 1
                self.audio_seconds -= sum(reserved)

    async def run(self, request: Request, budget: RequestBudget, job: Callable[[], T]) -> T:
        """Run a job in a thread, after the body was read; cancel its budget when the caller disconnects."""
        watch = asyncio.create_task(_watch(request, budget))
        try:
            return await run_in_threadpool(job)
        except DeadlineExceeded as late:
            TURNED_AWAY.labels(late.code).inc()
            raise
        finally:
            watch.cancel()

    def _take_on(self, seconds: float) -> None:
        """Count seconds of audio; a recording is always accepted where no other is being worked on."""
        with self._counting:
            if self.audio_seconds and self.audio_seconds + seconds > self.settings.admitted_audio_seconds:
                raise too_busy(f"{self.audio_seconds:.0f} s of audio")
            self.audio_seconds += seconds


def too_busy(what: str) -> TooBusy:
    TURNED_AWAY.labels(TooBusy.code).inc()
    return TooBusy(f"The service has {what} in hand already", "Try again after a while.")


async def _watch(request: Request, budget: RequestBudget) -> None:
    while not await request.is_disconnected():  # noqa: ASYNC110  # Starlette has no event for it
        await asyncio.sleep(POLL_SECONDS)
    TURNED_AWAY.labels("caller_gone").inc()
    budget.cancelled.set()
