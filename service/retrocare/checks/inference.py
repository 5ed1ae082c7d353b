"""The one thread in which recordings become voiceprints: the routes and the worker wait here for their turn."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from retrocare.encoders.protocol import Encoder
from retrocare.errors import DeadlineExceeded, ThreadEnded
from retrocare.observability import log

T = TypeVar("T")
Job = tuple["Future[Any]", Callable[[], Any]]

STOP_SECONDS = 1.0  # for a job in hand; a thread that the interpreter cuts off may take the process down with it
HUNG_SECONDS = 600.0  # the longest call takes seconds: a thread that is busy for so long does not come back


class Inference:
    """Run jobs one after the other. A job's error is its own; what ends the thread ends all that wait, at once."""

    def __init__(self, encoder: Encoder, hung_seconds: float = HUNG_SECONDS) -> None:
        self.encoder = encoder
        self._hung_seconds = hung_seconds
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._busy_since: float | None = None
        self._has_ended = False
        self._ending = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Say whether jobs are still done: the thread is there, and not stuck in one."""
        since = self._busy_since
        return not self._has_ended and (since is None or time.monotonic() - since < self._hung_seconds)

    def run(self, job: Callable[[], T], wait_seconds: float | None = None) -> T:
        """Do a job when its turn comes, and return what it returns.

        Raises: what the job raises; ThreadEnded; DeadlineExceeded where its turn did not come in time.
        """
        future: Future[T] = Future()
        with self._ending:
            if self._has_ended:
                raise _ended()
            self._jobs.put((future, job))
        try:
            return future.result(wait_seconds)
        except TimeoutError:
            if future.cancel() or not future.done():
                raise DeadlineExceeded("The service is too busy", "Try again later.") from None
            raise

    def stop(self) -> None:
        """End the thread after the jobs that were asked for, and wait for it a while."""
        self._jobs.put(None)
        self._thread.join(STOP_SECONDS)

    def _work(self) -> None:
        try:
            while item := self._jobs.get():
                future, job = item
                if future.set_running_or_notify_cancel():
                    self._busy_since = time.monotonic()
                    if not _done(future, job):
                        return
                    self._busy_since = None
        finally:
            with self._ending:
                self._has_ended = True
            while not self._jobs.empty():
                if item := self._jobs.get():
                    item[0].set_exception(_ended())


def _done(future: Future[Any], job: Callable[[], Any]) -> bool:
    """Do a job; False where it took the thread with it."""
    try:
        future.set_result(job())
    except Exception as error:  # noqa: BLE001  # it is raised where the job was asked for
        future.set_exception(error)
    except BaseException:  # noqa: BLE001  # such as SystemExit
        log.critical("inference_ended", exc_info=True)
        future.set_exception(_ended())
        return False
    return True


def _ended() -> ThreadEnded:
    return ThreadEnded("The inference thread", code="inference_ended")
