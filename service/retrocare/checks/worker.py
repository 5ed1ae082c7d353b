"""The worker: claim a check, run it, claim the next. Any number of them, on any number of hosts, share the work list.

A few lanes each hold one check: while one recording is encoded, the others are fetched. So memory is bounded by the
lanes, and a process that dies loses no more than that many leases. A check whose lease was lost before is run alone: if
its recording kills the process, no other check is lost with it.
"""

from __future__ import annotations

import os
import socket
import threading
import time

from retrocare.checks.budget import RequestBudget
from retrocare.checks.inference import Inference
from retrocare.checks.pipeline import run_check
from retrocare.checks.retry import backoff
from retrocare.checks.voiceprint import VoiceprintFactory, make_voiceprint
from retrocare.database.client import Claim, Database
from retrocare.errors import RetrocareError, Unavailable
from retrocare.observability import ATTEMPTS, event, log
from retrocare.recordings.fetch import fetch
from retrocare.settings import Settings

RENEWALS_A_LEASE = 3
STOP_SECONDS = 8.0  # how long the checks that are held may go on after stop()


class Worker:
    """Work on the list until told to stop."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        inference: Inference,
        factory: VoiceprintFactory = make_voiceprint,
    ) -> None:
        self.settings, self.database, self.inference, self.factory = settings, database, inference, factory
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._active: str | None = inference.encoder.id
        self._held: dict[int, Claim] = {}
        self._changed = threading.Condition()
        self._claiming = threading.Lock()
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._budget = RequestBudget(cancelled=self._stopping, database_seconds=settings.lease_seconds)
        self._threads = [threading.Thread(target=self._lane, name=f"lane-{n}") for n in range(settings.worker_lanes)]
        self._threads.append(threading.Thread(target=self._renew, name="renewal"))
        for thread in self._threads:
            thread.daemon = True  # a fetch that hangs must not keep the process alive

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        event("worker_started", worker=self.name, lanes=self.settings.worker_lanes, encoder=self.inference.encoder.id)

    def wake(self) -> None:
        """Claim checks now, rather than at the next poll."""
        self._woken.set()

    @property
    def is_alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Claim nothing more; within ``seconds``, finish the checks that are held or give them back."""
        self._stopping.set()
        self._woken.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for claim in list(self._held.values()):
            try:
                if self.database.release_check(claim):
                    event("released", claim.call_log_id, code="worker_stopped")
            except RetrocareError as error:  # the lease runs out instead
                event("not_released", claim.call_log_id, code=error.code)
        event("worker_stopped", worker=self.name)

    def _lane(self) -> None:
        try:
            while not self._stopping.is_set() and self.inference.is_alive:
                self._work()
        except Exception:  # noqa: BLE001  # the lane ends, and with it the process
            log.exception("lane_ended")

    def _work(self) -> None:
        with self._claiming:
            claim = self._next()
            if claim is None:
                return
            self._hold(claim)
            if claim.lost_leases:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._held) == 1 or self._stopping.is_set())
                self._run(claim)  # and no other lane claims meanwhile
                return
        self._run(claim)

    def _next(self) -> Claim | None:
        """Claim a check; where there is none, wait until the worker is woken or it is time to poll again."""
        for wait in backoff(first=1.0):
            self._woken.clear()
            if self._stopping.is_set():
                return None
            try:
                claims = self.database.claim_checks(
                    self.inference.encoder.id, self.name, 1, self.settings.lease_seconds
                )
                if not claims:
                    self._notice(self.database.active_encoder())
            except Unavailable as away:
                event("database_away", worker=self.name, code=away.code, wait=round(wait, 1))
                self._stopping.wait(wait)
                continue
            if claims:
                return claims[0]
            self._woken.wait(self.settings.poll_seconds)
            return None
        raise AssertionError("backoff never ends")

    def _notice(self, active: str | None) -> None:
        """Log it when another encoder becomes active: the waiting calls are for that one until ours is active again."""
        if active != self._active:
            self._active, ours = active, self.inference.encoder.id
            event("encoder_active" if active == ours else "encoder_not_active", encoder=ours, active=active)

    def _hold(self, claim: Claim) -> None:
        ATTEMPTS.labels("worker").inc()
        event("claimed", claim.call_log_id, lost_leases=claim.lost_leases)
        with self._changed:
            self._held[claim.check_id] = claim

    def _run(self, claim: Claim) -> None:
        try:
            run_check(claim, lambda: self._read(claim), self.inference, self.database, self._budget, self.factory)
        except RetrocareError as error:
            event("check_not_ended", claim.call_log_id, code=error.code)
        except Exception:  # noqa: BLE001  # it is recorded with the check; the lane goes on
            log.exception("lane_failed", extra={"fields": {"call_log_id": str(claim.call_log_id)}})
        finally:
            with self._changed:
                self._held.pop(claim.check_id, None)
                self._changed.notify_all()

    def _read(self, claim: Claim) -> bytes:
        self._budget.check()
        return fetch(claim.recording_ref or "", self.settings)

    def _renew(self) -> None:
        """Renew the leases of the checks that are held; where one is lost, completing the check is refused."""
        while not self._stopping.wait(self.settings.lease_seconds / RENEWALS_A_LEASE):
            for claim in list(self._held.values()):
                try:
                    if not self.database.renew_lease(claim, self.settings.lease_seconds):
                        event("lease_lost", claim.call_log_id)
                except RetrocareError as error:
                    event("not_renewed", claim.call_log_id, code=error.code)
