"""The rounds: what time makes due. pg_cron does the same on hosted Supabase; where both do, nothing is done twice.

Every round runs the jobs whose turn it is, each in a transaction of its own, and asks each edge function for which
work is due. A job that fails is the operator's (care.operator_issues), and keeps no other from being done.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx

from retrocare_voice.database import Database
from retrocare_voice.errors import RetrocareError
from retrocare_voice.events import event, log
from retrocare_voice.settings import Settings

FUNCTION_SECONDS = 90.0  # longer than an edge function works before it leaves the rest to the next call
STOP_SECONDS = 1.0
FAILED = -1  # what care.run_job returns where it could not even list what is due


class Rounds:
    """Make the rounds in a thread of their own until told to stop. What fails is tried again in the next round."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self._swept_at = float("-inf")
        self._calls: dict[str, threading.Thread] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="rounds", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stopping.set()
        for thread in (self._thread, *self._calls.values()):
            thread.join(STOP_SECONDS)

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                self.make_round()
                self._stopping.wait(self.settings.round_seconds)
        except Exception:  # noqa: BLE001  # the thread ends, and with it the process
            log.exception("rounds_ended")

    def make_round(self) -> None:
        """Do what is due now."""
        try:
            for job in self.database.due_jobs():
                self._run(job)
            due = self.database.due_work()
        except RetrocareError as error:
            event("round_failed", code=error.code)
            return
        is_sweep_due = time.monotonic() - self._swept_at >= self.settings.provider_sweep_seconds
        if due["deliveries"]:
            self._ask("notify-caregiver", {})
        if due["deletions"]:
            self._ask("delete-recordings", {})
        if is_sweep_due and self._ask("collect-recordings", {"sweep": True}):
            self._swept_at = time.monotonic()
        elif due["recordings"]:
            self._ask("collect-recordings", {})

    def _run(self, job: str) -> None:
        try:
            done = self.database.run_job(job)
        except RetrocareError as error:
            event("job_failed", job=job, code=error.code)
            return
        if done == FAILED:
            event("job_failed", job=job, code="listing_failed")
        elif done:
            event("job_done", job=job, count=done)

    def _ask(self, function: str, body: dict[str, Any]) -> bool:
        """Ask an edge function to work, beside the rounds: copying recordings must not keep a message waiting.

        Returns whether it is asked: not while it is still at work, nor without an address, where others ask it.
        """
        before = self._calls.get(function)
        if not self.settings.functions_url or (before and before.is_alive()):
            return False
        call = threading.Thread(target=self._call, args=(function, body), name=function, daemon=True)
        self._calls[function] = call
        call.start()
        return True

    def _call(self, function: str, body: dict[str, Any]) -> None:
        key = self.settings.functions_key
        try:
            answer = httpx.post(
                f"{(self.settings.functions_url or '').rstrip('/')}/{function}",
                json=body,
                headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else {},
                timeout=FUNCTION_SECONDS,
                trust_env=False,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            event("function_away", function=function, code=type(error).__name__)
            return
        if not answer.is_success:
            event("function_refused", function=function, status=answer.status_code)
