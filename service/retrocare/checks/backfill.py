"""Bulk: what is kept is embedded again, by a new encoder or after an import; then the new encoder becomes active.

The work is on the list of checks, after all other work: any number of processes on any number of hosts share it, and
one that is stopped loses nothing. What is to be done, and when it is done, SQL decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from retrocare.checks.pipeline import backoff
from retrocare.checks.service import Service
from retrocare.checks.voiceprint import VoiceprintFactory, make_voiceprint
from retrocare.checks.worker import Worker
from retrocare.errors import Conflict, DatabaseUnavailable

T = TypeVar("T")

POLL_SECONDS = 1.0
ROWS = 10_000  # of one transaction
PASSES = 3  # the first does it, the others what calls have changed meanwhile
ACTIVATIONS = 20  # attempts to take over, while calls change the baselines that are to be followed
HOLD_SECONDS = 20.0  # longer than the last recordings take


class Backfill:
    """Work until nothing is left that this encoder could embed, and every baseline that can be rebuilt is.

    ``on_progress`` hears how many recordings wait; ``on_away`` hears that the database does not answer, and in how many
    seconds it is asked again.
    """

    def __init__(
        self,
        service: Service,
        is_history: bool,
        on_progress: Callable[[int], None],
        factory: VoiceprintFactory = make_voiceprint,
        on_away: Callable[[DatabaseUnavailable, float], None] = lambda error, wait: None,
    ) -> None:
        self.service, self.is_history, self.on_progress, self.factory = service, is_history, on_progress, factory
        self.on_away = on_away
        self.database, self.encoder = service.database, service.encoder

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run a worker meanwhile; at the end, its leases are given back."""
        service = self.service
        worker = service.worker = Worker(service.settings, self.database, service.inference, self.factory)
        worker.start()
        try:
            yield
        finally:
            worker.stop()
            service.worker = None

    def finish(self) -> None:
        """Do what can be done now, and what was added meanwhile. Raises: Unavailable where a thread has ended."""
        for _ in range(PASSES):
            if not self.make_pass():
                return

    def make_pass(self) -> bool:
        """Queue what is missing, wait until it has its end, rebuild; return whether there was anything to do."""
        opened = self._all(lambda: self.database.open_backfill(self.encoder, self.is_history, ROWS))
        if self.service.worker:
            self.service.worker.wake()
        was_waiting = False
        for wait in backoff(first=0.1, longest=POLL_SECONDS):
            if not (waiting := self._retried(lambda: self.database.waiting_backfill(self.encoder))):
                break
            was_waiting = True
            self.on_progress(waiting)
            self.service.check_threads()
            time.sleep(wait)
        rebuilt = self._all(lambda: self.database.rebuild_baselines(self.encoder, ROWS // 10))
        return opened > 0 or rebuilt > 0 or was_waiting

    def activate(self, accepts_unrecoverable: bool) -> int:
        """Make this encoder the active one and return how many waiting calls it took over.

        Calls are judged meanwhile, and change the baselines that are to be followed: the last of them are kept waiting
        for the seconds that it takes.
        Raises: Conflict where baselines of patients cannot be rebuilt, or nothing can be done about what is missing.
        """
        for _ in range(ACTIVATIONS):
            self.make_pass()
            try:
                return self._retried(lambda: self.database.activate_encoder(self.encoder, accepts_unrecoverable))
            except Conflict as refused:
                refusal = refused
            if not self.database.backfill_status(self.encoder)["outdated"]:
                break
            self.database.hold_calls(HOLD_SECONDS)
        raise refusal

    def _all(self, work: Callable[[], int]) -> int:
        """Do a piece of work until none is left; return how much it was."""
        done = 0
        while some := self._retried(work):
            done += some
        return done

    def _retried(self, ask: Callable[[], T]) -> T:
        return until_answered(ask, self.on_away)


def until_answered(ask: Callable[[], T], on_away: Callable[[DatabaseUnavailable, float], None]) -> T:
    """Ask until the database answers, and return its answer: work that takes days sees the database restarted."""
    for wait in backoff(first=1.0):
        try:
            return ask()
        except DatabaseUnavailable as away:
            on_away(away, wait)
            time.sleep(wait)
    raise AssertionError("backoff never ends")
