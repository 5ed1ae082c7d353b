"""Trying again: how long to wait, and until when."""

from __future__ import annotations

import math
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


def until_answered(
    ask: Callable[[], T],
    on_away: Callable[[DatabaseUnavailable, float], None] = lambda away, wait: None,
    *,
    seconds: float = math.inf,
    first: float = 1.0,
) -> T:
    """Repeat until the database answers, for so many seconds; ``first`` is the wait before the first further try.

    Raises: DatabaseUnavailable when the seconds are over.
    """
    deadline = time.monotonic() + seconds
    for wait in backoff(first):
        try:
            return ask()
        except DatabaseUnavailable as away:
            if time.monotonic() + wait > deadline:
                raise
            on_away(away, wait)
            time.sleep(wait)
    raise AssertionError("backoff never ends")
