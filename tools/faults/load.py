"""Steady load at four fifths of what the service can do: nothing may grow."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import httpx
import psutil

from faults.crashes import Told
from fixtures.databases import Database
from fixtures.running import Running, running
from retrocare.cli.demo import RECORDINGS

SHARE = 0.8
WARM_SECONDS = 10.0
MOST_GROWN_MB = 100


def steady_load(database: Database, seconds: float) -> Told:
    """Measure the capacity, then send four fifths of it; compare the last third of the time with the first."""
    recording = (RECORDINGS / "04-usual-thursday.flac").read_bytes()
    with running(database) as app:
        capacity = measured_capacity(app, recording)
        files_before = temporary_files()
        rate = SHARE * capacity
        samples: list[tuple[float, int, int]] = []
        codes: Counter[int] = Counter()
        latencies: list[float] = []
        telling = threading.Lock()

        def call() -> None:
            begun = time.monotonic()
            answer = app.client.post("/embed", files={"file": recording})
            with telling:
                codes[answer.status_code] += 1
                latencies.append(time.monotonic() - begun)

        with ThreadPoolExecutor(16) as pool:
            begun = time.monotonic()
            sent = 0
            while (spent := time.monotonic() - begun) < seconds:
                if sent < rate * spent:
                    pool.submit(call)
                    sent += 1
                    continue
                if not samples or spent > samples[-1][0] + 1:
                    samples.append((spent, psutil.Process().memory_info().rss, connections(database)))
                time.sleep(0.005)
        third = max(1, len(samples) // 3)
        early, late = samples[:third], samples[-third:]
        grown = (median(rss for _, rss, _ in late) - median(rss for _, rss, _ in early)) / 1e6
        most = max(count for _, _, count in samples)
        files = temporary_files() - files_before
        latencies.sort()
        told: Told = {
            "capacity": f"{capacity:.1f} a second",
            "sent": f"{sent} in {seconds:.0f} s",
            "answers": dict(codes),
            "median": f"{1000 * latencies[len(latencies) // 2]:.0f} ms",
            "95 %": f"{1000 * latencies[int(0.95 * len(latencies))]:.0f} ms",
            "memory grew by": f"{grown:.0f} MB",
            "connections at most": most,
            "temporary files more": files,
        }
        assert grown < MOST_GROWN_MB, told
        assert most <= app.service.settings.database_connections, told
        assert codes[200] > 0, told
        assert set(codes) <= {200, 429}, told  # whoever shares the machine may take the capacity away meanwhile
        assert files == 0, told
        return told


def measured_capacity(app: Running, recording: bytes) -> float:
    """Return how many a second are answered when two callers never pause."""

    def keep_asking(_: int) -> int:
        done = 0
        with httpx.Client(base_url=app.client.base_url, timeout=60) as client:
            while time.monotonic() < end:
                done += client.post("/embed", files={"file": recording}).is_success
        return done

    end = time.monotonic() + WARM_SECONDS
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(keep_asking, range(2))) / WARM_SECONDS


def connections(database: Database) -> int:
    row = database.admin.execute(
        "select count(*) from pg_stat_activity where application_name = 'retrocare' and datname = current_database()"
    ).fetchone()
    return int(row[0]) if row else 0


def temporary_files() -> int:
    """Count what this process has open or left in the folder for temporary files."""
    folder = Path(tempfile.gettempdir())
    return sum(Path(file.path).parent == folder for file in psutil.Process().open_files())
