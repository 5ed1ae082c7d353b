"""The one thread that makes voiceprints: routes and workers queue for it."""

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

STOP_SECONDS = 1.0  # for the job that runs; a thread that is cut off while the interpreter exits may crash the process
HUNG_SECONDS = 600.0  # the longest call takes seconds: a thread that is busy for longer is stuck


class Inference:
    """Run jobs one after the other; errors are raised where a job was submitted. If the thread ends, all jobs fail."""

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
        """Say whether jobs are still run: the thread exists, and is not stuck in one."""
        since = self._busy_since
        return not self._has_ended and (since is None or time.monotonic() - since < self._hung_seconds)

    def run(self, job: Callable[[], T], wait_seconds: float | None = None) -> T:
        """Run a job when its turn comes, and return what it returns.

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
            return future.result()  # it was done just now, or the time-out is the job's own

    def stop(self) -> None:
        """End the thread after the jobs that are queued, and wait a moment for it."""
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
    """Run a job; return False where it ends the thread."""
    try:
        future.set_result(job())
    except Exception as error:  # noqa: BLE001  # it is raised where the job was submitted
        future.set_exception(error)
    except BaseException:  # noqa: BLE001  # such as SystemExit
        log.critical("inference_ended", exc_info=True)
        future.set_exception(_ended())
        return False
    return True


def _ended() -> ThreadEnded:
    return ThreadEnded("The inference thread", code="inference_ended")
