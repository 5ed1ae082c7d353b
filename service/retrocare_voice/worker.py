"""The worker: claim, judge, complete, again and again. Any number of them, on any number of hosts, share the work list.

A few lanes each hold one check: while one recording is encoded, the others are fetched. So memory is bounded by the
lanes, and a process that dies takes no more than that many leases with it. A check whose holder vanished before is
touched only while nothing else is held: if it kills the process, it takes nobody along.
"""

from __future__ import annotations

import os
import socket
import threading
import time

from retrocare_voice.database import Claim, Database
from retrocare_voice.errors import RetrocareError, Unavailable
from retrocare_voice.events import ATTEMPTS, event, log
from retrocare_voice.fetch import fetch
from retrocare_voice.inference import Inference
from retrocare_voice.pipeline import Abandoned, Make, Patience, backoff, settle, voiceprint
from retrocare_voice.settings import Settings

RENEWALS_A_LEASE = 3
STOP_SECONDS = 8.0  # how long work in hand may go on after the worker was told to stop


class Worker(Patience):
    """Work on the list until told to stop."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        inference: Inference,
        make: Make = voiceprint,
    ) -> None:
        self.settings, self.database, self.inference, self.make = settings, database, inference, make
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.database_seconds = settings.lease_seconds
        self._active: str | None = inference.encoder.id
        self._held: dict[int, Claim] = {}
        self._changed = threading.Condition()
        self._claiming = threading.Lock()
        self._stopping = threading.Event()
        self._doorbell = threading.Event()
        self._threads = [threading.Thread(target=self._lane, name=f"lane-{n}") for n in range(settings.worker_lanes)]
        self._threads.append(threading.Thread(target=self._renew, name="renewal"))
        for thread in self._threads:
            thread.daemon = True  # a fetch that hangs must not keep the process

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        event("worker_started", worker=self.name, lanes=self.settings.worker_lanes, encoder=self.inference.encoder.id)

    def wake(self) -> None:
        """Look for work now."""
        self._doorbell.set()

    @property
    def is_alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Take nothing more, finish what is in hand or give it back, within ``seconds``."""
        self._stopping.set()
        self._doorbell.set()
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

    def check(self) -> None:
        if self._stopping.is_set():
            raise Abandoned("The worker stops")

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
                self._settle(claim)  # and nobody else claims meanwhile
                return
        self._settle(claim)

    def _next(self) -> Claim | None:
        """Wait for a check: until the doorbell rings, or for the next look at the list."""
        for wait in backoff(first=1.0):
            self._doorbell.clear()
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
            self._doorbell.wait(self.settings.poll_seconds)
            return None
        raise AssertionError("backoff never ends")

    def _notice(self, active: str | None) -> None:
        """Say it when another encoder becomes active: the calls that wait are its own, until ours is active again."""
        if active != self._active:
            self._active, ours = active, self.inference.encoder.id
            event("encoder_active" if active == ours else "encoder_not_active", encoder=ours, active=active)

    def _hold(self, claim: Claim) -> None:
        ATTEMPTS.labels("worker").inc()
        event("claimed", claim.call_log_id, lost_leases=claim.lost_leases)
        with self._changed:
            self._held[claim.check_id] = claim

    def _settle(self, claim: Claim) -> None:
        try:
            settle(claim, lambda: self._read(claim), self.inference, self.database, self, self.make)
        except RetrocareError as error:
            event("not_settled", claim.call_log_id, code=error.code)
        except Exception:  # noqa: BLE001  # it is recorded with the check; the lane goes on
            log.exception("lane_failed", extra={"fields": {"call_log_id": str(claim.call_log_id)}})
        finally:
            with self._changed:
                self._held.pop(claim.check_id, None)
                self._changed.notify_all()

    def _read(self, claim: Claim) -> bytes:
        self.check()
        return fetch(claim.recording_ref or "", self.settings)

    def _renew(self) -> None:
        """Keep the leases of what is in hand; a lease that is lost anyway is refused when the check is completed."""
        while not self._stopping.wait(self.settings.lease_seconds / RENEWALS_A_LEASE):
            for claim in list(self._held.values()):
                try:
                    if not self.database.renew_lease(claim, self.settings.lease_seconds):
                        event("lease_lost", claim.call_log_id)
                except RetrocareError as error:
                    event("not_renewed", claim.call_log_id, code=error.code)
