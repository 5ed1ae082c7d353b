"""``scripts/bench``, small: what it measures is there to be measured, and what it looks for it finds."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.views import Read, Size, bench_views, failures, shown
from databases import Database

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench"


def test_the_views_are_read_at_each_size_and_have_rows(database: Database) -> None:
    told: list[str] = []
    small, large = bench_views(database, patients=40, calls=(10, 30), runs=3, tell=told.append)
    assert (small.calls, large.calls) == (400, 1_200)
    rows = {read.name: read.rows for read in large.reads}
    assert (rows["caregiver_patients, all"], rows["caregiver_patients, one"]) == (20, 1)
    assert (rows["voice_timeline, newest 100"], rows["recent_anomaly_logs, newest 100"]) == (30, 100)
    assert rows["voice_alerts, newest 100"] <= 1 <= rows["voice_alerts, inbox"] <= 20
    assert told[-1].strip().startswith("1,200 calls measured")
    assert len(shown([small, large]).splitlines()) == 1 + len(large.reads)


def test_a_plan_that_reads_a_large_table_from_end_to_end_is_found(database: Database) -> None:
    database.owner.execute("drop index call_logs_by_patient, call_logs_heard, call_logs_unheard")
    sizes = bench_views(database, patients=400, calls=(30,), runs=2, tell=lambda _: None)
    assert "voice_timeline, newest 100: reads all of call_logs" in failures(sizes)


def test_what_is_slow_at_the_largest_size_is_named() -> None:
    sizes = [Size(1, [Read("view", 1.0, 90.0, 1, [])]), Size(2, [Read("view", 1.0, 49.0, 1, [])])]
    assert failures(sizes) == []
    assert failures(sizes[:1]) == ["view: p95 is 90 ms"]


def test_how_it_is_used_is_said() -> None:
    asked = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True)
    assert asked.stdout.startswith("Usage: scripts/bench views")
    assert subprocess.run([SCRIPT], capture_output=True, check=False).returncode == 2
