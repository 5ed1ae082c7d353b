"""The scheduler: without pg_cron, what is due is run all the same, and edge functions are called."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from fixtures.databases import Database
from fixtures.processes import until
from fixtures.records import Records, at_cosine
from fixtures.running import settings_for
from retrocare.checks.scheduler import Scheduler
from retrocare.checks.service import opened_service, working
from retrocare.database.connection import connected
from retrocare.errors import Unavailable

PATIENCE_SECONDS = 30.0


@dataclass
class Functions:
    """An HTTP server where the edge functions would be; keeps what it was asked."""

    url: str = ""
    asked: list[tuple[str, Any, str | None]] = field(default_factory=list)
    status: int = 200
    held: threading.Event = field(default_factory=threading.Event)  # unset: whoever asks waits

    def names(self) -> list[str]:
        return [name for name, _, _ in self.asked]


@contextmanager
def functions() -> Iterator[Functions]:
    found = Functions()
    found.held.set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.asked.append((self.path.rpartition("/")[2], body, self.headers["Authorization"]))
            found.held.wait(PATIENCE_SECONDS)
            self.send_response(found.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}/functions/v1/"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        found.held.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def asked() -> Iterator[Functions]:
    with functions() as found:
        yield found


@contextmanager
def scheduler(database: Database, asked: Functions | None, **values: Any) -> Iterator[Scheduler]:
    given = {"functions_url": asked.url, "functions_key": SecretStr("the key")} if asked else {}
    settings = settings_for(database, **given | values)
    with connected(settings) as opened:
        made = Scheduler(settings, opened)
        try:
            yield made
        finally:
            for call in made._calls.values():
                call.join(PATIENCE_SECONDS)


def alarm(records: Records) -> UUID:
    """Open an emergency that a caregiver can be told of; return the patient."""
    patient_id = records.patient()
    records.caregiver(patient_id)
    records.judge(patient_id)
    records.judge(patient_id, at_cosine(0.5))
    return patient_id


def test_the_scheduler_asks_for_what_is_due_with_the_functions_key(records: Records, asked: Functions) -> None:
    patient_id = alarm(records)
    records.report("call-1", patient_id=patient_id)
    with scheduler(records.database, asked, reconcile_seconds=3600) as made:
        made.run_due()
        until(lambda: len(asked.asked) == 2)
    assert sorted(asked.asked, key=str) == [
        ("collect-recordings", {"reconcile": True}, "Bearer the key"),
        ("notify-caregiver", {}, "Bearer the key"),
    ]


def test_without_work_nothing_is_called_but_the_reconciliation(records: Records, asked: Functions) -> None:
    with scheduler(records.database, asked, reconcile_seconds=0.2) as made:
        for _ in range(3):
            made.run_due()
        until(lambda: asked.names() == ["collect-recordings"])
        time.sleep(0.3)
        made.run_due()
        until(lambda: asked.names() == ["collect-recordings"] * 2)


def test_a_recording_that_is_due_is_collected_between_two_reconciliations(records: Records, asked: Functions) -> None:
    with scheduler(records.database, asked, reconcile_seconds=3600) as made:
        made.run_due()
        until(lambda: not made._calls["collect-recordings"].is_alive())
        now = datetime.now(UTC)
        records.report("call-1", patient_id=records.patient(), started_at=now, ended_at=now, at=now)
        made.run_due()
        until(lambda: len(asked.asked) == 2)
    assert [body for _, body, _ in asked.asked] == [{"reconcile": True}, {}]


def test_a_slow_copy_keeps_no_message_waiting_and_is_not_asked_for_twice(records: Records, asked: Functions) -> None:
    asked.held.clear()
    with scheduler(records.database, asked, reconcile_seconds=0.001) as made:
        made.run_due()
        until(lambda: asked.names() == ["collect-recordings"])
        alarm(records)
        for _ in range(3):
            made.run_due()
        until(lambda: asked.names() == ["collect-recordings", "notify-caregiver"])
        asked.held.set()


def test_a_round_escalates_what_nobody_answered(records: Records) -> None:
    alarm(records)
    records.do("update public.caregiver_alerts set next_change_at = now()")
    with scheduler(records.database, None) as made:
        made.run_due()
    assert records.one("select state from public.caregiver_alerts") == "escalated"


@pytest.mark.parametrize("away", ["refuses", "is not there", "is no address"])
def test_a_function_that_is_away_is_asked_again(records: Records, asked: Functions, away: str) -> None:
    alarm(records)
    asked.status = 500
    url = {"is not there": "http://127.0.0.1:1", "is no address": "http://[oops"}.get(away, asked.url)
    with scheduler(records.database, asked, functions_url=url) as made:
        for _ in range(2):
            made.run_due()
            for call in made._calls.values():
                call.join(PATIENCE_SECONDS)
    assert asked.names().count("notify-caregiver") == (2 if away == "refuses" else 0)


def test_a_database_that_is_away_stops_no_scheduler(records: Records) -> None:
    with scheduler(records.database, None) as made:
        records.do("revoke execute on function care.due_jobs from retrocare_service")
        made.run_due()
        records.do("grant execute on function care.due_jobs to retrocare_service")
        made.run_due()


def test_the_service_runs_the_scheduler_and_is_not_ready_without_it(database: Database, asked: Functions) -> None:
    settings = settings_for(database, functions_url=asked.url, schedule_seconds=0.05)
    with opened_service(settings) as service:
        with working(service):
            until(lambda: "collect-recordings" in asked.names())
            service.check_ready()
            assert service.scheduler is not None
        assert not service.scheduler.is_alive
        service.worker = None
        with pytest.raises(Unavailable) as raised:
            service.check_ready()
        assert raised.value.code == "scheduler_ended"


def test_an_error_that_nobody_foresaw_ends_the_scheduler_and_is_seen(records: Records) -> None:
    class Broken:
        def due_jobs(self) -> list[str]:
            raise RuntimeError("unforeseen")

    made = Scheduler(settings_for(records.database), Broken())  # type: ignore[arg-type]
    made.start()
    until(lambda: not made.is_alive)
