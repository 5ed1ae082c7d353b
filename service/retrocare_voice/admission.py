"""Admission: how much the synchronous routes take on. The rest is turned away at once, and told when to come again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from retrocare_voice.audio import claimed_seconds
from retrocare_voice.errors import RetrocareError, Unavailable
from retrocare_voice.events import TURNED_AWAY
from retrocare_voice.pipeline import Abandoned, Patience
from retrocare_voice.settings import Settings

T = TypeVar("T")

LOOK_SECONDS = 0.25  # how often it is looked whether the caller is still there


class TooBusy(RetrocareError):
    """More work than is taken on at once."""

    code, status, retry_after_seconds = "too_busy", 429, 5

    def __init__(self, what: str) -> None:
        super().__init__(f"The service has {what} in hand already", "Try again after a while.")
        TURNED_AWAY.labels(self.code).inc()


class Admission:
    """Count what is in hand."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.requests = 0
        self.audio_seconds = 0.0
        self._counting = threading.Lock()

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[Ticket]:
        """Let a request in.

        Raises: TooBusy.
        """
        with self._counting:
            if self.requests >= self.settings.admitted_requests:
                raise TooBusy(f"{self.requests} requests")
            self.requests += 1
        ticket = Ticket(self)
        try:
            yield ticket
        finally:
            with self._counting:
                self.requests -= 1
                self.audio_seconds -= ticket.audio_seconds

    def take_on(self, ticket: Ticket, seconds: float) -> None:
        """Count seconds of audio; a recording that is alone is taken on whatever its length."""
        with self._counting:
            if self.audio_seconds and self.audio_seconds + seconds > self.settings.admitted_audio_seconds:
                raise TooBusy(f"{self.audio_seconds:.0f} s of audio")
            self.audio_seconds += seconds
            ticket.audio_seconds += seconds


class Ticket(Patience):
    """One admitted request: when it must be answered, and whether anybody waits for the answer."""

    database_seconds = 5.0

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.audio_seconds = 0.0
        self.gone = threading.Event()
        self.deadline = time.monotonic() + admission.settings.request_seconds

    async def work(self, request: Request, job: Callable[[], T]) -> T:
        """Do a job in a thread of its own, and keep an eye on the caller, whose body must have been read."""
        watch = asyncio.create_task(self._watch(request))
        try:
            return await run_in_threadpool(job)
        finally:
            watch.cancel()

    async def _watch(self, request: Request) -> None:
        while not await request.is_disconnected():  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(LOOK_SECONDS)
        TURNED_AWAY.labels("caller_gone").inc()
        self.gone.set()

    def check(self) -> None:
        if self.gone.is_set():
            raise Abandoned("The caller has gone")
        if self.remaining() <= 0:
            TURNED_AWAY.labels("deadline_exceeded").inc()
            raise Unavailable("The answer would come too late", "Try again later.", "deadline_exceeded")

    def weigh(self, recording: bytes) -> None:
        self.check()
        self.admission.take_on(self, claimed_seconds(recording))

    def remaining(self) -> float:
        return max(0.0, self.deadline - time.monotonic())
