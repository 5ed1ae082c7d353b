"""Processes that are started, watched, killed and started again."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

TESTS = Path(__file__).resolve().parents[1]
NUMBERS = [sys.executable, "-m", "faults.numbers"]
REAL = [str(Path(sys.executable).with_name("retrocare")), "worker"]
PATIENCE_SECONDS = 300.0


def until(
    condition: Callable[[], object], what: str = "what was waited for", seconds: float = PATIENCE_SECONDS
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:.0f} s, still not so: {what}")
        time.sleep(0.05)


@dataclass
class Child:
    """One worker process and what it said."""

    command: list[str]
    environment: dict[str, str]
    log: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.log.seek(0)
        self.log.truncate()
        self.process = subprocess.Popen(
            self.command, env=self.environment, cwd=TESTS, stdout=subprocess.DEVNULL, stderr=self.log.fileno()
        )

    def said(self, event: str) -> bool:
        """Say whether this run told of an event."""
        end = self.log.seek(0, os.SEEK_END)
        return f'"event": "{event}"'.encode() in os.pread(self.log.fileno(), end, 0)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send(self, signal_number: int) -> None:
        if self.process and self.is_running:
            self.process.send_signal(signal_number)

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@contextmanager
def workers(count: int, command: list[str], database_url: str, **settings: object) -> Iterator[list[Child]]:
    """Start workers; whatever becomes of them, none is left at the end."""
    given = {f"RETROCARE_{name.upper()}": str(value) for name, value in settings.items()}
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent / "service")]),
        "DATABASE_URL": database_url,
        "RETROCARE_ENCODER": "ge2e",
        **given,
    }
    children = [Child(command, environment) for _ in range(count)]
    try:
        for child in children:
            child.start()
        yield children
    finally:
        for child in children:
            child.kill()
            child.log.close()
