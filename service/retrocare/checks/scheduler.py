"""The scheduler: runs what has become due, as pg_cron does on hosted Supabase; where both run, nothing is done twice.

Each time it runs the jobs that are due, each in a transaction of its own, and calls each edge function for which there
is work. A job that fails is listed in care.operator_issues, and keeps no other from being run.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx

from retrocare.database.client import JOB_FAILED, Database
from retrocare.errors import RetrocareError
from retrocare.observability import event, log
from retrocare.settings import Settings

FUNCTION_SECONDS = 90.0  # longer than an edge function works before it leaves the rest to the next run
STOP_SECONDS = 1.0


class Scheduler:
    """Run what is due, in a thread of its own, until told to stop. What fails is tried again the next time."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self._reconciled_at = float("-inf")
        self._calls: dict[str, threading.Thread] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)

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
                self.run_due()
                self._stopping.wait(self.settings.schedule_seconds)
        except Exception:  # noqa: BLE001  # the thread ends, and with it the process
            log.exception("scheduler_ended")

    def run_due(self) -> None:
        """Run the jobs that are due now, and call the edge functions for which there is work."""
        try:
            for job in self.database.due_jobs():
                self._run(job)
            due = self.database.due_work()
        except RetrocareError as error:
            event("schedule_failed", code=error.code)
            return
        is_reconciliation_due = time.monotonic() - self._reconciled_at >= self.settings.reconcile_seconds
        if due["deliveries"]:
            self._start_call("notify-caregiver", {})
        if due["deletions"]:
            self._start_call("delete-recordings", {})
        if is_reconciliation_due and self._start_call("collect-recordings", {"reconcile": True}):
            self._reconciled_at = time.monotonic()
        elif due["recordings"]:
            self._start_call("collect-recordings", {})

    def _run(self, job: str) -> None:
        try:
            done = self.database.run_job(job)
        except RetrocareError as error:
            event("job_failed", job=job, code=error.code)
            return
        if done == JOB_FAILED:
            event("job_failed", job=job, code="listing_failed")
        elif done:
            event("job_done", job=job, count=done)

    def _start_call(self, function: str, body: dict[str, Any]) -> bool:
        """Call an edge function in a thread of its own: copying recordings must not keep a message waiting.

        Return whether it was called: not while an earlier call is under way, nor without an address, where pg_net does.
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
