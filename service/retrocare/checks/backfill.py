"""The backfill: kept recordings are embedded again, by a new encoder or after an import; then it becomes active.

Its checks are on the work list behind all others. Any number of processes on any number of hosts share them, and a
process that is stopped loses nothing. SQL decides what is to be done, and when it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from retrocare.checks.retry import backoff, until_answered
from retrocare.checks.service import Service
from retrocare.checks.voiceprint import VoiceprintFactory, make_voiceprint
from retrocare.checks.worker import Worker
from retrocare.errors import Conflict, DatabaseUnavailable

T = TypeVar("T")

POLL_SECONDS = 1.0
ROWS = 10_000  # per transaction
PASSES = 3  # the first does the work, the others what calls have changed meanwhile
ACTIVATIONS = 20  # attempts, while calls go on changing baselines
HOLD_SECONDS = 20.0  # for how long calls are held: longer than the last recordings take


class Backfill:
    """Embed everything that this encoder can embed, and rebuild every baseline that can be rebuilt.

    ``on_progress`` is called with the number of recordings that wait; ``on_away`` is called while the database does not
    answer, with the error and the seconds until the next attempt.
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
        """Run a worker inside the block; at its end, the leases that it holds are given back."""
        service = self.service
        worker = service.worker = Worker(service.settings, self.database, service.inference, self.factory)
        worker.start()
        try:
            yield
        finally:
            worker.stop()
            service.worker = None

    def finish(self) -> None:
        """Do what can be done now, and what is added meanwhile. Raises: Unavailable where a thread has ended."""
        for _ in range(PASSES):
            if not self.make_pass():
                return

    def make_pass(self) -> bool:
        """Queue what is missing, wait for it, rebuild baselines; return whether there was anything to do."""
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

        Calls go on being judged and change the baselines that have to be rebuilt; in the last seconds they are held.
        Raises: Conflict where a patient's baseline cannot be rebuilt.
        """
        for _ in range(ACTIVATIONS):
            self.make_pass()
            try:
                return self._retried(lambda: self.database.activate_encoder(self.encoder, accepts_unrecoverable))
            except Conflict as refused:
                refusal = refused
            if not self._retried(lambda: self.database.backfill_status(self.encoder))["outdated"]:
                break
            self._retried(lambda: self.database.hold_calls(HOLD_SECONDS))
        raise refusal

    def _all(self, work: Callable[[], int]) -> int:
        """Repeat a piece of work until none is left; return how much it was."""
        done = 0
        while some := self._retried(work):
            done += some
        return done

    def _retried(self, ask: Callable[[], T]) -> T:
        return until_answered(ask, self.on_away)
