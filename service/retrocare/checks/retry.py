"""Trying again: how long to wait, and until when."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from retrocare.errors import DatabaseUnavailable

T = TypeVar("T")


def backoff(first: float = 0.25, longest: float = 30.0) -> Iterator[float]:
    """Give the seconds to wait before each further try: doubled each time, with jitter."""
    wait = first
    while True:
        yield wait * random.uniform(0.8, 1.2)  # noqa: S311  # no secret hangs on it
        wait = min(longest, 2 * wait)


def until_answered(ask: Callable[[], T], on_away: Callable[[DatabaseUnavailable, float], None]) -> T:
    """Repeat until the database answers: a backfill that takes days outlives restarts of the database."""
    for wait in backoff(first=1.0):
        try:
            return ask()
        except DatabaseUnavailable as away:
            on_away(away, wait)
            time.sleep(wait)
    raise AssertionError("backoff never ends")
