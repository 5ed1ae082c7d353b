"""What can be seen from outside: a log line for each step, and the metrics that Prometheus reads.

A line carries ``call_log_id``, milliseconds and codes: never a person, an address or a vector.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter, Histogram

Say = Callable[[str], object]  # is told, in a sentence, of what takes a while or was not asked for

log = logging.getLogger("retrocare")
registry = CollectorRegistry()

PHASES = Histogram(
    "retrocare_phase_seconds",
    "How long each phase of a check took.",
    ["phase"],
    buckets=(0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=registry,
)
OUTCOMES = Counter("retrocare_outcomes", "Checks by how they ended here.", ["state", "reason"], registry=registry)
ATTEMPTS = Counter("retrocare_attempts", "Checks that this process took into its hands.", ["path"], registry=registry)
FAILURES = Counter("retrocare_failures", "Attempts that failed, by code.", ["code"], registry=registry)
REFUSALS = Counter(
    "retrocare_fetch_refusals", "Recordings that the fetch guard refused.", ["refusal"], registry=registry
)
TURNED_AWAY = Counter("retrocare_turned_away", "Requests that were not admitted, by code.", ["code"], registry=registry)


def event(name: str, call_log_id: UUID | None = None, **fields: object) -> None:
    """Write one line; its fields are numbers, states and codes."""
    call = {"call_log_id": str(call_log_id)} if call_log_id else {}
    log.info(name, extra={"fields": call | fields})


def silently(line: str) -> None:
    """Ignore a line."""


class Phases:
    """Measure the phases of one check: for the log, for Prometheus, and for the caller's Server-Timing."""

    def __init__(self, call_log_id: UUID | None = None) -> None:
        self.call_log_id = call_log_id
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begun
            self.milliseconds[phase] = self.milliseconds.get(phase, 0) + 1000 * seconds
            PHASES.labels(phase).observe(seconds)
            event(phase, self.call_log_id, ms=round(1000 * seconds, 1))

    @property
    def server_timing(self) -> str:
        return ", ".join(f"{phase};dur={spent:.1f}" for phase, spent in self.milliseconds.items())


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0]:
            # The kind and the place, but not the message, which may quote a value.
            trace = record.exc_info[2]
            while trace and trace.tb_next:
                trace = trace.tb_next
            place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
            line |= {"error": record.exc_info[0].__name__, "place": place}
        return json.dumps(line, default=str)


def write_events() -> None:
    """Write the events of this process to standard error, a JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for logger, level in ((log, logging.INFO), (logging.getLogger("uvicorn"), logging.WARNING)):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
