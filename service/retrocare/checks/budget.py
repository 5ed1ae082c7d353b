"""The budget of one caller: how long it waits, how much it may use, and whether it still waits at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from retrocare.errors import Cancelled, DeadlineExceeded

DATABASE_SECONDS = 120.0


class RequestBudget:
    """Bound the work for one caller; without arguments only the check's lease bounds it.

    ``seconds`` is how long the caller waits. ``cancelled`` is set when it waits no longer. ``reserve`` surrounds the
    work on a recording from before it is decoded, and raises where that is more than the process can take on.
    ``database_seconds`` is how long storing a result is retried while the database does not answer.
    """

    def __init__(
        self,
        *,
        seconds: float | None = None,
        cancelled: threading.Event | None = None,
        reserve: Callable[[bytes], AbstractContextManager[None]] = lambda recording: nullcontext(),
        database_seconds: float = DATABASE_SECONDS,
    ) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self.cancelled = cancelled or threading.Event()
        self.reserve = reserve
        self.database_seconds = database_seconds

    def remaining(self) -> float | None:
        """Return how many seconds are left; None: no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def check(self) -> None:
        """Raise Cancelled or DeadlineExceeded once nobody can use the result."""
        if self.cancelled.is_set():
            raise Cancelled("Nobody waits for the answer any more")
        if self.remaining() == 0:
            raise DeadlineExceeded("The answer would come too late", "Try again later.")
